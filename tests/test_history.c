/* Goal: the checker of histories accepts what is right, and refuses each kind of wrong history for
 * its own reason; else the stress tests that use it prove nothing.
 *
 * Method: a right history of two producers, with batches, made by hand; then the same with one
 * thing wrong at a time: two events swapped, one twice, one left out, half a batch … .
 */
#include "tests/history.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#define NOTES 16u
#define ROWS  32u

/* A history under construction: notes and rows as a run would have left them. */
static struct {
    struct history_note notes[2][NOTES];
    shr_a64 begun[2];
    struct history_row row[ROWS];
    uint32_t cnt;
    uint64_t now_ns, position;
    bool drops, silent;
} made;

/* Producer p's next call, with so many events: noted, and delivered next. Slot p + 1, numbers are
 * the serials. */
static void call(uint32_t p, uint32_t events)
{
    uint64_t serial = shr_load_relaxed(&made.begun[p]) + 1;
    made.now_ns += 10;
    made.position++;
    for (uint32_t i = 0; i < events; i++, serial++) {
        struct history_note *note = &made.notes[p][serial % NOTES];
        history_note_begin(note, 40 + (uint32_t)serial, i << 16 | events, 1, false, made.now_ns);
        shr_store_relaxed(&note->end_ns, made.now_ns + 5);
        made.row[made.cnt++] = (struct history_row){
            .serial = serial,
            .number = serial,
            .position = made.position,
            .producer = p,
            .slot = p + 1,
            .bytes = 40 + (uint32_t)serial,
            .whole = true,
            .finished = true,
        };
    }
    shr_store_relaxed(&made.begun[p], serial - 1);
}

/* Rows 0 … 8: two single events of each, a batch of three, and again one of each. */
static void make(bool drops)
{
    memset(&made, 0, sizeof(made));
    made.drops = drops;
    for (uint32_t p = 0; p < 2; p++) {
        call(p, 1);
        call(p, 1);
    }
    call(0, 3);
    call(1, 1);
    call(0, 1);
}

static struct history_note *note_of(uint32_t row)
{
    return &made.notes[made.row[row].producer][made.row[row].serial % NOTES];
}

static void leave_out(uint32_t first, uint32_t cnt)
{
    memmove(&made.row[first], &made.row[first + cnt],
            (made.cnt - first - cnt) * sizeof(made.row[0]));
    made.cnt -= cnt;
}

/* Puts a copy of a row, or of several, behind row `after`. */
static void insert(uint32_t after, uint32_t first, uint32_t cnt)
{
    struct history_row copy[ROWS];
    memcpy(copy, &made.row[first], cnt * sizeof(copy[0]));
    memmove(&made.row[after + 1 + cnt], &made.row[after + 1],
            (made.cnt - after - 1) * sizeof(made.row[0]));
    memcpy(&made.row[after + 1], copy, cnt * sizeof(copy[0]));
    made.cnt += cnt;
}

/* From this row on another consumer handles them. */
static void die_before(uint32_t row)
{
    for (uint32_t i = row; i < made.cnt; i++)
        made.row[i].consumer++;
}

static void begin(struct history *h)
{
    *h = (struct history){
        .drops = made.drops, .silent = made.silent, .producers = 2, .slots = 2, .mask = NOTES - 1};
    for (uint32_t p = 0; p < 2; p++) {
        h->notes[p] = made.notes[p];
        h->begun[p] = &made.begun[p];
    }
    history_begin(h);
}

/* What the checker says of all that was made. */
static enum history_fault judge(struct history *h)
{
    enum history_fault fault = HISTORY_FINE;
    begin(h);
    for (uint32_t i = 0; i < made.cnt && fault == HISTORY_FINE; i++)
        fault = history_add(h, &made.row[i]);
    for (uint32_t p = 0; p < 2 && fault == HISTORY_FINE; p++)
        fault = history_pass(h, p, shr_load_relaxed(&made.begun[p]));
    if (fault == HISTORY_FINE)
        fault = history_end(h);
    history_free(h);
    return fault;
}

#define assert_fault(fault)                                                     \
    do {                                                                        \
        struct history judged;                                                  \
        assert_string_equal(history_text(judge(&judged)), history_text(fault)); \
    } while (0)

