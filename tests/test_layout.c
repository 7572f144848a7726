/* Goal: every position has a cell of its own in each lap, regions do not overlap, and the default
 * bus fits where it must.
 *
 * Method: exhaustive over all small rings; sizes are asked of the code that lays a segment out.
 */
#include "shmring/ring.h"
#include "tests/support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define CELLS_MAX 4096u

static void cells_are_a_bijection_in_each_lap(void **state)
{
    static unsigned char hit[CELLS_MAX];
    const uint64_t lap[] = {0, 1, 2, UINT64_C(1) << 20, (UINT64_C(1) << 45) + 1};
    (void)state;
    for (uint32_t cnt = 2 * SHR_CAPACITY_MIN; cnt <= CELLS_MAX; cnt *= 2) {
        for (uint32_t l = 0; l < sizeof(lap) / sizeof(lap[0]); l++) {
            memset(hit, 0, sizeof(hit));
            for (uint32_t i = 0; i < cnt; i++) {
                uint32_t index = shr_cell_index(lap[l] * cnt + i, cnt);
                assert_in_range(index, 0, cnt - 1);
                assert_int_equal(hit[index]++, 0);
                /* The same in every lap: states go on from one to the next. */
                assert_int_equal(index, shr_cell_index(i, cnt));
            }
        }
    }
}

/* Region r ends where its entries end, and the next one does not begin before. */
static void check_regions(const struct shr_geometry *geo)
{
    uint64_t end = SHR_REGIONS_OFF;
    for (uint32_t r = 0; r < SHR_REGION_CNT; r++) {
        const struct shr_region *region = &geo->region[r];
        assert_true(region->off >= end);
        assert_int_equal(region->off % SHR_BLOCK_BYTES, 0);
        end = region->off + (uint64_t)region->entry_bytes * region->entries;
    }
    assert_true(end <= geo->segment_bytes);
}

static void the_default_bus_fits_into_40_mib(void **state)
{
    struct shr_config config;
    struct shr_map map;
    char path[SHR_PATH_BYTES];
    const char *why = "";
    uint64_t bytes = 0;
    (void)state;
    shr_config_default(&config);
    assert_int_equal(shr_segment_size(&config, &bytes, &why), 0);
    assert_true(bytes <= UINT64_C(40) << 20);
    assert_int_equal(config.capacity, 65536);
    assert_int_equal(config.slab_bytes, 16u << 20);
    assert_int_equal(config.max_event, 65536);
    assert_int_equal(config.producers, 128);
    assert_int_equal(config.patience_ns, 30000);
    assert_int_equal(config.policy, SHR_DROP_OLDEST);
    assert_int_equal(shr_segment_create(&map, support_path(path), &config), 0);
    assert_int_equal(map.geo.segment_bytes, bytes);
    assert_int_equal(map.geo.region[SHR_REGION_CELLS].entries, 2 * 65536);
    assert_int_equal(map.geo.region[SHR_REGION_CELLS].entry_bytes, 64);
    assert_int_equal(map.geo.region[SHR_REGION_SLABS].entries, 256);
    check_regions(&map.geo);
    shr_segment_detach(&map);
    unlink(path);
}

static void the_smallest_bus_is_whole(void **state)
{
    struct shr_config config = support_tiny_config();
    struct shr_map map;
    char path[SHR_PATH_BYTES];
    (void)state;
    assert_int_equal(shr_segment_create(&map, support_path(path), &config), 0);
    check_regions(&map.geo);
    assert_true(map.geo.segment_bytes <= 1u << 20);
    /* Positions start one lap in, and find their cells VOID one lap before. */
    assert_int_equal(shr_load_relaxed(&map.hot->head), 8);
    assert_int_equal(shr_load_relaxed(&map.hot->tail), 8);
    assert_int_equal(shr_load_relaxed(&map.hot->done), 8);
    for (uint64_t pos = 8; pos < 16; pos++) {
        uint64_t word = shr_load_relaxed(&map.cells[shr_cell_index(pos, 8)].state);
        assert_int_equal(word, shr_state(pos - 8, SHR_TAG_VOID));
        assert_true(shr_state_usable(word, pos, 8));
    }
    shr_segment_detach(&map);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cells_are_a_bijection_in_each_lap),
        cmocka_unit_test(the_default_bus_fits_into_40_mib),
        cmocka_unit_test(the_smallest_bus_is_whole),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
