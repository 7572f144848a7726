/* Goal: two processes that stand still at once, each amid a call of its own, stall and corrupt
 * nothing, whether they die there or go on, in whichever order.
 *
 * Method: a producer stands behind each change that its publish makes, in turn; beside it, at its
 * instructions in turn (step_pair.h), stands
 *   producer   another one in its publish. Meanwhile a third one's events go by for two laps, none
 *              waiting for longer than two patiences of polls. On a full ring both have to drop,
 *              and so do a lap of events that nobody polls for.
 *   consumer   amid an event of four, while others publish until the ring is full; or as it waits
 *              for the first one to commit, since an event is behind that claim.
 * Then each of the two is killed or goes on. Whose call ended has published its event; who died has
 * published it whole or not at all; each event is handled once, or dropped and counted; the event
 * of a consumer that died comes again, or is lost in the crash, by policy. In the end everything is
 * back. */
#include "tests/crash_support.h"
#include "tests/step_pair.h"

STEP_CLOCK_GETTIME

#define CAPACITY 16u
#define WAITING  4u  /* for the consumer that is amid one of them */
#define TURNS    16u /* of each loop; --long: all */

enum { FIRST_DIES = 1, SECOND_DIES = 2, SECOND_FIRST = 4, ENDS = 5 };
static const char *const end_text[ENDS] = {"both go on", "the first dies", "the second dies",
                                           "both die", "both go on, the second first"};

static unsigned end; /* which of these */

enum scene { PRODUCERS, CONSUMER, PATIENCE };
static const char *const scene_text[] = {"producer", "consumer", "consumer behind the claim"};

/* ---- worlds and children --------------------------------------------------------------------- */

static int setup(void *user)
{
    struct crash_world *w = user;
    int rc = crash_create(w);
    for (uint32_t i = 0; rc == 0 && w->variant && i < CAPACITY; i++)
        rc = crash_send(w, &w->other, w->kind);
    return rc;
}

static int setup_without_consumer(void *user)
{
    int rc = setup(user);
    return rc == 0 ? crash_close(user) : rc;
}

static int prepare_first(void *user)
{
    struct crash_world *w = user;
    return crash_prepare_sender(w, &w->victim, CRASH_VICTIM, w->state == CONSUMER ? WAITING : 0,
                                w->kind);
}

/* Behind what the first one has claimed. */
static int publish_behind(void *user)
{
    struct crash_world *w = user;
    return crash_send(w, &w->other, CRASH_INLINE);
}

static int prepare_second(void *user)
{
    struct crash_world *w = user;
    return crash_prepare_sender(w, &w->victim, CRASH_SUCCESSOR, 0, w->kind);
}

static int prepare_consumer(void *user)
{
    struct crash_world *w = user;
    int rc = crash_open(w);
    if (rc == 0)
        rc = gebi_flatten(w->bus);
    if (rc == 0 && w->state == CONSUMER && geb_dispatch(w->bus, 1) != 1)
        rc = -EIO;
    step_clock_steady();
    return rc;
}

static int region_consumer(void *user)
{
    struct crash_world *w = user;
    uint32_t polls = 0;
    int rc;
    while ((rc = geb_dispatch(w->bus, 1)) == 0 && polls < CRASH_POLLS_MAX)
        polls++;
    return rc == 1 ? 0 : -EIO;
}

static int finish_consumer(void *user)
{
    struct crash_world *w = user;
    return geb_close(w->bus, 0);
}

/* All that the first one may change. */
static uint64_t segment(void *user)
{
    const struct crash_world *w = user;
    return step_sum(w->map.base, w->map.slabs);
}

/* ---- checks ---------------------------------------------------------------------------------- */

static int kill_who_dies(struct step_child *first, struct step_child *second)
{
    if ((end & FIRST_DIES) != 0)
        CRASH_EQUAL(step_kill(first), 0);
    if ((end & SECOND_DIES) != 0)
        CRASH_EQUAL(step_kill(second), 0);
    return 0;
}