static void test_right(void **state)
{
    struct history h;
    (void)state;
    for (uint32_t drops = 0; drops < 2; drops++) {
        make(drops != 0);
        assert_int_equal(judge(&h), HISTORY_FINE);
        assert_int_equal(h.delivered[0], 6);
        assert_int_equal(h.delivered[1], 3);
        assert_int_equal(h.missing[0] + h.missing[1] + h.doubtful[0] + h.doubtful[1], 0);
    }
    /* Many laps of the notes. */
    make(false);
    begin(&h);
    for (uint32_t i = 0; i < made.cnt; i++)
        assert_int_equal(history_add(&h, &made.row[i]), HISTORY_FINE);
    for (uint32_t lap = 0; lap < 100; lap++) {
        made.cnt = 0;
        call(lap % 2, 1 + lap % 5);
        for (uint32_t i = 0; i < made.cnt; i++)
            assert_int_equal(history_add(&h, &made.row[i]), HISTORY_FINE);
    }
    history_free(&h);
}

/* Rows i and i + 1, each a cell of its own, change places in the order of the bus. */
static void swap(uint32_t i)
{
    struct history_row first = made.row[i];
    uint64_t position = made.row[i + 1].position;
    made.row[i] = made.row[i + 1];
    made.row[i].position = first.position;
    made.row[i + 1] = first;
    made.row[i + 1].position = position;
}

/* Calls that overlap may come in either order, calls that do not may not. */
static void test_real_time(void **state)
{
    (void)state;
    make(false);
    swap(1); /* of two producers, of which the first had returned before the second began */
    assert_fault(HISTORY_TIME);
    uint64_t began_ns = shr_load_relaxed(&note_of(1)->begin_ns);
    shr_store_relaxed(&note_of(2)->end_ns, began_ns - 1);
    assert_fault(HISTORY_TIME);
    shr_store_relaxed(&note_of(2)->end_ns, began_ns);
    assert_fault(HISTORY_FINE);
    shr_store_relaxed(&note_of(2)->end_ns, 0); /* not returned when it was handled */
    assert_fault(HISTORY_FINE);
    make(false);
    swap(1); /* not only neighbours are compared: a long call is between the two */
    swap(0);
    shr_store_relaxed(&note_of(1)->end_ns, UINT64_C(1000));
    assert_fault(HISTORY_TIME);
}

static void test_duplicate(void **state)
{
    (void)state;
    make(false);
    insert(1, 1, 1);
    assert_fault(HISTORY_DUPLICATE);
    make(true);
    insert(1, 1, 1);
    assert_fault(HISTORY_DUPLICATE);
    make(false); /* in another cell, later */
    insert(8, 1, 1);
    made.row[9].position = made.position + 1;
    made.row[9].number = 7;
    assert_fault(HISTORY_DUPLICATE);
    make(false); /* marked, but nobody died */
    insert(8, 8, 1);
    made.row[9].redelivered = true;
    assert_fault(HISTORY_DUPLICATE);
}

static void test_lost(void **state)
{
    (void)state;
    make(false);
    leave_out(1, 1);
    made.row[1].number = 1;
    assert_fault(HISTORY_LOST);
    make(false);
    leave_out(8, 1); /* the last one: nothing behind it shows the gap */
    assert_fault(HISTORY_LOST);
    make(false); /* a whole batch */
    leave_out(4, 3);
    assert_fault(HISTORY_LOST);
    /* Its process died in the call: it may be missing, and its number is another's. */
    make(false);
    shr_store_relaxed(&note_of(8)->end_ns, 0);
    leave_out(8, 1);
    assert_fault(HISTORY_FINE);
}

static void test_dropped(void **state)
{
    struct history h;
    (void)state;
    make(true);
    leave_out(4, 3);
    leave_out(0, 1);
    assert_int_equal(judge(&h), HISTORY_FINE);
    assert_int_equal(h.missing[0], 4);
    assert_int_equal(h.delivered[0], 2);
    make(true);
    leave_out(4, 3);
    for (uint32_t i = 4; i < made.cnt; i++)
        made.row[i].number -= made.row[i].producer == 0 ? 3 : 0; /* no gap in the numbers */
    assert_fault(HISTORY_NUMBER);
}

static void test_half_a_batch(void **state)
{
    (void)state;
    for (uint32_t drops = 0; drops < 2; drops++) {
        for (uint32_t part = 0; part < 3; part++) {
            make(drops != 0);
            leave_out(4 + part, 1);
            assert_fault(HISTORY_HALF_BATCH);
        }
        make(drops != 0);
        leave_out(5, 2); /* only the first part */
        assert_fault(HISTORY_HALF_BATCH);
        make(drops != 0); /* another event within it */
        insert(4, 7, 1);
        leave_out(8, 1);
        assert_fault(HISTORY_HALF_BATCH);
    }
    make(false);
    made.cnt = 6; /* the log ends in it */
    shr_store_relaxed(&note_of(6)->end_ns, 0);
    shr_store_relaxed(&made.begun[0], 5);
    shr_store_relaxed(&made.begun[1], 2);
    assert_fault(HISTORY_HALF_BATCH);
}

