/* The slabs as those see them who do not own: takers, observers, the sweep, metrics.
 *
 * Who may sweep: anybody, several at once, dying or stopped anywhere. Each step is a CAS whose
 * expected value says that it is still due:
 *
 *     owner word of one who is gone → ORPHAN | end of the ring    slot and epoch never come again
 *     {g, USED} → {g, FREE}, where the owner word, read after the header, is still ORPHAN | end
 *                                                                  {g, USED} never comes again
 *     ORPHAN | end → 0
 *
 * A header that was read before the owner word is not one of a later owner (edge S8). ORPHAN | end
 * may come again if a later owner left too and committed nothing in its life, for then the end is
 * the same. A sweeper that was stopped all that time frees, rightly, blocks that nobody can name;
 * but its last CAS may return the chunk before all of them are free. Hence shr_chunk_clean.
 *
 * A run is swept chunk by chunk. While the consumer has it in hand, all of its chunks wait; if the
 * sweeper dies when some are back, the rest are orphans like any other.
 *
 * Whose hands count. Only the consumer reads a block that it took. A producer that dropped an event
 * frees the block and nothing else, by a CAS that fails on any later use of the block: so what
 * the hands of producers name, alive, stopped or dead, need not be waited for. A dead consumer
 * reads no more, and under drop-oldest its successor only frees as well; under the other policies
 * what a consumer has in hand is not yet taken (`taken` is the ring's done).
 *
 * What a sweep finds in the owner words, peers and hands may be damaged. It indexes nothing by them
 * before a check.
 */
#include "shmring/peer.h"
#include "shmring/ring.h"
#include "shmring/slab.h"
#include "shmring/wait.h"

#include <string.h>

#define WINDOW_CNT 4096u /* chunks that are decided together */

/* ---- blocks ---------------------------------------------------------------------------------- */

shr_a64 *shr_block_header(const struct shr_map *map, uint64_t ref)
{
    uint32_t class_idx = shr_ref_class(ref);
    uint32_t block = shr_ref_block(ref);
    uint32_t chunk = shr_ref_chunk(ref);

    if (shr_ref_generation(ref) == 0 || chunk >= map->geo.chunk_cnt || class_idx > SHR_CLASS_RUN)
        return NULL;
    if (block >= (class_idx == SHR_CLASS_RUN ? 1 : SHR_CHUNK_BLOCKS >> class_idx))
        return NULL;
    return &map->chunks[chunk].block[block];
}

bool shr_block_valid(const struct shr_map *map, uint64_t ref, uint64_t bytes)
{
    shr_a64 *header = shr_block_header(map, ref);
    uint32_t class_idx = shr_ref_class(ref);
    uint32_t first = shr_ref_chunk(ref);
    uint64_t room;

    if (!header)
        return false;
    /* Relaxed: what an honest owner wrote here came to us with the reference, over the ring's
     * edges. Against a dishonest one no order helps; each word is copied once, and room is
     * checked against the geometry, so that the data lies inside the slabs whatever changes. */
    if (shr_load32_relaxed(&map->chunks[first].class_idx) != class_idx)
        return false;
    if (class_idx == SHR_CLASS_RUN) {
        uint32_t chunks = shr_load32_relaxed(&map->chunks[first].run_chunks);
        if (chunks > map->geo.chunk_cnt - first)
            return false;
        room = (uint64_t)chunks * SHR_CHUNK_BYTES;
    } else {
        room = UINT64_C(1) << (SHR_CLASS_MIN_SHIFT + class_idx);
    }
    return bytes <= room &&
           shr_load_relaxed(header) == shr_block_word(shr_ref_generation(ref), SHR_BLOCK_USED);
}

unsigned char *shr_block_data(const struct shr_map *map, uint64_t ref)
{
    return map->slabs + (uint64_t)shr_ref_chunk(ref) * SHR_CHUNK_BYTES +
           ((uint64_t)shr_ref_block(ref) << (SHR_CLASS_MIN_SHIFT + shr_ref_class(ref)));
}

bool shr_block_free(const struct shr_map *map, uint64_t ref)
{
    shr_a64 *header = shr_block_header(map, ref);
    uint32_t generation = shr_ref_generation(ref);

    /* edge S1 release: all that we read and wrote in the block is before its next filling. */
    return header && shr_cas_release(header, shr_block_word(generation, SHR_BLOCK_USED),
                                     shr_block_word(generation, SHR_BLOCK_FREE));
}

