/* gateway/api/recover.c - etcd was lost: its content again from what the storage nodes keep.
 *
 * recover_core decides, group by group; here answers are gathered and the result is written: first
 * pools and groups, each under the condition that its key is as it was read, the cluster's id last,
 * since storage nodes believe what they read under their own id only. What another cluster left
 * there (groups with other prefix bits, pools that nobody keeps) goes before it. A run that was cut
 * off is begun again. While one group can't be decided nothing is written: a group that is absent
 * beside others would be made anew, and empty. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/placement/group_config.h"
#include "gateway/api/nodes.h"
#include "gateway/manager/manager.h"
#include "gateway/manager/recover_core.h"
#include "gateway/manager/truth.h"
#include "proto/mikura/v1/admin.pb-c.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#define ASK_MS      10000u
#define REASONS_MAX 32u
#define BATCH       16u

typedef Mikura__V1__RecoverConfigResponse Response;
typedef Mikura__Internal__V1__PersistedResponse Kept;
typedef Mikura__Internal__V1__PersistedGroup KeptGroup;

struct page {
    struct list link;
    const Kept *kept;
};
struct pool_found {
    struct placement_pool pool;
    const char *json;
};
struct plan_group {
    struct placement_group id;
    struct recover_decision d;
    int64_t revision; /* of the key as read; 0 = absent */
    bool there;
};
struct recovery {
    struct fcall *c;
    struct gw *gw;
    struct arena *a;
    struct list pages;
    struct id128 id;
    struct pool_found pools[VIEW_POOLS_MAX];
    uint32_t pools_n;
    struct plan_group *groups;
    uint32_t groups_n;
    struct etcd_kv *kvs, *pool_kvs; /* all below pg/ and pools/ */
    uint32_t kvs_n, pool_kvs_n;
    const struct etcd_kv **others; /* of those none of this cluster's */
    uint32_t others_n;
    int64_t id_revision;
    bool foreign; /* etcd has another id, or none */
    Response *ret;
};

static void reason(struct recovery *r, const char *text)
{
    if (text != NULL && r->ret->n_reasons < REASONS_MAX)
        r->ret->reasons[r->ret->n_reasons++] = (char *)(uintptr_t)text;
}

/* ---- gathering ---- */
static enum rc ask(struct recovery *r, const struct cluster_node *n, struct err *reterr)
{
    struct slice after = {0};

    for (;;) {
        struct page *p = arena_alloc(r->a, sizeof *p);
        Kept *kept;
        enum rc rc;

        if (p == NULL) return err_set(reterr, RC_NOMEM, "what nodes keep");
        rc = route_persisted(r->gw->route, n, after, ASK_MS, r->a, &kept, reterr);
        if (rc != RC_OK) return rc;
        p->kept = kept;
        list_push_back(&r->pages, &p->link);
        if (kept->next.len == 0) return RC_OK;
        after = gw_bytes(kept->next);
    }
}

static enum rc pool_parse(const char *text, struct placement_pool *ret, struct err *reterr)
{
    json_t *j = json_loads(text, 0, NULL);

    *ret = (struct placement_pool){
        .id = (uint32_t)json_integer_value(json_object_get(j, "id")),
        .prefix_bits = (uint32_t)json_integer_value(json_object_get(j, "prefix_bits")),
        .copies = (uint32_t)json_integer_value(json_object_get(j, "copies")),
        .min_in_sync = (uint32_t)json_integer_value(json_object_get(j, "min_in_sync")),
        .failure_domain =
            (enum placement_level)json_integer_value(json_object_get(j, "failure_domain"))};
    json_decref(j);
    return placement_pool_check(ret, reterr);
}

/* Whose the disks are, and the pools: everybody says the same. */
static enum rc facts(struct recovery *r, const Kept *k, struct err *reterr)
{
    struct id128 id;

