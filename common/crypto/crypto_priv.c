/* common/crypto/crypto_priv.c - the algorithms are fetched once: a fetch by name in every call
 * costs more than the hash of a short message. */
#include "common/crypto/crypto_priv.h"
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <pthread.h>
#include <string.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static EVP_KDF *hkdf;
static EVP_MAC *hmac;
static EVP_MD *sha256;
static EVP_CIPHER *gcm;

static void fetch(void)
{
    hkdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
}

static bool fetched(void)
{
    (void)pthread_once(&once, fetch); /* fails only for an invalid control */
    return hkdf != NULL && hmac != NULL && sha256 != NULL && gcm != NULL;
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

static bool add_aad(EVP_CIPHER_CTX *ctx, const struct slice *aad, size_t aad_n)
{
    int got = 0;

    for (size_t i = 0; i < aad_n; i++) {
        if (aad[i].n > 0 && EVP_CipherUpdate(ctx, NULL, &got, aad[i].p, (int)aad[i].n) != 1) {
            return false;
        }
    }
    return true;
}

enum rc crypto_gcm_seal(const uint8_t key[32], const uint8_t nonce[12], const struct slice *aad,
                        size_t aad_n, struct slice plain, uint8_t *cipher, uint8_t ret_tag[16])
{
    EVP_CIPHER_CTX *ctx;
    uint8_t none[16];
    int got = 0;
    bool ok;

    if (!fetched()) return RC_INTERNAL;
    ctx = EVP_CIPHER_CTX_new();
    if (ctx == NULL) return RC_NOMEM;
    ok = EVP_EncryptInit_ex(ctx, gcm, NULL, key, nonce) == 1 && add_aad(ctx, aad, aad_n) &&
         (plain.n == 0 || EVP_EncryptUpdate(ctx, cipher, &got, plain.p, (int)plain.n) == 1) &&
         EVP_EncryptFinal_ex(ctx, none, &got) == 1 &&
         EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, ret_tag) == 1;
    EVP_CIPHER_CTX_free(ctx);
    return ok ? RC_OK : RC_INTERNAL;
}

enum rc crypto_gcm_open(const uint8_t key[32], const uint8_t nonce[12], const struct slice *aad,
                        size_t aad_n, struct slice cipher, const uint8_t tag[16], uint8_t *plain)
{
    EVP_CIPHER_CTX *ctx;
    uint8_t none[16];
    int got = 0;
    enum rc rc;

    if (!fetched()) return RC_INTERNAL;
    ctx = EVP_CIPHER_CTX_new();
    if (ctx == NULL) return RC_NOMEM;
    rc = RC_OK;
    if (EVP_DecryptInit_ex(ctx, gcm, NULL, key, nonce) != 1 || !add_aad(ctx, aad, aad_n) ||
        (cipher.n > 0 && EVP_DecryptUpdate(ctx, plain, &got, cipher.p, (int)cipher.n) != 1) ||
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, 16, (void *)(uintptr_t)tag) != 1) {
        rc = RC_INTERNAL;
    } else if (EVP_DecryptFinal_ex(ctx, none, &got) != 1) {
        rc = RC_CORRUPT;
    }
    if (rc != RC_OK && cipher.n > 0) OPENSSL_cleanse(plain, cipher.n);
    EVP_CIPHER_CTX_free(ctx);
    return rc;
}
