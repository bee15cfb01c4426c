/* common/crypto/sign.h - Ed25519 signatures of receipts, capabilities and audit checkpoints.
 *
 * What is signed is "mikura <purpose> 1" | 0x00 | message, so that bytes signed for one purpose
 * never pass for another. The seed is a struct key, wrapped by keys.h (KEY_SIGNING, self = the key
 * id's 16 bytes). Any thread. */
#pragma once
#include "common/crypto/keys.h"

#define SIGN_PUBLIC_BYTES    32u
#define SIGN_SIGNATURE_BYTES 64u

enum sign_purpose { SIGN_RECEIPT = 1, SIGN_CAPABILITY = 2, SIGN_AUDIT = 3 };

struct sign_public {
    uint8_t b[SIGN_PUBLIC_BYTES];
    struct id128 id; /* first 16 bytes of SHA-256("mikura ed25519 key 1" | b) */
};
/* RC_INTERNAL. The seed comes from key_random. */
MUST_CHECK enum rc sign_public_of(const struct key *seed, struct sign_public *ret_public);
/* From 32 stored bytes: computes the id. RC_INVAL: not 32 bytes. */
MUST_CHECK enum rc sign_public_load(struct slice bytes, struct sign_public *ret_public);

/* A seed made ready once: that costs as much as a signature. */
struct signer;
MUST_CHECK enum rc signer_new(const struct key *seed, struct signer **ret_signer);
void signer_free(struct signer *s); /* wipes it; s may be NULL */
const struct sign_public *signer_public(const struct signer *s);
MUST_CHECK enum rc sign_message(const struct signer *s, enum sign_purpose purpose,
                                struct slice message, uint8_t ret_signature[SIGN_SIGNATURE_BYTES]);
/* RC_DENIED: not signed by this key for this purpose. */
MUST_CHECK enum rc sign_verify(const struct sign_public *pub, enum sign_purpose purpose,
                               struct slice message, struct slice signature);
