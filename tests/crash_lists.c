/* Goal: an owner that looks through its lists after a recall keeps a run whole or not at all: of a
 * run that was freed and recalled between two of its looks it keeps no chunk, and what it claims
 * then, it does not give away with that run.
 *
 * Method: the owner stands still at each instruction (step.h). Meanwhile the last of its runs comes
 * free, and a recaller that began before the owner did takes the second chunk, and stands still for
 * ever: runs go back from their end. Then the owner allocates all that there is. It has more runs
 * than it looks at in one allocation.
 */
#include "tests/slab_support.h"
#include "tests/step.h"
#include "tests/step_clock.h"

#include <string.h>

STEP_CLOCK_GETTIME

#define RUNS   6u
#define CHUNKS (2 * RUNS)
#define RECALL 1u

static struct world {
    char path[SHR_PATH_BYTES];
    uint64_t owner;
    uint64_t run[RUNS];
    uint64_t got[CHUNKS];
    uint32_t cnt;
} * world;

static struct shr_map child_map;
static struct shr_heap child_heap;

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

/* The owner has all chunks, in runs that are in use; a recaller marked them as it made them. */
static int prepare(void *user)
{
    (void)user;
    memset(slab_lock, 0, sizeof(slab_lock));
    int rc = shr_segment_attach(&child_map, world->path, true);
    if (rc != 0)
        return rc;
    slab_join(&child_map, &child_heap, 1);
    world->owner = child_heap.owner;
    for (uint32_t i = 0; i < RUNS && rc == 0; i++)
        rc = shr_alloc(&child_heap, 2 * CHUNK, &world->run[i]);
    for (uint32_t i = 0; i < CHUNKS; i++)
        shr_store_relaxed(&child_map.owners[i], shr_owner_recalled(world->owner, RECALL));
    shr_fetch_add_relaxed(&child_map.hot->recalls, 2);
    step_clock_steady();
    return rc;
}

static int region(void *user)
{
    (void)user;
    while (world->cnt < CHUNKS && shr_alloc(&child_heap, CHUNK, &world->got[world->cnt]) == 0)
        world->cnt++;
    return 0;
}

static bool is_kept(uint64_t ref, uint32_t chunks)
{
    for (uint32_t i = 0; i < chunks; i++) {
        uint64_t word = shr_load_relaxed(&slab_map.owners[shr_ref_chunk(ref) + i]);
        if (!shr_owner_is(word, world->owner))
            return false;
    }
    return shr_block_valid(&slab_map, ref, chunks * CHUNK);
}

static int check(struct step_child *child, size_t k, void *user)
{
    uint64_t last = world->run[RUNS - 1];
    (void)user;
    STEP_CHECK(shr_block_free(&slab_map, last));
    uint64_t word = shr_owner_recalled(world->owner, RECALL);
    bool taken = shr_cas_acq_rel(&slab_map.owners[shr_ref_chunk(last) + 1], word, 0);
    STEP_CHECK(step_to_end(child) == 0);
    for (uint32_t i = 0; i < world->cnt; i++)
        for (uint32_t j = 0; j < i; j++)
            STEP_CHECK(shr_ref_chunk(world->got[i]) != shr_ref_chunk(world->got[j]));
    STEP_CHECK(world->cnt == 2 || (!taken && world->cnt <= 2));
    for (uint32_t i = 0; i < RUNS - 1; i++)
        STEP_CHECK(is_kept(world->run[i], 2));
    for (uint32_t i = 0; i < world->cnt; i++)
        STEP_CHECK(is_kept(world->got[i], 1));
    return 0;
}

int main(void)
{
    struct step_result result;
    support_begin();
    step_require();
    world = support_shared(sizeof(*world));
    struct step_scenario s = {.name = "owner that looks through its runs",
                              .setup = setup,
                              .prepare = prepare,
                              .region = region,
                              .teardown = teardown,
                              .user = world,
                              .skip_private = support_depth() != SUPPORT_LONG};
    return step_every(&s, STEP_STOP, check, &result) != 0;
}
