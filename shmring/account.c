/* The account, read from outside: by an observer, at any time, without anybody's help. */
#include "shmring/consume.h"

#include "shmring/peer.h"

#include <stdlib.h>

/* Follows one producer's event numbers: a gap was dropped. */
struct follow {
    uint64_t last; /* the last number seen */
    uint64_t dropped;
};

/* Without drops the cell says what the hand need not. False: its consumer has gone on meanwhile. */
static bool look_at_cell(const struct shr_map *map, const struct shr_ring *ring,
                         struct shr_in_hand *h)
{
    uint64_t words[SHR_CELL_WORDS];
    shr_cell_copy(shr_cell_at(ring, h->pos), words);
    if (!shr_copy_is_of(ring, h->pos))
        return false;
    h->meta = words[SHR_WORD_META];
    h->events = shr_words_events(words);
    h->number = 0;
    uint32_t slot = shr_meta_slot(h->meta);
    if (slot <= map->geo.producer_cnt)
        h->number = shr_extend(shr_load_relaxed(&map->peers[slot].published),
                               (uint32_t)words[SHR_WORD_NUMBER]);
    return true;
}

/* What the consumer's hand says beyond its columns. The consumer may stand still or be dead between
 * any two stores, so its hand is read as a successor would settle it (resume_hand in consume.c).
 * Returns where the events begin that are not finished. */
static uint64_t look_at_hand(const struct shr_map *map, const struct shr_ring *ring,
                             struct follow *follow, struct shr_account *account)
{
    const struct shr_hand *hand = &map->hands[0];
    struct shr_in_hand h;
    uint64_t tail = shr_load_acquire(&ring->hot->tail);
    if (!shr_hand_read(hand, &h) ||
        (ring->drop_oldest ? (int64_t)(tail - h.pos) <= 0 : tail != h.pos))
        return tail; /* nothing in hand, or not taken yet: it is still in the ring */
    if (!ring->drop_oldest && !look_at_cell(map, ring, &h))
        return tail; /* the cells are counted as they are now */
    bool applied = shr_load_relaxed(&hand->applied) == h.pos;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < SHR_COL_CNT; i++) {
        if (applied)
            account->col[i] = shr_load_relaxed(&hand->after[i]);
        sum += account->col[i];
    }
    bool finished = sum != h.sum_before;
    account->dropped = h.dropped_after;
    bool in_ring = !finished && !ring->drop_oldest; /* its cell is counted with the others */
    uint32_t slot = shr_meta_slot(h.meta);
    if (!finished && !in_ring)
        account->pending += h.events;
    /* The gap before it is counted. */
    uint64_t last = in_ring ? h.number - 1 : h.number + h.events - 1;
    if (slot <= map->geo.producer_cnt && (int64_t)(last - follow[slot].last) > 0)
        follow[slot].last = last;
    return finished && h.pos == tail ? tail + 1 : tail;
}

/* Adds what a cell holds, if it holds a committed event at this position. */
static void count_cell(const struct shr_map *map, const struct shr_ring *ring, uint64_t pos,
                       struct follow *follow, struct shr_account *account)
{
    const struct shr_cell *cell = shr_cell_at(ring, pos);
    uint64_t state = shr_load_acquire(&cell->state); /* edge R2 acquire */
    if (state != shr_state(pos, SHR_TAG_READY))
        return;
    uint64_t words[SHR_CELL_WORDS];
    shr_cell_copy(cell, words);
    /* edge R4 acquire: if a word is of a later lap, that lap's claim is seen now. */
    shr_fence_acquire();
    uint64_t head = shr_load_relaxed(&ring->hot->head);
    uint32_t slot = shr_meta_slot(words[SHR_WORD_META]);
    if ((int64_t)(head - pos) >= (int64_t)ring->cell_cnt || slot == 0 ||
        slot > map->geo.producer_cnt)
        return;
    uint32_t events = shr_words_events(words);
    uint64_t published = shr_load_relaxed(&map->peers[slot].published);
    uint64_t number = shr_extend(published, (uint32_t)words[SHR_WORD_NUMBER]);
    int64_t gap = (int64_t)(number - follow[slot].last - 1);
    account->pending += events;
    if (gap < 0)
        return; /* its consumer died after it noted the number: it comes again */
    account->dropped += (uint64_t)gap;
    follow[slot].dropped += (uint64_t)gap;
    follow[slot].last = number + events - 1;
}

int shr_account(const struct shr_map *map, struct shr_account *account,
                struct shr_slot_account *slots)
{
    struct shr_ring ring;
    struct follow *follow = calloc((size_t)map->geo.producer_cnt + 1, sizeof(*follow));
    if (follow == NULL)
        return -ENOMEM;
    shr_ring_init(&ring, map);
    *account = (struct shr_account){.dropped = shr_load_relaxed(&map->tally->dropped)};
    for (uint32_t slot = 1; slot <= map->geo.producer_cnt; slot++)
        follow[slot].last = shr_load_relaxed(&map->track[slot].seen);
    for (uint32_t i = 0; i < SHR_COL_CNT; i++)
        account->col[i] = shr_load_relaxed(&map->tally->col[i]);
    uint64_t start = look_at_hand(map, &ring, follow, account);
    uint64_t end = shr_ring_end(&ring);
    account->used = (int64_t)(end - start) > 0 ? end - start : 0;
    for (uint64_t pos = start; (int64_t)(end - pos) > 0 && pos - start < ring.cell_cnt; pos++)
        count_cell(map, &ring, pos, follow, account);
    for (uint32_t slot = 1; slot <= map->geo.producer_cnt; slot++) {
        uint64_t last = shr_peer_last_number(map, slot);
        if ((int64_t)(follow[slot].last - last) > 0)
            last = follow[slot].last;
        account->dropped += last - follow[slot].last; /* behind the last one that is still there */
        account->accepted += last;
        if (slots == NULL)
            continue;
        slots[slot].accepted = last;
        slots[slot].dropped = shr_load_relaxed(&map->track[slot].dropped) + follow[slot].dropped +
                              (last - follow[slot].last);
    }
    free(follow);
    return 0;
}
