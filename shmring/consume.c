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

/* Without drops the cell says what the hand does under drop-oldest: it is not reused before tail
 * and done are past it. */
static void read_cell(struct shr_consumer *c, struct shr_in_hand *h)
{
    struct shr_item item = {.pos = h->pos};
    struct shr_cell *cell = shr_cell_at(&c->taker.ring, h->pos);
    uint64_t number = shr_load_relaxed(&cell->word[SHR_WORD_NUMBER]);
    h->number = h->events = h->ref = 0;
    h->meta = shr_load_relaxed(&cell->word[SHR_WORD_META]);
    if (!shr_decode(c, cell, &item, h->meta, number)) /* it was valid once: damaged since then */
        return;
    shr_find_gap(c, &item, (uint32_t)number);
    h->number = item.number;
    h->events = item.events;
    h->ref = item.ref;
}

/* Event numbers and the block of an event that is finished. */
static void settle_finished(struct shr_consumer *c, const struct shr_in_hand *h)
{
    uint32_t slot = shr_meta_slot(h->meta);
    if (slot <= c->slot_cnt && h->events != 0)
        shr_store_release(&c->track[slot].seen, h->number + h->events - 1);
    if (h->ref != 0)
        shr_block_free(c->map, h->ref);
}

/* Settles the event that the last consumer had in hand. Every store can be repeated. */
static void resume_hand(struct shr_consumer *c, const struct shr_hand *hand)
{
    struct shr_tally *tally = c->tally;
    struct shr_in_hand h;
    bool in_hand = shr_hand_read(hand, &h); /* whole: its owner is dead */
    uint64_t tail = shr_load_acquire(&c->taker.ring.hot->tail);
    bool drop_oldest = c->taker.ring.drop_oldest;
    if (!in_hand || (drop_oldest ? (int64_t)(tail - h.pos) <= 0 : tail != h.pos))
        return; /* nothing in hand, or not taken yet: it is still in the ring */
    if (!drop_oldest)
        read_cell(c, &h);
    if (shr_load_relaxed(&hand->applied) == h.pos) {
        for (uint32_t i = 0; i < SHR_COL_CNT; i++)
            shr_store_release(&tally->col[i], shr_load_relaxed(&hand->after[i]));
    }
    shr_store_release(&tally->dropped, h.dropped_after);
    bool finished = sum_columns(tally) != h.sum_before;
    if (!finished && drop_oldest) {
        /* It is out of the ring, and its handlers may have run. */
        raise(&tally->col[SHR_COL_LOST_IN_CRASH], h.events);
        finished = true;
    }
    if (finished) {
        settle_finished(c, &h);
        shr_store_release(&tally->attempts, 0);
        if (!drop_oldest)
            shr_store_release(&c->taker.ring.hot->tail, h.pos + 1);
    } else {
        c->again_pos = h.pos;
    }
}

void shr_consumer_init(struct shr_consumer *c, struct shr_map *map)
{
    *c = (struct shr_consumer){
        .map = map,
        .tally = map->tally,
        .track = map->track,
        .slot_cnt = map->geo.producer_cnt,
        .topic_cnt = map->geo.topic_cnt,
        .done_batch = map->geo.capacity / 4 < SHR_DONE_BATCH ? map->geo.capacity / 4
                                                             : SHR_DONE_BATCH,
        .fence = map->geo.wakers_fence != 0,
    };
    struct shr_hand *hand = &map->hands[0];
    shr_taker_init(&c->taker, map, SHR_CONSUMER_SLOT, hand);
    resume_hand(c, hand);
    c->dropped = shr_load_relaxed(&c->tally->dropped);
    if (c->again_pos != 0)
        raise(&c->tally->attempts, 1);
    else
        shr_store_release(&hand->pos, 0);
    shr_store_release(&hand->dropped_after, c->dropped);
    for (uint32_t i = 0; i < SHR_COL_CNT; i++)
        c->col[i] = shr_load_relaxed(&c->tally->col[i]);
    c->sum = sum_columns(c->tally);
    c->next = shr_load_acquire(&c->taker.ring.hot->tail);
    shr_flush(c);
}

