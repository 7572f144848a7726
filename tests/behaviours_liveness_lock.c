/* Goal: somebody who may only read the file, and holds read locks on it, makes nobody alive look
 * dead, nor anybody dead look alive; what it can do is keep newcomers from the bytes that it has,
 * and the error says so.
 *
 * Method: a stranger opens the bus for reading and locks the byte of a free slot, of a dead or a
 * live producer, of the consumer's role, or all of them; with locks of its open file description
 * and with those of its process. It locks before the owner comes, or waits for the lock while the
 * owner lives and has it when that dies. */
#include "tests/live_support.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

struct stranger {
    char path[SHR_PATH_BYTES];
    struct support_line line;
    uint64_t byte, cnt;
    bool of_process; /* the lock, else of the open file description */
    bool waits;      /* until it gets the lock */
    shr_a32 *rc;     /* what the kernel said to it */
    pid_t pid;
};

static int lock_it(void *arg)
{
    struct stranger *x = arg;
    struct flock lock = {
        .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = (off_t)x->byte, .l_len = (off_t)x->cnt};
    int command = x->of_process ? (x->waits ? F_SETLKW : F_SETLK)
                                : (x->waits ? F_OFD_SETLKW : F_OFD_SETLK);
    int fd = open(x->path, O_RDONLY | O_CLOEXEC);
    SUPPORT_CHECK(fd >= 0);
    if (x->waits)
        support_tell_test(&x->line);
    shr_store32_release(x->rc, fcntl(fd, command, &lock) == 0 ? 0 : (uint32_t)errno);
    support_tell_test(&x->line);
    support_hear_test(&x->line);
    return 0;
}

static void stranger_start(struct stranger *x, const char *name, uint64_t byte, uint64_t cnt)
{
    x->byte = byte;
    x->cnt = cnt;
    if (x->rc == NULL)
        x->rc = support_shared(sizeof(*x->rc));
    assert_int_equal(shr_segment_path(name, false, x->path), 0);
    support_line_open(&x->line);
    x->pid = support_child(lock_it, x);
    support_hear_child(&x->line);
}

static void stranger_end(struct stranger *x)
{
    support_tell_child(&x->line);
    assert_int_equal(support_wait(x->pid), 0);
    support_line_close(&x->line);
}

/* Runs a test with each kind of lock. */
static void with_each_kind(void (*test)(struct stranger *x))
{
    static struct stranger x;
    for (int i = 0; i < 2; i++) {
        x = (struct stranger){.of_process = i != 0};
        test(&x);
    }
}

static void assert_locked(const struct stranger *x)
{
    assert_int_equal(shr_load32_acquire(x->rc), 0);
}

/* ---- slots ----------------------------------------------------------------------------------- */

static void free_slot(struct stranger *x)
{
    struct api a = {0};
    struct geb_producer *p[3];
    api_open(&a, GEB_RETURN_ERROR, 8);
    stranger_start(x, a.name, 2, 1);
    assert_locked(x);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(geb_join(&p[i], a.name, "next"), 0);
        assert_int_equal(p[i]->slot, 3 + i);
        assert_int_equal(geb_publish(p[i], a.topic, "x", 1), 0);
    }
    api_refused(geb_join(&p[2], a.name, "last"), -EUSERS, "lsof");
    stranger_end(x);
    assert_int_equal(geb_join(&p[2], a.name, "last"), 0);
    assert_int_equal(p[2]->slot, 2);
    api_refused(geb_join(&(struct geb_producer *){0}, a.name, "more"), -EUSERS, "are in use");
    assert_int_equal(geb_dispatch(a.bus, 0), 2);
    for (int i = 0; i < 3; i++)
        assert_int_equal(geb_leave(p[i]), 0);
    api_end(&a);
}

static void a_free_slot(void **state)
{
    (void)state;
    with_each_kind(free_slot);
}

static void exclusive_slot(struct stranger *x)
{
    struct api a = {0};
    struct geb_config config = api_config(GEB_RETURN_ERROR, 8);
    config.exclusive = true;
    config.producers = 1;
    api_open_config(&a, &config);
    assert_int_equal(geb_leave(a.producer), 0);
    stranger_start(x, a.name, 1, 1);
    assert_locked(x);
    api_refused(geb_join(&a.producer, a.name, "again"), -EBUSY, "lsof");
    stranger_end(x);
    assert_int_equal(geb_join(&a.producer, a.name, "again"), 0);
    api_refused(geb_join(&(struct geb_producer *){0}, a.name, "more"), -EBUSY, "has its producer");
    api_end(&a);
}

static void the_slot_of_an_exclusive_bus(void **state)
{
    (void)state;
    with_each_kind(exclusive_slot);
}

/* The judge's verdicts beside the stranger: of the dead, the joiner's is another one. */
static void live_and_dead_slot(struct stranger *x)
{
    static struct live_scene s;
    struct geb_producer *joiner;
    live_prepare(&s, LIVE_PRODUCER);
    assert_int_equal(live_create(&s), 0);
    pid_t pid = support_child(live_plain, &s);
    support_hear_child(&s.line);
    x->waits = true;
    stranger_start(x, s.name, LIVE_SLOT, 1); /* it waits for the lock from now on, or soon */
    assert_int_equal(live_judge(&s, true), 0);
    assert_int_equal(live_go_on(&s), 0);
    support_kill(pid);
    support_hear_child(&x->line); /* it has it */
    assert_locked(x);
    assert_int_equal(shr_lock_held(&s.map, LIVE_SLOT), 0);
    assert_int_equal(geb_join(&joiner, s.name, "next"), 0);
    assert_int_equal(joiner->slot, LIVE_SLOT + 1);
    assert_int_equal(geb_leave(joiner), 0);
    while (geb_dispatch(s.bus, 0) > 0)
        ;
    s.bus->swept_ns = 0;
    gebi_housekeep(s.bus, geb_now()); /* one sweep settles it beside the stranger */
    assert_int_equal(shr_load32_acquire(&s.map.peers[LIVE_SLOT].state), SHR_PEER_FREE);
    for (uint32_t i = 0; i < s.map.geo.chunk_cnt; i++)
        assert_int_equal(shr_load_acquire(&s.map.owners[i]), 0);
    stranger_end(x);
    assert_int_equal(live_judge(&s, false), 0);
    assert_int_equal(live_close(&s), 0);
}

