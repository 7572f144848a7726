/* Time. CLOCK_MONOTONIC in nanoseconds everywhere; wall-clock time is only shown. */
#ifndef SHMRING_CLOCK_H
#define SHMRING_CLOCK_H

#include <stdint.h>
#include <time.h>

/* About 25 ns, no system call where the vDSO has the clock. Any thread, any signal handler. */
static inline uint64_t shr_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t shr_wall_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#endif
