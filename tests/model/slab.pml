/*
 * slab.pml: who owns a block of slab memory: allocation against recall (slab.c, slab_recall.c), and
 * the chunks of those who are gone against the hands of takers (slab_sweep.c), behind store buffers
 * (buffer.pml). tests/model/run runs it.
 *
 * What is modelled, each shared access a step of its own unless said otherwise
 *   - an owner: it says which chunk it is about to touch, looks at the count of recalls, and uses
 *     the block by a plain store; else it says ANY, decides about each recalled chunk, and takes a
 *     chunk from the pool. It fills the block, publishes it, leaves in order, or is killed. Its
 *     plain stores wait in its buffer; a membarrier empties that of everybody.
 *   - RECALLERS: each marks idle chunks with its number, counts, calls membarrier, and takes what
 *     nobody is about to use. FENCE: no membarrier; owners fence instead.
 *   - the consumer: hand, tail, the bytes, the free. DROPPER: a producer that takes and frees with
 *     a hand of its own, and may be killed at any step.
 *   - SWEEPERS: the hand of the dead dropper, slots of the dead, orphans until all before their end
 *     is taken and the consumer has none of theirs in hand. Several at once, each stopped anywhere.
 *   - an owner's slot has a next owner, with another epoch.
 * With two sweepers, one that was stopped for a whole life of the chunk may return it before its
 * block is free. Nobody names it then, and who claims the chunk cleans it (slab_sweep.c says why).
 *
 * A chunk is one block. What the ring does in between is one step: a committed event is in a list,
 * tail moves by CAS (drop-oldest; under the other policies what is in hand is not taken, and hands
 * do not matter). The consumer's hand, written before a locked instruction and by nobody else, has
 * no buffer, nor have the sweepers and recallers, which write by CAS.
 *
 * What is not modelled: memory weaker than TSO, several blocks in a chunk and size classes, runs
 * (run.pml), the trimming of an owner that allocates (chunk_give is that of a leaver), observers
 * of blocks (S2), the consumer's death, damaged words, generations that wrap.
 */
#ifndef CHUNKS
#define CHUNKS 1
#endif
#ifndef OWNERS
#define OWNERS 2
#endif
#ifndef K
#define K 2                     /* events of each owner */
#endif
#ifndef RECALLERS
#define RECALLERS 0
#endif
#ifndef SWEEPERS
#define SWEEPERS 0
#endif
#ifndef FAULTS
#define FAULTS 0
#endif
#define EVENTS (OWNERS * K)

#define OWNER(c)      (c)
#define HEADER(c)     (CHUNKS + (c))
#define DATA(c)       (2 * CHUNKS + (c))
#define ALLOCATING(i) (3 * CHUNKS + (i))
#define WORDS         (3 * CHUNKS + OWNERS)
#define PARTIES       OWNERS
#define DEPTH         6

/* Owner words. e: epoch, r: number of the recall. */
#define OWNED(i, e)       (16 + (i) * 4 + (e))
#define RECALLED(w, r)    (64 + ((w) - 16) * 8 + (r))
#define ORPHAN(end)       (192 + (end))
#define IS_OWNED(w)       ((w) >= 16 && (w) < 64)
#define IS_RECALLED(w)    ((w) >= 64 && (w) < 192)
#define IS_ORPHAN(w)      ((w) >= 192)
#define OWNED_OF(w)       (IS_RECALLED(w) -> ((w) - 64) / 8 + 16 : (w))
#define RECALL_OF(w)      (((w) - 64) % 8)
#define SLOT_OF(w)        ((OWNED_OF(w) - 16) / 4)
#define EPOCH_OF(w)       ((OWNED_OF(w) - 16) % 4)

/* Headers: generation and state. */
#define IS_FREE(h)  (((h) & 1) == 0)
#define NEXT_USED(h) (((h) | 1) + 2)
#define SET_FREE(h) ((h) & 254)

#define NONE 0
#define ANY  255

#define ID (1 + me * K + k)

#define DEAD 0                  /* the byte of the slot is free */
#define LIVE 1
#define HELD 2                  /* by a sweeper */

byte recalls;
byte head, tail;
byte event[EVENTS], in_chunk[EVENTS], header_of[EVENTS];        /* the ring, by position */
byte hand_pos, hand_at;         /* the consumer's: position + 1, and of which its reference is */
byte drop_pos, drop_at;         /* the dropper's */
bit used[OWNERS];               /* the state of the slot: USED, or FREE */
byte epoch[OWNERS];
bit lock_of[OWNERS];            /* LIVE or DEAD */
byte drop_lock;                 /* of the dropper's slot */
byte faults = FAULTS;
byte gone;                      /* owners that will not act again */
bit dropper_gone, consumer_gone;

