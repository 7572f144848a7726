/* Samples of the machine: descriptors stay open, each sample is a pread and a short parse. */
#include "tools/geb/demo.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* /proc/stat has a field for each interrupt and a line for each processor. */
#define TEXT_BYTES (256u * 1024u)

static const char *const paths[DEMO_TICKS][2] = {
    [DEMO_CPU] = {"/proc/stat"},
    [DEMO_MEMORY] = {"/proc/vmstat"},
    [DEMO_NETWORK] = {"/proc/net/dev"},
    [DEMO_PROCESS] = {"/proc/self/stat", "/proc/self/schedstat"},
};

int demo_reader_open(struct demo_reader *reader, enum demo_source source)
{
    *reader = (struct demo_reader){.source = source, .fd = {-1, -1}, .text = malloc(TEXT_BYTES)};
    if (reader->text == NULL)
        return -ENOMEM;
    for (int i = 0; i < 2 && paths[source][i] != NULL; i++) {
        reader->fd[i] = open(paths[source][i], O_RDONLY | O_CLOEXEC);
        if (reader->fd[i] < 0)
            return -errno;
    }
    return 0;
}

/* The kernel gives some of these files a page at a time. */
static int text_read(struct demo_reader *reader, int file)
{
    size_t len = 0;
    while (len < TEXT_BYTES - 1) {
        ssize_t got = pread(reader->fd[file], reader->text + len, TEXT_BYTES - 1 - len, (off_t)len);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            break;
        len += (size_t)got;
    }
    reader->text[len] = '\0';
    return len > 0 ? 0 : -EIO;
}

/* The number behind a key; 0 if this kernel does not tell it. */
static uint64_t number_after(const char *text, const char *key)
{
    const char *at = strstr(text, key);
    return at != NULL ? strtoull(at + strlen(key), NULL, 10) : 0;
}

/* Reads cnt numbers; those that are missing stay 0. */
static void numbers_read(const char *text, uint64_t *numbers, int cnt)
{
    for (int i = 0; i < cnt; i++) {
        char *end;
        numbers[i] = strtoull(text, &end, 10);
        if (end == text)
            return;
        text = end;
    }
}

static int cpu_sample(struct demo_reader *reader, uint64_t *words)
{
    int rc = text_read(reader, 0);
    if (rc < 0)
        return rc;
    uint64_t field[8] = {0}; /* user nice system idle iowait irq softirq steal */
    if (strncmp(reader->text, "cpu ", 4) == 0)
        numbers_read(reader->text + 4, field, 8);
    words[1] = field[0] + field[1] + field[2] + field[5] + field[6] + field[7];
    words[2] = field[3] + field[4];
    words[3] = number_after(reader->text, "\nctxt ");
    return 0;
}

static int memory_sample(struct demo_reader *reader, uint64_t *words)
{
    int rc = text_read(reader, 0);
    if (rc < 0)
        return rc;
    words[1] = number_after(reader->text, "\npgfault ");
    words[2] = number_after(reader->text, "\npgmajfault ");
    words[3] = number_after(reader->text, "\nnr_free_pages ");
    return 0;
}

static int network_sample(struct demo_reader *reader, uint64_t *words)
{
    int rc = text_read(reader, 0);
    if (rc < 0)
        return rc;
    words[1] = words[2] = words[3] = 0;
    for (const char *at = reader->text; (at = strchr(at, ':')) != NULL;) {
        uint64_t field[10] = {0}; /* received bytes, packets, six more; then transmitted */
        numbers_read(++at, field, 10);
        words[1] += field[0];
        words[2] += field[8];
        words[3] += field[1] + field[9];
    }
    return 0;
}

static int process_sample(struct demo_reader *reader, uint64_t *words)
{
    words[7] = geb_now(); /* the shares of time are of the time between two samples */
    int rc = text_read(reader, 0);
    if (rc < 0)
        return rc;
    uint64_t field[22] = {0}; /* from field 4 of proc(5) on: behind the name and the state */
    const char *at = strrchr(reader->text, ')');
    if (at != NULL && strlen(at) > 4)
        numbers_read(at + 4, field, 21);
    words[1] = field[6];                                    /* minor faults */
    words[2] = field[8];                                    /* major faults */
    words[3] = field[20] * (uint64_t)sysconf(_SC_PAGESIZE); /* resident */
    rc = text_read(reader, 1);
    if (rc < 0)
        return rc;
    numbers_read(reader->text, &words[4], 3); /* ns on a processor, ns queued, time slices */
    return 0;
}

int demo_reader_sample(struct demo_reader *reader, uint64_t *words)
{
    switch (reader->source) {
    case DEMO_CPU:
        return cpu_sample(reader, words);
    case DEMO_MEMORY:
        return memory_sample(reader, words);
    case DEMO_NETWORK:
        return network_sample(reader, words);
    default:
        return process_sample(reader, words);
    }
}
