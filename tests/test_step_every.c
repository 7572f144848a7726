/*
 * Goal: the driver of step.h shows a check every point of a region, however far, and says when
 * it did not; else "0 failed" in a crash suite means nothing. Method: regions whose instructions
 * are known (step_regions.h): a long one, of which breakpoints must reach the same points as
 * steps alone, ways that vary from run to run, shards, regions that go wrong.
 */
#if defined(__x86_64__) && defined(__LP64__)

#include "step_regions.h"

/* How many of the 1000 increments of region_long precede instruction k. */
static uint64_t increments(size_t k)
{
    size_t turn = k < 1 ? 0 : (k - 1) / 52;
    size_t rest = k < 1 ? 0 : (k - 1) % 52;
    uint64_t n = turn * 50 + (rest < 50 ? rest : 50);

    return n < 1000 ? n : 1000;
}

static int check_increments(struct step_child *child, size_t k, void *user)
{
    const struct world *w = user;

    /* Fewer than half of the steps: breakpoints were at work. */
    if (k > 1000 && child->steps > k / 2)
        return -EDOM;
    return w->words[0] != increments(k);
}

static void test_breakpoints_reach_the_same_points(void **state)
{
    struct step_scenario s = scenario("long", region_long);
    struct step_result result;
    struct step_child stepped;
    struct step_child run;
    struct step_walk walk;

    (void)state;
    assert_int_equal(step_every(&s, STEP_STOP, check_increments, &result), 0);
    assert_int_equal(result.instructions, 1043);
    assert_int_equal(result.reached, 1043);
    assert_false(result.varies);
    assert_int_equal(step_walk(&s, &walk), 0);
    for (size_t k = 0; k < 1043; k += 149) {
        setup(world);
        assert_int_equal(step_start(&stepped, &s), 0);
        assert_int_equal(step_reach(&stepped, NULL, k), 0);
        assert_int_equal(world->words[0], increments(k));
        step_kill(&stepped);
        setup(world);
        assert_int_equal(step_start(&run, &s), 0);
        assert_int_equal(step_reach(&run, &walk, k), 0);
        assert_int_equal(world->words[0], increments(k));
        assert_true(run.rip == stepped.rip);
        assert_int_equal(run.k, k);
        step_kill(&run);
    }
    /* A resumed child meets no breakpoint that was left behind. */
    setup(world);
    assert_int_equal(step_start(&run, &s), 0);
    assert_int_equal(step_reach(&run, &walk, 600), 0);
    assert_int_equal(step_resume(&run), 0);
    assert_int_equal(step_wait(&run, &run.status), 0);
    assert_int_equal(run.status, 0);
    assert_int_equal(world->words[0], 1000);
    step_walk_free(&walk);
}

/* As at the last call; called for point 0, 1, … of the walk. */
static uint64_t words_before[8];

static bool words_are_the_same(void *user)
{
    const struct world *w = user;
    bool same = memcmp(words_before, w->words, sizeof(words_before)) == 0;

    memcpy(words_before, w->words, sizeof(words_before));
    return same;
}

static int check_store_was_last(struct step_child *child, size_t k, void *user)
{
    struct world *w = user;

    w->other++;
    return child->state != STEP_GONE || check_prefix(child, k, user) != 0 ||
           (k != 0 && (k - 3) % 5 != 0);
}

/* The count of checks goes on from point to point. */
static int keeping_setup(void *user)
{
    struct world *w = user;
    uint64_t checks = w->other;

    setup(user);
    w->other = checks;
    return 0;
}

/* Behind each of the eight stores, and at the start: nowhere else did anything change. */
static void test_kills_only_where_something_changed(void **state)
{
    struct step_scenario s = scenario("stores", region_stores);
    struct step_result result;

    (void)state;
    s.setup = keeping_setup;
    s.same = words_are_the_same;
    assert_int_equal(step_every(&s, STEP_KILL, check_store_was_last, &result), 0);
    assert_int_equal(result.reached, result.instructions);
    assert_int_equal(result.same, result.instructions - 9);
    assert_int_equal(world->other, 9);
    /* A child that goes on differs at each point by what it will do. */
    world->other = 0;
    assert_int_equal(step_every(&s, STEP_STOP, check_nothing, &result), 0);
    assert_int_equal(result.same, 0);
}

