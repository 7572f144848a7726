/* Goal: every error of GEB_ERRORS says something of its own, and geb_last_error belongs to its
 * thread and to its last failing call.
 * Method: all texts compared in pairs; two threads that fail differently; the log of distinct
 * errors filled beyond its end. */
#include "tests/api_support.h"

#include "lib/internal.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define CODE(code, text) code,
static const int codes[] = {GEB_ERRORS(CODE)};
#define CODE_CNT (sizeof(codes) / sizeof(codes[0]))

static void every_error_has_a_text_of_its_own(void **state)
{
    (void)state;
    for (size_t i = 0; i < CODE_CNT; i++) {
        const char *text = geb_strerror(-codes[i]);
        assert_non_null(text);
        assert_true(strlen(text) > 8);
        assert_ptr_equal(text, geb_strerror(-codes[i])); /* static */
        for (size_t j = 0; j < i; j++) {
            assert_int_not_equal(codes[i], codes[j]);
            assert_string_not_equal(text, geb_strerror(-codes[j]));
        }
        assert_string_not_equal(text, geb_strerror(-EXFULL)); /* what is not in the table */
        assert_string_not_equal(text, geb_strerror(0));
    }
}

static void any_result_has_a_text(void **state)
{
    static const int results[] = {0, 1, 7, INT32_MAX, -EXFULL, -4095, INT32_MIN};
    (void)state;
    for (size_t i = 0; i < sizeof(results) / sizeof(results[0]); i++) {
        assert_non_null(geb_strerror(results[i]));
        assert_true(geb_strerror(results[i])[0] != '\0');
    }
    assert_string_equal(geb_strerror(0), geb_strerror(5));
    assert_string_equal(geb_strerror(-EMFILE), "Too many open files"); /* not geb's: libc's */
}

