// build: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread -ldl
/* Loads late_library.so (path as argument) on the command `load`; `go` allocates through it and through libc. */
#include "protocol.h"
#include <dlfcn.h>

SITE(late_site);
SITE(site_libc);
static NOINLINE void *site_libc(size_t size) {
    void *p = malloc(size);
    book(&at_site_libc, size);
    return p;
}

static void *(*late_allocate)(size_t);
static void (*late_release)(void *);

static void load(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) _exit(124);
    late_allocate = (void *(*)(size_t))dlsym(library, "late_site");
    late_release = (void (*)(void *))dlsym(library, "late_free");
    if (!late_allocate || !late_release) _exit(125);
}

static void go(void) {
    for (size_t i = 0; i < 50; i++) {
        void *p = late_allocate(i + 100);
        book(&at_late_site, i + 100);
        if (i % 2) {
            late_release(p);
            unbook(&at_late_site, i + 100);
        }
        site_libc(i + 1);
    }
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    say("ready");
    for (;;) {
        const char *command = await_command();
        if (is(command, "load")) load(argv[1]);
        if (is(command, "go")) go();
        say_expectation();
    }
}
