/* The consumer process: handlers that aggregate the samples and keep the consumer's ledger. */
#include "tools/geb/demo.h"

#include "tools/common.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct handler_arg {
    struct demo_shared *shared;
    struct demo_seen *seen;
    uint64_t words; /* of the payload */
};

static struct geb_bus *stop_bus; /* for the signal handler */

static void on_stop(int sig)
{
    (void)sig;
    geb_stop(stop_bus);
}

static void one_more(shr_a64 *count)
{
    /* The consumer is the only writer. */
    shr_store_relaxed(count, shr_load_relaxed(count) + 1);
}

/* Enters an event into the ledger. The release: who sees `last` sees everything before it. */
static bool event_note(const struct handler_arg *arg, const struct geb_event *event)
{
    struct demo_seen *seen = arg->seen;
    uint64_t seq = 0, last = shr_load_relaxed(&seen->last);
    one_more(&seen->delivered);
    if (event->len == arg->words * sizeof seq)
        memcpy(&seq, event->data, sizeof seq);
    if (seq != event->number || seq == 0) {
        one_more(&seen->damaged);
        return false;
    }
    if (seq <= last) {
        one_more(&seen->disorder);
        return false;
    }
    if (seq > last + 1)
        shr_store_relaxed(&seen->gaps, shr_load_relaxed(&seen->gaps) + (seq - last - 1));
    shr_store_release(&seen->last, seq);
    return true;
}

static int on_cpu(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)ctx;
    const struct handler_arg *arg = user;
    const uint64_t *words = event->data;
    if (!event_note(arg, event))
        return 0;
    demo_gauge_busy(&arg->shared->gauge[DEMO_BUSY], words[1], words[2]);
    demo_gauge_enter(&arg->shared->gauge[DEMO_SWITCHES], words[3], geb_now());
    return 0;
}

/* The second handler of its topic: it fails now and then, which the bus has to count, and which
 * must not keep the event from being delivered. The first of these samples is published while
 * nothing can be dropped, so it fails at least once. */
static int on_process_strict(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)ctx;
    const struct handler_arg *arg = user;
    if (event->number % DEMO_STRICT_EVERY != 1)
        return 0;
    one_more(&arg->shared->ledger.handler_errors);
    return -EDOM;
}

static int on_memory(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)ctx;
    const struct handler_arg *arg = user;
    const uint64_t *words = event->data;
    if (!event_note(arg, event))
        return 0;
    uint64_t now = geb_now();
    demo_gauge_enter(&arg->shared->gauge[DEMO_FAULTS], words[1], now);
    demo_gauge_enter(&arg->shared->gauge[DEMO_MAJOR_FAULTS], words[2], now);
    return 0;
}

static int on_network(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)ctx;
    const struct handler_arg *arg = user;
    const uint64_t *words = event->data;
    if (!event_note(arg, event))
        return 0;
    uint64_t now = geb_now();
    demo_gauge_enter(&arg->shared->gauge[DEMO_RECEIVED], words[1], now);
    demo_gauge_enter(&arg->shared->gauge[DEMO_TRANSMITTED], words[2], now);
    demo_gauge_enter(&arg->shared->gauge[DEMO_PACKETS], words[3], now);
    return 0;
}

static int on_process(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)ctx;
    const struct handler_arg *arg = user;
    const uint64_t *words = event->data;
    if (!event_note(arg, event))
        return 0;
    shr_store_relaxed(&arg->shared->resident_bytes, words[3]);
    demo_gauge_enter(&arg->shared->gauge[DEMO_ON_CPU], words[4], words[7]);
    demo_gauge_enter(&arg->shared->gauge[DEMO_QUEUED], words[5], words[7]);
    return 0;
}

static int on_tick(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)ctx;
    const struct handler_arg *arg = user;
    const uint64_t *words = event->data;
    if (!event_note(arg, event))
        return 0;
    for (uint32_t i = 1; i < DEMO_TICK_WORDS; i++) {
        if (words[i] != demo_tick_word(words[0], i)) {
            one_more(&arg->seen->damaged);
            break;
        }
    }
    return 0;
}

