/* gateway/api/quarantine.c - what the de-identification gate holds back: listed to the society with
 * its reasons, released by it after a person looked, deleted when nobody did for too long.
 *
 * Such an object's INDEX row lies in RECORD_STAGE_QUARANTINE, so no read, list, query, job or
 * commit sees it. A release moves the row into the case's present stage; the next CommitCase counts
 * it. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "gateway/api/inspect.h"
#include "gateway/api/listing.h"
#include "gateway/api/objects.h"
#include "gateway/ingest/name.h"
#include <stdlib.h>

#define BATCH 64u

/* ---- list ---- */
struct held {
    struct list link;
    char *path;
    uint64_t version;
};
struct held_case { /* or a collection */
    struct list link;
    char *case_id;
};
struct quarantine {
    struct gw *gw;
    struct fcall *c;        /* of a listing */
    int64_t before_unix_ms; /* held since; of an expiry */
    const struct gw_collection *col;
    const char *collection;
    struct arena a, *names; /* of one case; of the cases' names */
    struct list rows, cases;
    Mikura__V1__QuarantinedObject *batch[BATCH];
    uint32_t batch_n;
    struct err *err;
};

static enum rc keep_held(void *arg, const Mikura__Internal__V1__Item *item)
{
    struct quarantine *q = arg;
    struct record_index *idx = arena_alloc(&q->a, sizeof *idx);
    struct held *h;
    struct slice path;
    uint64_t version;
    enum rc rc = record_key_parse_object(gw_bytes(item->key), &path, &version);

    if (rc != RC_OK) return rc;
    if (idx == NULL) return RC_NOMEM;
    rc = record_index_decode(gw_bytes(item->value), idx, q->err);
    if (rc != RC_OK || idx->stage != RECORD_STAGE_QUARANTINE) return rc;
    if (idx->stored_unix_ms > q->before_unix_ms) return RC_OK;
    h = arena_alloc(&q->a, sizeof *h);
    if (h == NULL) return RC_NOMEM;
    h->path = gw_dup(&q->a, path);
    h->version = version;
    list_push_back(&q->rows, &h->link);
    return h->path == NULL ? RC_NOMEM : RC_OK;
}

static enum rc flush(struct quarantine *q)
{
    Mikura__V1__ListQuarantineResponse m = MIKURA__V1__LIST_QUARANTINE_RESPONSE__INIT;
    enum rc rc = RC_OK;

    m.objects = q->batch;
    m.n_objects = q->batch_n;
    if (q->batch_n > 0) rc = fcall_send(q->c, &m.base);
    q->batch_n = 0;
    return rc;
}

/* Reasons are attributes; releasable: all of them are of the kind that a look settles. */
static enum rc reasons_of(struct gw *gw, const struct gw_case *cs, const struct gw_object *o,
                          struct arena *a, Mikura__V1__QuarantinedObject *ret, struct err *reterr)
{
    Mikura__V1__ObjectInfo *info;
    enum rc rc = gw_object_info(cs, o, "", "", true, a, &info, reterr);

    (void)gw;
    if (rc != RC_OK) return rc;
    ret->releasable = true;
    ret->reasons = arena_alloc(a, (info->n_attributes + 1) * sizeof *ret->reasons);
    if (ret->reasons == NULL) return err_set(reterr, RC_NOMEM, "a list of reasons");
    for (size_t i = 0; i < info->n_attributes; i++) {
        const Mikura__V1__Attribute *at = info->attributes[i];
        bool looks = false;

        if (strcmp(at->name, GATE_REASON) != 0 ||
            at->value_case != MIKURA__V1__ATTRIBUTE__VALUE_TEXT)
            continue;
        for (unsigned rule = 0; rule < DEID_RULE_N; rule++) {
            size_t n = strlen(deid_rule_name(rule));

            if (strncmp(at->text, deid_rule_name(rule), n) == 0 &&
                (at->text[n] == ' ' || at->text[n] == 0))
                looks = deid_rule_quarantines(rule);
        }
        if (!looks) ret->releasable = false;
        ret->reasons[ret->n_reasons++] = at->text;
    }
    return RC_OK;
}

