/* What the sources of libgeb share with each other. */
#ifndef LIB_INTERNAL_H
#define LIB_INTERNAL_H

#include "lib/geb.h"
#include "shmring/clock.h"
#include "shmring/consume.h"
#include "shmring/peer.h"
#include "shmring/slab.h"
#include "shmring/wait.h"

#include <errno.h>

/* ---- handles ---------------------------------------------------------------------------------
 *
 * A handle's memory is wiped in a child of fork (MADV_WIPEONFORK), and its address stays reserved
 * after its end, as zero pages that take no memory. So a call on a dead handle finds a wrong magic
 * and gives -ESTALE instead of touching memory that is gone, or another handle.
 *
 *     alloc, set ──▶ live ──retire──▶ no more visits ──end──▶ zero pages, for ever
 *                      └─fork, in the child─▶ zero pages
 *
 * geb_stop and geb_cancel come from other threads and from signal handlers, also while the handle
 * ends. Such a visit is counted, and the end waits for those that are in flight. A visit makes a
 * few system calls at most, and never waits.
 */
#define GEBI_BUS_MAGIC      UINT64_C(0x6765622d62757321)
#define GEBI_PRODUCER_MAGIC UINT64_C(0x6765622d70726f64)
#define GEBI_WATCH_MAGIC    UINT64_C(0x6765622d77617463)

void *gebi_handle_alloc(size_t bytes); /* zeroed, NULL: out of memory */
void gebi_handle_end(void *handle, size_t bytes);

/* What a visit looks at; the rest of a handle belongs to its thread. */
struct gebi_life {
    shr_a64 magic; /* GEBI_*_MAGIC while the handle lives */
    shr_a32 visits;
};

/* True: the handle lives until gebi_visit_end. Async-signal-safe, like the end. */
bool gebi_visit(struct gebi_life *life, uint64_t magic);
void gebi_visit_end(struct gebi_life *life);

/* From now on nobody visits; waits for those who do. */
void gebi_handle_retire(struct gebi_life *life);

static inline bool gebi_lives(const struct gebi_life *life, uint64_t magic)
{
    return shr_load_relaxed(&life->magic) == magic; /* relaxed: asked by the handle's own thread */
}

/* ---- errors ---------------------------------------------------------------------------------- */

/* Says what exactly was wrong (geb_last_error) and returns rc. */
__attribute__((format(printf, 2, 3), cold)) int gebi_fail(int rc, const char *format, ...);

/* A lock is refused that nobody owns; the path, twice. Who may only read can lock for reading. */
#define GEBI_STRANGER                                                                          \
    "%s: somebody who takes no part in it holds a lock on it: find the process with lsof %s, " \
    "and give the bus a narrower mode"

/* The path of the bus `name`, as shr_segment_path, with the text for what was wrong. */
int gebi_path(const char *name, bool make_dir, char path[SHR_PATH_BYTES]);

/* gebi_fail for the file of a bus. what: "" or what was to be done, with a space behind it. Where
 * the number has several causes, the words are those of the one at hand; -EROFS becomes -EACCES. */
SHR_COLD int gebi_fail_file(int rc, const char *what, const char *path);

/* The buses whose handlers run on this thread right now, the innermost first. */
struct gebi_dispatching {
    uint64_t id; /* geo.id[0] */
    struct gebi_dispatching *outer;
};
extern _Thread_local struct gebi_dispatching *gebi_dispatching;

/* Whether one of them is the bus of this map: then waiting for it would be for ever. */
bool gebi_is_dispatching(const struct shr_map *map);

/* ---- topics ---------------------------------------------------------------------------------- */

/* Finds or makes the row of a name. `slot` and `epoch` are the caller's. 0 or as
 * geb_topic_schema. */
int gebi_topic_intern(struct shr_map *map, uint32_t slot, const char *name, const char *schema,
                      uint32_t bytes, geb_topic_id *topic);

/* Whether an id stands for a topic. */
bool gebi_topic_exists(const struct shr_map *map, geb_topic_id topic);

