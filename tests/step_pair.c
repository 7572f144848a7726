/* The driver of step_pair.h. */
#include "tests/step_pair.h"

#include "tests/support.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CHANGES_MAX 64u

/* What runs now: a step_scenario's functions get the test's own pointer. */
static const struct step_pair *pair;
static struct step_child first;
static struct step_walk first_walk;
static size_t first_at; /* the point where it stands */

static void teardown(void *user)
{
    step_kill(&first);
    pair->first->teardown(user);
}

uint64_t step_sum(const void *from, const void *to)
{
    const unsigned char *at = from, *end = to;
    uint64_t sum = 0, word;
    for (; at + sizeof(word) <= end; at += sizeof(word)) {
        memcpy(&word, at, sizeof(word));
        sum = sum * UINT64_C(0x9e3779b97f4a7c15) + word;
    }
    return sum;
}

/* A world where the first one stands, or none. */
static int setup(void *user)
{
    int rc = pair->first->setup(user);
    if (rc == 0)
        rc = step_start(&first, pair->first);
    if (rc == 0)
        rc = step_reach(&first, &first_walk, first_at);
    if (rc == 0 && pair->between != NULL)
        rc = pair->between(user);
    if (rc != 0)
        teardown(user);
    return rc;
}

static bool walk_steadily(const struct step_scenario *scenario, struct step_walk *walk)
{
    bool steady = step_walk(scenario, walk) == 0 && !walk->varies;
    if (!steady)
        printf("%s: no way that is always the same\n", scenario->name);
    return steady;
}

/* The points behind each change that the first one makes alone. */
static size_t find_changes(size_t at[CHANGES_MAX])
{
    size_t cnt = 0;
    int rc = walk_steadily(pair->first, &first_walk) ? pair->first->setup(pair->user) : -EAGAIN;
    if (rc != 0)
        return 0;
    rc = step_start(&first, pair->first);
    uint64_t sum = pair->sum(pair->user);
    for (size_t k = 1; rc == 0 && k < first_walk.count; k++) {
        rc = step_reach(&first, NULL, k);
        uint64_t now = pair->sum(pair->user);
        if (rc == 0 && now != sum && cnt == CHANGES_MAX)
            rc = -ENOSPC;
        else if (rc == 0 && now != sum)
            at[cnt++] = k;
        sum = now;
    }
    if (rc != 0)
        printf("%s: after %zu changes: %d\n", pair->first->name, cnt, rc);
    teardown(pair->user);
    return rc == 0 ? cnt : 0;
}

static int visit(const struct step_scenario *second, struct step_walk *walk, size_t k)
{
    struct step_child child = {.scenario = second};
    int failed = 1;
    if (setup(pair->user) != 0) {
        printf("%s: no world for point %zu\n", second->name, k);
        return failed;
    }
    if (step_start(&child, second) != 0 || step_reach(&child, walk, k) != 0)
        printf("%s: point %zu was not reached\n", second->name, k);
    else
        failed = pair->check(&first, &child, k, pair->user) != 0;
    if (failed != 0)
        printf("%s: failed at %zu, beside %s at %zu\n", second->name, k, pair->first->name,
               first_at);
    step_kill(&child);
    teardown(pair->user);
    return failed;
}

/* The second one at its points, beside the first one at first_at. */
static int run_beside(const struct step_scenario *second, size_t *reached)
{
    struct step_walk walk = {0};
    int failed = !walk_steadily(second, &walk);
    bool visited = false; /* this point, or one that it is the same as */
    for (size_t k = 0; k < walk.count && failed == 0; k++) {
        visited = visited && walk.points[k].same;
        if (visited || walk.points[k].occurrence > pair->turns)
            continue;
        failed = visit(second, &walk, k);
        visited = true;
        ++*reached;
    }
    step_walk_free(&walk);
    return failed;
}

int step_pair(const struct step_pair *chosen)
{
    size_t at[CHANGES_MAX], reached = 0;
    struct step_scenario second = *chosen->second;
    pair = chosen;
    second.setup = setup;
    second.teardown = teardown;
    second.user = pair->user;
    second.skip_private = support_depth() != SUPPORT_LONG;
    size_t cnt = find_changes(at);
    int failed = cnt < pair->changes_min;
    for (size_t i = 0; i < cnt && failed == 0; i++) {
        first_at = at[i];
        failed = run_beside(&second, &reached);
    }
    step_walk_free(&first_walk);
    failed |= reached < pair->points_min;
    printf("%s beside %s behind %zu changes: %zu instructions, %d failed\n", second.name,
           pair->first->name, cnt, reached, failed);
    return failed;
}
