/* Goal: producers that are killed at random points, and their successors in the same slots, cost
 * the one event or batch at most that was in flight; what was accepted is delivered or counted;
 * slots and blocks come back.
 *
 * Method: stress_support.h; the consumer kills by events counted, marks what was in flight in the
 * ledger of the dead, and starts a successor at once. Some producers are stopped meanwhile.
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
        snprintf(what, sizeof(what), "%s, %u cells, %s, kills", name, capacity[i % 3],
                 i / 3 ? "mixed sizes" : "in line");
        struct stress_case c = {.what = what,
                                .policy = policy,
                                .capacity = capacity[i % 3],
                                .producers = 4,
                                .mixed = i / 3 != 0,
                                .stop_every = i / 3 ? 300 : 0,
                                .kill_every = 200,
                                .max_kills = 10,
                                .interrupts = true,
                                .patience_ns = 2000};
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
