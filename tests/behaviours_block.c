/* Goal: under GEB_BLOCK a producer waits asleep, and every way in which its wait may end has a
 * result of its own: room, deadline, cancellation, an orderly close, a dead consumer, a handler
 * that would wait for itself.
 * Method: a thread or child that waits, seen to wait by an observer before anything is done to
 * it; sleeps are counted (voluntary context switches), wall time is not, except for the one
 * second after which a dead consumer is gone. */
#include "tests/api_support.h"

#include "lib/internal.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>
#include <cmocka.h>

#define MS UINT64_C(1000000)

static struct api_log record;

struct waiter {
    struct api *api;
    size_t len;
    uint64_t wait_until_ns;
    int rc;
    char text[128];
    long sleeps;
    pthread_t thread;
};

static unsigned char payload[65536];

static void *wait_in_publish(void *arg)
{
    struct waiter *w = arg;
    struct geb_options options = GEB_OPTIONS_INIT;
    struct rusage before;
    struct rusage after;
    options.wait_until_ns = w->wait_until_ns;
    getrusage(RUSAGE_THREAD, &before);
    w->rc = geb_publish_with(w->api->producer, w->api->topic, payload, w->len, &options);
    getrusage(RUSAGE_THREAD, &after);
    snprintf(w->text, sizeof(w->text), "%s", geb_last_error());
    w->sleeps = after.ru_nvcsw - before.ru_nvcsw;
    return NULL;
}

/* A full bus, and a thread that publishes to it and is seen to wait. */
static void start_waiting(struct waiter *w, struct api *a, size_t len)
{
    *w = (struct waiter){.api = a, .len = len, .wait_until_ns = GEB_FOREVER};
    assert_int_equal(pthread_create(&w->thread, NULL, wait_in_publish, w), 0);
    api_await_state(a, 1, "blocked");
}

static void open_full(struct api *a)
{
    record = (struct api_log){0};
    api_open(a, GEB_BLOCK, 4);
    assert_int_equal(geb_on(a->bus, "t", api_record, &record), 0);
    api_publish(a, 0, 4);
    api_watchdog(60);
}

static void end(struct api *a)
{
    api_account(a);
    api_end(a);
    api_watchdog(0);
}

static void deadline_is_slept_through(void **state)
{
    struct waiter w = {.len = 8};
    struct api a = {0};
    (void)state;
    open_full(&a);
    w.api = &a;
    w.wait_until_ns = geb_now() + 40 * MS;
    wait_in_publish(&w);
    assert_true(geb_now() >= w.wait_until_ns);
    assert_int_equal(w.rc, -ETIMEDOUT);
    assert_non_null(strstr(w.text, "deadline"));
    assert_true(w.sleeps <= 40); /* it does not poll; how often it sleeps: test_overrun_bounds.c */
    assert_int_equal(api_account(&a).accepted, 4);
    assert_int_equal(api_account(&a).pending, 4);
    end(&a);
}

static void past_deadline_does_not_wait(void **state)
{
    struct waiter w = {.len = 8, .wait_until_ns = 1};
    struct api a = {0};
    (void)state;
    open_full(&a);
    w.api = &a;
    wait_in_publish(&w);
    assert_int_equal(w.rc, -ETIMEDOUT);
    assert_int_equal(geb_dispatch(a.bus, 1), 1);
    wait_in_publish(&w); /* with room the deadline does not matter */
    assert_int_equal(w.rc, 0);
    end(&a);
}

/* Handles one event once the waiter is at the gate. Every sleep is bounded, so only the gate's
 * count tells a wake from the end of a sleep. */
static void dispatch_must_wake(struct api *a, struct shr_gate *gate)
{
    while (shr_load32_acquire(&gate->waiting) == 0)
        ;
    uint32_t wakes = shr_load32_acquire(&gate->seq);
    assert_int_equal(geb_dispatch(a->bus, 1), 1);
    assert_int_not_equal(shr_load32_acquire(&gate->seq), wakes);
}

static void dispatch_wakes(void **state)
{
    struct waiter w;
    struct api a = {0};
    (void)state;
    open_full(&a);
    start_waiting(&w, &a, 8);
    dispatch_must_wake(&a, &a.bus->map.hot->space);
    pthread_join(w.thread, NULL);
    assert_int_equal(w.rc, 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 4);
    assert_int_equal(record.cnt, 5);
    end(&a);
}