    if (k->cluster_id.len != 0) {
        if (!id128_from_bytes(k->cluster_id.data, k->cluster_id.len, &id))
            return err_set(reterr, RC_CORRUPT, "a node's cluster id");
        if (!id128_is_zero(&r->id) && !id128_eq(&r->id, &id))
            return err_set(reterr, RC_PRECOND,
                           "storage nodes belong to two clusters: stop those of the wrong one");
        r->id = id;
    }
    for (size_t i = 0; i < k->n_pools; i++) {
        struct placement_pool p;
        uint32_t at = 0;
        enum rc rc = pool_parse(k->pools[i], &p, reterr);

        if (rc != RC_OK) return rc;
        while (at < r->pools_n && r->pools[at].pool.id != p.id)
            at++;
        if (at == VIEW_POOLS_MAX) return err_set(reterr, RC_CORRUPT, "too many pools");
        if (at < r->pools_n && strcmp(r->pools[at].json, k->pools[i]) != 0)
            return err_set(reterr, RC_PRECOND, "storage nodes disagree about pool %u", p.id);
        r->pools[at] = (struct pool_found){p, k->pools[i]};
        if (at == r->pools_n) r->pools_n++;
    }
    return RC_OK;
}

static enum rc gather(struct recovery *r, struct err *reterr)
{
    struct cluster_node *nodes;
    uint32_t n = 0, max = 0;
    enum rc rc = RC_OK;

    for (const struct cluster_node *it = cluster_node_next(r->gw->cluster, NULL); it != NULL;
         it = cluster_node_next(r->gw->cluster, it))
        max++;
    nodes = arena_alloc(r->a, (max + 1) * sizeof *nodes);
    if (nodes == NULL) return err_set(reterr, RC_NOMEM, "the nodes");
    for (const struct cluster_node *it = cluster_node_next(r->gw->cluster, NULL);
         it != NULL && n < max; it = cluster_node_next(r->gw->cluster, it)) {
        if (strcmp(it->kind, "storaged") == 0) nodes[n++] = *it;
    }
    for (uint32_t i = 0; i < n; i++) {
        struct err err = {0};

        rc = nodes[i].alive ? ask(r, &nodes[i], &err) : RC_UNAVAIL;
        if (rc == RC_NOMEM) return err_set(reterr, rc, "what nodes keep");
        r->ret->nodes += rc == RC_OK;
        r->ret->nodes_silent += rc != RC_OK;
        if (rc != RC_OK)
            reason(r, arena_str(r->a, "storaged '%s' at %s does not answer: %s", nodes[i].name,
                                nodes[i].host_address, nodes[i].alive ? err.msg : "it is away"));
    }
    rc = RC_OK;
    LIST_FOREACH(it, &r->pages)
    {
        if (rc == RC_OK) rc = facts(r, CONTAINER_OF(it, struct page, link)->kept, reterr);
    }
    if (rc == RC_OK && (id128_is_zero(&r->id) || r->pools_n == 0))
        rc = err_set(reterr, RC_PRECOND,
                     "no storage node that answers keeps anything of a cluster: start those that "
                     "held it");
    return rc;
}

/* ---- deciding ---- */
static bool answered(const struct recovery *r, const struct id128 *disk)
{
    LIST_FOREACH(it, &r->pages)
    {
        const Kept *k = CONTAINER_OF(it, struct page, link)->kept;

        for (size_t i = 0; i < k->n_disks; i++) {
            if (k->disks[i].len == 16 && memcmp(k->disks[i].data, disk->b, 16) == 0) return true;
        }
    }
    return false;
}

static void add_empty(const struct recovery *r, const struct group_set *s,
                      struct recover_report *to, uint32_t *n)
{
    for (uint32_t i = 0; i < s->n; i++) {
        bool has = false;

        for (uint32_t k = 0; k < *n; k++)
            has |= id128_eq(&to[k].disk, &s->disks[i]);
        if (has || *n == RECOVER_REPORTS_MAX || !answered(r, &s->disks[i])) continue;
        to[(*n)++] = (struct recover_report){.disk = s->disks[i]};
    }
}

/* All that disks say of one group; a disk that answers and has nothing of it says so. */
static enum rc reports(const struct recovery *r, const struct placement_group *id,
                       struct recover_report *to, uint32_t *ret_n, struct err *reterr)
{
    uint32_t n = 0, told;

