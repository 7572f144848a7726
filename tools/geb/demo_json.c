/* What geb demo shows to programs: one JSON object. */
#include "tools/geb/demo.h"

#include "tools/common.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static json_t *integer(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *account_json(const struct demo_account *account)
{
    json_t *object = json_object();
#define DEMO_JSON(name) json_object_set_new(object, #name, integer(account->name));
    DEMO_COLUMNS(DEMO_JSON)
#undef DEMO_JSON
    return object;
}

static json_t *metrics_json(const struct demo_account *account)
{
    return json_pack("{s:I, s:I, s:I}", "published", (json_int_t)account->published, "processed",
                     (json_int_t)account->processed, "errors", (json_int_t)account->errors);
}

static double seconds_at(const struct demo_run *run, uint64_t ns)
{
    return (double)(ns - run->start_ns) / 1e9;
}

static json_t *killed_json(const struct demo_run *run)
{
    const struct demo_sent *sent = &run->shared->ledger.sent[DEMO_TICKS];
    return json_pack("{s:s, s:i, s:f, s:I, s:I}", "producer", demo_source_name[DEMO_TICKS], "pid",
                     (int)run->child[DEMO_TICKS].pid, "at_s", seconds_at(run, run->kill_ns),
                     "begun", (json_int_t)shr_load_relaxed(&sent->begun), "ended",
                     (json_int_t)shr_load_relaxed(&sent->ended));
}

static json_t *stopped_json(const struct demo_run *run)
{
    return json_pack("{s:s, s:i, s:f, s:f}", "producer", demo_source_name[DEMO_BLOCKS], "pid",
                     (int)run->child[DEMO_BLOCKS].pid, "from_s", seconds_at(run, run->stop_ns),
                     "until_s", seconds_at(run, run->resume_ns));
}

static json_t *source_json(const struct demo_run *run, enum demo_source source, uint64_t accepted)
{
    const struct demo_ledger *ledger = &run->shared->ledger;
    double seconds = demo_source_seconds(run, source);
    uint64_t committed = demo_ledger_committed(ledger, source, accepted);
    uint64_t bytes = shr_load_relaxed(&ledger->sent[source].bytes);
    json_t *object = json_object();
    json_object_set_new(object, "seconds", json_real(seconds));
    json_object_set_new(object, "committed", integer(committed));
    json_object_set_new(object, "bytes", integer(bytes));
    json_object_set_new(object, "refused",
                        integer(shr_load_relaxed(&ledger->sent[source].refused)));
    json_object_set_new(object, "delivered",
                        integer(shr_load_relaxed(&ledger->seen[source].delivered)));
    json_object_set_new(object, "dropped", integer(demo_ledger_dropped(ledger, source, accepted)));
    if (seconds > 0) {
        json_object_set_new(object, "events_per_s",
                            json_real(demo_source_rate(run, source, accepted)));
        json_object_set_new(object, "bytes_per_s", json_real((double)bytes / seconds));
    }
    return object;
}

static json_t *rates_json(const struct demo_run *run, const struct demo_result *result)
{
    double seconds = seconds_at(run, run->end_ns);
    uint64_t bytes = 0;
    json_t *sources = json_object();
    for (int i = 0; i < DEMO_SOURCE_CNT; i++) {
        bytes += shr_load_relaxed(&run->shared->ledger.sent[i].bytes);
        json_object_set_new(sources, demo_source_name[i],
                            source_json(run, (enum demo_source)i, result->bus.accepted));
    }
    return json_pack("{s:f, s:f, s:f, s:f, s:o}", "seconds", seconds, "events_per_s",
                     (double)result->ledger.accepted / seconds, "delivered_per_s",
                     (double)result->ledger.delivered / seconds, "bytes_per_s",
                     (double)bytes / seconds, "sources", sources);
}

static json_t *latency_json(const struct geb_latency *latency)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "sampled_1_in",
                     (json_int_t)latency->sampled_1_in, "count", (json_int_t)latency->count,
                     "p50_ns", (json_int_t)latency->p50_ns, "p99_ns", (json_int_t)latency->p99_ns,
                     "p999_ns", (json_int_t)latency->p999_ns, "max_ns",
                     (json_int_t)latency->max_ns);
}

static json_t *machine_json(const struct demo_run *run)
{
    static const char *const names[DEMO_GAUGE_CNT] = {
        [DEMO_BUSY] = "processors_busy",
        [DEMO_SWITCHES] = "context_switches_per_s",
        [DEMO_FAULTS] = "page_faults_per_s",
        [DEMO_MAJOR_FAULTS] = "major_page_faults_per_s",
        [DEMO_RECEIVED] = "network_received_bytes_per_s",
        [DEMO_TRANSMITTED] = "network_transmitted_bytes_per_s",
        [DEMO_PACKETS] = "network_packets_per_s",
        [DEMO_ON_CPU] = "sampler_on_processor",
        [DEMO_QUEUED] = "sampler_queued",
    };
    json_t *object = json_object();
    json_object_set_new(object, "processors", integer((uint64_t)sysconf(_SC_NPROCESSORS_ONLN)));
    for (int i = 0; i < DEMO_GAUGE_CNT; i++) {
        enum demo_gauge_kind kind = (enum demo_gauge_kind)i;
        json_object_set_new(object, names[i],
                            json_pack("{s:f, s:f}", "mean", demo_gauge_mean(run->shared, kind),
                                      "peak", demo_gauge_peak(run->shared, kind)));
    }
    json_object_set_new(object, "sampler_resident_bytes",
                        integer(shr_load_relaxed(&run->shared->resident_bytes)));
    return object;
}

static json_t *differences_json(const char *text)
{
    json_t *lines = json_array();
    while (*text != '\0') {
        size_t len = strcspn(text, "\n");
        json_array_append_new(lines, json_stringn(text, len));
        text += len + (text[len] == '\n');
    }
    return lines;
}

int demo_report_json(const struct demo_run *run, const struct demo_result *result)
{
    json_t *root = json_object();
    json_object_set_new(root, "bus", json_string(run->bus));
    json_object_set_new(root, "account", account_json(&result->bus));
    json_object_set_new(root, "observed", account_json(&result->outside));
    json_object_set_new(root, "ledger", account_json(&result->ledger));
    json_object_set_new(root, "metrics", metrics_json(&result->bus));
    json_object_set_new(root, "ledger_metrics", metrics_json(&result->ledger));
    json_object_set_new(root, "differences", differences_json(result->difference_text));
    json_object_set_new(root, "killed", killed_json(run));
    json_object_set_new(root, "stopped", stopped_json(run));
    json_object_set_new(root, "rates", rates_json(run, result));
    json_object_set_new(root, "latency", latency_json(&run->shared->metrics.latency));
    json_object_set_new(root, "machine", machine_json(run));
    int rc = json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
    return rc == 0 ? TOOL_OK : TOOL_FAILURE;
}
