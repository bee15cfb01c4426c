/* common/control/etcd.c - requests: ranges and transactions.
 *
 * Each request is a fiber, so callbacks never fire inside the call that started them. RC_UNAVAIL
 * and RC_DEADLINE of a transaction that may have reached a member are an unknown outcome and are
 * never retried here; what certainly was not executed goes to the next endpoint. */
#include "common/control/etcd_priv.h"
#include "common/base/log.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool add_endpoint(struct etcd *e, char *text, struct err *reterr, enum rc *ret_rc)
{
    char *colon = strrchr(text, ':'), *end;
    struct rpc_channel_conf c = {
        .loop = e->conf.loop, .tls = e->conf.tls, .plain_server_ok = true, .connect_ms = 2000};
    unsigned long port = colon == NULL ? 0 : strtoul(colon + 1, &end, 10);

    if (colon == NULL || colon == text || port == 0 || port > 65535 || *end != 0) {
        *ret_rc = err_set(reterr, RC_INVAL, "etcd endpoint '%s': expected HOST:PORT", text);
        return false;
    }
    if (e->channels_n == ETCD_ENDPOINTS_MAX) {
        *ret_rc = err_set(reterr, RC_INVAL, "more than %u etcd endpoints", ETCD_ENDPOINTS_MAX);
        return false;
    }
    *colon = 0;
    c.host = text;
    c.port = (uint16_t)port;
    *ret_rc = rpc_channel_new(&c, &e->channels[e->channels_n], reterr);
    if (*ret_rc != RC_OK) return false;
    e->channels_n++;
    return true;
}

static void close_run(void *arg);

enum rc etcd_open(const struct etcd_conf *conf, struct etcd **ret_etcd, struct err *reterr)
{
    struct etcd *e = calloc(1, sizeof *e);
    char *list = strdup(conf->endpoints), *at = list;
    enum rc rc = RC_OK;

    if (e == NULL || list == NULL || fibers_open(conf->loop, &e->fs) != RC_OK) {
        free(e);
        free(list);
        return err_set(reterr, RC_NOMEM, "an etcd client");
    }
    e->conf = *conf;
    if (e->conf.timeout_ms == 0) e->conf.timeout_ms = 7000;
    fiber_cond_init(&e->changed);
    while (at != NULL && rc == RC_OK) {
        char *comma = strchr(at, ',');

        if (comma != NULL) *comma = 0;
        if (!add_endpoint(e, at, reterr, &rc)) break;
        at = comma == NULL ? NULL : comma + 1;
    }
    free(list);
    if (rc != RC_OK) {
        e->closing = true;
        if (fiber_spawn(e->fs, close_run, e) != RC_OK)
            log_error("etcd_leak", "out of memory while closing");
        return rc;
    }
    *ret_etcd = e;
    return RC_OK;
}

static void channel_closed(void *data)
{
    struct etcd *e = data;

    e->open_channels--;
    fiber_cond_broadcast(&e->changed);
}

static void free_later(uv_handle_t *h)
{
    struct etcd *e = h->data;
    void (*cb)(void *data) = e->closed;
    void *data = e->closed_data;

    free(h);
    free(e);
    if (cb != NULL) cb(data);
}

static void reap(uv_timer_t *t)
{
    struct etcd *e = t->data;

    if (fibers_running(e->fs) > 0) return; /* the closing fiber itself has not returned */
    fibers_close(e->fs);
    (void)uv_timer_stop(t);
    uv_close((uv_handle_t *)t, free_later);
}

static void close_run(void *arg)
{
    struct etcd *e = arg;
    uv_timer_t *t = calloc(1, sizeof *t);

    while (e->users > 0)
        fiber_cond_wait(&e->changed);
    e->open_channels = e->channels_n;
    for (uint32_t i = 0; i < e->channels_n; i++)
        rpc_channel_close(e->channels[i], channel_closed, e);
    while (e->open_channels > 0)
        fiber_cond_wait(&e->changed);
    if (t == NULL) return; /* UNTESTED: the struct is leaked when there is no memory for a timer */
    t->data = e;
    (void)uv_timer_init(e->conf.loop, t); /* can't fail */
    (void)uv_timer_start(t, reap, 0, 1);
}

void etcd_close(struct etcd *e, void (*cb)(void *data), void *data)
{
    e->closing = true;
    e->closed = cb;
    e->closed_data = data;
    fiber_cond_broadcast(&e->changed);
    if (fiber_spawn(e->fs, close_run, e) != RC_OK)
        log_error("etcd_leak", "out of memory while closing");
}

uv_loop_t *etcd_loop(const struct etcd *e)
{
    return e->conf.loop;
}

void etcd_user(struct etcd *e, int delta)
{
    e->users = (uint32_t)((int)e->users + delta);
    if (delta < 0) fiber_cond_broadcast(&e->changed);
}

