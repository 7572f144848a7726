/* The sweep: what dead and revoked producers left comes back. */
#include "shmring/peer.h"
#include "shmring/ring.h"
#include "shmring/slab.h"
#include "shmring/wait.h"

/* The dead owner claimed pos exactly. Its cell is returned at once, so that nobody need be
 * patient with it, or quarantine it for long. */
static void settle_claim(const struct shr_ring *ring, uint64_t pos)
{
    struct shr_cell *cell = shr_cell_at(ring, pos);
    uint64_t state = shr_load_acquire(&cell->state);
    /* Still uncommitted: no taker has passed pos, since to pass it one changes the state. The
     * dead do not write any more, so the cell is clean for the next lap at once. */
    if (shr_state_usable(state, pos, ring->cell_cnt)) {
        if (shr_cas_acq_rel(&cell->state, state, shr_state(pos, SHR_TAG_VOID)))
            return;
        state = shr_load_acquire(&cell->state);
    }
    /* Revoked: takers may be a lap further already, so only a taker may make it VOID. */
    if (state == shr_state(pos, SHR_TAG_REVOKED))
        shr_cas_acq_rel(&cell->state, state, shr_state(pos, SHR_TAG_RETURNED));
}

bool shr_sweep_slot(struct shr_map *map, const struct shr_ring *ring, uint32_t slot)
{
    struct shr_peer *peer = &map->peers[slot];
    if (shr_load32_acquire(&peer->state) == SHR_PEER_FREE)
        return true;
    /* Each step can be repeated, so a sweeper may die between any two of them. The number comes
     * first: it is read from the claim and its cell. */
    if (ring->exclusive) /* it may have died between READY and head */
        shr_store_release(&ring->hot->head, shr_ring_end(ring));
    shr_store_relaxed(&peer->published, shr_peer_last_number(map, slot));
    uint64_t busy = shr_load_relaxed(&peer->busy);
    if (!ring->exclusive && (busy & SHR_BUSY_EXACT) != 0)
        settle_claim(ring, busy >> 1);
    shr_store_release(&peer->busy, 0);
    /* It may have died between a revocation and the note of it: the consumer looks at all cells. */
    shr_store_release(&peer->swept, shr_load_relaxed(&peer->swept) + 1);
    /* edge R6 acquire: tail after the hand's. */
    if (!shr_hand_sweep(map, &peer->hand, shr_load_acquire(&ring->hot->tail)))
        return false;
    shr_store32_relaxed(&peer->waiting, SHR_WAIT_NONE);
    shr_peer_exit(map, slot);
    return true;
}

uint32_t shr_sweep_dead(struct shr_map *map, const struct shr_ring *ring, bool consumer)
{
    uint32_t left = 0;
    for (uint32_t slot = 1; slot <= map->geo.producer_cnt; slot++) {
        if (shr_load32_acquire(&map->peers[slot].state) == SHR_PEER_FREE)
            continue;
        struct shr_lock lock = {0};
        if (shr_lock_held(map, slot) != 0 || shr_lock_take_dead(map, slot, consumer, &lock) != 0)
            continue; /* alive, or settled by somebody else just now */
        if (!shr_sweep_slot(map, ring, slot))
            left++;
        shr_lock_drop(&lock);
    }
    return left;
}

/* What the records of those who live say of a revoked cell. The dead are swept before. */
enum claim {
    CLAIM_NONE,    /* nobody stores into it any more */
    CLAIM_INEXACT, /* somebody may have claimed it, and has not said which one */
    CLAIM_EXACT,   /* somebody claimed it, and may be storing into it */
};

static enum claim find_claim(const struct shr_map *map, uint64_t pos)
{
    enum claim found = CLAIM_NONE;
    for (uint32_t slot = 1; slot <= map->geo.producer_cnt; slot++) {
        /* edge R7 acquire: a claim that is gone left its stores behind it. */
        uint64_t busy = shr_load_acquire(&map->peers[slot].busy);
        if (busy == (pos << 1 | SHR_BUSY_EXACT))
            return CLAIM_EXACT;
        if (busy != 0 && (busy & SHR_BUSY_EXACT) == 0 && (int64_t)(pos - (busy >> 1)) >= 0)
            found = CLAIM_INEXACT;
    }
    return found;
}

/* Returns a quarantined cell that is claimed less than `least`. What pins it; CLAIM_NONE: it is in
 * quarantine no more. */
