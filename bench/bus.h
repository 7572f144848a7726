/* What the benches of geb share: buses with names of their own, a handler that reads every byte,
 * and payloads whose sum is known. Only lib/geb.h is used: a bench measures what users get. */
#ifndef BENCH_BUS_H
#define BENCH_BUS_H

#include "bench/harness.h"
#include "lib/geb.h"

#define BENCH_PAYLOAD_MAX   65536u
#define BENCH_PAYLOAD_BYTES 32u /* the default: what travels inside a cell */

/* The buses of one subject; lives in the parent from before the fork. */
struct bench_bus {
    struct geb_config config;
    char name[2][48];
};

/* What the handler has seen. */
struct bench_sink {
    uint64_t events;
    uint64_t sum;
};

/* Sets up the names, which no other run has. */
void bench_bus_init(struct bench_bus *bus, const char *bench, const char *mode,
                    enum geb_policy policy);

/* Removes the buses, whoever died. */
void bench_bus_remove(const struct bench_bus *bus);

/* For open(): creates bus `idx` and puts `handler` on the topic "bench"; joins it. 0 or -errno
 * after a message. */
int bench_bus_create(struct bench_turn *turn, unsigned idx, geb_handler *handler, void *user,
                     struct geb_bus **out);
int bench_bus_join(struct bench_turn *turn, unsigned idx, struct geb_producer **out,
                   geb_topic_id *topic);

/* A handler that adds to the sink that is its user. */
int bench_on_event(struct geb_context *ctx, const struct geb_event *event, void *user);

/* One bus between two roles, for their states: role 0 publishes on it, role 1 handles. */
struct bench_pair {
    struct geb_bus *bus;           /* of role 1 */
    struct geb_producer *producer; /* of role 0 */
    geb_topic_id topic;
    uint64_t number; /* of the next event */
    struct bench_sink sink;
    unsigned char payload[BENCH_PAYLOAD_MAX];
};

/* For open() and close(), in all roles: a role beyond these two gets neither bus nor producer. */
int bench_pair_open(struct bench_turn *turn, struct bench_pair *pair, geb_handler *handler,
                    void *user);
void bench_pair_close(struct bench_turn *turn, struct bench_pair *pair);

/* Adds geb to the plan twice, shared and exclusive, with buses of this policy: `subject` says what
 * differs between benches. Runs the plan, and removes the buses. Returns the exit status. */
int bench_run_modes(struct bench_plan *plan, const struct bench_options *opt,
                    enum geb_policy policy, struct bench_subject subject);

/* As bench_fail, with geb's own words. */
int bench_bus_fail(const struct bench_turn *turn, int rc, const char *what);

/* Whether a bench can carry payloads of that size: 0, or -EINVAL after a message. */
int bench_payload_check(uint32_t bytes);

/* A payload of `bytes`: word 0 numbers the event, word w > 0 holds w, bytes beyond the last word
 * 0. */
void bench_payload_init(unsigned char *payload, uint32_t bytes);

static inline void bench_payload_number(unsigned char *payload, uint32_t bytes, uint64_t number)
{
    __builtin_memcpy(payload, &number, bytes < sizeof(number) ? bytes : sizeof(number));
}

/* Reads all of it. */
static inline uint64_t bench_payload_sum(const void *data, size_t bytes)
{
    const unsigned char *at = data;
    uint64_t sum = 0;
    size_t i = 0;
    for (; i + sizeof(uint64_t) <= bytes; i += sizeof(uint64_t)) {
        uint64_t word;
        __builtin_memcpy(&word, at + i, sizeof(word));
        sum += word;
    }
    for (; i < bytes; i++) {
        sum += at[i];
    }
    return sum;
}

/* Reads an event; what handlers do. */
static inline void bench_sink_add(struct bench_sink *sink, const struct geb_event *event)
{
    sink->sum += bench_payload_sum(event->data, event->len);
    sink->events++;
}

/* The sum over the events first … first + cnt - 1, for payloads of 8 bytes and more. */
uint64_t bench_payload_expected(uint32_t bytes, uint64_t first, uint64_t cnt);

/* Checks what a round has brought, and empties the sink. Smaller payloads than 8 bytes are only
 * counted. */
int bench_sink_check(const struct bench_turn *turn, struct bench_sink *sink, uint64_t first);

#endif
