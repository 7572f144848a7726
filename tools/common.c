#include "tools/common.h"

#include "lib/geb.h"
#include "shmring/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define PROGRESS_NS UINT64_C(500000000)

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

void tool_directory(char *text, size_t bytes)
{
    const char *dir = getenv("GEB_DIR");
    if (dir != NULL && dir[0] != '\0')
        snprintf(text, bytes, "%s", dir);
    else
        snprintf(text, bytes, "/dev/shm/geb-%u", (unsigned)geteuid());
}

/* A word with bytes that must not reach a terminal: $'a\012b'. Three digits are always enough. */
static void control_quote(char text[TOOL_QUOTED_BYTES], const char *argument)
{
    char *to = stpcpy(text, "$'");
    for (; *argument != '\0' && to < text + TOOL_QUOTED_BYTES - 6; argument++) {
        unsigned char byte = (unsigned char)*argument;
        if (byte < 0x20 || byte == 0x7f || byte == '\'' || byte == '\\')
            to += sprintf(to, "\\%03o", byte);
        else
            *to++ = *argument;
    }
    stpcpy(to, "'");
}

static bool has_control(const char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            return true;
    }
    return false;
}

void tool_directory_of(const char *bus, char *text, size_t bytes)
{
    const char *slash = strrchr(bus, '/');
    if (slash == NULL)
        tool_directory(text, bytes);
    else
        snprintf(text, bytes, "%.*s", (int)(slash > bus ? slash - bus : 1), bus);
}

void tool_path(const char *bus, char *text, size_t bytes)
{
    char dir[256];
    tool_directory(dir, sizeof dir);
    if (strchr(bus, '/') != NULL)
        snprintf(text, bytes, "%s", bus);
    else
        snprintf(text, bytes, "%s/%s", dir, bus);
}

int tool_magic(const char *path, uint32_t *version)
{
    struct shr_header header;
    struct stat st;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return errno == ELOOP || errno == ENXIO ? 0 : -errno;
    int rc = 0;
    if (fstat(fd, &st) != 0)
        rc = -errno;
    else if (S_ISREG(st.st_mode) && pread(fd, &header, sizeof header, 0) == sizeof header &&
             shr_load_relaxed(&header.magic) == SHR_MAGIC) { /* relaxed: a private copy */
        *version = header.layout_version;
        rc = 1;
    }
    close(fd);
    return rc;
}

const char *tool_remover(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode) ? "rmdir" : "rm";
}

char *tool_quoted(char text[TOOL_QUOTED_BYTES], const char *argument)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "./_-+:,@%";
    if (argument[0] != '\0' && strspn(argument, plain) == strlen(argument)) {
        snprintf(text, TOOL_QUOTED_BYTES, "%s", argument);
        return text;
    }
    if (has_control(argument)) {
        control_quote(text, argument);
        return text;
    }
    char *to = text;
    *to++ = '\'';
    for (; *argument != '\0' && to < text + TOOL_QUOTED_BYTES - 6; argument++) {
        if (*argument == '\'')
            to = stpcpy(to, "'\\''");
        else
            *to++ = *argument;
    }
    stpcpy(to, "'");
    return text;
}

/* geb rm --force removes what was a bus, and nothing else. */
static void remove_command_print(const char *bus)
{
    char path[512], quoted[TOOL_QUOTED_BYTES];
    uint32_t version;
    tool_path(bus, path, sizeof path);
    if (tool_magic(path, &version) == 0)
        fprintf(stderr, "  it is no bus; to remove it:  %s %s\n", tool_remover(path),
                tool_quoted(quoted, path));
    else
        fprintf(stderr, "  to remove it:  geb rm --force %s\n", tool_quoted(quoted, bus));
}

/* The file system of a directory, or of the one in which it would be made: dir becomes that. */
static void file_system_read(char *dir, struct statvfs *fs)
{
    char *slash;
    *fs = (struct statvfs){0};
    while (statvfs(dir, fs) != 0 && errno == ENOENT && (slash = strrchr(dir, '/')) != NULL &&
           slash > dir)
        *slash = '\0';
}

