/* Slabs: memory for events that do not fit into a cell.
 *
 * The memory is an array of 64 KiB chunks. A chunk belongs to one participant at a time (its owner
 * word: slot and epoch, written by one CAS) and is carved into blocks of one size class. Only the
 * owner allocates from it, without locked instructions; anybody may free a block, by one CAS of
 * the block's header {generation, USED} → {generation, FREE}, which succeeds exactly once.
 *
 *     block:  {g, FREE} ──owner: plain store──▶ {g+1, USED} ──whoever frees: CAS──▶ {g+1, FREE}
 *     chunk:  0 ──CAS──▶ (slot, epoch) ──owner: wholly free, CAS──▶ 0
 *              recaller: CAS │  ▲ owner: still wanted, CAS         ▲ ▲
 *                            ▼  │                                  │ │
 *                          RECALLED ──wholly free, CAS─────────────┘ │
 *                            │                                       │
 *                            └─the owner left or died, in either─▶ ORPHAN ──sweep, CAS──┘
 *
 * Everything that an owner remembers outside the headers (which blocks look free) is private to its
 * handle, is a hint, and is rebuilt by reading the headers.
 *
 * An event larger than a chunk takes a run of consecutive chunks; block 0 of the first stands
 * for all.
 *
 * Recall. An owner that idles would keep wholly free chunks for ever, since it gives back only as
 * it allocates. Who finds no block asks them back. Owner and recaller meet without a locked
 * instruction on the owner's side:
 *
 *     owner                                       recaller
 *     allocating = chunk + 1, or ANY              each idle chunk's word: → RECALLED, by CAS
 *     compiler fence                              recalls += 1
 *     recalls as I know it? else: through the     membarrier
 *       lists, every RECALLED word back to mine,  allocating names the chunk, or ANY? leave it
 *       or the chunk to the pool, by CAS          all headers FREE? word RECALLED → 0, by CAS
 *     header {g, FREE} → {g+1, USED}
 *     allocating = NONE
 *
 * By the membarrier (edge S7) an owner that missed the count has said before that it allocates, and
 * the recaller sees that, or the USED header (edge S9) when it is over. An owner that saw the count
 * decides about each chunk by a CAS that the recaller's CAS excludes. What the owner says comes
 * before it touches a header, not after: an owner that is stopped just before the plain store of
 * USED would otherwise store into a chunk that is somebody else's by then. A stop there pins the
 * one chunk that it names (ANY: those of this owner, for a few instructions of the slow path). The
 * number of the recall in the word is never used twice, so a recaller that was stopped for hours
 * finds another word, and its CAS does nothing; who finds the word of a dead recaller puts its own
 * number into it and goes on. Where there is no membarrier, owners fence.
 *
 * Threads and processes: one struct shr_heap belongs to one thread, and a participant has one.
 * shr_block_*, the sweep and recalls may be called by all at once, whoever dies or is stopped in
 * them: every step is a CAS from a value that can only mean what the caller thinks.
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
    uint64_t owner;        /* slot << 48 | epoch: what our chunks' owner words hold */
    shr_a64 *allocating;   /* our participant's */
    uint64_t recalls_seen; /* the count of recalls at which the lists were true */
    bool fence;            /* membarrier does not reach us */
    uint32_t scan_pool;    /* where the next search for a free chunk starts */
    uint32_t pool_skip;    /* slow allocations that do without a look at the pool: it was empty */
    uint32_t trim_class;   /* where the next look for wholly free chunks goes on */
    uint32_t trim_chunk;
    uint32_t trim_kept;     /* 1: one wholly free chunk of trim_class was met and kept */
    uint32_t wanted_chunks; /* what the last allocation that found nothing lacked */
    uint32_t dry_class;     /* its class … */
    uint32_t dry_seq;       /* … hot->freed.seq before it looked everywhere … */
    uint64_t dry_until_ns;  /* … and until when it is not worth to do so again */
    uint64_t vain_ns[2];    /* when this heap reclaimed and nothing came, early and late */
    uint64_t swept_ns[2];   /* when it looked for the dead then */
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

/* The owner word of a chunk that recall number `recall` asks back from `owner`. */
static inline uint64_t shr_owner_recalled(uint64_t owner, uint32_t recall)
{
    return SHR_OWNER_RECALLED | (owner >> 48 & 0x7ff) << 51 | (owner & 0x7ffff) << 32 | recall;
}

/* Whether an owner word says that the chunk is `owner`'s, recalled or not. */
static inline bool shr_owner_is(uint64_t word, uint64_t owner)
{
    return word == owner || word >> 32 == shr_owner_recalled(owner, 0) >> 32;
}

/* A block of at least `bytes` (1 … max_event). Does not block. -ENOBUFS: no free block and no
 * free chunk (or no run of free chunks); -EMSGSIZE: larger than the slabs of any node; -ENOMEM:
 * of the process. While a look at everything would take long, found nothing a moment ago, and
 * nobody waits at hot->freed, -ENOBUFS may come after a look at the oldest blocks only. */
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

/* Copies the first bytes of a block to `to`, for who holds nothing; ref may be anything. False: the
 * block is not, or not any more, what ref names, and what was copied is void. */
bool shr_block_copy(const struct shr_map *map, uint64_t ref, void *to, uint64_t bytes);

/* Sweep of chunks. `taken` is the position before which every event has been taken (the ring's
 * `free`). Remembers the ring's end, `head` at least, for chunks whose owner is gone, and returns
 * to the pool those whose last event is taken and which the consumer has not in hand. Returns the
 * number of chunks still waiting. */
uint32_t shr_slab_sweep(struct shr_map *map, uint64_t head, uint64_t taken);

/* How many chunks the next sweep finds without an owner, whether or not it can return them. */
uint32_t shr_slab_orphans(const struct shr_map *map);

/* Asks wholly free chunks back from those who own them; returns how many came at once. Owners that
 * allocate at this moment follow by themselves. A few microseconds for each core (membarrier). */
uint32_t shr_slab_recall(struct shr_map *map);

/* For an owner to whom shr_alloc said -ENOBUFS: sweeps slots of the dead and their chunks, and if
 * that is not enough recalls. True: something came back, so try again. False: nothing did, now or
 * for this heap less than 2 ms ago, or somebody else is at it; `late` calls, the last before giving
 * up, have a time of their own. A few microseconds for each core (membarrier), and every 2 ms some
 * system calls for each participant; never waits. */
bool shr_slab_reclaim(struct shr_heap *heap, bool late);

/* Settles the hand of a dead participant. `taken` is the ring's tail, read after the death: a hand
 * at or behind it took nothing and is cleared; else the block is freed, unless the consumer, being
 * alive, has it in hand. true: the hand is empty now; false: it must wait. The caller holds the
 * slot's lock. */
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
