/* Goal: whoever makes a bus, takes part in its set-up or removes it may be killed at any
 * instruction: there is no bus, or a whole one, and no memory is left that nobody can find.
 *
 * Method: a child is killed at each instruction of one call in turn.
 *   create     geb_create, no bus being there
 *   named      the same in a directory that knows no files without a name: a draft may be left
 *              behind, which shr_draft_check finds, as geb doctor does
 *   on         geb_on for a new topic: a row for it, and one for its handler
 *   remove     geb_remove of a bus in which nobody takes part
 * Then the bus, if there is one, is opened and used, and in the end nothing is left. It is killed
 * where something differs: names in the directory, or bytes of the bus once it has its name. */
#include "tests/crash_death.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>

STEP_CLOCK_GETTIME

enum way { WAY_CREATE, WAY_NAMED, WAY_ON, WAY_REMOVE };
static const char *const way_text[] = {"create", "create a file with a name", "on", "remove"};

static enum way way(const struct crash_world *w)
{
    return (enum way)w->state;
}

/* geb_create reads in /proc how much memory there is, and that text is never the same twice. The
 * child cannot open it, so the way through the region is always one. */
static bool is_child;

FILE *fopen(const char *path, const char *mode)
{
    int fd = is_child ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? NULL : fdopen(fd, mode);
}

/* The name of a draft is a random number, and printing one that begins with zeros takes other
 * instructions. The child's is always the same. */
ssize_t getrandom(void *to, size_t bytes, unsigned flags)
{
    ssize_t got = syscall(SYS_getrandom, to, bytes, flags);
    if (is_child)
        memset(to, 0xa5, bytes);
    return got;
}

static struct geb_config config;

static int setup(void *user)
{
    struct crash_world *w = user;
    int rc = crash_death_setup(w);
    if (rc == 0 && way(w) != WAY_ON)
        rc = crash_leave(crash_test_sender(w));
    if (rc == 0 && way(w) <= WAY_NAMED) {
        shr_segment_detach(&w->map);
        rc = geb_remove(w->name);
    }
    crash_config(w, &config);
    return rc;
}

static int prepare(void *user)
{
    struct crash_world *w = user;
    int rc = way(w) == WAY_ON ? crash_open(w) : 0;
    if (way(w) == WAY_NAMED)
        rc = support_deny(SYS_openat, 2, O_TMPFILE & ~O_DIRECTORY, EOPNOTSUPP);
    is_child = true;
    step_clock_steady();
    return rc;
}

static int region(void *user)
{
    struct crash_world *w = user;
    switch (way(w)) {
    case WAY_ON:
        return crash_on(w, "fresh");
    case WAY_REMOVE:
        return geb_remove(w->name);
    default:
        return geb_create(&w->bus, w->name, &config);
    }
}

/* Nothing is missing at the end of a child that nobody killed. */
static int finish(void *user)
{
    struct crash_world *w = user;
    int rc = way(w) == WAY_REMOVE ? geb_create(&w->bus, w->name, &config) : 0;
    return rc == 0 ? geb_close(w->bus, 0) : rc;
}

static bool is_there(const struct crash_world *w)
{
    char path[SHR_PATH_BYTES];
    return shr_segment_path(w->name, false, path) == 0 && access(path, F_OK) == 0;
}

/* Maps the bus as soon as it has its name. */
static int look(struct crash_world *w)
{
    char path[SHR_PATH_BYTES];
    if (w->map.base != NULL || !is_there(w))
        return 0;
    int rc = shr_segment_path(w->name, false, path);
    return rc == 0 ? shr_segment_attach(&w->map, path, false) : rc;
}

static bool same(void *user)
{
    static unsigned names;
    struct crash_world *w = user;
    unsigned before = names;
    names = support_entries(support_dir());
    if (look(w) != 0)
        return false;
    return w->map.base != NULL ? crash_same(w) : names == before;
}

