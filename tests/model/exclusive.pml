/*
 * exclusive.pml: the ring in exclusive mode: one producer at a time, which stores the body, then
 * the state READY(p), then head, with no locked instruction. It may be killed before each of these
 * stores, and so may a successor; a successor moves head past every cell that is already at its
 * position, whatever its tag, before it publishes. tests/model/run runs it.
 *
 * The consumer takes READY(t) without a look at head, so tail may pass a head that a death left
 * behind. DROP: tail moves by CAS, and the producer drops the oldest event itself. BLOCK:
 * `free` is done, cells are used in place, and some become DONE.
 *
 * Not modelled: the store buffer. All that the producer stores becomes visible in its order, and
 * its one load from others (`free`) errs to the safe side when it is early. Names as in ring.pml.
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
#define AT(p)        ((p) % N)
#define USABLE(s, p) (POS(s) + N == (p) && TAG(s) <= VOID)

#define COMMITTED 1
#define TAKEN     2
#define TORN      255

byte cell[N], w0[N], w1[N];
byte head = N, tail = N;
#ifdef BLOCK
byte done = N;
#define FREE done
#else
#define FREE tail
#endif
byte faults = FAULTS;
bit gone;
byte event[K + 1];              /* ghost: what became of each event */

hidden byte no_torn, no_loss, no_duplicate, in_order, no_commit_behind_tail, capacity_bound,
        all_accounted_at_end;
#define CHECK(name, condition) \
        if \
        :: (condition) \
        :: else -> assert(name) \
        fi

#if defined(MUTANT_NO_SUCCESSION)       /* the event beyond head is overwritten */
#define ALREADY_THERE(p) false
#elif defined(MUTANT_SUCCESSION_READY)  /* a position that the consumer finished is used twice */
#define ALREADY_THERE(p) (cell[AT(p)] == ST(p, READY))
#else
#define ALREADY_THERE(p) (POS(cell[AT(p)]) == p)
#endif

/* Event x is taken: once, whole, committed, and all before it were taken. */
inline account(x)
{
        CHECK(no_torn, x != TORN && x != 0);
        CHECK(no_duplicate, event[x] == COMMITTED);
        CHECK(in_order, x == 1 || event[x - 1] != COMMITTED);
        event[x] = TAKEN
}

#define COPY(t, x) x = (w0[AT(t)] == w1[AT(t)] -> w0[AT(t)] : TORN)
#define DIES atomic { faults > 0 -> faults--; k++; goto died }

proctype producer()
{
        byte k = 1, p = N, t, x;

again:
        atomic {
                if
                :: k > K -> goto leave
                :: else
                fi
        };
#ifdef BLOCK
        (p - done < C);
#else
        atomic {
                if
                :: p - tail < C -> goto fill
                :: else -> t = tail
                fi
        };
        /* Full: drop the oldest. It is committed, since p is beyond all that is not. */
        atomic { COPY(t, x) };
        atomic {
                if
                :: tail == t -> tail = t + 1; account(x)
                :: else
                fi;
                t = 0;
                x = 0;
                goto again
        };
fill:
#endif
        if
        :: atomic { CHECK(capacity_bound, p - FREE < C); w0[AT(p)] = k }
        :: DIES
        fi;
#ifndef MUTANT_READY_BEFORE_BODY        /* the consumer sees half an event */
        if
        :: w1[AT(p)] = k
        :: DIES
        fi;
#endif
#ifdef MUTANT_HEAD_BEFORE_READY         /* the consumer revokes, and READY is stored behind tail */
        head = p + 1;
#endif
        if
        :: atomic {
                CHECK(no_commit_behind_tail, p >= tail);
                CHECK(no_loss, TAG(cell[AT(p)]) != READY || POS(cell[AT(p)]) < tail);
                cell[AT(p)] = ST(p, READY);
                event[k] = COMMITTED;
                k++ }
        :: DIES
        fi;
#ifdef MUTANT_READY_BEFORE_BODY
        w1[AT(p)] = k - 1;
#endif
        if
        :: atomic { head = p + 1; p = p + 1; goto again }
        :: atomic { faults > 0 -> faults-- }
        fi;
died:
        /* The successor. It may die too; what it found is private until it stores head. */
        atomic { p = head; t = 0; x = 0 };
        do
        :: atomic { ALREADY_THERE(p) -> p = p + 1 }
        :: atomic { !ALREADY_THERE(p) -> break }
        od;
        if
        :: atomic { head = p; goto again }
        :: atomic { faults > 0 -> faults--; goto died }
        fi;
leave:
        gone = true
}

proctype consumer()
{
        byte t, s, x;

again:
        t = tail;
        if
        :: atomic { cell[AT(t)] == ST(t, READY) -> COPY(t, x) }
        :: atomic { POS(cell[AT(t)]) < t && t < head -> s = cell[AT(t)]; goto revoke }
        :: atomic { tail != t -> goto again }
        :: atomic { gone && tail == t && cell[AT(t)] != ST(t, READY) && t >= head -> goto leave }
        fi;
#ifdef DROP
        atomic {
                if
                :: tail == t -> tail = t + 1; account(x)
                :: else
                fi;
                t = 0;
                x = 0;
                goto again
        };
#else
        tail = t + 1;
        atomic {
                COPY(t, x);
                account(x);
                if
                :: x & 1 -> cell[AT(t)] = ST(t, DONE)
                :: else
                fi;
                x = 0
        };
        atomic { done = t + 1; goto again };
#endif
revoke:
        /* Claimed and not committed does not happen here; a taker would revoke as in ring.pml. */
        atomic {
                if
                :: cell[AT(t)] == s && tail == t ->
                        cell[AT(t)] = ST(t, REVOKED);
                        tail = t + 1;
#ifdef BLOCK
                        done = t + 1
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
                :: x <= K -> CHECK(all_accounted_at_end, event[x] != COMMITTED); x++
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
                run producer();
                run consumer()
        }
}
