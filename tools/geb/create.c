/* geb create BUS: the bus without its consumer; that comes later, or comes and goes. */
#include "tools/geb/commands.h"

#include "tools/common.h"
#include "tools/geb/look.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LONG_BYTES  (UINT64_C(2) << 30)
#define EVENT_BYTES 128u /* of the ring, for one event */

static const char usage[] =
    "Examples:\n"
    "  geb create shop                               65,536 events, drop-oldest\n"
    "  geb create shop --policy block                producers wait when it is full\n"
    "  geb create shop --capacity 1024 --max-event 4KiB --slabs 1MiB --mode 0660\n"
    "\nUsage: geb create [OPTION...] BUS\n"
    "Makes a bus and prints its path and size. A bus of that name with the same configuration\n"
    "is left as it is; one with another configuration is an error.\n"
    "  --capacity N        events that can wait: a power of two, from 4 (65536)\n"
    "  --policy P          of a full bus: drop-oldest (default), block, error\n"
    "  --exclusive         one producer at a time, which publishes faster\n"
    "  --max-event SIZE    of one event (64KiB); at most half of the slabs\n"
    "  --slabs SIZE        room for events over 32 bytes (16MiB); 0B: none\n"
    "  --producers N       at the same time (128)\n"
    "  --topics N          names that it can hold (256)\n"
    "  --patience D        how long an unfinished event holds up others (30us)\n"
    "  --mode MODE         of the file, octal (0600); 0660: the group may take part\n"
    "  --json              print a JSON object instead\n"
    "Not built yet: --node, --sealed.\n"
    "BUS is a name (in GEB_DIR, or /dev/shm/geb-UID) or a path with a slash; GEB_BUS is its\n"
    "default.\n";

struct settings {
    struct geb_config config;
    bool json;
};

static int config_mode(struct geb_config *config)
{
    char *end;
    unsigned long mode = strtoul(optarg, &end, 8);
    if (optarg[0] < '0' || optarg[0] > '7' || *end != '\0' || mode > 0777 || (mode & 0600) != 0600)
        return tool_bad_value("geb create", "--mode", optarg,
                              "octal, with 0600 in it: 0600, 0660, 0666");
    config->mode = (mode_t)mode;
    return -1;
}

static int config_policy(struct geb_config *config)
{
    for (int policy = GEB_DROP_OLDEST; policy <= GEB_RETURN_ERROR; policy++) {
        if (strcmp(optarg, look_policy((enum geb_policy)policy)) == 0) {
            config->policy = (enum geb_policy)policy;
            return -1;
        }
    }
    return tool_bad_value("geb create", "--policy", optarg, "drop-oldest, block or error");
}

static int config_number(uint32_t *number, const char *option)
{
    uint64_t value;
    if (tool_number(optarg, 1, UINT32_MAX, &value) < 0)
        return tool_bad_value("geb create", option, optarg, "a whole number, from 1");
    *number = (uint32_t)value;
    return -1;
}

static int config_size(uint64_t *bytes, const char *option, uint64_t max)
{
    if (tool_size(optarg, bytes) == 0 && *bytes <= max)
        return -1;
    return tool_bad_value("geb create", option, optarg,
                          "a size with its unit: 512B, 64KiB, 16MiB, 1GiB");
}

/* Returns -1 to go on, or the exit code. */
static int option_take(struct settings *set, int c)
{
    struct geb_config *config = &set->config;
    uint64_t bytes = 0;
    int rc;
    switch (c) {
    case 'c':
        return config_number(&config->capacity, "--capacity");
    case 'p':
        return config_policy(config);
    case 'x':
        config->exclusive = true;
        return -1;
    case 'm':
        rc = config_size(&bytes, "--max-event", UINT32_MAX);
        if (rc < 0 && bytes == 0)
            return tool_bad_value("geb create", "--max-event", optarg, "at least 1B");
        config->max_event = (uint32_t)bytes;
        return rc;
    case 's':
        rc = config_size(&bytes, "--slabs", UINT64_MAX - 1);
        config->slab_bytes = bytes != 0 ? bytes : GEB_NO_SLABS;
        return rc;
    case 'n':
        return config_number(&config->producers, "--producers");
    case 't':
        return config_number(&config->topics, "--topics");
    case 'w':
        if (tool_duration(optarg, &config->patience_ns) == 0 && config->patience_ns > 0)
            return -1;
        return tool_bad_value("geb create", "--patience", optarg,
                              "a duration with its unit: 30us, 1ms");
    case 'M':
        return config_mode(config);
    case 'j':
        set->json = true;
        return -1;
    case 'N':
        return tool_not_built("geb create", "--node");
    case 'S':
        return tool_not_built("geb create", "--sealed");
    default:
        fputs(usage, c == 'h' ? stdout : stderr);
        return c == 'h' ? TOOL_OK : TOOL_USAGE;
    }
}

