/* Goal: at any quiet moment accepted = the sum of the columns, with pending counted and not
 * computed; quiet also means: the consumer or a producer died, or stands still, at any store.
 *
 * Method: the states between two stores of a take, a finish and a publish are made one by one by
 * hand; in each the account must balance, and each event stand in the one column that is its own.
 */
#include "shmring/consume.h"
#include "shmring/peer.h"
#include "tests/ring_support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct shr_consumer consumer;
static struct shr_item item;
static struct shr_account account;

static void look(const char *when, uint64_t accepted, uint64_t delivered, uint64_t dropped,
                 uint64_t pending)
{
    struct shr_slot_account slots[5];
    uint64_t sum = 0;
    assert_int_equal(shr_account(&ring_map, &account, slots), 0);
    for (uint32_t i = 0; i < SHR_COL_CNT; i++)
        sum += account.col[i];
    if (account.accepted != accepted || account.col[SHR_COL_DELIVERED] != delivered ||
        account.dropped != dropped || account.pending != pending ||
        sum + dropped + pending != accepted)
        fail_msg("%s: accepted %llu = delivered %llu (columns %llu) + dropped %llu + pending %llu",
                 when, (unsigned long long)account.accepted,
                 (unsigned long long)account.col[SHR_COL_DELIVERED], (unsigned long long)sum,
                 (unsigned long long)account.dropped, (unsigned long long)account.pending);
    uint64_t all = 0;
    for (uint32_t slot = 1; slot <= ring_map.geo.producer_cnt; slot++)
        all += slots[slot].accepted;
    assert_int_equal(all, accepted);
}

static void pending_is_what_is_in_the_ring(void **state)
{
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        ring_open(policy, 16, 0);
        shr_consumer_init(&consumer, &ring_map);
        look("empty", 0, 0, 0, 0);
        ring_commit(1, 1);
        ring_claim();
        ring_commit(2, 1);
        ring_commit(1, 2);
        look("three, and a claim", 3, 0, 0, 3);
        assert_int_equal(account.used, 4);
        assert_int_equal(shr_next(&consumer, &item), 1);
        look("one in hand", 3, 0, 0, 3);
        shr_finish(&consumer, &item, SHR_COL_DELIVERED);
        look("one delivered", 3, 1, 0, 2);
        ring_close(NULL);
    }
}

/* Gaps before the first event that waits, between two, and behind the last one. */
static void gaps_in_the_ring_are_dropped(void **state)
{
    (void)state;
    ring_open(SHR_DROP_OLDEST, 16, 0);
    shr_store_relaxed(&ring_map.track[1].seen, 5);
    shr_store_relaxed(&ring_map.tally->dropped, 5);
    ring_commit(1, 8);
    ring_commit(2, 1);
    ring_commit(1, 11);
    shr_store_relaxed(&ring_map.peers[1].published, 15);
    shr_store_relaxed(&ring_map.peers[3].published, 4); /* nothing of it is left */
    look("gaps", 15 + 1 + 4, 0, 5 + 2 + 2 + 4 + 4, 3);
    /* More than 2³¹ at once, as behind a consumer that was stopped for minutes. */
    uint64_t far = UINT64_C(5000000000);
    ring_commit(2, far);
    look("a great gap", 15 + far + 4, 0, 5 + 2 + 2 + 4 + 4 + far - 2, 4);
    ring_close(NULL);
}

static void batches_count_their_events(void **state)
{
    uint64_t words[SHR_CELL_WORDS];
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        ring_open(policy, 16, 4);
        shr_consumer_init(&consumer, &ring_map);
        ring_compose_slab(words, 1, 1, ring_block(1, 300), 300, 9);
        ring_commit_words(words);
        shr_store_relaxed(&ring_map.peers[1].published, 9);
        ring_commit(1, 10);
        look("a batch waits", 10, 0, 0, 10);
        assert_int_equal(shr_next(&consumer, &item), 1);
        look("a batch in hand", 10, 0, 0, 10);
        uint64_t add[SHR_COL_CNT] = {7, 0, 0, 2, 0, 0};
        shr_finish_mixed(&consumer, &item, add);
        look("a batch ended", 10, 7, 0, 1);
        ring_close(NULL);
    }
}

/* ---- a consumer that stands still between two stores ----------------------------------------- */

struct stage {
    const char *when;
    bool in_hand, taken, gap_counted, raised, seen, passed;
};

/* The order of stores of shr_next and shr_finish; `taken` is drop-oldest's tail, `passed` that of
 * the other policies. Event 4 of slot 1 is in hand, 3 was dropped before it, 5 waits behind. */
