#include "lib/internal.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <time.h>

#define RETIRE_PAUSE_NS 50000 /* a visit is shorter, unless it is off the processor */

_Thread_local struct gebi_dispatching *gebi_dispatching;

static _Thread_local char last_error[512];

const char *geb_strerror(int rc)
{
#define CASE(code, text) \
    case code:           \
        return text;
    if (rc >= 0)
        return "success";
    switch (-(int64_t)rc) { /* in 64 bits also for INT_MIN */
        GEB_ERRORS(CASE)
    default:
        break;
    }
    const char *words = NULL; /* errors of system calls that have no meaning of geb's own */
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 32)
    if (rc != INT_MIN) /* static, as ours are, and of no locale */
        words = strerrordesc_np(-rc);
#endif
    return words != NULL ? words : "a system call failed";
#undef CASE
}

const char *geb_last_error(void)
{
    return last_error;
}

int gebi_fail(int rc, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(last_error, sizeof(last_error), format, args);
    va_end(args);
    return rc;
}

/* Whether the file system in which the path is, or would be, has no room for one more file. */
static bool inodes_are_gone(const char *path)
{
    struct statvfs fs;
    char dir[SHR_PATH_BYTES];
    const char *slash = strrchr(path, '/');
    snprintf(dir, sizeof(dir), "%.*s", slash != NULL ? (int)(slash - path) + 1 : 1,
             slash != NULL ? path : ".");
    /* A file system without a limit says that it has none at all. */
    return statvfs(dir, &fs) == 0 && fs.f_files != 0 && fs.f_favail == 0;
}

int gebi_fail_file(int rc, const char *what, const char *path)
{
    if (rc == -EROFS)
        return gebi_fail(-EACCES, "%s%s: the file system is read-only: remount it, or set GEB_DIR",
                         what, path);
    if (rc == -ENOSPC && inodes_are_gone(path))
        return gebi_fail(rc,
                         "%s%s: the file system has no inodes left: remove files from it, or set "
                         "GEB_DIR",
                         what, path);
    return gebi_fail(rc, "%s%s: %s", what, path, geb_strerror(rc));
}

bool gebi_is_dispatching(const struct shr_map *map)
{
    for (const struct gebi_dispatching *d = gebi_dispatching; d != NULL; d = d->outer) {
        if (d->id == map->geo.id[0])
            return true;
    }
    return false;
}

const char *geb_version(void)
{
    return "0.1.0";
}

uint64_t geb_now(void)
{
    return shr_now_ns();
}

/* ---- handles --------------------------------------------------------------------------------- */

void *gebi_handle_alloc(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (madvise(p, bytes, MADV_WIPEONFORK) != 0) {
        munmap(p, bytes);
        return NULL;
    }
    return p;
}

void gebi_handle_end(void *handle, size_t bytes)
{
    /* Zero pages that take no memory until they are written, which nobody does. Mapped afresh,
     * since only mappings that were never written merge: else each ended handle would be one more
     * of the 65,530 that a process may have, and one more to copy at each fork. */
    madvise(handle, bytes, MADV_DONTNEED);
    mmap(handle, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

bool gebi_visit(struct gebi_life *life, uint64_t magic)
{
    /* A first look, so that visits to what ended long ago leave its zero pages untouched. */
    if (shr_load_relaxed(&life->magic) != magic)
        return false;
    shr_fetch_add32_release(&life->visits, 1);
    /* edge W5 release: who ends the handle sees our count, or we see its end here. */
    shr_fence_seq_cst();
    if (shr_load_relaxed(&life->magic) == magic)
        return true;
    gebi_visit_end(life);
    return false;
}

void gebi_visit_end(struct gebi_life *life)
{
    /* edge W5 release: the visit is over before its count. If the handle ended before we were
     * counted, this may write to its zero pages, which nobody reads. */
    shr_fetch_add32_release(&life->visits, UINT32_MAX);
}

void gebi_handle_retire(struct gebi_life *life)
{
    const struct timespec pause = {.tv_nsec = RETIRE_PAUSE_NS};
    int saved = errno;
    shr_store_relaxed(&life->magic, 0);
    shr_fence_seq_cst();
    /* edge W5 acquire: a visit that saw the handle alive is counted, and when it is not counted any
     * more, it is over. */
    while (shr_load32_acquire(&life->visits) != 0)
        nanosleep(&pause, NULL);
    errno = saved;
}

/* ---- the log of distinct errors -------------------------------------------------------------- */

void gebi_log_error(struct shr_map *map, int code, const char *text)
{
    uint32_t rows = map->geo.region[SHR_REGION_ERRORS].entries;
    for (uint32_t i = 0; i < rows; i++) {
        struct shr_error_row *row = &map->errors[i];
        uint64_t count = shr_load_relaxed(&row->count);
        if (count == 0) {
            shr_store_relaxed(&row->code, (uint64_t)code);
            shr_text_store(row->text, 12, text);
            shr_store_relaxed(&row->first_ns, shr_now_ns());
        } else {
            char known[96];
            shr_text_load(row->text, 12, known);
            if (shr_load_relaxed(&row->code) != (uint64_t)code ||
                strncmp(known, text, sizeof(known) - 1) != 0)
                continue;
        }
        shr_store_relaxed(&row->last_ns, shr_now_ns());
        shr_store_release(&row->count, count + 1); /* edge M1 release: the row is whole */
        return;
    }
}
