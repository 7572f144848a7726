/* Goal: the taker's side of the ring: what it does with every state of a cell, how long it is
 * patient and for whom, and what it drops.
 *
 * Method: each state tag at each relative lap is put into the cell at tail by hand, with an event
 * behind it; what shr_peek does is compared with a table written from the protocol. The taker's
 * clock is one that counts polls of 1 µs, so patience is measured in polls and not in time.
 */
#include "shmring/slab.h"
#include "tests/ring_support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define OLD_AGE       (UINT64_C(1) << 40)
#define PATIENCE      30u /* polls: patience_ns is 30 µs */
#define TWO_PATIENCES (2 * PATIENCE)

static struct shr_taker taker;

static void taker_open(uint32_t policy, uint32_t capacity, uint64_t start)
{
    ring_open(policy, capacity, 0);
    if (start != 0)
        ring_start_at(start);
    shr_taker_init(&taker, &ring_map, 0, &ring_map.hands[0]);
    taker.now_ns = ring_clock;
    assert_int_equal(taker.patience_ns, 30000);
}

/* Polls until something can be taken. Returns the polls that it took; `most` + 1: too many. */
static uint32_t poll_until(uint64_t *pos, uint32_t most)
{
    for (uint32_t polls = 0; polls <= most; polls++) {
        if (shr_peek(&taker, pos))
            return polls;
    }
    return most + 1;
}

/* ---- the table of take ----------------------------------------------------------------------- */

enum act {
    TAKE,
    ADVANCE,    /* goes on, the cell stays as it is */
    CLEAR,      /* VOID(t), goes on */
    BE_PATIENT, /* REVOKED(t) after a patience, goes on */
    BAD,        /* REVOKED(t) at once, counted, goes on */
    NOTHING,
};

/* design §5, "Take": t is the taker's position, N the number of cells. */
static enum act act_on(uint64_t tag, int64_t off, int64_t n, bool claimed)
{
    bool known = tag >= SHR_TAG_VOID && tag <= SHR_TAG_RETURNED;
    if (off == 0 && tag == SHR_TAG_READY)
        return TAKE;
    if (!claimed)
        return NOTHING;
    if (off == 0)
        return known ? ADVANCE : BAD;
    if (off == -n && (tag == SHR_TAG_READY || tag == SHR_TAG_DONE || tag == SHR_TAG_VOID))
        return BE_PATIENT;
    if (off < 0 && tag == SHR_TAG_REVOKED)
        return ADVANCE;
    if (off < 0 && tag == SHR_TAG_RETURNED)
        return CLEAR;
    return BAD;
}

static void check_after(enum act act, uint64_t t, uint64_t before, uint64_t pos, uint32_t polls)
{
    const struct shr_peer *me = &ring_map.peers[0];
    uint64_t after = before;
    if (act == CLEAR)
        after = shr_state(t, SHR_TAG_VOID);
    if (act == BE_PATIENT || act == BAD)
        after = shr_state(t, SHR_TAG_REVOKED);
    assert_int_equal(ring_state(t), after);
    bool advanced = act != TAKE && act != NOTHING;
    assert_int_equal(pos, advanced ? t + 1 : t);
    assert_int_equal(shr_load_relaxed(&ring.hot->tail), advanced ? t + 1 : t);
    if (act == BE_PATIENT)
        assert_in_range(polls, PATIENCE, TWO_PATIENCES);
    else if (act != NOTHING)
        assert_int_equal(polls, 0);
    assert_int_equal(shr_load_relaxed(&me->bad_bytes), act == BAD ? 1 : 0);
    assert_int_equal(shr_load_relaxed(&me->took_revoked), act == BAD || act == BE_PATIENT ? 1 : 0);
    assert_int_equal(shr_load_relaxed(&me->took_returned), act == CLEAR ? 1 : 0);
    if (act == BAD || act == BE_PATIENT)
        assert_int_equal(shr_load_relaxed(&me->revoked_pos[0]), t);
}

static void take_from(uint32_t policy, uint64_t t, uint64_t tag, int64_t off, bool claimed)
{
    taker_open(policy, 8, t);
    uint64_t before = shr_state(t + (uint64_t)off, tag);
    if (claimed) {
        ring_claim();
        ring_commit(1, 1);
    }
    ring_set_state(t, before);
    uint64_t pos = t;
    enum act act = act_on(tag, off, (int64_t)ring.cell_cnt, claimed);
    uint32_t polls = poll_until(&pos, 200);
    if ((polls <= 200) != (act != NOTHING))
        fail_msg("policy %u, tag %d, offset %d, %s: %s", policy, (int)tag, (int)off,
                 claimed ? "claimed" : "not claimed", act == NOTHING ? "took" : "took nothing");
    check_after(act, t, before, pos, polls);
    ring_close(NULL);
}

