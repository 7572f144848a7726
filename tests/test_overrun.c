/* Goal: each policy is exact at capacity and at one more, in shared and exclusive mode, for
 * positions and for slab blocks; and the account says what was dropped, and whose.
 * Method: single-threaded on the smallest buses, where every number is known. Waiting in earnest is
 * in behaviours_block.c. */
#include "tests/api_support.h"

#include "lib/internal.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#define CAPACITY    4u
#define TWO_CHUNKS  131072u
#define CHUNK_BYTES 65536u

static struct api_log record;

static void open_policy(struct api *a, enum geb_policy policy, bool exclusive)
{
    struct geb_config config = api_config(policy, CAPACITY);
    config.exclusive = exclusive;
    config.producers = exclusive ? 0 : 4;
    api_open_config(a, &config);
    record = (struct api_log){0};
    assert_int_equal(geb_on(a->bus, "t", api_record, &record), 0);
}

/* The events handed out are exactly the numbers first … first + cnt - 1, in order. */
static void expect_events(struct api *a, uint64_t first, uint32_t cnt)
{
    record.cnt = 0;
    assert_int_equal(geb_dispatch(a->bus, 0), cnt);
    assert_int_equal(record.cnt, cnt);
    for (uint32_t i = 0; i < cnt; i++) {
        assert_int_equal(api_number(&record.row[i]), first + i);
        assert_int_equal(record.row[i].event.number, first + i);
    }
}

static void check_return_error(bool exclusive)
{
    struct api a = {0};
    uint64_t value = 99;
    open_policy(&a, GEB_RETURN_ERROR, exclusive);
    for (uint64_t lap = 0; lap < 5; lap++) { /* also where the cells are used again */
        api_publish(&a, 1 + lap * CAPACITY, CAPACITY);
        struct geb_metrics before = api_account(&a);
        assert_int_equal(before.used, CAPACITY);
        for (int i = 0; i < 3; i++)
            api_refused(geb_publish(a.producer, a.topic, &value, sizeof(value)), -EAGAIN, "full");
        struct geb_metrics after = api_account(&a);
        assert_int_equal(after.accepted, before.accepted);
        assert_int_equal(after.pending, CAPACITY);
        assert_int_equal(after.dropped, 0);
        expect_events(&a, 1 + lap * CAPACITY, CAPACITY);
    }
    api_end(&a);
}

static void return_error_is_exact(void **state)
{
    (void)state;
    check_return_error(false);
    check_return_error(true);
}

static void room_comes_one_by_one(void **state)
{
    struct api a = {0};
    uint64_t value = 99;
    (void)state;
    open_policy(&a, GEB_RETURN_ERROR, false);
    api_publish(&a, 1, CAPACITY);
    for (uint64_t i = 0; i < 40; i++) {
        assert_int_equal(geb_dispatch(a.bus, 1), 1);
        api_publish(&a, 1 + CAPACITY + i, 1);
        assert_int_equal(geb_publish(a.producer, a.topic, &value, 8), -EAGAIN);
    }
    expect_events(&a, 41, CAPACITY);
    api_end(&a);
}

static void check_drop_oldest(bool exclusive)
{
    struct api a = {0};
    open_policy(&a, GEB_DROP_OLDEST, exclusive);
    api_publish(&a, 1, CAPACITY);
    assert_int_equal(api_account(&a).dropped, 0);
    for (uint64_t i = 1; i <= 20; i++) { /* one goes for each that comes, never two */
        api_publish(&a, CAPACITY + i, 1);
        struct geb_metrics m = api_account(&a);
        assert_int_equal(m.dropped, i);
        assert_int_equal(m.pending, CAPACITY);
        assert_int_equal(m.accepted, CAPACITY + i);
        assert_int_equal(m.used, CAPACITY);
    }
    expect_events(&a, 21, CAPACITY);
    struct geb_metrics m = api_account(&a);
    assert_int_equal(m.delivered, CAPACITY);
    assert_int_equal(m.dropped, 20);
    api_publish(&a, 25, CAPACITY); /* there is room again: none is dropped */
    assert_int_equal(api_account(&a).dropped, 20);
    expect_events(&a, 25, CAPACITY);
    api_end(&a);
}

