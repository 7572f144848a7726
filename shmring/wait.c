#include "shmring/wait.h"

#include "shmring/clock.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static bool membarrier(int command)
{
    return syscall(SYS_membarrier, command, 0u, 0) == 0;
}

int shr_wait_register(void)
{
    return membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED) ? 0 : -ENOSYS;
}

bool shr_wait_barrier(void)
{
    if (membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED))
        return true;
    /* The other half of this fence is in the wakers where the bus was marked so when it was
     * made; if only this process lacks the call, its bounded sleep remains. */
    shr_fence_seq_cst();
    return false;
}

uint32_t shr_gate_enter(struct shr_gate *gate)
{
    /* The ticket comes before the flag. A wake that takes the flag back then always also makes the
     * ticket stale; the other way round the ticket could be newer than the wake that took our flag,
     * and we would sleep with no flag up.
     * edge W2 acquire: of a wake whose count we see, the flag that it took is an older one. */
    uint32_t ticket = shr_load32_acquire(&gate->seq);
    shr_store32_relaxed(&gate->waiting, 1);
    /* edge W1 acquire: a waker either sees the flag, or its store is before our second look. */
    shr_wait_barrier();
    return ticket;
}

void shr_gate_sleep(struct shr_gate *gate, uint32_t ticket, uint64_t until_ns)
{
    uint64_t now_ns = shr_now_ns();
    if (until_ns <= now_ns)
        return;
    uint64_t end_ns = until_ns - now_ns < SHR_SLEEP_MAX_NS ? until_ns : now_ns + SHR_SLEEP_MAX_NS;
    struct timespec end = {.tv_sec = (time_t)(end_ns / 1000000000u),
                           .tv_nsec = (long)(end_ns % 1000000000u)};
    /* Every result means the same to the caller: look again. The flag stays up, since others may
     * sleep here; at worst the next waker makes one call for nobody. */
    int saved = errno;
    syscall(SYS_futex, &gate->seq, FUTEX_WAIT_BITSET, ticket, &end, NULL, FUTEX_BITSET_MATCH_ANY);
    errno = saved;
}

void shr_gate_wake(struct shr_gate *gate)
{
    shr_exchange32_acq_rel(&gate->waiting, 0);
    shr_fetch_add32_release(&gate->seq, 1); /* edge W2 release: the flag was taken before */
    int saved = errno;
    syscall(SYS_futex, &gate->seq, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    errno = saved;
}
