/* Goal: each event that is taken ends in exactly one column, gaps in the producers' numbers are
 * counted as dropped, and no bytes in a cell do any harm.
 *
 * Method: events are committed by hand, with numbers and damage that no honest producer makes; the
 * fuzz test fills whole cells from a seeded generator and checks what the consumer hands out.
 * test_consume_resume.c has consumers that die.
 */
#include "shmring/consume.h"
#include "shmring/slab.h"
#include "tests/ring_support.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define OLD_AGE (UINT64_C(1) << 40)

static struct shr_consumer consumer;
static struct shr_item item;

static void consumer_open(uint32_t policy, uint32_t capacity, uint32_t chunks)
{
    ring_open(policy, capacity, chunks);
    shr_consumer_init(&consumer, &ring_map);
    consumer.taker.now_ns = ring_clock;
}

static uint64_t column(uint32_t col)
{
    return shr_load_relaxed(&ring_map.tally->col[col]);
}

static uint64_t dropped(void)
{
    return shr_load_relaxed(&ring_map.tally->dropped);
}

static uint64_t bad_bytes(void)
{
    return shr_load_relaxed(&ring_map.peers[0].bad_bytes);
}

/* ---- columns --------------------------------------------------------------------------------- */

static void an_event_raises_one_column(void **state)
{
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        uint64_t want[SHR_COL_CNT] = {0};
        consumer_open(policy, 8, 0);
        for (uint32_t n = 1; n <= 5 * SHR_COL_CNT; n++) {
            uint64_t pos = ring_commit(1, n);
            assert_int_equal(shr_next(&consumer, &item), 1);
            assert_int_equal(item.pos, pos);
            assert_int_equal(item.number, n);
            assert_int_equal(item.attempt, 1);
            shr_finish(&consumer, &item, n * n % SHR_COL_CNT);
            want[n * n % SHR_COL_CNT]++;
            for (uint32_t i = 0; i < SHR_COL_CNT; i++)
                assert_int_equal(column(i), want[i]);
            assert_int_equal(shr_load_relaxed(&ring.hot->tail), pos + 1);
            assert_int_equal(shr_load_relaxed(&ring_map.track[1].seen), n);
        }
        assert_int_equal(shr_next(&consumer, &item), 0);
        assert_int_equal(dropped() + bad_bytes(), 0);
        ring_close(NULL);
    }
}

static void a_batch_may_end_in_several_columns(void **state)
{
    const uint64_t add[SHR_COL_CNT] = {3, 1, 0, 2, 0, 0};
    uint64_t words[SHR_CELL_WORDS];
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        consumer_open(policy, 8, 4);
        for (uint64_t round = 0; round < 3; round++) {
            uint64_t ref = ring_block(2, 600);
            ring_compose_slab(words, 2, 1 + 6 * round, ref, 600, 6);
            ring_commit_words(words);
            assert_int_equal(shr_next(&consumer, &item), 1);
            assert_int_equal(item.events, 6);
            assert_ptr_equal(item.data, shr_block_data(&ring_map, ref));
            shr_finish_mixed(&consumer, &item, add);
            for (uint32_t i = 0; i < SHR_COL_CNT; i++)
                assert_int_equal(column(i), (round + 1) * add[i]);
            assert_int_equal(shr_load_relaxed(&ring_map.track[2].seen), 6 * (round + 1));
            assert_false(shr_block_valid(&ring_map, ref, 600));
        }
        assert_int_equal(dropped(), 0);
        ring_close(NULL);
    }
}

/* Numbers are carried as 32 bits; their gaps are right across 2³², for each producer apart. */
static void gaps_are_dropped_events(void **state)
{
    const uint32_t step[] = {1, 1, 4, 1, 2, 1, 3000000000, 1}; /* one is more than 2³¹ */
    const uint64_t start[] = {0, UINT32_MAX - 4, OLD_AGE - 2};
    (void)state;
    for (uint32_t i = 0; i < 9; i++) {
        uint64_t want = 0;
        uint64_t number[3] = {0, start[i / 3], 7};
        consumer_open(i % 3, 8, 0);
        for (uint32_t slot = 1; slot <= 2; slot++)
            shr_store_relaxed(&ring_map.track[slot].seen, number[slot]);
        for (uint32_t n = 0; n < 16; n++) {
            uint32_t slot = 1 + n % 2;
            number[slot] += step[n / 2];
            want += step[n / 2] - 1;
            ring_commit(slot, number[slot]);
            assert_int_equal(shr_next(&consumer, &item), 1);
            assert_int_equal(item.slot, slot);
            assert_int_equal(item.number, number[slot]);
            assert_int_equal(dropped(), want);
            shr_finish(&consumer, &item, SHR_COL_DELIVERED);
        }
        ring_close(NULL);
    }
}

