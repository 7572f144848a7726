/* The hot standby: a consumer's handle that waits for the role.
 *
 *     geb_stand_by ──▶ standing by ──the role's lock is free──▶ consumer ──▶ …
 *                          └─geb_close, or it died here: nothing has changed
 *
 * It holds the lock on SHR_LOCK_STANDBY, which tells producers that somebody will come, from before
 * it waits until after it has the role. */
#include "lib/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* A death shows in the lock alone, so the lock is polled: each look is a system call of a
 * microsecond, and a takeover begins this much later at most. */
#define POLL_NS UINT64_C(2000000)

/* Linux 5.14. An older kernel refuses it, and then the first events cost some page faults. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

void gebi_warm(struct geb_bus *bus)
{
    /* All but the payloads, which are the larger part, and of which few are looked at. */
    uint64_t bytes = bus->map.geo.region[SHR_REGION_SLABS].off;
    int saved = errno;
    madvise(bus->map.base, bytes - bytes % bus->map.geo.page_bytes, MADV_POPULATE_READ);
    errno = saved;
}

int gebi_take_over_now(struct geb_bus *bus)
{
    int held = shr_lock_held(&bus->map, SHR_CONSUMER_SLOT);
    if (held < 0)
        return gebi_fail(held, "cannot see the consumer's lock of %s: %s", bus->map.path,
                         strerror(-held));
    if (held != 0)
        return 0;
    int rc = gebi_take_role(bus);
    if (rc < 0)
        return rc == -EBUSY ? 0 : rc; /* somebody who opened the bus was faster */
    bus->standing_by = false;
    gebi_show_handlers(bus);
    /* Last: a producer that finds neither lock held takes the consumer for gone. */
    shr_lock_drop(&bus->standby_lock);
    return 1;
}

/* Sleeps until the next look. A signal ends it early, and with it the wait if it called geb_stop;
 * another thread's geb_stop is seen by the next look. */
static void nap(uint64_t left_ns)
{
    struct timespec pause = {.tv_nsec = (long)(left_ns < POLL_NS ? left_ns : POLL_NS)};
    int saved = errno;
    nanosleep(&pause, NULL);
    errno = saved;
}

int geb_take_over(struct geb_bus *bus, uint64_t deadline_ns)
{
    int rc = gebi_check_outside(bus);
    if (rc == 0 && bus->standing_by)
        rc = gebi_flatten(bus);
    while (rc == 0 && bus->standing_by) {
        if (shr_load32_acquire(&bus->stop) != 0) {
            shr_store32_relaxed(&bus->stop, 0);
            return gebi_fail(-ECANCELED, "geb_stop was called");
        }
        rc = gebi_take_over_now(bus);
        if (rc != 0)
            break;
        uint64_t now_ns = shr_now_ns();
        if (now_ns >= deadline_ns)
            return gebi_fail(-ETIMEDOUT, "%s kept its consumer until the deadline", bus->map.path);
        nap(deadline_ns - now_ns);
    }
    return rc < 0 ? rc : 0;
}
