/* gateway/api/query.c - Catalog.Query, and the same search for jobs: which visible object versions
 * fit an expression.
 *
 * Only INDEX rows are read: no key is opened, so a query sees what lies in clear (the collection's
 * index fields). Rights first: a collection that is named and not granted ends the query before
 * anything is read. */
#include "common/base/log.h"
#include "gateway/api/cohort.h"
#include "gateway/api/listing.h"
#include "gateway/query/query.h"
#include <stdlib.h>

#define COLLECTIONS_MAX 256u
#define BATCH_MATCHES   256u
#define BATCH_BYTES     (1u << 20)

struct search {
    struct fcall *c;
    struct query *q;
    const struct gw_collection *col;
    enum rc (*each)(void *arg, const struct cohort_match *m);
    void *arg;
    char *names[COLLECTIONS_MAX];
    uint32_t names_n;
    bool too_many, ended;
    struct err *err;
    /* the case and object under test */
    const struct gw_case_line *cs;
    const struct gw_object_line *line;
};

static struct query_value text_value(struct slice s)
{
    return (struct query_value){.type = QUERY_TEXT, .text = s};
}

static struct query_value get_value(void *ctx, struct slice name)
{
    const struct search *s = ctx;
    const struct record_index *idx = &s->line->index;

    if (gw_slice_is(name, "collection")) return text_value(s->col->rec.name);
    if (gw_slice_is(name, "case")) return text_value(s->cs->case_id);
    if (gw_slice_is(name, "path")) return text_value(s->line->path);
    if (gw_slice_is(name, "media_type")) return text_value(idx->media_type);
    if (gw_slice_is(name, "size"))
        return (struct query_value){.type = QUERY_INT, .integer = (int64_t)idx->size_bytes};
    for (uint32_t i = 0; i < idx->attrs_n; i++) {
        const struct record_attr *at = &idx->attrs[i];

        if (at->name.n != name.n || memcmp(at->name.p, name.p, name.n) != 0) continue;
        if (at->type == RECORD_ATTR_TEXT) return text_value(at->text);
        if (at->type == RECORD_ATTR_INT)
            return (struct query_value){.type = QUERY_INT, .integer = at->integer};
        return (struct query_value){.type = QUERY_REAL, .real = at->real};
    }
    return (struct query_value){.type = QUERY_ABSENT};
}

static enum rc each_object(void *arg, const struct gw_object_line *line)
{
    struct search *s = arg;
    struct cohort_match m = {s->col, s->cs->case_id, &s->cs->head, line};
    enum rc rc;

    s->line = line;
    if (!query_match(s->q, get_value, s)) return RC_OK;
    rc = s->each(s->arg, &m);
    if (rc == RC_RANGE) s->ended = true;
    return rc;
}

static enum rc each_case(void *arg, const struct gw_case_line *line)
{
    struct search *s = arg;
    struct gw *gw = s->c->service;
    struct gw_case *cs;
    enum rc rc;

    if (line->head.generation == 0 || line->head.state == RECORD_CASE_WITHDRAWN) return RC_OK;
    cs = calloc(1, sizeof *cs); /* no key in it: index rows need none */
    if (cs == NULL) return RC_NOMEM;
    cs->anchor = line->anchor;
    cs->at = gw_at(gw, s->col->rec.meta_pool, &line->anchor);
    cs->head = line->head;
    s->cs = line;
    rc = gw_object_each(gw, cs, (struct slice){NULL, 0}, (struct slice){NULL, 0}, GW_CALL_MS,
                        each_object, s, s->err);
    free(cs);
    return rc == RC_OK && s->ended ? RC_RANGE : rc;
}

static void add_name(void *ctx, struct slice name)
{
    struct search *s = ctx;

    for (uint32_t i = 0; i < s->names_n; i++) {
        if (gw_slice_is(name, s->names[i])) return;
    }
    if (s->names_n == COLLECTIONS_MAX) {
        s->too_many = true;
        return;
    }
    s->names[s->names_n] = gw_dup(&s->c->arena, name);
    if (s->names[s->names_n] != NULL) s->names_n++;
}

