/* Goal: producers that are stopped and continued at random points neither hold up the others nor
 * lose or double an event of their own; what is revoked from them they publish again.
 *
 * Method: stress_support.h; the consumer sends SIGSTOP and SIGCONT as it counts events, so that the
 * signals follow the run and not a clock. At least one producer always runs, and as long as it has
 * not finished its events must come, or the watchdog fails the test. The patience is the shortest.
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
                                .stop_every = 20,
                                .interrupts = true,
                                .patience_ns = 1000};
        stress_run_rings(&c, ", stops");
    }
}

int main(void)
{
    support_begin();
    return stress_run_policies(each_ring);
}
