/* geb-bench takeover: how long is a bus without a consumer when that is killed and a standby waits?
 *
 * Role 0 publishes without a pause, with block, so that it rides through. Role 1 starts a standby,
 * waits for it, kills the consumer at a random moment of the standby's polling, and so on: the
 * standby is the next victim. A sample is the time from before the kill until the standby's handler
 * has its first event.
 *
 * The floor, lock-poll, is the same without a bus: the victim holds a lock and nothing else, and
 * somebody looks at it as often as a standby does. "gap" is the longest time for which a busy
 * process did not run in the same rounds. How late a nap of role 0 ended beside it is said on
 * standard error: of a p99 beyond the goal, so much, and more, is the machine's, since the dying
 * and the standby must both get a processor. */
#include "bench/bus.h"
#include "bench/floor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define POLL_NS UINT64_C(2000000) /* as geb_take_over, which geb.h promises */
#define WAIT_NS 50000u

struct takeover_shared {
    _Alignas(128) shr_a64 ready;  /* the generation that stands by */
    _Alignas(128) shr_a64 taken;  /* the one that took over last … */
    shr_a64 taken_ns;             /* … and when */
    _Alignas(128) shr_a64 rounds; /* that role 1 has ended */
};

struct takeover_state {
    struct geb_producer *producer; /* role 0 */
    geb_topic_id topic;
    uint64_t rounds;
    uint64_t number;
    uint64_t latest_ns;  /* role 0: that a nap ended too late */
    uint64_t generation; /* role 1 */
    uint64_t seed;
    pid_t consumer;
    int lock_fd;
    struct bench_sink sink;
    unsigned char payload[BENCH_PAYLOAD_MAX];
};

/* What a child knows of itself: set before the fork that makes it. */
static struct {
    struct takeover_shared *shared;
    const char *name; /* of the bus; NULL: the floor */
    int lock_fd;
    uint64_t generation;
} me;

static void nap(uint64_t ns)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)ns}, NULL);
}

static void note_taken(void)
{
    if (shr_load_relaxed(&me.shared->taken) == me.generation) {
        return;
    }
    shr_store_relaxed(&me.shared->taken_ns, shr_now_ns());
    shr_store_release(&me.shared->taken, me.generation);
}

/* ---- the children --------------------------------------------------------------------------- */

static int on_event(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    (void)ctx;
    note_taken();
    bench_sink_add(user, event);
    return 0;
}

static void stand_by(struct bench_sink *sink)
{
    struct geb_bus *bus;
    if (geb_stand_by(&bus, me.name) == 0 && geb_on(bus, "bench", on_event, sink) == 0) {
        shr_store_release(&me.shared->ready, me.generation);
        geb_run(bus);
    }
}

/* The same with a lock alone. */
static void poll_lock(void)
{
    char path[64];
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
    snprintf(path, sizeof(path), "/proc/self/fd/%d", me.lock_fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    shr_store_release(&me.shared->ready, me.generation);
    while (fd >= 0 && fcntl(fd, F_OFD_SETLK, &lock) != 0) {
        nap(POLL_NS);
    }
    note_taken();
    pause();
}

static pid_t start(const struct bench_turn *turn)
{
    struct takeover_state *s = turn->state;
    const struct bench_bus *bus = turn->subject->arg;
    me.shared = turn->shared;
    me.name = bus != NULL ? bus->name[0] : NULL;
    me.lock_fd = s->lock_fd;
    me.generation = ++s->generation;
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid != 0) {
        return pid;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == parent) {
        me.name != NULL ? stand_by(&s->sink) : poll_lock();
    }
    _exit(1);
}

/* ---- the roles ------------------------------------------------------------------------------ */

