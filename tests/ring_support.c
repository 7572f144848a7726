#include "tests/ring_support.h"

#include "shmring/peer.h"
#include "shmring/slab.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

struct shr_map ring_map;
struct shr_ring ring;
uint64_t ring_polls;
uint64_t ring_poll_ns;

static struct shr_heap heaps[8];
static uint64_t clock_ns;

static void open_config(const struct shr_config *config)
{
    char path[SHR_PATH_BYTES];
    assert_int_equal(shr_segment_create(&ring_map, support_path(path), config), 0);
    shr_ring_init(&ring, &ring_map);
    memset(heaps, 0, sizeof(heaps));
    ring_polls = 0;
    ring_poll_ns = 1000;
    clock_ns = 1000000000;
}

void ring_open(uint32_t policy, uint32_t capacity, uint32_t chunks)
{
    struct shr_config config = support_tiny_config();
    config.policy = policy;
    config.capacity = capacity;
    config.producers = 4;
    config.slab_bytes = (uint64_t)chunks * SHR_CHUNK_BYTES;
    config.max_event = chunks != 0 ? 4096 : SHR_INLINE_BYTES;
    open_config(&config);
}

void ring_open_exclusive(uint32_t policy, uint32_t capacity)
{
    struct shr_config config = support_tiny_config();
    config.policy = policy;
    config.capacity = capacity;
    config.producers = 1;
    config.exclusive = 1;
    open_config(&config);
}

int ring_close(void **state)
{
    char path[SHR_PATH_BYTES];
    (void)state;
    if (ring_map.base == NULL)
        return 0;
    for (uint32_t slot = 0; slot < sizeof(heaps) / sizeof(heaps[0]); slot++) {
        for (uint32_t i = 0; i <= SHR_CLASS_RUN; i++)
            free(heaps[slot].cls[i].chunk);
    }
    memcpy(path, ring_map.path, sizeof(path));
    shr_segment_detach(&ring_map);
    unlink(path);
    return 0;
}

void ring_start_at(uint64_t pos)
{
    shr_store_relaxed(&ring_map.hot->head, pos);
    shr_store_relaxed(&ring_map.hot->tail, pos);
    shr_store_relaxed(&ring_map.hot->done, pos);
    for (uint32_t i = 0; i < ring.cell_cnt; i++)
        ring_set_state(pos + i, shr_state(pos + i - ring.cell_cnt, SHR_TAG_VOID));
}

void ring_compose(uint64_t words[SHR_CELL_WORDS], uint32_t slot, uint64_t number)
{
    memset(words, 0, SHR_CELL_WORDS * sizeof(words[0]));
    words[SHR_WORD_META] = shr_meta(1, slot, 16, 0);
    words[SHR_WORD_NUMBER] = (uint32_t)number;
    words[SHR_WORD_BODY] = slot;
    words[SHR_WORD_BODY + 1] = number;
}

uint64_t ring_claim(void)
{
    return shr_fetch_add_relaxed(&ring_map.hot->head, 1);
}

uint64_t ring_commit_words(const uint64_t words[SHR_CELL_WORDS])
{
    uint64_t pos = ring_claim();
    struct shr_cell *cell = shr_cell_at(&ring, pos);
    for (uint32_t i = 0; i < SHR_CELL_WORDS; i++)
        shr_store_relaxed(&cell->word[i], words[i]);
    ring_set_state(pos, shr_state(pos, SHR_TAG_READY));
    return pos;
}

uint64_t ring_commit(uint32_t slot, uint64_t number)
{
    uint64_t words[SHR_CELL_WORDS];
    ring_compose(words, slot, number);
    shr_store_relaxed(&ring_map.peers[slot].published, number);
    return ring_commit_words(words);
}

uint64_t ring_block(uint32_t slot, uint32_t bytes)
{
    uint64_t ref = 0;
    if (heaps[slot].map == NULL) {
        shr_peer_enter(&ring_map, slot, "owner");
        uint64_t epoch = shr_load_relaxed(&ring_map.peers[slot].epoch);
        assert_int_equal(shr_heap_init(&heaps[slot], &ring_map, shr_owner(slot, epoch)), 0);
    }
    assert_int_equal(shr_alloc(&heaps[slot], bytes, &ref), 0);
    memset(shr_block_data(&ring_map, ref), (int)slot, bytes);
    return ref;
}

void ring_compose_slab(uint64_t words[SHR_CELL_WORDS], uint32_t slot, uint64_t number, uint64_t ref,
                       uint32_t bytes, uint32_t events)
{
    uint32_t flags = SHR_FLAG_SLAB | (events != 0 ? SHR_FLAG_BATCH : 0);
    ring_compose(words, slot, number);
    words[SHR_WORD_META] = shr_meta(1, slot, 0, flags);
    words[SHR_WORD_BODY] = ref;
    words[SHR_WORD_BODY + 1] = (uint64_t)events << 32 | bytes;
}

uint64_t ring_state(uint64_t pos)
{
    return shr_load_relaxed(&shr_cell_at(&ring, pos)->state);
}

void ring_set_state(uint64_t pos, uint64_t state)
{
    shr_store_relaxed(&shr_cell_at(&ring, pos)->state, state);
}

uint64_t ring_clock(void)
{
    ring_polls++;
    clock_ns += ring_poll_ns;
    return clock_ns;
}
