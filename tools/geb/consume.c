/* geb consume BUS [TOPIC...]: takes the consumer's role and prints.
 *
 * An event is delivered, and gone from the bus, when its handler returns. So what a handler leaves
 * in the output buffer is lost if it cannot be written later. Therefore:
 *
 *     few events     each is written before its handler returns
 *     many at once   64 KiB are written at a time; --unbuffered: each is written, always
 *
 * If a write fails within a handler, the process ends there, as if it had been killed: under block
 * and error the event in hand stays in the bus and comes again, marked redelivered. */
#include "tools/geb/commands.h"

#include "tools/common.h"
#include "tools/geb/event.h"
#include "tools/geb/look.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define THROUGH_EVENTS 64u /* after a moment without events so many are written one by one */
#define DISPATCH_CELLS 256u
#define QUIET_LOOKS    5

static const char usage[] =
    "Examples:\n"
    "  geb consume shop                             print all events until Ctrl-C\n"
    "  geb consume shop user_created --count 1      wait for one\n"
    "  geb consume shop --json --timeout 5s | jq .data\n"
    "  geb create shop --policy block && geb consume shop > log    nothing is dropped\n"
    "\nUsage: geb consume [OPTION...] [BUS] [TOPIC...]\n"
    "Takes the consumer's role and prints each event: its data and a newline, or a JSON object.\n"
    "If there is no bus it is created as geb create does without options: drop-oldest.\n"
    "With TOPICs the events of other topics are taken as well, and not printed.\n"
    "  --count N       end after N events; a batch is always printed whole\n"
    "  --timeout D     end after D in any case, 500ms, 5s: exit 5 unless N events came\n"
    "  --json          {\"position\",\"topic\",\"producer\",\"number\",\"key\",\"id\",\"data\",\n"
    "                  \"redelivered\",\"attempt\"}; \"data_base64\" if the data is no UTF-8\n"
    "  --standby       wait until the consumer dies or ends, then go on in its place; without a\n"
    "                  consumer at once. One may wait at a time\n"
    "  --unbuffered    write each event before it counts as delivered, also in a flood: slower,\n"
    "                  and nothing is lost when the output breaks (policy block or error)\n"
    "Not built yet: --workers.\n"
    "Exit 6: the bus was full and dropped events meanwhile. Ctrl-C ends it with 0, or 1 before\n"
    "the N events came.\n"
    "BUS is a name (in GEB_DIR, or /dev/shm/geb-UID) or a path with a slash. When GEB_BUS is set\n"
    "all arguments are TOPICs; --bus BUS goes before it.\n";

struct consume {
    const char *name;
    char *const *topics;
    int topic_cnt;
    bool json, unbuffered, standby, block, not_made;
    uint64_t count; /* 0: no end */
    uint64_t limit_ns;
    bool limited;

    struct geb_bus *bus;
    struct event_out out;
    uint64_t printed;
    uint64_t dropped_before; /* by the account, which is exact while nobody publishes */
    uint64_t expired_before;
    uint64_t gaps;         /* between the numbers of the events that came */
    uint64_t *last_number; /* of each producer's slot; 0: nothing came yet */
    uint32_t through_left;
    bool waiting; /* in geb_run, which is to return after one event */
    bool done;
    int write_rc;
};

static struct consume *running; /* for signal handlers and the thread */
static volatile sig_atomic_t timed_out, reader_gone, stop;

static void run_stop(void)
{
    stop = 1;
    geb_stop(running->bus);
}

static void alarm_take(int number)
{
    (void)number;
    timed_out = 1;
    run_stop();
}

/* ---- what happens when the output breaks ----------------------------------------------------- */