bool shr_block_kept(const struct shr_map *map, uint64_t ref)
{
    shr_a64 *header = shr_block_header(map, ref);

    if (!header)
        return false;
    /* edge S2 acquire: if we copied a byte of the next filling, we see its generation, or at least
     * another class. */
    shr_fence_acquire();
    if (shr_load32_acquire(&map->chunks[shr_ref_chunk(ref)].class_idx) != shr_ref_class(ref))
        return false;
    /* edge S2 acquire: if the class was another one in between, we see the later generations. */
    return (uint32_t)(shr_load_relaxed(header) >> 32) == shr_ref_generation(ref);
}

bool shr_block_copy(const struct shr_map *map, uint64_t ref, void *to, uint64_t bytes)
{
    uint32_t first = shr_ref_chunk(ref);
    uint64_t room = UINT64_C(1) << (SHR_CLASS_MIN_SHIFT + shr_ref_class(ref));

    if (shr_ref_class(ref) == SHR_CLASS_RUN && first < map->geo.chunk_cnt)
        room = (uint64_t)(map->geo.chunk_cnt - first) * SHR_CHUNK_BYTES;
    if (!shr_block_kept(map, ref) || bytes > room)
        return false;
    memcpy(to, shr_block_data(map, ref), bytes);
    if (!shr_block_kept(map, ref))
        return false;
    for (uint64_t i = 1; i * SHR_CHUNK_BYTES < bytes; i++) { /* a run: behind the same fence */
        uint64_t word = shr_load_relaxed(&map->chunks[first + i].block[0]);
        if ((uint32_t)(word >> 32) != shr_ref_generation(ref))
            return false;
    }
    return true;
}

/* ---- hands ----------------------------------------------------------------------------------- */

/* The consumer's hands. 0 if nobody is the consumer; not being able to tell counts as alive. */
static uint32_t hand_cnt(struct shr_map *map)
{
    return shr_lock_held(map, SHR_CONSUMER_SLOT) != 0 ? map->geo.region[SHR_REGION_HANDS].entries
                                                      : 0;
}

/* The reference in a hand, 0 if there is none. A hand that changes while we look is done with what
 * it held when we came. What it holds now it took after that, and we only ask for blocks of
 * positions that were taken before. */
static uint64_t hand_ref(const struct shr_hand *hand)
{
    struct shr_in_hand h;
    return shr_hand_read(hand, &h) ? h.ref : 0;
}

/* Whether the consumer has the very block in hand. */
static bool ref_is_held(struct shr_map *map, uint64_t ref)
{
    uint32_t cnt = hand_cnt(map);

    for (uint32_t i = 0; i < cnt; i++) {
        if (hand_ref(&map->hands[i]) == ref)
            return true;
    }
    return false;
}

bool shr_hand_sweep(struct shr_map *map, struct shr_hand *hand, uint64_t taken)
{
    uint64_t pos = shr_load_relaxed(&hand->pos); /* relaxed: by the slot's lock it is ours */
    uint64_t ref = shr_load_relaxed(&hand->ref);

    if (pos == 0)
        return true;
    /* Not taken by the dead one, which cannot take any more: nothing was in this hand. */
    if ((int64_t)(taken - pos) > 0) {
        if (ref != 0 && ref_is_held(map, ref))
            return false;
        /* If the dead one was done with the block, or never got it, its generation is not in use
         * any more, or its taker frees it as we do. */
        shr_block_free(map, ref);
    }
    /* edge S6 release: the block is free before the hand is. */
    shr_store_release(&hand->pos, 0);
    return true;
}

/* ---- chunks ---------------------------------------------------------------------------------- */

/* `word`: of a chunk that is owned. */
static bool owner_is_gone(const struct shr_map *map, uint64_t word)
{
    bool recalled = (word & SHR_OWNER_RECALLED) != 0;
    uint64_t slot = recalled ? word >> 51 & 0x7ff : word >> 48;

    if (slot > map->geo.producer_cnt)
        return true; /* damaged: nobody will ever give it back */
    /* S4 makes the epoch at least the owner's. If it is a later one, the owner is gone for good. */
    const struct shr_peer *peer = &map->peers[slot];
    /* edge S5 acquire: all that the owner did is before what we do with its chunk. */
    if (!shr_owner_is(word, shr_owner((uint32_t)slot, shr_load_acquire(&peer->epoch))))
        return true;
    /* Same epoch: FREE is the state of this owner or of a later one, not of an earlier (S4). */
    return shr_load32_acquire(&peer->state) == SHR_PEER_FREE;
}

