/* gateway/api/catalog.c - collections, grants, cases. Queries are in query.c. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/image/deid/deid.h"
#include "gateway/api/gw.h"
#include "gateway/api/listing.h"
#include "gateway/ingest/name.h"
#include <jansson.h>

typedef Mikura__V1__Collection Collection;

#define DEFAULT_CHUNK_BYTES (8u << 20)

static ProtobufCBinaryData pb(const void *p, size_t n)
{
    return (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)p, .len = n};
}

/* The message of a record; grants only for operators. NULL: out of memory. */
static Collection *collection_message(struct arena *a, const struct gw_collection *col,
                                      bool operator_view)
{
    const struct record_collection *rec = &col->rec;
    Collection *m = arena_alloc(a, sizeof *m);
    Mikura__V1__CollectionPolicy *p = arena_alloc(a, sizeof *p);

    if (m == NULL || p == NULL) return NULL;
    mikura__v1__collection__init(m);
    mikura__v1__collection_policy__init(p);
    m->id = pb(arena_copy(a, rec->id.b, 16), 16);
    m->name = gw_dup(a, rec->name);
    m->policy = p;
    m->created_unix_ms = rec->created_unix_ms;
    m->version = col->version;
    p->kind = gw_dup(a, rec->kind);
    p->unchecked = rec->unchecked != 0;
    p->deid_profile = gw_dup(a, rec->deid_profile);
    p->chunk_bytes = rec->chunk_bytes;
    p->quota_bytes = rec->quota_bytes;
    p->target_cases = rec->target_cases;
    p->target_hospitals = rec->target_hospitals;
    p->meta_pool = rec->meta_pool;
    p->data_pool = rec->data_pool;
    p->society = gw_dup(a, rec->society);
    p->index_fields = arena_alloc(a, rec->fields_n * sizeof(char *));
    if (m->id.data == NULL || m->name == NULL || p->kind == NULL || p->deid_profile == NULL ||
        p->society == NULL || p->index_fields == NULL) {
        return NULL;
    }
    for (uint32_t i = 0; i < rec->fields_n; i++) {
        p->index_fields[i] = gw_dup(a, rec->fields[i]);
        if (p->index_fields[i] == NULL) return NULL;
        p->n_index_fields++;
    }
    if (!operator_view) return m;
    m->grants = arena_alloc(a, rec->grants_n * sizeof *m->grants);
    for (uint32_t i = 0; i < rec->grants_n && m->grants != NULL; i++) {
        Mikura__V1__GrantEntry *g = arena_alloc(a, sizeof *g);

        if (g == NULL) return NULL;
        mikura__v1__grant_entry__init(g);
        g->subject = gw_dup(a, rec->grants[i].subject);
        g->role = (Mikura__V1__GrantRole)rec->grants[i].role;
        if (g->subject == NULL) return NULL;
        m->grants[m->n_grants++] = g;
    }
    return m->grants == NULL ? NULL : m;
}

/* Cases, objects and bytes: summed over the heads of its published cases. */
struct totals {
    uint64_t cases, objects, bytes;
};
static enum rc count_case(void *arg, const struct gw_case_line *line)
{
    struct totals *t = arg;

    if (line->head.generation == 0) return RC_OK;
    t->cases++;
    t->objects += line->head.objects;
    t->bytes += line->head.bytes_stored;
    return RC_OK;
}

static enum rc reply_collection(struct fcall *c, const struct gw_collection *col, bool with_totals,
                                struct err *reterr)
{
    struct gw *gw = c->service;
    Collection *m = collection_message(&c->arena, col, fcall_peer(c)->role == TLS_OPERATOR);
    enum rc rc;

