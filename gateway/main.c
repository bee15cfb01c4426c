/* gateway/main.c - the program `gateway`: settings, start in order, stop in reverse.
 *
 * Everything runs in fibers on one loop. A start that fails names what is wrong and what to do, and
 * ends with exit code 1; nothing is served before all of it stands. SIGTERM or SIGINT: health says
 * NOT_SERVING, connections get GOAWAY, running calls get GRACE_MS, all is closed, exit 0; a second
 * one exits at once. */
#include "common/base/bigmem.h"
#include "common/base/conf.h"
#include "common/base/hex.h"
#include "common/base/log.h"
#include "common/base/metrics.h"
#include "common/net/http.h"
#include "gateway/api/inspect.h"
#include "gateway/api/model_check.h"
#include "gateway/api/jobs.h"
#include "gateway/descriptors.h"
#include "gateway/manager/manager.h"
#include "gateway/manager/truth.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define GRACE_MS          5000u
#define START_WAIT_MS     60000u /* for the first whole view of etcd */
#define RETRY_MS          1000u
#define SIGNING_RETRY_MS  20u
#define KEEPALIVE_MS_MIN  100u
#define KEEPALIVE_MS_MAX  3600000u
#define TASK_LEASE_MS_MIN 1000u
#define TASK_LEASE_MS_MAX 3600000u
#define TICKS_MAX         1000000u
#define UPLOAD_BYTES_MIN  (64u << 20) /* the largest chunk */
#define MESSAGES_BYTES    (40u << 20) /* beside chunks, of what is kept for reuse */

struct settings {
    const char *name, *listen, *advertise, *ca, *cert, *key, *etcd, *cluster, *zone, *rack, *host;
    const char *log_level, *master_key, *inspect, *model_check, *data, *failure_domain;
    enum placement_level level; /* failure_domain */
    bool master_key_create;
    uint64_t prefix_bits, copies, min_in_sync, disk_patience, admit, keepalive, task_lease,
        upload_bytes;
    uint64_t upload_ttl, collect_grace, collect_period, quarantine_ttl;
};
#define AT(field) offsetof(struct settings, field)
static const struct conf_opt OPTS[] = {
    {"name", CONF_STR, AT(name), NULL, "NAME", "of this gateway, as in its certificate"},
    {"listen", CONF_STR, AT(listen), "127.0.0.1:27000", "HOST:PORT", "the one port"},
    {"advertise", CONF_STR, AT(advertise), "", "HOST:PORT", "what others dial; default: listen"},
    {"ca", CONF_STR, AT(ca), NULL, "FILE", "certificates that are trusted (PEM)"},
    {"cert", CONF_STR, AT(cert), NULL, "FILE", "own certificate, mikura://node/gateway/NAME"},
    {"key", CONF_STR, AT(key), NULL, "FILE", "its private key"},
    {"etcd", CONF_STR, AT(etcd), NULL, "HOST:PORT,...", "etcd's members"},
    {"cluster", CONF_STR, AT(cluster), "mikura", "NAME", "of the cluster: /mikura/NAME/ in etcd"},
    {"zone", CONF_STR, AT(zone), "", "TEXT", "where this machine stands"},
    {"rack", CONF_STR, AT(rack), "", "TEXT", "where this machine stands"},
    {"host", CONF_STR, AT(host), "", "TEXT", "machine; default: its host name"},
    {"log_level", CONF_STR, AT(log_level), "info", "LEVEL", "debug, info, warn or error"},
    {"master_key", CONF_STR, AT(master_key), NULL, "FILE", "losing it loses all images"},
    {"master_key_create", CONF_BOOL, AT(master_key_create), "no", "yes or no",
     "make the file if it is not there and the cluster has no key yet"},
    {"prefix_bits", CONF_U64, AT(prefix_bits), "4", "0..20",
     "2^n groups a pool, when the cluster is new"},
    {"copies", CONF_U64, AT(copies), "3", "1..8", "of everything, when the cluster is new"},
    {"min_in_sync", CONF_U64, AT(min_in_sync), "2", "1..8", "copies a write needs at least"},
    {"failure_domain", CONF_STR, AT(failure_domain), "zone", "LEVEL",
     "zone, rack, host or disk: no two copies in one while that can be had; when new"},
    {"upload_bytes", CONF_BYTES, AT(upload_bytes), "96MiB", "BYTES",
     "memory for chunks on their way in, all uploads; at least 64MiB"},
    {"upload_ttl", CONF_U64, AT(upload_ttl), "336", "TICKS",
     "an upload in parts that was not touched for so long is aborted; a tick is storaged's "
     "session_tick, an hour"},
    {"collect_grace", CONF_U64, AT(collect_grace), "24", "TICKS",
     "what a put left behind is dropped after so long; no put may last longer"},
    {"collect_period", CONF_MS, AT(collect_period), "10m", "TIME",
     "between two looks for what uploads left behind"},
    {"quarantine_ttl", CONF_MS, AT(quarantine_ttl), "60d", "TIME",
     "what a profile holds back is deleted after so long; 0: never. The same at every gateway"},
    {"disk_patience", CONF_MS, AT(disk_patience), "10m", "TIME",
     "a disk away for longer is given up and copied elsewhere"},
    {"admit", CONF_MS, AT(admit), "5s", "TIME",
     "storage nodes that come so soon after the first groups need no `mikura node add`"},
    {"keepalive", CONF_MS, AT(keepalive), "30s", "TIME",
     "between pings to an idle client, dropped when silent for two; stock ones may need 5 s"},
    {"task_lease", CONF_MS, AT(task_lease), "30s", "TIME",
     "a worker that is silent for so long has lost its task to another"},
    {"inspect", CONF_STR, AT(inspect), "", "FILE", "mikura-inspect; default: beside this program"},
    {"model_check", CONF_STR, AT(model_check), "", "FILE",
     "mikura-model-check; default: beside this program"},
    {"data", CONF_STR, AT(data), "", "DIR",
     "taken from every daemon's file; a gateway keeps nothing"},
    {0},
};

