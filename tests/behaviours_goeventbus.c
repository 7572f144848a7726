/* Goal: what GoEventBus's own tests check holds here too, in geb's words.
 * Method: one test for each of its behaviours that geb has today, under each policy where the
 * policy matters. Middleware, hooks, workers, schedules, transactions, retry and the shelf are
 * not built yet. */
#include "tests/api_support.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static struct api_log record;
static struct api_log second;

static const enum geb_policy all[] = {GEB_DROP_OLDEST, GEB_BLOCK, GEB_RETURN_ERROR};
#define FOR_EACH_POLICY for (size_t i_ = 0; i_ < 3; i_++)
#define POLICY          all[i_]

static void open_with_handler(struct api *a, enum geb_policy policy, uint32_t capacity)
{
    record = (struct api_log){0};
    second = (struct api_log){0};
    api_watchdog(60);
    api_open(a, policy, capacity);
    assert_int_equal(geb_on(a->bus, "t", api_record, &record), 0);
}

static void end(struct api *a)
{
    api_account(a);
    api_end(a);
    api_watchdog(0);
}

static void subscribe_and_publish(void **state)
{
    struct api a = {0};
    (void)state;
    FOR_EACH_POLICY
    {
        open_with_handler(&a, POLICY, 8);
        assert_int_equal(geb_publish(a.producer, a.topic, "12345", 5), 0);
        assert_int_equal(record.cnt, 0); /* enqueued, not run */
        assert_int_equal(geb_dispatch(a.bus, 0), 1);
        assert_int_equal(record.cnt, 1);
        end(&a);
    }
}

static void missing_handler(void **state)
{
    struct api a = {0};
    geb_topic_id missing;
    (void)state;
    FOR_EACH_POLICY
    {
        open_with_handler(&a, POLICY, 8);
        assert_int_equal(geb_topic(a.producer, "missing", &missing), 0);
        assert_int_equal(geb_publish(a.producer, missing, "x", 1), 0);
        assert_int_equal(geb_dispatch(a.bus, 0), 1);
        struct geb_metrics m = api_account(&a);
        assert_int_equal(m.unhandled, 1); /* does not vanish uncounted */
        assert_int_equal(m.errors + m.delivered + m.pending, 0);
        end(&a);
    }
}

static void mixed_existing_and_missing(void **state)
{
    struct api a = {0};
    geb_topic_id missing;
    (void)state;
    FOR_EACH_POLICY
    {
        open_with_handler(&a, POLICY, 8);
        assert_int_equal(geb_topic(a.producer, "missing", &missing), 0);
        for (uint64_t i = 0; i < 4; i++) { /* one bad key is no poison pill */
            assert_int_equal(geb_publish(a.producer, missing, "x", 1), 0);
            api_publish(&a, i, 1);
        }
        assert_int_equal(geb_dispatch(a.bus, 0), 8);
        assert_int_equal(record.cnt, 4);
        for (uint32_t i = 0; i < 4; i++)
            assert_int_equal(api_number(&record.row[i]), i);
        struct geb_metrics m = api_account(&a);
        assert_int_equal(m.delivered, 4);
        assert_int_equal(m.unhandled, 4);
        end(&a);
    }
}

static void exact_capacity_without_overflow(void **state)
{
    struct api a = {0};
    (void)state;
    FOR_EACH_POLICY
    {
        open_with_handler(&a, POLICY, 16);
        api_publish(&a, 0, 16);
        assert_int_equal(geb_dispatch(a.bus, 0), 16);
        for (uint32_t i = 0; i < 16; i++)
            assert_int_equal(api_number(&record.row[i]), i);
        assert_int_equal(api_account(&a).dropped, 0);
        end(&a);
    }
}

static void overflow_at_one_more(void **state)
{
    struct geb_options now = GEB_OPTIONS_INIT;
    struct api a = {0};
    uint64_t extra = 16;
    (void)state;
    now.wait_until_ns = 0;
    FOR_EACH_POLICY
    {
        static const int expected[] = {0, -ETIMEDOUT, -EAGAIN};
        bool drops = POLICY == GEB_DROP_OLDEST;
        open_with_handler(&a, POLICY, 16);
        api_publish(&a, 0, 16);
        assert_int_equal(geb_publish_with(a.producer, a.topic, &extra, 8, &now), expected[i_]);
        assert_int_equal(geb_dispatch(a.bus, 0), 16);
        for (uint32_t i = 0; i < 16; i++)
            assert_int_equal(api_number(&record.row[i]), i + drops);
        assert_int_equal(api_account(&a).dropped, drops);
        end(&a);
    }
}

