/* computed/worker/main.c - the daemon `computed`: settings, membership, a listener for health, and
 * the order of starting and stopping. `computed --child ...` is its sandboxed reader (child.h). */
#include "common/base/conf.h"
#include "common/base/log.h"
#include "common/base/metrics.h"
#include "common/base/strutil.h"
#include "common/control/cluster.h"
#include "common/net/http.h"
#include "computed/worker/child.h"
#include "computed/worker/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define GRACE_MS 20000u

struct settings {
    const char *name, *listen, *advertise, *ca, *cert, *key, *etcd, *cluster;
    const char *zone, *rack, *host, *data, *log_level, *backend, *backends;
    uint64_t slots, child_bytes_max, cache_bytes_max;
};
static const struct conf_opt OPTS[] = {
    {"name", CONF_STR, offsetof(struct settings, name), NULL, "NAME",
     "of this worker, as in its certificate"},
    {"listen", CONF_STR, offsetof(struct settings, listen), "127.0.0.1:27050", "HOST:PORT",
     "health checks"},
    {"advertise", CONF_STR, offsetof(struct settings, advertise), "", "HOST:PORT",
     "address that others see; default: listen"},
    {"ca", CONF_STR, offsetof(struct settings, ca), NULL, "FILE", "CA certificate, PEM"},
    {"cert", CONF_STR, offsetof(struct settings, cert), NULL, "FILE", "own certificate, PEM"},
    {"key", CONF_STR, offsetof(struct settings, key), NULL, "FILE", "its key, PEM"},
    {"etcd", CONF_STR, offsetof(struct settings, etcd), NULL, "HOST:PORT,...", "etcd's members"},
    {"cluster", CONF_STR, offsetof(struct settings, cluster), NULL, "NAME", "of the cluster"},
    {"zone", CONF_STR, offsetof(struct settings, zone), "", "NAME", "where this machine stands"},
    {"rack", CONF_STR, offsetof(struct settings, rack), "", "NAME", "likewise"},
    {"host", CONF_STR, offsetof(struct settings, host), "", "NAME", "likewise"},
    {"data", CONF_STR, offsetof(struct settings, data), NULL, "DIR", "for the cache of models"},
    {"backend", CONF_STR, offsetof(struct settings, backend), "cpu", "NAME",
     "cpu (oneDNN), cuda, or ref (plain C, slow)"},
    {"backends", CONF_STR, offsetof(struct settings, backends), "", "DIR",
     "with computed_NAME.so; default: beside the program"},
    {"slots", CONF_U64, offsetof(struct settings, slots), "2", "N",
     "tasks at a time, each in a process of its own with one thread"},
    {"child_bytes_max", CONF_BYTES, offsetof(struct settings, child_bytes_max), "4GiB", "BYTES",
     "address space of such a process"},
    {"cache_bytes_max", CONF_BYTES, offsetof(struct settings, cache_bytes_max), "8GiB", "BYTES",
     "of models kept"},
    {"log_level", CONF_STR, offsetof(struct settings, log_level), "info", "LEVEL",
     "debug, info, warn or error"},
    {0}};

struct daemon {
    struct settings s;
    uv_loop_t loop;
    uv_signal_t term, interrupt;
    struct tls *tls;
    struct fibers *fs;
    struct rpc_server *server;
    struct etcd *etcd;
    struct cluster *cluster;
    struct cluster_node self;
    struct fiber_event ready, stop;
    struct http_route routes[3];
    bool stopping;
    int exit_code;
};

static void on_signal(uv_signal_t *s, int signum)
{
    struct daemon *d = s->data;

    if (d->stopping) { /* asked twice: leases and children's end are safe without us */
        log_warn("stop_now", "signal=%d", signum);
        _exit(1);
    }
    log_info("stop", "signal=%d", signum);
    d->stopping = true;
    fiber_event_set(&d->ready);
    fiber_event_set(&d->stop);
}

static void on_ready(void *data)
{
    struct daemon *d = data;

    fiber_event_set(&d->ready);
}

static void on_lease_lost(void *data)
{
    (void)data; /* the cluster code makes a new one; tasks have leases of their own */
    log_warn("membership_lost", "published again when etcd answers");
}

static void on_closed(void *data)
{
    fiber_event_set(data);
}

static enum rc gate(void *data, const struct rpc_method *m, const struct tls_identity *peer,
                    struct err *reterr)
{
    (void)data;
    (void)m;
    if (peer != NULL && (peer->role == TLS_NODE || peer->role == TLS_OPERATOR)) return RC_OK;
    return err_set(reterr, RC_DENIED, "a worker answers nodes and operators only");
}

