/*
 * The recorded walk of step.h, the choice of breakpoints, the driver that visits every point,
 * and the names of points.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "step_watch.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Relative: a breakpoint hit is two stops, but only one of them by the slow single-step trap
 * (measured in a virtual machine: 31 µs to 23 µs). */
#define STEP_COST 2
#define HIT_COST  3
/* Runs that must all end before a point, before a region that varies counts as passed. */
#define PASS_ATTEMPTS 8
/* Children that may leave the recorded way, for one point, before the way counts as varying. */
#define STRAYS_MAX   3
#define MESSAGES_MAX 10

/* The recorded walk. */

struct arrival {
    uint64_t rip;
    uint32_t k;
};

static int walk_add(struct step_walk *walk, const struct step_child *child)
{
    if (walk->count == walk->room) {
        size_t room = walk->room ? 2 * walk->room : 1024;
        struct step_point *points = reallocarray(walk->points, room, sizeof(*points));
        if (!points)
            return -ENOMEM;
        walk->points = points;
        walk->room = room;
    }
    const struct step_scenario *s = child->scenario;
    bool same = child->watch ? !child->watch->touched : s->same ? s->same(s->user) : false;
    walk->points[walk->count] = (struct step_point){
        .rip = child->rip,
        .steps = (uint32_t)child->steps,
        .same = same && walk->count != 0,
    };
    walk->count++;
    return 0;
}

static int record_child(const struct step_scenario *s, struct step_walk *walk,
                        struct step_watch *watch)
{
    struct step_child child;
    char text[128];
    int rc = step_start(&child, s);

    child.watch = watch;
    if (rc < 0) {
        printf("%s: the child did not reach the region (wait status 0x%x): %s\n", s->name,
               (unsigned)child.status, strerrorname_np(-rc));
        return rc;
    }
    step_meet(&child);
    while (rc == 0) {
        rc = walk_add(walk, &child);
        if (rc == 0)
            rc = step_reach(&child, NULL, child.k + 1);
    }
    step_part(&child);
    if (rc == 1)
        rc = watch ? step_watch_end(&child) : 0;
    if (rc == 0)
        rc = step_resume(&child);
    if (rc == 0)
        rc = step_wait(&child, &walk->status);
    if (rc < 0)
        printf("%s: the walk ended after %zu instructions at %s (wait status 0x%x): %s\n", s->name,
               child.k, step_symbol(child.rip, text, sizeof(text)), (unsigned)child.status,
               strerrorname_np(-rc));
    step_kill(&child);
    return rc;
}

static int record(const struct step_scenario *s, struct step_walk *walk, struct step_watch *watch)
{
    int rc = s->setup ? s->setup(s->user) : 0;

    if (rc != 0) {
        printf("%s: setup: %d\n", s->name, rc);
        return rc < 0 ? rc : -EIO;
    }
    rc = record_child(s, walk, watch);
    if (s->teardown)
        s->teardown(s->user);
    return rc;
}

static int compare_arrivals(const void *a, const void *b)
{
    const struct arrival *x = a;
    const struct arrival *y = b;

    if (x->rip != y->rip)
        return x->rip < y->rip ? -1 : 1;
    return x->k < y->k ? -1 : x->k > y->k;
}

/* The way to point k is the way to k - 1 and its steps, or a breakpoint at k: whichever costs less.
 * */
static int choose_anchors(struct step_walk *walk)
{
    struct arrival *arrivals = calloc(walk->count, sizeof(*arrivals));
    struct step_point *points = walk->points;
    uint64_t cost = 0;

    if (!arrivals)
        return -ENOMEM;
    for (size_t k = 0; k < walk->count; k++)
        arrivals[k] = (struct arrival){points[k].rip, (uint32_t)k};
    qsort(arrivals, walk->count, sizeof(*arrivals), compare_arrivals);
    for (size_t i = 0; i < walk->count; i++) {
        bool again = i > 0 && arrivals[i].rip == arrivals[i - 1].rip;
        points[arrivals[i].k].occurrence = again ? points[arrivals[i - 1].k].occurrence + 1 : 1;
    }
    free(arrivals);
    for (size_t k = 1; k < walk->count; k++) {
        uint64_t hits = (uint64_t)HIT_COST * (points[k].occurrence + 1);
        cost += STEP_COST * (uint64_t)(points[k].steps - points[k - 1].steps);
        points[k].anchor = points[k - 1].anchor;
        if (hits < cost) {
            cost = hits;
            points[k].anchor = (uint32_t)k;
        }
    }
    return 0;
}

