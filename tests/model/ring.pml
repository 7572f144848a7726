/*
 * ring.pml: a Promela model of the ring of geb: publish, take, drop, sweep, recovery of a dead
 * slot, and rejoin. Producers die (and with -DSTOPS stop for ever) before any store that others
 * can see; patience may end at any moment. tests/model/run runs it; by hand:
 *     spin -a -DDROP ring.pml && gcc -O2 -DSAFETY -DCOLLAPSE -o pan pan.c && ./pan -m1000000
 *
 * What is modelled
 *   - publish, steps 1 to 7: the check of `free`, busy inexact, claim, busy EXACT, the look at the
 *     cell, the body as two words, the commit CAS, and the way back of a void ticket: the cell
 *     is given back if it is REVOKED(p), and the event is published again.
 *   - take: the whole table, by the consumer and (DROP) by producers that make room. A taker that
 *     loses a CAS starts over. Nothing at t is passed before t is claimed.
 *   - sweep: a REVOKED(q) goes back when no live record is EXACT(q) or INEXACT at or below q.
 *   - recovery, by whoever holds the byte of a dead slot: the sweeper, or a joiner, which may die
 *     of it. A dead record EXACT(q): the cell becomes VOID(q) if it is still usable for q,
 *     RETURNED(q) if it is REVOKED(q); then the record is cleared.
 *   - rejoin: the next owner of a slot goes on with its event numbers.
 *   - two policies. DROP: `free` is tail, which moves by CAS; takers copy the event out before
 *     that CAS. BLOCK: `free` is done; the consumer alone stores tail, reads the cell in place
 *     between its stores of tail and of done, and marks some cells DONE.
 *   - one reordering: the load of step 4 may come before the store of EXACT, as x86 allows.
 *     Every other load of a publish has a locked instruction between it and the stores before it,
 *     or (step 1) decides nothing that an earlier load could not decide; so TSO adds no more.
 *
 * What is not modelled: memory orders weaker than that, slabs and hands, a restart of the consumer
 * and redelivery, workers, the shelf, exclusive mode (exclusive.pml), sleeping (wake.pml),
 * observers, bad bytes, the timeout of Block, ReturnError (Block that gives up).
 *
 * Names. head tail done busy as in the C code; ST(p, READY) is READY(p); cell[] holds the state
 * words, w0[] and w1[] the bodies; busy is 0, INEXACT(p) or EXACT(p); slot[] are the lock bytes.
 * event[], own[] are ghosts that only checks read. K: events of each producer. TICKETS: positions
 * that may be claimed before producers leave. FAULTS: deaths and stops together.
 *
 * Step size. With -DFINE each step has one access to shared memory. Without, some are joined, each
 * so that the joined step can do everything that the separate ones can do to others:
 *   - inexact and claim (a record that appears earlier only pins more); the last word of the body
 *     and the commit CAS (a late write is as late as can be); step 4 loads before it stores;
 *   - the sweep's look at the records and its CAS (a record that does not pin q never will: what it
 *     claims later is above q); the load of head and of `free` in step 1 (but a head read before
 *     others moved on lets more producers pass: FINE covers this).
 * In both, a body is loaded with the state word (if a later load could see a mixture, so can one
 * that falls between the stores of the writer), and `t < head` is asked together with the CAS after
 * it (head never goes back). A producer dies only before stores: its loads leave no trace.
 *
 * A failed check fails an assertion that consists of the name of the check.
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
        CHECK(no_torn, x != TORN && x != 0);
        CHECK(no_phantom, event[x] != 0);
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

/*
 * The rules that a mutant changes, with what its absence would do. mutants.txt says which check
 * finds it.
 */
