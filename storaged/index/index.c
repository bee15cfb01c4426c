/* storaged/index/index.c - keys, values and batches over RocksDB's C API.
 *
 * Group key: pool BE u32, prefix BE u64, bits u8. Integers of values little-endian, first byte the
 * format. RocksDB's checksums cover values; what must not be misread (protocol state) has its own.
 */
#include "storaged/index/index.h"
#include "common/base/buf.h"
#include "common/base/crc32c.h"
#include "common/base/le.h"
#include <rocksdb/c.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT      1u
#define GROUP_BYTES 13u
#define LOC_BYTES   32u
#define CHUNK_KEY   36u
#define CHUNK_BYTES (1u + LOC_BYTES + 4u + 8u + 8u + 16u + 32u)
#define LOG_KEY     (GROUP_BYTES + 8u)
#define LOG_BYTES   (1u + 8u + LOC_BYTES)
#define BLOB_MAX    4096u
#define STATE_KEY   (GROUP_BYTES + APPLY_MAPKEY_BYTES_MAX)

enum { CF_DEFAULT, CF_LOC, CF_LOG, CF_STATE, CF_META, CF_N };
static const char *const CF_NAMES[CF_N] = {"default", "loc", "log", "state", "meta"};
static const char REPLAY_KEY[] = "replay"; /* in default; groups' rows are in meta */
static const char FORMAT_KEY[] = "format";

struct index {
    rocksdb_t *db;
    rocksdb_options_t *opts;
    rocksdb_readoptions_t *ro;
    rocksdb_writeoptions_t *wo, *wo_sync;
    rocksdb_column_family_handle_t *cf[CF_N];
};
struct index_rows {
    struct index *ix;
    rocksdb_writebatch_wi_t *wb;
};
struct index_batch {
    struct index *ix;
    struct index_group group;
    uint8_t prefix[GROUP_BYTES];
    rocksdb_writebatch_wi_t *wb;
    rocksdb_iterator_t *it;
    char *value;
    struct apply_map map;
};

static enum rc rc_from_rocksdb(char *e, const char *what, struct err *reterr)
{
    enum rc rc = strncmp(e, "Corruption", 10) == 0 ? RC_CORRUPT : RC_IO;

    (void)err_set(reterr, rc, "index: %s: %s", what, e);
    rocksdb_free(e);
    return rc;
}

/* ---- bytes ---- */
static void group_put(const struct index_group *g, uint8_t *p)
{
    be_put(p, 4, g->pool);
    be_put64(p + 4, g->prefix);
    p[12] = g->bits;
}

static void loc_put(const struct seg_location *l, uint8_t *p)
{
    le_put64(p, l->segment_id);
    le_put64(p + 8, l->generation);
    le_put64(p + 16, l->offset);
    le_put32(p + 24, l->header_bytes);
    le_put32(p + 28, l->plain_bytes);
}

static struct seg_location loc_get(const uint8_t *p)
{
    return (struct seg_location){.segment_id = le_get64(p),
                                 .generation = le_get64(p + 8),
                                 .offset = le_get64(p + 16),
                                 .header_bytes = le_get32(p + 24),
                                 .plain_bytes = le_get32(p + 28)};
}

static void chunk_key(const struct index_chunk_id *id, uint8_t *p)
{
    memcpy(p, id->body.b, 16);
    be_put(p + 16, 4, id->index);
    memcpy(p + 20, id->seal_id.b, 16);
}

static enum rc chunk_decode(const uint8_t *k, const uint8_t *v, size_t n, struct index_chunk *c,
                            struct err *reterr)
{
    if (n != CHUNK_BYTES || v[0] != FORMAT) return err_set(reterr, RC_CORRUPT, "index: chunk row");
    memcpy(c->id.body.b, k, 16);
    c->id.index = be_get32(k + 16);
    memcpy(c->id.seal_id.b, k + 20, 16);
    c->loc = loc_get(v + 1);
    c->pool = le_get32(v + 33);
    c->placement_hash = le_get64(v + 37);
    c->owner_hash = le_get64(v + 45);
    memcpy(c->upload_id.b, v + 53, 16);
    memcpy(c->plain_digest, v + 69, 32);
    return RC_OK;
}

