/* geb pub BUS TOPIC [DATA] */
#include "tools/geb/pub.h"

#include "tools/common.h"
#include "tools/geb/commands.h"
#include "tools/geb/look.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A bus that nobody consumes yet gets so long to find somebody, unless --timeout says otherwise:
 * consumer and publisher are often started together. */
#define CONSUMER_GRACE_NS UINT64_C(3000000000)
#define CONSUMER_LOOK_NS  10000000L
#define TURN_MAX_NS       1e18
#define PROGRESS_EVENTS   4096u

static const char usage[] =
    "Examples:\n"
    "  geb pub shop user_created 12345              one event\n"
    "  geb pub shop blob - < picture.png            all of standard input as one event\n"
    "  geb pub shop log --lines < /var/log/syslog   each line an event\n"
    "  tail -f app.log | geb pub shop log --lines --name app --timeout 5s\n"
    "  geb pub shop tick x --rate 100/s --count 500\n"
    "\nUsage: geb pub [OPTION...] [BUS] TOPIC [DATA]\n"
    "Publishes an event; without DATA an empty one.\n"
    "  --lines       each line of standard input is an event, without its newline; an empty line\n"
    "                is an empty event. Any bytes pass, NUL too. A line longer than the bus\n"
    "                allows is an error that names it, and what was before it is published\n"
    "  --split       cut such a line into pieces that fit, instead, each an event: the consumer\n"
    "                prints them as lines of their own. No UTF-8 character is cut. Where lines\n"
    "                must stay whole, create the bus with a larger --max-event\n"
    "  --name WHO    the producer's name for geb info and geb-top (geb-pub)\n"
    "  --key K       a number: events of one key stay in order among workers\n"
    "  --id ID       a number, shown to handlers; the next event has the next one\n"
    "  --rate N/s    so many events a second: 100/s, 0.5/s\n"
    "  --count N     publish DATA N times (1), or the first N lines\n"
    "  --timeout D   how long one event waits while the bus stays full (policy block): 500us,\n"
    "                5s; then exit 5. Without it: as long as there is a consumer\n"
    "DATA or TOPICs that begin with a dash go behind --:  geb pub shop -- level -40\n"
    "Not built yet: --args, --after.\n"
    "BUS is a name (in GEB_DIR, or /dev/shm/geb-UID) or a path with a slash. When GEB_BUS is set\n"
    "it may be left out: of two arguments the first is the TOPIC then (with --lines: the BUS).\n"
    "--bus BUS goes before both.\n";

/* ---- one event ------------------------------------------------------------------------------- */

static int turn_await(const struct pub *pub)
{
    double after_ns = (double)pub->published / pub->per_s * 1e9;
    uint64_t due_ns = pub->begun_ns + (uint64_t)(after_ns < TURN_MAX_NS ? after_ns : TURN_MAX_NS);
    struct timespec at = {.tv_sec = (time_t)(due_ns / 1000000000u),
                          .tv_nsec = (long)(due_ns % 1000000000u)};
    while (tool_interrupted == 0 && geb_now() < due_ns)
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
    return tool_interrupted != 0 ? -EINTR : 0;
}

static int publish(struct pub *pub, const void *data, size_t len, uint64_t wait_until_ns)
{
    struct geb_options options = GEB_OPTIONS_INIT;
    options.wait_until_ns = wait_until_ns;
    options.key = pub->key;
    options.id = pub->id;
    return geb_publish_with(pub->producer, pub->topic, data, len, &options);
}

/* Whether to try a bus again that was full and without a consumer: it has one now, or had one that
 * made room. Trying in vain would count as meeting a full bus each time. */
static bool is_worth_trying(const struct pub *pub)
{
    struct geb_participant first;
    struct geb_metrics metrics = GEB_METRICS_INIT;
    if (geb_watch_participants(pub->watch, &first, 1) == 1 && first.slot == 0 &&
        !look_is_dead(&first))
        return true;
    return geb_watch_metrics(pub->watch, &metrics) < 0 || metrics.used < pub->capacity;
}

/* The bus is full, and nobody consumes it: rc. With --timeout the user has said how long to wait,
 * also for a consumer. */
static int publish_for_nobody(struct pub *pub, const void *data, size_t len, uint64_t until_ns,
                              int rc)
{
    const struct timespec pause = {.tv_nsec = CONSUMER_LOOK_NS};
    bool limited = pub->limit_ns != GEB_FOREVER;
    uint64_t give_up_ns = limited ? until_ns : geb_now() + CONSUMER_GRACE_NS;
    while (rc == -EPIPE || rc == -ESHUTDOWN) {
        if (tool_interrupted != 0)
            return -EINTR;
        if (geb_now() >= give_up_ns)
            return limited ? publish(pub, data, len, 0) : rc;
        nanosleep(&pause, NULL);
        if (is_worth_trying(pub))
            rc = publish(pub, data, len, until_ns);
    }
    return rc;
}