#define THREADS 4u
#define EACH    2000u

struct enqueuer {
    const char *name;
    pthread_t thread;
    uint64_t refused;
    int rc;
};

static void *enqueue(void *arg)
{
    struct enqueuer *e = arg;
    struct geb_producer *producer;
    geb_topic_id topic;
    e->rc = geb_join(&producer, e->name, "enqueuer");
    if (e->rc != 0)
        return NULL;
    e->rc = geb_topic(producer, "t", &topic);
    for (uint64_t i = 0; i < EACH && e->rc == 0; i++) {
        e->rc = geb_publish(producer, topic, &i, sizeof(i));
        if (e->rc == -EAGAIN) {
            e->refused++;
            e->rc = 0;
        }
    }
    geb_leave(producer);
    return NULL;
}

static uint64_t run_concurrent(struct api *a, enum geb_policy policy, uint32_t capacity)
{
    struct geb_config config = api_config(policy, capacity);
    struct enqueuer e[THREADS];
    uint64_t refused = 0;
    record = (struct api_log){0};
    config.producers = THREADS + 1;
    /* Nobody who is merely off the processor shall lose a position to another. */
    config.patience_ns = 1000000000;
    api_open_config(a, &config);
    assert_int_equal(geb_on(a->bus, "t", api_record, &record), 0);
    for (uint32_t i = 0; i < THREADS; i++) {
        e[i] = (struct enqueuer){.name = a->name};
        assert_int_equal(pthread_create(&e[i].thread, NULL, enqueue, &e[i]), 0);
    }
    if (policy == GEB_BLOCK) { /* the others need no consumer */
        while (record.cnt < THREADS * EACH)
            assert_true(geb_dispatch(a->bus, 0) >= 0);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        pthread_join(e[i].thread, NULL);
        assert_int_equal(e[i].rc, 0);
        refused += e[i].refused;
    }
    return refused;
}

static void concurrent_enqueue(void **state)
{
    struct api a = {0};
    (void)state;
    api_watchdog(100);
    FOR_EACH_POLICY
    {
        uint64_t refused = run_concurrent(&a, POLICY, 1024);
        struct geb_metrics m = api_account(&a);
        assert_int_equal(m.accepted + refused, THREADS * EACH);
        assert_int_equal(m.pending, POLICY == GEB_BLOCK ? 0 : m.accepted - m.dropped);
        /* Threads that look at the same time may pass the check together, one event each. */
        assert_true(m.pending <= 1024 + THREADS);
        if (POLICY != GEB_BLOCK)
            assert_true(m.pending >= 1024);
        while (geb_dispatch(a.bus, 0) > 0)
            ;
        m = api_account(&a);
        assert_int_equal(m.pending, 0);
        assert_int_equal(m.delivered, record.cnt);
        api_end(&a);
    }
    api_watchdog(0);
}

static void idempotent_dispatch(void **state)
{
    struct api a = {0};
    (void)state;
    FOR_EACH_POLICY
    {
        open_with_handler(&a, POLICY, 8);
        api_publish(&a, 0, 3);
        assert_int_equal(geb_dispatch(a.bus, 0), 3);
        for (int lap = 0; lap < 30; lap++) /* nothing of an earlier lap comes again */
            assert_int_equal(geb_dispatch(a.bus, 0), 0);
        assert_int_equal(record.cnt, 3);
        end(&a);
    }
}

static void dispatch_of_nothing(void **state)
{
    struct api a = {0};
    (void)state;
    FOR_EACH_POLICY
    {
        open_with_handler(&a, POLICY, 8);
        assert_int_equal(geb_dispatch(a.bus, 0), 0);
        assert_int_equal(geb_dispatch(a.bus, 1), 0);
        assert_int_equal(record.cnt, 0);
        assert_int_equal(api_account(&a).accepted, 0);
        end(&a);
    }
}

static void args_passing(void **state)
{
    static const struct {
        uint32_t user;
        char city[24];
    } args = {42, "Brno"};
    struct api a = {0};
    (void)state;
    FOR_EACH_POLICY
    {
        open_with_handler(&a, POLICY, 8);
        assert_int_equal(geb_publish(a.producer, a.topic, &args, sizeof(args)), 0);
        assert_int_equal(geb_dispatch(a.bus, 0), 1);
        assert_int_equal(record.row[0].event.len, sizeof(args));
        assert_memory_equal(record.row[0].data, &args, sizeof(args));
        end(&a);
    }
}

