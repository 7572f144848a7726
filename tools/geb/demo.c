/* geb demo: options, and what happens in which order. */
#include "tools/geb/commands.h"
#include "tools/geb/demo.h"

#include "tools/common.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SETUP_NS UINT64_C(30000000000)
#define DRAIN_NS UINT64_C(60000000000)

/* When things happen, in parts of the run: the ticks are killed while the blocks stand still. */
#define STOP_AT   0.35
#define KILL_AT   0.50
#define RESUME_AT 0.65

static const char usage[] =
    "Examples:\n"
    "  geb demo                   six seconds, with progress\n"
    "  geb demo --seconds 60\n"
    "  geb demo --json | jq .account\n"
    "  geb demo --bus fair        and meanwhile, elsewhere:  geb-top fair\n"
    "\nUsage: geb demo [--seconds N] [--json] [--bus NAME]\n"
    "Six producer processes publish what they sample of this machine, a flood of ticks and\n"
    "4 KiB blocks to one consumer process. One producer is killed, one is stopped for a time.\n"
    "In the end every column of the account of the bus is compared with ledgers that the\n"
    "processes kept outside of it: the exit code is 1 if any differs.\n";

static bool consumer_is_ready(const struct demo_run *run)
{
    return shr_load_acquire(&run->shared->consumer_stage) == DEMO_STAGE_READY;
}

static bool producers_are_ready(const struct demo_run *run)
{
    for (int i = 0; i < DEMO_SOURCE_CNT; i++) {
        if (shr_load_acquire(&run->shared->ledger.sent[i].stage) != DEMO_STAGE_READY)
            return false;
    }
    return true;
}

static bool others_have_ended(const struct demo_run *run)
{
    for (int i = 0; i < DEMO_SOURCE_CNT; i++) {
        if (i != DEMO_PROCESS && run->child[i].running)
            return false;
    }
    return true;
}

static bool producers_have_ended(const struct demo_run *run)
{
    return others_have_ended(run) && !run->child[DEMO_PROCESS].running;
}

static bool consumer_has_ended(const struct demo_run *run)
{
    return !run->child[DEMO_CONSUMER].running;
}

/* Waits for a step of the set-up or of the end, which has to happen. */
static bool step_await(struct demo_run *run, uint64_t patience_ns, const char *step,
                       bool (*done)(const struct demo_run *run))
{
    if (demo_wait(run, geb_now() + patience_ns, done))
        return true;
    if (!run->failed && !run->interrupted)
        fprintf(stderr, "geb demo: %s: not within %llu s\n", step,
                (unsigned long long)(patience_ns / 1000000000u));
    run->failed = true;
    return false;
}

static bool children_start(struct demo_run *run)
{
    fflush(NULL);
    int rc = demo_child_start(run, DEMO_CONSUMER);
    if (rc == 0 && !step_await(run, SETUP_NS, "the consumer makes the bus", consumer_is_ready))
        return false;
    for (int i = 0; rc == 0 && i < DEMO_SOURCE_CNT; i++)
        rc = demo_child_start(run, i);
    if (rc < 0) {
        fprintf(stderr, "geb demo: fork: %s\n", strerror(-rc));
        run->failed = true;
        return false;
    }
    return step_await(run, SETUP_NS, "the producers join", producers_are_ready);
}

static bool wait_until(struct demo_run *run, double part)
{
    uint64_t until_ns = run->start_ns + (uint64_t)(run->seconds * part * 1e9);
    while (geb_now() < until_ns) {
        uint64_t next_ns = run->shown_ns + 1000000000u;
        if (!demo_wait(run, next_ns < until_ns ? next_ns : until_ns, NULL))
            return false;
        if (geb_now() >= next_ns)
            demo_progress(run);
    }
    return true;
}

static uint64_t delivered_sum(const struct demo_run *run)
{
    uint64_t sum = 0;
    for (int i = 0; i < DEMO_SOURCE_CNT; i++)
        sum += shr_load_relaxed(&run->shared->ledger.seen[i].delivered);
    return sum;
}