byte holder[CHUNKS];            /* ghost: the event that the block was given to; 0: none */
byte making[OWNERS];            /* ghost: the event that an owner allocates for */
bit taken[EVENTS + 1];          /* ghost: events that the consumer reads just now */

hidden byte other;
hidden byte given_once, stores_into_its_own, frees_its_own, block_is_its_event, named_by_nobody,
        no_chunk_leaked, given_back_unused, valid_until_taken;
#define CHECK(name, condition) \
        if \
        :: (condition) \
        :: else -> assert(name) \
        fi

/* A header or a byte arrives in a chunk that is its owner's; a block is given to one event. */
#define CHECK_STORE(i, a, v) \
        if \
        :: (a) >= CHUNKS && (a) < 3 * CHUNKS -> \
                other = mem[OWNER((a) % CHUNKS)]; \
                CHECK(stores_into_its_own, (IS_OWNED(other) || IS_RECALLED(other)) && \
                        SLOT_OF(other) == i); \
                if \
                :: (a) < 2 * CHUNKS && !IS_FREE(v) -> \
                        CHECK(given_once, holder[(a) % CHUNKS] == 0); \
                        holder[(a) % CHUNKS] = making[i] \
                :: else \
                fi \
        :: else \
        fi
#include "buffer.pml"

hidden byte p_;

/* No event that waits in the ring or is being read is in chunk c. */
inline check_unnamed(c)
{
        p_ = 0;
        do
        :: p_ < head ->
                CHECK(named_by_nobody, in_chunk[p_] != c || holder[c] != event[p_] ||
                        (p_ < tail && !taken[event[p_]]));
                p_++
        :: else -> break
        od
}

/* ---- what a mutant changes ---- */

#ifdef MUTANT_NO_MEMBARRIER     /* S7: what the owner said is in its buffer still */
#define BARRIER(i) true
#else
#define BARRIER(i) DRAINED(i)
#endif
#ifdef MUTANT_NO_FENCE          /* S7, on a bus without membarrier */
#define FENCED(i) RUNS(i)
#else
#define FENCED(i) DRAINED(i)
#endif
#ifdef MUTANT_RECALL_UNNUMBERED /* one that was stopped takes what another one marked */
#define MARK(w, r) RECALLED(w, 0)
#define IS_MARK(w, r) IS_RECALLED(w)
#else
#define MARK(w, r) RECALLED(w, r)
#define IS_MARK(w, r) (IS_RECALLED(w) && RECALL_OF(w) == (r))
#endif
#ifdef MUTANT_FREE_BY_STORE     /* a free that comes late hits the next event's block */
#define IS_OURS(c, h) true
#else
#define IS_OURS(c, h) (mem[HEADER(c)] == (h))
#endif
#ifdef MUTANT_GENERATION_RESET  /* a stale reference is valid again */
#define CLEANED(h) 0
#else
#define CLEANED(h) ((h) + 2)
#endif
#ifdef MUTANT_ORPHAN_AT_ONCE    /* events of the dead one wait in the ring */
#define IS_DUE(w) IS_ORPHAN(w)
#else
#define IS_DUE(w) (IS_ORPHAN(w) && taken_at >= (w) - 192)
#endif
#ifdef MUTANT_NO_HANDS          /* the consumer still reads what it took */
#define HELD_IN_HAND(c) false
#else
#define HELD_IN_HAND(c) (pos != 0 && in_chunk[at_] == (c) && mem[HEADER(c)] == header_of[at_])
#endif
#ifdef MUTANT_NO_LOOK_AT_OWNER  /* S8: the header may be of the chunk's next owner */
#define STILL_ORPHAN(c, w) true
#else
#define STILL_ORPHAN(c, w) (mem[OWNER(c)] == (w))
#endif

/* The free of event x in chunk c, {g, USED} → {g, FREE}: by whom it is, once. */
inline free_block(p)
{
        if
        :: IS_OURS(in_chunk[p], header_of[p]) ->
                CHECK(frees_its_own, holder[in_chunk[p]] == event[p]);
                mem[HEADER(in_chunk[p])] = SET_FREE(header_of[p]);
                holder[in_chunk[p]] = 0
        :: else
        fi
}

