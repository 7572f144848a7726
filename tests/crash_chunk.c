/* Goal: a producer may be killed or stopped at any instruction as it takes slab chunks and gives
 * them back: every chunk comes back, no block has two users, others find memory.
 *
 * Method: as crash_publish.c and crash_stop.c, on the slow ways of one allocation:
 *   first    its first block: a chunk from the pool
 *   class    the pool is empty, and it owns an idle chunk of another class
 *   trim     it owns idle chunks, and gives back all but one
 *   runs     it owns an idle run
 *   orphan   the pool is empty, and a dead producer had a chunk: it sweeps slot and chunk. In
 *            exclusive mode that is the producer before it
 *   recall   the pool is empty, and another producer has an idle chunk: it asks that back
 * Whoever is stopped in the last one may find, when it goes on, that others took the memory: then
 * its publish says so, and publishes nothing. */
#include "tests/crash_support.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

STEP_CLOCK_GETTIME

/* Who died reclaiming keeps others from it for 2 ms: the test's clock goes this far ahead. */
#define HOLD_OFF_NS UINT64_C(10000000)

enum way { WAY_FIRST, WAY_CLASS, WAY_TRIM, WAY_RUNS, WAY_ORPHAN, WAY_RECALL };
static const char *const way_text[] = {"first", "class", "trim", "runs", "orphan", "recall"};

static enum way way(const struct crash_world *w)
{
    return (enum way)w->state;
}

/* Whole chunks that the others hold, or the victim itself where it is alone. */
static uint32_t hogged(const struct crash_world *w)
{
    switch (way(w)) {
    case WAY_CLASS:
    case WAY_ORPHAN:
        return w->map.geo.chunk_cnt - 1;
    case WAY_RECALL:
        return w->map.geo.chunk_cnt;
    default:
        return 0;
    }
}

static struct geb_loan hog[4];

static int take_hogs(const struct crash_world *w, struct crash_sender *s)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < hogged(w); i++)
        rc = geb_loan(s->p, SHR_CHUNK_BYTES, &hog[i]);
    return rc;
}

static int return_hogs(struct crash_world *w)
{
    for (uint32_t i = 0; i < 4; i++) {
        if (hog[i].handle != 0)
            CRASH_EQUAL(geb_return(w->other.p, &hog[i]), 0);
    }
    return 0;
}

/* A dead one in the last slot: `next` keeps it out of the one that the victim will get. */
static int let_last_die(struct crash_world *w)
{
    int rc = w->exclusive ? 0 : crash_join(w, &w->next, CRASH_SUCCESSOR);
    if (rc == 0)
        rc = crash_let_die(w, CRASH_DEAD_IDLE);
    return rc == 0 ? crash_leave(&w->next) : rc;
}

static int setup(void *user)
{
    struct crash_world *w = user;
    memset(hog, 0, sizeof(hog));
    int rc = crash_create(w);
    if (rc == 0 && way(w) == WAY_ORPHAN)
        rc = let_last_die(w);
    if (rc == 0 && !w->exclusive)
        rc = take_hogs(w, &w->other);
    if (rc == 0 && way(w) == WAY_RECALL)
        rc = geb_return(w->other.p, &hog[0]);
    return rc;
}

/* Chunks that the victim used, and that are idle now. */
static int own_idle(struct crash_sender *s, uint32_t cnt, size_t bytes)
{
    struct geb_loan loan[4];
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < cnt; i++)
        rc = geb_loan(s->p, bytes, &loan[i]);
    for (uint32_t i = 0; rc == 0 && i < cnt; i++)
        rc = geb_return(s->p, &loan[i]);
    return rc;
}

static int prepare(void *user)
{
    struct crash_world *w = user;
    struct crash_sender *s = &w->victim;
    int rc = crash_join(w, s, CRASH_VICTIM);
    if (rc == 0 && w->exclusive)
        rc = take_hogs(w, s);
    if (rc == 0 && way(w) == WAY_CLASS)
        rc = own_idle(s, 1, SHR_CHUNK_BYTES);
    if (rc == 0 && way(w) == WAY_TRIM)
        rc = own_idle(s, 3, SHR_CHUNK_BYTES);
    if (rc == 0 && way(w) == WAY_RUNS)
        rc = own_idle(s, 1, 2 * SHR_CHUNK_BYTES);
    /* The first use of the heap takes another way now and then. */
    void *volatile warm = malloc(64);
    free(warm);
    if (way(w) == WAY_TRIM && rc == 0)
        s->p->heap.trim_class = SHR_CLASS_CNT - 1; /* it comes round to it in the end */
    crash_compose(w, s, w->kind);
    step_clock_steady();
    return rc;
}

