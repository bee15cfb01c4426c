/* common/crypto/chunk_seal.c - a step is what lies in one piece, one leaf and one block: at most
 * 64 KiB, hashed and then sealed while it is in the cache.
 *
 * Invariants: at = bytes taken; block `at / 64 KiB` is begun when at is not at its start; leaf_open
 * says that leaves[leaves_n] has leaf_bytes > 0 bytes in the hash. */
#include "common/crypto/chunk_seal.h"
#include "common/base/crc32c.h"
#include "common/crypto/sha256.h"
#include <openssl/crypto.h>
#include <stdlib.h>

struct chunk_sealer {
    struct key body_key;
    uint32_t plain_bytes, at;
    struct seal *seal;
    struct sha256 leaf;
    uint32_t leaf_bytes, leaves_n;
    struct chunk_seal_out out;
};

enum rc chunk_sealer_new(const struct key *body_key, const struct seal_ident *ident,
                         const struct chunk_seal_out *out, struct chunk_sealer **ret_sealer,
                         struct err *reterr)
{
    struct chunk_sealer *s = calloc(1, sizeof(*s));
    enum rc rc;

    if (s == NULL) return err_set(reterr, RC_NOMEM, "sealing context");
    s->body_key = *body_key;
    s->plain_bytes = ident->plain_bytes;
    s->out = *out;
    rc = seal_new(body_key->b, ident, &s->seal, reterr);
    if (rc != RC_OK) {
        chunk_sealer_free(s);
        return rc;
    }
    *ret_sealer = s;
    return RC_OK;
}

void chunk_sealer_free(struct chunk_sealer *s)
{
    if (s == NULL) return;
    seal_free(s->seal);
    OPENSSL_cleanse(&s->leaf, sizeof(s->leaf)); /* holds a piece of plaintext */
    key_wipe(&s->body_key);
    free(s);
}

static void leaf_end(struct chunk_sealer *s)
{
    struct chunk_leaf *l = &s->out.leaves[s->leaves_n++];

    sha256_end(&s->leaf, l->hash);
    l->bytes = s->leaf_bytes;
    s->leaf_bytes = 0;
}

enum rc chunk_sealer_object_end(struct chunk_sealer *s)
{
    if (s->leaf_bytes > 0) leaf_end(s); /* 0: ended with a full leaf */
    return RC_OK;
}

static bool leaf_room(const struct chunk_sealer *s)
{
    return s->leaf_bytes > 0 || s->leaves_n < s->out.leaves_max;
}

/* n more bytes are about to be hashed. */
static void leaf_add(struct chunk_sealer *s, uint32_t n)
{
    static const uint8_t tag = 0; /* as in tree_sha256.h */

    if (s->leaf_bytes == 0) {
        sha256_begin(&s->leaf);
        sha256_part(&s->leaf, &tag, 1);
    }
    s->leaf_bytes += n;
}

static enum rc block_update(struct chunk_sealer *s, const uint8_t *p, uint32_t n)
{
    uint32_t block = s->at / SEAL_BLOCK_BYTES, start = block * SEAL_BLOCK_BYTES;
    enum rc rc = s->at == start ? seal_block_begin(s->seal, block) : RC_OK;

    if (rc == RC_OK) rc = seal_block_part(s->seal, p, s->out.cipher + s->at, n);
    if (rc != RC_OK) return rc;
    s->at += n;
    if (s->at != s->plain_bytes && s->at - start != SEAL_BLOCK_BYTES) return RC_OK;
    if (s->out.crcs != NULL) s->out.crcs[block] = crc32c(0, s->out.cipher + start, s->at - start);
    return seal_block_end(s->seal, s->out.tags + (size_t)block * SEAL_TAG_BYTES);
}

/* The leaf has them by now. */
static enum rc step_end(struct chunk_sealer *s, const uint8_t *p, uint32_t n)
{
    if (s->leaf_bytes == TREE_LEAF_BYTES) leaf_end(s);
    return block_update(s, p, n);
}

static uint32_t step_bytes(const struct chunk_sealer *s, size_t n)
{
    uint32_t step =
        MIN(SEAL_BLOCK_BYTES - s->at % SEAL_BLOCK_BYTES, TREE_LEAF_BYTES - s->leaf_bytes);

    return step > n ? (uint32_t)n : step;
}

enum rc chunk_sealer_update(struct chunk_sealer *s, const void *p, size_t n)
{
    const uint8_t *from = p;

    if (n > s->plain_bytes - s->at) return RC_INVAL;
    while (n > 0) {
        uint32_t step = step_bytes(s, n);
        enum rc rc;

        if (!leaf_room(s)) return RC_INVAL;
        leaf_add(s, step);
        sha256_part(&s->leaf, from, step);
        rc = step_end(s, from, step);
        if (rc != RC_OK) return rc;
        from += step;
        n -= step;
    }
    return RC_OK;
}

static void piece_end(struct chunk_sealer_piece *x, uint32_t step)
{
    x->rc = step_end(x->sealer, x->p, step);
    x->p += step;
    x->n -= step;
}

void chunk_sealer_update_pair(struct chunk_sealer_piece *a, struct chunk_sealer_piece *b)
{
    a->rc = a->n > a->sealer->plain_bytes - a->sealer->at ? RC_INVAL : RC_OK;
    b->rc = b->n > b->sealer->plain_bytes - b->sealer->at ? RC_INVAL : RC_OK;
    while (a->rc == RC_OK && b->rc == RC_OK && a->n > 0 && b->n > 0 && leaf_room(a->sealer) &&
           leaf_room(b->sealer)) {
        uint32_t step = MIN(step_bytes(a->sealer, a->n), step_bytes(b->sealer, b->n));

        leaf_add(a->sealer, step);
        leaf_add(b->sealer, step);
        sha256_part_pair(&a->sealer->leaf, a->p, &b->sealer->leaf, b->p, step);
        piece_end(a, step);
        piece_end(b, step);
    }
    /* the longer one's rest */
    if (a->rc == RC_OK) a->rc = chunk_sealer_update(a->sealer, a->p, a->n);
    if (b->rc == RC_OK) b->rc = chunk_sealer_update(b->sealer, b->p, b->n);
}

enum rc chunk_sealer_finish(struct chunk_sealer *s, uint32_t *ret_leaves_n,
                            uint8_t ret_digest[DIGEST_BYTES])
{
    enum rc rc;

    if (s->at != s->plain_bytes) return RC_INVAL;
    rc = chunk_sealer_object_end(s);
    if (rc == RC_OK) rc = digest_chunk(&s->body_key, s->out.leaves, s->leaves_n, ret_digest);
    if (rc == RC_OK) *ret_leaves_n = s->leaves_n;
    return rc;
}

enum rc chunk_seal(const struct key *body_key, const struct seal_ident *ident,
                   const struct slice *pieces, size_t pieces_n, const struct chunk_seal_out *out,
                   uint32_t *ret_leaves_n, uint8_t ret_digest[DIGEST_BYTES], struct err *reterr)
{
    struct chunk_sealer *s = NULL;
    enum rc rc = chunk_sealer_new(body_key, ident, out, &s, reterr);

    if (rc != RC_OK) return rc;
    for (size_t i = 0; rc == RC_OK && i < pieces_n; i++)
        rc = chunk_sealer_update(s, pieces[i].p, pieces[i].n);
    if (rc == RC_OK) rc = chunk_sealer_finish(s, ret_leaves_n, ret_digest);
    chunk_sealer_free(s);
    return rc == RC_OK ? RC_OK
                       : err_set(reterr, rc, "sealing a chunk of %u bytes", ident->plain_bytes);
}
