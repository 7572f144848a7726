/* Goal: what a dead owner left in its slot is read rightly by the next one. Method: compose what
 * can be left, and read it; kill joiners at each instruction of shr_peer_enter. */
#include "shmring/peer.h"
#include "shmring/ring.h"
#include "tests/crash_support.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#define SLOT 1u

STEP_CLOCK_GETTIME

struct world {
    struct shr_map map;
    char path[SHR_PATH_BYTES];
};

static void world_make(struct world *w)
{
    struct shr_config config = support_tiny_config();
    memset(w, 0, sizeof(*w));
    assert_int_equal(shr_segment_create(&w->map, support_path(w->path), &config), 0);
}

static void world_end(struct world *w)
{
    shr_segment_detach(&w->map);
    assert_int_equal(unlink(w->path), 0);
}

static void put_cell(struct world *w, uint64_t pos, uint64_t tag, uint32_t slot, uint32_t flags,
                     uint32_t number, uint32_t events)
{
    struct shr_cell *cell = &w->map.cells[shr_cell_index(pos, w->map.geo.cell_cnt)];
    shr_store_relaxed(&cell->word[SHR_WORD_META], shr_meta(0, slot, 0, flags));
    shr_store_relaxed(&cell->word[SHR_WORD_NUMBER], number | UINT64_C(0x1234) << 32);
    shr_store_relaxed(&cell->word[SHR_WORD_BODY + 1], (uint64_t)events << 32 | 7);
    shr_store_relaxed(&cell->state, shr_state(pos, tag));
}

static void test_last_number(void **state)
{
    (void)state;
    struct world w;
    world_make(&w);
    struct shr_peer *peer = &w.map.peers[SLOT];
    const uint32_t batch = SHR_FLAG_SLAB | SHR_FLAG_BATCH;
    const uint64_t far = UINT64_C(0x5fffffffe); /* the low half is about to wrap */
    struct {
        uint64_t published, seen, tag;
        uint32_t slot, flags, number, events;
        bool exact;
        uint64_t wanted;
    } cases[] = {
        {10, 0, SHR_TAG_VOID, SLOT, 0, 11, 0, false, 10},
        {10, 12, SHR_TAG_VOID, SLOT, 0, 11, 0, false, 12},
        {10, 9, SHR_TAG_READY, SLOT, 0, 11, 0, true, 11},
        {10, 9, SHR_TAG_DONE, SLOT, 0, 11, 0, true, 11},
        {10, 9, SHR_TAG_READY, SLOT, 0, 11, 0, false, 10},
        {10, 9, SHR_TAG_VOID, SLOT, 0, 11, 0, true, 10},
        {10, 9, SHR_TAG_REVOKED, SLOT, 0, 11, 0, true, 10},
        {10, 9, SHR_TAG_READY, SLOT + 1, 0, 11, 0, true, 10},
        {10, 9, SHR_TAG_READY, SLOT, 0, 10, 0, true, 10},
        {10, 9, SHR_TAG_READY, SLOT, batch, 11, 5, true, 15},
        {10, 13, SHR_TAG_READY, SLOT, batch, 11, 3, true, 13},
        {10, 9, SHR_TAG_READY, SLOT, batch, 11, 0, true, 11},
        {10, 9, SHR_TAG_READY, SLOT, batch, 11, UINT32_MAX, true, 11},
        {far, far, SHR_TAG_READY, SLOT, batch, UINT32_MAX, 3, true, far + 3},
        {far + 1, 0, SHR_TAG_READY, SLOT, 0, 0, 0, true, far + 2},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t pos = 8 + i;
        shr_store_relaxed(&w.map.hot->head, pos + 1);
        shr_store_relaxed(&peer->published, cases[i].published);
        shr_store_relaxed(&w.map.track[SLOT].seen, cases[i].seen);
        shr_store_relaxed(&peer->busy, pos << 1 | (cases[i].exact ? SHR_BUSY_EXACT : 0));
        put_cell(&w, pos, cases[i].tag, cases[i].slot, cases[i].flags, cases[i].number,
                 cases[i].events);
        if (shr_peer_last_number(&w.map, SLOT) != cases[i].wanted)
            fail_msg("case %zu: %llx", i, (unsigned long long)shr_peer_last_number(&w.map, SLOT));
    }
    /* The next lap of the cell is claimed: its body may be half overwritten already. */
    uint64_t pos = 50;
    shr_store_relaxed(&peer->published, 10);
    shr_store_relaxed(&w.map.track[SLOT].seen, 0);
    shr_store_relaxed(&peer->busy, pos << 1 | SHR_BUSY_EXACT);
    put_cell(&w, pos, SHR_TAG_READY, SLOT, 0, 11, 0);
    shr_store_relaxed(&w.map.hot->head, pos + w.map.geo.cell_cnt - 1);
    assert_int_equal(shr_peer_last_number(&w.map, SLOT), 11);
    shr_store_relaxed(&w.map.hot->head, pos + w.map.geo.cell_cnt + 1);
    assert_int_equal(shr_peer_last_number(&w.map, SLOT), 10);
    /* Exclusive: no claim is noted; the event is at head, or before a head that was moved on. */
    w.map.geo.exclusive = 1;
    shr_store_relaxed(&peer->busy, 0);
    shr_store_relaxed(&w.map.hot->head, pos);
    assert_int_equal(shr_peer_last_number(&w.map, SLOT), 11);
    shr_store_relaxed(&w.map.hot->head, pos + 1);
    assert_int_equal(shr_peer_last_number(&w.map, SLOT), 11);
    shr_store_relaxed(&w.map.hot->head, pos + 2);
    assert_int_equal(shr_peer_last_number(&w.map, SLOT), 10);
    world_end(&w);
}