/* ---- plain HTTP ---- */
static void on_healthz(struct http_request *r, struct slice body)
{
    const struct daemon *d = http_request_service(r);
    const char *text = "ok\n";

    (void)body;
    if (d->stopping) {
        text = "stopping\n";
    } else if (d->cluster == NULL || !cluster_fresh(d->cluster)) {
        text = "etcd is not reachable\n";
    }
    http_reply(r, text[0] == 'o' ? 200 : 503, "text/plain",
               (struct slice){(const uint8_t *)text, strlen(text)});
}

static void on_metrics(struct http_request *r, struct slice body)
{
    struct buf b;

    (void)body;
    buf_init(&b, 4u << 20);
    metrics_print(&b);
    if (buf_rc(&b) == RC_OK) {
        http_reply(r, 200, "text/plain; version=0.0.4", (struct slice){b.p, b.n});
    } else {
        http_reply(r, 500, "text/plain", (struct slice){(const uint8_t *)"out of memory\n", 14});
    }
    buf_deinit(&b);
}

/* ---- start ---- */
static enum rc listen_open(struct daemon *d, struct err *reterr)
{
    struct rpc_server_conf conf = {.loop = &d->loop, .tls = d->tls, .gate = gate};
    const char *colon = strrchr(d->s.listen, ':');
    char host[128];
    uint64_t port;
    enum rc rc;

    if (colon == NULL || (size_t)(colon - d->s.listen) >= sizeof(host) ||
        !str_to_u64(colon + 1, 65535, &port))
        return err_set(reterr, RC_INVAL, "listen: '%s' is no HOST:PORT", d->s.listen);
    (void)snprintf(host, sizeof(host), "%.*s", (int)(colon - d->s.listen), d->s.listen);
    conf.host = host;
    conf.port = (uint16_t)port;
    rc = rpc_server_open(&conf, &d->server, reterr);
    if (rc != RC_OK) return rc;
    d->routes[0] = (struct http_route){"GET", "/healthz", 0, on_healthz, d, true};
    d->routes[1] = (struct http_route){"GET", "/metrics", 0, on_metrics, d, false};
    rc = http_route_add(d->server, d->routes);
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "the plain HTTP routes: %s", rc_text(rc));
}

/* The device must be there before tasks are asked for. Its library is not loaded into this process
 * (child_probe() says why). At start-up, blocking. text: a line, cut. */
static enum rc device_probe(const struct settings *s, char text[32], struct err *reterr)
{
    char self[] = "/proc/self/exe", flag[] = PROBE_FLAG, dir[4200], lang[] = "LC_ALL=C";
    char *args[] = {self, flag, (char *)(uintptr_t)s->backend, NULL};
    char *env[] = {lang, s->backends[0] != '\0' ? dir : NULL, NULL}, line[200] = "";
    posix_spawn_file_actions_t fa;
    FILE *from;
    int pair[2], bad, status = 0;
    pid_t pid = 0;

    (void)snprintf(dir, sizeof(dir), "MIKURA_BACKENDS=%.4000s", s->backends);
    if (pipe2(pair, O_CLOEXEC) != 0) return err_set(reterr, rc_from_errno(errno), "pipe");
    from = fdopen(pair[0], "r");
    bad = posix_spawn_file_actions_init(&fa);
    if (bad == 0) bad = posix_spawn_file_actions_adddup2(&fa, pair[1], STDOUT_FILENO);
    if (bad == 0) bad = posix_spawn(&pid, self, &fa, NULL, args, env);
    (void)posix_spawn_file_actions_destroy(&fa);
    (void)close(pair[1]);
    if (bad != 0 || from == NULL) return err_set(reterr, RC_IO, "the probe can't be started");
    if (fgets(line, sizeof(line), from) != NULL) line[strcspn(line, "\n")] = '\0';
    (void)fclose(from);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return err_set(reterr, RC_UNAVAIL, "backend %.32s: %s", s->backend,
                       line[0] != '\0' ? line : "its probe ended without a word");
    /* a job for a CPU may come here, whatever computes it; see device_fits() in worker.c */
    (void)snprintf(
        text, 32, "%s%.20s",
        strcmp(s->backend, "cuda") == 0 || strncmp(line, "cpu", 3) == 0 ? "" : "cpu: ", line);
    return RC_OK;
}

