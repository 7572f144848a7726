/* What the tests of libgeb share: buses of one line, a handler that keeps what it saw, and the
 * account checked from three sides at once.
 *
 *     struct api a = {0};
 *     api_open(&a, GEB_BLOCK, 4);                 // a.bus, a.name, a.producer, a.topic
 *     geb_on(a.bus, "t", api_record, &log);
 *     assert_int_equal(geb_dispatch(a.bus, 0), 3);
 *     api_account(a.bus);                         // it adds up
 *     api_end(&a);                                // and nothing is left in the directory
 */
#ifndef GEB_TESTS_API_SUPPORT_H
#define GEB_TESTS_API_SUPPORT_H

#include "lib/geb.h"
#include "tests/support.h"

#define API_ROWS 512u

struct api_row {
    struct geb_event event; /* its data is not valid any more: */
    unsigned char data[64]; /* the first bytes of it */
};

struct api_log {
    uint32_t cnt;   /* calls, also beyond API_ROWS */
    int rc;         /* what the handler returns */
    int mark;       /* its own value, and where the order of calls goes: */
    int *order;     /* NULL, or a row of marks that several handlers share … */
    uint32_t *used; /* … with its length */
    struct api_row row[API_ROWS];
};

/* A handler; user is a struct api_log. */
int api_record(struct geb_context *ctx, const struct geb_event *event, void *user);

struct api {
    char name[64];
    struct geb_config config;
    struct geb_bus *bus;
    struct geb_producer *producer; /* has topic "t" */
    geb_topic_id topic;
};

/* A small configuration: 4 producers (1 if exclusive), 4 topics, no slabs. */
struct geb_config api_config(enum geb_policy policy, uint32_t capacity);

/* A new bus and its first producer; a failure fails the test. api_open_slabs: with so many bytes of
 * slabs; api_open_config: any. */
void api_open(struct api *api, enum geb_policy policy, uint32_t capacity);
void api_open_slabs(struct api *api, enum geb_policy policy, uint32_t capacity, uint64_t bytes);
void api_open_config(struct api *api, const struct geb_config *config);

/* Leaves, closes and removes what is there, and checks that the directory has nothing of it. */
void api_end(struct api *api);

/* Publishes the 64-bit numbers from … from + cnt - 1; each must succeed. */
void api_publish(struct api *api, uint64_t from, uint32_t cnt);

/* The number in a recorded event. */
uint64_t api_number(const struct api_row *row);

/* The metrics, after checking that the account adds up, that published, processed and used agree
 * with it, and that an observer sees the same. */
struct geb_metrics api_account(struct api *api);

/* Fails unless rc is expected and geb_last_error() has this text. */
#define api_refused(rc, expected, text) api_refused_at(rc, expected, text, __FILE__, __LINE__)
void api_refused_at(int rc, int expected, const char *text, const char *file, int line);

/* Waits until an observer sees the slot in this state; the state is a fact that polling finds. */
void api_await_state(struct api *api, uint32_t slot, const char *state);

/* Kills the test when one of its calls hangs: SIGALRM after so many seconds; 0: no more. */
void api_watchdog(unsigned seconds);

#endif
