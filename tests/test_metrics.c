/* Goal: every column of the account counts what geb.h says, also across restarts; the latency
 * histogram is sane; peak, errors and expired are counted.
 * Method: known numbers of events of each outcome, checked after each step; the buckets one by
 * one. */
#include "tests/api_support.h"

#include "lib/internal.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static struct api_log record;

static void open_with_handler(struct api *a, enum geb_policy policy, uint32_t capacity)
{
    record = (struct api_log){0};
    api_open(a, policy, capacity);
    assert_int_equal(geb_on(a->bus, "t", api_record, &record), 0);
}

static void arguments(void **state)
{
    struct geb_metrics m = GEB_METRICS_INIT;
    struct api a = {0};
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    api_refused(geb_metrics(a.bus, NULL), -EINVAL, "NULL");
    m.size--;
    api_refused(geb_metrics(a.bus, &m), -EINVAL, "GEB_METRICS_INIT");
    m.size = 0;
    api_refused(geb_metrics(a.bus, &m), -EINVAL, "GEB_METRICS_INIT");
    assert_int_equal(m.accepted, 0);
    api_end(&a);
}

static void new_bus_is_all_zero(void **state)
{
    struct geb_metrics zero = {.size = sizeof(zero), .latency.sampled_1_in = 128};
    struct api a = {0};
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    struct geb_metrics m = api_account(&a);
    assert_memory_equal(&m, &zero, sizeof(m));
    api_end(&a);
}

static void each_outcome_has_its_column(void **state)
{
    struct geb_options late = GEB_OPTIONS_INIT;
    geb_topic_id other;
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_DROP_OLDEST, 8);
    assert_int_equal(geb_topic(a.producer, "other", &other), 0);
    late.deadline_ns = 1; /* long ago */
    for (uint64_t lap = 1; lap <= 3; lap++) {
        record.rc = lap == 2 ? -EIO : 0;
        api_publish(&a, 0, 3); /* one of them is dropped below */
        assert_int_equal(geb_publish(a.producer, other, "x", 1), 0);
        assert_int_equal(geb_publish_with(a.producer, a.topic, "x", 1, &late), 0);
        assert_int_equal(geb_publish_with(a.producer, other, "x", 1, &late), 0);
        api_publish(&a, 3, 3);
        struct geb_metrics m = api_account(&a);
        assert_int_equal(m.pending, 8);
        assert_int_equal(m.used, 8);
        assert_int_equal(m.dropped, lap);
        assert_int_equal(geb_dispatch(a.bus, 0), 8);
        m = api_account(&a);
        assert_int_equal(m.accepted, 9 * lap);
        assert_int_equal(m.delivered, 5 * lap); /* a failed handler's too */
        assert_int_equal(m.unhandled, lap);
        assert_int_equal(m.expired, 2 * lap);
        assert_int_equal(m.dropped, lap);
        assert_int_equal(m.pending, 0);
        assert_int_equal(m.used, 0);
        assert_int_equal(m.errors, lap < 2 ? 0 : 5);
        assert_int_equal(m.cancelled + m.dead_lettered + m.lost_in_crash, 0);
        assert_int_equal(m.revoked + m.returned + m.quarantined + m.bad_bytes, 0);
        assert_int_equal(m.redelivered + m.restarts + m.sleeps, 0);
        assert_true(m.peak <= 8);
    }
    api_end(&a);
}

static void expiry_is_by_the_deadline(void **state)
{
    struct geb_options options = GEB_OPTIONS_INIT;
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_BLOCK, 4);
    options.deadline_ns = geb_now() + UINT64_C(3600000000000);
    assert_int_equal(geb_publish_with(a.producer, a.topic, "in time", 7, &options), 0);
    options.deadline_ns = geb_now();
    assert_int_equal(geb_publish_with(a.producer, a.topic, "late", 4, &options), 0);
    options.deadline_ns = GEB_FOREVER;
    assert_int_equal(geb_publish_with(a.producer, a.topic, "never late", 10, &options), 0);
    while (geb_now() <= options.deadline_ns && record.cnt < 2)
        assert_true(geb_dispatch(a.bus, 0) >= 0);
    assert_int_equal(record.cnt, 2);
    assert_memory_equal(record.row[0].data, "in time", 7);
    assert_memory_equal(record.row[1].data, "never late", 10);
    assert_int_equal(api_account(&a).expired, 1);
    api_end(&a);
}