static enum rc log_decode(const uint8_t *k, const uint8_t *v, size_t n, struct index_log_row *r,
                          struct err *reterr)
{
    if (n != LOG_BYTES || v[0] != FORMAT) return err_set(reterr, RC_CORRUPT, "index: log row");
    r->index = be_get64(k + GROUP_BYTES);
    r->epoch = le_get64(v + 1);
    r->loc = loc_get(v + 9);
    return RC_OK;
}

/* gives *ret_v (rocksdb_free) */
static enum rc get(struct index *ix, int cf, const void *k, size_t kn, char **ret_v, size_t *ret_n,
                   struct err *reterr)
{
    char *e = NULL, *v = rocksdb_get_cf(ix->db, ix->ro, ix->cf[cf], k, kn, ret_n, &e);

    if (e != NULL) return rc_from_rocksdb(e, "get", reterr);
    if (v == NULL) return err_set(reterr, RC_NOTFOUND, "index: no such row");
    *ret_v = v;
    return RC_OK;
}

static enum rc iter_rc(rocksdb_iterator_t *it, struct err *reterr)
{
    char *e = NULL;

    rocksdb_iter_get_error(it, &e);
    return e == NULL ? RC_OK : rc_from_rocksdb(e, "scan", reterr);
}

static const uint8_t *iter_key(rocksdb_iterator_t *it, const uint8_t *prefix, size_t prefix_n,
                               size_t *ret_n)
{
    const char *k;

    if (!rocksdb_iter_valid(it)) return NULL;
    k = rocksdb_iter_key(it, ret_n);
    return *ret_n >= prefix_n && memcmp(k, prefix, prefix_n) == 0 ? (const uint8_t *)k : NULL;
}

/* ---- opening ---- */
enum rc index_open(const struct index_conf *conf, struct index **ret_ix, struct err *reterr)
{
    struct index *ix = calloc(1, sizeof(*ix));
    size_t cache = conf->cache_bytes != 0 ? conf->cache_bytes : 64u << 20, n = 0;
    const rocksdb_options_t *opts[CF_N];
    rocksdb_block_based_table_options_t *table;
    rocksdb_cache_t *lru;
    char *e = NULL, *v = NULL;
    enum rc rc;

    if (ix == NULL) return err_set(reterr, RC_NOMEM, "index");
    ix->opts = rocksdb_options_create();
    ix->ro = rocksdb_readoptions_create();
    ix->wo = rocksdb_writeoptions_create();
    ix->wo_sync = rocksdb_writeoptions_create();
    rocksdb_writeoptions_set_sync(ix->wo_sync, 1);
    rocksdb_options_set_create_if_missing(ix->opts, 1);
    rocksdb_options_set_create_missing_column_families(ix->opts, 1);
    rocksdb_options_set_paranoid_checks(ix->opts, 1);
    /* kPointInTimeRecovery; to look: kTolerateCorruptedTailRecords */
    rocksdb_options_set_wal_recovery_mode(ix->opts, conf->read_only && !conf->torn_wal ? 0 : 2);
    rocksdb_options_set_db_write_buffer_size(ix->opts, cache / 2);
    rocksdb_options_set_max_total_wal_size(ix->opts, cache);
    rocksdb_options_set_max_open_files(ix->opts, 256);
    rocksdb_options_set_keep_log_file_num(ix->opts, 4);
    table = rocksdb_block_based_options_create();
    lru = rocksdb_cache_create_lru(cache / 2);
    rocksdb_block_based_options_set_block_cache(table, lru);
    rocksdb_options_set_block_based_table_factory(ix->opts, table);
    rocksdb_cache_destroy(lru); /* the table options hold it */
    rocksdb_block_based_options_destroy(table);
    if (conf->rebuild) {
        rocksdb_destroy_db(ix->opts, conf->dir, &e);
        if (e != NULL) {
            rc = rc_from_rocksdb(e, "rebuild", reterr);
            goto fail;
        }
    }
    for (int i = 0; i < CF_N; i++)
        opts[i] = ix->opts;
    if (conf->read_only) {
        rocksdb_options_set_create_if_missing(ix->opts, 0);
        ix->db = rocksdb_open_for_read_only_column_families(
            ix->opts, conf->dir, CF_N, CF_NAMES, opts, ix->cf, /* error_if_wal_exists= */ 0, &e);
    } else {
        ix->db =
            rocksdb_open_column_families(ix->opts, conf->dir, CF_N, CF_NAMES, opts, ix->cf, &e);
    }
    if (e != NULL) {
        /* the only trace of a held lock is the text: "lock hold by current process", "While lock
         * file" */
        bool held = strstr(e, "lock hold by ") != NULL || strstr(e, "While lock file") != NULL;

        rc = rc_from_rocksdb(e, conf->dir, reterr);
        if (held) rc = err_set(reterr, RC_BUSY, "index '%s' is in use", conf->dir);
        goto fail;
    }
    rc = get(ix, CF_DEFAULT, FORMAT_KEY, sizeof(FORMAT_KEY), &v, &n, reterr);
    if (rc == RC_OK) {
        if (n != 1 || v[0] != (char)FORMAT) {
            rc = err_set(reterr, RC_PRECOND, "index '%s' has another format", conf->dir);
        }
        rocksdb_free(v);
    } else if (rc == RC_NOTFOUND && conf->read_only) {
        rc = err_set(reterr, RC_CORRUPT, "index '%s' has no format", conf->dir);
    } else if (rc == RC_NOTFOUND) {
        char f = (char)FORMAT;

        rocksdb_put_cf(ix->db, ix->wo_sync, ix->cf[CF_DEFAULT], FORMAT_KEY, sizeof(FORMAT_KEY), &f,
                       1, &e);
        rc = e == NULL ? RC_OK : rc_from_rocksdb(e, "format", reterr);
    }
    if (rc != RC_OK) goto fail;
    *ret_ix = ix;
    return RC_OK;
fail:
    index_close(ix);
    return rc;
}

