/* The processes of the soak: lanes that publish, and the consumer. */
#include "tests/soak_run.h"

#include "tests/support.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>

struct soak_board *soak;

unsigned soak_descriptors(void)
{
    return support_entries("/proc/self/fd");
}

/* ---- lanes ----------------------------------------------------------------------------------- */

struct lane {
    uint32_t id;
    struct ledger *ledger;
    struct soak_lane *own;
    struct geb_producer *me; /* NULL: between two stints */
    uint64_t left;           /* calls of this stint */
    unsigned fds, fds_joined;
};

/* True if the lane has a handle. An exclusive bus has one for all lanes, and a slot whose last
 * owner died may have to wait for the consumer. */
static bool lane_join(struct lane *l)
{
    int rc = geb_join(&l->me, run.name, "soak");
    SUPPORT_CHECK(rc == 0 || rc == -EUSERS || rc == -EBUSY);
    if (rc != 0) {
        sched_yield();
        return false;
    }
    SUPPORT_CHECK(geb_topic(l->me, "stress", &run.topic) == 0);
    SUPPORT_CHECK(geb_topic(l->me, "unwanted", &run.unwanted) == 0);
    uint32_t stint = shr_load32_relaxed(&l->ledger->stints) + 1;
    shr_store32_release(&l->ledger->stints, stint);
    l->left = 16 + stress_hash(l->id, stint, 6) % 1000;
    if (l->fds_joined == 0)
        l->fds_joined = soak_descriptors();
    return true;
}

static void lane_leave(struct lane *l)
{
    if (l->me != NULL)
        SUPPORT_CHECK(geb_leave(l->me) == 0);
    l->me = NULL;
}

static void lane_publish(struct lane *l, const struct plan *plan)
{
    uint64_t serial = shr_load_relaxed(&l->ledger->begun) + 1;
    stress_publish(l->me, l->id, serial, plan);
    if (!run.c->flat_out)
        stress_dawdle(stress_hash(l->id, serial, 4));
}

/* Between two calls until this pause is over. When it has the turn it publishes one plain event. */
static void lane_pause(struct lane *l, uint32_t pause)
{
    const struct plan last = {.cnt = 1, .bytes = {24}};
    if (run.c->exclusive)
        lane_leave(l);
    SUPPORT_CHECK(soak_descriptors() == (l->me != NULL ? l->fds_joined : l->fds));
    shr_store32_release(&l->own->paused, pause);
    while (shr_load32_acquire(&soak->pause) == pause) {
        if (shr_load32_acquire(&soak->turn) == l->id + 1 &&
            shr_load32_relaxed(&l->own->marked) != pause && (l->me != NULL || lane_join(l))) {
            lane_publish(l, &last);
            if (run.c->exclusive)
                lane_leave(l);
            shr_store32_release(&l->own->marked, pause);
        }
        sched_yield();
    }
}

int soak_lane_process(void *arg)
{
    struct lane l = {.id = *(uint32_t *)arg, .fds = soak_descriptors()};
    l.ledger = &run.board->ledger[l.id];
    l.own = &soak->lane[l.id];
    stress_interrupts(true);
    while (shr_load32_acquire(&soak->over) == 0) {
        uint64_t serial = shr_load_relaxed(&l.ledger->begun) + 1;
        uint32_t pause = shr_load32_acquire(&soak->pause);
        if (pause != 0) {
            lane_pause(&l, pause);
        } else if (serial + 2 * STRESS_BATCH > shr_load_acquire(&l.ledger->checked) + run.mask) {
            sched_yield(); /* notes for the last event are kept */
        } else if (l.me != NULL || lane_join(&l)) {
            struct plan plan = stress_plan(run.c, l.id, serial);
            lane_publish(&l, &plan);
            if (--l.left == 0)
                lane_leave(&l);
        }
    }
    stress_interrupts(false);
    lane_leave(&l);
    SUPPORT_CHECK(soak_descriptors() == l.fds);
    return 0;
}

/* ---- the consumer ---------------------------------------------------------------------------- */

static uint32_t consumer; /* which one this process is */
static uint32_t until_stop;

static int soak_handle(struct geb_context *ctx, const struct geb_event *ev, void *user)
{
    struct history_row seen = stress_row(ev, true);
    uint64_t cnt = shr_load_relaxed(&soak->cnt);
    struct soak_row *row = &soak->row[cnt];
    (void)user;
    SUPPORT_CHECK(cnt < SOAK_ROWS);
    SUPPORT_CHECK((ev->attempt > 1) == ev->redelivered);
    shr_store_relaxed(&row->serial, seen.serial);
    shr_store_relaxed(&row->number, seen.number);
    shr_store_relaxed(&row->position, seen.position);
    shr_store32_relaxed(&row->producer, seen.producer);
    shr_store32_relaxed(&row->slot, seen.slot);
    shr_store32_relaxed(&row->bytes, seen.bytes);
    shr_store32_relaxed(&row->consumer, consumer);
    shr_store32_relaxed(&row->attempt, ev->attempt);
    shr_store32_relaxed(&row->flags,
                        (seen.whole ? SOAK_WHOLE : 0) | (seen.redelivered ? SOAK_REDELIVERED : 0));
    shr_store32_relaxed(&row->ended, 0);
    shr_store_release(&soak->cnt, cnt + 1);
    for (uint64_t i = stress_hash(seen.producer, seen.serial, 9) % 64; i != 0; i--)
        shr_cpu_relax();
    shr_store32_release(&row->ended, 1);
    if (until_stop != 0 && --until_stop == 0)
        geb_stop(geb_context_bus(ctx));
    return 0;
}

static struct geb_bus *bus;

static void on_term(int signal_number)
{
    (void)signal_number;
    geb_stop(bus);
}

int soak_consumer_process(void *arg)
{
    unsigned fds = soak_descriptors();
    consumer = *(uint32_t *)arg;
    signal(SIGTERM, SIG_IGN);
    SUPPORT_CHECK(geb_open(&bus, run.name) == 0);
    SUPPORT_CHECK(geb_on(bus, "stress", soak_handle, NULL) == 0);
    SUPPORT_CHECK(geb_set_spin(bus, consumer % 2 == 0 ? 0 : 20000) == 0);
    shr_store_release(&soak->opened, shr_load_relaxed(&soak->opened) + 1);
    signal(SIGTERM, on_term);
    unsigned fds_open = soak_descriptors();
    for (uint64_t look = 0; shr_load32_acquire(&soak->over) != 2; look++) {
        uint64_t r = stress_hash(SOAK_CONSUMER, look, consumer);
        if (r % 16 == 0) {
            until_stop = 1 + (uint32_t)(r >> 8) % 256;
            SUPPORT_CHECK(geb_run(bus) == 0);
        } else {
            until_stop = 0;
            SUPPORT_CHECK(geb_dispatch(bus, 1 + (uint32_t)(r >> 8) % 64) >= 0);
        }
    }
    signal(SIGTERM, SIG_IGN);
    SUPPORT_CHECK(soak_descriptors() == fds_open);
    SUPPORT_CHECK(geb_close(bus, 0) == 0);
    SUPPORT_CHECK(soak_descriptors() == fds);
    return 0;
}
