/* Goal: whoever is stopped at any instruction stops nobody else, and corrupts nothing when it goes
 * on.
 *
 * Method: a child is stopped at each instruction of one call in turn. Meanwhile a producer of the
 * test publishes a thousand events (a hundred in the quick form), which is many laps, and sweeps
 * run; then the child goes on to its end, and ledger and segment are compared. As it goes on, the
 * cell that it may have claimed is in use by an event that waits.
 *   publish   in line, block, batch, loan, return, loan of a run. The consumer polls: no
 *             event waits for more than two patiences of polls. The late event is handled exactly
 *             once.
 *   drop      the bus is full as the child begins; half of the events are published without the
 *             consumer, so that others drop where the child stands.
 *   take      the child is the consumer. Under drop-oldest producers go on; under block and
 *             return-error they are told that the bus is full, and do not hang. All that was
 *             accepted is handled once, nothing is marked as handed out again. */
#include "tests/crash_support.h"

STEP_CLOCK_GETTIME

#define CAPACITY 16u
#define WAITING  12u /* leaves room for the late event */

/* ---- a producer ------------------------------------------------------------------------------ */

static int setup_producer(void *user)
{
    struct crash_world *w = user;
    int rc = crash_create(w);
    for (uint32_t i = 0; rc == 0 && w->variant && i + 1 < CAPACITY; i++)
        rc = crash_send(w, &w->other, w->kind);
    return rc;
}

static int prepare_producer(void *user)
{
    struct crash_world *w = user;
    return crash_prepare_sender(w, &w->victim, CRASH_VICTIM, 1, w->kind);
}

/* The call is over: what it publishes is accepted now, if it was not before. */
static int go_on_to_the_end(struct crash_world *w, struct step_child *child)
{
    CRASH_EQUAL(step_to_end(child), 0);
    CRASH_TRY(crash_settle(w, w->kind, NULL));
    CRASH_EQUAL(w->ledger->sent[CRASH_VICTIM], 2 * crash_events(w->kind));
    return 0;
}

/* Others need no memory that a stopped run pins, and count no events of batches. */
static enum crash_kind kind_of_others(const struct crash_world *w)
{
    return w->kind == CRASH_INLINE || w->kind == CRASH_LONG ? CRASH_INLINE : CRASH_SLAB;
}

/* Leaves events waiting in the ring so that the cell of position pos, which the child may have
 * claimed, is among theirs: a late store into it would be seen. */
static int use_cell_of(struct crash_world *w, uint64_t pos)
{
    const shr_a64 *head = &w->map.hot->head;
    while ((shr_load_acquire(head) - pos) % w->map.geo.cell_cnt !=
           w->map.geo.cell_cnt - WAITING / 2)
        CRASH_TRY(crash_send_and_poll(w, &w->other, CRASH_INLINE));
    for (uint32_t i = 0; i < WAITING; i++)
        CRASH_EQUAL(crash_send(w, &w->other, kind_of_others(w)), 0);
    return 0;
}

static int check_producer(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    uint64_t accepted[4], missing;
    (void)k;
    /* Asked now: a commit that was dropped before its producer counted it shows only later. */
    CRASH_TRY(crash_account(w, NULL, accepted));
    uint64_t claimed = shr_load_acquire(&w->map.hot->head) - 1;
    bool late = accepted[w->victim_slot] == w->ledger->accepted[w->victim_slot];
    uint32_t events = crash_stop_events();
    for (uint32_t i = 0; w->variant && i < events / 2; i++) {
        CRASH_EQUAL(crash_send(w, &w->other, kind_of_others(w)), 0);
        if (i % 50 == 0)
            crash_sweep(w);
    }
    CRASH_TRY(crash_beside(w, &w->other, kind_of_others(w), w->variant ? events / 2 : events));
    CRASH_TRY(use_cell_of(w, claimed));
    CRASH_TRY(go_on_to_the_end(w, child));
    CRASH_TRY(crash_drain(w));
    /* The late event exactly once: crash_books below counts those that come twice. */
    CRASH_CHECK(!late || w->ledger->ended[CRASH_VICTIM][w->ledger->sent[CRASH_VICTIM]] == 1 ||
                crash_events(w->kind) == 0);
    crash_sweep(w);
    CRASH_TRY(crash_blocks_free(w));
    CRASH_TRY(crash_go_on(w, &w->other, kind_of_others(w), crash_laps(w, 2)));
    CRASH_TRY(crash_join_again(w, CRASH_LATE, w->kind));
    CRASH_TRY(crash_end(w, &missing));
    CRASH_CHECK(w->variant || missing == 0);
    return 0;
}

