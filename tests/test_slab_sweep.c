/* Goal: what dead owners and dead takers held comes back when nobody can use it any more, and
 * not before; and no reference, whatever its bits, leads outside the slabs.
 *
 * Method: real segments. An owner dies by making no further call; head, tail and hands are set
 * by the case. The states that a dying sweeper leaves are made one by one, and each must end
 * like a sweep that was not disturbed.
 */
#include "tests/slab_support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Owners die here within one process, and a death leaves its private memory behind. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

/* Without shr_heap_fini; the slot itself is swept. */
static void owner_die(struct shr_heap *heap, uint32_t slot)
{
    for (uint32_t i = 0; i <= SHR_CLASS_RUN; i++)
        free(heap->cls[i].chunk);
    shr_peer_exit(&slab_map, slot);
}

static void hand_set(struct shr_hand *hand, uint64_t pos, uint64_t ref)
{
    shr_store_relaxed(&hand->ref, ref);
    shr_store_release(&hand->pos, pos);
}

/* All in the pool, with every word free. */
static bool slabs_are_clean(void)
{
    for (uint32_t i = 0; i < slab_map.geo.chunk_cnt; i++) {
        if (shr_load_relaxed(&slab_map.owners[i]) != 0)
            return false;
        for (uint32_t k = 0; k < SHR_CHUNK_BLOCKS; k++)
            if ((uint32_t)shr_load_relaxed(&slab_map.chunks[i].block[k]) != SHR_BLOCK_FREE)
                return false;
    }
    return true;
}

static void test_orphans_wait(void **state)
{
    (void)state;
    struct shr_heap dead, alive;
    struct shr_lock consumer;
    slab_open(4, SHR_DROP_OLDEST);
    slab_enter(&slab_map, &dead, 1);
    slab_enter(&slab_map, &alive, 2);
    uint64_t in_ring = slab_must_alloc(&dead, 500);
    uint64_t in_hand = slab_must_alloc(&dead, 500);
    slab_must_alloc(&dead, 4096); /* never committed */
    uint64_t kept = slab_must_alloc(&alive, 500);
    assert_int_equal(shr_slab_sweep(&slab_map, 100, 100), 0); /* both live */
    assert_true(shr_block_valid(&slab_map, in_ring, 500));
    hand_set(&slab_map.hands[0], 90, in_hand);
    assert_int_equal(shr_lock_take(&slab_map, SHR_CONSUMER_SLOT, &consumer), 0);
    /* A claim that the sweeper's head is too old for. */
    shr_store_relaxed(&slab_map.hot->head, 105);
    owner_die(&dead, 1);
    assert_int_equal(shr_slab_sweep(&slab_map, 100, 104), 2);
    assert_int_equal(shr_slab_sweep(&slab_map, 200, 104), 2); /* the first head counts */
    assert_true(shr_block_valid(&slab_map, in_ring, 500));
    assert_int_equal(shr_slab_sweep(&slab_map, 200, 105), 1); /* of those, one is in a hand */
    assert_true(shr_block_valid(&slab_map, in_hand, 500));
    /* The taker is done, and its hand still names it. */
    assert_true(shr_block_free(&slab_map, in_hand));
    assert_int_equal(shr_slab_sweep(&slab_map, 200, 105), 0);
    assert_false(shr_block_valid(&slab_map, in_ring, 500));
    assert_int_equal(shr_slab_sweep(&slab_map, 200, 200), 0);
    assert_true(shr_block_valid(&slab_map, kept, 500));
    assert_true(shr_block_free(&slab_map, kept));
    shr_heap_fini(&alive);
    shr_lock_drop(&consumer);
    assert_true(slabs_are_clean());
}

/* A producer that took an event to drop it, and is stopped before it frees the block: the chunk
 * need not wait for that, and its late free does no harm. Nor for the hand of a dead consumer. */