int step_walk(const struct step_scenario *scenario, struct step_walk *walk)
{
    struct step_walk other = {0};
    struct step_watch watch = {0};
    char text[128];
    int rc;

    *walk = (struct step_walk){0};
    rc = record(scenario, walk, scenario->skip_private ? &watch : NULL);
    if (rc == 0)
        rc = record(scenario, &other, NULL);
    if (rc == 0) {
        bool same = walk->count == other.count;
        size_t k = 0;
        if (other.count < walk->count)
            walk->count = other.count;
        while (k < walk->count && walk->points[k].rip == other.points[k].rip)
            k++;
        walk->varies = !same || k < walk->count;
        if (walk->varies)
            printf("%s: two ways, which part at %zu of %zu, %s\n", scenario->name, k, walk->count,
                   step_symbol(walk->points[k == 0 ? 0 : k - 1].rip, text, sizeof(text)));
        rc = choose_anchors(walk);
    }
    step_walk_free(&other);
    return rc;
}

void step_walk_free(struct step_walk *walk)
{
    free(walk->points);
    *walk = (struct step_walk){0};
}

ssize_t step_count(const struct step_scenario *scenario)
{
    struct step_walk walk = {0};
    int rc = record(scenario, &walk, NULL);
    ssize_t count = (ssize_t)walk.count;

    step_walk_free(&walk);
    return rc < 0 ? rc : count;
}

/* The driver. */

struct drive {
    const struct step_scenario *scenario;
    enum step_action action;
    step_check_fn *check;
    struct step_walk walk;
    struct step_result *result;
};

static void report_failure(struct drive *drive, const struct step_child *child, size_t k,
                           const char *what, int value)
{
    struct step_result *result = drive->result;
    char text[128];
    uint64_t rip = child->rip;

    if (k < drive->walk.count && !drive->walk.varies)
        rip = drive->walk.points[k].rip;
    if (result->failed++ < MESSAGES_MAX)
        printf("%s: failed at %zu of %zu, %s: %s %d (0x%x)\n", drive->scenario->name, k,
               drive->walk.count, step_symbol(rip, text, sizeof(text)), what, value,
               (unsigned)value);
    if (k < result->first_failed)
        result->first_failed = k;
}

/* The child to k, the action, the check. As step_reach, but a check that fails is counted, not
 * returned, and so is a child that died on the way. */
static int visit_child(struct drive *drive, size_t k)
{
    const struct step_scenario *s = drive->scenario;
    struct step_child child;
    int rc = step_start(&child, s);

    if (rc == 0)
        rc = step_reach(&child, &drive->walk, k);
    if (rc == 0 && drive->action == STEP_KILL)
        rc = step_kill(&child);
    if (rc == 0) {
        int verdict = drive->check(&child, k, s->user);
        drive->result->reached++;
        if (verdict != 0)
            report_failure(drive, &child, k, "the check said", verdict);
    } else if (rc == -ECHILD) {
        report_failure(drive, &child, k, "the child ended before, wait status", child.status);
        rc = 0;
    }
    step_kill(&child);
    return rc;
}

static int visit(struct drive *drive, size_t k)
{
    const struct step_scenario *s = drive->scenario;
    bool varied = drive->walk.varies;
    int strays = 0;
    int rc = 1;

    for (int i = 0; i < PASS_ATTEMPTS && (rc == 1 || rc == -EAGAIN); i++) {
        rc = s->setup ? s->setup(s->user) : 0;
        if (rc != 0) {
            printf("%s: setup for point %zu: %d\n", s->name, k, rc);
            return rc < 0 && rc != -EAGAIN ? rc : -EIO;
        }
        rc = visit_child(drive, k);
        if (s->teardown)
            s->teardown(s->user);
        /* One that went another way now and then is no reason to give breakpoints up. */
        if (rc == -EAGAIN && !varied && ++strays <= STRAYS_MAX)
            drive->walk.varies = false;
    }
    if (rc < 0)
        printf("%s: point %zu: %s\n", s->name, k, strerrorname_np(-rc));
    return rc;
}

