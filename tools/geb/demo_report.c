/* What geb demo shows to people. */
#include "tools/geb/demo.h"

#include "tools/common.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static double seconds_since_start(const struct demo_run *run, uint64_t ns)
{
    return ns > run->start_ns ? (double)(ns - run->start_ns) / 1e9 : 0;
}

double demo_source_seconds(const struct demo_run *run, enum demo_source source)
{
    const struct demo_sent *sent = &run->shared->ledger.sent[source];
    uint64_t from_ns = shr_load_relaxed(&sent->from_ns);
    uint64_t until_ns = shr_load_relaxed(&sent->until_ns);
    if (until_ns == 0)
        until_ns = source == DEMO_TICKS && run->kill_ns != 0 ? run->kill_ns : run->end_ns;
    return until_ns > from_ns ? (double)(until_ns - from_ns) / 1e9 : 0;
}

double demo_source_rate(const struct demo_run *run, enum demo_source source, uint64_t bus_accepted)
{
    const struct demo_sent *sent = &run->shared->ledger.sent[source];
    double seconds = demo_source_seconds(run, source);
    uint64_t committed = demo_ledger_committed(&run->shared->ledger, source, bus_accepted);
    uint64_t quiet = shr_load_relaxed(&sent->expiring) + shr_load_relaxed(&sent->unwanted);
    return seconds > 0 ? (double)(committed - quiet) / seconds : 0;
}

/* A line that stays. On a terminal it takes the place of the progress line. */
void demo_note(struct demo_run *run, const char *format, ...)
{
    if (run->json)
        return;
    va_list args;
    va_start(args, format);
    printf("%s%5.1f s  ", run->terminal ? "\r\033[K" : "", seconds_since_start(run, geb_now()));
    vprintf(format, args);
    printf("\n");
    va_end(args);
    fflush(stdout);
}

void demo_progress(struct demo_run *run)
{
    const struct demo_shared *shared = run->shared;
    uint64_t sent = 0, seen = 0, now = geb_now();
    for (int i = 0; i < DEMO_SOURCE_CNT; i++) {
        sent += shr_load_relaxed(&shared->ledger.sent[i].ended);
        seen += shr_load_relaxed(&shared->ledger.seen[i].delivered);
    }
    double seconds = (double)(now - run->shown_ns) / 1e9;
    char a[TOOL_TEXT_BYTES], b[TOOL_TEXT_BYTES], c[TOOL_TEXT_BYTES];
    if (!run->json) {
        printf("%s%5.1f s  %s events/s published, %s handled  |  cpu %.2f, %s switches/s%s%s%s",
               run->terminal ? "\r\033[K" : "", seconds_since_start(run, now),
               tool_count(a, (uint64_t)((double)(sent - run->shown_sent) / seconds)),
               tool_count(b, (uint64_t)((double)(seen - run->shown_seen) / seconds)),
               demo_gauge_mean(shared, DEMO_BUSY),
               tool_count(c, (uint64_t)demo_gauge_mean(shared, DEMO_SWITCHES)),
               run->kill_ns != 0 ? "  [ticks: killed]" : "",
               run->stop_ns != 0 && run->resume_ns == 0 ? "  [blocks: stopped]" : "",
               run->terminal ? "" : "\n");
        fflush(stdout);
    }
    run->shown_ns = now;
    run->shown_sent = sent;
    run->shown_seen = seen;
}

