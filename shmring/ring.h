/* The ring: many producers, one order, and nobody who can stop it.
 *
 * A producer claims a position p (fetch_add on head), fills the cell of p, and commits by moving
 * the cell's state word to READY(p) with a compare-and-swap. A taker (the consumer; under
 * drop-oldest also a producer that needs room) takes positions in order. If the producer of the
 * position at tail has not committed while something waits behind it, the taker is patient for
 * patience_ns, then moves the cell to REVOKED(p) and goes on. The producer's compare-and-swap
 * then fails; it gives the cell back and publishes again elsewhere. A revoked cell is
 * quarantined, because a producer that was stopped may still store into its body; it is used
 * again only when its producer gave it back, or can no longer touch it. The states of a cell are
 * drawn in layout.h.
 *
 *     claim:  free ──busy = head, inexact──▶ announced ──fetch_add, busy = p | EXACT──▶ claimed
 *     claimed ──cell usable, body, CAS READY(p)──▶ committed ──busy = 0──▶ free
 *        │            └──CAS fails: REVOKED(p) → RETURNED(p), busy = 0──▶ free, and again
 *        └──the producer died here──▶ revoked after patience, returned by the sweep
 *
 * Who may do what at the same time:
 *     shr_publish            any number of processes, one thread for each writer
 *     shr_peek, shr_take_at  the consumer; shr_drop: producers, drop-oldest only
 *     shr_sweep              the consumer; shr_sweep_dead: anybody; shr_sweep_slot: who holds that
 *                            slot's lock
 * Nothing here blocks or makes a system call, except that a taker spins for at most one
 * patience.
 *
 *     struct shr_writer w;                        struct shr_taker k;
 *     shr_writer_init(&w, &map, slot);            shr_taker_init(&k, &map, 0, hand);
 *     words[…] = …;                               t = shr_load_relaxed(&k.ring.hot->tail);
 *     int64_t p = shr_publish(&w, words, 1);      if (shr_peek(&k, &t)) … cell of t is READY(t)
 */
#ifndef SHMRING_RING_H
#define SHMRING_RING_H

#include "shmring/segment.h"

#include <errno.h>

/* ---- packing --------------------------------------------------------------------------------- */

static inline uint64_t shr_meta(uint32_t topic, uint32_t slot, uint32_t inline_bytes,
                                uint32_t flags)
{
    return (uint64_t)topic | (uint64_t)slot << 16 | (uint64_t)inline_bytes << 32 |
           (uint64_t)flags << 48;
}

static inline uint32_t shr_meta_topic(uint64_t meta)
{
    return (uint32_t)meta & 0xffffu;
}

static inline uint32_t shr_meta_slot(uint64_t meta)
{
    return (uint32_t)(meta >> 16) & 0xffffu;
}

static inline uint32_t shr_meta_bytes(uint64_t meta)
{
    return (uint32_t)(meta >> 32) & 0xffffu;
}

static inline uint32_t shr_meta_flags(uint64_t meta)
{
    return (uint32_t)(meta >> 48);
}

/* Bytes of payload that fit into a cell beside the extension words that these flags say. */
static inline uint32_t shr_inline_room(uint32_t flags)
{
    uint32_t ext = (flags & SHR_FLAG_DEADLINE) / SHR_FLAG_DEADLINE +
                   (flags & SHR_FLAG_ID) / SHR_FLAG_ID;
    return SHR_INLINE_BYTES - 8 * ext;
}

/* How many events a cell holds; words are the cell's. */
static inline uint32_t shr_words_events(const uint64_t words[SHR_CELL_WORDS])
{
    bool batch = (shr_meta_flags(words[SHR_WORD_META]) & SHR_FLAG_BATCH) != 0;
    return batch ? (uint32_t)(words[SHR_WORD_BODY + 1] >> 32) : 1;
}

/* The 64-bit number whose low half is `low` and which is nearest to `near`. */
static inline uint64_t shr_extend(uint64_t near, uint32_t low)
{
    return near + (uint64_t)(int64_t)(int32_t)(low - (uint32_t)near);
}

/* Where position p lives: in plain order. Orders that keep neighbours out of one pair of lines won
 * only as long as the consumer looked too early; docs/performance.md has the measurements. */
static inline uint32_t shr_cell_index(uint64_t pos, uint32_t cell_cnt)
{
    return (uint32_t)pos & (cell_cnt - 1);
}

/* ---- a process's view of the ring ------------------------------------------------------------ */