void index_close(struct index *ix)
{
    if (ix == NULL) return;
    for (int i = 0; ix->db != NULL && i < CF_N; i++)
        rocksdb_column_family_handle_destroy(ix->cf[i]);
    if (ix->db != NULL) rocksdb_close(ix->db);
    rocksdb_options_destroy(ix->opts);
    rocksdb_readoptions_destroy(ix->ro);
    rocksdb_writeoptions_destroy(ix->wo);
    rocksdb_writeoptions_destroy(ix->wo_sync);
    free(ix);
}

enum rc index_sync(struct index *ix, struct err *reterr)
{
    char *e = NULL;

    rocksdb_flush_wal(ix->db, /* sync= */ 1, &e);
    return e == NULL ? RC_OK : rc_from_rocksdb(e, "sync", reterr);
}

/* ---- rows ---- */
enum rc index_rows_new(struct index *ix, struct index_rows **ret_rows)
{
    struct index_rows *r = calloc(1, sizeof(*r));

    if (r == NULL) return RC_NOMEM;
    r->ix = ix;
    r->wb = rocksdb_writebatch_wi_create(0, /* overwrite_keys= */ 1);
    *ret_rows = r;
    return RC_OK;
}

void index_rows_free(struct index_rows *r)
{
    if (r == NULL) return;
    rocksdb_writebatch_wi_destroy(r->wb);
    free(r);
}

void index_rows_chunk(struct index_rows *r, const struct index_chunk *c)
{
    uint8_t k[CHUNK_KEY], v[CHUNK_BYTES];

    chunk_key(&c->id, k);
    v[0] = FORMAT;
    loc_put(&c->loc, v + 1);
    le_put32(v + 33, c->pool);
    le_put64(v + 37, c->placement_hash);
    le_put64(v + 45, c->owner_hash);
    memcpy(v + 53, c->upload_id.b, 16);
    memcpy(v + 69, c->plain_digest, 32);
    rocksdb_writebatch_wi_put_cf(r->wb, r->ix->cf[CF_LOC], (char *)k, sizeof(k), (char *)v,
                                 sizeof(v));
}

