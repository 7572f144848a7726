/* Goal: joining, leaving, publishing, batches and loans keep what geb.h promises: results, what
 * arrives, ownership, limits; and a call that fails leaves nothing behind.
 * Method: single-threaded on small buses; after each failure the account and the slabs are what
 * they were. A joiner that tries again pauses before: nanosleep is this program's, so that a pause
 * is the moment in which the slot comes free. Full buses are in test_overrun.c and
 * behaviours_block.c. */
#include "tests/api_support.h"

#include "lib/internal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#define SLABS UINT64_C(262144)

static struct api_log record;
static unsigned char bytes[131073];

static struct shr_lock sweepers; /* on a slot; dropped in the pause of this number */
static unsigned pauses, pauses_wanted;

int nanosleep(const struct timespec *time, struct timespec *left)
{
    (void)time;
    (void)left;
    if (++pauses == pauses_wanted)
        shr_lock_drop(&sweepers);
    return 0;
}

static void open_with_handler(struct api *a, enum geb_policy policy)
{
    record = (struct api_log){0};
    api_open_slabs(a, policy, 8, SLABS);
    assert_int_equal(geb_on(a->bus, "t", api_record, &record), 0);
}

/* Blocks in use, in all classes. */
static uint64_t blocks_used(struct api *a)
{
    struct geb_slab_row rows[32];
    struct geb_watch *watch;
    uint64_t used = 0;
    assert_int_equal(geb_watch(&watch, a->name), 0);
    int cnt = geb_watch_slabs(watch, rows, 32);
    for (int i = 0; i < cnt; i++)
        used += rows[i].block_bytes != 0 ? rows[i].blocks - rows[i].free : 0;
    geb_unwatch(watch);
    return used;
}

/* Nothing was accepted, taken or kept since `before`. */
static void expect_unchanged(struct api *a, const struct geb_metrics *before, uint64_t used)
{
    struct geb_metrics m = api_account(a);
    assert_int_equal(m.accepted, before->accepted);
    assert_int_equal(m.pending, before->pending);
    assert_int_equal(m.used, before->used);
    assert_int_equal(m.dropped, before->dropped);
    assert_int_equal(blocks_used(a), used);
}

/* ---- join and leave -------------------------------------------------------------------------- */

static void join_refuses(void **state)
{
    struct geb_producer *producer = (struct geb_producer *)1;
    char name[64];
    (void)state;
    api_refused(geb_join(NULL, "x", "x"), -EINVAL, "NULL");
    api_refused(geb_join(&producer, NULL, "x"), -EINVAL, "name");
    assert_null(producer);
    api_refused(geb_join(&producer, support_name(name), "x"), -ENOENT, name);
    assert_int_equal(support_entries(support_dir()), 0);
}

static void slots_run_out_and_come_back(void **state)
{
    struct geb_producer *more[4];
    struct geb_producer *refused = (struct geb_producer *)1;
    struct api a = {0};
    (void)state;
    api_open(&a, GEB_BLOCK, 4); /* 4 producers */
    for (int i = 1; i < 4; i++)
        assert_int_equal(geb_join(&more[i], a.name, "more"), 0);
    for (int i = 0; i < 10; i++)
        api_refused(geb_join(&refused, a.name, "x"), -EUSERS, "4");
    assert_null(refused);
    assert_int_equal(geb_leave(more[2]), 0);
    assert_int_equal(geb_join(&more[2], a.name, "again"), 0);
    assert_int_equal(geb_join(&refused, a.name, "x"), -EUSERS);
    for (int i = 1; i < 4; i++)
        assert_int_equal(geb_leave(more[i]), 0);
    api_publish(&a, 0, 1);
    api_end(&a);
}

/* The only slot is a dead producer's. Somebody settles it, and so holds its lock, while a joiner
 * comes: until the given pause. Returns how many pauses the joiner made. */
