/* Goal: a bus has exactly one layout, and nothing else is accepted as one. Method: try each
 * configuration field inside and outside its bounds; damage each word of the header of a good file
 * in several ways, and the whole header at random, and attach. */
#include "shmring/segment_format.h"
#include "shmring/ring.h"
#include "tests/support.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

/* ---- bounds ---------------------------------------------------------------------------------- */

struct bound {
    const char *why; /* how the reason starts */
    int rc;
    size_t off;
    size_t bytes;
    uint64_t value;
};

#define BOUND(field, v, result, text)                                            \
    {                                                                            \
        .why = text, .rc = result, .off = offsetof(struct shr_config, field),    \
        .bytes = sizeof(((struct shr_config *)0)->field), .value = (uint64_t)(v) \
    }

static const struct bound bounds[] = {
    BOUND(policy, SHR_RETURN_ERROR, 0, ""),
    BOUND(policy, 3, -EINVAL, "policy is none of"),
    BOUND(exclusive, 2, -EINVAL, "exclusive must be 0 or 1"),
    BOUND(exclusive, 1, -EDOM, "producers must be 1 on"),
    BOUND(capacity, 0, -EDOM, "capacity must be 4"),
    BOUND(capacity, 2, -EDOM, "capacity must be 4"),
    BOUND(capacity, 128, 0, ""),
    BOUND(capacity, 1000, -EINVAL, "capacity must be a power"),
    BOUND(capacity, 65535, -EINVAL, "capacity must be a power"),
    BOUND(capacity, 1u << 26, 0, ""),
    BOUND(capacity, 1u << 27, -EDOM, "capacity must be 4"),
    BOUND(capacity, 64, -EDOM, "producers must be at most capacity"),
    BOUND(producers, 0, -EDOM, "producers must be 1 to"),
    BOUND(producers, 1024, 0, ""),
    BOUND(producers, 1025, -EDOM, "producers must be 1 to"),
    BOUND(topics, 0, -EDOM, "topics"),
    BOUND(topics, 65535, 0, ""),
    BOUND(topics, 65536, -EDOM, "topics"),
    BOUND(patience_ns, 999, -EDOM, "patience_ns"),
    BOUND(patience_ns, 1000, 0, ""),
    BOUND(patience_ns, 1000000000, 0, ""),
    BOUND(patience_ns, 1000000001, -EDOM, "patience_ns"),
    BOUND(sample_shift, 20, 0, ""),
    BOUND(sample_shift, 21, -EDOM, "sample_shift"),
    BOUND(node, -2, -EDOM, "node"),
    BOUND(node, 1023, -EDOM, "node"),
    BOUND(node, 5000, -EDOM, "node"),
    BOUND(mode, 0400, -EINVAL, "mode"),
    BOUND(mode, 0700, -EINVAL, "mode"),
    BOUND(mode, 0666, 0, ""),
    BOUND(mode, 04600, -EINVAL, "mode"),
    BOUND(slab_bytes, 65536, -EDOM, "slab_bytes"),
    BOUND(slab_bytes, 131071, -EDOM, "slab_bytes"),
    BOUND(slab_bytes, 131072, 0, ""),
    BOUND(slab_bytes, UINT64_C(1) << 35, 0, ""),
    BOUND(slab_bytes, (UINT64_C(1) << 35) + 1, -EDOM, "slab_bytes"),
    BOUND(slab_bytes, UINT64_MAX, -EDOM, "slab_bytes"),
    BOUND(slab_bytes, 0, -EDOM, "max_event must be at most 32"),
    BOUND(max_event, 0, -EDOM, "max_event must be at least"),
    BOUND(max_event, 8u << 20, 0, ""),
    BOUND(max_event, (8u << 20) + 1, -EDOM, "max_event must be at most half"),
    BOUND(shelf_entries, SHR_SHELF_MAX, 0, ""),
    BOUND(shelf_entries, SHR_SHELF_MAX + 1, -EDOM, "shelf_entries"),
};

