/* What the suites share in which the consumer dies, or takes over: events of every outcome, and
 * what must hold after a death, whatever was in hand.
 *
 *     crash_death_send(w, s, CRASH_EXPIRED)     events that end in different columns
 *     … the consumer is killed …
 *     crash_death_note(w, &death)               account and ledger as it left them
 *     crash_death_open(w); crash_drain(w)       a successor
 *     crash_death_check(w, &death)              every event is in one column, handled once …
 *     crash_death_end(w, &death)                … and everything is back
 */
#ifndef GEB_TESTS_CRASH_DEATH_H
#define GEB_TESTS_CRASH_DEATH_H

#include "tests/crash_support.h"

enum crash_outcome {
    CRASH_HANDLED, /* in line; the second of its two handlers fails, which is counted */
    CRASH_NOBODY,  /* its topic has no handler */
    CRASH_EXPIRED, /* its deadline is past */
    CRASH_BLOCK,   /* as CRASH_HANDLED, in a block */
    CRASH_MIXED,   /* a batch of three: the middle one has no handler */
};

struct crash_death {
    uint64_t begun; /* by the ledger: handlers that began */
    uint64_t ended;
    uint64_t col[SHR_COL_CNT]; /* by the account */
    uint64_t dropped;
    uint64_t in_hand; /* chosen by the suite: events that may have been in hand, at most */
};

/* Opens the bus as its consumer, with two handlers for "events", the second of which fails. */
int crash_death_open(struct crash_world *w);

/* Adds that second handler to a bus that is open. */
int crash_death_handlers(struct crash_world *w);

/* Publishes, and notes in the ledger which outcome is due. Does not wait. */
int crash_death_send(struct crash_world *w, struct crash_sender *s, enum crash_outcome outcome);

/* The cell of a sender's next event, in line, for a region that publishes by hand. */
void crash_death_words(const struct crash_world *w, const struct crash_sender *s,
                       uint64_t words[SHR_CELL_WORDS]);

/* The consumer does the same under return-error as under block, and under exclusive as under
 * shared, for only producers tell them apart. So there the ci form kills or stops it only where
 * something differs. */
void crash_death_points(const struct crash_world *w, struct step_scenario *s);

/* A bus without consumer, nor waiting events, and its sender. */
int crash_death_setup(void *user);

/* The consumer is dead: the account closes, and agrees with the ledger about what was sent. */
int crash_death_note(struct crash_world *w, struct crash_death *death);

/* A successor has drained: nothing waits, each event is in its column, and
 *   block, return-error   handled once; again at most the cell in hand, and marked
 *   drop-oldest           never again; at most the cell in hand is lost in the crash */
int crash_death_check(struct crash_world *w, const struct crash_death *death);

/* The bus goes on, its sender leaves, and nothing is left. */
int crash_death_end(struct crash_world *w, const struct crash_death *death);

#endif
