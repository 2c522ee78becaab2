// build: -shared -fPIC -O2 -g -Wl,-z,lazy,-z,norelro
/* A library to be opened at run time. Its functions are bound at their first call, and what binds them (resolvers of
 * indirect functions) allocates. */
#include "../protocol.h"
#include "binding.h"

static volatile long sink;
static _Thread_local char thread_local_room[3000];

static NOINLINE void allocate(int depth) {
    if (depth > 0) {
        allocate(depth - 1);
        sink++;
        return;
    }
    void *p = malloc(123);
    __asm__ volatile("" ::"r"(p) : "memory");
    free(p);
}

/* Each function is chosen by a resolver, inside the dynamic linker. */
#define INDIRECT(n)                                                                                                    \
    static long function_##n(long x) {                                                                                 \
        allocate(x % 3);                                                                                               \
        return x + n;                                                                                                  \
    }                                                                                                                  \
    static long (*resolve_##n(void))(long) {                                                                           \
        allocate(n % 4);                                                                                               \
        return function_##n;                                                                                           \
    }                                                                                                                  \
    long indirect_##n(long x) __attribute__((ifunc("resolve_" #n)));
INDIRECT(0)
INDIRECT(1)
INDIRECT(2)
INDIRECT(3)
INDIRECT(4)
INDIRECT(5)
INDIRECT(6)
INDIRECT(7)

long exported(long x);
NOINLINE long exported(long x) {
    allocate((int)(x % 3));
    return x;
}

__attribute__((constructor)) static void loaded(void) { allocate(2); }

__attribute__((destructor)) static void unloaded(void) { allocate(1); }

long plugin_work(long x);
long plugin_work(long x) {
    switch (x % 10) {
    case 0: sink += indirect_0(x); break;
    case 1: sink += indirect_1(x); break;
    case 2: sink += indirect_2(x); break;
    case 3: sink += indirect_3(x) + indirect_4(x); break;
    case 4: sink += indirect_5(x) + indirect_6(x); break;
    case 5: sink += indirect_7(x); break;
    case 6: sink += exported(x); break;
    case 7: unbind(); break;
    default: allocate((int)(x % 7)); break;
    }
    return sink;
}

/* In a new thread: the first use of a variable of the thread's own allocates it. */
void *plugin_thread(void *x);
void *plugin_thread(void *x) {
    thread_local_room[(uintptr_t)x % sizeof thread_local_room] = 1;
    allocate((int)((uintptr_t)x % 3));
    return NULL;
}
