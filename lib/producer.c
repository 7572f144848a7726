/* Publishing: a copy, a batch, a loan. */
#include "lib/internal.h"

#include <errno.h>
#include <string.h>

/* ---- topics ---------------------------------------------------------------------------------- */

int geb_topic_schema(struct geb_producer *p, const char *name, const char *schema, uint32_t bytes,
                     geb_topic_id *topic)
{
    int rc = gebi_check_producer(p);
    if (rc < 0)
        return rc;
    if (topic == NULL)
        return gebi_fail(-EINVAL, "the result pointer is NULL");
    return gebi_topic_intern(&p->map, p->slot, name, schema, bytes, topic);
}

int geb_topic(struct geb_producer *p, const char *name, geb_topic_id *topic)
{
    return geb_topic_schema(p, name, NULL, 0, topic);
}

void geb_cancel(struct geb_producer *p)
{
    if (p == NULL || !gebi_visit(&p->life, GEBI_PRODUCER_MAGIC))
        return;                            /* no message: this may be a signal handler */
    shr_store32_release(&p->cancelled, 1); /* edge W3 release: before the wake */
    shr_gate_wake(&p->map.hot->space);
    shr_gate_wake(&p->map.hot->freed);
    gebi_visit_end(&p->life);
}

/* ---- publishing ------------------------------------------------------------------------------ */

static SHR_COLD int check_topic_slow(struct geb_producer *p, geb_topic_id topic, size_t len)
{
    if (!gebi_topic_exists(&p->map, topic))
        return gebi_fail(-ENXIO, "topic %u was never registered", topic);
    if (len > p->max_event)
        return gebi_fail(-EMSGSIZE, "the event has %zu bytes, max_event is %u", len, p->max_event);
    uint64_t bytes = shr_load_relaxed(&p->map.topics[topic].schema_bytes);
    if (bytes != 0 && bytes != len)
        return gebi_fail(-EMSGSIZE, "the topic's schema has %llu bytes, the event %zu",
                         (unsigned long long)bytes, len);
    /* Where a cell could hold more than max_event, every event comes here, so that the fast path
     * need not compare. */
    if (bytes == 0 && topic < GEBI_TOPICS_KNOWN && p->max_event >= SHR_INLINE_BYTES)
        p->topic_known[topic / 64] |= UINT64_C(1) << topic % 64;
    return 0;
}

static inline int check_topic(struct geb_producer *p, geb_topic_id topic, size_t len)
{
    if (SHR_LIKELY(topic < GEBI_TOPICS_KNOWN &&
                   (p->topic_known[topic / 64] >> topic % 64 & 1) != 0))
        return 0;
    return check_topic_slow(p, topic, len);
}

/* A copy of 0 … 32 bytes into zeroed words, without a call. */
static inline void copy_small(uint64_t *to, const void *from, size_t len)
{
    unsigned char *t = (unsigned char *)to;
    const unsigned char *f = from;
    if (len >= 16) {
        memcpy(t, f, 16);
        memcpy(t + len - 16, f + len - 16, 16);
    } else if (len >= 8) {
        memcpy(t, f, 8);
        memcpy(t + len - 8, f + len - 8, 8);
    } else if (len >= 4) {
        memcpy(t, f, 4);
        memcpy(t + len - 4, f + len - 4, 4);
    } else {
        for (size_t i = 0; i < len; i++)
            t[i] = f[i];
    }
}

static SHR_COLD uint64_t stamp_word(void)
{
    uint32_t stamp = (uint32_t)(shr_now_ns() / SHR_STAMP_NS);
    return (uint64_t)(stamp != 0 ? stamp : 1) << 32;
}

static inline uint64_t number_word(const struct geb_producer *p)
{
    uint32_t low = (uint32_t)(p->writer.number + 1);
    return SHR_LIKELY((low & p->stamp_mask) != 0) ? low : stamp_word() | low;
}

/* One attempt: commits composed words and wakes the consumer; or -EAGAIN: full; -EINTR: try again.
 * Inlined with words that no pointer leaves and that no loop needs again, so that they stay in
 * registers. */
