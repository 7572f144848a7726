/*
 * wake.pml: sleeping and waking at a gate (shmring/wait.h) on a machine with store buffers.
 * tests/model/run runs it.
 *
 * A waker stores (an event, a free position), which goes through its store buffer, and then loads
 * the gate's flag. If it is up: take it back, raise seq, wake all. A sleeper reads seq (its
 * ticket), puts the flag up, calls membarrier, looks again, and sleeps if seq still is its ticket.
 * membarrier drains the buffer of its caller, where the flag waits, and those of the wakers, one
 * after the other, in its own time.
 * The check no_lost_wakeup: no sleeper sleeps while something waits for it and no waker is left.
 *
 * A waker may be killed between its store and its wake (DEATHS): only then may the bound of the
 * sleep be what ends it. Not modelled: the bound otherwise, signals, EINTR. FENCE: wakers fence
 * themselves, where there is no membarrier.
 */
#ifndef W
#define W 2                     /* wakers */
#endif
#ifndef S
#define S 1                     /* sleepers */
#endif
#ifndef K
#define K 2                     /* stores of each waker; each serves one sleeper once */
#endif
#ifndef DEATHS
#define DEATHS 0
#endif

byte work;                      /* what is visible and not yet taken */
byte buffer[W];                 /* stores that are not visible yet */
byte flag, seq;
bit raised[S];                  /* a flag that is in its sleeper's buffer yet */
bit asleep[S];
byte gone;
byte deaths = DEATHS;
bit died;

hidden byte no_lost_wakeup;

#define DRAIN(i) work = work + buffer[i]; buffer[i] = 0
#define DRAIN_FLAG \
        flag = (raised[me] -> 1 : flag); \
        raised[me] = 0

proctype waker(byte me)
{
        byte k, i;

        do
        :: atomic { k == K -> break }
        :: atomic { k < K -> k++; buffer[me]++ };
#ifdef FENCE
                atomic { DRAIN(me) };
#endif
                if
                :: atomic { deaths > 0 -> deaths--; died = true; break }
                :: flag != 0 ->
#ifdef MUTANT_SEQ_BEFORE_FLAG           /* the new ticket does not tell that the flag was taken */
                        atomic { DRAIN(me); seq++ };
                        flag = 0;
#else
                        atomic { DRAIN(me); flag = 0 };
                        atomic { seq++ };
#endif
                        atomic {
                                do
                                :: i < S -> asleep[i] = false; i++
                                :: else -> i = 0; break
                                od
                        }
                :: flag == 0
                fi
        od;
        atomic { DRAIN(me); gone++ }
}

/* Store buffers drain by themselves at any time. */
proctype flag_buffer(byte me)
{
end:
        do
        :: atomic { raised[me] -> DRAIN_FLAG }
        od
}

proctype store_buffer(byte me)
{
        do
        :: atomic { buffer[me] > 0 -> buffer[me]--; work++ }
        :: atomic { gone == W && buffer[me] == 0 -> break }
        od
}

proctype sleeper(byte me)
{
        byte ticket, i;

again:
        if
        :: atomic { work > 0 -> work--; goto again }
        :: atomic { work == 0 }
        fi;
        /* The end of the model: nobody will bring anything any more. */
        if
        :: atomic { gone == W && work == 0 -> goto leave }
        :: true
        fi;
#ifndef MUTANT_TICKET_AFTER_FLAG        /* a wake in between takes the flag, unseen */
        ticket = seq;
#endif
#ifndef MUTANT_FLAG_AFTER_LOOK          /* a waker comes between the look and the flag */
        raised[me] = 1;
#endif
#ifdef MUTANT_TICKET_AFTER_FLAG
        ticket = seq;
#endif
#if defined(FENCE) && !defined(MUTANT_NO_SLEEPER_FENCE)         /* it is in the buffer */
        atomic { DRAIN_FLAG };
#endif
#if !defined(MUTANT_NO_MEMBARRIER) && !defined(FENCE)   /* flag and work are in the buffers */
        atomic { DRAIN_FLAG };
        do
        :: atomic { i < W -> DRAIN(i); i++ }
        :: atomic { i == W -> i = 0; break }
        od;
#endif
#ifndef MUTANT_NO_SECOND_LOOK           /* the waker looked before the flag was up */
        if
        :: atomic { work > 0 -> ticket = 0; goto again }
        :: atomic { work == 0 }
        fi;
#endif
#ifdef MUTANT_FLAG_AFTER_LOOK
        raised[me] = 1;
#endif
        atomic {
                DRAIN_FLAG;     /* the system call */
                if
                :: seq == ticket -> asleep[me] = true
                :: else
                fi;
                ticket = 0
        };
        if
        :: atomic { !asleep[me] -> goto again }
        :: atomic { asleep[me] && died -> asleep[me] = false; goto again }
        :: atomic { asleep[me] && gone == W && !died ->
                if
                :: work > 0 -> assert(no_lost_wakeup)
                :: else
                fi }
        fi;
leave:
        asleep[me] = false
}

init
{
        byte i;

        atomic {
                do
                :: i < W -> run waker(i); run store_buffer(i); i++
                :: else -> break
                od;
                i = 0;
                do
                :: i < S -> run sleeper(i); run flag_buffer(i); i++
                :: else -> break
                od
        }
}
