#include "tests/slab_support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct shr_map slab_map;
struct shr_lock slab_lock[5];

void slab_open(uint32_t chunks, uint32_t policy)
{
    struct shr_config config = support_tiny_config();
    char path[SHR_PATH_BYTES];
    config.policy = policy;
    config.capacity = 64;
    config.producers = 4;
    config.slab_bytes = (uint64_t)chunks * CHUNK;
    config.max_event = chunks * CHUNK / 2;
    assert_int_equal(shr_segment_create(&slab_map, support_path(path), &config), 0);
    assert_int_equal(slab_map.geo.chunk_cnt, chunks);
    shr_store_relaxed(&slab_map.hot->head, 100);
}

int slab_close(void **state)
{
    char path[SHR_PATH_BYTES];
    (void)state;
    memcpy(path, slab_map.path, sizeof(path));
    for (uint32_t slot = 0; slot < 5; slot++)
        shr_lock_drop(&slab_lock[slot]);
    shr_segment_detach(&slab_map);
    unlink(path);
    return 0;
}

/* No cmocka in these: a child calls them too. */
void slab_enter(struct shr_map *m, struct shr_heap *heap, uint32_t slot)
{
    shr_peer_enter(m, slot, "owner");
    uint64_t epoch = shr_load_relaxed(&m->peers[slot].epoch);
    if (shr_heap_init(heap, m, shr_owner(slot, epoch)) != 0)
        abort();
}

void slab_join(struct shr_map *m, struct shr_heap *heap, uint32_t slot)
{
    if (shr_lock_take(m, slot, &slab_lock[slot]) != 0)
        abort();
    slab_enter(m, heap, slot);
}

void slab_own_idle(struct shr_map *m, struct shr_heap *heap, uint32_t chunks)
{
    uint64_t ref[8];
    for (uint32_t i = 0; i < chunks; i++)
        if (shr_alloc(heap, CHUNK, &ref[i]) != 0)
            abort();
    for (uint32_t i = 0; i < chunks; i++)
        shr_block_free(m, ref[i]);
}

uint64_t slab_must_alloc(struct shr_heap *heap, uint32_t bytes)
{
    uint64_t ref = 0;
    assert_int_equal(shr_alloc(heap, bytes, &ref), 0);
    assert_true(shr_block_valid(heap->map, ref, bytes));
    return ref;
}

uint32_t slab_pool_count(void)
{
    uint32_t cnt = 0;
    for (uint32_t i = 0; i < slab_map.geo.chunk_cnt; i++)
        cnt += shr_load_relaxed(&slab_map.owners[i]) == 0;
    return cnt;
}
