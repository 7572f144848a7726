/* Goal: cells and slots of dead producers come back, and no cell comes back while a producer that
 * lives may still store into it.
 *
 * Method: a producer is alive if the test holds its slot's lock, dead if nobody does; what it left
 * in its record and in its cell is set by hand, every kind of the one against every kind of the
 * other.
 */
#include "shmring/consume.h"
#include "shmring/peer.h"
#include "tests/ring_support.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <cmocka.h>

#define BASE 1000u

static struct shr_sweeper sweeper;
static struct shr_lock lock[5];
static uint32_t quarantined;

static void sweep_open(uint32_t capacity)
{
    ring_open(SHR_BLOCK, capacity, 0);
    ring_start_at(BASE);
    memset(&sweeper, 0, sizeof(sweeper));
    sweeper.scan = true;
}

static int sweep_close(void **state)
{
    for (uint32_t slot = 0; slot < 5; slot++)
        shr_lock_drop(&lock[slot]);
    return ring_close(state);
}

static void join(uint32_t slot)
{
    assert_int_equal(shr_lock_take(&ring_map, slot, &lock[slot]), 0);
    shr_peer_enter(&ring_map, slot, "producer");
}

static void die(uint32_t slot)
{
    shr_lock_drop(&lock[slot]);
}

static void announce(uint32_t slot, uint64_t pos, bool exact)
{
    shr_store_relaxed(&ring_map.peers[slot].busy, pos << 1 | (exact ? SHR_BUSY_EXACT : 0));
}

static uint32_t sweep(void)
{
    return shr_sweep(&ring_map, &ring, &sweeper, &quarantined);
}

static void expect_state(const char *what, uint64_t pos, uint64_t want)
{
    if (ring_state(pos) != want)
        fail_msg("%s: the cell of %llu is %llx, not %llx", what, (unsigned long long)pos,
                 (unsigned long long)ring_state(pos), (unsigned long long)want);
}

/* ---- what a dead producer left --------------------------------------------------------------- */

/* Slot 1 died with this record, the cell of BASE in this state. Expects the state after a sweep. */
static void after_death(const char *what, bool exact, uint64_t before, uint64_t after)
{
    sweep_open(8);
    join(1);
    ring_claim();
    announce(1, BASE, exact);
    ring_set_state(BASE, before);
    shr_store_relaxed(&shr_cell_at(&ring, BASE)->word[SHR_WORD_META], shr_meta(1, 1, 0, 0));
    shr_store_relaxed(&shr_cell_at(&ring, BASE)->word[SHR_WORD_NUMBER], 1);
    bool revoked = before == shr_state(BASE, SHR_TAG_REVOKED);
    assert_int_equal(sweep(), revoked && exact ? 1 : 0);
    expect_state("its producer lives", BASE, revoked && !exact ? after : before);
    die(1);
    assert_int_equal(sweep(), 0);
    expect_state(what, BASE, after);
    assert_int_equal(quarantined, 0);
    assert_int_equal(shr_load32_relaxed(&ring_map.peers[1].state), SHR_PEER_FREE);
    assert_int_equal(shr_load_relaxed(&ring_map.peers[1].busy), 0);
    bool committed = exact && (before == shr_state(BASE, SHR_TAG_READY) ||
                               before == shr_state(BASE, SHR_TAG_DONE));
    assert_int_equal(shr_load_relaxed(&ring_map.peers[1].published), committed ? 1 : 0);
    sweep_close(NULL);
}

