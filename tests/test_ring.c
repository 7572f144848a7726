/* Goal: the producer's side of the ring in every state that a cell can be in: what is packed, what
 * is full, which cells may be filled, and that a ticket that cannot be used costs no event.
 *
 * Method: one thread; states of cells, claims of others and the ring's age are set by hand, so each
 * case is one that concurrent runs meet by chance only. test_ring_take.c has the taker's side.
 */
#include "shmring/peer.h"
#include "shmring/slab.h"
#include "tests/ring_support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define OLD_AGE (UINT64_C(1) << 40)

/* ---- packing --------------------------------------------------------------------------------- */

static void packing_keeps_every_field(void **state)
{
    const uint32_t value[] = {0, 1, 0x5a5a, 0x8000, 0xffff};
    const uint32_t cnt = sizeof(value) / sizeof(value[0]);
    (void)state;
    for (uint32_t i = 0; i < cnt * cnt * cnt * cnt; i++) {
        uint32_t topic = value[i % cnt], slot = value[i / cnt % cnt];
        uint32_t bytes = value[i / cnt / cnt % cnt], flags = value[i / cnt / cnt / cnt];
        uint64_t meta = shr_meta(topic, slot, bytes, flags);
        assert_int_equal(shr_meta_topic(meta), topic);
        assert_int_equal(shr_meta_slot(meta), slot);
        assert_int_equal(shr_meta_bytes(meta), bytes);
        assert_int_equal(shr_meta_flags(meta), flags);
    }
    for (uint64_t tag = 0; tag < 8; tag++) {
        uint64_t word = shr_state(OLD_AGE + 5, tag);
        assert_int_equal(shr_state_pos(word), OLD_AGE + 5);
        assert_int_equal(shr_state_tag(word), tag);
    }
    assert_int_equal(shr_inline_room(0), 32);
    assert_int_equal(shr_inline_room(SHR_FLAG_ID), 24);
    assert_int_equal(shr_inline_room(SHR_FLAG_DEADLINE), 24);
    assert_int_equal(shr_inline_room(SHR_FLAG_DEADLINE | SHR_FLAG_ID), 16);
    uint64_t words[SHR_CELL_WORDS] = {0};
    words[SHR_WORD_BODY + 1] = UINT64_C(7) << 32 | 100;
    assert_int_equal(shr_words_events(words), 1);
    words[SHR_WORD_META] = shr_meta(0, 1, 0, SHR_FLAG_BATCH);
    assert_int_equal(shr_words_events(words), 7);
}

static void extend_is_right_around_every_wrap(void **state)
{
    const uint64_t around[] = {UINT64_C(1) << 31, UINT64_C(1) << 32, UINT64_C(3) << 31,
                               UINT64_C(1) << 33, OLD_AGE};
    (void)state;
    for (uint32_t a = 0; a < sizeof(around) / sizeof(around[0]); a++) {
        for (int64_t near_off = -3; near_off <= 3; near_off++) {
            uint64_t near = around[a] + (uint64_t)near_off;
            for (int64_t off = -3; off <= 3; off++) {
                uint64_t want = near + (uint64_t)off;
                assert_int_equal(shr_extend(near, (uint32_t)want), want);
            }
            /* As far as half of all 32-bit numbers, both ways. */
            uint64_t most = near + INT32_MAX, least = near - (UINT64_C(1) << 31);
            assert_int_equal(shr_extend(near, (uint32_t)most), most);
            assert_int_equal(shr_extend(near, (uint32_t)least), least);
        }
    }
}

/* ---- full ------------------------------------------------------------------------------------ */

static void one_producer_sees_exactly_the_capacity(void **state)
{
    const uint64_t start[] = {0, OLD_AGE - 3};
    (void)state;
    for (uint32_t i = 0; i < 3 * 2 * 2; i++) {
        uint64_t words[SHR_CELL_WORDS];
        struct shr_writer w;
        uint32_t policy = i % 3;
        if (i / 3 % 2 == 0)
            ring_open(policy, 8, 0);
        else
            ring_open_exclusive(policy, 8);
        if (start[i / 6] != 0)
            ring_start_at(start[i / 6]);
        uint64_t base = shr_load_relaxed(&ring.hot->head);
        shr_writer_init(&w, &ring_map, 1);
        for (uint64_t n = 1; n <= 8; n++) {
            ring_compose(words, 1, n);
            assert_int_equal(shr_publish(&w, words, 1), base + n - 1);
            assert_int_equal(ring_state(base + n - 1), shr_state(base + n - 1, SHR_TAG_READY));
        }
        assert_int_equal(shr_publish(&w, words, 1), -EAGAIN);
        assert_int_equal(shr_load_relaxed(&ring.hot->head), base + 8);
        assert_int_equal(shr_load_relaxed(&ring_map.peers[1].published), 8);
        assert_int_equal(shr_load_relaxed(&ring_map.peers[1].busy), 0);
        /* One position freed is one event more: by tail under drop-oldest, by done otherwise. */
        shr_store_relaxed(policy == SHR_DROP_OLDEST ? &ring.hot->done : &ring.hot->tail, base + 1);
        assert_int_equal(shr_publish(&w, words, 1), -EAGAIN);
        shr_store_relaxed(policy == SHR_DROP_OLDEST ? &ring.hot->tail : &ring.hot->done, base + 1);
        assert_int_equal(shr_publish(&w, words, 1), base + 8);
        assert_int_equal(shr_publish(&w, words, 1), -EAGAIN);
        ring_close(NULL);
    }
}

