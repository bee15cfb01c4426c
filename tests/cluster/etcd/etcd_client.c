/* The etcd client against a real etcd: transactions, paging, mirror, lease, election, a restart of
 * etcd. etcd_client ENDPOINTS CA CERT KEY "COMMAND that kills etcd" "COMMAND that starts it" */
#include "common/base/log.h"
#include "common/control/cluster.h"
#include "common/fiber/fiber.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(x)                                                                                  \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "FAILED: %s:%d: %s\n", __FILE__, __LINE__, #x);                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)
#define PATIENCE_MS 60000u /* ends a hang only */

static uv_loop_t loop;
static struct fibers *fs;
static char **args;

static struct slice text(const char *s)
{
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

struct wait {
    struct etcd_request r;
    struct fiber_event done;
    enum rc rc;
    bool succeeded;
    int64_t mod_revision, revision;
    char value[64];
};

static void on_answer(struct etcd_request *r, enum rc rc, const struct etcd_answer *a)
{
    struct wait *w = r->data;

    w->rc = rc;
    if (rc == RC_OK) {
        w->succeeded = a->succeeded;
        w->revision = a->revision;
        if (a->kvs_n > 0) {
            w->mod_revision = a->kvs[0].mod_revision;
            (void)snprintf(w->value, sizeof w->value, "%.*s", (int)a->kvs[0].value.n,
                           (const char *)a->kvs[0].value.p);
        }
    }
    fiber_event_set(&w->done);
}

/* if mod_revision(key) == mod: put value; else get. Returns succeeded. */
static bool cas(struct etcd *e, const char *key, int64_t mod, const char *value, struct wait *w)
{
    struct etcd_compare c = {.kind = ETCD_MOD_EQ, .key = text(key), .number = mod};
    struct etcd_op put = {.kind = ETCD_PUT, .key = text(key), .value = text(value)};
    struct etcd_op get = {.kind = ETCD_GET, .key = text(key)};
    struct etcd_txn t = {.compares = &c,
                         .compares_n = 1,
                         .then = &put,
                         .then_n = 1,
                         .otherwise = &get,
                         .otherwise_n = 1};

    memset(w, 0, sizeof *w);
    w->r.data = w;
    EXPECT(etcd_txn(e, &w->r, &t, on_answer) == RC_OK);
    fiber_event_wait(&w->done);
    if (w->rc != RC_OK) fprintf(stderr, "txn: %s: %s\n", rc_name(w->rc), w->r.err.msg);
    return w->rc == RC_OK && w->succeeded;
}

static void shell(void *arg)
{
    EXPECT(system(arg) == 0);
}

/* ---- mirror ---- */
static uint32_t changes, gone, synced, doubts;
static char last[64];
static void on_change(void *data, const struct etcd_kv *kv)
{
    (void)data;
    if (kv->mod_revision == 0) {
        gone++;
    } else {
        changes++;
        (void)snprintf(last, sizeof last, "%.*s", (int)kv->value.n, (const char *)kv->value.p);
    }
}
static void on_synced(void *data, int64_t revision)
{
    (void)data;
    EXPECT(revision > 0);
    synced++;
}
static void on_doubt(void *data, const struct err *e)
{
    (void)data;
    (void)e;
    doubts++;
}

static int64_t lease_id;
static uint32_t leases_lost;
static void on_lease(void *data, int64_t id)
{
    (void)data;
    lease_id = id;
}
static void on_lease_lost(void *data)
{
    (void)data;
    leases_lost++;
}

static uint32_t won[2], lost[2];
static void on_won(void *data, struct slice key, int64_t create_revision)
{
    EXPECT(key.n > 0 && create_revision > 0);
    won[*(int *)data]++;
}
static void on_lost(void *data)
{
    lost[*(int *)data]++;
}

static void until(const char *what, const bool *flag, const uint32_t *n, uint32_t want)
{
    for (uint32_t ms = 0; (flag != NULL && !*flag) || (n != NULL && *n < want); ms += 10) {
        if (ms > PATIENCE_MS) {
            fprintf(stderr, "FAILED: never came: %s\n", what);
            exit(1);
        }
        fiber_sleep_ms(10);
    }
}

static struct etcd *client(void)
{
    const struct tls_conf conf = {args[2], args[3], args[4]};
    struct etcd_conf ec = {.loop = &loop, .endpoints = args[1], .timeout_ms = 3000};
    struct etcd *e;
    struct err err;