struct shr_ring {
    struct shr_cell *cells;
    struct shr_hot *hot;
    const shr_a64 *free; /* tail under drop-oldest, else done: positions before it may be reused */
    uint32_t cell_cnt;
    uint32_t capacity;
    bool drop_oldest;
    bool exclusive;
};

static inline struct shr_cell *shr_cell_at(const struct shr_ring *ring, uint64_t pos)
{
    return &ring->cells[shr_cell_index(pos, ring->cell_cnt)];
}

void shr_ring_init(struct shr_ring *ring, const struct shr_map *map);

/* The first position that holds no committed event: head, or in exclusive mode one beyond it, if a
 * producer committed that before it moved head, or died there. */
uint64_t shr_ring_end(const struct shr_ring *ring);

/* Whether position p may be filled: its cell was left READY, DONE or VOID one lap ago. */
static inline bool shr_state_usable(uint64_t state, uint64_t pos, uint32_t cell_cnt)
{
    const uint64_t tags = 1u << SHR_TAG_READY | 1u << SHR_TAG_DONE | 1u << SHR_TAG_VOID;
    uint64_t low = state -
                   shr_state(pos - cell_cnt, 0); /* outcome and tag if the position is right */
    return low < (1u << SHR_STATE_SHIFT) && (tags >> (low & SHR_TAG_MASK) & 1) != 0;
}

/* ---- producers ------------------------------------------------------------------------------- */

struct shr_writer {
    struct shr_ring ring;
    struct shr_peer *peer;
    uint64_t free_seen; /* the latest value that we read of *ring.free, or without drops of tail */
    uint64_t next;      /* the position after our last one */
    uint64_t number;    /* of our last committed event */
    bool prefetch;      /* the processor can prefetch for writing */
    bool fence;         /* membarrier does not reach us */
};

/* The caller holds the lock of the slot and has entered it (peer.h). */
void shr_writer_init(struct shr_writer *w, const struct shr_map *map, uint32_t slot);

/* How far ahead a writer prefetches: a shared one only while it seems to be alone, an exclusive one
 * always; docs/performance.md. */
#define SHR_PREFETCH_SHARED    4u
#define SHR_PREFETCH_EXCLUSIVE 8u

/* Gives back a ticket that cannot be used or was revoked. Returns -EINTR. */
int shr_publish_void(struct shr_writer *w, uint64_t pos, struct shr_cell *cell);

/* Takes a newer value of what is free. True if there still is no room. */
static inline bool shr_has_seen_free(struct shr_writer *w, uint64_t head, uint64_t free)
{
    if ((int64_t)(free - w->free_seen) > 0)
        w->free_seen = free;
    return (int64_t)(head - w->free_seen) >= (int64_t)w->ring.capacity;
}

/* True if there is no room after a fresh look. */
SHR_HOT bool shr_is_full(struct shr_writer *w, uint64_t head)
{
    if (SHR_LIKELY((int64_t)(head - w->free_seen) < (int64_t)w->ring.capacity))
        return false;
    /* edge R3 acquire: the taker is done with those. */
    return shr_has_seen_free(w, head, shr_load_acquire(w->ring.free));
}

/* The last look of a producer that found the ring full without drops, and would sleep or fail: at
 * tail, which shows also what is finished and not in done yet. Not before, since it takes the line
 * of tail from the consumer, who writes it for each event. */
bool shr_is_full_indeed(struct shr_writer *w);

SHR_HOT void shr_fill(struct shr_cell *cell, const uint64_t words[SHR_CELL_WORDS])
{
    /* edge R4 release: the claim is visible to an observer that sees any word of the body.
     * edge R10 release: to a taker, so is that the position one lap before is taken.
     * The words are relaxed because READY publishes them. */
    shr_fence_release();
#pragma GCC unroll 7
    for (uint32_t i = 0; i < SHR_CELL_WORDS; i++)
        shr_store_relaxed(&cell->word[i], words[i]);
}

SHR_HOT int64_t shr_publish_exclusive(struct shr_writer *w, const uint64_t words[SHR_CELL_WORDS],
                                      uint32_t events)
{
    uint64_t pos = w->next;
    if (SHR_UNLIKELY(shr_is_full(w, pos)))
        return -EAGAIN;
    struct shr_cell *cell = shr_cell_at(&w->ring, pos);
    if (w->prefetch)
        shr_prefetch_write(shr_cell_at(&w->ring, pos + SHR_PREFETCH_EXCLUSIVE));
    shr_fill(cell, words);
    /* edge R2 release: whoever sees READY sees the body. */
    shr_store_release(&cell->state, shr_state(pos, SHR_TAG_READY));
    w->next = pos + 1;
    w->number += events;
    /* edge M3 release: the commit before its count; in this order also for a death. */
    shr_store_release(&w->peer->published, w->number);
    shr_store_release(&w->ring.hot->head, pos + 1);
    return (int64_t)pos;
}