static void drop_oldest_is_exact(void **state)
{
    (void)state;
    check_drop_oldest(false);
    check_drop_oldest(true);
}

static void check_block(bool exclusive)
{
    struct api a = {0};
    struct geb_options now = GEB_OPTIONS_INIT;
    uint64_t value = 99;
    open_policy(&a, GEB_BLOCK, exclusive);
    now.wait_until_ns = 0;
    for (uint64_t lap = 0; lap < 5; lap++) {
        api_publish(&a, 1 + lap * CAPACITY, CAPACITY);
        api_refused(geb_publish_with(a.producer, a.topic, &value, 8, &now), -ETIMEDOUT, "full");
        struct geb_metrics m = api_account(&a);
        assert_int_equal(m.pending, CAPACITY);
        assert_int_equal(m.dropped, 0);
        expect_events(&a, 1 + lap * CAPACITY, CAPACITY);
    }
    api_end(&a);
}

static void block_is_exact(void **state)
{
    (void)state;
    check_block(false);
    check_block(true);
}

static void drops_are_counted_for_topic_and_producer(void **state)
{
    struct geb_topic_row topics[4];
    struct geb_participant rows[8];
    struct geb_producer *second;
    struct geb_watch *watch;
    geb_topic_id other;
    struct api a = {0};
    (void)state;
    open_policy(&a, GEB_DROP_OLDEST, false);
    assert_int_equal(geb_join(&second, a.name, "second"), 0);
    assert_int_equal(geb_topic(second, "other", &other), 0);
    assert_int_equal(geb_publish(second, other, "a", 1), 0);
    assert_int_equal(geb_publish(second, other, "b", 1), 0);
    api_publish(&a, 1, 5); /* drops both of the second one's, and one of its own */
    assert_int_equal(geb_watch(&watch, a.name), 0);
    assert_int_equal(geb_watch_topics(watch, topics, 4), 2);
    assert_string_equal(topics[0].name, "t");
    assert_int_equal(topics[0].dropped, 1);
    assert_string_equal(topics[1].name, "other");
    assert_int_equal(topics[1].dropped, 2);
    assert_int_equal(geb_watch_participants(watch, rows, 8), 3);
    assert_string_equal(rows[1].name, "first");
    assert_int_equal(rows[1].dropped, 1);
    assert_int_equal(rows[1].accepted, 5);
    assert_int_equal(rows[2].dropped, 2);
    assert_int_equal(rows[2].accepted, 2);
    assert_int_equal(rows[1].full, 3);
    assert_int_equal(rows[2].full, 0);
    assert_int_equal(geb_unwatch(watch), 0);
    assert_int_equal(geb_leave(second), 0);
    assert_int_equal(api_account(&a).dropped, 3);
    api_end(&a);
}

/* ---- room that done does not show yet -------------------------------------------------------- */

#define LAGGING 64u /* done follows in steps of a quarter of it */

/* Publishes to its own bus, and expects room for each event that is finished. */
static int publish_again(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct api *a = user;
    struct geb_options forever = GEB_OPTIONS_INIT;
    uint64_t value = 99;
    int expected = event->number == 1 ? a->config.policy == GEB_BLOCK ? -EDEADLK : -EAGAIN : 0;
    (void)ctx;
    int rc = geb_publish_with(a->producer, a->topic, &value, sizeof(value), &forever);
    record.cnt += rc == expected && record.cnt < LAGGING;
    return 0;
}

static void check_own_bus(enum geb_policy policy, bool exclusive)
{
    struct geb_config config = api_config(policy, LAGGING);
    struct api a = {0};
    config.exclusive = exclusive;
    config.producers = exclusive ? 0 : 4;
    record = (struct api_log){0};
    api_open_config(&a, &config);
    assert_int_equal(geb_on(a.bus, "t", publish_again, &a), 0);
    api_publish(&a, 1, LAGGING);
    assert_int_equal(geb_dispatch(a.bus, LAGGING), LAGGING);
    assert_int_equal(record.cnt, LAGGING);
    assert_int_equal(api_account(&a).accepted, 2 * LAGGING - 1);
    api_end(&a);
}

