/* Goal: geb_repair takes back all that the dead left and nothing of the living, whoever else is
 * there; it leaves events, and what a dead consumer had in hand, as they are.
 *
 * Method: producers die with a loan, an event that waits, a claim that a taker revoked; the counts,
 * the segment and what the next consumer gets are compared with what they did. A consumer that
 * starts meanwhile naps: nanosleep is this program's, so that a nap is the moment in which the
 * repair ends. */
#include "lib/internal.h"
#include "tests/api_support.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#define CHUNKS 2u

static struct shr_lock repair_lock, repair_role;
static int naps, naps_wanted;

/* The library sleeps by it only while it waits for a repair. */
int nanosleep(const struct timespec *time, struct timespec *left)
{
    (void)time;
    (void)left;
    if (++naps == naps_wanted) {
        shr_lock_drop(&repair_role);
        shr_lock_drop(&repair_lock);
    }
    return 0;
}

static void map_open(struct shr_map *map, const char *name)
{
    char path[SHR_PATH_BYTES];
    assert_int_equal(shr_segment_path(name, false, path), 0);
    assert_int_equal(shr_segment_attach(map, path, true), 0);
}

static struct geb_repair repair(const struct api *a)
{
    struct geb_repair r = GEB_REPAIR_INIT;
    assert_int_equal(geb_repair(a->name, &r), 0);
    return r;
}

static struct geb_repair found(const struct api *a)
{
    struct geb_repair r = GEB_REPAIR_INIT;
    struct geb_watch *watch;
    assert_int_equal(geb_watch(&watch, a->name), 0);
    assert_int_equal(geb_watch_repair(watch, &r), 0);
    assert_int_equal(geb_unwatch(watch), 0);
    return r;
}

static void assert_back(struct geb_repair r, uint32_t slots, uint32_t chunks, uint32_t cells)
{
    assert_int_equal(r.slots, slots);
    assert_int_equal(r.chunks, chunks);
    assert_int_equal(r.cells, cells);
}

static void assert_left(struct geb_repair r, uint32_t slots, uint32_t chunks, uint32_t cells)
{
    assert_int_equal(r.slots_left, slots);
    assert_int_equal(r.chunks_left, chunks);
    assert_int_equal(r.cells_left, cells);
}

/* ---- who dies, and how ----------------------------------------------------------------------- */

/* A claim and no commit, as a death between the two leaves it. */
static void claim(struct geb_producer *p)
{
    shr_store_release(&p->writer.peer->busy, shr_load_relaxed(&p->map.hot->head) << 1);
    uint64_t pos = shr_fetch_add_acq_rel(&p->map.hot->head, 1);
    shr_store_release(&p->writer.peer->busy, pos << 1 | SHR_BUSY_EXACT);
}

struct victim {
    struct api *a;
    struct support_line line;
    bool publishes, claims, stays;
};

static int die(void *arg)
{
    struct victim *v = arg;
    struct geb_loan loan;
    SUPPORT_CHECK(geb_join(&v->a->producer, v->a->name, "victim") == 0);
    SUPPORT_CHECK(!v->publishes || geb_publish(v->a->producer, v->a->topic, "xxxxxxxxx", 9) == 0);
    SUPPORT_CHECK(geb_loan(v->a->producer, 100, &loan) == 0);
    if (v->claims)
        claim(v->a->producer);
    if (v->stays) {
        support_tell_test(&v->line);
        support_hear_test(&v->line);
    }
    kill(getpid(), SIGKILL);
    return 1;
}

static void kill_one(struct api *a, bool publishes, bool claims)
{
    struct victim v = {.a = a, .publishes = publishes, .claims = claims};
    assert_int_equal(support_wait(support_child(die, &v)), -SIGKILL);
}

static void close_bus(struct api *a)
{
    assert_int_equal(geb_close(a->bus, 0), 0);
    a->bus = NULL;
}

static void open_bus(struct api *a, struct api_log *log)
{
    log->cnt = 0;
    assert_int_equal(geb_open(&a->bus, a->name), 0);
    assert_int_equal(geb_on(a->bus, "t", api_record, log), 0);
}

