// build: g++ -O2 -g -fomit-frame-pointer -pthread
// build[static]: g++ -O2 -g -fomit-frame-pointer -pthread -static
/* As whole_stacks.c, for what only C++ has: operator new, exceptions on their way, destructors that they run, virtual
 * calls, templates, algorithms that call back, std::thread. Command: `go`. Nothing is static, so that every name has its
 * arguments, in whatever way it is found. */
#include "chain.h"
#include <algorithm>
#include <functional>
#include <stdexcept>
#include <thread>

/* In a function until the block ends, by an exception too. */
struct Entered {
    int depth = chain_depth;
    explicit Entered(const char *name) { ENTER_AS(name); }
    ~Entered() { chain_depth = depth; }
};

/* operator new lies in the library, and calls malloc from there. */
NOINLINE void site(size_t bytes) {
    Entered here("site(unsigned long)");
    Entered library("*");
    keep(operator new(bytes), bytes);
}

/* Runs while an exception goes through the function that owns it. */
struct Guard {
    size_t bytes;
    NOINLINE ~Guard() {
        Entered here("Guard::~Guard()");
        site(bytes);
    }
};

NOINLINE void throws(int levels) {
    Entered here("throws(int)");
    Guard guard{static_cast<size_t>(201 + levels)};
    if (levels == 0) throw std::runtime_error("on purpose");
    throws(levels - 1);
}

NOINLINE void catches() {
    Entered here("catches()");
    try {
        throws(4);
    } catch (const std::exception &) {
        site(211);
    }
}

template <int Levels> NOINLINE void descend(size_t bytes) {
    static const char *const names[] = {
        "void descend<0>(unsigned long)", "void descend<1>(unsigned long)", "void descend<2>(unsigned long)"};
    Entered here(names[Levels]);
    if constexpr (Levels == 0) site(bytes);
    else descend<Levels - 1>(bytes);
}

struct Shape {
    virtual ~Shape() = default;
    virtual void grow(size_t bytes) = 0;
};
struct Circle final : Shape {
    NOINLINE void grow(size_t bytes) override {
        Entered here("Circle::grow(unsigned long)");
        site(bytes);
    }
};

NOINLINE bool compare(int a, int b) {
    Entered here("compare(int, int)");
    site(231);
    return a < b;
}

/* The algorithm is a template: its code is the program's own, under names of its own. */
NOINLINE void sorts() {
    int values[] = {3, 1, 2};
    Entered here("sorts()");
    Entered algorithm("*");
    std::stable_sort(values, values + 3, compare);
}

NOINLINE void in_thread(size_t bytes) {
    Entered here("in_thread(unsigned long)");
    site(bytes);
}

NOINLINE void go(Shape &shape) {
    Entered here("go(Shape&)");
    site(200);
    catches();
    descend<2>(221);
    shape.grow(223);
    sorts();
}

int main() {
    Circle circle;
    say("ready");
    for (;;) {
        if (is(await_command(), "go")) {
            {
                Entered here("main");
                go(circle);
            }
            std::thread(in_thread, 241).join();
        }
        say_chains();
    }
}