#define SERVICES_N 6u
struct daemon {
    struct settings set;
    uv_loop_t loop;
    uv_signal_t sig[2];
    struct fibers *fs;
    struct gw gw;
    struct manager *manager;
    struct fcalls *calls[SERVICES_N];
    uint32_t calls_n;
    struct http_route routes[3];
    struct fiber_group background;
    struct fiber_event ready, stop, closed, retry;
    bool started, stopping;
    bool ready_to_sign; /* the signing key is read, and storage nodes can know its public half */
    char advertise[128];
};

static NORETURN void fail(const struct err *e)
{
    log_error("start_failed", "rc=%s why=%s", rc_name(e->rc), e->msg);
    (void)fprintf(stderr, "gateway: %s\n", e->msg);
    (void)fflush(stderr);
    _exit(1); /* nothing was served and nothing is half written: the kernel closes the rest */
}

/* ---- callbacks of the cluster's map ---- */
/* After `mikura admin recover-config` the cluster has its old id again; what this process was
 * started with (capabilities, greetings) is of another one. */
static void id_check(const struct daemon *d)
{
    const struct id128 *id = d->gw.cluster == NULL ? NULL : cluster_id(d->gw.cluster);

    if (id == NULL || !d->started || id128_eq(id, &d->gw.cluster_id)) return;
    log_error("cluster_id_changed", "why=it was recovered, or etcd was replaced: start me again");
    _exit(1);
}

static void map_changed(struct daemon *d)
{
    id_check(d);
    if (d->gw.route != NULL) route_changed(d->gw.route);
    manager_changed(d->manager);
}
static void on_ready(void *data)
{
    struct daemon *d = data;

    fiber_event_set(&d->ready);
    map_changed(d);
}
static void on_node(void *data, const struct cluster_node *n)
{
    (void)n;
    map_changed(data);
}
static void on_group(void *data, const struct cluster_group *g)
{
    (void)g;
    map_changed(data);
}
static void on_pool(void *data, const struct placement_pool *p)
{
    (void)p;
    map_changed(data);
}
static void on_other(void *data, const char *rest, struct slice value)
{
    struct daemon *d = data;

    (void)value;
    if (strncmp(rest, "node-", 5) == 0) manager_changed(d->manager);
}
static void on_lease_lost(void *data)
{
    (void)data;
    log_warn("lease_lost", "what=membership why=etcd did not answer in time: it is asked again");
}

