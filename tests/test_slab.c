/* Goal: a block belongs to one user at a time, is freed once, and comes back, whoever dies.
 *
 * Method: real segments of a few chunks. Owners, takers and the sweep are called in the order
 * that the case needs; what dies simply makes no further call. Races run on threads that stamp
 * what they own and check the stamps; the number of operations is fixed, so nothing depends on
 * time.
 */
#include "tests/slab_support.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_sizes(void **state)
{
    (void)state;
    struct shr_heap heap;
    slab_open(64, SHR_DROP_OLDEST);
    slab_enter(&slab_map, &heap, 1);
    for (uint32_t class_idx = 0; class_idx < SHR_CLASS_CNT; class_idx++) {
        uint32_t room = 128u << class_idx;
        uint32_t least = class_idx == 0 ? 1 : room / 2 + 1;
        uint64_t ref[2] = {slab_must_alloc(&heap, least), slab_must_alloc(&heap, room)};
        unsigned char *data[2];
        for (int i = 0; i < 2; i++) {
            data[i] = shr_block_data(&slab_map, ref[i]);
            assert_int_equal(shr_ref_class(ref[i]), class_idx);
            assert_false(shr_block_valid(&slab_map, ref[i], room + 1));
            assert_int_equal((uintptr_t)data[i] % 128, 0);
            assert_true(data[i] >= slab_map.slabs &&
                        data[i] + room <= slab_map.slabs + 64ull * CHUNK);
        }
        assert_true(data[0] + room <= data[1] || data[1] + room <= data[0]);
    }
    shr_heap_fini(&heap);
}

static void test_generation(void **state)
{
    (void)state;
    struct shr_heap heap;
    slab_open(2, SHR_DROP_OLDEST);
    slab_enter(&slab_map, &heap, 1);
    uint64_t ref = slab_must_alloc(&heap, CHUNK);
    assert_int_equal(shr_ref_generation(ref), 1);
    for (uint32_t g = 2; g < 100; g++) {
        assert_true(shr_block_kept(&slab_map, ref));
        assert_true(shr_block_free(&slab_map, ref));
        assert_true(shr_block_kept(&slab_map, ref)); /* free, not filled again */
        uint64_t next = slab_must_alloc(&heap, CHUNK);
        assert_int_equal(next - ref, UINT64_C(1) << 32);
        assert_false(shr_block_kept(&slab_map, ref));
        assert_false(shr_block_valid(&slab_map, ref, 1));
        ref = next;
    }
    shr_store_relaxed(shr_block_header(&slab_map, ref), shr_block_word(UINT32_MAX, SHR_BLOCK_FREE));
    assert_int_equal(shr_ref_generation(slab_must_alloc(&heap, CHUNK)), 1); /* 0 is skipped */
    shr_heap_fini(&heap);
}

#define RACE_CNT 4000u
static shr_a64 race_ref;     /* what both free now; 0: not made yet */
static shr_a64 race_done;    /* frees that were tried, in all */
static shr_a32 race_arrived; /* threads that were at a block, in all */

/* Both threads come to block i, go on together, and free it. Returns how often this one won. */
static void *race_main(void *arg)
{
    uint32_t *won = arg;
    for (uint32_t i = 0; i < RACE_CNT; i++) {
        uint64_t ref;
        while ((ref = shr_load_acquire(&race_ref)) >> 32 != i + 1)
            sched_yield();
        shr_fetch_add32_release(&race_arrived, 1);
        for (uint32_t spins = 1; shr_load32_acquire(&race_arrived) < 2 * i + 2; spins++)
            if (spins % 4096 == 0)
                sched_yield();
        *won += shr_block_free(&slab_map, ref);
        shr_fetch_add_acq_rel(&race_done, 1);
    }
    return NULL;
}

/* The block is always the same one: generation i + 1 in round i. */
static void test_free_once(void **state)
{
    (void)state;
    struct shr_heap heap;
    pthread_t thread[2];
    static uint32_t won[2][64];
    slab_open(2, SHR_DROP_OLDEST);
    slab_enter(&slab_map, &heap, 1);
    for (int t = 0; t < 2; t++)
        pthread_create(&thread[t], NULL, race_main, won[t]);
    for (uint32_t i = 0; i < RACE_CNT; i++) {
        shr_store_release(&race_ref, slab_must_alloc(&heap, CHUNK));
        while (shr_load_acquire(&race_done) < 2 * i + 2)
            sched_yield();
    }
    for (int t = 0; t < 2; t++)
        pthread_join(thread[t], NULL);
    print_message("winners %u and %u\n", won[0][0], won[1][0]);
    assert_int_equal(won[0][0] + won[1][0], RACE_CNT);
    shr_heap_fini(&heap);
}

