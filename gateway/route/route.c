/* gateway/route/route.c - node connections and the wait for a primary. */
#include "gateway/route/route_priv.h"
#include "common/base/log.h"
#include "common/base/strutil.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum rc route_open(const struct route_conf *conf, struct route **ret_route)
{
    struct route *r = calloc(1, sizeof *r);

    if (r == NULL) return RC_NOMEM;
    r->conf = *conf;
    list_init(&r->nodes);
    list_init(&r->groups);
    fiber_cond_init(&r->changed);
    r->client = id128_random();
    *ret_route = r;
    return RC_OK;
}

static void channel_closed(void *data)
{
    struct route_node *n = data;

    n->handles--;
    fiber_cond_broadcast(&n->changed);
}

static void node_close(struct route_node *n)
{
    n->closing = true;
    if (n->rpc != NULL) {
        n->handles++;
        rpc_channel_close(n->rpc, channel_closed, n);
        n->rpc = NULL;
    }
    if (n->bulk != NULL) bulk_conn_close(n->bulk, RC_CANCELED);
}

void route_close(struct route *r)
{
    if (r == NULL) return;
    while (!list_empty(&r->nodes)) {
        struct route_node *n = CONTAINER_OF(r->nodes.next, struct route_node, link);

        node_close(n);
        while (n->handles > 0 || n->bulk != NULL)
            fiber_cond_wait(&n->changed);
        list_remove(&n->link);
        free(n);
    }
    while (!list_empty(&r->groups)) {
        struct route_group *g = CONTAINER_OF(r->groups.next, struct route_group, link);

        list_remove(&g->link);
        free(g);
    }
    free(r);
}

void route_changed(struct route *r)
{
    fiber_cond_broadcast(&r->changed);
}

static bool split_address(const char *address, char host[128], uint16_t *ret_port)
{
    const char *colon = strrchr(address, ':');
    unsigned long port;
    char *end;

    if (colon == NULL || colon == address || (size_t)(colon - address) >= 128) return false;
    port = strtoul(colon + 1, &end, 10);
    if (*end != 0 || port == 0 || port > 65535) return false;
    memcpy(host, address, (size_t)(colon - address));
    host[colon - address] = 0;
    *ret_port = (uint16_t)port;
    return true;
}

static enum rc node_channel(struct route *r, struct route_node *n, struct err *reterr)
{
    char host[128], uri[TLS_URI_BYTES_MAX];
    struct rpc_channel_conf conf = {.loop = fibers_loop(r->conf.fs), .tls = r->conf.tls};
    uint16_t port;

    if (!split_address(n->address, host, &port)) {
        return err_set(reterr, RC_INTERNAL, "storaged '%s' published the address '%s'", n->name,
                       n->address);
    }
    (void)snprintf(uri, sizeof uri, "mikura://node/storaged/%s", n->name);
    conf.host = host;
    conf.port = port;
    conf.expect_uri = uri;
    return rpc_channel_new(&conf, &n->rpc, reterr);
}

enum rc route_node_of(struct route *r, const struct cluster_node *cn, struct route_node **ret_node,
                      struct err *reterr)
{
    struct route_node *n = NULL;
    enum rc rc;

    LIST_FOREACH(it, &r->nodes)
    {
        struct route_node *o = CONTAINER_OF(it, struct route_node, link);

        if (strcmp(o->name, cn->name) == 0) n = o;
    }
    if (n != NULL && strcmp(n->address, cn->host_address) != 0) { /* it moved */
        node_close(n);
        while (n->handles > 0 || n->bulk != NULL)
            fiber_cond_wait(&n->changed);
        n->closing = false;
    }
    if (n == NULL) {
        n = calloc(1, sizeof *n);
        if (n == NULL) return err_set(reterr, RC_NOMEM, "a connection to storaged '%s'", cn->name);
        n->route = r;
        fiber_cond_init(&n->changed);
        (void)snprintf(n->name, sizeof n->name, "%s", cn->name);
        list_push_back(&r->nodes, &n->link);
    }
    n->id = cn->id;
    if (n->rpc == NULL) {
        (void)snprintf(n->address, sizeof n->address, "%s", cn->host_address);
        rc = node_channel(r, n, reterr);
        if (rc != RC_OK) return rc;
    }
    *ret_node = n;
    return RC_OK;
}

