// build: -O1 -g -fno-omit-frame-pointer -fno-builtin
// build[static]: -O1 -g -fno-omit-frame-pointer -fno-builtin -static
/* For `-- COMMAND`: allocates in a constructor and in main, prints one line of its own and its expectation into the file
 * named by the first argument, and ends with the status given by the second, or by the signal given by the third. */
#include "protocol.h"
#include <fcntl.h>

SITE(site_constructor);
static NOINLINE void *site_constructor(size_t size) {
    void *p = malloc(size);
    book(&at_site_constructor, size);
    return p;
}

SITE(site_main);
static NOINLINE void *site_main(size_t size) {
    void *p = malloc(size);
    book(&at_site_main, size);
    return p;
}

static void *kept[300];

__attribute__((constructor)) static void before_main(void) {
    for (int i = 0; i < 100; i++) kept[i] = site_constructor((size_t)i + 1);
}

int main(int argc, char **argv) {
    for (int i = 100; i < 300; i++) kept[i] = site_main((size_t)i);
    for (int i = 0; i < 300; i += 3) {
        free(kept[i]);
        if (i < 100) unbook(&at_site_constructor, (size_t)i + 1);
        else unbook(&at_site_main, (size_t)i);
    }
    say("the command's own output");
    int out = argc > 1 ? open(argv[1], O_WRONLY | O_CREAT | O_TRUNC, 0644) : -1;
    if (out >= 0) {
        dup2(out, 1);
        say_expectation();
    }
    if (argc > 3) kill(getpid(), (int)argument(argc, argv, 3, 9));
    return (int)argument(argc, argv, 2, 0);
}
