/*
 * resume.pml: the consumer's hand and the account (shmring/consume.h): one event after the other,
 * each in exactly one column, also when the consumer is killed before any store, its successor
 * too, and so on. Successors take the role when the lock is free; a standby that has waited for it
 * holds nothing yet, so it is the same. tests/model/run runs it.
 *
 * What is modelled
 *   - shr_next, shr_take_in_hand, shr_finish, shr_finish_mixed, shr_leave_hand_as, shr_flush,
 *     resume_hand and shr_consumer_init, each store a step before which the consumer may die.
 *   - BLOCK: events are used in place, tail is stored behind the column, `done` at once or later;
 *     the event in hand comes again, marked. DROP: the consumer and the producers take by CAS on
 *     tail, several the same event; what was in hand is lost_in_crash. Gaps in the producers'
 *     numbers are what the column `dropped` is made of.
 *   - BATCH: each producer's first cell holds two events, which may end in two columns.
 *   - blocks: event x has block x, freed by whoever ends the event.
 *   - DROP: a consumer that is lapped while it copies a cell, and its second look at tail.
 *   - HEIR: producer 0 dies once, between a commit and its count. Who settles its slot looks for
 *     the number (shr_peer_last_number) in the cell, in the consumer's hand (DROP) and in `seen`,
 *     word by word, while the event goes by. If another producer dropped the event, nobody need
 *     know its number; it is passed over here, while the code gives it to the next event. So there
 *     is no death of the consumer beside a dropper then (docs/recovery.md says what it would do).
 *   - shr_account, by somebody who looks at any moment: beside a consumer that lives, is dead, or
 *     resumes, the columns, what is in hand and what is in the ring add up to what was accepted.
 *
 * Joined: claim, commit and count of a publish (the protocol of cells is that of ring.pml); the
 * stores of a hand between pos = 0 and pos that say which event it is (not with HEIR); the
 * second look at tail with the copy before it, since a cell that tail has not passed stays as it
 * is; the account's look at all words, since the producers' part of it is exact at quiet moments
 * only.
 *
 * What is not modelled: other deaths of producers (ring.pml; their hands: slab.pml), bad bytes, the
 * number's low half, the account beside an heir, the drops of each slot, the counters redelivered
 * and restarts, store buffers: a death leaves a prefix of the stores, and the kernel orders them
 * before the free lock; stores and loads of others are in order on x86-64.
 */
#ifndef C
#define C 1                     /* events */
#endif
#ifndef P
#define P 2                     /* producers */
#endif
#ifndef K
#define K 2                     /* cells of each producer */
#endif
#ifndef FAULTS
#define FAULTS 2
#endif
#define N (2 * C)

#define AT(p)  ((p) % N)
#define ID     (1 + me * K + k)
#define SLOT(x) (((x) - 1) / K)
#ifdef BATCH
#define COUNT(x) (((x) - 1) % K == 0 -> 2 : 1)
#define FIRST(x) (((x) - 1) % K == 0 -> 1 : ((x) - 1) % K + 2)
#define LAST(x)  (((x) - 1) % K + 2)
#else
#define COUNT(x) 1
#define FIRST(x) (((x) - 1) % K + 1)
#define LAST(x)  (((x) - 1) % K + 1)
#endif

#define DELIVERED 0
#define EXPIRED   1
#define LOST      2             /* lost_in_crash */
#define MIXED     3             /* a batch of which one event was delivered, one expired */

/* Shared. */
byte ready[N], event[N];        /* the position of a READY cell, and what it holds */
byte head = N, tail = N;
#ifdef BLOCK
byte done = N;
#define FREE done
#else
#define FREE tail
#endif
byte published[P], seen[P];
byte hand_pos, hand_event, hand_sum, hand_dropped, hand_applied, hand_after[2];
#ifdef HEIR
byte hand_slot;
bit died_once;
#endif
byte column[3], dropped, attempts;
bit used[P * K + 1];            /* block headers */

byte faults = FAULTS;
byte gone;

/* Ghosts: what became of each event. */
bit handed[P * K + 1], finished[P * K + 1], taken_away[P * K + 1];
byte delivered_then, ended_then;        /* events, as finished or dropped */

