/* Slabs: memory for events that do not fit into a cell.
 *
 * The memory is an array of 64 KiB chunks. A chunk belongs to one participant at a time (its owner
 * word: slot and epoch, written by one CAS) and is carved into blocks of one size class. Only the
 * owner allocates from it, without locked instructions; anybody may free a block, by one CAS of
 * the block's header {generation, USED} → {generation, FREE}, which succeeds exactly once.
 *
 *     block:  {g, FREE} ──owner: plain store──▶ {g+1, USED} ──whoever frees: CAS──▶ {g+1, FREE}
 *     chunk:  0 ──CAS──▶ (slot, epoch) ──owner: wholly free, CAS──▶ 0
 *                           └─the owner died here─▶ orphan ──sweep──▶ 0
 *
 * Everything that an owner remembers outside the headers (which blocks look free) is private to its
 * handle, is a hint, and is rebuilt by reading the headers.
 *
 * An event larger than a chunk takes a run of consecutive chunks; block 0 of the first stands
 * for all.
 *
 * Threads and processes: one struct shr_heap belongs to one thread. shr_block_* may be called by
 * all.
 *
 *     uint64_t ref;
 *     rc = shr_alloc(&heap, 500, &ref);           -ENOBUFS: nothing free now
 *     memcpy(shr_block_data(map, ref), src, 500);
 *     … publish ref; the taker: shr_block_free(map, ref);
 */
#ifndef SHMRING_SLAB_H
#define SHMRING_SLAB_H

#include "shmring/segment.h"

/* Chunks of one class that this heap owns are linked privately. */
struct shr_heap_class {
    uint32_t chunk_cnt;
    uint32_t chunk_cap;
    uint32_t *chunk;     /* indices */
    uint32_t scan_chunk; /* where the next look at headers goes on: index into chunk[] … */
    uint32_t scan_block; /* … and block of it */
};

struct shr_heap {
    struct shr_map *map;
    uint64_t owner;      /* slot << 48 | epoch: what our chunks' owner words hold */
    uint32_t scan_pool;  /* where the next search for a free chunk starts */
    uint32_t pool_skip;  /* slow allocations that do without a look at the pool: it was empty */
    uint32_t trim_class; /* where the next look for wholly free chunks goes on */
    uint32_t trim_chunk;
    uint32_t trim_kept; /* 1: one wholly free chunk of trim_class was met and kept */
    struct shr_heap_class cls[SHR_CLASS_CNT + 1]; /* the last one: first chunk and length of runs */
};

static inline uint64_t shr_block_word(uint32_t generation, uint32_t state)
{
    return (uint64_t)generation << 32 | state;
}

static inline uint64_t shr_ref(uint32_t generation, uint32_t class_idx, uint32_t chunk,
                               uint32_t block)
{
    return (uint64_t)generation << 32 | (uint64_t)class_idx << 28 | (uint64_t)block << 19 | chunk;
}

static inline uint32_t shr_ref_generation(uint64_t ref)
{
    return (uint32_t)(ref >> 32);
}

static inline uint32_t shr_ref_class(uint64_t ref)
{
    return (uint32_t)(ref >> 28) & 15u;
}

static inline uint32_t shr_ref_block(uint64_t ref)
{
    return (uint32_t)(ref >> 19) & (SHR_CHUNK_BLOCKS - 1);
}

static inline uint32_t shr_ref_chunk(uint64_t ref)
{
    return (uint32_t)ref & (SHR_CHUNKS_MAX - 1);
}

/* 0; -ENOMEM. `owner` is shr_owner(slot, epoch) of the calling participant. */
int shr_heap_init(struct shr_heap *heap, struct shr_map *map, uint64_t owner);

/* Gives wholly free chunks back and forgets the rest: those are orphans that the sweep returns
 * once their last event is taken. Comes before shr_peer_exit. */
void shr_heap_fini(struct shr_heap *heap);

static inline uint64_t shr_owner(uint32_t slot, uint64_t epoch)
{
    return (uint64_t)slot << 48 | (epoch & ((UINT64_C(1) << 48) - 1));
}

/* A block of at least `bytes` (1 … max_event). Does not block. -ENOBUFS: no free block and no
 * free chunk (or no run of free chunks); -EMSGSIZE: larger than the slabs of any node; -ENOMEM:
 * of the process. */
int shr_alloc(struct shr_heap *heap, uint32_t bytes, uint64_t *ref);

/* The header of the block that ref names, or NULL if there is no such block. */
shr_a64 *shr_block_header(const struct shr_map *map, uint64_t ref);

/* Whether ref names a block inside the slabs that is large enough for `bytes` and in use with
 * that generation. References come from shared memory: check before every use. */
bool shr_block_valid(const struct shr_map *map, uint64_t ref, uint64_t bytes);

/* Address of a block that shr_block_valid accepted; 128-byte aligned. */
unsigned char *shr_block_data(const struct shr_map *map, uint64_t ref);

/* Frees; true if this call did it, false if it was free already or the reference is bad. */
bool shr_block_free(const struct shr_map *map, uint64_t ref);

/* For observers, who hold nothing: whether what they copied from a block that shr_block_valid
 * accepted is what ref names. True also if the block was freed meanwhile but not filled again. */
bool shr_block_kept(const struct shr_map *map, uint64_t ref);

/* Sweep of chunks; the caller holds SHR_LOCK_SWEEP. `taken` is the position before which every
 * event has been taken (the ring's `free`). Remembers `head` for chunks whose owner is gone, and
 * returns to the pool those whose last event is taken and which no hand names. Returns the
 * number of chunks still waiting. */
uint32_t shr_slab_sweep(struct shr_map *map, uint64_t head, uint64_t taken);

/* Frees what the hand of a dead participant names, if `taken` is past it and no other hand names
 * the block; hands of slots that nobody has locked do not count. true: the hand is empty now;
 * false: it must wait. The caller holds the sweep byte and the slot's. */
bool shr_hand_sweep(struct shr_map *map, struct shr_hand *hand, uint64_t taken);

/* Free and all blocks of each class in owned chunks, and chunks in the pool and in all: for
 * metrics, inexact while in use. Writes SHR_CLASS_CNT + 1 rows for each node, the pool's last,
 * `max` rows at most, and returns how many. Chunks that are in no row's blocks and not in the
 * pool are in runs. */
struct shr_slab_usage {
    uint32_t node;
    uint32_t block_bytes; /* 0: chunks; free: in the pool */
    uint64_t blocks;
    uint64_t free;
};
#define SHR_USAGE_ROWS ((SHR_CLASS_CNT + 1) * SHR_NODES_MAX)
uint32_t shr_slab_usage(const struct shr_map *map, struct shr_slab_usage *usage, uint32_t max);

#endif