static void done_follows_in_batches_and_at_the_flush(void **state)
{
    (void)state;
    consumer_open(SHR_BLOCK, 4 * SHR_DONE_BATCH, 0);
    uint64_t base = shr_load_relaxed(&ring.hot->head);
    for (uint64_t n = 1; n <= SHR_DONE_BATCH + 1; n++)
        ring_commit(1, n);
    for (uint64_t n = 1; n <= SHR_DONE_BATCH + 1; n++) {
        assert_int_equal(shr_next(&consumer, &item), 1);
        shr_finish(&consumer, &item, SHR_COL_DELIVERED);
        shr_flush_batch(&consumer);
        uint64_t done = n < SHR_DONE_BATCH ? base : base + SHR_DONE_BATCH;
        assert_int_equal(shr_load_relaxed(&ring.hot->done), done);
    }
    assert_true(shr_is_idle(&consumer));
    shr_flush(&consumer);
    assert_int_equal(shr_load_relaxed(&ring.hot->done), base + SHR_DONE_BATCH + 1);
    ring_close(NULL);
}

static void idle_means_that_nothing_waits_in_all_of_the_ring(void **state)
{
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        consumer_open(policy, 8, 0);
        assert_true(shr_is_idle(&consumer));
        ring_claim();
        assert_true(shr_is_idle(&consumer)); /* a claim alone waits for nobody */
        for (uint32_t i = 1; i < 7; i++)
            ring_claim();
        assert_true(shr_is_idle(&consumer));
        ring_claim();
        assert_false(shr_is_idle(&consumer)); /* full: a producer may wait */
        ring_close(NULL);
        consumer_open(policy, 8, 0);
        ring_claim();
        ring_claim();
        ring_commit(1, 1);
        assert_false(shr_is_idle(&consumer)); /* not the first of them */
        ring_close(NULL);
    }
}

/* Twenty laps, at an age at which positions and numbers have long left 32 bits. */
static void an_old_ring_works_like_a_new_one(void **state)
{
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        uint64_t words[SHR_CELL_WORDS];
        struct shr_writer w;
        ring_open(policy, 16, 0);
        ring_start_at(OLD_AGE - 40);
        shr_store_relaxed(&ring_map.peers[1].published, OLD_AGE - 100);
        shr_store_relaxed(&ring_map.track[1].seen, OLD_AGE - 100);
        shr_consumer_init(&consumer, &ring_map);
        shr_writer_init(&w, &ring_map, 1);
        for (uint64_t n = OLD_AGE - 99; n < OLD_AGE + 600;) {
            for (uint32_t i = 0; i < 1 + n % 16; i++, n++) {
                ring_compose(words, 1, n);
                assert_true(shr_publish(&w, words, 1) > 0);
            }
            for (uint64_t next = n - 1; shr_next(&consumer, &item) > 0;) {
                assert_true(item.number <= next);
                assert_memory_equal(item.data + 8, &item.number, 8);
                shr_finish(&consumer, &item, SHR_COL_DELIVERED);
            }
            shr_flush(&consumer);
            assert_int_equal(column(SHR_COL_DELIVERED), n - (OLD_AGE - 99));
        }
        assert_int_equal(dropped() + bad_bytes(), 0);
        ring_close(NULL);
    }
}

/* Takes down the flag of those who sleep at a gate. True: somebody else had. */
static bool is_woken(struct shr_gate *gate)
{
    bool woken = shr_load32_relaxed(&gate->waiting) == 0;
    shr_store32_relaxed(&gate->waiting, 0);
    return woken;
}

static void whoever_waits_is_woken(void **state)
{
    uint64_t words[SHR_CELL_WORDS];
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        consumer_open(policy, 8, 4);
        ring_compose_slab(words, 1, 1, ring_block(1, 500), 500, 0);
        ring_commit_words(words);
        assert_int_equal(shr_next(&consumer, &item), 1);
        shr_store32_relaxed(&ring.hot->freed.waiting, 1);
        shr_finish(&consumer, &item, SHR_COL_DELIVERED);
        assert_true(is_woken(&ring.hot->freed));
        shr_store32_relaxed(&ring.hot->space.waiting, 1);
        shr_flush(&consumer);
        assert_true(is_woken(&ring.hot->space));
        ring_close(NULL);
    }
}