/* ---- owners ---- */

#define DIES atomic { faults > 0 -> faults--; cut(me); goto died }

proctype owner(byte me)
{
        byte k, c, h, w, seen, e;
        bit mine[CHUNKS];

next:
        if
        :: atomic { k == K -> goto leave }
        :: atomic { k < K && mine[0] -> c = 0 }
#if CHUNKS > 1
        :: atomic { k < K && mine[1] -> c = 1 }
#endif
        :: atomic { k < K && !mine[0] && !mine[CHUNKS - 1] -> goto slow }
        fi;
        /* shr_alloc, its fast path */
#ifndef MUTANT_ANNOUNCE_AFTER_LOOK      /* S7: a recaller comes between */
        atomic { RUNS(me) && ROOM(me, 1) -> STORE(me, ALLOCATING(me), c + 1) };
#ifdef FENCE
        FENCED(me);
#endif
#endif
        if
        :: atomic { RUNS(me) && recalls == seen }
        :: atomic { RUNS(me) && recalls != seen -> goto slow }
        :: DIES
        fi;
#ifdef MUTANT_ANNOUNCE_AFTER_LOOK
        atomic { RUNS(me) && ROOM(me, 1) -> STORE(me, ALLOCATING(me), c + 1) };
#endif
        atomic { RUNS(me) ->
                load(me, HEADER(c), h);
                if
                :: IS_FREE(h)
                :: else -> h = 0; goto slow
                fi
        };
use:
        if
        :: atomic { RUNS(me) && ROOM(me, 1) ->
                making[me] = ID;
                h = NEXT_USED(h);
                STORE(me, HEADER(c), h) }
        :: DIES
        fi;
        if
        :: atomic { RUNS(me) && ROOM(me, 1) -> STORE(me, ALLOCATING(me), NONE) }
        :: DIES
        fi;
        atomic { RUNS(me) && ROOM(me, 1) -> STORE(me, DATA(c), ID) };
        if
        :: atomic { DRAINED(me) ->
                event[head] = ID;
                in_chunk[head] = c;
                header_of[head] = h;
                head++;
                making[me] = 0;
                h = 0;
                c = 0;
                k++;
                goto next }
        :: DIES
        fi;
slow:
        /* shr_heap_hold */
        atomic { RUNS(me) && ROOM(me, 1) -> STORE(me, ALLOCATING(me), ANY); c = 0; h = 0 };
#ifdef FENCE
        FENCED(me);
#endif
        if
        :: atomic { RUNS(me) && recalls == seen -> goto listed }
        :: atomic { RUNS(me) && recalls != seen -> w = recalls }
        fi;
        /* lists_check: what is ours is kept by CAS, what is gone leaves the list */
        do
        :: atomic { c == CHUNKS -> c = 0; seen = w; w = 0; break }
        :: atomic { c < CHUNKS && !mine[c] -> c++ }
        :: atomic { c < CHUNKS && mine[c] && RUNS(me) && mem[OWNER(c)] == OWNED(me, e) -> c++ }
        :: atomic { c < CHUNKS && mine[c] && RUNS(me) && OWNED_OF(mem[OWNER(c)]) != OWNED(me, e) ->
                mine[c] = 0;
                c++ }
        :: atomic { c < CHUNKS && mine[c] && DRAINED(me) && IS_RECALLED(mem[OWNER(c)]) &&
                OWNED_OF(mem[OWNER(c)]) == OWNED(me, e) ->
                mem[OWNER(c)] = OWNED(me, e);
                c++ }
        :: DIES
        od;
listed:
        /* A free block of ours, or a chunk of the pool, or none. */
        do
        :: atomic { c == CHUNKS -> break }
        :: atomic { c < CHUNKS && mine[c] && RUNS(me) ->
                load(me, HEADER(c), h);
                if
                :: IS_FREE(h) -> goto use
                :: else -> h = 0; c++
                fi }
        :: atomic { c < CHUNKS && !mine[c] && RUNS(me) && mem[OWNER(c)] != 0 -> c++ }
        :: atomic { c < CHUNKS && !mine[c] && DRAINED(me) && mem[OWNER(c)] == 0 ->
                mem[OWNER(c)] = OWNED(me, e);
                mine[c] = 1 };
                /* shr_chunk_clean. The word is free, but for a sweeper that came a life late. */
                if
                :: atomic { RUNS(me) && IS_FREE(mem[HEADER(c)]) ->
                        h = mem[HEADER(c)];
                        CHECK(given_back_unused, holder[c] == 0);
                        h = (h == 0 -> 0 : CLEANED(h));
                        STORE(me, HEADER(c), h);
                        goto use }
                :: atomic { DRAINED(me) && !IS_FREE(mem[HEADER(c)]) ->
                        CHECK(given_back_unused, SWEEPERS > 1);
                        check_unnamed(c);
                        holder[c] = 0;
                        h = SET_FREE(mem[HEADER(c)]) + 2;
                        mem[HEADER(c)] = h;
                        goto use }
                :: DIES
                fi
        od;
        /* Nothing: try again, or give this event up. */
        atomic { RUNS(me) && ROOM(me, 1) -> STORE(me, ALLOCATING(me), NONE); c = 0; h = 0 };
        if
        :: atomic { k++; goto next }
        :: DIES
        fi;

leave:
        /* shr_heap_fini: what is idle goes back, the rest become orphans. */
        atomic { RUNS(me) && ROOM(me, 1) -> STORE(me, ALLOCATING(me), ANY) };
#ifdef FENCE
        FENCED(me);
#endif
        do
        :: atomic { c == CHUNKS -> break }
        :: atomic { c < CHUNKS && !mine[c] -> c++ }
        :: atomic { c < CHUNKS && mine[c] && RUNS(me) ->
                load(me, HEADER(c), h);
                if
                :: IS_FREE(h)
                :: else -> mine[c] = 0
                fi;
                h = 0 };
                if
                :: atomic { !mine[c] -> c++ }
                :: atomic { mine[c] && DRAINED(me) ->
                        if
                        :: OWNED_OF(mem[OWNER(c)]) == OWNED(me, e) -> mem[OWNER(c)] = 0
                        :: else
                        fi;
                        mine[c] = 0;
                        c++ }
                :: DIES
                fi
        od;
        atomic { c = 0; STORE(me, ALLOCATING(me), NONE) };
        atomic { DRAINED(me) -> used[me] = 0; goto left };

died:
        atomic { DRAINED(me) ->
                lock_of[me] = DEAD;
                making[me] = 0;
                c = 0;
                h = 0;
                w = 0;
                mine[0] = 0;
                mine[CHUNKS - 1] = 0 };
        /* The next owner: shr_peer_enter, shr_heap_init. */
        if
        :: atomic { k < K -> lock_of[me] = LIVE; used[me] = 1 };
                atomic { e++; epoch[me] = e };
                atomic { mem[ALLOCATING(me)] = NONE; seen = recalls; k++; goto next }
        :: atomic { !used[me] }
        fi;
left:
        atomic { k = 0; seen = 0; e = 0; gone++ }
}

