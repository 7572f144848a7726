/* Goal: what is wrong around a bus (its name, its file, the rights, the room on the file system) is
 * refused with an error of its own that names the fix, and changes nothing.
 * Method: each of create, open, join, watch and remove against each wrong thing; the entries of the
 * directory and the bytes of the file are the same afterwards. Another user is a child after
 * setresuid; a full tmpfs is one of few pages in a mount namespace of its own: both need root. */
#include "tests/api_support.h"

#include "shmring/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <cmocka.h>

#define NOBODY ((uid_t)65534)

/* All that takes a name. Returns how many of them gave another result than `expected`. */
static unsigned all_refuse(const char *name, int expected, const char *text)
{
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct geb_bus *bus = NULL;
    struct geb_producer *producer = NULL;
    struct geb_watch *watch = NULL;
    static const char *const call[] = {"create", "open", "join", "watch", "remove"};
    unsigned wrong = 0;
    for (unsigned i = 0; i < 5; i++) {
        int rc = i == 0   ? geb_create(&bus, name, &config)
                 : i == 1 ? geb_open(&bus, name)
                 : i == 2 ? geb_join(&producer, name, "x")
                 : i == 3 ? geb_watch(&watch, name)
                          : geb_remove(name);
        bool good = rc == expected && strstr(geb_last_error(), text) != NULL && bus == NULL &&
                    producer == NULL && watch == NULL;
        if (!good)
            print_error("%s of \"%s\": %d, \"%s\"\n", call[i], name, rc, geb_last_error());
        wrong += !good;
    }
    return wrong;
}

static void bad_names(void **state)
{
    static const char *const bad[] = {
        "", ".", "..", ".hidden", "-option", "a b", "a\n", "a*", "caf\xc3\xa9", "a:b", "\x7f",
    };
    char name[65];
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(all_refuse(bad[i], -EINVAL, "name"), 0);
    memset(name, 'a', 64);
    name[64] = '\0';
    assert_int_equal(all_refuse(name, -EINVAL, "63"), 0);
    assert_int_equal(support_entries(support_dir()), 0);
}

static void longest_name(void **state)
{
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct geb_bus *bus;
    char name[64];
    (void)state;
    memset(name, 'a', 63);
    memcpy(name, "Aa0._-", 6);
    name[63] = '\0';
    assert_int_equal(geb_create(&bus, name, &config), 0);
    assert_int_equal(geb_close(bus, 0), 0);
    assert_int_equal(geb_remove(name), 0);
    assert_int_equal(support_entries(support_dir()), 0);
}

static void directory_that_is_not_there(void **state)
{
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct geb_bus *bus;
    char path[SHR_PATH_BYTES + 8];
    char place[SHR_PATH_BYTES];
    (void)state;
    snprintf(path, sizeof(path), "%s/bus", support_path(place));
    api_refused(geb_create(&bus, path, &config), -ENOENT, path);
    api_refused(geb_open(&bus, path), -ENOENT, path);
    assert_int_equal(support_entries(support_dir()), 0);
}

/* ---- files that are no bus ------------------------------------------------------------------- */

static void make_file(const char *path, const void *bytes, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len), len);
    close(fd);
}

static void foreign_files(void **state)
{
    static const char text[] = "this is somebody's letter\n";
    static unsigned char big[3 * SHR_PAGE_BYTES];
    char path[SHR_PATH_BYTES];
    char kept[sizeof(text)];
    (void)state;
    make_file(support_path(path), text, sizeof(text));
    assert_int_equal(all_refuse(path, -EBADMSG, path), 0);
    int fd = open(path, O_RDONLY);
    assert_int_equal(read(fd, kept, sizeof(kept)), sizeof(kept));
    close(fd);
    assert_memory_equal(kept, text, sizeof(text));
    unlink(path);
    make_file(support_path(path), "", 0);
    assert_int_equal(all_refuse(path, -EBADMSG, path), 0);
    unlink(path);
    make_file(support_path(path), big, sizeof(big));
    assert_int_equal(all_refuse(path, -EBADMSG, path), 0);
    unlink(path);
}

