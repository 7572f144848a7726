/* Goal: batches are all or none and stay together; loans are built in place and belong to one
 * producer until they are committed or returned.
 * Method: single-threaded on small buses; after each failure the account and the blocks in use are
 * what they were; redelivery by a consumer that is killed within a handler. */
#include "tests/api_support.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <signal.h>
#include <string.h>
#include <cmocka.h>

#define SLABS UINT64_C(262144)

static struct api_log record;
static unsigned char bytes[65536];

static void open_with_handler(struct api *a, enum geb_policy policy, uint32_t capacity)
{
    record = (struct api_log){0};
    api_open_slabs(a, policy, capacity, SLABS);
    assert_int_equal(geb_on(a->bus, "t", api_record, &record), 0);
}

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

/* A batch of cnt numbers from `from` on, alternating between two topics. */
static int publish_numbers(struct api *a, uint64_t from, uint32_t cnt)
{
    struct geb_message messages[32];
    uint64_t value[32];
    for (uint32_t i = 0; i < cnt; i++) {
        value[i] = from + i;
        messages[i] = (struct geb_message){
            .topic = a->topic, .len = 8, .data = &value[i], .key = i};
    }
    return geb_publish_batch(a->producer, messages, cnt, NULL);
}

/* ---- batches --------------------------------------------------------------------------------- */

static void batch_stays_together_in_order(void **state)
{
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_BLOCK, 8);
    api_publish(&a, 1, 1);
    assert_int_equal(publish_numbers(&a, 2, 20), 0); /* more events than positions */
    api_publish(&a, 22, 1);
    assert_int_equal(api_account(&a).pending, 22);
    assert_int_equal(api_account(&a).used, 3);
    assert_true(geb_dispatch(a.bus, 0) > 0);
    assert_int_equal(record.cnt, 22);
    for (uint32_t i = 0; i < 22; i++) {
        assert_int_equal(api_number(&record.row[i]), i + 1);
        assert_int_equal(record.row[i].event.number, i + 1);
        assert_int_equal(record.row[i].event.len, 8);
        assert_int_equal(record.row[i].event.key, i == 0 || i == 21 ? 0 : i - 1);
    }
    struct geb_metrics m = api_account(&a);
    assert_int_equal(m.accepted, 22);
    assert_int_equal(m.delivered, 22);
    assert_int_equal(blocks_used(&a), 0);
    api_end(&a);
}

static void batch_mixes_topics_and_lengths(void **state)
{
    struct geb_message messages[8];
    struct api a = {0};
    geb_topic_id other;
    (void)state;
    open_with_handler(&a, GEB_BLOCK, 8);
    assert_int_equal(geb_topic(a.producer, "unhandled", &other), 0);
    for (uint32_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (unsigned char)i;
    for (uint32_t i = 0; i < 8; i++)
        messages[i] = (struct geb_message){
            .topic = i % 4 == 3 ? other : a.topic, .len = i * 7, .data = i == 0 ? NULL : bytes + i};
    assert_int_equal(geb_publish_batch(a.producer, messages, 8, NULL), 0);
    assert_true(geb_dispatch(a.bus, 0) > 0);
    assert_int_equal(record.cnt, 6);
    for (uint32_t i = 0, k = 0; i < 8; i++) {
        if (i % 4 == 3)
            continue;
        assert_int_equal(record.row[k].event.len, i * 7);
        assert_memory_equal(record.row[k].data, bytes + i, i * 7);
        assert_int_equal(record.row[k++].event.number, i + 1);
    }
    struct geb_metrics m = api_account(&a);
    assert_int_equal(m.delivered, 6);
    assert_int_equal(m.unhandled, 2);
    api_end(&a);
}

static void wrong_batches_change_nothing(void **state)
{
    struct geb_options options = GEB_OPTIONS_INIT;
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_BLOCK, 8);
    struct geb_message m[3] = {{.topic = a.topic, .len = 8, .data = bytes},
                               {.topic = a.topic, .len = 8, .data = bytes},
                               {.topic = a.topic, .len = 8, .data = bytes}};
    api_refused(geb_publish_batch(a.producer, m, 0, NULL), -EINVAL, "at least one");
    api_refused(geb_publish_batch(a.producer, NULL, 3, NULL), -EINVAL, "");
    m[2].topic = 3;
    api_refused(geb_publish_batch(a.producer, m, 3, NULL), -ENXIO, "topic");
    m[2].topic = a.topic;
    m[2].data = NULL;
    api_refused(geb_publish_batch(a.producer, m, 3, NULL), -EINVAL, "message 2");
    m[2].data = bytes;
    m[2].len = UINT32_MAX;
    api_refused(geb_publish_batch(a.producer, m, 3, NULL), -EMSGSIZE, "max_event");
    m[1].len = UINT32_MAX;
    m[0].len = UINT32_MAX;
    api_refused(geb_publish_batch(a.producer, m, 3, NULL), -EMSGSIZE, "max_event");
    options.size = 1;
    api_refused(geb_publish_batch(a.producer, m, 1, &options), -EINVAL, "GEB_OPTIONS_INIT");
    assert_int_equal(api_account(&a).accepted, 0);
    assert_int_equal(api_account(&a).used, 0);
    assert_int_equal(blocks_used(&a), 0);
    /* The limit is exact: each size rounded up to 8, and 16 more. */
    m[0].len = 65536 - 24 - 16;
    m[1].len = 1;
    assert_int_equal(geb_publish_batch(a.producer, m, 2, NULL), 0);
    m[0].len++;
    api_refused(geb_publish_batch(a.producer, m, 2, NULL), -EMSGSIZE, "max_event");
    assert_int_equal(api_account(&a).accepted, 2);
    api_end(&a);
}

