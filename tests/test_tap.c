/* Goal: a tap gives every event that it can still copy, once, whole and in order, says exactly how
 * many it did not give, disturbs nothing, and no state of the bus stops or crashes it.
 *
 * Method: each payload is a function of its producer and number, so an event that is torn, old or
 * another one's shows. What the tap missed is known from outside: the test counts what it
 * published and what it was given. Rings of a few cells are lapped between two calls; blocks are
 * used again on purpose, also by other classes. test_tap_copy.c has damaged and stuck rings,
 * stress_tap.c a bus at full rate. */
#include "tests/stress_support.h"
#include "tests/tap_support.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* What the test knows of one producer's events, and what the tap gave of them. */
struct ledger {
    struct geb_producer *producer;
    geb_topic_id topic;
    uint64_t number; /* of its last event */
    uint64_t given_last;
    uint64_t given;
    uint64_t first_missed, last_missed; /* numbers that were not given, between two that were */
};

/* An event of `bytes`, in one of all the ways to publish, chosen by its number. */
static void publish(struct ledger *l, uint32_t id, uint32_t bytes)
{
    static unsigned char data[4][CHUNK * 3];
    struct geb_options options = GEB_OPTIONS_INIT;
    uint64_t number = ++l->number;
    stress_fill(data[0], bytes, id, number);
    options.id = number % 3 == 0 ? number : 0;
    options.key = number;
    options.deadline_ns = number % 5 == 0 ? geb_now() + 3600000 * MS : 0;
    if (bytes > 200 && number % 4 == 0) {
        struct geb_loan loan;
        assert_int_equal(geb_loan(l->producer, bytes, &loan), 0);
        memcpy(loan.data, data[0], bytes);
        assert_int_equal(geb_commit_with(l->producer, &loan, l->topic, &options), 0);
    } else if (bytes > 200 && bytes < 2000 && number % 4 == 1) {
        struct geb_message m[4];
        for (uint32_t i = 0; i < 4; i++) {
            stress_fill(data[i], bytes, id, number + i);
            m[i] = (struct geb_message){l->topic, bytes, data[i], number + i};
        }
        assert_int_equal(geb_publish_batch(l->producer, m, 4, NULL), 0);
        l->number += 3;
    } else {
        assert_int_equal(geb_publish_with(l->producer, l->topic, data[0], bytes, &options), 0);
    }
}

/* The event must be one of the ledger's, after the last one, and whole. */
static void given(struct ledger *l, uint32_t id, const struct geb_event *event)
{
    assert_true(event->number > l->given_last && event->number <= l->number);
    assert_true(stress_same(event->data, event->len, id, event->number));
    assert_int_equal(event->key, event->number);
    assert_true(event->id == 0 || event->id == event->number);
    assert_int_equal(event->attempt, 1);
    assert_false(event->redelivered);
    if (event->number > l->given_last + 1) {
        l->first_missed = l->first_missed != 0 ? l->first_missed : l->given_last + 1;
        l->last_missed = event->number - 1;
    }
    l->given_last = event->number;
    l->given++;
}

