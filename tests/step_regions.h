/* The regions that the tests of step.h walk, whose instructions are known since they are written in
 * assembly, and the mapping in which their effects show. x86-64 only. */
#ifndef TESTS_STEP_REGIONS_H
#define TESTS_STEP_REGIONS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "step.h"

/* What tracer and child share. */
struct world {
    uint64_t words[8];
    uint64_t other; /* written by the tracer while the child stands still */
    uint64_t seen;  /* what the child found there at the end */
    uint64_t turns;
    int pipe[2];
    _Alignas(4096) char from[4096];
    char to[4096];
    int file;
    size_t setups;
    size_t teardowns;
    uint64_t next; /* the k that the check expects */
    uint64_t high; /* the most stores that a check has seen */
};

/* The offsets in the assembly below. */
static_assert(offsetof(struct world, other) == 64, "other");
static_assert(offsetof(struct world, seen) == 72, "seen");
static_assert(offsetof(struct world, turns) == 80, "turns");
static_assert(offsetof(struct world, pipe) == 88, "pipe");
static_assert(offsetof(struct world, from) == 4096, "from");
static_assert(offsetof(struct world, to) == 8192, "to");

static struct world *world;

/* In assembly, so that no compiler changes their length. Each gets the world in rdi. */
int region_four(void *user);
int region_loop(void *user);
int region_stores(void *user);
int region_copy(void *user);
int region_write(void *user);
int region_long(void *user);
int region_spin(void *user);
int region_crash(void *user);
int region_random(void *user);
int region_touches(void *user);
__asm__(".pushsection .text\n"
        ".macro region name\n"
        ".globl \\name; .hidden \\name; .type \\name, @function\n"
        "\\name:\n"
        ".endm\n"
        "region region_four\n"
        "    nop; nop; xor %eax, %eax; ret\n"
        "region region_loop\n" /* 2 + 3 * 2 + 1 */
        "    mov $3, %ecx; xor %eax, %eax\n"
        "1:  dec %ecx; jnz 1b; ret\n"
        "region region_stores\n" /* words[i] = i + 1, then seen = other: 1 + 8 * 5 + 4 */
        "    xor %ecx, %ecx\n"
        "1:  lea 1(%rcx), %rax; mov %rax, (%rdi,%rcx,8); mov %eax, %ecx; cmp $8, %ecx; jne 1b\n"
        "    mov 64(%rdi), %rax; mov %rax, 72(%rdi); xor %eax, %eax; ret\n"
        "region region_copy\n" /* to = from: 6, however many repetitions */
        "    lea 4096(%rdi), %rsi; lea 8192(%rdi), %rdi; mov $4096, %ecx; rep movsb\n"
        "    xor %eax, %eax; ret\n"
        "region region_write\n" /* write(pipe[1], words, 1): 7, the fifth is the call */
        "    mov %rdi, %rsi; mov 92(%rdi), %edi; mov $1, %edx; mov $1, %eax; syscall\n"
        "    xor %eax, %eax; ret\n"
        "region region_long\n" /* 1 + 20 * 52 + 2 */
        "    mov $20, %ecx\n"
        "1:  .rept 50; incq (%rdi); .endr; dec %ecx; jnz 1b\n"
        "    xor %eax, %eax; ret\n"
        "region region_spin\n"
        "1:  pause; jmp 1b\n"
        "region region_crash\n"
        "    nop; movl $1, 0; ret\n"
        "region region_random\n" /* 2 + 2 * (turns + 1) + 2 */
        "    mov 80(%rdi), %rcx; inc %rcx\n"
        "1:  dec %rcx; jnz 1b; xor %eax, %eax; ret\n"
        "region region_touches\n" /* 25; of these 1 4 5 10 18 19 22 touch what is shared */
        "    push %rdi; mov (%rdi), %rax; add $5, %rax; mov %rax, -16(%rsp)\n"
        "    mov %rax, 8(%rdi); lock incq 16(%rdi); prefetchw (%rdi)\n"
        "    lea 4096(%rdi), %rsi; lea 8192(%rdi), %rdi; mov $100, %ecx; rep movsb\n"
        /* A mapping of its own making: mmap(NULL, 4096, rw, shared | anonymous, -1, 0). */
        "    mov $9, %eax; xor %edi, %edi; mov $4096, %esi; mov $3, %edx; mov $0x21, %r10d\n"
        "    mov $-1, %r8; xor %r9d, %r9d; syscall; movq $1, (%rax); nop\n"
        "    pop %rdi; mov (%rdi), %rax; xor %eax, %eax; ret\n"
        ".popsection\n");

static inline int setup(void *user)
{
    struct world *w = user;

    memset(w, 0, offsetof(struct world, pipe));
    memset(w->from, 'x', sizeof(w->from));
    memset(w->to, 0, sizeof(w->to));
    w->setups++;
    return 0;
}

static inline void teardown(void *user)
{
    struct world *w = user;

    w->teardowns++;
}

static inline struct step_scenario scenario(const char *name, int (*region)(void *user))
{
    memset(world, 0, sizeof(*world));
    return (struct step_scenario){
        .name = name,
        .setup = setup,
        .region = region,
        .teardown = teardown,
        .user = world,
    };
}

#define TOUCHES 7

static inline bool touches_shared(size_t instruction)
{
    return instruction == 1 || instruction == 4 || instruction == 5 || instruction == 10 ||
           instruction == 18 || instruction == 19 || instruction == 22;
}

/* Counts the stores; -EBADMSG unless they are the first ones of region_stores. */
static inline int stores_made(const struct world *w)
{
    int n = 0;

    while (n < 8 && w->words[n] == (uint64_t)n + 1)
        n++;
    for (int i = n; i < 8; i++)
        if (w->words[i] != 0)
            return -EBADMSG;
    return n;
}

/* By the listing: store i is instruction 2 + 5 i. */
static inline int check_prefix(struct step_child *child, size_t k, void *user)
{
    struct world *w = user;
    int n = stores_made(w);
    int expected = k < 3 ? 0 : (int)((k - 3) / 5) + 1;

    (void)child;
    if (n < 0)
        return n;
    if ((uint64_t)n > w->high)
        w->high = (uint64_t)n;
    return n != (expected < 8 ? expected : 8);
}

static inline int check_nothing(struct step_child *child, size_t k, void *user)
{
    (void)child, (void)k, (void)user;
    return 0;
}

/* Runs the tests of a file, with a world. */
static inline int with_world(int (*run)(void))
{
    if (!step_available())
        return 77;
    world = mmap(NULL, sizeof(*world), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return world == MAP_FAILED ? 1 : run();
}

#endif
