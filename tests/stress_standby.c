/* Goal: with a standby the bus goes on by itself: whatever the consumer was doing when it was
 * killed or closed the bus, the standby goes on at the right event, and so does the next one.
 *
 * Method: two producers (one if exclusive) publish without a pause. A chain of consumers, each the
 * standby of the one before: when one is ready, and a random number of events later, the consumer
 * is killed; each fourth one closes instead. Handlers note in a ledger of their own what they get.
 * Under block no publish may fail; at the end, ledger and account must agree:
 *   block, return-error   every event is handled, and a second time at most once for each kill,
 *                         marked
 *   drop-oldest           none is handled twice; one a kill at most is lost in the crash
 * and each producer's events come in their order. */
#include "lib/geb.h"
#include "tests/api_support.h"
#include "tests/support.h"

#include "shmring/atomic.h"

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#define PRODUCERS  2u
#define ROUNDS_MAX 200u
#define EVENTS_MAX 400u /* from one consumer being ready to its end */
#define AHEAD_MAX  80u  /* of the last one handled: a ring and some, or numbers end in no time */
/* Of each producer: all that it can be ahead by while so many are handled. If a standby takes long
 * to be ready, the producers wait for it there. */
#define ROUND_SEQS   ((EVENTS_MAX + 2) * AHEAD_MAX)
#define SEQS         ((ROUNDS_MAX + 2) * ROUND_SEQS)
#define ORDERLY_EACH 4u
#define WORK_TURNS   500 /* so that most kills meet an event in hand */

struct ledger {
    uint8_t begun[PRODUCERS][SEQS + 1];
    uint8_t again[PRODUCERS][SEQS + 1];
    shr_a32 last[PRODUCERS];
    uint32_t sent[PRODUCERS];
    uint32_t disorder;
    shr_a64 handled;
    shr_a32 ready; /* consumers that have come this far */
    shr_a32 until; /* the highest number that a producer may give */
    shr_a32 stop;
};

static struct ledger *ledger;
static struct api bus;
static struct geb_bus *mine;

struct event {
    uint32_t who, seq;
};

static int on_event(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct event e;
    (void)ctx;
    (void)user;
    memcpy(&e, event->data, sizeof(e));
    ledger->begun[e.who][e.seq]++;
    if (event->redelivered)
        ledger->again[e.who][e.seq]++;
    else if (e.seq <= shr_load32_relaxed(&ledger->last[e.who]))
        ledger->disorder++;
    shr_store32_relaxed(&ledger->last[e.who], e.seq);
    for (int i = 0; i < WORK_TURNS; i++)
        shr_cpu_relax();
    shr_store_release(&ledger->handled, shr_load_relaxed(&ledger->handled) + 1);
    return 0;
}

static void on_signal(int number)
{
    (void)number;
    geb_stop(mine);
}

static int consume(void *arg)
{
    int rc;
    (void)arg;
    do
        rc = geb_stand_by(&mine, bus.name);
    while (rc == -EBUSY); /* the one before is about to take over */
    SUPPORT_CHECK(rc == 0);
    SUPPORT_CHECK(geb_on(mine, "t", on_event, NULL) == 0);
    signal(SIGTERM, on_signal);
    shr_fetch_add32_release(&ledger->ready, 1);
    SUPPORT_CHECK(geb_run(mine) == 0);
    return geb_close(mine, 0);
}

static int produce(void *arg)
{
    struct geb_producer *p;
    geb_topic_id topic;
    struct event e = {.who = *(uint32_t *)arg};
    SUPPORT_CHECK(geb_join(&p, bus.name, "producer") == 0);
    SUPPORT_CHECK(geb_topic(p, "t", &topic) == 0);
    while (shr_load32_acquire(&ledger->stop) == 0) {
        if (e.seq >= shr_load32_relaxed(&ledger->last[e.who]) + AHEAD_MAX ||
            e.seq >= shr_load32_relaxed(&ledger->until)) {
            sched_yield();
            continue;
        }
        SUPPORT_CHECK(e.seq < SEQS);
        e.seq++;
        int rc;
        while ((rc = geb_publish(p, topic, &e, sizeof(e))) == -EAGAIN)
            sched_yield();
        SUPPORT_CHECK(rc == 0);
        ledger->sent[e.who] = e.seq;
        if (e.seq % 16 == 0) /* so that a drop-oldest bus keeps something for its consumer */
            sched_yield();
    }
    return geb_leave(p);
}

/* A standby that is ready; then the producers may go on. */
static pid_t start_standby(uint32_t already)
{
    pid_t pid = support_child(consume, NULL);
    while (shr_load32_acquire(&ledger->ready) == already)
        sched_yield();
    shr_store32_relaxed(&ledger->until, (already + 1) * ROUND_SEQS);
    return pid;
}