static int check_end(struct crash_world *w)
{
    CRASH_TRY(return_hogs(w));
    CRASH_TRY(crash_drain(w));
    return crash_end_of_victim(w, CRASH_SLAB, 0);
}

static int check_killed(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    struct shr_account account;
    (void)child;
    (void)k;
    step_clock_set_ahead(HOLD_OFF_NS);
    CRASH_TRY(crash_settle(w, w->kind, &account));
    CRASH_EQUAL(account.dropped, 0);
    if (w->exclusive || w->variant) { /* its memory, before the consumer sweeps */
        CRASH_TRY(return_hogs(w));
        CRASH_EQUAL(crash_join(w, &w->next, CRASH_SUCCESSOR), 0);
        CRASH_EQUAL(crash_send(w, &w->next, CRASH_INLINE), 0);
        /* The chunk of an event that the dead published comes back behind it. */
        CRASH_TRY(crash_drain(w));
        CRASH_EQUAL(crash_send(w, &w->next, w->kind), 0);
    }
    CRASH_TRY(crash_go_on(w, crash_test_sender(w), CRASH_INLINE, crash_laps(w, 2)));
    CRASH_EQUAL(crash_leave(&w->next), 0);
    return check_end(w);
}

static int check_stopped(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    int status;
    (void)k;
    if (!w->exclusive) {
        CRASH_TRY(crash_beside(w, &w->other, CRASH_INLINE, crash_stop_events() / 2));
        /* From what is left: the one that is stopped pins no chunk of the others. */
        CRASH_TRY(return_hogs(w));
        CRASH_TRY(crash_beside(w, &w->other, CRASH_SLAB, crash_stop_events() / 2));
    }
    CRASH_EQUAL(step_resume(child), 0);
    CRASH_EQUAL(step_wait(child, &status), 0);
    bool published = status == 0;
    CRASH_CHECK(published ||
                (way(w) >= WAY_ORPHAN && WIFEXITED(status) && WEXITSTATUS(status) == ENOBUFS));
    CRASH_TRY(crash_settle(w, w->kind, NULL));
    CRASH_EQUAL(w->ledger->sent[CRASH_VICTIM], published);
    CRASH_TRY(crash_drain(w));
    CRASH_EQUAL(w->ledger->ended[CRASH_VICTIM][1], published);
    return check_end(w);
}

/* Scans of headers are thousands of instructions, so kills are where something differs, and each
 * way is stopped in under one policy: the policy matters only when there is no memory. */
static void run(struct crash_world *w, struct step_scenario *s)
{
    for (uint32_t bus = 0; bus < CRASH_BUSES; bus++) {
        crash_choose_bus(w, bus);
        bool slow = way(w) >= WAY_ORPHAN;
        bool chosen = w->policy == (slow ? GEB_RETURN_ERROR : (w->state + w->exclusive) % 3);
        w->variant = w->policy == GEB_BLOCK;
        if ((w->exclusive && way(w) == WAY_RECALL) || (!chosen && crash_quick()))
            continue;
        crash_run(s, STEP_KILL, check_killed, "killed in %s, %s", way_text[w->state],
                  crash_bus_text(w));
        if (chosen)
            crash_run(s, STEP_STOP, check_stopped, "stopped in %s, %s", way_text[w->state],
                      crash_bus_text(w));
    }
}

int main(void)
{
    static struct crash_world w = {
        .producers = 3, .slab_bytes = 4 * SHR_CHUNK_BYTES, .max_event = 2 * SHR_CHUNK_BYTES};
    struct step_scenario s = {.setup = setup,
                              .prepare = prepare,
                              .region = crash_victim_publishes,
                              .finish = crash_victim_leaves,
                              .teardown = crash_teardown,
                              .same = crash_same,
                              .skip_private = true,
                              .user = &w};
    crash_begin();
    for (w.state = WAY_FIRST; w.state <= WAY_RECALL; w.state++) {
        w.kind = way(&w) == WAY_TRIM ? CRASH_BIG : CRASH_SLAB;
        run(&w, &s);
    }
    return crash_report("crash_chunk");
}
