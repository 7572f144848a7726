/* Goal: a slot's lock lives exactly as long as the address space that took it, and what a dead
 * owner left in its slot is read rightly by the next. Method: children take a lock and then are
 * killed, stopped, forked, made daemons or replaced by exec, each step confirmed over a pipe;
 * joiners die at each instruction of shr_peer_enter. */
#include "shmring/peer.h"
#include "tests/support.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

#define SLOT 1u

struct world {
    struct shr_map map;
    struct support_line line;
    char path[SHR_PATH_BYTES];
    struct shr_lock lock; /* the test's own */
};

static void world_make(struct world *w)
{
    struct shr_config config = support_tiny_config();
    memset(w, 0, sizeof(*w));
    assert_int_equal(shr_segment_create(&w->map, support_path(w->path), &config), 0);
    support_line_open(&w->line);
}

static void world_end(struct world *w)
{
    shr_lock_drop(&w->lock);
    support_line_close(&w->line);
    shr_segment_detach(&w->map);
    assert_int_equal(unlink(w->path), 0);
}

/* In a child: attaches, takes the lock. The map is not inherited, so the child has its own. */
static struct shr_lock child_take(const struct world *w)
{
    struct shr_map map;
    struct shr_lock lock = {0};
    SUPPORT_CHECK(shr_segment_attach(&map, w->path, true) == 0);
    SUPPORT_CHECK(shr_lock_take(&map, SLOT, &lock) == 0);
    SUPPORT_CHECK(shr_lock_held(&map, SLOT) == 1);
    shr_segment_detach(&map); /* the lock does not depend on it */
    return lock;
}

static int hold(void *arg)
{
    const struct world *w = arg;
    child_take(w);
    support_tell_test(&w->line);
    support_hear_test(&w->line);
    return 0;
}

static void assert_free(struct world *w)
{
    assert_int_equal(shr_lock_held(&w->map, SLOT), 0);
    assert_int_equal(shr_lock_take(&w->map, SLOT, &w->lock), 0);
    shr_lock_drop(&w->lock);
    assert_int_equal(shr_lock_held(&w->map, SLOT), 0);
}

static void assert_held(struct world *w)
{
    assert_int_equal(shr_lock_held(&w->map, SLOT), 1);
    assert_int_equal(shr_lock_take(&w->map, SLOT, &w->lock), -EBUSY);
    assert_null(w->lock.page);
}

static pid_t start(struct world *w, int (*fn)(void *))
{
    pid_t pid = support_child(fn, w);
    support_hear_child(&w->line);
    return pid;
}

/* ---- how long a lock lives ------------------------------------------------------------------- */

static void test_own_lock(void **state)
{
    (void)state;
    struct world w;
    struct shr_lock second, other = {0};
    world_make(&w);
    assert_free(&w);
    assert_int_equal(shr_lock_take(&w.map, SLOT, &w.lock), 0);
    assert_int_equal(shr_lock_held(&w.map, SLOT), 1); /* our own shows too */
    assert_int_equal(shr_lock_take(&w.map, SLOT, &second), -EBUSY);
    assert_int_equal(shr_lock_take(&w.map, SHR_LOCK_SWEEP, &other), 0); /* one byte, no more */
    assert_int_equal(shr_lock_held(&w.map, SLOT - 1), 0);
    assert_int_equal(shr_lock_held(&w.map, SLOT + 1), 0);
    assert_int_equal(shr_lock_held(&w.map, SHR_LOCK_STANDBY), 0);
    shr_lock_drop(&w.lock);
    shr_lock_drop(&w.lock);
    assert_free(&w);
    shr_lock_drop(&other);
    world_end(&w);
}

static void test_killed(void **state)
{
    (void)state;
    struct world w;
    world_make(&w);
    pid_t pid = start(&w, hold);
    assert_held(&w);
    support_stop(pid); /* stopped is not dead */
    assert_held(&w);
    support_continue(pid);
    assert_held(&w);
    kill(pid, SIGKILL);
    support_wait_zombie(pid); /* dead is dead, whether or not its parent has noticed */
    assert_free(&w);
    assert_int_equal(support_wait(pid), -SIGKILL);
    pid = start(&w, hold);
    support_stop(pid);
    support_kill(pid);
    assert_free(&w);
    pid = start(&w, hold); /* a good end frees it as well */
    support_tell_child(&w.line);
    assert_int_equal(support_wait(pid), 0);
    assert_free(&w);
    world_end(&w);
}

