// build: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread
// build[no-frame-pointer]: -O2 -g -fno-builtin -pthread
// build[filtered]: -O1 -g -fno-omit-frame-pointer -fno-builtin -pthread -DFILTERED
/* Balanced work that never stops by itself: every block is freed a few milliseconds after it was made, by another
 * thread, and what was written into it is checked first. Commands: `stop` quiesces, frees all and answers with the
 * number of blocks found damaged; `go` starts again. */
#include "protocol.h"

#ifdef FILTERED
/* As a container engine would: system calls that the filter does not know are deadly. The two that recent kernels
 * use for probes are among them. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <stdlib.h>
enum { URETPROBE = 335, UPROBE = 336 };
__attribute__((constructor)) static void filter(void) {
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, URETPROBE, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, UPROBE, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof rules / sizeof *rules, rules};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) abort();
}
#endif

enum { THREADS = 2, SLOTS = 64 };

static struct slot {
    _Atomic int taken;
    struct block block;
} slots[SLOTS];
static _Atomic int running = 1, resting;
static _Atomic long damaged, made;

SITE(site_churn);
static NOINLINE void *site_churn(size_t size) {
    void *p = malloc(size);
    book(&at_site_churn, size);
    return p;
}

static int is_intact(const unsigned char *bytes, size_t size) {
    unsigned char expected = (unsigned char)size;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != expected) return 0;
    return 1;
}

static void empty(struct slot *slot) {
    damaged += !is_intact(slot->block.address, slot->block.size);
    free(slot->block.address);
    unbook(slot->block.site, slot->block.size);
    slot->block.address = NULL;
}

static void fill(struct slot *slot, uint64_t *random) {
    size_t size = 1 + next_random(random) % 400;
    slot->block = (struct block){site_churn(size), size, &at_site_churn};
    memset(slot->block.address, (int)(size & 0xff), size);
    made++;
}

/* Slots are visited in order, so that none keeps its block for longer than one round of all of them. */
static void one_round(uint64_t *random) {
    for (int i = 0; i < SLOTS; i++) {
        struct slot *slot = &slots[i];
        if (atomic_exchange(&slot->taken, 1)) continue;
        if (slot->block.address) empty(slot);
        else fill(slot, random);
        atomic_store(&slot->taken, 0);
    }
}

static void *work(void *argument) {
    uint64_t random = (uint64_t)(uintptr_t)argument * 31337;
    for (;;) {
        resting++;
        while (!running) pause_a_little();
        resting--;
        while (running) {
            one_round(&random);
            pause_a_little();
        }
    }
    return NULL;
}

int main(void) {
    for (long i = 0; i < THREADS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)(i + 1)) != 0) return 1;
    }
    say_address("malloc", (void *)malloc);
    say_address("free", (void *)free);
    say_address("calloc", (void *)calloc);
    say_address("realloc", (void *)realloc);
    say("ready");
    for (;;) {
        const char *command = await_command();
        if (is(command, "go")) running = 1;
        if (is(command, "stop")) {
            running = 0;
            while (resting < THREADS) pause_a_little();
            for (int i = 0; i < SLOTS; i++)
                if (slots[i].block.address) empty(&slots[i]);
            say_number("damaged", damaged);
            say_number("made", made);
            say_expectation();
        }
    }
}
