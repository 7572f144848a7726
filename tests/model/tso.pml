/*
 * tso.pml: the ring of ring.pml at the granularity of single accesses, behind store buffers
 * (buffer.pml). It asks which edges of docs/ordering.md need a locked instruction or an order of
 * stores on x86-64, and whether those that the code has are enough. -DTSO: with buffers; without:
 * the same steps, sequentially consistent. tests/model/run runs it.
 *
 * What is modelled, each shared access a step of its own unless said otherwise
 *   - publish: the loads of head and `free`, busy inexact, the locked claim, busy EXACT, the load
 *     of the state, two words of body, the locked commit, `published`, busy = 0; the way back of a
 *     void ticket. What is not locked goes through the producer's buffer.
 *   - take and drop, with a second look at tail for every state but READY, as in C. DROP: tail
 *     moves by CAS. BLOCK: the consumer's stores of the number seen and of `done` go through its
 *     buffer; its tail is read by itself only, and is private here.
 *   - deaths of producers around every store; the next owner of the slot, or the sweeper, settles
 *     it. Numbers of events go on from the count, from the cell of the claim, and from what the
 *     consumer saw, whichever is last, looked at in this order.
 *   - sweep_revoked, with the looks at the records one by one: a record EXACT(q) pins REVOKED(q),
 *     and so does one that is inexact at or below q, until a membarrier has passed each producer.
 *     FENCE: no membarrier, but producers fence before they look at their cell. NO_MEMBARRIER:
 *     neither, and inexact records pin for good.
 *   - OBSERVER: one observation by somebody who holds nothing: state, words, then head.
 *
 * Joined: EXACT with the claim before it, and the body with the look at the cell. So a membarrier
 * forces an EXACT out only where a body waits behind it: elsewhere the instruction, or the look,
 * may be still to come. `t < head` with the CAS behind it, since head never goes back; the
 * consumer's hand, which names an event's number before its tail moves, and `seen` with the CAS of
 * tail (DROP; apart in resume.pml); a plain store of the sweeper or joiner with the load before it.
 * The sweeper has no buffer: between its store to a record and the next reader of that record it
 * makes a system call, which drains it.
 *
 * What is not modelled: memory weaker than TSO (there the argument of docs/ordering.md stands
 * alone), deaths of a dropper between two CAS of its taking, of a joiner that settles, and stops
 * (ring.pml has all three), exclusive mode (exclusive.pml), slabs (slab.pml), sleep (wake.pml),
 * the consumer's death (resume.pml), the other things that ring.pml leaves out.
 *
 * Names as in ring.pml and in C. Words of the memory are in capitals.
 */
#ifndef C
#define C 1                     /* events */
#endif
#define N (2 * C)               /* cells */
#ifndef P
#define P 2                     /* producers, 2 at most */
#endif
#ifndef K
#define K 1                     /* events of each slot */
#endif
#ifndef TICKETS
#define TICKETS 3
#endif
#ifndef FAULTS
#define FAULTS 1
#endif
#define LIMIT (N + TICKETS)

#define READY    0
#define DONE     1
#define VOID     2
#define REVOKED  3
#define RETURNED 4
#define ST(p, tag)   (((p) << 3) | (tag))
#define POS(s)       ((s) >> 3)
#define TAG(s)       ((s) & 7)
#define USABLE(s, p) (POS(s) + N == (p) && TAG(s) <= VOID)

#define INEXACT(p)   ((p) << 1)
#define EXACT(p)     (((p) << 1) | 1)
#define IS_EXACT(b)  ((b) & 1)
#define BELOW(b, q)  ((b) != 0 && !IS_EXACT(b) && (b) <= INEXACT(q))

#define CELL(p)      ((p) % N)
#define W0(p)        (N + (p) % N)
#define W1(p)        (2 * N + (p) % N)
#define HEAD         (3 * N)
#define FREE         (3 * N + 1)        /* DROP: tail; BLOCK: done */
#define BUSY(i)      (3 * N + 2 + (i))
#define PUBLISHED(i) (3 * N + 2 + P + (i))
#define SEEN(i)      (3 * N + 2 + 2 * P + (i))
#define WORDS        (3 * N + 2 + 3 * P)
#define CONSUMER     P
#define SWEEPER      (P + 1)
#define PARTIES      (P + 2)
#define DEPTH        4

#define DEAD 0                  /* the byte of the slot is free */
#define LIVE 1
#define HELD 2                  /* by the sweeper or a joiner, which settle the slot */

