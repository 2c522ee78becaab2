/* Which functions a program is in, as it knows them itself: each says so on entering and on leaving, and blocks are
 * booked under the whole chain, innermost first: `site;caller;main`. A `*` stands for frames of other objects, such as
 * those of a library that calls back. Nothing here allocates. */
#pragma once
#include "protocol.h"

#define MOST_CHAINS 4096
#define LONGEST_CHAIN 160
#define CHAIN_TEXT 2048

/* Volatile: the compiler believes that library functions such as raise do not come back into this file. */
static __thread const char *volatile chain_names[LONGEST_CHAIN];
static __thread volatile int chain_depth;

#define ENTER_AS(name) (chain_names[chain_depth++] = (name))
#define ENTER ENTER_AS(__func__)
/* As the last thing in a function it also keeps a call in front of it from becoming a jump. */
#define LEAVE ((void)chain_depth--)
#define FOREIGN ENTER_AS("*")

struct chain {
    char text[CHAIN_TEXT];
    long bytes, blocks;
};
static struct chain chains[MOST_CHAINS];
static int chain_count;
static atomic_flag chains_busy = ATOMIC_FLAG_INIT;

/* `site;caller;main` of this moment. */
static void write_chain(char *text) {
    size_t used = 0;
    for (int i = chain_depth; i-- > 0;) {
        size_t length = strlen(chain_names[i]);
        if (used + length + 2 > CHAIN_TEXT) _exit(121);
        if (used) text[used++] = ';';
        memcpy(text + used, chain_names[i], length);
        used += length;
    }
    text[used] = 0;
}

static struct chain *chain_of(const char *text) {
    for (int i = 0; i < chain_count; i++)
        if (strcmp(chains[i].text, text) == 0) return &chains[i];
    if (chain_count == MOST_CHAINS) _exit(122);
    strcpy(chains[chain_count].text, text);
    return &chains[chain_count++];
}

/* Books a block under the chain of this moment. */
static void __attribute__((unused)) keep(void *block, size_t bytes) {
    char text[CHAIN_TEXT];
    if (!block) _exit(123);
    write_chain(text);
    while (atomic_flag_test_and_set(&chains_busy)) sched_yield();
    struct chain *chain = chain_of(text);
    chain->bytes += (long)bytes;
    chain->blocks += 1;
    atomic_flag_clear(&chains_busy);
}

/* Prints `stack BYTES BLOCKS CHAIN` for every chain, then the usual answer. */
static void __attribute__((unused)) say_chains(void) {
    while (atomic_flag_test_and_set(&chains_busy)) sched_yield();
    for (int i = 0; i < chain_count; i++) {
        struct line line = {.length = 0};
        add_text(&line, "stack ");
        add_number(&line, chains[i].bytes);
        add_text(&line, " ");
        add_number(&line, chains[i].blocks);
        add_text(&line, " ");
        write_all(line.text, line.length);
        write_all(chains[i].text, strlen(chains[i].text));
        write_all("\n", 1);
    }
    atomic_flag_clear(&chains_busy);
    say_expectation();
}
