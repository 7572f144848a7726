/* Goal: topics are interned once for all processes, keep their schema, run out as documented, and
 * survive a registrant that died midway.
 * Method: handles in one process and in children; rows left in WRITING as a death would leave
 * them. Whoever waits for a row looks at the clock, which is this program's: a look is the moment
 * in which a row that is never decided changes. */
#include "tests/api_support.h"

#include "lib/internal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

static struct api_log record;

/* Rows of which somebody writes one anew at each look at the clock: so often in all, and so often
 * each before it is the next one's turn. */
static struct shr_topic *flipping;
static unsigned flips, flips_wanted, flips_each;

int clock_gettime(clockid_t id, struct timespec *time)
{
    int rc = (int)syscall(SYS_clock_gettime, id, time);
    if (flipping != NULL && flips < flips_wanted) {
        shr_a64 *state = &flipping[flips / flips_each].state;
        flips++;
        shr_store_relaxed(state, (uint64_t)flips << 18 | SHR_TOPIC_WRITING);
        time->tv_sec += flips; /* each look is patient for long enough */
    }
    return rc;
}

static void same_name_same_id(void **state)
{
    struct geb_producer *second;
    geb_topic_id id[4];
    struct api a = {0};
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    assert_int_equal(geb_join(&second, a.name, "second"), 0);
    assert_int_equal(geb_topic(second, "t", &id[0]), 0);
    assert_int_equal(id[0], a.topic);
    assert_int_equal(geb_topic(second, "T", &id[1]), 0);
    assert_int_not_equal(id[1], a.topic);
    assert_int_equal(geb_topic(a.producer, "T", &id[2]), 0);
    assert_int_equal(id[2], id[1]);
    assert_int_equal(geb_on(a.bus, "T", api_record, &record), 0); /* no third one */
    assert_int_equal(geb_topic(second, "tt", &id[3]), 0);
    assert_string_equal(geb_topic_name(a.bus, id[0]), "t");
    assert_string_equal(geb_topic_name(a.bus, id[1]), "T");
    assert_string_equal(geb_topic_name(a.bus, id[3]), "tt");
    assert_string_equal(geb_topic_name(a.bus, 3), "");
    assert_string_equal(geb_topic_name(a.bus, 4), "");
    assert_string_equal(geb_topic_name(a.bus, UINT32_MAX), "");
    assert_ptr_equal(geb_topic_name(a.bus, id[0]), geb_topic_name(a.bus, id[0]));
    assert_int_equal(geb_leave(second), 0);
    api_end(&a);
}

static void wrong_names(void **state)
{
    geb_topic_id id = 77;
    struct api a = {0};
    char name[49];
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    memset(name, 'n', sizeof(name));
    name[48] = '\0';
    api_refused(geb_topic(a.producer, "", &id), -EINVAL, "1 to 47");
    api_refused(geb_topic(a.producer, name, &id), -EINVAL, "48");
    api_refused(geb_topic(a.producer, NULL, &id), -EINVAL, "name");
    api_refused(geb_topic(a.producer, "x", NULL), -EINVAL, "NULL");
    api_refused(geb_topic_schema(a.producer, "x", "", 8, &id), -EINVAL, "schema");
    api_refused(geb_topic_schema(a.producer, "x", name, 8, &id), -EINVAL, "schema");
    api_refused(geb_on(a.bus, "", api_record, NULL), -EINVAL, "name");
    api_refused(geb_on(a.bus, name, api_record, NULL), -EINVAL, "name");
    api_refused(geb_on(a.bus, NULL, api_record, NULL), -EINVAL, "name");
    api_refused(geb_on_schema(a.bus, "x", name, 8, api_record, NULL), -EINVAL, "schema");
    assert_int_equal(id, 77);
    struct geb_topic_row rows[4];
    struct geb_watch *watch;
    assert_int_equal(geb_watch(&watch, a.name), 0);
    assert_int_equal(geb_watch_topics(watch, rows, 4), 1); /* none was registered by that */
    assert_int_equal(geb_unwatch(watch), 0);
    name[47] = '\0';
    assert_int_equal(geb_topic(a.producer, name, &id), 0);
    assert_string_equal(geb_topic_name(a.bus, id), name);
    api_end(&a);
}

