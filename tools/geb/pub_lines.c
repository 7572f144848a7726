/* geb pub --lines. Each line is an event of its own, also where many could travel as one batch: a
 * batch would be dropped, counted and delivered again as a whole, and `geb consume --count 1` could
 * not take one line of it. */
#include "tools/common.h"
#include "tools/geb/pub.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_BYTES     (UINT64_C(1) << 18)
#define UTF8_BYTES_MAX 4u

struct input {
    char *text;
    size_t room, start, end; /* text[start … end): read, not yet published */
    size_t searched;         /* no newline before it */
    uint64_t line;           /* number of the line at start, from 1 */
    bool at_end;
};

/* Reads more behind what is there. 0, -errno; -EINTR: interrupted. */
static int input_fill(struct input *in)
{
    if (in->start > 0 && in->room - in->end < READ_BYTES) {
        memmove(in->text, in->text + in->start, in->end - in->start);
        in->searched -= in->start;
        in->end -= in->start;
        in->start = 0;
    }
    for (;;) {
        if (tool_interrupted != 0)
            return -EINTR;
        ssize_t got = read(STDIN_FILENO, in->text + in->end, in->room - in->end);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        in->at_end = got == 0;
        in->end += (size_t)got;
        return 0;
    }
}

static int line_failed(struct pub *pub, const struct input *in, int rc)
{
    char where[40];
    snprintf(where, sizeof where, "line %" PRIu64, in->line);
    return pub_failed(pub, where, rc);
}

/* How much of a text that is longer than max bytes makes the next piece: not a part of a UTF-8
 * character, where it is UTF-8. */
static size_t piece_len(const char *text, size_t max)
{
    size_t len = max;
    while (len > 0 && max - len < UTF8_BYTES_MAX && ((unsigned char)text[len] & 0xc0) == 0x80)
        len--;
    return len > 0 && max - len < UTF8_BYTES_MAX ? len : max;
}

/* The line at start has more than max_event bytes, and maybe no end yet. Publishes a part of it;
 * more than nothing is left. Returns -1 to go on, or the exit code. */
static int long_line_publish(struct pub *pub, struct input *in)
{
    if (!pub->split) {
        tool_progress_end(&pub->progress, pub->published, pub->bytes);
        fprintf(stderr,
                "geb pub: line %" PRIu64 " is longer than an event of \"%s\" may be: %" PRIu32
                " bytes\n"
                "  to cut such lines:  geb pub --lines --split ...\n"
                "  to allow them:  geb create --max-event SIZE ...\n",
                in->line, pub->bus, pub->max_event);
        char count[TOOL_TEXT_BYTES];
        fprintf(stderr, "geb pub: %s events were published\n", tool_count(count, pub->published));
        return TOOL_FAILURE;
    }
    size_t len = piece_len(in->text + in->start, pub->max_event);
    int rc = pub_event(pub, in->text + in->start, len);
    if (rc < 0)
        return line_failed(pub, in, rc);
    in->start += len;
    return -1;
}

/* Publishes the line at start, of len bytes. Returns -1 to go on, or the exit code. */
static int line_publish(struct pub *pub, struct input *in, size_t len)
{
    const size_t end = in->start + len;
    while (end - in->start > pub->max_event) {
        int code = long_line_publish(pub, in);
        if (code >= 0)
            return code;
        if (pub->published >= pub->count)
            return TOOL_OK;
    }
    int rc = pub_event(pub, in->text + in->start, end - in->start);
    if (rc < 0)
        return line_failed(pub, in, rc);
    in->start = end + 1;
    in->line++;
    return pub->published >= pub->count ? TOOL_OK : -1;
}

/* Publishes what is whole. Returns -1 to go on, or the exit code. */
static int buffer_publish(struct pub *pub, struct input *in)
{
    for (;;) {
        char *from = in->text + in->searched;
        char *newline = memchr(from, '\n', in->end - in->searched);
        if (newline == NULL)
            break;
        int code = line_publish(pub, in, (size_t)(newline - in->text) - in->start);
        if (code >= 0)
            return code;
        in->searched = in->start;
        if (tool_interrupted != 0)
            return line_failed(pub, in, -EINTR);
    }
    in->searched = in->end;
    while (in->end - in->start > pub->max_event) {
        int code = long_line_publish(pub, in);
        if (code >= 0 || pub->published >= pub->count)
            return code >= 0 ? code : TOOL_OK;
    }
    if (!in->at_end)
        return -1;
    if (in->end > in->start) { /* a last line without its newline */
        int code = line_publish(pub, in, in->end - in->start);
        return code >= 0 ? code : TOOL_OK;
    }
    return TOOL_OK;
}

int pub_lines(struct pub *pub)
{
    struct input in = {.line = 1};
    in.room = (size_t)pub->max_event + 1 + 2 * READ_BYTES;
    in.text = malloc(in.room);
    if (in.text == NULL) {
        fprintf(stderr, "geb pub: no memory for lines of %" PRIu32 " bytes\n", pub->max_event);
        return TOOL_FAILURE;
    }
    int code = -1;
    while (code < 0) {
        int rc = input_fill(&in);
        if (rc == -EINTR) {
            code = line_failed(pub, &in, rc);
        } else if (rc < 0) {
            fprintf(stderr, "geb pub: cannot read standard input: %s\n", strerror(-rc));
            code = TOOL_FAILURE;
        } else {
            code = buffer_publish(pub, &in);
            tool_progress(&pub->progress, pub->published, pub->bytes);
        }
    }
    tool_progress_end(&pub->progress, pub->published, pub->bytes);
    free(in.text);
    return code;
}
