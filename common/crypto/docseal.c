/* common/crypto/docseal.c - sealed value: version u8 = 1 | purpose u8 | 0 u16 | id 16 | ciphertext
 * | tag 16. Key = HKDF(case key, "mikura doc key 1" | id), nonce zero, AAD = the first 20 bytes |
 * u32 length of identity | identity. A key seals one message in its life. */
#include "common/crypto/docseal.h"
#include "common/base/le.h"
#include "common/crypto/crypto_priv.h"
#include <openssl/crypto.h>

#define VERSION    1u
#define HEAD_BYTES 20u

static const uint8_t NONCE[12];

static enum rc value_key(const struct key *case_key, const uint8_t id[16], uint8_t out[32])
{
    return crypto_derive(case_key->b, "mikura doc key 1", (struct slice){id, 16}, out);
}

enum rc docseal_seal(const struct key *case_key, enum docseal_purpose purpose,
                     struct slice identity, struct slice plain, uint8_t *out)
{
    uint8_t identity_n[4], key[32], head[HEAD_BYTES] = {VERSION, (uint8_t)purpose};
    struct slice aad[3] = {{head, HEAD_BYTES}, {identity_n, 4}, identity};
    enum rc rc;

    if (plain.n > DOCSEAL_PLAIN_BYTES_MAX || identity.n > DOCSEAL_PLAIN_BYTES_MAX) return RC_INVAL;
    random_bytes(head + 4, 16);
    le_put32(identity_n, (uint32_t)identity.n);
    rc = value_key(case_key, head + 4, key);
    if (rc == RC_OK) {
        rc = crypto_gcm_seal(key, NONCE, aad, ARRAY_N(aad), plain, out + HEAD_BYTES,
                             out + HEAD_BYTES + plain.n);
    }
    OPENSSL_cleanse(key, sizeof(key));
    if (rc == RC_OK) memcpy(out, head, HEAD_BYTES);
    return rc;
}

enum rc docseal_open(const struct key *case_key, enum docseal_purpose purpose,
                     struct slice identity, struct slice sealed, uint8_t *out, size_t *ret_plain_n)
{
    uint8_t identity_n[4], key[32];
    struct slice aad[3] = {{sealed.p, HEAD_BYTES}, {identity_n, 4}, identity}, cipher;
    enum rc rc;

    if (sealed.n < DOCSEAL_EXTRA_BYTES ||
        sealed.n > DOCSEAL_PLAIN_BYTES_MAX + DOCSEAL_EXTRA_BYTES || sealed.p[0] != VERSION ||
        sealed.p[1] != (uint8_t)purpose || sealed.p[2] != 0 || sealed.p[3] != 0 ||
        identity.n > DOCSEAL_PLAIN_BYTES_MAX) {
        return RC_CORRUPT;
    }
    cipher = (struct slice){sealed.p + HEAD_BYTES, sealed.n - DOCSEAL_EXTRA_BYTES};
    le_put32(identity_n, (uint32_t)identity.n);
    rc = value_key(case_key, sealed.p + 4, key);
    if (rc == RC_OK) {
        rc = crypto_gcm_open(key, NONCE, aad, ARRAY_N(aad), cipher, cipher.p + cipher.n, out);
    }
    OPENSSL_cleanse(key, sizeof(key));
    if (rc == RC_OK) *ret_plain_n = cipher.n;
    return rc;
}
