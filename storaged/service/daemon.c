/* storaged/service/daemon.c - the daemon's life: what is opened in which order, and closed in the
 * reverse.
 *
 * Start: certificate, port, disks (recovery), etcd; then it publishes itself and its replicas come
 * with the cluster's map. Stop: no new requests, replicas leave (others take over by their grace),
 * connections, what is under way, disks. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/net/http.h"
#include "storaged/service/service.h"
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOW_MS  1000u
#define GRACE_MS 2000u /* of running calls at a stop */

/* ---- work that must end before the disks close ---- */
struct spawned {
    struct sd *sd;
    void (*fn)(void *arg);
    void *arg;
};

static void spawned_run(void *arg)
{
    struct spawned s = *(struct spawned *)arg;

    free(arg);
    s.fn(s.arg);
    sd_work_end(s.sd);
}

enum rc sd_spawn(struct sd *sd, void (*fn)(void *arg), void *arg)
{
    struct spawned *s = malloc(sizeof *s);
    enum rc rc;

    if (s == NULL) return RC_NOMEM;
    *s = (struct spawned){sd, fn, arg};
    rc = fiber_spawn(sd->fs, spawned_run, s);
    if (rc != RC_OK) {
        free(s);
        return rc;
    }
    sd->work_n++;
    return RC_OK;
}

void sd_work_end(struct sd *sd)
{
    CHECK(sd->work_n > 0);
    sd->work_n--;
    fiber_cond_broadcast(&sd->work_cond);
}

/* ---- who may call ---- */
static enum rc gate(void *data, const struct rpc_method *m, const struct tls_identity *peer,
                    struct err *reterr)
{
    bool node = peer != NULL && peer->role == TLS_NODE;

    (void)data;
    if (m == NULL) { /* /metrics */
        if (node || (peer != NULL && peer->role == TLS_OPERATOR)) return RC_OK;
    } else if (strncmp(m->path, "/mikura.", 8) != 0) { /* health, reflection */
        return RC_OK;
    } else if (node &&
               (strcmp(peer->kind, "gateway") == 0 || strcmp(peer->kind, "storaged") == 0)) {
        return RC_OK;
    }
    sdm_add(SDM_DENIED, 1);
    log_warn("denied", "peer=%s path=%s", peer == NULL ? "?" : peer->uri,
             m == NULL ? "(http)" : m->path);
    return err_set(reterr, RC_DENIED, "storage nodes answer gateways; use the gateway's address");
}

static void on_healthz(struct http_request *r, struct slice body)
{
    struct sd *sd = http_request_service(r);
    uint32_t good = 0;
    char text[160];
    int n;

    (void)body;
    for (uint32_t i = 0; i < sd->disks_n; i++)
        good += !sd->disks[i].out;
    n = snprintf(text, sizeof text, "%s: %u of %u disks, %u replicas, %s\n",
                 good > 0 && !sd->stopping ? "ok" : "failing", good, sd->disks_n + sd->dark_n,
                 sd->groups_n, sd->serving ? "joined" : "waiting for the cluster's id in etcd");
    http_reply(r, good > 0 && !sd->stopping ? 200 : 503, "text/plain",
               (struct slice){(const uint8_t *)text, (size_t)n});
}

static void on_metrics(struct http_request *r, struct slice body)
{
    struct sd *sd = http_request_service(r);
    struct buf out;

    (void)body;
    buf_init(&out, 4u << 20);
    sd_metrics_print(sd, &out);
    if (buf_rc(&out) == RC_OK) {
        http_reply(r, 200, "text/plain; version=0.0.4", (struct slice){out.p, out.n});
    } else {
        http_reply(r, 500, "text/plain", (struct slice){(const uint8_t *)"out of memory\n", 14});
    }
    buf_deinit(&out);
}

/* ---- the cluster's map ---- */
static void node_facts(const struct sd *sd, struct cluster_node *n)
{
    memset(n, 0, sizeof *n);
    (void)snprintf(n->kind, sizeof n->kind, "storaged");
    (void)snprintf(n->name, sizeof n->name, "%s", sd->conf.name);
    n->id = sd->node_id;
    n->boot_id = sd->boot_id;
    (void)snprintf(n->host_address, sizeof n->host_address, "%s",
                   sd->conf.advertise[0] != 0 ? sd->conf.advertise : sd->conf.listen);
    (void)snprintf(n->zone, sizeof n->zone, "%s", sd->conf.zone);
    (void)snprintf(n->rack, sizeof n->rack, "%s", sd->conf.rack);
    (void)snprintf(n->host, sizeof n->host, "%s",
                   sd->conf.host[0] != 0 ? sd->conf.host : sd->conf.name);
    (void)snprintf(n->version, sizeof n->version, "%s", MIKURA_VERSION);
    if (!id128_is_zero(&sd->own)) n->cluster = sd->own;
    for (uint32_t i = 0; i < sd->disks_n; i++) {
        struct store_status st;

        if (sd->disks[i].out) continue;
        store_status(sd->disks[i].store, &st);
        n->disks[n->disks_n].id = sd->disks[i].id;
        n->disks[n->disks_n++].total_bytes = st.log.total_bytes;
    }
}