enum rc index_rows_log(struct index_rows *r, const struct index_group *g,
                       const struct index_log_row *row, struct err *reterr)
{
    uint8_t k[LOG_KEY], v[LOG_BYTES];
    struct index_log_row old = {0};
    char *e = NULL, *was;
    size_t n = 0;
    enum rc rc = RC_OK;

    group_put(g, k);
    be_put64(k + GROUP_BYTES, row->index);
    was = rocksdb_writebatch_wi_get_from_batch_and_db_cf(
        r->wb, r->ix->db, r->ix->ro, r->ix->cf[CF_LOG], (char *)k, sizeof(k), &n, &e);
    if (e != NULL) return rc_from_rocksdb(e, "log row", reterr);
    if (was != NULL) {
        rc = log_decode(k, (uint8_t *)was, n, &old, reterr);
        rocksdb_free(was);
    }
    if (rc != RC_OK || old.epoch > row->epoch) return rc;
    v[0] = FORMAT;
    le_put64(v + 1, row->epoch);
    loc_put(&row->loc, v + 9);
    rocksdb_writebatch_wi_put_cf(r->wb, r->ix->cf[CF_LOG], (char *)k, sizeof(k), (char *)v,
                                 sizeof(v));
    return RC_OK;
}

enum rc index_rows_commit(struct index_rows *r, struct seg_position upto, struct err *reterr)
{
    struct index *ix = r->ix;
    uint8_t v[17];
    char *e = NULL;

    v[0] = FORMAT;
    le_put64(v + 1, upto.segment_id);
    le_put64(v + 9, upto.offset);
    rocksdb_writebatch_wi_put_cf(r->wb, ix->cf[CF_DEFAULT], REPLAY_KEY, sizeof(REPLAY_KEY),
                                 (char *)v, sizeof(v));
    rocksdb_write_writebatch_wi(ix->db, ix->wo, r->wb, &e);
    index_rows_free(r);
    return e == NULL ? RC_OK : rc_from_rocksdb(e, "rows", reterr);
}

enum rc index_replay_from(struct index *ix, struct seg_position *ret, struct err *reterr)
{
    size_t n = 0;
    char *v = NULL;
    enum rc rc = get(ix, CF_DEFAULT, REPLAY_KEY, sizeof(REPLAY_KEY), &v, &n, reterr);

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
    rc = get(ix, CF_LOC, k, sizeof(k), &v, &n, reterr);
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

enum rc index_chunk_drop(struct index *ix, const struct index_chunk_id *id, struct err *reterr)
{
    uint8_t k[CHUNK_KEY];
    char *e = NULL;

    chunk_key(id, k);
    rocksdb_delete_cf(ix->db, ix->wo, ix->cf[CF_LOC], (char *)k, sizeof(k), &e);
    return e == NULL ? RC_OK : rc_from_rocksdb(e, "drop", reterr);
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

enum rc index_log_trim(struct index *ix, const struct index_group *g, uint64_t first,
                       bool from_back, struct err *reterr)
{
    rocksdb_writebatch_t *wb = rocksdb_writebatch_create();
    uint8_t a[LOG_KEY], b[LOG_KEY];
    char *e = NULL;

    group_put(g, a);
    group_put(g, b);
    be_put64(a + GROUP_BYTES, from_back ? first : 0);
    be_put64(b + GROUP_BYTES, from_back ? UINT64_MAX : first);
    rocksdb_writebatch_delete_range_cf(wb, ix->cf[CF_LOG], (char *)a, sizeof(a), (char *)b,
                                       sizeof(b));
    rocksdb_write(ix->db, ix->wo, wb, &e);
    rocksdb_writebatch_destroy(wb);
    return e == NULL ? RC_OK : rc_from_rocksdb(e, "trim", reterr);
}

/* ---- protocol state: meta rows, group + 'p'; applied: group + 'a' ---- */
enum rc index_persist(struct index *ix, const struct index_group *g, struct slice blob,
                      struct err *reterr)
{
    uint8_t k[GROUP_BYTES + 1], v[5 + BLOB_MAX];
    char *e = NULL;