/* A reference outlives its block, its chunk's return, a new owner and another size. */
static void test_stale(void **state)
{
    (void)state;
    struct shr_heap a, b;
    uint64_t stale[2], fresh[64];
    slab_open(2, SHR_DROP_OLDEST);
    slab_enter(&slab_map, &a, 1);
    slab_enter(&slab_map, &b, 2);
    for (int i = 0; i < 2; i++) {
        stale[i] = slab_must_alloc(&a, CHUNK);
        assert_true(shr_block_free(&slab_map, stale[i]));
    }
    shr_heap_fini(&a);
    assert_int_equal(slab_pool_count(), 2);
    for (int i = 0; i < 64; i++)
        fresh[i] = slab_must_alloc(&b, 2048);
    for (int i = 0; i < 2; i++) {
        assert_false(shr_block_valid(&slab_map, stale[i], 1));
        assert_false(shr_block_free(&slab_map, stale[i]));
    }
    for (int i = 0; i < 64; i++) {
        assert_true(shr_block_valid(&slab_map, fresh[i], 2048));
        assert_true(shr_block_free(&slab_map, fresh[i]));
    }
    shr_heap_fini(&b);
}

static void test_exhaustion(void **state)
{
    (void)state;
    struct shr_heap heap;
    uint64_t ref[64], more;
    slab_open(4, SHR_DROP_OLDEST);
    slab_enter(&slab_map, &heap, 1);
    for (uint32_t i = 0; i < 2; i++) /* idle chunks of other classes do not stand in the way */
        assert_true(shr_block_free(&slab_map, slab_must_alloc(&heap, 128u << i)));
    assert_true(shr_block_free(&slab_map, slab_must_alloc(&heap, CHUNK + 1)));
    for (int i = 0; i < 64; i++)
        ref[i] = slab_must_alloc(&heap, 4096);
    for (int i = 0; i < 1000; i++) {
        uint32_t k = (uint32_t)(support_random() % 64);
        assert_int_equal(shr_alloc(&heap, 4096, &more), -ENOBUFS);
        assert_int_equal(shr_alloc(&heap, 128, &more), -ENOBUFS);
        assert_int_equal(shr_alloc(&heap, 2 * CHUNK, &more), -ENOBUFS);
        assert_true(shr_block_free(&slab_map, ref[k]));
        ref[k] = slab_must_alloc(&heap, 4096);
    }
    assert_int_equal(shr_alloc(&heap, 4 * CHUNK + 1, &more), -EMSGSIZE);
    for (int i = 0; i < 64; i++)
        assert_true(shr_block_free(&slab_map, ref[i]));
    shr_heap_fini(&heap);
    assert_int_equal(slab_pool_count(), 4);
}

static void test_runs(void **state)
{
    (void)state;
    struct shr_heap heap;
    uint64_t more;
    slab_open(8, SHR_DROP_OLDEST);
    slab_enter(&slab_map, &heap, 1);
    uint64_t small = slab_must_alloc(&heap, 128);
    uint64_t run = slab_must_alloc(&heap, 2 * CHUNK + 1);
    uint32_t first = shr_ref_chunk(run);
    assert_int_equal(shr_ref_class(run), SHR_CLASS_RUN);
    assert_int_equal(slab_pool_count(), 4);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(shr_load_relaxed(&slab_map.owners[first + i]), heap.owner);
    assert_true(shr_block_valid(&slab_map, run, 3 * CHUNK));
    assert_false(shr_block_valid(&slab_map, run, 3 * CHUNK + 1));
    memset(shr_block_data(&slab_map, run), 1, 3 * CHUNK);
    slab_must_alloc(&heap, 4 * CHUNK);
    assert_int_equal(shr_alloc(&heap, 2 * CHUNK, &more), -ENOBUFS);
    assert_true(shr_block_free(&slab_map, run));
    assert_false(shr_block_free(&slab_map, run));
    assert_true(shr_block_free(&slab_map, small));
    slab_must_alloc(&heap, 128); /* of any class: the run goes back */
    assert_int_equal(slab_pool_count(), 3);
    slab_must_alloc(&heap, 3 * CHUNK);
    slab_map.geo.node_cnt = 2; /* a run lies within one node */
    slab_map.geo.node[0].chunk_cnt = slab_map.geo.node[1].chunk_cnt =
        slab_map.geo.node[1].chunk_first = 4;
    assert_int_equal(shr_alloc(&heap, 4 * CHUNK + 1, &more), -EMSGSIZE);
    shr_heap_fini(&heap);
}

