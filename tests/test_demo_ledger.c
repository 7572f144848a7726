/* Goal: geb demo fails if any column of the account differs from its ledgers, and says which; and
 * its ledgers leave no choice but the one event that a killed producer may have committed.
 * Method: ledgers and an account that agree, then one of them changed at a time. */
#include "tools/geb/demo_ledger.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct demo_ledger ledger;
static struct demo_account account;
static char *text;

/* Each source has committed 1,000 events, of which the handlers have seen all but 10 in the middle
 * and the last 5. The process sampler has sent 2 that expire and 3 that nobody wants among them. */
static int ledger_make(void **state)
{
    (void)state;
    ledger = (struct demo_ledger){0};
    shr_store_relaxed(&ledger.killed, DEMO_NOBODY);
    for (int i = 0; i < DEMO_SOURCE_CNT; i++) {
        shr_store_relaxed(&ledger.sent[i].begun, 1000);
        shr_store_relaxed(&ledger.sent[i].ended, 1000);
        shr_store_relaxed(&ledger.seen[i].delivered, 985);
        shr_store_relaxed(&ledger.seen[i].last, 995);
        shr_store_relaxed(&ledger.seen[i].gaps, 10);
    }
    shr_store_relaxed(&ledger.sent[DEMO_PROCESS].expiring, 2);
    shr_store_relaxed(&ledger.sent[DEMO_PROCESS].unwanted, 3);
    shr_store_relaxed(&ledger.handler_errors, 4);
    account = (struct demo_account){.accepted = 6000,
                                    .delivered = 5910,
                                    .dropped = 85,
                                    .expired = 2,
                                    .unhandled = 3,
                                    .published = 6000,
                                    .processed = 5910,
                                    .errors = 4};
    return 0;
}

static int text_free(void **state)
{
    (void)state;
    free(text);
    text = NULL;
    return 0;
}

/* Returns the number of differences; the messages are in `text`. */
static int differences(void)
{
    size_t bytes;
    free(text);
    FILE *to = open_memstream(&text, &bytes);
    assert_non_null(to);
    struct demo_account sum;
    demo_ledger_sum(&ledger, account.accepted, &sum);
    int cnt = demo_ledger_check(&ledger, account.accepted, to);
    cnt += demo_account_compare("the bus", &account, &sum, to);
    fclose(to);
    return cnt;
}

static void a_right_ledger_passes(void **state)
{
    (void)state;
    assert_int_equal(differences(), 0);
    assert_string_equal(text, "");
}

static void column_must_fail(uint64_t *column, const char *name)
{
    char message[160];
    uint64_t right = *column;
    *column = right + 1;
    snprintf(message, sizeof message, "%s: the bus says %llu, the ledgers say %llu\n", name,
             (unsigned long long)right + 1, (unsigned long long)right);
    assert_int_equal(differences(), 1);
    assert_string_equal(text, message);
    *column = right;
    assert_int_equal(differences(), 0);
}

static void every_column_is_compared(void **state)
{
    (void)state;
#define COLUMN(name) column_must_fail(&account.name, #name);
    DEMO_COMPARED(COLUMN)
#undef COLUMN
}

static void every_column_of_geb_h_is_there(void **state)
{
    (void)state;
    /* The nine columns stand first in struct geb_metrics, published follows. */
    struct geb_metrics metrics = GEB_METRICS_INIT;
    struct demo_account of_bus;
    uint64_t *columns = &metrics.accepted;
    size_t cnt = (offsetof(struct geb_metrics, published) -
                  offsetof(struct geb_metrics, accepted)) /
                 sizeof metrics.accepted;
    assert_int_equal(cnt, 9);
    for (size_t i = 0; i < cnt; i++)
        columns[i] = i + 1;
    demo_account_of_bus(&metrics, &of_bus);
    uint64_t expected = 1;
#define COLUMN(name) assert_int_equal(of_bus.name, expected++);
    DEMO_COLUMNS(COLUMN)
#undef COLUMN
}

static void an_event_lost_by_the_bus_fails(void **state)
{
    (void)state;
    account.delivered--;
    account.dropped++;
    assert_int_equal(differences(), 2);
    assert_non_null(strstr(text, "delivered: the bus says 5909, the ledgers say 5910\n"));
    assert_non_null(strstr(text, "dropped: the bus says 86, the ledgers say 85\n"));
}

