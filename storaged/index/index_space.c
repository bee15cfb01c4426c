/* storaged/index/index_space.c - how many bytes of each segment are live, and what is quarantined.
 *
 * Live is what a row of `loc` or `log` points to, and what a note of `bad` points to: the segment
 * of a bad record stays until the record is repaired from another copy. The sums are rows
 * themselves, written in the same batch as what changes them, so a power cut takes both back to the
 * same moment.
 */
#include "storaged/index/index_priv.h"
#include "common/base/buf.h"
#include <stdio.h>

/* ---- the table ---- */
static uint32_t place_of(const struct space *s, uint64_t id)
{
    uint32_t from = 0, until = s->n;

    while (from < until) {
        uint32_t mid = from + (until - from) / 2;

        if (s->segs[mid].seg.id < id) {
            from = mid + 1;
        } else {
            until = mid;
        }
    }
    return from;
}

static struct index_space *find(struct space *s, uint64_t id)
{
    uint32_t i = place_of(s, id);

    return i < s->n && s->segs[i].seg.id == id ? &s->segs[i] : NULL;
}

/* Room for n more. */
static enum rc room(struct space *s, uint32_t n)
{
    uint32_t cap = MAX(s->cap * 2, 64u);
    struct index_space *more;

    if (s->cap - s->n >= n) return RC_OK;
    while (cap - s->n < n)
        cap *= 2;
    more = realloc(s->segs, cap * sizeof(*more));
    if (more == NULL) return RC_NOMEM;
    s->segs = more;
    s->cap = cap;
    return RC_OK;
}

static struct index_space *insert(struct space *s, uint64_t id)
{
    uint32_t i = place_of(s, id);

    CHECK(s->n < s->cap);
    memmove(s->segs + i + 1, s->segs + i, (s->n - i) * sizeof(*s->segs));
    s->n++;
    s->segs[i] = (struct index_space){.seg = {.id = id}};
    return &s->segs[i];
}

static void add_live(struct space *s, struct index_space *e, int64_t bytes)
{
    /* below zero: a row was lost in a way that no sum saw; a scrub of the segment tells */
    if (bytes < 0 && (uint64_t)-bytes > e->live_bytes) bytes = -(int64_t)e->live_bytes;
    e->live_bytes += (uint64_t)bytes;
    (void)__atomic_add_fetch(&s->live_bytes, (uint64_t)bytes, __ATOMIC_RELAXED);
}

/* ---- transactions ---- */
void space_begin(struct index *ix, struct space_txn *t)
{
    CHECK(t->ix == NULL);
    CHECK(pthread_mutex_lock(&ix->space.lock) == 0);
    *t = (struct space_txn){.ix = ix};
}

static struct space_delta *delta_of(struct space_txn *t, uint64_t segment_id)
{
    for (uint32_t i = t->n; i > 0; i--) {
        if (t->d[i - 1].segment_id == segment_id) return &t->d[i - 1];
    }
    if (t->n == t->cap) {
        uint32_t cap = MAX(t->cap * 2, 8u);
        struct space_delta *more = realloc(t->d, cap * sizeof(*more));

        if (more == NULL) {
            t->nomem = true;
            return NULL;
        }
        t->d = more;
        t->cap = cap;
    }
    t->d[t->n] = (struct space_delta){.segment_id = segment_id};
    return &t->d[t->n++];
}

void space_add(struct space_txn *t, const struct seg_location *loc, int sign)
{
    struct space_delta *d = delta_of(t, loc->segment_id);
    int64_t bytes = record_bytes(loc->header_bytes, loc->plain_bytes);

    if (d != NULL) d->bytes += sign > 0 ? bytes : -bytes;
}

void space_facts(struct space_txn *t, const struct seglog_segment *s)
{
    struct space_delta *d = delta_of(t, s->id);

    if (d == NULL) return;
    d->facts = true;
    d->seg = *s;
}

void space_forget(struct space_txn *t, uint64_t segment_id)
{
    struct space_delta *d = delta_of(t, segment_id);

    if (d != NULL) d->forget = true;
}

/* As it will be. */
static struct index_space after(struct space *s, const struct space_delta *d)
{
    struct index_space *e = find(s, d->segment_id);
    struct index_space a = e == NULL ? (struct index_space){.seg = {.id = d->segment_id}} : *e;

