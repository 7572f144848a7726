/* geb ls */
#include "tools/geb/commands.h"

#include "tools/common.h"
#include "tools/geb/look.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
    "Examples:\n"
    "  geb ls                                 the buses of this user\n"
    "  GEB_DIR=/dev/hugepages geb ls          those in another directory\n"
    "  geb ls --json | jq -r .name            one JSON object a line\n"
    "\nUsage: geb ls [--json]\n"
    "Lists the buses in GEB_DIR, or /dev/shm/geb-UID. Other files there are left out: geb doctor\n"
    "lists them.\n";

struct listing {
    bool json;
    uint32_t cnt, unseen_cnt; /* unseen: there, but not to be looked at */
    int code;
};

static void json_row_print(const struct look *look, struct listing *list)
{
    const struct geb_participant *consumer = look_consumer(look);
    json_t *row = json_object();
    json_object_set_new(row, "name", look_text(look->name));
    json_object_set_new(row, "path", look_text(look->info.path));
    json_object_set_new(row, "policy", json_string(look_policy(look->info.policy)));
    json_object_set_new(row, "capacity", look_number(look->info.capacity));
    json_object_set_new(row, "bytes", look_number(look->info.bytes));
    json_object_set_new(row, "pending", look_number(look->metrics.pending));
    json_object_set_new(row, "producers", look_number(look_producers(look, false)));
    if (consumer != NULL)
        json_object_set_new(row, "consumer", look_number(consumer->pid));
    json_object_set_new(row, "age_s", json_real((double)look->info.age_ns / 1e9));
    if (look_print("geb ls", row, false) != TOOL_OK)
        list->code = TOOL_FAILURE;
}

static void text_row_print(const struct look *look, const struct listing *list)
{
    const struct geb_participant *consumer = look_consumer(look);
    char a[TOOL_TEXT_BYTES], b[TOOL_TEXT_BYTES], c[TOOL_TEXT_BYTES], name[64];
    if (list->cnt == 1)
        printf("%-20s %-11s %12s %10s %12s %9s %9s\n", "NAME", "POLICY", "CAPACITY", "SIZE",
               "PENDING", "PRODUCERS", "CONSUMER");
    printf("%-20s %-11s %12s %10s %12s %9" PRIu32 " ", look_shown(name, sizeof name, look->name),
           look_policy(look->info.policy), tool_count(a, look->info.capacity),
           tool_bytes(b, (double)look->info.bytes), tool_count(c, look->metrics.pending),
           look_producers(look, false));
    if (consumer == NULL)
        printf("%9s\n", "-");
    else if (look_is_dead(consumer))
        printf("%9s\n", "dead");
    else
        printf("%9" PRIu32 "\n", consumer->pid);
}

static void row_print(const char *path, const char *name, void *user)
{
    struct listing *list = user;
    struct look look;
    uint32_t version = 0;
    char shown[64];
    look_shown(shown, sizeof shown, name);
    int rc = look_take(&look, path);
    if (rc == 0) {
        list->cnt++;
        if (list->json)
            json_row_print(&look, list);
        else
            text_row_print(&look, list);
    } else if (rc == -EPROTO) {
        list->unseen_cnt++;
        tool_magic(path, &version);
        fprintf(stderr, "geb ls: %s has layout version %" PRIu32 ", which this geb does not read\n",
                shown, version);
    } else if (rc == -EACCES) {
        list->unseen_cnt++;
        fprintf(stderr, "geb ls: %s: no permission to look at it\n", shown);
    }
    look_free(&look);
}

int command_ls(int argc, char **argv)
{
    static const struct option options[] = {
        {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    struct listing list = {.code = TOOL_OK};
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (c != 'j') {
            fputs(usage, c == 'h' ? stdout : stderr);
            return c == 'h' ? TOOL_OK : TOOL_USAGE;
        }
        list.json = true;
    }
    if (optind < argc)
        return tool_misused("geb ls", usage, "it lists all buses: one is shown by geb info BUS");
    char dir[256];
    tool_directory(dir, sizeof dir);
    int rc = look_directory(dir, row_print, &list);
    if (rc < 0 && rc != -ENOENT) {
        fprintf(stderr, "geb ls: cannot read %s: %s\n  whose it is:  ls -lad %s\n", dir,
                strerror(-rc), dir);
        return TOOL_FAILURE;
    }
    if (list.cnt == 0 && list.unseen_cnt == 0)
        fprintf(stderr, "geb ls: there is no bus in %s\n  to create one:  geb create shop\n", dir);
    return list.code != TOOL_OK ? list.code : look_done("geb ls");
}
