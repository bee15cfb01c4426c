/* gateway/ingest/anchor.h - where records live: SHA-256 over immutable ids (DESIGN.md section 4).
 * The first 8 bytes, big-endian, are the placement hash. RC_INTERNAL: OpenSSL refused. */
#pragma once
#include "gateway/ingest/records_core.h"

MUST_CHECK enum rc anchor_case(const struct id128 *collection, struct slice case_id,
                               struct record_anchor *ret);
MUST_CHECK enum rc anchor_collection(struct slice name, struct record_anchor *ret);
MUST_CHECK enum rc anchor_job(const struct id128 *job, struct record_anchor *ret);
MUST_CHECK enum rc anchor_model(struct slice name, struct record_anchor *ret);
/* Placement hash of a chunk: SHA-256("mikura chunk 1", body, index u32 LE). */
MUST_CHECK enum rc anchor_chunk_hash(const struct id128 *body, uint32_t index, uint64_t *ret_hash);
/* A new body id whose chunk 0 has the first `bits` bits of its hash as `hash` has them, if one of
 * some tries has; else any (*ret_near false). Random but for a few bits of its second half. */
#define ANCHOR_NEAR_BITS_MAX 8u /* more would be 0.1 ms of hashing and above */
MUST_CHECK enum rc anchor_body_near(uint64_t hash, uint32_t bits, struct id128 *ret,
                                    bool *ret_near);
