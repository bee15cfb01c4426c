/* storaged/io/buffers.h - a disk's arena: aligned memory that is given out and comes back.
 *
 * Where a buffer lies depends on its size:
 *   up to BUFFERS_SMALL_BYTES (headers, small chunks)  the lowest place that is free
 *   from BUFFERS_LARGE_BYTES (whole chunks)            the highest
 *   between                                            the next free place in a circle of the
 *                                                      lower three quarters
 * and where the circle has no room, the lowest place anywhere: NULL is for want of contiguous
 * memory, never for the rule.
 *
 * Why a circle: what was read is then looked at (its CRC, its way to the wire), so the CPU's cache
 * holds it. Given out again at once, the same memory is what the disk writes into next, and on a
 * virtual disk that costs up to half of the rate (512 KiB random reads;
 * tests/bench/disk/RESULTS.md). In a circle the buffer that came back last is the last to go out
 * again. Large ones go through more memory than the cache has anyway, and lie at the other end so
 * that the circle does not cut up their room. Small ones are mostly filled by the CPU, which is
 * faster in memory that it holds. */
#pragma once
#include "common/base/rc.h"
#include "storaged/io/disk.h"

#define BUFFERS_SMALL_BYTES (128u << 10)
#define BUFFERS_LARGE_BYTES (2u << 20)

struct buffers {
    uint8_t *base;
    uint32_t *tags; /* at first and last page of each run: its pages * 2, + 1 if out */
    uint32_t pages_n, used_n;
    uint32_t next; /* page where the circle goes on */
};

/* bytes > 0, rounded up to whole pages. RC_NOMEM: b is empty, and may be deinited. */
MUST_CHECK enum rc buffers_init(struct buffers *b, size_t bytes);
void buffers_deinit(struct buffers *b);
/* DISK_ALIGN_BYTES aligned; NULL: no room for it in one piece, or bytes == 0. A walk over the runs:
 * they are few. */
void *buffers_alloc(struct buffers *b, size_t bytes);
void buffers_free(struct buffers *b, void *p); /* NULL is fine; CHECKs that it is out */
size_t buffers_bytes(const struct buffers *b); /* all of it */
