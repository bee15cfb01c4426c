/* gateway/api/collect.c - gives back what uploads left behind: sessions that expired, chunks of a
 * put whose gateway died, and what was in quarantine for too long (quarantine.c).
 *
 * Everything goes through the groups' logs. A session is aborted by the entry that the tick of its
 * own group allows; its TOMB row has the sweep drop its chunks. A chunk without a session is looked
 * at when it is older than the grace, counted in ticks of its group: first a new version of an
 * ABORTED claim is put for its upload, so that whoever still works on it completes nothing; then,
 * if no record of its owner refers to its body, it is dropped, which leaves a tombstone. Each chunk
 * is looked at once: the data group remembers up to which entry of its log it was done.
 *
 * In the gateway that is the manager; two at once do no harm. */
#include "common/base/clock.h"
#include "common/base/le.h"
#include "common/base/log.h"
#include "gateway/api/listing.h"
#include "gateway/api/objects.h"
#include "gateway/api/upload.h"
#include "gateway/manager/manager.h"

#define PAGE_ROWS           256u
#define EXPIRE_PAUSE_MAX_MS (24u * 3600u * 1000u)

/* ---- sessions ---- */
struct open_session {
    struct list link;
    struct record_anchor anchor;
    struct id128 id;
    char name[2 * 16 + 1];
};
struct sessions {
    struct arena a;
    struct list all;
    uint32_t n;
    char last[2 * 16 + 1];
};

static enum rc keep_session(void *arg, struct slice name, const struct record_list *row)
{
    struct sessions *s = arg;
    struct open_session *o = arena_alloc(&s->a, sizeof *o);

    if (o == NULL) return RC_NOMEM;
    if (name.n != sizeof o->name - 1) return RC_CORRUPT;
    memcpy(o->name, name.p, name.n);
    if (!id128_parse(o->name, &o->id)) return RC_CORRUPT;
    o->anchor = row->anchor;
    memcpy(s->last, o->name, sizeof s->last);
    list_push_back(&s->all, &o->link);
    return ++s->n == PAGE_ROWS ? RC_RANGE : RC_OK;
}

/* ABORT needs the rows of its group alone. */
static enum rc run_abort(struct gw *gw, struct upload_core *c, struct upload_action *act,
                         struct route_at at, struct arena *a, struct err *reterr)
{
    while (act->type != UPLOAD_ACT_ANSWER) {
        struct upload_event ev = {.type = UPLOAD_EV_GOT};
        struct upload_item items[UPLOAD_KEYS_MAX];

        if (act->type == UPLOAD_ACT_GET) {
            Mikura__Internal__V1__GetResponse *got;

            ev.rc = route_get(gw->route, at, act->keys, act->keys_n, GW_CALL_MS, a, &got, reterr);
            if (ev.rc != RC_OK) return ev.rc;
            for (uint32_t i = 0; i < act->keys_n; i++)
                items[i] =
                    (struct upload_item){gw_bytes(got->items[i]->value), got->items[i]->version};
            ev.items = items;
            ev.tick = got->tick;
        } else {
            struct gw_compare compares[UPLOAD_COMPARES_MAX];
            struct gw_put puts[UPLOAD_PUTS_MAX];

            CHECK(act->type == UPLOAD_ACT_TXN);
            upload_txn_of(act, compares, puts);
            ev.type = UPLOAD_EV_TXN;
            ev.rc = gw_txn(gw, at, compares, act->compares_n, puts, act->puts_n, NULL, 0, a,
                           GW_CALL_MS, &ev.succeeded, &ev.index, &ev.tick, reterr);
            if (ev.rc != RC_OK) return ev.rc; /* the next pass finds what became of it */
        }
        upload_step(c, &ev, act);
    }
    return RC_OK;
}

