// build: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread
/* Threads that free blocks of every age: each keeps a pool of which a random block dies for every new one.
 * Arguments: blocks in a pool, threads. Commands: `go` starts, `stop` stops, frees all and answers, `few` makes a few
 * blocks from the same stack. */
#include "protocol.h"

enum { MOST_THREADS = 16, POOL = 1 << 16 };

static struct pool {
    void *blocks[POOL];
    long count;
    uint64_t random;
} pools[MOST_THREADS];
static long pool_size, thread_count;
static _Atomic int mode, resting, turn; /* mode: one of the following */
enum { REST, RUN, FEW };

SITE(site_steady);
static NOINLINE void *site_steady(size_t size) {
    void *p = malloc(size);
    book(&at_site_steady, size);
    return p;
}

static void free_one(struct pool *pool) {
    long victim = next_random(&pool->random) % pool->count;
    free(pool->blocks[victim]);
    unbook(&at_site_steady, 40);
    pool->blocks[victim] = pool->blocks[--pool->count];
}

static NOINLINE void add(struct pool *pool) {
    if (pool->count < POOL) pool->blocks[pool->count++] = site_steady(40);
}

/* One call of `add` in all modes, hence one stack. */
static NOINLINE void work_in_mode(struct pool *pool) {
    for (int added = 0; mode == RUN || (mode == FEW && added < 25); added++) {
        add(pool);
        if (mode == RUN && pool->count > pool_size) free_one(pool);
    }
}

static void *work(void *pool) {
    for (int seen = 0;;) {
        resting++;
        while (turn == seen) pause_a_little();
        seen = turn;
        work_in_mode(pool);
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
    pool_size = argument(argc, argv, 1, 4000);
    thread_count = argument(argc, argv, 2, 4);
    if (thread_count > MOST_THREADS || pool_size >= POOL) return 1;
    for (long i = 0; i < thread_count; i++) {
        pthread_t thread;
        pools[i].random = (uint64_t)i + 1;
        if (pthread_create(&thread, NULL, work, &pools[i]) != 0) return 1;
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
        for (long i = 0; is(command, "stop") && i < thread_count; i++)
            while (pools[i].count > 0) free_one(&pools[i]);
        say_expectation();
    }
}
