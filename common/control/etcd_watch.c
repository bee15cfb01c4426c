/* common/control/etcd_watch.c - leases, mirrors, elections: three fibers that go on for ever.
 *
 * Traps of etcd 3.4 that are handled (its client's notes call them by number): a lease's end is
 * counted from before the sending of the renewal that was answered, and "kept" is believed only
 * while our own clock agrees; a mirror drops events it has applied, re-reads everything every
 * REREAD_MS and after any doubt, and never watches a future revision; an election is won only after
 * a transaction saw the own key first. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/control/etcd_priv.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REREAD_MS 30000u
#define PAGE_KEYS 512u

/* ---- lease ---- */
struct etcd_lease {
    struct etcd *e;
    uint32_t ttl_s;
    void (*on_ready)(void *data, int64_t id);
    void (*on_lost)(void *data);
    void *data;
    int64_t id;
    uint64_t until_ms; /* CLOCK_BOOTTIME */
    bool closing, revoke;
};

static enum rc lease_grant(struct etcd_lease *l, struct err *reterr)
{
    Etcdserverpb__LeaseGrantRequest req = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
    Etcdserverpb__LeaseGrantResponse *got;
    uint64_t sent = clock_boot_ms();
    struct arena a;
    enum rc rc;

    arena_init(&a);
    req.ttl = l->ttl_s;
    rc = etcd_call(l->e, "/etcdserverpb.Lease/LeaseGrant", &req.base,
                   &etcdserverpb__lease_grant_response__descriptor, &a, &got, reterr);
    if (rc == RC_OK && got->ttl <= 0)
        rc = err_set(reterr, RC_INTERNAL, "etcd granted no lease: %s", got->error);
    if (rc == RC_OK) {
        l->id = got->id;
        l->until_ms = sent + (uint64_t)got->ttl * 1000;
    }
    arena_deinit(&a);
    return rc;
}

/* One renewal over a stream of its own: cheap at one in some seconds, and no stream state to doubt.
 */
static enum rc lease_renew(struct etcd_lease *l, bool *ret_gone, struct err *reterr)
{
    Etcdserverpb__LeaseKeepAliveRequest req = ETCDSERVERPB__LEASE_KEEP_ALIVE_REQUEST__INIT;
    struct rpc_request_conf conf = {.path = "/etcdserverpb.Lease/LeaseKeepAlive",
                                    .timeout_ms = l->ttl_s * 1000 / 3 + 500};
    Etcdserverpb__LeaseKeepAliveResponse *got;
    uint64_t sent = clock_boot_ms();
    struct fstream *s;
    struct rpc_msg *m;
    enum rc rc = fstream_open(l->e->channels[l->e->current], &conf, &s);

    *ret_gone = false;
    if (rc != RC_OK) return err_set(reterr, rc, "a lease's renewal");
    req.id = l->id;
    rc = fstream_send(s, &req.base);
    if (rc == RC_OK || rc == RC_CANCELED) rc = fstream_recv(s, &m, reterr);
    if (rc == RC_OK) {
        got = etcdserverpb__lease_keep_alive_response__unpack(NULL, m->n, m->p);
        fstream_release(s, m);
        if (got == NULL) {
            rc = err_set(reterr, RC_INTERNAL, "a renewal's answer does not decode");
        } else {
            *ret_gone = got->ttl <= 0;
            if (got->ttl > 0) l->until_ms = sent + (uint64_t)got->ttl * 1000;
            etcdserverpb__lease_keep_alive_response__free_unpacked(got, NULL);
        }
    }
    fstream_close(s);
    if (rc != RC_OK) etcd_next(l->e);
    return rc;
}

static void lease_revoke(struct etcd_lease *l)
{
    Etcdserverpb__LeaseRevokeRequest req = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;
    Etcdserverpb__LeaseRevokeResponse *got;
    struct arena a;
    struct err err;
    enum rc rc;

    arena_init(&a);
    req.id = l->id;
    rc = etcd_call(l->e, "/etcdserverpb.Lease/LeaseRevoke", &req.base,
                   &etcdserverpb__lease_revoke_response__descriptor, &a, &got, &err);
    if (rc != RC_OK) log_debug("lease_revoke", "rc=%s: it will expire", rc_name(rc));
    arena_deinit(&a);
}

