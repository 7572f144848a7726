/* Goal: a consumer that is killed at any instruction loses nothing that was committed: its
 * successor goes on at the right event, and every event ends in one column of the account.
 *
 * Method: producers fill a small bus, a child opens it and is killed at each instruction of one
 * geb_dispatch(bus, 1) in turn: take, handler, finish, free of the block, done. The event is in
 * line, in a block or a batch of which one event has no handler; "after drops": numbers are missing
 * in front of it. The handler notes in the ledger that it began and ended. Account and ledger are
 * compared before a successor comes and after it has drained:
 *   block, return-error   all are handled; again at most the events in hand, marked, and only if
 *                         they were not finished
 *   drop-oldest           nothing is handed out again; the cell in hand is handled or counted as
 *                         lost in the crash
 *
 * crash_dispatch.c has several cells of other outcomes, crash_resume.c what comes after a death. */
#include "tests/crash_death.h"

#include <string.h>

STEP_CLOCK_GETTIME

static bool finished_before; /* by the account, as the child was dead */
static uint32_t hand_seq;    /* first number of the cell that the dead had in hand */

/* A full ring without a consumer: one event in line, then the one that will be in hand. After
 * drops, two more came first. */
static int setup(void *user)
{
    struct crash_world *w = user;
    struct crash_sender *s = crash_test_sender(w);
    int rc = crash_death_setup(w);
    for (int i = 0; rc == 0 && i < (w->variant ? 2 : 1); i++)
        rc = crash_send(w, s, CRASH_INLINE);
    hand_seq = w->ledger->sent[s->who] + 1;
    for (int i = 0; rc == 0 && i < (w->variant ? 4 : 3); i++)
        rc = crash_send(w, s, i % 2 == 0 ? w->kind : CRASH_INLINE);
    return rc;
}

static int prepare(void *user)
{
    struct crash_world *w = user;
    int rc = crash_open(w);
    if (rc == 0)
        rc = gebi_flatten(w->bus);
    if (rc == 0 && !w->variant && geb_dispatch(w->bus, 1) != 1)
        rc = -EIO;
    step_clock_steady();
    return rc;
}

static int region(void *user)
{
    struct crash_world *w = user;
    return geb_dispatch(w->bus, 1) == 1 ? 0 : -EIO;
}

/* ---- checks ---------------------------------------------------------------------------------- */

static uint64_t events_in_hand(const struct crash_world *w)
{
    return crash_events(w->kind);
}

static uint64_t dropped_before(const struct crash_world *w)
{
    return w->variant ? 2 : 0;
}

/* The account of a bus whose consumer is dead, against the ledger. */
static int check_dead(struct crash_world *w)
{
    struct shr_account account;
    struct crash_sum sum;
    CRASH_TRY(crash_account_agrees(w, &account));
    CRASH_TRY(crash_sum(w, &sum));
    uint64_t delivered = account.col[SHR_COL_DELIVERED];
    uint64_t finished = delivered + account.col[SHR_COL_UNHANDLED];
    uint64_t others = hand_seq - 1 - dropped_before(w);
    if (w->exclusive) /* what `other` sent while the bus was made */
        others += w->ledger->sent[CRASH_OTHER];
    CRASH_CHECK(delivered <= sum.handled);
    CRASH_CHECK(finished == others || finished == others + events_in_hand(w));
    CRASH_CHECK(sum.broken <= 1);
    CRASH_EQUAL(account.dropped, dropped_before(w));
    CRASH_CHECK(account.col[SHR_COL_LOST_IN_CRASH] <= events_in_hand(w));
    finished_before = finished != others;
    return 0;
}

