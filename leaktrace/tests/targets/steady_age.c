// build: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread
/* Threads that free every block at the same age, in order. Arguments: that age in milliseconds, threads. Commands: `go`
 * starts, `stop` stops, frees all and answers, `few` makes a few blocks from the same stack. */
#include "protocol.h"
#include <time.h>

enum { MOST_THREADS = 16, RING = 1 << 16 };

struct entry {
    void *address;
    long born_us;
};
static struct ring {
    struct entry entries[RING];
    unsigned long first, next;
} rings[MOST_THREADS];
static long age_us, thread_count;
static _Atomic int mode, resting, turn; /* mode: one of the following */
enum { REST, RUN, FEW };

SITE(site_steady);
static NOINLINE void *site_steady(size_t size) {
    void *p = malloc(size);
    book(&at_site_steady, size);
    return p;
}

static long now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void free_older_than(struct ring *ring, long born_us) {
    while (ring->first != ring->next && ring->entries[ring->first % RING].born_us <= born_us) {
        free(ring->entries[ring->first++ % RING].address);
        unbook(&at_site_steady, 40);
    }
}

static NOINLINE void add(struct ring *ring) {
    if (ring->next - ring->first == RING) return;
    ring->entries[ring->next++ % RING] = (struct entry){site_steady(40), now_us()};
}

/* One call of `add` in all modes, hence one stack. */
static NOINLINE void work_in_mode(struct ring *ring) {
    for (int added = 0; mode == RUN || (mode == FEW && added < 25); added++) {
        add(ring);
        if (mode == RUN) free_older_than(ring, now_us() - age_us);
    }
}

static void *work(void *ring) {
    for (int seen = 0;;) {
        resting++;
        while (turn == seen) pause_a_little();
        seen = turn;
        work_in_mode(ring);
    }
    return NULL;
}

static void await_rest(void) {
    while (resting < thread_count) pause_a_little();
}

static void start(int new_mode) {
    mode = new_mode;
    resting = 0;
    turn++;
}

int main(int argc, char **argv) {
    age_us = argument(argc, argv, 1, 450) * 1000;
    thread_count = argument(argc, argv, 2, 4);
    if (thread_count > MOST_THREADS) return 1;
    for (long i = 0; i < thread_count; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, &rings[i]) != 0) return 1;
    }
    await_rest();
    say("ready");
    for (;;) {
        const char *command = await_command();
        if (is(command, "go")) {
            start(RUN);
            continue;
        }
        if (is(command, "few")) start(FEW);
        else mode = REST;
        await_rest();
        for (long i = 0; is(command, "stop") && i < thread_count; i++) free_older_than(&rings[i], now_us());
        say_expectation();
    }
}