static void what_the_dead_left_comes_back(void **state)
{
    (void)state;
    const uint64_t lap = BASE - 16;
    const uint64_t clean[] = {SHR_TAG_VOID, SHR_TAG_READY, SHR_TAG_DONE};
    for (uint32_t i = 0; i < 3; i++) {
        uint64_t left = shr_state(lap, clean[i]);
        after_death("exact, uncommitted", true, left, shr_state(BASE, SHR_TAG_VOID));
        after_death("inexact, uncommitted", false, left, left);
        uint64_t own = shr_state(BASE, clean[i]);
        after_death("exact, settled", true, own, own);
        after_death("inexact, settled", false, own, own);
    }
    uint64_t returned = shr_state(BASE, SHR_TAG_RETURNED);
    after_death("exact, revoked", true, shr_state(BASE, SHR_TAG_REVOKED), returned);
    after_death("inexact, revoked", false, shr_state(BASE, SHR_TAG_REVOKED), returned);
    after_death("exact, returned", true, returned, returned);
    /* Found returned by an earlier lap, it died before it said that its ticket is void. */
    after_death("exact, older", true, shr_state(lap, SHR_TAG_RETURNED),
                shr_state(lap, SHR_TAG_RETURNED));
}

/* Nobody else need come for a cell that was revoked. */
static void a_joiner_returns_what_was_revoked(void **state)
{
    (void)state;
    sweep_open(8);
    join(1);
    ring_claim();
    announce(1, BASE, true);
    ring_set_state(BASE, shr_state(BASE, SHR_TAG_REVOKED));
    die(1);
    assert_int_equal(shr_lock_take(&ring_map, 1, &lock[1]), 0);
    assert_true(shr_sweep_slot(&ring_map, &ring, 1));
    expect_state("swept by a joiner", BASE, shr_state(BASE, SHR_TAG_RETURNED));
}

/* A slot may change hands: only the sweep of the dead one settles, the new owner is left alone. */
static void a_joiner_sweeps_its_slot_itself(void **state)
{
    (void)state;
    sweep_open(8);
    join(1);
    ring_claim();
    announce(1, BASE, true);
    die(1);
    assert_int_equal(shr_lock_take(&ring_map, 1, &lock[1]), 0);
    assert_true(shr_sweep_slot(&ring_map, &ring, 1));
    expect_state("swept by a joiner", BASE, shr_state(BASE, SHR_TAG_VOID));
    shr_peer_enter(&ring_map, 1, "next");
    announce(1, ring_claim(), true);
    assert_int_equal(sweep(), 0);
    expect_state("the new owner's", BASE + 1, shr_state(BASE + 1 - 16, SHR_TAG_VOID));
    assert_int_equal(shr_load32_relaxed(&ring_map.peers[1].state), SHR_PEER_USED);
    sweep_close(NULL);
}

/* ---- who keeps a cell quarantined ------------------------------------------------------------ */

/* The cell of BASE + 3 was revoked; slots 2 and 3 live with these records. */
static void keeps(const char *what, bool kept, uint64_t pos2, bool exact2, uint64_t pos3,
                  bool exact3)
{
    const uint64_t pos = BASE + 3;
    sweep_open(8);
    join(2);
    join(3);
    for (uint32_t i = 0; i < 6; i++)
        ring_claim();
    ring_set_state(pos, shr_state(pos, SHR_TAG_REVOKED));
    if (pos2 != 0)
        announce(2, pos2, exact2);
    if (pos3 != 0)
        announce(3, pos3, exact3);
    sweep();
    expect_state(what, pos, shr_state(pos, kept ? SHR_TAG_REVOKED : SHR_TAG_RETURNED));
    assert_int_equal(quarantined, kept ? 1 : 0);
    shr_store_relaxed(&ring_map.peers[2].busy, 0);
    shr_store_relaxed(&ring_map.peers[3].busy, 0);
    assert_int_equal(sweep(), 0);
    expect_state("nobody is busy", pos, shr_state(pos, SHR_TAG_RETURNED));
    sweep_close(NULL);
}

static void only_who_may_write_the_cell_keeps_it(void **state)
{
    const uint64_t pos = BASE + 3;
    (void)state;
    keeps("nobody is busy", false, 0, false, 0, false);
    keeps("its own claim", true, pos, true, 0, false);
    keeps("an exact claim before it", false, pos - 1, true, 0, false);
    keeps("an exact claim behind it", false, pos + 1, true, 0, false);
    /* Behind a membarrier: whoever is inexact has not looked at its cell. */
    keeps("an inexact claim before it", false, pos - 1, false, 0, false);
    keeps("an inexact claim at it", false, pos, false, 0, false);
    keeps("an inexact claim behind it", false, pos + 1, false, 0, false);
    keeps("one that does not, one that does", true, pos - 2, false, pos, true);
    keeps("one that does, one that does not", true, pos, true, pos + 1, false);
    keeps("two that do not", false, pos + 1, true, pos + 2, false);
}

