/* Goal: no byte of the slabs has two users, whatever owners and takers of several processes do at
 * the same time; and in the end all memory is back.
 *
 * Method: each process owns chunks, allocates blocks and runs of all sizes, and hands them to the
 * others through a table, as events do; who takes one checks and frees it. All recall and trim all
 * the time, for there are few chunks. A map of the slabs in memory of their own says who has which
 * bytes: whoever gets a block must find them free, and whoever frees it must find them his. That
 * is test_slab_random.c with several at once; nobody dies here, which is for stress_soak.c. */
#include "shmring/slab_pool.h"
#include "tests/slab_support.h"
#include "tests/stress_support.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define CHUNKS    12u
#define OWNERS    4u
#define UNIT      128u /* no block is smaller */
#define UNITS     (CHUNKS * CHUNK / UNIT)
#define POSTS     24u
#define EMPTY     UINT64_C(0)
#define BEING     UINT64_C(1) /* somebody is at it */
#define BYTES_MIN 16u

struct post {
    shr_a64 ref; /* EMPTY, BEING, or a block, to which the other two belong */
    uint64_t id;
    uint32_t bytes;
};

struct world {
    shr_a64 user[UNITS]; /* the id of the block that has these bytes; 0: none */
    struct post post[POSTS];
    shr_a64 served, refused, runs, recalled;
};

static struct world *world;
static struct shr_map child_map;
static uint64_t steps;
static uint32_t me; /* the slot of this process */
static uint64_t picks;

static uint32_t pick(uint32_t n)
{
    return (uint32_t)(stress_hash(me, ++picks, 0) % n);
}

static void set_user(uint64_t ref, uint32_t bytes, uint64_t from, uint64_t to)
{
    size_t first = (size_t)(shr_block_data(&child_map, ref) - child_map.slabs) / UNIT;
    for (size_t i = 0; i * UNIT < bytes; i++)
        SUPPORT_CHECK(shr_cas_acq_rel(&world->user[first + i], from, to));
}

static void set_pattern(uint64_t ref, uint32_t bytes, uint64_t id)
{
    unsigned char *data = shr_block_data(&child_map, ref);
    memcpy(data, &id, sizeof(id));
    memcpy(data + bytes - sizeof(id), &id, sizeof(id));
}

static bool has_pattern(uint64_t ref, uint32_t bytes, uint64_t id)
{
    const unsigned char *data = shr_block_data(&child_map, ref);
    return memcmp(data, &id, sizeof(id)) == 0 &&
           memcmp(data + bytes - sizeof(id), &id, sizeof(id)) == 0;
}

static void take(struct post *post)
{
    uint64_t ref = shr_load_acquire(&post->ref);
    if (ref <= BEING || !shr_cas_acq_rel(&post->ref, ref, BEING))
        return;
    uint32_t bytes = post->bytes;
    uint64_t id = post->id;
    SUPPORT_CHECK(shr_block_valid(&child_map, ref, bytes));
    SUPPORT_CHECK(has_pattern(ref, bytes, id));
    set_user(ref, bytes, id, 0);
    SUPPORT_CHECK(shr_block_free(&child_map, ref));
    shr_store_release(&post->ref, EMPTY);
}

static void give(struct shr_heap *heap, struct post *post, uint64_t id)
{
    uint32_t kind = pick(8);
    uint32_t bytes = BYTES_MIN + pick(kind == 0 ? 3 * CHUNK : kind == 1 ? CHUNK : 1u << (4 + kind));
    uint64_t ref;
    if (!shr_cas_acq_rel(&post->ref, EMPTY, BEING))
        return;
    if (shr_alloc(heap, bytes, &ref) != 0) {
        shr_fetch_add_relaxed(&world->refused, 1);
        shr_store_release(&post->ref, EMPTY);
        return;
    }
    shr_fetch_add_relaxed(&world->served, 1);
    shr_fetch_add_relaxed(&world->runs, bytes > CHUNK);
    SUPPORT_CHECK(shr_block_valid(&child_map, ref, bytes));
    set_user(ref, bytes, 0, id);
    set_pattern(ref, bytes, id);
    post->bytes = bytes;
    post->id = id;
    shr_store_release(&post->ref, ref);
}

static int own(void *arg)
{
    struct shr_heap heap;
    me = *(uint32_t *)arg;
    SUPPORT_CHECK(shr_segment_attach(&child_map, slab_map.path, true) == 0);
    slab_join(&child_map, &heap, me);
    for (uint64_t i = 1; i <= steps; i++) {
        struct post *post = &world->post[pick(POSTS)];
        uint32_t what = pick(64);
        if (what < 30)
            give(&heap, post, (uint64_t)me << 48 | i);
        else if (what < 61)
            take(post);
        else if (what < 63)
            shr_heap_trim(&heap);
        else
            shr_fetch_add_relaxed(&world->recalled, shr_slab_recall(&child_map));
    }
    shr_heap_fini(&heap);
    shr_peer_exit(&child_map, me);
    return 0;
}

static void no_byte_has_two_users(void **state)
{
    uint32_t slot[OWNERS];
    pid_t pid[OWNERS];
    (void)state;
    steps = stress_events(1500000);
    world = support_shared(sizeof(*world));
    slab_open(CHUNKS, SHR_BLOCK);
    for (uint32_t i = 0; i < OWNERS; i++) {
        slot[i] = i + 1;
        pid[i] = support_child(own, &slot[i]);
    }
    for (uint32_t i = 0; i < OWNERS; i++)
        assert_int_equal(support_wait(pid[i]), 0);
    assert_int_equal(shr_segment_attach(&child_map, slab_map.path, true), 0);
    for (uint32_t i = 0; i < POSTS; i++)
        take(&world->post[i]);
    for (uint32_t i = 0; i < UNITS; i++)
        assert_int_equal(shr_load_relaxed(&world->user[i]), 0);
    for (int i = 0; i < 2; i++) /* found to be orphans, then returned */
        shr_slab_sweep(&slab_map, 100, 100);
    assert_int_equal(slab_pool_count(), CHUNKS);
    shr_segment_detach(&child_map);
    printf("%llu blocks, %llu of them runs; %llu times none; %llu chunks recalled\n",
           (unsigned long long)shr_load_relaxed(&world->served),
           (unsigned long long)shr_load_relaxed(&world->runs),
           (unsigned long long)shr_load_relaxed(&world->refused),
           (unsigned long long)shr_load_relaxed(&world->recalled));
    assert_true(shr_load_relaxed(&world->recalled) > 0 && shr_load_relaxed(&world->runs) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(no_byte_has_two_users, slab_close)};
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
