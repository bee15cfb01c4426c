/* gateway/cli/cases.h - which files of a folder make which case.
 *
 * DICOM by StudyInstanceUID, under its path below the folder given; any other file by the folder it
 * lies in, under its own name; one that lies directly in the folder given by its stem. With a case
 * name given, all files are its, under their paths. A nested folder's name is its path with '~' for
 * '/'. Every file found is either planned or refused with a reason: nothing is skipped silently. */
#pragma once
#include "common/base/rc.h"

struct case_file {
    char *file;    /* to open */
    char *case_id; /* NULL: refused */
    char *path;    /* in the case */
    char *refused; /* why; NULL: planned */
    uint64_t size_bytes;
    int64_t mtime_ns;
    uint64_t ino;
};
struct cases {
    struct case_file *files; /* after cases_sort: by case, then path; refused ones last */
    size_t n, cap;
    uint64_t bytes, refused_n; /* of the planned files; number of the others */
};
void cases_init(struct cases *cs);
void cases_deinit(struct cases *cs);
/* A file, or a folder with all below. case_name NULL: by the rules above. Blocking.
 * RC_NOTFOUND, RC_IO, ... (the argument itself), RC_NOMEM. */
MUST_CHECK enum rc cases_add(struct cases *cs, const char *arg, const char *case_name,
                             struct err *reterr);
/* Before cases_sort: file idx is not sent, because of why (copied). RC_NOMEM. */
MUST_CHECK enum rc cases_refuse(struct cases *cs, size_t idx, const char *why, struct err *reterr);
/* Sorts, and refuses what would be two objects of one name, or two folders in one case. */
MUST_CHECK enum rc cases_sort(struct cases *cs, struct err *reterr);
