// build: -O1 -g -fno-omit-frame-pointer -fno-builtin
/* A process that makes others in every way. Workers wait until they are asked; what each holds, it books in memory that all of
 * them share. Commands: `fork`, `orphan` (its parent ends at once) and `exec` (it executes this program again) make a worker;
 * `reuse` makes one with the PID of a process that has just ended; each answers with its PID. `work` has every worker allocate,
 * and free some of what it has inherited, and answers with what each holds. `end` ends the workers. `short` makes processes that
 * end at once: by fork, vfork and posix_spawn; `moments` only by fork, each allocates one block. */
#include "protocol.h"
#include <linux/sched.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { MOST_WORKERS = 64, SHARED = 9, INHERITED = 40, FREED = 4, BLOCKS = 60, SIZE = 72, SHORT = 5, TRIES = 1000 };

struct worker {
    _Atomic int pid, asked, done, end;
    _Atomic long bytes, blocks, all_bytes, all_blocks, freed;
};

static struct worker *workers;
static int count;
static pid_t family;
static void *inherited[INHERITED];
extern char **environ;

SITE(site_parent);
static NOINLINE void *site_parent(size_t size) {
    void *p = malloc(size);
    book(&at_site_parent, size);
    return p;
}

SITE(site_worker);
static NOINLINE void *site_worker(size_t size) {
    void *p = malloc(size);
    book(&at_site_worker, size);
    return p;
}

/* Two in three blocks are kept. */
static void allocate(struct worker *own) {
    for (int i = 0; i < BLOCKS; i++) {
        size_t size = SIZE + (size_t)i;
        void *p = site_worker(size);
        if (i % 3 == 0) {
            free(p);
            unbook(&at_site_worker, size);
        }
    }
    own->bytes = at_site_worker.bytes;
    own->blocks = at_site_worker.blocks;
    own->all_bytes = at_site_worker.all_bytes;
    own->all_blocks = at_site_worker.all_blocks;
}

static void __attribute__((noreturn)) be_worker(struct worker *own, int has_inherited) {
    int next = 0;
    /* One whose parent ends at once would be taken along by its end. */
    while (has_inherited && getppid() != family)
        if (kill(family, 0) < 0) _exit(127);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    own->pid = getpid();
    for (;;) {
        while (own->asked == own->done && !own->end) pause_a_little();
        if (own->end) _exit(0);
        allocate(own);
        for (int i = 0; has_inherited && i < FREED && next < INHERITED; i++) {
            free(inherited[next++]);
            own->freed++;
        }
        own->done++;
    }
}

static void answer(long pid) {
    struct line line = {.length = 0};
    add_number(&line, pid);
    end_line(&line);
}

static struct worker *next_worker(void) {
    if (count == MOST_WORKERS) _exit(121);
    return &workers[count++];
}

static void await_worker(struct worker *worker) {
    while (worker->pid == 0) pause_a_little();
    answer(worker->pid);
}

static void execute(int number) {
    char digits[8] = {(char)('0' + number / 10), (char)('0' + number % 10), 0};
    char *arguments[] = {"forks", digits, NULL};
    execv("/proc/self/exe", arguments);
    _exit(123);
}

static void make_worker(const char *how) {
    int number = count;
    struct worker *worker = next_worker();
    pid_t pid = fork();
    if (pid == 0) {
        if (is(how, "exec")) execute(number);
        if (is(how, "orphan") && fork() != 0) _exit(0);
        be_worker(worker, 1);
    }
    if (is(how, "orphan")) waitpid(pid, NULL, 0);
    await_worker(worker);
}

/* A process with a PID of our choice; the kernel refuses while another one has it. */
static pid_t fork_as(pid_t pid) {
    struct clone_args arguments = {.exit_signal = SIGCHLD, .set_tid = (uint64_t)&pid, .set_tid_size = 1};
    for (int i = 0; i < TRIES; i++) {
        long made = syscall(SYS_clone3, &arguments, sizeof arguments);
        if (made >= 0) return (pid_t)made;
        if (errno != EEXIST) _exit(124);
        pause_a_little();
    }
    _exit(125);
}

/* The PID of the youngest worker if that has ended, else of a process that lives for a moment. */
static void make_namesake(void) {
    pid_t pid = count > 0 && workers[count - 1].end ? workers[count - 1].pid : fork();
    if (pid == 0) _exit(0);
    waitpid(pid, NULL, 0);
    struct worker *worker = next_worker();
    if (fork_as(pid) == 0) be_worker(worker, 1);
    await_worker(worker);
}

static void say_worker(const struct worker *worker, const char *before) {
    static const char *const names[] = {"pid", "bytes", "blocks", "all_bytes", "all_blocks", "freed"};
    long values[] = {worker->pid, worker->bytes, worker->blocks, worker->all_bytes, worker->all_blocks, worker->freed};
    struct line line = {.length = 0};
    add_text(&line, before);
    for (int i = 0; i < 6; i++) {
        add_text(&line, i ? ",\"" : "{\"");
        add_text(&line, names[i]);
        add_text(&line, "\":");
        add_number(&line, values[i]);
    }
    add_text(&line, "}");
    write_all(line.text, line.length);
}

static void have_them_work(void) {
    for (int i = 0; i < count; i++)
        if (!workers[i].end) workers[i].asked++;
    for (int i = 0; i < count; i++)
        while (!workers[i].end && workers[i].asked != workers[i].done) pause_a_little();
    for (int i = 0; i < count; i++) say_worker(&workers[i], i ? "," : "[");
    say("]");
}

static void end_them(void) {
    for (int i = 0; i < count; i++)
        if (!workers[i].end) {
            workers[i].end = 1;
            waitpid(workers[i].pid, NULL, 0);
        }
    answer(count);
}

static void make_short_ones(void) {
    char *arguments[] = {"true", NULL};
    for (int i = 0; i < SHORT; i++) {
        pid_t pid = fork();
        if (pid == 0) _exit(0);
        waitpid(pid, NULL, 0);
        pid = vfork();
        if (pid == 0) _exit(0);
        waitpid(pid, NULL, 0);
        if (posix_spawn(&pid, "/bin/true", NULL, NULL, arguments, environ) != 0) _exit(122);
        waitpid(pid, NULL, 0);
    }
    answer(3 * SHORT);
}

static void make_moments(void) {
    for (int i = 0; i < SHORT; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            site_worker(SIZE);
            _exit(0);
        }
        waitpid(pid, NULL, 0);
    }
    answer(SHORT);
}

int main(int argc, char **argv) {
    size_t bytes = MOST_WORKERS * sizeof *workers;
    if (argc < 2) {
        if (dup2((int)syscall(SYS_memfd_create, "workers", 0), SHARED) < 0 || ftruncate(SHARED, (off_t)bytes) < 0) _exit(126);
    }
    workers = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, SHARED, 0);
    if (argc > 1) be_worker(&workers[argument(argc, argv, 1, 0)], 0);
    family = getpid();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    say("ready");
    for (;;) {
        const char *command = await_command();
        if (is(command, "parent")) {
            for (int i = 0; i < INHERITED; i++) inherited[i] = site_parent(SIZE);
            say_expectation();
        } else if (is(command, "work")) {
            have_them_work();
        } else if (is(command, "end")) {
            end_them();
        } else if (is(command, "short")) {
            make_short_ones();
        } else if (is(command, "moments")) {
            make_moments();
        } else if (is(command, "reuse")) {
            make_namesake();
        } else {
            make_worker(command);
        }
    }
}
