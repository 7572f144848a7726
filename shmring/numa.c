#include "shmring/numa.h"

#include <errno.h>
#include <limits.h>
#include <numaif.h>
#include <sched.h>
#include <string.h>

#define WORD_BITS (sizeof(unsigned long) * CHAR_BIT)

struct node_mask {
    unsigned long word[SHR_NODE_ID_MAX / WORD_BITS];
};

static bool mask_has(const struct node_mask *mask, uint32_t node)
{
    return node < SHR_NODE_ID_MAX && (mask->word[node / WORD_BITS] >> (node % WORD_BITS) & 1) != 0;
}

static void mask_add(struct node_mask *mask, uint32_t node)
{
    mask->word[node / WORD_BITS] |= 1ul << (node % WORD_BITS);
}

/* The nodes that the process's cpuset allows; those are nodes with memory. */
static void mask_usable(struct node_mask *mask)
{
    memset(mask, 0, sizeof(*mask));
    if (get_mempolicy(NULL, mask->word, SHR_NODE_ID_MAX, NULL, MPOL_F_MEMS_ALLOWED) == 0)
        for (uint32_t i = 0; i < SHR_NODE_ID_MAX / WORD_BITS; i++)
            if (mask->word[i] != 0)
                return;
    memset(mask, 0, sizeof(*mask));
    mask_add(mask, 0);
}

uint32_t shr_numa_nodes(uint32_t *node, uint32_t max)
{
    struct node_mask usable;
    mask_usable(&usable);
    unsigned int cpu = 0;
    unsigned int here = 0;
    uint32_t cnt = 0;
    if (getcpu(&cpu, &here) != 0)
        here = 0;
    if (mask_has(&usable, here) && cnt < max)
        node[cnt++] = here;
    for (uint32_t id = 0; id < SHR_NODE_ID_MAX && cnt < max; id++) {
        if (usable.word[id / WORD_BITS] == 0)
            id |= WORD_BITS - 1; /* most of the mask is empty: on to the next word */
        else if (id != here && mask_has(&usable, id))
            node[cnt++] = id;
    }
    return cnt;
}

bool shr_numa_usable(uint32_t node)
{
    struct node_mask usable;
    mask_usable(&usable);
    return mask_has(&usable, node);
}

int shr_numa_place(void *start, uint64_t bytes, uint32_t node, bool strict)
{
    uint32_t known[2];
    if (shr_numa_nodes(known, 2) < 2 || bytes == 0)
        return 0;
    if (node >= SHR_NODE_ID_MAX)
        return -EINVAL;
    struct node_mask mask = {{0}};
    mask_add(&mask, node);
    /* The kernel reads one bit less than it is told. */
    if (mbind(start, bytes, strict ? MPOL_BIND : MPOL_PREFERRED, mask.word, SHR_NODE_ID_MAX + 1,
              0) != 0)
        return -errno;
    return 0;
}

int shr_numa_where(void *addr, uint32_t *node)
{
    int id = 0;
    if (get_mempolicy(&id, NULL, 0, addr, MPOL_F_NODE | MPOL_F_ADDR) != 0)
        return -errno;
    *node = (uint32_t)id;
    return 0;
}