static int summarize(const struct drive *drive)
{
    const struct step_result *result = drive->result;
    bool whole = result->instructions > 0 && result->reached >= result->instructions;

    printf("%s: %zu instructions, %zu failed", drive->scenario->name,
           result->varies ? result->reached : result->instructions, result->failed);
    if (result->varies)
        printf(" (the way varies; at least %zu)", result->instructions);
    if (result->same != 0)
        printf(" (%zu %s: the others leave the same)", result->reached - result->same,
               drive->action == STEP_KILL ? "kills" : "stops");
    if (!whole)
        printf(" (ONLY %zu OF %zu POINTS REACHED)", result->reached, result->instructions);
    printf("\n");
    return whole && result->failed == 0 ? 0 : 1;
}

int step_every(const struct step_scenario *scenario, enum step_action action, step_check_fn *check,
               struct step_result *result)
{
    struct step_scenario chosen = *scenario;
    struct drive drive = {.scenario = &chosen, .action = action, .check = check, .result = result};
    int rc;

    if (action == STEP_STOP)
        chosen.same = NULL;
    else
        chosen.skip_private = false;
    rc = step_walk(&chosen, &drive.walk);
    *result = (struct step_result){.instructions = drive.walk.count, .first_failed = SIZE_MAX};
    /* Beyond the recorded length, a region that varies goes on until it has been passed. */
    for (size_t k = 0; rc == 0; k++) {
        if (k >= drive.walk.count && !drive.walk.varies)
            break;
        if (!drive.walk.varies && drive.walk.points[k].same) {
            result->reached++;
            result->same++;
            continue;
        }
        rc = visit(&drive, k);
        if (rc == 1 && k >= drive.walk.count)
            break;
        if (rc == 1)
            rc = 0; /* a point that was not reached: it shows in the sum */
    }
    result->varies = drive.walk.varies;
    if (rc >= 0)
        rc = summarize(&drive);
    step_walk_free(&drive.walk);
    return rc;
}

/* Symbols, from the file's own table: static functions are in no dynamic one. */

struct module {
    uint64_t address; /* in: whom to look for */
    uint64_t bias;
    char path[256];
    char *text;
    size_t size_bytes;
};

static int find_module(struct dl_phdr_info *info, size_t size, void *user)
{
    struct module *module = user;

    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uint64_t start = info->dlpi_addr + segment->p_vaddr;
        if (segment->p_type == PT_LOAD && module->address >= start &&
            module->address - start < segment->p_memsz) {
            module->bias = info->dlpi_addr;
            snprintf(module->path, sizeof(module->path), "%s",
                     *info->dlpi_name ? info->dlpi_name : "/proc/self/exe");
            return 1;
        }
    }
    return 0;
}

/* Names the last function that starts at or before the address. The file is one that runs: trusted.
 * */
static bool name_in_table(const struct module *module, const char *file, uint32_t type)
{
    const ElfW(Ehdr) *header = (const void *)file;
    const ElfW(Shdr) *sections = (const void *)(file + header->e_shoff);
    uint64_t value = module->address - module->bias;
    const char *name = NULL;
    uint64_t best = 0;

    for (size_t i = 0; header->e_shoff != 0 && i < header->e_shnum; i++) {
        const ElfW(Sym) *symbols = (const void *)(file + sections[i].sh_offset);
        if (sections[i].sh_type != type)
            continue;
        for (size_t j = 0; j < sections[i].sh_size / sizeof(*symbols); j++) {
            bool function = ELF64_ST_TYPE(symbols[j].st_info) == STT_FUNC;
            if (function && symbols[j].st_shndx != SHN_UNDEF && symbols[j].st_value <= value &&
                symbols[j].st_value >= best) {
                best = symbols[j].st_value;
                name = file + sections[sections[i].sh_link].sh_offset + symbols[j].st_name;
            }
        }
    }
    if (name)
        snprintf(module->text, module->size_bytes, "%s+0x%llx", name,
                 (unsigned long long)(value - best));
    return name != NULL;
}

const char *step_symbol(uint64_t address, char *text, size_t size_bytes)
{
    struct module module = {.address = address, .text = text, .size_bytes = size_bytes};
    struct stat st;
    int fd;

    snprintf(text, size_bytes, "0x%llx", (unsigned long long)address);
    if (dl_iterate_phdr(find_module, &module) != 1)
        return text;
    fd = open(module.path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return text; /* the vdso has no file */
    if (fstat(fd, &st) == 0 && st.st_size > 0) {
        char *file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (file != MAP_FAILED) {
            if (!name_in_table(&module, file, SHT_SYMTAB))
                name_in_table(&module, file, SHT_DYNSYM);
            munmap(file, (size_t)st.st_size);
        }
    }
    close(fd);
    return text;
}
