/* geb doctor: the part that reads only. */
#include "tools/geb/doctor.h"

#include "tools/common.h"
#include "tools/geb/commands.h"
#include "tools/geb/look.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The default bus takes less. */
#define ROOM_BYTES (UINT64_C(40) << 20)

static const char usage[] =
    "Examples:\n"
    "  geb doctor                   this machine, and all buses of this user\n"
    "  geb doctor shop              this machine and one bus\n"
    "  geb doctor --json | jq .stale\n"
    "\nUsage: geb doctor [--json] [BUS]\n"
    "Looks for participants that died, cells that they left behind, files among the buses that\n"
    "are none, and at memory and kernel features. It changes nothing.\n"
    "Not built yet: --fix.\n"
    "BUS is a name (in GEB_DIR, or /dev/shm/geb-UID) or a path with a slash.\n";

struct report {
    bool json;
    json_t *buses, *stale;
    uint32_t bus_cnt, problem_cnt;
};

/* ---- buses ----------------------------------------------------------------------------------- */

static json_t *bus_json(const struct look *look)
{
    json_t *bus = json_object(), *dead = json_array();
    for (uint32_t i = 0; i < look->row_cnt; i++) {
        const struct geb_participant *row = &look->rows[i];
        if (!look_is_dead(row))
            continue;
        json_t *owner = json_object();
        json_object_set_new(owner, "role", json_string(row->slot == 0 ? "consumer" : "producer"));
        json_object_set_new(owner, "slot", look_number(row->slot));
        json_object_set_new(owner, "pid", look_number(row->pid));
        json_object_set_new(owner, "name", look_text(row->name));
        json_array_append_new(dead, owner);
    }
    json_object_set_new(bus, "name", look_text(look->name));
    json_object_set_new(bus, "path", look_text(look->info.path));
    json_object_set_new(bus, "bytes", look_number(look->info.bytes));
    json_object_set_new(bus, "pending", look_number(look->metrics.pending));
    json_object_set_new(bus, "dead", dead);
    json_object_set_new(bus, "quarantined", look_number(look->metrics.quarantined));
    json_object_set_new(bus, "bad_bytes", look_number(look->metrics.bad_bytes));
    return bus;
}

static void bus_text(const struct look *look, uint32_t problem_cnt)
{
    char count[TOOL_TEXT_BYTES], bytes[TOOL_TEXT_BYTES], name[64], who[48];
    look_shown(name, sizeof name, look->name);
    printf("%s %s: %s, %s events wait\n", problem_cnt == 0 ? "  ok  " : "  look", name,
           tool_bytes(bytes, (double)look->info.bytes), tool_count(count, look->metrics.pending));
    for (uint32_t i = 0; i < look->row_cnt; i++) {
        const struct geb_participant *row = &look->rows[i];
        if (look_is_dead(row))
            printf("         dead %s: process %" PRIu32 " (%s), slot %" PRIu32 "\n",
                   row->slot == 0 ? "consumer" : "producer", row->pid,
                   look_shown(who, sizeof who, row->name), row->slot);
    }
    if (look->metrics.quarantined > 0)
        printf("         quarantined cells: %s\n", tool_count(count, look->metrics.quarantined));
    if (look->metrics.bad_bytes > 0)
        printf("         bad bytes were found %s times: a producer is damaged or hostile\n",
               tool_count(count, look->metrics.bad_bytes));
    if (problem_cnt > 0)
        printf("         a running consumer takes back what the dead left:  geb consume %s\n",
               name);
}

static void bus_add(struct report *report, const struct look *look)
{
    uint32_t problem_cnt = look->metrics.quarantined > 0;
    for (uint32_t i = 0; i < look->row_cnt; i++)
        problem_cnt += look_is_dead(&look->rows[i]);
    problem_cnt += look->metrics.bad_bytes > 0;
    report->bus_cnt++;
    report->problem_cnt += problem_cnt;
    if (report->json)
        json_array_append_new(report->buses, bus_json(look));
    else
        bus_text(look, problem_cnt);
}

/* A file that is no bus of ours. */
static void stale_add(struct report *report, const char *path, const char *why, int64_t version)
{
    char quoted[TOOL_QUOTED_BYTES], shown[256];
    report->problem_cnt++;
    if (report->json) {
        json_t *file = json_object();
        json_object_set_new(file, "path", look_text(path));
        json_object_set_new(file, "why", json_string(why));
        if (version >= 0)
            json_object_set_new(file, "layout_version", json_integer(version));
        json_array_append_new(report->stale, file);
        return;
    }
    printf("  look %s: %s", look_shown(shown, sizeof shown, path), why);
    if (version >= 0)
        printf(" %" PRId64 "\n         to remove it:  geb rm --force %s", version,
               look_shown(shown, sizeof shown, tool_quoted(quoted, path)));
    putchar('\n');
}

static void file_look(const char *path, const char *name, void *user)
{
    struct report *report = user;
    struct look look;
    uint32_t version = 0;
    int rc = look_take(&look, path);
    int magic = look_magic(path, &version);
    if (rc == 0)
        bus_add(report, &look);
    else if (rc == -EPROTO && magic == 1)
        stale_add(report, path, "has layout version", version);
    else if (magic == 1 && rc == -EBADMSG)
        stale_add(report, path, "is a damaged bus, of layout version", version);
    else if (rc == -EACCES)
        stale_add(report, path, "cannot be looked at: no permission", -1);
    else if (rc == -EBADMSG && strncmp(name, ".geb-", 5) == 0)
        stale_add(report, path, "is a bus whose creator died, or is still at it", -1);
    else if (rc == -EBADMSG)
        stale_add(report, path, "is no bus", -1);
    else if (rc != -ENOENT) /* removed just now */
        stale_add(report, path, "cannot be looked at", -1);
    look_free(&look);
}

