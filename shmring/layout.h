/* Every byte that geb's processes share, and nothing else. This file is the ABI.
 *
 * The segment is one file:
 *
 *     header page 0     what the bus is; written before the file has a name, then read-only
 *     hot page          head, tail, done and the words that sleepers and wakers use
 *     regions           tables, one after the other (SHR_REGION_*)
 *
 * Rules: offsets, never pointers; fixed-width integers, never size_t, enum or bool; no lock and
 * no pthread object. Words that have different writers never share a 128-byte block (two lines:
 * the adjacent-line prefetcher pulls pairs). A word that several processes may write is written
 * by compare-and-swap only, except where its row says how its writers exclude each other. A
 * reader that does not trust the writers copies a word once and checks the copy.
 *
 * "owner" in the tables is the process that holds the lock of that slot (peer.h), or a sweeper
 * that holds the lock of a dead one; "creator" writes before anybody else can see the bytes. */
#ifndef SHMRING_LAYOUT_H
#define SHMRING_LAYOUT_H

#include "shmring/atomic.h"

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

/* The tables keep their columns. */
/* clang-format off */

#define SHR_MAGIC UINT64_C(0x0053554247424547) /* "GEBGBUS\0" read as little-endian bytes */
#define SHR_LAYOUT_VERSION 1u
#define SHR_PAGE_BYTES 4096u
#define SHR_BLOCK_BYTES 128u /* writers are kept this far apart */

/* ---- limits ---------------------------------------------------------------------------------- */

#define SHR_CAPACITY_MIN 4u
#define SHR_CAPACITY_MAX (1u << 26)
#define SHR_PRODUCERS_MAX 1024u
#define SHR_TOPICS_MAX 65535u
#define SHR_NODES_MAX 8u
#define SHR_NAME_BYTES 48u      /* of a topic or a producer, with its terminating zero */
#define SHR_INLINE_BYTES 32u    /* the most that travels inside a cell */
#define SHR_CHUNK_BYTES 65536u  /* slab memory is owned and returned in chunks of this size */
#define SHR_CHUNKS_MAX (1u << 19)
#define SHR_CLASS_CNT 10u       /* block sizes 128, 256, … 65536 */
#define SHR_CLASS_RUN SHR_CLASS_CNT /* the block is a run of consecutive chunks */
#define SHR_CLASS_MIN_SHIFT 7u
#define SHR_CHUNK_BLOCKS (SHR_CHUNK_BYTES >> SHR_CLASS_MIN_SHIFT)

/* ---- policies -------------------------------------------------------------------------------- */

#define SHR_DROP_OLDEST 0u
#define SHR_BLOCK 1u
#define SHR_RETURN_ERROR 2u

/* ---- the state word of a cell: position << 6 | outcome << 3 | tag ----------------------------
 *
 * 58 bits of position last for 90 years at 10⁸ events a second. For one cell, positions never go
 * back.
 *
 *     VOID(p − N) ──publish──▶ READY(p) ──────────────take──────────────▶ (next lap)
 *     DONE(p − N)      │           └──────finished out of order──▶ DONE(p)
 *     READY(p − N)     │
 *                      └─patience─▶ REVOKED(p) ──its producer, or for a dead one the sweep──▶
 *                                   RETURNED(p) ──taker, one lap or more later──▶ VOID(t)
 */
#define SHR_TAG_VOID UINT64_C(1)
#define SHR_TAG_READY UINT64_C(2)
#define SHR_TAG_DONE UINT64_C(3)
#define SHR_TAG_REVOKED UINT64_C(4)
#define SHR_TAG_RETURNED UINT64_C(5)
#define SHR_TAG_MASK UINT64_C(7)
#define SHR_STATE_SHIFT 6u

static inline uint64_t shr_state(uint64_t pos, uint64_t tag)
{
    return pos << SHR_STATE_SHIFT | tag;
}

static inline uint64_t shr_state_pos(uint64_t state)
{
    return state >> SHR_STATE_SHIFT;
}

static inline uint64_t shr_state_tag(uint64_t state)
{
    return state & SHR_TAG_MASK;
}

/* ---- a cell: one event in one cache line ----------------------------------------------------- */

