/* Goal: geb_stand_by and geb_take_over keep what geb.h promises: a standby waits without touching
 * the bus, has the role once it is free, and goes on at the right event; there is one at a time.
 * Method: consumer and standby in one process, or in children that are killed at known events. The
 * ways of a producer that is blocked meanwhile are counted in its own blocked time, not in ours. */
#include "tests/api_support.h"

#include "lib/internal.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static struct api_log record;

static void open_bus(struct api *a, enum geb_policy policy, uint32_t capacity)
{
    api_watchdog(60);
    record = (struct api_log){0};
    api_open(a, policy, capacity);
}

/* a->bus ends; the standby is the consumer now. */
static void succeed(struct api *a, struct geb_bus *standby)
{
    if (a->bus != NULL)
        assert_int_equal(geb_close(a->bus, 0), 0);
    a->bus = standby;
    assert_int_equal(geb_take_over(standby, GEB_FOREVER), 0);
}

static void end(struct api *a)
{
    api_account(a);
    api_end(a);
    api_watchdog(0);
}

static uint64_t standbys(struct geb_bus *bus)
{
    struct geb_metrics m = GEB_METRICS_INIT;
    assert_int_equal(geb_metrics(bus, &m), 0);
    return m.standby;
}

static void waits_while_the_consumer_lives(void **state)
{
    struct api a = {0};
    struct geb_bus *standby;
    (void)state;
    open_bus(&a, GEB_BLOCK, 4);
    assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
    api_publish(&a, 0, 2);
    uint64_t epoch = a.bus->map.peers[0].epoch;
    assert_int_equal(standbys(a.bus), 0);
    assert_int_equal(geb_stand_by(&standby, a.name), 0);
    assert_int_equal(geb_on(standby, "t", api_record, &record), 0);
    assert_int_equal(geb_on_default(standby, api_record, &record), 0);
    assert_int_equal(standbys(a.bus), 1);
    assert_int_equal(standbys(standby), 1);
    assert_int_equal(api_account(&a).standby, 1); /* an observer says so too */
    assert_int_equal(geb_dispatch(standby, 0), 0);
    api_refused(geb_take_over(standby, 0), -ETIMEDOUT, a.name);
    api_refused(geb_take_over(standby, geb_now() + 1), -ETIMEDOUT, a.name);
    assert_int_equal(record.cnt, 0);
    assert_int_equal(geb_close(standby, GEB_FOREVER), 0);
    assert_int_equal(standbys(a.bus), 0);
    /* The consumer's things are as they were. */
    assert_int_equal(a.bus->map.peers[0].epoch, epoch);
    assert_int_equal(a.bus->map.hot->closed, 0);
    assert_int_equal(a.bus->map.handlers[0].state, 1);
    assert_int_equal(a.bus->map.handlers[1].state, 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 2);
    end(&a);
}

static void goes_on_after_an_orderly_close(void **state)
{
    (void)state;
    for (int policy = 0; policy < 3; policy++) {
        struct api a = {0};
        struct geb_bus *standby;
        open_bus(&a, (enum geb_policy)policy, 8);
        assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
        assert_int_equal(geb_stand_by(&standby, a.name), 0);
        assert_int_equal(geb_on(standby, "t", api_record, &record), 0);
        api_publish(&a, 0, 8);
        assert_int_equal(geb_dispatch(a.bus, 3), 3);
        succeed(&a, standby);
        assert_int_equal(standbys(a.bus), 0);
        assert_int_equal(a.bus->map.handlers[0].state, 1); /* its handlers are shown now */
        assert_int_equal(geb_dispatch(a.bus, 0), 5);
        assert_int_equal(record.cnt, 8);
        for (uint32_t i = 0; i < 8; i++) {
            assert_int_equal(api_number(&record.row[i]), i);
            assert_false(record.row[i].event.redelivered);
        }
        assert_int_equal(api_account(&a).restarts, 0);
        end(&a);
    }
}

static int die_at_third(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    int *calls = user;
    (void)ctx;
    (void)event;
    if (++*calls == 3)
        raise(SIGKILL);
    return 0;
}

static int consume_and_die(void *arg)
{
    struct geb_bus *bus;
    int calls = 0;
    SUPPORT_CHECK(geb_open(&bus, arg) == 0);
    SUPPORT_CHECK(geb_on(bus, "t", die_at_third, &calls) == 0);
    geb_dispatch(bus, 0);
    return 1;
}