static enum rc add_granted(void *arg, struct slice name, const struct record_list *row)
{
    struct search *s = arg;
    struct gw *gw = s->c->service;
    struct gw_collection *col = arena_alloc(&s->c->arena, sizeof *col);
    char *text = gw_dup(&s->c->arena, name);
    enum rc rc;

    (void)row;
    if (col == NULL || text == NULL) return RC_NOMEM;
    rc = gw_collection(gw, text, &s->c->arena, gw_left_ms(s->c), col, s->err);
    if (rc == RC_NOTFOUND) return RC_OK; /* its list row came first */
    if (rc != RC_OK) return rc;
    gw_collection_wipe(col);
    for (uint32_t i = 0; i < col->rec.grants_n; i++) {
        if (gw_slice_is(col->rec.grants[i].subject, fcall_peer(s->c)->uri) &&
            col->rec.grants[i].role == MIKURA__V1__GRANT_ROLE__GRANT_READ)
            add_name(s, name);
    }
    return RC_OK;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All rights before the first row. */
static enum rc open_collections(struct search *s, struct gw_collection **ret_cols,
                                struct err *reterr)
{
    struct gw *gw = s->c->service;
    struct gw_collection *cols;
    enum rc rc = RC_OK;

    if (!query_collections(s->q, add_name, s)) {
        s->names_n = 0;
        s->too_many = false;
        rc = gw_list_names(gw, gw->meta_pool, &record_scope_collections, "", "", &s->c->arena,
                           gw_left_ms(s->c), add_granted, s, reterr);
        if (rc != RC_OK) return rc;
    }
    if (s->too_many)
        return err_set(reterr, RC_BUSY, "the expression searches more than %u collections",
                       COLLECTIONS_MAX);
    if (s->names_n > 1) qsort(s->names, s->names_n, sizeof *s->names, by_text);
    cols = arena_alloc(&s->c->arena, s->names_n * sizeof *cols);
    if (cols == NULL) return err_set(reterr, RC_NOMEM, "a query's collections");
    for (uint32_t i = 0; i < s->names_n && rc == RC_OK; i++) {
        rc = gw_collection(gw, s->names[i], &s->c->arena, gw_left_ms(s->c), &cols[i], reterr);
        if (rc != RC_OK) break;
        gw_collection_wipe(&cols[i]);
        rc = gw_allowed(s->c, &cols[i], GW_READ, reterr);
    }
    *ret_cols = cols;
    return rc;
}

enum rc cohort_each(struct fcall *c, const char *expression,
                    enum rc (*each)(void *arg, const struct cohort_match *m), void *arg,
                    struct err *reterr)
{
    struct search *s = arena_alloc(&c->arena, sizeof *s);
    struct gw *gw = c->service;
    struct gw_collection *cols;
    enum rc rc;

