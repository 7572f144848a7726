/* What an owner does with chunks: takes them from the pool, gives them back, and answers recalls.
 *
 * Each time a cursor leaves a chunk, TRIM_CNT chunks of some class are looked at, and wholly free
 * ones beyond one a class go back; that is a constant for each 64 KiB allocated, and it reaches
 * classes that are no longer allocated from.
 *
 * Why the lists are true when they are used. They may name a chunk that was recalled and now is
 * somebody else's, but then the count has changed. After saying ANY and a look at the count (and,
 * if it changed, lists_check) they are exact until we say NONE. After saying one chunk, that chunk
 * is ours, and about the others only chunk_give's CAS decides.
 */
#include "shmring/slab_pool.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define TRIM_CNT 4u

static bool chunk_is_idle(const struct shr_heap *heap, uint32_t class_idx, uint32_t chunk)
{
    const shr_a64 *block = heap->map->chunks[chunk].block;

    for (uint32_t i = 0; i < shr_class_blocks(class_idx); i++) {
        /* edge S1 acquire: what the freer did in the block is before the chunk's next owner. */
        if (!shr_word_is_free(shr_load_acquire(&block[i])))
            return false;
    }
    return true; /* and stays so: only we could use a block of it */
}

/* Makes sure of a chunk in our lists. False: it was recalled and is gone. */
static bool chunk_keep(const struct shr_heap *heap, uint32_t chunk)
{
    shr_a64 *owner = &heap->map->owners[chunk];
    uint64_t word = shr_load_relaxed(owner); /* relaxed: only ours keeps it, or our CAS */

    while (word != heap->owner) {
        if (!shr_owner_is(word, heap->owner))
            return false;
        /* Fails if the recaller returned it just now, or another one put its number in. */
        if (shr_cas_acq_rel(owner, word, heap->owner))
            return true;
        word = shr_load_relaxed(owner);
    }
    return true;
}

/* ---- the pool -------------------------------------------------------------------------------- */

static bool chunk_claim(struct shr_heap *heap, uint32_t chunk)
{
    shr_a64 *owner = &heap->map->owners[chunk];

    if (shr_load_relaxed(owner) != 0) /* relaxed: spares a locked instruction, decides nothing */
        return false;
    /* edge S3 acquire: the generations are the last that any earlier owner gave. */
    /* edge S4 release: our slot's epoch and state before a word that names them. */
    if (!shr_cas_acq_rel(owner, 0, heap->owner))
        return false;
    /* edge S8 release: whoever sees a header of ours sees that the chunk is ours. */
    shr_fence_release();
    return true;
}

/* The chunk is wholly free. If its word is not ours, a recaller was first, or somebody damaged it;
 * then it is not ours to give. */
static void chunk_give(struct shr_heap *heap, uint32_t chunk)
{
    shr_a64 *owner = &heap->map->owners[chunk];
    uint64_t word;

    do
        word = shr_load_relaxed(owner); /* relaxed: the CAS decides */
    /* edge S3 release: our last generations, and the freers' (S1), before the next owner. */
    while (shr_owner_is(word, heap->owner) && !shr_cas_release(owner, word, 0));
    if (chunk < heap->scan_pool)
        heap->scan_pool = chunk;
    heap->pool_skip = 0;
    heap->dry_until_ns = 0;
}

void shr_chunk_clean(const struct shr_heap *heap, uint32_t class_idx, uint32_t chunk)
{
    shr_a64 *block = heap->map->chunks[chunk].block;

    for (uint32_t i = 0; i < shr_class_blocks(class_idx); i++) {
        uint64_t word = shr_load_relaxed(&block[i]); /* relaxed: S3 brought the last ones */
        uint64_t next = shr_block_word(shr_generation_next(word), SHR_BLOCK_FREE);
        if (shr_word_is_free(word) && word != 0) /* nobody else changes a free word */
            shr_store_relaxed(&block[i], next);
        else if (word != 0)
            shr_cas_release(&block[i], word, next);
    }
}

static uint32_t node_here(const struct shr_geometry *geo)
{
    unsigned int cpu, node_id;

    if (geo->node_cnt > 1 && getcpu(&cpu, &node_id) == 0) {
        for (uint32_t i = 0; i < geo->node_cnt; i++) {
            if (geo->node[i].node_id == node_id)
                return i;
        }
    }
    return 0;
}

