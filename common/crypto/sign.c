/* common/crypto/sign.c - pure Ed25519 (RFC 8032) by OpenSSL. OpenSSL signs one buffer in one call,
 * so purpose and message are joined first; messages are small (a receipt, a capability). */
#include "common/crypto/sign.h"
#include "common/crypto/crypto_priv.h"
#include <openssl/evp.h>
#include <stdlib.h>

static const char *purpose_text(enum sign_purpose p)
{
    switch (p) {
    case SIGN_RECEIPT:
        return "mikura receipt 1";
    case SIGN_CAPABILITY:
        return "mikura capability 1";
    case SIGN_AUDIT:
        return "mikura audit 1";
    }
    return NULL;
}

/* purpose | 0 | message; caller frees. */
static uint8_t *to_sign(enum sign_purpose purpose, struct slice message, size_t *ret_n)
{
    const char *text = purpose_text(purpose);
    size_t text_n;
    uint8_t *p;

    CHECK(text != NULL);
    text_n = strlen(text) + 1;
    p = malloc(text_n + message.n);
    if (p == NULL) return NULL;
    memcpy(p, text, text_n);
    if (message.n > 0) memcpy(p + text_n, message.p, message.n);
    *ret_n = text_n + message.n;
    return p;
}

static enum rc set_id(struct sign_public *pub)
{
    static const char label[] = "mikura ed25519 key 1";
    struct slice parts[2] = {{(const uint8_t *)label, sizeof(label) - 1},
                             {pub->b, SIGN_PUBLIC_BYTES}};
    uint8_t hash[32];
    enum rc rc = crypto_sha256(parts, 2, hash);

    if (rc == RC_OK) memcpy(pub->id.b, hash, sizeof(pub->id.b));
    return rc;
}

struct signer {
    EVP_PKEY *pkey;
    struct sign_public pub;
};

enum rc signer_new(const struct key *seed, struct signer **ret_signer)
{
    struct signer *s = calloc(1, sizeof *s);
    size_t n = SIGN_PUBLIC_BYTES;
    enum rc rc;

    if (s == NULL) return RC_NOMEM;
    s->pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed->b, KEY_BYTES);
    rc = s->pkey != NULL && EVP_PKEY_get_raw_public_key(s->pkey, s->pub.b, &n) == 1
             ? set_id(&s->pub)
             : RC_INTERNAL;
    if (rc == RC_OK) {
        *ret_signer = s;
    } else {
        signer_free(s);
    }
    return rc;
}

void signer_free(struct signer *s)
{
    if (s == NULL) return;
    EVP_PKEY_free(s->pkey); /* wipes the seed */
    free(s);
}

const struct sign_public *signer_public(const struct signer *s)
{
    return &s->pub;
}

enum rc sign_public_of(const struct key *seed, struct sign_public *ret_public)
{
    struct signer *s = NULL;
    enum rc rc = signer_new(seed, &s);

    if (rc == RC_OK) *ret_public = s->pub;
    signer_free(s);
    return rc;
}

enum rc sign_public_load(struct slice bytes, struct sign_public *ret_public)
{
    struct sign_public pub;
    enum rc rc;

    if (bytes.n != SIGN_PUBLIC_BYTES) return RC_INVAL;
    memcpy(pub.b, bytes.p, SIGN_PUBLIC_BYTES);
    rc = set_id(&pub);
    if (rc == RC_OK) *ret_public = pub;
    return rc;
}

enum rc sign_message(const struct signer *s, enum sign_purpose purpose, struct slice message,
                     uint8_t ret_signature[SIGN_SIGNATURE_BYTES])
{
    EVP_MD_CTX *ctx;
    size_t n = 0, sig_n = SIGN_SIGNATURE_BYTES;
    uint8_t *p = to_sign(purpose, message, &n);
    enum rc rc = RC_INTERNAL;

    if (p == NULL) return RC_NOMEM;
    ctx = EVP_MD_CTX_new();
    if (ctx != NULL && EVP_DigestSignInit(ctx, NULL, NULL, NULL, s->pkey) == 1 &&
        EVP_DigestSign(ctx, ret_signature, &sig_n, p, n) == 1 && sig_n == SIGN_SIGNATURE_BYTES) {
        rc = RC_OK;
    }
    EVP_MD_CTX_free(ctx);
    free(p);
    return rc;
}

enum rc sign_verify(const struct sign_public *pub, enum sign_purpose purpose, struct slice message,
                    struct slice signature)
{
    EVP_PKEY *pkey = NULL;
    EVP_MD_CTX *ctx = NULL;
    size_t n = 0;
    uint8_t *p;
    enum rc rc = RC_INTERNAL;

    if (signature.n != SIGN_SIGNATURE_BYTES) return RC_DENIED;
    p = to_sign(purpose, message, &n);
    if (p == NULL) return RC_NOMEM;
    pkey = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, pub->b, SIGN_PUBLIC_BYTES);
    ctx = EVP_MD_CTX_new();
    if (pkey != NULL && ctx != NULL && EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, pkey) == 1) {
        rc = EVP_DigestVerify(ctx, signature.p, signature.n, p, n) == 1 ? RC_OK : RC_DENIED;
    }
    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(pkey);
    free(p);
    return rc;
}
