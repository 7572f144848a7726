/* The tap: copying. tap.h has what it remembers, tap.c what it is. */
#include "lib/tap.h"

#include <stdlib.h>

#define ARENA_BYTES    (UINT64_C(256) << 10) /* for payloads; more if one event needs it */
#define PATIENCE_POLLS 8u                    /* a poll counts for no more than this part of it */
#define QUIET_NS       UINT64_C(1000000)

enum found {
    FOUND_EVENT,
    FOUND_NOTHING,
    FOUND_UNCOMMITTED,
    FOUND_LATER, /* the cell is of a later lap, or damaged */
    FOUND_NO_ROOM,
    FOUND_NO_MEMORY,
};

/* What a claimed cell holds whose state is not READY(pos). */
static SHR_COLD enum found classify(const struct gebi_tap *tap, uint64_t state)
{
    uint64_t tag = shr_state_tag(state);
    int64_t ahead = (int64_t)(shr_state_pos(state) - tap->pos);
    if (ahead > 0)
        return FOUND_LATER;
    if (ahead == 0 && (tag == SHR_TAG_READY || tag == SHR_TAG_DONE))
        return FOUND_EVENT;
    if (shr_state_usable(state, tap->pos, tap->ring.cell_cnt))
        return FOUND_UNCOMMITTED;
    /* Also at an older position: who claimed a quarantined cell can publish nothing in it. */
    if (tag == SHR_TAG_REVOKED || tag == SHR_TAG_RETURNED || (ahead == 0 && tag == SHR_TAG_VOID))
        return FOUND_NOTHING;
    return FOUND_LATER;
}

/* Room in the arena. What lies in it is still needed if cells were copied. */
static enum found reserve(struct gebi_tap *tap, uint64_t bytes)
{
    if (bytes <= tap->arena_bytes - tap->arena_used)
        return FOUND_EVENT;
    if (tap->cell_cnt != 0)
        return FOUND_NO_ROOM;
    uint64_t room = bytes > ARENA_BYTES ? bytes : ARENA_BYTES;
    free(tap->arena);
    tap->arena = malloc(room);
    tap->arena_bytes = tap->arena != NULL ? room : 0;
    return tap->arena != NULL ? FOUND_EVENT : FOUND_NO_MEMORY;
}

static SHR_COLD enum found copy_block(const struct shr_map *map, struct gebi_tap *tap,
                                      struct gebi_tap_cell *to)
{
    uint64_t ref = to->word[SHR_WORD_BODY];
    uint64_t bytes = (uint32_t)to->word[SHR_WORD_BODY + 1];
    uint64_t room = (bytes + 15) & ~UINT64_C(15);
    if (bytes == 0) { /* nothing to copy, nothing that could be gone; and there may be no arena */
        to->data = (const unsigned char *)&to->word[SHR_WORD_BODY];
        return FOUND_EVENT;
    }
    if (bytes > map->geo.max_event || !shr_block_kept(map, ref))
        return FOUND_EVENT;
    enum found found = reserve(tap, room);
    if (found == FOUND_EVENT && shr_block_copy(map, ref, tap->arena + tap->arena_used, bytes)) {
        to->data = tap->arena + tap->arena_used;
        tap->arena_used += room;
    }
    return found;
}

SHR_HOT enum found copy_cell(const struct shr_map *map, struct gebi_tap *tap)
{
    const struct shr_cell *cell = shr_cell_at(&tap->ring, tap->pos);
    struct gebi_tap_cell *to = &tap->cell[tap->cell_cnt];
    uint64_t state = shr_load_acquire(&cell->state); /* edge R2 acquire: the body is whole */
    if (SHR_UNLIKELY(state != shr_state(tap->pos, SHR_TAG_READY))) {
        enum found found = classify(tap, state);
        if (found != FOUND_EVENT)
            return found;
    }
    to->pos = tap->pos;
    to->data = NULL;
    shr_cell_copy(cell, to->word);
    shr_fence_acquire(); /* see validate(): here it only finds early what that finds for sure */
    if (SHR_UNLIKELY(shr_state_pos(shr_load_relaxed(&cell->state)) != tap->pos))
        return FOUND_LATER;
    if (SHR_UNLIKELY((shr_meta_flags(to->word[SHR_WORD_META]) & SHR_FLAG_SLAB) != 0))
        return copy_block(map, tap, to);
    return FOUND_EVENT;
}

/* ---- where to look --------------------------------------------------------------------------- */

static bool is_lapped(const struct gebi_tap *tap, uint64_t pos)
{
    return (int64_t)(tap->head - pos) >= (int64_t)tap->ring.cell_cnt;
}

static void note_overtaken(struct gebi_tap *tap, uint64_t pos, uint64_t cnt)
{
    if (tap->overtaken == 0)
        tap->first_overtaken = pos;
    tap->last_overtaken = pos + cnt - 1;
    tap->overtaken += cnt;
}

/* Goes on at the oldest position that is safe: a quarter of the ring before the next overtaking. */
static SHR_COLD void rejoin(struct gebi_tap *tap)
{
    uint64_t to = tap->head - tap->ring.cell_cnt + tap->ring.cell_cnt / 4;
    note_overtaken(tap, tap->pos, to - tap->pos);
    tap->pos = to;
    tap->limit = tap->head;
}