    if (m == NULL) return err_set(reterr, RC_NOMEM, "a collection's description");
    if (with_totals && fcall_peer(c)->role != TLS_AGENT) {
        struct totals t = {0};

        rc = gw_list_cases(gw, col, "", "", UINT32_MAX, &c->arena, gw_left_ms(c), count_case, &t,
                           NULL, reterr);
        if (rc != RC_OK) return rc;
        m->cases = t.cases;
        m->objects = t.objects;
        m->bytes_stored = t.bytes;
    }
    return fcall_send(c, &m->base);
}

static bool kind_ok(const char *kind)
{
    static const char *const KINDS[] = {"endoscopy", "pathology", "radiology", "ophthalmology",
                                        "other"};

    for (size_t i = 0; i < ARRAY_N(KINDS); i++) {
        if (strcmp(kind, KINDS[i]) == 0) return true;
    }
    return false;
}

/* The policy as asked, with defaults. */
static enum rc policy_check(const struct gw *gw, const Mikura__V1__CollectionPolicy *p,
                            struct record_collection *rec, struct err *reterr)
{
    if (!kind_ok(p->kind)) {
        return err_set(
            reterr, RC_INVAL,
            "kind '%s': expected endoscopy, pathology, radiology, ophthalmology or other", p->kind);
    }
    if (p->society[0] == 0 || strlen(p->society) > 63 || strchr(p->society, '/') != NULL) {
        return err_set(reterr, RC_INVAL,
                       "society '%s': expected the SOCIETY of its agents' certificates "
                       "(mikura://society/SOCIETY/agent/...)",
                       p->society);
    }
    if (p->unchecked && p->deid_profile[0] != 0) {
        return err_set(reterr, RC_INVAL,
                       "unchecked and a de-identification profile exclude each other");
    }
    if (!p->unchecked && p->deid_profile[0] == 0) {
        return err_set(reterr, RC_PRECOND,
                       "a collection needs a de-identification profile (--deid-profile), or "
                       "--unchecked, and then the society answers for what it sends");
    }
    if (!p->unchecked && deid_profile_shipped(p->deid_profile) == NULL) {
        return err_set(reterr, RC_PRECOND,
                       "deid_profile '%s': this cluster serves those of `mikura deid profile`",
                       p->deid_profile);
    }
    rec->chunk_bytes = p->chunk_bytes == 0 ? DEFAULT_CHUNK_BYTES : p->chunk_bytes;
    if (rec->chunk_bytes % (1u << 20) != 0 || rec->chunk_bytes > SEAL_CHUNK_BYTES_MAX) {
        return err_set(reterr, RC_INVAL,
                       "chunk_bytes %u: expected a multiple of 1 MiB, at most 64 MiB",
                       p->chunk_bytes);
    }
    if (p->n_index_fields > RECORD_FIELDS_MAX) {
        return err_set(reterr, RC_INVAL, "%zu index fields; at most %u", p->n_index_fields,
                       RECORD_FIELDS_MAX);
    }
    for (size_t i = 0; i < p->n_index_fields; i++) {
        if (p->index_fields[i][0] == 0 || strlen(p->index_fields[i]) > 128) {
            return err_set(reterr, RC_INVAL, "index field %zu: expected a name of 1 to 128 bytes",
                           i);
        }
        rec->fields[i] = gw_text(p->index_fields[i]);
    }
    rec->fields_n = (uint32_t)p->n_index_fields;
    if (p->quota_bytes != 0) {
        return err_set(reterr, RC_UNIMPL,
                       "quota_bytes: quotas are not served by this cluster yet; leave it 0");
    }
    rec->unchecked = p->unchecked ? 1 : 0;
    rec->kind = gw_text(p->kind);
    rec->society = gw_text(p->society);
    rec->deid_profile = gw_text(p->deid_profile);
    rec->quota_bytes = p->quota_bytes;
    rec->target_cases = p->target_cases;
    rec->target_hospitals = p->target_hospitals;
    rec->meta_pool = p->meta_pool == 0 ? gw->meta_pool : p->meta_pool;
    rec->data_pool = p->data_pool == 0 ? gw->data_pool : p->data_pool;
    if (cluster_pool(gw->cluster, rec->meta_pool) == NULL ||
        cluster_pool(gw->cluster, rec->data_pool) == NULL) {
        return err_set(reterr, RC_INVAL, "no pool %u or %u in this cluster", rec->meta_pool,
                       rec->data_pool);
    }
    return RC_OK;
}

