// build: -O1 -g -fno-omit-frame-pointer -fno-builtin
/* Allocates from as many distinct stacks as are asked for: at each level of a recursion one of two functions calls
 * on, as the bits of a number say. Arguments: stacks, levels. Command `go` allocates one block from each stack. */
#include "protocol.h"

SITE(site_leaf);
static NOINLINE void site_leaf(size_t size) {
    void *p = malloc(size);
    if (p) book(&at_site_leaf, size);
}

static NOINLINE void descend_right(unsigned long path, int levels);

static NOINLINE void descend(unsigned long path, int levels) {
    if (levels == 0) site_leaf(24);
    else if (path & 1) descend_right(path >> 1, levels - 1);
    else descend(path >> 1, levels - 1);
    __asm__ volatile("" ::: "memory");
}

static NOINLINE void descend_right(unsigned long path, int levels) {
    if (levels == 0) site_leaf(40);
    else if (path & 1) descend_right(path >> 1, levels - 1);
    else descend(path >> 1, levels - 1);
    __asm__ volatile("" ::: "memory");
}

int main(int argc, char **argv) {
    long stacks = argument(argc, argv, 1, 1000);
    int levels = (int)argument(argc, argv, 2, 60);
    say("ready");
    for (;;) {
        if (is(await_command(), "go"))
            for (long i = 0; i < stacks; i++) descend((unsigned long)i, levels);
        say_expectation();
    }
}
