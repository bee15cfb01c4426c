/* gateway/api/objects_delete.c - Delete, and the sweep that drops the chunks of what is gone.
 *
 * One entry removes an object's rows (with them the wrapped body keys), writes a TOMB row a body
 * and advances the case's generation. The sweep then leaves a tombstone for each chunk in its own
 * group and, when all have confirmed, removes the TOMB row: bytes are dropped only on this positive
 * word. A body that several objects share (PACK row) goes with the last of them: until then the
 * others' manifests keep its key. A list row in the scope "tombs" makes what is left findable after
 * a gateway dies. Aborted uploads leave a TOMB row too. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "gateway/api/listing.h"
#include "gateway/api/object.h"
#include "gateway/api/objects.h"
#include "gateway/ingest/name.h"
#include "gateway/ingest/upload_core.h"

#define VERSIONS_MAX 128u
#define PACKS_MAX    100u /* of one entry, which has at most 128 conditions */
#define DROP_N       64u  /* staged versions dropped by one entry */
#define SWEEP_MS     600000u

struct version {
    uint64_t version, row_version;
    struct slice key, value;
};
struct versions {
    struct arena *a;
    struct version v[VERSIONS_MAX];
    uint32_t n;
    uint64_t only; /* 0 = all */
};

static enum rc keep_version(void *arg, const Mikura__Internal__V1__Item *item)
{
    struct versions *vs = arg;
    struct version *v = &vs->v[vs->n];
    struct slice path;
    enum rc rc = record_key_parse_object(gw_bytes(item->key), &path, &v->version);

    if (rc != RC_OK) return rc;
    if (vs->only != 0 && v->version != vs->only) return RC_OK;
    v->row_version = item->version;
    v->key = (struct slice){arena_copy(vs->a, item->key.data, item->key.len), item->key.len};
    v->value =
        (struct slice){arena_copy(vs->a, item->value.data, item->value.len), item->value.len};
    if (v->key.p == NULL || v->value.p == NULL) return RC_NOMEM;
    return ++vs->n == VERSIONS_MAX ? RC_RANGE : RC_OK;
}

/* What a deletion works with: a call's, or the gateway's own. */
struct doing {
    struct gw *gw;
    struct arena *a;
    uint64_t left_ms;
};
struct leaving { /* a PACK row that changes */
    struct id128 body;
    struct slice key;
    struct record_pack rec;
};
struct deleting {
    struct gw_compare compares[2 + PACKS_MAX]; /* the head first */
    struct gw_put puts[2 + 2 * VERSIONS_MAX + PACKS_MAX];
    struct slice deletes[2 * VERSIONS_MAX + PACKS_MAX];
    struct leaving *packs[PACKS_MAX];
    uint32_t compares_n, puts_n, deletes_n, packs_n;
};

/* TOMB row and list row of a body; t has pool and chunks. */
static enum rc tomb_puts(struct arena *a, const struct gw_case *cs, const struct id128 *body,
                         struct record_tomb *t, struct gw_put puts[2], struct err *reterr)
{
    uint8_t *keys = arena_raw(a, 2 * RECORD_KEY_BYTES_MAX);
    struct record_list row = {.anchor = cs->anchor};
    enum rc rc;

    if (keys == NULL) return err_set(reterr, RC_NOMEM, "a tombstone");
    t->upload = *body;
    t->owner_hash = cs->at.hash;
    t->since_unix_ms = row.created_unix_ms = (int64_t)clock_wall_ms();
    puts[0].key = (struct slice){keys, record_key_id(&cs->anchor, RECORD_TOMB, body, keys)};
    keys += RECORD_KEY_BYTES_MAX;
    puts[1].key = (struct slice){keys, record_tomb_list_key(&cs->anchor, body, keys)};
    rc = GW_ENCODE(a, tomb, t, &puts[0].value, reterr);
    return rc == RC_OK ? GW_ENCODE(a, list, &row, &puts[1].value, reterr) : rc;
}

