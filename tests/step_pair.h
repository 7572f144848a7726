/*
 * step_pair: two processes that stand still at once.
 *
 * The first one stands behind each change that it makes to shared memory, in turn. Beside it the
 * second one stands at its instructions, in turn (step.h), from a fresh world each time; then the
 * check does with the two what it wants.
 *
 * The second one is not stopped behind a private instruction (step_watch.h), but for
 * GEB_TEST_DEPTH=long, nor in later turns of a loop than `turns`; but what comes behind the loop
 * is visited, though it is as the last turn left it.
 */
#ifndef GEB_TESTS_STEP_PAIR_H
#define GEB_TESTS_STEP_PAIR_H

#include "tests/step.h"

struct step_pair {
    /* The first one's setup and teardown are those of the world; the second one has none. */
    const struct step_scenario *first;
    const struct step_scenario *second;
    uint64_t (*sum)(void *user); /* in the tracer: of all that the first one may change */
    /* In the tracer, while the first one stands and before the second one exists; may be NULL. */
    int (*between)(void *user);
    /* In the tracer. Ends both, or leaves them to be killed. 0: good. */
    int (*check)(struct step_child *first, struct step_child *second, size_t k, void *user);
    void *user;
    size_t turns; /* so many arrivals of the second one at an instruction; SIZE_MAX: all */
    /* Fewer changes of the first one, or points of the second one beside them all, are a failure:
     * they have missed what they were to meet. */
    size_t changes_min;
    size_t points_min;
};

/* Prints "SECOND beside FIRST behind N changes: N instructions, N failed"; ends at the first
 * failure. 0: good; 1: a check failed, or too little was met. */
int step_pair(const struct step_pair *pair);

/* For `sum`: of the words of a range. */
uint64_t step_sum(const void *from, const void *to);

#endif
