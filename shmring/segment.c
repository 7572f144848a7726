#include "shmring/segment.h"

#include "shmring/clock.h"
#include "shmring/memory.h"
#include "shmring/numa.h"
#include "shmring/segment_draft.h"
#include "shmring/segment_format.h"
#include "shmring/wait.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define NAME_MAX_BYTES 63u

static bool same_file(const struct stat *st, const struct shr_map *map)
{
    return st->st_dev == map->dev && st->st_ino == map->ino;
}

int shr_fd_apart(int fd)
{
    if (fd < 0 || fd > STDERR_FILENO)
        return fd;
    int apart = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    int error = errno;
    close(fd);
    errno = error;
    return apart;
}

/* ---- paths ----------------------------------------------------------------------------------- */

static bool name_valid(const char *name)
{
    size_t len = strlen(name);
    if (len == 0 || len > NAME_MAX_BYTES || name[0] == '.' || name[0] == '-')
        return false;
    return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == len;
}

static int path_join(char path[SHR_PATH_BYTES], const char *dir, const char *name)
{
    int len = snprintf(path, SHR_PATH_BYTES, "%s%s%s", dir, dir[0] != '\0' ? "/" : "", name);
    return len < 0 || (unsigned)len >= SHR_PATH_BYTES ? -EINVAL : 0;
}

/* /dev/shm is everybody's: a directory of our name may have been made by somebody else. One that
 * does not exist is no error; the bus in it does not either. */
static int dir_check(const char *dir)
{
    int fd = open(dir, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : errno == ENOTDIR || errno == ELOOP ? -EACCES : -errno;
    struct stat st;
    int rc = fstat(fd, &st) == 0 ? 0 : -errno;
    if (rc == 0 && (st.st_uid != geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH)) != 0))
        rc = -EACCES;
    close(fd);
    return rc;
}

int shr_segment_path(const char *name, bool make_dir, char path[SHR_PATH_BYTES])
{
    if (name == NULL)
        return -EINVAL;
    if (strchr(name, '/') != NULL)
        return path_join(path, "", name);
    if (!name_valid(name))
        return -EINVAL;
    const char *chosen = secure_getenv("GEB_DIR");
    if (chosen != NULL && chosen[0] != '\0')
        return path_join(path, chosen, name);
    char dir[48];
    snprintf(dir, sizeof(dir), "/dev/shm/geb-%lu", (unsigned long)geteuid());
    if (make_dir && mkdir(dir, 0700) != 0 && errno != EEXIST)
        return -errno;
    int rc = dir_check(dir);
    return rc < 0 ? rc : path_join(path, dir, name);
}

/* The path is used again when the descriptor was closed, maybe from another working directory. */
static int path_absolute(char full[SHR_PATH_BYTES], const char *path)
{
    char cwd[SHR_PATH_BYTES];
    if (path[0] == '\0')
        return -EINVAL;
    if (path[0] == '/')
        return path_join(full, "", path);
    if (getcwd(cwd, sizeof(cwd)) == NULL)
        return errno == ERANGE ? -EINVAL : -errno;
    return path_join(full, cwd, path);
}

static int file_page_bytes(int fd, uint32_t *page_bytes)
{
    struct statfs fs;
    if (fstatfs(fd, &fs) != 0)
        return -errno;
    long bytes = fs.f_type == HUGETLBFS_MAGIC ? (long)fs.f_bsize : sysconf(_SC_PAGESIZE);
    *page_bytes = (uint32_t)bytes;
    return 0;
}

/* ---- mapping --------------------------------------------------------------------------------- */

/* Maps all of the file that map->fd is; map->geo is set. */
static int map_whole(struct shr_map *map)
{
    struct stat st;
    int fd = (int)shr_load32_relaxed(&map->fd);
    if (fstat(fd, &st) != 0)
        return -errno;
    int protection = PROT_READ | (map->writable ? PROT_WRITE : 0);
    void *base = mmap(NULL, map->geo.segment_bytes, protection, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) /* hugetlbfs reserves its pages here */
        return errno == ENOMEM && map->geo.page_bytes > sysconf(_SC_PAGESIZE) ? -ENOSPC : -errno;
    map->base = base;
    map->bytes = map->geo.segment_bytes;
    map->dev = st.st_dev;
    map->ino = st.st_ino;
    shr_map_regions(map);
    return madvise(base, map->bytes, MADV_DONTFORK) == 0 ? 0 : -errno;
}

