/* What geb demo makes of the counters of the machine: a mean, and a peak over windows. */
#include "tools/geb/demo.h"

#include <unistd.h>

#define WINDOWS_A_SECOND 4u
#define WINDOW_NS        (1000000000u / WINDOWS_A_SECOND)

/* at: when the counter had the value, by a clock that counts from 1. The window is by it, too. */
static void enter(struct demo_gauge *gauge, uint64_t value, uint64_t at, uint64_t window)
{
    if (shr_load_relaxed(&gauge->first_at) == 0) {
        shr_store_relaxed(&gauge->first, value);
        shr_store_relaxed(&gauge->mark, value);
        shr_store_relaxed(&gauge->mark_at, at);
        shr_store_relaxed(&gauge->first_at, at);
    }
    shr_store_relaxed(&gauge->last, value);
    shr_store_relaxed(&gauge->last_at, at);
    uint64_t passed = at - shr_load_relaxed(&gauge->mark_at);
    if (passed < window)
        return;
    uint64_t grown = value - shr_load_relaxed(&gauge->mark);
    uint64_t rate = (uint64_t)((double)grown * 1e9 / (double)passed);
    if (rate > shr_load_relaxed(&gauge->peak))
        shr_store_relaxed(&gauge->peak, rate);
    shr_store_relaxed(&gauge->mark, value);
    shr_store_relaxed(&gauge->mark_at, at);
}

void demo_gauge_enter(struct demo_gauge *gauge, uint64_t value, uint64_t ns)
{
    enter(gauge, value, ns, WINDOW_NS);
}

void demo_gauge_busy(struct demo_gauge *gauge, uint64_t busy, uint64_t idle)
{
    uint64_t busy_before = shr_load_relaxed(&gauge->last);
    uint64_t idle_before = shr_load_relaxed(&gauge->last_at) - busy_before;
    /* The kernel corrects its columns at times, also downwards (proc(5), iowait). */
    busy = busy > busy_before ? busy : busy_before;
    idle = idle > idle_before ? idle : idle_before;
    enter(gauge, busy, busy + idle,
          (uint64_t)sysconf(_SC_CLK_TCK) * (uint64_t)sysconf(_SC_NPROCESSORS_ONLN) /
              WINDOWS_A_SECOND);
}

/* From what the gauge holds, per 1e9 of its clock, to what is shown. */
static double unit(enum demo_gauge_kind kind)
{
    switch (kind) {
    case DEMO_BUSY:
        return 1e9 / (double)sysconf(_SC_NPROCESSORS_ONLN);
    case DEMO_ON_CPU:
    case DEMO_QUEUED:
        return 1e9;
    default:
        return 1;
    }
}

double demo_gauge_mean(const struct demo_shared *shared, enum demo_gauge_kind kind)
{
    const struct demo_gauge *gauge = &shared->gauge[kind];
    uint64_t first_at = shr_load_relaxed(&gauge->first_at);
    uint64_t last_at = shr_load_relaxed(&gauge->last_at);
    uint64_t grown = shr_load_relaxed(&gauge->last) - shr_load_relaxed(&gauge->first);
    return last_at > first_at ? (double)grown * 1e9 / (double)(last_at - first_at) / unit(kind) : 0;
}

double demo_gauge_peak(const struct demo_shared *shared, enum demo_gauge_kind kind)
{
    return (double)shr_load_relaxed(&shared->gauge[kind].peak) / unit(kind);
}
