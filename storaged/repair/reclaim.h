/* storaged/repair/reclaim.h - space of dead records comes back.
 *
 * Dead is what no row of the index points to: dropped chunks, sealings that lost, trimmed and
 * replaced log entries, sources of copies. The segment with the smallest live part is emptied: its
 * live records are copied behind the log's end, verbatim; a row moves only if it still points at
 * the source (also when that is replayed); when nothing points into the segment any more (the
 * index's sum, not the walk, says so) and the index is synced, its file goes with the last reader.
 * So a crash at any point loses nothing: before the drop both places are there, after it only rows
 * that are durable count.
 *
 * Only segments below the last row's segment are taken: there a record without a row is dead, and
 * the log's end never moves back. A record that can't be copied (bad, or quarantined) keeps its
 * segment. All in a fiber of the caller's, on the loop of the store. */
#pragma once
#include "storaged/store/store.h"

#define RECLAIM_BATCH_RECORDS 64u
#define RECLAIM_BATCH_BYTES   (8u << 20)
#define RECLAIM_STUCK_MAX     64u
#define RECLAIM_STUCK_MS      600000u /* before a segment that could not be emptied is tried again */
#define RECLAIM_TIGHT_PERCENT 5u      /* dead part that is enough when space is short */

struct reclaim;
struct reclaim_conf {
    struct store *store;
    uint64_t bytes_per_s;  /* copied; 0 = no limit */
    uint32_t dead_percent; /* of a segment, from which on it is emptied; 1..100 */
    uint64_t pause_ms;     /* between looks when there is nothing to do */
    /* A live record that fails its checks (may be NULL). Fiber. */
    void (*bad)(void *data, const struct record_header *h, const struct seg_location *loc);
    void *data;
};
struct reclaim_stats {
    uint64_t segments_n, bytes;      /* given back */
    uint64_t copied_n, copied_bytes; /* records and their bytes on the disk */
    uint64_t stuck_n;                /* segments that could not be emptied, since open */
    uint64_t yields_n;
    uint64_t segment_id; /* under way; 0 = none */
};
MUST_CHECK enum rc reclaim_new(const struct reclaim_conf *conf, struct reclaim **ret);
void reclaim_run(struct reclaim *r); /* until reclaim_stop, or the disk fails */
/* Empties one segment, if there is one worth it (dead_percent applies). RC_OK: *ret_id is the
 * segment that was given back, 0 if none was. RC_FULL, RC_IO, RC_CANCELED, RC_NOMEM, RC_CORRUPT. */
MUST_CHECK enum rc reclaim_once(struct reclaim *r, uint64_t *ret_id, struct err *reterr);
void reclaim_wake(struct reclaim *r); /* look now */
void reclaim_stop(struct reclaim *r);
void reclaim_free(struct reclaim *r); /* after run returned; NULL is fine */
void reclaim_stats(const struct reclaim *r, struct reclaim_stats *ret);
