/* storaged/index/index_priv.h - shared by index.c (opening, groups' state), index_rows.c (places of
 * records), index_space.c (live bytes of segments, quarantine). */
#pragma once
#include "common/base/crc32c.h"
#include "common/base/le.h"
#include "storaged/index/index.h"
#include <pthread.h>
#include <rocksdb/c.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT             1u
#define INDEX_FORMAT       2u /* 2: families space and bad */
#define GROUP_BYTES        13u
#define LOC_BYTES          32u
#define CHUNK_KEY          36u
#define CHUNK_BYTES        (1u + LOC_BYTES + 4u + 8u + 8u + 16u + 32u)
#define LOG_KEY            (GROUP_BYTES + 8u)
#define LOG_BYTES          (1u + 8u + LOC_BYTES)
#define SPACE_KEY          8u
#define SPACE_BYTES        (1u + 4u * 8u)
#define BAD_BYTES          (CHUNK_BYTES + 1u + 8u)
#define BLOB_MAX           4096u
#define ARENA_BYTES(cache) MAX((size_t)4096, (cache) / 512) /* 64 KiB of the default 32 MiB */
#define STATE_KEY          (GROUP_BYTES + APPLY_MAPKEY_BYTES_MAX)

enum { CF_DEFAULT, CF_LOC, CF_LOG, CF_STATE, CF_META, CF_SPACE, CF_BAD, CF_N };

/* ---- live bytes ----
 * The table is what family `space` holds. Whoever changes a row that points into a segment holds
 * the lock from before he reads the old row until his batch is written, so that the sums are exact
 * and later batches carry later sums. */
struct space {
    pthread_mutex_t lock;
    struct index_space *segs; /* by id */
    uint32_t n, cap;
    uint64_t live_bytes, bad_n; /* read without the lock: atomically */
};
struct space_delta {
    uint64_t segment_id;
    int64_t bytes;
    bool facts, forget;
    struct seglog_segment seg;
};
struct space_txn {
    struct index *ix; /* NULL: not begun */
    struct space_delta *d;
    uint32_t n, cap;
    int64_t bad_n;
    bool nomem;
};
void space_begin(struct index *ix, struct space_txn *t); /* takes the lock */
void space_add(struct space_txn *t, const struct seg_location *loc, int sign);
void space_facts(struct space_txn *t, const struct seglog_segment *s);
void space_forget(struct space_txn *t, uint64_t segment_id);
/* The rows of what the transaction changes. RC_NOMEM: nothing may be written. */
MUST_CHECK enum rc space_rows(struct space_txn *t,
                              void (*put)(void *ctx, const char *k, const char *v), void *ctx);
void space_end(struct space_txn *t, bool written); /* gives the lock back; begun or not */
/* Also for a plain batch and for an indexed one. put: v NULL = delete. */
void space_put_wi(void *wi_ctx, const char *k, const char *v);
struct space_wi {
    struct index *ix;
    rocksdb_writebatch_wi_t *wb;
};
MUST_CHECK enum rc space_load(struct index *ix, struct err *reterr);
/* From all rows, for an index of format 1. */
MUST_CHECK enum rc space_recount(struct index *ix, struct err *reterr);

/* ---- a small batch of rows with their sums ---- */
struct plain {
    struct index *ix;
    rocksdb_writebatch_t *wb;
    struct space_txn space;
};
void plain_begin(struct index *ix, struct plain *p);
/* Writes it if rc is RC_OK; returns rc, or why it was not written. */
MUST_CHECK enum rc plain_end(struct plain *p, enum rc rc, const char *what, struct err *reterr);

/* sst_check.cc. 0: good; 1: bad; 2: can't be read; 3: not there. */
int sst_check(const char *path, char *msg, size_t msg_n);

