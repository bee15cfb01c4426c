/* storaged/service/group_stray.c - what the log will never speak of again: bytes on this disk whose
 * ChunkAdd never came, and notes of chunks that were left out (group_chunk.c) once they are of no
 * use.
 *
 * The scrub tells of bytes that no state lists. When they are old (by places in the segment log:
 * written before the last but one mark, marks being stray_grace apart) they are dropped as
 * stray_core.h says, which has the argument why no ChunkAdd, however late, can rest on them. Bytes
 * of a group that has no replica on this disk (it was retired) go likewise; one that is born
 * meanwhile looks up what it needs, as all do.
 *
 * A note goes when the state here says itself that the chunk was decided: that is for ever, and the
 * deletion is a batch behind that state's in one WAL, so no crash keeps it without the state. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "storaged/service/service.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_MS  1000u /* for the group's log to be applied; else the next pass */
#define LOOK_MS  20u
#define SKIPS_MS 60000u
#define SKIPS    64u /* in one look */

/* Nothing of the group is on this disk: no promise, no log. */
static enum rc group_gone(struct index *ix, const struct index_group *g, bool *ret, struct err *err)
{
    uint8_t blob[REPLICA_DURABLE_BYTES];
    uint64_t first, last;
    size_t n;
    enum rc rc = index_persisted(ix, g, blob, sizeof blob, &n, err);

    if (rc == RC_NOTFOUND) rc = index_log_bounds(ix, g, &first, &last, err);
    *ret = rc == RC_NOTFOUND;
    return *ret ? RC_OK : rc;
}

/* ---- strays ---- */
struct stray {
    struct sd_disk *d;
    struct index_group group;
    struct index_chunk_id id;
    uint64_t hash;
    const struct seg_location *loc;
    bool no_replica, dropped;
    enum rc rc;
    struct err err;
};

static void drop_work(void *arg)
{
    struct stray *x = arg;
    struct index *ix = store_index(x->d->store);
    enum index_listing is;
    bool gone = true;

    x->rc = index_chunk_listing(ix, &x->group, x->hash, &x->id, &is, &x->err);
    if (x->rc == RC_OK && x->no_replica) x->rc = group_gone(ix, &x->group, &gone, &x->err);
    if (x->rc != RC_OK || is == INDEX_LISTED || !gone) return;
    x->rc = index_chunk_drop(ix, &x->id, x->loc, &x->err);
    x->dropped = x->rc == RC_OK;
}

static struct sd_group *replica_of(struct sd_disk *d, const struct placement_group *id)
{
    struct sd_group *g = group_find(d->sd, id, &d->id);

    return g == NULL || g->erased ? NULL : g;
}

static bool may(const struct sd_group *g)
{
    enum replica_role role;

    if (!g->ready || g->dead || g->retiring || g->snap != NULL || g->core.damaged) return false;
    role = replica_role(&g->core);
    return role == REPLICA_BACKUP || role == REPLICA_PRIMARY;
}

static enum stray_verdict wait_fence(struct sd_disk *d, const struct placement_group *id,
                                     const struct stray_id *what)
{
    struct sd_group *g = replica_of(d, id);
    uint64_t until = clock_boot_ms() + WAIT_MS;
    enum stray_verdict v = STRAY_AGAIN;

    if (g != NULL && !may(g)) return STRAY_OVER;
    stray_begin(&d->stray, what, g == NULL ? 0 : g->log_top);
    while (v == STRAY_AGAIN) {
        struct sd_group *now = replica_of(d, id);

        v = stray_look(&d->stray, g == NULL ? 0 : g->applied,
                       now == g && (g == NULL || may(g)) && !d->out && !d->sd->stopping &&
                           clock_boot_ms() < until);
        if (v == STRAY_AGAIN) fiber_sleep_ms(LOOK_MS);
    }
    return v;
}

