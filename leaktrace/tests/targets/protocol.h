/* What every target program shares: commands arrive as lines on stdin, answers leave as lines on stdout, and what
 * each allocation site holds is booked in static memory. Nothing here allocates, so the numbers that a program
 * prints are all that its process ever asked of the allocator. */
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#ifdef __cplusplus
/* C's atomic types have no names in C++; programs in that language book from one thread at a time. */
#include <atomic>
#define _Atomic volatile
using std::atomic_flag;
using std::atomic_flag_clear;
using std::atomic_flag_test_and_set;
#else
#include <stdatomic.h>
#endif
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone))

/* One allocation site: the function that calls the allocator. */
struct site {
    const char *name;
    _Atomic long bytes, blocks;         /* held now */
    _Atomic long all_bytes, all_blocks; /* ever allocated */
} __attribute__((aligned(64)));

/* Sites gather in a linker section of their own, so that no program keeps a list by hand. */
#define SITE(function) static struct site at_##function __attribute__((section("sites"), used)) = {.name = #function}
extern struct site __start_sites[] __attribute__((weak)), __stop_sites[] __attribute__((weak));

/* Frees of blocks that were allocated before the tracer came. */
static _Atomic long unmatched_frees;

/* Calls of the allocator that were left without returning. */
static _Atomic long abandoned_calls;

static inline void book(struct site *site, size_t bytes) {
    site->bytes += (long)bytes;
    site->blocks += 1;
    site->all_bytes += (long)bytes;
    site->all_blocks += 1;
}

static inline void unbook(struct site *site, size_t bytes) {
    site->bytes -= (long)bytes;
    site->blocks -= 1;
}

/* A block and who made it. */
struct block {
    void *address;
    size_t size;
    struct site *site;
};

static void write_all(const char *text, size_t length) {
    while (length > 0) {
        ssize_t n = write(1, text, length);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) _exit(120);
        text += n;
        length -= (size_t)n;
    }
}

struct line {
    char text[256];
    size_t length;
};

static void add_text(struct line *line, const char *text) {
    while (*text && line->length < sizeof line->text - 1) line->text[line->length++] = *text++;
}

static void add_number(struct line *line, long value) {
    char digits[24];
    size_t i = sizeof digits;
    unsigned long rest = value < 0 ? 0ul - (unsigned long)value : (unsigned long)value;
    digits[--i] = 0;
    do digits[--i] = (char)('0' + rest % 10);
    while (rest /= 10);
    if (value < 0) digits[--i] = '-';
    add_text(line, digits + i);
}

static void add_address(struct line *line, const void *address) {
    char digits[20];
    size_t i = sizeof digits;
    unsigned long rest = (unsigned long)address;
    digits[--i] = 0;
    do digits[--i] = "0123456789abcdef"[rest % 16];
    while (rest /= 16);
    add_text(line, "0x");
    add_text(line, digits + i);
}

static void end_line(struct line *line) {
    line->text[line->length++] = '\n';
    write_all(line->text, line->length);
    line->length = 0;
}

static void __attribute__((unused)) say(const char *text) {
    struct line line = {.length = 0};
    add_text(&line, text);
    end_line(&line);
}

static void __attribute__((unused)) say_number(const char *name, long value) {
    struct line line = {.length = 0};
    add_text(&line, name);
    add_text(&line, " ");
    add_number(&line, value);
    end_line(&line);
}

static void __attribute__((unused)) say_address(const char *name, const void *address) {
    struct line line = {.length = 0};
    add_text(&line, "address ");
    add_text(&line, name);
    add_text(&line, " ");
    add_address(&line, address);
    end_line(&line);
}

static void say_amount(const char *kind, const char *name, long bytes, long blocks) {
    struct line line = {.length = 0};
    add_text(&line, kind);
    if (name) {
        add_text(&line, " ");
        add_text(&line, name);
    }
    add_text(&line, " ");
    add_number(&line, bytes);
    add_text(&line, " ");
    add_number(&line, blocks);
    end_line(&line);
}

/* Prints what every site holds. The line `total` ends the answer. */
static void __attribute__((unused)) say_expectation(void) {
    long bytes = 0, blocks = 0, all_bytes = 0, all_blocks = 0;
    for (struct site *site = __start_sites; site < __stop_sites; site++) {
        say_amount("expect", site->name, site->bytes, site->blocks);
        say_amount("allocated", site->name, site->all_bytes, site->all_blocks);
        bytes += site->bytes;
        blocks += site->blocks;
        all_bytes += site->all_bytes;
        all_blocks += site->all_blocks;
    }
    say_number("unmatched", unmatched_frees);
    say_number("abandoned", abandoned_calls);
    say_amount("allocated-total", NULL, all_bytes, all_blocks);
    say_amount("total", NULL, bytes, blocks);
}

/* Waits for the next command; `exit` and the end of stdin end the program. */
__attribute__((unused)) static const char *await_command(void) {
    static char command[64];
    size_t length = 0;
    for (;;) {
        char c;
        ssize_t n = read(0, &c, 1);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) _exit(0);
        if (c == '\n') break;
        if (length < sizeof command - 1) command[length++] = c;
    }
    command[length] = 0;
    if (strcmp(command, "exit") == 0) _exit(0);
    return command;
}

static inline int is(const char *command, const char *expected) { return strcmp(command, expected) == 0; }

/* A decimal argument, or `fallback` where there is none. */
static long __attribute__((unused)) argument(int argc, char **argv, int index, long fallback) {
    long value = 0;
    if (index >= argc) return fallback;
    for (const char *c = argv[index]; *c; c++) value = value * 10 + (*c - '0');
    return value;
}

/* A small generator of its own: rand() would lock, and its state would be shared. */
static inline uint32_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(*state >> 33);
}

/* Keeps every thread that calls later on one CPU, so that threads can only take turns. */
static void __attribute__((unused)) pin_to_one_cpu(void) {
    cpu_set_t set, allowed;
    CPU_ZERO(&allowed);
    sched_getaffinity(0, sizeof allowed, &allowed);
    CPU_ZERO(&set);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed)) {
            CPU_SET(cpu, &set);
            break;
        }
    sched_setaffinity(0, sizeof set, &set);
}

/* Lets the other threads run; the only way to wait here that needs no memory. */
static inline void pause_a_little(void) {
    struct timespec nap = {0, 50000};
    syscall(SYS_nanosleep, &nap, NULL);
}