/* Exclusive: an event at head, whose producer died before it moved head. Only when all is quiet,
 * for this is the line that a producer writes next. */
static bool is_left_behind(const struct gebi_tap *tap, uint64_t now_ns)
{
    if (!tap->ring.exclusive || tap->head != tap->pos || now_ns - tap->moved_ns < QUIET_NS)
        return false;
    uint64_t state = shr_load_acquire(&shr_cell_at(&tap->ring, tap->pos)->state);
    return state == shr_state(tap->pos, SHR_TAG_READY);
}

/* Whether there are positions to copy. */
static bool look(struct gebi_tap *tap)
{
    if (tap->limit != tap->pos) /* an uncommitted line belongs to its producer */
        return tap->held_pos != tap->pos || !tap->streaming ||
               shr_now_ns() - tap->polled_ns >= tap->pace_ns;
    if ((int64_t)(tap->head - tap->pos) >= (int64_t)GEBI_TAP_CELLS) {
        tap->limit = tap->head; /* far behind: what we know is enough */
        return true;
    }
    uint64_t now_ns = shr_now_ns();
    if (tap->streaming && now_ns - tap->looked_ns < tap->pace_ns)
        return false;
    tap->looked_ns = now_ns;
    tap->head = shr_load_acquire(&tap->ring.hot->head);
    if (is_left_behind(tap, now_ns))
        tap->head++;
    int64_t behind = (int64_t)(tap->head - tap->pos);
    tap->streaming = behind > 0;
    if (behind < -(int64_t)tap->ring.cell_cnt) {
        tap->pos = tap->head; /* the ring was started anew, or is damaged */
        tap->limit = tap->head;
    }
    if (behind <= 0)
        return false;
    tap->moved_ns = now_ns;
    tap->limit = tap->head;
    if (is_lapped(tap, tap->pos))
        rejoin(tap);
    return true;
}

/* Keeps of the copies what was not overtaken, and jumps if the next position was. */
static void validate(struct gebi_tap *tap, enum found found)
{
    /* edge R4 acquire: if a word of a copy is of a later lap, that lap's claim is seen now. */
    shr_fence_acquire();
    uint64_t head = shr_load_relaxed(&tap->ring.hot->head);
    if ((int64_t)(head - tap->head) > 0)
        tap->head = head;
    while (tap->cell_next < tap->cell_cnt && is_lapped(tap, tap->cell[tap->cell_next].pos)) {
        note_overtaken(tap, tap->cell[tap->cell_next++].pos, 1);
    }
    if (is_lapped(tap, tap->pos)) {
        rejoin(tap);
    } else if (found == FOUND_LATER) { /* not overtaken, so no honest process wrote it */
        tap->bad++;
        tap->pos++;
    }
}

/* The position at hand is claimed and not committed. Its producer may have stopped: when our
 * patience is over we go on without it. True: we did. Takers do not know that we are here, and the
 * event may still be committed; then its number is a gap. */
static SHR_COLD bool hold(struct gebi_tap *tap)
{
    uint64_t now_ns = shr_now_ns();
    uint64_t most_ns = tap->patience_ns / PATIENCE_POLLS;
    uint64_t passed_ns = now_ns - tap->polled_ns;
    tap->polled_ns = now_ns;
    if (tap->held_pos != tap->pos) {
        tap->held_pos = tap->pos;
        tap->held_ns = 0;
        return false;
    }
    tap->held_ns += passed_ns < most_ns ? passed_ns : most_ns;
    if (tap->held_ns < tap->patience_ns)
        return false;
    uint64_t head = shr_load_acquire(&tap->ring.hot->head);
    for (uint64_t pos = tap->pos + 1; (int64_t)(head - pos) > 0; pos++) {
        uint64_t state = shr_load_acquire(&shr_cell_at(&tap->ring, pos)->state);
        if (pos - tap->pos >= tap->ring.cell_cnt)
            break;
        if (state != shr_state(pos, SHR_TAG_READY))
            continue;
        /* Something waits behind it. The next position, if it is not committed either, has waited
         * as long; one more poll, in case it was claimed just now. */
        tap->passed++;
        tap->pos++;
        tap->limit = head;
        tap->held_pos = tap->pos;
        tap->held_ns = tap->patience_ns - most_ns;
        return true;
    }
    return false;
}

int gebi_tap_fill(const struct shr_map *map, struct gebi_tap *tap)
{
    enum found found = FOUND_NOTHING;
    tap->cell_cnt = 0;
    tap->cell_next = 0;
    tap->arena_used = 0;
    if (!look(tap))
        return 0;
    while (found <= FOUND_NOTHING && tap->cell_cnt < GEBI_TAP_CELLS && tap->pos != tap->limit) {
        found = copy_cell(map, tap);
        tap->cell_cnt += found == FOUND_EVENT;
        tap->pos += found <= FOUND_NOTHING;
    }
    uint64_t stopped = tap->pos;
    validate(tap, found);
    if (tap->cell_next < tap->cell_cnt || tap->pos != stopped)
        return 1;
    if (found == FOUND_NO_MEMORY)
        return gebi_fail(-ENOMEM, "no memory for the event at position %llu",
                         (unsigned long long)tap->pos);
    return found != FOUND_UNCOMMITTED || hold(tap) ? 1 : 0;
}
