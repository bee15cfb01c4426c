/* storaged/index/index.h - RocksDB of one disk: where chunks and log entries lie, and the state of
 * each group.
 *
 * Every function may block, but reads through index_cached(): worker threads (or start-up) only.
 * Thread-safe: any thread; a group's batches must come one after the other (its order is its
 * log's). The WAL is on and not synced: a power cut or a kill keeps a prefix of all batches
 * (point-in-time recovery), so that state, applied position and replay position always fit
 * together; what is missing is replayed from the segment log. index_sync makes all before it
 * durable.
 *
 * Column families, keys and values: README.md. After RC_IO or RC_CORRUPT of a write the index takes
 * no more writes (RocksDB's background error); the disk is out. Any write may also be RC_FULL: the
 * file system is full, nothing was written, and the same call works again when there is room. */
#pragma once
#include "storaged/replica/apply_core.h"
#include "storaged/segment/seglog.h"

struct index;
struct index_batch;
/* A placement group: hashes of pool whose first `bits` bits are those of prefix. */
struct index_group {
    uint32_t pool;
    uint8_t bits;
    uint64_t prefix; /* the low 64 - bits are zero */
};
struct index_chunk_id {
    struct id128 body;
    uint32_t index;
    struct id128 seal_id;
};
/* Facts of a chunk record; the CRCs and tags stay in the record. */
struct index_chunk {
    struct index_chunk_id id;
    struct seg_location loc;
    uint32_t pool;
    uint64_t placement_hash, owner_hash;
    struct id128 upload_id;
    uint8_t plain_digest[32];
};
struct index_log_row {
    uint64_t epoch, index;
    struct seg_location loc;
};
struct index_applied {
    uint64_t epoch, index;
};

#define INDEX_CACHE_DEFAULT (64u << 20)
/* conf.spares: files there that have blocks and nothing in them, large-0... for manifests and
 * small-0... for the rest, which an open takes for the files that it makes (spares.cc). */
#define INDEX_SPARES_LARGE 4u
#define INDEX_SPARES_SMALL 24u
struct index_conf {
    const char *dir;
    size_t cache_bytes; /* block cache and memtables together; 0 = INDEX_CACHE_DEFAULT */
    bool rebuild;       /* an index that does not open is an error; true: begin an empty one */
    /* For a look at what nobody serves: nothing is written (but RocksDB's own LOG), none is made
     * when there is none, and a WAL that stops before its end is RC_CORRUPT. */
    bool read_only;
    bool torn_wal;      /* read_only: such a WAL is read as far as it is good */
    const char *spares; /* the file system is full; NULL: files are made as ever */
};
/* Creates it when there is none. RC_CORRUPT, RC_IO, RC_PRECOND (another format),
 * RC_BUSY (open elsewhere). */
MUST_CHECK enum rc index_open(const struct index_conf *conf, struct index **ret_ix,
                              struct err *reterr);
void index_close(struct index *ix); /* NULL is fine */
/* The same index, for reads that must not block: they look only where memory is (memtables, block
 * cache) and say RC_BUSY when the answer may lie on the disk. Any thread; closed with ix. */
struct index *index_cached(struct index *ix);
/* What was durable is not there any more (a WAL that rots; index_mark.c): promises may be missing.
 * Told until the next index_sync. */
bool index_lost(struct index *ix);
/* From now on no write begins while the file system has less room than that (0: none is refused):
 * it is RC_FULL. No spares are taken any more. */
void index_room_keep(struct index *ix, uint64_t bytes);
/* All batches before are durable. RC_IO. */
MUST_CHECK enum rc index_sync(struct index *ix, struct err *reterr);

/* ---- rows of the segment log; written by storaged/store ---- */
struct index_rows; /* one atomic batch */
MUST_CHECK enum rc index_rows_new(struct index *ix, struct index_rows **ret_rows);
/* from (NULL: whatever was there): the record is a copy, the row is replaced only if it points to
 * the copy's source. RC_IO, RC_CORRUPT. */
MUST_CHECK enum rc index_rows_chunk(struct index_rows *r, const struct index_chunk *c,
                                    const struct record_source *from, struct err *reterr);