/* The producer died between `begun` and `ended`: both counts are right, others are not. */
static void the_killed_one_may_have_committed_one_more(void **state)
{
    (void)state;
    shr_store_relaxed(&ledger.killed, DEMO_TICKS);
    shr_store_relaxed(&ledger.sent[DEMO_TICKS].begun, 1001);
    assert_int_equal(differences(), 0);
    account.accepted = account.published = 6001;
    assert_int_equal(differences(), 1);
    assert_string_equal(text, "dropped: the bus says 85, the ledgers say 86\n");
    account.dropped = 86;
    assert_int_equal(differences(), 0);
    account.accepted = account.published = 6002;
    assert_true(differences() > 0);
    account.accepted = account.published = 5999;
    assert_true(differences() > 0);
}

/* A handler has seen the event in doubt: it is committed, whatever the bus says. */
static void a_seen_event_is_not_in_doubt(void **state)
{
    (void)state;
    shr_store_relaxed(&ledger.killed, DEMO_TICKS);
    shr_store_relaxed(&ledger.sent[DEMO_TICKS].begun, 1001);
    shr_store_relaxed(&ledger.seen[DEMO_TICKS].last, 1001);
    shr_store_relaxed(&ledger.seen[DEMO_TICKS].delivered, 986);
    shr_store_relaxed(&ledger.seen[DEMO_TICKS].gaps, 15);
    assert_int_equal(differences(), 4); /* accepted, delivered, published, processed */
    assert_non_null(strstr(text, "accepted: the bus says 6000, the ledgers say 6001\n"));
    account.accepted = account.published = 6001;
    account.delivered = account.processed = 5911;
    assert_int_equal(differences(), 0);
}

static void only_the_killed_one_may_be_in_doubt(void **state)
{
    (void)state;
    shr_store_relaxed(&ledger.killed, DEMO_TICKS);
    shr_store_relaxed(&ledger.sent[DEMO_CPU].begun, 1001);
    assert_int_equal(differences(), 1);
    assert_string_equal(text, "cpu: 1001 events begun, 1000 ended\n");
}

static void order_damage_and_closure_are_checked(void **state)
{
    (void)state;
    shr_store_relaxed(&ledger.seen[DEMO_BLOCKS].disorder, 1);
    assert_int_equal(differences(), 1);
    assert_string_equal(text, "blocks: 1 events came twice or out of order\n");
    shr_store_relaxed(&ledger.seen[DEMO_BLOCKS].disorder, 0);
    shr_store_relaxed(&ledger.seen[DEMO_TICKS].damaged, 2);
    assert_int_equal(differences(), 1);
    assert_string_equal(text, "ticks: 2 payloads were damaged\n");
    shr_store_relaxed(&ledger.seen[DEMO_TICKS].damaged, 0);
    shr_store_relaxed(&ledger.uninvited, 3);
    assert_int_equal(differences(), 1);
    assert_string_equal(text, "3 events were delivered after their deadline\n");
    shr_store_relaxed(&ledger.uninvited, 0);
    /* A duplicate in the handlers that the bus counts as well. */
    shr_store_relaxed(&ledger.seen[DEMO_CPU].delivered, 986);
    account.delivered = account.processed = 5911;
    assert_int_equal(differences(), 1);
    assert_string_equal(text, "the ledgers do not close: 6000 events accepted, 6001 ended\n");
}

static void an_event_from_nowhere_fails(void **state)
{
    (void)state;
    shr_store_relaxed(&ledger.seen[DEMO_MEMORY].last, 1001);
    assert_true(differences() > 0);
    assert_non_null(strstr(text, "memory: event 1001 was handled, the last one begun was 1000\n"));
}

#define LEDGER_TEST(f) cmocka_unit_test_setup_teardown(f, ledger_make, text_free)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LEDGER_TEST(a_right_ledger_passes),
        LEDGER_TEST(every_column_is_compared),
        LEDGER_TEST(every_column_of_geb_h_is_there),
        LEDGER_TEST(an_event_lost_by_the_bus_fails),
        LEDGER_TEST(the_killed_one_may_have_committed_one_more),
        LEDGER_TEST(a_seen_event_is_not_in_doubt),
        LEDGER_TEST(only_the_killed_one_may_be_in_doubt),
        LEDGER_TEST(order_damage_and_closure_are_checked),
        LEDGER_TEST(an_event_from_nowhere_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
