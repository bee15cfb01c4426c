/* common/image/deid/dicom.c - a DICOM file, twice: the facts that rules need before they meet the
 * elements they are about, then every element at every depth.
 *
 * Facts are read from the top level only and in any order, so a file that repeats an element is
 * judged by the first and cleaned of both. */
#include "common/image/deid/dicom_deid.h"
#include <ctype.h>

#define DICOM_INFLATED_MAX (768ull << 20) /* dcm_open takes a quarter of it: 192 MiB */

#define DICOM_PADDING_MAX (16ull << 20)

static void value_read(struct dicom_run *c, struct dcm *d, const struct dcm_elem *e)
{
    struct value *v = &c->v;
    struct err ignored;

    v->len = e->len;
    v->n = (size_t)MIN(e->len, (uint32_t)DICOM_VALUE_MAX);
    if (dcm_bytes(d, e->off, v->p, v->n, &ignored) != RC_OK) v->n = 0;
    while (v->n > 0 && v->len <= DICOM_VALUE_MAX && (v->p[v->n - 1] == ' ' || v->p[v->n - 1] == 0))
        v->n--;
    v->p[v->n] = 0;
}

/* ---- facts ---- */

/* A value that does not fit, or holds a zero, is "?": no class, no statement. Of the patient's name
 * and number the beginning is as good. */
static void fact(struct dicom_run *c, const struct dcm_elem *e, uint32_t tag, char *to, size_t cap)
{
    bool whole;

    if (e->tag != tag || to[0] != '\0') return;
    value_read(c, &c->d, e);
    whole = c->v.n < cap && c->v.len <= DICOM_VALUE_MAX && memchr(c->v.p, 0, c->v.n) == NULL;
    if (!whole && tag >> 16 != 0x0010) {
        (void)snprintf(to, cap, "?");
    } else {
        (void)snprintf(to, cap, "%.*s", (int)MIN(c->v.n, cap - 1), (const char *)c->v.p);
    }
}
static void number(struct dicom_run *c, const struct dcm_elem *e, uint32_t tag, uint64_t *to)
{
    uint8_t b[2];
    struct err ignored;

    if (e->tag != tag || e->len != 2 || *to != 0) return;
    if (dcm_bytes(&c->d, e->off, b, 2, &ignored) == RC_OK)
        *to = c->d.big_endian ? be_get(b, 2) : le_get(b, 2);
}
#define FACT(group, elem, field) fact(c, e, DCM_TAG(group, elem), c->f.field, sizeof(c->f.field))

static void facts_of(struct dicom_run *c, const struct dcm_elem *e)
{
    FACT(0x0008, 0x0008, image_type);
    FACT(0x0008, 0x0016, sop_class);
    FACT(0x0008, 0x0018, sop);
    FACT(0x0008, 0x0060, modality);
    FACT(0x0008, 0x0064, conversion);
    FACT(0x0010, 0x0010, patient_name);
    FACT(0x0010, 0x0020, patient_id);
    FACT(0x0012, 0x0062, removed);
    FACT(0x0020, 0x000d, study);
    FACT(0x0028, 0x0004, photometric);
    FACT(0x0028, 0x0008, frames);
    number(c, e, DCM_TAG(0x0028, 0x0002), &c->f.samples);
    number(c, e, DCM_TAG(0x0028, 0x0010), &c->f.rows);
    number(c, e, DCM_TAG(0x0028, 0x0011), &c->f.columns);
    number(c, e, DCM_TAG(0x0028, 0x0100), &c->f.bits);
    FACT(0x0028, 0x0301, burned_in);
    FACT(0x0028, 0x0302, recognizable);
    FACT(0x0028, 0x0303, longitudinal);
    FACT(0x0048, 0x0010, label_in_image);
    if (e->tag == DCM_TAG(0x7fe0, 0x0008) || e->tag == DCM_TAG(0x7fe0, 0x0009) ||
        e->tag == DCM_TAG(0x7fe0, 0x0010))
        c->f.pixels = true;
}

static void add_word(struct dicom_run *c, const char *p, size_t n, size_t n_min)
{
    if (n < n_min || n > 64 || c->word_n == DICOM_WORDS_MAX) return;
    memcpy(c->word[c->word_n], p, n);
    c->word[c->word_n++][n] = '\0';
}

