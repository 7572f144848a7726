/* Included by ring.pml: the taker, be it the consumer or a producer that makes room. */

/* The consumer, at t, has nothing to wait for any more. */
#define ALL_QUIET (me == P && gone == P && head == t)

/* The taker of position t. Falls through when it is to start over. */
inline take()
{
        atomic {
                s = cell[AT(t)];
                if
                :: TAKES(s, t) -> COPY_EARLY; s = 0; goto take_event
                :: POS(s) == t && !TAKES(s, t) -> s = 0; goto pass
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
                :: TAIL_CAS -> CHECK(tail_monotonic, tail == t); tail = t + 1; COUNT
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
        atomic { copy_body(AT(t), x); account(x); goto took };
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
        :: atomic { t < head && PATIENCE_ENDS ->
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