static enum rc tell_held(struct quarantine *q, const struct gw_case *cs, const char *case_id,
                         const struct held *h, struct err *reterr)
{
    struct gw *gw = q->c->service;
    Mikura__V1__QuarantinedObject *m = arena_alloc(&q->a, sizeof *m);
    Mikura__V1__ObjectRef *ref = arena_alloc(&q->a, sizeof *ref);
    struct gw_object *o;
    uint64_t row_version;
    enum rc rc;

    if (m == NULL || ref == NULL) return err_set(reterr, RC_NOMEM, "a listing");
    mikura__v1__quarantined_object__init(m);
    mikura__v1__object_ref__init(ref);
    rc = gw_object_held(gw, cs, h->path, h->version, &q->a, gw_left_ms(q->c), &o, &row_version,
                        reterr);
    if (rc == RC_NOTFOUND) return RC_OK; /* released or removed meanwhile */
    if (rc == RC_OK) rc = reasons_of(gw, cs, o, &q->a, m, reterr);
    if (rc != RC_OK) return rc;
    ref->collection = (char *)(uintptr_t)q->collection;
    ref->case_id = (char *)(uintptr_t)case_id;
    ref->path = h->path;
    ref->version = h->version;
    m->object = ref;
    m->size_bytes = o->index.size_bytes;
    m->stored_unix_ms = o->index.stored_unix_ms;
    if (gw->quarantine_ms > 0) m->expires_unix_ms = m->stored_unix_ms + (int64_t)gw->quarantine_ms;
    q->batch[q->batch_n++] = m;
    return q->batch_n == BATCH ? flush(q) : RC_OK;
}

/* The case, and what of it is held into q->rows; all in q->a. */
static enum rc rows_of(struct quarantine *q, const char *case_id, uint64_t left_ms,
                       struct gw_case *ret_cs, struct err *reterr)
{
    uint8_t from[RECORD_KEY_BYTES_MAX], until[RECORD_KEY_BYTES_MAX];
    size_t n;
    enum rc rc;

    list_init(&q->rows);
    rc = gw_case(q->gw, q->col, case_id, false, &q->a, left_ms, ret_cs, reterr);
    if (rc != RC_OK) return rc;
    n = record_key_path_prefix(&ret_cs->anchor, RECORD_INDEX, (struct slice){NULL, 0}, from);
    memcpy(until, from, n);
    rc = route_scan(q->gw->route, ret_cs->at, (struct slice){from, n},
                    (struct slice){until, record_key_after(until, n)}, 0, left_ms, keep_held, q,
                    reterr);
    if (rc != RC_OK) gw_case_wipe(ret_cs);
    return rc;
}

static enum rc list_case(struct quarantine *q, const char *case_id, struct err *reterr)
{
    struct gw_case *cs;
    enum rc rc;

    arena_init(&q->a);
    cs = arena_alloc(&q->a, sizeof *cs);
    rc = cs == NULL ? err_set(reterr, RC_NOMEM, "a case")
                    : rows_of(q, case_id, gw_left_ms(q->c), cs, reterr);
    if (rc == RC_OK) {
        LIST_FOREACH(it, &q->rows)
        {
            if (rc == RC_OK)
                rc = tell_held(q, cs, case_id, CONTAINER_OF(it, struct held, link), reterr);
        }
        if (rc == RC_OK) rc = flush(q);
        gw_case_wipe(cs);
    }
    q->batch_n = 0;
    arena_deinit(&q->a);
    return rc;
}

static enum rc keep_case(void *arg, const struct gw_case_line *line)
{
    struct quarantine *q = arg;
    struct held_case *k = arena_alloc(q->names, sizeof *k);

    if (k == NULL) return RC_NOMEM;
    k->case_id = gw_dup(q->names, line->case_id);
    list_push_back(&q->cases, &k->link);
    return k->case_id == NULL ? RC_NOMEM : RC_OK;
}

