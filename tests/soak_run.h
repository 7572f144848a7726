/* What the parts of the soak share: soak_roles.c is what its processes do, stress_soak.c kills and
 * stops them, soak_check.c compares the bus with their ledgers at quiet moments.
 *
 * A lane is a producer for as long as the soak runs: process after process, handle after handle
 * (stints), with one sequence of serials. Its notes and its stints lie outside the bus, so does the
 * log of what consumers handled: each entry is written before its handler does anything and marked
 * when the handler is done. All of them survive the processes.
 *
 *     running ──pause = n──▶ every lane is between two calls ──drained──▶
 *     turn = lane: its last event, alone in the bus ──each lane──▶ quiet: check ──pause = 0──▶
 *
 * The last event of a lane tells the highest number of its slot. */
#ifndef GEB_TESTS_SOAK_RUN_H
#define GEB_TESTS_SOAK_RUN_H

#include "tests/stress_run.h"

#define SOAK_LANES    4u
#define SOAK_ROLES    (SOAK_LANES + 1) /* the last one is the consumer */
#define SOAK_CONSUMER SOAK_LANES
/* Between two quiet moments, at the most: stints of a lane, and rows of the log, which are the
 * notes of all lanes and what comes again. */
#define SOAK_STINTS 4096u
#define SOAK_ROWS   0x20000u

struct soak_row {
    /*                    written by the consumer, whole before log.cnt counts it */
    shr_a64 serial;
    shr_a64 number;
    shr_a64 position;
    shr_a32 producer;
    shr_a32 slot;
    shr_a32 bytes;
    shr_a32 consumer;
    shr_a32 attempt;
    shr_a32 flags; /* SOAK_WHOLE | SOAK_REDELIVERED */
    shr_a32 ended; /* 1: its handler is done */
};
#define SOAK_WHOLE       1u
#define SOAK_REDELIVERED 2u

/* A lane's, beside its struct ledger. */
struct soak_lane {
    __attribute__((aligned(128))) shr_a32 paused; /* the pause in which it waits */
    shr_a32 marked;                               /* the pause whose last event it has published */
};

struct soak_board {
    __attribute__((aligned(128))) shr_a32 pause; /* written by the test: 0, or which pause it is */
    shr_a32 turn;                                /* lane + 1 that may publish in a pause */
    shr_a32 over;                                /* lanes leave, and end */
    __attribute__((aligned(128))) shr_a64 cnt;   /* rows of the log; written by consumers */
    shr_a64 opened;                              /* consumers that took the role */
    struct soak_lane lane[SOAK_LANES];
    struct soak_row row[SOAK_ROWS];
};

extern struct soak_board *soak;

/* The processes; arg points to the lane's number, or the consumer's, which counts from 0. */
int soak_lane_process(void *arg);
int soak_consumer_process(void *arg);

/* Descriptors that this process has open. */
unsigned soak_descriptors(void);

/* What the checks know from one quiet moment to the next. */
struct soak_check {
    struct geb_metrics before;
    uint64_t marker[SOAK_LANES + 1]; /* highest number of each slot */
    uint64_t next[SOAK_LANES];       /* first serial of the window */
    uint64_t unresolved; /* events of which only the sum could be compared; for the summary */
    uint32_t started;    /* consumers that were started before it */
    uint32_t last_attempt;
    /* By lane and stint: where a handle of a lane was, learned from what was delivered of it. */
    struct soak_stint {
        uint64_t base; /* number - serial */
        uint32_t slot; /* 0: not known */
    } stint[SOAK_LANES][SOAK_STINTS];
};

/* At a quiet moment: compares everything between the last one and now, and begins a new window.
 * started: consumers that were started so far. A difference fails the test. */
void soak_check_window(struct soak_check *k, uint32_t started);

#endif