static int on_block(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)ctx;
    const struct handler_arg *arg = user;
    if (event_note(arg, event) && !demo_block_check(event->data))
        one_more(&arg->seen->damaged);
    return 0;
}

static int on_late(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)ctx;
    (void)event;
    struct demo_shared *shared = user;
    one_more(&shared->ledger.uninvited);
    return 0;
}

/* The topic "unwanted" gets no handler, and there is no default one. */
static int handlers_add(struct geb_bus *bus, struct demo_shared *shared,
                        struct handler_arg arg[DEMO_SOURCE_CNT])
{
    static geb_handler *const handlers[DEMO_SOURCE_CNT] = {
        [DEMO_CPU] = on_cpu,         [DEMO_MEMORY] = on_memory, [DEMO_NETWORK] = on_network,
        [DEMO_PROCESS] = on_process, [DEMO_TICKS] = on_tick,    [DEMO_BLOCKS] = on_block,
    };
    static const uint64_t words[DEMO_SOURCE_CNT] = {
        [DEMO_CPU] = DEMO_SAMPLE_WORDS,     [DEMO_MEMORY] = DEMO_SAMPLE_WORDS,
        [DEMO_NETWORK] = DEMO_SAMPLE_WORDS, [DEMO_PROCESS] = DEMO_PROCESS_WORDS,
        [DEMO_TICKS] = DEMO_TICK_WORDS,     [DEMO_BLOCKS] = DEMO_BLOCK_WORDS,
    };
    int rc = 0;
    for (int i = 0; rc == 0 && i < DEMO_SOURCE_CNT; i++) {
        arg[i] = (struct handler_arg){shared, &shared->ledger.seen[i], words[i]};
        rc = geb_on(bus, demo_source_name[i], handlers[i], &arg[i]);
    }
    if (rc == 0)
        rc = geb_on(bus, demo_source_name[DEMO_PROCESS], on_process_strict, &arg[DEMO_PROCESS]);
    if (rc == 0)
        rc = geb_on(bus, "late", on_late, shared);
    return rc;
}

static int bus_consume(struct geb_bus *bus, struct demo_shared *shared)
{
    stop_bus = bus;
    struct sigaction stop = {.sa_handler = on_stop};
    sigset_t term;
    sigaction(SIGTERM, &stop, NULL);
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_UNBLOCK, &term, NULL); /* blocked by our supervisor, until here */
    shr_store_release(&shared->consumer_stage, DEMO_STAGE_READY);
    int rc = geb_run(bus);
    while (rc >= 0) {
        rc = geb_dispatch(bus, 0);
        if (rc == 0)
            break;
    }
    shared->metrics = (struct geb_metrics)GEB_METRICS_INIT;
    return rc < 0 ? rc : geb_metrics(bus, &shared->metrics);
}

/* The supervisor was killed, and could not remove the bus. The producers died with it; the last one
 * is gone within moments. */
static void orphan_remove(const char *bus)
{
    struct timespec moment = {.tv_nsec = 10000000};
    for (int i = 0; i < 500 && geb_remove(bus) == -EBUSY; i++)
        nanosleep(&moment, NULL);
}

int demo_consumer_main(const char *bus_name, struct demo_shared *shared, pid_t supervisor)
{
    struct handler_arg arg[DEMO_SOURCE_CNT];
    struct geb_bus *bus = NULL;
    int rc = geb_create(&bus, bus_name, NULL);
    if (rc == 0)
        shr_store_release(&shared->consumer_stage, DEMO_STAGE_MADE);
    if (rc == 0)
        rc = handlers_add(bus, shared, arg);
    if (rc == 0)
        rc = bus_consume(bus, shared);
    if (rc < 0)
        tool_explain("geb demo", "the consumer of", bus_name, rc);
    /* From here on there is no bus for the signal handler to stop. */
    signal(SIGTERM, SIG_IGN);
    int closed = geb_close(bus, 0);
    if (rc >= 0 && closed < 0)
        tool_explain("geb demo", "cannot close", bus_name, closed);
    if (getppid() != supervisor)
        orphan_remove(bus_name);
    return rc < 0 || closed < 0 ? TOOL_FAILURE : TOOL_OK;
}
