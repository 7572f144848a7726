/* The segment: one file, mapped shared, that holds a whole bus.
 *
 * Born whole: the file gets its name only when every byte of it is allocated, placed and formatted,
 * so no process ever sees half a bus and a creator that dies leaves nothing behind.
 *
 *     unnamed file ──allocate, map, place, format──▶ complete ──link──▶ named ──unlink──▶ gone
 *          └────────── the creator died here: the kernel frees it ─┘
 *
 * An attaching process trusts nothing in the file: it copies the geometry once, checks every field
 * of the copy against the file's size and the limits of layout.h, and from then on uses the copy.
 *
 * Threads: a struct shr_map is written by create, attach and detach only; between them any number
 * of threads may read it. The mapping is not inherited by fork.
 */
#ifndef SHMRING_SEGMENT_H
#define SHMRING_SEGMENT_H

#include "shmring/layout.h"

#include <stdbool.h>
#include <sys/types.h>

#define SHR_PATH_BYTES 256u
#define SHR_SHELF_MAX  (1u << 20)
#define SHR_LOCK_DRAFT (1 << 22) /* the byte that the creator of a file with a draft's name locks */

/* What a creator chooses. Every field must be set; shr_config_default sets all of them. */
struct shr_config {
    uint32_t policy;      /* SHR_DROP_OLDEST, SHR_BLOCK, SHR_RETURN_ERROR */
    uint32_t exclusive;   /* 1: one producer only */
    uint32_t capacity;    /* events: a power of two, SHR_CAPACITY_MIN … SHR_CAPACITY_MAX */
    uint32_t max_event;   /* bytes: 1 … half of slab_bytes (≤ SHR_INLINE_BYTES without slabs) */
    uint64_t slab_bytes;  /* 0, or ≥ 2 chunks; rounded up to whole chunks */
    uint32_t producers;   /* 1 … SHR_PRODUCERS_MAX, ≤ capacity; 1 if exclusive */
    uint32_t topics;      /* 1 … SHR_TOPICS_MAX */
    uint64_t patience_ns; /* 1,000 … 1,000,000,000 */
    uint32_t sample_shift;  /* one event in 2^this is stamped: 0 … 20 */
    int32_t node;           /* -1: the creator's node first; ≥ 0: all memory on that node */
    uint32_t shelf_entries; /* reserved space for events that wait outside the ring */
    mode_t mode;            /* of the file: 0600, 0660 … */
};

struct shr_map {
    unsigned char *base;
    uint64_t bytes;
    shr_a32 fd; /* for liveness queries; may be closed behind our back, so use shr_segment_fd */
    bool writable;
    dev_t dev;
    ino_t ino;
    struct shr_geometry geo; /* the private, validated copy */
    struct shr_hot *hot;
    struct shr_peer *peers; /* [0]: the consumer */
    struct shr_track *track;
    struct shr_hand *hands; /* the consumer's */
    struct shr_topic *topics;
    struct shr_tally *tally;
    struct shr_histogram *latency;
    struct shr_handler_row *handlers;
    struct shr_error_row *errors;
    shr_a64 *owners; /* of the chunks */
    struct shr_chunk *chunks;
    struct shr_cell *cells;
    unsigned char *slabs;
    char path[SHR_PATH_BYTES];
};

/* The default bus: 65,536 events, 16 MiB of slabs, 64 KiB events, 128 producers, drop-oldest, 30
 * µs. */
void shr_config_default(struct shr_config *config);

/* Bytes that a bus of this configuration takes. -EINVAL, or -EDOM with *why naming the field. */
int shr_segment_size(const struct shr_config *config, uint64_t *bytes, const char **why);

/* Writes the path of the bus `name` to path. A name is 1 … 63 bytes of [A-Za-z0-9._-], not
 * starting with a dot or a dash; it lies in GEB_DIR, or else in /dev/shm/geb-UID/, which is made
 * (0700) if `make_dir`, and checked to be ours if it exists. A name with a slash is a path already
 * and is copied. -EINVAL: bad name. -EACCES: the directory belongs to somebody else, is a link, or
 * others may write. */
int shr_segment_path(const char *name, bool make_dir, char path[SHR_PATH_BYTES]);

/* Creates and maps a bus. Blocks for as long as the kernel needs to allocate the memory.
 * -EEXIST: the name is taken (nothing was changed). -ENOMEM: it needs more memory than there is
 * (memory.h), nothing was allocated. -ENOSPC: the file system is too full, nothing is left behind.
 * -EINVAL/-EDOM: configuration. Else what the kernel said. */
int shr_segment_create(struct shr_map *map, const char *path, const struct shr_config *config);

/* What a creator leaves that was killed where the file system has no files without a name: 0: path
 * is that, and is removed if `remove`; -EBUSY: its creator is at work; -EINVAL: it is something
 * else; or what the kernel said. */
int shr_draft_check(const char *path, bool remove);

/* Maps an existing bus; read-only if not writable. -ENOENT: none. -EACCES. -EROFS: writable, in a
 * file system that is not. -EPROTO: other layout version. -EBADMSG: not a bus, truncated, or a
 * field that does not fit. */
int shr_segment_attach(struct shr_map *map, const char *path, bool writable);

/* Unmaps and closes. Safe on a zeroed struct and after itself. */
void shr_segment_detach(struct shr_map *map);

/* Whether an existing bus has this configuration: 0, or -EEXIST with *why naming the first field
 * that differs. -EINVAL, -EDOM: as shr_segment_size. `node` counts if it is ≥ 0. */
int shr_segment_matches(const struct shr_map *map, const struct shr_config *config,
                        const char **why);

/* Moves a descriptor away from 0, 1 and 2, the numbers that the kernel gives when a process was
 * started without standard streams: else its next line of output would go into the bus. Returns the
 * new one; what is negative stays. errno is kept. */
int shr_fd_apart(int fd);

/* A descriptor for lock queries that surely is this segment's file: the one of the map, or a new
 * one if that was closed or replaced. The map keeps it. -ESTALE: the file is not at its path any
 * more. */
int shr_segment_fd(struct shr_map *map);

/* Whether the file still has a name. Who takes a role asks after it has the lock: a remover
 * holds all locks while it takes the name away. */
bool shr_segment_is_named(struct shr_map *map);

#endif