static void handlers_find_the_room_of_those_before_them(void **state)
{
    (void)state;
    check_own_bus(GEB_RETURN_ERROR, false);
    check_own_bus(GEB_RETURN_ERROR, true);
    check_own_bus(GEB_BLOCK, false);
    check_own_bus(GEB_BLOCK, true);
}

struct blocked {
    const char *name;
    shr_a32 published;
};

static void *publish_blocked(void *user)
{
    struct blocked *b = user;
    struct geb_producer *producer;
    geb_topic_id topic;
    uint64_t value = 99;
    int rc = geb_join(&producer, b->name, "blocked");
    if (rc == 0)
        rc = geb_topic(producer, "t", &topic);
    for (uint32_t i = 1; rc == 0 && i <= 8; i++) {
        rc = geb_publish(producer, topic, &value, sizeof(value));
        if (rc == 0)
            shr_store32_release(&b->published, i);
    }
    geb_leave(producer);
    return NULL;
}

/* Each event but the first one runs until the producer has got the room of the one before. */
static int await_published(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct blocked *b = user;
    (void)ctx;
    while (event->number <= 9 && shr_load32_acquire(&b->published) < event->number - 1)
        sched_yield();
    return 0;
}

static void slow_handlers_keep_no_producer_waiting(void **state)
{
    struct geb_config config = api_config(GEB_BLOCK, LAGGING);
    struct blocked blocked = {0};
    struct api a = {0};
    pthread_t thread;
    (void)state;
    api_watchdog(60);
    api_open_config(&a, &config);
    blocked.name = a.name;
    assert_int_equal(geb_on(a.bus, "t", await_published, &blocked), 0);
    api_publish(&a, 1, LAGGING);
    assert_int_equal(pthread_create(&thread, NULL, publish_blocked, &blocked), 0);
    api_await_state(&a, 2, "blocked");
    assert_int_equal(geb_dispatch(a.bus, 10), 10);
    pthread_join(thread, NULL);
    assert_int_equal(shr_load32_relaxed(&blocked.published), 8);
    api_end(&a);
    api_watchdog(0);
}

/* ---- a consumer that is gone ----------------------------------------------------------------- */

static int consume_and_die(void *arg)
{
    struct geb_bus *bus;
    SUPPORT_CHECK(geb_open(&bus, arg) == 0);
    _exit(0); /* without geb_close: a death */
}

/* The bus is full, and its consumer died. Returns how long the producer slept for -EPIPE. */
static uint64_t slept_until_gone(struct api *a)
{
    shr_a64 *blocked_ns = &a->producer->writer.peer->blocked_ns;
    uint64_t before_ns = shr_load_relaxed(blocked_ns);
    uint64_t value = 99;
    api_refused(geb_publish(a->producer, a->topic, &value, sizeof(value)), -EPIPE, "no consumer");
    return shr_load_relaxed(blocked_ns) - before_ns;
}

static void a_dead_consumer_is_waited_for_once(void **state)
{
    struct api a = {0};
    (void)state;
    open_policy(&a, GEB_BLOCK, false);
    api_publish(&a, 1, CAPACITY);
    assert_int_equal(geb_close(a.bus, 0), 0);
    a.bus = NULL;
    assert_int_equal(support_wait(support_child(consume_and_die, a.name)), 0);
    assert_true(slept_until_gone(&a) > 0);
    assert_int_equal(slept_until_gone(&a), 0);
    assert_int_equal(slept_until_gone(&a), 0);
    /* Another one came and died: nobody can know since when there is none. */
    assert_int_equal(support_wait(support_child(consume_and_die, a.name)), 0);
    assert_true(slept_until_gone(&a) > 0);
    assert_int_equal(slept_until_gone(&a), 0);
    api_end(&a);
}

/* ---- slabs ----------------------------------------------------------------------------------- */

static unsigned char bytes[CHUNK_BYTES];

