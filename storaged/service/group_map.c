/* storaged/service/group_map.c - which replicas this node has: the groups' records and wishes in
 * etcd, the birth of a replica from what its disk holds, its promises, its transactions.
 *
 * Records come through a mirror, which may be late; what a replica decides with goes through
 * transactions only. A replica begins when a record or a wish names its disk, or when the disk
 * holds something of the group. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "storaged/service/service.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_BYTES_MAX 192u

static uint32_t bucket_of(const struct placement_group *id)
{
    uint64_t h = (id->prefix >> 20) * 0x9e3779b97f4a7c15u + id->pool;

    return (uint32_t)((h ^ h >> 32) % SD_GROUP_BUCKETS);
}

static bool same_group(const struct placement_group *a, const struct placement_group *b)
{
    return a->pool == b->pool && a->prefix_bits == b->prefix_bits && a->prefix == b->prefix;
}

struct sd_group *group_find(struct sd *sd, const struct placement_group *id,
                            const struct id128 *disk)
{
    struct sd_group *best = NULL;

    LIST_FOREACH(it, &sd->buckets[bucket_of(id)])
    {
        struct sd_group *g = CONTAINER_OF(it, struct sd_group, bucket);

        if (!same_group(&g->id, id)) continue;
        if (disk != NULL && !id128_eq(disk, &g->disk->id)) continue;
        if (best == NULL || best->dead || !best->ready ||
            (g->ready && !g->dead && replica_role(&g->core) > replica_role(&best->core)))
            best = g;
    }
    return best;
}

struct sd_group *group_of_hash(struct sd *sd, uint32_t pool, uint64_t hash)
{
    const struct placement_pool *p = cluster_pool(sd->cluster, pool);
    struct placement_group id;

    if (p == NULL) return NULL;
    id = placement_group_of(p, hash);
    return group_find(sd, &id, NULL);
}

/* ---- promises ---- */
struct persist_job {
    struct sd_group *g;
    uint8_t blob[REPLICA_DURABLE_BYTES];
    uint8_t record[GROUP_CONFIG_BYTES_MAX]; /* of record_n bytes: the newest one known */
    uint32_t record_n;
    enum rc rc;
    struct err err;
};

void record_note_name(const struct placement_group *id, char name[48])
{
    (void)snprintf(name, 48, "record/%u/%u/%016" PRIx64, id->pool, id->prefix_bits, id->prefix);
}

static void persist_work(void *arg)
{
    struct persist_job *j = arg;
    struct index *ix = store_index(j->g->disk->store);
    char name[48];

    /* before the promise, whose sync makes both durable: should etcd be lost, what was promised
     * under a record can be told with it */
    record_note_name(&j->g->id, name);
    j->rc = j->record_n == 0
                ? RC_OK
                : index_note_put(ix, name, (struct slice){j->record, j->record_n}, &j->err);
    if (j->rc != RC_OK) return;
    j->rc = index_persist(store_index(j->g->disk->store), &j->g->ix,
                          (struct slice){j->blob, sizeof j->blob}, &j->err);
}

static void persist_run(void *arg)
{
    struct sd_group *g = arg;
    struct persist_job j = {.g = g};
    uint64_t config;

    while (g->persist_news && !g->dead) {
        struct replica_event ev = {.type = REPLICA_EV_PERSISTED, .id = g->persist_id};
        enum rc rc;

        g->persist_news = false;
        replica_durable_encode(&g->persist, j.blob);
        config = g->core.cfg.config;
        j.record_n = config > g->record_kept ? group_config_encode(&g->core.cfg, j.record) : 0;
        rc = fiber_work(persist_work, &j);
        if (rc == RC_OK) rc = j.rc;
        if (rc == RC_NOMEM) { /* nothing was written: again */
            g->persist_news = true;
            fiber_sleep_ms(10);
        } else if (rc != RC_OK) {
            group_fail(g, rc == RC_CORRUPT ? RC_IO : rc, &j.err);
        } else {
            if (j.record_n > 0) g->record_kept = config;
            group_event(g, &ev);
        }
    }
    g->persisting = false;
}

void group_persist(struct sd_group *g, const struct replica_action *a)
{
    struct err err;

    g->persist = a->durable;
    g->persist_id = a->id;
    g->persist_news = true;
    if (g->persisting) return;
    g->persisting = sd_spawn(g->sd, persist_run, g) == RC_OK;
    if (g->persisting) return;
    (void)err_set(&err, RC_NOMEM, "no fiber to keep a promise");
    group_fail(g, RC_NOMEM, &err);
}

