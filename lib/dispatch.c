/* The dispatcher's loop: when to look, when to pause, when to sleep. */
#include "lib/internal.h"

#include <errno.h>
#include <limits.h>

#define BATCH              64u
#define SWEEP_EVERY_NS     UINT64_C(100000000)
#define CLOCK_EVERY_EVENTS 64u /* a busy loop looks at the clock this often */

void gebi_housekeep(struct geb_bus *bus, uint64_t now_ns)
{
    bus->since_look = 0;
    if (now_ns - bus->swept_ns < SWEEP_EVERY_NS)
        return;
    bus->swept_ns = now_ns;
    struct shr_tally *tally = bus->map.tally;
    const struct shr_ring *ring = &bus->consumer.taker.ring;
    uint64_t used = shr_load_relaxed(&ring->hot->head) - shr_load_relaxed(&ring->hot->tail);
    if ((int64_t)used > 0 && used > shr_load_relaxed(&tally->peak))
        shr_store_relaxed(&tally->peak, used);
    uint32_t quarantined;
    shr_rest(&bus->consumer);
    shr_sweep(&bus->map, ring, &bus->sweeper, &quarantined);
    shr_store_relaxed(&tally->quarantined, quarantined);
}

int geb_dispatch(struct geb_bus *bus, uint32_t max)
{
    int rc = gebi_check_outside(bus);
    if (SHR_UNLIKELY(rc < 0))
        return rc;
    if (SHR_UNLIKELY(bus->flat == NULL || bus->flat_is_old)) {
        rc = gebi_flatten(bus);
        if (rc < 0)
            return rc;
    }
    if (SHR_UNLIKELY(bus->standing_by)) {
        rc = gebi_take_over_now(bus);
        if (rc <= 0)
            return rc;
    }
    uint32_t cnt = gebi_drain(bus, max != 0 && max < INT_MAX ? max : bus->map.geo.capacity);
    /* An empty look asks the clock; so does a busy loop now and then. */
    if (cnt == 0 ? ++bus->empty_looks % 64 == 0 : bus->since_look >= CLOCK_EVERY_EVENTS)
        gebi_housekeep(bus, shr_now_ns());
    return (int)cnt;
}

static void sleep_once(struct geb_bus *bus)
{
    struct shr_gate *bell = &bus->map.hot->bell;
    struct shr_peer *me = &bus->map.peers[SHR_CONSUMER_SLOT];
    uint32_t ticket = shr_gate_enter(bell);
    if (shr_is_idle(&bus->consumer) && shr_load32_acquire(&bus->stop) == 0) {
        shr_store32_relaxed(&me->waiting, SHR_WAIT_EVENTS);
        shr_gate_sleep(bell, ticket, UINT64_MAX);
        shr_store32_relaxed(&me->waiting, SHR_WAIT_NONE);
        shr_a64 *sleeps = &bus->map.tally->sleeps;
        shr_store_relaxed(sleeps, shr_load_relaxed(sleeps) + 1);
    }
    shr_gate_leave(bell);
}

int geb_run(struct geb_bus *bus)
{
    int rc = geb_take_over(bus, GEB_FOREVER);
    if (rc == 0)
        rc = gebi_flatten(bus);
    if (rc < 0)
        return rc == -ECANCELED ? 0 : rc;
    uint64_t idle_since_ns = shr_now_ns();
    bool slept = false;
    bus->running = true;
    while (shr_load32_acquire(&bus->stop) == 0) {
        uint32_t cnt = gebi_drain(bus, BATCH);
        if (cnt != 0) {
            if (bus->since_look >= CLOCK_EVERY_EVENTS)
                gebi_housekeep(bus, shr_now_ns());
            idle_since_ns = 0;
            slept = false;
            continue;
        }
        uint64_t now_ns = shr_now_ns();
        gebi_housekeep(bus, now_ns);
        if (idle_since_ns == 0)
            idle_since_ns = now_ns;
        /* After a sleep that brought nothing, sleep on: a bounded sleep is not a reason to poll
         * again. */
        if (slept || now_ns - idle_since_ns >= bus->spin_ns) {
            sleep_once(bus);
            slept = true;
        }
    }
    bus->running = false;
    shr_store32_relaxed(&bus->stop, 0);
    return 0;
}

void geb_stop(struct geb_bus *bus)
{
    if (bus == NULL || !gebi_visit(&bus->life, GEBI_BUS_MAGIC))
        return;
    shr_store32_release(&bus->stop, 1);
    shr_gate_wake(&bus->map.hot->bell);
    gebi_visit_end(&bus->life);
}

int geb_set_spin(struct geb_bus *bus, uint64_t spin_ns)
{
    int rc = gebi_check_outside(bus);
    if (rc == 0)
        bus->spin_ns = spin_ns;
    return rc;
}
