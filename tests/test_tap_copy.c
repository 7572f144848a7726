/* Goal: no state of a cell or a block holds the tap up for good, crashes it, or makes it give what
 * was not published.
 *
 * Method: claims without a commit, revoked and returned positions and the dead producer of an
 * exclusive bus are made by hand, as their protocol would leave them. Blocks are used again behind
 * the back of the tap. Cells, headers and frames are filled with random words. */
#include "tests/tap_support.h"

#include "shmring/ring.h"
#include "shmring/slab.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void test_uncommitted(void **state)
{
    (void)state;
    struct api a = {0};
    struct geb_event event;
    tap_bus(&a, 1, 64, GEB_NO_SLABS);
    struct shr_map map = tap_damage(&a);
    struct geb_watch *watch = tap_open(a.name, GEB_TAP_NOW);
    uint64_t pos = shr_fetch_add_acq_rel(&map.hot->head, 2); /* two that stopped behind a claim */
    assert_int_equal(geb_tap_wait(watch, &event, geb_now() + 50 * MS), -ETIMEDOUT);
    assert_int_equal(tap_counts(watch).passed, 0); /* nothing waits, so there is no hurry */
    api_publish(&a, 1, 3);
    for (uint64_t i = 1; i <= 3; i++) {
        assert_int_equal(geb_tap_wait(watch, &event, geb_now() + 10000 * MS), 1);
        assert_int_equal(event.number, i);
        assert_int_equal(event.position, pos + 1 + i);
    }
    struct geb_tap_counts counts = tap_counts(watch);
    assert_int_equal(counts.passed, 2);
    assert_int_equal(counts.missed, 0);
    /* One of them, of slot 2, commits after all: too late, and counted. */
    struct shr_cell *cell = &map.cells[pos % map.geo.cell_cnt];
    shr_store_relaxed(&cell->word[SHR_WORD_META], shr_meta(0, 2, 8, 0));
    shr_store_relaxed(&cell->word[SHR_WORD_NUMBER], 1);
    shr_store_release(&cell->state, shr_state(pos, SHR_TAG_READY));
    shr_store_release(&map.peers[2].published, 1);
    assert_int_equal(geb_tap_wait(watch, &event, 0), -ETIMEDOUT);
    assert_int_equal(tap_counts(watch).missed, 1);
    /* A claim of just now gets its patience: 10 ms in eight polls. */
    shr_fetch_add_acq_rel(&map.hot->head, 1);
    api_publish(&a, 4, 1);
    uint64_t start_ns = geb_now();
    assert_int_equal(geb_tap_wait(watch, &event, start_ns + 10000 * MS), 1);
    assert_true(geb_now() - start_ns >= 9 * MS);
    shr_segment_detach(&map);
    assert_int_equal(geb_unwatch(watch), 0);
    api_end(&a);
}

/* A run of chunks was used again but for its first chunk. */
static void test_run_again(void **state)
{
    (void)state;
    struct api a = {0};
    struct geb_event event;
    struct geb_config config = api_config(GEB_BLOCK, 64);
    config.slab_bytes = 8 * CHUNK;
    config.max_event = 4 * CHUNK;
    api_open_config(&a, &config);
    assert_int_equal(geb_on(a.bus, "t", tap_ignore, NULL), 0);
    struct geb_watch *watch = tap_open(a.name, GEB_TAP_NOW);
    unsigned char *data = calloc(4, CHUNK);
    for (uint32_t chunks = 4; chunks >= 3; chunks--) {
        memset(data, (int)chunks, 4 * CHUNK);
        assert_int_equal(geb_publish(a.producer, a.topic, data, chunks * CHUNK), 0);
        assert_int_equal(geb_dispatch(a.bus, 0), 1);
    }
    assert_int_equal(geb_tap_wait(watch, &event, 0), 1);
    assert_int_equal(event.number, 2);
    assert_memory_equal(event.data, data, 3 * CHUNK);
    assert_int_equal(tap_counts(watch).gone, 1);
    free(data);
    assert_int_equal(geb_unwatch(watch), 0);
    api_end(&a);
}

