/* Goal: a bus file is made whole or not at all, is shared by whoever may open it, and nothing that is
 * not one is taken for one.
 * Method: create and attach among real files in a fresh directory; full, foreign and forbidden places
 * are made with mount namespaces, other uids and refused system calls; the creator is killed at each
 * of its system calls. */
#include "shmring/segment.h"
#include "tests/support.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <cmocka.h>

#define NOBODY 65534u

static void make_tiny(char path[SHR_PATH_BYTES])
{
    struct shr_map map;
    struct shr_config config = support_tiny_config();
    assert_int_equal(shr_segment_create(&map, support_path(path), &config), 0);
    shr_segment_detach(&map);
}

static int attach_rc(const char *path, bool writable)
{
    struct shr_map map;
    int rc = shr_segment_attach(&map, path, writable);
    shr_segment_detach(&map);
    return rc;
}

/* ---- the good way ------------------------------------------------------------------------------ */

static void test_create_attach_detach(void **state)
{
    (void)state;
    struct shr_map one, two;
    struct stat st;
    char path[SHR_PATH_BYTES];
    struct shr_config config = support_tiny_config();
    config.mode = 0660;
    mode_t mask = umask(0077);
    assert_int_equal(shr_segment_create(&one, support_path(path), &config), 0);
    umask(mask);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode, S_IFREG | 0660);
    assert_int_equal(st.st_size, one.bytes);
    assert_true((uint64_t)st.st_blocks * 512 >= one.bytes);
    assert_int_equal(st.st_nlink, 1);
    assert_int_equal(one.geo.creator_pid, getpid());
    assert_true(one.geo.id[0] != 0 && one.geo.id[1] != 0);

    assert_int_equal(shr_segment_attach(&two, path, false), 0);
    assert_memory_equal(&one.geo, &two.geo, sizeof(one.geo));
    assert_true(one.base != two.base);
    shr_store_relaxed(&one.hot->reserved[0], 77);
    assert_int_equal(shr_load_relaxed(&two.hot->reserved[0]), 77);
    assert_true(fcntl(shr_segment_fd(&two), F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(shr_segment_fd(&one), F_GETFD) & FD_CLOEXEC);
    assert_int_equal(fcntl(shr_segment_fd(&two), F_GETFL) & O_ACCMODE, O_RDONLY);

    shr_segment_detach(&two);
    shr_segment_detach(&two);
    assert_null(two.base);
    shr_segment_detach(&one);
    struct shr_map zero = {0};
    shr_segment_detach(&zero);
    assert_int_equal(fcntl(0, F_GETFD) < 0 && errno == EBADF, 0); /* descriptor 0 was not closed */
    unlink(path);
}

static int map_is_gone(void *arg)
{
    const struct shr_map *map = arg;
    unsigned char there[1];
    SUPPORT_CHECK(mincore(map->base, 4096, there) != 0 && errno == ENOMEM);
    return 0;
}

static void test_not_inherited(void **state)
{
    (void)state;
    struct shr_map map[2];
    char path[SHR_PATH_BYTES];
    struct shr_config config = support_tiny_config();
    assert_int_equal(shr_segment_create(&map[0], support_path(path), &config), 0);
    assert_int_equal(shr_segment_attach(&map[1], path, true), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(support_wait(support_child(map_is_gone, &map[i])), 0);
        shr_segment_detach(&map[i]);
    }
}

static void test_relative_path(void **state)
{
    (void)state;
    struct shr_map map;
    char cwd[SHR_PATH_BYTES], name[64], dotted[80];
    struct shr_config config = support_tiny_config();
    assert_non_null(getcwd(cwd, sizeof(cwd)));
    assert_int_equal(chdir(support_dir()), 0);
    snprintf(dotted, sizeof(dotted), "./%s", support_name(name));
    assert_int_equal(shr_segment_create(&map, dotted, &config), 0);
    assert_int_equal(chdir(cwd), 0);
    close((int)shr_load32_relaxed(&map.fd));
    assert_true(shr_segment_fd(&map) >= 0);
    shr_segment_detach(&map);
    assert_int_equal(shr_segment_create(&map, "", &config), -EINVAL);
}

