/* A file on its way to become a bus: made, filled and formatted where nobody sees it, then linked
 * to its name in one step. A creator that is killed midway leaves nothing; where the file system
 * knows no files without a name (O_TMPFILE), it leaves a file `.geb-…`, which shr_draft_check
 * (segment.h) finds.
 *
 *     open ──▶ allocate ──▶ … map and format … ──▶ link: a bus
 *       └──────────┴──── drop, or the creator died here: nothing, or `.geb-…`
 *
 * Threads: a draft belongs to one thread.
 */
#ifndef SHMRING_SEGMENT_DRAFT_H
#define SHMRING_SEGMENT_DRAFT_H

#include "shmring/segment.h"

struct shr_draft {
    int fd;
    char name[SHR_PATH_BYTES]; /* empty: the file has none, and needs nobody to remove it */
};

/* Makes an empty file in the directory of `path`. 0 or -errno. */
int shr_draft_open(struct shr_draft *draft, const char *path, mode_t mode);

/* Has the file system give it all its pages, of page_bytes: later it could only kill whoever
 * touches one that is not there. In slices: a signal undoes an unfinished one, and would undo all
 * of a large file again and again. 0 or -errno. */
int shr_draft_allocate(const struct shr_draft *draft, uint64_t bytes, uint32_t page_bytes);

/* Gives it its name; the descriptor is the caller's from then on. 0; -EEXIST; another -errno. */
int shr_draft_link(const struct shr_draft *draft, const char *path);

/* Ends a draft that was not linked. */
void shr_draft_drop(struct shr_draft *draft);

#endif
