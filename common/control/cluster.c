/* common/control/cluster.c - the mirror of /mikura/<cluster>/ decoded, and the own node published.
 *
 * Keys: id, pools/<id>, pg/<pool>/<bits>/<prefix>, nodes/<kind>/<name> (leased), nodes-perm/<uuid>.
 * A node is alive as long as its leased key is there; its permanent key keeps its disks known while
 * it is away. What does not decode is logged and ignored: one bad key must not hide the others. */
#include "common/control/cluster.h"
#include "common/base/hex.h"
#include "common/base/list.h"
#include "common/base/log.h"
#include "common/placement/group_config.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#define POOLS_MAX 64u

struct node {
    struct list link;
    struct cluster_node n;
};
struct group {
    struct list link;
    struct cluster_group g;
    uint8_t *raw;
};
struct other { /* keys that this file gives no meaning */
    struct list link;
    char *key;
    uint8_t *value;
    size_t value_n;
};
struct cluster {
    struct cluster_conf conf;
    char *prefix, *name;
    struct etcd_mirror *mirror;
    struct etcd_lease *lease;
    struct cluster_node self;
    int64_t lease_id;
    bool has_self, has_id, ready, fresh, publishing, publish_again, closing;
    struct id128 id;
    struct list nodes, groups, others;
    struct placement_pool pools[POOLS_MAX];
    uint32_t pools_n;
    struct etcd_request put;
    char node_key[256], perm_key[256];
    char *json;
    uv_timer_t *timer;
    void (*closed)(void *data);
    void *closed_data;
};

static struct slice text(const char *s)
{
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

/* ---- nodes as JSON ---- */
static char *node_json(const struct cluster_node *n)
{
    char id[ID128_TEXT_BYTES], boot[ID128_TEXT_BYTES], of[ID128_TEXT_BYTES];
    json_t *disks = json_array(), *devices = json_array(), *j;
    char *out;

    for (uint32_t i = 0; i < n->disks_n; i++) {
        char disk[ID128_TEXT_BYTES];

        /* a failed append leaves the list short; json_pack fails then, or the dump is smaller */
        (void)json_array_append_new(disks,
                                    json_pack("{s:s, s:I}", "id", id128_text(&n->disks[i].id, disk),
                                              "bytes", (json_int_t)n->disks[i].total_bytes));
    }
    for (uint32_t i = 0; i < n->devices_n; i++)
        (void)json_array_append_new(devices, json_string(n->devices[i]));
    j = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:o, s:o}", "format", 1,
                  "kind", n->kind, "name", n->name, "id", id128_text(&n->id, id), "boot",
                  id128_text(&n->boot_id, boot), "address", n->host_address, "zone", n->zone,
                  "rack", n->rack, "host", n->host, "version", n->version, "cluster",
                  id128_is_zero(&n->cluster) ? "" : id128_text(&n->cluster, of), "disks", disks,
                  "devices", devices);
    out = j == NULL ? NULL : json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(j);
    return out;
}

static void take(char *to, size_t cap, const json_t *j, const char *name)
{
    const char *s = json_string_value(json_object_get(j, name));

    (void)snprintf(to, cap, "%s", s == NULL ? "" : s);
}

