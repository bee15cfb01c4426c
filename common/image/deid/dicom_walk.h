/* common/image/deid/dicom_walk.h - every element of a data set, at every depth, one event each. */
#pragma once
#include "common/image/dicom_parse.h"

enum { WALK_DEPTH_MAX = 64, WALK_STEPS_MAX = 4 * 1000 * 1000 };
enum walk_event {
    WALK_ELEM, /* e; its value is [e.off, e.off + e.len) */
    WALK_SEQ,  /* e; items follow */
    WALK_SEQ_END,
    WALK_ITEM,
    WALK_ITEM_END,
    WALK_FRAGMENTS, /* e: encapsulated pixel data, whole: [start, at) */
    WALK_END
};
struct walk {
    struct dcm *d;
    uint64_t start, at; /* of the event's header; behind what was read */
    bool explicit_vr;
    uint32_t depth, steps; /* depth: open sequences and items */
    struct walk_level {
        uint32_t tag; /* the sequence's; of an item the sequence's it is in */
        uint64_t end; /* UINT64_MAX: a delimiter ends it */
        bool item, explicit_outside;
    } level[WALK_DEPTH_MAX];
    struct dcm_elem e;
};
void walk_init(struct walk *w, struct dcm *d, uint64_t at);
/* RC_CORRUPT: the structure contradicts itself. RC_BUSY: WALK_DEPTH_MAX, WALK_STEPS_MAX. */
MUST_CHECK enum rc walk_next(struct walk *w, enum walk_event *ret_ev, struct err *reterr);
/* The tags of the open sequences and of e, outermost first; returns their number. */
uint32_t walk_path(const struct walk *w, uint32_t tag, uint32_t *path, uint32_t cap);