/* ---- more than can be remembered ------------------------------------------------------------- */

static uint32_t count_revoked(void)
{
    uint32_t cnt = 0;
    for (uint32_t i = 0; i < ring.cell_cnt; i++)
        cnt += shr_state_tag(shr_load_relaxed(&ring.cells[i].state)) == SHR_TAG_REVOKED;
    return cnt;
}

/* A taker that revokes `cnt` cells, by shr_peek. */
static void revoke_cells(uint32_t slot, uint32_t cnt)
{
    struct shr_taker k;
    shr_taker_init(&k, &ring_map, slot, &ring_map.peers[slot].hand);
    k.now_ns = ring_clock;
    uint64_t pos = shr_load_relaxed(&ring.hot->tail);
    for (uint32_t i = 0; i < cnt; i++)
        ring_claim();
    ring_commit(4, 1);
    while (!shr_peek(&k, &pos))
        assert_true(ring_polls < 1000);
    ring_polls = 0;
    shr_store_relaxed(&ring.hot->tail, pos + 1);
    shr_store_relaxed(&ring.hot->done, pos + 1);
}

/* Fewer and more than a taker notes, than the sweeper remembers; found without a first scan. */
static void every_revoked_cell_is_found(void **state)
{
    const uint32_t cnt[] = {1, 15, 16, 17, 255, 256, 257, 600};
    (void)state;
    for (uint32_t i = 0; i < sizeof(cnt) / sizeof(cnt[0]); i++) {
        sweep_open(512);
        assert_int_equal(sweep(), 0);
        revoke_cells(i % 2, cnt[i]);
        assert_int_equal(count_revoked(), cnt[i]);
        for (uint32_t sweeps = 0; count_revoked() != 0; sweeps++) {
            assert_true(sweeps < 4);
            sweep();
        }
        assert_int_equal(sweep(), 0);
        sweep_close(NULL);
    }
}

/* Who cannot call membarrier does not know whether one with an inexact record stores into a cell at
 * or behind that. What it keeps is not forgotten when others overflow its memory. */
static int sweep_without_membarrier(void *arg)
{
    (void)arg;
    sweep_open(512);
    struct shr_writer writer;
    shr_writer_init(&writer, &ring_map, 2);
    SUPPORT_CHECK(!writer.fence);
    SUPPORT_CHECK(support_deny(SYS_membarrier, 0, 0, EPERM) == 0);
    shr_writer_init(&writer, &ring_map, 2); /* nor does it reach who was not registered */
    SUPPORT_CHECK(writer.fence);
    join(2);
    announce(2, BASE + 1, false);
    revoke_cells(0, 3);
    SUPPORT_CHECK(sweep() == 2);
    SUPPORT_CHECK(ring_state(BASE) == shr_state(BASE, SHR_TAG_RETURNED));
    for (uint32_t i = 0; i < 30; i++) {
        revoke_cells(1, 12);
        uint32_t kept = 2 + 12 * (i + 1);
        SUPPORT_CHECK(sweep() == kept);
    }
    SUPPORT_CHECK(count_revoked() == 2 + 12 * 30);
    die(2);
    for (uint32_t sweeps = 0; count_revoked() != 0; sweeps++) {
        SUPPORT_CHECK(sweeps < 4);
        sweep();
    }
    sweep_close(NULL);
    return 0;
}

static void kept_cells_are_found_again(void **state)
{
    (void)state;
    assert_int_equal(support_wait(support_child(sweep_without_membarrier, NULL)), 0);
}

/* One that is stopped between its two announcements, for as long as others die in the same place.
 * */
