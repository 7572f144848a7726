/* What the soak compares at a quiet moment: the log of the consumers with the notes of the lanes
 * (history.h), the event numbers with the stints, and each column of the account with both.
 *
 * A call during which its process died may have been committed or not. The log says so if the event
 * was handled. If not, the numbers do: within a stint they go with the serials, and a slot's
 * numbers are consecutive from stint to stint, so between the last certain event of one and the
 * first event of the next there are as many numbers as the call had events, or none. Of a stint
 * without any handled event the slot is not known; then only the sum over all of them is compared.
 *
 * A consumer that died had one cell in hand at most, and its log cannot tell the last instant
 * before the bus counted a cell from the first one after it. So for each death in the window one
 * cell may be in lost_in_crash instead of in delivered or dropped (drop-oldest), or be marked as
 * redelivered without a handler having seen that (block, return-error). Everything else is compared
 * exactly. */
#include "tests/soak_run.h"

#include "tests/support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* The events of one stint in the window, from `first` on. */
struct span {
    uint64_t start; /* number of its first event, if the slot is known */
    uint64_t certain;
    uint32_t slot;
    uint32_t doubt;            /* events of the call in which its process died, if not handled */
    uint32_t doubt_fate;       /* PLAN_*: what would have become of that call's event */
    uint64_t fate[3];          /* certain events by PLAN_* */
    enum { NO, YES, OPEN } in; /* whether that call was committed */
};

struct window {
    struct soak_check *k;
    uint32_t started, deaths, marked_first; /* consumers whose first cell was marked */
    uint64_t delivered;                     /* events of cells whose handlers all ended */
    uint64_t unfinished;                    /* … of other cells */
    uint64_t last_cells; /* … of those that a consumer ended last before it died */
    uint64_t again;      /* events in cells that were marked */
    struct span *spans;
    uint32_t span_cnt, unknown;
};

/* ---- the log --------------------------------------------------------------------------------- */

static struct history_row row_load(const struct soak_row *from)
{
    uint32_t flags = shr_load32_relaxed(&from->flags);
    return (struct history_row){
        .serial = shr_load_relaxed(&from->serial),
        .number = shr_load_relaxed(&from->number),
        .position = shr_load_relaxed(&from->position),
        .producer = shr_load32_relaxed(&from->producer),
        .slot = shr_load32_relaxed(&from->slot),
        .bytes = shr_load32_relaxed(&from->bytes),
        .consumer = shr_load32_relaxed(&from->consumer),
        .whole = (flags & SOAK_WHOLE) != 0,
        .redelivered = (flags & SOAK_REDELIVERED) != 0,
        .finished = shr_load32_acquire(&from->ended) != 0,
    };
}

static void row_wrong(const struct history_row *row, const char *how)
{
    fail_msg("%s: position %llu, slot %u, number %llu (lane %u, serial %llu, %u bytes, "
             "consumer %u%s): %s",
             run.c->what, (unsigned long long)row->position, row->slot,
             (unsigned long long)row->number, row->producer, (unsigned long long)row->serial,
             row->bytes, row->consumer, row->redelivered ? ", redelivered" : "", how);
}

/* Where the handle was that published this event. */
static void stint_learn(struct window *w, const struct history_row *row)
{
    const struct history_note *note = &run.history.notes[row->producer][row->serial & run.mask];
    uint32_t number = shr_load32_relaxed(&note->stint);
    struct soak_stint *stint = &w->k->stint[row->producer][number % SOAK_STINTS];
    if (stint->slot != 0 && (stint->slot != row->slot || stint->base != row->number - row->serial))
        row_wrong(row, "a handle changed its slot, or its numbers jumped");
    *stint = (struct soak_stint){.base = row->number - row->serial, .slot = row->slot};
}

/* How often an event was in hand as a consumer died. */
static void check_attempt(const struct soak_check *k, const struct history_row *row,
                          uint32_t attempt)
{
    const struct history *h = &run.history;
    if (!row->redelivered)
        return;
    uint32_t before = row->position == h->position ? k->last_attempt : 1;
    uint32_t since = h->begun_any ? row->consumer - h->consumer : row->consumer;
    if (attempt <= before || attempt - before > since)
        row_wrong(row, "its attempt does not go with the deaths of consumers");
}

/* A cell of the log ends before row i: what it adds to the columns. */
static void cell_end(struct window *w, const struct history_row *last)
{
    const struct history *h = &run.history;
    bool whole = h->came == h->parts && h->finished;
    bool same = last != NULL && last->consumer == h->consumer;
    if (!h->begun_any)
        return;
    w->delivered += whole ? h->parts : 0;
    w->unfinished += whole ? 0 : h->parts;
    w->last_cells += whole && !same && h->consumer + 1 != w->started ? h->parts : 0;
    w->again += h->redelivered ? h->parts : 0;
    w->marked_first += h->redelivered;
}

