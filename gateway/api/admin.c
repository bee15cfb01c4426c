/* gateway/api/admin.c - what operators ask: is all well, which nodes, which groups, which keys.
 *
 * Group states come from the map in etcd (which copies are in sync, which nodes have their lease),
 * sizes from the storage nodes themselves. A node that does not answer is told as such; no number
 * is made up for it. */
#include "common/base/log.h"
#include "gateway/api/jobs.h"
#include "gateway/api/listing.h"
#include "gateway/api/nodes.h"
#include "gateway/manager/manager.h"
#include "gateway/manager/truth.h"
#include "proto/mikura/v1/admin.pb-c.h"
#include <inttypes.h>

#define REASONS_MAX 64u
#define GROUP_BATCH 256u

typedef Mikura__V1__ClusterStatus Status;

/* ---- groups ---- */
static bool disk_alive(const struct gw *gw, const struct id128 *disk)
{
    const struct cluster_node *n = cluster_node_of_disk(gw->cluster, disk);

    return n != NULL && n->alive;
}

static Mikura__V1__Health group_health(const struct gw *gw, const struct cluster_group *g)
{
    const struct placement_pool *p = cluster_pool(gw->cluster, g->group.pool);
    uint32_t alive = 0;

    for (uint32_t i = 0; i < g->in_sync_n; i++) {
        if (disk_alive(gw, &g->in_sync[i])) alive++;
    }
    if (p == NULL) return MIKURA__V1__HEALTH__HEALTH_UNSPECIFIED;
    if (alive == 0 || !disk_alive(gw, &g->primary))
        return MIKURA__V1__HEALTH__HEALTH_UNAVAILABLE; /* until a backup takes over */
    if (alive < p->min_in_sync) return MIKURA__V1__HEALTH__HEALTH_READ_ONLY;
    if (alive < p->copies) return MIKURA__V1__HEALTH__HEALTH_DEGRADED;
    return MIKURA__V1__HEALTH__HEALTH_OK;
}

/* What its primary's node tells of the last comparison of its replicas; NULL: nothing. */
static const Mikura__Internal__V1__GroupCompared *
compared(const struct gw *gw, const struct node_look *l, uint32_t n, const struct cluster_group *g)
{
    const struct cluster_node *node = cluster_node_of_disk(gw->cluster, &g->primary);

    for (uint32_t i = 0; i < n && node != NULL; i++) {
        if (l[i].status == NULL || !id128_eq(&l[i].node->id, &node->id)) continue;
        for (size_t k = 0; k < l[i].status->n_compared; k++) {
            const Mikura__Internal__V1__GroupCompared *c = l[i].status->compared[k];

            if (c->pool == g->group.pool && c->prefix_bits == g->group.prefix_bits &&
                c->prefix == g->group.prefix)
                return c;
        }
    }
    return NULL;
}

static Mikura__V1__Group *group_message(const struct gw *gw, struct arena *a,
                                        const struct node_look *l, uint32_t n,
                                        const struct cluster_group *g)
{
    const Mikura__Internal__V1__GroupCompared *c = compared(gw, l, n, g);
    Mikura__V1__Group *m = arena_alloc(a, sizeof *m);

    if (m == NULL) return NULL;
    mikura__v1__group__init(m);
    m->pool = g->group.pool;
    m->prefix_bits = g->group.prefix_bits;
    m->prefix = g->group.prefix;
    m->config = g->config;
    m->epoch = g->epoch;
    m->primary_disk = nodes_id(a, &g->primary);
    m->in_sync_disks = arena_alloc(a, g->in_sync_n * sizeof *m->in_sync_disks);
    m->learner_disks = arena_alloc(a, g->learners_n * sizeof *m->learner_disks);
    if (m->in_sync_disks == NULL || m->learner_disks == NULL) return NULL;
    for (uint32_t i = 0; i < g->in_sync_n; i++)
        m->in_sync_disks[m->n_in_sync_disks++] = nodes_id(a, &g->in_sync[i]);
    for (uint32_t i = 0; i < g->learners_n; i++)
        m->learner_disks[m->n_learner_disks++] = nodes_id(a, &g->learners[i]);
    m->health = group_health(gw, g);
    if (c == NULL) return m;
    m->compared_unix_ms = c->unix_ms;
    m->difference = arena_str(a, "%s", c->difference);
    return m->difference == NULL ? NULL : m;
}

