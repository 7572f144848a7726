/* Goal: handlers run in the order of geb_on, the default ones for what no handler wants, and can be
 * added up to the documented number, never from within a handler.
 * Method: handlers that write their mark into one shared list; the rows that an observer sees. */
#include "tests/api_support.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static int order[600];
static uint32_t used;
static struct api_log logs[6];

static struct api_log *marked(int mark)
{
    logs[mark] = (struct api_log){.mark = mark, .order = order, .used = &used};
    return &logs[mark];
}

static void expect_order(const int *expected, uint32_t cnt)
{
    assert_int_equal(used, cnt);
    for (uint32_t i = 0; i < cnt; i++)
        assert_int_equal(order[i], expected[i]);
    used = 0;
}

static void fan_out_in_the_order_of_geb_on(void **state)
{
    static const int first[] = {1, 3, 4};
    static const int second[] = {2, 5};
    geb_topic_id other;
    struct api a = {0};
    (void)state;
    used = 0;
    api_open(&a, GEB_BLOCK, 4);
    assert_int_equal(geb_topic(a.producer, "other", &other), 0);
    assert_int_equal(geb_on(a.bus, "t", api_record, marked(1)), 0);
    assert_int_equal(geb_on(a.bus, "other", api_record, marked(2)), 0);
    assert_int_equal(geb_on(a.bus, "t", api_record, marked(3)), 0);
    assert_int_equal(geb_on_default(a.bus, api_record, marked(0)), 0);
    assert_int_equal(geb_on(a.bus, "t", api_record, marked(4)), 0);
    assert_int_equal(geb_on(a.bus, "other", api_record, marked(5)), 0);
    logs[1].rc = -EIO; /* the others still run */
    api_publish(&a, 7, 1);
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    expect_order(first, 3);
    assert_int_equal(geb_publish(a.producer, other, "x", 1), 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    expect_order(second, 2);
    struct geb_metrics m = api_account(&a);
    assert_int_equal(m.delivered, 2); /* events, not calls */
    assert_int_equal(m.errors, 1);
    api_end(&a);
}

static void default_handlers_get_the_rest(void **state)
{
    static const int expected[] = {1, 2, 1, 2};
    geb_topic_id other;
    struct api a = {0};
    (void)state;
    used = 0;
    api_open(&a, GEB_BLOCK, 4);
    assert_int_equal(geb_topic(a.producer, "other", &other), 0);
    api_publish(&a, 0, 1);
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    assert_int_equal(api_account(&a).unhandled, 1);
    assert_int_equal(geb_on_default(a.bus, api_record, marked(1)), 0);
    assert_int_equal(geb_on_default(a.bus, api_record, marked(2)), 0);
    api_publish(&a, 0, 1);
    assert_int_equal(geb_publish(a.producer, other, "x", 1), 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 2);
    expect_order(expected, 4);
    assert_int_equal(geb_on(a.bus, "t", api_record, marked(3)), 0); /* from now on t has its own */
    api_publish(&a, 0, 1);
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    assert_int_equal(used, 1);
    assert_int_equal(order[0], 3);
    struct geb_metrics m = api_account(&a);
    assert_int_equal(m.delivered, 3);
    assert_int_equal(m.unhandled, 1);
    api_end(&a);
}

static void one_handler_may_be_added_twice(void **state)
{
    struct api a = {0};
    (void)state;
    used = 0;
    api_open(&a, GEB_BLOCK, 4);
    struct api_log *log = marked(1);
    assert_int_equal(geb_on(a.bus, "t", api_record, log), 0);
    assert_int_equal(geb_on(a.bus, "t", api_record, log), 0);
    api_publish(&a, 0, 1);
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    assert_int_equal(log->cnt, 2);
    api_end(&a);
}

static void handlers_run_out(void **state)
{
    struct api a = {0};
    int cnt = 0;
    int rc;
    (void)state;
    used = 0;
    api_open(&a, GEB_BLOCK, 4);
    api_refused(geb_on(a.bus, "t", NULL, NULL), -EINVAL, "handler");
    api_refused(geb_on_default(a.bus, NULL, NULL), -EINVAL, "handler");
    api_refused(geb_on_schema(a.bus, "t", NULL, 0, NULL, NULL), -EINVAL, "handler");
    struct api_log *log = marked(1);
    while ((rc = geb_on(a.bus, "t", api_record, log)) == 0)
        cnt++;
    api_refused(rc, -EUSERS, "handlers");
    api_refused(geb_on_default(a.bus, api_record, log), -EUSERS, "handlers");
    assert_true(cnt >= 64 && cnt < 600);
    api_publish(&a, 0, 1);
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    assert_int_equal(log->cnt, cnt);
    api_end(&a);
}

static void refused_handler_registers_nothing(void **state)
{
    struct geb_topic_row rows[4];
    struct geb_watch *watch;
    struct api a = {0};
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    assert_int_equal(geb_on(a.bus, "new", NULL, NULL), -EINVAL);
    assert_int_equal(geb_watch(&watch, a.name), 0);
    assert_int_equal(geb_watch_topics(watch, rows, 4), 1);
    assert_int_equal(geb_unwatch(watch), 0);
    api_end(&a);
}

struct within {
    struct geb_bus *bus;
    int rc[8];
    struct geb_bus *context_bus;
};

static int call_all(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct within *w = user;
    (void)event;
    w->context_bus = geb_context_bus(ctx);
    w->rc[0] = geb_on(w->bus, "t", api_record, marked(1));
    w->rc[1] = geb_on_default(w->bus, api_record, marked(1));
    w->rc[2] = geb_on_schema(w->bus, "t", NULL, 0, api_record, marked(1));
    w->rc[3] = geb_dispatch(w->bus, 0);
    w->rc[4] = geb_run(w->bus);
    w->rc[5] = geb_close(w->bus, 0);
    struct geb_metrics m = GEB_METRICS_INIT;
    w->rc[6] = geb_metrics(w->bus, &m); /* looking is allowed */
    w->rc[7] = (int)m.pending;          /* and counts the event in hand */
    return 0;
}

static void nothing_changes_from_within(void **state)
{
    struct api a = {0};
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    struct within w = {.bus = a.bus};
    assert_int_equal(geb_on(a.bus, "t", call_all, &w), 0);
    api_publish(&a, 0, 2);
    assert_int_equal(geb_dispatch(a.bus, 1), 1);
    assert_ptr_equal(w.context_bus, a.bus);
    for (int i = 0; i < 6; i++)
        assert_int_equal(w.rc[i], -EDEADLK);
    assert_true(strlen(geb_last_error()) > 0);
    assert_int_equal(w.rc[6], 0);
    assert_int_equal(w.rc[7], 2);
    assert_int_equal(logs[1].cnt, 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 1); /* afterwards all is as before */
    assert_int_equal(geb_on(a.bus, "t", api_record, marked(2)), 0);
    api_end(&a);
}

static void observers_see_handlers_and_their_counts(void **state)
{
    struct geb_handler_row rows[8];
    struct geb_error_row errors[4];
    struct geb_watch *watch;
    struct api a = {0};
    (void)state;
    used = 0;
    api_open(&a, GEB_BLOCK, 4);
    assert_int_equal(geb_watch(&watch, a.name), 0);
    assert_int_equal(geb_watch_handlers(watch, rows, 8), 0);
    assert_int_equal(geb_on(a.bus, "t", api_record, marked(1)), 0);
    assert_int_equal(geb_on_default(a.bus, api_record, marked(2)), 0);
    logs[1].rc = -ENOENT;
    uint64_t calls = 0;
    for (int lap = 1; lap <= 4; lap++) {
        if (lap % 2 == 0) {
            geb_stop(a.bus);
            assert_int_equal(geb_run(a.bus), 0); /* a new run does not count anew */
        }
        if (lap == 3) /* nor does a new handler */
            assert_int_equal(geb_on(a.bus, "t", api_record, marked(3)), 0);
        api_publish(&a, 0, 3);
        assert_int_equal(geb_dispatch(a.bus, 0), 3);
        calls += 3;
        assert_int_equal(geb_watch_handlers(watch, rows, 8), lap < 3 ? 2 : 3);
        assert_int_equal(rows[0].calls, calls);
        assert_int_equal(rows[0].errors, calls);
    }
    assert_string_equal(rows[0].name, "t");
    assert_int_equal(rows[0].topic, a.topic);
    assert_string_equal(rows[1].name, "default");
    assert_int_equal(rows[1].topic, UINT32_MAX);
    assert_int_equal(rows[1].calls, 0);
    assert_int_equal(rows[2].calls, 6);
    assert_int_equal(geb_watch_errors(watch, errors, 4), 1);
    assert_int_equal(errors[0].code, ENOENT);
    assert_int_equal(errors[0].count, calls);
    assert_non_null(strstr(errors[0].text, "t"));
    assert_int_equal(api_account(&a).errors, calls);
    assert_int_equal(geb_close(a.bus, 0), 0);
    assert_int_equal(geb_open(&a.bus, a.name), 0); /* it has handlers of its own, or none */
    assert_int_equal(geb_watch_handlers(watch, rows, 8), 0);
    assert_int_equal(geb_unwatch(watch), 0);
    api_end(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fan_out_in_the_order_of_geb_on),
        cmocka_unit_test(default_handlers_get_the_rest),
        cmocka_unit_test(one_handler_may_be_added_twice),
        cmocka_unit_test(handlers_run_out),
        cmocka_unit_test(refused_handler_registers_nothing),
        cmocka_unit_test(nothing_changes_from_within),
        cmocka_unit_test(observers_see_handlers_and_their_counts),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