/* A slot whose owner died after the commit of event 11 and before it counted it. */
static void leave_uncounted(struct world *w)
{
    struct shr_peer *peer = &w->map.peers[SLOT];
    shr_store_relaxed(&w->map.hot->head, 9);
    shr_store_relaxed(&peer->published, 10);
    shr_store_relaxed(&peer->bytes, 320);
    shr_store_relaxed(&peer->busy, UINT64_C(8) << 1 | SHR_BUSY_EXACT);
    shr_store_relaxed(&peer->epoch, 4);
    shr_store32_relaxed(&peer->state, SHR_PEER_FREE);
    put_cell(w, 8, SHR_TAG_READY, SLOT, 0, 11, 0);
}

static void test_enter_exit(void **state)
{
    (void)state;
    struct world w;
    char name[48];
    world_make(&w);
    struct shr_peer *peer = &w.map.peers[SLOT];
    leave_uncounted(&w);
    shr_peer_enter(&w.map, SLOT, "sampler");
    assert_int_equal(shr_load32_relaxed(&peer->state), SHR_PEER_USED);
    assert_int_equal(shr_load_relaxed(&peer->published), 11);
    assert_int_equal(shr_load_relaxed(&peer->bytes), 320);
    assert_int_equal(shr_load_relaxed(&peer->busy), 0);
    assert_int_equal(shr_load_relaxed(&peer->hand.pos), 0);
    assert_int_equal(shr_load_relaxed(&peer->epoch), 5);
    assert_int_equal(shr_load32_relaxed(&peer->pid), getpid());
    assert_true(shr_load_relaxed(&peer->joined_ns) > 0);
    shr_text_load(peer->name, 6, name);
    assert_string_equal(name, "sampler");
    shr_peer_exit(&w.map, SLOT);
    assert_int_equal(shr_load32_relaxed(&peer->state), SHR_PEER_FREE);
    assert_int_equal(shr_load_relaxed(&peer->published), 11);
    assert_int_equal(shr_load_relaxed(&peer->epoch), 5);
    world_end(&w);
}

static int enter_setup(void *user)
{
    leave_uncounted(user);
    return 0;
}

static int enter_prepare(void *user)
{
    struct world *w = user;
    int rc = shr_segment_attach(&w->map, w->path, true);
    step_clock_steady();
    return rc;
}

static int enter_region(void *user)
{
    struct world *w = user;
    shr_peer_enter(&w->map, SLOT, "walker");
    return 0;
}

/* At each point: either the slot is as it was left, or it is USED; the number is never lost. */
static int enter_check(struct step_child *child, size_t k, void *user)
{
    struct world *w = user;
    const struct shr_peer *peer = &w->map.peers[SLOT];
    (void)child;
    (void)k;
    bool changed = shr_load_relaxed(&peer->published) != 10 || shr_load_relaxed(&peer->busy) == 0 ||
                   shr_load_relaxed(&peer->epoch) != 4;
    if (changed && shr_load32_relaxed(&peer->state) != SHR_PEER_USED)
        return -EBADMSG;
    return shr_peer_last_number(&w->map, SLOT) == 11 ? 0 : -ENODATA;
}

static void test_enter_dies(void **state)
{
    (void)state;
    struct world w;
    struct step_result result;
    /* A sanitizer makes each fork slow and each step many; the stepped code is the same without. */
    if (!step_available() || SUPPORT_SANITIZED)
        skip();
    world_make(&w);
    struct step_scenario scenario = {.name = "shr_peer_enter",
                                     .setup = enter_setup,
                                     .prepare = enter_prepare,
                                     .region = enter_region,
                                     .user = &w};
    assert_int_equal(step_every(&scenario, STEP_KILL, enter_check, &result), 0);
    assert_true(result.instructions > 50);
    world_end(&w);
}

static void test_text(void **state)
{
    (void)state;
    shr_a64 word[6];
    char text[48], longer[100];
    memset(longer, 'x', sizeof(longer));
    longer[99] = '\0';
    for (size_t length = 0; length < 100; length++) {
        memset(word, 0xff, sizeof(word));
        shr_text_store(word, 6, longer + 99 - length);
        shr_text_load(word, 6, text);
        assert_int_equal(strlen(text), length < 47 ? length : 47);
        for (size_t i = strlen(text); i < 48; i++)
            assert_int_equal(text[i], 0);
    }
    memset(word, 'y', sizeof(word)); /* a text that was never ended */
    shr_text_load(word, 6, text);
    assert_int_equal(strlen(text), 47);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_last_number),
        cmocka_unit_test(test_enter_exit),
        cmocka_unit_test(test_enter_dies),
        cmocka_unit_test(test_text),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