static void machine_print(const struct demo_run *run)
{
    const struct demo_shared *shared = run->shared;
    char a[TOOL_TEXT_BYTES], b[TOOL_TEXT_BYTES];
    printf("\nThis machine, %ld processors, over %.1f s        mean             peak\n",
           sysconf(_SC_NPROCESSORS_ONLN), seconds_since_start(run, run->end_ns));
    printf("  processors busy                 %16.2f %16.2f\n", demo_gauge_mean(shared, DEMO_BUSY),
           demo_gauge_peak(shared, DEMO_BUSY));
    static const struct {
        const char *name;
        enum demo_gauge_kind kind;
        bool bytes;
    } rows[] = {
        {"context switches/s", DEMO_SWITCHES, false},
        {"page faults/s", DEMO_FAULTS, false},
        {"major page faults/s", DEMO_MAJOR_FAULTS, false},
        {"network in/s", DEMO_RECEIVED, true},
        {"network out/s", DEMO_TRANSMITTED, true},
        {"network packets/s", DEMO_PACKETS, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        double mean = demo_gauge_mean(shared, rows[i].kind);
        double peak = demo_gauge_peak(shared, rows[i].kind);
        printf("  %-30s  %16s %16s\n", rows[i].name,
               rows[i].bytes ? tool_bytes(a, mean) : tool_count(a, (uint64_t)mean),
               rows[i].bytes ? tool_bytes(b, peak) : tool_count(b, (uint64_t)peak));
    }
    printf("  a sampler: %.1f %% of a processor, queued %.1f %% of the time, resident %s\n",
           demo_gauge_mean(shared, DEMO_ON_CPU) * 100, demo_gauge_mean(shared, DEMO_QUEUED) * 100,
           tool_bytes(a, (double)shr_load_relaxed(&shared->resident_bytes)));
}

static void sources_print(const struct demo_run *run, const struct demo_result *result)
{
    const struct demo_ledger *ledger = &run->shared->ledger;
    char a[TOOL_TEXT_BYTES], b[TOOL_TEXT_BYTES], c[TOOL_TEXT_BYTES], d[TOOL_TEXT_BYTES];
    double bytes_sum = 0, rate_sum = 0;
    printf("\nProducer        events/s          bytes/s       committed         handled"
           "         dropped\n");
    for (int i = 0; i < DEMO_SOURCE_CNT; i++) {
        enum demo_source source = (enum demo_source)i;
        double seconds = demo_source_seconds(run, source);
        uint64_t committed = demo_ledger_committed(ledger, source, result->bus.accepted);
        double rate = demo_source_rate(run, source, result->bus.accepted);
        double bytes = seconds > 0 ? (double)shr_load_relaxed(&ledger->sent[i].bytes) / seconds : 0;
        rate_sum += rate;
        bytes_sum += bytes;
        printf("  %-8s%14s %16s", demo_source_name[i], tool_count(a, (uint64_t)rate),
               tool_bytes(b, bytes));
        printf("%16s%16s%16s%s\n", tool_count(a, committed),
               tool_count(b, shr_load_relaxed(&ledger->seen[i].delivered)),
               tool_count(c, demo_ledger_dropped(ledger, source, result->bus.accepted)),
               i == DEMO_TICKS    ? "  killed"
               : i == DEMO_BLOCKS ? "  stopped for a time"
                                  : "");
        uint64_t refused = shr_load_relaxed(&ledger->sent[i].refused);
        if (refused != 0)
            printf("  %-8s%14s publishes found no free slab block\n", "", tool_count(d, refused));
    }
    printf("  %-8s%14s %16s%16s%16s%16s\n", "all", tool_count(a, (uint64_t)rate_sum),
           tool_bytes(b, bytes_sum), tool_count(c, result->ledger.accepted),
           tool_count(d, result->ledger.delivered),
           tool_count((char[TOOL_TEXT_BYTES]){0}, result->ledger.dropped));
}

static void account_print(const struct demo_result *result)
{
    char a[TOOL_TEXT_BYTES], b[TOOL_TEXT_BYTES], c[TOOL_TEXT_BYTES];
    printf("\nAccount                  the bus     an observer     the ledgers\n");
#define DEMO_PRINT(name)                                                                          \
    printf("  %-14s%16s%16s%16s%s\n", #name, tool_count(a, result->bus.name),                     \
           tool_count(b, result->outside.name), tool_count(c, result->ledger.name),               \
           result->bus.name == result->ledger.name && result->outside.name == result->ledger.name \
               ? ""                                                                               \
               : "  DIFFERENT");
    DEMO_COMPARED(DEMO_PRINT)
#undef DEMO_PRINT
}

void demo_report(const struct demo_run *run, const struct demo_result *result)
{
    const struct geb_metrics *metrics = &run->shared->metrics;
    const struct geb_latency *latency = &metrics->latency;
    char a[TOOL_TEXT_BYTES], b[TOOL_TEXT_BYTES], c[TOOL_TEXT_BYTES], d[TOOL_TEXT_BYTES];
    if (run->terminal)
        printf("\r\033[K");
    machine_print(run);
    sources_print(run, result);
    printf("\nLatency from publish to handler, 1 event in %u timed (%s of them)\n",
           latency->sampled_1_in, tool_count(a, latency->count));
    printf("  p50 %s   p99 %s   p99.9 %s   max %s\n", tool_ns(a, latency->p50_ns),
           tool_ns(b, latency->p99_ns), tool_ns(c, latency->p999_ns), tool_ns(d, latency->max_ns));
    printf("  most events seen waiting %s   positions revoked %s   consumer sleeps %s\n",
           tool_count(a, metrics->peak), tool_count(b, metrics->revoked),
           tool_count(c, metrics->sleeps));
    account_print(result);
    printf("\n%s\n", result->differences == 0
                         ? "Every column of the account is what the ledgers say."
                         : "The account is NOT what the ledgers say.");
}
