/* The crash suites' driver: which points, the totals, and parts that many scenarios share. */
#include "tests/crash_support.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static size_t total, total_failed;

void crash_begin(void)
{
    support_begin();
    /* The driver's tables stay out of the heap, which a child inherits: malloc in a region would go
     * another way once they are there. */
    mallopt(M_MMAP_THRESHOLD, 4096);
    step_require();
}

/* ---- parts of a scenario --------------------------------------------------------------------- */

int crash_prepare_sender(struct crash_world *w, struct crash_sender *s, uint32_t who, uint32_t cnt,
                         enum crash_kind next)
{
    int rc = crash_join(w, s, who);
    for (uint32_t i = 0; rc == 0 && i < cnt; i++)
        rc = crash_send(w, s, w->kind);
    if (rc == 0)
        crash_compose(w, s, next);
    step_clock_steady();
    return rc;
}

int crash_victim_publishes(void *user)
{
    struct crash_world *w = user;
    return crash_publish_now(&w->victim, w->kind);
}

int crash_victim_leaves(void *user)
{
    struct crash_world *w = user;
    return crash_leave(&w->victim);
}

/* ---- suites ---------------------------------------------------------------------------------- */

void crash_choose_bus(struct crash_world *w, uint32_t bus)
{
    w->policy = (enum geb_policy)(bus / 2);
    w->exclusive = bus % 2 != 0;
}

const char *crash_bus_text(const struct crash_world *w)
{
    static char text[64];
    snprintf(text, sizeof(text), "%s, %s", support_policy_text[w->policy],
             w->exclusive ? "exclusive" : "shared");
    return text;
}

bool crash_quick(void)
{
    return support_depth() == SUPPORT_QUICK;
}

bool crash_same(void *user)
{
    static struct {
        unsigned char *bytes;
        size_t room;
        unsigned names;
    } before;
    const struct crash_world *w = user;
    if (w->map.base == NULL)
        return false;
    size_t segment = (size_t)(w->map.slabs - w->map.base);
    size_t ledger = sizeof(*w->ledger);
    unsigned names = support_entries(support_dir());
    if (segment + ledger > before.room) {
        before.room = segment + ledger;
        before.bytes = realloc(before.bytes, before.room);
        if (before.bytes == NULL)
            abort();
        before.names = names + 1; /* not the same */
    }
    if (before.names == names && memcmp(before.bytes, w->map.base, segment) == 0 &&
        memcmp(before.bytes + segment, w->ledger, ledger) == 0)
        return true;
    before.names = names;
    memcpy(before.bytes, w->map.base, segment);
    memcpy(before.bytes + segment, w->ledger, ledger);
    return false;
}

int crash_run(const struct step_scenario *scenario, enum step_action action, step_check_fn *check,
              const char *format, ...)
{
    char name[128];
    struct step_result result = {0};
    const char *only = getenv("CRASH_ONLY"); /* a part of the name: runs these alone */
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof(name), format, args);
    va_end(args);
    if (only != NULL && strstr(name, only) == NULL)
        return 0;
    struct step_scenario chosen = *scenario;
    chosen.name = name;
    if (crash_quick()) {
        if (chosen.same == NULL)
            chosen.same = crash_same;
        chosen.skip_private = true;
    } else if (support_depth() == SUPPORT_LONG) {
        chosen.skip_private = false;
    }
    int rc = step_every(&chosen, action, check, &result);
    total += result.reached;
    total_failed += result.failed;
    if (rc != 0 && result.failed == 0)
        total_failed++; /* not every point was reached */
    return rc;
}

int crash_report(const char *suite)
{
    printf("%s: %zu instructions, %zu failed\n", suite, total, total_failed);
    if (crash_leftovers != 0)
        printf("%s: %u buses were not clean at their end\n", suite, crash_leftovers);
    return total_failed != 0 || crash_leftovers != 0 || total == 0;
}