/* ---- the start ---- */
static enum rc split_address(const char *text, char host[128], uint16_t *ret_port,
                             struct err *reterr)
{
    const char *colon = strrchr(text, ':');
    char *end;
    unsigned long port;

    if (colon == NULL || colon == text || (size_t)(colon - text) >= 128)
        return err_set(reterr, RC_INVAL, "listen '%s': expected HOST:PORT", text);
    port = strtoul(colon + 1, &end, 10);
    if (colon[1] == 0 || *end != 0 || port > 65535)
        return err_set(reterr, RC_INVAL, "listen '%s': expected HOST:PORT, port at most 65535",
                       text);
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = 0;
    *ret_port = (uint16_t)port;
    return RC_OK;
}

/* Waits out an etcd that is not there yet. */
static void create_or_wait(struct daemon *d, const char *leaf, struct slice value, struct arena *a,
                           struct slice *ret_value)
{
    char *key = arena_str(a, "/mikura/%s/%s", d->set.cluster, leaf);
    struct err err = {0};

    if (key == NULL) {
        (void)err_set(&err, RC_NOMEM, "out of memory at start");
        fail(&err);
    }
    for (uint32_t tries = 0;; tries++) {
        enum rc rc = truth_create(d->gw.etcd, key, value, a, ret_value, &err);

        if (rc == RC_OK) return;
        if (rc != RC_UNAVAIL && rc != RC_DEADLINE && rc != RC_IO && rc != RC_ABORTED) fail(&err);
        log_warn("etcd_waits", "tries=%u endpoints=%s why=%s", tries + 1, d->set.etcd, err.msg);
        fiber_sleep_ms(RETRY_MS);
    }
}

static struct slice read_or_wait(struct daemon *d, const char *leaf, struct arena *a)
{
    char *key = arena_str(a, "/mikura/%s/%s", d->set.cluster, leaf);
    struct etcd_kv *kvs;
    struct err err = {0};
    uint32_t n;

    if (key == NULL) {
        (void)err_set(&err, RC_NOMEM, "out of memory at start");
        fail(&err);
    }
    for (uint32_t tries = 0;; tries++) {
        enum rc rc =
            truth_get(d->gw.etcd, gw_text(key), (struct slice){NULL, 0}, a, &kvs, &n, &err);

        if (rc == RC_OK) return n == 0 ? (struct slice){NULL, 0} : kvs[0].value;
        if (rc != RC_UNAVAIL && rc != RC_DEADLINE && rc != RC_IO) fail(&err);
        log_warn("etcd_waits", "tries=%u endpoints=%s why=%s", tries + 1, d->set.etcd, err.msg);
        fiber_sleep_ms(RETRY_MS);
    }
}

/* The key of all keys. The cluster remembers its fingerprint; another one is refused, since what it
 * would write nobody else could read. */