/* A record that came after the promise of its numbers: a backup hears of a reign before etcd tells.
 */
void group_record_keep(struct sd_group *g)
{
    if (g->dead || g->persisting || g->core.cfg.config <= g->record_kept) return;
    g->persist = g->core.durable;
    g->persist_news = true;
    g->persisting = sd_spawn(g->sd, persist_run, g) == RC_OK; /* else with the next event */
}

/* ---- transactions ---- */
struct txn_job {
    struct sd_group *g;
    struct etcd_request req;
    uint64_t id;
    bool read;
};

static size_t group_key(const struct sd_group *g, char key[KEY_BYTES_MAX])
{
    int n = snprintf(key, KEY_BYTES_MAX, "/mikura/%s/pg/%u/%u/%016" PRIx64, g->sd->conf.cluster,
                     g->id.pool, g->id.prefix_bits, g->id.prefix);

    CHECK(n > 0 && (size_t)n < KEY_BYTES_MAX);
    return (size_t)n;
}

static void on_txn(struct etcd_request *r, enum rc rc, const struct etcd_answer *a)
{
    struct txn_job *j = r->data;
    struct sd_group *g = j->g;
    struct sd *sd = g->sd;
    struct group_config config;
    struct replica_event ev = {.type = REPLICA_EV_CAS, .id = j->id};
    struct err err;

    if (j->read) {
        g->reading = false;
        if (rc == RC_OK && a->kvs_n == 1 && !persisted_foreign(sd)) {
            rc = group_config_decode(a->kvs[0].value, &config, &err);
            if (rc == RC_OK) {
                ev.type = REPLICA_EV_CONFIG;
                ev.config = &config;
                ev.mod_revision = a->kvs[0].mod_revision;
                g->record_read = config.config;
                group_event(g, &ev);
            } else {
                log_error("group_record_bad", "group=%s why=%s", g->name, err.msg);
            }
        }
    } else {
        ev.cas =
            rc != RC_OK ? REPLICA_CAS_UNKNOWN : (a->succeeded ? REPLICA_CAS_WON : REPLICA_CAS_LOST);
        if (rc == RC_OK) ev.mod_revision = a->revision;
        if (rc != RC_OK)
            log_info("group_cas_unknown", "group=%s rc=%s why=%s", g->name, rc_name(rc),
                     r->err.msg);
        group_event(g, &ev);
    }
    free(j);
    sd_work_end(sd);
}

void group_cas(struct sd_group *g, const struct replica_action *a)
{
    struct txn_job *j = calloc(1, sizeof *j);
    char key[KEY_BYTES_MAX];
    uint8_t value[GROUP_CONFIG_BYTES_MAX];
    struct slice k = {(const uint8_t *)key, group_key(g, key)};
    struct etcd_compare cmp = {.kind = ETCD_MOD_EQ, .key = k, .number = a->mod_revision};
    struct etcd_op put = {.kind = ETCD_PUT, .key = k};
    struct etcd_txn txn = {.compares = &cmp, .then = &put, .compares_n = 1, .then_n = 1};
    struct err err;
    enum rc rc = RC_NOMEM;

    put.value = (struct slice){value, group_config_encode(&a->config, value)};
    if (j != NULL) {
        j->g = g;
        j->id = a->id;
        j->req.data = j;
        rc = etcd_txn(g->sd->etcd, &j->req, &txn, on_txn);
        if (rc == RC_OK) {
            g->sd->work_n++;
            return;
        }
    }
    free(j);
    (void)err_set(&err, rc, "a transaction could not be begun");
    group_fail(g, RC_NOMEM, &err); /* (2) */
}

/* A read-only transaction is served like a range, maybe stale (etcd-v3.md); one that could write is
 * ordered with all others. This one's writing branch is never taken. */
void group_read_config(struct sd_group *g)
{
    struct txn_job *j;
    char key[KEY_BYTES_MAX], none[KEY_BYTES_MAX];
    struct slice k = {(const uint8_t *)key, group_key(g, key)};
    struct etcd_compare never = {.kind = ETCD_VERSION_EQ, .key = k, .number = INT64_MAX};
    struct etcd_op del = {.kind = ETCD_DELETE}, get = {.kind = ETCD_GET, .key = k};
    struct etcd_txn txn = {.compares = &never,
                           .then = &del,
                           .otherwise = &get,
                           .compares_n = 1,
                           .then_n = 1,
                           .otherwise_n = 1};
    int n = snprintf(none, sizeof none, "/mikura/%s/none", g->sd->conf.cluster);

    if (g->reading) return;
    j = calloc(1, sizeof *j);
    if (j == NULL) return; /* asked again */
    del.key = (struct slice){(const uint8_t *)none, (size_t)n};
    j->g = g;
    j->read = true;
    j->req.data = j;
    if (etcd_txn(g->sd->etcd, &j->req, &txn, on_txn) != RC_OK) {
        free(j);
        return;
    }
    g->reading = true;
    g->sd->work_n++;
}

