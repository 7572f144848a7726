/* What the two halves of the stress tests' support share: stress_produce.c is what the producer
 * processes do, stress_support.c the consumer that checks them. */
#ifndef GEB_TESTS_STRESS_RUN_H
#define GEB_TESTS_STRESS_RUN_H

#include "tests/history.h"
#include "tests/stress_support.h"

_Static_assert(STRESS_PRODUCERS <= HISTORY_PRODUCERS, "each has a history");

/* A producer's own, outside the bus: it survives its process, and a successor goes on in it. */
struct ledger {
    __attribute__((aligned(128)))
    shr_a64 begun; /* the last serial of the publish that began last */
    shr_a64 done;  /* … that returned last, with 0 */
    shr_a64 finished;
    shr_a64 refused; /* calls that found the bus or its slabs full */
    shr_a32 stints;  /* handles that it had */
    struct history_note *notes;
    __attribute__((aligned(128))) shr_a64 checked; /* by the consumer: notes up to this are free */
};

struct board {
    __attribute__((aligned(128))) shr_a64 joined;
    struct ledger ledger[STRESS_PRODUCERS];
};

/* One publish: events that become visible at once. */
struct plan {
    uint32_t cnt; /* events */
    uint32_t bytes[STRESS_BATCH];
    bool loan, options;
    enum { PLAN_HEARD, PLAN_EXPIRED, PLAN_UNWANTED } fate; /* without drops: what becomes of it */
};

/* One run. The consumer's side is private to the test's process. */
struct run {
    const struct stress_case *c;
    struct board *board;
    size_t note_bytes;
    uint64_t mask; /* notes of each producer - 1 */
    char name[64];
    geb_topic_id topic, unwanted; /* unwanted: nobody handles it */
    struct geb_bus *bus;
    pid_t pid[STRESS_PRODUCERS];
    bool stopped[STRESS_PRODUCERS];
    struct history history;
    uint64_t all_delivered, next_stop, next_kill, next_watch;
    uint64_t uncertain[STRESS_PRODUCERS]; /* events in flight at a kill */
    uint32_t kills, stops, alive;
};

extern struct run run;

/* A producer process; arg points to its number. */
int stress_produce(void *arg);

/* Its parts: what comes at this serial; publishes it, whatever it takes, with its notes; a moment
 * in which others have their turn, sometimes; interruptions at no instruction in particular. */
struct plan stress_plan(const struct stress_case *c, uint32_t id, uint64_t serial);
struct history_row stress_row(const struct geb_event *ev, bool named);
void stress_open_board(const struct stress_case *c);
void stress_close_board(const struct stress_case *c);
void stress_config(const struct stress_case *c, struct geb_config *config);
/* Chunks of those who left come back with a sweep, which a dispatch does now and then. */
void stress_await_chunks(struct geb_bus *bus, struct geb_watch *watch);
void stress_publish(struct geb_producer *me, uint32_t id, uint64_t serial, const struct plan *plan);
void stress_dawdle(uint64_t r);
void stress_interrupts(bool on);

#endif