    LIST_FOREACH(it, &r->pages)
    {
        const Kept *k = CONTAINER_OF(it, struct page, link)->kept;

        for (size_t i = 0; i < k->n_groups; i++) {
            const KeptGroup *g = k->groups[i];
            struct recover_report *x = &to[n];

            if (g->pool != id->pool || g->prefix_bits != id->prefix_bits || g->prefix != id->prefix)
                continue;
            if (n == RECOVER_REPORTS_MAX)
                return err_set(reterr, RC_CORRUPT, "a group with more than %u replicas",
                               RECOVER_REPORTS_MAX);
            *x = (struct recover_report){.damaged = g->damaged,
                                         .epoch = g->epoch,
                                         .config = g->config,
                                         .log_epoch = g->log_epoch,
                                         .log_last = g->log_last,
                                         .commit = g->commit};
            if (!id128_from_bytes(g->disk.data, g->disk.len, &x->disk))
                return err_set(reterr, RC_CORRUPT, "a disk's id");
            if (g->record.len != 0) {
                enum rc rc = group_config_decode(gw_bytes(g->record), &x->record, reterr);

                if (rc != RC_OK) return rc;
                x->has_record = true;
            }
            n++;
        }
    }
    told = n;
    for (uint32_t i = 0; i < told; i++) {
        if (!to[i].has_record) continue;
        add_empty(r, &to[i].record.in_sync, to, &n);
        add_empty(r, &to[i].record.learners, to, &n);
        add_empty(r, &to[i].record.last_serving, to, &n);
    }
    *ret_n = n;
    return RC_OK;
}

/* What etcd has under the group's key. */
static const struct etcd_kv *there(const struct recovery *r, const char *key)
{
    for (uint32_t i = 0; i < r->kvs_n; i++) {
        if (r->kvs[i].key.n == strlen(key) && memcmp(r->kvs[i].key.p, key, r->kvs[i].key.n) == 0)
            return &r->kvs[i];
    }
    return NULL;
}

static enum rc decide_group(struct recovery *r, const struct placement_pool *pool,
                            struct plan_group *g, struct err *reterr)
{
    struct recover_report *rep = arena_alloc(r->a, RECOVER_REPORTS_MAX * sizeof *rep);
    char *key = view_group_key(r->gw->cluster_name, r->a, &g->id);
    const struct etcd_kv *kv;
    struct group_config now;
    uint32_t n = 0;
    enum rc rc;

    if (rep == NULL || key == NULL) return err_set(reterr, RC_NOMEM, "a group");
    rc = reports(r, &g->id, rep, &n, reterr);
    if (rc != RC_OK) return rc;
    recover_decide(rep, n, pool->min_in_sync, &g->d);
    kv = there(r, key);
    g->revision = kv == NULL ? 0 : kv->mod_revision;
    if (kv != NULL && !r->foreign && group_config_decode(kv->value, &now, NULL) == RC_OK) {
        g->there = true;
        for (uint32_t i = 0; i < n; i++)
            g->there &= rep[i].config <= now.config;
    }
    if (g->there) {
        r->ret->groups_there++;
    } else if (g->d.verdict == RECOVER_OK) {
        r->ret->groups_made++;
        r->ret->replicas_behind += g->d.behind_n;
    } else {
        char id[ID128_TEXT_BYTES] = "";

        r->ret->groups_refused++;
        if (g->d.missing.n > 0) (void)id128_text(&g->d.missing.disks[0], id);
        reason(r, arena_str(r->a, "group %u/%u/%016llx: %s%s%s", g->id.pool, g->id.prefix_bits,
                            (unsigned long long)g->id.prefix, recover_text(g->d.verdict),
                            g->d.missing.n > 0 ? "; missing: disk " : "", id));
    }
    return RC_OK;
}

static enum rc decide(struct recovery *r, struct err *reterr)
{
    uint32_t at = 0;
    enum rc rc = RC_OK;