static unsigned join_beside_a_sweep(bool exclusive, unsigned until, int expected)
{
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct shr_map map = {0};
    struct api a = {0};
    config.exclusive = exclusive;
    config.producers = exclusive ? 0 : 1;
    api_open_config(&a, &config);
    char path[SHR_PATH_BYTES];
    assert_int_equal(shr_segment_path(a.name, false, path), 0);
    assert_int_equal(shr_segment_attach(&map, path, true), 0);
    shr_lock_drop(&a.producer->lock); /* as by a death */
    assert_int_equal(shr_lock_take_dead(&map, 1, false, &sweepers), 0);
    struct geb_producer *second = NULL;
    pauses = 0;
    pauses_wanted = until;
    int rc = geb_join(&second, a.name, "second");
    unsigned made = pauses;
    assert_int_equal(rc, expected);
    assert_true((rc == 0) == (second != NULL));
    shr_lock_drop(&sweepers);
    assert_int_equal(geb_leave(second), 0);
    shr_segment_detach(&map);
    api_end(&a);
    return made;
}

static void a_joiner_waits_out_a_sweep(void **state)
{
    (void)state;
    for (unsigned until = 1; until <= 3; until++) {
        assert_int_equal(join_beside_a_sweep(false, until, 0), until);
        assert_int_equal(join_beside_a_sweep(true, until, 0), until);
    }
    /* But not for ever. */
    assert_int_equal(join_beside_a_sweep(false, 0, -EUSERS), 3);
    assert_int_equal(join_beside_a_sweep(true, 0, -EBUSY), 3);
}

static int join_now(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    const struct geb_bus *bus = geb_context_bus(ctx);
    const struct shr_hand *mine = &bus->map.hands[0];
    struct shr_hand *of_dead = &bus->map.peers[2].hand;
    struct geb_producer *refused = NULL;
    (void)user;
    if (event->number != 1)
        return 0;
    assert_int_equal(event->position, shr_load_relaxed(&mine->pos));
    shr_store_relaxed(&of_dead->ref, shr_load_relaxed(&mine->ref));
    shr_store_relaxed(&of_dead->pos, event->position);
    pauses = 0;
    api_refused(geb_join(&refused, bus->map.path, "early"), -EUSERS, "2");
    assert_null(refused);
    assert_int_equal(pauses, 3);
    return 0;
}

/* The last free slot is of a producer that died as it dropped the event that is in hand now: until
 * the consumer is done with that nobody gets it, and behind the next sweep who comes first. */
static void a_slot_waits_for_the_event_in_hand(void **state)
{
    struct geb_config config = api_config(GEB_DROP_OLDEST, 4);
    struct geb_producer *dead;
    struct geb_producer *next;
    struct api a = {0};
    (void)state;
    config.producers = 2;
    config.slab_bytes = SLABS;
    config.max_event = 0;
    api_open_config(&a, &config);
    assert_int_equal(geb_on(a.bus, "t", join_now, NULL), 0);
    assert_int_equal(geb_join(&dead, a.name, "dead"), 0);
    shr_lock_drop(&dead->lock);
    assert_int_equal(geb_publish(a.producer, a.topic, bytes, 1000), 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    a.bus->swept_ns = 0; /* long ago */
    gebi_housekeep(a.bus, shr_now_ns());
    pauses = 0;
    assert_int_equal(geb_join(&next, a.name, "next"), 0);
    assert_int_equal(pauses, 0);
    assert_int_equal(next->slot, 2);
    assert_int_equal(geb_leave(next), 0);
    assert_int_equal(geb_leave(dead), 0);
    api_end(&a);
}

static void exclusive_bus_has_one_producer(void **state)
{
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct geb_producer *second = (struct geb_producer *)1;
    struct api a = {0};
    (void)state;
    config.exclusive = true;
    config.producers = 0;
    api_open_config(&a, &config);
    api_refused(geb_join(&second, a.name, "x"), -EBUSY, "exclusive");
    assert_null(second);
    api_publish(&a, 1, 2);
    assert_int_equal(geb_leave(a.producer), 0);
    assert_int_equal(geb_join(&a.producer, a.name, "next"), 0);
    api_publish(&a, 3, 2);
    record = (struct api_log){0};
    assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 4);
    for (uint32_t i = 0; i < 4; i++) { /* the slot's numbers go on */
        assert_int_equal(api_number(&record.row[i]), i + 1);
        assert_int_equal(record.row[i].event.number, i + 1);
    }
    api_end(&a);
}