/* Fields that queries and `ls` need in clear when the creator named none: technical, never a
 * person's. */
static const char *const DEFAULT_FIELDS[] = {"image.kind",
                                             "image.width",
                                             "image.height",
                                             "dicom.Modality",
                                             "dicom.BodyPartExamined",
                                             "dicom.NumberOfFrames"};

static enum rc create_collection(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__CreateCollectionRequest *req;
    struct record_collection *rec = arena_alloc(&c->arena, sizeof *rec);
    struct gw_collection *col = arena_alloc(&c->arena, sizeof *col);
    uint8_t *keys = arena_raw(&c->arena, 2 * RECORD_KEY_BYTES_MAX), wrapped[KEY_WRAPPED_BYTES];
    struct key_place place = {.kind = KEY_COLLECTION};
    struct gw_compare absent = {.kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_ABSENT};
    struct record_list row = {0};
    struct gw_put puts[2];
    struct key k;
    bool made;
    enum rc rc;

    if (rec == NULL || col == NULL || keys == NULL)
        return err_set(reterr, RC_NOMEM, "a collection");
    rc = fcall_request(c, &mikura__v1__create_collection_request__descriptor, &req, reterr);
    if (rc != RC_OK) return rc;
    rc = name_check_collection(gw_text(req->name), reterr);
    if (rc != RC_OK) return rc;
    if (req->policy == NULL) return err_set(reterr, RC_INVAL, "a collection needs a policy");
    rc = policy_check(gw, req->policy, rec, reterr);
    if (rc != RC_OK) return rc;
    if (rec->fields_n == 0) {
        for (size_t i = 0; i < ARRAY_N(DEFAULT_FIELDS); i++)
            rec->fields[rec->fields_n++] = gw_text(DEFAULT_FIELDS[i]);
    }
    rec->name = gw_text(req->name);
    rec->id = id128_random();
    rec->created_unix_ms = row.created_unix_ms = (int64_t)clock_wall_ms();
    if (req->request_id != NULL &&
        !id128_from_bytes(req->request_id->id.data, req->request_id->id.len, &rec->request)) {
        return err_set(reterr, RC_INVAL, "request_id: expected 16 bytes");
    }
    place.self = (struct slice){rec->id.b, 16};
    key_random(&k);
    rc = key_wrap(&gw->master.key, &place, &k, wrapped);
    key_wipe(&k);
    if (rc != RC_OK) return err_set(reterr, rc, "wrapping the collection's key");
    memcpy(rec->key.wrapper.b, gw->master.fingerprint, 16);
    rec->key.bytes = (struct slice){wrapped, sizeof wrapped};
    rc = anchor_collection(gw_text(req->name), &col->anchor);
    if (rc != RC_OK) return rc;
    row.anchor = col->anchor;
    puts[0].key = (struct slice){keys, record_key(&col->anchor, RECORD_COLLECTION, keys)};
    keys += RECORD_KEY_BYTES_MAX;
    puts[1].key = (struct slice){keys, record_list_key(&record_scope_collections, rec->name,
                                                       record_anchor_hash(&col->anchor), keys)};
    rc = GW_ENCODE(&c->arena, collection, rec, &puts[0].value, reterr);
    if (rc == RC_OK) rc = GW_ENCODE(&c->arena, list, &row, &puts[1].value, reterr);
    if (rc != RC_OK) return rc;
    absent.key = puts[0].key;
    rc = gw_txn(gw, gw_at(gw, 0, &col->anchor), &absent, 1, puts, 2, NULL, 0, &c->arena,
                gw_left_ms(c), &made, NULL, NULL, reterr);
    if (rc != RC_OK) return rc;
    gw_collection_forget(gw, req->name);
    rc = gw_collection(gw, req->name, &c->arena, gw_left_ms(c), col, reterr);
    if (rc != RC_OK) return rc;
    gw_collection_wipe(col);
    if (!made && (id128_is_zero(&rec->request) || !id128_eq(&col->rec.request, &rec->request))) {
        /* not a retry: the same settings are a success all the same */
        if (!gw_slice_is(col->rec.kind, req->policy->kind) ||
            !gw_slice_is(col->rec.society, req->policy->society) ||
            col->rec.chunk_bytes != rec->chunk_bytes || col->rec.unchecked != rec->unchecked ||
            !gw_slice_is(col->rec.deid_profile, req->policy->deid_profile)) {
            return err_set(
                reterr, RC_EXISTS,
                "collection '%s' exists with other settings; see `mikura collection show %s`",
                req->name, req->name);
        }
    }
    log_info("collection_created", "rid=%s name=%s by=%s new=%d", fcall_rid(c), req->name,
             fcall_peer(c)->uri, made);
    return reply_collection(c, col, false, reterr);
}