/* The cell that was in hand, as the ledger has it in the end. */
static int check_hand(struct crash_world *w, const uint8_t begun_dead[CRASH_BATCH], bool lost)
{
    const struct crash_ledger *l = w->ledger;
    uint32_t who = crash_test_sender(w)->who;
    for (uint32_t i = 0; i < events_in_hand(w); i++) {
        uint32_t seq = hand_seq + i;
        if (l->silent[who][seq])
            continue;
        uint32_t after = (uint32_t)(l->begun[who][seq] - begun_dead[i]);
        if (finished_before || lost)
            CRASH_EQUAL(after, 0);
        else
            CRASH_EQUAL(after, 1);
        if (begun_dead[i] != 0 && after != 0)
            CRASH_CHECK(l->again[who][seq] != 0);
        CRASH_CHECK(lost || l->ended[who][seq] != 0);
    }
    return 0;
}

static int check_end(struct crash_world *w, const uint8_t begun_dead[CRASH_BATCH])
{
    struct shr_account account;
    struct crash_sum sum;
    CRASH_TRY(crash_account_agrees(w, &account));
    CRASH_TRY(crash_sum(w, &sum));
    uint64_t lost = account.col[SHR_COL_LOST_IN_CRASH];
    CRASH_EQUAL(account.pending, 0);
    CRASH_EQUAL(account.dropped, dropped_before(w));
    CRASH_EQUAL(account.col[SHR_COL_DELIVERED] + account.col[SHR_COL_UNHANDLED] + lost +
                    account.dropped,
                account.accepted);
    CRASH_CHECK(lost == 0 || lost == events_in_hand(w));
    if (w->policy == GEB_DROP_OLDEST) {
        CRASH_EQUAL(sum.again, 0);
        CRASH_CHECK(lost == 0 || !finished_before);
    } else {
        CRASH_EQUAL(lost, 0);
        CRASH_CHECK(sum.again <= events_in_hand(w));
        CRASH_CHECK(!finished_before || sum.again == 0);
    }
    if (lost == 0)
        CRASH_EQUAL(sum.missing, dropped_before(w));
    return check_hand(w, begun_dead, lost != 0);
}

static int check(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    uint8_t begun_dead[CRASH_BATCH];
    (void)child;
    (void)k;
    memcpy(begun_dead, &w->ledger->begun[crash_test_sender(w)->who][hand_seq], CRASH_BATCH);
    CRASH_TRY(check_dead(w));
    CRASH_EQUAL(crash_open(w), 0);
    CRASH_TRY(crash_drain(w));
    CRASH_TRY(check_end(w, begun_dead));
    CRASH_TRY(crash_blocks_free(w));
    CRASH_TRY(crash_go_on(w, crash_test_sender(w), CRASH_SLAB, crash_laps(w, 2)));
    CRASH_TRY(crash_leave_clean(w));
    return check_end(w, begun_dead);
}

/* ---- all of them ----------------------------------------------------------------------------- */

static void run_take(struct crash_world *w)
{
    const enum crash_kind kinds[] = {CRASH_INLINE, CRASH_SLAB, CRASH_BATCH3};
    struct step_scenario s = {.setup = setup,
                              .prepare = prepare,
                              .region = region,
                              .teardown = crash_teardown,
                              .user = w};
    for (int i = 0; i < 3; i++) {
        w->kind = kinds[i];
        for (int mode = 0; mode < 3; mode++) {
            w->exclusive = mode == 1;
            w->variant = mode == 2;
            if (w->variant && w->policy != GEB_DROP_OLDEST)
                continue;
            crash_run(&s, STEP_KILL, check, "take %s, %s, %s", crash_kind_text[w->kind],
                      support_policy_text[w->policy],
                      mode == 0   ? "shared"
                      : mode == 1 ? "exclusive"
                                  : "after drops");
        }
    }
}

int main(void)
{
    static struct crash_world w = {.slab_bytes = 4 * SHR_CHUNK_BYTES};
    crash_begin();
    for (int policy = 0; policy < 3; policy++) {
        w.policy = (enum geb_policy)policy;
        run_take(&w);
    }
    return crash_report("crash_take");
}