    if (d->bytes < 0 && (uint64_t)-d->bytes > a.live_bytes) {
        a.live_bytes = 0;
    } else {
        a.live_bytes += (uint64_t)d->bytes;
    }
    if (d->facts) a.seg = d->seg;
    return a;
}

static void space_encode(const struct index_space *a, uint8_t k[SPACE_KEY], uint8_t v[SPACE_BYTES])
{
    be_put64(k, a->seg.id);
    v[0] = FORMAT;
    le_put64(v + 1, a->live_bytes);
    le_put64(v + 9, a->seg.generation);
    le_put64(v + 17, a->seg.bytes);
    le_put64(v + 25, a->seg.end);
}

enum rc space_rows(struct space_txn *t, void (*put)(void *ctx, const char *k, const char *v),
                   void *ctx)
{
    if (t->nomem || room(&t->ix->space, t->n) != RC_OK) return RC_NOMEM;
    for (uint32_t i = 0; i < t->n; i++) {
        struct index_space a = after(&t->ix->space, &t->d[i]);
        uint8_t k[SPACE_KEY], v[SPACE_BYTES];

        space_encode(&a, k, v);
        put(ctx, (char *)k, t->d[i].forget ? NULL : (char *)v);
    }
    return RC_OK;
}

void space_put_wi(void *wi_ctx, const char *k, const char *v)
{
    struct space_wi *w = wi_ctx;

    if (v == NULL) {
        rocksdb_writebatch_wi_delete_cf(w->wb, w->ix->cf[CF_SPACE], k, SPACE_KEY);
    } else {
        rocksdb_writebatch_wi_put_cf(w->wb, w->ix->cf[CF_SPACE], k, SPACE_KEY, v, SPACE_BYTES);
    }
}

void space_end(struct space_txn *t, bool written)
{
    struct space *s;

    if (t->ix == NULL) return;
    s = &t->ix->space;
    for (uint32_t i = 0; written && i < t->n; i++) {
        const struct space_delta *d = &t->d[i];
        struct index_space *e = find(s, d->segment_id);

        if (d->forget) {
            if (e == NULL) continue;
            add_live(s, e, -(int64_t)e->live_bytes);
            memmove(e, e + 1, (size_t)(s->segs + s->n - (e + 1)) * sizeof(*e));
            s->n--;
            continue;
        }
        if (e == NULL) e = insert(s, d->segment_id);
        add_live(s, e, d->bytes);
        if (d->facts) e->seg = d->seg;
    }
    if (written) (void)__atomic_add_fetch(&s->bad_n, (uint64_t)t->bad_n, __ATOMIC_RELAXED);
    CHECK(pthread_mutex_unlock(&s->lock) == 0);
    free(t->d);
    *t = (struct space_txn){0};
}

/* ---- opening ---- */
static enum rc bad_count(struct index *ix, struct err *reterr)
{
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(ix->db, ix->ro_scan, ix->cf[CF_BAD]);
    enum rc rc;

    for (rocksdb_iter_seek_to_first(it); rocksdb_iter_valid(it); rocksdb_iter_next(it))
        ix->space.bad_n++;
    rc = iter_rc(it, reterr);
    rocksdb_iter_destroy(it);
    return rc;
}

enum rc space_load(struct index *ix, struct err *reterr)
{
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(ix->db, ix->ro_scan, ix->cf[CF_SPACE]);
    enum rc rc = RC_OK;

    for (rocksdb_iter_seek_to_first(it); rc == RC_OK && rocksdb_iter_valid(it);
         rocksdb_iter_next(it)) {
        size_t kn = 0, vn = 0;
        const uint8_t *k = (const uint8_t *)rocksdb_iter_key(it, &kn);
        const uint8_t *v = (const uint8_t *)rocksdb_iter_value(it, &vn);
        struct index_space *e;

        if (kn != SPACE_KEY || vn != SPACE_BYTES || v[0] != FORMAT) {
            rc = err_set(reterr, RC_CORRUPT, "index: space row");
        } else if (room(&ix->space, 1) != RC_OK) {
            rc = err_set(reterr, RC_NOMEM, "live bytes");
        } else {
            e = insert(&ix->space, be_get64(k));
            e->seg.generation = le_get64(v + 9);
            e->seg.bytes = le_get64(v + 17);
            e->seg.end = le_get64(v + 25);
            e->live_bytes = le_get64(v + 1);
            ix->space.live_bytes += e->live_bytes;
        }
    }
    if (rc == RC_OK) rc = iter_rc(it, reterr);
    rocksdb_iter_destroy(it);
    return rc == RC_OK ? bad_count(ix, reterr) : rc;
}