#if defined(MUTANT_REUSE_REVOKED)       /* two producers write one cell */
#define USABLE_BY_PRODUCER(s, p) (USABLE(s, p) || s == ST(p - N, REVOKED))
#elif defined(MUTANT_REUSE_RETURNED)    /* a taker voids a cell that is being written */
#define USABLE_BY_PRODUCER(s, p) (USABLE(s, p) || s == ST(p - N, RETURNED))
#elif defined(MUTANT_REUSE_VOIDED)      /* the position was passed already */
#define USABLE_BY_PRODUCER(s, p) (USABLE(s, p) || s == ST(p, VOID))
#else
#define USABLE_BY_PRODUCER(s, p) USABLE(s, p)
#endif
#ifdef MUTANT_PLAIN_COMMIT              /* a revoked producer commits all the same */
#define COMMIT_CAS true
#else
#define COMMIT_CAS (cell[AT(h)] == s)
#endif
#ifdef MUTANT_NO_INEXACT                /* a ticket that no record shows yet */
#define STORE_INEXACT skip
#else
#define STORE_INEXACT busy[me] = INEXACT(head)
#endif
#if defined(MUTANT_NO_QUARANTINE)       /* cells go back while a late producer still writes */
#define PINS(b, q) false
#elif defined(MUTANT_GRACE_WITHOUT_INEXACT)     /* a claim whose EXACT is not visible yet */
#define PINS(b, q) ((b) == EXACT(q))
#elif defined(MUTANT_GRACE_WITHOUT_EXACT)
#define PINS(b, q) BELOW(b, q)
#else
#define PINS(b, q) ((b) == EXACT(q) || BELOW(b, q))
#endif
#ifdef MUTANT_SWEEP_TO_VOID             /* tail has passed q, perhaps by laps */
#define SWEPT VOID
#else
#define SWEPT RETURNED
#endif
#ifdef MUTANT_RECOVER_TO_VOID           /* the same, for a dead record */
#define RECOVERED VOID
#else
#define RECOVERED RETURNED
#endif
#ifdef MUTANT_RECOVER_BY_STORE          /* a cell that was revoked and passed meanwhile */
#define RECOVER_CAS true
#else
#define RECOVER_CAS (cell[AT(q)] == s)
#endif
#ifdef MUTANT_RECOVER_UNLOCKED          /* the record of the new owner is cleared */
#define HELD_BY_SWEEPER DEAD
#else
#define HELD_BY_SWEEPER HELD
#endif
#ifdef MUTANT_NO_SECOND_LOOK            /* a stale taker voids a cell for a position long passed */
#define SECOND_LOOK true
#else
#define SECOND_LOOK (tail == t)
#endif
#ifdef MUTANT_PASS_UNCLAIMED            /* tail runs past head over quarantined cells */
#define CLAIMED true
#else
#define CLAIMED (t < head)
#endif
#ifdef MUTANT_REVOKE_BY_STORE           /* a commit that came in between is overwritten */
#define REVOKE_CAS true
#else
#define REVOKE_CAS (cell[AT(t)] == s)
#endif
#ifdef MUTANT_PASS_WITHOUT_REVOKE       /* the producer can still commit */
#define REVOKE skip
#else
#define REVOKE change(AT(t), ST(t, REVOKED))
#endif
#ifdef MUTANT_PASS_AFTER_LOST_REVOKE    /* what was committed meanwhile is passed */
#define REVOKE_LOST pass
#else
#define REVOKE_LOST took
#endif
#ifdef MUTANT_PASS_AFTER_LOST_VOID      /* a stale taker voided the cell for an older position */
#define VOID_LOST pass
#else
#define VOID_LOST took
#endif
#ifdef MUTANT_TAIL_BY_STORE             /* a stale taker moves tail back */
#define TAIL_CAS true
#else
#define TAIL_CAS (tail == t)
#endif
#if defined(MUTANT_COPY_AFTER_CAS) || defined(BLOCK)
#define COPY_EARLY skip
#else
#define COPY_EARLY copy_body(AT(t), x)
#endif
#ifdef FINE                             /* the body of an atomic is one step, or several */
#define STEPS
#else
#define STEPS atomic
#endif

/*
 * The producer dies, or stops for ever, instead of the store beside which this stands. `ought` is
 * what its record has to say for it by then.
 */
#define FAULT(ought) atomic { me < P && faults > 0 -> faults--; own[me] = ought; goto fault }

/* The consumer, at t, has nothing to wait for any more. */
#define ALL_QUIET (me == P && gone == P && head == t)

/* The taker of position t. Falls through when it is to start over. */
inline take()
{
        atomic {
                s = cell[AT(t)];
                if
                :: s == ST(t, READY) -> COPY_EARLY; s = 0; goto take_event
                :: POS(s) == t && TAG(s) != READY -> s = 0; goto pass
                :: USABLE(s, t) -> goto revoke
                :: POS(s) < t && TAG(s) == REVOKED -> s = 0; goto pass
                :: POS(s) < t && TAG(s) == RETURNED -> goto look_again
                :: POS(s) > t -> CHECK(takers_never_stick, tail != t); goto took
                :: else -> assert(cell_in_protocol)
                fi
        };
take_event:
#if defined(MUTANT_COPY_AFTER_CAS)      /* the cell is the next producer's already */
        atomic {
                if
                :: tail == t -> tail = t + 1
                :: else -> goto took
                fi
        };
        atomic { copy_body(AT(t), x); account(x); goto took };
#elif defined(DROP)
        atomic {
                if
                :: TAIL_CAS -> CHECK(tail_monotonic, tail == t); tail = t + 1; account(x)
                :: else ->
#ifdef MUTANT_COUNT_WITHOUT_WINNING     /* two takers count one event */
                        account(x)
#endif
                fi;
                goto took
        };
#else
        tail = t + 1;
#ifdef MUTANT_DONE_BEFORE_USE           /* the cell is the next producer's already */
        done = t + 1;
#endif
        atomic {
                copy_body(AT(t), x);
                account(x);
                if
                :: x & 1 -> change(AT(t), ST(t, DONE))
                :: else
                fi;
                x = 0
        };
        atomic { done = t + 1; goto took };
#endif
revoke:
        if
        :: atomic { t < head ->
                if
                :: REVOKE_CAS -> REVOKE; s = 0; goto pass
                :: else -> s = 0; goto REVOKE_LOST
                fi }
        :: atomic { ALL_QUIET -> goto took }
        :: FAULT(0)
        fi;
look_again:
        if
        :: atomic { CLAIMED && SECOND_LOOK }
        :: atomic { CLAIMED && !SECOND_LOOK -> goto took }
        :: atomic { ALL_QUIET -> goto took }
        fi;
        if
        :: atomic {
                if
                :: cell[AT(t)] == s -> change(AT(t), ST(t, VOID)); s = 0; goto pass
                :: else -> s = 0; goto VOID_LOST
                fi }
        :: FAULT(0)
        fi;
pass:
        if
        :: atomic { CLAIMED ->
                if
                :: TAIL_CAS ->
                        CHECK(no_loss, cell[AT(t)] != ST(t, READY));
                        CHECK(tail_not_beyond_head, t < head);
                        CHECK(tail_monotonic, tail == t);
                        tail = t + 1;
#ifdef BLOCK
                        done = t + 1
#endif
                :: else
                fi;
                goto took }
        :: atomic { ALL_QUIET -> goto took }
        :: FAULT(0)
        fi;
took:
        atomic { t = 0; s = 0; x = 0 }
}

