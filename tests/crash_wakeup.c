/* Goal: no death loses a wake-up for longer than one bounded sleep, and who sleeps on a full bus
 * learns what became of the consumer.
 *
 * Method: sleepers are processes that sleep in the kernel by the real clock; their sleeps are
 * counted (every futex wait, by a syscall() of our own), time is not.
 *   producer   the consumer has just gone to sleep; a producer commits an event and is killed at
 *              one of the instructions between that and the end of its call, each in turn: the
 *              event is handled before the consumer sleeps a second time
 *   consumer   a producer sleeps on a full bus; the consumer makes room and is killed between that
 *              and the end of its call: the producer publishes without a second sleep, though
 *              nobody is the consumer any more
 *   end        producers sleep for a place or for a block, and the consumer closes the bus
 *              (-ESHUTDOWN at once) or dies (-EPIPE after the second of grace, which is a hundred
 *              sleeps) */
#include "tests/crash_death.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>

STEP_CLOCK_GETTIME

#define SLEEPERS    3u
#define GONE_SLEEPS 100u /* a second of sleeps of 10 ms */

/* What the processes share. */
static struct shared {
    shr_a32 waits[SLEEPERS];   /* futex waits of each sleeper so far */
    int32_t rc[SLEEPERS];      /* what it was told */
    shr_a64 handled;           /* events, by the consumer's handler … */
    shr_a64 sleeps_at_handled; /* … and how often it had slept at the last one */
    shr_a32 ready;
} * shared;

static shr_a32 *my_waits;
static unsigned kills, failed;

/* The one of libc, which counts. */
long syscall(long number, ...)
{
    va_list args;
    va_start(args, number);
    long a = va_arg(args, long), b = va_arg(args, long), c = va_arg(args, long);
    register long d __asm__("r10") = va_arg(args, long);
    register long e __asm__("r8") = va_arg(args, long);
    register long f __asm__("r9") = va_arg(args, long);
    va_end(args);
    long rc;
    if (number == SYS_futex && (int)b == FUTEX_WAIT_BITSET && my_waits != NULL)
        shr_store32_release(my_waits, shr_load32_relaxed(my_waits) + 1);
    __asm__ volatile("syscall"
                     : "=a"(rc)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(d), "r"(e), "r"(f)
                     : "rcx", "r11", "memory");
    if (rc < 0 && rc > -4096) {
        errno = (int)-rc;
        return -1;
    }
    return rc;
}

/* Waits for a fact that another process brings about. */
#define AWAIT(fact)                                                              \
    do {                                                                         \
        uint64_t until_ns_ = shr_now_ns() + SUPPORT_HANG_MS * UINT64_C(1000000); \
        while (!(fact)) {                                                        \
            CRASH_CHECK(shr_now_ns() < until_ns_);                               \
            sched_yield();                                                       \
        }                                                                        \
    } while (0)

/* ---- a child that is killed past a moment ---------------------------------------------------- */

static struct crash_world w = {.slab_bytes = 2 * SHR_CHUNK_BYTES};

/* Steps until the moment has come, then `further` instructions, and kills it. 0: killed; 1: the
 * region ended before these; negative: the moment never came, or it could not be stepped. */
static int kill_past(struct step_child *child, bool (*moment)(void), size_t further)
{
    int rc = 0;
    while (rc == 0 && !moment())
        rc = step_reach(child, NULL, child->k + 1);
    if (rc == 0 && further != 0)
        rc = step_reach(child, NULL, child->k + further);
    bool came = moment();
    step_kill(child);
    return rc < 0 || came ? rc : -ENOMSG;
}

/* ---- the producer dies ----------------------------------------------------------------------- */

static int note(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct geb_bus *bus = geb_context_bus(ctx);
    (void)event;
    (void)user;
    shr_store_relaxed(&shared->sleeps_at_handled, shr_load_relaxed(&bus->map.tally->sleeps));
    shr_store_release(&shared->handled, shr_load_relaxed(&shared->handled) + 1);
    return 0;
}

static struct geb_bus *to_stop;

static void on_signal(int number)
{
    (void)number;
    geb_stop(to_stop);
}

static int consumer(void *arg)
{
    (void)arg;
    SUPPORT_CHECK(geb_open(&to_stop, w.name) == 0);
    SUPPORT_CHECK(geb_on(to_stop, "events", note, NULL) == 0);
    SUPPORT_CHECK(geb_set_spin(to_stop, 0) == 0);
    signal(SIGTERM, on_signal);
    SUPPORT_CHECK(geb_run(to_stop) == 0);
    return geb_close(to_stop, 0);
}

static int prepare_producer(void *user)
{
    int rc = crash_join(&w, &w.victim, CRASH_VICTIM);
    (void)user;
    if (rc == 0)
        crash_compose(&w, &w.victim, CRASH_INLINE);
    return rc;
}

static int region_producer(void *user)
{
    (void)user;
    return crash_publish_now(&w.victim, CRASH_INLINE);
}

