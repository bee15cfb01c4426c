/* gateway/manager/manager.c - reads the groups' records and wishes from etcd, asks planner_core,
 * writes what it says.
 *
 * Each pass reads all records anew, so what it knows is never older than the pass; a transaction
 * that fails its compares ends the pass, and the next one starts from what is there. */
#include "gateway/manager/manager.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/placement/group_config.h"
#include "gateway/manager/truth.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PASS_MS  1000u
#define QUIET_MS 10000u /* between passes when nothing has changed */
#define FEW_DISKS_MS                                                                               \
    15000u /* how long new groups wait for `copies` disks before they begin with less */
#define MOVES_MAX   16u
#define CHANGES_MAX 64u
#define BATCH       16u
#define DISKS_MAX   (CLUSTER_NODES_MAX * 4u)

struct seen_disk { /* in the manager's own time: when it was last there */
    struct id128 id;
    uint64_t last_ms;
};
struct manager {
    struct manager_conf conf;
    struct etcd_election *election;
    struct truth_fence fence;
    bool leads, stop, changed;
    struct fiber_event wake;
    uint64_t few_since_ms, passed_ms;
    struct seen_disk *seen;
    uint32_t seen_n, seen_max;
};

static void on_won(void *data, struct slice key, int64_t create_revision)
{
    struct manager *m = data;

    if (key.n > sizeof m->fence.key) return;
    memcpy(m->fence.key, key.p, key.n);
    m->fence.key_n = key.n;
    m->fence.create_revision = create_revision;
    m->leads = m->changed = true;
    m->few_since_ms = 0;
    m->seen_n = 0; /* patience starts anew */
    log_info("manager_elected", "key=%.*s", (int)key.n, (const char *)key.p);
    fiber_event_set(&m->wake);
}

static void on_lost(void *data)
{
    struct manager *m = data;

    if (m->leads) log_info("manager_lost", "why=election");
    m->leads = false;
}

/* ---- pools ---- */
static enum rc pool_make(struct manager *m, uint32_t id, struct err *reterr)
{
    struct placement_pool p = {.id = id,
                               .prefix_bits = m->conf.prefix_bits,
                               .copies = m->conf.copies,
                               .min_in_sync = m->conf.min_in_sync,
                               .failure_domain = PLACEMENT_HOST};
    struct etcd_compare compares[2];
    struct etcd_op put = {.kind = ETCD_PUT};
    struct etcd_txn t = {.compares = compares, .compares_n = 2, .then = &put, .then_n = 1};
    char key[160], *text = NULL;
    bool made;
    enum rc rc = placement_pool_check(&p, reterr);

    if (rc != RC_OK) return rc;
    (void)snprintf(key, sizeof key, "/mikura/%s/pools/%u", m->conf.cluster_name, id);
    put.key = (struct slice){(const uint8_t *)key, strlen(key)};
    text = cluster_pool_json(&p);
    if (text == NULL) return err_set(reterr, RC_NOMEM, "a pool");
    put.value = (struct slice){(const uint8_t *)text, strlen(text)};
    compares[0] = truth_fence_compare(&m->fence);
    compares[1] = (struct etcd_compare){.kind = ETCD_CREATE_EQ, .key = put.key, .number = 0};
    rc = truth_txn(m->conf.etcd, &t, &made, reterr);
    if (rc == RC_OK && made) log_info("pool_made", "pool=%u %s", id, text);
    free(text);
    return rc;
}

/* ---- what is there ---- */
struct view {
    struct arena a;
    const struct placement_pool *pool;
    struct planner_disk *disks;
    uint32_t disks_n;
    struct planner_group *groups;
    int64_t *wish_revision; /* 0 = no wish yet */
    uint32_t groups_n;
    uint32_t alive_n;
};

