/* Goal: geb_create, geb_open, geb_close and geb_remove keep what geb.h promises of them: results,
 * defaults, roles, resuming, deadlines.
 * Method: each in this process on small buses; what must not change is read back through an
 * observer. Bad names and files are in behaviours_bad_input.c. */
#include "tests/api_support.h"
#include "tests/step_clock.h"

#include "lib/internal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <cmocka.h>

STEP_CLOCK_GETTIME

static struct api_log record;

static struct geb_bus_info info_of(const char *name)
{
    struct geb_bus_info info = {.size = sizeof(info)};
    struct geb_watch *watch;
    assert_int_equal(geb_watch(&watch, name), 0);
    assert_int_equal(geb_watch_info(watch, &info), 0);
    geb_unwatch(watch);
    return info;
}

static void remove_bus(struct geb_bus *bus, const char *name)
{
    unsigned before = support_entries(support_dir());
    assert_int_equal(geb_close(bus, 0), 0);
    assert_int_equal(geb_remove(name), 0);
    assert_int_equal(support_entries(support_dir()), before - 1);
}

static void default_bus_is_as_documented(void **state)
{
    struct geb_bus *bus;
    char name[64];
    struct stat st;
    (void)state;
    assert_int_equal(geb_create(&bus, support_name(name), NULL), 0);
    struct geb_bus_info info = info_of(name);
    assert_int_equal(info.capacity, 65536);
    assert_int_equal(info.max_event, 65536);
    assert_int_equal(info.slab_bytes, 16u << 20);
    assert_int_equal(info.producers, 128);
    assert_int_equal(info.topics, 256);
    assert_int_equal(info.patience_ns, 30000);
    assert_int_equal(info.policy, GEB_DROP_OLDEST);
    assert_false(info.exclusive);
    assert_int_equal(info.creator_pid, getpid());
    assert_int_equal(stat(info.path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(st.st_size, info.bytes);
    assert_true(info.bytes <= UINT64_C(40) << 20);
    struct geb_metrics m = GEB_METRICS_INIT;
    assert_int_equal(geb_metrics(bus, &m), 0);
    assert_int_equal(m.latency.sampled_1_in, 128);
    remove_bus(bus, name);
}

static void zero_fields_are_the_defaults(void **state)
{
    struct geb_config zeroes = GEB_CONFIG_INIT;
    struct geb_bus *bus;
    char name[64];
    (void)state;
    assert_int_equal(geb_create(&bus, support_name(name), NULL), 0);
    assert_int_equal(geb_close(bus, 0), 0);
    /* Equal configurations resume, so this says that all of them are equal. */
    assert_int_equal(geb_create(&bus, name, &zeroes), 0);
    remove_bus(bus, name);
}

static void every_field_is_used(void **state)
{
    struct geb_config config = GEB_CONFIG_INIT;
    struct geb_bus *bus;
    char name[64];
    struct stat st;
    (void)state;
    config.policy = GEB_RETURN_ERROR;
    config.capacity = 8;
    config.max_event = 1000;
    config.slab_bytes = 4 * 65536;
    config.producers = 3;
    config.topics = 5;
    config.patience_ns = 40000;
    config.sample_shift = 3;
    config.mode = 0660;
    assert_int_equal(geb_create(&bus, support_name(name), &config), 0);
    struct geb_bus_info info = info_of(name);
    assert_int_equal(info.policy, GEB_RETURN_ERROR);
    assert_int_equal(info.capacity, 8);
    assert_int_equal(info.max_event, 1000);
    assert_int_equal(info.slab_bytes, 4 * 65536);
    assert_int_equal(info.producers, 3);
    assert_int_equal(info.topics, 5);
    assert_int_equal(info.patience_ns, 40000);
    assert_int_equal(stat(info.path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0660);
    struct geb_metrics m = GEB_METRICS_INIT;
    assert_int_equal(geb_metrics(bus, &m), 0);
    assert_int_equal(m.latency.sampled_1_in, 8);
    remove_bus(bus, name);
}

static void numbers_out_of_range_are_refused(void **state)
{
    static const struct {
        struct geb_config config;
        const char *text;
    } bad[] = {
        {{.capacity = 1}, "capacity"},
        {{.capacity = 3}, "capacity"},
        {{.capacity = 100}, "capacity"},
        {{.capacity = 1u << 27}, "capacity"},
        {{.capacity = UINT32_MAX}, "capacity"},
        {{.producers = 1025}, "producers"},
        {{.capacity = 4, .producers = 5}, "producers"},
        {{.exclusive = true, .producers = 2}, "producers"},
        {{.topics = 65536}, "topics"},
        {{.patience_ns = 1}, "patience_ns"},
        {{.patience_ns = UINT64_C(2000000000)}, "patience_ns"},
        {{.sample_shift = 21}, "sample_shift"},
        {{.slab_bytes = 1}, "slab_bytes"},
        {{.slab_bytes = UINT64_MAX - 1}, "slab_bytes"},
        {{.slab_bytes = 4 * 65536, .max_event = 2 * 65536 + 1}, "max_event"},
        {{.slab_bytes = GEB_NO_SLABS, .max_event = 33}, "max_event"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct geb_config config = bad[i].config;
        struct geb_bus *bus = (struct geb_bus *)1;
        char name[64];
        config.size = sizeof(config);
        api_refused(geb_create(&bus, support_name(name), &config), -EDOM, bad[i].text);
        assert_null(bus);
        assert_int_equal(support_entries(support_dir()), 0);
    }
    assert_int_equal(UINT32_C(1) << 26, 67108864); /* the largest capacity, too large for a test */
}

static void last_error_tells_what_to_use_instead(void **state)
{
    struct geb_config config = api_config(GEB_BLOCK, 100);
    struct geb_bus *bus;
    char name[64];
    (void)state;
    api_refused(geb_create(&bus, support_name(name), &config), -EDOM, "100");
    api_refused(geb_create(&bus, support_name(name), &config), -EDOM, "power of two");
    api_refused(geb_create(&bus, support_name(name), &config), -EDOM, "64");
    api_refused(geb_create(&bus, support_name(name), &config), -EDOM, "128");
}

static void wrong_arguments_are_refused(void **state)
{
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct geb_bus *bus = (struct geb_bus *)1;
    char name[64];
    (void)state;
    support_name(name);
    api_refused(geb_create(NULL, name, &config), -EINVAL, "NULL");
    api_refused(geb_open(NULL, name), -EINVAL, "NULL");
    api_refused(geb_create(&bus, NULL, &config), -EINVAL, "name");
    assert_null(bus);
    api_refused(geb_open(&bus, NULL), -EINVAL, "name");
    api_refused(geb_remove(NULL), -EINVAL, "name");
    config.size = 0;
    api_refused(geb_create(&bus, name, &config), -EINVAL, "GEB_CONFIG_INIT");
    config.size = sizeof(config) + 8;
    api_refused(geb_create(&bus, name, &config), -EINVAL, "GEB_CONFIG_INIT");
    config = api_config((enum geb_policy)3, 4);
    api_refused(geb_create(&bus, name, &config), -EINVAL, "policy");
    config = api_config(GEB_BLOCK, 4);
    config.mode = 0400;
    api_refused(geb_create(&bus, name, &config), -EINVAL, "mode");
    config.mode = 0777;
    api_refused(geb_create(&bus, name, &config), -EINVAL, "mode");
    config = api_config(GEB_BLOCK, 4);
    config.reserved[7] = 1; /* a newer program's wish that this library cannot fulfil */
    api_refused(geb_create(&bus, name, &config), -EINVAL, "reserved");
    assert_int_equal(support_entries(support_dir()), 0);
    assert_int_equal(geb_close(NULL, 0), 0);
}

static void no_bus_is_enoent(void **state)
{
    struct geb_bus *bus = (struct geb_bus *)1;
    char name[64];
    (void)state;
    api_refused(geb_open(&bus, support_name(name)), -ENOENT, name);
    assert_null(bus);
    api_refused(geb_remove(name), -ENOENT, name);
    assert_int_equal(support_entries(support_dir()), 0);
}

static void consumer_role_is_one(void **state)
{
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct geb_bus *bus;
    struct geb_bus *second = (struct geb_bus *)1;
    char name[64];
    char pid[16];
    (void)state;
    assert_int_equal(geb_create(&bus, support_name(name), &config), 0);
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    api_refused(geb_create(&second, name, &config), -EBUSY, pid);
    assert_null(second);
    api_refused(geb_open(&second, name), -EBUSY, pid);
    assert_int_equal(geb_dispatch(bus, 0), 0); /* the first one is as it was */
    assert_false(info_of(name).closed);
    assert_int_equal(geb_close(bus, 0), 0);
    assert_true(info_of(name).closed);
    assert_int_equal(geb_open(&second, name), 0);
    assert_false(info_of(name).closed);
    remove_bus(second, name);
}

static void another_configuration_is_eexist(void **state)
{
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct geb_bus *bus;
    char name[64];
    (void)state;
    assert_int_equal(geb_create(&bus, support_name(name), &config), 0);
    assert_int_equal(geb_close(bus, 0), 0);
    struct geb_bus_info before = info_of(name);
    config.capacity = 8;
    api_refused(geb_create(&bus, name, &config), -EEXIST, "capacity");
    config = api_config(GEB_RETURN_ERROR, 4);
    api_refused(geb_create(&bus, name, &config), -EEXIST, "policy");
    assert_string_equal(info_of(name).id, before.id);
    assert_int_equal(geb_open(&bus, name), 0); /* open takes any */
    remove_bus(bus, name);
}

static void resumed_bus_is_the_same_one(void **state)
{
    struct api a = {0};
    (void)state;
    record = (struct api_log){0};
    api_open(&a, GEB_RETURN_ERROR, 8);
    struct geb_bus_info before = info_of(a.name);
    api_publish(&a, 1, 3);
    assert_int_equal(geb_close(a.bus, 0), 0);
    a.bus = NULL;
    api_publish(&a, 4, 2); /* publishing needs no consumer */
    assert_int_equal(geb_create(&a.bus, a.name, &a.config), 0);
    assert_string_equal(info_of(a.name).id, before.id);
    assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 5);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(api_number(&record.row[i]), i + 1);
        assert_int_equal(record.row[i].event.attempt, 1);
        assert_false(record.row[i].event.redelivered);
    }
    struct geb_metrics m = api_account(&a);
    assert_int_equal(m.delivered, 5);
    assert_int_equal(m.restarts, 0); /* an orderly end is no crash */
    api_end(&a);
}

static void path_with_a_slash_is_taken_as_it_is(void **state)
{
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct geb_bus *bus;
    struct stat st;
    char path[SHR_PATH_BYTES];
    (void)state;
    support_path(path);
    assert_int_equal(geb_create(&bus, path, &config), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_string_equal(info_of(path).path, path);
    remove_bus(bus, path);
}

static void close_with_deadline_handles_what_waits(void **state)
{
    struct api a = {0};
    (void)state;
    record = (struct api_log){0};
    api_open(&a, GEB_BLOCK, 8);
    assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
    api_publish(&a, 0, 8);
    assert_int_equal(geb_close(a.bus, GEB_FOREVER), 0);
    a.bus = NULL;
    assert_int_equal(record.cnt, 8);
    assert_int_equal(api_account(&a).delivered, 8);
    assert_int_equal(api_account(&a).pending, 0);
    api_end(&a);
}

static void close_without_deadline_handles_nothing(void **state)
{
    struct api a = {0};
    (void)state;
    record = (struct api_log){0};
    api_open(&a, GEB_BLOCK, 8);
    assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
    api_publish(&a, 0, 3);
    assert_int_equal(geb_close(a.bus, 0), 0);
    a.bus = NULL;
    assert_int_equal(record.cnt, 0);
    assert_int_equal(api_account(&a).pending, 3);
    api_end(&a);
}

/* Never empty: its handler publishes for each event that it handles. The clock counts looks. */
struct feeding {
    struct api api;
    uint64_t deadline_ns;
    uint32_t calls;
    uint32_t late;
    bool stop_each_time;
};

static int feed(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct feeding *f = user;
    f->calls++;
    f->late += geb_now() > f->deadline_ns;
    if (f->stop_each_time)
        geb_stop(geb_context_bus(ctx));
    return geb_publish(f->api.producer, f->api.topic, event->data, event->len);
}

static void close_ends_at_its_deadline_while_events_come(void **state)
{
    struct feeding f = {0};
    (void)state;
    api_watchdog(30);
    api_open(&f.api, GEB_DROP_OLDEST, 8);
    assert_int_equal(geb_on(f.api.bus, "t", feed, &f), 0);
    api_publish(&f.api, 0, 4);
    step_clock_steady();
    f.deadline_ns = geb_now() + 5000000;
    int rc = geb_close(f.api.bus, f.deadline_ns);
    step_clock_kernel();
    api_refused(rc, -ETIMEDOUT, "left");
    f.api.bus = NULL;
    assert_true(f.calls > 4);
    assert_true(f.late <= 64);
    assert_int_equal(api_account(&f.api).pending, 4);
    api_end(&f.api);
    api_watchdog(0);
}

static void close_goes_on_after_a_stop(void **state)
{
    struct api a = {0};
    (void)state;
    record = (struct api_log){0};
    api_open(&a, GEB_BLOCK, 8);
    assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
    api_publish(&a, 0, 8);
    geb_stop(a.bus);
    assert_int_equal(geb_close(a.bus, GEB_FOREVER), 0);
    a.bus = NULL;
    assert_int_equal(record.cnt, 8);
    api_end(&a);
}

static void stop_within_close_is_harmless(void **state)
{
    struct feeding f = {.stop_each_time = true};
    (void)state;
    api_watchdog(30);
    api_open(&f.api, GEB_DROP_OLDEST, 8);
    assert_int_equal(geb_on(f.api.bus, "t", feed, &f), 0);
    api_publish(&f.api, 0, 1);
    step_clock_steady();
    int rc = geb_close(f.api.bus, geb_now() + 2000000);
    step_clock_kernel();
    assert_int_equal(rc, -ETIMEDOUT);
    f.api.bus = NULL;
    assert_true(f.calls > 1);
    api_end(&f.api);
    api_watchdog(0);
}

/* In a child: a close that must say why it cannot go on, and not go on for ever. */
struct hopeless {
    struct api api;
    bool no_memory; /* else a damaged ring */
};

static int close_hopeless(void *arg)
{
    struct hopeless *h = arg;
    struct rlimit none = {0};
    struct geb_bus *bus;
    alarm(30);
    SUPPORT_CHECK(geb_open(&bus, h->api.name) == 0);
    SUPPORT_CHECK(geb_on(bus, "t", api_record, &record) == 0);
    if (h->no_memory)
        SUPPORT_CHECK(setrlimit(RLIMIT_AS, &none) == 0);
    else
        shr_fetch_add_relaxed(&bus->map.hot->head, UINT64_C(1) << 40);
    SUPPORT_CHECK(geb_close(bus, GEB_FOREVER) == (h->no_memory ? -ENOMEM : -EBADMSG));
    SUPPORT_CHECK(geb_dispatch(bus, 1) == -ESTALE);
    return 0;
}

static void check_hopeless(bool no_memory)
{
    struct geb_config config = api_config(GEB_BLOCK, 8);
    struct hopeless h = {.no_memory = no_memory};
    config.topics = 40000; /* their table is larger than what malloc has at hand */
    api_open_config(&h.api, &config);
    api_publish(&h.api, 1, 1);
    assert_int_equal(geb_close(h.api.bus, 0), 0);
    h.api.bus = NULL;
    assert_int_equal(support_wait(support_child(close_hopeless, &h)), 0);
    assert_true(info_of(h.api.name).closed);
    api_end(&h.api);
}

static void close_for_ever_ends_on_errors(void **state)
{
    (void)state;
    check_hopeless(false);
    if (!SUPPORT_SANITIZED) /* a sanitizer cannot live without memory */
        check_hopeless(true);
}

static void remove_needs_an_idle_bus(void **state)
{
    struct api a = {0};
    char pid[16];
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    api_refused(geb_remove(a.name), -EBUSY, pid);
    assert_int_equal(geb_close(a.bus, 0), 0);
    a.bus = NULL;
    api_refused(geb_remove(a.name), -EBUSY, "first"); /* the producer's own text */
    assert_int_equal(support_entries(support_dir()), 1);
    assert_int_equal(geb_leave(a.producer), 0);
    a.producer = NULL;
    api_end(&a);
}

static void removed_bus_leaves_its_observers_alone(void **state)
{
    struct api a = {0};
    struct geb_watch *watch;
    struct geb_metrics m = GEB_METRICS_INIT;
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    api_publish(&a, 0, 2);
    assert_int_equal(geb_watch(&watch, a.name), 0);
    api_end(&a); /* an observer takes no part */
    assert_int_equal(geb_watch_metrics(watch, &m), 0);
    assert_int_equal(m.pending, 2);
    assert_int_equal(geb_unwatch(watch), 0);
}

static void version_is_the_headers(void **state)
{
    char text[32];
    (void)state;
    snprintf(text, sizeof(text), "%d.%d.", GEB_VERSION_MAJOR, GEB_VERSION_MINOR);
    assert_int_equal(strncmp(geb_version(), text, strlen(text)), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(default_bus_is_as_documented),
        cmocka_unit_test(zero_fields_are_the_defaults),
        cmocka_unit_test(every_field_is_used),
        cmocka_unit_test(numbers_out_of_range_are_refused),
        cmocka_unit_test(last_error_tells_what_to_use_instead),
        cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(no_bus_is_enoent),
        cmocka_unit_test(consumer_role_is_one),
        cmocka_unit_test(another_configuration_is_eexist),
        cmocka_unit_test(resumed_bus_is_the_same_one),
        cmocka_unit_test(path_with_a_slash_is_taken_as_it_is),
        cmocka_unit_test(close_with_deadline_handles_what_waits),
        cmocka_unit_test(close_without_deadline_handles_nothing),
        cmocka_unit_test(close_ends_at_its_deadline_while_events_come),
        cmocka_unit_test(close_goes_on_after_a_stop),
        cmocka_unit_test(stop_within_close_is_harmless),
        cmocka_unit_test(close_for_ever_ends_on_errors),
        cmocka_unit_test(remove_needs_an_idle_bus),
        cmocka_unit_test(removed_bus_leaves_its_observers_alone),
        cmocka_unit_test(version_is_the_headers),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
