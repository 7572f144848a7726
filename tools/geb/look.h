/* What ls, info, rm and doctor see of a bus from outside. */
#ifndef TOOLS_GEB_LOOK_H
#define TOOLS_GEB_LOOK_H

#include "lib/geb.h"

#include <jansson.h>

struct look {
    char name[256]; /* the last part of the path */
    int rc;         /* 0, or why nothing else here is valid */
    struct geb_bus_info info;
    struct geb_metrics metrics;
    struct geb_participant *rows;
    uint32_t row_cnt;
};

/* Looks at a bus, of which name is the name or the path. look_free in any case. Returns look->rc;
 * right after it geb_last_error() is about that. */
int look_take(struct look *look, const char *name);
void look_free(struct look *look);

/* NULL: nobody has the role. */
const struct geb_participant *look_consumer(const struct look *look);
/* How many participants there are that are not the consumer, dead ones or those that live. */
uint32_t look_producers(const struct look *look, bool dead);
bool look_is_dead(const struct geb_participant *row);

/* Calls `each` for every file of the directory of the buses, in the order of their names, hidden
 * ones too. Returns how many, or -errno. */
int look_directory(const char *dir, void (*each)(const char *path, const char *name, void *user),
                   void *user);

/* Says why geb_create failed with rc. Returns the exit code. */
int look_create_failed(const char *tool, const char *bus, int rc);

const char *look_policy(enum geb_policy policy);
const char *look_backing(const char *path);

/* Text from shared memory or from names of files: what is no UTF-8 is shown as '?'. */
json_t *look_text(const char *text);
/* The same for people: no control characters reach the terminal. Returns shown. */
char *look_shown(char *shown, size_t bytes, const char *text);
json_t *look_number(uint64_t number);
json_t *look_participants(const struct look *look);

/* Prints in one line, or indented if `indent`, and takes the reference. The exit code. */
int look_print(const char *tool, json_t *json, bool indent);
/* Whether all that was printed has been written: the exit code. */
int look_done(const char *tool);

#endif