/* Domains as numbers: the same text, the same number; the node's host lies in its rack and zone. */
static uint32_t domain_number(const char *text)
{
    uint32_t h = 2166136261u; /* FNV-1a; a clash only makes two domains look like one */

    for (const char *p = text; *p != 0; p++)
        h = (h ^ (uint8_t)*p) * 16777619u;
    return h;
}

static struct seen_disk *seen_disk(struct manager *m, const struct id128 *id, uint64_t now_ms)
{
    for (uint32_t i = 0; i < m->seen_n; i++) {
        if (id128_eq(&m->seen[i].id, id)) return &m->seen[i];
    }
    if (m->seen_n == m->seen_max) {
        uint32_t max = m->seen_max == 0 ? 64 : m->seen_max * 2;
        struct seen_disk *s = max > DISKS_MAX ? NULL : realloc(m->seen, max * sizeof *s);

        if (s == NULL) return NULL;
        m->seen = s;
        m->seen_max = max;
    }
    m->seen[m->seen_n] = (struct seen_disk){*id, now_ms};
    return &m->seen[m->seen_n++];
}

static void view_disk(struct view *v, const struct id128 *id, uint32_t weight, bool gone,
                      const uint32_t domain[3])
{
    for (uint32_t i = 0; i < v->disks_n; i++) {
        if (id128_eq(&v->disks[i].place.id, id)) return;
    }
    if (v->disks_n == DISKS_MAX) return;
    v->disks[v->disks_n].place.id = *id;
    v->disks[v->disks_n].place.weight = weight;
    v->disks[v->disks_n].gone = gone;
    memcpy(v->disks[v->disks_n].place.domain, domain, 3 * sizeof *domain);
    v->disks_n++;
}

static void view_nodes(struct manager *m, struct view *v, uint64_t now_ms)
{
    for (const struct cluster_node *n = cluster_node_next(m->conf.cluster, NULL); n != NULL;
         n = cluster_node_next(m->conf.cluster, n)) {
        char text[256];
        uint32_t domain[3];

        if (strcmp(n->kind, "storaged") != 0) continue;
        domain[0] = domain_number(n->zone);
        (void)snprintf(text, sizeof text, "%s/%s", n->zone, n->rack);
        domain[1] = domain_number(text);
        (void)snprintf(text, sizeof text, "%s/%s/%s", n->zone, n->rack, n->host);
        domain[2] = domain_number(text);
        for (uint32_t i = 0; i < n->disks_n; i++) {
            struct seen_disk *s = seen_disk(m, &n->disks[i].id, now_ms);
            uint64_t gib = n->disks[i].total_bytes >> 30;

            if (n->alive && s != NULL) s->last_ms = now_ms;
            if (n->alive) v->alive_n++;
            view_disk(v, &n->disks[i].id, (uint32_t)MAX(1, MIN(gib, 1u << 20)),
                      !n->alive && s != NULL && now_ms - s->last_ms > m->conf.patience_ms, domain);
        }
    }
}

/* Disks that records name and no node has told of: their time runs too. */
static void view_members(struct manager *m, struct view *v, uint64_t now_ms)
{
    static const uint32_t NOWHERE[3] = {0, 0, 0};

    for (uint32_t g = 0; g < v->groups_n; g++) {
        const struct planner_group *pg = &v->groups[g];

        for (uint32_t i = 0; i < pg->desired_n; i++) {
            const struct seen_disk *s = seen_disk(m, &pg->desired[i], now_ms);

            view_disk(v, &pg->desired[i], 1, s != NULL && now_ms - s->last_ms > m->conf.patience_ms,
                      NOWHERE);
        }
    }
}

static char *group_key(struct manager *m, struct arena *a, const struct placement_group *g)
{
    return arena_str(a, "/mikura/%s/pg/%u/%u/%016llx", m->conf.cluster_name, g->pool,
                     g->prefix_bits, (unsigned long long)g->prefix);
}

