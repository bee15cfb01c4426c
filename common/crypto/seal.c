/* common/crypto/seal.c - the cipher is keyed once; a block sets the nonce only. */
#include "common/crypto/seal.h"
#include "common/base/le.h"
#include "common/crypto/crypto_priv.h"
#include "common/crypto/gcm.h"
#include <openssl/crypto.h>
#include <stdlib.h>

#define IDENT_BYTES 44u /* suite 4, body 16, index 4, seal id 16, plain length 4 */
#define AAD_BYTES   (IDENT_BYTES + 8u)

struct seal {
    struct seal_ident ident;
    struct gcm *gcm;
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
    rc = crypto_derive(body_key, LABEL, (struct slice){s->aad, IDENT_BYTES}, key);
    if (rc == RC_OK) rc = gcm_new(key, &s->gcm);
    if (rc != RC_OK)
        (void)err_set(reterr, rc,
                      rc == RC_NOMEM ? "sealing context"
                                     : "OpenSSL gives no HKDF-SHA256 with AES-256-GCM");
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
    gcm_free(s->gcm);
    free(s);
}

/* Length of the block, or 0 when there is none; sets nonce and AAD. */
static uint32_t begin(struct seal *s, uint32_t block, uint8_t nonce[GCM_NONCE_BYTES])
{
    uint32_t blocks = seal_blocks(s->ident.plain_bytes);

    if (block >= blocks) return 0;
    memset(nonce, 0, GCM_NONCE_BYTES);
    be_put32(nonce + 8, block);
    le_put32(s->aad + IDENT_BYTES, block);
    return block + 1 < blocks ? SEAL_BLOCK_BYTES : s->ident.plain_bytes - block * SEAL_BLOCK_BYTES;
}

enum rc seal_block_begin(struct seal *s, uint32_t block)
{
    uint8_t nonce[GCM_NONCE_BYTES];

    s->rest = begin(s, block, nonce);
    return s->rest == 0 ? RC_INVAL : gcm_seal_begin(s->gcm, nonce, s->aad, AAD_BYTES);
}

enum rc seal_block_part(struct seal *s, const uint8_t *plain, uint8_t *cipher, uint32_t n)
{
    if (n > s->rest) return RC_INVAL;
    s->rest -= n;
    return gcm_seal_part(s->gcm, plain, cipher, n);
}

enum rc seal_block_end(struct seal *s, uint8_t tag[SEAL_TAG_BYTES])
{
    return s->rest != 0 ? RC_INVAL : gcm_seal_end(s->gcm, tag);
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
    uint8_t nonce[GCM_NONCE_BYTES];
    uint32_t n = begin(s, block, nonce);
    enum rc rc;

    if (n == 0) return RC_INVAL;
    rc = gcm_open_begin(s->gcm, nonce, s->aad, AAD_BYTES);
    if (rc == RC_OK) rc = gcm_open_part(s->gcm, cipher, plain, n);
    if (rc == RC_OK) rc = gcm_open_end(s->gcm, tag);
    if (rc != RC_OK) OPENSSL_cleanse(plain, n); /* unauthenticated bytes go nowhere */
    return rc;
}