static void things_that_are_no_files(void **state)
{
    char path[SHR_PATH_BYTES];
    char target[SHR_PATH_BYTES];
    (void)state;
    assert_int_equal(mkdir(support_path(path), 0700), 0);
    assert_int_equal(all_refuse(path, -EBADMSG, path), 0);
    rmdir(path);
    assert_int_equal(mkfifo(support_path(path), 0600), 0);
    api_watchdog(30); /* a FIFO must not make anybody wait */
    assert_int_equal(all_refuse(path, -EBADMSG, path), 0);
    api_watchdog(0);
    unlink(path);
    make_file(support_path(target), "x", 1);
    assert_int_equal(symlink(target, support_path(path)), 0);
    unsigned before = support_entries(support_dir());
    struct geb_bus *bus;
    assert_true(geb_open(&bus, path) < 0);
    assert_int_equal(support_entries(support_dir()), before);
    unlink(path);
    unlink(target);
}

/* A closed bus, of which `damage` changes a byte or the size. */
static void check_damage(void (*damage)(int fd), int expected)
{
    struct api a = {0};
    char path[SHR_PATH_BYTES + 80];
    struct stat before;
    struct stat after;
    api_open(&a, GEB_BLOCK, 4);
    api_publish(&a, 0, 2);
    geb_leave(a.producer);
    geb_close(a.bus, 0);
    snprintf(path, sizeof(path), "%s/%s", support_dir(), a.name);
    int fd = open(path, O_RDWR);
    damage(fd);
    close(fd);
    assert_int_equal(stat(path, &before), 0);
    assert_int_equal(all_refuse(a.name, expected, path), 0);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(before.st_size, after.st_size);
    assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
    assert_int_equal(before.st_mtim.tv_sec, after.st_mtim.tv_sec);
    assert_int_equal(support_entries(support_dir()), 1);
    unlink(path);
}

static void cut_in_half(int fd)
{
    struct stat st;
    if (fstat(fd, &st) == 0 && ftruncate(fd, st.st_size / 2) != 0)
        abort();
}

static void cut_by_a_byte(int fd)
{
    struct stat st;
    if (fstat(fd, &st) == 0 && ftruncate(fd, st.st_size - 1) != 0)
        abort();
}

static void add_a_page(int fd)
{
    struct stat st;
    if (fstat(fd, &st) == 0 && ftruncate(fd, st.st_size + SHR_PAGE_BYTES) != 0)
        abort();
}

static void poke(int fd, size_t off, uint32_t value)
{
    if (pwrite(fd, &value, sizeof(value), (off_t)off) != sizeof(value))
        abort();
}

static void other_magic(int fd)
{
    poke(fd, offsetof(struct shr_header, magic), 0x31313131);
}

static void newer_layout(int fd)
{
    poke(fd, offsetof(struct shr_header, layout_version), SHR_LAYOUT_VERSION + 1);
}

static void older_layout(int fd)
{
    poke(fd, offsetof(struct shr_header, layout_version), SHR_LAYOUT_VERSION - 1);
}

static void other_capacity(int fd)
{
    poke(fd, offsetof(struct shr_header, geometry) + offsetof(struct shr_geometry, capacity), 8);
}

static void damaged_files(void **state)
{
    (void)state;
    check_damage(cut_in_half, -EBADMSG);
    check_damage(cut_by_a_byte, -EBADMSG);
    check_damage(add_a_page, -EBADMSG);
    check_damage(other_magic, -EBADMSG);
    check_damage(other_capacity, -EBADMSG);
}

static void other_layout_versions(void **state)
{
    (void)state;
    check_damage(newer_layout, -EPROTO);
    check_damage(older_layout, -EPROTO);
}

/* ---- another user ---------------------------------------------------------------------------- */

static void become_nobody(void)
{
    SUPPORT_CHECK(setresgid(NOBODY, NOBODY, NOBODY) == 0);
    SUPPORT_CHECK(setresuid(NOBODY, NOBODY, NOBODY) == 0);
}

static int without_rights(void *arg)
{
    struct api *a = arg;
    struct geb_bus *bus = NULL;
    struct geb_config config = api_config(GEB_BLOCK, 4);
    become_nobody();
    SUPPORT_CHECK(all_refuse(a->name, -EACCES, a->name) == 0);
    SUPPORT_CHECK(geb_create(&bus, "new", &config) == -EACCES); /* nor in the directory */
    SUPPORT_CHECK(strstr(geb_last_error(), support_dir()) != NULL && bus == NULL);
    return 0;
}

static int with_read_rights(void *arg)
{
    struct api *a = arg;
    struct geb_producer *producer = NULL;
    struct geb_watch *watch = NULL;
    struct geb_bus_info info = {.size = sizeof(info)};
    become_nobody();
    SUPPORT_CHECK(geb_watch(&watch, a->name) == 0);
    SUPPORT_CHECK(geb_watch_info(watch, &info) == 0 && info.creator_uid == 0);
    SUPPORT_CHECK(geb_unwatch(watch) == 0);
    SUPPORT_CHECK(geb_join(&producer, a->name, "x") == -EACCES && producer == NULL);
    return 0;
}

