/* gateway/route/route_meta.c - transactions, reads and scans at a group's primary. */
#include "gateway/route/route_priv.h"
#include <string.h>

/* One attempt's timeout: short enough to notice a dead node, never past the caller's. */
static uint32_t attempt_ms(const struct route_try *t)
{
    return (uint32_t)MAX(MIN(route_left_ms(t), ROUTE_ATTEMPT_MS), 1);
}

enum rc route_key_take(struct route *r, const struct cluster_group *g,
                       Mikura__Internal__V1__RequestKey *key, struct route_group **ret_rg,
                       struct err *reterr)
{
    struct route_group *rg = route_group_of(r, g);

    if (rg == NULL) return err_set(reterr, RC_NOMEM, "routing state of a group");
    fiber_sem_take(&rg->inflight, 1);
    key->sequence = rg->next_sequence++;
    *ret_rg = rg;
    return RC_OK;
}

void route_key_give(struct route_group *rg)
{
    if (rg != NULL) fiber_sem_give(&rg->inflight, 1);
}

/* Sends m to the primary until it has an outcome. ref is m's group field. key: NULL, or one without
 * a sequence yet, or one that was taken. */
static enum rc call(struct route_try *t, const char *path, const ProtobufCMessage *m,
                    Mikura__Internal__V1__GroupRef *ref, Mikura__Internal__V1__RequestKey *key,
                    const ProtobufCMessageDescriptor *desc, struct arena *arena, void *ret_answer,
                    struct err *reterr)
{
    bool keyed = key == NULL || key->sequence != 0;
    struct route_group *rg = NULL;
    struct funary_info info;
    struct err err = {0};
    enum rc rc;

    for (;;) {
        const struct cluster_group *g;
        struct rpc_request_conf conf = {
            .path = path, .message_bytes_max = 4u << 20, .fail_fast = true};
        struct route_node *n;

        rc = route_primary(t, &n, &g, &err);
        if (rc != RC_OK) break;
        if (!keyed) {
            rc = route_key_take(t->r, g, key, &rg, &err);
            if (rc != RC_OK) break;
            keyed = true;
            continue; /* it may have waited: look at the map again */
        }
        route_group_ref(g, t->at.hash, ref);
        conf.timeout_ms = attempt_ms(t);
        rc = funary(n->rpc, &conf, m, desc, &arena->pb, ret_answer, &info, &err);
        rc = route_node_rc(rc, &err);
        if (rc == RC_OK || !route_again(t, rc, &info)) break;
    }
    route_key_give(rg);
    if (rc != RC_OK && reterr != NULL) *reterr = err;
    return rc;
}

void route_key_init(struct route *r, Mikura__Internal__V1__RequestKey *key)
{
    mikura__internal__v1__request_key__init(key);
    key->client_id.data = r->client.b;
    key->client_id.len = sizeof r->client.b;
}

enum rc route_txn_keyed(struct route *r, struct route_at at, Mikura__Internal__V1__TxnRequest *req,
                        uint64_t left_ms, struct arena *arena,
                        Mikura__Internal__V1__TxnResponse **ret_answer, struct err *reterr)
{
    Mikura__Internal__V1__GroupRef ref = MIKURA__INTERNAL__V1__GROUP_REF__INIT;
    struct route_try t;

    req->group = &ref;
    route_try_init(&t, r, at, left_ms);
    return call(&t, "/mikura.internal.v1.Store/Txn", &req->base, &ref, req->request,
                &mikura__internal__v1__txn_response__descriptor, arena, ret_answer, reterr);
}

enum rc route_txn(struct route *r, struct route_at at, Mikura__Internal__V1__TxnRequest *req,
                  uint64_t left_ms, struct arena *arena,
                  Mikura__Internal__V1__TxnResponse **ret_answer, struct err *reterr)
{
    Mikura__Internal__V1__RequestKey key;

    route_key_init(r, &key);
    req->request = &key;
    return route_txn_keyed(r, at, req, left_ms, arena, ret_answer, reterr);
}

static ProtobufCBinaryData *key_list(struct arena *arena, const struct slice *keys, uint32_t n)
{
    ProtobufCBinaryData *k = arena_alloc(arena, n * sizeof *k);

    for (uint32_t i = 0; i < n && k != NULL; i++) {
        k[i].data = (uint8_t *)(uintptr_t)keys[i].p; /* protobuf-c knows no const; it only reads */
        k[i].len = keys[i].n;
    }
    return k;
}

