/* Goal: whoever takes the consumer's role may die of it at any instruction; the next one ends in
 * the same state, at the right event.
 *
 * Method: a first consumer dies with an event in hand, at one of four moments. A second one is
 * killed at each instruction of its resume, over what the first one left; a third one drains, and
 * account and ledger are compared.
 *   core      shr_consumer_init, which settles what the dead left
 *   geb_open, geb_create   with the mapping and the locks
 *   standby   geb_take_over of a standby that was ready before; afterwards its lock is free too
 *   waiting   a standby is killed as it looks and sleeps while the consumer lives; which then goes
 *             on as if nobody had been there */
#include "tests/crash_death.h"

#include "shmring/peer.h"

#include <errno.h>
#include <signal.h>

STEP_CLOCK_GETTIME

/* What the first consumer left. */
enum left {
    LEFT_UNFINISHED, /* handler ended, column not raised */
    LEFT_FINISHED,   /* column raised, block not freed */
    LEFT_HALF,       /* a batch whose columns are half written */
    LEFT_NONE,
};
static const char *const left_text[] = {"unfinished", "finished", "half applied", "nothing"};

static uint64_t finished; /* events, by the account, that nobody may handle again */

/* As gebi_deliver hands the cell to the handlers, up to a moment. */
static void handle_until(struct crash_world *w, const struct shr_item *item, enum left left)
{
    struct geb_bus *bus = w->bus;
    struct shr_hand *hand = &bus->map.hands[0];
    bool batch = (item->flags & SHR_FLAG_BATCH) != 0;
    uint64_t frame = gebi_frame_bytes(60);
    for (uint32_t i = 0; i < item->events; i += 2) {
        uint32_t who, seq;
        struct geb_event event = {.data = batch ? item->data + sizeof(struct gebi_frame) + i * frame
                                                : item->data,
                                  .len = batch ? 60 : item->bytes,
                                  .attempt = 1};
        crash_begin_event(w->ledger, &event, &who, &seq);
        w->ledger->ended[who][seq]++;
    }
    shr_a64 *col = bus->map.tally->col;
    if (left == LEFT_FINISHED)
        shr_store_release(&col[0], shr_load_relaxed(&col[0]) + item->events);
    if (left != LEFT_HALF)
        return;
    for (uint32_t i = 0; i < SHR_COL_CNT; i++)
        shr_store_relaxed(&hand->after[i], shr_load_relaxed(&col[i]));
    shr_store_relaxed(&hand->after[SHR_COL_DELIVERED], shr_load_relaxed(&col[0]) + 2);
    shr_store_relaxed(&hand->after[SHR_COL_UNHANDLED],
                      shr_load_relaxed(&col[SHR_COL_UNHANDLED]) + 1);
    shr_store_release(&hand->applied, item->pos);
    shr_store_release(&col[SHR_COL_DELIVERED], shr_load_relaxed(&hand->after[SHR_COL_DELIVERED]));
}

static int first_consumer(void *arg)
{
    struct crash_world *w = arg;
    struct shr_item item;
    SUPPORT_CHECK(crash_open(w) == 0);
    SUPPORT_CHECK(geb_dispatch(w->bus, 1) == 1);
    if (w->state == LEFT_NONE)
        kill(getpid(), SIGKILL);
    SUPPORT_CHECK(shr_next(&w->bus->consumer, &item) == 1);
    handle_until(w, &item, (enum left)w->state);
    kill(getpid(), SIGKILL);
    return 1;
}

static int setup(void *user)
{
    struct crash_world *w = user;
    enum crash_outcome hand = w->state == LEFT_HALF ? CRASH_MIXED : CRASH_BLOCK;
    const enum crash_outcome outcomes[] = {CRASH_HANDLED, hand, CRASH_HANDLED, hand};
    struct shr_account account;
    int rc = crash_death_setup(w);
    if (rc == 0)
        rc = crash_account(w, &account, NULL);
    for (uint32_t i = 0; rc == 0 && i < 4; i++)
        rc = crash_death_send(w, crash_test_sender(w), outcomes[i]);
    finished = account.col[SHR_COL_DELIVERED] + 1 +
               (w->state == LEFT_FINISHED ? 1
                : w->state == LEFT_HALF   ? 2
                                          : 0);
    return rc == 0 && support_wait(support_child(first_consumer, w)) != -SIGKILL ? -EIO : rc;
}

static int region_open(void *user)
{
    struct crash_world *w = user;
    return geb_open(&w->bus, w->name);
}

static struct geb_config config;

static int prepare_open(void *user)
{
    crash_config(user, &config);
    step_clock_steady();
    return 0;
}

static int region_create(void *user)
{
    struct crash_world *w = user;
    return geb_create(&w->bus, w->name, &config);
}

static struct shr_map core_map;
static struct shr_lock core_lock;
static struct shr_consumer core_consumer;

static int prepare_core(void *user)
{
    struct crash_world *w = user;
    char path[SHR_PATH_BYTES];
    int rc = shr_segment_path(w->name, false, path);
    if (rc == 0)
        rc = shr_segment_attach(&core_map, path, true);
    if (rc == 0)
        rc = shr_lock_take(&core_map, SHR_CONSUMER_SLOT, &core_lock);
    if (rc == 0)
        shr_peer_enter(&core_map, SHR_CONSUMER_SLOT, "consumer");
    step_clock_steady();
    return rc;
}

