/* Goal: memory that its owner does not use comes back to who needs it, with and without a consumer;
 * and whoever is stopped or dies in the middle, no block has two users and nothing is lost.
 *
 * Method: the words that the two sides leave at each step are made by hand (crash_slab stops and
 * kills them at their instructions); two threads recall from each other as fast as they can, with
 * stamps in the blocks. A process that lives holds the lock of its slot.
 */
#include "lib/internal.h"
#include "tests/slab_support.h"
#include "tests/step_clock.h"

#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include <cmocka.h>

STEP_CLOCK_GETTIME

/* Owners die here within one process, and a death leaves its private memory behind. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

static uint64_t announced(uint32_t slot)
{
    return shr_load_relaxed(&slab_map.peers[slot].allocating);
}

static void announce_for(uint32_t slot, uint64_t what)
{
    shr_store_relaxed(&slab_map.peers[slot].allocating, what);
}

/* An owner that published two large events and idles; both are handled. */
static void test_idle_owner_gives(void **state)
{
    (void)state;
    struct shr_heap a, b;
    uint64_t ref;
    slab_open(2, SHR_BLOCK);
    slab_join(&slab_map, &a, 1);
    slab_join(&slab_map, &b, 2);
    slab_own_idle(&slab_map, &a, 2);
    assert_int_equal(shr_alloc(&b, 100, &ref), -ENOBUFS);
    assert_true(shr_slab_reclaim(&b, false));
    uint64_t mine = slab_must_alloc(&b, 100);
    assert_int_equal(announced(1) | announced(2), SHR_ALLOCATING_NONE);
    uint64_t other = slab_must_alloc(&a, CHUNK); /* a's list names both chunks yet: one is b's */
    assert_int_not_equal(shr_ref_chunk(other), shr_ref_chunk(mine));
    assert_int_equal(shr_alloc(&a, CHUNK, &ref), -ENOBUFS);
    assert_true(shr_block_valid(&slab_map, mine, 100));
    assert_int_equal(a.cls[9].chunk_cnt, 1);
    assert_false(shr_slab_reclaim(&b, false));       /* a moment ago */
    assert_int_equal(shr_slab_recall(&slab_map), 0); /* all is in use */
    assert_true(shr_block_free(&slab_map, other));
    shr_heap_fini(&a);
    assert_int_equal(slab_pool_count(), 1);
}

/* What an owner says that it is about to use stays; ANY holds for all of its chunks. */
static void test_announced_stays(void **state)
{
    (void)state;
    struct shr_heap a;
    slab_open(3, SHR_BLOCK);
    slab_join(&slab_map, &a, 1);
    slab_own_idle(&slab_map, &a, 3);
    announce_for(1, SHR_ALLOCATING_ANY);
    assert_int_equal(shr_slab_recall(&slab_map), 0);
    uint64_t word = shr_load_relaxed(&slab_map.owners[a.cls[9].chunk[1]]);
    assert_true(word != a.owner && shr_owner_is(word, a.owner));
    assert_int_equal(shr_slab_recall(&slab_map), 0); /* no two recalls have one number */
    assert_int_not_equal(shr_load_relaxed(&slab_map.owners[a.cls[9].chunk[1]]), word);
    announce_for(1, a.cls[9].chunk[1] + 1);
    assert_int_equal(shr_slab_recall(&slab_map), 2);
    assert_int_not_equal(shr_load_relaxed(&slab_map.owners[a.cls[9].chunk[1]]), 0);
    uint64_t ref = slab_must_alloc(&a, CHUNK); /* it has seen nothing yet, and now sees all */
    assert_int_equal(a.cls[9].chunk_cnt, 1);
    assert_int_equal(shr_load_relaxed(&slab_map.owners[shr_ref_chunk(ref)]), a.owner);
    assert_int_equal(shr_slab_recall(&slab_map), 0);
}