#define SHR_CELL_WORDS 7u
#define SHR_WORD_META 0u   /* topic 16 | producer slot 16 | in-line length 16 | flags 16 */
#define SHR_WORD_NUMBER 1u /* the producer's event number, mod 2³² | stamp 32 (0: not sampled) */
#define SHR_WORD_KEY 2u
#define SHR_WORD_BODY 3u /* four words of payload; or ref, length 32 | events 32, and two words */

/* Flags. Extension words stand at the end of the body: the first flagged one in the last word, the
 * next one before it. An in-line event gives payload space for them, an event in a slab none. */
#define SHR_FLAG_SLAB 0x0001u     /* the payload is in the block that body[0] names */
#define SHR_FLAG_BATCH 0x0002u    /* several events: framed, in one block */
#define SHR_FLAG_DEADLINE 0x0010u /* extension: CLOCK_MONOTONIC ns after which it expires */
#define SHR_FLAG_ID 0x0020u       /* extension: the sender's id for it */
#define SHR_FLAGS_KNOWN 0x0033u

#define SHR_STAMP_NS 16u /* unit of the stamp word: 2³² of them are 68 s */

struct shr_cell {
    /*                          off size  writer                     readers */
    shr_a64 state;            /*   0    8  all, by CAS                all */
    shr_a64 word[SHR_CELL_WORDS]; /* 8 56  who claimed the position   takers, observers */
};
static_assert(sizeof(struct shr_cell) == 64 && offsetof(struct shr_cell, word) == 8, "ABI");

/* ---- regions --------------------------------------------------------------------------------- */

#define SHR_REGION_PEERS 0u    /* struct shr_peer, slot 0 is the consumer */
#define SHR_REGION_TRACK 1u    /* struct shr_track, one for each slot */
#define SHR_REGION_HANDS 2u    /* struct shr_hand, the consumer's, one for each event in flight */
#define SHR_REGION_TOPICS 3u   /* struct shr_topic */
#define SHR_REGION_TALLY 4u    /* struct shr_tally, one; then struct shr_histogram, one */
#define SHR_REGION_HANDLERS 5u /* struct shr_handler_row */
#define SHR_REGION_ERRORS 6u   /* struct shr_error_row */
#define SHR_REGION_REPLIES 7u  /* reserved: a reply slot for each producer */
#define SHR_REGION_SHELF 8u    /* reserved: entries of events that wait outside the ring */
#define SHR_REGION_SHELF_DATA 9u /* reserved: their payloads */
#define SHR_REGION_WORKERS 10u /* reserved: one row for each worker */
#define SHR_REGION_OWNERS 11u  /* shr_a64, one for each chunk: its owner word */
#define SHR_REGION_CHUNKS 12u  /* struct shr_chunk, one for each chunk */
#define SHR_REGION_CELLS 13u   /* struct shr_cell × 2 × capacity */
#define SHR_REGION_SLABS 14u   /* the chunks themselves, node after node */
#define SHR_REGION_CNT 15u
#define SHR_REGIONS_MAX 24u

struct shr_region {
    uint64_t off;         /* from the start of the segment */
    uint32_t entry_bytes; /* distance of two entries */
    uint32_t entries;
};
static_assert(sizeof(struct shr_region) == 16, "ABI");

struct shr_node {
    uint32_t node_id; /* the kernel's number */
    uint32_t chunk_first;
    uint32_t chunk_cnt;
    uint32_t reserved;
};
static_assert(sizeof(struct shr_node) == 16, "ABI");