/* ---- index_mark.c: what was synced ---- */
struct mark {
    int fd; /* -1: none (a read-only look at an index without) */
    pthread_mutex_t lock;
    uint64_t seq, turn;
    bool lost;
};
struct index;
/* The database is open. Compares it with its mark. RC_IO, RC_FULL. */
MUST_CHECK enum rc mark_open(struct index *ix, const char *dir, bool read_only, struct err *reterr);
void mark_remove(const char *dir); /* with the database */
void mark_close(struct index *ix);
/* All before is durable, and marked so. RC_IO, RC_FULL. */
MUST_CHECK enum rc mark_sync(struct index *ix, struct err *reterr);

/* The WAL's bytes go to the kernel with each so many batches, not with each: a write call a batch
 * is what it would cost, and a kill keeps a prefix of all batches, as a power cut does. */
#define WAL_BATCHES 32u
/* After a batch, which is there whatever comes of this: the next write meets RocksDB's error. */
void wal_step(struct index *ix);

/* ---- index_room.c: a file system that somebody else fills ---- */
struct room {
    pthread_mutex_t lock;   /* who resumes */
    uint64_t least_bytes;   /* atomic: below that no write begins; 0: never looked at */
    uint64_t full_at_us;    /* atomic: when RocksDB met ENOSPC; 0: it did not, or was resumed */
    uint64_t good_until_us; /* atomic: so long the last look holds, which found room */
    bool of_wal;            /* atomic: its WAL did */
    uint64_t bad_wal;       /* that one's number, until there is another */
    bool broken;            /* it can't be resumed */
};
void room_init(struct index *ix); /* opts are there, the database is not open yet */
void room_deinit(struct index *ix);
/* Before each write. RC_FULL: nothing may be written now. RC_IO: nor ever. */
MUST_CHECK enum rc room_check(struct index *ix, struct err *reterr);
void room_met_full(struct index *ix); /* a write did */
/* resume.cc, which says what they do. */
void resume_listen(rocksdb_options_t *opts, void (*full)(void *ctx, int of_wal), void *ctx);
int resume_now(rocksdb_t *db, char *msg, size_t msg_n);
unsigned long long resume_wal(rocksdb_t *db);
/* spares.cc, which says what they do. */
struct spares;
struct spares *spares_use(rocksdb_options_t *opts, const char *dir, unsigned large_n,
                          unsigned small_n);
void spares_end(struct spares *s);
void spares_free(struct spares *s);

struct index {
    rocksdb_t *db;
    uint32_t wal_n; /* batches; atomic */
    char *dir;
    rocksdb_options_t *opts, *opts_sought;
    rocksdb_readoptions_t *ro, *ro_scan; /* ro_scan: leaves the cache alone */
    rocksdb_writeoptions_t *wo;
    rocksdb_column_family_handle_t *cf[CF_N];
    struct space space;
    struct mark mark;
    struct room room;
    struct spares *spares; /* NULL: there was room for an open */
    uint64_t syncs_n;      /* atomic */
    /* This with a read tier, for reads of rows only: it has no part in `space`. NULL in that one.
     */
    struct index *cached;
};
struct index_rows {
    struct index *ix;
    rocksdb_writebatch_wi_t *wb;
    struct space_txn space;
};
struct index_batch {
    struct index *ix;
    struct index_group group;
    uint8_t prefix[GROUP_BYTES];
    rocksdb_writebatch_wi_t *wb;
    rocksdb_iterator_t *it;
    char *value;
    struct apply_map map;
    struct space_txn space; /* begun with the first chunk that is dropped */
};

static inline enum rc rc_from_rocksdb(char *e, const char *what, struct err *reterr)
{
    /* "Result incomplete": index_cached() would have had to read the disk */
    enum rc rc = strncmp(e, "Corruption", 10) == 0              ? RC_CORRUPT
                 : strncmp(e, "Result incomplete", 17) == 0     ? RC_BUSY
                 : strstr(e, "No space left on device") != NULL ? RC_FULL
                                                                : RC_IO;

    (void)err_set(reterr, rc, "index: %s: %s", what, e);
    rocksdb_free(e);
    return rc;
}

