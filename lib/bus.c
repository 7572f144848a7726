#include "lib/internal.h"
#include "shmring/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define CLOSE_BATCH     64u
#define VAIN_PATIENCES  16u
#define SPIN_DEFAULT_NS UINT64_C(50000)
#define REPAIR_WAITS    1000 /* milliseconds: a repair takes few, unless it is stopped */

/* ---- opening --------------------------------------------------------------------------------- */

static int translate(const struct geb_config *config, struct shr_config *to)
{
    shr_config_default(to);
    if (config == NULL)
        return 0;
    if (config->size != sizeof(*config))
        return gebi_fail(-EINVAL, "geb_config.size is %zu, not %zu: start from GEB_CONFIG_INIT",
                         config->size, sizeof(*config));
    for (size_t i = 0; i < sizeof(config->reserved) / sizeof(config->reserved[0]); i++) {
        if (config->reserved[i] != 0)
            return gebi_fail(-EINVAL, "geb_config.reserved is not 0: start from GEB_CONFIG_INIT");
    }
    uint32_t capacity = config->capacity;
    if (capacity > SHR_CAPACITY_MIN && capacity < SHR_CAPACITY_MAX &&
        (capacity & (capacity - 1)) != 0) {
        uint32_t below = UINT32_C(1) << (31 - __builtin_clz(capacity));
        return gebi_fail(-EDOM, "capacity %u is not a power of two: use %u or %u", capacity, below,
                         below * 2);
    }
    to->policy = (uint32_t)config->policy;
    to->exclusive = config->exclusive;
    if (config->exclusive)
        to->producers = 1;
    if (config->capacity != 0)
        to->capacity = config->capacity;
    if (config->producers != 0)
        to->producers = config->producers;
    else if (to->producers > to->capacity)
        to->producers = to->capacity;
    if (config->slab_bytes != 0)
        to->slab_bytes = config->slab_bytes == GEB_NO_SLABS ? 0 : config->slab_bytes;
    if (config->max_event != 0)
        to->max_event = config->max_event;
    else if (to->slab_bytes == 0)
        to->max_event = SHR_INLINE_BYTES;
    else if (to->max_event > to->slab_bytes / 2)
        to->max_event = (uint32_t)(to->slab_bytes / 2);
    if (to->shelf_entries > to->capacity)
        to->shelf_entries = to->capacity;
    if (config->topics != 0)
        to->topics = config->topics;
    if (config->patience_ns != 0)
        to->patience_ns = config->patience_ns;
    if (config->sample_shift != 0)
        to->sample_shift = config->sample_shift;
    if (config->mode != 0)
        to->mode = config->mode;
    return 0;
}

int gebi_path(const char *name, bool make_dir, char path[SHR_PATH_BYTES])
{
    int rc = shr_segment_path(name, make_dir, path);
    if (rc == -EINVAL)
        return gebi_fail(rc,
                         "\"%s\" is no name of a bus: 1 to 63 of A-Z a-z 0-9 . _ -, the first of "
                         "them no . or -; or a path",
                         name != NULL ? name : "(null)");
    if (rc == -EACCES) /* of a path, and in GEB_DIR, nobody looks at the directory */
        return gebi_fail(rc,
                         "/dev/shm/geb-%u must be a directory of yours to which nobody else may "
                         "write (geb doctor --fix); or set GEB_DIR",
                         (unsigned)geteuid());
    if (rc == -EROFS || rc == -ENOSPC) {
        snprintf(path, SHR_PATH_BYTES, "/dev/shm/geb-%u", (unsigned)geteuid());
        return gebi_fail_file(rc, "cannot make ", path);
    }
    return rc < 0 ? gebi_fail(rc, "the directory of the bus %s: %s; or set GEB_DIR", name,
                              geb_strerror(rc))
                  : 0;
}

static int lock_is_taken(struct shr_map *map, uint64_t byte)
{
    if (shr_lock_held(map, byte) == 0)
        return gebi_fail(-EBUSY, GEBI_STRANGER, map->path, map->path);
    if (byte == SHR_LOCK_STANDBY)
        return gebi_fail(-EBUSY, "%s has its standby already", map->path);
    if (shr_lock_held(map, SHR_LOCK_SWEEP) == 1)
        return gebi_fail(-EBUSY, "%s is being repaired (geb doctor --fix)", map->path);
    return gebi_fail(-EBUSY, "%s has its consumer: process %u", map->path,
                     shr_load32_relaxed(&map->peers[SHR_CONSUMER_SLOT].pid));
}

