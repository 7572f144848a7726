/*
 * Goal: the harness of step.h visits every instruction of a region, each exactly once, and reports
 * what a check says; else "0 failed" in a crash suite means nothing.
 * Method: regions whose instructions are known, being written in assembly, with their effects in a
 * shared mapping; regions and checks that are wrong on purpose; and, for the way by breakpoints,
 * the same points reached by steps alone.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "step.h"

#if defined(__x86_64__) && defined(__LP64__)

/* What tracer and child share. */
struct world {
    uint64_t words[8];
    uint64_t other; /* written by the tracer while the child stands still */
    uint64_t seen;  /* what the child found there at the end */
    uint64_t turns;
    int pipe[2];
    _Alignas(4096) char from[4096];
    char to[4096];
    int file;
    size_t setups;
    size_t teardowns;
    uint64_t next; /* the k that the check expects */
    uint64_t high; /* the most stores that a check has seen */
};

/* The offsets in the assembly below. */
static_assert(offsetof(struct world, other) == 64, "other");
static_assert(offsetof(struct world, seen) == 72, "seen");
static_assert(offsetof(struct world, turns) == 80, "turns");
static_assert(offsetof(struct world, pipe) == 88, "pipe");
static_assert(offsetof(struct world, from) == 4096, "from");
static_assert(offsetof(struct world, to) == 8192, "to");

static struct world *world;

/* In assembly, so that no compiler changes their length. Each gets the world in rdi. */
int region_four(void *user);
int region_loop(void *user);
int region_stores(void *user);
int region_copy(void *user);
int region_write(void *user);
int region_long(void *user);
int region_spin(void *user);
int region_crash(void *user);
int region_random(void *user);
__asm__(".pushsection .text\n"
        ".macro region name\n"
        ".globl \\name; .hidden \\name; .type \\name, @function\n"
        "\\name:\n"
        ".endm\n"
        "region region_four\n"
        "    nop; nop; xor %eax, %eax; ret\n"
        "region region_loop\n" /* 2 + 3 * 2 + 1 */
        "    mov $3, %ecx; xor %eax, %eax\n"
        "1:  dec %ecx; jnz 1b; ret\n"
        "region region_stores\n" /* words[i] = i + 1, then seen = other: 1 + 8 * 5 + 4 */
        "    xor %ecx, %ecx\n"
        "1:  lea 1(%rcx), %rax; mov %rax, (%rdi,%rcx,8); mov %eax, %ecx; cmp $8, %ecx; jne 1b\n"
        "    mov 64(%rdi), %rax; mov %rax, 72(%rdi); xor %eax, %eax; ret\n"
        "region region_copy\n" /* to = from: 6, however many repetitions */
        "    lea 4096(%rdi), %rsi; lea 8192(%rdi), %rdi; mov $4096, %ecx; rep movsb\n"
        "    xor %eax, %eax; ret\n"
        "region region_write\n" /* write(pipe[1], words, 1): 7, the fifth is the call */
        "    mov %rdi, %rsi; mov 92(%rdi), %edi; mov $1, %edx; mov $1, %eax; syscall\n"
        "    xor %eax, %eax; ret\n"
        "region region_long\n" /* 1 + 20 * 52 + 2 */
        "    mov $20, %ecx\n"
        "1:  .rept 50; incq (%rdi); .endr; dec %ecx; jnz 1b\n"
        "    xor %eax, %eax; ret\n"
        "region region_spin\n"
        "1:  pause; jmp 1b\n"
        "region region_crash\n"
        "    nop; movl $1, 0; ret\n"
        "region region_random\n" /* 2 + 2 * (turns + 1) + 2 */
        "    mov 80(%rdi), %rcx; inc %rcx\n"
        "1:  dec %rcx; jnz 1b; xor %eax, %eax; ret\n"
        ".popsection\n");

static int setup(void *user)
{
    struct world *w = user;

    memset(w, 0, offsetof(struct world, pipe));
    memset(w->from, 'x', sizeof(w->from));
    memset(w->to, 0, sizeof(w->to));
    w->setups++;
    return 0;
}

static void teardown(void *user)
{
    struct world *w = user;

    w->teardowns++;
}

