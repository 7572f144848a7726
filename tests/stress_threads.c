/* Goal: the ring, its takers and its sweep under producers that dawdle inside their claims, with
 * all in one mapping of one process, where ThreadSanitizer sees every access of both sides.
 *
 * Method: threads publish through shmring's own functions; every few events one takes shr_publish
 * apart and waits between its steps for longer than the patience, so that claims are revoked, cells
 * quarantined and returned, all the time; at its first event thread 1 waits until its claim is
 * revoked, and the others publish from then on. Each delivery goes through the checker of histories
 * (history.h), and the account is compared with it.
 */
#include "shmring/clock.h"
#include "shmring/consume.h"
#include "shmring/peer.h"
#include "shmring/slab.h"
#include "tests/history.h"
#include "tests/stress_support.h"
#include "tests/support.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define THREADS    3u
#define SLAB_BYTES 700u

static struct shr_map map;
static uint64_t events;
static shr_a32 finished;
/* Thread 1 has claimed a position, and commits nothing before that is revoked. */
static shr_a32 held;
static struct history history;
static struct history_note *notes[THREADS]; /* by number, which is the serial */
static shr_a64 begun[THREADS];

static void dawdle(uint64_t r)
{
    for (uint64_t i = 0; i < r % 400; i++)
        shr_cpu_relax();
    if (r % 64 == 7)
        sched_yield();
}

/* Until a taker has given the claim up: others commit behind it. */
static void await_revocation(const struct shr_cell *cell, uint64_t pos)
{
    shr_store32_release(&held, 1);
    while (shr_load_acquire(&cell->state) != shr_state(pos, SHR_TAG_REVOKED))
        sched_yield(); /* the watchdog ends it */
}

/* shr_publish in slow motion. False: full. */
static bool publish_slowly(struct shr_writer *w, const uint64_t words[SHR_CELL_WORDS], uint64_t r)
{
    for (;;) {
        uint64_t head = shr_load_relaxed(&w->ring.hot->head);
        if (shr_is_full(w, head))
            return false;
        shr_store_release(&w->peer->busy, head << 1);
        dawdle(r >> 8);
        uint64_t pos = shr_fetch_add_acq_rel(&w->ring.hot->head, 1);
        shr_store_relaxed(&w->peer->busy, pos << 1 | SHR_BUSY_EXACT);
        struct shr_cell *cell = shr_cell_at(&w->ring, pos);
        if (shr_load32_relaxed(&held) == 0)
            await_revocation(cell, pos);
        dawdle(r >> 16);
        uint64_t state = shr_load_acquire(&cell->state);
        if (shr_state_usable(state, pos, w->ring.cell_cnt)) {
            dawdle(r >> 24);
            shr_fill(cell, words);
            dawdle(r >> 32);
            if (shr_cas_release(&cell->state, state, shr_state(pos, SHR_TAG_READY))) {
                w->number++;
                shr_store_release(&w->peer->published, w->number);
                dawdle(r >> 40);
                shr_store_release(&w->peer->busy, 0);
                return true;
            }
        }
        dawdle(r >> 48);
        shr_publish_void(w, pos, cell);
    }
}

static void compose(uint64_t words[SHR_CELL_WORDS], struct shr_heap *heap, uint32_t slot,
                    uint64_t number)
{
    uint64_t ref;
    memset(words, 0, SHR_CELL_WORDS * sizeof(words[0]));
    words[SHR_WORD_NUMBER] = (uint32_t)number;
    words[SHR_WORD_META] = shr_meta(1, slot, SHR_INLINE_BYTES, 0);
    if (number % 3 == 0 && shr_alloc(heap, SLAB_BYTES, &ref) == 0) {
        words[SHR_WORD_META] = shr_meta(1, slot, 0, SHR_FLAG_SLAB);
        words[SHR_WORD_BODY] = ref;
        words[SHR_WORD_BODY + 1] = SLAB_BYTES;
        stress_fill(shr_block_data(&map, ref), SLAB_BYTES, slot, number);
    } else {
        stress_fill((unsigned char *)&words[SHR_WORD_BODY], SHR_INLINE_BYTES, slot, number);
    }
}

