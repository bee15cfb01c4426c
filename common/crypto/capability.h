/* common/crypto/capability.h - the right of one task's attempt to read some bodies' chunks, signed
 * by the gateway that handed the task out; storage nodes verify it with public keys only.
 *
 * It is bound to the worker (the URI of its certificate), the cluster, an expiry and the key epoch
 * that the gateway saw; withdrawal raises the epoch. Any thread. Bytes: README.md. */
#pragma once
#include "common/base/buf.h"
#include "common/crypto/sign.h"

#define CAPABILITY_BODIES_MAX    1024u
#define CAPABILITY_URI_BYTES_MAX 255u
#define CAPABILITY_BYTES_MAX     (88u + CAPABILITY_URI_BYTES_MAX + 16u * CAPABILITY_BODIES_MAX + 64u)

struct capability {
    struct id128 cluster;
    struct id128 key_id; /* decode: whose signature it is; encode sets it */
    struct id128 job;
    uint64_t task;
    uint32_t attempt;
    uint64_t key_epoch;
    uint64_t expires_unix_ms;
    struct slice worker_uri;
    /* 16 bytes each, strictly ascending (id128_cmp); borrowed: after verify from the bytes given.
     */
    const uint8_t *bodies;
    uint32_t bodies_n;
};
/* Sorted and without doubles, as encode wants it; returns how many are left. */
uint32_t capability_sort_bodies(struct id128 *bodies, uint32_t n);
/* Appends to out. RC_INVAL: too many or unsorted bodies, URI; RC_INTERNAL; out's own failures. */
MUST_CHECK enum rc capability_encode(const struct capability *cap, const struct signer *signer,
                                     struct buf *out);

struct capability_check {
    struct id128 cluster;
    struct slice worker_uri; /* of the peer's certificate */
    uint64_t now_unix_ms;
    uint64_t key_epoch_min; /* the newest that this node knows */
    const struct sign_public *keys;
    size_t keys_n;
};
/* RC_CORRUPT (malformed), RC_DENIED (no such key, signature, cluster, worker, or expired), RC_STALE
 * (older key epoch). The message says which; it holds ids only. */
MUST_CHECK enum rc capability_verify(struct slice bytes, const struct capability_check *check,
                                     struct capability *ret_cap, struct err *reterr);
bool capability_allows(const struct capability *cap, const struct id128 *body);
/* The form only, no signature checked: for logs and tests. RC_CORRUPT. */
MUST_CHECK enum rc capability_decode(struct slice bytes, struct capability *ret_cap);