static void lease_hold(struct etcd_lease *l)
{
    struct err err;
    bool gone = false;

    while (!l->closing && !l->e->closing && !gone && clock_boot_ms() < l->until_ms) {
        uint64_t third = l->ttl_s * 1000ull / 3, left = l->until_ms - clock_boot_ms();
        enum rc rc;

        etcd_pause(l->e, MIN(third, left));
        if (l->closing || l->e->closing) break;
        rc = lease_renew(l, &gone, &err);
        if (rc != RC_OK) {
            log_debug("lease_renew", "rc=%s why=%s", rc_name(rc), err.msg);
            etcd_pause(l->e, ETCD_PAUSE_MS);
        }
    }
}

static void lease_run(void *arg)
{
    struct etcd_lease *l = arg;
    struct etcd *e = l->e;
    struct err err;

    while (!l->closing && !e->closing) {
        enum rc rc = lease_grant(l, &err);

        if (rc != RC_OK) {
            log_warn("lease_grant", "rc=%s why=%s: tries again", rc_name(rc), err.msg);
            etcd_pause(e, ETCD_PAUSE_MS * 2);
            continue;
        }
        if (!l->closing) l->on_ready(l->data, l->id);
        lease_hold(l);
        if (!l->closing && !e->closing) l->on_lost(l->data); /* then a new one */
    }
    if (l->revoke && l->id != 0) lease_revoke(l); /* the client's close waits for it */
    free(l);
    etcd_user(e, -1);
}

enum rc etcd_lease_open(struct etcd *e, uint32_t ttl_s, void (*on_ready)(void *data, int64_t id),
                        void (*on_lost)(void *data), void *data, struct etcd_lease **ret_lease)
{
    struct etcd_lease *l = calloc(1, sizeof *l);
    enum rc rc;

    if (l == NULL) return RC_NOMEM;
    *l = (struct etcd_lease){
        .e = e, .ttl_s = ttl_s, .on_ready = on_ready, .on_lost = on_lost, .data = data};
    rc = fiber_spawn(e->fs, lease_run, l);
    if (rc != RC_OK) {
        free(l);
        return rc;
    }
    etcd_user(e, 1);
    *ret_lease = l;
    return RC_OK;
}

void etcd_lease_close(struct etcd_lease *l, bool revoke)
{
    if (l == NULL) return;
    l->closing = true;
    l->revoke = revoke;
    fiber_cond_broadcast(&l->e->changed);
}

/* ---- mirror ---- */
struct entry {
    struct list link;
    int64_t mod_revision;
    bool seen; /* by the read that is going on */
    size_t key_n, value_n;
    uint8_t bytes[]; /* key, value */
};
struct etcd_mirror {
    struct etcd *e;
    char *prefix;
    struct etcd_mirror_ops ops;
    void *data;
    struct list entries;
    int64_t revision; /* applied up to */
    bool closing;
    struct fstream *watch; /* open now, or NULL */
};

static struct entry *entry_find(struct etcd_mirror *m, struct slice key)
{
    LIST_FOREACH(it, &m->entries)
    {
        struct entry *e = CONTAINER_OF(it, struct entry, link);

        if (e->key_n == key.n && memcmp(e->bytes, key.p, key.n) == 0) return e;
    }
    return NULL;
}

static enum rc entry_set(struct etcd_mirror *m, const struct etcd_kv *kv)
{
    struct entry *old = entry_find(m, kv->key), *e;

    if (old != NULL && old->mod_revision >= kv->mod_revision) { /* had it already */
        old->seen = true;
        return RC_OK;
    }
    e = malloc(sizeof *e + kv->key.n + kv->value.n);
    if (e == NULL) return RC_NOMEM;
    e->mod_revision = kv->mod_revision;
    e->seen = true;
    e->key_n = kv->key.n;
    e->value_n = kv->value.n;
    memcpy(e->bytes, kv->key.p, kv->key.n);
    if (kv->value.n > 0) memcpy(e->bytes + kv->key.n, kv->value.p, kv->value.n);
    list_push_back(&m->entries, &e->link);
    if (old != NULL) {
        list_remove(&old->link);
        free(old);
    }
    m->ops.on_change(m->data, kv);
    return RC_OK;
}

static void entry_gone(struct etcd_mirror *m, struct entry *e)
{
    struct etcd_kv kv = {.key = {e->bytes, e->key_n}};

    list_remove(&e->link);
    m->ops.on_change(m->data, &kv);
    free(e);
}

/* Everything, in pages of one revision each; what is not seen any more is gone. */
static enum rc mirror_read(struct etcd_mirror *m, struct err *reterr)
{
    uint8_t end[256], next[1024];
    struct slice prefix = {(const uint8_t *)m->prefix, strlen(m->prefix)}, from = prefix;
    size_t end_n = etcd_prefix_end(prefix, end);
    int64_t first_revision = 0;
    bool more = true;
    enum rc rc = RC_OK;

