// build: -O2 -g -pthread
/* Threads that allocate where they begin, where they end, and while they are made. */
#include "../protocol.h"
#include <stdio.h>
#include <threads.h>

static pthread_key_t key;
static volatile long sink;

static NOINLINE void allocate(int depth) {
    if (depth > 0) {
        allocate(depth - 1);
        sink++;
        return;
    }
    void *p = malloc(77);
    __asm__ volatile("" ::"r"(p) : "memory");
    free(p);
}

static void at_end(void *value) {
    allocate(2);
    free(value);
}

static void clean(void *value) { allocate((int)(uintptr_t)value); }

static _Thread_local uint64_t random_state;

static void initialise(void) { allocate(1); }

static void once(void) {
    pthread_once_t control = PTHREAD_ONCE_INIT;
    pthread_once(&control, initialise);
}

static void *work(void *seed) {
    random_state = (uintptr_t)seed;
    free(malloc(10));
    pthread_setspecific(key, malloc(20));
    for (int i = 0; i < 20; i++) allocate((int)(next_random(&random_state) % 5));
    once();
    pthread_cleanup_push(clean, (void *)2);
    if (next_random(&random_state) % 2) pthread_exit(NULL);
    pthread_cleanup_pop(1);
    return NULL;
}

static int work_of_c11(void *seed) { return work(seed) != NULL; }

int main(void) {
    uint64_t random = 11;
    pthread_key_create(&key, at_end);
    say("ready");
    for (;;) {
        void *seed = (void *)(uintptr_t)next_random(&random);
        pthread_t thread;
        thrd_t other;
        if (pthread_create(&thread, NULL, work, seed) != 0) return 1;
        pthread_join(thread, NULL);
        if (thrd_create(&other, work_of_c11, seed) != thrd_success) return 1;
        thrd_join(other, NULL);
    }
}
