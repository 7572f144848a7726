/* Goal: a damaged batch does no harm: what its frames cannot say is counted and not guessed, what
 * stands before the damage is handled, and the bus goes on. And each sample of latency counts.
 * Method: a batch of three is published, and one of its bytes in the segment changed before the
 * consumer takes it. The clock is this program's, where its last bits matter. */
#include "tests/api_support.h"

#include "lib/internal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#define EVENTS      3u
#define FRAME_BYTES (sizeof(struct gebi_frame) + 8)

static struct api_log record;
static uint64_t next_ns; /* what the clock shows next, if not 0: a look takes 1 ns */

int clock_gettime(clockid_t id, struct timespec *time)
{
    if (next_ns == 0)
        return (int)syscall(SYS_clock_gettime, id, time);
    *time = (struct timespec){.tv_sec = (time_t)(next_ns / 1000000000u),
                              .tv_nsec = (long)(next_ns % 1000000000u)};
    next_ns++;
    return 0;
}

static uint64_t bad_bytes(const struct api *a)
{
    return shr_load_relaxed(&a->bus->map.peers[SHR_CONSUMER_SLOT].bad_bytes);
}

static void publish_batch(struct api *a)
{
    static const uint64_t value[EVENTS] = {1, 2, 3};
    struct geb_message message[EVENTS];
    for (uint32_t i = 0; i < EVENTS; i++)
        message[i] = (struct geb_message){.topic = a->topic, .len = 8, .data = &value[i]};
    assert_int_equal(geb_publish_batch(a->producer, message, EVENTS, NULL), 0);
}

/* The cell of the last event. */
static struct shr_cell *last_cell(const struct api *a)
{
    const struct shr_map *map = &a->bus->map;
    uint64_t pos = shr_load_relaxed(&map->hot->head) - 1;
    return &map->cells[shr_cell_index(pos, map->geo.cell_cnt)];
}

struct damage {
    uint32_t frame;   /* where it is: the good ones are before it */
    uint32_t topic;   /* what the frame says, … */
    uint32_t bytes;   /* … */
    uint32_t missing; /* and how much less the cell says than the batch has */
};

static void damage(const struct api *a, const struct damage *d)
{
    struct shr_cell *cell = last_cell(a);
    unsigned char *data = shr_block_data(&a->bus->map,
                                         shr_load_relaxed(&cell->word[SHR_WORD_BODY]));
    struct gebi_frame frame;
    memcpy(&frame, data + d->frame * FRAME_BYTES, sizeof(frame));
    frame.topic = d->topic;
    frame.bytes = d->bytes;
    memcpy(data + d->frame * FRAME_BYTES, &frame, sizeof(frame));
    uint64_t word = shr_load_relaxed(&cell->word[SHR_WORD_BODY + 1]);
    shr_store_relaxed(&cell->word[SHR_WORD_BODY + 1], word - d->missing);
}

static void expect_logged(const struct api *a, uint64_t count)
{
    struct geb_error_row row;
    struct geb_watch *watch;
    assert_int_equal(geb_watch(&watch, a->name), 0);
    assert_int_equal(geb_watch_errors(watch, &row, 1), 1);
    assert_int_equal(row.code, EBADMSG);
    assert_string_equal(row.text, "damaged batch");
    assert_int_equal(row.count, count);
    assert_int_equal(geb_unwatch(watch), 0);
}

static void check_damage(enum geb_policy policy)
{
    static const struct damage cases[] = {
        {0, 4, 8, 0}, /* there are 4 topics */
        {2, 4, 8, 0},
        {1, UINT32_MAX, 8, 0},
        {2, 0, 9, 0}, /* longer than the batch */
        {1, 0, 33, 0},
        {0, 0, UINT32_MAX, 0},
        {2, 0, 8, 1},               /* the last payload, … */
        {2, 0, 8, 8 + 1},           /* the last header lacks a byte, … */
        {2, 0, 8, FRAME_BYTES - 1}, /* all but one */
        {1, 0, 8, 2 * FRAME_BYTES}, /* nothing is left of it */
        {0, 0, 8, EVENTS * FRAME_BYTES},
    };
    struct api a = {0};
    uint64_t delivered = 0;
    uint64_t unhandled = 0;
    api_open_slabs(&a, policy, 8, 131072);
    assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
    for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        record = (struct api_log){0};
        publish_batch(&a);
        damage(&a, &cases[i]);
        api_publish(&a, 99, 1);
        assert_int_equal(geb_dispatch(a.bus, 0), 2);
        assert_int_equal(record.cnt, cases[i].frame + 1);
        for (uint32_t k = 0; k < cases[i].frame; k++)
            assert_int_equal(api_number(&record.row[k]), k + 1);
        assert_int_equal(api_number(&record.row[cases[i].frame]), 99);
        assert_int_equal(record.row[cases[i].frame].event.number, i * (EVENTS + 1) + EVENTS + 1);
        delivered += cases[i].frame + 1;
        unhandled += EVENTS - cases[i].frame;
        struct geb_metrics m = api_account(&a);
        assert_int_equal(m.delivered, delivered);
        assert_int_equal(m.unhandled, unhandled);
        assert_int_equal(m.bad_bytes, i + 1);
        assert_int_equal(bad_bytes(&a), i + 1);
        expect_logged(&a, i + 1);
    }
    api_end(&a);
}

static void damaged_batches_are_counted(void **state)
{
    (void)state;
    check_damage(GEB_DROP_OLDEST);
    check_damage(GEB_BLOCK);
}

/* The same with no damage: the cases above fail for nothing else. */
static void whole_batches_are_not(void **state)
{
    struct api a = {0};
    (void)state;
    record = (struct api_log){0};
    api_open_slabs(&a, GEB_BLOCK, 8, 131072);
    assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
    publish_batch(&a);
    damage(&a, &(struct damage){.frame = 2, .bytes = 8});
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    assert_int_equal(record.cnt, EVENTS);
    assert_int_equal(bad_bytes(&a), 0);
    api_end(&a);
}

/* A stamp is 32 bits of time, and 0 says that there is none. */
static void a_stamp_is_never_none(void **state)
{
    struct geb_config config = api_config(GEB_BLOCK, 8);
    struct api a = {0};
    (void)state;
    config.sample_shift = 1; /* each second event */
    api_open_config(&a, &config);
    for (uint32_t i = 1; i <= 3; i++) {
        next_ns = (UINT64_C(1) << 32) * SHR_STAMP_NS * i;
        api_publish(&a, 0, 2);
        assert_int_equal(geb_dispatch(a.bus, 0), 2);
        next_ns = 0;
        assert_int_equal(api_account(&a).latency.count, i);
    }
    api_end(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_batches_are_counted),
        cmocka_unit_test(whole_batches_are_not),
        cmocka_unit_test(a_stamp_is_never_none),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