/* ---- takers ---- */

proctype consumer()
{
        byte t, x;

        do
        :: atomic { gone == OWNERS && tail == head && dropper_gone ->
                t = 0;
                consumer_gone = true;
                break }
        :: atomic { tail < head -> t = tail };
                /* Decode: a block that is not valid was taken by another. */
                atomic {
                        if
                        :: mem[HEADER(in_chunk[t])] != header_of[t] ->
                                CHECK(valid_until_taken, tail != t);
                                goto again
                        :: else
                        fi };
#ifndef MUTANT_HAND_AFTER_TAIL  /* R6: taken, and in no hand */
                hand_pos = 0;
                hand_at = t;
                hand_pos = t + 1;
#endif
                atomic {
                        if
                        :: tail == t -> tail = t + 1; taken[event[t]] = 1
                        :: else -> goto lost
                        fi };
#ifdef MUTANT_HAND_AFTER_TAIL
                hand_pos = 0;
                hand_at = t;
                hand_pos = t + 1;
#endif
                /* The handlers read the block. */
                atomic {
                        x = mem[DATA(in_chunk[t])];
                        CHECK(block_is_its_event, x == event[t] && holder[in_chunk[t]] == event[t]);
                        x = 0 };
                atomic { free_block(t); taken[event[t]] = 0 };
                if
                :: hand_pos = 0         /* shr_rest, before a sweep */
                :: skip
                fi;
                goto again;
lost:
                hand_pos = 0;
again:
                t = 0
        od
}

#ifdef DROPPER
#define FALLS atomic { faults > 0 -> faults--; goto fell }

