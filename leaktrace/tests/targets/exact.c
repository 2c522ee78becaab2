// build: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread
// build[static]: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread -static
// build[static-pie]: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread -static-pie
// build[musl]: musl-gcc -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread
// build[musl-static]: musl-gcc -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread -static
// build[own]: -fno-inline -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread -DOWN_ALLOCATOR
/* Every function of the malloc family in every case, one thread. One site function per case. Commands: `go` makes
 * the blocks, `free` gives back all but a few, `again` does a long random mix. */
#include "protocol.h"
#include <malloc.h>
#ifdef OWN_ALLOCATOR
#include "size_class.c"
#endif

/* More than any address space has; volatile, because compilers warn about what they can see. */
static volatile size_t huge_size = (size_t)1 << 62;

enum { MANY = 4096 };
static struct block blocks[MANY];
static int used;

static void keep(void *address, size_t size, struct site *site) {
    if (!address) return;
    memset(address, 0x5a, size < 16 ? size : 16);
    book(site, size);
    blocks[used++] = (struct block){address, size, site};
}

SITE(site_malloc);
static NOINLINE void *site_malloc(size_t size) {
    void *p = malloc(size);
    keep(p, size, &at_site_malloc);
    return p;
}

SITE(site_malloc_zero);
static NOINLINE void *site_malloc_zero(void) {
    void *p = malloc(0);
    keep(p, 0, &at_site_malloc_zero);
    return p;
}

SITE(site_malloc_too_large);
static NOINLINE void *site_malloc_too_large(void) {
    void *p = malloc(huge_size);
    keep(p, huge_size, &at_site_malloc_too_large);
    return p;
}

SITE(site_calloc);
static NOINLINE void *site_calloc(size_t count, size_t size) {
    void *p = calloc(count, size);
    keep(p, count * size, &at_site_calloc);
    return p;
}

SITE(site_calloc_overflow);
static NOINLINE void *site_calloc_overflow(void) {
    void *p = calloc(huge_size, 16);
    keep(p, 0, &at_site_calloc_overflow);
    return p;
}

/* A realloc of `*block` from the function whose site is given; books what it did. */
static void moved(struct block *block, void *fresh, size_t size, struct site *site) {
    if (!fresh) return;
    unbook(block->site, block->size);
    book(site, size);
    *block = (struct block){fresh, size, site};
}

SITE(site_realloc_null);
static NOINLINE void *site_realloc_null(size_t size) {
    void *p = realloc(NULL, size);
    keep(p, size, &at_site_realloc_null);
    return p;
}

SITE(site_realloc_grow);
static NOINLINE void *site_realloc_grow(struct block *block, size_t size) {
    void *p = realloc(block->address, size);
    moved(block, p, size, &at_site_realloc_grow);
    return p;
}

SITE(site_realloc_shrink);
static NOINLINE void *site_realloc_shrink(struct block *block, size_t size) {
    void *p = realloc(block->address, size);
    moved(block, p, size, &at_site_realloc_shrink);
    return p;
}

SITE(site_realloc_same);
static NOINLINE void *site_realloc_same(struct block *block) {
    void *p = realloc(block->address, block->size);
    moved(block, p, block->size, &at_site_realloc_same);
    return p;
}

SITE(site_realloc_fails);
static NOINLINE void *site_realloc_fails(struct block *block) {
    void *p = realloc(block->address, huge_size);
    moved(block, p, huge_size, &at_site_realloc_fails);
    return p;
}

/* glibc frees and returns NULL; musl returns a block of no bytes. */
SITE(site_realloc_zero);
static NOINLINE void *site_realloc_zero(struct block *block) {
    void *p = realloc(block->address, 0);
    unbook(block->site, block->size);
    if (p) book(&at_site_realloc_zero, 0);
    *block = (struct block){p, 0, &at_site_realloc_zero};
    return p;
}

SITE(site_reallocarray);
static NOINLINE void *site_reallocarray(struct block *block, size_t count, size_t size) {
    void *p = reallocarray(block->address, count, size);
    moved(block, p, count * size, &at_site_reallocarray);
    return p;
}

SITE(site_reallocarray_null);
static NOINLINE void *site_reallocarray_null(size_t count, size_t size) {
    void *p = reallocarray(NULL, count, size);
    keep(p, count * size, &at_site_reallocarray_null);
    return p;
}

SITE(site_reallocarray_overflow);
static NOINLINE void *site_reallocarray_overflow(struct block *block) {
    void *p = reallocarray(block->address, huge_size, 16);
    moved(block, p, 0, &at_site_reallocarray_overflow);
    return p;
}

SITE(site_posix_memalign);
static NOINLINE void *site_posix_memalign(size_t alignment, size_t size) {
    void *p = NULL;
    if (posix_memalign(&p, alignment, size) != 0) return NULL;
    keep(p, size, &at_site_posix_memalign);
    return p;
}

/* The result pointer must be left alone: what it held before is no new block. */
SITE(site_posix_memalign_fails);
static NOINLINE void *site_posix_memalign_fails(void *before) {
    void *p = before;
    if (posix_memalign(&p, 3, 100) == 0) keep(p, 100, &at_site_posix_memalign_fails);
    return p;
}