void etcd_pause(struct etcd *e, uint64_t ms)
{
    if (!e->closing)
        (void)!fiber_cond_wait_ms(&e->changed, ms); /* woken or not, the caller looks again */
}

ProtobufCBinaryData etcd_pb(struct slice s)
{
    return (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)s.p, .len = s.n};
}

struct slice etcd_slice(ProtobufCBinaryData b)
{
    return (struct slice){b.data, b.len};
}

void etcd_next(struct etcd *e)
{
    e->current = (e->current + 1) % e->channels_n;
}

bool etcd_header(struct etcd *e, const Etcdserverpb__ResponseHeader *h)
{
    struct err err;

    if (h == NULL || h->cluster_id == 0) return true;
    if (e->cluster_id == 0) e->cluster_id = h->cluster_id;
    if (h->cluster_id != e->cluster_id) {
        (void)err_set(&err, RC_STALE,
                      "etcd answers as another cluster (%llx, was %llx): was it wiped?",
                      (unsigned long long)h->cluster_id, (unsigned long long)e->cluster_id);
        e->cluster_id = h->cluster_id;
        e->revision = h->revision;
        log_error("etcd_world", "%s", err.msg);
        if (e->conf.on_world != NULL) e->conf.on_world(e->conf.data, &err);
        return false;
    }
    if (h->revision > e->revision) e->revision = h->revision;
    return true;
}

enum rc etcd_call(struct etcd *e, const char *path, const ProtobufCMessage *m,
                  const ProtobufCMessageDescriptor *desc, struct arena *a, void *ret,
                  struct err *reterr)
{
    struct rpc_request_conf conf = {
        .path = path, .timeout_ms = e->conf.timeout_ms, .message_bytes_max = 4u << 20};
    enum rc rc = RC_UNAVAIL;

    for (uint32_t i = 0; i < e->channels_n; i++) {
        struct funary_info info;

        rc = funary(e->channels[e->current], &conf, m, desc, &a->pb, ret, &info, reterr);
        if (rc == RC_OK || (rc != RC_UNAVAIL && rc != RC_DEADLINE && rc != RC_IO)) return rc;
        etcd_next(e); /* for the next one, in any case */
        if (!info.never_sent) break;
    }
    if (reterr != NULL) (void)err_prefix(reterr, "etcd (%s)", e->conf.endpoints);
    return rc;
}

static void kv_out(const Mvccpb__KeyValue *kv, struct etcd_kv *to)
{
    *to = (struct etcd_kv){.key = etcd_slice(kv->key),
                           .value = etcd_slice(kv->value),
                           .create_revision = kv->create_revision,
                           .mod_revision = kv->mod_revision,
                           .version = kv->version,
                           .lease = kv->lease};
}

enum rc etcd_do_get(struct etcd *e, struct slice key, struct slice range_end, uint32_t limit,
                    struct arena *a, struct etcd_answer *ret, struct err *reterr)
{
    Etcdserverpb__RangeRequest req = ETCDSERVERPB__RANGE_REQUEST__INIT;
    Etcdserverpb__RangeResponse *got;
    struct etcd_kv *kvs;
    enum rc rc;

    req.key = etcd_pb(key);
    req.range_end = etcd_pb(range_end);
    req.limit = limit;
    rc = etcd_call(e, "/etcdserverpb.KV/Range", &req.base,
                   &etcdserverpb__range_response__descriptor, a, &got, reterr);
    if (rc != RC_OK) return rc;
    (void)etcd_header(e, got->header); /* a new world was told */
    kvs = arena_alloc(a, got->n_kvs * sizeof *kvs);
    if (kvs == NULL) return err_set(reterr, RC_NOMEM, "an answer of etcd");
    for (size_t i = 0; i < got->n_kvs; i++)
        kv_out(got->kvs[i], &kvs[i]);
    *ret = (struct etcd_answer){.cluster_id = got->header == NULL ? 0 : got->header->cluster_id,
                                .revision = got->header == NULL ? 0 : got->header->revision,
                                .succeeded = true,
                                .kvs = kvs,
                                .kvs_n = (uint32_t)got->n_kvs,
                                .more = got->more};
    return RC_OK;
}

