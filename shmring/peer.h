/* Participants: who uses the bus, and whether they live.
 *
 * A slot of the peer table is owned by whoever holds the write lock on byte `slot` of the
 * segment's file. The lock is an open-file-description lock, taken through a description of its
 * own; one PROT_NONE page of the file is mapped through that description (MADV_DONTFORK) and the
 * descriptor is closed at once. So the lock lives exactly as long as the address space that can
 * write to the segment: it survives closefrom and daemonising, is not inherited by fork, and
 * goes with exit, exec and SIGKILL, across pid namespaces and whatever becomes of the pid.
 * Stopped is not dead: the lock stays. What keeps the address space keeps the lock: a thread that
 * lives on when the main one has ended, a child of vfork until its exec, of clone with CLONE_VM.
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
#define SHR_LOCK_SWEEP    (UINT64_C(1) << 20) /* a repair from outside, beside slot 0 */
#define SHR_LOCK_STANDBY  (UINT64_C(1) << 21)

#define SHR_CONSUMER_SLOT 0u

struct shr_lock {
    void *page; /* NULL: not held, unless map is set */
    uint64_t byte;
    uint64_t page_bytes;
    struct shr_map *map; /* the lock is on the map's own description; see shr_lock_take_dead */
};

/* Takes the lock on one byte without waiting. 0; -EBUSY: somebody holds it; -ENOMEM, -EMFILE,
 * -ESTALE … */
int shr_lock_take(struct shr_map *map, uint64_t byte, struct shr_lock *lock);
void shr_lock_drop(struct shr_lock *lock);

/* Takes every lock of the segment at once, for its end. -EBUSY: somebody takes part in it. */
int shr_lock_take_all(struct shr_map *map, struct shr_lock *lock);

/* Takes the lock on the slot of a dead owner, to settle what it left; -EBUSY: somebody lives in it,
 * or settles it already. consumer: the caller has the consumer's role. Of those there is one, so it
 * takes a read lock, which keeps owners and other sweepers out, and which a stranger's read lock
 * cannot refuse. Where no new description can be had (no descriptor is free, the file is closed to
 * a user whom the process changed to), the lock is on the map's own: it then lasts longer than a
 * sweeper that dies in the sweep, if a child of its fork lives on with the descriptor. */
int shr_lock_take_dead(struct shr_map *map, uint64_t slot, bool consumer, struct shr_lock *lock);

/* 1: the owner of the byte lives; 0: nobody owns it; < 0: cannot tell. One system call, never
 * waits. Owners lock for writing, which nobody can beside a stranger's read lock. So such a lock
 * makes shr_lock_take refuse, but says for sure that there is no owner: 0. */
int shr_lock_held(struct shr_map *map, uint64_t byte);

/* 1: a stranger's read lock is on the byte; 0: none is; < 0: cannot tell. */
int shr_lock_strange(struct shr_map *map, uint64_t byte);

/* Writes who we are into a slot whose lock we hold and which is swept: new epoch, name, pid,
 * USED. The event number in it goes on from its last owner's. */
void shr_peer_enter(struct shr_map *map, uint32_t slot, const char *name);

/* Marks the slot FREE; the lock is dropped by the caller afterwards. */
void shr_peer_exit(struct shr_map *map, uint32_t slot);

/* Number of the last event that a slot is known to have committed: its own count, or what a cell or
 * the consumer knows beyond it when its owner died between commit and count. */
uint64_t shr_peer_last_number(const struct shr_map *map, uint32_t slot);

/* What a hand says. Without drops only pos, sum_before and dropped_after are its own: the rest is
 * in the cell. */
struct shr_in_hand {
    uint64_t pos;
    uint64_t ref;
    uint64_t meta;
    uint64_t number;
    uint64_t events;
    uint64_t sum_before;
    uint64_t dropped_after;
};

/* Reads a hand whose owner may go on meanwhile. Any number of readers; never waits. True: all
 * fields are of one event. False: it is empty, or has changed, and is done with what it held. */
bool shr_hand_read(const struct shr_hand *hand, struct shr_in_hand *h);

/* Text into and out of the words of a shared struct; always zero-terminated, cut if longer. */
void shr_text_store(shr_a64 *word, uint32_t words, const char *text);
void shr_text_load(const shr_a64 *word, uint32_t words, char *text);

#endif