SITE(site_posix_memalign_no_memory);
static NOINLINE void *site_posix_memalign_no_memory(void *before) {
    void *p = before;
    if (posix_memalign(&p, 64, huge_size) == 0) keep(p, huge_size, &at_site_posix_memalign_no_memory);
    return p;
}

SITE(site_aligned_alloc);
static NOINLINE void *site_aligned_alloc(size_t alignment, size_t size) {
    void *p = aligned_alloc(alignment, size);
    keep(p, size, &at_site_aligned_alloc);
    return p;
}

SITE(site_memalign);
static NOINLINE void *site_memalign(size_t alignment, size_t size) {
    void *p = memalign(alignment, size);
    keep(p, size, &at_site_memalign);
    return p;
}

SITE(site_valloc);
static NOINLINE void *site_valloc(size_t size) {
    void *p = valloc(size);
    keep(p, size, &at_site_valloc);
    return p;
}

#if defined(__GLIBC__)
SITE(site_pvalloc);
static NOINLINE void *site_pvalloc(size_t size) {
    void *p = pvalloc(size);
    keep(p, size, &at_site_pvalloc);
    return p;
}
#endif

SITE(site_realloc_unseen);
static NOINLINE void *site_realloc_unseen(void *unseen, size_t size) {
    void *p = realloc(unseen, size);
    keep(p, size, &at_site_realloc_unseen);
    return p;
}

static void give_back(struct block *block) {
    free(block->address);
    if (block->address && block->site) unbook(block->site, block->size);
    *block = (struct block){NULL, 0, NULL};
}

static void reallocate_every_way(void) {
    int first = used;
    for (int i = 0; i < 24; i++) site_malloc(200 + (size_t)i * 40);
    site_realloc_grow(&blocks[first], 150000);          /* moved, from the heap into a mapping of its own */
    site_realloc_grow(&blocks[first], 900000);          /* moved by mremap */
    site_realloc_grow(&blocks[first + 23], 1200);       /* the last block before the top: grows in place */
    site_realloc_grow(&blocks[first + 1], 5000);        /* neighbours are in use: moved */
    site_realloc_shrink(&blocks[first + 2], 8);
    site_realloc_shrink(&blocks[first], 64);            /* back into the heap */
    site_realloc_same(&blocks[first + 3]);
    site_realloc_zero(&blocks[first + 4]);
    for (int i = 5; i < 9; i++) site_realloc_fails(&blocks[first + i]);
    site_realloc_grow(&blocks[first + 8], 3000);        /* a block that survived a failure can still move */
    site_reallocarray(&blocks[first + 9], 30, 77);
    for (int i = 10; i < 13; i++) site_reallocarray_overflow(&blocks[first + i]);
    give_back(&blocks[first + 12]);                     /* and one that survived can still be freed */
    site_realloc_null(321);
    site_realloc_null(0);
    site_reallocarray_null(7, 11);
}

static void make_blocks(void) {
    for (int i = 0; i < 50; i++) site_malloc((size_t)(i * 37 % 5000));
    site_malloc(1 << 20);
    for (int i = 0; i < 5; i++) site_malloc_zero();
    site_malloc_too_large();
    for (int i = 1; i < 20; i++) site_calloc((size_t)i, 13);
    site_calloc(0, 8);
    site_calloc_overflow();
    reallocate_every_way();
    for (size_t alignment = 8; alignment <= 4096; alignment *= 2) {
        site_posix_memalign(alignment, alignment + 5);
        site_aligned_alloc(alignment, alignment * 3);
        site_memalign(alignment, 17);
    }
    site_posix_memalign_fails(blocks[0].address);
    site_posix_memalign_no_memory(blocks[0].address);
    site_valloc(100);
#if defined(__GLIBC__)
    site_pvalloc(100);
#endif
    for (int i = 0; i < 10; i++) free(NULL);
}

static void *born_before[8];

/* Blocks that the tracer never saw: seven are freed, one is moved, of which only the new place counts. */
static void free_born_before(void) {
    for (int i = 0; i < 7; i++) {
        free(born_before[i]);
        unmatched_frees++;
    }
    site_realloc_unseen(born_before[7], 4000);
    unmatched_frees++;
}

static void free_most(void) {
    for (int i = 0; i < used; i++)
        if (i % 7 != 0) give_back(&blocks[i]);
}

static void random_mix(void) {
    uint64_t random = 42;
    static struct block ring[256];
    for (int i = 0; i < 20000; i++) {
        struct block *slot = &ring[next_random(&random) % 256];
        size_t size = next_random(&random) % 3000 + 1;
        if (!slot->address) {
            site_malloc(size);
            *slot = blocks[--used];
        } else if (next_random(&random) % 3 == 0) {
            give_back(slot);
        } else {
            site_realloc_grow(slot, size);
        }
    }
}

int main(void) {
    for (int i = 0; i < 8; i++) born_before[i] = malloc((size_t)(100 + i));
    say_address("malloc", (void *)malloc);
    say_address("free", (void *)free);
    say_address("calloc", (void *)calloc);
    say_address("realloc", (void *)realloc);
    say("ready");
    for (;;) {
        const char *command = await_command();
        if (is(command, "go")) make_blocks();
        if (is(command, "free")) free_most();
        if (is(command, "again")) random_mix();
        if (is(command, "free-old")) free_born_before();
        say_expectation();
    }
}