/* ---- all rows that point somewhere ---- */
struct refs {
    enum rc (*fn)(void *ctx, const struct index_ref *ref);
    void *ctx;
};

static enum rc ref_chunk(void *ctx, const struct index_chunk *c)
{
    const struct refs *r = ctx;
    struct index_ref ref = {.chunk_row = true, .loc = c->loc, .chunk = *c};

    return r->fn(r->ctx, &ref);
}

static enum rc ref_log(void *ctx, const struct index_group *g, const struct index_log_row *row)
{
    const struct refs *r = ctx;
    struct index_ref ref = {.loc = row->loc, .group = *g, .log = *row};

    return r->fn(r->ctx, &ref);
}

enum rc index_refs(struct index *ix, enum rc (*fn)(void *ctx, const struct index_ref *ref),
                   void *ctx, struct err *reterr)
{
    struct refs r = {fn, ctx};
    struct index_bad bad[16];
    struct index_chunk_id from;
    uint32_t n = 0;
    enum rc rc = index_chunks_each(ix, ref_chunk, &r, reterr);

    if (rc == RC_OK) rc = index_logs_each(ix, ref_log, &r, reterr);
    for (bool first = true; rc == RC_OK && (first || n == ARRAY_N(bad)); first = false) {
        rc = index_bad_list(ix, first ? NULL : &from, bad, ARRAY_N(bad), &n, reterr);
        for (uint32_t i = 0; i < n && rc == RC_OK; i++) {
            struct index_ref ref = {.chunk_row = true,
                                    .quarantined = true,
                                    .loc = bad[i].chunk.loc,
                                    .chunk = bad[i].chunk};

            rc = fn(ctx, &ref);
            from = bad[i].chunk.id;
        }
    }
    return rc;
}

static enum rc count_one(void *ctx, const struct index_ref *ref)
{
    struct plain *p = ctx;

    space_add(&p->space, &ref->loc, 1);
    return RC_OK;
}

enum rc space_recount(struct index *ix, struct err *reterr)
{
    struct plain p;

    plain_begin(ix, &p);
    return plain_end(&p, index_refs(ix, count_one, &p, reterr), "live bytes", reterr);
}

/* ---- for readers ---- */
enum rc index_space_list(struct index *ix, struct index_space **ret, uint32_t *ret_n,
                         struct err *reterr)
{
    struct space *s = &ix->space;
    struct index_space *all;

    CHECK(pthread_mutex_lock(&s->lock) == 0);
    all = calloc(MAX(s->n, 1u), sizeof(*all));
    if (all != NULL && s->n > 0) memcpy(all, s->segs, s->n * sizeof(*all));
    *ret_n = s->n;
    CHECK(pthread_mutex_unlock(&s->lock) == 0);
    if (all == NULL) return err_set(reterr, RC_NOMEM, "live bytes");
    *ret = all;
    return RC_OK;
}

uint64_t index_space_live(struct index *ix, uint64_t segment_id)
{
    const struct index_space *e;
    uint64_t live;

    CHECK(pthread_mutex_lock(&ix->space.lock) == 0);
    e = find(&ix->space, segment_id);
    live = e == NULL ? 0 : e->live_bytes;
    CHECK(pthread_mutex_unlock(&ix->space.lock) == 0);
    return live;
}

enum rc index_space_forget(struct index *ix, uint64_t segment_id, struct err *reterr)
{
    struct plain p;

    plain_begin(ix, &p);
    space_forget(&p.space, segment_id);
    return plain_end(&p, RC_OK, "space", reterr);
}

