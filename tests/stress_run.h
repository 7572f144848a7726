/* What the two halves of the stress tests' support share: stress_produce.c is what the producer
 * processes do, stress_support.c the consumer that checks them. */
#ifndef GEB_TESTS_STRESS_RUN_H
#define GEB_TESTS_STRESS_RUN_H

#include "tests/stress_support.h"

/* What a producer knows of one of its events; written before it publishes, `end` after. */
struct note {
    shr_a64 begin; /* tickets; 0: none */
    shr_a64 end;
    shr_a32 bytes;
    shr_a32 part; /* index in its batch << 16 | events of the batch; 1 for a single event */
};

struct ledger {
    __attribute__((aligned(128)))
    shr_a64 begun; /* the last serial of the publish that began last */
    shr_a64 done;  /* … that returned last, with 0 */
    shr_a64 finished;
    shr_a64 refused; /* calls that found the bus or its slabs full */
    struct note *notes;
};

struct board {
    __attribute__((aligned(128))) shr_a64 ticket;
    __attribute__((aligned(128))) shr_a64 joined;
    struct ledger ledger[STRESS_PRODUCERS];
};

/* One run. The consumer's side is private to the test's process. */
struct run {
    const struct stress_case *c;
    struct board *board;
    size_t note_bytes;
    char name[64];
    geb_topic_id topic;
    struct geb_bus *bus;
    pid_t pid[STRESS_PRODUCERS];
    bool stopped[STRESS_PRODUCERS];
    uint64_t last[STRESS_PRODUCERS];            /* serial delivered last */
    uint64_t last_number[STRESS_PRODUCERS + 1]; /* of each slot */
    uint64_t delivered[STRESS_PRODUCERS];
    uint64_t all_delivered, position, latest_begin, next_stop, next_kill;
    uint64_t uncertain[STRESS_PRODUCERS];   /* events in flight at a kill */
    unsigned char *maybe[STRESS_PRODUCERS]; /* … by serial */
    uint32_t kills, stops, alive, rest;     /* rest: events of a batch that must follow */
    uint32_t batch_producer;
};

extern struct run run;

/* A producer process; arg points to its number. */
int stress_produce(void *arg);

#endif
