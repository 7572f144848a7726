/* Goal: a consumer that is killed at any instruction while it runs handlers, or while it closes
 * the bus, loses nothing, hands nothing out twice without saying so, and leaves an account that
 * closes.
 *
 * Method: a child opens a full bus and is killed at each instruction of one call in turn.
 *   dispatch   geb_dispatch(bus, 0) over four cells of different outcomes: expired, without a
 *              handler, a block for two handlers of which the second fails (so the log of errors
 *              is written), a batch that ends in two columns
 *   close      geb_close(bus, 0), which handles nothing; the flags of sleepers are up, so that it
 *              wakes them
 *   drain      geb_close(bus, GEB_FOREVER), which handles what waits first
 * Then a successor goes on. crash_take.c has single events, with a finer check. */
#include "tests/crash_death.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

STEP_CLOCK_GETTIME

#define CELLS           4
#define OWN_PAGES_BYTES (1u << 20) /* more than the heap ever has in one piece */

static const enum crash_outcome outcomes[CELLS] = {CRASH_EXPIRED, CRASH_NOBODY, CRASH_BLOCK,
                                                   CRASH_MIXED};

static int setup(void *user)
{
    struct crash_world *w = user;
    int rc = crash_death_setup(w);
    for (uint32_t i = 0; rc == 0 && i < CELLS; i++)
        rc = crash_death_send(w, crash_test_sender(w), outcomes[(i + w->state) % CELLS]);
    return rc;
}

static int prepare(void *user)
{
    struct crash_world *w = user;
    int rc = crash_death_open(w);
    if (rc == 0)
        rc = gebi_flatten(w->bus);
    w->bus->swept_ns = shr_now_ns(); /* the sweep is another suite's */
    step_clock_steady();
    return rc;
}

/* A copy that free gives back to the kernel: its way through the heap would depend on what was
 * freed before. */
static void *in_own_pages(void *table, size_t bytes)
{
    void *pages = malloc(bytes + OWN_PAGES_BYTES);
    if (pages != NULL)
        memcpy(pages, table, bytes);
    free(table);
    return pages;
}

/* As if producers slept. */
static int prepare_close(void *user)
{
    struct crash_world *w = user;
    int rc = prepare(w);
    if (rc == 0 && geb_dispatch(w->bus, 1) != 1)
        rc = -EIO;
    struct geb_bus *bus = w->bus;
    bus->flat = in_own_pages(bus->flat, bus->handler_cnt * sizeof(*bus->flat));
    bus->first = in_own_pages(bus->first, (bus->map.geo.topic_cnt + 2) * sizeof(*bus->first));
    shr_store32_relaxed(&w->bus->map.hot->space.waiting, 1);
    shr_store32_relaxed(&w->bus->map.hot->freed.waiting, 1);
    return rc;
}

static int region_dispatch(void *user)
{
    struct crash_world *w = user;
    return geb_dispatch(w->bus, 0) == CELLS ? 0 : -EIO;
}

static int region_close(void *user)
{
    struct crash_world *w = user;
    return geb_close(w->bus, w->variant ? GEB_FOREVER : 0);
}

static int check(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    struct crash_death death = {.in_hand = CRASH_BATCH};
    (void)child;
    (void)k;
    CRASH_TRY(crash_death_note(w, &death));
    CRASH_EQUAL(crash_death_open(w), 0);
    CRASH_TRY(crash_drain(w));
    CRASH_TRY(crash_death_check(w, &death));
    return crash_death_end(w, &death);
}

/* The account of an orderly end says whether it was one. */
static int check_close(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    bool used = shr_load32_acquire(&w->map.peers[0].state) == SHR_PEER_USED;
    bool closed = shr_load32_acquire(&w->map.hot->closed) != 0;
    uint64_t restarts = shr_load_relaxed(&w->map.tally->restarts);
    CRASH_CHECK(used || closed);
    CRASH_EQUAL(shr_lock_held(&w->map, SHR_CONSUMER_SLOT), 0);
    CRASH_TRY(check(child, k, user));
    CRASH_EQUAL(shr_load_relaxed(&w->map.tally->restarts), restarts + used);
    CRASH_EQUAL(shr_load32_acquire(&w->map.hot->closed), 0);
    return 0;
}

static void run_all(struct crash_world *w)
{
    struct step_scenario dispatch = {.setup = setup,
                                     .prepare = prepare,
                                     .region = region_dispatch,
                                     .teardown = crash_teardown,
                                     .user = w};
    crash_death_points(w, &dispatch);
    struct step_scenario close = dispatch;
    close.prepare = prepare_close;
    close.region = region_close;
    const char *bus = crash_bus_text(w);
    w->state = 0;
    crash_run(&dispatch, STEP_KILL, check, "dispatch of mixed outcomes, %s", bus);
    w->variant = false;
    crash_run(&close, STEP_KILL, check_close, "close, %s", bus);
    w->variant = true;
    w->state = 3; /* the batch is handled before, the rest by geb_close */
    crash_run(&close, STEP_KILL, check_close, "close that drains, %s", bus);
}

int main(void)
{
    static struct crash_world w = {.slab_bytes = 4 * SHR_CHUNK_BYTES};
    crash_begin();
    for (uint32_t bus = 0; bus < CRASH_BUSES; bus++) {
        crash_choose_bus(&w, bus);
        run_all(&w);
    }
    return crash_report("crash_dispatch");
}
