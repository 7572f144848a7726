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

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

/* Events of all cases of one policy together: shares of a whole. */
#define SHARES 20u

static uint64_t checked;

static uint64_t whole(void)
{
    static const uint64_t events[] = {340000, 3400000, 34000000};
    return SUPPORT_SANITIZED ? 40000 : events[support_depth()];
}

static void one(enum geb_policy policy, const char *name, bool exclusive, bool mixed,
                uint32_t capacity, uint32_t shares)
{
    char what[64];
    uint32_t producers = exclusive ? 1 : 3;
    snprintf(what, sizeof(what), "%s, %s, %u cells, %s", name, exclusive ? "exclusive" : "shared",
             capacity, mixed ? "mixed sizes" : "in line");
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

static void each_ring(enum geb_policy policy, const char *name)
{
    one(policy, name, false, false, 1024, 6);
    one(policy, name, false, false, 16, 2);
    one(policy, name, false, true, 1024, 5);
    one(policy, name, false, true, 16, 1);
    one(policy, name, true, false, 1024, 3);
    one(policy, name, true, true, 1024, 3);
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
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    printf("%llu events, %d failed\n", (unsigned long long)checked, failed);
    return failed;
}
