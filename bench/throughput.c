/* geb-bench throughput: how fast does one producer feed one consumer, flat out?
 *
 * Two processes, policy Block: nothing is lost, and a full ring makes the producer wait. The
 * handler reads and sums every byte, and the sum is checked. Time runs from the start line until
 * the last event is handled.
 * Rounds are short, because a long one is never calm. Samples: one a block of events, time by
 * event. */
#include "bench/bus.h"
#include "bench/floor.h"

#include <errno.h>
#include <stdlib.h>

struct throughput_state {
    struct bench_turn *turn;
    uint64_t block_begin;
    struct bench_pair pair;
};

static int on_event(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct throughput_state *s = user;
    (void)ctx;
    bench_sink_add(&s->pair.sink, event);
    if (s->pair.sink.events % BENCH_BLOCK == 0) {
        const struct bench_machine *m = s->turn->machine;
        uint64_t now = bench_ticks(m);
        bench_hist_add(s->turn->hist, bench_ticks_ps(m, now - s->block_begin) / BENCH_BLOCK);
        s->block_begin = now;
    }
    return 0;
}

static int throughput_open(struct bench_turn *turn)
{
    struct throughput_state *s = calloc(1, sizeof(*s));
    if (s == NULL) {
        return bench_fail(turn, -ENOMEM, "state");
    }
    turn->state = s;
    s->turn = turn;
    return bench_pair_open(turn, &s->pair, on_event, s);
}

static int produce(struct bench_turn *turn, struct bench_pair *s)
{
    for (uint64_t i = 0; i < turn->count; i++) {
        bench_payload_number(s->payload, turn->bytes, s->number++);
        int rc = geb_publish(s->producer, s->topic, s->payload, turn->bytes);
        if (rc < 0) {
            return bench_bus_fail(turn, rc, "geb_publish");
        }
    }
    return 0;
}

static int consume(struct bench_turn *turn, struct throughput_state *s)
{
    struct bench_pair *pair = &s->pair;
    s->block_begin = bench_ticks(turn->machine);
    while (pair->sink.events < turn->count) {
        int rc = geb_dispatch(pair->bus, 0);
        if (rc < 0) {
            return bench_bus_fail(turn, rc, "geb_dispatch");
        }
    }
    turn->elapsed_ns = shr_now_ns() - turn->start_ns;
    int rc = bench_sink_check(turn, &pair->sink, pair->number);
    pair->number += turn->count;
    return rc;
}

static int throughput_round(struct bench_turn *turn)
{
    struct throughput_state *s = turn->state;
    return turn->role == 0 ? produce(turn, &s->pair) : consume(turn, s);
}

static void throughput_close(struct bench_turn *turn)
{
    struct throughput_state *s = turn->state;
    bench_pair_close(turn, &s->pair);
    free(s);
}

static const struct bench_ops throughput_ops = {
    .roles = 2, .open = throughput_open, .round = throughput_round, .close = throughput_close};

int bench_throughput(const struct bench_options *opt)
{
    static struct bench_plan plan = {.name = "throughput",
                                     .question = "how fast does one producer feed one consumer?",
                                     .unit = "one event, published and handled; percentiles are "
                                             "over blocks of 1024",
                                     .rounds = 100};
    uint32_t bytes = opt->bytes != 0 ? opt->bytes : BENCH_PAYLOAD_BYTES;

    if (bench_payload_check(bytes) < 0) {
        return 2;
    }
    unsigned floor = bench_floor_add(&plan, opt, "stream", &bench_floor_stream, 65536);
    struct bench_subject geb = {
        .ops = &throughput_ops, .count = 65536, .bytes = bytes, .floor = floor};
    return bench_run_modes(&plan, opt, GEB_BLOCK, geb);
}
