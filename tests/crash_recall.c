/* Goal: a recaller takes what a chunk is, and how far a run reaches, from its owner only when that
 * has said that it is done with it: whatever an owner had half made as the recaller looked, no
 * chunk that is in use goes to the pool.
 *
 * Method: an owner stands still behind each of its changes to the tables of the slabs in turn; most
 * often it has claimed chunks, and not yet said what they are. Beside each of these a recaller
 * stands still at its instructions in turn (step_pair.h); in the quick form not in late turns of
 * the loops over headers. The owner ends its allocation; another one takes what it can get; then
 * the recaller goes on. That is crash_slab.c for two at once.
 *
 * Then two recallers: an owner has an idle run, an idle chunk and one in use. Both stand still; the
 * owner and another one allocate what they can get, and again when the first recaller has gone on.
 * No chunk may have two users, and in the end all must be in the pool.
 */
#include "shmring/slab_pool.h"
#include "tests/slab_support.h"
#include "tests/step_clock.h"
#include "tests/step_pair.h"

#include <string.h>

STEP_CLOCK_GETTIME

#define CHUNKS 4u
#define RUN    (CHUNKS - 2) /* where a run of two goes: runs come from the top */
#define TURNS  40u          /* of each loop, in the quick form */

/* In memory of the test and the children. */
static struct world {
    char path[SHR_PATH_BYTES];
    uint64_t owner;
    uint64_t held; /* in use before the owner stands still; 0: nothing */
    uint64_t ref;  /* what it gets then */
} * world;

static struct shr_map child_map;
static struct shr_heap child_heap[2];

static int child_attach(void *user)
{
    (void)user;
    memset(slab_lock, 0, sizeof(slab_lock));
    return shr_segment_attach(&child_map, world->path, true);
}

static int owner_prepare(void *user)
{
    int rc = child_attach(user);
    if (rc == 0)
        slab_join(&child_map, &child_heap[0], 1);
    world->owner = child_heap[0].owner;
    step_clock_steady();
    return rc;
}

static int run_region(void *user)
{
    (void)user;
    return shr_alloc(&child_heap[0], 2 * CHUNK, &world->ref);
}

/* The chunk that the owner takes next was the first one of a run, and the one behind it is now
 * another chunk of the same owner, in use. */
static int single_prepare(void *user)
{
    uint64_t ref;
    int rc = owner_prepare(user);
    if (rc == 0)
        rc = shr_alloc(&child_heap[0], 2 * CHUNK, &ref);
    if (rc == 0)
        shr_block_free(&child_map, ref);
    shr_heap_return_runs(&child_heap[0], 1);
    slab_join(&child_map, &child_heap[1], 2);
    for (uint32_t i = 0; i < RUN && rc == 0; i++)
        rc = shr_alloc(&child_heap[1], CHUNK, &ref);
    child_heap[0].scan_pool = RUN + 1;
    if (rc == 0)
        rc = shr_alloc(&child_heap[0], CHUNK, &world->held);
    return rc;
}

static int single_region(void *user)
{
    (void)user;
    return shr_alloc(&child_heap[0], CHUNK, &world->ref);
}

/* What the owner has changed: owner words, what chunks are, the first headers, and what it says. */
static uint64_t tables(void *user)
{
    (void)user;
    uint64_t sum = shr_load_relaxed(&slab_map.peers[1].allocating);
    for (uint32_t i = 0; i < CHUNKS; i++) {
        sum = sum * 31 + shr_load_relaxed(&slab_map.owners[i]);
        sum = sum * 31 + shr_load32_relaxed(&slab_map.chunks[i].class_idx);
        sum = sum * 31 + shr_load32_relaxed(&slab_map.chunks[i].run_chunks);
        sum = sum * 31 + shr_load_relaxed(&slab_map.chunks[i].block[0]);
    }
    return sum;
}

static int setup(void *user)
{
    (void)user;
    slab_open(CHUNKS, SHR_BLOCK);
    memset(world, 0, sizeof(*world));
    memcpy(world->path, slab_map.path, sizeof(world->path));
    return 0;
}

static void teardown(void *user)
{
    (void)user;
    slab_close(NULL);
}

static int recaller_region(void *user)
{
    (void)user;
    shr_slab_recall(&child_map);
    return 0;
}

static bool is_kept(uint64_t ref)
{
    uint32_t chunks = shr_ref_class(ref) == SHR_CLASS_RUN ? 2 : 1;
    for (uint32_t i = 0; i < chunks; i++) {
        uint64_t word = shr_load_relaxed(&slab_map.owners[shr_ref_chunk(ref) + i]);
        if (!shr_owner_is(word, world->owner))
            return false;
    }
    return shr_block_valid(&slab_map, ref, 1);
}

