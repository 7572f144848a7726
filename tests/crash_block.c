/* Goal: a producer may be killed or stopped at any instruction as it goes to sleep on a full bus,
 * is woken and publishes, or as it wakes a consumer: nobody else waits for it, and no wake-up is
 * lost.
 *
 * Method: a child is killed, or stopped, at each instruction of one publish.
 *   space   block; the ring is full. The child spins a few times, then sleeps; as it sleeps, the
 *           test's consumer handles what waits, which wakes it.
 *   block   block; the ring has room, but each slab block is in use, by events of the child and a
 *           loan of the other producer. The same.
 *   wake    the consumer has said that it is about to sleep, so the child must wake it.
 * The child's clock is an hour ahead, so a sleep that nobody ends is seen as a child that hangs.
 * Stopped: meanwhile the consumer makes room, and a thousand events (a hundred in the quick form)
 * go by; then the child goes on to its end, whether it had the time to sleep or not. In the end
 * ledger and segment are compared as in crash_publish.c. */
#include "tests/crash_support.h"

STEP_CLOCK_GETTIME

#define SPINS 2u

enum what { FOR_SPACE, FOR_BLOCK, TO_WAKE };
static const char *const what_text[] = {"asleep for space", "asleep for a block", "waking"};

static enum what what(const struct crash_world *w)
{
    return (enum what)w->state;
}

/* So many events of each fill the ring or the slabs. */
static uint32_t events_of(const struct crash_world *w, bool victim)
{
    if (what(w) == TO_WAKE)
        return 0;
    if (what(w) == FOR_BLOCK)
        return !victim ? 0 : w->exclusive ? 2 : 1;
    return w->exclusive == victim ? w->map.geo.capacity : 0;
}

static int setup(void *user)
{
    struct crash_world *w = user;
    int rc = crash_create(w);
    for (uint32_t i = 0; rc == 0 && i < events_of(w, false); i++)
        rc = crash_send(w, &w->other, w->kind);
    if (rc == 0 && what(w) == FOR_BLOCK && !w->exclusive)
        rc = geb_loan(w->other.p, SHR_CHUNK_BYTES, &w->other.loan);
    if (rc == 0 && what(w) == TO_WAKE)
        shr_gate_enter(&w->bus->map.hot->bell);
    return rc;
}

static int prepare(void *user)
{
    struct crash_world *w = user;
    int rc = crash_prepare_sender(w, &w->victim, CRASH_VICTIM, events_of(w, true), w->kind);
    if (rc == 0)
        w->victim.p->spins = SPINS;
    step_clock_far();
    return rc;
}

/* The child sleeps: one event less wakes it, and is enough for it. */
static void unblock(void *user)
{
    struct crash_world *w = user;
    geb_dispatch(w->bus, 1);
}

static int check_end(struct crash_world *w)
{
    if (w->other.loan.handle != 0)
        CRASH_EQUAL(geb_return(w->other.p, &w->other.loan), 0);
    CRASH_TRY(crash_drain(w));
    return crash_end_of_victim(w, w->kind, 0);
}

/* A consumer that is about to sleep again is woken by the next one. */
static int check_wakes(struct crash_world *w, struct crash_sender *s)
{
    struct shr_gate *bell = &w->bus->map.hot->bell;
    uint32_t ticket = shr_gate_enter(bell);
    CRASH_EQUAL(crash_send(w, s, CRASH_INLINE), 0);
    CRASH_CHECK(shr_load32_acquire(&bell->seq) != ticket);
    CRASH_EQUAL(shr_load32_acquire(&bell->waiting), 0);
    return 0;
}

static int check_killed(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    struct crash_sender *s = crash_test_sender(w);
    struct shr_account account;
    (void)child;
    (void)k;
    CRASH_TRY(crash_settle(w, w->kind, &account));
    CRASH_EQUAL(account.dropped, 0);
    CRASH_TRY(crash_drain(w));
    if (w->exclusive)
        CRASH_EQUAL(crash_join(w, s, CRASH_SUCCESSOR), 0);
    CRASH_TRY(check_wakes(w, s));
    CRASH_TRY(crash_go_on(w, s, CRASH_INLINE, crash_laps(w, 2)));
    CRASH_EQUAL(crash_leave(&w->next), 0);
    return check_end(w);
}

static int check_stopped(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    (void)k;
    CRASH_TRY(crash_drain(w));
    if (!w->exclusive)
        CRASH_TRY(crash_beside(w, &w->other, CRASH_INLINE, crash_stop_events()));
    CRASH_EQUAL(step_to_end(child), 0);
    CRASH_TRY(crash_settle(w, w->kind, NULL));
    CRASH_EQUAL(w->ledger->sent[CRASH_VICTIM], events_of(w, true) + 1);
    CRASH_TRY(crash_drain(w));
    CRASH_EQUAL(w->ledger->ended[CRASH_VICTIM][events_of(w, true) + 1], 1);
    return check_end(w);
}

static void run(struct crash_world *w, struct step_scenario *s)
{
    const char *text = what_text[w->state];
    w->kind = what(w) == FOR_BLOCK ? CRASH_BIG : CRASH_INLINE;
    crash_run(s, STEP_KILL, check_killed, "killed %s, %s", text, crash_bus_text(w));
    crash_run(s, STEP_STOP, check_stopped, "stopped %s, %s", text, crash_bus_text(w));
}

int main(void)
{
    static struct crash_world w = {.slab_bytes = 2 * SHR_CHUNK_BYTES, .max_event = SHR_CHUNK_BYTES};
    struct step_scenario s = {.setup = setup,
                              .prepare = prepare,
                              .region = crash_victim_publishes,
                              .finish = crash_victim_leaves,
                              .unblock = unblock,
                              .teardown = crash_teardown,
                              .same = crash_same,
                              .user = &w};
    crash_begin();
    for (w.state = FOR_SPACE; w.state <= TO_WAKE; w.state++) {
        for (uint32_t bus = 0; bus < CRASH_BUSES; bus++) {
            crash_choose_bus(&w, bus);
            if (what(&w) == TO_WAKE || w.policy == GEB_BLOCK)
                run(&w, &s);
        }
    }
    return crash_report("crash_block");
}