/* The body's PACK row, read once an entry; *ret NULL: nobody shares it. */
static enum rc pack_of(const struct doing *w, const struct gw_case *cs, const struct id128 *body,
                       struct deleting *d, struct leaving **ret, struct err *reterr)
{
    struct arena *a = w->a;
    uint8_t *key = arena_raw(a, RECORD_KEY_BYTES_MAX);
    struct leaving *l = arena_alloc(a, sizeof *l);
    Mikura__Internal__V1__GetResponse *got;
    enum rc rc;

    *ret = NULL;
    for (uint32_t i = 0; i < d->packs_n; i++) {
        if (id128_eq(&d->packs[i]->body, body)) *ret = d->packs[i];
    }
    if (*ret != NULL) return RC_OK;
    if (key == NULL || l == NULL) return err_set(reterr, RC_NOMEM, "a deletion");
    l->key = (struct slice){key, record_key_id(&cs->anchor, RECORD_PACK, body, key)};
    rc = route_get(w->gw->route, cs->at, &l->key, 1, w->left_ms, a, &got, reterr);
    if (rc != RC_OK || got->items[0]->version == 0) return rc;
    rc = record_pack_decode(gw_bytes(got->items[0]->value), &l->rec, reterr);
    if (rc != RC_OK) return rc;
    if (d->packs_n == PACKS_MAX) return err_set(reterr, RC_BUSY, "too many packs in a deletion");
    l->body = *body;
    d->compares[d->compares_n++] = (struct gw_compare){
        MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_VERSION, l->key, got->items[0]->version};
    *ret = d->packs[d->packs_n++] = l;
    return RC_OK;
}

static void pack_leave(struct record_pack *p, struct slice path, uint64_t version)
{
    for (uint32_t i = 0; i < p->objects_n; i++) {
        const struct record_pack_object *o = &p->objects[i];

        if (o->version != version || o->path.n != path.n || memcmp(o->path.p, path.p, path.n) != 0)
            continue;
        p->objects_n--;
        memmove(p->objects + i, p->objects + i + 1, (p->objects_n - i) * sizeof *o);
        return;
    }
}

/* What is left of the packs. */
static enum rc packs_put(struct arena *a, struct deleting *d, struct err *reterr)
{
    enum rc rc = RC_OK;

    for (uint32_t i = 0; rc == RC_OK && i < d->packs_n; i++) {
        struct leaving *l = d->packs[i];

        if (l->rec.objects_n == 0) {
            d->deletes[d->deletes_n++] = l->key;
        } else {
            d->puts[d->puts_n].key = l->key;
            rc = GW_ENCODE(a, pack, &l->rec, &d->puts[d->puts_n++].value, reterr);
        }
    }
    return rc;
}

/* TOMB row and list row of the body of one manifest, if it has one that nobody shares any more. */
static enum rc add_tombs(const struct doing *w, const struct gw_case *cs, struct slice path,
                         uint64_t version, struct deleting *d, struct err *reterr)
{
    struct arena *a = w->a;
    uint8_t *key = arena_raw(a, RECORD_KEY_BYTES_MAX);
    struct record_manifest *m = arena_alloc(a, sizeof *m);
    Mikura__Internal__V1__GetResponse *got;
    struct slice k;
    enum rc rc;

    if (key == NULL || m == NULL) return err_set(reterr, RC_NOMEM, "a deletion");
    k = (struct slice){key, record_key_object(&cs->anchor, RECORD_MANIFEST, path, version, key)};
    rc = route_get(w->gw->route, cs->at, &k, 1, w->left_ms, a, &got, reterr);
    if (rc != RC_OK || got->items[0]->version == 0) return rc;
    rc = record_manifest_decode(gw_bytes(got->items[0]->value), m, reterr);
    if (rc != RC_OK) return rc;
    d->deletes[d->deletes_n++] = k;
    for (uint32_t i = 0; i < m->bodies_n; i++) {
        struct record_tomb t = {.pool = m->bodies[i].pool};
        struct leaving *pack;

        rc = pack_of(w, cs, &m->bodies[i].id, d, &pack, reterr);
        if (rc != RC_OK) return rc;
        if (pack != NULL) pack_leave(&pack->rec, path, version);
        if (pack != NULL && pack->rec.objects_n > 0) continue;
        if (d->puts_n + 3 + PACKS_MAX >= ARRAY_N(d->puts))
            return err_set(reterr, RC_NOMEM, "a deletion");
        rc = upload_chunk_count(m->bodies[i].size_bytes, m->bodies[i].chunk_bytes, &t.chunks);
        if (rc == RC_OK) rc = tomb_puts(a, cs, &m->bodies[i].id, &t, d->puts + d->puts_n, reterr);
        d->puts_n += 2;
        if (rc != RC_OK) return rc;
    }
    return RC_OK;
}