static uint32_t bytes_of(const uint64_t words[SHR_CELL_WORDS])
{
    uint64_t meta = words[SHR_WORD_META];
    return shr_meta_flags(meta) != 0 ? SLAB_BYTES : shr_meta_bytes(meta);
}

static void *produce(void *arg)
{
    uint32_t slot = *(uint32_t *)arg;
    uint64_t words[SHR_CELL_WORDS];
    struct shr_writer w;
    struct shr_taker k;
    struct shr_heap heap;
    stress_pin(slot);
    shr_writer_init(&w, &map, slot);
    shr_taker_init(&k, &map, slot, &map.peers[slot].hand);
    uint64_t epoch = shr_load_relaxed(&map.peers[slot].epoch);
    if (shr_heap_init(&heap, &map, shr_owner(slot, epoch)) != 0)
        abort();
    while (slot != 1 && shr_load32_acquire(&held) == 0)
        sched_yield();
    for (uint64_t number = 1; number <= events; number++) {
        uint64_t r = stress_hash(slot, number, 7);
        bool slowly = r % 8 == 0 || shr_load32_relaxed(&held) == 0;
        struct history_note *note = &notes[slot - 1][number];
        compose(words, &heap, slot, number);
        history_note_begin(note, bytes_of(words), 1, 1, false, shr_now_ns());
        shr_store_release(&begun[slot - 1], number);
        while (slowly ? !publish_slowly(&w, words, r) : shr_publish(&w, words, 1) < 0) {
            if (map.geo.policy == SHR_DROP_OLDEST)
                shr_drop(&k, &map, true);
            else
                sched_yield();
        }
        shr_store_release(&note->end_ns, shr_now_ns());
    }
    shr_heap_fini(&heap);
    shr_fetch_add32_release(&finished, 1);
    return NULL;
}

static void check(const struct shr_item *item)
{
    struct history_row row = {
        .serial = item->number,
        .number = item->number,
        .position = item->pos,
        .producer = item->slot - 1,
        .slot = item->slot,
        .bytes = item->bytes,
        .whole = stress_same(item->data, item->bytes, item->slot, item->number),
        .finished = true,
    };
    enum history_fault fault = history_add(&history, &row);
    if (fault != HISTORY_FINE)
        fail_msg("slot %u, number %llu, position %llu: %s", item->slot,
                 (unsigned long long)item->number, (unsigned long long)item->pos,
                 history_text(fault));
}

static void history_open(void)
{
    history = (struct history){
        .drops = map.geo.policy == SHR_DROP_OLDEST, .producers = THREADS, .slots = THREADS};
    for (history.mask = 1; history.mask < events;)
        history.mask = history.mask * 2 + 1;
    for (uint32_t p = 0; p < THREADS; p++) {
        shr_store_relaxed(&begun[p], 0);
        notes[p] = calloc(history.mask + 1, sizeof(*notes[p]));
        assert_non_null(notes[p]);
        history.notes[p] = notes[p];
        history.begun[p] = &begun[p];
    }
    history_begin(&history);
}

/* Returns how many events had been published and did not come. */
static uint64_t history_close(void)
{
    uint64_t missing = 0;
    for (uint32_t p = 0; p < THREADS; p++) {
        assert_int_equal(history_pass(&history, p, events), HISTORY_FINE);
        missing += history.missing[p];
        free(notes[p]);
    }
    assert_int_equal(history_end(&history), HISTORY_FINE);
    history_free(&history);
    return missing;
}

/* Returns how many were delivered. */
static uint64_t consume(void)
{
    static struct shr_sweeper sweeper;
    uint64_t cnt = 0, looks = 0;
    struct shr_consumer c;
    struct shr_item item;
    uint32_t quarantined;
    memset(&sweeper, 0, sizeof(sweeper));
    shr_consumer_init(&c, &map);
    for (uint32_t empty = 0; empty < 1000; looks++) {
        bool over = shr_load32_acquire(&finished) == THREADS;
        if (shr_next(&c, &item) != 0) {
            check(&item);
            shr_finish(&c, &item, SHR_COL_DELIVERED);
            shr_flush_batch(&c);
            if (cnt++ % 1024 == 0)
                stress_watchdog("threads");
            empty = 0;
        } else {
            shr_flush(&c);
            empty += over;
            if (looks % 64 == 0)
                sched_yield(); /* a producer may share our processor */
        }
        if (looks % 512 == 0)
            shr_sweep(&map, &c.taker.ring, &sweeper, &quarantined);
    }
    shr_sweep(&map, &c.taker.ring, &sweeper, &quarantined);
    shr_sweep(&map, &c.taker.ring, &sweeper, &quarantined);
    assert_int_equal(quarantined, 0);
    return cnt;
}

