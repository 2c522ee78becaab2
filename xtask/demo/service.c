// build: -O1 -g -fno-omit-frame-pointer -fno-optimize-sibling-calls
//
// A small service with a leak, for `cargo xtask demo`: it answers made-up requests in a loop. Every part gives its
// memory back, except for session_remember(), which keeps a buffer per visitor and never lets go of one.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NOINLINE __attribute__((noinline))
#define CACHE_SLOTS 256

struct request {
    unsigned long number;
    char *path;
    char *visitor;
};

struct session {
    struct session *next;
    char visitor[32];
    char last_page[480];
};

static struct session *sessions;
static char *cache[CACHE_SLOTS];

static NOINLINE char *copy_text(const char *text)
{
    char *copy = malloc(strlen(text) + 1);
    if (!copy)
        abort();
    return strcpy(copy, text);
}

static NOINLINE struct request *request_parse(unsigned long number)
{
    char text[64];
    struct request *request = calloc(1, sizeof *request);
    if (!request)
        abort();
    request->number = number;
    snprintf(text, sizeof text, "/article/%lu", number % 997);
    request->path = copy_text(text);
    snprintf(text, sizeof text, "visitor-%lu", number);
    request->visitor = copy_text(text);
    return request;
}

static NOINLINE void request_drop(struct request *request)
{
    free(request->path);
    free(request->visitor);
    free(request);
}

// The leak: meant to be keyed by visitor and to expire, but only ever prepends.
static NOINLINE void session_remember(const struct request *request)
{
    struct session *session = malloc(sizeof *session);
    if (!session)
        abort();
    snprintf(session->visitor, sizeof session->visitor, "%s", request->visitor);
    snprintf(session->last_page, sizeof session->last_page, "%s", request->path);
    session->next = sessions;
    sessions = session;
}

// Lives long, but is bounded: no leak.
static NOINLINE void cache_store(const struct request *request, const char *page)
{
    char **slot = &cache[request->number % CACHE_SLOTS];
    free(*slot);
    *slot = copy_text(page);
}

static NOINLINE char *page_render(const struct request *request)
{
    size_t size = 64;
    char *page = malloc(size);
    for (int line = 0; page && line < 6; line++) {
        size *= 2;
        page = realloc(page, size);
    }
    if (!page)
        abort();
    snprintf(page, size, "<h1>%s</h1><p>Hello, %s", request->path, request->visitor);
    return page;
}

static NOINLINE void request_handle(unsigned long number)
{
    struct request *request = request_parse(number);
    char *page = page_render(request);
    cache_store(request, page);
    session_remember(request);
    free(page);
    request_drop(request);
}

static NOINLINE void serve_forever(void)
{
    const struct timespec between = {.tv_nsec = 1000 * 1000};
    for (unsigned long number = 0;; number++) {
        request_handle(number);
        nanosleep(&between, NULL);
    }
}

int main(void)
{
    puts("ready");
    fflush(stdout);
    serve_forever();
}