/* What the dead record i was exact at is undone. The byte of slot i is held. */
inline recover_cell(i)
{
        do
        :: atomic { IS_EXACT(busy[i]) -> q = busy[i] >> 1; s = cell[AT(q)];
                if
                :: USABLE(s, q)
                :: s == ST(q, REVOKED)
                :: else -> break
                fi };
#ifdef FINE
                if
                :: true
                :: FAULT(busy[me])
                fi;
#endif
                atomic {
                        if
                        :: RECOVER_CAS && s == ST(q, REVOKED) ->
                                change(AT(q), ST(q, RECOVERED));
                                break
                        :: RECOVER_CAS && s != ST(q, REVOKED) ->
                                CHECK(no_void_behind_tail, tail <= q);
                                change(AT(q), ST(q, VOID));
                                break
#ifdef MUTANT_RECOVER_GIVES_UP          /* the cell, revoked meanwhile, waits for others */
                        :: !RECOVER_CAS -> break
#else
                        :: !RECOVER_CAS         /* a taker revoked it: look again */
#endif
                        fi }
        :: atomic { !IS_EXACT(busy[i]) -> break }
        od;
        atomic { q = 0; s = 0 }
}

inline recover(i)
{
        recover_cell(i);
        if
        :: atomic { busy[i] = 0 }
        :: FAULT(busy[me])
        fi
}

#define LEAVES (k == K || head >= LIMIT)
#define STILL_OURS (cell[AT(h)] == s || cell[AT(h)] == ST(h, REVOKED))

proctype producer(byte me)
{
        byte k, h, s, t, x, q;

again:
        /* 1. Full? */
#ifdef FINE
        atomic { !LEAVES -> h = head };
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
        :: busy[me] = EXACT(h);
                s = cell[AT(h)]
#endif
        :: s = cell[AT(h)];
                if
                :: busy[me] = EXACT(h)
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
                        k++;
                        goto clear
#endif
                :: else -> s = 0
                fi }
        :: FAULT(EXACT(h))
        fi;
give_back:
        if
        :: atomic {
                CHECK(quarantine_respected, cell[AT(h)] == ST(h, REVOKED));
                change(AT(h), ST(h, RETURNED));
                h = 0 }
        :: FAULT(EXACT(h))
        fi;
        /* 7. A void ticket ends here too. */
clear:
        if
        :: atomic { busy[me] = 0; goto again }
        :: atomic { faults > 0 -> faults--; own[me] = busy[me]; goto fault_after }
        fi;
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

#define DIRTY(i) (slot[i] == DEAD && busy[i] != 0)
#if P == 1
#define ANY_DIRTY DIRTY(0)
#elif P == 2
#define ANY_DIRTY (DIRTY(0) || DIRTY(1))
#else
#define ANY_DIRTY (DIRTY(0) || DIRTY(1) || DIRTY(2))
#endif

inline sweep_cell(c)
{
        atomic { i = 0; q = POS(cell[c]) };
        do
        :: atomic { i < P && !PINS(busy[i], q) -> i++ }
        :: atomic { i < P && PINS(busy[i], q) };
                if
                :: atomic { slot[i] == DEAD -> i++ }
                :: atomic { slot[i] != DEAD -> break }
                fi
        :: atomic { i == P ->
                if
                :: cell[c] == ST(q, REVOKED) -> change(c, ST(q, SWEPT))
                :: else
                fi;
                break }
        od;
        atomic { i = 0; q = 0 }
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
                        :: !(gone == P && consumer_gone) ->
                                do
                                :: c + 1 < N -> c++
                                :: break
                                od;
                                if
                                :: TAG(cell[c]) == REVOKED -> goto found
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
                        :: i < P && own[i] != EXACT(q) && !BELOW(own[i], q) -> i++
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
