/* storaged/index/index_rows.c - where chunks and log entries lie.
 *
 * Every change of a place goes with the change of the live bytes of the segments it left and came
 * to, in one batch (index_priv.h). */
#include "storaged/index/index_priv.h"

static const char REPLAY_KEY[] = "replay"; /* in default; groups' rows are in meta */

/* ---- rows ---- */
enum rc index_rows_new(struct index *ix, struct index_rows **ret_rows)
{
    struct index_rows *r = calloc(1, sizeof(*r));

    if (r == NULL) return RC_NOMEM;
    r->ix = ix;
    space_begin(ix, &r->space);
    r->wb = rocksdb_writebatch_wi_create(0, /* overwrite_keys= */ 1);
    *ret_rows = r;
    return RC_OK;
}

void index_rows_free(struct index_rows *r)
{
    if (r == NULL) return;
    space_end(&r->space, /* written= */ false);
    rocksdb_writebatch_wi_destroy(r->wb);
    free(r);
}

/* What the row says now, this batch included. RC_NOTFOUND. */
static enum rc row_old(struct index_rows *r, int cf, const uint8_t *k, size_t kn, uint8_t *v,
                       size_t want_n, struct err *reterr)
{
    char *e = NULL, *was;
    size_t n = 0;

    was = rocksdb_writebatch_wi_get_from_batch_and_db_cf(r->wb, r->ix->db, r->ix->ro, r->ix->cf[cf],
                                                         (const char *)k, kn, &n, &e);
    if (e != NULL) return rc_from_rocksdb(e, "row", reterr);
    if (was == NULL) return RC_NOTFOUND;
    if (n == want_n) memcpy(v, was, n);
    rocksdb_free(was);
    return n == want_n ? RC_OK : err_set(reterr, RC_CORRUPT, "index: a row of %zu bytes", n);
}

static bool at_source(const struct seg_location *l, const struct record_source *from)
{
    return l->segment_id == from->segment_id && l->generation == from->generation &&
           l->offset == from->offset;
}

enum rc index_rows_chunk(struct index_rows *r, const struct index_chunk *c,
                         const struct record_source *from, struct err *reterr)
{
    uint8_t k[CHUNK_KEY], v[CHUNK_BYTES];
    struct index_chunk old;
    enum rc rc;

    chunk_key(&c->id, k);
    rc = row_old(r, CF_LOC, k, sizeof(k), v, sizeof(v), reterr);
    if (rc == RC_OK) rc = chunk_decode(k, v, sizeof(v), &old, reterr);
    if (rc != RC_OK && rc != RC_NOTFOUND) return rc;
    if (from != NULL && (rc == RC_NOTFOUND || !at_source(&old.loc, from))) return RC_OK;
    if (rc == RC_OK) space_add(&r->space, &old.loc, -1);
    space_add(&r->space, &c->loc, 1);
    chunk_encode(c, v);
    rocksdb_writebatch_wi_put_cf(r->wb, r->ix->cf[CF_LOC], (char *)k, sizeof(k), (char *)v,
                                 sizeof(v));
    return RC_OK;
}

enum rc index_rows_log(struct index_rows *r, const struct index_group *g,
                       const struct index_log_row *row, const struct record_source *from,
                       struct err *reterr)
{
    uint8_t k[LOG_KEY], v[LOG_BYTES];
    struct index_log_row old = {0};
    enum rc rc;

    group_put(g, k);
    be_put64(k + GROUP_BYTES, row->index);
    rc = row_old(r, CF_LOG, k, sizeof(k), v, sizeof(v), reterr);
    if (rc == RC_OK) rc = log_decode(k, v, sizeof(v), &old, reterr);
    if (rc != RC_OK && rc != RC_NOTFOUND) return rc;
    if (from != NULL && (rc == RC_NOTFOUND || !at_source(&old.loc, from))) return RC_OK;
    if (rc == RC_OK && old.epoch > row->epoch) return RC_OK;
    if (rc == RC_OK) space_add(&r->space, &old.loc, -1);
    space_add(&r->space, &row->loc, 1);
    v[0] = FORMAT;
    le_put64(v + 1, row->epoch);
    loc_put(&row->loc, v + 9);
    rocksdb_writebatch_wi_put_cf(r->wb, r->ix->cf[CF_LOG], (char *)k, sizeof(k), (char *)v,
                                 sizeof(v));
    return RC_OK;
}

void index_rows_segment(struct index_rows *r, const struct seglog_segment *s)
{
    space_facts(&r->space, s);
}

enum rc index_rows_commit(struct index_rows *r, struct seg_position upto, struct err *reterr)
{
    struct index *ix = r->ix;
    struct space_wi wi = {ix, r->wb};
    uint8_t v[17];
    char *e = NULL;
    enum rc rc = room_check(ix, reterr);

