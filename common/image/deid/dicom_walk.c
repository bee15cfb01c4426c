/* common/image/deid/dicom_walk.c - a walk without recursion; its stack is WALK_DEPTH_MAX deep.
 *
 * Each step reads at least 8 bytes further or closes a level, so a walk ends. Lengths are held
 * against the enclosing item's end, so nothing is read twice under two names. A value whose
 * representation is unknown (UN, implicit) is a sequence when the dictionary says so; inside an UN
 * all is implicit (PS3.5 6.2.2). */
#include "common/image/deid/dicom_walk.h"
#include "common/image/deid/dicom_tags.h"

void walk_init(struct walk *w, struct dcm *d, uint64_t at)
{
    *w = (struct walk){.d = d, .at = at, .start = at, .explicit_vr = d->explicit_vr};
}

static uint64_t limit_of(const struct walk *w)
{
    uint64_t end = w->d->src.size;

    for (uint32_t i = 0; i < w->depth; i++)
        end = MIN(end, w->level[i].end);
    return end;
}

static enum rc push(struct walk *w, bool item, uint32_t tag, uint32_t len, struct err *reterr)
{
    struct walk_level *l = &w->level[w->depth];
    uint64_t end = limit_of(w);

    if (w->depth == WALK_DEPTH_MAX)
        return err_set(reterr, RC_BUSY, "DICOM: nested deeper than %d", WALK_DEPTH_MAX);
    if (len != DCM_LEN_UNDEFINED && len > end - w->at)
        return err_set(reterr, RC_CORRUPT, "DICOM: (%04x,%04x) is longer than what holds it",
                       tag >> 16, tag & 0xffff);
    *l = (struct walk_level){.tag = tag,
                             .end = len == DCM_LEN_UNDEFINED ? UINT64_MAX : w->at + len,
                             .item = item,
                             .explicit_outside = w->explicit_vr};
    w->depth++;
    return RC_OK;
}

static void pop(struct walk *w, enum walk_event *ret_ev)
{
    const struct walk_level *l = &w->level[--w->depth];

    w->explicit_vr = l->explicit_outside;
    w->e.tag = l->tag;
    *ret_ev = l->item ? WALK_ITEM_END : WALK_SEQ_END;
}

/* Encapsulated pixel data: items of stated lengths, then a delimiter. */
static enum rc skip_fragments(struct walk *w, struct err *reterr)
{
    struct dcm_elem e;

    for (;;) {
        enum rc rc = dcm_header(w->d, &w->at, false, &e, reterr);

        if (rc != RC_OK) return rc;
        if (++w->steps > WALK_STEPS_MAX)
            return err_set(reterr, RC_BUSY, "DICOM: more than %d elements", WALK_STEPS_MAX);
        if (e.tag == DCM_TAG(0xfffe, 0xe0dd)) return RC_OK;
        if (e.tag != DCM_TAG(0xfffe, 0xe000) || e.len > limit_of(w) - w->at)
            return err_set(reterr, RC_CORRUPT, "DICOM: pixel data: a fragment is broken");
        w->at += e.len;
    }
}

static bool is_pixels(uint32_t tag)
{
    return tag == DCM_TAG(0x7fe0, 0x0010);
}

static bool is_sequence(const struct walk *w, const struct dcm_elem *e)
{
    const struct tag_row *row;

    if (strcmp(e->vr, "SQ") == 0) return true;
    if (w->explicit_vr && strcmp(e->vr, "UN") != 0) return false;
    if (e->len == DCM_LEN_UNDEFINED) return true;
    row = tag_row_find(e->tag);
    return row != NULL && memcmp(row->vr, "SQ", 3) == 0;
}

static enum rc element(struct walk *w, enum walk_event *ret_ev, struct err *reterr)
{
    struct dcm_elem *e = &w->e;
    enum rc rc;

    if (e->tag >> 16 == 0xfffe)
        return err_set(reterr, RC_CORRUPT, "DICOM: a delimiter in the wrong place");
    if (e->len == DCM_LEN_UNDEFINED && is_pixels(e->tag)) {
        *ret_ev = WALK_FRAGMENTS;
        return skip_fragments(w, reterr);
    }
    if (is_sequence(w, e)) {
        rc = push(w, false, e->tag, e->len, reterr);
        if (strcmp(e->vr, "UN") == 0) w->explicit_vr = false;
        *ret_ev = WALK_SEQ;
        return rc;
    }
    if (e->len == DCM_LEN_UNDEFINED || e->len > limit_of(w) - w->at)
        return err_set(reterr, RC_CORRUPT, "DICOM: (%04x,%04x) is longer than what holds it",
                       e->tag >> 16, e->tag & 0xffff);
    w->at += e->len;
    *ret_ev = WALK_ELEM;
    return RC_OK;
}

enum rc walk_next(struct walk *w, enum walk_event *ret_ev, struct err *reterr)
{
    const struct walk_level *top = w->depth == 0 ? NULL : &w->level[w->depth - 1];
    enum rc rc;

    w->start = w->at;
    if (++w->steps > WALK_STEPS_MAX)
        return err_set(reterr, RC_BUSY, "DICOM: more than %d elements", WALK_STEPS_MAX);
    if (top != NULL && top->end == w->at) {
        pop(w, ret_ev);
        return RC_OK;
    }
    if (top == NULL && w->at == w->d->src.size) {
        *ret_ev = WALK_END;
        return RC_OK;
    }
    rc = dcm_header(w->d, &w->at, w->explicit_vr, &w->e, reterr);
    if (rc != RC_OK) return rc;
    if (w->at > limit_of(w))
        return err_set(reterr, RC_CORRUPT, "DICOM: an element crosses the end of its item");
    if (top == NULL) return element(w, ret_ev, reterr);
    if (w->e.tag == DCM_TAG(0xfffe, top->item ? 0xe00d : 0xe0dd) && top->end == UINT64_MAX) {
        pop(w, ret_ev);
        return RC_OK;
    }
    if (top->item) return element(w, ret_ev, reterr);
    if (w->e.tag != DCM_TAG(0xfffe, 0xe000))
        return err_set(reterr, RC_CORRUPT, "DICOM: a sequence holds something else than items");
    *ret_ev = WALK_ITEM;
    return push(w, true, top->tag, w->e.len, reterr);
}

uint32_t walk_path(const struct walk *w, uint32_t tag, uint32_t *path, uint32_t cap)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < w->depth && n < cap; i++) {
        if (!w->level[i].item && !(i + 1 == w->depth && w->level[i].tag == tag))
            path[n++] = w->level[i].tag;
    }
    if (n < cap) path[n++] = tag;
    return n;
}
