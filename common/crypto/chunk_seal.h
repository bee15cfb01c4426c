/* common/crypto/chunk_seal.h - seals a whole chunk from plaintext in pieces, in one pass: per 64
 * KiB block SHA-256 (tree leaves), AES-256-GCM, CRC32C while the bytes are in the cache, from the
 * pieces' own memory into the aligned buffer that goes to the wire and the disks.
 *
 * The plaintext is hashed once: the leaves give the object's tree-sha256 (tree_join_add) and the
 * keyed chunk digest (digest.h). One struct belongs to one thread at a time.
 *
 *   chunk_sealer_new, chunk_sealer_update ..., chunk_sealer_finish, chunk_sealer_free */
#pragma once
#include "common/crypto/digest.h"
#include "common/crypto/seal.h"

/* A chunk of 64 MiB of one object; packed objects have shorter leaves, hence more of them. */
#define CHUNK_SEAL_LEAVES_MAX 4096u

struct chunk_sealer;
struct chunk_seal_out {
    uint8_t *cipher;           /* ident.plain_bytes; must not overlap the plaintext */
    uint8_t *tags;             /* SEAL_TAG_BYTES x seal_blocks */
    uint32_t *crcs;            /* CRC32C of each block's ciphertext; or NULL: not computed */
    struct chunk_leaf *leaves; /* leaves_max of them */
    uint32_t leaves_max;
};
/* out's memory is borrowed until free. As seal_new. */
MUST_CHECK enum rc chunk_sealer_new(const struct key *body_key, const struct seal_ident *ident,
                                    const struct chunk_seal_out *out,
                                    struct chunk_sealer **ret_sealer, struct err *reterr);
/* The next n bytes, any length. RC_INVAL: more than ident.plain_bytes, or more leaves than
 * leaves_max; RC_INTERNAL. After an error only free is allowed. */
MUST_CHECK enum rc chunk_sealer_update(struct chunk_sealer *s, const void *p, size_t n);
/* Two updates in one, of two chunks: for less (sha256.h). Each ends with an rc of its own. */
struct chunk_sealer_piece {
    struct chunk_sealer *sealer;
    const uint8_t *p;
    size_t n;
    enum rc rc; /* as chunk_sealer_update's; p and n are as far as they came */
};
void chunk_sealer_update_pair(struct chunk_sealer_piece *a, struct chunk_sealer_piece *b);
/* An object ends here: the next byte begins a new leaf (packed bodies). */
MUST_CHECK enum rc chunk_sealer_object_end(struct chunk_sealer *s);
/* RC_INVAL: fewer bytes than ident.plain_bytes. digest: digest_chunk of the leaves. */
MUST_CHECK enum rc chunk_sealer_finish(struct chunk_sealer *s, uint32_t *ret_leaves_n,
                                       uint8_t ret_digest[DIGEST_BYTES]);
void chunk_sealer_free(struct chunk_sealer *s);

/* The same of bytes that lie in one place, or several. */
MUST_CHECK enum rc chunk_seal(const struct key *body_key, const struct seal_ident *ident,
                              const struct slice *pieces, size_t pieces_n,
                              const struct chunk_seal_out *out, uint32_t *ret_leaves_n,
                              uint8_t ret_digest[DIGEST_BYTES], struct err *reterr);
