// build: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread
// build[static]: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread -static
// build[musl]: musl-gcc -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread
/* Anonymous memory mapped outside any allocator call. One site function per case; each case ends in the state that is
 * booked. Command `go`. */
#include "protocol.h"

enum { PAGE = 4096 };

static const int read_write = PROT_READ | PROT_WRITE, private = MAP_PRIVATE | MAP_ANONYMOUS;

/* Maps from the function that calls it: the macro keeps the site function the caller of mmap. */
#define MAPPER(function, prot, flags) \
    SITE(function); \
    static NOINLINE char *function(size_t length) { \
        char *p = mmap(NULL, length, prot, flags, -1, 0); \
        if (p != MAP_FAILED) book(&at_##function, length); \
        return p; \
    }

MAPPER(site_map_whole, read_write, private)
MAPPER(site_map_unmapped, read_write, private)
MAPPER(site_map_head_gone, read_write, private)
MAPPER(site_map_tail_gone, read_write, private)
MAPPER(site_map_middle_gone, read_write, private)
MAPPER(site_map_two_at_once, read_write, private)
MAPPER(site_map_partly_replaced, read_write, private)
MAPPER(site_map_grown, read_write, private)
MAPPER(site_map_moved, read_write, private)
MAPPER(site_map_shrunk, read_write, private)
MAPPER(site_map_not_grown, read_write, private)
MAPPER(site_map_shared, read_write, MAP_SHARED | MAP_ANONYMOUS)
MAPPER(site_map_reserved, PROT_NONE, private | MAP_NORESERVE)
MAPPER(site_map_stack, read_write, private | MAP_STACK)
MAPPER(site_map_part_moved, read_write, private)

SITE(site_map_over);
static NOINLINE char *site_map_over(char *where, size_t length) {
    char *p = mmap(where, length, read_write, private | MAP_FIXED, -1, 0);
    if (p != MAP_FAILED) book(&at_site_map_over, length);
    return p;
}

SITE(site_map_fails);
static NOINLINE char *site_map_fails(void) {
    char *p = mmap(NULL, (size_t)1 << 60, read_write, private, -1, 0);
    if (p != MAP_FAILED) book(&at_site_map_fails, (size_t)1 << 60);
    return p;
}

SITE(site_map_file);
static NOINLINE char *site_map_file(int fd) {
    char *p = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0); /* not anonymous: not counted */
    return p;
}

/* What mremap returns belongs to the function that called it, like realloc's. */
SITE(site_remap);
static NOINLINE char *site_remap(char *old, size_t old_length, size_t length, int flags, struct site *owner) {
    char *p = mremap(old, old_length, length, flags);
    if (p == MAP_FAILED) return p;
    owner->bytes -= (long)old_length;
    owner->blocks -= 1;
    book(&at_site_remap, length);
    return p;
}

SITE(site_remap_fails);
static NOINLINE char *site_remap_fails(char *old, size_t old_length) {
    char *p = mremap(old, old_length, (size_t)1 << 60, MREMAP_MAYMOVE);
    __asm__ volatile("" ::: "memory");
    return p;
}

static void unmap_part(char *where, size_t length, struct site *owner) {
    if (munmap(where, length) == 0) owner->bytes -= (long)length;
}

static void unmap_whole(char *where, size_t length, struct site *owner) {
    unmap_part(where, length, owner);
    owner->blocks -= 1;
}

static void unmap_parts(void) {
    char *p = site_map_unmapped(16 * PAGE);
    unmap_whole(p, 16 * PAGE, &at_site_map_unmapped);
    p = site_map_head_gone(10 * PAGE);
    unmap_part(p, 3 * PAGE, &at_site_map_head_gone);
    p = site_map_tail_gone(10 * PAGE);
    unmap_part(p + 6 * PAGE, 4 * PAGE, &at_site_map_tail_gone);
    p = site_map_middle_gone(10 * PAGE);
    unmap_part(p + 2 * PAGE, 5 * PAGE, &at_site_map_middle_gone);
}

/* One call that takes two whole neighbours away; the range is reserved first so that they are neighbours. */
static void unmap_neighbours(void) {
    char *p = site_map_two_at_once(8 * PAGE);
    char *q = site_map_over(p + 4 * PAGE, 4 * PAGE);
    at_site_map_two_at_once.bytes -= 4 * PAGE;
    if (munmap(p, 8 * PAGE) != 0) return;
    at_site_map_two_at_once.bytes -= 4 * PAGE;
    at_site_map_two_at_once.blocks -= 1;
    if (q != MAP_FAILED) unbook(&at_site_map_over, 4 * PAGE);
}

static void replace_part(void) {
    char *p = site_map_partly_replaced(8 * PAGE);
    site_map_over(p, 3 * PAGE);
    at_site_map_partly_replaced.bytes -= 3 * PAGE;
}

static void remap(void) {
    char *p = site_map_grown(4 * PAGE);
    site_remap(p, 4 * PAGE, 64 * PAGE, MREMAP_MAYMOVE, &at_site_map_grown);
    p = site_map_moved(4 * PAGE);
    char *blocker = site_map_whole(4 * PAGE);
    site_remap(p, 4 * PAGE, 4000 * PAGE, MREMAP_MAYMOVE, &at_site_map_moved);
    (void)blocker;
    p = site_map_part_moved(10 * PAGE);
    at_site_map_part_moved.blocks += 1; /* what stays behind is still that block */
    site_remap(p + 4 * PAGE, 2 * PAGE, 6 * PAGE, MREMAP_MAYMOVE, &at_site_map_part_moved);
    p = site_map_shrunk(9 * PAGE);
    site_remap(p, 9 * PAGE, 2 * PAGE, 0, &at_site_map_shrunk);
    p = site_map_not_grown(5 * PAGE);
    site_remap_fails(p, 5 * PAGE);
}

static void *idle(void *unused) {
    for (;;) pause();
    return unused;
}

/* Not counted here: what the C library maps for a thread depends on its version. */
static void start_thread_with_stack(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 3 << 20);
    if (pthread_create(&thread, &attributes, idle, NULL) != 0) _exit(121);
}

int main(void) {
    say("ready");
    for (;;) {
        const char *command = await_command();
        if (is(command, "go")) {
            for (size_t i = 1; i < 20; i++) site_map_whole(i * PAGE);
            unmap_parts();
            unmap_neighbours();
            replace_part();
            remap();
            site_map_fails();
            site_map_shared(7 * PAGE);
            site_map_reserved((size_t)1 << 30);
            site_map_stack(32 * PAGE);
            site_map_file(0);
        }
        if (is(command, "thread")) start_thread_with_stack();
        say_expectation();
    }
}