/* An event behind the claim of the dead: the consumer revokes it, since this one waits. */
static void have_revoked(struct api *a)
{
    api_publish(a, 1, 1);
    while (geb_dispatch(a->bus, 0) == 0) /* the patience of the bus is microseconds of polling */
        ;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void slots_and_memory_come_back(void **state)
{
    static struct api_log log;
    struct api a = {0};
    (void)state;
    api_open_slabs(&a, GEB_RETURN_ERROR, 8, CHUNKS * SHR_CHUNK_BYTES);
    close_bus(&a);
    kill_one(&a, false, false);
    kill_one(&a, true, false); /* takes the slot that the first one left, and settles it */
    assert_left(found(&a), 1, 1, 0);
    struct geb_repair r = repair(&a);
    assert_back(r, 1, 0, 0);
    assert_left(r, 0, 2, 0); /* of both; the second one's event may be in either */
    assert_false(r.consumer_lives || r.consumer_died);
    assert_back(repair(&a), 0, 0, 0);
    open_bus(&a, &log);
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    assert_int_equal(log.row[0].event.number, 1);
    close_bus(&a);
    r = repair(&a);
    assert_back(r, 0, 2, 0);
    assert_left(r, 0, 0, 0);
    open_bus(&a, &log);
    api_end(&a);
}

static void cells_come_back_from_the_dead_alone(void **state)
{
    static struct api_log log;
    struct api a = {0};
    struct victim v = {.a = &a, .claims = true, .stays = true};
    (void)state;
    api_open_slabs(&a, GEB_RETURN_ERROR, 8, CHUNKS * SHR_CHUNK_BYTES);
    support_line_open(&v.line);
    pid_t pid = support_child(die, &v);
    support_hear_child(&v.line);
    support_stop(pid);
    have_revoked(&a);
    close_bus(&a);
    struct geb_repair r = repair(&a);
    assert_back(r, 0, 0, 0);
    assert_left(r, 0, 0, 1); /* it lives and may write to the cell */
    support_kill(pid);
    assert_left(found(&a), 1, 0, 1);
    r = repair(&a);
    assert_back(r, 1, 1, 1);
    assert_left(r, 0, 0, 0);
    open_bus(&a, &log);
    assert_int_equal(api_account(&a).quarantined, 0);
    for (uint64_t i = 0; i < 40; i++) { /* every cell is of use, lap after lap */
        api_publish(&a, i, 1);
        while (geb_dispatch(a.bus, 0) == 0)
            ;
    }
    assert_int_equal(log.cnt, 40);
    support_line_close(&v.line);
    api_end(&a);
}

static void beside_a_consumer(void **state)
{
    struct api a = {0};
    (void)state;
    api_open_slabs(&a, GEB_RETURN_ERROR, 8, CHUNKS * SHR_CHUNK_BYTES);
    kill_one(&a, false, true);
    have_revoked(&a); /* and swept, perhaps: a look now and then does so */
    kill_one(&a, false, true);
    struct geb_repair r = repair(&a);
    assert_true(r.consumer_lives);
    assert_int_equal(r.slots, 1);
    assert_int_equal(r.cells, 0);
    assert_int_equal(geb_open(&(struct geb_bus *){0}, a.name), -EBUSY);    /* it has its role yet */
    assert_int_equal(shr_load_relaxed(&a.bus->map.tally->quarantined), 0); /* and its columns */
    api_publish(&a, 1, 1);
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    api_end(&a);
}

static int never(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)ctx;
    (void)event;
    (void)user;
    kill(getpid(), SIGKILL);
    return 0;
}

static int consume_and_die(void *arg)
{
    struct api *a = arg;
    SUPPORT_CHECK(geb_open(&a->bus, a->name) == 0);
    SUPPORT_CHECK(geb_on(a->bus, "t", never, NULL) == 0);
    geb_dispatch(a->bus, 1);
    return 1;
}

/* The event in hand is handed out again by the next consumer, as its second attempt. */
static void what_a_dead_consumer_had_in_hand_stays(void **state)
{
    static struct api_log log;
    struct api a = {0};
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    close_bus(&a);
    api_publish(&a, 1, 2);
    assert_int_equal(support_wait(support_child(consume_and_die, &a)), -SIGKILL);
    struct geb_metrics before = api_account(&a);
    for (int i = 0; i < 2; i++)
        assert_true(repair(&a).consumer_died);
    struct geb_metrics after = api_account(&a);
    assert_memory_equal(&before, &after, sizeof(before));
    open_bus(&a, &log);
    assert_int_equal(geb_dispatch(a.bus, 0), 2);
    assert_int_equal(log.row[0].event.attempt, 2);
    assert_int_equal(log.row[1].event.attempt, 1);
    assert_false(repair(&a).consumer_died);
    api_end(&a);
}