enum rc objects_body_tomb(struct fcall *c, const struct gw_case *cs, const struct id128 *body,
                          uint32_t pool, uint32_t chunks, struct err *reterr)
{
    struct record_tomb t = {.pool = pool, .chunks = chunks};
    struct gw_put puts[2];
    bool done;
    enum rc rc = tomb_puts(&c->arena, cs, body, &t, puts, reterr);

    if (rc != RC_OK) return rc;
    /* the call may be over its deadline; the bytes must go all the same */
    rc = gw_txn(c->service, cs->at, NULL, 0, puts, 2, NULL, 0, &c->arena, GW_CALL_MS, &done, NULL,
                NULL, reterr);
    if (rc == RC_OK) gw_sweep_wake(c->service);
    return rc;
}

/* The first condition and the first put are the head's. */
static void head_condition(const struct gw_case *cs, uint8_t *key, struct deleting *d)
{
    d->puts[0].key = (struct slice){key, record_key(&cs->anchor, RECORD_HEAD, key)};
    d->compares[0] = (struct gw_compare){MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_VERSION,
                                         d->puts[0].key, cs->head_version};
    d->puts_n = d->compares_n = 1;
}

struct deletion {
    const char *path;
    uint64_t version;                      /* 0: all */
    bool held_only;                        /* one version, and only while it is in quarantine */
    struct id128 request;                  /* zero: of the gateway's own */
    bool repeated;                         /* out: done before, by this very request */
    uint64_t versions_deleted, generation; /* out */
};

/* The request's DELETION row, if it was carried out before; else its key. */
static enum rc repeat_look(const struct doing *w, const struct gw_case *cs, struct deletion *del,
                           struct slice *ret_key, struct err *reterr)
{
    uint8_t *key = arena_raw(w->a, RECORD_KEY_BYTES_MAX);
    Mikura__Internal__V1__GetResponse *got;
    struct record_deletion rec;
    enum rc rc;

    if (key == NULL) return err_set(reterr, RC_NOMEM, "a deletion");
    *ret_key = (struct slice){key, record_key_id(&cs->anchor, RECORD_DELETION, &del->request, key)};
    rc = route_get(w->gw->route, cs->at, ret_key, 1, w->left_ms, w->a, &got, reterr);
    if (rc != RC_OK || got->items[0]->version == 0) return rc;
    rc = record_deletion_decode(gw_bytes(got->items[0]->value), &rec, reterr);
    if (rc != RC_OK) return rc;
    if (rec.version != del->version || !gw_slice_is(rec.path, del->path))
        return err_set(reterr, RC_EXISTS, "this request id belongs to another request");
    del->versions_deleted = rec.versions_deleted;
    del->generation = rec.generation;
    del->repeated = true;
    return RC_OK;
}

static enum rc repeat_put(struct arena *a, const struct deletion *del, struct slice key,
                          struct deleting *d, struct err *reterr)
{
    struct record_deletion rec = {.path = gw_text(del->path),
                                  .version = del->version,
                                  .versions_deleted = del->versions_deleted,
                                  .generation = del->generation,
                                  .deleted_unix_ms = (int64_t)clock_wall_ms()};

    d->puts[d->puts_n].key = key;
    return GW_ENCODE(a, deletion, &rec, &d->puts[d->puts_n++].value, reterr);
}

