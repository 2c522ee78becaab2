// build: -O2 -g -fno-omit-frame-pointer -fno-builtin -pthread -ldl
/* Calls malloc and free very often and says how many calls found their red zone damaged. Run with one of the
 * red-zone allocators preloaded. Argument: rounds. Command `go`. */
#include "protocol.h"
#include <dlfcn.h>

static void *kept[64];

SITE(site_red_zone);
static NOINLINE void *site_red_zone(size_t size) {
    void *p = malloc(size);
    book(&at_site_red_zone, size);
    return p;
}

int main(int argc, char **argv) {
    uint64_t *damage = dlsym(RTLD_DEFAULT, "red_zone_damage");
    long rounds = argument(argc, argv, 1, 100000);
    say("ready");
    for (;;) {
        if (is(await_command(), "go"))
            for (long i = 0; i < rounds; i++) {
                void **slot = &kept[i % 64];
                if (*slot) {
                    free(*slot);
                    unbook(&at_site_red_zone, 24);
                }
                *slot = site_red_zone(24);
            }
        say_number("damaged", damage ? (long)*damage : -1);
        say_expectation();
    }
}
