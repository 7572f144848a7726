/* geb doctor: the command, and how it prints. */
#include "tools/geb/doctor.h"

#include "tools/common.h"
#include "tools/geb/commands.h"
#include "tools/geb/look.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The default bus takes less. */
#define ROOM_BYTES (UINT64_C(40) << 20)

static const char usage[] =
    "Examples:\n"
    "  geb doctor                   this machine, and all buses of this user\n"
    "  geb doctor shop              this machine and one bus\n"
    "  geb doctor --fix             the same, and takes back what dead processes left\n"
    "  geb doctor --json | jq .stale\n"
    "\nUsage: geb doctor [--fix [--remove-unused]] [--json] [BUS]\n"
    "Looks for participants that died, slots, cells and memory that they left behind, locks of\n"
    "strangers, files among the buses that are none, and at memory and kernel features. It says\n"
    "for each finding what was done, or the command to give.\n"
    "--fix takes back what the dead left (a running consumer does so by itself), removes files of\n"
    "creators that died, and closes a directory of the buses that others may write to. It never\n"
    "removes a bus; with --remove-unused it does, if nobody takes part in it and no event waits.\n"
    "It may be interrupted and repeated, also while the buses are in use.\n"
    "BUS is a name (in GEB_DIR, or /dev/shm/geb-UID) or a path with a slash.\n";

/* ---- findings -------------------------------------------------------------------------------- */

char *doctor_text(char text[DOCTOR_TEXT_BYTES], const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(text, DOCTOR_TEXT_BYTES, format, args);
    va_end(args);
    return text;
}

char *doctor_command(char text[DOCTOR_TEXT_BYTES], const char *command, const char *path)
{
    char quoted[TOOL_QUOTED_BYTES];
    return doctor_text(text, "%s %s", command, tool_quoted(quoted, path));
}

void doctor_find(struct doctor *doctor, json_t *findings, const char *what, const char *did,
                 const char *todo)
{
    json_t *finding = json_object();
    json_object_set_new(finding, "what", look_text(what));
    json_object_set_new(finding, did != NULL ? "did" : "do", look_text(did != NULL ? did : todo));
    json_array_append_new(findings, finding);
    if (did != NULL)
        doctor->fixed_cnt++;
    else
        doctor->problem_cnt++;
}

void doctor_print(const struct doctor *doctor, const char *subject, const json_t *findings)
{
    char shown[DOCTOR_TEXT_BYTES];
    bool is_left = false;
    size_t i;
    json_t *finding;
    if (doctor->json)
        return;
    json_array_foreach(findings, i, finding)
    {
        is_left = is_left || json_object_get(finding, "do") != NULL;
    }
    printf("%s %s\n",
           is_left ? "  look"
           : i > 0 ? "  done"
                   : "  ok  ",
           look_shown(shown, sizeof shown, subject));
    json_array_foreach(findings, i, finding)
    {
        const char *what = json_string_value(json_object_get(finding, "what"));
        const char *did = json_string_value(json_object_get(finding, "did"));
        const char *todo = json_string_value(json_object_get(finding, "do"));
        printf("         %s\n", look_shown(shown, sizeof shown, what != NULL ? what : ""));
        if (did != NULL || todo != NULL)
            printf("           %s:  %s\n", did != NULL ? "done" : "to do",
                   look_shown(shown, sizeof shown, did != NULL ? did : todo));
    }
}

/* ---- the machine ----------------------------------------------------------------------------- */

static json_t *space_json(const struct doctor_space *space)
{
    json_t *object = json_object();
    json_object_set_new(object, "path", look_text(space->path));
    bool is_known = space->rc == 0 || space->rc == -ENOENT;
    json_object_set_new(object, "exists", is_known ? json_boolean(space->rc == 0) : json_null());
    if (!is_known)
        json_object_set_new(object, "why", json_string(strerror(-space->rc)));
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

static int report_json(struct doctor *report, const struct doctor_system *system)
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
    if (report->fix)
        json_object_set_new(root, "fixed", look_number(report->fixed_cnt));
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

static int examine(struct doctor *report, const char *bus)
{
    struct doctor_system system;
    doctor_system_read(&system);
    report->buses = json_array();
    report->stale = json_array();
    if (!report->json)
        system_text(&system);
    doctor_directory(report, system.directory.path);
    if (bus == NULL) {
        doctor_files(report, system.directory.path);
    } else {
        int rc = doctor_bus(report, bus);
        if (rc < 0)
            return tool_explain("geb doctor", "cannot look at", bus, rc);
    }
    if (report->json)
        return report_json(report, &system);
    if (report->bus_cnt == 0)
        printf("  none%s in %s\n", report->unseen_cnt > 0 ? " that could be looked at" : "",
               system.directory.path);
    if (report->fix)
        printf("%" PRIu32 " %s done\n", report->fixed_cnt,
               report->fixed_cnt == 1 ? "thing" : "things");
    printf("%" PRIu32 " %s\n", report->problem_cnt,
           report->problem_cnt == 1 ? "thing to look at" : "things to look at");
    return look_done("geb doctor");
}

int command_doctor(int argc, char **argv)
{
    static const struct option options[] = {{"json", no_argument, NULL, 'j'},
                                            {"fix", no_argument, NULL, 'f'},
                                            {"remove-unused", no_argument, NULL, 'r'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    struct doctor report = {0};
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (c == 'j') {
            report.json = true;
        } else if (c == 'f') {
            report.fix = true;
        } else if (c == 'r') {
            report.remove_unused = true;
        } else {
            fputs(usage, c == 'h' ? stdout : stderr);
            return c == 'h' ? TOOL_OK : TOOL_USAGE;
        }
    }
    if (argc - optind > 1) {
        fputs(usage, stderr);
        return TOOL_USAGE;
    }
    if (report.remove_unused && !report.fix) {
        fputs("geb doctor: --remove-unused goes with --fix\n", stderr);
        return TOOL_USAGE;
    }
    int code = examine(&report, tool_bus(optind < argc ? argv[optind] : NULL));
    return code == TOOL_OK && report.failed ? TOOL_FAILURE : code;
}
