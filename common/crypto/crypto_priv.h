/* common/crypto/crypto_priv.h - OpenSSL's HKDF, HMAC and AES-256-GCM in the few forms used here.
 * All RC_INTERNAL (OpenSSL refused) or RC_NOMEM. */
#pragma once
#include "common/base/rc.h"

struct key;

/* HKDF-SHA256(key, no salt, info = label | id): 32 bytes. id may be empty; the label is a constant
 * with its version. */
MUST_CHECK enum rc crypto_derive(const uint8_t key[32], const char *label, struct slice id,
                                 uint8_t ret_key[32]);
/* Over the concatenation of the parts. */
MUST_CHECK enum rc crypto_hmac(const uint8_t key[32], const struct slice *parts, size_t parts_n,
                               uint8_t ret_mac[32]);
MUST_CHECK enum rc crypto_sha256(const struct slice *parts, size_t parts_n, uint8_t ret[32]);
/* One message: AAD is the concatenation of the parts. cipher and plain have n bytes and may be the
 * same memory. */
MUST_CHECK enum rc crypto_gcm_seal(const uint8_t key[32], const uint8_t nonce[12],
                                   const struct slice *aad, size_t aad_n, struct slice plain,
                                   uint8_t *cipher, uint8_t ret_tag[16]);
/* RC_CORRUPT: plain is zeroed. */
MUST_CHECK enum rc crypto_gcm_open(const uint8_t key[32], const uint8_t nonce[12],
                                   const struct slice *aad, size_t aad_n, struct slice cipher,
                                   const uint8_t tag[16], uint8_t *plain);