static bool middle_run(struct demo_run *run)
{
    char text[TOOL_TEXT_BYTES];
    if (!wait_until(run, STOP_AT))
        return false;
    demo_child_stop(run, DEMO_BLOCKS);
    run->stop_ns = geb_now();
    uint64_t delivered = delivered_sum(run);
    demo_note(run, "blocks (process %d) is stopped", (int)run->child[DEMO_BLOCKS].pid);
    if (!wait_until(run, KILL_AT))
        return false;
    run->child[DEMO_TICKS].expendable = true;
    shr_store_relaxed(&run->shared->ledger.killed, DEMO_TICKS);
    kill(run->child[DEMO_TICKS].pid, SIGKILL);
    run->kill_ns = geb_now();
    demo_note(run, "ticks (process %d) is killed", (int)run->child[DEMO_TICKS].pid);
    if (!wait_until(run, RESUME_AT))
        return false;
    delivered = delivered_sum(run) - delivered;
    kill(run->child[DEMO_BLOCKS].pid, SIGCONT);
    run->resume_ns = geb_now();
    demo_note(run, "blocks goes on after %.1f s; %s events of others were handled meanwhile",
              (double)(run->resume_ns - run->stop_ns) / 1e9, tool_count(text, delivered));
    return wait_until(run, 1);
}

static bool all_run(struct demo_run *run)
{
    if (!children_start(run))
        return false;
    run->start_ns = run->shown_ns = geb_now();
    demo_note(run, "bus %s: six producers and a consumer are at work for %g s", run->bus,
              run->seconds);
    shr_store_release(&run->shared->phase, DEMO_PHASE_RUN);
    if (!middle_run(run))
        return false;
    shr_store_release(&run->shared->phase, DEMO_PHASE_STOP);
    run->end_ns = geb_now();
    if (!step_await(run, DRAIN_NS, "the producers end", others_have_ended))
        return false;
    shr_store_release(&run->shared->phase, DEMO_PHASE_QUIET);
    if (!step_await(run, DRAIN_NS, "the last producer ends", producers_have_ended))
        return false;
    kill(run->child[DEMO_CONSUMER].pid, SIGTERM);
    return step_await(run, DRAIN_NS, "the consumer ends", consumer_has_ended);
}

static int outside_read(const struct demo_run *run, struct demo_account *outside)
{
    struct geb_metrics metrics = GEB_METRICS_INIT;
    struct geb_watch *watch = NULL;
    int rc = geb_watch(&watch, run->bus);
    if (rc == 0)
        rc = geb_watch_metrics(watch, &metrics);
    if (rc < 0)
        tool_explain("geb demo", "cannot watch", run->bus, rc);
    geb_unwatch(watch);
    demo_account_of_bus(&metrics, outside);
    return rc;
}

/* Compares what the consumer saw of the account, and what an observer sees after its end, with the
 * ledgers. */
static int result_make(struct demo_run *run, struct demo_result *result)
{
    const struct demo_ledger *ledger = &run->shared->ledger;
    size_t bytes;
    FILE *to = open_memstream(&result->difference_text, &bytes);
    if (to == NULL || outside_read(run, &result->outside) < 0) {
        if (to != NULL)
            fclose(to);
        return TOOL_FAILURE;
    }
    demo_account_of_bus(&run->shared->metrics, &result->bus);
    demo_ledger_sum(ledger, result->bus.accepted, &result->ledger);
    result->differences = demo_ledger_check(ledger, result->bus.accepted, to);
    result->differences += demo_account_compare("the bus", &result->bus, &result->ledger, to);
    result->differences += demo_account_compare("an observer", &result->outside, &result->ledger,
                                                to);
    fclose(to);
    return TOOL_OK;
}

static int result_show(struct demo_run *run)
{
    struct demo_result result = {0};
    if (result_make(run, &result) != TOOL_OK) {
        free(result.difference_text);
        return TOOL_FAILURE;
    }
    int rc = TOOL_OK;
    if (run->json)
        rc = demo_report_json(run, &result);
    else
        demo_report(run, &result);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "geb demo: standard output: %s\n", strerror(errno));
        rc = TOOL_FAILURE;
    }
    if (result.differences > 0) {
        fprintf(stderr, "geb demo: the account and the ledgers differ:\n%s",
                result.difference_text);
        rc = TOOL_FAILURE;
    }
    free(result.difference_text);
    return rc;
}

