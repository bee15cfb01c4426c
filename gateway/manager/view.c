/* gateway/manager/view.c - see view.h. */
#include "gateway/manager/view.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/placement/group_config.h"
#include "gateway/manager/truth.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- when it was last there ---- */
struct seen_disk {
    struct id128 id;
    uint64_t last_ms;
};

static struct seen_disk *seen_disk(struct seen *s, const struct id128 *id, uint64_t now_ms)
{
    for (uint32_t i = 0; i < s->n; i++) {
        if (id128_eq(&s->disks[i].id, id)) return &s->disks[i];
    }
    if (s->n == s->max) {
        uint32_t max = s->max == 0 ? 64 : s->max * 2;
        struct seen_disk *d = max > VIEW_DISKS_MAX ? NULL : realloc(s->disks, max * sizeof *d);

        if (d == NULL) return NULL;
        s->disks = d;
        s->max = max;
    }
    s->disks[s->n] = (struct seen_disk){*id, now_ms};
    return &s->disks[s->n++];
}

void seen_look(struct seen *s, const struct cluster *c, uint64_t now_ms)
{
    for (const struct cluster_node *n = cluster_node_next(c, NULL); n != NULL;
         n = cluster_node_next(c, n)) {
        if (strcmp(n->kind, "storaged") != 0) continue;
        for (uint32_t i = 0; i < n->disks_n; i++) {
            struct seen_disk *d = seen_disk(s, &n->disks[i].id, now_ms);

            if (d != NULL && n->alive) d->last_ms = now_ms;
        }
    }
}

void seen_forget(struct seen *s)
{
    s->n = 0;
}

void seen_free(struct seen *s)
{
    free(s->disks);
    *s = (struct seen){0};
}

static bool seen_gone(struct seen *s, const struct id128 *id, uint64_t now_ms, uint64_t patience_ms)
{
    const struct seen_disk *d = seen_disk(s, id, now_ms);

    return d != NULL && now_ms - d->last_ms > patience_ms;
}

/* ---- nodes and disks ---- */
/* Domains as numbers: the same text, the same number; the node's host lies in its rack and zone. */
static uint32_t domain_number(const char *text)
{
    uint32_t h = 2166136261u; /* FNV-1a; a clash only makes two domains look like one */

    for (const char *p = text; *p != 0; p++)
        h = (h ^ (uint8_t)*p) * 16777619u;
    return h;
}

static uint32_t add_disk(struct view *v, const struct id128 *id, uint32_t weight, bool alive,
                         const uint32_t domain[3])
{
    struct planner_disk *d;

    for (uint32_t i = 0; i < v->in.disks_n; i++) {
        if (!id128_eq(&v->disks[i].place.id, id)) continue;
        if (alive) v->disks[i].away = false; /* it moved to another node */
        return i;
    }
    if (v->in.disks_n == VIEW_DISKS_MAX) return UINT32_MAX;
    d = &v->disks[v->in.disks_n];
    *d = (struct planner_disk){.place = {.id = *id, .weight = weight}, .away = !alive};
    memcpy(d->place.domain, domain, sizeof d->place.domain);
    return v->in.disks_n++;
}

static void add_node(struct view *v, const struct cluster_node *n)
{
    struct view_node *to = &v->nodes[v->nodes_n++];
    uint32_t domain[3];
    char text[256];

    (void)snprintf(to->name, sizeof to->name, "%s", n->name);
    to->id = n->id;
    to->alive = n->alive;
    v->nodes_alive_n += n->alive;
    domain[0] = domain_number(n->zone);
    (void)snprintf(text, sizeof text, "%s/%s", n->zone, n->rack);
    domain[1] = domain_number(text);
    (void)snprintf(text, sizeof text, "%s/%s/%s", n->zone, n->rack, n->host);
    domain[2] = domain_number(text);
    for (uint32_t i = 0; i < n->disks_n; i++) {
        uint64_t gib = n->disks[i].total_bytes >> 30;
        uint32_t d =
            add_disk(v, &n->disks[i].id, (uint32_t)MAX(1, MIN(gib, 1u << 20)), n->alive, domain);

        v->disks_alive_n += n->alive;
        if (d != UINT32_MAX) to->disk_idx[to->disks_n++] = d;
    }
}

