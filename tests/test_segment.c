/* Goal: a bus file is made whole or not at all, is shared by whoever may open it, and nothing that
 * is not one is taken for one. Method: create and attach among real files in a fresh directory,
 * from one process and from many at once; then put files, links and directories there that are no
 * bus. */
#include "shmring/peer.h"
#include "shmring/segment.h"
#include "tests/support.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <cmocka.h>

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

/* ---- the good way ---------------------------------------------------------------------------- */

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

/* ---- the descriptor -------------------------------------------------------------------------- */

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

/* A process without standard streams: whatever it opens first gets their numbers. */
static int without_streams(void *arg)
{
    struct shr_map one, two;
    struct shr_lock lock = {0};
    struct shr_config config = support_tiny_config();
    for (int fd = 0; fd <= 2; fd++)
        close(fd);
    if (shr_segment_create(&one, arg, &config) != 0 || shr_segment_attach(&two, arg, true) != 0 ||
        shr_lock_take(&two, 1, &lock) != 0)
        return 2;
    if (shr_segment_fd(&one) <= 2 || shr_segment_fd(&two) <= 2)
        return 3;
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            return 4;
    if (close((int)shr_load32_relaxed(&one.fd)) != 0 ||
        shr_segment_fd(&one) <= 2) /* opened again */
        return 5;
    return 0;
}

static void test_no_standard_streams(void **state)
{
    (void)state;
    char path[SHR_PATH_BYTES];
    pid_t pid = support_child(without_streams, (void *)support_path(path));
    assert_int_equal(support_wait(pid), 0);
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
    DIFFERS(sample_shift, 8, "sample_shift");
    DIFFERS(shelf_entries, 1, "shelf_entries");
    DIFFERS(mode, 0660, "mode");
    config.producers = 1;
    DIFFERS(exclusive, 1, "exclusive");
    config.capacity = 3;
    assert_int_equal(shr_segment_matches(&map, &config, &why), -EDOM);
    shr_segment_detach(&map);
}

/* ---- names that are taken -------------------------------------------------------------------- */

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

/* ---- drafts ---------------------------------------------------------------------------------- */

static const struct support_line *draft_line;

/* SIGXFSZ: the file has its private name, and got no size yet. */
static void draft_pause(int number)
{
    (void)number;
    support_tell_test(draft_line);
    support_hear_test(draft_line);
}

static int draft_create(void *arg)
{
    struct race *race = arg;
    struct shr_map map;
    struct shr_config config = support_tiny_config();
    struct rlimit none = {.rlim_cur = 4096, .rlim_max = 4096};
    draft_line = &race->line;
    signal(SIGXFSZ, draft_pause);
    SUPPORT_CHECK(support_deny(SYS_openat, 2, O_TMPFILE & ~O_DIRECTORY, EOPNOTSUPP) == 0);
    SUPPORT_CHECK(setrlimit(RLIMIT_FSIZE, &none) == 0);
    return shr_segment_create(&map, race->path, &config) == -EFBIG ? 0 : 1;
}

/* Where files need a name from the start, that of a creator at work is left alone, and that of one
 * that was killed is known for what it is. */
static void test_drafts(void **state)
{
    (void)state;
    struct race race = {0};
    glob_t found;
    char pattern[SHR_PATH_BYTES], tiny[SHR_PATH_BYTES];
    if (SUPPORT_SANITIZED) /* TSan runs the handler of a signal when the call is over */
        skip();
    support_line_open(&race.line);
    support_path(race.path);
    snprintf(pattern, sizeof(pattern), "%s/.geb-*", support_dir());
    for (int killed = 0; killed < 2; killed++) {
        pid_t pid = support_child(draft_create, &race);
        support_hear_child(&race.line);
        assert_int_equal(glob(pattern, 0, NULL, &found), 0);
        assert_int_equal(found.gl_pathc, 1);
        const char *draft = found.gl_pathv[0];
        assert_int_equal(shr_draft_check(draft, true), -EBUSY);
        if (killed != 0) {
            support_kill(pid);
            assert_int_equal(shr_draft_check(draft, false), 0);
            assert_int_equal(access(draft, F_OK), 0);
            assert_int_equal(shr_draft_check(draft, true), 0);
        } else {
            support_tell_child(&race.line);
            assert_int_equal(support_wait(pid), 0); /* its creation failed and left nothing */
        }
        assert_int_equal(shr_draft_check(draft, true), -ENOENT);
        globfree(&found);
    }
    make_tiny(tiny);
    assert_int_equal(shr_draft_check(tiny, true), -EINVAL); /* a bus is none */
    assert_int_equal(attach_rc(tiny, true), 0);
    support_line_close(&race.line);
}

/* ---- what is not a bus ----------------------------------------------------------------------- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create_attach_detach),
        cmocka_unit_test(test_not_inherited),
        cmocka_unit_test(test_relative_path),
        cmocka_unit_test(test_descriptor),
        cmocka_unit_test(test_no_standard_streams),
        cmocka_unit_test(test_matches),
        cmocka_unit_test(test_existing),
        cmocka_unit_test(test_creators_race),
        cmocka_unit_test(test_drafts),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_other_version),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
