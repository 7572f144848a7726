/* Handlers: which there are, and what becomes of an event that is handed to them. */
#include "lib/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_TOPIC UINT32_MAX

/* ---- registering ----------------------------------------------------------------------------- */

static int add(struct geb_bus *bus, uint32_t topic, const char *name, geb_handler *call, void *user)
{
    uint32_t rows = bus->map.geo.region[SHR_REGION_HANDLERS].entries;
    if (call == NULL)
        return gebi_fail(-EINVAL, "the handler is NULL");
    if (bus->handler_cnt == GEBI_HANDLERS_MAX)
        return gebi_fail(-EUSERS, "a bus has %u handlers at most", GEBI_HANDLERS_MAX);
    struct gebi_handler *h = &bus->handler[bus->handler_cnt];
    *h = (struct gebi_handler){.call = call, .user = user, .topic = topic};
    if (bus->handler_cnt < rows) {
        h->row = &bus->map.handlers[bus->handler_cnt];
        shr_text_store(h->row->name, SHR_NAME_BYTES / 8, name);
        shr_store_relaxed(&h->row->topic, topic == DEFAULT_TOPIC ? UINT64_MAX : topic);
        shr_store_relaxed(&h->row->calls, 0);
        shr_store_relaxed(&h->row->errors, 0);
        shr_store_release(&h->row->state, 1); /* edge M2 release: the row is whole */
    }
    bus->handler_cnt++;
    bus->flat_is_old = true;
    return 0;
}

int geb_on_schema(struct geb_bus *bus, const char *topic, const char *schema, uint32_t bytes,
                  geb_handler *handler, void *user)
{
    geb_topic_id id;
    int rc = gebi_check_outside(bus);
    if (rc == 0)
        rc = gebi_topic_intern(&bus->map, SHR_CONSUMER_SLOT, topic, schema, bytes, &id);
    return rc < 0 ? rc : add(bus, id, topic, handler, user);
}

int geb_on(struct geb_bus *bus, const char *topic, geb_handler *handler, void *user)
{
    return geb_on_schema(bus, topic, NULL, 0, handler, user);
}

int geb_on_default(struct geb_bus *bus, geb_handler *handler, void *user)
{
    int rc = gebi_check_outside(bus);
    return rc < 0 ? rc : add(bus, DEFAULT_TOPIC, "default", handler, user);
}

int gebi_flatten(struct geb_bus *bus)
{
    uint32_t topics = bus->map.geo.topic_cnt;
    struct gebi_handler *flat = calloc(GEBI_HANDLERS_MAX, sizeof(*flat));
    uint32_t *first = calloc((size_t)topics + 2, sizeof(*first));
    if (flat == NULL || first == NULL) {
        free(flat);
        free(first);
        return gebi_fail(-ENOMEM, "no memory for the table of handlers");
    }
    uint32_t cnt = 0;
    for (uint32_t topic = 0; topic <= topics; topic++) {
        first[topic] = cnt;
        for (uint32_t i = 0; i < bus->handler_cnt; i++) {
            if (bus->handler[i].topic == (topic < topics ? topic : DEFAULT_TOPIC))
                flat[cnt++] = bus->handler[i];
        }
    }
    first[topics + 1] = cnt;
    free(bus->flat);
    free(bus->first);
    bus->flat = flat;
    bus->first = first;
    bus->flat_is_old = false;
    return 0;
}

const char *geb_topic_name(struct geb_bus *bus, geb_topic_id topic)
{
    if (bus == NULL || bus->magic != GEBI_BUS_MAGIC || !gebi_topic_exists(&bus->map, topic))
        return "";
    if (bus->topic_text == NULL)
        bus->topic_text = calloc(bus->map.geo.topic_cnt, SHR_NAME_BYTES);
    if (bus->topic_text == NULL)
        return "";
    char *text = bus->topic_text[topic];
    if (text[0] == '\0') /* a name never changes, so it is read once */
        shr_text_load(bus->map.topics[topic].name, SHR_NAME_BYTES / 8, text);
    return text;
}

struct geb_bus *geb_context_bus(struct geb_context *ctx)
{
    return ctx->bus;
}

/* ---- delivering ------------------------------------------------------------------------------ */

static void raise(shr_a64 *counter, uint64_t add_cnt)
{
    shr_store_relaxed(counter, shr_load_relaxed(counter) + add_cnt);
}

