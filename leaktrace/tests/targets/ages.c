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

static long count_for(const char *command) {
    return is(command, "old") ? 1000 : is(command, "brief") ? 500 : is(command, "young") ? 70 : 0;
}

static void free_brief(void) {
    for (long i = 0; i < 500; i++) {
        free(brief[i]);
        unbook(&at_site_aged, 100);
    }
}

int main(void) {
    say("ready");
    for (;;) {
        const char *command = await_command();
        long count = count_for(command);
        if (used + count > 64000) return 1;
        void **place = is(command, "brief") ? brief : kept + used;
        __asm__ volatile("" : "+r"(place), "+r"(count)); /* one call for all commands, hence one stack */
        make(place, count);
        if (is(command, "brief")) free_brief();
        else used += count;
        if (is(command, "old")) old += count;
        say_number("old", old);
        say_expectation();
    }
}
