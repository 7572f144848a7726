/* Goal: an owner, a recaller and a sweeper of slab chunks may be stopped or killed at any
 * instruction: no block gets two users, and every chunk comes back.
 *
 * Method: the child stands still, or died, at each instruction (step.h; it is killed where
 * something in the segment differs, and stepped through elsewhere). Meanwhile others take, fill,
 * give back and take again what they can get; then the child goes on. In the end every block is
 * whole and its owner's, and all chunks are in the pool.
 */
#include "tests/slab_support.h"
#include "tests/step.h"
#include "tests/step_clock.h"

#include <stdlib.h>
#include <string.h>

STEP_CLOCK_GETTIME

/* In memory of the test and the child. */
static struct world {
    char path[SHR_PATH_BYTES];
    uint64_t ref; /* what the child got, 0: nothing */
    bool counted; /* the owner finds that somebody recalled */
} * world;

/* Of the child. */
static struct shr_map child_map;
static struct shr_heap child_heap;

static int step_setup(void *user)
{
    (void)user;
    slab_open(2, SHR_DROP_OLDEST);
    shr_store_relaxed(&slab_map.hot->tail, 100);
    memcpy(world->path, slab_map.path, sizeof(slab_map.path));
    world->ref = 0;
    return 0;
}

static void step_teardown(void *user)
{
    (void)user;
    slab_close(NULL);
}

static int child_attach(void *user)
{
    (void)user;
    memset(slab_lock, 0, sizeof(slab_lock));
    return shr_segment_attach(&child_map, world->path, true);
}

static int owner_prepare(void *user)
{
    int rc = child_attach(user);
    if (rc != 0)
        return rc;
    slab_join(&child_map, &child_heap, 1);
    slab_own_idle(&child_map, &child_heap, 2);
    if (world->counted)
        shr_fetch_add_relaxed(&child_map.hot->recalls, 1);
    step_clock_steady();
    return 0;
}

static int owner_region(void *user)
{
    (void)user;
    uint64_t ref;
    if (shr_alloc(&child_heap, CHUNK, &ref) != 0)
        return 0;
    memset(shr_block_data(&child_map, ref), 0x11, 64);
    world->ref = ref;
    return 0;
}

/* Takes what there is, by recall; `more` blocks at most. Returns how many. */
static uint32_t take_all(struct shr_heap *heap, uint64_t *ref, uint32_t more)
{
    uint32_t cnt = 0;
    for (uint32_t tries = 0; tries < 2; tries++) {
        while (cnt < more && shr_alloc(heap, CHUNK, &ref[cnt]) == 0)
            memset(shr_block_data(&slab_map, ref[cnt++]), 0x22, 64);
        shr_slab_sweep(&slab_map, 100, 100);
        shr_slab_recall(&slab_map);
    }
    return cnt;
}

static bool is_whole(uint64_t ref, unsigned char with)
{
    unsigned char want[64];
    memset(want, with, sizeof(want));
    return shr_block_valid(&slab_map, ref, CHUNK) &&
           memcmp(shr_block_data(&slab_map, ref), want, sizeof(want)) == 0;
}

/* The owner stands still amid an allocation; another one takes all that it can, and then it goes
 * on. */
static int owner_check(struct step_child *child, size_t k, void *user)
{
    struct shr_heap b;
    uint64_t ref[4];
    (void)user;
    slab_join(&slab_map, &b, 2);
    uint32_t cnt = take_all(&b, ref, 4);
    STEP_CHECK(world->counted || cnt >= 1); /* it pins one chunk */
    if (child->state == STEP_STOPPED) {
        STEP_CHECK(step_to_end(child) == 0);
        STEP_CHECK(world->ref != 0 || cnt == 2);
        STEP_CHECK(world->ref == 0 || is_whole(world->ref, 0x11));
    }
    for (uint32_t i = 0; i < cnt; i++) {
        STEP_CHECK(is_whole(ref[i], 0x22));
        STEP_CHECK(shr_ref_chunk(ref[i]) != shr_ref_chunk(world->ref) || world->ref == 0);
        STEP_CHECK(shr_load_relaxed(&slab_map.owners[shr_ref_chunk(ref[i])]) == b.owner);
    }
    /* The child has ended: what is left of it is swept. */
    STEP_CHECK(shr_lock_take(&slab_map, 1, &slab_lock[1]) == 0);
    shr_peer_exit(&slab_map, 1);
    cnt += take_all(&b, ref + cnt, 4 - cnt);
    STEP_CHECK(cnt == 2);
    shr_heap_fini(&b);
    return 0;
}

/* Owner a of the test, with two idle chunks, or one that died with two blocks in use. */
static struct shr_heap step_a;

static int recaller_setup(void *user)
{
    step_setup(user);
    slab_join(&slab_map, &step_a, 1);
    slab_own_idle(&slab_map, &step_a, 2);
    return 0;
}

static int recaller_region(void *user)
{
    (void)user;
    shr_slab_recall(&child_map);
    return 0;
}

static int sweeper_setup(void *user)
{
    uint64_t ref;
    step_setup(user);
    slab_join(&slab_map, &step_a, 1);
    for (uint32_t i = 0; i < 2; i++)
        shr_alloc(&step_a, CHUNK, &ref);
    shr_peer_exit(&slab_map, 1);
    return 0;
}

static int sweeper_region(void *user)
{
    (void)user;
    shr_slab_sweep(&child_map, 100, 100);
    return 0;
}

/* All memory in blocks of 128 bytes: whatever header the stopped one comes to next is in use. */
#define SMALL_CNT (2 * SHR_CHUNK_BLOCKS)

