/* gateway/api/gw.h - one gateway: what its services share.
 *
 * Stateless: everything here is a cache or a connection. Calls run in fibers (common/fiber), so
 * state may have changed after each wait; caches are copied into the call's arena before it waits.
 */
#pragma once
#include "common/control/cluster.h"
#include "common/crypto/docseal.h"
#include "common/crypto/keys.h"
#include "common/crypto/sign.h"
#include "common/fiber/rpc_fiber.h"
#include "gateway/ingest/anchor.h"
#include "gateway/ingest/records_core.h"
#include "gateway/route/route.h"
#include "proto/mikura/v1/catalog.pb-c.h"
#include "proto/mikura/v1/common.pb-c.h"
#include <string.h>

#define GW_CALL_MS                30000u /* a call without a deadline gets this */
#define GW_COLLECTION_TTL_MS      5000u  /* a changed grant is seen everywhere within this */
#define GW_COLLECTIONS_CACHED_MAX 256u
#define GW_SCAN_LIMIT             4096u

struct gw_cached;
struct gw_jobs; /* jobs.c */
struct gw_inspector;
struct gw_sealing;
struct manager; /* gateway/manager */
struct gw {
    struct fibers *fs;
    uv_loop_t *loop;
    struct etcd *etcd;
    struct cluster *cluster;
    struct route *route;
    struct tls *tls;
    struct rpc_server *server;
    struct key_master master;
    struct id128 cluster_id, node_id, boot_id;
    char master_fingerprint[65];  /* hex, of the file in use */
    char cluster_fingerprint[65]; /* what the cluster was made with */
    const char *cluster_name, *name;
    uint32_t meta_pool, data_pool;
    struct signer *signer; /* of receipts and capabilities; NULL: not read yet */
    struct list cached;    /* collections */
    uint32_t cached_n;
    struct gw_jobs *jobs;
    struct manager *manager;
    struct gw_inspector *inspector;
    char model_check[512]; /* path of mikura-model-check */
    struct fiber_event sweep, collect;
    uint32_t upload_ttl;    /* ticks that an upload lives without a touch */
    uint32_t collect_grace; /* ticks before a chunk without a session is looked at */
    uint64_t collect_ms;    /* between two looks */
    uint64_t quarantine_ms; /* what is held for longer is deleted; 0: never */
    bool closing;
    struct fiber_sem upload_bytes; /* memory of chunks under way */
    struct gw_sealing *sealing;    /* body.c: a piece that waits for another; or NULL */
};

/* A collection as one call sees it. */
struct gw_collection {
    struct record_collection rec; /* slices in the call's arena */
    uint64_t version;
    struct key key; /* wipe it */
    struct record_anchor anchor;
};
struct gw_case {
    struct record_anchor anchor;
    struct route_at at;
    struct record_head head;
    struct record_case rec;
    uint64_t head_version, rec_version;
    struct key key; /* wipe it */
};
/* Where an owner's rows lie. */
struct route_at gw_at(const struct gw *gw, uint32_t pool, const struct record_anchor *a);
uint64_t gw_left_ms(const struct fcall *c);
struct slice gw_text(const char *s);
struct slice gw_bytes(ProtobufCBinaryData b);
char *gw_dup(struct arena *a, struct slice s);
bool gw_slice_is(struct slice s, const char *text);

/* ---- rights (auth.c) ---- */
/* rpc_gate_fn: role against method; default deny; denials are logged. data = gw. */
enum rc gw_gate(void *data, const struct rpc_method *m, const struct tls_identity *peer,
                struct err *reterr);
enum gw_right { GW_READ, GW_WRITE, GW_ADMIN, GW_SEE };
/* The caller's right in one collection: READ researchers with a grant; WRITE agents of its society;
 * ADMIN operators; SEE any of these. RC_DENIED, logged. */
MUST_CHECK enum rc gw_allowed(struct fcall *c, const struct gw_collection *col, enum gw_right right,
                              struct err *reterr);

/* ---- keys and records (keyring.c) ---- */
/* RC_NOTFOUND names the collection. */
MUST_CHECK enum rc gw_collection(struct gw *gw, const char *name, struct arena *a, uint64_t left_ms,
                                 struct gw_collection *ret, struct err *reterr);
void gw_collection_forget(struct gw *gw, const char *name);
void gw_collections_forget_all(struct gw *gw);
/* Reads head and case record; RC_NOTFOUND when there is no such case and create is false. The key
 * is the one read back as committed. RC_PRECOND: withdrawn. */
