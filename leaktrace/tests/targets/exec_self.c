// build: -O1 -g -fno-omit-frame-pointer -fno-builtin
/* Allocates, then replaces itself with a fresh image of the same program in the same process, address randomisation
 * off, so that the new image uses the very addresses of the old one. Commands: `go` allocates (the first image much,
 * later ones little), `exec` replaces the image, which says `ready` again. */
#include "protocol.h"
#include <sys/personality.h>

static void *blocks[2000];
static int used;

SITE(site_before_exec);
static NOINLINE void *site_before_exec(size_t size) {
    void *p = malloc(size);
    book(&at_site_before_exec, size);
    return p;
}

SITE(site_after_exec);
static NOINLINE void *site_after_exec(size_t size) {
    void *p = malloc(size);
    book(&at_site_after_exec, size);
    return p;
}

static void replace_image(void) {
    char *arguments[] = {"exec_self", "again", NULL};
    personality(ADDR_NO_RANDOMIZE);
    execv("/proc/self/exe", arguments);
    _exit(123);
}

int main(int argc, char **argv) {
    (void)argv;
    int later = argc > 1;
    say("ready");
    for (;;) {
        const char *command = await_command();
        if (is(command, "exec")) replace_image();
        if (is(command, "go")) {
            int count = later ? 10 : 1000;
            for (int i = 0; i < count; i++) blocks[used++] = later ? site_after_exec(48) : site_before_exec(48);
            /* Every second one goes again: frees must find this image's blocks, not the old one's. */
            for (int i = 0; i < count; i += 2) {
                free(blocks[i]);
                unbook(later ? &at_site_after_exec : &at_site_before_exec, 48);
            }
        }
        say_expectation();
    }
}
