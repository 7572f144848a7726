/* geb doctor: doctor.c looks at buses and files, doctor_system.c at what the machine offers. */
#ifndef TOOLS_GEB_DOCTOR_H
#define TOOLS_GEB_DOCTOR_H

#include <stdbool.h>
#include <stdint.h>

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
