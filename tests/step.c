/*
 * One traced child of step.h: from its start to a point, and to its end. step_every.c drives it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "step_watch.h"
#include "tests/gone.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/*
 * The child calls the region through step_call. Its breakpoint tells the tracer that the call is
 * next; the address after the call is where every region ends.
 */
#if defined(__x86_64__) && defined(__LP64__)

#define SUPPORTED  true
#define BREAKPOINT 0xcc
#define SYSCALL    0x050f
#define RIP        ((void *)offsetof(struct user, regs.rip))

int step_call(int (*region)(void *user), void *user);
extern const char step_call_end[];
__asm__(".pushsection .text\n"
        ".globl step_call, step_call_end\n"
        ".hidden step_call, step_call_end\n"
        ".type step_call, @function\n"
        "step_call:\n"
        "    push %rbp\n"
        "    mov %rsp, %rbp\n"
        "    mov %rdi, %rax\n"
        "    mov %rsi, %rdi\n"
        "    int3\n"
        "    call *%rax\n"
        "step_call_end:\n"
        "    pop %rbp\n"
        "    ret\n"
        ".size step_call, . - step_call\n"
        ".popsection\n");

#else

#define SUPPORTED  false
#define BREAKPOINT 0
#define SYSCALL    0
#define RIP        NULL

static const char step_call_end[1];

static int step_call(int (*region)(void *user), void *user)
{
    return region(user);
}

#endif

static int get_rip(pid_t pid, uint64_t *rip)
{
    errno = 0;
    *rip = (uint64_t)ptrace(PTRACE_PEEKUSER, pid, RIP, NULL);
    return -errno;
}

static int set_rip(pid_t pid, uint64_t rip)
{
    return ptrace(PTRACE_POKEUSER, pid, RIP, (void *)rip) < 0 ? -errno : 0;
}

static uint64_t region_end(void)
{
    return (uint64_t)(uintptr_t)step_call_end;
}

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* One traced child. */

static int peek(const struct step_child *child, uint64_t address, uint64_t *word)
{
    errno = 0;
    *word = (uint64_t)ptrace(PTRACE_PEEKTEXT, child->pid, (void *)(uintptr_t)address, NULL);
    return -errno;
}

/* Replaces one byte of the child's text, and gives the old one. Word by word, hence re-read each
 * time: two breakpoints may share a word. */
static int swap_byte(const struct step_child *child, uint64_t address, uint8_t byte, uint8_t *old)
{
    uint64_t word;
    int rc = peek(child, address, &word);

    if (rc < 0)
        return rc;
    if (old)
        *old = (uint8_t)word;
    word = (word & ~(uint64_t)0xff) | byte;
    if (ptrace(PTRACE_POKETEXT, child->pid, (void *)(uintptr_t)address, (void *)word) < 0)
        return -errno;
    return 0;
}

static bool asleep(pid_t pid)
{
    char path[32];
    char text[128];
    const char *state;
    ssize_t n;
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    n = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    state = strrchr(text, ')'); /* the name before may hold anything */
    return state && strncmp(state, ") S", 3) == 0;
}

/* Until the child has stopped or ended; meanwhile wakes it when it sleeps. Polls, since a tracer
 * that waits in the kernel would not notice the sleep. */
static int wait_for_sleeper(const struct step_child *child)
{
    const struct step_scenario *s = child->scenario;
    int64_t deadline = now_ns() + STEP_HANG_NS;

    for (;;) {
        siginfo_t info = {.si_pid = 0};

        sched_yield();
        if (waitid(P_PID, (id_t)child->pid, &info, WEXITED | WSTOPPED | WNOHANG | WNOWAIT) < 0)
            return -errno;
        if (info.si_pid != 0)
            return 0;
        if (s->unblock && asleep(child->pid))
            s->unblock(s->user);
        if (now_ns() > deadline)
            return -ETIMEDOUT;
    }
}