static void take_acts_by_the_table(void **state)
{
    const uint64_t at[] = {5 * 16 + 3, OLD_AGE + 5};
    const int64_t off[] = {-48, -32, -17, -16, -15, -1, 0, 1, 15, 16, 32};
    (void)state;
    for (uint32_t a = 0; a < 2; a++) {
        for (uint32_t o = 0; o < sizeof(off) / sizeof(off[0]); o++) {
            for (uint64_t tag = 0; tag < 8; tag++) {
                for (uint32_t i = 0; i < 4; i++)
                    take_from(i % 2 ? SHR_BLOCK : SHR_DROP_OLDEST, at[a], tag, off[o], i / 2);
            }
        }
    }
}

/* Drop-oldest: a taker that stood still while others took must not act on what it sees of a later
 * lap. Whatever the cell holds, it starts over at tail. */
static void a_stale_taker_touches_nothing(void **state)
{
    (void)state;
    for (uint64_t tag = 0; tag < 8; tag++) {
        for (int64_t off = -32; off <= 16; off += 16) {
            if (tag == SHR_TAG_READY && off == 0)
                continue; /* that one is for shr_take_at to refuse, see below */
            taker_open(SHR_DROP_OLDEST, 8, 1000);
            ring_claim();
            ring_claim();
            ring_commit(1, 1);
            uint64_t before = shr_state(1000 + (uint64_t)off, tag);
            ring_set_state(1000, before);
            shr_store_relaxed(&ring.hot->tail, 1002);
            uint64_t pos = 1000;
            assert_true(shr_peek(&taker, &pos));
            assert_int_equal(pos, 1002);
            assert_int_equal(ring_state(1000), before);
            assert_int_equal(shr_load_relaxed(&ring_map.peers[0].bad_bytes), 0);
            ring_close(NULL);
        }
    }
    taker_open(SHR_DROP_OLDEST, 8, 1000);
    ring_commit(1, 1);
    shr_store_relaxed(&ring.hot->tail, 1001);
    assert_false(shr_take_at(&taker, 1000));
    assert_int_equal(shr_load_relaxed(&ring.hot->tail), 1001);
    ring_close(NULL);
}

/* ---- patience -------------------------------------------------------------------------------- */

static void all_cells_before_the_waiting_event_are_revoked_at_once(void **state)
{
    (void)state;
    taker_open(SHR_BLOCK, 16, 1000);
    for (uint32_t i = 0; i < 5; i++)
        ring_claim();
    uint64_t first = ring_commit(1, 1);
    ring_claim();
    uint64_t second = ring_commit(1, 2);
    uint64_t pos = 1000;
    assert_in_range(poll_until(&pos, 200), PATIENCE, TWO_PATIENCES);
    assert_int_equal(pos, first);
    assert_int_equal(shr_load_relaxed(&ring_map.peers[0].took_revoked), 5);
    /* The next event waited as long: what is in front of it goes with the rest. */
    pos++;
    assert_int_equal(poll_until(&pos, 200), 0);
    assert_int_equal(pos, second);
    ring_close(NULL);
}

/* Each waiting event has a claim in front of it alone, and half of them were committed while the
 * others waited: none waits for more than two patiences, however many there are. */
static void claims_between_the_waiting_events_do_not_add_up(void **state)
{
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        uint64_t last[2] = {0};
        uint32_t polls = 0;
        taker_open(policy, 32, 1000);
        uint64_t pos = 1000;
        for (uint32_t half = 0; half < 2; half++) {
            for (uint32_t i = 0; i < 8; i++) {
                ring_claim();
                last[half] = ring_commit(1, 1);
            }
            for (uint32_t i = 0; half == 0 && i < 10; i++)
                assert_false(shr_peek(&taker, &pos));
        }
        while (pos <= last[1] && polls <= 400) {
            polls++;
            if (shr_peek(&taker, &pos))
                shr_store_relaxed(&ring.hot->tail, ++pos);
        }
        /* A poll for each event that was taken. */
        assert_in_range(polls, PATIENCE, TWO_PATIENCES + 16);
        assert_int_equal(shr_load_relaxed(&ring_map.peers[0].took_revoked), 16);
        ring_close(NULL);
    }
}

/* Cells that are committed late do not start the patience anew: it belongs to the event behind. */
static void patience_goes_on_over_late_commits(void **state)
{
    (void)state;
    taker_open(SHR_BLOCK, 16, 1000);
    for (uint32_t i = 0; i < 4; i++)
        ring_claim();
    uint64_t waiting = ring_commit(1, 1);
    uint64_t pos = 1000;
    uint32_t polls = 0;
    for (uint64_t late = 1000; pos != waiting && polls <= 200; polls++) {
        if (polls % 12 == 11 && late < 1003 && pos <= late) {
            ring_set_state(late, shr_state(late, SHR_TAG_READY));
            late++;
        }
        if (shr_peek(&taker, &pos) && pos != waiting)
            shr_store_relaxed(&ring.hot->tail, ++pos);
    }
    assert_in_range(polls, PATIENCE, TWO_PATIENCES + 3); /* a poll for each late event taken */
    assert_true(shr_load_relaxed(&ring_map.peers[0].took_revoked) >= 1);
    ring_close(NULL);
}

