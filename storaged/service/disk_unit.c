/* storaged/service/disk_unit.c - the node's disks: opened before anything is served, out at their
 * first failed write, payload memory lent from their arenas. */
#include "common/base/bigmem.h"
#include "common/base/log.h"
#include "storaged/service/service.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAITERS_MAX 256u /* requests that wait for payload memory, a share */

static enum rc engine_of(const char *text, enum disk_engine *ret, struct err *reterr)
{
    if (strcmp(text, "auto") == 0) {
        *ret = DISK_AUTO;
    } else if (strcmp(text, "io_uring") == 0) {
        *ret = DISK_URING;
    } else if (strcmp(text, "pread") == 0) {
        *ret = DISK_PREAD;
    } else {
        return err_set(reterr, RC_INVAL, "--engine: '%s'; auto, io_uring or pread", text);
    }
    return RC_OK;
}

/* Only said again when no other disk opens either: then it is why the node does not start. */
static void dark_add(struct sd *sd, const struct sd_disk *d, const struct err *e)
{
    struct sd_dark *k = &sd->dark[sd->dark_n++];

    memcpy(k->dir, d->dir, sizeof k->dir);
    k->no = d->no;
    k->err = *e;
    sdm_add(SDM_DISKS_OUT, 1);
    log_error("disk_dark", "dir=%s rc=%s why=\"%s\"", k->dir, rc_name(e->rc), e->msg);
}

static enum rc disk_open_one(struct sd *sd, const char *dir, size_t dir_n, enum disk_engine engine,
                             struct err *reterr)
{
    struct sd_disk *d = &sd->disks[sd->disks_n];
    struct store_conf conf = {.loop = sd->loop,
                              .dir = d->dir,
                              .engine = engine,
                              .arena_bytes = sd->conf.chunk_bytes,
                              .cache_bytes = sd->conf.index_bytes,
                              .segment_bytes = sd->conf.segment_bytes,
                              .reserve_bytes = sd->conf.reserve_bytes,
                              .limit_bytes = sd->conf.limit_bytes};
    struct store_status st;
    char id[ID128_TEXT_BYTES];
    enum rc rc;

    if (dir_n == 0 || dir_n >= sizeof d->dir)
        return err_set(reterr, RC_INVAL, "--disks: an empty or too long path");
    *d = (struct sd_disk){.sd = sd, .no = sd->disks_n + sd->dark_n};
    memcpy(d->dir, dir, dir_n);
    rc = store_open(&conf, &d->store, reterr);
    if (rc == RC_BUSY || rc == RC_INVAL || rc == RC_NOMEM)
        return err_prefix(reterr, "disk %s", d->dir);
    if (rc != RC_OK) {
        dark_add(sd, d, reterr);
        return RC_OK;
    }
    d->id = store_disk_id(d->store);
    fiber_sem_init(&d->pulls, SD_PULLS_MAX);
    fiber_cond_init(&d->stray_cond);
    fiber_sem_init(&d->rebuild_turn, 1);
    fiber_sem_init(&d->rebuild_room, SD_REBUILD_ROOM);
    sd->disks_n++;
    for (uint32_t i = 0; i + 1 < sd->disks_n; i++) {
        if (id128_eq(&sd->disks[i].id, &d->id))
            return err_set(reterr, RC_INVAL, "disks %s and %s have the same disk.id: one is a copy",
                           sd->disks[i].dir, d->dir);
    }
    store_status(d->store, &st);
    d->damaged = st.damaged;
    if (st.log.heads_mended_n > 0)
        log_warn("segment_heads_mended",
                 "dir=%s n=%" PRIu64 " hint=\"this disk loses what it holds\"", d->dir,
                 st.log.heads_mended_n);
    log_info("disk_open", "dir=%s id=%s engine=%s reason=\"%s\" replayed=%llu damaged=%d", d->dir,
             id128_text(&d->id, id), st.engine, st.engine_reason, (unsigned long long)st.replayed_n,
             d->damaged);
    return RC_OK;
}

enum rc disks_open(struct sd *sd, struct err *reterr)
{
    const char *at = sd->conf.disks;
    enum disk_engine engine;
    enum rc rc = engine_of(sd->conf.engine, &engine, reterr);

    while (rc == RC_OK && *at != 0) {
        size_t n = strcspn(at, ",");

        if (sd->disks_n + sd->dark_n == SD_DISKS_MAX)
            return err_set(reterr, RC_INVAL, "--disks: at most %u", SD_DISKS_MAX);
        rc = disk_open_one(sd, at, n, engine, reterr);
        at += n;
        if (*at == ',') at++;
    }
    if (rc == RC_OK && sd->disks_n == 0 && sd->dark_n > 0) {
        *reterr = sd->dark[0].err;
        return err_prefix(reterr, "disk %s", sd->dark[0].dir);
    }
    if (rc == RC_OK && sd->disks_n == 0) rc = err_set(reterr, RC_INVAL, "--disks names no folder");
    return rc;
}

