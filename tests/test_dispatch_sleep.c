/* Goal: a consumer that is about to sleep looks again, and whoever ends a wait wakes those who
 * wait: nobody sleeps until the bound of a sleep ends it. And producers see what is finished as
 * soon as they are promised to.
 *
 * Method: single-threaded. syscall() is this program's: what others do happens as the consumer says
 * that it sleeps, between its two looks, and a sleep is counted instead of slept. A wake is seen by
 * the gate's flag, which it takes down. */
#include "tests/api_support.h"

#include "lib/internal.h"

#include <linux/futex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <cmocka.h>

#define CAPACITY 64u

static struct api a;
static struct api_log record;
static void (*on_barrier)(void);
static unsigned sleeps;

long syscall(long number, ...)
{
    long arg[6];
    va_list args;
    va_start(args, number);
    for (int i = 0; i < 6; i++)
        arg[i] = va_arg(args, long);
    va_end(args);
    if (on_barrier != NULL && number == SYS_membarrier)
        on_barrier();
    if (on_barrier != NULL && number == SYS_futex && (int)arg[1] == FUTEX_WAIT_BITSET) {
        if (++sleeps > 100) /* it should have stopped long ago */
            geb_stop(a.bus);
        return 0;
    }
    return support_libc_syscall(number, arg);
}

static void start(enum geb_policy policy)
{
    api_open(&a, policy, CAPACITY);
    record = (struct api_log){0};
    assert_int_equal(geb_set_spin(a.bus, 0), 0);
    sleeps = 0;
}

static int end(void **state)
{
    (void)state;
    on_barrier = NULL;
    api_end(&a);
    a = (struct api){0};
    return 0;
}

static void stop_now(void)
{
    geb_stop(a.bus);
}

static void publish_now(void)
{
    if (record.cnt == 0)
        api_publish(&a, 7, 1);
    else
        geb_stop(a.bus);
}

static void a_stop_before_the_sleep_is_seen(void **state)
{
    (void)state;
    start(GEB_BLOCK);
    on_barrier = stop_now;
    assert_int_equal(geb_run(a.bus), 0);
    assert_int_equal(sleeps, 0);
}

static void an_event_before_the_sleep_is_seen(void **state)
{
    (void)state;
    for (int policy = 0; policy < 3; policy++) {
        start((enum geb_policy)policy);
        assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
        on_barrier = publish_now;
        assert_int_equal(geb_run(a.bus), 0);
        on_barrier = NULL;
        assert_int_equal(record.cnt, 1);
        assert_int_equal(sleeps, 0);
        end(NULL);
    }
    start(GEB_BLOCK);
}

/* ---- wakes ----------------------------------------------------------------------------------- */

static void flag(struct shr_map *map)
{
    shr_store32_relaxed(&map->hot->space.waiting, 1);
    shr_store32_relaxed(&map->hot->freed.waiting, 1);
    shr_store32_relaxed(&map->hot->bell.waiting, 1);
}

static void expect_woken(struct shr_map *map)
{
    assert_int_equal(shr_load32_relaxed(&map->hot->space.waiting), 0);
    assert_int_equal(shr_load32_relaxed(&map->hot->freed.waiting), 0);
    assert_int_equal(shr_load32_relaxed(&map->hot->bell.waiting), 1);
}

static void the_end_of_a_wait_wakes_at_both_gates(void **state)
{
    struct geb_options now = GEB_OPTIONS_INIT;
    (void)state;
    start(GEB_BLOCK);
    struct shr_map *map = &a.producer->map;
    flag(map);
    geb_cancel(a.producer);
    expect_woken(map);
    api_publish(&a, 0, CAPACITY); /* room needs no wait, so the cancellation stays */
    now.wait_until_ns = GEB_FOREVER;
    api_refused(geb_publish_with(a.producer, a.topic, "x", 1, &now), -ECANCELED, "geb_cancel");
    flag(map);
    assert_int_equal(geb_close(a.bus, 0), 0);
    a.bus = NULL;
    expect_woken(map);
}

/* ---- what producers see ---------------------------------------------------------------------- */

static uint64_t done(void)
{
    return shr_load_relaxed(&a.bus->map.hot->done);
}

/* The first event behind a wait is given up at once, the others in batches. */
static int look_at_done(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    const uint64_t *first = user;
    (void)ctx;
    assert_int_equal(done(), event->position == *first ? *first : *first + 1);
    record.cnt++;
    return 0;
}

static void finished_events_are_given_up_in_time(void **state)
{
    uint64_t first;
    (void)state;
    start(GEB_BLOCK);
    assert_int_equal(geb_on(a.bus, "t", look_at_done, &first), 0);
    for (uint32_t cnt = 1; cnt < CAPACITY / 4; cnt++) {
        assert_int_equal(geb_dispatch(a.bus, 0), 0); /* the wait */
        first = done();
        api_publish(&a, 0, cnt);
        assert_int_equal(geb_dispatch(a.bus, 0), cnt);
        assert_int_equal(done(), first + cnt);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_stop_before_the_sleep_is_seen, end),
        cmocka_unit_test_teardown(an_event_before_the_sleep_is_seen, end),
        cmocka_unit_test_teardown(the_end_of_a_wait_wakes_at_both_gates, end),
        cmocka_unit_test_teardown(finished_events_are_given_up_in_time, end),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