static void batch_is_dropped_whole(void **state)
{
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_DROP_OLDEST, 4);
    assert_int_equal(publish_numbers(&a, 1, 10), 0);
    api_publish(&a, 11, 3);
    assert_int_equal(api_account(&a).pending, 13);
    api_publish(&a, 14, 1);
    struct geb_metrics m = api_account(&a);
    assert_int_equal(m.dropped, 10);
    assert_int_equal(m.pending, 4);
    assert_int_equal(blocks_used(&a), 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 4);
    assert_int_equal(api_number(&record.row[0]), 11);
    assert_int_equal(record.row[0].event.number, 11);
    m = api_account(&a);
    assert_int_equal(m.accepted, 14);
    assert_int_equal(m.dropped, 10);
    api_end(&a);
}

struct killing {
    const char *name;
    uint32_t calls;
    uint32_t at;
};

static int kill_at(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct killing *k = user;
    (void)ctx;
    (void)event;
    if (++k->calls == k->at)
        raise(SIGKILL);
    return 0;
}

static int consume_and_die(void *arg)
{
    struct killing *k = arg;
    struct geb_bus *bus;
    SUPPORT_CHECK(geb_open(&bus, k->name) == 0);
    SUPPORT_CHECK(geb_on(bus, "t", kill_at, k) == 0);
    geb_dispatch(bus, 0);
    return 1;
}

static void batch_is_redelivered_whole(void **state)
{
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_BLOCK, 8);
    api_publish(&a, 1, 1);
    assert_int_equal(publish_numbers(&a, 2, 6), 0);
    assert_int_equal(geb_close(a.bus, 0), 0);
    struct killing k = {.name = a.name, .at = 4};
    for (int i = 0; i < 2; i++) { /* the first time at its third event, then at its first */
        assert_int_equal(support_wait(support_child(consume_and_die, &k)), -SIGKILL);
        k.at = 1;
    }
    assert_int_equal(geb_open(&a.bus, a.name), 0);
    assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
    api_account(&a);
    assert_true(geb_dispatch(a.bus, 0) > 0);
    assert_int_equal(record.cnt, 6);
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(api_number(&record.row[i]), i + 2);
        assert_int_equal(record.row[i].event.number, i + 2);
        assert_true(record.row[i].event.redelivered);
        assert_int_equal(record.row[i].event.attempt, 3);
    }
    struct geb_metrics m = api_account(&a);
    assert_int_equal(m.delivered, 7);
    assert_int_equal(m.restarts, 2);
    assert_int_equal(m.redelivered, 12);
    assert_int_equal(blocks_used(&a), 0);
    api_end(&a);
}

/* ---- loans ----------------------------------------------------------------------------------- */

