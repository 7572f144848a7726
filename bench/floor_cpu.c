/* The floors of the processor: atomics, a stream of lines, a line to and fro. */
#include "bench/floor.h"

#include <errno.h>
#include <stdlib.h>

#define LINE_WORDS 8u

struct line {
    _Alignas(64) shr_a64 word[LINE_WORDS];
};

/* Keeps a sum that nothing else needs from being computed away. */
static void use(uint64_t value)
{
    __asm__ volatile("" ::"r"(value));
}

/* ---- atomics: the two locked instructions that a shared ring cannot do without -------------- */

struct atomics_area {
    _Alignas(128) shr_a64 ticket;
    _Alignas(128) shr_a64 state;
};

static int atomics_round(struct bench_turn *turn)
{
    struct atomics_area *a = turn->shared;
    uint64_t begin_ns = shr_now_ns();
    for (uint64_t i = 0; i < turn->count; i++) {
        uint64_t ticket = shr_fetch_add_acq_rel(&a->ticket, 1);
        uint64_t state = shr_load_acquire(&a->state);
        shr_cas_release(&a->state, state, ticket);
    }
    turn->elapsed_ns = shr_now_ns() - begin_ns;
    return 0;
}

const struct bench_ops bench_floor_atomics = {
    .roles = 1, .shared_bytes = sizeof(struct atomics_area), .round = atomics_round};

/* ---- stream: one producer, one consumer, no claims, no states, no handlers ------------------ */

/* As many lines as the default bus has cells, so that both live in the same caches. */
#define STREAM_LINES (2u * 65536u)
#define STREAM_BATCH 32u /* the consumer says that often how far it is */

struct stream_area {
    _Alignas(128) shr_a64 done;
    _Alignas(128) struct line line[STREAM_LINES];
};

struct stream_state {
    uint64_t pos;
};

static int stream_open(struct bench_turn *turn)
{
    turn->state = calloc(1, sizeof(struct stream_state));
    return turn->state == NULL ? -ENOMEM : 0;
}

static void stream_close(struct bench_turn *turn)
{
    free(turn->state);
}

/* Writes all 64 bytes of each line: seven words, then the one that says that they are there. */
static void stream_produce(struct bench_turn *turn)
{
    struct stream_area *a = turn->shared;
    struct stream_state *state = turn->state;
    uint64_t pos = state->pos;
    uint64_t end = pos + turn->count;
    uint64_t done = shr_load_acquire(&a->done);
    for (; pos < end; pos++) {
        while (pos - done >= STREAM_LINES) {
            done = shr_load_acquire(&a->done);
        }
        struct line *line = &a->line[pos % STREAM_LINES];
        for (unsigned w = 1; w < LINE_WORDS; w++) {
            shr_store_relaxed(&line->word[w], pos + w);
        }
        shr_store_release(&line->word[0], pos + 1);
    }
    state->pos = pos;
}

static uint64_t stream_consume(struct bench_turn *turn)
{
    struct stream_area *a = turn->shared;
    struct stream_state *state = turn->state;
    uint64_t pos = state->pos;
    uint64_t end = pos + turn->count;
    uint64_t sum = 0;
    unsigned unsaid = 0;
    uint64_t block_begin = bench_ticks(turn->machine);
    while (pos < end) {
        struct line *line = &a->line[pos % STREAM_LINES];
        if (shr_load_acquire(&line->word[0]) != pos + 1) {
            if (unsaid > 0) {
                shr_store_release(&a->done, pos);
                unsaid = 0;
            }
            continue;
        }
        for (unsigned w = 1; w < LINE_WORDS; w++) {
            sum += shr_load_relaxed(&line->word[w]);
        }
        pos++;
        if (++unsaid == STREAM_BATCH) {
            shr_store_release(&a->done, pos);
            unsaid = 0;
        }
        if (pos % BENCH_BLOCK == 0) {
            uint64_t now = bench_ticks(turn->machine);
            bench_hist_add(turn->hist,
                           bench_ticks_ps(turn->machine, now - block_begin) / BENCH_BLOCK);
            block_begin = now;
        }
    }
    shr_store_release(&a->done, pos);
    state->pos = pos;
    return sum;
}

