/* Goal: whoever reads the last event number of a slot, or the account, reads no number that was
 * never given, and none too small of a dead producer, whatever others do meanwhile. A joiner gives
 * the number after it: one too small would be given twice.
 *
 * Method: a child is stopped at each instruction of shr_peer_last_number and shr_account, which
 * read one word after the other of what others write. While it stands still,
 *   hand      the consumer finishes the event that it has in hand, which is the slot's last one,
 *             and takes one of another producer, whose numbers are far ahead
 *   cell      the slot's owner died between the commit of its last event and its count; the
 *             consumer takes and finishes that event, and others use its cell again.
 * Then the child goes on, and what it read is compared with what was sent. */
#include "tests/crash_support.h"

STEP_CLOCK_GETTIME

#define OTHER_SLOT 1u
#define SLOT       2u

enum { IN_HAND, IN_CELL }; /* crash_world.state: where the last event is as the child begins */

/* What the child read; shared with the test. */
struct result {
    uint64_t number;
    uint64_t accepted[4]; /* by slot */
    int rc;
};
static struct result *result;
static struct shr_item item; /* in the hand of the test's consumer */
static struct shr_map map;   /* the child's */

static int setup(void *user)
{
    struct crash_world *w = user;
    int rc = crash_create(w);
    for (uint32_t i = 0; rc == 0 && i < 5 * w->map.geo.cell_cnt; i++)
        rc = crash_send_and_poll(w, &w->other, CRASH_INLINE);
    if (rc == 0)
        rc = crash_join(w, &w->next, CRASH_SUCCESSOR);
    for (uint32_t i = 0; rc == 0 && i < 3; i++)
        rc = crash_send_and_poll(w, &w->next, CRASH_INLINE);
    uint64_t pos = shr_load_relaxed(&w->map.hot->head);
    if (rc == 0)
        rc = crash_send(w, &w->next, CRASH_INLINE);
    if (rc != 0)
        return rc;
    *result = (struct result){0};
    if (w->state == IN_HAND)
        return shr_next(&w->bus->consumer, &item) == 1 ? 0 : -EIO;
    struct shr_peer *dead = &w->bus->map.peers[SLOT];
    shr_store_relaxed(&dead->published, shr_load_relaxed(&dead->published) - 1);
    shr_store_relaxed(&dead->busy, pos << 1 | SHR_BUSY_EXACT);
    return 0;
}

static void teardown(void *user)
{
    struct crash_world *w = user;
    if (w->state == IN_HAND)
        shr_finish(&w->bus->consumer, &item, SHR_COL_DELIVERED);
    else
        shr_store_relaxed(&w->bus->map.peers[SLOT].busy, 0);
    crash_destroy(w);
}

static int prepare(void *user)
{
    struct crash_world *w = user;
    char path[SHR_PATH_BYTES];
    int rc = shr_segment_path(w->name, false, path);
    return rc == 0 ? shr_segment_attach(&map, path, true) : rc;
}

static int region(void *user)
{
    struct shr_account account;
    struct shr_slot_account slots[4];
    (void)user;
    result->number = shr_peer_last_number(&map, SLOT);
    result->rc = shr_account(&map, &account, slots);
    for (uint32_t slot = OTHER_SLOT; slot <= SLOT; slot++)
        result->accepted[slot] = slots[slot].accepted;
    return 0;
}

static int check(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    (void)k;
    if (w->state == IN_HAND) {
        shr_finish(&w->bus->consumer, &item, SHR_COL_DELIVERED);
        CRASH_EQUAL(crash_send(w, &w->other, CRASH_INLINE), 0);
        CRASH_EQUAL(shr_next(&w->bus->consumer, &item), 1);
    } else {
        CRASH_TRY(crash_drain(w));
        for (uint32_t i = 0; i < w->map.geo.cell_cnt; i++)
            CRASH_TRY(crash_send_and_poll(w, &w->other, CRASH_INLINE));
    }
    CRASH_EQUAL(step_to_end(child), 0);
    CRASH_EQUAL(result->rc, 0);
    CRASH_EQUAL(result->number, w->ledger->accepted[SLOT]);
    CRASH_CHECK(result->accepted[SLOT] <= w->ledger->accepted[SLOT]);
    CRASH_CHECK(result->accepted[OTHER_SLOT] <= w->ledger->accepted[OTHER_SLOT]);
    return 0;
}

int main(void)
{
    static struct crash_world w;
    struct step_scenario s = {
        .setup = setup, .prepare = prepare, .region = region, .teardown = teardown, .user = &w};
    const char *const state_text[] = {"hand", "cell"};
    crash_begin();
    result = support_shared(sizeof(*result));
    for (int policy = 0; policy < 3; policy++) {
        w.policy = (enum geb_policy)policy;
        for (w.state = IN_HAND; w.state <= IN_CELL; w.state++) {
            crash_run(&s, STEP_STOP, check, "read the number in the %s, %s", state_text[w.state],
                      support_policy_text[policy]);
        }
    }
    return crash_report("crash_number");
}