static uint32_t take_small(struct shr_heap *heap, uint64_t *ref)
{
    uint32_t cnt = 0;
    while (cnt < SMALL_CNT && shr_alloc(heap, 128, &ref[cnt]) == 0)
        cnt++;
    return cnt;
}

/* A recaller or sweeper stands still, or died. The owner allocates, if it lives; another one takes
 * the rest, gives it back, and the first takes that; then the stopped one goes on. */
static int other_check(struct step_child *child, size_t k, void *user)
{
    struct shr_heap b;
    uint64_t mine[4], theirs[4];
    static uint64_t small[SMALL_CNT];
    bool lives = shr_load32_relaxed(&slab_map.peers[1].state) == SHR_PEER_USED;
    (void)user;
    slab_join(&slab_map, &b, 2);
    uint32_t mine_cnt = lives ? take_all(&step_a, mine, 1) : 0;
    STEP_CHECK(mine_cnt == lives);
    uint32_t cnt = take_all(&b, theirs, 4);
    STEP_CHECK(cnt + mine_cnt == 2);
    for (uint32_t i = 0; i < cnt; i++)
        STEP_CHECK(shr_block_free(&slab_map, theirs[i]));
    if (lives) { /* the same chunk again, with the same owner as at first */
        mine_cnt += take_all(&step_a, mine + 1, 3);
        cnt = take_all(&b, theirs, 4);
        STEP_CHECK(cnt + mine_cnt == 2);
    } else {
        cnt = 0;
        STEP_CHECK(take_small(&b, small) == SMALL_CNT);
    }
    if (child->state == STEP_STOPPED)
        STEP_CHECK(step_to_end(child) == 0);
    for (uint32_t i = 0; i < mine_cnt + cnt; i++) {
        uint64_t ref = i < mine_cnt ? mine[i] : theirs[i - mine_cnt];
        STEP_CHECK(is_whole(ref, 0x22));
        STEP_CHECK(shr_owner_is(shr_load_relaxed(&slab_map.owners[shr_ref_chunk(ref)]),
                                i < mine_cnt ? step_a.owner : b.owner));
        STEP_CHECK(shr_block_free(&slab_map, ref));
    }
    for (uint32_t i = 0; i < SMALL_CNT && !lives; i++)
        STEP_CHECK(shr_block_free(&slab_map, small[i]));
    if (lives)
        shr_heap_fini(&step_a);
    shr_heap_fini(&b);
    STEP_CHECK(slab_pool_count() == 2);
    return 0;
}

/* The recaller stands still twice: behind its first count, where the owner looks and finds nothing,
 * and at one of its last instructions, where the owner allocates. */
static int looked_between(struct step_scenario *s, size_t k)
{
    struct step_child child;
    uint64_t ref;
    int rc;
    STEP_CHECK(recaller_setup(world) == 0 && step_start(&child, s) == 0);
    for (size_t i = 1; shr_load_relaxed(&slab_map.hot->recalls) == 0; i++)
        STEP_CHECK(step_reach(&child, NULL, i) == 0);
    slab_own_idle(&slab_map, &step_a, 1);
    rc = step_reach(&child, NULL, k);
    STEP_CHECK(rc == 0 || rc == 1);
    uint32_t got = shr_alloc(&step_a, CHUNK, &ref) == 0;
    STEP_CHECK(step_to_end(&child) == 0);
    if (got != 0) {
        STEP_CHECK(
            shr_owner_is(shr_load_relaxed(&slab_map.owners[shr_ref_chunk(ref)]), step_a.owner));
        STEP_CHECK(shr_block_free(&slab_map, ref));
    }
    shr_heap_fini(&step_a);
    STEP_CHECK(slab_pool_count() == 2);
    step_teardown(world);
    return 0;
}

/* What outlives the child is as it was: the segment but for payloads, and the world. */
static bool leaves_the_same(void *user)
{
    static unsigned char *before;
    static struct world world_before;
    size_t bytes = (size_t)(slab_map.slabs - slab_map.base);
    (void)user;
    if (before == NULL)
        before = calloc(1, bytes); /* one geometry for all */
    if (before == NULL)
        abort();
    bool same = memcmp(before, slab_map.base, bytes) == 0 &&
                memcmp(&world_before, world, sizeof(world_before)) == 0;
    memcpy(before, slab_map.base, bytes);
    memcpy(&world_before, world, sizeof(world_before));
    return same;
}

static int failures;

static void run(struct step_scenario *s, step_check_fn *check)
{
    struct step_result result;
    s->teardown = step_teardown;
    s->user = world;
    s->same = leaves_the_same;
    s->skip_private = support_depth() != SUPPORT_LONG;
    failures += step_every(s, STEP_STOP, check, &result) != 0;
    s->skip_private = false;
    failures += step_every(s, STEP_KILL, check, &result) != 0;
}

int main(void)
{
    support_begin();
    step_require();
    world = support_shared(sizeof(*world));
    struct step_scenario owner = {.name = "owner amid an allocation",
                                  .setup = step_setup,
                                  .prepare = owner_prepare,
                                  .region = owner_region};
    run(&owner, owner_check);
    world->counted = true;
    owner.name = "owner that finds a recall";
    run(&owner, owner_check);
    struct step_scenario recaller = {.name = "recaller",
                                     .setup = recaller_setup,
                                     .prepare = child_attach,
                                     .region = recaller_region};
    run(&recaller, other_check);
    ssize_t cnt = step_count(&recaller);
    failures += cnt < 200;
    for (size_t back = 1; back < 80 && failures == 0; back += support_every(13))
        failures += looked_between(&recaller, (size_t)cnt - back) != 0;
    struct step_scenario sweeper = {.name = "sweeper",
                                    .setup = sweeper_setup,
                                    .prepare = child_attach,
                                    .region = sweeper_region};
    run(&sweeper, other_check);
    return failures != 0;
}