/* Of a write: e is what it said. */
static inline enum rc write_rc(struct index *ix, char *e, const char *what, struct err *reterr)
{
    enum rc rc = e == NULL ? RC_OK : rc_from_rocksdb(e, what, reterr);

    if (rc == RC_FULL) room_met_full(ix);
    return rc;
}

/* ---- bytes ---- */
static inline bool loc_eq(const struct seg_location *a, const struct seg_location *b)
{
    return a->segment_id == b->segment_id && a->generation == b->generation &&
           a->offset == b->offset;
}

static inline void group_put(const struct index_group *g, uint8_t *p)
{
    be_put(p, 4, g->pool);
    be_put64(p + 4, g->prefix);
    p[12] = g->bits;
}

static inline void loc_put(const struct seg_location *l, uint8_t *p)
{
    le_put64(p, l->segment_id);
    le_put64(p + 8, l->generation);
    le_put64(p + 16, l->offset);
    le_put32(p + 24, l->header_bytes);
    le_put32(p + 28, l->plain_bytes);
}

static inline struct seg_location loc_get(const uint8_t *p)
{
    return (struct seg_location){.segment_id = le_get64(p),
                                 .generation = le_get64(p + 8),
                                 .offset = le_get64(p + 16),
                                 .header_bytes = le_get32(p + 24),
                                 .plain_bytes = le_get32(p + 28)};
}

static inline void chunk_key(const struct index_chunk_id *id, uint8_t *p)
{
    memcpy(p, id->body.b, 16);
    be_put(p + 16, 4, id->index);
    memcpy(p + 20, id->seal_id.b, 16);
}

static inline enum rc chunk_decode(const uint8_t *k, const uint8_t *v, size_t n,
                                   struct index_chunk *c, struct err *reterr)
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

static inline enum rc log_decode(const uint8_t *k, const uint8_t *v, size_t n,
                                 struct index_log_row *r, struct err *reterr)
{
    if (n != LOG_BYTES || v[0] != FORMAT) return err_set(reterr, RC_CORRUPT, "index: log row");
    r->index = be_get64(k + GROUP_BYTES);
    r->epoch = le_get64(v + 1);
    r->loc = loc_get(v + 9);
    return RC_OK;
}

/* gives *ret_v (rocksdb_free) */
static inline enum rc row_get(struct index *ix, int cf, const void *k, size_t kn, char **ret_v,
                              size_t *ret_n, struct err *reterr)
{
    char *e = NULL, *v = rocksdb_get_cf(ix->db, ix->ro, ix->cf[cf], k, kn, ret_n, &e);

    if (e != NULL) return rc_from_rocksdb(e, "get", reterr);
    if (v == NULL) return err_set(reterr, RC_NOTFOUND, "index: no such row");
    *ret_v = v;
    return RC_OK;
}

static inline enum rc iter_rc(rocksdb_iterator_t *it, struct err *reterr)
{
    char *e = NULL;

    rocksdb_iter_get_error(it, &e);
    return e == NULL ? RC_OK : rc_from_rocksdb(e, "scan", reterr);
}

static inline const uint8_t *iter_key(rocksdb_iterator_t *it, const uint8_t *prefix,
                                      size_t prefix_n, size_t *ret_n)
{
    const char *k;

    if (!rocksdb_iter_valid(it)) return NULL;
    k = rocksdb_iter_key(it, ret_n);
    return *ret_n >= prefix_n && memcmp(k, prefix, prefix_n) == 0 ? (const uint8_t *)k : NULL;
}

static inline void chunk_encode(const struct index_chunk *c, uint8_t v[CHUNK_BYTES])
{
    v[0] = FORMAT;
    loc_put(&c->loc, v + 1);
    le_put32(v + 33, c->pool);
    le_put64(v + 37, c->placement_hash);
    le_put64(v + 45, c->owner_hash);
    memcpy(v + 53, c->upload_id.b, 16);
    memcpy(v + 69, c->plain_digest, 32);
}
