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
#define GAP_MS   100u   /* between passes, whatever happens */
#define QUIET_MS 10000u /* between passes when nothing has changed */
#define FEW_DISKS_MS                                                                               \
    15000u /* how long new groups wait for `copies` disks before they begin with less */
#define MOVES_MAX      16u
#define DISK_MOVES_MAX 8u
#define CHANGES_MAX    64u
#define BATCH          16u

struct manager {
    struct manager_conf conf;
    struct etcd_election *election;
    struct truth_fence fence;
    bool leads, stop, changed, blind, held;
    struct fiber_event wake;
    uint64_t few_since_ms, passed_ms;
    uint64_t made_ms; /* when this manager last made groups; 0: never */
    struct seen seen;
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
/* Storage nodes whose disks belong to another cluster: etcd was wiped, or is not theirs. Nothing
 * new may be made then; what there was must be recovered. */
bool manager_foreign(const struct manager *m)
{
    const struct id128 *id = cluster_id(m->conf.cluster);

    for (const struct cluster_node *n = cluster_node_next(m->conf.cluster, NULL); n != NULL;
         n = cluster_node_next(m->conf.cluster, n)) {
        if (!id128_is_zero(&n->cluster) && (id == NULL || !id128_eq(&n->cluster, id))) return true;
    }
    return id == NULL || !id128_eq(id, &m->conf.cluster_id);
}

static enum rc pool_make(struct manager *m, uint32_t id, struct err *reterr)
{
    struct placement_pool p = {.id = id,
                               .prefix_bits = m->conf.prefix_bits,
                               .copies = m->conf.copies,
                               .min_in_sync = m->conf.min_in_sync,
                               .failure_domain = m->conf.failure_domain};
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
    char *key = view_group_key(m->conf.cluster_name, v->a, &g->group);
    char *wish_key = key == NULL ? NULL : arena_str(v->a, "%s/desired", key);
    uint8_t *wish = arena_alloc(v->a, GROUP_WISH_BYTES_MAX);
    uint8_t *record = arena_alloc(v->a, GROUP_CONFIG_BYTES_MAX);
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
    struct batch *b = arena_alloc(v->a, sizeof *b);
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
static bool new_groups_may_start(struct manager *m, const struct view *v,
                                 const struct planner_change *ch)
{
    const struct placement_pool *p = v->pools;

    while (p->id != v->groups[ch->group_idx].group.pool)
        p++;
    if (ch->desired_n < p->min_in_sync) return false;
    if (v->disks_alive_n >= p->copies) return true;
    if (v->disks_alive_n < p->min_in_sync) {
        m->few_since_ms = 0;
        return false;
    }
    if (m->few_since_ms == 0) m->few_since_ms = v->now_ms;
    return v->now_ms - m->few_since_ms >= FEW_DISKS_MS;
}

/* ---- nodes that were removed and that nothing names any more ---- */
static enum rc forget_node(struct manager *m, struct view *v, const struct view_node *n,
                           struct err *reterr)
{
    char id[ID128_TEXT_BYTES];
    char *state = arena_str(v->a, "/mikura/%s/node-state/%s", m->conf.cluster_name, n->name);
    char *perm =
        arena_str(v->a, "/mikura/%s/nodes-perm/%s", m->conf.cluster_name, id128_text(&n->id, id));
    char *leased = arena_str(v->a, "/mikura/%s/nodes/storaged/%s", m->conf.cluster_name, n->name);
    struct etcd_op ops[2] = {{.kind = ETCD_DELETE}, {.kind = ETCD_DELETE}};
    struct etcd_compare compares[2] = {truth_fence_compare(&m->fence),
                                       {.kind = ETCD_CREATE_EQ, .number = 0}};
    struct etcd_txn t = {.compares = compares, .compares_n = 2, .then = ops, .then_n = 2};
    bool done;
    enum rc rc;

    if (state == NULL || perm == NULL || leased == NULL)
        return err_set(reterr, RC_NOMEM, "a removed node");
    ops[0].key = (struct slice){(const uint8_t *)state, strlen(state)};
    ops[1].key = (struct slice){(const uint8_t *)perm, strlen(perm)};
    compares[1].key = (struct slice){(const uint8_t *)leased, strlen(leased)}; /* still away */
    rc = truth_txn(m->conf.etcd, &t, &done, reterr);
    if (rc == RC_OK && done) log_info("node_forgotten", "node=%s", n->name);
    return rc;
}

static enum rc forget_nodes(struct manager *m, struct view *v, struct err *reterr)
{
    enum rc rc = RC_OK;

    for (uint32_t i = 0; i < v->nodes_n && rc == RC_OK; i++) {
        const struct view_node *n = &v->nodes[i];

        if (n->intent.state == INTENT_REMOVE && !n->alive && !n->used)
            rc = forget_node(m, v, n, reterr);
    }
    return rc;
}

static struct view_conf view_conf(struct manager *m, bool etcd)
{
    return (struct view_conf){.etcd = etcd ? m->conf.etcd : NULL,
                              .cluster = m->conf.cluster,
                              .cluster_name = m->conf.cluster_name,
                              .seen = &m->seen,
                              .patience_ms = m->conf.patience_ms,
                              .pool_ids = {MANAGER_POOL_META, MANAGER_POOL_DATA}};
}

enum rc manager_view(struct manager *m, bool etcd, struct arena *a, struct view *ret,
                     struct err *reterr)
{
    struct view_conf c = view_conf(m, etcd);
    enum rc rc = view_make(&c, a, ret, reterr);