    for (uint32_t p = 0; p < r->pools_n; p++)
        r->groups_n += 1u << r->pools[p].pool.prefix_bits;
    r->groups = arena_alloc(r->a, (r->groups_n + 1) * sizeof *r->groups);
    if (r->groups == NULL) return err_set(reterr, RC_NOMEM, "the groups");
    for (uint32_t p = 0; p < r->pools_n; p++) {
        const struct placement_pool *pool = &r->pools[p].pool;

        for (uint64_t i = 0; i < 1ull << pool->prefix_bits && rc == RC_OK; i++) {
            struct plan_group *g = &r->groups[at++];

            g->id = (struct placement_group){
                .pool = pool->id,
                .prefix_bits = pool->prefix_bits,
                .prefix = pool->prefix_bits == 0 ? 0 : i << (64 - pool->prefix_bits)};
            rc = decide_group(r, pool, g, reterr);
        }
    }
    r->ret->groups = r->groups_n;
    return rc;
}

/* Only where another cluster's id, or none, stands over it: this cluster's own may know more groups
 * than this program. */
static enum rc decide_others(struct recovery *r, struct err *reterr)
{
    uint32_t n = r->kvs_n + r->pool_kvs_n;

    if (!r->foreign) return RC_OK;
    r->others = arena_alloc(r->a, (n + 1) * sizeof(const struct etcd_kv *));
    if (r->others == NULL) return err_set(reterr, RC_NOMEM, "etcd's content");
    for (uint32_t i = 0; i < n; i++)
        r->others[i] = i < r->kvs_n ? &r->kvs[i] : &r->pool_kvs[i - r->kvs_n];
    for (uint32_t i = 0; i < r->groups_n + r->pools_n; i++) {
        char *key = i < r->groups_n ? view_group_key(r->gw->cluster_name, r->a, &r->groups[i].id)
                                    : arena_str(r->a, "/mikura/%s/pools/%u", r->gw->cluster_name,
                                                r->pools[i - r->groups_n].pool.id);
        char *wish = key == NULL ? NULL : arena_str(r->a, "%s/desired", key);

        if (wish == NULL) return err_set(reterr, RC_NOMEM, "a key");
        for (uint32_t k = 0; k < n; k++) {
            if (r->others[k] != NULL &&
                (gw_slice_is(r->others[k]->key, key) || gw_slice_is(r->others[k]->key, wish)))
                r->others[k] = NULL;
        }
    }
    for (uint32_t k = 0; k < n; k++) {
        if (r->others[k] != NULL) r->others[r->others_n++] = r->others[k];
    }
    if (r->others_n > 0 && r->ret->groups_refused == 0) /* else nothing is written anyhow */
        reason(r, arena_str(r->a,
                            "%u keys of another cluster lie in etcd below pg/ and pools/, such as "
                            "%.*s: --apply deletes them",
                            r->others_n, (int)MIN(r->others[0]->key.n, (size_t)200),
                            (const char *)r->others[0]->key.p));
    return RC_OK;
}

/* ---- writing ---- */
static enum rc write_txn(struct recovery *r, const struct etcd_txn *t, struct err *reterr)
{
    bool done;
    enum rc rc = truth_txn(r->gw->etcd, t, &done, reterr);

    if (rc == RC_OK && !done)
        rc = err_set(reterr, RC_ABORTED,
                     "etcd was changed meanwhile: look again (--dry-run), then repeat");
    return rc;
}

static enum rc write_groups(struct recovery *r, uint32_t *at, struct err *reterr)
{
    struct etcd_compare *compares = arena_alloc(r->a, BATCH * sizeof *compares);
    struct etcd_op *ops = arena_alloc(r->a, 2 * BATCH * sizeof *ops);
    struct etcd_txn t = {.compares = compares, .then = ops};

