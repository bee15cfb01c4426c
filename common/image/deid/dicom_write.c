/* common/image/deid/dicom_write.c - the cleaned data set, element by element, in one pass.
 *
 * What stays is copied as it lies in the file, in the file's transfer syntax (a deflated data set
 * is written inflated, as explicit little-endian). Sequences and items get undefined lengths, so
 * that nothing written earlier depends on what is removed later. The preamble is zero and the meta
 * header is made anew: nothing of it comes from the site but the class and the syntax. */
#include "common/image/deid/dicom_deid.h"

#define IMPLEMENTATION_UID "2.25.129390146853826436461738162473904152587"

static size_t put16(uint8_t *p, uint32_t v, bool big)
{
    if (big) {
        be_put16(p, (uint16_t)v);
    } else {
        le_put16(p, (uint16_t)v);
    }
    return 2;
}

static size_t put32(uint8_t *p, uint32_t v, bool big)
{
    if (big) {
        be_put32(p, v);
    } else {
        le_put32(p, v);
    }
    return 4;
}

static size_t put_tag(uint8_t *p, uint32_t tag, bool big)
{
    return put16(p, tag >> 16, big) + put16(p + 2, tag & 0xffff, big);
}

/* vr "": implicit. Returns the header's size, at most 12. */
static size_t put_header(uint8_t *p, uint32_t tag, const char *vr, uint32_t len, bool big)
{
    static const char LONGS[] = "OB OW OD OF OL OV SQ UC UN UR UT SV UV ";
    size_t n = put_tag(p, tag, big);

    if (vr[0] == '\0') return n + put32(p + n, len, big);
    p[n++] = (uint8_t)vr[0];
    p[n++] = (uint8_t)vr[1];
    if (strstr(LONGS, vr) == NULL) return n + put16(p + n, len, big);
    n += put16(p + n, 0, big);
    return n + put32(p + n, len, big);
}

enum rc dicom_write_range(struct dicom_run *c, uint64_t off, uint64_t n, struct err *reterr)
{
    if (c->r->out == NULL || n == 0) return RC_OK;
    if (c->d.inflated_p == NULL) return run_copy(c->r, off, n, reterr);
    return run_data(c->r, c->d.inflated_p + off, (size_t)n, reterr);
}

enum rc dicom_write_elem(struct dicom_run *c, uint32_t tag, const char *vr, const void *p, size_t n,
                         struct err *reterr)
{
    static const uint8_t PADS[2] = {' ', 0};
    uint8_t head[12];
    size_t pad = n % 2;
    size_t head_n =
        put_header(head, tag, c->w.explicit_vr ? vr : "", (uint32_t)(n + pad), c->d.big_endian);
    enum rc rc = run_data(c->r, head, head_n, reterr);

    if (rc == RC_OK) rc = run_data(c->r, p, n, reterr);
    if (rc == RC_OK && pad == 1) rc = run_data(c->r, &PADS[strcmp(vr, "UI") == 0], 1, reterr);
    return rc;
}

enum rc dicom_write_seq(struct dicom_run *c, const struct dcm_elem *e, bool empty,
                        struct err *reterr)
{
    uint8_t head[12];
    const char *vr = e->vr[0] == '\0' ? "" : e->vr;

    return run_data(c->r, head,
                    put_header(head, e->tag, vr, empty ? 0 : DCM_LEN_UNDEFINED, c->d.big_endian),
                    reterr);
}

enum rc dicom_write_mark(struct dicom_run *c, uint32_t elem, struct err *reterr)
{
    uint8_t b[8];
    size_t n = put_tag(b, DCM_TAG(0xfffe, elem), c->d.big_endian);

    n += put32(b + n, elem == 0xe000 ? DCM_LEN_UNDEFINED : 0, c->d.big_endian);
    return run_data(c->r, b, n, reterr);
}

/* "2.25." and 128 bits in decimal (PS3.5 B.2). */
static size_t uid_of_hash(const uint8_t hash[16], char text[65])
{
    uint8_t v[16];
    char digits[40];
    size_t n = 0, at;

    memcpy(v, hash, sizeof(v));
    do { /* divide by ten */
        unsigned rest = 0, any = 0;

        for (int i = 0; i < 16; i++) {
            rest = rest << 8 | v[i];
            v[i] = (uint8_t)(rest / 10);
            rest %= 10;
            any |= v[i];
        }
        digits[n++] = (char)('0' + rest);
        if (any == 0) break;
    } while (n < sizeof(digits));
    at = (size_t)snprintf(text, 65, "2.25.");
    while (n > 0)
        text[at++] = digits[--n];
    text[at] = '\0';
    return at;
}