static void loan_is_built_in_place(void **state)
{
    struct geb_options options = GEB_OPTIONS_INIT;
    struct geb_loan loan[3];
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_BLOCK, 8);
    options.id = 9;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(geb_loan(a.producer, 200u + (unsigned)i, &loan[i]), 0);
        assert_int_equal(loan[i].len, 200 + i);
        assert_int_equal((uintptr_t)loan[i].data % 128, 0);
        memset(loan[i].data, i + 1, loan[i].len);
    }
    assert_int_equal(api_account(&a).accepted, 0);
    assert_int_equal(blocks_used(&a), 3);
    loan[1].len = 40; /* shrunk */
    assert_int_equal(geb_commit_with(a.producer, &loan[1], a.topic, &options), 0);
    assert_int_equal(geb_commit(a.producer, &loan[0], a.topic), 0);
    assert_null(loan[0].data);
    assert_int_equal(geb_return(a.producer, &loan[2]), 0);
    assert_null(loan[2].data);
    assert_int_equal(geb_dispatch(a.bus, 0), 2);
    assert_int_equal(record.row[0].event.len, 40);
    assert_int_equal(record.row[0].event.id, 9);
    assert_int_equal(record.row[0].data[39], 2);
    assert_int_equal(record.row[1].event.len, 200);
    assert_int_equal(record.row[1].data[63], 1);
    assert_int_equal(blocks_used(&a), 0);
    assert_int_equal(api_account(&a).accepted, 2);
    api_end(&a);
}

static void used_loans_are_refused(void **state)
{
    struct geb_loan loan;
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_BLOCK, 8);
    assert_int_equal(geb_loan(a.producer, 100, &loan), 0);
    struct geb_loan copy = loan;
    assert_int_equal(geb_commit(a.producer, &loan, a.topic), 0);
    api_refused(geb_commit(a.producer, &loan, a.topic), -EINVAL, "loan");
    api_refused(geb_return(a.producer, &loan), -EINVAL, "loan");
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    assert_int_equal(record.row[0].event.len, 100);
    /* The same block by a copy of the loan. */
    api_refused(geb_commit(a.producer, &copy, a.topic), -EINVAL, "loan");
    api_refused(geb_return(a.producer, &copy), -EINVAL, "loan");
    assert_int_equal(geb_loan(a.producer, 100, &loan), 0);
    copy = loan;
    assert_int_equal(geb_return(a.producer, &loan), 0);
    api_refused(geb_return(a.producer, &copy), -EINVAL, "loan");
    api_refused(geb_commit(a.producer, &copy, a.topic), -EINVAL, "loan");
    assert_int_equal(api_account(&a).accepted, 1);
    api_end(&a);
}

static void strange_loans_are_refused(void **state)
{
    struct geb_producer *other;
    struct geb_loan loan;
    struct geb_loan copy;
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_BLOCK, 8);
    assert_int_equal(geb_join(&other, a.name, "other"), 0);
    api_refused(geb_loan(a.producer, 0, &loan), -EINVAL, "byte");
    api_refused(geb_loan(a.producer, 8, NULL), -EINVAL, "NULL");
    api_refused(geb_loan(a.producer, 65537, &loan), -EMSGSIZE, "65536");
    assert_null(loan.data);
    api_refused(geb_commit(a.producer, NULL, a.topic), -EINVAL, "loan");
    api_refused(geb_return(a.producer, NULL), -EINVAL, "loan");
    assert_int_equal(geb_loan(a.producer, 100, &loan), 0);
    memset(loan.data, 5, 100);
    api_refused(geb_commit(other, &loan, a.topic), -EINVAL, "loan");
    api_refused(geb_return(other, &loan), -EINVAL, "loan");
    api_refused(geb_commit(a.producer, &loan, 3), -ENXIO, "topic");
    copy = loan;
    copy.len = 70000; /* beyond what was lent */
    api_refused(geb_commit(a.producer, &copy, a.topic), -EINVAL, "loan");
    copy.len = 4096;
    api_refused(geb_commit(a.producer, &copy, a.topic), -EINVAL, "no room for 4096 bytes");
    copy = loan;
    copy.handle ^= UINT64_C(1) << 40;
    api_refused(geb_return(a.producer, &copy), -EINVAL, "loan");
    copy.handle = UINT64_MAX;
    api_refused(geb_return(a.producer, &copy), -EINVAL, "loan");
    struct geb_options options = {.size = 3};
    api_refused(geb_commit_with(a.producer, &loan, a.topic, &options), -EINVAL, "INIT");
    /* On failure it is still ours. */
    assert_int_equal(geb_commit(a.producer, &loan, a.topic), 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    assert_int_equal(record.row[0].data[63], 5);
    assert_int_equal(geb_leave(other), 0);
    /* Whatever its len says, it can be given back. */
    assert_int_equal(geb_loan(a.producer, 100, &loan), 0);
    loan.len = SIZE_MAX;
    api_refused(geb_commit(a.producer, &loan, a.topic), -EINVAL, "no room");
    assert_int_equal(geb_return(a.producer, &loan), 0);
    assert_int_equal(blocks_used(&a), 0);
    api_end(&a);
}

