/* tests/cluster/secrecy/unsealed.c - linked into a gateway of its own: the first block of every
 * chunk leaves it in clear, by intent. The linker's --wrap puts these functions before the real
 * ones, so that nothing of this is in the program that is shipped.
 *
 * tests/cluster/secrecy must find such a block between daemons and on disks. The block's CRC is
 * made to fit, as a bug in the sealing would leave it. */
#include "common/base/crc32c.h"
#include "common/crypto/chunk_seal.h"
#include <pthread.h>
#include <string.h>

#define SLOTS_N 256u /* chunks under way; more are left sealed */

static struct slot {
    struct chunk_sealer *sealer;
    struct chunk_seal_out out;
    uint32_t plain_n;
    uint8_t plain[SEAL_BLOCK_BYTES];
} slots[SLOTS_N];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* sealers run on several threads */

MUST_CHECK enum rc __real_chunk_sealer_new(const struct key *body_key,
                                           const struct seal_ident *ident,
                                           const struct chunk_seal_out *out,
                                           struct chunk_sealer **ret_sealer, struct err *reterr);
MUST_CHECK enum rc __real_chunk_sealer_update(struct chunk_sealer *s, const void *p, size_t n);
void __real_chunk_sealer_update_pair(struct chunk_sealer_piece *a, struct chunk_sealer_piece *b);
MUST_CHECK enum rc __real_chunk_sealer_finish(struct chunk_sealer *s, uint32_t *ret_leaves_n,
                                              uint8_t ret_digest[DIGEST_BYTES]);
void __real_chunk_sealer_free(struct chunk_sealer *s);
enum rc __wrap_chunk_sealer_new(const struct key *body_key, const struct seal_ident *ident,
                                const struct chunk_seal_out *out, struct chunk_sealer **ret_sealer,
                                struct err *reterr);
enum rc __wrap_chunk_sealer_update(struct chunk_sealer *s, const void *p, size_t n);
void __wrap_chunk_sealer_update_pair(struct chunk_sealer_piece *a, struct chunk_sealer_piece *b);
enum rc __wrap_chunk_sealer_finish(struct chunk_sealer *s, uint32_t *ret_leaves_n,
                                   uint8_t ret_digest[DIGEST_BYTES]);
void __wrap_chunk_sealer_free(struct chunk_sealer *s);

static struct slot *slot_of(const struct chunk_sealer *s)
{
    for (uint32_t i = 0; i < SLOTS_N; i++)
        if (slots[i].sealer == s) return &slots[i];
    return NULL;
}

enum rc __wrap_chunk_sealer_new(const struct key *body_key, const struct seal_ident *ident,
                                const struct chunk_seal_out *out, struct chunk_sealer **ret_sealer,
                                struct err *reterr)
{
    enum rc rc = __real_chunk_sealer_new(body_key, ident, out, ret_sealer, reterr);
    struct slot *at;

    if (rc != RC_OK) return rc;
    (void)pthread_mutex_lock(&lock);
    at = slot_of(NULL);
    if (at != NULL) {
        at->sealer = *ret_sealer;
        at->out = *out;
        at->plain_n = 0;
    }
    (void)pthread_mutex_unlock(&lock);
    return RC_OK;
}

static void keep(const struct chunk_sealer *s, const uint8_t *p, size_t n)
{
    struct slot *at;

    (void)pthread_mutex_lock(&lock);
    at = slot_of(s);
    if (at != NULL) {
        uint32_t take = (uint32_t)MIN(n, (size_t)(SEAL_BLOCK_BYTES - at->plain_n));

        memcpy(at->plain + at->plain_n, p, take);
        at->plain_n += take;
    }
    (void)pthread_mutex_unlock(&lock);
}

enum rc __wrap_chunk_sealer_update(struct chunk_sealer *s, const void *p, size_t n)
{
    enum rc rc = __real_chunk_sealer_update(s, p, n);

    keep(s, p, n);
    return rc;
}

void __wrap_chunk_sealer_update_pair(struct chunk_sealer_piece *a, struct chunk_sealer_piece *b)
{
    keep(a->sealer, a->p, a->n);
    keep(b->sealer, b->p, b->n);
    __real_chunk_sealer_update_pair(a, b);
}

enum rc __wrap_chunk_sealer_finish(struct chunk_sealer *s, uint32_t *ret_leaves_n,
                                   uint8_t ret_digest[DIGEST_BYTES])
{
    enum rc rc = __real_chunk_sealer_finish(s, ret_leaves_n, ret_digest);
    struct slot *at;

    (void)pthread_mutex_lock(&lock);
    at = slot_of(s);
    if (rc == RC_OK && at != NULL) {
        memcpy(at->out.cipher, at->plain, at->plain_n);
        if (at->out.crcs != NULL) at->out.crcs[0] = crc32c(0, at->plain, at->plain_n);
    }
    (void)pthread_mutex_unlock(&lock);
    return rc;
}

void __wrap_chunk_sealer_free(struct chunk_sealer *s)
{
    struct slot *at;

    (void)pthread_mutex_lock(&lock);
    at = s == NULL ? NULL : slot_of(s);
    if (at != NULL) at->sealer = NULL;
    (void)pthread_mutex_unlock(&lock);
    __real_chunk_sealer_free(s);
}
