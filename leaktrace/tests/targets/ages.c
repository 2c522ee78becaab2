// build: -O1 -g -fno-omit-frame-pointer -fno-builtin
/* One stack that makes old blocks and young ones. Commands: `old` makes 1,000 blocks that stay, `brief` makes 500 and
 * frees them at once, `young` makes 70 that stay. Says how many were made by `old`. */
#include "protocol.h"

static void *kept[64000], *brief[500];
static long used, old;

SITE(site_aged);
static NOINLINE void *site_aged(size_t size) {
    void *p = malloc(size);
    book(&at_site_aged, size);
    return p;
}

static NOINLINE void make(void **blocks, long count) {
    for (long i = 0; i < count; i++) blocks[i] = site_aged(100);
}

/* A function of its own keeps the compiler from making two calls of `make` out of one. */
static NOINLINE void **place_for(int stays) {
    __asm__ volatile("" ::: "memory");
    return stays ? kept + used : brief;
}

/* One call instruction for all, hence one stack. */
static NOINLINE void obey(const char *command) {
    long count = is(command, "old") ? 1000 : is(command, "brief") ? 500 : is(command, "young") ? 70 : 0;
    int stays = !is(command, "brief");
    if (used + count > 64000) _exit(126);
    make(place_for(stays), count);
    if (stays) used += count;
    else
        for (long i = 0; i < count; i++) {
            free(brief[i]);
            unbook(&at_site_aged, 100);
        }
    if (is(command, "old")) old += count;
}

int main(void) {
    say("ready");
    for (;;) {
        obey(await_command());
        say_number("old", old);
        say_expectation();
    }
}
