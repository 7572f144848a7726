/* What every test uses: a place of its own for buses, and child processes that never outlive it.
 *
 *     int main(void)
 *     {
 *         support_begin();                               // GEB_DIR is a fresh directory now
 *         return cmocka_run_group_tests(tests, NULL, NULL);
 *     }
 *
 * The directory goes when the process ends, however it ends: a helper process reads a pipe whose
 * other end only the test has, and removes the directory at the end of file.
 *
 * A child must not use cmocka's assertions: they would jump into its copy of the runner. It uses
 * SUPPORT_CHECK and reports by its exit status.
 */
#ifndef GEB_TESTS_SUPPORT_H
#define GEB_TESTS_SUPPORT_H

#include "shmring/segment.h"

#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>

/* 1 in a build with a sanitizer. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SUPPORT_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SUPPORT_SANITIZED 1
#endif
#endif
#ifndef SUPPORT_SANITIZED
#define SUPPORT_SANITIZED 0
#endif

#define SUPPORT_HANG_MS 60000 /* whoever waits longer than this for another process has failed */

/* Once, first thing in main. Line-buffers stdout, prints the seed. Exits 99 if it cannot. */
void support_begin(void);

/* The directory, and a new bus name or path in it at every call: of the test's pid and a
 * counter. */
const char *support_dir(void);
const char *support_name(char name[64]);
const char *support_path(char path[SHR_PATH_BYTES]);

/* Entries of a directory besides . and .. */
unsigned support_entries(const char *dir);

/* GEB_TEST_SEED, or a fixed number. support_random is a generator that it starts (xorshift). */
uint64_t support_seed(void);
uint64_t support_random(void);

/* How much of its work a test does: GEB_TEST_DEPTH is quick (or unset), ci or long. */
enum support_depth {
    SUPPORT_QUICK, /* seconds: some points, few events */
    SUPPORT_CI,    /* every case, at every point */
    SUPPORT_LONG,  /* also where a point leaves what the one before does; soaks */
};
enum support_depth support_depth(void);

/* A test looks at 1 in n of something in the quick form, else at each: n or 1. */
size_t support_every(size_t n);

/* The name of each policy, as geb.h numbers them. */
extern const char *const support_policy_text[3];

/* The smallest bus: 4 events, 2 producers, 4 topics, no slabs, drop-oldest. */
struct shr_config support_tiny_config(void);

/* ---- processes ------------------------------------------------------------------------------- */

/* Runs fn(arg) in a child, which ends with its result as exit status, and dies with the test. */
pid_t support_child(int (*fn)(void *arg), void *arg);

/* Waits for the end: the exit status, or -N if signal N ended it. Fails the test if it hangs. */
int support_wait(pid_t pid);

/* SIGKILL, and waits for the end. */
void support_kill(pid_t pid);

/* SIGSTOP, and waits until it is stopped; SIGCONT, and waits until it is not. */
void support_stop(pid_t pid);
void support_continue(pid_t pid);

/* Waits until the child is dead and leaves it a zombie. */
void support_wait_zombie(pid_t pid);

/* In a child: says where and ends with status 1. */
#define SUPPORT_CHECK(condition)                                                           \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "%s:%d: in child %d: %s\n", __FILE__, __LINE__, (int)getpid(), \
                    #condition);                                                           \
            _exit(1);                                                                      \
        }                                                                                  \
    } while (0)

/* Two one-way lines of single bytes between test and child. Made before the fork; each side uses
 * its own functions. A byte is a fact ("the lock is taken"), never a guess about time. */
struct support_line {
    int to_child[2];
    int to_test[2];
};

void support_line_open(struct support_line *line);
void support_line_close(struct support_line *line);
void support_tell_child(const struct support_line *line);
void support_tell_test(const struct support_line *line);
void support_hear_child(const struct support_line *line); /* fails the test if the child is gone */
void support_hear_test(const struct support_line *line);  /* ends the child if the test is gone */

/* Makes a system call fail with `error` in this process and its children from now on; if bits is
 * not 0, only where its argument `arg` has all of them. 0 or -errno. For children only. */
int support_deny(long number, unsigned arg, uint32_t bits, int error);

/* The syscall() of libc, for a test that has one of its own in its place. */
long support_libc_syscall(long number, const long arg[6]);

/* Memory that test and children share, zeroed; never freed. */
void *support_shared(size_t bytes);

#endif
