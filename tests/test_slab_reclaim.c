/* Goal: a recaller keeps to what owners decide while it looks away, and to what may be damaged;
 * reclaiming is rare, and for one at a time; whoever brings chunks back wakes who waits for them;
 * and what an owner has, and does not use, is not what it fails for.
 *
 * Method: syscall and the clock are this program's. An owner decides as the recaller makes its
 * membarrier, which is between its marks and its decision; and time stands still but for what the
 * test adds. test_slab_recall.c has two sides that do all of it as it comes. */
#include "lib/internal.h"
#include "shmring/slab_pool.h"
#include "tests/api_support.h"
#include "tests/slab_support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include <cmocka.h>

/* An owner's private memory stays with it here when it ends. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

#define CHUNKS 8u
#define EVERY  UINT64_C(2000000) /* how often one producer reclaims, and how long one is alone */

static struct shr_heap a, b;

static uint64_t now_ns = UINT64_C(1000000000000), look_ns; /* look_ns: what a look takes */

int clock_gettime(clockid_t id, struct timespec *time)
{
    (void)id;
    now_ns += look_ns;
    time->tv_sec = (time_t)(now_ns / 1000000000u);
    time->tv_nsec = (long)(now_ns % 1000000000u);
    return 0;
}

/* A word that its owner changes to `keeps` at the membarrier of a recall. */
static shr_a64 *decided;
static uint64_t keeps;

long syscall(long number, ...)
{
    long arg[6];
    va_list args;
    va_start(args, number);
    for (int i = 0; i < 6; i++)
        arg[i] = va_arg(args, long);
    va_end(args);
    if (number == SYS_membarrier && decided != NULL) {
        shr_store_relaxed(decided, keeps);
        decided = NULL;
    }
    return support_libc_syscall(number, arg);
}

/* Two owners of a bus. All chunks are a's and free: single ones but for a run of three, if wanted,
 * whose first one is returned. */
static uint32_t bus_open(bool run)
{
    uint64_t ref[CHUNKS];
    uint64_t whole = 0;
    slab_open(CHUNKS, SHR_BLOCK);
    slab_join(&slab_map, &a, 1);
    slab_join(&slab_map, &b, 2);
    if (run)
        assert_int_equal(shr_alloc(&a, 3 * CHUNK, &whole), 0);
    uint32_t singles = run ? CHUNKS - 3 : CHUNKS;
    for (uint32_t i = 0; i < singles; i++)
        assert_int_equal(shr_alloc(&a, CHUNK, &ref[i]), 0);
    for (uint32_t i = 0; i < singles; i++)
        assert_true(shr_block_free(&slab_map, ref[i]));
    if (run)
        assert_true(shr_block_free(&slab_map, whole));
    return shr_ref_chunk(whole);
}

static uint64_t owner(uint32_t chunk)
{
    return shr_load_relaxed(&slab_map.owners[chunk]);
}

/* ---- what an owner decides meanwhile --------------------------------------------------------- */

/* A run whose owner has just decided to keep one of its chunks is kept whole, whichever it is. */
static void an_owner_that_decides_keeps_its_run(void **state)
{
    (void)state;
    for (uint32_t k = 0; k < 3; k++) {
        uint32_t first = bus_open(true);
        api_watchdog(60);
        decided = &slab_map.owners[first + k];
        keeps = a.owner;
        assert_int_equal(shr_slab_recall(&slab_map), CHUNKS - 3);
        for (uint32_t i = 0; i < CHUNKS; i++) {
            if (i >= first && i < first + 3)
                assert_true(shr_owner_is(owner(i), a.owner));
            else
                assert_int_equal(owner(i), 0);
        }
        api_watchdog(0);
        slab_close(NULL);
    }
    bus_open(false); /* for the teardown */
}

static void an_owner_that_decides_keeps_its_chunk(void **state)
{
    (void)state;
    bus_open(false);
    decided = &slab_map.owners[4];
    keeps = a.owner;
    assert_int_equal(shr_slab_recall(&slab_map), CHUNKS - 1);
    assert_int_equal(owner(4), a.owner);
}

