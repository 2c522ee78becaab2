// build[store-first]: -O2 -fPIC -shared -DSTORE_FIRST
// build[nop-first]: -O2 -fPIC -shared -DNOP_FIRST
// build[endbr-first]: -O2 -fPIC -shared -DENDBR_FIRST
// build[push-late]: -O2 -fPIC -shared -DPUSH_LATE
/* An allocator whose malloc and free are leaf functions that keep values below the stack pointer, with five-byte nops
 * in between: a probe on such a nop would let the kernel's call overwrite them. Each function checks what it kept and
 * counts damage in `red_zone_damage`. Blocks are cut from a static arena and never reused. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

char red_zone_arena[256 << 20] __attribute__((aligned(16)));
uint64_t red_zone_next = 0;
uint64_t red_zone_damage = 0;

#define NOP5 ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n\t"

#if defined(STORE_FIRST)
#define BEGIN ""
#elif defined(NOP_FIRST)
#define BEGIN NOP5
#elif defined(ENDBR_FIRST)
#define BEGIN "endbr64\n\t" NOP5
#elif defined(PUSH_LATE)
/* Cheap one-byte nops that a chooser may like, then the five-byte one. */
#define BEGIN "mov %rdi, %rax\n\tnop\n\t"
#endif

#define KEEP_AND_CHECK \
    "mov %rdi, -8(%rsp)\n\t" \
    "movq $0x12345678, -16(%rsp)\n\t" \
    "mov %rdi, -128(%rsp)\n\t" NOP5 "mov -16(%rsp), %rcx\n\t" \
    "xor $0x12345678, %rcx\n\t" \
    "mov -8(%rsp), %rdx\n\t" \
    "xor %rdi, %rdx\n\t" \
    "or %rdx, %rcx\n\t" \
    "mov -128(%rsp), %rdx\n\t" \
    "xor %rdi, %rdx\n\t" \
    "or %rdx, %rcx\n\t" \
    "jz 1f\n\t" \
    "mov red_zone_damage@GOTPCREL(%rip), %rdx\n\t" \
    "lock incq (%rdx)\n\t" \
    "1:\n\t"

__asm__(".text\n\t"
        ".globl malloc\n\t.type malloc, @function\n\t.p2align 4\n"
        "malloc:\n\t" BEGIN KEEP_AND_CHECK
        "lea 31(%rdi), %rcx\n\t"
        "and $-16, %rcx\n\t"
        "mov red_zone_next@GOTPCREL(%rip), %rdx\n\t"
        "lock xadd %rcx, (%rdx)\n\t"
        "mov red_zone_arena@GOTPCREL(%rip), %rax\n\t"
        "add %rcx, %rax\n\t"
        "ret\n\t"
        ".size malloc, . - malloc\n\t"
        ".globl free\n\t.type free, @function\n\t.p2align 4\n"
        "free:\n\t" BEGIN KEEP_AND_CHECK
        "ret\n\t"
        ".size free, . - free\n");

void *malloc(size_t size);

void *calloc(size_t count, size_t size) {
    void *p = malloc(count * size); /* never reused: still zero */
    __asm__ volatile("" ::: "memory");
    return p;
}

void *realloc(void *old, size_t size) {
    char *p = malloc(size);
    /* The size of the old block is unknown; what follows it in the arena is readable. */
    if (p && old) memmove(p, old, size);
    return p;
}