    if (s == NULL) return err_set(reterr, RC_NOMEM, "a query");
    s->c = c;
    s->each = each;
    s->arg = arg;
    s->err = reterr;
    rc = query_parse(gw_text(expression), &s->q, NULL, reterr);
    if (rc != RC_OK) return rc;
    rc = open_collections(s, &cols, reterr);
    for (uint32_t i = 0; i < s->names_n && rc == RC_OK && !s->ended; i++) {
        s->col = &cols[i];
        rc = gw_list_cases(gw, s->col, "", "", UINT32_MAX, &c->arena, GW_CALL_MS, each_case, s,
                           NULL, reterr);
    }
    query_free(s->q);
    return rc;
}

/* ---- Catalog.Query ---- */
struct telling {
    struct fcall *c;
    struct arena a; /* of the batch */
    Mikura__V1__QueryMatch *batch[BATCH_MATCHES];
    uint32_t batch_n;
    uint64_t told, limit;
};

static Mikura__V1__Attribute *attribute_message(struct arena *a, const struct record_attr *at)
{
    Mikura__V1__Attribute *m = arena_alloc(a, sizeof *m);

    if (m == NULL) return NULL;
    mikura__v1__attribute__init(m);
    m->name = gw_dup(a, at->name);
    if (at->type == RECORD_ATTR_TEXT) {
        m->value_case = MIKURA__V1__ATTRIBUTE__VALUE_TEXT;
        m->text = gw_dup(a, at->text);
        if (m->text == NULL) return NULL;
    } else if (at->type == RECORD_ATTR_INT) {
        m->value_case = MIKURA__V1__ATTRIBUTE__VALUE_INTEGER;
        m->integer = at->integer;
    } else {
        m->value_case = MIKURA__V1__ATTRIBUTE__VALUE_REAL;
        m->real = at->real;
    }
    return m->name == NULL ? NULL : m;
}

static Mikura__V1__QueryMatch *match_message(struct arena *a, const struct cohort_match *c)
{
    Mikura__V1__QueryMatch *m = arena_alloc(a, sizeof *m);
    Mikura__V1__ObjectRef *ref = arena_alloc(a, sizeof *ref);
    const struct record_index *idx = &c->line->index;

    if (m == NULL || ref == NULL) return NULL;
    mikura__v1__query_match__init(m);
    mikura__v1__object_ref__init(ref);
    ref->collection = gw_dup(a, c->col->rec.name);
    ref->case_id = gw_dup(a, c->case_id);
    ref->path = gw_dup(a, c->line->path);
    ref->version = c->line->version;
    m->object = ref;
    m->size_bytes = idx->size_bytes;
    m->media_type = gw_dup(a, idx->media_type);
    m->case_generation = c->head->generation;
    m->attributes = arena_alloc(a, idx->attrs_n * sizeof *m->attributes);
    if (ref->collection == NULL || ref->case_id == NULL || ref->path == NULL ||
        m->media_type == NULL || m->attributes == NULL) {
        return NULL;
    }
    for (uint32_t i = 0; i < idx->attrs_n; i++) {
        m->attributes[i] = attribute_message(a, &idx->attrs[i]);
        if (m->attributes[i] == NULL) return NULL;
        m->n_attributes++;
    }
    return m;
}

static enum rc tell_batch(struct telling *t)
{
    Mikura__V1__QueryResponse m = MIKURA__V1__QUERY_RESPONSE__INIT;
    enum rc rc;

    if (t->batch_n == 0) return RC_OK;
    m.matches = t->batch;
    m.n_matches = t->batch_n;
    rc = fcall_send(t->c, &m.base);
    t->batch_n = 0;
    arena_deinit(&t->a);
    arena_init(&t->a);
    return rc;
}

static enum rc tell_match(void *arg, const struct cohort_match *cm)
{
    struct telling *t = arg;
    Mikura__V1__QueryMatch *m;

    if (t->limit != 0 && t->told == t->limit) return RC_RANGE;
    m = match_message(&t->a, cm);
    if (m == NULL) return RC_NOMEM;
    t->batch[t->batch_n++] = m;
    t->told++;
    if (t->batch_n < BATCH_MATCHES && t->a.used_bytes < BATCH_BYTES) return RC_OK;
    return tell_batch(t);
}

enum rc gw_query(struct fcall *c, struct err *reterr);
enum rc gw_query(struct fcall *c, struct err *reterr)
{
    Mikura__V1__QueryRequest *req;
    struct telling *t = arena_alloc(&c->arena, sizeof *t);
    enum rc rc = fcall_request(c, &mikura__v1__query_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (t == NULL) return err_set(reterr, RC_NOMEM, "a query");
    t->c = c;
    t->limit = req->limit;
    arena_init(&t->a);
    rc = cohort_each(c, req->expression, tell_match, t, reterr);
    if (rc == RC_OK) rc = tell_batch(t);
    arena_deinit(&t->a);
    return rc;
}
