/* Goal: producers that are killed at random points, and their successors in the same slots, cost
 * the one event or batch at most that was in flight; what was accepted is delivered or counted;
 * slots and blocks come back.
 *
 * Method: stress_support.h; the consumer kills by events counted, marks what was in flight in the
 * ledger of the dead, and starts a successor at once. Some producers are stopped meanwhile.
 */
#include "tests/stress_support.h"
#include "tests/support.h"

static void each_ring(enum geb_policy policy)
{
    for (int mixed = 0; mixed < 2; mixed++) {
        struct stress_case c = {.policy = policy,
                                .producers = 4,
                                .events = stress_events(20000),
                                .mixed = mixed != 0,
                                .stop_every = mixed != 0 ? 300 : 0,
                                .kill_every = 200,
                                .max_kills = 10,
                                .interrupts = true,
                                .patience_ns = 2000};
        stress_run_rings(&c, ", kills");
    }
}

int main(void)
{
    support_begin();
    return stress_run_policies(each_ring);
}
