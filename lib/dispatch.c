/* The dispatcher's loop: when to look, when to pause, when to sleep. */
#include "lib/internal.h"

#include <errno.h>
#include <limits.h>

#define BATCH              64u
#define SWEEP_EVERY_NS     UINT64_C(100000000)
#define CLOCK_EVERY_EVENTS 4096u /* a busy loop looks at the clock this often */
#define PAUSE_MIN_NS       UINT64_C(40)
#define PAUSE_MAX_NS       UINT64_C(2000)
#define SHORT_BATCH        32u

void gebi_housekeep(struct geb_bus *bus, uint64_t now_ns)
{
    if (now_ns - bus->swept_ns < SWEEP_EVERY_NS)
        return;
    bus->swept_ns = now_ns;
    bus->since_look = 0;
    struct shr_tally *tally = bus->map.tally;
    const struct shr_ring *ring = &bus->consumer.taker.ring;
    uint64_t used = shr_load_relaxed(&ring->hot->head) - shr_load_relaxed(&ring->hot->tail);
    if ((int64_t)used > 0 && used > shr_load_relaxed(&tally->peak))
        shr_store_relaxed(&tally->peak, used);
    uint32_t quarantined;
    shr_sweep(&bus->map, ring, &bus->sweeper, &quarantined);
    shr_store_relaxed(&tally->quarantined, quarantined);
}

/* Hands out up to max events; less only if there are no more now, or geb_stop was called. */
static uint32_t drain(struct geb_bus *bus, uint32_t max)
{
    struct shr_item item;
    uint32_t cnt = 0;
    uint64_t outer = gebi_dispatching; /* a handler of another bus may be calling us */
    gebi_dispatching = bus->map.geo.id[0];
    while (cnt < max && shr_next(&bus->consumer, &item) > 0) {
        gebi_deliver(bus, &item);
        cnt++;
        /* Relaxed: it need only be seen soon. */
        if (SHR_UNLIKELY(shr_load32_relaxed(&bus->stop) != 0))
            break;
    }
    gebi_dispatching = outer;
    shr_flush(&bus->consumer);
    bus->since_look += cnt;
    return cnt;
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
    uint32_t cnt = drain(bus, max != 0 && max < INT_MAX ? max : INT_MAX);
    /* An empty look asks the clock; so does a busy loop now and then. */
    if (cnt == 0 ? ++bus->empty_looks % 64 == 0 : bus->since_look >= CLOCK_EVERY_EVENTS)
        gebi_housekeep(bus, shr_now_ns());
    return (int)cnt;
}

static void pause_ns(const struct geb_bus *bus, uint64_t ns)
{
    uint64_t pauses = (ns * bus->pauses_per_us + 999) / 1000;
    for (uint64_t i = 0; i < pauses; i++)
        shr_cpu_relax();
}

/* After a short batch the consumer lets a moment pass, so that it does not fight with the
 * producers for the line that they are writing; the longer, the more that pays. A batch of one
 * is somebody waiting for an answer: latency first. */
static void keep_distance(struct geb_bus *bus, uint32_t cnt)
{
    if (cnt >= SHORT_BATCH)
        return;
    if (cnt <= 1)
        bus->pause_ns = PAUSE_MIN_NS;
    else if (bus->pause_ns < PAUSE_MAX_NS)
        bus->pause_ns *= 2;
    pause_ns(bus, bus->pause_ns);
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
    int rc = gebi_check_outside(bus);
    if (rc == 0)
        rc = gebi_flatten(bus);
    if (rc < 0)
        return rc;
    uint64_t idle_since_ns = shr_now_ns();
    bool slept = false;
    bus->pause_ns = PAUSE_MIN_NS;
    while (shr_load32_acquire(&bus->stop) == 0) {
        uint32_t cnt = drain(bus, BATCH);
        if (cnt != 0) {
            if (bus->since_look >= CLOCK_EVERY_EVENTS)
                gebi_housekeep(bus, shr_now_ns());
            keep_distance(bus, cnt);
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
    shr_store32_relaxed(&bus->stop, 0);
    return 0;
}

void geb_stop(struct geb_bus *bus)
{
    if (bus == NULL || bus->magic != GEBI_BUS_MAGIC)
        return;
    shr_store32_release(&bus->stop, 1);
    shr_gate_wake(&bus->map.hot->bell);
}

int geb_set_spin(struct geb_bus *bus, uint64_t spin_ns)
{
    int rc = gebi_check_outside(bus);
    if (rc == 0)
        bus->spin_ns = spin_ns;
    return rc;
}
