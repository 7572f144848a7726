#include "tests/tap_support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

struct geb_watch *tap_open(const char *name, enum geb_tap_start start)
{
    struct geb_watch *watch;
    assert_int_equal(geb_watch(&watch, name), 0);
    assert_int_equal(geb_tap(watch, start), 0);
    return watch;
}

struct geb_tap_counts tap_counts(struct geb_watch *watch)
{
    struct geb_tap_counts counts = GEB_TAP_COUNTS_INIT;
    assert_int_equal(geb_tap_counts(watch, &counts), 0);
    return counts;
}

int tap_ignore(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)ctx;
    (void)event;
    (void)user;
    return 0;
}

void tap_bus(struct api *a, unsigned mode, uint32_t capacity, uint64_t slab_bytes)
{
    static const enum geb_policy policy[4] = {GEB_DROP_OLDEST, GEB_BLOCK, GEB_RETURN_ERROR,
                                              GEB_DROP_OLDEST};
    struct geb_config config = api_config(policy[mode], capacity);
    config.exclusive = mode == 3;
    config.producers = mode == 3 ? 1 : 4;
    config.slab_bytes = slab_bytes;
    if (slab_bytes != GEB_NO_SLABS)
        config.max_event = (uint32_t)(slab_bytes / 2 < 3 * CHUNK ? slab_bytes / 2 : 3 * CHUNK);
    api_open_config(a, &config);
    assert_int_equal(geb_on(a->bus, "t", tap_ignore, NULL), 0);
}

struct shr_map tap_damage(const struct api *a)
{
    struct shr_map map;
    char path[SHR_PATH_BYTES];
    assert_int_equal(shr_segment_path(a->name, false, path), 0);
    assert_int_equal(shr_segment_attach(&map, path, true), 0);
    return map;
}