SHR_HOT int try_publish(struct geb_producer *p, uint64_t words[SHR_CELL_WORDS], uint32_t events,
                        uint64_t bytes)
{
    words[SHR_WORD_NUMBER] = number_word(p);
    int64_t pos = shr_try_publish(&p->writer, words, events);
    if (SHR_UNLIKELY(pos < 0))
        return (int)pos;
    shr_a64 *sum = &p->writer.peer->bytes;
    shr_store_relaxed(sum, shr_load_relaxed(sum) + bytes);
    shr_gate_notify(&p->writer.ring.hot->bell, p->fence);
    return 0;
}

/* Publishes composed words, making room by the policy. */
static int publish_words(struct geb_producer *p, uint64_t words[SHR_CELL_WORDS], uint32_t events,
                         uint64_t bytes, struct gebi_overrun *overrun)
{
    int rc;
    while (SHR_UNLIKELY((rc = try_publish(p, words, events, bytes)) < 0)) {
        if ((rc = gebi_make_room(p, rc, overrun)) < 0)
            return rc;
    }
    return 0;
}

/* Publishes a block. */
static int publish_block(struct geb_producer *p, geb_topic_id topic, uint64_t ref, size_t len,
                         uint32_t events, const struct geb_options *options,
                         struct gebi_overrun *overrun)
{
    uint32_t flags = SHR_FLAG_SLAB | (events != 0 ? SHR_FLAG_BATCH : 0);
    uint64_t words[SHR_CELL_WORDS] = {0};
    uint32_t ext = SHR_CELL_WORDS;
    if (options != NULL) {
        words[SHR_WORD_KEY] = options->key;
        if (options->deadline_ns != 0) {
            flags |= SHR_FLAG_DEADLINE;
            words[--ext] = options->deadline_ns;
        }
        if (options->id != 0) {
            flags |= SHR_FLAG_ID;
            words[--ext] = options->id;
        }
    }
    words[SHR_WORD_META] = shr_meta(topic, p->slot, 0, flags);
    words[SHR_WORD_BODY] = ref;
    words[SHR_WORD_BODY + 1] = (uint64_t)events << 32 | (uint32_t)len;
    return publish_words(p, words, events != 0 ? events : 1, len, overrun);
}

/* A block of len bytes, making room by the policy. */
static int allocate(struct geb_producer *p, size_t len, struct gebi_overrun *overrun, uint64_t *ref)
{
    if (SHR_UNLIKELY(len > p->max_event))
        return gebi_fail(-EMSGSIZE, "the event has %zu bytes, max_event is %u", len, p->max_event);
    for (;;) {
        int rc = shr_alloc(&p->heap, (uint32_t)len, ref);
        if (SHR_LIKELY(rc != -ENOBUFS)) {
            overrun->entered = false; /* the next wait is at another gate */
            return rc;
        }
        rc = gebi_make_room(p, rc, overrun);
        if (rc < 0)
            return rc;
    }
}

/* How long a call may wait. */
static struct gebi_overrun overrun_of(const struct geb_options *options)
{
    return (struct gebi_overrun){.wait_until_ns = options != NULL ? options->wait_until_ns
                                                                  : GEB_FOREVER};
}

static SHR_COLD int publish_large(struct geb_producer *p, geb_topic_id topic, const void *data,
                                  size_t len, const struct geb_options *options)
{
    uint64_t ref;
    struct gebi_overrun overrun = overrun_of(options);
    int rc = allocate(p, len, &overrun, &ref);
    if (rc < 0)
        return rc;
    memcpy(shr_block_data(&p->map, ref), data, len);
    rc = publish_block(p, topic, ref, len, 0, options, &overrun);
    if (rc < 0)
        shr_block_free(&p->map, ref);
    return rc;
}

/* Composes and tries; inlined once for the full length, where all words stay in registers. */
SHR_HOT int try_inline(struct geb_producer *p, geb_topic_id topic, const void *data, size_t len)
{
    uint64_t words[SHR_CELL_WORDS] = {0};
    words[SHR_WORD_META] = shr_meta(topic, p->slot, (uint32_t)len, 0);
    copy_small(&words[SHR_WORD_BODY], data, len);
    return try_publish(p, words, 1, len);
}

