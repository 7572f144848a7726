/* Goal: what dead owners and dead takers held comes back when nobody can use it any more, and
 * not before; and no reference, whatever its bits, leads outside the slabs.
 *
 * Method: real segments. An owner dies by making no further call; head, tail and hands are set
 * by the case. The states that a dying sweeper leaves are made one by one, and each must end
 * like a sweep that was not disturbed.
 */
#include "shmring/peer.h"
#include "shmring/slab.h"
#include "tests/support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Owners die here within one process, and a death leaves its private memory behind. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

#define CHUNK SHR_CHUNK_BYTES

static struct shr_map map;

static void bus_open(uint32_t chunks)
{
    struct shr_config config = support_tiny_config();
    char path[SHR_PATH_BYTES];
    config.capacity = 64;
    config.producers = 4;
    config.slab_bytes = (uint64_t)chunks * CHUNK;
    config.max_event = chunks * CHUNK / 2;
    assert_int_equal(shr_segment_create(&map, support_path(path), &config), 0);
    shr_store_relaxed(&map.hot->head, 100);
}

static int bus_close(void **state)
{
    char path[SHR_PATH_BYTES];
    (void)state;
    memcpy(path, map.path, sizeof(path));
    shr_segment_detach(&map);
    unlink(path);
    return 0;
}

static void owner_join(struct shr_heap *heap, uint32_t slot)
{
    shr_peer_enter(&map, slot, "owner");
    uint64_t epoch = shr_load_relaxed(&map.peers[slot].epoch);
    assert_int_equal(shr_heap_init(heap, &map, shr_owner(slot, epoch)), 0);
}

/* Without shr_heap_fini; the slot itself is swept. */
static void owner_die(struct shr_heap *heap, uint32_t slot)
{
    for (uint32_t i = 0; i <= SHR_CLASS_RUN; i++)
        free(heap->cls[i].chunk);
    shr_peer_exit(&map, slot);
}

static uint64_t must_alloc(struct shr_heap *heap, uint32_t bytes)
{
    uint64_t ref = 0;
    assert_int_equal(shr_alloc(heap, bytes, &ref), 0);
    assert_true(shr_block_valid(&map, ref, bytes));
    return ref;
}

static void hand_set(struct shr_hand *hand, uint64_t pos, uint64_t ref)
{
    shr_store_relaxed(&hand->ref, ref);
    shr_store_release(&hand->pos, pos);
}

/* All in the pool, with every word free. */
static bool slabs_are_clean(void)
{
    for (uint32_t i = 0; i < map.geo.chunk_cnt; i++) {
        if (shr_load_relaxed(&map.owners[i]) != 0)
            return false;
        for (uint32_t k = 0; k < SHR_CHUNK_BLOCKS; k++)
            if ((uint32_t)shr_load_relaxed(&map.chunks[i].block[k]) != SHR_BLOCK_FREE)
                return false;
    }
    return true;
}

