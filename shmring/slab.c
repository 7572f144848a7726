/* The slabs as their owners see them: allocation. Taking chunks and giving them back:
 * slab_pool.c.
 *
 * Finding a free block. Blocks are mostly freed in the order in which they were allocated, since
 * the ring is a queue. So each class keeps its chunks in a circle with one cursor: behind it is
 * the youngest block, at it the oldest. As long as the class has a few blocks more than are in
 * use, the block at the cursor is free and an allocation reads one header. When it is not free,
 * either a straggler is in the way (skip it) or everything is in use (more looks find nothing).
 * So after LOOK_CNT headers a new chunk is put into the circle at the cursor: a look costs at
 * most that much for as long as the pool has chunks, and the class grows to what is in use plus
 * about a chunk. Only when the pool is empty does an allocation go on to a full round, which
 * ends where it began, at the oldest block: the next one to be freed.
 *
 * A search of an empty pool of P chunks is paid for by the P / LOOK_CNT slow allocations that
 * then do without one.
 *
 * Why a stale reference frees nothing. Block i of a chunk uses header word i whatever the class,
 * and only three kinds of writes ever change that word: the allocation by the chunk's owner, {g,
 * FREE} → {g+1, USED}, the free, {g, USED} → {g, FREE}, and, while the chunk is made ready for a
 * class or a run, a later generation for observers, {g, FREE} → {g+n, FREE}. Owners follow each
 * other over edge S3, so each starts from the last generation of the one before, and no class
 * change, return to the pool or sweep resets it. Hence {g, USED} stands in the word during one
 * allocation only, and a CAS from it that comes later fails, also when the word now belongs to a
 * block of another size. (A generation comes again after 2³² allocations of one block; a
 * reference is never held for so long, since its hand pins the block, and hands of the dead are
 * swept.)
 *
 * Why the owner may store plainly. A USED word changes by CAS only and becomes FREE; a FREE word
 * changes by the owner only, for every CAS expects USED. And the chunk stays ours from the look
 * at the count of recalls to the end of the allocation: a recall that it missed finds what we
 * said.
 */
#include "shmring/slab_pool.h"

#include "shmring/clock.h"
#include "shmring/wait.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_CNT     32u
#define RUN_LOOK_CNT 4u

/* A look at fewer headers than this is not worth remembering. A longer one that found nothing took
 * some time, and is not done again before DRY_FACTOR times as much. */
#define DRY_LOOK_CNT 4096u
#define DRY_FACTOR   4u
#define DRY_MAX_NS   UINT64_C(1000000)

