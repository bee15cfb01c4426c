/* storaged/index/index.c - keys, values and batches over RocksDB's C API.
 *
 * Group key: pool BE u32, prefix BE u64, bits u8. Integers of values little-endian, first byte the
 * format. RocksDB's checksums cover values; what must not be misread (protocol state) has its own.
 */
#include "common/base/log.h"
#include "storaged/index/index_priv.h"
#include "common/base/buf.h"

static const char *const CF_NAMES[CF_N] = {"default", "loc",   "log", "state",
                                           "meta",    "space", "bad"};
static const char FORMAT_KEY[] = "format";

/* ---- opening ---- */
static enum rc format_write(struct index *ix, struct err *reterr)
{
    char f = (char)INDEX_FORMAT, *e = NULL;

    rocksdb_put_cf(ix->db, ix->wo, ix->cf[CF_DEFAULT], FORMAT_KEY, sizeof(FORMAT_KEY), &f, 1, &e);
    return e == NULL ? RC_OK : rc_from_rocksdb(e, "format", reterr);
}

/* An index of format 1 had no live bytes: they are counted once. */
static enum rc format_check(struct index *ix, const struct index_conf *conf, struct err *reterr)
{
    size_t n = 0;
    char *v = NULL, format;
    enum rc rc = row_get(ix, CF_DEFAULT, FORMAT_KEY, sizeof(FORMAT_KEY), &v, &n, reterr);

    if (rc == RC_NOTFOUND && conf->read_only)
        return err_set(reterr, RC_CORRUPT, "index '%s' has no format", conf->dir);
    if (rc == RC_NOTFOUND) return format_write(ix, reterr);
    if (rc != RC_OK) return rc;
    format = n == 1 ? v[0] : 0;
    rocksdb_free(v);
    if (format == (char)INDEX_FORMAT) return space_load(ix, reterr);
    if (format != 1 || conf->read_only)
        return err_set(reterr, RC_PRECOND, "index '%s' has another format", conf->dir);
    rc = space_recount(ix, reterr);
    return rc == RC_OK ? format_write(ix, reterr) : rc;
}

enum rc index_open(const struct index_conf *conf, struct index **ret_ix, struct err *reterr)
{
    struct index *ix = calloc(1, sizeof(*ix));
    size_t cache = conf->cache_bytes != 0 ? conf->cache_bytes : INDEX_CACHE_DEFAULT;
    const rocksdb_options_t *opts[CF_N];
    rocksdb_block_based_table_options_t *table;
    rocksdb_cache_t *lru;
    char *e = NULL;
    enum rc rc;

