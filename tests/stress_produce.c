/* What an event of the stress tests is, and the processes that publish them. */
#include "tests/stress_run.h"

#include "tests/support.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

struct run run;

/* ---- events as functions of (producer, serial) ----------------------------------------------- */

uint64_t stress_hash(uint32_t producer, uint64_t serial, uint32_t salt)
{
    uint64_t x = support_seed() + serial * UINT64_C(0x9e3779b97f4a7c15) +
                 ((uint64_t)producer << 8 | salt) * UINT64_C(0xd1b54a32d192ed03);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* Each eight bytes differ from all others of the stream, so a torn or shifted payload shows. */
void stress_fill(unsigned char *to, size_t bytes, uint32_t producer, uint64_t serial)
{
    uint64_t word = stress_hash(producer, serial, 0);
    for (size_t at = 0; at < bytes; at += 8, word += UINT64_C(0x9e3779b97f4a7c15))
        memcpy(to + at, &word, bytes - at < 8 ? bytes - at : 8);
}

bool stress_same(const unsigned char *data, size_t bytes, uint32_t producer, uint64_t serial)
{
    uint64_t word = stress_hash(producer, serial, 0);
    for (size_t at = 0; at < bytes; at += 8, word += UINT64_C(0x9e3779b97f4a7c15)) {
        if (memcmp(data + at, &word, bytes - at < 8 ? bytes - at : 8) != 0)
            return false;
    }
    return true;
}

bool stress_whole(const unsigned char *data, size_t bytes, uint32_t producer, uint64_t serial,
                  bool named)
{
    uint64_t head[2] = {producer, serial};
    if (!named)
        return stress_same(data, bytes, producer, serial);
    unsigned char whole[STRESS_BYTES];
    if (bytes < sizeof(head) || bytes > sizeof(whole) || memcmp(data, head, sizeof(head)) != 0)
        return false;
    stress_fill(whole, bytes, producer, serial);
    return memcmp(data + sizeof(head), whole + sizeof(head), bytes - sizeof(head)) == 0;
}

uint64_t stress_events(uint64_t quick)
{
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    quick /= 8;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
    quick /= 8;
#endif
#endif
    return support_depth() == SUPPORT_LONG ? quick * 20 : quick;
}

void stress_pin(uint32_t nth)
{
    static cpu_set_t all; /* as the test found it: a child inherits what its parent has chosen */
    static bool known;
    cpu_set_t one;
    if (!known && sched_getaffinity(0, sizeof(all), &all) != 0)
        return;
    if (!known)
        known = true; /* once: threads only read it */
    uint32_t left = nth % (uint32_t)CPU_COUNT(&all);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all) || left-- != 0)
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        sched_setaffinity(0, sizeof(one), &one);
        return;
    }
}

/* ---- producers ------------------------------------------------------------------------------- */

static uint32_t plan_bytes(const struct stress_case *c, uint32_t id, uint64_t serial)
{
    uint64_t r = stress_hash(id, serial, 1);
    uint32_t least = c->kill_every != 0 ? 16 : 0; /* producer and serial travel in the payload */
    uint32_t most = c->mixed && r % 2 ? STRESS_BYTES : 32;
    return least + (uint32_t)(r >> 8) % (most - least + 1);
}

struct plan stress_plan(const struct stress_case *c, uint32_t id, uint64_t serial)
{
    struct plan plan = {.cnt = 1};
    uint64_t r = stress_hash(id, serial, 2);
    if (c->mixed && r % 8 == 0)
        plan.cnt = 1 + (uint32_t)(r >> 8) % STRESS_BATCH;
    if (plan.cnt > c->events + 1 - serial)
        plan.cnt = 1;
    for (uint32_t i = 0; i < plan.cnt; i++)
        plan.bytes[i] = plan_bytes(c, id, serial + i) / (plan.cnt > 1 ? 2 : 1);
    for (uint32_t i = 0; c->kill_every != 0 && i < plan.cnt; i++)
        plan.bytes[i] = plan.bytes[i] < 16 ? 16 : plan.bytes[i];
    plan.options = r % 8 == 1;
    if (c->fates && plan.cnt == 1 && (r % 32 == 3 || r % 32 == 4))
        plan.fate = r % 32 == 3 ? PLAN_EXPIRED : PLAN_UNWANTED;
    if ((plan.options || plan.fate == PLAN_EXPIRED) && plan.bytes[0] > 24)
        plan.bytes[0] -= 8; /* an id takes room in the cell */
    plan.loan = c->mixed && r % 8 == 2 && plan.bytes[0] != 0;
    return plan;
}

static void fill(unsigned char *to, uint32_t bytes, uint32_t id, uint64_t serial)
{
    stress_fill(to, bytes, id, serial);
    if (run.c->kill_every != 0) {
        uint64_t head[2] = {id, serial};
        memcpy(to, head, sizeof(head));
    }
}

static int publish_loan(struct geb_producer *me, uint32_t id, uint64_t serial, uint32_t bytes)
{
    struct geb_loan loan, unused;
    bool two = serial % 4 == 0; /* one of them is given back */
    int rc = two ? geb_loan(me, bytes, &unused) : 0;
    if (rc == 0)
        rc = geb_loan(me, bytes + serial % 64, &loan); /* more than is needed */
    if (two && rc == 0)
        memset(unused.data, 0xee, unused.len);
    if (two && unused.handle != 0)
        SUPPORT_CHECK(geb_return(me, &unused) == 0);
    if (rc < 0)
        return rc;
    fill(loan.data, bytes, id, serial);
    loan.len = bytes;
    rc = geb_commit(me, &loan, run.topic);
    if (rc < 0)
        SUPPORT_CHECK(geb_return(me, &loan) == 0);
    return rc;
}

