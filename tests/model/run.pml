/*
 * run.pml: what a recaller takes a chunk for (slab_recall.c), behind store buffers (buffer.pml): a
 * run is two chunks whose second header says nothing, and what a chunk is its owner stores after
 * the claim, when a recaller may have looked already. tests/model/run runs it. slab.pml has the
 * rest of the recall, with chunks that are each one block.
 *
 * What is modelled, each shared access a step of its own unless said otherwise
 *   - an owner, who always says ANY: it decides about its lists if there was a recall, gives idle
 *     units back or keeps them, claims one chunk or two, says what they are, uses the block, says
 *     NONE, and publishes. It may be killed at any step; then the slot has a next owner.
 *   - the consumer, which frees what is published at any time.
 *   - RECALLERS. What chunks were before is anything.
 *
 * What is not modelled: memory weaker than TSO, a bus without membarrier, the sweep (chunks of the
 * dead stay), headers of more than one block.
 */
#define CHUNKS 2
#ifndef K
#define K 2                     /* allocations */
#endif
#ifndef RECALLERS
#define RECALLERS 1
#endif
#ifndef FAULTS
#define FAULTS 0
#endif

#define OWNER(c)  (c)
#define HEADER(c) (CHUNKS + (c))
#define KIND(c)   (2 * CHUNKS + (c))    /* 0: in the middle of a run; else the length from here */
#define SAID      (3 * CHUNKS)
#define WORDS     (3 * CHUNKS + 1)
#define PARTIES   1
#define DEPTH     6
#define ME        0

#define NONE 0
#define ANY  255

#define OWNED(e)       (1 + (e))
#define RECALLED(w, r) ((w) * 16 + (r))
#define OWNED_OF(w)    ((w) >= 16 -> (w) / 16 : (w))
#define IS_MARK(w, r)  ((w) >= 16 && (w) % 16 == (r))

byte recalls, epoch;
byte faults = FAULTS;
byte part[CHUNKS];              /* ghost: first chunk + 1 of the unit that has this one in use */
bit published[CHUNKS];          /* by first chunk */

hidden byte given_back_unused, claimed_once, stores_into_its_own;
#define CHECK(name, condition) \
        if \
        :: (condition) \
        :: else -> assert(name) \
        fi
#define CHECK_STORE(i, a, v) \
        if \
        :: (a) >= CHUNKS && (a) < 3 * CHUNKS -> \
                CHECK(stores_into_its_own, OWNED_OF(mem[OWNER((a) % CHUNKS)]) == OWNED(epoch)) \
        :: else \
        fi
#include "buffer.pml"

#ifdef MUTANT_NEXT_SPEAKS       /* S9: the slot's next owner says nothing of the last one's chunk */
#define SPEAKS_FOR(w) true
#else
#define SPEAKS_FOR(w) (OWNED_OF(w) == OWNED(epoch))
#endif

#ifdef MUTANT_REST_KEPT         /* a run came free since its header was looked at, and is going */
#define KEEPS_REST(n) ((n) == 0)
#else
#define KEEPS_REST(n) 1
#endif

#define DIES atomic { faults > 0 -> faults--; cut(ME); goto died }

/* chunk_give of c + n, if it is ours. */
#define GIVE \
        if \
        :: OWNED_OF(mem[OWNER(c + n)]) == OWNED(e) -> \
                CHECK(given_back_unused, part[c + n] == 0); \
                mem[OWNER(c + n)] = 0 \
        :: else \
        fi