static int region_core(void *user)
{
    (void)user;
    shr_consumer_init(&core_consumer, &core_map);
    return 0;
}

static int prepare_standby(void *user)
{
    struct crash_world *w = user;
    int rc = geb_stand_by(&w->bus, w->name);
    if (rc == 0)
        rc = crash_death_handlers(w);
    if (rc == 0)
        rc = gebi_flatten(w->bus);
    step_clock_steady();
    return rc;
}

static int region_standby(void *user)
{
    struct crash_world *w = user;
    return geb_take_over(w->bus, GEB_FOREVER);
}

static int check(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    struct crash_death death = {.in_hand = w->state == LEFT_HALF ? CRASH_BATCH : 1};
    (void)child;
    (void)k;
    CRASH_TRY(crash_death_note(w, &death));
    CRASH_EQUAL(death.col[SHR_COL_DELIVERED], finished);
    CRASH_EQUAL(shr_lock_held(&w->map, SHR_LOCK_STANDBY), 0);
    CRASH_EQUAL(crash_death_open(w), 0);
    CRASH_TRY(crash_drain(w));
    CRASH_TRY(crash_death_check(w, &death));
    uint64_t lost = w->state == LEFT_UNFINISHED && w->policy == GEB_DROP_OLDEST;
    CRASH_EQUAL(shr_load_relaxed(&w->map.tally->col[SHR_COL_LOST_IN_CRASH]), lost);
    return crash_death_end(w, &death);
}

/* ---- a standby that waits -------------------------------------------------------------------- */

static int setup_waiting(void *user)
{
    struct crash_world *w = user;
    int rc = crash_death_setup(w);
    if (rc == 0)
        rc = crash_death_open(w);
    for (int i = 0; rc == 0 && i < 3; i++)
        rc = crash_death_send(w, crash_test_sender(w), CRASH_BLOCK);
    return rc == 0 && geb_dispatch(w->bus, 1) != 1 ? -EIO : rc;
}

/* The handle of the test is the consumer's; the child has its own. */
static struct geb_bus *waiting;

static int prepare_waiting(void *user)
{
    struct crash_world *w = user;
    int rc = geb_stand_by(&waiting, w->name);
    if (rc == 0)
        rc = geb_on(waiting, "events", NULL, NULL) == -EINVAL ? gebi_flatten(waiting) : -EIO;
    step_clock_steady();
    return rc;
}

/* Three looks, by the steady clock, and two sleeps between them. */
static int region_waiting(void *user)
{
    (void)user;
    return geb_take_over(waiting, geb_now() + 3000) == -ETIMEDOUT ? 0 : -EIO;
}

static int check_waiting(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    struct crash_death death = {0};
    (void)child;
    (void)k;
    CRASH_EQUAL(shr_lock_held(&w->map, SHR_LOCK_STANDBY), 0);
    CRASH_EQUAL(shr_load_relaxed(&w->map.tally->restarts), 0);
    CRASH_TRY(crash_death_note(w, &death));
    CRASH_EQUAL(geb_stand_by(&waiting, w->name), 0);
    CRASH_EQUAL(geb_dispatch(waiting, 0), 0);
    CRASH_EQUAL(geb_close(waiting, 0), 0);
    CRASH_TRY(crash_drain(w));
    CRASH_TRY(crash_death_check(w, &death));
    return crash_death_end(w, &death);
}

/* ---- all of them ----------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int (*prepare)(void *user);
    int (*region)(void *user);
    bool all_lefts; /* the others come to the same core, so one state will do */
} ways[] = {
    {"core", prepare_core, region_core, true},
    {"geb_open", prepare_open, region_open, false},
    {"geb_create", prepare_open, region_create, false},
    {"standby", prepare_standby, region_standby, false},
};

static void run_all(struct crash_world *w)
{
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        struct step_scenario s = {.setup = setup,
                                  .prepare = ways[i].prepare,
                                  .region = ways[i].region,
                                  .teardown = crash_teardown,
                                  .user = w};
        if (ways[i].prepare == prepare_open)
            s.same = crash_same; /* long, and most of it only reads */
        crash_death_points(w, &s);
        for (uint32_t left = 0; left <= LEFT_NONE; left++) {
            w->state = left;
            if (left == LEFT_UNFINISHED || ways[i].all_lefts)
                crash_run(&s, STEP_KILL, check, "resume (%s) %s, %s", ways[i].name, left_text[left],
                          crash_bus_text(w));
        }
    }
    struct step_scenario s = {.setup = setup_waiting,
                              .prepare = prepare_waiting,
                              .region = region_waiting,
                              .teardown = crash_teardown,
                              .user = w};
    crash_death_points(w, &s);
    crash_run(&s, STEP_KILL, check_waiting, "standby waiting, %s", crash_bus_text(w));
}

int main(void)
{
    static struct crash_world w = {.slab_bytes = 4 * SHR_CHUNK_BYTES};
    crash_begin();
    for (uint32_t bus = 0; bus < CRASH_BUSES; bus++) {
        crash_choose_bus(&w, bus);
        run_all(&w);
    }
    return crash_report("crash_resume");
}
