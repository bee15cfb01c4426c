/* common/crypto/capability.c - bytes, integers little-endian:
 *   format u8 = 1 | 0 u8 | URI length u16 | bodies u32 | cluster 16 | key id 16 | job 16 | task u64
 * | attempt u32 | 0 u32 | key epoch u64 | expiry unix ms u64 | URI | bodies 16 each | signature 64
 * The signature (SIGN_CAPABILITY) covers all before it. */
#include "common/crypto/capability.h"
#include "common/base/le.h"
#include <stdlib.h>

#define FORMAT     1u
#define HEAD_BYTES 88u

_Static_assert(CAPABILITY_BYTES_MAX == HEAD_BYTES + CAPABILITY_URI_BYTES_MAX +
                                           16u * CAPABILITY_BODIES_MAX + SIGN_SIGNATURE_BYTES,
               "the limit is the longest encoding");
_Static_assert(sizeof(struct id128) == 16, "bodies are an array of ids");

static int id_cmp(const void *a, const void *b)
{
    return id128_cmp(a, b);
}

uint32_t capability_sort_bodies(struct id128 *bodies, uint32_t n)
{
    uint32_t left = 0;

    if (n == 0) return 0;
    qsort(bodies, n, sizeof(*bodies), id_cmp);
    for (uint32_t i = 0; i < n; i++) {
        if (left == 0 || !id128_eq(&bodies[left - 1], &bodies[i])) bodies[left++] = bodies[i];
    }
    return left;
}

static bool bodies_sorted(const uint8_t *bodies, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++) {
        if (memcmp(bodies + 16 * (size_t)(i - 1), bodies + 16 * (size_t)i, 16) >= 0) return false;
    }
    return true;
}

enum rc capability_encode(const struct capability *cap, const struct signer *signer,
                          struct buf *out)
{
    uint8_t head[HEAD_BYTES] = {FORMAT}, signature[SIGN_SIGNATURE_BYTES];
    size_t from = out->n;
    enum rc rc;

    if (cap->worker_uri.n == 0 || cap->worker_uri.n > CAPABILITY_URI_BYTES_MAX ||
        cap->bodies_n > CAPABILITY_BODIES_MAX || !bodies_sorted(cap->bodies, cap->bodies_n)) {
        return RC_INVAL;
    }
    le_put16(head + 2, (uint16_t)cap->worker_uri.n);
    le_put32(head + 4, cap->bodies_n);
    memcpy(head + 8, cap->cluster.b, 16);
    memcpy(head + 24, signer_public(signer)->id.b, 16);
    memcpy(head + 40, cap->job.b, 16);
    le_put64(head + 56, cap->task);
    le_put32(head + 64, cap->attempt);
    le_put64(head + 72, cap->key_epoch);
    le_put64(head + 80, cap->expires_unix_ms);
    buf_put(out, head, sizeof(head));
    buf_put(out, cap->worker_uri.p, cap->worker_uri.n);
    buf_put(out, cap->bodies, 16 * (size_t)cap->bodies_n);
    rc = buf_rc(out);
    if (rc != RC_OK) return rc;
    rc = sign_message(signer, SIGN_CAPABILITY, (struct slice){out->p + from, out->n - from},
                      signature);
    if (rc != RC_OK) return rc;
    buf_put(out, signature, sizeof(signature));
    return buf_rc(out);
}

enum rc capability_decode(struct slice bytes, struct capability *ret_cap)
{
    const uint8_t *p = bytes.p;
    struct capability cap;

    if (bytes.n < HEAD_BYTES || p[0] != FORMAT || p[1] != 0 || le_get32(p + 68) != 0) {
        return RC_CORRUPT;
    }
    cap.worker_uri = (struct slice){p + HEAD_BYTES, le_get16(p + 2)};
    cap.bodies_n = le_get32(p + 4);
    if (cap.worker_uri.n == 0 || cap.worker_uri.n > CAPABILITY_URI_BYTES_MAX ||
        cap.bodies_n > CAPABILITY_BODIES_MAX ||
        bytes.n !=
            HEAD_BYTES + cap.worker_uri.n + 16 * (size_t)cap.bodies_n + SIGN_SIGNATURE_BYTES) {
        return RC_CORRUPT;
    }
    cap.bodies = cap.worker_uri.p + cap.worker_uri.n;
    if (!bodies_sorted(cap.bodies, cap.bodies_n)) return RC_CORRUPT;
    memcpy(cap.cluster.b, p + 8, 16);
    memcpy(cap.key_id.b, p + 24, 16);
    memcpy(cap.job.b, p + 40, 16);
    cap.task = le_get64(p + 56);
    cap.attempt = le_get32(p + 64);
    cap.key_epoch = le_get64(p + 72);
    cap.expires_unix_ms = le_get64(p + 80);
    *ret_cap = cap;
    return RC_OK;
}

enum rc capability_verify(struct slice bytes, const struct capability_check *check,
                          struct capability *ret_cap, struct err *reterr)
{
    const struct sign_public *key = NULL;
    char text[ID128_TEXT_BYTES];
    struct capability cap;
    size_t signed_n;
    enum rc rc = capability_decode(bytes, &cap);

    if (rc != RC_OK) return err_set(reterr, rc, "no capability of format %u", FORMAT);
    if (!id128_eq(&cap.cluster, &check->cluster)) {
        return err_set(reterr, RC_DENIED, "capability of another cluster, %s",
                       id128_text(&cap.cluster, text));
    }
    for (size_t i = 0; i < check->keys_n && key == NULL; i++) {
        if (id128_eq(&check->keys[i].id, &cap.key_id)) key = &check->keys[i];
    }
    if (key == NULL) {
        return err_set(reterr, RC_DENIED, "capability signed by key %s, which is not known here",
                       id128_text(&cap.key_id, text));
    }
    signed_n = bytes.n - SIGN_SIGNATURE_BYTES;
    rc = sign_verify(key, SIGN_CAPABILITY, (struct slice){bytes.p, signed_n},
                     (struct slice){bytes.p + signed_n, SIGN_SIGNATURE_BYTES});
    if (rc != RC_OK) return err_set(reterr, rc, "capability's signature does not verify");
    if (cap.worker_uri.n != check->worker_uri.n ||
        memcmp(cap.worker_uri.p, check->worker_uri.p, cap.worker_uri.n) != 0) {
        return err_set(reterr, RC_DENIED, "capability of another worker, task %s/%llu attempt %u",
                       id128_text(&cap.job, text), (unsigned long long)cap.task, cap.attempt);
    }
    if (check->now_unix_ms >= cap.expires_unix_ms) {
        return err_set(reterr, RC_DENIED, "capability of task %s/%llu attempt %u has expired",
                       id128_text(&cap.job, text), (unsigned long long)cap.task, cap.attempt);
    }
    if (cap.key_epoch < check->key_epoch_min) {
        return err_set(reterr, RC_STALE,
                       "capability of key epoch %llu, now %llu: ask for the task "
                       "again",
                       (unsigned long long)cap.key_epoch, (unsigned long long)check->key_epoch_min);
    }
    *ret_cap = cap;
    return RC_OK;
}

bool capability_allows(const struct capability *cap, const struct id128 *body)
{
    uint32_t low = 0, high = cap->bodies_n;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        int c = memcmp(cap->bodies + 16 * (size_t)mid, body->b, 16);

        if (c == 0) return true;
        if (c < 0) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return false;
}
