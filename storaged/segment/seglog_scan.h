/* storaged/segment/seglog_scan.h - the files of a log that nobody serves, read and checked from the
 * first to the last byte; nothing is changed. For `storaged check` and `dump`. Blocking. */
#pragma once
#include "storaged/segment/seglog.h"

struct seglog_scan_segment {
    uint64_t id, generation, file_bytes;
    uint64_t end; /* of its records: as its seal says, or as recovery would find it */
    bool sealed;
};
struct seglog_scan {
    bool payloads;    /* read and check them too */
    uint64_t segment; /* only this one; 0 = all */
    /* Each may be NULL. Another rc than RC_OK ends the scan with it. All is borrowed. */
    enum rc (*on_segment)(void *ctx, const struct seglog_scan_segment *s);
    enum rc (*on_record)(void *ctx, const struct seg_location *loc, const struct record_header *h);
    /* Something between from and until is not as it was written. */
    void (*on_fault)(void *ctx, uint64_t segment_id, uint64_t from, uint64_t until,
                     const char *what);
    void *ctx;
};
/* ret_end: behind the last record. RC_NOMEM, RC_IO (the folder can't be listed; what can't be read
 * of a segment is a fault). */
MUST_CHECK enum rc seglog_scan(struct disk *disk, const struct id128 *disk_id,
                               const struct seglog_scan *scan, struct seg_position *ret_end,
                               struct err *reterr);
