#include "shmring/ring.h"

#include "shmring/clock.h"
#include "shmring/slab.h"
#include "shmring/wait.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* One poll counts at most this part of a patience, so that a taker that was itself off the
 * processor does not blame the producer for that time. */
#define POLLS_PER_PATIENCE 4u

/* Counters have one writer. */
static void count(shr_a64 *counter, uint64_t add)
{
    shr_store_relaxed(counter, shr_load_relaxed(counter) + add);
}

void shr_ring_init(struct shr_ring *ring, const struct shr_map *map)
{
    *ring = (struct shr_ring){
        .cells = map->cells,
        .hot = map->hot,
        .cell_cnt = map->geo.cell_cnt,
        .capacity = map->geo.capacity,
        .drop_oldest = map->geo.policy == SHR_DROP_OLDEST,
        .exclusive = map->geo.exclusive != 0,
    };
    ring->free = ring->drop_oldest ? &ring->hot->tail : &ring->hot->done;
}

uint64_t shr_ring_end(const struct shr_ring *ring)
{
    uint64_t end = shr_load_acquire(&ring->hot->head);
    if (!ring->exclusive)
        return end;
    /* One step at most: a producer moves head before its next event, and a successor before its
     * first. More cells that claim to be next are damaged, and would keep everybody busy. */
    uint64_t state = shr_load_acquire(&shr_cell_at(ring, end)->state);
    return shr_state_pos(state) == end ? end + 1 : end; /* READY, or finished already */
}

/* ---- producers ------------------------------------------------------------------------------- */

static bool can_prefetch_write(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d;
    return __get_cpuid(0x80000001u, &a, &b, &c, &d) != 0 && (c >> 8 & 1) != 0;
#else
    return true;
#endif
}

void shr_writer_init(struct shr_writer *w, const struct shr_map *map, uint32_t slot)
{
    *w = (struct shr_writer){
        .peer = &map->peers[slot],
        .prefetch = can_prefetch_write(),
        .fence = map->geo.wakers_fence != 0 || shr_wait_register() != 0,
    };
    shr_ring_init(&w->ring, map);
    w->free_seen = shr_load_acquire(w->ring.free);
    if (w->ring.exclusive) {
        /* The last owner may have died between READY and head, or between READY and its number. */
        w->next = shr_ring_end(&w->ring);
        uint64_t head = shr_load_relaxed(&w->ring.hot->head);
        for (uint64_t pos = head; pos != w->next; pos++) {
            uint64_t words[SHR_CELL_WORDS];
            shr_cell_copy(shr_cell_at(&w->ring, pos), words);
            uint64_t published = shr_load_relaxed(&w->peer->published);
            uint64_t first = shr_extend(published, (uint32_t)words[SHR_WORD_NUMBER]);
            uint64_t last = first + shr_words_events(words) - 1;
            if ((int64_t)(last - published) > 0)
                shr_store_relaxed(&w->peer->published, last);
        }
        shr_store_release(&w->ring.hot->head, w->next);
    }
    w->number = shr_load_relaxed(&w->peer->published);
}

SHR_COLD bool shr_is_full_indeed(struct shr_writer *w)
{
    /* Relaxed: as in shr_try_publish. */
    uint64_t head = w->ring.exclusive ? w->next : shr_load_relaxed(&w->ring.hot->head);
    /* edge R3 acquire: the consumer stores tail when it is done with the cell. */
    return shr_has_seen_free(w, head, shr_load_acquire(&w->ring.hot->tail));
}

SHR_COLD int shr_publish_void(struct shr_writer *w, uint64_t pos, struct shr_cell *cell)
{
    /* edge R7 release: all that we stored into the body comes before the cell's return. */
    if (shr_cas_release(&cell->state, shr_state(pos, SHR_TAG_REVOKED),
                        shr_state(pos, SHR_TAG_RETURNED)))
        count(&w->peer->revoked, 1);
    /* edge R7 release: a sweeper that sees no claim sees that we are done with the cell. */
    shr_store_release(&w->peer->busy, 0);
    return -EINTR;
}

/* ---- takers ---------------------------------------------------------------------------------- */

void shr_taker_init(struct shr_taker *k, const struct shr_map *map, uint32_t slot,
                    struct shr_hand *hand)
{
    *k = (struct shr_taker){
        .peer = &map->peers[slot],
        .hand = hand,
        .patience_ns = map->geo.patience_ns,
        .now_ns = shr_now_ns,
    };
    shr_ring_init(&k->ring, map);
}