/* The parts of the name in Latin letters, and the number. Short ones would be found everywhere. */
static void words_of(struct dicom_run *c)
{
    const char *at = c->f.patient_name;

    if (!deid_is_pseudonym(c->r->p, c->f.patient_id, strlen(c->f.patient_id)))
        add_word(c, c->f.patient_id, strlen(c->f.patient_id), 5);
    if (deid_is_pseudonym(c->r->p, at, strlen(at))) return;
    while (*at != '\0') {
        size_t n = 0;

        while (isalpha((unsigned char)at[n]))
            n++;
        add_word(c, at, n, 4);
        at += n == 0 ? 1 : n;
    }
}

/* The data set's facts; where it breaks off the second walk will say so. */
static enum rc facts(struct dicom_run *c, uint64_t at, struct err *reterr)
{
    enum walk_event ev = WALK_ELEM;
    enum rc rc = RC_OK;

    walk_init(&c->w, &c->d, at);
    while (rc == RC_OK && ev != WALK_END) {
        rc = walk_next(&c->w, &ev, reterr);
        if (rc == RC_OK && c->w.depth == 0 && (ev == WALK_ELEM || ev == WALK_FRAGMENTS))
            facts_of(c, &c->w.e);
    }
    words_of(c);
    return rc == RC_CORRUPT || rc == RC_BUSY ? RC_OK : rc;
}

/* ---- preamble and meta header ---- */

static enum rc preamble(struct dicom_run *c, uint64_t *ret_meta, struct err *reterr)
{
    uint8_t b[132];
    enum rc rc;

    *ret_meta = 0;
    if (c->raw.src.size < sizeof(b)) return RC_OK;
    rc = dcm_bytes(&c->raw, 0, b, sizeof(b), reterr);
    if (rc != RC_OK || memcmp(b + 128, "DICM", 4) != 0) return rc;
    *ret_meta = sizeof(b);
    for (int i = 0; i < 128; i++) {
        if (b[i] == 0) continue;
        run_find(c->r, DEID_PREAMBLE, DEID_REPLACED, DEID_AT_FILE, NULL, 0);
        break;
    }
    return RC_OK;
}

static enum deid_change change_of(enum how how)
{
    switch (how) {
    case HOW_REMOVE:
    case HOW_DROP:
        return DEID_REMOVED;
    case HOW_EMPTY:
        return DEID_EMPTIED;
    case HOW_SHIFT:
        return DEID_SHIFTED;
    case HOW_DUMMY:
    case HOW_PATIENT:
    case HOW_ID:
    case HOW_UID:
    case HOW_AGE:
        return DEID_REPLACED;
    case HOW_KEEP:
    case HOW_NOTHING:
        break;
    }
    return DEID_KEPT;
}

/* Group 2 is judged as it is and written anew. */
static enum rc meta(struct dicom_run *c, struct err *reterr)
{
    uint64_t at;
    enum rc rc = preamble(c, &at, reterr);

    c->raw.explicit_vr = true;
    while (rc == RC_OK && c->raw.src.size - at >= 8) {
        struct dcm_elem e;
        struct verdict v;
        uint8_t b[2];

        rc = dcm_bytes(&c->raw, at, b, 2, reterr);
        if (rc != RC_OK || le_get16(b) != 2) break;
        rc = dcm_header(&c->raw, &at, true, &e, reterr);
        if (rc != RC_OK) break;
        if (e.len > c->raw.src.size - at) return err_set(reterr, RC_CORRUPT, "DICOM: meta header");
        at += e.len;
        value_read(c, &c->raw, &e);
        v = dicom_judge(c, &e, 0);
        if (v.rule == DEID_RULE_N) continue;
        /* the syntax cannot be another one */
        run_find(c->r, v.rule,
                 e.tag == DCM_TAG(0x0002, 0x0010) ? DEID_KEPT
                 : v.how == HOW_UID               ? DEID_REPLACED
                                                  : DEID_REMOVED,
                 DEID_AT_DICOM, &e.tag, 1);
    }
    return rc != RC_OK ? rc : dicom_write_meta(c, reterr);
}

