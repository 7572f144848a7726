#include "bench/harness.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WARM_UP_ROUNDS     2u
#define TRIES_MAX          4u  /* of a turn, until one is undisturbed */
#define WATCHDOG_LOOKS_MAX 12u /* of 5 s each */

/* What all roles of one subject share. All but the gate is plain: the barrier
 * between the end of a turn and its collection orders them. */
struct subject_area {
    struct bench_gate gate;
    uint64_t elapsed_ns[BENCH_ROLES_MAX];
    bool disturbed[BENCH_ROLES_MAX];
    struct bench_hist round;
    struct bench_hist calm; /* of undisturbed rounds */
    struct bench_hist all;
};

struct session_area {
    struct bench_gate gate;
    _Alignas(128) shr_a64 turns; /* finished, for the watchdog */
};

struct bench_session {
    const struct bench_plan *plan;
    const struct bench_machine *machine;
    unsigned roles;
    bool crowded; /* more roles than CPUs: waiting must give way */
    struct session_area *area;
    struct subject_area *subject[BENCH_SUBJECTS_MAX];
    void *shared[BENCH_SUBJECTS_MAX];
    struct bench_result result[BENCH_SUBJECTS_MAX];
};

static void *share(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void gate_pass(const struct bench_session *s, struct bench_gate *gate, unsigned parties)
{
    uint64_t generation = shr_load_relaxed(&gate->generation);
    if (shr_fetch_add_acq_rel(&gate->arrived, 1) + 1 == parties) {
        shr_store_relaxed(&gate->arrived, 0);
        gate->opened_ns = shr_now_ns();
        shr_store_release(&gate->generation, generation + 1);
        return;
    }
    for (unsigned spins = 1; shr_load_acquire(&gate->generation) == generation; spins++) {
        if (s->crowded && spins % 1024u == 0) {
            sched_yield();
        }
    }
}

void bench_meet(struct bench_turn *turn)
{
    const struct bench_session *s = turn->session;
    size_t idx = (size_t)(turn->subject - s->plan->subject);
    gate_pass(s, &s->subject[idx]->gate, turn->subject->ops->roles);
}

int bench_fail(const struct bench_turn *turn, int rc, const char *what)
{
    fprintf(stderr, "geb-bench: %s (%s, role %u): %s: %s\n", turn->session->plan->name,
            turn->subject->mode, turn->role, what, strerror(rc < 0 ? -rc : rc));
    return rc;
}

int bench_plan_add(struct bench_plan *plan, const struct bench_options *opt,
                   struct bench_subject subject)
{
    bool is_floor = strcmp(subject.name, "floor") == 0;
    if (!is_floor && opt->mode != NULL && strcmp(opt->mode, subject.mode) != 0) {
        return -1;
    }
    unsigned idx = plan->subject_cnt++;
    if (opt->count != 0) {
        subject.count = opt->count;
    }
    if (is_floor) {
        subject.floor = idx;
    }
    plan->subject[idx] = subject;
    return (int)idx;
}

/* ---- one role's process --------------------------------------------------------------------- */

/* How often the kernel has put another task in this one's place, unasked. */
static long preemptions(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_nivcsw : 0;
}

static int role_round(struct bench_session *s, unsigned role, unsigned idx, struct bench_turn *turn)
{
    const struct bench_subject *subject = &s->plan->subject[idx];
    struct subject_area *area = s->subject[idx];

    long before = preemptions();
    gate_pass(s, &s->area->gate, s->roles);
    if (role < subject->ops->roles) {
        turn->start_ns = s->area->gate.opened_ns;
        turn->elapsed_ns = 0;
        int rc = subject->ops->round(turn);
        if (rc < 0) {
            return rc;
        }
        area->elapsed_ns[role] = turn->elapsed_ns;
        area->disturbed[role] = !s->crowded && !subject->keeps_all && preemptions() != before;
    }
    gate_pass(s, &s->area->gate, s->roles);
    return 0;
}

/* All roles come to the same answer: nobody writes a mark before all have passed the next gate. */
static bool turn_disturbed(const struct bench_session *s, unsigned idx)
{
    bool disturbed = false;
    for (unsigned r = 0; r < s->plan->subject[idx].ops->roles; r++) {
        disturbed = disturbed || s->subject[idx]->disturbed[r];
    }
    return disturbed;
}

/* One subject's turn. On a machine with other work to do, the next try is usually calm; what it is
 * compared with has just run. */
static int role_turn(struct bench_session *s, unsigned role, unsigned idx, struct bench_turn *turn)
{
    for (unsigned tries = 1;; tries++) {
        int rc = role_round(s, role, idx, turn);
        if (rc < 0 || tries == TRIES_MAX || !turn_disturbed(s, idx)) {
            return rc;
        }
        if (role == 0) {
            bench_hist_clear(&s->subject[idx]->round);
        }
    }
}

/* Role 0 keeps the books, while the others wait at the next start line. */
static void collect(struct bench_session *s, unsigned idx, unsigned round)
{
    const struct bench_subject *subject = &s->plan->subject[idx];
    struct subject_area *area = s->subject[idx];
    struct bench_round now = {.disturbed = turn_disturbed(s, idx)};
    uint64_t longest_ns = 0;
    for (unsigned r = 0; r < subject->ops->roles; r++) {
        if (area->elapsed_ns[r] > longest_ns) {
            longest_ns = area->elapsed_ns[r];
        }
    }
    shr_fetch_add_relaxed(&s->area->turns, 1);
    if (round >= WARM_UP_ROUNDS) {
        now.event_ns = (double)longest_ns / (double)subject->count;
        now.ns = subject->latency ? bench_hist_ns(&area->round, 0.5) : now.event_ns;
        s->result[idx].round[round - WARM_UP_ROUNDS] = now;
        bench_hist_merge(&area->all, &area->round);
        if (!now.disturbed) {
            bench_hist_merge(&area->calm, &area->round);
        }
    }
    bench_hist_clear(&area->round);
}

static int role_run(struct bench_session *s, unsigned role)
{
    const struct bench_plan *plan = s->plan;
    struct bench_turn turn[BENCH_SUBJECTS_MAX];
    int rc = 0;

    if (s->machine->online_cnt > 1 &&
        (rc = bench_pin(s->machine->cpu[role % s->machine->cpu_cnt])) < 0) {
        return rc;
    }
    memset(turn, 0, sizeof(turn));
    for (unsigned i = 0; i < plan->subject_cnt && rc == 0; i++) {
        const struct bench_subject *subject = &plan->subject[i];
        turn[i] = (struct bench_turn){.machine = s->machine,
                                      .subject = subject,
                                      .session = s,
                                      .role = role,
                                      .count = subject->count,
                                      .bytes = subject->bytes,
                                      .hist = &s->subject[i]->round,
                                      .shared = s->shared[i]};
        if (role < subject->ops->roles && subject->ops->open != NULL) {
            rc = subject->ops->open(&turn[i]);
        }
    }
    for (unsigned round = 0; round < plan->rounds + WARM_UP_ROUNDS && rc == 0; round++) {
        for (unsigned k = 0; k < plan->subject_cnt && rc == 0; k++) {
            unsigned i = (k + round) % plan->subject_cnt;
            rc = role_turn(s, role, i, &turn[i]);
            if (rc == 0 && role == 0) {
                collect(s, i, round);
            }
        }
    }
    for (unsigned i = 0; i < plan->subject_cnt && rc == 0; i++) {
        if (role < plan->subject[i].ops->roles && plan->subject[i].ops->close != NULL) {
            plan->subject[i].ops->close(&turn[i]);
        }
    }
    return rc;
}

/* ---- the parent ----------------------------------------------------------------------------- */

static int session_map(struct bench_session *s)
{
    s->area = share(sizeof(*s->area));
    if (s->area == NULL) {
        return -ENOMEM;
    }
    for (unsigned i = 0; i < s->plan->subject_cnt; i++) {
        const struct bench_ops *ops = s->plan->subject[i].ops;
        s->subject[i] = share(sizeof(*s->subject[i]));
        s->result[i].round = share(s->plan->rounds * sizeof(*s->result[i].round));
        if (ops->shared_bytes > 0) {
            s->shared[i] = share(ops->shared_bytes);
        }
        if (s->subject[i] == NULL || s->result[i].round == NULL ||
            (ops->shared_bytes > 0 && s->shared[i] == NULL)) {
            return -ENOMEM;
        }
        if (ops->roles > s->roles) {
            s->roles = ops->roles;
        }
    }
    s->crowded = s->roles > s->machine->cpu_cnt;
    return 0;
}

/* The child ends when its parent does: a bench must not go on burning CPUs unseen. */
static _Noreturn void role_main(struct bench_session *s, unsigned role, pid_t parent,
                                const sigset_t *mask)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
        _exit(1);
    }
    sigprocmask(SIG_SETMASK, mask, NULL);
    int rc = role_run(s, role);
    fflush(stderr);
    _exit(rc < 0 ? 1 : 0);
}

