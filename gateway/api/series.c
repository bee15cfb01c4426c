/* gateway/api/series.c - see series.h. Manifests are read SCAN_ROWS at a time: each may hold 64 KiB
 * of its object. */
#include "gateway/api/series.h"
#include <stdlib.h>

#define SCAN_ROWS 16u

struct facts {        /* of an object */
    struct slice uid; /* in the call's arena */
    bool one_frame;
};
struct tagged { /* of a case, to be sorted */
    struct slice uid;
    uint32_t idx;   /* of the object */
    uint32_t first; /* least idx of its item */
};

/* ---- what is known of an object ---- */
static bool is_one(const Mikura__V1__Attribute *at)
{
    return at->value_case == MIKURA__V1__ATTRIBUTE__VALUE_INTEGER
               ? at->integer == 1
               : at->value_case == MIKURA__V1__ATTRIBUTE__VALUE_TEXT && strcmp(at->text, "1") == 0;
}

static enum rc facts_open(const struct gw_case *cs, struct slice key, struct slice value,
                          struct arena *a, struct arena *batch, struct facts *ret,
                          struct err *reterr)
{
    struct record_manifest *m = arena_alloc(batch, sizeof *m);
    Mikura__V1__ObjectInfo *info;
    enum rc rc;

    if (m == NULL) return err_set(reterr, RC_NOMEM, "a manifest");
    rc = record_manifest_decode(value, m, reterr);
    if (rc != RC_OK || m->sealed_attrs.n == 0) return rc;
    rc = object_attributes_open(cs, key, m->sealed_attrs, batch, &info, reterr);
    if (rc != RC_OK) return rc;
    for (size_t i = 0; i < info->n_attributes; i++) {
        const Mikura__V1__Attribute *at = info->attributes[i];

        if (strcmp(at->name, "image.frames") == 0) ret->one_frame = is_one(at);
        if (strcmp(at->name, "dicom.SeriesInstanceUID") != 0 ||
            at->value_case != MIKURA__V1__ATTRIBUTE__VALUE_TEXT)
            continue;
        ret->uid.n = MIN(strlen(at->text), (size_t)64);
        ret->uid.p = arena_copy(a, at->text, ret->uid.n);
        if (ret->uid.p == NULL) return err_set(reterr, RC_NOMEM, "a series");
    }
    return RC_OK;
}

static enum rc facts_read(struct gw *gw, const struct gw_case *cs, const struct record_item *o,
                          uint32_t n, struct arena *a, uint64_t left_ms, struct facts *ret,
                          struct err *reterr)
{
    Mikura__Internal__V1__GetResponse *got;
    struct slice k[SCAN_ROWS];
    uint32_t of[SCAN_ROWS], k_n = 0;
    struct arena batch;
    enum rc rc = RC_OK;

    arena_init(&batch);
    for (uint32_t i = 0; i < n && rc == RC_OK; i++) {
        uint8_t *key;

        if (!gw_slice_is(o[i].media_type, "application/dicom")) continue;
        key = arena_raw(&batch, RECORD_KEY_BYTES_MAX);
        if (key == NULL) {
            rc = err_set(reterr, RC_NOMEM, "manifests");
            break;
        }
        k[k_n].p = key;
        k[k_n].n = record_key_object(&cs->anchor, RECORD_MANIFEST, o[i].path, o[i].version, key);
        of[k_n++] = i;
    }
    if (rc == RC_OK && k_n > 0)
        rc = route_get(gw->route, cs->at, k, k_n, left_ms, &batch, &got, reterr);
    for (uint32_t i = 0; i < k_n && rc == RC_OK; i++) {
        if (got->items[i]->version == 0) continue; /* deleted since: set aside when it is read */
        rc = facts_open(cs, k[i], gw_bytes(got->items[i]->value), a, &batch, &ret[of[i]], reterr);
    }
    arena_deinit(&batch);
    return rc;
}

enum rc gw_item_case(struct gw *gw, const struct record_item *o, struct arena *a, uint64_t left_ms,
                     struct gw_case *ret, struct err *reterr)
{
    char *collection = gw_dup(a, o->collection), *case_id = gw_dup(a, o->case_id);
    struct gw_collection *col = arena_alloc(a, sizeof *col);
    enum rc rc;

    if (collection == NULL || case_id == NULL || col == NULL)
        return err_set(reterr, RC_NOMEM, "a case");
    rc = gw_collection(gw, collection, a, left_ms, col, reterr);
    if (rc != RC_OK) return rc;
    if (id128_eq(&col->rec.id, &o->collection_id))
        rc = gw_case(gw, col, case_id, false, a, left_ms, ret, reterr);
    else
        rc = err_set(reterr, RC_NOTFOUND, "its collection was made anew since");
    gw_collection_wipe(col);
    return rc;
}