static int check(struct step_child *owner, struct step_child *recaller, size_t k, void *user)
{
    (void)user;
    STEP_CHECK(step_to_end(owner) == 0);
    STEP_CHECK(is_kept(world->ref));
    if (world->held != 0) /* the block is used and freed while the recaller looks away */
        STEP_CHECK(shr_block_free(&slab_map, world->ref));
    struct shr_heap other;
    uint64_t got[CHUNKS];
    uint32_t cnt = 0;
    slab_join(&slab_map, &other, 3);
    while (cnt < CHUNKS && shr_alloc(&other, CHUNK, &got[cnt]) == 0)
        cnt++;
    STEP_CHECK(step_to_end(recaller) == 0);
    STEP_CHECK(is_kept(world->held != 0 ? world->held : world->ref));
    for (uint32_t i = 0; i < cnt; i++) {
        STEP_CHECK(shr_block_valid(&slab_map, got[i], CHUNK));
        STEP_CHECK(
            shr_owner_is(shr_load_relaxed(&slab_map.owners[shr_ref_chunk(got[i])]), other.owner));
    }
    shr_heap_fini(&other);
    return 0;
}

/* ---- two recallers --------------------------------------------------------------------------- */

static struct shr_heap idler, taker;

static int two_setup(void *user)
{
    uint64_t ref;
    setup(user);
    slab_join(&slab_map, &idler, 1);
    slab_join(&slab_map, &taker, 3);
    world->owner = idler.owner;
    if (shr_alloc(&idler, CHUNK, &world->held) != 0)
        return -ENOBUFS;
    slab_own_idle(&slab_map, &idler, 1);
    int rc = shr_alloc(&idler, 2 * CHUNK, &ref);
    if (rc == 0)
        shr_block_free(&slab_map, ref);
    return rc;
}

static void two_teardown(void *user)
{
    shr_heap_fini(&idler);
    shr_heap_fini(&taker);
    teardown(user);
}

/* All that the two of them can get, in turn. */
static void take_in_turn(uint64_t *got, uint32_t *cnt, uint64_t *took, uint32_t *took_cnt)
{
    bool more = true;
    while (more && *cnt + *took_cnt < CHUNKS) {
        more = shr_alloc(&idler, CHUNK, &got[*cnt]) == 0;
        *cnt += more;
        if (shr_alloc(&taker, CHUNK, &took[*took_cnt]) == 0) {
            ++*took_cnt;
            more = true;
        }
    }
}

static int check_users(const struct shr_heap *heap, const uint64_t *ref, uint32_t cnt, size_t k)
{
    for (uint32_t i = 0; i < cnt; i++) {
        uint64_t word = shr_load_relaxed(&slab_map.owners[shr_ref_chunk(ref[i])]);
        STEP_CHECK(shr_owner_is(word, heap->owner));
        STEP_CHECK(shr_block_valid(&slab_map, ref[i], CHUNK));
        for (uint32_t j = 0; j < i; j++)
            STEP_CHECK(shr_ref_chunk(ref[i]) != shr_ref_chunk(ref[j]));
    }
    return 0;
}

static int check_two(struct step_child *first, struct step_child *second, size_t k, void *user)
{
    uint64_t got[CHUNKS] = {world->held}, took[CHUNKS];
    uint32_t cnt = 1, took_cnt = 0;
    (void)user;
    take_in_turn(got, &cnt, took, &took_cnt);
    STEP_CHECK(step_to_end(first) == 0);
    take_in_turn(got, &cnt, took, &took_cnt);
    STEP_CHECK(step_to_end(second) == 0);
    STEP_CHECK(check_users(&idler, got, cnt, k) == 0);
    STEP_CHECK(check_users(&taker, took, took_cnt, k) == 0);
    take_in_turn(got, &cnt, took, &took_cnt);
    STEP_CHECK(cnt + took_cnt == CHUNKS);
    for (uint32_t i = 0; i < cnt; i++)
        STEP_CHECK(shr_block_free(&slab_map, got[i]));
    for (uint32_t i = 0; i < took_cnt; i++)
        STEP_CHECK(shr_block_free(&slab_map, took[i]));
    shr_heap_fini(&idler);
    shr_heap_fini(&taker);
    STEP_CHECK(slab_pool_count() == CHUNKS);
    return 0;
}

int main(void)
{
    support_begin();
    step_require();
    world = support_shared(sizeof(*world));
    const struct step_scenario makes_run = {.name = "who makes a run",
                                            .setup = setup,
                                            .prepare = owner_prepare,
                                            .region = run_region,
                                            .teardown = teardown};
    const struct step_scenario takes_chunk = {.name = "who takes a chunk",
                                              .setup = setup,
                                              .prepare = single_prepare,
                                              .region = single_region,
                                              .teardown = teardown};
    const struct step_scenario recaller = {
        .name = "recaller", .prepare = child_attach, .region = recaller_region};
    struct step_pair pair = {.first = &makes_run,
                             .second = &recaller,
                             .sum = tables,
                             .check = check,
                             .turns = support_depth() == SUPPORT_QUICK ? TURNS : SIZE_MAX,
                             .points_min = 100,
                             .changes_min = 3}; /* of a run: ANY, two claims */
    int failures = step_pair(&pair);
    pair.first = &takes_chunk; /* one chunk, ANY, a claim */
    failures += step_pair(&pair);
    const struct step_scenario recalls = {.name = "who recalls the same",
                                          .setup = two_setup,
                                          .prepare = child_attach,
                                          .region = recaller_region,
                                          .teardown = two_teardown};
    pair.first = &recalls; /* three marks, three chunks given back */
    pair.changes_min = 6;
    pair.check = check_two;
    if (support_depth() != SUPPORT_LONG)
        pair.turns = TURNS;
    failures += step_pair(&pair);
    return failures != 0;
}
