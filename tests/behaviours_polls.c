/* Goal: a committed event waits at most two patiences of consumer polling time behind producers
 * that were stopped or killed between claim and commit, however many.
 * Method: the claim is made by hand on the mapped ring, as a producer stopped there leaves it:
 * busy, fetch_add on head, busy exact. The consumer's clock is one that only counts polls: each
 * look at it is one step, so that neither the machine's load nor its speed matters. */
#include "tests/api_support.h"

#include "lib/internal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#define PATIENCE_NS UINT64_C(30000)

static struct api_log record;
static uint64_t polls;
static uint64_t step_ns;

static uint64_t count_polls(void)
{
    polls++;
    return UINT64_C(1000000000) + polls * step_ns;
}

static void open_polled(struct api *a, enum geb_policy policy, uint32_t capacity, uint64_t step)
{
    record = (struct api_log){0};
    api_watchdog(60);
    api_open(a, policy, capacity);
    assert_int_equal(geb_on(a->bus, "t", api_record, &record), 0);
    assert_int_equal(a->bus->map.geo.patience_ns, PATIENCE_NS);
    polls = 0;
    step_ns = step;
    a->bus->consumer.taker.now_ns = count_polls;
}

/* What a producer in `slot` that stops right after its claim has done. */
static uint64_t claim(struct api *a, uint32_t slot)
{
    struct shr_map *map = &a->bus->map;
    uint64_t head = shr_load_relaxed(&map->hot->head);
    shr_store_release(&map->peers[slot].busy, head << 1);
    uint64_t pos = shr_fetch_add_acq_rel(&map->hot->head, 1);
    shr_store_relaxed(&map->peers[slot].busy, pos << 1 | SHR_BUSY_EXACT);
    return pos;
}

static uint64_t tag_of(struct api *a, uint64_t pos)
{
    const struct shr_ring *ring = &a->bus->consumer.taker.ring;
    uint64_t state = shr_load_relaxed(&shr_cell_at(ring, pos)->state);
    assert_int_equal(shr_state_pos(state), pos);
    return shr_state_tag(state);
}

/* Dispatches until an event is handled; the polling time that it took. */
static uint64_t poll_until_handled(struct api *a)
{
    uint64_t start = polls;
    int cnt;
    do
        cnt = geb_dispatch(a->bus, 0);
    while (cnt == 0 && (polls - start) * step_ns < 100 * PATIENCE_NS);
    assert_true(cnt > 0);
    return (polls - start) * step_ns;
}

static void check_wait(enum geb_policy policy, uint32_t stopped, uint64_t step)
{
    struct geb_producer *more[3];
    struct api a = {0};
    uint64_t pos[3];
    open_polled(&a, policy, 8, step);
    for (uint32_t i = 0; i < stopped; i++) {
        assert_int_equal(geb_join(&more[i], a.name, "stops"), 0);
        pos[i] = claim(&a, 2 + i);
    }
    for (int i = 0; i < 50; i++) /* nothing waits, so nothing is taken from anybody */
        assert_int_equal(geb_dispatch(a.bus, 0), 0);
    for (uint32_t i = 0; i < stopped; i++)
        assert_true(shr_load_relaxed(&shr_cell_at(&a.bus->consumer.taker.ring, pos[i])->state) <
                    shr_state(pos[i], 0));
    api_publish(&a, 5, 1);
    uint64_t waited_ns = poll_until_handled(&a);
    assert_true(waited_ns <= 2 * PATIENCE_NS);
    assert_true(waited_ns >= PATIENCE_NS / 2); /* and it was patient */
    assert_int_equal(record.cnt, 1);
    assert_int_equal(api_number(&record.row[0]), 5);
    for (uint32_t i = 0; i < stopped; i++)
        assert_int_equal(tag_of(&a, pos[i]), SHR_TAG_REVOKED);
    assert_int_equal(api_account(&a).revoked, stopped);
    for (uint32_t i = 0; i < stopped; i++)
        assert_int_equal(geb_leave(more[i]), 0);
    api_end(&a);
    api_watchdog(0);
}

static void one_stopped_producer(void **state)
{
    (void)state;
    for (int policy = GEB_DROP_OLDEST; policy <= GEB_RETURN_ERROR; policy++) {
        check_wait((enum geb_policy)policy, 1, 100);
        check_wait((enum geb_policy)policy, 1, 1000);
        check_wait((enum geb_policy)policy, 1, 5000);
    }
}

static void several_stopped_producers_cost_no_more(void **state)
{
    (void)state;
    for (int policy = GEB_DROP_OLDEST; policy <= GEB_RETURN_ERROR; policy++)
        check_wait((enum geb_policy)policy, 3, 500);
}

