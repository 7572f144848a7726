/* Goal: whoever looks after the dead may be killed at any instruction of it, whatever the dead
 * left: the next one ends in the same state.
 *
 * Method. First the states: a victim is stepped through a publish (in line, block, batch, run of
 * chunks), a drop or a leave, and each state of the segment that differs from the others in what a
 * recovery is about (crash_digest) is kept: at each of these instructions a kill would leave it. To
 * those in which a cell is claimed and not committed come two that others make of it: the cell is
 * revoked, and laps have passed it.
 *
 * Then, from each state, a recovery is stepped to its end:
 *   consumer   its sweep: slots, quarantined cells, orphaned chunks
 *   joiner     of the slot: sweeps and enters it
 *   reclaimer  a producer that found no block: sweeps slots and chunks, and recalls
 * At each instruction where something in the segment differs, what a kill there would leave is
 * copied (a kill leaves the segment and nothing else), and a second recovery is made over the copy:
 * the consumer's sweep, every other time behind new owners of all slots. Its end must be the same
 * as behind the recovery that was not killed: before what waits is taken, and after. And the
 * account closes, all that was accepted is handled once, nothing is left in the segment. */
#include "tests/crash_support.h"

#include <stdlib.h>
#include <string.h>

STEP_CLOCK_GETTIME

#define STATES_MAX 128u
#define KILLS_MAX  256u

enum recovery { BY_CONSUMER, BY_JOINER, BY_RECLAIMER, RECOVERIES };
static const char *const recovery_text[] = {"consumer", "joiner", "reclaimer"};

/* What the victim does. */
struct operation {
    const char *text;
    enum crash_kind kind;
    bool drops;
    bool leaves;
};
static const struct operation operations[] = {
    {"publish in line", CRASH_INLINE, false, false}, {"publish block", CRASH_SLAB, false, false},
    {"publish batch", CRASH_BATCH3, false, false},   {"publish run", CRASH_LONG, false, false},
    {"drop block", CRASH_SLAB, true, false},         {"leave with block", CRASH_SLAB, false, true},
};

static const struct operation *operation;
static enum recovery recovery;
static struct crash_image state[STATES_MAX];
static uint32_t state_cnt;
static struct crash_digest known[STATES_MAX];
static struct crash_image left[KILLS_MAX];
static uint32_t left_cnt;
static struct shr_map writable; /* the test's own */
static unsigned char *payloads; /* as the victim left them; they belong to each of its states */
static size_t instructions, kills, failed, total, total_failed;

static size_t payload_bytes(const struct crash_world *w)
{
    return (size_t)w->map.geo.chunk_cnt * SHR_CHUNK_BYTES;
}

static void restore(const struct crash_image *image, struct crash_world *w)
{
    crash_image_restore(image, w, &writable);
    memcpy(writable.slabs, payloads, payload_bytes(w));
}

/* ---- the victim ------------------------------------------------------------------------------ */

/* Events that wait, so that chunks of the dead must wait too. */
static int publish_before(struct crash_world *w, struct crash_sender *s)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < (operation->drops ? w->map.geo.capacity : 1); i++)
        rc = crash_send(w, s, CRASH_SLAB);
    return rc;
}

static int setup(struct crash_world *w)
{
    int rc = crash_create(w);
    if (rc == 0 && !w->exclusive)
        rc = publish_before(w, &w->other);
    if (rc == 0)
        rc = crash_close(w);
    return rc == 0 ? shr_segment_attach(&writable, w->map.path, true) : rc;
}

static int victim_prepare(void *user)
{
    struct crash_world *w = user;
    struct crash_sender *s = &w->victim;
    int rc = crash_join(w, s, CRASH_VICTIM);
    if (rc == 0 && w->exclusive)
        rc = publish_before(w, s);
    if (rc == 0 && operation->leaves)
        rc = crash_send(w, s, w->kind);
    crash_compose(w, s, w->kind);
    step_clock_steady();
    return rc;
}

static int victim_region(void *user)
{
    struct crash_world *w = user;
    return operation->leaves ? geb_leave(w->victim.p) : crash_publish_now(&w->victim, w->kind);
}

/* Keeps the state if it is a new one. */
static int keep_state(struct crash_world *w, size_t k)
{
    struct crash_digest *d = &known[state_cnt];
    CRASH_CHECK(state_cnt + 1 < STATES_MAX);
    CRASH_TRY(crash_digest(d, &w->map));
    for (uint32_t i = 0; i < state_cnt; i++) {
        if (crash_digest_same(d, &known[i]))
            return 0;
    }
    crash_image_save(&state[state_cnt++], w, k);
    return 0;
}