    if (blob.n == 0 || blob.n > BLOB_MAX) return err_set(reterr, RC_INVAL, "protocol state");
    group_put(g, k);
    k[GROUP_BYTES] = 'p';
    v[0] = FORMAT;
    le_put32(v + 1, crc32c(0, blob.p, blob.n));
    memcpy(v + 5, blob.p, blob.n);
    rocksdb_put_cf(ix->db, ix->wo_sync, ix->cf[CF_META], (char *)k, sizeof(k), (char *)v,
                   5 + blob.n, &e);
    return e == NULL ? RC_OK : rc_from_rocksdb(e, "persist", reterr);
}

enum rc index_persisted(struct index *ix, const struct index_group *g, uint8_t *p, size_t cap,
                        size_t *ret_n, struct err *reterr)
{
    uint8_t k[GROUP_BYTES + 1];
    size_t n = 0;
    char *v = NULL;
    enum rc rc;

    group_put(g, k);
    k[GROUP_BYTES] = 'p';
    rc = get(ix, CF_META, k, sizeof(k), &v, &n, reterr);
    if (rc != RC_OK) return rc;
    if (n < 6 || v[0] != (char)FORMAT || le_get32((uint8_t *)v + 1) != crc32c(0, v + 5, n - 5)) {
        rc = err_set(reterr, RC_CORRUPT, "index: protocol state fails its CRC");
    } else if (n - 5 > cap) {
        rc = err_set(reterr, RC_RANGE, "index: protocol state of %zu bytes", n - 5);
    } else {
        memcpy(p, v + 5, n - 5);
        *ret_n = n - 5;
    }
    rocksdb_free(v);
    return rc;
}

enum rc index_groups(struct index *ix, enum rc (*fn)(void *ctx, const struct index_group *g),
                     void *ctx, struct err *reterr)
{
    rocksdb_iterator_t *it = rocksdb_create_iterator_cf(ix->db, ix->ro, ix->cf[CF_META]);
    uint8_t last[GROUP_BYTES];
    bool any = false;
    enum rc rc = RC_OK;

    for (rocksdb_iter_seek_to_first(it); rc == RC_OK && rocksdb_iter_valid(it);
         rocksdb_iter_next(it)) {
        size_t n = 0;
        const uint8_t *k = (const uint8_t *)rocksdb_iter_key(it, &n);
        struct index_group g;

        if (n != GROUP_BYTES + 1 || (any && memcmp(last, k, GROUP_BYTES) == 0)) continue;
        memcpy(last, k, GROUP_BYTES);
        any = true;
        g = (struct index_group){.pool = be_get32(k), .prefix = be_get64(k + 4), .bits = k[12]};
        rc = fn(ctx, &g);
    }
    if (rc == RC_OK) rc = iter_rc(it, reterr);
    rocksdb_iter_destroy(it);
    return rc;
}

/* ---- state ---- */
static size_t state_key(const uint8_t *prefix, struct slice key, uint8_t out[STATE_KEY])
{
    CHECK(key.n <= APPLY_MAPKEY_BYTES_MAX); /* apply_core's limit */
    memcpy(out, prefix, GROUP_BYTES);
    if (key.n > 0) memcpy(out + GROUP_BYTES, key.p, key.n);
    return GROUP_BYTES + key.n;
}

static void batch_unborrow(struct index_batch *b)
{
    if (b->it != NULL) rocksdb_iter_destroy(b->it);
    if (b->value != NULL) rocksdb_free(b->value);
    b->it = NULL;
    b->value = NULL;
}

static enum rc map_get(void *ctx, struct slice key, struct slice *ret_value)
{
    struct index_batch *b = ctx;
    uint8_t k[STATE_KEY];
    size_t kn = state_key(b->prefix, key, k), n = 0;
    char *e = NULL;

    batch_unborrow(b);
    b->value = rocksdb_writebatch_wi_get_from_batch_and_db_cf(
        b->wb, b->ix->db, b->ix->ro, b->ix->cf[CF_STATE], (char *)k, kn, &n, &e);
    if (e != NULL) return rc_from_rocksdb(e, "state", NULL);
    if (b->value == NULL) return RC_NOTFOUND;
    *ret_value = (struct slice){(uint8_t *)b->value, n};
    return RC_OK;
}

static enum rc map_next(void *ctx, struct slice from, struct slice *ret_key,
                        struct slice *ret_value)
{
    struct index_batch *b = ctx;
    struct index *ix = b->ix;
    uint8_t k[STATE_KEY];
    size_t kn = state_key(b->prefix, from, k), n = 0;
    const uint8_t *p;