static int go_on(struct step_child *child)
{
    return child->state == STEP_GONE ? 0 : step_to_end(child);
}

/* What the calls of a slot have published shows now: all, unless it died. */
static int settle(struct crash_world *w, uint32_t who, uint32_t slot, bool died)
{
    uint32_t before = w->ledger->sent[who];
    CRASH_TRY(crash_settle_slot(w, who, slot, w->kind, NULL));
    CRASH_CHECK(died || w->ledger->sent[who] == before + crash_events(w->kind));
    return 0;
}

static int check_producers(struct step_child *first, struct step_child *second, size_t k,
                           void *user)
{
    struct crash_world *w = user;
    uint64_t missing;
    (void)k;
    CRASH_TRY(kill_who_dies(first, second));
    for (uint32_t i = 0; w->variant && i < w->map.geo.cell_cnt; i++)
        CRASH_EQUAL(crash_send(w, &w->other, w->kind), 0);
    CRASH_TRY(crash_beside(w, &w->other, w->kind, crash_laps(w, 2)));
    CRASH_EQUAL(go_on(end == SECOND_FIRST ? second : first), 0);
    CRASH_EQUAL(go_on(end == SECOND_FIRST ? first : second), 0);
    CRASH_TRY(settle(w, CRASH_VICTIM, w->victim_slot, (end & FIRST_DIES) != 0));
    CRASH_TRY(settle(w, CRASH_SUCCESSOR, w->victim_slot + 1, (end & SECOND_DIES) != 0));
    CRASH_TRY(crash_drain(w));
    crash_sweep(w);
    CRASH_TRY(crash_blocks_free(w));
    CRASH_TRY(crash_join_again(w, CRASH_LATE, w->kind));
    CRASH_TRY(crash_go_on(w, &w->other, w->kind, crash_laps(w, 2)));
    CRASH_TRY(crash_end(w, &missing));
    CRASH_CHECK(w->variant ? missing >= w->map.geo.cell_cnt : missing == 0);
    return 0;
}

/* The consumer may have died with one event in hand. */
static int check_books(struct crash_world *w)
{
    struct shr_account account;
    struct crash_sum sum;
    uint64_t in_hand = (end & SECOND_DIES) != 0 ? 1 : 0;
    CRASH_TRY(crash_account_agrees(w, &account));
    CRASH_TRY(crash_sum(w, &sum));
    uint64_t lost = account.col[SHR_COL_LOST_IN_CRASH];
    CRASH_EQUAL(account.pending, 0);
    CRASH_CHECK(sum.broken <= in_hand);
    CRASH_CHECK(lost <= (w->policy == GEB_DROP_OLDEST ? in_hand : 0));
    CRASH_CHECK(sum.again <= (w->policy != GEB_DROP_OLDEST ? in_hand : 0));
    CRASH_CHECK(sum.missing >= account.dropped && sum.missing <= account.dropped + lost);
    CRASH_CHECK(w->policy == GEB_DROP_OLDEST || sum.missing == 0);
    return 0;
}

/* Until the ring is full. */
static int publish_beside(struct crash_world *w)
{
    uint32_t full = 0;
    for (uint32_t i = 0; i < w->map.geo.cell_cnt; i++) {
        int rc = crash_send(w, &w->other, w->kind);
        CRASH_CHECK(rc == 0 || (w->policy == GEB_BLOCK && rc == -ETIMEDOUT) ||
                    (w->policy == GEB_RETURN_ERROR && rc == -EAGAIN));
        full += rc != 0;
    }
    CRASH_EQUAL(full != 0, w->policy != GEB_DROP_OLDEST);
    return 0;
}

