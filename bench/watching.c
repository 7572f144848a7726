/* geb-bench watching: what does an observer cost the others?
 *
 * A publisher publishes a slice, which alone is timed, while a process on another CPU watches; then
 * that process empties the bus. The floor is the same, but the process beside it works on memory of
 * its own: an observer that keeps a CPU busy costs what any busy process costs, and that is not
 * what is asked here.
 *
 *     tap            geb_tap_next without a pause: reads every event as it comes
 *     tap-waiting    geb_tap_wait, which naps: what `geb tap` does
 *     tap-dropping   as tap, and the bus is full: each publish drops the oldest event
 *     metrics        one geb_watch_metrics a slice, thousands a second; at one a second the loss is
 *                    (ratio - 1) × a slice's time / 1 s
 *     throughput-tap publisher, consumer and tap, flat out, against the two alone. It needs three
 *                    CPUs: with less the tap takes one of the others' away, and that is all that
 *                    is measured; so then only --mode throughput-tap runs it.
 *
 * How much the tap saw is said on standard error. */
#include "bench/bus.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLICE     32768u
#define WORK_KIB  32u
#define LAST_ROLE 2u

enum watching {
    WATCH_NOTHING,
    WATCH_TAP,
    WATCH_TAP_WAITING,
    WATCH_METRICS,
};

struct watching_arg {
    struct bench_bus bus; /* first: bench_bus_create and _join expect it */
    enum watching what;
    bool dropping;
    bool flat_out; /* three roles, no slices */
};

struct watching_shared {
    _Alignas(128) shr_a64 slices; /* published */
    _Alignas(128) shr_a64 handled;
};

struct watching_state {
    struct bench_pair pair;
    struct geb_watch *watch;
    uint64_t slices;
    uint64_t sum; /* of what the observer read */
    uint64_t work[WORK_KIB * 1024 / 8];
};

static const struct watching_arg *arg_of(const struct bench_turn *turn)
{
    return turn->subject->arg;
}

static int watching_open(struct bench_turn *turn)
{
    const struct watching_arg *arg = arg_of(turn);
    struct watching_state *s = calloc(1, sizeof(*s));
    unsigned watcher = arg->flat_out ? LAST_ROLE : 1;
    if (s == NULL) {
        return bench_fail(turn, -ENOMEM, "state");
    }
    turn->state = s;
    int rc = bench_pair_open(turn, &s->pair, bench_on_event, &s->pair.sink);
    if (rc == 0 && turn->role == watcher && arg->what != WATCH_NOTHING) {
        rc = geb_watch(&s->watch, arg->bus.name[0]);
        if (rc == 0) {
            rc = geb_tap(s->watch, GEB_TAP_NOW);
        }
        if (rc < 0) {
            return bench_bus_fail(turn, rc, "geb_watch");
        }
    }
    bench_meet(turn);
    return rc;
}

static int publish(struct bench_turn *turn, struct bench_pair *s, uint64_t cnt)
{
    for (uint64_t i = 0; i < cnt; i++) {
        bench_payload_number(s->payload, turn->bytes, s->number + i);
        int rc = geb_publish(s->producer, s->topic, s->payload, turn->bytes);
        if (rc < 0) {
            return bench_bus_fail(turn, rc, "geb_publish");
        }
    }
    s->number += cnt;
    return 0;
}

/* ---- the observer ---------------------------------------------------------------------------- */

static void work(struct watching_state *s)
{
    for (unsigned i = 0; i < WORK_KIB * 1024 / 8; i++) {
        s->work[i] = s->work[i] * 3 + i;
    }
}

/* 1: an event was read; 0: none was there. */
static int look(struct watching_state *s, enum watching what)
{
    struct geb_event event;
    int rc;
    if (what == WATCH_TAP_WAITING) {
        rc = geb_tap_wait(s->watch, &event, geb_now() + 100000);
        rc = rc == -ETIMEDOUT ? 0 : rc;
    } else {
        rc = geb_tap_next(s->watch, &event);
    }
    if (rc == 1) {
        s->sum += bench_payload_sum(event.data, event.len);
    }
    return rc;
}

