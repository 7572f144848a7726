/*
 * ring.pml: a Promela model of the ring of geb: publish, take, drop, sweep, recovery of a dead
 * slot, and rejoin. Producers die (and with -DSTOPS stop for ever) before any store that others
 * can see; patience may end at any moment. tests/model/run runs it; by hand:
 *     spin -a -DDROP ring.pml && gcc -O2 -DSAFETY -DCOLLAPSE -o pan pan.c && ./pan -m100000
 *
 * What is modelled
 *   - publish, steps 1 to 7: the check of `free`, busy inexact, claim, busy EXACT, the look at the
 *     cell, the body as two words, the commit CAS, and the way back of a void ticket: the cell
 *     is given back if it is REVOKED(p), and the event is published again.
 *   - take (take.pml): the whole table, by the consumer and (DROP) by producers that make room. A
 *     taker that loses a CAS starts over. Nothing at t is passed before t is claimed. The C code
 *     looks at tail again for every row, the model only for RETURNED, where the protocol needs it.
 *   - sweep (sweep.pml): a REVOKED(q) goes back when, behind a membarrier, no live record is
 *     EXACT(q); with -DNO_MEMBARRIER, when none is EXACT(q) or INEXACT at or below q.
 *   - recovery, by whoever holds the byte of a dead slot: the sweeper, or a joiner, which may die
 *     of it. A dead record EXACT(q): the cell becomes VOID(q) if it is still usable for q,
 *     RETURNED(q) if it is REVOKED(q); then the record is cleared. A dead inexact record is only
 *     cleared.
 *   - rejoin: the next owner of a slot goes on with its event numbers.
 *   - two policies. DROP: `free` is tail, which moves by CAS; takers copy the event out before
 *     that CAS. BLOCK: `free` is done; the consumer alone stores tail, reads the cell in place
 *     between its stores of tail and of done, and marks some cells DONE. (The C consumer stores
 *     tail behind its reads as well, so a producer that finds the ring full may look at tail: it
 *     sees there what is `done` here.)
 *   - one reordering: the load of step 4 may come before the store of EXACT, as x86 allows.
 *     Without it the inexact record would be needless; a membarrier makes EXACT visible where the
 *     load has overtaken it. The other loads of a publish either have a
 *     locked instruction between them and the stores before, or (step 1) may come early anyway.
 *
 * What is not modelled: memory orders weaker than that (tso.pml), slabs and hands (slab.pml), a
 * restart of the consumer and redelivery (resume.pml), exclusive mode (exclusive.pml), sleeping
 * (wake.pml), observers (tso.pml), event counts (resume.pml); workers that finish out of order, the
 * shelf, bad bytes, the timeout of Block, ReturnError (a Block that gives up), the list of suspects
 * of the sweep (the model looks at all cells).
 *
 * Names in C: producer() is shr_try_publish and shr_publish_void; take() is shr_peek_slow, revoke,
 * pass_older, advance and shr_take_at; recover_cell() is settle_claim, recover() shr_sweep_slot,
 * sweep_cell() sweep_revoked and find_claim, USABLE shr_state_usable.
 * head tail done busy as in C; cell[] holds the state words, ST(p, READY) is READY(p); w0[] and
 * w1[] are the bodies; busy is 0, INEXACT(p) or EXACT(p); slot[] are the lock bytes. event[], own[]
 * are ghosts that only checks read. K: events of each producer. TICKETS: positions that may be
 * claimed before producers leave. FAULTS: deaths and stops together.
 *
 * Step size. With -DFINE each step has one access to shared memory. Without, some are joined, each
 * so that the joined step can do everything that the separate ones can do to others:
 *   - inexact and claim: a record that appears earlier only pins more;
 *   - step 4 loads before it stores;
 *   - the sweep's look at the records and its CAS: a record that does not pin q never will, since
 *     what it claims later is above q; likewise the look of a recovery and its CAS;
 *   - head and `free` in step 1: but a head read before others moved on lets more producers pass,
 *     which only FINE covers.
 * In both, a body is loaded with the state word (if a later load could see a mixture, so can one
 * that falls between the stores of the writer), and `t < head` is asked together with the CAS after
 * it (head never goes back). A producer dies only before stores: its loads leave no trace.
 *
 * A failed check fails an assertion that consists of the name of the check. A party that waits for
 * ever is an invalid end state. Not excluded are runs in which takers start over for ever.
 */
