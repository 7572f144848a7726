#include "tools/geb-top/top.h"

#include "tools/common.h"

#include <inttypes.h>
#include <string.h>

#define ROWS_SHOWN 12u

/* Text from shared memory may hold anything: only what is printable reaches the terminal. */
static const char *shown(char text[48], const char *from)
{
    size_t i = 0;
    for (; from[i] != '\0' && i < 47; i++)
        text[i] = from[i] >= ' ' && from[i] <= '~' ? from[i] : '?';
    text[i] = '\0';
    return text;
}

static double seconds_between(const struct top_sample *sample, const struct top_sample *before)
{
    return before != NULL ? (double)(sample->taken_ns - before->taken_ns) / 1e9 : 0;
}

static void rate_print(FILE *to, uint64_t now, uint64_t then, double seconds, int width)
{
    char text[TOOL_TEXT_BYTES];
    if (seconds > 0)
        fprintf(to, "%*s", width, tool_count(text, (uint64_t)((double)(now - then) / seconds)));
}

static void bus_print(const struct top_sample *sample, FILE *to)
{
    const struct geb_bus_info *info = &sample->info;
    const struct geb_participant *consumer = top_consumer(sample);
    char a[TOOL_TEXT_BYTES], b[TOOL_TEXT_BYTES], name[48];
    uint64_t age_s = info->age_ns / 1000000000u;
    fprintf(to, "%s  %s, %s, %s events, %s in %s, up %" PRIu64 ":%02u:%02u%s\n",
            shown(name, sample->name), top_policy_name(info->policy),
            info->exclusive ? "exclusive" : "shared", tool_count(a, info->capacity),
            tool_bytes(b, (double)info->bytes), sample->backing, age_s / 3600,
            (unsigned)(age_s / 60 % 60), (unsigned)(age_s % 60), info->closed ? ", closed" : "");
    if (consumer != NULL)
        fprintf(to, "consumer %" PRIu32 " %s", consumer->pid, consumer->state);
    else
        fprintf(to, "no consumer");
    fprintf(to, ", sleeps %s, redelivered %s%s\n", tool_count(a, sample->metrics.sleeps),
            tool_count(b, sample->metrics.redelivered),
            sample->metrics.standby != 0 ? ", a standby waits" : "");
}

static void account_print(const struct top_sample *sample, const struct top_sample *before,
                          FILE *to)
{
    const struct geb_metrics *now = &sample->metrics;
    const struct geb_metrics *then = before != NULL ? &before->metrics : now;
    double seconds = seconds_between(sample, before);
    const struct {
        const char *name;
        uint64_t now, then;
    } rows[] = {
        {"accepted", now->accepted, then->accepted},
        {"delivered", now->delivered, then->delivered},
        {"dropped", now->dropped, then->dropped},
        {"expired", now->expired, then->expired},
        {"cancelled", now->cancelled, then->cancelled},
        {"unhandled", now->unhandled, then->unhandled},
        {"dead_lettered", now->dead_lettered, then->dead_lettered},
        {"lost_in_crash", now->lost_in_crash, then->lost_in_crash},
        {"errors", now->errors, then->errors},
    };
    char text[TOOL_TEXT_BYTES];
    fprintf(to, "\nACCOUNT                     events%s\n", seconds > 0 ? "      events/s" : "");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fprintf(to, "  %-14s%18s", rows[i].name, tool_count(text, rows[i].now));
        rate_print(to, rows[i].now, rows[i].then, seconds, 14);
        fputc('\n', to);
    }
    fprintf(to, "  %-14s%18s\n", "pending", tool_count(text, now->pending));
}

static void ring_print(const struct top_sample *sample, FILE *to)
{
    const struct geb_metrics *metrics = &sample->metrics;
    const struct geb_latency *latency = &metrics->latency;
    char a[TOOL_TEXT_BYTES], b[TOOL_TEXT_BYTES], c[TOOL_TEXT_BYTES], d[TOOL_TEXT_BYTES];
    fprintf(to, "\nRING       used %s, peak %s, revoked %s, returned %s",
            tool_count(a, metrics->used), tool_count(b, metrics->peak),
            tool_count(c, metrics->revoked), tool_count(d, metrics->returned));
    fprintf(to, ", quarantined %s, bad bytes %s\n", tool_count(a, metrics->quarantined),
            tool_count(b, metrics->bad_bytes));
    if (latency->count > 0)
        fprintf(to, "LATENCY    p50 %s, p99 %s, p99.9 %s, max %s", tool_ns(a, latency->p50_ns),
                tool_ns(b, latency->p99_ns), tool_ns(c, latency->p999_ns),
                tool_ns(d, latency->max_ns));
    else
        fprintf(to, "LATENCY    none yet");
    fprintf(to, " (%s events, 1 in %" PRIu32 ")\n", tool_count(a, latency->count),
            latency->sampled_1_in);
}

