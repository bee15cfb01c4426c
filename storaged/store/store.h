/* storaged/store/store.h - one disk of a node: segment log and index joined on a loop. This is what
 * storaged/service uses.
 *
 *   DIR/disk.id   text: "mikura-disk 1 <disk uuid>"; made once, never overwritten
 *   DIR/LOCK      flock'd by the process that serves the disk
 *   DIR/damaged   there while something that was promised is known to be missing
 *   DIR/segments  the segment log        DIR/index  RocksDB
 *   DIR/ballast, DIR/spare   blocks for a start on a full file system (store_ballast.c)
 *
 * Bytes and log entries: the functions below, on the loop, asynchronous. A callback with RC_OK
 * means durable in the log *and* found in the index. Everything in the index (chunk look-up, group
 * state, protocol state) is read and written through index.h with store_index(), on threads
 * (store_worker for the small batches of each write; fiber_work), never on the loop; but reads
 * through index_cached() are free to be.
 *
 * Reading a chunk: index_chunk_get on a worker, then store_read with the location. Reading a log
 * entry for a peer: index_log_get, then store_read of its location (block 0 to the end). */
#pragma once
#include "storaged/index/index.h"
#include "storaged/segment/seglog.h"

#define STORE_ROWS_MAX SEGLOG_APPENDS_MAX /* in one index batch of a replay */
/* Room that the segments leave to the index on their file system: WAL and memtables that are being
 * written out are bounded by its cache each, a compaction needs as much again for a while, and rows
 * are about 1 % of small chunks. At most an eighth, so that a small disk is of use. */
#define STORE_OTHERS_BYTES(cache, total) MIN(3 * (cache) + (total) / 100, (total) / 8)
/* Below that part of it the index writes nothing, so that RocksDB's own writes do not meet the full
 * file system. The log refuses all below an eighth (seglog_conf.others_bytes), that is earlier. */
#define STORE_INDEX_ROOM 12u
/* Of blocks in DIR/ballast, which a start on a full file system gives back: its WAL, which is as
 * large as the cache at most, becomes tables then. */
#define STORE_BALLAST_BYTES(cache, others) MIN((cache) + (4u << 20), (others) / 3)
/* Of a spare file for a manifest, which names each table: 64 MiB in some 200 bytes. */
#define STORE_MANIFEST_BYTES(others) MIN(MAX((others) / 64, 64u << 10), 4u << 20)
#define STORE_APPENDS_MAX            (2 * SEGLOG_APPENDS_MAX) /* accepted and not yet answered */

struct store;
struct store_conf {
    struct uv_loop_s *loop;
    const char *dir;         /* made if missing (its parent must exist) */
    enum disk_engine engine; /* DISK_AUTO, DISK_URING, DISK_PREAD; tests: DISK_MEMORY */
    struct disk_mem *mem;    /* DISK_MEMORY: the segments; the index is in files all the same */
    size_t arena_bytes, cache_bytes;
    uint64_t segment_bytes, reserve_bytes, limit_bytes; /* as seglog_conf; 0 = default */
};
/* Blocking, before the loop runs (a failed open runs it until what was begun is closed): opens,
 * recovers (replays the log into the index from where it stands). RC_BUSY: another
 * process has it (rule 7 of replica_core.h). RC_PRECOND: no O_DIRECT, or another format.
 * RC_CORRUPT, RC_IO, RC_NOMEM. Damage below what was acknowledged does not fail the open:
 * store_status tells it, at each open until store_damage_clear; the replicas on this disk then
 * start as damaged. */
MUST_CHECK enum rc store_open(const struct store_conf *conf, struct store **ret_store,
                              struct err *reterr);
/* What is pending completes (with its outcome, or RC_CANCELED), then cb. Buffers of
 * store_buf_alloc are gone then. No index call may be running or follow. */
void store_close(struct store *s, void (*cb)(void *data), void *data);
/* It will be closed: what waits for room for its row completes RC_CANCELED from now on. */
void store_closing(struct store *s);
struct id128 store_disk_id(const struct store *s);
struct index *store_index(struct store *s);
/* The thread that writes this disk's index, for what else is to be written to it in order. */
struct worker *store_worker(struct store *s);

/* Payload memory of the disk: 4 KiB aligned, registered with the ring where possible; receive into
 * it. NULL: too much under way, answer RC_BUSY. */
void *store_buf_alloc(struct store *s, size_t bytes);
void store_buf_free(struct store *s, void *p);

