// build: -shared -fPIC -O2 -g -Wl,-z,lazy,-z,norelro
/* A library to be opened at run time. Its functions are bound at their first call, and what binds them (resolvers of
 * indirect functions) allocates. */
#include "../protocol.h"
#include <elf.h>
#include <link.h>

enum { MOST_SLOTS = 256 };

static volatile long sink;
static _Thread_local char thread_local_room[3000];
static uintptr_t unbound[MOST_SLOTS];

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

/* The words through which calls go, from the library's own dynamic section. */
static uintptr_t *slot(size_t index) {
    const ElfW(Rela) *relocations = NULL;
    size_t size = 0;
    struct link_map *map = NULL;
    for (const ElfW(Dyn) *entry = _DYNAMIC; entry->d_tag != DT_NULL; entry++) {
        if (entry->d_tag == DT_JMPREL) relocations = (const void *)entry->d_un.d_ptr;
        if (entry->d_tag == DT_PLTRELSZ) size = entry->d_un.d_val;
        /* The second word of the table is the linker's own. */
        if (entry->d_tag == DT_PLTGOT) map = ((struct link_map **)entry->d_un.d_ptr)[1];
    }
    if (!relocations || !map || index >= size / sizeof *relocations || index >= MOST_SLOTS) return NULL;
    return (uintptr_t *)(map->l_addr + relocations[index].r_offset);
}

__attribute__((constructor)) static void loaded(void) {
    for (size_t i = 0; slot(i); i++) unbound[i] = *slot(i);
    allocate(2);
}

__attribute__((destructor)) static void unloaded(void) { allocate(1); }

/* Has every function bound anew. */
static NOINLINE void unbind(void) {
    for (size_t i = 0; slot(i); i++) *slot(i) = unbound[i];
}

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
