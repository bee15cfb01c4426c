/* gateway/agent/journal.h - the agent's memory: DIR/journal, and what it says of every case.
 *
 * Append-only; a record is durable (fdatasync) before journal_add returns, records of fibers that
 * wait at the same time share one flush. One process writes: DIR/lock. A full disk makes
 * journal_add wait (the agent sends nothing that it could not remember); a failed write or flush
 * ends the journal for good. Compaction writes the state anew beside it and renames. */
#pragma once
#include "common/fiber/fiber.h"
#include "gateway/agent/journal_core.h"
#include "gateway/agent/names.h"

enum jfile_state { JFILE_NONE, JFILE_SENDING, JFILE_STAGED, JFILE_HELD };
struct jfile {
    char *path;
    uint64_t size_bytes, ino;
    int64_t mtime_ns, ctime_ns;
    enum jfile_state state;
    bool looked;
    uint8_t outcome;              /* HELD: enum deid_outcome */
    char *why;                    /* HELD */
    struct id128 upload;          /* SENDING, STAGED: begun under this id, */
    uint32_t upload_at;           /* as the file of this number */
    struct journal_result result; /* STAGED */
};
struct jcase {
    char *case_id, *root;
    uint8_t print[32];
    enum journal_state state;
    struct id128 commit_id; /* COMMITTING */
    uint64_t expected;      /* COMMITTING: generation */
    uint64_t generation;    /* DONE: the last one committed; 0 = never */
    uint64_t count, bytes;  /* DONE */
    char *why;              /* ASIDE */
    struct jfile **files;   /* of the work under way; none when DONE */
    size_t files_n, files_cap;
    struct names by_path;
    void *user; /* the run's */
};
struct journal;
struct journal_conf {
    const char *dir, *collection;
    bool read_only; /* as it is now, beside a running agent; nothing is locked or changed */
    /* Waiting for room: told once each time; true: stop waiting (RC_CANCELED). */
    bool (*full)(void *data);
    void *data;
};
/* Blocking. RC_BUSY: another agent has it (its pid is named). RC_CORRUPT: damaged, says where and
 * what to do. RC_PRECOND: of another collection. RC_NOTFOUND: read_only, and none is there.
 * *ret_cut: bytes of a cut-off write that were dropped. */
MUST_CHECK enum rc journal_open(const struct journal_conf *conf, struct journal **ret,
                                uint64_t *ret_cut, struct err *reterr);
void journal_close(struct journal *j);                              /* NULL is fine */
struct jcase *journal_case(struct journal *j, const char *case_id); /* or NULL */
struct jcase *journal_at(struct journal *j, size_t idx);            /* or NULL */
struct jfile *jcase_file(const struct jcase *k, const char *path);  /* or NULL */
/* In a fiber; durable and applied on return. RC_IO: the journal is lost to us, end. RC_CANCELED. */
MUST_CHECK enum rc journal_add(struct journal *j, const struct journal_rec *rec,
                               struct err *reterr);
/* In a fiber, when it is worth it; nobody may add meanwhile. */
MUST_CHECK enum rc journal_compact(struct journal *j, bool always, struct err *reterr);
uint64_t journal_bytes(const struct journal *j);