static void who_is_text_for_people(void **state)
{
    struct geb_participant rows[8];
    struct geb_producer *other[2];
    struct geb_watch *watch;
    struct api a = {0};
    char who[100];
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    memset(who, 'w', sizeof(who));
    who[47] = '\0';
    assert_int_equal(geb_join(&other[0], a.name, who), 0);
    assert_int_equal(geb_join(&other[1], a.name, NULL), 0);
    assert_int_equal(geb_watch(&watch, a.name), 0);
    assert_int_equal(geb_watch_participants(watch, rows, 8), 4);
    assert_string_equal(rows[2].name, who);
    assert_string_equal(rows[3].name, "");
    assert_int_equal(rows[2].pid, getpid());
    assert_int_equal(geb_unwatch(watch), 0);
    assert_int_equal(geb_leave(other[0]), 0);
    assert_int_equal(geb_leave(other[1]), 0);
    api_end(&a);
}

static void events_stay_when_the_producer_leaves(void **state)
{
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_BLOCK);
    api_publish(&a, 1, 1);
    memset(bytes, 7, 5000);
    assert_int_equal(geb_publish(a.producer, a.topic, bytes, 5000), 0);
    assert_int_equal(geb_leave(a.producer), 0);
    a.producer = NULL;
    assert_int_equal(geb_dispatch(a.bus, 0), 2);
    assert_int_equal(record.row[1].event.len, 5000);
    assert_int_equal(record.row[1].data[63], 7);
    api_end(&a);
}

/* ---- publish --------------------------------------------------------------------------------- */

static uint32_t seen_len;

static int check_pattern(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    const unsigned char *data = event->data;
    (void)ctx;
    (void)user;
    assert_int_equal(event->len, seen_len);
    for (size_t i = 0; i < event->len; i++)
        assert_int_equal(data[i], (unsigned char)(i * 7 + seen_len));
    return 0;
}

static void every_length_arrives_whole(void **state)
{
    static const uint32_t large[] = {127,   128,   129,   255,   256,    4095,   4096,  4097,
                                     32768, 65535, 65536, 65537, 100000, 131071, 131072};
    struct geb_config config = api_config(GEB_RETURN_ERROR, 8);
    struct geb_options options = GEB_OPTIONS_INIT;
    struct api a = {0};
    (void)state;
    config.slab_bytes = SLABS;
    config.max_event = 131072;
    api_open_config(&a, &config);
    assert_int_equal(geb_on(a.bus, "t", check_pattern, NULL), 0);
    for (uint32_t n = 0; n < 80 + sizeof(large) / sizeof(large[0]); n++) {
        seen_len = n < 80 ? n : large[n - 80];
        for (uint32_t i = 0; i < seen_len; i++)
            bytes[i] = (unsigned char)(i * 7 + seen_len);
        for (int with = 0; with < 4; with++) { /* id and deadline take room from the cell */
            options.id = (with & 1) != 0 ? 5 : 0;
            options.deadline_ns = (with & 2) != 0 ? GEB_FOREVER : 0;
            assert_int_equal(geb_publish_with(a.producer, a.topic, bytes, seen_len, &options), 0);
            assert_int_equal(geb_dispatch(a.bus, 0), 1);
        }
        assert_int_equal(geb_publish(a.producer, a.topic, bytes, seen_len), 0);
        memset(bytes, 0xee, seen_len); /* it was copied */
        assert_int_equal(geb_dispatch(a.bus, 0), 1);
    }
    assert_int_equal(api_account(&a).unhandled, 0);
    api_end(&a);
}

