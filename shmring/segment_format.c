#include "shmring/segment_format.h"

#include "shmring/numa.h"
#include "shmring/ring.h"

#include <errno.h>
#include <string.h>

#define SMALL_CAPACITY     64u /* below it a bus keeps its tables short: tests make thousands */
#define HANDS_MAX          1024u
#define HANDLER_ROWS       128u
#define HANDLER_ROWS_SMALL 8u
#define ERROR_ROWS         32u
#define REPLY_BYTES        128u
#define SHELF_BYTES        256u
#define SHELF_DATA_BYTES   1024u
#define WORKER_ROWS        16u
#define WORKER_BYTES       256u
#define TALLY_BYTES        ((uint32_t)(SHR_HIST_OFF + sizeof(struct shr_histogram)))
#define SAMPLE_SHIFT_MAX   20u
#define PATIENCE_MIN_NS    1000u
#define PATIENCE_MAX_NS    1000000000u
#define PAGE_BYTES_MAX     (1u << 30)

void shr_config_default(struct shr_config *config)
{
    *config = (struct shr_config){
        .policy = SHR_DROP_OLDEST,
        .exclusive = 0,
        .capacity = 65536,
        .max_event = 65536,
        .slab_bytes = UINT64_C(16) << 20,
        .producers = 128,
        .topics = 256,
        .patience_ns = 30000,
        .sample_shift = 7,
        .node = -1,
        .shelf_entries = 1024,
        .mode = 0600,
    };
}

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