/* Aborts it if its time is over; takes it off the list when there is nothing more to wait for. */
static enum rc session_look(struct gw *gw, const struct open_session *o, struct arena *a,
                            bool *ret_aborted, struct err *reterr)
{
    struct route_at at = gw_at(gw, 0, &o->anchor);
    struct upload_request req = {.op = UPLOAD_ABORT,
                                 .anchor = o->anchor,
                                 .id = o->id,
                                 .expire = true,
                                 .now_unix_ms = (int64_t)clock_wall_ms()};
    struct upload_core *c = arena_alloc(a, sizeof *c);
    uint8_t *mem = arena_raw(a, UPLOAD_MEM_BYTES), *key = arena_raw(a, RECORD_KEY_BYTES_MAX);
    struct upload_action act;
    struct slice k;
    bool done;
    enum rc rc;

    if (c == NULL || mem == NULL || key == NULL) return err_set(reterr, RC_NOMEM, "a session");
    upload_start(c, &req, mem, UPLOAD_MEM_BYTES, &act);
    rc = run_abort(gw, c, &act, at, a, reterr);
    if (rc != RC_OK) return rc;
    if (act.rc == RC_PRECOND && c->session.state == RECORD_SESSION_OPEN) return RC_OK;
    if (act.rc != RC_OK && act.rc != RC_PRECOND) return err_set(reterr, act.rc, "%s", act.msg);
    *ret_aborted = act.rc == RC_OK && !act.was_there;
    k = (struct slice){key,
                       record_list_key(&record_scope_sessions, gw_text(o->name), at.hash, key)};
    return gw_txn(gw, at, NULL, 0, NULL, 0, &k, 1, a, GW_CALL_MS, &done, NULL, NULL, reterr);
}

static enum rc sessions_pass(struct gw *gw, uint32_t *ret_aborted, struct err *reterr)
{
    struct sessions s = {.last = ""};
    enum rc rc;

    do {
        char after[sizeof s.last];

        memcpy(after, s.last, sizeof after);
        arena_init(&s.a);
        list_init(&s.all);
        s.n = 0;
        rc = gw_list_names(gw, gw->meta_pool, &record_scope_sessions, "", after, &s.a, GW_CALL_MS,
                           keep_session, &s, reterr);
        LIST_FOREACH(it, &s.all)
        {
            bool aborted = false;
            struct arena a;

            if (rc != RC_OK || gw->closing) break;
            arena_init(&a);
            rc =
                session_look(gw, CONTAINER_OF(it, struct open_session, link), &a, &aborted, reterr);
            arena_deinit(&a);
            *ret_aborted += aborted;
        }
        arena_deinit(&s.a);
    } while (rc == RC_OK && s.n == PAGE_ROWS && !gw->closing);
    return rc;
}

/* ---- chunks of one-shot uploads ---- */
struct owner_look {
    const struct id128 *body;
    bool found;
    struct arena *a;
};

static void body_in(struct owner_look *o, const struct record_manifest *m)
{
    for (uint32_t i = 0; i < m->bodies_n; i++)
        o->found |= id128_eq(&m->bodies[i].id, o->body);
}

/* Any record that refers to the body: a manifest, or a model's. */
static enum rc owner_row(void *arg, const Mikura__Internal__V1__Item *item)
{
    struct owner_look *o = arg;
    struct slice value = gw_bytes(item->value);
    struct record_manifest *m;
    struct err err;

    if (item->key.len < 2 + RECORD_ANCHOR_BYTES) return RC_OK;
    if (item->key.data[1 + RECORD_ANCHOR_BYTES] != RECORD_MANIFEST &&
        item->key.data[1 + RECORD_ANCHOR_BYTES] != RECORD_MODEL)
        return RC_OK;
    m = arena_alloc(o->a, sizeof *m);
    if (m == NULL) return RC_NOMEM;
    if (item->key.data[1 + RECORD_ANCHOR_BYTES] == RECORD_MODEL) {
        struct record_model *model = arena_alloc(o->a, sizeof *model);
        enum rc rc;

        if (model == NULL) return RC_NOMEM;
        rc = record_model_decode(value, model, &err);
        if (rc != RC_OK) return rc; /* in doubt nothing is dropped */
        value = model->manifest;
    }
    if (record_manifest_decode(value, m, &err) != RC_OK) return RC_CORRUPT;
    body_in(o, m);
    return o->found ? RC_RANGE : RC_OK;
}

