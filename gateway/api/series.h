/* gateway/api/series.h - which DICOM objects of a cohort are one volume: those of one frame that
 * have the same SeriesInstanceUID in one case.
 *
 * The UID was read at ingest; where the collection declares it no index field it is opened from the
 * sealed attributes. In which order the slices lie, and whether any is missing, the worker's child
 * finds out, since it alone parses objects (computed/analysis/series.h). */
#pragma once
#include "gateway/api/object.h"

struct series_item {   /* what an item consists of */
    struct slice uid;  /* "": the object as it is */
    uint32_t first, n; /* objects at order[first .. first + n) */
};
struct series_items {
    struct series_item *items;
    uint32_t items_n;
    uint32_t *order; /* indexes of objects: an item's lie together, by path */
};
/* The case of an item, opened. RC_NOTFOUND, RC_PRECOND: it is gone, withdrawn, or its collection
 * was made anew since. */
MUST_CHECK enum rc gw_item_case(struct gw *gw, const struct record_item *it, struct arena *a,
                                uint64_t left_ms, struct gw_case *ret, struct err *reterr);
/* objects: neighbours are of one case, by path. In the order of each item's first object. All is in
 * the arena. RC_INVAL: a series of more than RECORD_SLICES_MAX objects, named. */
MUST_CHECK enum rc gw_series_group(struct gw *gw, const struct record_item *objects, uint32_t n,
                                   struct arena *a, uint64_t left_ms, struct series_items *ret,
                                   struct err *reterr);
