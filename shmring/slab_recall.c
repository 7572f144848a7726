/* Slab memory for those who find none: wholly free chunks are asked back from owners that idle. The
 * protocol is in slab.h; here is the recaller's side of it.
 *
 * Death and stops of the recaller. What it leaves are RECALLED words and a count. The owner makes
 * such a word its own again, or the chunk the pool's, at its next allocation if the count had
 * changed; if the recaller died before that, the owner goes on to allocate from the chunk and
 * nobody minds, for only a recaller whose number is in the word takes the chunk away. The next
 * recaller puts its own number into the words that it finds. If the owner is gone, the sweep makes
 * the chunk an orphan, whatever its word.
 *
 * A run goes back from its last chunk to its first, whose run_chunks says how long it was. So if a
 * recaller dies between, the next one still sees what is left of the run. And an owner that finds
 * one chunk of a run gone gives the rest back, in the middle of that or behind it.
 */
#include "shmring/clock.h"
#include "shmring/ring.h"
#include "shmring/slab.h"
#include "shmring/wait.h"

#define RECLAIM_EVERY_NS UINT64_C(2000000)
/* Whoever reclaims for longer was stopped or died, or the bus is large: then two may do it. */
#define RECLAIM_ALONE_NS UINT64_C(2000000)

/* ---- recall ---------------------------------------------------------------------------------- */

/* Chunks that are used and free together, from `first`: 1, or those of a run; 0: not the first of a
 * run. Its owner wrote class and length before it said that its allocation is over; before that
 * they may be anything: a single chunk that is in the middle of a run by now, or a length that
 * reaches over chunks in use. A mark may go by that, but not what follows from it. */
static uint32_t unit_length(const struct shr_map *map, uint32_t first)
{
    const struct shr_chunk *chunk = &map->chunks[first];

    if (shr_load32_relaxed(&chunk->class_idx) < SHR_CLASS_CNT)
        return 1;
    uint32_t length = shr_load32_relaxed(&chunk->run_chunks);
    return length <= map->geo.chunk_cnt - first ? length : 0;
}

static bool unit_is_idle(const struct shr_map *map, uint32_t first)
{
    for (uint32_t i = 0; i < SHR_CHUNK_BLOCKS; i++) {
        /* edge S1 acquire: what the freer did in the block is before the chunk's next owner. */
        if ((uint32_t)shr_load_acquire(&map->chunks[first].block[i]) != SHR_BLOCK_FREE)
            return false;
    }
    return true;
}

/* Who owns the chunk, as the upper half of a RECALLED word; 0: nobody, or nobody who can. */
static uint64_t recall_key(const struct shr_map *map, uint64_t word)
{
    uint64_t key = word >> 32;

    if ((word & SHR_OWNER_RECALLED) == 0) {
        if (word == 0 || (word & SHR_OWNER_ORPHAN) != 0 || word >> 48 > map->geo.producer_cnt)
            return 0;
        key = shr_owner_recalled(word, 0) >> 32;
    }
    return (key >> 19 & 0x7ff) <= map->geo.producer_cnt ? key : 0;
}

/* Makes the words of idle chunks RECALLED with our number. Returns how many. */
static uint32_t idle_mark(const struct shr_map *map, uint32_t recall)
{
    uint32_t marked = 0, length;

    for (uint32_t i = 0; i < map->geo.chunk_cnt; i += length) {
        uint64_t key = recall_key(map, shr_load_acquire(&map->owners[i]));
        length = key != 0 ? unit_length(map, i) : 1;
        if (key == 0 || length == 0 || !unit_is_idle(map, i)) {
            length += length == 0;
            continue;
        }
        for (uint32_t k = i; k < i + length; k++) {
            uint64_t word = shr_load_relaxed(&map->owners[k]); /* relaxed: the CAS decides */
            if (recall_key(map, word) == key)
                marked += shr_cas_acq_rel(&map->owners[k], word, key << 32 | recall);
        }
    }
    return marked;
}

/* Whether the unit from `first` can go back: its owner does not use it now, and will not before it
 * has decided about our word. *length: how many chunks it has, or that need not be looked at. */
