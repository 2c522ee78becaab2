// build: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread
/* Threads whose first call of the allocator is a free: glibc sets the thread's cache up there, and may map a whole
 * arena for it. That memory is the allocator's own. Command `go`. */
#include "protocol.h"

enum { THREADS = 4 };
static void *blocks[THREADS];
static _Atomic int turn, finished;

SITE(site_first_free);
static NOINLINE void *site_first_free(size_t size) {
    void *p = malloc(size);
    book(&at_site_first_free, size);
    return p;
}

static void *work(void *argument) {
    while (!turn) pause_a_little();
    free(blocks[(long)argument]);
    unbook(&at_site_first_free, 100);
    finished++;
    for (;;) pause();
    return NULL;
}

int main(void) {
    for (long i = 0; i < THREADS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)i) != 0) return 1;
    }
    say("ready");
    for (;;) {
        if (is(await_command(), "go")) {
            for (int i = 0; i < THREADS; i++) blocks[i] = site_first_free(100);
            turn = 1;
            while (finished < THREADS) pause_a_little();
        }
        say_expectation();
    }
}
