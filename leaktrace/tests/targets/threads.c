// build: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread
// build[one-arena]: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread -DONE_ARENA
// build[static]: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread -static
// build[musl]: musl-gcc -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread
// build[musl-static]: musl-gcc -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread -static
// build[own]: -O1 -g -fno-inline -fno-omit-frame-pointer -fno-builtin -pthread -DOWN_ALLOCATOR
/* Threads that hand blocks to each other through a table of slots: whoever draws a slot frees or reallocates what
 * another thread put there. ONE_ARENA: all of them in one malloc arena, every block above 1 KiB, mostly moving
 * reallocs. Arguments: rounds per thread, threads, 1 to stay on one CPU. Commands: `go` works and quiesces. */
#include "protocol.h"
#include <malloc.h>
#ifdef OWN_ALLOCATOR
#include "size_class.c"
#endif

enum { SLOTS = 512, MOST_THREADS = 64 };

static struct slot {
    _Atomic int taken;
    struct block block;
} slots[SLOTS];

static long rounds, thread_count;
static _Atomic int turn; /* how many times `go` was said */
static _Atomic int finished, prepared;

SITE(site_thread_malloc);
static NOINLINE void *site_thread_malloc(size_t size) {
    void *p = malloc(size);
    book(&at_site_thread_malloc, size);
    return p;
}

SITE(site_thread_calloc);
static NOINLINE void *site_thread_calloc(size_t size) {
    void *p = calloc(1, size);
    book(&at_site_thread_calloc, size);
    return p;
}

SITE(site_thread_realloc);
static NOINLINE void *site_thread_realloc(void *old, size_t size) {
    void *p = realloc(old, size);
    book(&at_site_thread_realloc, size);
    return p;
}

static size_t draw_size(uint64_t *random) {
#ifdef ONE_ARENA
    return 1025 + next_random(random) % 6000;
#else
    return 1 + next_random(random) % 900;
#endif
}

static void fill(struct slot *slot, uint64_t *random) {
    size_t size = draw_size(random);
    if (next_random(random) % 2) slot->block = (struct block){site_thread_malloc(size), size, &at_site_thread_malloc};
    else slot->block = (struct block){site_thread_calloc(size), size, &at_site_thread_calloc};
}

static void resize(struct slot *slot, uint64_t *random) {
    size_t size = draw_size(random);
    struct block old = slot->block;
    slot->block = (struct block){site_thread_realloc(old.address, size), size, &at_site_thread_realloc};
    unbook(old.site, old.size);
}

static void empty(struct slot *slot) {
    free(slot->block.address);
    unbook(slot->block.site, slot->block.size);
    slot->block.address = NULL;
}

static void one_round(uint64_t *random) {
    struct slot *slot = &slots[next_random(random) % SLOTS];
    while (atomic_exchange(&slot->taken, 1)) sched_yield();
    if (!slot->block.address) fill(slot, random);
    else if (next_random(random) % 4 == 0) empty(slot);
    else resize(slot, random);
    atomic_store(&slot->taken, 0);
}

static void *work(void *argument) {
    uint64_t random = (uint64_t)(uintptr_t)argument * 77777 + 1;
    free(malloc(1)); /* the allocator sets a thread up at its first call: before tracing, please */
    prepared++;
    for (int seen = 0;; finished++) {
        while (turn == seen) pause_a_little();
        seen = turn;
        for (long i = 0; i < rounds; i++) one_round(&random);
    }
    return NULL;
}

static void work_once(void) {
    finished = 0;
    turn++;
    while (finished < thread_count) pause_a_little();
}

int main(int argc, char **argv) {
#ifdef ONE_ARENA
    mallopt(M_ARENA_MAX, 1);
#endif
    rounds = argument(argc, argv, 1, 10000);
    thread_count = argument(argc, argv, 2, 8);
    if (argument(argc, argv, 3, 0)) pin_to_one_cpu();
    for (long i = 0; i < thread_count; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)(i + 1)) != 0) return 1;
    }
    while (prepared < thread_count) pause_a_little();
    say("ready");
    for (;;) {
        const char *command = await_command();
        if (is(command, "go")) work_once();
        if (is(command, "free"))
            for (int i = 0; i < SLOTS; i++)
                if (slots[i].block.address) empty(&slots[i]);
        say_expectation();
    }
}