MUST_CHECK enum rc gw_case(struct gw *gw, const struct gw_collection *col, const char *case_id,
                           bool create, struct arena *a, uint64_t left_ms, struct gw_case *ret,
                           struct err *reterr);
/* For readers who fetch its rows together with others: where they lie (anchor, at); what HEAD and
 * CASE say. */
MUST_CHECK enum rc gw_case_place(struct gw *gw, const struct gw_collection *col,
                                 const char *case_id, struct gw_case *ret, struct err *reterr);
MUST_CHECK enum rc gw_case_decode(const struct gw_collection *col, const char *case_id,
                                  const Mikura__Internal__V1__Item *head,
                                  const Mikura__Internal__V1__Item *rec, struct gw_case *ret,
                                  struct err *reterr);
/* Likewise, with the CLAIM row of one upload in the same read (version 0 = none). There is no such
 * case: head_version and rec_version are 0, the rest is that of a new one, nowhere stored yet: what
 * is sealed under its key counts only when the entry that stores the key took effect. */
struct gw_row {
    struct slice value; /* in the arena */
    uint64_t version;
};
MUST_CHECK enum rc gw_case_or_new(struct gw *gw, const struct gw_collection *col,
                                  const char *case_id, const struct id128 *claim, struct arena *a,
                                  uint64_t left_ms, struct gw_case *ret, struct gw_row *ret_claim,
                                  struct err *reterr);
void gw_collection_wipe(struct gw_collection *col);
void gw_case_wipe(struct gw_case *cs);
/* Body keys of a case. */
MUST_CHECK enum rc gw_body_wrap(const struct gw_case *cs, const struct id128 *body,
                                const struct key *k, struct arena *a, struct record_wrapped *ret);
MUST_CHECK enum rc gw_body_unwrap(const struct gw_case *cs, const struct record_body *body,
                                  struct key *ret_key, struct err *reterr);
/* The key that signs receipts and capabilities: made by the first gateway, read back. */
MUST_CHECK enum rc gw_signing_open(struct gw *gw, struct err *reterr);

/* Small helpers over route.h. */
struct gw_put {
    struct slice key, value;
};
struct gw_compare {
    Mikura__Internal__V1__CompareKind kind;
    struct slice key;
    uint64_t number;
};
MUST_CHECK enum rc gw_txn(struct gw *gw, struct route_at at, const struct gw_compare *compares,
                          uint32_t compares_n, const struct gw_put *puts, uint32_t puts_n,
                          const struct slice *deletes, uint32_t deletes_n, struct arena *a,
                          uint64_t left_ms, bool *ret_succeeded, uint64_t *ret_version,
                          uint64_t *ret_tick, struct err *reterr);
/* The chunk's bytes, durable, and the transaction after them: one entry of the log for both where
 * they have one group. *chunk: sealed, not on the nodes yet. */
MUST_CHECK enum rc gw_chunk_txn(struct gw *gw, struct route_chunk *chunk, struct route_at at,
                                const struct gw_compare *compares, uint32_t compares_n,
                                const struct gw_put *puts, uint32_t puts_n, struct arena *a,
                                uint64_t left_ms, bool *ret_succeeded, uint64_t *ret_version,
                                uint64_t *ret_tick, struct err *reterr);
/* A record's bytes into the arena: GW_ENCODE(&c->arena, head, &head, &slice, reterr). RC_INVAL,
 * RC_NOMEM. */
#define GW_ENCODE(arena, name, rec, ret_slice, reterr)                                             \
    gw_keep((arena), record_##name##_encode((rec), gw_scratch(), (reterr)), (ret_slice))
struct record_out *gw_scratch(void); /* emptied; undefined after the next wait */
enum rc gw_keep(struct arena *a, enum rc rc, struct slice *ret);

/* Chunks of deleted bodies and aborted uploads are dropped in the background (objects_delete.c). */
void gw_sweep_wake(struct gw *gw);
void gw_sweep_run(void *gw); /* a fiber; ends when gw->closing and woken */
/* What expired and what died uploads left is given back (collect.c). */
void gw_collect_run(void *gw); /* likewise */

/* ---- services: arrays of fcall_method ended by a zero path ---- */
extern const struct fcall_method gw_catalog_methods[], gw_object_methods[], gw_model_methods[],
    gw_job_methods[], gw_admin_methods[], gw_work_methods[];