static enum rc referred(struct gw *gw, struct route_at at, const struct id128 *body,
                        struct arena *a, bool *ret, struct err *reterr)
{
    struct owner_look o = {body, false, a};
    uint8_t from[9] = {'r'}, until[9];
    size_t n;
    enum rc rc;

    be_put64(from + 1, at.hash);
    memcpy(until, from, sizeof until);
    n = record_key_after(until, sizeof until);
    rc = route_scan(gw->route, at, (struct slice){from, sizeof from}, (struct slice){until, n}, 0,
                    GW_CALL_MS, owner_row, &o, reterr);
    *ret = o.found;
    return rc;
}

/* The session of an upload in parts: its anchor is known from the owner's first row. */
static enum rc has_session(struct gw *gw, struct route_at at, const struct id128 *upload,
                           struct arena *a, bool *ret, struct err *reterr)
{
    uint8_t prefix[9] = {'r'}, *key = arena_raw(a, RECORD_KEY_BYTES_MAX);
    struct slice p = {prefix, sizeof prefix}, k;
    Mikura__Internal__V1__GetResponse *got;
    struct record_anchor anchor;
    enum rc rc;

    *ret = false;
    if (key == NULL) return err_set(reterr, RC_NOMEM, "a chunk's owner");
    be_put64(prefix + 1, at.hash);
    rc = route_get_first(gw->route, at, NULL, 0, &p, 1, GW_CALL_MS, a, &got, reterr);
    if (rc != RC_OK || got->items[0]->version == 0) return rc;
    if (got->items[0]->key.len < 1 + RECORD_ANCHOR_BYTES)
        return err_set(reterr, RC_CORRUPT, "a row's key");
    memcpy(anchor.b, got->items[0]->key.data + 1, sizeof anchor.b);
    k = (struct slice){key, record_key_id(&anchor, RECORD_SESSION, upload, key)};
    rc = route_get(gw->route, at, &k, 1, GW_CALL_MS, a, &got, reterr);
    *ret = rc == RC_OK && got->items[0]->version != 0;
    return rc;
}

/* No put of this upload that began before now completes anything. *ret_whole: one has completed
 * with this body. */
static enum rc fence(struct gw *gw, struct route_at at, const struct id128 *upload,
                     const struct id128 *body, struct arena *a, bool *ret_whole, struct err *reterr)
{
    uint8_t *key = arena_raw(a, RECORD_KEY_BYTES_MAX);
    struct record_session *s = arena_alloc(a, sizeof *s);
    struct gw_put put;
    struct gw_compare same = {.kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_VERSION};
    Mikura__Internal__V1__GetResponse *got;
    bool done = false;
    enum rc rc = RC_OK;

    *ret_whole = false;
    if (key == NULL || s == NULL) return err_set(reterr, RC_NOMEM, "a claim");
    put.key = same.key = (struct slice){key, record_key_claim(at.hash, upload, key)};
    for (uint32_t tries = 0; tries < 8 && rc == RC_OK && !done; tries++) {
        memset(s, 0, sizeof *s);
        rc = route_get(gw->route, at, &put.key, 1, GW_CALL_MS, a, &got, reterr);
        if (rc != RC_OK) break;
        same.number = got->items[0]->version;
        if (same.number != 0) {
            rc = record_session_decode(gw_bytes(got->items[0]->value), s, reterr);
            if (rc != RC_OK) break;
            *ret_whole = s->state == RECORD_SESSION_COMPLETED && id128_eq(&s->body, body);
            if (s->state == RECORD_SESSION_COMPLETED) return RC_OK;
        }
        s->state = RECORD_SESSION_ABORTED;
        s->expired = 1;
        rc = GW_ENCODE(a, session, s, &put.value, reterr);
        if (rc == RC_OK)
            rc = gw_txn(gw, at, &same, 1, &put, 1, NULL, 0, a, GW_CALL_MS, &done, NULL, NULL,
                        reterr);
    }
    if (rc == RC_OK && !done) rc = err_set(reterr, RC_ABORTED, "a claim keeps changing");
    return rc;
}