static const struct stage stages[] = {
    {.when = "before"},
    {.when = "in hand", .in_hand = true},
    {.when = "taken", .in_hand = true, .taken = true},
    {.when = "gap counted", .in_hand = true, .taken = true, .gap_counted = true},
    {.when = "raised", .in_hand = true, .taken = true, .gap_counted = true, .raised = true},
    {.when = "seen",
     .in_hand = true,
     .taken = true,
     .gap_counted = true,
     .raised = true,
     .seen = true},
    {.when = "passed",
     .in_hand = true,
     .taken = true,
     .gap_counted = true,
     .raised = true,
     .seen = true,
     .passed = true},
};

static void apply(const struct stage *stage, bool drop_oldest)
{
    struct shr_hand *hand = &ring_map.hands[0];
    uint64_t pos = ring_commit(1, 4);
    ring_commit(1, 5);
    shr_store_relaxed(&ring_map.tally->col[SHR_COL_DELIVERED], 2);
    shr_store_relaxed(&ring_map.track[1].seen, stage->seen ? 4 : 2);
    shr_store_relaxed(&hand->meta, shr_meta(1, 1, 16, 0));
    shr_store_relaxed(&hand->number, 4);
    shr_store_relaxed(&hand->events, 1);
    shr_store_relaxed(&hand->sum_before, 2);
    shr_store_relaxed(&hand->dropped_after, 1);
    if (stage->in_hand)
        shr_store_relaxed(&hand->pos, pos);
    if (drop_oldest ? stage->taken : stage->passed)
        shr_store_relaxed(&ring.hot->tail, pos + 1);
    if (stage->gap_counted)
        shr_store_relaxed(&ring_map.tally->dropped, 1);
    if (stage->raised)
        shr_store_relaxed(&ring_map.tally->col[SHR_COL_DELIVERED], 3);
}

static void it_balances_wherever_the_consumer_stands(void **state)
{
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        for (uint32_t i = 0; i < sizeof(stages) / sizeof(stages[0]); i++) {
            ring_open(policy, 8, 0);
            apply(&stages[i], policy == SHR_DROP_OLDEST);
            look(stages[i].when, 5, stages[i].raised ? 3 : 2, 1, stages[i].raised ? 1 : 2);
            ring_close(NULL);
        }
    }
}

/* A mixed batch of 5 is applied column by column; from `applied` on it is finished. */
static void it_balances_within_a_mixed_batch(void **state)
{
    const uint64_t add[SHR_COL_CNT] = {2, 1, 0, 1, 1, 0};
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        for (uint32_t stored = 0; stored <= SHR_COL_CNT; stored++) {
            uint64_t words[SHR_CELL_WORDS];
            ring_open(policy, 8, 4);
            shr_consumer_init(&consumer, &ring_map);
            ring_compose_slab(words, 1, 1, ring_block(1, 300), 300, 5);
            ring_commit_words(words);
            shr_store_relaxed(&ring_map.peers[1].published, 5);
            ring_commit(2, 1);
            assert_int_equal(shr_next(&consumer, &item), 1);
            struct shr_hand *hand = &ring_map.hands[0];
            for (uint32_t i = 0; i < SHR_COL_CNT; i++)
                shr_store_relaxed(&hand->after[i], add[i]);
            look("not applied", 6, 0, 0, 6);
            shr_store_relaxed(&hand->applied, item.pos);
            for (uint32_t i = 0; i < stored; i++)
                shr_store_relaxed(&ring_map.tally->col[i], add[i]);
            look("applied", 6, 2, 0, 1);
            ring_close(NULL);
        }
    }
}

/* ---- producers that died --------------------------------------------------------------------- */

/* The event is committed, its producer died before it counted it; the claim or the cell knows. */
static void an_event_that_its_producer_did_not_count_is_accepted(void **state)
{
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        ring_open(policy, 8, 0);
        shr_consumer_init(&consumer, &ring_map);
        uint64_t pos = ring_commit(1, 1);
        shr_store_relaxed(&ring_map.peers[1].published, 0);
        shr_store_relaxed(&ring_map.peers[1].busy, pos << 1 | SHR_BUSY_EXACT);
        look("waits", 1, 0, 0, 1);
        assert_int_equal(shr_next(&consumer, &item), 1);
        look("in hand", 1, 0, 0, 1);
        shr_finish(&consumer, &item, SHR_COL_DELIVERED);
        look("delivered", 1, 1, 0, 0);
        /* The claim of a dead one that did not commit is no event. */
        shr_store_relaxed(&ring_map.peers[2].busy, ring_claim() << 1 | SHR_BUSY_EXACT);
        look("a claim", 1, 1, 0, 0);
        ring_close(NULL);
    }
}

