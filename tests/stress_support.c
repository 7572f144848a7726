/* The consumer of the stress tests, which checks all that its producers do. */
#include "tests/stress_run.h"

#include "tests/support.h"

#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <cmocka.h>

#define WATCHDOG_S 60
#define PLENTY     (UINT64_C(8) << 20)
#define WINDOW     UINT64_C(0x3fff) /* notes of each producer - 1, at the most */
/* How often producers learn that their notes are free. */
#define CHECKED_EVERY 64u
#define WATCHED_EVERY 256u /* events that the watchdog's minute is for */

static const char *watched;

static void no_progress(int signal_number)
{
    static const char text[] = ": no progress for a minute\n";
    (void)signal_number;
    if (write(2, watched, strlen(watched)) < 0 || write(2, text, sizeof(text) - 1) < 0)
        _exit(2);
    _exit(1);
}

void stress_watchdog(const char *what)
{
    watched = what;
    signal(SIGALRM, no_progress);
    alarm(WATCHDOG_S);
}

/* ---- the consumer ---------------------------------------------------------------------------- */

static void wrong(const struct geb_event *ev, uint32_t id, uint64_t serial, const char *how)
{
    fail_msg("%s: position %llu, slot %u, number %llu (producer %u, serial %llu, %zu bytes): %s",
             run.c->what, (unsigned long long)ev->position, ev->producer,
             (unsigned long long)ev->number, id, (unsigned long long)serial, ev->len, how);
}

struct history_row stress_row(const struct geb_event *ev, bool named)
{
    uint64_t head[2] = {ev->producer - 1, ev->number};
    if (named && ev->len >= sizeof(head))
        memcpy(head, ev->data, sizeof(head));
    uint32_t id = head[0] < STRESS_PRODUCERS ? (uint32_t)head[0] : STRESS_PRODUCERS;
    return (struct history_row){
        .serial = head[1],
        .number = ev->number,
        .position = ev->position,
        .producer = id,
        .slot = ev->producer,
        .bytes = (uint32_t)ev->len,
        .redelivered = ev->redelivered,
        .whole = stress_whole(ev->data, ev->len, id, head[1], named) &&
                 (ev->id == 0 || (ev->id == head[1] && ev->key == ~head[1])),
        .finished = true,
    };
}

static int on_event(struct geb_context *ctx, const struct geb_event *ev, void *user)
{
    (void)ctx;
    (void)user;
    struct history_row row = stress_row(ev, run.c->kill_every != 0);
    enum history_fault fault = history_add(&run.history, &row);
    if (fault != HISTORY_FINE)
        wrong(ev, row.producer, row.serial, history_text(fault));
    if (row.serial % CHECKED_EVERY == 0)
        shr_store_release(&run.board->ledger[row.producer].checked, row.serial);
    if (++run.all_delivered % 64 == 0 && run.c->sleeps)
        geb_stop(run.bus);
    return 0;
}

/* ---- signals --------------------------------------------------------------------------------- */

static void start_producer(uint32_t id)
{
    static uint32_t ids[STRESS_PRODUCERS];
    ids[id] = id;
    run.pid[id] = support_child(stress_produce, &ids[id]);
    run.alive++;
}

/* Whether any had finished. */
static bool reap(void)
{
    uint32_t before = run.alive;
    for (uint32_t id = 0; id < run.c->producers; id++) {
        if (run.pid[id] == 0 || shr_load_acquire(&run.board->ledger[id].finished) == 0)
            continue;
        if (run.stopped[id])
            kill(run.pid[id], SIGCONT);
        if (support_wait(run.pid[id]) != 0)
            fail_msg("%s: producer %u failed", run.c->what, id);
        run.pid[id] = 0;
        run.alive--;
    }
    return run.alive != before;
}