proctype dropper()
{
        byte t;

        do
        :: atomic { tail < head -> t = tail };
                if
                :: drop_at = t
                :: FALLS
                fi;
                if
                :: drop_pos = t + 1
                :: FALLS
                fi;
                if
                :: atomic { tail == t -> tail = t + 1 }
                :: atomic { tail != t -> goto emptied }
                :: FALLS
                fi;
                if
                :: atomic { free_block(t) }
                :: FALLS
                fi;
emptied:
                if
                :: atomic { drop_pos = 0; t = 0 }
                :: FALLS
                fi
        :: break
        od;
fell:
        atomic { t = 0; drop_lock = DEAD; dropper_gone = true }
}
#endif

/* ---- those who take chunks back ---- */

proctype recaller()
{
        byte r, c, w;

        atomic { recalls++; r = recalls };
        /* idle_mark */
        do
        :: atomic { c == CHUNKS -> c = 0; break }
        :: atomic { c < CHUNKS ->
                w = mem[OWNER(c)];
                if
                :: IS_OWNED(w) || IS_RECALLED(w)
                :: else -> w = 0
                fi };
                if
                :: atomic { w != 0 && IS_FREE(mem[HEADER(c)]) };
                        atomic {
                                if
                                :: mem[OWNER(c)] == w -> mem[OWNER(c)] = MARK(OWNED_OF(w), r)
                                :: else
                                fi }
                :: atomic { w == 0 || !IS_FREE(mem[HEADER(c)]) }
                fi;
                atomic { c++; w = 0 }
        od;
#ifndef MUTANT_WORDS_UNCOUNTED  /* S10: an owner holds its lists for true */
        recalls++;
#endif
#ifndef FENCE
        /* membarrier */
        do
        :: atomic { c == OWNERS -> c = 0; break }
        :: atomic { c < OWNERS && BARRIER(c) -> c++ }
        od;
#endif
        /* marked_return */
        do
        :: atomic { c == CHUNKS -> c = 0; break }
        :: atomic { c < CHUNKS ->
                w = mem[OWNER(c)];
                if
                :: IS_MARK(w, r)
                :: else -> w = 0
                fi };
#ifdef MUTANT_HEADER_BEFORE_SAID        /* S9: an allocation ends between the two looks */
                if
                :: atomic { w != 0 && IS_FREE(mem[HEADER(c)]) }
                :: atomic { w == 0 || !IS_FREE(mem[HEADER(c)]) -> w = 0 }
                fi;
#endif
#ifndef MUTANT_SAID_UNHEARD     /* S7: the owner may use the block any moment */
                if
                :: atomic { w != 0 && mem[ALLOCATING(SLOT_OF(w))] != ANY &&
                        mem[ALLOCATING(SLOT_OF(w))] != c + 1 }
                :: atomic { w != 0 && (mem[ALLOCATING(SLOT_OF(w))] == ANY ||
                        mem[ALLOCATING(SLOT_OF(w))] == c + 1) -> w = 0 }
                :: atomic { w == 0 }
                fi;
#endif
#ifndef MUTANT_HEADER_BEFORE_SAID
                if
                :: atomic { w != 0 && IS_FREE(mem[HEADER(c)]) }
                :: atomic { w == 0 || !IS_FREE(mem[HEADER(c)]) -> w = 0 }
                fi;
#endif
                atomic {
                        if
                        :: w != 0 && mem[OWNER(c)] == w -> mem[OWNER(c)] = 0
                        :: else
                        fi;
                        w = 0;
                        c++ }
        od;
        r = 0
}

#define IS_GONE(w) (epoch[SLOT_OF(w)] != EPOCH_OF(w) || !used[SLOT_OF(w)])
#define ANY_ORPHAN \
        ((mem[OWNER(0)] != 0 && (IS_ORPHAN(mem[OWNER(0)]) || IS_GONE(mem[OWNER(0)]))) || \
        (mem[OWNER(CHUNKS - 1)] != 0 && \
        (IS_ORPHAN(mem[OWNER(CHUNKS - 1)]) || IS_GONE(mem[OWNER(CHUNKS - 1)]))))
#define ANY_SLOT ((lock_of[0] == DEAD && used[0]) || \
        (lock_of[OWNERS - 1] == DEAD && used[OWNERS - 1]))
#define ALL_GONE (gone == OWNERS && dropper_gone && consumer_gone)