/* ---- the descriptor ---------------------------------------------------------------------------- */

static void test_descriptor(void **state)
{
    (void)state;
    struct shr_map map;
    struct stat st;
    char path[SHR_PATH_BYTES];
    struct shr_config config = support_tiny_config();
    assert_int_equal(shr_segment_create(&map, support_path(path), &config), 0);
    int fd = shr_segment_fd(&map);
    assert_int_equal(shr_segment_fd(&map), fd);
    /* Closed behind our back, and the number given to another file. */
    int other = open("/dev/null", O_RDWR | O_CLOEXEC);
    assert_int_equal(dup3(other, fd, O_CLOEXEC), fd);
    int again = shr_segment_fd(&map);
    assert_true(again >= 0 && again != fd);
    assert_int_equal(fstat(again, &st), 0);
    assert_int_equal(st.st_ino, map.ino);
    assert_int_equal(shr_segment_fd(&map), again);
    /* Its name is gone, then taken by another bus. */
    assert_int_equal(unlink(path), 0);
    assert_int_equal(shr_segment_fd(&map), again);
    assert_int_equal(dup3(other, again, O_CLOEXEC), again);
    assert_int_equal(shr_segment_fd(&map), -ESTALE);
    struct shr_map second;
    assert_int_equal(shr_segment_create(&second, path, &config), 0);
    assert_int_equal(shr_segment_fd(&map), -ESTALE);
    /* Detach leaves descriptors that are not ours alone. */
    shr_segment_detach(&map);
    assert_true(fcntl(again, F_GETFD) >= 0);
    shr_segment_detach(&second);
    close(again);
    close(fd);
    close(other);
}

static void test_matches(void **state)
{
    (void)state;
    struct shr_map map;
    char path[SHR_PATH_BYTES];
    const char *why;
    struct shr_config config = support_tiny_config();
    config.capacity = 8;
    config.slab_bytes = 131072 + 1;
    assert_int_equal(shr_segment_create(&map, support_path(path), &config), 0);
    assert_int_equal(shr_segment_matches(&map, &config, &why), 0);
    config.slab_bytes += 1; /* rounded to the same number of chunks */
    assert_int_equal(shr_segment_matches(&map, &config, &why), 0);
#define DIFFERS(field, value, name)                                         \
    do {                                                                    \
        struct shr_config other = config;                                   \
        other.field = (value);                                              \
        assert_int_equal(shr_segment_matches(&map, &other, &why), -EEXIST); \
        assert_string_equal(why, name);                                     \
        assert_int_equal(shr_segment_matches(&map, &other, NULL), -EEXIST); \
    } while (0)
    DIFFERS(policy, SHR_BLOCK, "policy");
    DIFFERS(capacity, 16, "capacity");
    DIFFERS(max_event, 31, "max_event");
    DIFFERS(slab_bytes, 262144, "slab_bytes");
    DIFFERS(producers, 3, "producers");
    DIFFERS(topics, 5, "topics");
    DIFFERS(patience_ns, 30001, "patience_ns");
    DIFFERS(sample_shift, 7, "sample_shift");
    DIFFERS(shelf_entries, 1, "shelf_entries");
    DIFFERS(mode, 0660, "mode");
    config.producers = 1;
    DIFFERS(exclusive, 1, "exclusive");
    config.capacity = 3;
    assert_int_equal(shr_segment_matches(&map, &config, &why), -EDOM);
    shr_segment_detach(&map);
}

/* ---- names that are taken ---------------------------------------------------------------------- */

