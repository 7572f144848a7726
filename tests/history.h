/* A checker of histories: what producers noted of their calls against what a consumer was handed,
 * in linear time and in as little memory as the notes take.
 *
 *     struct history h = {.producers = 3, .slots = 3, .mask = 0xffff, .drops = true};
 *     history_begin(&h);                                // h.notes[p], h.begun[p] are set before
 *     fault = history_add(&h, &row);                    // each delivery, in the order it came
 *     fault = history_pass(&h, p, shr_load(h.begun[p])) // the bus is empty: no more of these comes
 *     fault = history_end(&h);                          // and no batch is open
 *     history_free(&h);
 *
 * A producer's events have serials 1, 2, 3 …. Before it publishes one it writes its note (who else
 * reads it does so after it was handed the event), and after its call returned the time of that.
 *
 * Real time: if call A returned before call B began, A's event is before B's. It is enough to
 * remember the latest begin of all events that came so far: an event that comes behind it and had
 * returned before it came late. An event that is handed out while its call still runs, and has no
 * end yet, returns later than everything that came before it began.
 *
 * Notes are rings: of producer p's serials only the last mask + 1 have notes, so a producer must
 * not begin a serial that is more than mask beyond h.last[p].
 *
 * Threads: one thread calls these functions; notes may be written meanwhile. */
#ifndef GEB_TESTS_HISTORY_H
#define GEB_TESTS_HISTORY_H

#include "shmring/atomic.h"

#include <stdbool.h>
#include <stdint.h>

#define HISTORY_PRODUCERS 8u

/* X(name, meaning). The one that is found first is reported. */
#define HISTORY_FAULTS(X)                                                        \
    X(FINE, "as it should be")                                                   \
    X(UNKNOWN, "no such event")                                                  \
    X(LENGTH, "another length than was published")                               \
    X(TORN, "its payload is not what its producer wrote")                        \
    X(DUPLICATE, "it came twice")                                                \
    X(ORDER, "it came after a later one of its producer")                        \
    X(LOST, "an event whose call had returned did not come")                     \
    X(POSITION, "positions went back")                                           \
    X(HALF_BATCH, "a part of a batch is missing, or away from the others")       \
    X(NUMBER, "its number does not go with the others' of its producer or slot") \
    X(MARK, "it is marked as redelivered and is not, or the other way round")    \
    X(TIME, "its call had returned before that of an event before it began")     \
    X(SILENT, "a handler was called for an event that no handler should have seen")

enum history_fault {
#define HISTORY_NAME(name, text) HISTORY_##name,
    HISTORY_FAULTS(HISTORY_NAME)
#undef HISTORY_NAME
        HISTORY_FAULT_CNT
};

const char *history_text(enum history_fault fault);

/* What a producer knows of one of its events. */
struct history_note {
    shr_a64 begin_ns; /* just before its call */
    shr_a64 end_ns;   /* after it returned with 0; 0 before that, and for ever if it died in it */
    shr_a32 bytes;
    shr_a32 part;   /* index in its batch << 16 | events of the batch; 1 for a single event */
    shr_a32 stint;  /* from 1: which of its handles; a handle's numbers and serials go together */
    shr_a32 silent; /* 1: expired or without handler, so it is never handed out */
};

/* Before the call: the note is whole, without an end. */
void history_note_begin(struct history_note *note, uint32_t bytes, uint32_t part, uint32_t stint,
                        bool silent, uint64_t begin_ns);

/* One event as a handler got it. */
struct history_row {
    uint64_t serial, number, position;
    uint32_t producer, slot, bytes;
    uint32_t consumer; /* which one of those that succeeded each other */
    bool whole;        /* the payload is what it should be */
    bool redelivered;
    bool finished; /* its handler returned */
};

struct history {
    /* The caller's. */
    bool drops;  /* drop-oldest: events may be missing, and none comes again */
    bool silent; /* some notes are silent */
    uint32_t producers, slots;
    uint64_t mask; /* notes of each producer - 1; a power of two - 1 */
    const struct history_note *notes[HISTORY_PRODUCERS];
    const shr_a64 *begun[HISTORY_PRODUCERS]; /* the last serial whose note is written */

    /* What was found. By producer: */
    uint64_t last[HISTORY_PRODUCERS];      /* the last serial that came or was passed */
    uint64_t delivered[HISTORY_PRODUCERS]; /* each event once */
    uint64_t missing[HISTORY_PRODUCERS];   /* had returned, and did not come */
    uint64_t doubtful[HISTORY_PRODUCERS];  /* had not returned, and did not come */
    uint64_t silenced[HISTORY_PRODUCERS];  /* silent, whatever became of them */
    uint64_t again;                        /* handed out once more */

    /* The checker's own: the cell that came last, and what every event is compared with. */
    uint64_t position, first_serial, first_number, latest_begin_ns;
    uint64_t last_number[HISTORY_PRODUCERS + 1];
    uint64_t base[HISTORY_PRODUCERS];  /* number - serial within … */
    uint32_t stint[HISTORY_PRODUCERS]; /* … this stint */
    uint32_t consumer, producer, parts, came;
    bool begun_any, redelivered, finished, repeats;
    unsigned char *seen[HISTORY_PRODUCERS]; /* by serial: came, or was passed */
};

void history_begin(struct history *h);
void history_free(struct history *h);

/* The next delivery. After a fault the history is of no use any more. */
enum history_fault history_add(struct history *h, const struct history_row *row);

/* What has not come of a producer's serials up to this one never comes. */
enum history_fault history_pass(struct history *h, uint32_t producer, uint64_t through);

/* A quiet moment: the bus is empty, and its consumer lives. */
enum history_fault history_end(const struct history *h);

#endif
