/* What the crash suites share: a small bus, a ledger of it outside of its segment, the checks that
 * must hold after somebody was killed or stopped, and the parts that scenarios have in common.
 *
 * Every event says who sent it and its number, and fills its payload with a pattern of both. The
 * handler notes in the ledger, which lies in memory of its own that all processes share, that it
 * began and ended with the event. So what the bus claims can be compared with what really happened.
 *
 * A suite hands step.h a scenario, most parts of which are here, and a check of its own:
 *
 *     setup      crash_setup              bus, consumer, ledger, positions beyond one lap
 *     prepare    crash_prepare_sender     the victim joins and composes what it will publish
 *     region     crash_victim_publishes   … it is killed, or stopped, at each instruction …
 *     check      crash_settle             the account closes; was its last call accepted?
 *                crash_go_on              others go on: polls are counted, not time
 *                step_to_end              who was stopped goes on, too
 *                crash_end_of_victim      everything is back, account and ledger agree
 *     finish     crash_victim_leaves      (who was stopped, or whom nobody disturbed)
 *     teardown   crash_teardown
 *
 * Time: the takers' clock is a counter, one microsecond a look, so patience is a number of polls.
 *
 * Functions that check return 0, or the line that failed after they printed it; so what is printed
 * leads from the condition that did not hold out to the line of the suite.
 */
#ifndef GEB_TESTS_CRASH_SUPPORT_H
#define GEB_TESTS_CRASH_SUPPORT_H

#include "lib/internal.h"
#include "tests/step.h"
#include "tests/step_clock.h"
#include "tests/support.h"

#define CRASH_SENDERS     6u
#define CRASH_SEQS        2048u
#define CRASH_BATCH       3u
#define CRASH_RUN_BYTES   (100u * 1024u)
#define CRASH_BLOCK_BYTES 500u
/* A committed event waits at most two patiences, and a poll is a microsecond of them. */
#define CRASH_PATIENCE_NS 30000u
#define CRASH_POLLS_MAX   (2u * CRASH_PATIENCE_NS / 1000u)

/* Who sends: the test's own producer, the victim, and whoever joins later. */
#define CRASH_OTHER     0u
#define CRASH_VICTIM    1u
#define CRASH_SUCCESSOR 2u
#define CRASH_LATE      3u

enum crash_kind {
    CRASH_INLINE, /* a cell full */
    CRASH_SHORT,  /* less */
    CRASH_SLAB,   /* one block */
    CRASH_RUN,    /* a run of two chunks */
    CRASH_BATCH3, /* three events in one block; the middle one has a topic without handler */
    CRASH_LOAN,   /* geb_loan and geb_commit */
    CRASH_RETURN, /* geb_loan and geb_return: publishes nothing */
    CRASH_BIG,    /* a loan of more than half a chunk, of which a few bytes are committed */
    CRASH_LONG,   /* the same of a run of two chunks */
    CRASH_KINDS,
};

struct crash_ledger {
    /* By sender and number: handlers that began and ended, that saw a redelivery. */
    uint8_t begun[CRASH_SENDERS][CRASH_SEQS];
    uint8_t ended[CRASH_SENDERS][CRASH_SEQS];
    uint8_t again[CRASH_SENDERS][CRASH_SEQS];
    uint8_t silent[CRASH_SENDERS][CRASH_SEQS]; /* its topic has no handler */
    uint32_t last[CRASH_SENDERS];              /* number of the last event that a handler began */
    uint32_t sent[CRASH_SENDERS]; /* 1 … sent were committed: their call returned 0 */
    uint64_t accepted[4];         /* by slot: committed, from the calls' results */
    uint32_t torn;
    uint32_t disorder;
};

/* One producer handle, and what it sends next. */
struct crash_sender {
    struct geb_producer *p;
    uint32_t who;
    geb_topic_id topic;
    geb_topic_id nobody; /* a topic without handler */
    struct geb_loan loan;
};

struct crash_world {
    /* Chosen by the suite. */
    enum geb_policy policy;
    bool exclusive;
    enum crash_kind kind;
    uint32_t capacity;  /* 0: 4 */
    uint32_t producers; /* 0: 2; exclusive: 1 */
    uint32_t topics;    /* 0: 5 */
    uint32_t slab_bytes;
    uint32_t max_event;
    bool variant;   /* these two mean what */
    uint32_t state; /* the suite says */

    char name[64];
    struct crash_ledger *ledger;
    struct shr_map map; /* read-only, as an observer's */
    struct geb_bus *bus;
    struct crash_sender other;  /* of the test */
    struct crash_sender next;   /* of the test, after the victim */
    struct crash_sender victim; /* of the child */
    uint32_t victim_slot;
    uint32_t most_polls; /* that an event waited */
};

