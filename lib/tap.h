/* Between tap.c and tap_copy.c. */
#ifndef LIB_TAP_H
#define LIB_TAP_H

#include "lib/internal.h"

#define GEBI_TAP_CELLS 256u

struct gebi_tap_cell {
    uint64_t pos;
    uint64_t word[SHR_CELL_WORDS];
    const unsigned char *data; /* in a slab: its copy, NULL: gone */
};

struct gebi_tap_slot {
    uint64_t last; /* number of the last event that we saw, or that was there before us */
    uint64_t seen;
    uint64_t missed;
    uint64_t first_missed, last_missed; /* numbers; 0: none */
    bool met;
};

struct gebi_tap {
    struct shr_ring ring;
    uint64_t pos;   /* to copy next */
    uint64_t limit; /* copy before it only */
    uint64_t head;  /* as we read it last */
    uint64_t pace_ns;
    uint64_t looked_ns; /* when we looked for new events last … */
    uint64_t moved_ns;  /* … and when there were some */
    bool streaming;     /* the last look found some */
    uint64_t patience_ns;
    uint64_t held_pos; /* uncommitted … */
    uint64_t held_ns;  /* … for so much polling time */
    uint64_t polled_ns;

    uint32_t cell_cnt; /* copied and valid */
    uint32_t cell_next;
    struct gebi_tap_cell cell[GEBI_TAP_CELLS];
    unsigned char *arena;
    uint64_t arena_bytes;
    uint64_t arena_used;

    struct geb_event event;     /* of the batch in hand: */
    const unsigned char *frame; /* the next one */
    uint64_t frame_bytes;       /* left of it */
    uint32_t frames;            /* events left in it */

    uint64_t seen, missed, overtaken, gone, passed, bad;
    uint64_t first_overtaken, last_overtaken; /* positions; 0: none */
    struct gebi_tap_slot slot[];              /* [0] is not used */
};

/* Copies more. 1: there may be more to give; 0: nothing now; -ENOMEM. Replaces what was copied. */
int gebi_tap_fill(const struct shr_map *map, struct gebi_tap *tap);

#endif