/* Until `word` has come to `end`. */
static int watch_until(struct bench_turn *turn, const shr_a64 *word, uint64_t end)
{
    struct watching_state *s = turn->state;
    const struct watching_arg *arg = arg_of(turn);
    struct geb_metrics metrics = GEB_METRICS_INIT;
    int rc = 0;
    if (arg->what == WATCH_METRICS) {
        rc = geb_watch_metrics(s->watch, &metrics);
    }
    while (rc >= 0 && shr_load_acquire(word) < end) {
        if (arg->what == WATCH_TAP || arg->what == WATCH_TAP_WAITING) {
            /* So many events at most before the next look at the word, which has a line too. */
            for (unsigned i = 0; i < 256 && (rc = look(s, arg->what)) == 1; i++) {
                continue;
            }
        } else {
            work(s);
        }
    }
    return rc < 0 ? bench_bus_fail(turn, rc, "watching") : 0;
}

/* What the tap has not read yet, so that the next slice finds it at the end. */
static int catch_up(struct bench_turn *turn)
{
    struct watching_state *s = turn->state;
    struct geb_event event;
    int rc = 1;
    if (arg_of(turn)->what == WATCH_TAP || arg_of(turn)->what == WATCH_TAP_WAITING) {
        while ((rc = geb_tap_wait(s->watch, &event, 0)) == 1) {
            s->sum += bench_payload_sum(event.data, event.len);
        }
    }
    return rc < 0 && rc != -ETIMEDOUT ? bench_bus_fail(turn, rc, "geb_tap_wait") : 0;
}

/* ---- in slices ------------------------------------------------------------------------------- */

static int publish_slice(struct bench_turn *turn, uint64_t cnt)
{
    struct watching_state *s = turn->state;
    uint64_t begin = bench_ticks(turn->machine);
    int rc = publish(turn, &s->pair, cnt);
    uint64_t ps = bench_ticks_ps(turn->machine, bench_ticks(turn->machine) - begin);
    bench_hist_add(turn->hist, ps / cnt);
    turn->elapsed_ns += ps / 1000u;
    return rc;
}

static int drain(struct bench_turn *turn)
{
    struct watching_state *s = turn->state;
    int rc = 1;
    while (rc > 0 && !arg_of(turn)->dropping) {
        rc = geb_dispatch(s->pair.bus, 0);
    }
    return rc < 0 ? bench_bus_fail(turn, rc, "geb_dispatch") : 0;
}

static int slices_round(struct bench_turn *turn)
{
    struct watching_state *s = turn->state;
    struct watching_shared *shared = turn->shared;
    int rc = 0;
    for (uint64_t left = turn->count; left > 0 && rc == 0;) {
        uint64_t cnt = left < SLICE ? left : SLICE;
        s->slices++;
        if (turn->role == 0) {
            rc = publish_slice(turn, cnt);
            shr_store_release(&shared->slices, s->slices);
        } else {
            rc = watch_until(turn, &shared->slices, s->slices);
        }
        bench_meet(turn);
        if (turn->role == 1 && rc == 0) {
            rc = catch_up(turn);
            rc = rc == 0 ? drain(turn) : rc;
        }
        bench_meet(turn);
        left -= cnt;
    }
    if (rc == 0 && turn->role == 1 && !arg_of(turn)->dropping) {
        rc = bench_sink_check(turn, &s->pair.sink, s->pair.number);
        s->pair.number += turn->count;
    }
    return rc;
}

/* ---- flat out -------------------------------------------------------------------------------- */

static int flat_round(struct bench_turn *turn)
{
    struct watching_state *s = turn->state;
    struct watching_shared *shared = turn->shared;
    int rc = 0;
    if (turn->role == 0) {
        return publish(turn, &s->pair, turn->count);
    }
    s->slices++;
    if (turn->role == LAST_ROLE) {
        return watch_until(turn, &shared->handled, s->slices);
    }
    while (s->pair.sink.events < turn->count && rc >= 0) {
        rc = geb_dispatch(s->pair.bus, 0);
    }
    turn->elapsed_ns = shr_now_ns() - turn->start_ns;
    shr_store_release(&shared->handled, s->slices);
    if (rc < 0) {
        return bench_bus_fail(turn, rc, "geb_dispatch");
    }
    rc = bench_sink_check(turn, &s->pair.sink, s->pair.number);
    s->pair.number += turn->count;
    return rc;
}

static void watching_close(struct bench_turn *turn)
{
    struct watching_state *s = turn->state;
    struct geb_tap_counts c = GEB_TAP_COUNTS_INIT;
    const struct watching_arg *arg = arg_of(turn);
    if (s->watch != NULL && arg->what != WATCH_METRICS && catch_up(turn) == 0 &&
        geb_tap_counts(s->watch, &c) == 0) {
        fprintf(stderr, "%s: the tap saw %.3f %% of %llu events\n", turn->subject->mode,
                100.0 * (double)c.seen / (double)(c.seen + c.missed + (c.seen == 0)),
                (unsigned long long)(c.seen + c.missed));
    }
    geb_unwatch(s->watch);
    bench_pair_close(turn, &s->pair);
    free(s);
}

