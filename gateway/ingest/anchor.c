/* gateway/ingest/anchor.c - SHA-256 over label, zero byte, fixed-width id, rest. The label ends at
 * the zero byte and only the last part varies in length, so no two inputs are the same bytes. */
#include "gateway/ingest/anchor.h"
#include "common/base/le.h"
#include <openssl/evp.h>

static enum rc digest(const char *label, const void *a, size_t a_n, const void *b, size_t b_n,
                      uint8_t out[32])
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok;

    if (ctx == NULL) return RC_NOMEM;
    ok = EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1 &&
         EVP_DigestUpdate(ctx, label, strlen(label) + 1) == 1 &&
         EVP_DigestUpdate(ctx, a, a_n) == 1 && EVP_DigestUpdate(ctx, b, b_n) == 1 &&
         EVP_DigestFinal_ex(ctx, out, NULL) == 1;
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
    rc = digest("mikura chunk 1", body->b, 16, idx, 4, out);
    if (rc == RC_OK) *ret_hash = be_get64(out);
    return rc;
}
