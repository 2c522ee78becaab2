// build: -O2 -g -fno-builtin -fPIC -shared
// build[yielding]: -O2 -g -fno-builtin -fPIC -shared -DYIELD
/* A complete small allocator: size classes over one static arena, free lists behind a spin lock. Preloaded as a
 * library, or compiled into a program as its own malloc. With YIELD every call gives the CPU away while it is under
 * way, so that threads on one CPU are surely inside the allocator at the same time. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

enum { CLASSES = 40, HEADER = 16 };
static const size_t arena_size = (size_t)1 << 30;

struct header {
    uint32_t class, offset; /* offset: from the start of the chunk to the block */
    size_t size;
};

static _Atomic int arena_lock;
static char *arena, *arena_next;
static void *free_lists[CLASSES];

static void take_turns(void) {
#ifdef YIELD
    sched_yield();
#endif
}

static void lock(void) {
    while (atomic_exchange(&arena_lock, 1)) sched_yield();
}

static void unlock(void) { atomic_store(&arena_lock, 0); }

static size_t class_size(unsigned class) { return (size_t)32 << (class < CLASSES ? class : CLASSES - 1); }

static unsigned class_for(size_t bytes) {
    unsigned class = 0;
    while (class < CLASSES && class_size(class) < bytes) class++;
    return class;
}

static char *chunk_of_class(unsigned class) {
    char *chunk = NULL;
    lock();
    if (!arena) {
        arena = mmap(NULL, arena_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (arena == MAP_FAILED) arena = NULL;
        arena_next = arena;
    }
    if (free_lists[class]) {
        chunk = free_lists[class];
        memcpy(&free_lists[class], chunk, sizeof(void *));
    } else if (arena && (size_t)(arena + arena_size - arena_next) >= class_size(class)) {
        chunk = arena_next;
        arena_next += class_size(class);
    }
    unlock();
    return chunk;
}

static void *allocate(size_t alignment, size_t size) {
    take_turns();
    if (size > arena_size) {
        errno = ENOMEM;
        return NULL;
    }
    unsigned class = class_for(size + alignment + HEADER);
    char *chunk = class < CLASSES ? chunk_of_class(class) : NULL;
    if (!chunk) {
        errno = ENOMEM;
        return NULL;
    }
    uintptr_t address = ((uintptr_t)chunk + HEADER + alignment - 1) & ~(uintptr_t)(alignment - 1);
    struct header *header = (struct header *)(address - HEADER);
    header->class = class;
    header->offset = (uint32_t)(address - (uintptr_t)chunk);
    header->size = size;
    take_turns();
    return (void *)address;
}

static struct header *header_of(void *block) { return (struct header *)((char *)block - HEADER); }

static void release(void *block) {
    struct header header = *header_of(block);
    char *chunk = (char *)block - header.offset;
    lock();
    memcpy(chunk, &free_lists[header.class], sizeof(void *));
    free_lists[header.class] = chunk;
    unlock();
}

void *malloc(size_t size) { return allocate(16, size); }

void free(void *block) {
    take_turns();
    if (block) release(block);
    take_turns();
}

void *calloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    void *block = malloc(bytes);
    if (block) memset(block, 0, bytes);
    return block;
}

void *realloc(void *block, size_t size) {
    if (!block) return malloc(size);
    if (size == 0) {
        free(block);
        return NULL;
    }
    size_t old = header_of(block)->size;
    if (size <= old && size + 32 > old) {
        header_of(block)->size = size;
        return block;
    }
    void *fresh = malloc(size);
    if (!fresh) return NULL;
    memcpy(fresh, block, old < size ? old : size);
    free(block);
    return fresh;
}

void *reallocarray(void *block, size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(block, bytes);
}

static int power_of_two(size_t n) { return n != 0 && (n & (n - 1)) == 0; }

void *memalign(size_t alignment, size_t size) { return allocate(alignment < 16 ? 16 : alignment, size); }

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **result, size_t alignment, size_t size) {
    if (!power_of_two(alignment) || alignment % sizeof(void *) != 0) return EINVAL;
    void *block = memalign(alignment, size);
    if (!block) return ENOMEM;
    *result = block;
    return 0;
}

void *valloc(size_t size) { return memalign(4096, size); }

void *pvalloc(size_t size) { return memalign(4096, (size + 4095) & ~(size_t)4095); }

size_t malloc_usable_size(void *block) { return block ? header_of(block)->size : 0; }