static uint32_t class_of(uint32_t bytes)
{
    uint32_t top = (bytes - (bytes != 0)) | ((1u << SHR_CLASS_MIN_SHIFT) - 1);
    return 32u - (uint32_t)__builtin_clz(top) - SHR_CLASS_MIN_SHIFT;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* Makes a block of a chunk that we own ours to fill, and names it. */
static uint64_t block_use(const struct shr_heap *heap, uint32_t class_idx, uint32_t chunk,
                          uint32_t block, uint64_t word)
{
    uint32_t generation = shr_generation_next(word);

    shr_store_relaxed(&heap->map->chunks[chunk].block[block],
                      shr_block_word(generation, SHR_BLOCK_USED));
    /* edge S2 release: the new generation before every byte that the caller fills in. */
    shr_fence_release();
    return shr_ref(generation, class_idx, chunk, block);
}

/* ---- finding nothing ------------------------------------------------------------------------- */

/* Whether a look everywhere found nothing just now. Not so when somebody waits at the gate, which
 * may be us: who is about to sleep must look; nor when a waiter was woken since. All relaxed: an
 * older value means one look too many or one a moment later, and dry_until_ns bounds that. */
static bool is_dry(const struct shr_heap *heap, uint32_t class_idx, uint32_t chunks)
{
    const struct shr_gate *freed = &heap->map->hot->freed;

    return heap->dry_until_ns != 0 && heap->dry_class == class_idx &&
           chunks >= heap->wanted_chunks && shr_load32_relaxed(&freed->waiting) == 0 &&
           shr_load32_relaxed(&freed->seq) == heap->dry_seq && shr_now_ns() < heap->dry_until_ns;
}

/* A look at `looks` words since start_ns found nothing. */
static void note_dry(struct shr_heap *heap, uint32_t class_idx, uint32_t chunks, uint64_t looks,
                     uint64_t start_ns)
{
    uint64_t now_ns = shr_now_ns();
    uint64_t wait_ns = DRY_FACTOR * (now_ns - start_ns);

    heap->dry_class = class_idx;
    heap->wanted_chunks = chunks;
    heap->dry_until_ns = 0;
    if (looks >= DRY_LOOK_CNT)
        heap->dry_until_ns = now_ns + (wait_ns < DRY_MAX_NS ? wait_ns : DRY_MAX_NS);
}

/* ---- allocation ------------------------------------------------------------------------------ */

/* Moves the cursor on by one block; true if it left a chunk. */
static bool cursor_advance(struct shr_heap_class *cls, uint32_t class_idx)
{
    if (SHR_LIKELY(++cls->scan_block < shr_class_blocks(class_idx)))
        return false;
    cls->scan_block = 0;
    if (++cls->scan_chunk >= cls->chunk_cnt)
        cls->scan_chunk = 0;
    return true;
}

/* Uses the block at the cursor and moves on, if it is free. */
static bool cursor_take(struct shr_heap *heap, uint32_t class_idx, uint64_t *ref, bool *left)
{
    struct shr_heap_class *cls = &heap->cls[class_idx];
    uint32_t chunk = cls->chunk[cls->scan_chunk];
    uint32_t block = cls->scan_block;
    /* edge S1 acquire: what the freer did in the block is before our filling. */
    uint64_t word = shr_load_acquire(&heap->map->chunks[chunk].block[block]);

    if (SHR_UNLIKELY(!shr_word_is_free(word)))
        return false;
    *ref = block_use(heap, class_idx, chunk, block, word);
    *left |= cursor_advance(cls, class_idx);
    return true;
}

static bool cursor_find(struct shr_heap *heap, uint32_t class_idx, uint32_t looks, uint64_t *ref)
{
    bool left = false;

    for (; looks > 0; looks--) {
        if (cursor_take(heap, class_idx, ref, &left)) {
            if (left)
                shr_heap_trim(heap);
            return true;
        }
        left |= cursor_advance(&heap->cls[class_idx], class_idx);
    }
    return false;
}

/* Puts a chunk from the pool into the circle, with the cursor on it: in front of the chunk that
 * begins with the oldest block, (at_chunk, at_block), or behind the one that has it inside. */
static int class_grow(struct shr_heap *heap, uint32_t class_idx, uint32_t at_chunk,
                      uint32_t at_block)
{
    struct shr_heap_class *cls = &heap->cls[class_idx];
    uint32_t idx = at_chunk + (at_block != 0);
    uint32_t chunk;
    int rc = shr_list_reserve(cls, 1);

    if (rc != 0)
        return rc;
    if (!shr_pool_claim(heap, &chunk)) {
        heap->pool_skip = heap->map->geo.chunk_cnt / LOOK_CNT;
        return -ENOBUFS;
    }
    shr_chunk_clean(heap, class_idx, chunk);
    /* edge S2 release: the new generations before the class that they are of. */
    shr_fence_release();
    /* Relaxed: metrics and the sweep may see this late; takers get it with the reference. */
    shr_store32_relaxed(&heap->map->chunks[chunk].run_chunks, 0);
    shr_store32_relaxed(&heap->map->chunks[chunk].class_idx, class_idx);
    if (idx == 0)
        idx = cls->chunk_cnt; /* in a circle the same, and nothing is moved */
    memmove(&cls->chunk[idx + 1], &cls->chunk[idx], (cls->chunk_cnt - idx) * sizeof(*cls->chunk));
    cls->chunk[idx] = chunk;
    cls->chunk_cnt++;
    cls->scan_chunk = idx;
    cls->scan_block = 0;
    return 0;
}

/* The block at the cursor is in use, or there is none. */
static int block_alloc(struct shr_heap *heap, uint32_t class_idx, uint64_t *ref)
{
    struct shr_heap_class *cls = &heap->cls[class_idx];
    uint32_t blocks = cls->chunk_cnt * shr_class_blocks(class_idx);
    uint32_t looks = blocks < LOOK_CNT ? blocks : LOOK_CNT;
    uint32_t at_chunk = cls->scan_chunk;
    uint32_t at_block = cls->scan_block;

    if (cursor_find(heap, class_idx, looks, ref))
        return 0;
    if (is_dry(heap, class_idx, 1))
        return -ENOBUFS;
    uint64_t start_ns = shr_now_ns();
    uint32_t seq = shr_load32_relaxed(&heap->map->hot->freed.seq);
    if (heap->pool_skip > 0 && blocks > 0) {
        heap->pool_skip--;
    } else if (class_grow(heap, class_idx, at_chunk, at_block) == 0) {
        blocks += shr_class_blocks(class_idx);
        looks = 0;
    }
    if (cursor_find(heap, class_idx, blocks - looks, ref))
        return 0;
    /* What we own and do not use must not be what we fail for. */
    shr_heap_return_idle(heap);
    int rc = class_grow(heap, class_idx, cls->scan_chunk, cls->scan_block);
    if (rc == 0)
        return cursor_find(heap, class_idx, shr_class_blocks(class_idx), ref) ? 0 : -ENOBUFS;
    heap->dry_seq = seq;
    note_dry(heap, class_idx, 1, blocks + heap->map->geo.chunk_cnt, start_ns);
    return rc;
}

/* A free run of the pool. */
static int run_find(struct shr_heap *heap, uint32_t length, uint32_t *first)
{
    struct shr_heap_class *cls = &heap->cls[SHR_CLASS_RUN];

    if (is_dry(heap, SHR_CLASS_RUN, length))
        return -ENOBUFS;
    uint64_t start_ns = shr_now_ns();
    uint32_t seq = shr_load32_relaxed(&heap->map->hot->freed.seq);
    shr_heap_return_runs(heap, cls->chunk_cnt / SHR_RUN_WORDS);
    int rc = shr_list_reserve(cls, SHR_RUN_WORDS);
    if (rc != 0 || shr_pool_claim_run(heap, length, first))
        return rc;
    shr_heap_return_idle(heap);
    if (shr_pool_claim_run(heap, length, first))
        return 0;
    heap->dry_seq = seq;
    note_dry(heap, SHR_CLASS_RUN, length, 2 * (uint64_t)heap->map->geo.chunk_cnt, start_ns);
    return -ENOBUFS;
}

/* The run's chunks get one generation, later than any that they had: an observer sees by each of
 * them whether it still belongs to the run. Returns the word that comes before it. */
static uint64_t run_generation(const struct shr_heap *heap, uint32_t first, uint32_t length)
{
    struct shr_chunk *chunk = &heap->map->chunks[first];
    uint64_t last = 0;

    for (uint32_t i = 0; i < length; i++) { /* relaxed: S3 brought the last ones */
        uint64_t word = shr_load_relaxed(&chunk[i].block[0]);
        last = word > last ? word : last;
    }
    for (uint32_t i = 1; i < length; i++)
        shr_store_relaxed(&chunk[i].block[0],
                          shr_block_word(shr_generation_next(last), SHR_BLOCK_FREE));
    return last;
}

static int run_alloc(struct shr_heap *heap, uint32_t bytes, uint64_t *ref)
{
    struct shr_heap_class *cls = &heap->cls[SHR_CLASS_RUN];
    const struct shr_geometry *geo = &heap->map->geo;
    uint32_t length = bytes / SHR_CHUNK_BYTES + (bytes % SHR_CHUNK_BYTES != 0);
    uint32_t longest = 0;
    uint32_t first;

    for (uint32_t n = 0; n < geo->node_cnt; n++)
        longest = geo->node[n].chunk_cnt > longest ? geo->node[n].chunk_cnt : longest;
    if (length > longest)
        return -EMSGSIZE;
    int rc = run_find(heap, length, &first);
    if (rc != 0)
        return rc;
    for (uint32_t i = 0; i < length; i++) { /* relaxed: as in class_grow */
        struct shr_chunk *chunk = &heap->map->chunks[first + i];
        shr_store32_relaxed(&chunk->run_chunks, i == 0 ? length : 0);
        shr_store32_relaxed(&chunk->class_idx, SHR_CLASS_RUN);
    }
    /* The block is free, as all are in the pool; if somebody damaged the word, it is free now. */
    *ref = block_use(heap, SHR_CLASS_RUN, first, 0, run_generation(heap, first, length));
    cls->chunk[cls->chunk_cnt] = first;
    cls->chunk[cls->chunk_cnt + 1] = length;
    cls->chunk_cnt += SHR_RUN_WORDS;
    return 0;
}

static SHR_COLD int alloc_slow(struct shr_heap *heap, uint32_t bytes, uint64_t *ref)
{
    bool is_run = bytes > SHR_CHUNK_BYTES;
    uint32_t class_idx = is_run ? SHR_CLASS_RUN : class_of(bytes);
    int rc = -EMSGSIZE;

    if (heap->map->geo.chunk_cnt == 0)
        return rc;
    shr_heap_hold(heap, class_idx);
    if (is_run) {
        rc = run_alloc(heap, bytes, ref);
    } else {
        shr_heap_return_runs(heap, RUN_LOOK_CNT);
        rc = block_alloc(heap, class_idx, ref);
    }
    shr_heap_announce(heap, SHR_ALLOCATING_NONE);
    return rc;
}

int shr_alloc(struct shr_heap *heap, uint32_t bytes, uint64_t *ref)
{
    uint32_t class_idx = class_of(bytes);
    bool left = false;

    if (SHR_UNLIKELY(bytes > SHR_CHUNK_BYTES) ||
        SHR_UNLIKELY(heap->cls[SHR_CLASS_RUN].chunk_cnt != 0) ||
        SHR_UNLIKELY(heap->cls[class_idx].chunk_cnt == 0))
        return alloc_slow(heap, bytes, ref);
    const struct shr_heap_class *cls = &heap->cls[class_idx];
    shr_heap_announce(heap, (uint64_t)cls->chunk[cls->scan_chunk] + 1);
    if (SHR_UNLIKELY(shr_heap_is_recalled(heap)) ||
        SHR_UNLIKELY(!cursor_take(heap, class_idx, ref, &left)))
        return alloc_slow(heap, bytes, ref);
    /* edge S9 release: the header before we say that it is over. */
    shr_store_release(heap->allocating, SHR_ALLOCATING_NONE);
    if (SHR_UNLIKELY(left))
        shr_heap_trim(heap);
    return 0;
}

int shr_heap_init(struct shr_heap *heap, struct shr_map *map, uint64_t owner)
{
    memset(heap, 0, sizeof(*heap));
    heap->map = map;
    heap->owner = owner;
    heap->allocating = &map->peers[owner >> 48].allocating;
    heap->fence = map->geo.wakers_fence != 0 || shr_wait_register() != 0;
    /* Our slot's last owner may have died with another value here.
     * edge S9 release: our epoch before what we say in the place of that owner. */
    shr_store_release(heap->allocating, SHR_ALLOCATING_NONE);
    heap->recalls_seen = shr_load_relaxed(&map->hot->recalls); /* relaxed: we have no chunks yet */
    /* Heaps start apart, to meet less; but where runs are wanted, single chunks keep together. */
    if (map->geo.max_event <= SHR_CHUNK_BYTES)
        heap->scan_pool = (uint32_t)((owner >> 48) * map->geo.chunk_cnt /
                                     (map->geo.producer_cnt + 1));
    return 0;
}

void shr_heap_fini(struct shr_heap *heap)
{
    if (!heap->map)
        return;
    shr_heap_hold(heap, SHR_CLASS_RUN);
    shr_heap_return_idle(heap);
    shr_heap_announce(heap, SHR_ALLOCATING_NONE);
    for (uint32_t class_idx = 0; class_idx <= SHR_CLASS_RUN; class_idx++)
        free(heap->cls[class_idx].chunk);
    memset(heap, 0, sizeof(*heap));
    /* edge S5 release: our headers and claims before the state that shr_peer_exit stores. */
    shr_fence_release();
}