static void exclusive_events_beyond_head_are_accepted(void **state)
{
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        uint64_t words[SHR_CELL_WORDS];
        ring_open_exclusive(policy, 8);
        ring_commit(1, 1);
        /* The next one is READY; its producer died before the count and before head. */
        uint64_t pos = shr_load_relaxed(&ring.hot->head);
        ring_compose(words, 1, 2);
        for (uint32_t i = 0; i < SHR_CELL_WORDS; i++)
            shr_store_relaxed(&shr_cell_at(&ring, pos)->word[i], words[i]);
        ring_set_state(pos, shr_state(pos, SHR_TAG_READY));
        look("beyond head", 2, 0, 0, 2);
        shr_store_relaxed(&ring_map.peers[1].published, 2);
        look("counted", 2, 0, 0, 2);
        shr_consumer_init(&consumer, &ring_map);
        for (uint64_t n = 1; n <= 2; n++) {
            assert_int_equal(shr_next(&consumer, &item), 1);
            assert_int_equal(item.number, n);
            shr_finish(&consumer, &item, SHR_COL_DELIVERED);
        }
        look("delivered", 2, 2, 0, 0);
        ring_close(NULL);
    }
}

/* The same, and a producer dropped it before anybody else saw it: only the claim of the dead one
 * and the cell that it names still know of it. */
static void a_dropped_event_that_nobody_counted_is_dropped(void **state)
{
    (void)state;
    ring_open(SHR_DROP_OLDEST, 8, 0);
    uint64_t pos = ring_commit(1, 1);
    shr_store_relaxed(&ring_map.peers[1].published, 0);
    shr_store_relaxed(&ring_map.peers[1].busy, pos << 1 | SHR_BUSY_EXACT);
    shr_store_relaxed(&ring.hot->tail, pos + 1);
    look("dropped", 1, 0, 1, 0);
    ring_close(NULL);
}

/* What stands in damaged cells may be miscounted, but harms nobody who looks. */
static void looking_at_damaged_cells_does_no_harm(void **state)
{
    uint64_t words[SHR_CELL_WORDS];
    (void)state;
    ring_open(SHR_BLOCK, 16, 2);
    for (uint32_t round = 0; round < 3000; round++) {
        ring_start_at(1000);
        for (uint32_t n = 0; n < 16; n++) {
            for (uint32_t i = 0; i < SHR_CELL_WORDS; i++)
                words[i] = support_random();
            uint64_t pos = ring_commit_words(words);
            if (support_random() % 4 == 0)
                ring_set_state(pos, support_random());
        }
        shr_store_relaxed(&ring_map.hands[0].pos, support_random() % 2000);
        shr_store_relaxed(&ring_map.hands[0].meta, support_random());
        shr_store_relaxed(&ring_map.peers[1].busy, support_random());
        assert_int_equal(shr_account(&ring_map, &account, NULL), 0);
        assert_true(account.used <= 16);
    }
    ring_close(NULL);
}

/* Cells of which nobody can say whose they are, and positions that cannot be. */
static void what_cannot_be_is_not_pending(void **state)
{
    uint64_t words[SHR_CELL_WORDS];
    (void)state;
    ring_open(SHR_BLOCK, 16, 0);
    ring_start_at(1000);
    ring_commit(1, 1);
    ring_compose(words, 0, 1);
    ring_commit_words(words);
    look("an event of slot 0", 1, 0, 0, 1);
    assert_int_equal(account.used, 2);
    /* The cells of these positions are claimed again: they may change as we copy. */
    for (uint32_t i = 3; i < ring.cell_cnt; i++)
        ring_claim();
    look("one position less than a lap", 1, 0, 0, 1);
    ring_claim();
    assert_int_equal(shr_account(&ring_map, &account, NULL), 0);
    assert_int_equal(account.pending, 0);
    shr_fetch_add_relaxed(&ring.hot->head, UINT64_C(1) << 50);
    alarm(30); /* it ends all the same */
    assert_int_equal(shr_account(&ring_map, &account, NULL), 0);
    alarm(0);
    assert_int_equal(account.pending, 0);
    shr_store_relaxed(&ring.hot->head, 990); /* behind tail */
    assert_int_equal(shr_account(&ring_map, &account, NULL), 0);
    assert_int_equal(account.pending, 0);
    assert_int_equal(account.used, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(pending_is_what_is_in_the_ring, ring_close),
        cmocka_unit_test_teardown(gaps_in_the_ring_are_dropped, ring_close),
        cmocka_unit_test_teardown(batches_count_their_events, ring_close),
        cmocka_unit_test_teardown(it_balances_wherever_the_consumer_stands, ring_close),
        cmocka_unit_test_teardown(it_balances_within_a_mixed_batch, ring_close),
        cmocka_unit_test_teardown(an_event_that_its_producer_did_not_count_is_accepted, ring_close),
        cmocka_unit_test_teardown(a_dropped_event_that_nobody_counted_is_dropped, ring_close),
        cmocka_unit_test_teardown(exclusive_events_beyond_head_are_accepted, ring_close),
        cmocka_unit_test_teardown(looking_at_damaged_cells_does_no_harm, ring_close),
        cmocka_unit_test_teardown(what_cannot_be_is_not_pending, ring_close),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