hidden byte finished_once, in_order, delivered_once, redelivered_unfinished, redelivery_marked,
        freed_after_end, no_block_leaked, account_closes, delivered_exact, nothing_pending_at_end,
        cell_kept, all_ended, count_complete, number_was_given;
hidden byte i_, p_, d_, pending_, pos_, x_, sum_;
hidden byte follow_[P], column_[3];
hidden byte finished_;
#define CHECK(name, condition) \
        if \
        :: (condition) \
        :: else -> assert(name) \
        fi

#define AT_LEAST(x, y) x = ((y) > x -> (y) : x)
#define SUM (column[0] + column[1] + column[2])

inline free_block(x)
{
        CHECK(freed_after_end, finished[x] || taken_away[x]);
        used[x] = 0
}

/* ---- what a mutant changes ---- */

#ifdef MUTANT_SUM_IGNORED       /* the successor takes every hand for unfinished */
#define IS_FINISHED false
#else
#define IS_FINISHED (SUM != hand_sum)
#endif
#ifdef MUTANT_RESUME_AT_DONE    /* what is finished between done and tail comes again */
#define RESUMES_AT done
#else
#define RESUMES_AT tail
#endif
#ifdef MUTANT_COPY_UNCHECKED    /* R10: a taken position in hand, with an event that waits */
#define COPY_IS_OF(pos) true
#else
#define COPY_IS_OF(pos) (tail == (pos))
#endif
#ifdef MUTANT_HAND_SEEN_ONCE    /* S11: the number of another producer's event */
#define HAND_IS_STILL(pos) true
#else
#define HAND_IS_STILL(pos) (hand_pos == (pos))
#endif
#ifdef MUTANT_SEEN_BEFORE_HAND  /* R11: the number goes from hand to `seen` between the looks */
#define SEEN_EARLY AT_LEAST(x, seen[me])
#define SEEN_LATE skip
#else
#define SEEN_EARLY skip
#define SEEN_LATE AT_LEAST(x, seen[me])
#endif
#ifdef MUTANT_LOOK_AT_COLUMNS   /* the account forgets what is in hand */
#define HAND_LOOKED_AT 0
#else
#define HAND_LOOKED_AT hand_pos
#endif

/* ---- the account from outside: shr_account ---- */

#ifdef BLOCK
#define NOT_IN_HAND(pos) ((pos) == 0 || tail != (pos))
#else
#define NOT_IN_HAND(pos) ((pos) == 0 || tail <= (pos))
#endif

/* pending_ is what waits in the end. */
inline look()
{
        i_ = 0;
        do
        :: i_ < P -> follow_[i_] = seen[i_]; i_++
        :: else -> break
        od;
        column_[0] = column[0];
        column_[1] = column[1];
        column_[2] = column[2];
        d_ = dropped;
        pending_ = 0;
        p_ = tail;
        pos_ = HAND_LOOKED_AT;
        if
        :: NOT_IN_HAND(pos_)
        :: else ->
                if
                :: hand_applied == pos_ -> column_[0] = hand_after[0]; column_[1] = hand_after[1]
                :: else
                fi;
                finished_ = (column_[0] + column_[1] + column_[2] != hand_sum);
                d_ = hand_dropped;
#ifdef BLOCK
                x_ = event[AT(pos_)];
                if
                :: finished_ -> follow_[SLOT(x_)] = LAST(x_); p_ = tail + 1
                :: else -> follow_[SLOT(x_)] = FIRST(x_) - 1
                fi
#else
                x_ = hand_event;
                if
                :: finished_
                :: else -> pending_ = COUNT(x_)
                fi;
                if
                :: LAST(x_) > follow_[SLOT(x_)] -> follow_[SLOT(x_)] = LAST(x_)
                :: else
                fi
#endif
        fi;
        do
        :: p_ < head ->
                x_ = event[AT(p_)];
                pending_ = pending_ + COUNT(x_);
                if
                :: FIRST(x_) > follow_[SLOT(x_)] ->
                        d_ = d_ + FIRST(x_) - follow_[SLOT(x_)] - 1;
                        follow_[SLOT(x_)] = LAST(x_)
                :: else
                fi;
                p_++
        :: else -> break
        od;
        sum_ = 0;
        i_ = 0;
        do
        :: i_ < P ->
                d_ = d_ + published[i_] - follow_[i_];
                sum_ = sum_ + published[i_];
                i_++
        :: else -> break
        od;
        CHECK(account_closes, column_[0] + column_[1] + column_[2] + d_ + pending_ == sum_)
}

