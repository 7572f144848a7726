/* What the liveness suites share: a holder (a producer, or the consumer) that is brought into some
 * state, and a judge that says what follows from it: alive, or dead.
 *
 *     live_prepare(&s, LIVE_PRODUCER);   name and lines; live_create: the bus, by the judge
 *     pid = support_child(holder, &s);   in it: live_enter, the state, live_stay
 *     support_hear_child(&s.line);       it is in that state now
 *     live_judge(&s, true)               the verdicts, each by the call that makes it
 *     live_go_on(&s)                     it was not reclaimed: it goes on as if nothing had been
 *     … the holder ends …
 *     live_judge(&s, false), live_close(&s)
 *
 * The bus has 4 slots and two chunks. `other`, a producer of the judge, has slot 1, so a holder
 * that is a producer has slot 2. It publishes one event, and keeps a loan while it is in its state.
 *
 * Functions that judge return 0, or the line that failed after they printed it: a judge may be a
 * child, in another pid namespace for instance.
 */
#ifndef GEB_TESTS_LIVE_SUPPORT_H
#define GEB_TESTS_LIVE_SUPPORT_H

#include "lib/internal.h"
#include "tests/api_support.h"
#include "tests/crash_support.h"

#define LIVE_SLOT 2u

enum live_role { LIVE_PRODUCER, LIVE_CONSUMER };

/* Shared by all processes of a scene. */
struct live_note {
    shr_a32 entered; /* the holder takes part */
    shr_a32 skip;    /* this machine cannot bring it into the state */
    shr_a32 pid; /* of the process that stays, where that is not the child, as the test knows it */
    shr_a32 own; /* the suite's own flag */
    int stay_rc[5];   /* what the holder's calls gave after its state */
    uint32_t handled; /* events that the holder handled then, as a consumer */
};

struct live_scene {
    enum live_role role;
    bool joiner_first; /* the joiner judges before the sweep does */
    bool is_locked_in; /* the holder cannot open the file again */
    unsigned entries;  /* of the directory, without its bus */
    char name[64];
    struct support_line line;
    struct live_note *note;

    /* The judge's. */
    struct geb_config config;
    struct shr_map map;
    struct geb_bus *bus; /* NULL: the holder is the consumer */
    struct geb_producer *other;
    geb_topic_id topic;
    struct api_log log;
    uint64_t number; /* of the last event of LIVE_SLOT that was handled */
    uint64_t sent;   /* events that wait for the holder, if it is the consumer */

    /* The holder's. */
    struct geb_producer *producer;
    struct geb_bus *consumer;
    struct geb_loan loan;
};

/* ---- the holder, in its process -------------------------------------------------------------- */

/* First thing: the line's other ends are closed, so that whoever stays ends with the test. */
void live_begin(struct live_scene *s);

/* Joins and publishes, or opens the bus and handles one event. */
void live_enter(struct live_scene *s);

/* Tells the judge, waits for it, uses the handle, and tells again. Then it waits for the end: 0. */
int live_stay(struct live_scene *s);

/* The three of them. */
int live_plain(void *scene);

/* The line becomes descriptors 0 and 1. */
void live_line_low(struct live_scene *s);

/* fork, which succeeds. live_i_stay: this process is the one that the judge has to do with. */
pid_t live_fork(void);
void live_i_stay(struct live_scene *s);

/* Waits until another process of the scene has set a flag. */
void live_await(const shr_a32 *flag);

/* ---- the judge ------------------------------------------------------------------------------- */

void live_prepare(struct live_scene *s, enum live_role role);
int live_create(struct live_scene *s);

/* The four verdicts: the lock, the consumer's sweep, a joiner, a second consumer. */
int live_judge(struct live_scene *s, bool alive);

/* live_go_on: tells the holder to use its handle, and checks that nothing of it was reclaimed.
 * live_is_stale: the same for one that has but a copy of the handle: all its calls gave -ESTALE. */
int live_go_on(struct live_scene *s);
int live_is_stale(struct live_scene *s);

int live_close(struct live_scene *s);

/* ---- rows of which another process stays ----------------------------------------------------- */

enum live_left { LIVE_GOES_ON, LIVE_IS_STALE };

/* First thing in main: the test becomes the parent of its children's orphans. */
void live_adopt(void);

/* The pid that live_i_stay, or the suite, noted. */
pid_t live_stayer(const struct live_scene *s);

/* Judges once as a producer, once with the joiner first, once as the consumer. The first child
 * ends by itself, or by the signal. Skips the test if the holder says that it cannot. */
void live_run_stayer(int (*holder)(void *), enum live_left left, int end_signal);

#endif