static void slabs_return_error(void **state)
{
    struct api a = {0};
    (void)state;
    api_open_slabs(&a, GEB_RETURN_ERROR, 8, TWO_CHUNKS);
    for (int lap = 0; lap < 5; lap++) {
        assert_int_equal(geb_publish(a.producer, a.topic, bytes, CHUNK_BYTES), 0);
        assert_int_equal(geb_publish(a.producer, a.topic, bytes, CHUNK_BYTES), 0);
        struct geb_metrics before = api_account(&a);
        api_refused(geb_publish(a.producer, a.topic, bytes, 33), -ENOBUFS, "");
        assert_int_equal(geb_publish(a.producer, a.topic, bytes, 32), 0); /* needs no block */
        assert_int_equal(api_account(&a).accepted, before.accepted + 1);
        assert_int_equal(geb_dispatch(a.bus, 0), 3);
    }
    struct geb_metrics m = api_account(&a);
    assert_int_equal(m.unhandled, 15);
    assert_int_equal(m.dropped, 0);
    api_end(&a);
}

static void slab_error_says_slabs(void **state)
{
    struct api a = {0};
    (void)state;
    api_open_slabs(&a, GEB_RETURN_ERROR, 8, TWO_CHUNKS);
    assert_int_equal(geb_publish(a.producer, a.topic, bytes, CHUNK_BYTES), 0);
    assert_int_equal(geb_publish(a.producer, a.topic, bytes, CHUNK_BYTES), 0);
    api_refused(geb_publish(a.producer, a.topic, bytes, 100), -ENOBUFS, "slab");
    api_end(&a);
}

static void slabs_block(void **state)
{
    struct geb_options now = GEB_OPTIONS_INIT;
    struct api a = {0};
    (void)state;
    now.wait_until_ns = 0;
    api_open_slabs(&a, GEB_BLOCK, 8, TWO_CHUNKS);
    assert_int_equal(geb_publish(a.producer, a.topic, bytes, CHUNK_BYTES), 0);
    assert_int_equal(geb_publish(a.producer, a.topic, bytes, CHUNK_BYTES), 0);
    api_refused(geb_publish_with(a.producer, a.topic, bytes, 100, &now), -ETIMEDOUT, "");
    assert_int_equal(geb_dispatch(a.bus, 1), 1);
    assert_int_equal(geb_publish_with(a.producer, a.topic, bytes, 100, &now), 0);
    assert_int_equal(api_account(&a).pending, 2);
    api_end(&a);
}

static void slabs_drop_oldest(void **state)
{
    struct api a = {0};
    (void)state;
    api_open_slabs(&a, GEB_DROP_OLDEST, 8, TWO_CHUNKS);
    assert_int_equal(geb_publish(a.producer, a.topic, bytes, CHUNK_BYTES), 0);
    assert_int_equal(geb_publish(a.producer, a.topic, bytes, CHUNK_BYTES), 0);
    for (uint64_t i = 1; i <= 10; i++) {
        assert_int_equal(geb_publish(a.producer, a.topic, bytes, CHUNK_BYTES), 0);
        struct geb_metrics m = api_account(&a);
        assert_int_equal(m.dropped, i);
        assert_int_equal(m.pending, 2);
    }
    api_end(&a);
}

static void slabs_drop_at_most_64(void **state)
{
    struct geb_loan loan[2];
    struct api a = {0};
    (void)state;
    api_open_slabs(&a, GEB_DROP_OLDEST, 256, TWO_CHUNKS);
    /* Loans hold all memory, so that dropping cannot help. */
    assert_int_equal(geb_loan(a.producer, CHUNK_BYTES, &loan[0]), 0);
    assert_int_equal(geb_loan(a.producer, CHUNK_BYTES, &loan[1]), 0);
    api_publish(&a, 1, 200);
    api_refused(geb_publish(a.producer, a.topic, bytes, 100), -ENOBUFS, "64");
    struct geb_metrics m = api_account(&a);
    assert_int_equal(m.dropped, 64);
    assert_int_equal(m.pending, 136);
    assert_int_equal(m.accepted, 200);
    assert_int_equal(geb_return(a.producer, &loan[0]), 0);
    assert_int_equal(geb_publish(a.producer, a.topic, bytes, 100), 0);
    assert_int_equal(api_account(&a).dropped, 64);
    assert_int_equal(geb_return(a.producer, &loan[1]), 0);
    api_end(&a);
}