/* ---- the machine ----------------------------------------------------------------------------- */

static json_t *space_json(const struct doctor_space *space)
{
    json_t *object = json_object();
    json_object_set_new(object, "path", look_text(space->path));
    json_object_set_new(object, "exists", json_boolean(space->rc == 0));
    if (space->rc == 0) {
        json_object_set_new(object, "backing", json_string(space->backing));
        json_object_set_new(object, "bytes", look_number(space->bytes));
        json_object_set_new(object, "free_bytes", look_number(space->free_bytes));
    }
    return object;
}

static json_t *feature_json(int rc)
{
    json_t *object = json_object();
    json_object_set_new(object, "available", json_boolean(rc == 0));
    if (rc < 0)
        json_object_set_new(object, "why", json_string(strerror(-rc)));
    return object;
}

static int report_json(struct report *report, const struct doctor_system *system)
{
    json_t *root = json_object(), *huge = json_object();
    json_object_set_new(huge, "page_bytes", look_number(system->huge_page_bytes));
    json_object_set_new(huge, "total", look_number(system->huge_pages));
    json_object_set_new(huge, "free", look_number(system->huge_pages_free));
    if (system->huge_mount[0] != '\0')
        json_object_set_new(huge, "mount", look_text(system->huge_mount));
    json_object_set_new(root, "directory", space_json(&system->directory));
    json_object_set_new(root, "shm", space_json(&system->shm));
    json_object_set_new(root, "memlock_bytes",
                        system->memlock_bytes == UINT64_MAX ? json_null()
                                                            : look_number(system->memlock_bytes));
    json_object_set_new(root, "huge_pages", huge);
    json_object_set_new(root, "io_uring", feature_json(system->io_uring));
    json_object_set_new(root, "membarrier", feature_json(system->membarrier));
    json_object_set_new(root, "buses", report->buses);
    json_object_set_new(root, "stale", report->stale);
    json_object_set_new(root, "problems", look_number(report->problem_cnt));
    return look_print("geb doctor", root, true);
}

static void space_text(const struct doctor_space *space)
{
    char all[TOOL_TEXT_BYTES], left[TOOL_TEXT_BYTES];
    if (space->rc == -ENOENT)
        printf("  ok   %s: not there yet\n", space->path);
    else if (space->rc < 0)
        printf("  look %s: %s\n", space->path, strerror(-space->rc));
    else
        printf("%s %s: %s of %s free, %s\n", space->free_bytes >= ROOM_BYTES ? "  ok  " : "  look",
               space->path, tool_bytes(left, (double)space->free_bytes),
               tool_bytes(all, (double)space->bytes), space->backing);
    if (space->rc == 0 && space->free_bytes < ROOM_BYTES)
        printf("         a default bus takes 27 MiB: make it larger, or use geb create "
               "--capacity and --slabs\n");
}

static void system_text(const struct doctor_system *system)
{
    char a[TOOL_TEXT_BYTES];
    printf("MACHINE\n");
    space_text(&system->shm);
    space_text(&system->directory);
    printf("  ok   memory that may be locked: %s\n",
           system->memlock_bytes == UINT64_MAX ? "no limit"
                                               : tool_bytes(a, (double)system->memlock_bytes));
    printf("  ok   huge pages: %" PRIu64 " of %" PRIu64 " free, %s each, %s%s\n",
           system->huge_pages_free, system->huge_pages,
           tool_bytes(a, (double)system->huge_page_bytes),
           system->huge_mount[0] != '\0' ? "mounted at " : "not mounted", system->huge_mount);
    printf("  %s io_uring: %s\n", system->io_uring == 0 ? "ok  " : "note",
           system->io_uring == 0 ? "available" : strerror(-system->io_uring));
    printf("  %s membarrier: %s\n", system->membarrier == 0 ? "ok  " : "note",
           system->membarrier == 0 ? "available" : "missing, so publishing costs one fence more");
    printf("BUSES\n");
}

/* ---- the command ----------------------------------------------------------------------------- */

static int examine(struct report *report, const char *bus)
{
    struct doctor_system system;
    struct look look;
    doctor_system_read(&system);
    if (bus != NULL && look_take(&look, bus) < 0) {
        int rc = look.rc;
        look_free(&look);
        return tool_explain("geb doctor", "cannot look at", bus, rc);
    }
    report->buses = report->json ? json_array() : NULL;
    report->stale = report->json ? json_array() : NULL;
    if (!report->json)
        system_text(&system);
    if (bus != NULL) {
        bus_add(report, &look);
        look_free(&look);
    } else {
        int rc = look_directory(system.directory.path, file_look, report);
        if (rc < 0 && rc != -ENOENT)
            stale_add(report, system.directory.path, strerror(-rc), -1);
    }
    if (report->json)
        return report_json(report, &system);
    if (report->bus_cnt == 0)
        printf("  none in %s\n", system.directory.path);
    printf("%" PRIu32 " %s\n", report->problem_cnt,
           report->problem_cnt == 1 ? "thing to look at" : "things to look at");
    return look_done("geb doctor");
}

int command_doctor(int argc, char **argv)
{
    static const struct option options[] = {{"json", no_argument, NULL, 'j'},
                                            {"fix", no_argument, NULL, 'f'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    struct report report = {0};
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (c == 'f')
            return tool_not_built("geb doctor", "--fix");
        if (c != 'j') {
            fputs(usage, c == 'h' ? stdout : stderr);
            return c == 'h' ? TOOL_OK : TOOL_USAGE;
        }
        report.json = true;
    }
    if (argc - optind > 1) {
        fputs(usage, stderr);
        return TOOL_USAGE;
    }
    return examine(&report, tool_bus(optind < argc ? argv[optind] : NULL));
}