static void counters_outlive_consumers_and_producers(void **state)
{
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_RETURN_ERROR, 8);
    for (uint64_t lap = 1; lap <= 5; lap++) {
        api_publish(&a, 0, 2);
        assert_int_equal(geb_dispatch(a.bus, 1), 1);
        assert_int_equal(geb_leave(a.producer), 0);
        assert_int_equal(geb_close(a.bus, 0), 0);
        a.bus = NULL;
        assert_int_equal(api_account(&a).pending, lap);
        assert_int_equal(geb_open(&a.bus, a.name), 0);
        assert_int_equal(geb_join(&a.producer, a.name, "again"), 0);
        assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
        struct geb_metrics m = api_account(&a);
        assert_int_equal(m.accepted, 2 * lap);
        assert_int_equal(m.delivered, lap);
    }
    assert_int_equal(geb_dispatch(a.bus, 0), 5);
    assert_int_equal(api_account(&a).delivered, 10);
    api_end(&a);
}

static int die(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)ctx;
    (void)event;
    (void)user;
    return raise(SIGKILL);
}

static int consume_and_die(void *arg)
{
    struct geb_bus *bus;
    SUPPORT_CHECK(geb_open(&bus, arg) == 0);
    SUPPORT_CHECK(geb_on(bus, "t", die, NULL) == 0);
    geb_dispatch(bus, 0);
    return 1;
}

static void check_crash(enum geb_policy policy)
{
    struct api a = {0};
    open_with_handler(&a, policy, 8);
    api_publish(&a, 1, 4);
    assert_int_equal(geb_close(a.bus, 0), 0);
    a.bus = NULL;
    assert_int_equal(support_wait(support_child(consume_and_die, a.name)), -SIGKILL);
    assert_int_equal(api_account(&a).pending, 4); /* as long as nobody has settled it */
    assert_int_equal(geb_open(&a.bus, a.name), 0);
    assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
    uint32_t lost = policy == GEB_DROP_OLDEST;
    assert_int_equal(api_account(&a).lost_in_crash, lost);
    assert_int_equal(geb_dispatch(a.bus, 0), 4 - lost);
    for (uint32_t i = 0; i < 4 - lost; i++) {
        bool again = i == 0 && !lost;
        assert_int_equal(api_number(&record.row[i]), i + 1 + lost);
        assert_int_equal(record.row[i].event.redelivered, again);
        assert_int_equal(record.row[i].event.attempt, again ? 2 : 1);
    }
    struct geb_metrics m = api_account(&a);
    assert_int_equal(m.restarts, 1);
    assert_int_equal(m.redelivered, 1 - lost);
    assert_int_equal(m.delivered, 4 - lost);
    api_end(&a);
}

static void killed_consumer_loses_nothing_uncounted(void **state)
{
    (void)state;
    check_crash(GEB_BLOCK);
    check_crash(GEB_RETURN_ERROR);
    check_crash(GEB_DROP_OLDEST);
}

/* ---- latency --------------------------------------------------------------------------------- */

static void buckets_cover_all_latencies(void **state)
{
    (void)state;
    assert_int_equal(gebi_bucket(0), 0);
    assert_int_equal(gebi_bucket_ns(0), 0);
    for (uint32_t i = 0; i < SHR_HIST_BUCKETS; i++) {
        uint64_t least = gebi_bucket_ns(i) / SHR_STAMP_NS;
        if (i > 0)
            assert_true(gebi_bucket_ns(i) > gebi_bucket_ns(i - 1));
        if (least > UINT32_MAX)
            continue;
        assert_int_equal(gebi_bucket(least), i);
        if (i > 0)
            assert_int_equal(gebi_bucket(least - 1), i - 1);
        /* No bucket is wider than an eighth of its least latency. */
        if (i >= 8 && i + 1 < SHR_HIST_BUCKETS)
            assert_true((gebi_bucket_ns(i + 1) - gebi_bucket_ns(i)) * 8 <= gebi_bucket_ns(i));
    }
    assert_true(gebi_bucket(UINT32_MAX) < SHR_HIST_BUCKETS);
    assert_true(gebi_bucket(UINT64_MAX) < SHR_HIST_BUCKETS);
}

