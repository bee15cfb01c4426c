/* storaged/segment/seglog.h - the append-only segment log of one disk.
 *
 * One stream: chunk payloads and groups' log entries are records of the same open segment, so that
 * one fdatasync covers all that wait. Append order is durability order, across segments too: when a
 * record is acknowledged, all before it are durable. A process never appends to a segment that an
 * earlier one wrote: recovery seals it where its valid part ends, so that what was torn away can
 * not come back.
 *
 * A record at a place that a seal, or the largest valid flushed_upto, covers must be good: if not,
 * that is damage and is counted, never the end of the log.
 *
 * All calls belong to the disk's loop; open and replay block (start-up). Callbacks: exactly once,
 * never inside the call. After a failed write or flush of the disk all appends are RC_IO. */
#pragma once
#include "storaged/io/disk.h"
#include "storaged/segment/record.h"

#define SEGLOG_FORMAT          2u /* may hold small records (RECORD_FORMAT_SMALL); 1: none */
#define SEGLOG_SEGMENT_DEFAULT (256u << 20)
/* Kept from new chunks, in segments: the last is reclaim's alone, which fills at most one before it
 * gives one back, so that it always gets on; the second is for log entries too (deletes are
 * entries, 4 KiB each: 65,534 of them in a segment of 256 MiB), the third for repair's chunks. */
#define SEGLOG_RESERVE           3u
#define SEGLOG_SEGMENT_BYTES_MIN (64u << 10)
#define SEGLOG_DATA_AT           8192u /* header page, seal page, then records */
#define SEGLOG_ZERO_FIRST_BYTES                                                                    \
    (8u << 20)                          /* of the first segment; appends wait for it: some ms      \
                                         */
#define SEGLOG_SLOW_BYTES_PER_MS 50000u /* a segment filled slower: the next is written first */
#define SEGLOG_APPENDS_MAX       1024u  /* accepted and not yet durable */
#define SEGLOG_READS_MAX         512u
#define SEGLOG_FILES_MAX         256u /* open at once; the rest is opened when it is read */
#define SEGLOG_ENTRY_BYTES_MAX   (4u << 20)

struct seglog;
struct seg_location {
    uint64_t segment_id, generation, offset; /* of the record's header; 4 KiB aligned */
    uint32_t header_bytes, plain_bytes;      /* payload begins at offset + header_bytes, aligned
                                                but of a small record */
};
/* A place between records: replay goes on from there. Zero = from the beginning. */
struct seg_position {
    uint64_t segment_id, offset;
};
/* A segment that takes no more records, all of them durable. */
struct seglog_segment {
    uint64_t id, generation, bytes; /* bytes: of the file */
    uint64_t end;                   /* of its records */
};
/* In a list sorted by id; NULL: not in it. */
const struct seglog_segment *seglog_segment_in(const struct seglog_segment *list, uint32_t n,
                                               uint64_t id);
struct seglog_conf {
    struct disk *disk;
    struct id128 disk_id;
    /* Finished segments as an earlier process knew them, by id: not opened and not searched at the
     * start. Borrowed until seglog_open returns. */
    const struct seglog_segment *known;
    uint32_t known_n;
    uint64_t segment_bytes; /* 0 = SEGLOG_SEGMENT_DEFAULT; multiple of 4 KiB */
    uint64_t reserve_bytes; /* chunks are refused below this; 0 = SEGLOG_RESERVE segments */
    uint64_t limit_bytes;   /* of all segments together; 0 = the file system's */
    /* Of the file system, for others (the index). What they do not use yet (at least a quarter)
     * stays free: no segment is made when less would; when there is less than half of that
     * (somebody else filled the disk) nothing is accepted at all. */
    uint64_t others_bytes;
};

/* Opens, checks the header of every segment that is not known (a bad one is written again: all that
 * counts is in the records), finds the ends of those that have no seal, seals them.
 * RC_PRECOND: a segment is of another disk or a later format. RC_IO, RC_NOMEM, RC_INVAL. Blocking.
 */
MUST_CHECK enum rc seglog_open(const struct seglog_conf *conf, struct seglog **ret_log,
                               struct err *reterr);
/* Pending appends and reads complete RC_CANCELED (an append's outcome is then unknown), then cb.
 * The disk stays open. */
void seglog_close(struct seglog *log, void (*cb)(void *data), void *data);

