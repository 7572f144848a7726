/* Goal: a handle after its end, or in a child after fork, gives -ESTALE from every function that
 * takes it, and harms nobody; NULL gives -EINVAL.
 * Method: one list of calls for each kind of handle, run with NULL, with ended handles of which
 * hundreds came and went since, and in a forked child whose parent then goes on as before. */
#include "tests/api_support.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static int handle_nothing(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)ctx;
    (void)event;
    (void)user;
    return 0;
}

/* Each runs one call and returns its result; NULL ends the list. */
#define CALLS_OF_BUS(X)                                      \
    X(geb_on(h, "t", handle_nothing, NULL))                  \
    X(geb_on_default(h, handle_nothing, NULL))               \
    X(geb_on_schema(h, "t", "s", 8, handle_nothing, NULL))   \
    X(geb_dispatch(h, 1))                                    \
    X(geb_run(h))                                            \
    X(geb_set_spin(h, 1000))                                 \
    X(geb_metrics(h, &(struct geb_metrics)GEB_METRICS_INIT)) \
    X(geb_topic_name(h, 0)[0] == '\0' ? expected : 0)        \
    X((geb_stop(h), expected))

#define CALLS_OF_PRODUCER(X)                                                       \
    X(geb_topic(h, "t", &topic))                                                   \
    X(geb_topic_schema(h, "t", "s", 8, &topic))                                    \
    X(geb_publish(h, 0, "x", 1))                                                   \
    X(geb_publish(h, 0, bytes, 32))                                                \
    X(geb_publish(h, 0, bytes, 100))                                               \
    X(geb_publish_with(h, 0, "x", 1, NULL))                                        \
    X(geb_publish_with(h, 0, "x", 1, &(struct geb_options)GEB_OPTIONS_INIT))       \
    X(geb_publish_batch(h, &(struct geb_message){.len = 1, .data = "x"}, 1, NULL)) \
    X(geb_loan(h, 100, &loan))                                                     \
    X(geb_commit(h, &loan, 0))                                                     \
    X(geb_commit_with(h, &loan, 0, &(struct geb_options)GEB_OPTIONS_INIT))         \
    X(geb_return(h, &loan))                                                        \
    X((geb_cancel(h), expected))

#define CALLS_OF_WATCH(X)                                                             \
    X(geb_watch_metrics(h, &(struct geb_metrics)GEB_METRICS_INIT))                    \
    X(geb_watch_info(h, &(struct geb_bus_info){.size = sizeof(struct geb_bus_info)})) \
    X(geb_watch_participants(h, &(struct geb_participant){0}, 1))                     \
    X(geb_watch_topics(h, &(struct geb_topic_row){.topic = 0}, 1))                    \
    X(geb_watch_handlers(h, &(struct geb_handler_row){.topic = 0}, 1))                \
    X(geb_watch_errors(h, &(struct geb_error_row){0}, 1))                             \
    X(geb_watch_slabs(h, &(struct geb_slab_row){0}, 1))                               \
    X(geb_watch_repair(h, &(struct geb_repair)GEB_REPAIR_INIT))

