// build: -O2 -g -fno-omit-frame-pointer -fno-builtin -pthread
/* Two threads that free the same block at the same moment. The program's own free takes no harm; whoever accounts for
 * blocks must take each away once. Argument: rounds. Command `go`. */
#include "bump_allocator.h"

SITE(site_contended);
static NOINLINE void *site_contended(size_t size) {
    void *p = malloc(size);
    book(&at_site_contended, size);
    return p;
}

static _Atomic(void *) shared;
static _Atomic long meeting, left;

/* Spins, so that both come out at the same moment, but not for long: the other may have no CPU. */
static void await_both(_Atomic long *arrived, long round) {
    ++*arrived;
    for (int turns = 0; *arrived < 2 * round; turns++) {
        if (turns % 1000 == 999) sched_yield();
        __builtin_ia32_pause();
    }
}

static void meet_and_free(long round) {
    await_both(&meeting, round);
    free(shared);
    await_both(&left, round);
}

static long rounds;
static _Atomic int started;

/* Each has a CPU to itself where there are two: on one they would take turns, and never meet. */
static void take_cpu(int number) {
    cpu_set_t allowed, own;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    CPU_ZERO(&own);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && number-- == 0) CPU_SET(cpu, &own);
    sched_setaffinity(0, sizeof own, &own);
}

static void *other(void *unused) {
    take_cpu(1);
    while (!started) pause_a_little();
    for (long round = 1; round <= rounds; round++) meet_and_free(round);
    return unused;
}

static void go(void) {
    take_cpu(0);
    started = 1;
    void *next = site_contended(64);
    for (long round = 1; round <= rounds; round++) {
        shared = next;
        next = site_contended(64);
        meet_and_free(round);
        unbook(&at_site_contended, 64);
        unmatched_frees++;
    }
}

int main(int argc, char **argv) {
    rounds = argument(argc, argv, 1, 20000);
    pthread_t thread;
    if (pthread_create(&thread, NULL, other, NULL) != 0) return 1;
    say("ready");
    for (;;) {
        if (is(await_command(), "go")) go();
        say_expectation();
    }
}