/* Whatever happened: no process and no bus is left. */
static int bus_remove(struct demo_run *run)
{
    demo_children_end(run);
    if (shr_load_acquire(&run->shared->consumer_stage) == DEMO_STAGE_NONE)
        return TOOL_OK;
    int rc = geb_remove(run->bus);
    return rc < 0 ? tool_explain("geb demo", "cannot remove", run->bus, rc) : TOOL_OK;
}

static int demo_run_all(struct demo_run *run)
{
    signal(SIGPIPE, SIG_IGN); /* a reader that goes away must not keep the bus from being removed */
    sigemptyset(&run->signals);
    sigaddset(&run->signals, SIGINT);
    sigaddset(&run->signals, SIGTERM);
    sigaddset(&run->signals, SIGHUP);
    sigaddset(&run->signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &run->signals, &run->signals_before);
    int rc = TOOL_FAILURE;
    if (all_run(run))
        rc = result_show(run);
    else if (run->interrupted)
        fprintf(stderr, "geb demo: interrupted\n");
    int removed = bus_remove(run);
    return rc != TOOL_OK ? rc : removed;
}

/* geb_create would resume a bus that is there, and its account would not start from zero. */
static int name_check(const char *bus)
{
    struct geb_watch *watch = NULL;
    int rc = geb_watch(&watch, bus);
    if (rc == -ENOENT)
        return TOOL_OK;
    geb_unwatch(watch);
    if (rc < 0)
        return tool_explain("geb demo", "cannot use", bus, rc);
    fprintf(stderr, "geb demo: a bus \"%s\" exists: choose another name, or  geb rm %s\n", bus,
            bus);
    return TOOL_FAILURE;
}

static int seconds_parse(const char *text, double *seconds)
{
    char *end;
    *seconds = strtod(text, &end);
    return end != text && *end == '\0' && *seconds >= 1 && *seconds <= 86400 ? 0 : -EINVAL;
}

/* Returns -1 to go on, or the exit code. */
static int options_parse(struct demo_run *run, int argc, char **argv)
{
    static const struct option options[] = {{"seconds", required_argument, NULL, 's'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"bus", required_argument, NULL, 'b'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (c == 's' && seconds_parse(optarg, &run->seconds) < 0) {
            fprintf(stderr, "geb demo: --seconds %s: a number from 1 to 86400\n", optarg);
            return TOOL_USAGE;
        }
        if (c == 'j')
            run->json = true;
        if (c == 'b' &&
            (size_t)snprintf(run->bus, sizeof run->bus, "%s", optarg) >= sizeof run->bus) {
            fprintf(stderr, "geb demo: --bus: a name has at most %zu bytes\n", sizeof run->bus - 1);
            return TOOL_USAGE;
        }
        if (c == 'h' || c == '?') {
            fputs(usage, c == 'h' ? stdout : stderr);
            return c == 'h' ? TOOL_OK : TOOL_USAGE;
        }
    }
    if (optind < argc) {
        fputs(usage, stderr);
        return TOOL_USAGE;
    }
    return -1;
}

int command_demo(int argc, char **argv)
{
    struct demo_run run = {.seconds = 6, .terminal = isatty(STDOUT_FILENO) == 1};
    snprintf(run.bus, sizeof run.bus, "demo-%d", (int)getpid());
    int rc = options_parse(&run, argc, argv);
    if (rc < 0)
        rc = name_check(run.bus);
    else
        return rc;
    if (rc != TOOL_OK)
        return rc;
    run.shared = mmap(NULL, sizeof *run.shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                      -1, 0);
    if (run.shared == MAP_FAILED) {
        fprintf(stderr, "geb demo: mmap: %s\n", strerror(errno));
        return TOOL_FAILURE;
    }
    shr_store_relaxed(&run.shared->ledger.killed, DEMO_NOBODY);
    rc = demo_run_all(&run);
    munmap(run.shared, sizeof *run.shared);
    return rc;
}
