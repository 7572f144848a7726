/* Goal: a bus with one producer, which uses no locked instruction, keeps the same promises; a
 * second producer is refused, and a successor goes on where a killed one stopped.
 *
 * Method: stress_support.h, for each policy and rings of 4, 16 and 1,024 cells, with and without
 * kills.
 */
#include "tests/stress_support.h"
#include "tests/support.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static void each_policy(bool mixed, uint32_t kill_every)
{
    for (int policy = 0; policy < 3; policy++) {
        struct stress_case c = {.policy = (enum geb_policy)policy,
                                .exclusive = true,
                                .producers = 1,
                                .events = stress_events(kill_every != 0 ? 20000 : 50000),
                                .mixed = mixed,
                                .kill_every = kill_every,
                                .max_kills = 10};
        stress_run_rings(&c, kill_every != 0 ? ", kills" : "");
    }
}

static void in_line(void **state)
{
    (void)state;
    each_policy(false, 0);
}

static void mixed_sizes(void **state)
{
    (void)state;
    each_policy(true, 0);
}

static void with_kills(void **state)
{
    (void)state;
    each_policy(true, (uint32_t)stress_events(1500));
}

static void a_second_producer_is_refused(void **state)
{
    struct geb_config config = GEB_CONFIG_INIT;
    struct geb_bus *bus;
    struct geb_producer *first, *second;
    char name[64];
    (void)state;
    config.exclusive = true;
    config.capacity = 16;
    assert_int_equal(geb_create(&bus, support_name(name), &config), 0);
    assert_int_equal(geb_join(&first, name, "first"), 0);
    assert_int_equal(geb_join(&second, name, "second"), -EBUSY);
    assert_int_equal(geb_leave(first), 0);
    assert_int_equal(geb_join(&second, name, "second"), 0);
    assert_int_equal(geb_leave(second), 0);
    assert_int_equal(geb_close(bus, 0), 0);
    assert_int_equal(geb_remove(name), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_line),
        cmocka_unit_test(mixed_sizes),
        cmocka_unit_test(with_kills),
        cmocka_unit_test(a_second_producer_is_refused),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
