/* Goal: a producer may be killed or stopped at any instruction as it registers a topic: the name
 * has one id for everybody, others wait for it one patience at most, and at most one row of the
 * table is lost.
 *
 * Method: a child is killed, or stopped, at each instruction of geb_topic: of a new name, of one
 * with a schema, of a known one, of a new one behind a row that a dead registrant left undecided.
 * Then the consumer and another producer register the same name, compare ids, and a thousand events
 * (a hundred in the quick form) go over it. Who was stopped goes on then; it gets the same id, and
 * publishes an event on it, which is handled once. No row stays undecided. In the end ledger and
 * segment are compared as in crash_publish.c.
 *
 * Then two at once (step_pair.h): one stands behind each of its changes, the other one at its
 * instructions, with the same name or another one; each of them is killed or goes on. */
#include "tests/crash_support.h"
#include "tests/step_pair.h"

#include <string.h>

STEP_CLOCK_GETTIME

#define NAME      "late"
#define ANOTHER   "another"
#define FIRST_ROW 2u /* behind those of "events" and "nobody" */

enum row { ROW_NEW, ROW_SCHEMA, ROW_KNOWN, ROW_DEAD };
static const char *const row_text[] = {"new", "new with schema", "known", "new, behind a dead one"};

static int setup(void *user)
{
    struct crash_world *w = user;
    int rc = crash_create(w);
    if (rc == 0 && w->state == ROW_KNOWN)
        rc = crash_on(w, NAME);
    if (rc == 0 && w->state == ROW_DEAD) /* WRITING, of slot 1 in an epoch that is over */
        shr_store_relaxed(&w->bus->map.topics[FIRST_ROW].state,
                          UINT64_C(1) << 18 | 1u << 2 | SHR_TOPIC_WRITING);
    return rc;
}

static int prepare(void *user)
{
    struct crash_world *w = user;
    int rc = crash_join(w, &w->victim, CRASH_VICTIM);
    step_clock_steady();
    return rc;
}

static int register_name(const struct crash_world *w, struct crash_sender *s)
{
    if (w->state == ROW_SCHEMA)
        return geb_topic_schema(s->p, NAME, "schema", SHR_INLINE_BYTES, &s->topic);
    return geb_topic(s->p, NAME, &s->topic);
}

static int region(void *user)
{
    struct crash_world *w = user;
    return register_name(w, &w->victim);
}

static int finish(void *user)
{
    struct crash_world *w = user;
    crash_compose(w, &w->victim, CRASH_INLINE);
    int rc = crash_publish_now(&w->victim, CRASH_INLINE);
    return rc == 0 ? crash_leave(&w->victim) : rc;
}

/* One READY row has the name; one at most is lost, beside that of the dead; none is undecided. */
static int check_rows(const struct crash_world *w)
{
    uint32_t named = 0, dead = 0;
    for (uint32_t i = FIRST_ROW; i < w->map.geo.topic_cnt; i++) {
        char text[SHR_NAME_BYTES];
        uint64_t tag = shr_load_acquire(&w->map.topics[i].state) & SHR_TOPIC_TAG_MASK;
        shr_text_load(w->map.topics[i].name, SHR_NAME_BYTES / 8, text);
        CRASH_CHECK(tag != SHR_TOPIC_WRITING);
        CRASH_CHECK(tag != SHR_TOPIC_READY || strcmp(text, NAME) == 0);
        named += tag == SHR_TOPIC_READY;
        dead += tag == SHR_TOPIC_DEAD;
    }
    CRASH_EQUAL(named, 1);
    CRASH_CHECK(dead <= 1u + (w->state == ROW_DEAD));
    return 0;
}

/* Everybody else uses the name. */
static int use_name(struct crash_world *w, struct crash_sender *s, uint32_t events)
{
    geb_topic_id before = s->topic;
    CRASH_EQUAL(register_name(w, s), 0);
    if (w->state != ROW_KNOWN) /* else the handler is there */
        CRASH_EQUAL(crash_on(w, NAME), 0);
    CRASH_TRY(check_rows(w));
    CRASH_EQUAL(shr_load_acquire(&w->map.topics[s->topic].state), SHR_TOPIC_READY);
    CRASH_TRY(crash_beside(w, s, CRASH_INLINE, events));
    s->topic = before;
    return 0;
}