static enum rc map_uid(struct dicom_run *c, const char *uid, size_t n, char text[65],
                       struct err *reterr)
{
    uint8_t hash[32];
    enum rc rc;

    if (n == 0 || (n >= 5 && memcmp(uid, "2.25.", 5) == 0) ||
        (n >= 14 && memcmp(uid, "1.2.840.10008.", 14) == 0) || c->r->p->uids_keep) {
        n = MIN(n, (size_t)64);
        memcpy(text, uid, n);
        text[n] = '\0';
        return RC_OK;
    }
    rc = c->r->out->pseudonym(c->r->out->ctx, DEID_PS_UID, uid, n, hash, reterr);
    if (rc == RC_OK) (void)uid_of_hash(hash, text);
    return rc;
}

static enum rc write_uids(struct dicom_run *c, const struct dcm_elem *e, struct err *reterr)
{
    const char *at = (const char *)c->v.p, *end = at + c->v.n;
    char out[DICOM_VALUE_MAX], one[65];
    size_t n = 0;

    while (at < end) {
        const char *next = memchr(at, '\\', (size_t)(end - at));
        enum rc rc = map_uid(c, at, (size_t)((next == NULL ? end : next) - at), one, reterr);

        if (rc != RC_OK) return rc;
        if (n + strlen(one) + 1 >= sizeof(out)) break; /* a longer list is cut */
        if (n > 0) out[n++] = '\\';
        memcpy(out + n, one, strlen(one));
        n += strlen(one);
        at = next == NULL ? end : next + 1;
    }
    return dicom_write_elem(c, e->tag, "UI", out, n, reterr);
}

/* ---- dates ---- */

/* Days since 0000-03-01 of a proleptic Gregorian date, and back. */
static int64_t days_of(int64_t y, int64_t m, int64_t d)
{
    y -= m <= 2;
    m = (m + 9) % 12;
    return y * 365 + y / 4 - y / 100 + y / 400 + (m * 306 + 5) / 10 + d - 1;
}

static void date_of(int64_t days, int64_t *y, int64_t *m, int64_t *d)
{
    int64_t yy = (10000 * days + 14780) / 3652425, rest, mm;

    rest = days - (yy * 365 + yy / 4 - yy / 100 + yy / 400);
    if (rest < 0) {
        yy--;
        rest = days - (yy * 365 + yy / 4 - yy / 100 + yy / 400);
    }
    mm = (100 * rest + 52) / 3060;
    *m = (mm + 2) % 12 + 1;
    *y = yy + (mm + 2) / 12;
    *d = rest - (mm * 306 + 5) / 10 + 1;
}

static const char *patient_key(const struct dicom_run *c)
{
    if (c->f.patient_id[0] != '\0') return c->f.patient_id;
    if (c->f.patient_name[0] != '\0') return c->f.patient_name;
    return c->f.study;
}

/* YYYYMMDD at the front of p, by the patient's days: 1 to 3650 back. False: not such a date. */
static enum rc shift_date(struct dicom_run *c, uint8_t *p, bool *ret_ok, struct err *reterr)
{
    const char *key = patient_key(c);
    uint8_t hash[32];
    int64_t v[8], y, m, d;
    enum rc rc = c->r->out->pseudonym(c->r->out->ctx, DEID_PS_DAYS, key, strlen(key), hash, reterr);
    char text[16];

    *ret_ok = false;
    if (rc != RC_OK) return rc;
    for (int i = 0; i < 8; i++) {
        if (p[i] < '0' || p[i] > '9') return RC_OK;
        v[i] = p[i] - '0';
    }
    y = v[0] * 1000 + v[1] * 100 + v[2] * 10 + v[3];
    m = v[4] * 10 + v[5];
    d = v[6] * 10 + v[7];
    if (y < 1000 || m < 1 || m > 12 || d < 1 || d > 31) return RC_OK;
    date_of(days_of(y, m, d) - 1 - (int64_t)(be_get32(hash) % 3650), &y, &m, &d);
    (void)snprintf(text, sizeof(text), "%04u%02u%02u", (unsigned)y % 10000, (unsigned)m % 100,
                   (unsigned)d % 100);
    memcpy(p, text, 8);
    *ret_ok = true;
    return RC_OK;
}