/* One attempt to publish the composed words as `events` event numbers w->number + 1 …. Returns the
 * position; -EAGAIN if the ring is full (nothing was claimed); -EINTR if the ticket was void or was
 * revoked: try again. */
SHR_HOT int64_t shr_try_publish(struct shr_writer *w, const uint64_t words[SHR_CELL_WORDS],
                                uint32_t events)
{
    if (w->ring.exclusive)
        return shr_publish_exclusive(w, words, events);
    struct shr_hot *hot = w->ring.hot; /* in registers across the atomics */
    struct shr_peer *peer = w->peer;
    const uint32_t cell_cnt = w->ring.cell_cnt;
    /* Relaxed: an old head makes the ring look emptier by what others claim just now, which the
     * spare half absorbs, and makes busy more cautious. */
    uint64_t head = shr_load_relaxed(&hot->head);
    if (SHR_UNLIKELY(shr_is_full(w, head)))
        return -EAGAIN;
    struct shr_cell *cell = shr_cell_at(&w->ring, w->next); /* known before the claim, we hope */
    shr_store_release(&peer->busy, head << 1);
    /* edge R1 release: whoever sees the claim sees that we are busy at or before it.
     * edge R11 release: and what became of the event that was in the cell. */
    uint64_t pos = shr_fetch_add_acq_rel(&hot->head, 1);
    shr_store_release(&peer->busy, pos << 1 | SHR_BUSY_EXACT);
    if (SHR_UNLIKELY(w->fence))
        shr_fence_seq_cst();
    /* edge R9 release: a sweeper that misses this has revoked the cell before we look at it. */
    shr_fence_compiler();
    if (SHR_LIKELY(pos == w->next)) {
        /* Nobody claimed since our last ticket, so most likely the ones behind are ours too. */
        if (w->prefetch)
            shr_prefetch_write(shr_cell_at(&w->ring, pos + SHR_PREFETCH_SHARED));
    } else {
        cell = shr_cell_at(&w->ring, pos);
    }
    w->next = pos + 1;
    uint64_t state = shr_load_acquire(&cell->state); /* edge R5 acquire: the last lap is over */
    if (SHR_UNLIKELY(!shr_state_usable(state, pos, cell_cnt)))
        return shr_publish_void(w, pos, cell);
    shr_fill(cell, words);
    /* edge R2 release: whoever sees READY sees the body and the exact claim. */
    if (SHR_UNLIKELY(!shr_cas_release(&cell->state, state, shr_state(pos, SHR_TAG_READY))))
        return shr_publish_void(w, pos, cell);
    w->number += events;
    /* edge M3 release: the claim before its count. */
    shr_store_release(&peer->published, w->number);
    shr_store_release(&peer->busy, 0); /* a death leaves the number or the claim */
    return (int64_t)pos;
}

/* Void tickets, one after the other, after which the ring counts as damaged. Each costs an honest
 * publisher a patience, or is a cell of a stopped or dead one that the ring has not got back. */
#define SHR_VOIDS_MAX 4096u

/* The same until it is published, or the ring is full: -EAGAIN, or it is damaged: -EBADMSG. */
static inline int64_t shr_publish(struct shr_writer *w, const uint64_t words[SHR_CELL_WORDS],
                                  uint32_t events)
{
    for (uint32_t voids = 0; voids < SHR_VOIDS_MAX; voids++) {
        int64_t pos = shr_try_publish(w, words, events);
        if (SHR_LIKELY(pos != -EINTR))
            return pos;
    }
    return -EBADMSG;
}

/* ---- takers ---------------------------------------------------------------------------------- */

struct shr_taker {
    struct shr_ring ring;
    struct shr_peer *peer; /* whose counters count what this taker does */
    struct shr_hand *hand;
    uint64_t patience_ns;
    uint64_t stuck_pos;       /* the uncommitted position that we polled last */
    uint64_t waiting_pos;     /* the event that waits behind it; not behind it: none does */
    uint64_t waited_ns;       /* polling time that it has waited */
    uint64_t looked_ns;       /* when we looked last */
    uint64_t (*now_ns)(void); /* shr_now_ns; tests count polls with their own */
};