#ifndef C
#define C 1                     /* events */
#endif
#ifndef N
#define N (2 * C)               /* cells */
#endif
#ifndef P
#define P 2                     /* producers */
#endif
#ifndef K
#define K 2
#endif
#ifndef TICKETS
#define TICKETS 6
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
#define AT(p)        ((p) % N)
#define USABLE(s, p) (POS(s) + N == (p) && TAG(s) <= VOID)

#define INEXACT(p)   ((p) << 1)
#define EXACT(p)     (((p) << 1) | 1)
#define IS_EXACT(b)  ((b) & 1)
#define BELOW(b, q)  ((b) != 0 && !IS_EXACT(b) && (b) <= INEXACT(q))

#define DEAD 0                  /* the byte of the slot is free */
#define LIVE 1
#define HELD 2                  /* locked by the sweeper or a joiner, for recovery */

#define COMMITTED 1
#define TAKEN     2             /* delivered or dropped */

#define ID   (1 + me * K + k)   /* the event that a producer has in hand */
#define TORN 255

byte cell[N], w0[N], w1[N];
byte head = N, tail = N;
#ifdef BLOCK
byte done = N;
#define FREE done
#else
#define FREE tail
#endif
byte busy[P], slot[P];
byte faults = FAULTS;
byte gone;                      /* producers that will not act again */
bit consumer_gone;

byte event[P * K + 1];          /* what became of each event */
byte own[P];                    /* what the record of a stopped producer ought to be */
byte late[P];                   /* the EXACT that the load of the cell has overtaken; 0: none */

/* The names of the checks. They stay 0, so that asserting one fails and prints it. */
hidden byte no_torn, no_loss, no_duplicate, no_phantom, order_per_producer, no_commit_behind_tail,
        no_void_behind_tail, capacity_bound, quarantine_respected, tail_monotonic,
        tail_not_beyond_head, cell_position_monotonic, cell_in_protocol, takers_never_stick,
        all_accounted_at_end, stop_pins_only_its_own;
hidden byte other;
#define CHECK(name, condition) \
        if \
        :: (condition) \
        :: else -> assert(name) \
        fi

/* Every change of a state word: positions never go back, and no waiting event is overwritten. */
inline change(c, to)
{
        CHECK(cell_position_monotonic, POS(to) >= POS(cell[c]));
        CHECK(no_loss, TAG(cell[c]) != READY || POS(cell[c]) < tail);
        cell[c] = to
}

inline copy_body(c, x)
{
        x = (w0[c] == w1[c] -> w0[c] : TORN)
}

/* The event x has been taken: once, whole, committed, and before the later ones of its producer. */
inline account(x)
{
        CHECK(no_torn, x != TORN);
        CHECK(no_phantom, x != 0 && event[x] != 0);
        CHECK(no_duplicate, event[x] == COMMITTED);
        other = x + 1;
        do
        :: (other - 1) / K == (x - 1) / K ->
                CHECK(order_per_producer, event[other] != TAKEN);
                other++
        :: else -> break
        od;
        event[x] = TAKEN
}

#include "mutants.pml"

/* The sweeper's membarrier. What is on its way to memory arrives; the dead have nothing there. */
#if defined(NO_MEMBARRIER) || defined(MUTANT_GRACE_WITHOUT_INEXACT)
#define LATE(record) skip
#define MEMBARRIER   skip
#define MAY_PIN(b, q) BELOW(b, q)
#else
#define MAY_PIN(b, q) false
#define LATE(record) late[me] = record
#define MEMBARRIER \
        do \
        :: i < P && late[i] != 0 -> busy[i] = late[i]; i++ \
        :: i < P && late[i] == 0 -> i++ \
        :: else -> break \
        od
#endif

