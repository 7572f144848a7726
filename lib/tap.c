/* The tap: an observer that copies every event out of a read-only map.
 *
 * It takes part in nothing, so nobody waits for it, and a cell may be used again while it reads.
 * It copies a batch of cells and their payloads, and then looks at head once: copies that head is a
 * lap ahead of are void (edge R4), and so are payloads of blocks that were filled again (edge S2).
 * What passed both is the reader's, however slow it is.
 *
 *     pos ──state READY(pos)──▶ copied ──head < pos + N──▶ valid ──geb_tap_next──▶ given
 *      │                          └──head ≥ pos + N──▶ overtaken: on at the oldest that is safe
 *      ├──claimed, not committed──▶ held: the tap's own patience, then passed
 *      └──VOID, REVOKED, RETURNED──▶ nothing there
 *
 * What it costs the others. A line that the tap reads while its writer still wants it costs the
 * writer a transfer. So head is read once in pace_ns while events stream, and otherwise once for
 * GEBI_TAP_CELLS cells; and cells are read only before the head of that look, long after they were
 * written if events come fast. What was missed is found in the producers' numbers, which lie in the
 * cells: the producers' own lines are read at the start, at a gap and by geb_tap_counts only. */
#include "lib/tap.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FILLS_MAX   64u                /* in one call: a damaged ring must not keep us */
#define PACE_MAX_NS UINT64_C(40000)    /* 1 µs costs publishers half of their rate, 10 µs 5 % */
#define PATIENCE_NS UINT64_C(10000000) /* longer than a scheduler's slice */
#define NAP_MIN_NS  UINT64_C(50000)
#define NAP_MAX_NS  UINT64_C(1000000)

static int check(const struct geb_watch *watch, const void *result)
{
    if (watch == NULL || result == NULL)
        return gebi_fail(-EINVAL, "%s is NULL", watch == NULL ? "the watch" : "the result pointer");
    if (watch->magic != GEBI_WATCH_MAGIC)
        return gebi_fail(-ESTALE, "the watch has ended, or this is a child of its process");
    if (watch->tap == NULL)
        return gebi_fail(-EINVAL, "the watch has no tap: call geb_tap first");
    return 0;
}

void gebi_tap_end(struct geb_watch *watch)
{
    if (watch->tap != NULL)
        free(watch->tap->arena);
    free(watch->tap);
    watch->tap = NULL;
}

int geb_tap(struct geb_watch *watch, enum geb_tap_start start)
{
    if (watch == NULL || watch->magic != GEBI_WATCH_MAGIC)
        return check(watch, watch);
    if (start != GEB_TAP_NOW && start != GEB_TAP_OLDEST)
        return gebi_fail(-EINVAL, "start is %d: GEB_TAP_NOW or GEB_TAP_OLDEST", (int)start);
    gebi_tap_end(watch);
    const struct shr_geometry *geo = &watch->map.geo;
    size_t slots = (size_t)geo->producer_cnt + 1;
    struct gebi_tap *tap = calloc(1, sizeof(*tap) + slots * sizeof(tap->slot[0]));
    if (tap == NULL)
        return gebi_fail(-ENOMEM, "no memory for a tap");
    shr_ring_init(&tap->ring, &watch->map);
    uint32_t cell_cnt = tap->ring.cell_cnt;
    /* Numbers behind the end: an event before it may be taken for an old one, never for missed. */
    tap->head = shr_ring_end(&tap->ring);
    shr_fence_acquire(); /* keeps the order of the reads; nothing else depends on it */
    for (uint32_t slot = 1; slot < slots; slot++)
        tap->slot[slot].last = shr_peer_last_number(&watch->map, slot);
    tap->pos = tap->head;
    if (start == GEB_TAP_OLDEST)
        tap->pos -= tap->head > 2 * (uint64_t)cell_cnt ? cell_cnt - 1 : tap->head - cell_cnt;
    tap->limit = tap->head;
    tap->pace_ns = cell_cnt < PACE_MAX_NS ? cell_cnt : PACE_MAX_NS;
    tap->patience_ns = geo->patience_ns > PATIENCE_NS ? geo->patience_ns : PATIENCE_NS;
    watch->tap = tap;
    return 0;
}

/* ---- giving out ------------------------------------------------------------------------------ */

/* Notes that cnt events of a producer were missed, from this number on. */
static void note_missed(struct gebi_tap *tap, uint32_t producer, uint64_t number, uint64_t cnt)
{
    struct gebi_tap_slot *slot = &tap->slot[producer];
    if (slot->missed == 0)
        slot->first_missed = number;
    slot->last_missed = number + cnt - 1;
    slot->missed += cnt;
    tap->missed += cnt;
}

