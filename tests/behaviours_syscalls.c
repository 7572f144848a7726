/* Goal: the number of system calls does not grow with the number of events. To publish takes none
 * and to poll takes none, whatever the policy; who finds the bus full or empty enters the kernel to
 * sleep, and who then makes room or publishes enters it to wake that sleeper. Beside that the
 * consumer looks for the dead every 100 ms.
 * Method: ptrace counts the calls that a producer and a consumer process make between two marks.
 * How often somebody sleeps is up to the scheduler, so no number of sleeps is demanded: where
 * nobody has a reason to sleep the calls are counted, elsewhere the calls for each sleep. */
#include "tests/api_support.h"
#include "tests/step.h"

#include "lib/internal.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <cmocka.h>

#define SWEEP_NS    UINT64_C(100000000)
#define SWEEP_CALLS 16u /* two for each of four slots, and as much again */
#define START_CALLS 32u /* geb_run begins */
#define SLEEP_CALLS 8u  /* before it sleeps a producer asks twice whether a consumer lives */

/* Of one process between its marks. */
struct calls {
    uint64_t all;
    uint64_t enters; /* somebody says that he will sleep, and looks once more */
    uint64_t sleeps;
    uint64_t wakes;
    bool counting;
};

struct scene {
    char name[64];
    struct geb_config config;
    uint64_t events;
    bool polls; /* the consumer never sleeps */

    struct geb_bus *bus; /* the consumer's */
    struct calls producer, consumer;
    struct shared {
        shr_a32 ready;
        uint64_t from_ns, until_ns, delivered;
    } * shared;
};

/* Counting begins, or ends. */
static void mark(void)
{
    syscall(SYS_getppid);
}

static void be_traced(void)
{
    SUPPORT_CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
    SUPPORT_CHECK(raise(SIGSTOP) == 0);
}

/* ---- the two processes ----------------------------------------------------------------------- */

static int on_event(struct geb_context *ctx, const struct geb_event *event, void *user)
{
    struct scene *s = user;
    uint64_t number;
    memcpy(&number, event->data, sizeof(number));
    s->shared->delivered++;
    if (number != s->events)
        return 0;
    mark();
    s->shared->until_ns = geb_now();
    geb_stop(geb_context_bus(ctx));
    return 0;
}

static int consume(void *arg)
{
    struct scene *s = arg;
    SUPPORT_CHECK(geb_create(&s->bus, s->name, &s->config) == 0);
    SUPPORT_CHECK(geb_on(s->bus, "t", on_event, s) == 0);
    if (s->polls)
        SUPPORT_CHECK(geb_set_spin(s->bus, UINT64_MAX) == 0);
    be_traced();
    shr_store32_release(&s->shared->ready, 1);
    s->shared->from_ns = geb_now();
    mark();
    SUPPORT_CHECK(geb_run(s->bus) == 0);
    SUPPORT_CHECK(geb_close(s->bus, 0) == 0);
    return 0;
}

static int produce(void *arg)
{
    struct scene *s = arg;
    struct geb_producer *producer = NULL;
    geb_topic_id topic = 0;
    be_traced();
    while (shr_load32_acquire(&s->shared->ready) == 0)
        sched_yield();
    SUPPORT_CHECK(geb_join(&producer, s->name, "counted") == 0);
    SUPPORT_CHECK(geb_topic(producer, "t", &topic) == 0);
    mark();
    for (uint64_t i = 1; i <= s->events; i++)
        SUPPORT_CHECK(geb_publish(producer, topic, &i, sizeof(i)) == 0);
    mark();
    SUPPORT_CHECK(geb_leave(producer) == 0);
    return 0;
}

/* ---- the tracer ------------------------------------------------------------------------------ */

static void note(struct calls *calls, pid_t pid)
{
    struct __ptrace_syscall_info info;
    memset(&info, 0, sizeof(info));
    assert_true(ptrace(PTRACE_GET_SYSCALL_INFO, pid, (void *)sizeof(info), &info) > 0);
    if (info.op != PTRACE_SYSCALL_INFO_ENTRY)
        return;
    if (info.entry.nr == SYS_getppid)
        calls->counting = !calls->counting;
    else if (calls->counting) {
        bool futex = info.entry.nr == SYS_futex;
        int op = (int)info.entry.args[1] & FUTEX_CMD_MASK;
        calls->all++;
        calls->enters += info.entry.nr == SYS_membarrier;
        calls->sleeps += futex && op == FUTEX_WAIT_BITSET;
        calls->wakes += futex && op == FUTEX_WAKE;
    }
}

