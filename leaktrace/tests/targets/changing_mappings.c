// build: -O2 -g -fomit-frame-pointer -fno-builtin -pthread -ldl
/* Code that comes and goes while it allocates. Arguments: changing_library-a.so, -b.so, -c.so, milliseconds,
 * how many times.
 * Commands:
 *   exchange   so many times: load a or b, wait so many milliseconds, allocate through it, unload it; a and b get the same
 *              addresses
 *   hasty      the same, but waits only for every second library
 *   threads    the same as exchange, while threads allocate through c
 *   copies     map the code of a, then of b at the same place, by mmap alone, and allocate through it
 *   exec       replace the image by the same program, which says `ready` again
 * The blocks stay, the code does not. `overlapping` counts loads at an address where the other library has been. */
#include "chain.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>

#define FUNCTIONS 10
#define THREADS 3
#define PER_CYCLE 4

typedef void *(*outer)(void *(*)(size_t), size_t);

static const char *const sides[] = {"a", "b", "c"};
static char names[3][FUNCTIONS][2][16]; /* a_outer_0, a_leak_0 and so on */
static char **paths;
static long overlapping, milliseconds, cycles;

static void make_names(void) {
    for (int side = 0; side < 3; side++)
        for (int number = 0; number < FUNCTIONS; number++)
            for (int inner = 0; inner < 2; inner++) {
                char *name = names[side][number][inner];
                strcpy(name, sides[side]);
                strcat(name, inner ? "_leak_" : "_outer_");
                name[strlen(name)] = (char)('0' + number);
            }
}

static NOINLINE void allocate_through(const outer *functions, int side, int number) {
    size_t bytes = 16 + (size_t)(side * FUNCTIONS + number);
    ENTER;
    ENTER_AS(names[side][number][0]);
    ENTER_AS(names[side][number][1]);
    keep(functions[number](malloc, bytes), bytes);
    LEAVE;
    LEAVE;
    LEAVE;
}

static void *load(int side, const outer **functions) {
    void *library = dlopen(paths[side], RTLD_NOW | RTLD_LOCAL);
    if (!library) _exit(124);
    const char *table[] = {"a_outer", "b_outer", "c_outer"};
    *functions = (const outer *)dlsym(library, table[side]);
    if (!*functions) _exit(125);
    return library;
}

/* Where each library was last. */
static uintptr_t last_start[2], last_end[2];

static void note_place(int side, const outer *functions) {
    uintptr_t start = (uintptr_t)functions[0] & ~0xffful, end = start + 4096;
    if (start < last_end[!side] && last_start[!side] < end) overlapping++;
    last_start[side] = start;
    last_end[side] = end;
}

static void wait_for_the_tracer(void) {
    struct timespec nap = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    syscall(SYS_nanosleep, &nap, NULL);
}

static NOINLINE void exchange(int hasty) {
    uint64_t random = 7;
    ENTER;
    for (long cycle = 0; cycle < cycles; cycle++) {
        int side = (int)(next_random(&random) & 1);
        const outer *functions;
        void *library = load(side, &functions);
        note_place(side, functions);
        if (!hasty || cycle % 2 == 0) wait_for_the_tracer();
        for (int i = 0; i < PER_CYCLE; i++)
            allocate_through(functions, side, (int)(next_random(&random) % FUNCTIONS));
        dlclose(library);
    }
    LEAVE;
}

static atomic_int stop;
static NOINLINE void *allocate_meanwhile(void *functions) {
    uint64_t random = 9;
    ENTER;
    do {
        allocate_through((const outer *)functions, 2, (int)(next_random(&random) % FUNCTIONS));
        pause_a_little();
    } while (!stop);
    LEAVE;
    return NULL;
}

static NOINLINE void exchange_beside_threads(void) {
    pthread_t threads[THREADS];
    const outer *functions;
    ENTER;
    load(2, &functions);
    stop = 0;
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, allocate_meanwhile, (void *)functions)) _exit(126);
    exchange(0);
    stop = 1;
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    LEAVE;
}

/* A library's code as the program headers of the loaded library describe it. */
struct code {
    const char *path;
    uintptr_t base;
    size_t file_offset, start, length;
};

static int find_code(struct dl_phdr_info *info, size_t size, void *argument) {
    struct code *code = argument;
    (void)size;
    if (strcmp(info->dlpi_name, code->path)) return 0;
    code->base = info->dlpi_addr;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        if (header->p_type == PT_LOAD && header->p_flags & PF_X) {
            code->file_offset = header->p_offset & ~0xffful;
            code->start = header->p_vaddr & ~0xffful;
            code->length = (header->p_vaddr + header->p_memsz - code->start + 4095) & ~0xffful;
        }
    }
    return 1;
}

/* Maps the code alone, at `place` if there is one, and allocates through every function. */
static NOINLINE void *map_copy(int side, void *place) {
    struct code code = {.path = paths[side]};
    const outer *loaded;
    outer copied[FUNCTIONS];
    ENTER;
    void *library = load(side, &loaded);
    dl_iterate_phdr(find_code, &code);
    int file = open(paths[side], O_RDONLY);
    int flags = MAP_PRIVATE | (place ? MAP_FIXED : 0);
    if (place && side == 0) munmap(place, code.length); /* else the mapping replaces what is there */
    char *at = mmap(place, code.length, PROT_READ | PROT_EXEC, flags, file, (off_t)code.file_offset);
    if (at == MAP_FAILED) _exit(127);
    close(file);
    for (int i = 0; i < FUNCTIONS; i++) copied[i] = (outer)(at + ((uintptr_t)loaded[i] - code.base - code.start));
    dlclose(library);
    wait_for_the_tracer();
    for (int i = 0; i < FUNCTIONS; i++) allocate_through(copied, side, i);
    LEAVE;
    return at;
}

static void replace_image(char **argv) {
    execv("/proc/self/exe", argv);
    _exit(123);
}

int main(int argc, char **argv) {
    if (argc < 6) return 2;
    milliseconds = argument(argc, argv, 4, 0);
    cycles = argument(argc, argv, 5, 0);
    paths = argv + 1;
    make_names();
    ENTER;
    say("ready");
    for (;;) {
        const char *command = await_command();
        if (is(command, "exchange")) exchange(0);
        if (is(command, "hasty")) exchange(1);
        if (is(command, "threads")) exchange_beside_threads();
        if (is(command, "copies")) {
            void *place = map_copy(0, NULL);
            for (int i = 0; i < 20; i++) map_copy(!(i & 1), place);
        }
        if (is(command, "exec")) replace_image(argv);
        say_number("overlapping", overlapping);
        say_chains();
    }
}
