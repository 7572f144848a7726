/* What must hold after somebody was killed or stopped: account, ledger and segment. */
#include "tests/crash_support.h"

int crash_account(struct crash_world *w, struct shr_account *account, uint64_t slot_accepted[4])
{
    struct shr_account own;
    struct shr_slot_account slots[4] = {{0}};
    if (account == NULL)
        account = &own;
    CRASH_EQUAL(shr_account(&w->map, account, slots), 0);
    for (uint32_t slot = 0; slot_accepted != NULL && slot < 4; slot++)
        slot_accepted[slot] = slots[slot].accepted;
    uint64_t sum = account->dropped + account->pending;
    for (uint32_t i = 0; i < SHR_COL_CNT; i++)
        sum += account->col[i];
    CRASH_EQUAL(account->accepted, sum);
    return 0;
}

int crash_account_agrees(struct crash_world *w, struct shr_account *account)
{
    uint64_t accepted[4];
    CRASH_TRY(crash_account(w, account, accepted));
    for (uint32_t slot = 1; slot <= w->map.geo.producer_cnt; slot++)
        CRASH_EQUAL(accepted[slot], w->ledger->accepted[slot]);
    return 0;
}

int crash_settle_slot(struct crash_world *w, uint32_t who, uint32_t slot, enum crash_kind kind,
                      struct shr_account *account)
{
    uint64_t accepted[4];
    CRASH_TRY(crash_account(w, account, accepted));
    uint64_t more = accepted[slot] - w->ledger->accepted[slot];
    if (more != 0)
        CRASH_EQUAL(more, crash_events(kind));
    w->ledger->accepted[slot] += more;
    w->ledger->sent[who] += (uint32_t)more;
    return 0;
}

int crash_settle(struct crash_world *w, enum crash_kind kind, struct shr_account *account)
{
    return crash_settle_slot(w, CRASH_VICTIM, w->victim_slot, kind, account);
}

static int sum_event(const struct crash_ledger *l, uint32_t who, uint32_t seq,
                     struct crash_sum *sum)
{
    bool sent = seq <= l->sent[who];
    CRASH_CHECK(l->begun[who][seq] <= sent + l->again[who][seq]);
    CRASH_CHECK(l->ended[who][seq] <= l->begun[who][seq]);
    sum->again += l->again[who][seq];
    sum->broken += (uint64_t)(l->begun[who][seq] - l->ended[who][seq]);
    if (l->ended[who][seq] != 0)
        sum->handled++;
    else if (sent && l->silent[who][seq] != 0 && l->ended[who][seq - 1] != 0)
        sum->unhandled++;
    else if (sent)
        sum->missing++;
    return 0;
}

int crash_sum(const struct crash_world *w, struct crash_sum *sum)
{
    *sum = (struct crash_sum){0};
    for (uint32_t who = 0; who < CRASH_SENDERS; who++) {
        for (uint32_t seq = 1; seq < CRASH_SEQS; seq++)
            CRASH_TRY(sum_event(w->ledger, who, seq, sum));
    }
    return 0;
}

int crash_books(struct crash_world *w, uint64_t *missing)
{
    struct shr_account account;
    struct crash_sum sum;
    CRASH_TRY(crash_account_agrees(w, &account));
    CRASH_TRY(crash_sum(w, &sum));
    CRASH_EQUAL(account.col[SHR_COL_DELIVERED], sum.handled);
    CRASH_EQUAL(account.col[SHR_COL_UNHANDLED], sum.unhandled);
    CRASH_EQUAL(account.dropped, sum.missing);
    CRASH_EQUAL(account.col[SHR_COL_LOST_IN_CRASH], 0);
    CRASH_EQUAL(account.pending, 0);
    CRASH_EQUAL(sum.again, 0);
    CRASH_EQUAL(sum.broken, 0);
    *missing = sum.missing;
    return 0;
}

