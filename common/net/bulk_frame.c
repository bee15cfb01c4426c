/* common/net/bulk_frame.c - the cipher context is keyed at the ratchet only; a frame sets the
 * nonce. */
#include "common/net/bulk_frame.h"
#include "common/base/le.h"
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>

struct bulk_key {
    uint8_t secret[32];
    uint64_t counter; /* of the next frame */
    EVP_CIPHER_CTX *ctx;
};

/* HKDF-SHA256(secret, no salt, info = the label), RFC 5869 with one block. */
static bool ratchet(struct bulk_key *k)
{
    static const uint8_t salt[32], info[] = "mikura bulk ratchet 1\x01";
    uint8_t prk[32];
    unsigned n = 0;
    bool ok = HMAC(EVP_sha256(), salt, sizeof(salt), k->secret, 32, prk, &n) != NULL &&
              HMAC(EVP_sha256(), prk, 32, info, sizeof(info) - 1, k->secret, &n) != NULL;

    OPENSSL_cleanse(prk, sizeof(prk));
    return ok;
}

static enum rc set_key(struct bulk_key *k)
{
    return EVP_CipherInit_ex(k->ctx, EVP_aes_256_gcm(), NULL, k->secret, NULL, -1) == 1
               ? RC_OK
               : RC_INTERNAL;
}

enum rc bulk_key_new(const uint8_t secret[32], struct bulk_key **ret_key)
{
    struct bulk_key *k = calloc(1, sizeof(*k));
    enum rc rc;

    if (k == NULL) return RC_NOMEM;
    memcpy(k->secret, secret, 32);
    k->ctx = EVP_CIPHER_CTX_new();
    rc = k->ctx == NULL ? RC_NOMEM : set_key(k);
    if (rc != RC_OK) {
        bulk_key_free(k);
        return rc;
    }
    *ret_key = k;
    return RC_OK;
}

void bulk_key_free(struct bulk_key *k)
{
    if (k == NULL) return;
    EVP_CIPHER_CTX_free(k->ctx);
    OPENSSL_cleanse(k->secret, sizeof(k->secret));
    free(k);
}

/* After a frame. */
static enum rc advance(struct bulk_key *k)
{
    k->counter++;
    if (k->counter % BULK_RATCHET_FRAMES != 0) return RC_OK;
    return ratchet(k) ? set_key(k) : RC_INTERNAL;
}

enum rc bulk_key_skip(struct bulk_key *k, uint64_t frames)
{
    for (uint64_t i = 0; i < frames; i++) {
        enum rc rc = advance(k);

        if (rc != RC_OK) return rc;
    }
    return RC_OK;
}

static bool cipher_start(struct bulk_key *k, const uint8_t length[4], int enc)
{
    uint8_t nonce[12] = {0};
    int got;

    be_put64(nonce + 4, k->counter);
    return EVP_CipherInit_ex(k->ctx, NULL, NULL, NULL, nonce, enc) == 1 &&
           EVP_CipherUpdate(k->ctx, NULL, &got, length, 4) == 1;
}

enum rc bulk_frame_seal(struct bulk_key *k, const struct bulk_frame *f, uint8_t *p,
                        uint32_t header_n)
{
    uint32_t n = BULK_FRAME_FIXED_BYTES + header_n;
    uint8_t *text = p + BULK_FRAME_LENGTH_BYTES, none[16];
    int got = 0;

    CHECK(header_n <= BULK_HEADER_BYTES_MAX && f->payload_n <= BULK_PAYLOAD_BYTES_MAX);
    le_put32(p, n);
    memset(text, 0, BULK_FRAME_FIXED_BYTES);
    text[0] = (uint8_t)f->type;
    le_put32(text + 4, f->id);
    le_put32(text + 8, f->payload_n);
    le_put32(text + 12, f->timeout_ms);
    if (!cipher_start(k, p, 1) || EVP_CipherUpdate(k->ctx, text, &got, text, (int)n) != 1 ||
        EVP_CipherFinal_ex(k->ctx, none, &got) != 1 ||
        EVP_CIPHER_CTX_ctrl(k->ctx, EVP_CTRL_AEAD_GET_TAG, BULK_FRAME_TAG_BYTES, text + n) != 1) {
        return RC_INTERNAL;
    }
    return advance(k);
}

enum rc bulk_frame_length(const uint8_t p[BULK_FRAME_LENGTH_BYTES], uint32_t *ret_n)
{
    uint32_t n = le_get32(p);