static struct step_scenario scenario(const char *name, int (*region)(void *user))
{
    memset(world, 0, sizeof(*world));
    return (struct step_scenario){
        .name = name,
        .setup = setup,
        .region = region,
        .teardown = teardown,
        .user = world,
    };
}

static void close_pipe(void)
{
    close(world->pipe[0]);
    close(world->pipe[1]);
}

/* Every point once, in order, each after one setup; the walk took two. */
static int check_order(struct step_child *child, size_t k, void *user)
{
    struct world *w = user;

    if (child->state != STEP_GONE || !WIFSIGNALED(child->status) ||
        WTERMSIG(child->status) != SIGKILL || kill(child->pid, 0) == 0)
        return -EBADMSG;
    return k != w->next++ || w->setups != k + 3 || w->teardowns != k + 2;
}

static void test_counts_exactly(void **state)
{
    struct step_scenario s = scenario("four", region_four);
    struct step_result result;

    (void)state;
    assert_int_equal(step_count(&s), 4);
    world->setups = 0;
    world->teardowns = 0;
    assert_int_equal(step_every(&s, STEP_KILL, check_order, &result), 0);
    assert_int_equal(result.instructions, 4);
    assert_int_equal(result.due, 4);
    assert_int_equal(result.reached, 4);
    assert_int_equal(world->next, 4);
    assert_false(result.varies);
    s.region = region_loop;
    assert_int_equal(step_count(&s), 9);
}

/* Counts the stores; -EBADMSG unless they are the first ones of region_stores. */
static int stores_made(const struct world *w)
{
    int n = 0;

    while (n < 8 && w->words[n] == (uint64_t)n + 1)
        n++;
    for (int i = n; i < 8; i++)
        if (w->words[i] != 0)
            return -EBADMSG;
    return n;
}

/* By the listing: store i is instruction 2 + 5 i. */
static int check_prefix(struct step_child *child, size_t k, void *user)
{
    struct world *w = user;
    int n = stores_made(w);
    int expected = k < 3 ? 0 : (int)((k - 3) / 5) + 1;

    (void)child;
    if (n < 0)
        return n;
    if ((uint64_t)n > w->high)
        w->high = (uint64_t)n;
    return n != (expected < 8 ? expected : 8);
}

static void test_kill_shows_prefixes(void **state)
{
    struct step_scenario s = scenario("stores, killed", region_stores);
    struct step_result result;

    (void)state;
    assert_int_equal(step_every(&s, STEP_KILL, check_prefix, &result), 0);
    assert_int_equal(result.instructions, 45);
    assert_int_equal(world->high, 8);
}

/* While it stands still nothing moves; then it does the rest, and sees what came meanwhile. */
static int check_resumed(struct step_child *child, size_t k, void *user)
{
    struct world *w = user;
    int rc = check_prefix(child, k, user);
    int status = -1;

    if (rc != 0 || child->state != STEP_STOPPED)
        return -EBADMSG;
    w->other = 77;
    rc = step_resume(child);
    if (rc == 0)
        rc = step_wait(child, &status);
    if (rc != 0 || status != 0 || child->state != STEP_GONE || stores_made(w) != 8)
        return -EIO;
    return w->seen != (k <= 41 ? 77 : 0); /* instruction 41 loads it */
}

static void test_stop_and_resume(void **state)
{
    struct step_scenario s = scenario("stores, stopped", region_stores);
    struct step_result result;

    (void)state;
    assert_int_equal(step_every(&s, STEP_STOP, check_resumed, &result), 0);
    assert_int_equal(result.reached, 45);
}

static int check_broken(struct step_child *child, size_t k, void *user)
{
    (void)child, (void)user;
    return k == 3 || k == 7 ? -EBADMSG : 0;
}

static void test_reports_a_failed_check(void **state)
{
    struct step_scenario s = scenario("broken on purpose", region_loop);
    struct step_result result;

    (void)state;
    assert_int_equal(step_every(&s, STEP_KILL, check_broken, &result), 1);
    assert_int_equal(result.reached, 9);
    assert_int_equal(result.failed, 2);
    assert_int_equal(result.first_failed, 3);
}

