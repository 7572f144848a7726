/* The mark of gone.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tests/gone.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE_BYTES 4096
#define YIELDS     1000
#define NAPS_MS    60000

static int file = -1;
static void *page = MAP_FAILED;

void gone_prepare(void)
{
    if (file < 0)
        file = memfd_create("gone", MFD_CLOEXEC);
}

static struct flock byte_of(pid_t pid)
{
    return (struct flock){
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)pid, .l_len = 1};
}

void gone_mark(void)
{
    struct flock lock = byte_of(getpid());
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return; /* then nobody waits */
    page = mmap(NULL, PAGE_BYTES, PROT_NONE, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED && madvise(page, PAGE_BYTES, MADV_DONTFORK) == 0)
        fcntl(fd, F_OFD_SETLK, &lock);
    close(fd);
}

void gone_unmark(void)
{
    if (page != MAP_FAILED)
        munmap(page, PAGE_BYTES);
    page = MAP_FAILED;
}

bool gone_await(pid_t pid)
{
    for (int i = 0; i < YIELDS + NAPS_MS; i++) {
        struct flock lock = byte_of(pid);
        if (file < 0 || fcntl(file, F_OFD_GETLK, &lock) != 0 || lock.l_type == F_UNLCK)
            return true;
        if (i < YIELDS)
            sched_yield();
        else
            poll(NULL, 0, 1);
    }
    return false;
}
