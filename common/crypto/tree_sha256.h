/* common/crypto/tree_sha256.h - SHA-256 tree over 1 MiB leaves: an object's digest, the same
 * whatever the chunking, packing or path of its upload (DESIGN.md section 4).
 *
 *   leaf   = SHA-256(0x00 | up to 1 MiB)          an empty object has one empty leaf
 *   node   = SHA-256(0x01 | left | right)         as RFC 6962: the left half is the largest power
 * of two digest = SHA-256(0x02 | length u64 LE | root)
 *
 * Leaves may be hashed anywhere in any order and joined later; the stream form does both. */
#pragma once
#include "common/base/rc.h"

#define TREE_LEAF_BYTES   (1u << 20)
#define TREE_DIGEST_BYTES 32u
#define TREE_LEVELS_MAX   44 /* 2^44 leaves of 2^20 bytes: every 64-bit length */

static inline uint64_t tree_leaves(uint64_t bytes)
{
    return bytes == 0 ? 1 : (bytes - 1) / TREE_LEAF_BYTES + 1;
}

/* n <= TREE_LEAF_BYTES. RC_INTERNAL: OpenSSL refused. */
MUST_CHECK enum rc tree_leaf(const void *p, size_t n, uint8_t ret_leaf[TREE_DIGEST_BYTES]);

/* Joins leaves that are given in order; 1.5 KiB of state, whatever the length. */
struct tree_join {
    uint8_t node[TREE_LEVELS_MAX + 1][TREE_DIGEST_BYTES]; /* by level, where bit is set in leaves */
    uint64_t leaves;
    uint8_t node_tag; /* 1; other trees of the same shape have their own (digest.h) */
};
void tree_join_init(struct tree_join *t);
void tree_join_init_tag(struct tree_join *t, uint8_t node_tag);
/* The top node. RC_INVAL: no leaf was added. */
MUST_CHECK enum rc tree_join_root(const struct tree_join *t, uint8_t ret_root[TREE_DIGEST_BYTES]);
MUST_CHECK enum rc tree_join_add(struct tree_join *t, const uint8_t leaf[TREE_DIGEST_BYTES]);
/* RC_INVAL: the leaves added are not tree_leaves(bytes). */
MUST_CHECK enum rc tree_join_digest(const struct tree_join *t, uint64_t bytes,
                                    uint8_t ret_digest[TREE_DIGEST_BYTES]);

/* A whole object as one stream, in pieces of any size. */
struct tree_stream;
MUST_CHECK enum rc tree_stream_new(struct tree_stream **ret_stream);
void tree_stream_free(struct tree_stream *t);
MUST_CHECK enum rc tree_stream_update(struct tree_stream *t, const void *p, size_t n);
MUST_CHECK enum rc tree_stream_digest(struct tree_stream *t, uint8_t ret_digest[TREE_DIGEST_BYTES]);