struct last_upload { /* consecutive chunks are mostly of one upload */
    uint64_t owner;
    struct id128 upload, body;
    bool keep, valid;
};

static enum rc chunk_look(struct gw *gw, uint32_t pool, const Mikura__Internal__V1__ChunkRow *row,
                          struct last_upload *last, uint32_t *ret_dropped, struct err *reterr)
{
    struct route_at at = {gw->meta_pool, row->owner_hash};
    struct route_at chunk_at = {pool, row->placement_hash};
    struct last_upload now = {.owner = row->owner_hash, .valid = true};
    struct arena a;
    enum rc rc = RC_OK;

    if (!id128_from_bytes(row->upload_id.data, row->upload_id.len, &now.upload) ||
        !id128_from_bytes(row->body.data, row->body.len, &now.body))
        return err_set(reterr, RC_CORRUPT, "a chunk's row");
    arena_init(&a);
    if (!last->valid || last->owner != now.owner || !id128_eq(&last->upload, &now.upload) ||
        !id128_eq(&last->body, &now.body)) {
        rc = has_session(gw, at, &now.upload, &a, &now.keep, reterr);
        if (rc == RC_OK && !now.keep)
            rc = fence(gw, at, &now.upload, &now.body, &a, &now.keep, reterr);
        /* one that completed may have had a try before it, with a body of its own */
        if (rc == RC_OK && !now.keep) rc = referred(gw, at, &now.body, &a, &now.keep, reterr);
        *last = now;
        last->valid = rc == RC_OK;
    }
    if (rc == RC_OK && !last->keep) {
        rc = route_chunk_drop(gw->route, chunk_at, &now.body, row->index, GW_CALL_MS, reterr);
        *ret_dropped += rc == RC_OK;
    }
    arena_deinit(&a);
    return rc;
}

static enum rc rows_look(struct gw *gw, struct route_at at, const struct record_collect *upto,
                         uint32_t *ret_dropped, struct err *reterr)
{
    struct last_upload last = {0};
    struct slice after = {0};
    struct arena a, old;
    bool done = false;
    enum rc rc = RC_OK;

    arena_init(&old);
    while (rc == RC_OK && !done && !gw->closing) {
        Mikura__Internal__V1__ChunkListResponse *got;

        arena_init(&a);
        rc = route_chunk_list(gw->route, at, after, upto->done, upto->seen, PAGE_ROWS, GW_CALL_MS,
                              &a, &got, reterr);
        for (size_t i = 0; rc == RC_OK && i < got->n_rows && !gw->closing; i++)
            rc = chunk_look(gw, at.pool, got->rows[i], &last, ret_dropped, reterr);
        if (rc == RC_OK) {
            done = got->done;
            after = gw_bytes(got->next);
        }
        arena_deinit(&old); /* `after` lies in the newest one */
        old = a;
    }
    arena_deinit(&old);
    return rc == RC_OK && gw->closing ? RC_CANCELED : rc;
}

static enum rc group_look(struct gw *gw, struct route_at at, struct arena *a, uint32_t *ret_dropped,
                          struct err *reterr)
{
    const uint8_t key = 'g';
    struct gw_put put = {.key = {&key, 1}};
    struct gw_compare same = {.kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_VERSION,
                              .key = put.key};
    struct record_collect c = {0};
    Mikura__Internal__V1__GetResponse *got;
    uint64_t tick, applied;
    bool done;
    enum rc rc = route_get(gw->route, at, &put.key, 1, GW_CALL_MS, a, &got, reterr);

