/* Goal: a producer on a full bus comes to an end, whatever becomes of the room that it was
 * promised: on damaged rings, and where others are faster each time; one publish that waits for
 * several things counts as one; and a deadline is slept through.
 *
 * Method: single-threaded. What others do while a producer is inside is done by the calls that it
 * makes: its clock, and syscall(), which is this program's, when it says that it sleeps, and when
 * it does; time passes there too. The harm has an end of its own, so that a producer without one
 * succeeds, and the test fails. test_overrun.c has the policies on whole rings. */
#include "tests/api_support.h"
#include "tests/step_clock.h"

#include "lib/internal.h"

#include <errno.h>
#include <linux/futex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

STEP_CLOCK_GETTIME

#define CAPACITY    4u
#define CHUNK_BYTES 65536u

static struct api a;

static int end(void **state)
{
    (void)state;
    api_end(&a);
    a = (struct api){0};
    return 0;
}

/* ---- drop-oldest: a clock that does harm ----------------------------------------------------- */

#define HARM_MAX 400000u /* looks at the clock; far more than any bound leaves room for */

static uint64_t harm_ns;
static unsigned harm_cnt;

/* The oldest cell is written anew at each look, so that nobody gets to revoke it. */
static uint64_t flip_oldest(void)
{
    const struct shr_map *map = &a.producer->map;
    uint64_t pos = shr_load_relaxed(&map->hot->tail);
    shr_a64 *state = &map->cells[shr_cell_index(pos, map->geo.cell_cnt)].state;
    if (++harm_cnt < HARM_MAX)
        shr_store_relaxed(state, shr_state(pos - map->geo.cell_cnt,
                                           harm_cnt % 2 != 0 ? SHR_TAG_VOID : SHR_TAG_DONE));
    return harm_ns += map->geo.patience_ns / 4;
}

/* Others publish at each look: the ring is fuller than its capacity, within its cells. */
static uint64_t publish_faster(void)
{
    const struct shr_map *map = &a.producer->map;
    uint64_t end = shr_load_relaxed(&map->hot->tail) + map->geo.cell_cnt - 1;
    for (uint64_t pos = shr_load_relaxed(&map->hot->head); pos != end && harm_cnt < HARM_MAX; pos++)
        shr_store_relaxed(&map->cells[shr_cell_index(pos, map->geo.cell_cnt)].state,
                          shr_state(pos, SHR_TAG_READY));
    if (++harm_cnt < HARM_MAX)
        shr_store_relaxed(&map->hot->head, end);
    return harm_ns += map->geo.patience_ns / 4;
}

static void open_harmed(uint64_t (*harm)(void))
{
    api_open(&a, GEB_DROP_OLDEST, CAPACITY);
    api_publish(&a, 1, CAPACITY);
    a.producer->taker.now_ns = harm;
    harm_cnt = 0;
}

static void a_tail_that_is_stuck_fails_soon(void **state)
{
    (void)state;
    open_harmed(flip_oldest);
    uint64_t tail = shr_load_relaxed(&a.producer->map.hot->tail);
    api_refused(geb_publish(a.producer, a.topic, "x", 1), -EBADMSG, "dropped from");
    assert_int_equal(shr_load_relaxed(&a.producer->map.hot->tail), tail);
    /* 64 attempts of two patiences, and what each looks around them. */
    assert_true(harm_cnt >= 64 * 8 && harm_cnt < 65 * 16);
}

static void room_that_others_take_is_not_sought_for_ever(void **state)
{
    (void)state;
    open_harmed(publish_faster);
    api_refused(geb_publish(a.producer, a.topic, "x", 1), -EBADMSG, "dropped from");
}

/* ---- what happens as a producer sleeps ------------------------------------------------------- */

static void (*on_barrier)(void); /* it says that it sleeps */
static void (*on_sleep)(const void *word, uint32_t ticket);
static const struct timespec *sleep_end;
static unsigned barriers, sleeps;

/* The one of libc, but that nobody sleeps. */
long syscall(long number, ...)
{
    long arg[6];
    va_list args;
    va_start(args, number);
    for (int i = 0; i < 6; i++)
        arg[i] = va_arg(args, long);
    va_end(args);
    if (number == SYS_membarrier && on_barrier != NULL) {
        barriers++;
        on_barrier();
    }
    if (number == SYS_futex && (int)arg[1] == FUTEX_WAIT_BITSET && on_sleep != NULL) {
        sleeps++;
        sleep_end = (const struct timespec *)arg[3];
        on_sleep((const void *)arg[0], (uint32_t)arg[2]);
        return 0;
    }
    return support_libc_syscall(number, arg);
}

static uint64_t full(void)
{
    return shr_load_relaxed(&a.producer->writer.peer->full);
}

static unsigned char bytes[CHUNK_BYTES];
static struct geb_loan loan;
static bool returns_early; /* the block comes free at the barrier, else in the sleep */

static void return_loan(void)
{
    if (loan.data != NULL)
        assert_int_equal(geb_return(a.producer, &loan), 0);
}

static void barrier_happens(void)
{
    if (returns_early)
        return_loan();
}