static void table_runs_out(void **state)
{
    geb_topic_id id = 77;
    struct api a = {0};
    (void)state;
    api_open(&a, GEB_BLOCK, 4); /* 4 topics, "t" is one */
    for (int i = 0; i < 3; i++) {
        char name[8];
        snprintf(name, sizeof(name), "n%d", i);
        assert_int_equal(geb_topic(a.producer, name, &id), 0);
    }
    api_refused(geb_topic(a.producer, "fifth", &id), -EUSERS, "4");
    api_refused(geb_on(a.bus, "fifth", api_record, NULL), -EUSERS, "4");
    assert_int_equal(geb_topic(a.producer, "n1", &id), 0); /* the known ones stay */
    assert_int_equal(geb_on(a.bus, "n1", api_record, &record), 0);
    assert_int_equal(geb_publish(a.producer, id, "x", 1), 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    api_end(&a);
}

static void schemas_are_checked_on_both_sides(void **state)
{
    struct geb_producer *second;
    struct geb_topic_row rows[4];
    struct geb_watch *watch;
    geb_topic_id sized;
    geb_topic_id any;
    geb_topic_id id = 77;
    struct api a = {0};
    (void)state;
    api_open(&a, GEB_BLOCK, 8);
    assert_int_equal(geb_join(&second, a.name, "second"), 0);
    assert_int_equal(geb_topic_schema(a.producer, "sized", "point.v1", 8, &sized), 0);
    assert_int_equal(geb_topic_schema(second, "sized", "point.v1", 8, &id), 0);
    assert_int_equal(id, sized);
    id = 77;
    api_refused(geb_topic_schema(second, "sized", "point.v2", 8, &id), -EINVAL, "point.v1");
    api_refused(geb_topic_schema(second, "sized", "point.v1", 16, &id), -EINVAL, "16");
    api_refused(geb_on_schema(a.bus, "sized", "point.v2", 8, api_record, NULL), -EINVAL,
                "point.v1");
    api_refused(geb_topic_schema(second, "t", "late", 8, &id), -EINVAL, "t"); /* takes none later */
    assert_int_equal(id, 77);
    assert_int_equal(geb_topic(second, "sized", &id), 0); /* who does not ask, gets it */
    assert_int_equal(id, sized);
    assert_int_equal(geb_on_schema(a.bus, "sized", "point.v1", 8, api_record, &record), 0);
    assert_int_equal(geb_topic_schema(second, "any", "text", 0, &any), 0);
    assert_int_equal(geb_watch(&watch, a.name), 0);
    assert_int_equal(geb_watch_topics(watch, rows, 4), 3);
    assert_string_equal(rows[0].schema, "");
    assert_string_equal(rows[1].schema, "point.v1");
    assert_string_equal(rows[2].schema, "text");
    assert_int_equal(geb_unwatch(watch), 0);
    /* Payloads of another size are refused, every time and on every way. */
    struct geb_message m[2] = {{.topic = sized, .len = 8, .data = "12345678"},
                               {.topic = sized, .len = 7, .data = "1234567"}};
    struct geb_options options = GEB_OPTIONS_INIT;
    for (int i = 0; i < 3; i++) {
        api_refused(geb_publish(second, sized, "1234567", 7), -EMSGSIZE, "schema");
        api_refused(geb_publish_with(second, sized, "123456789", 9, &options), -EMSGSIZE, "schema");
        api_refused(geb_publish_batch(second, m, 2, NULL), -EMSGSIZE, "schema");
        assert_int_equal(geb_publish(second, sized, "12345678", 8), 0);
        assert_int_equal(geb_publish(second, any, "123", 3), 0);
        assert_int_equal(geb_publish(second, any, "1234", 4), 0);
        assert_int_equal(geb_dispatch(a.bus, 0), 3);
    }
    assert_int_equal(api_account(&a).accepted, 9);
    assert_int_equal(geb_leave(second), 0);
    api_end(&a);
}

struct racing {
    const char *name;
    struct support_line line;
    uint32_t first; /* where in the list of names it begins */
    geb_topic_id *id;
};

#define NAMES 64u

static int register_names(void *arg)
{
    struct racing *r = arg;
    struct geb_producer *producer;
    SUPPORT_CHECK(geb_join(&producer, r->name, "racer") == 0);
    support_tell_test(&r->line);
    support_hear_test(&r->line);
    for (uint32_t i = 0; i < NAMES; i++) {
        uint32_t which = (r->first + i) % NAMES;
        char name[16];
        snprintf(name, sizeof(name), "name%u", which);
        SUPPORT_CHECK(geb_topic(producer, name, &r->id[which]) == 0);
    }
    SUPPORT_CHECK(geb_leave(producer) == 0);
    return 0;
}

static void processes_agree_on_ids(void **state)
{
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct racing r[2];
    pid_t pid[2];
    struct api a = {0};
    (void)state;
    config.topics = NAMES + 1;
    /* A loser of a row must not take its winner, who is off the processor, for dead. */
    config.patience_ns = 1000000000;
    api_open_config(&a, &config);
    for (uint32_t i = 0; i < 2; i++) {
        r[i] = (struct racing){.name = a.name, .first = i * 3};
        r[i].id = support_shared(NAMES * sizeof(geb_topic_id));
        support_line_open(&r[i].line);
        pid[i] = support_child(register_names, &r[i]);
        support_hear_child(&r[i].line);
    }
    support_tell_child(&r[0].line);
    support_tell_child(&r[1].line);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(support_wait(pid[i]), 0);
        support_line_close(&r[i].line);
    }
    for (uint32_t i = 0; i < NAMES; i++) {
        char name[16];
        snprintf(name, sizeof(name), "name%u", i);
        assert_int_equal(r[0].id[i], r[1].id[i]);
        assert_string_equal(geb_topic_name(a.bus, r[0].id[i]), name);
    }
    api_end(&a);
}

