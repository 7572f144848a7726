#include "lib/internal.h"

#include <string.h>

#define SUB (1u << SHR_HIST_SUB_SHIFT)

uint32_t gebi_bucket(uint64_t units)
{
    if (units < SUB)
        return (uint32_t)units;
    uint32_t log = 63u - (uint32_t)__builtin_clzll(units);
    uint32_t sub = (uint32_t)(units >> (log - SHR_HIST_SUB_SHIFT)) & (SUB - 1);
    uint32_t bucket = ((log - SHR_HIST_SUB_SHIFT + 1) << SHR_HIST_SUB_SHIFT) + sub;
    return bucket < SHR_HIST_BUCKETS ? bucket : SHR_HIST_BUCKETS - 1;
}

uint64_t gebi_bucket_ns(uint32_t bucket)
{
    if (bucket < SUB)
        return (uint64_t)bucket * SHR_STAMP_NS;
    uint32_t shift = (bucket >> SHR_HIST_SUB_SHIFT) - 1;
    return ((uint64_t)(SUB + bucket % SUB) << shift) * SHR_STAMP_NS;
}

/* The least latency of the bucket in which the given share of all samples is reached. */
static uint64_t percentile(const uint64_t bucket[SHR_HIST_BUCKETS], uint64_t count,
                           uint64_t permille)
{
    uint64_t want = (count * permille + 999) / 1000;
    uint64_t seen = 0;
    for (uint32_t i = 0; i < SHR_HIST_BUCKETS; i++) {
        seen += bucket[i];
        if (seen >= want && seen != 0)
            return gebi_bucket_ns(i);
    }
    return 0;
}

static void read_latency(const struct shr_map *map, struct geb_latency *latency)
{
    uint64_t bucket[SHR_HIST_BUCKETS];
    const struct shr_histogram *hist = map->latency;
    *latency = (struct geb_latency){
        .sampled_1_in = 1u << map->geo.sample_shift,
        .max_ns = shr_load_relaxed(&hist->max) * SHR_STAMP_NS,
    };
    for (uint32_t i = 0; i < SHR_HIST_BUCKETS; i++) {
        bucket[i] = shr_load_relaxed(&hist->bucket[i]);
        latency->count += bucket[i];
    }
    latency->p50_ns = percentile(bucket, latency->count, 500);
    latency->p99_ns = percentile(bucket, latency->count, 990);
    latency->p999_ns = percentile(bucket, latency->count, 999);
}

int gebi_metrics(struct shr_map *map, struct geb_metrics *m)
{
    struct shr_account account;
    if (m == NULL)
        return gebi_fail(-EINVAL, "the result pointer is NULL");
    if (m->size != sizeof(*m))
        return gebi_fail(-EINVAL, "geb_metrics.size is not %zu: start from GEB_METRICS_INIT",
                         sizeof(*m));
    int rc = shr_account(map, &account, NULL);
    if (rc < 0)
        return gebi_fail(rc, "no memory for the account");
    *m = (struct geb_metrics){
        .size = sizeof(*m),
        .accepted = account.accepted,
        .delivered = account.col[SHR_COL_DELIVERED],
        .dropped = account.dropped,
        .expired = account.col[SHR_COL_EXPIRED],
        .cancelled = account.col[SHR_COL_CANCELLED],
        .unhandled = account.col[SHR_COL_UNHANDLED],
        .dead_lettered = account.col[SHR_COL_DEAD_LETTERED],
        .pending = account.pending,
        .lost_in_crash = account.col[SHR_COL_LOST_IN_CRASH],
        .used = account.used,
        .errors = shr_load_relaxed(&map->tally->errors),
        .peak = shr_load_relaxed(&map->tally->peak),
        .quarantined = shr_load_relaxed(&map->tally->quarantined),
        .redelivered = shr_load_relaxed(&map->tally->redelivered),
        .restarts = shr_load_relaxed(&map->tally->restarts),
        .sleeps = shr_load_relaxed(&map->tally->sleeps),
        .standby = shr_lock_held(map, SHR_LOCK_STANDBY) == 1,
    };
    m->published = m->accepted;
    m->processed = m->delivered + m->dead_lettered;
    for (uint32_t slot = 0; slot <= map->geo.producer_cnt; slot++) {
        const struct shr_peer *peer = &map->peers[slot];
        m->revoked += shr_load_relaxed(&peer->took_revoked);
        m->returned += shr_load_relaxed(&peer->took_returned);
        m->bad_bytes += shr_load_relaxed(&peer->bad_bytes);
    }
    if (m->used > m->peak)
        m->peak = m->used;
    read_latency(map, &m->latency);
    return 0;
}

int geb_metrics(struct geb_bus *bus, struct geb_metrics *metrics)
{
    int rc = gebi_check_bus(bus);
    return rc < 0 ? rc : gebi_metrics(&bus->map, metrics);
}