static bool node_parse(struct slice value, struct cluster_node *ret)
{
    json_t *j = json_loadb((const char *)value.p, value.n, 0, NULL), *list, *it;
    char id[40], boot[40], of[40];
    size_t i;
    bool ok;

    if (j == NULL) return false;
    memset(ret, 0, sizeof *ret);
    take(ret->kind, sizeof ret->kind, j, "kind");
    take(ret->name, sizeof ret->name, j, "name");
    take(ret->host_address, sizeof ret->host_address, j, "address");
    take(ret->zone, sizeof ret->zone, j, "zone");
    take(ret->rack, sizeof ret->rack, j, "rack");
    take(ret->host, sizeof ret->host, j, "host");
    take(ret->version, sizeof ret->version, j, "version");
    take(id, sizeof id, j, "id");
    take(boot, sizeof boot, j, "boot");
    take(of, sizeof of, j, "cluster");
    if (of[0] != 0 && !id128_parse(of, &ret->cluster)) ret->cluster = (struct id128){{0}};
    ok = id128_parse(id, &ret->id) && id128_parse(boot, &ret->boot_id) && ret->kind[0] != 0 &&
         ret->name[0] != 0;
    list = json_object_get(j, "disks");
    json_array_foreach(list, i, it)
    {
        char disk[40];

        if (ret->disks_n == CLUSTER_NODE_DISKS_MAX) break;
        take(disk, sizeof disk, it, "id");
        ok = ok && id128_parse(disk, &ret->disks[ret->disks_n].id);
        ret->disks[ret->disks_n++].total_bytes =
            (uint64_t)json_integer_value(json_object_get(it, "bytes"));
    }
    list = json_object_get(j, "devices");
    json_array_foreach(list, i, it)
    {
        if (ret->devices_n == ARRAY_N(ret->devices)) break;
        (void)snprintf(ret->devices[ret->devices_n++], sizeof ret->devices[0], "%s",
                       json_string_value(it) == NULL ? "" : json_string_value(it));
    }
    json_decref(j);
    return ok;
}

static struct node *node_find(const struct cluster *c, const char *kind, const char *name)
{
    LIST_FOREACH(it, &c->nodes)
    {
        struct node *n = CONTAINER_OF(it, struct node, link);

        if (strcmp(n->n.kind, kind) == 0 && strcmp(n->n.name, name) == 0) return n;
    }
    return NULL;
}

/* leased: from nodes/; else from nodes-perm/, which only makes a node known. */
static void node_change(struct cluster *c, struct slice value, bool leased)
{
    struct cluster_node *parsed = malloc(sizeof *parsed);
    struct node *n;

    if (parsed == NULL || !node_parse(value, parsed)) {
        log_warn("cluster_key", "a node's key does not decode");
        free(parsed);
        return;
    }
    n = node_find(c, parsed->kind, parsed->name);
    if (n == NULL) {
        n = calloc(1, sizeof *n);
        if (n == NULL) {
            free(parsed);
            return; /* the next whole read brings it */
        }
        list_push_back(&c->nodes, &n->link);
    } else if (!leased && n->n.alive) {
        free(parsed);
        return; /* the leased key is newer */
    }
    parsed->alive = leased;
    n->n = *parsed;
    free(parsed);
    if (c->ready && c->conf.on_node != NULL) c->conf.on_node(c->conf.data, &n->n);
}

static void node_gone(struct cluster *c, const char *rest)
{
    char kind[64];
    const char *slash = strchr(rest, '/');
    struct node *n;

    if (slash == NULL || (size_t)(slash - rest) >= sizeof kind) return;
    memcpy(kind, rest, (size_t)(slash - rest));
    kind[slash - rest] = 0;
    n = node_find(c, kind, slash + 1);
    if (n == NULL) return;
    n->n.alive = false;
    if (c->ready && c->conf.on_node != NULL) c->conf.on_node(c->conf.data, &n->n);
}

/* A node that was given up: nobody need know it any more, unless it runs. */
static void node_forgotten(struct cluster *c, const char *id)
{
    LIST_FOREACH_SAFE(it, &c->nodes)
    {
        struct node *n = CONTAINER_OF(it, struct node, link);
        char own[ID128_TEXT_BYTES];

        if (n->n.alive || strcmp(id128_text(&n->n.id, own), id) != 0) continue;
        list_remove(&n->link);
        free(n);
    }
}

/* ---- groups ---- */
static bool group_key(const char *rest, struct placement_group *ret, bool *ret_wish)
{
    unsigned pool, bits;
    char hex[17];
    uint8_t b[8];
    int n = 0;

    if (sscanf(rest, "%u/%u/%16[0-9a-f]%n", &pool, &bits, hex, &n) != 3 || strlen(hex) != 16)
        return false;
    if (bits > PLACEMENT_PREFIX_BITS_MAX || !hex_decode(hex, 16, b)) return false;
    *ret_wish = strcmp(rest + n, "/desired") == 0;
    if (rest[n] != 0 && !*ret_wish) return false;
    ret->pool = pool;
    ret->prefix_bits = bits;
    ret->prefix = 0;
    for (int i = 0; i < 8; i++)
        ret->prefix = ret->prefix << 8 | b[i];
    return true;
}