static enum rc view_groups(struct manager *m, struct view *v, struct err *reterr)
{
    char *prefix = arena_str(&v->a, "/mikura/%s/pg/%u/", m->conf.cluster_name, v->pool->id);
    struct etcd_kv *kvs;
    uint32_t kvs_n;
    enum rc rc;

    v->groups_n = 1u << v->pool->prefix_bits;
    v->groups = arena_alloc(&v->a, v->groups_n * sizeof *v->groups);
    v->wish_revision = arena_alloc(&v->a, v->groups_n * sizeof *v->wish_revision);
    if (prefix == NULL || v->groups == NULL || v->wish_revision == NULL)
        return err_set(reterr, RC_NOMEM, "a pool's groups");
    for (uint32_t i = 0; i < v->groups_n; i++) {
        v->groups[i].group.pool = v->pool->id;
        v->groups[i].group.prefix_bits = v->pool->prefix_bits;
        v->groups[i].group.prefix =
            v->pool->prefix_bits == 0 ? 0 : (uint64_t)i << (64 - v->pool->prefix_bits);
    }
    rc = truth_prefix(m->conf.etcd, prefix, &v->a, &kvs, &kvs_n, reterr);
    for (uint32_t i = 0; i < kvs_n && rc == RC_OK; i++) {
        char text[128], *end, *rest;
        struct planner_group *g;
        struct group_config cfg;
        struct group_set wish;
        uint64_t bits, hash;

        if (kvs[i].key.n - strlen(prefix) >= sizeof text) continue;
        memcpy(text, kvs[i].key.p + strlen(prefix), kvs[i].key.n - strlen(prefix));
        text[kvs[i].key.n - strlen(prefix)] = 0;
        bits = strtoull(text, &end, 10);
        if (*end != '/' || bits != v->pool->prefix_bits) continue; /* of before a split */
        hash = strtoull(end + 1, &rest, 16);
        g = &v->groups[bits == 0 ? 0 : hash >> (64 - bits)];
        if (*rest == 0) {
            rc = group_config_decode(kvs[i].value, &cfg, reterr);
            if (rc != RC_OK) break;
            g->exists = true;
            g->in_sync_n = cfg.in_sync.n;
            memcpy(g->in_sync, cfg.in_sync.disks, cfg.in_sync.n * sizeof *g->in_sync);
        } else if (strcmp(rest, "/desired") == 0) {
            rc = group_wish_decode(kvs[i].value, &wish, reterr);
            if (rc != RC_OK) break;
            g->desired_n = wish.n;
            memcpy(g->desired, wish.disks, wish.n * sizeof *g->desired);
            v->wish_revision[g - v->groups] = kvs[i].mod_revision;
        }
    }
    for (uint32_t i = 0; i < v->groups_n; i++) { /* no wish: it wishes for what it has */
        struct planner_group *g = &v->groups[i];

        if (!g->exists || g->desired_n != 0) continue;
        g->desired_n = g->in_sync_n;
        memcpy(g->desired, g->in_sync, sizeof g->desired);
    }
    return rc;
}

/* ---- carrying out ---- */
struct batch {
    struct etcd_compare compares[1 + BATCH];
    struct etcd_op ops[2 * BATCH];
    uint32_t compares_n, ops_n;
};

static enum rc batch_add(struct manager *m, struct view *v, const struct planner_change *ch,
                         struct batch *b, struct err *reterr)
{
    const struct planner_group *g = &v->groups[ch->group_idx];
    char *key = group_key(m, &v->a, &g->group);
    char *wish_key = key == NULL ? NULL : arena_str(&v->a, "%s/desired", key);
    uint8_t *wish = arena_alloc(&v->a, GROUP_WISH_BYTES_MAX);
    uint8_t *record = arena_alloc(&v->a, GROUP_CONFIG_BYTES_MAX);
    struct etcd_op *op;
    struct group_set set = {.n = ch->desired_n};

