// build: -O2 -g
/* Recursion, some of it deeper than any stack that is kept. */
#include "../protocol.h"

static uint64_t random_state = 3;
static volatile long sink;

static NOINLINE long odd(int depth);

static NOINLINE long even(int depth) {
    if (depth <= 0) {
        void *p = malloc(64);
        __asm__ volatile("" ::"r"(p) : "memory");
        free(p);
        return 1;
    }
    return odd(depth - 1) * 3 + sink;
}

static NOINLINE long odd(int depth) {
    volatile char room[24];
    room[depth % 24] = 1;
    if (depth <= 0) return even(0) + room[0];
    return even(depth - 1) + room[3];
}

int main(void) {
    say("ready");
    for (;;) sink += even((int)(next_random(&random_state) % 250));
}