/* Notes the number of an event that we saw: what lies between it and the last one we missed. */
static void follow(const struct shr_map *map, struct gebi_tap *tap, struct geb_event *event,
                   uint32_t low, uint32_t events)
{
    struct gebi_tap_slot *slot = &tap->slot[event->producer];
    event->number = slot->last + 1;
    if (SHR_UNLIKELY((uint32_t)event->number != low || !slot->met)) {
        uint64_t published = shr_load_relaxed(&map->peers[event->producer].published);
        event->number = shr_extend(published, low);
        int64_t gap = (int64_t)(event->number - slot->last - 1);
        if (gap > 0) /* < 0: published before we began */
            note_missed(tap, event->producer, slot->last + 1, (uint64_t)gap);
        slot->met = true;
    }
    slot->last = event->number + events - 1;
}

/* The next event of the batch in hand. */
static bool unpack(const struct shr_map *map, struct gebi_tap *tap, struct geb_event *event)
{
    struct gebi_frame frame;
    uint64_t whole = UINT64_MAX;
    if (tap->frame_bytes >= sizeof(frame)) {
        memcpy(&frame, tap->frame, sizeof(frame));
        whole = gebi_frame_bytes(frame.bytes);
    }
    if (whole > tap->frame_bytes || frame.topic >= map->geo.topic_cnt) {
        tap->bad++;
        note_missed(tap, tap->event.producer, tap->event.number, tap->frames);
        tap->frames = 0;
        return false;
    }
    *event = tap->event;
    event->data = tap->frame + sizeof(frame);
    event->len = frame.bytes;
    event->topic = frame.topic;
    event->key = frame.key;
    tap->event.number++;
    tap->frame += whole;
    tap->frame_bytes -= whole;
    tap->frames--;
    tap->seen++;
    tap->slot[event->producer].seen++;
    return true;
}

/* A cell with flags. False: damaged, or its payload is gone. Batches go on in unpack. */
static SHR_COLD bool decode_flags(struct gebi_tap *tap, const struct gebi_tap_cell *cell,
                                  uint32_t flags, struct geb_event *event, uint32_t *events)
{
    uint32_t ext = SHR_CELL_WORDS;
    bool in_slab = (flags & SHR_FLAG_SLAB) != 0;
    bool batch = (flags & SHR_FLAG_BATCH) != 0;
    if ((flags & SHR_FLAG_DEADLINE) != 0)
        event->deadline_ns = cell->word[--ext];
    if ((flags & SHR_FLAG_ID) != 0)
        event->id = cell->word[--ext];
    if (in_slab) {
        event->len = (uint32_t)cell->word[SHR_WORD_BODY + 1];
        event->data = cell->data;
    }
    *events = shr_words_events(cell->word);
    if ((flags & ~SHR_FLAGS_KNOWN) != 0 || (batch && !in_slab) ||
        (batch && (*events == 0 || *events > event->len / sizeof(struct gebi_frame))) ||
        (!in_slab && event->len > shr_inline_room(flags))) {
        tap->bad++;
        return false;
    }
    if (event->data == NULL) { /* a gap, when its producer's next event is seen */
        tap->gone++;
        return false;
    }
    return true;
}

static bool decode(const struct shr_map *map, struct gebi_tap *tap,
                   const struct gebi_tap_cell *cell, struct geb_event *event)
{
    uint64_t meta = cell->word[SHR_WORD_META];
    uint32_t flags = shr_meta_flags(meta);
    uint32_t events = 1;
    *event = (struct geb_event){
        .data = &cell->word[SHR_WORD_BODY],
        .len = shr_meta_bytes(meta),
        .topic = shr_meta_topic(meta),
        .producer = shr_meta_slot(meta),
        .position = cell->pos,
        .key = cell->word[SHR_WORD_KEY],
        .attempt = 1,
    };
    if (event->producer - 1 >= map->geo.producer_cnt || event->topic >= map->geo.topic_cnt ||
        (flags == 0 && event->len > SHR_INLINE_BYTES)) {
        tap->bad++;
        return false;
    }
    if (SHR_UNLIKELY(flags != 0) && !decode_flags(tap, cell, flags, event, &events))
        return false;
    follow(map, tap, event, (uint32_t)cell->word[SHR_WORD_NUMBER], events);
    if (SHR_UNLIKELY((flags & SHR_FLAG_BATCH) != 0)) {
        tap->event = *event;
        tap->frame = event->data;
        tap->frame_bytes = event->len;
        tap->frames = events;
        return unpack(map, tap, event);
    }
    tap->seen++;
    tap->slot[event->producer].seen++;
    return true;
}

