/* common/image/deid/dicom_deid.h - one DICOM file under the rules: what its parts share. */
#pragma once
#include "common/image/deid/deid_priv.h"
#include "common/image/deid/dicom_tags.h"
#include "common/image/deid/dicom_walk.h"

enum { DICOM_VALUE_MAX = 1024, DICOM_WORDS_MAX = 8, DICOM_BLOCKS_MAX = 16 };

/* Of the top level, as text; "" when absent. */
struct dicom_facts {
    char sop_class[65], sop[65], study[65], modality[17], image_type[128], burned_in[17];
    char recognizable[17], conversion[17], longitudinal[17], removed[17], label_in_image[17];
    char photometric[17], patient_id[65], patient_name[128];
    bool pixels;
    uint64_t rows, columns, samples, bits; /* of a pixel; 0: not told */
    char frames[17];
};

enum how { /* what cleaning does with an element */
           HOW_KEEP,
           HOW_DROP, /* without a word: padding, group lengths, what is written anew */
           HOW_REMOVE,
           HOW_EMPTY,
           HOW_DUMMY,
           HOW_PATIENT, /* the patient's pseudonym */
           HOW_ID,      /* a pseudonym of the value */
           HOW_UID,
           HOW_SHIFT,
           HOW_AGE,
           HOW_NOTHING /* told, and cannot be mended */
};
struct verdict {
    enum deid_rule rule; /* DEID_RULE_N: nothing to say */
    enum how how;
};
struct value {
    uint8_t p[DICOM_VALUE_MAX + 1];
    size_t n; /* what was read of it, without padding */
    uint32_t len;
};

struct dicom_run {
    struct deid_run *r;
    struct dcm d;   /* the data set */
    struct dcm raw; /* the file: differs when deflated */
    struct walk w;
    struct dicom_facts f;
    uint32_t word_n; /* parts of the patient's name and id, to find them elsewhere */
    char word[DICOM_WORDS_MAX][65];
    uint32_t block_n; /* private blocks whose creator the profile knows */
    struct {
        uint16_t group;
        uint8_t block;
        char creator[65];
    } block[DICOM_BLOCKS_MAX];
    uint32_t insert_n;   /* elements of our own that were written */
    uint32_t skip_depth; /* inside a removed sequence; 0: not */
    struct value v;
};

/* ---- judging (dicom_judge.c) ---- */
struct verdict dicom_judge(struct dicom_run *c, const struct dcm_elem *e, uint32_t depth);
struct verdict dicom_judge_seq(struct dicom_run *c, const struct dcm_elem *e);
/* The rules for the object as a whole: its class and its pixels. */
void dicom_judge_object(struct dicom_run *c);
/* Computed from other images: no camera, no screen. */
bool dicom_is_computed(const char *sop_class);
/* A scanner's own slice or a slide's tile: nothing was written into it. */
bool dicom_is_original(const char *sop_class, const char *image_type);

/* ---- writing (dicom_write.c); all do nothing in a check ---- */
MUST_CHECK enum rc dicom_write_meta(struct dicom_run *c, struct err *reterr);
/* Our own elements (12,62), (12,63), (12,64), (28,303) that come before tag. */
MUST_CHECK enum rc dicom_write_inserts(struct dicom_run *c, uint32_t before, struct err *reterr);
bool dicom_is_inserted(uint32_t tag);
MUST_CHECK enum rc dicom_write_range(struct dicom_run *c, uint64_t off, uint64_t n,
                                     struct err *reterr);
MUST_CHECK enum rc dicom_write_elem(struct dicom_run *c, uint32_t tag, const char *vr,
                                    const void *p, size_t n, struct err *reterr);
/* An element replaced as how says; c->v holds its value. */
MUST_CHECK enum rc dicom_write_replaced(struct dicom_run *c, const struct dcm_elem *e, enum how how,
                                        struct err *reterr);
MUST_CHECK enum rc dicom_write_seq(struct dicom_run *c, const struct dcm_elem *e, bool empty,
                                   struct err *reterr);
MUST_CHECK enum rc dicom_write_mark(struct dicom_run *c, uint32_t elem, struct err *reterr);
