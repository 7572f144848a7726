#include "tools/geb-top/top.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>

#define ROWS_AT_FIRST 64u

static const char *backing_name(const char *path)
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

int top_sample_init(struct top_sample *sample, struct geb_watch *watch)
{
    *sample = (struct top_sample){.info.size = sizeof sample->info,
                                  .handler_max = ROWS_AT_FIRST,
                                  .error_max = ROWS_AT_FIRST,
                                  .slab_max = ROWS_AT_FIRST};
    int rc = geb_watch_info(watch, &sample->info);
    if (rc < 0)
        return rc;
    const char *slash = strrchr(sample->info.path, '/');
    const char *name = slash != NULL ? slash + 1 : sample->info.path;
    snprintf(sample->name, sizeof sample->name, "%.63s", name);
    sample->backing = backing_name(sample->info.path);
    size_t peers = (size_t)sample->info.producers + 1, topics = (size_t)sample->info.topics + 1;
    sample->participants = calloc(peers, sizeof *sample->participants);
    sample->topics = calloc(topics, sizeof *sample->topics);
    sample->handlers = calloc(sample->handler_max, sizeof *sample->handlers);
    sample->errors = calloc(sample->error_max, sizeof *sample->errors);
    sample->slabs = calloc(sample->slab_max, sizeof *sample->slabs);
    if (sample->participants == NULL || sample->topics == NULL || sample->handlers == NULL ||
        sample->errors == NULL || sample->slabs == NULL)
        return -ENOMEM;
    return 0;
}

void top_sample_free(struct top_sample *sample)
{
    free(sample->participants);
    free(sample->topics);
    free(sample->handlers);
    free(sample->errors);
    free(sample->slabs);
}

/* A full table may have been cut off: doubles its room. 1: read it again; 0 or -ENOMEM. */
static int rows_grow(void **rows, size_t row_bytes, uint32_t *max, uint32_t cnt)
{
    if (cnt < *max || *max > UINT32_MAX / 2)
        return 0;
    void *more = realloc(*rows, (size_t)*max * 2 * row_bytes);
    if (more == NULL)
        return -ENOMEM;
    *rows = more;
    *max *= 2;
    return 1;
}

#define TABLE_READ(watch, sample, call, rows, cnt, max)                                \
    do {                                                                               \
        rc = call(watch, (sample)->rows, (sample)->max);                               \
        if (rc < 0)                                                                    \
            return rc;                                                                 \
        (sample)->cnt = (uint32_t)rc;                                                  \
        void *table = (sample)->rows;                                                  \
        rc = rows_grow(&table, sizeof *(sample)->rows, &(sample)->max, (sample)->cnt); \
        (sample)->rows = table;                                                        \
    } while (rc == 1)

static int tables_read(struct top_sample *sample, struct geb_watch *watch)
{
    int rc;
    TABLE_READ(watch, sample, geb_watch_handlers, handlers, handler_cnt, handler_max);
    if (rc == 0)
        TABLE_READ(watch, sample, geb_watch_errors, errors, error_cnt, error_max);
    if (rc == 0)
        TABLE_READ(watch, sample, geb_watch_slabs, slabs, slab_cnt, slab_max);
    return rc;
}

int top_sample_take(struct top_sample *sample, struct geb_watch *watch)
{
    sample->taken_ns = geb_now();
    sample->metrics = (struct geb_metrics)GEB_METRICS_INIT;
    int rc = geb_watch_info(watch, &sample->info);
    if (rc == 0)
        rc = geb_watch_metrics(watch, &sample->metrics);
    if (rc < 0)
        return rc;
    rc = geb_watch_participants(watch, sample->participants, sample->info.producers + 1);
    if (rc < 0)
        return rc;
    sample->participant_cnt = (uint32_t)rc;
    rc = geb_watch_topics(watch, sample->topics, sample->info.topics);
    if (rc < 0)
        return rc;
    sample->topic_cnt = (uint32_t)rc;
    return tables_read(sample, watch);
}

const struct geb_participant *top_consumer(const struct top_sample *sample)
{
    return sample->participant_cnt > 0 && sample->participants[0].slot == 0
               ? &sample->participants[0]
               : NULL;
}

const char *top_topic_name(const struct top_sample *sample, geb_topic_id topic)
{
    for (uint32_t i = 0; i < sample->topic_cnt; i++) {
        if (sample->topics[i].topic == topic)
            return sample->topics[i].name;
    }
    return NULL;
}

const char *top_policy_name(enum geb_policy policy)
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
