/* geb: an event bus in shared memory for the processes of one Linux machine.
 *
 * Producer processes publish events with a few instructions and no system call; one consumer
 * process runs handlers for them; observers look on without being noticed. Killing or stopping
 * any producer at any moment neither stalls the others nor loses what was committed.
 *
 * Three handles, each with a pair of verbs:
 *
 *     consumer   geb_create or geb_open  … geb_close       struct geb_bus
 *                (geb_stand_by: the next one)
 *     producer   geb_join                … geb_leave       struct geb_producer
 *     observer   geb_watch               … geb_unwatch     struct geb_watch
 *
 * Threads: a handle belongs to the thread that uses it; give each thread its own. What another
 * thread or a signal handler may call says so. A handle used after its end, or in a child after
 * fork, gives -ESTALE. Functions that can fail return 0 or more, or a negative errno from the
 * table GEB_ERRORS. Times are CLOCK_MONOTONIC nanoseconds; a deadline of 0 means: do not wait.
 */
#ifndef GEB_H
#define GEB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GEB_API           __attribute__((visibility("default")))

#define GEB_VERSION_MAJOR 0
#define GEB_VERSION_MINOR 1

#define GEB_FOREVER       UINT64_MAX

/* ---- errors ---------------------------------------------------------------------------------- */

/* X(errno, meaning and what to do). One meaning each. */
#define GEB_ERRORS(X)                                                                            \
    X(EAGAIN, "the bus is full: let the consumer catch up, or create it with a larger capacity") \
    X(ENOBUFS,                                                                                   \
      "no slab block is free: let the consumer catch up, or create the bus with more slabs")     \
    X(ETIMEDOUT, "the deadline passed")                                                          \
    X(ECANCELED, "cancelled by geb_cancel, or by geb_stop while it stood by")                    \
    X(EPIPE, "the bus is full and its consumer is gone: start the consumer again")               \
    X(ESHUTDOWN, "the bus is full and its consumer closed it: start the consumer again")         \
    X(EMSGSIZE, "the event is larger than the bus allows: create it with a larger max_event")    \
    X(EINVAL, "an argument is wrong: geb_last_error() names it")                                 \
    X(EDOM, "a number of the configuration is out of range: geb_last_error() names it")          \
    X(ENXIO, "no such topic: register its name with geb_topic and use the id that it gives")     \
    X(ENOENT, "no bus of that name: create it first, or check GEB_DIR")                          \
    X(EEXIST, "a bus of that name exists with another configuration: remove it or use its own")  \
    X(EACCES, "no permission: ask the owner of the bus, or have it created with a wider mode")   \
    X(ENOSPC, "the file system is full: make /dev/shm larger, the bus smaller, or set GEB_DIR")  \
    X(ENOMEM, "not enough memory: make the bus smaller, or free some")                           \
    X(EPROTO, "the bus has another layout version: use the geb that made it, or remove the bus") \
    X(EBADMSG, "the file is not a bus, or it is damaged: remove it and create the bus again")    \
    X(EBUSY, "the role is taken: one consumer, one standby, one producer of an exclusive bus")   \
    X(EUSERS, "no free slot: create the bus with more producers, topics or handlers")            \
    X(ESTALE, "the handle is closed, or from before a fork: open a new one in this process")     \
    X(EDEADLK, "a handler would wait for itself: publish to another bus, or not with Block")     \
    X(ENOSYS, "this system lacks what the call needs")

/* What a result means, in words that name the fix. Never NULL; static. Any thread. */
GEB_API const char *geb_strerror(int rc);

/* What exactly was wrong in this thread's last call that failed with an argument, a
 * configuration or a file: "capacity 100 is not a power of two: use 64 or 128". Empty if nothing
 * more is known. Valid until the thread's next failing call. */
GEB_API const char *geb_last_error(void);

/* ---- configuration --------------------------------------------------------------------------- */

enum geb_policy {
    GEB_DROP_OLDEST,  /* a full bus drops its oldest event for each new one: the newest data wins */
    GEB_BLOCK,        /* a full bus makes producers wait */
    GEB_RETURN_ERROR, /* a full bus gives -EAGAIN */
};

