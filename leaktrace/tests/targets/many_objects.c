// build: -O2 -g -fomit-frame-pointer -fno-builtin -pthread -ldl
/* Loads DIRECTORY/0.so, DIRECTORY/1.so and so on before it is ready. Arguments: directory, how many.
 * Command `go` allocates from every library, through four others. */
#include "chain.h"
#include <dlfcn.h>
#include <stdio.h>

#define MOST 1000
#define WAY 5

static const void *steps[MOST];
static char pass_names[MOST][16], leak_names[MOST][16];
static long count;

static void load(const char *directory, long number) {
    char path[512];
    snprintf(path, sizeof path, "%s/%ld.so", directory, number);
    snprintf(pass_names[number], sizeof *pass_names, "pass_%ld", number);
    snprintf(leak_names[number], sizeof *leak_names, "leak_%ld", number);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    steps[number] = library ? dlsym(library, pass_names[number]) : NULL;
    if (!steps[number]) _exit(124);
}

static NOINLINE void through(long first) {
    const void *way[WAY + 1] = {NULL};
    long number = first;
    ENTER;
    for (int i = 0; i < WAY; i++) {
        number = (first + i * 37) % count;
        way[i] = steps[number];
        ENTER_AS(pass_names[number]);
    }
    ENTER_AS(leak_names[number]);
    size_t bytes = 16 + (size_t)first;
    keep(((void *(*)(const void *const *, size_t))way[0])((const void *const *)way + 1, bytes), bytes);
    for (int i = 0; i < WAY + 2; i++) LEAVE;
}

static NOINLINE void go(void) {
    ENTER;
    for (long i = 0; i < count; i++) through(i);
    LEAVE;
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    count = argument(argc, argv, 2, 0);
    if (count < 1 || count > MOST) return 2;
    for (long i = 0; i < count; i++) load(argv[1], i);
    ENTER;
    say("ready");
    for (;;) {
        if (is(await_command(), "go")) go();
        say_chains();
    }
}
