/* geb-top: looks at a bus, read-only. Nobody who takes part in it notices. */
#include "tools/geb-top/top.h"

#include "tools/common.h"

#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

struct settings {
    const char *bus;
    bool json;
    uint64_t every_ns;
    uint64_t samples; /* UINT64_MAX: until interrupted */
};

static const char usage[] =
    "Examples:\n"
    "  geb-top shop                           a screen, refreshed each second\n"
    "  geb-top shop --once                    one sample\n"
    "  geb-top shop --once --json | jq .account\n"
    "  geb-top shop --json -d 500ms -n 10     ten samples, one JSON object in each line\n"
    "\nUsage: geb-top [BUS] [--once] [--json] [-d DURATION] [-n SAMPLES]\n"
    "BUS is a name (in GEB_DIR, or /dev/shm/geb-UID) or a path with a slash; GEB_BUS is its\n"
    "default. Exit codes: 0 ok, 1 failure, 2 usage, 3 no such bus, 4 other layout version.\n";

/* Returns -1 to go on, or the exit code. */
static int option_take(struct settings *set, int c)
{
    switch (c) {
    case '1':
        set->samples = 1;
        return -1;
    case 'j':
        set->json = true;
        return -1;
    case 'o':
        return tool_not_built("geb-top", "--openmetrics");
    case 'd':
        if (tool_duration(optarg, &set->every_ns) == 0 && set->every_ns >= 1000000)
            return -1;
        fprintf(stderr, "geb-top: -d %s: a duration with its unit, at least 1ms: 500ms, 2s\n",
                optarg);
        return TOOL_USAGE;
    case 'n':
        if (tool_number(optarg, 1, UINT64_MAX - 1, &set->samples) == 0)
            return -1;
        fprintf(stderr, "geb-top: -n %s: a number of samples, from 1\n", optarg);
        return TOOL_USAGE;
    case 'h':
        fputs(usage, stdout);
        return TOOL_OK;
    default:
        fputs(usage, stderr);
        return TOOL_USAGE;
    }
}

static int options_parse(struct settings *set, int argc, char **argv)
{
    static const struct option options[] = {{"once", no_argument, NULL, '1'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"openmetrics", no_argument, NULL, 'o'},
                                            {"delay", required_argument, NULL, 'd'},
                                            {"samples", required_argument, NULL, 'n'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "d:n:h", options, NULL)) != -1;) {
        int rc = option_take(set, c);
        if (rc >= 0)
            return rc;
    }
    set->bus = tool_bus(optind < argc ? argv[optind] : NULL);
    if (set->bus == NULL || argc - optind > 1)
        return tool_misused("geb-top", usage,
                            set->bus == NULL ? "name a BUS, or set GEB_BUS" : "one BUS at a time");
    return -1;
}

/* One write for the whole screen, from the top left corner; what was there before is cleared, and
 * what does not fit is left out, or the terminal would scroll. */
static void screen_print(const struct top_sample *sample, const struct top_sample *before)
{
    char *text = NULL;
    size_t bytes;
    FILE *to = open_memstream(&text, &bytes);
    if (to == NULL)
        return;
    top_text_print(sample, before, to);
    fclose(to);
    struct winsize size = {0};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row == 0 || size.ws_col == 0)
        size = (struct winsize){.ws_row = UINT16_MAX, .ws_col = UINT16_MAX};
    printf("\033[H");
    char *line = text;
    for (unsigned row = 1; *line != '\0' && row < size.ws_row; row++) {
        size_t len = strcspn(line, "\n");
        printf("%.*s\033[K\n", (int)(len < size.ws_col ? len : size.ws_col), line);
        line += len + (line[len] == '\n');
    }
    printf("\033[J");
    free(text);
}

/* 0, -errno of the library, or 1: standard output takes no more, about which tool_end knows. */
static int sample_print(const struct settings *set, bool screen, const struct top_sample *sample,
                        const struct top_sample *before)
{
    int rc = 0;
    if (set->json)
        rc = top_json_print(sample, stdout);
    else if (screen)
        screen_print(sample, before);
    else
        top_text_print(sample, before, stdout);
    return rc == 0 && fflush(stdout) != 0 ? 1 : rc;
}

static void ns_sleep(uint64_t ns)
{
    struct timespec left = {.tv_sec = (time_t)(ns / 1000000000u),
                            .tv_nsec = (long)(ns % 1000000000u)};
    while (tool_interrupted == 0 && nanosleep(&left, &left) < 0 && errno == EINTR)
        continue;
}

/* As sample_print. */
static int bus_show(const struct settings *set, struct geb_watch *watch)
{
    struct top_sample sample[2] = {{0}, {0}};
    int rc = top_sample_init(&sample[0], watch);
    if (rc == 0)
        rc = top_sample_init(&sample[1], watch);
    bool screen = set->samples != 1 && !set->json && tool_terminal(STDOUT_FILENO);
    if (rc == 0 && screen)
        printf("\033[2J");
    for (uint64_t n = 0; rc == 0 && n < set->samples; n++) {
        if (n > 0)
            ns_sleep(set->every_ns);
        if (tool_interrupted != 0)
            break;
        if (n > 0 && !set->json && !screen)
            printf("\n");
        rc = top_sample_take(&sample[n % 2], watch);
        if (rc == 0)
            rc = sample_print(set, screen, &sample[n % 2], n > 0 ? &sample[1 - n % 2] : NULL);
    }
    top_sample_free(&sample[0]);
    top_sample_free(&sample[1]);
    return rc;
}

static int top_run(int argc, char **argv)
{
    struct settings set = {.every_ns = 1000000000u, .samples = UINT64_MAX};
    int code = options_parse(&set, argc, argv);
    if (code >= 0)
        return code;
    struct geb_watch *watch;
    tool_catch_interrupts(NULL);
    int rc = geb_watch(&watch, set.bus);
    if (rc < 0)
        return tool_explain("geb-top", "cannot watch", set.bus, rc);
    rc = bus_show(&set, watch);
    if (rc < 0)
        tool_explain("geb-top", "cannot read", set.bus, rc);
    geb_unwatch(watch);
    return tool_exit_code(rc);
}

int main(int argc, char **argv)
{
    tool_begin();
    return tool_end("geb-top", top_run(argc, argv));
}