    LIST_FOREACH(it, &m->entries) CONTAINER_OF(it, struct entry, link)->seen = false;
    while (more && rc == RC_OK) {
        struct etcd_answer ans;
        struct arena a;

        arena_init(&a);
        rc = etcd_do_get(m->e, from, (struct slice){end, end_n}, PAGE_KEYS, &a, &ans, reterr);
        if (rc == RC_OK) {
            if (first_revision == 0)
                first_revision = ans.revision; /* the watch begins after the first page */
            for (uint32_t i = 0; i < ans.kvs_n && rc == RC_OK; i++)
                rc = entry_set(m, &ans.kvs[i]);
            more = ans.more && ans.kvs_n > 0;
            if (more) {
                struct slice last = ans.kvs[ans.kvs_n - 1].key;

                if (last.n + 1 > sizeof next) {
                    rc = err_set(reterr, RC_INTERNAL, "a key of %zu bytes in etcd", last.n);
                } else {
                    memcpy(next, last.p, last.n);
                    next[last.n] = 0;
                    from = (struct slice){next, last.n + 1};
                }
            }
        }
        arena_deinit(&a);
    }
    if (rc != RC_OK) return rc;
    LIST_FOREACH_SAFE(it, &m->entries)
    {
        struct entry *e = CONTAINER_OF(it, struct entry, link);

        /* created while we paged: its event comes with the watch */
        if (!e->seen && e->mod_revision <= first_revision) entry_gone(m, e);
    }
    m->revision = first_revision;
    m->ops.on_synced(m->data, first_revision);
    return RC_OK;
}

static enum rc events_apply(struct etcd_mirror *m, const Etcdserverpb__WatchResponse *w)
{
    for (size_t i = 0; i < w->n_events; i++) {
        const Mvccpb__KeyValue *k = w->events[i]->kv;
        struct etcd_kv kv;
        enum rc rc;

        if (k == NULL || k->mod_revision <= m->revision) continue; /* applied before */
        kv = (struct etcd_kv){.key = etcd_slice(k->key),
                              .value = etcd_slice(k->value),
                              .create_revision = k->create_revision,
                              .mod_revision = k->mod_revision,
                              .version = k->version,
                              .lease = k->lease};
        if (w->events[i]->type == MVCCPB__EVENT__EVENT_TYPE__DELETE) {
            struct entry *e = entry_find(m, kv.key);

            if (e != NULL && e->mod_revision < kv.mod_revision) entry_gone(m, e);
            continue;
        }
        rc = entry_set(m, &kv);
        if (rc != RC_OK) return rc;
    }
    if (w->n_events > 0 && w->header != NULL && w->header->revision > m->revision)
        m->revision = w->header->revision;
    return RC_OK;
}

/* Follows until the stream ends, a doubt arises or it is time to read again. */
static enum rc mirror_watch(struct etcd_mirror *m, struct err *reterr)
{
    Etcdserverpb__WatchRequest req = ETCDSERVERPB__WATCH_REQUEST__INIT;
    Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
    const struct rpc_metadata leader = {"hasleader", "true"};
    struct rpc_request_conf conf = {.path = "/etcdserverpb.Watch/Watch",
                                    .metadata = &leader,
                                    .metadata_n = 1,
                                    .message_bytes_max = 4u << 20};
    uint8_t end[256];
    struct slice prefix = {(const uint8_t *)m->prefix, strlen(m->prefix)};
    uint64_t until = clock_boot_ms() + REREAD_MS;
    struct fstream *s;
    enum rc rc = fstream_open(m->e->channels[m->e->current], &conf, &s);