static Etcdserverpb__RequestOp *op_in(const struct etcd_op *op, struct arena *a)
{
    Etcdserverpb__RequestOp *o = arena_alloc(a, sizeof *o);

    if (o == NULL) return NULL;
    etcdserverpb__request_op__init(o);
    switch (op->kind) {
    case ETCD_PUT:
        o->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
        o->request_put = arena_alloc(a, sizeof *o->request_put);
        if (o->request_put == NULL) return NULL;
        etcdserverpb__put_request__init(o->request_put);
        o->request_put->key = etcd_pb(op->key);
        o->request_put->value = etcd_pb(op->value);
        o->request_put->lease = op->lease;
        break;
    case ETCD_DELETE:
        o->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
        o->request_delete_range = arena_alloc(a, sizeof *o->request_delete_range);
        if (o->request_delete_range == NULL) return NULL;
        etcdserverpb__delete_range_request__init(o->request_delete_range);
        o->request_delete_range->key = etcd_pb(op->key);
        o->request_delete_range->range_end = etcd_pb(op->range_end);
        break;
    case ETCD_GET:
        o->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
        o->request_range = arena_alloc(a, sizeof *o->request_range);
        if (o->request_range == NULL) return NULL;
        etcdserverpb__range_request__init(o->request_range);
        o->request_range->key = etcd_pb(op->key);
        o->request_range->range_end = etcd_pb(op->range_end);
        break;
    }
    return o;
}

static Etcdserverpb__RequestOp **ops_in(const struct etcd_op *ops, uint32_t n, struct arena *a)
{
    Etcdserverpb__RequestOp **out = arena_alloc(a, n * sizeof *out);

    for (uint32_t i = 0; i < n && out != NULL; i++) {
        out[i] = op_in(&ops[i], a);
        if (out[i] == NULL) return NULL;
    }
    return out;
}

static Etcdserverpb__Compare *compare_in(const struct etcd_compare *c, struct arena *a)
{
    Etcdserverpb__Compare *o = arena_alloc(a, sizeof *o);

    if (o == NULL) return NULL;
    etcdserverpb__compare__init(o);
    o->result = ETCDSERVERPB__COMPARE__COMPARE_RESULT__EQUAL;
    o->key = etcd_pb(c->key);
    switch (c->kind) {
    case ETCD_MOD_EQ:
        o->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
        o->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
        o->mod_revision = c->number;
        break;
    case ETCD_CREATE_EQ:
        o->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__CREATE;
        o->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_CREATE_REVISION;
        o->create_revision = c->number;
        break;
    case ETCD_VERSION_EQ:
        o->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__VERSION;
        o->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VERSION;
        o->version = c->number;
        break;
    case ETCD_VALUE_EQ:
        o->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__VALUE;
        o->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VALUE;
        o->value = etcd_pb(c->value);
        break;
    }
    return o;
}

enum rc etcd_do_txn(struct etcd *e, const struct etcd_txn *t, struct arena *a,
                    struct etcd_answer *ret, struct err *reterr)
{
    Etcdserverpb__TxnRequest req = ETCDSERVERPB__TXN_REQUEST__INIT;
    Etcdserverpb__TxnResponse *got;
    struct etcd_kv *kvs;
    uint32_t n = 0;
    enum rc rc;

    req.compare = arena_alloc(a, t->compares_n * sizeof *req.compare);
    req.success = ops_in(t->then, t->then_n, a);
    req.failure = ops_in(t->otherwise, t->otherwise_n, a);
    if (req.compare == NULL || req.success == NULL || req.failure == NULL)
        return err_set(reterr, RC_NOMEM, "a transaction");
    for (uint32_t i = 0; i < t->compares_n; i++) {
        req.compare[i] = compare_in(&t->compares[i], a);
        if (req.compare[i] == NULL) return err_set(reterr, RC_NOMEM, "a transaction");
    }
    req.n_compare = t->compares_n;
    req.n_success = t->then_n;
    req.n_failure = t->otherwise_n;
    rc = etcd_call(e, "/etcdserverpb.KV/Txn", &req.base, &etcdserverpb__txn_response__descriptor, a,
                   &got, reterr);
    if (rc != RC_OK) return rc;
    if (!etcd_header(e, got->header))
        return err_set(reterr, RC_UNAVAIL, "etcd answers as another cluster");
    for (size_t i = 0; i < got->n_responses; i++) {
        if (got->responses[i]->response_case ==
            ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_RANGE) {
            n += (uint32_t)got->responses[i]->response_range->n_kvs;
        }
    }
    kvs = arena_alloc(a, n * sizeof *kvs);
    if (kvs == NULL) return err_set(reterr, RC_NOMEM, "an answer of etcd");
    n = 0;
    for (size_t i = 0; i < got->n_responses; i++) {
        const Etcdserverpb__ResponseOp *op = got->responses[i];

        if (op->response_case != ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_RANGE) continue;
        for (size_t k = 0; k < op->response_range->n_kvs; k++)
            kv_out(op->response_range->kvs[k], &kvs[n++]);
    }
    *ret = (struct etcd_answer){.cluster_id = got->header == NULL ? 0 : got->header->cluster_id,
                                .revision = got->header == NULL ? 0 : got->header->revision,
                                .succeeded = got->succeeded,
                                .kvs = kvs,
                                .kvs_n = n};
    return RC_OK;
}

