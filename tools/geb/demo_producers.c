/* The six producers. Each publishes through ledger_begin and ledger_end, so that its own ledger
 * says what it committed even if it is killed in between. */
#include "tools/geb/demo.h"

#include "tools/common.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

#define SAMPLE_PERIOD_NS 800000u /* 1,250 samples a second */
#define BLOCK_PERIOD_NS  1000000u
#define BLOCKS_A_PERIOD  10u
/* Who is further behind than this starts anew instead of catching up. */
#define LATE_NS      50000000u
#define QUIET_EVENTS 100u
#define ANSWER_NS    UINT64_C(20000000000)

struct sender {
    struct geb_producer *producer;
    struct demo_shared *shared;
    struct demo_sent *sent;
    struct demo_seen *seen;
    enum demo_source source;
    geb_topic_id topic, late_topic, unwanted_topic;
    uint64_t seq;
    uint64_t bytes;
};

static uint32_t phase(const struct sender *me)
{
    return (uint32_t)shr_load_acquire(&me->shared->phase);
}

static void ns_sleep_until(uint64_t ns)
{
    struct timespec until = {.tv_sec = (time_t)(ns / 1000000000u),
                             .tv_nsec = (long)(ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        continue;
}

/* The sequence number for the next event. The fence: dying right after it leaves this store. */
static uint64_t ledger_begin(struct sender *me)
{
    shr_store_relaxed(&me->sent->begun, me->seq + 1);
    shr_fence_compiler();
    return me->seq + 1;
}

/* A full slab region refuses events under every policy: that is no failure of the demo. */
static int ledger_end(struct sender *me, int rc, size_t len)
{
    shr_fence_compiler();
    if (rc == 0) {
        me->seq++;
        me->bytes += len;
        shr_store_relaxed(&me->sent->ended, me->seq);
        shr_store_relaxed(&me->sent->bytes, me->bytes);
        return 0;
    }
    shr_store_relaxed(&me->sent->begun, me->seq);
    if (rc != -ENOBUFS)
        return rc;
    shr_store_relaxed(&me->sent->refused, shr_load_relaxed(&me->sent->refused) + 1);
    return 0;
}

uint64_t demo_tick_word(uint64_t seq, uint32_t i)
{
    return (seq + i) * UINT64_C(0x9e3779b97f4a7c15) ^ seq >> 7;
}

static uint64_t block_sum(const uint64_t *words)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i + 1 < DEMO_BLOCK_WORDS; i++)
        sum = (sum ^ words[i]) * UINT64_C(0x100000001b3);
    return sum;
}

void demo_block_fill(uint64_t *words, uint64_t seq)
{
    uint64_t random = seq * UINT64_C(0x9e3779b97f4a7c15) | 1;
    words[0] = seq;
    for (uint32_t i = 1; i + 1 < DEMO_BLOCK_WORDS; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        words[i] = random;
    }
    words[DEMO_BLOCK_WORDS - 1] = block_sum(words);
}

bool demo_block_check(const uint64_t *words)
{
    return words[DEMO_BLOCK_WORDS - 1] == block_sum(words);
}

static int ticks_run(struct sender *me)
{
    int rc = 0;
    while (rc == 0 && phase(me) == DEMO_PHASE_RUN) {
        uint64_t tick[DEMO_TICK_WORDS];
        tick[0] = ledger_begin(me);
        for (uint32_t i = 1; i < DEMO_TICK_WORDS; i++)
            tick[i] = demo_tick_word(tick[0], i);
        rc = geb_publish(me->producer, me->topic, tick, sizeof tick);
        rc = ledger_end(me, rc, sizeof tick);
    }
    return rc;
}

/* The sequence number is in the block, so the event begins before the loan is filled. */
static int block_send(struct sender *me)
{
    struct geb_loan loan;
    int rc = geb_loan(me->producer, DEMO_BLOCK_BYTES, &loan);
    if (rc < 0)
        return ledger_end(me, rc, 0);
    demo_block_fill(loan.data, ledger_begin(me));
    rc = geb_commit(me->producer, &loan, me->topic);
    if (rc < 0)
        geb_return(me->producer, &loan);
    return ledger_end(me, rc, DEMO_BLOCK_BYTES);
}

static int blocks_run(struct sender *me)
{
    int rc = 0;
    uint64_t next = geb_now();
    while (rc == 0 && phase(me) == DEMO_PHASE_RUN) {
        for (uint32_t i = 0; rc == 0 && i < BLOCKS_A_PERIOD; i++)
            rc = block_send(me);
        next += BLOCK_PERIOD_NS;
        if (geb_now() > next + LATE_NS)
            next = geb_now();
        ns_sleep_until(next);
    }
    return rc;
}

static int sample_send(struct sender *me, struct demo_reader *reader)
{
    uint64_t words[DEMO_PROCESS_WORDS];
    size_t len = me->source == DEMO_PROCESS ? sizeof words : DEMO_SAMPLE_WORDS * sizeof words[0];
    int rc = demo_reader_sample(reader, words);
    if (rc < 0)
        return rc;
    words[0] = ledger_begin(me);
    return ledger_end(me, geb_publish(me->producer, me->topic, words, len), len);
}