static void open_master_key(struct daemon *d, struct arena *a)
{
    struct gw *gw = &d->gw;
    struct slice known = read_or_wait(d, "key-fingerprint", a);
    struct err err = {0};
    enum rc rc = key_master_load(d->set.master_key, &gw->master, &err);

    if (rc == RC_NOTFOUND && known.n == 0 && d->set.master_key_create) {
        struct timespec now;

        (void)clock_gettime(CLOCK_REALTIME, &now);
        rc = key_master_create(d->set.master_key,
                               (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000,
                               &gw->master, &err);
        if (rc == RC_OK)
            log_info("master_key_created", "file=%s: keep a copy in a safe; losing it loses all",
                     d->set.master_key);
    } else if (rc == RC_NOTFOUND && known.n == 0) {
        (void)err_set(&err, rc,
                      "no master key at '%s', and the cluster has none yet: start once with "
                      "--master_key_create=true",
                      d->set.master_key);
    } else if (rc == RC_NOTFOUND) {
        (void)err_set(&err, rc,
                      "no master key at '%s', but the cluster has one (fingerprint %.16s...): copy "
                      "the file from another gateway or from its safe; a new key would open "
                      "nothing",
                      d->set.master_key, (const char *)known.p);
    }
    if (rc != RC_OK) fail(&err);
    hex_encode(gw->master.fingerprint, KEY_FINGERPRINT_BYTES, gw->master_fingerprint);
    create_or_wait(d, "key-fingerprint", gw_text(gw->master_fingerprint), a, &known);
    if (known.n != 64 || memcmp(known.p, gw->master_fingerprint, 64) != 0) {
        (void)err_set(&err, RC_PRECOND,
                      "the master key at '%s' has the fingerprint %.16s..., the cluster was made "
                      "with %.16s...: put the cluster's key file there (from another gateway or "
                      "its safe); nothing was changed",
                      d->set.master_key, gw->master_fingerprint,
                      known.n == 64 ? (const char *)known.p : "?");
        fail(&err);
    }
    memcpy(gw->cluster_fingerprint, known.p, 64);
}

static void open_cluster_id(struct daemon *d, struct arena *a)
{
    struct id128 fresh = id128_random();
    char text[ID128_TEXT_BYTES];
    struct slice got;
    struct err err = {0};

    create_or_wait(d, "id", gw_text(id128_text(&fresh, text)), a, &got);
    if (got.n == 32) {
        memcpy(text, got.p, 32);
        text[32] = 0;
    }
    if (got.n != 32 || !id128_parse(text, &d->gw.cluster_id)) {
        (void)err_set(&err, RC_CORRUPT, "etcd's key /mikura/%s/id is not 32 hex digits",
                      d->set.cluster);
        fail(&err);
    }
}

static void open_cluster(struct daemon *d)
{
    struct cluster_node *self = calloc(1, sizeof *self);
    struct cluster_conf conf = {.etcd = d->gw.etcd,
                                .name = d->set.cluster,
                                .self = self,
                                .on_ready = on_ready,
                                .on_node = on_node,
                                .on_group = on_group,
                                .on_pool = on_pool,
                                .on_other = on_other,
                                .on_lease_lost = on_lease_lost,
                                .data = d};
    struct err err = {0};
    enum rc rc;

    if (self == NULL) {
        (void)err_set(&err, RC_NOMEM, "out of memory at start");
        fail(&err);
    }
    (void)snprintf(self->kind, sizeof self->kind, "gateway");
    (void)snprintf(self->name, sizeof self->name, "%s", d->set.name);
    self->id = d->gw.node_id;
    self->boot_id = d->gw.boot_id;
    (void)snprintf(self->host_address, sizeof self->host_address, "%s", d->advertise);
    (void)snprintf(self->zone, sizeof self->zone, "%s", d->set.zone);
    (void)snprintf(self->rack, sizeof self->rack, "%s", d->set.rack);
    (void)snprintf(self->host, sizeof self->host, "%s", d->set.host);
    if (self->host[0] == 0) (void)gethostname(self->host, sizeof self->host - 1);
    (void)snprintf(self->version, sizeof self->version, "%s", MIKURA_VERSION);
    self->alive = true;
    rc = cluster_open(&conf, &d->gw.cluster, &err);
    if (rc == RC_OK) rc = fiber_event_wait_ms(&d->ready, START_WAIT_MS);
    if (rc == RC_DEADLINE)
        (void)err_set(&err, RC_UNAVAIL, "etcd at %s gave no whole view of the cluster in %u s",
                      d->set.etcd, START_WAIT_MS / 1000);
    free(self);
    if (rc != RC_OK) fail(&err);
}

/* ---- plain HTTP ---- */
/* 200: what a client may ask is done, commits too. grpc.health.v1 says SERVING from the start:
 * an operator asks for the status just when storage is away. */
static void on_healthz(struct http_request *r, struct slice body)
{
    const struct daemon *d = http_request_service(r);
    bool fresh = cluster_fresh(d->gw.cluster);

    (void)body;
    if (d->stopping) {
        http_reply(r, 503, "text/plain", gw_text("stopping\n"));
    } else if (!fresh) {
        http_reply(r, 503, "text/plain", gw_text("etcd is not reachable\n"));
    } else if (!d->ready_to_sign) {
        http_reply(r, 503, "text/plain", gw_text("waits for storage: no signing key yet\n"));
    } else {
        http_reply(r, 200, "text/plain", gw_text("ok\n"));
    }
}

/* By service, in the order of open_server's SERVICES; gauges are set when they are asked for. */
#define CALLS_GAUGE(service)                                                                       \
    METRIC_GAUGE_INIT("mikura_calls_inflight", "service=\"" service "\"", "calls being handled")
static struct metric calls_inflight[SERVICES_N] = {CALLS_GAUGE("catalog"), CALLS_GAUGE("objects"),
                                                   CALLS_GAUGE("models"),  CALLS_GAUGE("jobs"),
                                                   CALLS_GAUGE("admin"),   CALLS_GAUGE("work")};
static struct metric upload_memory =
    METRIC_GAUGE_INIT("mikura_upload_memory_bytes", NULL, "chunks of uploads under way");

static void on_metrics(struct http_request *r, struct slice body)
{
    const struct daemon *d = http_request_service(r);
    struct buf b;

    (void)body;
    for (uint32_t i = 0; i < d->calls_n; i++)
        metric_set(&calls_inflight[i], fcalls_running(d->calls[i]));
    metric_set(&upload_memory, (int64_t)(d->set.upload_bytes - d->gw.upload_bytes.free));
    buf_init(&b, 4u << 20);
    metrics_print(&b);
    if (buf_rc(&b) == RC_OK) {
        http_reply(r, 200, "text/plain; version=0.0.4", (struct slice){b.p, b.n});
    } else {
        http_reply(r, 500, "text/plain", gw_text("out of memory\n"));
    }
    buf_deinit(&b);
}

static void open_server(struct daemon *d)
{
    const struct fcall_method *const SERVICES[] = {gw_catalog_methods, gw_object_methods,
                                                   gw_model_methods,   gw_job_methods,
                                                   gw_admin_methods,   gw_work_methods};
    struct slice fds = gateway_descriptors();
    char host[128];
    struct rpc_server_conf conf = {.loop = &d->loop,
                                   .host = host,
                                   .tls = d->gw.tls,
                                   .gate = gw_gate,
                                   .gate_data = &d->gw,
                                   .idle_ping_ms = (uint32_t)d->set.keepalive,
                                   .descriptors = fds.p,
                                   .descriptors_n = fds.n};
    struct err err = {0};
    enum rc rc = split_address(d->set.listen, host, &conf.port, &err);

    d->routes[0] = (struct http_route){"GET", "/healthz", 0, on_healthz, d, true};
    d->routes[1] = (struct http_route){"GET", "/metrics", 0, on_metrics, d, false};
    if (rc == RC_OK) rc = rpc_server_open(&conf, &d->gw.server, &err);
    if (rc != RC_OK) fail(&err);
    _Static_assert(ARRAY_N(SERVICES) == ARRAY_N(d->calls), "one count of calls a service");
    for (size_t i = 0; i < ARRAY_N(SERVICES) && rc == RC_OK; i++) {
        rc = fcalls_add(d->gw.server, d->fs, SERVICES[i], &d->gw, &d->calls[i]);
        if (rc == RC_OK) d->calls_n++;
    }
    if (rc == RC_OK) rc = http_route_add(d->gw.server, d->routes);
    if (rc != RC_OK) {
        (void)err_set(&err, rc, "the services could not be added: %s", rc_text(rc));
        fail(&err);
    }
}

/* ---- background ---- */
/* The signing key lies in a group, so it waits for storage; its public half goes to storage nodes
 * through etcd. */
static void signing_run(void *arg)
{
    struct daemon *d = arg;
    struct gw *gw = &d->gw;
    char key[192], id[ID128_TEXT_BYTES];
    struct err err = {0};
    struct arena a;
    struct slice there;
    enum rc rc;

    for (uint32_t tries = 0; !d->stopping; tries++) {
        rc = gw->signer != NULL ? RC_OK : gw_signing_open(gw, &err);
        if (rc == RC_OK) {
            const struct sign_public *pub = signer_public(gw->signer);

            arena_init(&a);
            (void)snprintf(key, sizeof key, "/mikura/%s/signing/%s", d->set.cluster,
                           id128_text(&pub->id, id));
            rc = truth_create(gw->etcd, key, (struct slice){pub->b, SIGN_PUBLIC_BYTES}, &a, &there,
                              &err);
            arena_deinit(&a);
        }
        if (rc == RC_OK) {
            log_info("signing_key", "id=%s", id);
            d->ready_to_sign = true;
            return;
        }
        log_info("signing_waits", "rc=%s why=%s", rc_name(rc), err.msg);
        /* a new cluster makes its first group in a few tens of ms; an outage lasts for seconds */
        (void)!fiber_event_wait_ms(&d->retry, MIN(SIGNING_RETRY_MS << MIN(tries, 6u), RETRY_MS));
    }
}

static void open_background(struct daemon *d)
{
    struct manager_conf mc = {.fs = d->fs,
                              .etcd = d->gw.etcd,
                              .cluster = d->gw.cluster,
                              .cluster_id = d->gw.cluster_id,
                              .cluster_name = d->set.cluster,
                              .address = d->advertise,
                              .prefix_bits = (uint32_t)d->set.prefix_bits,
                              .copies = (uint32_t)d->set.copies,
                              .min_in_sync = (uint32_t)d->set.min_in_sync,
                              .failure_domain = d->set.level,
                              .patience_ms = d->set.disk_patience,
                              .admit_ms = d->set.admit};
    struct gw_jobs_conf jc = {.address = d->advertise, .lease_ms = (uint32_t)d->set.task_lease};
    struct err err = {0};
    enum rc rc = manager_open(&mc, &d->manager, &err);

    d->gw.manager = d->manager;
    if (rc == RC_OK) rc = gw_jobs_open(&d->gw, &jc, &err);
    if (rc != RC_OK) fail(&err);
    rc = fiber_group_spawn(&d->background, manager_run, d->manager);
    if (rc == RC_OK) rc = fiber_group_spawn(&d->background, gw_jobs_run, &d->gw);
    if (rc == RC_OK) rc = fiber_group_spawn(&d->background, gw_sweep_run, &d->gw);
    if (rc == RC_OK) rc = fiber_group_spawn(&d->background, gw_collect_run, &d->gw);
    if (rc == RC_OK) rc = fiber_group_spawn(&d->background, signing_run, d);
    if (rc != RC_OK) {
        (void)err_set(&err, rc, "the background work could not be started");
        fail(&err);
    }
}

static void start(struct daemon *d)
{
    struct tls_conf tc = {d->set.ca, d->set.cert, d->set.key};
    struct etcd_conf ec = {.loop = &d->loop, .endpoints = d->set.etcd};
    struct route_conf rcf = {.fs = d->fs};
    struct gw *gw = &d->gw;
    struct arena a;
    struct err err = {0};
    enum rc rc;

    arena_init(&a);
    rc = tls_new(&tc, &gw->tls, &err);
    if (rc != RC_OK) fail(&err);
    if (tls_self(gw->tls)->role != TLS_NODE || strcmp(tls_self(gw->tls)->kind, "gateway") != 0 ||
        strcmp(tls_self(gw->tls)->name, d->set.name) != 0) {
        (void)err_set(&err, RC_UNAUTH,
                      "the certificate '%s' is for %s; this gateway needs one for "
                      "mikura://node/gateway/%s",
                      d->set.cert, tls_self(gw->tls)->uri, d->set.name);
        fail(&err);
    }
    ec.tls = gw->tls;
    rc = etcd_open(&ec, &gw->etcd, &err);
    if (rc != RC_OK) fail(&err);
    open_master_key(d, &a);
    open_cluster_id(d, &a);
    open_cluster(d);
    rcf.cluster = gw->cluster;
    rcf.tls = gw->tls;
    rcf.self.cluster = gw->cluster_id;
    rcf.self.node = gw->node_id;
    rcf.self.boot_id = gw->boot_id;
    rc = route_open(&rcf, &gw->route);
    if (rc != RC_OK) {
        (void)err_set(&err, rc, "the router to storage nodes did not open");
        fail(&err);
    }
    gw_model_check_program(d->set.model_check, gw->model_check, sizeof gw->model_check);
    rc = gw_inspector_open(gw, d->set.inspect, &gw->inspector, &err);
    if (rc != RC_OK) fail(&err);
    open_background(d);
    open_server(d);
    rpc_server_set_serving(gw->server, "", true);
    d->started = true;
    log_info("serving", "name=%s listen=%s advertise=%s cluster=%s version=%s", d->set.name,
             d->set.listen, d->advertise, d->set.cluster, MIKURA_VERSION);
    arena_deinit(&a);
}

/* ---- the stop ---- */
static void on_closed(void *data)
{
    struct daemon *d = data;

    fiber_event_set(&d->closed);
}

/* Background calls that wait for storage may wait for long; a gateway keeps nothing, so after the
 * grace they are simply left. */
static void background_end(struct daemon *d)
{
    for (uint32_t waited_ms = 0; d->background.running > 0; waited_ms += 20) {
        if (waited_ms >= GRACE_MS) {
            key_master_wipe(&d->gw.master);
            signer_free(d->gw.signer);
            log_info("stopped", "name=%s left=%u calls that wait for storage", d->set.name,
                     d->background.running);
            _exit(0);
        }
        fiber_sleep_ms(20);
    }
    fiber_group_wait(&d->background);
}

static void stop(struct daemon *d)
{
    struct gw *gw = &d->gw;

    log_info("stopping", "calls=%u",
             d->calls_n == 0 ? 0 : fcalls_running(d->calls[0]) + fcalls_running(d->calls[1]));
    rpc_server_set_serving(gw->server, "", false);
    gw->closing = true;
    manager_stop(d->manager); /* another gateway may take over while our calls end */
    gw_jobs_stop(gw);
    gw_sweep_wake(gw);
    fiber_event_set(&gw->collect);
    fiber_event_set(&d->retry);
    rpc_server_close(gw->server, GRACE_MS, on_closed, d);
    fiber_event_wait(&d->closed);
    for (uint32_t i = 0; i < d->calls_n; i++) {
        while (fcalls_running(d->calls[i]) > 0)
            fiber_sleep_ms(10); /* handlers whose connection is gone: they end by themselves */
        fcalls_free(d->calls[i]);
    }
    background_end(d);
    manager_free(d->manager);
    d->manager = NULL;
    gw_jobs_free(gw);
    gw_inspector_close(gw->inspector);
    route_close(gw->route);
    gw->route = NULL;
    cluster_close(gw->cluster, on_closed, d);
    fiber_event_wait(&d->closed);
    etcd_close(gw->etcd, on_closed, d);
    fiber_event_wait(&d->closed);
    gw_collections_forget_all(gw);
    tls_unref(gw->tls);
    key_master_wipe(&gw->master);
    signer_free(gw->signer);
    log_info("stopped", "name=%s", d->set.name);
}

static void live(void *arg)
{
    struct daemon *d = arg;

    start(d);
    fiber_event_wait(&d->stop);
    stop(d);
    for (size_t i = 0; i < ARRAY_N(d->sig); i++)
        uv_close((uv_handle_t *)&d->sig[i], NULL);
}

static void on_signal(uv_signal_t *s, int signum)
{
    struct daemon *d = s->data;

    if (d->stopping || !d->started) {
        log_info("exit", "signal=%d started=%d", signum, d->started);
        _exit(d->stopping ? 1 : 0);
    }
    d->stopping = true;
    fiber_event_set(&d->stop);
}

static enum rc settings_check(struct daemon *d, struct err *reterr)
{
    const struct settings *s = &d->set;
    static const char *const LEVELS[] = {"zone", "rack", "host", "disk"};
    enum log_level level;
    char daemon_name[80];

    if (!log_level_parse(s->log_level, &level))
        return err_set(reterr, RC_INVAL, "log_level '%s': expected debug, info, warn or error",
                       s->log_level);
    if (s->prefix_bits > PLACEMENT_PREFIX_BITS_MAX)
        return err_set(reterr, RC_INVAL, "prefix_bits %llu: at most %u",
                       (unsigned long long)s->prefix_bits, PLACEMENT_PREFIX_BITS_MAX);
    if (s->copies < 1 || s->copies > PLACEMENT_COPIES_MAX || s->min_in_sync < 1 ||
        s->min_in_sync > s->copies) {
        return err_set(reterr, RC_INVAL,
                       "copies %llu and min_in_sync %llu: expected 1 <= min_in_sync <= copies <= "
                       "%u",
                       (unsigned long long)s->copies, (unsigned long long)s->min_in_sync,
                       PLACEMENT_COPIES_MAX);
    }
    for (d->set.level = PLACEMENT_ZONE; strcmp(s->failure_domain, LEVELS[d->set.level]) != 0;
         d->set.level++) {
        if (d->set.level == PLACEMENT_DISK)
            return err_set(reterr, RC_INVAL, "failure_domain '%s': zone, rack, host or disk",
                           s->failure_domain);
    }
    if (s->upload_ttl < 1 || s->upload_ttl > TICKS_MAX || s->collect_grace < 1 ||
        s->collect_grace > TICKS_MAX)
        return err_set(reterr, RC_INVAL, "upload_ttl and collect_grace: 1 to %u ticks", TICKS_MAX);
    if (s->keepalive < KEEPALIVE_MS_MIN || s->keepalive > KEEPALIVE_MS_MAX)
        return err_set(reterr, RC_INVAL, "keepalive: from %u ms to %u s", KEEPALIVE_MS_MIN,
                       KEEPALIVE_MS_MAX / 1000);
    if (s->upload_bytes < UPLOAD_BYTES_MIN)
        return err_set(reterr, RC_INVAL,
                       "upload_bytes: at least %u MiB, or the largest chunk waits "
                       "for ever",
                       UPLOAD_BYTES_MIN >> 20);
    if (s->task_lease < TASK_LEASE_MS_MIN || s->task_lease > TASK_LEASE_MS_MAX)
        return err_set(reterr, RC_INVAL, "task_lease: from %u to %u s", TASK_LEASE_MS_MIN / 1000,
                       TASK_LEASE_MS_MAX / 1000);
    if (strlen(s->name) > 63 || strlen(s->cluster) > 63)
        return err_set(reterr, RC_INVAL, "name and cluster: at most 63 bytes");
    (void)snprintf(d->advertise, sizeof d->advertise, "%s",
                   s->advertise[0] != 0 ? s->advertise : s->listen);
    (void)snprintf(daemon_name, sizeof daemon_name, "gateway/%s", s->name);
    log_setup(daemon_name, level);
    return RC_OK;
}

int main(int argc, char **argv)
{
    struct daemon *d = calloc(1, sizeof *d);
    struct err err = {0};

    if (d == NULL) return 1;
    (void)signal(SIGPIPE, SIG_IGN);
    if (conf_load(OPTS, argc, argv, &d->set, &err) != RC_OK || settings_check(d, &err) != RC_OK) {
        (void)fprintf(stderr, "gateway: %s\n", err.msg);
        free(d);
        return 2;
    }
    CHECK(uv_loop_init(&d->loop) == 0);
    for (size_t i = 0; i < ARRAY_N(d->sig); i++) {
        CHECK(uv_signal_init(&d->loop, &d->sig[i]) == 0);
        d->sig[i].data = d;
        CHECK(uv_signal_start(&d->sig[i], on_signal, i == 0 ? SIGTERM : SIGINT) == 0);
    }
    d->gw.loop = &d->loop;
    d->gw.node_id = id128_random(); /* it keeps nothing: each life is a new node */
    d->gw.boot_id = d->gw.node_id;
    d->gw.cluster_name = d->set.cluster;
    d->gw.name = d->set.name;
    d->gw.meta_pool = MANAGER_POOL_META;
    d->gw.data_pool = MANAGER_POOL_DATA;
    d->gw.upload_ttl = (uint32_t)d->set.upload_ttl;
    d->gw.collect_grace = (uint32_t)d->set.collect_grace;
    d->gw.collect_ms = d->set.collect_period;
    d->gw.quarantine_ms = d->set.quarantine_ttl;
    list_init(&d->gw.cached);
    if (fibers_open(&d->loop, &d->fs) != RC_OK) return 1;
    d->gw.fs = d->fs;
    fiber_sem_init(&d->gw.upload_bytes, d->set.upload_bytes);
    bigmem_limit(d->set.upload_bytes, d->set.upload_bytes + MESSAGES_BYTES);
    if (fiber_spawn(d->fs, live, d) != RC_OK) return 1;
    (void)uv_run(&d->loop, UV_RUN_DEFAULT);
    fibers_close(d->fs);
    (void)uv_run(&d->loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&d->loop) != 0) log_warn("loop_not_empty", "what=handles are left");
    free(d);
    return 0;
}