static void await_events(uint64_t cnt)
{
    uint64_t until = shr_load_acquire(&ledger->handled) + cnt;
    while (shr_load_acquire(&ledger->handled) < until)
        sched_yield(); /* the watchdog ends it if the bus stands still */
}

static struct geb_metrics drain_metrics(void)
{
    struct geb_metrics m = GEB_METRICS_INIT;
    struct geb_watch *watch;
    assert_int_equal(geb_watch(&watch, bus.name), 0);
    do
        assert_int_equal(geb_watch_metrics(watch, &m), 0);
    while (m.pending != 0);
    /* The last event may have been finished amid that look; at this one nothing moves any more. */
    assert_int_equal(geb_watch_metrics(watch, &m), 0);
    assert_int_equal(m.pending, 0);
    geb_unwatch(watch);
    return m;
}

static void check_ledger(const struct geb_metrics *m, bool drop_oldest, uint32_t kills)
{
    uint64_t sent = 0, handled = 0, again = 0;
    for (uint32_t who = 0; who < PRODUCERS; who++) {
        sent += ledger->sent[who];
        for (uint32_t seq = 1; seq <= ledger->sent[who]; seq++) {
            uint8_t begun = ledger->begun[who][seq];
            assert_in_range(begun, drop_oldest ? 0 : 1, 1 + ledger->again[who][seq]);
            handled += begun != 0;
            again += ledger->again[who][seq];
        }
    }
    assert_int_equal(ledger->disorder, 0);
    assert_int_equal(m->accepted, sent);
    assert_int_equal(m->delivered + m->dropped + m->lost_in_crash, sent);
    if (drop_oldest) {
        assert_int_equal(again, 0);
        assert_in_range(m->lost_in_crash, 0, kills);
        assert_in_range(handled, m->delivered, m->delivered + m->lost_in_crash);
    } else {
        assert_in_range(again, 0, kills);
        assert_int_equal(m->delivered, handled);
        assert_int_equal(m->lost_in_crash, 0);
    }
}

static void run_chain(enum geb_policy policy, bool exclusive, uint32_t rounds)
{
    uint32_t who[PRODUCERS] = {0, 1}, producers = exclusive ? 1 : PRODUCERS, kills = 0;
    pid_t pid[PRODUCERS];
    struct geb_config config = api_config(policy, 64);
    config.exclusive = exclusive;
    config.producers = exclusive ? 1 : PRODUCERS;
    bus = (struct api){0};
    memset(ledger, 0, sizeof(*ledger));
    api_watchdog(240);
    api_open_config(&bus, &config);
    geb_leave(bus.producer);
    geb_close(bus.bus, 0);
    bus.producer = NULL;
    bus.bus = NULL;
    pid_t consumer = start_standby(0);
    for (uint32_t i = 0; i < producers; i++)
        pid[i] = support_child(produce, &who[i]);
    for (uint32_t i = 1; i <= rounds; i++) {
        pid_t standby = start_standby(i);
        await_events(1 + support_random() % EVENTS_MAX);
        bool orderly = i % ORDERLY_EACH == 0;
        kill(consumer, orderly ? SIGTERM : SIGKILL);
        kills += !orderly;
        assert_int_equal(support_wait(consumer), orderly ? 0 : -SIGKILL);
        consumer = standby;
    }
    await_events(1);
    shr_store32_release(&ledger->stop, 1);
    for (uint32_t i = 0; i < producers; i++)
        assert_int_equal(support_wait(pid[i]), 0);
    struct geb_metrics m = drain_metrics();
    assert_int_equal(m.restarts, kills);
    kill(consumer, SIGTERM);
    assert_int_equal(support_wait(consumer), 0);
    check_ledger(&m, policy == GEB_DROP_OLDEST, kills);
    printf("%u kills, 0 failed: policy %d%s, %llu events, %llu redelivered, %llu lost\n", kills,
           (int)policy, exclusive ? ", exclusive" : "", (unsigned long long)m.accepted,
           (unsigned long long)m.redelivered, (unsigned long long)m.lost_in_crash);
    api_end(&bus);
    api_watchdog(0);
}

static void standby_goes_on(void **state)
{
    (void)state;
    uint32_t rounds = support_depth() == SUPPORT_QUICK ? 20 : ROUNDS_MAX;
    ledger = support_shared(sizeof(*ledger));
    for (int policy = 0; policy < 3; policy++) {
        run_chain((enum geb_policy)policy, false, rounds);
        run_chain((enum geb_policy)policy, true, rounds);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(standby_goes_on)};
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