/* ---- birth ---- */
struct birth {
    struct sd_group *g;
    struct replica_start start;
    uint64_t record_config; /* of the record kept; 0 = none */
    enum rc rc;
    struct err err;
};

/* Rule 3: the run of entries that counts, and what lies dead above it. */
static enum rc log_extent(struct birth *b, struct index *ix, struct index_log_row *rows,
                          uint32_t max)
{
    const struct index_group *gx = &b->g->ix;
    uint64_t first, last, at;
    bool dead = false;
    enum rc rc = index_log_bounds(ix, gx, &first, &last, &b->err);

    if (rc == RC_NOTFOUND) return RC_OK;
    if (rc != RC_OK) return rc;
    at = first;
    while (at <= last && !dead) {
        uint32_t n = 0;

        rc = index_log_get(ix, gx, at, rows, max, &n, &b->err);
        if (rc != RC_OK) return rc;
        if (n == 0) break; /* a hole */
        for (uint32_t i = 0; i < n; i++) {
            dead = rows[i].index > b->start.durable.cut_index &&
                   rows[i].epoch < b->start.durable.cut_epoch;
            if (dead) break;
            if (rows[i].epoch >= b->start.log_epoch) {
                b->start.log_epoch = rows[i].epoch;
                b->start.epoch_last = rows[i].index;
            }
            at++;
        }
    }
    b->start.log_first = first;
    b->start.log_last = at - 1;
    if (at == first) b->start.log_first = b->start.log_last = 0;
    if (at > last) return RC_OK;
    if (dead) return index_log_trim(ix, gx, at, true, &b->err);
    /* rows above a hole: dead ones are of no interest, others mean a loss */
    b->start.damaged = true;
    return RC_OK;
}

static void record_kept(struct birth *b, struct index *ix)
{
    uint8_t bytes[GROUP_CONFIG_BYTES_MAX];
    struct group_config c;
    char name[48];
    size_t n = 0;

    record_note_name(&b->g->id, name);
    if (index_note_get(ix, name, bytes, sizeof bytes, &n, NULL) == RC_OK &&
        group_config_decode((struct slice){bytes, n}, &c, NULL) == RC_OK)
        b->record_config = c.config;
}

static void birth_work(void *arg)
{
    struct birth *b = arg;
    struct index *ix = store_index(b->g->disk->store);
    struct index_log_row *rows = calloc(256, sizeof *rows);
    uint8_t blob[REPLICA_DURABLE_BYTES];
    struct index_applied applied = {0};
    size_t n = 0;

    if (rows == NULL) {
        b->rc = RC_NOMEM;
        return;
    }
    b->rc = index_persisted(ix, &b->g->ix, blob, sizeof blob, &n, &b->err);
    if (b->rc == RC_OK)
        b->rc = replica_durable_decode((struct slice){blob, n}, &b->start.durable, &b->err);
    if (b->rc == RC_NOTFOUND) b->rc = RC_OK;
    if (b->rc == RC_OK) b->rc = index_applied_get(ix, &b->g->ix, &applied, &b->err);
    b->start.applied = applied.index;
    if (b->rc == RC_OK) b->rc = log_extent(b, ix, rows, 256);
    if (b->rc == RC_OK) record_kept(b, ix);
    free(rows);
}

enum rc group_found(struct sd_group *g, struct replica_start *ret, struct err *reterr)
{
    struct birth b = {.g = g};

    birth_work(&b);
    b.start.damaged |= g->disk->damaged;
    *ret = b.start;
    if (b.rc != RC_OK) *reterr = b.err;
    return b.rc;
}

static void wish_tell(struct sd_group *g)
{
    struct replica_event ev = {.type = REPLICA_EV_WISH, .wish = &g->wish};

    if (g->has_wish) group_event(g, &ev);
}

static void config_tell(struct sd_group *g)
{
    struct replica_event ev = {
        .type = REPLICA_EV_CONFIG, .config = &g->config, .mod_revision = g->config_revision};

    if (g->config.config != 0) group_event(g, &ev);
}

