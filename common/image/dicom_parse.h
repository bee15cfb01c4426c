/* common/image/dicom_parse.h - where the elements of a DICOM file lie, without reading its pixels.
 *
 * A flat walk: nesting is a counter, not recursion, so depth costs nothing. Only elements of the
 * list in dicom_parse.c are remembered, and only from the top level. The walk ends at the pixel
 * data. Little- and big-endian, implicit and explicit VR, with and without preamble and meta
 * header; the deflated syntax is inflated into memory, within a limit. */
#pragma once
#include "common/image/image_priv.h"

#define DCM_TAG(group, elem) (((uint32_t)(group) << 16) | (elem))
enum { DCM_ELEMS_MAX = 64, DCM_PEEK_BYTES = 4096 };
#define DCM_LEN_UNDEFINED 0xffffffffu

struct dcm_elem {
    uint32_t tag;
    char vr[3]; /* "" in implicit VR */
    uint64_t off;
    uint32_t len; /* DCM_LEN_UNDEFINED: encapsulated */
};

struct dcm {
    struct image_source src; /* the file, or the inflated data set */
    struct image_source_mem inflated;
    uint8_t *inflated_p;
    bool explicit_vr, big_endian;
    char syntax[65];
    uint32_t elem_n;
    struct dcm_elem elem[DCM_ELEMS_MAX];
    uint64_t peek_off; /* a small cache, so that headers do not cost a read each */
    size_t peek_n;
    uint8_t peek[DCM_PEEK_BYTES];
};

/* Parse. On RC_CORRUPT what was found before the fault is there, for indexing. Call dcm_deinit
 * after either outcome. */
enum rc dcm_parse(struct dcm *d, const struct image_source *src, uint64_t memory_bytes_max,
                  struct err *reterr);
void dcm_deinit(struct dcm *d);

/* For walks of one's own: the meta header and the syntax only; ret_at is where the data set begins
 * in d->src. dcm_deinit after either outcome. */
enum rc dcm_open(struct dcm *d, const struct image_source *src, uint64_t memory_bytes_max,
                 uint64_t *ret_at, struct err *reterr);
/* One element's header at *at, which moves to its value. Items and delimiters have no VR in any
 * syntax. */
enum rc dcm_header(struct dcm *d, uint64_t *at, bool explicit_vr, struct dcm_elem *ret_e,
                   struct err *reterr);

/* Small reads through the cache. */
enum rc dcm_bytes(struct dcm *d, uint64_t off, void *buf, size_t n, struct err *reterr);

const struct dcm_elem *dcm_find(const struct dcm *d, uint32_t tag); /* NULL when absent */
/* The value as text without padding, cut at cap - 1; "" when absent or not readable. */
void dcm_text(struct dcm *d, uint32_t tag, char *text, size_t cap);
/* US or SS value idx; fallback when absent. */
uint32_t dcm_u16(struct dcm *d, uint32_t tag, uint32_t idx, uint32_t fallback);
/* Decimal string value idx; false when absent or no number. */
bool dcm_number(struct dcm *d, uint32_t tag, uint32_t idx, double *ret_v);
