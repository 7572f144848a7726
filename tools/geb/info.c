/* geb info BUS */
#include "tools/geb/commands.h"

#include "tools/common.h"
#include "tools/geb/look.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

static const char usage[] =
    "Examples:\n"
    "  geb info shop                          how it was made and who takes part\n"
    "  geb info shop --json | jq .participants\n"
    "  geb-top shop                           what happens on it, each second\n"
    "\nUsage: geb info [BUS] [--json]\n"
    "BUS is a name (in GEB_DIR, or /dev/shm/geb-UID) or a path with a slash; GEB_BUS is its\n"
    "default.\n";

static json_t *info_json(const struct look *look, const struct stat *st)
{
    const struct geb_bus_info *info = &look->info;
    char mode[8];
    snprintf(mode, sizeof mode, "%04o", (unsigned)st->st_mode & 07777);
    json_t *object = json_object();
    json_object_set_new(object, "name", look_text(look->name));
    json_object_set_new(object, "path", look_text(info->path));
    json_object_set_new(object, "id", json_string(info->id));
    json_object_set_new(object, "epoch", look_number(info->epoch));
    json_object_set_new(object, "policy", json_string(look_policy(info->policy)));
    json_object_set_new(object, "exclusive", json_boolean(info->exclusive));
    json_object_set_new(object, "capacity", look_number(info->capacity));
    json_object_set_new(object, "max_event", look_number(info->max_event));
    json_object_set_new(object, "slab_bytes", look_number(info->slab_bytes));
    json_object_set_new(object, "producers_max", look_number(info->producers));
    json_object_set_new(object, "topics_max", look_number(info->topics));
    json_object_set_new(object, "patience_ns", look_number(info->patience_ns));
    json_object_set_new(object, "bytes", look_number(info->bytes));
    json_object_set_new(object, "backing", json_string(look_backing(info->path)));
    json_object_set_new(object, "page_bytes", look_number(info->page_bytes));
    json_object_set_new(object, "mode", json_string(mode));
    json_object_set_new(object, "uid", look_number(st->st_uid));
    json_object_set_new(object, "creator_pid", look_number(info->creator_pid));
    json_object_set_new(object, "age_s", json_real((double)info->age_ns / 1e9));
    json_object_set_new(object, "closed", json_boolean(info->closed));
    json_object_set_new(object, "pending", look_number(look->metrics.pending));
    json_object_set_new(object, "participants", look_participants(look));
    return object;
}

static int info_text(const struct look *look, const struct stat *st)
{
    const struct geb_bus_info *info = &look->info;
    char a[TOOL_TEXT_BYTES], b[TOOL_TEXT_BYTES], name[48];
    uint64_t age_s = info->age_ns / 1000000000u;
    printf("path          %s\n", info->path);
    printf("id            %s\n", info->id);
    printf("policy        %s%s\n", look_policy(info->policy),
           info->exclusive ? ", exclusive: one producer" : "");
    printf("capacity      %s events, %s wait\n", tool_count(a, info->capacity),
           tool_count(b, look->metrics.pending));
    printf("max event     %s\n", tool_bytes(a, info->max_event));
    printf("slabs         %s\n", tool_bytes(a, (double)info->slab_bytes));
    printf("limits        %" PRIu32 " producers, %" PRIu32 " topics\n", info->producers,
           info->topics);
    printf("patience      %s\n", tool_ns(a, info->patience_ns));
    printf("memory        %s in %s, pages of %s\n", tool_bytes(a, (double)info->bytes),
           look_backing(info->path), tool_bytes(b, info->page_bytes));
    printf("mode          %04o, user %u\n", (unsigned)st->st_mode & 07777, (unsigned)st->st_uid);
    printf("created       by process %" PRIu32 ", %" PRIu64 ":%02u:%02u ago\n", info->creator_pid,
           age_s / 3600, (unsigned)(age_s / 60 % 60), (unsigned)(age_s % 60));
    for (uint32_t i = 0; i < look->row_cnt; i++) {
        const struct geb_participant *row = &look->rows[i];
        printf("%-13s process %" PRIu32 " (%s), %s\n", row->slot == 0 ? "consumer" : "producer",
               row->pid, look_shown(name, sizeof name, row->name), row->state);
    }
    if (look_consumer(look) == NULL)
        printf("consumer      none\n");
    if (look->metrics.standby != 0)
        printf("standby       waits\n");
    return look_done("geb info");
}

int command_info(int argc, char **argv)
{
    static const struct option options[] = {
        {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    bool json = false;
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (c != 'j') {
            fputs(usage, c == 'h' ? stdout : stderr);
            return c == 'h' ? TOOL_OK : TOOL_USAGE;
        }
        json = true;
    }
    const char *bus = tool_bus(optind < argc ? argv[optind] : NULL);
    if (bus == NULL || argc - optind > 1)
        return tool_misused("geb info", usage,
                            bus == NULL ? "name a BUS, or set GEB_BUS" : "one BUS at a time");
    struct look look;
    struct stat st = {0};
    int rc = look_take(&look, bus);
    if (rc < 0) {
        look_free(&look);
        return tool_explain("geb info", "cannot look at", bus, rc);
    }
    stat(look.info.path, &st);
    int code = json ? look_print("geb info", info_json(&look, &st), true) : info_text(&look, &st);
    look_free(&look);
    return code;
}
