/* Included by ring.pml: what gives cells back that dead and revoked producers left. */

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
                        :: s == ST(q, REVOKED) && cell[AT(q)] == s ->
                                change(AT(q), ST(q, RECOVERED));
                                break
                        :: s != ST(q, REVOKED) && RECOVER_CAS ->
                                CHECK(no_void_behind_tail, tail <= q);
                                change(AT(q), ST(q, VOID));
                                break
                        :: else         /* a taker revoked it: look again */
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

/* Where the sweeper has work; elsewhere it waits, so that a party that is stuck ends the run. */
#define DIRTY(i) (slot[i] == DEAD && busy[i] != 0)
#ifdef FINE
#define PINNED(i, q) false
#else
#define PINNED(i, q) (slot[i] != DEAD && PINS(busy[i], q))
#endif
#if P == 1
#define ANY_DIRTY DIRTY(0)
#define ANY_PINS(q) PINNED(0, q)
#elif P == 2
#define ANY_DIRTY (DIRTY(0) || DIRTY(1))
#define ANY_PINS(q) (PINNED(0, q) || PINNED(1, q))
#else
#define ANY_DIRTY (DIRTY(0) || DIRTY(1) || DIRTY(2))
#define ANY_PINS(q) (PINNED(0, q) || PINNED(1, q) || PINNED(2, q))
#endif
#define SWEEPABLE(c) (TAG(cell[c]) == REVOKED && !ANY_PINS(POS(cell[c])))
#define ANY_SWEEPABLE \
        (SWEEPABLE(0) || SWEEPABLE(1 % N) || SWEEPABLE(2 % N) || SWEEPABLE(3 % N))

inline sweep_cell(c)
{
        atomic { i = 0; q = POS(cell[c]); MEMBARRIER; i = 0 };
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