static int take_lock(struct geb_bus *bus, uint64_t byte, struct shr_lock *lock)
{
    struct shr_map *map = &bus->map;
    const struct timespec while_it_repairs = {.tv_nsec = 1000000};
    int rc = shr_lock_take(map, byte, lock);
    for (int i = 0; rc == -EBUSY && byte == SHR_CONSUMER_SLOT && i < REPAIR_WAITS &&
                    shr_lock_held(map, SHR_LOCK_SWEEP) == 1;
         i++) {
        nanosleep(&while_it_repairs, NULL);
        rc = shr_lock_take(map, byte, lock);
    }
    if (rc == -EBUSY) /* once more: the repair may have ended between these two looks */
        rc = shr_lock_take(map, byte, lock);
    if (rc < 0 && rc != -EBUSY)
        return gebi_fail(rc, "cannot lock %s: %s", map->path, strerror(-rc));
    /* A remover holds all locks as the name goes, and so does one that came too late to it. */
    if (!shr_segment_is_named(map)) {
        shr_lock_drop(lock);
        return gebi_fail(-ENOENT, "%s was removed just now", map->path);
    }
    return rc == -EBUSY ? lock_is_taken(map, byte) : 0;
}

/* What needs no role. */
static void prepare(struct geb_bus *bus)
{
    bus->fence = shr_wait_register() != 0 || bus->map.geo.wakers_fence != 0;
    bus->sweeper.scan = true;
    bus->context.bus = bus;
    bus->spin_ns = SPIN_DEFAULT_NS;
    shr_store_release(&bus->life.magic, GEBI_BUS_MAGIC);
}

int gebi_take_role(struct geb_bus *bus)
{
    int rc = take_lock(bus, SHR_CONSUMER_SLOT, &bus->lock);
    if (rc < 0)
        return rc;
    struct shr_map *map = &bus->map;
    struct shr_peer *me = &map->peers[SHR_CONSUMER_SLOT];
    if (shr_load32_relaxed(&me->state) == SHR_PEER_USED)
        shr_store_relaxed(&map->tally->restarts, shr_load_relaxed(&map->tally->restarts) + 1);
    shr_peer_enter(map, SHR_CONSUMER_SLOT, "consumer");
    shr_store32_release(&map->hot->closed, 0);
    for (uint32_t i = 0; i < map->geo.region[SHR_REGION_HANDLERS].entries; i++)
        shr_store_relaxed(&map->handlers[i].state, 0);
    shr_consumer_init(&bus->consumer, map);
    bus->consumer.fence = bus->fence;
    return 0;
}

static void destroy(struct geb_bus *bus)
{
    free(bus->flat);
    free(bus->first);
    free(bus->topic_text);
    shr_lock_drop(&bus->lock);
    shr_lock_drop(&bus->standby_lock);
    shr_segment_detach(&bus->map);
    gebi_handle_end(bus, sizeof(*bus));
}

/* "32.0 GiB": whole digits and one more, rounded down. */
static char *memory_text(char text[32], uint64_t bytes)
{
    const bool large = bytes >> 30 != 0;
    uint64_t tenths = (bytes >> (large ? 20 : 10)) * 10 >> 10;
    snprintf(text, 32, "%llu.%llu %s", (unsigned long long)(tenths / 10),
             (unsigned long long)(tenths % 10), large ? "GiB" : "MiB");
    return text;
}

/* ftruncate beyond the limit of the size of files would end the process by SIGXFSZ. */
static int check_limit(const struct shr_config *config)
{
    char needed[32], room[32];
    struct rlimit files;
    uint64_t bytes;
    if (shr_segment_size(config, &bytes, NULL) < 0 || getrlimit(RLIMIT_FSIZE, &files) != 0 ||
        bytes <= files.rlim_cur)
        return 0;
    return gebi_fail(-ENOSPC,
                     "the bus needs %s, this process may make files of %s: "
                     "raise that (ulimit -f), or make the bus smaller",
                     memory_text(needed, bytes), memory_text(room, files.rlim_cur));
}