/* A consumer that was itself off the processor does not blame the producer for that time. */
static void long_pause_of_the_consumer_counts_little(void **state)
{
    struct geb_producer *slow;
    struct api a = {0};
    (void)state;
    open_polled(&a, GEB_BLOCK, 8, UINT64_C(1000000000));
    assert_int_equal(geb_join(&slow, a.name, "slow"), 0);
    uint64_t pos = claim(&a, 2);
    api_publish(&a, 5, 1);
    for (int i = 0; i < 4; i++) /* seconds, but few polls */
        assert_int_equal(geb_dispatch(a.bus, 0), 0);
    struct geb_metrics m = GEB_METRICS_INIT;
    assert_int_equal(geb_metrics(a.bus, &m), 0);
    assert_int_equal(m.revoked, 0);
    assert_true(shr_load_relaxed(&shr_cell_at(&a.bus->consumer.taker.ring, pos)->state) <
                shr_state(pos, 0));
    int cnt = 0;
    for (int i = 0; i < 20 && cnt == 0; i++)
        cnt = geb_dispatch(a.bus, 0);
    assert_int_equal(cnt, 1); /* little, but something */
    assert_int_equal(geb_leave(slow), 0);
    api_end(&a);
    api_watchdog(0);
}

struct joined {
    const char *name;
    geb_topic_id topic;
    struct support_line line;
};

static int join_and_obey(void *arg)
{
    struct joined *j = arg;
    struct geb_producer *producer;
    uint64_t value = 1;
    SUPPORT_CHECK(geb_join(&producer, j->name, "dies") == 0);
    SUPPORT_CHECK(geb_publish(producer, j->topic, &value, sizeof(value)) == 0);
    support_tell_test(&j->line);
    support_hear_test(&j->line);
    return 0;
}

static void dead_producer(void **state)
{
    struct joined j;
    struct api a = {0};
    (void)state;
    open_polled(&a, GEB_BLOCK, 8, 500);
    j = (struct joined){.name = a.name, .topic = a.topic};
    support_line_open(&j.line);
    pid_t pid = support_child(join_and_obey, &j);
    support_hear_child(&j.line);
    uint64_t pos = claim(&a, 2); /* in its name, as it would have been left by its death */
    support_kill(pid);
    support_line_close(&j.line);
    api_publish(&a, 2, 1);
    assert_true(poll_until_handled(&a) <= 2 * PATIENCE_NS);
    assert_true(record.cnt >= 1);
    if (record.cnt == 1)
        assert_true(poll_until_handled(&a) <= 2 * PATIENCE_NS);
    assert_int_equal(api_number(&record.row[0]), 1);
    assert_int_equal(api_number(&record.row[1]), 2);
    /* The sweep gives the cell back, before the patience is over (VOID) or after it (RETURNED); it
     * looks at the clock on some of the calls. */
    uint64_t end_ns = geb_now() + UINT64_C(20000000000);
    while (tag_of(&a, pos) == SHR_TAG_REVOKED && geb_now() < end_ns)
        assert_int_equal(geb_dispatch(a.bus, 0), 0);
    uint64_t tag = tag_of(&a, pos);
    assert_true(tag == SHR_TAG_RETURNED || tag == SHR_TAG_VOID);
    struct geb_metrics m = api_account(&a);
    assert_int_equal(m.accepted, 2); /* the claim was no event */
    api_end(&a);
    api_watchdog(0);
}

/* The same behind a bus that is full of uncommitted claims: nothing is committed behind them, but a
 * producer waits for a position. */
static void full_of_claims(void **state)
{
    struct geb_producer *more[3];
    struct api a = {0};
    (void)state;
    open_polled(&a, GEB_RETURN_ERROR, 4, 500);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(geb_join(&more[i], a.name, "stops"), 0);
    api_publish(&a, 1, 1);
    for (uint32_t i = 0; i < 3; i++)
        claim(&a, 2 + i);
    assert_int_equal(geb_publish(a.producer, a.topic, "x", 1), -EAGAIN);
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    api_publish(&a, 2, 1); /* there is one position now, behind the three */
    uint64_t start = polls;
    assert_true(poll_until_handled(&a) <= 2 * PATIENCE_NS);
    assert_true((polls - start) * step_ns <= 2 * PATIENCE_NS);
    assert_int_equal(record.cnt, 2);
    api_publish(&a, 3, 4); /* and all of them are there again */
    assert_int_equal(geb_dispatch(a.bus, 0), 4);
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(api_number(&record.row[i]), i + 1);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(geb_leave(more[i]), 0);
    api_end(&a);
    api_watchdog(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_stopped_producer),
        cmocka_unit_test(several_stopped_producers_cost_no_more),
        cmocka_unit_test(long_pause_of_the_consumer_counts_little),
        cmocka_unit_test(dead_producer),
        cmocka_unit_test(full_of_claims),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
