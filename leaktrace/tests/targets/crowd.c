// build: -O1 -g -fno-omit-frame-pointer -fno-builtin
/* Makes processes, many of them. Argument: how many. `idle`: children that keep a block each and sleep; with a second argument each
 * is the first of a PID namespace. `each`: every one of them allocates once. `map`: every one makes mappings. `storm`: children that
 * keep a few blocks and exit at once, at most 2,000 a second. `end`: ends the idle ones. */
#include "protocol.h"
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

enum { MAX_IDLE = 4096, PER_TICK = 20, BLOCKS = 4, KEPT_BYTES = 1000, MAPPINGS = 100, MAPPED_BYTES = 8192 };
static const long tick_ns = 10 * 1000 * 1000;

static pid_t idle[MAX_IDLE];
static int idle_count;

SITE(keep_block);
static NOINLINE void *keep_block(size_t size) { return malloc(size); }

/* What children have done, counted where all see it. */
static _Atomic long *done;
static int own_namespaces;

/* Different protections, or the kernel would join them. */
static NOINLINE void make_mappings(void) {
    for (int i = 0; i < MAPPINGS; i++)
        mmap(NULL, MAPPED_BYTES, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* Waits for signals instead of having them handled: the first process of a PID namespace is not sent what it does not ask for. */
static void obey(void) {
    sigset_t orders;
    sigemptyset(&orders);
    sigaddset(&orders, SIGUSR1);
    sigaddset(&orders, SIGUSR2);
    for (;;) {
        int order = sigwaitinfo(&orders, NULL);
        if (order == SIGUSR1) keep_block(KEPT_BYTES);
        if (order == SIGUSR2) make_mappings();
        if (order > 0) ++*done;
    }
}

static pid_t make_child(void) {
    if (!own_namespaces) return fork();
    return (pid_t)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
}

static long start_idle(long count) {
    for (long i = 0; i < count && idle_count < MAX_IDLE; i++) {
        pid_t pid = make_child();
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            keep_block(KEPT_BYTES);
            obey();
        }
        if (pid < 0) break;
        idle[idle_count++] = pid;
    }
    return idle_count;
}

/* Has every child do something; returns when all have. */
static long order(int signal) {
    *done = 0;
    for (int i = 0; i < idle_count; i++) kill(idle[i], signal);
    while (*done < idle_count) pause_a_little();
    return *done;
}

static void end_idle(void) {
    for (int i = 0; i < idle_count; i++) kill(idle[i], SIGKILL);
    for (int i = 0; i < idle_count; i++) waitpid(idle[i], NULL, 0);
    idle_count = 0;
}

static void live_briefly(void) {
    for (int i = 0; i < BLOCKS; i++) {
        free(keep_block(100));
        keep_block(10);
    }
    _exit(0);
}

static long nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000l + now.tv_nsec;
}

/* Returns how many milliseconds it took. */
static long storm(long count) {
    long begun = nanoseconds(), next = begun;
    for (long made = 0; made < count;) {
        for (int i = 0; i < PER_TICK && made < count; i++, made++) {
            pid_t pid = fork();
            if (pid == 0) live_briefly();
        }
        while (waitpid(-1, NULL, WNOHANG) > 0) {}
        next += tick_ns;
        while (nanoseconds() < next) pause_a_little();
    }
    while (waitpid(-1, NULL, idle_count ? WNOHANG : 0) > 0) {}
    return (nanoseconds() - begun) / 1000000;
}

int main(int argc, char **argv) {
    long count = argument(argc, argv, 1, 100);
    own_namespaces = argc > 2;
    done = mmap(NULL, sizeof *done, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (done == MAP_FAILED) return 1;
    /* Inherited by every child, before which it might be sent one. */
    sigset_t orders;
    sigemptyset(&orders);
    sigaddset(&orders, SIGUSR1);
    sigaddset(&orders, SIGUSR2);
    sigprocmask(SIG_BLOCK, &orders, NULL);
    say("ready");
    for (;;) {
        const char *command = await_command();
        if (is(command, "idle")) say_number("idle", start_idle(count));
        if (is(command, "each")) say_number("each", order(SIGUSR1));
        if (is(command, "map")) say_number("map", order(SIGUSR2));
        if (is(command, "storm")) say_number("storm", storm(count));
        if (is(command, "end")) end_idle();
        say_expectation();
    }
}
