/* The consumer's side of the ring: one event after the other, each accounted for exactly once,
 * also when the consumer is killed between any two instructions.
 *
 * Every event that is taken raises exactly one outcome column of the shared tally, by its number
 * of events, with one store. Before it is handled, the consumer's hand says what the sum of all
 * columns is without it. So a successor that finds a hand knows whether its event was finished:
 * the sum has changed, or it has not.
 *
 *     next ──hand = {…, sum_before}, pos──▶ in hand ──handlers──▶ column += events
 *                                              │                     │
 *                                              │                     └──▶ block freed, tail, next
 *                                              │          its consumer died here: finished
 *                                              └─died here: Block and ReturnError hand it out
 *                 again, marked; drop-oldest counts it as lost_in_crash (it may have run)
 *
 * A cell with several events may end with several outcomes: their columns are written into the
 * hand first, then hand.applied, then the columns, which a successor repeats.
 *
 * Threads: a struct shr_consumer belongs to one thread. Its process holds the lock of slot 0.
 *
 *     while (shr_next(&c, &item) > 0) {
 *             … use item.words; handlers …
 *             shr_finish(&c, &item, SHR_COL_DELIVERED);
 *     }
 *     shr_flush(&c);
 */
#ifndef SHMRING_CONSUME_H
#define SHMRING_CONSUME_H

#include "shmring/ring.h"

/* Positions of which the producers learn at once: storing each alone would move the line of
 * `done` back and forth. */
#define SHR_DONE_BATCH 32u

struct shr_item {
    uint64_t pos;
    uint64_t number;           /* of its first event, 64 bits */
    uint64_t ref;              /* 0: in line */
    const unsigned char *data; /* valid until shr_finish */
    uint32_t bytes;
    uint32_t events;
    uint32_t topic;
    uint32_t slot;
    uint32_t flags;
    uint32_t stamp; /* 0: not sampled */
    uint64_t key;
    uint64_t ext[2];  /* the extension words: [0] is the first flagged one */
    uint32_t attempt; /* 1; more when it was in hand as a consumer died */
};

struct shr_consumer {
    struct shr_map *map;
    struct shr_taker taker;
    struct shr_tally *tally;
    uint64_t next; /* where to look next */
    uint64_t done; /* what hot->done holds */
    uint64_t sum;  /* of the outcome columns */
    uint64_t dropped;
    uint64_t again_pos; /* the event that was in hand when the last consumer died; 0: none */
    bool fence;         /* wakers must fence here */
    uint64_t body[SHR_CELL_WORDS]; /* drop-oldest: the copy of the cell */
};

/* Resumes where the last consumer stopped or died. The caller holds the lock of slot 0 and
 * entered it. Can be repeated: a death inside it changes nothing for the next. */
void shr_consumer_init(struct shr_consumer *c, struct shr_map *map);

/* 1: *item is the next event, whole and validated, now in hand. 0: nothing to take now. Never
 * blocks. */
int shr_next(struct shr_consumer *c, struct shr_item *item);

/* The event in hand is finished with one outcome (SHR_COL_*): counted, its block freed, its
 * position given up. */
void shr_finish(struct shr_consumer *c, const struct shr_item *item, uint32_t col);

/* The same for a cell whose events ended differently: add[] has one number for each column,
 * item->events in all. */
void shr_finish_mixed(struct shr_consumer *c, const struct shr_item *item,
                      const uint64_t add[SHR_COL_CNT]);

/* Publishes how far the consumer is; call when there is nothing to take, and before sleeping. */
void shr_flush(struct shr_consumer *c);

/* Whether nothing waits for the consumer in all of tail … head: no committed event, no full
 * ring. Before a sleep. */
bool shr_is_idle(const struct shr_consumer *c);

/* ---- for everybody who may only look --------------------------------------------------------- */

struct shr_account {
    uint64_t accepted;
    uint64_t col[SHR_COL_CNT];
    uint64_t dropped;
    uint64_t pending;
    uint64_t used; /* positions between the first pending one and head */
};

/* The account from outside. Exact at a quiet moment. Reads all cells between tail and head.
 * slot_accepted, if not NULL, gets producer_cnt + 1 numbers. 0, or -ENOMEM. */
int shr_account(const struct shr_map *map, struct shr_account *account, uint64_t *slot_accepted);

#endif
