#include "bench/hist.h"

#include <string.h>

/* The middle of a bucket's range. */
static double bucket_middle_ps(unsigned idx)
{
    if (idx < BENCH_HIST_SUB) {
        return idx;
    }
    unsigned shift = idx / BENCH_HIST_SUB - 1u;
    double low = (double)((uint64_t)(BENCH_HIST_SUB + idx % BENCH_HIST_SUB) << shift);
    return low + (double)((uint64_t)1 << shift) / 2.0;
}

double bench_hist_ns(const struct bench_hist *h, double share)
{
    if (h->total == 0) {
        return 0.0;
    }
    uint64_t rank = (uint64_t)(share * (double)(h->total - 1));
    uint64_t seen = 0;
    for (unsigned i = 0; i < BENCH_HIST_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen > rank) {
            return bucket_middle_ps(i) / 1000.0;
        }
    }
    return (double)h->max_ps / 1000.0;
}

void bench_hist_merge(struct bench_hist *into, const struct bench_hist *from)
{
    if (from->total == 0) {
        return;
    }
    for (unsigned i = 0; i < BENCH_HIST_BUCKETS; i++) {
        into->bucket[i] += from->bucket[i];
    }
    into->total += from->total;
    if (from->max_ps > into->max_ps) {
        into->max_ps = from->max_ps;
    }
}

void bench_hist_clear(struct bench_hist *h)
{
    memset(h, 0, sizeof(*h));
}
