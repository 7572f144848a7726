/* Producers that died amid a call, without a tracer: a child does all stores of the call up to the
 * one behind which it shall have died, and ends. */
#include "tests/crash_support.h"

struct request {
    struct crash_world *w;
    enum crash_dead how;
};

/* Committed, and neither counted nor announced as over. */
static int leave_uncounted(struct crash_world *w, struct crash_sender *s)
{
    struct shr_peer *peer = s->p->writer.peer;
    struct shr_hot *hot = s->p->map.hot;
    uint64_t published = shr_load_relaxed(&peer->published);
    uint64_t head = shr_load_relaxed(&hot->head);
    crash_compose(w, s, w->kind);
    int rc = crash_publish_now(s, w->kind);
    shr_store_relaxed(&peer->published, published);
    if (w->exclusive)
        shr_store_relaxed(&hot->head, head);
    else
        shr_store_relaxed(&peer->busy, (shr_load_relaxed(&hot->head) - 1) << 1 | SHR_BUSY_EXACT);
    return rc;
}

void crash_half_claim(struct crash_sender *s, bool exact)
{
    struct shr_hot *hot = s->p->map.hot;
    shr_store_relaxed(&s->p->writer.peer->busy, shr_load_relaxed(&hot->head) << 1);
    uint64_t pos = shr_fetch_add_acq_rel(&hot->head, 1);
    if (exact)
        shr_store_relaxed(&s->p->writer.peer->busy, pos << 1 | SHR_BUSY_EXACT);
}

/* As shr_drop goes about it. */
int crash_half_drop(struct crash_sender *s, bool taken)
{
    struct shr_taker *k = &s->p->taker;
    uint64_t words[SHR_CELL_WORDS];
    uint64_t pos = shr_load_relaxed(&k->ring.hot->tail);
    shr_cell_copy(shr_cell_at(&k->ring, pos), words);
    shr_store_relaxed(&k->hand->ref, words[SHR_WORD_BODY]);
    shr_store_relaxed(&k->hand->meta, words[SHR_WORD_META]);
    shr_store_release(&k->hand->pos, pos);
    return !taken || shr_take_at(k, pos) ? 0 : -EIO;
}

static int die(void *arg)
{
    const struct request *r = arg;
    struct crash_world *w = r->w;
    struct crash_sender s;
    uint64_t ref;
    int rc = crash_join(w, &s, CRASH_VICTIM);
    if (rc == 0 && w->kind != CRASH_INLINE) /* a block in use that nobody will ever hear of */
        rc = shr_alloc(&s.p->heap, CRASH_BLOCK_BYTES, &ref);
    if (rc != 0 || r->how == CRASH_DEAD_IDLE)
        return -rc;
    switch (r->how) {
    case CRASH_DEAD_UNCOUNTED:
        return -leave_uncounted(w, &s);
    case CRASH_DEAD_HAND:
        return -crash_half_drop(&s, true);
    default:
        if (!w->exclusive)
            crash_half_claim(&s, r->how == CRASH_DEAD_CLAIM);
        return 0;
    }
}

int crash_let_die(struct crash_world *w, enum crash_dead how)
{
    struct request r = {.w = w, .how = how};
    struct shr_account account;
    if (how == CRASH_DEAD_NONE)
        return 0;
    int status = support_wait(support_child(die, &r));
    return status != 0 ? -status : crash_settle(w, w->kind, &account);
}
