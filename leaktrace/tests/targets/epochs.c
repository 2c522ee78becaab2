// build: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread
/* Eight threads that leave survivors behind in every stretch of time and free blocks that were born long before, by
 * whichever thread. Commands: `go` starts, `stop` stops and answers, `free` gives everything back. */
#include "protocol.h"

enum { THREADS = 8, SLOTS = 200000, MOST = 1 << 16 };

static struct slot {
    _Atomic int taken;
    struct block block;
} slots[SLOTS];
static _Atomic int running, resting;

SITE(site_epoch_small);
static NOINLINE void *site_epoch_small(size_t size) {
    void *p = malloc(size);
    book(&at_site_epoch_small, size);
    return p;
}

SITE(site_epoch_large);
static NOINLINE void *site_epoch_large(size_t size) {
    void *p = malloc(size);
    book(&at_site_epoch_large, size);
    return p;
}

static void empty(struct slot *slot) {
    free(slot->block.address);
    unbook(slot->block.site, slot->block.size);
    slot->block.address = NULL;
}

static void fill(struct slot *slot, uint32_t random) {
    size_t size = random % 64 == 0 ? 1000 + random % 999 : 16 + random % 100;
    if (size >= 1000) slot->block = (struct block){site_epoch_large(size), size, &at_site_epoch_large};
    else slot->block = (struct block){site_epoch_small(size), size, &at_site_epoch_small};
}

/* Most draws hit a few slots that turn over fast; the rest wander over all of them and find old blocks. */
static struct slot *draw(uint64_t *random) {
    uint32_t range = next_random(random) % 8 ? 1024 : SLOTS;
    return &slots[next_random(random) % range];
}

static void one_round(uint64_t *random) {
    struct slot *slot = draw(random);
    if (atomic_exchange(&slot->taken, 1)) return;
    if (slot->block.address) empty(slot);
    else fill(slot, next_random(random));
    atomic_store(&slot->taken, 0);
}

static void *work(void *argument) {
    uint64_t random = (uint64_t)(uintptr_t)argument * 99991;
    free(malloc(1)); /* the allocator sets a thread up at its first call: before tracing, please */
    for (;;) {
        resting++;
        while (!running) pause_a_little();
        resting--;
        for (int burst = 0; running; burst++) {
            for (int i = 0; i < 50; i++) one_round(&random);
            pause_a_little();
        }
    }
    return NULL;
}

int main(void) {
    for (long i = 0; i < THREADS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)(i + 1)) != 0) return 1;
    }
    while (resting < THREADS) pause_a_little();
    say("ready");
    for (;;) {
        const char *command = await_command();
        if (is(command, "go")) {
            running = 1;
            continue;
        }
        if (is(command, "stop")) {
            running = 0;
            while (resting < THREADS) pause_a_little();
        }
        if (is(command, "free"))
            for (int i = 0; i < SLOTS; i++)
                if (slots[i].block.address) empty(&slots[i]);
        say_expectation();
    }
}
