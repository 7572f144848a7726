/* Goal: producers that are stopped and continued at random points neither hold up the others nor
 * lose or double an event of their own; what is revoked from them they publish again.
 *
 * Method: stress_support.h; the consumer sends SIGSTOP and SIGCONT as it counts events, so that the
 * signals follow the run and not a clock. At least one producer always runs, and as long as it has
 * not finished its events must come, or the watchdog fails the test. The patience is the shortest.
 */
#include "tests/stress_support.h"
#include "tests/support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static void each_ring(enum geb_policy policy, const char *name)
{
    const uint32_t capacity[] = {4, 16, 1024};
    for (uint32_t i = 0; i < 6; i++) {
        char what[64];
        snprintf(what, sizeof(what), "%s, %u cells, %s, stops", name, capacity[i % 3],
                 i / 3 ? "mixed sizes" : "in line");
        struct stress_case c = {.what = what,
                                .policy = policy,
                                .capacity = capacity[i % 3],
                                .producers = 4,
                                .mixed = i / 3 != 0,
                                .stop_every = 20,
                                .interrupts = true,
                                .patience_ns = 1000};
        c.events = stress_events(20000);
        stress_run(&c);
    }
}

static void drop_oldest(void **state)
{
    (void)state;
    each_ring(GEB_DROP_OLDEST, "drop-oldest");
}

static void block(void **state)
{
    (void)state;
    each_ring(GEB_BLOCK, "block");
}

static void return_error(void **state)
{
    (void)state;
    each_ring(GEB_RETURN_ERROR, "return-error");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drop_oldest),
        cmocka_unit_test(block),
        cmocka_unit_test(return_error),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