void sd_publish(struct sd *sd)
{
    struct cluster_node *n;
    enum rc rc = RC_NOMEM;

    if (sd->cluster == NULL || sd->stopping) return;
    n = calloc(1, sizeof *n);
    if (n != NULL) {
        node_facts(sd, n);
        rc = cluster_publish(sd->cluster, n);
    }
    free(n);
    if (rc != RC_OK) log_warn("publish_failed", "rc=%s", rc_name(rc));
}

static void key_seen(struct sd *sd, const char *rest, struct slice value)
{
    struct sign_public k;

    if (value.n == 0) return; /* old public keys are kept for ever */
    if (sign_public_load(value, &k) != RC_OK) {
        log_warn("signing_key_bad", "key=%s", rest);
        return;
    }
    for (uint32_t i = 0; i < sd->keys_n; i++) {
        if (id128_eq(&sd->keys[i].id, &k.id)) return;
    }
    if (sd->keys_n == SD_SIGNING_MAX) {
        memmove(sd->keys, sd->keys + 1, (SD_SIGNING_MAX - 1) * sizeof sd->keys[0]);
        sd->keys_n--;
    }
    sd->keys[sd->keys_n++] = k;
}

static void joined(struct sd *sd)
{
    char text[ID128_TEXT_BYTES], own[ID128_TEXT_BYTES];
    bool first;

    if (sd->serving || sd->stopping || cluster_id(sd->cluster) == NULL) return;
    if (persisted_foreign(sd)) {
        if (!sd->foreign_told)
            log_error("other_cluster",
                      "etcd=%s disks=%s why=etcd was wiped, or these are disks of "
                      "another cluster: mikura admin recover-config, or give it its own etcd",
                      id128_text(cluster_id(sd->cluster), text), id128_text(&sd->own, own));
        sd->foreign_told = true;
        return;
    }
    first = id128_is_zero(&sd->own);
    persisted_joined(sd, cluster_id(sd->cluster));
    sd->serving = true;
    rpc_server_set_serving(sd->server, "", true);
    rpc_server_set_serving(sd->server, "mikura.internal.v1.Store", true);
    log_info("joined", "cluster=%s id=%s", sd->conf.cluster,
             id128_text(cluster_id(sd->cluster), text));
    if (first) sd_publish(sd);
}

static void on_other(void *data, const char *rest, struct slice value)
{
    struct sd *sd = data;

    if (strncmp(rest, "signing/", 8) == 0) {
        key_seen(sd, rest, value);
    } else if (strncmp(rest, "pg/", 3) == 0) {
        group_wish(sd, rest, value);
    }
}

static void on_group(void *data, const struct cluster_group *g)
{
    joined(data);
    group_record(data, g);
}

static void on_pool(void *data, const struct placement_pool *p)
{
    joined(data);
    if (!persisted_foreign(data)) persisted_pool(data, p);
    groups_map_changed(data);
}

static void on_ready(void *data)
{
    struct sd *sd = data;
    const struct cluster_group *g = NULL;

    for (uint32_t i = 1; i <= 2 && !persisted_foreign(sd); i++) {
        const struct placement_pool *p = cluster_pool(sd->cluster, i);

        if (p != NULL) persisted_pool(sd, p);
    }
    while ((g = cluster_group_next(sd->cluster, g)) != NULL)
        group_record(sd, g);
    cluster_other_each(sd->cluster, "", on_other, sd);
    joined(sd);
}

static void on_lease_lost(void *data)
{
    (void)data; /* no safety rests on it: replicas hold leases among themselves */
    log_warn("node_lease_lost", "why=etcd was away; publishing again");
}

static void on_world(void *data, struct err *e)
{
    (void)data;
    log_error("etcd_other_world", "why=%s", e->msg);
}

