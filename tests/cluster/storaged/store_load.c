/* What a gateway asks of storage nodes, without a gateway: makes the cluster's first records,
 * writes items whose content follows from their number, and reads back what was acknowledged.
 *
 *   store_load ETCD CA CERT KEY setup NODES GROUP_BITS [COPIES MIN_IN_SYNC]
 *   store_load ... load FIRST N FIBERS ACKED     append the number of each acknowledged item
 *   store_load ... strays FIRST N               chunk bytes only, no ChunkAdd; prints how many
 *   store_load ... check ACKED                   every one, each chunk from every in-sync replica
 *   store_load ... wish NODES                    all disks that are there shall be members
 *   store_load ... wait IN_SYNC                  until all groups have so many in sync
 * Exit 0, or 1 with a line that says what failed. */
#include "common/base/log.h"
#include "gateway/route/route.h"
#include "common/placement/group_config.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POOL        1u
#define PATIENCE_MS 60000u
#define FAIL(...)                                                                                  \
    do {                                                                                           \
        (void)fprintf(stderr, "FAILED: " __VA_ARGS__);                                             \
        (void)fputc('\n', stderr);                                                                 \
        exit(1);                                                                                   \
    } while (0)

static uv_loop_t loop;
static struct fibers *fs;
static struct tls *tls;
static struct etcd *etcd;
static struct cluster *cluster;
static struct route *route;
static struct fiber_cond changed;
static char **args;
static int args_n;
static bool ready;

/* ---- content of an item ---- */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void fill(uint64_t seed, uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (i % 8 == 0) seed = mix(seed);
        p[i] = (uint8_t)(seed >> (i % 8 * 8));
    }
}

static bool has_chunk(uint64_t i)
{
    return i % 3 == 0;
}

static uint32_t chunk_bytes(uint64_t i)
{
    return 1u + (uint32_t)(mix(i ^ 77) % (i % 30 == 0 ? 8u << 20 : 300000u));
}

static struct id128 id_of(uint64_t i, uint64_t what)
{
    struct id128 id;

    fill(i * 31 + what, id.b, sizeof id.b);
    return id;
}

static struct route_at at_of(uint64_t i)
{
    return (struct route_at){POOL, mix(i ^ 4711)};
}

/* ---- one item ---- */
static enum rc chunk_put(uint64_t i, bool bytes_only, struct route_with *with, struct err *err);

/* with_chunk: in one entry with it. */
static enum rc meta_put(uint64_t i, bool with_chunk, struct err *err)
{
    Mikura__Internal__V1__TxnRequest q = MIKURA__INTERNAL__V1__TXN_REQUEST__INIT;
    struct route_with with = {.at = at_of(i), .req = &q};
    Mikura__Internal__V1__Compare absent = MIKURA__INTERNAL__V1__COMPARE__INIT, *compares = &absent;
    Mikura__Internal__V1__Put put = MIKURA__INTERNAL__V1__PUT__INIT, *puts = &put;
    Mikura__Internal__V1__TxnResponse *a;
    uint8_t value[200];
    char key[32];
    struct arena arena;
    enum rc rc;

    (void)snprintf(key, sizeof key, "item/%012" PRIu64, i);
    fill(i, value, sizeof value);
    put.key = (ProtobufCBinaryData){strlen(key), (uint8_t *)key};
    put.value = (ProtobufCBinaryData){sizeof value, value};
    absent.kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_ABSENT;
    absent.key = put.key;
    q.compares = &compares;
    q.n_compares = 1;
    q.puts = &puts;
    q.n_puts = 1;
    arena_init(&arena);
    if (with_chunk) {
        with.arena = &arena;
        rc = chunk_put(i, /* bytes_only= */ false, &with, err);
        a = with.answer;
    } else {
        rc = route_txn(route, at_of(i), &q, PATIENCE_MS, &arena, &a, err);
    }
    /* item numbers are used once: an entry that ran twice would find its own key */
    if (rc == RC_OK && !a->succeeded) FAIL("item %" PRIu64 " was executed twice", i);
    arena_deinit(&arena);
    return rc;
}

