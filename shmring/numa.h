/* Which memory is near which processor. Everything here works on a machine without NUMA, and in a
 * container that forbids the system calls: there is one node then, number 0.
 *
 * Threads: all functions may be called by all threads at once.
 */
#ifndef SHMRING_NUMA_H
#define SHMRING_NUMA_H

#include <stdbool.h>
#include <stdint.h>

#define SHR_NODE_ID_MAX 1024u /* the kernel's own limit */

/* Writes the nodes whose memory this process may use, the calling thread's first, then by number.
 * Returns how many it wrote: 1 … max. */
uint32_t shr_numa_nodes(uint32_t *node, uint32_t max);

/* Whether this process may use memory of a node. */
bool shr_numa_usable(uint32_t node);

/* Asks that pages of the range that do not exist yet come from a node; from another one if that is
 * full, unless strict. The range starts and ends on a page. Does nothing on a machine with one
 * node. 0 or -errno. */
int shr_numa_place(void *start, uint64_t bytes, uint32_t node, bool strict);

/* The node of the page at an address, which is brought in if need be. 0; -errno: cannot tell. */
int shr_numa_where(void *addr, uint32_t *node);

#endif
