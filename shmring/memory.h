/* How much memory a new bus may take.
 *
 * The pages of a bus in a tmpfs are memory that nobody can take back. A kernel that runs out of it
 * ends processes, which need not be ours; so a bus that does not fit is refused before its first
 * page. It is an estimate, and two creators may both pass: whoever meets the end of memory then
 * gets what the kernel says.
 */
#ifndef SHMRING_MEMORY_H
#define SHMRING_MEMORY_H

#include <stdint.h>

/* Bytes that are available: what the kernel gives without taking it from anybody (MemAvailable),
 * less a sixteenth of all memory, which stays for others; and not more than the control groups of
 * this process leave (version 1 or 2, file cache counted as free). Swap does not count. root: ""
 * for this machine; a directory with the same files for tests. UINT64_MAX: not known. */
uint64_t shr_memory_available(const char *root);

/* Whether `bytes` of new pages fit, for a file of the file system that fd is on: 0; -ENOMEM: more
 * than shr_memory_available; -ENOSPC: more than the file system has left. Only a tmpfs or ramfs is
 * judged: hugetlbfs reserves its pages when they are mapped, and files on disks are no memory. */
int shr_memory_check(int fd, uint64_t bytes);

#endif