static void test_payload(void **state)
{
    (void)state;
    make(false);
    made.row[3].whole = false;
    assert_fault(HISTORY_TORN);
    make(false);
    made.row[3].bytes--;
    assert_fault(HISTORY_LENGTH);
    make(false);
    made.row[3].serial = 40;
    assert_fault(HISTORY_UNKNOWN);
    make(false);
    made.row[3].producer = 2;
    assert_fault(HISTORY_UNKNOWN);
    make(false);
    made.silent = true;
    shr_store32_relaxed(&note_of(3)->silent, 1);
    assert_fault(HISTORY_SILENT);
    leave_out(3, 1);
    assert_fault(HISTORY_FINE);
}

static void test_order(void **state)
{
    (void)state;
    make(true); /* two of one producer: dropped, as it seems, and then it comes */
    swap(0);
    assert_fault(HISTORY_ORDER);
    make(true);
    made.row[3].position = made.row[1].position;
    assert_fault(HISTORY_POSITION);
    make(false);
    made.row[8].number++;
    assert_fault(HISTORY_NUMBER);
    make(false);
    made.row[5].number++; /* within a batch */
    assert_fault(HISTORY_NUMBER);
    make(false); /* another handle of the same producer, and a number that nobody has */
    made.row[8].number++;
    shr_store32_relaxed(&note_of(8)->stint, 2);
    assert_fault(HISTORY_NUMBER);
    make(true); /* that may be one that was dropped */
    made.row[8].number++;
    shr_store32_relaxed(&note_of(8)->stint, 2);
    assert_fault(HISTORY_FINE);
    made.row[8].number = 5; /* but not one that came already */
    assert_fault(HISTORY_NUMBER);
    make(false);
    made.row[2].redelivered = true;
    assert_fault(HISTORY_MARK);
}

/* The consumer dies with the batch in hand. */
static void test_redelivery(void **state)
{
    struct history h;
    (void)state;
    for (uint32_t part = 0; part < 3; part++) {
        make(false);
        made.row[4 + part].finished = false;
        insert(4 + part, 4, 3);
        leave_out(4 + part + 4, 2 - part); /* what the dead one did not reach */
        die_before(4 + part + 1);
        struct history_row *again = &made.row[4 + part + 1];
        for (uint32_t i = 0; i < 3; i++) {
            again[i].finished = true;
            again[i].redelivered = true;
        }
        made.cnt = 4 + part + 1 + 3;
        shr_store_relaxed(&made.begun[0], 5);
        shr_store_relaxed(&made.begun[1], 2);
        assert_int_equal(judge(&h), HISTORY_FINE);
        assert_int_equal(h.again, part + 1);
        assert_int_equal(h.delivered[0], 5);
        again[0].redelivered = false;
        assert_fault(HISTORY_DUPLICATE);
        again[0].redelivered = true;
        again[1].redelivered = false;
        assert_fault(HISTORY_MARK);
        again[1].redelivered = true;
        again[1].number++;
        assert_fault(HISTORY_NUMBER);
        again[1].number--;
        again[0].serial++;
        again[0].bytes++;
        assert_fault(HISTORY_POSITION);
        again[0].serial--;
        again[0].bytes--;
        made.drops = true; /* there it does not come again */
        assert_fault(HISTORY_DUPLICATE);
    }
    make(false);
    made.row[6].finished = false;
    die_before(7); /* it does not come again */
    assert_fault(HISTORY_LOST);
    made.drops = true;
    assert_fault(HISTORY_FINE);
    make(false); /* died between two events, or before the handler */
    die_before(7);
    assert_fault(HISTORY_FINE);
    made.row[7].redelivered = true;
    assert_fault(HISTORY_FINE);
    made.drops = true;
    assert_fault(HISTORY_MARK);
    make(false); /* the last one, and nobody comes after it */
    made.row[8].finished = false;
    assert_fault(HISTORY_LOST);
    made.drops = true;
    assert_fault(HISTORY_FINE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_right),      cmocka_unit_test(test_real_time),
        cmocka_unit_test(test_duplicate),  cmocka_unit_test(test_lost),
        cmocka_unit_test(test_dropped),    cmocka_unit_test(test_half_a_batch),
        cmocka_unit_test(test_payload),    cmocka_unit_test(test_order),
        cmocka_unit_test(test_redelivery),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
