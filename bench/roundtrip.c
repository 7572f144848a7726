/* geb-bench roundtrip: how long is the way there and back over two buses?
 *
 * Two processes, each the consumer of one bus and a producer of the other one; each polls. A
 * handler answers every event by publishing on the other bus. Every trip is a sample: from before
 * the publish until the answer's handler runs; the book-keeping follows behind the next publish,
 * so that it falls into a time that the trip takes anyway. */
#include "bench/bus.h"
#include "bench/floor.h"

#include <errno.h>
#include <stdlib.h>

struct roundtrip_state {
    struct bench_turn *turn;
    struct geb_bus *bus;           /* idx = role: mine to consume */
    struct geb_producer *producer; /* of the other one */
    geb_topic_id topic;
    uint64_t sent; /* role 0: when, in ticks */
    struct bench_sink sink;
    unsigned char payload[BENCH_PAYLOAD_MAX];
};

static int on_question(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct roundtrip_state *s = user;
    (void)ctx;
    int rc = geb_publish(s->producer, s->topic, event->data, event->len);
    s->sink.events++;
    return rc;
}

static int on_answer(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct roundtrip_state *s = user;
    const struct bench_machine *m = s->turn->machine;
    uint64_t now = bench_ticks(m);
    uint64_t took = now - s->sent;
    int rc = 0;
    (void)ctx;
    s->sent = now;
    if (++s->sink.events < s->turn->count) {
        bench_payload_number(s->payload, s->turn->bytes, s->sink.events);
        rc = geb_publish(s->producer, s->topic, s->payload, s->turn->bytes);
    }
    s->sink.sum += bench_payload_sum(event->data, event->len);
    bench_hist_add(s->turn->hist, bench_ticks_ps(m, took));
    return rc;
}

static int roundtrip_open(struct bench_turn *turn)
{
    struct roundtrip_state *s = calloc(1, sizeof(*s));
    if (s == NULL) {
        return bench_fail(turn, -ENOMEM, "state");
    }
    turn->state = s;
    s->turn = turn;
    bench_payload_init(s->payload, turn->bytes);
    int rc = bench_bus_create(turn, turn->role, turn->role == 0 ? on_answer : on_question, s,
                              &s->bus);
    if (rc == 0) {
        bench_meet(turn);
        rc = bench_bus_join(turn, 1 - turn->role, &s->producer, &s->topic);
    }
    return rc;
}

static int roundtrip_round(struct bench_turn *turn)
{
    struct roundtrip_state *s = turn->state;
    int rc = 0;
    if (turn->role == 0) {
        bench_payload_number(s->payload, turn->bytes, 0);
        s->sent = bench_ticks(turn->machine);
        rc = geb_publish(s->producer, s->topic, s->payload, turn->bytes);
    }
    while (rc >= 0 && s->sink.events < turn->count) {
        rc = geb_dispatch(s->bus, 0);
    }
    if (rc < 0) {
        return bench_bus_fail(turn, rc, "a trip");
    }
    if (turn->role == 1) {
        s->sink = (struct bench_sink){0};
        return 0;
    }
    turn->elapsed_ns = shr_now_ns() - turn->start_ns;
    return bench_sink_check(turn, &s->sink, 0);
}

static void roundtrip_close(struct bench_turn *turn)
{
    struct roundtrip_state *s = turn->state;
    geb_leave(s->producer);
    bench_meet(turn);
    geb_close(s->bus, 0);
    free(s);
}

static const struct bench_ops roundtrip_ops = {
    .roles = 2, .open = roundtrip_open, .round = roundtrip_round, .close = roundtrip_close};

int bench_roundtrip(const struct bench_options *opt)
{
    static struct bench_plan plan = {
        .name = "roundtrip",
        .question = "how long is the way there and back over two buses?",
        .unit = "one trip; percentiles are over trips (floors: over means of 16), the ratio is of "
                "the rounds' p50",
        .rounds = 200};
    uint32_t bytes = opt->bytes != 0 ? opt->bytes : BENCH_PAYLOAD_BYTES;

    if (bench_payload_check(bytes) < 0) {
        return 2;
    }
    unsigned floor = bench_floor_add(&plan, opt, "line", &bench_floor_line, 2000);
    unsigned full = bench_floor_add(&plan, opt, "line-full", &bench_floor_line_full, 2000);
    unsigned pair = bench_floor_add(&plan, opt, "line-pair", &bench_floor_line_pair, 2000);
    plan.subject[floor].latency = true;
    plan.subject[full].latency = true;
    plan.subject[pair].latency = true;
    struct bench_subject geb = {
        .ops = &roundtrip_ops, .count = 2000, .bytes = bytes, .floor = floor, .latency = true};
    return bench_run_modes(&plan, opt, GEB_BLOCK, geb);
}