/* Replaces the row of that index unless that has a higher epoch. RC_IO, RC_CORRUPT. */
MUST_CHECK enum rc index_rows_log(struct index_rows *r, const struct index_group *g,
                                  const struct index_log_row *row, const struct record_source *from,
                                  struct err *reterr);
/* That segment is finished: so it is known at the next start, without being opened. */
void index_rows_segment(struct index_rows *r, const struct seglog_segment *s);
/* Every record below upto has its row in this or an earlier batch. Frees r. From new to commit or
 * free nobody else changes a place: one thread, no other call that does. */
MUST_CHECK enum rc index_rows_commit(struct index_rows *r, struct seg_position upto,
                                     struct err *reterr);
void index_rows_free(struct index_rows *r); /* instead of commit */
MUST_CHECK enum rc index_replay_from(struct index *ix, struct seg_position *ret,
                                     struct err *reterr);

/* ---- chunks ---- */
/* RC_OK, RC_NOTFOUND, RC_IO, RC_CORRUPT. */
MUST_CHECK enum rc index_chunk_get(struct index *ix, const struct index_chunk_id *id,
                                   struct index_chunk *ret, struct err *reterr);
/* Any sealing of (body, index), the lowest seal id first; up to max. */
MUST_CHECK enum rc index_chunk_find(struct index *ix, const struct id128 *body, uint32_t index,
                                    struct index_chunk *ret, uint32_t max, uint32_t *ret_n,
                                    struct err *reterr);
/* Each row of chunks and of logs, in key order; another rc than RC_OK of fn ends it. Reads every
 * block of theirs anew. RC_CORRUPT: a block or a row is bad. */
MUST_CHECK enum rc index_chunks_each(struct index *ix,
                                     enum rc (*fn)(void *ctx, const struct index_chunk *c),
                                     void *ctx, struct err *reterr);
MUST_CHECK enum rc index_logs_each(struct index *ix,
                                   enum rc (*fn)(void *ctx, const struct index_group *g,
                                                 const struct index_log_row *row),
                                   void *ctx, struct err *reterr);
/* All rows of the other families (states, promises) are read; *ret_n of them. */
MUST_CHECK enum rc index_rest_check(struct index *ix, uint64_t *ret_n, struct err *reterr);
/* Forget it (only, if not NULL: only if it lies there); its bytes become dead. OK when absent. */
MUST_CHECK enum rc index_chunk_drop(struct index *ix, const struct index_chunk_id *id,
                                    const struct seg_location *only, struct err *reterr);

/* ---- a group's log ---- */
/* Rows of index first.., contiguous, up to max. ret_n = 0: none at first. */
MUST_CHECK enum rc index_log_get(struct index *ix, const struct index_group *g, uint64_t first,
                                 struct index_log_row *ret, uint32_t max, uint32_t *ret_n,
                                 struct err *reterr);
/* First and last index there; RC_NOTFOUND: empty. */
MUST_CHECK enum rc index_log_bounds(struct index *ix, const struct index_group *g,
                                    uint64_t *ret_first, uint64_t *ret_last, struct err *reterr);
/* Drop rows with index < first (from the front), or >= first (from the back). */
MUST_CHECK enum rc index_log_trim(struct index *ix, const struct index_group *g, uint64_t first,
                                  bool from_back, struct err *reterr);

/* ---- live bytes of each segment: headers and payloads that a row points to ---- */
struct index_space {
    struct seglog_segment seg; /* bytes 0: not finished when the rows were written */
    uint64_t live_bytes;
};
/* By id. free(*ret). RC_NOMEM. */
MUST_CHECK enum rc index_space_list(struct index *ix, struct index_space **ret, uint32_t *ret_n,
                                    struct err *reterr);
