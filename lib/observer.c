/* Observers: a read-only map of the whole, and copies of its tables. */
#include "lib/internal.h"
#include "shmring/numa.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

static int check(const struct geb_watch *watch, const void *result)
{
    if (watch == NULL || result == NULL)
        return gebi_fail(-EINVAL, "%s is NULL", watch == NULL ? "the watch" : "the result pointer");
    if (watch->magic != GEBI_WATCH_MAGIC)
        return gebi_fail(-ESTALE, "the watch has ended, or this is a child of its process");
    return 0;
}

int geb_watch(struct geb_watch **watch, const char *name)
{
    char path[SHR_PATH_BYTES];
    if (watch == NULL)
        return gebi_fail(-EINVAL, "the result pointer is NULL");
    *watch = NULL;
    int rc = gebi_path(name, false, path);
    if (rc < 0)
        return rc;
    struct geb_watch *w = gebi_handle_alloc(sizeof(*w));
    if (w == NULL)
        return gebi_fail(-ENOMEM, "no memory for a watch");
    rc = shr_segment_attach(&w->map, path, false);
    if (rc < 0) {
        gebi_handle_end(w, sizeof(*w));
        return gebi_fail_file(rc, "", path);
    }
    w->magic = GEBI_WATCH_MAGIC;
    *watch = w;
    return 0;
}

int geb_unwatch(struct geb_watch *watch)
{
    if (watch == NULL)
        return 0;
    int rc = check(watch, watch);
    if (rc < 0)
        return rc;
    gebi_tap_end(watch);
    shr_segment_detach(&watch->map);
    gebi_handle_end(watch, sizeof(*watch));
    return 0;
}

int geb_watch_metrics(struct geb_watch *watch, struct geb_metrics *metrics)
{
    int rc = check(watch, metrics);
    return rc < 0 ? rc : gebi_metrics(&watch->map, metrics);
}

int geb_watch_info(struct geb_watch *watch, struct geb_bus_info *info)
{
    int rc = check(watch, info);
    if (rc < 0)
        return rc;
    if (info->size != sizeof(*info))
        return gebi_fail(-EINVAL, "geb_bus_info.size is %zu, not %zu", info->size, sizeof(*info));
    const struct shr_geometry *geo = &watch->map.geo;
    *info = (struct geb_bus_info){
        .size = sizeof(*info),
        .epoch = shr_load_relaxed(&watch->map.hot->epoch),
        .created_ns = geo->created_ns,
        .age_ns = shr_now_ns() - geo->started_ns,
        .bytes = geo->segment_bytes,
        .slab_bytes = (uint64_t)geo->chunk_cnt * SHR_CHUNK_BYTES,
        .patience_ns = geo->patience_ns,
        .capacity = geo->capacity,
        .max_event = geo->max_event,
        .producers = geo->producer_cnt,
        .topics = geo->topic_cnt,
        .page_bytes = geo->page_bytes,
        .creator_pid = geo->creator_pid,
        .creator_uid = geo->creator_uid,
        .policy = (enum geb_policy)geo->policy,
        .exclusive = geo->exclusive != 0,
        .closed = shr_load32_acquire(&watch->map.hot->closed) != 0, /* edge W4 acquire */
        .node = -1,
    };
    uint32_t node;
    if (shr_numa_where(watch->map.cells, &node) == 0)
        info->node = (int32_t)node;
    memcpy(info->path, watch->map.path, sizeof(info->path));
    snprintf(info->id, sizeof(info->id), "%016llx%016llx", (unsigned long long)geo->id[0],
             (unsigned long long)geo->id[1]);
    return 0;
}

/* ---- tables ---------------------------------------------------------------------------------- */

/* A file of /proc about a pid, or NULL. */
static FILE *proc_open(uint32_t pid, const char *name)
{
    char path[48];
    snprintf(path, sizeof(path), "/proc/%u/%s", pid, name);
    return fopen(path, "re");
}

/* Whether the process of this pid, as we see pids, maps the bus. A slot's pid is a number from the
 * pid namespace of its owner, and may be somebody else's here. */
static bool maps_bus(const struct shr_map *map, uint32_t pid)
{
    char line[512];
    bool found = false;
    FILE *maps = proc_open(pid, "maps");
    while (maps != NULL && !found && fgets(line, sizeof(line), maps) != NULL) {
        unsigned major, minor;
        unsigned long long ino;
        found = sscanf(line, "%*s %*s %*s %x:%x %llu", &major, &minor, &ino) == 3 &&
                makedev(major, minor) == map->dev && ino == map->ino;
    }
    if (maps != NULL)
        fclose(maps);
    return found;
}

static bool is_stopped(const struct shr_map *map, uint32_t pid)
{
    char text[512];
    FILE *stat = proc_open(pid, "stat");
    if (stat == NULL)
        return false;
    size_t len = fread(text, 1, sizeof(text) - 1, stat);
    fclose(stat);
    text[len] = '\0';
    const char *name_end = strrchr(text, ')'); /* the name may hold anything */
    bool stopped = name_end != NULL && name_end[1] == ' ' && strchr("tT", name_end[2]) != NULL;
    return stopped && maps_bus(map, pid);
}

static const char *state_of(struct shr_map *map, uint32_t slot, uint64_t used)
{
    if (shr_lock_held(map, slot) == 0)
        return "dead";
    if (is_stopped(map, shr_load32_relaxed(&map->peers[slot].pid)))
        return "stopped";
    if (slot == SHR_CONSUMER_SLOT && used > map->geo.capacity / 4 * 3)
        return "lagging";
    switch (shr_load32_relaxed(&map->peers[slot].waiting)) {
    case SHR_WAIT_SPACE:
    case SHR_WAIT_BLOCK:
        return "blocked";
    case SHR_WAIT_EVENTS:
        return "waiting";
    default:
        return "running";
    }
}

