// build: -O1 -g -fno-omit-frame-pointer
/* One allocation through an inlined call in a static function, called by a function that others can see. With JIT, code
 * made at run time stands between the two. `go` allocates, `map` writes the perf map first, `rename` takes another name. */
#include "protocol.h"
#include <fcntl.h>
#include <stdio.h>

enum { SIZE = 4321 };

SITE(names_site);
static inline __attribute__((always_inline)) void *names_inlined(void) {
    void *p = malloc(SIZE); /* line 12 */
    book(&at_names_site, SIZE);
    return p;
}

static NOINLINE void *names_site(void) {
    char *p = names_inlined(); /* line 18 */
    if (p) *p = 1;
    return p;
}

/* Calls `names_site`: push %rbp; mov %rsp,%rbp; mov $names_site,%rax; call *%rax; pop %rbp; ret */
static unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xd0, 0x5d, 0xc3};
static void *(*generated)(void);

static void generate(void) {
    void *(*target)(void) = names_site;
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(code + 6, &target, sizeof target);
    memcpy(page, code, sizeof code);
    generated = (void *(*)(void))page;
}

static void write_map(void) {
    char path[64], line[128];
    snprintf(path, sizeof path, "/tmp/perf-%d.map", (int)getpid());
    int length = snprintf(line, sizeof line, "%lx %lx generated code: names\n", (long)generated, (long)sizeof code);
    int file = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    if (write(file, line, (size_t)length) != length) _exit(121);
    close(file);
}

static void take_a_name(const char *name) {
    int file = open("/proc/self/comm", O_WRONLY);
    if (write(file, name, strlen(name)) < 0) _exit(123);
    close(file);
}

NOINLINE void names_caller(int through_generated) {
    void *p = through_generated ? generated() : names_site();
    if (!p) _exit(122);
    __asm__ volatile("");
}

int main(int argc, char **argv) {
    (void)argv;
    generate();
    say_address("generated", (void *)generated);
    say("ready");
    for (;;) {
        const char *command = await_command();
        if (is(command, "map")) write_map();
        if (is(command, "rename")) take_a_name("\033[2J\n#1  9 TiB");
        names_caller(argc > 1);
        say_expectation();
    }
}