static void test_only_consumers_hold(void **state)
{
    (void)state;
    struct shr_heap dead, next;
    struct shr_lock stopped;
    slab_open(2, SHR_DROP_OLDEST);
    slab_enter(&slab_map, &dead, 1);
    uint64_t ref = slab_must_alloc(&dead, CHUNK);
    owner_die(&dead, 1);
    assert_int_equal(shr_lock_take(&slab_map, 3, &stopped), 0);
    hand_set(&slab_map.peers[3].hand, 7, ref);
    hand_set(&slab_map.hands[0], 7, ref);
    assert_int_equal(shr_slab_sweep(&slab_map, 100, 100), 0);
    assert_true(slabs_are_clean());
    slab_enter(&slab_map, &next, 2);
    uint64_t a = slab_must_alloc(&next, CHUNK), b = slab_must_alloc(&next, CHUNK);
    assert_true((uint32_t)a == (uint32_t)ref || (uint32_t)b == (uint32_t)ref);
    assert_false(shr_block_free(&slab_map, ref));
    assert_true(shr_block_valid(&slab_map, a, CHUNK) && shr_block_valid(&slab_map, b, CHUNK));
    shr_lock_drop(&stopped);
}

/* The end of the ring is remembered once, and one that the ring never had is not waited for. A USED
 * word in the pool is no loss. */
static void test_orphan_words(void **state)
{
    (void)state;
    struct shr_heap dead, next;
    slab_open(2, SHR_DROP_OLDEST);
    slab_enter(&slab_map, &dead, 1);
    uint64_t ref = slab_must_alloc(&dead, CHUNK);
    shr_a64 *owner = &slab_map.owners[shr_ref_chunk(ref)];
    owner_die(&dead, 1);
    assert_int_equal(shr_slab_sweep(&slab_map, 100, 99), 1);
    uint64_t word = shr_load_relaxed(owner);
    assert_int_equal(word, SHR_OWNER_ORPHAN | 100);
    assert_int_equal(shr_slab_sweep(&slab_map, 300, 99), 1);
    assert_int_equal(shr_load_relaxed(owner), word); /* the first end counts */
    shr_store_relaxed(owner, SHR_OWNER_ORPHAN | 1000000);
    assert_int_equal(shr_slab_sweep(&slab_map, 100, 99), 1);
    assert_int_equal(shr_load_relaxed(owner), word);
    /* As if the last CAS of a stopped sweeper came early: the pool has a chunk with a USED word. */
    shr_store_relaxed(owner, 0);
    slab_enter(&slab_map, &next, 2);
    for (uint32_t i = 0; i < 2 * SHR_CHUNK_BLOCKS; i++)
        slab_must_alloc(&next, 128);
}

/* The slot has a new owner, who has chunks too; a word that no participant can have written; run
 * in a hand. */
static void test_orphans_kinds(void **state)
{
    (void)state;
    struct shr_heap dead, next;
    struct shr_lock consumer;
    slab_open(8, SHR_DROP_OLDEST);
    slab_enter(&slab_map, &dead, 1);
    uint64_t run = slab_must_alloc(&dead, 3 * CHUNK);
    owner_die(&dead, 1);
    slab_enter(&slab_map, &next, 1);
    uint64_t ref = slab_must_alloc(&next, 128);
    shr_store_relaxed(&slab_map.owners[4], shr_owner(60000, 1));
    assert_int_not_equal(shr_ref_chunk(ref), 4);
    assert_int_equal(shr_lock_take(&slab_map, SHR_CONSUMER_SLOT, &consumer), 0);
    hand_set(&slab_map.hands[0], 7, run);
    assert_int_equal(shr_slab_sweep(&slab_map, 100, 99), 4);
    assert_int_equal(shr_slab_sweep(&slab_map, 100, 100), 3);
    assert_true(shr_block_valid(&slab_map, run, 3 * CHUNK));
    hand_set(&slab_map.hands[0], 0, run);
    assert_int_equal(shr_slab_sweep(&slab_map, 100, 100), 0);
    assert_false(shr_block_valid(&slab_map, run, 1));
    assert_true(shr_block_valid(&slab_map, ref, 128));
    assert_true(shr_block_free(&slab_map, ref));
    shr_heap_fini(&next);
    shr_lock_drop(&consumer);
    assert_true(slabs_are_clean());
}