static bool unit_is_ours(const struct shr_map *map, uint32_t first, uint64_t word, uint32_t *length)
{
    uint64_t key = word >> 32;
    uint32_t slot = key >> 19 & 0x7ff;
    /* edge S7 acquire: after our membarrier, what an owner said that missed our count.
     * edge S9 acquire: and class, length and headers of the allocations that it has ended. */
    uint64_t busy = shr_load_acquire(&map->peers[slot].allocating);
    uint32_t unit = unit_length(map, first);

    *length = 1;
    if (busy == SHR_ALLOCATING_ANY || unit == 0)
        return false;
    /* Relaxed: by S9 a later epoch, if a later owner spoke. That one says nothing of what the last
     * one was about as it died: the chunk is for the sweep. */
    if (!shr_owner_is(word, shr_owner(slot, shr_load_relaxed(&map->peers[slot].epoch))))
        return false;
    /* A unit that stays is passed whole, so that damaged lengths, each to the end, cost no more
     * than one look at each chunk. */
    *length = unit;
    if ((busy > first && busy <= (uint64_t)first + unit) || !unit_is_idle(map, first))
        return false;
    for (uint32_t i = first; i < first + unit; i++) {
        uint64_t other = shr_load_acquire(&map->owners[i]);
        if (other != word && recall_key(map, other) == key)
            return false; /* its owner has just decided to keep it */
    }
    return true;
}

static uint32_t marked_return(const struct shr_map *map, uint32_t recall)
{
    uint32_t returned = 0, length;

    for (uint32_t i = 0; i < map->geo.chunk_cnt; i += length) {
        uint64_t word = shr_load_acquire(&map->owners[i]);
        length = 1;
        if ((word & SHR_OWNER_RECALLED) == 0 || (uint32_t)word != recall ||
            recall_key(map, word) == 0 || !unit_is_ours(map, i, word, &length))
            continue;
        /* edge S3 release: the last generations, and the freers' (S1), before the next owner. */
        for (uint32_t k = i + length; k-- > i;)
            returned += shr_cas_release(&map->owners[k], word, 0);
    }
    return returned;
}

uint32_t shr_slab_recall(struct shr_map *map)
{
    shr_a64 *recalls = &map->hot->recalls;
    uint32_t recall = (uint32_t)shr_fetch_add_acq_rel(recalls, 1) + 1; /* nobody else gets it */

    if (idle_mark(map, recall) == 0)
        return 0;
    /* edge S10 release: an owner that sees the count sees our words. */
    shr_fetch_add_acq_rel(recalls, 1);
    if (!shr_wait_barrier() && map->geo.wakers_fence == 0)
        return 0; /* owners do not fence and we cannot for them: they give back as they allocate */
    uint32_t returned = marked_return(map, recall);
    if (returned != 0) /* true: this is no fast path, so we fence whatever the bus says */
        shr_gate_notify(&map->hot->freed, true);
    return returned;
}

/* ---- reclaim --------------------------------------------------------------------------------- */

static uint32_t pool_cnt(const struct shr_map *map)
{
    uint32_t cnt = 0;

    for (uint32_t i = 0; i < map->geo.chunk_cnt; i++)
        cnt += shr_load_relaxed(&map->owners[i]) == 0; /* relaxed: a claim decides */
    return cnt;
}

bool shr_slab_reclaim(struct shr_heap *heap, bool late)
{
    struct shr_map *map = heap->map;
    shr_a64 *since = &map->hot->reclaiming_ns;
    uint64_t now_ns = shr_now_ns();
    uint64_t other_ns = shr_load_relaxed(since); /* relaxed: it spares work, and guards nothing */

    if (map->geo.chunk_cnt == 0 ||
        (heap->vain_ns[late] != 0 && now_ns - heap->vain_ns[late] < RECLAIM_EVERY_NS))
        return false;
    if ((other_ns != 0 && now_ns - other_ns < RECLAIM_ALONE_NS) ||
        !shr_cas_acq_rel(since, other_ns, now_ns))
        return false;
    struct shr_ring ring;
    shr_ring_init(&ring, map);
    uint32_t before = pool_cnt(map);
    if (heap->swept_ns[late] == 0 || now_ns - heap->swept_ns[late] >= RECLAIM_EVERY_NS) {
        shr_sweep_dead(map, &ring, false); /* so that their chunks are seen to be orphans */
        heap->swept_ns[late] = now_ns;
    }
    uint64_t head = shr_load_acquire(&ring.hot->head);
    /* edge R6 acquire: what is taken, before the hands that took it. */
    shr_slab_sweep(map, head, shr_load_acquire(ring.free));
    uint32_t after = pool_cnt(map);
    if (after == before || after < heap->wanted_chunks || heap->wanted_chunks > 1)
        after += shr_slab_recall(map);
    shr_cas_release(since, now_ns, 0);
    heap->vain_ns[late] = after > before ? 0 : shr_now_ns();
    heap->pool_skip = 0;
    heap->dry_until_ns = 0;
    return after > before;
}