void index_stats(struct index *ix, struct index_stats *ret)
{
    ret->live_bytes = __atomic_load_n(&ix->space.live_bytes, __ATOMIC_RELAXED);
    ret->quarantined_n = __atomic_load_n(&ix->space.bad_n, __ATOMIC_RELAXED);
    ret->syncs_n = __atomic_load_n(&ix->syncs_n, __ATOMIC_RELAXED);
}

/* ---- quarantine ---- */
static void bad_decode_tail(const uint8_t *v, struct index_bad *ret)
{
    ret->reason = v[CHUNK_BYTES];
    ret->found_unix_ms = le_get64(v + CHUNK_BYTES + 1);
}

static enum rc bad_get(struct index *ix, const uint8_t *k, struct index_bad *ret,
                       struct err *reterr)
{
    size_t n = 0;
    char *v = NULL;
    enum rc rc = row_get(ix, CF_BAD, k, CHUNK_KEY, &v, &n, reterr);

    if (rc != RC_OK) return rc;
    rc = n == BAD_BYTES ? chunk_decode(k, (uint8_t *)v, CHUNK_BYTES, &ret->chunk, reterr)
                        : err_set(reterr, RC_CORRUPT, "index: quarantine row");
    if (rc == RC_OK) bad_decode_tail((uint8_t *)v, ret);
    rocksdb_free(v);
    return rc;
}

enum rc index_bad_add(struct index *ix, const struct index_chunk_id *id,
                      const struct seg_location *loc, uint8_t reason, uint64_t unix_ms,
                      struct err *reterr)
{
    uint8_t k[CHUNK_KEY], v[BAD_BYTES];
    struct index_chunk c;
    struct index_bad old;
    struct plain p;
    enum rc rc;

    chunk_key(id, k);
    plain_begin(ix, &p);
    rc = index_chunk_get(ix, id, &c, reterr);
    if (rc == RC_OK && !loc_eq(&c.loc, loc))
        rc = err_set(reterr, RC_NOTFOUND, "the chunk lies elsewhere now");
    if (rc == RC_OK) {
        rc = bad_get(ix, k, &old, reterr); /* an earlier copy of it, not cleared yet */
        if (rc == RC_OK) {
            space_add(&p.space, &old.chunk.loc, -1);
            p.space.bad_n--;
        }
        if (rc == RC_NOTFOUND) rc = RC_OK;
    }
    if (rc == RC_OK) {
        chunk_encode(&c, v);
        v[CHUNK_BYTES] = reason;
        le_put64(v + CHUNK_BYTES + 1, unix_ms);
        p.space.bad_n++; /* its bytes stay live: only who points to them changes */
        rocksdb_writebatch_delete_cf(p.wb, ix->cf[CF_LOC], (char *)k, sizeof(k));
        rocksdb_writebatch_put_cf(p.wb, ix->cf[CF_BAD], (char *)k, sizeof(k), (char *)v, sizeof(v));
    }
    rc = plain_end(&p, rc, "quarantine", reterr);
    return rc == RC_OK ? index_sync(ix, reterr) : rc;
}

enum rc index_bad_list(struct index *ix, const struct index_chunk_id *from, struct index_bad *ret,
                       uint32_t max, uint32_t *ret_n, struct err *reterr)
{
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(ix->db, ix->ro_scan, ix->cf[CF_BAD]);
    uint8_t k[CHUNK_KEY] = {0};
    enum rc rc = RC_OK;

    if (from != NULL) chunk_key(from, k);
    *ret_n = 0;
    for (rocksdb_iter_seek(it, (char *)k, sizeof(k));
         rc == RC_OK && *ret_n < max && rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        size_t kn = 0, vn = 0;
        const uint8_t *p = (const uint8_t *)rocksdb_iter_key(it, &kn);
        const uint8_t *v = (const uint8_t *)rocksdb_iter_value(it, &vn);

        if (from != NULL && kn == CHUNK_KEY && memcmp(p, k, CHUNK_KEY) == 0)
            continue; /* behind it */
        rc = kn == CHUNK_KEY && vn == BAD_BYTES
                 ? chunk_decode(p, v, CHUNK_BYTES, &ret[*ret_n].chunk, reterr)
                 : err_set(reterr, RC_CORRUPT, "index: quarantine row");
        if (rc == RC_OK) bad_decode_tail(v, &ret[(*ret_n)++]);
    }
    if (rc == RC_OK) rc = iter_rc(it, reterr);
    rocksdb_iter_destroy(it);
    return rc;
}