static void test_bounds(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(bounds) / sizeof(bounds[0]); i++) {
        struct shr_config config;
        uint64_t bytes = 0;
        const char *why = "";
        shr_config_default(&config);
        memcpy((char *)&config + bounds[i].off, &bounds[i].value, bounds[i].bytes);
        int rc = shr_segment_size(&config, &bytes, &why);
        if (rc != bounds[i].rc || strncmp(why, bounds[i].why, strlen(bounds[i].why)) != 0)
            fail_msg("bound %zu: %d '%s', not %d '%s'", i, rc, why, bounds[i].rc, bounds[i].why);
        assert_int_equal(bytes != 0, rc == 0);
        if (rc == 0)
            continue;
        struct shr_map map;
        char path[SHR_PATH_BYTES];
        assert_int_equal(shr_segment_create(&map, support_path(path), &config), rc);
        assert_null(map.base);
        assert_int_equal(access(path, F_OK), -1);
        assert_int_equal(shr_segment_size(&config, &bytes, NULL), rc);
    }
}

static void test_sizes(void **state)
{
    (void)state;
    struct shr_config config = support_tiny_config();
    uint64_t bytes;
    assert_int_equal(shr_segment_size(&config, &bytes, NULL), 0);
    assert_true(bytes <= 65536);
    shr_config_default(&config);
    assert_int_equal(shr_segment_size(&config, &bytes, NULL), 0);
    assert_true(bytes <= UINT64_C(40) << 20);
    assert_int_equal(config.capacity, 65536);
    assert_int_equal(config.slab_bytes, 16 << 20);
    assert_int_equal(config.max_event, 65536);
    assert_int_equal(config.producers, 128);
    assert_int_equal(config.policy, SHR_DROP_OLDEST);
    assert_int_equal(config.patience_ns, 30000);
}

/* ---- layout ---------------------------------------------------------------------------------- */

/* The promises that do not follow from computing the layout twice with the same code. */
static void assert_layout(const struct shr_geometry *geo)
{
    uint64_t end = SHR_REGIONS_OFF;
    uint32_t chunks = 0;
    for (uint32_t i = 0; i < SHR_REGION_CNT; i++) {
        const struct shr_region *region = &geo->region[i];
        assert_true(region->off >= end);
        assert_int_equal(region->off % SHR_BLOCK_BYTES, 0);
        end = region->off + (uint64_t)region->entry_bytes * region->entries;
    }
    for (uint32_t i = SHR_REGION_CNT; i < SHR_REGIONS_MAX; i++)
        assert_int_equal(geo->region[i].entries, 0);
    assert_true(end <= geo->segment_bytes);
    assert_int_equal(geo->segment_bytes % geo->page_bytes, 0);
    assert_int_equal(geo->region[SHR_REGION_SLABS].off % SHR_PAGE_BYTES, 0);
    if (geo->capacity >= 64)
        assert_int_equal(geo->region[SHR_REGION_CELLS].off % SHR_PAGE_BYTES, 0);
    assert_int_equal(geo->region[SHR_REGION_PEERS].entries, geo->producer_cnt + 1);
    assert_int_equal(geo->region[SHR_REGION_TRACK].entries, geo->producer_cnt + 1);
    assert_int_equal(geo->region[SHR_REGION_CELLS].entries, 2 * geo->capacity);
    assert_int_equal(geo->region[SHR_REGION_TOPICS].entries, geo->topic_cnt);
    assert_int_equal(geo->region[SHR_REGION_SLABS].entries, geo->chunk_cnt);
    assert_int_equal(geo->region[SHR_REGION_CHUNKS].entries, geo->chunk_cnt);
    assert_int_equal(geo->region[SHR_REGION_OWNERS].entries, geo->chunk_cnt);
    for (uint32_t i = 0; i < geo->node_cnt; i++) {
        assert_int_equal(geo->node[i].chunk_first, chunks);
        chunks += geo->node[i].chunk_cnt;
    }
    assert_int_equal(chunks, geo->chunk_cnt);
}

static void test_random_layouts(void **state)
{
    (void)state;
    for (int i = 0; i < 20000; i++) {
        struct shr_geometry geo;
        struct shr_config config;
        shr_config_default(&config);
        config.capacity = 4u << support_random() % 25;
        config.producers = 1 + (uint32_t)support_random() % 1024;
        if (config.producers > config.capacity)
            config.producers = config.capacity;
        config.topics = 1 + (uint32_t)support_random() % 65535;
        config.slab_bytes = 131072 + support_random() % (UINT64_C(1) << 30);
        config.shelf_entries = (uint32_t)support_random() % 5000;
        uint32_t page_bytes = 4096u << 9 * (support_random() % 3);
        assert_int_equal(shr_geometry_plan(&geo, &config, page_bytes, NULL), 0);
        assert_layout(&geo);
        assert_true((uint64_t)geo.chunk_cnt * SHR_CHUNK_BYTES >= config.slab_bytes);
        assert_int_equal(shr_geometry_check(&geo, geo.segment_bytes, page_bytes), 0);
        assert_int_equal(shr_geometry_check(&geo, geo.segment_bytes + page_bytes, page_bytes),
                         -EBADMSG);
        assert_int_equal(shr_geometry_check(&geo, geo.segment_bytes, page_bytes * 2), -EBADMSG);
    }
}