static int with_all_rights(void *arg)
{
    struct api *a = arg;
    struct geb_producer *producer = NULL;
    geb_topic_id topic;
    uint64_t value = 5;
    become_nobody();
    SUPPORT_CHECK(geb_join(&producer, a->name, "nobody") == 0);
    SUPPORT_CHECK(geb_topic(producer, "t", &topic) == 0 && topic == a->topic);
    SUPPORT_CHECK(geb_publish(producer, topic, &value, sizeof(value)) == 0);
    SUPPORT_CHECK(geb_leave(producer) == 0);
    SUPPORT_CHECK(geb_remove(a->name) == -EBUSY);
    return 0;
}

static void as_another_user(mode_t mode, int (*child)(void *))
{
    struct api a = {0};
    struct geb_config config = api_config(GEB_BLOCK, 4);
    mode_t mask = umask(0);
    config.mode = mode;
    api_open_config(&a, &config);
    umask(mask);
    assert_int_equal(chmod(support_dir(), 0755), 0);
    struct geb_metrics before = api_account(&a);
    int status = support_wait(support_child(child, &a));
    assert_int_equal(chmod(support_dir(), 0700), 0);
    assert_int_equal(status, 0);
    struct geb_metrics after = api_account(&a);
    assert_int_equal(after.accepted, before.accepted + (child == with_all_rights));
    assert_int_equal(support_entries(support_dir()), 1);
    api_publish(&a, 0, 1); /* its own people are not disturbed */
    api_end(&a);
}

static void no_permission(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    as_another_user(0600, without_rights);
    as_another_user(0644, with_read_rights);
    as_another_user(0666, with_all_rights);
}

/* ---- a full file system ---------------------------------------------------------------------- */

/* Who only looks at a bus still may. */
static void when_read_only(const char *place, const char *name)
{
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct geb_repair repair = GEB_REPAIR_INIT;
    struct geb_producer *producer = NULL;
    struct geb_bus *bus = NULL;
    struct geb_watch *watch = NULL;
    SUPPORT_CHECK(mount("none", place, NULL, MS_REMOUNT | MS_RDONLY, "size=2m") == 0);
    for (int i = 0; i < 6; i++) {
        int rc = i == 0   ? geb_create(&bus, "other", &config)
                 : i == 1 ? geb_create(&bus, name, &config)
                 : i == 2 ? geb_open(&bus, name)
                 : i == 3 ? geb_join(&producer, name, "x")
                 : i == 4 ? geb_repair(name, &repair)
                          : geb_remove(name);
        SUPPORT_CHECK(rc == -EACCES && strstr(geb_last_error(), "is read-only") != NULL);
        SUPPORT_CHECK(bus == NULL && producer == NULL);
    }
    SUPPORT_CHECK(geb_watch(&watch, name) == 0 && geb_unwatch(watch) == 0);
    SUPPORT_CHECK(mount("none", place, NULL, MS_REMOUNT, "size=2m") == 0);
}

/* 77: this machine has no mount namespaces for us. */
static int on_small_tmpfs(void *arg)
{
    const char *place = arg;
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct geb_bus *bus = NULL;
    struct geb_producer *producer = NULL;
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", place, "tmpfs", 0, "size=2m,mode=0700") != 0)
        return 77;
    setenv("GEB_DIR", place, 1);
    SUPPORT_CHECK(geb_create(&bus, "large", NULL) == -ENOSPC && bus == NULL);
    SUPPORT_CHECK(strstr(geb_last_error(), "GEB_DIR") != NULL);
    SUPPORT_CHECK(support_entries(place) == 0);
    /* What did not fit was given back: a small bus still fits, and works. */
    SUPPORT_CHECK(geb_create(&bus, "small", &config) == 0);
    SUPPORT_CHECK(geb_join(&producer, "small", "x") == 0);
    geb_topic_id topic;
    SUPPORT_CHECK(geb_topic(producer, "t", &topic) == 0);
    /* Then the file system fills up: the bus has all of its memory and does not notice. */
    char path[SHR_PATH_BYTES + 8];
    static char page[4096];
    snprintf(path, sizeof(path), "%s/filler", place);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    while (write(fd, page, sizeof(page)) > 0)
        ;
    SUPPORT_CHECK(errno == ENOSPC);
    for (int i = 0; i < 20; i++) {
        SUPPORT_CHECK(geb_publish(producer, topic, &i, sizeof(i)) == 0);
        SUPPORT_CHECK(geb_dispatch(bus, 0) == 1);
    }
    struct geb_bus *second = NULL;
    SUPPORT_CHECK(geb_create(&second, "second", &config) == -ENOSPC && second == NULL);
    SUPPORT_CHECK(support_entries(place) == 2);
    SUPPORT_CHECK(geb_leave(producer) == 0 && geb_close(bus, 0) == 0);
    SUPPORT_CHECK(close(fd) == 0 && unlink(path) == 0);
    when_read_only(place, "small");
    SUPPORT_CHECK(geb_remove("small") == 0);
    /* It has room again, but not for one more file. */
    SUPPORT_CHECK(mount("none", place, NULL, MS_REMOUNT, "nr_inodes=1") == 0);
    SUPPORT_CHECK(geb_create(&second, "second", &config) == -ENOSPC && second == NULL);
    SUPPORT_CHECK(strstr(geb_last_error(), "no inodes left") != NULL);
    return 0;
}

