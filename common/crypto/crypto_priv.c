/* common/crypto/crypto_priv.c - the algorithms are fetched once: a fetch by name in every call
 * costs more than the hash of a short message. */
#include "common/crypto/crypto_priv.h"
#include "common/crypto/gcm.h"
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static EVP_KDF *hkdf;
static EVP_MAC *hmac;
static EVP_MD *sha256;

static void fetch(void)
{
    hkdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
}

static bool fetched(void)
{
    (void)pthread_once(&once, fetch); /* fails only for an invalid control */
    return hkdf != NULL && hmac != NULL && sha256 != NULL;
}

enum rc crypto_derive(const uint8_t key[32], const char *label, struct slice id,
                      uint8_t ret_key[32])
{
    uint8_t info[64 + 1024];
    size_t label_n = strlen(label);
    OSSL_PARAM params[4];
    char digest[] = "SHA256";
    EVP_KDF_CTX *ctx;
    bool ok;

    CHECK(label_n <= 64 && id.n <= sizeof(info) - 64);
    if (!fetched()) return RC_INTERNAL;
    ctx = EVP_KDF_CTX_new(hkdf);
    if (ctx == NULL) return RC_NOMEM;
    memcpy(info, label, label_n);
    if (id.n > 0) memcpy(info + label_n, id.p, id.n);
    params[0] = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0);
    params[1] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)(uintptr_t)key, 32);
    params[2] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, label_n + id.n);
    params[3] = OSSL_PARAM_construct_end();
    ok = EVP_KDF_derive(ctx, ret_key, 32, params) == 1;
    EVP_KDF_CTX_free(ctx);
    return ok ? RC_OK : RC_INTERNAL;
}

enum rc crypto_hmac(const uint8_t key[32], const struct slice *parts, size_t parts_n,
                    uint8_t ret_mac[32])
{
    char digest[] = "SHA256";
    OSSL_PARAM params[2];
    EVP_MAC_CTX *ctx;
    size_t got = 0;
    bool ok;

    if (!fetched()) return RC_INTERNAL;
    ctx = EVP_MAC_CTX_new(hmac);
    if (ctx == NULL) return RC_NOMEM;
    params[0] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0);
    params[1] = OSSL_PARAM_construct_end();
    ok = EVP_MAC_init(ctx, key, 32, params) == 1;
    for (size_t i = 0; ok && i < parts_n; i++)
        ok = EVP_MAC_update(ctx, parts[i].p, parts[i].n) == 1;
    ok = ok && EVP_MAC_final(ctx, ret_mac, &got, 32) == 1 && got == 32;
    EVP_MAC_CTX_free(ctx);
    return ok ? RC_OK : RC_INTERNAL;
}

enum rc crypto_sha256(const struct slice *parts, size_t parts_n, uint8_t ret[32])
{
    EVP_MD_CTX *ctx;
    bool ok;

    if (!fetched()) return RC_INTERNAL;
    ctx = EVP_MD_CTX_new();
    if (ctx == NULL) return RC_NOMEM;
    ok = EVP_DigestInit_ex(ctx, sha256, NULL) == 1;
    for (size_t i = 0; ok && i < parts_n; i++)
        ok = EVP_DigestUpdate(ctx, parts[i].p, parts[i].n) == 1;
    ok = ok && EVP_DigestFinal_ex(ctx, ret, NULL) == 1;
    EVP_MD_CTX_free(ctx);
    return ok ? RC_OK : RC_INTERNAL;
}

/* The parts in one piece. */
static enum rc aad_join(const struct slice *aad, size_t aad_n, uint8_t **ret, size_t *ret_n)
{
    size_t n = 0, at = 0;

    for (size_t i = 0; i < aad_n; i++)
        n += aad[i].n;
    *ret = malloc(n + 1);
    if (*ret == NULL) return RC_NOMEM;
    for (size_t i = 0; i < aad_n; i++) {
        if (aad[i].n > 0) memcpy(*ret + at, aad[i].p, aad[i].n);
        at += aad[i].n;
    }
    *ret_n = n;
    return RC_OK;
}

enum rc crypto_gcm_seal(const uint8_t key[32], const uint8_t nonce[12], const struct slice *aad,
                        size_t aad_n, struct slice plain, uint8_t *cipher, uint8_t ret_tag[16])
{
    struct gcm *g = NULL;
    uint8_t *a = NULL;
    size_t n = 0;
    enum rc rc = aad_join(aad, aad_n, &a, &n);

    if (rc == RC_OK) rc = gcm_new(key, &g);
    if (rc == RC_OK) rc = gcm_seal_begin(g, nonce, a, n);
    if (rc == RC_OK) rc = gcm_seal_part(g, plain.p, cipher, plain.n);
    if (rc == RC_OK) rc = gcm_seal_end(g, ret_tag);
    gcm_free(g);
    free(a);
    return rc;
}

enum rc crypto_gcm_open(const uint8_t key[32], const uint8_t nonce[12], const struct slice *aad,
                        size_t aad_n, struct slice cipher, const uint8_t tag[16], uint8_t *plain)
{
    struct gcm *g = NULL;
    uint8_t *a = NULL;
    size_t n = 0;
    enum rc rc = aad_join(aad, aad_n, &a, &n);

    if (rc == RC_OK) rc = gcm_new(key, &g);
    if (rc == RC_OK) rc = gcm_open_begin(g, nonce, a, n);
    if (rc == RC_OK) rc = gcm_open_part(g, cipher.p, plain, cipher.n);
    if (rc == RC_OK) rc = gcm_open_end(g, tag);
    if (rc != RC_OK && cipher.n > 0) OPENSSL_cleanse(plain, cipher.n);
    gcm_free(g);
    free(a);
    return rc;
}