static int collect_states(struct crash_world *w)
{
    struct step_scenario s = {
        .name = "victim", .prepare = victim_prepare, .region = victim_region, .user = w};
    struct step_child child;
    int rc = step_start(&child, &s);
    CRASH_EQUAL(rc, 0);
    CRASH_EQUAL(crash_leave(&w->other), 0);
    for (size_t k = 0; rc == 0; k++) {
        if (!crash_same(w))
            CRASH_TRY(keep_state(w, k));
        rc = step_reach(&child, NULL, k + 1);
    }
    CRASH_EQUAL(rc, 1);
    step_kill(&child);
    payloads = realloc(payloads, payload_bytes(w));
    if (payloads == NULL)
        abort();
    memcpy(payloads, w->map.slabs, payload_bytes(w));
    return keep_state(w, child.k);
}

/* Others publish one event, or laps, beside the dead one, whose slot nobody sweeps. */
static int collect_revoked(struct crash_world *w, uint32_t events)
{
    uint32_t cnt = state_cnt;
    for (uint32_t i = 0; i < cnt; i++) {
        restore(&state[i], w);
        uint64_t busy = shr_load_relaxed(&w->map.peers[w->victim_slot].busy);
        uint64_t pos = shr_load_relaxed(&w->map.hot->head) - 1;
        const shr_a64 *cell = &w->map.cells[shr_cell_index(pos, w->map.geo.cell_cnt)].state;
        if (w->exclusive || busy >> 1 != pos || shr_load_relaxed(cell) >> SHR_STATE_SHIFT == pos)
            continue;
        CRASH_EQUAL(crash_open(w), 0);
        CRASH_EQUAL(crash_join(w, &w->other, CRASH_OTHER), 0);
        CRASH_CHECK(w->other.p->slot != w->victim_slot);
        for (uint32_t n = 0; n < events; n++)
            CRASH_TRY(crash_send_and_poll(w, &w->other, CRASH_INLINE));
        CRASH_EQUAL(crash_leave(&w->other), 0);
        CRASH_EQUAL(crash_close(w), 0);
        CRASH_EQUAL(shr_state_tag(shr_load_relaxed(cell)), SHR_TAG_REVOKED);
        CRASH_TRY(keep_state(w, state[i].k));
    }
    return 0;
}

/* ---- the recovery that is killed ------------------------------------------------------------- */

static struct shr_map child_map;
static struct shr_lock child_lock;
static struct shr_ring child_ring;

static int recovery_prepare(void *user)
{
    struct crash_world *w = user;
    int rc;
    switch (recovery) {
    case BY_CONSUMER:
        rc = crash_open(w);
        break;
    case BY_JOINER:
        rc = shr_segment_attach(&child_map, writable.path, true);
        shr_ring_init(&child_ring, &child_map);
        if (rc == 0)
            rc = shr_lock_take(&child_map, w->victim_slot, &child_lock);
        break;
    default:
        rc = crash_join(w, &w->victim, CRASH_VICTIM);
    }
    step_clock_steady();
    return rc;
}

static int recovery_region(void *user)
{
    struct crash_world *w = user;
    switch (recovery) {
    case BY_CONSUMER:
        crash_sweep(w);
        return 0;
    case BY_JOINER:
        if (shr_sweep_slot(&child_map, &child_ring, w->victim_slot))
            shr_peer_enter(&child_map, w->victim_slot, "joiner");
        return 0;
    default:
        shr_slab_reclaim(&w->victim.p->heap, false);
        return 0;
    }
}

/* All that a kill of it may leave; the last one is of a kill behind its end. */
static int collect_left(struct crash_world *w)
{
    struct step_scenario s = {
        .name = "recovery", .prepare = recovery_prepare, .region = recovery_region, .user = w};
    struct step_child child;
    int rc = step_start(&child, &s);
    left_cnt = 0;
    for (size_t k = 0; rc == 0; k++) {
        CRASH_CHECK(left_cnt + 1 < KILLS_MAX);
        if (!crash_same(w))
            crash_image_save(&left[left_cnt++], w, k);
        rc = step_reach(&child, NULL, k + 1);
    }
    CRASH_EQUAL(rc, 1);
    step_kill(&child);
    instructions += child.k;
    crash_image_save(&left[left_cnt++], w, child.k);
    return 0;
}

/* ---- the second one -------------------------------------------------------------------------- */

