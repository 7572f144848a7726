/* Copies of a segment, to go back to, and what of it a recovery is about. */
#include "tests/crash_support.h"

#include <stdlib.h>
#include <string.h>

/* Everything before the payloads. */
static size_t image_bytes(const struct shr_map *map)
{
    return (size_t)(map->slabs - map->base);
}

void crash_image_save(struct crash_image *image, const struct crash_world *w, size_t k)
{
    size_t bytes = image_bytes(&w->map);
    image->k = k;
    image->bytes = realloc(image->bytes, bytes);
    image->ledger = realloc(image->ledger, sizeof(*image->ledger));
    if (image->bytes == NULL || image->ledger == NULL)
        abort();
    memcpy(image->bytes, w->map.base, bytes);
    *image->ledger = *w->ledger;
}

void crash_image_restore(const struct crash_image *image, struct crash_world *w,
                         struct shr_map *writable)
{
    memcpy(writable->base, image->bytes, image_bytes(writable));
    *w->ledger = *image->ledger;
}

void crash_image_free(struct crash_image *image)
{
    free(image->bytes);
    free(image->ledger);
    *image = (struct crash_image){0};
}

static void add(struct crash_digest *d, const char *what, uint32_t index, uint64_t value)
{
    if (d->cnt == CRASH_DIGEST_WORDS)
        abort();
    d->word[d->cnt++] = (struct crash_digest_word){.what = what, .index = index, .value = value};
}

static void add_cells(struct crash_digest *d, const struct shr_map *map)
{
    for (uint32_t i = 0; i < map->geo.cell_cnt; i++) {
        uint64_t state = shr_load_acquire(&map->cells[i].state);
        add(d, "cell", i, state);
        for (uint32_t k = 0; k < SHR_CELL_WORDS && shr_state_tag(state) == SHR_TAG_READY; k++)
            add(d, "body", i, shr_load_relaxed(&map->cells[i].word[k]));
    }
}

static void add_peers(struct crash_digest *d, const struct shr_map *map)
{
    for (uint32_t slot = 1; slot <= map->geo.producer_cnt; slot++) {
        const struct shr_peer *peer = &map->peers[slot];
        uint64_t hand = shr_load_relaxed(&peer->hand.pos);
        add(d, "peer", slot, shr_load32_relaxed(&peer->state));
        add(d, "busy", slot, shr_load_relaxed(&peer->busy));
        add(d, "published", slot, shr_load_relaxed(&peer->published));
        add(d, "waiting", slot, shr_load32_relaxed(&peer->waiting));
        add(d, "hand", slot, hand);
        add(d, "ref", slot, hand != 0 ? shr_load_relaxed(&peer->hand.ref) : 0);
    }
}

static void add_chunks(struct crash_digest *d, const struct shr_map *map)
{
    for (uint32_t i = 0; i < map->geo.chunk_cnt; i++) {
        add(d, "owner", i, shr_load_relaxed(&map->owners[i]));
        for (uint32_t k = 0; k < SHR_CHUNK_BLOCKS; k++) {
            uint64_t word = shr_load_relaxed(&map->chunks[i].block[k]);
            if (word != 0)
                add(d, "block", i * SHR_CHUNK_BLOCKS + k, word);
        }
    }
}

int crash_digest(struct crash_digest *d, const struct shr_map *map)
{
    struct shr_account account;
    d->cnt = 0;
    CRASH_EQUAL(shr_account(map, &account, NULL), 0);
    add(d, "head", 0, shr_load_relaxed(&map->hot->head));
    add(d, "tail", 0, shr_load_relaxed(&map->hot->tail));
    add(d, "done", 0, shr_load_relaxed(&map->hot->done));
    add_cells(d, map);
    add_peers(d, map);
    add_chunks(d, map);
    for (uint32_t i = 0; i < map->geo.topic_cnt; i++)
        add(d, "topic", i, shr_load_relaxed(&map->topics[i].state));
    for (uint32_t i = 0; i < SHR_COL_CNT; i++)
        add(d, "column", i, account.col[i]);
    add(d, "accepted", 0, account.accepted);
    add(d, "dropped", 0, account.dropped);
    add(d, "pending", 0, account.pending);
    return 0;
}

bool crash_digest_same(const struct crash_digest *a, const struct crash_digest *b)
{
    for (uint32_t i = 0; i < a->cnt && i < b->cnt; i++) {
        const struct crash_digest_word *x = &a->word[i], *y = &b->word[i];
        if (x->what != y->what || x->index != y->index || x->value != y->value)
            return false;
    }
    return a->cnt == b->cnt;
}

void crash_digest_explain(const struct crash_digest *a, const struct crash_digest *b)
{
    uint32_t lines = 0;
    for (uint32_t i = 0; i < a->cnt && i < b->cnt && lines < 8; i++) {
        const struct crash_digest_word *x = &a->word[i], *y = &b->word[i];
        if (x->what == y->what && x->index == y->index && x->value == y->value)
            continue;
        printf("    %s %u is %llx, and %s %u is %llx\n", x->what, x->index,
               (unsigned long long)x->value, y->what, y->index, (unsigned long long)y->value);
        lines++;
    }
}