int geb_watch_participants(struct geb_watch *watch, struct geb_participant *rows, uint32_t max)
{
    int rc = check(watch, rows);
    if (rc < 0)
        return rc;
    struct shr_map *map = &watch->map;
    struct shr_account account;
    struct shr_slot_account *slots = calloc((size_t)map->geo.producer_cnt + 1, sizeof(*slots));
    if (slots == NULL || shr_account(map, &account, slots) < 0) {
        free(slots);
        return gebi_fail(-ENOMEM, "no memory for the account");
    }
    uint32_t cnt = 0;
    for (uint32_t slot = 0; slot <= map->geo.producer_cnt && cnt < max; slot++) {
        const struct shr_peer *peer = &map->peers[slot];
        if (shr_load32_acquire(&peer->state) != SHR_PEER_USED)
            continue;
        struct geb_participant *row = &rows[cnt++];
        *row = (struct geb_participant){
            .slot = slot,
            .pid = shr_load32_relaxed(&peer->pid),
            .state = state_of(map, slot, account.used),
            .accepted = slots[slot].accepted,
            .bytes = shr_load_relaxed(&peer->bytes),
            .full = shr_load_relaxed(&peer->full),
            .blocked_ns = shr_load_relaxed(&peer->blocked_ns),
            .revoked = shr_load_relaxed(&peer->revoked),
            .dropped = slots[slot].dropped,
        };
        shr_text_load(peer->name, SHR_NAME_BYTES / 8, row->name);
    }
    free(slots);
    return (int)cnt;
}

int geb_watch_topics(struct geb_watch *watch, struct geb_topic_row *rows, uint32_t max)
{
    int rc = check(watch, rows);
    if (rc < 0)
        return rc;
    uint32_t cnt = 0;
    for (uint32_t i = 0; i < watch->map.geo.topic_cnt && cnt < max; i++) {
        const struct shr_topic *topic = &watch->map.topics[i];
        if (!gebi_topic_exists(&watch->map, i))
            continue;
        struct geb_topic_row *row = &rows[cnt++];
        *row = (struct geb_topic_row){
            .topic = i,
            .delivered = shr_load_relaxed(&topic->delivered),
            .unhandled = shr_load_relaxed(&topic->unhandled),
            .dropped = shr_load_relaxed(&topic->dropped),
        };
        shr_text_load(topic->name, SHR_NAME_BYTES / 8, row->name);
        shr_text_load(topic->schema, SHR_NAME_BYTES / 8, row->schema);
    }
    return (int)cnt;
}

int geb_watch_handlers(struct geb_watch *watch, struct geb_handler_row *rows, uint32_t max)
{
    int rc = check(watch, rows);
    if (rc < 0)
        return rc;
    uint32_t cnt = 0;
    uint32_t entries = watch->map.geo.region[SHR_REGION_HANDLERS].entries;
    for (uint32_t i = 0; i < entries && cnt < max; i++) {
        const struct shr_handler_row *from = &watch->map.handlers[i];
        if (shr_load_acquire(&from->state) == 0) /* edge M2 acquire */
            continue;
        struct geb_handler_row *row = &rows[cnt++];
        *row = (struct geb_handler_row){
            .topic = (geb_topic_id)shr_load_relaxed(&from->topic),
            .calls = shr_load_relaxed(&from->calls),
            .errors = shr_load_relaxed(&from->errors),
        };
        shr_text_load(from->name, SHR_NAME_BYTES / 8, row->name);
    }
    return (int)cnt;
}

int geb_watch_errors(struct geb_watch *watch, struct geb_error_row *rows, uint32_t max)
{
    int rc = check(watch, rows);
    if (rc < 0)
        return rc;
    uint32_t cnt = 0;
    uint32_t entries = watch->map.geo.region[SHR_REGION_ERRORS].entries;
    for (uint32_t i = 0; i < entries && cnt < max; i++) {
        const struct shr_error_row *from = &watch->map.errors[i];
        uint64_t count = shr_load_acquire(&from->count); /* edge M1 acquire */
        if (count == 0)
            break;
        struct geb_error_row *row = &rows[cnt++];
        *row = (struct geb_error_row){
            .code = (int)shr_load_relaxed(&from->code),
            .count = count,
            .first_ns = shr_load_relaxed(&from->first_ns),
            .last_ns = shr_load_relaxed(&from->last_ns),
        };
        shr_text_load(from->text, 12, row->text);
    }
    return (int)cnt;
}

int geb_watch_slabs(struct geb_watch *watch, struct geb_slab_row *rows, uint32_t max)
{
    int rc = check(watch, rows);
    if (rc < 0)
        return rc;
    struct shr_slab_usage usage[SHR_NODES_MAX * (SHR_CLASS_CNT + 1)];
    uint32_t room = (uint32_t)(sizeof(usage) / sizeof(usage[0]));
    uint32_t cnt = shr_slab_usage(&watch->map, usage, max < room ? max : room);
    for (uint32_t i = 0; i < cnt; i++) {
        rows[i] = (struct geb_slab_row){
            .node = usage[i].node,
            .block_bytes = usage[i].block_bytes,
            .blocks = usage[i].blocks,
            .free = usage[i].free,
        };
    }
    return (int)cnt;
}