/* ---- bulk connection of a node ---- */
static void on_up(struct bulk_conn *c)
{
    struct route_node *n = bulk_conn_data(c);

    n->bulk_up = true;
    fiber_cond_broadcast(&n->changed);
}

static void on_down(struct bulk_conn *c, enum rc rc, const struct err *e)
{
    struct route_node *n = bulk_conn_data(c);

    if (rc != RC_CANCELED)
        log_info("bulk_down", "node=%s rc=%s why=%s", n->name, rc_name(rc), e->msg);
    n->bulk = NULL;
    n->bulk_up = false;
    fiber_cond_broadcast(&n->changed);
}

static void on_request(struct bulk_conn *c, struct bulk_in *in, struct slice header,
                       uint32_t payload_n)
{
    (void)in;
    (void)header;
    (void)payload_n;
    bulk_conn_close(c, RC_INVAL); /* nobody asks a gateway for chunks */
}

static const struct bulk_ops BULK_OPS = {
    .on_request = on_request, .on_up = on_up, .on_down = on_down};

enum rc route_bulk(struct route_node *n, uint64_t left_ms, struct bulk_conn **ret_conn,
                   struct err *reterr)
{
    struct route *r = n->route;
    uint64_t until = uv_now(fibers_loop(r->conf.fs)) + left_ms;

    while (n->bulk == NULL || !n->bulk_up) {
        uint64_t now = uv_now(fibers_loop(r->conf.fs));
        bool dialled = n->bulk == NULL;

        if (now >= until || n->closing) {
            return err_set(reterr, RC_UNAVAIL, "no bulk connection to storaged '%s' at %s", n->name,
                           n->address);
        }
        if (dialled) {
            struct bulk_conf conf = {.loop = fibers_loop(r->conf.fs),
                                     .tls = r->conf.tls,
                                     .self = r->conf.self,
                                     .ops = &BULK_OPS,
                                     .data = n};
            char host[128], uri[TLS_URI_BYTES_MAX];
            uint16_t port;
            enum rc rc;

            if (!split_address(n->address, host, &port)) return RC_INTERNAL;
            (void)snprintf(uri, sizeof uri, "mikura://node/storaged/%s", n->name);
            rc = bulk_dial(&conf, host, port, uri, BULK_DATA, &n->bulk, reterr);
            if (rc != RC_OK) return rc;
        }
        if (fiber_cond_wait_ms(&n->changed, until - now) != RC_OK) continue;
        if (n->bulk == NULL && dialled) {
            return err_set(reterr, RC_UNAVAIL, "no bulk connection to storaged '%s' at %s", n->name,
                           n->address);
        }
    }
    *ret_conn = n->bulk;
    return RC_OK;
}

/* ---- tries ---- */
void route_try_init(struct route_try *t, struct route *r, struct route_at at, uint64_t left_ms)
{
    *t = (struct route_try){.r = r,
                            .at = at,
                            .deadline_ms = uv_now(fibers_loop(r->conf.fs)) + left_ms,
                            .pause_ms = ROUTE_PAUSE_MS};
}

uint64_t route_left_ms(const struct route_try *t)
{
    uint64_t now = uv_now(fibers_loop(t->r->conf.fs));

    return now >= t->deadline_ms ? 0 : t->deadline_ms - now;
}

enum rc route_primary(struct route_try *t, struct route_node **ret_node,
                      const struct cluster_group **ret_group, struct err *reterr)
{
    for (;;) {
        const struct cluster_group *g =
            cluster_group_of(t->r->conf.cluster, t->at.pool, t->at.hash);
        const struct cluster_node *n = NULL;
        uint64_t left = route_left_ms(t);

        if (g != NULL) n = cluster_node_of_disk(t->r->conf.cluster, &g->primary);
        if (n != NULL && n->alive) {
            *ret_group = g;
            t->tried_revision = g->mod_revision;
            return route_node_of(t->r, n, ret_node, reterr);
        }
        if (left == 0) {
            if (g == NULL) {
                return err_set(reterr, RC_UNAVAIL,
                               "pool %u has no placement group for this yet: are the "
                               "storage nodes up? (`mikura node ls`)",
                               t->at.pool);
            }
            return err_set(
                reterr, RC_UNAVAIL,
                "the primary of group %u/%u/%016llx is away and no other has taken over yet; retry",
                g->group.pool, g->group.prefix_bits, (unsigned long long)g->group.prefix);
        }
        (void)!fiber_cond_wait_ms(&t->r->changed,
                                  MIN(left, 500)); /* either way the map is looked at again */
    }
}

