/* Goal: of no time, as geb demo shows it, more was used than there was; and rates and peaks are
 * those of the samples.
 * Method: samples as /proc/stat has them: of busy processors, of idle ones, read right before and
 * right after a tick, handled late and all at once, and with a column that goes back. */
#include "tools/geb/demo.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MS UINT64_C(1000000)

static struct demo_shared shared;
static double processors;
static uint64_t tick_cnt; /* of all processors, in a second */

static int gauges_clear(void **state)
{
    (void)state;
    memset(&shared, 0, sizeof shared);
    processors = (double)sysconf(_SC_NPROCESSORS_ONLN);
    tick_cnt = (uint64_t)(sysconf(_SC_NPROCESSORS_ONLN) * sysconf(_SC_CLK_TCK));
    return 0;
}

static void check_busy(double mean, double peak)
{
    double least_mean = mean - 1e-6, least_peak = peak - 1e-6;
    assert_true(demo_gauge_mean(&shared, DEMO_BUSY) <= mean);
    assert_true(demo_gauge_mean(&shared, DEMO_BUSY) >= least_mean);
    assert_true(demo_gauge_peak(&shared, DEMO_BUSY) <= peak);
    assert_true(demo_gauge_peak(&shared, DEMO_BUSY) >= least_peak);
}

/* Nothing depends on when the samples are read or handled: one more tick of each is no more. */
static void busy_is_a_share_of_the_ticks(void **state)
{
    struct demo_gauge *gauge = &shared.gauge[DEMO_BUSY];
    (void)state;
    demo_gauge_busy(gauge, 1000, 5000);
    check_busy(0, 0); /* of no time */
    for (uint64_t i = 1; i <= 8; i++)
        demo_gauge_busy(gauge, 1000 + i * (tick_cnt / 4 + 2), 5000);
    check_busy(processors, processors);
    uint64_t all = 8 * (tick_cnt / 4 + 2);
    for (uint64_t i = 1; i <= 8; i++) /* then as long a time of rest */
        demo_gauge_busy(gauge, 1000 + all, 5000 + i * (tick_cnt / 4 + 2));
    check_busy(processors / 2, processors);
}

static void a_column_may_go_back(void **state)
{
    struct demo_gauge *gauge = &shared.gauge[DEMO_BUSY];
    (void)state;
    demo_gauge_busy(gauge, 1000, 5000);
    demo_gauge_busy(gauge, 1000 + tick_cnt, 4990);
    check_busy(processors, processors);
    demo_gauge_busy(gauge, 900 + tick_cnt, 5000 + tick_cnt);
    check_busy(processors / 2, processors);
    demo_gauge_busy(gauge, 1000 + tick_cnt, 5000 + tick_cnt);
    check_busy(processors / 2, processors);
}

static void rates_are_of_a_second(void **state)
{
    struct demo_gauge *gauge = &shared.gauge[DEMO_SWITCHES];
    (void)state;
    for (uint64_t ms = 1; ms <= 2001; ms += 50) /* a burst from 501 to 1001 ms */
        demo_gauge_enter(gauge, 7 + (ms <= 501 ? 0 : ms <= 1001 ? (ms - 501) * 4 : 2000), ms * MS);
    assert_true(demo_gauge_mean(&shared, DEMO_SWITCHES) == 1000);
    assert_true(demo_gauge_peak(&shared, DEMO_SWITCHES) == 4000);
    demo_gauge_enter(&shared.gauge[DEMO_ON_CPU], 10 * MS, 500 * MS);
    demo_gauge_enter(&shared.gauge[DEMO_ON_CPU], 260 * MS, 1000 * MS);
    assert_true(demo_gauge_mean(&shared, DEMO_ON_CPU) == 0.5);
    assert_true(demo_gauge_peak(&shared, DEMO_ON_CPU) == 0.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(busy_is_a_share_of_the_ticks, gauges_clear),
        cmocka_unit_test_setup(a_column_may_go_back, gauges_clear),
        cmocka_unit_test_setup(rates_are_of_a_second, gauges_clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
