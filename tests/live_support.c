#include "tests/live_support.h"

#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <cmocka.h>

#define LOAN_BYTES 100u
#define HUGE_BYTES 40000u /* takes a chunk for itself */

/* ---- the holder ------------------------------------------------------------------------------ */

void live_begin(struct live_scene *s)
{
    close(s->line.to_child[1]);
    close(s->line.to_test[0]);
}

static int publish(struct geb_producer *p, geb_topic_id topic, uint64_t value)
{
    return geb_publish(p, topic, &value, sizeof(value));
}

void live_enter(struct live_scene *s)
{
    if (s->role == LIVE_CONSUMER) {
        SUPPORT_CHECK(geb_open(&s->consumer, s->name) == 0);
        SUPPORT_CHECK(geb_on(s->consumer, "t", api_record, &s->log) == 0);
        SUPPORT_CHECK(geb_dispatch(s->consumer, 1) == 1);
    } else {
        SUPPORT_CHECK(geb_join(&s->producer, s->name, "holder") == 0);
        SUPPORT_CHECK(geb_topic(s->producer, "t", &s->topic) == 0);
        SUPPORT_CHECK(publish(s->producer, s->topic, 1) == 0);
        SUPPORT_CHECK(geb_loan(s->producer, LOAN_BYTES, &s->loan) == 0);
        memset(s->loan.data, 0x5a, s->loan.len);
    }
    shr_store32_release(&s->note->entered, 1);
}

/* Whoever else is dead comes back too: the calls below need locks of their own. */
static void use_consumer(struct live_scene *s)
{
    struct geb_metrics m = GEB_METRICS_INIT;
    int *rc = s->note->stay_rc;
    rc[0] = geb_dispatch(s->consumer, 0);
    s->note->handled = rc[0] > 0 ? (uint32_t)rc[0] : 0;
    rc[0] = rc[0] > 0 ? 0 : rc[0];
    rc[1] = geb_metrics(s->consumer, &m);
    rc[2] = geb_set_spin(s->consumer, 1000);
    rc[3] = geb_dispatch(s->consumer, 0); /* says that all is done */
    if (rc[3] == 0) {
        s->consumer->swept_ns = 0;
        gebi_housekeep(s->consumer, geb_now());
    }
}

static void use_producer(struct live_scene *s)
{
    int *rc = s->note->stay_rc;
    geb_topic_id topic;
    rc[0] = geb_commit(s->producer, &s->loan, s->topic);
    rc[1] = publish(s->producer, s->topic, 3);
    rc[2] = geb_topic(s->producer, "t", &topic);
    rc[3] = geb_loan(s->producer, LOAN_BYTES, &s->loan); /* it keeps a chunk in use again */
}

int live_stay(struct live_scene *s)
{
    struct geb_producer *more;
    support_tell_test(&s->line);
    support_hear_test(&s->line);
    if (s->role == LIVE_CONSUMER)
        use_consumer(s);
    else
        use_producer(s);
    s->note->stay_rc[4] = geb_join(&more, s->name, "more");
    if (s->note->stay_rc[4] == 0)
        geb_leave(more);
    support_tell_test(&s->line);
    support_hear_test(&s->line);
    return 0;
}

int live_plain(void *scene)
{
    live_begin(scene);
    live_enter(scene);
    return live_stay(scene);
}

void live_line_low(struct live_scene *s)
{
    SUPPORT_CHECK(dup2(s->line.to_child[0], 0) == 0);
    SUPPORT_CHECK(dup2(s->line.to_test[1], 1) == 1);
    s->line.to_child[0] = 0;
    s->line.to_test[1] = 1;
}

pid_t live_fork(void)
{
    pid_t pid = fork();
    SUPPORT_CHECK(pid >= 0);
    return pid;
}

void live_i_stay(struct live_scene *s)
{
    shr_store32_release(&s->note->pid, (uint32_t)getpid());
}

void live_await(const shr_a32 *flag)
{
    while (shr_load32_acquire(flag) == 0) /* meson bounds this */
        sched_yield();
}

/* ---- the judge ------------------------------------------------------------------------------- */

void live_prepare(struct live_scene *s, enum live_role role)
{
    struct live_note *note = s->note != NULL ? s->note : support_shared(sizeof(*note));
    *s = (struct live_scene){.role = role, .note = note};
    memset(note, 0, sizeof(*note));
    support_name(s->name);
    s->entries = support_entries(support_dir());
    support_line_open(&s->line);
    s->config = api_config(GEB_RETURN_ERROR, 8);
    s->config.slab_bytes = 2 * SHR_CHUNK_BYTES;
}

static int consumer_open(struct live_scene *s)
{
    CRASH_EQUAL(geb_open(&s->bus, s->name), 0);
    CRASH_EQUAL(geb_on(s->bus, "t", api_record, &s->log), 0);
    return 0;
}

