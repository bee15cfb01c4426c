/* common/crypto/gcm.h - AES-256-GCM and GMAC under one key, a message at a time, in pieces of any
 * length.
 *
 * Two engines with the same bytes: Intel's multi-buffer library where this CPU has what it needs
 * (AES and carry-less multiplication over whole vector registers: 2.4 times as fast as OpenSSL 3.0
 * at GCM, 3 times at GMAC), OpenSSL elsewhere. Which one is decided at the first use, after both
 * gave the same answer.
 *
 * A struct gcm belongs to one thread at a time. A nonce never repeats under a key: the caller's
 * duty. */
#pragma once
#include "common/base/rc.h"

#define GCM_NONCE_BYTES 12u
#define GCM_TAG_BYTES   16u

struct gcm;

/* RC_NOMEM, RC_INTERNAL (OpenSSL has no AES-256-GCM). The key is not kept but as its schedule. */
MUST_CHECK enum rc gcm_new(const uint8_t key[32], struct gcm **ret_gcm);
void gcm_free(struct gcm *g); /* wipes it; NULL is fine */

/* All below: RC_INTERNAL (OpenSSL refused). A begin ends whatever was under way.
 * in and out of a piece have n bytes and may be the same memory. */
MUST_CHECK enum rc gcm_seal_begin(struct gcm *g, const uint8_t nonce[GCM_NONCE_BYTES],
                                  const uint8_t *aad, size_t aad_n);
MUST_CHECK enum rc gcm_seal_part(struct gcm *g, const uint8_t *in, uint8_t *out, size_t n);
MUST_CHECK enum rc gcm_seal_end(struct gcm *g, uint8_t ret_tag[GCM_TAG_BYTES]);

MUST_CHECK enum rc gcm_open_begin(struct gcm *g, const uint8_t nonce[GCM_NONCE_BYTES],
                                  const uint8_t *aad, size_t aad_n);
MUST_CHECK enum rc gcm_open_part(struct gcm *g, const uint8_t *in, uint8_t *out, size_t n);
/* RC_CORRUPT: not what was sealed; the caller wipes what it got. Compared in constant time. */
MUST_CHECK enum rc gcm_open_end(struct gcm *g, const uint8_t tag[GCM_TAG_BYTES]);

/* A tag over bytes that stay as they are. */
MUST_CHECK enum rc gcm_mac_begin(struct gcm *g, const uint8_t nonce[GCM_NONCE_BYTES]);
MUST_CHECK enum rc gcm_mac_part(struct gcm *g, const uint8_t *p, size_t n);
MUST_CHECK enum rc gcm_mac_end(struct gcm *g, uint8_t ret_tag[GCM_TAG_BYTES]);

const char *gcm_engine(void); /* "ipsec-mb" or "openssl" */
/* Tests, benchmarks: every gcm_new from now on is OpenSSL's. Not while another thread is in here.
 */
void gcm_use_openssl(bool on);
