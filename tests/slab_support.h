/* What the tests of the slabs share: a bus of a few chunks, and owners of chunks, who are handles
 * of the test or of its children.
 *
 *     slab_open(2, SHR_BLOCK);               // slab_map: two chunks, both in the pool
 *     slab_join(&slab_map, &heap, 1);        // slot 1 has an owner, which lives
 *     ref = slab_must_alloc(&heap, 100);
 *     assert_int_equal(slab_pool_count(), 1);
 */
#ifndef GEB_TESTS_SLAB_SUPPORT_H
#define GEB_TESTS_SLAB_SUPPORT_H

#include "shmring/peer.h"
#include "shmring/slab.h"
#include "tests/support.h"

#define CHUNK SHR_CHUNK_BYTES

extern struct shr_map slab_map;
extern struct shr_lock slab_lock[5]; /* of each slot: held by who lives in this process */

/* A bus of so many chunks, 64 cells and 4 producers, whose head is at 100. Fails the test if it
 * cannot. */
void slab_open(uint32_t chunks, uint32_t policy);

/* Teardown of a cmocka test: removes the bus, drops the locks. */
int slab_close(void **state);

/* Makes the heap of an owner in that slot. slab_join: which holds the lock of its slot, as each
 * process that lives does; so whoever asks finds it alive. Both also in a child. */
void slab_enter(struct shr_map *m, struct shr_heap *heap, uint32_t slot);
void slab_join(struct shr_map *m, struct shr_heap *heap, uint32_t slot);

/* Fails the test if there is none. */
uint64_t slab_must_alloc(struct shr_heap *heap, uint32_t bytes);

/* Gives the owner chunks of one block each, which it used once and whose blocks are free. */
void slab_own_idle(struct shr_map *m, struct shr_heap *heap, uint32_t chunks);

/* Chunks that nobody owns. */
uint32_t slab_pool_count(void);

#endif