/* A field that is 0 takes its default. Start from GEB_CONFIG_INIT. */
struct geb_config {
    size_t size; /* of this struct */
    enum geb_policy policy;
    bool exclusive;        /* one producer at a time, which needs no locked instructions */
    uint32_t capacity;     /* events that can wait; a power of two, 4 … 2²⁶; default 65,536 */
    uint32_t max_event;    /* bytes; default 64 KiB; at most half of slab_bytes */
    uint64_t slab_bytes;   /* for events over 32 bytes; default 16 MiB; or GEB_NO_SLABS */
    uint32_t producers;    /* handles at the same time, at most 1,024 and capacity; default 128 */
    uint32_t topics;       /* default 256; at most 65,535 */
    uint64_t patience_ns;  /* how long an uncommitted event may hold up others; default 30,000 */
    uint32_t sample_shift; /* one event in 2^this is timed; default 7; at most 20 */
    mode_t mode;           /* of the file; default 0600 */
    uint64_t reserved[8];
};
#define GEB_CONFIG_INIT                   \
    {                                     \
        .size = sizeof(struct geb_config) \
    }
#define GEB_NO_SLABS UINT64_MAX

/* ---- consumer -------------------------------------------------------------------------------- */

struct geb_bus;
struct geb_context; /* what a handler may ask about its call */

typedef uint32_t geb_topic_id;

struct geb_event {
    const void *data; /* valid until the handler returns */
    size_t len;
    geb_topic_id topic;
    uint32_t producer;    /* slot of its producer */
    uint64_t number;      /* its producer's count of events: 1, 2, 3 … */
    uint64_t position;    /* in the order of the bus */
    uint64_t key;         /* 0: none */
    uint64_t id;          /* 0: none */
    uint64_t deadline_ns; /* 0: none */
    bool redelivered;     /* it was in hand when an earlier consumer died */
    uint32_t attempt;     /* 1, or more when redelivered */
};

/* < 0: this handler failed, which is counted; the other handlers of the event still run. */
typedef int geb_handler(struct geb_context *ctx, const struct geb_event *event, void *user);

/* Creates the bus and takes the consumer's role, or resumes a bus of that name if its
 * configuration is equal (config NULL: the default one) and nobody has the role. The bus
 * outlives its handles: geb_remove ends it. name: 1 … 63 of A-Z a-z 0-9 . _ -, the first no . or -
 * (in GEB_DIR or /dev/shm/geb-UID), or a path with a slash. Blocks while the kernel allocates the
 * memory; and while somebody repairs the bus, for a second at most. A bus that needs more memory
 * than the machine and its control group have available, less a sixteenth of all, is refused before
 * anything is allocated (-ENOMEM). -EINVAL, -EDOM, -EEXIST, -EBUSY, -EACCES, -ENOSPC, -EPROTO,
 * -EBADMSG. */
GEB_API int geb_create(struct geb_bus **bus, const char *name, const struct geb_config *config);

/* The same for a bus that must exist, whatever its configuration. -ENOENT, -EBUSY … */
GEB_API int geb_open(struct geb_bus **bus, const char *name);

/* Opens an existing bus as hot standby: the handle waits for the consumer's role, and has it within
 * milliseconds of the consumer's end, be it geb_close or death (a stopped consumer is not dead).
 * Then it goes on where that one was, as geb_open would. What takes time is done before: this call
 * maps the bus, and handlers are registered with geb_on as soon as it returns. Then:
 *
 *     geb_run        waits for its turn, and runs the handlers; ends by geb_stop at any moment
 *     geb_take_over  only waits; geb_dispatch: takes the role if it is free, else returns 0
 *     geb_close      gives up waiting, without a change to the bus
 *
 * While a standby waits, producers that are blocked on a full bus wait on, whatever becomes of the
 * consumer. -EBUSY: another standby waits; the next one can come when that has taken over.
 * Otherwise as geb_open. */
GEB_API int geb_stand_by(struct geb_bus **bus, const char *name);

/* Waits until a standby has the consumer's role: 0, also for a handle that has it already.
 * -ETIMEDOUT; -ECANCELED: geb_stop was called; -ENOENT: the bus was removed. It looks every 2 ms
 * and sleeps in between. Not from within a handler (-EDEADLK). */
GEB_API int geb_take_over(struct geb_bus *bus, uint64_t deadline_ns);

/* Handles what waits until the deadline (0: nothing more), then gives up the role. Events that
 * still wait stay for the next consumer: -ETIMEDOUT then, if a deadline was given; or -ENOMEM; or
 * -EBADMSG: the ring is damaged. The handle is gone in any case. NULL is allowed. */