static void test_all_kinds(void **state)
{
    (void)state;
    for (unsigned mode = 0; mode < 4; mode++) {
        struct api a = {0};
        tap_bus(&a, mode, 64, 64 * CHUNK);
        struct geb_watch *watch = tap_open(a.name, GEB_TAP_NOW);
        struct ledger l = {.producer = a.producer, .topic = a.topic};
        struct geb_event event;
        uint64_t last_pos = 0;
        assert_int_equal(geb_tap_wait(watch, &event, 0), -ETIMEDOUT);
        for (uint32_t i = 0; i < 400; i++) {
            static const uint32_t sizes[] = {0, 7, 16, 33, 300, 1500, 60000, 3 * CHUNK};
            publish(&l, mode, sizes[i % 8] - (sizes[i % 8] == 16 ? 0 : i % 8 > 2 ? i % 5 : 0));
            if (i % 3 == 0)
                assert_true(geb_dispatch(a.bus, 0) >= 0); /* before the tap, or after it */
            while (i % 2 == 0 && geb_tap_wait(watch, &event, 0) == 1) {
                assert_true(event.position >= last_pos);
                last_pos = event.position;
                given(&l, mode, &event);
            }
            assert_true(geb_dispatch(a.bus, 0) >= 0);
        }
        while (geb_tap_wait(watch, &event, 0) == 1)
            given(&l, mode, &event);
        struct geb_tap_counts counts = tap_counts(watch);
        assert_int_equal(l.given, l.number);
        assert_int_equal(counts.seen, l.number);
        assert_int_equal(counts.missed + counts.overtaken + counts.gone + counts.bad, 0);
        assert_int_equal(counts.behind, 0);
        assert_int_equal(geb_unwatch(watch), 0);
        api_end(&a);
    }
}

static void test_start(void **state)
{
    (void)state;
    for (unsigned mode = 0; mode < 4; mode++) {
        struct api a = {0};
        struct geb_event event;
        tap_bus(&a, mode, 4, GEB_NO_SLABS);
        for (uint64_t cnt = 0, total = 0; cnt < 30; cnt++) {
            struct geb_watch *now = tap_open(a.name, GEB_TAP_NOW);
            struct geb_watch *oldest = tap_open(a.name, GEB_TAP_OLDEST);
            uint64_t there = total < 7 ? total : 7; /* of 8 cells the next one is given up */
            for (uint64_t i = 1; i <= there; i++) {
                uint64_t value;
                assert_int_equal(geb_tap_wait(oldest, &event, 0), 1);
                memcpy(&value, event.data, sizeof(value));
                assert_int_equal(event.number, total - there + i);
                assert_int_equal(value, event.number);
            }
            assert_int_equal(geb_tap_wait(oldest, &event, 0), -ETIMEDOUT);
            assert_int_equal(tap_counts(oldest).missed, 0);
            assert_int_equal(geb_tap_next(now, &event), 0);
            api_publish(&a, ++total, 1);
            assert_int_equal(geb_dispatch(a.bus, 0), 1);
            assert_int_equal(geb_tap_wait(now, &event, 0), 1);
            assert_int_equal(event.number, total);
            assert_int_equal(geb_unwatch(now), 0);
            assert_int_equal(geb_unwatch(oldest), 0);
        }
        api_end(&a);
    }
}