static void birth_run(void *arg)
{
    struct sd_group *g = arg;
    const struct placement_pool *pool;
    struct birth b = {.g = g};
    struct replica_conf conf = {.disk = g->disk->id, .boot = g->sd->boot_id};
    enum rc rc = fiber_work(birth_work, &b);

    g->opening = false;
    if (rc == RC_OK) rc = b.rc;
    pool = cluster_pool(g->sd->cluster, g->id.pool);
    if (g->dead || pool == NULL || rc == RC_NOMEM) return; /* again with the next look */
    if (rc != RC_OK) {
        group_fail(g, rc, &b.err);
        return;
    }
    conf.min_in_sync = pool->min_in_sync;
    b.start.now_ms = clock_boot_ms();
    b.start.damaged |= g->disk->damaged;
    replica_core_init(&g->core, &conf, &b.start);
    g->applied = g->apply_to = b.start.applied;
    g->log_top = MAX(b.start.log_last, b.start.applied);
    g->trimmed_at = b.start.log_first;
    g->tick_ms = b.start.now_ms;
    g->record_kept = b.record_config;
    g->ready = true;
    log_info("replica_begun",
             "group=%s applied=%" PRIu64 " log=%" PRIu64 "..%" PRIu64 " epoch=%" PRIu64
             " damaged=%d",
             g->name, b.start.applied, b.start.log_first, b.start.log_last, b.start.durable.epoch,
             b.start.damaged);
    config_tell(g);
    wish_tell(g);
}

static void group_birth(struct sd_group *g)
{
    if (g->ready || g->opening || g->dead || g->erased || g->sd->stopping) return;
    if (cluster_pool(g->sd->cluster, g->id.pool) == NULL) return;
    g->opening = sd_spawn(g->sd, birth_run, g) == RC_OK;
}

/* What was erased is wanted again: an empty replica in the same place. */
static void group_anew(struct sd_group *g)
{
    entry_ring_deinit(&g->ring);
    entry_ring_init(&g->ring, &g->sd->cache);
    memset(&g->core, 0, sizeof g->core);
    g->config = (struct group_config){0};
    g->ready = g->dead = g->erased = g->has_wish = g->durable_news = g->persist_news = false;
    g->applied = g->apply_to = g->log_top = g->trimmed_at = g->forget_epoch = 0;
    g->persist_id = g->unwanted_ms = g->record_read = 0;
    g->compare.epoch = 0;
    g->sd->groups_n++;
    g->disk->groups_n++;
}

static struct sd_group *group_make(struct sd *sd, const struct placement_group *id,
                                   struct sd_disk *d)
{
    struct sd_group *g = group_find(sd, id, &d->id);
    char disk[ID128_TEXT_BYTES];

    if (g != NULL && g->erased && !g->retiring && !d->out) group_anew(g);
    if (g != NULL || d->out) return g;
    if (sd->groups_n >= SD_GROUPS_MAX) {
        log_error("groups_full", "max=%u", SD_GROUPS_MAX);
        return NULL;
    }
    g = calloc(1, sizeof *g);
    if (g == NULL) return NULL;
    g->sd = sd;
    g->disk = d;
    g->id = *id;
    g->ix = (struct index_group){id->pool, (uint8_t)id->prefix_bits, id->prefix};
    (void)snprintf(g->name, sizeof g->name, "%u/%u/%016" PRIx64 "@%.8s", id->pool, id->prefix_bits,
                   id->prefix, id128_text(&d->id, disk));
    list_init(&g->dirty_link);
    list_init(&g->appends);
    list_init(&g->catchups);
    list_init(&g->waiters);
    list_init(&g->fresh);
    list_init(&g->pulls);
    fiber_cond_init(&g->state_cond);
    entry_ring_init(&g->ring, &sd->cache);
    list_push_back(&sd->groups, &g->link);
    list_push_back(&sd->buckets[bucket_of(id)], &g->bucket);
    sd->groups_n++;
    d->groups_n++;
    return g;
}

/* ---- the cluster's map ---- */
/* A record is of use to the replicas there are, too: those that it does not name learn so. */
static void record_seen(struct sd *sd, const struct placement_group *id,
                        const struct group_config *c, int64_t revision)
{
    for (uint32_t i = 0; i < sd->disks_n; i++) {
        struct sd_disk *d = &sd->disks[i];
        struct sd_group *g = group_find(sd, id, &d->id);

        if ((g == NULL || g->erased) &&
            (group_set_has(&c->in_sync, &d->id) || group_set_has(&c->learners, &d->id)))
            g = group_make(sd, id, d);
        if (g == NULL || g->erased) continue;
        if (c->config >= g->config.config) {
            g->config = *c;
            g->config_revision = revision;
        }
        group_birth(g);
        config_tell(g);
    }
}

