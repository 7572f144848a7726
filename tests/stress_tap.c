/* Goal: beside a bus at full rate a tap never gives a torn event, nor one twice or out of order,
 * and what it gave and what it says it missed is all that was accepted.
 *
 * Method: three producers and a consumer, processes of their own, run as fast as they can, in all
 * modes, on a bus that laps the tap all the time and on one that it can follow. A payload is a
 * function of its producer and serial. The tap polls without a break, or naps as geb_tap_wait
 * does. */
#include "tests/stress_support.h"
#include "tests/tap_support.h"

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct api *busy; /* for the children */
static uint64_t busy_cnt;
static shr_a64 *busy_left; /* producers that still publish, and whether there is no consumer yet */

/* The payload says whose it is: a slot goes on from owner to owner. */
static void busy_fill(unsigned char *data, size_t bytes, uint32_t id, uint64_t serial)
{
    uint64_t head[2] = {id, serial};
    stress_fill(data, bytes, id, serial);
    memcpy(data, head, sizeof(head));
}

static int busy_producer(void *arg)
{
    static unsigned char data[CHUNK];
    struct geb_producer *me;
    (void)arg;
    SUPPORT_CHECK(geb_join(&me, busy->name, "busy") == 0);
    for (uint64_t serial = 1; serial <= busy_cnt; serial++) {
        uint64_t r = stress_hash(9, serial, 7);
        uint32_t bytes = 16 + (uint32_t)(r >> 16) % 17; /* mostly in line; also small, … */
        if (r % 8 == 0)
            bytes = 33 + (uint32_t)(r >> 16) % 600;
        if (r % 1024 == 0)
            bytes = 20000 + (uint32_t)(r >> 16) % 40000; /* … and large blocks */
        busy_fill(data, bytes, (uint32_t)getpid(), serial);
        int rc;
        while ((rc = geb_publish(me, busy->topic, data, bytes)) == -EAGAIN || rc == -ENOBUFS)
            ;
        SUPPORT_CHECK(rc == 0);
    }
    SUPPORT_CHECK(geb_leave(me) == 0);
    shr_fetch_add_acq_rel(busy_left, UINT64_MAX);
    return 0;
}

static int busy_consumer(void *arg)
{
    struct geb_bus *bus;
    (void)arg;
    SUPPORT_CHECK(geb_open(&bus, busy->name) == 0);
    SUPPORT_CHECK(geb_on(bus, "t", tap_ignore, NULL) == 0);
    shr_fetch_add_acq_rel(busy_left, UINT64_MAX);
    while (shr_load_acquire(busy_left) != 0)
        SUPPORT_CHECK(geb_dispatch(bus, 0) >= 0);
    SUPPORT_CHECK(geb_dispatch(bus, 0) >= 0);
    SUPPORT_CHECK(geb_close(bus, 0) == 0);
    return 0;
}

/* Returns how many events it gave. */
static uint64_t busy_watch(struct geb_watch *watch, bool sleepy)
{
    static unsigned char expected[CHUNK];
    uint64_t last[8] = {0}, cnt = 0;
    struct geb_event event;
    for (;;) {
        bool end = shr_load_acquire(busy_left) == 0;
        int rc = sleepy || end ? geb_tap_wait(watch, &event, end ? 0 : geb_now() + MS)
                               : geb_tap_next(watch, &event);
        if (rc != 1 && end)
            return cnt;
        if (rc != 1)
            continue;
        uint64_t head[2];
        assert_true(event.producer < 8 && event.number > last[event.producer]);
        last[event.producer] = event.number;
        assert_true(event.len >= 16 && event.len <= CHUNK);
        memcpy(head, event.data, sizeof(head));
        busy_fill(expected, event.len, (uint32_t)head[0], head[1]);
        assert_memory_equal(event.data, expected, event.len);
        cnt++;
    }
}

static void test_busy(void **state)
{
    (void)state;
    busy_left = support_shared(sizeof(*busy_left));
    for (unsigned kind = 0; kind < 16; kind++) {
        struct api a = {0};
        unsigned mode = kind % 4, producers = mode == 3 ? 1 : 3;
        bool sleepy = kind / 4 % 2 != 0;
        pid_t pid[4];
        tap_bus(&a, mode, kind < 8 ? 256 : 16384, kind < 8 ? 16 * CHUNK : 256 * CHUNK);
        assert_int_equal(geb_leave(a.producer), 0);
        assert_int_equal(geb_close(a.bus, 0), 0);
        busy = &a;
        busy_cnt = stress_events(60000);
        shr_store_release(busy_left, producers + 1);
        struct geb_watch *watch = tap_open(a.name, GEB_TAP_NOW);
        pid[3] = support_child(busy_consumer, NULL);
        while (shr_load_acquire(busy_left) != producers)
            sched_yield();
        for (unsigned i = 0; i < producers; i++)
            pid[i] = support_child(busy_producer, NULL);
        uint64_t cnt = busy_watch(watch, sleepy);
        for (unsigned i = 0; i < producers; i++)
            assert_int_equal(support_wait(pid[i]), 0);
        assert_int_equal(support_wait(pid[3]), 0);
        struct geb_tap_counts c = tap_counts(watch);
        assert_int_equal(c.seen, cnt);
        assert_int_equal(c.behind + c.bad, 0);
        assert_int_equal(c.seen + c.missed, producers * busy_cnt);
        print_message("mode %u, %u events, %s: %llu seen, %llu missed; %llu overtaken, %llu gone, "
                      "%llu passed\n",
                      mode, a.config.capacity, sleepy ? "waiting" : "polling",
                      (unsigned long long)c.seen, (unsigned long long)c.missed,
                      (unsigned long long)c.overtaken, (unsigned long long)c.gone,
                      (unsigned long long)c.passed);
        assert_int_equal(geb_unwatch(watch), 0);
        assert_int_equal(geb_remove(a.name), 0);
    }
}

/* Blocks are used again while the tap copies them: large ones, and few. */
static int refill_producer(void *arg)
{
    static unsigned char data[CHUNK];
    struct geb_producer *me;
    (void)arg;
    SUPPORT_CHECK(geb_join(&me, busy->name, "refill") == 0);
    for (uint64_t serial = 1; serial <= busy_cnt; serial++) {
        busy_fill(data, sizeof(data), (uint32_t)getpid(), serial);
        SUPPORT_CHECK(geb_publish(me, busy->topic, data, sizeof(data)) == 0);
    }
    SUPPORT_CHECK(geb_leave(me) == 0);
    shr_fetch_add_acq_rel(busy_left, UINT64_MAX);
    return 0;
}

static void test_refill(void **state)
{
    (void)state;
    struct api a = {0};
    busy_left = support_shared(sizeof(*busy_left));
    tap_bus(&a, 0, 64, 3 * CHUNK);
    busy = &a;
    busy_cnt = stress_events(20000);
    shr_store_release(busy_left, 1);
    struct geb_watch *watch = tap_open(a.name, GEB_TAP_NOW);
    pid_t pid = support_child(refill_producer, NULL);
    uint64_t cnt = busy_watch(watch, false);
    assert_int_equal(support_wait(pid), 0);
    struct geb_tap_counts c = tap_counts(watch);
    assert_int_equal(c.seen + c.missed, busy_cnt);
    assert_int_equal(c.seen, cnt);
    print_message("refilled: %llu seen, %llu gone\n", (unsigned long long)c.seen,
                  (unsigned long long)c.gone);
    assert_int_equal(geb_unwatch(watch), 0);
    api_end(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_busy), cmocka_unit_test(test_refill)};
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
