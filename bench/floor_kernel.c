/* The floors of memory and kernel: memcpy, a futex wake, the scheduler's gaps. */
#include "bench/floor.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- memcpy --------------------------------------------------------------------------------- */

struct copy_buffers {
    unsigned char *from, *to;
};

static int memcpy_open(struct bench_turn *turn)
{
    struct copy_buffers *b = calloc(1, sizeof(*b));
    if (b == NULL || (b->from = malloc(turn->bytes)) == NULL ||
        (b->to = malloc(turn->bytes)) == NULL) {
        return bench_fail(turn, -ENOMEM, "two buffers of --bytes");
    }
    memset(b->from, 1, turn->bytes);
    memset(b->to, 2, turn->bytes);
    turn->state = b;
    return 0;
}

static int memcpy_round(struct bench_turn *turn)
{
    struct copy_buffers *b = turn->state;
    uint64_t begin_ns = shr_now_ns();
    for (uint64_t i = 0; i < turn->count; i++) {
        memcpy(b->to, b->from, turn->bytes);
        __asm__ volatile("" ::"r"(b->to) : "memory"); /* someone might read the copy */
    }
    turn->elapsed_ns = shr_now_ns() - begin_ns;
    return 0;
}

static void memcpy_close(struct bench_turn *turn)
{
    struct copy_buffers *b = turn->state;
    free(b->from);
    free(b->to);
    free(b);
}

const struct bench_ops bench_floor_memcpy = {
    .roles = 1, .open = memcpy_open, .round = memcpy_round, .close = memcpy_close};

/* ---- futex ---------------------------------------------------------------------------------- */

/* Long enough for the sleeper to be asleep, short enough for the CPU to be awake. */
#define FALL_ASLEEP_NS 20000u

struct futex_area {
    _Alignas(128) shr_a32 word;
    _Alignas(128) shr_a32 ready; /* the sleeper is about to sleep for this wake */
    _Alignas(128) shr_a64 woken_at_ns;
};

static long futex(shr_a32 *word, int op, uint32_t value)
{
    return syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

static void futex_sleep(struct bench_turn *turn)
{
    struct futex_area *a = turn->shared;
    for (uint64_t i = 0; i < turn->count; i++) {
        uint32_t word = shr_load32_relaxed(&a->word);
        shr_store32_release(&a->ready, word + 1);
        while (shr_load32_acquire(&a->word) == word) {
            futex(&a->word, FUTEX_WAIT, word);
        }
        uint64_t latency_ns = shr_now_ns() - shr_load_relaxed(&a->woken_at_ns);
        bench_hist_add(turn->hist, latency_ns * 1000u);
        turn->elapsed_ns += latency_ns;
    }
}

static int futex_round(struct bench_turn *turn)
{
    struct futex_area *a = turn->shared;
    if (turn->role == 1) {
        futex_sleep(turn);
        return 0;
    }
    for (uint64_t i = 0; i < turn->count; i++) {
        uint32_t word = shr_load32_relaxed(&a->word);
        while (shr_load32_acquire(&a->ready) != word + 1) {
            shr_cpu_relax();
        }
        uint64_t asleep_ns = shr_now_ns() + FALL_ASLEEP_NS;
        while (shr_now_ns() < asleep_ns) {
            shr_cpu_relax();
        }
        shr_store_relaxed(&a->woken_at_ns, shr_now_ns());
        shr_store32_release(&a->word, word + 1);
        futex(&a->word, FUTEX_WAKE, 1);
    }
    return 0;
}

const struct bench_ops bench_floor_futex = {
    .roles = 2, .shared_bytes = sizeof(struct futex_area), .round = futex_round};

/* ---- gap ------------------------------------------------------------------------------------ */

#define GAP_WINDOW_NS 2000000u

/* Both processes look at the clock without a break; the longest jump of either is the figure. */
static int gap_round(struct bench_turn *turn)
{
    uint64_t begin_ns = shr_now_ns();
    uint64_t last_ns = begin_ns;
    uint64_t longest_ns = 0;
    while (last_ns - begin_ns < GAP_WINDOW_NS) {
        uint64_t now_ns = shr_now_ns();
        if (now_ns - last_ns > longest_ns) {
            longest_ns = now_ns - last_ns;
        }
        last_ns = now_ns;
    }
    turn->elapsed_ns = longest_ns;
    return 0;
}

const struct bench_ops bench_floor_gap = {.roles = 2, .round = gap_round};
