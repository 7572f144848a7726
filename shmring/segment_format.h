/* What is where in a segment: the part of segment.h that needs no file.
 *
 * The place of every region follows from a handful of numbers (capacity, producers, topics, chunks,
 * shelf, page size). shr_geometry_plan computes it for a creator; shr_geometry_check computes it
 * again for whoever attaches and accepts no other.
 *
 * Threads: pure functions, except that the format writes the segment, which nobody else sees yet.
 */
#ifndef SHMRING_SEGMENT_FORMAT_H
#define SHMRING_SEGMENT_FORMAT_H

#include "shmring/segment.h"

/* Everything but id, times and creator, which stay zero. -EINVAL, -EDOM: as shr_segment_size. */
int shr_geometry_plan(struct shr_geometry *geo, const struct shr_config *config,
                      uint32_t page_bytes, const char **why);

/* Whether a geometry that came from a file is one that shr_geometry_plan makes, for a file of this
 * length with pages of this size. 0 or -EBADMSG. */
int shr_geometry_check(const struct shr_geometry *geo, uint64_t file_bytes, uint32_t page_bytes);

/* Sets the pointers of a map from its base and its geometry. */
void shr_map_regions(struct shr_map *map);

/* Writes header, hot page and cells into a mapped segment of zeroes. The magic is last. */
void shr_segment_format(struct shr_map *map);

#endif
