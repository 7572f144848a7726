/* Goal: going to sleep and waking lose nothing: a consumer may be killed at any instruction of
 * both, an event that comes at any instruction of going to sleep wakes it, and so does room a
 * producer of a full bus.
 *
 * Method: a child's clock is an hour ahead, so a bounded sleep lasts an hour and a lost wake-up
 * hangs: nothing but the wake ends it.
 *   park      geb_run finds nothing, sleeps, is woken by an event and stopped by its handler;
 *             killed at each instruction, then a successor goes on
 *   event     the same, stopped at each instruction; an event is published there; it goes on, and
 *             must come to its end
 *   wake      the consumer handles an event whose block and cell producers wait for; killed at
 *             each instruction of it and of both wakes
 *   room      a producer meets a full bus of block, spins a little and sleeps; stopped at each
 *             instruction; the consumer makes room there; the producer goes on, and must publish */
#include "tests/crash_death.h"

#include "shmring/wait.h"

#include <errno.h>

STEP_CLOCK_GETTIME

static bool sent; /* the event that wakes it */

static int stop(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)event;
    (void)user;
    geb_stop(geb_context_bus(ctx));
    return 0;
}

static int setup(void *user)
{
    sent = false;
    return crash_death_setup(user);
}

static int prepare(void *user)
{
    struct crash_world *w = user;
    int rc = crash_death_open(w);
    if (rc == 0)
        rc = geb_on(w->bus, "events", stop, NULL);
    if (rc == 0)
        rc = geb_set_spin(w->bus, 0);
    if (rc == 0)
        rc = gebi_flatten(w->bus);
    step_clock_far();
    w->bus->swept_ns = shr_now_ns(); /* the sweep is another suite's */
    return rc;
}

static int region(void *user)
{
    struct crash_world *w = user;
    return geb_run(w->bus);
}

static int finish(void *user)
{
    struct crash_world *w = user;
    return geb_close(w->bus, 0);
}

/* The child sleeps in a system call: if it is the sleep of the consumer, an event comes. */
static void unblock(void *user)
{
    struct crash_world *w = user;
    if (sent || shr_load32_acquire(&w->map.peers[0].waiting) != SHR_WAIT_EVENTS)
        return;
    sent = true;
    crash_death_send(w, crash_test_sender(w), CRASH_HANDLED);
}

static int go_on(struct crash_world *w)
{
    struct crash_death death = {.in_hand = 1};
    CRASH_TRY(crash_death_note(w, &death));
    CRASH_EQUAL(crash_death_open(w), 0);
    CRASH_TRY(crash_drain(w));
    CRASH_TRY(crash_death_check(w, &death));
    return crash_death_end(w, &death);
}

static int check(struct step_child *child, size_t k, void *user)
{
    (void)child;
    (void)k;
    return go_on(user);
}

static int check_event(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    (void)k;
    CRASH_EQUAL(crash_death_send(w, crash_test_sender(w), CRASH_HANDLED), 0);
    CRASH_EQUAL(step_to_end(child), 0); /* it hangs if the wake-up was lost */
    CRASH_CHECK(shr_load_relaxed(&w->map.tally->sleeps) <= 1);
    CRASH_EQUAL(shr_load_relaxed(&w->map.tally->restarts), 0);
    return go_on(w);
}

/* ---- waking producers ------------------------------------------------------------------------ */

static int setup_wake(void *user)
{
    struct crash_world *w = user;
    int rc = crash_death_setup(w);
    for (int i = 0; rc == 0 && i < 4; i++)
        rc = crash_death_send(w, crash_test_sender(w), CRASH_BLOCK);
    return rc;
}

static int prepare_wake(void *user)
{
    struct crash_world *w = user;
    int rc = prepare(w);
    shr_store32_relaxed(&w->bus->map.hot->space.waiting, 1);
    shr_store32_relaxed(&w->bus->map.hot->freed.waiting, 1);
    return rc;
}

static int region_wake(void *user)
{
    struct crash_world *w = user;
    return geb_dispatch(w->bus, 1) == 1 ? 0 : -EIO;
}

static int finish_wake(void *user)
{
    struct crash_world *w = user;
    struct shr_hot *hot = w->bus->map.hot;
    return shr_load32_relaxed(&hot->space.waiting) == 0 &&
                   shr_load32_relaxed(&hot->freed.waiting) == 0
               ? 0
               : -EIO;
}

/* Who is not woken by the dead one finds room at the end of its bounded sleep, which the
 * successor's first look may shorten. */