/* Waits for all children. 0, or -1 after a message: one failed, a signal came, or nothing moved. */
static int wait_for_roles(struct bench_session *s, pid_t *pid, const sigset_t *signals)
{
    unsigned left = s->roles;
    unsigned looks = 0;
    uint64_t turns = 0;
    while (left > 0) {
        int sig = sigtimedwait(signals, NULL, &(struct timespec){.tv_sec = 5});
        if (sig == SIGINT || sig == SIGTERM) {
            fprintf(stderr, "geb-bench: stopped by a signal\n");
            return -1;
        }
        for (unsigned r = 0; r < s->roles; r++) {
            int status;
            if (pid[r] > 0 && waitpid(pid[r], &status, WNOHANG) == pid[r]) {
                pid[r] = 0;
                left--;
                if (WIFSIGNALED(status)) {
                    fprintf(stderr, "geb-bench: role %u died of signal %d\n", r, WTERMSIG(status));
                }
                if (status != 0) {
                    return -1;
                }
            }
        }
        uint64_t now = shr_load_relaxed(&s->area->turns);
        looks = now == turns && sig < 0 ? looks + 1 : 0;
        turns = now;
        if (looks >= WATCHDOG_LOOKS_MAX) {
            fprintf(stderr, "geb-bench: no turn ended for a minute: an event was lost, or --count "
                            "is far too large\n");
            return -1;
        }
    }
    return 0;
}