/* This machine may have one node; the table of several is checked all the same. */
static void test_nodes(void **state)
{
    (void)state;
    struct shr_config config;
    struct shr_geometry geo;
    shr_config_default(&config);
    config.slab_bytes = 7 * SHR_CHUNK_BYTES;
    assert_int_equal(shr_geometry_plan(&geo, &config, 4096, NULL), 0);
    geo.node_cnt = 3;
    geo.node[0] = (struct shr_node){.node_id = 2, .chunk_first = 0, .chunk_cnt = 2};
    geo.node[1] = (struct shr_node){.node_id = 0, .chunk_first = 2, .chunk_cnt = 2};
    geo.node[2] = (struct shr_node){.node_id = 1, .chunk_first = 4, .chunk_cnt = 3};
    assert_int_equal(shr_geometry_check(&geo, geo.segment_bytes, 4096), 0);
    geo.node[2].node_id = 2; /* twice */
    assert_int_equal(shr_geometry_check(&geo, geo.segment_bytes, 4096), -EBADMSG);
    geo.node[2].node_id = 1024;
    assert_int_equal(shr_geometry_check(&geo, geo.segment_bytes, 4096), -EBADMSG);
    geo.node[2].node_id = 1;
    geo.node[1].chunk_cnt = 3; /* overlap */
    assert_int_equal(shr_geometry_check(&geo, geo.segment_bytes, 4096), -EBADMSG);
}

static void test_format(void **state)
{
    (void)state;
    struct shr_map map;
    char path[SHR_PATH_BYTES];
    struct shr_config config = support_tiny_config();
    config.capacity = 64;
    config.slab_bytes = 131072;
    assert_int_equal(shr_segment_create(&map, support_path(path), &config), 0);
    uint32_t cell_cnt = map.geo.cell_cnt;
    assert_int_equal(cell_cnt, 128);
    assert_int_equal(shr_load_relaxed(&map.hot->head), cell_cnt);
    assert_int_equal(shr_load_relaxed(&map.hot->tail), cell_cnt);
    assert_int_equal(shr_load_relaxed(&map.hot->done), cell_cnt);
    assert_int_equal(shr_load_relaxed(&map.hot->epoch), 1);
    for (uint64_t pos = cell_cnt; pos < 2 * cell_cnt; pos++) {
        struct shr_cell *cell = &map.cells[shr_cell_index(pos, cell_cnt)];
        assert_int_equal(shr_load_relaxed(&cell->state), shr_state(pos - cell_cnt, SHR_TAG_VOID));
        assert_true(shr_state_usable(shr_load_relaxed(&cell->state), pos, cell_cnt));
        shr_store_relaxed(&cell->state, 0);
    }
    shr_store_relaxed(&map.hot->head, 0);
    shr_store_relaxed(&map.hot->tail, 0);
    shr_store_relaxed(&map.hot->done, 0);
    shr_store_relaxed(&map.hot->epoch, 0);
    for (uint64_t off = sizeof(struct shr_header); off < map.bytes; off++)
        if (map.base[off] != 0)
            fail_msg("byte %llu is not zero", (unsigned long long)off);
    shr_segment_detach(&map);
}

/* ---- damage ---------------------------------------------------------------------------------- */

#define FREE_FIELD(field)                                        \
    {                                                            \
        offsetof(struct shr_header, geometry.field),             \
            offsetof(struct shr_header, geometry.field) +        \
                sizeof(((struct shr_header *)0)->geometry.field) \
    }

/* No other field depends on these, so some other value of them is a good one. */
static const size_t free_fields[][2] = {
    FREE_FIELD(id),          FREE_FIELD(created_ns),   FREE_FIELD(started_ns),
    FREE_FIELD(patience_ns), FREE_FIELD(policy),       FREE_FIELD(max_event),
    FREE_FIELD(creator_pid), FREE_FIELD(creator_uid),  FREE_FIELD(wakers_fence),
    FREE_FIELD(exclusive),   FREE_FIELD(sample_shift), FREE_FIELD(node[0].node_id),
};

