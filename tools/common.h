/* What the command line programs share: exit codes, messages, numbers for people. */
#ifndef TOOLS_COMMON_H
#define TOOLS_COMMON_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOOL_OK      0
#define TOOL_FAILURE 1
#define TOOL_USAGE   2
#define TOOL_NO_BUS  3
#define TOOL_LAYOUT  4
#define TOOL_TIMEOUT 5
#define TOOL_MISSED  6

/* The exit code for a result of the library. */
int tool_exit_code(int rc);

/* Prints to stderr that `what` failed with rc, why, and the command to go on with. bus: its name or
 * path, NULL if none is concerned. Call it before anything else calls the library: it shows
 * geb_last_error(). Returns the exit code. */
int tool_explain(const char *tool, const char *what, const char *bus, int rc);

/* First and last of a program. tool_begin: who writes into a pipe without a reader gets EPIPE.
 * tool_end: whether all that was printed has been written, or its reader has gone; returns the exit
 * code. */
void tool_begin(void);
int tool_end(const char *tool, int code);

/* Prints how a command is used, and below it why that was asked for. Returns the exit code. */
int tool_misused(const char *tool, const char *usage, const char *why);

/* Says that a part is not built yet. Returns the exit code. */
int tool_not_built(const char *tool, const char *part);

/* "500us", "5s", "1.5ms": a number and ns, us, ms, s, min or h. Returns 0 or -EINVAL. */
int tool_duration(const char *text, uint64_t *ns);

/* A whole decimal number within [min, max]. Returns 0 or -EINVAL. */
int tool_number(const char *text, uint64_t min, uint64_t max, uint64_t *number);

/* "64KiB", "1.5MiB", "512B": a number and B, KiB, MiB, GiB, kB, MB or GB. Returns 0 or -EINVAL. */
int tool_size(const char *text, uint64_t *bytes);

/* "100/s", "0.5/s". Returns 0 or -EINVAL. */
int tool_rate(const char *text, double *per_s);

/* Says that the value of an option is wrong, and what it must be. Returns the exit code. */
int tool_bad_value(const char *tool, const char *option, const char *value, const char *wanted);

/* The bus of the command line, or of GEB_BUS; NULL if neither names one. */
const char *tool_bus(const char *argument);

/* The same for a command with arguments behind the bus: when GEB_BUS is set, the first of cnt
 * arguments is the bus only if there are more than the rest_max that may follow it. option: of
 * --bus, which goes before both; or NULL. *rest: how many of the arguments are the bus, 0 or 1. */
const char *tool_bus_first(const char *option, char *const *arguments, int cnt, int rest_max,
                           int *rest);

/* Writes the directory of the buses that have names, not paths: GEB_DIR or /dev/shm/geb-UID. */
void tool_directory(char *text, size_t bytes);
/* And that of one bus, which may be a path. */
void tool_directory_of(const char *bus, char *text, size_t bytes);

/* Where the library finds the bus; it says so only of those that it can open. */
void tool_path(const char *bus, char *text, size_t bytes);

/* What a file is: 1 a bus or the remains of one, of *version; 0 something else; or -errno. */
int tool_magic(const char *path, uint32_t *version);
/* The command that removes a file that is no bus; of a directory, only if it is empty. */
const char *tool_remover(const char *path);

/* Whether fd is a terminal that understands escape sequences: TERM is set, and not "dumb". */
bool tool_terminal(int fd);

/* How far a long work has come: one line on standard error, twice a second, if that is a terminal;
 * else nothing. tool_progress_end: goes to the next line if there is one; once, before messages. */
struct tool_progress {
    bool show;
    uint64_t begun_ns, shown_ns;
};
void tool_progress_begin(struct tool_progress *progress);
void tool_progress(struct tool_progress *progress, uint64_t events, uint64_t bytes);
void tool_progress_end(struct tool_progress *progress, uint64_t events, uint64_t bytes);

/* Text for a terminal: control characters become '?'. Returns shown, a buffer of the caller. */
char *tool_shown(char *shown, size_t bytes, const char *text);

/* An argument as a shell takes it: in quotes where it needs them. Returns text. */
#define TOOL_QUOTED_BYTES 600
char *tool_quoted(char text[TOOL_QUOTED_BYTES], const char *argument);

/* From here on SIGINT and SIGTERM set tool_interrupted and call `end` (NULL: nothing), which must
 * be safe in a signal handler; system calls return EINTR. The second one ends the process. */
extern volatile sig_atomic_t tool_interrupted;
void tool_catch_interrupts(void (*end)(void));

/* Numbers for people: 1,234,567 · 24.6 MiB · 1.25 us. They return text, a buffer of the caller. */
#define TOOL_TEXT_BYTES 40
char *tool_count(char text[TOOL_TEXT_BYTES], uint64_t count);
char *tool_bytes(char text[TOOL_TEXT_BYTES], double bytes);
char *tool_ns(char text[TOOL_TEXT_BYTES], uint64_t ns);

#endif