/* A recaller that died behind its marks, before or after its count; or was stopped for long. */
static void test_recaller_left(void **state)
{
    (void)state;
    struct shr_heap a;
    slab_open(2, SHR_BLOCK);
    slab_join(&slab_map, &a, 1);
    for (uint32_t counted = 0; counted < 2; counted++) {
        slab_own_idle(&slab_map, &a, 2);
        uint64_t mark = shr_owner_recalled(a.owner, 1000 + counted);
        shr_store_relaxed(&slab_map.owners[0], mark);
        shr_store_relaxed(&slab_map.owners[1], mark);
        shr_fetch_add_relaxed(&slab_map.hot->recalls, counted);
        uint64_t ref = slab_must_alloc(&a, CHUNK);
        uint32_t idx = shr_ref_chunk(ref);
        assert_true(shr_owner_is(shr_load_relaxed(&slab_map.owners[idx]), a.owner));
        /* Its last step, now: it did not see the block, for it looked before. Once counted, its
         * word is gone; before that it would count, and look, first. */
        if (counted != 0)
            assert_false(shr_cas_release(&slab_map.owners[idx], mark, 0));
        assert_int_equal(shr_slab_recall(&slab_map), counted == 0 ? 1 : 0);
        assert_int_equal(slab_pool_count(), 1);
        assert_true(shr_block_valid(&slab_map, ref, CHUNK));
        assert_true(shr_block_free(&slab_map, ref));
        assert_int_equal(shr_slab_recall(&slab_map), 1);
        assert_int_equal(slab_pool_count(), 2);
    }
    /* The owner goes, recalled or not: the sweep does the rest. */
    slab_must_alloc(&a, 100);
    shr_store_relaxed(&slab_map.owners[a.cls[0].chunk[0]], shr_owner_recalled(a.owner, 5));
    assert_int_equal(shr_slab_sweep(&slab_map, 100, 100), 0);
    assert_int_equal(slab_pool_count(), 1);
    shr_peer_exit(&slab_map, 1);
    assert_int_equal(shr_slab_sweep(&slab_map, 100, 99), 1);
    assert_int_equal(shr_slab_recall(&slab_map), 0);
    assert_int_equal(shr_slab_sweep(&slab_map, 100, 100), 0);
    assert_int_equal(slab_pool_count(), 2);
}

static void test_runs(void **state)
{
    (void)state;
    struct shr_heap a, b;
    uint64_t ref;
    slab_open(8, SHR_BLOCK);
    slab_join(&slab_map, &a, 1);
    slab_join(&slab_map, &b, 2);
    uint64_t run = slab_must_alloc(&a, 4 * CHUNK), used = slab_must_alloc(&a, 3 * CHUNK);
    uint32_t first = shr_ref_chunk(run);
    /* What follows the first chunk of a run is not idle by itself. */
    assert_int_equal(shr_slab_recall(&slab_map), 0);
    assert_int_equal(slab_pool_count(), 1);
    assert_true(shr_block_free(&slab_map, run));
    announce_for(1, first + 1 + 2);
    assert_int_equal(shr_slab_recall(&slab_map), 0);
    announce_for(1, SHR_ALLOCATING_NONE);
    /* As if a recaller died behind its first CAS. */
    shr_store_relaxed(&slab_map.owners[first + 3], 0);
    assert_int_equal(shr_slab_recall(&slab_map), 3);
    assert_int_equal(slab_pool_count(), 5);
    assert_true(shr_block_valid(&slab_map, used, 3 * CHUNK));
    uint64_t other = slab_must_alloc(&b, 3 * CHUNK);
    slab_must_alloc(&a, CHUNK); /* a forgets the run and gives nothing of b's back */
    assert_int_equal(slab_pool_count(), 1);
    assert_true(shr_block_valid(&slab_map, other, 3 * CHUNK));
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(shr_load_relaxed(&slab_map.owners[shr_ref_chunk(used) + i]), a.owner);
    /* For a run, recall also while the pool has single chunks. */
    assert_true(shr_block_free(&slab_map, used));
    assert_int_equal(shr_alloc(&b, 4 * CHUNK, &ref), -ENOBUFS);
    assert_true(shr_slab_reclaim(&b, false));
    slab_must_alloc(&b, 4 * CHUNK);
}

/* Lengths that reach over the chunks of others, as only damage leaves them, do not make the
 * recaller look at these again and again: what stays is passed whole. */