static void test_existing(void **state)
{
    (void)state;
    struct shr_map map, other;
    struct stat before, after;
    char path[SHR_PATH_BYTES], link[SHR_PATH_BYTES];
    struct shr_config config = support_tiny_config();
    assert_int_equal(shr_segment_create(&map, support_path(path), &config), 0);
    unsigned char *copy = malloc(map.bytes);
    assert_non_null(copy);
    memcpy(copy, map.base, map.bytes);
    assert_int_equal(stat(path, &before), 0);
    unsigned entries = support_entries(support_dir());
    config.capacity = 64;
    config.mode = 0666;
    assert_int_equal(shr_segment_create(&other, path, &config), -EEXIST);
    assert_null(other.base);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    assert_int_equal(before.st_mode, after.st_mode);
    assert_int_equal(before.st_size, after.st_size);
    assert_memory_equal(copy, map.base, map.bytes);
    assert_int_equal(support_entries(support_dir()), entries);
    free(copy);
    shr_segment_detach(&map);
    /* A link that leads nowhere takes the name too, and is not followed. */
    assert_int_equal(symlink("nowhere", support_path(link)), 0);
    assert_int_equal(shr_segment_create(&other, link, &config), -EEXIST);
    assert_int_equal(unlink(link), 0);
}

#define RACERS 8

struct race {
    struct support_line line;
    char path[SHR_PATH_BYTES];
    bool refuse_tmpfile;
};

static int race_create(void *arg)
{
    const struct race *race = arg;
    struct shr_map map;
    struct shr_config config = support_tiny_config();
    if (race->refuse_tmpfile)
        SUPPORT_CHECK(support_deny(SYS_openat, 2, O_TMPFILE & ~O_DIRECTORY, EOPNOTSUPP) == 0);
    support_tell_test(&race->line);
    support_hear_test(&race->line);
    int rc = shr_segment_create(&map, race->path, &config);
    return rc == 0 ? 10 : rc == -EEXIST ? 11 : 12;
}

static void test_creators_race(void **state)
{
    (void)state;
    struct race race = {0};
    support_line_open(&race.line);
    for (int round = 0; round < 40; round++) {
        pid_t pid[RACERS];
        int won = 0, lost = 0;
        race.refuse_tmpfile = round % 2 != 0; /* then the files have private names for a while */
        support_path(race.path);
        unsigned entries = support_entries(support_dir());
        for (int i = 0; i < RACERS; i++)
            pid[i] = support_child(race_create, &race);
        for (int i = 0; i < RACERS; i++)
            support_hear_child(&race.line);
        for (int i = 0; i < RACERS; i++)
            support_tell_child(&race.line);
        for (int i = 0; i < RACERS; i++) {
            int status = support_wait(pid[i]);
            won += status == 10;
            lost += status == 11;
        }
        assert_int_equal(won, 1);
        assert_int_equal(lost, RACERS - 1);
        assert_int_equal(attach_rc(race.path, true), 0);
        assert_int_equal(support_entries(support_dir()), entries + 1);
    }
    support_line_close(&race.line);
}

/* ---- what is not a bus ------------------------------------------------------------------------- */

static void test_truncated(void **state)
{
    (void)state;
    char path[SHR_PATH_BYTES];
    struct stat st;
    make_tiny(path);
    assert_int_equal(stat(path, &st), 0);
    const off_t lengths[] = {st.st_size * 2,
                             st.st_size + 4096,
                             st.st_size + 1,
                             st.st_size - 1,
                             st.st_size - 4096,
                             8193,
                             8192,
                             8191,
                             4096,
                             768,
                             767,
                             128,
                             8,
                             1,
                             0};
    assert_int_equal(attach_rc(path, true), 0);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        assert_int_equal(truncate(path, lengths[i]), 0);
        assert_int_equal(attach_rc(path, true), -EBADMSG);
        assert_int_equal(attach_rc(path, false), -EBADMSG);
    }
    unlink(path);
}

static void write_file(const char *path, const char *text, off_t length)
{
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(ftruncate(fd, length), 0);
    close(fd);
}

