// build: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread
/* Calls of the allocator that never return: its own malloc leaves by siglongjmp, directly or from a signal handler,
 * as a program does that treats running out of memory as an error to jump out of. What is allocated afterwards, from
 * further out, at the same depth and from deeper, counts. Command `go`. */
#include "protocol.h"
#include <setjmp.h>

static sigjmp_buf way_out;

enum { LEAVE_BY_JUMP = 666, LEAVE_BY_SIGNAL = 667 };

#define BEFORE_ALLOCATING(size)                          \
    if (size == LEAVE_BY_JUMP) siglongjmp(way_out, 1);   \
    if (size == LEAVE_BY_SIGNAL) raise(SIGUSR1);
#include "bump_allocator.h"

static void leave(int signal) {
    (void)signal;
    siglongjmp(way_out, 2);
}

static NOINLINE void call_that_never_returns(size_t size) {
    abandoned_calls++;
    if (sigsetjmp(way_out, 1) == 0) {
        void *p = malloc(size);
        __asm__ volatile("" ::"r"(p) : "memory");
    }
}

/* Leaves malloc from `depth` frames further in. */
static NOINLINE void abandon_deep(int depth, size_t size) {
    if (depth > 0) abandon_deep(depth - 1, size);
    else call_that_never_returns(size);
    __asm__ volatile("" ::: "memory");
}

SITE(site_after);
static NOINLINE void site_after(size_t size) {
    void *p = malloc(size);
    if (p) book(&at_site_after, size);
}

SITE(site_after_deeper);
static long deep_blocks;
static NOINLINE void site_after_deeper(int depth, size_t size) {
    /* Each level lies well below the last and uses its frame. What is never written over still looks like a call in
     * flight: that is the limit of telling one from outside. */
    volatile char frame[256];
    for (unsigned i = 0; i < sizeof frame; i++) frame[i] = 0;
    if (depth > 0) {
        site_after_deeper(depth - 1, size);
        frame[0] = 1; /* no tail call */
        return;
    }
    void *p = malloc(size);
    if (p) book(&at_site_after_deeper, size);
    if (p && ++deep_blocks % 2) { /* a free must not be hidden either */
        free(p);
        unbook(&at_site_after_deeper, size);
    }
}

static void go(size_t way) {
    for (int i = 0; i < 100; i++) {
        abandon_deep(20, way); /* left from deep inside: what follows is called from further out */
        site_after(10);
        abandon_deep(0, way); /* left from shallow: what follows is called from deeper */
        site_after_deeper(10, 20);
        site_after(30);
    }
}

int main(void) {
    struct sigaction action = {.sa_handler = leave};
    sigaction(SIGUSR1, &action, NULL);
    say("ready");
    for (;;) {
        const char *command = await_command();
        if (is(command, "jump")) go(LEAVE_BY_JUMP);
        if (is(command, "signal")) go(LEAVE_BY_SIGNAL);
        say_expectation();
    }
}
