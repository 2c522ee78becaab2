// build: -O2 -g -ldl
/* Signals interrupt OpenSSL's assembly, whose call frame information computes where it has put the stack pointer. */
#include "interrupt.h"
#include <dlfcn.h>

/* Room for any of the library's contexts. */
static _Alignas(64) char context[4096];
static _Alignas(64) unsigned char data[16384], more[16384], key[64], digest[64];

static uint64_t random_state = 37;

typedef int (*begin)(void *);
typedef int (*update)(void *, const void *, size_t);
typedef int (*finish)(unsigned char *, void *);

struct hash {
    const char *name[3];
    begin begin;
    update update;
    finish finish;
};

static struct hash hashes[] = {
    {.name = {"SHA1_Init", "SHA1_Update", "SHA1_Final"}},
    {.name = {"SHA256_Init", "SHA256_Update", "SHA256_Final"}},
    {.name = {"SHA512_Init", "SHA512_Update", "SHA512_Final"}},
    {.name = {"MD5_Init", "MD5_Update", "MD5_Final"}},
};

static int (*set_key)(const unsigned char *, int, void *);
static void (*encrypt_blocks)(const unsigned char *, unsigned char *, size_t, const void *, unsigned char *, int);

static int find(void) {
    void *library = dlopen("libcrypto.so.3", RTLD_NOW);
    if (!library) return 0;
    for (size_t i = 0; i < sizeof hashes / sizeof *hashes; i++) {
        *(void **)&hashes[i].begin = dlsym(library, hashes[i].name[0]);
        *(void **)&hashes[i].update = dlsym(library, hashes[i].name[1]);
        *(void **)&hashes[i].finish = dlsym(library, hashes[i].name[2]);
        if (!hashes[i].begin || !hashes[i].update || !hashes[i].finish) return 0;
    }
    *(void **)&set_key = dlsym(library, "AES_set_encrypt_key");
    *(void **)&encrypt_blocks = dlsym(library, "AES_cbc_encrypt");
    return set_key && encrypt_blocks;
}

static NOINLINE void hash(const struct hash *hash) {
    hash->begin(context);
    hash->update(context, data, sizeof data);
    hash->finish(digest, context);
}

static NOINLINE void encrypt(void) {
    unsigned char vector[16] = {1};
    set_key(key, 256, context);
    encrypt_blocks(data, more, sizeof data, context, vector, 1);
}

int main(void) {
    if (!find()) return 1;
    say("ready");
    begin_interrupting();
    for (;;) {
        uint32_t choice = next_random(&random_state) % 5;
        if (choice == 4) encrypt();
        else hash(&hashes[choice]);
    }
}
