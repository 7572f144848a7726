/* Goal: whatever a taker was about when others lapped it and it was killed, its hand does no harm:
 * it never names an event that it did not look at, so no event that waits loses its block or its
 * place in the account.
 *
 * Method: on a small drop-oldest bus that is full of events in blocks, a child is stopped at each
 * instruction of
 *   drop      a publish that must drop first
 *   take      one geb_dispatch(bus, 1) of the consumer.
 * Others then publish exactly two laps, so the cell that the child was looking at holds an event
 * that waits. The child is stepped on until its hand says something, if it soon does, and killed
 * there. After the sweep, or by the next consumer, the events that waited are all handled, and
 * account and ledger agree. */
#include "tests/crash_support.h"

STEP_CLOCK_GETTIME

#define WAITING  4u   /* the capacity of the bus */
#define UP_STEPS 400u /* from a look at a cell to the hand it is less */

/* Two laps, the even ones by `other`. The last WAITING events are in the ring then. */
static int lap_twice(struct crash_world *w)
{
    for (uint32_t i = 0; i < 2 * w->map.geo.cell_cnt; i++)
        CRASH_EQUAL(crash_send(w, i % 2 == 0 || w->next.p == NULL ? &w->other : &w->next, w->kind),
                    0);
    return 0;
}

/* Lets the child go on until its hand names a position, and kills it. */
static int kill_with_hand_up(struct step_child *child, size_t k, const struct shr_hand *hand)
{
    for (size_t i = 1; i < UP_STEPS && shr_load_relaxed(&hand->pos) == 0; i++) {
        int rc = step_reach(child, NULL, k + i);
        CRASH_CHECK(rc == 0 || rc == 1);
        if (rc != 0)
            break;
    }
    CRASH_EQUAL(step_kill(child), 0);
    return 0;
}

/* The events that were in the ring at the end. */
static int check_waiting(const struct crash_world *w, const struct crash_sender *s, uint32_t cnt)
{
    uint32_t sent = w->ledger->sent[s->who];
    for (uint32_t seq = sent - cnt + 1; seq <= sent; seq++)
        CRASH_EQUAL(w->ledger->ended[s->who][seq], 1);
    CRASH_EQUAL(shr_load_relaxed(&w->map.peers[SHR_CONSUMER_SLOT].bad_bytes), 0);
    return 0;
}

/* ---- a producer that drops ------------------------------------------------------------------- */

static int setup_drop(void *user)
{
    struct crash_world *w = user;
    int rc = crash_create(w);
    for (uint32_t i = 0; rc == 0 && i < WAITING; i++)
        rc = crash_send(w, &w->other, w->kind);
    return rc;
}

static int prepare_drop(void *user)
{
    struct crash_world *w = user;
    return crash_prepare_sender(w, &w->victim, CRASH_VICTIM, 0, CRASH_INLINE);
}

static int region_drop(void *user)
{
    struct crash_world *w = user;
    return crash_publish_now(&w->victim, CRASH_INLINE);
}

static int check_drop(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    struct shr_account account;
    uint64_t waiting, missing;
    CRASH_TRY(lap_twice(w));
    /* One less than the capacity if the cell of a claim of the child is in quarantine. */
    CRASH_TRY(crash_account(w, &account, NULL));
    waiting = account.pending;
    CRASH_CHECK(waiting == WAITING || waiting == WAITING - 1);
    CRASH_TRY(kill_with_hand_up(child, k, &w->map.peers[w->victim_slot].hand));
    CRASH_TRY(crash_settle(w, CRASH_INLINE, NULL));
    crash_sweep(w);
    CRASH_TRY(crash_drain(w));
    CRASH_TRY(check_waiting(w, &w->other, (uint32_t)waiting));
    CRASH_TRY(crash_go_on(w, &w->other, w->kind, crash_laps(w, 2)));
    crash_sweep(w);
    CRASH_TRY(crash_blocks_free(w));
    CRASH_TRY(crash_go_on(w, &w->other, w->kind, w->map.geo.cell_cnt));
    return crash_end(w, &missing);
}

/* ---- the consumer ---------------------------------------------------------------------------- */

static int setup_take(void *user)
{
    struct crash_world *w = user;
    int rc = crash_create(w);
    if (rc == 0)
        rc = crash_join(w, &w->next, CRASH_SUCCESSOR);
    if (rc == 0)
        rc = crash_close(w);
    for (uint32_t i = 0; rc == 0 && i < WAITING; i++)
        rc = crash_send(w, &w->other, w->kind);
    return rc;
}

static int prepare_take(void *user)
{
    struct crash_world *w = user;
    int rc = crash_open(w);
    if (rc == 0)
        rc = gebi_flatten(w->bus);
    step_clock_steady();
    return rc;
}

static int region_take(void *user)
{
    struct crash_world *w = user;
    return geb_dispatch(w->bus, 1) == 1 ? 0 : -EIO;
}

/* At most the one event that the dead consumer had taken is lost. */
static int check_books(struct crash_world *w)
{
    struct shr_account account;
    struct crash_sum sum;
    CRASH_TRY(crash_account_agrees(w, &account));
    CRASH_TRY(crash_sum(w, &sum));
    uint64_t lost = account.col[SHR_COL_LOST_IN_CRASH];
    uint64_t delivered = account.col[SHR_COL_DELIVERED];
    CRASH_CHECK(lost <= 1 && sum.broken <= 1);
    CRASH_CHECK(delivered <= sum.handled && sum.handled <= delivered + lost);
    CRASH_EQUAL(delivered + lost + account.dropped, account.accepted);
    CRASH_EQUAL(account.pending, 0);
    CRASH_EQUAL(sum.again, 0);
    return 0;
}

static int check_take(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    CRASH_TRY(lap_twice(w));
    CRASH_TRY(kill_with_hand_up(child, k, &w->map.hands[0]));
    CRASH_EQUAL(crash_open(w), 0);
    CRASH_TRY(crash_drain(w));
    CRASH_TRY(check_waiting(w, &w->other, WAITING / 2));
    CRASH_TRY(check_waiting(w, &w->next, WAITING / 2));
    CRASH_TRY(crash_blocks_free(w));
    CRASH_TRY(crash_go_on(w, &w->other, w->kind, crash_laps(w, 2)));
    CRASH_TRY(crash_leave_clean(w));
    return check_books(w);
}

/* ---- all of them ----------------------------------------------------------------------------- */

int main(void)
{
    static struct crash_world w = {.policy = GEB_DROP_OLDEST, .slab_bytes = 4 * SHR_CHUNK_BYTES};
    struct step_scenario drop = {.setup = setup_drop,
                                 .prepare = prepare_drop,
                                 .region = region_drop,
                                 .teardown = crash_teardown,
                                 .user = &w};
    struct step_scenario take = {.setup = setup_take,
                                 .prepare = prepare_take,
                                 .region = region_take,
                                 .teardown = crash_teardown,
                                 .user = &w};
    crash_begin();
    w.kind = CRASH_SLAB;
    crash_run(&drop, STEP_STOP, check_drop, "lapped in drop");
    crash_run(&take, STEP_STOP, check_take, "lapped in take");
    return crash_report("crash_hand");
}
