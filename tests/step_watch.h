/*
 * step_watch: which instructions of a stepped child touch memory that it shares.
 *
 * Nobody can tell whether a stopped child stands before or behind an instruction that touched only
 * memory of its own, and the child goes on the same from both places. So a test that stops a child
 * at every instruction need stop it behind those alone that touched shared memory, or were a
 * system call; step.h calls the others private.
 *
 * Method: the child's shared mappings (those with an s in /proc/PID/maps) are taken from it with
 * mprotect, by system calls that the tracer makes in its place. An instruction that touches one
 * faults; it gets that mapping back for this one step, and counts. So no instruction has to be
 * decoded, and none that touches shared memory can be taken for private. For a system call the
 * child gets all of them back; it counts whatever it does, and mappings may be others after it.
 */
#ifndef GEB_TESTS_STEP_WATCH_H
#define GEB_TESTS_STEP_WATCH_H

#include "step.h"

#define STEP_WATCH_RANGES 32

struct step_watch {
    struct step_watch_range {
        uint64_t start, end;
        int protection; /* that the child gave it */
        bool open;      /* it has it, for this step */
    } range[STEP_WATCH_RANGES];
    size_t count;
    bool touched;       /* the last instruction was not private */
    bool after_syscall; /* the ranges are to be read again */
};

/* All with the child stopped. 0 or -errno; -ENOSPC: more ranges than the table holds. */

/* Before an instruction. Takes the mappings, except for a system call, which gets all. */
int step_watch_before(struct step_child *child, bool is_syscall);
/* On a SIGSEGV: opens the mapping that faulted. -EFAULT: none of these, a fault of the child's. */
int step_watch_fault(struct step_child *child);
/* The child goes on unwatched: it gets everything back. */
int step_watch_end(struct step_child *child);

#endif