static uint64_t due; /* position of the victim's event */

static bool is_committed(void)
{
    const struct shr_cell *cell = &w.map.cells[shr_cell_index(due, w.map.geo.cell_cnt)];
    return shr_load_acquire(&cell->state) == shr_state(due, SHR_TAG_READY);
}

static uint64_t sleeps(void)
{
    return shr_load_acquire(&w.map.tally->sleeps);
}

static bool consumer_sleeps(void)
{
    return shr_load32_acquire(&w.map.peers[0].waiting) == SHR_WAIT_EVENTS;
}

/* One round; `further` goes back to 0 when it was past the end. */
static int lose_a_producer(const struct step_scenario *s, size_t *further)
{
    struct step_child child = {0};
    uint64_t handled = shr_load_acquire(&shared->handled);
    CRASH_EQUAL(step_start(&child, s), 0);
    due = shr_load_acquire(&w.map.hot->head);
    /* It begins a sleep now, which lasts longer than a few hundred steps. */
    uint64_t before = sleeps();
    AWAIT(sleeps() != before && consumer_sleeps());
    int rc = kill_past(&child, is_committed, *further);
    CRASH_CHECK(rc == 0 || rc == 1);
    *further = rc == 1 ? 0 : *further + 1;
    uint64_t slept = sleeps(); /* it is in the next one, or looks already */
    AWAIT(shr_load_acquire(&shared->handled) == handled + 1);
    CRASH_CHECK(shr_load_acquire(&shared->sleeps_at_handled) <= slept + 1);
    return 0;
}

static int lose_producers(unsigned rounds)
{
    struct step_scenario s = {
        .name = "producer", .prepare = prepare_producer, .region = region_producer, .user = &w};
    struct shr_account account;
    size_t further = 0;
    shr_store_relaxed(&shared->handled, 0);
    CRASH_EQUAL(crash_death_setup(&w), 0);
    CRASH_EQUAL(crash_leave(&w.next), 0);
    uint64_t before = shr_load_relaxed(&w.map.tally->col[SHR_COL_DELIVERED]);
    pid_t pid = support_child(consumer, NULL);
    AWAIT(consumer_sleeps());
    for (unsigned i = 0; i < rounds; i++) {
        failed += lose_a_producer(&s, &further) != 0;
        kills++;
    }
    kill(pid, SIGTERM);
    CRASH_EQUAL(support_wait(pid), 0);
    CRASH_EQUAL(shr_account(&w.map, &account, NULL), 0);
    CRASH_EQUAL(account.col[SHR_COL_DELIVERED] - before, rounds);
    CRASH_EQUAL(account.pending, 0);
    CRASH_EQUAL(account.accepted, account.col[SHR_COL_DELIVERED]);
    return 0;
}

/* ---- sleepers on a full bus ------------------------------------------------------------------ */

struct sleeper {
    uint32_t idx;
    enum crash_kind kind;
};

static int sleeper(void *arg)
{
    const struct sleeper *me = arg;
    struct crash_sender s;
    SUPPORT_CHECK(crash_join(&w, &s, CRASH_LATE + me->idx % 3) == 0);
    crash_compose(&w, &s, me->kind);
    my_waits = &shared->waits[me->idx];
    shr_fetch_add32_release(&shared->ready, 1);
    shared->rc[me->idx] = crash_publish_now(&s, me->kind);
    my_waits = NULL;
    return crash_leave(&s) == 0 ? 0 : 1;
}

/* A bus full of `kind`, whose consumer is this process, and `cnt` producers that have slept. */
static int make_sleepers(enum crash_kind kind, uint32_t cnt, pid_t pid[SLEEPERS])
{
    struct sleeper me = {.kind = kind};
    w.kind = kind;
    CRASH_EQUAL(crash_create(&w), 0);
    struct crash_sender *s = crash_test_sender(&w);
    if (w.exclusive)
        CRASH_EQUAL(crash_join(&w, s, CRASH_SUCCESSOR), 0);
    int rc;
    do
        rc = crash_send(&w, s, kind);
    while (rc == 0);
    CRASH_CHECK(rc == -ETIMEDOUT);
    CRASH_EQUAL(crash_leave(s), 0);
    for (uint32_t i = 0; i < cnt; i++) {
        me.idx = i;
        shr_store32_relaxed(&shared->waits[i], 0);
        pid[i] = support_child(sleeper, &me);
        AWAIT(shr_load32_acquire(&shared->waits[i]) >= 1);
    }
    return 0;
}

/* Each was told `rc`, after so many more sleeps at most. */
static int expect(int rc, const pid_t pid[SLEEPERS], uint32_t cnt, const uint32_t waits[SLEEPERS],
                  uint32_t more)
{
    for (uint32_t i = 0; i < cnt; i++) {
        CRASH_EQUAL(support_wait(pid[i]), 0);
        CRASH_EQUAL(shared->rc[i], rc);
        CRASH_CHECK(shr_load32_acquire(&shared->waits[i]) <= waits[i] + more);
    }
    return 0;
}

