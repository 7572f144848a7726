/* Goal: a recaller takes what a chunk is, and how far a run reaches, from its owner only when that
 * has said that it is done with it: whatever an owner had half made as the recaller looked, no
 * chunk that is in use goes to the pool.
 *
 * Method: an owner stands still behind its claim of chunks, of which it has not yet said what they
 * are. A recaller stands still at each of its instructions in turn (step.h), but for most turns of
 * the loops over headers. The owner ends its allocation, then the recaller goes on.
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
static uint32_t claimed; /* the chunk with whose claim the owner stands still */

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

/* A bus whose owner stands still. */
static int setup(void *user)
{
    (void)user;
    slab_open(CHUNKS, SHR_BLOCK);
    memset(world, 0, sizeof(*world));
    memcpy(world->path, slab_map.path, sizeof(world->path));
    int rc = step_start(&owner, owner_does);
    for (size_t k = 1; rc == 0 && shr_load_relaxed(&slab_map.owners[claimed]) == 0; k++)
        rc = step_reach(&owner, NULL, k);
    return rc;
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
    CHECK(step_resume(recaller) == 0 && step_wait(recaller, &status) == 0 && status == 0);
    CHECK(is_kept(world->held != 0 ? world->held : world->ref));
    return 0;
}

static int run(const struct step_scenario *recaller)
{
    struct step_walk walk = {0};
    int failed = 0;
    size_t reached = 0;
    if (step_walk(recaller, &walk) != 0 || walk.varies)
        return 1;
    for (size_t k = 0; k < walk.count && failed == 0; k++) {
        struct step_child child;
        if (walk.points[k].occurrence > TURNS)
            continue;
        failed = setup(world) != 0 || step_start(&child, recaller) != 0;
        if (failed == 0)
            failed = step_reach(&child, &walk, k) != 0 || check(&child, k) != 0;
        step_kill(&child);
        teardown(world);
        reached++;
    }
    printf("%s: %zu instructions, %zu reached, %d failed\n", recaller->name, walk.count, reached,
           failed);
    step_walk_free(&walk);
    return failed != 0 || reached < 100;
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
    claimed = RUN + 1;
    int failures = run(&recaller);
    const struct step_scenario makes_single = {
        .name = "owner", .prepare = single_prepare, .region = single_region, .user = world};
    owner_does = &makes_single;
    claimed = RUN;
    recaller.name = "recaller, beside who takes a chunk";
    failures += run(&recaller);
    return failures != 0;
}