static void wrong_events_are_refused(void **state)
{
    struct geb_options options = GEB_OPTIONS_INIT;
    struct api a = {0};
    char max[16];
    (void)state;
    open_with_handler(&a, GEB_BLOCK);
    uint32_t most = a.producer->max_event;
    snprintf(max, sizeof(max), "%u", most);
    struct geb_metrics before = api_account(&a);
    uint64_t used = blocks_used(&a);
    api_refused(geb_publish(a.producer, a.topic, bytes, most + 1), -EMSGSIZE, max);
    api_refused(geb_publish(a.producer, a.topic, bytes, SIZE_MAX), -EMSGSIZE, max);
    api_refused(geb_publish_with(a.producer, a.topic, bytes, most + 1, &options), -EMSGSIZE, max);
    api_refused(geb_publish(a.producer, a.topic, NULL, 1), -EINVAL, "data");
    api_refused(geb_publish_with(a.producer, a.topic, NULL, 100, &options), -EINVAL, "data");
    api_refused(geb_publish(a.producer, a.topic + 1, "x", 1), -ENXIO, "topic");
    api_refused(geb_publish(a.producer, UINT32_MAX, "x", 1), -ENXIO, "topic");
    api_refused(geb_publish_with(a.producer, 4, "x", 1, &options), -ENXIO, "topic");
    options.size--;
    api_refused(geb_publish_with(a.producer, a.topic, "x", 1, &options), -EINVAL,
                "GEB_OPTIONS_INIT");
    options.size = 0;
    api_refused(geb_publish_with(a.producer, a.topic, "x", 1, &options), -EINVAL,
                "GEB_OPTIONS_INIT");
    expect_unchanged(&a, &before, used);
    assert_int_equal(geb_publish(a.producer, a.topic, bytes, most), 0);
    assert_int_equal(geb_publish(a.producer, a.topic, NULL, 0), 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 2);
    assert_int_equal(record.row[1].event.len, 0);
    api_end(&a);
}

static void small_max_event_is_kept(void **state)
{
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct geb_options options = GEB_OPTIONS_INIT;
    struct api a = {0};
    (void)state;
    config.max_event = 10; /* less than fits into a cell */
    api_open_config(&a, &config);
    assert_int_equal(geb_publish(a.producer, a.topic, bytes, 10), 0);
    api_refused(geb_publish(a.producer, a.topic, bytes, 11), -EMSGSIZE, "10");
    api_refused(geb_publish(a.producer, a.topic, bytes, 32), -EMSGSIZE, "10");
    api_refused(geb_publish_with(a.producer, a.topic, bytes, 11, &options), -EMSGSIZE, "10");
    assert_int_equal(api_account(&a).accepted, 1);
    api_end(&a);
}

/* Without slabs a cell's 32 bytes are all there is, and id and deadline take eight each. */
static void options_take_room_without_slabs(void **state)
{
    struct geb_options options = GEB_OPTIONS_INIT;
    struct api a = {0};
    (void)state;
    api_open(&a, GEB_RETURN_ERROR, 4);
    assert_int_equal(geb_publish_with(a.producer, a.topic, bytes, 32, &options), 0);
    options.id = 1;
    assert_int_equal(geb_publish_with(a.producer, a.topic, bytes, 24, &options), 0);
    int rc = geb_publish_with(a.producer, a.topic, bytes, 25, &options);
    assert_int_equal(rc, -EMSGSIZE); /* waiting for a block would never help */
    options.deadline_ns = GEB_FOREVER;
    assert_int_equal(geb_publish_with(a.producer, a.topic, bytes, 16, &options), 0);
    assert_int_equal(geb_publish_with(a.producer, a.topic, bytes, 17, &options), -EMSGSIZE);
    assert_int_equal(api_account(&a).accepted, 3);
    api_end(&a);
}

