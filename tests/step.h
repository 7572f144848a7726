/*
 * step: kill or stop a child process at every instruction of a region of code.
 *
 * The promise under test is "SIGKILL or SIGSTOP at any instruction"; so a test has to be able to
 * stop a process in front of each instruction in turn. This harness forks a child, runs it under
 * ptrace to the first instruction of a function (the region), lets it execute k instructions, and
 * hands it over.
 *
 * Point k is the state after exactly k instructions of the region, so instruction k has not run
 * yet. A region of N instructions, from its first to its return, has the points 0 to N - 1. A
 * system call is one instruction; so is a string instruction with all its repetitions: the states
 * amid a `rep movsb` are not points.
 *
 * Worked example: every prefix of two stores is seen, and no other state.
 *
 *     static int setup(void *user)   { memset(user, 0, 16); return 0; }  // tracer, for each k
 *     static int region(void *user)  { volatile long *w = user; w[0] = 1; w[1] = 2; return 0; }
 *     static int check(struct step_child *child, size_t k, void *user)  // tracer, at each k
 *     {
 *         const long *w = user;
 *         return w[1] == 2 && w[0] != 1 ? -EBADMSG : 0;             // not 0: k has failed
 *     }
 *
 *     struct step_scenario s = {.name = "two stores", .setup = setup, .region = region,
 *                               .user = shared_mapping};
 *     struct step_result result;
 *     assert_int_equal(step_every(&s, STEP_KILL, check, &result), 0);
 *     // prints: two stores: 4 instructions, 0 failed
 *
 * With STEP_STOP the check gets a child that stands still at k. It does with others what it wants
 * to prove, and then lets the child go on:
 *
 *         publish_thousand(other);
 *         step_resume(child);
 *         return step_wait(child, &status) < 0 || status != 0;
 *
 * A check reports by its result. It must not leave by longjmp (cmocka's asserts do): the driver
 * would lose the child and its count.
 *
 * States of a child:
 *
 *            step_start                 step_reach(k)
 *     GONE ────────────▶ STOPPED at 0 ───────────────▶ STOPPED at k ──step_resume──▶ RUNNING
 *      ▲                      │                            │    │                       │
 *      │                      └── region is shorter ─▶ PASSED   │                       │
 *      │                                                 │      │                       │
 *      └── step_kill (any state), step_wait (RUNNING), ◀─┴──────┴───────────────────────┘
 *          or it died by itself (step_reach says -ECHILD, status says how)
 *
 * GONE means reaped: its locks are free, its mappings are gone. When the tracer dies in any state,
 * the kernel kills the child (PR_SET_PDEATHSIG, and PTRACE_O_EXITKILL while it is traced).
 *
 * How a point is reached. A first walk steps through the whole region and records each address; a
 * second one tells whether the way is always the same. If so, a far point is reached by a
 * breakpoint at (address, occurrence) and the steps that remain, whichever is cheapest; else by
 * steps alone, from the start. On arrival the address is compared with the recorded one; when it
 * differs, another child is sent there, and when it differs again and again the region counts as
 * varying and breakpoints are given up. (One thing this cannot see:
 * a run that takes more turns of a loop before the breakpoint than both walks did. Its point is
 * still the recorded address and occurrence.) Tracer and child share one processor while the tracer
 * steps, since a step is two switches.
 *
 * What a region must keep to: one thread; no exec; no handler for SIGTRAP. Link with -z now, or the
 * dynamic linker's symbol look-ups are part of the region. The walk runs the child to its end, so
 * the region must end by itself, or by `unblock`.
 */
#ifndef GEB_TESTS_STEP_H
#define GEB_TESTS_STEP_H

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* A child that sleeps this long in one system call, or after step_resume, hangs: -ETIMEDOUT. */
#define STEP_HANG_NS 30000000000LL

/* Single steps, repetitions included, that one child may take: -E2BIG beyond. */
#define STEP_LIMIT_DEFAULT (4u << 20)

/*
 * What happens around and in the region. Only region is required. Functions return 0 or -errno.
 * The child is a fork of the tracer: `user` is its copy, unless it lies in a shared mapping.
 */
struct step_scenario {
    const char *name;           /* for reports */
    int (*setup)(void *user);   /* in the tracer, before each fork: a fresh world */
    int (*prepare)(void *user); /* in the child, untraced, before the region */
    int (*region)(void *user);  /* in the child: each instruction is a point */
    int (*finish)(void *user);  /* in the child, after the region, when that returned 0 */
    /* In the tracer, when the child sleeps in a system call of the region, perhaps many times for
     * one sleep: wake it. */
    void (*unblock)(void *user);
    void (*teardown)(void *user); /* in the tracer, after each child is gone */
    void *user;
    size_t limit; /* 0: STEP_LIMIT_DEFAULT */
    /* In the tracer, at each point of the first walk: whether a kill here would leave exactly what
     * one at the point before does, since nothing that outlives the child differs. Such points are
     * stepped through, and not killed at: they count as reached. Of STEP_KILL only, and not where
     * the way varies. */
    bool (*same)(void *user);
    /* Of STEP_STOP: points behind a private instruction (step_watch.h) are not stopped at, and
     * count as reached. Not where the way varies. */
    bool skip_private;
};

