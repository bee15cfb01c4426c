/* common/crypto/seal.c - the two cipher contexts are keyed once; a block sets the nonce only. */
#include "common/crypto/seal.h"
#include "common/base/le.h"
#include "common/crypto/crypto_priv.h"
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>

#define IDENT_BYTES 44u /* suite 4, body 16, index 4, seal id 16, plain length 4 */
#define AAD_BYTES   (IDENT_BYTES + 8u)

struct seal {
    struct seal_ident ident;
    EVP_CIPHER_CTX *enc, *dec;
    uint32_t rest; /* of the block begun */
    uint8_t aad[AAD_BYTES];
};

static const char LABEL[] = "mikura chunk key 1";

static void ident_encode(const struct seal_ident *id, uint8_t out[IDENT_BYTES])
{
    le_put32(out, id->suite);
    memcpy(out + 4, id->body.b, 16);
    le_put32(out + 20, id->index);
    memcpy(out + 24, id->seal_id.b, 16);
    le_put32(out + 40, id->plain_bytes);
}

enum rc seal_new(const uint8_t body_key[32], const struct seal_ident *ident, struct seal **ret_seal,
                 struct err *reterr)
{
    struct seal *s = NULL;
    uint8_t key[32];
    enum rc rc;

    if (ident->suite != SEAL_SUITE_AES256GCM) {
        return err_set(reterr, RC_INVAL, "cipher suite %u is unknown; this version knows suite %u",
                       ident->suite, SEAL_SUITE_AES256GCM);
    }
    if (ident->plain_bytes == 0 || ident->plain_bytes > SEAL_CHUNK_BYTES_MAX) {
        return err_set(reterr, RC_INVAL, "chunk of %u bytes; 1 to %u can be sealed",
                       ident->plain_bytes, SEAL_CHUNK_BYTES_MAX);
    }
    s = calloc(1, sizeof(*s));
    if (s == NULL) return err_set(reterr, RC_NOMEM, "sealing context");
    s->ident = *ident;
    ident_encode(ident, s->aad);
    le_put32(s->aad + IDENT_BYTES + 4, seal_blocks(ident->plain_bytes));
    s->enc = EVP_CIPHER_CTX_new();
    s->dec = EVP_CIPHER_CTX_new();
    if (s->enc == NULL || s->dec == NULL) {
        rc = err_set(reterr, RC_NOMEM, "sealing context");
        goto out;
    }
    rc = RC_OK;
    if (crypto_derive(body_key, LABEL, (struct slice){s->aad, IDENT_BYTES}, key) != RC_OK ||
        EVP_EncryptInit_ex(s->enc, EVP_aes_256_gcm(), NULL, key, NULL) != 1 ||
        EVP_DecryptInit_ex(s->dec, EVP_aes_256_gcm(), NULL, key, NULL) != 1) {
        rc = err_set(reterr, RC_INTERNAL, "OpenSSL gives no HKDF-SHA256 with AES-256-GCM");
    }
out:
    OPENSSL_cleanse(key, sizeof(key));
    if (rc != RC_OK) {
        seal_free(s);
        return rc;
    }
    *ret_seal = s;
    return RC_OK;
}

void seal_free(struct seal *s)
{
    if (s == NULL) return;
    EVP_CIPHER_CTX_free(s->enc); /* wipes the key schedule */
    EVP_CIPHER_CTX_free(s->dec);
    free(s);
}

/* Length of the block, or 0 when there is none; sets nonce and AAD. */
static uint32_t begin(struct seal *s, uint32_t block, uint8_t nonce[12])
{
    uint32_t blocks = seal_blocks(s->ident.plain_bytes);

    if (block >= blocks) return 0;
    memset(nonce, 0, 12);
    be_put32(nonce + 8, block);
    le_put32(s->aad + IDENT_BYTES, block);
    return block + 1 < blocks ? SEAL_BLOCK_BYTES : s->ident.plain_bytes - block * SEAL_BLOCK_BYTES;
}

enum rc seal_block_begin(struct seal *s, uint32_t block)
{
    uint8_t nonce[12];
    int got = 0;

    s->rest = begin(s, block, nonce);
    if (s->rest == 0) return RC_INVAL;
    if (EVP_EncryptInit_ex(s->enc, NULL, NULL, NULL, nonce) != 1 ||
        EVP_EncryptUpdate(s->enc, NULL, &got, s->aad, AAD_BYTES) != 1) {
        return RC_INTERNAL;
    }
    return RC_OK;
}

enum rc seal_block_part(struct seal *s, const uint8_t *plain, uint8_t *cipher, uint32_t n)
{
    int got = 0;

    if (n > s->rest) return RC_INVAL;
    s->rest -= n;
    if (EVP_EncryptUpdate(s->enc, cipher, &got, plain, (int)n) != 1 || got != (int)n) {
        return RC_INTERNAL;
    }
    return RC_OK;
}

enum rc seal_block_end(struct seal *s, uint8_t tag[SEAL_TAG_BYTES])
{
    uint8_t none[16];
    int got = 0;

    if (s->rest != 0) return RC_INVAL;
    if (EVP_EncryptFinal_ex(s->enc, none, &got) != 1 ||
        EVP_CIPHER_CTX_ctrl(s->enc, EVP_CTRL_AEAD_GET_TAG, SEAL_TAG_BYTES, tag) != 1) {
        return RC_INTERNAL;
    }
    return RC_OK;
}

enum rc seal_block(struct seal *s, uint32_t block, const uint8_t *plain, uint8_t *cipher,
                   uint8_t tag[SEAL_TAG_BYTES])
{
    enum rc rc = seal_block_begin(s, block);

    if (rc == RC_OK) rc = seal_block_part(s, plain, cipher, s->rest);
    return rc != RC_OK ? rc : seal_block_end(s, tag);
}

enum rc seal_open_block(struct seal *s, uint32_t block, const uint8_t *cipher,
                        const uint8_t tag[SEAL_TAG_BYTES], uint8_t *plain)
{
    uint8_t nonce[12], none[16];
    uint32_t n = begin(s, block, nonce);
    int got = 0;

    if (n == 0) return RC_INVAL;
    if (EVP_DecryptInit_ex(s->dec, NULL, NULL, NULL, nonce) != 1 ||
        EVP_DecryptUpdate(s->dec, NULL, &got, s->aad, AAD_BYTES) != 1 ||
        EVP_DecryptUpdate(s->dec, plain, &got, cipher, (int)n) != 1 || got != (int)n ||
        EVP_CIPHER_CTX_ctrl(s->dec, EVP_CTRL_AEAD_SET_TAG, SEAL_TAG_BYTES,
                            (void *)(uintptr_t)tag) != 1) {
        return RC_INTERNAL;
    }
    if (EVP_DecryptFinal_ex(s->dec, none, &got) != 1) {
        OPENSSL_cleanse(plain, n); /* unauthenticated bytes go nowhere */
        return RC_CORRUPT;
    }
    return RC_OK;
}