static enum rc list_groups(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__ListGroupsRequest *req;
    Mikura__V1__Group **all;
    struct node_look *l = NULL;
    uint32_t n = 0, max = 0, nodes_n = 0;
    enum rc rc = fcall_request(c, &mikura__v1__list_groups_request__descriptor, &req, reterr);

    if (rc == RC_OK) rc = nodes_look(gw, &c->arena, &l, &nodes_n, reterr);
    if (rc != RC_OK) return rc;
    for (const struct cluster_group *g = cluster_group_next(gw->cluster, NULL); g != NULL;
         g = cluster_group_next(gw->cluster, g))
        max++;
    all = arena_alloc(&c->arena, max * sizeof *all);
    if (all == NULL) rc = err_set(reterr, RC_NOMEM, "the groups");
    /* all of them before the first send: the map may change while we wait */
    for (const struct cluster_group *g = cluster_group_next(gw->cluster, NULL);
         g != NULL && n < max && rc == RC_OK; g = cluster_group_next(gw->cluster, g)) {
        all[n] = group_message(gw, &c->arena, l, nodes_n, g);
        if (all[n++] == NULL) rc = err_set(reterr, RC_NOMEM, "the groups");
    }
    nodes_look_end(l, nodes_n);
    for (uint32_t i = 0; i < n && rc == RC_OK; i += GROUP_BATCH) {
        Mikura__V1__ListGroupsResponse m = MIKURA__V1__LIST_GROUPS_RESPONSE__INIT;

        m.groups = all + i;
        m.n_groups = MIN(n - i, GROUP_BATCH);
        rc = fcall_send(c, &m.base);
    }
    return rc;
}

/* ---- the whole ---- */
struct looking {
    struct fcall *c;
    Status *m;
    uint32_t collections, full_n; /* full_n: disks */
    struct err err;
};

static void reason(struct looking *lk, const char *text)
{
    if (text != NULL && lk->m->n_reasons < REASONS_MAX)
        lk->m->reasons[lk->m->n_reasons++] = (char *)(uintptr_t)text;
}

/* A disk that is not well, with what to do: full, damaged (nothing: it is being rebuilt), or why it
 * is out. */
static const char *disk_told(struct arena *a, const Mikura__Internal__V1__DiskStatus *s,
                             const char *node)
{
    if (strcmp(s->state, "full") == 0)
        return arena_str(
            a,
            "disk %s of storaged '%s' is full (%llu bytes free): delete objects, or what "
            "else lies on its file system, or add a disk or node",
            s->path, node,
            (unsigned long long)(s->total_bytes - MIN(s->used_bytes, s->total_bytes)));
    if (strncmp(s->state, "damaged", 7) == 0)
        return arena_str(a, "disk %s of storaged '%s' is %s", s->path, node, s->state);
    return arena_str(a,
                     "disk %s of storaged '%s' is out (%s): replace it; its copies are made "
                     "elsewhere",
                     s->path, node, s->state);
}

static enum rc count_case(void *arg, const struct gw_case_line *line)
{
    struct looking *lk = arg;

    if (line->head.generation > 0 && line->head.state != RECORD_CASE_WITHDRAWN) lk->m->cases++;
    return RC_OK;
}

static enum rc look_collection(void *arg, struct slice name, const struct record_list *row)
{
    struct looking *lk = arg;
    struct arena *a = &lk->c->arena;
    struct gw *gw = lk->c->service;
    struct gw_collection *col = arena_alloc(a, sizeof *col);
    char *text = gw_dup(a, name);
    enum rc rc;