/* ---- a producer drops what the consumer was about to take ------------------------------------ */

static shr_a32 race_over;

static void *drop_and_commit(void *arg)
{
    uint64_t words[SHR_CELL_WORDS];
    struct shr_writer w;
    struct shr_taker k;
    (void)arg;
    shr_writer_init(&w, &ring_map, 1);
    shr_taker_init(&k, &ring_map, 2, &ring_map.peers[2].hand);
    for (uint64_t n = 1; n <= 2000000; n++) {
        ring_compose(words, 1, n);
        while (shr_publish(&w, words, 1) < 0)
            shr_drop(&k, &ring_map, true);
        shr_drop(&k, &ring_map, false);
    }
    shr_store32_release(&race_over, 1);
    return NULL;
}

/* Whenever the consumer finds nothing, nothing is in its hand: an event that it prepared to take
 * and lost to a producer is not in hand, or the account counts it twice. */
static void a_lost_take_leaves_no_event_in_hand(void **state)
{
    pthread_t thread;
    uint64_t looks = 0, stale = 0;
    (void)state;
    consumer_open(SHR_DROP_OLDEST, 8, 0);
    shr_store32_relaxed(&race_over, 0);
    assert_int_equal(pthread_create(&thread, NULL, drop_and_commit, NULL), 0);
    while (shr_load32_acquire(&race_over) == 0) {
        if (shr_next(&consumer, &item) > 0) {
            shr_finish(&consumer, &item, SHR_COL_DELIVERED);
            continue;
        }
        const struct shr_hand *hand = &ring_map.hands[0];
        uint64_t before = shr_load_relaxed(&hand->sum_before);
        looks++;
        stale += shr_load_relaxed(&hand->pos) != 0 && column(SHR_COL_DELIVERED) == before;
    }
    pthread_join(thread, NULL);
    assert_int_equal(stale, 0);
    while (shr_next(&consumer, &item) > 0)
        shr_finish(&consumer, &item, SHR_COL_DELIVERED);
    struct shr_account account;
    assert_int_equal(shr_account(&ring_map, &account, NULL), 0);
    assert_int_equal(account.pending, 0);
    assert_int_equal(account.accepted, account.col[SHR_COL_DELIVERED] + account.dropped);
    assert_int_equal(account.dropped, shr_load_relaxed(&ring_map.peers[2].took_dropped));
    assert_true(looks > 0);
    ring_close(NULL);
}

/* ---- bad bytes ------------------------------------------------------------------------------- */

/* Commits damaged words, then an honest event: the consumer counts the one and gives the other. */
static void refuse(const char *what, const uint64_t words[SHR_CELL_WORDS])
{
    static uint64_t number;
    uint64_t bad_before = bad_bytes();
    ring_commit_words(words);
    ring_commit(4, ++number);
    if (shr_next(&consumer, &item) != 1 || item.slot != 4 || bad_bytes() != bad_before + 1)
        fail_msg("%s: not refused", what);
    shr_finish(&consumer, &item, SHR_COL_DELIVERED);
    assert_int_equal(shr_next(&consumer, &item), 0);
}

/* A call ends though whatever it finds is damaged, and whoever damages it goes on. Its caller sees
 * then whether it is to stop. */
static void damaged_cells_do_not_keep_the_consumer(void **state)
{
    uint64_t words[SHR_CELL_WORDS];
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        consumer_open(policy, 2 * SHR_PASSES_MAX, 0);
        ring_compose(words, 1, 1);
        words[SHR_WORD_META] = shr_meta(UINT16_MAX, 1, 8, 0);
        for (uint32_t i = 0; i < 2 * SHR_PASSES_MAX - 1; i++)
            ring_commit_words(words);
        ring_commit(1, 1);
        assert_int_equal(shr_next(&consumer, &item), 0);
        assert_int_equal(bad_bytes(), SHR_PASSES_MAX);
        assert_int_equal(shr_next(&consumer, &item), 1); /* the good one is the 64th of these */
        assert_int_equal(item.number, 1);
        assert_int_equal(bad_bytes(), 2 * SHR_PASSES_MAX - 1);
        shr_finish(&consumer, &item, SHR_COL_DELIVERED);
        ring_close(NULL);
    }
}