static void goes_on_after_a_death(void **state)
{
    (void)state;
    for (int policy = 0; policy < 3; policy++) {
        struct api a = {0};
        struct geb_bus *standby;
        bool lost = policy == GEB_DROP_OLDEST;
        uint32_t first = lost ? 3 : 2;
        open_bus(&a, (enum geb_policy)policy, 8);
        assert_int_equal(geb_stand_by(&standby, a.name), 0);
        assert_int_equal(geb_on(standby, "t", api_record, &record), 0);
        api_publish(&a, 0, 8);
        assert_int_equal(geb_close(a.bus, 0), 0);
        a.bus = NULL;
        assert_int_equal(support_wait(support_child(consume_and_die, a.name)), -SIGKILL);
        succeed(&a, standby);
        assert_int_equal(geb_dispatch(a.bus, 0), 8 - (int)first);
        for (uint32_t i = 0; i < 8 - first; i++)
            assert_int_equal(api_number(&record.row[i]), first + i);
        assert_int_equal(record.row[0].event.redelivered, !lost);
        assert_int_equal(record.row[0].event.attempt, lost ? 1 : 2);
        struct geb_metrics m = api_account(&a);
        assert_int_equal(m.lost_in_crash, lost);
        assert_int_equal(m.redelivered, !lost);
        assert_int_equal(m.restarts, 1);
        end(&a);
    }
}

static void one_at_a_time_and_then_the_next(void **state)
{
    struct api a = {0};
    struct geb_bus *standby, *other;
    (void)state;
    open_bus(&a, GEB_DROP_OLDEST, 4);
    assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(geb_stand_by(&standby, a.name), 0);
        assert_int_equal(geb_on(standby, "t", api_record, &record), 0);
        api_refused(geb_stand_by(&other, a.name), -EBUSY, "has its standby already");
        assert_null(other);
        api_publish(&a, 2 * i, 2);
        assert_int_equal(geb_dispatch(a.bus, 1), 1);
        succeed(&a, standby);
        assert_int_equal(geb_dispatch(a.bus, 0), 1);
        assert_int_equal(geb_take_over(a.bus, 0), 0); /* it has the role already */
    }
    for (uint32_t i = 0; i < 10; i++)
        assert_int_equal(api_number(&record.row[i]), i);
    end(&a);
}

static int stand_by_and_die(void *arg)
{
    struct geb_bus *bus;
    SUPPORT_CHECK(geb_stand_by(&bus, arg) == 0);
    return raise(SIGKILL);
}

static void dead_standby_makes_room(void **state)
{
    struct api a = {0};
    struct geb_bus *standby;
    (void)state;
    open_bus(&a, GEB_BLOCK, 4);
    assert_int_equal(support_wait(support_child(stand_by_and_die, a.name)), -SIGKILL);
    assert_int_equal(geb_stand_by(&standby, a.name), 0);
    succeed(&a, standby);
    end(&a);
}

static void without_a_consumer_it_is_the_consumer(void **state)
{
    struct api a = {0};
    (void)state;
    open_bus(&a, GEB_RETURN_ERROR, 4);
    api_publish(&a, 0, 1);
    assert_int_equal(geb_close(a.bus, 0), 0);
    assert_int_equal(geb_stand_by(&a.bus, a.name), 0);
    assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 1); /* takes the role by itself */
    struct geb_bus *other;
    api_refused(geb_open(&other, a.name), -EBUSY, "has its consumer");
    end(&a);
}

/* ---- stopping -------------------------------------------------------------------------------- */

static int stop_self(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)event;
    api_refused(geb_take_over(geb_context_bus(ctx), 0), -EDEADLK, "");
    geb_stop(geb_context_bus(ctx));
    return api_record(ctx, event, user);
}

static void stop_ends_the_wait(void **state)
{
    struct api a = {0};
    struct geb_bus *standby;
    (void)state;
    open_bus(&a, GEB_BLOCK, 4);
    assert_int_equal(geb_stand_by(&standby, a.name), 0);
    assert_int_equal(geb_on(standby, "t", stop_self, &record), 0);
    geb_stop(standby);
    api_refused(geb_take_over(standby, GEB_FOREVER), -ECANCELED, "geb_stop");
    geb_stop(standby);
    assert_int_equal(geb_run(standby), 0);
    api_publish(&a, 0, 1);
    assert_int_equal(geb_close(a.bus, 0), 0);
    a.bus = standby;
    assert_int_equal(geb_run(standby), 0); /* takes over, and is stopped by its handler */
    assert_int_equal(record.cnt, 1);
    end(&a);
}

static struct geb_bus *to_stop;

static void on_signal(int number)
{
    (void)number;
    geb_stop(to_stop);
}

struct waiting {
    const char *name;
    struct support_line line;
};

static int run_until_signal(void *arg)
{
    struct waiting *w = arg;
    SUPPORT_CHECK(geb_stand_by(&to_stop, w->name) == 0);
    signal(SIGTERM, on_signal);
    support_tell_test(&w->line);
    SUPPORT_CHECK(geb_run(to_stop) == 0);
    SUPPORT_CHECK(to_stop->standing_by);
    return geb_close(to_stop, 0);
}