static void test_damaged_length(void **state)
{
    (void)state;
    struct shr_heap a;
    slab_open(8, SHR_BLOCK);
    slab_join(&slab_map, &a, 1);
    slab_own_idle(&slab_map, &a, 8);
    assert_int_equal(slab_pool_count(), 0);
    uint32_t recall = (uint32_t)shr_load_relaxed(&slab_map.hot->recalls) + 1;
    for (uint32_t i = 1; i < 8; i++)
        shr_store_relaxed(&slab_map.owners[i], shr_owner_recalled(a.owner, recall));
    shr_store32_relaxed(&slab_map.chunks[1].class_idx, SHR_CLASS_RUN);
    shr_store32_relaxed(&slab_map.chunks[1].run_chunks, 7);
    shr_store_relaxed(&slab_map.chunks[1].block[0], shr_block_word(9, SHR_BLOCK_USED));
    /* Chunk 0: the others count as one that is used. */
    assert_int_equal(shr_slab_recall(&slab_map), 1);
    assert_int_equal(slab_pool_count(), 1);
}

static int without_membarrier(void *arg)
{
    struct shr_heap heap;
    struct shr_map own;
    (void)arg;
    SUPPORT_CHECK(shr_segment_attach(&own, getenv("RECALL_PATH"), true) == 0);
    SUPPORT_CHECK(support_deny(SYS_membarrier, 0, 0, ENOSYS) == 0);
    SUPPORT_CHECK(shr_slab_recall(&own) == 0); /* the owner does not fence: hands off */
    own.geo.wakers_fence = 1;                  /* it does */
    SUPPORT_CHECK(shr_slab_recall(&own) == 2);
    slab_join(&own, &heap, 3);
    SUPPORT_CHECK(heap.fence); /* nobody's membarrier reaches us */
    return 0;
}

static void test_membarrier_missing(void **state)
{
    (void)state;
    struct shr_heap a;
    slab_open(2, SHR_BLOCK);
    slab_join(&slab_map, &a, 1);
    assert_false(a.fence);
    slab_own_idle(&slab_map, &a, 2);
    setenv("RECALL_PATH", slab_map.path, 1);
    assert_int_equal(support_wait(support_child(without_membarrier, NULL)), 0);
    assert_int_equal(slab_pool_count(), 2);
}

/* ---- reclaim --------------------------------------------------------------------------------- */

static int join_and_die(void *arg)
{
    struct shr_heap heap;
    struct shr_map own;
    uint64_t ref;
    (void)arg;
    SUPPORT_CHECK(shr_segment_attach(&own, getenv("RECALL_PATH"), true) == 0);
    slab_join(&own, &heap, 4);
    SUPPORT_CHECK(shr_alloc(&heap, CHUNK, &ref) == 0 && shr_alloc(&heap, CHUNK, &ref) == 0);
    return 0;
}

/* No consumer; the owner of all was killed, in a slot that nobody joins; and another producer was
 * stopped as it reclaimed. */
static void test_reclaim_alone(void **state)
{
    (void)state;
    struct shr_heap b;
    uint64_t ref;
    slab_open(2, SHR_DROP_OLDEST);
    setenv("RECALL_PATH", slab_map.path, 1);
    assert_int_equal(support_wait(support_child(join_and_die, NULL)), 0);
    slab_join(&slab_map, &b, 1);
    shr_store_relaxed(&slab_map.hot->tail, 100);
    assert_int_equal(shr_alloc(&b, 100, &ref), -ENOBUFS);
    shr_store_relaxed(&slab_map.hot->reclaiming_ns, shr_now_ns() + UINT64_C(100000000000));
    assert_true(shr_slab_reclaim(&b, false)); /* a time that never was */
    assert_int_equal(slab_pool_count(), 2);
    assert_int_equal(shr_load_relaxed(&slab_map.hot->reclaiming_ns), 0);
    slab_must_alloc(&b, CHUNK);
    slab_must_alloc(&b, CHUNK);
    shr_heap_fini(&b);
    shr_peer_exit(&slab_map, 1);
    slab_join(&slab_map, &b, 2);
    assert_int_equal(shr_alloc(&b, 100, &ref), -ENOBUFS);
    shr_store_relaxed(&slab_map.hot->reclaiming_ns, shr_now_ns());
    uint32_t tries = 0;
    while (!shr_slab_reclaim(&b, false)) { /* the stopped one is left behind after a while */
        assert_true(++tries < 1000000);
        sched_yield();
    }
    slab_must_alloc(&b, 100);
}