static enum rc self_make(struct daemon *d, struct err *reterr)
{
    const char *address = d->s.advertise[0] != '\0' ? d->s.advertise : d->s.listen;
    const struct tls_identity *id = tls_self(d->tls);
    struct cluster_node *n = &d->self;

    if (id->role != TLS_NODE || strcmp(id->kind, "computed") != 0 ||
        strcmp(id->name, d->s.name) != 0)
        return err_set(reterr, RC_INVAL, "the certificate is for %s, not mikura://node/computed/%s",
                       id->uri, d->s.name);
    (void)snprintf(n->kind, sizeof(n->kind), "computed");
    (void)snprintf(n->name, sizeof(n->name), "%.63s", d->s.name);
    n->id = id128_random(); /* a worker keeps nothing: another life is another node */
    n->boot_id = id128_random();
    (void)snprintf(n->host_address, sizeof(n->host_address), "%.127s", address);
    (void)snprintf(n->zone, sizeof(n->zone), "%.63s", d->s.zone);
    (void)snprintf(n->rack, sizeof(n->rack), "%.63s", d->s.rack);
    (void)snprintf(n->host, sizeof(n->host), "%.63s", d->s.host);
    (void)snprintf(n->version, sizeof(n->version), "%s", MIKURA_VERSION);
    n->devices_n = 1;
    return device_probe(&d->s, n->devices[0], reterr);
}

static enum rc open_all(struct daemon *d, struct err *reterr)
{
    struct tls_conf tc = {.ca_path = d->s.ca, .cert_path = d->s.cert, .key_path = d->s.key};
    struct etcd_conf ec = {.loop = &d->loop, .endpoints = d->s.etcd};
    struct cluster_conf cc = {.name = d->s.cluster,
                              .self = &d->self,
                              .on_ready = on_ready,
                              .on_lease_lost = on_lease_lost,
                              .data = d};
    enum rc rc = tls_new(&tc, &d->tls, reterr);

    if (rc == RC_OK) rc = self_make(d, reterr);
    if (rc == RC_OK) rc = listen_open(d, reterr);
    if (rc != RC_OK) return rc;
    ec.tls = d->tls;
    rc = etcd_open(&ec, &d->etcd, reterr);
    if (rc != RC_OK) return rc;
    cc.etcd = d->etcd;
    return cluster_open(&cc, &d->cluster, reterr);
}

/* ---- the main fiber ---- */
static enum rc model_fetch(void *data, const uint8_t sha256[32], int fd, struct err *reterr)
{
    return gateways_fetch_model(data, sha256, fd, reterr);
}

static enum rc serve(struct daemon *d, struct err *reterr)
{
    struct gateways_conf gc = {.fs = d->fs, .cluster = d->cluster, .tls = d->tls};
    struct fetch_conf fc = {.fs = d->fs, .tls = d->tls};
    struct worker_conf wc = {.fs = d->fs,
                             .uri = tls_self(d->tls)->uri,
                             .zone = d->s.zone,
                             .rack = d->s.rack,
                             .host = d->s.host,
                             .device = d->self.devices[0],
                             .slots = (uint32_t)d->s.slots};
    struct gateways *gateways = NULL;
    struct fetch *fetch = NULL;
    struct models *models = NULL;
    struct worker *worker = NULL;
    char dir[4096];
    enum rc rc;

    fc.self = (struct bulk_hello){.wire_version = 1,
                                  .cluster = *cluster_id(d->cluster),
                                  .node = d->self.id,
                                  .boot_id = d->self.boot_id,
                                  .cls = BULK_DATA};
    wc.runner =
        (struct runner_conf){.fs = d->fs,
                             .backend = d->s.backend,
                             .backends_dir = d->s.backends[0] != '\0' ? d->s.backends : NULL,
                             .address_bytes_max = d->s.child_bytes_max};
    (void)snprintf(dir, sizeof(dir), "%.4000s/models", d->s.data);
    rc = gateways_open(&gc, &gateways);
    if (rc == RC_OK) rc = fetch_open(&fc, &fetch);
    if (rc != RC_OK) {
        (void)err_set(reterr, rc, "%s", rc_text(rc));
        goto out;
    }
    rc = models_open(dir, d->s.cache_bytes_max, model_fetch, gateways, &models, reterr);
    if (rc != RC_OK) goto out;
    wc.gateways = gateways;
    wc.fetch = fetch;
    wc.models = models;
    rc = worker_open(&wc, &worker, reterr);
    if (rc != RC_OK) goto out;
    rpc_server_set_serving(d->server, "", true);
    log_info("ready", "name=%s listen=%s slots=%llu backend=%s", d->s.name, d->s.listen,
             (unsigned long long)d->s.slots, d->s.backend);
    while (!d->stopping)
        fiber_event_wait(&d->stop);
    rpc_server_set_serving(d->server, "", false);
out:
    worker_close(worker, GRACE_MS);
    models_close(models);
    fetch_close(fetch);
    gateways_close(gateways);
    return rc;
}