    if (compares == NULL || ops == NULL) return err_set(reterr, RC_NOMEM, "the groups");
    for (; *at < r->groups_n && t.compares_n < BATCH; (*at)++) {
        const struct plan_group *g = &r->groups[*at];
        char *key = view_group_key(r->gw->cluster_name, r->a, &g->id);
        char *wish_key = key == NULL ? NULL : arena_str(r->a, "%s/desired", key);
        uint8_t *record = arena_alloc(r->a, GROUP_CONFIG_BYTES_MAX);
        uint8_t *wish = arena_alloc(r->a, GROUP_WISH_BYTES_MAX);

        if (g->there) continue;
        if (wish_key == NULL || record == NULL || wish == NULL)
            return err_set(reterr, RC_NOMEM, "the groups");
        compares[t.compares_n++] =
            (struct etcd_compare){.kind = ETCD_MOD_EQ, .key = gw_text(key), .number = g->revision};
        ops[t.then_n++] =
            (struct etcd_op){.kind = ETCD_PUT,
                             .key = gw_text(key),
                             .value = {record, group_config_encode(&g->d.record, record)}};
        ops[t.then_n++] = (struct etcd_op){.kind = ETCD_PUT,
                                           .key = gw_text(wish_key),
                                           .value = {wish, group_wish_encode(&g->d.wish, wish)}};
    }
    return t.then_n == 0 ? RC_OK : write_txn(r, &t, reterr);
}

static enum rc drop_others(struct recovery *r, uint32_t *at, struct err *reterr)
{
    struct etcd_compare *compares = arena_alloc(r->a, BATCH * sizeof *compares);
    struct etcd_op *ops = arena_alloc(r->a, BATCH * sizeof *ops);
    struct etcd_txn t = {.compares = compares, .then = ops};

    if (compares == NULL || ops == NULL) return err_set(reterr, RC_NOMEM, "another cluster's keys");
    for (; *at < r->others_n && t.then_n < BATCH; (*at)++) {
        const struct etcd_kv *kv = r->others[*at];

        compares[t.compares_n++] =
            (struct etcd_compare){.kind = ETCD_MOD_EQ, .key = kv->key, .number = kv->mod_revision};
        ops[t.then_n++] = (struct etcd_op){.kind = ETCD_DELETE, .key = kv->key};
    }
    return write_txn(r, &t, reterr);
}

static enum rc put_key(struct recovery *r, const char *leaf, struct slice value,
                       const struct etcd_compare *same, struct err *reterr)
{
    char *key = arena_str(r->a, "/mikura/%s/%s", r->gw->cluster_name, leaf);
    struct etcd_op op = {.kind = ETCD_PUT, .value = value};
    struct etcd_txn t = {
        .compares = same, .compares_n = same == NULL ? 0 : 1, .then = &op, .then_n = 1};

    if (key == NULL) return err_set(reterr, RC_NOMEM, "a key");
    op.key = gw_text(key);
    return write_txn(r, &t, reterr);
}

static enum rc write_all(struct recovery *r, struct err *reterr)
{
    char *id_key = arena_str(r->a, "/mikura/%s/id", r->gw->cluster_name);
    char *id_text = arena_alloc(r->a, ID128_TEXT_BYTES);
    char key_id[ID128_TEXT_BYTES];
    struct etcd_compare same = {.kind = ETCD_MOD_EQ, .number = r->id_revision};
    enum rc rc = RC_OK;

    if (id_key == NULL || id_text == NULL) return err_set(reterr, RC_NOMEM, "a key");
    same.key = gw_text(id_key);
    for (uint32_t p = 0; p < r->pools_n && rc == RC_OK; p++)
        rc = put_key(r, arena_str(r->a, "pools/%u", r->pools[p].pool.id), gw_text(r->pools[p].json),
                     NULL, reterr);
    for (uint32_t at = 0; at < r->groups_n && rc == RC_OK;)
        rc = write_groups(r, &at, reterr);
    for (uint32_t at = 0; at < r->others_n && rc == RC_OK;)
        rc = drop_others(r, &at, reterr);
    if (rc == RC_OK)
        rc = put_key(r, "key-fingerprint", gw_text(r->gw->master_fingerprint), NULL, reterr);
    if (rc == RC_OK && r->gw->signer != NULL)
        rc = put_key(
            r, arena_str(r->a, "signing/%s", id128_text(&signer_public(r->gw->signer)->id, key_id)),
            (struct slice){signer_public(r->gw->signer)->b, SIGN_PUBLIC_BYTES}, NULL, reterr);
    if (rc == RC_OK)
        rc = put_key(r, "recovered",
                     gw_text(arena_str(r->a, "{\"by\":\"%s\",\"unix_ms\":%llu,\"groups\":%u}",
                                       fcall_peer(r->c)->uri, (unsigned long long)clock_wall_ms(),
                                       r->ret->groups_made)),
                     NULL, reterr);
    if (rc == RC_OK) rc = put_key(r, "id", gw_text(id128_text(&r->id, id_text)), &same, reterr);
    return rc;
}