/* Until it has stopped, or has ended and its memory is gone. */
static int reap(pid_t pid, int *status)
{
    while (waitpid(pid, status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFSTOPPED(*status) || gone_await(pid) ? 0 : -EBUSY;
}

static int wait_for_stop(struct step_child *child)
{
    int status;
    int rc = reap(child->pid, &status);

    if (rc < 0)
        return rc;
    if (!WIFSTOPPED(status)) {
        child->status = status;
        child->state = STEP_GONE;
        return -ECHILD;
    }
    child->signal = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
    return 0;
}

/* Lets the child go on, with the signal that it was stopped with, and waits for its next stop. */
static int advance(struct step_child *child, enum __ptrace_request how, bool may_sleep)
{
    int rc;

    if (ptrace(how, child->pid, NULL, (void *)(intptr_t)child->signal) < 0)
        return -errno;
    if (may_sleep) {
        rc = wait_for_sleeper(child);
        if (rc < 0)
            return rc;
    }
    rc = wait_for_stop(child);
    return rc < 0 ? rc : get_rip(child->pid, &child->rip);
}

/* One instruction. An address that stays the same is a repetition, or a signal about to be taken.
 * */
static int step_one(struct step_child *child)
{
    size_t limit = child->scenario->limit ? child->scenario->limit : STEP_LIMIT_DEFAULT;
    uint64_t from = child->rip;
    uint64_t text = 0;
    bool is_syscall = peek(child, from, &text) == 0 && (text & 0xffff) == SYSCALL;
    int rc = child->watch ? step_watch_before(child, is_syscall) : 0;

    if (rc < 0)
        return rc;
    do {
        if (child->steps++ >= limit)
            return -E2BIG;
        rc = advance(child, PTRACE_SINGLESTEP, is_syscall);
        if (rc == 0 && child->watch && child->signal == SIGSEGV) {
            rc = step_watch_fault(child);
            if (rc == -EFAULT) {
                rc = 0; /* its own, of which it dies */
            } else {
                child->signal = 0;
                child->steps--;
            }
        }
        if (rc < 0)
            return rc;
    } while (child->rip == from);
    child->k++;
    if (child->rip == region_end())
        child->state = STEP_PASSED;
    return 0;
}

/* Stops at each arrival at address, steps over it, until the occurrence-th. */
static int hit_breakpoint(struct step_child *child, uint64_t address, uint8_t byte,
                          uint32_t occurrence)
{
    for (;;) {
        int rc = advance(child, PTRACE_CONT, true);
        if (rc < 0)
            return rc;
        if (child->signal)
            continue;
        if (child->rip != address + 1)
            return -EAGAIN; /* most likely the end of the region */
        rc = set_rip(child->pid, address);
        child->rip = address;
        if (rc < 0 || --occurrence == 0)
            return rc;
        rc = swap_byte(child, address, byte, NULL);
        if (rc == 0)
            rc = step_one(child);
        if (rc == 0 && child->state == STEP_PASSED)
            rc = -EAGAIN;
        if (rc == 0)
            rc = swap_byte(child, address, BREAKPOINT, NULL);
        if (rc < 0)
            return rc;
    }
}

/* Runs natively from point 0 to the occurrence-th arrival at address. -EAGAIN: it never got there.
 * */
static int run_to(struct step_child *child, uint64_t address, uint32_t occurrence)
{
    uint8_t byte;
    uint8_t end_byte;
    int rc = swap_byte(child, address, BREAKPOINT, &byte);

    if (rc < 0)
        return -EAGAIN; /* text that cannot be written: the caller steps */
    rc = swap_byte(child, region_end(), BREAKPOINT, &end_byte);
    if (rc == 0)
        rc = hit_breakpoint(child, address, byte, occurrence);
    if (rc == 0)
        rc = swap_byte(child, region_end(), end_byte, NULL);
    if (rc == 0)
        rc = swap_byte(child, address, byte, NULL);
    return rc; /* after an error breakpoints may be left: the child is of no use */
}

static int exit_code(int rc)
{
    rc = abs(rc);
    return rc < 255 ? rc : 255;
}

_Noreturn static void child_main(const struct step_scenario *s, pid_t tracer)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigset_t none;
    int rc;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != tracer)
        _exit(255); /* the tracer died before the line above */
    gone_mark();
    /* The test framework's handlers would report a crash here as one of the test. */
    for (int sig = 1; sig < NSIG; sig++)
        sigaction(sig, &action, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    rc = s->prepare ? s->prepare(s->user) : 0;
    if (rc == 0 && ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
        rc = -errno;
    if (rc != 0)
        _exit(exit_code(rc));
    /* String functions go another way at the end of a page, so the region's stack always begins at
     * the same place of one, however deep the tracer was. */
    char *pad = __builtin_alloca((uintptr_t)__builtin_frame_address(0) % 4096);
    __asm__ volatile("" ::"r"(pad));
    rc = step_call(s->region, s->user);
    if (rc == 0 && s->finish)
        rc = s->finish(s->user);
    _exit(exit_code(rc));
}

/* A step is two switches between tracer and child: on one processor they need no wake-up of
 * another. */
void step_meet(struct step_child *child)
{
    cpu_set_t one;

    if (child->met++ != 0 || child->cpu < 0)
        return;
    CPU_ZERO(&one);
    CPU_SET((size_t)child->cpu, &one);
    sched_setaffinity(0, sizeof(one), &one);
}

void step_part(struct step_child *child)
{
    if (--child->met == 0 && child->cpu >= 0)
        sched_setaffinity(0, sizeof(child->cpus), &child->cpus);
}

/* From fork to point 0: the int3 of step_call, and then the call itself. */
static int bring_to_region(struct step_child *child)
{
    pid_t tracer = getpid();
    int rc;

    gone_prepare();
    child->pid = fork();
    if (child->pid < 0)
        return -errno;
    if (child->pid == 0)
        child_main(child->scenario, tracer);
    child->state = STEP_STOPPED;
    rc = wait_for_stop(child);
    if (rc < 0)
        return rc;
    if (ptrace(PTRACE_SETOPTIONS, child->pid, NULL, (void *)PTRACE_O_EXITKILL) < 0)
        return -errno;
    return advance(child, PTRACE_SINGLESTEP, false);
}

int step_start(struct step_child *child, const struct step_scenario *scenario)
{
    int rc;

    *child = (struct step_child){.scenario = scenario, .cpu = sched_getcpu()};
    if (!SUPPORTED)
        return -ENOSYS;
    if (sched_getaffinity(0, sizeof(child->cpus), &child->cpus) < 0)
        child->cpu = -1;
    step_meet(child);
    rc = bring_to_region(child);
    step_part(child);
    if (rc < 0)
        step_kill(child);
    return rc;
}

int step_reach(struct step_child *child, struct step_walk *walk, size_t k)
{
    uint32_t anchor = 0;
    int rc = 0;

    if (child->state == STEP_PASSED)
        return 1;
    if (child->state != STEP_STOPPED || k < child->k)
        return -EINVAL;
    if (walk && !walk->varies && child->k == 0 && k < walk->count)
        anchor = walk->points[k].anchor;
    step_meet(child);
    if (anchor > 0) {
        rc = run_to(child, walk->points[anchor].rip, walk->points[anchor].occurrence);
        child->k = anchor;
    }
    while (rc == 0 && child->k < k && child->state == STEP_STOPPED)
        rc = step_one(child);
    step_part(child);
    if (walk && rc == 0) {
        bool same = child->state == STEP_PASSED
                        ? k >= walk->count
                        : k < walk->count && child->rip == walk->points[k].rip;
        walk->varies |= !same;
        if (!same && anchor > 0)
            rc = -EAGAIN;
    } else if (rc == -EAGAIN) {
        walk->varies = true;
    }
    return rc < 0 ? rc : child->state == STEP_PASSED;
}

int step_kill(struct step_child *child)
{
    if (child->state == STEP_GONE)
        return 0;
    kill(child->pid, SIGKILL);
    do {
        int rc = reap(child->pid, &child->status);
        if (rc < 0)
            return rc;
    } while (WIFSTOPPED(child->status));
    child->state = STEP_GONE;
    return 0;
}

int step_resume(struct step_child *child)
{
    if (child->state != STEP_STOPPED && child->state != STEP_PASSED)
        return -EINVAL;
    if (child->cpu >= 0)
        sched_setaffinity(child->pid, sizeof(child->cpus), &child->cpus);
    if (ptrace(PTRACE_DETACH, child->pid, NULL, (void *)(intptr_t)child->signal) < 0)
        return -errno;
    child->state = STEP_RUNNING;
    return 0;
}

int step_wait(struct step_child *child, int *status)
{
    struct pollfd end = {.events = POLLIN};
    int rc;

    if (child->state != STEP_RUNNING)
        return -EINVAL;
    end.fd = (int)syscall(SYS_pidfd_open, child->pid, 0);
    if (end.fd >= 0) {
        do
            rc = poll(&end, 1, (int)(STEP_HANG_NS / 1000000));
        while (rc < 0 && errno == EINTR);
        close(end.fd);
        if (rc == 0) {
            step_kill(child);
            return -ETIMEDOUT;
        }
    }
    rc = reap(child->pid, &child->status);
    if (rc < 0)
        return rc;
    child->state = STEP_GONE;
    *status = child->status;
    return 0;
}

int step_to_end(struct step_child *child)
{
    int status = 0;
    int rc = step_resume(child);

    if (rc == 0)
        rc = step_wait(child, &status);
    return rc < 0 ? rc : status;
}

/* Probed by a child that asks to be traced; a sandbox may forbid it. */
bool step_available(void)
{
    int status = -1;
    pid_t pid = SUPPORTED ? fork() : -1;

    if (pid == 0)
        _exit(ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0);
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

void step_require(void)
{
    if (step_available())
        return;
    printf("skipped: no single-stepping here\n");
    exit(77);
}