/* ---- batches: frames in one block ------------------------------------------------------------ */

struct gebi_frame {
    uint32_t bytes;
    uint32_t topic;
    uint64_t key;
    /* bytes of payload, then zeroes up to a multiple of 8 */
};
_Static_assert(sizeof(struct gebi_frame) == 16, "ABI");

static inline uint64_t gebi_frame_bytes(uint64_t payload)
{
    return sizeof(struct gebi_frame) + ((payload + 7) & ~UINT64_C(7));
}

/* ---- the consumer ---------------------------------------------------------------------------- */

#define GEBI_HANDLERS_MAX 128u

struct gebi_handler {
    geb_handler *call;
    void *user;
    uint32_t topic;              /* UINT32_MAX: the default handlers */
    struct shr_handler_row *row; /* its counters, which observers see */
};

struct geb_context {
    struct geb_bus *bus;
};

struct geb_bus {
    struct gebi_life life;
    struct shr_map map;
    struct shr_lock lock;         /* the consumer's role */
    struct shr_lock standby_lock; /* the right to be the next one */
    bool standing_by;             /* has no role yet: what is the consumer's is not touched */
    struct shr_consumer consumer;
    struct shr_sweeper sweeper;
    struct geb_context context;
    shr_a32 stop;
    bool fence;

    struct gebi_handler handler[GEBI_HANDLERS_MAX]; /* in the order of geb_on */
    uint32_t handler_cnt;
    struct shr_handler_row unseen; /* of the handlers for which the segment has no row */
    struct gebi_handler **flat;    /* the same, grouped by topic; default ones last */
    uint32_t *first; /* [topic] … [topic + 1]: its part of flat; [topic_cnt]: the default ones */
    bool flat_is_old;
    char (*topic_text)[SHR_NAME_BYTES]; /* for geb_topic_name */

    uint64_t spin_ns;
    bool running;         /* geb_run is at work: geb_stop is meant for it */
    bool waited;          /* the last look found nothing */
    uint64_t pause_ns;    /* how long the dispatcher keeps away from the ring after a wait */
    uint64_t paused_ns;   /* when it did so last … */
    uint64_t paused_at;   /* … and `handled` then */
    uint64_t handled;     /* cells */
    uint64_t swept_ns;    /* when we swept last */
    uint64_t since_look;  /* events since we looked at the clock */
    uint64_t empty_looks; /* calls of geb_dispatch that found nothing */
};

/* 0; -EINVAL or -ESTALE. */
static inline int gebi_check_bus(const struct geb_bus *bus)
{
    if (SHR_UNLIKELY(bus == NULL))
        return gebi_fail(-EINVAL, "the bus is NULL");
    if (SHR_UNLIKELY(!gebi_lives(&bus->life, GEBI_BUS_MAGIC)))
        return gebi_fail(-ESTALE, "the bus is closed, or this is a child of its process");
    return 0;
}

/* As gebi_check_bus; and -EDEADLK from within a handler of this bus. */
static inline int gebi_check_outside(const struct geb_bus *bus)
{
    int rc = gebi_check_bus(bus);
    if (SHR_UNLIKELY(rc == 0 && gebi_dispatching != NULL && gebi_is_dispatching(&bus->map)))
        return gebi_fail(-EDEADLK, "a handler cannot dispatch, close or change its own bus");
    return rc;
}

/* Takes the consumer's role and resumes where the last one stopped. -EBUSY: it is taken; -ENOENT:
 * the bus was removed. */
int gebi_take_role(struct geb_bus *bus);

/* A standby takes the role if it is free. 1: it has it; 0: not yet; or as gebi_take_role. */
int gebi_take_over_now(struct geb_bus *bus);

/* Maps the pages of the segment that a consumer touches, so that it does not fault them in when it
 * takes over. */
void gebi_warm(struct geb_bus *bus);

/* Looks after the dead and the quarantined, at most every 100 ms. */
void gebi_housekeep(struct geb_bus *bus, uint64_t now_ns);