static enum rc chunk_put(uint64_t i, bool bytes_only, struct route_with *with, struct err *err)
{
    uint32_t n = chunk_bytes(i), blocks = seal_blocks(n);
    struct bulk_buf *buf = bulk_buf_new(n);
    uint8_t(*tags)[SEAL_TAG_BYTES] = calloc(blocks, sizeof *tags);
    struct route_chunk c = {.at = at_of(i),
                            .ident = {.suite = SEAL_SUITE_AES256GCM,
                                      .body = id_of(i, 1),
                                      .index = 3,
                                      .seal_id = id_of(i, 2),
                                      .plain_bytes = n},
                            .owner_hash = i,
                            .upload_id = id_of(i, 3),
                            .with = with,
                            .bytes_only = bytes_only};
    enum rc rc;

    if (buf == NULL || tags == NULL) FAIL("out of memory");
    fill(i, buf->p, n);
    fill(i ^ 5, &tags[0][0], (size_t)blocks * SEAL_TAG_BYTES);
    fill(i ^ 6, c.plain_digest, sizeof c.plain_digest);
    c.tags = (const uint8_t(*)[SEAL_TAG_BYTES])tags;
    c.cipher = buf;
    rc = route_chunk_put(route, &c, PATIENCE_MS, err);
    bulk_buf_unref(buf);
    free(tags);
    return rc;
}

struct load {
    uint64_t next, end;
    FILE *acked;
    uint64_t ok_n, failed_n, slowest_ms;
};

static void load_run(void *arg)
{
    struct load *l = arg;

    while (l->next < l->end) {
        uint64_t i = l->next++, began = uv_now(&loop), took;
        struct err err = {0};
        bool both = has_chunk(i) && i % 2 == 0;
        enum rc rc = has_chunk(i) && !both ? chunk_put(i, false, NULL, &err) : RC_OK;

        if (rc == RC_OK) rc = meta_put(i, both, &err);
        if (rc != RC_OK) {
            l->failed_n++;
            (void)fprintf(stderr, "item %" PRIu64 ": %s %s\n", i, rc_name(rc), err.msg);
            continue;
        }
        took = uv_now(&loop) - began;
        l->slowest_ms = MAX(l->slowest_ms, took);
        l->ok_n++;
        (void)fprintf(l->acked, "%" PRIu64 "\n", i);
        (void)fflush(l->acked);
    }
}

static void load(void)
{
    struct load l = {.next = strtoull(args[6], NULL, 10)};
    struct fiber_group g = {0};
    uint64_t began = uv_now(&loop);

    l.end = l.next + strtoull(args[7], NULL, 10);
    l.acked = fopen(args[9], "ae");
    if (l.acked == NULL) FAIL("%s: cannot open", args[9]);
    for (unsigned long i = strtoul(args[8], NULL, 10); i > 0; i--) {
        if (fiber_group_spawn(&g, load_run, &l) != RC_OK) FAIL("no fiber");
    }
    fiber_group_wait(&g);
    (void)fclose(l.acked);
    printf("load: %" PRIu64 " acknowledged, %" PRIu64 " failed, %" PRIu64 " ms, slowest %" PRIu64
           " ms\n",
           l.ok_n, l.failed_n, uv_now(&loop) - began, l.slowest_ms);
    if (l.failed_n > 0) exit(1);
}

static void strays(void)
{
    uint64_t i = strtoull(args[6], NULL, 10), end = i + strtoull(args[7], NULL, 10), n = 0;
    struct err err;

    for (; i < end; i++) {
        if (!has_chunk(i)) continue;
        if (chunk_put(i, true, NULL, &err) != RC_OK) FAIL("chunk %" PRIu64 ": %s", i, err.msg);
        n++;
    }
    printf("%" PRIu64 "\n", n);
}

/* ---- checks ---- */
static void meta_check(uint64_t i)
{
    Mikura__Internal__V1__GetResponse *a;
    uint8_t value[200];
    char key[32];
    struct slice k = {(uint8_t *)key, 0};
    struct arena arena;
    struct err err = {0};
    enum rc rc;

    k.n = (size_t)snprintf(key, sizeof key, "item/%012" PRIu64, i);
    fill(i, value, sizeof value);
    arena_init(&arena);
    rc = route_get(route, at_of(i), &k, 1, PATIENCE_MS, &arena, &a, &err);
    if (rc != RC_OK) FAIL("item %" PRIu64 ": %s %s", i, rc_name(rc), err.msg);
    if (a->items[0]->version == 0 || a->items[0]->value.len != sizeof value ||
        memcmp(a->items[0]->value.data, value, sizeof value) != 0)
        FAIL("item %" PRIu64 " was acknowledged and is %s", i,
             a->items[0]->version == 0 ? "gone" : "another");
    arena_deinit(&arena);
}