static enum rc etcd_now(struct recovery *r, struct err *reterr)
{
    char *prefix = arena_str(r->a, "/mikura/%s/pg/", r->gw->cluster_name);
    char *pools = arena_str(r->a, "/mikura/%s/pools/", r->gw->cluster_name);
    char *id_key = arena_str(r->a, "/mikura/%s/id", r->gw->cluster_name);
    char text[ID128_TEXT_BYTES];
    struct etcd_kv *kvs;
    uint32_t n;
    enum rc rc;

    if (prefix == NULL || pools == NULL || id_key == NULL)
        return err_set(reterr, RC_NOMEM, "etcd's content");
    rc = truth_prefix(r->gw->etcd, prefix, r->a, &r->kvs, &r->kvs_n, reterr);
    if (rc == RC_OK)
        rc = truth_prefix(r->gw->etcd, pools, r->a, &r->pool_kvs, &r->pool_kvs_n, reterr);
    if (rc == RC_OK)
        rc = truth_get(r->gw->etcd, gw_text(id_key), (struct slice){NULL, 0}, r->a, &kvs, &n,
                       reterr);
    if (rc != RC_OK) return rc;
    r->id_revision = n == 0 ? 0 : kvs[0].mod_revision;
    r->foreign = n == 0 || !gw_slice_is(kvs[0].value, id128_text(&r->id, text));
    return RC_OK;
}

enum rc recover_config(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__RecoverConfigRequest *req;
    Response answer = MIKURA__V1__RECOVER_CONFIG_RESPONSE__INIT;
    struct recovery r = {.c = c, .gw = gw, .a = &c->arena, .ret = &answer};
    enum rc rc = fcall_request(c, &mikura__v1__recover_config_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    list_init(&r.pages);
    answer.reasons = arena_alloc(r.a, REASONS_MAX * sizeof *answer.reasons);
    if (answer.reasons == NULL) return err_set(reterr, RC_NOMEM, "a recovery");
    if (!cluster_fresh(gw->cluster))
        return err_set(reterr, RC_UNAVAIL,
                       "etcd does not answer this gateway: start an (empty) etcd first");
    rc = gather(&r, reterr);
    if (rc == RC_OK) rc = etcd_now(&r, reterr);
    if (rc == RC_OK) rc = decide(&r, reterr);
    if (rc == RC_OK) rc = decide_others(&r, reterr);
    if (rc != RC_OK) return rc;
    answer.cluster_id = nodes_id(r.a, &r.id);
    log_warn("recover_config",
             "rid=%s by=%s apply=%d nodes=%u silent=%u groups=%u there=%u made=%u "
             "refused=%u behind=%u others=%u",
             fcall_rid(c), fcall_peer(c)->uri, req->apply, answer.nodes, answer.nodes_silent,
             answer.groups, answer.groups_there, answer.groups_made, answer.groups_refused,
             answer.replicas_behind, r.others_n);
    if (req->apply && answer.groups_refused > 0)
        return err_set(reterr, RC_PRECOND,
                       "%u groups can't be decided, nothing was written: %.100s",
                       answer.groups_refused,
                       answer.n_reasons == 0 ? "" : answer.reasons[answer.n_reasons - 1]);
    if (req->apply && (r.foreign || answer.groups_made > 0)) {
        rc = write_all(&r, reterr);
        if (rc != RC_OK) return rc;
        answer.applied = true;
        log_warn("recovered", "rid=%s by=%s groups=%u", fcall_rid(c), fcall_peer(c)->uri,
                 answer.groups_made);
    }
    return fcall_send(c, &answer.base);
}
