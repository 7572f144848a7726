/* Goal: whatever producers and consumers do one after the other, every event is handled once, in
 * the order of the bus and as it was published, or is in the column of what became of it; and all
 * memory comes back.
 *
 * Method: one process plays them all, by a seeded generator: copies, batches and loans of all
 * sizes, with and without options; dispatch of some, of all; consumers that close, with and without
 * draining, or die, and successors, some of which stood by; producers that leave or die with loans
 * out, and next owners of their slots; the largest event for an empty bus. The bus has been in use
 * for so long that event numbers, generations of blocks and the count of recalls are about to pass
 * 32 bits. Beside it there is a plain queue, by which each delivery and, after each call, the whole
 * account is judged. Under drop-oldest the queue loses at its front what the account says was
 * dropped, and for an event that needs no block exactly one. All die between two calls: else it is
 * for the crash suites. */
#include "lib/internal.h"
#include "tests/api_support.h"
#include "tests/stress_support.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CAPACITY  16u
#define CHUNKS    6u
#define EVENT_MAX (2u * SHR_CHUNK_BYTES)
#define HANDLES   3u
#define BATCH     4u
#define LOANS     2u
#define SMALL     16u /* fits into a cell beside any options */
#define SLOTS     (HANDLES + 1)
#define OLD       (UINT64_C(3) << 32) /* an age at which low halves of counts begin anew … */
#define BEFORE    200u                /* … so soon */

enum { HANDLED, ALSO_HANDLED, NOBODY, TOPICS };
static const char *const topic_text[TOPICS] = {"a", "b", "nobody"};

struct event {
    uint64_t serial; /* of which the payload follows */
    uint64_t number, key, id;
    uint32_t topic, len, slot;
    bool expired;
};

struct cell {
    uint32_t cnt;
    struct event event[BATCH];
};

static struct {
    struct api api;
    struct geb_producer *p[HANDLES];
    geb_topic_id topic[TOPICS];
    struct geb_loan loan[HANDLES][LOANS];
    uint64_t number[SLOTS + 1]; /* of the last event of each slot */
    uint64_t serial;
    /* The queue, and where the handlers are in it. */
    struct cell cell[CAPACITY];
    uint32_t first, cnt;
    uint32_t at_cell, at_event;
    uint64_t accepted, delivered, unhandled, expired, dropped, restarts;
    uint64_t full, dry, large; /* calls: refused for want of a place, of a block; events in one */
} w;

static unsigned char payload[EVENT_MAX];

static uint32_t pick(uint32_t n)
{
    return (uint32_t)(support_random() % n);
}

static struct cell *cell_at(uint32_t i)
{
    return &w.cell[(w.first + i) % CAPACITY];
}

/* ---- publishing ------------------------------------------------------------------------------ */

static uint32_t pick_len(void)
{
    switch (pick(8)) {
    case 0:
        return pick(EVENT_MAX + 1);
    case 1:
    case 2:
        return pick(3000);
    default:
        return pick(33);
    }
}

static struct event new_event(const struct geb_producer *p, uint32_t len)
{
    struct event e = {.serial = ++w.serial, .topic = pick(TOPICS), .len = len, .slot = p->slot};
    e.key = pick(2) * (1 + pick(1000));
    return e;
}

static struct geb_options pick_options(struct event *e)
{
    struct geb_options options = GEB_OPTIONS_INIT;
    options.wait_until_ns = 0;
    e->id = pick(4) == 0 ? e->serial : 0;
    e->expired = pick(8) == 0;
    options.key = e->key;
    options.id = e->id;
    options.deadline_ns = e->expired ? 1 : pick(8) == 0 ? geb_now() * 2 : 0;
    return options;
}

/* The queue loses at its front what the account says was dropped; whole cells. */
static void drop_front(void)
{
    struct geb_metrics m = GEB_METRICS_INIT;
    assert_int_equal(geb_metrics(w.api.bus, &m), 0);
    while (w.dropped < m.dropped) {
        assert_true(w.cnt > 0);
        w.dropped += cell_at(0)->cnt;
        w.first++;
        w.cnt--;
    }
    assert_int_equal(w.dropped, m.dropped);
}

