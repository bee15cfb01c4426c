/* common/crypto/seal.h - sealing of one chunk: AES-256-GCM over blocks of 64 KiB (DESIGN.md section
 * 10).
 *
 * Chunk key = HKDF-SHA256(body key, no salt, info = "mikura chunk key 1" | identity). Nonce = block
 * number, 96 bits big-endian. AAD = identity | block number | block count. Identity names the
 * content only, never group, node or offset, so that records move verbatim. No nonce repeats under
 * one key as long as each sealing draws a new random seal id: that is the caller's duty.
 *
 * One struct seal belongs to one thread at a time. Bytes of every encoding: README.md. */
#pragma once
#include "common/base/id128.h"
#include "common/base/rc.h"

#define SEAL_SUITE_AES256GCM 1u
#define SEAL_BLOCK_BYTES     65536u
#define SEAL_TAG_BYTES       16u
#define SEAL_CHUNK_BYTES_MAX (64u << 20)

struct seal_ident {
    uint32_t suite; /* SEAL_SUITE_AES256GCM */
    struct id128 body;
    uint32_t index;
    struct id128 seal_id;
    uint32_t plain_bytes; /* of the chunk, 1 .. SEAL_CHUNK_BYTES_MAX */
};
struct seal;

static inline uint32_t seal_blocks(uint32_t plain_bytes)
{
    return plain_bytes / SEAL_BLOCK_BYTES + (plain_bytes % SEAL_BLOCK_BYTES != 0);
}

/* RC_INVAL (suite or length), RC_NOMEM, RC_INTERNAL (OpenSSL refused). body_key is not kept. */
MUST_CHECK enum rc seal_new(const uint8_t body_key[32], const struct seal_ident *ident,
                            struct seal **ret_seal, struct err *reterr);
void seal_free(struct seal *s); /* wipes the key */

/* Block `block` holds SEAL_BLOCK_BYTES, the last one the rest. cipher has the block's length and
 * may be plain itself. RC_INVAL (no such block), RC_INTERNAL. */
MUST_CHECK enum rc seal_block(struct seal *s, uint32_t block, const uint8_t *plain, uint8_t *cipher,
                              uint8_t tag[SEAL_TAG_BYTES]);
/* The same in pieces of any length, in order, that make the whole block (chunk_seal.h). RC_INVAL
 * also when the pieces are too long or, at the end, too short. */
MUST_CHECK enum rc seal_block_begin(struct seal *s, uint32_t block);
MUST_CHECK enum rc seal_block_part(struct seal *s, const uint8_t *plain, uint8_t *cipher,
                                   uint32_t n);
MUST_CHECK enum rc seal_block_end(struct seal *s, uint8_t tag[SEAL_TAG_BYTES]);
/* RC_CORRUPT: not what was sealed under this identity; plain is zeroed then. */
MUST_CHECK enum rc seal_open_block(struct seal *s, uint32_t block, const uint8_t *cipher,
                                   const uint8_t tag[SEAL_TAG_BYTES], uint8_t *plain);