    (void)row;
    if (col == NULL || text == NULL) return RC_NOMEM;
    rc = gw_collection(gw, text, a, gw_left_ms(lk->c), col, &lk->err);
    if (rc == RC_NOTFOUND) return RC_OK;
    if (rc != RC_OK) return rc;
    gw_collection_wipe(col);
    lk->collections++;
    if (col->rec.unchecked && lk->m->n_unchecked_collections < REASONS_MAX)
        lk->m->unchecked_collections[lk->m->n_unchecked_collections++] = text;
    if (lk->m->health == MIKURA__V1__HEALTH__HEALTH_UNSPECIFIED) return RC_OK; /* names only */
    return gw_list_cases(gw, col, "", "", UINT32_MAX, a, gw_left_ms(lk->c), count_case, lk, NULL,
                         &lk->err);
}

static void look_groups(struct looking *lk, uint32_t *ret_expected)
{
    struct gw *gw = lk->c->service;
    Status *m = lk->m;
    uint32_t pools[] = {gw->meta_pool, gw->data_pool};

    *ret_expected = 0;
    for (size_t i = 0; i < ARRAY_N(pools); i++) {
        const struct placement_pool *p = cluster_pool(gw->cluster, pools[i]);

        if (p != NULL) *ret_expected += 1u << p->prefix_bits;
    }
    for (const struct cluster_group *g = cluster_group_next(gw->cluster, NULL); g != NULL;
         g = cluster_group_next(gw->cluster, g)) {
        m->groups++;
        switch (group_health(gw, g)) {
        case MIKURA__V1__HEALTH__HEALTH_DEGRADED:
            m->groups_degraded++;
            break;
        case MIKURA__V1__HEALTH__HEALTH_READ_ONLY:
            m->groups_read_only++;
            break;
        case MIKURA__V1__HEALTH__HEALTH_OK:
            break;
        default:
            m->groups_unavailable++;
        }
    }
}

static void look_nodes(struct looking *lk, const struct node_look *l, uint32_t n)
{
    struct arena *a = &lk->c->arena;
    uint32_t storage = 0;

    for (uint32_t i = 0; i < n; i++) {
        const struct cluster_node *node = l[i].node;

        if (strcmp(node->kind, "storaged") == 0) storage++;
        if (!node->alive) {
            reason(lk, arena_str(a,
                                 strcmp(node->kind, "storaged") == 0
                                     ? "%s '%s' at %s is away: start it again, or its copies are "
                                       "made elsewhere after a while"
                                     : "%s '%s' at %s is away: start it again",
                                 node->kind, node->name, node->host_address));
            continue;
        }
        if (strcmp(node->kind, "storaged") != 0) continue;
        if (l[i].status == NULL) {
            reason(lk, arena_str(a, "storaged '%s' at %s has its lease but does not answer: %s",
                                 node->name, node->host_address, l[i].err.msg));
            continue;
        }
        for (size_t k = 0; k < l[i].status->n_compared; k++) {
            const Mikura__Internal__V1__GroupCompared *x = l[i].status->compared[k];

            if (x->difference[0] != 0)
                reason(lk,
                       arena_str(a, "group %u/%u/%016" PRIx64 ": %s; see the log of storaged '%s'",
                                 x->pool, x->prefix_bits, x->prefix, x->difference, node->name));
        }
        for (size_t d = 0; d < l[i].status->n_disks; d++) {
            const Mikura__Internal__V1__DiskStatus *s = l[i].status->disks[d];

            lk->m->bytes_total += s->total_bytes;
            lk->m->bytes_used += s->used_bytes;
            if (s->quarantined > 0)
                reason(lk,
                       arena_str(a,
                                 "disk %s of storaged '%s': %llu chunks were found bad, are not "
                                 "served and wait for a good copy of another replica",
                                 s->path, node->name, (unsigned long long)s->quarantined));
            if (strcmp(s->state, "full") == 0) lk->full_n++;
            if (strcmp(s->state, "ok") != 0) reason(lk, disk_told(a, s, node->name));
        }
    }
    if (storage == 0)
        reason(lk, "no storage node has joined: start storaged on at least min_in_sync machines");
}

/* The gateway that was first to ask for the election and still does. "": nobody, or not known. */
static char *manager_address(struct gw *gw, struct arena *a)
{
    char *prefix = arena_str(a, "/mikura/%s/elect/manager", gw->cluster_name);
    const struct etcd_kv *first = NULL;
    struct etcd_kv *kvs;
    struct err err;
    uint32_t n = 0;

    if (prefix == NULL || truth_prefix(gw->etcd, prefix, a, &kvs, &n, &err) != RC_OK) return NULL;
    for (uint32_t i = 0; i < n; i++) {
        if (first == NULL || kvs[i].create_revision < first->create_revision) first = &kvs[i];
    }
    return first == NULL ? NULL : gw_dup(a, first->value);
}

