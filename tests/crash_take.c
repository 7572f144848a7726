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
 * Resume: a second consumer is killed at each instruction of its resume, over what a first one left
 * in hand; a third one must end in the same state. "Core" is
 * shr_consumer_init, which settles what the dead left: all of it. geb_open, which also maps files
 * and looks at the clock, so that its way varies and is slow to step, is sharded in the quick form.
 */
#include "tests/crash_support.h"

#include <signal.h>
#include <string.h>

CRASH_CLOCK_GETTIME

/* What the first consumer left, for resume. */
enum left {
    LEFT_UNFINISHED, /* handler ended, column not raised */
    LEFT_FINISHED,   /* column raised, block not freed */
    LEFT_HALF,       /* a batch whose columns are half written */
    LEFT_NONE,
};
static const char *const left_text[] = {"unfinished", "finished", "half applied", "nothing"};

static bool finished_before; /* by the account, as the child was dead */
static uint32_t hand_seq;    /* first number of the cell that the dead had in hand */

static struct crash_sender *sender(struct crash_world *w)
{
    return w->exclusive ? &w->next : &w->other;
}

/* A full ring without a consumer: one event in line, then the one that will be in hand. After
 * drops, two more came first. */
static int setup(void *user)
{
    struct crash_world *w = user;
    struct crash_sender *s = sender(w);
    int rc = crash_create(w);
    if (rc == 0)
        rc = geb_close(w->bus, 0);
    w->bus = NULL;
    if (rc == 0 && w->exclusive)
        rc = crash_join(w, s, CRASH_SUCCESSOR);
    for (int i = 0; rc == 0 && i < (w->variant ? 2 : 0); i++)
        rc = crash_send(w, s, CRASH_INLINE);
    if (rc == 0 && !w->variant)
        rc = crash_send(w, s, CRASH_INLINE);
    hand_seq = w->ledger->sent[s->who] + 1;
    for (int i = 0; rc == 0 && i < (w->variant ? 4 : 3); i++)
        rc = crash_send(w, s, i % 2 == 0 ? w->kind : CRASH_INLINE);
    return rc;
}

static void teardown(void *user)
{
    crash_destroy(user);
}

static int prepare(void *user)
{
    struct crash_world *w = user;
    int rc = crash_open(w);
    if (rc == 0)
        rc = gebi_flatten(w->bus);
    if (rc == 0 && !w->variant && geb_dispatch(w->bus, 1) != 1)
        rc = -EIO;
    crash_steady_clock();
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
    uint64_t accepted[4];
    CRASH_TRY(crash_account(w, &account, accepted));
    CRASH_TRY(crash_sum(w, &sum));
    for (uint32_t slot = 1; slot <= w->map.geo.producer_cnt; slot++)
        CRASH_EQUAL(accepted[slot], w->ledger->accepted[slot]);
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
    uint32_t who = sender(w)->who;
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
    uint64_t accepted[4];
    CRASH_TRY(crash_account(w, &account, accepted));
    CRASH_TRY(crash_sum(w, &sum));
    uint64_t lost = account.col[SHR_COL_LOST_IN_CRASH];
    for (uint32_t slot = 1; slot <= w->map.geo.producer_cnt; slot++)
        CRASH_EQUAL(accepted[slot], w->ledger->accepted[slot]);
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
    memcpy(begun_dead, &w->ledger->begun[sender(w)->who][hand_seq], CRASH_BATCH);
    CRASH_TRY(check_dead(w));
    CRASH_EQUAL(crash_open(w), 0);
    CRASH_TRY(crash_drain(w));
    CRASH_TRY(check_end(w, begun_dead));
    CRASH_TRY(crash_blocks_free(w));
    CRASH_TRY(crash_go_on(w, sender(w), CRASH_SLAB, 2 * w->map.geo.cell_cnt + 1));
    CRASH_EQUAL(crash_leave(&w->other), 0);
    CRASH_EQUAL(crash_leave(&w->next), 0);
    crash_sweep(w);
    CRASH_TRY(crash_clean(w));
    w->other.who = CRASH_OTHER;
    return check_end(w, begun_dead);
}

/* ---- resume ---------------------------------------------------------------------------------- */

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
    SUPPORT_CHECK(w->variant || geb_dispatch(w->bus, 1) == 1);
    if (w->state == LEFT_NONE)
        kill(getpid(), SIGKILL);
    SUPPORT_CHECK(shr_next(&w->bus->consumer, &item) == 1);
    handle_until(w, &item, (enum left)w->state);
    kill(getpid(), SIGKILL);
    return 1;
}

static int setup_resume(void *user)
{
    struct crash_world *w = user;
    int rc = setup(w);
    return rc == 0 && support_wait(support_child(first_consumer, w)) != -SIGKILL ? -EIO : rc;
}

static int prepare_open(void *user)
{
    (void)user;
    crash_steady_clock();
    return 0;
}

static int region_open(void *user)
{
    struct crash_world *w = user;
    return geb_open(&w->bus, w->name);
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
    crash_steady_clock();
    return rc;
}

static int region_core(void *user)
{
    (void)user;
    shr_consumer_init(&core_consumer, &core_map);
    return 0;
}

/* ---- all of them ----------------------------------------------------------------------------- */

static const struct step_scenario take = {
    .setup = setup, .prepare = prepare, .region = region, .teardown = teardown};
static const struct step_scenario resume_core = {
    .setup = setup_resume, .prepare = prepare_core, .region = region_core, .teardown = teardown};
static const struct step_scenario resume_open = {
    .setup = setup_resume, .prepare = prepare_open, .region = region_open, .teardown = teardown};

static void run_take(struct crash_world *w)
{
    const enum crash_kind kinds[] = {CRASH_INLINE, CRASH_SLAB, CRASH_BATCH3};
    struct step_scenario s = take;
    s.user = w;
    for (int i = 0; i < 3; i++) {
        w->kind = kinds[i];
        for (int mode = 0; mode < 3; mode++) {
            w->exclusive = mode == 1;
            w->variant = mode == 2;
            if (w->variant && w->policy != GEB_DROP_OLDEST)
                continue;
            crash_run(&s, STEP_KILL, check, "take %s, %s, %s", crash_kind_text[w->kind],
                      crash_policy_text[w->policy],
                      mode == 0   ? "shared"
                      : mode == 1 ? "exclusive"
                                  : "after drops");
        }
    }
}

static void run_resume(struct crash_world *w)
{
    struct step_scenario s = resume_core;
    struct step_scenario whole = resume_open;
    s.user = w;
    whole.user = w;
    whole.every = crash_every(100);
    w->exclusive = false;
    w->variant = false;
    for (int left = 0; left <= LEFT_NONE; left++) {
        w->state = (uint32_t)left;
        w->kind = left == LEFT_HALF ? CRASH_BATCH3 : CRASH_SLAB;
        crash_run(&s, STEP_KILL, check, "resume (core) %s, %s", left_text[left],
                  crash_policy_text[w->policy]);
        if (left == LEFT_UNFINISHED || crash_every(2) == 1)
            crash_run(&whole, STEP_KILL, check, "resume (geb_open) %s, %s", left_text[left],
                      crash_policy_text[w->policy]);
    }
}

int main(void)
{
    static struct crash_world w = {.slab_bytes = 4 * SHR_CHUNK_BYTES};
    crash_begin();
    for (int policy = 0; policy < 3; policy++) {
        w.policy = (enum geb_policy)policy;
        run_take(&w);
        run_resume(&w);
    }
    return crash_report("crash_take");
}