    if (n < BULK_FRAME_FIXED_BYTES || n > BULK_FRAME_FIXED_BYTES + BULK_HEADER_BYTES_MAX) {
        return RC_CORRUPT;
    }
    *ret_n = n + BULK_FRAME_TAG_BYTES;
    return RC_OK;
}

static enum rc fields_decode(const uint8_t *text, struct slice header, struct bulk_frame *ret_frame)
{
    struct bulk_frame f = {.id = le_get32(text + 4),
                           .payload_n = le_get32(text + 8),
                           .timeout_ms = le_get32(text + 12)};
    bool bare = f.payload_n == 0 && f.id == 0 && f.timeout_ms == 0;

    if (text[1] != 0 || text[2] != 0 || text[3] != 0 || f.payload_n > BULK_PAYLOAD_BYTES_MAX) {
        return RC_CORRUPT;
    }
    switch (text[0]) {
    case BULK_REQUEST:
        break;
    case BULK_ANSWER:
        if (f.timeout_ms != 0) return RC_CORRUPT;
        break;
    case BULK_HELLO:
    case BULK_MESSAGE:
        if (!bare) return RC_CORRUPT;
        break;
    case BULK_DRAIN:
        if (!bare || header.n != 0) return RC_CORRUPT;
        break;
    default:
        return RC_CORRUPT;
    }
    f.type = (enum bulk_frame_type)text[0];
    *ret_frame = f;
    return RC_OK;
}

enum rc bulk_frame_open(struct bulk_key *k, uint8_t *p, size_t n, struct bulk_frame *ret_frame,
                        struct slice *ret_header)
{
    uint8_t *text = p + BULK_FRAME_LENGTH_BYTES, none[16];
    struct slice header;
    uint32_t follow, text_n;
    int got = 0;
    enum rc rc;

    if (n < BULK_FRAME_LENGTH_BYTES || bulk_frame_length(p, &follow) != RC_OK ||
        n != BULK_FRAME_LENGTH_BYTES + (size_t)follow) {
        return RC_CORRUPT;
    }
    text_n = follow - BULK_FRAME_TAG_BYTES;
    if (!cipher_start(k, p, 0) || EVP_CipherUpdate(k->ctx, text, &got, text, (int)text_n) != 1 ||
        EVP_CIPHER_CTX_ctrl(k->ctx, EVP_CTRL_AEAD_SET_TAG, BULK_FRAME_TAG_BYTES, text + text_n) !=
            1) {
        return RC_INTERNAL;
    }
    if (EVP_CipherFinal_ex(k->ctx, none, &got) != 1) {
        OPENSSL_cleanse(text, text_n); /* unauthenticated bytes go nowhere */
        return RC_CORRUPT;
    }
    header = (struct slice){text + BULK_FRAME_FIXED_BYTES, text_n - (size_t)BULK_FRAME_FIXED_BYTES};
    rc = fields_decode(text, header, ret_frame);
    if (rc != RC_OK) return rc;
    *ret_header = header;
    return advance(k);
}

void bulk_hello_encode(const struct bulk_hello *h, uint8_t ret[BULK_HELLO_BYTES])
{
    memset(ret, 0, BULK_HELLO_BYTES);
    le_put32(ret, h->wire_version);
    le_put32(ret + 4, (uint32_t)h->cls);
    le_put64(ret + 8, h->features);
    memcpy(ret + 16, h->cluster.b, 16);
    memcpy(ret + 32, h->node.b, 16);
    memcpy(ret + 48, h->boot_id.b, 16);
}

enum rc bulk_hello_decode(struct slice bytes, struct bulk_hello *ret_hello)
{
    struct bulk_hello h;
    uint32_t cls;

    if (bytes.n < BULK_HELLO_BYTES) return RC_CORRUPT;
    h.wire_version = le_get32(bytes.p);
    cls = le_get32(bytes.p + 4);
    h.features = le_get64(bytes.p + 8);
    memcpy(h.cluster.b, bytes.p + 16, 16);
    memcpy(h.node.b, bytes.p + 32, 16);
    memcpy(h.boot_id.b, bytes.p + 48, 16);
    if (cls != BULK_DATA && cls != BULK_CONTROL) return RC_CORRUPT;
    h.cls = (enum bulk_class)cls;
    *ret_hello = h;
    return RC_OK;
}