/* A call came back with rc, that would have published these; needs_block: perhaps, or surely. */
static void note(struct cell *published, int rc, bool needs_block)
{
    uint32_t before = w.cnt;
    bool drops = w.api.config.policy == GEB_DROP_OLDEST;
    if (drops)
        drop_front();
    if (!needs_block && drops)
        assert_int_equal(before - w.cnt, before == CAPACITY);
    if (rc != 0) {
        bool no_place = rc == -EAGAIN || rc == -ETIMEDOUT;
        assert_true(no_place || (needs_block && (rc == -ENOBUFS || rc == -ECANCELED)));
        assert_true(!no_place || needs_block || (!drops && w.cnt == CAPACITY));
        w.full += no_place;
        w.dry += !no_place;
        return;
    }
    assert_true(w.cnt < CAPACITY);
    uint32_t slot = published->event[0].slot;
    for (uint32_t i = 0; i < published->cnt; i++)
        published->event[i].number = ++w.number[slot];
    w.accepted += published->cnt;
    w.large += needs_block;
    *cell_at(w.cnt++) = *published;
}

static void copy(struct geb_producer *p)
{
    uint32_t len = pick_len();
    struct cell c = {.cnt = 1, .event[0] = new_event(p, len)};
    struct geb_options options = pick_options(&c.event[0]);
    stress_fill(payload, len, 0, c.event[0].serial);
    int rc = geb_publish_with(p, w.topic[c.event[0].topic], payload, len, &options);
    note(&c, rc, len > SMALL);
}

static void batch(struct geb_producer *p)
{
    struct geb_message messages[BATCH];
    struct geb_options options = GEB_OPTIONS_INIT;
    struct cell c = {.cnt = 1 + pick(BATCH)};
    unsigned char *to = payload;
    for (uint32_t i = 0; i < c.cnt; i++) {
        struct event *e = &c.event[i];
        *e = new_event(p, pick(2) == 0 ? pick(33) : pick(9000));
        stress_fill(to, e->len, 0, e->serial);
        messages[i] = (struct geb_message){
            .topic = w.topic[e->topic], .len = e->len, .data = to, .key = e->key};
        to += e->len;
    }
    options.wait_until_ns = 0;
    note(&c, geb_publish_batch(p, messages, c.cnt, &options), true);
}

/* Takes a loan, or commits or returns the one that is out. */
static void loan(struct geb_producer *p, struct geb_loan *l)
{
    if (l->handle == 0) {
        uint32_t len = 1 + pick(pick(4) == 0 ? EVENT_MAX : 4000);
        struct cell none = {0};
        geb_cancel(p); /* it shall not wait for us */
        int rc = geb_loan(p, len, l);
        if (rc != 0)
            note(&none, rc, true);
        else if (w.api.config.policy == GEB_DROP_OLDEST)
            drop_front();
        return;
    }
    if (pick(3) == 0) {
        assert_int_equal(geb_return(p, l), 0);
        *l = (struct geb_loan){0};
        return;
    }
    l->len = 1 + pick((uint32_t)l->len);
    struct cell c = {.cnt = 1, .event[0] = new_event(p, (uint32_t)l->len)};
    struct geb_options options = pick_options(&c.event[0]);
    stress_fill(l->data, l->len, 0, c.event[0].serial);
    int rc = geb_commit_with(p, l, w.topic[c.event[0].topic], &options);
    note(&c, rc, true);
    if (rc == 0)
        *l = (struct geb_loan){0};
}

/* ---- handling -------------------------------------------------------------------------------- */

/* Counts what no handler sees, up to the next event that one will. */
static void pass_unseen(void)
{
    for (; w.at_cell < w.cnt; w.at_cell++, w.at_event = 0) {
        const struct cell *c = cell_at(w.at_cell);
        for (; w.at_event < c->cnt; w.at_event++) {
            const struct event *e = &c->event[w.at_event];
            if (!e->expired && e->topic != NOBODY)
                return;
            w.expired += e->expired;
            w.unhandled += !e->expired;
        }
    }
}

static int on_event(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)ctx;
    (void)user;
    pass_unseen();
    assert_true(w.at_cell < w.cnt);
    const struct event *e = &cell_at(w.at_cell)->event[w.at_event++];
    assert_int_equal(event->topic, w.topic[e->topic]);
    assert_int_equal(event->producer, e->slot);
    assert_int_equal(event->number, e->number);
    assert_int_equal(event->key, e->key);
    assert_int_equal(event->id, e->id);
    assert_int_equal(event->len, e->len);
    assert_true(stress_same(event->data, event->len, 0, e->serial));
    assert_false(event->redelivered);
    w.delivered++;
    return 0;
}