enum rc route_get_first(struct route *r, struct route_at at, const struct slice *keys,
                        uint32_t keys_n, const struct slice *prefixes, uint32_t prefixes_n,
                        uint64_t left_ms, struct arena *arena,
                        Mikura__Internal__V1__GetResponse **ret_answer, struct err *reterr)
{
    Mikura__Internal__V1__GetRequest req = MIKURA__INTERNAL__V1__GET_REQUEST__INIT;
    Mikura__Internal__V1__GroupRef ref = MIKURA__INTERNAL__V1__GROUP_REF__INIT;
    struct route_try t;
    enum rc rc;

    req.keys = key_list(arena, keys, keys_n);
    req.prefixes = key_list(arena, prefixes, prefixes_n);
    if (req.keys == NULL || req.prefixes == NULL)
        return err_set(reterr, RC_NOMEM, "a read of %u keys", keys_n + prefixes_n);
    req.group = &ref;
    req.n_keys = keys_n;
    req.n_prefixes = prefixes_n;
    route_try_init(&t, r, at, left_ms);
    rc = call(&t, "/mikura.internal.v1.Store/Get", &req.base, &ref, NULL,
              &mikura__internal__v1__get_response__descriptor, arena, ret_answer, reterr);
    if (rc == RC_OK && (*ret_answer)->n_items != (size_t)keys_n + prefixes_n) {
        return err_set(reterr, RC_INTERNAL, "asked for %u keys, got %zu", keys_n + prefixes_n,
                       (*ret_answer)->n_items);
    }
    return rc;
}

enum rc route_get(struct route *r, struct route_at at, const struct slice *keys, uint32_t keys_n,
                  uint64_t left_ms, struct arena *arena,
                  Mikura__Internal__V1__GetResponse **ret_answer, struct err *reterr)
{
    return route_get_first(r, at, keys, keys_n, NULL, 0, left_ms, arena, ret_answer, reterr);
}

/* One attempt of a scan. *seen: something was handed out, so it can't be begun again. */
static enum rc scan_once(struct route_node *n, const Mikura__Internal__V1__ScanRequest *req,
                         const struct rpc_request_conf *conf, route_item_fn each, void *arg,
                         bool *seen, struct err *reterr)
{
    struct fstream *s;
    struct rpc_msg *m;
    enum rc rc = fstream_open(n->rpc, conf, &s);

    if (rc != RC_OK) return err_set(reterr, rc, "a scan at storaged '%s'", n->name);
    rc = fstream_send(s, &req->base);
    fstream_half_close(s);
    for (;;) {
        Mikura__Internal__V1__ScanResponse *part;
        enum rc item_rc = RC_OK;

        rc = fstream_recv(s, &m, reterr);
        if (rc == RC_RANGE) {
            rc = RC_OK;
            break;
        }
        if (rc != RC_OK) break;
        part = mikura__internal__v1__scan_response__unpack(NULL, m->n, m->p);
        fstream_release(s, m);
        if (part == NULL) {
            rc = err_set(reterr, RC_INTERNAL, "a scan's answer does not decode");
            break;
        }
        for (size_t i = 0; i < part->n_items && item_rc == RC_OK; i++) {
            *seen = true;
            item_rc = each(arg, part->items[i]);
        }
        mikura__internal__v1__scan_response__free_unpacked(part, NULL);
        if (item_rc != RC_OK) {
            rc = item_rc == RC_RANGE ? RC_OK : item_rc;
            /* what the callback said stays, where it speaks through the same reterr */
            if (rc != RC_OK && (reterr->rc != rc || reterr->msg[0] == 0))
                (void)err_set(reterr, rc, "%s", rc_text(rc));
            break;
        }
    }
    fstream_close(s);
    return rc;
}

enum rc route_scan(struct route *r, struct route_at at, struct slice from, struct slice until,
                   uint32_t limit, uint64_t left_ms, route_item_fn each, void *arg,
                   struct err *reterr)
{
    Mikura__Internal__V1__ScanRequest req = MIKURA__INTERNAL__V1__SCAN_REQUEST__INIT;
    Mikura__Internal__V1__GroupRef ref = MIKURA__INTERNAL__V1__GROUP_REF__INIT;
    struct rpc_request_conf conf = {
        .path = "/mikura.internal.v1.Store/Scan", .message_bytes_max = 4u << 20, .fail_fast = true};
    struct route_try t;
    bool seen = false;
    enum rc rc;

    req.group = &ref;
    req.from.data = (uint8_t *)(uintptr_t)from.p;
    req.from.len = from.n;
    req.until.data = (uint8_t *)(uintptr_t)until.p;
    req.until.len = until.n;
    req.limit = limit;
    route_try_init(&t, r, at, left_ms);
    for (;;) {
        const struct cluster_group *g;
        struct funary_info info = {
            .epoch = "?"}; /* a scan's FAILED_PRECONDITION is always the group's */
        struct route_node *n;

        rc = route_primary(&t, &n, &g, reterr);
        if (rc != RC_OK) return rc;
        route_group_ref(g, at.hash, &ref);
        conf.timeout_ms = (uint32_t)MAX(route_left_ms(&t), 1);
        rc = route_node_rc(scan_once(n, &req, &conf, each, arg, &seen, reterr), reterr);
        if (rc == RC_OK || seen || !route_again(&t, rc, &info)) return rc;
    }
}