static void full_file_system(void **state)
{
    char place[SHR_PATH_BYTES];
    (void)state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(mkdir(support_path(place), 0700), 0);
    int status = support_wait(support_child(on_small_tmpfs, place));
    rmdir(place);
    if (status == 77)
        skip();
    assert_int_equal(status, 0);
}

/* ---- the default directory ------------------------------------------------------------------- */

#define STRANGER ((uid_t)4200001)

/* Without GEB_DIR, on a /dev/shm of its own. 77: this machine has no mount namespaces for us. */
static int in_default_directory(void *arg)
{
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct geb_bus *bus = NULL;
    struct stat st;
    (void)arg;
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", "/dev/shm", "tmpfs", 0, "size=8m,mode=1777") != 0)
        return 77;
    unsetenv("GEB_DIR");
    SUPPORT_CHECK(geb_open(&bus, "shop") == -ENOENT); /* nobody has ever made a bus */
    SUPPORT_CHECK(strstr(geb_last_error(), "create it first") != NULL);
    SUPPORT_CHECK(geb_create(&bus, "shop", &config) == 0);
    SUPPORT_CHECK(stat("/dev/shm/geb-0", &st) == 0 && (st.st_mode & 07777) == 0700);
    SUPPORT_CHECK(stat("/dev/shm/geb-0/shop", &st) == 0);
    SUPPORT_CHECK(geb_close(bus, 0) == 0 && geb_remove("shop") == 0);
    /* Somebody else made the directory of that user first, to see what he will put there. */
    bus = NULL;
    SUPPORT_CHECK(mkdir("/dev/shm/geb-4200001", 0777) == 0);
    SUPPORT_CHECK(setresuid(STRANGER, STRANGER, STRANGER) == 0);
    SUPPORT_CHECK(geb_create(&bus, "shop", &config) == -EACCES && bus == NULL);
    SUPPORT_CHECK(strstr(geb_last_error(), "GEB_DIR") != NULL);
    return 0;
}

static int with_small_files(void *unused)
{
    struct geb_bus *bus = NULL;
    (void)unused;
    SUPPORT_CHECK(setrlimit(RLIMIT_FSIZE, &(struct rlimit){65536, 65536}) == 0);
    SUPPORT_CHECK(geb_create(&bus, "large", NULL) == -ENOSPC && bus == NULL);
    SUPPORT_CHECK(strstr(geb_last_error(), "ulimit -f") != NULL);
    return 0;
}

/* What exceeds a limit of the size of files gets a signal, by which a program would end. */
static void limit_of_files(void **state)
{
    (void)state;
    assert_int_equal(support_wait(support_child(with_small_files, NULL)), 0);
}

static void default_directory(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    int status = support_wait(support_child(in_default_directory, NULL));
    if (status == 77)
        skip();
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_names),
        cmocka_unit_test(longest_name),
        cmocka_unit_test(directory_that_is_not_there),
        cmocka_unit_test(foreign_files),
        cmocka_unit_test(things_that_are_no_files),
        cmocka_unit_test(damaged_files),
        cmocka_unit_test(other_layout_versions),
        cmocka_unit_test(no_permission),
        cmocka_unit_test(full_file_system),
        cmocka_unit_test(limit_of_files),
        cmocka_unit_test(default_directory),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
