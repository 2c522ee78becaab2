// build: -O2 -g
/* Code made at run time, as compilers that run in the program make it: no table describes it, and it keeps frame
 * pointers. With an argument, it is made anew after so many rounds. */
#include "../protocol.h"

static uint64_t random_state = 41;
static volatile long sink;

typedef long (*made)(long (*function)(long), long argument);

static NOINLINE long allocate(long depth) {
    if (depth > 0) return allocate(depth - 1) + sink;
    void *p = malloc(99);
    __asm__ volatile("" ::"r"(p) : "memory");
    free(p);
    return 1;
}

/* push %rbp; mov %rsp,%rbp; sub $32,%rsp; mov %rdi,%rax; mov %rsi,%rdi; call *%rax; leave; ret */
static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x20, 0x48, 0x89,
                                     0xf8, 0x48, 0x89, 0xf7, 0xff, 0xd0, 0xc9, 0xc3};

enum { SIZE = 8192 };

static unsigned char *page;

static made make(void) {
    page = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) _exit(1);
    unsigned char *place = page + next_random(&random_state) % (SIZE - sizeof code);
    memcpy(place, code, sizeof code);
    mprotect(page, SIZE, PROT_READ | PROT_EXEC);
    return (made)(uintptr_t)place;
}

static made inner;

static NOINLINE long twice(long argument) { return inner(allocate, argument) + 1; }

int main(int argc, char **argv) {
    long rounds = argument(argc, argv, 1, 0);
    made outer = make();
    inner = make();
    say("ready");
    for (long i = 1;; i++) {
        sink += outer(next_random(&random_state) % 2 ? twice : allocate, next_random(&random_state) % 5);
        if (rounds == 0 || i % rounds != 0) continue;
        munmap(page, SIZE);
        inner = make();
    }
}