    if (rc == RC_OK && space_rows(&r->space, space_put_wi, &wi) != RC_OK)
        rc = err_set(reterr, RC_NOMEM, "live bytes");
    if (rc != RC_OK) {
        index_rows_free(r);
        return rc;
    }
    v[0] = FORMAT;
    le_put64(v + 1, upto.segment_id);
    le_put64(v + 9, upto.offset);
    rocksdb_writebatch_wi_put_cf(r->wb, ix->cf[CF_DEFAULT], REPLAY_KEY, sizeof(REPLAY_KEY),
                                 (char *)v, sizeof(v));
    rocksdb_write_writebatch_wi(ix->db, ix->wo, r->wb, &e);
    rc = write_rc(ix, e, "rows", reterr);
    space_end(&r->space, /* written= */ rc == RC_OK);
    index_rows_free(r);
    return rc;
}

enum rc index_replay_from(struct index *ix, struct seg_position *ret, struct err *reterr)
{
    size_t n = 0;
    char *v = NULL;
    enum rc rc = row_get(ix, CF_DEFAULT, REPLAY_KEY, sizeof(REPLAY_KEY), &v, &n, reterr);

    *ret = (struct seg_position){0};
    if (rc == RC_NOTFOUND) return RC_OK;
    if (rc != RC_OK) return rc;
    if (n == 17 && v[0] == (char)FORMAT) {
        *ret = (struct seg_position){.segment_id = le_get64((uint8_t *)v + 1),
                                     .offset = le_get64((uint8_t *)v + 9)};
    } else {
        rc = err_set(reterr, RC_CORRUPT, "index: replay position");
    }
    rocksdb_free(v);
    return rc;
}

/* ---- chunks ---- */
enum rc index_chunk_get(struct index *ix, const struct index_chunk_id *id, struct index_chunk *ret,
                        struct err *reterr)
{
    uint8_t k[CHUNK_KEY];
    size_t n = 0;
    char *v = NULL;
    enum rc rc;

    chunk_key(id, k);
    rc = row_get(ix, CF_LOC, k, sizeof(k), &v, &n, reterr);
    if (rc != RC_OK) return rc;
    rc = chunk_decode(k, (uint8_t *)v, n, ret, reterr);
    rocksdb_free(v);
    return rc;
}

enum rc index_chunk_find(struct index *ix, const struct id128 *body, uint32_t index,
                         struct index_chunk *ret, uint32_t max, uint32_t *ret_n, struct err *reterr)
{
    struct index_chunk_id id = {.body = *body, .index = index};
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(ix->db, ix->ro, ix->cf[CF_LOC]);
    uint8_t k[CHUNK_KEY];
    const uint8_t *p;
    size_t kn = 0, vn = 0;
    enum rc rc = RC_OK;

    chunk_key(&id, k);
    *ret_n = 0;
    for (rocksdb_iter_seek(it, (char *)k, 20);
         rc == RC_OK && *ret_n < max && (p = iter_key(it, k, 20, &kn)) != NULL && kn == CHUNK_KEY;
         rocksdb_iter_next(it)) {
        const char *v = rocksdb_iter_value(it, &vn);

        rc = chunk_decode(p, (const uint8_t *)v, vn, &ret[*ret_n], reterr);
        (*ret_n)++;
    }
    if (rc == RC_OK) rc = iter_rc(it, reterr);
    rocksdb_iter_destroy(it);
    return rc;
}

/* An iterator that reads each block from the disk and leaves the cache alone. */
static rocksdb_iterator_t *fresh_iterator(struct index *ix, int cf)
{
    rocksdb_readoptions_t *ro = rocksdb_readoptions_create();
    rocksdb_iterator_t *it;

    rocksdb_readoptions_set_verify_checksums(ro, 1);
    rocksdb_readoptions_set_fill_cache(ro, 0);
    it = rocksdb_create_iterator_cf(ix->db, ro, ix->cf[cf]);
    rocksdb_readoptions_destroy(ro); /* the iterator has a copy */
    rocksdb_iter_seek_to_first(it);
    return it;
}

enum rc index_chunks_each(struct index *ix, enum rc (*fn)(void *ctx, const struct index_chunk *c),
                          void *ctx, struct err *reterr)
{
    rocksdb_iterator_t *it = fresh_iterator(ix, CF_LOC);
    enum rc rc = RC_OK;

    for (; rc == RC_OK && rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        size_t kn = 0, vn = 0;
        const uint8_t *k = (const uint8_t *)rocksdb_iter_key(it, &kn);
        const uint8_t *v = (const uint8_t *)rocksdb_iter_value(it, &vn);
        struct index_chunk c;

        rc = kn == CHUNK_KEY ? chunk_decode(k, v, vn, &c, reterr)
                             : err_set(reterr, RC_CORRUPT, "index: chunk key");
        if (rc == RC_OK) rc = fn(ctx, &c);
    }
    if (rc == RC_OK) rc = iter_rc(it, reterr);
    rocksdb_iter_destroy(it);
    return rc;
}

