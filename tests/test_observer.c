/* Goal: an observer sees what there is, in every table, cannot write, and is not noticed.
 * Method: tables against what was just done; /proc/self/maps of a child that only watches; the
 * bytes of the file before and after watching. */
#include "tests/api_support.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

static struct api_log record;

static void arguments(void **state)
{
    struct geb_bus_info info = {.size = sizeof(info) - 1};
    struct geb_metrics m = {.size = 1};
    struct geb_watch *watch = (struct geb_watch *)1;
    struct api a = {0};
    char name[64];
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    api_refused(geb_watch(NULL, a.name), -EINVAL, "NULL");
    api_refused(geb_watch(&watch, NULL), -EINVAL, "name");
    assert_null(watch);
    api_refused(geb_watch(&watch, support_name(name)), -ENOENT, name);
    assert_int_equal(geb_watch(&watch, a.name), 0);
    api_refused(geb_watch_info(watch, NULL), -EINVAL, "NULL");
    api_refused(geb_watch_metrics(watch, NULL), -EINVAL, "NULL");
    api_refused(geb_watch_participants(watch, NULL, 1), -EINVAL, "NULL");
    api_refused(geb_watch_topics(watch, NULL, 1), -EINVAL, "NULL");
    api_refused(geb_watch_handlers(watch, NULL, 1), -EINVAL, "NULL");
    api_refused(geb_watch_errors(watch, NULL, 1), -EINVAL, "NULL");
    api_refused(geb_watch_slabs(watch, NULL, 1), -EINVAL, "NULL");
    api_refused(geb_watch_info(watch, &info), -EINVAL, "size");
    api_refused(geb_watch_metrics(watch, &m), -EINVAL, "GEB_METRICS_INIT");
    assert_int_equal(geb_unwatch(watch), 0);
    api_end(&a);
}

static void info_tells_the_configuration(void **state)
{
    struct geb_config config = api_config(GEB_BLOCK, 8);
    struct geb_bus_info info = {.size = sizeof(info)};
    struct geb_bus_info later = {.size = sizeof(later)};
    struct geb_watch *watch;
    struct api a = {0};
    struct stat st;
    (void)state;
    config.exclusive = true;
    config.producers = 1;
    config.slab_bytes = 131072;
    config.max_event = 500;
    uint64_t before_ns = geb_now();
    api_open_config(&a, &config);
    assert_int_equal(geb_watch(&watch, a.name), 0);
    assert_int_equal(geb_watch_info(watch, &info), 0);
    assert_int_equal(info.capacity, 8);
    assert_int_equal(info.policy, GEB_BLOCK);
    assert_true(info.exclusive);
    assert_int_equal(info.producers, 1);
    assert_int_equal(info.topics, 4);
    assert_int_equal(info.max_event, 500);
    assert_int_equal(info.slab_bytes, 131072);
    assert_int_equal(info.creator_pid, getpid());
    assert_int_equal(info.creator_uid, geteuid());
    assert_int_equal(strlen(info.id), 32);
    assert_int_equal(strspn(info.id, "0123456789abcdef"), 32);
    assert_int_equal(stat(info.path, &st), 0);
    assert_int_equal(st.st_size, info.bytes);
    assert_true(info.age_ns <= geb_now() - before_ns);
    assert_false(info.closed);
    assert_true(info.node >= -1 && info.node < 1024);
    assert_int_equal(geb_watch_info(watch, &later), 0);
    assert_true(later.age_ns >= info.age_ns);
    assert_int_equal(geb_unwatch(watch), 0);
    api_end(&a);
}

static void participants_and_their_states(void **state)
{
    struct geb_participant rows[8];
    struct geb_producer *second;
    struct geb_watch *watch;
    struct api a = {0};
    (void)state;
    api_open_slabs(&a, GEB_RETURN_ERROR, 4, 131072);
    assert_int_equal(geb_watch(&watch, a.name), 0);
    assert_int_equal(geb_join(&second, a.name, "second"), 0);
    assert_int_equal(geb_publish(second, a.topic, NULL, 0), 0);
    assert_int_equal(geb_publish(second, a.topic, "123", 3), 0);
    static const char big[1000];
    assert_int_equal(geb_publish(second, a.topic, big, sizeof(big)), 0);
    api_publish(&a, 0, 1);
    assert_int_equal(geb_publish(second, a.topic, "x", 1), -EAGAIN);
    assert_int_equal(geb_publish(second, a.topic, "x", 1), -EAGAIN);
    assert_int_equal(geb_watch_participants(watch, rows, 8), 3);
    assert_int_equal(rows[0].slot, 0);
    assert_string_equal(rows[0].state, "lagging"); /* all four are in use */
    assert_string_equal(rows[1].state, "running");
    assert_string_equal(rows[2].name, "second");
    assert_int_equal(rows[2].slot, 2);
    assert_int_equal(rows[2].accepted, 3);
    assert_int_equal(rows[2].bytes, 1003);
    assert_int_equal(rows[2].full, 2);
    assert_int_equal(rows[1].accepted, 1);
    assert_int_equal(rows[1].bytes, 8);
    assert_int_equal(geb_watch_participants(watch, rows, 2), 2);
    assert_int_equal(geb_watch_participants(watch, rows, 0), 0);
    assert_int_equal(geb_leave(second), 0);
    assert_int_equal(geb_dispatch(a.bus, 1), 1);
    assert_int_equal(geb_watch_participants(watch, rows, 8), 2);
    assert_string_equal(rows[0].state, "running");
    assert_int_equal(geb_close(a.bus, 0), 0);
    a.bus = NULL;
    assert_int_equal(geb_watch_participants(watch, rows, 8), 1);
    assert_int_equal(rows[0].slot, 1);
    assert_int_equal(geb_unwatch(watch), 0);
    api_end(&a);
}