/* ---- the data set ---- */

static void told(struct dicom_run *c, uint32_t tag, struct verdict v)
{
    uint32_t path[WALK_DEPTH_MAX];
    uint32_t n = walk_path(&c->w, tag, path, ARRAY_N(path));

    run_find(c->r, v.rule, change_of(v.how), DEID_AT_DICOM, path, n);
}

static enum rc only_zeros(struct dicom_run *c, uint64_t off, uint64_t len, bool *ret,
                          struct err *reterr)
{
    *ret = len <= DICOM_PADDING_MAX; /* more is not read to see that it is nothing */
    for (uint64_t at = 0; *ret && at < len;) {
        size_t n = (size_t)MIN(len - at, (uint64_t)DEID_COPY_BYTES);
        enum rc rc = image_source_read(&c->d.src, off + at, c->r->buf, n, reterr);

        if (rc != RC_OK) return rc;
        for (size_t i = 0; i < n; i++) {
            if (c->r->buf[i] != 0) *ret = false;
        }
        at += n;
    }
    return RC_OK;
}

/* Padding after the data set: zeros are only dropped. */
static enum rc padding(struct dicom_run *c, const struct dcm_elem *e, struct err *reterr)
{
    bool zeros;
    enum rc rc = only_zeros(c, e->off, e->len, &zeros, reterr);

    if (rc == RC_OK && !zeros) told(c, e->tag, (struct verdict){DEID_TRAILER, HOW_REMOVE});
    return rc;
}

/* An overlay may lie in unused bits of the pixels, from the bit that this says (not 0): with its
 * description gone nobody would find it, and it would still be there. */
static bool overlay_in_pixels(struct dicom_run *c, const struct dcm_elem *e)
{
    if ((e->tag & 0xff00ffff) != DCM_TAG(0x6000, 0x0102) || c->v.n == 0) return false;
    told(c, e->tag, (struct verdict){DEID_BURNED_IN, HOW_NOTHING});
    return true;
}

/* More native pixel data than the picture has pixels: something lies behind it, unless it is zero.
 */
static enum rc pixels_end(struct dicom_run *c, const struct dcm_elem *e, bool *ret_hidden,
                          struct err *reterr)
{
    uint64_t frames = strtoul(c->f.frames, NULL, 10), bits, bytes;
    bool zeros = true;
    enum rc rc = RC_OK;

    *ret_hidden = false;
    if (e->tag != DCM_TAG(0x7fe0, 0x0010) || c->w.depth != 0) return RC_OK;
    bits = mul_sat(mul_sat(c->f.rows, c->f.columns),
                   mul_sat(mul_sat(MAX(c->f.samples, 1u), c->f.bits), MAX(frames, 1u)));
    bytes = bits / 8 + 2; /* one bit a pixel is rounded up, then made even */
    if (bits != 0 && e->len > bytes)
        rc = only_zeros(c, e->off + bytes, e->len - bytes, &zeros, reterr);
    *ret_hidden = !zeros;
    return rc;
}

/* What says that the object must be looked at, or what it is: gone, nobody would look. */
static bool is_witness(const struct dicom_run *c, const struct dcm_elem *e)
{
    static const uint32_t WITNESSES[] = {DCM_TAG(0x0008, 0x0008), DCM_TAG(0x0008, 0x0016),
                                         DCM_TAG(0x0008, 0x0064), DCM_TAG(0x0028, 0x0004),
                                         DCM_TAG(0x0028, 0x0301), DCM_TAG(0x0028, 0x0302),
                                         DCM_TAG(0x0048, 0x0010)};

    for (size_t i = 0; c->w.depth == 0 && i < ARRAY_N(WITNESSES); i++) {
        if (e->tag == WITNESSES[i]) return true;
    }
    return false;
}

static enum rc element(struct dicom_run *c, struct err *reterr)
{
    const struct dcm_elem *e = &c->w.e;
    struct verdict v;
    bool hidden;
    enum rc rc;

