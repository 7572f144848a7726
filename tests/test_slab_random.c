/* Goal: whatever owners, takers, recallers and sweepers do one after the other, no byte of the
 * slabs has two users, no block in use is given away, and in the end all memory is back.
 *
 * Method: one process plays them all, by a seeded generator: blocks and runs of all sizes, frees in
 * any order, recalls, trims, owners that leave or die with blocks in use, old references. Beside
 * the slabs a table says who has which bytes; each block holds a pattern of its own. What happens
 * between two instructions is for crash_slab.c and the models. */
#include "shmring/ring.h"
#include "tests/slab_support.h"

#include "shmring/slab_pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CHUNKS    8u
#define OWNERS    4u
#define LIVE_MAX  256u
#define OLD_MAX   64u
#define UNIT      128u /* no block is smaller */
#define UNITS     (CHUNKS * CHUNK / UNIT)
#define LOOK_EACH 512u
#define HEAD      100u

struct block {
    uint64_t ref;
    uint32_t bytes;
    uint32_t owner;
    uint64_t id;
};

static struct shr_heap heap[OWNERS];
static struct block live[LIVE_MAX];
static uint32_t live_cnt;
static uint64_t old[OLD_MAX]; /* references to blocks that were freed, or lost by a death */
static uint64_t user[UNITS];  /* the id of the block that has these bytes; 0: none */
static uint64_t ids;
static struct {
    uint64_t served, refused, runs, deaths, recalled;
} seen;

static uint32_t pick(uint32_t n)
{
    return (uint32_t)(support_random() % n);
}

static uint32_t pick_bytes(void)
{
    switch (pick(8)) {
    case 0:
        return CHUNK;
    case 1:
        return CHUNK + 1 + pick(CHUNK);
    case 2:
        return 2 * CHUNK + 1 + pick(2 * CHUNK);
    case 3:
        return 1 + pick(CHUNK);
    default:
        return 1 + pick(1u << (7 + pick(9)));
    }
}

static unsigned char *data_of(const struct block *b)
{
    return shr_block_data(&slab_map, b->ref);
}

/* Gives the block's bytes to `to`; they must be `from`'s. */
static void set_user(const struct block *b, uint64_t from, uint64_t to)
{
    size_t first = (size_t)(data_of(b) - slab_map.slabs) / UNIT;
    for (size_t i = 0; i * UNIT < b->bytes; i++) {
        assert_true(first + i < UNITS);
        assert_int_equal(user[first + i], from);
        user[first + i] = to;
    }
}

static void check_whole(const struct block *b)
{
    uint64_t first, last;
    assert_true(shr_block_valid(&slab_map, b->ref, b->bytes));
    memcpy(&first, data_of(b), sizeof(first));
    memcpy(&last, data_of(b) + b->bytes - 8, sizeof(last));
    assert_int_equal(first, b->id);
    assert_int_equal(last, b->id);
}

static void forget(uint32_t i)
{
    set_user(&live[i], live[i].id, 0);
    old[pick(OLD_MAX)] = live[i].ref;
    live[i] = live[--live_cnt];
}

static void allocate(uint32_t owner)
{
    struct block b = {.bytes = pick_bytes(), .owner = owner, .id = ++ids};
    if (live_cnt == LIVE_MAX)
        return;
    if (b.bytes < 16)
        b.bytes = 16;
    if (shr_alloc(&heap[owner], b.bytes, &b.ref) != 0) {
        seen.refused++;
        return;
    }
    seen.served++;
    seen.runs += b.bytes > CHUNK;
    set_user(&b, 0, b.id);
    memcpy(data_of(&b), &b.id, sizeof(b.id));
    memcpy(data_of(&b) + b.bytes - 8, &b.id, sizeof(b.id));
    live[live_cnt++] = b;
}

static void release(void)
{
    if (live_cnt == 0)
        return;
    uint32_t i = pick(live_cnt);
    check_whole(&live[i]);
    assert_true(shr_block_free(&slab_map, live[i].ref));
    assert_false(shr_block_free(&slab_map, live[i].ref));
    forget(i);
}

static void sweep(void)
{
    struct shr_ring ring;
    shr_ring_init(&ring, &slab_map);
    shr_sweep_dead(&slab_map, &ring, true);
    shr_slab_sweep(&slab_map, HEAD, HEAD);
}

/* Leaves, or dies, with what it has; the next owner of its slot comes. */
static void replace(uint32_t owner, bool dies)
{
    uint32_t slot = owner + 1;
    for (uint32_t i = live_cnt; i-- > 0;) {
        if (live[i].owner == owner)
            forget(i);
    }
    if (dies) {
        for (uint32_t c = 0; c <= SHR_CLASS_CNT; c++)
            free(heap[owner].cls[c].chunk); /* which in a process of its own the kernel does */
    } else {
        shr_heap_fini(&heap[owner]);
        shr_peer_exit(&slab_map, slot);
    }
    shr_lock_drop(&slab_lock[slot]);
    seen.deaths += dies;
    sweep();
    slab_join(&slab_map, &heap[owner], slot);
}

static void look_at_all(void)
{
    for (uint32_t i = 0; i < live_cnt; i++)
        check_whole(&live[i]);
}

static void step(void)
{
    uint32_t owner = pick(OWNERS), what = pick(100);
    if (what < 48)
        allocate(owner);
    else if (what < 90)
        release();
    else if (what < 93)
        seen.recalled += shr_slab_recall(&slab_map);
    else if (what < 95)
        shr_heap_trim(&heap[owner]);
    else if (what < 96)
        sweep();
    else if (what < 97)
        shr_slab_reclaim(&heap[owner], pick(2) != 0);
    else if (what < 99) /* frees nothing that is in use */
        shr_block_free(&slab_map, old[pick(OLD_MAX)]);
    else if (pick(4) == 0)
        replace(owner, pick(2) != 0);
}

static void no_byte_has_two_users(void **state)
{
    uint32_t steps = support_depth() == SUPPORT_QUICK ? 400000 : 8000000;
    (void)state;
    slab_open(CHUNKS, SHR_BLOCK);
    shr_store_relaxed(&slab_map.hot->tail, HEAD);
    for (uint32_t i = 0; i < OWNERS; i++)
        slab_join(&slab_map, &heap[i], i + 1);
    for (uint32_t i = 0; i < steps; i++) {
        step();
        if (i % LOOK_EACH == 0)
            look_at_all();
    }
    look_at_all();
    while (live_cnt > 0)
        release();
    for (uint32_t i = 0; i < OWNERS; i++) {
        shr_heap_fini(&heap[i]);
        shr_peer_exit(&slab_map, i + 1);
        shr_lock_drop(&slab_lock[i + 1]);
    }
    sweep();
    sweep();
    assert_int_equal(slab_pool_count(), CHUNKS);
    printf(
        "%u steps: %llu blocks, %llu of them runs; %llu times none; %llu recalled, %llu deaths\n",
        steps, (unsigned long long)seen.served, (unsigned long long)seen.runs,
        (unsigned long long)seen.refused, (unsigned long long)seen.recalled,
        (unsigned long long)seen.deaths);
    assert_true(seen.runs > steps / 1000 && seen.recalled > steps / 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(no_byte_has_two_users, slab_close)};
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
