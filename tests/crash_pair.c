/* Goal: a block that the consumer reads stays as it is, and a block that is in use stays in use,
 * while two processes stand still anywhere and a third one takes all memory that it can get.
 *
 * Method: a drop-oldest bus has four events in blocks of an owner who died. The consumer takes one
 * of them and reads it. Beside it stands
 *   dropper   who drops the same event; it is killed there, or goes on later
 *   sweeper   who returns what the dead left; one of these died as it dropped the event that the
 *             consumer has
 * One of the two stands behind each of its changes to shared memory in turn, the other one at its
 * instructions in turn (step_pair.h); in the quick form not in late turns of the loops over
 * headers. The test drops the events that wait, sweeps, allocates all that there is and writes into
 * it. Then the two go on. The consumer must read its event or get none, no block of the test may be
 * freed, each event must be delivered or dropped once, and in the end all memory must be free. */
#include "shmring/consume.h"
#include "shmring/peer.h"
#include "shmring/slab.h"
#include "tests/ring_support.h"
#include "tests/step_pair.h"

#include <stdio.h>
#include <string.h>

#define EVENTS  4u
#define WORDS   8u /* of an event */
#define CHUNKS  2u
#define BYTES   4096u
#define BLOCKS  (CHUNKS * SHR_CHUNK_BYTES / BYTES)
#define TURNS   16u /* of each loop, in the quick form */
#define DROPPER 2u
#define TEST    3u

/* In memory of the test and the children. */
static struct world {
    char path[SHR_PATH_BYTES];
    uint64_t delivered;
    uint64_t wrong; /* words that the consumer did not find as they were */
} * world;

static struct shr_map child_map;
static struct shr_lock child_lock;
static struct shr_taker child_taker;
static struct shr_consumer child_consumer;

static struct shr_lock test_lock;
static struct shr_taker test_taker;
static uint64_t test_dropped;

/* What is run now. */
static bool died_dropping;
static bool kill_dropper;

/* ---- the children ---------------------------------------------------------------------------- */

static int child_attach(void *user)
{
    (void)user;
    test_lock = (struct shr_lock){0};
    return shr_segment_attach(&child_map, world->path, true);
}

static int child_join(uint32_t slot)
{
    int rc = child_attach(NULL);
    if (rc == 0)
        rc = shr_lock_take(&child_map, slot, &child_lock);
    if (rc == 0)
        shr_peer_enter(&child_map, slot, "child");
    return rc;
}

static int consumer_prepare(void *user)
{
    (void)user;
    int rc = child_join(SHR_CONSUMER_SLOT);
    if (rc == 0)
        shr_consumer_init(&child_consumer, &child_map);
    child_consumer.taker.now_ns = ring_clock;
    return rc;
}

static int consumer_region(void *user)
{
    struct shr_item item;
    (void)user;
    if (shr_next(&child_consumer, &item) > 0) {
        const volatile uint64_t *word = (const volatile uint64_t *)item.data;
        for (uint32_t i = 0; i < WORDS; i++)
            world->wrong += word[i] != item.number;
        world->delivered += item.events;
        shr_finish(&child_consumer, &item, SHR_COL_DELIVERED);
    }
    shr_rest(&child_consumer);
    return 0;
}

static int dropper_prepare(void *user)
{
    (void)user;
    int rc = child_join(DROPPER);
    shr_taker_init(&child_taker, &child_map, DROPPER, &child_map.peers[DROPPER].hand);
    child_taker.now_ns = ring_clock;
    return rc;
}

static int dropper_region(void *user)
{
    (void)user;
    shr_drop(&child_taker, &child_map, false);
    return 0;
}

static void sweep(struct shr_map *map)
{
    struct shr_ring view;
    shr_ring_init(&view, map);
    shr_sweep_dead(map, &view, false);
    uint64_t head = shr_load_acquire(&view.hot->head);
    shr_slab_sweep(map, head, shr_load_acquire(view.free));
}