/* Asks for the nodes of the plan; the pages do not exist yet. */
static int map_place(const struct shr_map *map, bool strict)
{
    const struct shr_geometry *geo = &map->geo;
    const struct shr_region *slabs = &geo->region[SHR_REGION_SLABS];
    int rc = shr_numa_place(map->base, map->bytes, geo->node[0].node_id, strict);
    for (uint32_t i = 1; i < geo->node_cnt && rc == 0; i++) {
        /* Huge pages are larger than chunks: one that two nodes share goes to the first. */
        uint64_t first = slabs->off + (uint64_t)geo->node[i].chunk_first * SHR_CHUNK_BYTES;
        uint64_t start = (first + geo->page_bytes - 1) / geo->page_bytes * geo->page_bytes;
        rc = shr_numa_place(map->base + start, map->bytes - start, geo->node[i].node_id, strict);
    }
    return strict ? rc : 0;
}

/* Whether a bus that must lie on one node does; looks at its first and last page. */
static int map_placed(const struct shr_map *map, bool strict)
{
    uint32_t node[2];
    if (!strict || shr_numa_where(map->base, &node[0]) < 0 ||
        shr_numa_where(map->base + map->bytes - 1, &node[1]) < 0)
        return 0;
    uint32_t wanted = map->geo.node[0].node_id;
    return node[0] == wanted && node[1] == wanted ? 0 : -ENOMEM;
}

static int segment_build(struct shr_map *map, const struct shr_draft *draft,
                         const struct shr_config *config)
{
    struct shr_geometry *geo = &map->geo;
    bool strict = config->node >= 0;
    uint32_t page_bytes = 0;
    int rc = file_page_bytes(draft->fd, &page_bytes);
    if (rc == 0)
        rc = shr_geometry_plan(geo, config, page_bytes, NULL);
    if (rc == 0) /* The file has no pages yet. */
        rc = shr_memory_check(draft->fd, geo->segment_bytes);
    if (rc < 0)
        return rc;
    if (getrandom(geo->id, sizeof(geo->id), 0) != (ssize_t)sizeof(geo->id))
        return -EIO;
    geo->created_ns = shr_wall_ns();
    geo->started_ns = shr_now_ns();
    geo->creator_pid = (uint32_t)getpid();
    geo->creator_uid = geteuid();
    geo->wakers_fence = shr_wait_register() < 0;
    if (ftruncate(draft->fd, (off_t)geo->segment_bytes) != 0 ||
        fchmod(draft->fd, config->mode) != 0)
        return -errno;
    rc = map_whole(map);
    if (rc == 0)
        rc = map_place(map, strict);
    if (rc == 0)
        rc = shr_draft_allocate(draft, geo->segment_bytes, geo->page_bytes);
    if (rc == 0)
        rc = map_placed(map, strict);
    if (rc == 0)
        shr_segment_format(map);
    return rc;
}

int shr_segment_create(struct shr_map *map, const char *path, const struct shr_config *config)
{
    struct shr_draft draft;
    struct stat st;
    uint64_t bytes;
    memset(map, 0, sizeof(*map));
    int rc = shr_segment_size(config, &bytes, NULL);
    if (rc == 0)
        rc = path_absolute(map->path, path);
    if (rc < 0)
        return rc;
    if (lstat(map->path, &st) == 0) /* the link decides; this saves making a bus in vain */
        return -EEXIST;
    rc = shr_draft_open(&draft, map->path, config->mode);
    if (rc < 0)
        return rc;
    shr_store32_relaxed(&map->fd, (uint32_t)draft.fd);
    map->writable = true;
    rc = segment_build(map, &draft, config);
    if (rc == 0)
        rc = shr_draft_link(&draft, map->path);
    if (rc == 0)
        return 0;
    if (map->base != NULL)
        munmap(map->base, map->bytes);
    shr_draft_drop(&draft);
    memset(map, 0, sizeof(*map));
    return rc;
}

/* ---- attach ---------------------------------------------------------------------------------- */