/* The first attempt gave rc: the bus was full, or the ticket void. */
static SHR_COLD int publish_again(struct geb_producer *p, geb_topic_id topic, const void *data,
                                  size_t len, int rc)
{
    struct gebi_overrun overrun = overrun_of(NULL);
    do {
        if ((rc = gebi_make_room(p, rc, &overrun)) < 0)
            return rc;
        rc = try_inline(p, topic, data, len);
    } while (rc < 0);
    return 0;
}

int geb_publish(struct geb_producer *p, geb_topic_id topic, const void *data, size_t len)
{
    int rc = gebi_check_producer(p);
    if (SHR_LIKELY(rc == 0))
        rc = check_topic(p, topic, len);
    if (SHR_UNLIKELY(rc < 0))
        return rc;
    if (SHR_UNLIKELY(data == NULL && len != 0))
        return gebi_fail(-EINVAL, "data is NULL and len is %zu", len);
    if (SHR_LIKELY(len == SHR_INLINE_BYTES))
        rc = try_inline(p, topic, data, SHR_INLINE_BYTES);
    else if (SHR_LIKELY(len < SHR_INLINE_BYTES))
        rc = try_inline(p, topic, data, len);
    else
        return publish_large(p, topic, data, len, NULL);
    return SHR_LIKELY(rc == 0) ? 0 : publish_again(p, topic, data, len, rc);
}

static int check_options(const struct geb_options *options)
{
    if (options != NULL && options->size != sizeof(*options))
        return gebi_fail(-EINVAL, "geb_options.size is %zu, not %zu: start from GEB_OPTIONS_INIT",
                         options->size, sizeof(*options));
    return 0;
}

int geb_publish_with(struct geb_producer *p, geb_topic_id topic, const void *data, size_t len,
                     const struct geb_options *options)
{
    if (options == NULL)
        return geb_publish(p, topic, data, len);
    int rc = gebi_check_producer(p);
    if (rc == 0)
        rc = check_options(options);
    if (rc == 0)
        rc = check_topic(p, topic, len);
    if (rc < 0)
        return rc;
    if (data == NULL && len != 0)
        return gebi_fail(-EINVAL, "data is NULL and len is %zu", len);
    uint32_t flags = (options->deadline_ns != 0 ? SHR_FLAG_DEADLINE : 0) |
                     (options->id != 0 ? SHR_FLAG_ID : 0);
    if (len > shr_inline_room(flags))
        return publish_large(p, topic, data, len, options);
    uint64_t words[SHR_CELL_WORDS] = {0};
    uint32_t ext = SHR_CELL_WORDS;
    if (options->deadline_ns != 0)
        words[--ext] = options->deadline_ns;
    if (options->id != 0)
        words[--ext] = options->id;
    words[SHR_WORD_META] = shr_meta(topic, p->slot, (uint32_t)len, flags);
    words[SHR_WORD_KEY] = options->key;
    copy_small(&words[SHR_WORD_BODY], data, len);
    struct gebi_overrun overrun = overrun_of(options);
    return publish_words(p, words, 1, len, &overrun);
}

/* ---- batches --------------------------------------------------------------------------------- */

/* Size of all frames, or an error. */
static int64_t measure_batch(struct geb_producer *p, const struct geb_message *messages,
                             uint32_t cnt)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < cnt; i++) {
        if (messages[i].data == NULL && messages[i].len != 0)
            return gebi_fail(-EINVAL, "data of message %u is NULL", i);
        int rc = check_topic(p, messages[i].topic, messages[i].len);
        if (rc < 0)
            return rc;
        bytes += gebi_frame_bytes(messages[i].len);
    }
    if (bytes > p->max_event)
        return gebi_fail(-EMSGSIZE, "the batch takes %llu bytes with its frames, max_event is %u",
                         (unsigned long long)bytes, p->max_event);
    return (int64_t)bytes;
}

