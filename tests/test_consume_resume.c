/* Goal: a consumer that dies between any two stores of a take or a finish leaves each event to
 * exactly one outcome: Block and ReturnError hand it out again and say so, drop-oldest counts it as
 * lost_in_crash, and one that was finished is never seen again. So for a death while resuming.
 *
 * Method: a first consumer takes the event; the stores behind that point are made, or taken back,
 * by hand; then successors start, of which all but the last die at once.
 */
#include "shmring/consume.h"
#include "shmring/slab.h"
#include "tests/ring_support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define EVENTS 3u /* in the cell in hand: numbers 4 … 6; 3 was dropped before it, 7 waits behind */

static struct shr_consumer consumer;
static struct shr_item item;
static uint64_t hand_pos, hand_ref;

enum stage {
    HALF_IN_HAND, /* the hand's fields are new, its pos is 0 */
    IN_HAND,      /* drop-oldest: tail is not moved yet */
    TAKEN,
    GAP_COUNTED,
    APPLIED, /* only for several outcomes: written into the hand */
    RAISED_SOME,
    RAISED,
    SEEN,
    FREED,
    PASSED, /* Block, ReturnError: tail is moved */
    STAGES,
};

static uint64_t column(uint32_t col)
{
    return shr_load_relaxed(&ring_map.tally->col[col]);
}

static const uint64_t add[SHR_COL_CNT] = {[SHR_COL_DELIVERED] = 2, [SHR_COL_EXPIRED] = 1};

/* The first consumer's take, and what it did until it died. */
static void die_at(enum stage stage, bool mixed)
{
    struct shr_hand *hand = &ring_map.hands[0];
    struct shr_tally *tally = ring_map.tally;
    struct shr_consumer first;
    uint64_t words[SHR_CELL_WORDS];
    hand_ref = ring_block(1, 300);
    ring_compose_slab(words, 1, 4, hand_ref, 300, EVENTS);
    hand_pos = ring_commit_words(words);
    ring_commit(1, 4 + EVENTS);
    shr_store_relaxed(&ring_map.track[1].seen, 2);
    shr_store_relaxed(&tally->col[SHR_COL_DELIVERED], 2);
    shr_consumer_init(&first, &ring_map);
    assert_int_equal(shr_next(&first, &item), 1);
    assert_int_equal(item.number, 4);
    if (stage < GAP_COUNTED)
        shr_store_relaxed(&tally->dropped, 0);
    if (stage < TAKEN)
        shr_store_relaxed(&ring.hot->tail, hand_pos);
    if (stage < IN_HAND)
        shr_store_relaxed(&hand->pos, 0);
    if (mixed && stage >= APPLIED) {
        for (uint32_t i = 0; i < SHR_COL_CNT; i++)
            shr_store_relaxed(&hand->after[i], column(i) + add[i]);
        shr_store_relaxed(&hand->applied, hand_pos);
    }
    if (stage >= RAISED_SOME)
        shr_store_relaxed(&tally->col[SHR_COL_DELIVERED], 2 + (mixed ? 2 : EVENTS));
    if (mixed && stage >= RAISED)
        shr_store_relaxed(&tally->col[SHR_COL_EXPIRED], 1);
    if (stage >= SEEN)
        shr_store_relaxed(&ring_map.track[1].seen, 3 + EVENTS);
    if (stage >= FREED)
        assert_true(shr_block_free(&ring_map, hand_ref));
    if (stage >= PASSED)
        shr_store_relaxed(&ring.hot->tail, hand_pos + 1);
}

/* Starts successors that die at once; `dirty`: before they cleared the hand. */
static void start_again(uint32_t times, bool dirty)
{
    for (uint32_t i = 0; i < times; i++) {
        uint64_t pos = shr_load_relaxed(&ring_map.hands[0].pos);
        shr_consumer_init(&consumer, &ring_map);
        if (dirty && i + 1 < times)
            shr_store_relaxed(&ring_map.hands[0].pos, pos);
    }
}

