#include "shmring/consume.h"

#include "shmring/peer.h"
#include "shmring/slab.h"
#include "shmring/wait.h"

#include <string.h>

static uint64_t sum_columns(const struct shr_tally *tally)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < SHR_COL_CNT; i++)
        sum += shr_load_relaxed(&tally->col[i]);
    return sum;
}

/* Raises one counter that only the consumer writes. Release: in program order, for a death. */
static void raise(shr_a64 *counter, uint64_t add)
{
    shr_store_release(counter, shr_load_relaxed(counter) + add);
}

/* ---- resuming -------------------------------------------------------------------------------- */

/* Finishes what the columns say is finished: event numbers seen, and the block. */
static void settle_finished(struct shr_map *map, const struct shr_hand *hand)
{
    uint32_t slot = shr_meta_slot(shr_load_relaxed(&hand->meta));
    uint64_t last = shr_load_relaxed(&hand->number) + shr_load_relaxed(&hand->events) - 1;
    if (slot <= map->geo.producer_cnt)
        shr_store_release(&map->track[slot].seen, last);
    uint64_t ref = shr_load_relaxed(&hand->ref);
    if (ref != 0)
        shr_block_free(map, ref);
}

/* Settles the event that the last consumer had in hand. Every store can be repeated. */
static void resume_hand(struct shr_consumer *c, struct shr_hand *hand)
{
    struct shr_tally *tally = c->tally;
    uint64_t pos = shr_load_acquire(&hand->pos);
    uint64_t tail = shr_load_acquire(&c->taker.ring.hot->tail);
    bool drop_oldest = c->taker.ring.drop_oldest;
    if (pos == 0 || (drop_oldest && (int64_t)(tail - pos) <= 0))
        return; /* nothing in hand, or not taken yet: it is still in the ring */
    if (shr_load_relaxed(&hand->applied) == pos) {
        for (uint32_t i = 0; i < SHR_COL_CNT; i++)
            shr_store_release(&tally->col[i], shr_load_relaxed(&hand->after[i]));
    }
    shr_store_release(&tally->dropped, shr_load_relaxed(&hand->dropped_after));
    bool finished = sum_columns(tally) != shr_load_relaxed(&hand->sum_before);
    if (!finished && drop_oldest) {
        /* It is out of the ring, and its handlers may have run. */
        raise(&tally->col[SHR_COL_LOST_IN_CRASH], shr_load_relaxed(&hand->events));
        finished = true;
    }
    if (finished) {
        settle_finished(c->map, hand);
        if (!drop_oldest && (int64_t)(tail - pos) <= 0)
            shr_store_release(&c->taker.ring.hot->tail, pos + 1);
        shr_store_release(&tally->attempts, 0);
    } else {
        c->again_pos = pos;
    }
}

void shr_consumer_init(struct shr_consumer *c, struct shr_map *map)
{
    *c = (struct shr_consumer){.map = map, .tally = map->tally};
    struct shr_hand *hand = &map->hands[0];
    shr_taker_init(&c->taker, map, SHR_CONSUMER_SLOT, hand);
    resume_hand(c, hand);
    if (c->again_pos != 0)
        raise(&c->tally->attempts, 1);
    else
        shr_store_release(&hand->pos, 0);
    c->next = shr_load_acquire(&c->taker.ring.hot->tail);
    c->sum = sum_columns(c->tally);
    c->dropped = shr_load_relaxed(&c->tally->dropped);
    c->fence = map->geo.wakers_fence != 0;
    shr_flush(c);
}

/* ---- taking ---------------------------------------------------------------------------------- */

/* Reads the cell's words into the item and checks them. False: no honest producer wrote this. */
static bool decode(const struct shr_map *map, const uint64_t words[SHR_CELL_WORDS],
                   const unsigned char *body, struct shr_item *item)
{
    uint64_t meta = words[SHR_WORD_META];
    item->topic = shr_meta_topic(meta);
    item->slot = shr_meta_slot(meta);
    item->flags = shr_meta_flags(meta);
    item->stamp = (uint32_t)(words[SHR_WORD_NUMBER] >> 32);
    item->key = words[SHR_WORD_KEY];
    item->ext[0] = words[SHR_CELL_WORDS - 1];
    item->ext[1] = words[SHR_CELL_WORDS - 2];
    item->events = 1;
    if (item->slot == 0 || item->slot > map->geo.producer_cnt ||
        item->topic >= map->geo.topic_cnt || (item->flags & ~SHR_FLAGS_KNOWN) != 0)
        return false;
    if ((item->flags & SHR_FLAG_SLAB) == 0) {
        item->ref = 0;
        item->data = body;
        item->bytes = shr_meta_bytes(meta);
        return item->bytes <= shr_inline_room(item->flags) && (item->flags & SHR_FLAG_BATCH) == 0;
    }
    item->ref = words[SHR_WORD_BODY];
    item->bytes = (uint32_t)words[SHR_WORD_BODY + 1];
    item->events = shr_words_events(words);
    if (item->events == 0 || item->bytes > map->geo.max_event ||
        !shr_block_valid(map, item->ref, item->bytes))
        return false;
    item->data = shr_block_data(map, item->ref);
    return true;
}

/* Writes the hand, whole before its pos. */
static void take_in_hand(struct shr_consumer *c, const struct shr_item *item, uint64_t meta,
                         uint64_t gap)
{
    struct shr_hand *hand = c->taker.hand;
    shr_store_release(&hand->pos, 0);
    shr_store_relaxed(&hand->ref, item->ref);
    shr_store_relaxed(&hand->meta, meta);
    shr_store_relaxed(&hand->number, item->number);
    shr_store_relaxed(&hand->events, item->events);
    shr_store_relaxed(&hand->sum_before, c->sum);
    shr_store_relaxed(&hand->dropped_after, c->dropped + gap);
    shr_store_release(&hand->pos, item->pos);
}

