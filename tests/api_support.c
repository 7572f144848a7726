#include "tests/api_support.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

int api_record(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct api_log *log = user;
    (void)ctx;
    if (log->order != NULL)
        log->order[(*log->used)++] = log->mark;
    if (log->cnt < API_ROWS) {
        struct api_row *row = &log->row[log->cnt];
        row->event = *event;
        memcpy(row->data, event->data, event->len < sizeof(row->data) ? event->len : 64);
    }
    log->cnt++;
    return log->rc;
}

struct geb_config api_config(enum geb_policy policy, uint32_t capacity)
{
    struct geb_config config = GEB_CONFIG_INIT;
    config.policy = policy;
    config.capacity = capacity;
    config.producers = 4;
    config.topics = 4;
    config.slab_bytes = GEB_NO_SLABS;
    return config;
}

void api_open_config(struct api *api, const struct geb_config *config)
{
    support_name(api->name);
    api->config = *config;
    assert_int_equal(geb_create(&api->bus, api->name, config), 0);
    assert_int_equal(geb_join(&api->producer, api->name, "first"), 0);
    assert_int_equal(geb_topic(api->producer, "t", &api->topic), 0);
}

void api_open(struct api *api, enum geb_policy policy, uint32_t capacity)
{
    struct geb_config config = api_config(policy, capacity);
    api_open_config(api, &config);
}

void api_open_slabs(struct api *api, enum geb_policy policy, uint32_t capacity, uint64_t bytes)
{
    struct geb_config config = api_config(policy, capacity);
    config.slab_bytes = bytes;
    api_open_config(api, &config);
}

void api_end(struct api *api)
{
    unsigned before = support_entries(support_dir());
    assert_int_equal(geb_leave(api->producer), 0);
    assert_int_equal(geb_close(api->bus, 0), 0);
    assert_int_equal(geb_remove(api->name), 0);
    assert_int_equal(support_entries(support_dir()), before - 1);
    *api = (struct api){0};
}

void api_publish(struct api *api, uint64_t from, uint32_t cnt)
{
    for (uint64_t i = from; i < from + cnt; i++)
        assert_int_equal(geb_publish(api->producer, api->topic, &i, sizeof(i)), 0);
}

uint64_t api_number(const struct api_row *row)
{
    uint64_t number;
    memcpy(&number, row->data, sizeof(number));
    return number;
}

struct geb_metrics api_account(struct api *api)
{
    struct geb_metrics m = GEB_METRICS_INIT;
    struct geb_metrics seen = GEB_METRICS_INIT;
    struct geb_watch *watch;
    assert_int_equal(geb_watch(&watch, api->name), 0);
    assert_int_equal(geb_watch_metrics(watch, &m), 0);
    assert_int_equal(geb_unwatch(watch), 0);
    if (api->bus != NULL) {
        assert_int_equal(geb_metrics(api->bus, &seen), 0);
        assert_memory_equal(&m, &seen, sizeof(m));
    }
    assert_int_equal(m.accepted, m.delivered + m.dropped + m.expired + m.cancelled + m.unhandled +
                                     m.dead_lettered + m.pending + m.lost_in_crash);
    assert_int_equal(m.published, m.accepted);
    assert_int_equal(m.processed, m.delivered + m.dead_lettered);
    assert_true(m.used <= m.peak);
    return m;
}

void api_refused_at(int rc, int expected, const char *text, const char *file, int line)
{
    if (rc == expected && strstr(geb_last_error(), text) != NULL)
        return;
    print_error("%s:%d: %d (%s, \"%s\"), not %d with \"%s\"\n", file, line, rc, geb_strerror(rc),
                geb_last_error(), expected, text);
    _fail(file, line);
}

void api_await_state(struct api *api, uint32_t slot, const char *state)
{
    struct geb_participant rows[8];
    struct geb_watch *watch;
    bool found = false;
    assert_int_equal(geb_watch(&watch, api->name), 0);
    uint64_t end_ns = geb_now() + SUPPORT_HANG_MS * UINT64_C(1000000);
    while (!found && geb_now() < end_ns) {
        int cnt = geb_watch_participants(watch, rows, 8);
        for (int i = 0; i < cnt; i++)
            found = found || (rows[i].slot == slot && strcmp(rows[i].state, state) == 0);
    }
    geb_unwatch(watch);
    assert_true(found);
}

static void hung(int number)
{
    static const char text[] = "a call did not return\n";
    (void)number;
    if (write(2, text, sizeof(text) - 1) < 0)
        _exit(98);
    _exit(97);
}

void api_watchdog(unsigned seconds)
{
    struct sigaction action = {.sa_handler = hung};
    sigaction(SIGALRM, &action, NULL);
    alarm(seconds);
}
