// build: -O2 -g -fomit-frame-pointer -fno-builtin -pthread
// build[o3]: -O3 -g -fomit-frame-pointer -fno-builtin -pthread
// build[static]: -O2 -g -fomit-frame-pointer -fno-builtin -pthread -static
// build[frame-pointers]: -O2 -g -fno-omit-frame-pointer -fno-builtin -pthread
// build[musl]: musl-gcc -DWITHOUT_CONTEXTS -O2 -g -fomit-frame-pointer -fno-builtin -pthread
/* Allocates from every kind of place that a stack walk can start in or has to pass, and says from which functions.
 * Commands: `go`; `load`, with the path of whole_stacks_library.so as argument of the program, then `use`. */
#include "chain.h"
#include <alloca.h>
#include <dlfcn.h>
#include <setjmp.h>
#include <ucontext.h>

/* Keeps a value alive across a call, so that it needs a register or a place on the stack. */
#define USED(value) __asm__ volatile("" ::"r"(value) : "memory")

static NOINLINE void site(size_t bytes) {
    ENTER;
    keep(malloc(bytes), bytes);
    LEAVE;
}

/* Every way in which a compiler lays out a frame. */
static NOINLINE void in_registers(size_t bytes) {
    long a, b, c, d, e;
    __asm__ volatile("" : "=r"(a), "=r"(b), "=r"(c), "=r"(d), "=r"(e));
    ENTER;
    site(bytes);
    LEAVE;
    USED(a); USED(b); USED(c); USED(d); USED(e);
}

static NOINLINE void with_large_array(size_t bytes) {
    char room[70000];
    USED(room);
    ENTER;
    in_registers(bytes);
    LEAVE;
    USED(room);
}

static NOINLINE void with_alloca(size_t bytes) {
    char *room = (char *)alloca(bytes * 3);
    USED(room);
    ENTER;
    with_large_array(bytes);
    LEAVE;
    USED(room);
}

static NOINLINE void realigned(size_t bytes) {
    char room[100] __attribute__((aligned(64)));
    USED(room);
    ENTER;
    with_alloca(bytes);
    LEAVE;
    USED(room);
}

static NOINLINE void realigned_with_alloca(size_t bytes, long a, long b, long c, long d, long e, long on_the_stack) {
    char room[100] __attribute__((aligned(128)));
    char *more = (char *)alloca(bytes);
    USED(room); USED(more);
    ENTER;
    realigned(bytes);
    LEAVE;
    USED(room); USED(more); USED(a + b + c + d + e + on_the_stack);
}

static NOINLINE void arguments_on_the_stack(size_t bytes) {
    ENTER;
    realigned_with_alloca(bytes, 1, 2, 3, 4, 5, (long)bytes);
    LEAVE;
}

/* A path through two functions, as deep as the longest stack that is kept whole. */
static NOINLINE void down_left(unsigned long path, int levels);
static NOINLINE void down_right(unsigned long path, int levels) {
    char room[40];
    USED(room);
    ENTER;
    if (levels == 0) site(31);
    else if (path & 1) down_right(path >> 1, levels - 1);
    else down_left(path >> 1, levels - 1);
    LEAVE;
    USED(room);
}
static NOINLINE void down_left(unsigned long path, int levels) {
    ENTER;
    if (levels == 0) site(33);
    else if (path & 1) down_right(path >> 1, levels - 1);
    else down_left(path >> 1, levels - 1);
    LEAVE;
}

/* Called back by the C library. */
static NOINLINE int compare(const void *a, const void *b) {
    FOREIGN;
    ENTER;
    site(41);
    LEAVE;
    LEAVE;
    return *(const int *)a - *(const int *)b;
}
static NOINLINE void sorts(void) {
    int values[] = {3, 1, 2};
    ENTER;
    qsort(values, 3, sizeof *values, compare);
    LEAVE;
}

/* In signal handlers: after a system call, on a stack of their own, and on a function's first instruction, where a
 * look at the instruction before would find another function. */
static NOINLINE void on_signal(int number) {
    (void)number;
    FOREIGN;
    ENTER;
    site(51);
    LEAVE;
    LEAVE;
}
static NOINLINE void raises(void) {
    ENTER;
    signal(SIGUSR1, on_signal);
    raise(SIGUSR1);
    LEAVE;
}

