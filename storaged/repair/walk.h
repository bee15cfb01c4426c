/* storaged/repair/walk.h - along a finished segment, record by record, as it lies on the disk.
 *
 * Checked: each header (CRC, segment, generation, place in the sequence: so a stale or misdirected
 * sector, or a whole record at another's place, is found), and if `verify`, each payload block and
 * the zeros behind it. A sector that can't be read counts as bad, not as the end. Fibers. */
#pragma once
#include "common/fiber/fiber.h"
#include "storaged/repair/pace.h"

#define WALK_WINDOW_BYTES (1u << 20)

struct walk_record {
    struct record_header h;
    struct seg_location loc;
    uint64_t end;     /* right behind it */
    bool payload_bad; /* verify only */
};
struct walk {
    struct store *store;
    struct seglog_segment seg;
    struct pace *pace;
    bool verify;
    uint64_t at, seq; /* seq 0: any */
    uint8_t *buf;
    uint64_t buf_at;
    size_t buf_n;
    struct record_block *blocks;
    uint64_t read_bytes, unreadable_n; /* out; pages that the disk refused to read */
    struct seglog_raw raw;
    struct fiber_event done;
    enum rc rc;
};
/* From the first record on. RC_NOMEM. Deinit in any case. */
MUST_CHECK enum rc walk_init(struct walk *w, struct store *store, const struct seglog_segment *seg,
                             struct pace *pace, bool verify);
void walk_deinit(struct walk *w);
/* RC_OK: the next record. RC_CORRUPT: no good record in [ret->loc.offset, ret->end), go on behind
 * it. RC_RANGE: the end. RC_NOTFOUND (the segment was dropped), RC_IO, RC_CANCELED, RC_NOMEM:
 * ended. */
MUST_CHECK enum rc walk_next(struct walk *w, struct walk_record *ret, struct err *reterr);
/* The two pages in front of the records: RC_OK, RC_CORRUPT, others as above. */
MUST_CHECK enum rc walk_head(struct walk *w, struct err *reterr);