static int check_end(struct crash_world *w)
{
    uint64_t missing;
    crash_sweep(w);
    CRASH_TRY(crash_join_again(w, CRASH_LATE, CRASH_INLINE));
    CRASH_EQUAL(crash_leave(&w->other), 0);
    crash_sweep(w);
    CRASH_TRY(check_rows(w));
    CRASH_TRY(crash_clean(w));
    CRASH_TRY(crash_books(w, &missing));
    CRASH_EQUAL(missing, 0);
    return 0;
}

static int check_killed(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    struct crash_sender *s = crash_test_sender(w);
    (void)child;
    (void)k;
    if (w->exclusive)
        CRASH_EQUAL(crash_join(w, s, CRASH_SUCCESSOR), 0);
    CRASH_TRY(use_name(w, s, crash_laps(w, 2)));
    CRASH_EQUAL(crash_leave(&w->next), 0);
    return check_end(w);
}

static int check_stopped(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    (void)k;
    if (!w->exclusive)
        CRASH_TRY(use_name(w, &w->other, crash_stop_events()));
    else if (w->state == ROW_NEW || w->state == ROW_DEAD)
        CRASH_EQUAL(crash_on(w, NAME), 0);
    CRASH_EQUAL(step_to_end(child), 0);
    if (w->exclusive && w->state == ROW_SCHEMA) /* before, it would be a topic without one */
        CRASH_EQUAL(crash_on(w, NAME), 0);
    CRASH_TRY(crash_settle(w, CRASH_INLINE, NULL));
    CRASH_TRY(crash_drain(w));
    CRASH_EQUAL(w->ledger->sent[CRASH_VICTIM], 1);
    CRASH_EQUAL(w->ledger->ended[CRASH_VICTIM][1], 1);
    return check_end(w);
}

/* ---- two at once ----------------------------------------------------------------------------- */

enum { FIRST_DIES = 1, SECOND_DIES = 2, OTHERS_LAST = 4, ENDS = 8 };
static unsigned end; /* which of these: both go on, behind what others do */

static int prepare_second(void *user)
{
    struct crash_world *w = user;
    int rc = crash_join(w, &w->victim, CRASH_SUCCESSOR);
    step_clock_steady();
    return rc;
}

static int region_second(void *user)
{
    struct crash_world *w = user;
    return geb_topic(w->victim.p, w->variant ? ANOTHER : NAME, &w->victim.topic);
}

static uint64_t table(void *user)
{
    const struct crash_world *w = user;
    return step_sum(&w->map.topics[FIRST_ROW], &w->map.topics[w->map.geo.topic_cnt]);
}

static int end_both(struct step_child *first, struct step_child *second)
{
    CRASH_EQUAL((end & FIRST_DIES) != 0 ? step_kill(first) : step_to_end(first), 0);
    CRASH_EQUAL((end & SECOND_DIES) != 0 ? step_kill(second) : step_to_end(second), 0);
    return 0;
}

static int find_ids(struct crash_world *w, geb_topic_id id[2])
{
    for (uint32_t i = 0; i < 2; i++) {
        CRASH_EQUAL(geb_topic(w->other.p, i != 0 && w->variant ? ANOTHER : NAME, &id[i]), 0);
        CRASH_EQUAL(shr_load_acquire(&w->map.topics[id[i]].state), SHR_TOPIC_READY);
    }
    CRASH_EQUAL(id[0] != id[1], w->variant);
    return 0;
}

/* All rows are decided then. */
static int use_names(struct crash_world *w, geb_topic_id id[2])
{
    CRASH_TRY(find_ids(w, id));
    CRASH_EQUAL(crash_on(w, NAME), 0);
    if (w->variant)
        CRASH_EQUAL(crash_on(w, ANOTHER), 0);
    return 0;
}

/* Went on, and has published an event on its topic; or died, and has not. */
static int check_one(struct crash_world *w, uint32_t who, uint32_t slot, bool died)
{
    CRASH_TRY(crash_settle_slot(w, who, slot, CRASH_INLINE, NULL));
    CRASH_EQUAL(w->ledger->sent[who], !died);
    CRASH_TRY(crash_drain(w));
    CRASH_EQUAL(w->ledger->ended[who][1], !died);
    return 0;
}