static void unfinished_row_costs_one_patience(void **state)
{
    struct geb_producer *second;
    geb_topic_id id;
    geb_topic_id same;
    struct api a = {0};
    (void)state;
    api_watchdog(60);
    api_open(&a, GEB_BLOCK, 4);
    assert_int_equal(geb_join(&second, a.name, "second"), 0);
    /* A process died between claiming row 1 and making it READY. */
    shr_store_relaxed(&a.bus->map.topics[1].state,
                      UINT64_C(9) << 18 | UINT64_C(3) << 2 | SHR_TOPIC_WRITING);
    assert_int_equal(geb_topic(a.producer, "next", &id), 0);
    assert_int_equal(id, 2);
    assert_int_equal(shr_load_relaxed(&a.bus->map.topics[1].state), SHR_TOPIC_DEAD);
    assert_int_equal(geb_topic(second, "next", &same), 0);
    assert_int_equal(same, id);
    assert_string_equal(geb_topic_name(a.bus, 1), "");
    api_refused(geb_publish(a.producer, 1, "x", 1), -ENXIO, "1");
    assert_int_equal(geb_publish(a.producer, id, "x", 1), 0); /* an id beyond a dead row */
    assert_int_equal(geb_publish(a.producer, id, "x", 1), 0);
    assert_int_equal(geb_leave(second), 0);
    api_end(&a);
    api_watchdog(0);
}

static void damaged_rows_are_passed(void **state)
{
    /* A tag of EMPTY or READY that is not the whole word; and a DEAD one. */
    static const uint64_t damage[] = {4, UINT64_C(1) << 63, UINT64_C(5) << 18 | SHR_TOPIC_READY,
                                      UINT64_C(5) << 18 | SHR_TOPIC_DEAD};
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct api a = {0};
    geb_topic_id id;
    (void)state;
    api_watchdog(60);
    config.topics = 6;
    api_open_config(&a, &config);
    for (uint32_t i = 0; i < 4; i++)
        shr_store_relaxed(&a.bus->map.topics[1 + i].state, damage[i]);
    assert_int_equal(geb_on(a.bus, "next", api_record, &record), 0);
    assert_int_equal(geb_topic(a.producer, "next", &id), 0);
    assert_int_equal(id, 5);
    for (uint32_t i = 0; i < 4; i++)
        api_refused(geb_publish(a.producer, 1 + i, "x", 1), -ENXIO, "");
    api_refused(geb_topic(a.producer, "more", &id), -EUSERS, "6");
    api_end(&a);
    api_watchdog(0);
}

/* A row has another owner each time that somebody has been patient with the last one. */
static void flipping_row_holds_nobody_up(void **state)
{
    /* One at row 0, which is READY; then four times the start and the end of a patience. */
    const unsigned looks = 1 + 4 * 2;
    struct api a = {0};
    geb_topic_id id = 77;
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    flipping = &a.bus->map.topics[1];
    flips = 0;
    flips_wanted = 1000; /* then an endless registrant gets its row, and the test fails */
    flips_each = flips_wanted;
    shr_store_relaxed(&flipping->state, SHR_TOPIC_WRITING);
    int rc = geb_topic(a.producer, "next", &id);
    assert_int_equal(flips, looks);
    api_refused(rc, -EBADMSG, "row 1");
    assert_int_equal(id, 77);
    flips = 0;
    rc = geb_on(a.bus, "next", api_record, &record);
    assert_int_equal(flips, looks);
    api_refused(rc, -EBADMSG, "row 1");
    /* What stands before the row is found. Three changes are no damage yet, at each of two rows. */
    assert_int_equal(geb_topic(a.producer, "t", &id), 0);
    assert_int_equal(id, a.topic);
    flips = 0;
    flips_each = looks - 2;
    flips_wanted = 2 * flips_each;
    rc = geb_topic(a.producer, "next", &id);
    flipping = NULL;
    assert_int_equal(rc, 0);
    assert_int_equal(id, 3);
    api_end(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_name_same_id),
        cmocka_unit_test(wrong_names),
        cmocka_unit_test(table_runs_out),
        cmocka_unit_test(schemas_are_checked_on_both_sides),
        cmocka_unit_test(processes_agree_on_ids),
        cmocka_unit_test(unfinished_row_costs_one_patience),
        cmocka_unit_test(damaged_rows_are_passed),
        cmocka_unit_test(flipping_row_holds_nobody_up),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
