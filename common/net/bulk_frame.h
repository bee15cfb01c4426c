/* common/net/bulk_frame.h - frames of the bulk wire as bytes: sealed and opened, without a socket.
 *
 *   n u32 | ciphertext of n bytes (fixed 16 | header) | tag 16 | payload_n bare bytes
 *   fixed: type u8 | 0 u8 | 0 u16 | id u32 | payload_n u32 | timeout_ms u32
 *
 * AES-256-GCM; nonce = 32 zero bits | frame counter, 64 bits big-endian, never sent; AAD = n. So a
 * frame that is replayed, left out or moved does not open. Every 2^24 frames the key is replaced by
 * HKDF of itself; the counter goes on. One direction of one connection is one struct bulk_key.
 * Integers little-endian. */
#pragma once
#include "common/base/buf.h"
#include "common/net/bulk.h"

#define BULK_FRAME_LENGTH_BYTES 4u
#define BULK_FRAME_FIXED_BYTES  16u
#define BULK_FRAME_TAG_BYTES    16u
/* Before the header, and in all without the header. */
#define BULK_FRAME_HEAD_BYTES  (BULK_FRAME_LENGTH_BYTES + BULK_FRAME_FIXED_BYTES)
#define BULK_FRAME_EXTRA_BYTES (BULK_FRAME_HEAD_BYTES + BULK_FRAME_TAG_BYTES)
#define BULK_RATCHET_FRAMES    (1ull << 24)
#define BULK_HELLO_BYTES       68u

enum bulk_frame_type {
    BULK_HELLO = 1,
    BULK_REQUEST = 2,
    BULK_ANSWER = 3,
    BULK_MESSAGE = 4,
    BULK_DRAIN = 5 /* the sender starts nothing more here; id, header and payload are empty */
};
struct bulk_frame {
    enum bulk_frame_type type;
    uint32_t id;
    uint32_t payload_n;
    uint32_t timeout_ms; /* requests: what is left; 0 = none */
};

/* One direction's key and counter. */
struct bulk_key;
MUST_CHECK enum rc bulk_key_new(const uint8_t secret[32], struct bulk_key **ret_key);
void bulk_key_free(struct bulk_key *k);
/* For tests of the ratchet: as if this many frames had passed; both sides alike. */
MUST_CHECK enum rc bulk_key_skip(struct bulk_key *k, uint64_t frames);

/* p holds BULK_FRAME_EXTRA_BYTES + header_n; the header lies at p + BULK_FRAME_HEAD_BYTES and is
 * sealed in place. RC_INTERNAL, RC_NOMEM: the key is of no more use. */
MUST_CHECK enum rc bulk_frame_seal(struct bulk_key *k, const struct bulk_frame *f, uint8_t *p,
                                   uint32_t header_n);
/* How many bytes follow the 4 of the length. RC_CORRUPT: no length of a frame. */
MUST_CHECK enum rc bulk_frame_length(const uint8_t p[BULK_FRAME_LENGTH_BYTES], uint32_t *ret_n);
/* p: a whole frame without its payload, n bytes, opened in place; ret_header lies in it.
 * RC_CORRUPT: not this key's next frame, or a malformed one: the connection must end. */
MUST_CHECK enum rc bulk_frame_open(struct bulk_key *k, uint8_t *p, size_t n,
                                   struct bulk_frame *ret_frame, struct slice *ret_header);

/* wire version u32 | class u32 | features u64 | cluster 16 | node 16 | boot id 16 | 0 u32 */
void bulk_hello_encode(const struct bulk_hello *h, uint8_t ret[BULK_HELLO_BYTES]);
/* RC_CORRUPT: malformed, or a class that is none. A later version may be longer. */
MUST_CHECK enum rc bulk_hello_decode(struct slice bytes, struct bulk_hello *ret_hello);