/* Every prefix of the sweeper's stores: the first `words` words free; owner 0. */
static void test_sweeper_dies(void **state)
{
    (void)state;
    struct shr_heap dead;
    slab_open(2, SHR_DROP_OLDEST);
    for (uint32_t words = 0; words <= 32; words++) {
        slab_enter(&slab_map, &dead, 1);
        for (uint32_t i = 0; i < 32; i++)
            slab_must_alloc(&dead, 2048);
        uint32_t idx = dead.cls[4].chunk[0];
        owner_die(&dead, 1);
        assert_int_equal(shr_slab_sweep(&slab_map, 100, 50), 1);
        struct shr_chunk *chunk = &slab_map.chunks[idx];
        for (uint32_t i = 0; i < words; i++)
            shr_store_relaxed(&chunk->block[i],
                              shr_load_relaxed(&chunk->block[i]) & ~UINT64_C(0xffffffff));
        assert_int_equal(shr_slab_sweep(&slab_map, 100, 99), 1);
        assert_int_equal(shr_slab_sweep(&slab_map, 100, 100), 0);
        assert_true(slabs_are_clean());
        for (uint32_t i = 0; i < 32; i++) /* no generation was lost or given twice; carving, but for
                                           * the first time, takes one too */
            assert_int_equal(shr_load_relaxed(&chunk->block[i]) >> 32, 2 * words + 1);
    }
}

static void test_hands(void **state)
{
    (void)state;
    struct shr_heap heap;
    struct shr_lock consumer, loser;
    slab_open(2, SHR_DROP_OLDEST);
    slab_enter(&slab_map, &heap, 1);
    struct shr_hand *hand = &slab_map.peers[2].hand, *other = &slab_map.peers[3].hand;
    uint64_t ref = slab_must_alloc(&heap, 128);
    assert_true(shr_hand_sweep(&slab_map, hand, 100)); /* empty */
    hand_set(hand, 50, ref);
    assert_true(shr_hand_sweep(&slab_map, hand, 50)); /* not taken, and the dead take no more */
    assert_int_equal(shr_load_relaxed(&hand->pos), 0);
    assert_true(shr_block_valid(&slab_map, ref, 128)); /* it is in the ring yet */
    hand_set(hand, 50, ref);
    hand_set(&slab_map.hands[0], 50, ref);
    assert_int_equal(shr_lock_take(&slab_map, SHR_CONSUMER_SLOT, &consumer), 0);
    assert_false(shr_hand_sweep(&slab_map, hand, 51)); /* the consumer reads it */
    assert_true(shr_block_valid(&slab_map, ref, 128));
    assert_int_equal(shr_load_relaxed(&hand->pos), 50);
    hand_set(&slab_map.hands[0], 52, 0);
    hand_set(other, 50, ref);
    assert_int_equal(shr_lock_take(&slab_map, 3, &loser), 0);
    /* A producer that lives frees it, if at all. */
    assert_true(shr_hand_sweep(&slab_map, hand, 51));
    assert_int_equal(shr_load_relaxed(&hand->pos), 0);
    assert_false(shr_block_valid(&slab_map, ref, 128));
    shr_lock_drop(&loser);
    shr_lock_drop(&consumer);
    uint64_t again = 0;
    for (uint32_t i = 0; i < 512; i++) /* one round later the block has another user */
        again = slab_must_alloc(&heap, 128);
    assert_int_equal((uint32_t)again, (uint32_t)ref);
    assert_true(shr_hand_sweep(&slab_map, other, 51));
    assert_true(shr_block_valid(&slab_map, again, 128));
    shr_heap_fini(&heap);
}

static bool lies_inside(uint64_t ref, uint64_t bytes)
{
    const unsigned char *data = shr_block_data(&slab_map, ref);
    const unsigned char *end = slab_map.slabs + (uint64_t)slab_map.geo.chunk_cnt * CHUNK;
    return data >= slab_map.slabs && data <= end && bytes <= (uint64_t)(end - data);
}