/* Those that a user meets by a wrong set-up say what to do about it. */
static void texts_name_the_fix(void **state)
{
    static const struct {
        int code;
        const char *word;
    } fix[] = {
        {EAGAIN, "capacity"},     {ENOBUFS, "slabs"},      {EPIPE, "start"},
        {ESHUTDOWN, "start"},     {EMSGSIZE, "max_event"}, {ENXIO, "geb_topic"},
        {ENOENT, "create"},       {EEXIST, "remove"},      {EACCES, "owner"},
        {ENOSPC, "larger"},       {EPROTO, "remove"},      {EBADMSG, "remove"},
        {EUSERS, "create"},       {ESTALE, "open"},        {EINVAL, "geb_last_error"},
        {EDOM, "geb_last_error"}, {EDEADLK, "publish"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(fix) / sizeof(fix[0]); i++)
        assert_non_null(strstr(geb_strerror(-fix[i].code), fix[i].word));
}

static void *fail_in_thread(void *arg)
{
    struct geb_bus *bus;
    (void)arg;
    /* Nothing has failed in this thread, whatever others did. */
    bool empty = geb_last_error()[0] == '\0';
    geb_open(&bus, "no name because of the spaces");
    return empty && strstr(geb_last_error(), "spaces") != NULL ? NULL : (void *)1;
}

static void last_error_belongs_to_its_thread(void **state)
{
    struct geb_bus *bus;
    pthread_t thread;
    void *wrong;
    (void)state;
    assert_int_equal(geb_open(&bus, "in?valid"), -EINVAL);
    assert_non_null(strstr(geb_last_error(), "in?valid"));
    assert_int_equal(pthread_create(&thread, NULL, fail_in_thread, NULL), 0);
    pthread_join(thread, &wrong);
    assert_null(wrong);
    assert_non_null(strstr(geb_last_error(), "in?valid"));
}

static void last_error_is_cut_not_overrun(void **state)
{
    struct geb_bus *bus;
    char name[4096];
    (void)state;
    memset(name, 'n', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    assert_int_equal(geb_open(&bus, name), -EINVAL);
    assert_true(strlen(geb_last_error()) < 1024);
    assert_non_null(strstr(geb_last_error(), "nnn"));
}

static void log_counts_distinct_errors(void **state)
{
    struct geb_error_row rows[64];
    struct geb_watch *watch;
    struct api a = {0};
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    assert_int_equal(geb_watch(&watch, a.name), 0);
    assert_int_equal(geb_watch_errors(watch, rows, 64), 0);
    uint64_t before_ns = geb_now();
    gebi_log_error(&a.bus->map, EIO, "one");
    gebi_log_error(&a.bus->map, EIO, "two");
    gebi_log_error(&a.bus->map, EPERM, "one");
    gebi_log_error(&a.bus->map, EIO, "one");
    assert_int_equal(geb_watch_errors(watch, rows, 64), 3);
    assert_int_equal(geb_watch_errors(watch, rows, 2), 2);
    assert_int_equal(rows[0].code, EIO);
    assert_string_equal(rows[0].text, "one");
    assert_int_equal(rows[0].count, 2);
    assert_true(before_ns <= rows[0].first_ns && rows[0].first_ns <= rows[0].last_ns);
    assert_string_equal(rows[1].text, "two");
    assert_int_equal(rows[2].code, EPERM);
    /* More kinds than rows: the first ones stay, the others are lost, nothing is overwritten. */
    for (int i = 0; i < 100; i++) {
        char text[16];
        snprintf(text, sizeof(text), "kind %d", i);
        gebi_log_error(&a.bus->map, EIO, text);
    }
    int cnt = geb_watch_errors(watch, rows, 64);
    assert_int_equal(cnt, a.bus->map.geo.region[SHR_REGION_ERRORS].entries);
    assert_int_equal(rows[0].count, 2);
    assert_string_equal(rows[3].text, "kind 0");
    assert_int_equal(geb_unwatch(watch), 0);
    api_end(&a);
}

static int fail_with(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)ctx;
    (void)event;
    return *(int *)user;
}

/* A handler may return any int: the log has its positive, or INT_MAX where there is none. */
static void any_result_of_a_handler_is_logged(void **state)
{
    const int results[] = {-1, -INT_MAX, INT_MIN};
    const int64_t logged[] = {1, INT_MAX};
    struct geb_error_row rows[4];
    struct geb_watch *watch;
    struct api a = {0};
    int result;
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    assert_int_equal(geb_on(a.bus, "t", fail_with, &result), 0);
    assert_int_equal(geb_watch(&watch, a.name), 0);
    for (int i = 0; i < 3; i++) {
        result = results[i];
        api_publish(&a, 0, 1);
        assert_int_equal(geb_dispatch(a.bus, 0), 1);
    }
    assert_int_equal(geb_watch_errors(watch, rows, 4), 2);
    for (int i = 0; i < 2; i++)
        assert_int_equal(rows[i].code, logged[i]);
    assert_int_equal(rows[1].count, 2);
    assert_int_equal(geb_unwatch(watch), 0);
    api_end(&a);
}

static void long_text_is_one_kind(void **state)
{
    struct geb_error_row rows[4];
    struct geb_watch *watch;
    struct api a = {0};
    char text[200];
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    gebi_log_error(&a.bus->map, EIO, text);
    gebi_log_error(&a.bus->map, EIO, text);
    assert_int_equal(geb_watch(&watch, a.name), 0);
    assert_int_equal(geb_watch_errors(watch, rows, 4), 1);
    assert_int_equal(rows[0].count, 2);
    assert_int_equal(strlen(rows[0].text), sizeof(rows[0].text) - 1);
    assert_int_equal(geb_unwatch(watch), 0);
    api_end(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_error_has_a_text_of_its_own),
        cmocka_unit_test(any_result_has_a_text),
        cmocka_unit_test(texts_name_the_fix),
        cmocka_unit_test(last_error_belongs_to_its_thread),
        cmocka_unit_test(last_error_is_cut_not_overrun),
        cmocka_unit_test(log_counts_distinct_errors),
        cmocka_unit_test(any_result_of_a_handler_is_logged),
        cmocka_unit_test(long_text_is_one_kind),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
