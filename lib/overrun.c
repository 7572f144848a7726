/* What a producer does when the bus is full: the three policies. Never on the fast path. */
#include "lib/internal.h"

#include <errno.h>

#define DROPS_PER_PUBLISH 64u
/* A publish that has dropped so often without room for itself, or in so many patiences, fails: the
 * ring is damaged. An honest one gives room long before. */
#define ATTEMPTS_MAX  65536u
#define PATIENCES_MAX 128u
/* Times that reclaimed memory may go to others. */
#define RECLAIMS_MAX 16u
/* Looks in a row that found room which was gone at the attempt. */
#define LOOKS_MAX 64u
/* The consumer is gone when nobody has held its lock for so long. */
#define GONE_NS UINT64_C(1000000000)

static void count(shr_a64 *counter, uint64_t add)
{
    shr_store_relaxed(counter, shr_load_relaxed(counter) + add);
}

static bool is_cancelled(struct geb_producer *p)
{
    /* edge W3 acquire: a cancellation stays until a call has reported it. */
    if (shr_load32_acquire(&p->cancelled) == 0)
        return false;
    shr_store32_relaxed(&p->cancelled, 0);
    return true;
}

/* -EPIPE once nobody has had the consumer's role, nor waits for it, for a second. The handle
 * remembers since when, so that each call but the first learns at once. */
static int check_consumer(struct geb_producer *p, uint64_t now_ns)
{
    /* Relaxed, and before the locks: a consumer counts its epoch up when it has the lock. One that
     * comes behind this look is met by the next one. */
    uint64_t epoch = shr_load_relaxed(&p->map.peers[SHR_CONSUMER_SLOT].epoch);
    if (shr_lock_held(&p->map, SHR_CONSUMER_SLOT) != 0 ||
        shr_lock_held(&p->map, SHR_LOCK_STANDBY) != 0) {
        p->gone_since_ns = 0;
        return 0;
    }
    if (shr_load32_acquire(&p->map.hot->closed) != 0) /* edge W4 acquire */
        return gebi_fail(-ESHUTDOWN, "%s is full and was closed", p->map.path);
    if (p->gone_since_ns == 0 || p->gone_epoch != epoch) {
        p->gone_since_ns = now_ns;
        p->gone_epoch = epoch;
    }
    if (now_ns - p->gone_since_ns < GONE_NS)
        return 0;
    return gebi_fail(-EPIPE, "%s is full and has no consumer", p->map.path);
}

/* Waits in two steps, so that the caller's own attempt is the look between them: the first call
 * says that we sleep, the second one sleeps. 0: try again. */
static int wait_step(struct geb_producer *p, struct gebi_overrun *o, struct shr_gate *gate)
{
    uint64_t now_ns = shr_now_ns();
    if (is_cancelled(p))
        return gebi_fail(-ECANCELED, "geb_cancel was called");
    if (now_ns >= o->wait_until_ns)
        return gebi_fail(-ETIMEDOUT, "%s stayed full until the deadline", p->map.path);
    int rc = check_consumer(p, now_ns);
    if (rc < 0)
        return rc;
    if (!o->entered) {
        o->ticket = shr_gate_enter(gate);
        o->entered = true;
        return 0;
    }
    o->entered = false;
    o->looks = 0;
    shr_gate_sleep(gate, o->ticket, o->wait_until_ns);
    count(&p->writer.peer->blocked_ns, shr_now_ns() - now_ns);
    return 0;
}

/* The last look before a sleep or a failure. Not without end: somebody else may take the room each
 * time, and a damaged head may promise what it does not keep. */
static bool is_room_behind_done(struct geb_producer *p, struct gebi_overrun *o)
{
    /* No wake comes for what only tail shows: who sleeps looks again after its bounded sleep. */
    return o->looks++ < LOOKS_MAX && !shr_is_full_indeed(&p->writer);
}