void disk_out(struct sd_disk *d, enum rc rc, const struct err *e)
{
    if (d->out) return;
    d->out = true;
    sdm_add(SDM_DISKS_OUT, 1);
    disk_upkeep_stop(d);
    log_error("disk_out", "dir=%s rc=%s why=%s", d->dir, rc_name(rc), e == NULL ? "" : e->msg);
    LIST_FOREACH(it, &d->sd->groups)
    {
        struct sd_group *g = CONTAINER_OF(it, struct sd_group, link);

        if (g->disk == d) group_leave(g);
    }
    sd_publish(d->sd);
}

/* ---- faults on purpose ---- */
/* The file is taken away when it was read: each fault happens once. */
void disks_faults(struct sd *sd)
{
    FILE *f = sd->conf.faults[0] == 0 ? NULL : fopen(sd->conf.faults, "re");
    char what[8];
    uint64_t n;
    unsigned i;

    if (f == NULL) return;
    while (fscanf(f, "%u %7s %" SCNu64, &i, what, &n) == 3) {
        for (uint32_t k = 0; k < sd->disks_n; k++) {
            const struct sd_disk *d = &sd->disks[k];

            if (d->no != i || d->closed) continue;
            log_warn("fault_injected", "dir=%s what=%s n=%" PRIu64, d->dir, what, n);
            if (strcmp(what, "eio") == 0) disk_inject_write(store_disk(d->store), n, EIO);
            if (strcmp(what, "slow") == 0) disk_inject_slow(store_disk(d->store), n);
        }
    }
    (void)fclose(f); /* only read */
    (void)remove(sd->conf.faults);
}

/* ---- payload memory ---- */
struct payload {
    struct bulk_buf buf;
    struct sd_disk *d;
    uint32_t share;
    uint64_t taken;
    bool heap;
};

static void payload_release(struct bulk_buf *b)
{
    struct payload *p = CONTAINER_OF(b, struct payload, buf);
    struct sd *sd = p->d->sd;

    if (p->heap) {
        bigmem_free(b->p, p->taken);
    } else {
        store_buf_free(p->d->store, b->p);
    }
    chunk_pool_give(&sd->pool, p->share, p->taken);
    free(p);
    sd_work_end(sd);
}

enum rc disk_payload(struct sd_disk *d, uint32_t share, uint32_t bytes, uint64_t timeout_ms,
                     struct bulk_buf **ret_buf)
{
    struct payload *p = calloc(1, sizeof *p);
    uint32_t cap = ROUND_UP(MAX(bytes, 1u), 4096u);
    enum rc rc;

    if (p == NULL) return RC_NOMEM;
    rc = chunk_pool_take(&d->sd->pool, share, cap, WAITERS_MAX, MIN(timeout_ms, 60000));
    if (rc != RC_OK) {
        free(p);
        return rc;
    }
    p->buf = (struct bulk_buf){.cap = cap, .refs = 1, .release = payload_release};
    p->d = d;
    p->share = share;
    p->taken = cap;
    p->buf.p = d->closed ? NULL : store_buf_alloc(d->store, cap);
    if (p->buf.p == NULL) { /* the arena is full or in pieces; the share bounds this all the same */
        p->buf.p = cap < BIGMEM_MIN_BYTES ? aligned_alloc(4096, cap) : bigmem_alloc(cap);
        p->heap = true;
    }
    if (p->buf.p == NULL) {
        chunk_pool_give(&d->sd->pool, share, cap);
        free(p);
        return RC_NOMEM;
    }
    d->sd->work_n++;
    *ret_buf = &p->buf;
    return RC_OK;
}

struct look {
    struct index *ix;
    enum rc (*fn)(void *arg, struct index *ix);
    void *arg;
    enum rc rc;
};

static void look_work(void *arg)
{
    struct look *l = arg;

    l->rc = l->fn(l->arg, l->ix);
}

enum rc disk_look(struct sd_disk *d, enum rc (*fn)(void *arg, struct index *ix), void *arg)
{
    struct look l = {.ix = store_index(d->store), .fn = fn, .arg = arg};
    enum rc rc = fn(arg, index_cached(l.ix));

    if (rc != RC_BUSY) return rc;
    sdm_add(SDM_LOOKS_DISK, 1);
    rc = fiber_work(look_work, &l);
    return rc == RC_OK ? l.rc : rc;
}
