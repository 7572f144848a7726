/* geb demo: one supervisor, one consumer process, six producer processes.
 *
 *     demo.c            options, and what happens in which order
 *     demo_children.c   starting, stopping, killing and awaiting the processes
 *     demo_producers.c  what the six publish
 *     demo_sources.c    the samples that four of them read from /proc
 *     demo_consumer.c   the handlers that aggregate them
 *     demo_gauge.c      means and peaks of the samples
 *     demo_ledger.c     who knows what, and the comparison with the account of the bus
 *     demo_report.c     text for people; demo_json.c: for programs
 */
#ifndef TOOLS_GEB_DEMO_H
#define TOOLS_GEB_DEMO_H

#include "lib/geb.h"
#include "shmring/atomic.h"
#include "tools/geb/demo_ledger.h"

#include <signal.h>
#include <sys/types.h>

/* ---- shared between the processes, outside the bus ------------------------------------------- */

/* What the supervisor asks for. Producers look at it between two events. */
#define DEMO_PHASE_SETUP 0u
#define DEMO_PHASE_RUN   1u
#define DEMO_PHASE_STOP  2u /* all end, but for the process sampler */
#define DEMO_PHASE_QUIET 3u /* it alone is left: what it publishes now is not dropped */

/* The counters of the machine, as the handlers aggregate them. */
enum demo_gauge_kind {
    DEMO_BUSY, /* clock ticks that processors spent on work, by the clock of all ticks */
    DEMO_SWITCHES,
    DEMO_FAULTS,
    DEMO_MAJOR_FAULTS,
    DEMO_RECEIVED,
    DEMO_TRANSMITTED,
    DEMO_PACKETS,
    DEMO_ON_CPU, /* ns that the process sampler ran … */
    DEMO_QUEUED, /* … and waited for a processor */
    DEMO_GAUGE_CNT,
};

struct demo_gauge {          /* writer: the consumer */
    shr_a64 first, first_at; /* a value, and when: in ns, or ticks */
    shr_a64 last, last_at;
    shr_a64 mark, mark_at; /* where the current window began */
    shr_a64 peak;          /* the highest rate of any window, per 1e9 of its clock */
};

struct demo_shared {
    struct demo_ledger ledger;
    _Alignas(128) shr_a64 phase;          /* writer: the supervisor */
    _Alignas(128) shr_a64 consumer_stage; /* writer: the consumer */
    struct demo_gauge gauge[DEMO_GAUGE_CNT];
    shr_a64 resident_bytes;     /* of the process sampler */
    struct geb_metrics metrics; /* written before the consumer ends, read after waitpid */
};

/* ---- payloads: the first word is the producer's sequence number ------------------------------ */

#define DEMO_TICK_WORDS    4u
#define DEMO_BLOCK_BYTES   4096u
#define DEMO_BLOCK_WORDS   (DEMO_BLOCK_BYTES / 8u)
#define DEMO_SAMPLE_WORDS  4u   /* cpu, memory, network: they travel inside a cell */
#define DEMO_PROCESS_WORDS 8u   /* process: too large for a cell */
#define DEMO_STRICT_EVERY  512u /* the strict handler fails for sample 1, 513, … */

uint64_t demo_tick_word(uint64_t seq, uint32_t i);
void demo_block_fill(uint64_t *words, uint64_t seq);
bool demo_block_check(const uint64_t *words);

/* ---- samples of the machine ------------------------------------------------------------------ */

struct demo_reader {
    enum demo_source source;
    int fd[2];
    char *text;
};

int demo_reader_open(struct demo_reader *reader, enum demo_source source);
/* Reads the counters into words[1] and up; leaves words[0] alone. Returns 0 or -errno. */
int demo_reader_sample(struct demo_reader *reader, uint64_t *words);

/* ---- the processes --------------------------------------------------------------------------- */

#define DEMO_CONSUMER  DEMO_SOURCE_CNT /* its place among the children */
#define DEMO_CHILD_CNT (DEMO_SOURCE_CNT + 1)

struct demo_child {
    pid_t pid;
    bool running;
    bool expendable; /* its death by SIGKILL is part of the demo */
};

struct demo_run {
    char bus[64];
    double seconds;
    bool json;
    bool terminal;
    struct demo_shared *shared;
    struct demo_child child[DEMO_CHILD_CNT];
    sigset_t signals; /* blocked in the supervisor, taken by demo_wait */
    sigset_t signals_before;
    bool interrupted;
    bool failed;
    uint64_t start_ns, end_ns;
    uint64_t kill_ns, stop_ns, resume_ns; /* 0: has not happened */
    uint64_t shown_ns, shown_sent, shown_seen;
};

/* What the children do. They return their exit code. */
int demo_producer_main(const char *bus, enum demo_source source, struct demo_shared *shared);
int demo_consumer_main(const char *bus, struct demo_shared *shared, pid_t supervisor);

/* Starts a process, which ends with the supervisor. Returns 0 or -errno. */
int demo_child_start(struct demo_run *run, int child);

/* Takes signals and the ends of children until the time comes or done(run) holds (NULL: never).
 * Returns true for what it waited for; false if a signal ends the run (run->interrupted), a child
 * failed (run->failed), or the time came before done(run) held. */
bool demo_wait(struct demo_run *run, uint64_t until_ns, bool (*done)(const struct demo_run *run));

/* Stops a child and returns when it stands still. */
void demo_child_stop(struct demo_run *run, int child);

/* Ends all processes that are left, by force if need be, and awaits them. */
void demo_children_end(struct demo_run *run);

/* ---- what is shown --------------------------------------------------------------------------- */

struct demo_result {
    struct demo_account bus, outside, ledger;
    int differences;
    char *difference_text; /* one line each */
};

const char *demo_child_name(int child);
/* What a counter had grown to at this time. */
void demo_gauge_enter(struct demo_gauge *gauge, uint64_t value, uint64_t ns);
/* The ticks of all processors. How many were busy is a share of the ticks that there were: by
 * another clock, it would be more than there are, by one tick of each at either end of a window. */
void demo_gauge_busy(struct demo_gauge *gauge, uint64_t busy, uint64_t idle);
/* As they are shown: of a second, or, of a share of time, of processors. */
double demo_gauge_mean(const struct demo_shared *shared, enum demo_gauge_kind kind);
double demo_gauge_peak(const struct demo_shared *shared, enum demo_gauge_kind kind);
double demo_source_seconds(const struct demo_run *run, enum demo_source source);
/* Events a second at full rate: without the rounds before and after it. */
double demo_source_rate(const struct demo_run *run, enum demo_source source, uint64_t bus_accepted);

void demo_note(struct demo_run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
void demo_progress(struct demo_run *run);
void demo_report(const struct demo_run *run, const struct demo_result *result);
int demo_report_json(const struct demo_run *run, const struct demo_result *result);

#endif
