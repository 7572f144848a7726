/* The processes of the demo, as the supervisor sees them. */
#include "tools/geb/demo.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define POLL_NS     2000000u
#define PATIENCE_NS UINT64_C(10000000000)

const char *demo_child_name(int child)
{
    return child == DEMO_CONSUMER ? "the consumer" : demo_source_name[child];
}

/* Does not return. A terminal sends its signals to the children as well: only the supervisor acts
 * on them. */
static void child_main(struct demo_run *run, int child, pid_t supervisor)
{
    /* The consumer outlives a killed supervisor for as long as it takes to remove the bus. */
    prctl(PR_SET_PDEATHSIG, child == DEMO_CONSUMER ? SIGTERM : SIGKILL);
    if (getppid() != supervisor)
        _exit(1);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGQUIT, SIG_IGN);
    sigset_t mask = run->signals_before;
    if (child == DEMO_CONSUMER) /* until it can end in good order: somebody has to know the bus */
        sigaddset(&mask, SIGTERM);
    sigprocmask(SIG_SETMASK, &mask, NULL);
    if (child == DEMO_CONSUMER)
        _exit(demo_consumer_main(run->bus, run->shared, supervisor));
    _exit(demo_producer_main(run->bus, (enum demo_source)child, run->shared));
}

int demo_child_start(struct demo_run *run, int child)
{
    pid_t supervisor = getpid();
    pid_t pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0)
        child_main(run, child, supervisor);
    run->child[child] = (struct demo_child){.pid = pid, .running = true};
    return 0;
}

static void end_note(struct demo_run *run, int child, int status)
{
    struct demo_child *c = &run->child[child];
    c->running = false;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return;
    if (c->expendable && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        return;
    run->failed = true;
    if (WIFSIGNALED(status))
        fprintf(stderr, "geb demo: %s (process %d) ended by signal %d (%s)\n",
                demo_child_name(child), (int)c->pid, WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        fprintf(stderr, "geb demo: %s (process %d) failed\n", demo_child_name(child), (int)c->pid);
}

static void children_reap(struct demo_run *run)
{
    for (int i = 0; i < DEMO_CHILD_CNT; i++) {
        int status;
        if (run->child[i].running && waitpid(run->child[i].pid, &status, WNOHANG) > 0)
            end_note(run, i, status);
    }
}

bool demo_wait(struct demo_run *run, uint64_t until_ns, bool (*done)(const struct demo_run *run))
{
    for (;;) {
        children_reap(run);
        if (run->failed || run->interrupted)
            return false;
        if (done != NULL && done(run))
            return true;
        uint64_t now = geb_now();
        if (now >= until_ns)
            return done == NULL;
        uint64_t left = until_ns - now;
        if (done != NULL && left > POLL_NS)
            left = POLL_NS;
        struct timespec timeout = {.tv_sec = (time_t)(left / 1000000000u),
                                   .tv_nsec = (long)(left % 1000000000u)};
        int sig = sigtimedwait(&run->signals, NULL, &timeout);
        if (sig > 0 && sig != SIGCHLD)
            run->interrupted = true;
    }
}

void demo_child_stop(struct demo_run *run, int child)
{
    int status;
    kill(run->child[child].pid, SIGSTOP);
    pid_t got;
    do
        got = waitpid(run->child[child].pid, &status, WUNTRACED);
    while (got < 0 && errno == EINTR);
    if (got > 0 && !WIFSTOPPED(status))
        end_note(run, child, status);
}

static bool child_await(struct demo_run *run, int child, uint64_t until_ns)
{
    struct demo_child *c = &run->child[child];
    struct timespec moment = {.tv_nsec = POLL_NS};
    while (c->running) {
        if (waitpid(c->pid, NULL, WNOHANG) != 0)
            c->running = false;
        else if (geb_now() >= until_ns)
            return false;
        else
            nanosleep(&moment, NULL);
    }
    return true;
}

void demo_children_end(struct demo_run *run)
{
    uint64_t until_ns = geb_now() + PATIENCE_NS;
    for (int i = 0; i < DEMO_CHILD_CNT; i++) {
        if (run->child[i].running)
            kill(run->child[i].pid, i == DEMO_CONSUMER ? SIGTERM : SIGKILL);
    }
    for (int i = 0; i < DEMO_CHILD_CNT; i++) {
        if (!child_await(run, i, until_ns)) {
            kill(run->child[i].pid, SIGKILL);
            child_await(run, i, UINT64_MAX);
        }
    }
}