static void check_counts(uint64_t cnt, uint64_t missing)
{
    struct shr_account account;
    uint64_t revoked = 0, returned = 0, given_back = 0;
    assert_int_equal(shr_account(&map, &account, NULL), 0);
    for (uint32_t slot = 0; slot <= THREADS; slot++) {
        revoked += shr_load_relaxed(&map.peers[slot].took_revoked);
        returned += shr_load_relaxed(&map.peers[slot].took_returned);
        given_back += shr_load_relaxed(&map.peers[slot].revoked);
        assert_int_equal(shr_load_relaxed(&map.peers[slot].bad_bytes), 0);
    }
    printf("policy %u, %u cells: %llu delivered, %llu dropped, %llu revoked, %llu returned\n",
           map.geo.policy, map.geo.capacity, (unsigned long long)cnt,
           (unsigned long long)account.dropped, (unsigned long long)revoked,
           (unsigned long long)returned);
    assert_int_equal(account.accepted, THREADS * events);
    assert_int_equal(account.col[SHR_COL_DELIVERED], cnt);
    assert_int_equal(account.dropped, missing);
    assert_int_equal(missing, THREADS * events - cnt);
    assert_int_equal(account.pending, 0);
    if (map.geo.policy != SHR_DROP_OLDEST)
        assert_int_equal(account.dropped, 0);
    assert_true(given_back <= revoked); /* each is given back by its producer or by the sweep */
    assert_true(revoked > 0);
}

static void run(uint32_t policy, uint32_t capacity)
{
    struct shr_config config = support_tiny_config();
    struct shr_lock lock[THREADS + 1];
    static uint32_t slots[THREADS + 1];
    pthread_t thread[THREADS + 1];
    char path[SHR_PATH_BYTES];
    config.policy = policy;
    config.capacity = capacity;
    config.producers = THREADS;
    config.patience_ns = 1000;
    config.slab_bytes = 24 * SHR_CHUNK_BYTES;
    config.max_event = 4096;
    events = stress_events(20000);
    stress_watchdog("threads");
    stress_pin(0); /* before there are threads: it remembers where they may run */
    assert_int_equal(shr_segment_create(&map, support_path(path), &config), 0);
    shr_store32_relaxed(&finished, 0);
    shr_store32_relaxed(&held, 0);
    history_open();
    for (uint32_t slot = 1; slot <= THREADS; slot++) {
        assert_int_equal(shr_lock_take(&map, slot, &lock[slot]), 0);
        shr_peer_enter(&map, slot, "thread");
    }
    for (uint32_t slot = 1; slot <= THREADS; slot++) {
        slots[slot] = slot;
        assert_int_equal(pthread_create(&thread[slot], NULL, produce, &slots[slot]), 0);
    }
    uint64_t cnt = consume();
    for (uint32_t slot = 1; slot <= THREADS; slot++) {
        pthread_join(thread[slot], NULL);
        shr_lock_drop(&lock[slot]);
    }
    check_counts(cnt, history_close());
    shr_segment_detach(&map);
    unlink(path);
    alarm(0);
}

static void drop_oldest(void **state)
{
    (void)state;
    run(SHR_DROP_OLDEST, 4);
    run(SHR_DROP_OLDEST, 16);
    run(SHR_DROP_OLDEST, 1024);
}

static void block(void **state)
{
    (void)state;
    run(SHR_BLOCK, 4);
    run(SHR_BLOCK, 16);
    run(SHR_BLOCK, 1024);
}

static void return_error(void **state)
{
    (void)state;
    run(SHR_RETURN_ERROR, 4);
    run(SHR_RETURN_ERROR, 1024);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drop_oldest),
        cmocka_unit_test(block),
        cmocka_unit_test(return_error),
    };
    support_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
