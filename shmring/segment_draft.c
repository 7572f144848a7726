/* A segment's file before it has the name of a bus. */
#include "shmring/segment_draft.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define ALLOCATE_BYTES (UINT64_C(2) << 20)
#define PROC_FD_BYTES  40u

#define DRAFT_PREFIX   ".geb-"
#define DRAFT_ATTEMPTS 16

/* A draft that has a name is locked by its creator as long as it is one: who finds it unlocked
 * knows that its creator is dead. -EBUSY: somebody has the lock. */
static int draft_lock(int fd, short type)
{
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = SHR_LOCK_DRAFT, .l_len = 1};
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
}

/* One attempt in a directory that cannot have files without a name. -EBUSY: somebody took the new
 * file for one whose creator is dead, before it was locked. */
static int draft_open_named(struct shr_draft *draft, const char *dir, int flags, mode_t mode)
{
    uint64_t salt;
    struct stat st;
    char name[24];
    if (getrandom(&salt, sizeof(salt), 0) != (ssize_t)sizeof(salt))
        return -EIO;
    snprintf(name, sizeof(name), DRAFT_PREFIX "%016llx", (unsigned long long)salt);
    int len = snprintf(draft->name, sizeof(draft->name), "%s%s%s", dir, dir[0] != '\0' ? "/" : "",
                       name);
    if (len < 0 || (size_t)len >= sizeof(draft->name))
        return -EINVAL;
    int fd = open(draft->name, O_CREAT | O_EXCL | flags, mode);
    draft->fd = shr_fd_apart(fd);
    int rc = draft->fd >= 0 ? draft_lock(draft->fd, F_WRLCK) : -errno;
    if (rc == 0 && (fstat(draft->fd, &st) != 0 || st.st_nlink == 0))
        rc = -EBUSY;
    if (rc < 0 && fd >= 0)
        unlink(draft->name);
    if (rc < 0 && draft->fd >= 0)
        close(draft->fd);
    return rc;
}

int shr_draft_open(struct shr_draft *draft, const char *path, mode_t mode)
{
    const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW;
    char dir[SHR_PATH_BYTES];
    size_t dir_len = (size_t)(strrchr(path, '/') - path) + 1; /* with the slash */
    memcpy(dir, path, dir_len);
    dir[dir_len] = '\0';
    draft->name[0] = '\0';
    draft->fd = shr_fd_apart(open(dir, O_TMPFILE | flags, mode));
    if (draft->fd >= 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
        return -errno;
    dir[dir_len - 1] = '\0';
    int rc = -EBUSY;
    for (int i = 0; i < DRAFT_ATTEMPTS && rc == -EBUSY; i++)
        rc = draft_open_named(draft, dir, flags, mode);
    return rc == -EBUSY ? -EIO : rc;
}

int shr_draft_check(const char *path, bool remove)
{
    const char *slash = strrchr(path, '/');
    struct stat st, now;
    if (strncmp(slash != NULL ? slash + 1 : path, DRAFT_PREFIX, strlen(DRAFT_PREFIX)) != 0)
        return -EINVAL;
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return -errno;
    int rc = fstat(fd, &st) != 0 ? -errno : S_ISREG(st.st_mode) ? 0 : -EINVAL;
    if (rc == 0)
        rc = draft_lock(fd, F_WRLCK);
    /* With its lock in our hands it is no creator's, and becomes no bus. */
    if (rc == 0 && (lstat(path, &now) != 0 || now.st_ino != st.st_ino || now.st_dev != st.st_dev))
        rc = -ENOENT;
    if (rc == 0 && remove && unlink(path) != 0)
        rc = -errno;
    close(fd);
    return rc;
}

/* In slices: a signal undoes an unfinished one, and would undo all of a large file again and
 * again. */
int shr_draft_allocate(const struct shr_draft *draft, uint64_t bytes, uint32_t page_bytes)
{
    uint64_t slice = page_bytes > ALLOCATE_BYTES ? page_bytes : ALLOCATE_BYTES;
    for (uint64_t off = 0; off < bytes; off += slice) {
        uint64_t left = bytes - off;
        int error;
        do
            error = posix_fallocate(draft->fd, (off_t)off, (off_t)(left < slice ? left : slice));
        while (error == EINTR);
        if (error != 0)
            return -error;
    }
    return 0;
}

int shr_draft_link(const struct shr_draft *draft, const char *path)
{
    char proc[PROC_FD_BYTES];
    if (draft->name[0] != '\0') { /* in one step, so that a death leaves one name or the other */
        if (renameat2(AT_FDCWD, draft->name, AT_FDCWD, path, RENAME_NOREPLACE) != 0)
            return -errno;
        draft_lock(draft->fd, F_UNLCK); /* a bus has no such lock */
        return 0;
    }
    /* Of this thread: the main one, which /proc/self is, may have ended. */
    snprintf(proc, sizeof(proc), "/proc/thread-self/fd/%d", draft->fd);
    return linkat(AT_FDCWD, proc, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0 ? 0 : -errno;
}

void shr_draft_drop(struct shr_draft *draft)
{
    if (draft->name[0] != '\0')
        unlink(draft->name);
    close(draft->fd);
}