static bool power_of_two(uint32_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

static int refuse(const char **why, const char *text, int rc)
{
    if (why != NULL)
        *why = text;
    return rc;
}

/* Memory: slabs, the largest event, the shelf. */
static int config_check_space(const struct shr_config *config, const char **why)
{
    if (config->slab_bytes != 0 &&
        (config->slab_bytes < 2 * SHR_CHUNK_BYTES ||
         config->slab_bytes > (uint64_t)SHR_CHUNKS_MAX * SHR_CHUNK_BYTES))
        return refuse(why, "slab_bytes must be 0, or 131072 to 34359738368", -EDOM);
    if (config->max_event == 0)
        return refuse(why, "max_event must be at least 1", -EDOM);
    if (config->slab_bytes == 0 && config->max_event > SHR_INLINE_BYTES)
        return refuse(why, "max_event must be at most 32 without slabs", -EDOM);
    if (config->slab_bytes != 0 &&
        config->max_event > round_up(config->slab_bytes, SHR_CHUNK_BYTES) / 2)
        return refuse(why, "max_event must be at most half of slab_bytes", -EDOM);
    if (config->shelf_entries > SHR_SHELF_MAX)
        return refuse(why, "shelf_entries must be at most 1048576", -EDOM);
    return 0;
}

static int config_check(const struct shr_config *config, const char **why)
{
    if (config->policy > SHR_RETURN_ERROR)
        return refuse(why, "policy is none of drop-oldest, block, return-error", -EINVAL);
    if (config->exclusive > 1)
        return refuse(why, "exclusive must be 0 or 1", -EINVAL);
    if (config->capacity < SHR_CAPACITY_MIN || config->capacity > SHR_CAPACITY_MAX)
        return refuse(why, "capacity must be 4 to 67108864", -EDOM);
    if (!power_of_two(config->capacity))
        return refuse(why, "capacity must be a power of two", -EINVAL);
    if (config->producers == 0 || config->producers > SHR_PRODUCERS_MAX)
        return refuse(why, "producers must be 1 to 1024", -EDOM);
    if (config->producers > config->capacity)
        return refuse(why, "producers must be at most capacity", -EDOM);
    if (config->exclusive == 1 && config->producers != 1)
        return refuse(why, "producers must be 1 on an exclusive bus", -EDOM);
    if (config->topics == 0 || config->topics > SHR_TOPICS_MAX)
        return refuse(why, "topics must be 1 to 65535", -EDOM);
    if (config->patience_ns < PATIENCE_MIN_NS || config->patience_ns > PATIENCE_MAX_NS)
        return refuse(why, "patience_ns must be 1000 to 1000000000", -EDOM);
    if (config->sample_shift > SAMPLE_SHIFT_MAX)
        return refuse(why, "sample_shift must be 0 to 20", -EDOM);
    if ((config->mode & 0600) != 0600 || (config->mode & ~(mode_t)0666) != 0)
        return refuse(why, "mode must be 0600, with or without read and write for others", -EINVAL);
    return config_check_space(config, why);
}

static void region_add(struct shr_geometry *geo, uint32_t which, uint64_t entry_bytes,
                       uint64_t entries, uint32_t align)
{
    geo->segment_bytes = round_up(geo->segment_bytes, align);
    geo->region[which] = (struct shr_region){
        .off = geo->segment_bytes,
        .entry_bytes = (uint32_t)entry_bytes,
        .entries = (uint32_t)entries,
    };
    geo->segment_bytes += entry_bytes * entries;
}

/* From capacity, producer_cnt, topic_cnt, chunk_cnt and page_bytes to all regions and the size. */
static void regions_lay_out(struct shr_geometry *geo, uint32_t shelf_entries)
{
    const uint32_t capacity = geo->capacity;
    const uint32_t block = SHR_BLOCK_BYTES;
    bool small = capacity < SMALL_CAPACITY;
    uint32_t peers = geo->producer_cnt + 1;
    geo->cell_cnt = 2 * capacity;
    geo->segment_bytes = SHR_REGIONS_OFF;
    region_add(geo, SHR_REGION_PEERS, sizeof(struct shr_peer), peers, block);
    region_add(geo, SHR_REGION_TRACK, sizeof(struct shr_track), peers, block);
    region_add(geo, SHR_REGION_HANDS, sizeof(struct shr_hand),
               capacity < HANDS_MAX ? capacity : HANDS_MAX, block);
    region_add(geo, SHR_REGION_TOPICS, sizeof(struct shr_topic), geo->topic_cnt, block);
    region_add(geo, SHR_REGION_TALLY, TALLY_BYTES, 1, block);
    region_add(geo, SHR_REGION_HANDLERS, sizeof(struct shr_handler_row),
               small ? HANDLER_ROWS_SMALL : HANDLER_ROWS, block);
    region_add(geo, SHR_REGION_ERRORS, sizeof(struct shr_error_row), ERROR_ROWS, block);
    region_add(geo, SHR_REGION_REPLIES, REPLY_BYTES, geo->producer_cnt, block);
    region_add(geo, SHR_REGION_SHELF, SHELF_BYTES, shelf_entries, block);
    region_add(geo, SHR_REGION_SHELF_DATA, SHELF_DATA_BYTES, shelf_entries, block);
    region_add(geo, SHR_REGION_WORKERS, WORKER_BYTES, small ? 0 : WORKER_ROWS, block);
    region_add(geo, SHR_REGION_OWNERS, sizeof(shr_a64), geo->chunk_cnt, block);
    region_add(geo, SHR_REGION_CHUNKS, sizeof(struct shr_chunk), geo->chunk_cnt, block);
    region_add(geo, SHR_REGION_CELLS, sizeof(struct shr_cell), geo->cell_cnt,
               small ? block : SHR_PAGE_BYTES);
    region_add(geo, SHR_REGION_SLABS, SHR_CHUNK_BYTES, geo->chunk_cnt, SHR_PAGE_BYTES);
    geo->segment_bytes = round_up(geo->segment_bytes, geo->page_bytes);
}

/* Divides the chunks evenly; node_cnt and the node numbers are given. */
static void chunks_divide(struct shr_geometry *geo)
{
    for (uint32_t i = 0; i < geo->node_cnt; i++) {
        uint64_t first = (uint64_t)geo->chunk_cnt * i / geo->node_cnt;
        uint64_t end = (uint64_t)geo->chunk_cnt * (i + 1) / geo->node_cnt;
        geo->node[i].chunk_first = (uint32_t)first;
        geo->node[i].chunk_cnt = (uint32_t)(end - first);
    }
}

int shr_geometry_plan(struct shr_geometry *geo, const struct shr_config *config,
                      uint32_t page_bytes, const char **why)
{
    int rc = config_check(config, why);
    if (rc < 0)
        return rc;
    if (config->node < -1 || (config->node >= 0 && !shr_numa_usable((uint32_t)config->node)))
        return refuse(why, "node must be -1 or a node with memory for this process", -EDOM);
    *geo = (struct shr_geometry){
        .patience_ns = config->patience_ns,
        .policy = config->policy,
        .exclusive = config->exclusive,
        .capacity = config->capacity,
        .producer_cnt = config->producers,
        .topic_cnt = config->topics,
        .max_event = config->max_event,
        .page_bytes = page_bytes,
        .chunk_cnt = (uint32_t)(round_up(config->slab_bytes, SHR_CHUNK_BYTES) / SHR_CHUNK_BYTES),
        .node_cnt = 1,
        .sample_shift = config->sample_shift,
    };
    uint32_t node[SHR_NODES_MAX] = {(uint32_t)config->node};
    if (config->node < 0)
        geo->node_cnt = shr_numa_nodes(node, SHR_NODES_MAX);
    if (geo->node_cnt > geo->chunk_cnt)
        geo->node_cnt = geo->chunk_cnt > 0 ? geo->chunk_cnt : 1;
    for (uint32_t i = 0; i < geo->node_cnt; i++)
        geo->node[i].node_id = node[i];
    chunks_divide(geo);
    regions_lay_out(geo, config->shelf_entries);
    return 0;
}

int shr_segment_size(const struct shr_config *config, uint64_t *bytes, const char **why)
{
    struct shr_geometry geo;
    int rc = shr_geometry_plan(&geo, config, SHR_PAGE_BYTES, why);
    if (rc == 0)
        *bytes = geo.segment_bytes;
    return rc;
}

/* What a creator may choose freely and no other field depends on. */
static bool nodes_valid(const struct shr_geometry *geo)
{
    if (geo->node_cnt == 0 || geo->node_cnt > SHR_NODES_MAX ||
        (geo->node_cnt > 1 && geo->node_cnt > geo->chunk_cnt))
        return false;
    for (uint32_t i = 0; i < geo->node_cnt; i++) {
        if (geo->node[i].node_id >= SHR_NODE_ID_MAX)
            return false;
        for (uint32_t j = 0; j < i; j++)
            if (geo->node[j].node_id == geo->node[i].node_id)
                return false;
    }
    return true;
}

int shr_geometry_check(const struct shr_geometry *geo, uint64_t file_bytes, uint32_t page_bytes)
{
    const struct shr_config config = {
        .policy = geo->policy,
        .exclusive = geo->exclusive,
        .capacity = geo->capacity,
        .max_event = geo->max_event,
        .slab_bytes = (uint64_t)geo->chunk_cnt * SHR_CHUNK_BYTES,
        .producers = geo->producer_cnt,
        .topics = geo->topic_cnt,
        .patience_ns = geo->patience_ns,
        .sample_shift = geo->sample_shift,
        .node = -1,
        .shelf_entries = geo->region[SHR_REGION_SHELF].entries,
        .mode = 0600,
    };
    if (config_check(&config, NULL) < 0 || !nodes_valid(geo) || geo->wakers_fence > 1)
        return -EBADMSG;
    if (geo->page_bytes != page_bytes || !power_of_two(page_bytes) || page_bytes < SHR_PAGE_BYTES ||
        page_bytes > PAGE_BYTES_MAX)
        return -EBADMSG;
    /* Everything that is computed is computed again. The struct has no padding (layout.h). */
    struct shr_geometry expected = *geo;
    memset(expected.reserved, 0, sizeof(expected.reserved));
    memset(expected.node, 0, sizeof(expected.node));
    memset(expected.region, 0, sizeof(expected.region));
    for (uint32_t i = 0; i < geo->node_cnt; i++)
        expected.node[i].node_id = geo->node[i].node_id;
    chunks_divide(&expected);
    regions_lay_out(&expected, config.shelf_entries);
    if (memcmp(&expected, geo, sizeof(expected)) != 0 || geo->segment_bytes != file_bytes)
        return -EBADMSG;
    return 0;
}

static void *region_start(const struct shr_map *map, uint32_t which)
{
    return map->base + map->geo.region[which].off;
}

void shr_map_regions(struct shr_map *map)
{
    map->hot = (struct shr_hot *)(void *)(map->base + SHR_HOT_OFF);
    map->peers = region_start(map, SHR_REGION_PEERS);
    map->track = region_start(map, SHR_REGION_TRACK);
    map->hands = region_start(map, SHR_REGION_HANDS);
    map->topics = region_start(map, SHR_REGION_TOPICS);
    map->tally = region_start(map, SHR_REGION_TALLY);
    map->latency = (struct shr_histogram *)(void *)((unsigned char *)map->tally + SHR_HIST_OFF);
    map->handlers = region_start(map, SHR_REGION_HANDLERS);
    map->errors = region_start(map, SHR_REGION_ERRORS);
    map->owners = region_start(map, SHR_REGION_OWNERS);
    map->chunks = region_start(map, SHR_REGION_CHUNKS);
    map->cells = region_start(map, SHR_REGION_CELLS);
    map->slabs = region_start(map, SHR_REGION_SLABS);
}

void shr_segment_format(struct shr_map *map)
{
    struct shr_header *header = (struct shr_header *)(void *)map->base;
    uint32_t cell_cnt = map->geo.cell_cnt;
    header->layout_version = SHR_LAYOUT_VERSION;
    header->header_bytes = sizeof(*header);
    header->geometry = map->geo;
    /* Relaxed: nobody else has the file. */
    for (uint32_t i = 0; i < cell_cnt; i++)
        shr_store_relaxed(&map->cells[shr_cell_index(i, cell_cnt)].state,
                          shr_state(i, SHR_TAG_VOID));
    shr_store_relaxed(&map->hot->head, cell_cnt);
    shr_store_relaxed(&map->hot->tail, cell_cnt);
    shr_store_relaxed(&map->hot->done, cell_cnt);
    shr_store_relaxed(&map->hot->epoch, 1);
    shr_store_release(&header->magic, SHR_MAGIC); /* edge G1 release: the bus is whole */
}