static int check_copy(struct step_child *child, size_t k, void *user)
{
    const struct world *w = user;

    (void)child;
    return memcmp(w->from, w->to, sizeof(w->to)) == 0 ? k < 4 : k >= 4 || w->to[0] != 0;
}

static void test_repetitions_are_one(void **state)
{
    struct step_scenario s = scenario("rep movsb", region_copy);
    struct step_result result;

    (void)state;
    assert_int_equal(step_every(&s, STEP_KILL, check_copy, &result), 0);
    assert_int_equal(result.instructions, 6);
}

static int check_write(struct step_child *child, size_t k, void *user)
{
    const struct world *w = user;
    char bytes[2];

    (void)child;
    return (read(w->pipe[0], bytes, 2) == 1) != (k >= 5);
}

static int drained_setup(void *user)
{
    char bytes[16];

    while (read(world->pipe[0], bytes, sizeof(bytes)) > 0)
        ;
    return setup(user);
}

static void test_system_call_is_one(void **state)
{
    struct step_scenario s = scenario("write", region_write);
    struct step_result result;

    (void)state;
    s.setup = drained_setup;
    assert_int_equal(pipe2(world->pipe, O_CLOEXEC | O_NONBLOCK), 0);
    assert_int_equal(step_every(&s, STEP_KILL, check_write, &result), 0);
    assert_int_equal(result.instructions, 7);
    close_pipe();
}

/* The region sleeps in read until unblock has written. */
static int region_read(void *user)
{
    const struct world *w = user;
    char byte;

    return read(w->pipe[0], &byte, 1) == 1 ? 0 : -EIO;
}

static void unblock(void *user)
{
    struct world *w = user;

    w->turns++;
    if (write(w->pipe[1], "", 1) != 1)
        abort();
}

static int check_read(struct step_child *child, size_t k, void *user)
{
    const struct world *w = user;
    int status = -1;

    (void)k;
    /* Past the system call it has been woken; before, someone has to write. */
    if (w->turns == 0 && write(w->pipe[1], "", 1) != 1)
        return -EIO;
    return step_resume(child) < 0 || step_wait(child, &status) < 0 || status != 0;
}

static void test_wakes_a_sleeper(void **state)
{
    struct step_scenario s = scenario("read", region_read);
    struct step_result result;

    (void)state;
    s.unblock = unblock;
    assert_int_equal(pipe2(world->pipe, O_CLOEXEC), 0);
    assert_int_equal(step_every(&s, STEP_STOP, check_read, &result), 0);
    assert_true(result.reached >= result.instructions && result.instructions > 0);
    close_pipe();
}

/* How many of the 1000 increments of region_long precede instruction k. */
static uint64_t increments(size_t k)
{
    size_t turn = k < 1 ? 0 : (k - 1) / 52;
    size_t rest = k < 1 ? 0 : (k - 1) % 52;
    uint64_t n = turn * 50 + (rest < 50 ? rest : 50);

    return n < 1000 ? n : 1000;
}

static int check_increments(struct step_child *child, size_t k, void *user)
{
    const struct world *w = user;

    /* Fewer than half of the steps: breakpoints were at work. */
    if (k > 1000 && child->steps > k / 2)
        return -EDOM;
    return w->words[0] != increments(k);
}

static void test_breakpoints_reach_the_same_points(void **state)
{
    struct step_scenario s = scenario("long", region_long);
    struct step_result result;
    struct step_child stepped;
    struct step_child run;
    struct step_walk walk;

    (void)state;
    assert_int_equal(step_every(&s, STEP_STOP, check_increments, &result), 0);
    assert_int_equal(result.instructions, 1043);
    assert_int_equal(result.reached, 1043);
    assert_false(result.varies);
    assert_int_equal(step_walk(&s, &walk), 0);
    for (size_t k = 0; k < 1043; k += 149) {
        setup(world);
        assert_int_equal(step_start(&stepped, &s), 0);
        assert_int_equal(step_reach(&stepped, NULL, k), 0);
        assert_int_equal(world->words[0], increments(k));
        step_kill(&stepped);
        setup(world);
        assert_int_equal(step_start(&run, &s), 0);
        assert_int_equal(step_reach(&run, &walk, k), 0);
        assert_int_equal(world->words[0], increments(k));
        assert_true(run.rip == stepped.rip);
        assert_int_equal(run.k, k);
        step_kill(&run);
    }
    /* A resumed child meets no breakpoint that was left behind. */
    setup(world);
    assert_int_equal(step_start(&run, &s), 0);
    assert_int_equal(step_reach(&run, &walk, 600), 0);
    assert_int_equal(step_resume(&run), 0);
    assert_int_equal(step_wait(&run, &run.status), 0);
    assert_int_equal(run.status, 0);
    assert_int_equal(world->words[0], 1000);
    step_walk_free(&walk);
}