static void *publish_many(void *arg)
{
    struct waiter *w = arg;
    for (uint64_t i = 0; i < 20000 && w->rc == 0; i++)
        w->rc = geb_publish(w->api->producer, w->api->topic, &i, sizeof(i));
    return NULL;
}

static void nothing_is_lost_by_waiting(void **state)
{
    struct waiter w = {0};
    struct api a = {0};
    uint64_t next = 0;
    (void)state;
    open_full(&a);
    assert_int_equal(geb_dispatch(a.bus, 0), 4);
    w.api = &a;
    assert_int_equal(pthread_create(&w.thread, NULL, publish_many, &w), 0);
    while (next < 20000) {
        record.cnt = 0;
        geb_dispatch(a.bus, 0);
        for (uint32_t i = 0; i < record.cnt && i < API_ROWS; i++)
            assert_int_equal(api_number(&record.row[i]), next + i);
        next += record.cnt;
    }
    pthread_join(w.thread, NULL);
    assert_int_equal(w.rc, 0);
    end(&a);
}

static void freed_block_wakes(void **state)
{
    struct waiter w;
    struct api a = {0};
    (void)state;
    api_watchdog(60);
    api_open_slabs(&a, GEB_BLOCK, 8, 131072);
    for (int i = 0; i < 2; i++)
        assert_int_equal(geb_publish(a.producer, a.topic, payload, sizeof(payload)), 0);
    start_waiting(&w, &a, 100);
    dispatch_must_wake(&a, &a.bus->map.hot->freed);
    pthread_join(w.thread, NULL);
    assert_int_equal(w.rc, 0);
    end(&a);
}

/* ---- cancellation ---------------------------------------------------------------------------- */

static void cancel_from_another_thread(void **state)
{
    struct waiter w;
    struct api a = {0};
    (void)state;
    open_full(&a);
    start_waiting(&w, &a, 8);
    uint32_t wakes = shr_load32_acquire(&a.bus->map.hot->space.seq);
    geb_cancel(a.producer);
    assert_int_not_equal(shr_load32_acquire(&a.bus->map.hot->space.seq), wakes);
    pthread_join(w.thread, NULL);
    assert_int_equal(w.rc, -ECANCELED);
    assert_int_equal(api_account(&a).pending, 4);
    end(&a);
}

static struct geb_producer *to_cancel;

static void cancel_it(int number)
{
    (void)number;
    geb_cancel(to_cancel);
}

static void cancel_from_a_signal_handler(void **state)
{
    struct sigaction action = {.sa_handler = cancel_it};
    struct sigaction old;
    struct waiter w;
    struct api a = {0};
    (void)state;
    open_full(&a);
    to_cancel = a.producer;
    sigaction(SIGUSR1, &action, &old);
    start_waiting(&w, &a, 8);
    pthread_kill(w.thread, SIGUSR1);
    pthread_join(w.thread, NULL);
    sigaction(SIGUSR1, &old, NULL);
    assert_int_equal(w.rc, -ECANCELED);
    end(&a);
}

static void cancel_comes_first(void **state)
{
    struct waiter w = {.len = 8, .wait_until_ns = GEB_FOREVER};
    struct geb_loan loan;
    struct api a = {0};
    (void)state;
    open_full(&a);
    w.api = &a;
    assert_int_equal(geb_dispatch(a.bus, 1), 1);
    geb_cancel(a.producer);
    api_publish(&a, 4, 1); /* does not wait, so it is not cancelled … */
    wait_in_publish(&w);
    assert_int_equal(w.rc, -ECANCELED); /* … but the next one that would */
    w.wait_until_ns = geb_now() + MS;
    wait_in_publish(&w);
    assert_int_equal(w.rc, -ETIMEDOUT); /* and only that one */
    end(&a);
    api_open_slabs(&a, GEB_BLOCK, 8, 131072);
    api_watchdog(60);
    for (int i = 0; i < 2; i++)
        assert_int_equal(geb_publish(a.producer, a.topic, payload, sizeof(payload)), 0);
    geb_cancel(a.producer);
    assert_int_equal(geb_loan(a.producer, 100, &loan), -ECANCELED);
    assert_null(loan.data);
    end(&a);
}

