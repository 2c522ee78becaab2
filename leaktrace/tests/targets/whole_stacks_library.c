// build: -O2 -g -fomit-frame-pointer -fno-builtin -fPIC -shared
/* What whole_stacks loads: allocates while it is being loaded, and calls back. */
#include <stddef.h>
#include <stdlib.h>

void *constructed;

static __attribute__((constructor, noinline)) void library_constructor(void) {
    constructed = malloc(91);
    __asm__ volatile("" ::: "memory");
}

static __attribute__((noinline, noclone)) void deeper_in_library(void (*back)(size_t)) {
    char room[1000];
    __asm__ volatile("" ::"r"(room) : "memory");
    back(93);
    __asm__ volatile("" ::"r"(room) : "memory");
}

void in_library(void (*back)(size_t)) {
    deeper_in_library(back);
    __asm__ volatile("" ::: "memory");
}
