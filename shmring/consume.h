/* The consumer's side of the ring: one event after the other, each accounted for exactly once,
 * also when the consumer is killed between any two instructions.
 *
 * Every event that is taken raises exactly one outcome column of the shared tally, by its number
 * of events, with one store. Before it is handled, the consumer's hand says what the sum of all
 * columns is without it. So a successor that finds a hand knows whether its event was finished:
 * the sum has changed, or it has not.
 *
 *     next ──hand = {…, sum_before}, pos──▶ in hand ──handlers──▶ column += events
 *                                              │                     │
 *                                              │                     └──▶ block freed, tail, next
 *                                              │          its consumer died here: finished
 *                                              └─died here: Block and ReturnError hand it out
 *                 again, marked; drop-oldest counts it as lost_in_crash (it may have run)
 *
 * A cell with several events may end with several outcomes: their columns are written into the
 * hand first, then hand.applied, then the columns, which a successor repeats.
 *
 * Threads: a struct shr_consumer belongs to one thread. Its process holds the lock of slot 0.
 *
 *     while (shr_next(&c, &item) > 0) {
 *             … use item.words; handlers …
 *             shr_finish(&c, &item, SHR_COL_DELIVERED);
 *             shr_flush_batch(&c);
 *     }
 *     shr_flush(&c);
 */
#ifndef SHMRING_CONSUME_H
#define SHMRING_CONSUME_H

#include "shmring/ring.h"

/* Positions of which the producers learn at once, a quarter of the ring at most: storing each alone
 * would move the line of `done` back and forth. A producer that would fail or sleep looks at tail,
 * which shows each. */
#define SHR_DONE_BATCH 32u

/* Events that one call passes at most, since they are damaged or producers drop them first: whoever
 * goes on to write damaged cells must not keep the consumer in the call. */
#define SHR_PASSES_MAX 64u

struct shr_item {
    uint64_t pos;
    const unsigned char *data; /* valid until shr_finish */
    uint64_t number;           /* of its first event, 64 bits */
    uint64_t key;
    uint64_t ref; /* 0: in line */
    /* Not in the order of struct geb_event: gcc would copy two of these at once, and stall on
     * the two stores that it reads back. */
    uint32_t slot;
    uint32_t flags;
    uint32_t topic;
    uint32_t stamp; /* 0: not sampled */
    uint32_t bytes;
    uint32_t attempt; /* 1; more when it was in hand as a consumer died */
    uint32_t events;
    uint64_t ext[2]; /* if flagged: the extension words, [0] is the first flagged one */
};

struct shr_consumer {
    struct shr_taker taker;
    struct shr_tally *tally;
    struct shr_track *track;
    uint64_t next; /* where to look next */
    uint64_t done; /* what hot->done holds */
    uint64_t sum;  /* of the outcome columns */
    uint64_t col[SHR_COL_CNT];
    uint64_t dropped;
    uint64_t again_pos;  /* the event that was in hand when the last consumer died; 0: none */
    uint32_t done_batch; /* how far done may lag */
    uint32_t slot_cnt;   /* slots 1 … slot_cnt exist */
    uint32_t topic_cnt;
    bool fence; /* wakers must fence here */
    struct shr_map *map;
    uint64_t copy[SHR_CELL_WORDS]; /* of the cell: drop-oldest, and events with flags */
};

/* Resumes where the last consumer stopped or died. The caller holds the lock of slot 0 and entered
 * it. Can be repeated: a death inside it changes nothing for the next. */
void shr_consumer_init(struct shr_consumer *c, struct shr_map *map);

/* The rare parts of shr_next and shr_finish. */
uint64_t shr_number_slow(const struct shr_consumer *c, uint32_t slot, uint32_t low);
bool shr_decode_slow(struct shr_consumer *c, const struct shr_cell *cell, struct shr_item *item);
void shr_pass_bad(struct shr_consumer *c, uint64_t pos);
void shr_note_gap(struct shr_consumer *c, uint32_t slot, uint64_t gap);
uint32_t shr_note_again(struct shr_consumer *c, uint64_t events);
void shr_leave_slow(struct shr_consumer *c, uint64_t ref);

/* Fills the item from its cell, each word read once. False: no honest producer wrote this.
 * Functions that are not inlined get a copy of the item, so that the item itself stays in
 * registers. */