#define COMMITTED 1
#define DROPPED   2
#define DELIVERED 3
#define ID        (1 + me * K + k)      /* the event in hand: number k + 1 of slot me */
#define SLOT(x)   (((x) - 1) / K)
#define NUMBER(x) (((x) - 1) % K + 1)

byte slot[P];
byte faults = FAULTS;
byte gone;
bit consumer_gone;
#ifdef BLOCK
byte tail = N;
#else
#define tail mem[FREE]
#endif

byte ticket[P];                 /* ghost: the last position that each producer claimed */
byte event[P * K + 1];          /* ghost: what became of each event */

hidden byte no_torn, no_loss, no_duplicate, no_phantom, order_per_producer, no_commit_behind_tail,
        quarantine_respected, cell_position_monotonic, cell_in_protocol, number_given_once,
        all_accounted_at_end, count_complete, observed_whole;
hidden byte other;
#define CHECK(name, condition) \
        if \
        :: (condition) \
        :: else -> assert(name) \
        fi

/*
 * A word of a body arrives in a cell that its producer still may write. (READY: that of a commit
 * which did not wait for the body; no_torn is the check for that.)
 */
#define IS_BODY(a)   ((a) >= N && (a) < 3 * N)
#define WRITES(s, p) (USABLE(s, p) || (s) == ST(p, REVOKED) || (s) == ST(p, READY))
#define CHECK_STORE(i, a, v) \
        CHECK(quarantine_respected, !IS_BODY(a) || WRITES(mem[CELL(ticket[i])], ticket[i]))

#include "buffer.pml"

inline change(p, to)
{
        CHECK(cell_position_monotonic, POS(to) >= POS(mem[CELL(p)]));
        CHECK(no_loss, TAG(mem[CELL(p)]) != READY || POS(mem[CELL(p)]) < tail);
        mem[CELL(p)] = to
}

/* The event in the words x, y is taken: once, whole, committed, in its producer's order. */
inline account(x, y, became)
{
        CHECK(no_torn, x == y);
        CHECK(no_phantom, x != 0 && event[x] != 0);
        CHECK(no_duplicate, event[x] == COMMITTED);
        other = x + 1;
        do
        :: SLOT(other) == SLOT(x) ->
                CHECK(order_per_producer, event[other] <= COMMITTED);
                other++
        :: else -> break
        od;
        event[x] = became
}

/* ---- what a mutant changes ---- */

#ifdef MUTANT_ANNOUNCE_LATER    /* R1: with EXACT only, which waits as the cell is looked at */
#define STORE_INEXACT skip
#else
#define STORE_INEXACT STORE(me, BUSY(me), INEXACT(h))
#endif
#ifdef MUTANT_CLAIM_UNLOCKED    /* R1: the claim is seen before the record that announces it */
#define CLAIM_LOCKED RUNS(me)
#else
#define CLAIM_LOCKED DRAINED(me)
#endif
#ifdef MUTANT_COMMIT_UNLOCKED   /* R2: READY is seen before the body */
#define COMMIT_LOCKED RUNS(me)
#else
#define COMMIT_LOCKED DRAINED(me)
#endif
#ifdef MUTANT_LOSER_UNLOCKED    /* R7: the cell is returned while late stores are on their way */
#define LOSER_LOCKED RUNS(me)
#else
#define LOSER_LOCKED DRAINED(me)
#endif
#ifdef MUTANT_CLEAR_BEFORE_COUNT        /* a death leaves neither count nor claim */
#define STORE_COUNT STORE(me, BUSY(me), 0); STORE(me, PUBLISHED(me), k)
#else
#define STORE_COUNT STORE(me, PUBLISHED(me), k); STORE(me, BUSY(me), 0)
#endif
#ifdef MUTANT_DONE_BEFORE_USE   /* R3: the next lap begins while the taker still reads */
#define STORE_SEEN STORE(me, SEEN(SLOT(x)), NUMBER(x))
#else
#define STORE_SEEN STORE(me, SEEN(SLOT(x)), NUMBER(x)); STORE(me, FREE, t + 1)
#endif
/* R9: EXACT waits in a buffer behind the look. */
#if defined(FENCE) || defined(MUTANT_NO_MEMBARRIER)
#define BARRIER(i) true
#else
#define BARRIER(i) (where[(i) * DEPTH] != BUSY(i) || !IS_BODY(where[(i) * DEPTH + 1]))
#endif
#if defined(FENCE) && !defined(MUTANT_NO_FENCE)
#define FENCED(i) DRAINED(i)
#else
#define FENCED(i) RUNS(i)
#endif
#ifdef NO_MEMBARRIER
#define PINS(b, q) ((b) == EXACT(q) || BELOW(b, q))
#else
#define PINS(b, q) ((b) == EXACT(q))
#endif
#define NUMBER_SEEN(i) x = (mem[SEEN(i)] > x -> mem[SEEN(i)] : x)
#ifdef MUTANT_NUMBER_AGAINST_THE_FLOW   /* R11: it goes from cell to `seen` between the looks */
#define SEEN_EARLY(i) NUMBER_SEEN(i)
#define SEEN_LATE(i) skip
#else
#define SEEN_EARLY(i) skip
#define SEEN_LATE(i) NUMBER_SEEN(i)
#endif

