// build: -O2 -g -fno-builtin -lm -Wl,-z,lazy,-z,norelro -DLAZY
// build[ibt]: -O2 -g -fno-builtin -lm -Wl,-z,lazy,-z,norelro,-z,ibtplt -fcf-protection -DLAZY
// build[static]: -O2 -g -fno-builtin -static -lm
/* Allocates in signal handlers only. What they interrupt: leaf functions that keep data below the stack pointer,
 * beginnings and ends of functions, the C library's assembly, the table of procedure links, lazy binding, system calls,
 * the kernel's vDSO. */
#include "interrupt.h"
#ifdef LAZY
#include "binding.h"
#endif
#include <ctype.h>
#include <math.h>
#include <time.h>

static uint64_t random_state = 7;

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

/* Mostly in the table of procedure links. */
static NOINLINE long linked_calls(void) {
    long sum = 0;
    for (int i = 0; i < 3000; i++) sum += toupper(i % 128) + ffs(i);
    return sum;
}

/* Mostly in the dynamic linker. */
static NOINLINE long bound_anew(void) {
    long sum = 0;
#ifdef LAZY
    for (int i = 0; i < 100; i++) {
        unbind();
        sum += toupper(i) + ffsll(i) + (long)labs(i) + (long)floor(i / 3.0);
    }
#endif
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
    switch (next_random(&random_state) % 10) {
    case 0: return leaf(sink);
    case 1: return fibonacci(12);
    case 2: return kernel_page();
    case 3: return text_functions();
    case 4: return small_calls();
    case 5: return mathematics(0.7);
    case 6: return system_calls();
    case 7: return linked_calls();
    case 8: return bound_anew();
    default: return realigned();
    }
}

int main(void) {
    say("ready");
    begin_interrupting();
    for (;;) sink += work((int)(next_random(&random_state) % 6));
}