/* So many cells are gone, and all that was in them was seen. */
static void leave_behind(uint32_t cells)
{
    uint32_t cnt = w.cnt;
    assert_true(cells <= cnt);
    w.cnt = cells; /* what is unseen behind them is not due yet */
    pass_unseen();
    assert_int_equal(w.at_cell, cells);
    w.cnt = cnt - cells;
    w.first += cells;
    w.at_cell = w.at_event = 0;
}

static void add_handlers(struct geb_bus *bus)
{
    for (uint32_t i = 0; i < NOBODY; i++)
        assert_int_equal(geb_on(bus, topic_text[i], on_event, NULL), 0);
}

static void take_role(void)
{
    assert_int_equal(geb_open(&w.api.bus, w.api.name), 0);
    add_handlers(w.api.bus);
}

/* What the kernel does with a process that is killed. */
static void bus_dies(struct geb_bus *bus)
{
    shr_lock_drop(&bus->lock);
    shr_segment_detach(&bus->map);
    free(bus->flat);
    free(bus->first);
    gebi_handle_end(bus, sizeof(*bus));
}

static void producer_dies(struct geb_producer *p)
{
    shr_lock_drop(&p->lock);
    shr_segment_detach(&p->map);
    for (uint32_t c = 0; c <= SHR_CLASS_CNT; c++)
        free(p->heap.cls[c].chunk);
    gebi_handle_end(p, sizeof(*p));
}

static void dispatch(uint32_t max)
{
    uint32_t due = max != 0 && max < w.cnt ? max : w.cnt;
    assert_int_equal(geb_dispatch(w.api.bus, max), due);
    leave_behind(due);
}

