/* The floors: what the bare hardware, or the bare kernel, needs for what a bench asks of geb. Each
 * is a subject named "floor" whose mode is the floor's name; benches add the one that they compare
 * with and run it in the same rounds.
 *
 *     atomics      fetch_add and compare-and-swap, each on a line that no one else touches
 *     stream       one process writes 64-byte lines, another reads and sums them, with flow control
 *     line         one cache line, passed to and fro: the raw round trip
 *     line-full    the same, all its 64 bytes written, read and summed at each end
 *     line-pair    the same with a line for each direction
 *     memcpy       a copy between two buffers that the caches know
 *     futex        from FUTEX_WAKE until the sleeper runs
 *     gap          the longest time for which a busy process did not run, in each round
 */
#ifndef BENCH_FLOOR_H
#define BENCH_FLOOR_H

#include "bench/harness.h"

extern const struct bench_ops bench_floor_atomics;
extern const struct bench_ops bench_floor_stream;
extern const struct bench_ops bench_floor_line;
extern const struct bench_ops bench_floor_line_full;
extern const struct bench_ops bench_floor_line_pair;
extern const struct bench_ops bench_floor_memcpy;
extern const struct bench_ops bench_floor_futex;
extern const struct bench_ops bench_floor_gap;

/* Appends a floor to the plan and returns its index. */
unsigned bench_floor_add(struct bench_plan *plan, const struct bench_options *opt, const char *mode,
                         const struct bench_ops *ops, uint64_t count);

/* Samples of a rate are taken for one block of events in this many. */
#define BENCH_BLOCK 1024u

#endif