static void options_reach_the_handler(void **state)
{
    struct geb_options options = GEB_OPTIONS_INIT;
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_BLOCK);
    options.key = UINT64_MAX - 1;
    options.id = UINT64_C(0x123456789abcdef0);
    options.deadline_ns = geb_now() + UINT64_C(3600000000000);
    assert_int_equal(geb_publish_with(a.producer, a.topic, "12345", 5, &options), 0);
    assert_int_equal(geb_publish_with(a.producer, a.topic, bytes, 500, &options), 0);
    assert_int_equal(geb_publish_with(a.producer, a.topic, "12345", 5, NULL), 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 3);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(record.row[i].event.key, options.key);
        assert_int_equal(record.row[i].event.id, options.id);
        assert_int_equal(record.row[i].event.deadline_ns, options.deadline_ns);
    }
    assert_int_equal(record.row[0].event.len, 5);
    assert_memory_equal(record.row[0].data, "12345", 5);
    assert_int_equal(record.row[2].event.key, 0);
    assert_int_equal(record.row[2].event.id, 0);
    assert_int_equal(record.row[2].event.deadline_ns, 0);
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(record.row[i].event.number, i + 1);
        assert_int_equal(record.row[i].event.topic, a.topic);
        assert_int_equal(record.row[i].event.producer, 1);
        assert_int_equal(record.row[i].event.position, record.row[0].event.position + i);
        assert_int_equal(record.row[i].event.attempt, 1);
        assert_false(record.row[i].event.redelivered);
    }
    api_end(&a);
}

/* The cell has 32 bits of the event number; the handler gets 64. */
static void numbers_pass_32_bits(void **state)
{
    const uint64_t start = (UINT64_C(5) << 32) - 3;
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_RETURN_ERROR);
    assert_int_equal(geb_leave(a.producer), 0);
    shr_store_relaxed(&a.bus->map.peers[1].published, start);
    shr_store_relaxed(&a.bus->map.track[1].seen, start);
    assert_int_equal(geb_join(&a.producer, a.name, "old hand"), 0);
    for (uint64_t lap = 0; lap < 2; lap++) {
        record.cnt = 0;
        api_publish(&a, 0, 8);
        assert_int_equal(geb_dispatch(a.bus, 0), 8);
        for (uint32_t i = 0; i < 8; i++)
            assert_int_equal(record.row[i].event.number, start + 1 + lap * 8 + i);
    }
    struct geb_metrics m = GEB_METRICS_INIT;
    assert_int_equal(geb_metrics(a.bus, &m), 0);
    assert_int_equal(m.accepted, start + 16);
    assert_int_equal(m.delivered, 16);
    assert_int_equal(m.dropped + m.pending, 0); /* nobody took the wrap for a gap */
    api_end(&a);
}

/* Events that are dropped while the low half of the number wraps are still counted right. */
static void drops_pass_32_bits(void **state)
{
    const uint64_t start = (UINT64_C(5) << 32) - 10; /* what stays lies on both sides */
    struct geb_metrics m = GEB_METRICS_INIT;
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_DROP_OLDEST);
    assert_int_equal(geb_leave(a.producer), 0);
    shr_store_relaxed(&a.bus->map.peers[1].published, start);
    shr_store_relaxed(&a.bus->map.track[1].seen, start);
    assert_int_equal(geb_join(&a.producer, a.name, "old hand"), 0);
    api_publish(&a, 0, 14); /* 8 stay */
    assert_int_equal(geb_metrics(a.bus, &m), 0);
    assert_int_equal(m.dropped, 6);
    assert_int_equal(geb_dispatch(a.bus, 0), 8);
    for (uint32_t i = 0; i < 8; i++)
        assert_int_equal(record.row[i].event.number, start + 7 + i);
    assert_int_equal(geb_metrics(a.bus, &m), 0);
    assert_int_equal(m.dropped, 6);
    assert_int_equal(m.accepted, start + 14);
    api_end(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(join_refuses),
        cmocka_unit_test(slots_run_out_and_come_back),
        cmocka_unit_test(a_joiner_waits_out_a_sweep),
        cmocka_unit_test(a_slot_waits_for_the_event_in_hand),
        cmocka_unit_test(exclusive_bus_has_one_producer),
        cmocka_unit_test(who_is_text_for_people),
        cmocka_unit_test(events_stay_when_the_producer_leaves),
        cmocka_unit_test(every_length_arrives_whole),
        cmocka_unit_test(wrong_events_are_refused),
        cmocka_unit_test(small_max_event_is_kept),
        cmocka_unit_test(options_take_room_without_slabs),
        cmocka_unit_test(options_reach_the_handler),
        cmocka_unit_test(numbers_pass_32_bits),
        cmocka_unit_test(drops_pass_32_bits),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
