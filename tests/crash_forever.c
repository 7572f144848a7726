/* Goal: a producer that is stopped for ever pins what it holds, and nothing else: whoever dies
 * meanwhile, and wherever, leaves nothing behind.
 *
 * Method: a child is stopped at each instruction of a publish, in line or from a block. Beside it
 * producers come and are killed, each at the next instruction of a publish of its own, some at each
 * point and some hundreds at each of a sample of points; another producer and the consumer go on,
 * and the consumer sweeps. Then, with the child still stopped:
 *   cells   one at most is quarantined, and only if the child has said that it claimed that one
 *   slots   those of the dead are free
 *   chunks  each is in the pool, the other producer's, or the child's; in use are the child's
 *           blocks only
 * The child goes on in the end, and its event is handled once. What the dead had committed was
 * handled once too, the rest never; the account closes. The numbers are printed. */
#include "tests/crash_support.h"

#include <errno.h>

STEP_CLOCK_GETTIME

#define DEATHS_FEW  8u
#define DEATHS_MANY 300u
#define MANY_EVERY  16u /* points */
#define DEAD_SLOT   3u

static struct step_walk way; /* of those who die */
static size_t next_death;    /* at which instruction of it */
static uint32_t deaths;
static uint32_t deaths_blind; /* that had claimed and not yet said so */
static uint32_t most_quarantined;

/* Both the victim and those who die own a chunk already. */
static int prepare(void *user)
{
    struct crash_world *w = user;
    return crash_prepare_sender(w, &w->victim, CRASH_VICTIM, 1, w->kind);
}

/* ---- those who die --------------------------------------------------------------------------- */

static int dying_prepare(void *user)
{
    struct crash_world *w = user;
    return crash_prepare_sender(w, &w->next, CRASH_LATE, 1, w->kind);
}

static int dying_region(void *user)
{
    struct crash_world *w = user;
    return crash_publish_now(&w->next, w->kind);
}

static struct step_scenario dying = {
    .name = "death", .prepare = dying_prepare, .region = dying_region};

/* Notes whether the last call of the dead was accepted. */
static int settle_dead(struct crash_world *w)
{
    uint64_t accepted[4];
    CRASH_TRY(crash_account(w, NULL, accepted));
    uint64_t more = accepted[DEAD_SLOT] - w->ledger->accepted[DEAD_SLOT];
    CRASH_CHECK(more <= 1);
    w->ledger->accepted[DEAD_SLOT] += more;
    w->ledger->sent[CRASH_LATE] += (uint32_t)more;
    return 0;
}

static int let_one_die(struct crash_world *w)
{
    struct step_child child;
    CRASH_EQUAL(step_start(&child, &dying), 0);
    uint64_t head = shr_load_acquire(&w->map.hot->head);
    int rc = step_reach(&child, &way, next_death++ % way.count);
    step_kill(&child);
    /* Who met a cell that it could not use went another way, and died there. */
    CRASH_CHECK(rc >= 0 || rc == -EAGAIN);
    way.varies = false;
    uint64_t busy = shr_load_acquire(&w->map.peers[DEAD_SLOT].busy);
    deaths_blind += busy != 0 && (busy & SHR_BUSY_EXACT) == 0 &&
                    shr_load_acquire(&w->map.hot->head) != head;
    deaths++;
    return settle_dead(w);
}

/* ---- what is left ---------------------------------------------------------------------------- */

static int check_cells(const struct crash_world *w)
{
    uint64_t busy = shr_load_acquire(&w->map.peers[w->victim_slot].busy);
    uint32_t cnt = 0;
    for (uint32_t i = 0; i < w->map.geo.cell_cnt; i++) {
        uint64_t state = shr_load_acquire(&w->map.cells[i].state);
        if (shr_state_tag(state) != SHR_TAG_REVOKED)
            continue;
        CRASH_CHECK((busy & SHR_BUSY_EXACT) != 0);
        CRASH_EQUAL(shr_state_pos(state), busy >> 1);
        cnt++;
    }
    if (cnt > most_quarantined)
        most_quarantined = cnt;
    CRASH_CHECK(cnt <= 1);
    return 0;
}