/* ---- the consumer goes ----------------------------------------------------------------------- */

static void close_ends_the_wait(void **state)
{
    struct waiter w;
    struct api a = {0};
    (void)state;
    open_full(&a);
    start_waiting(&w, &a, 8);
    assert_int_equal(geb_close(a.bus, 0), 0);
    a.bus = NULL;
    pthread_join(w.thread, NULL);
    assert_int_equal(w.rc, -ESHUTDOWN);
    assert_non_null(strstr(w.text, "closed"));
    w.wait_until_ns = GEB_FOREVER;
    wait_in_publish(&w); /* at once, and again */
    assert_int_equal(w.rc, -ESHUTDOWN);
    assert_int_equal(geb_open(&a.bus, a.name), 0);
    assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 4);
    wait_in_publish(&w);
    assert_int_equal(w.rc, 0);
    end(&a);
}

struct consumer_child {
    const char *name;
    struct support_line line;
    uint32_t dispatch_cnt;
};

static int be_consumer(void *arg)
{
    struct consumer_child *c = arg;
    struct geb_bus *bus;
    SUPPORT_CHECK(geb_open(&bus, c->name) == 0);
    while (c->dispatch_cnt-- > 0)
        SUPPORT_CHECK(geb_dispatch(bus, 1) == 1);
    support_tell_test(&c->line);
    support_hear_test(&c->line); /* it never hears */
    return 0;
}

static pid_t start_consumer(struct api *a, uint32_t dispatch_cnt)
{
    struct consumer_child c = {.name = a->name, .dispatch_cnt = dispatch_cnt};
    support_line_open(&c.line);
    pid_t pid = support_child(be_consumer, &c);
    support_hear_child(&c.line);
    support_line_close(&c.line);
    return pid;
}

static void dead_consumer_is_gone_after_a_second(void **state)
{
    struct waiter w = {.len = 8};
    struct api a = {0};
    (void)state;
    open_full(&a);
    w.api = &a;
    assert_int_equal(geb_close(a.bus, 0), 0);
    a.bus = NULL;
    support_kill(start_consumer(&a, 0));
    w.wait_until_ns = geb_now() + 30 * MS; /* not gone yet, but seen to be dead */
    wait_in_publish(&w);
    assert_int_equal(w.rc, -ETIMEDOUT);
    pid_t pid = start_consumer(&a, 1); /* it comes back, takes an event … */
    api_publish(&a, 4, 1);
    support_kill(pid); /* … and dies again: the second starts anew */
    uint64_t dead_ns = geb_now();
    w.wait_until_ns = GEB_FOREVER;
    wait_in_publish(&w);
    assert_int_equal(w.rc, -EPIPE);
    assert_non_null(strstr(w.text, "no consumer"));
    assert_true(geb_now() - dead_ns >= 1000 * MS);
    assert_int_equal(geb_open(&a.bus, a.name), 0);
    struct geb_metrics m = api_account(&a);
    assert_int_equal(m.pending, 4); /* publishing goes on where it was */
    assert_int_equal(m.unhandled, 1);
    assert_int_equal(m.accepted, 5);
    assert_int_equal(m.restarts, 2);
    assert_int_equal(geb_dispatch(a.bus, 0), 4);
    wait_in_publish(&w);
    assert_int_equal(w.rc, 0);
    end(&a);
}

static void stopped_consumer_is_not_gone(void **state)
{
    struct waiter w = {.len = 8};
    struct api a = {0};
    (void)state;
    open_full(&a);
    w.api = &a;
    assert_int_equal(geb_close(a.bus, 0), 0);
    a.bus = NULL;
    pid_t pid = start_consumer(&a, 0);
    support_stop(pid);
    w.wait_until_ns = geb_now() + 1200 * MS;
    wait_in_publish(&w);
    assert_int_equal(w.rc, -ETIMEDOUT);
    support_kill(pid);
    end(&a);
}

/* ---- a handler that would wait for itself ---------------------------------------------------- */