static void full_ring_gives_the_block_back(void **state)
{
    struct api a = {0};
    (void)state;
    api_open_slabs(&a, GEB_RETURN_ERROR, CAPACITY, TWO_CHUNKS);
    api_publish(&a, 1, CAPACITY);
    for (int i = 0; i < 1000; i++) /* far more than there are blocks */
        assert_int_equal(geb_publish(a.producer, a.topic, bytes, 5000), -EAGAIN);
    struct geb_message message = {.topic = a.topic, .len = 5000, .data = bytes};
    for (int i = 0; i < 1000; i++)
        assert_int_equal(geb_publish_batch(a.producer, &message, 1, NULL), -EAGAIN);
    assert_int_equal(geb_dispatch(a.bus, 0), CAPACITY);
    assert_int_equal(geb_publish(a.producer, a.topic, bytes, CHUNK_BYTES), 0);
    api_end(&a);
}

/* ---- damaged rings --------------------------------------------------------------------------- */

/* Every cell says REVOKED at an old position, and done promises room for ever. */
static void no_cell_can_be_used(void **state)
{
    struct geb_options forever = GEB_OPTIONS_INIT;
    struct api a = {0};
    (void)state;
    api_watchdog(60);
    api_open_slabs(&a, GEB_RETURN_ERROR, CAPACITY, TWO_CHUNKS);
    struct shr_map *map = &a.producer->map;
    struct geb_message message = {.topic = a.topic, .len = 100, .data = bytes};
    for (uint32_t i = 0; i < map->geo.cell_cnt; i++)
        shr_store_relaxed(&map->cells[i].state, shr_state(i, SHR_TAG_REVOKED));
    shr_store_relaxed(&map->hot->done, shr_load_relaxed(&map->hot->done) + (UINT64_C(1) << 50));
    api_refused(geb_publish(a.producer, a.topic, "x", 1), -EBADMSG, "cell");
    api_refused(geb_publish(a.producer, a.topic, bytes, 100), -EBADMSG, "cell");
    api_refused(geb_publish_with(a.producer, a.topic, "x", 1, &forever), -EBADMSG, "cell");
    api_refused(geb_publish_batch(a.producer, &message, 1, NULL), -EBADMSG, "cell");
    uint64_t words[SHR_CELL_WORDS] = {0};
    assert_int_equal(shr_publish(&a.producer->writer, words, 1), -EBADMSG);
    api_end(&a);
    api_watchdog(0);
}

/* The ring claims to hold far more than it has cells: a lap for each attempt, and no room. */
static void dropping_makes_no_room(void **state)
{
    struct geb_config config = api_config(GEB_DROP_OLDEST, 65536);
    struct api a = {0};
    (void)state;
    api_watchdog(60);
    api_open_config(&a, &config);
    shr_fetch_add_relaxed(&a.producer->map.hot->head, UINT64_C(1) << 40);
    api_refused(geb_publish(a.producer, a.topic, "x", 1), -EBADMSG, "dropped from");
    api_refused(geb_publish(a.producer, a.topic, "x", 1), -EBADMSG, "dropped from");
    api_end(&a);
    api_watchdog(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(return_error_is_exact),
        cmocka_unit_test(room_comes_one_by_one),
        cmocka_unit_test(drop_oldest_is_exact),
        cmocka_unit_test(block_is_exact),
        cmocka_unit_test(drops_are_counted_for_topic_and_producer),
        cmocka_unit_test(handlers_find_the_room_of_those_before_them),
        cmocka_unit_test(slow_handlers_keep_no_producer_waiting),
        cmocka_unit_test(a_dead_consumer_is_waited_for_once),
        cmocka_unit_test(slabs_return_error),
        cmocka_unit_test(slab_error_says_slabs),
        cmocka_unit_test(slabs_block),
        cmocka_unit_test(slabs_drop_oldest),
        cmocka_unit_test(slabs_drop_at_most_64),
        cmocka_unit_test(full_ring_gives_the_block_back),
        cmocka_unit_test(no_cell_can_be_used),
        cmocka_unit_test(dropping_makes_no_room),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