enum rc objects_list_quarantine(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__ListQuarantineRequest *req;
    struct gw_collection *col = arena_alloc(&c->arena, sizeof *col);
    struct quarantine *q = arena_alloc(&c->arena, sizeof *q);
    enum rc rc = fcall_request(c, &mikura__v1__list_quarantine_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (col == NULL || q == NULL) return err_set(reterr, RC_NOMEM, "a listing");
    rc = gw_collection(gw, req->collection, &c->arena, gw_left_ms(c), col, reterr);
    if (rc != RC_OK) return rc;
    rc = gw_allowed(c, col, fcall_peer(c)->role == TLS_OPERATOR ? GW_ADMIN : GW_WRITE, reterr);
    q->gw = gw;
    q->c = c;
    q->names = &c->arena;
    q->before_unix_ms = INT64_MAX;
    q->col = col;
    q->collection = req->collection;
    q->err = reterr;
    list_init(&q->cases);
    if (rc == RC_OK && req->case_id[0] != 0) {
        rc = list_case(q, req->case_id, reterr);
    } else if (rc == RC_OK) {
        rc = gw_list_cases(gw, col, "", "", UINT32_MAX, &c->arena, gw_left_ms(c), keep_case, q,
                           NULL, reterr);
        LIST_FOREACH(it, &q->cases)
        {
            if (rc != RC_OK) break;
            rc = list_case(q, CONTAINER_OF(it, struct held_case, link)->case_id, reterr);
            if (rc == RC_NOTFOUND || rc == RC_PRECOND) rc = RC_OK; /* withdrawn meanwhile */
        }
    }
    gw_collection_wipe(col);
    return rc;
}

/* ---- release ---- */

/* *ret_done false: the case changed meanwhile. */
static enum rc release_once(struct fcall *c, const struct gw_case *cs,
                            const Mikura__V1__ObjectRef *ref, struct gw_object **ret,
                            bool *ret_done, struct err *reterr)
{
    struct gw *gw = c->service;
    struct arena *a = &c->arena;
    Mikura__V1__QuarantinedObject *m = arena_alloc(a, sizeof *m);
    uint8_t *head_key = arena_alloc(a, RECORD_KEY_BYTES_MAX);
    struct gw_compare same[2] = {
        {.kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_VERSION, .number = cs->head_version},
        {.kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_VERSION}};
    struct gw_put put;
    struct gw_object *o;
    enum rc rc;

    if (m == NULL || head_key == NULL) return err_set(reterr, RC_NOMEM, "a release");
    mikura__v1__quarantined_object__init(m);
    rc = gw_object_held(gw, cs, ref->path, ref->version, a, gw_left_ms(c), &o, &same[1].number,
                        reterr);
    if (rc == RC_OK) rc = reasons_of(gw, cs, o, a, m, reterr);
    if (rc != RC_OK) return rc;
    if (!m->releasable) {
        return err_set(reterr, RC_PRECOND,
                       "it breaks a rule that no look at its pixels settles (%s): clean it at the "
                       "site and put it again",
                       m->n_reasons > 0 ? m->reasons[0] : "no reason is kept");
    }
    o->index.stage = cs->head.stage;
    same[0].key = (struct slice){head_key, record_key(&cs->anchor, RECORD_HEAD, head_key)};
    same[1].key = put.key = o->index_key;
    rc = GW_ENCODE(a, index, &o->index, &put.value, reterr);
    if (rc != RC_OK) return rc;
    *ret = o;
    return gw_txn(gw, cs->at, same, 2, &put, 1, NULL, 0, a, gw_left_ms(c), ret_done, NULL, NULL,
                  reterr);
}

enum rc objects_release_quarantine(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__ReleaseQuarantineRequest *req;
    struct gw_collection *col = arena_alloc(&c->arena, sizeof *col);
    struct gw_case *cs = arena_alloc(&c->arena, sizeof *cs);
    Mikura__V1__StagedObject *answer = NULL;
    struct gw_object *o = NULL;
    bool done = false;
    enum rc rc =
        fcall_request(c, &mikura__v1__release_quarantine_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (col == NULL || cs == NULL) return err_set(reterr, RC_NOMEM, "a release");
    if (req->object == NULL || req->object->version == 0)
        return err_set(reterr, RC_INVAL, "name the object with its version, as listed");
    rc = name_check_path(gw_text(req->object->path), reterr);
    if (rc == RC_OK)
        rc = gw_collection(gw, req->object->collection, &c->arena, gw_left_ms(c), col, reterr);
    if (rc != RC_OK) return rc;
    rc = gw_allowed(c, col, GW_WRITE, reterr);
    for (int tries = 0; tries < 16 && rc == RC_OK && !done; tries++) {
        rc = gw_case(gw, col, req->object->case_id, false, &c->arena, gw_left_ms(c), cs, reterr);
        if (rc != RC_OK) break;
        rc = release_once(c, cs, req->object, &o, &done, reterr);
        gw_case_wipe(cs);
    }
    gw_collection_wipe(col);
    if (rc == RC_OK && !done) rc = err_set(reterr, RC_ABORTED, "the case keeps changing; retry");
    if (rc != RC_OK) return rc;
    log_info("quarantine_released", "rid=%s collection=%s by=%s", fcall_rid(c),
             req->object->collection, fcall_peer(c)->uri);
    answer = objects_staged(c, req->object->collection, req->object->case_id, o->path, o->version,
                            o->index.stage, &o->index, &o->digests);
    return answer == NULL ? err_set(reterr, RC_NOMEM, "a staged object")
                          : fcall_send(c, &answer->base);
}

/* ---- expiry ---- */

#define PAGE_CASES 256u

static enum rc expire_case(struct quarantine *q, const char *case_id, uint32_t *io_n,
                           struct err *reterr)
{
    struct gw_case *cs;
    enum rc rc;

    arena_init(&q->a);
    cs = arena_alloc(&q->a, sizeof *cs);
    rc = cs == NULL ? err_set(reterr, RC_NOMEM, "a case")
                    : rows_of(q, case_id, GW_CALL_MS, cs, reterr);
    if (rc == RC_OK) {
        gw_case_wipe(cs);
        LIST_FOREACH(it, &q->rows)
        {
            const struct held *h = CONTAINER_OF(it, struct held, link);

            rc = objects_delete_held(q->gw, q->col, case_id, h->path, h->version, &q->a, reterr);
            *io_n += rc == RC_OK;
            if (rc != RC_OK && rc != RC_NOTFOUND) break;
            rc = RC_OK;
        }
    }
    arena_deinit(&q->a);
    return rc == RC_NOTFOUND || rc == RC_PRECOND ? RC_OK : rc; /* withdrawn meanwhile */
}

/* A page of cases after *io_last; *ret_more false: it was the last. */
static enum rc expire_page(struct quarantine *q, char **io_last, bool *ret_more, uint32_t *io_n,
                           struct err *reterr)
{
    struct arena names;
    uint32_t n = 0;
    char *last = NULL;
    enum rc rc;

    arena_init(&names);
    q->names = &names;
    list_init(&q->cases);
    rc = gw_list_cases(q->gw, q->col, "", *io_last == NULL ? "" : *io_last, PAGE_CASES, &names,
                       GW_CALL_MS, keep_case, q, &n, reterr);
    LIST_FOREACH(it, &q->cases)
    {
        const char *case_id = CONTAINER_OF(it, struct held_case, link)->case_id;

        if (rc != RC_OK || q->gw->closing) break;
        rc = expire_case(q, case_id, io_n, reterr);
        free(last);
        last = strdup(case_id);
        if (last == NULL) rc = err_set(reterr, RC_NOMEM, "a case's name");
    }
    *ret_more = rc == RC_OK && n == PAGE_CASES && last != NULL && !q->gw->closing;
    free(*io_last);
    *io_last = last;
    arena_deinit(&names);
    return rc;
}

static enum rc expire_collection(struct gw *gw, const char *name, struct err *reterr)
{
    struct quarantine q = {.gw = gw, .collection = name, .err = reterr};
    struct gw_collection col;
    uint32_t n = 0;
    char *last = NULL;
    bool more = true;
    struct arena a;
    enum rc rc;

    q.before_unix_ms = (int64_t)(clock_wall_ms() - gw->quarantine_ms);
    arena_init(&a);
    rc = gw_collection(gw, name, &a, GW_CALL_MS, &col, reterr);
    if (rc == RC_OK) {
        q.col = &col;
        if (col.rec.deid_profile.n == 0) more = false; /* nothing is ever held */
        while (rc == RC_OK && more)
            rc = expire_page(&q, &last, &more, &n, reterr);
        gw_collection_wipe(&col);
    }
    free(last);
    if (n > 0) log_info("quarantine_expired", "collection=%s versions=%u", name, n);
    arena_deinit(&a);
    return rc == RC_NOTFOUND ? RC_OK : rc; /* a collection that went */
}

struct collections {
    struct arena a;
    struct list names; /* struct held_case */
};
static enum rc keep_collection(void *arg, struct slice name, const struct record_list *row)
{
    struct collections *all = arg;
    struct held_case *k = arena_alloc(&all->a, sizeof *k);

    (void)row;
    if (k == NULL) return RC_NOMEM;
    k->case_id = gw_dup(&all->a, name);
    list_push_back(&all->names, &k->link);
    return k->case_id == NULL ? RC_NOMEM : RC_OK;
}

enum rc objects_expire_quarantine(struct gw *gw, struct err *reterr)
{
    struct collections all;
    enum rc rc;

    arena_init(&all.a);
    list_init(&all.names);
    rc = gw_list_names(gw, gw->meta_pool, &record_scope_collections, "", "", &all.a, GW_CALL_MS,
                       keep_collection, &all, reterr);
    LIST_FOREACH(it, &all.names)
    {
        if (rc != RC_OK || gw->closing) break;
        rc = expire_collection(gw, CONTAINER_OF(it, struct held_case, link)->case_id, reterr);
    }
    arena_deinit(&all.a);
    return rc;
}
