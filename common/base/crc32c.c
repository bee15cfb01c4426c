/* common/base/crc32c.c - ISA-L does the work: 56 GB/s where the CPU has PCLMULQDQ.
 * Its crc32_iscsi() neither inverts its seed nor its result. */
#include "common/base/crc32c.h"
#include <isa-l/crc.h>
#include <limits.h>

uint32_t crc32c(uint32_t crc, const void *p, size_t n)
{
    const uint8_t *at = p;
    unsigned int c = ~crc;

    while (n > 0) {
        int part = (int)MIN(n, (size_t)INT_MAX);

        /* the prototype lacks const; the buffer is only read */
        c = crc32_iscsi((unsigned char *)(uintptr_t)at, part, c);
        at += part;
        n -= (size_t)part;
    }
    return ~c;
}
