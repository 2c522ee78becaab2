// build: g++ -O2 -g -pthread
// build[O3]: g++ -O3 -g -std=c++20 -pthread -fomit-frame-pointer
/* C++ as it is written: templates, virtual functions, closures, containers, streams; exceptions that allocate on their way,
 * destructors that allocate while the stack is being unwound. */
#include <algorithm>
#include <any>
#if __cpp_impl_coroutine
#include <coroutine>
#endif
#include <cstdio>
#include <functional>
#include <future>
#include <iostream>
#include <list>
#include <map>
#include <memory>
#include <random>
#include <regex>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>

#define NOINLINE __attribute__((noinline))

namespace {

std::mt19937 generator(17);
volatile long sink;

unsigned draw(unsigned below) { return static_cast<unsigned>(generator() % below); }

std::string words(unsigned count) {
    std::string text;
    for (unsigned i = 0; i < count; i++) text += "word " + std::to_string(i);
    return text;
}

/* Allocates when it goes, be it by return or by exception. */
struct Guard {
    unsigned size;
    NOINLINE ~Guard() { sink = sink + static_cast<long>(words(size).size()); }
};

struct Shape {
    virtual ~Shape() = default;
    virtual std::string name(unsigned depth) const = 0;
};

struct Thrown : std::runtime_error {
    std::vector<int> load;
    explicit Thrown(const std::string &text) : std::runtime_error(text), load(draw(100) + 1) {}
};

long wander(unsigned depth);

template <typename T, unsigned N> struct Tower : Shape {
    T value{};
    NOINLINE std::string name(unsigned depth) const override {
        if constexpr (N > 0) return Tower<T, N - 1>().name(depth) + "/";
        else return std::to_string(wander(depth));
    }
};

NOINLINE long throws(unsigned depth, unsigned size) {
    Guard guard{size};
    if (depth == 0) throw Thrown(words(size));
    return throws(depth - 1, size) + 1;
}

NOINLINE long catches(unsigned depth) {
    try {
        return throws(draw(6), draw(10) + 1);
    } catch (const Thrown &thrown) {
        sink = sink + static_cast<long>(words(static_cast<unsigned>(thrown.load.size() % 7)).size());
        return wander(depth);
    }
}

NOINLINE long rethrows(unsigned depth) {
    try {
        try {
            throws(draw(3), 5);
        } catch (std::exception &) {
            std::throw_with_nested(std::logic_error(words(4)));
        }
    } catch (const std::exception &outer) {
        sink = sink + outer.what()[0];
    }
    return wander(depth);
}

NOINLINE long closures(unsigned depth) {
    std::function<long(unsigned)> first = [text = words(3)](unsigned d) { return wander(d) + static_cast<long>(text.size()); };
    std::function<long(unsigned)> second = std::bind(first, std::placeholders::_1);
    return second(depth);
}

NOINLINE long containers(unsigned depth) {
    std::map<std::string, std::vector<int>> sorted;
    std::unordered_map<int, std::string> hashed;
    std::set<std::string> names;
    std::list<std::unique_ptr<std::string>> list;
    for (unsigned i = 0; i < 10; i++) {
        sorted[words(draw(3))].push_back(static_cast<int>(i));
        hashed[static_cast<int>(draw(50))] = words(2);
        names.insert(words(draw(4)));
        list.push_back(std::make_unique<std::string>(words(1)));
    }
    return wander(depth) + static_cast<long>(sorted.size() + hashed.size());
}

NOINLINE long sorting(unsigned depth) {
    std::vector<std::string> lines;
    for (unsigned i = 0; i < 20; i++) lines.push_back(words(draw(5)));
    std::sort(lines.begin(), lines.end(), [](const std::string &a, const std::string &b) { return a + "x" < b + "x"; });
    std::stable_sort(lines.begin(), lines.end());
    return wander(depth);
}

NOINLINE long streams(unsigned depth) {
    std::ostringstream out;
    out << "value " << 3.5 << ' ' << std::hex << depth << words(3);
    std::istringstream in(out.str());
    std::string word;
    while (in >> word) sink = sink + static_cast<long>(word.size());
    return wander(depth);
}

NOINLINE long expressions(unsigned depth) {
    std::regex pattern("(a|b)*c[0-9]+(word)?");
    return wander(depth) + std::regex_search("ababac12word" + words(2), pattern);
}

NOINLINE long variants(unsigned depth) {
    std::variant<int, std::string, std::vector<int>> variant = words(2);
    if (draw(2)) variant = std::vector<int>(draw(40) + 1);
    std::any any = words(3);
    return std::visit([&](auto &held) { return wander(depth) + static_cast<long>(sizeof held); }, variant);
}

NOINLINE long threads(unsigned depth) {
    if (draw(8)) return wander(depth);
    auto answer = std::async(std::launch::async, [] { return words(6).size(); });
    return wander(depth) + static_cast<long>(answer.get());
}

#if __cpp_impl_coroutine
/* A coroutine that allocates between its suspensions; its frame lies in the heap. */
struct Numbers {
    struct promise_type {
        long value = 0;
        Numbers get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
        std::suspend_always initial_suspend() { return {}; }
        std::suspend_always final_suspend() noexcept { return {}; }
        std::suspend_always yield_value(long next) {
            value = next;
            return {};
        }
        void return_void() {}
        void unhandled_exception() { throw; }
    };
    std::coroutine_handle<promise_type> handle;
    ~Numbers() { handle.destroy(); }
};

Numbers numbers(unsigned depth) {
    std::string text = words(3);
    for (unsigned i = 0; i < 3; i++) co_yield static_cast<long>(text.size()) + (i == 1 ? wander(depth) : 0);
}

NOINLINE long coroutines(unsigned depth) {
    Numbers made = numbers(depth);
    long sum = 0;
    for (made.handle.resume(); !made.handle.done(); made.handle.resume()) sum += made.handle.promise().value;
    return sum;
}
#else
NOINLINE long coroutines(unsigned depth) { return wander(depth); }
#endif

NOINLINE long shapes(unsigned depth) {
    std::unique_ptr<Shape> shape;
    if (draw(2)) shape = std::make_unique<Tower<int, 4>>();
    else shape = std::make_unique<Tower<std::string, 7>>();
    return static_cast<long>(shape->name(depth).size());
}

NOINLINE long wander(unsigned depth) {
    if (depth == 0) return static_cast<long>(words(draw(6)).size());
    depth--;
    switch (draw(11)) {
    case 10: return coroutines(depth) + 1;
    case 0: return catches(depth) + 1;
    case 1: return rethrows(depth) + 1;
    case 2: return closures(depth) + 1;
    case 3: return containers(depth) + 1;
    case 4: return sorting(depth) + 1;
    case 5: return streams(depth) + 1;
    case 6: return expressions(depth) + 1;
    case 7: return variants(depth) + 1;
    case 8: return threads(depth) + 1;
    default: return shapes(depth) + 1;
    }
}

} // namespace

int main() {
    std::puts("ready");
    std::fflush(stdout);
    for (;;) sink = sink + wander(draw(10));
}
