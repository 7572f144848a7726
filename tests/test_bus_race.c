/* Goal: a bus that is removed while somebody opens it is no bus to geb_open, and geb_create makes a
 * new one: neither of them meets the locks that removers hold for a moment. Nor does anybody else
 * who comes. A repair that ends while somebody opens the bus keeps nobody from the role.
 * Method: fcntl is this file's, so that removers and repairers come between the calls of one that
 * opens. */
#include "tests/api_support.h"

#include "shmring/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

static char name[64];
static char path[SHR_PATH_BYTES];
/* Two removers that have opened the bus, and what they do before each call for a lock; NULL: no
 * more. */
static struct shr_map map[2];
static struct shr_lock lock[2];
static void (*const *script)(void);

int fcntl(int fd, int command, ...)
{
    va_list args;
    va_start(args, command);
    void *arg = va_arg(args, void *);
    va_end(args);
    if (script != NULL && (command == F_OFD_SETLK || command == F_OFD_GETLK)) {
        void (*const *now)(void) = script;
        script = NULL; /* the removers lock as well */
        if (*now != NULL) {
            (*now)();
            script = now + 1;
        }
    }
    return (int)syscall(SYS_fcntl, fd, command, arg);
}

static void remove_first(void)
{
    assert_int_equal(shr_lock_take_all(&map[0], &lock[0]), 0);
    assert_int_equal(unlink(path), 0);
}

static void leave_first(void)
{
    shr_lock_drop(&lock[0]);
}

static void come_late(void)
{
    assert_int_equal(shr_lock_take_all(&map[1], &lock[1]), 0);
}

static void leave_late(void)
{
    shr_lock_drop(&lock[1]);
}

static void remove_and_leave(void)
{
    remove_first();
    leave_first();
}

static void (*const removed_between[])(void) = {remove_and_leave, NULL};
/* The one that comes too late finds the file, but not the name. */
static void (*const removed_by_two[])(void) = {remove_first, leave_first, come_late, leave_late,
                                               NULL};

static void open_while(void (*const removers[])(void), bool create)
{
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct geb_producer *producer;
    struct geb_bus *bus;
    assert_int_equal(geb_create(&bus, support_name(name), &config), 0);
    assert_int_equal(geb_close(bus, 0), 0);
    assert_int_equal(shr_segment_path(name, false, path), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(shr_segment_attach(&map[i], path, true), 0);
    script = removers;
    int rc = create ? geb_create(&bus, name, &config) : geb_open(&bus, name);
    script = NULL;
    if (create) {
        assert_int_equal(rc, 0);
        assert_int_equal(geb_join(&producer, name, "p"), 0);
        assert_int_equal(geb_leave(producer), 0);
        assert_int_equal(geb_close(bus, 0), 0);
        assert_int_equal(geb_remove(name), 0);
    } else {
        api_refused(rc, -ENOENT, "removed");
        assert_null(bus);
    }
    for (int i = 0; i < 2; i++) {
        shr_lock_drop(&lock[i]);
        shr_segment_detach(&map[i]);
    }
    assert_int_equal(support_entries(support_dir()), 0);
}

static void create_beside_removers(void **state)
{
    (void)state;
    open_while(removed_between, true);
    open_while(removed_by_two, true);
}

static void open_beside_removers(void **state)
{
    (void)state;
    open_while(removed_between, false);
    open_while(removed_by_two, false);
}

/* Whoever joins or repairs has the file, and its lock, and finds that the name is gone. */
static void others_beside_removers(void **state)
{
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct geb_repair repair = GEB_REPAIR_INIT;
    struct geb_producer *producer;
    struct geb_bus *bus;
    (void)state;
    for (int who = 0; who < 3; who++) {
        assert_int_equal(geb_create(&bus, support_name(name), &config), 0);
        assert_int_equal(geb_close(bus, 0), 0);
        assert_int_equal(shr_segment_path(name, false, path), 0);
        assert_int_equal(shr_segment_attach(&map[0], path, true), 0);
        script = removed_between;
        int rc = who == 0   ? geb_join(&producer, name, "late")
                 : who == 1 ? geb_repair(name, &repair)
                            : geb_remove(name);
        script = NULL;
        api_refused(rc, -ENOENT, "removed");
        shr_segment_detach(&map[0]);
        assert_int_equal(support_entries(support_dir()), 0);
    }
}

static void nothing(void)
{
}

static void end_repair(void)
{
    shr_lock_drop(&lock[0]);
    shr_lock_drop(&lock[1]);
}

/* The role is taken when it is asked for, and the repair is over when that is looked at. */
static void (*const repaired_between[])(void) = {nothing, end_repair, NULL};

static void open_beside_a_repair_that_ends(void **state)
{
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct geb_bus *bus;
    (void)state;
    assert_int_equal(geb_create(&bus, support_name(name), &config), 0);
    assert_int_equal(geb_close(bus, 0), 0);
    assert_int_equal(shr_segment_path(name, false, path), 0);
    assert_int_equal(shr_segment_attach(&map[0], path, true), 0);
    assert_int_equal(shr_lock_take(&map[0], SHR_LOCK_SWEEP, &lock[0]), 0);
    assert_int_equal(shr_lock_take(&map[0], SHR_CONSUMER_SLOT, &lock[1]), 0);
    script = repaired_between;
    int rc = geb_open(&bus, name);
    script = NULL;
    assert_int_equal(rc, 0);
    assert_int_equal(geb_close(bus, 0), 0);
    assert_int_equal(geb_remove(name), 0);
    shr_segment_detach(&map[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(create_beside_removers),
        cmocka_unit_test(open_beside_removers),
        cmocka_unit_test(others_beside_removers),
        cmocka_unit_test(open_beside_a_repair_that_ends),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
