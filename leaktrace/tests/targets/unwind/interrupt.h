/* Timers whose signals interrupt the program anywhere, and handlers that allocate: on the thread's stack, on one of their
 * own, and inside each other. What they interrupt must never allocate. */
#pragma once
#include "../protocol.h"
#include <stdio.h>
#include <sys/time.h>

static uint64_t handler_random = 9;
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
    if (next_random(&handler_random) % 8 == 0) raise(SIGUSR1);
    set_timer(ITIMER_REAL);
}

static void on_thread_stack(int number) {
    simple(number);
    if (next_random(&handler_random) % 8 == 0) raise(SIGUSR2);
    set_timer(ITIMER_VIRTUAL);
}

/* While a handler allocates, no timer may interrupt it: the allocator is not made for that. */
static void handle(int number, struct sigaction action) {
    sigaddset(&action.sa_mask, SIGALRM);
    sigaddset(&action.sa_mask, SIGVTALRM);
    action.sa_flags |= SA_RESTART;
    sigaction(number, &action, NULL);
}

static void begin_interrupting(void) {
    static char stack[65536];
    sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof stack}, NULL);
    handle(SIGALRM, (struct sigaction){.sa_sigaction = on_own_stack, .sa_flags = SA_SIGINFO | SA_ONSTACK});
    handle(SIGVTALRM, (struct sigaction){.sa_handler = on_thread_stack});
    handle(SIGUSR1, (struct sigaction){.sa_handler = simple});
    handle(SIGUSR2, (struct sigaction){.sa_handler = simple, .sa_flags = SA_ONSTACK});
    set_timer(ITIMER_REAL);
    set_timer(ITIMER_VIRTUAL);
}