void disk_stray(struct sd_disk *d, const struct record_header *h, const struct seg_location *loc)
{
    const struct placement_pool *p =
        d->sd->cluster == NULL ? NULL : cluster_pool(d->sd->cluster, h->pool);
    struct stray_id what = {h->body, h->seal_id, h->index};
    struct stray x = {
        .d = d, .id = {h->body, h->index, h->seal_id}, .hash = h->placement_hash, .loc = loc};
    struct placement_group id;
    char body[ID128_TEXT_BYTES];

    if (p == NULL || d->out || d->sd->stopping || d->stray.state != STRAY_IDLE) return;
    if (loc->segment_id > d->stray_old.segment_id ||
        (loc->segment_id == d->stray_old.segment_id && loc->offset >= d->stray_old.offset))
        return; /* young */
    id = placement_group_of(p, h->placement_hash);
    x.group =
        (struct index_group){.pool = id.pool, .bits = (uint8_t)id.prefix_bits, .prefix = id.prefix};
    if (wait_fence(d, &id, &what) != STRAY_DROP) return;
    x.no_replica = replica_of(d, &id) == NULL;
    x.rc = fiber_work(drop_work, &x) == RC_OK ? x.rc : RC_NOMEM;
    stray_end(&d->stray);
    fiber_cond_broadcast(&d->stray_cond);
    if (x.dropped) {
        sdm_add(SDM_STRAYS, 1);
        log_info("stray_dropped", "dir=%s body=%s index=%u bytes=%u", d->dir,
                 id128_text(&h->body, body), h->index, loc->plain_bytes);
    } else if (x.rc != RC_OK && x.rc != RC_NOMEM && x.rc != RC_FULL) {
        log_warn("stray_stays", "dir=%s rc=%s why=%s", d->dir, rc_name(x.rc), x.err.msg);
    }
}

/* ---- notes of what was left out ---- */
struct skips {
    struct sd_disk *d;
    char names[SKIPS][CHUNK_SKIP_NAME_BYTES];
    uint32_t n;
    enum rc rc;
    struct err err;
};

static enum rc skip_look(void *ctx, const char *name, struct slice value)
{
    struct skips *s = ctx;
    struct index *ix = store_index(s->d->store);
    struct index_chunk_id id;
    struct index_group g;
    enum index_listing is;
    uint64_t hash;
    bool gone = false;
    enum rc rc;

    if (!chunk_skip_decode(value, &g, &hash, &id) || strlen(name) >= sizeof s->names[0])
        return RC_OK; /* of an older program: it stays */
    rc = index_chunk_listing(ix, &g, hash, &id, &is, &s->err);
    if (rc == RC_OK && is != INDEX_DECIDED) rc = group_gone(ix, &g, &gone, &s->err);
    if (rc != RC_OK || (is != INDEX_DECIDED && !gone)) return rc;
    (void)snprintf(s->names[s->n++], sizeof s->names[0], "%s", name);
    return s->n == SKIPS ? RC_RANGE : RC_OK;
}

static void skips_work(void *arg)
{
    struct skips *s = arg;
    struct index *ix = store_index(s->d->store);

    s->rc = index_notes_each(ix, CHUNK_SKIP_PREFIX, skip_look, s, &s->err);
    for (uint32_t i = 0; i < s->n && s->rc == RC_OK; i++)
        s->rc = index_note_drop(ix, s->names[i], &s->err);
}

static void skips_look(struct sd_disk *d)
{
    struct skips *s = calloc(1, sizeof *s);
    enum rc rc;

    if (s == NULL) return;
    s->d = d;
    rc = fiber_work(skips_work, s);
    if (rc == RC_OK) rc = s->rc;
    if (rc != RC_OK && rc != RC_FULL)
        log_warn("skip_notes", "dir=%s rc=%s why=%s", d->dir, rc_name(rc), s->err.msg);
    if (rc == RC_OK && s->n > 0) log_info("skip_notes_dropped", "dir=%s n=%u", d->dir, s->n);
    free(s);
}

void disk_leftovers(struct sd_disk *d)
{
    uint64_t now = clock_boot_ms();

    if (now >= d->stray_ms + d->sd->conf.stray_grace_ms) {
        d->stray_old = d->stray_new;
        d->stray_new = store_rows_upto(d->store);
        d->stray_ms = now;
    }
    if (now < d->skips_ms) return;
    d->skips_ms = now + SKIPS_MS;
    skips_look(d);
}