static NOINLINE void on_trap(int number, siginfo_t *info, void *context) {
    (void)number; (void)info;
    FOREIGN;
    ENTER;
    site(53);
    LEAVE;
    LEAVE;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2; /* past the ud2 */
}
/* The function in front has another frame than the one with the trap. */
__asm__(".text\n"
        "in_front:\n .cfi_startproc\n sub $72, %rsp\n .cfi_def_cfa_offset 80\n ud2\n .cfi_endproc\n"
        ".type trapped, @function\n"
        "trapped:\n .cfi_startproc\n ud2\n ret\n .cfi_endproc\n.size trapped, . - trapped\n");
void trapped(void);
static NOINLINE void traps(void) {
    static char stack[65536];
    stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaltstack(&other, NULL);
    sigaction(SIGILL, &action, NULL);
    ENTER;
    ENTER_AS("trapped");
    trapped();
    LEAVE;
    LEAVE;
}

/* A call that does not return is the last instruction of its function: the return address lies behind its end. */
static jmp_buf back;
static __attribute__((noinline, noclone, noreturn)) void jumps_back(void) {
    ENTER;
    site(61);
    LEAVE;
    longjmp(back, 1);
}
static __attribute__((noinline, noclone, noreturn)) void ends_with_a_call(size_t bytes) {
    ENTER;
    site(bytes);
    jumps_back();
}
static NOINLINE void returns_by_longjmp(void) {
    ENTER;
    int depth = chain_depth;
    if (!setjmp(back)) ends_with_a_call(63);
    chain_depth = depth;
    LEAVE;
}

static void *thread_main(void *unused) {
    ENTER;
    with_alloca(71);
    LEAVE;
    return unused;
}
static void starts_a_thread(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, thread_main, NULL)) _exit(124);
    pthread_join(thread, NULL);
}

#ifndef WITHOUT_CONTEXTS
/* A coroutine: its outermost frame is its own. */
static ucontext_t outside, inside;
static void coroutine(void) {
    ENTER;
    with_alloca(81);
    LEAVE;
}
static void enters_a_coroutine(void) {
    static char stack[262144];
    const char *name = chain_names[0];
    int depth = chain_depth;
    chain_depth = 0;
    getcontext(&inside);
    inside.uc_stack.ss_sp = stack;
    inside.uc_stack.ss_size = sizeof stack;
    inside.uc_link = &outside;
    makecontext(&inside, coroutine, 0);
    swapcontext(&outside, &inside);
    chain_names[0] = name;
    chain_depth = depth;
}
#endif

static NOINLINE void go(void) {
    uint64_t random = 1;
    ENTER;
    in_registers(11);
    arguments_on_the_stack(21);
    for (int i = 0; i < 20; i++) down_left(next_random(&random) | (unsigned long)next_random(&random) << 32, 20 + 4 * i);
    sorts();
    raises();
    traps();
    returns_by_longjmp();
    LEAVE;
}

/* Code that is loaded later: its constructor runs inside of dlopen, and it calls back. */
static NOINLINE void called_by_library(size_t bytes) {
    ENTER;
    site(bytes);
    LEAVE;
}
static void (*in_library)(void (*)(size_t));
static NOINLINE void loads(const char *path) {
    ENTER;
    void *library = dlopen(path, RTLD_NOW);
    if (!library) _exit(125);
    in_library = (void (*)(void (*)(size_t)))dlsym(library, "in_library");
    FOREIGN;
    ENTER_AS("library_constructor");
    keep(*(void **)dlsym(library, "constructed"), 91);
    LEAVE;
    LEAVE;
    LEAVE;
}
static NOINLINE void uses(void) {
    ENTER;
    ENTER_AS("in_library");
    ENTER_AS("deeper_in_library");
    in_library(called_by_library);
    LEAVE;
    LEAVE;
    LEAVE;
}

int main(int argc, char **argv) {
    ENTER;
    say("ready");
    for (;;) {
        const char *command = await_command();
        if (is(command, "go")) {
            int depth = chain_depth;
            go();
            chain_depth = 0;
            starts_a_thread();
#ifndef WITHOUT_CONTEXTS
            enters_a_coroutine();
#endif
            chain_depth = depth;
        }
        if (is(command, "load") && argc > 1) loads(argv[1]);
        if (is(command, "use") && in_library) uses();
        say_chains();
    }
}