/* Runs the call; what is not as expected is said and counted. */
#define CHECK_CALL(call)                                                  \
    do {                                                                  \
        int result = (call);                                              \
        if (result != expected || geb_last_error()[0] == '\0') {          \
            fprintf(stderr, "%s: %d, not %d\n", #call, result, expected); \
            wrong++;                                                      \
        }                                                                 \
    } while (0);

static unsigned wrong_of_bus(struct geb_bus *h, int expected)
{
    unsigned wrong = 0;
    CALLS_OF_BUS(CHECK_CALL)
    return wrong;
}

static unsigned wrong_of_producer(struct geb_producer *h, struct geb_loan loan, int expected)
{
    static const char bytes[100];
    geb_topic_id topic = 77;
    unsigned wrong = 0;
    CALLS_OF_PRODUCER(CHECK_CALL)
    return wrong;
}

static unsigned wrong_of_watch(struct geb_watch *h, int expected)
{
    unsigned wrong = 0;
    CALLS_OF_WATCH(CHECK_CALL)
    return wrong;
}

static void null_handles(void **state)
{
    (void)state;
    assert_int_equal(wrong_of_bus(NULL, -EINVAL), 0);
    assert_int_equal(wrong_of_producer(NULL, (struct geb_loan){0}, -EINVAL), 0);
    assert_int_equal(wrong_of_watch(NULL, -EINVAL), 0);
    assert_int_equal(geb_close(NULL, 0), 0);
    assert_int_equal(geb_leave(NULL), 0);
    assert_int_equal(geb_unwatch(NULL), 0);
}

struct handles {
    struct api api;
    struct geb_watch *watch;
    struct geb_loan loan;
};

static void open_all(struct handles *h)
{
    api_open_slabs(&h->api, GEB_RETURN_ERROR, 8, 131072);
    assert_int_equal(geb_watch(&h->watch, h->api.name), 0);
    assert_int_equal(geb_loan(h->api.producer, 100, &h->loan), 0);
    memset(h->loan.data, 1, h->loan.len);
}

static void end_all(struct handles *h)
{
    assert_int_equal(geb_unwatch(h->watch), 0);
    assert_int_equal(geb_leave(h->api.producer), 0);
    assert_int_equal(geb_close(h->api.bus, 0), 0);
}

static unsigned wrong_of_all(struct handles *h)
{
    return wrong_of_bus(h->api.bus, -ESTALE) +
           wrong_of_producer(h->api.producer, h->loan, -ESTALE) +
           wrong_of_watch(h->watch, -ESTALE) + (geb_close(h->api.bus, 0) != -ESTALE) +
           (geb_leave(h->api.producer) != -ESTALE) + (geb_unwatch(h->watch) != -ESTALE);
}

static void ended_handles(void **state)
{
    struct handles h = {0};
    (void)state;
    open_all(&h);
    end_all(&h);
    assert_int_equal(wrong_of_all(&h), 0);
    assert_int_equal(wrong_of_all(&h), 0);
    assert_int_equal(geb_remove(h.api.name), 0);
}

static void ended_handles_after_many_others(void **state)
{
    struct handles h = {0};
    struct api a = {0};
    struct geb_producer *producer;
    struct geb_watch *watch;
    (void)state;
    open_all(&h);
    end_all(&h);
    api_open(&a, GEB_BLOCK, 4);
    for (int i = 0; i < 300; i++) {
        assert_int_equal(geb_join(&producer, a.name, "many"), 0);
        assert_int_equal(geb_watch(&watch, a.name), 0);
        /* A new handle never takes the place of an ended one that somebody may still use. */
        assert_ptr_not_equal(producer, h.api.producer);
        assert_ptr_not_equal(watch, h.watch);
        assert_int_equal(geb_leave(producer), 0);
        assert_int_equal(geb_unwatch(watch), 0);
    }
    assert_int_equal(wrong_of_all(&h), 0);
    api_end(&a);
    assert_int_equal(geb_remove(h.api.name), 0);
}

static int in_child(void *arg)
{
    struct handles *h = arg;
    SUPPORT_CHECK(wrong_of_all(h) == 0);
    /* A child may take part with handles of its own. */
    struct geb_producer *producer;
    geb_topic_id topic;
    uint64_t value = 2;
    SUPPORT_CHECK(geb_join(&producer, h->api.name, "child") == 0);
    SUPPORT_CHECK(geb_topic(producer, "t", &topic) == 0);
    SUPPORT_CHECK(geb_publish(producer, topic, &value, sizeof(value)) == 0);
    struct geb_bus *bus;
    SUPPORT_CHECK(geb_open(&bus, h->api.name) == -EBUSY); /* the parent still has the role */
    return 0;
}

static void handles_in_a_child(void **state)
{
    static struct api_log log;
    struct handles h = {0};
    (void)state;
    open_all(&h);
    assert_int_equal(geb_on(h.api.bus, "t", api_record, &log), 0);
    api_publish(&h.api, 1, 1);
    assert_int_equal(support_wait(support_child(in_child, &h)), 0);
    /* The parent's go on: their locks, their loan, their numbers. */
    api_refused(geb_remove(h.api.name), -EBUSY, "in use");
    api_publish(&h.api, 3, 1);
    assert_int_equal(geb_commit(h.api.producer, &h.loan, h.api.topic), 0);
    assert_int_equal(geb_dispatch(h.api.bus, 0), 4);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(api_number(&log.row[i]), i + 1);
    assert_int_equal(log.row[3].event.len, 100);
    assert_int_equal(api_account(&h.api).delivered, 4);
    assert_int_equal(geb_unwatch(h.watch), 0);
    api_end(&h.api);
}

static void new_handles_after_old_ones(void **state)
{
    struct handles h = {0};
    struct geb_bus *bus;
    struct geb_producer *producer;
    struct geb_metrics m = GEB_METRICS_INIT;
    (void)state;
    open_all(&h);
    end_all(&h);
    assert_int_equal(geb_open(&bus, h.api.name), 0);
    assert_int_equal(geb_join(&producer, h.api.name, "again"), 0);
    assert_int_equal(wrong_of_all(&h), 0);
    assert_int_equal(geb_publish(producer, h.api.topic, "x", 1), 0);
    assert_int_equal(geb_metrics(bus, &m), 0);
    assert_int_equal(m.pending, 1); /* the stale calls did nothing to it */
    assert_int_equal(geb_leave(producer), 0);
    assert_int_equal(geb_close(bus, 0), 0);
    assert_int_equal(geb_remove(h.api.name), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(null_handles),
        cmocka_unit_test(ended_handles),
        cmocka_unit_test(ended_handles_after_many_others),
        cmocka_unit_test(handles_in_a_child),
        cmocka_unit_test(new_handles_after_old_ones),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
