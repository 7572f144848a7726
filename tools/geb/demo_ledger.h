/* The ledgers of geb demo: what each process knows about its own events, kept outside the bus.
 *
 * One anonymous shared mapping, made before the fork. Each struct has one writer and a block of its
 * own; the supervisor reads all of them after their writers have ended, and for progress before.
 * A producer stores `begun` before it publishes and `ended` after, so a producer that is killed has
 * committed `ended` events, or one more if it died between commit and that store.
 */
#ifndef TOOLS_GEB_DEMO_LEDGER_H
#define TOOLS_GEB_DEMO_LEDGER_H

#include "lib/geb.h"
#include "shmring/atomic.h"

#include <stdio.h>

enum demo_source {
    DEMO_CPU,
    DEMO_MEMORY,
    DEMO_NETWORK,
    DEMO_PROCESS,
    DEMO_TICKS,
    DEMO_BLOCKS,
    DEMO_SOURCE_CNT,
};

#define DEMO_NOBODY DEMO_SOURCE_CNT /* for demo_ledger.killed */

struct demo_sent {
    /*                             writer: that producer */
    _Alignas(128) shr_a64 begun; /* sequence number of the last event that it began to publish */
    shr_a64 ended;               /* … of the last that geb_publish has committed */
    shr_a64 bytes;               /* payload bytes committed */
    shr_a64 expiring;            /* of the committed: with a deadline in the past */
    shr_a64 unwanted;            /* of the committed: on the topic that has no handler */
    shr_a64 refused;             /* publishes that gave an error and used no sequence number */
    shr_a64 stage;               /* DEMO_STAGE_* */
    shr_a64 from_ns, until_ns;   /* when it published at its full rate */
};

struct demo_seen {
    /*                                 writer: the consumer's handlers, one row for each producer */
    _Alignas(128) shr_a64 delivered; /* events handled */
    shr_a64 last;                    /* highest sequence number handled */
    shr_a64 gaps;                    /* sequence numbers skipped below it */
    shr_a64 disorder;                /* events that came twice, or after a later one */
    shr_a64 damaged;                 /* payloads that were not what their producer wrote */
};

#define DEMO_STAGE_NONE  0u
#define DEMO_STAGE_MADE  1u /* the consumer has made the bus */
#define DEMO_STAGE_READY 2u /* joined, or able to consume */

struct demo_ledger {
    struct demo_sent sent[DEMO_SOURCE_CNT];
    struct demo_seen seen[DEMO_SOURCE_CNT];
    _Alignas(128) shr_a64 handler_errors; /* writer: the consumer's handlers */
    shr_a64 uninvited;                    /* calls of a handler whose events have all expired */
    _Alignas(128) shr_a64 killed; /* writer: the supervisor. The source that died, or NOBODY */
};

/* The columns of the account, in the order of geb.h. */
#define DEMO_COLUMNS(X) \
    X(accepted)         \
    X(delivered)        \
    X(dropped)          \
    X(expired)          \
    X(cancelled)        \
    X(unhandled)        \
    X(dead_lettered)    \
    X(pending)          \
    X(lost_in_crash)

/* The account, and the metrics whose true value the ledgers know as well. */
#define DEMO_COMPARED(X) \
    DEMO_COLUMNS(X)      \
    X(published)         \
    X(processed)         \
    X(errors)            \
    X(bad_bytes)         \
    X(redelivered)       \
    X(restarts)

struct demo_account {
#define DEMO_FIELD(name) uint64_t name;
    DEMO_COMPARED(DEMO_FIELD)
#undef DEMO_FIELD
};

void demo_account_of_bus(const struct geb_metrics *metrics, struct demo_account *account);

/* The events that this producer has committed. bus_accepted decides, for the producer that was
 * killed and only if no handler has seen the event, whether the one in doubt counts. */
uint64_t demo_ledger_committed(const struct demo_ledger *ledger, enum demo_source source,
                               uint64_t bus_accepted);

/* Of the committed events: the sequence numbers that no handler has seen and that were neither
 * expiring nor unwanted. */
uint64_t demo_ledger_dropped(const struct demo_ledger *ledger, enum demo_source source,
                             uint64_t bus_accepted);

/* What the account has to be. Nothing comes from the bus, except as demo_ledger_committed says. */
void demo_ledger_sum(const struct demo_ledger *ledger, uint64_t bus_accepted,
                     struct demo_account *account);

/* Prints a line for each column that differs and returns how many do. who: where `bus` is from. */
int demo_account_compare(const char *who, const struct demo_account *bus,
                         const struct demo_account *ledger, FILE *to);

/* Prints a line for each thing wrong within the ledgers: order, damage, a sum that does not close.
 * Returns how many there are. */
int demo_ledger_check(const struct demo_ledger *ledger, uint64_t bus_accepted, FILE *to);

extern const char *const demo_source_name[DEMO_SOURCE_CNT];

#endif
