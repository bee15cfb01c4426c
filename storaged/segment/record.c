/* storaged/segment/record.c - invariants: every byte of a header is covered by its CRC, its padding
 * included; a decoded header satisfies what encode demands, so that nothing behind it checks again.
 */
#include "storaged/segment/record.h"
#include "common/base/crc32c.h"
#include "common/base/le.h"

#define FIXED_BYTES 256u
#define BLOCK_BYTES 20u
#define CRC_AT      252u

static const uint8_t MAGIC[8] = {'M', 'I', 'K', 'U', 'R', 'A', 'R', 0x1a};

_Static_assert(FIXED_BYTES + BLOCK_BYTES == RECORD_SMALL_HEADER_BYTES, "one block");
_Static_assert(ROUND_UP(FIXED_BYTES + RECORD_BLOCKS_MAX * BLOCK_BYTES, RECORD_ALIGN_BYTES) ==
                   RECORD_HEADER_BYTES_MAX,
               "the largest header");

/* Of formats 1 and 2. */
static uint32_t apart_header_bytes(uint32_t plain_bytes)
{
    return ROUND_UP(FIXED_BYTES + record_blocks(plain_bytes) * BLOCK_BYTES, RECORD_ALIGN_BYTES);
}

uint32_t record_header_bytes(uint32_t plain_bytes)
{
    return plain_bytes <= RECORD_SMALL_BYTES_MAX ? RECORD_SMALL_HEADER_BYTES
                                                 : apart_header_bytes(plain_bytes);
}

bool record_header_fits(uint32_t header_bytes, uint32_t plain_bytes)
{
    return plain_bytes > 0 && plain_bytes <= RECORD_PAYLOAD_BYTES_MAX &&
           (header_bytes == record_header_bytes(plain_bytes) ||
            header_bytes == apart_header_bytes(plain_bytes));
}

uint32_t record_bytes(uint32_t header_bytes, uint32_t plain_bytes)
{
    return ROUND_UP(header_bytes + plain_bytes, RECORD_ALIGN_BYTES);
}

uint32_t record_block_bytes(uint32_t header_bytes, uint32_t plain_bytes, uint32_t block)
{
    uint32_t at = header_bytes + block * RECORD_BLOCK_BYTES;

    return MIN(RECORD_BLOCK_BYTES, record_bytes(header_bytes, plain_bytes) - at);
}

uint32_t record_payload_bytes(uint32_t plain_bytes)
{
    return ROUND_UP(plain_bytes, RECORD_ALIGN_BYTES);
}

static const char *fault(const struct record_header *h)
{
    if (h->type != RECORD_CHUNK && h->type != RECORD_LOG_ENTRY) return "type";
    if (h->cipher_suite != (h->type == RECORD_CHUNK ? 1u : 0u)) return "cipher suite";
    if (h->plain_bytes == 0 || h->plain_bytes > RECORD_PAYLOAD_BYTES_MAX) return "plain length";
    if (h->sequence == 0) return "sequence";
    if (h->pool == 0 || h->pool > UINT16_MAX) return "pool";
    if (h->flushed_upto % RECORD_ALIGN_BYTES != 0) return "flushed_upto";
    if (h->moved_from.offset % RECORD_ALIGN_BYTES != 0) return "source";
    return NULL;
}

/* The header's own CRC is computed with its field as zero. */
static uint32_t header_crc(const uint8_t *p, size_t n)
{
    static const uint8_t zero[4];
    uint32_t crc = crc32c(0, p, CRC_AT);

    crc = crc32c(crc, zero, sizeof(zero));
    return crc32c(crc, p + CRC_AT + 4, n - CRC_AT - 4);
}

enum rc record_encode(const struct record_header *h, const struct record_block *blocks,
                      uint8_t *out, struct err *reterr)
{
    const char *bad = fault(h);
    uint32_t n;

    if (bad != NULL) return err_set(reterr, RC_INVAL, "record header: %s out of range", bad);
    n = record_header_bytes(h->plain_bytes);
    memset(out, 0, n);
    memcpy(out, MAGIC, sizeof(MAGIC));
    le_put32(out + 8, n == RECORD_SMALL_HEADER_BYTES  ? RECORD_FORMAT_SMALL
                      : h->moved_from.segment_id == 0 ? RECORD_FORMAT
                                                      : RECORD_FORMAT_MOVED);
    le_put32(out + 12, n);
    le_put32(out + 16, (uint32_t)h->type);
    le_put32(out + 20, h->cipher_suite);
    le_put64(out + 24, h->segment_id);
    le_put64(out + 32, h->segment_generation);
    le_put64(out + 40, h->sequence);
    le_put64(out + 48, h->flushed_upto);
    le_put32(out + 56, h->pool);
    le_put32(out + 60, h->index);
    be_put64(out + 64, h->placement_hash);
    be_put64(out + 72, h->owner_hash);
    memcpy(out + 80, h->upload_id.b, 16);
    memcpy(out + 96, h->body.b, 16);
    memcpy(out + 112, h->seal_id.b, 16);
    le_put32(out + 128, h->plain_bytes);
    le_put32(out + 132, RECORD_BLOCK_BYTES);
    le_put64(out + 136, h->config);
    le_put64(out + 144, h->epoch);
    le_put64(out + 152, h->log_index);
    memcpy(out + 160, h->plain_digest, 32);
    le_put64(out + 192, h->prior_segment_id);
    le_put64(out + 200, h->prior_end);
    if (h->moved_from.segment_id != 0) {
        le_put64(out + 208, h->moved_from.segment_id);
        le_put64(out + 216, h->moved_from.generation);
        le_put64(out + 224, h->moved_from.offset);
    }
    for (uint32_t i = 0; i < record_blocks(h->plain_bytes); i++) {
        le_put32(out + FIXED_BYTES + i * BLOCK_BYTES, blocks[i].crc32c);
        memcpy(out + FIXED_BYTES + i * BLOCK_BYTES + 4, blocks[i].tag, RECORD_TAG_BYTES);
    }
    le_put32(out + CRC_AT, header_crc(out, n));
    return RC_OK;
}