static int check_consumer(struct step_child *first, struct step_child *second, size_t k, void *user)
{
    struct crash_world *w = user;
    bool fills = w->state == CONSUMER && !w->exclusive;
    (void)k;
    CRASH_TRY(kill_who_dies(first, second));
    CRASH_TRY(crash_account(w, NULL, NULL));
    if (fills)
        CRASH_TRY(publish_beside(w));
    /* Without drops a claim that was passed finds no room for another try, on a full ring, before
     * somebody consumes. */
    if (end != SECOND_FIRST && (!fills || w->policy == GEB_DROP_OLDEST))
        CRASH_EQUAL(go_on(first), 0);
    CRASH_EQUAL(go_on(second), 0);
    CRASH_EQUAL(crash_open(w), 0);
    CRASH_TRY(crash_drain(w));
    CRASH_EQUAL(go_on(first), 0);
    CRASH_TRY(settle(w, CRASH_VICTIM, w->victim_slot, (end & FIRST_DIES) != 0));
    CRASH_TRY(crash_drain(w));
    crash_sweep(w);
    CRASH_TRY(crash_blocks_free(w));
    if (w->exclusive)
        CRASH_EQUAL(crash_join(w, &w->next, CRASH_LATE), 0);
    CRASH_TRY(crash_go_on(w, crash_test_sender(w), w->kind, crash_laps(w, 2)));
    CRASH_TRY(crash_leave_clean(w));
    return check_books(w);
}

/* ---- all of them ----------------------------------------------------------------------------- */

static int run(struct crash_world *w, enum scene scene)
{
    char name[128];
    bool consumer = scene != PRODUCERS;
    struct step_scenario first = {.name = "who publishes",
                                  .setup = consumer ? setup_without_consumer : setup,
                                  .prepare = prepare_first,
                                  .region = crash_victim_publishes,
                                  .finish = crash_victim_leaves,
                                  .teardown = crash_teardown,
                                  .user = w};
    struct step_scenario second = {.name = name,
                                   .prepare = consumer ? prepare_consumer : prepare_second,
                                   .region = consumer ? region_consumer : crash_victim_publishes,
                                   .finish = consumer ? finish_consumer : crash_victim_leaves};
    struct step_pair pair = {.first = &first,
                             .second = &second,
                             .sum = segment,
                             .between = scene == PATIENCE ? publish_behind : NULL,
                             .check = consumer ? check_consumer : check_producers,
                             .user = w,
                             .turns = support_depth() == SUPPORT_LONG ? SIZE_MAX : TURNS,
                             .points_min = 100,
                             .changes_min = 5};
    w->state = scene;
    snprintf(name, sizeof(name), "%s, %s, %s%s: %s", end_text[end], crash_kind_text[w->kind],
             crash_bus_text(w), w->variant ? ", full" : "", scene_text[scene]);
    return step_pair(&pair);
}

/* Primes: no scene is left out time and again. */
static bool is_due(uint32_t number)
{
    static const uint32_t every[] = {[SUPPORT_QUICK] = 13, [SUPPORT_CI] = 7, [SUPPORT_LONG] = 1};
    return number % every[support_depth()] == 0;
}

int main(void)
{
    static struct crash_world w = {
        .capacity = CAPACITY, .producers = 3, .slab_bytes = 4 * SHR_CHUNK_BYTES};
    int failures = 0;
    uint32_t number = 0;
    crash_begin();
    for (uint32_t bus = 0; bus < CRASH_BUSES; bus++) {
        crash_choose_bus(&w, bus);
        for (w.kind = CRASH_INLINE; w.kind <= CRASH_SLAB; w.kind += CRASH_SLAB) {
            for (end = 0; end < ENDS; end++) {
                if (is_due(number++))
                    failures += run(&w, CONSUMER) != 0;
                if (!w.exclusive && is_due(number++))
                    failures += run(&w, PATIENCE) != 0;
                if (!w.exclusive && is_due(number++))
                    failures += run(&w, PRODUCERS) != 0;
                w.variant = w.policy == GEB_DROP_OLDEST && !w.exclusive;
                if (w.variant && is_due(number++))
                    failures += run(&w, PRODUCERS) != 0;
                w.variant = false;
            }
        }
    }
    return failures != 0 || crash_leftovers != 0;
}