static int check_two(struct step_child *first, struct step_child *second, size_t k, void *user)
{
    struct crash_world *w = user;
    geb_topic_id id[2], id_now[2];
    uint64_t missing;
    (void)k;
    if ((end & OTHERS_LAST) != 0)
        CRASH_TRY(end_both(first, second));
    CRASH_TRY(use_names(w, id));
    if ((end & OTHERS_LAST) == 0)
        CRASH_TRY(end_both(first, second));
    CRASH_TRY(check_one(w, CRASH_VICTIM, w->victim_slot, (end & FIRST_DIES) != 0));
    CRASH_TRY(check_one(w, CRASH_SUCCESSOR, w->victim_slot + 1, (end & SECOND_DIES) != 0));
    CRASH_TRY(find_ids(w, id_now));
    CRASH_CHECK(id_now[0] == id[0] && id_now[1] == id[1]);
    CRASH_TRY(crash_go_on(w, &w->other, CRASH_INLINE, crash_laps(w, 1)));
    crash_sweep(w);
    CRASH_TRY(crash_join_again(w, CRASH_LATE, CRASH_INLINE));
    CRASH_TRY(crash_end(w, &missing));
    CRASH_EQUAL(missing, 0);
    return 0;
}

static int run_two(struct crash_world *w)
{
    char name[64];
    const struct step_scenario first = {.name = "who registers a topic",
                                        .setup = setup,
                                        .prepare = prepare,
                                        .region = region,
                                        .finish = finish,
                                        .teardown = crash_teardown,
                                        .user = w};
    const struct step_scenario second = {
        .name = name, .prepare = prepare_second, .region = region_second, .finish = finish};
    const struct step_pair pair = {.first = &first,
                                   .second = &second,
                                   .sum = table,
                                   .check = check_two,
                                   .user = w,
                                   .turns = SIZE_MAX,
                                   .changes_min = 3,
                                   .points_min = 100};
    snprintf(name, sizeof(name), "%s, %s, %s: %s name",
             (end & FIRST_DIES) != 0 ? "dies" : "goes on",
             (end & SECOND_DIES) != 0 ? "dies" : "goes on",
             (end & OTHERS_LAST) != 0 ? "others last" : "others first",
             w->variant ? "another" : "the same");
    return step_pair(&pair);
}

/* ---- all of them ----------------------------------------------------------------------------- */

int main(void)
{
    static struct crash_world w = {.kind = CRASH_INLINE};
    int failures = 0;
    uint32_t number = 0; /* the quick form has one pair in three */
    struct step_scenario s = {.setup = setup,
                              .prepare = prepare,
                              .region = region,
                              .finish = finish,
                              .teardown = crash_teardown,
                              .same = crash_same,
                              .user = &w};
    crash_begin();
    for (w.state = ROW_NEW; w.state <= ROW_DEAD; w.state++) {
        for (uint32_t bus = 0; bus < CRASH_BUSES; bus++) {
            crash_choose_bus(&w, bus);
            /* What a topic goes through does not depend on the policy. */
            bool chosen = w.policy == w.state % 3;
            if (!chosen && crash_quick())
                continue;
            crash_run(&s, STEP_KILL, check_killed, "killed in topic, %s, %s", row_text[w.state],
                      crash_bus_text(&w));
            if (chosen)
                crash_run(&s, STEP_STOP, check_stopped, "stopped in topic, %s, %s",
                          row_text[w.state], crash_bus_text(&w));
        }
    }
    w = (struct crash_world){
        .kind = CRASH_INLINE, .producers = 3, .topics = 8, .policy = GEB_BLOCK, .ledger = w.ledger};
    for (w.state = ROW_NEW; w.state <= ROW_DEAD; w.state += ROW_DEAD) {
        for (end = 0; end < ENDS; end++) {
            for (int another = 0; another < 2; another++) {
                w.variant = another != 0;
                if (!crash_quick() || number++ % 3 == 0)
                    failures += run_two(&w) != 0;
            }
        }
    }
    return crash_report("crash_topic") | (failures != 0);
}
