// build: -O1 -g -fno-omit-frame-pointer -fno-optimize-sibling-calls -fno-builtin -pthread
//
// The program that is measured. It does what its standard input says, one line at a time, and answers each with one
// line, so that the same process can be measured untraced, traced, and untraced again:
//
//   pairs THREADS SIZE MILLISECONDS   allocate and free in a loop    -> pairs COUNT NANOSECONDS_PER_PAIR
//   live BLOCKS SIZE                  own that many live blocks      -> live BLOCKS
//   clock start                       a thread reads the clock       -> clock started
//   clock stop                                                       -> clock LONGEST_GAP_NANOSECONDS
//   quit
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NOINLINE __attribute__((noinline))
#define MOST_THREADS 64
#define PAIRS_PER_CLOCK_READING 64

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

// Five calls deep, as a walker has to follow somebody's real stack.
static NOINLINE void level5(size_t size)
{
    char *volatile block = malloc(size);
    free(block);
}
static NOINLINE void level4(size_t size) { level5(size); __asm__ volatile(""); }
static NOINLINE void level3(size_t size) { level4(size); __asm__ volatile(""); }
static NOINLINE void level2(size_t size) { level3(size); __asm__ volatile(""); }
static NOINLINE void level1(size_t size) { level2(size); __asm__ volatile(""); }

struct worker {
    pthread_t thread;
    size_t size;
    uint64_t window, pairs, spent;
};

static void *work(void *argument)
{
    struct worker *worker = argument;
    uint64_t begin = now(), end = begin + worker->window, at;
    do {
        for (int i = 0; i < PAIRS_PER_CLOCK_READING; i++)
            level1(worker->size);
        worker->pairs += PAIRS_PER_CLOCK_READING;
        at = now();
    } while (at < end);
    worker->spent = at - begin;
    return NULL;
}

// Every thread counts its own time: the mean over the threads is what one pair costs its caller.
static void pairs(int threads, size_t size, uint64_t milliseconds)
{
    struct worker workers[MOST_THREADS];
    uint64_t count = 0, spent = 0;
    if (threads < 1 || threads > MOST_THREADS)
        threads = 1;
    memset(workers, 0, sizeof workers);
    for (int i = 0; i < threads; i++) {
        workers[i].size = size;
        workers[i].window = milliseconds * 1000000u;
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
            abort();
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        count += workers[i].pairs;
        spent += workers[i].spent;
    }
    printf("pairs %llu %.1f\n", (unsigned long long)count, (double)spent / (double)count);
}

static void **owned;
static size_t owned_count;

static NOINLINE void *keep(size_t size) { return malloc(size); }

static void live(size_t blocks, size_t size)
{
    while (owned_count > blocks)
        free(owned[--owned_count]);
    void **grown = blocks ? realloc(owned, blocks * sizeof *owned) : owned;
    if (!grown && blocks)
        abort();
    owned = grown;
    while (owned_count < blocks)
        owned[owned_count++] = keep(size);
    printf("live %zu\n", owned_count);
}

static atomic_int clock_runs;
static pthread_t clock_thread;
static uint64_t longest_gap;

static void *read_clock(void *unused)
{
    uint64_t last = now();
    longest_gap = 0;
    while (atomic_load_explicit(&clock_runs, memory_order_relaxed)) {
        uint64_t at = now();
        if (at - last > longest_gap)
            longest_gap = at - last;
        last = at;
    }
    return unused;
}

static void clock_command(const char *what)
{
    int start = !strcmp(what, "start");
    if (start == atomic_load(&clock_runs)) {
        puts("error");
    } else if (start) {
        atomic_store(&clock_runs, 1);
        if (pthread_create(&clock_thread, NULL, read_clock, NULL))
            abort();
        puts("clock started");
    } else {
        atomic_store(&clock_runs, 0);
        pthread_join(clock_thread, NULL);
        printf("clock %llu\n", (unsigned long long)longest_gap);
    }
}

int main(void)
{
    char line[256], word[16];
    int threads;
    size_t number, size;
    unsigned long long milliseconds;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "pairs %d %zu %llu", &threads, &size, &milliseconds) == 3)
            pairs(threads, size, milliseconds);
        else if (sscanf(line, "live %zu %zu", &number, &size) == 2)
            live(number, size);
        else if (sscanf(line, "clock %15s", word) == 1)
            clock_command(word);
        else if (!strcmp(line, "quit\n"))
            break;
        else
            puts("error");
        fflush(stdout);
    }
    return 0;
}