static int stream_round(struct bench_turn *turn)
{
    if (turn->role == 0) {
        stream_produce(turn);
        return 0;
    }
    const struct stream_state *state = turn->state;
    uint64_t first = state->pos;
    uint64_t n = turn->count;
    uint64_t sum = stream_consume(turn);
    turn->elapsed_ns = shr_now_ns() - turn->start_ns;
    /* Σ over positions of Σ over words 1…7 of (position + word) */
    uint64_t expected = 7u * (n * first + n * (n - 1) / 2u) + 28u * n;
    return sum == expected ? 0 : bench_fail(turn, -EBADMSG, "the stream's sum is wrong");
}

const struct bench_ops bench_floor_stream = {.roles = 2,
                                             .shared_bytes = sizeof(struct stream_area),
                                             .open = stream_open,
                                             .round = stream_round,
                                             .close = stream_close};

/* ---- a line to and fro ---------------------------------------------------------------------- */

/* Reading the clock between a line's arrival and its return gives the other side the time to ask
 * for it again, which nearly doubles the trip. A floor must not carry that; so it stamps few
 * trips. */
#define TRIPS_PER_SAMPLE 16u

/* How far a line travels also depends on where its address is at home on the chip, and the cells of
 * a ring are at home everywhere; so each sample is taken with another line. */
#define TRIP_LINES 256u

struct line_area {
    _Alignas(128) uint64_t pos[2][16]; /* of each role, from round to round: 128 bytes apart */
    struct {
        _Alignas(128) struct line there;
        _Alignas(128) struct line back;
    } at[TRIP_LINES];
};

/* Writes `words` words, the telling one last. */
static inline void line_send(struct line *line, uint64_t mark, unsigned words)
{
    for (unsigned w = 1; w < words; w++) {
        shr_store_relaxed(&line->word[w], mark + w);
    }
    shr_store_release(&line->word[0], mark);
}

static inline uint64_t line_await(const struct line *line, uint64_t mark, unsigned words)
{
    uint64_t sum = 0;
    while (shr_load_acquire(&line->word[0]) != mark) {
    }
    for (unsigned w = 1; w < words; w++) {
        sum += shr_load_relaxed(&line->word[w]);
    }
    return sum;
}

/* Trip n sends the mark 2n + 1 there and 2n + 2 back. */
static inline void line_trips(struct bench_turn *turn, bool pair, unsigned words)
{
    struct line_area *a = turn->shared;
    uint64_t pos = a->pos[turn->role][0];
    uint64_t end = pos + turn->count;
    uint64_t sum = 0;
    uint64_t begin_ns = shr_now_ns();
    uint64_t sent = bench_ticks(turn->machine);
    while (pos < end) {
        unsigned idx = (unsigned)(pos / TRIPS_PER_SAMPLE % TRIP_LINES);
        struct line *there = &a->at[idx].there;
        struct line *back = pair ? &a->at[idx].back : there;
        if (turn->role == 1) {
            sum += line_await(there, 2 * pos + 1, words);
            line_send(back, 2 * pos + 2, words);
            pos++;
            continue;
        }
        line_send(there, 2 * pos + 1, words);
        sum += line_await(back, 2 * pos + 2, words);
        if (++pos % TRIPS_PER_SAMPLE == 0) {
            uint64_t now = bench_ticks(turn->machine);
            bench_hist_add(turn->hist,
                           bench_ticks_ps(turn->machine, now - sent) / TRIPS_PER_SAMPLE);
            sent = now;
        }
    }
    a->pos[turn->role][0] = pos;
    turn->elapsed_ns = turn->role == 0 ? shr_now_ns() - begin_ns : 0;
    use(sum);
}

/* A line moves whole, however little of it is written: this is the raw round trip. */
static int line_round(struct bench_turn *turn)
{
    line_trips(turn, false, 1);
    return 0;
}

static int line_full_round(struct bench_turn *turn)
{
    line_trips(turn, false, LINE_WORDS);
    return 0;
}

static int line_pair_round(struct bench_turn *turn)
{
    line_trips(turn, true, LINE_WORDS);
    return 0;
}

const struct bench_ops bench_floor_line = {
    .roles = 2, .shared_bytes = sizeof(struct line_area), .round = line_round};
const struct bench_ops bench_floor_line_full = {
    .roles = 2, .shared_bytes = sizeof(struct line_area), .round = line_full_round};
const struct bench_ops bench_floor_line_pair = {
    .roles = 2, .shared_bytes = sizeof(struct line_area), .round = line_pair_round};