#define LIVE_CNT   24u
#define RUN_CHUNKS 16u
struct worker {
    uint32_t slot;
    uint32_t served_goal;
    bool runs;
    shr_a32 finished;
    uint32_t served, refused, torn;
    struct worker *partner; /* frees what we allocate */
    shr_a64 mail[LIVE_CNT]; /* references for the partner, 0: none */
};

static uint32_t next_random(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* A stamp in each 64 bytes (in a run: each 4096); blocks that overlap destroy each other's. */
static bool block_stamp(uint64_t ref, uint32_t bytes, bool check)
{
    unsigned char *data = shr_block_data(&slab_map, ref);
    for (uint32_t at = 0; at + 8 <= bytes; at += bytes > CHUNK ? 4096 : 64) {
        if (check && memcmp(data + at, &ref, 8) != 0)
            return false;
        if (!check)
            memcpy(data + at, &ref, 8);
    }
    return true;
}

/* Frees one of the partner's blocks, if there is one in a random place. */
static void worker_free(struct worker *me, uint32_t place)
{
    uint64_t ref = shr_load_acquire(&me->partner->mail[place]);
    if (ref == 0)
        return;
    uint32_t bytes = shr_ref_class(ref) == SHR_CLASS_RUN ? RUN_CHUNKS * CHUNK
                                                         : 128u << shr_ref_class(ref);
    me->torn += !shr_block_valid(&slab_map, ref, bytes) || !block_stamp(ref, bytes, true);
    me->torn += !shr_block_free(&slab_map, ref);
    shr_store_release(&me->partner->mail[place], 0);
}

/* Allocates `served_goal` blocks for the partner and frees what the partner allocated, in random
 * order. Ends when nobody needs it any more. */
static void *worker_main(void *arg)
{
    struct worker *me = arg;
    struct shr_heap heap;
    uint32_t seed = me->slot * 77777u, bytes, live = 1;
    uint64_t ref;
    shr_heap_init(&heap, &slab_map,
                  shr_owner(me->slot, shr_load_relaxed(&slab_map.peers[me->slot].epoch)));
    while (live > 0 || shr_load32_acquire(&me->partner->finished) == 0) {
        worker_free(me, next_random(&seed) % LIVE_CNT);
        uint32_t k = next_random(&seed) % LIVE_CNT;
        if (me->served < me->served_goal && shr_load_acquire(&me->mail[k]) == 0) {
            bytes = me->runs ? RUN_CHUNKS * CHUNK : 128u << next_random(&seed) % SHR_CLASS_CNT;
            if (shr_alloc(&heap, bytes, &ref) == 0) {
                me->served++;
                block_stamp(ref, bytes, false);
                shr_store_release(&me->mail[k], ref);
            } else {
                me->refused++;
                sched_yield();
            }
        } else if (me->served == me->served_goal) {
            live = 0;
            for (k = 0; k < LIVE_CNT; k++)
                live += shr_load_acquire(&me->mail[k]) != 0;
            if (live == 0 && heap.map) { /* the partner may need our chunks */
                shr_heap_fini(&heap);
                shr_store32_release(&me->finished, 1);
            }
            sched_yield();
        }
    }
    return NULL;
}

static void workers_run(uint32_t goal, bool runs)
{
    static struct worker w[2];
    pthread_t thread[2];
    memset(w, 0, sizeof(w));
    for (uint32_t i = 0; i < 2; i++) {
        w[i].slot = i + 1;
        w[i].served_goal = goal;
        w[i].runs = runs;
        w[i].partner = &w[1 - i];
        shr_peer_enter(&slab_map, i + 1, "worker");
    }
    for (uint32_t i = 0; i < 2; i++)
        pthread_create(&thread[i], NULL, worker_main, &w[i]);
    for (uint32_t i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    for (uint32_t i = 0; i < 2; i++) {
        print_message("%u served, %u refused\n", w[i].served, w[i].refused);
        assert_int_equal(w[i].torn, 0);
    }
    assert_true(w[0].refused + w[1].refused > 0);
    assert_int_equal(slab_pool_count(), slab_map.geo.chunk_cnt);
    for (uint32_t i = 0; i < slab_map.geo.chunk_cnt * SHR_CHUNK_BLOCKS; i++)
        assert_int_equal((uint32_t)shr_load_relaxed(&slab_map.chunks[i / 512].block[i % 512]), 0);
}

static void test_remote_frees(void **state)
{
    (void)state;
    slab_open(8, SHR_DROP_OLDEST);
    workers_run(20000, false);
}

/* Room for two runs and a half: the owners meet, and one loses what it has claimed so far. */
static void test_runs_contended(void **state)
{
    (void)state;
    slab_open(2 * RUN_CHUNKS + RUN_CHUNKS / 2, SHR_DROP_OLDEST);
    workers_run(5000, true);
}

static void test_chunks_return(void **state)
{
    (void)state;
    struct shr_heap heap;
    uint64_t ref[320];
    slab_open(32, SHR_DROP_OLDEST);
    slab_enter(&slab_map, &heap, 1);
    for (int i = 0; i < 320; i++)
        ref[i] = slab_must_alloc(&heap, i % 2 == 0 ? 4096 : 8192);
    assert_true(slab_pool_count() <= 2);
    for (int i = 0; i < 320; i++)
        assert_true(shr_block_free(&slab_map, ref[i]));
    for (int i = 0; i < 320; i++) /* twenty chunks full, of one of the two classes only */
        assert_true(shr_block_free(&slab_map, slab_must_alloc(&heap, 4096)));
    assert_int_equal(slab_pool_count(), 32 - 2); /* each class keeps one spare */
    shr_heap_fini(&heap);
    assert_int_equal(slab_pool_count(), 32);
}

/* While the pool has chunks, a slow allocation looks at a few headers, not at all of its class. */
static void test_grows_early(void **state)
{
    (void)state;
    struct shr_heap heap;
    uint64_t ref = 0;
    slab_open(4, SHR_DROP_OLDEST);
    slab_enter(&slab_map, &heap, 1);
    for (uint32_t i = 0; i < 512; i++)
        ref = slab_must_alloc(&heap, 128);
    assert_true(shr_block_free(&slab_map, ref)); /* the last one, 511 looks away */
    slab_must_alloc(&heap, 128);
    assert_int_equal(heap.cls[0].chunk_cnt, 2);
    shr_heap_fini(&heap);
}

/* In a queue each allocation reads one header: the way of the cursor is as many blocks. */
static void test_fifo_looks(void **state)
{
    (void)state;
    struct shr_heap heap;
    static uint64_t ref[3000];
    uint64_t way = 0;
    slab_open(32, SHR_DROP_OLDEST);
    slab_enter(&slab_map, &heap, 1);
    struct shr_heap_class *cls = &heap.cls[1];
    for (uint32_t i = 0; i < 1000000; i++) {
        uint32_t blocks = cls->chunk_cnt * 256, from = cls->scan_chunk * 256 + cls->scan_block;
        if (ref[i % 3000] != 0)
            assert_true(shr_block_free(&slab_map, ref[i % 3000]));
        ref[i % 3000] = slab_must_alloc(&heap, 256);
        uint32_t to = cls->scan_chunk * 256 + cls->scan_block;
        if (blocks == cls->chunk_cnt * 256)
            way += (to + blocks - from - 1) % blocks + 1;
    }
    print_message("1000000 allocations, %lu headers, %u chunks\n", (unsigned long)way,
                  cls->chunk_cnt);
    assert_true(way < 1010000);
    assert_true(cls->chunk_cnt <= 3000 / 256 + 3);
    shr_heap_fini(&heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_sizes, slab_close),
        cmocka_unit_test_teardown(test_generation, slab_close),
        cmocka_unit_test_teardown(test_free_once, slab_close),
        cmocka_unit_test_teardown(test_stale, slab_close),
        cmocka_unit_test_teardown(test_exhaustion, slab_close),
        cmocka_unit_test_teardown(test_runs, slab_close),
        cmocka_unit_test_teardown(test_remote_frees, slab_close),
        cmocka_unit_test_teardown(test_runs_contended, slab_close),
        cmocka_unit_test_teardown(test_chunks_return, slab_close),
        cmocka_unit_test_teardown(test_fifo_looks, slab_close),
        cmocka_unit_test_teardown(test_grows_early, slab_close),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