/* ---- takers ---- */

#define ALL_QUIET (me == CONSUMER && gone == P && mem[HEAD] == t)

#ifdef BLOCK
#define MAY_ADVANCE (RUNS(me) && ROOM(me, 1))
#define ADVANCE tail = t + 1; STORE(me, FREE, t + 1)
#else
#define MAY_ADVANCE DRAINED(me)
#define ADVANCE \
        if \
        :: tail == t -> tail = t + 1 \
        :: else \
        fi
#endif

/* The taker of position t. Falls through when it is to start over. */
inline take()
{
        atomic { RUNS(me) ->
                s = mem[CELL(t)];
                if
                :: s == ST(t, READY) -> s = 0; goto take_event
                :: else
                fi
        };
        atomic { RUNS(me) ->
                if
                :: tail != t -> goto took
                :: else
                fi;
                if
                :: USABLE(s, t) -> goto revoke
                :: POS(s) == t -> goto pass
                :: POS(s) < t && TAG(s) == REVOKED -> goto pass
                :: POS(s) < t && TAG(s) == RETURNED -> goto revoke
                :: else -> assert(cell_in_protocol)
                fi
        };
take_event:
#ifdef MUTANT_DONE_BEFORE_USE
        atomic { RUNS(me) && ROOM(me, 1) -> STORE(me, FREE, t + 1) };
#endif
        atomic { RUNS(me) -> x = mem[W0(t)] };
#ifdef DROP
        atomic { RUNS(me) -> y = mem[W1(t)] };
        atomic { DRAINED(me) ->
                if
                :: tail == t && me == CONSUMER ->
                        tail = t + 1;
                        account(x, y, DELIVERED);
                        mem[SEEN(SLOT(x))] = NUMBER(x)
                :: tail == t && me != CONSUMER ->
                        tail = t + 1;
                        account(x, y, DROPPED)
                :: else
                fi;
                goto took
        };
#else
        atomic { RUNS(me) && ROOM(me, 2) ->
                y = mem[W1(t)];
                account(x, y, DELIVERED);
                tail = t + 1;
                STORE_SEEN;
                goto took
        };
#endif
revoke:
        atomic {
                if
                :: DRAINED(me) && t < mem[HEAD] && mem[CELL(t)] != s -> goto took
                :: DRAINED(me) && t < mem[HEAD] && mem[CELL(t)] == s ->
                        if
                        :: TAG(s) == RETURNED -> change(t, ST(t, VOID))
                        :: else -> change(t, ST(t, REVOKED))
                        fi
                :: ALL_QUIET -> goto took
                fi };
pass:
        atomic {
                if
                :: MAY_ADVANCE && t < mem[HEAD] ->
                        CHECK(no_loss, tail != t || mem[CELL(t)] != ST(t, READY));
                        ADVANCE
                :: ALL_QUIET
                fi };
took:
        atomic { t = 0; s = 0; x = 0; y = 0 }
}

/* ---- what the dead left ---- */

/*
 * shr_peer_last_number of slot i, into x; q: the claim of a record that is exact. The code asks for
 * head - q < N, which is the same as long as handles ≤ C; here there may be one more.
 */
inline last_number(i)
{
        atomic {
                x = mem[PUBLISHED(i)];
                SEEN_EARLY(i);
                q = (IS_EXACT(mem[BUSY(i)]) -> mem[BUSY(i)] >> 1 : 0) };
        if
        :: atomic { q == 0 || mem[CELL(q)] != ST(q, READY) }
        :: atomic { q != 0 && mem[CELL(q)] == ST(q, READY) };
                y = mem[W0(q)];
                atomic {
                        if
                        :: mem[HEAD] - q <= N && SLOT(y) == i && NUMBER(y) > x -> x = NUMBER(y)
                        :: else
                        fi;
                        y = 0 }
        fi;
        SEEN_LATE(i)
}