static int join_and_wait(void *arg)
{
    struct api *a = arg;
    struct geb_producer *producer;
    SUPPORT_CHECK(geb_join(&producer, a->name, "doomed") == 0);
    SUPPORT_CHECK(geb_publish(producer, a->topic, "x", 1) == 0);
    return 0; /* without leaving: to the others it is a death */
}

static void dead_ones_are_called_so(void **state)
{
    struct geb_participant rows[8];
    struct geb_watch *watch;
    struct api a = {0};
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    assert_int_equal(geb_watch(&watch, a.name), 0);
    assert_int_equal(support_wait(support_child(join_and_wait, &a)), 0);
    assert_int_equal(geb_watch_participants(watch, rows, 8), 3);
    assert_string_equal(rows[2].name, "doomed");
    assert_string_equal(rows[2].state, "dead");
    assert_int_equal(rows[2].accepted, 1);
    assert_string_equal(rows[1].state, "running");
    assert_int_equal(geb_unwatch(watch), 0);
    api_end(&a);
}

struct stopper {
    struct api *api;
    struct support_line line;
    bool joins;
};

static int be_stopped(void *arg)
{
    const struct stopper *s = arg;
    struct geb_producer *producer;
    if (s->joins)
        SUPPORT_CHECK(geb_join(&producer, s->api->name, "still") == 0);
    support_tell_test(&s->line);
    support_hear_test(&s->line);
    return 0;
}

/* Pids are numbers that a participant wrote: one that is somebody else's here says nothing. */
static void stopped_ones_are_called_so(void **state)
{
    struct geb_participant rows[8];
    struct geb_watch *watch;
    struct shr_map map;
    struct geb_bus_info info = {.size = sizeof(info)};
    struct api a = {0};
    struct stopper s[2] = {{.api = &a, .joins = true}, {.api = &a}};
    pid_t pid[2];
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    assert_int_equal(geb_watch(&watch, a.name), 0);
    for (int i = 0; i < 2; i++) {
        support_line_open(&s[i].line);
        pid[i] = support_child(be_stopped, &s[i]);
        support_hear_child(&s[i].line);
    }
    assert_int_equal(geb_watch_participants(watch, rows, 8), 3);
    assert_string_equal(rows[2].state, "running");
    support_stop(pid[0]);
    support_stop(pid[1]);
    assert_int_equal(geb_watch_participants(watch, rows, 8), 3);
    assert_string_equal(rows[1].state, "running");
    assert_string_equal(rows[2].state, "stopped");
    assert_int_equal(rows[2].pid, pid[0]);
    assert_int_equal(geb_watch_info(watch, &info), 0);
    assert_int_equal(shr_segment_attach(&map, info.path, true), 0);
    shr_store32_relaxed(&map.peers[2].pid, (uint32_t)pid[1]);
    assert_int_equal(geb_watch_participants(watch, rows, 8), 3);
    assert_string_equal(rows[2].state, "running");
    shr_store32_relaxed(&map.peers[2].pid, (uint32_t)pid[0]);
    support_continue(pid[0]);
    assert_int_equal(geb_watch_participants(watch, rows, 8), 3);
    assert_string_equal(rows[2].state, "running");
    shr_segment_detach(&map);
    support_kill(pid[0]);
    support_kill(pid[1]);
    for (int i = 0; i < 2; i++)
        support_line_close(&s[i].line);
    assert_int_equal(geb_unwatch(watch), 0);
    api_end(&a);
}

