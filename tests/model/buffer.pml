/*
 * Included by tso.pml, exclusive.pml and slab.pml: memory behind store buffers, as x86-64 has it.
 * A plain store goes into the buffer of its party; buffers drain in order, one store after the
 * other, at any time. A load takes the youngest store of its own buffer to that word, else the
 * memory. A locked instruction or a fence waits until the buffer is empty (DRAINED). A step of a
 * party may join one load with the stores behind it, for nobody sees these yet.
 *
 * With -DTSO a party goes on while its stores wait. Without, it does nothing before they are out
 * (RUNS): that is sequential consistency, of the same model.
 *
 * The including file defines WORDS, PARTIES, DEPTH (stores that a buffer holds; a party waits when
 * it is full) and CHECK_STORE(i, a, v), which is asked when a store reaches the memory.
 */
byte mem[WORDS];
byte held[PARTIES];                     /* how many stores are in the buffer of each */
byte where[PARTIES * DEPTH], what[PARTIES * DEPTH];     /* oldest first; unused entries are 0 */

hidden byte at;                         /* scratch, never kept between two steps */

#ifdef TSO
#define RUNS(i) true
#else
#define RUNS(i) (held[i] == 0)
#endif
#define DRAINED(i) (held[i] == 0)
#define ROOM(i, n) (held[i] + (n) <= DEPTH)

#define STORE(i, a, v) \
        assert(held[i] < DEPTH); \
        where[(i) * DEPTH + held[i]] = a; \
        what[(i) * DEPTH + held[i]] = v; \
        held[i]++

/* The load of a word that the party may have in its own buffer; of others it reads mem. */
inline load(i, a, x)
{
        x = mem[a];
        at = 0;
        do
        :: at < held[i] ->
                if
                :: where[(i) * DEPTH + at] == (a) -> x = what[(i) * DEPTH + at]
                :: else
                fi;
                at++
        :: else -> break
        od
}

/*
 * The party is killed: of the stores behind its last locked instruction only some were executed.
 * They reach the memory, and only then does the kernel release its locks.
 */
inline cut(i)
{
        do
        :: held[i] > 0 ->
                held[i]--;
                where[(i) * DEPTH + held[i]] = 0;
                what[(i) * DEPTH + held[i]] = 0
        :: break
        od
}

proctype store_buffer(byte i)
{
end:
        do
        :: atomic { held[i] > 0 ->
                CHECK_STORE(i, where[i * DEPTH], what[i * DEPTH]);
                mem[where[i * DEPTH]] = what[i * DEPTH];
                held[i]--;
                at = 0;
                do
                :: at < held[i] ->
                        where[i * DEPTH + at] = where[i * DEPTH + at + 1];
                        what[i * DEPTH + at] = what[i * DEPTH + at + 1];
                        at++
                :: else -> break
                od;
                where[i * DEPTH + at] = 0;
                what[i * DEPTH + at] = 0 }
        od
}