static int next(struct geb_watch *watch, struct geb_event *event)
{
    struct gebi_tap *tap = watch->tap;
    const struct shr_map *map = &watch->map;
    int rc = 1;
    for (uint32_t fills = 0; rc == 1; fills++) {
        if (tap->frames != 0 && unpack(map, tap, event))
            return 1;
        while (tap->cell_next < tap->cell_cnt) {
            if (decode(map, tap, &tap->cell[tap->cell_next++], event))
                return 1;
        }
        rc = fills < FILLS_MAX ? gebi_tap_fill(map, tap) : 0;
    }
    return rc;
}

int geb_tap_next(struct geb_watch *watch, struct geb_event *event)
{
    int rc = check(watch, event);
    return SHR_UNLIKELY(rc < 0) ? rc : next(watch, event);
}

int geb_tap_wait(struct geb_watch *watch, struct geb_event *event, uint64_t deadline_ns)
{
    int rc = check(watch, event);
    uint64_t nap_ns = NAP_MIN_NS;
    if (rc < 0)
        return rc;
    uint64_t lap_ns = (uint64_t)watch->tap->ring.cell_cnt * 4; /* as fast as it was ever filled */
    uint64_t most_ns = lap_ns < NAP_MIN_NS ? NAP_MIN_NS : lap_ns;
    most_ns = most_ns > NAP_MAX_NS ? NAP_MAX_NS : most_ns;
    while ((rc = next(watch, event)) == 0) {
        uint64_t now_ns = shr_now_ns();
        if (now_ns >= deadline_ns) {
            watch->tap->streaming = false; /* a last look, whatever the pace */
            rc = next(watch, event);
            return rc == 0 ? -ETIMEDOUT : rc;
        }
        uint64_t left_ns = deadline_ns - now_ns < nap_ns ? deadline_ns - now_ns : nap_ns;
        clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = (long)left_ns}, NULL);
        nap_ns = nap_ns * 2 < most_ns ? nap_ns * 2 : most_ns;
    }
    return rc;
}

/* ---- counts ---------------------------------------------------------------------------------- */

/* How many positions the tap has still to give. If none, every event that a producer had counted
 * before we looked at the end has been passed: what it did not see, it missed. */
static uint64_t settle(struct geb_watch *watch)
{
    struct gebi_tap *tap = watch->tap;
    uint64_t number[SHR_PRODUCERS_MAX + 1];
    uint32_t slots = watch->map.geo.producer_cnt + 1;
    for (uint32_t i = 1; i < slots; i++)
        number[i] = shr_peer_last_number(&watch->map, i);
    shr_fence_acquire(); /* edge M3 acquire: the end is behind all that was counted */
    uint64_t end = shr_ring_end(&tap->ring);
    uint64_t waiting = tap->cell_cnt - tap->cell_next + (tap->frames != 0);
    int64_t ahead = (int64_t)(end - tap->pos);
    if (ahead > 0 || waiting != 0)
        return waiting + (ahead > 0 ? (uint64_t)ahead : 0);
    for (uint32_t i = 1; i < slots; i++) {
        struct gebi_tap_slot *slot = &tap->slot[i];
        int64_t gap = (int64_t)(number[i] - slot->last);
        if (gap <= 0)
            continue;
        note_missed(tap, i, slot->last + 1, (uint64_t)gap);
        slot->last = number[i];
        slot->met = true;
    }
    return 0;
}

int geb_tap_counts(struct geb_watch *watch, struct geb_tap_counts *counts)
{
    int rc = check(watch, counts);
    if (rc < 0)
        return rc;
    if (counts->size != sizeof(*counts))
        return gebi_fail(-EINVAL, "geb_tap_counts.size is %zu, not %zu: use GEB_TAP_COUNTS_INIT",
                         counts->size, sizeof(*counts));
    uint64_t behind = settle(watch);
    const struct gebi_tap *tap = watch->tap;
    *counts = (struct geb_tap_counts){.size = sizeof(*counts),
                                      .seen = tap->seen,
                                      .missed = tap->missed,
                                      .overtaken = tap->overtaken,
                                      .gone = tap->gone,
                                      .passed = tap->passed,
                                      .bad = tap->bad,
                                      .behind = behind,
                                      .first_overtaken = tap->first_overtaken,
                                      .last_overtaken = tap->last_overtaken};
    return 0;
}

int geb_tap_producers(struct geb_watch *watch, struct geb_tap_row *rows, uint32_t max)
{
    int rc = check(watch, rows);
    if (rc < 0)
        return rc;
    uint32_t cnt = 0;
    for (uint32_t i = 1; i <= watch->map.geo.producer_cnt && cnt < max; i++) {
        const struct gebi_tap_slot *slot = &watch->tap->slot[i];
        if (slot->met)
            rows[cnt++] = (struct geb_tap_row){
                .producer = i,
                .last = slot->last,
                .seen = slot->seen,
                .missed = slot->missed,
                .first_missed = slot->first_missed,
                .last_missed = slot->last_missed,
            };
    }
    return (int)cnt;
}
