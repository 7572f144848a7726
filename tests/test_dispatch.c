/* Goal: geb_dispatch and geb_run hand out each event once, in order, as many as asked; geb_stop
 * ends a run from anywhere; one bus may be dispatched within a handler of another one, but never
 * within its own.
 * Method: single-threaded where the numbers are exact; a thread or a signal where the promise is
 * about those, seen to be asleep by an observer first. */
#include "tests/api_support.h"

#include "lib/internal.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct api_log record;

static void open_with_handler(struct api *a, enum geb_policy policy, uint32_t capacity)
{
    record = (struct api_log){0};
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

static void check_max(enum geb_policy policy)
{
    struct api a = {0};
    open_with_handler(&a, policy, 8);
    assert_int_equal(geb_dispatch(a.bus, 0), 0);
    assert_int_equal(geb_dispatch(a.bus, 5), 0);
    api_publish(&a, 0, 8);
    assert_int_equal(geb_dispatch(a.bus, 1), 1);
    assert_int_equal(geb_dispatch(a.bus, 3), 3);
    assert_int_equal(record.cnt, 4);
    assert_int_equal(geb_dispatch(a.bus, UINT32_MAX), 4);
    assert_int_equal(geb_dispatch(a.bus, 0), 0);
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(api_number(&record.row[i]), i);
        assert_int_equal(record.row[i].event.number, i + 1);
    }
    end(&a);
}

static void max_is_exact(void **state)
{
    (void)state;
    check_max(GEB_BLOCK);
    check_max(GEB_RETURN_ERROR);
    check_max(GEB_DROP_OLDEST);
}

static int feed(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct api *a = user;
    (void)ctx;
    return geb_publish(a->producer, a->topic, event->data, event->len);
}

static void dispatch_of_all_ends_while_events_come(void **state)
{
    struct api a = {0};
    (void)state;
    api_watchdog(60);
    api_open(&a, GEB_DROP_OLDEST, 8);
    assert_int_equal(geb_on(a.bus, "t", feed, &a), 0);
    api_publish(&a, 0, 2);
    int cnt = geb_dispatch(a.bus, 0);
    assert_true(cnt >= 2 && cnt <= 8); /* never more than can wait */
    assert_int_equal(api_account(&a).pending, 2);
    end(&a);
}

/* ---- run and stop ---------------------------------------------------------------------------- */

static void stop_before_run(void **state)
{
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_BLOCK, 8);
    api_publish(&a, 0, 8);
    geb_stop(a.bus);
    geb_stop(a.bus); /* twice is once */
    assert_int_equal(geb_run(a.bus), 0);
    assert_int_equal(record.cnt, 0);
    end(&a);
}

static int stop_at_three(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    int *calls = user;
    (void)event;
    if (++*calls == 3)
        geb_stop(geb_context_bus(ctx));
    return 0;
}

static void stop_ends_after_the_event_in_hand(void **state)
{
    struct api a = {0};
    int calls = 0;
    (void)state;
    api_watchdog(60);
    api_open(&a, GEB_BLOCK, 8);
    assert_int_equal(geb_on(a.bus, "t", stop_at_three, &calls), 0);
    assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
    record = (struct api_log){0};
    api_publish(&a, 0, 8);
    assert_int_equal(geb_run(a.bus), 0);
    assert_int_equal(calls, 3);
    assert_int_equal(record.cnt, 3); /* the other handlers of that event ran */
    assert_int_equal(api_account(&a).pending, 5);
    geb_stop(a.bus); /* the stop was used up, and another one is another one */
    assert_int_equal(geb_run(a.bus), 0);
    assert_int_equal(calls, 3);
    assert_int_equal(geb_dispatch(a.bus, 0), 5);
    end(&a);
}

static void stop_does_not_touch_dispatch(void **state)
{
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_BLOCK, 8);
    api_publish(&a, 0, 8);
    geb_stop(a.bus); /* meant for a run that is still to come */
    assert_int_equal(geb_dispatch(a.bus, 3), 3);
    assert_int_equal(geb_dispatch(a.bus, 0), 5);
    assert_int_equal(record.cnt, 8);
    assert_int_equal(geb_run(a.bus), 0); /* and still there for it */
    end(&a);
}

struct running {
    struct geb_bus *bus;
    pthread_t thread;
    shr_a32 tid;
    int rc;
};

