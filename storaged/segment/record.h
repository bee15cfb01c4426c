/* storaged/segment/record.h - header of one record of the segment log (DESIGN.md section 6):
 * encode, decode, and the checks that need no key. Byte offsets: README.md. No I/O here. */
#pragma once
#include "common/base/id128.h"
#include "common/base/rc.h"

#define RECORD_FORMAT             1u
#define RECORD_FORMAT_MOVED       2u /* the same, and where reclaim took it from */
#define RECORD_FORMAT_SMALL       3u /* one page: the payload right behind the header; moved or not */
#define RECORD_ALIGN_BYTES        4096u
#define RECORD_BLOCK_BYTES        65536u
#define RECORD_TAG_BYTES          16u
#define RECORD_PAYLOAD_BYTES_MAX  (64u << 20)
#define RECORD_BLOCKS_MAX         (RECORD_PAYLOAD_BYTES_MAX / RECORD_BLOCK_BYTES)
#define RECORD_HEADER_BYTES_MAX   24576u /* 256 + 1024 * 20, rounded up to 4 KiB */
#define RECORD_SMALL_HEADER_BYTES 276u   /* 256 + 20: one block */
#define RECORD_SMALL_BYTES_MAX    (RECORD_ALIGN_BYTES - RECORD_SMALL_HEADER_BYTES) /* 3820 */

enum record_type { RECORD_CHUNK = 1, RECORD_LOG_ENTRY = 2 };

/* A copy made by reclaim stands for the record only while the index points at its source. */
struct record_source {
    uint64_t segment_id, generation, offset; /* zero segment_id: not a copy */
};

struct record_header {
    enum record_type type;
    uint32_t cipher_suite; /* 0 = not sealed (log entries), 1 = AES-256-GCM per block */
    uint64_t segment_id, segment_generation;
    uint64_t sequence;     /* of the record in its segment, from 1 */
    uint64_t flushed_upto; /* offset in the segment: all below was durable when this was written */
    uint32_t pool;
    uint64_t placement_hash, owner_hash;
    struct id128 upload_id, body, seal_id;
    uint32_t index;       /* of the chunk in its body */
    uint32_t plain_bytes; /* = payload bytes, before padding */
    uint64_t config, epoch, log_index;
    uint8_t plain_digest[32]; /* sealed (keyed) digest of the plaintext; zero for log entries */
    /* the segment before this one and where its records end; zero: the first of its process */
    uint64_t prior_segment_id, prior_end;
    struct record_source moved_from;
};
struct record_block {
    uint32_t crc32c; /* of the ciphertext block */
    uint8_t tag[RECORD_TAG_BYTES];
};

static inline uint32_t record_blocks(uint32_t plain_bytes)
{
    return plain_bytes / RECORD_BLOCK_BYTES + (plain_bytes % RECORD_BLOCK_BYTES != 0);
}

/* Of a record written now: where the payload begins. A multiple of 4 KiB, or of a small one
 * RECORD_SMALL_HEADER_BYTES. */
uint32_t record_header_bytes(uint32_t plain_bytes);
/* Is there such a record, of this or an earlier format? (An index's bytes come from a disk.) */
bool record_header_fits(uint32_t header_bytes, uint32_t plain_bytes);
/* Rounded up to 4 KiB: what a buffer for the payload holds. */
uint32_t record_payload_bytes(uint32_t plain_bytes);
/* All of it on the disk, with its padding; a multiple of 4 KiB. */
uint32_t record_bytes(uint32_t header_bytes, uint32_t plain_bytes);
/* A payload block on the disk, with the padding behind it if it is the last. */
uint32_t record_block_bytes(uint32_t header_bytes, uint32_t plain_bytes, uint32_t block);

/* out holds record_header_bytes(h->plain_bytes), all of it written (padding zeroed). blocks has
 * record_blocks(h->plain_bytes). RC_INVAL: a field out of range. */
MUST_CHECK enum rc record_encode(const struct record_header *h, const struct record_block *blocks,
                                 uint8_t *out, struct err *reterr);
/* Length of the header that begins at p, from its first 4 KiB: RC_OK; RC_CORRUPT: no record begins
 * here. Of a small one less than a page: read the page. */
MUST_CHECK enum rc record_peek(const uint8_t p[RECORD_ALIGN_BYTES], uint32_t *ret_header_bytes);
/* The segment that the header at p says it lies in; of one that was only peeked at, unchecked. */
uint64_t record_segment(const uint8_t p[RECORD_ALIGN_BYTES]);
/* p has n >= the peeked length, at least a page. blocks holds all that n bytes may describe: n /
 * sizeof(struct record_block), or RECORD_BLOCKS_MAX. RC_CORRUPT says what differs. */
MUST_CHECK enum rc record_decode(const uint8_t *p, size_t n, struct record_header *ret_header,
                                 struct record_block *blocks, struct err *reterr);
/* One payload block against its CRC. block < record_blocks(plain_bytes). RC_CORRUPT. */
MUST_CHECK enum rc record_block_check(uint32_t plain_bytes, uint32_t block, const uint8_t *p,
                                      uint32_t crc);
