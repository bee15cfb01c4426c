/* common/image/deid/dicom_judge.c - one attribute, one object: what the rules say.
 *
 * Default deny. An attribute passes only as a code, number, standard UID or sequence of a known
 * attribute, as a technical text of the list in dicom_rules.txt that is short plain ASCII, or
 * empty. Non-ASCII text (any of the Japanese character sets: ISO 2022 escapes, Shift_JIS, UTF-8)
 * never passes, so nothing has to be decoded to be found. */
#include "common/image/deid/dicom_deid.h"
#include <strings.h>

#define FINE ((struct verdict){DEID_RULE_N, HOW_KEEP})

static enum deid_rule rule_of_kind(enum tag_kind k)
{
    switch (k) {
    case KIND_INSTITUTION:
        return DEID_INSTITUTION;
    case KIND_DEVICE:
        return DEID_DEVICE;
    case KIND_PATIENT:
        return DEID_PATIENT;
    case KIND_DESCRIPTION:
        return DEID_DESCRIPTION;
    case KIND_STRUCTURED:
        return DEID_STRUCTURED;
    case KIND_GRAPHICS:
        return DEID_GRAPHICS;
    case KIND_ICON:
        return DEID_ICON;
    case KIND_TEXT:
        return DEID_TEXT;
    case KIND_BINARY:
        return DEID_BINARY;
    case KIND_DATE:
        return DEID_DATE;
    case KIND_UID:
        return DEID_UID;
    case KIND_IDENTITY:
    case KIND_NONE:
        break;
    }
    return DEID_IDENTITY;
}

static bool kept_by_option(const struct deid_profile *p, enum tag_kind k)
{
    return (k == KIND_INSTITUTION && p->institution_keep) || (k == KIND_DEVICE && p->device_keep) ||
           (k == KIND_PATIENT && p->patient_keep) ||
           (k == KIND_DESCRIPTION && p->descriptions_keep) ||
           (k == KIND_DATE && p->dates == DEID_DATES_KEEP);
}

static enum how how_of(enum tag_action a, uint32_t tag)
{
    if (a == ACT_EMPTY) return HOW_EMPTY;
    if (a == ACT_DUMMY) return HOW_DUMMY;
    if (a != ACT_PSEUDONYM) return HOW_REMOVE;
    return tag >> 16 == 0x0010 ? HOW_PATIENT : HOW_ID;
}

/* Does the text hold a part of the patient's name or number? */
static bool leaks(const struct dicom_run *c, const uint8_t *p, size_t n)
{
    for (uint32_t i = 0; i < c->word_n; i++) {
        size_t w = strlen(c->word[i]);

        for (size_t at = 0; at + w <= n; at++) {
            if (strncasecmp((const char *)p + at, c->word[i], w) == 0) return true;
        }
    }
    return false;
}

static bool chars_in(const struct value *v, const char *set)
{
    for (size_t i = 0; i < v->n; i++) {
        if (v->p[i] == 0 || strchr(set, v->p[i]) == NULL) return false;
    }
    return v->len <= DICOM_VALUE_MAX;
}

