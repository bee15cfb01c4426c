/* gateway/manager/recover_core.h - etcd is lost: which record should a group have again, from what
 * the disks persisted of it?
 *
 * Pure. What it may rely on: a write is acknowledged only when every in-sync member has it and they
 * are at least min_in_sync; a replica persists a record together with the promise of its numbers
 * before it sends anything that rests on them. So (1) fewer absent disks than min_in_sync can have
 * acknowledged nothing without one that is here; (2) of those here, the one with the highest (log
 * epoch, log end) has every acknowledged entry. It must be in sync by the newest record that
 * anybody kept, be whole and not empty: else nothing is decided, an operator must bring disks back.
 */
#pragma once
#include "common/placement/group_config.h"

#define RECOVER_REPORTS_MAX 32u
/* Numbers of a recovered record lie so far above all that are known: disks that are absent may have
 * seen some more, and what they come back with must be older. */
#define RECOVER_GAP 1000u

struct recover_report { /* what one disk says of one group */
    struct id128 disk;
    bool has_record, damaged;
    struct group_config record;   /* the newest that it kept */
    uint64_t epoch, config;       /* highest that it has promised or seen */
    uint64_t log_epoch, log_last; /* of its last entry */
    uint64_t commit;              /* known committed */
};
enum recover_verdict {
    RECOVER_OK = 1,
    RECOVER_NOTHING,  /* no disk kept a record */
    RECOVER_CONFLICT, /* records, or a record and a log, that can't both be true */
    RECOVER_MISSING,  /* absent disks could have gone on without those that answer */
    RECOVER_NO_GOOD,  /* nobody who answers is known to have all */
};
struct recover_decision {
    enum recover_verdict verdict;
    struct group_config record; /* OK: to be written */
    struct group_set wish;      /* OK: as before */
    struct group_set missing;   /* disks that records name and that do not answer */
    uint32_t behind_n;          /* OK: members that answer and begin as learners */
};
/* n <= RECOVER_REPORTS_MAX; a disk twice: CONFLICT. */
void recover_decide(const struct recover_report *r, uint32_t n, uint32_t min_in_sync,
                    struct recover_decision *ret);
const char *recover_text(enum recover_verdict v); /* a sentence: what it is, what to do */