static void test_foreign(void **state)
{
    (void)state;
    char path[SHR_PATH_BYTES], bus[SHR_PATH_BYTES], below[SHR_PATH_BYTES + 8];
    assert_int_equal(attach_rc(support_path(path), true), -ENOENT);
    write_file(support_path(path), "GEBGBUS is what this text begins with", 20480);
    assert_int_equal(attach_rc(path, true), -EBADMSG);
    write_file(support_path(path), "", 1 << 30);
    assert_int_equal(attach_rc(path, true), -EBADMSG);
    snprintf(below, sizeof(below), "%s/x", path);
    assert_int_equal(attach_rc(below, true), -ENOENT);
    unlink(path);
    make_tiny(bus);
    assert_int_equal(symlink(bus, support_path(path)), 0);
    assert_int_equal(attach_rc(path, true), -EBADMSG);
    assert_int_equal(mkdir(support_path(path), 0700), 0);
    assert_int_equal(attach_rc(path, true), -EBADMSG);
    assert_int_equal(attach_rc(path, false), -EBADMSG);
    assert_int_equal(mkfifo(support_path(path), 0600), 0);
    assert_int_equal(attach_rc(path, true), -EBADMSG);
    assert_int_equal(attach_rc(path, false), -EBADMSG); /* and does not wait for a writer */
    assert_int_equal(attach_rc("/dev/null", true), -EBADMSG);
    assert_int_equal(attach_rc("/proc/self/stat", false), -EBADMSG);
}

static void test_other_version(void **state)
{
    (void)state;
    char path[SHR_PATH_BYTES];
    make_tiny(path);
    const uint32_t versions[] = {0, SHR_LAYOUT_VERSION + 1, UINT32_MAX};
    int fd = open(path, O_RDWR | O_CLOEXEC);
    for (size_t i = 0; i < 3; i++) {
        /* Of another version nothing is known but where the version stands: not even the size. */
        assert_int_equal(pwrite(fd, &versions[i], 4, 8), 4);
        assert_int_equal(pwrite(fd, "garbage", 7, 128), 7);
        assert_int_equal(attach_rc(path, true), -EPROTO);
    }
    close(fd);
}

/* ---- who may ----------------------------------------------------------------------------------- */

struct access_case {
    const char *path;
    int wanted_write;
    int wanted_read;
};

static int as_nobody(void *arg)
{
    const struct access_case *c = arg;
    struct shr_map map;
    struct shr_config config = support_tiny_config();
    char path[SHR_PATH_BYTES];
    SUPPORT_CHECK(setresgid(NOBODY, NOBODY, NOBODY) == 0);
    SUPPORT_CHECK(setresuid(NOBODY, NOBODY, NOBODY) == 0);
    SUPPORT_CHECK(attach_rc(c->path, true) == c->wanted_write);
    SUPPORT_CHECK(attach_rc(c->path, false) == c->wanted_read);
    SUPPORT_CHECK(shr_segment_create(&map, support_path(path), &config) == -EACCES);
    return 0;
}

static void test_permission(void **state)
{
    (void)state;
    char path[SHR_PATH_BYTES];
    if (geteuid() != 0)
        skip();
    make_tiny(path);
    assert_int_equal(chmod(support_dir(), 0755), 0);
    struct access_case c = {path, -EACCES, -EACCES};
    unsigned entries = support_entries(support_dir());
    assert_int_equal(support_wait(support_child(as_nobody, &c)), 0);
    assert_int_equal(chmod(path, 0644), 0);
    c.wanted_read = 0;
    assert_int_equal(support_wait(support_child(as_nobody, &c)), 0);
    assert_int_equal(chmod(path, 0666), 0);
    c.wanted_write = 0;
    assert_int_equal(support_wait(support_child(as_nobody, &c)), 0);
    assert_int_equal(support_entries(support_dir()), entries);
    assert_int_equal(chmod(support_dir(), 0700), 0);
}

/* ---- no room ----------------------------------------------------------------------------------- */

struct full_case {
    const char *type;
    const char *options;
    bool refuse_tmpfile;
};