/* Join, publish, leave, and no consumer: for ever. */
static void test_lives_without_consumer(void **state)
{
    (void)state;
    const uint32_t policies[] = {GEB_DROP_OLDEST, GEB_RETURN_ERROR};
    for (uint32_t i = 0; i < 2; i++) {
        char path[SHR_PATH_BYTES], data[64] = {0};
        struct shr_config config = support_tiny_config();
        config.policy = policies[i];
        config.capacity = 64;
        config.slab_bytes = 4 * CHUNK;
        config.max_event = CHUNK;
        assert_int_equal(shr_segment_create(&slab_map, support_path(path), &config), 0);
        for (uint32_t life = 0; life < (i == 0 ? 40 : 4); life++) {
            struct geb_producer *p;
            geb_topic_id topic;
            assert_int_equal(geb_join(&p, path, "life"), 0);
            assert_int_equal(geb_topic(p, "t", &topic), 0);
            assert_int_equal(geb_publish(p, topic, data, sizeof(data)), 0);
            assert_int_equal(geb_leave(p), 0);
        }
        if (i == 0)
            slab_close(NULL);
    }
}

/* A producer that idles with all memory, which is free: another one publishes, whatever the policy,
 * and drops nothing for it. */
static void test_publish_beside_idle(void **state)
{
    (void)state;
    for (uint32_t policy = 0; policy < 3; policy++) {
        char path[SHR_PATH_BYTES], data[100] = {0};
        struct shr_config config = support_tiny_config();
        struct geb_producer *a, *b;
        struct geb_loan loan[2];
        geb_topic_id topic;
        config.policy = policy;
        config.slab_bytes = 2 * CHUNK;
        config.max_event = CHUNK;
        assert_int_equal(shr_segment_create(&slab_map, support_path(path), &config), 0);
        assert_int_equal(geb_join(&a, path, "idle"), 0);
        assert_int_equal(geb_join(&b, path, "other"), 0);
        assert_int_equal(geb_topic(b, "t", &topic), 0);
        assert_int_equal(geb_publish(b, topic, data, 8), 0); /* not to be dropped */
        for (uint32_t i = 0; i < 2; i++)
            assert_int_equal(geb_loan(a, CHUNK, &loan[i]), 0);
        for (uint32_t i = 0; i < 2; i++)
            assert_int_equal(geb_return(a, &loan[i]), 0);
        assert_int_equal(geb_publish(b, topic, data, sizeof(data)), 0);
        assert_int_equal(shr_load_relaxed(&slab_map.hot->tail), slab_map.geo.cell_cnt);
        assert_int_equal(geb_leave(a), 0);
        assert_int_equal(geb_leave(b), 0);
        if (policy < 2)
            slab_close(NULL);
    }
}

/* ---- finding nothing ------------------------------------------------------------------------- */

/* A look everywhere that found nothing is not done again for four times as long as it took. The
 * clock counts looks at it: one to see that the time is not over, two to take the time. */
