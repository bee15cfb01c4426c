/* common/crypto/digest.c - encodings:
 *   chunk     HMAC(HKDF(body key, "mikura chunk digest 1"), for each leaf: u32 bytes | hash 32)
 *   manifest  HMAC(HKDF(case key, "mikura manifest mac 1"), u32 n | identity | manifest)
 *   line leaf SHA-256(0x10 | u32 n | path | u64 version | u64 size | tree-sha256)
 *   node      SHA-256(0x11 | left | right), the tree's shape as in tree_sha256.h
 *   root      SHA-256(0x12 | u64 lines | top node); of no lines: SHA-256(0x12 | u64 0)
 * Tags 0x10.. keep lines apart from object leaves (0x00..0x02): no file's content is a line. */
#include "common/crypto/digest.h"
#include "common/base/le.h"
#include "common/crypto/crypto_priv.h"
#include <openssl/crypto.h>
#include <stdlib.h>

#define LEAF_ENTRY_BYTES 36u
#define TAG_LINE         0x10u
#define TAG_NODE         0x11u
#define TAG_ROOT         0x12u

enum rc digest_chunk(const struct key *body_key, const struct chunk_leaf *leaves, uint32_t leaves_n,
                     uint8_t ret_digest[DIGEST_BYTES])
{
    uint8_t key[32], *list;
    struct slice part;
    enum rc rc;

    if (leaves_n == 0) return RC_INVAL;
    list = malloc((size_t)leaves_n * LEAF_ENTRY_BYTES);
    if (list == NULL) return RC_NOMEM;
    for (uint32_t i = 0; i < leaves_n; i++) {
        uint8_t *at = list + (size_t)i * LEAF_ENTRY_BYTES;

        le_put32(at, leaves[i].bytes);
        memcpy(at + 4, leaves[i].hash, TREE_DIGEST_BYTES);
    }
    part = (struct slice){list, (size_t)leaves_n * LEAF_ENTRY_BYTES};
    rc = crypto_derive(body_key->b, "mikura chunk digest 1", (struct slice){NULL, 0}, key);
    if (rc == RC_OK) rc = crypto_hmac(key, &part, 1, ret_digest);
    OPENSSL_cleanse(key, sizeof(key));
    free(list);
    return rc;
}

enum rc digest_manifest(const struct key *case_key, struct slice identity, struct slice manifest,
                        uint8_t ret_mac[DIGEST_BYTES])
{
    uint8_t key[32], identity_n[4];
    struct slice parts[3] = {{identity_n, 4}, identity, manifest};
    enum rc rc;

    if (identity.n > UINT32_MAX) return RC_INVAL;
    le_put32(identity_n, (uint32_t)identity.n);
    rc = crypto_derive(case_key->b, "mikura manifest mac 1", (struct slice){NULL, 0}, key);
    if (rc == RC_OK) rc = crypto_hmac(key, parts, ARRAY_N(parts), ret_mac);
    OPENSSL_cleanse(key, sizeof(key));
    return rc;
}

bool digest_equal(const uint8_t a[DIGEST_BYTES], const uint8_t b[DIGEST_BYTES])
{
    return CRYPTO_memcmp(a, b, DIGEST_BYTES) == 0;
}

void commit_root_init(struct commit_root *r)
{
    memset(r, 0, sizeof(*r));
    tree_join_init_tag(&r->join, TAG_NODE);
}

/* Paths as bytes: a prefix comes first. */
static int path_cmp(const uint8_t *a, size_t a_n, const uint8_t *b, size_t b_n)
{
    int c = memcmp(a, b, MIN(a_n, b_n));

    return c != 0 ? c : (a_n > b_n) - (a_n < b_n);
}

enum rc commit_root_add(struct commit_root *r, const struct commit_line *line)
{
    static const uint8_t tag = TAG_LINE;
    uint8_t path_n[4], numbers[16], leaf[32];
    struct slice parts[5] = {
        {&tag, 1}, {path_n, 4}, line->path, {numbers, 16}, {line->tree_sha256, TREE_DIGEST_BYTES}};
    enum rc rc;

    if (line->path.n == 0 || line->path.n > sizeof(r->last_path)) return RC_INVAL;
    if (r->join.leaves > 0) {
        int c = path_cmp(line->path.p, line->path.n, r->last_path, r->last_path_n);

        if (c < 0 || (c == 0 && line->version <= r->last_version)) return RC_INVAL;
    }
    le_put32(path_n, (uint32_t)line->path.n);
    le_put64(numbers, line->version);
    le_put64(numbers + 8, line->size_bytes);
    rc = crypto_sha256(parts, ARRAY_N(parts), leaf);
    if (rc == RC_OK) rc = tree_join_add(&r->join, leaf);
    if (rc != RC_OK) return rc;
    memcpy(r->last_path, line->path.p, line->path.n);
    r->last_path_n = line->path.n;
    r->last_version = line->version;
    return RC_OK;
}

enum rc commit_root_final(const struct commit_root *r, uint8_t ret_root[DIGEST_BYTES])
{
    static const uint8_t tag = TAG_ROOT;
    uint8_t lines[8], top[32];
    struct slice parts[3] = {{&tag, 1}, {lines, 8}, {top, sizeof(top)}};
    enum rc rc;

    le_put64(lines, r->join.leaves);
    if (r->join.leaves == 0) return crypto_sha256(parts, 2, ret_root);
    rc = tree_join_root(&r->join, top);
    return rc != RC_OK ? rc : crypto_sha256(parts, 3, ret_root);
}