static int create_where_full(void *arg)
{
    const struct full_case *c = arg;
    struct shr_map map;
    struct shr_config config = support_tiny_config();
    char dir[SHR_PATH_BYTES], path[SHR_PATH_BYTES + 8];
    SUPPORT_CHECK(unshare(CLONE_NEWNS) == 0);
    SUPPORT_CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    SUPPORT_CHECK(mkdir(support_path(dir), 0700) == 0);
    if (mount("none", dir, c->type, 0, c->options) != 0)
        return 77;
    if (c->refuse_tmpfile)
        SUPPORT_CHECK(support_deny(SYS_openat, 2, O_TMPFILE & ~O_DIRECTORY, EOPNOTSUPP) == 0);
    snprintf(path, sizeof(path), "%s/bus", dir);
    config.slab_bytes = 4 << 20;
    SUPPORT_CHECK(shr_segment_create(&map, path, &config) == -ENOSPC);
    SUPPORT_CHECK(map.base == NULL);
    SUPPORT_CHECK(support_entries(dir) == 0);
    if (strcmp(c->type, "tmpfs") == 0) { /* nothing is held either: a smaller one has room */
        config.slab_bytes = 768 << 10;
        SUPPORT_CHECK(shr_segment_create(&map, path, &config) == 0);
        SUPPORT_CHECK(support_entries(dir) == 1);
    }
    return 0;
}

static void test_full(void **state)
{
    (void)state;
    struct full_case cases[] = {
        {"tmpfs", "size=1m", false}, {"tmpfs", "size=1m", true}, {"hugetlbfs", "size=2m", false}};
    if (geteuid() != 0)
        skip();
    for (size_t i = 0; i < 3; i++) {
        int status = support_wait(support_child(create_where_full, &cases[i]));
        if (status != 77)
            assert_int_equal(status, 0);
    }
}

/* ---- a creator that dies ----------------------------------------------------------------------- */

static int traced_create(void *arg)
{
    struct shr_map map;
    struct shr_config config = support_tiny_config();
    SUPPORT_CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
    raise(SIGSTOP);
    SUPPORT_CHECK(shr_segment_create(&map, arg, &config) == 0);
    return 0;
}

/* Between two system calls a creator changes nothing but its unnamed file. */
static void test_killed_creator(void **state)
{
    (void)state;
    unsigned nothing = 0, whole = 0;
    for (unsigned stops = 0;; stops++) {
        char path[SHR_PATH_BYTES];
        int status;
        unsigned entries = support_entries(support_dir());
        pid_t pid = support_child(traced_create, (void *)support_path(path));
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSTOPPED(status));
        for (unsigned i = 0; i < stops && WIFSTOPPED(status); i++) {
            ptrace(PTRACE_SYSCALL, pid, NULL, NULL);
            assert_int_equal(waitpid(pid, &status, 0), pid);
        }
        if (!WIFSTOPPED(status)) {
            assert_int_equal(status, 0);
            break;
        }
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        int rc = attach_rc(path, true);
        assert_true(rc == 0 || rc == -ENOENT);
        assert_int_equal(support_entries(support_dir()), entries + (rc == 0));
        nothing += rc != 0;
        whole += rc == 0;
    }
    assert_true(nothing > 20);
    assert_true(whole > 0);
}

/* ---- paths ------------------------------------------------------------------------------------- */