static void fill_batch(unsigned char *to, const struct geb_message *messages, uint32_t cnt)
{
    for (uint32_t i = 0; i < cnt; i++) {
        const struct geb_message *m = &messages[i];
        struct gebi_frame frame = {.bytes = m->len, .topic = m->topic, .key = m->key};
        uint64_t whole = gebi_frame_bytes(m->len);
        memcpy(to, &frame, sizeof(frame));
        if (m->len != 0)
            memcpy(to + sizeof(frame), m->data, m->len);
        memset(to + sizeof(frame) + m->len, 0, whole - sizeof(frame) - m->len);
        to += whole;
    }
}

int geb_publish_batch(struct geb_producer *p, const struct geb_message *messages, uint32_t cnt,
                      const struct geb_options *options)
{
    int rc = gebi_check_producer(p);
    if (rc == 0)
        rc = check_options(options);
    if (rc < 0)
        return rc;
    if (cnt == 0 || messages == NULL)
        return gebi_fail(-EINVAL, "a batch has at least one message");
    int64_t bytes = measure_batch(p, messages, cnt);
    if (bytes < 0)
        return (int)bytes;
    uint64_t ref;
    struct gebi_overrun overrun = overrun_of(options);
    rc = allocate(p, (size_t)bytes, &overrun, &ref);
    if (rc < 0)
        return rc;
    fill_batch(shr_block_data(&p->map, ref), messages, cnt);
    rc = publish_block(p, messages[0].topic, ref, (size_t)bytes, cnt, NULL, &overrun);
    if (rc < 0)
        shr_block_free(&p->map, ref);
    return rc;
}

/* ---- loans ----------------------------------------------------------------------------------- */

int geb_loan(struct geb_producer *p, size_t len, struct geb_loan *loan)
{
    int rc = gebi_check_producer(p);
    if (rc < 0)
        return rc;
    if (loan == NULL || len == 0)
        return gebi_fail(-EINVAL, loan == NULL ? "the result pointer is NULL"
                                               : "a loan has at least one byte");
    *loan = (struct geb_loan){0};
    uint64_t ref;
    struct gebi_overrun overrun = overrun_of(NULL);
    rc = allocate(p, len, &overrun, &ref);
    if (rc < 0)
        return rc;
    *loan = (struct geb_loan){.data = shr_block_data(&p->map, ref), .len = len, .handle = ref};
    return 0;
}

/* Whether this is a loan of ours that is still out; its len is the caller's to change. */
static int check_loan(const struct geb_producer *p, const struct geb_loan *loan)
{
    if (loan == NULL || loan->handle == 0 || !shr_block_valid(&p->map, loan->handle, 0) ||
        !shr_owner_is(shr_load_relaxed(&p->map.owners[shr_ref_chunk(loan->handle)]), p->heap.owner))
        return gebi_fail(-EINVAL, "this is no loan of this producer, or not any more");
    return 0;
}

int geb_commit_with(struct geb_producer *p, struct geb_loan *loan, geb_topic_id topic,
                    const struct geb_options *options)
{
    int rc = gebi_check_producer(p);
    if (rc == 0)
        rc = check_options(options);
    if (rc == 0)
        rc = check_loan(p, loan);
    if (rc == 0 && !shr_block_valid(&p->map, loan->handle, loan->len))
        rc = gebi_fail(-EINVAL, "the loan has no room for %zu bytes", loan->len);
    if (rc == 0 && loan->len > p->max_event) /* a block may have room for more */
        rc = gebi_fail(-EMSGSIZE, "the loan has %zu bytes, max_event is %u", loan->len,
                       p->max_event);
    if (rc == 0)
        rc = check_topic(p, topic, loan->len);
    if (rc < 0)
        return rc;
    struct gebi_overrun overrun = overrun_of(options);
    rc = publish_block(p, topic, loan->handle, loan->len, 0, options, &overrun);
    if (rc == 0)
        *loan = (struct geb_loan){0};
    return rc;
}

int geb_commit(struct geb_producer *p, struct geb_loan *loan, geb_topic_id topic)
{
    return geb_commit_with(p, loan, topic, NULL);
}

int geb_return(struct geb_producer *p, struct geb_loan *loan)
{
    int rc = gebi_check_producer(p);
    if (rc == 0)
        rc = check_loan(p, loan);
    if (rc < 0)
        return rc;
    shr_block_free(&p->map, loan->handle);
    *loan = (struct geb_loan){0};
    return 0;
}