/* The end of the ring, which by S5 is behind all that an owner committed whom we saw gone. */
static uint64_t end_now(const struct shr_map *map, uint64_t head)
{
    struct shr_ring ring;
    shr_ring_init(&ring, map);
    uint64_t end = shr_ring_end(&ring);
    return (int64_t)(head - end) > 0 ? head : end;
}

/* Makes chunks of those who are gone orphans. The chunk's word now. */
static uint64_t orphan_word(const struct shr_map *map, uint32_t idx, uint64_t head)
{
    shr_a64 *owner = &map->owners[idx];
    /* edge S4 acquire: the epoch and the state that we see are not older than the claim. */
    uint64_t word = shr_load_acquire(owner);

    if (word == 0)
        return word;
    if ((word & SHR_OWNER_RECALLED) == 0 && (word & SHR_OWNER_ORPHAN) != 0) {
        if ((int64_t)(head - (word & ~SHR_OWNER_ORPHAN)) >= 0)
            return word;
        /* A position that is not there yet was damaged, and would be waited for in vain. */
        uint64_t end = end_now(map, head);
        if ((int64_t)(end - (word & ~SHR_OWNER_ORPHAN)) >= 0)
            return word;
        return shr_cas_acq_rel(owner, word, SHR_OWNER_ORPHAN | end) ? SHR_OWNER_ORPHAN | end : 0;
    }
    if (!owner_is_gone(map, word))
        return word;
    uint64_t orphan = SHR_OWNER_ORPHAN | end_now(map, head);
    /* If this fails, a recaller or another sweeper was here: it is for the next sweep. */
    return shr_cas_acq_rel(owner, word, orphan) ? orphan : word;
}

static bool is_orphan(uint64_t word)
{
    return (word & (SHR_OWNER_ORPHAN | SHR_OWNER_RECALLED)) == SHR_OWNER_ORPHAN;
}

uint32_t shr_slab_orphans(const struct shr_map *map)
{
    uint32_t cnt = 0;
    for (uint32_t i = 0; i < map->geo.chunk_cnt; i++) {
        /* edge S4 acquire: as for the sweep, which decides; this only counts. */
        uint64_t word = shr_load_acquire(&map->owners[i]);
        cnt += word != 0 && (is_orphan(word) || owner_is_gone(map, word));
    }
    return cnt;
}

/* Whether all that the owner could have put into the ring is taken. */
static bool orphan_is_due(uint64_t word, uint64_t taken)
{
    return is_orphan(word) && (int64_t)(taken - (word & ~SHR_OWNER_ORPHAN)) >= 0;
}

/* Bits of due chunks that the consumer has in hand are taken out. */
static void due_without_held(struct shr_map *map, uint64_t *due, uint32_t base, uint32_t end)
{
    uint32_t cnt = hand_cnt(map);

    for (uint32_t i = 0; i < cnt; i++) {
        uint64_t ref = hand_ref(&map->hands[i]);
        uint64_t first = shr_ref_chunk(ref);
        uint64_t behind = first + 1;
        if (!shr_block_valid(map, ref, 0))
            continue;
        if (shr_ref_class(ref) == SHR_CLASS_RUN)
            behind = first + shr_load32_relaxed(&map->chunks[first].run_chunks);
        for (uint64_t chunk = first < base ? base : first; chunk < behind && chunk < end; chunk++)
            due[(chunk - base) / 64] &= ~(UINT64_C(1) << (chunk - base) % 64);
    }
}

/* Nobody has a reference into the chunk any more. What is USED was lost, or never committed. False:
 * somebody else returned it meanwhile. */