static bool is_free(size_t off)
{
    for (size_t i = 0; i < sizeof(free_fields) / sizeof(free_fields[0]); i++)
        if (off >= free_fields[i][0] && off < free_fields[i][1])
            return true;
    return false;
}

static bool values_valid(const struct shr_geometry *geo)
{
    return geo->policy <= SHR_RETURN_ERROR && geo->exclusive <= 1 && geo->wakers_fence <= 1 &&
           geo->sample_shift <= 20 && geo->patience_ns >= 1000 && geo->patience_ns <= 1000000000 &&
           geo->max_event >= 1 && geo->max_event <= geo->chunk_cnt * SHR_CHUNK_BYTES / 2 &&
           (geo->exclusive == 0 || geo->producer_cnt == 1) && geo->node[0].node_id < 1024;
}

struct victim {
    int fd;
    char path[SHR_PATH_BYTES];
    unsigned char good[sizeof(struct shr_header)];
};

static void victim_make(struct victim *victim)
{
    struct shr_map map;
    struct shr_config config = support_tiny_config();
    config.slab_bytes = 131072;
    config.shelf_entries = 3;
    assert_int_equal(shr_segment_create(&map, support_path(victim->path), &config), 0);
    shr_segment_detach(&map);
    victim->fd = open(victim->path, O_RDWR | O_CLOEXEC);
    assert_true(victim->fd >= 0);
    assert_int_equal(pread(victim->fd, victim->good, sizeof(victim->good), 0),
                     sizeof(victim->good));
}

/* Attaches; a bus that was accepted is read from end to end. */
static int victim_attach(const struct victim *victim, const void *header)
{
    struct shr_map map;
    unsigned sum = 0;
    assert_int_equal(pwrite(victim->fd, header, sizeof(victim->good), 0), sizeof(victim->good));
    int rc = shr_segment_attach(&map, victim->path, true);
    if (rc == 0) {
        for (uint64_t off = 0; off < map.bytes; off += 64)
            sum += map.base[off];
        assert_true(sum > 0);
        assert_true(values_valid(&map.geo));
    } else {
        assert_null(map.base);
    }
    shr_segment_detach(&map);
    return rc;
}

static void test_each_word_damaged(void **state)
{
    (void)state;
    static const uint32_t flips[] = {1, 2, 0x100, 0x10000, 0x80000000, 0xffffffff, 0x7fffffff};
    struct victim victim;
    victim_make(&victim);
    size_t accepted = 0;
    for (size_t off = 0; off < sizeof(victim.good); off += 4) {
        for (size_t i = 0; i <= sizeof(flips) / sizeof(flips[0]); i++) {
            unsigned char bad[sizeof(victim.good)];
            uint32_t word;
            memcpy(bad, victim.good, sizeof(bad));
            memcpy(&word, bad + off, 4);
            if (i < sizeof(flips) / sizeof(flips[0]))
                word ^= flips[i];
            else if (word != 0)
                word = 0;
            else
                continue;
            memcpy(bad + off, &word, 4);
            int rc = victim_attach(&victim, bad);
            int wanted = off == offsetof(struct shr_header, layout_version) ? -EPROTO : -EBADMSG;
            if (rc != wanted && !(rc == 0 && is_free(off)))
                fail_msg("word at %zu ^ flip %zu: %d", off, i, rc);
            accepted += rc == 0;
        }
    }
    assert_true(accepted > 0);
    assert_int_equal(victim_attach(&victim, victim.good), 0);
    close(victim.fd);
}

static void test_random_damage(void **state)
{
    (void)state;
    struct victim victim;
    victim_make(&victim);
    for (int i = 0; i < 20000; i++) {
        unsigned char bad[sizeof(victim.good)];
        size_t hits = 1 + support_random() % 4;
        memcpy(bad, victim.good, sizeof(bad));
        for (size_t j = 0; j < hits; j++) {
            size_t off = 4 * (32 + support_random() % ((sizeof(bad) - 128) / 4));
            uint32_t word = (uint32_t)(support_random() >> support_random() % 32);
            memcpy(bad + off, &word, 4);
        }
        int rc = victim_attach(&victim, bad);
        assert_true(rc == 0 || rc == -EBADMSG);
    }
    close(victim.fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bounds),         cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_random_layouts), cmocka_unit_test(test_nodes),
        cmocka_unit_test(test_format),         cmocka_unit_test(test_each_word_damaged),
        cmocka_unit_test(test_random_damage),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