static void failed_commit_keeps_the_loan(void **state)
{
    struct geb_loan loan;
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_RETURN_ERROR, 4);
    assert_int_equal(geb_loan(a.producer, 100, &loan), 0);
    memset(loan.data, 6, 100);
    api_publish(&a, 1, 4);
    for (int i = 0; i < 3; i++)
        api_refused(geb_commit(a.producer, &loan, a.topic), -EAGAIN, "full");
    assert_int_equal(blocks_used(&a), 1);
    assert_int_equal(geb_dispatch(a.bus, 1), 1);
    assert_int_equal(geb_commit(a.producer, &loan, a.topic), 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 4);
    assert_int_equal(record.row[4].data[0], 6);
    api_end(&a);
}

/* The block of a loan may have room for more than max_event. */
static void grown_loan_is_refused(void **state)
{
    struct geb_config config = api_config(GEB_RETURN_ERROR, 4);
    struct geb_loan loan;
    struct api a = {0};
    (void)state;
    config.slab_bytes = 1 << 20;
    config.max_event = 1000;
    api_open_config(&a, &config);
    api_publish(&a, 1, 1); /* the topic is known from here on */
    assert_int_equal(geb_loan(a.producer, 1000, &loan), 0);
    loan.len = 1024;
    api_refused(geb_commit(a.producer, &loan, a.topic), -EMSGSIZE, "1000");
    loan.len = 1025;
    api_refused(geb_commit(a.producer, &loan, a.topic), -EINVAL, "loan");
    loan.len = 1000;
    assert_int_equal(geb_commit(a.producer, &loan, a.topic), 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 2);
    assert_int_equal(api_account(&a).unhandled, 2);
    api_end(&a);
}

static int borrow_and_die(void *arg)
{
    struct geb_producer *producer;
    struct geb_loan loan;
    SUPPORT_CHECK(geb_join(&producer, arg, "borrower") == 0);
    for (int i = 0; i < 4; i++)
        SUPPORT_CHECK(geb_loan(producer, 65536, &loan) == 0);
    raise(SIGKILL);
    return 1;
}

static void loans_come_back(void **state)
{
    struct geb_producer *borrower;
    struct geb_loan loan;
    struct api a = {0};
    (void)state;
    open_with_handler(&a, GEB_RETURN_ERROR, 4);
    assert_int_equal(geb_leave(a.producer), 0); /* it may keep a chunk for itself */
    a.producer = NULL;
    for (int lap = 0; lap < 3; lap++) { /* all of the memory each time */
        assert_int_equal(geb_join(&borrower, a.name, "borrower"), 0);
        for (int i = 0; i < 4; i++)
            assert_int_equal(geb_loan(borrower, 65536, &loan), 0);
        assert_int_equal(geb_loan(borrower, 1, &loan), -ENOBUFS);
        assert_int_equal(geb_leave(borrower), 0);
        /* Those of a producer that leaves or dies are swept by the consumer, which looks at the
         * clock on some of its calls only. */
        uint64_t end_ns = geb_now() + UINT64_C(20000000000);
        int rc;
        do {
            assert_int_equal(geb_dispatch(a.bus, 0), 0);
            rc = support_wait(support_child(borrow_and_die, a.name));
        } while (rc != -SIGKILL && geb_now() < end_ns);
        assert_int_equal(rc, -SIGKILL);
        do {
            assert_int_equal(geb_dispatch(a.bus, 0), 0);
        } while (blocks_used(&a) != 0 && geb_now() < end_ns);
        assert_int_equal(blocks_used(&a), 0);
    }
    assert_int_equal(api_account(&a).accepted, 0);
    api_end(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batch_stays_together_in_order),
        cmocka_unit_test(batch_mixes_topics_and_lengths),
        cmocka_unit_test(wrong_batches_change_nothing),
        cmocka_unit_test(batch_is_dropped_whole),
        cmocka_unit_test(batch_is_redelivered_whole),
        cmocka_unit_test(loan_is_built_in_place),
        cmocka_unit_test(used_loans_are_refused),
        cmocka_unit_test(strange_loans_are_refused),
        cmocka_unit_test(failed_commit_keeps_the_loan),
        cmocka_unit_test(grown_loan_is_refused),
        cmocka_unit_test(loans_come_back),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
