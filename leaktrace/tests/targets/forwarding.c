// build: -O1 -g -fno-builtin -fPIC -shared -ldl
// build[header]: -O1 -g -fno-builtin -fPIC -shared -ldl -DPREFIX=16
/* A preloaded allocator that only passes calls on to the next one, as accounting wrappers do. With PREFIX it puts a
 * header in front of every block, so that the block it hands out is not the one it was given. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef PREFIX
#define PREFIX 0
#endif

#define NEXT(result, name, ...) \
    static result (*next)(__VA_ARGS__); \
    if (!next) next = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static void *shifted(char *block) { return block ? block + PREFIX : NULL; }

static void *original(void *block) { return block ? (char *)block - PREFIX : NULL; }

void *malloc(size_t size) {
    NEXT(void *, malloc, size_t);
    return size > PTRDIFF_MAX ? NULL : shifted(next(size + PREFIX));
}

void free(void *block) {
    NEXT(void, free, void *);
    next(original(block));
    __asm__ volatile("" ::: "memory"); /* a real call, not a jump */
}

void *calloc(size_t count, size_t size) {
    NEXT(void *, calloc, size_t, size_t);
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > PTRDIFF_MAX) return NULL;
    return shifted(next(1, bytes + PREFIX));
}

void *realloc(void *block, size_t size) {
    NEXT(void *, realloc, void *, size_t);
    if (size > PTRDIFF_MAX) return NULL;
    if (block && size == 0) {
        free(block);
        return NULL;
    }
    return shifted(next(original(block), size + PREFIX));
}