enum rc index_bad_clear(struct index *ix, const struct index_chunk_id *id, struct err *reterr)
{
    uint8_t k[CHUNK_KEY];
    struct index_bad old;
    struct plain p;
    enum rc rc;

    chunk_key(id, k);
    plain_begin(ix, &p);
    rc = bad_get(ix, k, &old, reterr);
    if (rc == RC_OK) {
        space_add(&p.space, &old.chunk.loc, -1);
        p.space.bad_n--;
        rocksdb_writebatch_delete_cf(p.wb, ix->cf[CF_BAD], (char *)k, sizeof(k));
    }
    return plain_end(&p, rc == RC_NOTFOUND ? RC_OK : rc, "quarantine", reterr);
}

/* ---- chunks that a batch of entries drops ---- */
static enum rc drop_in(struct index_batch *b, int cf, const uint8_t prefix[20],
                       const struct id128 *keep_seal, struct err *reterr)
{
    struct index *ix = b->ix;
    rocksdb_iterator_t *it = rocksdb_writebatch_wi_create_iterator_with_base_cf(
        b->wb, rocksdb_create_iterator_cf(ix->db, ix->ro, ix->cf[cf]), ix->cf[cf]);
    uint8_t keys[16][CHUNK_KEY];
    struct index_chunk c;
    const uint8_t *p;
    size_t n = 0, vn = 0;
    uint32_t found;
    enum rc rc = RC_OK;

    /* the batch may not change under its iterator: keys first */
    do {
        found = 0;
        for (rocksdb_iter_seek(it, (const char *)prefix, 20);
             rc == RC_OK && found < ARRAY_N(keys) && (p = iter_key(it, prefix, 20, &n)) != NULL &&
             n == CHUNK_KEY;
             rocksdb_iter_next(it)) {
            const char *v = rocksdb_iter_value(it, &vn);

            if (keep_seal != NULL && memcmp(p + 20, keep_seal->b, 16) == 0) continue;
            rc = chunk_decode(p, (const uint8_t *)v, MIN(vn, CHUNK_BYTES), &c, reterr);
            if (rc != RC_OK) break;
            space_add(&b->space, &c.loc, -1);
            if (cf == CF_BAD) b->space.bad_n--;
            memcpy(keys[found++], p, CHUNK_KEY);
        }
        if (rc == RC_OK) rc = iter_rc(it, reterr);
        rocksdb_iter_destroy(it);
        for (uint32_t i = 0; i < found; i++)
            rocksdb_writebatch_wi_delete_cf(b->wb, ix->cf[cf], (char *)keys[i], CHUNK_KEY);
        it = NULL;
        if (rc == RC_OK && found == ARRAY_N(keys))
            it = rocksdb_writebatch_wi_create_iterator_with_base_cf(
                b->wb, rocksdb_create_iterator_cf(ix->db, ix->ro, ix->cf[cf]), ix->cf[cf]);
    } while (it != NULL);
    return rc;
}

enum rc index_batch_chunk_drop(struct index_batch *b, const struct id128 *body, uint32_t index,
                               const struct id128 *keep_seal, struct err *reterr)
{
    struct index_chunk_id id = {.body = *body, .index = index};
    uint8_t k[CHUNK_KEY];
    enum rc rc;

    if (b->space.ix == NULL) space_begin(b->ix, &b->space);
    chunk_key(&id, k);
    rc = drop_in(b, CF_LOC, k, keep_seal, reterr);
    return rc == RC_OK ? drop_in(b, CF_BAD, k, keep_seal, reterr) : rc;
}

/* ---- what a record is ---- */
static struct index_chunk_id id_of(const struct record_header *h)
{
    return (struct index_chunk_id){.body = h->body, .index = h->index, .seal_id = h->seal_id};
}