enum rc record_peek(const uint8_t p[RECORD_ALIGN_BYTES], uint32_t *ret_header_bytes)
{
    uint32_t n = le_get32(p + 12), format = le_get32(p + 8);

    if (memcmp(p, MAGIC, sizeof(MAGIC)) != 0 || format < RECORD_FORMAT ||
        format > RECORD_FORMAT_SMALL) {
        return RC_CORRUPT;
    }
    if (format == RECORD_FORMAT_SMALL
            ? n != RECORD_SMALL_HEADER_BYTES
            : n == 0 || n % RECORD_ALIGN_BYTES != 0 || n > RECORD_HEADER_BYTES_MAX) {
        return RC_CORRUPT;
    }
    *ret_header_bytes = n;
    return RC_OK;
}

uint64_t record_segment(const uint8_t p[RECORD_ALIGN_BYTES])
{
    return le_get64(p + 24);
}

enum rc record_decode(const uint8_t *p, size_t n, struct record_header *ret_header,
                      struct record_block *blocks, struct err *reterr)
{
    struct record_header h;
    uint32_t header_n = 0, format;
    const char *bad;

    if (n < RECORD_ALIGN_BYTES || record_peek(p, &header_n) != RC_OK || header_n > n) {
        return err_set(reterr, RC_CORRUPT, "no record of format %u to %u begins here",
                       RECORD_FORMAT, RECORD_FORMAT_SMALL);
    }
    format = le_get32(p + 8);
    if (le_get32(p + CRC_AT) != header_crc(p, header_n)) {
        return err_set(reterr, RC_CORRUPT, "record header: its CRC is %08x, stored is %08x",
                       header_crc(p, header_n), le_get32(p + CRC_AT));
    }
    h = (struct record_header){
        .type = (enum record_type)le_get32(p + 16),
        .cipher_suite = le_get32(p + 20),
        .segment_id = record_segment(p),
        .segment_generation = le_get64(p + 32),
        .sequence = le_get64(p + 40),
        .flushed_upto = le_get64(p + 48),
        .pool = le_get32(p + 56),
        .index = le_get32(p + 60),
        .placement_hash = be_get64(p + 64),
        .owner_hash = be_get64(p + 72),
        .plain_bytes = le_get32(p + 128),
        .config = le_get64(p + 136),
        .epoch = le_get64(p + 144),
        .log_index = le_get64(p + 152),
        .prior_segment_id = le_get64(p + 192),
        .prior_end = le_get64(p + 200),
    };
    memcpy(h.upload_id.b, p + 80, 16);
    memcpy(h.body.b, p + 96, 16);
    memcpy(h.seal_id.b, p + 112, 16);
    memcpy(h.plain_digest, p + 160, 32);
    if (format != RECORD_FORMAT) {
        h.moved_from =
            (struct record_source){le_get64(p + 208), le_get64(p + 216), le_get64(p + 224)};
    }
    bad = fault(&h);
    if (bad == NULL && h.moved_from.segment_id == 0 &&
        (format == RECORD_FORMAT_MOVED || h.moved_from.generation != 0 || h.moved_from.offset != 0))
        bad = "source";
    if (bad == NULL && le_get32(p + 132) != RECORD_BLOCK_BYTES) bad = "block size";
    if (bad == NULL &&
        (format == RECORD_FORMAT_SMALL ? h.plain_bytes > RECORD_SMALL_BYTES_MAX
                                       : apart_header_bytes(h.plain_bytes) != header_n))
        bad = "header length";
    if (bad != NULL) return err_set(reterr, RC_CORRUPT, "record header: %s out of range", bad);
    for (uint32_t i = 0; i < record_blocks(h.plain_bytes); i++) {
        blocks[i].crc32c = le_get32(p + FIXED_BYTES + i * BLOCK_BYTES);
        memcpy(blocks[i].tag, p + FIXED_BYTES + i * BLOCK_BYTES + 4, RECORD_TAG_BYTES);
    }
    *ret_header = h;
    return RC_OK;
}

enum rc record_block_check(uint32_t plain_bytes, uint32_t block, const uint8_t *p, uint32_t crc)
{
    uint32_t at = block * RECORD_BLOCK_BYTES;

    CHECK(block < record_blocks(plain_bytes));
    return crc32c(0, p, MIN(RECORD_BLOCK_BYTES, plain_bytes - at)) == crc ? RC_OK : RC_CORRUPT;
}