static void chunk_check(uint64_t i)
{
    const struct cluster_group *g = cluster_group_of(cluster, POOL, at_of(i).hash);
    uint32_t n = chunk_bytes(i), replicas = g == NULL ? 0 : g->in_sync_n;
    uint8_t *want = malloc(n), tags[SEAL_TAG_BYTES];

    if (want == NULL || replicas == 0) FAIL("no replica of item %" PRIu64, i);
    fill(i, want, n);
    fill(i ^ 5, tags, sizeof tags);
    for (uint32_t k = 0; k < replicas; k++) {
        struct route_read rd = {.at = at_of(i),
                                .body = id_of(i, 1),
                                .index = 3,
                                .tried = ~(1u << k)}; /* this one only */
        struct err err = {0};
        struct arena arena;
        enum rc rc;

        arena_init(&arena);
        rc = route_chunk_read(route, &rd, PATIENCE_MS, &arena, &err);
        if (rc != RC_OK)
            FAIL("chunk %" PRIu64 " from replica %u: %s %s", i, k, rc_name(rc), err.msg);
        if (rd.cipher_n != n || memcmp(rd.cipher->p, want, n) != 0 ||
            memcmp(rd.tags[0], tags, sizeof tags) != 0)
            FAIL("chunk %" PRIu64 " from replica %u has other bytes", i, k);
        bulk_buf_unref(rd.cipher);
        arena_deinit(&arena);
    }
    free(want);
}

static enum rc count_item(void *arg, const Mikura__Internal__V1__Item *item)
{
    if (item->value.len != 200) FAIL("a scanned item has %zu bytes", item->value.len);
    ++*(uint64_t *)arg;
    return RC_OK;
}

struct check {
    FILE *acked;
    uint64_t n;
};

static void check_run(void *arg)
{
    struct check *c = arg;
    uint64_t i;

    while (fscanf(c->acked, "%" SCNu64, &i) == 1) {
        meta_check(i);
        if (has_chunk(i)) chunk_check(i);
        c->n++;
    }
}

static void check(void)
{
    struct check c = {.acked = fopen(args[6], "re")};
    struct fiber_group fg = {0};
    const struct cluster_group *g = NULL;
    uint64_t scanned = 0, hashes[256], groups_n = 0;

    if (c.acked == NULL) FAIL("%s: cannot open", args[6]);
    for (int i = 0; i < 8; i++) {
        if (fiber_group_spawn(&fg, check_run, &c) != RC_OK) FAIL("no fiber");
    }
    fiber_group_wait(&fg);
    (void)fclose(c.acked);
    while ((g = cluster_group_next(cluster, g)) != NULL && groups_n < ARRAY_N(hashes))
        hashes[groups_n++] = g->group.prefix;
    for (uint64_t i = 0; i < groups_n; i++) {
        struct route_at at = {POOL, hashes[i]};
        static const uint8_t from[] = "item/", until[] = "item0";
        struct err err = {0};
        enum rc rc = route_scan(route, at, (struct slice){from, 5}, (struct slice){until, 5}, 0,
                                PATIENCE_MS, count_item, &scanned, &err);

        if (rc != RC_OK) FAIL("scan: %s %s", rc_name(rc), err.msg);
    }
    if (scanned < c.n) FAIL("scans found %" PRIu64 " items, %" PRIu64 " are there", scanned, c.n);
    printf("check: %" PRIu64 " items, %" PRIu64 " scanned\n", c.n, scanned);
}

/* ---- records ---- */
struct wait {
    struct etcd_request r;
    struct fiber_event done;
    enum rc rc;
};

static void on_put(struct etcd_request *r, enum rc rc, const struct etcd_answer *a)
{
    struct wait *w = r->data;

    (void)a;
    w->rc = rc;
    fiber_event_set(&w->done);
}