static int all_slots_again(struct crash_world *w)
{
    CRASH_EQUAL(crash_join(w, &w->next, CRASH_SUCCESSOR), 0);
    if (!w->exclusive)
        CRASH_EQUAL(crash_join(w, &w->other, CRASH_OTHER), 0);
    CRASH_EQUAL(crash_leave(&w->other), 0);
    CRASH_EQUAL(crash_leave(&w->next), 0);
    return 0;
}

static int recover(struct crash_world *w, bool joined_first, struct crash_digest end[2])
{
    uint64_t missing;
    CRASH_TRY(crash_settle(w, w->kind, NULL));
    if (joined_first)
        CRASH_TRY(all_slots_again(w));
    CRASH_EQUAL(crash_open(w), 0);
    crash_sweep(w);
    CRASH_TRY(crash_digest(&end[0], &w->map));
    CRASH_TRY(crash_drain(w));
    crash_sweep(w);
    CRASH_TRY(crash_digest(&end[1], &w->map));
    CRASH_EQUAL(crash_join(w, &w->next, CRASH_SUCCESSOR), 0);
    /* A claim that nobody waited for is revoked only now, and then the memory of its producer is
     * due; its cell is returned by a sweep, and cleared a lap later. */
    for (int laps = 0; laps < 2; laps++) {
        CRASH_TRY(crash_go_on(w, &w->next, CRASH_SLAB, crash_laps(w, 1)));
        crash_sweep(w);
    }
    CRASH_TRY(crash_end(w, &missing));
    CRASH_CHECK(operation->drops || missing == 0);
    return 0;
}

/* From one state. The recovery that was not killed says what the end is. */
static int check_state(struct crash_world *w, uint32_t i)
{
    static struct crash_digest want[2], got[2];
    restore(&state[i], w);
    CRASH_TRY(collect_left(w));
    for (uint32_t n = left_cnt; n-- > 0;) {
        bool is_whole = n + 1 == left_cnt;
        restore(&left[n], w);
        int rc = recover(w, n % 2 != 0, is_whole ? want : got);
        CRASH_EQUAL(crash_leave(&w->next) | crash_leave(&w->other) | crash_close(w), 0);
        kills++;
        for (int part = 0; part < 2 && rc == 0 && !is_whole; part++) {
            if (!crash_digest_same(&want[part], &got[part])) {
                crash_digest_explain(&want[part], &got[part]);
                rc = 1;
            }
        }
        if (rc == 0)
            continue;
        failed++;
        printf("%s: state of point %zu, recovery by %s killed at %zu of %zu: the check said %d\n",
               operation->text, state[i].k, recovery_text[recovery], left[n].k,
               left[left_cnt - 1].k, rc);
        if (is_whole)
            return 0;
    }
    return 0;
}

static int run_states(struct crash_world *w)
{
    static uint32_t turn;
    size_t every = support_every(20);
    for (int by = 0; by < RECOVERIES; by++) {
        uint32_t states = 0;
        instructions = kills = failed = 0;
        recovery = (enum recovery)by;
        for (uint32_t i = turn++ % (uint32_t)every; i < state_cnt; i += (uint32_t)every) {
            CRASH_TRY(check_state(w, i));
            states++;
        }
        printf("recovery by %s of %s, %s: %zu instructions, %zu failed (from %u of %u states; "
               "%zu second recoveries)\n",
               recovery_text[by], operation->text, crash_bus_text(w), instructions, failed, states,
               state_cnt, kills);
        total += instructions;
        total_failed += failed;
    }
    return 0;
}

static int run(struct crash_world *w)
{
    state_cnt = 0;
    w->kind = operation->kind;
    CRASH_EQUAL(setup(w), 0);
    CRASH_TRY(collect_states(w));
    CRASH_TRY(collect_revoked(w, 1));
    CRASH_TRY(collect_revoked(w, crash_laps(w, 2)));
    CRASH_TRY(run_states(w));
    for (uint32_t i = 0; i < state_cnt; i++)
        crash_image_free(&state[i]);
    shr_segment_detach(&writable);
    CRASH_EQUAL(crash_destroy(w), 0);
    return 0;
}

int main(void)
{
    static struct crash_world w = {.slab_bytes = 3 * SHR_CHUNK_BYTES};
    crash_begin();
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
        operation = &operations[i];
        for (uint32_t bus = 0; bus < CRASH_BUSES; bus++) {
            crash_choose_bus(&w, bus);
            if (operation->drops && w.policy != GEB_DROP_OLDEST)
                continue;
            if (run(&w) != 0)
                return 1;
        }
    }
    printf("crash_recover: %zu instructions, %zu failed\n", total, total_failed);
    return total_failed != 0 || crash_leftovers != 0;
}
