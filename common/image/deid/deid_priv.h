/* common/image/deid/deid_priv.h - what the rules share: a run over one file, in either mode.
 *
 * One code path checks and cleans: where a rule is broken, run_find says so and, when cleaning,
 * what was done. So a check tells exactly what a cleaning would change. */
#pragma once
#include "common/base/le.h"
#include "common/image/deid/deid.h"
#include "common/image/image_priv.h"
#include <stdio.h>
#include <stdlib.h>

enum {
    DEID_FINDINGS_MAX = 256, /* told; the verdict counts all */
    DEID_COPY_BYTES = 65536,
};
#define DEID_READ_BYTES_MAX (1ull << 30) /* formats that must be read to their end */

struct deid_run {
    const struct image_source *src;
    const struct deid_profile *p;
    const struct deid_out *out; /* NULL: check only */
    deid_finding_cb cb;
    void *data;
    bool refused, quarantined, opaque;
    uint64_t told_n; /* calls of run_find, repetitions too */
    uint32_t found_n;
    struct deid_finding found[DEID_FINDINGS_MAX];
    uint8_t *buf; /* DEID_COPY_BYTES */
};

/* change is what cleaning does here; DEID_KEPT when nothing can be done. In a check it is ignored.
 */
void run_find(struct deid_run *r, enum deid_rule rule, enum deid_change change,
              enum deid_place place, const uint32_t *path, uint32_t path_n);
static inline void run_find_file(struct deid_run *r, enum deid_rule rule)
{
    run_find(r, rule, DEID_KEPT, DEID_AT_FILE, NULL, 0);
}
/* Both do nothing in a check. */
MUST_CHECK enum rc run_copy(struct deid_run *r, uint64_t off, uint64_t n, struct err *reterr);
MUST_CHECK enum rc run_data(struct deid_run *r, const void *p, size_t n, struct err *reterr);
MUST_CHECK enum rc run_zeros(struct deid_run *r, uint64_t n, struct err *reterr);
/* "mk-" and 13 hex digits, from a keyed hash. Only when cleaning. */
#define DEID_PSEUDONYM_CHARS 16 /* the longest that an SH may be */
MUST_CHECK enum rc run_pseudonym(struct deid_run *r, enum deid_pseudonym kind, const void *p,
                                 size_t n, char text[DEID_PSEUDONYM_CHARS + 1], struct err *reterr);

/* Small reads of a file that is walked forwards: a window over the source. */
struct reader {
    const struct image_source *src;
    uint64_t at, off; /* next byte; where the window begins */
    size_t n;
    uint8_t *buf; /* DEID_COPY_BYTES */
};
/* n bytes at r->at, which moves on; n <= 4096. RC_CORRUPT past the end. */
MUST_CHECK enum rc reader_take(struct reader *r, void *buf, size_t n, struct err *reterr);

/* One format each. RC_CORRUPT from the content becomes a finding in deid.c. */
MUST_CHECK enum rc deid_dicom(struct deid_run *r, struct err *reterr);
MUST_CHECK enum rc deid_jpeg(struct deid_run *r, struct err *reterr);
MUST_CHECK enum rc deid_png(struct deid_run *r, struct err *reterr);
MUST_CHECK enum rc deid_tiff(struct deid_run *r, struct err *reterr);
MUST_CHECK enum rc deid_vol(struct deid_run *r, struct err *reterr);

/* Is the text a pseudonym: empty, ours, a fixed word, or of the profile's form (p may be NULL)? */
bool deid_is_pseudonym(const struct deid_profile *p, const char *text, size_t n);

/* EXIF in a JPEG or PNG: every tag that is not on the list is found; ret_orientation 1 .. 8. */
MUST_CHECK enum rc deid_exif(struct deid_run *r, const uint8_t *p, size_t n,
                             uint32_t *ret_orientation);
/* Texts of a TIFF's ImageDescription: finds what must go and shortens text in place to what may
 * stay. Returns the new length. */
size_t deid_slide_text(struct deid_run *r, uint32_t dir, char *text, size_t n);
/* A processor's comment: its maker is named, the patient's fields stand beside it. */
bool deid_by_endoscope(const uint8_t *p, size_t n);
bool deid_text_is_plain(const uint8_t *p, size_t n); /* short ASCII words, no long number */

/* ---- places by name (places.c, dicom_tags.c) ---- */
const char *deid_dicom_keyword(uint32_t tag); /* all of them: NULL where there is none */
struct deid_tag {
    uint16_t tag;
    uint8_t rule; /* DEID_RULE_N: stays */
    const char *name;
};
const struct deid_tag *deid_tiff_tag(uint32_t tag); /* of TIFF and EXIF */
const char *deid_tiff_name(uint32_t tag);
enum { DEID_KEY_HEADER = 19, DEID_KEY_UNKNOWN = 29, DEID_KEY_TEXT = 30 }; /* of ImageDescription */
const char *deid_slide_key(uint32_t idx);
/* DEID_RULE_N: a number stays, and plain words where ret_words says so. */
enum deid_rule deid_slide_key_rule(uint32_t idx, bool *ret_words);
enum {
    DEID_OME_COMMENT,
    DEID_OME_TEXT,
    DEID_OME_ELEMENT,
    DEID_OME_ATTRIBUTE,
    DEID_OME_BROKEN,
    DEID_OME_NAMED
};
const char *deid_ome_name(uint32_t idx);
struct deid_vol_field_at {
    uint16_t off, n;
    enum deid_rule rule;
    const char *name;
};
const struct deid_vol_field_at *deid_vol_at(uint32_t idx);