GEB_API int geb_close(struct geb_bus *bus, uint64_t deadline_ns);

/* Removes a bus. -EBUSY while anybody takes part in it (geb_last_error() names one). */
GEB_API int geb_remove(const char *name);

/* Adds a handler for a topic (fan-out: they run in the order of geb_on), or for events that no
 * handler wants (geb_on_default). Not from within a handler (-EDEADLK). -EUSERS: no more topics
 * or handlers. */
GEB_API int geb_on(struct geb_bus *bus, const char *topic, geb_handler *handler, void *user);
GEB_API int geb_on_default(struct geb_bus *bus, geb_handler *handler, void *user);

/* As geb_on, and the topic must have this schema (see geb_topic_schema). */
GEB_API int geb_on_schema(struct geb_bus *bus, const char *topic, const char *schema,
                          uint32_t bytes, geb_handler *handler, void *user);

/* Runs the handlers of up to max waiting events (0: as many as the bus holds) and returns how many,
 * a batch counted as one. Does not wait for events. Returns also after 64 damaged events in a row:
 * the next call goes on behind them. -EDEADLK from within a handler. */
GEB_API int geb_dispatch(struct geb_bus *bus, uint32_t max);

/* Dispatches until geb_stop; a standby waits for its turn first. Polls for spin_ns after the last
 * event, then sleeps until a producer wakes it. */
GEB_API int geb_run(struct geb_bus *bus);

/* Makes geb_run return after the event in hand; before geb_run, makes it return at once. From
 * any thread and from signal handlers, also while another thread closes the bus, or after that. */
GEB_API void geb_stop(struct geb_bus *bus);

/* How long geb_run polls before it sleeps: default 50,000 ns; GEB_FOREVER: it never sleeps. */
GEB_API int geb_set_spin(struct geb_bus *bus, uint64_t spin_ns);

/* The name of a topic, "" if there is none of that id. Valid as long as the bus is open. */
GEB_API const char *geb_topic_name(struct geb_bus *bus, geb_topic_id topic);

/* Within a handler: the bus that called it. */
GEB_API struct geb_bus *geb_context_bus(struct geb_context *ctx);

/* ---- producer -------------------------------------------------------------------------------- */

struct geb_producer;

/* Takes a free slot of the bus. who: text for people, up to 47 bytes. One handle for each thread
 * that publishes. -ENOENT, -EUSERS: no free slot, -EBUSY: exclusive and taken, -EACCES, -EPROTO,
 * -EBADMSG. */
GEB_API int geb_join(struct geb_producer **producer, const char *name, const char *who);

/* Ends the handle. Its events stay. NULL is allowed. */
GEB_API int geb_leave(struct geb_producer *producer);

/* The id of a topic, registered if it is new; the same for all processes as long as the bus
 * lives. name: 1 … 47 bytes of text. -EUSERS: the table is full. -EBADMSG: it is damaged. May spin
 * for one patience when a process died while registering. */
GEB_API int geb_topic(struct geb_producer *producer, const char *name, geb_topic_id *topic);

/* As geb_topic, with a schema: a name that both sides agree on (≤ 47 bytes) and the size of the
 * payload (0: any). -EINVAL if the topic is there with another schema; a topic without one takes
 * none later. Payloads of another size are refused by geb_publish with -EMSGSIZE. */
GEB_API int geb_topic_schema(struct geb_producer *producer, const char *name, const char *schema,
                             uint32_t bytes, geb_topic_id *topic);

/* Publishes a copy. When it returns 0 the event is committed: it survives this process. data may
 * be NULL if len is 0. A full bus: by the policy of the bus; under GEB_BLOCK it waits as long as
 * the consumer lives, and a second longer (-EPIPE; at once, if it has waited that second for the
 * same one before). -EMSGSIZE, -ENXIO, -EAGAIN, -ENOBUFS, -EPIPE, -ESHUTDOWN, -ECANCELED,
 * -EDEADLK, -ESTALE, -EBADMSG. */
GEB_API int geb_publish(struct geb_producer *producer, geb_topic_id topic, const void *data,
                        size_t len);