    if (wish_key == NULL || wish == NULL || record == NULL)
        return err_set(reterr, RC_NOMEM, "a group's record");
    memcpy(set.disks, ch->desired, ch->desired_n * sizeof *set.disks);
    op = &b->ops[b->ops_n++];
    op->kind = ETCD_PUT;
    op->key = (struct slice){(const uint8_t *)wish_key, strlen(wish_key)};
    op->value = (struct slice){wish, group_wish_encode(&set, wish)};
    if (ch->why == PLANNER_NEW) {
        struct group_config cfg;

        group_config_first(&set, &cfg);
        op = &b->ops[b->ops_n++];
        op->kind = ETCD_PUT;
        op->key = (struct slice){(const uint8_t *)key, strlen(key)};
        op->value = (struct slice){record, group_config_encode(&cfg, record)};
        b->compares[b->compares_n++] =
            (struct etcd_compare){.kind = ETCD_CREATE_EQ, .key = op->key, .number = 0};
    } else {
        b->compares[b->compares_n++] = (struct etcd_compare){
            .kind = ETCD_MOD_EQ, .key = op->key, .number = v->wish_revision[ch->group_idx]};
    }
    log_info("group_wish", "pool=%u prefix=%016llx why=%d copies=%u", g->group.pool,
             (unsigned long long)g->group.prefix, (int)ch->why, ch->desired_n);
    return RC_OK;
}

static enum rc carry_out(struct manager *m, struct view *v, const struct planner_change *ch,
                         uint32_t n, struct err *reterr)
{
    struct batch *b = arena_alloc(&v->a, sizeof *b);
    bool done = true;
    enum rc rc = RC_OK;

    if (b == NULL) return err_set(reterr, RC_NOMEM, "a plan");
    for (uint32_t i = 0; i < n && rc == RC_OK && done && m->leads;) {
        struct etcd_txn t = {.compares = b->compares, .then = b->ops};

        b->compares[0] = truth_fence_compare(&m->fence);
        b->compares_n = 1;
        b->ops_n = 0;
        for (uint32_t k = 0; k < BATCH && i < n && rc == RC_OK; k++, i++)
            rc = batch_add(m, v, &ch[i], b, reterr);
        t.compares_n = b->compares_n;
        t.then_n = b->ops_n;
        if (rc == RC_OK) rc = truth_txn(m->conf.etcd, &t, &done, reterr);
    }
    if (rc == RC_OK && !done) m->changed = true; /* somebody wrote meanwhile: look again */
    return rc;
}

/* New groups wait until there are disks for all copies, or long enough. */
static bool new_groups_may_start(struct manager *m, const struct view *v, uint64_t now_ms)
{
    if (v->alive_n >= v->pool->copies) return true;
    if (v->alive_n < v->pool->min_in_sync) {
        m->few_since_ms = 0;
        return false;
    }
    if (m->few_since_ms == 0) m->few_since_ms = now_ms;
    return now_ms - m->few_since_ms >= FEW_DISKS_MS;
}

static enum rc plan_pool(struct manager *m, const struct placement_pool *pool, struct err *reterr)
{
    struct view v = {.pool = pool};
    struct planner_in in;
    struct planner_change *ch;
    struct placement_disk *places;
    uint32_t *load, n, kept = 0;
    uint64_t now_ms = clock_boot_ms();
    enum rc rc;

