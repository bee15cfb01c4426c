/* gateway/api/admin.c - what operators ask: is all well, which nodes, which groups, which keys.
 *
 * Group states come from the map in etcd (which copies are in sync, which nodes have their lease),
 * sizes from the storage nodes themselves. A node that does not answer is told as such; no number
 * is made up for it. */
#include "common/base/log.h"
#include "gateway/api/jobs.h"
#include "gateway/api/listing.h"
#include "proto/mikura/v1/admin.pb-c.h"
#include <stdlib.h>

#define NODE_STATUS_MS 3000u
#define REASONS_MAX    64u
#define GROUP_BATCH    256u

typedef Mikura__V1__ClusterStatus Status;

/* ---- nodes ---- */
struct node_look { /* one node, asked in a fiber of its own */
    struct gw *gw;
    struct cluster_node *node; /* copy in the arena */
    struct arena a;
    Mikura__Internal__V1__NodeStatusResponse *status; /* NULL: no answer */
    struct err err;
};

static void look(void *arg)
{
    struct node_look *l = arg;

    if (route_node_status(l->gw->route, l->node, NODE_STATUS_MS, &l->a, &l->status, &l->err) !=
        RC_OK) {
        l->status = NULL;
    }
}

/* Copies of all nodes; storage nodes that are alive are asked, at the same time. The arenas of the
 * answers are freed with looks_end. */
static enum rc looks_begin(struct gw *gw, struct arena *a, struct node_look **ret, uint32_t *ret_n,
                           struct err *reterr)
{
    struct fiber_group asking = {0};
    struct node_look *l;
    uint32_t n = 0, max = 0;
    enum rc rc = RC_OK;

    for (const struct cluster_node *it = cluster_node_next(gw->cluster, NULL); it != NULL;
         it = cluster_node_next(gw->cluster, it))
        max++;
    l = arena_alloc(a, max * sizeof *l);
    if (l == NULL) return err_set(reterr, RC_NOMEM, "the nodes");
    for (const struct cluster_node *it = cluster_node_next(gw->cluster, NULL);
         it != NULL && n < max; it = cluster_node_next(gw->cluster, it)) {
        l[n].gw = gw;
        l[n].node = arena_copy(a, it, sizeof *it);
        if (l[n].node == NULL) return err_set(reterr, RC_NOMEM, "the nodes");
        n++;
    }
    for (uint32_t i = 0; i < n; i++) {
        arena_init(&l[i].a);
        if (!l[i].node->alive || strcmp(l[i].node->kind, "storaged") != 0) continue;
        rc = fiber_group_spawn(&asking, look, &l[i]);
        if (rc != RC_OK) (void)err_set(&l[i].err, rc, "not asked: %s", rc_text(rc));
    }
    fiber_group_wait(&asking);
    *ret = l;
    *ret_n = n;
    return RC_OK;
}

static void looks_end(struct node_look *l, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        arena_deinit(&l[i].a);
}

static ProtobufCBinaryData id_bytes(struct arena *a, const struct id128 *id)
{
    ProtobufCBinaryData b = {16, arena_copy(a, id->b, 16)};

    if (b.data == NULL) b.len = 0;
    return b;
}

static bool disks_of(struct arena *a, const struct node_look *l, Mikura__V1__Node *m)
{
    size_t n = l->status != NULL ? l->status->n_disks : l->node->disks_n;

    m->disks = arena_alloc(a, n * sizeof *m->disks);
    if (m->disks == NULL) return false;
    for (size_t i = 0; i < n; i++) {
        Mikura__V1__Disk *d = arena_alloc(a, sizeof *d);

        if (d == NULL) return false;
        mikura__v1__disk__init(d);
        if (l->status != NULL) {
            const Mikura__Internal__V1__DiskStatus *s = l->status->disks[i];

            d->id = s->id;
            d->path = s->path;
            d->total_bytes = s->total_bytes;
            d->used_bytes = s->used_bytes;
            d->engine = s->engine;
            d->engine_reason = s->engine_reason;
            d->state = s->state;
            d->groups = s->groups;
            d->live_bytes = s->live_bytes;
            d->quarantined = s->quarantined;
            d->scrub_pass = s->scrub_pass;
            d->scrub_running = s->scrub_running;
            d->scrub_done_bytes = s->scrub_done_bytes;
            d->scrub_total_bytes = s->scrub_total_bytes;
            d->scrub_end_unix_ms = s->scrub_end_unix_ms;
        } else {
            d->id = id_bytes(a, &l->node->disks[i].id);
            d->total_bytes = l->node->disks[i].total_bytes;
        }
        m->disks[m->n_disks++] = d;
    }
    return true;
}

