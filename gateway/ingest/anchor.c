/* gateway/ingest/anchor.c - SHA-256 over label, zero byte, fixed-width id, rest. The label ends at
 * the zero byte and only the last part varies in length, so no two inputs are the same bytes. */
#include "gateway/ingest/anchor.h"
#include "common/base/le.h"
#include <openssl/evp.h>

#define CHUNK_LABEL "mikura chunk 1"
#define NEAR_TRIES  8u /* for each place there is: one in 3,000 finds none */

static bool digest_with(EVP_MD_CTX *ctx, const char *label, const void *a, size_t a_n,
                        const void *b, size_t b_n, uint8_t out[32])
{
    return EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1 &&
           EVP_DigestUpdate(ctx, label, strlen(label) + 1) == 1 &&
           EVP_DigestUpdate(ctx, a, a_n) == 1 && EVP_DigestUpdate(ctx, b, b_n) == 1 &&
           EVP_DigestFinal_ex(ctx, out, NULL) == 1;
}

static enum rc digest(const char *label, const void *a, size_t a_n, const void *b, size_t b_n,
                      uint8_t out[32])
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok;

    if (ctx == NULL) return RC_NOMEM;
    ok = digest_with(ctx, label, a, a_n, b, b_n, out);
    EVP_MD_CTX_free(ctx);
    return ok ? RC_OK : RC_INTERNAL;
}

enum rc anchor_case(const struct id128 *collection, struct slice case_id, struct record_anchor *ret)
{
    return digest("mikura case 1", collection->b, 16, case_id.p, case_id.n, ret->b);
}

enum rc anchor_collection(struct slice name, struct record_anchor *ret)
{
    return digest("mikura collection 1", "", 0, name.p, name.n, ret->b);
}

enum rc anchor_job(const struct id128 *job, struct record_anchor *ret)
{
    return digest("mikura job 1", job->b, 16, "", 0, ret->b);
}

enum rc anchor_model(struct slice name, struct record_anchor *ret)
{
    return digest("mikura model 1", "", 0, name.p, name.n, ret->b);
}

enum rc anchor_chunk_hash(const struct id128 *body, uint32_t index, uint64_t *ret_hash)
{
    uint8_t idx[4], out[32];
    enum rc rc;

    le_put32(idx, index);
    rc = digest(CHUNK_LABEL, body->b, 16, idx, 4, out);
    if (rc == RC_OK) *ret_hash = be_get64(out);
    return rc;
}

enum rc anchor_body_near(uint64_t hash, uint32_t bits, struct id128 *ret, bool *ret_near)
{
    static const uint8_t first[4] = {0};
    EVP_MD_CTX *ctx = bits > ANCHOR_NEAR_BITS_MAX ? NULL : EVP_MD_CTX_new();
    uint32_t tries = ctx == NULL ? 0 : NEAR_TRIES << bits;
    bool ok = true;

    *ret = id128_random();
    *ret_near = false;
    for (uint32_t i = 0; i < tries && ok && !*ret_near; i++) {
        uint8_t out[32];

        le_put16(ret->b + 14, (uint16_t)i);
        ok = digest_with(ctx, CHUNK_LABEL, ret->b, sizeof ret->b, first, sizeof first, out);
        *ret_near = ok && (bits == 0 || (be_get64(out) ^ hash) >> (64 - bits) == 0);
    }
    EVP_MD_CTX_free(ctx);
    return ok ? RC_OK : RC_INTERNAL;
}