static int create_failed(const char *path, const struct shr_config *config, int rc)
{
    char needed[32], room[32];
    uint64_t bytes = 0, available = shr_memory_available("");
    if (rc == -ENOMEM && shr_segment_size(config, &bytes, NULL) == 0 && bytes > available)
        return gebi_fail(rc,
                         "the bus needs %s, %s of memory are available: "
                         "use fewer or smaller slabs, or a smaller capacity",
                         memory_text(needed, bytes), memory_text(room, available));
    return gebi_fail_file(rc, "cannot create ", path);
}

/* Attaches or creates; both may happen when others create and remove at the same time. */
static int reach(struct geb_bus *bus, const char *path, const struct shr_config *config)
{
    for (;;) {
        int rc = shr_segment_attach(&bus->map, path, true);
        if (rc == 0 && config != NULL) {
            const char *why = "";
            rc = shr_segment_matches(&bus->map, config, &why);
            if (rc < 0)
                return gebi_fail(rc, "%s exists with another %s", path, why);
        }
        if (rc != -ENOENT || config == NULL)
            return rc < 0 ? gebi_fail_file(rc, "", path) : 0;
        rc = check_limit(config);
        if (rc < 0)
            return rc;
        rc = shr_segment_create(&bus->map, path, config);
        if (rc == 0)
            return 0;
        if (rc != -EEXIST)
            return create_failed(path, config, rc);
    }
}

/* config: of a bus that may be created; NULL: it must exist. */
static int open_bus(struct geb_bus **result, const char *name, const struct shr_config *config,
                    bool standby)
{
    char path[SHR_PATH_BYTES];
    int rc = gebi_path(name, config != NULL, path);
    if (rc < 0)
        return rc;
    struct geb_bus *bus = gebi_handle_alloc(sizeof(*bus));
    if (bus == NULL)
        return gebi_fail(-ENOMEM, "no memory for a bus handle");
    while ((rc = reach(bus, path, config)) == 0) {
        prepare(bus);
        bus->standing_by = standby;
        rc = standby ? take_lock(bus, SHR_LOCK_STANDBY, &bus->standby_lock) : gebi_take_role(bus);
        if (rc != -ENOENT || config == NULL)
            break;
        shr_segment_detach(&bus->map); /* removed between the two: there is none, so make one */
    }
    if (rc < 0) {
        destroy(bus);
        return rc;
    }
    *result = bus;
    return 0;
}

int geb_create(struct geb_bus **bus, const char *name, const struct geb_config *config)
{
    struct shr_config chosen;
    const char *why = "";
    uint64_t bytes;
    if (bus == NULL)
        return gebi_fail(-EINVAL, "the result pointer is NULL");
    *bus = NULL;
    int rc = translate(config, &chosen);
    if (rc < 0)
        return rc;
    rc = shr_segment_size(&chosen, &bytes, &why);
    if (rc < 0)
        return gebi_fail(rc, "%s", why);
    return open_bus(bus, name, &chosen, false);
}

int geb_open(struct geb_bus **bus, const char *name)
{
    if (bus == NULL)
        return gebi_fail(-EINVAL, "the result pointer is NULL");
    *bus = NULL;
    return open_bus(bus, name, NULL, false);
}

int geb_stand_by(struct geb_bus **bus, const char *name)
{
    if (bus == NULL)
        return gebi_fail(-EINVAL, "the result pointer is NULL");
    *bus = NULL;
    int rc = open_bus(bus, name, NULL, true);
    if (rc == 0)
        gebi_warm(*bus);
    return rc;
}

static void give_up_role(struct geb_bus *bus)
{
    shr_flush(&bus->consumer);
    /* edge W4 release: closed before the lock goes, so that nobody takes an orderly end for a
     * death. */
    shr_store32_release(&bus->map.hot->closed, 1);
    shr_peer_exit(&bus->map, SHR_CONSUMER_SLOT);
    shr_lock_drop(&bus->lock);
    shr_gate_wake(&bus->map.hot->space);
    shr_gate_wake(&bus->map.hot->freed);
}

/* Handles what waits. Uncommitted events may hold it up for a patience or two of looking; when it
 * takes many, there is nothing to come. A look counts a quarter of a patience at most, for we may
 * be off the processor. */
