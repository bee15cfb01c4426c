/* common/net/bulk_gmac.c - GMAC of a payload, whole or as it arrives. The key is fresh for each
 * payload (ChunkWrite.mac_key), so the nonce may be zero. */
#include "common/net/bulk.h"
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>

struct bulk_gmac_stream {
    EVP_CIPHER_CTX *ctx;
};

enum rc bulk_gmac_stream_new(const uint8_t key[32], struct bulk_gmac_stream **ret_stream)
{
    static const uint8_t nonce[12];
    struct bulk_gmac_stream *s = calloc(1, sizeof(*s));

    if (s == NULL) return RC_NOMEM;
    s->ctx = EVP_CIPHER_CTX_new();
    if (s->ctx == NULL || EVP_EncryptInit_ex(s->ctx, EVP_aes_256_gcm(), NULL, key, nonce) != 1) {
        bulk_gmac_stream_free(s);
        return RC_NOMEM;
    }
    *ret_stream = s;
    return RC_OK;
}

void bulk_gmac_stream_free(struct bulk_gmac_stream *s)
{
    if (s == NULL) return;
    EVP_CIPHER_CTX_free(s->ctx);
    free(s);
}

enum rc bulk_gmac_stream_update(struct bulk_gmac_stream *s, const uint8_t *p, size_t n)
{
    while (n > 0) {
        int part = (int)MIN(n, (size_t)1 << 30), got;

        if (EVP_EncryptUpdate(s->ctx, NULL, &got, p, part) != 1) return RC_INTERNAL;
        p += part;
        n -= (size_t)part;
    }
    return RC_OK;
}

enum rc bulk_gmac_stream_final(struct bulk_gmac_stream *s, uint8_t ret_mac[16])
{
    uint8_t none[16];
    int got;

    return EVP_EncryptFinal_ex(s->ctx, none, &got) == 1 &&
                   EVP_CIPHER_CTX_ctrl(s->ctx, EVP_CTRL_AEAD_GET_TAG, 16, ret_mac) == 1
               ? RC_OK
               : RC_INTERNAL;
}

enum rc bulk_gmac(const uint8_t key[32], const uint8_t *p, size_t n, uint8_t ret_mac[16])
{
    struct bulk_gmac_stream *s = NULL;
    enum rc rc = bulk_gmac_stream_new(key, &s);

    if (rc == RC_OK) rc = bulk_gmac_stream_update(s, p, n);
    if (rc == RC_OK) rc = bulk_gmac_stream_final(s, ret_mac);
    bulk_gmac_stream_free(s);
    return rc;
}

bool bulk_gmac_equal(const uint8_t a[16], const uint8_t b[16])
{
    return CRYPTO_memcmp(a, b, 16) == 0;
}
