// build[a]: -DSIDE=a -DROOM=24 -O2 -g -fomit-frame-pointer -fno-builtin -fPIC -shared
// build[b]: -DSIDE=b -DROOM=1200 -O2 -g -fomit-frame-pointer -fno-builtin -fPIC -shared
// build[c]: -DSIDE=c -DROOM=104 -O2 -g -fomit-frame-pointer -fno-builtin -fPIC -shared
/* Libraries of about the same size whose functions lie at about the same places, under other names and with other
 * frames: the rules of one lead to nonsense in the other. */
#include <stddef.h>
#include <stdlib.h>

/* Hidden: they call each other directly, so that a copy of the code alone works. */
#define NOINLINE __attribute__((noinline, noclone, visibility("hidden")))
#define JOIN(a, b) a##b
#define JOINED(a, b) JOIN(a, b)
#define NAME(name) JOINED(SIDE, name)
#define USED(value) __asm__ volatile("" ::"r"(value) : "memory")

#define PAIR(number) \
    NOINLINE void *NAME(_leak_##number)(void *(*allocate)(size_t), size_t bytes) { \
        char room[ROOM + 8 * number]; \
        USED(room); \
        void *block = allocate(bytes); \
        USED(room); \
        return block; \
    } \
    NOINLINE void *NAME(_outer_##number)(void *(*allocate)(size_t), size_t bytes) { \
        char room[ROOM * 2]; \
        USED(room); \
        void *block = NAME(_leak_##number)(allocate, bytes); \
        USED(room); \
        return block; \
    }
PAIR(0) PAIR(1) PAIR(2) PAIR(3) PAIR(4) PAIR(5) PAIR(6) PAIR(7) PAIR(8) PAIR(9)

/* What a caller takes by number. They take the allocator as an argument, so that they work without being linked too. */
void *(*const NAME(_outer)[])(void *(*)(size_t), size_t) = {
    NAME(_outer_0), NAME(_outer_1), NAME(_outer_2), NAME(_outer_3), NAME(_outer_4),
    NAME(_outer_5), NAME(_outer_6), NAME(_outer_7), NAME(_outer_8), NAME(_outer_9),
};