/* ---- time ---- */
static void slow_tick(struct sd *sd)
{
    joined(sd);
    groups_map_changed(sd);
    snap_givers_expire(sd);
    disks_faults(sd);
    for (uint32_t i = 0; i < sd->disks_n; i++) {
        struct sd_disk *d = &sd->disks[i];
        struct store_status st;
        bool healed = d->damaged && !d->out && sd->serving;

        if (d->out) continue;
        store_status(d->store, &st);
        if (st.rc != RC_OK) disk_out(d, st.rc, &st.err);
        LIST_FOREACH(it, &sd->groups)
        {
            struct sd_group *g = CONTAINER_OF(it, struct sd_group, link);

            if (g->disk != d || g->erased) continue;
            group_trim(g);
            group_apply(g, 0); /* in case no fiber could be had */
            group_retire_look(g);
            healed &= g->ready && !g->core.damaged;
        }
        if (healed && store_damage_clear(d->store, &st.err) == RC_OK) {
            d->damaged = false;
            log_info("disk_healed", "dir=%s", d->dir);
        }
    }
    compare_look(sd);
}

static void on_timer(uv_timer_t *h)
{
    struct sd *sd = h->data;
    uint64_t now = clock_boot_ms();

    if (sd->stopping) return;
    groups_tick(sd);
    if (now < sd->slow_ms) return;
    sd->slow_ms = now + SLOW_MS;
    slow_tick(sd);
}

/* ---- start ---- */
static enum rc listen_split(const char *text, char host[256], uint16_t *ret_port,
                            struct err *reterr)
{
    const char *colon = strrchr(text, ':');
    size_t n = colon == NULL ? 0 : (size_t)(colon - text);
    unsigned long port;
    char *end;

    if (n == 0 || n >= 256) goto bad;
    port = strtoul(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end != 0 || port > 65535) goto bad;
    if (text[0] == '[' && n > 2 && text[n - 1] == ']') {
        text++;
        n -= 2;
    }
    memcpy(host, text, n);
    host[n] = 0;
    *ret_port = (uint16_t)port;
    return RC_OK;
bad:
    return err_set(reterr, RC_INVAL, "--listen: '%s' is not HOST:PORT", text);
}

static enum rc identity_check(const struct sd *sd, struct err *reterr)
{
    const struct tls_identity *id = tls_self(sd->tls);

    if (id->role == TLS_NODE && strcmp(id->kind, "storaged") == 0 &&
        strcmp(id->name, sd->conf.name) == 0)
        return RC_OK;
    return err_set(reterr, RC_UNAUTH,
                   "%s is %s, but this daemon is mikura://node/storaged/%s: make its certificate "
                   "with `deploy/pki node DIR storaged %s`",
                   sd->conf.cert, id->uri, sd->conf.name, sd->conf.name);
}

static enum rc server_open(struct sd *sd, struct err *reterr)
{
    static struct http_route routes[] = {
        {.method = "GET", .path = "/healthz", .on_request = on_healthz, .anonymous = true},
        {.method = "GET", .path = "/metrics", .on_request = on_metrics},
        {0},
    };
    struct rpc_server_conf conf = {
        .loop = sd->loop, .tls = sd->tls, .gate = gate, .on_bulk = peers_adopt, .bulk_data = sd};
    char host[256];
    enum rc rc = listen_split(sd->conf.listen, host, &conf.port, reterr);

    if (rc != RC_OK) return rc;
    conf.host = host;
    conf.gate_data = sd;
    rc = rpc_server_open(&conf, &sd->server, reterr);
    if (rc != RC_OK) return rc;
    routes[0].service = routes[1].service = sd;
    rc = http_route_add(sd->server, routes);
    if (rc == RC_OK) rc = fcalls_add(sd->server, sd->fs, SD_STORE_METHODS, sd, &sd->calls);
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "the listener's services");
}

static enum rc cluster_join(struct sd *sd, struct err *reterr)
{
    struct etcd_conf econf = {.loop = sd->loop,
                              .endpoints = sd->conf.etcd,
                              .tls = sd->tls,
                              .on_world = on_world,
                              .data = sd};
    struct cluster_node *self = calloc(1, sizeof *self);
    struct cluster_conf conf = {.name = sd->conf.cluster,
                                .self = self,
                                .on_ready = on_ready,
                                .on_group = on_group,
                                .on_pool = on_pool,
                                .on_other = on_other,
                                .on_lease_lost = on_lease_lost,
                                .data = sd};
    enum rc rc = self == NULL ? err_set(reterr, RC_NOMEM, "this node's facts")
                              : etcd_open(&econf, &sd->etcd, reterr);

    if (rc == RC_OK) {
        node_facts(sd, self);
        conf.etcd = sd->etcd;
        rc = cluster_open(&conf, &sd->cluster, reterr);
    }
    free(self);
    return rc;
}