static int check_nothing_private(struct step_child *child, size_t k, void *user)
{
    struct world *w = user;

    w->other++;
    return child->state != STEP_STOPPED || (k != 0 && !touches_shared(k - 1));
}

/* Behind each of the instructions that touch the world, and at the start. */
static void test_stops_only_where_something_was_touched(void **state)
{
    struct step_scenario s = scenario("touches", region_touches);
    struct step_result result;

    (void)state;
    s.setup = keeping_setup;
    s.skip_private = true;
    world->other = 0;
    assert_int_equal(step_every(&s, STEP_STOP, check_nothing_private, &result), 0);
    assert_int_equal(result.reached, result.instructions);
    assert_int_equal(world->other, result.reached - result.same);
    assert_int_equal(world->other, 1 + TOUCHES);
}

static int varying_setup(void *user)
{
    struct world *w = user;

    setup(user);
    w->turns = (w->setups * 7) % 5;
    return 0;
}

static int later_varying_setup(void *user)
{
    struct world *w = user;

    varying_setup(user);
    if (w->setups < 3)
        w->turns = 4;
    return 0;
}

static void test_way_that_varies(void **state)
{
    struct step_scenario s = scenario("varies", region_random);
    struct step_result result;
    struct step_child child;
    struct step_walk walk;

    (void)state;
    s.setup = varying_setup;
    assert_int_equal(step_every(&s, STEP_KILL, check_nothing, &result), 0);
    assert_true(result.varies);
    /* The longest way has 5 turns of two, in one of five runs; each point is tried in eight. */
    assert_int_equal(result.reached, 2 + 2 * 5 + 2);
    /* The two walks agree by chance: a later run betrays it. */
    s = scenario("varies later", region_random);
    s.setup = later_varying_setup;
    assert_int_equal(step_walk(&s, &walk), 0);
    assert_false(walk.varies);
    world->turns = 0;
    assert_int_equal(step_start(&child, &s), 0);
    assert_int_equal(step_reach(&child, &walk, 4), 0);
    step_kill(&child);
    assert_true(walk.varies);
    step_walk_free(&walk);
    world->setups = 0;
    assert_int_equal(step_every(&s, STEP_KILL, check_nothing, &result), 0);
    assert_true(result.varies);
    assert_int_equal(result.reached, 2 + 2 * 5 + 2);
}

static int fail_to_prepare(void *user)
{
    (void)user;
    return -ENOENT;
}

static void test_regions_that_go_wrong(void **state)
{
    struct step_scenario s = scenario("spins", region_spin);
    struct step_result result;
    struct step_child child;

    (void)state;
    s.limit = 500;
    assert_int_equal(step_count(&s), -E2BIG);
    assert_int_equal(step_every(&s, STEP_KILL, check_nothing, &result), -E2BIG);
    s = scenario("crashes", region_crash);
    assert_int_equal(step_count(&s), -ECHILD);
    assert_int_equal(step_start(&child, &s), 0);
    assert_int_equal(step_reach(&child, NULL, 2), -ECHILD);
    assert_true(WIFSIGNALED(child.status) && WTERMSIG(child.status) == SIGSEGV);
    s.prepare = fail_to_prepare;
    assert_int_equal(step_start(&child, &s), -ECHILD);
    assert_true(WIFEXITED(child.status) && WEXITSTATUS(child.status) == ENOENT);
    assert_int_equal(world->setups, world->teardowns);
}

static void test_names_a_point(void **state)
{
    char text[64];

    (void)state;
    step_symbol((uint64_t)(uintptr_t)region_loop + 2, text, sizeof(text));
    assert_string_equal(text, "region_loop+0x2");
    step_symbol((uint64_t)(uintptr_t)stores_made, text, sizeof(text)); /* a static function */
    assert_string_equal(text, "stores_made+0x0");
    step_symbol(16, text, sizeof(text));
    assert_string_equal(text, "0x10");
}

static int run(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_breakpoints_reach_the_same_points),
        cmocka_unit_test(test_kills_only_where_something_changed),
        cmocka_unit_test(test_stops_only_where_something_was_touched),
        cmocka_unit_test(test_way_that_varies),
        cmocka_unit_test(test_regions_that_go_wrong),
        cmocka_unit_test(test_names_a_point),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
    return with_world(run);
}

#else

int main(void)
{
    return 77;
}

#endif