static void take_as_repairer(struct shr_map *map)
{
    assert_int_equal(shr_lock_take(map, SHR_LOCK_SWEEP, &repair_lock), 0);
    assert_int_equal(shr_lock_take(map, SHR_CONSUMER_SLOT, &repair_role), 0);
    naps = 0;
}

static void one_at_a_time(void **state)
{
    static struct api_log log;
    struct api a = {0};
    struct shr_map map;
    struct geb_repair r = GEB_REPAIR_INIT;
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    close_bus(&a);
    map_open(&map, a.name);
    take_as_repairer(&map);
    api_refused(geb_repair(a.name, &r), -EBUSY, "somebody else");
    api_refused(geb_remove(a.name), -EBUSY, "first"); /* its producer */
    naps_wanted = 3;
    open_bus(&a, &log); /* it naps until the repair is over */
    assert_int_equal(naps, 3);
    close_bus(&a);
    take_as_repairer(&map);
    naps_wanted = -1;
    api_refused(geb_open(&a.bus, a.name), -EBUSY, "being repaired");
    assert_int_equal(geb_leave(a.producer), 0);
    api_refused(geb_remove(a.name), -EBUSY, "being repaired");
    naps_wanted = naps + 1;
    nanosleep(NULL, NULL);
    shr_segment_detach(&map);
    open_bus(&a, &log);
    assert_int_equal(geb_join(&a.producer, a.name, "again"), 0);
    api_end(&a);
}

static void unused_buses_go(void **state)
{
    struct api a = {0};
    (void)state;
    api_open(&a, GEB_BLOCK, 4);
    api_refused(geb_remove_unused(a.name), -EBUSY, "in use");
    api_publish(&a, 1, 1);
    close_bus(&a);
    assert_int_equal(geb_leave(a.producer), 0);
    api_refused(geb_remove_unused(a.name), -EBUSY, "1 events wait");
    assert_int_equal(geb_open(&a.bus, a.name), 0);
    assert_int_equal(geb_dispatch(a.bus, 0), 1);
    close_bus(&a);
    assert_int_equal(geb_remove_unused(a.name), 0);
    assert_int_equal(geb_remove_unused(a.name), -ENOENT);
}

static void refusals(void **state)
{
    struct api a = {0};
    struct geb_repair r = {0};
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 2, .l_len = 1};
    char path[SHR_PATH_BYTES];
    (void)state;
    api_open_slabs(&a, GEB_BLOCK, 4, CHUNKS * SHR_CHUNK_BYTES);
    assert_int_equal(geb_repair(a.name, NULL), -EINVAL);
    api_refused(geb_repair(a.name, &r), -EINVAL, "GEB_REPAIR_INIT");
    r = (struct geb_repair)GEB_REPAIR_INIT;
    assert_int_equal(geb_repair("nowhere", &r), -ENOENT);
    assert_int_equal(geb_watch_repair(NULL, &r), -EINVAL);
    kill_one(&a, false, false);
    assert_int_equal(shr_segment_path(a.name, false, path), 0);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
    assert_int_equal(found(&a).strangers, 1);
    r = repair(&a); /* nobody but the consumer can settle the slot beside it … */
    assert_back(r, 0, 0, 0);
    assert_int_equal(r.slots_left, 1);
    close_bus(&a);
    r = repair(&a); /* … or who has its role */
    assert_int_equal(r.slots, 1);
    assert_int_equal(r.strangers, 1);
    close(fd);
    assert_int_equal(repair(&a).strangers, 0);
    assert_int_equal(geb_open(&a.bus, a.name), 0);
    api_end(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_and_memory_come_back),
        cmocka_unit_test(cells_come_back_from_the_dead_alone),
        cmocka_unit_test(beside_a_consumer),
        cmocka_unit_test(what_a_dead_consumer_had_in_hand_stays),
        cmocka_unit_test(one_at_a_time),
        cmocka_unit_test(unused_buses_go),
        cmocka_unit_test(refusals),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
