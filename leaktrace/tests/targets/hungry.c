// build: -O1 -g
/* Uses memory and time in known amounts. Each command is answered by one line of JSON.
 * `touch N`: N MiB more of its own. `work`: 100 ms of CPU time. `child N`: a child that has N MiB of its own and has worked 100 ms;
 * answers its PID. `crowd N`: so many children that do nothing. `reap`: ends all children. `devour`: more and more memory,
 * until somebody ends it. */
#include "protocol.h"
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

enum { MIB = 1 << 20 };

static void touch(long mib) {
    if (mib <= 0) return;
    char *memory = mmap(NULL, (size_t)mib * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) _exit(121);
    memset(memory, 1, (size_t)mib * MIB);
}

static long cpu_ms(void) {
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return used.tv_sec * 1000 + used.tv_nsec / 1000000;
}

static void work(void) {
    long end = cpu_ms() + 100;
    while (cpu_ms() < end) {
    }
}

/* What follows a command's word. */
static long number_in(const char *command) {
    long value = 0;
    for (const char *c = strchr(command, ' '); c && *++c;) value = value * 10 + (*c - '0');
    return value;
}

static int answer_pipe[2];

static long start_child(long mib, int busy) {
    pid_t parent = getpid(), child = fork();
    char done = 0;
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(122);
        touch(mib);
        if (busy) work();
        if (write(answer_pipe[1], &done, 1) != 1) _exit(123);
        for (;;) pause();
    }
    if (child < 0 || read(answer_pipe[0], &done, 1) != 1) _exit(124);
    return child;
}

static void reap(void) {
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    while (wait(NULL) > 0) {
    }
}

static void answer(long number) {
    struct line line = {.length = 0};
    add_number(&line, number);
    end_line(&line);
}

int main(void) {
    if (pipe(answer_pipe)) return 125;
    setpgid(0, 0);
    say("ready");
    for (;;) {
        const char *command = await_command();
        long number = number_in(command), result = 0;
        if (strncmp(command, "touch", 5) == 0) touch(number);
        else if (is(command, "work")) work();
        else if (strncmp(command, "child", 5) == 0) result = start_child(number, 1);
        else if (strncmp(command, "crowd", 5) == 0) while (number-- > 0) result = start_child(0, 0);
        else if (is(command, "reap")) reap();
        else if (is(command, "devour")) for (;;) touch(1);
        answer(result);
    }
}