static bool same_group(const struct placement_group *a, const struct placement_group *b)
{
    return a->pool == b->pool && a->prefix_bits == b->prefix_bits && a->prefix == b->prefix;
}

static void group_change(struct cluster *c, const struct placement_group *key,
                         const struct etcd_kv *kv)
{
    struct group_config cfg;
    struct group *g = NULL;
    struct err err;
    uint8_t *raw;

    LIST_FOREACH(it, &c->groups)
    {
        struct group *o = CONTAINER_OF(it, struct group, link);

        if (same_group(&o->g.group, key)) g = o;
    }
    if (kv->mod_revision == 0) {
        if (g == NULL) return;
        list_remove(&g->link);
        free(g->raw);
        free(g);
        return;
    }
    if (group_config_decode(kv->value, &cfg, &err) != RC_OK) {
        log_error("cluster_key", "group %u/%u/%016llx: %s", key->pool, key->prefix_bits,
                  (unsigned long long)key->prefix, err.msg);
        return;
    }
    raw = malloc(kv->value.n);
    if (raw == NULL) return; /* the next whole read brings it */
    memcpy(raw, kv->value.p, kv->value.n);
    if (g == NULL) {
        g = calloc(1, sizeof *g);
        if (g == NULL) {
            free(raw);
            return;
        }
        list_push_back(&c->groups, &g->link);
    }
    free(g->raw);
    g->raw = raw;
    g->g = (struct cluster_group){.group = *key,
                                  .config = cfg.config,
                                  .epoch = cfg.epoch,
                                  .primary = cfg.primary,
                                  .in_sync_n = cfg.in_sync.n,
                                  .learners_n = cfg.learners.n,
                                  .mod_revision = kv->mod_revision,
                                  .raw = {raw, kv->value.n}};
    memcpy(g->g.in_sync, cfg.in_sync.disks, sizeof g->g.in_sync);
    memcpy(g->g.learners, cfg.learners.disks, sizeof g->g.learners);
    if (c->ready && c->conf.on_group != NULL) c->conf.on_group(c->conf.data, &g->g);
}

/* ---- pools ---- */
static void pool_change(struct cluster *c, const struct etcd_kv *kv)
{
    json_t *j = json_loadb((const char *)kv->value.p, kv->value.n, 0, NULL);
    struct placement_pool p = {0};
    struct err err;
    uint32_t i = 0;

    p.id = (uint32_t)json_integer_value(json_object_get(j, "id"));
    p.prefix_bits = (uint32_t)json_integer_value(json_object_get(j, "prefix_bits"));
    p.copies = (uint32_t)json_integer_value(json_object_get(j, "copies"));
    p.min_in_sync = (uint32_t)json_integer_value(json_object_get(j, "min_in_sync"));
    p.failure_domain =
        (enum placement_level)json_integer_value(json_object_get(j, "failure_domain"));
    json_decref(j);
    if (placement_pool_check(&p, &err) != RC_OK) {
        log_error("cluster_key", "a pool: %s", err.msg);
        return;
    }
    while (i < c->pools_n && c->pools[i].id != p.id)
        i++;
    if (i == POOLS_MAX) return;
    c->pools[i] = p;
    if (i == c->pools_n) c->pools_n++;
    if (c->ready && c->conf.on_pool != NULL) c->conf.on_pool(c->conf.data, &c->pools[i]);
}

char *cluster_pool_json(const struct placement_pool *p)
{
    json_t *j =
        json_pack("{s:i, s:i, s:i, s:i, s:i, s:i}", "format", 1, "id", (int)p->id, "prefix_bits",
                  (int)p->prefix_bits, "copies", (int)p->copies, "min_in_sync", (int)p->min_in_sync,
                  "failure_domain", (int)p->failure_domain);
    char *out = j == NULL ? NULL : json_dumps(j, JSON_COMPACT);

    json_decref(j);
    return out;
}

