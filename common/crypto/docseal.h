/* common/crypto/docseal.h - small values sealed under a case key: inline objects, case documents,
 * attributes, plain digests (DESIGN.md section 10).
 *
 * Each sealing draws a random 128-bit id; AES-256-GCM under HKDF(case key, id) with a fixed nonce,
 * so that no nonce repeats however many values a case has. Purpose and identity (where the value
 * belongs: the caller's encoding, e.g. its metadata key) are authenticated, so that a value cannot
 * be moved. Any thread. */
#pragma once
#include "common/crypto/keys.h"

#define DOCSEAL_EXTRA_BYTES     36u /* sealed length = plain length + this */
#define DOCSEAL_PLAIN_BYTES_MAX (1u << 20)

enum docseal_purpose {
    DOCSEAL_INLINE = 1,     /* an object's bytes, up to 64 KiB */
    DOCSEAL_CASE = 2,       /* a case's document */
    DOCSEAL_ATTRIBUTES = 3, /* attributes that are no declared index fields */
    DOCSEAL_DIGEST = 4,     /* a plain digest */
    DOCSEAL_REPORT = 5      /* what a gate or a job says of one case */
};
/* out holds plain.n + DOCSEAL_EXTRA_BYTES. RC_INVAL (longer than the limit), RC_INTERNAL. */
MUST_CHECK enum rc docseal_seal(const struct key *case_key, enum docseal_purpose purpose,
                                struct slice identity, struct slice plain, uint8_t *out);
/* out holds sealed.n - DOCSEAL_EXTRA_BYTES. RC_CORRUPT: not sealed under this key for this purpose
 * and identity; out is zeroed. */
MUST_CHECK enum rc docseal_open(const struct key *case_key, enum docseal_purpose purpose,
                                struct slice identity, struct slice sealed, uint8_t *out,
                                size_t *ret_plain_n);
