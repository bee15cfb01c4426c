/* gateway/route/route_priv.h - connections to storage nodes, and one attempt's target. */
#pragma once
#include "gateway/route/route.h"

#define ROUTE_ATTEMPT_MS   4000u /* then another look at the map */
#define ROUTE_PAUSE_MS     50u   /* between attempts when nothing changed, doubles up to ... */
#define ROUTE_PAUSE_MS_MAX 400u  /* ... a write may have to wait so long after a take-over */
#define ROUTE_GROUP_INFLIGHT_MAX                                                                   \
    512u /* below the 1,024 outcomes that a group remembers a client                               \
          */

struct route_node {
    struct list link;
    char name[64], address[128];
    struct id128 id;
    struct rpc_channel *rpc;
    struct bulk_conn *bulk; /* NULL: not dialled */
    bool bulk_up, closing;
    uint32_t handles;
    struct fiber_cond changed;
    struct route *route;
};
struct route_group { /* sequence numbers of our requests to one group */
    struct list link;
    uint32_t pool, bits;
    uint64_t prefix;
    uint64_t next_sequence;
    struct fiber_sem inflight;
};
struct route {
    struct route_conf conf;
    struct list nodes, groups;
    struct fiber_cond changed;
    struct id128 client; /* of this process */
    uint32_t rotor;      /* spreads reads */
};
/* One request's tries. */
struct route_try {
    struct route *r;
    struct route_at at;
    uint64_t deadline_ms; /* uv_now scale */
    uint32_t pause_ms, attempts;
    int64_t tried_revision; /* of the group's record in the last attempt; 0: none yet */
};

void route_try_init(struct route_try *t, struct route *r, struct route_at at, uint64_t left_ms);
uint64_t route_left_ms(const struct route_try *t);
/* The group as the map has it now, its primary's connection. Waits for one. RC_DEADLINE says what
 * is missing. */
enum rc route_primary(struct route_try *t, struct route_node **ret_node,
                      const struct cluster_group **ret_group, struct err *reterr);
/* A node that is not let in, or whose certificate has ended, is a node that is away: the caller's
 * own certificate is another matter. */
MUST_CHECK enum rc route_node_rc(enum rc rc, struct err *e);
/* After a failed attempt: true = try again (it has waited). */
bool route_again(struct route_try *t, enum rc rc, const struct funary_info *info);
enum rc route_node_of(struct route *r, const struct cluster_node *n, struct route_node **ret_node,
                      struct err *reterr);
/* An open bulk connection, dialled if need be. */
enum rc route_bulk(struct route_node *n, uint64_t left_ms, struct bulk_conn **ret_conn,
                   struct err *reterr);
void route_group_ref(const struct cluster_group *g, uint64_t hash,
                     Mikura__Internal__V1__GroupRef *ret);
struct route_group *route_group_of(struct route *r, const struct cluster_group *g);
/* Of a request that takes effect once whatever is repeated. */
void route_key_init(struct route *r, Mikura__Internal__V1__RequestKey *key);
/* Its sequence number; may wait for room in the group's window. Give *ret_rg back when the outcome
 * is known. RC_NOMEM. */
MUST_CHECK enum rc route_key_take(struct route *r, const struct cluster_group *g,
                                  Mikura__Internal__V1__RequestKey *key,
                                  struct route_group **ret_rg, struct err *reterr);
void route_key_give(struct route_group *rg); /* NULL: nothing */
/* As route_txn, under req->request, which may have been used already. */
MUST_CHECK enum rc route_txn_keyed(struct route *r, struct route_at at,
                                   Mikura__Internal__V1__TxnRequest *req, uint64_t left_ms,
                                   struct arena *arena,
                                   Mikura__Internal__V1__TxnResponse **ret_answer,
                                   struct err *reterr);
enum rc route_chunk_add(struct route *r, struct route_at at,
                        Mikura__Internal__V1__ChunkAddRequest *req, uint64_t left_ms,
                        struct id128 *ret_won, struct err *reterr);
