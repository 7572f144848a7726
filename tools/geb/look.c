#include "tools/geb/look.h"

#include "tools/common.h"

#include <dirent.h>
#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

int look_take(struct look *look, const char *name)
{
    *look = (struct look){.info.size = sizeof look->info, .metrics = GEB_METRICS_INIT};
    const char *slash = strrchr(name, '/');
    snprintf(look->name, sizeof look->name, "%.255s", slash != NULL ? slash + 1 : name);
    struct geb_watch *watch = NULL;
    int rc = geb_watch(&watch, name);
    if (rc == 0)
        rc = geb_watch_info(watch, &look->info);
    if (rc == 0)
        rc = geb_watch_metrics(watch, &look->metrics);
    if (rc == 0) {
        look->rows = calloc((size_t)look->info.producers + 1, sizeof *look->rows);
        rc = look->rows == NULL
                 ? -ENOMEM
                 : geb_watch_participants(watch, look->rows, look->info.producers + 1);
    }
    if (rc > 0)
        look->row_cnt = (uint32_t)rc;
    look->rc = rc < 0 ? rc : 0;
    if (watch != NULL)
        geb_unwatch(watch);
    return look->rc;
}

void look_free(struct look *look)
{
    free(look->rows);
    look->rows = NULL;
    look->row_cnt = 0;
}

bool look_is_dead(const struct geb_participant *row)
{
    return strcmp(row->state, "dead") == 0;
}

const struct geb_participant *look_consumer(const struct look *look)
{
    return look->row_cnt > 0 && look->rows[0].slot == 0 ? &look->rows[0] : NULL;
}

uint32_t look_producers(const struct look *look, bool dead)
{
    uint32_t cnt = 0;
    for (uint32_t i = 0; i < look->row_cnt; i++)
        cnt += look->rows[i].slot != 0 && look_is_dead(&look->rows[i]) == dead;
    return cnt;
}

int look_directory(const char *dir, void (*each)(const char *path, const char *name, void *user),
                   void *user)
{
    struct dirent **entries;
    int cnt = scandir(dir, &entries, NULL, alphasort);
    if (cnt < 0)
        return -errno;
    int seen = 0;
    for (int i = 0; i < cnt; i++) {
        const char *name = entries[i]->d_name;
        char path[4096];
        if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
            snprintf(path, sizeof path, "%s/%s", dir, name);
            each(path, name, user);
            seen++;
        }
        free(entries[i]);
    }
    free(entries);
    return seen;
}

int look_create_failed(const char *tool, const char *bus, int rc)
{
    if (rc != -ENOENT)
        return tool_explain(tool, "cannot create", bus, rc);
    char dir[256], quoted[TOOL_QUOTED_BYTES], shown[256];
    struct stat st;
    tool_directory_of(bus, dir, sizeof dir);
    fprintf(stderr, "%s: cannot create \"%s\": ", tool, tool_shown(shown, sizeof shown, bus));
    tool_shown(shown, sizeof shown, dir);
    tool_quoted(quoted, dir);
    if (stat(dir, &st) == 0)
        fprintf(stderr, "no file can be made in %s\n  what it is:  findmnt -T %s\n", shown, quoted);
    else
        fprintf(stderr, "there is no directory %s\n  to make it:  mkdir -p %s\n", shown, quoted);
    return TOOL_FAILURE;
}

const char *look_policy(enum geb_policy policy)
{
    switch (policy) {
    case GEB_DROP_OLDEST:
        return "drop-oldest";
    case GEB_BLOCK:
        return "block";
    case GEB_RETURN_ERROR:
        return "error";
    }
    return "unknown";
}

const char *look_backing(const char *path)
{
    struct statfs fs;
    if (statfs(path, &fs) < 0)
        return "unknown";
    switch ((unsigned long)fs.f_type) {
    case TMPFS_MAGIC:
        return "tmpfs";
    case HUGETLBFS_MAGIC:
        return "hugetlbfs";
    default:
        return "file";
    }
}

char *look_shown(char *shown, size_t bytes, const char *text)
{
    size_t i = 0;
    for (; text[i] != '\0' && i + 1 < bytes; i++)
        shown[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    shown[i] = '\0';
    return shown;
}

json_t *look_text(const char *text)
{
    char shown[512];
    json_t *string = json_string(text);
    return string != NULL ? string : json_string(look_shown(shown, sizeof shown, text));
}

json_t *look_number(uint64_t number)
{
    return json_integer((json_int_t)number);
}

json_t *look_participants(const struct look *look)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < look->row_cnt; i++) {
        const struct geb_participant *row = &look->rows[i];
        json_t *object = json_object();
        json_object_set_new(object, "role", json_string(row->slot == 0 ? "consumer" : "producer"));
        json_object_set_new(object, "slot", look_number(row->slot));
        json_object_set_new(object, "name", look_text(row->name));
        json_object_set_new(object, "pid", look_number(row->pid));
        json_object_set_new(object, "state", json_string(row->state));
        json_array_append_new(array, object);
    }
    return array;
}

int look_done(const char *tool)
{
    return tool_end(tool, TOOL_OK);
}

int look_print(const char *tool, json_t *json, bool indent)
{
    int rc = json == NULL ? -1 : json_dumpf(json, stdout, indent ? JSON_INDENT(2) : JSON_COMPACT);
    json_decref(json);
    if (rc != 0 && ferror(stdout) == 0) {
        fprintf(stderr, "%s: out of memory\n", tool);
        return TOOL_FAILURE;
    }
    fputc('\n', stdout);
    return look_done(tool);
}
