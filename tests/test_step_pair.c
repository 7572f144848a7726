/* Goal: the driver of two processes has each state of the one beside each state of the other, but
 * for late turns of a loop, and counts what it must not miss as a failure.
 *
 * Method: the first child counts up one word, the second one another, in a loop. The check notes
 * which pairs of numbers it sees. */
#include "tests/step_pair.h"
#include "tests/support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#define FIRST  3u
#define SECOND 5u

static struct world {
    volatile uint64_t first, second;
    bool seen[FIRST + 1][SECOND + 1];
    unsigned worlds, checks, betweens, fail_at; /* fail_at: which check fails; 0: none */
} * world;

static int setup(void *user)
{
    struct world *w = user;
    w->first = w->second = 0;
    w->worlds++;
    return 0;
}

static void teardown(void *user)
{
    struct world *w = user;
    w->worlds--;
}

static int count_first(void *user)
{
    struct world *w = user;
    w->first = 1;
    w->first = 2;
    w->first = 3;
    return 0;
}

/* More changes than the driver has room for. */
static int count_far(void *user)
{
    struct world *w = user;
    for (volatile unsigned i = 1; i <= 100; i++)
        w->first = i;
    return 0;
}

static int count_second(void *user)
{
    struct world *w = user;
    for (volatile unsigned i = 1; i <= SECOND; i++)
        w->second = i;
    return 0;
}

static uint64_t sum(void *user)
{
    const struct world *w = user;
    return w->first;
}

static int between(void *user)
{
    struct world *w = user;
    w->betweens++;
    return w->second == 0 ? 0 : -EBADMSG;
}

static int check(struct step_child *first, struct step_child *second, size_t k, void *user)
{
    struct world *w = user;
    STEP_CHECK(first->state == STEP_STOPPED && second->state == STEP_STOPPED);
    w->seen[w->first][w->second] = true;
    STEP_CHECK(++w->checks != w->fail_at);
    STEP_CHECK(step_to_end(second) == 0 && w->second == SECOND);
    STEP_CHECK(step_to_end(first) == 0 && w->first == FIRST);
    return 0;
}

static struct step_scenario first = {
    .name = "first", .setup = setup, .region = count_first, .teardown = teardown};
static const struct step_scenario second = {.name = "second", .region = count_second};

static struct step_pair fresh_pair(void)
{
    if (SUPPORT_SANITIZED) /* TSan's own code goes now this way, now that */
        skip();
    memset(world, 0, sizeof(*world));
    return (struct step_pair){.first = &first,
                              .second = &second,
                              .sum = sum,
                              .between = between,
                              .check = check,
                              .user = world,
                              .turns = SIZE_MAX,
                              .changes_min = FIRST,
                              .points_min = FIRST * (SECOND + 1)};
}

static int run(struct step_pair *pair)
{
    int rc = step_pair(pair);
    assert_int_equal(world->worlds, 0);
    return rc;
}

static void each_beside_each(void **state)
{
    struct step_pair pair = fresh_pair();
    (void)state;
    assert_int_equal(run(&pair), 0);
    for (uint32_t i = 0; i <= FIRST; i++) {
        for (uint32_t j = 0; j <= SECOND; j++)
            assert_int_equal(world->seen[i][j], i != 0);
    }
    assert_true(world->betweens >= world->checks);
}

/* What comes behind the loop is visited though it is as the loop's last turn left it. */
static void late_turns_are_left_out(void **state)
{
    struct step_pair pair = fresh_pair();
    (void)state;
    pair.turns = 2;
    pair.points_min = 1;
    assert_int_equal(run(&pair), 0);
    for (uint32_t i = 1; i <= FIRST; i++) {
        for (uint32_t j = 0; j <= SECOND; j++)
            assert_int_equal(world->seen[i][j], j <= 2 || j == SECOND);
    }
}

static void failures_are_told(void **state)
{
    struct step_pair pair = fresh_pair();
    (void)state;
    pair.changes_min = FIRST + 1;
    assert_int_equal(run(&pair), 1);
    pair = fresh_pair();
    pair.points_min = 1000;
    assert_int_equal(run(&pair), 1);
    pair = fresh_pair();
    world->fail_at = 7;
    assert_int_equal(run(&pair), 1);
    assert_int_equal(world->checks, 7); /* the first one ends it */
    pair = fresh_pair();
    first.region = count_far;
    assert_int_equal(run(&pair), 1);
    first.region = count_first;
    assert_int_equal(world->checks, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_beside_each),
        cmocka_unit_test(late_turns_are_left_out),
        cmocka_unit_test(failures_are_told),
    };
    support_begin();
    step_require();
    world = support_shared(sizeof(*world));
    first.user = world;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