int live_create(struct live_scene *s)
{
    char path[SHR_PATH_BYTES];
    CRASH_EQUAL(geb_create(&s->bus, s->name, &s->config), 0);
    CRASH_EQUAL(geb_on(s->bus, "t", api_record, &s->log), 0);
    CRASH_EQUAL(geb_join(&s->other, s->name, "other"), 0);
    CRASH_EQUAL(geb_topic(s->other, "t", &s->topic), 0);
    CRASH_EQUAL(shr_segment_path(s->name, false, path), 0);
    CRASH_EQUAL(shr_segment_attach(&s->map, path, true), 0);
    if (s->role == LIVE_PRODUCER)
        return 0;
    CRASH_EQUAL(geb_close(s->bus, 0), 0);
    s->bus = NULL;
    for (uint64_t i = 1; i <= 2; i++)
        CRASH_EQUAL(publish(s->other, s->topic, i), 0);
    s->sent = 1; /* the holder handles the other one as it enters */
    return 0;
}

/* Handles what waits. If all events of LIVE_SLOT come here, they come without a gap. */
static int handle_all(struct live_scene *s)
{
    uint32_t from = s->log.cnt = 0;
    while (geb_dispatch(s->bus, 0) > 0) /* the last look also says that all is done */
        ;
    for (uint32_t i = from; i < s->log.cnt; i++) {
        const struct geb_event *event = &s->log.row[i].event;
        if (event->producer != LIVE_SLOT || s->role == LIVE_CONSUMER)
            continue;
        CRASH_EQUAL(event->number, s->number + 1);
        s->number++;
    }
    return 0;
}

static int judge_sweep(struct live_scene *s, bool alive)
{
    uint32_t owned = 0;
    s->bus->swept_ns = 0;
    gebi_housekeep(s->bus, geb_now());
    CRASH_EQUAL(shr_load32_acquire(&s->map.peers[LIVE_SLOT].state),
                alive ? SHR_PEER_USED : SHR_PEER_FREE);
    for (uint32_t i = 0; i < s->map.geo.chunk_cnt; i++)
        owned += shr_load_acquire(&s->map.owners[i]) != 0;
    CRASH_EQUAL(owned, alive);
    return 0;
}

/* A joiner takes the first slot that is not held, and all the memory that it can get. */
static int judge_join(struct live_scene *s, bool alive)
{
    struct geb_producer *joiner;
    struct geb_loan loan;
    CRASH_EQUAL(geb_join(&joiner, s->name, "joiner"), 0);
    CRASH_EQUAL(joiner->slot, alive ? LIVE_SLOT + 1 : LIVE_SLOT);
    CRASH_EQUAL(publish(joiner, s->topic, 9), 0);
    CRASH_TRY(handle_all(s)); /* which sees that its numbers go on from its last owner's */
    for (uint32_t got = 0; got < (alive ? 1u : 2u); got++)
        CRASH_EQUAL(geb_loan(joiner, HUGE_BYTES, &loan), 0);
    CRASH_EQUAL(geb_loan(joiner, HUGE_BYTES, &loan), -ENOBUFS);
    CRASH_EQUAL(geb_leave(joiner), 0);
    return 0;
}

static int judge_producer(struct live_scene *s, bool alive)
{
    struct geb_bus *second;
    CRASH_EQUAL(shr_lock_held(&s->map, LIVE_SLOT), alive);
    CRASH_EQUAL(geb_open(&second, s->name), -EBUSY);
    CRASH_EQUAL(geb_create(&second, s->name, &s->config), -EBUSY);
    CRASH_TRY(handle_all(s));
    if (s->joiner_first)
        CRASH_TRY(judge_join(s, alive));
    CRASH_TRY(judge_sweep(s, alive));
    if (!s->joiner_first)
        CRASH_TRY(judge_join(s, alive));
    CRASH_EQUAL(shr_lock_held(&s->map, LIVE_SLOT), alive);
    return judge_sweep(s, alive);
}

static int judge_consumer(struct live_scene *s, bool alive)
{
    struct geb_bus *second;
    struct geb_producer *joiner;
    CRASH_EQUAL(shr_lock_held(&s->map, SHR_CONSUMER_SLOT), alive);
    CRASH_EQUAL(geb_join(&joiner, s->name, "joiner"), 0); /* whoever consumes, or nobody */
    CRASH_EQUAL(publish(joiner, s->topic, 9), 0);
    s->sent++;
    CRASH_EQUAL(geb_leave(joiner), 0);
    if (alive) {
        CRASH_EQUAL(geb_open(&second, s->name), -EBUSY);
        CRASH_CHECK(strstr(geb_last_error(), "has its consumer") != NULL);
        CRASH_EQUAL(geb_create(&second, s->name, &s->config), -EBUSY);
        CRASH_EQUAL(geb_remove(s->name), -EBUSY);
        return 0;
    }
    CRASH_EQUAL(geb_create(&second, s->name, &s->config), 0);
    CRASH_EQUAL(shr_lock_held(&s->map, SHR_CONSUMER_SLOT), 1);
    CRASH_EQUAL(geb_close(second, 0), 0);
    CRASH_TRY(consumer_open(s));
    CRASH_TRY(handle_all(s));
    CRASH_EQUAL(s->log.cnt, s->sent);
    s->sent = 0;
    CRASH_EQUAL(geb_close(s->bus, 0), 0);
    s->bus = NULL;
    return 0;
}