bool shr_pool_claim(struct shr_heap *heap, uint32_t *chunk)
{
    const struct shr_geometry *geo = &heap->map->geo;
    uint32_t home = node_here(geo);

    for (uint32_t n = 0; n < geo->node_cnt; n++) {
        const struct shr_node *node = &geo->node[(home + n) % geo->node_cnt];
        uint32_t end = node->chunk_first + node->chunk_cnt;
        uint32_t at = heap->scan_pool;
        if (at < node->chunk_first || at >= end)
            at = node->chunk_first;
        for (uint32_t i = 0; i < node->chunk_cnt; i++) {
            if (chunk_claim(heap, at)) {
                heap->scan_pool = at + 1;
                *chunk = at;
                return true;
            }
            if (++at == end)
                at = node->chunk_first;
        }
    }
    return false;
}

/* Claims `length` consecutive chunks, all or none. A death in between leaves chunks of a dead
 * owner whose blocks are all free: the sweep returns them. */
static bool run_try(struct shr_heap *heap, uint32_t first, uint32_t length, uint32_t *lost)
{
    for (uint32_t i = 0; i < length; i++) {
        if (!chunk_claim(heap, first + i)) {
            *lost = first + i;
            while (i > 0)
                chunk_give(heap, first + --i);
            return false;
        }
    }
    return true;
}

bool shr_pool_claim_run(struct shr_heap *heap, uint32_t length, uint32_t *first)
{
    const struct shr_geometry *geo = &heap->map->geo;
    uint32_t home = node_here(geo);

    for (uint32_t n = 0; n < geo->node_cnt; n++) {
        const struct shr_node *node = &geo->node[(home + n) % geo->node_cnt];
        uint32_t found = 0;
        for (uint32_t at = node->chunk_first + node->chunk_cnt; at-- > node->chunk_first;) {
            found = shr_load_relaxed(&heap->map->owners[at]) == 0 ? found + 1 : 0;
            if (found < length)
                continue;
            *first = at;
            if (run_try(heap, *first, length, &at)) /* else: go on under the chunk that was lost */
                return true;
            found = 0;
        }
    }
    return false;
}

/* ---- the lists ------------------------------------------------------------------------------- */

int shr_list_reserve(struct shr_heap_class *cls, uint32_t more)
{
    uint32_t cap = cls->chunk_cap;
    uint32_t *grown;

    if (cls->chunk_cnt + more <= cap)
        return 0;
    cap = cap == 0 ? 16 : 2 * cap;
    grown = realloc(cls->chunk, cap * sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    cls->chunk = grown;
    cls->chunk_cap = cap;
    return 0;
}

static void list_remove(struct shr_heap_class *cls, uint32_t idx)
{
    cls->chunk_cnt--;
    memmove(&cls->chunk[idx], &cls->chunk[idx + 1], (cls->chunk_cnt - idx) * sizeof(*cls->chunk));
    if (idx < cls->scan_chunk)
        cls->scan_chunk--;
    else if (idx == cls->scan_chunk)
        cls->scan_block = 0;
    if (cls->scan_chunk >= cls->chunk_cnt) {
        cls->scan_chunk = 0;
        cls->scan_block = 0;
    }
}

SHR_COLD void shr_heap_trim(struct shr_heap *heap)
{
    for (uint32_t look = 0; look < TRIM_CNT; look++) {
        struct shr_heap_class *cls = &heap->cls[heap->trim_class];
        if (heap->trim_chunk >= cls->chunk_cnt) {
            heap->trim_class = (heap->trim_class + 1) % SHR_CLASS_CNT;
            heap->trim_chunk = 0;
            heap->trim_kept = 0;
            continue;
        }
        if (cls->chunk_cnt == 1 ||
            !chunk_is_idle(heap, heap->trim_class, cls->chunk[heap->trim_chunk])) {
            heap->trim_chunk++;
        } else if (!heap->trim_kept) {
            heap->trim_kept = 1;
            heap->trim_chunk++;
        } else {
            chunk_give(heap, cls->chunk[heap->trim_chunk]);
            list_remove(cls, heap->trim_chunk);
        }
    }
}

/* Makes sure of a run in our lists. False: a chunk of it was recalled and is gone. */
static bool run_keep(const struct shr_heap *heap, uint32_t first, uint32_t length)
{
    bool kept = true;

    for (uint32_t i = 0; i < length; i++)
        kept = chunk_keep(heap, first + i) && kept;
    return kept;
}

/* Gives back what of a free run is ours. */
static void run_give(struct shr_heap *heap, uint32_t first, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++)
        chunk_give(heap, first + i);
}