proctype sweeper()
{
        byte taken_at, end, c, w, pos, at_;

idle:
        if
        :: atomic { ALL_GONE && !ANY_ORPHAN && !ANY_SLOT && drop_pos == 0 -> goto last }
        :: atomic { lock_of[0] == DEAD && used[0] -> used[0] = 0; goto idle }
#if OWNERS > 1
        :: atomic { lock_of[1] == DEAD && used[1] -> used[1] = 0; goto idle }
#endif
#ifdef DROPPER
        :: atomic { drop_lock == DEAD && drop_pos != 0 -> drop_lock = HELD; taken_at = tail };
                /* shr_hand_sweep */
                if
                :: atomic { taken_at >= drop_pos -> pos = hand_pos; at_ = hand_at };
                        atomic {
                                if
                                :: pos != 0 && at_ == drop_at -> goto unlock
                                :: else -> free_block(drop_at)
                                fi }
                :: atomic { taken_at < drop_pos }
                fi;
                drop_pos = 0;
unlock:
                atomic { drop_lock = DEAD; pos = 0; at_ = 0; taken_at = 0; goto idle }
#endif
        :: atomic { mem[OWNER(0)] != 0 || mem[OWNER(CHUNKS - 1)] != 0 ->
#ifdef MUTANT_END_BEFORE_GONE   /* S5: an end that its owner's last event is behind */
                end = head;
#endif
                taken_at = tail }
        fi;
        atomic {
                do
                :: c + 1 < CHUNKS -> c++
                :: break
                od };
        /* orphan_word */
        atomic {
                w = mem[OWNER(c)];
                if
                :: w == 0 -> goto swept
                :: IS_ORPHAN(w) -> goto orphan
                :: else
                fi };
        atomic {
                if
                :: IS_GONE(w)
                :: else -> goto swept
                fi };
#ifndef MUTANT_END_BEFORE_GONE
        end = head;
#endif
        atomic {
                if
                :: mem[OWNER(c)] == w -> w = ORPHAN(end); mem[OWNER(c)] = w
                :: else -> goto swept
                fi };
orphan:
        end = 0;
#ifdef MUTANT_TAKEN_AFTER_HANDS /* R6: a hand is filled between the two looks */
        atomic { pos = hand_pos; at_ = hand_at };
        taken_at = tail;
#endif
        atomic {
                if
                :: IS_DUE(w)
                :: else -> goto swept
                fi };
#ifndef MUTANT_TAKEN_AFTER_HANDS
        /* due_without_held: pos, then the reference */
        pos = hand_pos;
        at_ = hand_at;
#endif
        atomic {
                if
                :: HELD_IN_HAND(c) -> goto swept
                :: else -> pos = 0; at_ = 0
                fi };
        /* orphan_return */
        atomic {
                if
                :: mem[OWNER(c)] == w
                :: else -> goto swept
                fi };
        pos = mem[HEADER(c)];
        if
        :: atomic { IS_FREE(pos) }
        :: atomic { !IS_FREE(pos) && STILL_ORPHAN(c, w) };
                atomic {
                        if
                        :: mem[HEADER(c)] == pos ->
                                check_unnamed(c);
                                holder[c] = 0;
                                mem[HEADER(c)] = SET_FREE(pos)
                        :: else
                        fi }
        :: atomic { !IS_FREE(pos) && !STILL_ORPHAN(c, w) -> goto swept }
        fi;
        atomic {
                if
                :: mem[OWNER(c)] == w -> check_unnamed(c); mem[OWNER(c)] = 0
                :: else
                fi };
swept:
        atomic { c = 0; w = 0; pos = 0; at_ = 0; end = 0; taken_at = 0; goto idle };
last:
        atomic {
                do
                :: c < CHUNKS ->
                        CHECK(no_chunk_leaked, mem[OWNER(c)] == 0);
                        CHECK(no_chunk_leaked, SWEEPERS > 1 || holder[c] == 0);
                        c++
                :: else -> break
                od;
                c = 0
        }
}

init
{
        byte i;

        atomic {
                do
                :: i < OWNERS ->
                        lock_of[i] = LIVE;
                        used[i] = 1;
                        run owner(i);
                        run store_buffer(i);
                        i++
                :: else -> break
                od;
                i = 0;
                run consumer();
#ifdef DROPPER
                drop_lock = LIVE;
                run dropper();
#else
                dropper_gone = true;
#endif
                do
                :: i < RECALLERS -> run recaller(); i++
                :: else -> break
                od;
                i = 0;
                do
                :: i < SWEEPERS -> run sweeper(); i++
                :: else -> break
                od;
                i = 0
        }
}