#ifdef FINE                             /* several steps, or one */
#define STEPS
#else
#define STEPS atomic
#endif

/*
 * The producer dies, or stops for ever, instead of the store beside which this stands. `ought` is
 * what its record has to say for it by then.
 */
#define FAULT(ought) \
        atomic { me < P && faults > 0 -> faults--; own[me] = ought; LATE(0); goto fault }

#include "take.pml"
#include "sweep.pml"

/* The number of events, or the bound of the model, is reached. */
#define LEAVES (k == K || head >= LIMIT)
#define STILL_OURS (cell[AT(h)] == s || cell[AT(h)] == ST(h, REVOKED))

proctype producer(byte me)
{
        byte k, h, s, t, x, q;
#ifdef MUTANT_RETRY_LATER
        byte later;
#endif

again:
        /* 1. Full? */
#ifdef FINE
        atomic {
                if
                :: LEAVES -> goto leave
                :: else -> h = head
                fi
        };
#define HEAD_SEEN h
#else
#define HEAD_SEEN head
#endif
#ifdef BLOCK
        if
        :: atomic { LEAVES -> goto leave }
        :: atomic { !LEAVES && HEAD_SEEN - done < C -> h = 0 }
        fi;
#else
        atomic {
                if
                :: LEAVES -> goto leave
                :: !LEAVES && HEAD_SEEN - tail < C -> h = 0; goto claim
                :: else -> t = tail; h = 0
                fi
        };
        take();
        goto again;
#endif

claim:
        /* 2 and 3. The first to claim is producer 0: all are alike. */
#ifdef FINE
        STORE_INEXACT;
#endif
        if
        :: atomic { head < LIMIT && (me == 0 || head > N || slot[0] != LIVE || own[0] != 0) ->
                CHECK(capacity_bound, head + 1 - FREE <= C - 1 + P);
#ifndef FINE
                STORE_INEXACT;
#endif
                h = head;
                head++ }
        :: atomic { head >= LIMIT -> goto clear }
        :: FAULT(busy[me])
        fi;
        /* 4. The load of the cell may overtake the store of EXACT. */
        if
#ifdef FINE
        :: STORE_EXACT;
                s = cell[AT(h)]
#endif
        :: atomic { s = cell[AT(h)]; LATE(EXACT(h)) };
                if
                :: atomic { STORE_EXACT; LATE(0) }
                :: FAULT(busy[me])
                fi
        fi;
        atomic {
                if
                :: s == ST(h, REVOKED) -> s = 0; goto give_back
                :: USABLE_BY_PRODUCER(s, h)
                :: else -> s = 0; h = 0; goto clear
                fi
        };
#ifdef MUTANT_CLEAR_BEFORE_BODY         /* the sweep returns a cell that is still written */
        busy[me] = 0;
#endif
        /* 5 and 6. */
        if
        :: atomic {
                CHECK(quarantine_respected, STILL_OURS);
                w0[AT(h)] = ID }
        :: FAULT(EXACT(h))
        fi;
#ifndef MUTANT_COMMIT_BEFORE_BODY
        if
        :: atomic {
                CHECK(quarantine_respected, STILL_OURS);
                w1[AT(h)] = ID }
        :: FAULT(EXACT(h))
        fi;
#endif
        if
        :: atomic {
                if
                :: COMMIT_CAS ->
                        CHECK(no_commit_behind_tail, h >= tail);
                        change(AT(h), ST(h, READY));
                        event[ID] = COMMITTED;
                        s = 0;
#ifdef MUTANT_COMMIT_BEFORE_BODY        /* a taker finds half an event */
                        goto late_body
#else
                        h = 0;
                        NEXT_EVENT;
                        goto clear
#endif
                :: else -> s = 0
                fi }
        :: FAULT(EXACT(h))
        fi;
give_back:
        if
        :: atomic {
#ifdef NO_MEMBARRIER
                CHECK(quarantine_respected, cell[AT(h)] == ST(h, REVOKED));
#endif
                if
                :: cell[AT(h)] == ST(h, REVOKED) -> change(AT(h), ST(h, RETURNED))
                :: else         /* the sweep was first: we had not looked before its barrier */
                fi;
                h = 0;
                RETRY_EVENT }
        :: FAULT(EXACT(h))
        fi;
        /* 7. A void ticket ends here too. */
clear:
        if
        :: atomic { busy[me] = 0; goto AFTER_VOID }
        :: atomic { faults > 0 -> faults--; own[me] = busy[me]; goto fault_after }
        fi;
#ifdef MUTANT_RETRY_WITHOUT_CHECK
after_void:
        if
        :: atomic { LEAVES -> goto leave }
        :: atomic { !LEAVES -> goto claim }
        fi;
#endif
#ifdef MUTANT_COMMIT_BEFORE_BODY
late_body:
        atomic { w1[AT(h)] = ID; h = 0; k++; goto clear };
#endif

fault:
        k++;                    /* the event in hand dies with its producer */
fault_after:
        atomic {
                h = 0; s = 0; t = 0; x = 0; q = 0;
                if
#ifdef STOPS
                :: goto stopped
#endif
                :: own[me] = 0; slot[me] = DEAD
                fi;
                if
                :: k < K
                :: goto stopped
                fi
        };
        /* A joiner locks the byte, and recovers the slot before its first publish. */
        STEPS {
                atomic { slot[me] == DEAD -> slot[me] = HELD };
                recover(me);
                atomic { slot[me] = LIVE; goto again }
        };
leave:
        atomic { slot[me] = DEAD; h = 0 };
stopped:
        atomic { k = 0; gone++ }
}

