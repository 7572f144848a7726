#include "tools/common.h"

#include "lib/geb.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int tool_exit_code(int rc)
{
    switch (rc) {
    case -ENOENT:
        return TOOL_NO_BUS;
    case -EPROTO:
        return TOOL_LAYOUT;
    case -ETIMEDOUT:
        return TOOL_TIMEOUT;
    default:
        return rc < 0 ? TOOL_FAILURE : TOOL_OK;
    }
}

static void directory_write(char *text, size_t bytes)
{
    const char *dir = getenv("GEB_DIR");
    if (dir != NULL && dir[0] != '\0')
        snprintf(text, bytes, "%s", dir);
    else
        snprintf(text, bytes, "/dev/shm/geb-%u", (unsigned)geteuid());
}

static void next_command_print(const char *bus, int rc)
{
    char dir[256];
    directory_write(dir, sizeof dir);
    switch (rc) {
    case -ENOENT:
        fprintf(stderr, "  the buses that there are:  ls %s\n", dir);
        break;
    case -EACCES:
        fprintf(stderr, "  whose they are:  ls -la %s\n", dir);
        break;
    case -ENOSPC:
        fprintf(stderr, "  how full it is:  df -h %s\n", dir);
        break;
    case -EPROTO:
    case -EBADMSG:
        fprintf(stderr, "  to remove it:  geb rm %s\n", bus);
        break;
    case -EBUSY:
    case -EUSERS:
        fprintf(stderr, "  who takes part in it:  geb-top %s --once\n", bus);
        break;
    default:
        break;
    }
}

int tool_explain(const char *tool, const char *what, const char *bus, int rc)
{
    const char *detail = geb_last_error(), *words = geb_strerror(rc);
    fprintf(stderr, "%s: %s", tool, what);
    if (bus != NULL)
        fprintf(stderr, " \"%s\"", bus);
    /* These two errors have no words of their own. */
    bool is_named = (rc == -EINVAL || rc == -EDOM) && detail[0] != '\0';
    if (is_named || strstr(detail, words) != NULL)
        fprintf(stderr, ": %s\n", detail);
    else
        fprintf(stderr, ": %s%s%s\n", words, detail[0] != '\0' ? "\n  " : "", detail);
    if (bus != NULL)
        next_command_print(bus, rc);
    return tool_exit_code(rc);
}

int tool_not_built(const char *tool, const char *part)
{
    fprintf(stderr, "%s: %s: not built yet\n", tool, part);
    return TOOL_USAGE;
}

int tool_duration(const char *text, uint64_t *ns)
{
    static const struct {
        const char *unit;
        double ns;
    } units[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"min", 60e9}};
    char *end;
    errno = 0;
    double number = strtod(text, &end);
    if (end == text || errno != 0 || !(number >= 0))
        return -EINVAL;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(end, units[i].unit) == 0 && number * units[i].ns < 1e18) {
            *ns = (uint64_t)(number * units[i].ns);
            return 0;
        }
    }
    return -EINVAL;
}

int tool_number(const char *text, uint64_t min, uint64_t max, uint64_t *number)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value < min || value > max)
        return -EINVAL;
    *number = value;
    return 0;
}

const char *tool_bus(const char *argument)
{
    const char *bus = argument != NULL ? argument : getenv("GEB_BUS");
    return bus != NULL && bus[0] != '\0' ? bus : NULL;
}

char *tool_count(char text[TOOL_TEXT_BYTES], uint64_t count)
{
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)count);
    char *to = text;
    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0)
            *to++ = ',';
        *to++ = digits[i];
    }
    *to = '\0';
    return text;
}

static char *scaled_write(char text[TOOL_TEXT_BYTES], double value, double step,
                          const char *const *units, size_t unit_cnt)
{
    size_t i = 0;
    for (; i + 1 < unit_cnt && value >= step; i++)
        value /= step;
    int decimals = i == 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
    snprintf(text, TOOL_TEXT_BYTES, "%.*f %s", decimals, value, units[i]);
    return text;
}

char *tool_bytes(char text[TOOL_TEXT_BYTES], double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    return scaled_write(text, bytes, 1024, units, sizeof units / sizeof units[0]);
}

char *tool_ns(char text[TOOL_TEXT_BYTES], uint64_t ns)
{
    static const char *const units[] = {"ns", "us", "ms", "s"};
    return scaled_write(text, (double)ns, 1000, units, sizeof units / sizeof units[0]);
}
