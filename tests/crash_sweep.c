/* Goal: a consumer that is killed at any instruction while it looks after the dead leaves nothing
 * that its successor cannot finish: cells, slots, hands, chunks and event numbers come back once.
 *
 * Method: a producer dies and leaves one of the states below. A consumer is killed at each
 * instruction of: sweep, handling what waits, sweep again (an orphaned chunk comes back only when
 * all before it is taken). A successor does the same; then everything must be back, and the account
 * agree with the ledger. */
#include "tests/crash_death.h"

#include "shmring/slab.h"

#include <errno.h>
#include <signal.h>

STEP_CLOCK_GETTIME

enum left {
    LEFT_CLAIM,   /* a claimed cell, uncommitted */
    LEFT_COMMIT,  /* a committed event that it had not counted */
    LEFT_REVOKED, /* a claimed cell, revoked by the consumer */
    LEFT_MEMORY,  /* an event in a block, a loan, and asleep on a full bus */
    LEFT_HAND,    /* drop-oldest: an event taken, whose block only its hand names */
    LEFT_MARKED,  /* block, return-error: the same hand, but the event is in the ring yet */
    LEFT_CNT,
};
static const char *const left_text[LEFT_CNT] = {
    "claim", "uncounted commit", "revoked cell", "memory", "hand", "hand of a waiting event"};

static void claim(struct crash_world *w, bool commit)
{
    uint64_t words[SHR_CELL_WORDS];
    struct shr_writer *writer = &w->victim.p->writer;
    crash_death_words(w, &w->victim, words);
    uint64_t pos = writer->next;
    if (!w->exclusive) {
        crash_half_claim(&w->victim, true);
        pos = shr_load_relaxed(&writer->peer->busy) >> 1;
    }
    struct shr_cell *cell = shr_cell_at(&writer->ring, pos);
    shr_fill(cell, words);
    if (commit)
        shr_store_release(&cell->state, shr_state(pos, SHR_TAG_READY));
}

static int victim(void *arg)
{
    struct crash_world *w = arg;
    struct crash_sender *v = &w->victim;
    SUPPORT_CHECK(crash_join(w, v, CRASH_VICTIM) == 0);
    if (w->exclusive) /* no other has done so */
        SUPPORT_CHECK(crash_send(w, v, CRASH_SLAB) == 0);
    switch ((enum left)w->state) {
    case LEFT_MEMORY:
        SUPPORT_CHECK(crash_send(w, v, CRASH_SLAB) == 0);
        SUPPORT_CHECK(geb_loan(v->p, 500, &v->loan) == 0);
        shr_store32_relaxed(&v->p->writer.peer->waiting, SHR_WAIT_SPACE);
        break;
    case LEFT_HAND:
    case LEFT_MARKED:
        SUPPORT_CHECK(crash_half_drop(v, w->state == LEFT_HAND) == 0);
        break;
    default:
        claim(w, w->state == LEFT_COMMIT);
    }
    return raise(SIGKILL);
}

/* The consumer is the test's until the region begins. */
static int setup(void *user)
{
    struct crash_world *w = user;
    int rc = crash_create(w);
    if (rc == 0)
        rc = crash_death_handlers(w);
    if (rc == 0 && !w->exclusive)
        rc = crash_send(w, &w->other, CRASH_SLAB);
    if (rc == 0 && support_wait(support_child(victim, w)) != -SIGKILL)
        rc = -EIO;
    if (rc == 0)
        rc = crash_settle(w, CRASH_INLINE, NULL);
    if (rc == 0 && !w->exclusive)
        rc = crash_send(w, &w->other, CRASH_INLINE);
    if (rc == 0 && w->state == LEFT_REVOKED)
        rc = crash_drain(w);
    return rc == 0 ? crash_close(w) : rc;
}

static int prepare(void *user)
{
    struct crash_world *w = user;
    int rc = crash_death_open(w);
    if (rc == 0)
        rc = gebi_flatten(w->bus);
    step_clock_steady();
    return rc;
}

static int region(void *user)
{
    struct crash_world *w = user;
    crash_sweep(w);
    crash_poll(w);
    crash_sweep(w);
    return 0;
}

static int check(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    struct crash_death death = {.in_hand = 1};
    (void)child;
    (void)k;
    CRASH_TRY(crash_death_note(w, &death));
    CRASH_EQUAL(crash_death_open(w), 0);
    crash_sweep(w);
    CRASH_TRY(crash_drain(w));
    crash_sweep(w);
    CRASH_TRY(crash_death_check(w, &death));
    CRASH_EQUAL(shr_load_acquire(&w->map.hot->head), shr_load_acquire(&w->map.hot->tail));
    if (w->exclusive)
        CRASH_EQUAL(crash_join(w, &w->next, CRASH_SUCCESSOR), 0);
    CRASH_TRY(crash_death_end(w, &death));
    /* Its slot can be had again, and its number goes on. */
    struct crash_sender late;
    for (int i = w->exclusive; i < 2; i++) {
        CRASH_EQUAL(crash_join(w, i == 0 ? &w->other : &late, i == 0 ? CRASH_OTHER : CRASH_LATE),
                    0);
    }
    CRASH_EQUAL(late.p->slot, w->victim_slot);
    CRASH_TRY(crash_send_and_poll(w, &late, CRASH_SLAB));
    CRASH_EQUAL(crash_leave(&late), 0);
    return crash_death_check(w, &death);
}

int main(void)
{
    static struct crash_world w = {.slab_bytes = 2 * SHR_CHUNK_BYTES};
    struct step_scenario s = {.setup = setup,
                              .prepare = prepare,
                              .region = region,
                              .teardown = crash_teardown,
                              .user = &w,
                              .same = crash_same};
    crash_begin();
    for (int policy = 0; policy < 3; policy++) {
        w.policy = (enum geb_policy)policy;
        for (uint32_t left = 0; left < LEFT_CNT; left++) {
            w.state = left;
            if (left >= LEFT_HAND && (left == LEFT_HAND) != (w.policy == GEB_DROP_OLDEST))
                continue;
            for (int exclusive = 0; exclusive < 2; exclusive++) {
                w.exclusive = exclusive != 0;
                if (w.exclusive && (left == LEFT_CLAIM || left == LEFT_REVOKED))
                    continue; /* it claims nothing: READY is its claim */
                crash_run(&s, STEP_KILL, check, "sweep of a %s, %s", left_text[left],
                          crash_bus_text(&w));
            }
        }
    }
    return crash_report("crash_sweep");
}
