/*
 * Goal: the harness of step.h visits every instruction of a region, each exactly once, and reports
 * what a check says; else "0 failed" in a crash suite means nothing.
 * Method: regions whose instructions are known, being written in assembly, with their effects in a
 * shared mapping; regions and checks that are wrong on purpose; and, for the way by breakpoints,
 * the same points reached by steps alone.
 */
#if defined(__x86_64__) && defined(__LP64__)

#include "step_regions.h"

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
    assert_int_equal(result.instructions, 4);
    assert_int_equal(result.reached, 4);
    assert_int_equal(world->next, 4);
    assert_false(result.varies);
    s.region = region_loop;
    assert_int_equal(step_count(&s), 9);
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

static int run(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts_exactly),
        cmocka_unit_test(test_kill_shows_prefixes),
        cmocka_unit_test(test_stop_and_resume),
        cmocka_unit_test(test_reports_a_failed_check),
        cmocka_unit_test(test_repetitions_are_one),
        cmocka_unit_test(test_system_call_is_one),
        cmocka_unit_test(test_wakes_a_sleeper),
        cmocka_unit_test(test_locks_go_with_the_child),
        cmocka_unit_test(test_nothing_outlives_the_tracer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
    return with_world(run);
}

#else

int main(void)
{
    return 77;
}

#endif