/* What an attaching process copies, checks, and from then on uses instead of the shared one. */
struct shr_geometry {
    /*                                        off size  writer creator; readers all, at attach */
    uint64_t segment_bytes; /*                  0    8 */
    uint64_t id[2];         /*                  8   16  random: two buses are never the same */
    uint64_t created_ns;    /*                 24    8  CLOCK_REALTIME */
    uint64_t started_ns;    /*                 32    8  CLOCK_MONOTONIC */
    uint64_t patience_ns;   /*                 40    8 */
    uint32_t policy;        /*                 48    4  SHR_DROP_OLDEST … */
    uint32_t exclusive;     /*                 52    4  1: one producer, no locked instruction */
    uint32_t capacity;      /*                 56    4  events, a power of two */
    uint32_t cell_cnt;      /*                 60    4  2 × capacity */
    uint32_t producer_cnt;  /*                 64    4  slots 1 … producer_cnt */
    uint32_t topic_cnt;     /*                 68    4  rows of the topic table */
    uint32_t max_event;     /*                 72    4  bytes */
    uint32_t page_bytes;    /*                 76    4  of the file system that backs it */
    uint32_t chunk_cnt;     /*                 80    4 */
    uint32_t node_cnt;      /*                 84    4 */
    uint32_t creator_pid;   /*                 88    4  shown, never used */
    uint32_t creator_uid;   /*                 92    4  shown, never used */
    uint32_t wakers_fence;  /*                 96    4  1: no membarrier here, wakers fence */
    uint32_t sample_shift;  /*                100    4  one event in 2^this carries a stamp */
    uint64_t reserved[3];   /*                104   24  zero */
    struct shr_node node[SHR_NODES_MAX];         /*  128  128 */
    struct shr_region region[SHR_REGIONS_MAX];   /*  256  384 */
};
static_assert(sizeof(struct shr_geometry) == 640, "ABI");
static_assert(offsetof(struct shr_geometry, policy) == 48, "ABI");
static_assert(offsetof(struct shr_geometry, creator_pid) == 88, "ABI");
static_assert(offsetof(struct shr_geometry, node) == 128, "ABI");
static_assert(offsetof(struct shr_geometry, region) == 256, "ABI");

struct shr_header {
    /*                             off size  writer   readers */
    shr_a64 magic;           /*      0    8  creator  all: stored last, with release */
    uint32_t layout_version; /*      8    4  creator  all */
    uint32_t header_bytes;   /*     12    4  creator  all */
    uint64_t reserved[14];   /*     16  112  zero */
    struct shr_geometry geometry; /* 128 640  creator  all */
};
static_assert(sizeof(struct shr_header) == 768, "ABI");
static_assert(offsetof(struct shr_header, layout_version) == 8, "ABI");
static_assert(offsetof(struct shr_header, geometry) == 128, "ABI");

/* ---- the hot page ---------------------------------------------------------------------------- */

#define SHR_ALONE __attribute__((aligned(128))) /* starts a 128-byte block of its own */

/* A place to sleep: the sleeper sets waiting, makes sure that wakers see it (wait.h), looks again,
 * then sleeps on seq. The waker takes waiting back, counts seq up and wakes all. */
struct shr_gate {
    /*                          off size  writer              readers */
    SHR_ALONE shr_a32 waiting; /* 0   4  sleepers, wakers    wakers */
    shr_a32 seq;               /* 4   4  wakers              sleepers (futex) */
};
static_assert(sizeof(struct shr_gate) == 128 && offsetof(struct shr_gate, seq) == 4, "ABI");

struct shr_hot {
    /*                            off size  writer                        readers */
    SHR_ALONE shr_a64 head;   /*    0    8  producers, fetch_add          all */
    SHR_ALONE shr_a64 tail;   /*  128    8  consumer; droppers, CAS       all */
    SHR_ALONE shr_a64 done;   /*  256    8  consumer                      producers */
    struct shr_gate bell;     /*  384  128  the consumer sleeps here */
    struct shr_gate space;    /*  512  128  blocked producers: no free position */
    struct shr_gate freed;    /*  640  128  blocked producers: no free block */
    SHR_ALONE shr_a64 epoch;  /*  768    8  consumer: counts up when the ring is started anew */
    SHR_ALONE shr_a32 closed; /*  896    4  consumer: 1 after an orderly close */
    SHR_ALONE shr_a64 recalls; /* 1024   8  recallers, fetch_add          owners of chunks */
    SHR_ALONE shr_a64 reclaiming_ns; /* 1152 8 who reclaims, CAS: since; 0  who would */
    SHR_ALONE shr_a64 reserved[96];  /* 1280 768  zero */
};
static_assert(sizeof(struct shr_hot) == 2048, "ABI");
static_assert(offsetof(struct shr_hot, tail) == 128, "ABI");
static_assert(offsetof(struct shr_hot, done) == 256, "ABI");
static_assert(offsetof(struct shr_hot, bell) == 384, "ABI");
static_assert(offsetof(struct shr_hot, space) == 512, "ABI");
static_assert(offsetof(struct shr_hot, freed) == 640, "ABI");
static_assert(offsetof(struct shr_hot, epoch) == 768, "ABI");
static_assert(offsetof(struct shr_hot, closed) == 896, "ABI");
static_assert(offsetof(struct shr_hot, recalls) == 1024, "ABI");
static_assert(offsetof(struct shr_hot, reclaiming_ns) == 1152, "ABI");
static_assert(offsetof(struct shr_hot, reserved) == 1280, "ABI");