static void look_moves(struct looking *lk, struct node_look *l, uint32_t n)
{
    struct gw *gw = lk->c->service;
    struct arena *a = &lk->c->arena;
    struct moves *mv = arena_alloc(a, sizeof *mv);
    Status *m = lk->m;
    struct err err = {0};
    char *address = cluster_fresh(gw->cluster) ? manager_address(gw, a) : NULL;

    if (address != NULL) m->manager = address;
    if (mv == NULL || nodes_moves(gw, false, l, n, a, mv, &err) != RC_OK) {
        reason(lk, arena_str(a, "what moves is not known: %s", err.msg));
        return;
    }
    m->copies_to_make = mv->all.copies;
    m->bytes_to_copy = mv->copy_bytes * mv->all.copies;
    m->groups_moving = planner_moving(&mv->v.in);
    m->moves_held = planner_hold(&mv->v.in);
    if (m->moves_held)
        reason(lk, "more than a quarter of the storage hosts are away: it looks like the network, "
                   "so no copies are made elsewhere; bring them back, or give them up with `mikura "
                   "node remove`");
    if (manager_foreign(gw->manager))
        reason(lk, "storage nodes hold another cluster than etcd tells of (it was wiped?): nothing "
                   "new is made; see `mikura admin recover-config --dry-run`");
    if (address == NULL)
        reason(lk, "no gateway is elected to plan moves: repairs wait until one is (etcd?)");
    for (uint32_t i = 0; i < mv->v.nodes_n; i++) {
        const struct view_node *x = &mv->v.nodes[i];

        if (x->alive && x->disks_n > 0 && mv->v.disks[x->disk_idx[0]].fresh)
            reason(lk,
                   arena_str(a, "storaged '%s' is new and holds nothing yet: mikura node add %s",
                             x->name, x->name));
    }
}

static void judge(struct looking *lk, uint32_t expected)
{
    struct gw *gw = lk->c->service;
    struct arena *a = &lk->c->arena;
    Status *m = lk->m;
    const struct placement_pool *p = cluster_pool(gw->cluster, gw->data_pool);

    m->health = MIKURA__V1__HEALTH__HEALTH_OK;
    if (m->groups_degraded > 0) {
        m->health = MIKURA__V1__HEALTH__HEALTH_DEGRADED;
        reason(lk, arena_str(a,
                             "%u of %u groups have fewer copies than the %u wanted: bring the "
                             "missing nodes back, or add some",
                             m->groups_degraded, m->groups, p == NULL ? 0 : p->copies));
    }
    if (lk->full_n > 0) m->health = MIKURA__V1__HEALTH__HEALTH_READ_ONLY; /* of its groups */
    if (m->groups_read_only > 0) {
        m->health = MIKURA__V1__HEALTH__HEALTH_READ_ONLY;
        reason(lk, arena_str(a, "%u of %u groups accept no writes: fewer than %u copies are there",
                             m->groups_read_only, m->groups, p == NULL ? 0 : p->min_in_sync));
    }
    if (m->groups_unavailable > 0 || m->groups < expected || expected == 0) {
        m->health = MIKURA__V1__HEALTH__HEALTH_UNAVAILABLE;
        if (m->groups_unavailable > 0)
            reason(lk, arena_str(a,
                                 "%u of %u groups serve nothing: their primary is away; a "
                                 "backup takes over within seconds if one is in sync",
                                 m->groups_unavailable, m->groups));
        if (m->groups < expected || expected == 0)
            reason(lk, arena_str(a,
                                 "%u of %u groups are not made yet: too few storage nodes have "
                                 "joined",
                                 expected - MIN(m->groups, expected), expected));
    }
    if (!cluster_fresh(gw->cluster))
        reason(lk, "etcd does not answer this gateway: what is told here may be old; check etcd");
    if (gw->signer == NULL)
        reason(lk, "the signing key is not read yet: commits wait until storage serves");
}

