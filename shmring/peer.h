/* Participants: who uses the bus, and whether they live.
 *
 * A slot of the peer table is owned by whoever holds the write lock on byte `slot` of the
 * segment's file. The lock is an open-file-description lock, taken through a description of its
 * own; one PROT_NONE page of the file is mapped through that description (MADV_DONTFORK) and the
 * descriptor is closed at once. So the lock lives exactly as long as the address space that can
 * write to the segment: it survives closefrom and daemonising, is not inherited by fork, and
 * goes with exit, exec and SIGKILL, across pid namespaces and whatever becomes of the pid.
 * Stopped is not dead: the lock stays.
 *
 *              ┌────────── leave ──────────┐
 *              ▼                           │
 *     unlocked, FREE ──lock, join──▶ locked, USED ──the process died here──▶ unlocked, USED
 *              ▲                                                                  │
 *              └────────────── sweep (sweeper locks the slot meanwhile) ──────────┘
 *
 * Liveness is used to reclaim what a dead process held, and for the error "consumer gone".
 * Progress never waits for it.
 *
 * Threads: functions that take a struct shr_lock are called by one thread at a time for one
 * lock; everything else may be called by all threads and processes at once.
 */
#ifndef SHMRING_PEER_H
#define SHMRING_PEER_H

#include "shmring/segment.h"

/* Bytes of the file that are locked; those of the slots are 0 … SHR_PRODUCERS_MAX. */
#define SHR_LOCK_SWEEP    (UINT64_C(1) << 20)
#define SHR_LOCK_STANDBY  (UINT64_C(1) << 21)

#define SHR_CONSUMER_SLOT 0u

struct shr_lock {
    void *page; /* NULL: not held */
    uint64_t byte;
    uint64_t page_bytes;
};

/* Takes the lock on one byte without waiting. 0; -EBUSY: somebody holds it; -ENOMEM, -EMFILE,
 * -ESTALE … */
int shr_lock_take(struct shr_map *map, uint64_t byte, struct shr_lock *lock);
void shr_lock_drop(struct shr_lock *lock);

/* Takes every lock of the segment at once, for its end. -EBUSY: somebody takes part in it. */
int shr_lock_take_all(struct shr_map *map, struct shr_lock *lock);

/* 1: somebody holds the byte; 0: nobody; < 0: cannot tell. One system call, never waits. */
int shr_lock_held(struct shr_map *map, uint64_t byte);

/* Writes who we are into a slot whose lock we hold and which is swept: new epoch, name, pid,
 * USED. The event number in it goes on from its last owner's. */
void shr_peer_enter(struct shr_map *map, uint32_t slot, const char *name);

/* Marks the slot FREE; the lock is dropped by the caller afterwards. */
void shr_peer_exit(struct shr_map *map, uint32_t slot);

/* Number of the last event that a slot is known to have committed: its own count, or what a cell or
 * the consumer knows beyond it when its owner died between commit and count. */
uint64_t shr_peer_last_number(const struct shr_map *map, uint32_t slot);

/* Text into and out of the words of a shared struct; always zero-terminated, cut if longer. */
void shr_text_store(shr_a64 *word, uint32_t words, const char *text);
void shr_text_load(const shr_a64 *word, uint32_t words, char *text);

#endif