struct view_node *view_node_of(struct view *v, const char *name)
{
    for (uint32_t i = 0; i < v->nodes_n; i++) {
        if (strcmp(v->nodes[i].name, name) == 0) return &v->nodes[i];
    }
    return NULL;
}

void view_judge(struct view *v, struct seen *s, uint64_t patience_ms)
{
    for (uint32_t i = 0; i < v->in.disks_n; i++) {
        struct planner_disk *d = &v->disks[i];

        d->gone = d->away && seen_gone(s, &d->place.id, v->now_ms, patience_ms);
        d->removed = d->drain = d->fresh = false;
    }
    for (uint32_t i = 0; i < v->nodes_n; i++) {
        const struct view_node *n = &v->nodes[i];

        for (uint32_t k = 0; k < n->disks_n; k++) {
            struct planner_disk *d = &v->disks[n->disk_idx[k]];

            /* one that was given up and came back is emptied in order */
            d->drain = n->intent.state == INTENT_DRAIN || n->intent.state == INTENT_REMOVE;
            d->removed = n->intent.state == INTENT_REMOVE && !n->alive;
            d->gone |= d->removed;
            d->fresh =
                n->intent.state == INTENT_NONE && !n->used && v->groups_there_n == v->in.groups_n;
        }
    }
}

/* ---- groups ---- */
static const char *const FOLDER = "node-state/";

static void take_intent(void *arg, const char *rest, struct slice value)
{
    struct view *v = arg;
    struct view_node *n = view_node_of(v, rest + strlen(FOLDER));
    struct err err;

    if (n == NULL) return;
    if (intent_parse(value, &n->intent, &err) != RC_OK) log_warn("node_state_bad", "%s", err.msg);
}

/* rest: "<bits>/<prefix>" or "<bits>/<prefix>/desired" of that pool */
static struct planner_group *group_at(struct view *v, uint32_t pool_idx, const char *rest,
                                      const char **ret_tail)
{
    const struct placement_pool *p = &v->pools[pool_idx];
    uint32_t first = pool_idx == 0 ? 0 : 1u << v->pools[0].prefix_bits;
    char *end;
    uint64_t bits = strtoull(rest, &end, 10), hash;

    if (*end != '/' || bits != p->prefix_bits) return NULL; /* of before a split */
    hash = strtoull(end + 1, &end, 16);
    *ret_tail = end;
    return &v->groups[first + (bits == 0 ? 0 : hash >> (64 - bits))];
}

static enum rc take_group_key(struct view *v, uint32_t pool_idx, const char *rest,
                              struct slice value, int64_t revision, struct err *reterr)
{
    const char *tail;
    struct planner_group *g = group_at(v, pool_idx, rest, &tail);
    struct group_config cfg;
    struct group_set wish;
    enum rc rc = RC_OK;

    if (g == NULL) return RC_OK;
    if (*tail == 0) {
        rc = group_config_decode(value, &cfg, reterr);
        if (rc != RC_OK) return rc;
        v->groups_there_n += !g->exists;
        g->exists = true;
        g->primary = cfg.primary;
        g->in_sync_n = cfg.in_sync.n;
        memcpy(g->in_sync, cfg.in_sync.disks, cfg.in_sync.n * sizeof *g->in_sync);
    } else if (strcmp(tail, "/desired") == 0) {
        rc = group_wish_decode(value, &wish, reterr);
        if (rc != RC_OK) return rc;
        g->desired_n = wish.n;
        memcpy(g->desired, wish.disks, wish.n * sizeof *g->desired);
        v->wish_revision[g - v->groups] = revision;
    }
    return rc;
}

static enum rc groups_alloc(struct view *v, struct err *reterr)
{
    uint32_t n = 0, at = 0;

    for (uint32_t p = 0; p < v->in.pools_n; p++)
        n += 1u << v->pools[p].prefix_bits;
    v->groups = arena_alloc(v->a, (n + 1) * sizeof *v->groups);
    v->wish_revision = arena_alloc(v->a, (n + 1) * sizeof *v->wish_revision);
    if (v->groups == NULL || v->wish_revision == NULL)
        return err_set(reterr, RC_NOMEM, "the groups");
    for (uint32_t p = 0; p < v->in.pools_n; p++) {
        uint32_t bits = v->pools[p].prefix_bits;

        for (uint64_t i = 0; i < 1ull << bits; i++) {
            v->groups[at++].group =
                (struct placement_group){.pool = v->pools[p].id,
                                         .prefix_bits = bits,
                                         .prefix = bits == 0 ? 0 : i << (64 - bits)};
        }
    }
    v->in.groups_n = n;
    return RC_OK;
}