static int varying_setup(void *user)
{
    struct world *w = user;

    setup(user);
    w->turns = (w->setups * 7) % 5;
    return 0;
}

static int later_varying_setup(void *user)
{
    struct world *w = user;

    varying_setup(user);
    if (w->setups < 3)
        w->turns = 4;
    return 0;
}

static int check_nothing(struct step_child *child, size_t k, void *user)
{
    (void)child, (void)k, (void)user;
    return 0;
}

static void test_way_that_varies(void **state)
{
    struct step_scenario s = scenario("varies", region_random);
    struct step_result result;
    struct step_child child;
    struct step_walk walk;

    (void)state;
    s.setup = varying_setup;
    assert_int_equal(step_every(&s, STEP_KILL, check_nothing, &result), 0);
    assert_true(result.varies);
    /* The longest way has 5 turns of two, in one of five runs; each point is tried in eight. */
    assert_int_equal(result.reached, 2 + 2 * 5 + 2);
    /* The two walks agree by chance: a later run betrays it. */
    s = scenario("varies later", region_random);
    s.setup = later_varying_setup;
    assert_int_equal(step_walk(&s, &walk), 0);
    assert_false(walk.varies);
    world->turns = 0;
    assert_int_equal(step_start(&child, &s), 0);
    assert_int_equal(step_reach(&child, &walk, 4), 0);
    step_kill(&child);
    assert_true(walk.varies);
    step_walk_free(&walk);
    world->setups = 0;
    assert_int_equal(step_every(&s, STEP_KILL, check_nothing, &result), 0);
    assert_true(result.varies);
    assert_int_equal(result.reached, 2 + 2 * 5 + 2);
}

static void test_shards(void **state)
{
    struct step_scenario s = scenario("shard", region_stores);
    struct step_result result;

    (void)state;
    s.every = 10;
    s.offset = 5;
    assert_int_equal(step_every(&s, STEP_KILL, check_prefix, &result), 0);
    assert_int_equal(result.due, 4); /* 5, 15, 25, 35 */
    assert_int_equal(result.reached, 4);
    setenv("STEP_EVERY", "22", 1);
    setenv("STEP_OFFSET", "0", 1);
    assert_int_equal(step_every(&s, STEP_KILL, check_prefix, &result), 0);
    unsetenv("STEP_EVERY");
    unsetenv("STEP_OFFSET");
    assert_int_equal(result.due, 3); /* 0, 22, 44 */
    assert_int_equal(result.reached, 3);
    s.offset = 45; /* no point at all: nothing was shown */
    assert_int_equal(step_every(&s, STEP_KILL, check_prefix, &result), 1);
}

static int fail_to_prepare(void *user)
{
    (void)user;
    return -ENOENT;
}

static void test_regions_that_go_wrong(void **state)
{
    struct step_scenario s = scenario("spins", region_spin);
    struct step_result result;
    struct step_child child;

    (void)state;
    s.limit = 500;
    assert_int_equal(step_count(&s), -E2BIG);
    assert_int_equal(step_every(&s, STEP_KILL, check_nothing, &result), -E2BIG);
    s = scenario("crashes", region_crash);
    assert_int_equal(step_count(&s), -ECHILD);
    assert_int_equal(step_start(&child, &s), 0);
    assert_int_equal(step_reach(&child, NULL, 2), -ECHILD);
    assert_true(WIFSIGNALED(child.status) && WTERMSIG(child.status) == SIGSEGV);
    s.prepare = fail_to_prepare;
    assert_int_equal(step_start(&child, &s), -ECHILD);
    assert_true(WIFEXITED(child.status) && WEXITSTATUS(child.status) == ENOENT);
    assert_int_equal(world->setups, world->teardowns);
}