proctype owner()
{
        byte e, k, c, n, seen, now, h;
        byte unit[CHUNKS];      /* the lists: lengths, by first chunk */
        bit lost;

next:
        if
        :: atomic { k == K -> goto left }
        :: atomic { k < K && RUNS(ME) && ROOM(ME, 1) -> STORE(ME, SAID, ANY); c = 0 }
        fi;
        /* lists_check, or only what is idle goes back, or not */
        atomic { now = recalls };
        do
        :: atomic { c == CHUNKS -> c = 0; seen = now; now = 0; break }
        :: atomic { c < CHUNKS && unit[c] == 0 -> c++ }
        :: atomic { c < CHUNKS && unit[c] != 0 && RUNS(ME) -> load(ME, HEADER(c), h); n = 0 };
                if
                :: atomic { h == 0 -> goto give }
                :: atomic { h == 0 && now == seen }     /* kept: the lists were true */
                :: atomic { h != 0 && now == seen }
                :: atomic { h != 0 && now != seen && n < unit[c] };
                        do
                        :: atomic { n < unit[c] && DRAINED(ME) ->
                                if
                                :: OWNED_OF(mem[OWNER(c + n)]) == OWNED(e) ->
                                        mem[OWNER(c + n)] = OWNED(e)
                                :: else -> lost = KEEPS_REST(n)
                                fi;
                                n++ }
                        :: atomic { n == unit[c] && !lost -> break }
                        :: atomic { n == unit[c] && lost -> n = 0; lost = 0; goto give }
                        :: DIES
                        od
                fi;
                goto looked;
give:
                do
                :: atomic { n < unit[c] && DRAINED(ME) -> GIVE; n++ }
                :: atomic { n == unit[c] -> unit[c] = 0; break }
                :: DIES
                od;
looked:
                atomic { c++; n = 0; h = 0 }
        :: DIES
        od;
        /* One chunk, or a run of two, or nothing. */
        if
        :: atomic { mem[OWNER(0)] == 0 -> c = 0; n = 1 }
        :: atomic { mem[OWNER(1)] == 0 -> c = 1; n = 1 }
        :: atomic { mem[OWNER(0)] == 0 && mem[OWNER(1)] == 0 -> c = 0; n = 2 }
        :: atomic { n = 0; goto said }
        fi;
        atomic { DRAINED(ME) ->
                CHECK(claimed_once, mem[OWNER(c)] == 0 && part[c] == 0);
                mem[OWNER(c)] = OWNED(e);
                part[c] = c + 1 };
        if
        :: atomic { n == 2 && DRAINED(ME) ->
                CHECK(claimed_once, mem[OWNER(1)] == 0 && part[1] == 0);
                mem[OWNER(1)] = OWNED(e);
                part[1] = 1 }
        :: atomic { n == 1 }
        :: DIES
        fi;
        if
        :: atomic { RUNS(ME) && ROOM(ME, 1) -> STORE(ME, KIND(c), n) }
        :: DIES
        fi;
        if
        :: atomic { n == 2 && RUNS(ME) && ROOM(ME, 1) -> STORE(ME, KIND(1), 0) }
        :: atomic { n == 1 }
        :: DIES
        fi;
        if
        :: atomic { RUNS(ME) && ROOM(ME, 1) -> STORE(ME, HEADER(c), 1); unit[c] = n }
        :: DIES
        fi;
said:
        if
        :: atomic { RUNS(ME) && ROOM(ME, 1) -> STORE(ME, SAID, NONE) }
        :: DIES
        fi;
        if
        :: atomic { DRAINED(ME) ->
                if
                :: n != 0 -> published[c] = 1
                :: else
                fi;
                c = 0;
                n = 0;
                k++;
                goto next }
        :: DIES
        fi;
died:
        /* What it claimed and did not use is in use by nobody. */
        atomic { DRAINED(ME) ->
                c = 0;
                do
                :: c < CHUNKS ->
                        if
                        :: part[c] != 0 -> n = mem[HEADER(part[c] - 1)]; part[c] = part[c] * n
                        :: else
                        fi;
                        unit[c] = 0;
                        c++
                :: else -> break
                od;
                c = 0;
                n = 0;
                h = 0;
                lost = 0;
                now = 0 };
        /* The next owner: shr_peer_enter, shr_heap_init. */
        atomic { e++; epoch = e };
        atomic { mem[SAID] = NONE; seen = recalls; goto next };
left:
        seen = 0
}

