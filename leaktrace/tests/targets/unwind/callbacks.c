// build: -O2 -g
/* Allocates in functions that the C library calls back, and on stacks that the program has made itself. */
#include "../protocol.h"
#include <ftw.h>
#include <glob.h>
#include <dirent.h>
#include <iconv.h>
#include <link.h>
#include <locale.h>
#include <netdb.h>
#include <obstack.h>
#include <printf.h>
#include <search.h>
#include <stdio.h>
#include <ucontext.h>

#define obstack_chunk_alloc malloc
#define obstack_chunk_free free

static uint64_t random_state = 5;
static volatile long sink;

static uint32_t draw(uint32_t below) { return next_random(&random_state) % below; }

static NOINLINE void allocate(void) {
    void *p = malloc(draw(500) + 1);
    __asm__ volatile("" ::"r"(p) : "memory");
    free(p);
}

static NOINLINE void deeper(int depth) {
    if (depth <= 0) allocate();
    else deeper(depth - 1);
    sink++;
}

static int compare(const void *a, const void *b) {
    if (draw(20) == 0) deeper((int)draw(5));
    return *(const int *)a - *(const int *)b;
}

static int compare_with(const void *a, const void *b, void *how) {
    deeper((int)draw(3));
    return (*(const int *)a - *(const int *)b) * *(int *)how;
}

static void sorting(void) {
    int values[300], how = -1;
    for (size_t i = 0; i < 300; i++) values[i] = (int)draw(1000);
    qsort(values, draw(300), sizeof *values, compare);
    qsort_r(values, draw(20), sizeof *values, compare_with, &how);
    int key = 7;
    sink += bsearch(&key, values, 300, sizeof *values, compare) != NULL;
    size_t count = 300;
    sink += lfind(&key, values, &count, sizeof *values, compare) != NULL;
}

static void visit(const void *node, VISIT order, int depth) {
    (void)node, (void)depth;
    if (order == leaf) deeper(2);
}

static void forget_node(void *node) {
    (void)node;
    deeper(1);
}

static void tree(void) {
    void *root = NULL;
    static int values[64];
    for (size_t i = 0; i < 64; i++) values[i] = (int)draw(500), tsearch(&values[i], &root, compare);
    twalk(root, visit);
    tdestroy(root, forget_node);
}

static int keep(const struct dirent *entry) {
    deeper(1);
    return entry->d_name[0] != '.';
}

static void directories(void) {
    struct dirent **names;
    int count = scandir("/", &names, keep, alphasort);
    for (int i = 0; i < count; i++) free(names[i]);
    if (count >= 0) free(names);
    glob_t found;
    if (glob("/usr/*/lib*", GLOB_BRACE, NULL, &found) == 0) globfree(&found);
}

static int seen_file(const char *path, const struct stat *status, int kind, struct FTW *at) {
    (void)path, (void)status, (void)kind, (void)at;
    deeper(1);
    return draw(30) == 0;
}

static int seen_object(struct dl_phdr_info *info, size_t size, void *data) {
    (void)info, (void)size, (void)data;
    deeper((int)draw(4));
    return 0;
}

static ssize_t written(void *cookie, const char *text, size_t length) {
    (void)cookie, (void)text;
    deeper((int)draw(3));
    return (ssize_t)length;
}

static void streams(void) {
    FILE *stream = fopencookie(NULL, "w", (cookie_io_functions_t){.write = written});
    if (!stream) return;
    setvbuf(stream, NULL, _IOLBF, 64);
    fprintf(stream, "%d %s %f\n%*d\n", 5, "words", 3.25, 100, 1);
    fclose(stream);
}

static int print_thing(FILE *stream, const struct printf_info *info, const void *const *arguments) {
    (void)info, (void)arguments;
    deeper(2);
    return fprintf(stream, "thing");
}

static int thing_arguments(const struct printf_info *info, size_t n, int *types, int *sizes) {
    (void)info, (void)sizes;
    if (n > 0) types[0] = PA_INT;
    return 1;
}

static void printing(void) {
    char text[100];
    const char *volatile format = "<%Y>";
    snprintf(text, sizeof text, format, 5);
}

static void conversions(void) {
    iconv_t converter = iconv_open("UTF-16", "LATIN1");
    if (converter != (iconv_t)-1) iconv_close(converter);
    struct addrinfo *found, hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    if (getaddrinfo("127.0.0.1", "80", &hints, &found) == 0) freeaddrinfo(found);
    locale_t locale = newlocale(LC_ALL_MASK, "C.UTF-8", NULL);
    if (locale) freelocale(locale);
}

static void stacked(void) {
    struct obstack stack;
    obstack_init(&stack);
    for (int i = 0; i < 5; i++) obstack_alloc(&stack, draw(3000));
    obstack_free(&stack, NULL);
}

static ucontext_t outside, inside;
static char own_stack[65536] __attribute__((aligned(16)));

static void on_own_stack(int depth) { deeper(depth); }

static void contexts(void) {
    getcontext(&inside);
    inside.uc_stack.ss_sp = own_stack;
    inside.uc_stack.ss_size = sizeof own_stack;
    inside.uc_link = &outside;
    makecontext(&inside, (void (*)(void))on_own_stack, 1, (int)draw(6));
    swapcontext(&outside, &inside);
}

int main(void) {
    register_printf_specifier('Y', print_thing, thing_arguments);
    say("ready");
    for (;;) {
        switch (draw(11)) {
        case 0: tree(); break;
        case 1: directories(); break;
        case 2: nftw("/etc", seen_file, 8, FTW_PHYS); break;
        case 3: dl_iterate_phdr(seen_object, NULL); break;
        case 4: streams(); break;
        case 5: printing(); break;
        case 6: conversions(); break;
        case 7: stacked(); break;
        case 8: contexts(); break;
        default: sorting(); break;
        }
    }
}
