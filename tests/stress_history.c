/* Goal: histories of as many events as the machine can produce keep every promise about order:
 * real time, each producer's own, exactly once, batches all or none, payloads whole; under
 * drop-oldest exactly those events are missing that the gaps in the producers' numbers say.
 *
 * Method: stress_support.h with producers that publish flat out, for each policy, in line and in
 * slabs, shared and exclusive. The checker (history.h, with a test of its own) looks at each event
 * as it is handled, in constant memory: 10⁶ events, 10⁷ at depth ci, 10⁸ at depth long.
 */
#include "tests/stress_support.h"
#include "tests/support.h"

/* Events of all cases of one policy together: shares of a whole. */
#define SHARES 20u

static uint64_t checked;

static uint64_t whole(void)
{
    static const uint64_t events[] = {340000, 3400000, 34000000};
    return SUPPORT_SANITIZED ? 40000 : events[support_depth()];
}

static void one(enum geb_policy policy, bool exclusive, bool mixed, uint32_t capacity,
                uint32_t shares)
{
    char what[64];
    uint32_t producers = exclusive ? 1 : 3;
    snprintf(what, sizeof(what), "%s, %s, %u cells, %s", support_policy_text[policy],
             exclusive ? "exclusive" : "shared", capacity, mixed ? "mixed sizes" : "in line");
    struct stress_case c = {.what = what,
                            .policy = policy,
                            .exclusive = exclusive,
                            .capacity = capacity,
                            .producers = producers,
                            .mixed = mixed,
                            .flat_out = true};
    c.events = whole() * shares / SHARES / producers;
    uint64_t start_ns = geb_now();
    stress_run(&c);
    checked += c.events * producers;
    printf("  %llu events checked, %llu ns an event\n", (unsigned long long)checked,
           (unsigned long long)((geb_now() - start_ns) / (c.events * producers)));
}

static void each_ring(enum geb_policy policy)
{
    one(policy, false, false, 1024, 6);
    one(policy, false, false, 16, 2);
    one(policy, false, true, 1024, 5);
    one(policy, false, true, 16, 1);
    one(policy, true, false, 1024, 3);
    one(policy, true, true, 1024, 3);
}

int main(void)
{
    support_begin();
    int failed = stress_run_policies(each_ring);
    printf("%llu events, %d failed\n", (unsigned long long)checked, failed);
    return failed;
}