static void waits_note(uint32_t waits[SLEEPERS])
{
    for (uint32_t i = 0; i < SLEEPERS; i++)
        waits[i] = shr_load32_acquire(&shared->waits[i]);
}

static int holder(void *arg)
{
    struct geb_bus *bus;
    (void)arg;
    SUPPORT_CHECK(geb_open(&bus, w.name) == 0);
    shr_fetch_add32_release(&shared->ready, 1);
    for (;;)
        pause();
}

static int end_of_consumer(enum crash_kind kind, bool orderly)
{
    pid_t pid[SLEEPERS];
    uint32_t waits[SLEEPERS];
    uint32_t cnt = w.exclusive ? 1 : 2;
    CRASH_TRY(make_sleepers(kind, cnt, pid));
    if (orderly) {
        CRASH_EQUAL(crash_close(&w), 0);
    } else {
        /* Within the grace, so that the producers learn nothing of the change. */
        CRASH_EQUAL(geb_stand_by(&to_stop, w.name), 0);
        CRASH_EQUAL(crash_close(&w), 0);
        shr_store32_relaxed(&shared->ready, 0);
        pid_t consumer_pid = support_child(holder, NULL);
        AWAIT(shr_load32_acquire(&shared->ready) == 1);
        CRASH_EQUAL(geb_close(to_stop, 0), 0);
        support_kill(consumer_pid);
        kills++;
    }
    /* Counted from here on, however long the end itself took: a sleep whose last look was before
     * it, and the grace. */
    waits_note(waits);
    uint32_t more = orderly ? 1 : GONE_SLEEPS + 3;
    return expect(orderly ? -ESHUTDOWN : -EPIPE, pid, cnt, waits, more);
}

/* ---- the consumer dies ----------------------------------------------------------------------- */

static int prepare_consumer(void *user)
{
    (void)user;
    int rc = crash_open(&w);
    return rc == 0 ? gebi_flatten(w.bus) : rc;
}

static int region_consumer(void *user)
{
    (void)user;
    return geb_dispatch(w.bus, 1) == 1 ? 0 : -EIO;
}

static bool has_made_room(void)
{
    return shr_load_acquire(&w.map.hot->done) == due + 1;
}

/* The handle of this process is the standby's, so that no sleeper gives up while we step. */
static int lose_a_consumer(size_t *further)
{
    struct step_scenario s = {
        .name = "consumer", .prepare = prepare_consumer, .region = region_consumer, .user = &w};
    struct step_child child = {0};
    pid_t pid[SLEEPERS];
    uint32_t waits[SLEEPERS];
    CRASH_TRY(make_sleepers(CRASH_INLINE, 1, pid));
    CRASH_EQUAL(geb_stand_by(&to_stop, w.name), 0);
    CRASH_EQUAL(crash_close(&w), 0);
    due = shr_load_acquire(&w.map.hot->done);
    CRASH_EQUAL(step_start(&child, &s), 0);
    int rc = kill_past(&child, has_made_room, *further);
    CRASH_CHECK(rc == 0 || rc == 1);
    *further = rc == 1 ? 0 : *further + 1;
    waits_note(waits);
    kills++;
    CRASH_TRY(expect(0, pid, 1, waits, 1));
    return geb_close(to_stop, 0);
}

/* ---- all of them ----------------------------------------------------------------------------- */

static void try_once(int rc, const char *what)
{
    if (rc != 0) {
        printf("%s: %s\n", what, crash_bus_text(&w));
        failed++;
    }
    crash_destroy(&w);
}

int main(void)
{
    crash_begin();
    shared = support_shared(sizeof(*shared));
    unsigned rounds = crash_quick() ? 17 : 167; /* six times that */
    for (uint32_t bus = 0; bus < CRASH_BUSES; bus++) {
        crash_choose_bus(&w, bus);
        w.kind = CRASH_INLINE;
        unsigned before = kills;
        try_once(lose_producers(rounds), "producers killed before their wake");
        printf("producers killed between commit and wake, %s: %u kills\n", crash_bus_text(&w),
               kills - before);
    }
    w.policy = GEB_BLOCK;
    for (int exclusive = 0; exclusive < 2; exclusive++) {
        size_t further = 0;
        w.exclusive = exclusive != 0;
        for (int orderly = 0; orderly < 2; orderly++) {
            try_once(end_of_consumer(CRASH_INLINE, orderly != 0), "asleep for a place");
            try_once(end_of_consumer(CRASH_RUN, orderly != 0), "asleep for a block");
        }
        for (unsigned i = 0; i < rounds; i++)
            try_once(lose_a_consumer(&further), "consumers killed before their wake");
    }
    printf("crash_wakeup: %u kills, %u failed\n", kills, failed);
    return failed != 0 || crash_leftovers != 0;
}
