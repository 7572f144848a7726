#include "tools/geb/doctor.h"

#include "tools/common.h"
#include "tools/geb/look.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/io_uring.h>
#include <linux/membarrier.h>
#include <mntent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

static void space_read(struct doctor_space *space, const char *path)
{
    struct statvfs fs;
    snprintf(space->path, sizeof space->path, "%s", path);
    space->rc = statvfs(path, &fs) == 0 ? 0 : -errno;
    if (space->rc < 0)
        return;
    space->backing = look_backing(path);
    space->bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
    space->free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
}

static void huge_pages_read(struct doctor_system *system)
{
    char line[256];
    uint64_t kib;
    FILE *meminfo = fopen("/proc/meminfo", "re");
    while (meminfo != NULL && fgets(line, sizeof line, meminfo) != NULL) {
        sscanf(line, "HugePages_Total: %" SCNu64, &system->huge_pages);
        sscanf(line, "HugePages_Free: %" SCNu64, &system->huge_pages_free);
        if (sscanf(line, "Hugepagesize: %" SCNu64, &kib) == 1)
            system->huge_page_bytes = kib * 1024;
    }
    if (meminfo != NULL)
        fclose(meminfo);
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    if (mounts == NULL)
        return;
    for (struct mntent *mount; (mount = getmntent(mounts)) != NULL;) {
        if (strcmp(mount->mnt_type, "hugetlbfs") == 0 && system->huge_mount[0] == '\0')
            snprintf(system->huge_mount, sizeof system->huge_mount, "%s", mount->mnt_dir);
    }
    endmntent(mounts);
}

static int io_uring_probe(void)
{
    struct io_uring_params params = {0};
    long fd = syscall(SYS_io_uring_setup, 1u, &params);
    if (fd < 0)
        return -errno;
    close((int)fd);
    return 0;
}

void doctor_system_read(struct doctor_system *system)
{
    struct rlimit limit;
    char dir[256];
    *system = (struct doctor_system){.memlock_bytes = UINT64_MAX};
    tool_directory(dir, sizeof dir);
    space_read(&system->shm, "/dev/shm");
    space_read(&system->directory, dir);
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        system->memlock_bytes = limit.rlim_cur;
    huge_pages_read(system);
    system->io_uring = io_uring_probe();
    long commands = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0u, 0);
    if (commands < 0)
        system->membarrier = -errno;
    else if ((commands & MEMBARRIER_CMD_GLOBAL_EXPEDITED) == 0)
        system->membarrier = -ENOSYS;
}