/* The same at each start, and no two nodes of a cluster have one name. */
static struct id128 node_id_of(const char *name)
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    struct id128 id;
    char text[256];
    int n = snprintf(text, sizeof text, "mikura node storaged/%s", name);

    (void)SHA256((const uint8_t *)text, (size_t)MIN(n, (int)sizeof text - 1), digest);
    memcpy(id.b, digest, sizeof id.b);
    return id;
}

enum rc sd_open(struct sd *sd, const struct sd_settings *conf, uv_loop_t *loop, struct err *reterr)
{
    struct tls_conf tls = {conf->ca, conf->cert, conf->key};
    enum rc rc;

    sd->conf = *conf;
    sd->loop = loop;
    list_init(&sd->groups);
    list_init(&sd->dirty);
    list_init(&sd->peers);
    list_init(&sd->conns);
    list_init(&sd->givers);
    for (uint32_t i = 0; i < SD_GROUP_BUCKETS; i++)
        list_init(&sd->buckets[i]);
    fiber_cond_init(&sd->work_cond);
    entry_cache_init(&sd->cache, conf->entry_bytes);
    chunk_pool_init(&sd->pool, conf->chunk_bytes);
    sd->node_id = node_id_of(conf->name);
    sd->boot_id = id128_random();
    rc = tls_new(&tls, &sd->tls, reterr);
    if (rc == RC_OK) rc = identity_check(sd, reterr);
    if (rc != RC_OK) return rc;
    rc = fibers_open(loop, &sd->fs);
    if (rc != RC_OK) return err_set(reterr, rc, "fibers");
    rc = server_open(sd, reterr);
    if (rc == RC_OK) rc = disks_open(sd, reterr);
    if (rc == RC_OK) rc = persisted_open(sd, reterr);
    if (rc == RC_OK) rc = groups_open(sd, reterr);
    if (rc == RC_OK) rc = disks_upkeep(sd, reterr);
    if (rc == RC_OK) rc = cluster_join(sd, reterr);
    if (rc != RC_OK) return rc;
    CHECK(uv_idle_init(loop, &sd->idle) == 0 && uv_timer_init(loop, &sd->timer) == 0);
    sd->idle.data = sd->timer.data = sd;
    CHECK(uv_timer_start(&sd->timer, on_timer, SD_TICK_MS, SD_TICK_MS) == 0);
    log_info("started", "listen=%s disks=%u replicas=%u version=%s", conf->listen, sd->disks_n,
             sd->groups_n, MIKURA_VERSION);
    return RC_OK;
}

/* ---- stop ---- */
static void set_event(void *data)
{
    fiber_event_set(data);
}

static void timer_closed(uv_handle_t *h)
{
    struct sd *sd = h->data;

    fibers_close(sd->fs);
}

static void stop_run(void *arg)
{
    struct sd *sd = arg;
    struct fiber_event ev = {0};

    rpc_server_close(sd->server, GRACE_MS, set_event, &ev);
    LIST_FOREACH(it, &sd->groups) group_leave(CONTAINER_OF(it, struct sd_group, link));
    fiber_event_wait(&ev);
    peers_close(sd);
    snap_givers_expire(sd);
    cluster_close(sd->cluster, set_event, &ev);
    fiber_event_wait(&ev);
    etcd_close(sd->etcd, set_event, &ev);
    fiber_event_wait(&ev);
    for (uint32_t d = 0; d < sd->disks_n; d++)
        disk_upkeep_stop(&sd->disks[d]);
    while (sd->work_n > 0 || fcalls_running(sd->calls) > 0) {
        snap_givers_expire(sd);
        peers_close(sd);
        (void)!fiber_cond_wait_ms(&sd->work_cond, 100); /* either way looked at again */
    }
    for (uint32_t i = 0; i < sd->disks_n; i++) {
        sd->disks[i].closed = true;
        disk_upkeep_free(&sd->disks[i]);
        store_close(sd->disks[i].store, set_event, &ev);
        fiber_event_wait(&ev);
    }
    fcalls_free(sd->calls);
    groups_close(sd);
    peers_free(sd);
    tls_unref(sd->tls);
    log_info("stopped", "name=%s", sd->conf.name);
    uv_close((uv_handle_t *)&sd->idle, NULL);
    uv_close((uv_handle_t *)&sd->timer, timer_closed);
}

void sd_stop(struct sd *sd)
{
    if (sd->stopping) return;
    sd->stopping = true;
    log_info("stopping", "name=%s", sd->conf.name);
    rpc_server_set_serving(sd->server, "", false);
    rpc_server_set_serving(sd->server, "mikura.internal.v1.Store", false);
    /* not counted as work: it waits for the work's end */
    CHECK(fiber_spawn(sd->fs, stop_run, sd) == RC_OK);
}
