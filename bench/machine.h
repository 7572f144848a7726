/* The machine as a bench sees it: its name, the CPUs to pin to, and a cheap clock. */
#ifndef BENCH_MACHINE_H
#define BENCH_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "shmring/clock.h"

#define BENCH_CPUS_MAX 64u

struct bench_machine {
    char model[128];
    char kernel[96];
    unsigned online_cnt;          /* CPUs that this process may use */
    unsigned cpu_cnt;             /* how many of them `cpu` lists */
    unsigned cpu[BENCH_CPUS_MAX]; /* in the order in which roles are pinned to them */
    double ticks_per_ns;
    double tick_cost_ps; /* what reading the cheap clock adds to an interval */
    bool has_tsc;
};

/* Fills *m: reads /proc and /sys, and calibrates the cheap clock for about 20 ms. `cpus` is a list
 * like "2,5", or NULL for the CPUs of the affinity mask, one of each core first. 0 or -errno. */
int bench_machine_read(struct bench_machine *m, const char *cpus);

/* Pins the caller to one CPU. 0 or -errno. */
int bench_pin(unsigned cpu);

/* About 10 ns on x86-64, against 25 for clock_gettime: for stamps inside a measured loop. */
static inline uint64_t bench_ticks(const struct bench_machine *m)
{
#if defined(__x86_64__)
    if (m->has_tsc) {
        return __builtin_ia32_rdtsc();
    }
#endif
    (void)m;
    return shr_now_ns();
}

/* An interval between two bench_ticks(), without the price of reading the clock. */
static inline uint64_t bench_ticks_ps(const struct bench_machine *m, uint64_t ticks)
{
    double ps = (double)ticks * 1000.0 / m->ticks_per_ns - m->tick_cost_ps;
    return ps > 0.0 ? (uint64_t)ps : 0u;
}

#endif
