/* common/crypto/gcm.c - see gcm.h.
 *
 * Of the multi-buffer library only the direct calls are used: they keep no state in the manager but
 * its last error, which nobody reads. */
#include "common/crypto/gcm.h"
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#ifdef MIKURA_IPSEC_MB
#include <intel-ipsec-mb.h>
#else
typedef struct IMB_MGR IMB_MGR; /* there is none */
#endif

#define PART_MAX ((size_t)1 << 30) /* OpenSSL's lengths are int */

struct gcm {
    EVP_CIPHER_CTX *ctx; /* NULL: the other engine */
#ifdef MIKURA_IPSEC_MB
    struct gcm_context_data message;
    struct gcm_key_data key;
#endif
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static EVP_CIPHER *cipher;
static IMB_MGR *mb; /* NULL: not built in, not on this CPU, or its answer was another */
static bool openssl_only;

/* ---- OpenSSL ---- */
static enum rc evp_setup(struct gcm *g, const uint8_t key[32])
{
    if (cipher == NULL) return RC_INTERNAL;
    g->ctx = EVP_CIPHER_CTX_new();
    if (g->ctx == NULL) return RC_NOMEM;
    return EVP_EncryptInit_ex(g->ctx, cipher, NULL, key, NULL) == 1 ? RC_OK : RC_INTERNAL;
}

/* out NULL: to be authenticated only. */
static enum rc evp_part(struct gcm *g, const uint8_t *in, uint8_t *out, size_t n)
{
    while (n > 0) {
        int part = (int)MIN(n, PART_MAX), got = 0;

        if (EVP_CipherUpdate(g->ctx, out, &got, in, part) != 1 || got != part) return RC_INTERNAL;
        in += part;
        if (out != NULL) out += part;
        n -= (size_t)part;
    }
    return RC_OK;
}

static enum rc evp_begin(struct gcm *g, bool seal, const uint8_t *nonce, const uint8_t *aad,
                         size_t aad_n)
{
    if (EVP_CipherInit_ex(g->ctx, NULL, NULL, NULL, nonce, seal) != 1) return RC_INTERNAL;
    return evp_part(g, aad, NULL, aad_n);
}

static enum rc evp_tag(struct gcm *g, uint8_t *ret_tag)
{
    uint8_t none[16];
    int got = 0;

    return EVP_EncryptFinal_ex(g->ctx, none, &got) == 1 &&
                   EVP_CIPHER_CTX_ctrl(g->ctx, EVP_CTRL_AEAD_GET_TAG, GCM_TAG_BYTES, ret_tag) == 1
               ? RC_OK
               : RC_INTERNAL;
}

static enum rc evp_open_end(struct gcm *g, const uint8_t *tag)
{
    uint8_t none[16];
    int got = 0;

    if (EVP_CIPHER_CTX_ctrl(g->ctx, EVP_CTRL_AEAD_SET_TAG, GCM_TAG_BYTES, (void *)(uintptr_t)tag) !=
        1)
        return RC_INTERNAL;
    return EVP_DecryptFinal_ex(g->ctx, none, &got) == 1 ? RC_OK : RC_CORRUPT;
}

/* ---- messages ---- */
enum rc gcm_seal_begin(struct gcm *g, const uint8_t nonce[GCM_NONCE_BYTES], const uint8_t *aad,
                       size_t aad_n)
{
    if (g->ctx != NULL) return evp_begin(g, true, nonce, aad, aad_n);
#ifdef MIKURA_IPSEC_MB
    IMB_AES256_GCM_INIT(mb, &g->key, &g->message, nonce, aad, aad_n);
#endif
    return RC_OK;
}

enum rc gcm_seal_part(struct gcm *g, const uint8_t *in, uint8_t *out, size_t n)
{
    if (g->ctx != NULL) return evp_part(g, in, out, n);
#ifdef MIKURA_IPSEC_MB
    if (n > 0) IMB_AES256_GCM_ENC_UPDATE(mb, &g->key, &g->message, out, in, n);
#endif
    return RC_OK;
}

enum rc gcm_seal_end(struct gcm *g, uint8_t ret_tag[GCM_TAG_BYTES])
{
    if (g->ctx != NULL) return evp_tag(g, ret_tag);
#ifdef MIKURA_IPSEC_MB
    IMB_AES256_GCM_ENC_FINALIZE(mb, &g->key, &g->message, ret_tag, GCM_TAG_BYTES);
#endif
    return RC_OK;
}

enum rc gcm_open_begin(struct gcm *g, const uint8_t nonce[GCM_NONCE_BYTES], const uint8_t *aad,
                       size_t aad_n)
{
    return g->ctx != NULL ? evp_begin(g, false, nonce, aad, aad_n)
                          : gcm_seal_begin(g, nonce, aad, aad_n);
}

enum rc gcm_open_part(struct gcm *g, const uint8_t *in, uint8_t *out, size_t n)
{
    if (g->ctx != NULL) return evp_part(g, in, out, n);
#ifdef MIKURA_IPSEC_MB
    if (n > 0) IMB_AES256_GCM_DEC_UPDATE(mb, &g->key, &g->message, out, in, n);
#endif
    return RC_OK;
}

enum rc gcm_open_end(struct gcm *g, const uint8_t tag[GCM_TAG_BYTES])
{
    uint8_t got[GCM_TAG_BYTES] = {0};