    if (e->tag == DCM_TAG(0xfffc, 0xfffc)) return padding(c, e, reterr);
    value_read(c, &c->d, e);
    v = dicom_judge(c, e, c->w.depth);
    if (v.how == HOW_REMOVE && is_witness(c, e)) v.how = HOW_NOTHING;
    if (overlay_in_pixels(c, e)) v.how = HOW_NOTHING; /* it stays, as a witness */
    rc = pixels_end(c, e, &hidden, reterr);
    if (rc != RC_OK) return rc;
    if (hidden) v = (struct verdict){DEID_TRAILER, HOW_NOTHING};
    if (v.rule != DEID_RULE_N) told(c, e->tag, v);
    if (c->w.depth == 0 && dicom_is_inserted(e->tag)) v.how = HOW_DROP; /* written by us */
    if (v.how == HOW_KEEP || v.how == HOW_NOTHING)
        return dicom_write_range(c, c->w.start, c->w.at - c->w.start, reterr);
    return dicom_write_replaced(c, e, v.how, reterr);
}

static enum rc sequence(struct dicom_run *c, struct err *reterr)
{
    const struct dcm_elem *e = &c->w.e;
    struct verdict v = dicom_judge_seq(c, e);

    if (v.rule != DEID_RULE_N) {
        told(c, e->tag, v);
        c->skip_depth = c->w.depth;
        return v.how == HOW_EMPTY ? dicom_write_seq(c, e, true, reterr) : RC_OK;
    }
    if (c->w.depth == 1 && dicom_is_inserted(e->tag)) {
        c->skip_depth = c->w.depth;
        return RC_OK;
    }
    return dicom_write_seq(c, e, false, reterr);
}

static enum rc event(struct dicom_run *c, enum walk_event ev, struct err *reterr)
{
    enum rc rc = RC_OK;

    if (c->skip_depth > 0) { /* until the removed sequence is closed */
        if (ev == WALK_SEQ_END && c->w.depth + 1 == c->skip_depth) c->skip_depth = 0;
        return RC_OK;
    }
    if ((ev == WALK_ELEM || ev == WALK_FRAGMENTS) && c->w.depth == 0)
        rc = dicom_write_inserts(c, c->w.e.tag, reterr);
    if (ev == WALK_SEQ && c->w.depth == 1) rc = dicom_write_inserts(c, c->w.e.tag, reterr);
    if (rc != RC_OK) return rc;
    switch (ev) {
    case WALK_ELEM:
        return element(c, reterr);
    case WALK_SEQ:
        return sequence(c, reterr);
    case WALK_SEQ_END:
        return dicom_write_mark(c, 0xe0dd, reterr);
    case WALK_ITEM:
        return dicom_write_mark(c, 0xe000, reterr);
    case WALK_ITEM_END:
        return dicom_write_mark(c, 0xe00d, reterr);
    case WALK_FRAGMENTS:
        if (c->w.depth == 0) return dicom_write_range(c, c->w.start, c->w.at - c->w.start, reterr);
        told(c, c->w.e.tag, (struct verdict){DEID_ICON, HOW_REMOVE});
        return RC_OK;
    case WALK_END:
        break;
    }
    return dicom_write_inserts(c, UINT32_MAX, reterr);
}

static enum rc data_set(struct dicom_run *c, uint64_t at, struct err *reterr)
{
    enum walk_event ev = WALK_ELEM;
    enum rc rc = RC_OK;

    walk_init(&c->w, &c->d, at);
    while (rc == RC_OK && ev != WALK_END) {
        rc = walk_next(&c->w, &ev, reterr);
        if (rc == RC_OK) rc = event(c, ev, reterr);
    }
    return rc;
}

enum rc deid_dicom(struct deid_run *r, struct err *reterr)
{
    struct dicom_run *c = calloc(1, sizeof(*c));
    uint64_t at;
    enum rc rc;

    if (c == NULL) return err_set(reterr, RC_NOMEM, "DICOM");
    c->r = r;
    c->raw.src = *r->src;
    rc = dcm_open(&c->d, r->src, DICOM_INFLATED_MAX, &at, reterr);
    if (rc == RC_OK) rc = facts(c, at, reterr);
    if (rc == RC_OK) {
        dicom_judge_object(c);
        rc = meta(c, reterr);
    }
    if (rc == RC_OK) rc = data_set(c, at, reterr);
    dcm_deinit(&c->d);
    free(c);
    return rc;
}