/* Once, at any moment. */
proctype observer()
{
        atomic { look() }
}

/* ---- producers ---- */

/* Nobody reads the count of a producer that lives: it is one step with the commit. */
#ifdef HEIR
#define COUNTED \
        if \
        :: published[me] = LAST(ID); k++ \
        :: me == 0 && !died_once -> \
                died_once = 1; \
                t = head - 1; \
                x = published[me]; \
                goto died \
        fi
#else
#define COUNTED published[me] = LAST(ID); k++
#endif

proctype producer(byte me)
{
        byte k, t, x;
#ifdef HEIR
        byte y, z;
#endif

next_:
        do
        :: atomic { k == K -> k = 0; gone++; break }
        :: atomic { k < K && head - FREE < C ->
                CHECK(cell_kept, ready[AT(head)] == 0 || ready[AT(head)] < tail);
                ready[AT(head)] = head;
                event[AT(head)] = ID;
                used[ID] = 1;
                head++;
                COUNTED }
#ifdef DROP
        :: atomic { k < K && head - FREE >= C -> t = tail };
                atomic {
                        if
                        :: ready[AT(t)] == t -> x = event[AT(t)]
                        :: else
                        fi
                };
                atomic {
                        if
                        :: tail == t && x != 0 ->
                                tail = t + 1;
                                taken_away[x] = 1;
                                ended_then = ended_then + COUNT(x)
                        :: else -> x = 0
                        fi;
                        t = 0
                };
                if
                :: atomic { x != 0 -> free_block(x); x = 0 }
                :: atomic { x == 0 }
                fi
#endif
        od;
#ifdef HEIR
        goto left;
died:
        /* t: the claim of the dead record; x: the number that is known. */
        if
        :: atomic { ready[AT(t)] == t };
                y = event[AT(t)];
                atomic {
                        if
                        :: head - t < N && SLOT(y) == me -> AT_LEAST(x, LAST(y))
                        :: else
                        fi;
                        y = 0 }
        :: atomic { ready[AT(t)] != t }
        fi;
        SEEN_EARLY;
#if defined(DROP) && !defined(MUTANT_HAND_UNASKED)
        y = hand_pos;
        z = hand_slot;
        t = hand_event;
        atomic {
                if
                :: y != 0 && z == me && HAND_IS_STILL(y) -> AT_LEAST(x, LAST(t))
                :: else
                fi;
                y = 0; z = 0 };
#endif
        atomic {
                SEEN_LATE;
                CHECK(number_was_given, x <= LAST(ID));
                CHECK(count_complete, x == LAST(ID) || taken_away[ID]);
                published[me] = x;
                t = 0; x = 0; k++;
                goto next_ };
left:
        skip
#endif
}

/* ---- the consumer ---- */

#define DIES        atomic { faults > 0 -> faults--; goto died }
#define STEP(store) \
        if \
        :: atomic { store } \
        :: DIES \
        fi

inline end_event(x)
{
        CHECK(finished_once, !finished[x]);
        finished[x] = 1;
        ended_then = ended_then + COUNT(x)
}

inline hand_out(x)
{
#ifdef DROP
        CHECK(delivered_once, !handed[x]);
#endif
        CHECK(redelivered_unfinished, !finished[x]);
        CHECK(redelivery_marked, !handed[x] || attempt > 1);
        CHECK(in_order, FIRST(x) > seen[SLOT(x)]);
        handed[x] = 1
}