    if (tls_new(&conf, &ec.tls, &err) != RC_OK || etcd_open(&ec, &e, &err) != RC_OK) {
        fprintf(stderr, "FAILED: %s\n", err.msg);
        exit(1);
    }
    tls_unref(ec.tls); /* connections hold their own */
    return e;
}

static bool closed;
static void on_closed(void *data)
{
    (void)data;
    closed = true;
}

static bool cluster_up;
static void on_ready(void *data)
{
    (void)data;
    cluster_up = true;
}

static void run(void *arg)
{
    static const struct etcd_mirror_ops ops = {on_change, on_synced, on_doubt};
    struct etcd *e = client(), *e2 = client();
    struct etcd_mirror *m;
    struct etcd_lease *l;
    struct etcd_election *el[2];
    struct cluster *c;
    struct cluster_node self = {
        .kind = "storaged", .name = "s1", .host_address = "127.0.0.1:1", .zone = "z", .disks_n = 1};
    struct cluster_conf cc = {.name = "t", .self = &self, .lease_ttl_s = 2, .on_ready = on_ready};
    int zero = 0, one = 1;
    struct wait w;
    char key[64];

    (void)arg;
    /* transactions */
    EXPECT(cas(e, "/a/k", 0, "v1", &w));
    EXPECT(!cas(e, "/a/k", 0, "v2", &w) && strcmp(w.value, "v1") == 0);
    EXPECT(cas(e2, "/a/k", w.mod_revision, "v2", &w));
    /* a mirror of more keys than a page has */
    for (int i = 0; i < 1300; i++) {
        (void)snprintf(key, sizeof key, "/m/%05d", i);
        EXPECT(cas(e, key, 0, "x", &w));
    }
    EXPECT(etcd_mirror_open(e2, "/m/", &ops, NULL, &m) == RC_OK);
    until("the mirror's first read", NULL, &synced, 1);
    EXPECT(changes == 1300);
    EXPECT(cas(e, "/m/new", 0, "event", &w));
    until("an event", NULL, &changes, 1301);
    EXPECT(strcmp(last, "event") == 0);
    /* a key under a lease, and its end */
    EXPECT(etcd_lease_open(e, 2, on_lease, on_lease_lost, NULL, &l) == RC_OK);
    while (lease_id == 0)
        fiber_sleep_ms(5);
    {
        struct etcd_op put = {
            .kind = ETCD_PUT, .key = text("/m/leased"), .value = text("L"), .lease = lease_id};
        struct etcd_txn t = {.then = &put, .then_n = 1};

        memset(&w, 0, sizeof w);
        w.r.data = &w;
        EXPECT(etcd_txn(e, &w.r, &t, on_answer) == RC_OK);
        fiber_event_wait(&w.done);
        EXPECT(w.rc == RC_OK);
    }
    until("the leased key", NULL, &changes, 1302);
    fiber_sleep_ms(3500); /* past its time to live: it was renewed */
    EXPECT(gone == 0 && leases_lost == 0);
    etcd_lease_close(l, true);
    until("the leased key's end", NULL, &gone, 1);
    /* election: one of two, the other after it closes */
    EXPECT(etcd_election_open(e, "/elect/x", "one", on_won, on_lost, &zero, &el[0]) == RC_OK);
    until("the first leader", NULL, &won[0], 1);
    EXPECT(etcd_election_open(e2, "/elect/x", "two", on_won, on_lost, &one, &el[1]) == RC_OK);
    fiber_sleep_ms(1500);
    EXPECT(won[1] == 0 && lost[0] == 0);
    etcd_election_close(el[0]);
    until("the second leader", NULL, &won[1], 1);
    /* the cluster's view publishes us */
    cc.etcd = e;
    self.id = id128_random();
    self.boot_id = id128_random();
    self.disks[0].id = id128_random();
    {
        struct err err;

        EXPECT(cluster_open(&cc, &c, &err) == RC_OK);
    }
    until("the cluster's view", &cluster_up, NULL, 0);
    while (cluster_node_of_disk(c, &self.disks[0].id) == NULL)
        fiber_sleep_ms(10);
    EXPECT(cluster_node_of_disk(c, &self.disks[0].id)->alive);
    EXPECT(strcmp(cluster_node_of_disk(c, &self.disks[0].id)->host_address, "127.0.0.1:1") == 0);
    /* etcd dies and comes back: unknown outcomes meanwhile, then all goes on */
    EXPECT(fiber_work(shell, args[5]) == RC_OK);
    EXPECT(!cas(e, "/a/down", 0, "x", &w) &&
           (w.rc == RC_UNAVAIL || w.rc == RC_DEADLINE || w.rc == RC_IO));
    until("doubt", NULL, &doubts, 1);
    EXPECT(fiber_work(shell, args[6]) == RC_OK);
    do {
        (void)cas(e, "/a/up", 0, "x", &w);
    } while (w.rc != RC_OK);
    changes = 0;
    EXPECT(cas(e, "/m/after", 0, "back", &w));
    until("an event after the restart", NULL, &changes, 1);
    EXPECT(strcmp(last, "back") == 0);
    while (cluster_node_of_disk(c, &self.disks[0].id) == NULL ||
           !cluster_node_of_disk(c, &self.disks[0].id)->alive)
        fiber_sleep_ms(20);
    /* and away */
    etcd_election_close(el[1]);
    etcd_mirror_close(m);
    cluster_close(c, on_closed, NULL);
    until("the cluster's close", &closed, NULL, 0);
    closed = false;
    etcd_close(e, on_closed, NULL);
    until("the client's close", &closed, NULL, 0);
    closed = false;
    etcd_close(e2, on_closed, NULL);
    until("the second client's close", &closed, NULL, 0);
    puts("etcd client: all as it should be");
}

int main(int argc, char **argv)
{
    if (argc != 7) return 2;
    args = argv;
    log_setup("etcd_client", LOG_WARN);
    EXPECT(uv_loop_init(&loop) == 0 && fibers_open(&loop, &fs) == RC_OK);
    EXPECT(fiber_spawn(fs, run, NULL) == RC_OK);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    EXPECT(fibers_running(fs) == 0);
    fibers_close(fs);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    return 0;
}
