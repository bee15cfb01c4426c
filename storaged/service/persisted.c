/* storaged/service/persisted.c - what the disks keep of the cluster's configuration: whose they
 * are, the pools, each replica's newest record. So that a lost etcd can be made again, and that a
 * disk never serves another cluster.
 *
 * Notes of the index: "cluster" (16 bytes: its id), "pool/<id>" (etcd's value), "record/..." (with
 * the promises: group_map.c). */
#include "common/base/log.h"
#include "storaged/service/service.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_GROUPS 512u

/* ---- whose the disks are ---- */
enum rc persisted_open(struct sd *sd, struct err *reterr)
{
    for (uint32_t i = 0; i < sd->disks_n; i++) {
        struct id128 id;
        size_t n = 0;
        enum rc rc = index_note_get(store_index(sd->disks[i].store), "cluster", id.b, sizeof id.b,
                                    &n, reterr);

        if (rc == RC_NOTFOUND) continue;
        if (rc == RC_OK && n != sizeof id.b) rc = err_set(reterr, RC_CORRUPT, "its cluster's id");
        if (rc != RC_OK) return err_prefix(reterr, "disk %s", sd->disks[i].dir);
        if (!id128_is_zero(&sd->own) && !id128_eq(&sd->own, &id))
            return err_set(reterr, RC_PRECOND,
                           "disk %s belongs to another cluster than the disks before it",
                           sd->disks[i].dir);
        sd->own = id;
    }
    return RC_OK;
}

bool persisted_foreign(const struct sd *sd)
{
    const struct id128 *id = sd->cluster == NULL ? NULL : cluster_id(sd->cluster);

    return id != NULL && !id128_is_zero(&sd->own) && !id128_eq(id, &sd->own);
}

struct keep {
    struct sd *sd;
    struct id128 id;
    char name[32];
    char *value; /* NULL: the cluster's id */
};

static void keep_work(void *arg)
{
    const struct keep *k = arg;
    struct slice v = {k->id.b, sizeof k->id.b};
    struct err err;

    if (k->value != NULL) v = (struct slice){(const uint8_t *)k->value, strlen(k->value)};
    for (uint32_t i = 0; i < k->sd->disks_n; i++) {
        const struct sd_disk *d = &k->sd->disks[i];

        if (!d->out && !d->closed &&
            index_note_put(store_index(d->store), k->name, v, &err) != RC_OK)
            log_warn("note_failed", "dir=%s name=%s why=%s", d->dir, k->name, err.msg);
    }
}

static void keep_run(void *arg)
{
    struct keep *k = arg;

    if (fiber_work(keep_work, k) != RC_OK)
        log_warn("note_failed", "name=%s why=no worker", k->name);
    free(k->value);
    free(k);
}

static void keep(struct sd *sd, const char *name, char *value)
{
    struct keep *k = calloc(1, sizeof *k);

    if (k != NULL) {
        k->sd = sd;
        k->id = sd->own;
        (void)snprintf(k->name, sizeof k->name, "%s", name);
        k->value = value;
        if (sd_spawn(sd, keep_run, k) == RC_OK) return;
    }
    free(value); /* the next start keeps it */
    free(k);
}

void persisted_joined(struct sd *sd, const struct id128 *id)
{
    sd->own = *id;
    keep(sd, "cluster", NULL);
}

void persisted_pool(struct sd *sd, const struct placement_pool *p)
{
    char name[32], *value = cluster_pool_json(p);

    (void)snprintf(name, sizeof name, "pool/%u", p->id);
    if (value != NULL) keep(sd, name, value);
}

/* ---- telling ---- */
struct tell {
    struct sd_group *g;
    uint8_t record[GROUP_CONFIG_BYTES_MAX];
    size_t record_n;
    uint64_t epoch, config, log_epoch, log_last, commit;
    bool damaged, born;
};
struct tells {
    struct sd *sd;
    struct tell t[PAGE_GROUPS];
    char pools[2][512];
    uint32_t n, pools_n;
};

/* A replica that runs knows more than its disk; one that waits for its pool is on the disk only. */
static void tell_one(struct tell *t)
{
    struct index *ix = store_index(t->g->disk->store);
    struct replica_start start;
    struct index_log_row row;
    struct index_applied at = {0};
    uint64_t first, last;
    uint32_t n = 0;
    char name[48];
    struct err err;

    record_note_name(&t->g->id, name);
    if (index_note_get(ix, name, t->record, sizeof t->record, &t->record_n, NULL) != RC_OK)
        t->record_n = 0;
    if (index_applied_get(ix, &t->g->ix, &at, NULL) == RC_OK) t->log_epoch = at.epoch;
    if (t->born) {
        if (index_log_bounds(ix, &t->g->ix, &first, &last, NULL) == RC_OK &&
            index_log_get(ix, &t->g->ix, MIN(last, t->log_last), &row, 1, &n, NULL) == RC_OK &&
            n == 1)
            t->log_epoch = MAX(t->log_epoch, row.epoch);
        return;
    }
    if (group_found(t->g, &start, &err) != RC_OK) {
        t->damaged = true;
        return;
    }
    t->epoch = MAX(start.durable.epoch, start.log_epoch);
    t->config = start.durable.config;
    t->log_epoch = MAX(t->log_epoch, start.log_epoch);
    t->log_last = MAX(start.log_last, start.applied);
    t->commit = MAX(start.durable.commit, start.applied);
    t->damaged = start.damaged || start.durable.damaged || t->commit > t->log_last;
}

