/* The slabs as their owners see them: allocation, the pool, and giving back.
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
 * then do without one. Each time a cursor leaves a chunk, TRIM_CNT chunks of some class are
 * looked at, and wholly free ones beyond one a class go back; that is a constant for each 64 KiB
 * allocated, and it reaches classes that are no longer allocated from.
 *
 * Why a stale reference frees nothing. Block i of a chunk uses header word i whatever the class,
 * and only two kinds of writes ever change that word: the allocation by the chunk's owner, {g,
 * FREE} → {g+1, USED}, and the free, {g, USED} → {g, FREE}. Owners follow each other over edge
 * S3, so each starts from the last generation of the one before, and no class change, return to
 * the pool or sweep resets it. Hence {g, USED} stands in the word during one allocation only,
 * and a CAS from it that comes later fails, also when the word now belongs to a block of another
 * size. (A generation comes again after 2³² allocations of one block; a reference is never held
 * for so long, since its hand pins the block, and hands of the dead are swept.)
 *
 * Why the owner may store plainly. A USED word changes by CAS only and becomes FREE; a FREE word
 * changes by the owner only, for every CAS expects USED. And the chunk stays ours from the look at
 * the count of recalls to the end of the allocation: a recall that it missed finds what we said.
 *
 * Why the lists are true when they are used. They may name a chunk that was recalled and now is
 * somebody else's, but then the count has changed. After saying ANY and a look at the count (and,
 * if it changed, lists_check) they are exact until we say NONE. After saying one chunk, that chunk
 * is ours, and about the others only chunk_give's CAS decides.
 */
#include "shmring/slab.h"

#include "shmring/clock.h"
#include "shmring/wait.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_CNT     32u
#define TRIM_CNT     4u
#define RUN_LOOK_CNT 4u
#define RUN_WORDS    2u /* a run takes two words of its list: first chunk, length */

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

static uint32_t class_blocks(uint32_t class_idx)
{
    return SHR_CHUNK_BLOCKS >> class_idx;
}