/* One try; *ret_done false: the case changed meanwhile. */
static enum rc delete_once(const struct doing *w, const struct gw_case *cs, struct deletion *del,
                           bool *ret_done, struct err *reterr)
{
    struct gw *gw = w->gw;
    struct arena *a = w->a;
    uint8_t *from = arena_raw(a, RECORD_KEY_BYTES_MAX), *until = arena_raw(a, RECORD_KEY_BYTES_MAX),
            *head_key = arena_raw(a, RECORD_KEY_BYTES_MAX);
    struct versions *vs = arena_alloc(a, sizeof *vs);
    struct deleting *d = arena_alloc(a, sizeof *d);
    struct record_head head = cs->head;
    struct record_index *idx = arena_alloc(a, sizeof *idx);
    bool newest_seen = false, held, keyed = !id128_is_zero(&del->request);
    struct slice request_key = {0};
    uint64_t visible_n = 0;
    size_t n;
    enum rc rc;

    if (from == NULL || until == NULL || head_key == NULL || vs == NULL || d == NULL ||
        idx == NULL) {
        return err_set(reterr, RC_NOMEM, "a deletion");
    }
    if (keyed) {
        rc = repeat_look(w, cs, del, &request_key, reterr);
        *ret_done = del->repeated;
        if (rc != RC_OK || del->repeated) return rc;
    }
    vs->a = a;
    vs->only = del->version;
    n = record_key_object(&cs->anchor, RECORD_INDEX, gw_text(del->path), 0, from);
    memcpy(until, from, n);
    rc = route_scan(gw->route, cs->at, (struct slice){from, n},
                    (struct slice){until, record_key_after(until, n)}, 0, w->left_ms, keep_version,
                    vs, reterr);
    if (rc != RC_OK) return rc;
    head_condition(cs, head_key, d);
    for (uint32_t i = 0; i < vs->n; i++) {
        rc = record_index_decode(vs->v[i].value, idx, reterr);
        if (rc != RC_OK) return rc;
        held = idx->stage == RECORD_STAGE_QUARANTINE; /* never visible, and removed all the same */
        if (idx->stage > head.visible && !held) continue; /* staged: its commit decides */
        if (del->held_only && !held) continue;            /* released meanwhile */
        if (del->held_only)                               /* nor released before the entry */
            d->compares[d->compares_n++] =
                (struct gw_compare){MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_VERSION,
                                    vs->v[i].key, vs->v[i].row_version};
        if (idx->hold || idx->retain_until_unix_ms > (int64_t)clock_wall_ms()) {
            return err_set(reterr, RC_PRECOND,
                           "version %llu is held or retained and can't be deleted",
                           (unsigned long long)vs->v[i].version);
        }
        visible_n++;
        head.version_floor = MAX(head.version_floor, vs->v[i].version);
        if (!newest_seen && !held && !idx->delete_marker && vs->only == 0) {
            head.objects -= MIN(head.objects, 1);
            head.bytes_stored -= MIN(head.bytes_stored, idx->size_bytes);
        }
        newest_seen = newest_seen || !held;
        d->deletes[d->deletes_n++] = vs->v[i].key;
        rc = add_tombs(w, cs, gw_text(del->path), vs->v[i].version, d, reterr);
        if (rc != RC_OK) return rc;
    }
    if (visible_n == 0)
        return err_set(reterr, RC_NOTFOUND,
                       "no such visible object or version; nothing was deleted");
    if (!del->held_only) head.generation++; /* what nobody could see changes nothing to see */
    rc = GW_ENCODE(a, head, &head, &d->puts[0].value, reterr);
    if (rc == RC_OK) rc = packs_put(a, d, reterr);
    if (rc != RC_OK) return rc;
    del->versions_deleted = visible_n;
    del->generation = head.generation;
    /* the head's condition keeps two of the same request apart */
    if (keyed) rc = repeat_put(a, del, request_key, d, reterr);
    if (rc != RC_OK) return rc;
    return gw_txn(gw, cs->at, d->compares, d->compares_n, d->puts, d->puts_n, d->deletes,
                  d->deletes_n, a, w->left_ms, ret_done, NULL, NULL, reterr);
}

