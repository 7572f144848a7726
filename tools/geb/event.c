/* The JSON is written by hand: its keys are fixed, jansson has no unsigned 64-bit integers, and an
 * object of jansson for each event would cost more than all the rest of consume. */
#include "tools/geb/event.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEADER_BYTES_MAX 512u /* of a JSON object, without topic and data */
#define ESCAPED_MAX      6u   /* bytes of \u0000 */

int event_out_open(struct event_out *out, int fd, bool json, volatile sig_atomic_t *stop)
{
    *out = (struct event_out){.fd = fd, .json = json, .stop = stop, .room = 2 * EVENT_OUT_BYTES};
    out->text = malloc(out->room);
    if (isatty(fd) != 1)
        tool_progress_begin(&out->progress);
    return out->text != NULL ? 0 : -ENOMEM;
}

void event_out_end(struct event_out *out)
{
    tool_progress_end(&out->progress, out->all_events, out->all_bytes);
}

void event_out_close(struct event_out *out)
{
    free(out->text);
    out->text = NULL;
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static char *text_add(char *to, const char *text)
{
    size_t len = strlen(text);
    memcpy(to, text, len);
    return to + len;
}

static char *number_add(char *to, uint64_t number)
{
    char digits[20];
    size_t at = sizeof digits;
    do
        digits[--at] = (char)('0' + number % 10);
    while ((number /= 10) != 0);
    memcpy(to, digits + at, sizeof digits - at);
    return to + sizeof digits - at;
}

/* Length of the UTF-8 character at the start of data, 0 if there is none: no overlong forms, no
 * surrogates, nothing beyond U+10FFFF. */
static size_t utf8_len(const unsigned char *data, size_t len)
{
    unsigned char first = data[0];
    size_t need = first < 0x80                     ? 1
                  : first >= 0xc2 && first <= 0xdf ? 2
                  : first >= 0xe0 && first <= 0xef ? 3
                  : first >= 0xf0 && first <= 0xf4 ? 4
                                                   : 0;
    if (need == 0 || need > len)
        return 0;
    for (size_t i = 1; i < need; i++) {
        if ((data[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((first == 0xe0 && data[1] < 0xa0) || (first == 0xed && data[1] > 0x9f) ||
        (first == 0xf0 && data[1] < 0x90) || (first == 0xf4 && data[1] > 0x8f))
        return 0;
    return need;
}

static char *escaped_add(char *to, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";
    static const char from[] = "\"\\\n\t\r\b\f", short_form[] = "\"\\ntrbf";
    const char *found = c != '\0' ? strchr(from, c) : NULL;
    *to++ = '\\';
    if (found != NULL) {
        *to++ = short_form[found - from];
        return to;
    }
    to = text_add(to, "u00");
    *to++ = hex[c >> 4];
    *to++ = hex[c & 15];
    return to;
}

/* The data as a quoted string; NULL if it is no UTF-8. Room for ESCAPED_MAX × len + 2. */
static char *string_add(char *to, const unsigned char *data, size_t len)
{
    *to++ = '"';
    for (size_t i = 0; i < len;) {
        unsigned char c = data[i];
        if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\' && c != 0x7f) {
            *to++ = (char)c;
            i++;
            continue;
        }
        if (c < 0x80) {
            to = escaped_add(to, c);
            i++;
            continue;
        }
        size_t more = utf8_len(data + i, len - i);
        if (more == 0)
            return NULL;
        memcpy(to, data + i, more);
        to += more;
        i += more;
    }
    *to++ = '"';
    return to;
}

static char *base64_add(char *to, const unsigned char *data, size_t len)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    *to++ = '"';
    for (size_t i = 0; i < len; i += 3) {
        size_t left = len - i;
        uint32_t three = (uint32_t)data[i] << 16 | (left > 1 ? (uint32_t)data[i + 1] << 8 : 0) |
                         (left > 2 ? data[i + 2] : 0u);
        *to++ = digit[three >> 18];
        *to++ = digit[three >> 12 & 63];
        *to++ = left > 1 ? digit[three >> 6 & 63] : '=';
        *to++ = left > 2 ? digit[three & 63] : '=';
    }
    *to++ = '"';
    return to;
}

/* A topic's name is from shared memory: bytes that are no UTF-8 become '?'. */
static char *topic_add(char *to, const char *topic)
{
    char *end = string_add(to, (const unsigned char *)topic, strlen(topic));
    if (end != NULL)
        return end;
    *to++ = '"';
    for (; *topic != '\0'; topic++)
        *to++ = *topic >= ' ' && *topic <= '~' && *topic != '"' && *topic != '\\' ? *topic : '?';
    *to++ = '"';
    return to;
}

static char *json_add(char *to, const struct geb_event *event, const char *topic)
{
    const unsigned char *data = event->data;
    to = number_add(text_add(to, "{\"position\":"), event->position);
    to = topic_add(text_add(to, ",\"topic\":"), topic);
    to = number_add(text_add(to, ",\"producer\":"), event->producer);
    to = number_add(text_add(to, ",\"number\":"), event->number);
    to = number_add(text_add(to, ",\"key\":"), event->key);
    to = number_add(text_add(to, ",\"id\":"), event->id);
    char *end = string_add(text_add(to, ",\"data\":"), data, event->len);
    if (end == NULL)
        end = base64_add(text_add(to, ",\"data_base64\":"), data, event->len);
    to = text_add(end, event->redelivered ? ",\"redelivered\":true" : ",\"redelivered\":false");
    to = number_add(text_add(to, ",\"attempt\":"), event->attempt);
    return text_add(to, "}\n");
}

/* ---- the buffer ------------------------------------------------------------------------------ */

static int room_make(struct event_out *out, size_t bytes)
{
    if (bytes <= out->room - out->len)
        return 0;
    size_t room = out->len + bytes + EVENT_OUT_BYTES;
    char *text = realloc(out->text, room);
    if (text == NULL)
        return -ENOMEM;
    out->text = text;
    out->room = room;
    return 0;
}

int event_put(struct event_out *out, const struct geb_event *event, const char *topic)
{
    size_t most = out->json ? HEADER_BYTES_MAX + ESCAPED_MAX * (event->len + strlen(topic))
                            : event->len + 1;
    int rc = room_make(out, most);
    if (rc < 0)
        return rc;
    char *to = out->text + out->len;
    if (out->json) {
        to = json_add(to, event, topic);
    } else {
        if (event->len != 0)
            memcpy(to, event->data, event->len);
        to += event->len;
        *to++ = '\n';
    }
    out->all_events++;
    out->all_bytes += (uint64_t)(to - out->text) - out->len;
    out->len = (size_t)(to - out->text);
    if (out->events++ == 0)
        out->first_pos = event->position;
    out->last_pos = event->position;
    return 0;
}

int event_flush(struct event_out *out)
{
    size_t at = 0;
    int rc = 0;
    while (at < out->len) {
        size_t part = out->len - at;
        if (*out->stop != 0) {
            /* Nobody may be reading any more. So much can be written without waiting: */
            struct pollfd ready = {.fd = out->fd, .events = POLLOUT};
            if (poll(&ready, 1, 1000) == 0) {
                rc = -EINTR;
                break;
            }
            part = part < PIPE_BUF ? part : PIPE_BUF;
        }
        ssize_t done = write(out->fd, out->text + at, part);
        if (done >= 0)
            at += (size_t)done;
        else if (errno == EAGAIN) /* somebody else made it non-blocking */
            poll(&(struct pollfd){.fd = out->fd, .events = POLLOUT}, 1, 1000);
        else if (errno != EINTR) {
            rc = -errno;
            break;
        }
    }
    memmove(out->text, out->text + at, out->len - at);
    out->len -= at;
    if (rc == 0)
        out->events = 0;
    tool_progress(&out->progress, out->all_events, out->all_bytes);
    return rc;
}
