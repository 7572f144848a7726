/* Goal: a producer that is killed at any instruction of a publish takes nothing with it and leaves
 * nothing behind.
 *
 * Method: on the smallest bus, beyond its first lap, a child publishes two events and is killed at
 * each instruction of the third call in turn: an event in line, in a block, in a run of chunks, a
 * batch, a loan that is committed, one that is returned; under each policy, shared and exclusive.
 * Then the test's own producer and consumer go on for several laps, and everything is compared with
 * the ledger (crash_support.h):
 *   - what the victim had committed, and what others commit, is handled once, in order, whole;
 *   - the killed call's events are handled once if they were accepted, else never;
 *   - no event waits for more than two patiences of polls;
 *   - cells, blocks, chunks, hand, claim and slot are back.
 * Who settles the claim is either the consumer's sweep, or the next owner of the slot as it joins
 * before the consumer looks ("joined first"; always so in exclusive mode). */
#include "tests/crash_support.h"

STEP_CLOCK_GETTIME

static int prepare(void *user)
{
    struct crash_world *w = user;
    int rc = crash_join(w, &w->victim, CRASH_VICTIM);
    if (rc == 0)
        rc = crash_send(w, &w->victim, w->kind);
    if (rc == 0)
        rc = crash_send(w, &w->victim, CRASH_INLINE);
    if (rc == 0)
        crash_compose(w, &w->victim, w->kind);
    step_clock_steady();
    return rc;
}

/* A run finds room only when the victim's is back; until then others send in line. */
static enum crash_kind kind_of_others(const struct crash_world *w)
{
    return w->kind == CRASH_RUN || w->kind == CRASH_LONG ? CRASH_INLINE : w->kind;
}

static int check(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    struct shr_account account;
    (void)child;
    (void)k;
    CRASH_TRY(crash_settle(w, w->kind, &account));
    CRASH_EQUAL(account.dropped, 0);
    CRASH_EQUAL(account.pending, w->ledger->sent[CRASH_VICTIM]);
    if (w->exclusive || w->variant) {
        CRASH_EQUAL(crash_join(w, &w->next, CRASH_SUCCESSOR), 0);
        CRASH_EQUAL(w->next.p->slot, w->victim_slot);
        /* What the dead published still waits: its memory must not be given to anybody. */
        crash_sweep(w);
        CRASH_EQUAL(crash_send(w, &w->next, kind_of_others(w)), 0);
        CRASH_TRY(crash_drain(w));
        CRASH_TRY(crash_send_and_poll(w, &w->next, CRASH_INLINE));
    }
    CRASH_TRY(crash_go_on(w, crash_test_sender(w), kind_of_others(w), crash_laps(w, 2)));
    CRASH_EQUAL(crash_leave(&w->next), 0);
    return crash_end_of_victim(w, kind_of_others(w), 0);
}

static void run(struct crash_world *w, struct step_scenario *s, enum crash_kind kind)
{
    const char *const modes[] = {"shared", "shared, joined first", "exclusive"};
    for (int policy = 0; policy < 3; policy++) {
        for (int mode = 0; mode < 3; mode++) {
            /* Copying 100 KiB is a string instruction of as many steps: once in the quick form. */
            bool costly = kind == CRASH_RUN && (policy != GEB_BLOCK || mode != 0);
            if (costly && crash_quick())
                continue;
            w->kind = kind;
            w->policy = (enum geb_policy)policy;
            w->exclusive = mode == 2;
            w->variant = mode == 1;
            crash_run(s, STEP_KILL, check, "publish %s, %s, %s", crash_kind_text[kind],
                      support_policy_text[policy], modes[mode]);
        }
    }
}

int main(void)
{
    /* A chunk for each of three producers: the dead one's comes back later. */
    static struct crash_world w = {.slab_bytes = 3 * SHR_CHUNK_BYTES};
    struct step_scenario s = {.setup = crash_setup,
                              .prepare = prepare,
                              .region = crash_victim_publishes,
                              .teardown = crash_teardown,
                              .user = &w};
    const enum crash_kind kinds[] = {CRASH_INLINE, CRASH_SHORT,  CRASH_SLAB, CRASH_BATCH3,
                                     CRASH_LOAN,   CRASH_RETURN, CRASH_LONG, CRASH_RUN};
    crash_begin();
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        run(&w, &s, kinds[i]);
    printf("an event waited for %u polls at most\n", w.most_polls);
    return crash_report("crash_publish");
}