static void percentiles_are_those_of_the_histogram(void **state)
{
    struct api a = {0};
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    struct shr_histogram *hist = a.bus->map.latency;
    shr_store_relaxed(&hist->bucket[10], 500);
    shr_store_relaxed(&hist->bucket[20], 489);
    shr_store_relaxed(&hist->bucket[30], 10);
    shr_store_relaxed(&hist->bucket[40], 1);
    struct geb_latency l = api_account(&a).latency;
    assert_int_equal(l.count, 1000);
    assert_int_equal(l.p50_ns, gebi_bucket_ns(10)); /* the 500th of 1,000 */
    assert_int_equal(l.p99_ns, gebi_bucket_ns(30));
    assert_int_equal(l.p999_ns, gebi_bucket_ns(30));
    shr_store_relaxed(&hist->bucket[10], 499);
    shr_store_relaxed(&hist->bucket[20], 491);
    shr_store_relaxed(&hist->bucket[30], 8);
    shr_store_relaxed(&hist->bucket[40], 2);
    l = api_account(&a).latency;
    assert_int_equal(l.p50_ns, gebi_bucket_ns(20));
    assert_int_equal(l.p99_ns, gebi_bucket_ns(20));
    assert_int_equal(l.p999_ns, gebi_bucket_ns(40));
    api_end(&a);
}

static void latency_is_sampled(void **state)
{
    struct geb_config config = api_config(GEB_BLOCK, 64);
    struct api a = {0};
    (void)state;
    config.sample_shift = 2;
    api_open_config(&a, &config);
    assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
    uint64_t start_ns = geb_now();
    for (int lap = 0; lap < 10; lap++) {
        api_publish(&a, 0, 64);
        assert_int_equal(geb_dispatch(a.bus, 0), 64);
    }
    uint64_t took_ns = geb_now() - start_ns;
    struct geb_latency l = api_account(&a).latency;
    assert_int_equal(l.sampled_1_in, 4);
    assert_int_equal(l.count, 160);
    assert_true(l.p50_ns <= l.p99_ns && l.p99_ns <= l.p999_ns && l.p999_ns <= l.max_ns);
    assert_true(l.max_ns <= took_ns + SHR_STAMP_NS);
    api_end(&a);
}

static void latency_is_from_publish_to_handler(void **state)
{
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct api a = {0};
    (void)state;
    config.sample_shift = 1;
    api_open_config(&a, &config);
    api_publish(&a, 0, 2);
    uint64_t published_ns = geb_now();
    while (geb_now() < published_ns + 2000000)
        ;
    assert_int_equal(geb_dispatch(a.bus, 0), 2);
    struct geb_latency l = api_account(&a).latency;
    assert_int_equal(l.count, 1);
    assert_true(l.max_ns >= 2000000);
    /* One sample: every percentile is in its bucket, an eighth below it at most. */
    assert_int_equal(l.p50_ns, l.p999_ns);
    assert_true(l.p50_ns <= l.max_ns && l.p50_ns * 9 / 8 + 2 * SHR_STAMP_NS >= l.max_ns);
    api_end(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arguments),
        cmocka_unit_test(new_bus_is_all_zero),
        cmocka_unit_test(each_outcome_has_its_column),
        cmocka_unit_test(expiry_is_by_the_deadline),
        cmocka_unit_test(counters_outlive_consumers_and_producers),
        cmocka_unit_test(killed_consumer_loses_nothing_uncounted),
        cmocka_unit_test(buckets_cover_all_latencies),
        cmocka_unit_test(percentiles_are_those_of_the_histogram),
        cmocka_unit_test(latency_is_sampled),
        cmocka_unit_test(latency_is_from_publish_to_handler),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
