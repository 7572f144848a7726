/* What the tests of the ring share: one real segment, cells and positions set by hand, events whose
 * payload says who published them, and a clock that counts polls.
 *
 *     ring_open(SHR_BLOCK, 8, 0);            // bus, ring: empty, at position ring_base()
 *     ring_commit(1, 7);                     // slot 1's event number 7, at head
 *     ring_claim();                          // a producer that claimed and did not commit
 */
#ifndef GEB_TESTS_RING_SUPPORT_H
#define GEB_TESTS_RING_SUPPORT_H

#include "shmring/ring.h"
#include "tests/support.h"

extern struct shr_map ring_map;
extern struct shr_ring ring;

/* A bus of this policy, 4 producers (1 if exclusive), 4 topics, and its ring. Fails the test if it
 * cannot. */
void ring_open(uint32_t policy, uint32_t capacity, uint32_t chunks);
void ring_open_exclusive(uint32_t policy, uint32_t capacity);

/* Teardown of a cmocka test: removes the bus. */
int ring_close(void **state);

/* Makes the ring one that has run until pos: all positions are pos, cells VOID one lap before. */
void ring_start_at(uint64_t pos);

/* The words of an event in line: the body is its slot and number. */
void ring_compose(uint64_t words[SHR_CELL_WORDS], uint32_t slot, uint64_t number);

/* Moves head over one position, as a claim does; commit also fills the cell and makes it READY, and
 * counts for the producer. Both return the position. */
uint64_t ring_claim(void);
uint64_t ring_commit(uint32_t slot, uint64_t number);
uint64_t ring_commit_words(const uint64_t words[SHR_CELL_WORDS]);

/* A block of slot's with `bytes` of a pattern; ring_words_slab composes the event of it (events 0:
 * not a batch). */
uint64_t ring_block(uint32_t slot, uint32_t bytes);
void ring_compose_slab(uint64_t words[SHR_CELL_WORDS], uint32_t slot, uint64_t number, uint64_t ref,
                       uint32_t bytes, uint32_t events);

uint64_t ring_state(uint64_t pos);
void ring_set_state(uint64_t pos, uint64_t state);

/* A clock for struct shr_taker: each look is one poll and takes ring_poll_ns. */
extern uint64_t ring_polls;
extern uint64_t ring_poll_ns;
uint64_t ring_clock(void);

#endif