static int session_run(struct bench_session *s)
{
    sigset_t signals;
    sigset_t before;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, &before);

    pid_t pid[BENCH_ROLES_MAX] = {0};
    pid_t parent = getpid();
    int rc = 0;
    for (unsigned r = 0; r < s->roles && rc == 0; r++) {
        pid[r] = fork();
        if (pid[r] == 0) {
            role_main(s, r, parent, &before);
        }
        if (pid[r] < 0) {
            perror("geb-bench: fork");
            rc = -1;
        }
    }
    if (rc == 0) {
        rc = wait_for_roles(s, pid, &signals);
    }
    for (unsigned r = 0; r < s->roles; r++) {
        if (pid[r] > 0) {
            kill(pid[r], SIGKILL);
            waitpid(pid[r], NULL, 0);
        }
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return rc;
}

static int check_mode(const struct bench_plan *plan, const struct bench_options *opt)
{
    for (unsigned i = 0; i < plan->subject_cnt; i++) {
        const struct bench_subject *subject = &plan->subject[i];
        if (opt->mode == NULL || strcmp(subject->mode, opt->mode) == 0) {
            return 0;
        }
    }
    fprintf(stderr, "geb-bench: %s has no mode \"%s\"; `geb-bench --list` shows them\n", plan->name,
            opt->mode);
    return -EINVAL;
}

int bench_run(struct bench_plan *plan, const struct bench_options *opt)
{
    static struct bench_machine machine;
    static struct bench_session session;

    if (opt->rounds != 0) {
        plan->rounds = opt->rounds;
    }
    if (check_mode(plan, opt) < 0) {
        return 2;
    }
    int rc = bench_machine_read(&machine, opt->cpus);
    if (rc < 0) {
        fprintf(stderr, "geb-bench: --cpus: not a list of CPUs that this process may use\n");
        return 2;
    }
    session = (struct bench_session){.plan = plan, .machine = &machine};
    if (session_map(&session) < 0) {
        fprintf(stderr, "geb-bench: no memory for the shared areas\n");
        return 1;
    }
    fflush(stdout);
    if (session_run(&session) < 0) {
        return 1;
    }
    for (unsigned i = 0; i < plan->subject_cnt; i++) {
        struct subject_area *area = session.subject[i];
        session.result[i].hist = area->calm.total > 0 ? &area->calm : &area->all;
    }
    return bench_report(plan, opt, &machine, session.result) < 0 ? 1 : 0;
}