/* Prints and returns the line. */
int crash_fail(const char *file, int line, const char *what, long long value);
#define CRASH_CHECK(condition)                                    \
    do {                                                          \
        if (!(condition))                                         \
            return crash_fail(__FILE__, __LINE__, #condition, 0); \
    } while (0)
#define CRASH_EQUAL(a, b)                                                                     \
    do {                                                                                      \
        long long a_ = (long long)(a), b_ = (long long)(b);                                   \
        if (a_ != b_)                                                                         \
            return crash_fail(__FILE__, __LINE__, #a " == " #b ", which is off by", a_ - b_); \
    } while (0)
#define CRASH_TRY(call)                                                             \
    do {                                                                            \
        int rc_ = (call);                                                           \
        if (rc_ != 0)                                                               \
            return crash_fail(__FILE__, __LINE__, "in " #call ", which said", rc_); \
    } while (0)

/* ---- the bus --------------------------------------------------------------------------------- */

/* Makes the bus, its consumer in this process and the handlers, and lets more than one lap of
 * in-line events pass, sent and drained by `other`; under exclusive, `other` leaves again. */
int crash_create(struct crash_world *w);
int crash_destroy(struct crash_world *w);

/* The same two as setup and teardown of a scenario, whose `user` is the world. */
int crash_setup(void *user);
void crash_teardown(void *user);

/* The configuration of that bus. */
void crash_config(const struct crash_world *w, struct geb_config *config);

/* Opens the bus as its consumer, with the handlers. In the test or in a child. */
int crash_open(struct crash_world *w);
/* Closes it, without handling what waits. */
int crash_close(struct crash_world *w);

/* Gives a topic the handler that "events" has. 0 or what geb said. */
int crash_on(struct crash_world *w, const char *topic);

/* What the handler does first: notes that it began with an event. False: the event is torn. */
bool crash_begin_event(struct crash_ledger *ledger, const struct geb_event *event, uint32_t *who,
                       uint32_t *seq);

/* ---- producers ------------------------------------------------------------------------------- */

int crash_join(struct crash_world *w, struct crash_sender *s, uint32_t who);
int crash_leave(struct crash_sender *s);

/* The test's own, beside the victim: `other`, or under exclusive `next`, which joins only when the
 * one before it has gone. */
struct crash_sender *crash_test_sender(struct crash_world *w);

/* Events that a kind commits. */
uint32_t crash_events(enum crash_kind kind);

/* Publishes one `kind` and notes it in the ledger. 0 or what geb said. Does not wait. */
int crash_send(struct crash_world *w, struct crash_sender *s, enum crash_kind kind);

/* The same in two parts, for a region: everything but the calls of geb, then nothing but them. */
void crash_compose(struct crash_world *w, struct crash_sender *s, enum crash_kind kind);
int crash_publish_now(struct crash_sender *s, enum crash_kind kind);

/* So many events are that many laps of the ring, and one. */
uint32_t crash_laps(const struct crash_world *w, uint32_t cnt);

/* Sends cnt events, every other one of this kind, with a poll after each. */
int crash_go_on(struct crash_world *w, struct crash_sender *s, enum crash_kind kind, uint32_t cnt);

/* As crash_send_and_poll, cnt times, with a sweep now and then: beside somebody who is stopped. */
int crash_beside(struct crash_world *w, struct crash_sender *s, enum crash_kind kind, uint32_t cnt);
/* How many of these: a thousand, but a hundred in the quick form. */
uint32_t crash_stop_events(void);

/* A producer of a child that died and has not been swept, in the slot that the victim will get.
 * Also a block that nobody knows of, unless w->kind is in line. */
enum crash_dead {
    CRASH_DEAD_NONE,
    CRASH_DEAD_IDLE,      /* between two calls */
    CRASH_DEAD_CLAIM,     /* claimed, and said which position */
    CRASH_DEAD_INEXACT,   /* claimed, and did not say so yet */
    CRASH_DEAD_UNCOUNTED, /* committed w->kind, and did not count it */
    CRASH_DEAD_HAND,      /* dropped the oldest event, and did not free its block */
};
int crash_let_die(struct crash_world *w, enum crash_dead how);

/* Halves of a call, for a child that dies behind them: claims a cell, and says which, if `exact`;
 * drops the oldest event, and does not free its block, or, if not `taken`, has only announced in
 * its hand what it will drop. */
void crash_half_claim(struct crash_sender *s, bool exact);
int crash_half_drop(struct crash_sender *s, bool taken);

/* Sends, polling when there is no room, then polls until the event was handled. Fails when it
 * takes more polls than two patiences are. */
int crash_send_and_poll(struct crash_world *w, struct crash_sender *s, enum crash_kind kind);

/* ---- consumer -------------------------------------------------------------------------------- */

/* One look at the ring. */
int crash_poll(struct crash_world *w);
/* Looks for as long as two patiences are. */
int crash_drain(struct crash_world *w);
void crash_sweep(struct crash_world *w);

/* The takers' clock: each call is a microsecond later. */
uint64_t crash_clock(void);

/* ---- checks ---------------------------------------------------------------------------------- */

/* The account closes: accepted = the sum of the columns. What nobody asks for may be NULL, also in
 * the two behind it. */
int crash_account(struct crash_world *w, struct shr_account *account, uint64_t slot_accepted[4]);

/* As crash_account, and it agrees with the ledger about what each slot's calls have sent. */
int crash_account_agrees(struct crash_world *w, struct shr_account *account);

/* The victim is dead or has ended: the account closes, and its last call was accepted whole or not
 * at all; notes in the ledger which. */
int crash_settle(struct crash_world *w, enum crash_kind kind, struct shr_account *account);
/* The same for whoever sends from that slot. */
int crash_settle_slot(struct crash_world *w, uint32_t who, uint32_t slot, enum crash_kind kind,
                      struct shr_account *account);

/* What the ledger says of all events up to their sender's sent. */
struct crash_sum {
    uint64_t handled;   /* events that a handler ended with, each once */
    uint64_t unhandled; /* in a batch of which others were handled */
    uint64_t missing;   /* neither */
    uint64_t again;     /* handlers that saw a redelivery */
    uint64_t broken;    /* handlers that did not end */
};

/* Fails if an event beyond them was handled, or one a second time without being marked. */
int crash_sum(const struct crash_world *w, struct crash_sum *sum);

/* Account and ledger agree: nothing waits, was handed out again or lost in a crash; `missing`
 * gets what was dropped. */
int crash_books(struct crash_world *w, uint64_t *missing);

/* With an empty ring, after a sweep: no block is in use. */
int crash_blocks_free(const struct crash_world *w);

/* Nothing is left in the segment: nobody takes part but the consumer, which has drained. */
int crash_clean(struct crash_world *w);

/* The test's producers leave, and nothing is left. */
int crash_leave_clean(struct crash_world *w);

/* A new producer takes the victim's slot, finds memory for `kind`, and leaves. */
int crash_join_again(struct crash_world *w, uint32_t who, enum crash_kind kind);

/* The end of a check: crash_leave_clean and crash_books. */
int crash_end(struct crash_world *w, uint64_t *missing);

/* The same behind a victim that was a producer: its blocks and its slot are back, and the others go
 * on with events of this kind; so many events were dropped. */
int crash_end_of_victim(struct crash_world *w, enum crash_kind kind_of_others, uint64_t dropped);

/* ---- copies of the segment ------------------------------------------------------------------- */

/* A segment without its payloads, and the ledger, at point k of a region. */
struct crash_image {
    unsigned char *bytes;
    struct crash_ledger *ledger;
    size_t k;
};

void crash_image_save(struct crash_image *image, const struct crash_world *w, size_t k);
/* `writable` is the test's own map of the bus. Nobody may take part in it. */
void crash_image_restore(const struct crash_image *image, struct crash_world *w,
                         struct shr_map *writable);
void crash_image_free(struct crash_image *image);

/* What of a segment a recovery is about: positions, cells and the bodies that are whole, slots,
 * hands, chunks, blocks, topics, the account. Not: counters, epochs, names, times, notes. */
#define CRASH_DIGEST_WORDS 4096u
struct crash_digest {
    struct crash_digest_word {
        const char *what;
        uint64_t value;
        uint32_t index;
    } word[CRASH_DIGEST_WORDS];
    uint32_t cnt;
};

int crash_digest(struct crash_digest *d, const struct shr_map *map);
bool crash_digest_same(const struct crash_digest *a, const struct crash_digest *b);
/* Prints where they differ. */
void crash_digest_explain(const struct crash_digest *a, const struct crash_digest *b);

/* ---- parts of a scenario --------------------------------------------------------------------- */

/* For prepare: joins, sends w->kind cnt times and composes `next`, which the region will publish;
 * from then on the child's clock is steady. */
int crash_prepare_sender(struct crash_world *w, struct crash_sender *s, uint32_t who, uint32_t cnt,
                         enum crash_kind next);

/* A region: the victim publishes w->kind, which prepare has composed. */
int crash_victim_publishes(void *user);
/* A finish. */
int crash_victim_leaves(void *user);

/* ---- suites ---------------------------------------------------------------------------------- */

extern const char *const crash_kind_text[CRASH_KINDS];

/* The six buses: each policy, shared and then exclusive. Sets w->policy and w->exclusive. */
#define CRASH_BUSES 6u
void crash_choose_bus(struct crash_world *w, uint32_t bus);
/* As "block, exclusive". */
const char *crash_bus_text(const struct crash_world *w);

/* The quick form, which leaves cases out that differ little from others, but no point. */
bool crash_quick(void);

extern unsigned crash_leftovers; /* buses that were not clean at their end */

/* For step_scenario.same: whether all that outlives the child is as at the last call: the segment,
 * the ledger, the names in the directory. Payloads do not count, since nobody reads them before a
 * commit. A suite whose child leaves other things has a function of its own. */
bool crash_same(void *user);

/* Runs a scenario over the world and adds to the totals; 0 if every point was reached and good. In
 * the quick form a child is killed where crash_same says no, stopped behind instructions that are
 * not private, and stepped through elsewhere; under long it is stopped at each. */
int crash_run(const struct step_scenario *scenario, enum step_action action, step_check_fn *check,
              const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Prints the totals; the exit status of the suite. */
int crash_report(const char *suite);

/* First thing in main: exits 77 where stepping is not possible. */
void crash_begin(void);

#endif