#define SHR_HOT_OFF SHR_PAGE_BYTES
#define SHR_REGIONS_OFF (2u * SHR_PAGE_BYTES)

/* ---- hands: what a taker holds --------------------------------------------------------------- */

struct shr_hand {
    /*                         off size  writer owner; readers sweeper, metrics */
    shr_a64 pos;           /*    0    8  0: empty. Written last, cleared first */
    shr_a64 ref;           /*    8    8  the block, 0: the event has none */
    shr_a64 meta;          /*   16    8  the cell's SHR_WORD_META */
    shr_a64 number;        /*   24    8  of its first event, extended to 64 bits */
    shr_a64 events;        /*   32    8  how many events the cell holds */
    shr_a64 sum_before;    /*   40    8  consumer: sum of the outcome columns before this event */
    shr_a64 dropped_after; /*   48    8  consumer: the dropped column with the gap before it */
    shr_a64 applied;       /*   56    8  consumer: = pos once after[] is the truth */
    shr_a64 after[8];      /*   64   64  consumer: the outcome columns with this event */
};
static_assert(sizeof(struct shr_hand) == 128 && offsetof(struct shr_hand, after) == 64, "ABI");

/* ---- participants ---------------------------------------------------------------------------- */

#define SHR_BUSY_EXACT UINT64_C(1) /* busy = position << 1 | EXACT; 0: no claim in flight */

#define SHR_PEER_FREE 0u
#define SHR_PEER_USED 1u /* alive if the slot's lock is held, dead and not yet swept otherwise */

#define SHR_REVOKED_POS 16u

struct shr_peer {
    /*                             off size  writer  readers */
    SHR_ALONE shr_a64 busy;    /*    0    8  owner   sweeper */
    shr_a64 published;         /*    8    8  owner   metrics: number of the last committed event */
    shr_a64 bytes;             /*   16    8  owner   metrics: payload bytes committed */
    shr_a64 full;              /*   24    8  owner   metrics: times that it met a full bus */
    shr_a64 blocked_ns;        /*   32    8  owner   metrics */
    shr_a64 revoked;           /*   40    8  owner   metrics: tickets that a taker took from it */
    shr_a64 took_revoked;      /*   48    8  owner   metrics: cells that it revoked as a taker */
    shr_a64 took_returned;     /*   56    8  owner   metrics: returned cells that it cleared */
    shr_a64 bad_bytes;         /*   64    8  owner   metrics: cells that it found damaged */
    shr_a64 took_dropped;      /*   72    8  owner   metrics: events that it dropped as a taker */
    shr_a32 waiting;           /*   80    4  owner   metrics: SHR_WAIT_* */
    shr_a32 reserved_cpu;      /*   84    4  zero */
    shr_a64 allocating;        /*   88    8  owner   recallers: SHR_ALLOCATING_* or chunk + 1 */
    shr_a64 reserved_hot[4];   /*   96   32  zero */
    SHR_ALONE shr_a64 epoch;   /*  128    8  owner   counts up with each owner of the slot */
    shr_a32 state;             /*  136    4  owner   SHR_PEER_* */
    shr_a32 pid;               /*  140    4  owner   shown, never used */
    shr_a64 joined_ns;         /*  144    8  owner   CLOCK_MONOTONIC */
    shr_a64 name[6];           /*  152   48  owner   text, zero-terminated */
    shr_a64 swept;             /*  200    8  sweeper consumer: how often a dead owner was settled */
    shr_a64 reserved_id[6];    /*  208   48  zero */
    SHR_ALONE struct shr_hand hand; /* 256 128 owner  sweeper, metrics */
    /* The cells that it revoked last; entry took_revoked % SHR_REVOKED_POS is the next one. */
    SHR_ALONE shr_a64 revoked_pos[SHR_REVOKED_POS]; /* 384 128 owner  sweeper */
};
static_assert(sizeof(struct shr_peer) == 512, "ABI");
static_assert(offsetof(struct shr_peer, waiting) == 80, "ABI");
static_assert(offsetof(struct shr_peer, allocating) == 88, "ABI");
static_assert(offsetof(struct shr_peer, epoch) == 128, "ABI");
static_assert(offsetof(struct shr_peer, name) == 152, "ABI");
static_assert(offsetof(struct shr_peer, swept) == 200, "ABI");
static_assert(offsetof(struct shr_peer, hand) == 256, "ABI");
static_assert(offsetof(struct shr_peer, revoked_pos) == 384, "ABI");

