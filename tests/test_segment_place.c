/* Goal: where a bus cannot be made or opened, the error says so and nothing is left behind; where
 * it lies follows from its name. Method: full, forbidden and foreign places are made with mount
 * namespaces, other uids and refused system calls; the creator is killed at each of its system
 * calls. */
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

/* ---- who may --------------------------------------------------------------------------------- */

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

/* ---- no room --------------------------------------------------------------------------------- */

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

/* ---- a creator that dies --------------------------------------------------------------------- */

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

/* ---- paths ----------------------------------------------------------------------------------- */

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
        cmocka_unit_test(test_permission),     cmocka_unit_test(test_full),
        cmocka_unit_test(test_killed_creator), cmocka_unit_test(test_default_paths),
        cmocka_unit_test(test_names),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