static void *run_bus(void *arg)
{
    struct running *r = arg;
    shr_store32_release(&r->tid, (uint32_t)gettid());
    r->rc = geb_run(r->bus);
    return NULL;
}

/* Until the kernel says that the thread has slept: it says that it waits a moment before. */
static void await_sleep(const struct running *r)
{
    static const char what[] = "voluntary_ctxt_switches:";
    char path[64], line[128];
    unsigned long sleeps = 0;
    snprintf(path, sizeof(path), "/proc/self/task/%u/status", shr_load32_acquire(&r->tid));
    while (sleeps == 0) {
        FILE *f = fopen(path, "re");
        assert_non_null(f);
        while (fgets(line, sizeof(line), f) != NULL) {
            if (strncmp(line, what, sizeof(what) - 1) == 0)
                sleeps = strtoul(line + sizeof(what) - 1, NULL, 10);
        }
        fclose(f);
    }
}

static void start_run(struct running *r, struct api *a)
{
    *r = (struct running){.bus = a->bus, .rc = 1};
    assert_int_equal(pthread_create(&r->thread, NULL, run_bus, r), 0);
}

/* The account adds up at quiet moments only, so this looks at one column. */
static void await_delivered(struct api *a, uint64_t cnt)
{
    struct geb_metrics m = GEB_METRICS_INIT;
    struct geb_watch *watch;
    assert_int_equal(geb_watch(&watch, a->name), 0);
    do
        assert_int_equal(geb_watch_metrics(watch, &m), 0);
    while (m.delivered < cnt);
    assert_int_equal(m.delivered, cnt);
    geb_unwatch(watch);
}

static void stop_from_another_thread_wakes(void **state)
{
    struct running r;
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_BLOCK, 8);
    for (int lap = 0; lap < 3; lap++) {
        start_run(&r, &a);
        api_await_state(&a, 0, "waiting");
        await_sleep(&r);
        uint32_t wakes = shr_load32_acquire(&a.bus->map.hot->bell.seq);
        geb_stop(a.bus);
        /* It is woken: every sleep is bounded, so the run would also end without that, late. */
        assert_int_not_equal(shr_load32_acquire(&a.bus->map.hot->bell.seq), wakes);
        pthread_join(r.thread, NULL);
        assert_int_equal(r.rc, 0);
    }
    assert_true(api_account(&a).sleeps >= 3);
    end(&a);
}

static void stop_while_it_never_sleeps(void **state)
{
    struct running r;
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_BLOCK, 8);
    assert_int_equal(geb_set_spin(a.bus, GEB_FOREVER), 0);
    start_run(&r, &a);
    api_publish(&a, 0, 1);
    await_delivered(&a, 1);
    geb_stop(a.bus);
    pthread_join(r.thread, NULL);
    assert_int_equal(api_account(&a).sleeps, 0);
    assert_int_equal(r.rc, 0);
    assert_int_equal(record.cnt, 1);
    end(&a);
}

static struct geb_bus *to_stop;

static void stop_it(int number)
{
    (void)number;
    geb_stop(to_stop);
}

static void stop_from_a_signal_handler(void **state)
{
    struct sigaction action = {.sa_handler = stop_it};
    struct sigaction old;
    struct running r;
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_BLOCK, 8);
    to_stop = a.bus;
    sigaction(SIGUSR1, &action, &old);
    start_run(&r, &a);
    api_await_state(&a, 0, "waiting");
    pthread_kill(r.thread, SIGUSR1);
    pthread_join(r.thread, NULL);
    sigaction(SIGUSR1, &old, NULL);
    assert_int_equal(r.rc, 0);
    end(&a);
}

static void sleeping_run_is_woken_by_an_event(void **state)
{
    struct running r;
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_BLOCK, 8);
    assert_int_equal(geb_set_spin(a.bus, 0), 0);
    start_run(&r, &a);
    for (uint64_t i = 0; i < 20; i++) {
        api_await_state(&a, 0, "waiting");
        api_publish(&a, i, 1);
        await_delivered(&a, i + 1);
    }
    geb_stop(a.bus);
    pthread_join(r.thread, NULL);
    assert_int_equal(record.cnt, 20);
    end(&a);
}

/* ---- one bus within another ------------------------------------------------------------------ */