/* Who sleeps has said so at the gate of what it waits for now, and sleeps by its count. */
static void sleep_happens(const void *word, uint32_t ticket)
{
    bool for_block = loan.data != NULL;
    struct shr_hot *hot = a.producer->map.hot;
    struct shr_gate *gate = for_block ? &hot->freed : &hot->space;
    assert_ptr_equal(word, &gate->seq);
    assert_int_equal(ticket, shr_load32_relaxed(&gate->seq));
    assert_int_equal(shr_load32_relaxed(&gate->waiting), 1);
    assert_int_equal(shr_load32_relaxed(&a.producer->writer.peer->waiting),
                     for_block ? SHR_WAIT_BLOCK : SHR_WAIT_SPACE);
    if (for_block)
        return_loan();
    else
        assert_int_equal(geb_dispatch(a.bus, 1), 1);
}

static int publish_copy(void)
{
    return geb_publish(a.producer, a.topic, bytes, CHUNK_BYTES);
}

static int publish_batch(void)
{
    struct geb_message message = {.topic = a.topic, .len = 5000, .data = bytes};
    return geb_publish_batch(a.producer, &message, 1, NULL);
}

/* All chunks are lent and the ring is full, so one publish waits for a block, then for a place. */
static void waiting_for_two_things_counts_once(void **state)
{
    (void)state;
    api_watchdog(60);
    api_open_slabs(&a, GEB_BLOCK, CAPACITY, CHUNK_BYTES * 2);
    struct geb_loan other;
    assert_int_equal(geb_loan(a.producer, CHUNK_BYTES, &other), 0);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(geb_loan(a.producer, CHUNK_BYTES, &loan), 0);
        api_publish(&a, 0, CAPACITY);
        assert_int_equal(full(), i);
        returns_early = i % 2 != 0;
        barriers = sleeps = 0;
        on_barrier = barrier_happens;
        on_sleep = sleep_happens;
        int rc = i < 2 ? publish_copy() : publish_batch();
        on_barrier = NULL;
        on_sleep = NULL;
        assert_int_equal(rc, 0);
        assert_int_equal(sleeps, returns_early ? 1 : 2);
        assert_int_equal(full(), i + 1);
        assert_int_equal(geb_dispatch(a.bus, 0), CAPACITY);
    }
    assert_int_equal(geb_return(a.producer, &other), 0);
    api_watchdog(0);
}

/* ---- a deadline ------------------------------------------------------------------------------ */

static void time_passes(const void *word, uint32_t ticket)
{
    (void)word;
    (void)ticket;
    step_clock_pass((uint64_t)sleep_end->tv_sec * 1000000000u + (uint64_t)sleep_end->tv_nsec);
}

/* In sleeps that are as long as may be, of which the last one ends with it. */
static void a_deadline_is_slept_through(void **state)
{
    struct geb_options options = GEB_OPTIONS_INIT;
    (void)state;
    api_open(&a, GEB_BLOCK, CAPACITY);
    api_publish(&a, 0, CAPACITY);
    sleeps = 0;
    on_sleep = time_passes;
    step_clock_steady();
    options.wait_until_ns = geb_now() + 4 * SHR_SLEEP_MAX_NS;
    int rc = geb_publish_with(a.producer, a.topic, "x", 1, &options);
    uint64_t end_ns = geb_now();
    step_clock_kernel();
    on_sleep = NULL;
    api_refused(rc, -ETIMEDOUT, "deadline");
    assert_int_equal(sleeps, 4);
    assert_in_range(end_ns, options.wait_until_ns, options.wait_until_ns + 10000);
}

/* ---- room that is gone at each attempt ------------------------------------------------------- */

#define LOOKS 64u

/* The ring is empty, so each look at tail finds room; the attempts that lose it are left out. */
static void room_that_is_gone_each_time_is_no_room(void **state)
{
    struct gebi_overrun o = {.wait_until_ns = GEB_FOREVER};
    (void)state;
    api_open(&a, GEB_RETURN_ERROR, CAPACITY);
    for (uint32_t i = 0; i < LOOKS; i++)
        assert_int_equal(gebi_make_room(a.producer, -EAGAIN, &o), 0);
    api_refused(gebi_make_room(a.producer, -EAGAIN, &o), -EAGAIN, "full");
    assert_int_equal(full(), 1);
}

static void no_sleep(const void *word, uint32_t ticket)
{
    (void)word;
    (void)ticket;
}

/* A sleep ends a row of looks, and the next row begins with it. */
static void a_sleep_ends_a_row_of_looks(void **state)
{
    struct gebi_overrun o = {.wait_until_ns = GEB_FOREVER};
    (void)state;
    api_open(&a, GEB_BLOCK, CAPACITY);
    sleeps = 0;
    on_sleep = no_sleep;
    for (uint32_t i = 1; i <= GEBI_SPINS + 3 * (LOOKS + 2); i++) {
        assert_int_equal(gebi_make_room(a.producer, -EAGAIN, &o), 0);
        uint32_t rows = i < GEBI_SPINS ? 0 : (i - GEBI_SPINS) / (LOOKS + 2); /* spins come first */
        assert_int_equal(sleeps, rows);
    }
    on_sleep = NULL;
    assert_int_equal(full(), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_tail_that_is_stuck_fails_soon, end),
        cmocka_unit_test_teardown(room_that_others_take_is_not_sought_for_ever, end),
        cmocka_unit_test_teardown(waiting_for_two_things_counts_once, end),
        cmocka_unit_test_teardown(a_deadline_is_slept_through, end),
        cmocka_unit_test_teardown(room_that_is_gone_each_time_is_no_room, end),
        cmocka_unit_test_teardown(a_sleep_ends_a_row_of_looks, end),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