static void context_propagation(void **state)
{
    struct geb_options options = GEB_OPTIONS_INIT;
    struct api a = {0};
    (void)state;
    FOR_EACH_POLICY
    {
        open_with_handler(&a, POLICY, 8);
        options.key = 7;
        options.id = 8;
        options.deadline_ns = geb_now() + UINT64_C(60000000000);
        assert_int_equal(geb_publish_with(a.producer, a.topic, "x", 1, &options), 0);
        assert_int_equal(geb_dispatch(a.bus, 0), 1);
        assert_int_equal(record.row[0].event.key, 7);
        assert_int_equal(record.row[0].event.id, 8);
        assert_int_equal(record.row[0].event.deadline_ns, options.deadline_ns);
        options.deadline_ns = geb_now() - 1; /* its context is over before its handler runs */
        assert_int_equal(geb_publish_with(a.producer, a.topic, "x", 1, &options), 0);
        assert_int_equal(geb_dispatch(a.bus, 0), 1);
        assert_int_equal(record.cnt, 1);
        assert_int_equal(api_account(&a).expired, 1);
        end(&a);
    }
}

static void block_honours_the_deadline(void **state)
{
    struct geb_options options = GEB_OPTIONS_INIT;
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_BLOCK, 4);
    api_publish(&a, 0, 4);
    options.wait_until_ns = geb_now() + 3000000;
    assert_int_equal(geb_publish_with(a.producer, a.topic, "x", 1, &options), -ETIMEDOUT);
    assert_true(geb_now() >= options.wait_until_ns);
    assert_int_equal(api_account(&a).pending, 4);
    end(&a);
}

static void error_metrics(void **state)
{
    struct api a = {0};
    (void)state;
    FOR_EACH_POLICY
    {
        open_with_handler(&a, POLICY, 8);
        assert_int_equal(geb_on(a.bus, "t", api_record, &second), 0);
        record.rc = -EIO;
        api_publish(&a, 0, 3);
        assert_int_equal(geb_dispatch(a.bus, 0), 3);
        record.rc = 5; /* a positive result is no failure */
        api_publish(&a, 0, 2);
        assert_int_equal(geb_dispatch(a.bus, 0), 2);
        struct geb_metrics m = api_account(&a);
        assert_int_equal(m.published, 5);
        assert_int_equal(m.processed, 5);
        assert_int_equal(m.errors, 3);
        assert_int_equal(second.cnt, 5);
        end(&a);
    }
}

static void drain_with_metrics(void **state)
{
    struct api a = {0};
    (void)state;
    FOR_EACH_POLICY
    {
        open_with_handler(&a, POLICY, 8);
        api_publish(&a, 0, 8);
        assert_int_equal(geb_close(a.bus, geb_now() + UINT64_C(60000000000)), 0);
        a.bus = NULL;
        assert_int_equal(record.cnt, 8);
        struct geb_metrics m = api_account(&a);
        assert_int_equal(m.published, 8);
        assert_int_equal(m.processed, 8);
        assert_int_equal(m.errors, 0);
        end(&a);
    }
}

static void fan_out(void **state)
{
    static int order[16];
    uint32_t used = 0;
    struct api a = {0};
    (void)state;
    FOR_EACH_POLICY
    {
        open_with_handler(&a, POLICY, 8);
        used = 0;
        record.order = second.order = order;
        record.used = second.used = &used;
        record.mark = 1;
        second.mark = 2;
        assert_int_equal(geb_on(a.bus, "t", api_record, &second), 0);
        api_publish(&a, 0, 4);
        assert_int_equal(geb_dispatch(a.bus, 0), 4);
        assert_int_equal(used, 8);
        for (uint32_t i = 0; i < 8; i++)
            assert_int_equal(order[i], 1 + i % 2);
        assert_int_equal(api_account(&a).delivered, 4);
        end(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(subscribe_and_publish),
        cmocka_unit_test(missing_handler),
        cmocka_unit_test(mixed_existing_and_missing),
        cmocka_unit_test(exact_capacity_without_overflow),
        cmocka_unit_test(overflow_at_one_more),
        cmocka_unit_test(concurrent_enqueue),
        cmocka_unit_test(idempotent_dispatch),
        cmocka_unit_test(dispatch_of_nothing),
        cmocka_unit_test(args_passing),
        cmocka_unit_test(context_propagation),
        cmocka_unit_test(block_honours_the_deadline),
        cmocka_unit_test(error_metrics),
        cmocka_unit_test(drain_with_metrics),
        cmocka_unit_test(fan_out),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