static void check_balance(void)
{
    struct shr_account account;
    uint64_t sum = 0;
    assert_int_equal(shr_account(&ring_map, &account, NULL), 0);
    for (uint32_t i = 0; i < SHR_COL_CNT; i++)
        sum += account.col[i];
    assert_int_equal(account.accepted, 4 + EVENTS);
    assert_int_equal(account.dropped, 1);
    assert_int_equal(sum + account.dropped + account.pending, account.accepted);
}

static void resume(uint32_t policy, enum stage stage, bool mixed, uint32_t times, bool dirty)
{
    bool drop_oldest = policy == SHR_DROP_OLDEST;
    bool finished = stage >= (mixed ? APPLIED : RAISED_SOME);
    bool lost = drop_oldest && !finished && stage >= TAKEN;
    bool again = !drop_oldest && !finished && stage >= IN_HAND;
    ring_open(policy, 8, 4);
    die_at(stage, mixed);
    start_again(times, dirty);
    check_balance();
    if (!finished && !lost) {
        assert_int_equal(shr_next(&consumer, &item), 1);
        assert_int_equal(item.pos, hand_pos);
        assert_int_equal(item.number, 4);
        assert_int_equal(item.events, EVENTS);
        assert_int_equal(item.attempt, again ? 1 + times : 1);
        assert_true(shr_block_valid(&ring_map, hand_ref, 300));
        check_balance();
        if (mixed)
            shr_finish_mixed(&consumer, &item, add);
        else
            shr_finish(&consumer, &item, SHR_COL_DELIVERED);
    }
    check_balance();
    assert_false(shr_block_valid(&ring_map, hand_ref, 300));
    assert_int_equal(shr_next(&consumer, &item), 1);
    assert_int_equal(item.number, 4 + EVENTS);
    assert_int_equal(item.attempt, 1);
    shr_finish(&consumer, &item, SHR_COL_DELIVERED);
    assert_int_equal(shr_next(&consumer, &item), 0);
    check_balance();
    uint64_t delivered = 3 + (lost ? 0 : mixed ? 2 : EVENTS);
    assert_int_equal(column(SHR_COL_DELIVERED), delivered);
    assert_int_equal(column(SHR_COL_EXPIRED), mixed && !lost ? 1 : 0);
    assert_int_equal(column(SHR_COL_LOST_IN_CRASH), lost ? EVENTS : 0);
    assert_int_equal(shr_load_relaxed(&ring_map.tally->redelivered), again ? EVENTS : 0);
    assert_int_equal(shr_load_relaxed(&ring_map.tally->attempts), 0);
    assert_int_equal(shr_load_relaxed(&ring_map.tally->dropped), 1);
    ring_close(NULL);
}

static void every_event_has_one_outcome_wherever_the_consumer_died(void **state)
{
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        for (enum stage stage = HALF_IN_HAND; stage < STAGES; stage++) {
            if (policy == SHR_DROP_OLDEST && stage == PASSED)
                continue;
            for (uint32_t i = 0; i < 12; i++)
                resume(policy, stage, i % 2, 1 + i / 2 % 3, i >= 6);
        }
    }
}

/* An orderly end, and a start on a bus that never had a consumer, are no crash. */
static void nothing_in_hand_is_nothing_lost(void **state)
{
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        ring_open(policy, 8, 0);
        ring_start_at(1000);
        for (uint64_t n = 1; n <= 6; n++) {
            ring_commit(2, n);
            shr_consumer_init(&consumer, &ring_map);
            assert_int_equal(shr_next(&consumer, &item), 1);
            assert_int_equal(item.number, n);
            assert_int_equal(item.attempt, 1);
            shr_finish(&consumer, &item, SHR_COL_DELIVERED);
            assert_int_equal(shr_next(&consumer, &item), 0);
        }
        shr_flush(&consumer);
        shr_consumer_init(&consumer, &ring_map);
        assert_int_equal(shr_next(&consumer, &item), 0);
        assert_int_equal(column(SHR_COL_DELIVERED), 6);
        assert_int_equal(column(SHR_COL_LOST_IN_CRASH), 0);
        assert_int_equal(shr_load_relaxed(&ring_map.tally->redelivered), 0);
        assert_int_equal(shr_load_relaxed(&ring_map.tally->dropped), 0);
        ring_close(NULL);
    }
}

