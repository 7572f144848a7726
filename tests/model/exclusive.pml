/*
 * exclusive.pml: the ring in exclusive mode: one producer at a time, which stores the body, then
 * the state READY(p), the count, then head, with no locked instruction. It may be killed around
 * each of these stores, and so may a successor; a successor moves head past every cell that is
 * already at its position, whatever its tag, and settles the count, before it publishes. Each
 * access is a step of its own; -DTSO puts the stores behind buffers (buffer.pml). tests/model/run
 * runs it.
 *
 * The consumer takes READY(t) without a look at head, so tail may pass a head that a death left
 * behind. DROP: tail moves by CAS, and the producer drops the oldest event itself, perhaps one
 * that is still in its own buffer. BLOCK: `free` is done, cells are used in place, and some become
 * DONE. OBSERVER: one observation by somebody who holds nothing.
 *
 * A position that was not committed is used again by the next owner of the slot, and so is the
 * number of its event. So number k stands at position N + k - 1, which is what the checks rest on.
 *
 * What is not modelled: memory weaker than TSO, the consumer's death (resume.pml), bad bytes. The
 * sweeper that settles a dead slot and the next owner are one here. Names as in ring.pml.
 */
#ifndef C
#define C 1
#endif
#define N (2 * C)
#ifndef K
#define K 5                     /* events */
#endif
#ifndef FAULTS
#define FAULTS 2
#endif

#define READY    0
#define DONE     1
#define VOID     2
#define REVOKED  3
#define ST(p, tag)   (((p) << 3) | (tag))
#define POS(s)       ((s) >> 3)
#define TAG(s)       ((s) & 7)

#define CELL(p)      ((p) % N)
#define W0(p)        (N + (p) % N)
#define W1(p)        (2 * N + (p) % N)
#define HEAD         (3 * N)
#define FREE         (3 * N + 1)        /* DROP: tail; BLOCK: done */
#define PUBLISHED    (3 * N + 2)
#define SEEN         (3 * N + 3)
#define WORDS        (3 * N + 4)
#define PRODUCER     0
#define CONSUMER     1
#define PARTIES      2
#define DEPTH        7

#define COMMITTED 1
#define TAKEN     2

byte faults = FAULTS;
bit gone;
#ifdef BLOCK
byte tail = N;
#else
#define tail mem[FREE]
#endif
byte event[K + 2];              /* ghost: what became of each event */

hidden byte no_torn, no_loss, no_duplicate, in_order, no_commit_behind_tail, capacity_bound,
        number_given_once, drops_what_is_whole, observed_whole, all_accounted_at_end;
#define CHECK(name, condition) \
        if \
        :: (condition) \
        :: else -> assert(name) \
        fi

#define NUMBER(p) ((p) - N + 1)

/* READY(p) arrives: the event is committed. */
#define CHECK_STORE(i, a, v) \
        if \
        :: (a) < N -> \
                CHECK(no_commit_behind_tail, POS(v) >= tail); \
                CHECK(no_loss, TAG(mem[a]) != READY || POS(mem[a]) < tail); \
                CHECK(capacity_bound, POS(v) - mem[FREE] < C); \
                CHECK(number_given_once, mem[W0(POS(v))] == NUMBER(POS(v))); \
                CHECK(number_given_once, event[NUMBER(POS(v))] == 0); \
                event[NUMBER(POS(v))] = COMMITTED \
        :: else \
        fi

#include "buffer.pml"

#if defined(MUTANT_NO_SUCCESSION)       /* the event beyond head is overwritten */
#define ALREADY_THERE(p) false
#elif defined(MUTANT_SUCCESSION_READY)  /* a position that the consumer finished is used twice */
#define ALREADY_THERE(p) (mem[CELL(p)] == ST(p, READY))
#else
#define ALREADY_THERE(p) (POS(mem[CELL(p)]) == p)
#endif