struct mirrored {
    struct view *v;
    enum rc rc;
    struct err *reterr;
};

static void take_other(void *arg, const char *rest, struct slice value)
{
    struct mirrored *m = arg;

    for (uint32_t p = 0; p < m->v->in.pools_n && m->rc == RC_OK; p++) {
        char prefix[32];

        (void)snprintf(prefix, sizeof prefix, "pg/%u/", m->v->pools[p].id);
        if (strncmp(rest, prefix, strlen(prefix)) == 0)
            m->rc = take_group_key(m->v, p, rest + strlen(prefix), value, 0, m->reterr);
    }
}

static enum rc from_mirror(const struct view_conf *c, struct view *v, struct err *reterr)
{
    struct mirrored m = {v, RC_OK, reterr};

    for (const struct cluster_group *g = cluster_group_next(c->cluster, NULL);
         g != NULL && m.rc == RC_OK; g = cluster_group_next(c->cluster, g)) {
        char rest[64];

        (void)snprintf(rest, sizeof rest, "pg/%u/%u/%016llx", g->group.pool, g->group.prefix_bits,
                       (unsigned long long)g->group.prefix);
        take_other(&m, rest, g->raw);
    }
    cluster_other_each(c->cluster, "pg/", take_other, &m);
    cluster_other_each(c->cluster, FOLDER, take_intent, v);
    return m.rc;
}

/* The key behind the prefix as text, in the arena. */
static const char *key_rest(struct arena *a, const struct etcd_kv *kv, const char *prefix)
{
    return arena_str(a, "%.*s", (int)(kv->key.n - strlen(prefix)),
                     (const char *)kv->key.p + strlen(prefix));
}

static enum rc from_etcd(const struct view_conf *c, struct view *v, struct err *reterr)
{
    char *prefix;
    struct etcd_kv *kvs;
    uint32_t kvs_n;
    enum rc rc = RC_OK;

    for (uint32_t p = 0; p < v->in.pools_n && rc == RC_OK; p++) {
        prefix = arena_str(v->a, "/mikura/%s/pg/%u/", c->cluster_name, v->pools[p].id);
        if (prefix == NULL) return err_set(reterr, RC_NOMEM, "the groups");
        rc = truth_prefix(c->etcd, prefix, v->a, &kvs, &kvs_n, reterr);
        for (uint32_t i = 0; i < kvs_n && rc == RC_OK; i++) {
            const char *rest = key_rest(v->a, &kvs[i], prefix);

            rc = rest == NULL
                     ? err_set(reterr, RC_NOMEM, "the groups")
                     : take_group_key(v, p, rest, kvs[i].value, kvs[i].mod_revision, reterr);
        }
    }
    prefix = arena_str(v->a, "/mikura/%s/", c->cluster_name);
    if (rc == RC_OK && prefix == NULL) rc = err_set(reterr, RC_NOMEM, "the nodes' states");
    if (rc == RC_OK) {
        char *folder = arena_str(v->a, "%s%s", prefix, FOLDER);

        rc = folder == NULL ? err_set(reterr, RC_NOMEM, "the nodes' states")
                            : truth_prefix(c->etcd, folder, v->a, &kvs, &kvs_n, reterr);
        for (uint32_t i = 0; i < kvs_n && rc == RC_OK; i++) {
            const char *rest = key_rest(v->a, &kvs[i], prefix);

            if (rest != NULL) take_intent(v, rest, kvs[i].value);
        }
    }
    if (rc == RC_OK) {
        char *key = arena_str(v->a, "%snode-changes", prefix);

        rc = key == NULL ? err_set(reterr, RC_NOMEM, "the nodes' states")
                         : truth_get(c->etcd, (struct slice){(uint8_t *)key, strlen(key)},
                                     (struct slice){NULL, 0}, v->a, &kvs, &kvs_n, reterr);
        if (rc == RC_OK && kvs_n == 1) v->changes_revision = kvs[0].mod_revision;
    }
    return rc;
}