/* A committed cell that no honest producer wrote: passed, counted, in no column. */
static void pass_bad(struct shr_consumer *c, uint64_t pos)
{
    raise(&c->taker.peer->bad_bytes, 1);
    if (c->taker.ring.drop_oldest) {
        shr_take_at(&c->taker, pos);
    } else {
        c->next = pos + 1;
        shr_store_release(&c->taker.ring.hot->tail, c->next);
    }
}

/* Event numbers between the last one seen of this producer and this one were dropped. */
static uint64_t find_gap(struct shr_consumer *c, struct shr_item *item, uint32_t low)
{
    uint64_t seen = shr_load_relaxed(&c->map->track[item->slot].seen);
    item->number = shr_extend(seen + 1, low);
    int64_t gap = (int64_t)(item->number - (seen + 1));
    return gap > 0 ? (uint64_t)gap : 0; /* < 0: handed out again */
}

int shr_next(struct shr_consumer *c, struct shr_item *item)
{
    struct shr_taker *k = &c->taker;
    for (;;) {
        if (k->ring.drop_oldest)
            c->next = shr_load_relaxed(&k->ring.hot->tail);
        if (!shr_peek(k, &c->next))
            return 0;
        uint64_t pos = c->next;
        const struct shr_cell *cell = shr_cell_at(&k->ring, pos);
        uint64_t *words = c->body;
        shr_cell_copy(cell, words);
        if (SHR_UNLIKELY(
                !decode(c->map, words, (const unsigned char *)&words[SHR_WORD_BODY], item))) {
            pass_bad(c, pos);
            continue;
        }
        item->pos = pos;
        uint64_t gap = find_gap(c, item, (uint32_t)words[SHR_WORD_NUMBER]);
        item->attempt = 1;
        if (SHR_UNLIKELY(pos == c->again_pos)) {
            item->attempt = 1 + (uint32_t)shr_load_relaxed(&c->tally->attempts);
            gap = 0;
        }
        take_in_hand(c, item, words[SHR_WORD_META], gap);
        if (k->ring.drop_oldest && !shr_take_at(k, pos))
            continue; /* a producer dropped it first */
        if (SHR_UNLIKELY(gap != 0)) {
            c->dropped += gap;
            shr_store_release(&c->tally->dropped, c->dropped);
        }
        if (SHR_UNLIKELY(item->attempt > 1))
            raise(&c->tally->redelivered, item->events);
        return 1;
    }
}

/* ---- finishing ------------------------------------------------------------------------------- */

/* Everything behind the store that finished the event. */
static inline void leave_hand(struct shr_consumer *c, const struct shr_item *item)
{
    c->sum += item->events;
    shr_store_release(&c->map->track[item->slot].seen, item->number + item->events - 1);
    if (item->ref != 0) {
        shr_block_free(c->map, item->ref);
        shr_gate_notify(&c->map->hot->freed, c->fence);
    }
    if (SHR_UNLIKELY(c->again_pos != 0)) {
        c->again_pos = 0;
        shr_store_release(&c->tally->attempts, 0);
    }
    if (c->taker.ring.drop_oldest)
        return;
    c->next = item->pos + 1;
    shr_store_release(&c->taker.ring.hot->tail, c->next); /* edge R6 release */
    if (c->next - c->done >= SHR_DONE_BATCH)
        shr_flush(c);
}

void shr_finish(struct shr_consumer *c, const struct shr_item *item, uint32_t col)
{
    raise(&c->tally->col[col], item->events); /* from here on it is finished */
    leave_hand(c, item);
}

void shr_finish_mixed(struct shr_consumer *c, const struct shr_item *item,
                      const uint64_t add[SHR_COL_CNT])
{
    struct shr_hand *hand = c->taker.hand;
    for (uint32_t i = 0; i < SHR_COL_CNT; i++)
        shr_store_relaxed(&hand->after[i], shr_load_relaxed(&c->tally->col[i]) + add[i]);
    shr_store_release(&hand->applied, item->pos); /* from here on it is finished */
    for (uint32_t i = 0; i < SHR_COL_CNT; i++)
        shr_store_release(&c->tally->col[i], shr_load_relaxed(&hand->after[i]));
    leave_hand(c, item);
}

void shr_flush(struct shr_consumer *c)
{
    struct shr_hot *hot = c->taker.ring.hot;
    if (!c->taker.ring.drop_oldest) {
        if (c->done == c->next)
            return;
        c->done = c->next;
        shr_store_release(&hot->done, c->done); /* edge R3 release: we are done with those cells */
    }
    shr_gate_notify(&hot->space, c->fence);
}

bool shr_is_idle(const struct shr_consumer *c)
{
    const struct shr_ring *ring = &c->taker.ring;
    uint64_t tail = shr_load_acquire(&ring->hot->tail);
    uint64_t end = shr_ring_end(ring);
    if ((int64_t)(end - tail) >= (int64_t)ring->capacity)
        return false; /* a producer may wait for one of these positions */
    for (uint64_t pos = tail; (int64_t)(end - pos) > 0; pos++) {
        uint64_t state = shr_load_acquire(&shr_cell_at(ring, pos)->state); /* edge W1 acquire */
        if (state == shr_state(pos, SHR_TAG_READY))
            return false;
    }
    return true;
}
