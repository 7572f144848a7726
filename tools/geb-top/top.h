/* geb-top: what can be seen of a bus from outside.
 *
 *     main.c    options and the loop        sample.c   reading one sample through geb_watch
 *     text.c    a sample for people         json.c     a sample for programs
 */
#ifndef TOOLS_GEB_TOP_TOP_H
#define TOOLS_GEB_TOP_TOP_H

#include "lib/geb.h"

#include <stdio.h>

struct top_sample {
    uint64_t taken_ns;
    char name[64]; /* the last part of the path */
    const char *backing;
    struct geb_bus_info info;
    struct geb_metrics metrics;
    struct geb_participant *participants;
    struct geb_topic_row *topics;
    struct geb_handler_row *handlers;
    struct geb_error_row *errors;
    struct geb_slab_row *slabs;
    uint32_t participant_cnt, topic_cnt, handler_cnt, error_cnt, slab_cnt;
    uint32_t handler_max, error_max, slab_max;
};

/* Makes room for the rows that the bus can have. 0 or -errno; top_sample_free in any case. */
int top_sample_init(struct top_sample *sample, struct geb_watch *watch);
void top_sample_free(struct top_sample *sample);

/* Returns 0 or -errno. */
int top_sample_take(struct top_sample *sample, struct geb_watch *watch);

/* NULL if the bus has no consumer. */
const struct geb_participant *top_consumer(const struct top_sample *sample);
const char *top_topic_name(const struct top_sample *sample, geb_topic_id topic);
const char *top_policy_name(enum geb_policy policy);

/* Prints a sample; rates are those since the one before (NULL: none). */
void top_text_print(const struct top_sample *sample, const struct top_sample *before, FILE *to);

/* Prints one JSON object in one line. Returns 0 or -ENOMEM; ferror tells about `to`. */
int top_json_print(const struct top_sample *sample, FILE *to);

#endif