static enum rc list_nodes(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__ListNodesRequest *req;
    Mikura__V1__ListNodesResponse answer = MIKURA__V1__LIST_NODES_RESPONSE__INIT;
    struct node_look *l = NULL;
    uint32_t n = 0;
    enum rc rc = fcall_request(c, &mikura__v1__list_nodes_request__descriptor, &req, reterr);

    if (rc == RC_OK) rc = looks_begin(gw, &c->arena, &l, &n, reterr);
    if (rc != RC_OK) return rc;
    answer.nodes = arena_alloc(&c->arena, n * sizeof *answer.nodes);
    for (uint32_t i = 0; i < n && answer.nodes != NULL; i++) {
        Mikura__V1__Node *m = arena_alloc(&c->arena, sizeof *m);
        struct cluster_node *node = l[i].node;

        if (m == NULL || (mikura__v1__node__init(m), !disks_of(&c->arena, &l[i], m))) {
            answer.nodes = NULL;
            break;
        }
        m->id = id_bytes(&c->arena, &node->id);
        m->boot_id = id_bytes(&c->arena, &node->boot_id);
        m->name = node->name;
        m->kind = node->kind;
        m->address = node->host_address;
        m->zone = node->zone;
        m->rack = node->rack;
        m->host = node->host;
        m->alive = node->alive;
        m->version = node->version;
        m->devices = arena_alloc(&c->arena, node->devices_n * sizeof *m->devices);
        for (uint32_t d = 0; d < node->devices_n && m->devices != NULL; d++)
            m->devices[m->n_devices++] = node->devices[d];
        answer.nodes[answer.n_nodes++] = m;
    }
    rc =
        answer.nodes == NULL ? err_set(reterr, RC_NOMEM, "the nodes") : fcall_send(c, &answer.base);
    looks_end(l, n);
    return rc;
}

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

static Mikura__V1__Group *group_message(const struct gw *gw, struct arena *a,
                                        const struct cluster_group *g)
{
    Mikura__V1__Group *m = arena_alloc(a, sizeof *m);

    if (m == NULL) return NULL;
    mikura__v1__group__init(m);
    m->pool = g->group.pool;
    m->prefix_bits = g->group.prefix_bits;
    m->prefix = g->group.prefix;
    m->config = g->config;
    m->epoch = g->epoch;
    m->primary_disk = id_bytes(a, &g->primary);
    m->in_sync_disks = arena_alloc(a, g->in_sync_n * sizeof *m->in_sync_disks);
    m->learner_disks = arena_alloc(a, g->learners_n * sizeof *m->learner_disks);
    if (m->in_sync_disks == NULL || m->learner_disks == NULL) return NULL;
    for (uint32_t i = 0; i < g->in_sync_n; i++)
        m->in_sync_disks[m->n_in_sync_disks++] = id_bytes(a, &g->in_sync[i]);
    for (uint32_t i = 0; i < g->learners_n; i++)
        m->learner_disks[m->n_learner_disks++] = id_bytes(a, &g->learners[i]);
    m->health = group_health(gw, g);
    return m;
}

static enum rc list_groups(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__ListGroupsRequest *req;
    Mikura__V1__Group **all;
    uint32_t n = 0, max = 0;
    enum rc rc = fcall_request(c, &mikura__v1__list_groups_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    for (const struct cluster_group *g = cluster_group_next(gw->cluster, NULL); g != NULL;
         g = cluster_group_next(gw->cluster, g))
        max++;
    all = arena_alloc(&c->arena, max * sizeof *all);
    if (all == NULL) return err_set(reterr, RC_NOMEM, "the groups");
    /* all of them before the first send: the map may change while we wait */
    for (const struct cluster_group *g = cluster_group_next(gw->cluster, NULL);
         g != NULL && n < max; g = cluster_group_next(gw->cluster, g)) {
        all[n] = group_message(gw, &c->arena, g);
        if (all[n++] == NULL) return err_set(reterr, RC_NOMEM, "the groups");
    }
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
                                 "%s '%s' at %s is away: start it again, or its copies are made "
                                 "elsewhere after a while",
                                 node->kind, node->name, node->host_address));
            continue;
        }
        if (strcmp(node->kind, "storaged") != 0) continue;
        if (l[i].status == NULL) {
            reason(lk, arena_str(a, "storaged '%s' at %s has its lease but does not answer: %s",
                                 node->name, node->host_address, l[i].err.msg));
            continue;
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
            if (strcmp(s->state, "ok") != 0)
                reason(lk, arena_str(a, "disk %s of storaged '%s' is %s: %s", s->path, node->name,
                                     s->state,
                                     strcmp(s->state, "full") == 0
                                         ? "delete objects or add a disk or node"
                                         : "replace it; its copies are made elsewhere"));
        }
    }
    if (storage == 0)
        reason(lk, "no storage node has joined: start storaged on at least min_in_sync machines");
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
    if (!gw->receipt_ready)
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
    m->cluster_id = id_bytes(&c->arena, &gw->cluster_id);
    m->master_key_fingerprint = gw->master_fingerprint;
    m->version = arena_str(&c->arena, "%s", MIKURA_VERSION);
    rc = looks_begin(gw, &c->arena, &l, &n, reterr);
    if (rc != RC_OK) return rc;
    look_nodes(&lk, l, n);
    look_groups(&lk, &expected);
    judge(&lk, expected);
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
    looks_end(l, n);
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
    if (gw->receipt_ready)
        answer.receipt_key_id = (char *)(uintptr_t)id128_text(&gw->receipt_key.id, id);
    return fcall_send(c, &answer.base);
}

const struct fcall_method gw_admin_methods[] = {
    {"/mikura.v1.Admin/Status", false, 0, status},
    {"/mikura.v1.Admin/ListNodes", false, 0, list_nodes},
    {"/mikura.v1.Admin/ListGroups", false, 0, list_groups},
    {"/mikura.v1.Admin/KeyStatus", false, 0, key_status},
    {NULL, false, 0, NULL},
};