static void an_inexact_record_does_not_eat_up_the_ring(void **state)
{
    (void)state;
    sweep_open(8);
    join(2);
    announce(2, BASE, false);
    for (uint32_t i = 0; i < 100; i++) {
        revoke_cells(1, 3);
        assert_int_equal(sweep(), 0);
        assert_int_equal(count_revoked(), 0);
    }
    sweep_close(NULL);
}

/* One stopped producer that may write to more cells than the sweeper remembers: the others, which
 * the scan meets after those, come back all the same. */
static int one_pins_many(void *arg)
{
    const uint64_t lap = 1024; /* the position of the first cell */
    (void)arg;
    sweep_open(512);
    SUPPORT_CHECK(support_deny(SYS_membarrier, 0, 0, EPERM) == 0);
    join(2);
    announce(2, lap, false);
    revoke_cells(1, 290);
    for (int i = 0; i < 3; i++) {
        SUPPORT_CHECK(sweep() == 290 - (lap - BASE));
        SUPPORT_CHECK(count_revoked() == 290 - (lap - BASE));
    }
    die(2);
    SUPPORT_CHECK(sweep() == 0);
    SUPPORT_CHECK(count_revoked() == 0);
    sweep_close(NULL);
    return 0;
}

static void kept_cells_do_not_hide_others(void **state)
{
    (void)state;
    assert_int_equal(support_wait(support_child(one_pins_many, NULL)), 0);
}

/* A taker that died between a revocation and its note: the scan after its death finds the cell. */
static void a_revocation_that_was_not_noted_is_found(void **state)
{
    (void)state;
    sweep_open(8);
    join(1);
    assert_int_equal(sweep(), 0);
    ring_claim();
    ring_set_state(BASE, shr_state(BASE, SHR_TAG_REVOKED));
    assert_int_equal(sweep(), 0);
    expect_state("not noted", BASE, shr_state(BASE, SHR_TAG_REVOKED));
    die(1);
    assert_int_equal(sweep(), 0);
    expect_state("found", BASE, shr_state(BASE, SHR_TAG_RETURNED));
    sweep_close(NULL);
}

/* Wrong positions among the notes of a taker that writes nonsense. */
static void damaged_notes_do_no_harm(void **state)
{
    (void)state;
    sweep_open(8);
    uint64_t before[16];
    for (uint32_t round = 0; round < 500; round++) {
        for (uint32_t i = 0; i < SHR_REVOKED_POS; i++)
            shr_store_relaxed(&ring_map.peers[2].revoked_pos[i], support_random());
        shr_store_relaxed(&ring_map.peers[2].took_revoked, support_random());
        shr_store_relaxed(&ring_map.peers[3].busy, support_random());
        for (uint32_t i = 0; i < ring.cell_cnt; i++)
            before[i] = shr_load_relaxed(&ring.cells[i].state);
        sweep();
        for (uint32_t i = 0; i < ring.cell_cnt; i++)
            assert_int_equal(shr_load_relaxed(&ring.cells[i].state), before[i]);
    }
    sweep_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(what_the_dead_left_comes_back, sweep_close),
        cmocka_unit_test_teardown(a_joiner_sweeps_its_slot_itself, sweep_close),
        cmocka_unit_test_teardown(a_joiner_returns_what_was_revoked, sweep_close),
        cmocka_unit_test_teardown(only_who_may_write_the_cell_keeps_it, sweep_close),
        cmocka_unit_test_teardown(every_revoked_cell_is_found, sweep_close),
        cmocka_unit_test_teardown(kept_cells_are_found_again, sweep_close),
        cmocka_unit_test_teardown(an_inexact_record_does_not_eat_up_the_ring, sweep_close),
        cmocka_unit_test_teardown(kept_cells_do_not_hide_others, sweep_close),
        cmocka_unit_test_teardown(a_revocation_that_was_not_noted_is_found, sweep_close),
        cmocka_unit_test_teardown(damaged_notes_do_no_harm, sweep_close),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
