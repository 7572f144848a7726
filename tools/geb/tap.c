/* geb tap BUS [TOPIC...]: prints events as they go by, and takes part in nothing. */
#include "tools/geb/commands.h"

#include "tools/common.h"
#include "tools/geb/event.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOK_NS UINT64_C(50000000) /* how soon Ctrl-C, the deadline and a closed pipe are seen */
#define ROWS    1025u

static const char usage[] =
    "Examples:\n"
    "  geb tap shop                               print all events from now on, until Ctrl-C\n"
    "  geb tap shop user_created --count 1        wait for the next one\n"
    "  geb tap shop --oldest --timeout 0s --json  what the bus still holds, handled or not\n"
    "\nUsage: geb tap [OPTION...] [BUS] [TOPIC...]\n"
    "Prints each event of the TOPICs, or of all: its data and a newline, or a JSON object. Reads\n"
    "only: producers and the consumer do not notice, and what goes by too fast is missed.\n"
    "  --count N       end after N events\n"
    "  --timeout D     end after D, 500ms, 5s: exit 5 unless N events came\n"
    "  --oldest        begin with the oldest event that the bus still holds\n"
    "  --json          {\"position\",\"topic\",\"producer\",\"number\",\"key\",\"id\",\"data\",\n"
    "                  \"redelivered\",\"attempt\"}; \"data_base64\" if the data is no UTF-8\n"
    "Exit 6: events were missed; standard error says how many, of which producers. Ctrl-C ends it\n"
    "with 0, or 1 before the N events came.\n"
    "BUS is a name (in GEB_DIR, or /dev/shm/geb-UID) or a path with a slash. When GEB_BUS is set\n"
    "all arguments are TOPICs; --bus BUS goes before it.\n";

struct topic {
    bool known;
    bool wanted;
    char name[48];
};

struct tap {
    const char *name;
    char *const *wanted;
    int wanted_cnt;
    bool json, oldest, limited;
    uint64_t count; /* 0: no end */
    uint64_t limit_ns;

    struct geb_watch *watch;
    struct geb_bus_info info;
    struct topic *topics;
    struct geb_topic_row *rows;
    struct event_out out;
    uint64_t printed;
    bool timed_out;
};

/* ---- topics ---------------------------------------------------------------------------------- */

static bool is_wanted(const struct tap *t, const char *name)
{
    for (int i = 0; i < t->wanted_cnt; i++) {
        if (strcmp(name, t->wanted[i]) == 0)
            return true;
    }
    return t->wanted_cnt == 0;
}