static bool orphan_return(const struct shr_map *map, uint32_t idx, uint64_t taken)
{
    struct shr_chunk *chunk = &map->chunks[idx];
    uint64_t owner = shr_load_acquire(&map->owners[idx]);

    if (!orphan_is_due(owner, taken))
        return false;
    for (uint32_t i = 0; i < SHR_CHUNK_BLOCKS; i++) {
        /* edge S1 acquire: what the freer did in the block is before the chunk's next owner.
         * edge S8 acquire: if this is the next owner's word, the chunk is seen to be its own. */
        uint64_t word = shr_load_acquire(&chunk->block[i]);
        if ((uint32_t)word == SHR_BLOCK_FREE)
            continue;
        if (shr_load_relaxed(&map->owners[idx]) != owner)
            return false;
        /* A free that comes between (of a stale, but equal reference) leaves it FREE as well. */
        shr_cas_release(&chunk->block[i], word,
                        shr_block_word((uint32_t)(word >> 32), SHR_BLOCK_FREE));
    }
    /* edge S3 release: the generations before the next owner. */
    return shr_cas_release(&map->owners[idx], owner, 0);
}

/* The chunks base … end - 1. All are found due before hands are read, and hands are read before
 * any is returned: a hand that names a due block was written before its position was taken, and
 * taken is not older. Returns how many wait; adds to *returned. */
static uint32_t window_sweep(struct shr_map *map, uint32_t base, uint32_t end, uint64_t head,
                             uint64_t taken, uint32_t *returned)
{
    uint64_t due[WINDOW_CNT / 64] = {0};
    uint32_t orphans = 0, due_cnt = 0;

    for (uint32_t i = base; i < end; i++) {
        uint64_t word = orphan_word(map, i, head);
        orphans += is_orphan(word);
        if (orphan_is_due(word, taken)) {
            due[(i - base) / 64] |= UINT64_C(1) << (i - base) % 64;
            due_cnt++;
        }
    }
    if (due_cnt == 0)
        return orphans;
    due_without_held(map, due, base, end);
    for (uint32_t i = base; i < end; i++) {
        if ((due[(i - base) / 64] >> (i - base) % 64 & 1) != 0) {
            *returned += orphan_return(map, i, taken);
            orphans--;
        }
    }
    return orphans;
}

uint32_t shr_slab_sweep(struct shr_map *map, uint64_t head, uint64_t taken)
{
    uint32_t cnt = map->geo.chunk_cnt;
    uint32_t waiting = 0, returned = 0;

    for (uint32_t base = 0; base < cnt; base += WINDOW_CNT)
        waiting += window_sweep(map, base, cnt - base < WINDOW_CNT ? cnt : base + WINDOW_CNT, head,
                                taken, &returned);
    if (returned != 0) /* true: this is no fast path, so we fence whatever the bus says */
        shr_gate_notify(&map->hot->freed, true);
    return waiting;
}

/* ---- metrics --------------------------------------------------------------------------------- */

/* Adds a chunk to the rows of its node. Relaxed throughout: a snapshot of moving things. */
static void usage_add(const struct shr_map *map, uint32_t idx, struct shr_slab_usage *row)
{
    const struct shr_chunk *chunk = &map->chunks[idx];
    uint32_t class_idx = shr_load32_relaxed(&chunk->class_idx);

    row[SHR_CLASS_CNT].blocks++;
    if (shr_load_relaxed(&map->owners[idx]) == 0) {
        row[SHR_CLASS_CNT].free++;
        return;
    }
    if (class_idx >= SHR_CLASS_CNT)
        return;
    row[class_idx].blocks += SHR_CHUNK_BLOCKS >> class_idx;
    for (uint32_t i = 0; i < SHR_CHUNK_BLOCKS >> class_idx; i++)
        row[class_idx].free += (uint32_t)shr_load_relaxed(&chunk->block[i]) == SHR_BLOCK_FREE;
}

uint32_t shr_slab_usage(const struct shr_map *map, struct shr_slab_usage *usage, uint32_t max)
{
    uint32_t rows = 0;

    for (uint32_t n = 0; n < map->geo.node_cnt; n++) {
        const struct shr_node *node = &map->geo.node[n];
        struct shr_slab_usage row[SHR_CLASS_CNT + 1];
        for (uint32_t i = 0; i <= SHR_CLASS_CNT; i++)
            row[i] = (struct shr_slab_usage){
                .node = node->node_id,
                .block_bytes = i < SHR_CLASS_CNT ? 1u << (SHR_CLASS_MIN_SHIFT + i) : 0};
        for (uint32_t i = 0; i < node->chunk_cnt; i++)
            usage_add(map, node->chunk_first + i, row);
        for (uint32_t i = 0; i <= SHR_CLASS_CNT && rows < max; i++)
            usage[rows++] = row[i];
    }
    return rows;
}
