/* The harness of all benches: processes, pinning, rounds, and what is kept of them.
 *
 * A bench asks one question of several *subjects*: geb in its modes, and the floors, which say
 * what the bare hardware needs for the same movement of bytes. Every subject is a set of *roles*,
 * each a process of its own, pinned to a CPU of its own while there are enough. All subjects take
 * their turn in every round, in rotating order; a ratio is the median over rounds of subject /
 * floor within one round. So what the machine does to one of them it does to the other, and
 * nothing depends on a mean. A turn in which the kernel took the
 * CPU away from a role says nothing about the subject: it is taken again, a few times at most, and
 * left out if that did not help.
 *
 *     role 0:  open ─ ▷ round ─ ▷ round ─ ▷ … ─ close      ▷ the start line: a barrier of all roles
 *     role 1:  open ─ ▷ round ─ ▷ round ─ ▷ … ─ close
 *
 * A subject is four functions (struct bench_ops), called in each of its processes. A round moves
 * `count` events, and tells how long that took in one of two ways: it stores elapsed_ns, and the
 * longest of the roles counts; or, for latencies, it adds a sample for each event to `hist`, and
 * the median of the samples is the round's figure. Samples of a rate are optional: one for each
 * block of events, so that stalls show in the percentiles. */
#ifndef BENCH_HARNESS_H
#define BENCH_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bench/hist.h"
#include "bench/machine.h"
#include "shmring/atomic.h"

#define BENCH_ROLES_MAX    16u
#define BENCH_SUBJECTS_MAX 32u

struct bench_options {
    uint64_t count;        /* events a round, 0: the bench's own choice */
    unsigned rounds;       /* 0: the bench's own choice */
    uint32_t bytes;        /* payload, 0: the bench's own choice */
    const char *mode;      /* NULL: all */
    const char *json_path; /* NULL: none */
    const char *cpus;      /* NULL: chosen by the harness */
};

/* A place where processes wait for each other; lies in shared memory, zeroed. */
struct bench_gate {
    _Alignas(128) shr_a64 arrived;
    _Alignas(128) shr_a64 generation;
    uint64_t opened_ns; /* when the last one arrived */
};

struct bench_subject;
struct bench_session;

/* What a role of a subject has in hand. */
struct bench_turn {
    const struct bench_machine *machine;
    const struct bench_subject *subject;
    struct bench_session *session;
    unsigned role;
    uint64_t count;          /* events to move in this round */
    uint32_t bytes;          /* payload of one */
    uint64_t start_ns;       /* when the start line opened */
    uint64_t elapsed_ns;     /* out: 0 if this role does not determine the time */
    struct bench_hist *hist; /* out: this round's samples; one role of a subject may write */
    void *shared;            /* ops->shared_bytes for all roles of the subject, zeroed */
    void *state;             /* the role's own, for open() to set */
};

struct bench_ops {
    unsigned roles;
    size_t shared_bytes;
    int (*open)(struct bench_turn *turn); /* this and the next: 0 or -errno; may be NULL */
    int (*round)(struct bench_turn *turn);
    void (*close)(struct bench_turn *turn); /* may be NULL */
};

struct bench_subject {
    const char *name; /* "geb", "floor", a peer */
    const char *mode;
    const struct bench_ops *ops;
    const void *arg; /* for ops */
    uint64_t count;  /* events a round */
    uint32_t bytes;
    unsigned producers;
    unsigned floor; /* index of the subject to compare with; its own index for a floor */
    bool latency;   /* compare the rounds' medians of samples, not time / count */
    bool keeps_all; /* the scheduler is what it measures: no round of it counts as disturbed */
};

struct bench_plan {
    const char *name;
    const char *question;
    const char *unit; /* what one event is, for the table */
    unsigned rounds;
    unsigned subject_cnt;
    struct bench_subject subject[BENCH_SUBJECTS_MAX];
};

/* What remains of one round of one subject. */
struct bench_round {
    double ns;       /* the figure that is compared: ns an event, or the median sample */
    double event_ns; /* time / count */
    bool disturbed;  /* the kernel took the CPU from one of the roles */
};

struct bench_result {
    struct bench_round *round; /* plan->rounds */
    struct bench_hist *hist;   /* the samples of the undisturbed rounds; of all, if none was */
};

/* Appends a subject, with its floor's index, and returns its own index. Subjects that --mode leaves
 * out are not appended; floors (name "floor") always are. -1 if left out. */
int bench_plan_add(struct bench_plan *plan, const struct bench_options *opt,
                   struct bench_subject subject);

/* Runs the plan, prints the table, writes the rows. 0, or 1 after a message on stderr; 2 for
 * options that make no sense. */
int bench_run(struct bench_plan *plan, const struct bench_options *opt);

/* Inside open() and round(): waits for all roles of this subject. Neither this nor a role's own
 * waiting needs a way out: when a role fails, or nothing moves for a minute, the harness ends all.
 */
void bench_meet(struct bench_turn *turn);

/* Says on stderr why this role fails, and returns rc, for `return bench_fail(…)`. */
int bench_fail(const struct bench_turn *turn, int rc, const char *what);

/* report.c */
int bench_report(const struct bench_plan *plan, const struct bench_options *opt,
                 const struct bench_machine *machine, const struct bench_result *results);

/* The bench of each name; returns the exit status. */
int bench_floor(const struct bench_options *opt);
int bench_publish(const struct bench_options *opt);
int bench_throughput(const struct bench_options *opt);
int bench_roundtrip(const struct bench_options *opt);
int bench_takeover(const struct bench_options *opt);
int bench_watching(const struct bench_options *opt);

#endif
