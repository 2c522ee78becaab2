// build: -O1 -g -fno-omit-frame-pointer -fno-builtin
/* Very many threads, one after the other, each of which allocates one block and frees an earlier one. They are made by
 * clone() on one static stack, so that making them costs no memory of its own. Each begins where the last has ended, so
 * that they may use the first thread's storage. Argument: threads. Command `go`. */
#include "protocol.h"
#include <linux/futex.h>
#include <linux/sched.h>

enum { KEPT = 100 };
static char stack[64 * 1024] __attribute__((aligned(64)));
static struct block kept[KEPT];
static _Atomic int alive;
static long round_number;

SITE(site_short_thread);
static NOINLINE void *site_short_thread(size_t size) {
    void *p = malloc(size);
    book(&at_site_short_thread, size);
    return p;
}

__attribute__((used)) static void body(void) {
    struct block *slot = &kept[round_number % KEPT];
    if (slot->address) {
        free(slot->address);
        unbook(slot->site, slot->size);
    }
    size_t size = (size_t)(round_number % 500 + 1);
    *slot = (struct block){site_short_thread(size), size, &at_site_short_thread};
}

/* Starts body() on the static stack; it ends by the exit system call of this thread alone. */
static long start_thread(void) {
    long result;
    unsigned long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                          CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID;
    register long child_tid __asm__("r10") = (long)&alive;
    register long tls __asm__("r8") = 0;
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
                     : "a"(SYS_clone), "D"(flags), "S"(stack + sizeof stack), "d"(0), "r"(child_tid), "r"(tls)
                     : "rcx", "r11", "memory");
    return result;
}

static void run_threads(long threads) {
    for (round_number = 0; round_number < threads; round_number++) {
        alive = 1;
        if (start_thread() < 0) _exit(122);
        int now;
        while ((now = alive) != 0) syscall(SYS_futex, &alive, FUTEX_WAIT, now, NULL, NULL, 0);
    }
}

int main(int argc, char **argv) {
    say("ready");
    for (;;) {
        if (is(await_command(), "go")) run_threads(argument(argc, argv, 1, 20000));
        say_expectation();
    }
}