static void nobody_is_revoked_while_nothing_waits(void **state)
{
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        taker_open(policy, 16, 1000);
        for (uint32_t i = 0; i < 15; i++)
            ring_claim();
        uint64_t pos = 1000;
        assert_int_equal(poll_until(&pos, 5000), 5001);
        assert_int_equal(pos, 1000);
        assert_int_equal(shr_load_relaxed(&ring_map.peers[0].took_revoked), 0);
        /* Time that passed while nothing waited is not held against them. */
        ring_commit(1, 1);
        assert_in_range(poll_until(&pos, 200), PATIENCE, TWO_PATIENCES);
        ring_close(NULL);
    }
}

/* A taker that was off the processor polled once, however long that was. */
static void patience_is_counted_in_polls(void **state)
{
    (void)state;
    taker_open(SHR_BLOCK, 16, 1000);
    ring_claim();
    ring_commit(1, 1);
    ring_poll_ns = UINT64_C(3600000000000);
    uint64_t pos = 1000;
    assert_in_range(poll_until(&pos, 200), 4, 8);
    ring_close(NULL);
}

/* Every position is claimed, none committed: the event that waits is the one that finds no room. */
static void a_full_ring_of_uncommitted_claims_does_not_stop_the_bus(void **state)
{
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        uint64_t words[SHR_CELL_WORDS];
        struct shr_writer w;
        taker_open(policy, 8, 1000);
        for (uint32_t i = 0; i < 8; i++)
            ring_claim();
        shr_writer_init(&w, &ring_map, 1);
        ring_compose(words, 1, 1);
        assert_int_equal(shr_publish(&w, words, 1), -EAGAIN);
        uint64_t pos = 1000;
        assert_int_equal(poll_until(&pos, TWO_PATIENCES), TWO_PATIENCES + 1);
        assert_int_equal(pos, 1008);
        shr_store_relaxed(&ring.hot->done, pos); /* the consumer would do that now */
        assert_int_equal(shr_publish(&w, words, 1), 1008);
        assert_true(shr_peek(&taker, &pos));
        assert_int_equal(pos, 1008);
        ring_close(NULL);
    }
}

/* ---- drop ------------------------------------------------------------------------------------ */

static struct shr_taker dropper_open(uint32_t slot)
{
    struct shr_taker k;
    shr_taker_init(&k, &ring_map, slot, &ring_map.peers[slot].hand);
    k.now_ns = ring_clock;
    return k;
}

static uint64_t dropped_of_topic(uint32_t topic)
{
    return shr_load_relaxed(&ring_map.topics[topic].dropped);
}

static void drop_takes_the_oldest_and_counts_its_events(void **state)
{
    uint64_t words[SHR_CELL_WORDS];
    (void)state;
    ring_open(SHR_DROP_OLDEST, 8, 4);
    struct shr_taker k = dropper_open(1);
    assert_int_equal(shr_drop(&k, &ring_map, false), 0); /* empty */
    uint64_t first = ring_commit(2, 1);
    uint64_t ref = ring_block(3, 500);
    ring_compose_slab(words, 3, 1, ref, 500, 5);
    ring_commit_words(words);
    assert_int_equal(shr_drop(&k, &ring_map, true), 0); /* there is room */
    assert_int_equal(shr_load_relaxed(&ring.hot->tail), first);
    assert_int_equal(shr_drop(&k, &ring_map, false), 1);
    assert_int_equal(shr_load_relaxed(&ring.hot->tail), first + 1);
    assert_true(shr_block_valid(&ring_map, ref, 500));
    assert_int_equal(shr_drop(&k, &ring_map, false), 5);
    assert_false(shr_block_valid(&ring_map, ref, 500));
    assert_int_equal(shr_load_relaxed(&ring_map.peers[1].hand.pos), 0);
    assert_int_equal(shr_load_relaxed(&ring_map.peers[1].took_dropped), 6);
    assert_int_equal(dropped_of_topic(1), 6);
    assert_int_equal(dropped_of_topic(0), 0);
    ring_close(NULL);
}