uint64_t index_space_live(struct index *ix, uint64_t segment_id);
/* The segment is gone. */
MUST_CHECK enum rc index_space_forget(struct index *ix, uint64_t segment_id, struct err *reterr);
/* Every row that points into the log, and every quarantined one: reads the whole families. */
struct index_ref {
    bool chunk_row, quarantined;
    struct seg_location loc;
    struct index_chunk chunk; /* chunk_row */
    struct index_group group; /* else */
    struct index_log_row log;
};
MUST_CHECK enum rc index_refs(struct index *ix,
                              enum rc (*fn)(void *ctx, const struct index_ref *ref), void *ctx,
                              struct err *reterr);
/* What the index says of a record at its place. */
enum index_place { INDEX_DEAD, INDEX_LIVE, INDEX_QUARANTINED };
MUST_CHECK enum rc index_place_of(struct index *ix, const struct record_header *h,
                                  const struct seg_location *loc, enum index_place *ret,
                                  struct err *reterr);
/* What a group's applied state says of a chunk. RC_NOTFOUND: nothing. As index_state_get. */
MUST_CHECK enum rc index_chunk_state(struct index *ix, const struct index_group *g,
                                     uint64_t placement_hash, const struct id128 *body,
                                     uint32_t index, struct apply_chunk *ret_row, bool *ret_dropped,
                                     struct err *reterr);
/* The same of one sealing. */
enum index_listing {
    INDEX_UNLISTED, /* nothing */
    INDEX_LISTED,
    INDEX_DECIDED, /* a tombstone or another sealing, for ever */
};
MUST_CHECK enum rc index_chunk_listing(struct index *ix, const struct index_group *g,
                                       uint64_t placement_hash, const struct index_chunk_id *id,
                                       enum index_listing *ret, struct err *reterr);
/* What the state of a live chunk's group says of its record; one that was decided otherwise is
 * dropped (such a write came late). kinds: pool and bits of the groups there are here. */
MUST_CHECK enum rc index_orphan_drop(struct index *ix, const struct index_group *kinds,
                                     uint32_t kinds_n, const struct record_header *h,
                                     const struct seg_location *loc, enum index_listing *ret,
                                     struct err *reterr);
/* RocksDB's table files as of now. free(*ret). */
struct index_file {
    char name[64];
    uint64_t bytes;
};
MUST_CHECK enum rc index_files(struct index *ix, struct index_file **ret, uint32_t *ret_n,
                               struct err *reterr);
/* Every block against its checksum, from the disk. RC_CORRUPT, RC_IO, RC_NOTFOUND (compacted away).
 */
MUST_CHECK enum rc index_file_check(struct index *ix, const char *name, struct err *reterr);
struct index_stats {
    uint64_t live_bytes, quarantined_n;
    uint64_t syncs_n; /* index_sync since open */
};
void index_stats(struct index *ix, struct index_stats *ret); /* any thread, never waits */

/* ---- quarantine: records found bad. Their row is gone, so nobody is served; the note and the
 * bytes stay until a good copy was written. ---- */
struct index_bad {
    struct index_chunk chunk; /* loc: where the bad record lies */
    uint8_t reason;           /* the caller's */
    uint64_t found_unix_ms;
};
/* RC_NOTFOUND: its row does not point to loc (any more): nothing was done. Durable on return. */
MUST_CHECK enum rc index_bad_add(struct index *ix, const struct index_chunk_id *id,
                                 const struct seg_location *loc, uint8_t reason, uint64_t unix_ms,
                                 struct err *reterr);
/* Behind `from` (NULL: from the first). */
MUST_CHECK enum rc index_bad_list(struct index *ix, const struct index_chunk_id *from,
                                  struct index_bad *ret, uint32_t max, uint32_t *ret_n,
                                  struct err *reterr);
/* A good copy is there, or none is wanted any more. OK when absent. */
MUST_CHECK enum rc index_bad_clear(struct index *ix, const struct index_chunk_id *id,
                                   struct err *reterr);

/* ---- small notes (at most 63 bytes of name) ---- */
MUST_CHECK enum rc index_note_put(struct index *ix, const char *name, struct slice value,
                                  struct err *reterr);
/* RC_NOTFOUND, RC_RANGE (cap). */
MUST_CHECK enum rc index_note_get(struct index *ix, const char *name, uint8_t *p, size_t cap,
                                  size_t *ret_n, struct err *reterr);