static int check_chunks(const struct crash_world *w)
{
    uint32_t used = 0;
    for (uint32_t i = 0; i < w->map.geo.chunk_cnt; i++) {
        uint64_t word = shr_load_acquire(&w->map.owners[i]);
        uint32_t slot = (uint32_t)(word >> 48);
        CRASH_CHECK(word == 0 || slot == 1 || slot == w->victim_slot);
        for (uint32_t block = 0; block < SHR_CHUNK_BLOCKS; block++) {
            uint32_t state = (uint32_t)shr_load_relaxed(&w->map.chunks[i].block[block]);
            CRASH_CHECK(state == SHR_BLOCK_FREE || slot == w->victim_slot);
            used += state != SHR_BLOCK_FREE;
        }
    }
    CRASH_CHECK(used <= 1);
    return 0;
}

static int check_pinned(struct crash_world *w)
{
    /* Claims that nobody waited for are revoked, returned by the sweep, cleared a lap later. */
    for (int laps = 0; laps < 2; laps++) {
        CRASH_TRY(crash_go_on(w, &w->other, w->kind, crash_laps(w, 1)));
        crash_sweep(w);
    }
    CRASH_EQUAL(shr_load32_acquire(&w->map.peers[DEAD_SLOT].state), SHR_PEER_FREE);
    CRASH_TRY(check_cells(w));
    return check_chunks(w);
}

static int check(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    uint64_t missing;
    bool many = k % MANY_EVERY == 0 && !crash_quick();
    for (uint32_t i = 0; i < (many ? DEATHS_MANY : DEATHS_FEW); i++) {
        CRASH_TRY(let_one_die(w));
        /* Some are swept before anybody waits for them, and some after. */
        if (i % 3 == 0)
            CRASH_TRY(crash_send_and_poll(w, &w->other, w->kind));
        crash_sweep(w);
        if (i % 2 == 0)
            CRASH_TRY(crash_send_and_poll(w, &w->other, CRASH_INLINE));
    }
    CRASH_TRY(check_pinned(w));
    CRASH_EQUAL(step_to_end(child), 0);
    CRASH_TRY(crash_settle(w, w->kind, NULL));
    CRASH_TRY(crash_drain(w));
    CRASH_EQUAL(w->ledger->sent[CRASH_VICTIM], 2);
    CRASH_EQUAL(w->ledger->ended[CRASH_VICTIM][2], 1);
    crash_sweep(w);
    CRASH_TRY(crash_go_on(w, &w->other, w->kind, crash_laps(w, 2)));
    CRASH_TRY(crash_end(w, &missing));
    CRASH_EQUAL(missing, 0);
    return 0;
}

/* Learns the way of those who will die. */
static int learn(struct crash_world *w)
{
    dying.user = w;
    CRASH_EQUAL(crash_create(w), 0);
    CRASH_EQUAL(step_walk(&dying, &way), 0);
    CRASH_CHECK(!way.varies);
    crash_sweep(w);
    CRASH_EQUAL(crash_destroy(w), 0);
    return 0;
}

int main(void)
{
    static struct crash_world w = {
        .capacity = 16, .producers = 3, .slab_bytes = 6 * SHR_CHUNK_BYTES};
    struct step_scenario s = {.setup = crash_setup,
                              .prepare = prepare,
                              .region = crash_victim_publishes,
                              .finish = crash_victim_leaves,
                              .teardown = crash_teardown,
                              .user = &w};
    const enum crash_kind kinds[] = {CRASH_INLINE, CRASH_SLAB};
    crash_begin();
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        for (int policy = 0; policy < 3; policy++) {
            w.kind = kinds[i];
            w.policy = (enum geb_policy)policy;
            if (learn(&w) != 0)
                return 1;
            deaths = deaths_blind = most_quarantined = 0;
            crash_run(&s, STEP_STOP, check, "stopped for ever in publish %s, %s",
                      crash_kind_text[w.kind], support_policy_text[policy]);
            printf("    %u others died, %u of them with a claim that nobody knows; at most %u "
                   "cells were quarantined then\n",
                   deaths, deaths_blind, most_quarantined);
            step_walk_free(&way);
        }
    }
    return crash_report("crash_forever");
}