#define SHR_ALLOCATING_NONE UINT64_C(0)
#define SHR_ALLOCATING_ANY UINT64_MAX /* it may use, take or give back any chunk of its own */

#define SHR_WAIT_NONE 0u
#define SHR_WAIT_SPACE 1u
#define SHR_WAIT_BLOCK 2u
#define SHR_WAIT_EVENTS 3u

/* What the consumer knows of each slot. */
struct shr_track {
    /*                         off size  writer    readers */
    shr_a64 seen;          /*    0    8  consumer  joiner, metrics: last event number taken */
    shr_a64 dropped;       /*    8    8  consumer  metrics: not exact across its deaths */
};
static_assert(sizeof(struct shr_track) == 16, "ABI");

/* ---- topics: EMPTY → WRITING(slot, epoch) → READY | DEAD, by CAS ----------------------------- */

#define SHR_TOPIC_EMPTY UINT64_C(0)
#define SHR_TOPIC_WRITING UINT64_C(1)
#define SHR_TOPIC_READY UINT64_C(2)
#define SHR_TOPIC_DEAD UINT64_C(3)
#define SHR_TOPIC_TAG_MASK UINT64_C(3) /* above it: slot 16 << 2, epoch << 18 */

struct shr_topic {
    /*                              off size  writer               readers */
    SHR_ALONE shr_a64 state;    /*    0    8  registrants, by CAS  all */
    shr_a64 name[6];            /*    8   48  who made it WRITING  all: text, zero-terminated */
    shr_a64 schema[6];          /*   56   48  who made it WRITING  all: text, empty if none */
    shr_a64 schema_bytes;       /*  104    8  who made it WRITING  all: payload size, 0 any */
    shr_a64 reserved[2];        /*  112   16  zero */
    SHR_ALONE shr_a64 delivered;/*  128    8  consumer             metrics */
    shr_a64 unhandled;          /*  136    8  consumer             metrics */
    SHR_ALONE shr_a64 dropped;  /*  256    8  droppers, fetch_add  metrics: not exact */
};
static_assert(sizeof(struct shr_topic) == 384, "ABI");
static_assert(offsetof(struct shr_topic, schema_bytes) == 104, "ABI");
static_assert(offsetof(struct shr_topic, delivered) == 128, "ABI");
static_assert(offsetof(struct shr_topic, dropped) == 256, "ABI");

/* ---- the consumer's columns (docs/architecture.md, "The account") ---------------------------- */

#define SHR_COL_DELIVERED 0u
#define SHR_COL_EXPIRED 1u
#define SHR_COL_CANCELLED 2u
#define SHR_COL_UNHANDLED 3u
#define SHR_COL_DEAD_LETTERED 4u
#define SHR_COL_LOST_IN_CRASH 5u
#define SHR_COL_CNT 6u
#define SHR_COLS_MAX 8u

