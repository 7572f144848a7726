/* Goal: a run that was recalled from its idle owner is forgotten by that owner, whoever uses its
 * chunks since; what an owner forgets to forget, it would give away later, though it be its own
 * again and in use.
 *
 * Method: one owner's run goes back to the pool, and the two owners take its chunks singly, in each
 * order. Each step is a call; no process ends.
 */
#include "tests/slab_support.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define CHUNKS 4u

static struct shr_heap heap[2];

static int bus_open(void **state)
{
    (void)state;
    slab_open(CHUNKS, SHR_BLOCK);
    for (uint32_t i = 0; i < 2; i++)
        slab_join(&slab_map, &heap[i], i + 1);
    return 0;
}

static int bus_close(void **state)
{
    for (uint32_t i = 0; i < 2; i++)
        shr_heap_fini(&heap[i]);
    return slab_close(state);
}

/* `first` takes the first chunk of a run that heap[0] had, `second` the other one. */
static void take_apart(struct shr_heap *first, struct shr_heap *second)
{
    uint64_t ref;
    for (uint32_t i = 0; i < CHUNKS - 2; i++) /* so that only the run's chunks are left */
        slab_must_alloc(&heap[1], CHUNK);
    uint64_t run = slab_must_alloc(&heap[0], 2 * CHUNK);
    assert_true(shr_block_free(&slab_map, run));
    assert_int_equal(shr_slab_recall(&slab_map), 2);
    uint64_t low = slab_must_alloc(first, CHUNK);
    uint64_t high = slab_must_alloc(second, CHUNK);
    assert_int_equal(shr_ref_chunk(low), shr_ref_chunk(run));
    assert_int_equal(shr_ref_chunk(high), shr_ref_chunk(run) + 1);
    assert_true(shr_block_free(&slab_map, low)); /* now the run's header looks free again */
    assert_int_equal(shr_alloc(second, CHUNK, &ref), -ENOBUFS);
    assert_true(shr_block_valid(&slab_map, high, CHUNK));
    assert_int_equal(shr_load_relaxed(&slab_map.owners[shr_ref_chunk(high)]), second->owner);
    assert_int_equal(shr_load_relaxed(&slab_map.owners[shr_ref_chunk(low)]), first->owner);
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
