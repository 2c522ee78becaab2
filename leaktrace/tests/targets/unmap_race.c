// build: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread
/* Threads that map and unmap ranges of one size, so that each unmapping's hole is at once filled by another thread's
 * mapping. Some mappings stay for good: what went wrong with them is not healed by a later unmapping. Arguments: rounds,
 * threads. Command `go`. */
#include "protocol.h"

enum { LENGTH = 16 * 4096, HELD = 4, KEEP_EVERY = 16 };
static long rounds, thread_count;
static _Atomic int turn, finished;

SITE(site_race_map);
static NOINLINE void *site_race_map(void) {
    void *p = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    book(&at_site_race_map, LENGTH);
    return p;
}

static void *work(void *argument) {
    void *held[HELD] = {0};
    uint64_t random = (uint64_t)(uintptr_t)argument;
    while (!turn) pause_a_little();
    for (long i = 0; i < rounds; i++) {
        void **slot = &held[next_random(&random) % HELD];
        if (*slot) {
            munmap(*slot, LENGTH);
            unbook(&at_site_race_map, LENGTH);
        }
        *slot = site_race_map();
        if (i % KEEP_EVERY == 0) *slot = NULL;
    }
    finished++;
    for (;;) pause();
    return NULL;
}

int main(int argc, char **argv) {
    rounds = argument(argc, argv, 1, 5000);
    thread_count = argument(argc, argv, 2, 4);
    for (long i = 0; i < thread_count; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)(i + 1)) != 0) return 1;
    }
    say("ready");
    for (;;) {
        if (is(await_command(), "go")) {
            turn = 1;
            while (finished < thread_count) pause_a_little();
        }
        say_expectation();
    }
}