int pub_event(struct pub *pub, const void *data, size_t len)
{
    if (pub->per_s > 0 && turn_await(pub) < 0)
        return -EINTR;
    uint64_t until_ns = pub->limit_ns != GEB_FOREVER && pub->limit_ns != 0
                            ? geb_now() + pub->limit_ns
                            : pub->limit_ns;
    int rc = publish(pub, data, len, until_ns);
    if (rc == -EPIPE || rc == -ESHUTDOWN)
        rc = publish_for_nobody(pub, data, len, until_ns, rc);
    if (rc < 0)
        return rc == -ECANCELED ? -EINTR : rc;
    pub->published++;
    pub->bytes += len;
    if (pub->has_id && ++pub->id == 0)
        pub->id = 1;
    return 0;
}

int pub_failed(struct pub *pub, const char *where, int rc)
{
    char what[160], count[TOOL_TEXT_BYTES], quoted[TOOL_QUOTED_BYTES];
    int code = TOOL_FAILURE;
    tool_progress_end(&pub->progress, pub->published, pub->bytes);
    if (rc == -EINTR) {
        fprintf(stderr, "geb pub: interrupted\n");
    } else {
        snprintf(what, sizeof what, "%s%scannot publish to", where != NULL ? where : "",
                 where != NULL ? ": " : "");
        code = tool_explain("geb pub", what, pub->bus, rc);
    }
    if (rc == -ETIMEDOUT)
        fprintf(stderr, "  who takes part in it:  geb info %s\n", tool_quoted(quoted, pub->bus));
    if (rc == -EMSGSIZE && pub->lines)
        fprintf(stderr, "  to cut such lines:  geb pub --lines --split ...\n");
    if (pub->lines || pub->count > 1)
        fprintf(stderr, "geb pub: %s events were published\n", tool_count(count, pub->published));
    return code;
}

/* ---- DATA ------------------------------------------------------------------------------------ */

