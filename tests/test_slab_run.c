/* Goal: a run that was recalled from its idle owner is forgotten by that owner, whoever uses its
 * chunks since; what an owner forgets to forget, it would give away later, though it be its own
 * again and in use.
 *
 * Method: one owner's run goes back to the pool, and the two owners take its chunks singly, in each
 * order. Each step is a call; no process ends.
 */
#include "shmring/peer.h"
#include "shmring/slab.h"
#include "tests/support.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define CHUNK  SHR_CHUNK_BYTES
#define CHUNKS 4u

static struct shr_map map;
static struct shr_lock lock[2];
static struct shr_heap heap[2];

static int bus_open(void **state)
{
    struct shr_config config = support_tiny_config();
    char path[SHR_PATH_BYTES];
    (void)state;
    config.policy = SHR_BLOCK;
    config.capacity = 64;
    config.producers = 4;
    config.slab_bytes = CHUNKS * CHUNK;
    config.max_event = 2 * CHUNK;
    assert_int_equal(shr_segment_create(&map, support_path(path), &config), 0);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(shr_lock_take(&map, i + 1, &lock[i]), 0);
        shr_peer_enter(&map, i + 1, "owner");
        uint64_t epoch = shr_load_relaxed(&map.peers[i + 1].epoch);
        assert_int_equal(shr_heap_init(&heap[i], &map, shr_owner(i + 1, epoch)), 0);
    }
    return 0;
}

static int bus_close(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        shr_heap_fini(&heap[i]);
        shr_lock_drop(&lock[i]);
    }
    unlink(map.path);
    shr_segment_detach(&map);
    return 0;
}

static uint64_t must_alloc(struct shr_heap *of, uint32_t bytes)
{
    uint64_t ref = 0;
    assert_int_equal(shr_alloc(of, bytes, &ref), 0);
    assert_true(shr_block_valid(&map, ref, bytes));
    return ref;
}

/* `first` takes the first chunk of a run that heap[0] had, `second` the other one. */
static void take_apart(struct shr_heap *first, struct shr_heap *second)
{
    uint64_t ref;
    for (uint32_t i = 0; i < CHUNKS - 2; i++) /* so that only the run's chunks are left */
        must_alloc(&heap[1], CHUNK);
    uint64_t run = must_alloc(&heap[0], 2 * CHUNK);
    assert_true(shr_block_free(&map, run));
    assert_int_equal(shr_slab_recall(&map), 2);
    uint64_t low = must_alloc(first, CHUNK);
    uint64_t high = must_alloc(second, CHUNK);
    assert_int_equal(shr_ref_chunk(low), shr_ref_chunk(run));
    assert_int_equal(shr_ref_chunk(high), shr_ref_chunk(run) + 1);
    assert_true(shr_block_free(&map, low)); /* now the run's header looks free again */
    assert_int_equal(shr_alloc(second, CHUNK, &ref), -ENOBUFS);
    assert_true(shr_block_valid(&map, high, CHUNK));
    assert_int_equal(shr_load_relaxed(&map.owners[shr_ref_chunk(high)]), second->owner);
    assert_int_equal(shr_load_relaxed(&map.owners[shr_ref_chunk(low)]), first->owner);
}

static void test_rest_is_mine(void **state)
{
    (void)state;
    take_apart(&heap[1], &heap[0]);
}

static void test_first_is_mine(void **state)
{
    (void)state;
    take_apart(&heap[0], &heap[1]);
}

int main(void)
{
    support_begin();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rest_is_mine, bus_open, bus_close),
        cmocka_unit_test_setup_teardown(test_first_is_mine, bus_open, bus_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
