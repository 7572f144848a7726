/* Handlers: which there are. */
#include "lib/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_TOPIC UINT32_MAX

/* ---- registering ----------------------------------------------------------------------------- */

/* Whether a handler can be added; asked before its topic is registered. */
static int check(const struct geb_bus *bus, geb_handler *call)
{
    int rc = gebi_check_outside(bus);
    if (rc == 0 && call == NULL)
        return gebi_fail(-EINVAL, "the handler is NULL");
    if (rc == 0 && bus->handler_cnt == GEBI_HANDLERS_MAX)
        return gebi_fail(-EUSERS, "a bus has %u handlers at most", GEBI_HANDLERS_MAX);
    return rc;
}

static void show(struct geb_bus *bus, uint32_t idx)
{
    struct gebi_handler *h = &bus->handler[idx];
    char name[SHR_NAME_BYTES] = "default";
    if (idx >= bus->map.geo.region[SHR_REGION_HANDLERS].entries)
        return;
    if (h->topic != DEFAULT_TOPIC)
        shr_text_load(bus->map.topics[h->topic].name, SHR_NAME_BYTES / 8, name);
    h->row = &bus->map.handlers[idx];
    shr_text_store(h->row->name, SHR_NAME_BYTES / 8, name);
    shr_store_relaxed(&h->row->topic, h->topic == DEFAULT_TOPIC ? UINT64_MAX : h->topic);
    shr_store_relaxed(&h->row->calls, 0);
    shr_store_relaxed(&h->row->errors, 0);
    shr_store_release(&h->row->state, 1); /* edge M2 release: the row is whole */
}

void gebi_show_handlers(struct geb_bus *bus)
{
    for (uint32_t i = 0; i < bus->handler_cnt; i++)
        show(bus, i);
}

static int add(struct geb_bus *bus, uint32_t topic, geb_handler *call, void *user)
{
    struct gebi_handler *h = &bus->handler[bus->handler_cnt];
    *h = (struct gebi_handler){.call = call, .user = user, .topic = topic, .row = &bus->unseen};
    if (!bus->standing_by)
        show(bus, bus->handler_cnt);
    bus->handler_cnt++;
    bus->flat_is_old = true;
    return 0;
}

int geb_on_schema(struct geb_bus *bus, const char *topic, const char *schema, uint32_t bytes,
                  geb_handler *handler, void *user)
{
    geb_topic_id id;
    int rc = check(bus, handler);
    if (rc == 0)
        rc = gebi_topic_intern(&bus->map, SHR_CONSUMER_SLOT, topic, schema, bytes, &id);
    return rc < 0 ? rc : add(bus, id, handler, user);
}

int geb_on(struct geb_bus *bus, const char *topic, geb_handler *handler, void *user)
{
    return geb_on_schema(bus, topic, NULL, 0, handler, user);
}

int geb_on_default(struct geb_bus *bus, geb_handler *handler, void *user)
{
    int rc = check(bus, handler);
    return rc < 0 ? rc : add(bus, DEFAULT_TOPIC, handler, user);
}

int gebi_flatten(struct geb_bus *bus)
{
    if (SHR_LIKELY(bus->flat != NULL && !bus->flat_is_old))
        return 0;
    uint32_t topics = bus->map.geo.topic_cnt;
    struct gebi_handler **flat = calloc(GEBI_HANDLERS_MAX, sizeof(struct gebi_handler *));
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
                flat[cnt++] = &bus->handler[i];
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
    if (bus == NULL || !gebi_lives(&bus->life, GEBI_BUS_MAGIC) ||
        !gebi_topic_exists(&bus->map, topic))
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
