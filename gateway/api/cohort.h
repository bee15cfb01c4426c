/* gateway/api/cohort.h - object versions that fit a query (gateway/query), for Catalog.Query and
 * for jobs. */
#pragma once
#include "gateway/api/object.h"

struct cohort_match { /* borrowed until each returns */
    const struct gw_collection *col;
    struct slice case_id;
    const struct record_head *head;
    const struct gw_object_line *line;
};
/* Collections that the expression names must all be granted to the caller (RC_DENIED names the
 * first that is not); an expression that names none searches all that are granted. Each case is one
 * snapshot. In order of collection, case, path. each: RC_RANGE ends well. RC_INVAL names the token
 * and its column. */
MUST_CHECK enum rc cohort_each(struct fcall *c, const char *expression,
                               enum rc (*each)(void *arg, const struct cohort_match *m), void *arg,
                               struct err *reterr);