static void tell_work(void *arg)
{
    struct tells *ts = arg;

    for (uint32_t i = 0; i < ts->n; i++)
        tell_one(&ts->t[i]);
    for (uint32_t i = 0; i < 2 && ts->sd->disks_n > 0; i++) {
        char name[32];
        size_t n = 0;

        (void)snprintf(name, sizeof name, "pool/%u", i + 1);
        if (index_note_get(store_index(ts->sd->disks[0].store), name,
                           (uint8_t *)ts->pools[ts->pools_n], sizeof ts->pools[0] - 1, &n,
                           NULL) == RC_OK)
            ts->pools[ts->pools_n++][n] = 0;
    }
}

static Mikura__Internal__V1__PersistedGroup *group_told(struct arena *a, const struct tell *t)
{
    Mikura__Internal__V1__PersistedGroup *m = arena_alloc(a, sizeof *m);

    if (m == NULL) return NULL;
    mikura__internal__v1__persisted_group__init(m);
    m->disk = (ProtobufCBinaryData){16, t->g->disk->id.b};
    m->pool = t->g->id.pool;
    m->prefix_bits = t->g->id.prefix_bits;
    m->prefix = t->g->id.prefix;
    m->record = (ProtobufCBinaryData){t->record_n, arena_copy(a, t->record, t->record_n)};
    m->epoch = t->epoch;
    m->config = t->config;
    m->log_epoch = t->log_epoch;
    m->log_last = t->log_last;
    m->commit = t->commit;
    m->damaged = t->damaged;
    return m->record.data == NULL ? NULL : m;
}

static void tell_begin(struct tell *t, struct sd_group *g)
{
    const struct replica_core *c = &g->core;

    t->g = g;
    t->born = g->ready;
    if (!g->ready) return;
    t->epoch = c->epoch;
    t->config = MAX(c->config, c->cfg.config);
    t->log_last = c->log_last;
    t->commit = c->commit;
    t->damaged = c->damaged || g->dead;
}

enum rc persisted_tell(struct fcall *c, struct err *reterr)
{
    struct sd *sd = c->service;
    Mikura__Internal__V1__PersistedRequest *q;
    Mikura__Internal__V1__PersistedResponse r = MIKURA__INTERNAL__V1__PERSISTED_RESPONSE__INIT;
    struct tells *ts = arena_alloc(&c->arena, sizeof *ts);
    uint32_t skip = 0, at = 0;
    char *pools[2];
    enum rc rc =
        fcall_request(c, &mikura__internal__v1__persisted_request__descriptor, (void *)&q, reterr);

    if (rc != RC_OK) return rc;
    if (ts == NULL) return err_set(reterr, RC_NOMEM, "what is kept");
    if (q->after.len == sizeof skip) memcpy(&skip, q->after.data, sizeof skip);
    ts->sd = sd;
    LIST_FOREACH(it, &sd->groups) /* replicas are added at the end and never taken off the list */
    {
        struct sd_group *g = CONTAINER_OF(it, struct sd_group, link);

        if (at++ < skip || g->erased || g->retiring) continue;
        if (g->opening) return err_set(reterr, RC_UNAVAIL, "replicas are being opened; retry");
        if (ts->n == PAGE_GROUPS) {
            at--;
            r.next = (ProtobufCBinaryData){sizeof at, arena_copy(&c->arena, &at, sizeof at)};
            break;
        }
        tell_begin(&ts->t[ts->n++], g);
    }
    rc = fiber_work(tell_work, ts);
    if (rc != RC_OK) return err_set(reterr, rc, "what is kept");
    r.groups = arena_alloc(&c->arena, (ts->n + 1) * sizeof *r.groups);
    r.disks = arena_alloc(&c->arena, (sd->disks_n + 1) * sizeof *r.disks);
    if (r.groups == NULL || r.disks == NULL) return err_set(reterr, RC_NOMEM, "what is kept");
    for (uint32_t i = 0; i < ts->n; i++) {
        r.groups[i] = group_told(&c->arena, &ts->t[i]);
        if (r.groups[i] == NULL) return err_set(reterr, RC_NOMEM, "what is kept");
    }
    r.n_groups = ts->n;
    for (uint32_t i = 0; i < sd->disks_n; i++) {
        if (!sd->disks[i].out) r.disks[r.n_disks++] = (ProtobufCBinaryData){16, sd->disks[i].id.b};
    }
    for (uint32_t i = 0; i < ts->pools_n; i++)
        pools[i] = ts->pools[i];
    r.pools = pools;
    r.n_pools = ts->pools_n;
    if (!id128_is_zero(&sd->own)) r.cluster_id = (ProtobufCBinaryData){16, sd->own.b};
    return fcall_send(c, &r.base);
}