/* An owner was killed as it had claimed a chunk, and not yet said what it is: by what stands there
 * it is the first of a run, of which the second chunk is in use by an event. The next owner of the
 * slot allocates nothing, which says nothing of that. */
static void the_next_owner_does_not_speak_for_the_last(void **state)
{
    struct shr_heap next;
    uint64_t ref, held;
    (void)state;
    bus_open(false);
    shr_heap_return_idle(&a);
    assert_int_equal(shr_alloc(&a, 2 * CHUNK, &ref), 0);
    assert_int_equal(shr_ref_chunk(ref), CHUNKS - 2);
    assert_true(shr_block_free(&slab_map, ref));
    shr_heap_return_runs(&a, 1);
    for (uint32_t i = 0; i < CHUNKS - 2; i++)
        assert_int_equal(shr_alloc(&b, CHUNK, &ref), 0);
    a.scan_pool = CHUNKS - 1;
    assert_int_equal(shr_alloc(&a, CHUNK, &held), 0);
    assert_int_equal(shr_ref_chunk(held), CHUNKS - 1);
    shr_store_relaxed(a.allocating, SHR_ALLOCATING_ANY);
    shr_store_relaxed(&slab_map.owners[CHUNKS - 2], a.owner);
    shr_lock_drop(&slab_lock[1]);
    assert_int_equal(shr_slab_recall(&slab_map), 0);
    slab_join(&slab_map, &next, 1);
    assert_int_equal(shr_slab_recall(&slab_map), 0);
    assert_true(shr_owner_is(owner(CHUNKS - 1), a.owner));
    assert_true(shr_block_valid(&slab_map, held, CHUNK));
    /* The sweep brings both back, once the event is taken. */
    uint64_t head = shr_load_relaxed(&slab_map.hot->head);
    assert_int_equal(shr_slab_sweep(&slab_map, head, head - 1), 2);
    assert_int_equal(shr_slab_sweep(&slab_map, head, head), 0);
    assert_int_equal(owner(CHUNKS - 1), 0);
}

/* ---- damage ---------------------------------------------------------------------------------- */

/* Words that name nobody who can be there: nobody's chunk is asked back, or looked for. */
static void words_of_nobody_are_left_alone(void **state)
{
    (void)state;
    bus_open(false);
    const uint64_t epoch = a.owner & ((UINT64_C(1) << 48) - 1);
    const uint64_t damage[] = {
        shr_owner_recalled(shr_owner(slab_map.geo.producer_cnt + 1, epoch), 1),
        shr_owner_recalled(shr_owner(0x7ff, epoch), 1),
        shr_owner(slab_map.geo.producer_cnt + 1, epoch),
        shr_owner(0x800 + 1, epoch), /* slot 1 in as many bits as a RECALLED word has */
        SHR_OWNER_ORPHAN | 1000,
    };
    const uint32_t cnt = sizeof(damage) / sizeof(damage[0]);
    for (uint32_t i = 0; i < cnt; i++)
        shr_store_relaxed(&slab_map.owners[1 + i], damage[i]);
    assert_int_equal(shr_slab_recall(&slab_map), CHUNKS - cnt);
    for (uint32_t i = 0; i < CHUNKS; i++)
        assert_int_equal(owner(i), i >= 1 && i <= cnt ? damage[i - 1] : 0);
}

/* A run that says that it reaches beyond the slabs is none. */
static void lengths_beyond_the_slabs_are_left_alone(void **state)
{
    static const uint32_t damage[] = {0, CHUNKS - 1, CHUNKS, 1u << 31, UINT32_MAX};
    (void)state;
    for (uint32_t i = 0; i < sizeof(damage) / sizeof(damage[0]); i++) {
        bus_open(false);
        shr_store32_relaxed(&slab_map.chunks[2].class_idx, SHR_CLASS_RUN);
        shr_store32_relaxed(&slab_map.chunks[2].run_chunks, damage[i]);
        assert_int_equal(shr_slab_recall(&slab_map), CHUNKS - 1);
        assert_int_equal(owner(2), a.owner);
        slab_close(NULL);
    }
    bus_open(false);
}

