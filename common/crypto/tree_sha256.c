/* common/crypto/tree_sha256.c - invariant of tree_join: node[i] is the root of 2^i leaves exactly
 * where bit i of `leaves` is set, as in a binary counter; joining from the lowest set bit upwards
 * gives RFC 6962's shape. */
#include "common/crypto/tree_sha256.h"
#include "common/base/le.h"
#include <openssl/evp.h>
#include <stdlib.h>

struct tree_stream {
    struct tree_join join;
    EVP_MD_CTX *leaf;
    uint64_t bytes;
    uint32_t leaf_bytes; /* in the open leaf */
};

static enum rc hash(uint8_t tag, const void *a, size_t a_n, const void *b, size_t b_n,
                    uint8_t out[32])
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool ok;

    if (c == NULL) return RC_NOMEM;
    ok = EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1 && EVP_DigestUpdate(c, &tag, 1) == 1 &&
         EVP_DigestUpdate(c, a, a_n) == 1 && EVP_DigestUpdate(c, b, b_n) == 1 &&
         EVP_DigestFinal_ex(c, out, NULL) == 1;
    EVP_MD_CTX_free(c);
    return ok ? RC_OK : RC_INTERNAL;
}

enum rc tree_leaf(const void *p, size_t n, uint8_t ret_leaf[TREE_DIGEST_BYTES])
{
    CHECK(n <= TREE_LEAF_BYTES);
    return hash(0, p, n, "", 0, ret_leaf);
}

void tree_join_init_tag(struct tree_join *t, uint8_t node_tag)
{
    memset(t, 0, sizeof(*t));
    t->node_tag = node_tag;
}

void tree_join_init(struct tree_join *t)
{
    tree_join_init_tag(t, 1);
}

enum rc tree_join_add(struct tree_join *t, const uint8_t leaf[TREE_DIGEST_BYTES])
{
    uint8_t h[TREE_DIGEST_BYTES];
    unsigned level = 0;

    CHECK(t->leaves >> TREE_LEVELS_MAX == 0);
    memcpy(h, leaf, sizeof(h));
    for (; (t->leaves >> level & 1) != 0; level++) {
        enum rc rc = hash(t->node_tag, t->node[level], 32, h, 32, h);

        if (rc != RC_OK) return rc;
    }
    memcpy(t->node[level], h, sizeof(h));
    t->leaves++;
    return RC_OK;
}

enum rc tree_join_root(const struct tree_join *t, uint8_t ret_root[TREE_DIGEST_BYTES])
{
    uint8_t root[TREE_DIGEST_BYTES];
    bool have = false;

    if (t->leaves == 0) return RC_INVAL;
    for (unsigned level = 0; level <= TREE_LEVELS_MAX; level++) {
        enum rc rc;

        if ((t->leaves >> level & 1) == 0) continue;
        if (!have) {
            memcpy(root, t->node[level], sizeof(root));
            have = true;
            continue;
        }
        rc = hash(t->node_tag, t->node[level], 32, root, 32, root);
        if (rc != RC_OK) return rc;
    }
    memcpy(ret_root, root, sizeof(root));
    return RC_OK;
}

enum rc tree_join_digest(const struct tree_join *t, uint64_t bytes,
                         uint8_t ret_digest[TREE_DIGEST_BYTES])
{
    uint8_t root[TREE_DIGEST_BYTES], length[8];
    enum rc rc;

    if (t->leaves != tree_leaves(bytes)) return RC_INVAL;
    rc = tree_join_root(t, root);
    if (rc != RC_OK) return rc;
    le_put64(length, bytes);
    return hash(2, length, 8, root, 32, ret_digest);
}

static enum rc leaf_begin(struct tree_stream *t)
{
    static const uint8_t tag = 0;

    t->leaf_bytes = 0;
    if (EVP_DigestInit_ex(t->leaf, EVP_sha256(), NULL) != 1) return RC_INTERNAL;
    return EVP_DigestUpdate(t->leaf, &tag, 1) == 1 ? RC_OK : RC_INTERNAL;
}

static enum rc leaf_end(struct tree_stream *t)
{
    uint8_t h[TREE_DIGEST_BYTES];

    if (EVP_DigestFinal_ex(t->leaf, h, NULL) != 1) return RC_INTERNAL;
    return tree_join_add(&t->join, h);
}

enum rc tree_stream_new(struct tree_stream **ret_stream)
{
    struct tree_stream *t = calloc(1, sizeof(*t));
    enum rc rc;

    if (t == NULL) return RC_NOMEM;
    tree_join_init(&t->join);
    t->leaf = EVP_MD_CTX_new();
    rc = t->leaf == NULL ? RC_NOMEM : leaf_begin(t);
    if (rc != RC_OK) {
        tree_stream_free(t);
        return rc;
    }
    *ret_stream = t;
    return RC_OK;
}

void tree_stream_free(struct tree_stream *t)
{
    if (t == NULL) return;
    EVP_MD_CTX_free(t->leaf);
    free(t);
}

enum rc tree_stream_update(struct tree_stream *t, const void *p, size_t n)
{
    const uint8_t *at = p;

    while (n > 0) {
        size_t part;

        if (t->leaf_bytes ==
            TREE_LEAF_BYTES) { /* ended only when more comes: the last may be full */
            enum rc rc = leaf_end(t);

            if (rc == RC_OK) rc = leaf_begin(t);
            if (rc != RC_OK) return rc;
        }
        part = MIN(n, TREE_LEAF_BYTES - t->leaf_bytes);
        if (EVP_DigestUpdate(t->leaf, at, part) != 1) return RC_INTERNAL;
        at += part;
        n -= part;
        t->leaf_bytes += (uint32_t)part;
        t->bytes += part;
    }
    return RC_OK;
}

enum rc tree_stream_digest(struct tree_stream *t, uint8_t ret_digest[TREE_DIGEST_BYTES])
{
    enum rc rc = leaf_end(t);

    return rc != RC_OK ? rc : tree_join_digest(&t->join, t->bytes, ret_digest);
}