/* ---- the rest ---- */
static void other_change(struct cluster *c, const char *rest, const struct etcd_kv *kv)
{
    struct other *o = NULL;

    LIST_FOREACH(it, &c->others)
    {
        struct other *x = CONTAINER_OF(it, struct other, link);

        if (strcmp(x->key, rest) == 0) o = x;
    }
    if (o != NULL) {
        list_remove(&o->link);
        free(o->key);
        free(o->value);
        free(o);
    }
    if (kv->mod_revision == 0) return;
    o = calloc(1, sizeof *o);
    if (o == NULL) return;
    o->key = strdup(rest);
    o->value = malloc(kv->value.n + 1);
    if (o->key == NULL || o->value == NULL) {
        free(o->key);
        free(o->value);
        free(o);
        return;
    }
    memcpy(o->value, kv->value.p, kv->value.n);
    o->value[kv->value.n] = 0;
    o->value_n = kv->value.n;
    list_push_back(&c->others, &o->link);
}

static void publish(struct cluster *c);

static void on_change(void *data, const struct etcd_kv *kv)
{
    struct cluster *c = data;
    size_t skip = strlen(c->prefix);
    struct placement_group g;
    char rest[512];
    bool wish;

    if (kv->key.n < skip || kv->key.n - skip >= sizeof rest) return;
    memcpy(rest, kv->key.p + skip, kv->key.n - skip);
    rest[kv->key.n - skip] = 0;
    if (strcmp(rest, "id") == 0) {
        char t[ID128_TEXT_BYTES] = "";

        if (kv->value.n == ID128_TEXT_BYTES - 1) memcpy(t, kv->value.p, kv->value.n);
        c->has_id = id128_parse(t, &c->id);
    } else if (strncmp(rest, "nodes/", 6) == 0) {
        if (kv->mod_revision == 0) {
            node_gone(c, rest + 6);
            /* our own key vanished under a lease that we hold: write it again */
            if (c->has_self && c->lease_id != 0 && !c->closing &&
                strcmp(c->node_key + skip, rest) == 0)
                publish(c);
        } else {
            node_change(c, kv->value, true);
        }
    } else if (strncmp(rest, "nodes-perm/", 11) == 0) {
        if (kv->mod_revision != 0) {
            node_change(c, kv->value, false);
        } else {
            node_forgotten(c, rest + 11);
        }
    } else if (strncmp(rest, "pools/", 6) == 0) {
        if (kv->mod_revision != 0) pool_change(c, kv);
    } else if (strncmp(rest, "pg/", 3) == 0 && group_key(rest + 3, &g, &wish)) {
        if (wish) {
            other_change(c, rest, kv);
            if (c->ready && c->conf.on_other != NULL)
                c->conf.on_other(c->conf.data, rest, kv->value);
        } else {
            group_change(c, &g, kv);
        }
    } else {
        other_change(c, rest, kv);
        if (c->ready && c->conf.on_other != NULL) c->conf.on_other(c->conf.data, rest, kv->value);
    }
}

static void on_synced(void *data, int64_t revision)
{
    struct cluster *c = data;

    (void)revision;
    c->fresh = true;
    if (c->ready) return;
    c->ready = true;
    if (c->conf.on_ready != NULL) c->conf.on_ready(c->conf.data);
}

static void on_doubt(void *data, const struct err *e)
{
    struct cluster *c = data;

    if (c->fresh) log_warn("cluster_map", "etcd is away, the map may be old: %s", e->msg);
    c->fresh = false;
}

/* ---- publishing ---- */
static void on_published(struct etcd_request *r, enum rc rc, const struct etcd_answer *a)
{
    struct cluster *c = r->data;

    (void)a;
    c->publishing = false;
    free(c->json);
    c->json = NULL;
    if (rc != RC_OK && !c->closing) {
        log_warn("cluster_publish", "rc=%s why=%s: tries again", rc_name(rc), r->err.msg);
        c->publish_again = true;
    }
    /* a failed try comes again with the timer */
}

