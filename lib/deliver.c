/* What becomes of an event: from the ring through its handlers into one column of the account. */
#include "lib/internal.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define PAUSE_MIN_NS UINT64_C(40)
#define PAUSE_MAX_NS UINT64_C(8000)
#define STREAM_NS    UINT64_C(40) /* events that come faster than this are a stream */

static inline void raise(shr_a64 *counter, uint64_t add_cnt)
{
    shr_store_relaxed(counter, shr_load_relaxed(counter) + add_cnt);
}

static SHR_COLD void note_error(struct geb_bus *bus, struct gebi_handler *h, int rc)
{
    char name[SHR_NAME_BYTES] = "a handler";
    char text[96];
    raise(&bus->map.tally->errors, 1);
    raise(&h->row->errors, 1);
    if (h->row != &bus->unseen)
        shr_text_load(h->row->name, SHR_NAME_BYTES / 8, name);
    snprintf(text, sizeof(text), "handler of %s", name);
    gebi_log_error(&bus->map, rc >= -INT_MAX ? -rc : INT_MAX, text); /* INT_MIN has no positive */
}

/* Runs the handlers of one event, the default ones if its topic has none. The column it belongs
 * to. The caller has the deadline and the topic in registers. */
SHR_HOT uint32_t call_handlers(struct geb_bus *bus, const struct geb_event *event,
                               geb_topic_id topic, uint64_t deadline_ns)
{
    if (SHR_UNLIKELY(deadline_ns != 0) && shr_now_ns() > deadline_ns)
        return SHR_COL_EXPIRED;
    struct shr_topic *row = &bus->map.topics[topic];
    const uint32_t *first = &bus->first[topic];
    if (first[0] == first[1])
        first = &bus->first[bus->map.geo.topic_cnt];
    if (SHR_UNLIKELY(first[0] == first[1])) {
        raise(&row->unhandled, 1);
        return SHR_COL_UNHANDLED;
    }
    for (uint32_t i = first[0]; i < first[1]; i++) {
        struct gebi_handler *h = bus->flat[i];
        int rc = h->call(&bus->context, event, h->user);
        raise(&h->row->calls, 1);
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
        add_cnt[call_handlers(bus, event, frame.topic, event->deadline_ns)]++;
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

/* Hands an event in hand to its handlers and finishes it. */
SHR_HOT void deliver(struct geb_bus *bus, const struct shr_item *item, bool drop_oldest)
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
    uint64_t deadline_ns = 0;
    if (SHR_UNLIKELY(item->stamp != 0))
        sample_latency(bus, item->stamp);
    if (SHR_UNLIKELY(item->flags != 0)) {
        uint32_t ext = 0;
        if ((item->flags & SHR_FLAG_DEADLINE) != 0)
            event.deadline_ns = deadline_ns = item->ext[ext++];
        if ((item->flags & SHR_FLAG_ID) != 0)
            event.id = item->ext[ext];
        if ((item->flags & SHR_FLAG_BATCH) != 0) {
            const struct shr_item copy = *item;
            deliver_batch(bus, &copy, &event);
            return;
        }
    }
    uint32_t col = call_handlers(bus, &event, item->topic, deadline_ns);
    shr_finish_as(&bus->consumer, item, col, drop_oldest);
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* An event that the consumer had waited for was just handled. It now keeps away from the ring for a
 * moment, so that it does not fight with the producer for the line that is being written: as events
 * stream, longer each time; when they come one by one, hardly. */
static SHR_COLD void keep_distance(struct geb_bus *bus, uint64_t handled)
{
    uint64_t now_ns = shr_now_ns();
    uint64_t batch = handled - bus->paused_at;
    bool streaming = batch >= 2 && now_ns - bus->paused_ns < batch * STREAM_NS;
    if (streaming)
        bus->pause_ns = bus->pause_ns * 2 < PAUSE_MAX_NS ? bus->pause_ns * 2 : PAUSE_MAX_NS;
    else
        bus->pause_ns = bus->pause_ns / 2 > PAUSE_MIN_NS ? bus->pause_ns / 2 : PAUSE_MIN_NS;
    uint64_t end_ns = now_ns + bus->pause_ns;
    do {
        shr_cpu_relax();
        now_ns = shr_now_ns();
    } while (now_ns < end_ns);
    bus->paused_ns = now_ns;
    bus->paused_at = handled;
}

SHR_HOT uint32_t drain(struct geb_bus *bus, uint32_t max, bool drop_oldest)
{
    struct shr_item item;
    uint32_t cnt = 0;
    while (cnt < max) {
        if (SHR_UNLIKELY(shr_next_as(&bus->consumer, &item, drop_oldest) == 0)) {
            bus->waited = true;
            break;
        }
        deliver(bus, &item, drop_oldest);
        if (!drop_oldest)
            shr_flush_batch(&bus->consumer);
        cnt++;
        if (SHR_UNLIKELY(bus->waited)) {
            bus->waited = false;
            shr_flush(&bus->consumer);
            keep_distance(bus, bus->handled + cnt);
        }
        /* Relaxed: it need only be seen soon. */
        if (SHR_UNLIKELY(shr_load32_relaxed(&bus->stop) != 0) && bus->running)
            break;
    }
    return cnt;
}

uint32_t gebi_drain(struct geb_bus *bus, uint32_t max)
{
    /* A handler of another bus may be calling us. */
    struct gebi_dispatching here = {.id = bus->map.geo.id[0], .outer = gebi_dispatching};
    gebi_dispatching = &here;
    bool drop_oldest = bus->consumer.taker.ring.drop_oldest;
    uint32_t cnt = drop_oldest ? drain(bus, max, true) : drain(bus, max, false);
    gebi_dispatching = here.outer;
    shr_flush(&bus->consumer);
    bus->handled += cnt;
    bus->since_look += cnt;
    return cnt;
}