/* A producer that ended without finishing is one that a check ended. */
static void look_for_the_dead(void)
{
    for (uint32_t id = 0; id < run.c->producers; id++) {
        siginfo_t info = {0};
        if (run.pid[id] == 0 ||
            waitid(P_PID, (id_t)run.pid[id], &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
            info.si_pid == 0 || (info.si_code == CLD_EXITED && info.si_status == 0))
            continue;
        fail_msg("%s: producer %u ended: %d", run.c->what, id, info.si_status);
    }
}

static void stop_or_continue(void)
{
    uint32_t id = (uint32_t)(support_random() % run.c->producers), running = 0;
    for (uint32_t i = 0; i < run.c->producers; i++)
        running += run.pid[i] != 0 && !run.stopped[i];
    if (run.pid[id] == 0 || (!run.stopped[id] && running <= 1))
        return;
    kill(run.pid[id], run.stopped[id] ? SIGCONT : SIGSTOP);
    run.stopped[id] = !run.stopped[id];
    run.stops += run.stopped[id];
}

/* Nothing comes any more. That is right only if all who are not stopped have finished; then the
 * stopped ones go on. Otherwise the watchdog ends the test. */
static void continue_if_idle(void)
{
    for (uint32_t id = 0; id < run.c->producers; id++) {
        if (run.pid[id] != 0 && !run.stopped[id] &&
            shr_load_acquire(&run.board->ledger[id].finished) == 0)
            return;
    }
    for (uint32_t id = 0; id < run.c->producers; id++) {
        if (run.stopped[id] && run.pid[id] != 0)
            kill(run.pid[id], SIGCONT);
        run.stopped[id] = false;
    }
}

static void kill_one(void)
{
    uint32_t id = (uint32_t)(support_random() % run.c->producers);
    struct ledger *ledger = &run.board->ledger[id];
    if (run.pid[id] == 0 || run.kills >= run.c->max_kills ||
        shr_load_acquire(&ledger->finished) != 0 ||
        shr_load_acquire(&run.board->joined) < run.c->producers)
        return;
    support_kill(run.pid[id]);
    run.alive--;
    run.kills++;
    run.pid[id] = 0;
    run.stopped[id] = false; /* its successor is not */
    uint64_t done = shr_load_relaxed(&ledger->done), begun = shr_load_relaxed(&ledger->begun);
    run.uncertain[id] += begun - done;
    shr_store_relaxed(&ledger->done, begun);
    if (shr_load_relaxed(&ledger->finished) == 0)
        start_producer(id);
}

/* ---- a run ----------------------------------------------------------------------------------- */

void stress_config(const struct stress_case *c, struct geb_config *config)
{
    *config = (struct geb_config)GEB_CONFIG_INIT;
    config->policy = c->policy;
    config->exclusive = c->exclusive;
    config->capacity = c->capacity;
    config->producers = c->exclusive ? 1 : c->producers;
    config->topics = 4;
    config->patience_ns = c->patience_ns;
    config->slab_bytes = !c->mixed ? GEB_NO_SLABS : c->slab_bytes != 0 ? c->slab_bytes : PLENTY;
    config->max_event = c->mixed ? STRESS_BATCH * (STRESS_BYTES + 32) : 0;
}

static void open_bus(const struct stress_case *c)
{
    struct geb_config config;
    stress_config(c, &config);
    support_name(run.name);
    if (geb_create(&run.bus, run.name, &config) != 0)
        fail_msg("%s: %s", c->what, geb_last_error());
    assert_int_equal(geb_on(run.bus, "stress", on_event, NULL), 0);
}

void stress_open_board(const struct stress_case *c)
{
    struct history *h = &run.history;
    run.board = support_shared(sizeof(*run.board));
    for (run.mask = 1; run.mask < WINDOW && run.mask < c->events + STRESS_BATCH;)
        run.mask = run.mask * 2 + 1;
    run.note_bytes = (run.mask + 1) * sizeof(struct history_note);
    h->drops = c->policy == GEB_DROP_OLDEST;
    h->producers = c->producers;
    h->slots = c->exclusive ? 1 : c->producers;
    h->silent = c->fates;
    h->mask = run.mask;
    for (uint32_t id = 0; id < c->producers; id++) {
        h->notes[id] = run.board->ledger[id].notes = support_shared(run.note_bytes);
        h->begun[id] = &run.board->ledger[id].begun;
    }
    history_begin(h);
}

void stress_close_board(const struct stress_case *c)
{
    for (uint32_t id = 0; id < c->producers; id++)
        munmap(run.board->ledger[id].notes, run.note_bytes);
    history_free(&run.history);
    munmap(run.board, sizeof(*run.board));
}

/* One look at the bus. Sometimes it takes much, sometimes little, and sometimes it dawdles. */
static int consume_some(void)
{
    uint64_t r = support_random();
    if (run.c->sleeps && run.alive != 0) {
        uint64_t before = run.all_delivered;
        if (shr_load_relaxed(&run.board->joined) == run.c->producers &&
            run.all_delivered + 64 < run.c->events * run.c->producers / 2)
            assert_int_equal(geb_run(run.bus), 0);
        else
            geb_dispatch(run.bus, 0);
        return (int)(run.all_delivered - before);
    }
    for (uint64_t i = 0; i < (r % 256 == 0 ? r >> 52 : 0); i++)
        shr_cpu_relax();
    return geb_dispatch(run.bus, 1 + (uint32_t)(r >> 8) % 64);
}

/* A producer whose events were all dropped by others waits for its notes. What had returned before
 * the bus was seen empty does not come any more. */
static void let_go_on(void)
{
    uint64_t done[STRESS_PRODUCERS];
    struct geb_metrics m = GEB_METRICS_INIT;
    for (uint32_t id = 0; id < run.c->producers; id++)
        done[id] = shr_load_acquire(&run.board->ledger[id].done);
    assert_int_equal(geb_metrics(run.bus, &m), 0);
    for (uint32_t id = 0; m.pending == 0 && id < run.c->producers; id++) {
        enum history_fault fault = history_pass(&run.history, id, done[id]);
        if (fault != HISTORY_FINE)
            fail_msg("%s: producer %u, serial %llu: %s", run.c->what, id,
                     (unsigned long long)run.history.last[id] + 1, history_text(fault));
        shr_store_release(&run.board->ledger[id].checked, run.history.last[id]);
    }
}

static void consume_all(void)
{
    uint32_t empty = 0;
    run.next_stop = run.c->stop_every;
    run.next_kill = run.c->kill_every;
    for (uint64_t looks = 0; run.alive != 0 || empty < 4; looks++) {
        int cnt = consume_some();
        assert_true(cnt >= 0);
        empty = cnt == 0 ? empty + 1 : 0;
        if (looks % 1024 == 0)
            look_for_the_dead();
        if (run.all_delivered >= run.next_watch) {
            run.next_watch = run.all_delivered + WATCHED_EVERY;
            stress_watchdog(run.c->what);
        }
        if (run.c->stop_every != 0 && run.all_delivered >= run.next_stop) {
            run.next_stop = run.all_delivered + run.c->stop_every;
            stop_or_continue();
        }
        if (run.c->kill_every != 0 && run.all_delivered >= run.next_kill) {
            run.next_kill = run.all_delivered + run.c->kill_every;
            kill_one();
        }
        /* It polls for some time, as a consumer does: patience is counted in polls. */
        if (empty % 64 == 2) {
            if (reap() && run.alive == 0)
                empty = 0; /* they may have published since we looked */
            continue_if_idle();
            let_go_on();
            sched_yield();
        }
    }
}

/* The account against the ledgers. */
static void check_account(const struct stress_case *c)
{
    struct geb_metrics m = GEB_METRICS_INIT;
    uint64_t done = 0, uncertain = 0, refused = 0, missing = 0, doubtful = 0;
    let_go_on();
    assert_int_equal(history_end(&run.history), HISTORY_FINE);
    assert_int_equal(geb_metrics(run.bus, &m), 0);
    for (uint32_t id = 0; id < c->producers; id++) {
        const struct ledger *ledger = &run.board->ledger[id];
        assert_int_equal(shr_load_relaxed(&ledger->done), c->events);
        done += shr_load_relaxed(&ledger->done);
        uncertain += run.uncertain[id];
        refused += shr_load_relaxed(&ledger->refused);
        missing += run.history.missing[id];
        doubtful += run.history.doubtful[id];
        assert_int_equal(run.history.last[id], c->events);
    }
    printf("%s: %llu accepted, %llu dropped, %llu refused, %llu revoked, %u stops, %u kills\n",
           c->what, (unsigned long long)m.accepted, (unsigned long long)m.dropped,
           (unsigned long long)refused, (unsigned long long)m.revoked, run.stops, run.kills);
    assert_int_equal(m.delivered, run.all_delivered);
    assert_int_equal(m.accepted, m.delivered + m.dropped);
    assert_in_range(m.accepted, done - uncertain, done);
    assert_int_equal(m.pending, 0);
    assert_int_equal(m.expired + m.cancelled + m.unhandled + m.dead_lettered + m.lost_in_crash, 0);
    assert_int_equal(m.bad_bytes + m.redelivered + m.restarts + m.errors, 0);
    assert_in_range(m.dropped, missing, missing + doubtful);
    if (c->policy != GEB_DROP_OLDEST)
        assert_int_equal(m.dropped, 0);
}

void stress_await_chunks(struct geb_bus *bus, struct geb_watch *watch)
{
    struct geb_slab_row slab[64];
    for (uint64_t missing = 1; missing != 0;) {
        geb_dispatch(bus, 0);
        missing = 0;
        int rows = geb_watch_slabs(watch, slab, 64);
        for (int i = 0; i < rows; i++)
            missing += slab[i].block_bytes == 0 ? slab[i].blocks - slab[i].free : 0;
    }
}

/* The droppers' own counts say what the gaps say; nothing that a producer held is missing. */
static void check_leaks(const struct stress_case *c)
{
    struct geb_watch *watch;
    struct geb_topic_row topic[4];
    struct geb_metrics m = GEB_METRICS_INIT;
    struct geb_producer *again[STRESS_PRODUCERS];
    assert_int_equal(geb_watch(&watch, run.name), 0);
    assert_int_equal(geb_watch_metrics(watch, &m), 0);
    assert_true(geb_watch_topics(watch, topic, 4) >= 1);
    if (run.kills == 0)
        assert_int_equal(topic[0].dropped, m.dropped);
    for (uint32_t id = 0; id < c->producers; id++)
        assert_int_equal(geb_join(&again[id], run.name, "again"), 0);
    for (uint32_t id = 0; id < c->producers; id++)
        assert_int_equal(geb_leave(again[id]), 0);
    if (c->mixed)
        stress_await_chunks(run.bus, watch);
    assert_int_equal(geb_unwatch(watch), 0);
}

void stress_run(const struct stress_case *c)
{
    memset(&run, 0, sizeof(run));
    run.c = c;
    stress_watchdog(c->what);
    open_bus(c);
    stress_open_board(c);
    stress_pin(0);
    for (uint32_t id = 0; id < c->producers; id++)
        start_producer(id);
    consume_all();
    check_account(c);
    check_leaks(c);
    assert_int_equal(geb_close(run.bus, 0), 0);
    assert_int_equal(geb_remove(run.name), 0);
    stress_close_board(c);
    alarm(0);
}

/* ---- several --------------------------------------------------------------------------------- */

void stress_run_rings(const struct stress_case *c, const char *more)
{
    const uint32_t capacity[] = {4, 16, 1024};
    for (uint32_t i = 0; i < 3; i++) {
        char what[64];
        snprintf(what, sizeof(what), "%s%s, %u cells, %s%s", c->exclusive ? "exclusive " : "",
                 support_policy_text[c->policy], capacity[i], c->mixed ? "mixed sizes" : "in line",
                 more);
        struct stress_case one = *c;
        one.what = what;
        one.capacity = capacity[i];
        stress_run(&one);
    }
}

static void (*of_policy)(enum geb_policy policy);

static void drop_oldest(void **state)
{
    (void)state;
    of_policy(GEB_DROP_OLDEST);
}

static void block(void **state)
{
    (void)state;
    of_policy(GEB_BLOCK);
}

static void return_error(void **state)
{
    (void)state;
    of_policy(GEB_RETURN_ERROR);
}

int stress_run_policies(void (*test)(enum geb_policy policy))
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drop_oldest),
        cmocka_unit_test(block),
        cmocka_unit_test(return_error),
    };
    of_policy = test;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
