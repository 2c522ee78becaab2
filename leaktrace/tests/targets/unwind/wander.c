// build: -O2 -g
// build[O3]: -O3 -g -fomit-frame-pointer
// build[static]: -O2 -g -static
// build[static-musl]: musl-gcc -O2 -g -static -DOWN_CODE_ONLY
// build[realigned]: -O2 -g -mstackrealign -fno-inline
// build[static-pie]: -O2 -g -static-pie -fPIE
// build[stripped]: -O2 -s
// build[size]: -Os -g
/* Wanders through functions of every shape that compilers give frames to, and allocates at the end of each way.
 * OWN_CODE_ONLY: never in the C library's own functions (musl's have no unwind information: nobody can tell who
 * called them). */
#include "../protocol.h"
#include <alloca.h>
#include <dirent.h>
#include <regex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <wchar.h>

static uint64_t random_state = 1;
static volatile long sink;

static uint32_t draw(uint32_t below) { return next_random(&random_state) % below; }

static long wander(int depth);

__attribute__((unused)) static NOINLINE void through_the_library(void) {
    char *line = NULL;
    size_t size = 0;
    switch (draw(8)) {
    case 0: free(strdup("a string")); break;
    case 1:
        if (asprintf(&line, "%ld and %s", sink, "more") > 0) free(line);
        break;
    case 2: {
        FILE *stream = open_memstream(&line, &size);
        fprintf(stream, "%d %.9f", 5, 1.5);
        fclose(stream);
        free(line);
        break;
    }
    case 3: {
        DIR *directory = opendir("/");
        if (directory) closedir(directory);
        break;
    }
    case 4: {
        regex_t pattern;
        if (regcomp(&pattern, "^(a|b[c-e])*f+$", REG_EXTENDED) == 0) {
            sink += regexec(&pattern, "abcbdff", 0, NULL, 0);
            regfree(&pattern);
        }
        break;
    }
    case 5: free(getcwd(NULL, 0)); break;
    case 6: free(realpath("/usr/bin/../lib", NULL)); break;
    default: free(wcsdup(L"wide")); break;
    }
}

static NOINLINE long allocate(size_t size) {
    void *p = NULL;
#ifdef OWN_CODE_ONLY
    p = malloc(size);
#else
    switch (draw(6)) {
    case 0: p = malloc(size); break;
    case 1: p = calloc(3, size); break;
    case 2: p = realloc(malloc(size), size * 9); break;
    case 3:
        if (posix_memalign(&p, 64, size) != 0) p = NULL;
        break;
    case 4: p = aligned_alloc(128, (size / 128 + 1) * 128); break;
    default: through_the_library(); break;
    }
#endif
    __asm__ volatile("" ::"r"(p) : "memory");
    free(p);
    return (long)size;
}

static NOINLINE long plain(int depth) { return wander(depth - 1) + 1; }

static NOINLINE long tail(int depth) { return wander(depth - 1); }

/* Frame above the page of the stack pointer's probes. */
static NOINLINE long large_frame(int depth) {
    volatile char room[70000];
    room[draw(sizeof room)] = 1;
    return wander(depth - 1) + room[5];
}

static NOINLINE long on_the_stack(int depth) {
    volatile char *room = alloca(draw(3000) + 1);
    room[0] = 1;
    return wander(depth - 1) + room[0];
}

static NOINLINE long variable_array(int depth, int n) {
    volatile long values[n + 1];
    values[n] = depth;
    return wander(depth - 1) + values[n];
}

static NOINLINE long aligned_locals(int depth) {
    _Alignas(64) volatile char room[128];
    room[draw(sizeof room)] = 1;
    return wander(depth - 1) + room[7];
}

static NOINLINE long aligned_and_variable(int depth, int n) {
    _Alignas(32) volatile char room[64];
    volatile char *more = alloca((size_t)n + 1);
    room[n % 64] = more[0] = 1;
    return wander(depth - 1) + room[7] + more[0];
}

__attribute__((force_align_arg_pointer)) static NOINLINE long realigned(int depth) { return wander(depth - 1) + 3; }

static NOINLINE long many_arguments(int depth, long a, long b, long c, long d, long e, long f, long g, long h) {
    long rest = wander(depth - 1);
    return rest + a + b * c + d * e + f * g + h;
}

static NOINLINE long any_arguments(int depth, ...) {
    va_list list;
    va_start(list, depth);
    long sum = va_arg(list, long) + (long)va_arg(list, double);
    va_end(list);
    return sum + wander(depth - 1);
}

/* Saves every register that it must, and uses all of them. */
static NOINLINE long busy_registers(int depth, long a, long b, long c) {
    long d = a * 3, e = b * 5, f = c * 7, g = a ^ b, h = b ^ c;
    for (int i = 0; i < 3; i++) {
        long w = i == 1 ? wander(depth - 1) : 0;
        a += d ^ w, b += e, c += f, d += g, e += h, f -= a, g -= b, h -= c;
    }
    return a + b + c + d + e + f + g + h;
}

/* Most ways through it need no frame. */
static NOINLINE long shrink_wrapped(int depth, int n) {
    if (n == 0) return tail(depth);
    if (n == 1) return plain(depth);
    long kept = draw(100);
    long first = wander(depth - 1);
    return first * kept + n;
}

__attribute__((cold, noinline)) static long cold(int depth) { return wander(depth - 1) + 2; }

static NOINLINE long half_cold(int depth, int n) {
    if (__builtin_expect(n == 3, 0)) {
        sink += cold(depth);
        return allocate(100) + n;
    }
    return wander(depth - 1) + 1;
}

static NOINLINE long jumps_back(int depth) {
    jmp_buf buffer;
    if (setjmp(buffer) == 0) {
        sink += wander(depth - 1);
        longjmp(buffer, 1);
    }
    return allocate(40);
}

static NOINLINE long knows_its_frame(int depth) { return wander(depth - 1) + ((long)__builtin_frame_address(0) & 1); }

#ifndef __clang__
static NOINLINE long through(long (*function)(int), int depth) { return function(depth) + 1; }

/* The inner function finds its parent's locals through a register, and its address is code on the stack. */
static NOINLINE long nested(int depth) {
    long local = depth;
    long inner(int d) {
        local += wander(d - 1);
        return local;
    }
    return through(inner, depth) + local;
}
#endif

static long (*const table[])(int) = {plain, tail, large_frame, on_the_stack, aligned_locals, realigned,
                                     cold,  jumps_back, knows_its_frame, nested};

static NOINLINE long wander(int depth) {
    if (depth <= 0) return allocate(draw(2000) + 1);
    switch (draw(10)) {
    case 0: return variable_array(depth, (int)draw(100)) + 1;
    case 1: return aligned_and_variable(depth, (int)draw(100)) + 1;
    case 2: return many_arguments(depth, 1, 2, 3, 4, 5, 6, 7, sink) + 1;
    case 3: return any_arguments(depth, 5l, 2.5) + 1;
    case 4: return busy_registers(depth, 1, 2, 3) + 1;
    case 5: return shrink_wrapped(depth, (int)draw(4)) + 1;
    case 6: return half_cold(depth, (int)draw(5)) + 1;
    default: return table[draw(sizeof table / sizeof *table)](depth) + 1;
    }
}

int main(void) {
    say("ready");
    for (;;) sink += wander((int)draw(30));
}