static void the_slot_of_a_producer_that_dies(void **state)
{
    (void)state;
    with_each_kind(live_and_dead_slot);
}

/* ---- the consumer's role --------------------------------------------------------------------- */

static void fill_up(struct api *a)
{
    while (geb_publish(a->producer, a->topic, "x", 1) == 0)
        ;
}

static void free_role(struct stranger *x)
{
    static struct api_log log;
    struct api a = {0};
    memset(&log, 0, sizeof(log));
    api_open(&a, GEB_RETURN_ERROR, 8);
    assert_int_equal(geb_close(a.bus, 0), 0);
    stranger_start(x, a.name, SHR_CONSUMER_SLOT, 1);
    assert_locked(x);
    api_refused(geb_open(&a.bus, a.name), -EBUSY, "lsof");
    api_refused(geb_create(&a.bus, a.name, &a.config), -EBUSY, "lsof");
    fill_up(&a); /* publishing goes on */
    assert_int_equal(geb_leave(a.producer), 0);
    api_refused(geb_remove(a.name), -EBUSY, "lsof");
    stranger_end(x);
    assert_int_equal(geb_create(&a.bus, a.name, &a.config), 0);
    assert_int_equal(geb_on(a.bus, "t", api_record, &log), 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 8);
    assert_int_equal(log.cnt, 8);
    assert_int_equal(geb_join(&a.producer, a.name, "again"), 0);
    api_end(&a);
}

static void the_role_that_is_free(void **state)
{
    (void)state;
    with_each_kind(free_role);
}

static int consume_and_die(void *arg)
{
    struct api *a = arg;
    SUPPORT_CHECK(geb_open(&a->bus, a->name) == 0);
    kill(getpid(), SIGKILL);
    return 1;
}

/* A producer that waits for room learns that its consumer is gone, whatever a stranger holds. */
static void dead_role(struct stranger *x)
{
    struct api a = {0};
    struct geb_options at_once = GEB_OPTIONS_INIT;
    at_once.wait_until_ns = 0;
    api_open(&a, GEB_BLOCK, 4);
    assert_int_equal(geb_close(a.bus, 0), 0);
    if (!x->of_process) /* else it was an orderly end */
        assert_int_equal(support_wait(support_child(consume_and_die, &a)), -SIGKILL);
    stranger_start(x, a.name, SHR_CONSUMER_SLOT, 1);
    assert_locked(x);
    while (geb_publish_with(a.producer, a.topic, "x", 1, &at_once) == 0)
        ;
    api_watchdog(60);
    assert_int_equal(geb_publish(a.producer, a.topic, "x", 1), x->of_process ? -ESHUTDOWN : -EPIPE);
    api_watchdog(0);
    if (!x->of_process)
        api_await_state(&a, SHR_CONSUMER_SLOT, "dead");
    stranger_end(x);
    assert_int_equal(geb_open(&a.bus, a.name), 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 4);
    assert_int_equal(geb_publish(a.producer, a.topic, "x", 1), 0);
    api_end(&a);
}

static void the_role_of_a_consumer_that_died(void **state)
{
    (void)state;
    with_each_kind(dead_role);
}

/* All bytes at once, beside those who live. */
static void everything(struct stranger *x)
{
    struct api a = {0};
    api_open(&a, GEB_RETURN_ERROR, 8);
    stranger_start(x, a.name, 0, 0);
    assert_int_not_equal(shr_load32_acquire(x->rc), 0); /* refused: two bytes are held */
    stranger_end(x);
    x->waits = true;
    stranger_start(x, a.name, 0, 0);
    fill_up(&a);
    assert_int_equal(geb_dispatch(a.bus, 0), 8);
    a.bus->swept_ns = 0;
    gebi_housekeep(a.bus, geb_now());
    assert_int_equal(geb_publish(a.producer, a.topic, "x", 1), 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    assert_int_equal(geb_leave(a.producer), 0);
    assert_int_equal(geb_close(a.bus, 0), 0);
    support_hear_child(&x->line);
    assert_locked(x);
    api_refused(geb_join(&a.producer, a.name, "more"), -EUSERS, "lsof");
    api_refused(geb_open(&a.bus, a.name), -EBUSY, "lsof");
    stranger_end(x);
    assert_int_equal(geb_open(&a.bus, a.name), 0);
    assert_int_equal(geb_join(&a.producer, a.name, "more"), 0);
    api_end(&a);
}

static void all_of_it(void **state)
{
    (void)state;
    with_each_kind(everything);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_free_slot),
        cmocka_unit_test(the_slot_of_an_exclusive_bus),
        cmocka_unit_test(the_slot_of_a_producer_that_dies),
        cmocka_unit_test(the_role_that_is_free),
        cmocka_unit_test(the_role_of_a_consumer_that_died),
        cmocka_unit_test(all_of_it),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
