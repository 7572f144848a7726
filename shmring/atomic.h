/* The only place in geb that names C11 memory orders.
 *
 * What lives in shared memory is one of the two types below and nothing else: a word whose
 * accesses are lock-free, address-free atomics of fixed width. Each function says its order in its
 * name. Every ordering edge between two of them carries a name at both ends
 * ("edge R2 release: …" and "edge R2 acquire: …"); docs/ordering.md argues each.
 */
#ifndef SHMRING_ATOMIC_H
#define SHMRING_ATOMIC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef _Atomic uint64_t shr_a64;
typedef _Atomic uint32_t shr_a32;

_Static_assert(sizeof(shr_a64) == 8 && _Alignof(shr_a64) == 8, "a 64-bit word is 8 bytes");
_Static_assert(sizeof(shr_a32) == 4 && _Alignof(shr_a32) == 4, "a 32-bit word is 4 bytes");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2,
               "words shared between processes need lock-free atomics");

#define SHR_LIKELY(x)   __builtin_expect(!!(x), 1)
#define SHR_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define SHR_COLD        __attribute__((cold, noinline))
/* A fast path is one function. */
#define SHR_HOT static inline __attribute__((always_inline))

static inline uint64_t shr_load_relaxed(const shr_a64 *p)
{
    return atomic_load_explicit(p, memory_order_relaxed);
}

static inline uint64_t shr_load_acquire(const shr_a64 *p)
{
    return atomic_load_explicit(p, memory_order_acquire);
}

static inline void shr_store_relaxed(shr_a64 *p, uint64_t v)
{
    atomic_store_explicit(p, v, memory_order_relaxed);
}

static inline void shr_store_release(shr_a64 *p, uint64_t v)
{
    atomic_store_explicit(p, v, memory_order_release);
}

static inline uint64_t shr_fetch_add_relaxed(shr_a64 *p, uint64_t v)
{
    return atomic_fetch_add_explicit(p, v, memory_order_relaxed);
}

static inline uint64_t shr_fetch_add_acq_rel(shr_a64 *p, uint64_t v)
{
    return atomic_fetch_add_explicit(p, v, memory_order_acq_rel);
}

/* The compare-and-swap functions return whether they wrote; they never fail spuriously. */
static inline bool shr_cas_release(shr_a64 *p, uint64_t expected, uint64_t desired)
{
    return atomic_compare_exchange_strong_explicit(p, &expected, desired, memory_order_release,
                                                   memory_order_relaxed);
}

static inline bool shr_cas_acq_rel(shr_a64 *p, uint64_t expected, uint64_t desired)
{
    return atomic_compare_exchange_strong_explicit(p, &expected, desired, memory_order_acq_rel,
                                                   memory_order_acquire);
}

static inline uint32_t shr_load32_relaxed(const shr_a32 *p)
{
    return atomic_load_explicit(p, memory_order_relaxed);
}

static inline uint32_t shr_load32_acquire(const shr_a32 *p)
{
    return atomic_load_explicit(p, memory_order_acquire);
}

static inline void shr_store32_relaxed(shr_a32 *p, uint32_t v)
{
    atomic_store_explicit(p, v, memory_order_relaxed);
}

static inline void shr_store32_release(shr_a32 *p, uint32_t v)
{
    atomic_store_explicit(p, v, memory_order_release);
}

static inline uint32_t shr_exchange32_acq_rel(shr_a32 *p, uint32_t v)
{
    return atomic_exchange_explicit(p, v, memory_order_acq_rel);
}

static inline uint32_t shr_fetch_add32_release(shr_a32 *p, uint32_t v)
{
    return atomic_fetch_add_explicit(p, v, memory_order_release);
}

static inline void shr_fence_acquire(void)
{
    atomic_thread_fence(memory_order_acquire);
}

static inline void shr_fence_release(void)
{
    atomic_thread_fence(memory_order_release);
}

static inline void shr_fence_seq_cst(void)
{
    atomic_thread_fence(memory_order_seq_cst);
}

/* Keeps program order in the machine code, no more. Two uses: where a process that dies must leave
 * a prefix of its stores behind (the processor retires in order, so only the compiler can break
 * that), and the light side of an edge whose heavy side is a membarrier system call. */
static inline void shr_fence_compiler(void)
{
    atomic_signal_fence(memory_order_seq_cst);
}

/* Asks for the line of p in a writable state. Only where the processor has the instruction. */
static inline void shr_prefetch_write(const void *p)
{
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" ::"m"(*(const char *)p));
#else
    __builtin_prefetch(p, 1);
#endif
}

/* Tells the core that this is a spin loop. */
static inline void shr_cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#else
    shr_fence_compiler();
#endif
}

#endif
