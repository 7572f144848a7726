/* Goal: whoever can still write to the bus is alive, whoever cannot is dead, and all verdicts
 * agree: the lock, the consumer's sweep, a joiner, a second consumer. Nothing of the living is
 * reclaimed, everything of the dead within one sweep.
 *
 * Method: a holder, once as a producer and once as the consumer, is brought into each state that
 * one process can be in (those with several processes: behaviours_liveness_fork.c and _pid.c). Each
 * verdict is taken by the call that makes it. One that lives then goes on: its loan is whole, its
 * events arrive with the next numbers, it takes new locks. At last it is killed, and must be dead
 * for all. */
#include "tests/live_support.h"

#include <errno.h>
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <cmocka.h>

#define NOBODY 65534u

struct row {
    int (*holder)(void *scene);
    void (*bring)(pid_t pid);   /* into its state, once it takes part; NULL: it is in it */
    void (*release)(pid_t pid); /* out of it; NULL: nothing to do */
    bool alive;
    bool is_locked_in;
};

/* ---- one row --------------------------------------------------------------------------------- */

static void run(const struct row *row, enum live_role role, bool joiner_first)
{
    static struct live_scene s;
    live_prepare(&s, role);
    s.joiner_first = joiner_first;
    s.is_locked_in = row->is_locked_in;
    assert_int_equal(live_create(&s), 0);
    pid_t pid = support_child(row->holder, &s);
    support_hear_child(&s.line);
    if (row->bring != NULL)
        row->bring(pid);
    assert_int_equal(live_judge(&s, row->alive), 0);
    if (row->release != NULL)
        row->release(pid);
    if (row->alive) {
        assert_int_equal(live_go_on(&s), 0);
        assert_int_equal(live_judge(&s, true), 0);
        support_kill(pid);
        assert_int_equal(live_judge(&s, false), 0);
    }
    assert_int_equal(live_close(&s), 0);
}

static void run_all(const struct row *row)
{
    run(row, LIVE_PRODUCER, false);
    run(row, LIVE_PRODUCER, true);
    run(row, LIVE_CONSUMER, false);
}

/* ---- ends and stops -------------------------------------------------------------------------- */

static void runs(void **state)
{
    (void)state;
    run_all(&(struct row){.holder = live_plain, .alive = true});
}

static int leave_undone(void *scene)
{
    struct live_scene *s = scene;
    live_begin(s);
    live_enter(s);
    support_tell_test(&s->line);
    return 0;
}

static void bring_end(pid_t pid)
{
    assert_int_equal(support_wait(pid), 0);
}

static void ended_without_leaving(void **state)
{
    (void)state;
    run_all(&(struct row){.holder = leave_undone, .bring = bring_end});
}

static void killed(void **state)
{
    (void)state;
    run_all(&(struct row){.holder = live_plain, .bring = support_kill});
}

static void bring_zombie(pid_t pid)
{
    kill(pid, SIGKILL);
    support_wait_zombie(pid);
}

static void release_zombie(pid_t pid)
{
    assert_int_equal(support_wait(pid), -SIGKILL);
}

static void killed_and_not_reaped(void **state)
{
    (void)state;
    run_all(&(struct row){.holder = live_plain, .bring = bring_zombie, .release = release_zombie});
}

static void stopped(void **state)
{
    (void)state;
    run_all(&(struct row){
        .holder = live_plain, .bring = support_stop, .release = support_continue, .alive = true});
}

static void bring_stopped_dead(pid_t pid)
{
    support_stop(pid);
    support_kill(pid);
}

static void killed_while_stopped(void **state)
{
    (void)state;
    run_all(&(struct row){.holder = live_plain, .bring = bring_stopped_dead});
}

static void bring_traced(pid_t pid)
{
    int status;
    assert_int_equal(ptrace(PTRACE_SEIZE, pid, NULL, NULL), 0);
    assert_int_equal(ptrace(PTRACE_INTERRUPT, pid, NULL, NULL), 0);
    assert_int_equal(waitpid(pid, &status, __WALL), pid);
    assert_true(WIFSTOPPED(status));
}

static void release_traced(pid_t pid)
{
    assert_int_equal(ptrace(PTRACE_DETACH, pid, NULL, NULL), 0);
}

static void under_a_debugger(void **state)
{
    (void)state;
    if (!step_available()) {
        printf("skipped: ptrace is forbidden here\n");
        skip();
    }
    run_all(&(struct row){
        .holder = live_plain, .bring = bring_traced, .release = release_traced, .alive = true});
}