/* Each whose name begins with prefix, by name; RC_RANGE from fn ends it with RC_OK. */
MUST_CHECK enum rc index_notes_each(struct index *ix, const char *prefix,
                                    enum rc (*fn)(void *ctx, const char *name, struct slice value),
                                    void *ctx, struct err *reterr);
MUST_CHECK enum rc index_note_drop(struct index *ix, const char *name, struct err *reterr);

/* Forget that row, if it still is this one: its bytes are lost. It leaves a hole. */
MUST_CHECK enum rc index_log_drop(struct index *ix, const struct index_group *g,
                                  const struct index_log_row *row, struct err *reterr);

/* ---- protocol state: an opaque blob per group (REPLICA_DURABLE_BYTES), 1..4096 bytes ---- */
/* Durable on return (and so is all before it). */
MUST_CHECK enum rc index_persist(struct index *ix, const struct index_group *g, struct slice blob,
                                 struct err *reterr);
/* RC_NOTFOUND. ret_n <= cap, else RC_RANGE. CRC'd. */
MUST_CHECK enum rc index_persisted(struct index *ix, const struct index_group *g, uint8_t *p,
                                   size_t cap, size_t *ret_n, struct err *reterr);
/* Every group that has protocol or applied state here. */
MUST_CHECK enum rc index_groups(struct index *ix,
                                enum rc (*fn)(void *ctx, const struct index_group *g), void *ctx,
                                struct err *reterr);

/* Protocol and applied state of the group go: it was never here. Durable on return. */
MUST_CHECK enum rc index_group_forget(struct index *ix, const struct index_group *g,
                                      struct err *reterr);

/* ---- a group's state ---- */
/* One batch: any number of entries in order, then one commit. */
MUST_CHECK enum rc index_batch_new(struct index *ix, const struct index_group *g,
                                   struct index_batch **ret_batch);
void index_batch_free(struct index_batch *b); /* throws away what is not committed; NULL is fine */
/* The map that apply_step works on: sees this batch over the database. Belongs to the batch. */
const struct apply_map *index_batch_map(struct index_batch *b);
/* Erase the group's whole state within the batch, before a snapshot is put. RC_IO. */
MUST_CHECK enum rc index_batch_clear(struct index_batch *b, struct err *reterr);
/* With the batch: forget every sealing of that chunk but keep_seal (NULL: all); their bytes become
 * dead. RC_IO, RC_CORRUPT. */
MUST_CHECK enum rc index_batch_chunk_drop(struct index_batch *b, const struct id128 *body,
                                          uint32_t index, const struct id128 *keep_seal,
                                          struct err *reterr);
/* State and position in one write; the batch is empty again and can be used on. RC_IO; RC_FULL: as
 * it was, but for one that dropped chunks: free it. */
MUST_CHECK enum rc index_batch_commit(struct index_batch *b, struct index_applied applied,
                                      struct err *reterr);
/* RC_OK with zeros: nothing applied yet. */
MUST_CHECK enum rc index_applied_get(struct index *ix, const struct index_group *g,
                                     struct index_applied *ret, struct err *reterr);
/* Committed state. Value is appended to out (limit: out's). RC_NOTFOUND. */
struct buf;
MUST_CHECK enum rc index_state_get(struct index *ix, const struct index_group *g, struct slice key,
                                   struct buf *out, struct err *reterr);
/* The first key that begins with prefix, and its value, appended likewise. RC_NOTFOUND. */
MUST_CHECK enum rc index_state_first(struct index *ix, const struct index_group *g,
                                     struct slice prefix, struct buf *key, struct buf *value,
                                     struct err *reterr);
/* Keys in [from, until) (until.n = 0: to the end) of one consistent snapshot, in order, with the
 * position it stands for. fn borrows; RC_RANGE from fn ends the scan with RC_OK, others with them.
 */
MUST_CHECK enum rc index_state_scan(struct index *ix, const struct index_group *g,
                                    struct slice from, struct slice until,
                                    enum rc (*fn)(void *ctx, struct slice key, struct slice value),
                                    void *ctx, struct index_applied *ret_applied,
                                    struct err *reterr);