/* ---- the consumer ---------------------------------------------------------------------------- */

static int setup_consumer(void *user)
{
    struct crash_world *w = user;
    int rc = crash_create(w);
    if (rc == 0)
        rc = crash_close(w);
    for (uint32_t i = 0; rc == 0 && i < 4; i++)
        rc = crash_send(w, &w->other, w->kind);
    return rc;
}

static int prepare_consumer(void *user)
{
    struct crash_world *w = user;
    int rc = crash_open(w);
    if (rc == 0 && geb_dispatch(w->bus, 1) != 1)
        rc = -EIO;
    step_clock_steady();
    return rc;
}

static int region_consumer(void *user)
{
    struct crash_world *w = user;
    return geb_dispatch(w->bus, 1) == 1 ? 0 : -EIO;
}

static int finish_consumer(void *user)
{
    struct crash_world *w = user;
    int rc = crash_drain(w);
    return rc == 0 ? geb_close(w->bus, 0) : rc;
}

static int publish_beside(struct crash_world *w)
{
    struct geb_options options = GEB_OPTIONS_INIT;
    unsigned char byte = 0;
    uint32_t full = 0;
    for (uint32_t i = 0; i < crash_stop_events(); i++) {
        int rc = crash_send(w, &w->other, w->kind);
        CRASH_CHECK(rc == 0 || (w->policy == GEB_BLOCK && rc == -ETIMEDOUT) ||
                    (w->policy == GEB_RETURN_ERROR && rc == -EAGAIN));
        full += rc != 0;
    }
    CRASH_EQUAL(full != 0, w->policy != GEB_DROP_OLDEST);
    options.wait_until_ns = geb_now() + 20000;
    if (w->policy == GEB_BLOCK) /* it waits, and then gives up: its consumer is not gone */
        CRASH_EQUAL(geb_publish_with(w->other.p, w->other.topic, &byte, 1, &options), -ETIMEDOUT);
    return 0;
}

static int check_consumer(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    uint64_t missing;
    (void)k;
    CRASH_TRY(crash_account(w, NULL, NULL));
    CRASH_TRY(publish_beside(w));
    CRASH_TRY(crash_account(w, NULL, NULL));
    CRASH_EQUAL(step_to_end(child), 0);
    CRASH_EQUAL(crash_open(w), 0);
    CRASH_TRY(crash_go_on(w, &w->other, w->kind, crash_laps(w, 2)));
    crash_sweep(w);
    CRASH_TRY(crash_blocks_free(w));
    CRASH_TRY(crash_end(w, &missing));
    CRASH_CHECK(w->policy == GEB_DROP_OLDEST ? missing >= crash_stop_events() - CAPACITY
                                             : missing == 0);
    return 0;
}

int main(void)
{
    static struct crash_world w = {.capacity = CAPACITY, .slab_bytes = 4 * SHR_CHUNK_BYTES};
    struct step_scenario producer = {.setup = setup_producer,
                                     .prepare = prepare_producer,
                                     .region = crash_victim_publishes,
                                     .finish = crash_victim_leaves,
                                     .teardown = crash_teardown,
                                     .user = &w};
    struct step_scenario consumer = {.setup = setup_consumer,
                                     .prepare = prepare_consumer,
                                     .region = region_consumer,
                                     .finish = finish_consumer,
                                     .teardown = crash_teardown,
                                     .user = &w};
    const enum crash_kind kinds[] = {CRASH_INLINE, CRASH_SLAB,   CRASH_BATCH3,
                                     CRASH_LOAN,   CRASH_RETURN, CRASH_LONG};
    crash_begin();
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        w.kind = kinds[i];
        for (int policy = 0; policy < 3; policy++) {
            w.policy = (enum geb_policy)policy;
            crash_run(&producer, STEP_STOP, check_producer, "stopped in publish %s, %s",
                      crash_kind_text[w.kind], support_policy_text[policy]);
            if (w.kind <= CRASH_SLAB)
                crash_run(&consumer, STEP_STOP, check_consumer, "stopped in take %s, %s",
                          crash_kind_text[w.kind], support_policy_text[policy]);
        }
        w.policy = GEB_DROP_OLDEST;
        w.variant = true;
        if (w.kind <= CRASH_LOAN)
            crash_run(&producer, STEP_STOP, check_producer, "stopped in drop %s",
                      crash_kind_text[w.kind]);
        w.variant = false;
    }
    printf("an event waited for %u polls at most\n", w.most_polls);
    return crash_report("crash_stop");
}
