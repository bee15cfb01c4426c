/* storaged/segment/seglog_priv.h - shared by seglog.c (appending), seglog_read.c, seglog_files.c
 * (segments and their open files), seglog_open.c (start-up), seglog_scan.c (offline). */
#pragma once
#include "storaged/segment/header_cache.h"

struct segment {
    uint64_t id, generation, bytes;
    uint64_t end;      /* where the next record goes; of a finished one: the end of its records */
    uint64_t durable;  /* all below is durable */
    uint64_t sequence; /* of the next record */
    struct seg_position prior; /* end of the segment before; zero: the first of its process */
    bool sealed, sealing, opening, dropping, damaged;
    uint32_t users; /* requests on its file, or that wait for it; being appended to is one */
    struct seglog *log;
    struct disk_file *file; /* NULL: not open */
    struct list idle;       /* seglog.idle: open and not used, the oldest first */
    struct list openers;    /* seglog_wait */
    struct seglog_drop *drop;
};
struct segment_job { /* one request on a segment; a segment at rest costs no request's memory */
    struct disk_req req;
    struct segment *seg;
    uint8_t *page;
};
struct seglog {
    struct seglog_conf conf;
    struct disk *disk;
    struct segment **segs; /* by id; ids only grow */
    uint32_t segs_n, segs_cap;
    struct list idle;
    uint32_t files_n; /* open */
    struct header_cache headers;
    struct segment *cur, *next;
    struct list waiting, placed; /* appends: not placed yet; placed, not durable */
    uint32_t appends_n, reads_n, jobs_n, drops_n;
    struct disk_req flush_req, create_req, refuse_req, close_req;
    bool flushing, creating, refusing, closing, close_due;
    uint32_t flush_n;
    uint64_t flush_at_us;
    struct segment *flush_seg;
    uint8_t *create_page;
    struct disk_file *create_file;
    uint64_t rolled_ms; /* when the segment that is being written was begun; 0: none yet */
    bool slow;          /* the one before it took long to fill */
    struct err failed;  /* a write or flush failed: nothing is appended any more */
    uint64_t id_next;
    struct seg_position durable;
    struct seglog_stats stats;
    void (*close_cb)(void *data);
    void *close_data;
};

void segment_name(uint64_t id, char name[DISK_NAME_BYTES]);
void segment_header_encode(const struct seglog *log, const struct segment *s, uint8_t *page);
void segment_seal_encode(const struct seglog *log, const struct segment *s, uint8_t *page);

/* ---- seglog_files.c ---- */
struct segment *segment_find(const struct seglog *log, uint64_t id); /* NULL also: being dropped */
bool segment_finished(const struct segment *s);
/* A new one, with an id above all others. NULL: out of memory. */
struct segment *segment_add(struct seglog *log, uint64_t id);
void segment_forget(struct segment *s); /* not used by anybody; closes its file, frees it */
void segments_free(struct seglog *log);
/* Opens its file if it is not, and calls w->start, now or later: from then on it is kept open until
 * segment_unuse. Other rc than RC_OK, also one of w->start: nothing is kept, nothing follows. */
MUST_CHECK enum rc segment_use(struct segment *s, struct seglog_wait *w);
void segment_use_open(struct segment *s); /* its file is open */
void segment_unuse(struct segment *s);

/* ---- reading along a segment: seglog_open.c ---- */
#define WINDOW_BYTES (SEGLOG_ENTRY_BYTES_MAX + RECORD_HEADER_BYTES_MAX)
struct window {
    struct segment *seg;
    uint8_t *p; /* aligned; grows when it has to; free() at the end */
    uint64_t at;
    size_t n, cap;
};
struct found {
    struct record_header h;
    uint64_t at, end;
    uint32_t header_bytes;
};
/* n <= WINDOW_BYTES; the bytes are there until the next call. RC_IO, RC_NOMEM. */
MUST_CHECK enum rc segment_window(struct window *w, uint64_t at, size_t n, const uint8_t **ret,
                                  struct err *reterr);
/* Is there a record of this segment at `at`? RC_CORRUPT: no. RC_IO. */
MUST_CHECK enum rc segment_record(struct window *w, uint64_t at, struct record_block *blocks,
                                  struct found *ret, struct err *reterr);
/* The next record behind `at` whose flushed_upto is above `floor` (0: any) and sequence >= seq;
 * RC_NOTFOUND: none before until. */
MUST_CHECK enum rc segment_resync(struct window *w, uint64_t at, uint64_t until, uint64_t floor,
                                  uint64_t seq, struct record_block *blocks, struct found *ret,
                                  struct err *reterr);
/* Of a segment without a seal; before: the end of the segment before it. Writes nothing. */
MUST_CHECK enum rc segment_find_end(struct seglog *log, struct window *w,
                                    struct record_block *blocks, struct seg_position before,
                                    struct err *reterr);
/* Ids of the segments' files, sorted; free(*ret). */
MUST_CHECK enum rc segment_ids(struct seglog *log, uint64_t **ret, uint32_t *ret_n,
                               struct err *reterr);
/* Opens its file, reads header and seal. RC_CORRUPT: the header, all else is set; RC_RANGE: there
 * is no room for both, only bytes is set. RC_PRECOND: of another disk, or a later format. */
MUST_CHECK enum rc segment_load(struct seglog *log, struct segment *s, struct err *reterr);
