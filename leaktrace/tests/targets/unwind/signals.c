// build: -O2 -g -lm -Wl,-z,lazy
// build[static]: -O2 -g -static -lm
/* Allocates in signal handlers only, on the thread's stack and on one of their own. What they interrupt never allocates, so
 * it may be anything: leaf functions that keep data below the stack pointer, beginnings and ends of functions, the C
 * library's assembly, the table of procedure links, system calls, the kernel's vDSO. */
#include "../protocol.h"
#include <math.h>
#include <stdio.h>
#include <sys/time.h>
#include <time.h>

static uint64_t random_state = 7, handler_random = 9;
static volatile long sink;

static NOINLINE void allocate(int depth) {
    if (depth > 0) {
        allocate(depth - 1);
        sink++;
        return;
    }
    char *text = NULL;
    if (asprintf(&text, "%ld", sink) > 0) free(text);
    text = malloc(100);
    __asm__ volatile("" ::"r"(text) : "memory");
    free(text);
}

static void set_timer(int which) {
    struct itimerval timer = {.it_value.tv_usec = 300 + next_random(&handler_random) % 2000};
    setitimer(which, &timer, NULL);
}

static void simple(int number) {
    (void)number;
    allocate((int)(next_random(&handler_random) % 4));
}

static void on_own_stack(int number, siginfo_t *info, void *context) {
    (void)number, (void)info, (void)context;
    allocate((int)(next_random(&handler_random) % 4));
    if (next_random(&handler_random) % 4 == 0) raise(SIGUSR1);
    set_timer(ITIMER_REAL);
}

static void on_thread_stack(int number) {
    simple(number);
    if (next_random(&handler_random) % 4 == 0) raise(SIGUSR2);
    set_timer(ITIMER_VIRTUAL);
}

/* While a handler allocates, no timer may interrupt it: the allocator is not made for that. */
static void block_timers(struct sigaction *action) {
    sigaddset(&action->sa_mask, SIGALRM);
    sigaddset(&action->sa_mask, SIGVTALRM);
}

static void handle(int number, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags | SA_RESTART};
    block_timers(&action);
    sigaction(number, &action, NULL);
}

/* No call, no frame: locals lie below the stack pointer. */
static NOINLINE long leaf(long n) {
    volatile long local[8] = {n, n + 1};
    for (int i = 0; i < 2000; i++) local[i % 8] += i ^ n;
    return local[3];
}

static NOINLINE long fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

static NOINLINE long kernel_page(void) {
    struct timespec now;
    for (int i = 0; i < 300; i++) clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_nsec;
}

static NOINLINE long text_functions(void) {
    static char a[4096], b[4096];
    long sum = 0;
    for (int i = 0; i < 50; i++) {
        memset(a, 'x', sizeof a - 1);
        memcpy(b, a, sizeof b);
        sum += (long)strlen(b) + strcmp(a, b) + (strchr(a, 'y') != NULL);
    }
    return sum;
}

static NOINLINE long small_calls(void) {
    long sum = 0;
    for (int i = 0; i < 500; i++) sum += labs(i) + atoi("17") + ffsll(i) + (long)getpagesize();
    return sum;
}

static NOINLINE long mathematics(double x) {
    double sum = 0;
    for (int i = 1; i < 100; i++) sum += sin(x * i) + pow(x, i) + exp(-x);
    return (long)sum;
}

static NOINLINE long system_calls(void) {
    long sum = 0;
    for (int i = 0; i < 100; i++) sum += getppid() + (long)syscall(SYS_gettid);
    return sum;
}

static NOINLINE long realigned(void) {
    _Alignas(64) volatile long local[16] = {0};
    for (int i = 0; i < 500; i++) local[i % 16] += i;
    return local[3] + leaf(local[2]);
}

static NOINLINE long work(int depth) {
    if (depth > 0) return work(depth - 1) + 1;
    switch (next_random(&random_state) % 8) {
    case 0: return leaf(sink);
    case 1: return fibonacci(12);
    case 2: return kernel_page();
    case 3: return text_functions();
    case 4: return small_calls();
    case 5: return mathematics(0.7);
    case 6: return system_calls();
    default: return realigned();
    }
}

int main(void) {
    static char stack[65536];
    sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof stack}, NULL);
    struct sigaction action = {.sa_sigaction = on_own_stack, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    block_timers(&action);
    sigaction(SIGALRM, &action, NULL);
    handle(SIGVTALRM, on_thread_stack, 0);
    handle(SIGUSR1, simple, 0);
    handle(SIGUSR2, simple, SA_ONSTACK);
    say("ready");
    set_timer(ITIMER_REAL);
    set_timer(ITIMER_VIRTUAL);
    for (;;) sink += work((int)(next_random(&random_state) % 6));
}
