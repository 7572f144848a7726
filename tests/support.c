#include "tests/support.h"

#include "tests/gone.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <cmocka.h>

static char test_dir[64];
static pid_t test_pid;
static pid_t cleaner_pid;
static int cleaner_fd = -1;
static uint64_t random_state;

static void give_up(const char *what)
{
    fprintf(stderr, "support: %s: %s\n", what, strerror(errno));
    _exit(99);
}

/* ---- the directory --------------------------------------------------------------------------- */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    remove(path);
    return 0;
}

static void cleaner_run(int fd)
{
    char byte;
    setsid(); /* a killed process group is not ours */
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    dup2(fd, 0);
    int null = open("/dev/null",
                    O_WRONLY); /* whoever reads the test's output need not wait for us */
    dup2(null, 1);
    dup2(null, 2);
    closefrom(3);
    while (read(0, &byte, 1) < 0 && errno == EINTR)
        ;
    nftw(test_dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    _exit(0);
}

static void clean_at_exit(void)
{
    if (getpid() != test_pid)
        return;
    close(cleaner_fd);
    waitpid(cleaner_pid, NULL, 0);
}

void support_begin(void)
{
    int fds[2];
    setvbuf(stdout, NULL, _IOLBF, 0);
    support_depth(); /* says at once if it is none of the three */
    gone_prepare();
    test_pid = getpid();
    strcpy(test_dir, "/dev/shm/geb-test-XXXXXX");
    if (pipe2(fds, O_CLOEXEC) != 0)
        give_up("pipe2");
    if (mkdtemp(test_dir) == NULL)
        give_up(test_dir);
    setenv("GEB_DIR", test_dir, 1);
    cleaner_pid = fork();
    if (cleaner_pid < 0)
        give_up("fork");
    if (cleaner_pid == 0)
        cleaner_run(fds[0]);
    close(fds[0]);
    cleaner_fd = fds[1];
    atexit(clean_at_exit);
    printf("seed %llu (GEB_TEST_SEED)\n", (unsigned long long)support_seed());
    random_state = support_seed() | 1;
}

const char *support_dir(void)
{
    return test_dir;
}

const char *support_name(char name[64])
{
    static unsigned counter;
    snprintf(name, 64, "t%d.%u", (int)getpid(), counter++);
    return name;
}

const char *support_path(char path[SHR_PATH_BYTES])
{
    char name[64];
    snprintf(path, SHR_PATH_BYTES, "%s/%s", test_dir, support_name(name));
    return path;
}

unsigned support_entries(const char *dir)
{
    unsigned count = 0;
    DIR *handle = opendir(dir);
    if (handle == NULL)
        give_up(dir);
    for (struct dirent *entry; (entry = readdir(handle)) != NULL;)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(handle);
    return count;
}

uint64_t support_seed(void)
{
    const char *text = getenv("GEB_TEST_SEED");
    return text != NULL ? strtoull(text, NULL, 10) : 20260101u;
}

enum support_depth support_depth(void)
{
    const char *text = getenv("GEB_TEST_DEPTH");
    if (text == NULL || strcmp(text, "quick") == 0)
        return SUPPORT_QUICK;
    if (strcmp(text, "ci") == 0)
        return SUPPORT_CI;
    if (strcmp(text, "long") == 0)
        return SUPPORT_LONG;
    fprintf(stderr, "GEB_TEST_DEPTH is %s; use quick, ci or long\n", text);
    exit(99);
}

size_t support_every(size_t n)
{
    return support_depth() == SUPPORT_QUICK ? n : 1;
}

uint64_t support_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

const char *const support_policy_text[3] = {"drop-oldest", "block", "return-error"};

struct shr_config support_tiny_config(void)
{
    struct shr_config config;
    shr_config_default(&config);
    config.capacity = 4;
    config.producers = 2;
    config.topics = 4;
    config.slab_bytes = 0;
    config.max_event = SHR_INLINE_BYTES;
    config.shelf_entries = 0;
    return config;
}

/* ---- processes ------------------------------------------------------------------------------- */

pid_t support_child(int (*fn)(void *arg), void *arg)
{
    pid_t parent = getpid();
    fflush(NULL);
    gone_prepare();
    pid_t pid = fork();
    if (pid < 0)
        give_up("fork");
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(99);
    close(cleaner_fd);
    gone_mark();
    int status = fn(arg);
    fflush(NULL);
    _exit(status);
}

/* Waits for what waitid would report, by a pidfd for ends; a stop or a continue comes soon. */
static int wait_for(pid_t pid, int options, siginfo_t *info)
{
    memset(info, 0, sizeof(*info));
    if ((options & WEXITED) != 0) {
        int fd = (int)syscall(SYS_pidfd_open, pid, 0u);
        struct pollfd end = {.fd = fd, .events = POLLIN};
        int ready;
        do
            ready = poll(&end, 1, SUPPORT_HANG_MS);
        while (ready < 0 && errno == EINTR);
        close(fd);
        if (ready == 0) {
            kill(pid, SIGKILL);
            return -ETIMEDOUT;
        }
    }
    if (waitid(P_PID, (id_t)pid, info, options) != 0)
        return -errno;
    return (options & WEXITED) == 0 || gone_await(pid) ? 0 : -EBUSY;
}

int support_wait(pid_t pid)
{
    siginfo_t info;
    int rc = wait_for(pid, WEXITED, &info);
    if (rc < 0)
        fail_msg("child %d: %s", (int)pid, strerror(-rc));
    return info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
}

void support_kill(pid_t pid)
{
    kill(pid, SIGKILL);
    support_wait(pid);
}

void support_stop(pid_t pid)
{
    siginfo_t info;
    kill(pid, SIGSTOP);
    assert_int_equal(wait_for(pid, WSTOPPED, &info), 0);
}

void support_continue(pid_t pid)
{
    siginfo_t info;
    kill(pid, SIGCONT);
    assert_int_equal(wait_for(pid, WCONTINUED, &info), 0);
}

void support_wait_zombie(pid_t pid)
{
    siginfo_t info;
    assert_int_equal(wait_for(pid, WEXITED | WNOWAIT, &info), 0);
}

/* ---- lines ----------------------------------------------------------------------------------- */

void support_line_open(struct support_line *line)
{
    if (pipe2(line->to_child, O_CLOEXEC) != 0 || pipe2(line->to_test, O_CLOEXEC) != 0)
        give_up("pipe2");
}

void support_line_close(struct support_line *line)
{
    close(line->to_child[0]);
    close(line->to_child[1]);
    close(line->to_test[0]);
    close(line->to_test[1]);
}

static void tell(int fd)
{
    if (write(fd, "x", 1) != 1)
        give_up("write to the line");
}

static bool hear(int fd)
{
    struct pollfd line = {.fd = fd, .events = POLLIN};
    char byte;
    int ready;
    do
        ready = poll(&line, 1, SUPPORT_HANG_MS);
    while (ready < 0 && errno == EINTR);
    return ready == 1 && read(fd, &byte, 1) == 1;
}

void support_tell_child(const struct support_line *line)
{
    tell(line->to_child[1]);
}

void support_tell_test(const struct support_line *line)
{
    tell(line->to_test[1]);
}

void support_hear_child(const struct support_line *line)
{
    if (!hear(line->to_test[0]))
        fail_msg("the child did not answer");
}

void support_hear_test(const struct support_line *line)
{
    if (!hear(line->to_child[0]))
        _exit(99);
}

/* ---- surroundings ---------------------------------------------------------------------------- */

int support_deny(long number, unsigned arg, uint32_t bits, int error)
{
    uint32_t arg_off = (uint32_t)(offsetof(struct seccomp_data, args) + 8 * arg);
    uint32_t nr_off = (uint32_t)offsetof(struct seccomp_data, nr);
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, nr_off),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, arg_off),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, bits),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, bits, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        return -errno;
    return 0;
}

void *support_shared(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        give_up("mmap");
    return memory;
}

long support_libc_syscall(long number, const long arg[6])
{
    static long (*libc_syscall)(long, ...);
    if (libc_syscall == NULL)
        *(void **)&libc_syscall = dlsym(RTLD_NEXT, "syscall");
    return libc_syscall(number, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
}
