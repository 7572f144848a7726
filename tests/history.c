#include "tests/history.h"

#include <stdio.h>
#include <stdlib.h>

const char *history_text(enum history_fault fault)
{
    static const char *const text[] = {
#define HISTORY_TEXT(name, text) text,
        HISTORY_FAULTS(HISTORY_TEXT)
#undef HISTORY_TEXT
    };
    return text[fault];
}

/* Relaxed throughout: who is handed an event has synchronised with its publisher through the bus,
 * and the end alone may be written meanwhile, where an old value is as good as the new one. */
void history_note_begin(struct history_note *note, uint32_t bytes, uint32_t part, uint32_t stint,
                        bool silent, uint64_t begin_ns)
{
    shr_store_relaxed(&note->end_ns, 0);
    shr_store_relaxed(&note->begin_ns, begin_ns);
    shr_store32_relaxed(&note->bytes, bytes);
    shr_store32_relaxed(&note->part, part);
    shr_store32_relaxed(&note->stint, stint);
    shr_store32_relaxed(&note->silent, silent);
}

void history_begin(struct history *h)
{
    for (uint32_t p = 0; p < h->producers; p++) {
        h->seen[p] = calloc(h->mask + 1, 1);
        if (h->seen[p] == NULL) {
            perror("history");
            abort();
        }
    }
}

void history_free(struct history *h)
{
    for (uint32_t p = 0; p < h->producers; p++)
        free(h->seen[p]);
}

static const struct history_note *note_of(const struct history *h, uint32_t producer,
                                          uint64_t serial)
{
    return &h->notes[producer][serial & h->mask];
}

/* Whether a row is of an event that its producer has begun, and whose note is still there. */
static bool is_known(const struct history *h, const struct history_row *row)
{
    return row->producer < h->producers && row->slot >= 1 && row->slot <= h->slots &&
           row->serial != 0 && row->serial <= shr_load_acquire(h->begun[row->producer]) &&
           row->serial + h->mask >= h->last[row->producer];
}

static bool is_next_part(const struct history *h, const struct history_row *row, uint32_t part)
{
    return h->came != h->parts && row->consumer == h->consumer && row->position == h->position &&
           row->producer == h->producer && row->serial == h->first_serial + h->came &&
           part == (h->came << 16 | h->parts);
}

/* The event that the dead consumer had in hand: without drops it comes again, marked, before any
 * other; under drop-oldest it does not. */
static enum history_fault check_death(const struct history *h, const struct history_row *row)
{
    bool same = row->position == h->position;
    if (h->drops)
        return same ? HISTORY_DUPLICATE : HISTORY_FINE;
    if (same && !row->redelivered)
        return HISTORY_DUPLICATE;
    if (same && (row->serial != h->first_serial || row->number != h->first_number))
        return HISTORY_POSITION;
    return !same && (h->came != h->parts || !h->finished) ? HISTORY_LOST : HISTORY_FINE;
}

/* The first event of a cell. */
static enum history_fault check_cell(struct history *h, const struct history_row *row,
                                     uint32_t part)
{
    bool died = h->begun_any && row->consumer != h->consumer;
    enum history_fault fault = HISTORY_FINE;
    if (h->begun_any && row->position < h->position)
        return HISTORY_POSITION;
    if (died)
        fault = check_death(h, row);
    else if (h->came != h->parts)
        fault = HISTORY_HALF_BATCH;
    else if (h->begun_any && row->position == h->position)
        fault = HISTORY_DUPLICATE;
    if (fault != HISTORY_FINE)
        return fault;
    if (part >> 16 != 0 || part == 0)
        return HISTORY_HALF_BATCH;
    /* The first consumer may have died before any handler of it was called. */
    bool may_be_again = !h->drops && (died || (!h->begun_any && row->consumer != 0));
    if (row->redelivered && !may_be_again)
        return HISTORY_MARK;
    h->repeats = died && row->position == h->position;
    h->position = row->position;
    h->first_serial = row->serial;
    h->first_number = row->number;
    h->producer = row->producer;
    h->consumer = row->consumer;
    h->redelivered = row->redelivered;
    h->parts = part & 0xffff;
    h->came = 0;
    h->begun_any = true;
    return HISTORY_FINE;
}