enum rc index_place_of(struct index *ix, const struct record_header *h,
                       const struct seg_location *loc, enum index_place *ret, struct err *reterr)
{
    struct index_group g = {
        .pool = h->pool, .bits = (uint8_t)h->index, .prefix = h->placement_hash};
    struct index_chunk_id id = id_of(h);
    struct index_log_row row;
    struct index_chunk c;
    struct index_bad bad;
    uint8_t k[CHUNK_KEY];
    uint32_t n = 0;
    enum rc rc;

    *ret = INDEX_DEAD;
    if (h->type == RECORD_LOG_ENTRY) {
        rc = index_log_get(ix, &g, h->log_index, &row, 1, &n, reterr);
        if (rc == RC_OK && n == 1 && loc_eq(&row.loc, loc)) *ret = INDEX_LIVE;
        return rc;
    }
    rc = index_chunk_get(ix, &id, &c, reterr);
    if (rc == RC_OK && loc_eq(&c.loc, loc)) *ret = INDEX_LIVE;
    if (*ret == INDEX_DEAD && (rc == RC_OK || rc == RC_NOTFOUND) &&
        __atomic_load_n(&ix->space.bad_n, __ATOMIC_RELAXED) > 0) {
        chunk_key(&id, k);
        rc = bad_get(ix, k, &bad, reterr);
        if (rc == RC_OK && loc_eq(&bad.chunk.loc, loc)) *ret = INDEX_QUARANTINED;
    }
    return rc == RC_NOTFOUND ? RC_OK : rc;
}

enum rc index_chunk_state(struct index *ix, const struct index_group *g, uint64_t placement_hash,
                          const struct id128 *body, uint32_t index, struct apply_chunk *ret_row,
                          bool *ret_dropped, struct err *reterr)
{
    uint8_t key[APPLY_CHUNK_KEY_BYTES];
    struct buf v;
    uint64_t at;
    enum rc rc;

    apply_chunk_key(placement_hash, body, index, key);
    buf_init(&v, 4096);
    rc = index_state_get(ix, g, (struct slice){key, sizeof(key)}, &v, reterr);
    if (rc == RC_OK) rc = apply_chunk_row((struct slice){v.p, v.n}, ret_row, ret_dropped, &at);
    buf_deinit(&v);
    return rc;
}

enum rc index_chunk_listing(struct index *ix, const struct index_group *g, uint64_t placement_hash,
                            const struct index_chunk_id *id, enum index_listing *ret,
                            struct err *reterr)
{
    struct apply_chunk row;
    bool dropped = false;
    enum rc rc =
        index_chunk_state(ix, g, placement_hash, &id->body, id->index, &row, &dropped, reterr);

    *ret = INDEX_UNLISTED;
    if (rc == RC_NOTFOUND) return RC_OK;
    if (rc == RC_OK)
        *ret = dropped || !id128_eq(&row.seal_id, &id->seal_id) ? INDEX_DECIDED : INDEX_LISTED;
    return rc;
}

enum rc index_orphan_drop(struct index *ix, const struct index_group *kinds, uint32_t kinds_n,
                          const struct record_header *h, const struct seg_location *loc,
                          enum index_listing *ret, struct err *reterr)
{
    struct index_chunk_id id = id_of(h);
    enum rc rc = RC_OK;

    *ret = INDEX_UNLISTED;
    for (uint32_t i = 0; i < kinds_n && rc == RC_OK && *ret == INDEX_UNLISTED; i++) {
        struct index_group g = kinds[i];

        if (g.pool != h->pool) continue;
        g.prefix = g.bits == 0 ? 0 : h->placement_hash >> (64 - g.bits) << (64 - g.bits);
        rc = index_chunk_listing(ix, &g, h->placement_hash, &id, ret, reterr);
    }
    if (rc == RC_OK && *ret == INDEX_DECIDED) rc = index_chunk_drop(ix, &id, loc, reterr);
    return rc;
}

/* ---- RocksDB's files ---- */
enum rc index_files(struct index *ix, struct index_file **ret, uint32_t *ret_n, struct err *reterr)
{
    const rocksdb_livefiles_t *l = rocksdb_livefiles(ix->db);
    int n = l == NULL ? 0 : rocksdb_livefiles_count(l);
    struct index_file *f = calloc((size_t)n + 1, sizeof(*f));