enum rc index_logs_each(struct index *ix,
                        enum rc (*fn)(void *ctx, const struct index_group *g,
                                      const struct index_log_row *row),
                        void *ctx, struct err *reterr)
{
    rocksdb_iterator_t *it = fresh_iterator(ix, CF_LOG);
    enum rc rc = RC_OK;

    for (; rc == RC_OK && rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        size_t kn = 0, vn = 0;
        const uint8_t *k = (const uint8_t *)rocksdb_iter_key(it, &kn);
        const uint8_t *v = (const uint8_t *)rocksdb_iter_value(it, &vn);
        struct index_log_row row;
        struct index_group g;

        rc = kn == LOG_KEY ? log_decode(k, v, vn, &row, reterr)
                           : err_set(reterr, RC_CORRUPT, "index: log key");
        if (rc != RC_OK) break;
        g = (struct index_group){.pool = be_get32(k), .prefix = be_get64(k + 4), .bits = k[12]};
        rc = fn(ctx, &g, &row);
    }
    if (rc == RC_OK) rc = iter_rc(it, reterr);
    rocksdb_iter_destroy(it);
    return rc;
}

enum rc index_rest_check(struct index *ix, uint64_t *ret_n, struct err *reterr)
{
    enum rc rc = RC_OK;

    *ret_n = 0;
    for (int cf = 0; cf < CF_N && rc == RC_OK; cf++) {
        rocksdb_iterator_t *it;

        if (cf == CF_LOC || cf == CF_LOG) continue; /* their readers look into each row */
        it = fresh_iterator(ix, cf);
        for (; rocksdb_iter_valid(it); rocksdb_iter_next(it))
            ++*ret_n;
        rc = iter_rc(it, reterr);
        rocksdb_iter_destroy(it);
    }
    return rc;
}

/* A small batch under the lock: what it does to rows and sums. */
static void plain_put(void *ctx, const char *k, const char *v)
{
    struct plain *p = ctx;

    if (v == NULL) {
        rocksdb_writebatch_delete_cf(p->wb, p->ix->cf[CF_SPACE], k, SPACE_KEY);
    } else {
        rocksdb_writebatch_put_cf(p->wb, p->ix->cf[CF_SPACE], k, SPACE_KEY, v, SPACE_BYTES);
    }
}

void plain_begin(struct index *ix, struct plain *p)
{
    *p = (struct plain){.ix = ix, .wb = rocksdb_writebatch_create()};
    space_begin(ix, &p->space);
}

enum rc plain_end(struct plain *p, enum rc rc, const char *what, struct err *reterr)
{
    char *e = NULL;

    if (rc == RC_OK) rc = room_check(p->ix, reterr);
    if (rc == RC_OK && space_rows(&p->space, plain_put, p) != RC_OK)
        rc = err_set(reterr, RC_NOMEM, "live bytes");
    if (rc == RC_OK) rocksdb_write(p->ix->db, p->ix->wo, p->wb, &e);
    if (e != NULL) rc = write_rc(p->ix, e, what, reterr);
    space_end(&p->space, /* written= */ rc == RC_OK);
    rocksdb_writebatch_destroy(p->wb);
    return rc;
}

enum rc index_chunk_drop(struct index *ix, const struct index_chunk_id *id,
                         const struct seg_location *only, struct err *reterr)
{
    struct index_chunk old;
    uint8_t k[CHUNK_KEY];
    struct plain p;
    enum rc rc;

    plain_begin(ix, &p);
    rc = index_chunk_get(ix, id, &old, reterr);
    if (rc == RC_OK && (only == NULL || loc_eq(&old.loc, only))) {
        chunk_key(id, k);
        space_add(&p.space, &old.loc, -1);
        rocksdb_writebatch_delete_cf(p.wb, ix->cf[CF_LOC], (char *)k, sizeof(k));
    }
    return plain_end(&p, rc == RC_NOTFOUND ? RC_OK : rc, "drop", reterr);
}

/* ---- log ---- */
enum rc index_log_get(struct index *ix, const struct index_group *g, uint64_t first,
                      struct index_log_row *ret, uint32_t max, uint32_t *ret_n, struct err *reterr)
{
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(ix->db, ix->ro, ix->cf[CF_LOG]);
    uint8_t k[LOG_KEY];
    const uint8_t *p;
    size_t kn = 0, vn = 0;
    enum rc rc = RC_OK;

