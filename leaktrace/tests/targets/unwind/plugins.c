// build: -O2 -g -pthread -ldl
/* Works in a library that it has opened; arguments: the library, and after how many rounds to close it and open it again.
 * That begins when the first command arrives: a debugger that attaches in the middle of it would be misled. */
#include "../protocol.h"
#include <dlfcn.h>

static void *library;
static long (*work)(long);
static void *(*in_thread)(void *);

static int open_library(const char *path) {
    library = dlopen(path, RTLD_LAZY);
    if (!library) return 0;
    *(void **)&work = dlsym(library, "plugin_work");
    *(void **)&in_thread = dlsym(library, "plugin_thread");
    return work && in_thread;
}

static NOINLINE void one_round(uint64_t *random) {
    pthread_t thread;
    for (int i = 0; i < 50; i++) work(next_random(random) % 1000);
    if (pthread_create(&thread, NULL, in_thread, (void *)(uintptr_t)next_random(random)) == 0) pthread_join(thread, NULL);
}

int main(int argc, char **argv) {
    uint64_t random = 13;
    long rounds = argument(argc, argv, 2, 0);
    if (argc < 2 || !open_library(argv[1])) return 1;
    say("ready");
    await_command();
    for (long i = 1;; i++) {
        one_round(&random);
        if (rounds == 0 || i % rounds != 0) continue;
        dlclose(library);
        if (!open_library(argv[1])) return 1;
    }
}