    for (int i = 0; f != NULL && i < n; i++) {
        (void)snprintf(f[i].name, sizeof(f[i].name), "%s", rocksdb_livefiles_name(l, i));
        f[i].bytes = rocksdb_livefiles_size(l, i);
    }
    if (l != NULL) rocksdb_livefiles_destroy(l);
    if (f == NULL) return err_set(reterr, RC_NOMEM, "files of the index");
    *ret = f;
    *ret_n = (uint32_t)n;
    return RC_OK;
}

enum rc index_file_check(struct index *ix, const char *name, struct err *reterr)
{
    char path[1200], msg[256] = "";
    /* RocksDB's names begin with a slash */
    int n = snprintf(path, sizeof(path), "%s/%s", ix->dir, name + strspn(name, "/"));

    if (n < 0 || (size_t)n >= sizeof(path)) return err_set(reterr, RC_INVAL, "'%s'", name);
    switch (sst_check(path, msg, sizeof(msg))) {
    case 0:
        return RC_OK;
    case 1:
        return err_set(reterr, RC_CORRUPT, "'%s': %s", path, msg);
    case 3:
        return err_set(reterr, RC_NOTFOUND, "'%s': %s", path, msg);
    default:
        return err_set(reterr, RC_IO, "'%s': %s", path, msg);
    }
}

/* ---- small notes of the store and its background work ---- */
static size_t note_key(const char *name, char k[64])
{
    int n = snprintf(k, 64, "n/%s", name);

    CHECK(n > 0 && n < 64);
    return (size_t)n;
}

enum rc index_note_put(struct index *ix, const char *name, struct slice value, struct err *reterr)
{
    char k[64], *e = NULL;
    enum rc rc = room_check(ix, reterr);

    if (rc != RC_OK) return rc;
    rocksdb_put_cf(ix->db, ix->wo, ix->cf[CF_DEFAULT], k, note_key(name, k), (const char *)value.p,
                   value.n, &e);
    return write_rc(ix, e, "note", reterr);
}

enum rc index_note_get(struct index *ix, const char *name, uint8_t *p, size_t cap, size_t *ret_n,
                       struct err *reterr)
{
    char k[64], *v = NULL;
    size_t n = 0;
    enum rc rc = row_get(ix, CF_DEFAULT, k, note_key(name, k), &v, &n, reterr);

    if (rc != RC_OK) return rc;
    if (n > cap) {
        rc = err_set(reterr, RC_RANGE, "index: note '%s' of %zu bytes", name, n);
    } else {
        memcpy(p, v, n);
        *ret_n = n;
    }
    rocksdb_free(v);
    return rc;
}

enum rc index_notes_each(struct index *ix, const char *prefix,
                         enum rc (*fn)(void *ctx, const char *name, struct slice value), void *ctx,
                         struct err *reterr)
{
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(ix->db, ix->ro, ix->cf[CF_DEFAULT]);
    char from[64], name[64];
    size_t from_n = note_key(prefix, from);
    enum rc rc = RC_OK;

    for (rocksdb_iter_seek(it, from, from_n); rc == RC_OK && rocksdb_iter_valid(it);
         rocksdb_iter_next(it)) {
        size_t n = 0, value_n = 0;
        const char *k = rocksdb_iter_key(it, &n);
        const char *v = rocksdb_iter_value(it, &value_n);

        if (n < from_n || memcmp(k, from, from_n) != 0) break;
        if (n - 2 >= sizeof(name)) continue; /* none of ours */
        memcpy(name, k + 2, n - 2);          /* without "n/" */
        name[n - 2] = 0;
        rc = fn(ctx, name, (struct slice){(const uint8_t *)v, value_n});
    }
    if (rc == RC_RANGE) rc = RC_OK;
    if (rc == RC_OK) rc = iter_rc(it, reterr);
    rocksdb_iter_destroy(it);
    return rc;
}

enum rc index_note_drop(struct index *ix, const char *name, struct err *reterr)
{
    char k[64], *e = NULL;
    enum rc rc = room_check(ix, reterr);

    if (rc != RC_OK) return rc;
    rocksdb_delete_cf(ix->db, ix->wo, ix->cf[CF_DEFAULT], k, note_key(name, k), &e);
    return write_rc(ix, e, "note", reterr);
}