/* ---- checks ---------------------------------------------------------------------------------- */

/* Removes the drafts of dead creators; returns how many, or -1 if something else was there. */
static int drafts_remove(const struct crash_world *w)
{
    char path[SHR_PATH_BYTES];
    struct dirent *entry;
    int cnt = 0;
    DIR *dir = opendir(support_dir());
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            strcmp(entry->d_name, w->name) == 0)
            continue;
        snprintf(path, sizeof(path), "%s/%.64s", support_dir(), entry->d_name);
        if (shr_draft_check(path, true) != 0) {
            printf("%s: %s is left\n", way_text[w->state], entry->d_name);
            cnt = -1;
            break;
        }
        cnt++;
    }
    if (dir != NULL)
        closedir(dir);
    return cnt;
}

/* Every row that an observer sees is whole. */
static int check_rows(const struct crash_world *w)
{
    struct geb_handler_row rows[16];
    struct geb_watch *watch;
    CRASH_EQUAL(geb_watch(&watch, w->name), 0);
    int cnt = geb_watch_handlers(watch, rows, 16);
    geb_unwatch(watch);
    CRASH_CHECK(cnt == 1 || cnt == 2); /* of "events", and of "fresh" */
    for (int i = 0; i < cnt; i++)
        CRASH_CHECK(strcmp(rows[i].name, i == 0 ? "events" : "fresh") == 0);
    return 0;
}

/* The next consumer has a bus that works. */
static int check_use(struct crash_world *w, bool exists)
{
    struct crash_death death = {0};
    if (exists)
        CRASH_EQUAL(crash_open(w), 0);
    else
        CRASH_EQUAL(geb_create(&w->bus, w->name, &config), 0);
    CRASH_EQUAL(look(w), 0);
    if (!exists)
        CRASH_EQUAL(crash_on(w, "events"), 0);
    CRASH_EQUAL(crash_on(w, "fresh"), 0);
    struct crash_sender *s = crash_test_sender(w);
    if (s->p == NULL)
        CRASH_EQUAL(crash_join(w, s, CRASH_SUCCESSOR), 0);
    CRASH_TRY(crash_go_on(w, s, CRASH_SLAB, crash_laps(w, 2)));
    CRASH_TRY(crash_death_note(w, &death));
    return crash_death_end(w, &death);
}

static int check(struct step_child *child, size_t k, void *user)
{
    struct crash_world *w = user;
    bool exists = is_there(w);
    int drafts = drafts_remove(w);
    (void)child;
    (void)k;
    CRASH_CHECK(drafts == 0 || (way(w) == WAY_NAMED && drafts == 1 && !exists));
    if (way(w) <= WAY_NAMED) { /* a ledger of this bus, not of the one that setup removed */
        memset(w->ledger, 0, sizeof(*w->ledger));
        CRASH_EQUAL(look(w), 0);
    }
    if (way(w) == WAY_ON) {
        CRASH_CHECK(exists);
        CRASH_TRY(check_rows(w));
    }
    if (way(w) == WAY_REMOVE && !exists) {
        memset(w->ledger, 0, sizeof(*w->ledger));
        shr_segment_detach(&w->map);
    }
    return check_use(w, exists);
}

int main(void)
{
    static struct crash_world w = {.slab_bytes = 2 * SHR_CHUNK_BYTES};
    struct step_scenario s = {.setup = setup,
                              .prepare = prepare,
                              .region = region,
                              .finish = finish,
                              .teardown = crash_teardown,
                              .same = same,
                              .user = &w};
    crash_begin();
    for (w.state = WAY_CREATE; w.state <= WAY_REMOVE; w.state++) {
        for (int exclusive = 0; exclusive < 2; exclusive++) {
            w.exclusive = exclusive != 0;
            crash_run(&s, STEP_KILL, check, "%s, %s", way_text[w.state],
                      w.exclusive ? "exclusive" : "shared");
        }
    }
    return crash_report("crash_create");
}