/* Two producers lap a small ring while the tap reads now and then. */
static void test_lapped(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 300; round++) {
        struct api a = {0};
        struct ledger l[2] = {0};
        tap_bus(&a, 0, 4u << round % 4, 4 * CHUNK);
        for (uint32_t i = 0; i < 2; i++) {
            assert_int_equal(geb_join(&l[i].producer, a.name, "lap"), 0);
            l[i].topic = a.topic;
        }
        struct geb_watch *watch = tap_open(a.name, GEB_TAP_NOW);
        struct shr_map map = tap_damage(&a); /* only to look at head */
        struct geb_event event = {0};
        uint64_t last_pos = 0, cells = 0, start = shr_load_relaxed(&map.hot->head);
        for (uint32_t i = 0; i < 60; i++) {
            for (uint64_t cnt = support_random() % 24; cnt > 0; cnt--) {
                uint64_t r = support_random();
                uint32_t id = r % 2;
                publish(&l[id], id, r / 2 % 4 != 0 ? 8 : 40 + (uint32_t)(r >> 8) % 300);
            }
            for (uint64_t cnt = support_random() % 24; cnt > 0; cnt--) {
                if (geb_tap_next(watch, &event) != 1)
                    continue;
                given(&l[event.producer - 2], event.producer - 2, &event);
                cells += event.position != last_pos;
                last_pos = event.position;
            }
            if (support_random() % 8 == 0)
                assert_true(tap_counts(watch).missed <= l[0].number + l[1].number);
        }
        while (geb_tap_wait(watch, &event, 0) == 1) {
            given(&l[event.producer - 2], event.producer - 2, &event);
            cells += event.position != last_pos;
            last_pos = event.position;
        }
        struct geb_tap_counts counts = tap_counts(watch);
        struct geb_tap_row rows[4];
        assert_int_equal(counts.behind, 0);
        assert_int_equal(counts.bad, 0);
        assert_int_equal(counts.seen, l[0].given + l[1].given);
        assert_int_equal(counts.missed, l[0].number + l[1].number - counts.seen);
        assert_int_equal(cells + counts.overtaken + counts.gone,
                         shr_load_relaxed(&map.hot->head) - start);
        assert_int_equal(counts.first_overtaken != 0, counts.overtaken != 0);
        if (counts.overtaken != 0)
            assert_in_range(counts.first_overtaken, start, counts.last_overtaken);
        assert_true(counts.last_overtaken < shr_load_relaxed(&map.hot->head));
        shr_segment_detach(&map);
        assert_int_equal(geb_tap_producers(watch, rows, 4), 2);
        for (uint32_t i = 0; i < 2; i++) {
            assert_int_equal(rows[i].seen, l[i].given);
            assert_int_equal(rows[i].missed, l[i].number - l[i].given);
            assert_int_equal(rows[i].last, l[i].number);
            if (l[i].given_last < l[i].number) {
                l[i].last_missed = l[i].number;
                l[i].first_missed = l[i].first_missed != 0 ? l[i].first_missed
                                                           : l[i].given_last + 1;
            }
            assert_int_equal(rows[i].first_missed, l[i].first_missed);
            assert_int_equal(rows[i].last_missed, l[i].last_missed);
            assert_int_equal(geb_leave(l[i].producer), 0);
        }
        assert_int_equal(geb_unwatch(watch), 0);
        api_end(&a);
    }
}

/* The blocks of handled events are used again, by events of all classes, before the tap comes. */
static void test_blocks_again(void **state)
{
    (void)state;
    uint64_t gone = 0, seen = 0;
    for (uint32_t round = 0; round < 300; round++) {
        struct api a = {0};
        tap_bus(&a, 1, 64, 6 * CHUNK);
        struct geb_watch *watch = tap_open(a.name, GEB_TAP_NOW);
        struct ledger l = {.producer = a.producer, .topic = a.topic};
        struct geb_event event;
        static const uint32_t sizes[] = {100, 1000, 5000, CHUNK, 2 * CHUNK + 1, 3 * CHUNK};
        for (uint32_t i = 0; i < 40; i++) {
            publish(&l, 1, sizes[support_random() % (round % 6 + 1)]);
            assert_int_equal(geb_dispatch(a.bus, 0), 1);
        }
        while (geb_tap_wait(watch, &event, 0) == 1)
            given(&l, 1, &event);
        struct geb_tap_counts counts = tap_counts(watch);
        assert_int_equal(counts.seen, l.given);
        assert_int_equal(counts.seen + counts.missed, l.number);
        assert_int_equal(counts.bad + counts.overtaken, 0);
        gone += counts.gone;
        seen += counts.seen;
        assert_int_equal(geb_unwatch(watch), 0);
        api_end(&a);
    }
    print_message("%llu seen, %llu cells without their payload\n", (unsigned long long)seen,
                  (unsigned long long)gone);
    assert_true(gone > 1000 && seen > 1000);
}

