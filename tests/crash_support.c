#include "tests/crash_support.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

const char *const crash_kind_text[CRASH_KINDS] = {
    "in line", "short", "block", "run", "batch", "loan", "return", "big loan", "loan of a run"};

static unsigned char payload[CRASH_BATCH][CRASH_RUN_BYTES];
static struct geb_message message[CRASH_BATCH];
static uint64_t clock_ns = 1000000000;
unsigned crash_leftovers;

int crash_fail(const char *file, int line, const char *what, long long value)
{
    static unsigned messages;
    if (messages++ < 100)
        printf("%s:%d: %s %lld\n", file, line, what, value);
    return line;
}

uint64_t crash_clock(void)
{
    return clock_ns += 1000;
}

/* ---- payloads -------------------------------------------------------------------------------- */

static uint32_t kind_bytes(enum crash_kind kind)
{
    switch (kind) {
    case CRASH_INLINE:
        return SHR_INLINE_BYTES;
    case CRASH_SHORT:
        return 12;
    case CRASH_RUN:
        return CRASH_RUN_BYTES;
    case CRASH_BATCH3:
        return 60;
    case CRASH_BIG:
    case CRASH_LONG:
        return 40;
    default:
        return CRASH_BLOCK_BYTES;
    }
}

uint32_t crash_events(enum crash_kind kind)
{
    return kind == CRASH_BATCH3 ? CRASH_BATCH : kind == CRASH_RETURN ? 0 : 1;
}

static uint32_t loan_bytes(enum crash_kind kind)
{
    switch (kind) {
    case CRASH_BIG:
        return SHR_CHUNK_BYTES / 2 + 1;
    case CRASH_LONG:
        return CRASH_RUN_BYTES;
    default:
        return kind_bytes(kind);
    }
}

/* Eight bytes say who and which; the others follow from them. */
static void fill(unsigned char *to, uint32_t who, uint32_t seq, uint32_t bytes)
{
    memcpy(to, &who, 4);
    memcpy(to + 4, &seq, 4);
    for (uint32_t i = 8; i < bytes; i++)
        to[i] = (unsigned char)(who * 31 + seq * 7 + i);
}

/* Looks at a byte of each 32, since handlers are stepped through too. */
static bool is_whole(const unsigned char *data, uint32_t who, uint32_t seq, size_t bytes)
{
    for (size_t i = 8 + seq % 24; i < bytes; i += 32) {
        if (data[i] != (unsigned char)(who * 31 + seq * 7 + i))
            return false;
    }
    return true;
}

bool crash_begin_event(struct crash_ledger *ledger, const struct geb_event *event, uint32_t *who,
                       uint32_t *seq)
{
    *who = 0;
    *seq = 0;
    if (event->len >= 8) {
        memcpy(who, event->data, 4);
        memcpy(seq, (const char *)event->data + 4, 4);
    }
    if (*who >= CRASH_SENDERS || *seq == 0 || *seq >= CRASH_SEQS) {
        ledger->torn++;
        return false;
    }
    ledger->begun[*who][*seq]++;
    if (event->redelivered)
        ledger->again[*who][*seq]++;
    else if (*seq <= ledger->last[*who])
        ledger->disorder++;
    ledger->last[*who] = *seq;
    if (event->redelivered != (event->attempt > 1) ||
        !is_whole(event->data, *who, *seq, event->len))
        ledger->torn++;
    return true;
}

static int on_event(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct crash_ledger *ledger = user;
    uint32_t who, seq;
    (void)ctx;
    if (crash_begin_event(ledger, event, &who, &seq))
        ledger->ended[who][seq]++;
    return 0;
}

/* ---- the bus --------------------------------------------------------------------------------- */

int crash_on(struct crash_world *w, const char *topic)
{
    return geb_on(w->bus, topic, on_event, w->ledger);
}

static int take_over(struct crash_world *w)
{
    w->bus->consumer.taker.now_ns = crash_clock;
    return crash_on(w, "events");
}

int crash_open(struct crash_world *w)
{
    int rc = geb_open(&w->bus, w->name);
    return rc < 0 ? rc : take_over(w);
}

int crash_close(struct crash_world *w)
{
    int rc = geb_close(w->bus, 0);
    w->bus = NULL;
    return rc;
}

