// build: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread
/* A second thread answers from the start. On the command `leave` the main thread ends, and the process lives on
 * without it; `go` allocates and frees. */
#include "protocol.h"
#include <fcntl.h>

static _Atomic int leaving;

SITE(site_second_thread);
static NOINLINE void *site_second_thread(size_t size) {
    void *p = malloc(size);
    book(&at_site_second_thread, size);
    return p;
}

static void go(void) {
    for (size_t i = 0; i < 1000; i++) {
        void *p = site_second_thread(i + 1);
        if (i % 10 == 0) continue;
        free(p);
        unbook(&at_site_second_thread, i + 1);
    }
}

/* A main thread that has ended stays as a zombie until the others have. */
static int is_zombie(void) {
    static char text[256];
    int file = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    if (file < 0) _exit(121);
    ssize_t n = read(file, text, sizeof text - 1);
    close(file);
    text[n > 0 ? n : 0] = 0;
    return strstr(text, ") Z ") != NULL;
}

static void *serve(void *unused) {
    say("ready");
    for (;;) {
        const char *command = await_command();
        if (is(command, "go")) go();
        if (is(command, "leave")) {
            leaving = 1;
            while (!is_zombie()) usleep(1000);
        }
        say_expectation();
    }
    return unused;
}

int main(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, serve, NULL)) return 1;
    while (!leaving) usleep(1000);
    /* Of this thread alone, and without the C library's tidying up. */
    syscall(SYS_exit, 0);
}
