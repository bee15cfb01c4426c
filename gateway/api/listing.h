/* gateway/api/listing.h - names in order over all groups of a pool: a merge of one scan per group.
 *
 * Contract: a name that was there before the start and is not removed until the end comes exactly
 * once, in byte order; each group's rows are of one snapshot. */
#pragma once
#include "gateway/api/gw.h"

/* after: names greater than it. each: RC_RANGE ends well. */
MUST_CHECK enum rc
gw_list_names(struct gw *gw, uint32_t pool, const struct id128 *scope, const char *prefix,
              const char *after, struct arena *a, uint64_t left_ms,
              enum rc (*each)(void *arg, struct slice name, const struct record_list *row),
              void *arg, struct err *reterr);
struct gw_case_line {
    struct slice case_id;
    struct record_anchor anchor;
    struct record_head head;
};
/* A collection's cases with their heads, by id. case_id NULL: no filter. at most `limit`. */
MUST_CHECK enum rc gw_list_cases(struct gw *gw, const struct gw_collection *col, const char *prefix,
                                 const char *after, uint32_t limit, struct arena *a,
                                 uint64_t left_ms,
                                 enum rc (*each)(void *arg, const struct gw_case_line *line),
                                 void *arg, uint32_t *ret_n, struct err *reterr);