/* Lets a traced process go on after a stop; which signal it gets then. */
static void obey(struct calls *calls, pid_t pid, int status)
{
    int number = WSTOPSIG(status);
    if (number == (SIGTRAP | 0x80))
        note(calls, pid);
    else if (number == SIGSTOP)
        assert_return_code(ptrace(PTRACE_SETOPTIONS, pid, NULL,
                                  (void *)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)),
                           errno);
    bool is_ours = number == (SIGTRAP | 0x80) || number == SIGSTOP;
    assert_return_code(ptrace(PTRACE_SYSCALL, pid, NULL, (void *)(intptr_t)(is_ours ? 0 : number)),
                       errno);
}

static void play(struct scene *s)
{
    support_name(s->name);
    s->shared = support_shared(sizeof(*s->shared));
    api_watchdog(120);
    pid_t consumer = support_child(consume, s), producer = support_child(produce, s);
    for (int running = 2; running > 0;) {
        int status;
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid != consumer && pid != producer)
            continue;
        if (WIFSTOPPED(status)) {
            obey(pid == consumer ? &s->consumer : &s->producer, pid, status);
            continue;
        }
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
        running--;
    }
    api_watchdog(0);
    assert_int_equal(geb_remove(s->name), 0);
    assert_false(s->producer.counting || s->consumer.counting); /* both met both marks */
    print_message("%s%s, %lu events, %s: producer %lu calls, %lu sleeps, %lu wakes; consumer %lu "
                  "calls, %lu sleeps, %lu wakes\n",
                  support_policy_text[s->config.policy], s->config.exclusive ? ", exclusive" : "",
                  s->events, s->polls ? "polled" : "slept for", s->producer.all, s->producer.sleeps,
                  s->producer.wakes, s->consumer.all, s->consumer.sleeps, s->consumer.wakes);
    if (s->config.policy != GEB_DROP_OLDEST)
        assert_int_equal(s->shared->delivered, s->events);
}

/* What the consumer may call in any case. */
static uint64_t allowance(const struct scene *s)
{
    uint64_t sweeps = (s->shared->until_ns - s->shared->from_ns) / SWEEP_NS + 2;
    return START_CALLS + sweeps * SWEEP_CALLS;
}

/* ---- the tests ------------------------------------------------------------------------------- */

static struct scene scene(enum geb_policy policy, uint32_t capacity, bool exclusive)
{
    struct scene s = {.config = api_config(policy, capacity)};
    s.config.exclusive = exclusive;
    if (exclusive)
        s.config.producers = 1;
    return s;
}

/* The consumer polls, and a producer never waits: it drops, or there is room for all. */
static void nobody_sleeps(void **state)
{
    (void)state;
    for (int policy = GEB_DROP_OLDEST; policy <= GEB_RETURN_ERROR; policy++) {
        for (int exclusive = 0; exclusive <= 1; exclusive++) {
            bool drops = policy == GEB_DROP_OLDEST;
            struct scene s = scene((enum geb_policy)policy, drops ? 4096 : 65536, exclusive);
            s.events = drops ? 1000000 : 65536;
            s.polls = true;
            play(&s);
            assert_int_equal(s.producer.all, 0);
            assert_int_equal(s.consumer.enters + s.consumer.sleeps + s.consumer.wakes, 0);
            assert_true(s.consumer.all <= allowance(&s));
        }
    }
}

/* A small bus, so that both find reasons to sleep: each other call belongs to a sleep. */
static void sleepers_are_woken(void **state)
{
    (void)state;
    for (int exclusive = 0; exclusive <= 1; exclusive++) {
        struct scene s = scene(GEB_BLOCK, 64, exclusive);
        s.events = 100000;
        play(&s);
        assert_true(s.producer.wakes <= s.consumer.enters);
        assert_true(s.consumer.wakes <= s.producer.enters);
        assert_true(s.producer.sleeps <= s.producer.enters);
        assert_true(s.consumer.sleeps <= s.consumer.enters);
        assert_true(s.producer.all - s.producer.wakes <= SLEEP_CALLS * s.producer.enters);
        assert_true(s.consumer.all - s.consumer.wakes <= 2 * s.consumer.enters + allowance(&s));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_sleeps),
        cmocka_unit_test(sleepers_are_woken),
    };
    support_begin();
    step_require();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