static void read_log(struct window *w)
{
    struct history *h = &run.history;
    uint64_t cnt = shr_load_acquire(&soak->cnt);
    for (uint64_t i = 0; i < cnt; i++) {
        struct history_row row = row_load(&soak->row[i]);
        uint32_t attempt = shr_load32_relaxed(&soak->row[i].attempt);
        bool next = i == 0 || row.position != h->position || row.consumer != h->consumer;
        if (next && i != 0)
            cell_end(w, &row);
        if (next)
            check_attempt(w->k, &row, attempt);
        enum history_fault fault = history_add(h, &row);
        if (fault != HISTORY_FINE)
            row_wrong(&row, history_text(fault));
        w->k->last_attempt = attempt;
        stint_learn(w, &row);
    }
    if (cnt != 0)
        cell_end(w, NULL);
    for (uint32_t id = 0; id < SOAK_LANES; id++) {
        const struct ledger *ledger = &run.board->ledger[id];
        enum history_fault fault = history_pass(h, id, shr_load_acquire(&ledger->begun));
        if (fault != HISTORY_FINE)
            fail_msg("%s: lane %u, serial %llu: %s", run.c->what, id,
                     (unsigned long long)h->last[id] + 1, history_text(fault));
    }
    enum history_fault fault = history_end(h);
    if (fault != HISTORY_FINE)
        fail_msg("%s: at a quiet moment: %s", run.c->what, history_text(fault));
}

/* ---- the stints ------------------------------------------------------------------------------ */

static void spans_make(struct window *w)
{
    const struct history *h = &run.history;
    for (uint32_t id = 0; id < SOAK_LANES; id++) {
        uint32_t before = 0;
        for (uint64_t s = w->k->next[id]; s <= h->last[id]; s++) {
            const struct history_note *note = &h->notes[id][s & run.mask];
            uint32_t number = shr_load32_relaxed(&note->stint);
            const struct soak_stint *stint = &w->k->stint[id][number % SOAK_STINTS];
            if (number != before) {
                w->spans[w->span_cnt++] = (struct span){.slot = stint->slot,
                                                        .start = stint->base + s};
                w->unknown += stint->slot == 0;
            }
            before = number;
            struct span *span = &w->spans[w->span_cnt - 1];
            bool silent = shr_load32_relaxed(&note->silent) != 0;
            uint32_t fate = silent ? stress_plan(run.c, id, s).fate : PLAN_HEARD;
            if (shr_load_relaxed(&note->end_ns) != 0 || h->seen[id][s & run.mask] != 0) {
                span->certain++;
                span->fate[fate]++;
            } else {
                span->doubt++;
                span->doubt_fate = fate;
            }
        }
    }
}

static int span_order(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    if (x->slot != y->slot)
        return x->slot < y->slot ? -1 : 1;
    if (x->start != y->start)
        return x->start < y->start ? -1 : 1;
    /* A handle whose first call in the window was its last, and in vain, used no number. */
    return x->certain < y->certain ? -1 : x->certain > y->certain;
}

/* Decides for each call in doubt whether it was committed. */
static void spans_decide(struct window *w)
{
    uint64_t pool = 0, least = 0, most = 0;
    qsort(w->spans, w->span_cnt, sizeof(*w->spans), span_order);
    for (uint32_t i = 0; i < w->span_cnt; i++) {
        struct span *s = &w->spans[i], *before = i == 0 ? NULL : &w->spans[i - 1];
        if (s->slot == 0) {
            least += s->certain;
            most += s->certain + s->doubt;
            s->in = OPEN;
            continue;
        }
        bool first = before == NULL || before->slot != s->slot;
        uint64_t due = first ? w->k->marker[s->slot] + 1 : before->start + before->certain;
        uint64_t doubt = first ? 0 : before->doubt, gap = s->start - due;
        if (gap == 0)
            continue;
        if (gap == doubt && w->unknown == 0) {
            before->in = YES;
        } else if (w->unknown != 0 && (int64_t)gap > 0) {
            pool += gap;
            most += doubt;
            if (doubt != 0)
                before->in = OPEN;
        } else {
            fail_msg("%s: slot %u: number %llu came where %llu or %llu was due", run.c->what,
                     s->slot, (unsigned long long)s->start, (unsigned long long)due,
                     (unsigned long long)(due + doubt));
        }
    }
    if (pool < least || pool > most)
        fail_msg("%s: %llu numbers are nobody's, but %llu to %llu events are without a number",
                 run.c->what, (unsigned long long)pool, (unsigned long long)least,
                 (unsigned long long)most);
    w->k->unresolved += most - least;
}

/* ---- the account ----------------------------------------------------------------------------- */

static void column(const char *name, uint64_t bus, uint64_t least, uint64_t most)
{
    if (bus < least || bus > most)
        fail_msg("%s: %s: the bus says %llu, the ledgers say %llu to %llu", run.c->what, name,
                 (unsigned long long)bus, (unsigned long long)least, (unsigned long long)most);
}