    batch_unborrow(b);
    b->it = rocksdb_writebatch_wi_create_iterator_with_base_cf(
        b->wb, rocksdb_create_iterator_cf(ix->db, ix->ro, ix->cf[CF_STATE]), ix->cf[CF_STATE]);
    rocksdb_iter_seek(b->it, (char *)k, kn);
    p = iter_key(b->it, b->prefix, GROUP_BYTES, &n);
    if (p == NULL) {
        enum rc rc = iter_rc(b->it, NULL);

        return rc == RC_OK ? RC_NOTFOUND : rc;
    }
    *ret_key = (struct slice){p + GROUP_BYTES, n - GROUP_BYTES};
    ret_value->p = (const uint8_t *)rocksdb_iter_value(b->it, &n);
    ret_value->n = n;
    return RC_OK;
}

static enum rc map_put(void *ctx, struct slice key, struct slice value)
{
    struct index_batch *b = ctx;
    uint8_t k[STATE_KEY];
    size_t kn = state_key(b->prefix, key, k);

    rocksdb_writebatch_wi_put_cf(b->wb, b->ix->cf[CF_STATE], (char *)k, kn, (const char *)value.p,
                                 value.n);
    return RC_OK;
}

static enum rc map_del(void *ctx, struct slice key)
{
    struct index_batch *b = ctx;
    uint8_t k[STATE_KEY];
    size_t kn = state_key(b->prefix, key, k);

    rocksdb_writebatch_wi_delete_cf(b->wb, b->ix->cf[CF_STATE], (char *)k, kn);
    return RC_OK;
}

enum rc index_batch_new(struct index *ix, const struct index_group *g,
                        struct index_batch **ret_batch)
{
    struct index_batch *b = calloc(1, sizeof(*b));
    uint8_t *scratch = malloc(APPLY_SCRATCH_BYTES);

    if (b == NULL || scratch == NULL) {
        free(b);
        free(scratch);
        return RC_NOMEM;
    }
    b->ix = ix;
    b->group = *g;
    group_put(g, b->prefix);
    b->wb = rocksdb_writebatch_wi_create(0, /* overwrite_keys= */ 1);
    b->map = (struct apply_map){map_get, map_next, map_put, map_del, b, scratch};
    *ret_batch = b;
    return RC_OK;
}

void index_batch_free(struct index_batch *b)
{
    if (b == NULL) return;
    batch_unborrow(b);
    rocksdb_writebatch_wi_destroy(b->wb);
    free(b->map.scratch);
    free(b);
}

const struct apply_map *index_batch_map(struct index_batch *b)
{
    return &b->map;
}

/* Key by key: RocksDB 7.8's indexed batch has no range deletion. */
enum rc index_batch_clear(struct index_batch *b, struct err *reterr)
{
    struct index *ix = b->ix;
    rocksdb_iterator_t *it;
    const uint8_t *p;
    size_t n = 0;
    enum rc rc;

    batch_unborrow(b);
    rocksdb_writebatch_wi_clear(b->wb);
    it = rocksdb_create_iterator_cf(ix->db, ix->ro, ix->cf[CF_STATE]);
    for (rocksdb_iter_seek(it, (char *)b->prefix, GROUP_BYTES);
         (p = iter_key(it, b->prefix, GROUP_BYTES, &n)) != NULL; rocksdb_iter_next(it)) {
        rocksdb_writebatch_wi_delete_cf(b->wb, ix->cf[CF_STATE], (const char *)p, n);
    }
    rc = iter_rc(it, reterr);
    rocksdb_iter_destroy(it);
    return rc;
}

enum rc index_batch_commit(struct index_batch *b, struct index_applied applied, struct err *reterr)
{
    uint8_t k[GROUP_BYTES + 1], v[17];
    char *e = NULL;