/* Until the case stands still; the rights were looked at before. */
static enum rc delete_versions(const struct doing *w, const struct gw_collection *col,
                               const char *case_id, struct deletion *del, struct err *reterr)
{
    struct gw_case *cs = arena_alloc(w->a, sizeof *cs);
    bool done = false;
    enum rc rc = RC_OK;

    if (cs == NULL) return err_set(reterr, RC_NOMEM, "a deletion");
    for (int tries = 0; tries < 16 && rc == RC_OK && !done; tries++) {
        rc = gw_case(w->gw, col, case_id, false, w->a, w->left_ms, cs, reterr);
        if (rc != RC_OK) break;
        rc = delete_once(w, cs, del, &done, reterr);
        gw_case_wipe(cs);
    }
    if (rc == RC_OK && !done) rc = err_set(reterr, RC_ABORTED, "the case keeps changing; retry");
    if (rc == RC_OK) gw_sweep_wake(w->gw);
    return rc;
}

enum rc objects_delete_held(struct gw *gw, const struct gw_collection *col, const char *case_id,
                            const char *path, uint64_t version, struct arena *a, struct err *reterr)
{
    const struct doing w = {gw, a, GW_CALL_MS};
    struct deletion del = {.path = path, .version = version, .held_only = true};

    return delete_versions(&w, col, case_id, &del, reterr);
}