static void main_fiber(void *arg)
{
    struct daemon *d = arg;
    struct fiber_event closed = {0};
    struct err e = {0};
    enum rc rc = RC_OK;

    while (!d->stopping && cluster_id(d->cluster) == NULL) {
        if (fiber_event_wait_ms(&d->ready, 10000) != RC_OK)
            log_warn("waiting", "for cluster '%s' in etcd at %s: is a gateway up?", d->s.cluster,
                     d->s.etcd);
        else if (!d->stopping && cluster_id(d->cluster) == NULL)
            fiber_sleep_ms(200); /* etcd answers, but no gateway has made the cluster yet */
    }
    if (!d->stopping) rc = serve(d, &e);
    if (rc != RC_OK) {
        log_error("failed", "rc=%s why=%s", rc_name(rc), e.msg);
        d->exit_code = 1;
    }
    cluster_close(d->cluster, on_closed, &closed);
    fiber_event_wait(&closed);
    etcd_close(d->etcd, on_closed, &closed);
    fiber_event_wait(&closed);
    rpc_server_close(d->server, /* grace_ms= */ 1000, on_closed, &closed);
    fiber_event_wait(&closed);
    uv_close((uv_handle_t *)&d->term, NULL);
    uv_close((uv_handle_t *)&d->interrupt, NULL);
    d->stopping = true;
}

static enum rc start(struct daemon *d, struct err *reterr)
{
    enum rc rc;

    if (uv_loop_init(&d->loop) != 0 || uv_signal_init(&d->loop, &d->term) != 0 ||
        uv_signal_init(&d->loop, &d->interrupt) != 0)
        return err_set(reterr, RC_NOMEM, "event loop");
    d->term.data = d->interrupt.data = d;
    if (uv_signal_start(&d->term, on_signal, SIGTERM) != 0 ||
        uv_signal_start(&d->interrupt, on_signal, SIGINT) != 0)
        return err_set(reterr, RC_IO, "signals");
    rc = fibers_open(&d->loop, &d->fs);
    if (rc != RC_OK) return err_set(reterr, rc, "fibers");
    rc = open_all(d, reterr);
    if (rc != RC_OK) return rc;
    rc = fiber_spawn(d->fs, main_fiber, d);
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "main fiber");
}

int main(int argc, char **argv)
{
    static struct daemon d;
    enum log_level level;
    struct err e = {0};
    char name[80];

    if (argc == 4 && strcmp(argv[1], CHILD_FLAG) == 0) return child_main(argv[2], argv[3]);
    if (argc == 3 && strcmp(argv[1], PROBE_FLAG) == 0) return child_probe(argv[2]);
    if (conf_load(OPTS, argc, argv, &d.s, &e) != RC_OK) {
        (void)fprintf(stderr, "computed: %s\n", e.msg);
        return 2;
    }
    if (!log_level_parse(d.s.log_level, &level) || d.s.slots == 0 || d.s.slots > WORKER_SLOTS_MAX) {
        (void)fprintf(stderr, "computed: log_level '%s' or slots %llu (1 to %u) is not possible\n",
                      d.s.log_level, (unsigned long long)d.s.slots, WORKER_SLOTS_MAX);
        return 2;
    }
    (void)snprintf(name, sizeof(name), "computed/%.63s", d.s.name);
    log_setup(name, level);
    (void)signal(SIGPIPE, SIG_IGN);
    if (start(&d, &e) != RC_OK) {
        log_error("start_failed", "rc=%s why=%s", rc_name(e.rc), e.msg);
        return 1;
    }
    (void)uv_run(&d.loop, UV_RUN_DEFAULT);
    /* all that is ours is closed; the loop's own handles end with the process */
    fibers_close(d.fs);
    (void)uv_run(&d.loop, UV_RUN_DEFAULT);
    tls_unref(d.tls);
    return d.exit_code;
}
