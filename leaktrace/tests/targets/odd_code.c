// build: -O2 -g -fomit-frame-pointer -fno-builtin
/* Code that a stack walk cannot pass, each kind for a reason of its own, and code made at run time that it can. Every
 * block has a size of its own, because some of the code has no name. Commands: `go`;
 * `map` makes code in a page that is mapped just before. */
#include "chain.h"
#include <alloca.h>

#define USED(value) __asm__ volatile("" ::"r"(value) : "memory")

/* Functions written by hand: `name(bytes)` returns malloc(bytes). */
#define HAND_WRITTEN(name, body) \
    void *name(size_t bytes); \
    __asm__(".text\n.type " #name ", @function\n" #name ":\n" body ".size " #name ", . - " #name "\n")

HAND_WRITTEN(says_nothing, "sub $8, %rsp\n call malloc\n add $8, %rsp\n ret\n");

/* The CFA by an expression that no compiler makes: the word at the word at rsp + 8. */
HAND_WRITTEN(says_it_oddly,
             ".cfi_startproc\n .cfi_escape 0x0f, 4, 0x77, 8, 6, 6\n sub $8, %rsp\n call malloc\n add $8, %rsp\n ret\n"
             ".cfi_endproc\n");

/* rbp is said to be a frame pointer, but points below the stack. */
HAND_WRITTEN(points_inwards,
             ".cfi_startproc\n push %rbp\n .cfi_adjust_cfa_offset 8\n .cfi_rel_offset %rbp, 0\n"
             "lea -256(%rsp), %rbp\n .cfi_def_cfa %rbp, 16\n call malloc\n"
             ".cfi_def_cfa %rsp, 16\n pop %rbp\n .cfi_def_cfa_offset 8\n ret\n .cfi_endproc\n");

/* The same, but it points above the stack, to where no process can have anything. */
HAND_WRITTEN(points_nowhere,
             ".cfi_startproc\n push %rbp\n .cfi_adjust_cfa_offset 8\n .cfi_rel_offset %rbp, 0\n"
             "movabs $0x800000000100, %rbp\n .cfi_def_cfa %rbp, 16\n call malloc\n"
             ".cfi_def_cfa %rsp, 16\n pop %rbp\n .cfi_def_cfa_offset 8\n ret\n .cfi_endproc\n");

/* The return address is said to be where a 1 is. */
HAND_WRITTEN(returns_to_data,
             ".cfi_startproc\n sub $24, %rsp\n .cfi_def_cfa_offset 16\n movq $1, 8(%rsp)\n call malloc\n"
             "add $24, %rsp\n .cfi_def_cfa_offset 8\n ret\n .cfi_endproc\n");

/* What rbp was is said to be unknown; the caller's frame cannot be found without it. */
HAND_WRITTEN(forgets_the_frame_pointer,
             ".cfi_startproc\n .cfi_undefined %rbp\n sub $8, %rsp\n .cfi_def_cfa_offset 16\n call malloc\n"
             "add $8, %rsp\n .cfi_def_cfa_offset 8\n ret\n .cfi_endproc\n");

static NOINLINE void calls(const char *name, void *(*function)(size_t), size_t bytes) {
    ENTER;
    ENTER_AS(name);
    keep(function(bytes), bytes);
    LEAVE;
    LEAVE;
}

static NOINLINE void needs_the_frame_pointer(size_t bytes) {
    char *room = (char *)alloca(bytes);
    USED(room);
    ENTER;
    ENTER_AS("forgets_the_frame_pointer");
    keep(forgets_the_frame_pointer(bytes), bytes);
    LEAVE;
    LEAVE;
    USED(room);
}

static NOINLINE void deeper(int levels) {
    ENTER;
    if (levels > 0) deeper(levels - 1);
    else keep(malloc(1007), 1007);
    LEAVE;
}

/* Code made at run time. `frame` is what it does to rbp after saving it. */
static void *make_code(char *at, const char *frame, size_t length) {
    void *(*allocator)(size_t) = malloc;
    char *code = at;
    *code++ = 0x55; /* push rbp */
    memcpy(code, frame, length);
    code += length;
    *code++ = 0x48, *code++ = (char)0xb8; /* mov rax, malloc */
    memcpy(code, &allocator, 8);
    code += 8;
    memcpy(code, "\xff\xd0\x5d\xc3", 4); /* call rax; pop rbp; ret */
    return at;
}
#define FRAME_POINTER "\x48\x89\xe5"              /* mov rbp, rsp */
#define MISALIGNED "\x48\x8d\x6c\x24\x03"         /* lea rbp, [rsp + 3] */
#define BELOW "\x48\x8d\xac\x24\x00\xff\xff\xff"  /* lea rbp, [rsp - 256] */
#define MAKE_CODE(at, frame) ((void *(*)(size_t))make_code(at, frame, sizeof(frame) - 1))

static char *page;
#define MAPPED_ANYHOW NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0

static NOINLINE void go(void) {
    ENTER;
    calls("says_nothing", says_nothing, 1001);
    calls("says_it_oddly", says_it_oddly, 1002);
    calls("points_inwards", points_inwards, 1003);
    calls("points_nowhere", points_nowhere, 1004);
    calls("returns_to_data", returns_to_data, 1005);
    needs_the_frame_pointer(1006);
    deeper(140);
    calls("*", MAKE_CODE(page, FRAME_POINTER), 2001);
    calls("*", MAKE_CODE(page + 256, MISALIGNED), 2002);
    calls("*", MAKE_CODE(page + 512, BELOW), 2003);
    /* Mapped where nobody sees it: by the system call itself. */
    char *unseen = (char *)syscall(SYS_mmap, MAPPED_ANYHOW);
    calls("*", MAKE_CODE(unseen, FRAME_POINTER), 2004);
    LEAVE;
}

/* A page that is mapped as programs do, while they are traced. */
static NOINLINE void map_and_go(void) {
    ENTER;
    char *fresh = (char *)mmap(MAPPED_ANYHOW);
    if (fresh == MAP_FAILED) _exit(124);
    void *(*made)(size_t) = MAKE_CODE(fresh, FRAME_POINTER);
    for (int i = 0; i < 1000; i++) {
        calls("*", made, 2005);
        pause_a_little();
    }
    LEAVE;
}

int main(void) {
    page = (char *)mmap(MAPPED_ANYHOW);
    if (page == MAP_FAILED) return 2;
    ENTER;
    say("ready");
    for (;;) {
        const char *command = await_command();
        if (is(command, "go")) go();
        if (is(command, "map")) map_and_go();
        say_chains();
    }
}
