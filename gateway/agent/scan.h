/* gateway/agent/scan.h - which cases lie in the watched folders, one at a time.
 *
 * An entry of a watched folder is a case: a folder with all below, under the folder's name; a file
 * alone, under its stem. With a case list (CSV or JSON) its rows are the cases instead. Names that
 * begin with '.' and the marker are no files of a case. Links are not followed. Memory is that of
 * one case's names, whatever the folders hold. Blocking; for the thread pool. */
#pragma once
#include "common/base/rc.h"

#define SCAN_FILES_MAX 1000000u /* of a case */

struct scan_conf {
    const char *folders; /* divided by commas */
    const char *marker;  /* a file's name, or "" */
    const char *list;    /* a case list's file, or "" */
};
struct scan_file {
    char *path; /* below the case's root */
    uint64_t size_bytes, ino;
    int64_t mtime_ns, ctime_ns;
};
struct scan_case {
    char *case_id, *root;      /* root: the folder, or the one file */
    bool single, marker;       /* single: root is its only file */
    char *facility, *document; /* from a list: code; JSON text; or NULL */
    char *bad;                 /* cannot be sent as it is: why */
    uint8_t print[32];         /* of all that is here */
    struct scan_file *files;   /* by path */
    size_t files_n, files_cap;
    uint64_t bytes;
};
void scan_case_free(struct scan_case *c); /* NULL is fine */

struct scan; /* one pass */
/* RC_NOTFOUND, RC_IO (a folder), RC_INVAL (a list: says which row). */
MUST_CHECK enum rc scan_open(const struct scan_conf *conf, struct scan **ret, struct err *reterr);
/* The next case, given; RC_RANGE after the last one. What goes wrong with one case is in its `bad`.
 */
MUST_CHECK enum rc scan_next(struct scan *s, struct scan_case **ret, struct err *reterr);
void scan_close(struct scan *s);
/* The file's full name, to be freed. */
char *scan_file_name(const struct scan_case *c, const struct scan_file *f);
