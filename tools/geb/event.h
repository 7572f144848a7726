/* Events as text: what consume and tap print.
 *
 *     plain    the data and a newline
 *     JSON     {"position","topic","producer","number","key","id","data","redelivered","attempt"}
 *              and a newline; "data_base64" instead of "data" where the data is no UTF-8
 *
 *     struct event_out out;
 *     rc = event_out_open(&out, STDOUT_FILENO, json, &stop);
 *     rc = event_put(&out, event, topic_name);          for each event, into the buffer
 *     if (out.len >= EVENT_OUT_BYTES) rc = event_flush(&out);
 *     event_flush(&out);                                whenever there is nothing else to do
 *     event_out_end(&out);                              before the last messages
 *     event_out_close(&out);
 *
 * For one thread. */
#ifndef TOOLS_GEB_EVENT_H
#define TOOLS_GEB_EVENT_H

#include "lib/geb.h"
#include "tools/common.h"

#include <signal.h>

/* Write when the buffer holds this much; it grows with a larger event. */
#define EVENT_OUT_BYTES 65536u

struct event_out {
    int fd;
    bool json;
    volatile sig_atomic_t *stop; /* set by a signal handler: the user wants to end */
    char *text;
    size_t len, room;
    uint64_t events; /* put since the buffer was empty: so many are not surely written */
    uint64_t first_pos, last_pos; /* of those */
    uint64_t all_events, all_bytes;
    struct tool_progress progress; /* while the output goes to a file or a pipe */
};

/* Gives the buffer back with event_out_close in any case. 0 or -ENOMEM. */
int event_out_open(struct event_out *out, int fd, bool json, volatile sig_atomic_t *stop);
void event_out_end(struct event_out *out);
void event_out_close(struct event_out *out);

/* Adds an event to the buffer; never writes. 0 or -ENOMEM. */
int event_put(struct event_out *out, const struct geb_event *event, const char *topic);

/* Writes the buffer. 0, or -errno of write: then what was not written is still in the buffer.
 * -EINTR: *stop was set and the reader takes nothing for a second. Needs SIGPIPE ignored. */
int event_flush(struct event_out *out);

#endif