static int sweeper_region(void *user)
{
    (void)user;
    sweep(&child_map);
    return 0;
}

/* ---- the world ------------------------------------------------------------------------------- */

/* A dead producer's hand: of the oldest event, which it did not get. */
static void leave_hand(void)
{
    struct shr_peer *peer = &ring_map.peers[DROPPER];
    uint64_t tail = shr_load_relaxed(&ring_map.hot->tail);
    const struct shr_cell *cell = shr_cell_at(&ring, tail);
    shr_peer_enter(&ring_map, DROPPER, "dead");
    shr_store_relaxed(&peer->hand.ref, shr_load_relaxed(&cell->word[SHR_WORD_BODY]));
    shr_store_relaxed(&peer->hand.meta, shr_load_relaxed(&cell->word[SHR_WORD_META]));
    shr_store_relaxed(&peer->hand.pos, tail);
}

static void drop_all(void)
{
    struct shr_hot *hot = ring_map.hot;
    while (shr_load_relaxed(&hot->tail) != shr_load_relaxed(&hot->head))
        test_dropped += shr_drop(&test_taker, &ring_map, false);
}

static int setup(void *user)
{
    (void)user;
    uint64_t words[SHR_CELL_WORDS];
    ring_open(SHR_DROP_OLDEST, EVENTS, CHUNKS);
    ring_start_at(1000);
    memset(world, 0, sizeof(*world));
    memcpy(world->path, ring_map.path, sizeof(world->path));
    for (uint64_t number = 1; number <= EVENTS; number++) {
        uint64_t ref = ring_block(1, 8 * WORDS);
        uint64_t *word = (uint64_t *)(void *)shr_block_data(&ring_map, ref);
        for (uint32_t i = 0; i < WORDS; i++)
            word[i] = number;
        ring_compose_slab(words, 1, number, ref, 8 * WORDS, 0);
        shr_store_relaxed(&ring_map.peers[1].published, number);
        ring_commit_words(words);
    }
    if (died_dropping)
        leave_hand();
    test_dropped = 0;
    shr_taker_init(&test_taker, &ring_map, TEST, &ring_map.peers[TEST].hand);
    int rc = shr_lock_take(&ring_map, TEST, &test_lock);
    if (rc == 0)
        shr_peer_enter(&ring_map, TEST, "test");
    return rc;
}

/* The chunk of the owner who died dropping is due, but for the consumer's hand. */
static int between(void *user)
{
    (void)user;
    if (died_dropping)
        drop_all();
    return 0;
}

static void teardown(void *user)
{
    (void)user;
    shr_lock_drop(&test_lock);
    ring_close(NULL);
}

/* ---- the check ------------------------------------------------------------------------------- */

/* Fills ref[cnt …] with all that there is, and writes into it. Returns the new count. */
static uint32_t allocate_all(struct shr_heap *heap, uint64_t ref[BLOCKS], uint32_t cnt)
{
    while (cnt < BLOCKS && shr_alloc(heap, BYTES, &ref[cnt]) == 0)
        memset(shr_block_data(&ring_map, ref[cnt++]), 0xa5, BYTES);
    return cnt;
}

static bool are_kept(const struct shr_heap *heap, const uint64_t *ref, uint32_t cnt)
{
    for (uint32_t i = 0; i < cnt; i++) {
        if (shr_load_relaxed(&ring_map.owners[shr_ref_chunk(ref[i])]) != heap->owner ||
            !shr_block_valid(&ring_map, ref[i], BYTES))
            return false;
    }
    return true;
}

static int go_on(struct step_child *child)
{
    return child->state == STEP_GONE ? 0 : step_to_end(child);
}