/* Every valid record from `from` on, in order. payload: of log entries (verified), NULL for chunks.
 * All is borrowed. fn's other rc than RC_OK ends it. damage is called for each bad stretch that
 * should have been good (may be NULL; seglog_stats counts them too). Blocking. */
struct seglog_replay {
    enum rc (*record)(void *ctx, const struct seg_location *loc, const struct record_header *h,
                      const struct record_block *blocks, const uint8_t *payload,
                      struct err *reterr);
    void (*damage)(void *ctx, uint64_t segment_id, uint64_t from, uint64_t until);
    void *ctx;
};
MUST_CHECK enum rc seglog_replay(struct seglog *log, struct seg_position from,
                                 const struct seglog_replay *r, struct err *reterr);

struct segment;
/* A request that waits for its segment's file. */
struct seglog_wait {
    struct list link;
    struct err *err; /* of the request */
    /* The file is open, and used for us. What fails has unused it. */
    enum rc (*start)(struct seglog_wait *w);
    void (*failed)(struct seglog_wait *w, enum rc rc); /* *err says why */
};

struct seglog_append;
typedef void (*seglog_append_cb)(struct seglog_append *a, enum rc rc);
struct seglog_append {
    void *data;
    bool urgent;             /* a chunk that may use a third of the reserve: repair */
    struct err err;          /* out */
    struct seg_location loc; /* out, when RC_OK: durable there */
    struct seg_position end; /* out: right behind the record */
    struct seglog_append_priv {
        struct list link;
        struct seglog *log;
        seglog_append_cb cb;
        struct record_header header;
        const struct record_block *blocks;
        const uint8_t *payload;
        uint8_t *own; /* header, and the payload of an entry */
        struct segment *seg;
        uint32_t header_bytes, bytes, writes_left; /* bytes: of the record, on the disk */
        struct record_block entry_blocks[SEGLOG_ENTRY_BYTES_MAX / RECORD_BLOCK_BYTES];
        struct disk_req head_req, body_req;
    } priv;
};
/* A chunk. h: type, plain_bytes, ids, config, epoch are the caller's; segment, sequence and
 * flushed_upto are filled in here. blocks (tags; crc32c is checked against, or computed if
 * crc_known is false) and payload (4 KiB aligned, best from disk_buf_alloc, room for
 * record_payload_bytes(): the padding behind plain_bytes may be zeroed here) are borrowed until cb.
 * Returns RC_OK (accepted), RC_BUSY, RC_FULL, RC_IO, RC_INVAL: cb will not fire.
 * Completes RC_OK (durable), RC_IO, RC_FULL, RC_CANCELED. */
MUST_CHECK enum rc seglog_append_chunk(struct seglog *log, struct seglog_append *a,
                                       const struct record_header *h, struct record_block *blocks,
                                       bool crc_known, uint8_t *payload, seglog_append_cb cb);
/* A log entry, 1..SEGLOG_ENTRY_BYTES_MAX bytes; copied. Errors as above. */
MUST_CHECK enum rc seglog_append_entry(struct seglog *log, struct seglog_append *a,
                                       const struct record_header *h, struct slice entry,
                                       seglog_append_cb cb);

struct seglog_read;
typedef void (*seglog_read_cb)(struct seglog_read *r, enum rc rc);
struct seglog_read {
    void *data;
    struct err err;
    struct record_header header; /* out */
    struct record_block *blocks; /* out: of all blocks of the record; valid until cb returns */
    uint32_t got_bytes;          /* out: plain bytes valid at buf */
    struct seglog_read_priv {
        struct seglog_wait wait;
        struct seglog *log;
        struct segment *seg;
        seglog_read_cb cb;
        struct seg_location loc;
        uint32_t first, n;
        uint8_t *page, *buf;
        enum rc rc;
        uint32_t reads_left;
        struct disk_req head_req, body_req;
    } priv;
};
/* Blocks first .. first + n - 1 (n = 0: to the end) of the record, each checked against its CRC. A
 * read of all of them reads the header from the disk; of a part it may be one that was good before
 * (header_cache.h).
 * buf: 4 KiB aligned, cap >= the range rounded up to 4 KiB; borrowed until cb.
 * Returns RC_OK, RC_BUSY, RC_NOTFOUND (no such segment: reclaim may have moved the record, ask the
 * index again), RC_RANGE, RC_INVAL (cap).
 * Completes RC_OK, RC_CORRUPT (header or block; buf undefined), RC_IO, RC_CANCELED, RC_NOMEM. */