/* A loan that was shrunk to nothing is an event like any other, also as the tap's first one. */
static void test_empty_block(void **state)
{
    struct api a = {0};
    struct geb_event event;
    struct geb_loan loan;
    (void)state;
    tap_bus(&a, 1, 64, 4 * CHUNK);
    struct geb_watch *watch = tap_open(a.name, GEB_TAP_NOW);
    for (uint32_t i = 1; i <= 2; i++) {
        assert_int_equal(geb_loan(a.producer, 100, &loan), 0);
        loan.len = 0;
        assert_int_equal(geb_commit(a.producer, &loan, a.topic), 0);
        assert_int_equal(geb_dispatch(a.bus, 0), 1); /* its block may be used again */
        assert_int_equal(geb_tap_wait(watch, &event, 0), 1);
        assert_int_equal(event.number, i);
        assert_int_equal(event.len, 0);
        assert_non_null(event.data);
    }
    struct geb_tap_counts counts = tap_counts(watch);
    assert_int_equal(counts.seen, 2);
    assert_int_equal(counts.missed + counts.gone, 0);
    assert_int_equal(geb_unwatch(watch), 0);
    api_end(&a);
}

/* Revoked, returned and void positions hold nothing up; and in exclusive mode an event counts whose
 * producer died before it moved head. */
static void test_no_event(void **state)
{
    (void)state;
    struct api a = {0};
    struct geb_event event;
    tap_bus(&a, 0, 64, GEB_NO_SLABS);
    struct shr_map map = tap_damage(&a);
    struct geb_watch *watch = tap_open(a.name, GEB_TAP_NOW);
    const uint64_t tags[] = {SHR_TAG_VOID, SHR_TAG_REVOKED, SHR_TAG_RETURNED};
    for (uint32_t i = 0; i < 3; i++) {
        uint64_t pos = shr_fetch_add_acq_rel(&map.hot->head, 1);
        shr_store_release(&map.cells[pos % map.geo.cell_cnt].state, shr_state(pos, tags[i]));
        api_publish(&a, i, 1);
        assert_int_equal(geb_tap_wait(watch, &event, 0), 1);
        assert_int_equal(event.position, pos + 1);
    }
    assert_int_equal(tap_counts(watch).passed + tap_counts(watch).bad, 0);
    shr_segment_detach(&map);
    assert_int_equal(geb_unwatch(watch), 0);
    api_end(&a);

    tap_bus(&a, 3, 64, GEB_NO_SLABS);
    map = tap_damage(&a);
    watch = tap_open(a.name, GEB_TAP_NOW);
    api_publish(&a, 1, 5);
    shr_store_release(&map.hot->head, shr_load_relaxed(&map.hot->head) - 1);
    for (uint32_t i = 1; i <= 5; i++)
        assert_int_equal(geb_tap_wait(watch, &event, geb_now() + 10000 * MS), 1);
    assert_int_equal(event.number, 5);
    assert_int_equal(tap_counts(watch).seen, 5);
    shr_segment_detach(&map);
    assert_int_equal(geb_unwatch(watch), 0);
    api_end(&a);
}

/* Publishes a batch of four, damages its cell or its second frame, and returns how many the tap
 * gives before it says that one cell is bad, and the rest missed. */