static int publish_plan(struct geb_producer *me, uint32_t id, uint64_t serial,
                        const struct plan *plan)
{
    static _Thread_local unsigned char buffer[STRESS_BATCH][STRESS_BYTES];
    struct geb_message message[STRESS_BATCH];
    if (plan->loan)
        return publish_loan(me, id, serial, plan->bytes[0]);
    for (uint32_t i = 0; i < plan->cnt; i++) {
        fill(buffer[i], plan->bytes[i], id, serial + i);
        message[i] = (struct geb_message){
            .topic = run.topic, .len = plan->bytes[i], .data = buffer[i], .key = serial + i};
    }
    struct geb_options options = GEB_OPTIONS_INIT;
    if (plan->cnt > 1)
        return geb_publish_batch(me, message, plan->cnt, NULL);
    if (plan->fate == PLAN_EXPIRED) {
        options.deadline_ns = 1;
        return geb_publish_with(me, run.topic, buffer[0], plan->bytes[0], &options);
    }
    if (!plan->options)
        return geb_publish(me, plan->fate == PLAN_UNWANTED ? run.unwanted : run.topic, buffer[0],
                           plan->bytes[0]);
    options.id = serial;
    options.key = ~serial;
    return geb_publish_with(me, run.topic, buffer[0], plan->bytes[0], &options);
}

void stress_publish(struct geb_producer *me, uint32_t id, uint64_t serial, const struct plan *plan)
{
    struct ledger *ledger = &run.board->ledger[id];
    uint32_t stint = shr_load32_relaxed(&ledger->stints);
    while (serial + plan->cnt > shr_load_acquire(&ledger->checked) + run.mask)
        sched_yield();
    uint64_t begin_ns = geb_now();
    for (uint32_t i = 0; i < plan->cnt; i++)
        history_note_begin(&ledger->notes[(serial + i) & run.mask], plan->bytes[i],
                           i << 16 | plan->cnt, stint, plan->fate != PLAN_HEARD, begin_ns);
    shr_store_release(&ledger->begun, serial + plan->cnt - 1);
    for (int rc; (rc = publish_plan(me, id, serial, plan)) != 0;) {
        SUPPORT_CHECK(rc == -EAGAIN || rc == -ENOBUFS || (rc == -EPIPE && run.c->fates));
        SUPPORT_CHECK(rc != -EAGAIN || run.c->policy == GEB_RETURN_ERROR);
        SUPPORT_CHECK(rc != -ENOBUFS || run.c->policy != GEB_BLOCK);
        shr_store_relaxed(&ledger->refused, shr_load_relaxed(&ledger->refused) + 1);
        sched_yield();
    }
    uint64_t end_ns = geb_now();
    for (uint32_t i = 0; i < plan->cnt; i++)
        shr_store_release(&ledger->notes[(serial + i) & run.mask].end_ns, end_ns);
    shr_store_release(&ledger->done, serial + plan->cnt - 1);
}

/* Now and then somebody else's turn, so that rings are full at times and empty at times. */
void stress_dawdle(uint64_t r)
{
    if (r % 32 == 0)
        sched_yield();
    for (uint64_t i = 0; i < (r % 16 == 1 ? r >> 54 : 0); i++)
        shr_cpu_relax();
}

/* A timer that fires at no instruction in particular. Its handler takes longer than a patience, so
 * a claim that it interrupts is revoked, if somebody waits. */
static void arm(void)
{
    static uint64_t count;
    uint64_t r = stress_hash((uint32_t)getpid(), ++count, 5);
    struct itimerval timer = {.it_value = {.tv_usec = 200 + (suseconds_t)(r % 800)}};
    setitimer(ITIMER_REAL, &timer, NULL);
}

static void hold_up(int signal_number)
{
    (void)signal_number;
    int saved = errno;
    for (uint64_t end_ns = geb_now() + 50000; geb_now() < end_ns;)
        shr_cpu_relax();
    arm();
    errno = saved;
}

void stress_interrupts(bool on)
{
    signal(SIGALRM, on ? hold_up : SIG_IGN);
    if (on)
        arm();
}

int stress_produce(void *arg)
{
    uint32_t id = *(uint32_t *)arg;
    struct ledger *ledger = &run.board->ledger[id];
    struct geb_producer *me;
    stress_pin(id + 1);
    /* The first ones join in order, so that producer n has slot n + 1. */
    while (shr_load_acquire(&run.board->joined) < id)
        sched_yield();
    SUPPORT_CHECK(geb_join(&me, run.name, "stress") == 0);
    SUPPORT_CHECK(geb_topic(me, "stress", &run.topic) == 0);
    if (shr_load_relaxed(&run.board->joined) == id)
        shr_fetch_add_acq_rel(&run.board->joined, 1);
    while (shr_load_acquire(&run.board->joined) < run.c->producers)
        sched_yield();
    if (run.c->interrupts)
        stress_interrupts(true);
    shr_store32_relaxed(&ledger->stints, shr_load32_relaxed(&ledger->stints) + 1);
    for (uint64_t serial = shr_load_relaxed(&ledger->begun) + 1; serial <= run.c->events;) {
        struct plan plan = stress_plan(run.c, id, serial);
        stress_publish(me, id, serial, &plan);
        serial += plan.cnt;
        if (!run.c->flat_out)
            stress_dawdle(stress_hash(id, serial, 4));
    }
    stress_interrupts(false);
    SUPPORT_CHECK(geb_leave(me) == 0);
    shr_store_release(&ledger->finished, 1);
    return 0;
}
