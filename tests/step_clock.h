/*
 * step_clock: a clock under which a region that reads the time always goes the same way.
 *
 * The kernel's clock_gettime runs in the process, and takes a longer way now and then; each
 * instruction of it would be a point of step.h. And a region that sleeps until a time would look at
 * the clock as often as the machine likes. So a program whose region reads the time has
 * STEP_CLOCK_GETTIME once, and its child calls step_clock_steady last thing in prepare.
 */
#ifndef GEB_TESTS_STEP_CLOCK_H
#define GEB_TESTS_STEP_CLOCK_H

#include <stdint.h>
#include <time.h>

/* From now on each look of this process is a microsecond after the one before. */
void step_clock_steady(void);
/* The same, an hour ahead: no sleep ends by itself, so one that nobody wakes hangs. */
void step_clock_far(void);
/* As if it had slept until then: it goes on from this time in such steps. */
void step_clock_pass(uint64_t until_ns);
/* The kernel's time again. */
void step_clock_kernel(void);
/* The kernel's time, and so much more. */
void step_clock_set_ahead(uint64_t ns);

int step_clock_gettime(clockid_t id, struct timespec *time);
#define STEP_CLOCK_GETTIME                                 \
    int clock_gettime(clockid_t id, struct timespec *time) \
    {                                                      \
        return step_clock_gettime(id, time);               \
    }

#endif