static void test_hostile_refs(void **state)
{
    (void)state;
    struct shr_heap heap;
    uint64_t live[5];
    uint32_t hits = 0;
    slab_open(16, SHR_DROP_OLDEST);
    slab_enter(&slab_map, &heap, 1);
    const uint32_t bytes[5] = {128, 1000, 30000, CHUNK, 3 * CHUNK};
    for (uint32_t i = 0; i < 5; i++)
        live[i] = slab_must_alloc(&heap, bytes[i]);
    for (uint32_t i = 0; i < 3000000; i++) {
        uint64_t ref = support_random();
        bool is_live = false;
        if (i % 4 != 0) /* near misses: a few bits of a live one are others */
            ref = live[i % 5] ^ (support_random() & support_random() & support_random() &
                                 support_random() & support_random());
        for (uint32_t k = 0; k < 5; k++)
            is_live |= ref == live[k];
        hits += is_live;
        assert_int_equal(shr_block_valid(&slab_map, ref, 1), is_live);
    }
    print_message("%u of 3000000 were live\n", hits);
    assert_true(hits > 0);
    for (uint32_t round = 0, valid = 0; round < 200 || valid == 0; round++) { /* damaged tables */
        for (uint32_t i = 0; i < 16; i++) {
            shr_store32_relaxed(&slab_map.chunks[i].class_idx, (uint32_t)support_random() % 13);
            shr_store32_relaxed(&slab_map.chunks[i].run_chunks,
                                (uint32_t)(support_random() >> 32) >> support_random() % 32);
            for (uint32_t k = 0; k < SHR_CHUNK_BLOCKS; k++) {
                uint64_t word = support_random() % 3 | UINT64_C(1) << 32;
                shr_store_relaxed(&slab_map.chunks[i].block[k], word);
            }
            shr_store_relaxed(&slab_map.owners[i], support_random() >> support_random() % 64);
        }
        for (uint32_t k = 0; k < 4000; k++) {
            uint64_t ref = (support_random() & 0xffffffff & ~UINT64_C(0x7fff0)) | UINT64_C(1) << 32;
            if (k % 2 != 0) /* the first block, of a large class or a run */
                ref = (ref & ~UINT64_C(0xfff80000)) | (8 + k / 2 % 3) << 28;
            uint64_t room = (support_random() >> 40) % (20 * CHUNK);
            bool ok = shr_block_valid(&slab_map, ref, room);
            valid += ok;
            assert_true(!ok || lies_inside(ref, room));
            hand_set(&slab_map.hands[0], k, support_random() & support_random());
        }
        shr_slab_sweep(&slab_map, 100, support_random());
    }
    uint64_t ref;
    for (uint32_t i = 0; i < 100000; i++) { /* and the owner itself stays inside */
        if (shr_alloc(&heap, (uint32_t)support_random() % (4 * CHUNK) + 1, &ref) == 0)
            assert_true(lies_inside(ref, UINT64_C(128) << shr_ref_class(ref) % SHR_CLASS_RUN));
    }
    shr_heap_fini(&heap);
}

static void test_usage(void **state)
{
    (void)state;
    struct shr_heap heap;
    struct shr_slab_usage row[SHR_USAGE_ROWS];
    slab_open(8, SHR_DROP_OLDEST);
    slab_map.geo.node_cnt = 2;
    slab_map.geo.node[0].chunk_cnt = slab_map.geo.node[1].chunk_cnt =
        slab_map.geo.node[1].chunk_first = 4;
    slab_map.geo.node[1].node_id = 900; /* no processor is there */
    slab_enter(&slab_map, &heap, 1);
    for (uint32_t i = 0; i < 6; i++)
        slab_must_alloc(&heap, CHUNK); /* four here, two there */
    slab_must_alloc(&heap, 100);
    assert_int_equal(shr_slab_usage(&slab_map, row, SHR_USAGE_ROWS), 22);
    assert_int_equal(shr_slab_usage(&slab_map, row, 21), 21);
    assert_int_equal(row[9].blocks, 4);
    assert_int_equal(row[9].free, 0);
    assert_int_equal(row[10].free, 0);
    assert_int_equal(row[11].node, 900);
    assert_int_equal(row[11].block_bytes, 128);
    assert_int_equal(row[11].blocks, 512);
    assert_int_equal(row[11].free, 511);
    assert_int_equal(row[20].blocks, 2);
    shr_slab_usage(&slab_map, row, SHR_USAGE_ROWS);
    assert_int_equal(row[21].block_bytes, 0);
    assert_int_equal(row[21].blocks, 4);
    assert_int_equal(row[21].free, 1);
    shr_heap_fini(&heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_orphans_wait, slab_close),
        cmocka_unit_test_teardown(test_orphans_kinds, slab_close),
        cmocka_unit_test_teardown(test_only_consumers_hold, slab_close),
        cmocka_unit_test_teardown(test_orphan_words, slab_close),
        cmocka_unit_test_teardown(test_sweeper_dies, slab_close),
        cmocka_unit_test_teardown(test_hands, slab_close),
        cmocka_unit_test_teardown(test_hostile_refs, slab_close),
        cmocka_unit_test_teardown(test_usage, slab_close),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
