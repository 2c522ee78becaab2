// build: -DNUMBER=0 -O2 -g -fomit-frame-pointer -fno-builtin -fPIC -shared
/* One of many libraries: the test compiles it again and again with another NUMBER, which every name contains. Their frames
 * differ too: objects whose unwind information is the same share a table. */
#include <stddef.h>
#include <stdlib.h>

#define JOIN(a, b) a##b
#define JOINED(a, b) JOIN(a, b)
#define NAME(name) JOINED(name, NUMBER)
#define USED(value) __asm__ volatile("" ::"r"(value) : "memory")

/* The way through the libraries: each calls the next one's function, the last one allocates. */
typedef void *step(const void *const *rest, size_t bytes);

static __attribute__((noinline, noclone)) void *NAME(leak_)(size_t bytes) {
    char room[8 + 8 * (NUMBER % 50)];
    USED(room);
    void *block = malloc(bytes);
    USED(room);
    return block;
}

void *NAME(pass_)(const void *const *rest, size_t bytes) {
    char room[64 + 16 * NUMBER];
    USED(room);
    void *block = *rest ? ((step *)*rest)(rest + 1, bytes) : NAME(leak_)(bytes);
    USED(room);
    return block;
}

/* Never called: makes the table as large as that of a small real library. */
#define FILLER(n) \
    long NAME(filler_##n##_)(long a, long b) { \
        char room[n % 7 * 16 + 8]; \
        USED(room); \
        long sum = (long)NAME(leak_)((size_t)(a + n)) + b; \
        USED(room); \
        return sum * n; \
    }
#define FILLERS(n) FILLER(n##0) FILLER(n##1) FILLER(n##2) FILLER(n##3) FILLER(n##4) \
    FILLER(n##5) FILLER(n##6) FILLER(n##7) FILLER(n##8) FILLER(n##9)
FILLERS(1) FILLERS(2) FILLERS(3) FILLERS(4) FILLERS(5) FILLERS(6) FILLERS(7) FILLERS(8) FILLERS(9) FILLERS(10)
