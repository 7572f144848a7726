/* Goal: no wake is lost between a sleeper and a waker, and no sleep lasts beyond its bound. Method:
 * many sleepers at one gate, and after each notification the kernel is asked how many still sleep;
 * the fences race by themselves; sleeps that must not happen show as context switches. What is
 * compared is counts, and of times only that they are not shorter. */
#include "shmring/wait.h"
#include "shmring/clock.h"
#include "tests/support.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <cmocka.h>

#define SLEEPERS      8
#define ROUNDS        500u
#define LITMUS_ROUNDS 30000u

struct shared {
    struct shr_gate gate;
    SHR_ALONE shr_a64 round; /* what the waker publishes */
    shr_a64 counted;         /* the round that it has looked for sleepers of */
    SHR_ALONE shr_a64 slept; /* sleeps */
    SHR_ALONE shr_a64 reached[SLEEPERS];
};

struct sleeper {
    struct shared *shared;
    unsigned index;
    bool no_membarrier;
};

/* Spins until *word is at least value; fails or ends the process after a long time. */
static bool await(const shr_a64 *word, uint64_t value)
{
    uint64_t end_ns = 0;
    for (unsigned spins = 0; shr_load_acquire(word) < value; spins++) {
        if (spins < 1000)
            continue;
        sched_yield();
        end_ns = end_ns != 0 ? end_ns : shr_now_ns() + SUPPORT_HANG_MS * UINT64_C(1000000);
        if (shr_now_ns() > end_ns)
            return false;
    }
    return true;
}

/* How many sleep at the gate in spite of all wakes; wakes them. */
static long left_asleep(struct shr_gate *gate)
{
    return syscall(SYS_futex, &gate->seq, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static int sleep_rounds(void *arg)
{
    const struct sleeper *me = arg;
    struct shared *shared = me->shared;
    if (me->no_membarrier)
        SUPPORT_CHECK(support_deny(SYS_membarrier, 0, 0, ENOSYS) == 0);
    SUPPORT_CHECK((shr_wait_register() == 0) == !me->no_membarrier);
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        while (shr_load_acquire(&shared->round) < round) {
            uint32_t ticket = shr_gate_enter(&shared->gate);
            if (shr_load_acquire(&shared->round) >= round)
                break;
            shr_gate_sleep(&shared->gate, ticket, UINT64_MAX);
            shr_fetch_add_relaxed(&shared->slept, 1);
        }
        shr_store_release(&shared->reached[me->index], round);
        SUPPORT_CHECK(await(&shared->counted, round));
    }
    return 0;
}

/* Whoever waits for a round does not sleep any more once it is published and notified, so nobody is
 * left for a second wake. */
static void run_rounds(bool no_membarrier)
{
    struct shared *shared = support_shared(sizeof(*shared));
    struct sleeper sleeper[SLEEPERS];
    pid_t pid[SLEEPERS];
    long left = 0;
    for (unsigned i = 0; i < SLEEPERS; i++) {
        sleeper[i] = (struct sleeper){shared, i, no_membarrier};
        pid[i] = support_child(sleep_rounds, &sleeper[i]);
    }
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        /* Half of the rounds find them asleep, the others on their way to it. */
        for (unsigned i = 0; round % 2 != 0 && i < 50; i++)
            sched_yield();
        shr_store_release(&shared->round, round);
        shr_gate_notify(&shared->gate, no_membarrier);
        left += left_asleep(&shared->gate);
        shr_store_release(&shared->counted, round);
        for (unsigned i = 0; i < SLEEPERS; i++)
            assert_true(await(&shared->reached[i], round));
    }
    for (unsigned i = 0; i < SLEEPERS; i++)
        assert_int_equal(support_wait(pid[i]), 0);
    assert_int_equal(left, 0);
    assert_true(shr_load_relaxed(&shared->slept) > ROUNDS / 10);
}

static void test_many_sleepers(void **state)
{
    (void)state;
    assert_int_equal(shr_wait_register(), 0);
    run_rounds(false);
}

static void test_many_sleepers_without_membarrier(void **state)
{
    (void)state;
    run_rounds(true);
}

/* Edge W1 by itself: at the same moment one process enters the gate and looks, the other stores and
 * notifies. One of them must see the other: the look finds the store, or the flag was taken. */
static int litmus_waker(void *arg)
{
    const struct sleeper *me = arg;
    struct shared *shared = me->shared;
    if (!me->no_membarrier)
        SUPPORT_CHECK(shr_wait_register() == 0);
    for (uint64_t round = 1; round <= LITMUS_ROUNDS; round++) {
        SUPPORT_CHECK(await(&shared->reached[0], round));
        shr_store_relaxed(&shared->round, round);
        shr_gate_notify(&shared->gate, me->no_membarrier);
        shr_store_release(&shared->reached[1], round);
    }
    return 0;
}