/* What is not a plain file is not a bus, whatever the kernel says about opening it. */
static int open_bus(const char *path, bool writable)
{
    /* Not blocking: somebody may have put a pipe there. */
    int flags = (writable ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    int fd = shr_fd_apart(open(path, flags));
    if (fd >= 0)
        return fd;
    switch (errno) {
    case ELOOP:
    case EISDIR:
    case ENXIO:
    case ENODEV:
        return -EBADMSG;
    case EPERM:
        return -EACCES;
    case ENOTDIR:
        return -ENOENT;
    default:
        return -errno;
    }
}

/* Copies the header by read, which cannot fault when the file shrinks meanwhile, and checks it. */
static int header_check(int fd, struct shr_geometry *geo)
{
    struct shr_header header;
    struct stat st;
    uint32_t page_bytes = 0;
    if (fstat(fd, &st) != 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EBADMSG;
    ssize_t got = pread(fd, &header, sizeof(header), 0);
    if (got != (ssize_t)sizeof(header))
        return got < 0 ? -errno : -EBADMSG;
    if (shr_load_relaxed(&header.magic) != SHR_MAGIC) /* relaxed: a private copy */
        return -EBADMSG;
    if (header.layout_version != SHR_LAYOUT_VERSION)
        return -EPROTO;
    for (uint32_t i = 0; i < sizeof(header.reserved) / sizeof(header.reserved[0]); i++)
        if (header.reserved[i] != 0)
            return -EBADMSG;
    int rc = file_page_bytes(fd, &page_bytes);
    if (rc < 0)
        return rc;
    *geo = header.geometry;
    return header.header_bytes == sizeof(header)
               ? shr_geometry_check(geo, (uint64_t)st.st_size, page_bytes)
               : -EBADMSG;
}

int shr_segment_attach(struct shr_map *map, const char *path, bool writable)
{
    memset(map, 0, sizeof(*map));
    int rc = path_absolute(map->path, path);
    if (rc < 0)
        return rc;
    int fd = open_bus(map->path, writable);
    if (fd < 0)
        return fd;
    shr_store32_relaxed(&map->fd, (uint32_t)fd);
    map->writable = writable;
    rc = header_check(fd, &map->geo);
    if (rc == 0)
        rc = map_whole(map);
    if (rc == 0) {
        const struct shr_header *header = (const struct shr_header *)(const void *)map->base;
        /* edge G1 acquire: what the creator wrote before the magic is visible. */
        if (shr_load_acquire(&header->magic) == SHR_MAGIC)
            return 0;
        rc = -EBADMSG;
    }
    if (map->base != NULL)
        munmap(map->base, map->bytes);
    close(fd);
    memset(map, 0, sizeof(*map));
    return rc;
}

/* Whether a descriptor number still means this segment's file. */
static bool fd_is_ours(const struct shr_map *map, int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && same_file(&st, map);
}

void shr_segment_detach(struct shr_map *map)
{
    if (map->base == NULL)
        return;
    int fd = (int)shr_load32_relaxed(&map->fd);
    munmap(map->base, map->bytes);
    if (fd_is_ours(map, fd)) /* else the application closed it and owns what has the number now */
        close(fd);
    memset(map, 0, sizeof(*map));
}

int shr_segment_fd(struct shr_map *map)
{
    int fd = (int)shr_load32_relaxed(&map->fd);
    if (SHR_LIKELY(fd_is_ours(map, fd)))
        return fd;
    int again = open_bus(map->path, map->writable);
    if (again < 0)
        return again == -EMFILE || again == -ENFILE || again == -ENOMEM ? again : -ESTALE;
    if (!fd_is_ours(map, again)) {
        close(again);
        return -ESTALE;
    }
    /* Two threads may come here at once. The descriptor of the one that stores first stays open
     * unused, since that thread may be using it just now. */
    shr_store32_relaxed(&map->fd, (uint32_t)again);
    return again;
}

bool shr_segment_is_named(struct shr_map *map)
{
    struct stat st;
    int fd = shr_segment_fd(map);
    return fd >= 0 && fstat(fd, &st) == 0 && st.st_nlink != 0;
}

int shr_segment_matches(const struct shr_map *map, const struct shr_config *config,
                        const char **why)
{
    const struct shr_geometry *have = &map->geo;
    struct shr_geometry want;
    struct stat st;
    int rc = shr_geometry_plan(&want, config, have->page_bytes, why);
    if (rc < 0)
        return rc;
    const char *field = NULL;
    if (have->policy != want.policy)
        field = "policy";
    else if (have->exclusive != want.exclusive)
        field = "exclusive";
    else if (have->capacity != want.capacity)
        field = "capacity";
    else if (have->max_event != want.max_event)
        field = "max_event";
    else if (have->chunk_cnt != want.chunk_cnt)
        field = "slab_bytes";
    else if (have->producer_cnt != want.producer_cnt)
        field = "producers";
    else if (have->topic_cnt != want.topic_cnt)
        field = "topics";
    else if (have->patience_ns != want.patience_ns)
        field = "patience_ns";
    else if (have->sample_shift != want.sample_shift)
        field = "sample_shift";
    else if (config->node >= 0 &&
             (have->node_cnt != 1 || have->node[0].node_id != want.node[0].node_id))
        field = "node";
    else if (have->region[SHR_REGION_SHELF].entries != config->shelf_entries)
        field = "shelf_entries";
    else if (fstat((int)shr_load32_relaxed(&map->fd), &st) != 0 || !same_file(&st, map) ||
             (st.st_mode & 07777) != config->mode)
        field = "mode";
    if (field != NULL && why != NULL)
        *why = field;
    return field != NULL ? -EEXIST : 0;
}
