/* Goal: a lock belongs to an address space, not to a process: liveness is right after fork, clone
 * and vfork, for orphans and daemons.
 *
 * Method: as behaviours_liveness.c. Whoever stays when the first child has ended tells the judge
 * its pid, and the test becomes its parent, so that its end is seen too. A process that has but a
 * copy of the handle gets -ESTALE from every call, and may take part by itself. */
#include "tests/gone.h"
#include "tests/live_support.h"

#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <cmocka.h>

#define STACK_BYTES (256u << 10)

static struct live_scene scene;

/* ---- fork ------------------------------------------------------------------------------------ */

/* Without glibc, which knows nothing of it. */
static pid_t do_clone(void)
{
    long pid = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    SUPPORT_CHECK(pid >= 0);
    return (pid_t)pid;
}

static int outlived_by(struct live_scene *s, pid_t (*divide)(void))
{
    live_begin(s);
    live_enter(s);
    if (divide() != 0)
        return 0;
    live_i_stay(s);
    return live_stay(s);
}

static int outlived_by_fork(void *arg)
{
    return outlived_by(arg, live_fork);
}

static int outlived_by_clone(void *arg)
{
    return outlived_by(arg, do_clone);
}

static void its_fork_lives_on(void **state)
{
    (void)state;
    live_run_stayer(outlived_by_fork, LIVE_IS_STALE, 0);
}

static void its_clone_lives_on(void **state)
{
    (void)state;
    live_run_stayer(outlived_by_clone, LIVE_IS_STALE, 0);
}

/* The child says first that it is cat. */
static int outlived_by_program(void *arg)
{
    struct live_scene *s = arg;
    int echo[2];
    char byte = 'x';
    live_begin(s);
    live_enter(s);
    SUPPORT_CHECK(pipe(echo) == 0);
    pid_t pid = live_fork();
    if (pid == 0) {
        SUPPORT_CHECK(dup2(s->line.to_child[0], 0) == 0);
        SUPPORT_CHECK(dup2(echo[1], 1) == 1);
        execlp("cat", "cat", "/dev/stdin", (char *)NULL);
        _exit(1);
    }
    shr_store32_release(&s->note->pid, (uint32_t)pid);
    support_tell_test(&s->line); /* the judge may feed it */
    SUPPORT_CHECK(read(echo[0], &byte, 1) == 1);
    support_tell_test(&s->line);
    return 0;
}

static void run_program(enum live_role role, bool joiner_first)
{
    struct live_scene *s = &scene;
    live_prepare(s, role);
    s->joiner_first = joiner_first;
    assert_int_equal(live_create(s), 0);
    pid_t pid = support_child(outlived_by_program, s);
    support_hear_child(&s->line);
    support_tell_child(&s->line);
    support_hear_child(&s->line);
    assert_int_equal(support_wait(pid), 0);
    assert_int_equal(live_judge(s, false), 0);
    assert_int_equal(kill(live_stayer(s), 0), 0);
    support_kill(live_stayer(s));
    assert_int_equal(live_close(s), 0);
}

static void its_fork_with_exec_lives_on(void **state)
{
    (void)state;
    run_program(LIVE_PRODUCER, false);
    run_program(LIVE_PRODUCER, true);
    run_program(LIVE_CONSUMER, false);
}

/* ---- one address space, several processes ---------------------------------------------------- */

static int stay_in_shared_memory(void *arg)
{
    live_i_stay(arg);
    return live_stay(arg);
}

static pid_t clone_with_memory(struct live_scene *s, int flags)
{
    char *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                       0);
    SUPPORT_CHECK(stack != MAP_FAILED);
    gone_unmark(); /* the test waits for this process, while its memory goes on */
    return clone(stay_in_shared_memory, stack + STACK_BYTES, CLONE_VM | flags | SIGCHLD, s);
}

static int outlived_by_vm(void *arg)
{
    live_begin(arg);
    live_enter(arg);
    SUPPORT_CHECK(clone_with_memory(arg, 0) > 0);
    _exit(0);
}