static void test_orphans_wait(void **state)
{
    (void)state;
    struct shr_heap dead, alive;
    struct shr_lock consumer;
    bus_open(4);
    owner_join(&dead, 1);
    owner_join(&alive, 2);
    uint64_t in_ring = must_alloc(&dead, 500);
    uint64_t in_hand = must_alloc(&dead, 500);
    must_alloc(&dead, 4096); /* never committed */
    uint64_t kept = must_alloc(&alive, 500);
    assert_int_equal(shr_slab_sweep(&map, 100, 100), 0); /* both live */
    assert_true(shr_block_valid(&map, in_ring, 500));
    hand_set(&map.hands[0], 90, in_hand);
    assert_int_equal(shr_lock_take(&map, SHR_CONSUMER_SLOT, &consumer), 0);
    shr_store_relaxed(&map.hot->head, 105); /* a claim that the sweeper's head is too old for */
    owner_die(&dead, 1);
    assert_int_equal(shr_slab_sweep(&map, 100, 104), 2);
    assert_int_equal(shr_slab_sweep(&map, 200, 104), 2); /* the first head counts */
    assert_true(shr_block_valid(&map, in_ring, 500));
    assert_int_equal(shr_slab_sweep(&map, 200, 105), 1); /* of those, one is in a hand */
    assert_true(shr_block_valid(&map, in_hand, 500));
    assert_true(shr_block_free(&map, in_hand)); /* the taker is done, and its hand still names it */
    assert_int_equal(shr_slab_sweep(&map, 200, 105), 0);
    assert_false(shr_block_valid(&map, in_ring, 500));
    assert_int_equal(shr_slab_sweep(&map, 200, 200), 0);
    assert_true(shr_block_valid(&map, kept, 500));
    assert_true(shr_block_free(&map, kept));
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
    bus_open(2);
    owner_join(&dead, 1);
    uint64_t ref = must_alloc(&dead, CHUNK);
    owner_die(&dead, 1);
    assert_int_equal(shr_lock_take(&map, 3, &stopped), 0);
    hand_set(&map.peers[3].hand, 7, ref);
    hand_set(&map.hands[0], 7, ref);
    assert_int_equal(shr_slab_sweep(&map, 100, 100), 0);
    assert_true(slabs_are_clean());
    owner_join(&next, 2);
    uint64_t a = must_alloc(&next, CHUNK), b = must_alloc(&next, CHUNK);
    assert_true((uint32_t)a == (uint32_t)ref || (uint32_t)b == (uint32_t)ref);
    assert_false(shr_block_free(&map, ref));
    assert_true(shr_block_valid(&map, a, CHUNK) && shr_block_valid(&map, b, CHUNK));
    shr_lock_drop(&stopped);
}

/* The end of the ring is remembered once, and one that the ring never had is not waited for. A USED
 * word in the pool is no loss. */
static void test_orphan_words(void **state)
{
    (void)state;
    struct shr_heap dead, next;
    bus_open(2);
    owner_join(&dead, 1);
    uint64_t ref = must_alloc(&dead, CHUNK);
    shr_a64 *owner = &map.owners[shr_ref_chunk(ref)];
    owner_die(&dead, 1);
    assert_int_equal(shr_slab_sweep(&map, 100, 99), 1);
    uint64_t word = shr_load_relaxed(owner);
    assert_int_equal(word, SHR_OWNER_ORPHAN | 100);
    assert_int_equal(shr_slab_sweep(&map, 300, 99), 1);
    assert_int_equal(shr_load_relaxed(owner), word); /* the first end counts */
    shr_store_relaxed(owner, SHR_OWNER_ORPHAN | 1000000);
    assert_int_equal(shr_slab_sweep(&map, 100, 99), 1);
    assert_int_equal(shr_load_relaxed(owner), word);
    /* As if the last CAS of a stopped sweeper came early: the pool has a chunk with a USED word. */
    shr_store_relaxed(owner, 0);
    owner_join(&next, 2);
    for (uint32_t i = 0; i < 2 * SHR_CHUNK_BLOCKS; i++)
        must_alloc(&next, 128);
}

/* The slot has a new owner, who has chunks too; a word that no participant can have written; run
 * in a hand. */
static void test_orphans_kinds(void **state)
{
    (void)state;
    struct shr_heap dead, next;
    struct shr_lock consumer;
    bus_open(8);
    owner_join(&dead, 1);
    uint64_t run = must_alloc(&dead, 3 * CHUNK);
    owner_die(&dead, 1);
    owner_join(&next, 1);
    uint64_t ref = must_alloc(&next, 128);
    shr_store_relaxed(&map.owners[4], shr_owner(60000, 1));
    assert_int_not_equal(shr_ref_chunk(ref), 4);
    assert_int_equal(shr_lock_take(&map, SHR_CONSUMER_SLOT, &consumer), 0);
    hand_set(&map.hands[0], 7, run);
    assert_int_equal(shr_slab_sweep(&map, 100, 99), 4);
    assert_int_equal(shr_slab_sweep(&map, 100, 100), 3);
    assert_true(shr_block_valid(&map, run, 3 * CHUNK));
    hand_set(&map.hands[0], 0, run);
    assert_int_equal(shr_slab_sweep(&map, 100, 100), 0);
    assert_false(shr_block_valid(&map, run, 1));
    assert_true(shr_block_valid(&map, ref, 128));
    assert_true(shr_block_free(&map, ref));
    shr_heap_fini(&next);
    shr_lock_drop(&consumer);
    assert_true(slabs_are_clean());
}