SHR_HOT bool shr_decode(struct shr_consumer *c, struct shr_cell *cell, struct shr_item *item,
                        uint64_t meta, uint64_t number)
{
    item->topic = shr_meta_topic(meta);
    item->slot = shr_meta_slot(meta);
    item->flags = shr_meta_flags(meta);
    item->bytes = shr_meta_bytes(meta);
    item->stamp = (uint32_t)(number >> 32);
    item->key = shr_load_relaxed(&cell->word[SHR_WORD_KEY]);
    item->data = (const unsigned char *)&cell->word[SHR_WORD_BODY];
    item->ref = 0;
    item->events = 1;
    item->attempt = 1;
    if (SHR_UNLIKELY(item->slot - 1 >= c->slot_cnt || item->topic >= c->topic_cnt))
        return false;
    if (SHR_UNLIKELY(item->flags != 0)) {
        struct shr_item copy = *item;
        if (!shr_decode_slow(c, cell, &copy))
            return false;
        *item = copy;
        return true;
    }
    return item->bytes <= SHR_INLINE_BYTES;
}

/* Event numbers between the last one that we saw of this producer and this one were dropped. */
SHR_HOT uint64_t shr_find_gap(const struct shr_consumer *c, struct shr_item *item, uint32_t low)
{
    uint64_t due = shr_load_relaxed(&c->track[item->slot].seen) + 1;
    item->number = due;
    if (SHR_LIKELY((uint32_t)due == low))
        return 0;
    item->number = shr_number_slow(c, item->slot, low);
    int64_t gap = (int64_t)(item->number - due);
    return gap > 0 ? (uint64_t)gap : 0; /* < 0: handed out again */
}

/* Drop-oldest: writes the hand, whole before its pos, then takes. False: a producer was first. */
SHR_HOT bool shr_take_in_hand(struct shr_consumer *c, const struct shr_item *item, uint64_t meta,
                              uint64_t gap)
{
    struct shr_hand *hand = c->taker.hand;
    shr_store_release(&hand->pos, 0);
    /* edge S11 release: who sees a field of this event sees that the last one's hand is gone. Also
     * for a death, which leaves an empty hand or a whole one. */
    shr_fence_release();
    shr_store_relaxed(&hand->ref, item->ref);
    shr_store_relaxed(&hand->meta, meta);
    shr_store_relaxed(&hand->number, item->number);
    shr_store_relaxed(&hand->events, item->events);
    shr_store_relaxed(&hand->sum_before, c->sum);
    shr_store_relaxed(&hand->dropped_after, c->dropped + gap);
    shr_store_release(&hand->pos, item->pos);
    if (SHR_LIKELY(shr_take_at(&c->taker, item->pos)))
        return true;
    shr_store_release(&hand->pos, 0); /* it is not in hand, nor in the account of what is */
    return false;
}

/* Without drops: the cell stays ours until tail is past it, so the hand need not repeat it. */
SHR_HOT void shr_keep_in_hand(struct shr_consumer *c, const struct shr_item *item, uint64_t gap)
{
    struct shr_hand *hand = c->taker.hand;
    if (SHR_UNLIKELY(gap != 0))
        shr_store_release(&hand->dropped_after, c->dropped + gap);
    /* A death between these two leaves a hand behind tail, which is an empty one. */
    shr_fence_compiler(); /* behind the last event's tail, also for a death */
    shr_store_relaxed(&hand->sum_before, c->sum);
    shr_store_release(&hand->pos, item->pos);
}

/* The hot functions come twice: as the loop of one policy, where drop_oldest is a constant, and
 * under the plain name, where the ring says what it is. */

/* 1: *item is the next event, whole and validated, now in hand. 0: nothing to take now, or only
 * behind SHR_PASSES_MAX that were passed. Never blocks. */