struct store_append;
typedef void (*store_append_cb)(struct store_append *a, enum rc rc);
struct store_append {
    void *data;
    struct err err;
    struct seg_location loc; /* out, when RC_OK */
    struct store_append_priv {
        struct list link;
        struct store *store;
        store_append_cb cb;
        struct record_header header;
        enum rc rc;
        struct seglog_append log;
    } priv;
};
struct store_chunk {
    uint32_t pool;
    uint64_t placement_hash, owner_hash;
    struct id128 upload_id;
    struct index_chunk_id id;
    uint32_t plain_bytes; /* 1..RECORD_PAYLOAD_BYTES_MAX */
    uint8_t plain_digest[32];
    uint64_t config, epoch;      /* as known to the writer; not used for decisions */
    struct record_block *blocks; /* record_blocks(plain_bytes): tags given */
    bool crc_known;              /* crc32c given too, and trusted; else computed here */
    uint8_t *payload;            /* as seglog_append_chunk */
    bool urgent;                 /* repair: may use a part of what is kept from new chunks */
};
/* c is copied; c->blocks and c->payload are borrowed until cb. The same id may be written again:
 * the later record's row counts.
 * Returns RC_OK, RC_BUSY, RC_FULL (near full: log entries still fit), RC_IO, RC_INVAL,
 * RC_CANCELED (closing): cb will not fire.
 * Completes RC_OK, RC_IO (the disk is out), RC_FULL, RC_CANCELED (outcome unknown). Not before
 * there is room for its row: when somebody else filled the file system meanwhile, that takes until
 * there is some again. */
MUST_CHECK enum rc store_chunk_write(struct store *s, struct store_append *a,
                                     const struct store_chunk *c, store_append_cb cb);
/* A group's log entry (apply_core's bytes) at (epoch, index); copied. Appends of one group complete
 * in order. Errors as above. */
MUST_CHECK enum rc store_log_append(struct store *s, struct store_append *a,
                                    const struct index_group *g, uint64_t config, uint64_t epoch,
                                    uint64_t index, struct slice entry, store_append_cb cb);
/* As seglog_read: blocks of a chunk, or a log entry. Also returns RC_CANCELED (closing). A row may
 * be older than a log that was cut (damage): compare r->header with what you look for. */
MUST_CHECK enum rc store_read(struct store *s, struct seglog_read *r,
                              const struct seg_location *loc, uint32_t first, uint32_t n, void *buf,
                              size_t cap, seglog_read_cb cb);

/* ---- for storaged/repair ---- */
struct seglog *store_log(struct store *s);
struct disk *store_disk(struct store *s); /* tests: faults */
/* All records before it have their rows: what no row points to below it is dead. */
struct seg_position store_rows_upto(const struct store *s);
/* A copy of the record with header h (h->moved_from: its source), verbatim. Its row is moved only
 * if it still points at the source when the copy is durable. As store_chunk_write; payload as
 * seglog_append_chunk, for log entries too. */
MUST_CHECK enum rc store_move(struct store *s, struct store_append *a,
                              const struct record_header *h, struct record_block *blocks,
                              uint8_t *payload, store_append_cb cb);
/* A lasting mark that something promised is missing (as a start does); blocking, rare. RC_IO. */
MUST_CHECK enum rc store_damage_note(struct store *s, const char *line, struct err *reterr);
/* The disk lies: out from now on. */
void store_fail(struct store *s, const char *why);

struct store_status {
    struct id128 disk_id;
    const char *dir, *engine, *engine_reason;
    enum rc rc;     /* RC_OK, or why the disk is out */
    struct err err; /* then */
    struct seglog_stats log;
    struct index_stats index;
    struct disk_load load;
    uint64_t rows_waiting_n; /* records that are durable, their rows not written yet */
    uint64_t row_batches_n, rows_n, rows_batch_max, row_batches_us; /* written since open */
    uint64_t replayed_n;                                            /* records at open */
    bool rows_full; /* the file system is full: rows wait for room, nothing is appended */
    bool damaged;   /* found at this open or an earlier one, and not cleared since */
};
void store_status(struct store *s, struct store_status *ret);
/* Every replica of this disk has persisted that it is damaged, or was healed. On the loop; writes
 * a folder entry (rare). RC_IO. */
MUST_CHECK enum rc store_damage_clear(struct store *s, struct err *reterr);