/* ---- which cells may be filled --------------------------------------------------------------- */

/* Publishes onto a cell whose state is (lap, tag) relative to its position. */
static void publish_onto(uint64_t base, int64_t lap, uint64_t tag, uint64_t outcome)
{
    uint64_t words[SHR_CELL_WORDS], body_before, body_after;
    struct shr_writer w;
    ring_open(SHR_BLOCK, 8, 0);
    ring_start_at(base);
    uint64_t at = base + (uint64_t)(lap * (int64_t)ring.cell_cnt);
    uint64_t before = shr_state(at, tag) | outcome << 3;
    ring_set_state(base, before);
    shr_cell_at(&ring, base)->word[2] = 77;
    shr_writer_init(&w, &ring_map, 1);
    ring_compose(words, 1, 1);
    body_before = shr_load_relaxed(&shr_cell_at(&ring, base)->word[2]);
    int64_t pos = shr_publish(&w, words, 1);
    body_after = shr_load_relaxed(&shr_cell_at(&ring, base)->word[2]);
    bool usable = lap == -1 && (tag == SHR_TAG_READY || tag == SHR_TAG_DONE || tag == SHR_TAG_VOID);
    bool revoked = lap == 0 && tag == SHR_TAG_REVOKED && outcome == 0;
    uint64_t after = before;
    if (usable)
        after = shr_state(base, SHR_TAG_READY);
    else if (revoked)
        after = shr_state(base, SHR_TAG_RETURNED);
    if (ring_state(base) != after || pos != (int64_t)(usable ? base : base + 1))
        fail_msg("lap %d tag %d: state %llx, position %lld", (int)lap, (int)tag,
                 (unsigned long long)ring_state(base), (long long)pos);
    if (!usable)
        assert_int_equal(body_after, body_before);
    assert_int_equal(ring_state((uint64_t)pos), shr_state((uint64_t)pos, SHR_TAG_READY));
    assert_int_equal(shr_load_relaxed(&ring_map.peers[1].revoked), revoked ? 1 : 0);
    assert_int_equal(shr_load_relaxed(&ring_map.peers[1].published), 1);
    assert_int_equal(shr_load_relaxed(&ring_map.peers[1].busy), 0);
    assert_int_equal(w.number, 1);
    ring_close(NULL);
}

static void only_a_cell_left_clean_one_lap_ago_is_filled(void **state)
{
    const uint64_t base[] = {5 * 16 + 3, OLD_AGE + 11};
    (void)state;
    for (uint32_t b = 0; b < 2; b++) {
        for (int64_t lap = -3; lap <= 2; lap++) {
            for (uint64_t tag = 0; tag < 8; tag++) {
                publish_onto(base[b], lap, tag, 0);
                publish_onto(base[b], lap, tag, 5);
            }
        }
    }
}

/* A taker that revokes between our claim and our commit: the cell comes back, the event goes
 * elsewhere, with the same number. */
static void a_revoked_claim_is_given_back_and_published_again(void **state)
{
    uint64_t words[SHR_CELL_WORDS];
    struct shr_writer w;
    struct shr_taker k;
    (void)state;
    ring_open(SHR_BLOCK, 8, 0);
    shr_writer_init(&w, &ring_map, 1);
    shr_taker_init(&k, &ring_map, 0, &ring_map.hands[0]);
    k.now_ns = ring_clock;
    /* The first half of shr_publish, by hand. */
    uint64_t pos = ring_claim();
    shr_store_relaxed(&ring_map.peers[1].busy, pos << 1 | SHR_BUSY_EXACT);
    uint64_t seen = ring_state(pos);
    ring_commit(2, 1);
    uint64_t at = pos;
    while (!shr_peek(&k, &at))
        assert_true(ring_polls < 100);
    assert_int_equal(at, pos + 1);
    assert_int_equal(ring_state(pos), shr_state(pos, SHR_TAG_REVOKED));
    /* The second half: the commit fails. */
    struct shr_cell *cell = shr_cell_at(&ring, pos);
    assert_false(shr_cas_release(&cell->state, seen, shr_state(pos, SHR_TAG_READY)));
    shr_publish_void(&w, pos, cell);
    assert_int_equal(ring_state(pos), shr_state(pos, SHR_TAG_RETURNED));
    assert_int_equal(shr_load_relaxed(&ring_map.peers[1].busy), 0);
    assert_int_equal(shr_load_relaxed(&ring_map.peers[1].revoked), 1);
    ring_compose(words, 1, 1);
    assert_int_equal(shr_publish(&w, words, 1), pos + 2);
    assert_int_equal(w.number, 1);
    ring_close(NULL);
}

