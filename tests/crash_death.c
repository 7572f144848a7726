#include "tests/crash_death.h"

#include <errno.h>
#include <string.h>

/* In the ledger, `silent` says why no handler is due. */
#define DUE     0u
#define NOBODY  1u
#define EXPIRED 2u

static int fail(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)ctx;
    (void)event;
    (void)user;
    return -EIO;
}

int crash_death_handlers(struct crash_world *w)
{
    return geb_on(w->bus, "events", fail, NULL);
}

int crash_death_open(struct crash_world *w)
{
    int rc = crash_open(w);
    return rc < 0 ? rc : crash_death_handlers(w);
}

void crash_death_points(const struct crash_world *w, struct step_scenario *s)
{
    if (w->policy != GEB_RETURN_ERROR && !w->exclusive)
        return;
    s->skip_private = true;
    if (support_depth() != SUPPORT_LONG)
        s->same = crash_same;
}

int crash_death_setup(void *user)
{
    struct crash_world *w = user;
    int rc = crash_create(w);
    if (rc == 0)
        rc = crash_close(w);
    if (rc == 0 && w->exclusive)
        rc = crash_join(w, &w->next, CRASH_SUCCESSOR);
    return rc;
}

int crash_death_send(struct crash_world *w, struct crash_sender *s, enum crash_outcome outcome)
{
    if (outcome == CRASH_HANDLED || outcome == CRASH_BLOCK || outcome == CRASH_MIXED)
        return crash_send(w, s,
                          outcome == CRASH_HANDLED ? CRASH_INLINE
                          : outcome == CRASH_BLOCK ? CRASH_SLAB
                                                   : CRASH_BATCH3);
    struct geb_options options = GEB_OPTIONS_INIT;
    uint32_t words[2] = {s->who, w->ledger->sent[s->who] + 1};
    options.wait_until_ns = 0;
    options.deadline_ns = outcome == CRASH_EXPIRED ? 1 : 0;
    int rc = geb_publish_with(s->p, outcome == CRASH_EXPIRED ? s->topic : s->nobody, words,
                              sizeof(words), &options);
    if (rc < 0)
        return rc;
    w->ledger->silent[s->who][words[1]] = outcome == CRASH_EXPIRED ? EXPIRED : NOBODY;
    w->ledger->accepted[s->p->slot]++;
    w->ledger->sent[s->who]++;
    return 0;
}

void crash_death_words(const struct crash_world *w, const struct crash_sender *s,
                       uint64_t words[SHR_CELL_WORDS])
{
    memset(words, 0, SHR_CELL_WORDS * sizeof(words[0]));
    words[SHR_WORD_META] = shr_meta(s->topic, s->p->slot, 8, 0);
    words[SHR_WORD_NUMBER] = (uint32_t)(s->p->writer.number + 1);
    words[SHR_WORD_BODY] = (uint64_t)(w->ledger->sent[s->who] + 1) << 32 | s->who;
}

/* ---- checks ---------------------------------------------------------------------------------- */

/* What the ledger says of all events. */
struct sum {
    uint64_t due[3];  /* by outcome */
    uint64_t missing; /* handlers that are due and did not end */
    uint64_t begun, ended, again;
};

static int sum_all(const struct crash_world *w, struct sum *sum)
{
    const struct crash_ledger *l = w->ledger;
    *sum = (struct sum){0};
    for (uint32_t who = 0; who < CRASH_SENDERS; who++) {
        for (uint32_t seq = 1; seq < CRASH_SEQS; seq++) {
            bool sent = seq <= l->sent[who];
            bool due = sent && l->silent[who][seq] == DUE;
            CRASH_CHECK(l->begun[who][seq] <= due + l->again[who][seq]);
            CRASH_CHECK(l->ended[who][seq] <= l->begun[who][seq]);
            if (sent)
                sum->due[l->silent[who][seq]]++;
            sum->missing += due && l->ended[who][seq] == 0;
            sum->begun += l->begun[who][seq];
            sum->ended += l->ended[who][seq];
            sum->again += l->again[who][seq];
        }
    }
    return 0;
}

int crash_death_note(struct crash_world *w, struct crash_death *death)
{
    struct shr_account account;
    struct sum sum;
    CRASH_TRY(crash_account_agrees(w, &account));
    CRASH_TRY(sum_all(w, &sum));
    death->begun = sum.begun;
    death->ended = sum.ended;
    death->dropped = account.dropped;
    memcpy(death->col, account.col, sizeof(death->col));
    /* Finished means that its handlers have ended. */
    CRASH_CHECK(death->col[SHR_COL_DELIVERED] <= sum.ended);
    CRASH_CHECK(sum.begun - sum.ended <= 1);
    CRASH_CHECK(death->col[SHR_COL_LOST_IN_CRASH] <= death->in_hand);
    return 0;
}

int crash_death_check(struct crash_world *w, const struct crash_death *death)
{
    struct shr_account account;
    struct sum sum;
    CRASH_TRY(crash_account_agrees(w, &account));
    CRASH_TRY(sum_all(w, &sum));
    uint64_t lost = account.col[SHR_COL_LOST_IN_CRASH];
    uint64_t begun = sum.begun - death->begun;
    uint64_t unfinished = sum.due[DUE] - death->col[SHR_COL_DELIVERED];
    CRASH_EQUAL(account.pending, 0);
    CRASH_EQUAL(account.dropped, death->dropped);
    CRASH_EQUAL(account.col[SHR_COL_DELIVERED] + account.col[SHR_COL_UNHANDLED] +
                    account.col[SHR_COL_EXPIRED] + lost + account.dropped,
                account.accepted);
    if (w->policy == GEB_DROP_OLDEST) {
        CRASH_EQUAL(sum.again, 0);
        CRASH_CHECK(lost <= death->in_hand);
        CRASH_CHECK(sum.missing <= lost + account.dropped);
        CRASH_CHECK(begun <= unfinished && begun + lost + account.dropped >= unfinished);
    } else {
        CRASH_EQUAL(lost, 0);
        CRASH_EQUAL(sum.missing, 0);
        CRASH_CHECK(sum.again <= death->in_hand);
        CRASH_EQUAL(begun, unfinished);
        CRASH_EQUAL(account.col[SHR_COL_DELIVERED], sum.due[DUE]);
        CRASH_EQUAL(account.col[SHR_COL_UNHANDLED], sum.due[NOBODY]);
        CRASH_EQUAL(account.col[SHR_COL_EXPIRED], sum.due[EXPIRED]);
    }
    return 0;
}

int crash_death_end(struct crash_world *w, const struct crash_death *death)
{
    CRASH_TRY(crash_blocks_free(w));
    CRASH_TRY(crash_go_on(w, crash_test_sender(w), CRASH_SLAB, crash_laps(w, 2)));
    CRASH_TRY(crash_leave_clean(w));
    return crash_death_check(w, death);
}