    batch_unborrow(b);
    memcpy(k, b->prefix, GROUP_BYTES);
    k[GROUP_BYTES] = 'a';
    v[0] = FORMAT;
    le_put64(v + 1, applied.epoch);
    le_put64(v + 9, applied.index);
    rocksdb_writebatch_wi_put_cf(b->wb, b->ix->cf[CF_META], (char *)k, sizeof(k), (char *)v,
                                 sizeof(v));
    rocksdb_write_writebatch_wi(b->ix->db, b->ix->wo, b->wb, &e);
    if (e != NULL) return rc_from_rocksdb(e, "apply", reterr);
    rocksdb_writebatch_wi_clear(b->wb);
    return RC_OK;
}

static enum rc applied_decode(const uint8_t *v, size_t n, struct index_applied *ret,
                              struct err *reterr)
{
    if (n != 17 || v[0] != FORMAT) return err_set(reterr, RC_CORRUPT, "index: applied row");
    *ret = (struct index_applied){.epoch = le_get64(v + 1), .index = le_get64(v + 9)};
    return RC_OK;
}

static enum rc applied_at(struct index *ix, const rocksdb_readoptions_t *ro,
                          const struct index_group *g, struct index_applied *ret,
                          struct err *reterr)
{
    uint8_t k[GROUP_BYTES + 1];
    char *e = NULL, *v;
    size_t n = 0;
    enum rc rc;

    *ret = (struct index_applied){0};
    group_put(g, k);
    k[GROUP_BYTES] = 'a';
    v = rocksdb_get_cf(ix->db, ro, ix->cf[CF_META], (char *)k, sizeof(k), &n, &e);
    if (e != NULL) return rc_from_rocksdb(e, "applied", reterr);
    if (v == NULL) return RC_OK;
    rc = applied_decode((uint8_t *)v, n, ret, reterr);
    rocksdb_free(v);
    return rc;
}

enum rc index_applied_get(struct index *ix, const struct index_group *g, struct index_applied *ret,
                          struct err *reterr)
{
    return applied_at(ix, ix->ro, g, ret, reterr);
}

enum rc index_state_get(struct index *ix, const struct index_group *g, struct slice key,
                        struct buf *out, struct err *reterr)
{
    uint8_t prefix[GROUP_BYTES], k[STATE_KEY];
    size_t n = 0;
    char *v = NULL;
    enum rc rc;

    if (key.n > APPLY_MAPKEY_BYTES_MAX) return err_set(reterr, RC_INVAL, "key of %zu bytes", key.n);
    group_put(g, prefix);
    rc = get(ix, CF_STATE, k, state_key(prefix, key, k), &v, &n, reterr);
    if (rc != RC_OK) return rc;
    buf_put(out, v, n);
    rocksdb_free(v);
    rc = buf_rc(out);
    return rc == RC_OK ? rc : err_set(reterr, rc, "value of %zu bytes", n);
}

enum rc index_state_scan(struct index *ix, const struct index_group *g, struct slice from,
                         struct slice until,
                         enum rc (*fn)(void *ctx, struct slice key, struct slice value), void *ctx,
                         struct index_applied *ret_applied, struct err *reterr)
{
    const rocksdb_snapshot_t *snap;
    rocksdb_readoptions_t *ro;
    rocksdb_iterator_t *it;
    uint8_t prefix[GROUP_BYTES], k[STATE_KEY];
    const uint8_t *p;
    size_t n = 0, vn = 0;
    enum rc rc;

    if (from.n > APPLY_MAPKEY_BYTES_MAX) return err_set(reterr, RC_INVAL, "key too long");
    group_put(g, prefix);
    snap = rocksdb_create_snapshot(ix->db);
    ro = rocksdb_readoptions_create();
    rocksdb_readoptions_set_snapshot(ro, snap);
    it = rocksdb_create_iterator_cf(ix->db, ro, ix->cf[CF_STATE]);
    rc = applied_at(ix, ro, g, ret_applied, reterr);
    for (rocksdb_iter_seek(it, (char *)k, state_key(prefix, from, k));
         rc == RC_OK && (p = iter_key(it, prefix, GROUP_BYTES, &n)) != NULL;
         rocksdb_iter_next(it)) {
        struct slice key = {p + GROUP_BYTES, n - GROUP_BYTES};
        const char *v = rocksdb_iter_value(it, &vn);

        if (until.n > 0) {
            int c = memcmp(key.p, until.p, MIN(key.n, until.n));

            if (c > 0 || (c == 0 && key.n >= until.n)) break;
        }
        rc = fn(ctx, key, (struct slice){(const uint8_t *)v, vn});
    }
    if (rc == RC_OK) rc = iter_rc(it, reterr);
    if (rc == RC_RANGE) rc = RC_OK;
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(ro);
    rocksdb_release_snapshot(ix->db, snap);
    return rc;
}