static enum rc write_shifted(struct dicom_run *c, const struct dcm_elem *e, const char *vr,
                             struct err *reterr)
{
    bool ok = false;
    enum rc rc = RC_OK;

    /* one whole date; lists and parts of a date are emptied */
    if (c->v.n >= 8 && memchr(c->v.p, '\\', c->v.n) == NULL)
        rc = shift_date(c, c->v.p, &ok, reterr);
    if (rc != RC_OK) return rc;
    return dicom_write_elem(c, e->tag, vr, c->v.p, ok ? c->v.n : 0, reterr);
}

/* ---- replaced elements ---- */

static const char *dummy_of(const char *vr)
{
    if (strcmp(vr, "DA") == 0) return "19000101";
    if (strcmp(vr, "TM") == 0) return "000000";
    if (strcmp(vr, "DT") == 0) return "19000101000000";
    if (strcmp(vr, "DS") == 0 || strcmp(vr, "IS") == 0) return "0";
    switch (vr_class_of(vr)) {
    case VC_TEXT:
    case VC_NAME:
    case VC_CODE:
        return "REMOVED";
    default:
        return "";
    }
}

enum rc dicom_write_replaced(struct dicom_run *c, const struct dcm_elem *e, enum how how,
                             struct err *reterr)
{
    const struct tag_row *row = tag_row_find(e->tag);
    const char *vr = e->vr[0] != '\0' && strcmp(e->vr, "UN") != 0 ? e->vr
                     : row != NULL                                ? row->vr
                                                                  : "UN";
    char text[DEID_PSEUDONYM_CHARS + 1] = "";
    const char *key = patient_key(c);
    enum rc rc = RC_OK;

    if (c->r->out == NULL) return RC_OK;
    switch (how) {
    case HOW_EMPTY:
        return dicom_write_elem(c, e->tag, vr, "", 0, reterr);
    case HOW_DUMMY:
        return dicom_write_elem(c, e->tag, vr, dummy_of(vr), strlen(dummy_of(vr)), reterr);
    case HOW_PATIENT:
        rc = run_pseudonym(c->r, DEID_PS_PATIENT, key, strlen(key), text, reterr);
        break;
    case HOW_ID:
        rc = run_pseudonym(c->r, DEID_PS_ID, c->v.p, c->v.n, text, reterr);
        break;
    case HOW_AGE:
        (void)snprintf(text, sizeof(text), "090Y");
        break;
    case HOW_UID:
        return write_uids(c, e, reterr);
    case HOW_SHIFT:
        return write_shifted(c, e, vr, reterr);
    case HOW_KEEP:
    case HOW_DROP:
    case HOW_REMOVE:
    case HOW_NOTHING:
        return RC_OK;
    }
    return rc != RC_OK ? rc : dicom_write_elem(c, e->tag, vr, text, strlen(text), reterr);
}

/* ---- our own elements ---- */

static const uint32_t INSERTS[] = {DCM_TAG(0x0012, 0x0062), DCM_TAG(0x0012, 0x0063),
                                   DCM_TAG(0x0012, 0x0064), DCM_TAG(0x0028, 0x0303)};

bool dicom_is_inserted(uint32_t tag)
{
    for (size_t i = 0; i < ARRAY_N(INSERTS); i++) {
        if (INSERTS[i] == tag) return true;
    }
    return false;
}

static enum rc write_code(struct dicom_run *c, const char *code, const char *meaning,
                          struct err *reterr)
{
    enum rc rc = dicom_write_mark(c, 0xe000, reterr);

    if (rc == RC_OK)
        rc = dicom_write_elem(c, DCM_TAG(0x0008, 0x0100), "SH", code, strlen(code), reterr);
    if (rc == RC_OK) rc = dicom_write_elem(c, DCM_TAG(0x0008, 0x0102), "SH", "DCM", 3, reterr);
    if (rc == RC_OK)
        rc = dicom_write_elem(c, DCM_TAG(0x0008, 0x0104), "LO", meaning, strlen(meaning), reterr);
    return rc == RC_OK ? dicom_write_mark(c, 0xe00d, reterr) : rc;
}