    if (rc != RC_OK) return err_set(reterr, rc, "a watch");
    create.key = etcd_pb(prefix);
    create.range_end = (ProtobufCBinaryData){.data = end, .len = etcd_prefix_end(prefix, end)};
    create.start_revision = m->revision + 1;
    req.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
    req.create_request = &create;
    m->watch = s;
    rc = fstream_send(s, &req.base);
    while (!m->closing && !m->e->closing && (rc == RC_OK || rc == RC_CANCELED)) {
        Etcdserverpb__WatchResponse *w;
        struct rpc_msg *msg;

        rc = fstream_recv_ms(s, until - MIN(until, clock_boot_ms()), &msg, reterr);
        if (rc != RC_OK) break;
        w = etcdserverpb__watch_response__unpack(NULL, msg->n, msg->p);
        fstream_release(s, msg);
        if (w == NULL) {
            rc = err_set(reterr, RC_INTERNAL, "a watch's answer does not decode");
            break;
        }
        if (!etcd_header(m->e, w->header)) {
            rc = err_set(reterr, RC_STALE, "etcd answers as another cluster");
        } else if (w->canceled) {
            rc = err_set(reterr, RC_STALE, "etcd ended the watch: %s (compacted at %lld)",
                         w->cancel_reason, (long long)w->compact_revision);
        } else {
            rc = events_apply(m, w);
        }
        etcdserverpb__watch_response__free_unpacked(w, NULL);
    }
    m->watch = NULL;
    fstream_close(s);
    return rc;
}

static void mirror_run(void *arg)
{
    struct etcd_mirror *m = arg;
    struct etcd *e = m->e;

    while (!m->closing && !e->closing) {
        struct err err = {0};
        enum rc rc = mirror_read(m, &err);

        if (rc == RC_OK) rc = mirror_watch(m, &err);
        if (m->closing || e->closing) break;
        if (rc == RC_DEADLINE || rc == RC_RANGE) continue; /* time to read everything again */
        m->ops.on_doubt(m->data, &err);
        etcd_next(e);
        etcd_pause(e, ETCD_PAUSE_MS);
    }
    while (!list_empty(&m->entries)) {
        struct entry *en = CONTAINER_OF(m->entries.next, struct entry, link);

        list_remove(&en->link);
        free(en);
    }
    free(m->prefix);
    free(m);
    etcd_user(e, -1);
}

enum rc etcd_mirror_open(struct etcd *e, const char *prefix, const struct etcd_mirror_ops *ops,
                         void *data, struct etcd_mirror **ret_mirror)
{
    struct etcd_mirror *m = calloc(1, sizeof *m);
    enum rc rc;

    if (m == NULL || strlen(prefix) > 255) {
        free(m);
        return m == NULL ? RC_NOMEM : RC_INVAL;
    }
    m->e = e;
    m->prefix = strdup(prefix);
    m->ops = *ops;
    m->data = data;
    list_init(&m->entries);
    rc = m->prefix == NULL ? RC_NOMEM : fiber_spawn(e->fs, mirror_run, m);
    if (rc != RC_OK) {
        free(m->prefix);
        free(m);
        return rc;
    }
    etcd_user(e, 1);
    *ret_mirror = m;
    return RC_OK;
}

/* Nothing is called from now on; the fiber ends by itself. */
static void mirror_quiet(void *data, const struct etcd_kv *kv)
{
    (void)data;
    (void)kv;
}
static void mirror_quiet_synced(void *data, int64_t revision)
{
    (void)data;
    (void)revision;
}
static void mirror_quiet_doubt(void *data, const struct err *e)
{
    (void)data;
    (void)e;
}

void etcd_mirror_close(struct etcd_mirror *m)
{
    if (m == NULL) return;
    m->closing = true;
    m->ops = (struct etcd_mirror_ops){mirror_quiet, mirror_quiet_synced, mirror_quiet_doubt};
    if (m->watch != NULL) fstream_cancel(m->watch);
    fiber_cond_broadcast(&m->e->changed);
}

/* ---- election ---- */
struct etcd_election {
    struct etcd *e;
    char *prefix, *value;
    void (*on_won)(void *data, struct slice key, int64_t create_revision);
    void (*on_lost)(void *data);
    void *data;
    struct etcd_lease *lease;
    int64_t lease_id; /* 0 = none now */
    struct fiber_cond changed;
    bool closing, leading;
};

static void el_ready(void *data, int64_t id)
{
    struct etcd_election *el = data;

    el->lease_id = id;
    fiber_cond_broadcast(&el->changed);
}

static void el_lease_lost(void *data)
{
    struct etcd_election *el = data;

    el->lease_id = 0;
    if (el->leading) {
        el->leading = false;
        if (!el->closing) el->on_lost(el->data);
    }
    fiber_cond_broadcast(&el->changed);
}

