/* A program's own allocator that never gives anything back: room is taken from one static arena, so that `free` of
 * anything, any number of times, does no harm. A program that wants `malloc` to do something of its own first defines
 * BEFORE_ALLOCATING(size) before it includes this. */
#pragma once
#include "protocol.h"

#ifndef BEFORE_ALLOCATING
#define BEFORE_ALLOCATING(size)
#endif

static char arena[32 << 20] __attribute__((aligned(16)));
static _Atomic size_t arena_used;

NOINLINE void *malloc(size_t size) {
    BEFORE_ALLOCATING(size)
    size_t start = atomic_fetch_add(&arena_used, (size + 31) / 16 * 16);
    return start + size > sizeof arena ? NULL : arena + start;
}

NOINLINE void free(void *p) { __asm__ volatile("" ::"r"(p) : "memory"); }

NOINLINE void *calloc(size_t count, size_t size) {
    void *p = malloc(count * size);
    __asm__ volatile("" ::: "memory");
    return p;
}

NOINLINE void *realloc(void *p, size_t size) {
    void *fresh = malloc(size);
    if (p && fresh) memcpy(fresh, p, size);
    return fresh;
}