    if (ix == NULL) return err_set(reterr, RC_NOMEM, "index");
    CHECK(pthread_mutex_init(&ix->space.lock, NULL) == 0);
    ix->dir = strdup(conf->dir);
    if (ix->dir == NULL) {
        (void)pthread_mutex_destroy(&ix->space.lock);
        free(ix);
        return err_set(reterr, RC_NOMEM, "index");
    }
    ix->opts = rocksdb_options_create();
    room_init(ix);
    CHECK(pthread_mutex_init(&ix->mark.lock, NULL) == 0);
    ix->mark.fd = -1;
    ix->ro = rocksdb_readoptions_create();
    ix->ro_scan = rocksdb_readoptions_create();
    rocksdb_readoptions_set_fill_cache(ix->ro_scan, 0);
    ix->wo = rocksdb_writeoptions_create();
    rocksdb_options_set_create_if_missing(ix->opts, 1);
    rocksdb_options_set_create_missing_column_families(ix->opts, 1);
    rocksdb_options_set_paranoid_checks(ix->opts, 1);
    /* kPointInTimeRecovery; to look: kTolerateCorruptedTailRecords */
    rocksdb_options_set_wal_recovery_mode(ix->opts, conf->read_only && !conf->torn_wal ? 0 : 2);
    rocksdb_options_set_db_write_buffer_size(ix->opts, cache / 2);
    rocksdb_options_set_write_buffer_size(ix->opts, cache / 2);
    /* Its default, 1 MiB, counts as used with the first row of each column family: seven of them
     * are half of a budget of 16 MiB, and once slow flushes held the other half, every write
     * flushed a table of a few rows, without end (test_index: memtables). */
    rocksdb_options_set_arena_block_size(ix->opts, ARENA_BYTES(cache));
    rocksdb_options_set_allow_concurrent_memtable_write(ix->opts, 0); /* one thread writes */
    rocksdb_options_set_max_total_wal_size(ix->opts, cache);
    rocksdb_options_set_manual_wal_flush(ix->opts, 1); /* wal_step */
    rocksdb_options_set_max_open_files(ix->opts, 256);
    rocksdb_options_set_keep_log_file_num(ix->opts, 4);
    /* HEADER_LEVEL: its own log is written at the open only. A line of it that met a full file
     * system ended the process at the next line, by an assertion (test_enospc, one run in twelve).
     */
    rocksdb_options_set_info_log_level(ix->opts, 5);
    rocksdb_options_set_manifest_preallocation_size(ix->opts, 256u << 10); /* of 4 MiB */
    if (conf->spares != NULL)
        ix->spares = spares_use(ix->opts, conf->spares, INDEX_SPARES_LARGE, INDEX_SPARES_SMALL);
    table = rocksdb_block_based_options_create();
    lru = rocksdb_cache_create_lru(cache / 2);
    rocksdb_block_based_options_set_block_cache(table, lru);
    /* each row of a chunk is looked for before it is written (live bytes), mostly in vain */
    rocksdb_block_based_options_set_filter_policy(table,
                                                  rocksdb_filterpolicy_create_bloom_full(10));
    rocksdb_options_set_block_based_table_factory(ix->opts, table);
    rocksdb_cache_destroy(lru); /* the table options hold it */
    rocksdb_block_based_options_destroy(table);
    if (conf->rebuild) {
        rocksdb_destroy_db(ix->opts, conf->dir, &e);
        if (e != NULL) {
            rc = rc_from_rocksdb(e, "rebuild", reterr);
            goto fail;
        }
        mark_remove(conf->dir);
    }
    /* rows that are looked for before they are written, mostly in vain */
    ix->opts_sought = rocksdb_options_create_copy(ix->opts);
    rocksdb_options_set_memtable_prefix_bloom_size_ratio(ix->opts_sought, 1.0 / 64);
    rocksdb_options_set_memtable_whole_key_filtering(ix->opts_sought, 1);
    for (int i = 0; i < CF_N; i++)
        opts[i] = i == CF_STATE || i == CF_LOC || i == CF_LOG ? ix->opts_sought : ix->opts;
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
    rc = mark_open(ix, conf->dir, conf->read_only, reterr);
    if (rc == RC_OK) rc = format_check(ix, conf, reterr);
    if (rc != RC_OK) goto fail;
    ix->cached = malloc(sizeof(*ix));
    if (ix->cached == NULL) {
        rc = err_set(reterr, RC_NOMEM, "index");
        goto fail;
    }
    *ix->cached = *ix;
    ix->cached->cached = NULL;
    ix->cached->ro = rocksdb_readoptions_create();
    rocksdb_readoptions_set_read_tier(ix->cached->ro, 1); /* kBlockCacheTier */
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
    if (ix->cached != NULL) rocksdb_readoptions_destroy(ix->cached->ro);
    free(ix->cached);
    rocksdb_options_destroy(ix->opts);
    if (ix->opts_sought != NULL) rocksdb_options_destroy(ix->opts_sought);
    rocksdb_readoptions_destroy(ix->ro);
    rocksdb_readoptions_destroy(ix->ro_scan);
    rocksdb_writeoptions_destroy(ix->wo);
    spares_free(ix->spares);
    mark_close(ix);
    room_deinit(ix);
    (void)pthread_mutex_destroy(&ix->mark.lock);
    (void)pthread_mutex_destroy(&ix->space.lock);
    free(ix->space.segs);
    free(ix->dir);
    free(ix);
}

struct index *index_cached(struct index *ix)
{
    return ix->cached;
}

enum rc index_sync(struct index *ix, struct err *reterr)
{
    enum rc rc = mark_sync(ix, reterr);

    (void)__atomic_add_fetch(&ix->syncs_n, 1, __ATOMIC_RELAXED);
    return rc;
}

/* ---- protocol state: meta rows, group + 'p'; applied: group + 'a' ---- */
enum rc index_persist(struct index *ix, const struct index_group *g, struct slice blob,
                      struct err *reterr)
{
    uint8_t k[GROUP_BYTES + 1], v[5 + BLOB_MAX];
    char *e = NULL;
    enum rc rc;

    if (blob.n == 0 || blob.n > BLOB_MAX) return err_set(reterr, RC_INVAL, "protocol state");
    rc = room_check(ix, reterr);
    if (rc != RC_OK) return rc;
    group_put(g, k);
    k[GROUP_BYTES] = 'p';
    v[0] = FORMAT;
    le_put32(v + 1, crc32c(0, blob.p, blob.n));
    memcpy(v + 5, blob.p, blob.n);
    rocksdb_put_cf(ix->db, ix->wo, ix->cf[CF_META], (char *)k, sizeof(k), (char *)v, 5 + blob.n,
                   &e);
    rc = write_rc(ix, e, "persist", reterr);
    return rc == RC_OK ? mark_sync(ix, reterr) : rc;
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
    rc = row_get(ix, CF_META, k, sizeof(k), &v, &n, reterr);
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

enum rc index_group_forget(struct index *ix, const struct index_group *g, struct err *reterr)
{
    enum rc rc = room_check(ix, reterr);
    rocksdb_writebatch_t *wb;
    uint8_t k[GROUP_BYTES + 1];
    char *e = NULL;