enum rc route_chunk_drop(struct route *r, struct route_at at, const struct id128 *body,
                         uint32_t index, uint64_t left_ms, struct err *reterr)
{
    Mikura__Internal__V1__ChunkAddRequest req = MIKURA__INTERNAL__V1__CHUNK_ADD_REQUEST__INIT;
    Mikura__Internal__V1__ChunkRef ref = MIKURA__INTERNAL__V1__CHUNK_REF__INIT;
    struct id128 b = *body;

    ref.body.data = b.b;
    ref.body.len = 16;
    ref.index = index;
    req.chunk = &ref;
    req.drop = true;
    return route_chunk_add(r, at, &req, left_ms, NULL, reterr);
}

enum rc route_chunk_add(struct route *r, struct route_at at,
                        Mikura__Internal__V1__ChunkAddRequest *req, uint64_t left_ms,
                        struct id128 *ret_won, struct err *reterr)
{
    Mikura__Internal__V1__GroupRef ref = MIKURA__INTERNAL__V1__GROUP_REF__INIT;
    Mikura__Internal__V1__RequestKey key;
    Mikura__Internal__V1__ChunkAddResponse *answer;
    struct arena arena;
    struct route_try t;
    enum rc rc;

    arena_init(&arena);
    route_key_init(r, &key);
    req->group = &ref;
    req->request = &key;
    route_try_init(&t, r, at, left_ms);
    rc = call(&t, "/mikura.internal.v1.Store/ChunkAdd", &req->base, &ref, &key,
              &mikura__internal__v1__chunk_add_response__descriptor, &arena, &answer, reterr);
    if (rc == RC_OK && ret_won != NULL &&
        !id128_from_bytes(answer->seal_id.data, answer->seal_id.len, ret_won)) {
        rc = err_set(reterr, RC_INTERNAL, "ChunkAdd answered without a seal id");
    }
    arena_deinit(&arena);
    return rc;
}

enum rc route_chunk_list(struct route *r, struct route_at at, struct slice after, uint64_t above,
                         uint64_t upto, uint32_t limit, uint64_t left_ms, struct arena *arena,
                         Mikura__Internal__V1__ChunkListResponse **ret_answer, struct err *reterr)
{
    Mikura__Internal__V1__ChunkListRequest req = MIKURA__INTERNAL__V1__CHUNK_LIST_REQUEST__INIT;
    Mikura__Internal__V1__GroupRef ref = MIKURA__INTERNAL__V1__GROUP_REF__INIT;
    struct route_try t;

    req.group = &ref;
    req.after = (ProtobufCBinaryData){after.n, (uint8_t *)(uintptr_t)after.p};
    req.above = above;
    req.upto = upto;
    req.limit = limit;
    route_try_init(&t, r, at, left_ms);
    return call(&t, "/mikura.internal.v1.Store/ChunkList", &req.base, &ref, NULL,
                &mikura__internal__v1__chunk_list_response__descriptor, arena, ret_answer, reterr);
}

enum rc route_node_status(struct route *r, const struct cluster_node *cn, uint64_t left_ms,
                          struct arena *arena,
                          Mikura__Internal__V1__NodeStatusResponse **ret_answer, struct err *reterr)
{
    Mikura__Internal__V1__NodeStatusRequest req = MIKURA__INTERNAL__V1__NODE_STATUS_REQUEST__INIT;
    struct rpc_request_conf conf = {.path = "/mikura.internal.v1.Store/NodeStatus",
                                    .timeout_ms = (uint32_t)left_ms};
    struct route_node *n;
    enum rc rc = route_node_of(r, cn, &n, reterr);

    if (rc != RC_OK) return rc;
    rc = funary(n->rpc, &conf, &req.base, &mikura__internal__v1__node_status_response__descriptor,
                &arena->pb, ret_answer, NULL, reterr);
    return route_node_rc(rc, reterr);
}

enum rc route_persisted(struct route *r, const struct cluster_node *cn, struct slice after,
                        uint64_t left_ms, struct arena *arena,
                        Mikura__Internal__V1__PersistedResponse **ret_answer, struct err *reterr)
{
    Mikura__Internal__V1__PersistedRequest req = MIKURA__INTERNAL__V1__PERSISTED_REQUEST__INIT;
    struct rpc_request_conf conf = {.path = "/mikura.internal.v1.Store/Persisted",
                                    .timeout_ms = (uint32_t)left_ms,
                                    .message_bytes_max = 4u << 20};
    struct route_node *n;
    enum rc rc = route_node_of(r, cn, &n, reterr);

    if (rc != RC_OK) return rc;
    req.after = (ProtobufCBinaryData){after.n, (uint8_t *)(uintptr_t)after.p};
    rc = funary(n->rpc, &conf, &req.base, &mikura__internal__v1__persisted_response__descriptor,
                &arena->pb, ret_answer, NULL, reterr);
    return route_node_rc(rc, reterr);
}
