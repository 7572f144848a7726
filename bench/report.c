/* What a bench says at its end: a table for people, rows for programs (docs/performance.md is made
 * of them). A mean never appears: every figure is a median or a percentile, and each ratio comes
 * with its spread over the rounds. */
#include "bench/harness.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

/* A ratio whose middle half of rounds spreads over more than this share of it says too little. */
#define NOISY_SPREAD  0.30
#define ENOUGH_ROUNDS 5u

struct spread {
    double min, p25, p50, p75, max;
};

struct row {
    const struct bench_subject *subject;
    const char *floor_name;
    double ns_per_event;
    double p50_ns, p99_ns, p999_ns;
    double floor_ns;
    struct spread ratio;
    unsigned calm_cnt; /* rounds in which neither the subject nor its floor was disturbed */
    bool noisy;
};

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The nearest rank below. */
static double share_of(const double *sorted, unsigned cnt, double share)
{
    return sorted[(unsigned)(share * (double)(cnt - 1))];
}

/* Sorts the values. */
static struct spread spread_of(double *values, unsigned cnt)
{
    qsort(values, cnt, sizeof(*values), compare_doubles);
    return (struct spread){.min = values[0],
                           .p25 = share_of(values, cnt, 0.25),
                           .p50 = share_of(values, cnt, 0.50),
                           .p75 = share_of(values, cnt, 0.75),
                           .max = values[cnt - 1]};
}

/* Ratio, event and floor values of the rounds; with `calm`, only of those in which neither the
 * subject nor its floor was disturbed. Returns how many. */
static unsigned take_rounds(const struct bench_result *mine, const struct bench_result *floor,
                            unsigned rounds, bool calm, double *ratio, double *event,
                            double *floor_ns)
{
    unsigned cnt = 0;
    for (unsigned r = 0; r < rounds; r++) {
        const struct bench_round *a = &mine->round[r];
        const struct bench_round *b = &floor->round[r];
        if (!calm || (!a->disturbed && !b->disturbed)) {
            ratio[cnt] = a->ns / b->ns;
            event[cnt] = a->event_ns;
            floor_ns[cnt++] = b->ns;
        }
    }
    return cnt;
}

static void row_fill(const struct bench_result *mine, const struct bench_result *floor,
                     unsigned rounds, double *scratch, struct row *row)
{
    double *ratio = scratch;
    double *event = ratio + rounds;
    double *floor_ns = event + rounds;
    unsigned cnt = take_rounds(mine, floor, rounds, true, ratio, event, floor_ns);
    row->calm_cnt = cnt;
    if (cnt < ENOUGH_ROUNDS) {
        cnt = take_rounds(mine, floor, rounds, false, ratio, event, floor_ns);
    }
    row->ratio = spread_of(ratio, cnt);
    row->floor_ns = spread_of(floor_ns, cnt).p50;
    row->ns_per_event = spread_of(event, cnt).p50;
    /* Percentiles of the samples; where a subject takes none, of the rounds, now sorted. */
    bool has_samples = mine->hist->total > 0;
    row->p50_ns = has_samples ? bench_hist_ns(mine->hist, 0.50) : share_of(event, cnt, 0.50);
    row->p99_ns = has_samples ? bench_hist_ns(mine->hist, 0.99) : share_of(event, cnt, 0.99);
    row->p999_ns = has_samples ? bench_hist_ns(mine->hist, 0.999) : share_of(event, cnt, 0.999);
    row->noisy = row->calm_cnt < ENOUGH_ROUNDS ||
                 row->ratio.p75 - row->ratio.p25 > NOISY_SPREAD * row->ratio.p50;
}

static int row_make(const struct bench_plan *plan, const struct bench_result *results, unsigned idx,
                    struct row *row)
{
    const struct bench_subject *subject = &plan->subject[idx];
    *row = (struct row){.subject = subject, .floor_name = plan->subject[subject->floor].mode};
    double *scratch = malloc(3u * plan->rounds * sizeof(*scratch));
    if (scratch == NULL) {
        return -ENOMEM;
    }
    row_fill(&results[idx], &results[subject->floor], plan->rounds, scratch, row);
    free(scratch);
    return 0;
}

/* ---- the table ------------------------------------------------------------------------------ */