#define OPS(number, round_of)                                                                     \
    {                                                                                             \
        .roles = (number), .shared_bytes = sizeof(struct watching_shared), .open = watching_open, \
        .round = (round_of), .close = watching_close                                              \
    }
static const struct bench_ops slices_ops = OPS(2, slices_round);
static const struct bench_ops flat_ops = OPS(2, flat_round);
static const struct bench_ops flat_watched_ops = OPS(3, flat_round);

/* ---- the plan -------------------------------------------------------------------------------- */

struct row {
    const char *mode;
    enum watching what;
    bool dropping;
    unsigned floor; /* row of its floor */
    const struct bench_ops *ops;
};

enum { ROW_SLICES, ROW_DROPPING, ROW_FLAT };

static const struct row rows[] = {
    [ROW_SLICES] = {"unwatched", WATCH_NOTHING, false, ROW_SLICES, &slices_ops},
    [ROW_DROPPING] = {"unwatched-dropping", WATCH_NOTHING, true, ROW_DROPPING, &slices_ops},
    [ROW_FLAT] = {"unwatched-throughput", WATCH_NOTHING, false, ROW_FLAT, &flat_ops},
    {"tap", WATCH_TAP, false, ROW_SLICES, &slices_ops},
    {"tap-waiting", WATCH_TAP_WAITING, false, ROW_SLICES, &slices_ops},
    {"tap-dropping", WATCH_TAP, true, ROW_DROPPING, &slices_ops},
    {"metrics", WATCH_METRICS, false, ROW_SLICES, &slices_ops},
    {"throughput-tap", WATCH_TAP, false, ROW_FLAT, &flat_watched_ops},
};
#define ROW_CNT (sizeof(rows) / sizeof(rows[0]))

int bench_watching(const struct bench_options *opt)
{
    static struct watching_arg arg[ROW_CNT];
    static struct bench_plan plan = {.name = "watching",
                                     .question = "what does an observer cost the others?",
                                     .unit = "one geb_publish (throughput: published and handled); "
                                             "percentiles are over slices of 32768",
                                     .rounds = 100};
    static struct bench_machine machine;
    uint32_t bytes = opt->bytes != 0 ? opt->bytes : BENCH_PAYLOAD_BYTES;
    unsigned idx[ROW_CNT] = {0};

    if (bench_payload_check(bytes) < 0 || bench_machine_read(&machine, opt->cpus) < 0) {
        return 2;
    }
    bool only_flat = opt->mode != NULL && strcmp(opt->mode, "throughput-tap") == 0;
    for (unsigned i = 0; i < ROW_CNT; i++) {
        bool flat = rows[rows[i].floor].ops == &flat_ops;
        /* A floor whose rows are left out, or a row without enough CPUs. */
        if (only_flat ? !flat : flat && machine.cpu_cnt <= LAST_ROLE) {
            continue;
        }
        bench_bus_init(&arg[i].bus, "watching", rows[i].mode,
                       rows[i].dropping ? GEB_DROP_OLDEST : GEB_BLOCK);
        arg[i].what = rows[i].what;
        arg[i].dropping = rows[i].dropping;
        arg[i].flat_out = flat;
        int at = bench_plan_add(
            &plan, opt,
            (struct bench_subject){.name = rows[i].what == WATCH_NOTHING ? "floor" : "geb",
                                   .mode = rows[i].mode,
                                   .ops = rows[i].ops,
                                   .arg = &arg[i],
                                   .count = 65536,
                                   .bytes = bytes,
                                   .producers = 1,
                                   .floor = idx[rows[i].floor]});
        idx[i] = at >= 0 ? (unsigned)at : 0;
    }
    if (machine.cpu_cnt <= LAST_ROLE && opt->mode == NULL) {
        fprintf(stderr, "geb-bench: throughput-tap needs 3 CPUs, here are %u: left out\n",
                machine.cpu_cnt);
    }
    int status = bench_run(&plan, opt);
    for (unsigned i = 0; i < ROW_CNT; i++) {
        if (arg[i].bus.name[0][0] != '\0') {
            bench_bus_remove(&arg[i].bus);
        }
    }
    return status;
}
