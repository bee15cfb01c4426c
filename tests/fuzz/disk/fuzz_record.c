/* tests/fuzz/disk/fuzz_record.c - the header of a segment's record: any bytes, as they are and with
 * the CRC made right (or nothing behind it would ever be reached). What decodes encodes again to
 * the same meaning, a small record of an earlier format to one of the present. */
#include "common/base/crc32c.h"
#include "common/base/le.h"
#include "storaged/segment/record.h"
#include <string.h>

#define CRC_AT 252u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void one(const uint8_t *p, size_t n)
{
    static struct record_block blocks[RECORD_BLOCKS_MAX], again_blocks[RECORD_BLOCKS_MAX];
    static uint8_t again[RECORD_HEADER_BYTES_MAX];
    struct record_header h, g;
    struct err err;
    uint32_t header_n = 0;

    if (record_decode(p, n, &h, blocks, &err) != RC_OK) return;
    CHECK(record_peek(p, &header_n) == RC_OK && header_n <= n);
    CHECK(record_header_fits(header_n, h.plain_bytes));
    CHECK(record_encode(&h, blocks, again, &err) == RC_OK);
    CHECK(record_decode(again, MAX(header_n, RECORD_ALIGN_BYTES), &g, again_blocks, &err) == RC_OK);
    CHECK(g.plain_bytes == h.plain_bytes && g.sequence == h.sequence &&
          g.log_index == h.log_index && g.prior_end == h.prior_end &&
          g.moved_from.offset == h.moved_from.offset && id128_eq(&g.body, &h.body));
    CHECK(memcmp(blocks, again_blocks, record_blocks(h.plain_bytes) * sizeof(*blocks)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static uint8_t p[RECORD_HEADER_BYTES_MAX];
    static const uint8_t zero[4];
    size_t whole = MIN(ROUND_UP(MAX(n, (size_t)1), (size_t)RECORD_ALIGN_BYTES), sizeof(p));
    uint32_t header_n = 0, crc;

    memset(p, 0, whole);
    if (n > 0) memcpy(p, data, MIN(n, whole));
    one(p, whole);
    if (record_peek(p, &header_n) != RC_OK || header_n > whole) return 0;
    crc = crc32c(crc32c(0, p, CRC_AT), zero, 4);
    le_put32(p + CRC_AT, crc32c(crc, p + CRC_AT + 4, header_n - CRC_AT - 4));
    one(p, whole);
    return 0;
}