/* settle_claim: the dead record was exact at q. */
inline settle_claim()
{
        do
        :: atomic { q == 0 -> break }
        :: atomic { q != 0 ->
                s = mem[CELL(q)];
                if
                :: USABLE(s, q) || s == ST(q, REVOKED)
                :: else -> break
                fi };
                atomic { DRAINED(me) ->
                        if
                        :: mem[CELL(q)] == s && TAG(s) == REVOKED ->
                                change(q, ST(q, RETURNED));
                                break
                        :: mem[CELL(q)] == s && TAG(s) != REVOKED -> change(q, ST(q, VOID)); break
                        :: mem[CELL(q)] != s            /* a taker revoked it: look again */
                        fi }
        od;
        atomic { s = 0; q = 0 }
}

#define DIRTY(i) (slot[i] == DEAD && mem[BUSY(i)] != 0)
#if P == 1
#define ANY_DIRTY DIRTY(0)
#define ANY_PINS(q) PINS(mem[BUSY(0)], q)
#else
#define ANY_DIRTY (DIRTY(0) || DIRTY(1))
#define ANY_PINS(q) (PINS(mem[BUSY(0)], q) || PINS(mem[BUSY(1)], q))
#endif
#define SWEEPABLE(c) (TAG(mem[c]) == REVOKED && !ANY_PINS(POS(mem[c])))
#define ANY_SWEEPABLE \
        (SWEEPABLE(0) || SWEEPABLE(1 % N) || SWEEPABLE(2 % N) || SWEEPABLE(3 % N))

/* ---- processes ---- */

#define LEAVES (k >= K || mem[HEAD] >= LIMIT)
#define DIES   atomic { faults > 0 -> faults--; cut(me); goto died }

proctype producer(byte me)
{
        byte k, h, s, t, x, y, q;

again:
        atomic { RUNS(me) ->
                if
                :: LEAVES -> goto leave
                :: else -> h = mem[HEAD]
                fi
        };
#ifdef BLOCK
        atomic { RUNS(me) ->
                if
                :: h - mem[FREE] < C -> STORE_INEXACT; h = 0
                :: mem[HEAD] >= LIMIT -> h = 0; goto leave
                fi
        };
#else
        atomic { RUNS(me) ->
                if
                :: h - tail < C -> STORE_INEXACT; h = 0; goto claim
                :: else -> t = tail; h = 0
                fi
        };
        take();
        goto again;
#endif
claim:
        if
        :: atomic { CLAIM_LOCKED && mem[HEAD] < LIMIT ->
                h = mem[HEAD];
                mem[HEAD] = h + 1;
                ticket[me] = h;
                STORE(me, BUSY(me), EXACT(h)) }
        :: atomic { DRAINED(me) && mem[HEAD] >= LIMIT -> STORE(me, BUSY(me), 0); goto leave }
        :: DIES
        fi;
        atomic { FENCED(me) ->
                s = mem[CELL(h)];
                if
                :: USABLE(s, h) -> STORE(me, W0(h), ID); STORE(me, W1(h), ID)
                :: else -> s = 0; goto void
                fi
        };
        if
        :: atomic { COMMIT_LOCKED && mem[CELL(h)] == s ->
                CHECK(no_commit_behind_tail, h >= tail);
                /* One that producers dropped before anybody knew of it was never accepted. */
                CHECK(number_given_once, event[ID] == 0 || event[ID] == DROPPED);
                change(h, ST(h, READY));
                event[ID] = COMMITTED;
                k++;
                STORE_COUNT;
                h = 0;
                s = 0;
                goto again }
        :: atomic { LOSER_LOCKED && mem[CELL(h)] != s -> s = 0 }
        :: DIES
        fi;
void:
        if
        :: atomic { LOSER_LOCKED ->
                if
                :: mem[CELL(h)] == ST(h, REVOKED) -> change(h, ST(h, RETURNED))
                :: else
                fi;
                STORE(me, BUSY(me), 0);
                h = 0;
                goto again }
        :: DIES
        fi;
leave:
        if
        :: atomic { DRAINED(me) -> slot[me] = DEAD; k = 0; gone++; goto left }
        :: DIES
        fi;
died:
        atomic { DRAINED(me) -> slot[me] = DEAD; h = 0; s = 0; k = 0 };
        /* The next owner of the slot. */
        atomic { slot[me] == DEAD -> slot[me] = HELD };
        last_number(me);
        atomic { mem[PUBLISHED(me)] = x; k = x; x = 0 };
        settle_claim();
        atomic {
                STORE(me, BUSY(me), 0);
                slot[me] = LIVE;
                goto again
        };
left:
        skip
}

