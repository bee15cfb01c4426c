/* gateway/agent/journal_core.h - the agent's journal to the byte, and what a sequence of records
 * means.
 *
 * A file is 16 bytes JOURNAL_MAGIC and records: length u32, CRC32C u32 over what follows, sequence
 * u64 (one more each time), sequence u64 known durable when this was written, body. All integers
 * little-endian. A body is kind u8 and the
 * fields of struct journal_rec that the kind has (README.md), texts with u16 length.
 *
 * A record that does not check is the end (a write that was cut off, in any order of its sectors),
 * unless a valid one behind it says that it was durable: that is damage. journal_next says which.
 * Of one case the records come in this order only:
 *
 *   CASE -> (UPLOAD -> STAGED | HELD | LOOKED)* -> COMMIT -> DONE
 *      any -> ASIDE (set aside, with a reason) -> RETRY -> CASE ; any -> CASE (other content)
 *
 * Pure: no memory of its own, slices borrow from the input. */
#pragma once
#include "common/base/id128.h"
#include "common/base/rc.h"

#define JOURNAL_MAGIC       "mikura agent 1\n" /* 16 bytes with the zero */
#define JOURNAL_MAGIC_BYTES 16u
#define JOURNAL_FRAME_BYTES 24u
#define JOURNAL_BODY_MAX    (256u << 10) /* 64 paths of 1 KiB, reasons of 16 KiB */
#define JOURNAL_FILES_MAX   64u
#define JOURNAL_TEXT_MAX    16384u

enum journal_kind {
    JOURNAL_OPEN = 1, /* id, text: collection. The first record of a file */
    JOURNAL_CASE,     /* case_id, root, print: work on this content begins */
    JOURNAL_UPLOAD,   /* case_id, id, files: before its first byte */
    JOURNAL_STAGED,   /* case_id, id, results: of the UPLOAD of that id, in its order */
    JOURNAL_HELD,     /* case_id, files[0], outcome, text: reasons */
    JOURNAL_LOOKED,   /* case_id, files[0]: a person has looked at it */
    JOURNAL_COMMIT,   /* case_id, id, generation: the one expected */
    JOURNAL_DONE,     /* case_id, root, print, generation, count, bytes; text: receipt's key */
    JOURNAL_ASIDE,    /* case_id, text: why */
    JOURNAL_RETRY,    /* case_id */
    JOURNAL_DROPPED,  /* case_id, text: what was staged is forgotten, here and in the store: of this
                         path, or "" = all */
    JOURNAL_KIND_N
};
struct journal_file {
    struct slice path;
    uint64_t size_bytes, ino;
    int64_t mtime_ns, ctime_ns;
};
struct journal_result {
    uint64_t version, size_bytes; /* as stored */
    uint8_t tree_sha256[32];
    uint8_t quarantined;
};
struct journal_rec {
    enum journal_kind kind;
    struct slice case_id, root, text;
    struct id128 id;
    uint8_t print[32];
    uint64_t generation, count, bytes;
    uint8_t outcome;
    uint32_t files_n;
    struct journal_file files[JOURNAL_FILES_MAX];
    struct journal_result results[JOURNAL_FILES_MAX]; /* files_n of them */
};
/* Frame and body to out[0..cap); *ret_n: their length. RC_INVAL: a limit; RC_NOMEM: cap. synced:
 * all up to it is durable. */
MUST_CHECK enum rc journal_encode(const struct journal_rec *rec, uint64_t seq, uint64_t synced,
                                  uint8_t *out, size_t cap, size_t *ret_n);
/* The record at p[0..n); seq: the expected one, 0 = any (the file's first).
 * RC_OK; RC_RANGE: n is 0, the clean end; RC_ABORTED: cut off, the rest is to be dropped;
 * RC_CORRUPT: damaged, since a valid record behind it knew it durable; or a whole record makes no
 * sense. */
MUST_CHECK enum rc journal_next(const uint8_t *p, size_t n, uint64_t seq, struct journal_rec *ret,
                                uint64_t *ret_seq, size_t *ret_n);

enum journal_state { JCASE_NONE, JCASE_OPEN, JCASE_COMMITTING, JCASE_DONE, JCASE_ASIDE };
/* What a case's record does to its state. RC_CORRUPT: it cannot come here. */
MUST_CHECK enum rc journal_step(enum journal_state from, enum journal_kind kind,
                                enum journal_state *ret_to);
