/* Topics: names interned in the segment.
 *
 * A registrant decides the rows from the first one on: a READY row with its name is the answer;
 * an EMPTY one it claims (WRITING), fills and makes READY. It goes past a row only when that is
 * READY with another name, or DEAD, so the lowest READY row of a name is unique.
 *
 *     EMPTY ──CAS──▶ WRITING(slot, epoch) ──CAS──▶ READY
 *                        └─its writer died or stands still: after one patience, CAS─▶ DEAD
 *
 * Any other word is damage, and its row passed like a DEAD one.
 */
#include "lib/internal.h"

#include <errno.h>
#include <string.h>

/* An honest row is EMPTY once and WRITING once before it is decided. */
#define LOOKS_PER_ROW 4u

static uint64_t writing(const struct shr_map *map, uint32_t slot)
{
    uint64_t epoch = shr_load_relaxed(&map->peers[slot].epoch);
    return epoch << 18 | (uint64_t)slot << 2 | SHR_TOPIC_WRITING;
}

/* Waits for a row that is WRITING, for one patience at most. Its tag; SHR_TOPIC_WRITING: it has
 * become something else just now. */
static uint64_t settle_row(const struct shr_map *map, struct shr_topic *row)
{
    uint64_t start_ns = shr_now_ns();
    for (;;) {
        uint64_t state = shr_load_acquire(&row->state); /* edge T1 acquire: name and schema */
        if (state == SHR_TOPIC_EMPTY || state == SHR_TOPIC_READY)
            return state;
        if ((state & SHR_TOPIC_TAG_MASK) != SHR_TOPIC_WRITING)
            return SHR_TOPIC_DEAD;
        if (shr_now_ns() - start_ns > map->geo.patience_ns)
            return shr_cas_acq_rel(&row->state, state, SHR_TOPIC_DEAD) ? SHR_TOPIC_DEAD
                                                                       : SHR_TOPIC_WRITING;
        shr_cpu_relax();
    }
}

static bool same_name(const shr_a64 *word, const char *name)
{
    char text[SHR_NAME_BYTES];
    shr_text_load(word, SHR_NAME_BYTES / 8, text);
    return strcmp(text, name) == 0;
}

static int check_schema(const struct shr_topic *row, const char *name, const char *schema,
                        uint32_t bytes)
{
    if (schema == NULL)
        return 0;
    char text[SHR_NAME_BYTES];
    shr_text_load(row->schema, SHR_NAME_BYTES / 8, text);
    uint64_t known = shr_load_relaxed(&row->schema_bytes);
    if (strcmp(text, schema) == 0 && known == bytes)
        return 0;
    return gebi_fail(-EINVAL, "topic %s has the schema \"%s\" of %llu bytes, not \"%s\" of %u",
                     name, text, (unsigned long long)known, schema, bytes);
}

static int check_text(const char *what, const char *text, size_t least)
{
    if (text == NULL)
        return gebi_fail(-EINVAL, "%s is NULL", what);
    size_t len = strlen(text);
    if (len < least || len >= SHR_NAME_BYTES)
        return gebi_fail(-EINVAL, "%s has %zu bytes: %zu to %u are allowed", what, len, least,
                         SHR_NAME_BYTES - 1);
    return 0;
}

/* Makes an EMPTY row ours. False: somebody else claimed it, or took it from us since we were
 * slow. */
static bool write_row(struct shr_map *map, struct shr_topic *row, uint32_t slot, const char *name,
                      const char *schema, uint32_t bytes)
{
    uint64_t mine = writing(map, slot);
    if (!shr_cas_acq_rel(&row->state, SHR_TOPIC_EMPTY, mine))
        return false;
    shr_text_store(row->name, SHR_NAME_BYTES / 8, name);
    shr_text_store(row->schema, SHR_NAME_BYTES / 8, schema != NULL ? schema : "");
    shr_store_relaxed(&row->schema_bytes, schema != NULL ? bytes : 0);
    /* edge T1 release: name and schema. */
    return shr_cas_acq_rel(&row->state, mine, SHR_TOPIC_READY);
}

int gebi_topic_intern(struct shr_map *map, uint32_t slot, const char *name, const char *schema,
                      uint32_t bytes, geb_topic_id *topic)
{
    int rc = check_text("the topic's name", name, 1);
    if (rc == 0 && schema != NULL)
        rc = check_text("the schema's name", schema, 1);
    if (rc < 0)
        return rc;
    uint32_t looks = 0; /* at row i */
    for (uint32_t i = 0; i < map->geo.topic_cnt;) {
        struct shr_topic *row = &map->topics[i];
        uint64_t tag = settle_row(map, row);
        bool ours = tag == SHR_TOPIC_EMPTY && write_row(map, row, slot, name, schema, bytes);
        if (ours || (tag == SHR_TOPIC_READY && same_name(row->name, name))) {
            rc = ours ? 0 : check_schema(row, name, schema, bytes);
            if (rc == 0)
                *topic = i;
            return rc;
        }
        if (tag == SHR_TOPIC_READY || tag == SHR_TOPIC_DEAD) {
            i++;
            looks = 0;
        } else if (++looks == LOOKS_PER_ROW) {
            return gebi_fail(-EBADMSG, "row %u of the topics of %s is damaged", i, map->path);
        }
    }
    return gebi_fail(-EUSERS, "all %u topics of the bus are in use", map->geo.topic_cnt);
}

bool gebi_topic_exists(const struct shr_map *map, geb_topic_id topic)
{
    return topic < map->geo.topic_cnt &&
           shr_load_acquire(&map->topics[topic].state) == SHR_TOPIC_READY; /* edge T1 acquire */
}