struct nested {
    struct api *own;
    struct api *other; /* dispatched from within the handler, NULL: none */
    int rc;
    int calls;
};

static int dispatch_other(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct nested *n = user;
    (void)event;
    n->calls++;
    if (geb_context_bus(ctx) != n->own->bus)
        return -EXFULL;
    if (n->other != NULL)
        n->rc = geb_dispatch(n->other->bus, 0);
    return 0;
}

static void two_buses_nest(void **state)
{
    struct api a = {0};
    struct api b = {0};
    (void)state;
    api_watchdog(60);
    api_open(&a, GEB_BLOCK, 4);
    api_open(&b, GEB_DROP_OLDEST, 4);
    struct nested in_a = {.own = &a, .other = &b};
    struct nested in_b = {.own = &b};
    assert_int_equal(geb_on(a.bus, "t", dispatch_other, &in_a), 0);
    assert_int_equal(geb_on(b.bus, "t", dispatch_other, &in_b), 0);
    api_publish(&a, 0, 2);
    api_publish(&b, 0, 3);
    assert_int_equal(geb_dispatch(a.bus, 1), 1);
    assert_int_equal(in_a.rc, 3);
    assert_int_equal(in_b.calls, 3);
    assert_int_equal(api_account(&a).errors + api_account(&b).errors, 0);
    assert_int_equal(api_account(&a).delivered, 1);
    assert_int_equal(api_account(&b).delivered, 3);
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    end(&b);
    end(&a);
}

static void a_within_b_within_a_is_refused(void **state)
{
    struct api a = {0};
    struct api b = {0};
    (void)state;
    api_watchdog(60);
    api_open(&a, GEB_BLOCK, 4);
    api_open(&b, GEB_BLOCK, 4);
    struct nested in_a = {.own = &a, .other = &b};
    struct nested in_b = {.own = &b, .other = &a};
    assert_int_equal(geb_on(a.bus, "t", dispatch_other, &in_a), 0);
    assert_int_equal(geb_on(b.bus, "t", dispatch_other, &in_b), 0);
    api_publish(&a, 0, 2);
    api_publish(&b, 0, 1);
    assert_int_equal(geb_dispatch(a.bus, 1), 1);
    assert_int_equal(in_a.calls, 1); /* not entered again, where it would see the same event */
    assert_int_equal(in_a.rc, 1);
    assert_int_equal(in_b.rc, -EDEADLK);
    assert_int_equal(api_account(&a).delivered, 1);
    assert_int_equal(api_account(&a).pending, 1);
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    end(&b);
    end(&a);
}

/* After the inner dispatch the outer bus is still in its handler. */
static int dispatch_both(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct nested *n = user;
    (void)ctx;
    (void)event;
    n->calls++;
    assert_true(geb_dispatch(n->other->bus, 0) >= 0);
    n->rc = geb_dispatch(n->own->bus, 0);
    return 0;
}

static void refused_again_after_an_inner_dispatch(void **state)
{
    struct api a = {0};
    struct api b = {0};
    (void)state;
    api_watchdog(60);
    api_open(&a, GEB_BLOCK, 4);
    api_open(&b, GEB_BLOCK, 4);
    struct nested in_a = {.own = &a, .other = &b};
    assert_int_equal(geb_on(a.bus, "t", dispatch_both, &in_a), 0);
    api_publish(&a, 0, 1);
    api_publish(&b, 0, 1);
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    assert_int_equal(in_a.rc, -EDEADLK);
    assert_int_equal(in_a.calls, 1);
    end(&b);
    end(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(max_is_exact),
        cmocka_unit_test(dispatch_of_all_ends_while_events_come),
        cmocka_unit_test(stop_before_run),
        cmocka_unit_test(stop_ends_after_the_event_in_hand),
        cmocka_unit_test(stop_does_not_touch_dispatch),
        cmocka_unit_test(stop_from_another_thread_wakes),
        cmocka_unit_test(stop_while_it_never_sleeps),
        cmocka_unit_test(stop_from_a_signal_handler),
        cmocka_unit_test(sleeping_run_is_woken_by_an_event),
        cmocka_unit_test(two_buses_nest),
        cmocka_unit_test(a_within_b_within_a_is_refused),
        cmocka_unit_test(refused_again_after_an_inner_dispatch),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
