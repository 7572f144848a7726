/* Joining a bus as a producer, and leaving it. */
#include "lib/internal.h"

#include <errno.h>
#include <time.h>

#define SLOT_ATTEMPTS 4

/* Takes the first slot that nobody holds and that is clean, or can be cleaned. */
static int try_slots(struct geb_producer *p, const char *who)
{
    struct shr_ring ring;
    bool stranger = false;
    int rc = -EBUSY;
    shr_ring_init(&ring, &p->map);
    for (uint32_t slot = 1; slot <= p->map.geo.producer_cnt; slot++) {
        rc = shr_lock_take(&p->map, slot, &p->lock);
        if (rc == -EBUSY) { /* alive, or a stranger's lock: the next one */
            stranger = stranger || shr_lock_held(&p->map, slot) == 0;
            continue;
        }
        if (rc < 0)
            return gebi_fail(rc, "cannot lock slot %u of %s", slot, p->map.path);
        if (!shr_segment_is_named(&p->map))
            return gebi_fail(-ENOENT, "%s was removed just now", p->map.path);
        if (shr_sweep_slot(&p->map, &ring, slot)) {
            p->slot = slot;
            shr_peer_enter(&p->map, slot, who);
            return 0;
        }
        shr_lock_drop(&p->lock); /* what it held is in somebody else's hand yet */
        rc = -EBUSY;
    }
    if (stranger)
        return gebi_fail(p->map.geo.exclusive ? -EBUSY : -EUSERS, GEBI_STRANGER, p->map.path,
                         p->map.path);
    if (p->map.geo.exclusive)
        return gebi_fail(-EBUSY, "%s is exclusive and has its producer", p->map.path);
    return gebi_fail(-EUSERS, "all %u producer slots of %s are in use", p->map.geo.producer_cnt,
                     p->map.path);
}

/* A slot whose dead owner is being swept looks taken for some microseconds, so one refusal is not
 * believed. */
static int take_slot(struct geb_producer *p, const char *who)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    int rc = try_slots(p, who);
    for (int i = 1; i < SLOT_ATTEMPTS && (rc == -EBUSY || rc == -EUSERS); i++) {
        nanosleep(&pause, NULL);
        rc = try_slots(p, who);
    }
    return rc;
}

static void set_up(struct geb_producer *p)
{
    shr_writer_init(&p->writer, &p->map, p->slot);
    shr_taker_init(&p->taker, &p->map, p->slot, &p->map.peers[p->slot].hand);
    p->max_event = p->map.geo.max_event;
    p->spins = GEBI_SPINS;
    p->stamp_mask = (1u << p->map.geo.sample_shift) - 1;
    p->fence = shr_wait_register() != 0 || p->map.geo.wakers_fence != 0;
}

int geb_join(struct geb_producer **producer, const char *name, const char *who)
{
    char path[SHR_PATH_BYTES];
    if (producer == NULL)
        return gebi_fail(-EINVAL, "the result pointer is NULL");
    *producer = NULL;
    int rc = gebi_path(name, false, path);
    if (rc < 0)
        return rc;
    struct geb_producer *p = gebi_handle_alloc(sizeof(*p));
    if (p == NULL)
        return gebi_fail(-ENOMEM, "no memory for a producer");
    rc = shr_segment_attach(&p->map, path, true);
    if (rc < 0) {
        gebi_handle_end(p, sizeof(*p));
        return gebi_fail_file(rc, "", path);
    }
    rc = take_slot(p, who != NULL ? who : "");
    if (rc == 0) {
        uint64_t epoch = shr_load_relaxed(&p->map.peers[p->slot].epoch);
        rc = shr_heap_init(&p->heap, &p->map, shr_owner(p->slot, epoch));
    }
    if (rc < 0) {
        shr_lock_drop(&p->lock);
        shr_segment_detach(&p->map);
        gebi_handle_end(p, sizeof(*p));
        return rc;
    }
    set_up(p);
    shr_store_release(&p->life.magic, GEBI_PRODUCER_MAGIC);
    *producer = p;
    return 0;
}

int geb_leave(struct geb_producer *p)
{
    if (p == NULL)
        return 0;
    int rc = gebi_check_producer(p);
    if (rc < 0)
        return rc;
    gebi_handle_retire(&p->life); /* first: geb_cancel may be called at any moment */
    shr_heap_fini(&p->heap);
    shr_peer_exit(&p->map, p->slot);
    shr_lock_drop(&p->lock);
    shr_segment_detach(&p->map);
    gebi_handle_end(p, sizeof(*p));
    return 0;
}