static void next_command_print(const char *bus, int rc)
{
    char dir[256], dir_quoted[TOOL_QUOTED_BYTES], bus_quoted[TOOL_QUOTED_BYTES];
    struct statvfs fs;
    tool_directory(dir, sizeof dir);
    tool_quoted(dir_quoted, dir);
    tool_quoted(bus_quoted, bus);
    if (rc == -ENOENT)
        fprintf(stderr, "  to create it:  geb create %s\n  the buses in %s:  geb ls\n", bus_quoted,
                dir_quoted);
    tool_directory_of(bus, dir, sizeof dir);
    file_system_read(dir, &fs);
    tool_quoted(dir_quoted, dir);
    switch (rc) {
    case -EACCES:
        if ((fs.f_flag & ST_RDONLY) != 0)
            fprintf(stderr, "  how it is mounted:  findmnt -T %s\n", dir_quoted);
        else
            fprintf(stderr, "  whose they are:  ls -la %s\n", dir_quoted);
        break;
    case -ENOSPC:
        /* Without a limit there are 0 inodes in all. */
        if (fs.f_files != 0 && fs.f_favail == 0)
            fprintf(stderr, "  how many inodes are left:  df -i %s\n", dir_quoted);
        else
            fprintf(stderr, "  how full it is:  df -h %s\n", dir_quoted);
        break;
    case -ENOMEM:
        fputs("  how much is left:  free -h\n", stderr);
        break;
    case -EPROTO:
    case -EBADMSG:
        remove_command_print(bus);
        break;
    case -EBUSY:
    case -EUSERS:
        fprintf(stderr, "  who takes part in it:  geb info %s\n", bus_quoted);
        break;
    case -EEXIST:
        fprintf(stderr, "  how it was made:  geb info %s\n", bus_quoted);
        break;
    case -EPIPE:
    case -ESHUTDOWN:
        fprintf(stderr, "  to consume it:  geb consume %s\n", bus_quoted);
        break;
    default:
        break;
    }
}

char *tool_shown(char *shown, size_t bytes, const char *text)
{
    size_t i = 0;
    for (; text[i] != '\0' && i + 1 < bytes; i++)
        shown[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i];
    shown[i] = '\0';
    return shown;
}

