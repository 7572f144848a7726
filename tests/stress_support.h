/* What the stress tests share: producers that publish as fast as they can, one consumer that checks
 * every event against ledgers which lie outside the bus, and the final account.
 *
 *     struct stress_case c = {.what = "block, 16 cells", .policy = GEB_BLOCK, .capacity = 16,
 *                             .producers = 4, .events = 20000, .mixed = true};
 *     stress_run(&c);                      // fails the cmocka test on any difference
 *
 * A producer's events have serials 1, 2, 3 …. Payload, size and kind of each (copy, loan, batch,
 * with id and key) follow from producer, serial and the seed. Each delivery goes through a checker
 * of histories (history.h): whole payload, no duplicate, no loss, order of its producer, numbers
 * without a gap but for drops, batches whole and together, and order in real time, by
 * CLOCK_MONOTONIC before and after each call; at the end the account agrees with it.
 */
#ifndef GEB_TESTS_STRESS_SUPPORT_H
#define GEB_TESTS_STRESS_SUPPORT_H

#include "lib/geb.h"
#include "shmring/atomic.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define STRESS_PRODUCERS 8u
#define STRESS_BATCH     5u
#define STRESS_BYTES     2000u

struct stress_case {
    const char *what;
    enum geb_policy policy;
    bool exclusive;
    uint32_t capacity;
    uint32_t producers;
    uint64_t events;      /* of each producer */
    bool mixed;           /* sizes up to STRESS_BYTES, loans and batches; else 0 … 32 bytes */
    bool sleeps;          /* the consumer runs by geb_run and sleeps when it can */
    uint64_t slab_bytes;  /* 0: plenty */
    uint64_t patience_ns; /* 0: the default */
    bool interrupts;      /* signals hold producers up for a moment, at any instruction */
    uint32_t stop_every;  /* the consumer stops or continues a producer after so many events … */
    uint32_t kill_every;  /* … and kills one, which another succeeds, at most max_kills times */
    uint32_t max_kills;
    bool flat_out; /* producers never dawdle */
    bool fates;    /* some events are expired, and some have no handler; the consumer may die */
};

/* Events of one producer in a quick run, scaled down for instrumented builds and up for
 * SUPPORT_LONG. */
uint64_t stress_events(uint64_t quick);

/* Runs a case. Prints one line of what happened. */
void stress_run(const struct stress_case *c);

/* Runs a case on rings of 4, 16 and 1,024 cells: `capacity` does not count. Its name is made of
 * policy, ring and sizes; `more` comes behind them. */
void stress_run_rings(const struct stress_case *c, const char *more);

/* A group of three cmocka tests, one for each policy, which call `test` with it. Returns how many
 * failed. */
int stress_run_policies(void (*test)(enum geb_policy policy));

/* The payload of an event: `bytes` of a stream that (producer, serial) starts. */
void stress_fill(unsigned char *to, size_t bytes, uint32_t producer, uint64_t serial);
bool stress_same(const unsigned char *data, size_t bytes, uint32_t producer, uint64_t serial);

/* The same for a payload that may begin with producer and serial themselves. */
bool stress_whole(const unsigned char *data, size_t bytes, uint32_t producer, uint64_t serial,
                  bool named);

/* A random number that belongs to an event, `salt` for the use. */
uint64_t stress_hash(uint32_t producer, uint64_t serial, uint32_t salt);

/* Keeps the calling thread on one processor: the nth of those that the test may use. */
void stress_pin(uint32_t nth);

/* Ends the process with status 1 unless it is called again within a minute. */
void stress_watchdog(const char *what);

#endif