    if (rc != RC_OK) return rc;
    same.number = got->items[0]->version;
    tick = got->tick;
    applied = got->applied_index;
    if (same.number != 0) {
        rc = record_collect_decode(gw_bytes(got->items[0]->value), &c, reterr);
        if (rc != RC_OK) return rc;
        if (tick < c.seen_tick + gw->collect_grace) return RC_OK;
        rc = rows_look(gw, at, &c, ret_dropped, reterr);
        if (rc != RC_OK) return rc;
        c.done = c.seen;
    }
    c.seen = applied;
    c.seen_tick = tick;
    rc = GW_ENCODE(a, collect, &c, &put.value, reterr);
    return rc != RC_OK ? rc
                       : gw_txn(gw, at, &same, 1, &put, 1, NULL, 0, a, GW_CALL_MS, &done, NULL,
                                NULL, reterr);
}

static enum rc pool_pass(struct gw *gw, uint32_t pool, uint32_t *ret_dropped, struct err *reterr)
{
    const struct placement_pool *p = cluster_pool(gw->cluster, pool);
    uint32_t bits = p == NULL ? 0 : p->prefix_bits;
    enum rc rc = RC_OK;

    if (p == NULL) return RC_OK;
    for (uint64_t i = 0; i < 1ull << bits && !gw->closing; i++) {
        struct route_at at = {pool, bits == 0 ? 0 : i << (64 - bits)};
        struct err err = {0};
        struct arena a;
        enum rc one;

        arena_init(&a);
        one = group_look(gw, at, &a, ret_dropped, &err);
        arena_deinit(&a);
        if (one == RC_OK || rc != RC_OK) continue; /* one group that is away stops no other */
        rc = one;
        *reterr = err;
    }
    return rc;
}

/* Chunks lie in both pools: that of a small case with the case (objects_write.c). */
static enum rc chunks_pass(struct gw *gw, uint32_t *ret_dropped, struct err *reterr)
{
    struct err err = {0};
    enum rc rc = pool_pass(gw, gw->data_pool, ret_dropped, reterr);
    enum rc meta_rc =
        gw->meta_pool == gw->data_pool ? RC_OK : pool_pass(gw, gw->meta_pool, ret_dropped, &err);

    if (rc != RC_OK || meta_rc == RC_OK) return rc;
    *reterr = err;
    return meta_rc;
}

/* A look at every case of the collections with a profile: not often. */
static enum rc expire_pass(struct gw *gw, uint64_t *io_next_ms, struct err *reterr)
{
    uint64_t pause_ms = MAX(gw->collect_ms, MIN(gw->quarantine_ms / 8, EXPIRE_PAUSE_MAX_MS));

    if (gw->quarantine_ms == 0 || clock_boot_ms() < *io_next_ms) return RC_OK;
    *io_next_ms = clock_boot_ms() + pause_ms;
    return objects_expire_quarantine(gw, reterr);
}

void gw_collect_run(void *arg)
{
    struct gw *gw = arg;
    uint64_t expire_ms = 0;

    while (!gw->closing) {
        uint32_t aborted = 0, dropped = 0;
        struct err err = {0};
        enum rc rc = RC_OK;

        (void)!fiber_event_wait_ms(&gw->collect, gw->collect_ms); /* either way: look */
        if (gw->closing || !manager_leads(gw->manager)) continue;
        rc = sessions_pass(gw, &aborted, &err);
        if (aborted > 0) gw_sweep_wake(gw);
        if (rc == RC_OK) rc = chunks_pass(gw, &dropped, &err);
        if (rc == RC_OK) rc = expire_pass(gw, &expire_ms, &err);
        if (rc != RC_OK)
            log_warn("collect_failed", "rc=%s why=%s: goes on in %llu s", rc_name(rc), err.msg,
                     (unsigned long long)gw->collect_ms / 1000);
        if (aborted > 0 || dropped > 0)
            log_info("collected", "sessions=%u chunks=%u", aborted, dropped);
    }
}