/* ---- the callback forms: a job owns copies of what it was given ---- */
struct job {
    struct etcd *e;
    struct etcd_request *r;
    struct arena a;
    bool is_txn;
    struct slice key, range_end;
    uint32_t limit;
    struct etcd_txn txn;
};

static void job_run(void *arg)
{
    struct job *j = arg;
    struct etcd *e = j->e;
    struct etcd_answer ans = {0};
    enum rc rc;

    j->r->err = (struct err){0};
    rc = j->is_txn ? etcd_do_txn(e, &j->txn, &j->a, &ans, &j->r->err)
                   : etcd_do_get(e, j->key, j->range_end, j->limit, &j->a, &ans, &j->r->err);
    j->r->priv.cb(j->r, rc, rc == RC_OK ? &ans : NULL); /* r may be gone after this */
    arena_deinit(&j->a);
    free(j);
    etcd_user(e, -1);
}

static struct job *job_new(struct etcd *e, struct etcd_request *r, etcd_cb cb)
{
    struct job *j = calloc(1, sizeof *j);

    if (j == NULL) return NULL;
    j->e = e;
    j->r = r;
    r->priv.etcd = e;
    r->priv.cb = cb;
    arena_init(&j->a);
    return j;
}

static enum rc job_start(struct job *j)
{
    enum rc rc = j->e->closing ? RC_CANCELED : fiber_spawn(j->e->fs, job_run, j);

    if (rc == RC_OK) {
        etcd_user(j->e, 1);
        return RC_OK;
    }
    arena_deinit(&j->a);
    free(j);
    return rc;
}

static bool copy(struct arena *a, struct slice *s)
{
    s->p = arena_copy(a, s->p, s->n);
    return s->p != NULL;
}

enum rc etcd_get(struct etcd *e, struct etcd_request *r, struct slice key, struct slice range_end,
                 uint32_t limit, etcd_cb cb)
{
    struct job *j = job_new(e, r, cb);

    if (j == NULL) return RC_NOMEM;
    j->key = key;
    j->range_end = range_end;
    j->limit = limit;
    if (!copy(&j->a, &j->key) || !copy(&j->a, &j->range_end)) {
        arena_deinit(&j->a);
        free(j);
        return RC_NOMEM;
    }
    return job_start(j);
}

static struct etcd_op *ops_copy(struct arena *a, const struct etcd_op *ops, uint32_t n)
{
    struct etcd_op *out = arena_alloc(a, n * sizeof *out);

    for (uint32_t i = 0; i < n && out != NULL; i++) {
        out[i] = ops[i];
        if (!copy(a, &out[i].key) || !copy(a, &out[i].value) || !copy(a, &out[i].range_end))
            return NULL;
    }
    return out;
}

static bool key_twice(const struct etcd_op *ops, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < i; k++) {
            if (ops[i].kind == ETCD_PUT && ops[k].kind == ETCD_PUT &&
                ops[i].key.n == ops[k].key.n &&
                memcmp(ops[i].key.p, ops[k].key.p, ops[i].key.n) == 0) {
                return true;
            }
        }
    }
    return false;
}

enum rc etcd_txn(struct etcd *e, struct etcd_request *r, const struct etcd_txn *t, etcd_cb cb)
{
    struct etcd_compare *compares;
    struct job *j;
    bool ok;

    if (t->compares_n > ETCD_OPS_MAX || t->then_n > ETCD_OPS_MAX || t->otherwise_n > ETCD_OPS_MAX)
        return RC_INVAL;
    if (key_twice(t->then, t->then_n) || key_twice(t->otherwise, t->otherwise_n)) return RC_INVAL;
    j = job_new(e, r, cb);
    if (j == NULL) return RC_NOMEM;
    j->is_txn = true;
    compares = arena_alloc(&j->a, t->compares_n * sizeof *compares);
    ok = compares != NULL;
    for (uint32_t i = 0; i < t->compares_n && ok; i++) {
        compares[i] = t->compares[i];
        ok = copy(&j->a, &compares[i].key) && copy(&j->a, &compares[i].value);
    }
    j->txn = *t;
    j->txn.compares = compares;
    j->txn.then = ops_copy(&j->a, t->then, t->then_n);
    j->txn.otherwise = ops_copy(&j->a, t->otherwise, t->otherwise_n);
    if (!ok || j->txn.then == NULL || j->txn.otherwise == NULL) {
        arena_deinit(&j->a);
        free(j);
        return RC_NOMEM;
    }
    return job_start(j);
}

size_t etcd_prefix_end(struct slice prefix, uint8_t *out)
{
    size_t n = prefix.n;

    memcpy(out, prefix.p, n);
    while (n > 0 && out[n - 1] == 0xff)
        n--;
    if (n == 0) {
        out[0] = 0; /* to the end of all keys */
        return 1;
    }
    out[n - 1]++;
    return n;
}
