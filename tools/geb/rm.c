/* geb rm BUS */
#include "tools/geb/commands.h"

#include "tools/common.h"
#include "tools/geb/look.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char usage[] =
    "Examples:\n"
    "  geb rm shop                  remove a bus that nobody uses\n"
    "  geb rm --force shop          remove its name from under those who use it, or what\n"
    "                               is left of a damaged one or of another version\n"
    "\nUsage: geb rm [--force] [BUS]\n"
    "Fails while anybody takes part in it, and names them. With --force they keep the memory they\n"
    "have, without a name, until they end. --force removes buses only, no other files.\n"
    "BUS is a name (in GEB_DIR, or /dev/shm/geb-UID) or a path with a slash; GEB_BUS is its\n"
    "default.\n";

/* Those of a bus who live. why: what the library said. Some have no row: a standby, who repairs it,
 * a stranger. The library knows of them. */
static void users_print(const struct look *look, const char *why)
{
    char name[48];
    uint32_t cnt = 0;
    for (uint32_t i = 0; i < look->row_cnt; i++) {
        const struct geb_participant *row = &look->rows[i];
        if (look_is_dead(row))
            continue;
        cnt++;
        fprintf(stderr, "  %s: process %" PRIu32 " (%s), %s\n",
                row->slot == 0 ? "consumer" : "producer", row->pid,
                look_shown(name, sizeof name, row->name), row->state);
    }
    if (cnt == 0)
        fprintf(stderr, "  %s\n", why);
}

static int in_use(const char *bus)
{
    struct look look;
    char quoted[TOOL_QUOTED_BYTES], why[512];
    tool_shown(why, sizeof why, geb_last_error());
    fprintf(stderr, "geb rm: cannot remove \"%s\": it is in use\n", bus);
    look_take(&look, bus);
    users_print(&look, why);
    look_free(&look);
    fprintf(stderr, "  end them first, or:  geb rm --force %s\n", tool_quoted(quoted, bus));
    return TOOL_FAILURE;
}

/* refusal: what geb_remove said. */
static int remove_anyway(const char *bus, int refusal)
{
    struct look look;
    uint32_t version = 0;
    char path[512], why[512];
    if (refusal == -EINVAL || refusal == -ENOENT)
        return tool_explain("geb rm", "cannot remove", bus, refusal);
    tool_shown(why, sizeof why, geb_last_error()); /* before a look at the bus fails, too */
    tool_path(bus, path, sizeof path);
    int rc = tool_magic(path, &version);
    if (rc < 0) {
        fprintf(stderr, "geb rm: cannot read %s: %s\n", path, strerror(-rc));
        return tool_exit_code(rc);
    }
    if (rc == 0) {
        fprintf(stderr, "geb rm: %s is no bus, so it stays\n  what it is:  file %s\n", path, path);
        return TOOL_FAILURE;
    }
    bool seen = look_take(&look, bus) == 0;
    int code = TOOL_OK;
    if (unlink(path) != 0) {
        fprintf(stderr, "geb rm: cannot remove %s: %s\n", path, strerror(errno));
        code = tool_exit_code(-errno);
    } else if (seen && refusal == -EBUSY) {
        fprintf(stderr, "geb rm: removed \"%s\" from under:\n", bus);
        users_print(&look, why);
    }
    look_free(&look);
    return code;
}

int command_rm(int argc, char **argv)
{
    static const struct option options[] = {
        {"help", no_argument, NULL, 'h'}, {"force", no_argument, NULL, 'f'}, {NULL, 0, NULL, 0}};
    bool force = false;
    for (int c; (c = getopt_long(argc, argv, "hf", options, NULL)) != -1;) {
        if (c != 'f') {
            fputs(usage, c == 'h' ? stdout : stderr);
            return c == 'h' ? TOOL_OK : TOOL_USAGE;
        }
        force = true;
    }
    const char *bus = tool_bus(optind < argc ? argv[optind] : NULL);
    if (bus == NULL || argc - optind > 1)
        return tool_misused("geb rm", usage,
                            bus == NULL ? "name a BUS, or set GEB_BUS" : "one BUS at a time");
    int rc = geb_remove(bus);
    if (rc == 0)
        return TOOL_OK;
    if (force)
        return remove_anyway(bus, rc);
    return rc == -EBUSY ? in_use(bus) : tool_explain("geb rm", "cannot remove", bus, rc);
}
