/* Lazy binding, again and again: the words through which calls to other objects go are given back the values that they had
 * before their first use. For objects linked with `-z lazy -z norelro`. */
#pragma once
#include <elf.h>
#include <link.h>
#include <stddef.h>
#include <stdint.h>

enum { MOST_SLOTS = 256 };

static uintptr_t unbound[MOST_SLOTS];

/* The object's own words, by its dynamic section. */
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

__attribute__((constructor(101))) static void remember_unbound(void) {
    for (size_t i = 0; slot(i); i++) unbound[i] = *slot(i);
}

/* Has every function bound anew at its next call. */
static __attribute__((noinline)) void unbind(void) {
    for (size_t i = 0; slot(i); i++) *slot(i) = unbound[i];
}
