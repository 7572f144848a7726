/* Taking back what the dead left, on behalf of a consumer that does not run.
 *
 * The sweep needs no more than its locks: a dead slot's for the slot, none for chunks, the
 * consumer's role for cells. A repairer takes the byte SHR_LOCK_SWEEP first, so that there is one,
 * and so that a consumer which finds its role taken knows that it is for a moment. All else is the
 * sweep of a running consumer: each step can be repeated, so a repairer may die of any.
 *
 *     nobody ──SWEEP──▶ repairer ──role, if free──▶ sweeps ──role, SWEEP dropped──▶ nobody
 *                          └──────── killed anywhere: the kernel drops both ─────────┘
 */
#include "lib/internal.h"

#include <string.h>

static int check(const struct geb_repair *repair)
{
    if (repair == NULL)
        return gebi_fail(-EINVAL, "the result pointer is NULL");
    if (repair->size != sizeof(*repair))
        return gebi_fail(-EINVAL, "geb_repair.size is not %zu: start from GEB_REPAIR_INIT",
                         sizeof(*repair));
    return 0;
}

static uint32_t count_dead(struct shr_map *map)
{
    uint32_t cnt = 0;
    for (uint32_t slot = 1; slot <= map->geo.producer_cnt; slot++)
        cnt += shr_load32_acquire(&map->peers[slot].state) == SHR_PEER_USED &&
               shr_lock_held(map, slot) == 0;
    return cnt;
}

static uint32_t count_quarantined(const struct shr_map *map)
{
    uint32_t cnt = 0;
    for (uint32_t i = 0; i < map->geo.cell_cnt; i++) /* relaxed: a count of moving things */
        cnt += shr_state_tag(shr_load_relaxed(&map->cells[i].state)) == SHR_TAG_REVOKED;
    return cnt;
}

/* What is left, and who is there. own: the caller has the consumer's role. */
static void look(struct shr_map *map, bool own, struct geb_repair *repair)
{
    repair->slots_left = count_dead(map);
    repair->chunks_left = shr_slab_orphans(map);
    repair->cells_left = count_quarantined(map);
    repair->consumer_lives = !own && shr_lock_held(map, SHR_CONSUMER_SLOT) == 1;
    repair->consumer_died = !repair->consumer_lives &&
                            shr_load32_acquire(&map->peers[SHR_CONSUMER_SLOT].state) ==
                                SHR_PEER_USED;
    repair->strangers = 0;
    for (uint32_t slot = 0; slot <= map->geo.producer_cnt; slot++)
        repair->strangers += shr_lock_strange(map, slot) == 1;
}

int geb_watch_repair(struct geb_watch *watch, struct geb_repair *repair)
{
    int rc = check(repair);
    if (rc < 0)
        return rc;
    if (watch == NULL)
        return gebi_fail(-EINVAL, "the watch is NULL");
    if (watch->magic != GEBI_WATCH_MAGIC)
        return gebi_fail(-ESTALE, "the watch has ended, or this is a child of its process");
    *repair = (struct geb_repair){.size = sizeof(*repair)};
    look(&watch->map, false, repair);
    return 0;
}

uint32_t gebi_repair_sweep(struct shr_map *map, bool consumer)
{
    struct shr_ring ring;
    struct shr_sweeper sweeper = {.scan = true};
    uint32_t quarantined = 0;
    shr_ring_init(&ring, map);
    shr_sweep_dead(map, &ring, consumer);
    uint32_t orphans = shr_slab_orphans(map); /* now that the dead are seen to be gone */
    if (consumer) {
        shr_sweep(map, &ring, &sweeper, &quarantined);
        shr_store_relaxed(&map->tally->quarantined, quarantined);
    } else {
        uint64_t head = shr_load_acquire(&ring.hot->head);
        /* edge R6 acquire: what is taken, before the hands that took it. */
        shr_slab_sweep(map, head, shr_load_acquire(ring.free));
    }
    uint32_t left = shr_slab_orphans(map);
    return orphans > left ? orphans - left : 0;
}

/* First what anybody may do: for as long as nobody is the consumer, what a dead one had in hand
 * keeps nothing back. Beside others that work, or die, the counts are of moving things. */
static int repair_now(struct shr_map *map, struct geb_repair *repair)
{
    struct shr_lock role = {0};
    uint32_t dead = count_dead(map);
    uint32_t cells = count_quarantined(map);
    repair->chunks = gebi_repair_sweep(map, false);
    int rc = shr_lock_take(map, SHR_CONSUMER_SLOT, &role);
    if (rc == 0)
        repair->chunks += gebi_repair_sweep(map, true);
    look(map, rc == 0, repair);
    repair->slots = dead > repair->slots_left ? dead - repair->slots_left : 0;
    if (rc == 0 && cells > repair->cells_left)
        repair->cells = cells - repair->cells_left;
    shr_lock_drop(&role);
    return rc == -EBUSY ? 0 : rc;
}

int geb_repair(const char *name, struct geb_repair *repair)
{
    char path[SHR_PATH_BYTES];
    struct shr_map map = {0};
    struct shr_lock sweep = {0};
    int rc = check(repair);
    if (rc == 0)
        rc = gebi_path(name, false, path);
    if (rc < 0)
        return rc;
    *repair = (struct geb_repair){.size = sizeof(*repair)};
    rc = shr_segment_attach(&map, path, true);
    if (rc < 0)
        return gebi_fail_file(rc, "", path);
    rc = shr_lock_take(&map, SHR_LOCK_SWEEP, &sweep);
    if (rc == -EBUSY && shr_lock_held(&map, SHR_LOCK_SWEEP) == 0)
        rc = gebi_fail(rc, GEBI_STRANGER, path, path);
    else if (rc == -EBUSY)
        rc = gebi_fail(rc, "%s is being repaired by somebody else", path);
    else if (rc < 0)
        rc = gebi_fail(rc, "cannot lock %s: %s", path, strerror(-rc));
    else if (!shr_segment_is_named(&map))
        rc = gebi_fail(-ENOENT, "%s was removed just now", path);
    else if ((rc = repair_now(&map, repair)) < 0)
        rc = gebi_fail(rc, "cannot lock %s: %s", path, strerror(-rc));
    shr_lock_drop(&sweep);
    shr_segment_detach(&map);
    return rc;
}