static int take_lock(void *user)
{
    struct world *w = user;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 3, .l_len = 1};
    char path[32];
    int fd;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", w->file);
    fd = open(path, O_RDWR | O_CLOEXEC); /* an open file description of its own */
    return fd < 0 || fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

static short lock_held(const struct world *w)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 3, .l_len = 1};

    return fcntl(w->file, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

/* A stopped child holds its lock; a killed one has lost it when step_kill returns. */
static int check_lock(struct step_child *child, size_t k, void *user)
{
    bool before = lock_held(user);

    (void)k;
    step_kill(child);
    return !before || lock_held(user);
}

static void test_locks_go_with_the_child(void **state)
{
    struct step_scenario s = scenario("lock", region_loop);
    struct step_result result;

    (void)state;
    s.prepare = take_lock;
    world->file = memfd_create("step", MFD_CLOEXEC);
    assert_true(world->file >= 0);
    assert_int_equal(step_every(&s, STEP_STOP, check_lock, &result), 0);
    assert_int_equal(result.reached, 9);
    close(world->file);
}

/* Two children that would spin for ever, one stopped, one resumed; then the tracer is killed. */
static void test_nothing_outlives_the_tracer(void **state)
{
    struct step_scenario s = scenario("orphan", region_spin);
    struct pollfd ends[2] = {{.events = POLLIN}, {.events = POLLIN}};
    struct step_child children[2];
    pid_t pids[2] = {-1, -1};
    pid_t tracer;
    int alive = 0;

    (void)state;
    assert_int_equal(pipe2(world->pipe, O_CLOEXEC), 0);
    tracer = fork();
    if (tracer == 0) {
        for (int i = 0; i < 2; i++) {
            if (step_start(&children[i], &s) < 0 || (i == 1 && step_resume(&children[i]) < 0))
                _exit(1);
            pids[i] = children[i].pid;
        }
        while (write(world->pipe[1], pids, sizeof(pids)) > 0)
            pause();
        _exit(1);
    }
    close(world->pipe[1]);
    assert_int_equal(read(world->pipe[0], pids, sizeof(pids)), sizeof(pids));
    close(world->pipe[0]);
    for (int i = 0; i < 2; i++) {
        ends[i].fd = (int)syscall(SYS_pidfd_open, pids[i], 0);
        assert_true(ends[i].fd >= 0);
    }
    assert_int_equal(poll(ends, 2, 0), 0);
    kill(tracer, SIGKILL);
    waitpid(tracer, NULL, 0);
    for (int i = 0; i < 2; i++) {
        if (poll(&ends[i], 1, 5000) != 1) {
            alive++;
            kill(pids[i], SIGKILL);
        }
        close(ends[i].fd);
    }
    assert_int_equal(alive, 0);
}

static void test_names_a_point(void **state)
{
    char text[64];

    (void)state;
    step_symbol((uint64_t)(uintptr_t)region_loop + 2, text, sizeof(text));
    assert_string_equal(text, "region_loop+0x2");
    step_symbol((uint64_t)(uintptr_t)stores_made, text, sizeof(text)); /* a static function */
    assert_string_equal(text, "stores_made+0x0");
    step_symbol(16, text, sizeof(text));
    assert_string_equal(text, "0x10");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts_exactly),
        cmocka_unit_test(test_kill_shows_prefixes),
        cmocka_unit_test(test_stop_and_resume),
        cmocka_unit_test(test_reports_a_failed_check),
        cmocka_unit_test(test_repetitions_are_one),
        cmocka_unit_test(test_system_call_is_one),
        cmocka_unit_test(test_wakes_a_sleeper),
        cmocka_unit_test(test_breakpoints_reach_the_same_points),
        cmocka_unit_test(test_way_that_varies),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_regions_that_go_wrong),
        cmocka_unit_test(test_locks_go_with_the_child),
        cmocka_unit_test(test_nothing_outlives_the_tracer),
        cmocka_unit_test(test_names_a_point),
    };

    if (!step_available())
        return 77;
    world = mmap(NULL, sizeof(*world), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (world == MAP_FAILED)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
    return 77;
}

#endif