static void wish_seen(struct sd *sd, const struct placement_group *id, const struct group_set *wish)
{
    for (uint32_t i = 0; i < sd->disks_n; i++) {
        struct sd_disk *d = &sd->disks[i];
        struct sd_group *g = group_find(sd, id, &d->id);

        if ((g == NULL || g->erased) && group_set_has(wish, &d->id)) g = group_make(sd, id, d);
        if (g == NULL || g->erased) continue;
        g->wish = *wish;
        g->has_wish = true;
        group_birth(g);
        wish_tell(g);
    }
}

void group_record(struct sd *sd, const struct cluster_group *cg)
{
    struct group_config config;
    struct err err;
    enum rc rc = group_config_decode(cg->raw, &config, &err);

    if (sd->stopping || persisted_foreign(sd)) return;
    if (rc == RC_OK) {
        record_seen(sd, &cg->group, &config, cg->mod_revision);
    } else {
        log_error("group_record_bad", "group=%u/%u/%016" PRIx64 " why=%s", cg->group.pool,
                  cg->group.prefix_bits, cg->group.prefix, err.msg);
    }
}

/* rest: "pg/<pool>/<bits>/<prefix>/desired" */
void group_wish(struct sd *sd, const char *rest, struct slice value)
{
    struct placement_group id;
    struct group_set wish;
    struct err err;
    unsigned pool, bits;
    uint64_t prefix;
    int at = 0;

    if (sd->stopping || value.n == 0 || persisted_foreign(sd)) return;
    if (sscanf(rest, "pg/%5u/%2u/%16" SCNx64 "%n", &pool, &bits, &prefix, &at) != 3 ||
        strcmp(rest + at, "/desired") != 0 || pool == 0 || pool > 65535 ||
        bits > PLACEMENT_PREFIX_BITS_MAX)
        return;
    id = (struct placement_group){.pool = pool, .prefix_bits = bits, .prefix = prefix};
    if (group_wish_decode(value, &wish, &err) != RC_OK) {
        log_error("group_wish_bad", "key=%s why=%s", rest, err.msg);
        return;
    }
    wish_seen(sd, &id, &wish);
}

void groups_map_changed(struct sd *sd)
{
    LIST_FOREACH(it, &sd->groups) group_birth(CONTAINER_OF(it, struct sd_group, link));
}

struct on_disk {
    struct sd *sd;
    struct sd_disk *d;
};

static enum rc found_on_disk(void *ctx, const struct index_group *ix)
{
    struct on_disk *o = ctx;
    struct placement_group id = {.pool = ix->pool, .prefix_bits = ix->bits, .prefix = ix->prefix};

    return group_make(o->sd, &id, o->d) == NULL ? RC_NOMEM : RC_OK;
}

/* Blocking, at start: what the disks hold. */
enum rc groups_open(struct sd *sd, struct err *reterr)
{
    for (uint32_t i = 0; i < sd->disks_n; i++) {
        struct on_disk o = {sd, &sd->disks[i]};
        enum rc rc = index_groups(store_index(sd->disks[i].store), found_on_disk, &o, reterr);

        if (rc != RC_OK) return err_prefix(reterr, "disk %s", sd->disks[i].dir);
    }
    return RC_OK;
}

void groups_tick(struct sd *sd)
{
    LIST_FOREACH(it, &sd->groups)
    {
        struct sd_group *g = CONTAINER_OF(it, struct sd_group, link);

        group_tick(g);
        if (g->appends_n > 0 && g->disk->starved) group_dirty(g);
    }
}

void group_appends_drop(struct sd_group *g)
{
    LIST_FOREACH_SAFE(it, &g->appends)
    {
        struct append *a = CONTAINER_OF(it, struct append, link);

        if (a->issued) continue; /* its callback frees it */
        list_remove(&a->link);
        g->appends_n--;
        entry_unpin(a->e);
        free(a);
    }
}

void groups_close(struct sd *sd)
{
    while (!list_empty(&sd->groups)) {
        struct sd_group *g = CONTAINER_OF(sd->groups.next, struct sd_group, link);

        CHECK(list_empty(&g->appends) && list_empty(&g->waiters));
        list_remove(&g->dirty_link);
        list_remove(&g->link);
        list_remove(&g->bucket);
        entry_ring_deinit(&g->ring);
        free(g);
    }
}