static int default_paths(void *arg)
{
    (void)arg;
    char path[SHR_PATH_BYTES], wanted[64], dir[48];
    struct stat st;
    SUPPORT_CHECK(unshare(CLONE_NEWNS) == 0);
    SUPPORT_CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    SUPPORT_CHECK(mount("none", "/dev/shm", "tmpfs", 0, "size=1m,mode=1777") == 0);
    snprintf(dir, sizeof(dir), "/dev/shm/geb-%d", (int)geteuid());
    snprintf(wanted, sizeof(wanted), "%s/shop", dir);
    unsetenv("GEB_DIR");
    SUPPORT_CHECK(shr_segment_path("shop", false, path) == 0 && strcmp(path, wanted) == 0);
    SUPPORT_CHECK(stat(dir, &st) != 0);
    SUPPORT_CHECK(shr_segment_path("shop", true, path) == 0 && strcmp(path, wanted) == 0);
    SUPPORT_CHECK(stat(dir, &st) == 0 && st.st_mode == (S_IFDIR | 0700));
    SUPPORT_CHECK(shr_segment_path("shop", true, path) == 0);
    setenv("GEB_DIR", "", 1);
    SUPPORT_CHECK(shr_segment_path("shop", false, path) == 0 && strcmp(path, wanted) == 0);
    SUPPORT_CHECK(chmod(dir, 0720) == 0 && shr_segment_path("shop", true, path) == -EACCES);
    SUPPORT_CHECK(chmod(dir, 0702) == 0 && shr_segment_path("shop", false, path) == -EACCES);
    SUPPORT_CHECK(chmod(dir, 0755) == 0 && shr_segment_path("shop", true, path) == 0);
    SUPPORT_CHECK(chown(dir, NOBODY, NOBODY) == 0);
    SUPPORT_CHECK(shr_segment_path("shop", true, path) == -EACCES);
    SUPPORT_CHECK(shr_segment_path("shop", false, path) == -EACCES);
    SUPPORT_CHECK(rename(dir, "/dev/shm/away") == 0 && chown("/dev/shm/away", 0, 0) == 0);
    SUPPORT_CHECK(symlink("/dev/shm/away", dir) == 0);
    SUPPORT_CHECK(shr_segment_path("shop", true, path) == -EACCES);
    SUPPORT_CHECK(unlink(dir) == 0 && mknod(dir, S_IFREG | 0600, 0) == 0);
    SUPPORT_CHECK(shr_segment_path("shop", true, path) == -EACCES);
    return 0;
}

static void test_default_paths(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(support_wait(support_child(default_paths, NULL)), 0);
}

static void test_names(void **state)
{
    (void)state;
    static const char *const bad[] = {"",   ".",   "..",       ".a", "-a", "a b",
                                      "a:", "a\n", "\xc3\xa9", "a*", "~"};
    static const char *const good[] = {"a", "0", "_", "a.b-c_d", "A..", "Z-"};
    char path[SHR_PATH_BYTES], wanted[SHR_PATH_BYTES], name[300];
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(shr_segment_path(bad[i], false, path), -EINVAL);
    assert_int_equal(shr_segment_path(NULL, false, path), -EINVAL);
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_int_equal(shr_segment_path(good[i], false, path), 0);
        snprintf(wanted, sizeof(wanted), "%s/%s", support_dir(), good[i]);
        assert_string_equal(path, wanted);
    }
    memset(name, 'a', sizeof(name));
    name[63] = '\0';
    assert_int_equal(shr_segment_path(name, false, path), 0);
    name[63] = 'a';
    name[64] = '\0';
    assert_int_equal(shr_segment_path(name, false, path), -EINVAL);
    name[64] = 'a';
    name[0] = '/';
    name[255] = '\0';
    assert_int_equal(shr_segment_path(name, false, path), 0);
    assert_string_equal(path, name);
    name[255] = 'a';
    name[256] = '\0';
    assert_int_equal(shr_segment_path(name, false, path), -EINVAL);
    assert_int_equal(shr_segment_path("./x y", false, path), 0);
    assert_string_equal(path, "./x y");
    name[256] = 'a';
    name[250] = '\0';
    setenv("GEB_DIR", name, 1);
    assert_int_equal(shr_segment_path("abcd", false, path), 0);
    assert_int_equal(shr_segment_path("abcdef", false, path), -EINVAL);
    setenv("GEB_DIR", support_dir(), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create_attach_detach),
        cmocka_unit_test(test_not_inherited),
        cmocka_unit_test(test_relative_path),
        cmocka_unit_test(test_descriptor),
        cmocka_unit_test(test_matches),
        cmocka_unit_test(test_existing),
        cmocka_unit_test(test_creators_race),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_other_version),
        cmocka_unit_test(test_permission),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_killed_creator),
        cmocka_unit_test(test_default_paths),
        cmocka_unit_test(test_names),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