static int drain_until(struct geb_bus *bus, uint64_t deadline_ns)
{
    uint64_t patience_ns = bus->map.geo.patience_ns;
    uint64_t looked_ns = geb_now();
    uint64_t vain_ns = 0;
    while (!shr_is_idle(&bus->consumer)) {
        uint64_t now_ns = geb_now();
        uint64_t passed_ns = now_ns - looked_ns;
        if (now_ns >= deadline_ns)
            return gebi_fail(-ETIMEDOUT, "events were left in %s", bus->map.path);
        if (vain_ns > VAIN_PATIENCES * patience_ns)
            return gebi_fail(-EBADMSG, "%s is damaged: it is full of nothing", bus->map.path);
        int rc = geb_dispatch(bus, CLOSE_BATCH);
        if (rc < 0)
            return rc;
        vain_ns += passed_ns < patience_ns / 4 ? passed_ns : patience_ns / 4;
        looked_ns = now_ns;
        if (rc > 0)
            vain_ns = 0;
    }
    return 0;
}

int geb_close(struct geb_bus *bus, uint64_t deadline_ns)
{
    if (bus == NULL)
        return 0;
    int rc = gebi_check_outside(bus);
    if (rc < 0)
        return rc;
    bool has_role = !bus->standing_by;
    if (has_role && deadline_ns != 0)
        rc = drain_until(bus, deadline_ns);
    gebi_handle_retire(&bus->life); /* first: geb_stop may be called at any moment */
    if (has_role)
        give_up_role(bus);
    destroy(bus);
    return rc;
}

/* ---- removing -------------------------------------------------------------------------------- */

/* Says who takes part in a bus. */
static int name_user(struct shr_map *map)
{
    for (uint32_t slot = 0; slot <= map->geo.producer_cnt; slot++) {
        if (shr_lock_held(map, slot) != 1 ||
            (slot == SHR_CONSUMER_SLOT && shr_lock_held(map, SHR_LOCK_SWEEP) == 1))
            continue;
        char who[SHR_NAME_BYTES];
        shr_text_load(map->peers[slot].name, SHR_NAME_BYTES / 8, who);
        return gebi_fail(-EBUSY, "%s is in use by process %u (%s)", map->path,
                         shr_load32_relaxed(&map->peers[slot].pid), who);
    }
    if (shr_lock_held(map, SHR_LOCK_SWEEP) == 1)
        return gebi_fail(-EBUSY, "%s is being repaired (geb doctor --fix)", map->path);
    if (shr_lock_held(map, SHR_LOCK_STANDBY) == 1)
        return gebi_fail(-EBUSY, "%s is in use by a standby", map->path);
    return gebi_fail(-EBUSY, GEBI_STRANGER, map->path, map->path);
}

/* With all locks in our hands nobody can come in while we count, and the name goes. */
static int count_waiting(struct shr_map *map)
{
    struct shr_account account;
    if (shr_account(map, &account, NULL) < 0)
        return gebi_fail(-ENOMEM, "no memory for the account");
    if (account.pending == 0)
        return 0;
    return gebi_fail(-EBUSY, "%llu events wait in %s", (unsigned long long)account.pending,
                     map->path);
}

static int remove_bus(const char *name, bool unused_only)
{
    char path[SHR_PATH_BYTES];
    struct shr_map map = {0};
    struct shr_lock lock = {0};
    int rc = gebi_path(name, false, path);
    if (rc < 0)
        return rc;
    rc = shr_segment_attach(&map, path, true);
    if (rc < 0)
        return gebi_fail_file(rc, "", path);
    rc = shr_lock_take_all(&map, &lock);
    if (rc == -EBUSY)
        rc = name_user(&map);
    else if (rc < 0)
        rc = gebi_fail(rc, "cannot lock %s: %s", path, strerror(-rc));
    else if (!shr_segment_is_named(&map))
        rc = gebi_fail(-ENOENT, "%s was removed just now", path);
    else if ((!unused_only || (rc = count_waiting(&map)) == 0) && unlink(path) != 0)
        rc = gebi_fail(-errno, "cannot remove %s: %s", path, strerror(errno));
    shr_lock_drop(&lock);
    shr_segment_detach(&map);
    return rc;
}

int geb_remove(const char *name)
{
    return remove_bus(name, false);
}

int geb_remove_unused(const char *name)
{
    return remove_bus(name, true);
}