enum step_state {
    STEP_GONE,    /* does not exist; status says how it ended */
    STEP_STOPPED, /* in front of instruction k */
    STEP_PASSED,  /* stopped; the region has returned after k instructions */
    STEP_RUNNING, /* no longer traced, on its way to its end */
};

struct step_child {
    const struct step_scenario *scenario;
    pid_t pid;
    enum step_state state;
    size_t k;                 /* instructions executed */
    uint64_t rip;             /* address of the next one */
    int status;               /* as waitpid gives it; valid when it ended by itself or was killed */
    int signal;               /* a signal that it was stopped with and will get when it goes on */
    size_t steps;             /* single steps so far */
    int cpu;                  /* where it and the tracer meet; -1: not pinned */
    unsigned met;             /* step_meet less step_part */
    cpu_set_t cpus;           /* where the tracer may run otherwise, and the child once resumed */
    struct step_watch *watch; /* NULL: nobody asks what its instructions touch */
};

/* The recorded way through a region. */
struct step_point {
    uint64_t rip;
    uint32_t steps;      /* single steps to it, repetitions included */
    uint32_t occurrence; /* at which arrival at this address, from 1 */
    uint32_t anchor; /* cheapest reached by a breakpoint at this point and steps; 0: steps alone */
    bool same;       /* scenario->same said so, or the instruction before it was private */
};

struct step_walk {
    struct step_point *points;
    size_t count; /* instructions; when it varies, the shorter of the two walks */
    size_t room;
    int status;  /* how the undisturbed child ended, as waitpid gives it */
    bool varies; /* two runs went different ways: breakpoints are not used */
};

enum step_action {
    STEP_KILL, /* the check finds the child GONE, by SIGKILL */
    STEP_STOP, /* the check finds the child STOPPED; a child that it leaves so is killed after it */
};

struct step_result {
    size_t instructions; /* of the region */
    size_t reached;      /* points reached and checked; more than those if the walk varies */
    size_t same;         /* of these, points that were as the one before: same, skip_private */
    size_t failed;       /* points where the check failed, or the child died on the way */
    size_t first_failed; /* the lowest of these; SIZE_MAX: none */
    bool varies;
};

/* In the tracer, with the child as the action left it. 0: good. */
typedef int step_check_fn(struct step_child *child, size_t k, void *user);

/* False where this is not implemented (not x86-64) or ptrace is forbidden. */
bool step_available(void);
/* Exits 77 there, which is skipped. */
void step_require(void);

/* In a check: prints what does not hold at k, and returns. */
#define STEP_CHECK(condition)                                                 \
    do {                                                                      \
        if (!(condition)) {                                                   \
            printf("%s:%d: at %zu: %s\n", __FILE__, __LINE__, k, #condition); \
            return -EBADMSG;                                                  \
        }                                                                     \
    } while (0)

/*
 * Calls check at every point, each time with a fresh setup and child; prints failures and, at the
 * end, "NAME: N instructions, N failed" to stdout. 0: every point was reached and none failed;
 * 1: not so, see result; or -errno: the harness could not go on (said on stdout).
 */
int step_every(const struct step_scenario *scenario, enum step_action action, step_check_fn *check,
               struct step_result *result);

/* The number of instructions of the region, by one walk; or -errno. */
ssize_t step_count(const struct step_scenario *scenario);

/* Records the way; two children. The caller frees it, also after an error. -ECHILD: one died. */
int step_walk(const struct step_scenario *scenario, struct step_walk *walk);
void step_walk_free(struct step_walk *walk);

/*
 * One child by hand, for tests with several of them; these call neither setup nor teardown.
 *
 * step_start   forks, and returns with the child at point 0. -ECHILD: it ended before that, for
 *              instance since prepare failed.
 * step_reach   to point k ≥ child->k. 0: there; 1: PASSED; -ECHILD: died; -E2BIG: limit;
 *              -ETIMEDOUT: asleep; -EAGAIN: left the recorded way, walk->varies is now set, begin
 *              again with a new child. walk may be NULL: steps alone.
 * step_kill    SIGKILL, and waits for the end. Harmless on a child that is GONE.
 * step_resume  lets it run untraced.
 * step_wait    until a RUNNING child has ended, however that was; *status as waitpid gives it,
 *              0 when region and finish returned 0, else with their errno as exit code.
 *              -ETIMEDOUT: it hung, and has been killed.
 * step_to_end  both: 0 when the child that stood still came to a good end, else what went wrong.
 */
/* Between these two a caller may step often: child and tracer stay on one processor. */
void step_meet(struct step_child *child);
void step_part(struct step_child *child);
int step_start(struct step_child *child, const struct step_scenario *scenario);
int step_reach(struct step_child *child, struct step_walk *walk, size_t k);
int step_kill(struct step_child *child);
int step_resume(struct step_child *child);
int step_wait(struct step_child *child, int *status);
int step_to_end(struct step_child *child);

/* Writes "function+0x1c" for an address of this process, or the bare address; returns text. */
const char *step_symbol(uint64_t address, char *text, size_t size_bytes);

#endif