proctype consumer()
{
        byte me = CONSUMER, t, s, x, y;

again:
        atomic { RUNS(me) ->
                if
                :: gone == P && mem[HEAD] == tail -> goto leave
                :: else -> t = tail
                fi
        };
        take();
        goto again;
leave:
        consumer_gone = true
}

#ifdef OBSERVER
/* Looks once, at any position and at any time. */
proctype observer()
{
        byte p = N, h, x, y;

        atomic {
                do
                :: p + 1 < LIMIT -> p++
                :: break
                od
        };
        if
        :: atomic { mem[CELL(p)] == ST(p, READY) }
        :: atomic { gone == P -> goto unseen }
        fi;
#ifdef MUTANT_HEAD_BEFORE_WORDS         /* R4: the next lap begins between look and copy */
        h = mem[HEAD];
#endif
        x = mem[W0(p)];
        y = mem[W1(p)];
#ifndef MUTANT_HEAD_BEFORE_WORDS
        h = mem[HEAD];
#endif
        atomic {
                if
#ifdef MUTANT_STATE_FOR_HEAD            /* R4: READY(p) stays there while the next lap fills */
                :: mem[CELL(p)] != ST(p, READY)
#else
                :: h - p >= N
#endif
                :: else -> CHECK(observed_whole, x == y && x != 0 && event[x] != 0)
                fi
        };
unseen:
        atomic { p = 0; h = 0; x = 0; y = 0 }
}
#endif

proctype sweeper()
{
        byte me = SWEEPER, q, s, i, c, x, y;

idle:
        /* Any slot or any cell; a choice without work leads back to this same state. */
        atomic {
                if
                :: gone == P && consumer_gone && !ANY_DIRTY -> goto last
                :: ANY_DIRTY ->
                        do
                        :: c + 1 < P -> c++
                        :: break
                        od;
                        if
                        :: DIRTY(c) -> slot[c] = HELD; goto settle
                        :: else -> c = 0; goto idle
                        fi
                :: ANY_SWEEPABLE && !(gone == P && consumer_gone) ->
                        do
                        :: c + 1 < N -> c++
                        :: break
                        od;
                        if
                        :: SWEEPABLE(c) -> q = POS(mem[c])
                        :: else -> c = 0; goto idle
                        fi
                fi
        };
look:
        /* y: behind a membarrier. The code looks at the other records too before it calls that. */
        do
        :: atomic { i < P && mem[BUSY(i)] == EXACT(q) -> goto swept }
        :: atomic { i < P && !y && BELOW(mem[BUSY(i)], q) -> i = 0; break }
        :: atomic { i < P && mem[BUSY(i)] != EXACT(q) && (y || !BELOW(mem[BUSY(i)], q)) -> i++ }
        :: atomic { i == P ->
                if
                :: mem[c] == ST(q, REVOKED) -> change(c, ST(q, RETURNED))
                :: else
                fi;
                goto swept }
        od;
#ifndef NO_MEMBARRIER
        /* Each producer passes it at a moment of its own. */
        do
        :: atomic { i < P && BARRIER(i) -> i++ }
        :: atomic { i == P -> i = 0; y = 1; goto look }
        od;
#endif
swept:
        atomic { i = 0; q = 0; c = 0; y = 0; goto idle };
settle:
        last_number(c);
        atomic { mem[PUBLISHED(c)] = x; x = 0 };
        settle_claim();
        mem[BUSY(c)] = 0;
        atomic { slot[c] = DEAD; c = 0; goto idle };
last:
        atomic {
                c = 1;
                do
                :: c <= P * K ->
                        CHECK(all_accounted_at_end, event[c] != COMMITTED);
                        CHECK(count_complete,
                                event[c] != DELIVERED || NUMBER(c) <= mem[PUBLISHED(SLOT(c))]);
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
                :: i < N -> mem[i] = ST(i, VOID); i++
                :: else -> break
                od;
                mem[HEAD] = N;
                mem[FREE] = N;
                i = 0;
                do
                :: i < P -> slot[i] = LIVE; run producer(i); run store_buffer(i); i++
                :: else -> break
                od;
                i = 0;
                run consumer();
#ifdef BLOCK
                run store_buffer(CONSUMER);
#endif
                run sweeper();
#ifdef OBSERVER
                run observer()
#endif
        }
}