static void put_absent(const char *key, struct slice value)
{
    struct slice k = {(const uint8_t *)key, strlen(key)};
    struct etcd_compare c = {.kind = ETCD_CREATE_EQ, .key = k};
    struct etcd_op put = {.kind = ETCD_PUT, .key = k, .value = value};
    struct etcd_txn t = {.compares = &c, .then = &put, .compares_n = 1, .then_n = 1};
    struct wait w = {0};

    w.r.data = &w;
    if (etcd_txn(etcd, &w.r, &t, on_put) != RC_OK) FAIL("etcd_txn %s", key);
    fiber_event_wait(&w.done);
    if (w.rc != RC_OK) FAIL("put %s: %s", key, w.r.err.msg);
}

static uint32_t disks_of(struct placement_disk *ret, uint32_t max)
{
    const struct cluster_node *n = NULL;
    uint32_t k = 0;

    while ((n = cluster_node_next(cluster, n)) != NULL) {
        if (strcmp(n->kind, "storaged") != 0 || !n->alive) continue;
        for (uint32_t i = 0; i < n->disks_n && k < max; i++, k++)
            ret[k] = (struct placement_disk){n->disks[i].id, 1, {1, 1, k + 1}};
    }
    return k;
}

static void setup(void)
{
    uint32_t nodes = (uint32_t)strtoul(args[6], NULL, 10), n;
    struct placement_pool pool = {POOL, (uint32_t)strtoul(args[7], NULL, 10),
                                  args_n > 8 ? (uint8_t)strtoul(args[8], NULL, 10) : 3,
                                  args_n > 9 ? (uint8_t)strtoul(args[9], NULL, 10) : 2,
                                  PLACEMENT_HOST};
    struct placement_disk disks[16];
    struct id128 id = id128_random();
    char text[ID128_TEXT_BYTES], key[128], *json = cluster_pool_json(&pool);

    (void)id128_text(&id, text);
    put_absent("/mikura/local/id", (struct slice){(const uint8_t *)text, 32});
    put_absent("/mikura/local/pools/1", (struct slice){(const uint8_t *)json, strlen(json)});
    free(json);
    while ((n = disks_of(disks, ARRAY_N(disks))) < nodes)
        fiber_cond_wait(&changed);
    for (uint64_t i = 0; i < 1ull << pool.prefix_bits; i++) {
        struct placement_group g =
            placement_group_of(&pool, pool.prefix_bits == 0 ? 0 : i << (64 - pool.prefix_bits));
        uint32_t idx[PLACEMENT_COPIES_MAX];
        enum placement_level level;
        struct group_set set = {.n = placement_propose(&pool, &g, disks, n, idx, &level)};
        struct group_config first;
        uint8_t value[GROUP_CONFIG_BYTES_MAX];

        for (uint32_t k = 0; k < set.n; k++)
            set.disks[k] = disks[idx[k]].id;
        group_config_first(&set, &first);
        (void)snprintf(key, sizeof key, "/mikura/local/pg/%u/%u/%016" PRIx64, g.pool, g.prefix_bits,
                       g.prefix);
        put_absent(key, (struct slice){value, group_config_encode(&first, value)});
        /* the manager's wish: these shall be members, whoever is removed meanwhile */
        (void)snprintf(key, sizeof key, "/mikura/local/pg/%u/%u/%016" PRIx64 "/desired", g.pool,
                       g.prefix_bits, g.prefix);
        put_absent(key, (struct slice){value, group_wish_encode(&set, value)});
    }
    printf("setup: %u disks, %u groups\n", n, 1u << pool.prefix_bits);
}

static void wish(void)
{
    const struct cluster_group *g = NULL;
    uint32_t nodes = (uint32_t)strtoul(args[6], NULL, 10);
    struct placement_disk disks[16];
    struct group_set set = {0};

    while ((set.n = disks_of(disks, ARRAY_N(disks))) != nodes)
        fiber_cond_wait(&changed);
    for (uint32_t k = 0; k < set.n; k++)
        set.disks[k] = disks[k].id;
    while ((g = cluster_group_next(cluster, g)) != NULL) {
        uint8_t value[GROUP_WISH_BYTES_MAX];
        char key[128];
        struct etcd_op put = {.kind = ETCD_PUT};
        struct etcd_txn t = {.then = &put, .then_n = 1};
        struct wait w = {0};

        put.key.p = (const uint8_t *)key;
        put.key.n =
            (size_t)snprintf(key, sizeof key, "/mikura/local/pg/%u/%u/%016" PRIx64 "/desired",
                             g->group.pool, g->group.prefix_bits, g->group.prefix);
        put.value = (struct slice){value, group_wish_encode(&set, value)};
        w.r.data = &w;
        if (etcd_txn(etcd, &w.r, &t, on_put) != RC_OK) FAIL("etcd_txn %s", key);
        fiber_event_wait(&w.done);
        if (w.rc != RC_OK) FAIL("put %s: %s", key, w.r.err.msg);
    }
}

