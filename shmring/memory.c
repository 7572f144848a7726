#include "shmring/memory.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>

#define PATH_BYTES   512
#define OTHERS_SHIFT 4 /* 1/16 of all memory stays for others */

/* What each version of control groups calls its files. */
struct group_files {
    const char *mount, *limit, *usage, *inactive, *active;
};
static const struct group_files version_1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                             "memory.usage_in_bytes", "total_inactive_file",
                                             "total_active_file"};
static const struct group_files version_2 = {"/sys/fs/cgroup", "memory.max", "memory.current",
                                             "inactive_file", "active_file"};

static FILE *file_open(const char *root, const char *path)
{
    char full[PATH_BYTES];
    int len = snprintf(full, sizeof(full), "%s%s", root, path);
    return len > 0 && (size_t)len < sizeof(full) ? fopen(full, "re") : NULL;
}

/* The number behind a key at the start of a line; `missing` if there is none. */
static uint64_t number_read(const char *root, const char *path, const char *key, uint64_t missing)
{
    char line[256], *end;
    uint64_t number = missing;
    FILE *file = file_open(root, path);
    if (file == NULL)
        return missing;
    while (fgets(line, sizeof(line), file) != NULL) {
        size_t len = strlen(key);
        if (strncmp(line, key, len) != 0 || (len != 0 && strchr(" :\t", line[len]) == NULL))
            continue;
        const char *from = line + len + strspn(line + len, " :\t");
        uint64_t value = strtoull(from, &end, 10); /* "max" is no number */
        number = end != from ? value : missing;
        break;
    }
    fclose(file);
    return number;
}

/* What one group leaves. Its file cache is given up before anything of it is refused. */
static uint64_t group_left(const char *root, const struct group_files *files, const char *group)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof(path), "%s%s/%s", files->mount, group, files->limit);
    uint64_t limit = number_read(root, path, "", UINT64_MAX);
    if (limit == UINT64_MAX)
        return UINT64_MAX;
    snprintf(path, sizeof(path), "%s%s/%s", files->mount, group, files->usage);
    uint64_t usage = number_read(root, path, "", 0);
    snprintf(path, sizeof(path), "%s%s/memory.stat", files->mount, group);
    uint64_t cache = number_read(root, path, files->inactive, 0) +
                     number_read(root, path, files->active, 0);
    usage -= cache < usage ? cache : usage;
    return limit > usage ? limit - usage : 0;
}

/* What a group and those that it lies in leave. Inside a container its path may lead nowhere, and
 * the mount itself is the container's group. */
static uint64_t groups_left(const char *root, const struct group_files *files, char *group)
{
    uint64_t least = UINT64_MAX;
    for (;;) {
        uint64_t left = group_left(root, files, group);
        least = left < least ? left : least;
        char *slash = strrchr(group, '/');
        if (slash == NULL)
            return least;
        *slash = '\0';
    }
}

/* Lines of /proc/self/cgroup: "4:memory:/a/b" in version 1, "0::/a/b" in version 2. */
static uint64_t all_groups_left(const char *root)
{
    char line[PATH_BYTES / 2];
    uint64_t least = UINT64_MAX;
    FILE *file = file_open(root, "/proc/self/cgroup");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *names = strchr(line, ':');
        char *group = names != NULL ? strchr(names + 1, ':') : NULL;
        if (group == NULL)
            continue;
        *group++ = '\0';
        const struct group_files *files = strcmp(names, ":memory") == 0 ? &version_1
                                          : strcmp(names, ":") == 0     ? &version_2
                                                                        : NULL;
        if (files == NULL)
            continue;
        uint64_t left = groups_left(root, files, group);
        least = left < least ? left : least;
    }
    if (file != NULL)
        fclose(file);
    return least;
}

uint64_t shr_memory_available(const char *root)
{
    uint64_t free_kib = number_read(root, "/proc/meminfo", "MemAvailable", UINT64_MAX);
    uint64_t all_kib = number_read(root, "/proc/meminfo", "MemTotal", 0);
    uint64_t others_kib = all_kib >> OTHERS_SHIFT;
    uint64_t available = UINT64_MAX;
    if (free_kib < UINT64_MAX >> 10)
        available = free_kib > others_kib ? (free_kib - others_kib) << 10 : 0;
    uint64_t left = all_groups_left(root);
    return left < available ? left : available;
}

int shr_memory_check(int fd, uint64_t bytes)
{
    struct statfs fs;
    if (fstatfs(fd, &fs) != 0)
        return -errno;
    if ((unsigned long)fs.f_type != TMPFS_MAGIC && (unsigned long)fs.f_type != RAMFS_MAGIC)
        return 0;
    if (bytes > shr_memory_available(""))
        return -ENOMEM;
    /* A file system without a limit says that it has no blocks at all. */
    return fs.f_blocks != 0 && bytes / (uint64_t)fs.f_bsize > fs.f_bavail ? -ENOSPC : 0;
}