static void print_head(const struct bench_plan *plan, const struct bench_machine *m)
{
    unsigned roles = 1;
    for (unsigned i = 0; i < plan->subject_cnt; i++) {
        if (plan->subject[i].ops->roles > roles) {
            roles = plan->subject[i].ops->roles;
        }
    }
    printf("geb-bench %s: %s\n", plan->name, plan->question);
    printf("  machine  %s, %u CPU%s, %s\n", m->model, m->online_cnt, m->online_cnt == 1 ? "" : "s",
           m->kernel);
    printf("  pinning  ");
    if (m->online_cnt < 2) {
        printf("none: there is only one CPU, so the figures of two processes mean little");
    } else {
        for (unsigned r = 0; r < roles; r++) {
            printf("%sprocess %u on CPU %u", r == 0 ? "" : ", ", r, m->cpu[r % m->cpu_cnt]);
        }
    }
    printf("\n  rounds   %u, every subject once in each, order rotating\n", plan->rounds);
    printf("  clock    %s, %.1f ns a reading, taken off each sample\n",
           m->has_tsc ? "time stamp counter" : "CLOCK_MONOTONIC", m->tick_cost_ps / 1000.0);
    printf("  an event %s\n\n", plan->unit);
    printf("%-8s %-16s %9s %6s %6s %9s %9s %9s %9s | %-12s %9s %6s %13s %13s\n", "subject", "mode",
           "count", "bytes", "calm", "ns/event", "p50", "p99", "p99.9", "floor", "its ns", "ratio",
           "middle half", "min..max");
}

static void print_row(const struct row *row)
{
    const struct bench_subject *s = row->subject;
    printf("%-8s %-16s %9llu %6u %6u %9.4g %9.4g %9.4g %9.4g", s->name, s->mode,
           (unsigned long long)s->count, s->bytes, row->calm_cnt, row->ns_per_event, row->p50_ns,
           row->p99_ns, row->p999_ns);
    if (strcmp(s->name, "floor") == 0) {
        printf(" |\n");
        return;
    }
    printf(" | %-12s %9.4g %6.3f %6.3f..%5.3f %6.3f..%5.3f%s\n", row->floor_name, row->floor_ns,
           row->ratio.p50, row->ratio.p25, row->ratio.p75, row->ratio.min, row->ratio.max,
           row->noisy ? "  TOO NOISY" : "");
}

static void print_tail(bool noisy)
{
    printf("\nns/event and ratio are medians over the calm rounds, those in which the kernel took "
           "no CPU away;\nratio is subject / floor within one round.\n");
    if (noisy) {
        printf(
            "TOO NOISY: fewer than %u calm rounds, or the middle half of the ratios spreads over "
            "more than\n%.0f %% of the median: run it again, longer, or on a quieter machine.\n",
            ENOUGH_ROUNDS, NOISY_SPREAD * 100.0);
    }
}

/* ---- the rows ------------------------------------------------------------------------------- */

static json_t *row_json(const struct bench_plan *plan, const struct row *row)
{
    const struct bench_subject *s = row->subject;
    return json_pack("{s:s, s:s, s:s, s:i, s:i, s:I, s:i, s:f, s:f, s:f, s:f, s:s, s:f, s:f, s:f, "
                     "s:f, s:i, s:b}",
                     "bench", plan->name, "subject", s->name, "mode", s->mode, "producers",
                     (int)s->producers, "bytes", (int)s->bytes, "count", (json_int_t)s->count,
                     "rounds", (int)plan->rounds, "ns_per_event", row->ns_per_event, "p50_ns",
                     row->p50_ns, "p99_ns", row->p99_ns, "p999_ns", row->p999_ns, "floor",
                     row->floor_name, "floor_ns", row->floor_ns, "ratio", row->ratio.p50,
                     "ratio_p25", row->ratio.p25, "ratio_p75", row->ratio.p75, "calm_rounds",
                     (int)row->calm_cnt, "noisy", row->noisy);
}

static int write_json(const struct bench_options *opt, json_t *rows)
{
    if (opt->json_path == NULL) {
        return 0;
    }
    if (json_dump_file(rows, opt->json_path, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) != 0) {
        fprintf(stderr, "geb-bench: cannot write %s: %s\n", opt->json_path, strerror(errno));
        return -EIO;
    }
    return 0;
}

int bench_report(const struct bench_plan *plan, const struct bench_options *opt,
                 const struct bench_machine *machine, const struct bench_result *results)
{
    json_t *rows = json_array();
    bool noisy = false;
    int rc = rows == NULL ? -ENOMEM : 0;

    print_head(plan, machine);
    for (unsigned i = 0; i < plan->subject_cnt && rc == 0; i++) {
        struct row row;
        rc = row_make(plan, results, i, &row);
        if (rc == 0) {
            print_row(&row);
            noisy = noisy || row.noisy;
            rc = json_array_append_new(rows, row_json(plan, &row)) == 0 ? 0 : -ENOMEM;
        }
    }
    if (rc == 0) {
        print_tail(noisy);
        rc = write_json(opt, rows);
    } else {
        fprintf(stderr, "geb-bench: %s\n", strerror(-rc));
    }
    json_decref(rows);
    return rc;
}