    arena_init(&v.a);
    v.disks = arena_alloc(&v.a, DISKS_MAX * sizeof *v.disks);
    rc = v.disks == NULL ? err_set(reterr, RC_NOMEM, "the cluster's disks") : RC_OK;
    if (rc == RC_OK) rc = view_groups(m, &v, reterr);
    if (rc != RC_OK) goto out;
    view_nodes(m, &v, now_ms);
    view_members(m, &v, now_ms);
    ch = arena_alloc(&v.a, CHANGES_MAX * sizeof *ch);
    places = arena_alloc(&v.a, (v.disks_n + 1) * sizeof *places);
    load = arena_alloc(&v.a, (v.disks_n + 1) * sizeof *load);
    if (ch == NULL || places == NULL || load == NULL) {
        rc = err_set(reterr, RC_NOMEM, "a plan");
        goto out;
    }
    in = (struct planner_in){.pool = pool,
                             .disks = v.disks,
                             .disks_n = v.disks_n,
                             .groups = v.groups,
                             .groups_n = v.groups_n,
                             .moves_max = MOVES_MAX};
    n = planner_plan(&in, places, load, ch, CHANGES_MAX);
    for (uint32_t i = 0; i < n; i++) {
        if (ch[i].why == PLANNER_NEW && !new_groups_may_start(m, &v, now_ms)) continue;
        if (ch[i].why == PLANNER_NEW && ch[i].desired_n < pool->min_in_sync) continue;
        ch[kept++] = ch[i];
    }
    if (kept == CHANGES_MAX) m->changed = true; /* there may be more */
    if (kept > 0) rc = carry_out(m, &v, ch, kept, reterr);
out:
    arena_deinit(&v.a);
    return rc;
}

static void pass(struct manager *m)
{
    static const uint32_t POOLS[] = {MANAGER_POOL_META, MANAGER_POOL_DATA};
    struct err err = {0};
    enum rc rc = RC_OK;

    m->changed = false;
    m->passed_ms = clock_boot_ms();
    for (size_t i = 0; i < ARRAY_N(POOLS) && rc == RC_OK && m->leads && !m->stop; i++) {
        const struct placement_pool *known = cluster_pool(m->conf.cluster, POOLS[i]);
        struct placement_pool pool;

        if (known == NULL) {
            rc = pool_make(m, POOLS[i], &err);
            m->changed = true; /* its record comes back through the mirror */
            continue;
        }
        pool = *known; /* the mirror may change while we wait */
        rc = plan_pool(m, &pool, &err);
    }
    if (rc != RC_OK) {
        m->changed = true;
        log_warn("manager_pass", "rc=%s why=%s", rc_name(rc), err.msg);
    }
}

void manager_run(void *arg)
{
    struct manager *m = arg;

    while (!m->stop) {
        if (m->leads && cluster_fresh(m->conf.cluster) &&
            (m->changed || clock_boot_ms() - m->passed_ms >= QUIET_MS)) {
            pass(m);
        }
        /* woken by a change or by time: both mean another look. New disks come in a burst: a pass
         * a second at most, but for the first. */
        (void)!fiber_event_wait_ms(&m->wake, PASS_MS);
    }
}

void manager_changed(struct manager *m)
{
    if (m == NULL) return;
    m->changed = true;
    fiber_event_set(&m->wake);
}

bool manager_leads(const struct manager *m)
{
    return m->leads;
}

enum rc manager_open(const struct manager_conf *conf, struct manager **ret_manager,
                     struct err *reterr)
{
    struct manager *m = calloc(1, sizeof *m);
    char prefix[160];
    enum rc rc;

    if (m == NULL) return err_set(reterr, RC_NOMEM, "the manager");
    m->conf = *conf;
    (void)snprintf(prefix, sizeof prefix, "/mikura/%s/elect/manager", conf->cluster_name);
    rc = etcd_election_open(conf->etcd, prefix, conf->address, on_won, on_lost, m, &m->election);
    if (rc != RC_OK) {
        free(m);
        return err_set(reterr, rc, "the manager's election");
    }
    *ret_manager = m;
    return RC_OK;
}

void manager_stop(struct manager *m)
{
    if (m == NULL) return;
    m->stop = true;
    m->leads = false;
    etcd_election_close(m->election);
    m->election = NULL;
    fiber_event_set(&m->wake);
}

void manager_free(struct manager *m)
{
    if (m == NULL) return;
    free(m->seen);
    free(m);
}