static enum rc get_collection(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__GetCollectionRequest *req;
    struct gw_collection *col = arena_alloc(&c->arena, sizeof *col);
    enum rc rc = fcall_request(c, &mikura__v1__get_collection_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (col == NULL) return err_set(reterr, RC_NOMEM, "a collection");
    rc = gw_collection(gw, req->name, &c->arena, gw_left_ms(c), col, reterr);
    if (rc != RC_OK) return rc;
    gw_collection_wipe(col);
    rc = gw_allowed(c, col, GW_SEE, reterr);
    return rc != RC_OK ? rc : reply_collection(c, col, true, reterr);
}

struct seen_collections {
    struct fcall *c;
    Collection **out;
    size_t n, max;
    struct err err;
};

static enum rc each_collection(void *arg, struct slice name, const struct record_list *row)
{
    struct seen_collections *s = arg;
    struct gw *gw = s->c->service;
    struct gw_collection *col = arena_alloc(&s->c->arena, sizeof *col);
    char *text = gw_dup(&s->c->arena, name);
    Collection *m;
    enum rc rc;

    (void)row;
    if (col == NULL || text == NULL) return RC_NOMEM;
    rc = gw_collection(gw, text, &s->c->arena, gw_left_ms(s->c), col, &s->err);
    if (rc == RC_NOTFOUND) return RC_OK; /* its list row came first */
    if (rc != RC_OK) return rc;
    gw_collection_wipe(col);
    switch (fcall_peer(s->c)->role) {
    case TLS_OPERATOR:
        break;
    case TLS_AGENT:
        if (!gw_slice_is(col->rec.society, fcall_peer(s->c)->kind)) return RC_OK;
        break;
    default: {
        bool granted = false;

        for (uint32_t i = 0; i < col->rec.grants_n; i++) {
            granted = granted || (gw_slice_is(col->rec.grants[i].subject, fcall_peer(s->c)->uri) &&
                                  col->rec.grants[i].role != MIKURA__V1__GRANT_ROLE__GRANT_NONE);
        }
        if (!granted) return RC_OK;
    }
    }
    m = collection_message(&s->c->arena, col, fcall_peer(s->c)->role == TLS_OPERATOR);
    if (m == NULL) return RC_NOMEM;
    if (s->n == s->max) return RC_RANGE;
    s->out[s->n++] = m;
    return RC_OK;
}

/* The last name of the page before: a place in the order, good for ever, whatever became of it. */
static enum rc token_check(const char *token, enum rc (*name_check)(struct slice, struct err *),
                           const char *what, struct err *reterr)
{
    if (token[0] == 0 || name_check(gw_text(token), NULL) == RC_OK) return RC_OK;
    return err_set(reterr, RC_INVAL,
                   "page_token: not one that a listing of %s gave; list again without it", what);
}

static enum rc list_collections(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__ListCollectionsRequest *req;
    Mikura__V1__ListCollectionsResponse answer = MIKURA__V1__LIST_COLLECTIONS_RESPONSE__INIT;
    struct seen_collections seen = {.c = c};
    enum rc rc = fcall_request(c, &mikura__v1__list_collections_request__descriptor, &req, reterr);

    if (rc == RC_OK)
        rc = token_check(req->page_token, name_check_collection, "collections", reterr);
    if (rc != RC_OK) return rc;
    seen.max = req->page_size == 0 ? 100 : MIN(req->page_size, 1000u);
    seen.out = arena_alloc(&c->arena, seen.max * sizeof(Collection *));
    if (seen.out == NULL) return err_set(reterr, RC_NOMEM, "a page of collections");
    rc = gw_list_names(gw, gw->meta_pool, &record_scope_collections, "", req->page_token, &c->arena,
                       gw_left_ms(c), each_collection, &seen, reterr);
    if (rc != RC_OK) {
        if (seen.err.rc != RC_OK) *reterr = seen.err;
        return rc;
    }
    answer.collections = seen.out;
    answer.n_collections = seen.n;
    if (seen.n == seen.max) answer.next_page_token = seen.out[seen.n - 1]->name;
    return fcall_send(c, &answer.base);
}

static enum rc grant(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__GrantRequest *req;
    struct gw_collection *col = arena_alloc(&c->arena, sizeof *col);
    uint8_t *key = arena_raw(&c->arena, RECORD_KEY_BYTES_MAX);
    struct tls_identity who;
    enum rc rc = fcall_request(c, &mikura__v1__grant_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (col == NULL || key == NULL) return err_set(reterr, RC_NOMEM, "a grant");
    if (req->grant == NULL) return err_set(reterr, RC_INVAL, "no grant given");
    rc = tls_identity_parse(req->grant->subject, &who, reterr);
    if (rc != RC_OK || who.role != TLS_RESEARCHER) {
        return err_set(
            reterr, RC_INVAL,
            "subject '%s': expected a researcher's certificate URI, mikura://researcher/NAME",
            req->grant->subject);
    }
    for (int tries = 0; tries < 16; tries++) {
        struct gw_compare same = {.kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_VERSION};
        struct gw_put put;
        uint32_t i = 0;
        bool done;

        gw_collection_forget(gw, req->collection);
        rc = gw_collection(gw, req->collection, &c->arena, gw_left_ms(c), col, reterr);
        if (rc != RC_OK) return rc;
        gw_collection_wipe(col);
        while (i < col->rec.grants_n &&
               !gw_slice_is(col->rec.grants[i].subject, req->grant->subject))
            i++;
        if (req->grant->role == MIKURA__V1__GRANT_ROLE__GRANT_NONE) {
            if (i == col->rec.grants_n) break;
            col->rec.grants[i] = col->rec.grants[--col->rec.grants_n];
        } else {
            if (i == RECORD_GRANTS_MAX) {
                return err_set(reterr, RC_BUSY,
                               "collection '%s' has %u grants, the most there can be",
                               req->collection, RECORD_GRANTS_MAX);
            }
            if (i == col->rec.grants_n) col->rec.grants_n++;
            col->rec.grants[i].subject = gw_text(req->grant->subject);
            col->rec.grants[i].role = (uint8_t)req->grant->role;
        }
        put.key = same.key = (struct slice){key, record_key(&col->anchor, RECORD_COLLECTION, key)};
        same.number = col->version;
        rc = GW_ENCODE(&c->arena, collection, &col->rec, &put.value, reterr);
        if (rc != RC_OK) return rc;
        rc = gw_txn(gw, gw_at(gw, 0, &col->anchor), &same, 1, &put, 1, NULL, 0, &c->arena,
                    gw_left_ms(c), &done, &col->version, NULL, reterr);
        if (rc != RC_OK) return rc;
        gw_collection_forget(gw, req->collection);
        if (done) break;
        if (tries == 15)
            return err_set(reterr, RC_ABORTED, "collection '%s' keeps changing; retry",
                           req->collection);
    }
    log_info("grant", "rid=%s collection=%s subject=%s role=%d by=%s", fcall_rid(c),
             req->collection, req->grant->subject, (int)req->grant->role, fcall_peer(c)->uri);
    return reply_collection(c, col, false, reterr);
}

/* ---- cases ---- */
static Mikura__V1__Case *case_message(struct arena *a, const char *collection, struct slice case_id,
                                      const struct record_head *head, const struct record_case *rec,
                                      bool agent)
{
    Mikura__V1__Case *m = arena_alloc(a, sizeof *m);

    if (m == NULL) return NULL;
    mikura__v1__case__init(m);
    m->collection = (char *)(uintptr_t)collection;
    m->case_id = gw_dup(a, case_id);
    m->state = (Mikura__V1__CaseState)head->state;
    m->generation = head->generation;
    m->committed_unix_ms = head->committed_unix_ms;
    if (agent) return m->case_id == NULL ? NULL : m;
    m->objects = head->objects;
    m->bytes_stored = head->bytes_stored;
    if (rec != NULL) {
        m->facility = gw_dup(a, rec->facility);
        m->document_version = rec->document_version;
    }
    return m->case_id == NULL || m->facility == NULL ? NULL : m;
}

/* Where a case's document belongs: what its sealing authenticates. */
static struct slice document_identity(const struct gw_case *cs, uint8_t key[RECORD_KEY_BYTES_MAX])
{
    return (struct slice){key, record_key(&cs->anchor, RECORD_DOCUMENT, key)};
}

static enum rc document_read(struct fcall *c, struct gw *gw, const struct gw_case *cs,
                             char **ret_json, struct err *reterr)
{
    uint8_t *key = arena_raw(&c->arena, RECORD_KEY_BYTES_MAX);
    Mikura__Internal__V1__GetResponse *got;
    struct record_document doc;
    struct slice k;
    size_t n;
    enum rc rc;

    if (key == NULL) return err_set(reterr, RC_NOMEM, "a case's document");
    k = document_identity(cs, key);
    rc = route_get(gw->route, cs->at, &k, 1, gw_left_ms(c), &c->arena, &got, reterr);
    if (rc != RC_OK || got->items[0]->version == 0) return rc;
    rc = record_document_decode(gw_bytes(got->items[0]->value), &doc, reterr);
    if (rc != RC_OK) return rc;
    *ret_json = arena_alloc(
        &c->arena, doc.sealed.n + 1); /* longer than the plain text, so it ends with a zero */
    if (*ret_json == NULL) return err_set(reterr, RC_NOMEM, "a case's document");
    rc = docseal_open(&cs->key, DOCSEAL_CASE, k, doc.sealed, (uint8_t *)*ret_json, &n);
    return rc == RC_OK ? RC_OK
                       : err_set(reterr, rc, "the case's document does not open under its key");
}

static enum rc get_case(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__GetCaseRequest *req;
    Mikura__V1__Case *m;
    struct gw_collection *col = arena_alloc(&c->arena, sizeof *col);
    struct gw_case *cs = arena_alloc(&c->arena, sizeof *cs);
    bool agent = fcall_peer(c)->role == TLS_AGENT;
    enum rc rc = fcall_request(c, &mikura__v1__get_case_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (col == NULL || cs == NULL) return err_set(reterr, RC_NOMEM, "a case");
    rc = gw_collection(gw, req->collection, &c->arena, gw_left_ms(c), col, reterr);
    if (rc != RC_OK) return rc;
    rc = gw_allowed(c, col, GW_SEE, reterr);
    if (rc == RC_OK)
        rc = gw_case(gw, col, req->case_id, false, &c->arena, gw_left_ms(c), cs, reterr);
    gw_collection_wipe(col);
    if (rc != RC_OK) return rc;
    m = case_message(&c->arena, req->collection, cs->rec.case_id, &cs->head, &cs->rec, agent);
    rc = m == NULL ? err_set(reterr, RC_NOMEM, "a case") : RC_OK;
    if (rc == RC_OK && fcall_peer(c)->role == TLS_RESEARCHER && cs->rec.document_version != 0) {
        rc = document_read(c, gw, cs, &m->document_json, reterr);
    }
    gw_case_wipe(cs);
    return rc != RC_OK ? rc : fcall_send(c, &m->base);
}

struct seen_cases {
    struct fcall *c;
    const char *collection;
    Mikura__V1__Case **out;
    size_t n, max;
};

static enum rc each_case(void *arg, const struct gw_case_line *line)
{
    struct seen_cases *s = arg;
    bool agent = fcall_peer(s->c)->role == TLS_AGENT;
    Mikura__V1__Case *m;

    if (fcall_peer(s->c)->role == TLS_RESEARCHER && line->head.generation == 0) return RC_OK;
    if (s->n == s->max) return RC_RANGE;
    m = case_message(&s->c->arena, s->collection, line->case_id, &line->head, NULL, agent);
    if (m == NULL) return RC_NOMEM;
    s->out[s->n++] = m;
    return RC_OK;
}

static enum rc list_cases(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__ListCasesRequest *req;
    Mikura__V1__ListCasesResponse answer = MIKURA__V1__LIST_CASES_RESPONSE__INIT;
    struct gw_collection *col = arena_alloc(&c->arena, sizeof *col);
    struct seen_cases seen = {.c = c};
    enum rc rc = fcall_request(c, &mikura__v1__list_cases_request__descriptor, &req, reterr);

    if (rc == RC_OK) rc = token_check(req->page_token, name_check_case, "cases", reterr);
    if (rc != RC_OK) return rc;
    seen.collection = req->collection;
    seen.max = req->page_size == 0 ? 100 : MIN(req->page_size, 1000u);
    seen.out = arena_alloc(&c->arena, seen.max * sizeof *seen.out);
    if (col == NULL || seen.out == NULL) return err_set(reterr, RC_NOMEM, "a page of cases");
    rc = gw_collection(gw, req->collection, &c->arena, gw_left_ms(c), col, reterr);
    if (rc != RC_OK) return rc;
    gw_collection_wipe(col);
    rc = gw_allowed(c, col, GW_SEE, reterr);
    if (rc != RC_OK) return rc;
    rc = gw_list_cases(gw, col, req->prefix, req->page_token, (uint32_t)seen.max + 1, &c->arena,
                       gw_left_ms(c), each_case, &seen, NULL, reterr);
    if (rc != RC_OK) return rc;
    answer.cases = seen.out;
    answer.n_cases = seen.n;
    if (seen.n == seen.max) answer.next_page_token = seen.out[seen.n - 1]->case_id;
    return fcall_send(c, &answer.base);
}

static enum rc document_check(const char *text, size_t n, struct err *reterr)
{
    json_error_t e;
    json_t *j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    bool object = json_is_object(j);

    json_decref(j);
    if (object) return RC_OK;
    if (j != NULL) return err_set(reterr, RC_INVAL, "document_json: expected one JSON object");
    return err_set(reterr, RC_INVAL, "document_json, line %d column %d: %s", e.line, e.column,
                   e.text);
}

static enum rc put_document(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__PutCaseDocumentRequest *req;
    Mikura__V1__Case *m;
    struct gw_collection *col = arena_alloc(&c->arena, sizeof *col);
    struct gw_case *cs = arena_alloc(&c->arena, sizeof *cs);
    uint8_t *keys = arena_raw(&c->arena, 2 * RECORD_KEY_BYTES_MAX), *sealed;
    struct gw_compare same = {.kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_VERSION};
    struct record_document doc;
    struct gw_put puts[2];
    size_t n;
    bool done;
    enum rc rc = fcall_request(c, &mikura__v1__put_case_document_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    n = strlen(req->document_json);
    if (n > (1u << 20) - 4096) {
        return err_set(reterr, RC_BUSY, "a case's document has at most %u bytes, this one %zu",
                       (1u << 20) - 4096, n);
    }
    rc = document_check(req->document_json, n, reterr);
    if (rc != RC_OK) return rc;
    sealed = arena_alloc(&c->arena, n + DOCSEAL_EXTRA_BYTES);
    if (col == NULL || cs == NULL || keys == NULL || sealed == NULL)
        return err_set(reterr, RC_NOMEM, "a case's document");
    rc = gw_collection(gw, req->collection, &c->arena, gw_left_ms(c), col, reterr);
    if (rc != RC_OK) return rc;
    rc = gw_allowed(c, col, GW_WRITE, reterr);
    if (rc == RC_OK)
        rc = gw_case(gw, col, req->case_id, true, &c->arena, gw_left_ms(c), cs, reterr);
    gw_collection_wipe(col);
    if (rc != RC_OK) return rc;
    if (cs->rec.document_version != req->expected_document_version) {
        rc = err_set(reterr, RC_ABORTED, "the document's version is %llu, not %llu; read it again",
                     (unsigned long long)cs->rec.document_version,
                     (unsigned long long)req->expected_document_version);
        goto out;
    }
    puts[0].key = document_identity(cs, keys);
    keys += RECORD_KEY_BYTES_MAX;
    puts[1].key = (struct slice){keys, record_key(&cs->anchor, RECORD_CASE, keys)};
    rc = docseal_seal(&cs->key, DOCSEAL_CASE, puts[0].key, gw_text(req->document_json), sealed);
    if (rc != RC_OK) goto out;
    cs->rec.document_version++;
    if (req->facility[0] != 0) cs->rec.facility = gw_text(req->facility);
    doc.version = cs->rec.document_version;
    doc.sealed = (struct slice){sealed, n + DOCSEAL_EXTRA_BYTES};
    rc = GW_ENCODE(&c->arena, document, &doc, &puts[0].value, reterr);
    if (rc == RC_OK) rc = GW_ENCODE(&c->arena, case, &cs->rec, &puts[1].value, reterr);
    if (rc != RC_OK) goto out;
    same.key = puts[1].key;
    same.number = cs->rec_version;
    rc = gw_txn(gw, cs->at, &same, 1, puts, 2, NULL, 0, &c->arena, gw_left_ms(c), &done, NULL, NULL,
                reterr);
    if (rc == RC_OK && !done)
        rc = err_set(reterr, RC_ABORTED, "the case's record changed meanwhile; retry");
out:
    gw_case_wipe(cs);
    if (rc != RC_OK) return rc;
    m = case_message(&c->arena, req->collection, gw_text(req->case_id), &cs->head, &cs->rec, true);
    if (m == NULL) return err_set(reterr, RC_NOMEM, "a case");
    m->document_version = cs->rec.document_version;
    return fcall_send(c, &m->base);
}

enum rc gw_query(struct fcall *c, struct err *reterr);
const struct fcall_method gw_catalog_methods[] = {
    {"/mikura.v1.Catalog/CreateCollection", false, 0, create_collection},
    {"/mikura.v1.Catalog/GetCollection", false, 0, get_collection},
    {"/mikura.v1.Catalog/ListCollections", false, 0, list_collections},
    {"/mikura.v1.Catalog/Grant", false, 0, grant},
    {"/mikura.v1.Catalog/GetCase", false, 0, get_case},
    {"/mikura.v1.Catalog/ListCases", false, 0, list_cases},
    {"/mikura.v1.Catalog/PutCaseDocument", false, 0, put_document},
    {"/mikura.v1.Catalog/Query", false, 0, gw_query},
    {NULL, false, 0, NULL},
};
