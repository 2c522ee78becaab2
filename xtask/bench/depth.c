// The program that is measured at different call depths. `links.c` is linked into it, once or many times.
//
//   depth DEPTH cached MILLISECONDS   always the same calls            -> pairs COUNT NANOSECONDS_PER_PAIR
//   depth DEPTH cold MILLISECONDS     every return address in turn     -> pairs COUNT NANOSECONDS_PER_PAIR
//
// DEPTH counts the functions between the thread's loop and the allocator. `cold` works in whole rounds of
// all distinct calls and stops after the round in which the time is over.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef void link(long further);

// Every fifth link of every copy, gathered by the linker.
extern link *const __start_starts[], *const __stop_starts[];
#define LINKS_PER_START 5
#define PAIRS_PER_CLOCK_READING 64

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

__attribute__((noipa)) void pair(long unused)
{
    char *volatile block = malloc(64);
    free(block);
    __asm__ volatile("" ::"r"(unused) : "memory");
}

struct order {
    long depth;
    int cold;
    uint64_t window, pairs, spent;
};

// `pair` is one of them, and the first link is called by us.
static void go(size_t start, long depth) { __start_starts[start](depth - 2); }

// Calls that begin one behind the other share return addresses. So those that share none come first, all of them, and
// then those that begin one further on: each address is used again only after all others.
static void all_starts(long depth)
{
    size_t count = (size_t)(__stop_starts - __start_starts), step = (size_t)depth / LINKS_PER_START;
    for (size_t phase = 0; phase < step; phase++)
        for (size_t start = phase; start < count; start += step)
            go(start, depth);
}

static void *work(void *argument)
{
    struct order *order = argument;
    size_t count = (size_t)(__stop_starts - __start_starts);
    uint64_t begin = now(), at;
    do {
        if (order->cold)
            all_starts(order->depth);
        else
            for (int i = 0; i < PAIRS_PER_CLOCK_READING; i++)
                go(0, order->depth);
        order->pairs += order->cold ? count : PAIRS_PER_CLOCK_READING;
        at = now();
    } while (at - begin < order->window);
    order->spent = at - begin;
    return NULL;
}

int main(void)
{
    char line[256], paths[16];
    long depth;
    unsigned long long milliseconds;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "depth %ld %15s %llu", &depth, paths, &milliseconds) == 3 && depth >= LINKS_PER_START) {
            struct order order = {
                .depth = depth, .cold = !strcmp(paths, "cold"), .window = milliseconds * 1000000u};
            pthread_t thread;
            if (pthread_create(&thread, NULL, work, &order))
                abort();
            pthread_join(thread, NULL);
            printf("pairs %llu %.1f\n", (unsigned long long)order.pairs, (double)order.spent / (double)order.pairs);
        } else {
            puts("error");
        }
        fflush(stdout);
    }
    return 0;
}
