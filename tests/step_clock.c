/* The clock of stepped regions: step_clock.h. */
#include "tests/step_clock.h"

#include "shmring/clock.h"

#include <sys/syscall.h>
#include <unistd.h>

#define HOUR_NS (3600 * UINT64_C(1000000000))

static uint64_t steady_ns; /* 0: the kernel's time, and … */
static uint64_t ahead_ns;  /* … this beyond it */

void step_clock_steady(void)
{
    steady_ns = shr_now_ns();
}

void step_clock_far(void)
{
    steady_ns = shr_now_ns() + HOUR_NS;
}

void step_clock_pass(uint64_t until_ns)
{
    steady_ns = until_ns;
}

void step_clock_kernel(void)
{
    steady_ns = 0;
}

void step_clock_set_ahead(uint64_t ns)
{
    ahead_ns = ns;
}

int step_clock_gettime(clockid_t id, struct timespec *time)
{
    uint64_t now_ns;
    if (steady_ns != 0) {
        now_ns = steady_ns += 1000;
    } else {
        int rc = (int)syscall(SYS_clock_gettime, id, time);
        if (rc != 0 || ahead_ns == 0)
            return rc;
        now_ns = (uint64_t)time->tv_sec * 1000000000u + (uint64_t)time->tv_nsec + ahead_ns;
    }
    time->tv_sec = (time_t)(now_ns / 1000000000u);
    time->tv_nsec = (long)(now_ns % 1000000000u);
    return 0;
}