static void each_damaged_field_is_refused(void **state)
{
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        uint64_t words[SHR_CELL_WORDS];
        consumer_open(policy, 16, 4);
        uint64_t ref = ring_block(1, 500);
        uint64_t large = ring_block(1, 2 * ring_map.geo.max_event); /* as if that had been larger */
        ring_compose(words, 1, 1);
        const struct {
            const char *what;
            uint64_t meta;
        } in_line[] = {
            {"slot 0", shr_meta(1, 0, 8, 0)},
            {"slot 5 of 4", shr_meta(1, 5, 8, 0)},
            {"topic 4 of 4", shr_meta(4, 1, 8, 0)},
            {"33 bytes in line", shr_meta(1, 1, 33, 0)},
            {"25 bytes beside an id", shr_meta(1, 1, 25, SHR_FLAG_ID)},
            {"17 bytes beside two words", shr_meta(1, 1, 17, SHR_FLAG_ID | SHR_FLAG_DEADLINE)},
            {"a batch in line", shr_meta(1, 1, 8, SHR_FLAG_BATCH)},
            {"an unknown flag", shr_meta(1, 1, 8, 4)},
            {"an unknown flag, high", shr_meta(1, 1, 8, 0x8000)},
        };
        for (uint32_t i = 0; i < sizeof(in_line) / sizeof(in_line[0]); i++) {
            words[SHR_WORD_META] = in_line[i].meta;
            refuse(in_line[i].what, words);
        }
        const struct {
            const char *what;
            uint64_t ref;
            uint32_t bytes, events;
        } slab[] = {
            {"a chunk beyond the slabs", (ref & ~UINT64_C(0x7ffff)) | 5, 500, 0},
            {"the greatest chunk", ref | 0x7ffff, 500, 0},
            {"another generation", ref + (UINT64_C(1) << 32), 500, 0},
            {"another class", ref ^ UINT64_C(1) << 28, 500, 0},
            {"class 15", ref | UINT64_C(15) << 28, 500, 0},
            {"a free block", ref + (UINT64_C(1) << 19), 500, 0},
            {"reference 0", 0, 500, 0},
            {"more bytes than the block", ref, 513, 0},
            {"more bytes than max_event", large, ring_map.geo.max_event + 1, 0},
            {"2^32 - 1 bytes", ref, UINT32_MAX, 0},
        };
        for (uint32_t i = 0; i < sizeof(slab) / sizeof(slab[0]); i++) {
            ring_compose_slab(words, 1, 1, slab[i].ref, slab[i].bytes, slab[i].events);
            refuse(slab[i].what, words);
        }
        ring_compose_slab(words, 1, 1, ref, 500, 0);
        words[SHR_WORD_META] = shr_meta(1, 1, 0, SHR_FLAG_SLAB | SHR_FLAG_BATCH);
        refuse("a batch of none", words);
        assert_true(shr_block_valid(&ring_map, ref, 500)); /* what is refused is not freed */
        ring_close(NULL);
    }
}

/* What the consumer found damaged may be of a later event: a producer took the one before. */
static void a_cell_that_a_producer_took_is_not_bad(void **state)
{
    (void)state;
    consumer_open(SHR_DROP_OLDEST, 8, 0);
    uint64_t pos = ring_commit(1, 1);
    shr_store_relaxed(&ring.hot->tail, pos + 1);
    shr_pass_bad(&consumer, pos);
    assert_int_equal(bad_bytes(), 0);
    assert_int_equal(shr_load_relaxed(&ring.hot->tail), pos + 1);
    shr_store_relaxed(&ring.hot->tail, pos);
    shr_pass_bad(&consumer, pos);
    assert_int_equal(bad_bytes(), 1);
    assert_int_equal(shr_load_relaxed(&ring.hot->tail), pos + 1);
}

static uint64_t random_state_word(uint64_t pos)
{
    uint64_t r = support_random();
    uint64_t off = (support_random() % 5 - 2) * (ring.cell_cnt / (1 + r % 2));
    return r % 8 == 0 ? support_random() : shr_state(pos + off, r >> 8 & 7) | (r >> 16 & 7) << 3;
}