static void topics_and_slabs(void **state)
{
    struct geb_topic_row topics[4];
    struct geb_slab_row slabs[64];
    struct geb_watch *watch;
    geb_topic_id other;
    struct api a = {0};
    static const char big[300];
    (void)state;
    api_open_slabs(&a, GEB_BLOCK, 8, 131072);
    assert_int_equal(geb_topic(a.producer, "other", &other), 0);
    assert_int_equal(geb_on(a.bus, "t", api_record, &record), 0);
    assert_int_equal(geb_watch(&watch, a.name), 0);
    assert_int_equal(geb_publish(a.producer, a.topic, big, sizeof(big)), 0);
    assert_int_equal(geb_publish(a.producer, other, "x", 1), 0);
    int cnt = geb_watch_slabs(watch, slabs, 64);
    assert_true(cnt > 0);
    uint64_t used = 0;
    for (int i = 0; i < cnt; i++) {
        assert_true(slabs[i].free <= slabs[i].blocks);
        if (slabs[i].block_bytes != 0 && slabs[i].free != slabs[i].blocks)
            assert_int_equal(slabs[i].block_bytes, 512);
        used += slabs[i].block_bytes != 0 ? slabs[i].blocks - slabs[i].free : 0;
    }
    assert_int_equal(used, 1);
    assert_int_equal(geb_watch_slabs(watch, slabs, 1), 1);
    assert_int_equal(geb_dispatch(a.bus, 0), 2);
    assert_int_equal(geb_watch_topics(watch, topics, 4), 2);
    assert_int_equal(topics[0].topic, a.topic);
    assert_int_equal(topics[0].delivered, 1);
    assert_int_equal(topics[0].unhandled, 0);
    assert_string_equal(topics[1].name, "other");
    assert_int_equal(topics[1].delivered, 0);
    assert_int_equal(topics[1].unhandled, 1);
    assert_int_equal(geb_watch_topics(watch, topics, 1), 1);
    assert_int_equal(geb_watch_topics(watch, topics, 0), 0);
    assert_int_equal(geb_unwatch(watch), 0);
    api_end(&a);
}

/* ---- read-only, and not noticed -------------------------------------------------------------- */

static int maps_are_read_only(void *arg)
{
    struct geb_watch *watch;
    char line[512];
    unsigned found = 0;
    SUPPORT_CHECK(geb_watch(&watch, arg) == 0);
    FILE *maps = fopen("/proc/self/maps", "r");
    SUPPORT_CHECK(maps != NULL);
    while (fgets(line, sizeof(line), maps) != NULL) {
        if (strstr(line, arg) == NULL)
            continue;
        found++;
        SUPPORT_CHECK(strstr(line, " r--s ") != NULL || strstr(line, " ---s ") != NULL);
    }
    fclose(maps);
    SUPPORT_CHECK(found > 0);
    SUPPORT_CHECK(geb_unwatch(watch) == 0);
    maps = fopen("/proc/self/maps", "r");
    SUPPORT_CHECK(maps != NULL);
    while (fgets(line, sizeof(line), maps) != NULL)
        SUPPORT_CHECK(strstr(line, arg) == NULL); /* and gone afterwards */
    fclose(maps);
    return 0;
}

static void mapping_is_read_only(void **state)
{
    struct api a = {0};
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    assert_int_equal(support_wait(support_child(maps_are_read_only, a.name)), 0);
    api_end(&a);
}

static unsigned char *read_whole(const char *path, size_t bytes)
{
    unsigned char *copy = malloc(bytes);
    FILE *file = fopen(path, "r");
    assert_non_null(copy);
    assert_non_null(file);
    assert_int_equal(fread(copy, 1, bytes, file), bytes);
    fclose(file);
    return copy;
}

static void watching_changes_no_byte(void **state)
{
    struct geb_bus_info info = {.size = sizeof(info)};
    struct geb_metrics m = GEB_METRICS_INIT;
    struct geb_participant peers[8];
    struct geb_topic_row topics[4];
    struct geb_slab_row slabs[32];
    struct geb_watch *watch;
    struct api a = {0};
    (void)state;
    api_open_slabs(&a, GEB_DROP_OLDEST, 4, 131072);
    api_publish(&a, 0, 6);
    assert_int_equal(geb_watch(&watch, a.name), 0);
    assert_int_equal(geb_watch_info(watch, &info), 0);
    unsigned char *before = read_whole(info.path, info.bytes);
    assert_int_equal(geb_watch_metrics(watch, &m), 0);
    assert_int_equal(m.dropped, 2);
    assert_int_equal(geb_watch_participants(watch, peers, 8), 2);
    assert_int_equal(geb_watch_topics(watch, topics, 4), 1);
    assert_true(geb_watch_slabs(watch, slabs, 32) > 0);
    assert_int_equal(geb_unwatch(watch), 0);
    unsigned char *after = read_whole(info.path, info.bytes);
    assert_int_equal(memcmp(before, after, info.bytes), 0);
    free(before);
    free(after);
    api_end(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arguments),
        cmocka_unit_test(info_tells_the_configuration),
        cmocka_unit_test(participants_and_their_states),
        cmocka_unit_test(dead_ones_are_called_so),
        cmocka_unit_test(stopped_ones_are_called_so),
        cmocka_unit_test(topics_and_slabs),
        cmocka_unit_test(mapping_is_read_only),
        cmocka_unit_test(watching_changes_no_byte),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
