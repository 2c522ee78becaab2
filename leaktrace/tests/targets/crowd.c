// build: -O1 -g -fno-omit-frame-pointer -fno-builtin
/* Makes processes, many of them. `idle N`: N children that keep a block each and sleep. `storm N`: N children that keep a
 * few blocks and exit at once, at most 2,000 a second. `end`: ends the idle ones. Each answers with what became of it. */
#include "protocol.h"
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

enum { MAX_IDLE = 4096, PER_TICK = 20, BLOCKS = 4 };
static const long tick_ns = 10 * 1000 * 1000;

static pid_t idle[MAX_IDLE];
static int idle_count;

SITE(keep_block);
static NOINLINE void *keep_block(size_t size) { return malloc(size); }

static void sleep_for_ever(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    keep_block(1000);
    for (;;) pause();
}

static long start_idle(long count) {
    for (long i = 0; i < count && idle_count < MAX_IDLE; i++) {
        pid_t pid = fork();
        if (pid == 0) sleep_for_ever();
        if (pid < 0) break;
        idle[idle_count++] = pid;
    }
    return idle_count;
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
    say("ready");
    for (;;) {
        const char *command = await_command();
        if (is(command, "idle")) say_number("idle", start_idle(count));
        if (is(command, "storm")) say_number("storm", storm(count));
        if (is(command, "end")) end_idle();
        say_expectation();
    }
}