static void test_failing_is_cheap(void **state)
{
    (void)state;
    struct shr_heap heap;
    static uint64_t ref[128 * 512];
    uint64_t more;
    slab_open(128, SHR_BLOCK);
    slab_join(&slab_map, &heap, 1);
    for (uint32_t i = 0; i < 128 * 512; i++)
        ref[i] = slab_must_alloc(&heap, 128);
    step_clock_steady();
    assert_int_equal(shr_alloc(&heap, 128, &more), -ENOBUFS);
    uint64_t start_ns = shr_now_ns();
    for (uint32_t i = 0; i < 1000; i++)
        assert_int_equal(shr_alloc(&heap, 128, &more), -ENOBUFS);
    uint64_t looks = (shr_now_ns() - start_ns) / 1000 - 1;
    step_clock_kernel();
    print_message("1000 times nothing: %lu looks at the clock\n", (unsigned long)looks);
    assert_in_range(looks, 1000, 1000 + 2 * 1000 / 4);
    /* Who waits at the gate looks everywhere, and so does who was woken. */
    for (uint32_t woken = 0; woken < 2; woken++) {
        heap.dry_until_ns = UINT64_MAX;
        assert_true(shr_block_free(&slab_map, ref[40000 - 20000 * woken]));
        assert_int_equal(shr_alloc(&heap, 128, &more), -ENOBUFS);
        if (woken != 0)
            shr_gate_wake(&slab_map.hot->freed);
        else
            shr_store32_relaxed(&slab_map.hot->freed.waiting, 1);
        slab_must_alloc(&heap, 128);
        shr_store32_relaxed(&slab_map.hot->freed.waiting, 0);
    }
}

/* ---- a race ---------------------------------------------------------------------------------- */

#define RACE_CNT 10000u
static shr_a32 race_refused;

/* Takes RACE_CNT blocks of one or two chunks, stamps and checks them, and recalls when it gets
 * none. Ends only if recall works: each of the two leaves all memory idle at times, the first to
 * end for good. */
static void *race_main(void *arg)
{
    struct shr_heap *heap = arg;
    uint64_t torn = 0;
    for (uint32_t served = 0; served < RACE_CNT;) {
        uint32_t bytes = served % 3 == 0 ? 2 * CHUNK : 30000u << (served % 2);
        uint64_t ref;
        if (shr_alloc(heap, bytes, &ref) != 0) {
            shr_fetch_add32_release(&race_refused, 1);
            if (shr_slab_recall(heap->map) == 0)
                sched_yield();
            continue;
        }
        unsigned char *data = shr_block_data(heap->map, ref);
        for (uint32_t at = 0; at < bytes; at += 4096)
            memcpy(data + at, &ref, 8);
        for (uint32_t at = 0; at < bytes; at += 4096)
            torn += memcmp(data + at, &ref, 8) != 0;
        torn += !shr_block_valid(heap->map, ref, bytes);
        torn += !shr_block_free(heap->map, ref);
        served++;
    }
    return (void *)(uintptr_t)torn;
}

static void test_race(void **state)
{
    (void)state;
    struct shr_heap heap[2];
    pthread_t thread[2];
    slab_open(2, SHR_BLOCK);
    for (uint32_t i = 0; i < 2; i++)
        slab_join(&slab_map, &heap[i], i + 1);
    for (uint32_t i = 0; i < 2; i++)
        pthread_create(&thread[i], NULL, race_main, &heap[i]);
    for (uint32_t i = 0; i < 2; i++) {
        void *torn;
        pthread_join(thread[i], &torn);
        assert_null(torn);
    }
    print_message("%u refused, %lu counts\n", shr_load32_relaxed(&race_refused),
                  (unsigned long)shr_load_relaxed(&slab_map.hot->recalls));
    assert_true(shr_load32_relaxed(&race_refused) > 0);
    for (uint32_t i = 0; i < 2; i++)
        shr_heap_fini(&heap[i]);
    assert_int_equal(slab_pool_count(), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_idle_owner_gives, slab_close),
        cmocka_unit_test_teardown(test_announced_stays, slab_close),
        cmocka_unit_test_teardown(test_recaller_left, slab_close),
        cmocka_unit_test_teardown(test_runs, slab_close),
        cmocka_unit_test_teardown(test_damaged_length, slab_close),
        cmocka_unit_test_teardown(test_membarrier_missing, slab_close),
        cmocka_unit_test_teardown(test_reclaim_alone, slab_close),
        cmocka_unit_test_teardown(test_lives_without_consumer, slab_close),
        cmocka_unit_test_teardown(test_publish_beside_idle, slab_close),
        cmocka_unit_test_teardown(test_failing_is_cheap, slab_close),
        cmocka_unit_test_teardown(test_race, slab_close),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
