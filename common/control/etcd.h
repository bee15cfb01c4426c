/* common/control/etcd.h - etcd v3 client: KV, Txn, Lease, Watch over common/net/rpc.h.
 *
 * Endpoints are tried in turn. Safety rests on Txn with compare only: a Range may be stale
 * (defects of 3.4: README.md). Every answer carries cluster_id and revision; a lower
 * revision or another cluster_id is a new world and is reported by on_world. Requests end exactly
 * once; RC_UNAVAIL and RC_DEADLINE of a put or txn mean an unknown outcome. */
#pragma once
#include "common/net/rpc.h"

#define ETCD_OPS_MAX 128u

struct etcd;
struct etcd_conf {
    uv_loop_t *loop;
    const char *endpoints;                       /* "host:port,host:port" */
    struct tls *tls;                             /* NULL: plaintext, tests only */
    uint32_t timeout_ms;                         /* a request; 0 = 7,000 */
    void (*on_world)(void *data, struct err *e); /* optional */
    void *data;
};
MUST_CHECK enum rc etcd_open(const struct etcd_conf *conf, struct etcd **ret_etcd,
                             struct err *reterr);
void etcd_close(struct etcd *e, void (*cb)(void *data), void *data);

uv_loop_t *etcd_loop(const struct etcd *e);

struct etcd_kv {
    struct slice key, value;
    int64_t create_revision, mod_revision, version, lease;
};
enum etcd_compare_kind { ETCD_MOD_EQ, ETCD_CREATE_EQ, ETCD_VALUE_EQ, ETCD_VERSION_EQ };
struct etcd_compare {
    enum etcd_compare_kind kind;
    struct slice key, value; /* value: ETCD_VALUE_EQ */
    int64_t number;          /* 0 with MOD/CREATE/VERSION = absent */
};
enum etcd_op_kind { ETCD_PUT, ETCD_DELETE, ETCD_GET };
struct etcd_op {
    enum etcd_op_kind kind;
    struct slice key, value;
    struct slice range_end; /* empty: the key alone */
    int64_t lease;          /* put; 0 = none */
};
struct etcd_answer { /* borrowed in the callback */
    uint64_t cluster_id;
    int64_t revision;
    bool succeeded;            /* txn */
    const struct etcd_kv *kvs; /* of all ETCD_GET ops, in order */
    uint32_t kvs_n;
    bool more;
};
struct etcd_request;
typedef void (*etcd_cb)(struct etcd_request *r, enum rc rc, const struct etcd_answer *a);
struct etcd_request { /* caller's memory, until cb */
    void *data;
    struct err err;
    struct etcd_request_priv {
        struct etcd *etcd;
        etcd_cb cb;
        struct rpc_unary rpc;
        void *more;
    } priv;
};
/* A linearizable read of [key, range_end); prefix reads: etcd_prefix_end. Pages of limit (0 = all).
 */
MUST_CHECK enum rc etcd_get(struct etcd *e, struct etcd_request *r, struct slice key,
                            struct slice range_end, uint32_t limit, etcd_cb cb);
struct etcd_txn {
    const struct etcd_compare *compares;
    const struct etcd_op *then, *otherwise;
    uint32_t compares_n, then_n, otherwise_n; /* each at most ETCD_OPS_MAX */
};
/* Copies what it needs. RC_INVAL: too many operations, a key twice. */
MUST_CHECK enum rc etcd_txn(struct etcd *e, struct etcd_request *r, const struct etcd_txn *t,
                            etcd_cb cb);
/* prefix with its last byte + 1; out holds prefix.n bytes; returns its length. */
size_t etcd_prefix_end(struct slice prefix, uint8_t *out);

/* A lease that is kept alive; on_lost fires when it is gone or its time ran out by our own clock,
 * counted from before the sending of the last renewal that was answered. */
struct etcd_lease;
MUST_CHECK enum rc etcd_lease_open(struct etcd *e, uint32_t ttl_s,
                                   void (*on_ready)(void *data, int64_t id),
                                   void (*on_lost)(void *data), void *data,
                                   struct etcd_lease **ret_lease);
void etcd_lease_close(struct etcd_lease *l, bool revoke);

/* A mirror of one prefix: Range, then Watch from revision + 1, re-read every 30 s and after any
 * doubt; events older than what was applied are dropped. on_change: kv->mod_revision 0 = deleted.
 * on_synced: after each whole read. */
struct etcd_mirror;
struct etcd_mirror_ops {
    void (*on_change)(void *data, const struct etcd_kv *kv);
    void (*on_synced)(void *data, int64_t revision);
    void (*on_doubt)(void *data,
                     const struct err *e); /* the connection is lost; state may be old */
};
MUST_CHECK enum rc etcd_mirror_open(struct etcd *e, const char *prefix,
                                    const struct etcd_mirror_ops *ops, void *data,
                                    struct etcd_mirror **ret_mirror);
void etcd_mirror_close(struct etcd_mirror *m);

/* Election: key = prefix + hex(lease id); won only after a Txn verified it. fence = the
 * create_revision and key that every leader's write compares. */
struct etcd_election;
MUST_CHECK enum rc
etcd_election_open(struct etcd *e, const char *prefix, const char *value,
                   void (*on_won)(void *data, struct slice key, int64_t create_revision),
                   void (*on_lost)(void *data), void *data, struct etcd_election **ret_election);
void etcd_election_close(struct etcd_election *el);
