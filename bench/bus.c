#include "bench/bus.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TOPIC "bench"

void bench_bus_init(struct bench_bus *bus, const char *bench, const char *mode,
                    enum geb_policy policy)
{
    *bus = (struct bench_bus){.config = GEB_CONFIG_INIT};
    bus->config.policy = policy;
    bus->config.exclusive = strcmp(mode, "exclusive") == 0;
    for (unsigned i = 0; i < 2; i++) {
        snprintf(bus->name[i], sizeof(bus->name[i]), "bench-%s-%s-%d-%u", bench, mode,
                 (int)getpid(), i);
    }
}

void bench_bus_remove(const struct bench_bus *bus)
{
    for (unsigned i = 0; i < 2; i++) {
        int rc = geb_remove(bus->name[i]);
        if (rc < 0 && rc != -ENOENT) {
            fprintf(stderr, "geb-bench: bus %s stays behind: %s\n", bus->name[i], geb_strerror(rc));
        }
    }
}

int bench_bus_fail(const struct bench_turn *turn, int rc, const char *what)
{
    fprintf(stderr, "geb-bench: %s, role %u: %s: %s (%s)\n", turn->subject->mode, turn->role, what,
            geb_strerror(rc), geb_last_error());
    return rc;
}

int bench_bus_create(struct bench_turn *turn, unsigned idx, geb_handler *handler, void *user,
                     struct geb_bus **out)
{
    const struct bench_bus *bus = turn->subject->arg;
    int rc = geb_create(out, bus->name[idx], &bus->config);
    if (rc < 0) {
        return bench_bus_fail(turn, rc, "geb_create");
    }
    rc = geb_on(*out, TOPIC, handler, user);
    return rc < 0 ? bench_bus_fail(turn, rc, "geb_on") : 0;
}

int bench_bus_join(struct bench_turn *turn, unsigned idx, struct geb_producer **out,
                   geb_topic_id *topic)
{
    const struct bench_bus *bus = turn->subject->arg;
    int rc = geb_join(out, bus->name[idx], "geb-bench");
    if (rc < 0) {
        return bench_bus_fail(turn, rc, "geb_join");
    }
    rc = geb_topic(*out, TOPIC, topic);
    return rc < 0 ? bench_bus_fail(turn, rc, "geb_topic") : 0;
}

int bench_on_event(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)ctx;
    bench_sink_add(user, event);
    return 0;
}

int bench_pair_open(struct bench_turn *turn, struct bench_pair *pair, geb_handler *handler,
                    void *user)
{
    bench_payload_init(pair->payload, turn->bytes);
    int rc = turn->role == 1 ? bench_bus_create(turn, 0, handler, user, &pair->bus) : 0;
    if (rc == 0) {
        bench_meet(turn);
        rc = turn->role == 0 ? bench_bus_join(turn, 0, &pair->producer, &pair->topic) : 0;
    }
    return rc;
}

void bench_pair_close(struct bench_turn *turn, struct bench_pair *pair)
{
    geb_leave(pair->producer);
    bench_meet(turn);
    if (turn->role == 1) {
        geb_close(pair->bus, 0);
    }
}

int bench_run_modes(struct bench_plan *plan, const struct bench_options *opt,
                    enum geb_policy policy, struct bench_subject subject)
{
    static struct bench_bus bus[2];
    static const char *const modes[] = {"shared", "exclusive"};
    for (unsigned i = 0; i < 2; i++) {
        bench_bus_init(&bus[i], plan->name, modes[i], policy);
        subject.name = "geb";
        subject.mode = modes[i];
        subject.arg = &bus[i];
        subject.producers = 1;
        bench_plan_add(plan, opt, subject);
    }
    int status = bench_run(plan, opt);
    bench_bus_remove(&bus[0]);
    bench_bus_remove(&bus[1]);
    return status;
}

int bench_payload_check(uint32_t bytes)
{
    if (bytes > BENCH_PAYLOAD_MAX) {
        fprintf(stderr, "geb-bench: --bytes %u: an event carries at most %u\n", bytes,
                BENCH_PAYLOAD_MAX);
        return -EINVAL;
    }
    return 0;
}

void bench_payload_init(unsigned char *payload, uint32_t bytes)
{
    memset(payload, 0, bytes);
    for (uint64_t w = 1; (w + 1) * sizeof(w) <= bytes; w++) {
        memcpy(payload + w * sizeof(w), &w, sizeof(w));
    }
}

uint64_t bench_payload_expected(uint32_t bytes, uint64_t first, uint64_t cnt)
{
    uint64_t words = bytes / sizeof(uint64_t);
    return cnt * first + cnt * (cnt - 1) / 2 + cnt * (words * (words - 1) / 2);
}

int bench_sink_check(const struct bench_turn *turn, struct bench_sink *sink, uint64_t first)
{
    uint64_t expected = bench_payload_expected(turn->bytes, first, turn->count);
    bool good = sink->events == turn->count &&
                (turn->bytes < sizeof(uint64_t) || sink->sum == expected);
    *sink = (struct bench_sink){0};
    return good ? 0 : bench_fail(turn, -EBADMSG, "the events do not add up");
}
