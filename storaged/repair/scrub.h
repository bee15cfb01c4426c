/* storaged/repair/scrub.h - everything on a disk is read once a period and compared with what it
 * should be.
 *
 * A pass goes over all finished segments by id (those that come later are the next pass's), then
 * over RocksDB's files. Of a segment: its two head pages, every header with its place in the
 * sequence, every payload block and the zeros behind it, dead records too; then the sum of what was
 * seen alive against the index's, so that a row without a good record is found whatever hides it. A
 * record that looks bad is read once more by itself before it is called bad. What is bad:
 *
 *   a chunk's record   its row becomes a note of the quarantine, durably: never served from then
 * on; conf.chunk is called, repair fetches a good copy from another replica a log entry conf.entry
 * is called: its replica writes it again, trims past it, or stops a file of RocksDB  conf.index is
 * called: the disk is out dead bytes         counted only
 *
 * A chunk's record whose sealing lost or that has a tombstone is dropped from the index on the way
 * (a write that came late); of one that no state lists conf.stray is told. The place in the pass is
 * a note of the index (README.md), so that a restart goes on from there. Speed: what the period
 * needs and a fifth more, at most bytes_per_s, and the foreground first (pace.h). In a fiber of the
 * caller's. */
#pragma once
#include "storaged/store/store.h"

#define SCRUB_SUSPECTS_MAX 4096u /* of a segment at once; the rest is found by the next pass */
#define SCRUB_BATCH        64u
#define SCRUB_KINDS_MAX    32u        /* pools times their prefix bits */
#define SCRUB_RATE_MIN     (1u << 20) /* a pass that is late or nearly done still gets on */

enum scrub_reason {                       /* on the disk: family `bad` */
                    SCRUB_HEADER = 1,     /* no good record where the index has one */
                    SCRUB_PAYLOAD = 2,    /* a block fails its CRC, or padding is not zero */
                    SCRUB_FOREGROUND = 3, /* found by a read */
};

struct scrub;
struct scrub_conf {
    struct store *store;
    uint64_t period_ms, bytes_per_s; /* bytes_per_s 0 = no limit */
    uint64_t pause_ms;               /* between looks whether a pass is due */
    /* Fibers; may be NULL. */
    void (*chunk)(void *data, const struct index_chunk_id *id);
    void (*entry)(void *data, const struct index_group *g, const struct index_log_row *row);
    void (*index)(void *data, const struct err *e);
    /* A live record of which its group's state here says nothing. */
    void (*stray)(void *data, const struct record_header *h, const struct seg_location *loc);
    void *data;
};
struct scrub_stats {
    uint64_t pass; /* number of the one under way, or the last; from 1 */
    bool running;
    uint64_t done_bytes, total_bytes;      /* of the pass */
    uint64_t started_unix_ms, end_unix_ms; /* end: expected while running, else when it ended */
    uint64_t next_unix_ms;                 /* of the next pass's beginning; 0 while running */
    /* since open */
    uint64_t bytes, records_n, bad_chunks_n, bad_entries_n, bad_dead_n, bad_heads_n, bad_files_n,
        unreadable_n, orphans_n, yields_n;
};
/* Reads the note. RC_NOMEM, RC_IO, RC_CORRUPT. Blocking (a look-up). */
MUST_CHECK enum rc scrub_new(const struct scrub_conf *conf, struct scrub **ret, struct err *reterr);
void scrub_run(struct scrub *s); /* until scrub_stop, or the disk fails */
void scrub_now(struct scrub *s); /* the next pass begins at once */
/* One step: a segment, or a file of RocksDB, or the beginning or end of a pass. *ret_idle: no pass
 * is due. */
MUST_CHECK enum rc scrub_step(struct scrub *s, bool *ret_idle, struct err *reterr);
void scrub_stop(struct scrub *s);
void scrub_free(struct scrub *s); /* after run returned; NULL is fine */
void scrub_stats(const struct scrub *s, struct scrub_stats *ret);

/* A read found this record bad: read it once more, and if it still is, quarantine it. RC_OK: it was
 * quarantined (conf.chunk is not called); RC_NOTFOUND: it is good, or lies elsewhere by now. Fiber.
 */
MUST_CHECK enum rc scrub_suspect(struct store *store, const struct index_chunk_id *id,
                                 const struct seg_location *loc, enum scrub_reason reason,
                                 struct err *reterr);