static void publish(struct cluster *c)
{
    struct etcd_op puts[2];
    struct etcd_txn t = {.then = puts, .then_n = 2};

    if (c->publishing || c->lease_id == 0 || c->closing) {
        c->publish_again = c->publishing;
        return;
    }
    c->publish_again = false;
    c->json = node_json(&c->self);
    if (c->json == NULL) {
        c->publish_again = true;
        return;
    }
    puts[0] = (struct etcd_op){
        .kind = ETCD_PUT, .key = text(c->node_key), .value = text(c->json), .lease = c->lease_id};
    puts[1] = (struct etcd_op){.kind = ETCD_PUT, .key = text(c->perm_key), .value = text(c->json)};
    c->put.data = c;
    c->publishing = true;
    if (etcd_txn(c->conf.etcd, &c->put, &t, on_published) != RC_OK) {
        c->publishing = false;
        c->publish_again = true;
        free(c->json);
        c->json = NULL;
    }
}

static void on_timer(uv_timer_t *t)
{
    struct cluster *c = t->data;

    if (c->publish_again) publish(c);
}

static void on_lease(void *data, int64_t id)
{
    struct cluster *c = data;

    c->lease_id = id;
    publish(c);
}

static void on_lease_lost(void *data)
{
    struct cluster *c = data;

    c->lease_id = 0;
    if (c->conf.on_lease_lost != NULL) c->conf.on_lease_lost(c->conf.data);
}

static void set_self(struct cluster *c, const struct cluster_node *self)
{
    char id[ID128_TEXT_BYTES];

    c->self = *self;
    c->has_self = true;
    (void)snprintf(c->node_key, sizeof c->node_key, "%snodes/%s/%s", c->prefix, self->kind,
                   self->name);
    (void)snprintf(c->perm_key, sizeof c->perm_key, "%snodes-perm/%s", c->prefix,
                   id128_text(&self->id, id));
}

enum rc cluster_open(const struct cluster_conf *conf, struct cluster **ret_cluster,
                     struct err *reterr)
{
    const struct etcd_mirror_ops ops = {on_change, on_synced, on_doubt};
    struct cluster *c = calloc(1, sizeof *c);
    enum rc rc = RC_OK;

    if (c == NULL) return err_set(reterr, RC_NOMEM, "the cluster's map");
    c->conf = *conf;
    list_init(&c->nodes);
    list_init(&c->groups);
    list_init(&c->others);
    if (strlen(conf->name) == 0 || strlen(conf->name) > 63 || strchr(conf->name, '/') != NULL) {
        free(c);
        return err_set(reterr, RC_INVAL, "cluster = '%s': expected 1 to 63 bytes without '/'",
                       conf->name);
    }
    c->prefix = malloc(strlen(conf->name) + 16);
    c->timer = calloc(1, sizeof *c->timer);
    if (c->prefix == NULL || c->timer == NULL) {
        free(c->prefix);
        free(c->timer);
        free(c);
        return err_set(reterr, RC_NOMEM, "the cluster's map");
    }
    (void)snprintf(c->prefix, strlen(conf->name) + 16, "/mikura/%s/", conf->name);
    (void)uv_timer_init(etcd_loop(conf->etcd), c->timer); /* can't fail */
    c->timer->data = c;
    (void)uv_timer_start(c->timer, on_timer, 500, 500);
    if (conf->self != NULL) {
        set_self(c, conf->self);
        rc = etcd_lease_open(conf->etcd, conf->lease_ttl_s == 0 ? 10 : conf->lease_ttl_s, on_lease,
                             on_lease_lost, c, &c->lease);
    }
    if (rc == RC_OK) rc = etcd_mirror_open(conf->etcd, c->prefix, &ops, c, &c->mirror);
    if (rc != RC_OK) {
        cluster_close(c, NULL, NULL);
        return err_set(reterr, rc, "following the cluster's map in etcd");
    }
    *ret_cluster = c;
    return RC_OK;
}

