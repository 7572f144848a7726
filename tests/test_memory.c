/* Goal: a bus that needs more memory than there is gets refused before it takes any. Method: the
 * kernel's files about memory are written by the test, in a directory for the arithmetic, and
 * mounted over the real ones for the creation; the first system call that would make a file larger
 * is made to fail, so that reaching it shows. */
#include "shmring/memory.h"
#include "lib/geb.h"
#include "tests/support.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <cmocka.h>

#define MIB            (UINT64_C(1) << 20)
#define GIB            (UINT64_C(1) << 30)
#define MEMINFO_16_GIB "MemTotal:       16777216 kB\nMemFree:  17 kB\nMemAvailable: 10485760 kB\n"

/* Makes a file of a directory that stands for /, with the directories that it lies in. */
static void file_write(const char *root, const char *path, const char *text)
{
    char full[600];
    snprintf(full, sizeof(full), "%s%s", root, path);
    for (char *slash = full + strlen(root) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        mkdir(full, 0700);
        *slash = '/';
    }
    int fd = open(full, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    SUPPORT_CHECK(fd >= 0);
    SUPPORT_CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static const char *root_make(char root[SHR_PATH_BYTES])
{
    assert_int_equal(mkdir(support_path(root), 0700), 0);
    return root;
}

static void test_machine(void **state)
{
    (void)state;
    char root[SHR_PATH_BYTES];
    root_make(root);
    assert_int_equal(shr_memory_available(root), UINT64_MAX); /* not known */
    file_write(root, "/proc/meminfo", MEMINFO_16_GIB);
    assert_int_equal(shr_memory_available(root), 9 * GIB); /* one of 16 stays for others */
    file_write(root, "/proc/meminfo", "MemTotal: 1600 kB\nMemAvailable: 101 kB\n");
    assert_int_equal(shr_memory_available(root), 1024);
    file_write(root, "/proc/meminfo", "MemTotal: 1600 kB\nMemAvailable: 99 kB\n");
    assert_int_equal(shr_memory_available(root), 0);
    static const char *const garbage[] = {"", "MemAvailable", "MemAvailable: x kB\n",
                                          "MemAvailable: 99999999999999999999 kB\n"};
    for (size_t i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
        file_write(root, "/proc/meminfo", garbage[i]);
        assert_int_equal(shr_memory_available(root), UINT64_MAX);
    }
    uint64_t here = shr_memory_available("");
    assert_true(here > 0 && here < UINT64_MAX);
}

static void test_groups(void **state)
{
    (void)state;
    char root[SHR_PATH_BYTES];
    root_make(root);
    file_write(root, "/proc/meminfo", MEMINFO_16_GIB);
    file_write(root, "/proc/self/cgroup", "0::/a/b\n");
    assert_int_equal(shr_memory_available(root), 9 * GIB); /* no files about the groups */
    file_write(root, "/sys/fs/cgroup/a/b/memory.max", "max\n");
    file_write(root, "/sys/fs/cgroup/a/memory.max", "1073741824\n");
    file_write(root, "/sys/fs/cgroup/a/memory.current", "629145600\n"); /* 600 MiB */
    assert_int_equal(shr_memory_available(root), 424 * MIB);
    file_write(root, "/sys/fs/cgroup/a/memory.stat",
               "anon 7\nfile 99\ninactive_file 104857600\nactive_file 25165824\n");
    assert_int_equal(shr_memory_available(root), 548 * MIB); /* 124 MiB are cache */
    file_write(root, "/sys/fs/cgroup/a/b/memory.max", "1048576\n");
    file_write(root, "/sys/fs/cgroup/a/b/memory.current", "2097152\n");
    assert_int_equal(shr_memory_available(root), 0); /* over its limit */
    file_write(root, "/proc/self/cgroup", "0::/\n");
    assert_int_equal(shr_memory_available(root), 9 * GIB);

    const char *const old[] = {"12:cpu:/x\n4:memory:/box/1\n0::/\n", "1:memory:/not/seen/here\n"};
    file_write(root, "/sys/fs/cgroup/memory/box/1/memory.limit_in_bytes", "9223372036854771712\n");
    file_write(root, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "3145728\n");
    file_write(root, "/sys/fs/cgroup/memory/memory.usage_in_bytes", "2097152\n");
    file_write(root, "/sys/fs/cgroup/memory/memory.stat",
               "inactive_file 1\ntotal_inactive_file 524288\ntotal_active_file 524288\n");
    for (size_t i = 0; i < 2; i++) { /* the second is a container: only its mount is there */
        file_write(root, "/proc/self/cgroup", old[i]);
        assert_int_equal(shr_memory_available(root), 2 * MIB);
    }
}

/* ---- creation -------------------------------------------------------------------------------- */

static void meminfo_mount(const char *text)
{
    char path[SHR_PATH_BYTES];
    file_write(support_dir(), "/meminfo", text);
    snprintf(path, sizeof(path), "%s/meminfo", support_dir());
    SUPPORT_CHECK(mount(path, "/proc/meminfo", NULL, MS_BIND, NULL) == 0);
}

static int create_rc(const char *dir, uint64_t slab_bytes)
{
    char name[SHR_PATH_BYTES + 8];
    struct geb_bus *bus = NULL;
    struct geb_config config = GEB_CONFIG_INIT;
    config.capacity = 4;
    config.slab_bytes = slab_bytes;
    snprintf(name, sizeof(name), "%s/bus", dir);
    int rc = geb_create(&bus, name, &config);
    SUPPORT_CHECK(rc < 0 && bus == NULL);
    SUPPORT_CHECK(support_entries(dir) == 0);
    return rc;
}

static int create_beyond(void *arg)
{
    (void)arg;
    char dir[SHR_PATH_BYTES];
    static const char *const fs[][2] = {{"tmpfs", "size=64m"}, {"ramfs", ""}};
    SUPPORT_CHECK(unshare(CLONE_NEWNS) == 0);
    SUPPORT_CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    for (size_t i = 0; i < 2; i++) {
        SUPPORT_CHECK(mkdir(support_path(dir), 0700) == 0);
        SUPPORT_CHECK(mount("none", dir, fs[i][0], 0, fs[i][1]) == 0);
        meminfo_mount("MemTotal: 16777216 kB\nMemAvailable: 1081344 kB\n"); /* 1056 MiB */
        if (i == 0)
            SUPPORT_CHECK(support_deny(SYS_ftruncate, 0, 0, EIO) == 0);
        SUPPORT_CHECK(create_rc(dir, GIB) == -ENOMEM);
        SUPPORT_CHECK(strstr(geb_last_error(), "the bus needs 1.0 GiB, 32.0 MiB of memory are "
                                               "available: use fewer or smaller slabs") != NULL);
        /* What fits goes on to the system call that fails here. */
        SUPPORT_CHECK(create_rc(dir, 16 * MIB) == -EIO);
        meminfo_mount("MemTotal: 16777216 kB\nMemAvailable: 16777216 kB\n");
        SUPPORT_CHECK(create_rc(dir, GIB) == (i == 0 ? -ENOSPC : -EIO));
    }
    return 0;
}

static void test_create(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(support_wait(support_child(create_beyond, NULL)), 0);
}

/* A file on a disk is no memory, however large. */
static void test_disk(void **state)
{
    (void)state;
    int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(shr_memory_check(proc, UINT64_MAX), 0);
    close(proc);
    assert_int_equal(shr_memory_check(-1, 0), -EBADF);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_machine),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_create),
        cmocka_unit_test(test_disk),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
