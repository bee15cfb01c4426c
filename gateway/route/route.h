/* gateway/route/route.h - the storage nodes as a gateway sees them: which group, which node, and
 * again.
 *
 * Every call belongs to a fiber and returns when it has an answer or at its deadline. A change of
 * primary, a lost connection or a node that is not ready is waited out here and the same request is
 * sent again: requests carry a key (client, sequence) whose outcome the group remembers, so a
 * repetition has no second effect. Errors that come back are the request's own. */
#pragma once
#include "common/control/cluster.h"
#include "common/crypto/seal.h"
#include "common/fiber/rpc_fiber.h"
#include "common/net/bulk.h"
#include "proto/mikura/internal/v1/store.pb-c.h"

#define ROUTE_REPLICAS_MAX PLACEMENT_COPIES_MAX

struct route;
struct route_conf {
    struct fibers *fs;
    struct cluster *cluster;
    struct tls *tls;
    struct bulk_hello self;
};
/* Where: a pool and any hash of the group's range. */
struct route_at {
    uint32_t pool;
    uint64_t hash;
};

MUST_CHECK enum rc route_open(const struct route_conf *conf, struct route **ret_route);
void route_close(struct route *r);   /* from a fiber; no call may be running */
void route_changed(struct route *r); /* the cluster's map has changed: who waits looks again */

/* left_ms: time this may take. group and request of the message are filled in here; answers are
 * unpacked into the arena. RC_UNAVAIL or RC_DEADLINE: the outcome may be unknown. */
MUST_CHECK enum rc route_txn(struct route *r, struct route_at at,
                             Mikura__Internal__V1__TxnRequest *req, uint64_t left_ms,
                             struct arena *arena, Mikura__Internal__V1__TxnResponse **ret_answer,
                             struct err *reterr);
MUST_CHECK enum rc route_get(struct route *r, struct route_at at, const struct slice *keys,
                             uint32_t keys_n, uint64_t left_ms, struct arena *arena,
                             Mikura__Internal__V1__GetResponse **ret_answer, struct err *reterr);
/* Likewise, and behind them for each prefix the first row whose key begins so. */
MUST_CHECK enum rc route_get_first(struct route *r, struct route_at at, const struct slice *keys,
                                   uint32_t keys_n, const struct slice *prefixes,
                                   uint32_t prefixes_n, uint64_t left_ms, struct arena *arena,
                                   Mikura__Internal__V1__GetResponse **ret_answer,
                                   struct err *reterr);
/* Items of [from, until) in order, one snapshot. each returns RC_OK to go on; RC_RANGE ends the
 * scan well. A failure in the middle is not repeated: each has seen a part. */
typedef enum rc (*route_item_fn)(void *arg, const Mikura__Internal__V1__Item *item);
MUST_CHECK enum rc route_scan(struct route *r, struct route_at at, struct slice from,
                              struct slice until, uint32_t limit, uint64_t left_ms,
                              route_item_fn each, void *arg, struct err *reterr);

/* A transaction that goes with a chunk: one entry of the log for both where one group has both
 * (route_one_group), else one after the other. */
struct route_with {
    struct route_at at;
    Mikura__Internal__V1__TxnRequest *req; /* as for route_txn */
    struct arena *arena;
    Mikura__Internal__V1__TxnResponse *answer; /* out */
};
/* Are both in the same placement group, as the map has it now? */
bool route_one_group(const struct route *r, struct route_at a, struct route_at b);

/* One sealed chunk: its bytes along the group's replicas, durable, then the log entry that makes it
 * exist. */
struct route_chunk {
    struct route_at at;
    struct seal_ident ident;
    const uint8_t (*tags)[SEAL_TAG_BYTES]; /* seal_blocks(ident.plain_bytes) */
    uint8_t plain_digest[32];              /* keyed */
    uint64_t owner_hash;
    struct id128 upload_id;
    struct bulk_buf *cipher; /* plain_bytes at 0; borrowed */
    struct route_with *with; /* NULL: the chunk alone */
    bool bytes_only;         /* tests: no ChunkAdd, as if its gateway had died before it */
    struct id128 won;        /* out: seal id of the chunk that exists now */
};
/* RC_EXISTS: other plaintext is there under this identity. RC_PRECOND: it was dropped. With a
 * transaction: RC_OK is its, the chunk exists then; other rcs are the chunk's or its. */
MUST_CHECK enum rc route_chunk_put(struct route *r, struct route_chunk *c, uint64_t left_ms,
                                   struct err *reterr);
/* Leaves a tombstone; OK when it is dropped already. */
MUST_CHECK enum rc route_chunk_drop(struct route *r, struct route_at at, const struct id128 *body,
                                    uint32_t index, uint64_t left_ms, struct err *reterr);

/* Chunks there are (not dropped) whose entry lies in (above, upto], by key behind `after` (empty:
 * from the first); one page, at most limit of them. */
MUST_CHECK enum rc route_chunk_list(struct route *r, struct route_at at, struct slice after,
                                    uint64_t above, uint64_t upto, uint32_t limit, uint64_t left_ms,
                                    struct arena *arena,
                                    Mikura__Internal__V1__ChunkListResponse **ret_answer,
                                    struct err *reterr);

/* Ciphertext of blocks of one chunk, from any in-sync replica; the caller opens it (a tag that does
 * not fit: route_chunk_bad, then read again: another replica is taken). */
struct route_read {
    struct route_at at;
    struct id128 body;
    uint32_t index;
    uint32_t first_block, blocks; /* blocks 0 = to the end */
    uint32_t tried;               /* replicas already found bad, bit by position */
    /* out */
    struct bulk_buf *cipher; /* unref it */
    uint32_t cipher_n;
    struct id128 seal_id;
    uint32_t plain_bytes;            /* of the whole chunk */
    uint8_t (*tags)[SEAL_TAG_BYTES]; /* in the arena */
    uint32_t tags_n;
    uint32_t replica;
};
MUST_CHECK enum rc route_chunk_read(struct route *r, struct route_read *rd, uint64_t left_ms,
                                    struct arena *arena, struct err *reterr);
void route_chunk_bad(struct route *r, struct route_read *rd);

/* Addresses of a group's in-sync replicas, those nearest to (zone, rack, host) first; for workers.
 */
uint32_t route_replicas(struct route *r, struct route_at at, const char *zone, const char *rack,
                        const char *host, struct arena *arena,
                        char *ret_address[ROUTE_REPLICAS_MAX]);
/* What one node keeps, a page behind `after`. */
MUST_CHECK enum rc route_persisted(struct route *r, const struct cluster_node *n,
                                   struct slice after, uint64_t left_ms, struct arena *arena,
                                   Mikura__Internal__V1__PersistedResponse **ret_answer,
                                   struct err *reterr);
/* NodeStatus of one node. */
MUST_CHECK enum rc route_node_status(struct route *r, const struct cluster_node *n,
                                     uint64_t left_ms, struct arena *arena,
                                     Mikura__Internal__V1__NodeStatusResponse **ret_answer,
                                     struct err *reterr);