static int refused(const char *bus, int rc)
{
    if (rc == -EDOM || rc == -EINVAL) {
        tool_explain("geb create", "cannot create", bus, rc);
        fprintf(stderr, "  what the options mean:  geb create --help\n");
        return TOOL_USAGE;
    }
    return look_create_failed("geb create", bus, rc);
}

static int result_print(const struct settings *set, const char *bus, bool existed)
{
    struct look look;
    int rc = look_take(&look, bus);
    if (rc < 0) {
        look_free(&look);
        return tool_explain("geb create", "cannot look at", bus, rc);
    }
    if (existed)
        fprintf(stderr, "geb create: \"%s\" existed already, with this configuration\n", bus);
    if (set->json) {
        json_t *object = json_object();
        json_object_set_new(object, "path", look_text(look.info.path));
        json_object_set_new(object, "bytes", look_number(look.info.bytes));
        json_object_set_new(object, "created", json_boolean(!existed));
        look_free(&look);
        return look_print("geb create", object, false);
    }
    char count[TOOL_TEXT_BYTES], bytes[TOOL_TEXT_BYTES];
    printf("%s  %s events, %s, %s\n", look.info.path, tool_count(count, look.info.capacity),
           look_policy(look.info.policy), tool_bytes(bytes, (double)look.info.bytes));
    look_free(&look);
    return look_done("geb create");
}

/* Whether creation takes a second or more. */
static bool is_long(const struct geb_config *config)
{
    return (config->slab_bytes >= LONG_BYTES && config->slab_bytes != GEB_NO_SLABS) ||
           config->capacity >= LONG_BYTES / EVENT_BYTES;
}

int command_create(int argc, char **argv)
{
    static const struct option options[] = {
        {"capacity", required_argument, NULL, 'c'}, {"policy", required_argument, NULL, 'p'},
        {"exclusive", no_argument, NULL, 'x'},      {"max-event", required_argument, NULL, 'm'},
        {"slabs", required_argument, NULL, 's'},    {"producers", required_argument, NULL, 'n'},
        {"topics", required_argument, NULL, 't'},   {"patience", required_argument, NULL, 'w'},
        {"mode", required_argument, NULL, 'M'},     {"json", no_argument, NULL, 'j'},
        {"node", required_argument, NULL, 'N'},     {"sealed", no_argument, NULL, 'S'},
        {"help", no_argument, NULL, 'h'},           {NULL, 0, NULL, 0}};
    struct settings set = {.config = GEB_CONFIG_INIT};
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        int code = option_take(&set, c);
        if (code >= 0)
            return code;
    }
    const char *bus = tool_bus(optind < argc ? argv[optind] : NULL);
    if (bus == NULL || argc - optind > 1)
        return tool_misused("geb create", usage,
                            bus == NULL ? "name a BUS, or set GEB_BUS" : "one BUS at a time");
    struct geb_watch *before = NULL;
    struct geb_bus *made = NULL;
    bool existed = geb_watch(&before, bus) == 0;
    geb_unwatch(before);
    if (!existed && is_long(&set.config) && tool_terminal(STDERR_FILENO))
        fprintf(stderr, "geb create: the kernel allocates the memory ...\n");
    int rc = geb_create(&made, bus, &set.config);
    if (rc < 0)
        return refused(bus, rc);
    geb_close(made, 0);
    return result_print(&set, bus, existed);
}