/* Moves tail past pos, which holds nothing to take. */
static void advance(struct shr_taker *k, uint64_t *pos)
{
    shr_a64 *tail = &k->ring.hot->tail;
    if (!k->ring.drop_oldest) {
        *pos += 1;
        shr_store_release(tail, *pos); /* edge R6 release; nothing in it was read, so R3 holds */
    } else if (shr_cas_acq_rel(tail, *pos, *pos + 1)) {
        *pos += 1;
    } else {
        *pos = shr_load_acquire(tail);
    }
}

/* The event for whose sake pos may be revoked: the last committed one behind it, since all that are
 * committed by now wait from now on, and must not each wait for the claims in front of it alone;
 * or, if the ring is full, the one that a producer cannot publish, said as the position behind the
 * last claim. 0: nothing waits. */
static uint64_t find_waiting(const struct shr_taker *k, uint64_t pos, uint64_t head)
{
    uint64_t behind = head;
    if ((int64_t)(head - pos) >=
        (int64_t)k->ring.cell_cnt) /* claims in flight, or a damaged head */
        behind = pos + k->ring.cell_cnt;
    while ((int64_t)(--behind - pos) > 0) {
        uint64_t state = shr_load_acquire(&shr_cell_at(&k->ring, behind)->state);
        if (state == shr_state(behind, SHR_TAG_READY))
            return behind;
    }
    return (int64_t)(head - pos) >= (int64_t)k->ring.capacity ? head : 0;
}

static bool somebody_waits(const struct shr_taker *k, uint64_t pos)
{
    return (int64_t)(k->waiting_pos - pos) > 0;
}

/* Whether the event that waits behind pos has waited long enough. Patience runs for the waiting
 * event, not for the cell: all uncommitted cells before it are revoked when it ends. Head is
 * read rarely, because reading it on each empty poll would take its line away from the
 * producers. */
static bool patience_is_over(struct shr_taker *k, uint64_t pos)
{
    uint64_t now_ns = k->now_ns();
    uint64_t most_ns = k->patience_ns / POLLS_PER_PATIENCE;
    if (somebody_waits(k, pos)) {
        uint64_t passed_ns = now_ns - k->looked_ns;
        k->waited_ns += passed_ns < most_ns ? passed_ns : most_ns;
        k->looked_ns = now_ns;
        return k->waited_ns >= k->patience_ns;
    }
    /* Behind a wait that is over, what was committed meanwhile waits already: look at once. */
    bool waited = k->waited_ns >= k->patience_ns;
    if (k->stuck_pos != pos && !waited) {
        k->stuck_pos = pos;
        k->looked_ns = now_ns;
    } else if (waited || now_ns - k->looked_ns >= most_ns) {
        k->stuck_pos = pos;
        /* edge R1 acquire: if head is past pos, pos is claimed and its claim announced. */
        uint64_t head = shr_load_acquire(&k->ring.hot->head);
        k->waiting_pos = find_waiting(k, pos, head);
        k->waited_ns = 0;
        k->looked_ns = now_ns;
    }
    return false;
}

/* Quarantines the cell of pos, whose state was `state`, and goes on behind it. */
static void revoke(struct shr_taker *k, uint64_t *pos, struct shr_cell *cell, uint64_t state)
{
    /* edge R8 release: our sight of the claim goes with the revocation to the sweeper. */
    if (!shr_cas_acq_rel(&cell->state, state, shr_state(*pos, SHR_TAG_REVOKED)))
        return; /* committed after all, or somebody else revoked it: look again */
    uint64_t revoked = shr_load_relaxed(&k->peer->took_revoked);
    shr_store_relaxed(&k->peer->revoked_pos[revoked % SHR_REVOKED_POS], *pos);
    shr_store_release(&k->peer->took_revoked, revoked + 1);
    advance(k, pos);
}

/* A cell at an older position that is not simply uncommitted. True: looked at, go on. False: bad
 * bytes. */
static bool pass_older(struct shr_taker *k, uint64_t *pos, struct shr_cell *cell, uint64_t state)
{
    uint64_t tag = shr_state_tag(state);
    if (tag == SHR_TAG_REVOKED) { /* quarantined: nobody can publish here */
        advance(k, pos);
        return true;
    }
    if (tag != SHR_TAG_RETURNED)
        return false;
    /* edge R7 acquire: the late producer's stores are over. edge R5 release: the next lap may
     * begin. */
    if (shr_cas_acq_rel(&cell->state, state, shr_state(*pos, SHR_TAG_VOID))) {
        count(&k->peer->took_returned, 1);
        advance(k, pos);
    }
    return true;
}