/* Of a stayer, or another program, the memory may be there for a moment beyond its end (gone.h). */
static void await_free(struct live_scene *s)
{
    uint64_t slot = s->role == LIVE_PRODUCER ? LIVE_SLOT : SHR_CONSUMER_SLOT;
    uint64_t end_ns = geb_now() + SUPPORT_HANG_MS * UINT64_C(1000000);
    while (shr_lock_held(&s->map, slot) == 1 && geb_now() < end_ns)
        sched_yield();
}

int live_judge(struct live_scene *s, bool alive)
{
    if (!alive)
        await_free(s);
    return s->role == LIVE_PRODUCER ? judge_producer(s, alive) : judge_consumer(s, alive);
}

/* A producer that dies with a loan: the holder, if it is the consumer, must settle it. */
static int die(void *arg)
{
    struct live_scene *s = arg;
    struct geb_loan loan;
    SUPPORT_CHECK(geb_join(&s->producer, s->name, "victim") == 0);
    SUPPORT_CHECK(geb_loan(s->producer, LOAN_BYTES, &loan) == 0);
    kill(getpid(), SIGKILL);
    return 1;
}

static int use_handle(struct live_scene *s)
{
    support_tell_child(&s->line);
    support_hear_child(&s->line);
    return 0;
}

int live_go_on(struct live_scene *s)
{
    const struct live_note *note = s->note;
    if (s->role == LIVE_CONSUMER)
        CRASH_EQUAL(support_wait(support_child(die, s)), -SIGKILL);
    CRASH_TRY(use_handle(s));
    for (int i = 0; i < 4; i++)
        CRASH_EQUAL(note->stay_rc[i], 0);
    CRASH_EQUAL(note->stay_rc[4], s->is_locked_in ? -EACCES : 0);
    if (s->role == LIVE_CONSUMER) {
        CRASH_EQUAL(note->handled, s->sent);
        s->sent = 0;
        CRASH_EQUAL(shr_load32_acquire(&s->map.peers[LIVE_SLOT].state), SHR_PEER_FREE);
        for (uint32_t i = 0; i < s->map.geo.chunk_cnt; i++)
            CRASH_EQUAL(shr_load_acquire(&s->map.owners[i]), 0);
        return 0;
    }
    uint64_t before = s->number;
    CRASH_TRY(handle_all(s));
    CRASH_EQUAL(s->number, before + 2);
    CRASH_EQUAL(s->log.row[0].event.len, LOAN_BYTES);
    for (uint32_t i = 0; i < sizeof(s->log.row[0].data); i++)
        CRASH_EQUAL(s->log.row[0].data[i], 0x5a);
    return 0;
}

int live_is_stale(struct live_scene *s)
{
    CRASH_TRY(use_handle(s));
    for (int i = 0; i < 4; i++)
        CRASH_EQUAL(s->note->stay_rc[i], -ESTALE);
    CRASH_EQUAL(s->note->stay_rc[4], 0); /* it can take part by itself */
    return live_judge(s, false);
}

int live_close(struct live_scene *s)
{
    CRASH_EQUAL(geb_leave(s->other), 0);
    CRASH_EQUAL(geb_close(s->bus, 0), 0);
    shr_segment_detach(&s->map);
    support_line_close(&s->line);
    CRASH_EQUAL(geb_remove(s->name), 0);
    CRASH_EQUAL(support_entries(support_dir()), s->entries);
    return 0;
}

/* ---- rows of which another process stays ----------------------------------------------------- */

void live_adopt(void)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1);
}

pid_t live_stayer(const struct live_scene *s)
{
    return (pid_t)shr_load32_acquire(&s->note->pid);
}

static void run_stayer(int (*holder)(void *), enum live_left left, int end_signal,
                       enum live_role role, bool joiner_first)
{
    static struct live_scene s;
    live_prepare(&s, role);
    s.joiner_first = joiner_first;
    assert_int_equal(live_create(&s), 0);
    pid_t pid = support_child(holder, &s);
    support_hear_child(&s.line);
    bool can = shr_load32_acquire(&s.note->skip) == 0;
    if (can && end_signal != 0)
        kill(pid, end_signal);
    assert_int_equal(support_wait(pid), can ? -end_signal : 0);
    if (can) {
        assert_int_equal(live_judge(&s, left == LIVE_GOES_ON), 0);
        assert_int_equal(left == LIVE_GOES_ON ? live_go_on(&s) : live_is_stale(&s), 0);
        support_kill(live_stayer(&s));
        assert_int_equal(live_judge(&s, false), 0);
    }
    assert_int_equal(live_close(&s), 0);
    if (!can)
        skip();
}

void live_run_stayer(int (*holder)(void *), enum live_left left, int end_signal)
{
    run_stayer(holder, left, end_signal, LIVE_PRODUCER, false);
    run_stayer(holder, left, end_signal, LIVE_PRODUCER, true);
    run_stayer(holder, left, end_signal, LIVE_CONSUMER, false);
}