/* An event's topic was registered before it was published. */
static const struct topic *topic_of(struct tap *t, geb_topic_id id)
{
    struct topic *topic = &t->topics[id];
    if (topic->known)
        return topic;
    int cnt = geb_watch_topics(t->watch, t->rows, t->info.topics);
    for (int i = 0; i < cnt; i++) {
        struct topic *to = &t->topics[t->rows[i].topic];
        memcpy(to->name, t->rows[i].name, sizeof to->name);
        to->wanted = is_wanted(t, to->name);
        to->known = true;
    }
    if (!topic->known) /* no honest producer's; its name is empty */
        topic->wanted = is_wanted(t, "");
    return topic;
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* Nobody reads our output any more. */
static bool is_reader_gone(void)
{
    struct pollfd reader = {.fd = STDOUT_FILENO};
    return poll(&reader, 1, 0) == 1 && (reader.revents & (POLLERR | POLLHUP)) != 0;
}

/* 0: at the end; else what the library said. write_rc: of the output. */
static int events_print(struct tap *t, int *write_rc)
{
    struct geb_event event;
    uint64_t end_ns = t->limited ? geb_now() + t->limit_ns : GEB_FOREVER;
    while (tool_interrupted == 0) {
        int rc = geb_tap_next(t->watch, &event);
        if (rc == 0) { /* nothing to do: the reader gets what there is */
            *write_rc = event_flush(&t->out);
            if (*write_rc < 0 || is_reader_gone())
                return 0;
            uint64_t look_ns = geb_now() + LOOK_NS;
            rc = geb_tap_wait(t->watch, &event, look_ns < end_ns ? look_ns : end_ns);
        }
        if (rc == 1) {
            const struct topic *topic = topic_of(t, event.topic);
            if (topic->wanted) {
                rc = event_put(&t->out, &event, topic->name);
                t->printed += rc == 0;
            }
            if (rc >= 0 && t->out.len >= EVENT_OUT_BYTES)
                *write_rc = event_flush(&t->out);
            if (*write_rc < 0 || (t->count != 0 && t->printed == t->count))
                return 0;
        }
        if (rc < 0 && rc != -ETIMEDOUT)
            return rc;
        if (t->limited && geb_now() >= end_ns && (rc == -ETIMEDOUT || t->limit_ns != 0)) {
            t->timed_out = true;
            return 0;
        }
    }
    return 0;
}

/* ---- how it ended ---------------------------------------------------------------------------- */

/* "producer 1 feeder: 97 of 300, number 4 to 100" */
static void row_print(const struct geb_tap_row *row, const char *name)
{
    char missed[TOOL_TEXT_BYTES], all[TOOL_TEXT_BYTES], shown[48];
    bool one_gap = row->last_missed - row->first_missed + 1 == row->missed;
    fprintf(stderr, "  producer %" PRIu32 "%s%s: %s of %s, %s %" PRIu64 " to %" PRIu64 "\n",
            row->producer, name[0] != '\0' ? " " : "", tool_shown(shown, sizeof shown, name),
            tool_count(missed, row->missed), tool_count(all, row->seen + row->missed),
            one_gap ? "number" : "in gaps from number", row->first_missed, row->last_missed);
}

static void missed_print(struct tap *t, const struct geb_tap_counts *counts)
{
    static struct geb_tap_row rows[ROWS];
    static struct geb_participant who[ROWS];
    char missed[TOOL_TEXT_BYTES], overtaken[TOOL_TEXT_BYTES], seen[TOOL_TEXT_BYTES];
    int cnt = geb_tap_producers(t->watch, rows, ROWS);
    int who_cnt = geb_watch_participants(t->watch, who, ROWS);
    fprintf(stderr, "geb tap: missed %s events, saw %s\n", tool_count(missed, counts->missed),
            tool_count(seen, counts->seen));
    if (counts->overtaken != 0)
        fprintf(stderr,
                "  %s positions were used again before it came, from %" PRIu64 " to %" PRIu64 "\n",
                tool_count(overtaken, counts->overtaken), counts->first_overtaken,
                counts->last_overtaken);
    for (int i = 0; i < cnt; i++) {
        const char *name = "";
        for (int k = 0; k < who_cnt; k++)
            name = who[k].slot == rows[i].producer ? who[k].name : name;
        if (rows[i].missed != 0)
            row_print(&rows[i], name);
    }
    if (counts->gone != 0)
        fprintf(stderr,
                "  memory of large events was used again: create the bus with more slabs\n");
    if (counts->overtaken != 0)
        fputs("  a larger --capacity keeps events longer; geb tap ... > FILE is faster than a "
              "terminal\n",
              stderr);
}

static int end_explain(struct tap *t, int write_rc)
{
    char count[TOOL_TEXT_BYTES], wanted[TOOL_TEXT_BYTES];
    struct geb_tap_counts counts = GEB_TAP_COUNTS_INIT;
    bool done = t->count == 0 || t->printed == t->count;
    int code = TOOL_OK;
    if (geb_tap_counts(t->watch, &counts) == 0 && counts.missed != 0) {
        missed_print(t, &counts);
        code = TOOL_MISSED;
    }
    if (write_rc == -EPIPE)
        return code;
    if (write_rc < 0) {
        fprintf(stderr, "geb tap: cannot write standard output: %s\n",
                write_rc == -EINTR ? "nobody reads it" : strerror(-write_rc));
        return TOOL_FAILURE;
    }
    if (t->timed_out && (t->count == 0 || !done)) {
        fprintf(stderr, "geb tap: timeout after %s events\n", tool_count(count, t->printed));
        return TOOL_TIMEOUT;
    }
    if (!done && tool_interrupted != 0) {
        fprintf(stderr, "geb tap: interrupted after %s of %s events\n",
                tool_count(count, t->printed), tool_count(wanted, t->count));
        return TOOL_FAILURE;
    }
    return code;
}

static int tap_run(struct tap *t)
{
    int write_rc = 0, code;
    t->info.size = sizeof t->info;
    int rc = geb_watch(&t->watch, t->name);
    if (rc < 0)
        return tool_explain("geb tap", "cannot watch", t->name, rc);
    rc = geb_watch_info(t->watch, &t->info);
    if (rc == 0) {
        t->topics = calloc(t->info.topics, sizeof *t->topics);
        t->rows = calloc(t->info.topics, sizeof *t->rows);
        rc = t->topics != NULL && t->rows != NULL ? 0 : -ENOMEM;
    }
    if (rc == 0)
        rc = geb_tap(t->watch, t->oldest ? GEB_TAP_OLDEST : GEB_TAP_NOW);
    if (rc == 0)
        rc = event_out_open(&t->out, STDOUT_FILENO, t->json, &tool_interrupted);
    if (rc == 0) {
        tool_catch_interrupts(NULL);
        rc = events_print(t, &write_rc);
        if (write_rc == 0)
            write_rc = event_flush(&t->out);
    }
    event_out_end(&t->out);
    if (rc < 0)
        code = tool_explain("geb tap", "cannot watch", t->name, rc);
    else
        code = end_explain(t, write_rc);
    event_out_close(&t->out);
    geb_unwatch(t->watch);
    free(t->topics);
    free(t->rows);
    return code;
}

/* Returns -1 to go on, or the exit code. */
static int option_take(struct tap *t, int o, const char **bus)
{
    switch (o) {
    case 'b':
        *bus = optarg;
        return -1;
    case 'j':
        t->json = true;
        return -1;
    case 'o':
        t->oldest = true;
        return -1;
    case 'c':
        if (tool_number(optarg, 1, UINT64_MAX, &t->count) == 0)
            return -1;
        return tool_bad_value("geb tap", "--count", optarg, "a whole number, from 1");
    case 't':
        t->limited = true;
        if (tool_duration(optarg, &t->limit_ns) == 0)
            return -1;
        return tool_bad_value("geb tap", "--timeout", optarg,
                              "a duration with its unit: 500us, 20ms, 5s");
    default:
        fputs(usage, o == 'h' ? stdout : stderr);
        return o == 'h' ? TOOL_OK : TOOL_USAGE;
    }
}

int command_tap(int argc, char **argv)
{
    static const struct option options[] = {{"bus", required_argument, NULL, 'b'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"oldest", no_argument, NULL, 'o'},
                                            {"count", required_argument, NULL, 'c'},
                                            {"timeout", required_argument, NULL, 't'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    struct tap t = {0};
    const char *bus = NULL;
    for (int o; (o = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        int code = option_take(&t, o, &bus);
        if (code >= 0)
            return code;
    }
    int used;
    t.name = tool_bus_first(bus, argv + optind, argc - optind, argc, &used);
    if (t.name == NULL)
        return tool_misused("geb tap", usage, "name a BUS, or set GEB_BUS");
    t.wanted = argv + optind + used;
    t.wanted_cnt = argc - optind - used;
    for (int i = 0; i < t.wanted_cnt; i++) {
        size_t len = strlen(t.wanted[i]);
        if (len == 0 || len >= sizeof t.topics[0].name) {
            fprintf(stderr, "geb tap: there is no topic of %zu bytes: 1 to 47 are allowed\n", len);
            return TOOL_FAILURE;
        }
    }
    return tap_run(&t);
}