static void signal_handler_ends_the_wait(void **state)
{
    struct api a = {0};
    struct waiting w = {0};
    (void)state;
    open_bus(&a, GEB_BLOCK, 4);
    w.name = a.name;
    support_line_open(&w.line);
    pid_t pid = support_child(run_until_signal, &w);
    support_hear_child(&w.line);
    kill(pid, SIGTERM);
    assert_int_equal(support_wait(pid), 0);
    support_line_close(&w.line);
    end(&a);
}

/* ---- producers meanwhile --------------------------------------------------------------------- */

static void *publish_one(void *arg)
{
    struct api *a = arg;
    uint64_t number = 4;
    return (void *)(intptr_t)geb_publish(a->producer, a->topic, &number, sizeof(number));
}

/* The producer has slept for longer than the second after which it would give up. */
static void blocked_producer_rides_through(void **state)
{
    (void)state;
    for (int orderly = 0; orderly < 2; orderly++) {
        struct api a = {0};
        struct geb_bus *standby;
        pthread_t thread;
        void *rc;
        open_bus(&a, GEB_BLOCK, 4);
        shr_a64 *blocked_ns = &a.producer->map.peers[1].blocked_ns;
        api_publish(&a, 0, 4);
        assert_int_equal(geb_stand_by(&standby, a.name), 0);
        assert_int_equal(geb_on(standby, "t", api_record, &record), 0);
        if (orderly)
            assert_int_equal(geb_close(a.bus, 0), 0);
        else
            shr_lock_drop(&a.bus->lock); /* as the kernel does at a death */
        struct geb_bus *ended = orderly ? NULL : a.bus;
        a.bus = NULL;
        assert_int_equal(pthread_create(&thread, NULL, publish_one, &a), 0);
        while (shr_load_relaxed(blocked_ns) < UINT64_C(1300000000)) {
            assert_int_equal(pthread_tryjoin_np(thread, &rc), EBUSY);
            usleep(10000);
        }
        succeed(&a, standby);
        while (record.cnt < 5)
            assert_true(geb_dispatch(a.bus, 0) >= 0);
        pthread_join(thread, &rc);
        assert_null(rc); /* no -EPIPE, no -ESHUTDOWN */
        for (uint32_t i = 0; i < 5; i++)
            assert_int_equal(api_number(&record.row[i]), i);
        end(&a);
        if (ended != NULL) {
            shr_segment_detach(&ended->map);
            gebi_handle_end(ended, sizeof(*ended));
        }
    }
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void remove_is_refused_while_a_standby_waits(void **state)
{
    struct api a = {0};
    struct geb_bus *standby;
    (void)state;
    open_bus(&a, GEB_BLOCK, 4);
    assert_int_equal(geb_stand_by(&standby, a.name), 0);
    assert_int_equal(geb_leave(a.producer), 0);
    assert_int_equal(geb_close(a.bus, 0), 0);
    a.producer = NULL;
    api_refused(geb_remove(a.name), -EBUSY, "by a standby");
    a.bus = standby;
    api_end(&a);
    api_watchdog(0);
}

static void removed_bus_is_enoent(void **state)
{
    struct api a = {0};
    struct geb_bus *standby;
    (void)state;
    open_bus(&a, GEB_BLOCK, 4);
    assert_int_equal(geb_stand_by(&standby, a.name), 0);
    assert_int_equal(unlink(a.bus->map.path), 0);
    geb_leave(a.producer);
    geb_close(a.bus, 0);
    api_refused(geb_take_over(standby, GEB_FOREVER), -ENOENT, "was removed");
    api_refused(geb_dispatch(standby, 0), -ENOENT, "was removed");
    assert_int_equal(geb_close(standby, 0), 0);
    api_watchdog(0);
}

static void wrong_arguments_are_refused(void **state)
{
    struct geb_bus *bus;
    (void)state;
    api_refused(geb_stand_by(NULL, "x"), -EINVAL, "NULL");
    api_refused(geb_stand_by(&bus, "no name"), -EINVAL, "no name");
    api_refused(geb_stand_by(&bus, "nowhere"), -ENOENT, "nowhere");
    assert_null(bus);
    api_refused(geb_take_over(NULL, 0), -EINVAL, "NULL");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(waits_while_the_consumer_lives),
        cmocka_unit_test(goes_on_after_an_orderly_close),
        cmocka_unit_test(goes_on_after_a_death),
        cmocka_unit_test(one_at_a_time_and_then_the_next),
        cmocka_unit_test(dead_standby_makes_room),
        cmocka_unit_test(without_a_consumer_it_is_the_consumer),
        cmocka_unit_test(stop_ends_the_wait),
        cmocka_unit_test(signal_handler_ends_the_wait),
        cmocka_unit_test(blocked_producer_rides_through),
        cmocka_unit_test(remove_is_refused_while_a_standby_waits),
        cmocka_unit_test(removed_bus_is_enoent),
        cmocka_unit_test(wrong_arguments_are_refused),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
