/* A log-linear histogram of times: 128 buckets an octave, so a percentile is at most 0.8 % off.
 *
 * Values are picoseconds, because an event may cost less than ten nanoseconds. One writer. A
 * histogram is plain memory: it may lie in a mapping that processes share, if a barrier separates
 * its writer from its reader.
 */
#ifndef BENCH_HIST_H
#define BENCH_HIST_H

#include <stdint.h>

#define BENCH_HIST_SUB_BITS 7u
#define BENCH_HIST_SUB      (1u << BENCH_HIST_SUB_BITS)
#define BENCH_HIST_BUCKETS  ((64u - BENCH_HIST_SUB_BITS + 1u) * BENCH_HIST_SUB)

struct bench_hist {
    uint64_t total;
    uint64_t max_ps;
    uint64_t bucket[BENCH_HIST_BUCKETS];
};

static inline unsigned bench_hist_index(uint64_t ps)
{
    if (ps < BENCH_HIST_SUB) {
        return (unsigned)ps;
    }
    unsigned shift = 63u - BENCH_HIST_SUB_BITS - (unsigned)__builtin_clzll(ps);
    return (shift + 1u) * BENCH_HIST_SUB + (unsigned)((ps >> shift) & (BENCH_HIST_SUB - 1u));
}

static inline void bench_hist_add(struct bench_hist *h, uint64_t ps)
{
    h->bucket[bench_hist_index(ps)]++;
    h->total++;
    if (ps > h->max_ps) {
        h->max_ps = ps;
    }
}

/* The value in ns under which `share` (0 … 1) of the samples lie; 0 if there is no sample. */
double bench_hist_ns(const struct bench_hist *h, double share);

void bench_hist_merge(struct bench_hist *into, const struct bench_hist *from);
void bench_hist_clear(struct bench_hist *h);

#endif