/* ---- how often, and who ---------------------------------------------------------------------- */

static void reclaiming_is_rare_and_for_one(void **state)
{
    shr_a64 *since = NULL;
    (void)state;
    bus_open(false);
    since = &slab_map.hot->reclaiming_ns;
    /* Somebody else is at it, for as long as that may take. */
    shr_store_relaxed(since, now_ns);
    assert_false(shr_slab_reclaim(&b, false));
    now_ns += EVERY - 1;
    assert_false(shr_slab_reclaim(&b, false));
    assert_int_equal(shr_load_relaxed(since), now_ns - (EVERY - 1));
    assert_int_equal(owner(0), a.owner);
    now_ns += 1;
    assert_true(shr_slab_reclaim(&b, false));
    assert_int_equal(shr_load_relaxed(since), 0);
    for (uint32_t i = 0; i < CHUNKS; i++)
        assert_int_equal(owner(i), 0);
    /* Again there is something, and then nothing. Behind that not before its time. The last call
     * before giving up has a time of its own. */
    shr_store_relaxed(&slab_map.owners[0], a.owner);
    assert_true(shr_slab_reclaim(&b, false));
    assert_int_equal(owner(0), 0);
    assert_false(shr_slab_reclaim(&b, false));
    shr_store_relaxed(&slab_map.owners[0], a.owner);
    now_ns += EVERY - 1;
    assert_false(shr_slab_reclaim(&b, false));
    assert_int_equal(owner(0), a.owner);
    assert_true(shr_slab_reclaim(&b, true));
    assert_int_equal(owner(0), 0);
    shr_store_relaxed(&slab_map.owners[0], a.owner);
    now_ns += 1;
    assert_true(shr_slab_reclaim(&b, false));
    assert_int_equal(owner(0), 0);
}

/* ---- wakes ----------------------------------------------------------------------------------- */

static bool is_woken(void)
{
    struct shr_gate *gate = &slab_map.hot->freed;
    bool woken = shr_load32_relaxed(&gate->waiting) == 0;
    shr_store32_relaxed(&gate->waiting, 1);
    return woken;
}

static void who_brings_chunks_back_wakes(void **state)
{
    (void)state;
    bus_open(false);
    shr_store32_relaxed(&slab_map.hot->freed.waiting, 1);
    shr_slab_recall(&slab_map);
    assert_true(is_woken());
    assert_int_equal(shr_slab_recall(&slab_map), 0); /* there is nothing any more */
    assert_false(is_woken());
    uint64_t ref;
    assert_int_equal(shr_alloc(&a, CHUNK, &ref), 0);
    shr_peer_exit(&slab_map, 1); /* a is gone, and all that it committed is taken */
    uint64_t head = shr_load_relaxed(&slab_map.hot->head);
    assert_int_equal(shr_slab_sweep(&slab_map, head, head), 0);
    assert_true(is_woken());
    assert_int_equal(shr_slab_sweep(&slab_map, head, head), 0);
    assert_false(is_woken());
}

/* ---- what an owner has ----------------------------------------------------------------------- */

static void a_run_is_made_of_idle_chunks(void **state)
{
    uint64_t ref;
    (void)state;
    bus_open(false);
    assert_int_equal(shr_alloc(&a, CHUNKS / 2 * CHUNK, &ref), 0);
    assert_true(shr_block_valid(&slab_map, ref, CHUNKS / 2 * CHUNK));
}

/* A slot's last owner may have died as it was about to touch all of its chunks. */
static void a_new_owner_is_not_allocating(void **state)
{
    (void)state;
    bus_open(false);
    shr_store_relaxed(&slab_map.peers[2].allocating, SHR_ALLOCATING_ANY);
    assert_int_equal(shr_heap_init(&b, &slab_map, b.owner), 0);
    assert_int_equal(shr_load_relaxed(&slab_map.peers[2].allocating), SHR_ALLOCATING_NONE);
}

