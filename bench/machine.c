#include "bench/machine.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

/* Copies the value of the first `key : value` line of /proc/cpuinfo; false if there is none. */
static bool cpuinfo_value(const char *key, char *out, size_t size)
{
    FILE *f = fopen("/proc/cpuinfo", "re");
    if (f == NULL) {
        return false;
    }
    char line[8192];
    bool found = false;
    while (!found && fgets(line, sizeof(line), f) != NULL) {
        char *colon = strchr(line, ':');
        if (colon != NULL && strncmp(line, key, strlen(key)) == 0) {
            colon += strspn(colon, ": \t");
            colon[strcspn(colon, "\n")] = '\0';
            snprintf(out, size, "%s", colon);
            found = true;
        }
    }
    fclose(f);
    return found;
}

/* The lowest CPU of the core that `cpu` belongs to; `cpu` itself where the kernel does not say. */
static unsigned core_of(unsigned cpu)
{
    char path[96];
    unsigned first = cpu;
    snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list",
             cpu);
    FILE *f = fopen(path, "re");
    if (f != NULL) {
        if (fscanf(f, "%u", &first) != 1) {
            first = cpu;
        }
        fclose(f);
    }
    return first;
}

/* Two threads of one core share its first cache, which flatters every figure; so the list has one
 * CPU of each core first, and the rest behind them. */
static void choose_cpus(struct bench_machine *m, const cpu_set_t *mask)
{
    for (int siblings = 0; siblings < 2; siblings++) {
        for (unsigned cpu = 0; cpu < CPU_SETSIZE && m->cpu_cnt < BENCH_CPUS_MAX; cpu++) {
            if (CPU_ISSET(cpu, mask) && (core_of(cpu) != cpu) == (siblings == 1)) {
                m->cpu[m->cpu_cnt++] = cpu;
            }
        }
    }
}

static int parse_cpus(struct bench_machine *m, const char *list, const cpu_set_t *mask)
{
    const char *at = list;
    for (;;) {
        char *end;
        unsigned long cpu = strtoul(at, &end, 10);
        if (end == at || cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, mask) ||
            m->cpu_cnt == BENCH_CPUS_MAX) {
            return -EINVAL;
        }
        m->cpu[m->cpu_cnt++] = (unsigned)cpu;
        if (*end == '\0') {
            return 0;
        }
        if (*end != ',') {
            return -EINVAL;
        }
        at = end + 1;
    }
}

static void calibrate(struct bench_machine *m)
{
    uint64_t begin_ns = shr_now_ns();
    uint64_t begin = bench_ticks(m);
    uint64_t now_ns;
    do {
        now_ns = shr_now_ns();
    } while (now_ns - begin_ns < 20000000u);
    m->ticks_per_ns = (double)(bench_ticks(m) - begin) / (double)(now_ns - begin_ns);

    /* The least of many short runs: an interruption can only make a run longer. */
    uint64_t least = UINT64_MAX;
    for (int run = 0; run < 64; run++) {
        uint64_t first = bench_ticks(m);
        uint64_t last = first;
        for (int i = 0; i < 64; i++) {
            last = bench_ticks(m);
        }
        if (last - first < least) {
            least = last - first;
        }
    }
    m->tick_cost_ps = (double)least / 64.0 * 1000.0 / m->ticks_per_ns;
}

int bench_machine_read(struct bench_machine *m, const char *cpus)
{
    memset(m, 0, sizeof(*m));
    if (!cpuinfo_value("model name", m->model, sizeof(m->model))) {
        snprintf(m->model, sizeof(m->model), "unknown processor");
    }
    struct utsname name;
    if (uname(&name) == 0) {
        snprintf(m->kernel, sizeof(m->kernel), "%.16s %.64s", name.sysname, name.release);
    }
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof(mask), &mask) < 0) {
        return -errno;
    }
    m->online_cnt = (unsigned)CPU_COUNT(&mask);
    int rc = 0;
    if (cpus != NULL) {
        rc = parse_cpus(m, cpus, &mask);
    } else {
        choose_cpus(m, &mask);
    }
    char flags[8192];
    m->has_tsc = cpuinfo_value("flags", flags, sizeof(flags)) &&
                 strstr(flags, "constant_tsc") != NULL;
    calibrate(m);
    return rc;
}

int bench_pin(unsigned cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof(set), &set) < 0 ? -errno : 0;
}
