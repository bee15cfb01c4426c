/* gateway/api/objects_read.c - Read, Stat, List. */
#include "gateway/api/listing.h"
#include "gateway/api/object.h"
#include "gateway/api/objects.h"
#include "gateway/ingest/name.h"
#include <stdlib.h>

/* Collection, right, case and object of a request. Keys are in *cs until gw_case_wipe. */
static enum rc open_ref(struct fcall *c, const Mikura__V1__ObjectRef *ref, struct gw_case **ret_cs,
                        struct gw_object **ret_o, struct err *reterr)
{
    struct gw *gw = c->service;
    struct gw_collection *col = arena_alloc(&c->arena, sizeof *col);
    struct gw_case *cs = arena_alloc(&c->arena, sizeof *cs);
    enum rc rc;

    if (ref == NULL) return err_set(reterr, RC_INVAL, "no object named");
    if (col == NULL || cs == NULL) return err_set(reterr, RC_NOMEM, "an object");
    rc = gw_collection(gw, ref->collection, &c->arena, gw_left_ms(c), col, reterr);
    if (rc != RC_OK) return rc;
    rc = gw_allowed(c, col, GW_READ, reterr);
    if (rc == RC_OK)
        rc = gw_object_open(gw, col, ref->case_id, ref->path, ref->version, &c->arena,
                            gw_left_ms(c), cs, ret_o, reterr);
    gw_collection_wipe(col);
    if (rc == RC_OK) *ret_cs = cs;
    return rc;
}

struct sending {
    struct fcall *c;
    Mikura__V1__ObjectInfo *info; /* of the first message; then NULL */
};

static enum rc send_piece(void *arg, const struct object_piece *piece)
{
    struct sending *s = arg;
    Mikura__V1__ReadResponse m = MIKURA__V1__READ_RESPONSE__INIT;
    struct rpc_payload payload = {.field = 15,
                                  .p = piece->p,
                                  .n = piece->n,
                                  .owner = piece->owner,
                                  .owner_free = piece->owner_free};

    m.info = s->info;
    s->info = NULL;
    return fcall_send_payload(s->c, &m.base, &payload);
}

enum rc objects_read(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__ReadRequest *req;
    struct sending s = {.c = c};
    struct gw_object *o;
    struct gw_case *cs;
    uint64_t length;
    enum rc rc = fcall_request(c, &mikura__v1__read_request__descriptor, &req, reterr);

    if (rc == RC_OK) rc = open_ref(c, req->object, &cs, &o, reterr);
    if (rc != RC_OK) return rc;
    rc = gw_object_info(cs, o, req->object->collection, req->object->case_id, true, &c->arena,
                        &s.info, reterr);
    if (rc != RC_OK) goto out;
    if (req->offset_bytes > o->index.size_bytes) {
        rc =
            err_set(reterr, RC_RANGE, "offset %llu is past the end: the object has %llu bytes",
                    (unsigned long long)req->offset_bytes, (unsigned long long)o->index.size_bytes);
        goto out;
    }
    length = o->index.size_bytes - req->offset_bytes;
    if (req->length_bytes != 0) length = MIN(length, req->length_bytes);
    /* a stream lives as long as its client reads; each wait for storage has its own limit */
    rc = gw_object_bytes(gw, cs, o, req->offset_bytes, length, GW_CALL_MS, send_piece, &s, reterr);
    if (rc == RC_OK && s.info != NULL) { /* nothing to send: the description alone */
        Mikura__V1__ReadResponse m = MIKURA__V1__READ_RESPONSE__INIT;

        m.info = s.info;
        rc = fcall_send(c, &m.base);
    }
out:
    gw_case_wipe(cs);
    return rc;
}

enum rc objects_stat(struct fcall *c, struct err *reterr)
{
    Mikura__V1__StatRequest *req;
    Mikura__V1__ObjectInfo *info;
    struct gw_object *o;
    struct gw_case *cs;
    enum rc rc = fcall_request(c, &mikura__v1__stat_request__descriptor, &req, reterr);

    if (rc == RC_OK) rc = open_ref(c, req->object, &cs, &o, reterr);
    if (rc != RC_OK) return rc;
    rc = gw_object_info(cs, o, req->object->collection, req->object->case_id, true, &c->arena,
                        &info, reterr);
    gw_case_wipe(cs);
    return rc != RC_OK ? rc : fcall_send(c, &info->base);
}

