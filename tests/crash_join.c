/* Goal: a producer may be killed or stopped at any instruction as it joins and as it leaves: the
 * others go on, the slot and all that was in it come back, and who was stopped joins or leaves as
 * if nothing had happened.
 *
 * Method: a child is killed, or stopped, at each instruction of geb_join or geb_leave.
 *   join    of a slot that is clean, or that a dead producer left: with a block that nobody knows,
 *           an exact or inexact claim, a commit that was not counted, or a dropped event in its
 *           hand. So this is the sweep by a joiner too. "Swept first": the consumer sweeps before
 *           the next joiner comes; otherwise that joiner does.
 *   leave   with nothing, with a published event in a block or in a run, with an idle chunk.
 * While the child is stopped, another producer publishes a thousand events (a hundred in the quick
 * form), and somebody else tries to join: it gets the slot, or is told that it is in use. Then the
 * child goes on; as it has joined it publishes an event, which is handled once. In the end ledger
 * and segment are compared as in crash_publish.c. */
#include "tests/crash_support.h"

STEP_CLOCK_GETTIME

static const char *const dead_text[] = {"clean",        "of an idle one",
                                        "with a claim", "with a claim that is not exact",
                                        "not counted",  "with a hand"};

static bool leaves; /* the region is geb_leave */

static enum crash_dead dead(const struct crash_world *w)
{
    return (enum crash_dead)w->state;
}

static int setup(void *user)
{
    struct crash_world *w = user;
    int rc = crash_create(w);
    if (rc == 0 && dead(w) == CRASH_DEAD_HAND)
        rc = crash_send(w, &w->other, CRASH_SLAB);
    return rc == 0 ? crash_let_die(w, dead(w)) : rc;
}

static int prepare(void *user)
{
    struct crash_world *w = user;
    int rc = 0;
    if (leaves)
        rc = crash_join(w, &w->victim, CRASH_VICTIM);
    if (rc == 0 && leaves)
        rc = crash_send(w, &w->victim, w->kind);
    step_clock_steady();
    return rc;
}

static int region(void *user)
{
    struct crash_world *w = user;
    return leaves ? geb_leave(w->victim.p) : geb_join(&w->victim.p, w->name, "crash");
}

static int finish(void *user)
{
    struct crash_world *w = user;
    struct crash_sender *s = &w->victim;
    if (leaves)
        return 0;
    s->who = CRASH_VICTIM;
    int rc = geb_topic(s->p, "events", &s->topic);
    if (rc == 0)
        rc = geb_topic(s->p, "nobody", &s->nobody);
    if (rc == 0)
        crash_compose(w, s, CRASH_INLINE);
    if (rc == 0)
        rc = crash_publish_now(s, CRASH_INLINE);
    return rc == 0 ? geb_leave(s->p) : rc;
}

static enum crash_kind kind_of_others(const struct crash_world *w)
{
    return w->kind == CRASH_LONG ? CRASH_INLINE : CRASH_SLAB;
}

static int check_killed(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    struct shr_account account;
    uint32_t sent = w->ledger->sent[CRASH_VICTIM];
    (void)child;
    (void)k;
    CRASH_TRY(crash_settle(w, w->kind, &account));
    CRASH_EQUAL(w->ledger->sent[CRASH_VICTIM], sent);
    CRASH_EQUAL(account.pending, sent);
    if (!w->variant) {
        CRASH_EQUAL(crash_join(w, &w->next, CRASH_SUCCESSOR), 0);
        CRASH_EQUAL(w->next.p->slot, w->victim_slot);
        CRASH_EQUAL(crash_send(w, &w->next, CRASH_INLINE), 0);
        CRASH_TRY(crash_drain(w));
        CRASH_EQUAL(crash_leave(&w->next), 0);
    }
    crash_sweep(w);
    CRASH_TRY(crash_drain(w));
    if (!w->exclusive)
        CRASH_TRY(crash_go_on(w, &w->other, kind_of_others(w), crash_laps(w, 2)));
    return crash_end_of_victim(w, kind_of_others(w), dead(w) == CRASH_DEAD_HAND);
}