static uint64_t damaged_batch(uint32_t events, uint32_t frame_bytes, uint32_t topic)
{
    struct api a = {0};
    struct geb_event event;
    uint64_t given = 0;
    tap_bus(&a, 1, 64, 4 * CHUNK);
    struct shr_map map = tap_damage(&a);
    struct geb_watch *watch = tap_open(a.name, GEB_TAP_NOW);
    struct geb_message m[4];
    for (uint32_t i = 0; i < 4; i++)
        m[i] = (struct geb_message){a.topic, 8, "8 bytes", 0};
    assert_int_equal(geb_publish_batch(a.producer, m, 4, NULL), 0);
    uint64_t pos = shr_load_relaxed(&map.hot->head) - 1;
    shr_a64 *word = map.cells[pos % map.geo.cell_cnt].word;
    uint64_t bytes = (uint32_t)shr_load_relaxed(&word[SHR_WORD_BODY + 1]);
    uint32_t frame[2] = {frame_bytes, topic};
    memcpy(shr_block_data(&map, shr_load_relaxed(&word[SHR_WORD_BODY])) + 24, frame, sizeof(frame));
    shr_store_relaxed(&word[SHR_WORD_BODY + 1], (uint64_t)events << 32 | bytes);
    for (; geb_tap_wait(watch, &event, 0) == 1; given++)
        assert_int_equal(event.len, 8);
    struct geb_tap_counts counts = tap_counts(watch);
    assert_int_equal(counts.seen, given);
    assert_int_equal(counts.bad, events != 4 || frame_bytes != 8 || topic != a.topic);
    assert_int_equal(counts.missed, 4 - given);
    shr_segment_detach(&map);
    assert_int_equal(geb_unwatch(watch), 0);
    geb_leave(a.producer);
    geb_close(a.bus, 0);
    assert_int_equal(geb_remove(a.name), 0);
    return given;
}

/* Whether the tap gives a cell with this reference and length. Every chunk's first block looks
 * used, of generation 1. */
static bool damaged_block(uint32_t class_idx, uint32_t chunk, uint64_t bytes)
{
    struct api a = {0};
    struct geb_event event;
    struct geb_config config = api_config(GEB_BLOCK, 64);
    config.slab_bytes = 8 * CHUNK;
    config.max_event = 4 * CHUNK;
    api_open_config(&a, &config);
    struct shr_map map = tap_damage(&a);
    struct geb_watch *watch = tap_open(a.name, GEB_TAP_NOW);
    for (uint32_t i = 0; i < 8; i++) {
        shr_store32_relaxed(&map.chunks[i].class_idx, class_idx);
        shr_store_relaxed(&map.chunks[i].block[0], shr_block_word(1, SHR_BLOCK_USED));
    }
    api_publish(&a, 1, 1);
    uint64_t pos = shr_load_relaxed(&map.hot->head) - 1;
    shr_a64 *word = map.cells[pos % map.geo.cell_cnt].word;
    shr_store_relaxed(&word[SHR_WORD_META], shr_meta(a.topic, 1, 0, SHR_FLAG_SLAB));
    shr_store_relaxed(&word[SHR_WORD_BODY], shr_ref(1, class_idx, chunk, 0));
    shr_store_relaxed(&word[SHR_WORD_BODY + 1], bytes);
    bool given = geb_tap_wait(watch, &event, 0) == 1;
    assert_int_equal(tap_counts(watch).gone, !given);
    shr_segment_detach(&map);
    assert_int_equal(geb_unwatch(watch), 0);
    geb_leave(a.producer);
    geb_close(a.bus, 0);
    assert_int_equal(geb_remove(a.name), 0);
    return given;
}

static void test_damaged(void **state)
{
    (void)state;
    assert_int_equal(damaged_batch(4, 8, 0), 4);
    assert_int_equal(damaged_batch(4, UINT32_MAX, 0), 1);
    assert_int_equal(damaged_batch(4, 80, 0), 1);
    assert_int_equal(damaged_batch(4, 8, 4), 1);
    assert_int_equal(damaged_batch(0, 8, 0), 0);
    assert_int_equal(damaged_batch(7, 8, 0), 0);
    assert_true(damaged_block(0, 7, 128));
    assert_false(damaged_block(0, 0, 129));
    assert_true(damaged_block(SHR_CLASS_RUN, 4, 4 * CHUNK));
    assert_false(damaged_block(SHR_CLASS_RUN, 0, 4 * CHUNK + 1));
    assert_false(damaged_block(SHR_CLASS_RUN, 5, 4 * CHUNK));
    assert_false(damaged_block(SHR_CLASS_RUN, 8, 1));
}