static enum history_fault check_number(struct history *h, const struct history_row *row,
                                       uint32_t stint)
{
    uint32_t p = row->producer;
    uint64_t base = row->number - row->serial;
    if (stint == h->stint[p] && base != h->base[p])
        return HISTORY_NUMBER;
    if (row->number <= h->last_number[row->slot])
        return HISTORY_NUMBER;
    if (!h->drops && !h->silent && row->number != h->last_number[row->slot] + 1)
        return HISTORY_NUMBER;
    h->stint[p] = stint;
    h->base[p] = base;
    h->last_number[row->slot] = row->number;
    return HISTORY_FINE;
}

/* Before `serial` nothing more of this producer comes. Its process went on to a later call, so a
 * call without an end is one in which an earlier process of it died. */
static enum history_fault skip_to(struct history *h, uint32_t p, uint64_t serial)
{
    for (uint64_t s = h->last[p] + 1; s < serial; s++) {
        const struct history_note *note = note_of(h, p, s);
        h->seen[p][s & h->mask] = 0;
        if (shr_load32_relaxed(&note->silent) != 0)
            h->silenced[p]++;
        else if (shr_load_relaxed(&note->end_ns) == 0)
            h->doubtful[p]++;
        else if (h->drops)
            h->missing[p]++;
        else
            return HISTORY_LOST;
        h->last[p] = s;
    }
    return HISTORY_FINE;
}

static enum history_fault check_time(struct history *h, const struct history_note *note)
{
    uint64_t begin_ns = shr_load_relaxed(&note->begin_ns);
    uint64_t end_ns = shr_load_relaxed(&note->end_ns);
    if (end_ns != 0 && end_ns < h->latest_begin_ns)
        return HISTORY_TIME;
    if (begin_ns > h->latest_begin_ns)
        h->latest_begin_ns = begin_ns;
    return HISTORY_FINE;
}

enum history_fault history_add(struct history *h, const struct history_row *row)
{
    if (!is_known(h, row))
        return HISTORY_UNKNOWN;
    uint32_t p = row->producer;
    const struct history_note *note = note_of(h, p, row->serial);
    uint32_t part = shr_load32_relaxed(&note->part);
    enum history_fault fault = HISTORY_FINE;
    if (row->bytes != shr_load32_relaxed(&note->bytes))
        return HISTORY_LENGTH;
    if (!row->whole)
        return HISTORY_TORN;
    if (shr_load32_relaxed(&note->silent) != 0)
        return HISTORY_SILENT;
    if (!is_next_part(h, row, part))
        fault = check_cell(h, row, part);
    else if (row->redelivered != h->redelivered)
        fault = HISTORY_MARK;
    if (fault != HISTORY_FINE)
        return fault;
    if (row->number != h->first_number + h->came++)
        return HISTORY_NUMBER;
    h->finished = row->finished;
    if (row->serial <= h->last[p]) {
        if (!h->repeats)
            return h->seen[p][row->serial & h->mask] != 0 ? HISTORY_DUPLICATE : HISTORY_ORDER;
        h->again++;
        return HISTORY_FINE;
    }
    fault = skip_to(h, p, row->serial);
    if (fault == HISTORY_FINE)
        fault = check_number(h, row, shr_load32_relaxed(&note->stint));
    if (fault == HISTORY_FINE)
        fault = check_time(h, note);
    h->last[p] = row->serial;
    h->seen[p][row->serial & h->mask] = 1;
    h->delivered[p]++;
    return fault;
}

enum history_fault history_pass(struct history *h, uint32_t producer, uint64_t through)
{
    return skip_to(h, producer, through + 1);
}

enum history_fault history_end(const struct history *h)
{
    if (h->came != h->parts && !h->drops)
        return HISTORY_HALF_BATCH;
    return h->drops || !h->begun_any || h->finished ? HISTORY_FINE : HISTORY_LOST;
}