/* geb_tap_wait finds what is there, however short a time ago the tap looked. */
static void test_no_delay(void **state)
{
    (void)state;
    struct api a = {0};
    struct geb_event event;
    uint32_t later = 0;
    tap_bus(&a, 1, 16384, GEB_NO_SLABS);
    struct geb_watch *watch = tap_open(a.name, GEB_TAP_NOW);
    for (uint32_t i = 1; i <= 4000; i++) {
        api_publish(&a, i, 1);
        later += geb_tap_next(watch, &event) == 0;
        if (later != 0 && event.number != i)
            assert_int_equal(geb_tap_wait(watch, &event, 0), 1);
        assert_int_equal(event.number, i);
    }
    assert_true(later > 1000); /* else this shows nothing */
    assert_int_equal(geb_unwatch(watch), 0);
    api_end(&a);
}

/* Every line of /proc/self/maps that shows the bus since the tap began says r--s; and there is no
 * consumer any more. */
static void test_alone(void **state)
{
    (void)state;
    struct api a = {0};
    char line[512];
    unsigned maps = 0;
    tap_bus(&a, 1, 16, 4 * CHUNK);
    struct ledger l = {.producer = a.producer, .topic = a.topic};
    for (uint32_t i = 0; i < 5; i++)
        publish(&l, 1, 30 * i);
    assert_int_equal(geb_leave(a.producer), 0);
    assert_int_equal(geb_close(a.bus, 0), 0);
    struct geb_watch *watch = tap_open(a.name, GEB_TAP_OLDEST);
    FILE *f = fopen("/proc/self/maps", "re");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f) != NULL) {
        if (strstr(line, a.name) == NULL)
            continue;
        assert_non_null(strstr(line, " r--s "));
        maps++;
    }
    fclose(f);
    assert_int_equal(maps, 1);
    struct geb_event event;
    while (geb_tap_wait(watch, &event, 0) == 1)
        given(&l, 1, &event);
    assert_int_equal(l.given, 5);
    assert_int_equal(geb_unwatch(watch), 0);
    assert_int_equal(geb_remove(a.name), 0);
}

static void test_arguments(void **state)
{
    (void)state;
    struct api a = {0};
    struct geb_event event;
    struct geb_watch *watch;
    struct geb_tap_counts counts = {0};
    tap_bus(&a, 0, 4, GEB_NO_SLABS);
    assert_int_equal(geb_watch(&watch, a.name), 0);
    api_refused(geb_tap_next(watch, &event), -EINVAL, "geb_tap first");
    api_refused(geb_tap_wait(watch, &event, 0), -EINVAL, "geb_tap first");
    api_refused(geb_tap(watch, (enum geb_tap_start)7), -EINVAL, "GEB_TAP_OLDEST");
    api_refused(geb_tap(NULL, GEB_TAP_NOW), -EINVAL, "NULL");
    assert_int_equal(geb_tap(watch, GEB_TAP_NOW), 0);
    api_refused(geb_tap_next(watch, NULL), -EINVAL, "NULL");
    api_refused(geb_tap_counts(watch, &counts), -EINVAL, "GEB_TAP_COUNTS_INIT");
    api_publish(&a, 1, 2);
    assert_int_equal(geb_tap_next(watch, &event), 1);
    assert_int_equal(geb_tap(watch, GEB_TAP_NOW), 0); /* anew: the second one is of the past */
    assert_int_equal(geb_tap_wait(watch, &event, 0), -ETIMEDOUT);
    assert_int_equal(tap_counts(watch).seen, 0);
    uint64_t start_ns = geb_now();
    assert_int_equal(geb_tap_wait(watch, &event, start_ns + 20 * MS), -ETIMEDOUT);
    assert_true(geb_now() - start_ns >= 20 * MS);
    assert_int_equal(geb_unwatch(watch), 0);
    api_refused(geb_tap_next(watch, &event), -ESTALE, "has ended");
    api_end(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_kinds), cmocka_unit_test(test_start),
        cmocka_unit_test(test_lapped),    cmocka_unit_test(test_blocks_again),
        cmocka_unit_test(test_no_delay),  cmocka_unit_test(test_alone),
        cmocka_unit_test(test_arguments),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