static int outlive(void *arg)
{
    const struct world *w = arg;
    unsigned char there[1];
    SUPPORT_CHECK(mincore(w->lock.page, 1, there) != 0 && errno == ENOMEM);
    support_tell_test(&w->line);
    support_hear_test(&w->line);
    return 0;
}

static void test_not_inherited(void **state)
{
    (void)state;
    struct world w;
    world_make(&w);
    assert_int_equal(shr_lock_take(&w.map, SLOT, &w.lock), 0);
    pid_t pid = start(&w, outlive);
    shr_lock_drop(&w.lock);
    assert_free(&w);
    support_tell_child(&w.line);
    assert_int_equal(support_wait(pid), 0);
    world_end(&w);
}

/* Closes everything but the line, which moves to 0 and 1. */
static void close_all(struct world *w)
{
    SUPPORT_CHECK(dup2(w->line.to_child[0], 0) == 0);
    SUPPORT_CHECK(dup2(w->line.to_test[1], 1) == 1);
    w->line.to_child[0] = 0;
    w->line.to_test[1] = 1;
    closefrom(3);
}

static int hold_without_descriptors(void *arg)
{
    struct world *w = arg;
    struct shr_map map;
    struct shr_lock lock, other;
    SUPPORT_CHECK(shr_segment_attach(&map, w->path, true) == 0);
    SUPPORT_CHECK(shr_lock_take(&map, SLOT, &lock) == 0);
    close_all(w);
    SUPPORT_CHECK(shr_lock_held(&map, SLOT) == 1); /* the map finds its file again */
    closefrom(3);
    SUPPORT_CHECK(shr_lock_take(&map, SLOT + 1, &other) == 0);
    support_tell_test(&w->line);
    support_hear_test(&w->line);
    return 0;
}

static void test_closefrom(void **state)
{
    (void)state;
    struct world w;
    world_make(&w);
    pid_t pid = start(&w, hold_without_descriptors);
    assert_held(&w);
    assert_int_equal(shr_lock_held(&w.map, SLOT + 1), 1);
    support_kill(pid);
    assert_free(&w);
    world_end(&w);
}

static int become_daemon(void *arg)
{
    struct world *w = arg;
    if (fork() != 0)
        _exit(0);
    SUPPORT_CHECK(setsid() > 0);
    if (fork() != 0)
        _exit(0);
    SUPPORT_CHECK(chdir("/") == 0);
    child_take(w);
    close_all(w);
    support_tell_test(&w->line);
    support_hear_test(&w->line);
    return 0;
}

static void test_daemon(void **state)
{
    (void)state;
    struct world w;
    world_make(&w);
    pid_t pid = start(&w, become_daemon);
    assert_int_equal(support_wait(pid), 0);
    assert_held(&w); /* nobody waits for the daemon, and its first descriptors are gone */
    support_tell_child(&w.line);
    while (shr_lock_held(&w.map, SLOT) ==
           1) /* it ends without a parent to tell; meson bounds this */
        sched_yield();
    assert_free(&w);
    world_end(&w);
}

static int become_another(void *arg)
{
    struct world *w = arg;
    child_take(w);
    support_tell_test(&w->line);
    support_hear_test(&w->line);
    SUPPORT_CHECK(dup2(w->line.to_child[0], 0) == 0);
    SUPPORT_CHECK(dup2(w->line.to_test[1], 1) == 1);
    execlp("cat", "cat", (char *)NULL);
    return 1;
}

static void test_exec(void **state)
{
    (void)state;
    struct world w;
    world_make(&w);
    pid_t pid = start(&w, become_another);
    assert_held(&w);
    support_tell_child(&w.line);
    support_tell_child(&w.line); /* cat brings this one back */
    support_hear_child(&w.line);
    while (shr_lock_held(&w.map, SLOT) == 1) /* somebody may look at its old memory; gone.h */
        sched_yield();
    assert_free(&w);
    support_kill(pid);
    world_end(&w);
}

static int stranger(void *arg)
{
    const struct world *w = arg;
    struct flock lock = {
        .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = (off_t)SLOT, .l_len = 1};
    int fd = open(w->path, O_RDONLY | O_CLOEXEC);
    SUPPORT_CHECK(fd >= 0 && fcntl(fd, F_OFD_SETLK, &lock) == 0);
    support_tell_test(&w->line);
    support_hear_test(&w->line);
    return 0;
}