/* One look at a cell that is not READY(*pos). True: look again. False: nothing to take now. */
static bool step(struct shr_taker *k, uint64_t *pos, struct shr_cell *cell, uint64_t state)
{
    /* The second look at tail, after the state: if tail moved, another taker has passed pos, and
     * what we saw may belong to a lap for which it would be wrong to act: a stale taker would void
     * a cell in use. If tail is still at pos, whoever passes pos from now on changes the state
     * first, and our CAS fails; or passes a quarantined cell as it is, and then a VOID that comes
     * late is of a lap in which nobody can publish there. */
    if (k->ring.drop_oldest) {
        uint64_t tail = shr_load_acquire(&k->ring.hot->tail);
        if (tail != *pos) {
            *pos = tail;
            return true;
        }
    }
    if (shr_state_usable(state, *pos, k->ring.cell_cnt)) {
        if (!patience_is_over(k, *pos))
            return false;
        revoke(k, pos, cell, state);
        return true;
    }
    uint64_t head = shr_load_acquire(&k->ring.hot->head);
    uint64_t tag = shr_state_tag(state);
    if ((int64_t)(head - *pos) <= 0)
        return false;
    if (shr_state_pos(state) == *pos && tag >= SHR_TAG_VOID && tag <= SHR_TAG_RETURNED) {
        advance(k, pos);
    } else if (shr_state_pos(state) >= *pos || !pass_older(k, pos, cell, state)) {
        count(&k->peer->bad_bytes, 1);
        revoke(k, pos, cell, state);
    }
    return true;
}

SHR_COLD bool shr_peek_slow(struct shr_taker *k, uint64_t *pos)
{
    /* A lap at most: with an honest head there is never more to pass, and a damaged one must not
     * keep the caller here. */
    for (uint32_t i = 0; i < k->ring.cell_cnt; i++) {
        struct shr_cell *cell = shr_cell_at(&k->ring, *pos);
        uint64_t state = shr_load_acquire(&cell->state); /* edge R2 acquire */
        if (state == shr_state(*pos, SHR_TAG_READY))
            return true;
        if (!step(k, pos, cell, state))
            return false;
    }
    return false;
}

/* Takes pos, which is READY, to throw it away. The number of events in it, or 0 if another taker
 * won. */
static uint32_t drop_at(struct shr_taker *k, const struct shr_map *map, uint64_t pos)
{
    uint64_t words[SHR_CELL_WORDS];
    shr_cell_copy(shr_cell_at(&k->ring, pos), words);
    uint64_t meta = words[SHR_WORD_META];
    uint32_t events = shr_words_events(words);
    bool in_slab = (shr_meta_flags(meta) & SHR_FLAG_SLAB) != 0;
    struct shr_hand *hand = k->hand;
    if (!shr_copy_is_of(&k->ring, pos))
        return 0;
    if (in_slab) {
        /* From the moment that tail is past pos until the block is free, only this hand names
         * it. */
        shr_fence_compiler(); /* a death leaves an empty hand or a whole one */
        shr_store_relaxed(&hand->ref, words[SHR_WORD_BODY]);
        shr_store_relaxed(&hand->meta, meta);
        shr_store_release(&hand->pos, pos);
    }
    bool won = shr_take_at(k, pos);
    if (won && in_slab)
        shr_block_free(map, words[SHR_WORD_BODY]);
    if (in_slab)
        shr_store_release(&hand->pos,
                          0); /* edge R6 release: the block is free before the hand is */
    if (!won)
        return 0;
    count(&k->peer->took_dropped, events);
    if (shr_meta_topic(meta) < map->geo.topic_cnt)
        shr_fetch_add_relaxed(&map->topics[shr_meta_topic(meta)].dropped, events);
    return events;
}

SHR_COLD uint32_t shr_drop(struct shr_taker *k, const struct shr_map *map, bool only_if_full)
{
    uint64_t start = shr_load_acquire(&k->ring.hot->tail);
    uint64_t head = shr_load_acquire(&k->ring.hot->head);
    uint64_t pos = start;
    if (only_if_full && (int64_t)(head - start) < (int64_t)k->ring.capacity)
        return 0;
    if (!somebody_waits(k, pos)) {
        k->waiting_pos = head; /* our own event waits */
        k->waited_ns = 0;
        k->looked_ns = k->now_ns();
    }
    /* Two patiences are enough for any honest ring; a damaged one must not keep us. */
    uint64_t start_ns = k->now_ns();
    while (somebody_waits(k, pos) && k->now_ns() - start_ns <= 2 * k->patience_ns) {
        if (shr_peek(k, &pos)) {
            uint32_t events = drop_at(k, map, pos);
            if (events != 0)
                return events;
            pos = shr_load_acquire(&k->ring.hot->tail);
        }
        if (pos != start)
            return 0; /* room came in another way */
        shr_cpu_relax();
    }
    return 0;
}