/* Classes of which no chunk is carved are left out. */
static void slabs_print(const struct top_sample *sample, FILE *to)
{
    char a[TOOL_TEXT_BYTES], b[TOOL_TEXT_BYTES], c[TOOL_TEXT_BYTES];
    const char *heading = "SLABS";
    for (uint32_t i = 0; i < sample->slab_cnt; i++) {
        const struct geb_slab_row *slab = &sample->slabs[i];
        if (slab->blocks == 0)
            continue;
        fprintf(to, "%-10s node %" PRIu32 ", %s of %s ", heading, slab->node,
                tool_count(a, slab->free), tool_count(b, slab->blocks));
        if (slab->block_bytes == 0)
            fprintf(to, "chunks belong to nobody\n");
        else
            fprintf(to, "blocks of %s are free\n", tool_bytes(c, slab->block_bytes));
        heading = "";
    }
}

static const struct geb_participant *peer_before(const struct top_sample *before,
                                                 const struct geb_participant *peer)
{
    for (uint32_t i = 0; before != NULL && i < before->participant_cnt; i++) {
        const struct geb_participant *row = &before->participants[i];
        if (row->slot == peer->slot && row->pid == peer->pid)
            return row;
    }
    return NULL;
}

static void more_print(uint32_t cnt, FILE *to)
{
    if (cnt > ROWS_SHOWN)
        fprintf(to, "  ... and %" PRIu32 " more\n", cnt - ROWS_SHOWN);
}

static void producers_print(const struct top_sample *sample, const struct top_sample *before,
                            FILE *to)
{
    double seconds = seconds_between(sample, before);
    char a[TOOL_TEXT_BYTES], b[TOOL_TEXT_BYTES], c[TOOL_TEXT_BYTES], name[48];
    fprintf(to, "\n%-18s %8s %-8s %16s %10s %12s %8s%s\n", "PRODUCERS", "pid", "state", "published",
            "bytes", "dropped", "revoked", seconds > 0 ? "      events/s" : "");
    uint32_t cnt = 0;
    for (uint32_t i = 0; i < sample->participant_cnt; i++) {
        const struct geb_participant *peer = &sample->participants[i];
        if (peer->slot == 0 || cnt++ >= ROWS_SHOWN)
            continue;
        const struct geb_participant *then = peer_before(before, peer);
        fprintf(to, "  %-16.16s %8" PRIu32 " %-8s %16s %10s %12s %8" PRIu64,
                shown(name, peer->name), peer->pid, peer->state, tool_count(a, peer->accepted),
                tool_bytes(b, (double)peer->bytes), tool_count(c, peer->dropped), peer->revoked);
        if (then != NULL)
            rate_print(to, peer->accepted, then->accepted, seconds, 14);
        fputc('\n', to);
    }
    more_print(cnt, to);
}

static void topics_print(const struct top_sample *sample, FILE *to)
{
    char a[TOOL_TEXT_BYTES], b[TOOL_TEXT_BYTES], c[TOOL_TEXT_BYTES], name[48];
    fprintf(to, "\n%-18s %16s %16s %16s\n", "TOPICS", "delivered", "unhandled", "dropped");
    for (uint32_t i = 0; i < sample->topic_cnt && i < ROWS_SHOWN; i++) {
        const struct geb_topic_row *topic = &sample->topics[i];
        fprintf(to, "  %-16.16s %16s %16s %16s\n", shown(name, topic->name),
                tool_count(a, topic->delivered), tool_count(b, topic->unhandled),
                tool_count(c, topic->dropped));
    }
    more_print(sample->topic_cnt, to);
}

static void handlers_print(const struct top_sample *sample, FILE *to)
{
    char a[TOOL_TEXT_BYTES], b[TOOL_TEXT_BYTES], name[48], topic_name[48];
    fprintf(to, "\n%-18s %16s %16s  %s\n", "HANDLERS", "calls", "errors", "topic");
    for (uint32_t i = 0; i < sample->handler_cnt && i < ROWS_SHOWN; i++) {
        const struct geb_handler_row *handler = &sample->handlers[i];
        const char *topic = top_topic_name(sample, handler->topic);
        fprintf(to, "  %-16.16s %16s %16s  %s\n", shown(name, handler->name),
                tool_count(a, handler->calls), tool_count(b, handler->errors),
                topic != NULL ? shown(topic_name, topic) : "(default)");
    }
    more_print(sample->handler_cnt, to);
}

static void errors_print(const struct top_sample *sample, FILE *to)
{
    char a[TOOL_TEXT_BYTES], text[48];
    if (sample->error_cnt > 0)
        fprintf(to, "\n%-18s %16s  %s\n", "ERRORS", "count", "text");
    for (uint32_t i = 0; i < sample->error_cnt && i < ROWS_SHOWN; i++) {
        const struct geb_error_row *error = &sample->errors[i];
        fprintf(to, "  %-16d %16s  %s\n", error->code, tool_count(a, error->count),
                shown(text, error->text));
    }
    more_print(sample->error_cnt, to);
}

void top_text_print(const struct top_sample *sample, const struct top_sample *before, FILE *to)
{
    bus_print(sample, to);
    account_print(sample, before, to);
    ring_print(sample, to);
    slabs_print(sample, to);
    producers_print(sample, before, to);
    topics_print(sample, to);
    handlers_print(sample, to);
    errors_print(sample, to);
}