proctype consumer()
{
        byte me = P, t, s, x;

again:
        atomic {
                if
                :: gone == P && head == tail -> goto leave
                :: else -> t = tail
                fi
        };
        take();
        goto again;
fault:
        assert(false);          /* the consumer does not die here */
leave:
        consumer_gone = true
}

proctype sweeper()
{
        byte me = P, q, s, i, c;

idle:
        /* Any slot or any cell; a choice without work leads back to this same state. */
        STEPS {
                atomic {
                        if
                        :: gone == P && consumer_gone && !ANY_DIRTY -> goto last
                        :: ANY_DIRTY ->
                                do
                                :: c + 1 < P -> c++
                                :: break
                                od;
                                if
                                :: DIRTY(c) -> slot[c] = HELD_BY_SWEEPER
                                :: else -> c = 0; goto idle
                                fi
                        :: ANY_SWEEPABLE && !(gone == P && consumer_gone) ->
                                do
                                :: c + 1 < N -> c++
                                :: break
                                od;
                                if
                                :: SWEEPABLE(c) -> goto found
                                :: else -> c = 0; goto idle
                                fi
                        fi
                };
                recover(c);
#ifndef MUTANT_RECOVER_UNLOCKED
                slot[c] = DEAD;
#endif
                atomic { c = 0; goto idle };
found:
                sweep_cell(c);
                atomic { c = 0; goto idle }
        };
fault:
        assert(false);          /* this sweeper does not die; joiners do */
last:
        /* All have left, died for good or stopped for ever. */
        c = 0;
        do
        :: c < N -> sweep_cell(c); c++
        :: else -> break
        od;
        atomic {
                c = 1;
                do
                :: c <= P * K -> CHECK(all_accounted_at_end, event[c] != COMMITTED); c++
                :: else -> break
                od;
                c = 0;
                do
                :: c < N ->
                        q = POS(cell[c]);
                        do
                        :: i < P && own[i] != EXACT(q) && !MAY_PIN(own[i], q) -> i++
                        :: else -> break
                        od;
                        CHECK(stop_pins_only_its_own, TAG(cell[c]) != REVOKED || i < P);
                        i = 0;
                        c++
                :: else -> break
                od
        }
}

init
{
        byte i;

        atomic {
                do
                :: i < N -> cell[i] = ST(i, VOID); i++
                :: else -> break
                od;
                i = 0;
                do
                :: i < P -> slot[i] = LIVE; run producer(i); i++
                :: else -> break
                od;
                i = 0;
                run consumer();
                run sweeper()
        }
}