static void drop_passes_an_uncommitted_oldest_after_a_patience(void **state)
{
    (void)state;
    ring_open(SHR_DROP_OLDEST, 8, 0);
    ring_start_at(1000);
    struct shr_taker k = dropper_open(1);
    ring_claim();
    for (uint64_t n = 1; n <= 7; n++)
        ring_commit(2, n);
    uint32_t dropped = shr_drop(&k, &ring_map, true);
    assert_in_range(dropped, 0, 1); /* the cell of a stopped producer is room, too */
    assert_in_range(ring_polls, PATIENCE, TWO_PATIENCES);
    assert_int_equal(ring_state(1000), shr_state(1000, SHR_TAG_REVOKED));
    assert_int_equal(shr_load_relaxed(&ring.hot->tail), 1001 + dropped);
    assert_int_equal(shr_load_relaxed(&ring_map.peers[1].took_dropped), dropped);
    assert_int_equal(shr_drop(&k, &ring_map, true), 0); /* there is room */
    assert_int_equal(shr_drop(&k, &ring_map, false), 1);
    ring_close(NULL);
}

static bool taken_meanwhile;

/* Another taker has the oldest event, between two looks of ours. */
static uint64_t clock_with_a_taker(void)
{
    if (!taken_meanwhile)
        shr_fetch_add_relaxed(&ring.hot->tail, 1);
    taken_meanwhile = true;
    return ring_clock();
}

static void drop_takes_nothing_when_room_came(void **state)
{
    (void)state;
    ring_open(SHR_DROP_OLDEST, 8, 0);
    ring_start_at(1000);
    struct shr_taker k = dropper_open(1);
    k.now_ns = clock_with_a_taker;
    taken_meanwhile = false;
    for (uint64_t n = 1; n <= 8; n++)
        ring_commit(2, n);
    assert_int_equal(shr_drop(&k, &ring_map, true), 0);
    assert_true(taken_meanwhile);
    assert_int_equal(shr_load_relaxed(&ring.hot->tail), 1001);
    assert_int_equal(shr_load_relaxed(&ring_map.peers[1].took_dropped), 0);
}

/* Damaged words in the cell that is dropped: no crash, no block of others, no foreign topic. */
static void drop_survives_damaged_cells(void **state)
{
    uint64_t words[SHR_CELL_WORDS];
    (void)state;
    ring_open(SHR_DROP_OLDEST, 8, 4);
    struct shr_taker k = dropper_open(1);
    for (uint32_t round = 0; round < 2000; round++) {
        for (uint32_t i = 0; i < SHR_CELL_WORDS; i++)
            words[i] = support_random();
        uint64_t pos = ring_commit_words(words);
        shr_drop(&k, &ring_map, false);
        assert_int_equal(shr_load_relaxed(&ring.hot->tail), pos + 1);
    }
    assert_int_equal(shr_load_relaxed(&ring_map.peers[1].hand.pos), 0);
    ring_close(NULL);
}

/* The end of the ring is many laps away, and nobody can publish in any cell. */
static void a_look_passes_one_lap(void **state)
{
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        taker_open(policy, 8, 1000);
        for (uint32_t i = 0; i < ring.cell_cnt; i++)
            ring_set_state(1000 + i, shr_state(1000 + i, SHR_TAG_REVOKED));
        shr_fetch_add_relaxed(&ring.hot->head, 100 * ring.cell_cnt);
        uint64_t pos = 1000;
        for (uint32_t look = 1; look <= 3; look++) {
            assert_false(shr_peek(&taker, &pos));
            assert_int_equal(pos, 1000 + look * ring.cell_cnt);
            assert_int_equal(shr_load_relaxed(&ring.hot->tail), pos);
        }
        ring_close(NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(take_acts_by_the_table, ring_close),
        cmocka_unit_test_teardown(a_stale_taker_touches_nothing, ring_close),
        cmocka_unit_test_teardown(all_cells_before_the_waiting_event_are_revoked_at_once,
                                  ring_close),
        cmocka_unit_test_teardown(claims_between_the_waiting_events_do_not_add_up, ring_close),
        cmocka_unit_test_teardown(patience_goes_on_over_late_commits, ring_close),
        cmocka_unit_test_teardown(nobody_is_revoked_while_nothing_waits, ring_close),
        cmocka_unit_test_teardown(patience_is_counted_in_polls, ring_close),
        cmocka_unit_test_teardown(a_full_ring_of_uncommitted_claims_does_not_stop_the_bus,
                                  ring_close),
        cmocka_unit_test_teardown(drop_takes_the_oldest_and_counts_its_events, ring_close),
        cmocka_unit_test_teardown(drop_passes_an_uncommitted_oldest_after_a_patience, ring_close),
        cmocka_unit_test_teardown(drop_takes_nothing_when_room_came, ring_close),
        cmocka_unit_test_teardown(drop_survives_damaged_cells, ring_close),
        cmocka_unit_test_teardown(a_look_passes_one_lap, ring_close),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