/* Every prefix of the sweeper's stores: the first `words` words free; owner 0. */
static void test_sweeper_dies(void **state)
{
    (void)state;
    struct shr_heap dead;
    bus_open(2);
    for (uint32_t words = 0; words <= 32; words++) {
        owner_join(&dead, 1);
        for (uint32_t i = 0; i < 32; i++)
            must_alloc(&dead, 2048);
        uint32_t idx = dead.cls[4].chunk[0];
        owner_die(&dead, 1);
        assert_int_equal(shr_slab_sweep(&map, 100, 50), 1);
        struct shr_chunk *chunk = &map.chunks[idx];
        for (uint32_t i = 0; i < words; i++)
            shr_store_relaxed(&chunk->block[i],
                              shr_load_relaxed(&chunk->block[i]) & ~UINT64_C(0xffffffff));
        assert_int_equal(shr_slab_sweep(&map, 100, 99), 1);
        assert_int_equal(shr_slab_sweep(&map, 100, 100), 0);
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
    bus_open(2);
    owner_join(&heap, 1);
    struct shr_hand *hand = &map.peers[2].hand, *other = &map.peers[3].hand;
    uint64_t ref = must_alloc(&heap, 128);
    assert_true(shr_hand_sweep(&map, hand, 100)); /* empty */
    hand_set(hand, 50, ref);
    assert_true(shr_hand_sweep(&map, hand, 50)); /* not taken, and the dead take no more */
    assert_int_equal(shr_load_relaxed(&hand->pos), 0);
    assert_true(shr_block_valid(&map, ref, 128)); /* it is in the ring yet */
    hand_set(hand, 50, ref);
    hand_set(&map.hands[0], 50, ref);
    assert_int_equal(shr_lock_take(&map, SHR_CONSUMER_SLOT, &consumer), 0);
    assert_false(shr_hand_sweep(&map, hand, 51)); /* the consumer reads it */
    assert_true(shr_block_valid(&map, ref, 128));
    assert_int_equal(shr_load_relaxed(&hand->pos), 50);
    hand_set(&map.hands[0], 52, 0);
    hand_set(other, 50, ref);
    assert_int_equal(shr_lock_take(&map, 3, &loser), 0);
    assert_true(shr_hand_sweep(&map, hand, 51)); /* a producer that lives frees it, if at all */
    assert_int_equal(shr_load_relaxed(&hand->pos), 0);
    assert_false(shr_block_valid(&map, ref, 128));
    shr_lock_drop(&loser);
    shr_lock_drop(&consumer);
    uint64_t again = 0;
    for (uint32_t i = 0; i < 512; i++) /* one round later the block has another user */
        again = must_alloc(&heap, 128);
    assert_int_equal((uint32_t)again, (uint32_t)ref);
    assert_true(shr_hand_sweep(&map, other, 51));
    assert_true(shr_block_valid(&map, again, 128));
    shr_heap_fini(&heap);
}

static bool lies_inside(uint64_t ref, uint64_t bytes)
{
    const unsigned char *data = shr_block_data(&map, ref);
    const unsigned char *end = map.slabs + (uint64_t)map.geo.chunk_cnt * CHUNK;
    return data >= map.slabs && data <= end && bytes <= (uint64_t)(end - data);
}

static void test_hostile_refs(void **state)
{
    (void)state;
    struct shr_heap heap;
    uint64_t live[5];
    uint32_t hits = 0;
    bus_open(16);
    owner_join(&heap, 1);
    const uint32_t bytes[5] = {128, 1000, 30000, CHUNK, 3 * CHUNK};
    for (uint32_t i = 0; i < 5; i++)
        live[i] = must_alloc(&heap, bytes[i]);
    for (uint32_t i = 0; i < 3000000; i++) {
        uint64_t ref = support_random();
        bool is_live = false;
        if (i % 4 != 0) /* near misses: a few bits of a live one are others */
            ref = live[i % 5] ^ (support_random() & support_random() & support_random() &
                                 support_random() & support_random());
        for (uint32_t k = 0; k < 5; k++)
            is_live |= ref == live[k];
        hits += is_live;
        assert_int_equal(shr_block_valid(&map, ref, 1), is_live);
    }
    print_message("%u of 3000000 were live\n", hits);
    assert_true(hits > 0);
    for (uint32_t round = 0, valid = 0; round < 200 || valid == 0; round++) { /* damaged tables */
        for (uint32_t i = 0; i < 16; i++) {
            shr_store32_relaxed(&map.chunks[i].class_idx, (uint32_t)support_random() % 13);
            shr_store32_relaxed(&map.chunks[i].run_chunks,
                                (uint32_t)(support_random() >> 32) >> support_random() % 32);
            for (uint32_t k = 0; k < SHR_CHUNK_BLOCKS; k++)
                shr_store_relaxed(&map.chunks[i].block[k], support_random() % 3 | UINT64_C(1)
                                                                                      << 32);
            shr_store_relaxed(&map.owners[i], support_random() >> support_random() % 64);
        }
        for (uint32_t k = 0; k < 4000; k++) {
            uint64_t ref = (support_random() & 0xffffffff & ~UINT64_C(0x7fff0)) | UINT64_C(1) << 32;
            if (k % 2 != 0) /* the first block, of a large class or a run */
                ref = (ref & ~UINT64_C(0xfff80000)) | (8 + k / 2 % 3) << 28;
            uint64_t room = (support_random() >> 40) % (20 * CHUNK);
            bool ok = shr_block_valid(&map, ref, room);
            valid += ok;
            assert_true(!ok || lies_inside(ref, room));
            hand_set(&map.hands[0], k, support_random() & support_random());
        }
        shr_slab_sweep(&map, 100, support_random());
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
    bus_open(8);
    map.geo.node_cnt = 2;
    map.geo.node[0].chunk_cnt = map.geo.node[1].chunk_cnt = map.geo.node[1].chunk_first = 4;
    map.geo.node[1].node_id = 900; /* no processor is there */
    owner_join(&heap, 1);
    for (uint32_t i = 0; i < 6; i++)
        must_alloc(&heap, CHUNK); /* four here, two there */
    must_alloc(&heap, 100);
    assert_int_equal(shr_slab_usage(&map, row, SHR_USAGE_ROWS), 22);
    assert_int_equal(shr_slab_usage(&map, row, 21), 21);
    assert_int_equal(row[9].blocks, 4);
    assert_int_equal(row[9].free, 0);
    assert_int_equal(row[10].free, 0);
    assert_int_equal(row[11].node, 900);
    assert_int_equal(row[11].block_bytes, 128);
    assert_int_equal(row[11].blocks, 512);
    assert_int_equal(row[11].free, 511);
    assert_int_equal(row[20].blocks, 2);
    shr_slab_usage(&map, row, SHR_USAGE_ROWS);
    assert_int_equal(row[21].block_bytes, 0);
    assert_int_equal(row[21].blocks, 4);
    assert_int_equal(row[21].free, 1);
    shr_heap_fini(&heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_orphans_wait, bus_close),
        cmocka_unit_test_teardown(test_orphans_kinds, bus_close),
        cmocka_unit_test_teardown(test_only_consumers_hold, bus_close),
        cmocka_unit_test_teardown(test_orphan_words, bus_close),
        cmocka_unit_test_teardown(test_sweeper_dies, bus_close),
        cmocka_unit_test_teardown(test_hands, bus_close),
        cmocka_unit_test_teardown(test_hostile_refs, bus_close),
        cmocka_unit_test_teardown(test_usage, bus_close),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