proctype consumer()
{
end:
        do
        :: atomic { published[0] ->
                published[0] = 0;
                mem[HEADER(0)] = 0;
                part[0] = 0;
                part[1] = (part[1] == 1 -> 0 : part[1]) }
        :: atomic { published[1] -> published[1] = 0; mem[HEADER(1)] = 0; part[1] = 0 }
        od
}

/* unit_length */
#define LENGTH(c) (mem[KIND(c)] <= CHUNKS - (c) -> mem[KIND(c)] : 0)

proctype recaller()
{
        byte r, c, w, n, k;

        atomic { recalls++; r = recalls };
        /* idle_mark */
        do
        :: atomic { c == CHUNKS -> c = 0; break }
        :: atomic { c < CHUNKS -> w = OWNED_OF(mem[OWNER(c)]) };
                if
                :: atomic { w != 0 -> n = LENGTH(c) };
                        if
                        :: atomic { n != 0 && mem[HEADER(c)] == 0 }
                        :: atomic { n == 0 || mem[HEADER(c)] != 0 -> w = 0; n = (n == 0 -> 1 : n) }
                        fi
                :: atomic { w == 0 -> n = 1 }
                fi;
                do
                :: atomic { k < n && w != 0 ->
                        if
                        :: OWNED_OF(mem[OWNER(c + k)]) == w -> mem[OWNER(c + k)] = RECALLED(w, r)
                        :: else
                        fi;
                        k++ }
                :: atomic { k == n || w == 0 -> c = c + n; k = 0; n = 0; w = 0; break }
                od
        od;
        recalls++;
        atomic { DRAINED(ME) };         /* membarrier */
        /* marked_return */
        do
        :: atomic { c == CHUNKS -> c = 0; break }
        :: atomic { c < CHUNKS ->
                w = mem[OWNER(c)];
                if
                :: IS_MARK(w, r)
                :: else -> goto stays
                fi };
#ifdef MUTANT_KIND_BEFORE_SAID  /* S9: what it is by an allocation that ended since, or long ago */
                n = LENGTH(c);
#endif
                atomic {
                        if
                        :: mem[SAID] != ANY
                        :: else -> goto stays
                        fi };
#ifndef MUTANT_KIND_BEFORE_SAID
                n = LENGTH(c);
#endif
                atomic {
                        if
                        :: n != 0 && SPEAKS_FOR(w)
                        :: else -> goto stays
                        fi };
                atomic {
                        if
                        :: mem[HEADER(c)] == 0
                        :: else -> goto stays
                        fi };
                do
                :: atomic { k < n ->
                        if
                        :: mem[OWNER(c + k)] != w && OWNED_OF(mem[OWNER(c + k)]) == OWNED_OF(w) ->
                                goto stays
                        :: else -> k++
                        fi }
                :: atomic { k == n -> break }
                od;
                do
                :: atomic { k > 0 ->
                        k--;
                        if
                        :: mem[OWNER(c + k)] == w ->
                                CHECK(given_back_unused, part[c + k] == 0);
                                mem[OWNER(c + k)] = 0
                        :: else
                        fi }
                :: atomic { k == 0 -> break }
                od;
stays:
                atomic { c = c + (n == 0 -> 1 : n); k = 0; n = 0; w = 0 }
        od;
        r = 0
}

init
{
        byte i;

        atomic {
                do
                :: i < CHUNKS ->
                        if
                        :: mem[KIND(i)] = 0
                        :: mem[KIND(i)] = 1
                        :: mem[KIND(i)] = 2
                        fi;
                        i++
                :: else -> break
                od;
                i = 0;
                run owner();
                run store_buffer(ME);
                run consumer();
                do
                :: i < RECALLERS -> run recaller(); i++
                :: else -> break
                od;
                i = 0
        }
}
