/* The shared mappings of a stepped child, taken from it and lent for a step: step_watch.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "step_watch.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

#if defined(__x86_64__) && defined(__LP64__)

/* The one system call instruction that the tracer sends the child to. */
extern const char step_watch_syscall[];
__asm__(".pushsection .text\n"
        ".globl step_watch_syscall\n"
        ".hidden step_watch_syscall\n"
        "step_watch_syscall:\n"
        "    syscall\n"
        "    int3\n"
        ".popsection\n");

/* mprotect in the child, which then stands where it stood, with all its registers. */
static int protect(const struct step_child *child, const struct step_watch_range *r, int protection)
{
    struct user_regs_struct old, regs;
    int status;
    if (ptrace(PTRACE_GETREGS, child->pid, NULL, &old) < 0)
        return -errno;
    regs = old;
    regs.rax = SYS_mprotect;
    regs.rdi = r->start;
    regs.rsi = r->end - r->start;
    regs.rdx = (unsigned)protection;
    regs.rip = (uintptr_t)step_watch_syscall;
    regs.orig_rax = (uint64_t)-1; /* no system call to begin again */
    if (ptrace(PTRACE_SETREGS, child->pid, NULL, &regs) < 0 ||
        ptrace(PTRACE_SINGLESTEP, child->pid, NULL, NULL) < 0 ||
        waitpid(child->pid, &status, 0) < 0)
        return -errno;
    if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP)
        return -EINTR;
    if (ptrace(PTRACE_GETREGS, child->pid, NULL, &regs) < 0 ||
        ptrace(PTRACE_SETREGS, child->pid, NULL, &old) < 0)
        return -errno;
    return (int)(int64_t)regs.rax;
}

#else

static int protect(const struct step_child *child, const struct step_watch_range *r, int protection)
{
    (void)child;
    (void)r;
    (void)protection;
    return -ENOSYS;
}

#endif

static int open_range(const struct step_child *child, struct step_watch_range *r)
{
    int rc = r->open ? 0 : protect(child, r, r->protection);
    if (rc == 0)
        r->open = true;
    return rc;
}

static int open_all(struct step_child *child)
{
    struct step_watch *watch = child->watch;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < watch->count; i++)
        rc = open_range(child, &watch->range[i]);
    return rc;
}

/* All that are open, taken. */
static int take_all(struct step_child *child)
{
    struct step_watch *watch = child->watch;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < watch->count; i++) {
        struct step_watch_range *r = &watch->range[i];
        if (r->open)
            rc = protect(child, r, PROT_NONE);
        r->open = r->open && rc != 0;
    }
    return rc;
}

/* The mappings as they are now; the child has all of them. */
static int read_ranges(struct step_child *child)
{
    struct step_watch *watch = child->watch;
    char path[32], line[512], perms[5];
    uint64_t start, end;
    int rc = 0;
    snprintf(path, sizeof(path), "/proc/%d/maps", child->pid);
    FILE *maps = fopen(path, "re");
    if (maps == NULL)
        return -errno;
    watch->count = 0;
    while (rc == 0 && fgets(line, sizeof(line), maps) != NULL) {
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &start, &end, perms) != 3)
            rc = -EBADMSG;
        else if (perms[3] != 's' || (perms[0] != 'r' && perms[1] != 'w'))
            continue;
        else if (watch->count == STEP_WATCH_RANGES)
            rc = -ENOSPC;
        else
            watch->range[watch->count++] = (struct step_watch_range){
                .start = start,
                .end = end,
                .protection = (perms[0] == 'r' ? PROT_READ : 0) |
                              (perms[1] == 'w' ? PROT_WRITE : 0) |
                              (perms[2] == 'x' ? PROT_EXEC : 0),
                .open = true,
            };
    }
    fclose(maps);
    return rc;
}

int step_watch_before(struct step_child *child, bool is_syscall)
{
    struct step_watch *watch = child->watch;
    bool stale = watch->count == 0 || watch->after_syscall;
    int rc = 0;
    watch->touched = is_syscall;
    watch->after_syscall = is_syscall;
    if (stale)
        rc = read_ranges(child);
    if (rc == 0)
        rc = is_syscall ? open_all(child) : take_all(child);
    return rc;
}

int step_watch_fault(struct step_child *child)
{
    struct step_watch *watch = child->watch;
    siginfo_t info;
    if (ptrace(PTRACE_GETSIGINFO, child->pid, NULL, &info) < 0)
        return -errno;
    uint64_t address = (uintptr_t)info.si_addr;
    for (size_t i = 0; i < watch->count; i++) {
        struct step_watch_range *r = &watch->range[i];
        if (address >= r->start && address < r->end && !r->open) {
            watch->touched = true;
            return open_range(child, r);
        }
    }
    return -EFAULT;
}

int step_watch_end(struct step_child *child)
{
    int rc = open_all(child);
    child->watch = NULL;
    return rc;
}
