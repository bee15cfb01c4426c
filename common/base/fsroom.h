/* common/base/fsroom.h - how long a look at a file system's free space holds.
 *
 * Room is asked for before each write and looked at with a system call. What was spare a moment ago
 * can't be gone yet: nobody writes faster than a disk does. So far from the limit a look holds for
 * some ms, and close to it for no time at all. (Who allocates without writing, by fallocate, is
 * faster than that: he is seen FSROOM_HOLD_US_MAX later.) */
#pragma once
#include "common/base/macros.h"

#define FSROOM_BYTES_PER_US 32768u /* four times the 8 GB/s of a fast disk */
#define FSROOM_HOLD_US_MAX  10000u

/* spare_bytes: what is free beyond the limit. */
static inline uint64_t fsroom_hold_us(uint64_t spare_bytes)
{
    return MIN(spare_bytes / FSROOM_BYTES_PER_US, (uint64_t)FSROOM_HOLD_US_MAX);
}
