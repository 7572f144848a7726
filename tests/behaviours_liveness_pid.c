/* Goal: liveness does not look at pids: it is right across pid namespaces, from either side, and
 * when the pid of a dead owner belongs to another process.
 *
 * Method: as behaviours_liveness_fork.c. The holder, or the judge, is the first process of a new
 * namespace; in one, a holder dies and clone3 gives its pid to a process that lives. */
#include "tests/live_support.h"

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <cmocka.h>

#define REUSED_PID 77 /* in a namespace of its own */

static struct live_scene scene;

/* ---- pid namespaces -------------------------------------------------------------------------- */

/* From here on children are in a new namespace, the first one as its init. False: not here. */
static bool divide_namespace(struct live_scene *s)
{
    if (unshare(CLONE_NEWPID) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWPID) == 0)
        return true;
    printf("skipped: no pid namespace: %s\n", strerror(errno));
    shr_store32_release(&s->note->skip, 1);
    support_tell_test(&s->line);
    return false;
}

static int enter_inside(void *arg)
{
    struct live_scene *s = arg;
    live_begin(s);
    if (!divide_namespace(s))
        return 0;
    pid_t pid = live_fork();
    if (pid != 0) {
        shr_store32_release(&s->note->pid, (uint32_t)pid);
        live_await(&s->note->entered);
        return 0;
    }
    SUPPORT_CHECK(getpid() == 1);
    live_enter(s);
    return live_stay(s);
}

static void it_is_in_another_namespace(void **state)
{
    (void)state;
    live_run_stayer(enter_inside, LIVE_GOES_ON, 0);
}

/* The judge as a child of a child, with a line of its own to the test. */
struct inside {
    struct live_scene *s;
    struct support_line line;
    bool stop; /* the holder is stopped while it is judged */
};

static int judge_inside(struct inside *in)
{
    struct live_scene *s = in->s;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    SUPPORT_CHECK(getpid() == 1);
    CRASH_TRY(live_create(s));
    support_tell_test(&in->line);
    support_hear_test(&in->line); /* the holder is in its state */
    CRASH_TRY(live_judge(s, true));
    support_tell_test(&in->line);
    support_hear_test(&in->line); /* out of it */
    CRASH_TRY(live_go_on(s));
    support_tell_test(&in->line);
    support_hear_test(&in->line); /* dead */
    CRASH_TRY(live_judge(s, false));
    return live_close(s);
}

static int go_inside(void *arg)
{
    struct inside *in = arg;
    int status;
    if (!divide_namespace(in->s)) {
        support_tell_test(&in->line);
        return 0;
    }
    pid_t pid = live_fork();
    if (pid == 0)
        _exit(judge_inside(in) != 0);
    SUPPORT_CHECK(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static void run_judge_inside(enum live_role role, bool stop)
{
    struct inside in = {.s = &scene, .stop = stop};
    live_prepare(&scene, role);
    support_line_open(&in.line);
    pid_t judge = support_child(go_inside, &in);
    support_hear_child(&in.line);
    if (shr_load32_acquire(&scene.note->skip) == 0) {
        pid_t pid = support_child(live_plain, &scene);
        support_hear_child(&scene.line);
        if (stop)
            support_stop(pid);
        support_tell_child(&in.line);
        support_hear_child(&in.line);
        if (stop)
            support_continue(pid);
        support_tell_child(&in.line);
        support_hear_child(&in.line);
        support_kill(pid);
        support_tell_child(&in.line);
    }
    assert_int_equal(support_wait(judge), 0);
    support_line_close(&in.line);
    support_line_close(&scene.line);
    if (shr_load32_acquire(&scene.note->skip) != 0)
        skip();
}

static void its_judge_is_in_another_namespace(void **state)
{
    (void)state;
    for (int stop = 0; stop < 2; stop++) {
        run_judge_inside(LIVE_PRODUCER, stop != 0);
        run_judge_inside(LIVE_CONSUMER, stop != 0);
    }
}

/* ---- a pid that comes again ------------------------------------------------------------------ */

/* As fork, with a pid that we choose: clone3 with set_tid. */
static pid_t fork_as(pid_t pid)
{
    uint64_t args[11] = {[4] = SIGCHLD, [8] = (uintptr_t)&pid, [9] = 1};
    return (pid_t)syscall(SYS_clone3, args, sizeof(args));
}

static int first_of_pid(struct live_scene *s)
{
    SUPPORT_CHECK(getpid() == REUSED_PID);
    live_enter(s);
    kill(getpid(), SIGKILL);
    return 1;
}

/* The init of the namespace. */
static int reuse_pid(struct live_scene *s)
{
    int status;
    pid_t pid = fork_as(REUSED_PID);
    if (pid == 0)
        _exit(first_of_pid(s));
    if (pid < 0) {
        printf("skipped: no choice of a pid: %s\n", strerror(errno));
        shr_store32_release(&s->note->skip, 1);
        support_tell_test(&s->line);
        return 0;
    }
    SUPPORT_CHECK(waitpid(REUSED_PID, &status, 0) == REUSED_PID && WTERMSIG(status) == SIGKILL);
    pid = fork_as(REUSED_PID);
    if (pid == 0)
        _exit(live_stay(s));
    SUPPORT_CHECK(pid == REUSED_PID && kill(REUSED_PID, 0) == 0);
    SUPPORT_CHECK(waitpid(REUSED_PID, &status, 0) == REUSED_PID);
    return 0;
}

static int leave_pid(void *arg)
{
    struct live_scene *s = arg;
    live_begin(s);
    if (!divide_namespace(s))
        return 0;
    pid_t pid = live_fork();
    if (pid == 0)
        _exit(reuse_pid(s));
    shr_store32_release(&s->note->pid, (uint32_t)pid);
    live_await(&s->note->own);
    return 0;
}

/* As run, for a stayer that never had a handle. */
static void run_reused(enum live_role role, bool joiner_first)
{
    struct live_scene *s = &scene;
    live_prepare(s, role);
    s->joiner_first = joiner_first;
    assert_int_equal(live_create(s), 0);
    pid_t pid = support_child(leave_pid, s);
    support_hear_child(&s->line);
    if (shr_load32_acquire(&s->note->skip) == 0) {
        uint32_t slot = role == LIVE_CONSUMER ? SHR_CONSUMER_SLOT : LIVE_SLOT;
        assert_int_equal(shr_load32_relaxed(&s->map.peers[slot].pid), REUSED_PID);
        assert_int_equal(live_judge(s, false), 0);
    }
    shr_store32_release(&s->note->own, 1);
    assert_int_equal(support_wait(pid), 0);
    if (live_stayer(s) != 0)
        support_kill(live_stayer(s)); /* and with it all of its namespace */
    assert_int_equal(live_close(s), 0);
    if (shr_load32_acquire(&s->note->skip) != 0)
        skip();
}

static void its_pid_is_somebody_elses(void **state)
{
    (void)state;
    run_reused(LIVE_PRODUCER, false);
    run_reused(LIVE_PRODUCER, true);
    run_reused(LIVE_CONSUMER, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_in_another_namespace),
        cmocka_unit_test(its_judge_is_in_another_namespace),
        cmocka_unit_test(its_pid_is_somebody_elses),
    };
    support_begin();
    live_adopt();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