static int block(struct geb_producer *p, struct gebi_overrun *o, bool for_block)
{
    bool may_wait = o->wait_until_ns != 0 && !gebi_is_dispatching(&p->map);
    if (may_wait && !for_block && o->spins < p->spins) {
        o->spins++;
        shr_cpu_relax();
        return 0;
    }
    if (!for_block && is_room_behind_done(p, o))
        return 0;
    if (o->wait_until_ns == 0)
        return gebi_fail(-ETIMEDOUT, "%s is full", p->map.path);
    if (!may_wait)
        return gebi_fail(-EDEADLK, "a handler of %s would wait for itself", p->map.path);
    shr_store32_relaxed(&p->writer.peer->waiting, for_block ? SHR_WAIT_BLOCK : SHR_WAIT_SPACE);
    int rc = wait_step(p, o, for_block ? &p->map.hot->freed : &p->map.hot->space);
    shr_store32_relaxed(&p->writer.peer->waiting, SHR_WAIT_NONE);
    return rc;
}

/* Whether dropping leads nowhere; tail is the one from before. Others may take the room that we
 * made, and we may be off the processor, so time alone says nothing: but an honest ring never holds
 * more than its cells (they are claimed one by one, by at most `capacity` handles, each after it
 * saw room), and what stands at tail goes in two patiences. */
static bool drops_in_vain(struct geb_producer *p, struct gebi_overrun *o, uint64_t tail)
{
    const struct shr_hot *hot = p->map.hot;
    uint64_t head = shr_load_acquire(
        &hot->head); /* before tail: so it seems no fuller than it is */
    uint64_t now_tail = shr_load_acquire(&hot->tail);
    int64_t used = (int64_t)(head - now_tail);
    if (++o->attempts > ATTEMPTS_MAX)
        return true;
    if (now_tail == tail && used >= (int64_t)p->map.geo.capacity && ++o->stuck > PATIENCES_MAX / 2)
        return true;
    if (used <= (int64_t)p->map.geo.cell_cnt)
        return false;
    /* Go on for a while: a small gap is passed, and the consumer's sweep returns its cells. */
    uint64_t now_ns = shr_now_ns();
    if (o->overfull_since_ns == 0)
        o->overfull_since_ns = now_ns;
    return now_ns - o->overfull_since_ns > PATIENCES_MAX * p->map.geo.patience_ns;
}

static int drop(struct geb_producer *p, struct gebi_overrun *o, bool for_block)
{
    if (for_block && o->drops++ >= DROPS_PER_PUBLISH) {
        /* What we dropped may have been the last that kept a chunk of somebody who is gone. */
        if (o->drops <= DROPS_PER_PUBLISH + RECLAIMS_MAX && shr_slab_reclaim(&p->heap, true))
            return 0;
        return gebi_fail(-ENOBUFS, "no block of %s came free by dropping %u events", p->map.path,
                         DROPS_PER_PUBLISH);
    }
    uint64_t tail = shr_load_relaxed(&p->map.hot->tail);
    shr_drop(&p->taker, &p->map, !for_block);
    if (drops_in_vain(p, o, tail))
        return gebi_fail(-EBADMSG, "%s stays full although it is dropped from", p->map.path);
    return 0;
}

SHR_COLD int gebi_make_room(struct geb_producer *p, int rc, struct gebi_overrun *o)
{
    bool for_block = rc == -ENOBUFS;
    if (rc == -EINTR) {
        if (++o->voids < SHR_VOIDS_MAX)
            return 0;
        return gebi_fail(-EBADMSG, "no cell of %s can be used", p->map.path);
    }
    if (!o->counted)
        count(&p->writer.peer->full, 1);
    o->counted = true;
    /* Chunks that the dead left and that idle owners keep, before anybody drops, waits or fails. */
    if (for_block && o->reclaims < RECLAIMS_MAX && shr_slab_reclaim(&p->heap, false)) {
        o->reclaims++;
        return 0;
    }
    switch (p->map.geo.policy) {
    case SHR_DROP_OLDEST:
        return drop(p, o, for_block);
    case SHR_BLOCK:
        return block(p, o, for_block);
    default:
        if (!for_block && is_room_behind_done(p, o))
            return 0;
        return gebi_fail(rc, for_block ? "%s has no free slab block" : "%s is full", p->map.path);
    }
}
