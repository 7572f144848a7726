/*
 * The rules of the ring that a mutant changes, each with what its absence would do. cases.txt says
 * in which configuration a mutant runs and which check must find it. Mutants that move a
 * step stand in ring.pml beside it.
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
#ifdef MUTANT_EXACT_NEVER              /* one that stops pins every later quarantined cell */
#define STORE_EXACT skip
#else
#define STORE_EXACT busy[me] = EXACT(h)
#endif
#ifdef MUTANT_RETRY_WITHOUT_CHECK       /* claims pile up beyond the spare half */
#define AFTER_VOID after_void
#else
#define AFTER_VOID again
#endif
#ifdef MUTANT_RETRY_LATER               /* a revoked event comes after its successor */
#define NEXT_EVENT \
        if \
        :: later == 1 -> k = 0; later = 2 \
        :: later == 2 -> k = K; later = 0 \
        :: else -> k++ \
        fi
#define RETRY_EVENT \
        if \
        :: k == 0 && later == 0 -> k = 1; later = 1 \
        :: else \
        fi
#else
#define NEXT_EVENT k++
#define RETRY_EVENT skip
#endif
#if defined(MUTANT_NO_QUARANTINE)       /* cells go back while a late producer still writes */
#define PINS(b, q) false
#elif defined(MUTANT_GRACE_WITHOUT_INEXACT)     /* a claim whose EXACT is not visible yet */
#define PINS(b, q) ((b) == EXACT(q))
#elif defined(MUTANT_GRACE_WITHOUT_EXACT)
#define PINS(b, q) BELOW(b, q)
#elif !defined(NO_MEMBARRIER) && !defined(MUTANT_KEEP_INEXACT)
/* Who is inexact has not looked at its cell. */
#define PINS(b, q) ((b) == EXACT(q))
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
#ifdef MUTANT_DROP_UNCOUNTED            /* a producer forgets what it dropped */
#define COUNT \
        if \
        :: me == P -> account(x) \
        :: else \
        fi
#else
#define COUNT account(x)
#endif
#ifdef MUTANT_TAKE_ANY_TAG              /* what was never committed is delivered */
#define TAKES(s, t) (POS(s) == t)
#else
#define TAKES(s, t) (s == ST(t, READY))
#endif
#ifdef MUTANT_NO_PATIENCE               /* takers wait for a dead producer for ever */
#define PATIENCE_ENDS false
#else
#define PATIENCE_ENDS true
#endif