/* ---- taking ---------------------------------------------------------------------------------- */

SHR_COLD bool shr_decode_slow(struct shr_consumer *c, const struct shr_cell *cell,
                              struct shr_item *item)
{
    uint64_t *words = c->copy;
    shr_cell_copy(cell, words);
    item->data = (const unsigned char *)&words[SHR_WORD_BODY];
    item->ext[0] = words[SHR_CELL_WORDS - 1];
    item->ext[1] = words[SHR_CELL_WORDS - 2];
    if ((item->flags & ~SHR_FLAGS_KNOWN) != 0)
        return false;
    if ((item->flags & SHR_FLAG_SLAB) == 0)
        return item->bytes <= shr_inline_room(item->flags) && (item->flags & SHR_FLAG_BATCH) == 0;
    item->ref = words[SHR_WORD_BODY];
    item->bytes = (uint32_t)words[SHR_WORD_BODY + 1];
    if ((item->flags & SHR_FLAG_BATCH) != 0)
        item->events = (uint32_t)(words[SHR_WORD_BODY + 1] >> 32);
    if (item->events == 0 || item->bytes > c->map->geo.max_event ||
        !shr_block_valid(c->map, item->ref, item->bytes))
        return false;
    item->data = shr_block_data(c->map, item->ref);
    return true;
}

SHR_COLD uint64_t shr_number_slow(const struct shr_consumer *c, uint32_t slot, uint32_t low)
{
    /* The producer's own count says which 2³² the number is of: it is never far from what waits in
     * the ring, however many events were dropped since we saw the last one. */
    return shr_extend(shr_load_relaxed(&c->map->peers[slot].published), low);
}

/* A committed cell that no honest producer wrote: passed, counted, in no column. */
SHR_COLD void shr_pass_bad(struct shr_consumer *c, uint64_t pos)
{
    if (c->taker.ring.drop_oldest) {
        if (!shr_take_at(&c->taker, pos))
            return; /* a producer dropped it, and its block went while we looked: nothing is bad */
    } else {
        c->next = pos + 1;
        shr_store_release(&c->taker.ring.hot->tail, c->next);
    }
    raise(&c->taker.peer->bad_bytes, 1);
}

SHR_COLD void shr_note_gap(struct shr_consumer *c, uint32_t slot, uint64_t gap)
{
    c->dropped += gap; /* what the hand says since before its pos */
    shr_store_release(&c->tally->dropped, c->dropped);
    raise(&c->track[slot].dropped, gap);
}

SHR_COLD uint32_t shr_note_again(struct shr_consumer *c, uint64_t events)
{
    raise(&c->tally->redelivered, events);
    return 1 + (uint32_t)shr_load_relaxed(&c->tally->attempts);
}

/* ---- finishing ------------------------------------------------------------------------------- */

SHR_COLD void shr_leave_slow(struct shr_consumer *c, uint64_t ref)
{
    if (ref != 0) {
        shr_block_free(c->map, ref);
        shr_gate_notify(&c->map->hot->freed, c->fence);
    }
    if (c->again_pos != 0) {
        c->again_pos = 0;
        shr_store_release(&c->tally->attempts, 0);
    }
}

void shr_finish_mixed(struct shr_consumer *c, const struct shr_item *item,
                      const uint64_t add[SHR_COL_CNT])
{
    struct shr_hand *hand = c->taker.hand;
    for (uint32_t i = 0; i < SHR_COL_CNT; i++) {
        c->col[i] += add[i];
        shr_store_relaxed(&hand->after[i], c->col[i]);
    }
    shr_store_release(&hand->applied, item->pos); /* from here on it is finished */
    for (uint32_t i = 0; i < SHR_COL_CNT; i++)
        shr_store_release(&c->tally->col[i], c->col[i]);
    shr_leave_hand_as(c, item, c->taker.ring.drop_oldest);
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

void shr_rest(struct shr_consumer *c)
{
    /* Without drops a hand behind tail is an empty one.
     * edge S6 release: the block is free, and `seen` at the number, before the hand is empty. */
    if (c->taker.ring.drop_oldest)
        shr_store_release(&c->taker.hand->pos, 0);
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
