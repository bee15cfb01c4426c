/* gateway/manager/truth.c - each call waits for exactly one callback of etcd.h. */
#include "gateway/manager/truth.h"
#include <string.h>

#define PAGE_KEYS 512u

struct waiting {
    struct etcd_request r;
    struct fiber_event done;
    enum rc rc;
    bool succeeded, more;
    struct arena *a; /* where kvs are copied; NULL: not wanted */
    struct etcd_kv *kvs;
    uint32_t kvs_n;
};

static struct slice keep(struct arena *a, struct slice s, enum rc *rc)
{
    struct slice kept = {arena_copy(a, s.p, s.n), s.n};

    if (kept.p == NULL) *rc = RC_NOMEM;
    return kept;
}

static void on_answer(struct etcd_request *r, enum rc rc, const struct etcd_answer *a)
{
    struct waiting *w = r->data;

    w->rc = rc;
    if (rc == RC_OK) {
        w->succeeded = a->succeeded;
        w->more = a->more;
    }
    if (rc == RC_OK && w->a != NULL) {
        w->kvs = arena_alloc(w->a, a->kvs_n * sizeof *w->kvs);
        if (w->kvs == NULL) w->rc = RC_NOMEM;
        for (uint32_t i = 0; i < a->kvs_n && w->rc == RC_OK; i++) {
            w->kvs[i] = a->kvs[i];
            w->kvs[i].key = keep(w->a, a->kvs[i].key, &w->rc);
            w->kvs[i].value = keep(w->a, a->kvs[i].value, &w->rc);
        }
        w->kvs_n = a->kvs_n;
    }
    fiber_event_set(&w->done);
}

static enum rc finish(struct waiting *w, enum rc started, struct err *reterr)
{
    if (started != RC_OK) return err_set(reterr, started, "etcd: the request was not started");
    fiber_event_wait(&w->done);
    if (w->rc == RC_OK) return RC_OK;
    return err_set(reterr, w->rc, "etcd: %s", w->r.err.msg[0] != 0 ? w->r.err.msg : rc_text(w->rc));
}

enum rc truth_txn(struct etcd *e, const struct etcd_txn *t, bool *ret_succeeded, struct err *reterr)
{
    struct waiting w = {.r.data = &w};
    enum rc rc = finish(&w, etcd_txn(e, &w.r, t, on_answer), reterr);

    if (rc == RC_OK) *ret_succeeded = w.succeeded;
    return rc;
}

enum rc truth_get(struct etcd *e, struct slice key, struct slice range_end, struct arena *a,
                  struct etcd_kv **ret_kvs, uint32_t *ret_kvs_n, struct err *reterr)
{
    struct etcd_kv *all = NULL;
    uint32_t all_n = 0;

    for (;;) {
        struct waiting w = {.r.data = &w, .a = a};
        struct etcd_kv *joined;
        uint8_t *next;
        enum rc rc = finish(
            &w, etcd_get(e, &w.r, key, range_end, range_end.n == 0 ? 0 : PAGE_KEYS, on_answer),
            reterr);

        if (rc != RC_OK) return rc;
        joined = arena_alloc(a, ((size_t)all_n + w.kvs_n) * sizeof *joined);
        if (joined == NULL) return err_set(reterr, RC_NOMEM, "etcd: an answer");
        if (all_n > 0) memcpy(joined, all, all_n * sizeof *joined);
        if (w.kvs_n > 0) memcpy(joined + all_n, w.kvs, w.kvs_n * sizeof *joined);
        all = joined;
        all_n += w.kvs_n;
        if (!w.more || w.kvs_n == 0) break;
        /* the next key is the last one with a zero byte behind it */
        next = arena_alloc(a, all[all_n - 1].key.n + 1);
        if (next == NULL) return err_set(reterr, RC_NOMEM, "etcd: an answer");
        memcpy(next, all[all_n - 1].key.p, all[all_n - 1].key.n);
        key = (struct slice){next, all[all_n - 1].key.n + 1};
    }
    *ret_kvs = all;
    *ret_kvs_n = all_n;
    return RC_OK;
}

enum rc truth_prefix(struct etcd *e, const char *prefix, struct arena *a, struct etcd_kv **ret_kvs,
                     uint32_t *ret_kvs_n, struct err *reterr)
{
    struct slice p = {(const uint8_t *)prefix, strlen(prefix)};
    uint8_t *end = arena_alloc(a, p.n);
    size_t n;

    if (end == NULL) return err_set(reterr, RC_NOMEM, "etcd: a prefix");
    n = etcd_prefix_end(p, end);
    return truth_get(e, p, (struct slice){end, n}, a, ret_kvs, ret_kvs_n, reterr);
}

enum rc truth_create(struct etcd *e, const char *key, struct slice value, struct arena *a,
                     struct slice *ret_value, struct err *reterr)
{
    struct slice k = {(const uint8_t *)key, strlen(key)};
    struct etcd_compare absent = {.kind = ETCD_CREATE_EQ, .key = k, .number = 0};
    struct etcd_op put = {.kind = ETCD_PUT, .key = k, .value = value};
    struct etcd_txn t = {.compares = &absent, .compares_n = 1, .then = &put, .then_n = 1};
    struct etcd_kv *kvs;
    uint32_t n;
    bool made;
    enum rc rc = truth_txn(e, &t, &made, reterr);

    if (rc != RC_OK) return rc;
    if (made) {
        *ret_value = value;
        return RC_OK;
    }
    rc = truth_get(e, k, (struct slice){NULL, 0}, a, &kvs, &n, reterr);
    if (rc != RC_OK) return rc;
    if (n == 0) return err_set(reterr, RC_ABORTED, "etcd: '%s' was deleted meanwhile", key);
    *ret_value = kvs[0].value;
    return RC_OK;
}

struct etcd_compare truth_fence_compare(const struct truth_fence *f)
{
    return (struct etcd_compare){
        .kind = ETCD_CREATE_EQ, .key = {f->key, f->key_n}, .number = f->create_revision};
}
