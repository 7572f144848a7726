/* Between slab.c and slab_pool.c: what a heap owns. Called by the thread of the heap only. */
#ifndef SHMRING_SLAB_POOL_H
#define SHMRING_SLAB_POOL_H

#include "shmring/slab.h"

#define SHR_RUN_WORDS 2u /* a run takes two words of its list: first chunk, length */

static inline uint32_t shr_class_blocks(uint32_t class_idx)
{
    return SHR_CHUNK_BLOCKS >> class_idx;
}

static inline bool shr_word_is_free(uint64_t word)
{
    return (uint32_t)word == SHR_BLOCK_FREE;
}

/* The generation after the one in word. */
static inline uint32_t shr_generation_next(uint64_t word)
{
    uint32_t generation = (uint32_t)(word >> 32) + 1;
    return generation != 0 ? generation : 1;
}

/* ---- recall, the owner's side ---------------------------------------------------------------- */

/* Says what we are about to touch. */
SHR_HOT void shr_heap_announce(const struct shr_heap *heap, uint64_t what)
{
    /* edge S9 release: the headers of our last allocation before this one. */
    shr_store_release(heap->allocating, what);
    if (SHR_UNLIKELY(heap->fence))
        shr_fence_seq_cst();
    /* edge S7 release: a recaller that we miss now sees this, by its membarrier. */
    shr_fence_compiler();
}

/* Relaxed: any other value leads to lists_check, which acquires. */
SHR_HOT bool shr_heap_is_recalled(const struct shr_heap *heap)
{
    return shr_load_relaxed(&heap->map->hot->recalls) != heap->recalls_seen;
}

/* Says ANY, which lasts until the caller says NONE, and makes the lists true. */
void shr_heap_hold(struct shr_heap *heap, uint32_t class_idx);

/* ---- the pool -------------------------------------------------------------------------------- */

/* One chunk from the pool: of this processor's node if there is one. */
bool shr_pool_claim(struct shr_heap *heap, uint32_t *chunk);

/* A run from the pool, never across nodes. Searched from the top, whereas single chunks come from
 * the bottom. Claims go upwards: of those who meet, the one that is highest wins. */
bool shr_pool_claim_run(struct shr_heap *heap, uint32_t length, uint32_t *first);

/* Makes all words of a claimed chunk FREE. They are, but for one case: a sweeper that was stopped
 * for two lives of the chunk may return it too soon (slab_sweep.c). Nobody has a reference then.
 * And gives each that was ever used a new generation: the chunk may have been one of another class
 * since, which leaves other words than these, so an observer could take its bytes for theirs. */
void shr_chunk_clean(const struct shr_heap *heap, uint32_t class_idx, uint32_t chunk);

/* ---- the lists ------------------------------------------------------------------------------- */

/* Makes room for `more` words. Comes before a claim, so that what is ours is always listed. */
int shr_list_reserve(struct shr_heap_class *cls, uint32_t more);

/* Returns wholly free chunks beyond one a class. Looks at TRIM_CNT, from where it stopped. */
void shr_heap_trim(struct shr_heap *heap);

/* Looks at up to `looks` runs, from where it stopped, and returns those that are free. */
void shr_heap_return_runs(struct shr_heap *heap, uint32_t looks);

/* Returns every wholly free chunk and every free run. */
void shr_heap_return_idle(struct shr_heap *heap);

#endif