/* Each cell can take the next event at its place. */
static int cells_are_clean(const struct crash_world *w)
{
    struct shr_ring ring;
    shr_ring_init(&ring, &w->map);
    uint64_t end = shr_ring_end(&ring);
    CRASH_EQUAL(shr_load_acquire(&w->map.hot->tail), end);
    CRASH_EQUAL(shr_load_acquire(ring.free), end);
    CRASH_EQUAL(shr_load_acquire(&w->map.hot->head), end);
    for (uint64_t pos = end; pos < end + ring.cell_cnt; pos++) {
        uint64_t state = shr_load_acquire(&shr_cell_at(&ring, pos)->state);
        CRASH_CHECK(shr_state_tag(state) != SHR_TAG_REVOKED);
        CRASH_CHECK(shr_state_tag(state) != SHR_TAG_RETURNED);
        CRASH_CHECK(shr_state_usable(state, pos, ring.cell_cnt));
    }
    return 0;
}

int crash_blocks_free(const struct crash_world *w)
{
    for (uint32_t i = 0; i < w->map.geo.chunk_cnt; i++) {
        for (uint32_t block = 0; block < SHR_CHUNK_BLOCKS; block++)
            CRASH_EQUAL((uint32_t)shr_load_relaxed(&w->map.chunks[i].block[block]), SHR_BLOCK_FREE);
    }
    return 0;
}

int crash_clean(struct crash_world *w)
{
    CRASH_TRY(cells_are_clean(w));
    CRASH_TRY(crash_blocks_free(w));
    for (uint32_t i = 0; i < w->map.geo.chunk_cnt; i++) {
        CRASH_EQUAL(shr_load_acquire(&w->map.owners[i]), 0);
    }
    for (uint32_t slot = 1; slot <= w->map.geo.producer_cnt; slot++) {
        const struct shr_peer *peer = &w->map.peers[slot];
        CRASH_EQUAL(shr_load32_acquire(&peer->state), SHR_PEER_FREE);
        CRASH_EQUAL(shr_load_acquire(&peer->busy), 0);
        CRASH_EQUAL(shr_load_acquire(&peer->hand.pos), 0);
        CRASH_EQUAL(shr_load32_acquire(&peer->waiting), SHR_WAIT_NONE);
        CRASH_EQUAL(shr_lock_held(&w->map, slot), 0);
    }
    CRASH_EQUAL(w->ledger->torn, 0);
    CRASH_EQUAL(w->ledger->disorder, 0);
    CRASH_EQUAL(support_entries(support_dir()), 1); /* the bus itself */
    return 0;
}

int crash_leave_clean(struct crash_world *w)
{
    CRASH_EQUAL(crash_leave(&w->other), 0);
    CRASH_EQUAL(crash_leave(&w->next), 0);
    crash_sweep(w);
    return crash_clean(w);
}

int crash_join_again(struct crash_world *w, uint32_t who, enum crash_kind kind)
{
    struct crash_sender late;
    CRASH_EQUAL(crash_join(w, &late, who), 0);
    CRASH_EQUAL(late.p->slot, w->victim_slot);
    CRASH_TRY(crash_send_and_poll(w, &late, kind));
    CRASH_TRY(crash_send_and_poll(w, &late, CRASH_INLINE));
    CRASH_EQUAL(crash_leave(&late), 0);
    return 0;
}

int crash_end(struct crash_world *w, uint64_t *missing)
{
    CRASH_TRY(crash_leave_clean(w));
    return crash_books(w, missing);
}

int crash_end_of_victim(struct crash_world *w, enum crash_kind kind_of_others, uint64_t dropped)
{
    uint64_t missing;
    crash_sweep(w);
    CRASH_TRY(crash_blocks_free(w));
    CRASH_TRY(crash_join_again(w, CRASH_LATE, w->kind));
    if (!w->exclusive)
        CRASH_TRY(crash_go_on(w, &w->other, kind_of_others, crash_laps(w, 2)));
    CRASH_TRY(crash_end(w, &missing));
    CRASH_EQUAL(missing, dropped);
    return 0;
}
