/* The slabs as those see them who do not own: takers, observers, the sweep, metrics.
 *
 * Death of the sweeper. Returning an orphan is: words USED → FREE, one by one; orphan_head = 0;
 * owner = 0. Whatever prefix of it was done (a compiler may also have put the second store among
 * the first ones), the owner word still names the dead, so the next sweep comes here again. It
 * finds
 *   - orphan_head set: due as before, because taken never goes back; it frees what is left;
 *   - orphan_head 0: it remembers a later head, and does the same once that is taken.
 * Both end in: words FREE with their generations, orphan_head 0, owner 0. Before owner = 0 no
 * other process may claim the chunk; the release puts it last for everybody.
 *
 * A run is swept chunk by chunk. While a hand names it, all of its chunks wait; if the sweeper
 * dies when some are back, the rest are chunks of a dead owner like any other.
 *
 * What a sweep finds in the owner words, peers and hands may be damaged. It indexes nothing by them
 * before a check.
 */
#include "shmring/peer.h"
#include "shmring/slab.h"

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

    /* edge S2 acquire: if we copied a byte of the next filling, we see its generation. */
    shr_fence_acquire();
    return header && (uint32_t)(shr_load_relaxed(header) >> 32) == shr_ref_generation(ref);
}

/* ---- hands ----------------------------------------------------------------------------------- */

/* Hands in one row: those of the participants by slot, then the consumer's. */
static uint32_t hand_cnt(const struct shr_map *map)
{
    return map->geo.producer_cnt + 1 + map->geo.region[SHR_REGION_HANDS].entries;
}

static struct shr_hand *hand_at(const struct shr_map *map, uint32_t idx)
{
    uint32_t slots = map->geo.producer_cnt + 1;
    return idx < slots ? &map->peers[idx].hand : &map->hands[idx - slots];
}

static uint64_t hand_slot(const struct shr_map *map, uint32_t idx)
{
    return idx <= map->geo.producer_cnt ? idx : SHR_CONSUMER_SLOT;
}

/* The reference in a hand, 0 if there is none. */
static uint64_t hand_ref(const struct shr_hand *hand)
{
    /* edge S6 acquire: a hand that is empty or has gone on has freed what it named; one with a
     * position names its block. */
    if (shr_load_acquire(&hand->pos) == 0)
        return 0;
    return shr_load_relaxed(&hand->ref);
}