/* Every cell of one lap is quarantined but one: the event lands there. */
static void void_tickets_in_a_row_cost_no_event(void **state)
{
    uint64_t words[SHR_CELL_WORDS];
    struct shr_writer w;
    (void)state;
    ring_open(SHR_RETURN_ERROR, 8, 0);
    ring_start_at(64);
    for (uint64_t pos = 64; pos < 64 + 7; pos++)
        ring_set_state(pos, shr_state(pos - 16, pos % 2 ? SHR_TAG_REVOKED : SHR_TAG_RETURNED));
    shr_writer_init(&w, &ring_map, 1);
    ring_compose(words, 1, 1);
    assert_int_equal(shr_publish(&w, words, 1), 64 + 7);
    assert_int_equal(shr_publish(&w, words, 1), -EAGAIN); /* the void ones take room meanwhile */
    assert_int_equal(w.number, 1);
    ring_close(NULL);
}

/* ---- exclusive ------------------------------------------------------------------------------- */

/* The producer dies after `events` cells are READY that head does not show, `counted` of them in
 * its number. */
static void exclusive_successor(uint64_t base, uint32_t ready, uint32_t counted)
{
    uint64_t words[SHR_CELL_WORDS];
    struct shr_writer w;
    ring_open_exclusive(SHR_RETURN_ERROR, 8);
    ring_start_at(base);
    shr_writer_init(&w, &ring_map, 1);
    ring_compose(words, 1, 1);
    assert_int_equal(shr_publish(&w, words, 1), base);
    for (uint32_t i = 1; i <= ready; i++) {
        ring_compose(words, 1, 1 + i);
        struct shr_cell *cell = shr_cell_at(&ring, base + i);
        for (uint32_t word = 0; word < SHR_CELL_WORDS; word++)
            shr_store_relaxed(&cell->word[word], words[word]);
        ring_set_state(base + i, shr_state(base + i, SHR_TAG_READY));
    }
    shr_store_relaxed(&ring_map.peers[1].published, 1 + counted);
    assert_int_equal(shr_ring_end(&ring), base + 1 + ready);
    assert_int_equal(shr_peer_last_number(&ring_map, 1), 1 + ready);
    assert_true(shr_sweep_slot(&ring_map, &ring, 1));
    shr_peer_enter(&ring_map, 1, "successor");
    struct shr_writer next;
    shr_writer_init(&next, &ring_map, 1);
    assert_int_equal(next.number, 1 + ready);
    assert_int_equal(shr_load_relaxed(&ring.hot->head), base + 1 + ready);
    assert_int_equal(shr_load_relaxed(&ring_map.peers[1].published), 1 + ready);
    ring_compose(words, 1, 2 + ready);
    assert_int_equal(shr_publish(&next, words, 1), base + 1 + ready);
    ring_close(NULL);
}

static void exclusive_successor_goes_on_behind_what_was_committed(void **state)
{
    const uint64_t base[] = {16, 19, OLD_AGE};
    (void)state;
    for (uint32_t b = 0; b < 3; b++) {
        exclusive_successor(base[b], 0, 0);
        exclusive_successor(base[b], 1, 0);
        exclusive_successor(base[b], 1, 1);
    }
}

/* What an exclusive writer stores into the cell of the last lap must not look like its own. */
static void exclusive_end_stops_at_cells_of_other_laps(void **state)
{
    (void)state;
    ring_open_exclusive(SHR_BLOCK, 8);
    ring_start_at(1000);
    const uint64_t tags[] = {SHR_TAG_VOID, SHR_TAG_READY, SHR_TAG_DONE};
    for (uint32_t i = 0; i < 3; i++) {
        ring_set_state(1000, shr_state(1000 - 16, tags[i]));
        assert_int_equal(shr_ring_end(&ring), 1000);
    }
    ring_set_state(1000, shr_state(1000, SHR_TAG_DONE)); /* committed, and taken before head */
    assert_int_equal(shr_ring_end(&ring), 1001);
    ring_set_state(1000, shr_state(1016, SHR_TAG_READY));
    assert_int_equal(shr_ring_end(&ring), 1000);
    for (uint64_t pos = 1000; pos < 1016; pos++)
        ring_set_state(pos, shr_state(pos, SHR_TAG_READY));
    /* All of them claim to be next: damaged, since honest producers are one ahead of head at most.
     * Nobody who looks for the end walks over them. */
    assert_int_equal(shr_ring_end(&ring), 1001);
    ring_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packing_keeps_every_field),
        cmocka_unit_test(extend_is_right_around_every_wrap),
        cmocka_unit_test_teardown(one_producer_sees_exactly_the_capacity, ring_close),
        cmocka_unit_test_teardown(only_a_cell_left_clean_one_lap_ago_is_filled, ring_close),
        cmocka_unit_test_teardown(a_revoked_claim_is_given_back_and_published_again, ring_close),
        cmocka_unit_test_teardown(void_tickets_in_a_row_cost_no_event, ring_close),
        cmocka_unit_test_teardown(exclusive_successor_goes_on_behind_what_was_committed,
                                  ring_close),
        cmocka_unit_test_teardown(exclusive_end_stops_at_cells_of_other_laps, ring_close),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
