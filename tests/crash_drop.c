/* Goal: a producer that is killed at any instruction of a publish that must drop first, takes away
 * one event at most, and every block comes back: of the dropped event and of its own.
 *
 * Method: as crash_publish.c, on a drop-oldest bus that is full: the oldest events are the other
 * producer's, the youngest the victim's (in exclusive mode all are). The dropped ones are in line,
 * in blocks or batches. "No blocks": the ring has room, but all memory is in use, so that the
 * victim drops an event in line for nothing, and then one whose block it needs. "Others drop":
 * before the consumer looks, another producer publishes and so drops where the dead one stood.
 *
 * What is missing afterwards must be the oldest, one publish's worth for each publish begun, and
 * what the account calls dropped. The other producer stays: the sweep of its chunks would hide a
 * block that was not freed. */
#include "tests/crash_support.h"

STEP_CLOCK_GETTIME

#define OTHERS_DROP 3u

/* The cells that waited, oldest first. */
struct waiting {
    uint32_t who;
    uint32_t seq;
    uint32_t events;
};
static struct waiting waiting[16];
static uint32_t waiting_cnt;
static uint32_t oldest_other; /* what the other had sent before these */

static void note(const struct crash_world *w, uint32_t who, enum crash_kind kind)
{
    uint32_t events = crash_events(kind);
    uint32_t seq = w->ledger->sent[who] + 1 - events;
    waiting[waiting_cnt++] = (struct waiting){.who = who, .seq = seq, .events = events};
}

static int setup(void *user)
{
    struct crash_world *w = user;
    waiting_cnt = 0;
    int rc = crash_create(w);
    oldest_other = w->ledger->sent[CRASH_OTHER];
    uint32_t cnt = w->exclusive ? 0 : w->kind == CRASH_BIG ? 1 : 3;
    for (uint32_t i = 0; rc == 0 && i < cnt; i++) {
        enum crash_kind kind = w->kind == CRASH_BIG ? CRASH_INLINE : w->kind;
        rc = crash_send(w, &w->other, kind);
        note(w, CRASH_OTHER, kind);
    }
    return rc;
}

static enum crash_kind new_kind(const struct crash_world *w)
{
    return (enum crash_kind)w->state;
}

static int prepare(void *user)
{
    struct crash_world *w = user;
    uint32_t cnt = w->kind == CRASH_BIG ? 2 : w->exclusive ? 4 : 1;
    return crash_prepare_sender(w, &w->victim, CRASH_VICTIM, cnt, new_kind(w));
}

static int region(void *user)
{
    struct crash_world *w = user;
    return crash_publish_now(&w->victim, new_kind(w));
}

/* What the victim sent, in the order of the ring, is behind what the other sent before. */
static void note_victims(const struct crash_world *w)
{
    uint32_t seq = 1;
    while (seq <= w->ledger->sent[CRASH_VICTIM]) {
        uint32_t events = crash_events(w->kind);
        if (seq + events - 1 > w->ledger->sent[CRASH_VICTIM])
            events = 1;
        waiting[waiting_cnt++] = (struct waiting){CRASH_VICTIM, seq, events};
        seq += events;
    }
}

/* Each cell is there or not as a whole, and those which are not are the oldest. */
static int check_missing(const struct crash_world *w, uint32_t *cells, uint64_t *events)
{
    bool was_there = false;
    *cells = 0;
    *events = 0;
    for (uint32_t i = 0; i < waiting_cnt; i++) {
        const struct waiting *x = &waiting[i];
        bool there = w->ledger->ended[x->who][x->seq] != 0;
        if (x->events == CRASH_BATCH)
            CRASH_EQUAL(w->ledger->ended[x->who][x->seq + 2] != 0, there);
        CRASH_CHECK(there || !was_there);
        was_there = there;
        *cells += !there;
        *events += there ? 0 : x->events;
    }
    for (uint32_t seq = 1; seq <= oldest_other; seq++)
        CRASH_EQUAL(w->ledger->ended[CRASH_OTHER][seq], 1);
    return 0;
}

static int others_go_on(struct crash_world *w, enum crash_kind kind)
{
    return crash_go_on(w, crash_test_sender(w), kind, crash_laps(w, 1));
}

static int check(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    struct shr_account account;
    uint32_t cells, most = w->kind == CRASH_BIG ? 2 : 1;
    uint64_t events, missing;
    (void)child;
    (void)k;
    uint32_t before = w->ledger->sent[CRASH_VICTIM];
    CRASH_TRY(crash_settle(w, new_kind(w), &account));
    bool accepted = w->ledger->sent[CRASH_VICTIM] != before;
    CRASH_CHECK(!accepted || account.dropped != 0 || w->kind == CRASH_BIG);
    note_victims(w);
    for (uint32_t i = 0; w->variant && i < OTHERS_DROP; i++) {
        CRASH_EQUAL(crash_send(w, &w->other, CRASH_INLINE), 0);
        note(w, CRASH_OTHER, CRASH_INLINE);
        most++;
    }
    CRASH_TRY(crash_drain(w));
    CRASH_TRY(check_missing(w, &cells, &events));
    CRASH_CHECK(cells <= most);
    CRASH_CHECK(!accepted || cells != 0 || w->kind == CRASH_BIG);
    crash_sweep(w);
    if (w->exclusive)
        CRASH_EQUAL(crash_join(w, &w->next, CRASH_SUCCESSOR), 0);
    /* A claim that nobody waited for is revoked only now; with it the victim's memory waits, and
     * the lap after the next sweep clears its cell. */
    CRASH_TRY(others_go_on(w, w->kind == CRASH_BIG ? CRASH_INLINE : CRASH_SLAB));
    crash_sweep(w);
    CRASH_TRY(crash_blocks_free(w));
    CRASH_TRY(others_go_on(w, CRASH_SLAB));
    CRASH_EQUAL(crash_leave(&w->next), 0);
    CRASH_TRY(crash_join_again(w, CRASH_LATE, new_kind(w)));
    CRASH_TRY(crash_end(w, &missing));
    CRASH_EQUAL(missing, events);
    return 0;
}

static void run(struct crash_world *w, enum crash_kind old, enum crash_kind fresh)
{
    struct step_scenario s = {.setup = setup,
                              .prepare = prepare,
                              .region = region,
                              .teardown = crash_teardown,
                              .user = w};
    const char *const modes[] = {"shared", "shared, others drop", "exclusive"};
    w->policy = GEB_DROP_OLDEST;
    w->max_event = SHR_CHUNK_BYTES;
    w->slab_bytes = (old == CRASH_BIG ? 2 : 4) * SHR_CHUNK_BYTES;
    w->kind = old;
    w->state = fresh;
    for (int mode = 0; mode < 3; mode++) {
        w->variant = mode == 1;
        w->exclusive = mode == 2;
        crash_run(&s, STEP_KILL, check, "drop %s for %s, %s",
                  old == CRASH_BIG ? "(no blocks)" : crash_kind_text[old], crash_kind_text[fresh],
                  modes[mode]);
    }
}

int main(void)
{
    static struct crash_world w;
    crash_begin();
    run(&w, CRASH_INLINE, CRASH_INLINE);
    run(&w, CRASH_SLAB, CRASH_INLINE);
    run(&w, CRASH_SLAB, CRASH_SLAB);
    run(&w, CRASH_BATCH3, CRASH_BATCH3);
    run(&w, CRASH_BIG, CRASH_BIG);
    printf("an event waited for %u polls at most\n", w.most_polls);
    return crash_report("crash_drop");
}