void crash_config(const struct crash_world *w, struct geb_config *config)
{
    *config = (struct geb_config)GEB_CONFIG_INIT;
    config->policy = w->policy;
    config->exclusive = w->exclusive;
    config->capacity = w->capacity != 0 ? w->capacity : 4;
    config->producers = w->exclusive ? 1 : w->producers != 0 ? w->producers : 2;
    config->topics = w->topics != 0 ? w->topics : 5;
    config->patience_ns = CRASH_PATIENCE_NS;
    config->sample_shift = 20;
    config->slab_bytes = w->slab_bytes != 0 ? w->slab_bytes : 2 * SHR_CHUNK_BYTES;
    config->max_event = w->max_event != 0 ? w->max_event : 1024;
    if (w->kind == CRASH_RUN || w->kind == CRASH_LONG) {
        config->slab_bytes = 4 * SHR_CHUNK_BYTES;
        config->max_event = 2 * SHR_CHUNK_BYTES;
    }
}

int crash_create(struct crash_world *w)
{
    static uint32_t worlds;
    char path[SHR_PATH_BYTES];
    struct geb_config config;
    step_clock_set_ahead(0);
    crash_config(w, &config);
    if (w->ledger == NULL)
        w->ledger = support_shared(sizeof(*w->ledger));
    memset(w->ledger, 0, sizeof(*w->ledger));
    w->victim_slot = w->exclusive ? 1 : 2;
    snprintf(w->name, sizeof(w->name), "crash.%08u", worlds++);
    int rc = geb_create(&w->bus, w->name, &config);
    if (rc == 0)
        rc = take_over(w);
    if (rc == 0)
        rc = shr_segment_path(w->name, false, path);
    if (rc == 0)
        rc = shr_segment_attach(&w->map, path, false);
    if (rc == 0)
        rc = crash_join(w, &w->other, 0);
    for (uint32_t i = 0; rc == 0 && i < crash_laps(w, 1); i++)
        rc = crash_send_and_poll(w, &w->other, CRASH_INLINE);
    return rc == 0 && w->exclusive ? crash_leave(&w->other) : rc;
}

/* After a check that failed, whatever it left must not fail the next one. */
int crash_destroy(struct crash_world *w)
{
    char path[SHR_PATH_BYTES];
    int rc = crash_leave(&w->other) | crash_leave(&w->next) | crash_close(w);
    shr_segment_detach(&w->map);
    rc |= geb_remove(w->name);
    if (shr_segment_path(w->name, false, path) == 0)
        unlink(path);
    if (rc != 0 || support_entries(support_dir()) != 0)
        crash_leftovers++;
    return rc;
}

int crash_setup(void *user)
{
    return crash_create(user);
}

void crash_teardown(void *user)
{
    crash_destroy(user);
}

/* ---- producers ------------------------------------------------------------------------------- */

int crash_join(struct crash_world *w, struct crash_sender *s, uint32_t who)
{
    *s = (struct crash_sender){.who = who};
    int rc = geb_join(&s->p, w->name, "crash");
    if (rc < 0)
        return rc;
    s->p->taker.now_ns = crash_clock;
    rc = geb_topic(s->p, "events", &s->topic);
    return rc < 0 ? rc : geb_topic(s->p, "nobody", &s->nobody);
}

int crash_leave(struct crash_sender *s)
{
    int rc = geb_leave(s->p);
    s->p = NULL;
    return rc;
}

struct crash_sender *crash_test_sender(struct crash_world *w)
{
    return w->exclusive ? &w->next : &w->other;
}

void crash_compose(struct crash_world *w, struct crash_sender *s, enum crash_kind kind)
{
    uint32_t bytes = kind_bytes(kind);
    uint32_t cnt = kind == CRASH_BATCH3 ? CRASH_BATCH : 1;
    for (uint32_t i = 0; i < cnt; i++) {
        uint32_t seq = w->ledger->sent[s->who] + 1 + i;
        fill(payload[i], s->who, seq, bytes);
        w->ledger->silent[s->who][seq] = i == 1;
        message[i] = (struct geb_message){
            .topic = i == 1 ? s->nobody : s->topic, .len = bytes, .data = payload[i]};
    }
}