/* Disks that records name and no node has told of: their time runs too. A group without a wish
 * wishes for what it has. */
static void take_members(struct view *v)
{
    static const uint32_t NOWHERE[3] = {0, 0, 0};

    for (uint32_t i = 0; i < v->in.groups_n; i++) {
        struct planner_group *g = &v->groups[i];

        if (g->exists && g->desired_n == 0) {
            g->desired_n = g->in_sync_n;
            memcpy(g->desired, g->in_sync, sizeof g->desired);
        }
        for (uint32_t k = 0; k < g->desired_n + g->in_sync_n; k++)
            (void)add_disk(v, k < g->desired_n ? &g->desired[k] : &g->in_sync[k - g->desired_n], 1,
                           false, NOWHERE);
    }
    for (uint32_t n = 0; n < v->nodes_n; n++) {
        for (uint32_t d = 0; d < v->nodes[n].disks_n && !v->nodes[n].used; d++) {
            const struct id128 *id = &v->disks[v->nodes[n].disk_idx[d]].place.id;

            for (uint32_t i = 0; i < v->in.groups_n && !v->nodes[n].used; i++) {
                for (uint32_t k = 0; k < v->groups[i].desired_n; k++)
                    v->nodes[n].used |= id128_eq(&v->groups[i].desired[k], id);
                for (uint32_t k = 0; k < v->groups[i].in_sync_n; k++)
                    v->nodes[n].used |= id128_eq(&v->groups[i].in_sync[k], id);
            }
        }
    }
}

enum rc view_make(const struct view_conf *c, struct arena *a, struct view *ret, struct err *reterr)
{
    struct view *v = ret;
    uint32_t nodes_max = 0;
    enum rc rc;

    *v = (struct view){.a = a, .now_ms = clock_boot_ms()};
    for (uint32_t p = 0; p < VIEW_POOLS_MAX; p++) {
        const struct placement_pool *known = cluster_pool(c->cluster, c->pool_ids[p]);

        if (known != NULL) v->pools[v->in.pools_n++] = *known;
    }
    rc = groups_alloc(v, reterr);
    if (rc != RC_OK) return rc;
    /* what waits first; the rest is of one moment */
    for (const struct cluster_node *n = cluster_node_next(c->cluster, NULL); n != NULL;
         n = cluster_node_next(c->cluster, n))
        nodes_max++;
    v->nodes = arena_alloc(a, (nodes_max + 1) * sizeof *v->nodes);
    v->disks = arena_alloc(a, VIEW_DISKS_MAX * sizeof *v->disks);
    v->scratch.places = arena_alloc(a, VIEW_DISKS_MAX * sizeof *v->scratch.places);
    v->scratch.load = arena_alloc(a, VIEW_DISKS_MAX * sizeof *v->scratch.load);
    v->scratch.busy = arena_alloc(a, VIEW_DISKS_MAX * sizeof *v->scratch.busy);
    if (v->nodes == NULL || v->disks == NULL || v->scratch.places == NULL ||
        v->scratch.load == NULL || v->scratch.busy == NULL)
        return err_set(reterr, RC_NOMEM, "the cluster's disks");
    for (const struct cluster_node *n = cluster_node_next(c->cluster, NULL);
         n != NULL && v->nodes_n < nodes_max; n = cluster_node_next(c->cluster, n)) {
        if (strcmp(n->kind, "storaged") == 0) add_node(v, n);
    }
    rc = c->etcd != NULL ? from_etcd(c, v, reterr) : from_mirror(c, v, reterr);
    if (rc != RC_OK) return rc;
    take_members(v);
    v->in.pools = v->pools;
    v->in.disks = v->disks;
    v->in.groups = v->groups;
    view_judge(v, c->seen, c->patience_ms);
    return RC_OK;
}

char *view_group_key(const char *cluster_name, struct arena *a, const struct placement_group *g)
{
    return arena_str(a, "/mikura/%s/pg/%u/%u/%016llx", cluster_name, g->pool, g->prefix_bits,
                     (unsigned long long)g->prefix);
}