void shr_taker_init(struct shr_taker *k, const struct shr_map *map, uint32_t slot,
                    struct shr_hand *hand);

/* The rest of shr_peek: every cell that is not READY(*pos). */
bool shr_peek_slow(struct shr_taker *k, uint64_t *pos);

/* True if *pos, at or after the given one, holds a committed event that is next to be taken.
 * False: nothing to take now. Skips and revokes on the way. Drop-oldest: another taker may still
 * win it (shr_take_at). */
SHR_HOT bool shr_peek(struct shr_taker *k, uint64_t *pos)
{
    const struct shr_cell *cell = shr_cell_at(&k->ring, *pos);
    /* edge R2 acquire: the body is whole. */
    if (SHR_LIKELY(shr_load_acquire(&cell->state) == shr_state(*pos, SHR_TAG_READY)))
        return true;
    uint64_t at = *pos; /* whoever is inlined keeps *pos in a register */
    bool found = shr_peek_slow(k, &at);
    *pos = at;
    return found;
}

SHR_HOT void shr_cell_copy(const struct shr_cell *cell, uint64_t words[SHR_CELL_WORDS])
{
    /* Relaxed: READY was acquired, and under drop-oldest the copy counts only if shr_take_at
     * wins. */
#pragma GCC unroll 7
    for (uint32_t i = 0; i < SHR_CELL_WORDS; i++)
        words[i] = shr_load_relaxed(&cell->word[i]);
}

/* Whether what was copied from the cell of pos is the event of pos, and that not taken yet. Under
 * drop-oldest asked before the hand repeats the copy: a later lap's event in the hand would be
 * settled as if it were taken. */
SHR_HOT bool shr_copy_is_of(const struct shr_ring *ring, uint64_t pos)
{
    /* edge R10 acquire: had we copied a word of a later lap, we would see that pos is taken. */
    shr_fence_acquire();
    return shr_load_relaxed(&ring->hot->tail) == pos;
}

/* Drop-oldest: takes pos. False: somebody else did, and what was copied is void. */
static inline bool shr_take_at(struct shr_taker *k, uint64_t pos)
{
    /* edge R3 release: we are done with the cell; edge R6 release: our hand before our taking. */
    return shr_cas_acq_rel(&k->ring.hot->tail, pos, pos + 1);
}

/* Drop-oldest: takes the oldest event away to make room (only_if_full: unless there is room
 * already). Returns the number of events dropped with it; 0 if there was nothing to take, or
 * room appeared meanwhile. Spins for one patience at most. */
uint32_t shr_drop(struct shr_taker *k, const struct shr_map *map, bool only_if_full);

/* ---- sweep ----------------------------------------------------------------------------------- */

#define SHR_SUSPECTS 256u

/* What the consumer remembers between sweeps; private to it, rebuilt by a full scan. */
struct shr_sweeper {
    uint64_t pos[SHR_SUSPECTS]; /* positions whose cells may be REVOKED */
    uint32_t pos_cnt;
    uint32_t unlisted;                     /* quarantined cells that did not fit, as of the scan */
    bool scan;                             /* look at all cells next time */
    uint64_t seen[SHR_PRODUCERS_MAX + 1];  /* each peer's took_revoked, as far as we followed */
    uint64_t swept[SHR_PRODUCERS_MAX + 1]; /* each peer's swept, likewise */
};

/* Settles what the last owner of a slot left: its claim, its event number, its hand. The caller
 * holds the slot's lock and nobody lives in it. True: the slot is clean and FREE. False: its
 * hand must wait for others. */
bool shr_sweep_slot(struct shr_map *map, const struct shr_ring *ring, uint32_t slot);

/* Sweeps each used slot whose owner is dead. Returns how many must wait. consumer: the caller has
 * the consumer's role; anybody else may call it too. A few system calls for each used slot. */
uint32_t shr_sweep_dead(struct shr_map *map, const struct shr_ring *ring, bool consumer);

/* One sweep by the consumer: dead slots, quarantined cells, orphaned chunks. Returns what is
 * left to do: quarantined cells + dead slots + orphaned chunks; *quarantined gets the first of
 * them. A few system calls for each used slot. */
uint32_t shr_sweep(struct shr_map *map, const struct shr_ring *ring, struct shr_sweeper *sweeper,
                   uint32_t *quarantined);

#endif