static int check_wake(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    (void)child;
    (void)k;
    CRASH_TRY(go_on(w));
    CRASH_EQUAL(shr_load32_acquire(&w->map.hot->space.waiting), 0);
    CRASH_EQUAL(shr_load32_acquire(&w->map.hot->freed.waiting), 0);
    return 0;
}

/* ---- a producer that sleeps ------------------------------------------------------------------ */

static uint64_t words[SHR_CELL_WORDS]; /* of the event that must wait */

static int setup_room(void *user)
{
    struct crash_world *w = user;
    sent = false;
    int rc = crash_create(w);
    if (rc == 0)
        rc = crash_death_handlers(w);
    struct crash_sender *s = crash_test_sender(w);
    if (rc == 0 && w->exclusive)
        rc = crash_join(w, s, CRASH_SUCCESSOR);
    for (int i = 0; rc == 0 && i < 4; i++)
        rc = crash_death_send(w, s, CRASH_HANDLED);
    return rc == 0 && w->exclusive ? crash_leave(s) : rc;
}

static int prepare_room(void *user)
{
    struct crash_world *w = user;
    int rc = crash_join(w, &w->victim, CRASH_VICTIM);
    if (rc == 0)
        crash_death_words(w, &w->victim, words);
    step_clock_far();
    return rc;
}

/* As geb_publish, but for the spinning before the sleep, whose thousand turns are all the same. */
static int region_room(void *user)
{
    struct crash_world *w = user;
    struct geb_producer *p = w->victim.p;
    struct gebi_overrun overrun = {.wait_until_ns = GEB_FOREVER, .spins = UINT32_MAX};
    while (shr_publish(&p->writer, words, 1) == -EAGAIN) {
        int rc = gebi_make_room(p, -EAGAIN, &overrun);
        if (rc < 0)
            return rc;
    }
    shr_gate_notify(&p->map.hot->bell, p->fence);
    return 0;
}

static void unblock_room(void *user)
{
    struct crash_world *w = user;
    if (sent || shr_load32_acquire(&w->map.peers[w->victim_slot].waiting) != SHR_WAIT_SPACE)
        return;
    sent = true;
    w->bus->empty_looks = 0;
    geb_dispatch(w->bus, 1);
}

static int check_room(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    struct crash_death death = {0};
    (void)k;
    CRASH_CHECK(geb_dispatch(w->bus, 1) >= 0);
    CRASH_EQUAL(step_to_end(child), 0);
    CRASH_TRY(crash_settle(w, CRASH_INLINE, NULL));
    CRASH_EQUAL(w->ledger->sent[CRASH_VICTIM], 1);
    CRASH_TRY(crash_death_note(w, &death));
    CRASH_TRY(crash_drain(w));
    CRASH_TRY(crash_death_check(w, &death));
    return w->exclusive ? 0 : crash_death_end(w, &death);
}

/* ---- all of them ----------------------------------------------------------------------------- */

static void run_all(struct crash_world *w)
{
    struct step_scenario park = {.setup = setup,
                                 .prepare = prepare,
                                 .region = region,
                                 .finish = finish,
                                 .unblock = unblock,
                                 .teardown = crash_teardown,
                                 .user = w};
    crash_death_points(w, &park);
    struct step_scenario wake = park;
    wake.setup = setup_wake;
    wake.prepare = prepare_wake;
    wake.region = region_wake;
    wake.finish = finish_wake;
    wake.unblock = NULL;
    struct step_scenario room = park;
    room.setup = setup_room;
    room.prepare = prepare_room;
    room.region = region_room;
    room.finish = crash_victim_leaves;
    room.unblock = unblock_room;
    const char *bus = crash_bus_text(w);
    crash_run(&park, STEP_KILL, check, "park, %s", bus);
    crash_run(&park, STEP_STOP, check_event, "event while parking, %s", bus);
    crash_run(&wake, STEP_KILL, check_wake, "wake, %s", bus);
    if (w->policy == GEB_BLOCK)
        crash_run(&room, STEP_STOP, check_room, "room while a producer parks, %s", bus);
}

int main(void)
{
    static struct crash_world w = {.slab_bytes = 4 * SHR_CHUNK_BYTES};
    crash_begin();
    for (uint32_t bus = 0; bus < CRASH_BUSES; bus++) {
        crash_choose_bus(&w, bus);
        run_all(&w);
    }
    return crash_report("crash_park");
}