/* ---- list ---- */
#define LIST_BATCH 256u
struct listing {
    struct fcall *c;
    const char *collection, *case_id, *prefix;
    const struct gw_collection *col;
    const struct gw_case *cs;
    Mikura__V1__ObjectInfo *batch[LIST_BATCH];
    uint32_t batch_n;
    uint64_t told, limit;
    struct arena a; /* of the batch */
    struct err *err;
};

/* Page token: case id, zero, path; in hex, so that it is text whatever they hold. */
static char *token_make(struct arena *a, const char *case_id, const char *path)
{
    static const char HEX[] = "0123456789abcdef";
    size_t n = strlen(case_id) + 1 + strlen(path), k = 0;
    char *t = arena_alloc(a, 2 * n + 1);

    for (size_t i = 0; i < n && t != NULL; i++) {
        uint8_t b = (uint8_t)(i <= strlen(case_id) ? case_id[i] : path[i - strlen(case_id) - 1]);

        t[k++] = HEX[b >> 4];
        t[k++] = HEX[b & 15];
    }
    return t;
}

static int nibble(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* of_case: the case that is listed; "" = all. A token names a place in the order of all names, so
 * it is good for ever, whatever moved, came or went since; only one that no listing of this kind
 * gives out is refused. */
static enum rc token_read(struct arena *a, const char *token, const char *of_case, char **ret_case,
                          char **ret_path, struct err *reterr)
{
    size_t n = strlen(token) / 2;
    char *t = arena_alloc(a, n + 2);
    bool good = strlen(token) % 2 == 0;

    if (t == NULL) return err_set(reterr, RC_NOMEM, "a page token");
    for (size_t i = 0; i < n && good; i++) {
        int hi = nibble(token[2 * i]), lo = nibble(token[2 * i + 1]);

        good = hi >= 0 && lo >= 0;
        t[i] = (char)((unsigned)hi << 4 | (unsigned)lo);
    }
    *ret_case = t;
    *ret_path = n == 0 || !good ? t : t + strlen(t) + 1;
    if (n == 0 && good) return RC_OK;
    good = good && strlen(t) < n && name_check_case(gw_text(t), NULL) == RC_OK &&
           name_check_path(gw_text(*ret_path), NULL) == RC_OK;
    if (!good)
        return err_set(reterr, RC_INVAL,
                       "page_token: not one that a listing of objects gave; list again without it");
    if (of_case[0] != 0 && strcmp(of_case, t) != 0)
        return err_set(reterr, RC_INVAL,
                       "page_token: of a listing of another case; list this one without it");
    return RC_OK;
}

static enum rc flush(struct listing *l, bool more)
{
    Mikura__V1__ListResponse m = MIKURA__V1__LIST_RESPONSE__INIT;
    enum rc rc = RC_OK;

    if (l->batch_n > 0) {
        Mikura__V1__ObjectRef *last = l->batch[l->batch_n - 1]->object;

        m.objects = l->batch;
        m.n_objects = l->batch_n;
        if (more) m.page_token = token_make(&l->a, last->case_id, last->path);
        rc = m.page_token == NULL ? RC_NOMEM : fcall_send(l->c, &m.base);
    }
    l->batch_n = 0;
    arena_deinit(&l->a);
    arena_init(&l->a);
    return rc;
}

static enum rc list_object(void *arg, const struct gw_object_line *line)
{
    struct listing *l = arg;
    struct gw_object o = {
        .path = line->path, .version = line->version, .index_key = line->key, .index = line->index};
    enum rc rc;

    if (l->limit != 0 && l->told == l->limit) return RC_RANGE;
    if (l->batch_n == LIST_BATCH) {
        rc = flush(l, true);
        if (rc != RC_OK) return rc;
    }
    rc = object_digests_open(l->cs, line->key, line->index.sealed_digests, &o.digests, l->err);
    if (rc == RC_OK) {
        rc = gw_object_info(l->cs, &o, l->collection, arena_str(&l->a, "%s", l->case_id), false,
                            &l->a, &l->batch[l->batch_n], l->err);
    }
    if (rc != RC_OK) return rc;
    l->batch_n++;
    l->told++;
    return RC_OK;
}

static enum rc list_case(struct listing *l, const char *case_id, const char *after_path,
                         struct err *reterr)
{
    struct gw *gw = l->c->service;
    struct gw_case *cs = malloc(sizeof *cs);
    struct arena a;
    enum rc rc;

    if (cs == NULL) return err_set(reterr, RC_NOMEM, "a case");
    arena_init(&a);
    rc = gw_case(gw, l->col, case_id, false, &a, gw_left_ms(l->c), cs, reterr);
    if (rc == RC_OK) {
        l->cs = cs;
        l->case_id = case_id;
        rc = gw_object_each(gw, cs, gw_text(l->prefix), gw_text(after_path), gw_left_ms(l->c),
                            list_object, l, reterr);
        gw_case_wipe(cs);
    }
    arena_deinit(&a);
    free(cs);
    return rc;
}

struct case_names {
    struct arena a;
    char **names;
    uint32_t n, max;
};
static enum rc keep_name(void *arg, const struct gw_case_line *line)
{
    struct case_names *s = arg;

    if (line->head.generation == 0 || line->head.state != RECORD_CASE_PUBLISHED) return RC_OK;
    if (s->n == s->max) return RC_RANGE;
    s->names[s->n] = gw_dup(&s->a, line->case_id);
    return s->names[s->n++] == NULL ? RC_NOMEM : RC_OK;
}

/* All cases, a batch of names at a time: a case's objects are listed while no scan of names is
 * open. */
static enum rc list_all(struct listing *l, const char *after_case, struct err *reterr)
{
    struct gw *gw = l->c->service;
    struct case_names s = {.max = 256};
    char *after;
    enum rc rc = RC_OK;

    arena_init(&s.a);
    after = arena_str(&s.a, "%s", after_case);
    for (;;) {
        struct arena old;

        s.n = 0;
        s.names = arena_alloc(&s.a, s.max * sizeof *s.names);
        if (s.names == NULL || after == NULL) rc = err_set(reterr, RC_NOMEM, "a page of cases");
        if (rc == RC_OK) {
            rc = gw_list_cases(gw, l->col, "", after, UINT32_MAX, &s.a, gw_left_ms(l->c), keep_name,
                               &s, NULL, reterr);
        }
        for (uint32_t i = 0; i < s.n && rc == RC_OK && (l->limit == 0 || l->told < l->limit); i++) {
            rc = list_case(l, s.names[i], "", reterr);
            if (rc == RC_NOTFOUND || rc == RC_PRECOND) rc = RC_OK; /* withdrawn meanwhile */
        }
        if (rc != RC_OK || s.n < s.max || (l->limit != 0 && l->told >= l->limit)) break;
        old = s.a;
        arena_init(&s.a);
        after = arena_str(&s.a, "%s", s.names[s.n - 1]);
        arena_deinit(&old);
    }
    arena_deinit(&s.a);
    return rc;
}

enum rc objects_list(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__ListRequest *req;
    struct gw_collection *col = arena_alloc(&c->arena, sizeof *col);
    struct listing *l = arena_alloc(&c->arena, sizeof *l);
    char *after_case, *after_path;
    enum rc rc = fcall_request(c, &mikura__v1__list_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (col == NULL || l == NULL) return err_set(reterr, RC_NOMEM, "a listing");
    rc = token_read(&c->arena, req->page_token, req->case_id, &after_case, &after_path, reterr);
    if (rc == RC_OK) rc = gw_collection(gw, req->collection, &c->arena, gw_left_ms(c), col, reterr);
    if (rc != RC_OK) return rc;
    rc = gw_allowed(c, col, fcall_peer(c)->role == TLS_OPERATOR ? GW_ADMIN : GW_READ, reterr);
    if (rc != RC_OK) goto out;
    l->c = c;
    l->col = col;
    l->collection = req->collection;
    l->prefix = req->prefix;
    l->limit = req->limit;
    l->err = reterr;
    arena_init(&l->a);
    if (req->case_id[0] != 0) {
        rc = list_case(l, req->case_id, after_path, reterr);
    } else {
        if (after_case[0] != 0) { /* the rest of that case first */
            rc = list_case(l, after_case, after_path, reterr);
            if (rc == RC_NOTFOUND || rc == RC_PRECOND) rc = RC_OK;
        }
        if (rc == RC_OK) rc = list_all(l, after_case, reterr);
    }
    if (rc == RC_OK) rc = flush(l, l->limit != 0 && l->told == l->limit);
    arena_deinit(&l->a);
out:
    gw_collection_wipe(col);
    return rc;
}