#if defined(MUTANT_READY_BEFORE_BODY)   /* the consumer sees half an event */
#define STORE_EVENT \
        STORE(me, W0(p), k); \
        STORE(me, CELL(p), ST(p, READY)); \
        STORE(me, W1(p), k); \
        STORE(me, PUBLISHED, k); \
        STORE(me, HEAD, p + 1)
#elif defined(MUTANT_HEAD_BEFORE_READY) /* the consumer revokes, and READY is stored behind tail */
#define STORE_EVENT \
        STORE(me, W0(p), k); \
        STORE(me, W1(p), k); \
        STORE(me, HEAD, p + 1); \
        STORE(me, CELL(p), ST(p, READY)); \
        STORE(me, PUBLISHED, k)
#elif defined(MUTANT_COUNT_BEFORE_READY)        /* a number without an event */
#define STORE_EVENT \
        STORE(me, W0(p), k); \
        STORE(me, W1(p), k); \
        STORE(me, PUBLISHED, k); \
        STORE(me, CELL(p), ST(p, READY)); \
        STORE(me, HEAD, p + 1)
#else
#define STORE_EVENT \
        STORE(me, W0(p), k); \
        STORE(me, W1(p), k); \
        STORE(me, CELL(p), ST(p, READY)); \
        STORE(me, PUBLISHED, k); \
        STORE(me, HEAD, p + 1)
#endif
#ifdef MUTANT_OWN_BUFFER_UNSEEN         /* a load that misses what its own buffer holds */
#define LOAD(i, a, x) x = mem[a]
#else
#define LOAD(i, a, x) load(i, a, x)
#endif

/* Event x, whose words are x and y, is taken: once, whole, committed, and all before it were. */
inline account(x, y)
{
        CHECK(no_torn, x == y && x != 0);
        CHECK(no_duplicate, event[x] == COMMITTED);
        CHECK(in_order, x == 1 || event[x - 1] != COMMITTED);
        event[x] = TAKEN
}

/* number_in_cell: the number k is at least that of the event at position q. */
inline number_in_cell(q)
{
        atomic {
                if
                :: mem[CELL(q)] == ST(q, READY) || mem[CELL(q)] == ST(q, DONE) -> x = mem[W0(q)]
                :: else -> x = 0
                fi
        };
        atomic {
                if
                :: mem[HEAD] - (q) < N && x > k -> k = x
                :: else
                fi;
                x = 0
        }
}

#define DIES atomic { faults > 0 -> faults--; cut(me); goto died }

