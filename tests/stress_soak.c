/* Goal: with producers and consumers that are killed and stopped at random, one after the other for
 * as long as it runs, nothing is lost, doubled, reordered or torn, nothing leaks, and each column
 * of the account says what the ledgers outside the bus say.
 *
 * Method: four lanes publish copies, batches and loans, in line and in slabs, into a ring that is
 * full most of the time; a consumer logs what it handles. A list of decisions, which the seed
 * fixes, says who is killed or stopped next, after how many observed events, and how long after
 * that: a short random delay, so that the kill hits no instruction in particular. The dead one is
 * succeeded at once. Every so many kills there is a quiet moment (soak_run.h): all that happened
 * since the last one is compared (soak_check.c), and slots, cells, blocks, names and descriptors
 * are counted.
 *
 * GEB_SOAK_KILLS in the environment: so many kills in all, instead of about 100, 6,000 (ci) or
 * 100,000 (long).
 */
#include "tests/soak_run.h"

#include "shmring/peer.h"
#include "tests/support.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <cmocka.h>

#define CASES          9u
#define KILLS_A_WINDOW 25u
#define POLLS_MAX      40u /* looks at the progress before a kill happens anyway */
#define POLL_NS        20000

static struct soak_check check;
static pid_t pid[SOAK_ROLES];
static bool stopped[SOAK_ROLES];
static uint32_t started; /* consumers */
static uint64_t kills_of[SOAK_ROLES], stops, in_flight;
static uint64_t kills_all, decisions = UINT64_C(0xcbf29ce484222325); /* a hash of all of them */

static uint64_t kills_of_a_case(void)
{
    static const uint64_t kills[] = {108, 6003, 100800};
    const char *text = getenv("GEB_SOAK_KILLS");
    uint64_t all = SUPPORT_SANITIZED ? 30 : kills[support_depth()];
    return (text != NULL ? strtoull(text, NULL, 10) : all) / CASES;
}

/* ---- processes ------------------------------------------------------------------------------- */

static void start(uint32_t role)
{
    static uint32_t number[SOAK_ROLES];
    number[role] = role == SOAK_CONSUMER ? started++ : role;
    pid[role] = support_child(role == SOAK_CONSUMER ? soak_consumer_process : soak_lane_process,
                              &number[role]);
}