static bool word_is_free(uint64_t word)
{
    return (uint32_t)word == SHR_BLOCK_FREE;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* The generation after the one in word. */
static uint32_t generation_next(uint64_t word)
{
    uint32_t generation = (uint32_t)(word >> 32) + 1;
    return generation != 0 ? generation : 1;
}

/* Makes a block of a chunk that we own ours to fill, and names it. */
static uint64_t block_use(const struct shr_heap *heap, uint32_t class_idx, uint32_t chunk,
                          uint32_t block, uint64_t word)
{
    uint32_t generation = generation_next(word);

    shr_store_relaxed(&heap->map->chunks[chunk].block[block],
                      shr_block_word(generation, SHR_BLOCK_USED));
    /* edge S2 release: the new generation before every byte that the caller fills in. */
    shr_fence_release();
    return shr_ref(generation, class_idx, chunk, block);
}

static bool chunk_is_idle(const struct shr_heap *heap, uint32_t class_idx, uint32_t chunk)
{
    const shr_a64 *block = heap->map->chunks[chunk].block;

    for (uint32_t i = 0; i < class_blocks(class_idx); i++) {
        /* edge S1 acquire: what the freer did in the block is before the chunk's next owner. */
        if (!word_is_free(shr_load_acquire(&block[i])))
            return false;
    }
    return true; /* and stays so: only we could use a block of it */
}

/* ---- recall, the owner's side ---------------------------------------------------------------- */

/* Says what we are about to touch. */
SHR_HOT void announce(const struct shr_heap *heap, uint64_t what)
{
    /* edge S9 release: the headers of our last allocation before this one. */
    shr_store_release(heap->allocating, what);
    if (SHR_UNLIKELY(heap->fence))
        shr_fence_seq_cst();
    /* edge S7 release: a recaller that we miss now sees this, by its membarrier. */
    shr_fence_compiler();
}

/* Relaxed: any other value leads to lists_check, which acquires. */
SHR_HOT bool is_recalled(const struct shr_heap *heap)
{
    return shr_load_relaxed(&heap->map->hot->recalls) != heap->recalls_seen;
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

/* A chunk comes from the pool with all words FREE, but for one case: a sweeper that was stopped for
 * two lives of the chunk may return it too soon (slab_sweep.c). Nobody has a reference then. */
static void chunk_clean(const struct shr_heap *heap, uint32_t class_idx, uint32_t chunk)
{
    shr_a64 *block = heap->map->chunks[chunk].block;

    for (uint32_t i = 0; i < class_blocks(class_idx); i++) {
        uint64_t word = shr_load_relaxed(&block[i]); /* relaxed: S3 brought the last ones */
        if (!word_is_free(word))
            shr_cas_release(&block[i], word, word & ~UINT64_C(0xffffffff));
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

/* One chunk from the pool: of this processor's node if there is one. */
static bool pool_claim(struct shr_heap *heap, uint32_t *chunk)
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

/* A run from the pool, never across nodes. Searched from the top, whereas single chunks come from
 * the bottom. Claims go upwards: of those who meet, the one that is highest wins. */
static bool run_claim(struct shr_heap *heap, uint32_t length, uint32_t *first)
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

/* Makes room for `more` words. Comes before a claim, so that what is ours is always listed. */
static int list_reserve(struct shr_heap_class *cls, uint32_t more)
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

/* Returns wholly free chunks beyond one a class. Looks at TRIM_CNT, from where it stopped. */
static SHR_COLD void trim(struct shr_heap *heap)
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

/* Looks at up to `looks` runs, from where it stopped, and returns those that are free. */
static SHR_COLD void runs_return(struct shr_heap *heap, uint32_t looks)
{
    struct shr_heap_class *cls = &heap->cls[SHR_CLASS_RUN];

    for (; looks > 0 && cls->chunk_cnt > 0; looks--) {
        if (cls->scan_chunk >= cls->chunk_cnt)
            cls->scan_chunk = 0;
        uint32_t *run = &cls->chunk[cls->scan_chunk];
        /* edge S1 acquire: what the freer did in the run is before the next owners. */
        if (!word_is_free(shr_load_acquire(&heap->map->chunks[run[0]].block[0]))) {
            cls->scan_chunk += RUN_WORDS;
            continue;
        }
        for (uint32_t i = 0; i < run[1]; i++)
            chunk_give(heap, run[0] + i);
        cls->chunk_cnt -= RUN_WORDS;
        run[0] = cls->chunk[cls->chunk_cnt];
        run[1] = cls->chunk[cls->chunk_cnt + 1];
    }
}

/* Returns every wholly free chunk and every free run. */
static void idle_return(struct shr_heap *heap)
{
    runs_return(heap, heap->cls[SHR_CLASS_RUN].chunk_cnt / RUN_WORDS);
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

    runs_return(heap, runs->chunk_cnt / RUN_WORDS);
    for (uint32_t i = 0; i < runs->chunk_cnt; i += RUN_WORDS) /* in use: nobody took any of them */
        for (uint32_t k = 0; k < runs->chunk[i + 1]; k++)
            chunk_keep(heap, runs->chunk[i] + k);
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

/* Says ANY, which lasts until the caller says NONE, and makes the lists true. */
static void lists_hold(struct shr_heap *heap, uint32_t class_idx)
{
    announce(heap, SHR_ALLOCATING_ANY);
    if (SHR_UNLIKELY(is_recalled(heap)))
        lists_check(heap, class_idx);
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
    if (SHR_LIKELY(++cls->scan_block < class_blocks(class_idx)))
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

    if (SHR_UNLIKELY(!word_is_free(word)))
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
                trim(heap);
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
    int rc = list_reserve(cls, 1);

    if (rc != 0)
        return rc;
    if (!pool_claim(heap, &chunk)) {
        heap->pool_skip = heap->map->geo.chunk_cnt / LOOK_CNT;
        return -ENOBUFS;
    }
    /* Relaxed: metrics and the sweep may see this late; takers get it with the reference. */
    shr_store32_relaxed(&heap->map->chunks[chunk].run_chunks, 0);
    shr_store32_relaxed(&heap->map->chunks[chunk].class_idx, class_idx);
    chunk_clean(heap, class_idx, chunk);
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
    uint32_t blocks = cls->chunk_cnt * class_blocks(class_idx);
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
        blocks += class_blocks(class_idx);
        looks = 0;
    }
    if (cursor_find(heap, class_idx, blocks - looks, ref))
        return 0;
    /* What we own and do not use must not be what we fail for. */
    idle_return(heap);
    int rc = class_grow(heap, class_idx, cls->scan_chunk, cls->scan_block);
    if (rc == 0)
        return cursor_find(heap, class_idx, class_blocks(class_idx), ref) ? 0 : -ENOBUFS;
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
    runs_return(heap, cls->chunk_cnt / RUN_WORDS);
    int rc = list_reserve(cls, RUN_WORDS);
    if (rc != 0 || run_claim(heap, length, first))
        return rc;
    idle_return(heap);
    if (run_claim(heap, length, first))
        return 0;
    heap->dry_seq = seq;
    note_dry(heap, SHR_CLASS_RUN, length, 2 * (uint64_t)heap->map->geo.chunk_cnt, start_ns);
    return -ENOBUFS;
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
    /* The block is free, as all are in the pool (relaxed: S3 brought us its last word); if somebody
     * damaged the word, it is free now. */
    *ref = block_use(heap, SHR_CLASS_RUN, first, 0,
                     shr_load_relaxed(&heap->map->chunks[first].block[0]));
    cls->chunk[cls->chunk_cnt] = first;
    cls->chunk[cls->chunk_cnt + 1] = length;
    cls->chunk_cnt += RUN_WORDS;
    return 0;
}

static SHR_COLD int alloc_slow(struct shr_heap *heap, uint32_t bytes, uint64_t *ref)
{
    bool is_run = bytes > SHR_CHUNK_BYTES;
    uint32_t class_idx = is_run ? SHR_CLASS_RUN : class_of(bytes);
    int rc = -EMSGSIZE;

    if (heap->map->geo.chunk_cnt == 0)
        return rc;
    lists_hold(heap, class_idx);
    if (is_run) {
        rc = run_alloc(heap, bytes, ref);
    } else {
        runs_return(heap, RUN_LOOK_CNT);
        rc = block_alloc(heap, class_idx, ref);
    }
    announce(heap, SHR_ALLOCATING_NONE);
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
    announce(heap, (uint64_t)cls->chunk[cls->scan_chunk] + 1);
    if (SHR_UNLIKELY(is_recalled(heap)) || SHR_UNLIKELY(!cursor_take(heap, class_idx, ref, &left)))
        return alloc_slow(heap, bytes, ref);
    /* edge S9 release: the header before we say that it is over. */
    shr_store_release(heap->allocating, SHR_ALLOCATING_NONE);
    if (SHR_UNLIKELY(left))
        trim(heap);
    return 0;
}

int shr_heap_init(struct shr_heap *heap, struct shr_map *map, uint64_t owner)
{
    memset(heap, 0, sizeof(*heap));
    heap->map = map;
    heap->owner = owner;
    heap->allocating = &map->peers[owner >> 48].allocating;
    heap->fence = map->geo.wakers_fence != 0 || shr_wait_register() != 0;
    /* Our slot's last owner may have died with another value here. */
    shr_store_relaxed(heap->allocating, SHR_ALLOCATING_NONE);
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
    lists_hold(heap, SHR_CLASS_RUN);
    idle_return(heap);
    announce(heap, SHR_ALLOCATING_NONE);
    for (uint32_t class_idx = 0; class_idx <= SHR_CLASS_RUN; class_idx++)
        free(heap->cls[class_idx].chunk);
    memset(heap, 0, sizeof(*heap));
    /* edge S5 release: our headers and claims before the state that shr_peer_exit stores. */
    shr_fence_release();
}
