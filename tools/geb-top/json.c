/* The keys are a contract with programs: add freely, rename never. What geb does not have yet is
 * absent, not zero. */
#include "tools/geb-top/top.h"

#include <errno.h>
#include <jansson.h>

static json_t *integer(uint64_t value)
{
    return json_integer((json_int_t)value);
}

#define SET(object, from, key) json_object_set_new(object, #key, integer((from)->key))

/* The text is from shared memory, and may be no UTF-8: bytes that cannot be shown become '?'. */
static json_t *text_json(const char *text)
{
    json_t *string = json_string(text);
    if (string != NULL)
        return string;
    char plain[256];
    size_t i = 0;
    for (; text[i] != '\0' && i + 1 < sizeof plain; i++)
        plain[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    plain[i] = '\0';
    return json_string(plain);
}

static json_t *bus_json(const struct top_sample *sample)
{
    const struct geb_bus_info *info = &sample->info;
    json_t *bus = json_object();
    json_object_set_new(bus, "name", text_json(sample->name));
    json_object_set_new(bus, "path", text_json(info->path));
    json_object_set_new(bus, "id", text_json(info->id));
    SET(bus, info, epoch);
    SET(bus, info, capacity);
    json_object_set_new(bus, "policy", json_string(top_policy_name(info->policy)));
    json_object_set_new(bus, "exclusive", json_boolean(info->exclusive));
    json_object_set_new(bus, "closed", json_boolean(info->closed));
    json_object_set_new(bus, "backing", json_string(sample->backing));
    SET(bus, info, page_bytes);
    if (info->node >= 0)
        json_object_set_new(bus, "node", json_integer(info->node));
    SET(bus, info, bytes);
    SET(bus, info, slab_bytes);
    SET(bus, info, max_event);
    SET(bus, info, patience_ns);
    json_object_set_new(bus, "age_s", json_real((double)info->age_ns / 1e9));
    SET(bus, info, creator_pid);
    SET(bus, info, creator_uid);
    return bus;
}

static json_t *account_json(const struct geb_metrics *metrics)
{
    json_t *account = json_object();
    SET(account, metrics, accepted);
    SET(account, metrics, delivered);
    SET(account, metrics, dropped);
    SET(account, metrics, expired);
    SET(account, metrics, cancelled);
    SET(account, metrics, unhandled);
    SET(account, metrics, dead_lettered);
    SET(account, metrics, pending);
    SET(account, metrics, lost_in_crash);
    return account;
}

static json_t *metrics_json(const struct geb_metrics *metrics)
{
    json_t *object = json_object();
    SET(object, metrics, published);
    SET(object, metrics, processed);
    SET(object, metrics, errors);
    return object;
}

static json_t *ring_json(const struct geb_metrics *metrics)
{
    json_t *ring = json_object();
    SET(ring, metrics, used);
    SET(ring, metrics, peak);
    SET(ring, metrics, revoked);
    SET(ring, metrics, returned);
    SET(ring, metrics, quarantined);
    SET(ring, metrics, bad_bytes);
    return ring;
}

static json_t *slabs_json(const struct top_sample *sample)
{
    json_t *slabs = json_array();
    for (uint32_t i = 0; i < sample->slab_cnt; i++) {
        json_t *row = json_object();
        SET(row, &sample->slabs[i], node);
        SET(row, &sample->slabs[i], block_bytes);
        SET(row, &sample->slabs[i], blocks);
        SET(row, &sample->slabs[i], free);
        json_array_append_new(slabs, row);
    }
    return slabs;
}

static json_t *errors_json(const struct top_sample *sample)
{
    json_t *errors = json_array();
    for (uint32_t i = 0; i < sample->error_cnt; i++) {
        const struct geb_error_row *error = &sample->errors[i];
        json_t *row = json_object();
        json_object_set_new(row, "code", json_integer(error->code));
        json_object_set_new(row, "text", text_json(error->text));
        SET(row, error, count);
        SET(row, error, first_ns);
        SET(row, error, last_ns);
        json_array_append_new(errors, row);
    }
    return errors;
}

static json_t *producers_json(const struct top_sample *sample)
{
    json_t *producers = json_array();
    for (uint32_t i = 0; i < sample->participant_cnt; i++) {
        const struct geb_participant *peer = &sample->participants[i];
        if (peer->slot == 0)
            continue;
        json_t *row = json_object();
        SET(row, peer, slot);
        json_object_set_new(row, "name", text_json(peer->name));
        SET(row, peer, pid);
        json_object_set_new(row, "state", json_string(peer->state));
        json_object_set_new(row, "published", integer(peer->accepted));
        SET(row, peer, bytes);
        SET(row, peer, dropped);
        SET(row, peer, blocked_ns);
        SET(row, peer, full);
        SET(row, peer, revoked);
        json_array_append_new(producers, row);
    }
    return producers;
}

static json_t *consumer_json(const struct top_sample *sample)
{
    const struct geb_participant *peer = top_consumer(sample);
    json_t *consumer = json_object();
    if (peer != NULL) {
        SET(consumer, peer, pid);
        json_object_set_new(consumer, "state", json_string(peer->state));
    }
    SET(consumer, &sample->metrics, redelivered);
    SET(consumer, &sample->metrics, restarts);
    SET(consumer, &sample->metrics, sleeps);
    json_object_set_new(consumer, "standby", json_boolean(sample->metrics.standby != 0));
    return consumer;
}

static json_t *topics_json(const struct top_sample *sample)
{
    json_t *topics = json_array();
    for (uint32_t i = 0; i < sample->topic_cnt; i++) {
        const struct geb_topic_row *topic = &sample->topics[i];
        json_t *row = json_object();
        json_object_set_new(row, "id", integer(topic->topic));
        json_object_set_new(row, "name", text_json(topic->name));
        if (topic->schema[0] != '\0')
            json_object_set_new(row, "schema", text_json(topic->schema));
        SET(row, topic, delivered);
        SET(row, topic, unhandled);
        SET(row, topic, dropped);
        json_array_append_new(topics, row);
    }
    return topics;
}

/* "topic" is a name; null for the default handler. */
static json_t *handlers_json(const struct top_sample *sample)
{
    json_t *handlers = json_array();
    for (uint32_t i = 0; i < sample->handler_cnt; i++) {
        const struct geb_handler_row *handler = &sample->handlers[i];
        const char *topic = top_topic_name(sample, handler->topic);
        json_t *row = json_object();
        json_object_set_new(row, "name", text_json(handler->name));
        json_object_set_new(row, "topic", topic != NULL ? text_json(topic) : json_null());
        SET(row, handler, calls);
        SET(row, handler, errors);
        json_array_append_new(handlers, row);
    }
    return handlers;
}

static json_t *latency_json(const struct geb_latency *latency)
{
    json_t *times = json_object();
    SET(times, latency, sampled_1_in);
    SET(times, latency, count);
    SET(times, latency, p50_ns);
    SET(times, latency, p99_ns);
    SET(times, latency, p999_ns);
    SET(times, latency, max_ns);
    json_t *object = json_object();
    json_object_set_new(object, "publish_to_handler", times);
    return object;
}

int top_json_print(const struct top_sample *sample, FILE *to)
{
    json_t *root = json_object();
    json_object_set_new(root, "schema_version", json_integer(1));
    json_object_set_new(root, "bus", bus_json(sample));
    json_object_set_new(root, "account", account_json(&sample->metrics));
    json_object_set_new(root, "metrics", metrics_json(&sample->metrics));
    json_object_set_new(root, "ring", ring_json(&sample->metrics));
    json_object_set_new(root, "slabs", slabs_json(sample));
    json_object_set_new(root, "errors", errors_json(sample));
    json_object_set_new(root, "producers", producers_json(sample));
    json_object_set_new(root, "consumer", consumer_json(sample));
    json_object_set_new(root, "topics", topics_json(sample));
    json_object_set_new(root, "handlers", handlers_json(sample));
    json_object_set_new(root, "latency", latency_json(&sample->metrics.latency));
    int rc = json_dumpf(root, to, JSON_COMPACT);
    fputc('\n', to);
    json_decref(root);
    return rc == 0 || ferror(to) != 0 ? 0 : -ENOMEM;
}