/* Somebody else wants the slot, while the child may have it. */
static int check_rival(struct crash_world *w)
{
    int rc = crash_join(w, &w->next, CRASH_SUCCESSOR);
    CRASH_CHECK(rc == 0 || rc == (w->exclusive ? -EBUSY : -EUSERS));
    if (rc != 0)
        return 0;
    CRASH_EQUAL(w->next.p->slot, w->victim_slot);
    CRASH_TRY(crash_beside(w, &w->next, CRASH_INLINE, w->exclusive ? crash_stop_events() : 1));
    CRASH_EQUAL(crash_leave(&w->next), 0);
    return 0;
}

static int check_stopped(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    uint32_t sent = w->ledger->sent[CRASH_VICTIM];
    (void)k;
    CRASH_TRY(check_rival(w));
    if (!w->exclusive)
        CRASH_TRY(crash_beside(w, &w->other, kind_of_others(w), crash_stop_events()));
    CRASH_EQUAL(step_to_end(child), 0);
    CRASH_TRY(crash_settle(w, CRASH_INLINE, NULL));
    CRASH_EQUAL(w->ledger->sent[CRASH_VICTIM], sent + !leaves);
    CRASH_TRY(crash_drain(w));
    CRASH_EQUAL(w->ledger->ended[CRASH_VICTIM][w->ledger->sent[CRASH_VICTIM]], sent + !leaves != 0);
    return crash_end_of_victim(w, kind_of_others(w), dead(w) == CRASH_DEAD_HAND);
}

static void run(struct crash_world *w, struct step_scenario *s, const char *what, bool stop_too)
{
    crash_run(s, STEP_KILL, check_killed, "killed in %s, %s%s", what, crash_bus_text(w),
              w->variant ? ", swept first" : "");
    if (stop_too)
        crash_run(s, STEP_STOP, check_stopped, "stopped in %s, %s", what, crash_bus_text(w));
}

/* geb_join is thousands of instructions, of which few depend on the policy: each kind of dead one
 * is met under one policy, the child is stopped under block only. */
static void run_join(struct crash_world *w, struct step_scenario *s)
{
    char what[64];
    leaves = false;
    for (int how = CRASH_DEAD_NONE; how <= CRASH_DEAD_HAND; how++) {
        bool hand = how == CRASH_DEAD_HAND;
        w->state = (uint32_t)how;
        w->kind = how == CRASH_DEAD_NONE ? CRASH_INLINE : CRASH_SLAB;
        snprintf(what, sizeof(what), "join, %s", dead_text[how]);
        for (int policy = 0; policy < (hand ? 1 : 3); policy++) {
            w->policy = (enum geb_policy)policy;
            bool once = how == CRASH_DEAD_NONE || hand ||
                        policy == (how == CRASH_DEAD_UNCOUNTED ? GEB_BLOCK : how % 3);
            if (!once)
                continue;
            bool chosen = how == CRASH_DEAD_NONE || how == CRASH_DEAD_UNCOUNTED;
            w->exclusive = false;
            w->variant = how % 2 != 0;
            run(w, s, what, chosen && policy == GEB_BLOCK);
            w->exclusive = true;
            if (chosen && (policy == GEB_BLOCK || !crash_quick()))
                run(w, s, what, how == CRASH_DEAD_NONE && policy == GEB_BLOCK);
        }
    }
    w->state = CRASH_DEAD_NONE;
}

static void run_leave(struct crash_world *w, struct step_scenario *s)
{
    const enum crash_kind kinds[] = {CRASH_INLINE, CRASH_SLAB, CRASH_RETURN, CRASH_LONG};
    char what[64];
    leaves = true;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        w->kind = kinds[i];
        snprintf(what, sizeof(what), "leave, %s", crash_kind_text[w->kind]);
        for (uint32_t bus = 0; bus < CRASH_BUSES; bus++) {
            crash_choose_bus(w, bus);
            w->variant = w->policy == GEB_BLOCK;
            run(w, s, what, w->policy == (i + w->exclusive) % 3);
        }
    }
}

int main(void)
{
    static struct crash_world w = {.slab_bytes = 3 * SHR_CHUNK_BYTES};
    struct step_scenario s = {.setup = setup,
                              .prepare = prepare,
                              .region = region,
                              .finish = finish,
                              .teardown = crash_teardown,
                              .same = crash_same,
                              .skip_private = true,
                              .user = &w};
    crash_begin();
    run_join(&w, &s);
    run_leave(&w, &s);
    return crash_report("crash_join");
}
