/* common/crypto/digest.h - what says that bytes are the same, without telling what they are: keyed
 * chunk digests, manifest MACs, and the root over a case's lines. Any thread. */
#pragma once
#include "common/crypto/keys.h"
#include "common/crypto/tree_sha256.h"

#define DIGEST_BYTES 32u

/* ---- chunk ----
 * HMAC-SHA256 under a key derived from the body key, over the leaf hashes that are computed for
 * tree-sha256 anyway: the plaintext is hashed once. Equal plaintext in equal pieces under one body
 * key gives equal bytes; a storage node learns only whether two sealings hold the same.
 *
 * A leaf never crosses from one object to the next, and a chunk holds whole leaves of each object
 * (a multiple of 1 MiB into it, or its end): leaf_bytes are 1 MiB except each object's last. */
struct chunk_leaf {
    uint32_t bytes; /* 1 .. TREE_LEAF_BYTES */
    uint8_t hash[TREE_DIGEST_BYTES];
};
MUST_CHECK enum rc digest_chunk(const struct key *body_key, const struct chunk_leaf *leaves,
                                uint32_t leaves_n, uint8_t ret_digest[DIGEST_BYTES]);

/* ---- manifest ---- */
/* HMAC-SHA256 under a key derived from the case key. identity: where the manifest belongs. */
MUST_CHECK enum rc digest_manifest(const struct key *case_key, struct slice identity,
                                   struct slice manifest, uint8_t ret_mac[DIGEST_BYTES]);
bool digest_equal(const uint8_t a[DIGEST_BYTES], const uint8_t b[DIGEST_BYTES]); /* constant time */

/* ---- a case's lines (CommitCase, receipts) ----
 * One line per staged object version, ascending by path bytes, then version; each once. */
struct commit_line {
    struct slice path; /* UTF-8, 1 .. 1024 bytes */
    uint64_t version;
    uint64_t size_bytes;
    uint8_t tree_sha256[TREE_DIGEST_BYTES];
};
struct commit_root {
    struct tree_join join;
    uint64_t last_version;
    size_t last_path_n;
    uint8_t last_path[1024];
};
void commit_root_init(struct commit_root *r);
/* RC_INVAL: path length, or not after the line before. */
MUST_CHECK enum rc commit_root_add(struct commit_root *r, const struct commit_line *line);
/* Of no lines too: a generation that only deletes. The state is not changed. */
MUST_CHECK enum rc commit_root_final(const struct commit_root *r, uint8_t ret_root[DIGEST_BYTES]);