static int takeover_open(struct bench_turn *turn)
{
    const struct bench_bus *bus = turn->subject->arg;
    struct takeover_state *s = calloc(1, sizeof(*s));
    int rc = 0;
    if (s == NULL) {
        return bench_fail(turn, -ENOMEM, "state");
    }
    turn->state = s;
    s->seed = turn->start_ns + 88172645463325252u;
    bench_payload_init(s->payload, turn->bytes);
    if (turn->role == 1 && bus != NULL) {
        struct geb_bus *creator;
        rc = bench_bus_create(turn, 0, on_event, &s->sink, &creator);
        if (rc == 0) {
            geb_close(creator, 0);
        }
    }
    if (turn->role == 1 && bus == NULL) {
        s->lock_fd = open("/dev/shm", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
        if (s->lock_fd < 0) {
            return bench_fail(turn, -errno, "a file in /dev/shm");
        }
    }
    bench_meet(turn);
    if (rc == 0 && turn->role == 0 && bus != NULL) {
        rc = bench_bus_join(turn, 0, &s->producer, &s->topic);
    }
    return rc;
}

static int publish_until_done(struct bench_turn *turn)
{
    struct takeover_state *s = turn->state;
    struct takeover_shared *shared = turn->shared;
    s->rounds++;
    while (shr_load_acquire(&shared->rounds) < s->rounds) {
        if (s->producer != NULL) {
            bench_payload_number(s->payload, turn->bytes, s->number++);
            int rc = geb_publish(s->producer, s->topic, s->payload, turn->bytes);
            if (rc < 0) {
                return bench_bus_fail(turn, rc, "geb_publish");
            }
        }
        uint64_t due_ns = shr_now_ns() + WAIT_NS;
        nap(WAIT_NS);
        uint64_t now_ns = shr_now_ns();
        if (now_ns > due_ns && now_ns - due_ns > s->latest_ns) {
            s->latest_ns = now_ns - due_ns;
        }
    }
    return 0;
}

static int await(const struct bench_turn *turn, const shr_a64 *word, uint64_t value, pid_t child)
{
    while (shr_load_acquire(word) != value) {
        if (waitpid(child, NULL, WNOHANG) == child) {
            return bench_fail(turn, -ECHILD, "a standby ended");
        }
        nap(WAIT_NS);
    }
    return 0;
}

/* Makes a standby, and kills the consumer when it is ready. Without a consumer it is the first. */
static int take_over_once(struct bench_turn *turn)
{
    struct takeover_state *s = turn->state;
    struct takeover_shared *shared = turn->shared;
    pid_t standby = start(turn);
    if (standby < 0) {
        return bench_fail(turn, -errno, "fork");
    }
    int rc = await(turn, &shared->ready, s->generation, standby);
    uint64_t killed_ns = 0;
    if (rc == 0 && s->consumer != 0) {
        s->seed ^= s->seed << 13;
        s->seed ^= s->seed >> 7;
        s->seed ^= s->seed << 17;
        nap(s->seed % POLL_NS);
        killed_ns = shr_now_ns();
        kill(s->consumer, SIGKILL);
        waitpid(s->consumer, NULL, 0);
    }
    s->consumer = standby;
    if (rc == 0) {
        rc = await(turn, &shared->taken, s->generation, standby);
    }
    if (rc == 0 && killed_ns != 0) {
        bench_hist_add(turn->hist, (shr_load_relaxed(&shared->taken_ns) - killed_ns) * 1000u);
    }
    return rc;
}

static int takeover_round(struct bench_turn *turn)
{
    struct takeover_state *s = turn->state;
    struct takeover_shared *shared = turn->shared;
    if (turn->role == 0) {
        return publish_until_done(turn);
    }
    int rc = s->consumer == 0 ? take_over_once(turn) : 0;
    uint64_t begin_ns = shr_now_ns();
    for (uint64_t i = 0; rc == 0 && i < turn->count; i++) {
        rc = take_over_once(turn);
    }
    turn->elapsed_ns = shr_now_ns() - begin_ns;
    shr_store_release(&shared->rounds, shr_load_relaxed(&shared->rounds) + 1);
    return rc;
}

static void takeover_close(struct bench_turn *turn)
{
    struct takeover_state *s = turn->state;
    if (s->producer != NULL) {
        fprintf(stderr, "takeover: beside it a nap ended %.1f ms late at most\n",
                (double)s->latest_ns / 1e6);
        geb_leave(s->producer);
    }
    if (s->consumer != 0) {
        kill(s->consumer, SIGKILL);
        waitpid(s->consumer, NULL, 0);
    }
    free(s);
}

static const struct bench_ops takeover_ops = {.roles = 2,
                                              .shared_bytes = sizeof(struct takeover_shared),
                                              .open = takeover_open,
                                              .round = takeover_round,
                                              .close = takeover_close};

int bench_takeover(const struct bench_options *opt)
{
    static struct bench_bus bus;
    static struct bench_plan plan = {
        .name = "takeover",
        .question = "how long is a bus without a consumer that is killed, when a standby waits?",
        .unit = "one takeover: from SIGKILL to the standby's first event; percentiles are over "
                "takeovers, the ratio is of the rounds' p50",
        .rounds = 40};
    uint32_t bytes = opt->bytes != 0 ? opt->bytes : BENCH_PAYLOAD_BYTES;

    if (bench_payload_check(bytes) < 0) {
        return 2;
    }
    unsigned gap = bench_floor_add(&plan, opt, "gap", &bench_floor_gap, 1);
    unsigned floor = bench_floor_add(&plan, opt, "lock-poll", &takeover_ops, 5);
    plan.subject[gap].keeps_all = true;
    plan.subject[floor].keeps_all = true;
    plan.subject[floor].latency = true;
    bench_bus_init(&bus, "takeover", "standby", GEB_BLOCK);
    bench_plan_add(&plan, opt,
                   (struct bench_subject){.name = "geb",
                                          .mode = "standby",
                                          .ops = &takeover_ops,
                                          .arg = &bus,
                                          .count = 5,
                                          .bytes = bytes,
                                          .producers = 1,
                                          .floor = floor,
                                          .latency = true,
                                          .keeps_all = true});
    int status = bench_run(&plan, opt);
    bench_bus_remove(&bus);
    return status;
}