    if (g->ctx != NULL) return evp_open_end(g, tag);
#ifdef MIKURA_IPSEC_MB
    IMB_AES256_GCM_DEC_FINALIZE(mb, &g->key, &g->message, got, GCM_TAG_BYTES);
#endif
    return CRYPTO_memcmp(got, tag, GCM_TAG_BYTES) == 0 ? RC_OK : RC_CORRUPT;
}

enum rc gcm_mac_begin(struct gcm *g, const uint8_t nonce[GCM_NONCE_BYTES])
{
    if (g->ctx != NULL) return evp_begin(g, true, nonce, NULL, 0);
#ifdef MIKURA_IPSEC_MB
    IMB_AES256_GMAC_INIT(mb, &g->key, &g->message, nonce, GCM_NONCE_BYTES);
#endif
    return RC_OK;
}

enum rc gcm_mac_part(struct gcm *g, const uint8_t *p, size_t n)
{
    if (g->ctx != NULL) return evp_part(g, p, NULL, n);
#ifdef MIKURA_IPSEC_MB
    if (n > 0) IMB_AES256_GMAC_UPDATE(mb, &g->key, &g->message, p, n);
#endif
    return RC_OK;
}

enum rc gcm_mac_end(struct gcm *g, uint8_t ret_tag[GCM_TAG_BYTES])
{
    if (g->ctx != NULL) return evp_tag(g, ret_tag);
#ifdef MIKURA_IPSEC_MB
    IMB_AES256_GMAC_FINALIZE(mb, &g->key, &g->message, ret_tag, GCM_TAG_BYTES);
#endif
    return RC_OK;
}

/* ---- which engine ---- */
static enum rc make(const uint8_t key[32], bool openssl, struct gcm **ret_gcm)
{
    struct gcm *g = aligned_alloc(64, ROUND_UP(sizeof *g, (size_t)64));
    enum rc rc = RC_OK;

    if (g == NULL) return RC_NOMEM;
    g->ctx = NULL;
    if (mb == NULL || openssl) {
        rc = evp_setup(g, key);
#ifdef MIKURA_IPSEC_MB
    } else {
        IMB_AES256_GCM_PRE(mb, key, &g->key);
#endif
    }
    if (rc != RC_OK) {
        gcm_free(g);
        return rc;
    }
    *ret_gcm = g;
    return RC_OK;
}

/* A library that is wrong on some CPU is found here, not in somebody's images. */
static bool same_answer(void)
{
    static const uint8_t key[32] = {1, 2, 3}, nonce[GCM_NONCE_BYTES] = {4, 5}, aad[20] = {6};
    uint8_t text[2][1000] = {{7, 8}, {7, 8}}, tag[2][GCM_TAG_BYTES], mac[2][GCM_TAG_BYTES];
    bool ok = true;

    for (int i = 0; i < 2 && ok; i++) {
        struct gcm *g = NULL;

        ok = make(key, i == 1, &g) == RC_OK && gcm_seal_begin(g, nonce, aad, sizeof aad) == RC_OK &&
             gcm_seal_part(g, text[i], text[i], 333) == RC_OK &&
             gcm_seal_part(g, text[i] + 333, text[i] + 333, sizeof text[i] - 333) == RC_OK &&
             gcm_seal_end(g, tag[i]) == RC_OK && gcm_mac_begin(g, nonce) == RC_OK &&
             gcm_mac_part(g, text[i], sizeof text[i]) == RC_OK && gcm_mac_end(g, mac[i]) == RC_OK;
        gcm_free(g);
    }
    return ok && memcmp(text[0], text[1], sizeof text[0]) == 0 &&
           memcmp(tag[0], tag[1], sizeof tag[0]) == 0 && memcmp(mac[0], mac[1], sizeof mac[0]) == 0;
}

static void decide(void)
{
    cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
#ifdef MIKURA_IPSEC_MB
    IMB_ARCH arch = IMB_ARCH_NONE;

    mb = alloc_mb_mgr(0);
    if (mb == NULL) return;
    init_mb_mgr_auto(mb, &arch);
    if (imb_get_errno(mb) != 0 || arch < IMB_ARCH_SSE || !same_answer()) {
        free_mb_mgr(mb);
        mb = NULL;
    }
#else
    (void)same_answer;
#endif
}

enum rc gcm_new(const uint8_t key[32], struct gcm **ret_gcm)
{
    (void)pthread_once(&once, decide); /* fails only for an invalid control */
    return make(key, openssl_only, ret_gcm);
}

void gcm_free(struct gcm *g)
{
    if (g == NULL) return;
    EVP_CIPHER_CTX_free(g->ctx); /* wipes the key schedule */
    OPENSSL_cleanse(g, sizeof *g);
    free(g);
}

const char *gcm_engine(void)
{
    (void)pthread_once(&once, decide);
    return mb != NULL && !openssl_only ? "ipsec-mb" : "openssl";
}

void gcm_use_openssl(bool on)
{
    openssl_only = on;
}