static void its_memory_lives_on(void **state)
{
    (void)state;
    live_run_stayer(outlived_by_vm, LIVE_GOES_ON, 0);
}

/* The parent is suspended in its vfork until it is killed; its child goes on in its memory. */
static int suspended_by_vfork(void *arg)
{
    live_begin(arg);
    live_enter(arg);
    clone_with_memory(arg, CLONE_VFORK);
    _exit(1);
}

static void its_vfork_lives_on(void **state)
{
    (void)state;
    live_run_stayer(suspended_by_vfork, LIVE_GOES_ON, SIGKILL);
}

/* posix_spawn is a vfork with exec: the child has left the address space when it returns. */
static int outlives_spawn(void *arg)
{
    extern char **environ;
    char *argv[] = {(char *)(uintptr_t) "true", NULL};
    pid_t pid;
    live_begin(arg);
    live_enter(arg);
    SUPPORT_CHECK(posix_spawnp(&pid, "true", NULL, NULL, argv, environ) == 0);
    SUPPORT_CHECK(waitpid(pid, NULL, 0) == pid);
    if (live_fork() == 0)
        _exit(0); /* a child that ends takes nothing with it */
    return live_stay(arg);
}

static void its_children_end(void **state)
{
    (void)state;
    for (enum live_role role = LIVE_PRODUCER; role <= LIVE_CONSUMER; role++) {
        live_prepare(&scene, role);
        assert_int_equal(live_create(&scene), 0);
        pid_t pid = support_child(outlives_spawn, &scene);
        support_hear_child(&scene.line);
        assert_int_equal(live_judge(&scene, true), 0);
        assert_int_equal(live_go_on(&scene), 0);
        support_kill(pid);
        assert_int_equal(live_judge(&scene, false), 0);
        assert_int_equal(live_close(&scene), 0);
    }
}

/* ---- orphans and daemons --------------------------------------------------------------------- */

static int leave_orphan(void *arg)
{
    struct live_scene *s = arg;
    live_begin(s);
    if (live_fork() != 0) {
        live_await(&s->note->entered);
        return 0;
    }
    live_enter(s);
    live_i_stay(s);
    return live_stay(s);
}

static void its_parent_is_gone(void **state)
{
    (void)state;
    live_run_stayer(leave_orphan, LIVE_GOES_ON, 0);
}

/* In the process that goes on: two forks, a session of its own, no descriptors but the line. */
static void become_daemon(struct live_scene *s)
{
    if (live_fork() != 0)
        _exit(0);
    SUPPORT_CHECK(setsid() > 0);
    if (live_fork() != 0)
        _exit(0);
    SUPPORT_CHECK(chdir("/") == 0);
    live_line_low(s);
    closefrom(3);
    live_i_stay(s);
}

static int join_then_daemon(void *arg)
{
    live_begin(arg);
    live_enter(arg);
    become_daemon(arg);
    return live_stay(arg);
}

static int daemon_then_join(void *arg)
{
    live_begin(arg);
    become_daemon(arg);
    live_enter(arg);
    return live_stay(arg);
}

static void a_daemon_that_joined_before(void **state)
{
    (void)state;
    live_run_stayer(join_then_daemon, LIVE_IS_STALE, 0);
}

static void a_daemon_that_joins_then(void **state)
{
    (void)state;
    live_run_stayer(daemon_then_join, LIVE_GOES_ON, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(its_fork_lives_on),
        cmocka_unit_test(its_clone_lives_on),
        cmocka_unit_test(its_fork_with_exec_lives_on),
        cmocka_unit_test(its_memory_lives_on),
        cmocka_unit_test(its_vfork_lives_on),
        cmocka_unit_test(its_children_end),
        cmocka_unit_test(its_parent_is_gone),
        cmocka_unit_test(a_daemon_that_joined_before),
        cmocka_unit_test(a_daemon_that_joins_then),
    };
    support_begin();
    live_adopt();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
