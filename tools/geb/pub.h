/* geb pub: pub.c has the options and single events, pub_lines.c the lines of standard input. */
#ifndef TOOLS_GEB_PUB_H
#define TOOLS_GEB_PUB_H

#include "lib/geb.h"
#include "tools/common.h"

#include <stdbool.h>

struct pub {
    /* What the user asked for. */
    const char *bus, *topic_name, *data, *who;
    bool lines, split, has_id;
    uint64_t key, id;
    double per_s;      /* 0: as fast as it goes */
    uint64_t count;    /* UINT64_MAX: no end but that of the input */
    uint64_t limit_ns; /* how long a full bus may make one event wait; GEB_FOREVER */

    struct geb_producer *producer;
    struct geb_watch *watch;
    geb_topic_id topic;
    uint32_t max_event, capacity;
    uint64_t begun_ns;
    uint64_t published, bytes;
    struct tool_progress progress;
};

/* Publishes one event: waits for its turn (--rate) and by the policy of the bus. 0, -errno; -EINTR:
 * interrupted before it was published. */
int pub_event(struct pub *pub, const void *data, size_t len);

/* Says that pub_event failed; where: "line 7", or NULL. Returns the exit code. */
int pub_failed(struct pub *pub, const char *where, int rc);

/* Publishes standard input. Returns the exit code. */
int pub_lines(struct pub *pub);

#endif
