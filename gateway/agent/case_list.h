/* gateway/agent/case_list.h - a society's list of its cases: CSV (RFC 4180) or JSON.
 *
 * CSV: its first row names the columns: case_id, folder (missing: the case's name), facility;
 * others become the case's document, `labels` as a list ("a; b" or JSON). JSON: an array of objects
 * with case_id, folder, facility and document, or history and labels. */
#pragma once
#include "common/base/rc.h"

struct case_list_row {
    const char *case_id, *folder;
    const char *facility, *document; /* JSON text; "": none */
};
/* What is not RC_OK ends the list and is returned. row: until return. */
typedef enum rc (*case_list_row_fn)(void *data, const struct case_list_row *row,
                                    struct err *reterr);
/* text: n bytes and a zero; changed. name: for messages. RC_INVAL says which row; RC_NOMEM. */
MUST_CHECK enum rc case_list_parse(const char *name, bool json, char *text, size_t n,
                                   case_list_row_fn each, void *data, struct err *reterr);