/* A look everywhere for a small block that found none says nothing of larger ones. */
static void dry_is_of_one_class(void **state)
{
    static uint64_t small[CHUNKS * SHR_CHUNK_BLOCKS];
    uint64_t ref;
    (void)state;
    bus_open(false);
    shr_heap_return_idle(&a);
    look_ns = 100000;
    for (uint32_t i = 0; i < CHUNKS * SHR_CHUNK_BLOCKS; i++)
        assert_int_equal(shr_alloc(&b, 1, &small[i]), 0);
    assert_int_equal(shr_alloc(&b, 1, &ref), -ENOBUFS);
    assert_int_not_equal(b.dry_until_ns, 0);
    for (uint32_t i = 0; i < CHUNKS * SHR_CHUNK_BLOCKS; i++) {
        if (shr_ref_chunk(small[i]) == 3)
            assert_true(shr_block_free(&slab_map, small[i]));
    }
    assert_int_equal(shr_alloc(&b, CHUNK, &ref), 0);
    look_ns = 0;
}

/* A block's bytes were another class's since; the block is no observer's any more, though it was
 * not used again. */
static void a_class_leaves_its_generations(void **state)
{
    uint64_t small[SHR_CHUNK_BLOCKS];
    uint64_t ref;
    (void)state;
    bus_open(false);
    shr_heap_return_idle(&a);
    for (uint32_t i = 0; i < SHR_CHUNK_BLOCKS; i++)
        assert_int_equal(shr_alloc(&a, 1, &small[i]), 0);
    for (uint32_t i = 0; i < SHR_CHUNK_BLOCKS; i++)
        assert_true(shr_block_free(&slab_map, small[i]));
    assert_true(shr_block_kept(&slab_map, small[SHR_CHUNK_BLOCKS - 1]));
    for (uint32_t bytes = CHUNK; bytes != 0; bytes = bytes == CHUNK ? 1 : 0) {
        shr_heap_return_idle(&a);
        assert_int_equal(shr_alloc(&a, bytes, &ref), 0);
        assert_int_equal(shr_ref_chunk(ref), shr_ref_chunk(small[0]));
        assert_false(shr_block_kept(&slab_map, small[SHR_CHUNK_BLOCKS - 1]));
        assert_true(shr_block_free(&slab_map, ref));
    }
    /* A reference of generation 0 names no block, also where none was ever used. */
    do
        assert_int_equal(shr_alloc(&a, 1, &ref), 0);
    while (shr_ref_chunk(ref) == shr_ref_chunk(small[0]));
    assert_false(
        shr_block_kept(&slab_map, shr_ref(0, 0, shr_ref_chunk(ref), SHR_CHUNK_BLOCKS - 1)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(an_owner_that_decides_keeps_its_run, slab_close),
        cmocka_unit_test_teardown(an_owner_that_decides_keeps_its_chunk, slab_close),
        cmocka_unit_test_teardown(the_next_owner_does_not_speak_for_the_last, slab_close),
        cmocka_unit_test_teardown(words_of_nobody_are_left_alone, slab_close),
        cmocka_unit_test_teardown(lengths_beyond_the_slabs_are_left_alone, slab_close),
        cmocka_unit_test_teardown(reclaiming_is_rare_and_for_one, slab_close),
        cmocka_unit_test_teardown(who_brings_chunks_back_wakes, slab_close),
        cmocka_unit_test_teardown(a_run_is_made_of_idle_chunks, slab_close),
        cmocka_unit_test_teardown(a_new_owner_is_not_allocating, slab_close),
        cmocka_unit_test_teardown(dry_is_of_one_class, slab_close),
        cmocka_unit_test_teardown(a_class_leaves_its_generations, slab_close),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