static void same(const char *name, uint64_t bus, uint64_t ledger)
{
    column(name, bus, ledger, ledger);
}

static void check_kept(struct window *w, const struct geb_metrics *m, const struct geb_metrics *b,
                       uint64_t delivered)
{
    uint64_t least[3] = {0}, most[3] = {0};
    for (uint32_t i = 0; i < w->span_cnt; i++) {
        const struct span *s = &w->spans[i];
        for (uint32_t fate = 0; fate < 3; fate++) {
            least[fate] += s->fate[fate];
            most[fate] += s->fate[fate];
        }
        least[s->doubt_fate] += s->in == YES ? s->doubt : 0;
        most[s->doubt_fate] += s->in != NO ? s->doubt : 0;
    }
    same("delivered", m->delivered - b->delivered, delivered);
    same("delivered, by the notes", delivered, least[PLAN_HEARD]);
    column("expired", m->expired - b->expired, least[PLAN_EXPIRED], most[PLAN_EXPIRED]);
    column("unhandled", m->unhandled - b->unhandled, least[PLAN_UNWANTED], most[PLAN_UNWANTED]);
    same("dropped", m->dropped, 0);
    same("lost_in_crash", m->lost_in_crash, 0);
    column("redelivered", m->redelivered - b->redelivered, w->again,
           w->again + STRESS_BATCH * (uint64_t)(w->deaths + 1 - w->marked_first));
}

static void check_dropping(struct window *w, const struct geb_metrics *m,
                           const struct geb_metrics *b, uint64_t accepted)
{
    uint64_t delivered = m->delivered - b->delivered, dropped = m->dropped - b->dropped;
    uint64_t unseen = accepted - w->delivered - w->unfinished;
    column("delivered", delivered, w->delivered - w->last_cells, w->delivered);
    column("dropped", dropped,
           unseen - (unseen < w->deaths * STRESS_BATCH ? unseen : w->deaths * STRESS_BATCH),
           unseen);
    same("lost_in_crash", m->lost_in_crash - b->lost_in_crash,
         w->unfinished + (w->delivered - delivered) + (unseen - dropped));
    same("expired", m->expired, 0);
    same("unhandled", m->unhandled, 0);
    same("redelivered", m->redelivered, 0);
}

static void check_account(struct window *w, uint64_t delivered)
{
    struct geb_metrics m = GEB_METRICS_INIT, b = w->k->before;
    struct geb_watch *watch;
    uint64_t accepted = 0, opened = shr_load_acquire(&soak->opened);
    assert_int_equal(geb_watch(&watch, run.name), 0);
    assert_int_equal(geb_watch_metrics(watch, &m), 0);
    assert_int_equal(geb_unwatch(watch), 0);
    for (uint32_t slot = 1; slot <= run.history.slots; slot++)
        accepted += run.history.last_number[slot] - w->k->marker[slot];
    same("accepted", m.accepted - b.accepted, accepted);
    same("published", m.published, m.accepted);
    same("pending", m.pending, 0);
    same("cancelled", m.cancelled, 0);
    same("dead_lettered", m.dead_lettered, 0);
    same("the sum of the columns",
         m.delivered + m.dropped + m.expired + m.unhandled + m.lost_in_crash, m.accepted);
    same("errors", m.errors, 0);
    same("bad_bytes", m.bad_bytes, 0);
    column("restarts", m.restarts, opened - 1, w->started - 1);
    if (run.history.drops)
        check_dropping(w, &m, &b, accepted);
    else
        check_kept(w, &m, &b, delivered);
    w->k->before = m;
}

void soak_check_window(struct soak_check *k, uint32_t started)
{
    static struct span spans[SOAK_LANES * SOAK_STINTS];
    struct window w = {.k = k, .started = started, .deaths = started - k->started, .spans = spans};
    uint64_t delivered = 0;
    for (uint32_t id = 0; id < SOAK_LANES; id++)
        delivered -= run.history.delivered[id];
    read_log(&w);
    for (uint32_t id = 0; id < SOAK_LANES; id++)
        delivered += run.history.delivered[id];
    spans_make(&w);
    spans_decide(&w);
    check_account(&w, delivered);
    k->started = started;
    for (uint32_t slot = 1; slot <= run.history.slots; slot++)
        k->marker[slot] = run.history.last_number[slot];
    for (uint32_t id = 0; id < SOAK_LANES; id++) {
        uint32_t now = shr_load32_relaxed(&run.board->ledger[id].stints) % SOAK_STINTS;
        struct soak_stint stint = k->stint[id][now];
        memset(k->stint[id], 0, sizeof(k->stint[id]));
        k->stint[id][now] = stint; /* goes on beyond the quiet moment */
        k->next[id] = run.history.last[id] + 1;
        shr_store_release(&run.board->ledger[id].checked, run.history.last[id]);
    }
    shr_store_release(&soak->cnt, 0);
}