/* The end of a process that should not have ended; what it says is on stderr. */
static void look_for_the_dead(void)
{
    for (uint32_t role = 0; role < SOAK_ROLES; role++) {
        siginfo_t info = {0};
        if (pid[role] != 0 &&
            waitid(P_PID, (id_t)pid[role], &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
            info.si_pid != 0)
            fail_msg("%s: role %u ended by itself: %d", run.c->what, role, info.si_status);
    }
}

static void nap(void)
{
    struct timespec time = {.tv_nsec = POLL_NS};
    nanosleep(&time, NULL);
}

/* Waits for a fact; the watchdog ends a wait for what does not come. */
static void await(bool (*fact)(void))
{
    stress_watchdog(run.c->what);
    for (uint32_t polls = 1; !fact(); polls++) {
        if (polls % 64 == 0)
            look_for_the_dead();
        nap();
    }
}

static void kill_role(uint32_t role)
{
    kill(pid[role], SIGKILL);
    if (support_wait(pid[role]) != -SIGKILL)
        fail_msg("%s: role %u had ended before it was killed", run.c->what, role);
    pid[role] = 0;
    stopped[role] = false;
    kills_of[role]++;
    if (role != SOAK_CONSUMER) {
        struct ledger *ledger = &run.board->ledger[role];
        uint64_t begun = shr_load_relaxed(&ledger->begun);
        in_flight += begun != shr_load_relaxed(&ledger->done);
        shr_store_relaxed(&ledger->done, begun);
    }
    start(role);
}

/* ---- decisions ------------------------------------------------------------------------------- */

struct decision {
    uint32_t role;
    bool stop; /* or continue, if it is stopped; else kill */
    uint32_t events, spins;
};

/* Half of the kills come within a few events, thus early in the life of some process; the others
 * after hundreds. */
static struct decision decide(void)
{
    static uint64_t nth;
    uint64_t r = stress_hash(SOAK_ROLES, ++nth, 8);
    struct decision d = {
        .role = (uint32_t)(r >> 8) % 16 < 4 ? SOAK_CONSUMER : (uint32_t)(r >> 16) % SOAK_LANES,
        .stop = (r >> 24) % 8 == 0,
        .events = (uint32_t)(r >> 32) % (1u << (1 + (r >> 28) % 12)),
        .spins = (uint32_t)(r >> 48) % 4096,
    };
    const uint32_t all[] = {d.role, d.stop, d.events, d.spins};
    for (uint32_t i = 0; i < 4; i++)
        decisions = (decisions ^ all[i]) * UINT64_C(0x100000001b3);
    return d;
}

static uint64_t progress(void)
{
    uint64_t sum = shr_load_relaxed(&soak->cnt);
    for (uint32_t id = 0; id < SOAK_LANES; id++)
        sum += shr_load_relaxed(&run.board->ledger[id].begun);
    return sum;
}

static void carry_out(const struct decision *d)
{
    uint64_t from = progress();
    for (uint32_t polls = 0; progress() - from < d->events && polls < POLLS_MAX; polls++)
        nap();
    for (uint32_t i = 0; i < d->spins; i++)
        shr_cpu_relax();
    if (!d->stop) {
        kill_role(d->role);
        kills_all++;
    } else {
        kill(pid[d->role], stopped[d->role] ? SIGCONT : SIGSTOP);
        stopped[d->role] = !stopped[d->role];
        stops += stopped[d->role];
    }
}

/* ---- quiet moments --------------------------------------------------------------------------- */

static struct geb_watch *watch;
static struct shr_map map; /* read-only, to look at the cells themselves */
static uint32_t turn, pauses;

static bool all_paused(void)
{
    for (uint32_t id = 0; id < SOAK_LANES; id++) {
        if (shr_load32_acquire(&soak->lane[id].paused) != shr_load32_relaxed(&soak->pause))
            return false;
    }
    return true;
}

static bool has_marked(void)
{
    return shr_load32_acquire(&soak->lane[turn].marked) == shr_load32_relaxed(&soak->pause);
}

static bool is_drained(void)
{
    struct geb_metrics m = GEB_METRICS_INIT;
    assert_int_equal(geb_watch_metrics(watch, &m), 0);
    return m.pending == 0;
}

/* Only who lives has a slot, no cell is quarantined, and no block is in use. */
static bool is_swept(void)
{
    struct geb_participant who[SOAK_ROLES + 1];
    struct geb_slab_row slab[64];
    uint64_t left = 0;
    int rows = geb_watch_participants(watch, who, SOAK_ROLES + 1);
    left += rows != (run.c->exclusive ? 1 : (int)SOAK_ROLES);
    for (int i = 0; i < rows; i++)
        left += strcmp(who[i].state, "dead") == 0;
    rows = geb_watch_slabs(watch, slab, 64);
    for (int i = 0; i < rows; i++)
        left += slab[i].block_bytes != 0 ? slab[i].blocks - slab[i].free : 0;
    for (uint32_t i = 0; i < map.geo.cell_cnt; i++)
        left += shr_state_tag(shr_load_acquire(&map.cells[i].state)) == SHR_TAG_REVOKED;
    return left == 0;
}

static void quiet(void)
{
    for (uint32_t role = 0; role < SOAK_ROLES; role++) {
        if (stopped[role])
            kill(pid[role], SIGCONT);
        stopped[role] = false;
    }
    shr_store32_release(&soak->pause, ++pauses);
    await(all_paused);
    await(is_drained);
    for (turn = 0; turn < SOAK_LANES; turn++) {
        shr_store32_release(&soak->turn, turn + 1);
        await(has_marked);
        await(is_drained);
    }
    shr_store32_release(&soak->turn, 0);
    await(is_swept);
    soak_check_window(&check, started);
    assert_int_equal(support_entries(support_dir()), 1);
    shr_store32_release(&soak->pause, 0);
}

/* ---- a case ---------------------------------------------------------------------------------- */

static bool has_opened(void)
{
    return shr_load_acquire(&soak->opened) != 0;
}

static void begin(const struct stress_case *c)
{
    struct geb_config config;
    struct geb_bus *bus;
    char path[SHR_PATH_BYTES];
    memset(&run, 0, sizeof(run));
    memset(&check, 0, sizeof(check));
    memset(kills_of, 0, sizeof(kills_of));
    started = 0;
    stops = in_flight = 0;
    run.c = c;
    soak = support_shared(sizeof(*soak));
    stress_open_board(c);
    stress_config(c, &config);
    support_name(run.name);
    snprintf(path, sizeof(path), "%s/%s", support_dir(), run.name);
    assert_int_equal(geb_create(&bus, run.name, &config), 0);
    assert_int_equal(geb_close(bus, 0), 0);
    assert_int_equal(geb_watch(&watch, run.name), 0);
    assert_int_equal(shr_segment_attach(&map, path, false), 0);
    for (uint32_t id = 0; id < SOAK_LANES; id++)
        check.next[id] = 1;
    check.started = 1;
    start(SOAK_CONSUMER);
    await(has_opened);
    for (uint32_t id = 0; id < SOAK_LANES; id++)
        start(id);
}

/* Everybody leaves; then nothing of them is in the bus, and nothing of the bus in the directory. */
static void end(void)
{
    struct geb_participant who[2];
    struct geb_bus *bus;
    shr_store32_release(&soak->over, 1);
    for (uint32_t id = 0; id < SOAK_LANES; id++) {
        assert_int_equal(support_wait(pid[id]), 0);
        pid[id] = 0;
    }
    shr_store32_release(&soak->over, 2);
    kill(pid[SOAK_CONSUMER], SIGTERM);
    assert_int_equal(support_wait(pid[SOAK_CONSUMER]), 0);
    pid[SOAK_CONSUMER] = 0;
    assert_int_equal(geb_open(&bus, run.name), 0);
    stress_await_chunks(bus, watch);
    assert_int_equal(geb_watch_participants(watch, who, 2), 1);
    assert_int_equal(geb_close(bus, 0), 0);
    assert_int_equal(geb_unwatch(watch), 0);
    watch = NULL;
    shr_segment_detach(&map);
    assert_int_equal(geb_remove(run.name), 0);
    assert_int_equal(support_entries(support_dir()), 0);
}

static void summary(const struct stress_case *c, uint64_t kills)
{
    const struct geb_metrics *m = &check.before;
    uint64_t refused = 0;
    for (uint32_t id = 0; id < SOAK_LANES; id++)
        refused += shr_load_relaxed(&run.board->ledger[id].refused);
    printf("%s: %llu kills (consumer %llu, during a publish %llu), %llu stops; %llu accepted, "
           "%llu delivered, %llu dropped, %llu expired, %llu unhandled, %llu lost in crash, %llu "
           "redelivered; %llu restarts, %llu revoked, %llu refused, %llu in doubt\n",
           c->what, (unsigned long long)kills, (unsigned long long)kills_of[SOAK_CONSUMER],
           (unsigned long long)in_flight, (unsigned long long)stops,
           (unsigned long long)m->accepted, (unsigned long long)m->delivered,
           (unsigned long long)m->dropped, (unsigned long long)m->expired,
           (unsigned long long)m->unhandled, (unsigned long long)m->lost_in_crash,
           (unsigned long long)m->redelivered, (unsigned long long)m->restarts,
           (unsigned long long)m->revoked, (unsigned long long)refused,
           (unsigned long long)check.unresolved);
}

static void soak_run(const struct stress_case *c)
{
    uint64_t kills = kills_of_a_case(), before = kills_all;
    unsigned fds = soak_descriptors();
    begin(c);
    for (uint64_t next = before; kills_all - before < kills;) {
        struct decision d = decide();
        if (kills_all - next >= KILLS_A_WINDOW) {
            next = kills_all;
            quiet();
            if ((next - before) / 1000 != (next - before - KILLS_A_WINDOW) / 1000)
                printf("  %s: %llu kills\n", c->what, (unsigned long long)(next - before));
        }
        carry_out(&d);
    }
    quiet();
    end();
    summary(c, kills_all - before);
    for (uint32_t role = 0; role < SOAK_ROLES; role++)
        assert_true(kills_of[role] != 0 || kills < 100);
    munmap(soak, sizeof(*soak));
    stress_close_board(c);
    assert_int_equal(soak_descriptors(), fds);
    alarm(0);
}

static int end_processes(void **state)
{
    (void)state;
    for (uint32_t role = 0; role < SOAK_ROLES; role++) {
        if (pid[role] != 0)
            support_kill(pid[role]);
        pid[role] = 0;
        stopped[role] = false;
    }
    geb_unwatch(watch);
    watch = NULL;
    shr_segment_detach(&map);
    geb_remove(run.name); /* only a case that failed has left it */
    return 0;
}

/* In line, the smallest ring: a lane hardly does anything but claim and commit, so that many are
 * hit within a claim. */
static void soak_policy(enum geb_policy policy, bool exclusive, bool in_line, const char *what)
{
    struct stress_case c = {.what = what,
                            .policy = policy,
                            .exclusive = exclusive,
                            .capacity = in_line ? SOAK_LANES : 16,
                            .producers = SOAK_LANES,
                            .events = UINT64_MAX / 2,
                            .mixed = !in_line,
                            .flat_out = in_line,
                            .slab_bytes = 24 * SHR_CHUNK_BYTES,
                            .patience_ns = 1000,
                            .kill_every = 1,
                            .fates = policy != GEB_DROP_OLDEST};
    soak_run(&c);
}

static void drop_oldest(void **state)
{
    (void)state;
    soak_policy(GEB_DROP_OLDEST, false, false, "drop-oldest");
}

static void block(void **state)
{
    (void)state;
    soak_policy(GEB_BLOCK, false, false, "block");
}

static void return_error(void **state)
{
    (void)state;
    soak_policy(GEB_RETURN_ERROR, false, false, "return-error");
}

static void drop_oldest_in_line(void **state)
{
    (void)state;
    soak_policy(GEB_DROP_OLDEST, false, true, "drop-oldest, in line");
}

static void block_in_line(void **state)
{
    (void)state;
    soak_policy(GEB_BLOCK, false, true, "block, in line");
}

static void return_error_in_line(void **state)
{
    (void)state;
    soak_policy(GEB_RETURN_ERROR, false, true, "return-error, in line");
}

static void drop_oldest_exclusive(void **state)
{
    (void)state;
    soak_policy(GEB_DROP_OLDEST, true, false, "drop-oldest, exclusive");
}

static void block_exclusive(void **state)
{
    (void)state;
    soak_policy(GEB_BLOCK, true, false, "block, exclusive");
}

static void return_error_exclusive(void **state)
{
    (void)state;
    soak_policy(GEB_RETURN_ERROR, true, false, "return-error, exclusive");
}

int main(void)
{
    const struct CMUnitTest tests[CASES] = {
        cmocka_unit_test_teardown(drop_oldest, end_processes),
        cmocka_unit_test_teardown(block, end_processes),
        cmocka_unit_test_teardown(return_error, end_processes),
        cmocka_unit_test_teardown(drop_oldest_in_line, end_processes),
        cmocka_unit_test_teardown(block_in_line, end_processes),
        cmocka_unit_test_teardown(return_error_in_line, end_processes),
        cmocka_unit_test_teardown(drop_oldest_exclusive, end_processes),
        cmocka_unit_test_teardown(block_exclusive, end_processes),
        cmocka_unit_test_teardown(return_error_exclusive, end_processes),
    };
    support_begin();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    printf("decisions %016llx\n", (unsigned long long)decisions);
    printf("%llu kills, %d failed\n", (unsigned long long)kills_all, failed);
    return failed;
}