/* One look: writes the own key if it is not there, and reads who is first, in one transaction. */
static enum rc el_look(struct etcd_election *el, const char *key, int64_t *ret_own, bool *ret_first,
                       struct err *reterr)
{
    struct slice k = {(const uint8_t *)key, strlen(key)},
                 prefix = {(const uint8_t *)el->prefix, strlen(el->prefix)};
    uint8_t end[256];
    struct etcd_compare absent = {.kind = ETCD_CREATE_EQ, .key = k};
    struct etcd_op put = {.kind = ETCD_PUT,
                          .key = k,
                          .value = {(const uint8_t *)el->value, strlen(el->value)},
                          .lease = el->lease_id};
    struct etcd_op all = {
        .kind = ETCD_GET, .key = prefix, .range_end = {end, etcd_prefix_end(prefix, end)}};
    struct etcd_txn make = {.compares = &absent, .compares_n = 1, .then = &put, .then_n = 1};
    struct etcd_txn look = {
        .then = &all, .then_n = 1}; /* a transaction is linearizable where a range may be stale */
    struct etcd_answer ans;
    int64_t lowest = INT64_MAX;
    struct arena a;
    enum rc rc;

    arena_init(&a);
    *ret_own = 0;
    rc = etcd_do_txn(el->e, &make, &a, &ans, reterr);
    if (rc == RC_OK) rc = etcd_do_txn(el->e, &look, &a, &ans, reterr);
    for (uint32_t i = 0; rc == RC_OK && i < ans.kvs_n; i++) {
        lowest = MIN(lowest, ans.kvs[i].create_revision);
        if (ans.kvs[i].key.n == k.n && memcmp(ans.kvs[i].key.p, k.p, k.n) == 0 &&
            ans.kvs[i].lease == el->lease_id) {
            *ret_own = ans.kvs[i].create_revision;
        }
    }
    *ret_first = rc == RC_OK && *ret_own != 0 && lowest == *ret_own;
    arena_deinit(&a);
    return rc;
}

static void election_run(void *arg)
{
    struct etcd_election *el = arg;
    struct etcd *e = el->e;

    while (!el->closing && !e->closing) {
        struct err err = {0};
        char key[320];
        int64_t own;
        bool first;
        enum rc rc;

        if (el->lease_id == 0) {
            (void)!fiber_cond_wait_ms(&el->changed, 500); /* looks again */
            continue;
        }
        (void)snprintf(key, sizeof key, "%s%016llx", el->prefix, (unsigned long long)el->lease_id);
        rc = el_look(el, key, &own, &first, &err);
        if (rc != RC_OK) log_debug("election", "rc=%s why=%s", rc_name(rc), err.msg);
        if (rc == RC_OK && el->lease_id != 0 && !el->closing) {
            if (first && !el->leading) {
                el->leading = true;
                el->on_won(el->data, (struct slice){(const uint8_t *)key, strlen(key)}, own);
            } else if (!first && el->leading) { /* the key is gone: its lease was revoked early */
                el->leading = false;
                el->on_lost(el->data);
            }
        }
        (void)!fiber_cond_wait_ms(&el->changed, 1000);
    }
    etcd_lease_close(el->lease, true);
    free(el->prefix);
    free(el->value);
    free(el);
    etcd_user(e, -1);
}

enum rc etcd_election_open(struct etcd *e, const char *prefix, const char *value,
                           void (*on_won)(void *data, struct slice key, int64_t create_revision),
                           void (*on_lost)(void *data), void *data,
                           struct etcd_election **ret_election)
{
    struct etcd_election *el = calloc(1, sizeof *el);
    enum rc rc;

    if (el == NULL) return RC_NOMEM;
    *el = (struct etcd_election){.e = e, .on_won = on_won, .on_lost = on_lost, .data = data};
    el->prefix = malloc(strlen(prefix) + 2);
    el->value = strdup(value);
    fiber_cond_init(&el->changed);
    rc = el->prefix == NULL || el->value == NULL || strlen(prefix) > 250 ? RC_NOMEM : RC_OK;
    if (rc == RC_OK) {
        (void)snprintf(el->prefix, strlen(prefix) + 2, "%s/", prefix);
        rc = etcd_lease_open(e, 5, el_ready, el_lease_lost, el, &el->lease);
    }
    if (rc == RC_OK) {
        rc = fiber_spawn(e->fs, election_run, el);
        if (rc == RC_OK) {
            etcd_user(e, 1);
            *ret_election = el;
            return RC_OK;
        }
        etcd_lease_close(el->lease,
                         false); /* UNTESTED: its callbacks are not reached, closing is set */
        return rc;
    }
    free(el->prefix);
    free(el->value);
    free(el);
    return rc;
}

void etcd_election_close(struct etcd_election *el)
{
    if (el == NULL) return;
    el->closing = true;
    fiber_cond_broadcast(&el->changed);
}
