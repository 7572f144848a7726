/* Goal: what geb promises of every event holds while four producer processes and the consumer fight
 * for two processors and few cells: order, wholeness, no loss, no duplicate, an exact account.
 *
 * Method: stress_support.h, for each policy, rings of 4, 16 and 1,024 cells, events in line and in
 * slabs. Small rings are always full, so every policy does its worst.
 */
#include "tests/stress_support.h"
#include "tests/support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static void each_ring(enum geb_policy policy, bool mixed, bool sleeps)
{
    struct stress_case c = {.policy = policy,
                            .producers = 4,
                            .events = stress_events(sleeps ? 10000 : 30000),
                            .mixed = mixed,
                            .sleeps = sleeps};
    stress_run_rings(&c, sleeps ? ", sleeping" : "");
}

static void drop_oldest(void **state)
{
    (void)state;
    each_ring(GEB_DROP_OLDEST, false, false);
    each_ring(GEB_DROP_OLDEST, true, false);
}

static void block(void **state)
{
    (void)state;
    each_ring(GEB_BLOCK, false, false);
    each_ring(GEB_BLOCK, true, false);
    each_ring(GEB_BLOCK, true, true);
}

static void return_error(void **state)
{
    (void)state;
    each_ring(GEB_RETURN_ERROR, false, false);
    each_ring(GEB_RETURN_ERROR, true, false);
    each_ring(GEB_RETURN_ERROR, true, true);
}

/* Slabs for fewer events than the ring holds: drop-oldest drops for their sake, too. */
static void tight_slabs(void **state)
{
    (void)state;
    for (enum geb_policy policy = GEB_DROP_OLDEST; policy <= GEB_RETURN_ERROR; policy++) {
        const char *const what[] = {"drop-oldest, tight slabs", "block, tight slabs",
                                    "return-error, tight slabs"};
        struct stress_case c = {.what = what[policy],
                                .policy = policy,
                                .capacity = 1024,
                                .producers = 4,
                                .mixed = true,
                                .slab_bytes = 24 * 65536};
        c.events = stress_events(20000);
        stress_run(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drop_oldest),
        cmocka_unit_test(block),
        cmocka_unit_test(return_error),
        cmocka_unit_test(tight_slabs),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