/* in_hand: the last event of the buffer is still in hand, and stays in the bus. */
static int write_failed(const struct consume *c, int rc, bool in_hand)
{
    char count[TOOL_TEXT_BYTES];
    uint64_t lost = c->out.events - (in_hand && c->block ? 1 : 0);
    if (rc == -EINTR)
        fprintf(stderr, "geb consume: nobody reads standard output\n");
    else if (rc != -EPIPE)
        fprintf(stderr, "geb consume: cannot write standard output: %s\n", strerror(-rc));
    if (lost > 0)
        fprintf(stderr,
                "geb consume: up to %s events, of positions %" PRIu64 " to %" PRIu64
                ", were taken from the bus and not written\n"
                "  to write each before it is taken:  geb consume --unbuffered ...\n",
                tool_count(count, lost), c->out.first_pos, c->out.last_pos);
    if (rc != -EPIPE && in_hand && c->block)
        fprintf(stderr, "geb consume: the event of position %" PRIu64 " stays in the bus\n",
                c->out.last_pos);
    return rc == -EPIPE ? TOOL_OK : TOOL_FAILURE;
}

/* Within a handler: under drop-oldest the event has left the bus, and the end is an orderly one. */
static void broken_in_handler(struct consume *c, int rc)
{
    if (c->block)
        _exit(write_failed(c, rc, true));
    c->write_rc = rc;
    geb_stop(c->bus);
}

static int on_event(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct consume *c = user;
    (void)ctx;
    const char *topic = c->json ? geb_topic_name(c->bus, event->topic) : "";
    int rc = event_put(&c->out, event, topic);
    uint64_t *number = &c->last_number[event->producer];
    if (*number != 0 && event->number > *number)
        c->gaps += event->number - *number - 1;
    *number = event->number;
    if (c->write_rc < 0) /* the rest of a batch: only counted */
        return 0;
    c->printed++;
    bool last = c->count != 0 && c->printed >= c->count;
    bool through = c->unbuffered || c->through_left > 0;
    if (c->through_left > 0)
        c->through_left--;
    if (rc == 0 && (through || last || c->out.len >= EVENT_OUT_BYTES))
        rc = event_flush(&c->out);
    if (rc < 0)
        broken_in_handler(c, rc);
    c->done = last || c->done;
    if (c->waiting || last)
        geb_stop(c->bus);
    return 0;
}

/* A pipe whose reader is gone is noticed also while no events come. */
static void *reader_watch(void *nothing)
{
    struct pollfd reader = {.fd = STDOUT_FILENO};
    while (poll(&reader, 1, -1) < 0 && errno == EINTR)
        continue;
    if ((reader.revents & (POLLERR | POLLHUP)) != 0) {
        reader_gone = 1;
        run_stop();
    }
    return nothing;
}

/* ---- the loop -------------------------------------------------------------------------------- */

static void ends_arrange(struct consume *c)
{
    sigset_t all, before;
    pthread_t thread;
    struct stat st;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before); /* signals are for the main thread */
    if (fstat(STDOUT_FILENO, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)) &&
        pthread_create(&thread, NULL, reader_watch, NULL) == 0)
        pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!c->limited || c->limit_ns == 0)
        return;
    struct sigaction action = {.sa_handler = alarm_take};
    sigemptyset(&action.sa_mask);
    sigaction(SIGALRM, &action, NULL);
    uint64_t us = c->limit_ns / 1000 + 1;
    struct itimerval timer = {
        .it_value = {.tv_sec = (time_t)(us / 1000000), .tv_usec = (suseconds_t)(us % 1000000)}};
    setitimer(ITIMER_REAL, &timer, NULL);
}