/* The consumer ends, and has a successor, which perhaps stood by. */
static void succeed(void)
{
    struct geb_bus *next = NULL;
    uint32_t how = pick(3);
    if (pick(2) == 0) {
        assert_int_equal(geb_stand_by(&next, w.api.name), 0);
        add_handlers(next);
        assert_int_equal(geb_dispatch(next, 0), 0);
    }
    if (how == 0)
        bus_dies(w.api.bus);
    else
        assert_int_equal(geb_close(w.api.bus, how == 1 ? GEB_FOREVER : 0), 0);
    w.restarts += how == 0;
    leave_behind(how == 1 ? w.cnt : 0);
    if (next != NULL)
        assert_int_equal(geb_take_over(next, 0), 0);
    w.api.bus = next;
    if (next == NULL)
        take_role();
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void join(uint32_t i)
{
    assert_int_equal(geb_join(&w.p[i], w.api.name, "random"), 0);
    for (uint32_t t = 0; t < TOPICS; t++)
        assert_int_equal(geb_topic(w.p[i], topic_text[t], &w.topic[t]), 0);
}

static void leave(uint32_t i, bool dies)
{
    if (dies)
        producer_dies(w.p[i]);
    else
        assert_int_equal(geb_leave(w.p[i]), 0);
    memset(w.loan[i], 0, sizeof(w.loan[i]));
}

/* An empty bus has room for the largest event, whoever used the memory before; for who asked in
 * vain, after 2 ms, as if they had passed. */
static void fill_empty(struct geb_producer *p, uint32_t handles)
{
    struct geb_options options = GEB_OPTIONS_INIT;
    struct cell c = {.cnt = 1, .event[0] = new_event(p, EVENT_MAX)};
    for (uint32_t i = 0; i < handles; i++) {
        for (uint32_t k = 0; k < LOANS; k++) {
            if (w.loan[i][k].handle != 0)
                assert_int_equal(geb_return(w.p[i], &w.loan[i][k]), 0);
            w.loan[i][k] = (struct geb_loan){0};
        }
    }
    dispatch(0);
    options.wait_until_ns = 0;
    options.key = c.event[0].key;
    stress_fill(payload, EVENT_MAX, 0, c.event[0].serial);
    memset(p->heap.vain_ns, 0, sizeof(p->heap.vain_ns));
    memset(p->heap.swept_ns, 0, sizeof(p->heap.swept_ns));
    int rc = geb_publish_with(p, w.topic[c.event[0].topic], payload, EVENT_MAX, &options);
    assert_int_equal(rc, 0);
    note(&c, rc, true);
}

static void step(uint32_t handles)
{
    uint32_t i = pick(handles), what = pick(100);
    if (what < 50)
        copy(w.p[i]);
    else if (what < 60)
        batch(w.p[i]);
    else if (what < 75)
        loan(w.p[i], &w.loan[i][pick(LOANS)]);
    else if (what < 95)
        dispatch(1 + pick(4));
    else if (what < 97)
        dispatch(0);
    else if (what < 98)
        succeed();
    else if (what < 99)
        fill_empty(w.p[i], handles);
    else if (pick(4) == 0) {
        leave(i, pick(2) != 0);
        join(i);
    }
}

static void check_account(void)
{
    struct geb_metrics m = api_account(&w.api);
    assert_int_equal(m.accepted, w.accepted);
    assert_int_equal(m.delivered, w.delivered);
    assert_int_equal(m.expired, w.expired);
    assert_int_equal(m.unhandled, w.unhandled);
    assert_int_equal(m.dropped, w.dropped);
    assert_int_equal(m.used, w.cnt);
    assert_int_equal(m.restarts, w.restarts);
    assert_int_equal(m.redelivered + m.revoked + m.quarantined + m.bad_bytes, 0);
}

/* Nobody takes part. Each slot has published for long, and all of that was handled. */
static void make_old(uint32_t handles)
{
    struct shr_map map;
    assert_int_equal(shr_segment_attach(&map, w.api.bus->map.path, true), 0);
    assert_int_equal(geb_close(w.api.bus, 0), 0);
    for (uint32_t slot = 1; slot <= handles; slot++) {
        w.number[slot] = OLD - BEFORE;
        shr_store_relaxed(&map.peers[slot].published, w.number[slot]);
        shr_store_relaxed(&map.track[slot].seen, w.number[slot]);
        w.accepted += w.number[slot];
    }
    w.delivered = w.accepted;
    shr_store_relaxed(&map.tally->col[SHR_COL_DELIVERED], w.delivered);
    shr_store_relaxed(&map.hot->recalls, OLD - BEFORE);
    for (uint32_t i = 0; i < CHUNKS * SHR_CHUNK_BLOCKS; i++)
        shr_store_relaxed(&map.chunks[i / SHR_CHUNK_BLOCKS].block[i % SHR_CHUNK_BLOCKS],
                          shr_block_word(UINT32_MAX - pick(BEFORE), SHR_BLOCK_FREE));
    shr_segment_detach(&map);
}

static void run(enum geb_policy policy, bool exclusive)
{
    uint32_t handles = exclusive ? 1 : HANDLES;
    uint64_t steps = stress_events(support_depth() == SUPPORT_QUICK ? 15000 : 100000);
    struct geb_config config = api_config(policy, CAPACITY);
    struct geb_loan all;
    memset(&w, 0, sizeof(w));
    config.exclusive = exclusive;
    config.producers = handles;
    config.slab_bytes = (uint64_t)CHUNKS * SHR_CHUNK_BYTES;
    config.max_event = EVENT_MAX;
    api_open_config(&w.api, &config);
    geb_leave(w.api.producer);
    w.api.producer = NULL;
    make_old(handles);
    for (uint32_t i = 0; i < handles; i++)
        join(i);
    take_role();
    for (uint64_t i = 0; i < steps; i++) {
        step(handles);
        check_account();
    }
    dispatch(0);
    check_account();
    for (uint32_t i = 0; i < handles; i++)
        leave(i, false);
    w.api.bus->swept_ns = 0;
    gebi_housekeep(w.api.bus, shr_now_ns());
    join(0);
    assert_int_equal(geb_loan(w.p[0], EVENT_MAX, &all), 0);
    assert_int_equal(geb_return(w.p[0], &all), 0);
    leave(0, false);
    printf("policy %d%s: %llu accepted, %llu of them in blocks, %llu dropped; %llu times full, "
           "%llu times without memory\n",
           (int)policy, exclusive ? ", exclusive" : "", (unsigned long long)w.accepted,
           (unsigned long long)w.large, (unsigned long long)w.dropped, (unsigned long long)w.full,
           (unsigned long long)w.dry);
    api_end(&w.api);
}

static void all_is_as_in_a_queue(void **state)
{
    (void)state;
    for (int policy = 0; policy < 3; policy++) {
        run((enum geb_policy)policy, false);
        run((enum geb_policy)policy, true);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_is_as_in_a_queue)};
    support_begin();
    api_watchdog(200);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