static enum claim give_back(const struct shr_map *map, const struct shr_ring *ring, uint64_t pos,
                            enum claim least)
{
    struct shr_cell *cell = shr_cell_at(ring, pos);
    /* edge R8 acquire: who revoked pos saw its claim, so we see its announcement. */
    uint64_t state = shr_load_acquire(&cell->state);
    if (state != shr_state(pos, SHR_TAG_REVOKED))
        return CLAIM_NONE;
    enum claim claim = find_claim(map, pos);
    if (claim >= least)
        return claim;
    /* edge R7 release: on behalf of the producer. If this fails, it has returned the cell. */
    shr_cas_acq_rel(&cell->state, state, shr_state(pos, SHR_TAG_RETURNED));
    return CLAIM_NONE;
}

static void suspect(struct shr_sweeper *sweeper, uint64_t pos)
{
    if (sweeper->pos_cnt == SHR_SUSPECTS) {
        sweeper->scan = true; /* too many to remember: look at all cells */
        return;
    }
    sweeper->pos[sweeper->pos_cnt++] = pos;
}

/* Learns which cells were revoked since the last sweep. */
static void gather_suspects(struct shr_map *map, const struct shr_ring *ring,
                            struct shr_sweeper *sweeper)
{
    for (uint32_t slot = 0; slot <= map->geo.producer_cnt; slot++) {
        struct shr_peer *peer = &map->peers[slot];
        uint64_t swept = shr_load_acquire(&peer->swept);
        sweeper->scan |= swept != sweeper->swept[slot];
        sweeper->swept[slot] = swept;
        uint64_t revoked = shr_load_acquire(&peer->took_revoked);
        uint64_t fresh = revoked - sweeper->seen[slot];
        sweeper->seen[slot] = revoked;
        /* The owner may be storing the next one over the oldest, hence one less than there are. */
        if (fresh >= SHR_REVOKED_POS) {
            sweeper->scan = true;
            continue;
        }
        for (uint64_t i = 1; i <= fresh; i++)
            suspect(sweeper, shr_load_relaxed(&peer->revoked_pos[(revoked - i) % SHR_REVOKED_POS]));
    }
    if (!sweeper->scan)
        return;
    sweeper->scan = false;
    sweeper->pos_cnt = 0;
    sweeper->unlisted = 0;
    for (uint32_t i = 0; i < ring->cell_cnt; i++) {
        uint64_t state = shr_load_acquire(&ring->cells[i].state);
        uint64_t pos = shr_state_pos(state);
        /* Only those that cannot come back now are remembered: they must not hide the others. */
        if (shr_state_tag(state) != SHR_TAG_REVOKED ||
            give_back(map, ring, pos, CLAIM_INEXACT) == CLAIM_NONE)
            continue;
        sweeper->unlisted += sweeper->pos_cnt == SHR_SUSPECTS;
        suspect(sweeper, pos);
    }
}

/* Returns the suspects that are claimed less than `least`. True: some are left that only an
 * inexact record pins. */
static bool return_suspects(const struct shr_map *map, const struct shr_ring *ring,
                            struct shr_sweeper *sweeper, enum claim least)
{
    uint32_t kept = 0;
    bool inexact = false;
    for (uint32_t i = 0; i < sweeper->pos_cnt; i++) {
        enum claim claim = give_back(map, ring, sweeper->pos[i], least);
        inexact |= claim == CLAIM_INEXACT;
        if (claim != CLAIM_NONE)
            sweeper->pos[kept++] = sweeper->pos[i];
    }
    sweeper->pos_cnt = kept;
    return inexact;
}

static uint32_t sweep_revoked(const struct shr_map *map, const struct shr_ring *ring,
                              struct shr_sweeper *sweeper)
{
    /* A producer that is stopped between its two announcements would pin every cell that is revoked
     * from then on, until none is left. But it has not looked at its cell yet, or its second
     * announcement is on its way to us. The barrier brings that; and who looks behind the barrier
     * sees that the cell is revoked, and leaves it alone.
     * edge R9 acquire: the records that we read now are those of the looks before the barrier. */
    if (return_suspects(map, ring, sweeper, CLAIM_INEXACT) &&
        (shr_wait_barrier() || map->geo.wakers_fence != 0))
        return_suspects(map, ring, sweeper, CLAIM_EXACT);
    return sweeper->pos_cnt;
}

uint32_t shr_sweep(struct shr_map *map, const struct shr_ring *ring, struct shr_sweeper *sweeper,
                   uint32_t *quarantined)
{
    uint32_t dead = shr_sweep_dead(map, ring, true);
    gather_suspects(map, ring, sweeper);
    *quarantined = sweep_revoked(map, ring, sweeper) + sweeper->unlisted;
    uint64_t head = shr_load_acquire(&ring->hot->head);
    uint64_t taken = shr_load_acquire(ring->free);
    return dead + *quarantined + shr_slab_sweep(map, head, taken);
}