static int check_end(struct shr_heap *heap, uint64_t ref[BLOCKS], uint32_t cnt, size_t k)
{
    uint64_t dropped = test_dropped + shr_load_relaxed(&ring_map.peers[DROPPER].took_dropped);
    uint64_t ended = world->delivered + dropped;
    STEP_CHECK(ended == EVENTS ||
               (kill_dropper && ended == EVENTS - 1)); /* it died before it counted */
    for (uint32_t i = 0; i < cnt; i++)
        STEP_CHECK(shr_block_free(&ring_map, ref[i]));
    sweep(&ring_map);
    STEP_CHECK(shr_load32_relaxed(&ring_map.peers[1].state) == SHR_PEER_FREE);
    STEP_CHECK(shr_load32_relaxed(&ring_map.peers[DROPPER].state) == SHR_PEER_FREE);
    STEP_CHECK(allocate_all(heap, ref, 0) == BLOCKS);
    return 0;
}

/* Both stand still. */
static int check_both(struct step_child *consumer, struct step_child *beside, size_t k)
{
    struct shr_heap heap;
    uint64_t ref[BLOCKS];
    uint64_t epoch = shr_load_relaxed(&ring_map.peers[TEST].epoch);
    STEP_CHECK(shr_heap_init(&heap, &ring_map, shr_owner(TEST, epoch)) == 0);
    drop_all();
    if (kill_dropper)
        step_kill(beside);
    sweep(&ring_map);
    uint32_t cnt = allocate_all(&heap, ref, 0);
    STEP_CHECK(cnt >= BLOCKS / CHUNKS);
    STEP_CHECK(go_on(beside) == 0);
    STEP_CHECK(are_kept(&heap, ref, cnt));
    sweep(&ring_map); /* a block that the dropper had taken from under the consumer's hand */
    cnt = allocate_all(&heap, ref, cnt);
    STEP_CHECK(go_on(consumer) == 0);
    STEP_CHECK(world->wrong == 0);
    STEP_CHECK(are_kept(&heap, ref, cnt));
    int rc = check_end(&heap, ref, cnt, k);
    shr_heap_fini(&heap);
    return rc;
}

static int check_dropper_first(struct step_child *dropper, struct step_child *consumer, size_t k,
                               void *user)
{
    (void)user;
    return check_both(consumer, dropper, k);
}

static int check_consumer_first(struct step_child *consumer, struct step_child *beside, size_t k,
                                void *user)
{
    (void)user;
    return check_both(consumer, beside, k);
}

/* ---- the pairs ------------------------------------------------------------------------------- */

/* All that the processes write but payloads. */
static uint64_t tables(void *user)
{
    (void)user;
    return step_sum(ring_map.hot, &ring_map.chunks[0].block[8]);
}

int main(void)
{
    support_begin();
    step_require();
    world = support_shared(sizeof(*world));
    const struct step_scenario consumer = {.name = "consumer",
                                           .setup = setup,
                                           .prepare = consumer_prepare,
                                           .region = consumer_region,
                                           .teardown = teardown};
    const struct step_scenario dropper = {.name = "dropper",
                                          .setup = setup,
                                          .prepare = dropper_prepare,
                                          .region = dropper_region,
                                          .teardown = teardown};
    const struct step_scenario sweeper = {
        .name = "sweeper", .prepare = child_attach, .region = sweeper_region};
    struct step_pair dropper_first = {.first = &dropper,
                                      .second = &consumer,
                                      .sum = tables,
                                      .check = check_dropper_first,
                                      .turns = support_depth() == SUPPORT_QUICK ? TURNS : SIZE_MAX,
                                      .points_min = 100,
                                      .changes_min = 3};
    struct step_pair consumer_first = dropper_first;
    consumer_first.first = &consumer;
    consumer_first.second = &dropper;
    consumer_first.between = between;
    consumer_first.check = check_consumer_first;
    int failures = 0;
    for (int killed = 0; killed < 2; killed++) {
        kill_dropper = killed != 0;
        printf("%s", kill_dropper ? "killed dropper:\n" : "");
        failures += step_pair(&dropper_first);
        failures += step_pair(&consumer_first);
    }
    kill_dropper = false;
    died_dropping = true;
    consumer_first.second = &sweeper;
    failures += step_pair(&consumer_first);
    return failures != 0;
}