    group_put(g, k);
    be_put64(k + GROUP_BYTES, first);
    *ret_n = 0;
    for (rocksdb_iter_seek(it, (char *)k, sizeof(k));
         rc == RC_OK && *ret_n < max && (p = iter_key(it, k, GROUP_BYTES, &kn)) != NULL;
         rocksdb_iter_next(it)) {
        const char *v = rocksdb_iter_value(it, &vn);

        if (kn != LOG_KEY) continue;
        rc = log_decode(p, (const uint8_t *)v, vn, &ret[*ret_n], reterr);
        if (rc != RC_OK || ret[*ret_n].index != first + *ret_n) break;
        (*ret_n)++;
    }
    if (rc == RC_OK) rc = iter_rc(it, reterr);
    rocksdb_iter_destroy(it);
    return rc;
}

enum rc index_log_bounds(struct index *ix, const struct index_group *g, uint64_t *ret_first,
                         uint64_t *ret_last, struct err *reterr)
{
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(ix->db, ix->ro, ix->cf[CF_LOG]);
    uint8_t k[LOG_KEY];
    const uint8_t *p;
    size_t n = 0;
    enum rc rc = RC_NOTFOUND;

    group_put(g, k);
    be_put64(k + GROUP_BYTES, 0);
    rocksdb_iter_seek(it, (char *)k, sizeof(k));
    p = iter_key(it, k, GROUP_BYTES, &n);
    if (p != NULL && n == LOG_KEY) {
        *ret_first = be_get64(p + GROUP_BYTES);
        be_put64(k + GROUP_BYTES, UINT64_MAX);
        rocksdb_iter_seek_for_prev(it, (char *)k, sizeof(k));
        p = iter_key(it, k, GROUP_BYTES, &n);
        if (p != NULL && n == LOG_KEY) {
            *ret_last = be_get64(p + GROUP_BYTES);
            rc = RC_OK;
        }
    }
    if (iter_rc(it, reterr) != RC_OK) rc = RC_IO;
    rocksdb_iter_destroy(it);
    return rc;
}

/* What the rows of [a, b) point to is dead. */
static enum rc trim_count(struct index *ix, struct space_txn *t, const uint8_t *a, const uint8_t *b,
                          struct err *reterr)
{
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(ix->db, ix->ro_scan, ix->cf[CF_LOG]);
    struct index_log_row row;
    const uint8_t *p;
    size_t n = 0, vn = 0;
    enum rc rc = RC_OK;

    for (rocksdb_iter_seek(it, (const char *)a, LOG_KEY);
         rc == RC_OK && (p = iter_key(it, a, GROUP_BYTES, &n)) != NULL && n == LOG_KEY &&
         memcmp(p, b, LOG_KEY) < 0;
         rocksdb_iter_next(it)) {
        const char *v = rocksdb_iter_value(it, &vn);

        rc = log_decode(p, (const uint8_t *)v, vn, &row, reterr);
        if (rc == RC_OK) space_add(t, &row.loc, -1);
    }
    if (rc == RC_OK) rc = iter_rc(it, reterr);
    rocksdb_iter_destroy(it);
    return rc;
}

enum rc index_log_trim(struct index *ix, const struct index_group *g, uint64_t first,
                       bool from_back, struct err *reterr)
{
    uint8_t a[LOG_KEY], b[LOG_KEY];
    struct plain p;
    enum rc rc;

    group_put(g, a);
    group_put(g, b);
    be_put64(a + GROUP_BYTES, from_back ? first : 0);
    be_put64(b + GROUP_BYTES, from_back ? UINT64_MAX : first);
    plain_begin(ix, &p);
    rc = trim_count(ix, &p.space, a, b, reterr);
    if (rc == RC_OK)
        rocksdb_writebatch_delete_range_cf(p.wb, ix->cf[CF_LOG], (char *)a, sizeof(a), (char *)b,
                                           sizeof(b));
    return plain_end(&p, rc, "trim", reterr);
}

enum rc index_log_drop(struct index *ix, const struct index_group *g,
                       const struct index_log_row *row, struct err *reterr)
{
    struct index_log_row old;
    uint8_t k[LOG_KEY];
    uint32_t n = 0;
    struct plain p;
    enum rc rc;

    plain_begin(ix, &p);
    rc = index_log_get(ix, g, row->index, &old, 1, &n, reterr);
    if (rc == RC_OK && n == 1 && loc_eq(&old.loc, &row->loc)) {
        group_put(g, k);
        be_put64(k + GROUP_BYTES, row->index);
        space_add(&p.space, &old.loc, -1);
        rocksdb_writebatch_delete_cf(p.wb, ix->cf[CF_LOG], (char *)k, sizeof(k));
    }
    return plain_end(&p, rc, "log row", reterr);
}