static void test_stranger(void **state)
{
    (void)state;
    struct world w;
    world_make(&w);
    pid_t pid = start(&w, stranger);
    /* No owner, for owners lock for writing; but nobody can become one. */
    assert_int_equal(shr_lock_held(&w.map, SLOT), 0);
    assert_int_equal(shr_lock_take(&w.map, SLOT, &w.lock), -EBUSY);
    assert_int_equal(shr_lock_take_dead(&w.map, SLOT, false, &w.lock), -EBUSY);
    /* The consumer settles the slot all the same, and keeps everybody else out meanwhile. */
    assert_int_equal(shr_lock_take_dead(&w.map, SLOT, true, &w.lock), 0);
    support_tell_child(&w.line);
    assert_int_equal(support_wait(pid), 0);
    assert_int_equal(shr_lock_held(&w.map, SLOT), 0);
    assert_int_equal(shr_lock_take(&w.map, SLOT, &(struct shr_lock){0}), -EBUSY);
    shr_lock_drop(&w.lock);
    assert_free(&w);
    assert_int_equal(shr_lock_take(&w.map, SLOT, &w.lock), 0);
    assert_int_equal(shr_lock_take_dead(&w.map, SLOT, true, &(struct shr_lock){0}), -EBUSY);
    world_end(&w);
}

static int take_without_room(void *arg)
{
    struct world *w = arg;
    struct shr_map map;
    struct shr_lock lock;
    SUPPORT_CHECK(shr_segment_attach(&map, w->path, true) == 0);
    struct rlimit limit = {.rlim_cur = shr_load32_relaxed(&map.fd) + 1, .rlim_max = 4096};
    SUPPORT_CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    for (int fd = dup(1); fd >= 0; fd = dup(1))
        ;
    SUPPORT_CHECK(shr_lock_take(&map, SLOT, &lock) == -EMFILE && lock.page == NULL);
    SUPPORT_CHECK(shr_lock_held(&map, SLOT) == 0);
    /* A slot can still be settled: through the map's own description, until it is dropped. */
    for (int consumer = 0; consumer < 2; consumer++) {
        SUPPORT_CHECK(shr_lock_take_dead(&map, SLOT, consumer != 0, &lock) == 0);
        SUPPORT_CHECK(shr_lock_take_dead(&w->map, SLOT, consumer == 0, &w->lock) == -EBUSY);
        SUPPORT_CHECK(shr_lock_take_dead(&w->map, SLOT + 1, false, &w->lock) == 0);
        shr_lock_drop(&w->lock);
        shr_lock_drop(&lock);
        SUPPORT_CHECK(shr_lock_held(&map, SLOT) == 0);
    }
    SUPPORT_CHECK(shr_lock_take_dead(&map, SLOT, false, &lock) == 0);
    SUPPORT_CHECK(shr_lock_held(&w->map, SLOT) == 1);
    shr_lock_drop(&lock);
    SUPPORT_CHECK(shr_lock_held(&w->map, SLOT) == 0);
    return 0;
}

static void test_refusals(void **state)
{
    (void)state;
    struct world w;
    struct shr_map reader;
    world_make(&w);
    assert_int_equal(support_wait(support_child(take_without_room, &w)), 0);
    /* An observer can ask, also when it may only read. */
    assert_int_equal(shr_segment_attach(&reader, w.path, false), 0);
    assert_int_equal(shr_lock_take(&w.map, SLOT, &w.lock), 0);
    assert_int_equal(shr_lock_held(&reader, SLOT), 1);
    assert_int_equal(shr_lock_held(&reader, SLOT + 1), 0);
    shr_segment_detach(&reader);
    /* The file is removed: while we have a descriptor all goes on, without one nothing can be
     * told. */
    char away[SHR_PATH_BYTES];
    assert_int_equal(rename(w.path, support_path(away)), 0);
    assert_int_equal(shr_lock_held(&w.map, SLOT), 1);
    close((int)shr_load32_relaxed(&w.map.fd));
    assert_int_equal(shr_lock_held(&w.map, SLOT), -ESTALE);
    assert_int_equal(shr_lock_take(&w.map, SLOT + 1, &(struct shr_lock){0}), -ESTALE);
    assert_int_equal(rename(away, w.path), 0);
    assert_int_equal(shr_lock_held(&w.map, SLOT), 1);
    world_end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_lock),      cmocka_unit_test(test_killed),
        cmocka_unit_test(test_not_inherited), cmocka_unit_test(test_closefrom),
        cmocka_unit_test(test_daemon),        cmocka_unit_test(test_exec),
        cmocka_unit_test(test_stranger),      cmocka_unit_test(test_refusals),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