static SHR_COLD void note_error(struct geb_bus *bus, struct gebi_handler *h, int rc)
{
    char name[SHR_NAME_BYTES] = "a handler";
    char text[96];
    raise(&bus->map.tally->errors, 1);
    h->errors++;
    if (h->row != NULL) {
        shr_store_relaxed(&h->row->errors, h->errors);
        shr_text_load(h->row->name, SHR_NAME_BYTES / 8, name);
    }
    snprintf(text, sizeof(text), "handler of %s", name);
    gebi_log_error(&bus->map, -rc, text);
}

/* Runs the handlers of one event, the default ones if its topic has none. The column it belongs
 * to. */
static uint32_t call_handlers(struct geb_bus *bus, const struct geb_event *event)
{
    if (SHR_UNLIKELY(event->deadline_ns != 0) && shr_now_ns() > event->deadline_ns)
        return SHR_COL_EXPIRED;
    struct shr_topic *row = &bus->map.topics[event->topic];
    const uint32_t *first = &bus->first[event->topic];
    if (first[0] == first[1])
        first = &bus->first[bus->map.geo.topic_cnt];
    if (SHR_UNLIKELY(first[0] == first[1])) {
        raise(&row->unhandled, 1);
        return SHR_COL_UNHANDLED;
    }
    for (uint32_t i = first[0]; i < first[1]; i++) {
        struct gebi_handler *h = &bus->flat[i];
        int rc = h->call(&bus->context, event, h->user);
        h->calls++;
        if (h->row != NULL)
            shr_store_relaxed(&h->row->calls, h->calls);
        if (SHR_UNLIKELY(rc < 0))
            note_error(bus, h, rc);
    }
    raise(&row->delivered, 1);
    return SHR_COL_DELIVERED;
}

static void sample_latency(struct geb_bus *bus, uint32_t stamp)
{
    struct shr_histogram *hist = bus->map.latency;
    uint32_t units = (uint32_t)(shr_now_ns() / SHR_STAMP_NS) - stamp;
    raise(&hist->bucket[gebi_bucket(units)], 1);
    raise(&hist->count, 1);
    if (units > shr_load_relaxed(&hist->max))
        shr_store_relaxed(&hist->max, units);
}

/* A cell with several events. */
static SHR_COLD void deliver_batch(struct geb_bus *bus, const struct shr_item *item,
                                   struct geb_event *event)
{
    uint64_t add_cnt[SHR_COL_CNT] = {0};
    const unsigned char *at = item->data;
    uint64_t left = item->bytes;
    uint64_t good = 0;
    for (; good < item->events; good++) {
        struct gebi_frame frame;
        if (left < sizeof(frame))
            break;
        memcpy(&frame, at, sizeof(frame)); /* a copy: the shared one may change */
        uint64_t whole = gebi_frame_bytes(frame.bytes);
        if (whole > left || frame.topic >= bus->map.geo.topic_cnt)
            break;
        event->data = at + sizeof(frame);
        event->len = frame.bytes;
        event->topic = frame.topic;
        event->key = frame.key;
        event->number = item->number + good;
        add_cnt[call_handlers(bus, event)]++;
        at += whole;
        left -= whole;
    }
    if (good != item->events) { /* damaged frames: what cannot be read is counted, not guessed */
        raise(&bus->map.peers[SHR_CONSUMER_SLOT].bad_bytes, 1);
        gebi_log_error(&bus->map, EBADMSG, "damaged batch");
        add_cnt[SHR_COL_UNHANDLED] += item->events - good;
    }
    shr_finish_mixed(&bus->consumer, item, add_cnt);
}

void gebi_deliver(struct geb_bus *bus, const struct shr_item *item)
{
    struct geb_event event = {
        .data = item->data,
        .len = item->bytes,
        .topic = item->topic,
        .producer = item->slot,
        .number = item->number,
        .position = item->pos,
        .key = item->key,
        .attempt = item->attempt,
        .redelivered = item->attempt > 1,
    };
    uint32_t ext = 0;
    if (SHR_UNLIKELY((item->flags & SHR_FLAG_DEADLINE) != 0))
        event.deadline_ns = item->ext[ext++];
    if (SHR_UNLIKELY((item->flags & SHR_FLAG_ID) != 0))
        event.id = item->ext[ext];
    if (SHR_UNLIKELY(item->stamp != 0))
        sample_latency(bus, item->stamp);
    if (SHR_UNLIKELY((item->flags & SHR_FLAG_BATCH) != 0))
        deliver_batch(bus, item, &event);
    else
        shr_finish(&bus->consumer, item, call_handlers(bus, &event));
}