static enum rc status(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__StatusRequest *req;
    Status *m = arena_alloc(&c->arena, sizeof *m);
    struct looking lk = {.c = c, .m = m};
    struct node_look *l = NULL;
    uint32_t n = 0, expected;
    enum rc rc = fcall_request(c, &mikura__v1__status_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (m == NULL) return err_set(reterr, RC_NOMEM, "the status");
    mikura__v1__cluster_status__init(m);
    m->reasons = arena_alloc(&c->arena, (REASONS_MAX + 1) * sizeof *m->reasons);
    m->unchecked_collections =
        arena_alloc(&c->arena, REASONS_MAX * sizeof *m->unchecked_collections);
    if (m->reasons == NULL || m->unchecked_collections == NULL)
        return err_set(reterr, RC_NOMEM, "the status");
    m->cluster_id = nodes_id(&c->arena, &gw->cluster_id);
    m->master_key_fingerprint = gw->master_fingerprint;
    m->version = arena_str(&c->arena, "%s", MIKURA_VERSION);
    rc = nodes_look(gw, &c->arena, &l, &n, reterr);
    if (rc != RC_OK) return rc;
    look_nodes(&lk, l, n);
    look_groups(&lk, &expected);
    judge(&lk, expected);
    look_moves(&lk, l, n);
    /* counts need groups that serve; without them the rest is still told */
    if (m->health != MIKURA__V1__HEALTH__HEALTH_UNAVAILABLE) {
        rc = gw_list_names(gw, gw->meta_pool, &record_scope_collections, "", "", &c->arena,
                           gw_left_ms(c), look_collection, &lk, &lk.err);
        if (rc == RC_OK) rc = gw_jobs_open_n(gw, gw_left_ms(c), &m->jobs_running, &lk.err);
        if (rc != RC_OK)
            reason(&lk,
                   arena_str(&c->arena, "cases and jobs could not be counted: %s", lk.err.msg));
    } else {
        reason(&lk, "cases and jobs are not counted while groups are unavailable");
    }
    rc = fcall_send(c, &m->base);
    nodes_look_end(l, n);
    return rc;
}

static enum rc key_status(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__KeyStatusRequest *req;
    Mikura__V1__KeyStatusResponse answer = MIKURA__V1__KEY_STATUS_RESPONSE__INIT;
    Status names = MIKURA__V1__CLUSTER_STATUS__INIT; /* health 0: collections are only counted */
    struct looking lk = {.c = c, .m = &names};
    char id[ID128_TEXT_BYTES];
    enum rc rc = fcall_request(c, &mikura__v1__key_status_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    names.unchecked_collections =
        arena_alloc(&c->arena, REASONS_MAX * sizeof *names.unchecked_collections);
    if (names.unchecked_collections == NULL) return err_set(reterr, RC_NOMEM, "the keys");
    rc = gw_list_names(gw, gw->meta_pool, &record_scope_collections, "", "", &c->arena,
                       gw_left_ms(c), look_collection, &lk, &lk.err);
    if (rc != RC_OK) {
        *reterr = lk.err;
        return rc;
    }
    answer.master_key_fingerprint = gw->master_fingerprint;
    answer.cluster_fingerprint = gw->cluster_fingerprint;
    answer.collections = lk.collections;
    if (gw->signer != NULL)
        answer.receipt_key_id = (char *)(uintptr_t)id128_text(&signer_public(gw->signer)->id, id);
    return fcall_send(c, &answer.base);
}

const struct fcall_method gw_admin_methods[] = {
    {"/mikura.v1.Admin/Status", false, 0, status},
    {"/mikura.v1.Admin/ListNodes", false, 0, nodes_list},
    {"/mikura.v1.Admin/ChangeNode", false, 0, nodes_change},
    {"/mikura.v1.Admin/RecoverConfig", false, 0, recover_config},
    {"/mikura.v1.Admin/ListGroups", false, 0, list_groups},
    {"/mikura.v1.Admin/KeyStatus", false, 0, key_status},
    {NULL, false, 0, NULL},
};