struct geb_options {
    size_t size;            /* of this struct */
    uint64_t wait_until_ns; /* GEB_BLOCK: -ETIMEDOUT after it; 0: do not wait; GEB_FOREVER */
    uint64_t key;           /* events of one key stay in order among workers; 0: none */
    uint64_t id;            /* yours, shown to handlers; 0: none */
    uint64_t deadline_ns;   /* not handled by then, it counts as expired; 0: none */
};
#define GEB_OPTIONS_INIT                                                 \
    {                                                                    \
        .size = sizeof(struct geb_options), .wait_until_ns = GEB_FOREVER \
    }

/* geb_publish with options (NULL: none). */
GEB_API int geb_publish_with(struct geb_producer *producer, geb_topic_id topic, const void *data,
                             size_t len, const struct geb_options *options);

struct geb_message {
    geb_topic_id topic;
    uint32_t len;
    const void *data;
    uint64_t key;
};

/* Publishes cnt messages at once: visible, dropped and redelivered all or none, next to each
 * other in the order of the bus. Their sizes, each rounded up to 8 and with 16 more, must fit
 * into max_event together. options: key, id and deadline_ns are not used. As geb_publish_with
 * otherwise. */
GEB_API int geb_publish_batch(struct geb_producer *producer, const struct geb_message *messages,
                              uint32_t cnt, const struct geb_options *options);

/* Room in the shared memory, to build an event in place. */
struct geb_loan {
    void *data; /* len bytes, 128-byte aligned, not cleared */
    size_t len;
    uint64_t handle; /* geb's own */
};

/* Borrows room for len bytes (1 … max_event). Waits by the policy as geb_publish does; a loan
 * that is neither committed nor returned comes back when its producer leaves or dies. Several
 * loans may be out at the same time. -ENOBUFS, here as elsewhere: nothing is free now, and memory
 * that other producers keep for later is asked for 2 ms after it was asked for in vain. */
GEB_API int geb_loan(struct geb_producer *producer, size_t len, struct geb_loan *loan);

/* Publishes the loan's first loan->len bytes (shrink it if you need less), without a copy. On
 * success the loan is used up; on failure it is still yours: commit it again or return it.
 * -EMSGSIZE: len was raised beyond max_event; -EINVAL: beyond the room that there is. */
GEB_API int geb_commit(struct geb_producer *producer, struct geb_loan *loan, geb_topic_id topic);
GEB_API int geb_commit_with(struct geb_producer *producer, struct geb_loan *loan,
                            geb_topic_id topic, const struct geb_options *options);

/* Gives a loan back unused. */
GEB_API int geb_return(struct geb_producer *producer, struct geb_loan *loan);

/* Makes a call of this producer that waits, or the next one that would, return -ECANCELED. From
 * any thread and from signal handlers, also while another thread lets it leave, or after that. */
GEB_API void geb_cancel(struct geb_producer *producer);

/* CLOCK_MONOTONIC in nanoseconds, for deadlines: geb_now() + 5000000 is in 5 ms. */
GEB_API uint64_t geb_now(void);

/* ---- what can be seen ------------------------------------------------------------------------ */

struct geb_latency {
    uint32_t sampled_1_in;
    uint64_t count, p50_ns, p99_ns, p999_ns, max_ns;
};

/* All counters since the bus was created. accepted = delivered + dropped + expired + cancelled +
 * unhandled + dead_lettered + pending + lost_in_crash at any quiet moment, and no column is
 * computed from the others. */
struct geb_metrics {
    size_t size; /* of this struct, set by the caller */
    uint64_t accepted, delivered, dropped, expired, cancelled, unhandled, dead_lettered, pending,
        lost_in_crash;
    uint64_t published, processed,
        errors;          /* accepted; delivered + dead_lettered; handlers that failed */
    uint64_t used, peak; /* positions in use now, and the most at the looks of each 100 ms */
    uint64_t revoked, returned, quarantined, bad_bytes;
    uint64_t redelivered, restarts, sleeps;
    uint64_t standby;           /* 1: a standby waits for the consumer's role */
    struct geb_latency latency; /* from publish to handler */
};
#define GEB_METRICS_INIT                   \
    {                                      \
        .size = sizeof(struct geb_metrics) \
    }

/* Reads the metrics from the consumer's side. A few microseconds and more for each event that
 * waits. */
GEB_API int geb_metrics(struct geb_bus *bus, struct geb_metrics *metrics);

struct geb_watch;