/* The profile and its options (PS3.16 CID 7050). */
static enum rc write_methods(struct dicom_run *c, struct err *reterr)
{
    const struct deid_profile *p = c->r->p;
    const struct {
        bool on;
        const char *code, *meaning;
    } codes[] = {
        {true, "113100", "Basic Application Confidentiality Profile"},
        {p->structured_keep, "113104", "Clean Structured Content Option"},
        {p->dates == DEID_DATES_KEEP, "113106",
         "Retain Longitudinal Temporal Information Full Dates Option"},
        {p->dates == DEID_DATES_SHIFT, "113107",
         "Retain Longitudinal Temporal Information Modified Dates Option"},
        {p->patient_keep, "113108", "Retain Patient Characteristics Option"},
        {p->device_keep, "113109", "Retain Device Identity Option"},
        {p->uids_keep, "113110", "Retain UIDs Option"},
        {p->private_n > 0, "113111", "Retain Safe Private Option"},
        {p->institution_keep, "113112", "Retain Institution Identity Option"},
    };
    struct dcm_elem e = {.tag = DCM_TAG(0x0012, 0x0064)};
    enum rc rc;

    if (c->d.explicit_vr) memcpy(e.vr, "SQ", 3);
    rc = dicom_write_seq(c, &e, false, reterr);
    for (size_t i = 0; rc == RC_OK && i < ARRAY_N(codes); i++) {
        if (codes[i].on) rc = write_code(c, codes[i].code, codes[i].meaning, reterr);
    }
    return rc == RC_OK ? dicom_write_mark(c, 0xe0dd, reterr) : rc;
}

enum rc dicom_write_inserts(struct dicom_run *c, uint32_t before, struct err *reterr)
{
    static const char *const DATES[] = {"REMOVED", "MODIFIED", "UNMODIFIED"};
    const char *dates = DATES[c->r->p->dates];
    bool explicit_vr = c->w.explicit_vr;
    char method[128];
    enum rc rc = RC_OK;

    if (c->r->out == NULL) return RC_OK;
    c->w.explicit_vr = c->d.explicit_vr; /* ours lie at the top, whatever comes next */
    (void)snprintf(method, sizeof(method), "mikura %s/%u", c->r->p->name, c->r->p->version);
    while (rc == RC_OK && c->insert_n < ARRAY_N(INSERTS) && INSERTS[c->insert_n] < before) {
        uint32_t tag = INSERTS[c->insert_n];

        if (c->insert_n == 0) rc = dicom_write_elem(c, tag, "CS", "YES", 3, reterr);
        if (c->insert_n == 1)
            rc = dicom_write_elem(c, tag, "LO", method, MIN(strlen(method), (size_t)64), reterr);
        if (c->insert_n == 2) rc = write_methods(c, reterr);
        if (c->insert_n == 3) rc = dicom_write_elem(c, tag, "CS", dates, strlen(dates), reterr);
        c->insert_n++;
    }
    c->w.explicit_vr = explicit_vr;
    return rc;
}

/* ---- the meta header ---- */

static size_t put_meta_ui(uint8_t *p, uint32_t tag, const char *uid)
{
    size_t n = strlen(uid), pad = n % 2;
    size_t head = put_header(p, tag, "UI", (uint32_t)(n + pad), false);

    memcpy(p + head, uid, n + 1); /* its zero is the padding */
    return head + n + pad;
}

enum rc dicom_write_meta(struct dicom_run *c, struct err *reterr)
{
    uint8_t m[600] = {0};
    char sop[65] = "";
    const char *syntax = c->d.inflated_p != NULL ? "1.2.840.10008.1.2.1" : c->d.syntax;
    size_t n = 12, version;
    enum rc rc = RC_OK;

    if (c->r->out == NULL) return RC_OK;
    rc = map_uid(c, c->f.sop, strlen(c->f.sop), sop, reterr);
    if (rc != RC_OK) return rc;
    version = put_header(m + n, DCM_TAG(0x0002, 0x0001), "OB", 2, false);
    m[n + version + 1] = 1;
    n += version + 2;
    n += put_meta_ui(m + n, DCM_TAG(0x0002, 0x0002), c->f.sop_class);
    n += put_meta_ui(m + n, DCM_TAG(0x0002, 0x0003), sop);
    n += put_meta_ui(m + n, DCM_TAG(0x0002, 0x0010), syntax);
    n += put_meta_ui(m + n, DCM_TAG(0x0002, 0x0012), IMPLEMENTATION_UID);
    CHECK(n <= sizeof(m));
    le_put32(m + put_header(m, DCM_TAG(0x0002, 0x0000), "UL", 4, false), (uint32_t)(n - 12));
    rc = run_zeros(c->r, 128, reterr);
    if (rc == RC_OK) rc = run_data(c->r, "DICM", 4, reterr);
    return rc == RC_OK ? run_data(c->r, m, n, reterr) : rc;
}
