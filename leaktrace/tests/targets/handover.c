// build: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread
/* A program with an allocator of its own that makes the two races of address reuse happen on every call: while
 * realloc or free is still under way, another thread is handed the old address and has already returned with it.
 * Argument: rounds. Commands: `realloc`, `realloc-fails`, `free`. */
#include "protocol.h"

static char arena[64 << 20] __attribute__((aligned(16)));
static _Atomic size_t arena_used;

static _Atomic(void *) handed;      /* what the thief's next malloc returns */
static _Atomic int thief_asked, thief_done;
static int make_realloc_fail, hand_over;

static void *bump(size_t size) {
    size_t start = atomic_fetch_add(&arena_used, (size + 31) / 16 * 16);
    return start + size > sizeof arena ? NULL : arena + start;
}

static void let_thief_take(void *address) {
    handed = address;
    thief_done = 0;
    thief_asked++;
    while (!thief_done) sched_yield();
}

NOINLINE void *malloc(size_t size) {
    void *p = atomic_exchange(&handed, NULL);
    return p ? p : bump(size);
}

NOINLINE void free(void *p) {
    if (p && hand_over) let_thief_take(p);
    __asm__ volatile("" ::: "memory");
}

NOINLINE void *calloc(size_t count, size_t size) {
    void *p = bump(count * size); /* never used twice: still zero */
    __asm__ volatile("" ::: "memory");
    return p;
}

NOINLINE void *realloc(void *p, size_t size) {
    if (make_realloc_fail) return NULL;
    void *fresh = bump(size);
    if (p && fresh && hand_over) let_thief_take(p);
    return fresh;
}

SITE(site_old);
static NOINLINE void *site_old(size_t size) {
    void *p = malloc(size);
    book(&at_site_old, size);
    return p;
}

SITE(site_thief);
static NOINLINE void site_thief(size_t size) {
    void *p = malloc(size);
    if (p) book(&at_site_thief, size);
}

SITE(site_moved);
static NOINLINE void site_moved(void *old, size_t old_size, size_t size) {
    if (!realloc(old, size)) return;
    unbook(&at_site_old, old_size);
    book(&at_site_moved, size);
}

static void *steal(void *unused) {
    for (int seen = 0;; thief_done = 1) {
        while (thief_asked == seen) sched_yield();
        seen = thief_asked;
        site_thief(300);
    }
    return unused;
}

static void run(const char *command, long rounds) {
    hand_over = 1;
    make_realloc_fail = is(command, "realloc-fails");
    for (long i = 0; i < rounds; i++) {
        void *p = site_old(100);
        if (is(command, "free")) {
            free(p);
            unbook(&at_site_old, 100);
        } else {
            site_moved(p, 100, 200);
        }
    }
    hand_over = make_realloc_fail = 0;
}

int main(int argc, char **argv) {
    pthread_t thief;
    if (pthread_create(&thief, NULL, steal, NULL) != 0) return 1;
    say("ready");
    for (;;) {
        run(await_command(), argument(argc, argv, 1, 200));
        say_expectation();
    }
}