/* Maps a bus read-only. Needs nobody's cooperation and slows nobody. -ENOENT, -EACCES, -EPROTO,
 * -EBADMSG. */
GEB_API int geb_watch(struct geb_watch **watch, const char *name);
GEB_API int geb_unwatch(struct geb_watch *watch);
GEB_API int geb_watch_metrics(struct geb_watch *watch, struct geb_metrics *metrics);

struct geb_bus_info {
    size_t size; /* of this struct, set by the caller */
    char path[256];
    char id[33]; /* 128 bits in hexadecimal */
    uint64_t epoch, created_ns, age_ns, bytes, slab_bytes, patience_ns;
    uint32_t capacity, max_event, producers, topics, page_bytes, creator_pid, creator_uid;
    enum geb_policy policy;
    bool exclusive, closed;
    int32_t node; /* on which NUMA node the ring's first page lies; -1: the kernel does not say */
};
GEB_API int geb_watch_info(struct geb_watch *watch, struct geb_bus_info *info);

struct geb_participant {
    uint32_t slot; /* 0: the consumer */
    uint32_t pid;
    char name[48];
    /* "running", "waiting" (for events), "blocked" (the bus is full), "lagging" (the consumer,
     * while more than three quarters of the bus are in use), "stopped", "dead"; static text.
     * Stopped is what /proc says of the pid: for processes only whose maps there we may read, and
     * which map this bus; others look as they did before they were stopped. */
    const char *state;
    uint64_t accepted, bytes, full, blocked_ns, revoked, dropped;
};
/* Fills up to max rows with those who take part, the consumer first if there is one. Returns the
 * number of rows. */
GEB_API int geb_watch_participants(struct geb_watch *watch, struct geb_participant *rows,
                                   uint32_t max);

struct geb_topic_row {
    geb_topic_id topic;
    char name[48];
    char schema[48];
    uint64_t delivered, unhandled, dropped; /* dropped: not exact when producers were killed */
};
GEB_API int geb_watch_topics(struct geb_watch *watch, struct geb_topic_row *rows, uint32_t max);

struct geb_handler_row {
    char name[48];
    geb_topic_id topic; /* UINT32_MAX: the default handler */
    uint64_t calls, errors;
};
GEB_API int geb_watch_handlers(struct geb_watch *watch, struct geb_handler_row *rows, uint32_t max);

struct geb_error_row {
    int code;
    char text[96];
    uint64_t count, first_ns, last_ns;
};
GEB_API int geb_watch_errors(struct geb_watch *watch, struct geb_error_row *rows, uint32_t max);

struct geb_slab_row {
    uint32_t node;
    uint32_t block_bytes; /* 0: whole chunks that nobody owns */
    uint64_t blocks, free;
};
GEB_API int geb_watch_slabs(struct geb_watch *watch, struct geb_slab_row *rows, uint32_t max);

/* ---- what the dead left ---------------------------------------------------------------------- */

/* What a running consumer takes back all the time, and nobody does while there is none. Counts of
 * slots of dead producers, of 64 KiB chunks of memory whose owner is gone, and of cells that are
 * quarantined: those that came back, and those that must wait. A chunk waits until all that was in
 * the ring when it was found is taken; a cell, for a producer that lives and may still write to it;
 * a slot, for the consumer to finish with what its dead owner dropped, or for a stranger's lock. */
struct geb_repair {
    size_t size; /* of this struct, set by the caller */
    uint32_t slots, slots_left, chunks, chunks_left, cells, cells_left;
    uint32_t strangers;  /* roles and slots that a process locks which may only read */
    bool consumer_lives; /* cells are its alone to take back */
    bool consumer_died;  /* the next one settles what it had in hand */
};

#define GEB_REPAIR_INIT                   \
    {                                     \
        .size = sizeof(struct geb_repair) \
    }

/* What there is to take back now: the *_left. */
GEB_API int geb_watch_repair(struct geb_watch *watch, struct geb_repair *repair);

/* Takes back what can be, beside anybody who takes part, or nobody. Where there is no consumer it
 * holds the role for a moment; one that starts just then waits for it. Touches no event, nor what a
 * dead consumer had in hand. May be killed, and repeated. -EBUSY: another repair is at work. */
GEB_API int geb_repair(const char *name, struct geb_repair *repair);

/* geb_remove of a bus in which no event waits; -EBUSY if one does. */
GEB_API int geb_remove_unused(const char *name);

