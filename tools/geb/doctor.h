/* geb doctor: doctor_bus.c looks at buses and repairs them, doctor_file.c does so with their
 * directory and with what else is in it, doctor_system.c sees what the machine offers; doctor.c
 * prints.
 *
 * A finding is what is wrong, and either what was done about it or the command that a person gives.
 * What was done counts as fixed, the rest as a problem. */
#ifndef TOOLS_GEB_DOCTOR_H
#define TOOLS_GEB_DOCTOR_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct doctor {
    bool json;
    bool fix;
    bool remove_unused; /* with fix: buses that nobody takes part in and that hold no event */
    bool failed;        /* a repair gave an error */
    bool is_ours;       /* the directory is the one of this user alone */
    json_t *buses, *stale;
    uint32_t bus_cnt, problem_cnt, fixed_cnt;
    uint32_t unseen_cnt; /* buses, or what may be some, that could not be looked at */
};

/* Adds to an array of findings. did: what was done, or NULL: then todo is a command. */
void doctor_find(struct doctor *doctor, json_t *findings, const char *what, const char *did,
                 const char *todo);

/* Text for one of them; `command` is followed by the path, quoted. */
#define DOCTOR_TEXT_BYTES 700
char *doctor_text(char text[DOCTOR_TEXT_BYTES], const char *format, ...)
    __attribute__((format(printf, 2, 3)));
char *doctor_command(char text[DOCTOR_TEXT_BYTES], const char *command, const char *path);

/* Prints a line for the subject and its findings; or nothing, with --json. */
void doctor_print(const struct doctor *doctor, const char *subject, const json_t *findings);

/* A bus of this name or path; 0 or why it cannot be looked at: then nothing was said about it. */
int doctor_bus(struct doctor *doctor, const char *bus);

/* The directory itself, if it is the one that geb makes; then each file in it. */
void doctor_directory(struct doctor *doctor, const char *dir);
void doctor_files(struct doctor *doctor, const char *dir);

struct doctor_space {
    int rc; /* 0, or -errno: the rest is not valid then */
    char path[256];
    const char *backing;
    uint64_t bytes, free_bytes;
};

struct doctor_system {
    struct doctor_space shm;       /* /dev/shm */
    struct doctor_space directory; /* where the buses are */
    uint64_t memlock_bytes;        /* UINT64_MAX: no limit */
    uint64_t huge_page_bytes, huge_pages, huge_pages_free;
    char huge_mount[256]; /* a hugetlbfs mount; empty: there is none */
    int io_uring;         /* 0: available; or -errno */
    int membarrier;       /* 0: available; or -errno */
};

void doctor_system_read(struct doctor_system *system);

#endif