    if (rc != RC_OK) return rc;
    wb = rocksdb_writebatch_create();
    group_put(g, k);
    k[GROUP_BYTES] = 'p';
    rocksdb_writebatch_delete_cf(wb, ix->cf[CF_META], (char *)k, sizeof(k));
    k[GROUP_BYTES] = 'a';
    rocksdb_writebatch_delete_cf(wb, ix->cf[CF_META], (char *)k, sizeof(k));
    rocksdb_write(ix->db, ix->wo, wb, &e);
    rocksdb_writebatch_destroy(wb);
    rc = write_rc(ix, e, "forget", reterr);
    return rc == RC_OK ? mark_sync(ix, reterr) : rc;
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
    space_end(&b->space, /* written= */ false);
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

void wal_step(struct index *ix)
{
    char *e = NULL;

    if (__atomic_add_fetch(&ix->wal_n, 1, __ATOMIC_RELAXED) % WAL_BATCHES != 0) return;
    rocksdb_flush_wal(ix->db, /* sync= */ 0, &e);
    if (write_rc(ix, e, "WAL", NULL) != RC_OK) log_warn("index_wal", "dir=%s", ix->dir);
}

enum rc index_batch_commit(struct index_batch *b, struct index_applied applied, struct err *reterr)
{
    uint8_t k[GROUP_BYTES + 1], v[17];
    char *e = NULL;
    enum rc rc = room_check(b->ix, reterr);

    batch_unborrow(b);
    if (rc != RC_OK) return rc;
    memcpy(k, b->prefix, GROUP_BYTES);
    k[GROUP_BYTES] = 'a';
    v[0] = FORMAT;
    le_put64(v + 1, applied.epoch);
    le_put64(v + 9, applied.index);
    rocksdb_writebatch_wi_put_cf(b->wb, b->ix->cf[CF_META], (char *)k, sizeof(k), (char *)v,
                                 sizeof(v));
    if (b->space.ix != NULL) {
        struct space_wi wi = {b->ix, b->wb};

        if (space_rows(&b->space, space_put_wi, &wi) != RC_OK)
            return err_set(reterr, RC_NOMEM, "live bytes");
    }
    rocksdb_write_writebatch_wi(b->ix->db, b->ix->wo, b->wb, &e);
    rc = write_rc(b->ix, e, "apply", reterr);
    space_end(&b->space, /* written= */ rc == RC_OK);
    if (rc != RC_OK) return rc;
    wal_step(b->ix);
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
    rc = row_get(ix, CF_STATE, k, state_key(prefix, key, k), &v, &n, reterr);
    if (rc != RC_OK) return rc;
    buf_put(out, v, n);
    rocksdb_free(v);
    rc = buf_rc(out);
    return rc == RC_OK ? rc : err_set(reterr, rc, "value of %zu bytes", n);
}

enum rc index_state_first(struct index *ix, const struct index_group *g, struct slice prefix,
                          struct buf *key, struct buf *value, struct err *reterr)
{
    uint8_t group[GROUP_BYTES], k[STATE_KEY];
    rocksdb_iterator_t *it;
    size_t kn, n = 0, vn = 0;
    const uint8_t *p;
    const char *v;
    enum rc rc;

    if (prefix.n > APPLY_MAPKEY_BYTES_MAX) return err_set(reterr, RC_INVAL, "key too long");
    group_put(g, group);
    kn = state_key(group, prefix, k);
    it = rocksdb_create_iterator_cf(ix->db, ix->ro, ix->cf[CF_STATE]);
    rocksdb_iter_seek(it, (char *)k, kn);
    p = iter_key(it, k, kn, &n);
    rc = p != NULL ? RC_OK : iter_rc(it, reterr);
    if (p != NULL) {
        v = rocksdb_iter_value(it, &vn);
        buf_put(key, p + GROUP_BYTES, n - GROUP_BYTES);
        buf_put(value, v, vn);
        rc = buf_rc(key) == RC_OK ? buf_rc(value) : buf_rc(key);
        if (rc != RC_OK) (void)err_set(reterr, rc, "value of %zu bytes", vn);
    } else if (rc == RC_OK) {
        rc = err_set(reterr, RC_NOTFOUND, "index: no such row");
    }
    rocksdb_iter_destroy(it);
    return rc;
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