int crash_publish_now(struct crash_sender *s, enum crash_kind kind)
{
    uint32_t bytes = kind_bytes(kind);
    int rc;
    switch (kind) {
    case CRASH_BATCH3:
        return geb_publish_batch(s->p, message, CRASH_BATCH, NULL);
    case CRASH_LOAN:
    case CRASH_BIG:
    case CRASH_LONG:
        rc = geb_loan(s->p, loan_bytes(kind), &s->loan);
        if (rc < 0)
            return rc;
        memcpy(s->loan.data, payload[0], bytes);
        s->loan.len = bytes;
        return geb_commit(s->p, &s->loan, s->topic);
    case CRASH_RETURN:
        rc = geb_loan(s->p, bytes, &s->loan);
        return rc < 0 ? rc : geb_return(s->p, &s->loan);
    default:
        return geb_publish(s->p, s->topic, payload[0], bytes);
    }
}

/* As crash_publish_now, but a full bus of Block says so at once. */
static int try_publish(struct crash_sender *s, enum crash_kind kind)
{
    struct geb_options options = GEB_OPTIONS_INIT;
    options.wait_until_ns = 0;
    if (kind == CRASH_BATCH3)
        return geb_publish_batch(s->p, message, CRASH_BATCH, &options);
    if (kind >= CRASH_LOAN)
        return crash_publish_now(s, kind);
    return geb_publish_with(s->p, s->topic, payload[0], kind_bytes(kind), &options);
}

static void note_sent(struct crash_world *w, const struct crash_sender *s, enum crash_kind kind)
{
    uint32_t events = crash_events(kind);
    w->ledger->accepted[s->p->slot] += events;
    w->ledger->sent[s->who] += events;
}

int crash_send(struct crash_world *w, struct crash_sender *s, enum crash_kind kind)
{
    crash_compose(w, s, kind);
    int rc = try_publish(s, kind);
    if (rc == 0)
        note_sent(w, s, kind);
    return rc;
}

int crash_send_and_poll(struct crash_world *w, struct crash_sender *s, enum crash_kind kind)
{
    uint32_t polls = 0;
    int rc = crash_send(w, s, kind);
    while ((rc == -EAGAIN || rc == -ETIMEDOUT || rc == -ENOBUFS) && polls++ < CRASH_POLLS_MAX) {
        crash_poll(w);
        rc = crash_send(w, s, kind);
    }
    CRASH_EQUAL(rc, 0);
    uint32_t seq = w->ledger->sent[s->who];
    for (polls = 0; crash_events(kind) != 0 && w->ledger->ended[s->who][seq] == 0; polls++) {
        CRASH_CHECK(polls < CRASH_POLLS_MAX);
        CRASH_CHECK(crash_poll(w) >= 0);
    }
    if (polls > w->most_polls)
        w->most_polls = polls;
    return 0;
}

uint32_t crash_laps(const struct crash_world *w, uint32_t cnt)
{
    return cnt * w->map.geo.cell_cnt + 1;
}

int crash_go_on(struct crash_world *w, struct crash_sender *s, enum crash_kind kind, uint32_t cnt)
{
    for (uint32_t i = 0; i < cnt; i++)
        CRASH_TRY(crash_send_and_poll(w, s, i % 2 != 0 ? kind : CRASH_INLINE));
    return 0;
}

uint32_t crash_stop_events(void)
{
    return crash_quick() ? 100 : 1000;
}

int crash_beside(struct crash_world *w, struct crash_sender *s, enum crash_kind kind, uint32_t cnt)
{
    for (uint32_t i = 0; i < cnt; i++) {
        CRASH_TRY(crash_send_and_poll(w, s, kind));
        if (i % 50 == 0)
            crash_sweep(w);
    }
    return 0;
}

/* ---- consumer -------------------------------------------------------------------------------- */

int crash_poll(struct crash_world *w)
{
    w->bus->empty_looks = 0; /* it sweeps when we say so, not now and then */
    w->bus->since_look = 0;
    return geb_dispatch(w->bus, 0);
}

int crash_drain(struct crash_world *w)
{
    for (uint32_t i = 0; i < CRASH_POLLS_MAX; i++)
        CRASH_CHECK(crash_poll(w) >= 0);
    return 0;
}

void crash_sweep(struct crash_world *w)
{
    w->bus->swept_ns = 0;
    gebi_housekeep(w->bus, UINT64_MAX / 2);
}