/* Shows the handlers to observers. The rows are the consumer's, so the caller has the role. */
void gebi_show_handlers(struct geb_bus *bus);

/* Groups the handlers by topic, unless they are. 0 or -ENOMEM. */
int gebi_flatten(struct geb_bus *bus);

/* Hands out up to max cells (a batch is one); less only if there are no more now, or geb_stop ends
 * geb_run. Returns how many. */
uint32_t gebi_drain(struct geb_bus *bus, uint32_t max);

/* Adds to the distinct errors that observers see. */
void gebi_log_error(struct shr_map *map, int code, const char *text);

/* ---- producer -------------------------------------------------------------------------------- */

#define GEBI_SPINS        1000u
#define GEBI_TOPICS_KNOWN 1024u /* ids below it need no look at the table after the first */

struct geb_producer {
    struct gebi_life life;
    struct shr_writer writer;
    uint32_t slot;
    uint32_t max_event;
    uint32_t stamp_mask;
    bool fence;
    shr_a32 cancelled;
    uint64_t topic_known[GEBI_TOPICS_KNOWN / 64]; /* bits: the topic exists and takes any size */
    uint32_t spins;         /* attempts on a full bus before it sleeps; tests make fewer */
    uint64_t gone_since_ns; /* since when nobody has had the consumer's role; 0: not known … */
    uint64_t gone_epoch;    /* … and its epoch then: while it stands, nobody has taken the role */
    struct shr_taker taker; /* drop-oldest */
    struct shr_heap heap;
    struct shr_map map;
    struct shr_lock lock;
};

/* 0; -EINVAL or -ESTALE. */
static inline int gebi_check_producer(const struct geb_producer *p)
{
    if (SHR_UNLIKELY(p == NULL))
        return gebi_fail(-EINVAL, "the producer is NULL");
    if (SHR_UNLIKELY(!gebi_lives(&p->life, GEBI_PRODUCER_MAGIC)))
        return gebi_fail(-ESTALE, "the producer has left, or this is a child of its process");
    return 0;
}

/* One call's dealings with a full bus. */
struct gebi_overrun {
    uint64_t wait_until_ns;
    uint32_t drops;
    uint32_t reclaims;          /* that brought something, which others may take */
    uint32_t attempts;          /* to drop something … */
    uint32_t stuck;             /* … with nothing to drop or to pass */
    uint64_t overfull_since_ns; /* since when the ring seems to hold more than it has cells */
    uint32_t looks;             /* at tail, since we slept */
    uint32_t voids;             /* tickets */
    uint32_t spins;
    uint32_t ticket;
    bool entered; /* we said that we sleep; ticket is valid */
    bool counted;
};

/* Makes room by the policy of the bus, after shr_try_publish gave -EAGAIN or shr_alloc -ENOBUFS;
 * `rc` says which, or is -EINTR: the ticket was void. 0: try again. */
int gebi_make_room(struct geb_producer *producer, int rc, struct gebi_overrun *overrun);

/* ---- observer -------------------------------------------------------------------------------- */

struct gebi_tap;

struct geb_watch {
    uint64_t magic;
    struct shr_map map;   /* read-only */
    struct gebi_tap *tap; /* NULL: none */
};

/* Frees the tap, if there is one. */
void gebi_tap_end(struct geb_watch *watch);

/* ---- repair ---------------------------------------------------------------------------------- */

/* One sweep for geb_repair, whose locks the caller holds; with the consumer's role also of cells.
 * Returns how many chunks came back. */
uint32_t gebi_repair_sweep(struct shr_map *map, bool consumer);

/* ---- metrics --------------------------------------------------------------------------------- */

int gebi_metrics(struct shr_map *map, struct geb_metrics *metrics);

/* Bucket of a latency in units of SHR_STAMP_NS, and the least latency of a bucket in ns. */
uint32_t gebi_bucket(uint64_t units);
uint64_t gebi_bucket_ns(uint32_t bucket);

#endif