/* Objects [0, n) of one case. */
static enum rc case_facts(struct gw *gw, const struct record_item *o, uint32_t n, struct arena *a,
                          uint64_t left_ms, struct facts *ret, struct err *reterr)
{
    struct arena mine; /* there may be many cases */
    struct gw_case *cs;
    enum rc rc;

    arena_init(&mine);
    cs = arena_alloc(&mine, sizeof *cs);
    rc = cs == NULL ? err_set(reterr, RC_NOMEM, "a case")
                    : gw_item_case(gw, o, &mine, left_ms, cs, reterr);
    for (uint32_t i = 0; i < n && rc == RC_OK; i += SCAN_ROWS)
        rc = facts_read(gw, cs, o + i, MIN(n - i, SCAN_ROWS), a, left_ms, ret + i, reterr);
    if (cs != NULL) gw_case_wipe(cs);
    arena_deinit(&mine);
    /* withdrawn since: its objects are set aside when they are to be read */
    return rc == RC_NOTFOUND || rc == RC_PRECOND ? RC_OK : rc;
}

/* ---- grouping ---- */
static int by_uid(const void *a, const void *b)
{
    const struct tagged *x = a, *y = b;
    size_t n = MIN(x->uid.n, y->uid.n);
    int d = n == 0 ? 0 : memcmp(x->uid.p, y->uid.p, n);

    if (d != 0) return d;
    if (x->uid.n != y->uid.n) return x->uid.n < y->uid.n ? -1 : 1;
    return x->idx < y->idx ? -1 : x->idx > y->idx;
}

static int by_first(const void *a, const void *b)
{
    const struct tagged *x = a, *y = b;

    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    return x->idx < y->idx ? -1 : x->idx > y->idx;
}

static bool same_uid(const struct tagged *x, const struct tagged *y)
{
    return x->uid.n > 0 && x->uid.n == y->uid.n && memcmp(x->uid.p, y->uid.p, x->uid.n) == 0;
}

/* Appends the items of one case, whose objects begin at `base`. */
static enum rc case_group(struct tagged *t, uint32_t n, uint32_t base, struct series_items *ret,
                          struct err *reterr)
{
    qsort(t, n, sizeof *t, by_uid);
    for (uint32_t i = 0; i < n; i++)
        t[i].first = i > 0 && same_uid(&t[i], &t[i - 1]) ? t[i - 1].first : t[i].idx;
    qsort(t, n, sizeof *t, by_first);
    for (uint32_t i = 0; i < n; i++) {
        struct series_item *it = &ret->items[ret->items_n];

        ret->order[base + i] = base + t[i].idx;
        if (i > 0 && t[i].first == t[i - 1].first) {
            it[-1].n++;
            if (it[-1].n > RECORD_SLICES_MAX)
                return err_set(
                    reterr, RC_INVAL,
                    "series %.*s has more than %u slices: narrow the query, e.g. by path",
                    (int)t[i].uid.n, (const char *)t[i].uid.p, RECORD_SLICES_MAX);
            continue;
        }
        *it = (struct series_item){.uid = t[i].uid, .first = base + i, .n = 1};
        ret->items_n++;
    }
    return RC_OK;
}

enum rc gw_series_group(struct gw *gw, const struct record_item *objects, uint32_t n,
                        struct arena *a, uint64_t left_ms, struct series_items *ret,
                        struct err *reterr)
{
    struct series_items s = {.items = arena_alloc(a, n * sizeof *s.items),
                             .order = arena_alloc(a, n * sizeof *s.order)};
    uint64_t until = uv_now(gw->loop) + left_ms;
    enum rc rc = RC_OK;

    if (s.items == NULL || s.order == NULL) return err_set(reterr, RC_NOMEM, "a job's series");
    for (uint32_t from = 0, n_case; from < n && rc == RC_OK; from += n_case) {
        const struct record_item *o = objects + from;
        uint64_t now = uv_now(gw->loop);
        struct facts *f;
        struct tagged *t;

        for (n_case = 1; from + n_case < n; n_case++) {
            const struct record_item *p = &o[n_case];

            if (!id128_eq(&p->collection_id, &o->collection_id) || p->case_id.n != o->case_id.n ||
                memcmp(p->case_id.p, o->case_id.p, o->case_id.n) != 0)
                break;
        }
        f = calloc(n_case, sizeof *f);
        t = calloc(n_case, sizeof *t);
        if (f == NULL || t == NULL)
            rc = err_set(reterr, RC_NOMEM, "a job's series");
        else if (now >= until)
            rc = err_set(reterr, RC_DEADLINE, "grouping %u objects into series took too long", n);
        if (rc == RC_OK) rc = case_facts(gw, o, n_case, a, until - now, f, reterr);
        for (uint32_t i = 0; i < n_case && rc == RC_OK; i++)
            t[i] = (struct tagged){.uid = f[i].one_frame ? f[i].uid : (struct slice){0}, .idx = i};
        if (rc == RC_OK) rc = case_group(t, n_case, from, &s, reterr);
        free(f);
        free(t);
    }
    if (rc == RC_OK) *ret = s;
    return rc;
}