/* Whether a hand other than `except`, of somebody who lives, names the very block. */
static bool ref_is_held(struct shr_map *map, uint64_t ref, const struct shr_hand *except)
{
    for (uint32_t i = 0; i < hand_cnt(map); i++) {
        const struct shr_hand *hand = hand_at(map, i);
        /* Two dead hands that name one block must not wait for each other. Not being able to
         * tell counts as alive. */
        if (hand != except && hand_ref(hand) == ref && shr_lock_held(map, hand_slot(map, i)) != 0)
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
    if ((int64_t)(taken - pos) <= 0)
        return false; /* who takes pos has it in hand from before that on */
    if (ref != 0 && ref_is_held(map, ref, hand))
        return false;
    /* If the dead one was done with the block, or never got it, its generation is not in use any
     * more and this does nothing; nor does it when a sweeper died right behind it. */
    shr_block_free(map, ref);
    /* edge S6 release: the block is free before the hand is. */
    shr_store_release(&hand->pos, 0);
    return true;
}

/* ---- chunks ---------------------------------------------------------------------------------- */

static bool owner_is_gone(const struct shr_map *map, uint64_t owner)
{
    uint64_t slot = owner >> 48;

    if (slot > map->geo.producer_cnt)
        return true; /* damaged: nobody will ever give it back */
    /* S4 makes the epoch at least the owner's. If it is a later one, the owner is gone for good. */
    const struct shr_peer *peer = &map->peers[slot];
    /* edge S5 acquire: all that the owner did is before what we do with its chunk. */
    if (shr_owner((uint32_t)slot, shr_load_acquire(&peer->epoch)) != owner)
        return true;
    /* Same epoch: FREE is the state of this owner or of a later one, not of an earlier (S4). */
    return shr_load32_acquire(&peer->state) == SHR_PEER_FREE;
}

/* Whether all that the dead owner could have put into the ring is taken. Learns the position up
 * to which that is when it sees the death first. */
static bool orphan_is_due(const struct shr_map *map, struct shr_chunk *chunk, uint64_t head,
                          uint64_t taken)
{
    uint64_t until = shr_load_relaxed(&chunk->orphan_head);

    if (until == 0) {
        /* The caller's head may be from before the owner's last claim; this one, by S5, is not. */
        until = shr_load_relaxed(&map->hot->head);
        if ((int64_t)(head - until) > 0)
            until = head;
        shr_store_relaxed(&chunk->orphan_head, until);
    }
    return (int64_t)(taken - until) >= 0;
}

/* Bits of due chunks that a hand names are taken out. */
static void due_without_held(const struct shr_map *map, uint64_t *due, uint32_t base, uint32_t end)
{
    for (uint32_t i = 0; i < hand_cnt(map); i++) {
        uint64_t ref = hand_ref(hand_at(map, i));
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

/* Nobody has a reference into the chunk any more. What is USED was lost, or never committed. */
static void orphan_return(const struct shr_map *map, uint32_t idx)
{
    struct shr_chunk *chunk = &map->chunks[idx];
    uint64_t owner = shr_load_relaxed(&map->owners[idx]);

    for (uint32_t i = 0; i < SHR_CHUNK_BLOCKS; i++) {
        /* edge S1 acquire: what the freer did in the block is before the chunk's next owner. */
        uint64_t word = shr_load_acquire(&chunk->block[i]);
        /* A free that comes between (of a stale, but equal reference) leaves it FREE as well. */
        if ((uint32_t)word != SHR_BLOCK_FREE)
            shr_cas_release(&chunk->block[i], word,
                            shr_block_word((uint32_t)(word >> 32), SHR_BLOCK_FREE));
    }
    shr_store_relaxed(&chunk->orphan_head, 0);
    /* edge S3 release: the generations, and orphan_head 0, before the next owner. */
    shr_cas_release(&map->owners[idx], owner, 0);
}

/* The chunks base … end - 1. All are found due before hands are read, and hands are read before
 * any is returned: a hand that names a due block was written before its position was taken, and
 * taken is not older. */
static uint32_t window_sweep(struct shr_map *map, uint32_t base, uint32_t end, uint64_t head,
                             uint64_t taken)
{
    uint64_t due[WINDOW_CNT / 64] = {0};
    uint32_t orphans = 0, due_cnt = 0;

    for (uint32_t i = base; i < end; i++) {
        /* edge S4 acquire: the epoch and the state that we see are not older than the claim. */
        uint64_t owner = shr_load_acquire(&map->owners[i]);
        if (owner == 0 || !owner_is_gone(map, owner))
            continue;
        orphans++;
        if (orphan_is_due(map, &map->chunks[i], head, taken)) {
            due[(i - base) / 64] |= UINT64_C(1) << (i - base) % 64;
            due_cnt++;
        }
    }
    if (due_cnt == 0)
        return orphans;
    due_without_held(map, due, base, end);
    for (uint32_t i = base; i < end; i++) {
        if ((due[(i - base) / 64] >> (i - base) % 64 & 1) != 0) {
            orphan_return(map, i);
            orphans--;
        }
    }
    return orphans;
}

uint32_t shr_slab_sweep(struct shr_map *map, uint64_t head, uint64_t taken)
{
    uint32_t cnt = map->geo.chunk_cnt;
    uint32_t waiting = 0;

    for (uint32_t base = 0; base < cnt; base += WINDOW_CNT)
        waiting += window_sweep(map, base, cnt - base < WINDOW_CNT ? cnt : base + WINDOW_CNT, head,
                                taken);
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