static void really_closed(uv_handle_t *h)
{
    struct cluster *c = h->data;
    void (*cb)(void *data) = c->closed;
    void *data = c->closed_data;

    free(h);
    while (!list_empty(&c->nodes)) {
        struct node *n = CONTAINER_OF(c->nodes.next, struct node, link);

        list_remove(&n->link);
        free(n);
    }
    while (!list_empty(&c->groups)) {
        struct group *g = CONTAINER_OF(c->groups.next, struct group, link);

        list_remove(&g->link);
        free(g->raw);
        free(g);
    }
    while (!list_empty(&c->others)) {
        struct other *o = CONTAINER_OF(c->others.next, struct other, link);

        list_remove(&o->link);
        free(o->key);
        free(o->value);
        free(o);
    }
    free(c->prefix);
    free(c);
    if (cb != NULL) cb(data);
}

static void on_close_timer(uv_timer_t *t)
{
    struct cluster *c = t->data;

    if (c->publishing) return; /* its answer still needs us */
    (void)uv_timer_stop(t);
    uv_close((uv_handle_t *)t, really_closed);
}

void cluster_close(struct cluster *c, void (*cb)(void *data), void *data)
{
    c->closing = true;
    c->closed = cb;
    c->closed_data = data;
    etcd_mirror_close(c->mirror);
    etcd_lease_close(c->lease, /* revoke= */ true);
    (void)uv_timer_start(c->timer, on_close_timer, 1, 10); /* the handle is open */
}

enum rc cluster_publish(struct cluster *c, const struct cluster_node *self)
{
    set_self(c, self);
    if (c->publishing) {
        c->publish_again = true;
    } else {
        publish(c);
    }
    return RC_OK;
}

/* ---- looking ---- */
const struct id128 *cluster_id(const struct cluster *c)
{
    return c->has_id ? &c->id : NULL;
}

const struct placement_pool *cluster_pool(const struct cluster *c, uint32_t pool)
{
    for (uint32_t i = 0; i < c->pools_n; i++) {
        if (c->pools[i].id == pool) return &c->pools[i];
    }
    return NULL;
}

const struct cluster_group *cluster_group_of(const struct cluster *c, uint32_t pool, uint64_t hash)
{
    LIST_FOREACH(it, &c->groups)
    {
        const struct group *g = CONTAINER_OF(it, struct group, link);

        if (g->g.group.pool == pool && placement_group_has(&g->g.group, hash)) return &g->g;
    }
    return NULL;
}

const struct cluster_group *cluster_group_next(const struct cluster *c,
                                               const struct cluster_group *prev)
{
    const struct list *next =
        prev == NULL ? c->groups.next : CONTAINER_OF(prev, struct group, g)->link.next;

    return next == &c->groups ? NULL : &CONTAINER_OF(next, struct group, link)->g;
}

const struct cluster_node *cluster_node_of_disk(const struct cluster *c, const struct id128 *disk)
{
    LIST_FOREACH(it, &c->nodes)
    {
        const struct node *n = CONTAINER_OF(it, struct node, link);

        for (uint32_t i = 0; i < n->n.disks_n; i++) {
            if (id128_eq(&n->n.disks[i].id, disk)) return &n->n;
        }
    }
    return NULL;
}

const struct cluster_node *cluster_node_next(const struct cluster *c,
                                             const struct cluster_node *prev)
{
    const struct list *next =
        prev == NULL ? c->nodes.next : CONTAINER_OF(prev, struct node, n)->link.next;

    return next == &c->nodes ? NULL : &CONTAINER_OF(next, struct node, link)->n;
}

bool cluster_fresh(const struct cluster *c)
{
    return c->fresh;
}

bool cluster_other(const struct cluster *c, const char *rest, struct slice *ret_value)
{
    LIST_FOREACH(it, &c->others)
    {
        const struct other *o = CONTAINER_OF(it, struct other, link);

        if (strcmp(o->key, rest) != 0) continue;
        *ret_value = (struct slice){o->value, o->value_n};
        return true;
    }
    return false;
}

void cluster_other_each(const struct cluster *c, const char *prefix,
                        void (*each)(void *arg, const char *rest, struct slice value), void *arg)
{
    LIST_FOREACH(it, &c->others)
    {
        const struct other *o = CONTAINER_OF(it, struct other, link);

        if (strncmp(o->key, prefix, strlen(prefix)) == 0)
            each(arg, o->key, (struct slice){o->value, o->value_n});
    }
}