MUST_CHECK enum rc seglog_read(struct seglog *log, struct seglog_read *r,
                               const struct seg_location *loc, uint32_t first, uint32_t n,
                               void *buf, size_t cap, seglog_read_cb cb);

/* ---- whole segments: reclaim and scrub ---- */
/* Finished segments with an id >= from, in order, up to max. Returns how many. */
uint32_t seglog_segments(const struct seglog *log, uint64_t from, struct seglog_segment *ret,
                         uint32_t max);
/* The segment `id` as far as it is durable, finished or not. RC_NOTFOUND. */
MUST_CHECK enum rc seglog_segment_now(const struct seglog *log, uint64_t id,
                                      struct seglog_segment *ret, bool *ret_finished);
/* Appends or reads are under way. */
bool seglog_busy(const struct seglog *log);
/* Header page and seal page (SEGLOG_DATA_AT bytes) of a segment: RC_CORRUPT says what differs. */
MUST_CHECK enum rc seglog_head_check(const struct seglog *log, const struct seglog_segment *s,
                                     const uint8_t *p, struct err *reterr);
/* Bytes of a segment as they lie there, nothing checked. at, n: multiples of 4 KiB, at + n <= the
 * file's bytes; buf 4 KiB aligned, borrowed until cb.
 * Returns RC_OK, RC_NOTFOUND, RC_BUSY, RC_RANGE. Completes RC_OK, RC_IO, RC_RANGE, RC_CANCELED,
 * RC_NOMEM. */
struct seglog_raw;
typedef void (*seglog_raw_cb)(struct seglog_raw *r, enum rc rc);
struct seglog_raw {
    void *data;
    struct err err;
    struct seglog_raw_priv {
        struct seglog_wait wait;
        struct seglog *log;
        struct segment *seg;
        seglog_raw_cb cb;
        uint64_t at;
        void *buf;
        size_t n;
        struct disk_req req;
    } priv;
};
MUST_CHECK enum rc seglog_read_raw(struct seglog *log, struct seglog_raw *r, uint64_t segment_id,
                                   uint64_t at, void *buf, size_t n, seglog_raw_cb cb);
/* Give a finished segment back: at once nothing new reads it (RC_NOTFOUND), its file goes when the
 * last reader is done. Nothing may need it any more, durably.
 * Returns RC_OK, RC_NOTFOUND, RC_PRECOND (not finished, or going already). Completes RC_OK, RC_IO,
 * RC_CANCELED. */
struct seglog_drop;
typedef void (*seglog_drop_cb)(struct seglog_drop *f, enum rc rc);
struct seglog_drop {
    void *data;
    struct err err;
    struct seglog_drop_priv {
        struct segment *seg;
        seglog_drop_cb cb;
        struct disk_req req;
    } priv;
};
MUST_CHECK enum rc seglog_drop(struct seglog *log, struct seglog_drop *f, uint64_t segment_id,
                               seglog_drop_cb cb);

struct seglog_stats {
    uint64_t segments_n, segment_bytes; /* files there, and their sizes together */
    uint64_t total_bytes, free_bytes;   /* what the log may use, and what of it is left */
    uint64_t chunk_free_bytes;          /* of that for new chunks: without the reserve */
    uint64_t entry_free_bytes;          /* for log entries: without reclaim's part of it */
    uint64_t damage_n;                  /* bad stretches found since open */
    uint64_t heads_mended_n;            /* bad header pages of segments, written again at open */
    uint64_t others_used;               /* as told by seglog_others_used */
    uint64_t flushes_n, appends_n, waiting_n;
    uint64_t flush_us, flush_us_max; /* that all flushes took, and the longest */
    uint64_t appending_n;            /* accepted and not durable yet */
    uint64_t reads_n;                /* under way */
    uint64_t files_open_n;           /* segments whose file is open */
    uint64_t flushed_records_max;    /* the largest batch that one flush covered */
    /* reads of a part that had the header in memory, or not; the memory that headers take */
    uint64_t header_hits_n, header_misses_n, header_bytes;
};
void seglog_stats(struct seglog *log, struct seglog_stats *ret);
/* Of conf.others_bytes that much is used. */
void seglog_others_used(struct seglog *log, uint64_t bytes);
/* The place behind the last durable record. */
struct seg_position seglog_durable(const struct seglog *log);