static bool code_fits(const struct value *v)
{
    size_t run = 0;

    if (!chars_in(v, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _\\")) return false;
    for (size_t i = 0; i < v->n; i++) {
        run = v->p[i] == '\\' ? 0 : run + 1;
        if (run > 16) return false;
    }
    return true;
}

static bool text_fits(const struct dicom_run *c, const struct value *v)
{
    for (size_t i = 0; i < v->n; i++) {
        if (v->p[i] < 0x20 || v->p[i] > 0x7e || v->p[i] == '^') return false;
    }
    return v->len <= DICOM_VALUE_MAX && !leaks(c, v->p, v->n);
}

/* Words of PositionReferenceIndicator that are landmarks: consoles write the study's description or
 * an operator's words there, too. Letters that stand for one (SN: sternal notch), parts of the
 * body, sides, vertebrae. */
static bool is_landmark(const uint8_t *p, size_t n)
{
    static const char WORDS[] =
        " SN XY IC OM EM NA VP GT KN SP CP PB BM MP LM AX"
        " ABDOMEN ABDOMINAL ACROMION ANKLE AORTA ARM AXILLA BODY BONE BRAIN BREAST CALF CANTHUS"
        " CAROTID CAROTIDS CENTER CENTRE CHEST CHIN CLAVICLE CORNER CREST DISC EAR ELBOW EXTERNAL"
        " EXTREMITY EYE EYES FEMUR FINGER FOOT FOREARM GREATER HAND HEAD HEART HIP HUMERUS IAM"
        " ILIAC INFERIOR JAW JOINT JUGULAR KIDNEY KNEE LEFT LEG LINE LIVER LOWER LUMBAR MALLEOLUS"
        " MANDIBLE MEATAL MEATUS MEDIAL LATERAL MIDLINE NASION NECK NIPPLE NONE NOSE NOTCH OF ORBIT"
        " ORBITAL ORBITOMEATAL PATELLA PELVIC PELVIS PITUITARY PROMINENS PROSTATE PUBIC PUBIS RIB"
        " RIGHT SACRAL SACRUM SCAPULA SELLA SHOULDER SKULL SLIDE SPINE STERNAL STERNUM"
        " SUPERIOR SUPRASTERNAL SYMPHYSIS TEMPORAL THIGH THORACIC THORAX THUMB TIBIA TMJ TO TOE"
        " TROCHANTER UPPER UTERUS VERTEBRA VERTEX WRIST XIPHOID PROCESS AUDITORY THE AND CERVICAL ";
    char word[20];

    if (n >= 2 && n <= 3 && memchr("CTLS", p[0], 4) != NULL) { /* C7, T12 */
        size_t digits = 1;

        while (digits < n && p[digits] >= '0' && p[digits] <= '9')
            digits++;
        if (digits == n) return true;
    }
    if (n + 3 > sizeof(word)) return false;
    word[0] = ' ';
    for (size_t i = 0; i < n; i++)
        word[1 + i] = (char)(p[i] >= 'a' && p[i] <= 'z' ? p[i] - 'a' + 'A' : p[i]);
    word[1 + n] = ' ';
    word[2 + n] = '\0';
    return strstr(WORDS, word) != NULL;
}

static bool is_landmarks(const struct value *v)
{
    size_t n;

    for (size_t at = 0; at < v->n; at += n + 1) {
        n = 0;
        while (at + n < v->n && memchr(" ,-_/\\", v->p[at + n], 6) == NULL)
            n++;
        if (n > 0 && !is_landmark(v->p + at, n)) return false;
    }
    return v->len <= DICOM_VALUE_MAX;
}

static struct verdict judge_date(const struct dicom_run *c, const struct value *v, const char *vr)
{
    static const char *const DUMMIES[] = {"19000101", "000000", "19000101000000"};
    enum deid_dates dates = c->r->p->dates;

    for (size_t i = 0; i < ARRAY_N(DUMMIES); i++) {
        if (v->n == strlen(DUMMIES[i]) && memcmp(v->p, DUMMIES[i], v->n) == 0) return FINE;
    }
    if (!chars_in(v, "0123456789.:+-\\ ")) return (struct verdict){DEID_VALUE, HOW_REMOVE};
    if (dates == DEID_DATES_KEEP) return FINE;
    if (dates == DEID_DATES_REMOVE) return (struct verdict){DEID_DATE, HOW_EMPTY};
    /* a date that was shifted looks like any other: the file must say so */
    if (strcmp(c->f.longitudinal, "MODIFIED") == 0 && strcmp(c->f.removed, "YES") == 0) return FINE;
    if (strcmp(vr, "TM") == 0) return FINE; /* shifting is by days */
    return (struct verdict){DEID_DATE, HOW_SHIFT};
}

static struct verdict judge_uid(const struct dicom_run *c, const struct value *v)
{
    const char *at = (const char *)v->p, *end = at + v->n;

    if (!chars_in(v, "0123456789.\\")) return (struct verdict){DEID_VALUE, HOW_REMOVE};
    if (c->r->p->uids_keep) return FINE;
    while (at < end) {
        const char *next = memchr(at, '\\', (size_t)(end - at));

        /* the standard's own, or made from a random number: names no organisation */
        if (strncmp(at, "1.2.840.10008.", 14) != 0 && strncmp(at, "2.25.", 5) != 0)
            return (struct verdict){DEID_UID, HOW_UID};
        at = next == NULL ? end : next + 1;
    }
    return FINE;
}

static struct verdict judge_age(const struct value *v)
{
    if (v->n == 4 && v->p[3] == 'Y' && v->p[0] <= '9') {
        int years = (v->p[0] - '0') * 100 + (v->p[1] - '0') * 10 + (v->p[2] - '0');

        if (years > 90 || (years == 90 && memcmp(v->p, "090Y", 4) != 0))
            return (struct verdict){DEID_AGE, HOW_AGE};
    }
    if (!chars_in(v, "0123456789DWMY")) return (struct verdict){DEID_VALUE, HOW_REMOVE};
    return FINE;
}

/* An attribute that may stay, when its value is what it should be. */
static struct verdict judge_kept(const struct dicom_run *c, const struct tag_row *row,
                                 const struct value *v, enum vr_class k)
{
    struct verdict bad = {DEID_VALUE, HOW_REMOVE};

    if (row->tag == DCM_TAG(0x0010, 0x1010)) return judge_age(v);
    if (row->tag == DCM_TAG(0x0020, 0x1040) && !is_landmarks(v))
        return (struct verdict){DEID_TEXT, HOW_EMPTY};
    switch (k) {
    case VC_CODE:
        return code_fits(v) ? FINE : bad;
    case VC_DECIMAL:
        return chars_in(v, "0123456789+-.eE\\ ") ? FINE : bad;
    case VC_UID:
        return chars_in(v, "0123456789.\\") ? FINE : bad;
    case VC_DATE:
        return chars_in(v, "0123456789.:+-\\ ") ? FINE : bad;
    case VC_TEXT:
    case VC_NAME:
        if (kept_by_option(c->r->p, row->kind)) break;
        bad.rule = DEID_TEXT;
        /* the meaning of a code must be there, and the code says the same */
        if (row->tag == DCM_TAG(0x0008, 0x0104)) bad.how = HOW_DUMMY;
        return text_fits(c, v) ? FINE : bad;
    case VC_NUMBER:
    case VC_BYTES:
    case VC_SEQ:
        break;
    }
    return leaks(c, v->p, v->n) ? (struct verdict){DEID_IDENTITY, HOW_REMOVE} : FINE;
}

static struct verdict judge_default(const struct dicom_run *c, const struct tag_row *row,
                                    const struct value *v, const char *vr, enum vr_class k)
{
    switch (k) {
    case VC_TEXT:
        return (struct verdict){DEID_TEXT, HOW_REMOVE};
    case VC_NAME:
        return (struct verdict){vr[0] == 'A' ? DEID_DEVICE : DEID_IDENTITY,
                                vr[0] == 'A' ? HOW_REMOVE : HOW_EMPTY};
    case VC_DATE:
        return judge_date(c, v, vr);
    case VC_UID:
        return judge_uid(c, v);
    case VC_BYTES:
        return (struct verdict){DEID_BINARY, HOW_REMOVE};
    case VC_CODE:
    case VC_DECIMAL:
    case VC_NUMBER:
    case VC_SEQ:
        break;
    }
    return judge_kept(c, row, v, k);
}

/* Curves go, overlays too: they are drawn over the image. What else is in their groups (rows,
 * positions) tells nothing, but is of no use without them. */
static struct verdict judge_repeating(const struct dcm_elem *e)
{
    uint32_t group = e->tag >> 16, elem = e->tag & 0xffff;

    if ((group & 0xff00) == 0x5000 || elem == 0x3000 || elem == 0x4000 || elem == 0x0022 ||
        elem == 0x1500)
        return (struct verdict){DEID_GRAPHICS, HOW_REMOVE};
    return (struct verdict){DEID_RULE_N, HOW_DROP};
}

static const struct deid_private *private_kept(const struct deid_profile *p, uint16_t group,
                                               const char *creator, int elem)
{
    for (uint32_t i = 0; i < p->private_n; i++) {
        const struct deid_private *k = &p->private_keep[i];

        if (k->group == group && strcmp(k->creator, creator) == 0 &&
            (elem < 0 || k->elem == (uint8_t)elem))
            return k;
    }
    return NULL;
}

static struct verdict judge_private(struct dicom_run *c, const struct dcm_elem *e, uint32_t depth,
                                    const struct value *v)
{
    const struct verdict bad = {DEID_PRIVATE, HOW_REMOVE};
    uint16_t group = (uint16_t)(e->tag >> 16);
    uint32_t elem = e->tag & 0xffff;
    enum vr_class k = vr_class_of(e->vr);

    if (depth > 0 || elem < 0x10) return bad;
    if (elem <= 0xff) { /* "I own block elem" */
        if (v->n > 64 || c->block_n == DICOM_BLOCKS_MAX ||
            private_kept(c->r->p, group, (const char *)v->p, -1) == NULL)
            return bad;
        c->block[c->block_n].group = group;
        c->block[c->block_n].block = (uint8_t)elem;
        memcpy(c->block[c->block_n].creator, v->p, v->n + 1);
        c->block_n++;
        return FINE;
    }
    for (uint32_t i = 0; i < c->block_n; i++) {
        if (c->block[i].group == group && c->block[i].block == elem >> 8 &&
            private_kept(c->r->p, group, c->block[i].creator, (int)(elem & 0xff)) != NULL &&
            (k == VC_NUMBER || (k == VC_DECIMAL && chars_in(v, "0123456789+-.eE\\ ")) ||
             (k == VC_CODE && code_fits(v))))
            return FINE;
    }
    return bad;
}

static bool value_empty(const struct value *v)
{
    for (size_t i = 0; i < v->n; i++) {
        if (v->p[i] != 0 && strchr(" \\^=", v->p[i]) == NULL) return false;
    }
    return v->len <= DICOM_VALUE_MAX;
}

struct verdict dicom_judge(struct dicom_run *c, const struct dcm_elem *e, uint32_t depth)
{
    const struct tag_row *row = tag_row_find(e->tag);
    uint32_t group = e->tag >> 16;
    const struct value *v = &c->v;
    enum vr_class k, said;
    const char *vr;

    if (group % 2 != 0) return judge_private(c, e, depth, v);
    if ((e->tag & 0xffff) == 0) return (struct verdict){DEID_RULE_N, HOW_DROP}; /* group length */
    if ((group & 0xff00) == 0x5000 || (group & 0xff00) == 0x6000) return judge_repeating(e);
    if (row == NULL) return (struct verdict){DEID_UNKNOWN, HOW_REMOVE};
    if (depth > 0 && group == 0x7fe0) return (struct verdict){DEID_ICON, HOW_REMOVE};
    if (v->len == 0) return FINE;
    vr = row->vr;
    k = vr_class_of(vr);
    /* the file says another representation: bytes that are a text would hide behind a number */
    said = e->vr[0] == '\0' || strcmp(e->vr, "UN") == 0 ? k : vr_class_of(e->vr);
    if (group == 0x7fe0) return FINE; /* pixels: their rules are the object's */
    if (value_empty(v) && k != VC_BYTES && k != VC_NUMBER) return FINE;
    if (row->action == ACT_KEEP || row->action == ACT_DEFAULT ||
        kept_by_option(c->r->p, row->kind)) {
        if (said != k &&
            !((said == VC_BYTES || said == VC_NUMBER) && (k == VC_BYTES || k == VC_NUMBER)))
            return (struct verdict){DEID_VALUE, HOW_REMOVE};
        if (row->action == ACT_DEFAULT) return judge_default(c, row, v, vr, k);
        return judge_kept(c, row, v, k);
    }
    if (v->len <= DICOM_VALUE_MAX &&
        deid_is_pseudonym(row->action == ACT_PSEUDONYM ? c->r->p : NULL, (const char *)v->p, v->n))
        return FINE;
    return (struct verdict){rule_of_kind(row->kind), how_of(row->action, e->tag)};
}

struct verdict dicom_judge_seq(struct dicom_run *c, const struct dcm_elem *e)
{
    const struct tag_row *row = tag_row_find(e->tag);
    struct err ignored;

    if ((e->tag >> 16) % 2 != 0) return (struct verdict){DEID_PRIVATE, HOW_REMOVE};
    if (row == NULL || strcmp(row->vr, "SQ") != 0)
        return (struct verdict){DEID_UNKNOWN, HOW_REMOVE};
    if (row->action == ACT_KEEP || row->action == ACT_DEFAULT ||
        kept_by_option(c->r->p, row->kind) ||
        (row->kind == KIND_STRUCTURED && c->r->p->structured_keep))
        return FINE;
    if (e->len == 0) return FINE;
    if (e->len == DCM_LEN_UNDEFINED) {
        struct dcm_elem next;
        uint64_t at = e->off;

        if (dcm_header(&c->d, &at, false, &next, &ignored) == RC_OK &&
            next.tag == DCM_TAG(0xfffe, 0xe0dd))
            return FINE;
    }
    return (struct verdict){rule_of_kind(row->kind),
                            row->action == ACT_REMOVE ? HOW_REMOVE : HOW_EMPTY};
}

/* ---- the object as a whole ---- */

/* One of the classes, or of those below it ("....7" has "....7.1" below). */
static bool in_classes(const char *uid, const char *const *list, size_t n)
{
    static const char STORAGE[] = "1.2.840.10008.5.1.4.1.1.";

    if (strncmp(uid, STORAGE, sizeof(STORAGE) - 1) != 0) return false;
    uid += sizeof(STORAGE) - 1;
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(list[i]);

        if (strncmp(uid, list[i], len) == 0 && (uid[len] == '\0' || uid[len] == '.')) return true;
    }
    return false;
}

/* Secondary capture, ultrasound, endoscopes' and cameras' pictures: text in the pixels is usual. */
static const char *const SHOWS_TEXT[] = {"7", "6", "3", "77.1.1", "77.1.4", "77.1.2", "77.1.3"};
/* Computed from other images: no camera, no screen. */
static const char *const COMPUTED[] = {"66", "481", "30", "11", "88", "91", "9"};
/* Scanners; they never write into an original slice. */
static const char *const SCANNERS[] = {"2", "4", "128", "130"};
static const char *const DOCUMENTS[] = {"104"};

bool dicom_is_computed(const char *sop_class)
{
    return in_classes(sop_class, COMPUTED, ARRAY_N(COMPUTED));
}

bool dicom_is_original(const char *sop_class, const char *image_type)
{
    static const char *const TILES[] = {"77.1.6"};

    if (in_classes(sop_class, TILES, ARRAY_N(TILES))) return true;
    return in_classes(sop_class, SCANNERS, ARRAY_N(SCANNERS)) &&
           strncmp(image_type, "ORIGINAL\\PRIMARY", 16) == 0;
}

static void tell(struct dicom_run *c, enum deid_rule rule, uint32_t tag)
{
    run_find(c->r, rule, DEID_KEPT, DEID_AT_DICOM, &tag, 1);
}

static bool has_value(const char *multi, const char *word)
{
    return strstr(multi, word) != NULL;
}

static void judge_slide(struct dicom_run *c)
{
    const uint32_t type = DCM_TAG(0x0008, 0x0008);

    if (has_value(c->f.image_type, "LABEL")) {
        tell(c, DEID_LABEL, type);
    } else if (has_value(c->f.image_type, "OVERVIEW") || has_value(c->f.image_type, "LOCALIZER")) {
        tell(c, DEID_MACRO, type);
    } else if (has_value(c->f.image_type, "THUMBNAIL")) {
        tell(c, DEID_THUMBNAIL, type);
    }
    if (strcmp(c->f.label_in_image, "YES") == 0) tell(c, DEID_LABEL, DCM_TAG(0x0048, 0x0010));
}

static void judge_pixels(struct dicom_run *c)
{
    const struct dicom_facts *f = &c->f;
    bool scanner = in_classes(f->sop_class, SCANNERS, ARRAY_N(SCANNERS));
    bool grey = strncmp(f->photometric, "MONOCHROME", 10) == 0;
    const uint32_t burned = DCM_TAG(0x0028, 0x0301);

    if (strcmp(f->burned_in, "YES") == 0) tell(c, DEID_BURNED_IN, burned);
    if (dicom_is_computed(f->sop_class)) return;
    if (in_classes(f->sop_class, SHOWS_TEXT, ARRAY_N(SHOWS_TEXT))) {
        tell(c, DEID_PIXELS, DCM_TAG(0x0008, 0x0016));
    } else if (f->conversion[0] != '\0') {
        tell(c, DEID_PIXELS, DCM_TAG(0x0008, 0x0064));
    } else if (has_value(f->image_type, "SCREEN")) {
        tell(c, DEID_PIXELS, DCM_TAG(0x0008, 0x0008));
    } else if (scanner && !grey) { /* a fusion or a report page: rendered */
        tell(c, DEID_PIXELS, DCM_TAG(0x0028, 0x0004));
    } else if (strcmp(f->recognizable, "YES") == 0) {
        tell(c, DEID_PIXELS, DCM_TAG(0x0028, 0x0302));
    } else if (strcmp(f->burned_in, "NO") != 0 && f->burned_in[0] != 'Y') {
        if (!(f->burned_in[0] == '\0' && scanner && c->r->p->missing == DEID_PIXELS_ACCEPT &&
              strncmp(f->image_type, "ORIGINAL\\PRIMARY", 16) == 0))
            tell(c, DEID_PIXELS, burned);
    }
}

void dicom_judge_object(struct dicom_run *c)
{
    const uint32_t sop_class = DCM_TAG(0x0008, 0x0016);

    if (strncmp(c->f.sop_class, "1.2.840.10008.5.1.4.", 20) != 0 ||
        strspn(c->f.sop_class, "0123456789.") != strlen(c->f.sop_class) ||
        in_classes(c->f.sop_class, DOCUMENTS, ARRAY_N(DOCUMENTS))) {
        tell(c, DEID_CLASS, sop_class); /* none, private, a DICOMDIR; a document */
    }
    if (strcmp(c->f.sop_class, "1.2.840.10008.5.1.4.1.1.77.1.6") == 0) judge_slide(c);
    if (c->f.pixels) judge_pixels(c);
}
