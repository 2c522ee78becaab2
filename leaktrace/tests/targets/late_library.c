// build: -O1 -g -fno-omit-frame-pointer -fno-builtin -fPIC -shared -Wl,-Bsymbolic
/* A library that is loaded late and brings an allocator of its own, which only its own code uses. */
#include <stddef.h>
#include <stdint.h>

static char arena[16 << 20] __attribute__((aligned(16)));
static size_t arena_used;

__attribute__((noinline)) void *malloc(size_t size) {
    size_t start = arena_used;
    arena_used += (size + 31) / 16 * 16;
    return arena_used > sizeof arena ? NULL : arena + start;
}

__attribute__((noinline)) void free(void *p) { __asm__ volatile("" ::"r"(p) : "memory"); }

__attribute__((noinline)) void *late_site(size_t size) {
    void *p = malloc(size);
    __asm__ volatile("" ::: "memory");
    return p;
}

__attribute__((noinline)) void late_free(void *p) {
    free(p);
    __asm__ volatile("" ::: "memory");
}