/* Any bytes: no crash, no read outside the copies (the sanitizers look on), no call without end. */
static void test_hostile(void **state)
{
    (void)state;
    struct api a = {0};
    tap_bus(&a, 0, 16, 4 * CHUNK);
    struct shr_map map = tap_damage(&a);
    uint64_t events = 0, bad = 0, sum = 0;
    struct geb_watch *watch = tap_open(a.name, GEB_TAP_OLDEST);
    api_watchdog(60);
    for (uint32_t round = 0; round < 20000; round++) {
        uint64_t head = shr_load_relaxed(&map.hot->head) + support_random() % 40;
        if (support_random() % 64 == 0)
            head = support_random() >> support_random() % 64;
        for (uint64_t pos = head - 40; pos != head; pos++) {
            struct shr_cell *cell = &map.cells[pos % map.geo.cell_cnt];
            for (uint32_t i = 0; i < SHR_CELL_WORDS; i++)
                shr_store_relaxed(&cell->word[i], support_random() >> support_random() % 64);
            uint64_t flags = support_random() % 2 ? SHR_FLAG_SLAB : support_random() & 0x37;
            uint32_t r = (uint32_t)support_random();
            shr_store_relaxed(&cell->word[SHR_WORD_META],
                              shr_meta(r % 5, 1 + r / 8 % 5, r / 64 % 34, (uint32_t)flags));
            if (support_random() % 2 != 0) {
                uint32_t chunk = (uint32_t)(support_random() % 5);
                uint32_t class_idx = (uint32_t)(support_random() % 12);
                uint32_t block = (uint32_t)(support_random() % 3);
                shr_store_relaxed(&cell->word[SHR_WORD_BODY], shr_ref(1, class_idx, chunk, block));
                uint64_t bytes = support_random() % (2 * CHUNK + 2) >> support_random() % 17;
                shr_store_relaxed(&cell->word[SHR_WORD_BODY + 1],
                                  bytes | support_random() >> support_random() % 32 << 32);
                shr_store32_relaxed(&map.chunks[chunk % 4].class_idx, class_idx);
                shr_store_relaxed(&map.chunks[chunk % 4].block[block], shr_block_word(1, 1));
                uint32_t frame[2] = {(uint32_t)(support_random() >> 32 >> support_random() % 32),
                                     (uint32_t)support_random() % 5};
                if (chunk < 4 && block == 0)
                    memcpy(map.slabs + chunk * CHUNK, frame, sizeof(frame));
            }
            shr_store_relaxed(&cell->state, support_random() % 8 == 0
                                                ? support_random()
                                                : shr_state(pos, support_random() % 7));
        }
        shr_store_relaxed(&map.hot->head, head);
        shr_store_relaxed(&map.peers[1 + round % 4].published, support_random());
        struct geb_event event;
        for (uint32_t i = 0; i < 200 && geb_tap_next(watch, &event) == 1; i++, events++) {
            for (size_t k = 0; k < event.len; k++)
                sum += ((const unsigned char *)event.data)[k];
        }
        bad += tap_counts(watch).bad;
    }
    api_watchdog(0);
    print_message("%llu events, sum %llu\n", (unsigned long long)events, (unsigned long long)sum);
    assert_true(events > 1000 && bad > 1000);
    shr_segment_detach(&map);
    assert_int_equal(geb_unwatch(watch), 0);
    geb_leave(a.producer);
    geb_close(a.bus, 0);
    assert_int_equal(geb_remove(a.name), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uncommitted), cmocka_unit_test(test_run_again),
        cmocka_unit_test(test_no_event),    cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_hostile),     cmocka_unit_test(test_empty_block),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
