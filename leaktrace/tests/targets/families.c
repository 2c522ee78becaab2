// build: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread
// build[own]: -O1 -g -fno-inline -fno-omit-frame-pointer -fno-builtin -pthread -DOWN_ALLOCATOR
/* A process that makes others in every way, while threads of its own allocate and free without a pause. Argument: how
 * many threads. Commands: `go` sets them to work, `more` waits for some
 * thousands of rounds of theirs, `stop` quiesces; `crowd` forks idle children; `vfork` has a child
 * allocate in our memory; `spawn` runs programs; `worker` forks a child that allocates at once and answers itself. */
#include "protocol.h"
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#ifdef OWN_ALLOCATOR
#include "size_class.c"
#endif

enum { CHILDREN = 20, BLOCKS = 40, KEPT = 16, MORE = 20000 };

static _Atomic int running, working;
static _Atomic long rounds;
static long thread_count;
extern char **environ;

SITE(site_busy);
static NOINLINE void *site_busy(size_t size) {
    void *p = malloc(size);
    book(&at_site_busy, size);
    return p;
}

SITE(site_busy_realloc);
static NOINLINE void *site_busy_realloc(void *old, size_t size) {
    void *p = realloc(old, size);
    book(&at_site_busy_realloc, size);
    return p;
}

SITE(site_vforked);
static NOINLINE void *site_vforked(size_t size) {
    void *p = malloc(size);
    book(&at_site_vforked, size);
    return p;
}

SITE(site_worker);
static NOINLINE void *site_worker(size_t size) {
    void *p = malloc(size);
    book(&at_site_worker, size);
    return p;
}

static void give_back(struct block *block) {
    free(block->address);
    unbook(block->site, block->size);
    block->address = NULL;
}

/* Each thread has blocks of its own, so that nothing but the allocator keeps one waiting for another. */
static void one_round(struct block *kept, uint64_t *random) {
    struct block *block = &kept[next_random(random) % KEPT];
    size_t size = 1 + next_random(random) % 300;
    if (!block->address) {
        *block = (struct block){site_busy(size), size, &at_site_busy};
    } else if (next_random(random) % 3 == 0) {
        struct block old = *block;
        *block = (struct block){site_busy_realloc(old.address, size), size, &at_site_busy_realloc};
        unbook(old.site, old.size);
    } else {
        give_back(block);
    }
}

static void *work(void *argument) {
    uint64_t random = (uint64_t)(uintptr_t)argument * 99991;
    struct block kept[KEPT] = {{NULL, 0, NULL}};
    free(malloc(1)); /* the allocator sets a thread up at its first call: before tracing, please */
    working++;
    for (;;) {
        working--;
        while (!running) pause_a_little();
        working++;
        while (running) {
            one_round(kept, &random);
            rounds++;
        }
    }
    return NULL;
}

static void idle_child(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) pause();
}

/* One after the other, each of which goes on to be traced. */
static void crowd(void) {
    for (int i = 0; i < CHILDREN; i++)
        if (fork() == 0) idle_child();
}

static void vfork_once(void) {
    static struct block blocks[BLOCKS];
    pid_t child = vfork();
    if (child == 0) {
        for (int i = 0; i < BLOCKS; i++) blocks[i] = (struct block){site_vforked(100 + (size_t)i), 100 + (size_t)i, &at_site_vforked};
        _exit(0);
    }
    waitpid(child, NULL, 0);
    for (int i = 0; i < BLOCKS / 2; i++) give_back(&blocks[i]);
}

static void spawn(void) {
    char *words[] = {"true", NULL};
    for (int i = 0; i < 5; i++) {
        pid_t child;
        if (posix_spawnp(&child, "true", NULL, NULL, words, environ) != 0) _exit(121);
        waitpid(child, NULL, 0);
    }
}

static void worker(void) {
    if (fork() != 0) return;
    void *first = site_worker(4711);
    for (int i = 1; i < BLOCKS; i++) site_worker(200);
    free(first);
    unbook(&at_site_worker, 4711);
    say_number("worker", getpid());
    say_expectation();
    idle_child();
}

int main(int argc, char **argv) {
    thread_count = argument(argc, argv, 1, 0);
    for (long i = 0; i < thread_count; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)(i + 1)) != 0) return 1;
    }
    free(malloc(1));
    say_address("malloc", (void *)malloc);
    say_address("free", (void *)free);
    say("ready");
    for (;;) {
        const char *command = await_command();
        if (is(command, "go")) {
            running = 1;
            continue;
        }
        if (is(command, "crowd")) {
            crowd();
            continue;
        }
        if (is(command, "worker")) {
            worker();
            continue;
        }
        if (is(command, "more"))
            for (long until = rounds + MORE; rounds < until;) pause_a_little();
        if (is(command, "vfork")) vfork_once();
        if (is(command, "spawn")) spawn();
        if (is(command, "stop")) {
            running = 0;
            while (working > 0) pause_a_little();
        }
        say_expectation();
    }
}
