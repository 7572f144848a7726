/* Goal: a repair from outside (geb_repair, geb doctor --fix) that is killed at any instruction
 * leaves a bus that the next repair brings to the same end.
 *
 * Method: a producer dies on a bus that has no consumer then, and leaves
 *   a claim   revoked by a taker, so that a cell is quarantined, beside an event in a block that
 *             was taken and a loan that is out
 *   a hand    of an event in a block that it dropped and did not free (drop-oldest)
 * A repairer is killed at instructions of its sweeps, with and without the consumer's role; they
 * contain the system calls that ask for locks. A second repair then has nothing left to wait for.
 * A new consumer gets what was committed, account and ledger agree, and after a lap every cell,
 * block, chunk and slot is as new. The quick form has drop-oldest alone. */
#include "tests/crash_support.h"

#include <signal.h>

STEP_CLOCK_GETTIME

enum left { LEFT_CLAIM, LEFT_HAND };
static const char *const left_text[] = {"claim", "hand"};

/* ---- the dead -------------------------------------------------------------------------------- */

static int die(void *user)
{
    struct crash_world *w = user;
    struct crash_sender *s = &w->victim;
    struct geb_loan loan;
    SUPPORT_CHECK(crash_join(w, s, CRASH_VICTIM) == 0);
    if (w->state == LEFT_HAND) {
        SUPPORT_CHECK(crash_half_drop(s, true) == 0);
    } else {
        SUPPORT_CHECK(crash_send(w, s, CRASH_SLAB) == 0);
        SUPPORT_CHECK(geb_loan(s->p, CRASH_BLOCK_BYTES, &loan) == 0);
        crash_half_claim(s, true);
    }
    return raise(SIGKILL);
}

static int setup(void *user)
{
    struct crash_world *w = user;
    CRASH_TRY(crash_create(w));
    for (int i = 0; w->state == LEFT_HAND && i < 3; i++)
        CRASH_EQUAL(crash_send(w, &w->other, CRASH_SLAB), 0);
    CRASH_EQUAL(support_wait(support_child(die, w)), -SIGKILL);
    if (w->state == LEFT_CLAIM) /* which revokes the claim, since this event waits behind it */
        CRASH_TRY(crash_send_and_poll(w, &w->other, CRASH_INLINE));
    CRASH_EQUAL(crash_close(w), 0);
    return 0;
}

/* ---- the repairer ---------------------------------------------------------------------------- */

static struct shr_map map;
static struct shr_lock sweep_lock, role;

static int prepare(void *user)
{
    struct crash_world *w = user;
    char path[SHR_PATH_BYTES];
    int rc = shr_segment_path(w->name, false, path);
    if (rc == 0)
        rc = shr_segment_attach(&map, path, true);
    if (rc == 0)
        rc = shr_lock_take(&map, SHR_LOCK_SWEEP, &sweep_lock);
    step_clock_steady();
    return rc;
}

static int region(void *user)
{
    (void)user;
    gebi_repair_sweep(&map, false);
    int rc = shr_lock_take(&map, SHR_CONSUMER_SLOT, &role);
    if (rc == 0)
        gebi_repair_sweep(&map, true);
    return rc;
}

/* ---- after it -------------------------------------------------------------------------------- */

static int check(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    struct geb_repair repair = GEB_REPAIR_INIT;
    uint64_t missing;
    (void)child;
    (void)k;
    CRASH_EQUAL(geb_repair(w->name, &repair), 0);
    CRASH_CHECK(!repair.consumer_lives && !repair.consumer_died);
    CRASH_EQUAL(repair.slots_left + repair.cells_left + repair.chunks_left, 0);
    CRASH_EQUAL(crash_open(w), 0);
    CRASH_TRY(crash_drain(w));
    CRASH_TRY(crash_blocks_free(w));
    CRASH_TRY(crash_go_on(w, &w->other, CRASH_SLAB, crash_laps(w, 1)));
    CRASH_TRY(crash_join_again(w, CRASH_LATE, CRASH_SLAB));
    CRASH_TRY(crash_end(w, &missing));
    CRASH_EQUAL(missing, w->state == LEFT_HAND);
    return 0;
}

int main(void)
{
    static struct crash_world w = {.slab_bytes = 4 * SHR_CHUNK_BYTES};
    struct step_scenario s = {.setup = setup,
                              .prepare = prepare,
                              .region = region,
                              .teardown = crash_teardown,
                              .user = &w,
                              .same = crash_same};
    crash_begin();
    for (int policy = 0; policy < (crash_quick() ? 1 : 3); policy++) {
        for (uint32_t left = LEFT_CLAIM; left <= LEFT_HAND; left++) {
            w.policy = (enum geb_policy)policy;
            w.state = left;
            if (left == LEFT_CLAIM || w.policy == GEB_DROP_OLDEST)
                crash_run(&s, STEP_KILL, check, "repair after a %s, %s", left_text[left],
                          support_policy_text[policy]);
        }
    }
    return crash_report("crash_repair");
}