struct selfish {
    struct geb_producer *producer;
    geb_topic_id topic;
    struct geb_bus *inner; /* not NULL: this bus is dispatched instead, and its handler publishes */
    int rc[8];
    int cnt;
};

static int publish_to_own(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct selfish *s = user;
    struct geb_options options = GEB_OPTIONS_INIT;
    (void)ctx;
    options.wait_until_ns = geb_now() + 5000 * MS; /* waiting would be found in vain soon enough */
    s->rc[s->cnt++] = geb_publish_with(s->producer, s->topic, event->data, event->len, &options);
    return 0;
}

static int dispatch_inner(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct selfish *s = user;
    (void)ctx;
    (void)event;
    assert_true(geb_dispatch(s->inner, 1) >= 0);
    return 0;
}

static void handler_would_wait_for_itself(void **state)
{
    struct api a = {0};
    (void)state;
    api_watchdog(60);
    api_open(&a, GEB_BLOCK, 4);
    struct selfish s = {.producer = a.producer, .topic = a.topic};
    assert_int_equal(geb_on(a.bus, "t", publish_to_own, &s), 0);
    api_publish(&a, 0, 4);
    assert_int_equal(geb_dispatch(a.bus, 1), 1);
    assert_int_equal(s.rc[0], -EDEADLK);
    assert_int_equal(geb_dispatch(a.bus, 1), 1); /* there is room now: no wait, no error */
    assert_int_equal(s.rc[1], 0);
    assert_int_equal(geb_publish(a.producer, a.topic, "x", 1), 0);
    end(&a);
}

static void handler_of_another_bus_would_wait(void **state)
{
    struct api outer = {0};
    struct api inner = {0};
    (void)state;
    api_watchdog(60);
    api_open(&outer, GEB_BLOCK, 4);
    api_open(&inner, GEB_BLOCK, 4);
    struct selfish s = {.producer = outer.producer, .topic = outer.topic, .inner = inner.bus};
    assert_int_equal(geb_on(outer.bus, "t", dispatch_inner, &s), 0);
    assert_int_equal(geb_on(inner.bus, "t", publish_to_own, &s), 0);
    api_publish(&outer, 0, 4);
    api_publish(&inner, 0, 1);
    assert_int_equal(geb_dispatch(outer.bus, 1), 1);
    assert_int_equal(s.cnt, 1);
    assert_int_equal(s.rc[0], -EDEADLK);
    api_end(&inner);
    end(&outer);
}

/* After an inner dispatch the outer handler still may not wait for its own bus. */
static int dispatch_then_publish(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct selfish *s = user;
    assert_int_equal(geb_dispatch(s->inner, 0), 0);
    return publish_to_own(ctx, event, user);
}

static void waiting_after_an_inner_dispatch(void **state)
{
    struct api outer = {0};
    struct api inner = {0};
    (void)state;
    api_watchdog(60);
    api_open(&outer, GEB_BLOCK, 4);
    api_open(&inner, GEB_BLOCK, 4);
    struct selfish s = {.producer = outer.producer, .topic = outer.topic, .inner = inner.bus};
    assert_int_equal(geb_on(outer.bus, "t", dispatch_then_publish, &s), 0);
    api_publish(&outer, 0, 4);
    assert_int_equal(geb_dispatch(outer.bus, 1), 1);
    assert_int_equal(s.rc[0], -EDEADLK);
    api_end(&inner);
    end(&outer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deadline_is_slept_through),
        cmocka_unit_test(past_deadline_does_not_wait),
        cmocka_unit_test(dispatch_wakes),
        cmocka_unit_test(nothing_is_lost_by_waiting),
        cmocka_unit_test(freed_block_wakes),
        cmocka_unit_test(cancel_from_another_thread),
        cmocka_unit_test(cancel_from_a_signal_handler),
        cmocka_unit_test(cancel_comes_first),
        cmocka_unit_test(close_ends_the_wait),
        cmocka_unit_test(dead_consumer_is_gone_after_a_second),
        cmocka_unit_test(stopped_consumer_is_not_gone),
        cmocka_unit_test(handler_would_wait_for_itself),
        cmocka_unit_test(handler_of_another_bus_would_wait),
        cmocka_unit_test(waiting_after_an_inner_dispatch),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