/* ---- the tap: every event, copied out, by a watch that takes part in nothing ------------------
 *
 * A watch can have one tap. It shows events in the order of the bus, each at most once and whole,
 * batches event by event, while producers, droppers and a consumer go on, or stand still, or are
 * dead: nobody waits for it, and it writes nothing. So it can miss events, and says how many.
 *
 *     geb_tap(watch, GEB_TAP_NOW);
 *     while ((rc = geb_tap_wait(watch, &event, GEB_FOREVER)) == 1)
 *         print(&event);
 *
 * What it can miss: an event whose cell was used again (the ring has twice the cells of its
 * capacity, and a producer that fills a bus of 65,536 events needs about 2 ms for them); an event
 * over 32 bytes whose block was used again, which may come sooner; and an event that was committed
 * so late that the tap had gone on. An overtaken tap goes on a quarter of the ring before the next
 * overtaking. A position that is claimed and not committed holds the tap up for 10 ms of polling
 * (or the patience of the bus, if that is longer), and only if a committed one waits behind it.
 *
 * It costs producers what the reading of their lines costs: about 3 % of their rate while it
 * keeps up. For that it looks for new events once in 40 µs at most while they stream (more often
 * on buses of less than 20,000 events, whose ring would be gone by then). */
enum geb_tap_start {
    GEB_TAP_NOW,    /* the events that are committed from now on */
    GEB_TAP_OLDEST, /* and before them all that the ring still has: the last 2 × capacity - 1
                     * positions at most, also those that were handled or dropped already */
};

/* Begins, or begins anew. Copies of events go to memory that the watch owns. -EINVAL, -ENOMEM. */
GEB_API int geb_tap(struct geb_watch *watch, enum geb_tap_start start);

/* 1: *event is the next one; data is valid until the next call for this watch. redelivered and
 * attempt are those of an event just published: what the consumer does with it is not seen. 0:
 * nothing now; what was committed in the last 40 µs may come with a later call. Never blocks.
 * -EINVAL: no tap. -ENOMEM: no room for this event's copy; it comes again with the next call. */
GEB_API int geb_tap_next(struct geb_watch *watch, struct geb_event *event);

/* Waits for the next event: 1, or -ETIMEDOUT (deadline 0: at once, but what was committed before
 * the call is found unless an uncommitted position holds it up). It naps, 0.05 to 1 ms: a read-only
 * map cannot ask producers to wake it, so this polls, and an event can come that much later. */
GEB_API int geb_tap_wait(struct geb_watch *watch, struct geb_event *event, uint64_t deadline_ns);

struct geb_tap_counts {
    size_t size;     /* of this struct, set by the caller */
    uint64_t seen;   /* events given out */
    uint64_t missed; /* events that were committed and not given: gaps in the producers' numbers */
    uint64_t
        overtaken;   /* positions that were, or were about to be, used again before the tap came */
    uint64_t gone;   /* cells whose payload's block was used again */
    uint64_t passed; /* positions that were not committed when the patience was over */
    uint64_t bad;    /* cells that no honest producer wrote */
    uint64_t behind; /* positions that the tap has still to look at */
    uint64_t first_overtaken, last_overtaken; /* these positions; 0: none */
};
#define GEB_TAP_COUNTS_INIT                   \
    {                                         \
        .size = sizeof(struct geb_tap_counts) \
    }

/* Since geb_tap. Between two moments in which nobody publishes, and behind is 0, seen + missed is
 * the number of events accepted; until behind is 0, missed lacks what no later event has shown yet.
 * Reads a line of each producer, so do not call it for every event. */
GEB_API int geb_tap_counts(struct geb_watch *watch, struct geb_tap_counts *counts);

struct geb_tap_row {
    uint32_t producer;                  /* slot */
    uint64_t last;                      /* number of its last event that was given or missed */
    uint64_t seen, missed;              /* as in geb_tap_counts, which brings them up to date */
    uint64_t first_missed, last_missed; /* numbers of these events; 0: none */
};
/* Fills up to max rows with the producers of which the tap knows. Returns the number of rows. */
GEB_API int geb_tap_producers(struct geb_watch *watch, struct geb_tap_row *rows, uint32_t max);

/* "0.1.0" */
GEB_API const char *geb_version(void);

#ifdef __cplusplus
}
#endif

#endif