static void wait_in_sync(void)
{
    uint32_t want = (uint32_t)strtoul(args[6], NULL, 10);
    uint64_t until = uv_now(&loop) + PATIENCE_MS;

    for (;;) {
        const struct cluster_group *g = NULL;
        uint32_t groups = 0, good = 0;

        while ((g = cluster_group_next(cluster, g)) != NULL) {
            groups++;
            good += g->in_sync_n == want;
        }
        if (groups > 0 && good == groups) return;
        if (uv_now(&loop) >= until) FAIL("%u of %u groups have %u in sync", good, groups, want);
        (void)!fiber_cond_wait_ms(&changed, 1000);
    }
}

/* ---- the rest ---- */
static void news(void)
{
    fiber_cond_broadcast(&changed);
    if (route != NULL) route_changed(route);
}

static void on_ready(void *data)
{
    (void)data;
    ready = true;
    news();
}

static void on_node(void *data, const struct cluster_node *n)
{
    (void)data;
    (void)n;
    news();
}

static void on_group(void *data, const struct cluster_group *g)
{
    (void)data;
    (void)g;
    news();
}

static void closed(void *data)
{
    fiber_event_set(data);
}

static void run(void *arg)
{
    struct cluster_conf conf = {.etcd = etcd,
                                .name = "local",
                                .on_ready = on_ready,
                                .on_node = on_node,
                                .on_group = on_group};
    struct route_conf rconf = {.fs = fs, .tls = tls};
    struct fiber_event ev = {0};
    struct err err = {0};

    (void)arg;
    if (cluster_open(&conf, &cluster, &err) != RC_OK) FAIL("%s", err.msg);
    while (!ready)
        fiber_cond_wait(&changed);
    if (strcmp(args[5], "setup") == 0) {
        setup();
    } else {
        while (cluster_id(cluster) == NULL)
            fiber_cond_wait(&changed);
        rconf.cluster = cluster;
        rconf.self = (struct bulk_hello){.wire_version = 1,
                                         .cluster = *cluster_id(cluster),
                                         .node = id_of(1, 1),
                                         .boot_id = id128_random()};
        if (route_open(&rconf, &route) != RC_OK) FAIL("route");
        if (strcmp(args[5], "load") == 0 && args_n == 10) {
            load();
        } else if (strcmp(args[5], "strays") == 0 && args_n == 8) {
            strays();
        } else if (strcmp(args[5], "check") == 0 && args_n == 7) {
            check();
        } else if (strcmp(args[5], "wish") == 0 && args_n == 7) {
            wish();
        } else if (strcmp(args[5], "wait") == 0 && args_n == 7) {
            wait_in_sync();
        } else {
            FAIL("bad arguments");
        }
        route_close(route);
    }
    cluster_close(cluster, closed, &ev);
    fiber_event_wait(&ev);
    etcd_close(etcd, closed, &ev);
    fiber_event_wait(&ev);
}

int main(int argc, char **argv)
{
    struct tls_conf tconf;
    struct etcd_conf econf = {.loop = &loop};
    struct err err = {0};

    if (argc < 7) FAIL("bad arguments");
    args = argv;
    args_n = argc;
    log_setup("store_load", LOG_WARN);
    fiber_cond_init(&changed);
    tconf = (struct tls_conf){argv[2], argv[3], argv[4]};
    if (uv_loop_init(&loop) != 0 || fibers_open(&loop, &fs) != RC_OK) FAIL("loop");
    if (tls_new(&tconf, &tls, &err) != RC_OK) FAIL("%s", err.msg);
    econf.endpoints = argv[1];
    econf.tls = tls;
    if (etcd_open(&econf, &etcd, &err) != RC_OK) FAIL("%s", err.msg);
    if (fiber_spawn(fs, run, NULL) != RC_OK) FAIL("fiber");
    while (fibers_running(fs) > 0)
        (void)uv_run(&loop, UV_RUN_ONCE);
    fibers_close(fs);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&loop);
    tls_unref(tls);
    return 0;
}