/* All of standard input; one byte more than the bus allows is enough to be too much. */
static int input_read(struct pub *pub, char **data, size_t *len)
{
    size_t room = (size_t)pub->max_event + 1;
    *data = malloc(room);
    if (*data == NULL)
        return -ENOMEM;
    for (*len = 0; *len < room;) {
        ssize_t got = read(STDIN_FILENO, *data + *len, room - *len);
        if (got == 0)
            break;
        if (got < 0 && errno != EINTR)
            return -errno;
        if (tool_interrupted != 0)
            return -EINTR;
        *len += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

static int data_publish(struct pub *pub)
{
    char *input = NULL;
    const char *data = pub->data != NULL ? pub->data : "";
    size_t len = strlen(data);
    int rc = 0;
    if (strcmp(data, "-") == 0) {
        rc = input_read(pub, &input, &len);
        data = input;
        if (rc < 0 && rc != -EINTR) {
            fprintf(stderr, "geb pub: cannot read standard input: %s\n", strerror(-rc));
            free(input);
            return TOOL_FAILURE;
        }
    }
    for (uint64_t i = 0; i < pub->count && rc == 0; i++) {
        rc = tool_interrupted != 0 ? -EINTR : pub_event(pub, data, len);
        if (pub->per_s > 0 || i % PROGRESS_EVENTS == 0)
            tool_progress(&pub->progress, pub->published, pub->bytes);
    }
    free(input);
    if (rc < 0)
        return pub_failed(pub, NULL, rc);
    tool_progress_end(&pub->progress, pub->published, pub->bytes);
    return TOOL_OK;
}

/* ---- the command ----------------------------------------------------------------------------- */

/* Returns -1 to go on, or the exit code. */
static int value_take(struct pub *pub, int c)
{
    switch (c) {
    case 'k':
        if (tool_number(optarg, 1, UINT64_MAX, &pub->key) < 0)
            return tool_bad_value("geb pub", "--key", optarg, "a whole number, from 1");
        return -1;
    case 'i':
        if (tool_number(optarg, 1, UINT64_MAX, &pub->id) < 0)
            return tool_bad_value("geb pub", "--id", optarg, "a whole number, from 1");
        pub->has_id = true;
        return -1;
    case 'r':
        if (tool_rate(optarg, &pub->per_s) < 0)
            return tool_bad_value("geb pub", "--rate", optarg,
                                  "events a second with the unit: 100/s, 0.5/s");
        return -1;
    case 'c':
        if (tool_number(optarg, 1, UINT64_MAX - 1, &pub->count) < 0)
            return tool_bad_value("geb pub", "--count", optarg, "a whole number, from 1");
        return -1;
    default:
        if (tool_duration(optarg, &pub->limit_ns) < 0)
            return tool_bad_value("geb pub", "--timeout", optarg,
                                  "a duration with its unit: 500us, 20ms, 5s");
        return -1;
    }
}

static int option_take(struct pub *pub, int c, const char **bus)
{
    switch (c) {
    case 'l':
        pub->lines = true;
        return -1;
    case 's':
        pub->split = true;
        return -1;
    case 'n':
        pub->who = optarg;
        return -1;
    case 'b':
        *bus = optarg;
        return -1;
    case 'k':
    case 'i':
    case 'r':
    case 'c':
    case 't':
        return value_take(pub, c);
    case 'A':
        return tool_not_built("geb pub", "--args");
    case 'D':
        return tool_not_built("geb pub", "--after");
    default:
        fputs(usage, c == 'h' ? stdout : stderr);
        return c == 'h' ? TOOL_OK : TOOL_USAGE;
    }
}

static int options_parse(struct pub *pub, int argc, char **argv)
{
    static const struct option options[] = {{"lines", no_argument, NULL, 'l'},
                                            {"split", no_argument, NULL, 's'},
                                            {"name", required_argument, NULL, 'n'},
                                            {"bus", required_argument, NULL, 'b'},
                                            {"key", required_argument, NULL, 'k'},
                                            {"id", required_argument, NULL, 'i'},
                                            {"rate", required_argument, NULL, 'r'},
                                            {"count", required_argument, NULL, 'c'},
                                            {"timeout", required_argument, NULL, 't'},
                                            {"args", required_argument, NULL, 'A'},
                                            {"after", required_argument, NULL, 'D'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    const char *bus = NULL;
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        int code = option_take(pub, c, &bus);
        if (code >= 0)
            return code;
    }
    int used;
    pub->bus = tool_bus_first(bus, argv + optind, argc - optind, pub->lines ? 1 : 2, &used);
    char **rest = argv + optind + used;
    int rest_cnt = argc - optind - used;
    if (pub->bus == NULL || rest_cnt < 1)
        return tool_misused("geb pub", usage,
                            pub->bus == NULL ? "name a BUS, or set GEB_BUS" : "name a TOPIC");
    if (rest_cnt > (pub->lines ? 1 : 2))
        return tool_misused("geb pub", usage,
                            pub->lines ? "with --lines the DATA is standard input"
                                       : "one DATA at a time: put it in quotes");
    if (pub->split && !pub->lines) {
        fprintf(stderr, "geb pub: --split is for --lines\n");
        return TOOL_USAGE;
    }
    pub->topic_name = rest[0];
    pub->data = rest_cnt > 1 ? rest[1] : NULL;
    if (pub->count == 0)
        pub->count = pub->lines ? UINT64_MAX : 1;
    return -1;
}

static struct geb_producer *interrupted_producer;

static void producer_cancel(void)
{
    geb_cancel(interrupted_producer);
}

/* Who may publish may look as well. */
static int bus_look(struct pub *pub)
{
    struct geb_bus_info info = {.size = sizeof info};
    int rc = geb_watch(&pub->watch, pub->bus);
    if (rc == 0)
        rc = geb_watch_info(pub->watch, &info);
    pub->max_event = info.max_event;
    pub->capacity = info.capacity;
    return rc;
}

static int topic_failed(const struct pub *pub, int rc)
{
    char what[160], shown[64];
    snprintf(what, sizeof what, "cannot use the topic \"%s\" of",
             tool_shown(shown, sizeof shown, pub->topic_name));
    return tool_explain("geb pub", what, pub->bus, rc);
}

int command_pub(int argc, char **argv)
{
    struct pub pub = {.who = "geb-pub", .limit_ns = GEB_FOREVER};
    int code = options_parse(&pub, argc, argv);
    if (code >= 0)
        return code;
    tool_catch_interrupts(producer_cancel);
    int rc = geb_join(&pub.producer, pub.bus, pub.who);
    if (rc == 0)
        rc = bus_look(&pub);
    if (rc < 0) {
        code = tool_explain("geb pub", "cannot join", pub.bus, rc);
        geb_unwatch(pub.watch);
        geb_leave(pub.producer);
        return code;
    }
    interrupted_producer = pub.producer;
    rc = geb_topic(pub.producer, pub.topic_name, &pub.topic);
    tool_progress_begin(&pub.progress);
    pub.begun_ns = geb_now();
    if (rc < 0)
        code = topic_failed(&pub, rc);
    else
        code = pub.lines ? pub_lines(&pub) : data_publish(&pub);
    geb_unwatch(pub.watch);
    geb_leave(pub.producer);
    return code;
}
