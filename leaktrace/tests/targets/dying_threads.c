// build: -O1 -g -fno-omit-frame-pointer -fno-builtin
/* Threads that die inside malloc, and later threads that are given the same thread IDs (clone3 can ask for one, as
 * root): what the dead ones left behind must not hide what the living ones allocate. Argument: rounds. Command `go`. */
#include "protocol.h"
#include <linux/futex.h>
#include <linux/sched.h>

enum { DIE_HERE = 777 };
static char stack[64 * 1024] __attribute__((aligned(64)));
static _Atomic int alive;

#define BEFORE_ALLOCATING(size) \
    if (size == DIE_HERE) syscall(SYS_exit, 0);
#include "bump_allocator.h"

SITE(site_reborn);
static NOINLINE void *site_reborn(size_t size) {
    void *p = malloc(size);
    book(&at_site_reborn, size);
    return p;
}

/* The living thread's calls come from deeper than the dead one's, so that they look like part of it. */
static NOINLINE void live_deeper(int depth) {
    char frame[128];
    __asm__ volatile("" ::"r"(frame) : "memory");
    if (depth > 0) live_deeper(depth - 1);
    else site_reborn(33);
    __asm__ volatile("" ::"r"(frame) : "memory");
}

static int dying;
__attribute__((used)) static void body(void) {
    if (dying) {
        abandoned_calls++;
        void *p = malloc(DIE_HERE);
        __asm__ volatile("" ::"r"(p) : "memory");
    } else {
        live_deeper(8);
    }
}

/* Starts body() on the static stack with a thread ID of our choice (0: any); it ends by its own exit. */
static long start_thread(pid_t wanted) {
    struct clone_args arguments = {
        .flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                 CLONE_CHILD_CLEARTID,
        .child_tid = (uint64_t)&alive,
        .stack = (uint64_t)stack,
        .stack_size = sizeof stack,
        .set_tid = wanted ? (uint64_t)&wanted : 0,
        .set_tid_size = wanted ? 1 : 0,
    };
    long result;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "call body\n\t"
                     "mov $60, %%eax\n\t"
                     "xor %%edi, %%edi\n\t"
                     "syscall\n\t"
                     "1:"
                     : "=a"(result)
                     : "a"(SYS_clone3), "D"(&arguments), "S"(sizeof arguments)
                     : "rcx", "r11", "memory");
    return result;
}

/* Runs one thread to its end; returns its ID. The ID is free again a moment after the thread's last sign of life. */
static pid_t run_thread(pid_t wanted) {
    alive = 1;
    long tid = start_thread(wanted);
    for (int tries = 0; tid == -EEXIST && tries < 1000; tries++) {
        pause_a_little();
        tid = start_thread(wanted);
    }
    if (tid < 0) _exit(122);
    int now;
    while ((now = alive) != 0) syscall(SYS_futex, &alive, FUTEX_WAIT, now, NULL, NULL, 0);
    return (pid_t)tid;
}

int main(int argc, char **argv) {
    long rounds = argument(argc, argv, 1, 50);
    say("ready");
    for (;;) {
        if (is(await_command(), "go"))
            for (long i = 0; i < rounds; i++) {
                dying = 1;
                pid_t dead = run_thread(0);
                dying = 0;
                run_thread(dead);
            }
        say_expectation();
    }
}