/* Cells of which each field is honest, or random, or whole words are. */
static void random_words(uint64_t words[SHR_CELL_WORDS], uint64_t ref, uint64_t number)
{
    uint64_t r = support_random();
    if (r & 1)
        ring_compose(words, 1 + (uint32_t)(r >> 1 & 3), number);
    else
        ring_compose_slab(words, 1, number, ref, (uint32_t)(r >> 3 & 1023), r >> 13 & 3);
    for (uint32_t i = 0; i < SHR_CELL_WORDS; i++) {
        if ((r >> (16 + i) & 7) == 0)
            words[i] = support_random();
        else if ((r >> (16 + i) & 7) == 1)
            words[i] ^= UINT64_C(1) << (r >> 56 & 63);
    }
}

static bool lies_in(const unsigned char *from, uint64_t bytes)
{
    return item.data >= from && item.data <= from + bytes &&
           item.bytes <= (uint64_t)(from + bytes - item.data);
}

/* Reads all that the item offers, which lies in a cell, a slab, or the consumer's copy. */
static void read_item(void)
{
    static volatile unsigned char sink;
    const unsigned char *slabs = ring_map.slabs, *cells = (const unsigned char *)ring.cells;
    if (item.ref != 0)
        assert_true(lies_in(slabs, (uint64_t)ring_map.geo.chunk_cnt * SHR_CHUNK_BYTES));
    else if (!lies_in((const unsigned char *)&consumer, sizeof(consumer)))
        assert_true(lies_in(cells, (uint64_t)ring.cell_cnt * sizeof(struct shr_cell)));
    for (uint32_t i = 0; i < item.bytes; i++)
        sink = item.data[i];
    (void)sink;
    assert_in_range(item.slot, 1, ring_map.geo.producer_cnt);
    assert_in_range(item.topic, 0, ring_map.geo.topic_cnt - 1);
    assert_in_range(item.bytes, 0, ring_map.geo.max_event);
    assert_true(item.events >= 1);
}

/* Every committed cell is either handed out, whole and inside, or counted as bad; every other state
 * lets the consumer pass. It ends at head in bounded polls. */
static void random_cells_do_no_harm(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 6000; round++) {
        uint64_t words[SHR_CELL_WORDS], ready = 0, taken = 0;
        uint32_t cells = 1 + (uint32_t)(support_random() % 16), ready_only = round % 2;
        consumer_open(round % 3, 16, 2);
        ring_start_at(1000 + round);
        shr_consumer_init(&consumer, &ring_map);
        consumer.taker.now_ns = ring_clock;
        uint64_t ref = ring_block(1, 500);
        for (uint32_t i = 0; i < cells; i++) {
            random_words(words, ref, i + 1);
            uint64_t pos = ring_commit_words(words);
            if (!ready_only)
                ring_set_state(pos, random_state_word(pos));
            ready += ring_state(pos) == shr_state(pos, SHR_TAG_READY);
        }
        ring_commit(4, 1); /* something waits, so that all before it is passed */
        uint64_t head = shr_load_relaxed(&ring.hot->head), polls = 0;
        while (shr_load_relaxed(&ring.hot->tail) != head && polls++ < 2000) {
            if (shr_next(&consumer, &item) != 1)
                continue;
            read_item();
            shr_finish(&consumer, &item, SHR_COL_DELIVERED);
            taken++;
        }
        assert_int_equal(shr_load_relaxed(&ring.hot->tail), head);
        assert_true(taken >= 1 && taken <= ready + 1);
        if (ready_only)
            assert_int_equal(taken + bad_bytes(), cells + 1);
        else
            assert_true(taken + bad_bytes() >= ready + 1);
        ring_close(NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(an_event_raises_one_column, ring_close),
        cmocka_unit_test_teardown(a_batch_may_end_in_several_columns, ring_close),
        cmocka_unit_test_teardown(gaps_are_dropped_events, ring_close),
        cmocka_unit_test_teardown(done_follows_in_batches_and_at_the_flush, ring_close),
        cmocka_unit_test_teardown(idle_means_that_nothing_waits_in_all_of_the_ring, ring_close),
        cmocka_unit_test_teardown(an_old_ring_works_like_a_new_one, ring_close),
        cmocka_unit_test_teardown(a_lost_take_leaves_no_event_in_hand, ring_close),
        cmocka_unit_test_teardown(damaged_cells_do_not_keep_the_consumer, ring_close),
        cmocka_unit_test_teardown(each_damaged_field_is_refused, ring_close),
        cmocka_unit_test_teardown(a_cell_that_a_producer_took_is_not_bad, ring_close),
        cmocka_unit_test_teardown(whoever_waits_is_woken, ring_close),
        cmocka_unit_test_teardown(random_cells_do_no_harm, ring_close),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