int tool_explain(const char *tool, const char *what, const char *bus, int rc)
{
    char detail[512], name[300];
    const char *words = geb_strerror(rc);
    tool_shown(detail, sizeof detail, geb_last_error());
    fprintf(stderr, "%s: %s", tool, what);
    if (bus != NULL)
        fprintf(stderr, " \"%s\"", tool_shown(name, sizeof name, bus));
    /* The first two have no words of their own, those of the others do not fit all causes. */
    bool is_named = (rc == -EINVAL || rc == -EDOM || rc == -EACCES || rc == -ENOSPC) &&
                    detail[0] != '\0';
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

struct unit {
    const char *name;
    double factor;
};

/* A decimal number and one of the units. Returns 0 or -EINVAL. */
static int measure_parse(const char *text, const struct unit *units, size_t unit_cnt, double *value)
{
    char digits[40], *end;
    size_t len = strspn(text, "0123456789."); /* strtod would take 0x10, 1e3 and infinity, too */
    if (len == 0 || len >= sizeof digits)
        return -EINVAL;
    memcpy(digits, text, len);
    digits[len] = '\0';
    double number = strtod(digits, &end);
    if (end == digits || *end != '\0')
        return -EINVAL;
    text += len;
    for (size_t i = 0; i < unit_cnt; i++) {
        if (strcmp(text, units[i].name) == 0 && number * units[i].factor < 1e18) {
            *value = number * units[i].factor;
            return 0;
        }
    }
    return -EINVAL;
}

int tool_duration(const char *text, uint64_t *ns)
{
    static const struct unit units[] = {{"ns", 1},  {"us", 1e3},   {"ms", 1e6},
                                        {"s", 1e9}, {"min", 60e9}, {"h", 3600e9}};
    double value;
    int rc = measure_parse(text, units, sizeof units / sizeof units[0], &value);
    if (rc == 0)
        *ns = (uint64_t)value;
    return rc;
}

int tool_size(const char *text, uint64_t *bytes)
{
    static const struct unit units[] = {
        {"B", 1},    {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824},
        {"kB", 1e3}, {"MB", 1e6},   {"GB", 1e9}};
    double value;
    int rc = measure_parse(text, units, sizeof units / sizeof units[0], &value);
    if (rc < 0 || value != (double)(uint64_t)value)
        return -EINVAL;
    *bytes = (uint64_t)value;
    return 0;
}

int tool_rate(const char *text, double *per_s)
{
    static const struct unit units[] = {{"/s", 1}};
    int rc = measure_parse(text, units, 1, per_s);
    return rc == 0 && *per_s > 0 ? 0 : -EINVAL;
}

int tool_bad_value(const char *tool, const char *option, const char *value, const char *wanted)
{
    char shown[100];
    fprintf(stderr, "%s: %s %s: %s\n", tool, option, tool_shown(shown, sizeof shown, value),
            wanted);
    return TOOL_USAGE;
}

int tool_misused(const char *tool, const char *usage, const char *why)
{
    fprintf(stderr, "%s\n%s: %s\n", usage, tool, why);
    return TOOL_USAGE;
}

void tool_begin(void)
{
    signal(SIGPIPE, SIG_IGN);
}

int tool_end(const char *tool, int code)
{
    if ((fflush(stdout) == 0 && ferror(stdout) == 0) || code != TOOL_OK || errno == EPIPE)
        return code;
    fprintf(stderr, "%s: cannot write standard output: %s\n", tool, strerror(errno));
    return TOOL_FAILURE;
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

const char *tool_bus_first(const char *option, char *const *arguments, int cnt, int rest_max,
                           int *rest)
{
    const char *preset = option != NULL ? option : tool_bus(NULL);
    *rest = option == NULL && cnt > 0 && (preset == NULL || cnt > rest_max);
    return *rest == 1 ? tool_bus(arguments[0]) : preset;
}

volatile sig_atomic_t tool_interrupted;
static void (*interrupt_end)(void);

static void interrupt_take(int number)
{
    (void)number;
    tool_interrupted = 1;
    if (interrupt_end != NULL)
        interrupt_end();
}

void tool_catch_interrupts(void (*end)(void))
{
    struct sigaction action = {.sa_handler = interrupt_take, .sa_flags = (int)SA_RESETHAND};
    interrupt_end = end;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
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

/* ---- progress -------------------------------------------------------------------------------- */

bool tool_terminal(int fd)
{
    const char *term = getenv("TERM");
    return isatty(fd) == 1 && term != NULL && term[0] != '\0' && strcmp(term, "dumb") != 0;
}

void tool_progress_begin(struct tool_progress *progress)
{
    *progress = (struct tool_progress){.show = tool_terminal(STDERR_FILENO), .begun_ns = geb_now()};
}

static void progress_print(struct tool_progress *progress, uint64_t events, uint64_t bytes,
                           const char *end)
{
    char size[TOOL_TEXT_BYTES], count[TOOL_TEXT_BYTES], rate[TOOL_TEXT_BYTES];
    uint64_t now_ns = geb_now();
    double seconds = (double)(now_ns - progress->begun_ns) / 1e9;
    double per_s = (double)events / (seconds > 0 ? seconds : 1);
    fprintf(stderr, "\r%s, %s events, %s events/s \033[K%s", tool_bytes(size, (double)bytes),
            tool_count(count, events), tool_count(rate, (uint64_t)per_s), end);
    progress->shown_ns = now_ns;
}

void tool_progress(struct tool_progress *progress, uint64_t events, uint64_t bytes)
{
    if (!progress->show)
        return;
    uint64_t last_ns = progress->shown_ns != 0 ? progress->shown_ns : progress->begun_ns;
    if (geb_now() - last_ns >= PROGRESS_NS)
        progress_print(progress, events, bytes, "");
}

void tool_progress_end(struct tool_progress *progress, uint64_t events, uint64_t bytes)
{
    if (progress->shown_ns != 0)
        progress_print(progress, events, bytes, "\n");
    progress->show = false;
    progress->shown_ns = 0;
}