proctype producer()
{
        byte me = PRODUCER, k = 1, p = N, t, s, x, y;

again:
        if
        :: atomic { k > K && DRAINED(me) -> goto leave }
#ifdef BLOCK
        :: atomic { k <= K && RUNS(me) && ROOM(me, 5) && p - mem[FREE] < C ->
#else
        :: atomic { k <= K && RUNS(me) && p - mem[FREE] >= C -> t = mem[FREE]; goto drop }
        :: atomic { k <= K && RUNS(me) && ROOM(me, 5) && p - mem[FREE] < C ->
#endif
                STORE_EVENT;
                p++;
                k++;
                goto again }
        :: DIES
        fi;
#ifdef DROP
drop:
        /* Full: drop the oldest. It is committed, since p is beyond all that is not. */
        atomic { RUNS(me) ->
                LOAD(me, CELL(t), s);
                CHECK(drops_what_is_whole, s == ST(t, READY) || tail != t);
                s = 0 };
        atomic { RUNS(me) -> LOAD(me, W0(t), x) };
        atomic { RUNS(me) -> LOAD(me, W1(t), y) };
        if
        :: atomic { DRAINED(me) ->
                if
                :: tail == t -> tail = t + 1; account(x, y)
                :: else
                fi;
                t = 0;
                x = 0;
                y = 0;
                goto again }
        :: DIES
        fi;
#endif
died:
        /* The successor. It may die too; what it found is private until it stores it. */
        atomic { DRAINED(me) -> p = mem[HEAD]; k = 0; t = 0; s = 0; x = 0; y = 0 };
        do
        :: atomic { ALREADY_THERE(p) -> p = p + 1 }
        :: atomic { !ALREADY_THERE(p) -> STORE(me, HEAD, p); break }
        od;
        if
        :: atomic { DRAINED(me) ->
                k = (mem[SEEN] > mem[PUBLISHED] -> mem[SEEN] : mem[PUBLISHED]) }
        :: DIES
        fi;
#ifndef MUTANT_NUMBER_AT_HEAD_ONLY      /* the last successor died when it had moved head */
        number_in_cell(p - 1);
#endif
        number_in_cell(p);
        if
        :: atomic { STORE(me, PUBLISHED, k); k++; goto again }
        :: DIES
        fi;
leave:
        gone = true
}

proctype consumer()
{
        byte me = CONSUMER, t, s, x, y;

again:
        atomic { RUNS(me) -> t = tail };
        if
        :: atomic { RUNS(me) && mem[CELL(t)] == ST(t, READY) }
        :: atomic { RUNS(me) && POS(mem[CELL(t)]) < t && t < mem[HEAD] ->
                s = mem[CELL(t)];
                goto revoke }
        :: atomic { tail != t -> goto again }
        :: atomic { gone && tail == t && mem[CELL(t)] != ST(t, READY) && t >= mem[HEAD] ->
                goto leave }
        fi;
        atomic { RUNS(me) -> x = mem[W0(t)] };
#ifdef DROP
        atomic { RUNS(me) -> y = mem[W1(t)] };
        atomic {
                if
                :: tail == t -> tail = t + 1; account(x, y); mem[SEEN] = x
                :: else
                fi;
                t = 0;
                x = 0;
                y = 0;
                goto again
        };
#else
        atomic { RUNS(me) && ROOM(me, 2) ->
                y = mem[W1(t)];
                account(x, y);
                tail = t + 1;
                STORE(me, SEEN, x) };
        if
        :: atomic { (x & 1) && DRAINED(me) -> mem[CELL(t)] = ST(t, DONE) }
        :: atomic { !(x & 1) }
        fi;
        atomic { STORE(me, FREE, t + 1); x = 0; y = 0; goto again };
#endif
revoke:
        /* Claimed and not committed does not happen here; a taker would revoke as in ring.pml. */
        atomic { DRAINED(me) ->
                if
                :: mem[CELL(t)] == s && tail == t ->
                        mem[CELL(t)] = ST(t, REVOKED);
                        tail = t + 1;
#ifdef BLOCK
                        mem[FREE] = t + 1
#endif
                :: else
                fi;
                s = 0;
                goto again
        };
leave:
        atomic {
                x = 1;
                do
                :: x <= K -> CHECK(all_accounted_at_end, event[x] == TAKEN); x++
                :: else -> break
                od
        }
}

#ifdef OBSERVER
/* Looks once, at any position and at any time. */
proctype observer()
{
        byte p = N, h, x, y;

        atomic {
                do
                :: p + 1 < N + K -> p++
                :: break
                od
        };
        if
        :: atomic { mem[CELL(p)] == ST(p, READY) }
        :: atomic { gone -> goto unseen }
        fi;
        x = mem[W0(p)];
        y = mem[W1(p)];
        h = mem[HEAD];
        atomic {
                if
#ifdef MUTANT_ONE_LAP_MORE      /* R4: here the claim of the next lap is head = p + N, not more */
                :: h - p > N
#else
                :: h - p >= N
#endif
                :: else -> CHECK(observed_whole, x == y && x == NUMBER(p) && event[x] != 0)
                fi
        };
unseen:
        atomic { p = 0; h = 0; x = 0; y = 0 }
}
#endif

init
{
        byte i;

        atomic {
                do
                :: i < N -> mem[i] = ST(i, VOID); i++
                :: else -> break
                od;
                i = 0;
                mem[HEAD] = N;
                mem[FREE] = N;
                run producer();
                run store_buffer(PRODUCER);
                run consumer();
#ifdef BLOCK
                run store_buffer(CONSUMER);
#endif
#ifdef OBSERVER
                run observer()
#endif
        }
}