static void run_remove(struct shr_heap_class *cls, uint32_t idx)
{
    cls->chunk_cnt -= SHR_RUN_WORDS;
    cls->chunk[idx] = cls->chunk[cls->chunk_cnt];
    cls->chunk[idx + 1] = cls->chunk[cls->chunk_cnt + 1];
}

SHR_COLD void shr_heap_return_runs(struct shr_heap *heap, uint32_t looks)
{
    struct shr_heap_class *cls = &heap->cls[SHR_CLASS_RUN];

    for (; looks > 0 && cls->chunk_cnt > 0; looks--) {
        if (cls->scan_chunk >= cls->chunk_cnt)
            cls->scan_chunk = 0;
        uint32_t *run = &cls->chunk[cls->scan_chunk];
        /* edge S1 acquire: what the freer did in the run is before the next owners.
         * edge S8 acquire: if it is another owner's word, lists_check sees that the chunk is. */
        if (!shr_word_is_free(shr_load_acquire(&heap->map->chunks[run[0]].block[0]))) {
            cls->scan_chunk += SHR_RUN_WORDS;
            continue;
        }
        run_give(heap, run[0], run[1]);
        run_remove(cls, cls->scan_chunk);
    }
}

void shr_heap_return_idle(struct shr_heap *heap)
{
    shr_heap_return_runs(heap, heap->cls[SHR_CLASS_RUN].chunk_cnt / SHR_RUN_WORDS);
    for (uint32_t class_idx = 0; class_idx < SHR_CLASS_CNT; class_idx++) {
        struct shr_heap_class *cls = &heap->cls[class_idx];
        for (uint32_t i = cls->chunk_cnt; i-- > 0;) {
            if (chunk_is_idle(heap, class_idx, cls->chunk[i])) {
                chunk_give(heap, cls->chunk[i]);
                list_remove(cls, i);
            }
        }
    }
}

/* Somebody recalled chunks since we looked. Those of ours that are wholly free go to the pool, but
 * the last one of the class that we are about to allocate from; the others are ours again; what is
 * gone leaves the lists. The caller has said ANY. */
static SHR_COLD void lists_check(struct shr_heap *heap, uint32_t class_idx)
{
    /* edge S10 acquire: the words that were changed before the count. */
    uint64_t recalls = shr_load_acquire(&heap->map->hot->recalls);
    struct shr_heap_class *runs = &heap->cls[SHR_CLASS_RUN];

    shr_heap_return_runs(heap, runs->chunk_cnt / SHR_RUN_WORDS);
    /* What does not look free is in use, and nobody took any of it; or it came free since then, and
     * somebody is taking it, from its end; or it went back, and the header is that of the first
     * chunk's owner of today. A run of which one chunk is gone is free, and stays so: the rest goes
     * back. We have claimed nothing since, so what of it is ours is not in use. */
    for (uint32_t i = runs->chunk_cnt; i > 0;) {
        const uint32_t *run = &runs->chunk[i -= SHR_RUN_WORDS];
        if (run_keep(heap, run[0], run[1]))
            continue;
        run_give(heap, run[0], run[1]);
        run_remove(runs, i);
    }
    for (uint32_t c = 0; c < SHR_CLASS_CNT; c++) {
        struct shr_heap_class *cls = &heap->cls[c];
        for (uint32_t i = cls->chunk_cnt; i-- > 0;) {
            uint32_t chunk = cls->chunk[i];
            if (shr_load_relaxed(&heap->map->owners[chunk]) == heap->owner)
                continue;
            if ((c != class_idx || cls->chunk_cnt > 1) && chunk_is_idle(heap, c, chunk))
                chunk_give(heap, chunk);
            else if (chunk_keep(heap, chunk))
                continue;
            list_remove(cls, i);
        }
    }
    heap->recalls_seen = recalls;
}

void shr_heap_hold(struct shr_heap *heap, uint32_t class_idx)
{
    shr_heap_announce(heap, SHR_ALLOCATING_ANY);
    if (SHR_UNLIKELY(shr_heap_is_recalled(heap)))
        lists_check(heap, class_idx);
}