static int samples_run(struct sender *me, struct demo_reader *reader)
{
    int rc = 0;
    uint64_t next = geb_now();
    while (rc == 0 && phase(me) == DEMO_PHASE_RUN) {
        rc = sample_send(me, reader);
        next += SAMPLE_PERIOD_NS;
        if (geb_now() > next + LATE_NS)
            next = geb_now();
        ns_sleep_until(next);
    }
    return rc;
}

/* Publishes a sample and waits for its handler: all that was published before has left the bus. */
static int round_trip(struct sender *me, struct demo_reader *reader)
{
    uint64_t before = me->seq;
    int rc = sample_send(me, reader);
    if (rc < 0)
        return rc;
    uint64_t until = geb_now() + ANSWER_NS;
    while (me->seq == before || shr_load_acquire(&me->seen->last) < me->seq) {
        if (geb_now() > until)
            return -ETIMEDOUT;
        ns_sleep_until(geb_now() + 100000);
        if (me->seq == before && (rc = sample_send(me, reader)) < 0)
            return rc;
    }
    return 0;
}

/* Events that expire or that nobody handles leave no trace in a handler, so nobody outside the bus
 * could tell them from dropped ones. They are sent while nothing can be dropped: this process is
 * the only one that publishes, and the bus has been empty just before. */
static int quiet_round(struct sender *me, struct demo_reader *reader)
{
    struct geb_options late = GEB_OPTIONS_INIT;
    int rc = round_trip(me, reader);
    for (uint32_t i = 0; rc == 0 && i < QUIET_EVENTS; i++) {
        uint64_t before = me->seq, word = ledger_begin(me);
        late.deadline_ns = geb_now() - 1;
        rc = geb_publish_with(me->producer, me->late_topic, &word, sizeof word, &late);
        rc = ledger_end(me, rc, sizeof word);
        shr_store_relaxed(&me->sent->expiring,
                          shr_load_relaxed(&me->sent->expiring) + me->seq - before);
        if (rc < 0)
            break;
        before = me->seq;
        word = ledger_begin(me);
        rc = geb_publish(me->producer, me->unwanted_topic, &word, sizeof word);
        rc = ledger_end(me, rc, sizeof word);
        shr_store_relaxed(&me->sent->unwanted,
                          shr_load_relaxed(&me->sent->unwanted) + me->seq - before);
    }
    return rc < 0 ? rc : round_trip(me, reader);
}

static int sender_open(struct sender *me, const char *bus)
{
    int rc = geb_join(&me->producer, bus, demo_source_name[me->source]);
    if (rc == 0)
        rc = geb_topic(me->producer, demo_source_name[me->source], &me->topic);
    if (rc == 0 && me->source == DEMO_PROCESS)
        rc = geb_topic(me->producer, "late", &me->late_topic);
    if (rc == 0 && me->source == DEMO_PROCESS)
        rc = geb_topic(me->producer, "unwanted", &me->unwanted_topic);
    return rc;
}

static void phase_await(const struct sender *me, uint32_t wanted)
{
    while (phase(me) < wanted)
        ns_sleep_until(geb_now() + 500000);
}

static int sender_run(struct sender *me, struct demo_reader *reader)
{
    int rc = me->source == DEMO_PROCESS ? quiet_round(me, reader) : 0;
    if (rc < 0)
        return rc;
    shr_store_release(&me->sent->stage, DEMO_STAGE_READY);
    phase_await(me, DEMO_PHASE_RUN);
    shr_store_relaxed(&me->sent->from_ns, geb_now());
    if (me->source == DEMO_TICKS)
        rc = ticks_run(me);
    else if (me->source == DEMO_BLOCKS)
        rc = blocks_run(me);
    else
        rc = samples_run(me, reader);
    shr_store_relaxed(&me->sent->until_ns, geb_now());
    if (rc == 0 && me->source == DEMO_PROCESS) {
        phase_await(me, DEMO_PHASE_QUIET);
        rc = quiet_round(me, reader);
    }
    return rc;
}

int demo_producer_main(const char *bus, enum demo_source source, struct demo_shared *shared)
{
    struct sender me = {.shared = shared,
                        .sent = &shared->ledger.sent[source],
                        .seen = &shared->ledger.seen[source],
                        .source = source};
    struct demo_reader reader;
    char what[64];
    snprintf(what, sizeof what, "producer %s", demo_source_name[source]);
    int rc = source < DEMO_TICKS ? demo_reader_open(&reader, source) : 0;
    if (rc == 0)
        rc = sender_open(&me, bus);
    if (rc == 0)
        rc = sender_run(&me, &reader);
    if (rc < 0)
        tool_explain("geb demo", what, bus, rc);
    int left = geb_leave(me.producer);
    if (rc == 0 && left < 0)
        tool_explain("geb demo", what, bus, left);
    return rc < 0 || left < 0 ? TOOL_FAILURE : TOOL_OK;
}