/* An event that kills each of its consumers says how often; the next event starts anew. */
static void attempts_are_counted_until_the_event_is_finished(void **state)
{
    (void)state;
    ring_open(SHR_BLOCK, 8, 0);
    ring_commit(1, 1);
    ring_commit(1, 2);
    for (uint32_t attempt = 1; attempt <= 5; attempt++) {
        shr_consumer_init(&consumer, &ring_map);
        assert_int_equal(shr_next(&consumer, &item), 1);
        assert_int_equal(item.number, 1);
        assert_int_equal(item.attempt, attempt);
    }
    assert_int_equal(shr_load_relaxed(&ring_map.tally->redelivered), 4);
    shr_finish(&consumer, &item, SHR_COL_DELIVERED);
    assert_int_equal(shr_next(&consumer, &item), 1);
    assert_int_equal(item.attempt, 1);
    shr_consumer_init(&consumer, &ring_map);
    assert_int_equal(shr_next(&consumer, &item), 1);
    assert_int_equal(item.number, 2);
    assert_int_equal(item.attempt, 2);
    shr_finish(&consumer, &item, SHR_COL_DELIVERED);
    assert_int_equal(column(SHR_COL_DELIVERED), 2);
    ring_close(NULL);
}

/* An event that killed consumers, and whose last one died when it was finished. */
static void attempts_end_with_the_event(void **state)
{
    (void)state;
    ring_open(SHR_BLOCK, 8, 0);
    ring_commit(1, 1);
    ring_commit(1, 2);
    for (uint32_t attempt = 1; attempt <= 3; attempt++) {
        shr_consumer_init(&consumer, &ring_map);
        assert_int_equal(shr_next(&consumer, &item), 1);
        assert_int_equal(item.attempt, attempt);
    }
    shr_store_relaxed(&ring_map.tally->col[SHR_COL_DELIVERED], 1);
    for (uint32_t attempt = 1; attempt <= 2; attempt++) {
        shr_consumer_init(&consumer, &ring_map);
        assert_int_equal(shr_next(&consumer, &item), 1);
        assert_int_equal(item.number, 2);
        assert_int_equal(item.attempt, attempt);
    }
}

/* The hand names a slot that does not exist: its event is lost, and nothing behind the table of
 * producers is written. */
static void a_damaged_hand_does_no_harm(void **state)
{
    struct shr_hand *hand;
    (void)state;
    ring_open(SHR_DROP_OLDEST, 8, 0);
    uint32_t slot = ring_map.geo.producer_cnt + 1;
    ring_commit(1, 1);
    shr_consumer_init(&consumer, &ring_map);
    assert_int_equal(shr_next(&consumer, &item), 1);
    hand = &ring_map.hands[0];
    shr_store_relaxed(&hand->meta, shr_meta(1, slot, 16, 0));
    uint64_t behind = shr_load_relaxed(&ring_map.track[slot].seen);
    shr_store_relaxed(&hand->number, behind + 77);
    shr_consumer_init(&consumer, &ring_map);
    assert_int_equal(shr_load_relaxed(&ring_map.track[slot].seen), behind);
    assert_int_equal(column(SHR_COL_LOST_IN_CRASH), 1);
    assert_int_equal(shr_load_relaxed(&hand->pos), 0); /* nobody need wait for its block */
    ring_commit(1, 2);
    assert_int_equal(shr_next(&consumer, &item), 1);
    assert_int_equal(item.number, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(every_event_has_one_outcome_wherever_the_consumer_died,
                                  ring_close),
        cmocka_unit_test_teardown(nothing_in_hand_is_nothing_lost, ring_close),
        cmocka_unit_test_teardown(attempts_are_counted_until_the_event_is_finished, ring_close),
        cmocka_unit_test_teardown(attempts_end_with_the_event, ring_close),
        cmocka_unit_test_teardown(a_damaged_hand_does_no_harm, ring_close),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