struct shr_tally {
    /*                                    off size  writer consumer; readers metrics */
    SHR_ALONE shr_a64 col[SHR_COLS_MAX]; /* 0 64 outcome columns: an event raises exactly one */
    shr_a64 dropped;               /*   64    8  gaps in the producers' event numbers */
    shr_a64 errors;                /*   72    8  handlers that returned < 0 */
    shr_a64 redelivered;           /*   80    8  events handed out again after a crash */
    shr_a64 restarts;              /*   88    8  consumers that resumed after a crash */
    shr_a64 attempts;              /*   96    8  times that the event in hand killed its consumer */
    shr_a64 peak;                  /*  104    8  most positions in use, each 100 ms */
    shr_a64 sleeps;                /*  112    8  times that the consumer slept */
    shr_a64 quarantined;           /*  120    8  REVOKED cells at the last sweep */
    SHR_ALONE shr_a64 reserved[16];/*  128  128  zero */
};
static_assert(sizeof(struct shr_tally) == 256 && offsetof(struct shr_tally, dropped) == 64, "ABI");

/* Log-linear: 8 buckets for each power of two, in units of SHR_STAMP_NS. */
#define SHR_HIST_SUB_SHIFT 3u
#define SHR_HIST_BUCKETS 240u

struct shr_histogram {
    SHR_ALONE shr_a64 count; /* writer consumer; readers metrics */
    shr_a64 max;
    shr_a64 reserved[14];
    shr_a64 bucket[SHR_HIST_BUCKETS];
};
static_assert(sizeof(struct shr_histogram) == 2048, "ABI");

#define SHR_HIST_OFF sizeof(struct shr_tally) /* in SHR_REGION_TALLY */

struct shr_handler_row {
    /*                         off size  writer consumer; readers metrics */
    SHR_ALONE shr_a64 state; /*  0    8  0 unused, 1 used */
    shr_a64 topic;         /*    8    8  topic id; UINT64_MAX: the default handler */
    shr_a64 name[6];       /*   16   48  text */
    shr_a64 calls;         /*   64    8 */
    shr_a64 errors;        /*   72    8 */
    shr_a64 reserved[6];   /*   80   48  zero */
};
static_assert(sizeof(struct shr_handler_row) == 128, "ABI");

struct shr_error_row {
    /*                          off size  writer consumer; readers metrics */
    SHR_ALONE shr_a64 count; /*   0    8  stored last: 0 is an unused row */
    shr_a64 code;           /*    8    8  errno */
    shr_a64 first_ns;       /*   16    8  CLOCK_MONOTONIC */
    shr_a64 last_ns;        /*   24    8 */
    shr_a64 text[12];       /*   32   96 */
};
static_assert(sizeof(struct shr_error_row) == 128, "ABI");

/* ---- slabs ----------------------------------------------------------------------------------- */

/* A block's header word: generation 32 | state 32. A reference: generation 32 | class 4 | block 9 |
 * chunk 19. Generation 0 is never used, so no reference is 0. */
#define SHR_BLOCK_FREE 0u
#define SHR_BLOCK_USED 1u

/* A chunk's owner word, changed by CAS only:
 *     0                                                 in the pool
 *     slot 16 << 48 | epoch 48                          owned
 *     RECALLED | slot 11 << 51 | epoch 19 << 32 | recall 32   owned, and asked back
 *     ORPHAN | position                                 its owner is gone: the pool's once every
 *                                                       position before that one is taken
 * Slots are ≤ 1024, so the two flags are apart from them. No value but 0 and ORPHAN comes twice. */
#define SHR_OWNER_RECALLED (UINT64_C(1) << 63)
#define SHR_OWNER_ORPHAN (UINT64_C(1) << 62)

struct shr_chunk {
    /*                                off size  writer                     readers */
    SHR_ALONE shr_a32 class_idx;   /*   0    4  owner                      recaller, metrics */
    shr_a32 run_chunks;            /*   4    4  owner                      recaller: of a run */
    SHR_ALONE shr_a64 block[SHR_CHUNK_BLOCKS]; /* 128 4096  owner; FREE by CAS, who frees  all */
};
static_assert(sizeof(struct shr_chunk) == 4224 && offsetof(struct shr_chunk, block) == 128, "ABI");

/* clang-format on */

#endif