/* Returns 0, or -errno of the library; write errors are in c->write_rc. */
static int events_print(struct consume *c)
{
    c->through_left = THROUGH_EVENTS;
    while (!c->done && c->write_rc == 0) {
        int rc = stop != 0 ? 0 : geb_dispatch(c->bus, DISPATCH_CELLS);
        if (rc < 0)
            return rc;
        if (rc > 0)
            continue;
        c->write_rc = event_flush(&c->out);
        if (c->write_rc < 0 || stop != 0)
            break;
        if (c->limited && c->limit_ns == 0) {
            timed_out = 1;
            break;
        }
        c->through_left = THROUGH_EVENTS;
        c->waiting = true;
        rc = geb_run(c->bus);
        c->waiting = false;
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* The least that was dropped: numbers that never came. With TOPICs they say nothing, since those of
 * other topics do not come either. */
static uint64_t gaps_count(const struct consume *c, const struct geb_metrics *now)
{
    uint64_t expired = now->expired - c->expired_before; /* these do not come either */
    return c->topic_cnt == 0 && c->gaps > expired ? c->gaps - expired : 0;
}

/* How many events were dropped since we began: by the account if there is a quiet moment, else the
 * least. */
static uint64_t dropped_count(const struct consume *c)
{
    const struct timespec pause = {.tv_nsec = 2000000};
    struct geb_metrics before = GEB_METRICS_INIT, now = GEB_METRICS_INIT;
    if (c->block || geb_metrics(c->bus, &before) < 0)
        return 0;
    for (int i = 0; i < QUIET_LOOKS; i++) {
        nanosleep(&pause, NULL);
        if (geb_metrics(c->bus, &now) < 0)
            break;
        if (now.accepted == before.accepted && now.dropped == before.dropped &&
            now.dropped >= c->dropped_before)
            return now.dropped - c->dropped_before;
        before = now;
    }
    return gaps_count(c, &before);
}

/* How it ended, in messages and an exit code. */
static int end_explain(const struct consume *c, uint64_t lost)
{
    char count[TOOL_TEXT_BYTES], wanted[TOOL_TEXT_BYTES], quoted[TOOL_QUOTED_BYTES];
    int code = TOOL_OK;
    if (lost > 0) {
        fprintf(stderr,
                "geb consume: the bus was full and dropped %s events meanwhile\n"
                "  to make producers wait instead:  geb create --policy block %s\n",
                tool_count(count, lost), tool_quoted(quoted, c->name));
        code = TOOL_MISSED;
    }
    if (c->write_rc < 0)
        return write_failed(c, c->write_rc, false);
    if (c->done || reader_gone != 0)
        return code;
    if (timed_out != 0) {
        fprintf(stderr, "geb consume: timeout after %s events\n", tool_count(count, c->printed));
        return TOOL_TIMEOUT;
    }
    if (c->count != 0) {
        fprintf(stderr, "geb consume: interrupted after %s of %s events\n",
                tool_count(count, c->printed), tool_count(wanted, c->count));
        return TOOL_FAILURE;
    }
    return code;
}

/* ---- the command ----------------------------------------------------------------------------- */

static int bus_open(struct consume *c)
{
    int rc = c->standby ? geb_stand_by(&c->bus, c->name) : geb_open(&c->bus, c->name);
    if (rc != -ENOENT)
        return rc;
    rc = geb_create(&c->bus, c->name, NULL);
    if ((rc == -EBUSY || rc == -EEXIST) && c->standby) /* somebody else was first to create it */
        return geb_stand_by(&c->bus, c->name);
    if (rc == 0)
        fprintf(stderr,
                "geb consume: created the bus \"%s\": when it is full it drops its oldest events\n",
                c->name);
    c->not_made = rc < 0;
    return rc;
}

static bool is_repeated(char *const *topics, int at)
{
    for (int i = 0; i < at; i++) {
        if (strcmp(topics[i], topics[at]) == 0)
            return true;
    }
    return false;
}

static int handlers_add(struct consume *c)
{
    struct look look;
    int rc = look_take(&look, c->name);
    if (rc == 0) {
        c->block = look.info.policy != GEB_DROP_OLDEST;
        c->last_number = calloc((size_t)look.info.producers + 1, sizeof *c->last_number);
        rc = c->last_number != NULL ? 0 : -ENOMEM;
    }
    look_free(&look);
    if (rc == 0 && c->topic_cnt == 0)
        rc = geb_on_default(c->bus, on_event, c);
    for (int i = 0; i < c->topic_cnt && rc == 0; i++) {
        if (!is_repeated(c->topics, i))
            rc = geb_on(c->bus, c->topics[i], on_event, c);
    }
    return rc;
}

/* Waits for the role, if it is not ours yet, and notes what happened before. -ECANCELED, and
 * -ETIMEDOUT: it ended before that. */
static int role_await(struct consume *c)
{
    struct geb_metrics now = GEB_METRICS_INIT;
    int rc = geb_take_over(c->bus, c->limited && c->limit_ns == 0 ? 0 : GEB_FOREVER);
    if (rc == 0)
        rc = geb_metrics(c->bus, &now);
    c->dropped_before = now.dropped;
    c->expired_before = now.expired;
    return rc;
}

static int consume_run(struct consume *c)
{
    running = c;
    tool_catch_interrupts(run_stop); /* before anybody can see us consume, or stand by */
    int rc = bus_open(c);
    if (rc == 0 && stop != 0) /* while there was no bus to stop */
        geb_stop(c->bus);
    if (rc < 0)
        return c->not_made ? look_create_failed("geb consume", c->name, rc)
                           : tool_explain("geb consume", "cannot consume", c->name, rc);
    rc = handlers_add(c);
    if (rc == 0)
        rc = event_out_open(&c->out, STDOUT_FILENO, c->json, &stop);
    if (rc == 0) {
        ends_arrange(c);
        rc = role_await(c);
    }
    if (rc == 0)
        rc = events_print(c);
    event_out_end(&c->out);
    int code;
    if (rc == -ETIMEDOUT)
        timed_out = 1;
    if (rc == -ETIMEDOUT || rc == -ECANCELED)
        code = end_explain(c, 0);
    else if (rc < 0)
        code = tool_explain("geb consume", "cannot consume", c->name, rc);
    else
        code = end_explain(c, dropped_count(c));
    geb_close(c->bus, 0);
    event_out_close(&c->out);
    free(c->last_number);
    return code;
}

/* Returns -1 to go on, or the exit code. */
static int option_take(struct consume *c, int o, const char **bus)
{
    switch (o) {
    case 'b':
        *bus = optarg;
        return -1;
    case 'j':
        c->json = true;
        return -1;
    case 'u':
        c->unbuffered = true;
        return -1;
    case 's':
        c->standby = true;
        return -1;
    case 'c':
        if (tool_number(optarg, 1, UINT64_MAX, &c->count) == 0)
            return -1;
        return tool_bad_value("geb consume", "--count", optarg, "a whole number, from 1");
    case 't':
        c->limited = true;
        if (tool_duration(optarg, &c->limit_ns) == 0)
            return -1;
        return tool_bad_value("geb consume", "--timeout", optarg,
                              "a duration with its unit: 500us, 20ms, 5s");
    case 'w':
        return tool_not_built("geb consume", "--workers");
    default:
        fputs(usage, o == 'h' ? stdout : stderr);
        return o == 'h' ? TOOL_OK : TOOL_USAGE;
    }
}

int command_consume(int argc, char **argv)
{
    static const struct option options[] = {{"bus", required_argument, NULL, 'b'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"unbuffered", no_argument, NULL, 'u'},
                                            {"count", required_argument, NULL, 'c'},
                                            {"timeout", required_argument, NULL, 't'},
                                            {"workers", required_argument, NULL, 'w'},
                                            {"standby", no_argument, NULL, 's'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    struct consume c = {0};
    const char *bus = NULL;
    for (int o; (o = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        int code = option_take(&c, o, &bus);
        if (code >= 0)
            return code;
    }
    int used;
    c.name = tool_bus_first(bus, argv + optind, argc - optind, argc, &used);
    if (c.name == NULL)
        return tool_misused("geb consume", usage, "name a BUS, or set GEB_BUS");
    c.topics = argv + optind + used;
    c.topic_cnt = argc - optind - used;
    return consume_run(&c);
}