enum rc route_node_rc(enum rc rc, struct err *e)
{
    if (rc != RC_UNAUTH) return rc;
    if (e != NULL) e->rc = RC_UNAVAIL;
    return RC_UNAVAIL;
}

/* Until the group's record is another than the one that was tried, and then soon again; else twice
 * as long as before. Not at any change of the map: when a node dies, dozens of groups change within
 * milliseconds, and this one's new primary serves a moment later. */
static void try_pause(struct route_try *t)
{
    uint64_t until = uv_now(fibers_loop(t->r->conf.fs)) + t->pause_ms, now;

    for (;;) {
        const struct cluster_group *g =
            cluster_group_of(t->r->conf.cluster, t->at.pool, t->at.hash);

        if (g != NULL && g->mod_revision != t->tried_revision) {
            t->pause_ms = ROUTE_PAUSE_MS;
            return;
        }
        now = uv_now(fibers_loop(t->r->conf.fs));
        if (now >= until) break;
        (void)!fiber_cond_wait_ms(&t->r->changed, until - now); /* either way it looks again */
    }
    t->pause_ms = MIN(t->pause_ms * 2, ROUTE_PAUSE_MS_MAX);
}

bool route_again(struct route_try *t, enum rc rc, const struct funary_info *info)
{
    bool elsewhere = rc == RC_STALE || rc == RC_PRECOND;
    uint64_t left = route_left_ms(t);

    if (elsewhere && info->epoch[0] == 0) return false; /* the request's own failure */
    if (!elsewhere && rc != RC_UNAVAIL && rc != RC_IO && rc != RC_DEADLINE && rc != RC_CANCELED)
        return false;
    if (left <= t->pause_ms) return false;
    t->attempts++;
    try_pause(t);
    return true;
}

void route_group_ref(const struct cluster_group *g, uint64_t hash,
                     Mikura__Internal__V1__GroupRef *ret)
{
    mikura__internal__v1__group_ref__init(ret);
    ret->pool = g->group.pool;
    ret->placement_hash = hash;
    ret->epoch = g->epoch;
    ret->config = g->config;
}

struct route_group *route_group_of(struct route *r, const struct cluster_group *g)
{
    struct route_group *rg;

    LIST_FOREACH(it, &r->groups)
    {
        rg = CONTAINER_OF(it, struct route_group, link);
        if (rg->pool == g->group.pool && rg->bits == g->group.prefix_bits &&
            rg->prefix == g->group.prefix) {
            return rg;
        }
    }
    rg = calloc(1, sizeof *rg);
    if (rg == NULL) return NULL;
    rg->pool = g->group.pool;
    rg->bits = g->group.prefix_bits;
    rg->prefix = g->group.prefix;
    rg->next_sequence = 1;
    fiber_sem_init(&rg->inflight, ROUTE_GROUP_INFLIGHT_MAX);
    list_push_back(&r->groups, &rg->link);
    return rg;
}

static uint32_t nearness(const struct cluster_node *n, const char *zone, const char *rack,
                         const char *host)
{
    if (strcmp(n->zone, zone) != 0) return 3;
    if (strcmp(n->rack, rack) != 0) return 2;
    return strcmp(n->host, host) != 0 ? 1 : 0;
}

uint32_t route_replicas(struct route *r, struct route_at at, const char *zone, const char *rack,
                        const char *host, struct arena *arena,
                        char *ret_address[ROUTE_REPLICAS_MAX])
{
    const struct cluster_group *g = cluster_group_of(r->conf.cluster, at.pool, at.hash);
    uint32_t n = 0;

    if (g == NULL) return 0;
    for (uint32_t want = 0; want <= 3; want++) {
        for (uint32_t i = 0; i < g->in_sync_n; i++) {
            /* another start for each call, so that equals share the load */
            uint32_t k = (i + r->rotor) % g->in_sync_n;
            const struct cluster_node *cn = cluster_node_of_disk(r->conf.cluster, &g->in_sync[k]);

            if (cn == NULL || nearness(cn, zone, rack, host) != want || n == ROUTE_REPLICAS_MAX)
                continue;
            ret_address[n] = arena_str(arena, "%s", cn->host_address);
            if (ret_address[n] != NULL) n++;
        }
    }
    r->rotor++;
    return n;
}