static int litmus_sleeper(void *arg)
{
    const struct sleeper *me = arg;
    struct shared *shared = me->shared;
    uint32_t both_blind = 0;
    if (me->no_membarrier)
        SUPPORT_CHECK(support_deny(SYS_membarrier, 0, 0, ENOSYS) == 0);
    for (uint64_t round = 1; round <= LITMUS_ROUNDS; round++) {
        shr_store_release(&shared->reached[0], round);
        for (uint64_t spin = 0; spin < round % 64; spin++) /* meets the waker at each phase */
            shr_cpu_relax();
        uint32_t ticket = shr_gate_enter(&shared->gate);
        bool seen = shr_load_relaxed(&shared->round) == round;
        SUPPORT_CHECK(await(&shared->reached[1], round));
        both_blind += !seen && shr_load32_relaxed(&shared->gate.seq) == ticket;
        shr_store32_relaxed(&shared->gate.waiting, 0);
    }
    SUPPORT_CHECK(both_blind == 0);
    return 0;
}

static void test_flag_or_store_is_seen(void **state)
{
    (void)state;
    if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
        skip();
    for (int i = 0; i < 2; i++) {
        struct sleeper pair = {support_shared(sizeof(struct shared)), 0, i == 1};
        pid_t waker = support_child(litmus_waker, &pair);
        pid_t sleeper = support_child(litmus_sleeper, &pair);
        assert_int_equal(support_wait(sleeper), 0);
        assert_int_equal(support_wait(waker), 0);
    }
}

static long switches(void)
{
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nvcsw;
}

static void test_wake_before_sleep(void **state)
{
    (void)state;
    struct shared *shared = support_shared(sizeof(*shared));
    struct shr_gate *gate = &shared->gate;
    /* The flag goes up at entry, down by the wake, and up again at the next entry. */
    long before = switches();
    for (int i = 0; i < 200; i++) {
        uint32_t ticket = shr_gate_enter(gate);
        assert_int_equal(shr_load32_relaxed(&gate->waiting), 1);
        shr_gate_notify(gate, false);
        assert_int_equal(shr_load32_relaxed(&gate->waiting), 0);
        errno = 123;
        shr_gate_sleep(gate, ticket, UINT64_MAX); /* is over before it begins */
        assert_int_equal(errno, 123);
    }
    assert_true(switches() - before < 50);
    /* Without a sleeper a notification does nothing; an explicit wake always counts. */
    uint32_t seq = shr_load32_relaxed(&gate->seq);
    shr_gate_notify(gate, false);
    shr_gate_notify(gate, true);
    assert_int_equal(shr_load32_relaxed(&gate->seq), seq);
    shr_gate_wake(gate);
    assert_int_equal(shr_load32_relaxed(&gate->seq), seq + 1);
    /* A wake that came before the entry is not one for this ticket. */
    assert_int_equal(shr_gate_enter(gate), seq + 1);
}

static void test_bounded(void **state)
{
    (void)state;
    struct shared *shared = support_shared(sizeof(*shared));
    for (int i = 0; i < 5; i++) { /* nobody wakes us: each sleep ends by itself, and not sooner */
        uint64_t start_ns = shr_now_ns();
        shr_gate_sleep(&shared->gate, shr_gate_enter(&shared->gate), UINT64_MAX);
        assert_true(shr_now_ns() - start_ns >= SHR_SLEEP_MAX_NS);
    }
    long before = switches();
    for (int i = 0; i < 200; i++) /* a time that is past */
        shr_gate_sleep(&shared->gate, shr_gate_enter(&shared->gate), i % 2 == 0 ? 0 : shr_now_ns());
    assert_true(switches() - before < 50);
}

static int forever_asleep(void *arg)
{
    struct shared *shared = arg;
    while (shr_load_acquire(&shared->round) == 0) {
        uint32_t ticket = shr_gate_enter(&shared->gate);
        if (shr_load_acquire(&shared->round) == 0)
            shr_gate_sleep(&shared->gate, ticket, UINT64_MAX);
    }
    return 0;
}

/* The waker dies between its store and its wake: the store alone must do, by the bound. */
static void test_dead_waker(void **state)
{
    (void)state;
    struct shared *shared = support_shared(sizeof(*shared));
    pid_t pid = support_child(forever_asleep, shared);
    while (shr_load32_acquire(&shared->gate.waiting) == 0)
        sched_yield();
    shr_store_release(&shared->round, 1);
    assert_int_equal(support_wait(pid), 0);
}

static int without_membarrier(void *arg)
{
    (void)arg;
    SUPPORT_CHECK(shr_wait_register() == 0 && shr_wait_barrier());
    SUPPORT_CHECK(support_deny(SYS_membarrier, 0, 0, EPERM) == 0);
    SUPPORT_CHECK(shr_wait_register() == -ENOSYS && !shr_wait_barrier());
    return 0;
}

static void test_no_membarrier(void **state)
{
    (void)state;
    assert_int_equal(support_wait(support_child(without_membarrier, NULL)), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_sleepers),
        cmocka_unit_test(test_many_sleepers_without_membarrier),
        cmocka_unit_test(test_flag_or_store_is_seen),
        cmocka_unit_test(test_wake_before_sleep),
        cmocka_unit_test(test_bounded),
        cmocka_unit_test(test_dead_waker),
        cmocka_unit_test(test_no_membarrier),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
