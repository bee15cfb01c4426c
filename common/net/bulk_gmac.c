/* common/net/bulk_gmac.c - GMAC of a payload. The key is fresh for each payload
 * (ChunkWrite.mac_key), so the nonce may be zero. */
#include "common/crypto/gcm.h"
#include "common/net/bulk.h"
#include <openssl/crypto.h>

enum rc bulk_gmac(const uint8_t key[32], const uint8_t *p, size_t n, uint8_t ret_mac[16])
{
    static const uint8_t nonce[GCM_NONCE_BYTES];
    struct gcm *g = NULL;
    enum rc rc = gcm_new(key, &g);

    if (rc == RC_OK) rc = gcm_mac_begin(g, nonce);
    if (rc == RC_OK) rc = gcm_mac_part(g, p, n);
    if (rc == RC_OK) rc = gcm_mac_end(g, ret_mac);
    gcm_free(g);
    return rc;
}

bool bulk_gmac_equal(const uint8_t a[16], const uint8_t b[16])
{
    return CRYPTO_memcmp(a, b, 16) == 0;
}