proctype consumer()
{
        byte next, sum, mine, again, attempt, x, c;

successor:
        /* resume_hand */
        atomic {
                next = hand_pos;
                if
                :: NOT_IN_HAND(next) -> next = 0; goto settled
                :: else
                fi;
#ifdef DROP
                x = hand_event
#else
                x = event[AT(next)]
#endif
        };
        if
        :: atomic { hand_applied == next };
                STEP(column[0] = hand_after[0]);
                STEP(column[1] = hand_after[1])
        :: atomic { hand_applied != next }
        fi;
#ifndef MUTANT_GAP_NOT_IN_HAND  /* a gap that was noticed, and not noted yet */
        STEP(dropped = hand_dropped);
#endif
        if
        :: atomic { IS_FINISHED -> goto finished_before }
        :: atomic { !IS_FINISHED }
        fi;
#ifdef DROP
#ifdef MUTANT_LOST_UNCOUNTED    /* neither in the ring nor in a column */
        goto finished_before;
#endif
        if
        :: atomic {
                if
                :: taken_away[x]        /* died before it took, and a producer dropped it */
                :: else -> end_event(x)
                fi;
                column[LOST] = column[LOST] + COUNT(x) }
        :: DIES
        fi;
#else
        atomic { again = next; x = 0; goto settled };
#endif
finished_before:
#ifdef MUTANT_SETTLE_TAIL_FIRST /* a death behind it leaves a block that no one names */
        STEP(tail = next + 1);
#endif
        STEP(seen[SLOT(x)] = LAST(x));
        STEP(free_block(x));
        STEP(attempts = 0);
#if defined(BLOCK) && !defined(MUTANT_SETTLE_TAIL_FIRST)
        STEP(tail = next + 1);
#endif
        x = 0;
settled:
        /* shr_consumer_init */
        atomic { mine = dropped; next = 0 };
        if
        :: atomic { again != 0 -> attempts++ }
        :: atomic { again == 0 -> hand_pos = 0 }
        :: DIES
        fi;
        STEP(hand_dropped = mine);
        atomic { sum = SUM; next = RESUMES_AT };
#ifdef BLOCK
        STEP(done = next);
#endif

again_:
        /* shr_next */
#ifdef DROP
        next = tail;
#endif
        atomic {
                if
#ifdef DROP
                :: ready[AT(next)] == next
#else
                :: ready[AT(next)] == next -> x = event[AT(next)]
#endif
                :: gone == P && head == tail -> goto leave
                :: tail != next -> goto again_
#ifdef BLOCK
                :: done != next -> done = next; goto again_
#endif
                fi };
#ifdef DROP
        atomic {
                if
                :: COPY_IS_OF(next) -> x = event[AT(next)]
                :: else -> goto again_
                fi };
#ifdef MUTANT_HAND_AFTER_TAKING /* a death between: in no hand, and not in the ring */
        STEP(hand_pos = 0);
        if
        :: atomic { tail == next -> tail = next + 1 }
        :: atomic { tail != next -> x = 0; goto again_ }
        :: DIES
        fi;
#elif !defined(MUTANT_HAND_NOT_EMPTIED)  /* a hand of two events */
        STEP(hand_pos = 0);
#endif
#ifdef HEIR
        STEP(hand_slot = SLOT(x));
#endif
        STEP(hand_event = x);
#ifndef MUTANT_POS_BEFORE_SUM
        STEP(hand_sum = sum);
#endif
        STEP(hand_dropped = mine + FIRST(x) - seen[SLOT(x)] - 1);
        STEP(hand_pos = next);
#ifdef MUTANT_POS_BEFORE_SUM    /* a sum that is not from before this event */
        STEP(hand_sum = sum);
#endif
#ifndef MUTANT_HAND_AFTER_TAKING
        if
        :: atomic { tail == next -> tail = next + 1 }
        :: atomic { tail != next };     /* a producer dropped it */
                if
                :: atomic { hand_pos = 0; x = 0; goto again_ }
                :: DIES
                fi
        :: DIES
        fi;
#endif
        attempt = 1;
        if
        :: atomic { FIRST(x) - seen[SLOT(x)] > 1 ->
                mine = mine + FIRST(x) - seen[SLOT(x)] - 1;
                dropped = mine }
        :: atomic { FIRST(x) - seen[SLOT(x)] <= 1 }
        :: DIES
        fi;
#else
        attempt = (again == next -> 1 + attempts : 1);
#ifdef MUTANT_POS_BEFORE_SUM
        STEP(hand_pos = next);
        STEP(hand_sum = sum);
#elif defined(MUTANT_COLUMN_BEFORE_HAND)
        skip;
#else
        STEP(hand_sum = sum);
        STEP(hand_pos = next);
#endif
#endif
        /* The handlers. */
        if
        :: atomic { hand_out(x) }
        :: DIES
        fi;
#ifdef MUTANT_TAIL_BEFORE_COLUMN        /* taken, in no hand, and not counted */
        STEP(tail = next + 1);
#endif
#ifdef MUTANT_FREE_BEFORE_COLUMN        /* it may come again, without its block */
        STEP(free_block(x));
#endif
        atomic {
                if
                :: c = DELIVERED
                :: c = EXPIRED
#ifdef BATCH
                :: COUNT(x) == 2 -> c = MIXED
#endif
                fi };
        if
        :: atomic { c == MIXED };
                /* shr_finish_mixed */
#ifdef MUTANT_APPLIED_LATE      /* half raised columns, and no record of it */
                STEP(end_event(x); delivered_then++; column[DELIVERED]++);
                STEP(column[EXPIRED]++);
                STEP(hand_after[0] = column[0]);
                STEP(hand_after[1] = column[1]);
                STEP(hand_applied = next)
#else
#ifdef MUTANT_APPLIED_FIRST     /* the columns of an older batch */
                STEP(end_event(x); delivered_then++; hand_applied = next);
#endif
                STEP(hand_after[0] = column[0] + 1);
                STEP(hand_after[1] = column[1] + 1);
#ifndef MUTANT_APPLIED_FIRST
                STEP(end_event(x); delivered_then++; hand_applied = next);
#endif
                STEP(column[0] = hand_after[0]);
                STEP(column[1] = hand_after[1])
#endif
        :: atomic { c != MIXED };
                if
                :: atomic {
                        end_event(x);
                        column[c] = column[c] + COUNT(x);
                        delivered_then = delivered_then + (c == DELIVERED -> COUNT(x) : 0) }
                :: DIES
                fi
        fi;
#ifdef MUTANT_COLUMN_BEFORE_HAND        /* a hand that says that the sum is from before */
        STEP(hand_sum = sum);
        STEP(hand_pos = next);
#endif
        /* shr_leave_hand_as */
        atomic { sum = sum + COUNT(x); c = 0; attempt = 0 };
#ifdef MUTANT_TAIL_BEFORE_FREE          /* a death behind it leaves a block that no one names */
        STEP(tail = next + 1);
#endif
        STEP(seen[SLOT(x)] = LAST(x));
        STEP(free_block(x));
        if
        :: atomic { again != 0 -> again = 0; attempts = 0 }
        :: atomic { again == 0 }
        :: DIES
        fi;
#ifdef BLOCK
#if !defined(MUTANT_TAIL_BEFORE_COLUMN) && !defined(MUTANT_TAIL_BEFORE_FREE)
        STEP(tail = next + 1);
#endif
        atomic { next = next + 1; x = 0 };
        if
        :: atomic { done = next }
        :: skip                 /* a batch of positions is not full yet */
        :: DIES
        fi;
#else
        atomic {
                x = 0;
                if
                :: hand_pos = 0         /* shr_rest, before a sweep */
                :: skip
                fi };
#endif
        goto again_;

died:
        atomic {
                next = 0; sum = 0; mine = 0; again = 0; attempt = 0; x = 0; c = 0;
                goto successor
        };

leave:
        atomic {
                next = 0; sum = 0; mine = 0; again = 0;
                look();
                CHECK(nothing_pending_at_end, pending_ == 0);
                CHECK(delivered_exact, column[DELIVERED] == delivered_then);
                c = 1;
                do
                :: c <= P * K ->
                        CHECK(no_block_leaked, !used[c]);
                        CHECK(all_ended, finished[c] || taken_away[c]);
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
                :: i < P -> run producer(i); i++
                :: else -> break
                od;
                i = 0;
#ifndef HEIR
                run observer();
#endif
                run consumer()
        }
}
