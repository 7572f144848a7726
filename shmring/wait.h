/* Sleeping and waking across processes, without a cost for those who do not sleep.
 *
 * A waker stores something (an event, a free position) and then looks whether anybody sleeps. A
 * sleeper says that it sleeps and then looks whether there is something. On its own each would
 * need a full fence between its store and its load. Here the sleeper pays for both: membarrier
 * makes every running thread of the registered processes pass a full fence, so the waker's side
 * is two plain instructions (edge W1 in docs/ordering.md). Where membarrier does not exist the
 * bus is marked, and wakers fence.
 *
 * Every sleep is bounded (SHR_SLEEP_MAX_NS): a waker that is killed between its store and its
 * wake costs the sleeper that much at most, and no event.
 */
#ifndef SHMRING_WAIT_H
#define SHMRING_WAIT_H

#include "shmring/layout.h"

#include <stdbool.h>

#define SHR_SLEEP_MAX_NS UINT64_C(10000000)

/* Registers this process as one that membarrier reaches. 0, or -ENOSYS: its wakers must fence. */
int shr_wait_register(void);

/* The heavy side of edge W1. False where the kernel has no membarrier. */
bool shr_wait_barrier(void);

/* A sleeper: ticket = shr_gate_enter; look again; then shr_gate_sleep(ticket), or nothing if
 * there was something. Many may wait at one gate. */
uint32_t shr_gate_enter(struct shr_gate *gate);

/* Takes the flag back where there is one sleeper only, so that nobody wakes it in vain. */
static inline void shr_gate_leave(struct shr_gate *gate)
{
    shr_store32_relaxed(&gate->waiting, 0);
}

/* Sleeps until woken or the absolute CLOCK_MONOTONIC time, SHR_SLEEP_MAX_NS at most. May return
 * early. */
void shr_gate_sleep(struct shr_gate *gate, uint32_t ticket, uint64_t until_ns);

/* Wakes all sleepers. Async-signal-safe. */
void shr_gate_wake(struct shr_gate *gate);

/* A waker, after its store: wakes if somebody waits. `fence` is the bus's wakers_fence, or true
 * if this process could not register. */
static inline void shr_gate_notify(struct shr_gate *gate, bool fence)
{
    if (SHR_UNLIKELY(fence))
        shr_fence_seq_cst();
    /* edge W1 release: our store comes before this load, by the sleeper's barrier. */
    shr_fence_compiler();
    if (SHR_UNLIKELY(shr_load32_relaxed(&gate->waiting) != 0))
        shr_gate_wake(gate);
}

#endif