SHR_HOT int shr_next_as(struct shr_consumer *c, struct shr_item *item, bool drop_oldest)
{
    struct shr_taker *k = &c->taker;
    for (uint32_t passes = 0; passes < SHR_PASSES_MAX; passes++) {
        uint64_t pos = drop_oldest ? shr_load_relaxed(&k->ring.hot->tail) : c->next;
        bool found = shr_peek(k, &pos);
        if (SHR_UNLIKELY(!found)) {
            c->next = pos;
            return 0;
        }
        struct shr_cell *cell = shr_cell_at(&k->ring, pos);
        uint64_t meta = shr_load_relaxed(&cell->word[SHR_WORD_META]);
        uint64_t number = shr_load_relaxed(&cell->word[SHR_WORD_NUMBER]);
        item->pos = pos;
        if (SHR_UNLIKELY(!shr_decode(c, cell, item, meta, number))) {
            shr_pass_bad(c, pos);
            continue;
        }
        uint64_t gap = shr_find_gap(c, item, (uint32_t)number);
        if (drop_oldest) {
            if (SHR_LIKELY(item->flags == 0)) { /* else it was copied for decoding */
                shr_cell_copy(cell, c->copy);
                item->data = (const unsigned char *)&c->copy[SHR_WORD_BODY];
            }
            if (SHR_UNLIKELY(!shr_copy_is_of(&k->ring, pos)) ||
                SHR_UNLIKELY(!shr_take_in_hand(c, item, meta, gap)))
                continue; /* a producer dropped it first */
        } else {
            if (SHR_UNLIKELY(pos == c->again_pos)) {
                item->attempt = shr_note_again(c, item->events);
                gap = 0; /* counted when it was first in hand */
            }
            shr_keep_in_hand(c, item, gap);
        }
        if (SHR_UNLIKELY(gap != 0))
            shr_note_gap(c, item->slot, gap);
        return 1;
    }
    return 0;
}

static inline int shr_next(struct shr_consumer *c, struct shr_item *item)
{
    return shr_next_as(c, item, c->taker.ring.drop_oldest);
}

/* Everything behind the store that finished the event. */
SHR_HOT void shr_leave_hand_as(struct shr_consumer *c, const struct shr_item *item,
                               bool drop_oldest)
{
    c->sum += item->events;
    shr_store_release(&c->track[item->slot].seen, item->number + item->events - 1);
    if (SHR_UNLIKELY((item->ref | c->again_pos) != 0))
        shr_leave_slow(c, item->ref);
    c->next = item->pos + 1;
    if (!drop_oldest)
        /* edge R6 release: the hand; edge R3 release: we are done with the cell. */
        shr_store_release(&c->taker.ring.hot->tail, c->next);
}

/* The event in hand is finished with one outcome (SHR_COL_*): counted, its block freed, its
 * position given up. */
SHR_HOT void shr_finish_as(struct shr_consumer *c, const struct shr_item *item, uint32_t col,
                           bool drop_oldest)
{
    c->col[col] += item->events;
    shr_store_release(&c->tally->col[col], c->col[col]); /* from here on it is finished */
    shr_leave_hand_as(c, item, drop_oldest);
}

static inline void shr_finish(struct shr_consumer *c, const struct shr_item *item, uint32_t col)
{
    shr_finish_as(c, item, col, c->taker.ring.drop_oldest);
}

/* The same for a cell whose events ended differently: add[] has one number for each column,
 * item->events in all. */
void shr_finish_mixed(struct shr_consumer *c, const struct shr_item *item,
                      const uint64_t add[SHR_COL_CNT]);

/* Publishes how far the consumer is; when there is nothing to take, and before sleeping. */
void shr_flush(struct shr_consumer *c);

/* Between two events, before a sweep: empties the hand, which names the last one until the next one
 * is taken, and so would pin a dead producer that dropped the same event. */
void shr_rest(struct shr_consumer *c);

/* The same after each event: once in a batch. A producer that sleeps meanwhile looks at tail when
 * its bounded sleep ends. */
SHR_HOT void shr_flush_batch(struct shr_consumer *c)
{
    if (SHR_UNLIKELY(c->next - c->done >= c->done_batch) && !c->taker.ring.drop_oldest)
        shr_flush(c);
}

/* Whether nothing waits for the consumer in all of tail … head: no committed event, no full
 * ring. Before a sleep. */
bool shr_is_idle(const struct shr_consumer *c);

/* ---- for everybody who may only look --------------------------------------------------------- */

struct shr_account {
    uint64_t accepted;
    uint64_t col[SHR_COL_CNT];
    uint64_t dropped;
    uint64_t pending;
    uint64_t used; /* positions between the first pending one and head */
};

/* What one slot did: its events, and those of them that were dropped (not exact when consumers were
 * killed). */
struct shr_slot_account {
    uint64_t accepted;
    uint64_t dropped;
};

/* The account from outside. Exact at a quiet moment. Reads all cells between tail and head. slots,
 * if not NULL, gets producer_cnt + 1 rows. 0, or -ENOMEM. */
int shr_account(const struct shr_map *map, struct shr_account *account,
                struct shr_slot_account *slots);

#endif
