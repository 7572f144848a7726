/* Goal: geb_stop and geb_cancel may come from another thread while the handle ends: whichever of
 * their instructions that thread stands at, the end waits for it, or it touches nothing.
 *
 * Method: a child stands at each instruction of the call in turn. A second thread of it, which
 * nobody traces, then closes the bus or leaves, and comes to one of two facts: it has ended the
 * handle, or it pauses for the visitor (nanosleep is this file's, and counts). Then the visitor
 * goes on to its end, and the child dies of SIGSEGV if its handle was gone. After it the second
 * thread has ended the handle, in either case. */
#include "tests/api_support.h"
#include "tests/step.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <cmocka.h>

struct world {
    char name[64];
    bool cancel; /* geb_cancel and geb_leave; else geb_stop and geb_close */
    struct geb_bus *bus;
    struct geb_producer *producer;
    pthread_t ending;
    struct support_line line;
    shr_a32 ended;   /* 1: well, 2: not so */
    shr_a32 pauses;  /* of who ends the handle */
    unsigned waited; /* points at which it did */
};

static struct world *world; /* shared with the children */

int nanosleep(const struct timespec *time, struct timespec *left)
{
    if (world != NULL)
        shr_fetch_add32_release(&world->pauses, 1);
    return (int)syscall(SYS_nanosleep, time, left);
}

/* Neither of the two facts. */
static bool nothing_yet(struct world *w)
{
    return shr_load32_acquire(&w->ended) == 0 && shr_load32_acquire(&w->pauses) == 0;
}

static int setup(void *user)
{
    struct world *w = user;
    struct geb_config config = api_config(GEB_BLOCK, 4);
    struct geb_bus *bus;
    int rc = geb_create(&bus, support_name(w->name), &config);
    shr_store32_relaxed(&w->ended, 0);
    shr_store32_relaxed(&w->pauses, 0);
    support_line_open(&w->line);
    return rc < 0 ? rc : geb_close(bus, 0);
}

static void *end_handle(void *user)
{
    struct world *w = user;
    support_hear_test(&w->line);
    int rc = w->cancel ? geb_leave(w->producer) : geb_close(w->bus, 0);
    shr_store32_release(&w->ended, rc == 0 ? 1 : 2);
    return NULL;
}

static int prepare(void *user)
{
    struct world *w = user;
    int rc = w->cancel ? geb_join(&w->producer, w->name, "p") : geb_open(&w->bus, w->name);
    if (rc < 0)
        return rc;
    return pthread_create(&w->ending, NULL, end_handle, w) == 0 ? 0 : -EAGAIN;
}

static int region(void *user)
{
    struct world *w = user;
    if (w->cancel)
        geb_cancel(w->producer);
    else
        geb_stop(w->bus);
    return 0;
}

static int finish(void *user)
{
    struct world *w = user;
    if (nothing_yet(w))
        support_tell_child(&w->line); /* the walk, which ends the handle afterwards */
    pthread_join(w->ending, NULL);
    return shr_load32_acquire(&w->ended) == 1 ? 0 : -EBADMSG;
}

static int check(struct step_child *child, size_t k, void *user)
{
    struct world *w = user;
    (void)k;
    support_tell_child(&w->line);
    while (nothing_yet(w))
        sched_yield();
    w->waited += shr_load32_acquire(&w->ended) == 0;
    return step_to_end(child);
}

static void teardown(void *user)
{
    struct world *w = user;
    geb_remove(w->name);
    support_line_close(&w->line);
}

static void visit(bool cancel)
{
    struct step_scenario scenario = {.name = cancel ? "geb_cancel, geb_leave"
                                                    : "geb_stop, geb_close",
                                     .setup = setup,
                                     .prepare = prepare,
                                     .region = region,
                                     .finish = finish,
                                     .teardown = teardown,
                                     .user = world};
    struct step_result result;
    if (!step_available())
        skip();
    world->cancel = cancel;
    world->waited = 0;
    api_watchdog(120);
    assert_int_equal(step_every(&scenario, STEP_STOP, check, &result), 0);
    api_watchdog(0);
    /* Both facts were met: the end came before the visit was counted, and it waited. */
    assert_in_range(world->waited, 1, result.reached - 1);
}

static void stop_beside_close(void **state)
{
    (void)state;
    visit(false);
}

static void cancel_beside_leave(void **state)
{
    (void)state;
    visit(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stop_beside_close),
        cmocka_unit_test(cancel_beside_leave),
    };
    support_begin();
    world = support_shared(sizeof(*world));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