/* ---- threads --------------------------------------------------------------------------------- */

static void *enter_alone(void *scene)
{
    live_enter(scene);
    return NULL;
}

static int outlive_thread(void *scene)
{
    pthread_t thread;
    live_begin(scene);
    SUPPORT_CHECK(pthread_create(&thread, NULL, enter_alone, scene) == 0);
    SUPPORT_CHECK(pthread_join(thread, NULL) == 0);
    return live_stay(scene); /* it hands its handle on by ending */
}

static void its_thread_ended(void **state)
{
    (void)state;
    run_all(&(struct row){.holder = outlive_thread, .alive = true});
}

/* The state letter of the main thread. */
static char main_thread_state(void)
{
    char path[64], text[256] = "";
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)getpid());
    FILE *f = fopen(path, "re");
    SUPPORT_CHECK(f != NULL && fgets(text, sizeof(text), f) != NULL);
    fclose(f);
    const char *end = strrchr(text, ')');
    return end != NULL && end[1] == ' ' ? end[2] : '?';
}

static void *outlive_main(void *scene)
{
    live_enter(scene);
    while (main_thread_state() != 'Z') /* meson bounds this */
        sched_yield();
    _exit(live_stay(scene));
}

static int end_main_thread(void *scene)
{
    pthread_t thread;
    live_begin(scene);
    SUPPORT_CHECK(pthread_create(&thread, NULL, outlive_main, scene) == 0);
    pthread_exit(NULL);
}

static void its_main_thread_ended(void **state)
{
    (void)state;
    run_all(&(struct row){.holder = end_main_thread, .alive = true});
}

/* ---- descriptors, users, programs ------------------------------------------------------------ */

static int close_all(void *scene)
{
    live_begin(scene);
    live_enter(scene);
    live_line_low(scene);
    closefrom(3);
    return live_stay(scene);
}

static void its_descriptors_are_closed(void **state)
{
    (void)state;
    run_all(&(struct row){.holder = close_all, .alive = true});
}

static int become_nobody(void *scene)
{
    live_begin(scene);
    live_enter(scene);
    SUPPORT_CHECK(setgroups(0, NULL) == 0 && setresgid(NOBODY, NOBODY, NOBODY) == 0 &&
                  setresuid(NOBODY, NOBODY, NOBODY) == 0);
    return live_stay(scene);
}

/* It cannot open the file again, and settles the dead all the same. */
static void it_changed_its_user(void **state)
{
    (void)state;
    if (geteuid() != 0) {
        printf("skipped: only root can change its user\n");
        skip();
    }
    run_all(&(struct row){.holder = become_nobody, .alive = true, .is_locked_in = true});
}

static int become_cat(void *scene)
{
    live_begin(scene);
    live_enter(scene);
    live_line_low(scene);
    execlp("cat", "cat", (char *)NULL);
    return 1;
}

/* The tests's end of the line, as cat sees it: what goes in comes out. */
static struct support_line *cat_line;

static void bring_cat(pid_t pid)
{
    (void)pid;
    support_tell_child(cat_line);
    support_hear_child(cat_line);
}

static void run_exec(enum live_role role, bool joiner_first)
{
    static struct live_scene s;
    live_prepare(&s, role);
    s.joiner_first = joiner_first;
    assert_int_equal(live_create(&s), 0);
    pid_t pid = support_child(become_cat, &s);
    cat_line = &s.line;
    bring_cat(pid);
    assert_int_equal(live_judge(&s, false), 0);
    support_kill(pid);
    assert_int_equal(live_close(&s), 0);
}

static void it_is_another_program(void **state)
{
    (void)state;
    run_exec(LIVE_PRODUCER, false);
    run_exec(LIVE_PRODUCER, true);
    run_exec(LIVE_CONSUMER, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs),
        cmocka_unit_test(ended_without_leaving),
        cmocka_unit_test(killed),
        cmocka_unit_test(killed_and_not_reaped),
        cmocka_unit_test(stopped),
        cmocka_unit_test(killed_while_stopped),
        cmocka_unit_test(under_a_debugger),
        cmocka_unit_test(its_thread_ended),
        cmocka_unit_test(its_main_thread_ended),
        cmocka_unit_test(its_descriptors_are_closed),
        cmocka_unit_test(it_changed_its_user),
        cmocka_unit_test(it_is_another_program),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
