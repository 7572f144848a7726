/* Goal: a recaller takes what a chunk is, and how far a run reaches, from its owner only when that
 * has said that it is done with it: whatever an owner had half made as the recaller looked, no
 * chunk that is in use goes to the pool.
 *
 * Method: an owner stands still behind each of its changes to the tables of the slabs in turn; most
 * often it has claimed chunks, and not yet said what they are. Beside each of these a recaller
 * stands still at its instructions in turn (step.h), but for most turns of the loops over headers.
 * The owner ends its allocation; another one takes what it can get; then the recaller goes on. That
 * is crash_slab.c for two at once. The quick form has all instructions of the recaller beside the
 * last claim, and some beside the other changes.
 */
#include "shmring/slab_pool.h"
#include "tests/slab_support.h"
#include "tests/step.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CHUNKS 4u
#define RUN    (CHUNKS - 2) /* where a run of two goes: runs come from the top */
#define TURNS  6u           /* of each loop */

/* In memory of the test and the children. */
static struct world {
    char path[SHR_PATH_BYTES];
    uint64_t owner;
    uint64_t held; /* in use before the owner stands still; 0: nothing */
    uint64_t ref;  /* what it gets then */
} * world;

static struct shr_map child_map;
static struct shr_heap child_heap[2];

static struct step_child owner;
static const struct step_scenario *owner_does;
static uint32_t changes; /* behind how many the owner stands still; it may end before */

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
static uint64_t tables(void)
{
    uint64_t sum = shr_load_relaxed(&slab_map.peers[1].allocating);
    for (uint32_t i = 0; i < CHUNKS; i++) {
        sum = sum * 31 + shr_load_relaxed(&slab_map.owners[i]);
        sum = sum * 31 + shr_load32_relaxed(&slab_map.chunks[i].class_idx);
        sum = sum * 31 + shr_load32_relaxed(&slab_map.chunks[i].run_chunks);
        sum = sum * 31 + shr_load_relaxed(&slab_map.chunks[i].block[0]);
    }
    return sum;
}

/* A bus whose owner stands still, or has ended its allocation. */
static int setup(void *user)
{
    (void)user;
    slab_open(CHUNKS, SHR_BLOCK);
    memset(world, 0, sizeof(*world));
    memcpy(world->path, slab_map.path, sizeof(world->path));
    int rc = step_start(&owner, owner_does);
    uint64_t sum = tables();
    for (size_t k = 1, left = changes; rc == 0 && left > 0; k++) {
        rc = step_reach(&owner, NULL, k);
        left -= tables() != sum;
        sum = tables();
    }
    return rc < 0 ? rc : 0;
}

static void teardown(void *user)
{
    (void)user;
    step_kill(&owner);
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

#define CHECK(condition)                                                      \
    do {                                                                      \
        if (!(condition)) {                                                   \
            printf("%s:%d: at %zu: %s\n", __FILE__, __LINE__, k, #condition); \
            return -EBADMSG;                                                  \
        }                                                                     \
    } while (0)

static int check(struct step_child *recaller, size_t k)
{
    int status = 0;
    CHECK(step_resume(&owner) == 0 && step_wait(&owner, &status) == 0 && status == 0);
    CHECK(is_kept(world->ref));
    if (world->held != 0) /* the block is used and freed while the recaller looks away */
        CHECK(shr_block_free(&slab_map, world->ref));
    struct shr_heap other;
    uint64_t got[CHUNKS];
    uint32_t cnt = 0;
    slab_join(&slab_map, &other, 3);
    while (cnt < CHUNKS && shr_alloc(&other, CHUNK, &got[cnt]) == 0)
        cnt++;
    CHECK(step_resume(recaller) == 0 && step_wait(recaller, &status) == 0 && status == 0);
    CHECK(is_kept(world->held != 0 ? world->held : world->ref));
    for (uint32_t i = 0; i < cnt; i++) {
        CHECK(shr_block_valid(&slab_map, got[i], CHUNK));
        CHECK(shr_owner_is(shr_load_relaxed(&slab_map.owners[shr_ref_chunk(got[i])]), other.owner));
    }
    shr_heap_fini(&other);
    return 0;
}

/* The recaller at each every-th point. */
static int run(const struct step_scenario *recaller, size_t every)
{
    struct step_walk walk = {0};
    int failed = 0;
    size_t met = 0, reached = 0;
    if (step_walk(recaller, &walk) != 0 || walk.varies)
        return 1;
    for (size_t k = 0; k < walk.count && failed == 0; k++) {
        struct step_child child;
        if (walk.points[k].occurrence > TURNS || (met++ + changes) % every != 0)
            continue;
        failed = setup(world) != 0 || step_start(&child, recaller) != 0;
        if (failed == 0)
            failed = step_reach(&child, &walk, k) != 0 || check(&child, k) != 0;
        step_kill(&child);
        teardown(world);
        reached++;
    }
    printf("%s, behind %u changes: %zu instructions, %d failed (of %zu, with all turns)\n",
           recaller->name, changes, reached, failed, walk.count);
    step_walk_free(&walk);
    return failed != 0 || met < 100;
}

/* Beside the owner behind each of its changes; behind `most` of them it must still stand. */
static int run_all(struct step_scenario *recaller, uint32_t most)
{
    int failures = 0;
    bool stands = true;
    for (changes = 1; stands && failures == 0; changes++) {
        failures += setup(world) != 0;
        stands = owner.state == STEP_STOPPED;
        teardown(world);
        failures += !stands && changes <= most;
        if (stands)
            failures += run(recaller, changes == most ? 1 : support_every(29)) != 0;
    }
    return failures;
}

int main(void)
{
    support_begin();
    if (!step_available()) {
        printf("skipped: no single-stepping here\n");
        return 77;
    }
    world = support_shared(sizeof(*world));
    struct step_scenario recaller = {.name = "recaller, beside who makes a run",
                                     .setup = setup,
                                     .prepare = child_attach,
                                     .region = recaller_region,
                                     .teardown = teardown,
                                     .user = world};
    const struct step_scenario makes_run = {
        .name = "owner", .prepare = owner_prepare, .region = run_region, .user = world};
    owner_does = &makes_run;
    int failures = run_all(&recaller, 3); /* ANY, two claims */
    const struct step_scenario makes_single = {
        .name = "owner", .prepare = single_prepare, .region = single_region, .user = world};
    owner_does = &makes_single;
    recaller.name = "recaller, beside who takes a chunk";
    failures += run_all(&recaller, 3); /* one chunk, ANY, a claim */
    return failures != 0;
}
