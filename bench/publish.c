/* geb-bench publish: what does one geb_publish cost, with nobody else at the ring?
 *
 * The producer publishes a slice, which alone is timed, while the consumer waits elsewhere; then
 * the consumer, another process, drains the ring while the producer waits. So the cells come from
 * the other processor's cache, as they do in life. Samples: one a slice, time by event. */
#include "bench/bus.h"
#include "bench/floor.h"

#include <errno.h>
#include <stdlib.h>

#define SLICE 4096u

static int publish_open(struct bench_turn *turn)
{
    struct bench_pair *s = calloc(1, sizeof(*s));
    if (s == NULL) {
        return bench_fail(turn, -ENOMEM, "state");
    }
    turn->state = s;
    return bench_pair_open(turn, s, bench_on_event, &s->sink);
}

static int publish_slice(struct bench_turn *turn, uint64_t cnt)
{
    struct bench_pair *s = turn->state;
    uint64_t begin = bench_ticks(turn->machine);
    for (uint64_t i = 0; i < cnt; i++) {
        bench_payload_number(s->payload, turn->bytes, s->number + i);
        int rc = geb_publish(s->producer, s->topic, s->payload, turn->bytes);
        if (rc < 0) {
            return bench_bus_fail(turn, rc, "geb_publish");
        }
    }
    uint64_t ps = bench_ticks_ps(turn->machine, bench_ticks(turn->machine) - begin);
    bench_hist_add(turn->hist, ps / cnt);
    turn->elapsed_ns += ps / 1000u;
    s->number += cnt;
    return 0;
}

static int drain(struct bench_turn *turn, uint64_t cnt)
{
    struct bench_pair *s = turn->state;
    uint64_t end = s->sink.events + cnt;
    while (s->sink.events < end) {
        int rc = geb_dispatch(s->bus, 0);
        if (rc < 0) {
            return bench_bus_fail(turn, rc, "geb_dispatch");
        }
    }
    return 0;
}

static int publish_round(struct bench_turn *turn)
{
    struct bench_pair *s = turn->state;
    int rc = 0;
    for (uint64_t left = turn->count; left > 0 && rc == 0;) {
        uint64_t cnt = left < SLICE ? left : SLICE;
        if (turn->role == 0) {
            rc = publish_slice(turn, cnt);
        }
        bench_meet(turn);
        if (turn->role == 1) {
            rc = drain(turn, cnt);
        }
        bench_meet(turn);
        left -= cnt;
    }
    if (rc == 0 && turn->role == 1) {
        rc = bench_sink_check(turn, &s->sink, s->number);
        s->number += turn->count;
    }
    return rc;
}

static void publish_close(struct bench_turn *turn)
{
    bench_pair_close(turn, turn->state);
    free(turn->state);
}

static const struct bench_ops publish_ops = {
    .roles = 2, .open = publish_open, .round = publish_round, .close = publish_close};

int bench_publish(const struct bench_options *opt)
{
    static struct bench_plan plan = {
        .name = "publish",
        .question = "what does a publish cost, with nobody else at the ring?",
        .unit = "one geb_publish; percentiles are over slices of 4096",
        .rounds = 150};
    uint32_t bytes = opt->bytes != 0 ? opt->bytes : BENCH_PAYLOAD_BYTES;

    if (bench_payload_check(bytes) < 0) {
        return 2;
    }
    unsigned floor = bench_floor_add(&plan, opt, "atomics", &bench_floor_atomics, 16384);
    struct bench_subject geb = {
        .ops = &publish_ops, .count = 16384, .bytes = bytes, .floor = floor};
    return bench_run_modes(&plan, opt, GEB_DROP_OLDEST, geb);
}
