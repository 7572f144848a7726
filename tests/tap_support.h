/* What the tests of the tap share. */
#ifndef GEB_TESTS_TAP_SUPPORT_H
#define GEB_TESTS_TAP_SUPPORT_H

#include "shmring/segment.h"
#include "tests/api_support.h"

#define MS    UINT64_C(1000000)
#define CHUNK SHR_CHUNK_BYTES

/* A watch with a tap; a failure fails the test. */
struct geb_watch *tap_open(const char *name, enum geb_tap_start start);
struct geb_tap_counts tap_counts(struct geb_watch *watch);

/* A handler that does nothing. */
int tap_ignore(struct geb_context *ctx, const struct geb_event *event, void *user);

/* A bus with it on "t". Mode 0: drop-oldest, 1: block, 2: error, 3: exclusive, drop-oldest. */
void tap_bus(struct api *a, unsigned mode, uint32_t capacity, uint64_t slab_bytes);

/* A map of the bus that the test may damage; it detaches it. */
struct shr_map tap_damage(const struct api *a);

#endif