    ret->in.moves_max = MOVES_MAX;
    ret->in.disk_moves_max = DISK_MOVES_MAX;
    return rc;
}

void manager_judge(struct manager *m, struct view *v)
{
    view_judge(v, &m->seen, m->conf.patience_ms);
}

/* The groups were made as soon as there were disks enough; whoever came a moment later was started
 * with the others, and waits for no operator. */
static enum rc admit(struct manager *m, struct view *v, struct err *reterr)
{
    enum rc rc = RC_OK;

    if (m->made_ms == 0 || v->now_ms - m->made_ms > m->conf.admit_ms) return RC_OK;
    for (uint32_t i = 0; i < v->nodes_n && rc == RC_OK; i++) {
        const struct view_node *n = &v->nodes[i];
        struct intent in = {.state = INTENT_IN, .by = "the start of the cluster"};
        char *key = arena_str(v->a, "/mikura/%s/node-state/%s", m->conf.cluster_name, n->name),
             *json;
        struct etcd_compare compares[2] = {truth_fence_compare(&m->fence),
                                           {.kind = ETCD_CREATE_EQ, .number = 0}};
        struct etcd_op op = {.kind = ETCD_PUT};
        struct etcd_txn t = {.compares = compares, .compares_n = 2, .then = &op, .then_n = 1};
        bool done;

        if (!n->alive || n->disks_n == 0 || !v->disks[n->disk_idx[0]].fresh) continue;
        in.since_unix_ms = (int64_t)clock_wall_ms();
        json = intent_json(&in);
        if (key == NULL || json == NULL) {
            free(json);
            return err_set(reterr, RC_NOMEM, "a node's state");
        }
        compares[1].key = op.key = (struct slice){(const uint8_t *)key, strlen(key)};
        op.value = (struct slice){(const uint8_t *)json, strlen(json)};
        rc = truth_txn(m->conf.etcd, &t, &done, reterr);
        free(json);
        if (rc == RC_OK && done) log_info("node_admitted", "node=%s", n->name);
        m->changed = true;
    }
    return rc;
}

static enum rc plan(struct manager *m, struct view *v, struct err *reterr)
{
    struct planner_change *ch = arena_alloc(v->a, CHANGES_MAX * sizeof *ch);
    uint32_t n, kept = 0;
    enum rc rc;
    bool held = planner_hold(&v->in);

    if (ch == NULL) return err_set(reterr, RC_NOMEM, "a plan");
    if (held != m->held)
        log_warn("manager_hold", "held=%d why=%s", held,
                 held ? "more than a quarter of the hosts are away" : "enough are there again");
    m->held = held;
    n = planner_plan(&v->in, &v->scratch, ch, CHANGES_MAX);
    for (uint32_t i = 0; i < n; i++) {
        if (ch[i].why == PLANNER_NEW && !new_groups_may_start(m, v, &ch[i])) continue;
        if (ch[i].why == PLANNER_NEW) m->made_ms = v->now_ms;
        ch[kept++] = ch[i];
    }
    rc = admit(m, v, reterr);
    if (rc != RC_OK) return rc;
    if (kept == CHANGES_MAX) m->changed = true; /* there may be more */
    return kept > 0 ? carry_out(m, v, ch, kept, reterr) : forget_nodes(m, v, reterr);
}

static bool pass(struct manager *m)
{
    static const uint32_t POOLS[] = {MANAGER_POOL_META, MANAGER_POOL_DATA};
    struct err err = {0};
    struct arena a;
    struct view *v;
    enum rc rc = RC_OK;

    m->changed = false;
    m->passed_ms = clock_boot_ms();
    for (size_t i = 0; i < ARRAY_N(POOLS) && rc == RC_OK && m->leads && !m->stop; i++) {
        if (cluster_pool(m->conf.cluster, POOLS[i]) != NULL) continue;
        rc = pool_make(m, POOLS[i], &err);
        m->changed = true; /* its record comes back through the mirror */
    }
    arena_init(&a);
    v = arena_alloc(&a, sizeof *v);
    if (v == NULL) rc = err_set(&err, RC_NOMEM, "a view");
    if (rc == RC_OK && m->leads && !m->stop) rc = manager_view(m, true, &a, v, &err);
    if (rc == RC_OK && m->leads && !m->stop) rc = plan(m, v, &err);
    arena_deinit(&a);
    if (rc != RC_OK) {
        m->changed = true;
        log_warn("manager_pass", "rc=%s why=%s", rc_name(rc), err.msg);
    }
    return rc == RC_OK;
}

/* Every gateway keeps count of who is there, so that patience does not begin anew with each
 * manager. Whoever could not see for a while (etcd was away) has seen nobody go. */
static void look(struct manager *m)
{
    if (!cluster_fresh(m->conf.cluster)) {
        m->blind = true;
        return;
    }
    if (m->blind) seen_forget(&m->seen);
    m->blind = false;
    seen_look(&m->seen, m->conf.cluster, clock_boot_ms());
}

void manager_run(void *arg)
{
    struct manager *m = arg;

    while (!m->stop) {
        bool more = false;

        look(m);
        if (m->leads && cluster_fresh(m->conf.cluster) && !manager_foreign(m) &&
            (m->changed || clock_boot_ms() - m->passed_ms >= QUIET_MS)) {
            more = pass(m) && m->changed;
            fiber_sleep_ms(GAP_MS);
        }
        /* woken by a change or by time: both mean another look */
        if (!m->stop && !more) (void)!fiber_event_wait_ms(&m->wake, PASS_MS);
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
    seen_free(&m->seen);
    free(m);
}