enum rc objects_delete(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__DeleteRequest *req;
    Mikura__V1__DeleteResponse answer = MIKURA__V1__DELETE_RESPONSE__INIT;
    struct gw_collection *col = arena_alloc(&c->arena, sizeof *col);
    struct doing w = {gw, &c->arena, 0};
    struct deletion del = {0};
    enum rc rc = fcall_request(c, &mikura__v1__delete_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (req->object == NULL) return err_set(reterr, RC_INVAL, "no object named");
    if (col == NULL) return err_set(reterr, RC_NOMEM, "a deletion");
    rc = name_check_path(gw_text(req->object->path), reterr);
    if (rc == RC_OK)
        rc = gw_collection(gw, req->object->collection, &c->arena, gw_left_ms(c), col, reterr);
    if (rc != RC_OK) return rc;
    rc = gw_allowed(c, col, GW_ADMIN, reterr);
    if (rc == RC_OK && req->request_id != NULL)
        rc = objects_request_id(req->request_id, &del.request, reterr);
    del.path = req->object->path;
    del.version = req->object->version;
    w.left_ms = gw_left_ms(c);
    if (rc == RC_OK) rc = delete_versions(&w, col, req->object->case_id, &del, reterr);
    gw_collection_wipe(col);
    if (rc != RC_OK) return rc;
    answer.versions_deleted = del.versions_deleted;
    answer.case_generation = del.generation;
    log_info("object_deleted", "rid=%s collection=%s versions=%llu repeated=%d by=%s", fcall_rid(c),
             req->object->collection, (unsigned long long)answer.versions_deleted, del.repeated,
             fcall_peer(c)->uri);
    return fcall_send(c, &answer.base);
}

/* ---- what is staged ---- */
struct staged {
    struct arena *a;
    uint64_t visible;
    struct {
        struct slice path, key;
        uint64_t version;
    } o[DROP_N];
    uint32_t n;
    struct err *err;
};

static enum rc keep_staged(void *arg, const Mikura__Internal__V1__Item *item)
{
    struct staged *s = arg;
    struct record_index *idx = arena_alloc(s->a, sizeof *idx);
    struct slice key = {arena_copy(s->a, item->key.data, item->key.len), item->key.len};
    enum rc rc;

    if (idx == NULL || key.p == NULL) return RC_NOMEM;
    rc = record_index_decode(gw_bytes(item->value), idx, s->err);
    if (rc != RC_OK) return rc;
    if (idx->stage <= s->visible || idx->stage == RECORD_STAGE_QUARANTINE) return RC_OK;
    s->o[s->n].key = key;
    rc = record_key_parse_object(key, &s->o[s->n].path, &s->o[s->n].version);
    if (rc != RC_OK) return rc;
    return ++s->n == DROP_N ? RC_RANGE : RC_OK;
}

/* Up to DROP_N versions; *ret_n 0: none is left. A commit under way begins again: what it counted
 * is there no more. */
static enum rc drop_once(struct fcall *c, const struct gw_case *cs, const char *path,
                         uint32_t *ret_n, bool *ret_done, struct err *reterr)
{
    struct gw *gw = c->service;
    struct arena *a = &c->arena;
    const struct doing w = {gw, a, gw_left_ms(c)};
    uint8_t *from = arena_raw(a, RECORD_KEY_BYTES_MAX), *until = arena_raw(a, RECORD_KEY_BYTES_MAX),
            *head_key = arena_raw(a, RECORD_KEY_BYTES_MAX);
    struct staged *s = arena_alloc(a, sizeof *s);
    struct deleting *d = arena_alloc(a, sizeof *d);
    struct record_head head = cs->head;
    size_t n;
    enum rc rc;

    if (from == NULL || until == NULL || head_key == NULL || s == NULL || d == NULL)
        return err_set(reterr, RC_NOMEM, "what is staged");
    s->a = a;
    s->visible = cs->head.visible;
    s->err = reterr;
    n = path[0] != 0 ? record_key_object(&cs->anchor, RECORD_INDEX, gw_text(path), 0, from)
                     : record_key_path_prefix(&cs->anchor, RECORD_INDEX, gw_text(""), from);
    memcpy(until, from, n);
    rc = route_scan(gw->route, cs->at, (struct slice){from, n},
                    (struct slice){until, record_key_after(until, n)}, 0, w.left_ms, keep_staged, s,
                    reterr);
    if (rc != RC_OK) return rc;
    *ret_n = s->n;
    *ret_done = true;
    if (s->n == 0) return RC_OK;
    head_condition(cs, head_key, d);
    head.closing = 0;
    head.closing_request = (struct id128){0};
    head.stage++;
    for (uint32_t i = 0; i < s->n; i++)
        head.version_floor = MAX(head.version_floor, s->o[i].version);
    rc = GW_ENCODE(a, head, &head, &d->puts[0].value, reterr);
    for (uint32_t i = 0; rc == RC_OK && i < s->n; i++) {
        d->deletes[d->deletes_n++] = s->o[i].key;
        rc = add_tombs(&w, cs, s->o[i].path, s->o[i].version, d, reterr);
    }
    if (rc == RC_OK) rc = packs_put(a, d, reterr);
    if (rc != RC_OK) return rc;
    return gw_txn(gw, cs->at, d->compares, d->compares_n, d->puts, d->puts_n, d->deletes,
                  d->deletes_n, a, w.left_ms, ret_done, NULL, NULL, reterr);
}

enum rc objects_drop_staged(struct fcall *c, struct err *reterr)
{
    Mikura__V1__DropStagedRequest *req;
    Mikura__V1__DropStagedResponse answer = MIKURA__V1__DROP_STAGED_RESPONSE__INIT;
    struct writing w;
    uint32_t n = 1, lost = 0;
    enum rc rc = fcall_request(c, &mikura__v1__drop_staged_request__descriptor, &req, reterr);

    if (rc == RC_OK && req->path[0] != 0) rc = name_check_path(gw_text(req->path), reterr);
    while (rc == RC_OK && n > 0) {
        bool done = false;

        rc = objects_open_writing(c, req->collection, req->case_id, false, &w, reterr);
        if (rc != RC_OK) break;
        rc = drop_once(c, w.cs, req->path, &n, &done, reterr);
        gw_case_wipe(w.cs);
        if (rc == RC_OK && done) answer.versions_dropped += n;
        if (rc == RC_OK && !done && ++lost == 16)
            rc = err_set(reterr, RC_ABORTED, "the case keeps changing; retry");
    }
    if (rc != RC_OK) return rc;
    log_info("staged_dropped", "rid=%s collection=%s versions=%llu by=%s", fcall_rid(c),
             req->collection, (unsigned long long)answer.versions_dropped, fcall_peer(c)->uri);
    gw_sweep_wake(c->service);
    return fcall_send(c, &answer.base);
}

/* ---- the sweep: one at a time in a gateway; several gateways may sweep the same row without harm
 * ---- */
struct tomb_name {
    struct list link;
    struct record_anchor anchor;
    struct id128 body;
};
struct tombs {
    struct arena a;
    struct list names;
    uint32_t n;
};

static enum rc keep_tomb(void *arg, struct slice name, const struct record_list *row)
{
    struct tombs *t = arg;
    struct tomb_name *to = arena_alloc(&t->a, sizeof *to);
    char *text = gw_dup(&t->a, name);

    if (to == NULL || text == NULL) return RC_NOMEM;
    if (name.n != 2 * (RECORD_ANCHOR_BYTES + 16)) return RC_CORRUPT;
    if (!id128_parse(text + (size_t)2 * RECORD_ANCHOR_BYTES, &to->body)) return RC_CORRUPT;
    to->anchor = row->anchor;
    list_push_back(&t->names, &to->link);
    return ++t->n == 1024 ? RC_RANGE : RC_OK;
}

static enum rc sweep_body(struct gw *gw, const struct tomb_name *t, struct arena *a,
                          struct err *reterr)
{
    uint8_t *keys = arena_raw(a, 2 * RECORD_KEY_BYTES_MAX);
    struct route_at at = gw_at(gw, 0, &t->anchor);
    Mikura__Internal__V1__GetResponse *got;
    struct record_tomb tomb = {0};
    struct slice k[2];
    bool done;
    enum rc rc;

    if (keys == NULL) return err_set(reterr, RC_NOMEM, "a sweep");
    k[0] = (struct slice){keys, record_key_id(&t->anchor, RECORD_TOMB, &t->body, keys)};
    keys += RECORD_KEY_BYTES_MAX;
    k[1] = (struct slice){keys, record_tomb_list_key(&t->anchor, &t->body, keys)};
    rc = route_get(gw->route, at, k, 1, GW_CALL_MS, a, &got, reterr);
    if (rc != RC_OK) return rc;
    if (got->items[0]->version != 0) {
        rc = record_tomb_decode(gw_bytes(got->items[0]->value), &tomb, reterr);
        for (uint32_t i = tomb.confirmed; i < tomb.chunks && rc == RC_OK; i++) {
            struct route_at chunk_at = {.pool = tomb.pool};

            rc = anchor_chunk_hash(&t->body, i, &chunk_at.hash);
            if (rc == RC_OK)
                rc = route_chunk_drop(gw->route, chunk_at, &t->body, i, GW_CALL_MS, reterr);
            if (rc == RC_NOTFOUND) rc = RC_OK; /* it never arrived */
        }
        if (rc != RC_OK) return rc;
    }
    return gw_txn(gw, at, NULL, 0, NULL, 0, k, 2, a, GW_CALL_MS, &done, NULL, NULL, reterr);
}

static void sweep(struct gw *gw)
{
    struct tombs t;
    struct err err = {0};
    enum rc rc;

    arena_init(&t.a);
    list_init(&t.names);
    t.n = 0;
    rc = gw_list_names(gw, gw->meta_pool, &record_scope_tombs, "", "", &t.a, GW_CALL_MS, keep_tomb,
                       &t, &err);
    LIST_FOREACH(it, &t.names)
    {
        if (gw->closing || rc != RC_OK) break;
        rc = sweep_body(gw, CONTAINER_OF(it, struct tomb_name, link), &t.a, &err);
    }
    if (rc != RC_OK)
        log_warn("sweep_failed", "rc=%s why=%s: goes on in %u s", rc_name(rc), err.msg,
                 SWEEP_MS / 1000);
    if (t.n > 0) log_info("swept", "bodies=%u", t.n);
    arena_deinit(&t.a);
}

void gw_sweep_run(void *arg)
{
    struct gw *gw = arg;

    while (!gw->closing) {
        (void)!fiber_event_wait_ms(&gw->sweep, SWEEP_MS); /* either way it is time */
        if (!gw->closing) sweep(gw);
    }
}

void gw_sweep_wake(struct gw *gw)
{
    fiber_event_set(&gw->sweep);
}
