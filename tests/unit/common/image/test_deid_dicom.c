/* tests/unit/common/image/test_deid_dicom.c - DICOM under the rules: every action, both modes,
 * every transfer syntax, nesting, broken structure. */
#include "deid_help.h"
#include "common/base/macros.h"

#define T(group, elem) ((uint32_t)(group) << 16 | (elem))
#define CT             "1.2.840.10008.5.1.4.1.1.2"
#define EXPLICIT       "1.2.840.10008.1.2.1"
#define IMPLICIT       "1.2.840.10008.1.2"
#define BIG            "1.2.840.10008.1.2.2"
#define UNDEFINED      0xffffffffu

/* ---- a small writer ---- */
struct writer {
    struct buf b;
    bool implicit, big;
};

static void put_n(struct writer *w, uint64_t v, unsigned n)
{
    uint8_t p[8];

    if (w->big) {
        be_put(p, n, v);
    } else {
        le_put(p, n, v);
    }
    buf_put(&w->b, p, n);
}

static void head(struct writer *w, uint32_t tag, const char *vr, uint32_t len)
{
    put_n(w, tag >> 16, 2);
    put_n(w, tag & 0xffff, 2);
    if (tag >> 16 == 0xfffe || w->implicit) {
        put_n(w, len, 4);
        return;
    }
    buf_put(&w->b, vr, 2);
    if (strstr("OB OW SQ UN UT ", vr) != NULL) {
        put_n(w, 0, 2);
        put_n(w, len, 4);
    } else {
        put_n(w, len, 2);
    }
}

static void elem_n(struct writer *w, uint32_t tag, const char *vr, const void *p, size_t n)
{
    head(w, tag, vr, (uint32_t)(n + n % 2));
    buf_put(&w->b, p, n);
    if (n % 2 != 0) buf_put_u8(&w->b, strcmp(vr, "UI") == 0 ? 0 : ' ');
}

static void elem(struct writer *w, uint32_t tag, const char *vr, const char *text)
{
    elem_n(w, tag, vr, text, strlen(text));
}

static void begin(struct writer *w, const char *syntax)
{
    static const uint8_t ZEROS[128];

    *w = (struct writer){0};
    buf_init(&w->b, 16 << 20);
    buf_put(&w->b, ZEROS, sizeof(ZEROS));
    buf_put_str(&w->b, "DICM");
    elem(w, T(2, 2), "UI", CT);
    elem(w, T(2, 0x10), "UI", syntax);
    w->implicit = strcmp(syntax, IMPLICIT) == 0;
    w->big = strcmp(syntax, BIG) == 0;
}

/* An original CT slice that says nothing of anybody, up to (0008,0060). */
static void harmless_to_8(struct writer *w, const char *sop_class)
{
    elem(w, T(8, 8), "CS", "ORIGINAL\\PRIMARY\\AXIAL");
    elem(w, T(8, 0x16), "UI", sop_class);
    elem(w, T(8, 0x18), "UI", "2.25.1");
}

static void pixels(struct writer *w)
{
    elem(w, T(0x28, 4), "CS", "MONOCHROME2");
    elem_n(w, T(0x7fe0, 0x10), "OW", "\1\2\3\4", 4);
}

static struct deid_profile profile;

static int setup(void **state)
{
    (void)state;
    help_profile("name = test\nversion = 7\nformats = dicom\npatient = keep\n"
                 "structured-content = clean\npixels.no-statement = accept\npseudonym = JED-9999\n",
                 &profile);
    return 0;
}

/* ---- one attribute at a time ---- */

struct one {
    uint32_t tag;
    const char *vr, *value;
    int rule; /* DEID_RULE_N: harmless */
    int change;
    const char *after; /* text that stands in the cleaned file; NULL: not looked at */
};
static const struct one ONES[] = {
    {T(0x10, 0x10), "PN", "YAMADA^TARO", DEID_IDENTITY, DEID_REPLACED, "mk-"},
    {T(0x10, 0x10), "PN", "JED-0042", DEID_RULE_N, 0, "JED-0042"},
    {T(0x10, 0x10), "PN", "Anonymous", DEID_RULE_N, 0, NULL},
    /* Yamada Tarou in ISO 2022 IR 87, in IR 13 with IR 87, in Shift_JIS, in UTF-8 */
    {T(0x10, 0x10), "PN", "\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", DEID_IDENTITY, DEID_REPLACED, "mk-"},
    {T(0x10, 0x10), "PN", "\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J", DEID_IDENTITY,
     DEID_REPLACED, "mk-"},
    {T(8, 0x70), "LO", "\x8e\x52\x93\x63", DEID_TEXT, DEID_REMOVED, NULL},
    {T(8, 0x70), "LO", "\xe5\xb1\xb1\xe7\x94\xb0", DEID_TEXT, DEID_REMOVED, NULL},
    {T(8, 0x70), "LO", "\x1b$(D0\x21\x1b(B", DEID_TEXT, DEID_REMOVED, NULL}, /* IR 159 */
    {T(8, 0x70), "LO", "ACME MEDICAL", DEID_RULE_N, 0, "ACME MEDICAL"},
    {T(8, 0x70), "LO", "SUZUKI^ICHIRO", DEID_TEXT, DEID_REMOVED, NULL},
    {T(0x10, 0x30), "DA", "19610203", DEID_IDENTITY, DEID_EMPTIED, NULL},
    {T(0x10, 0x30), "DA", "", DEID_RULE_N, 0, NULL},
    {T(0x10, 0x40), "CS", "F", DEID_RULE_N, 0, NULL},
    {T(0x10, 0x1010), "AS", "089Y", DEID_RULE_N, 0, "089Y"},
    {T(0x10, 0x1010), "AS", "097Y", DEID_AGE, DEID_REPLACED, "090Y"},
    {T(0x10, 0x1040), "LO", "1-2-3 Ginza", DEID_IDENTITY, DEID_REMOVED, NULL},
    {T(0x10, 0x4000), "LT", "wife of the mayor", DEID_DESCRIPTION, DEID_REMOVED, NULL},
    {T(0x12, 0x40), "LO", "17", DEID_IDENTITY, DEID_REPLACED, "REMOVED"},
    {T(8, 0x20), "DA", "20260101", DEID_DATE, DEID_EMPTIED, NULL},
    {T(8, 0x20), "DA", "19000101", DEID_RULE_N, 0, NULL},
    {T(8, 0x30), "TM", "101500", DEID_DATE, DEID_EMPTIED, NULL},
    {T(8, 0x2a), "DT", "20260101101500.000000+0900", DEID_DATE, DEID_EMPTIED, NULL},
    {T(8, 0x20), "DA", "MR YAMADA", DEID_VALUE, DEID_REMOVED, NULL},
    {T(8, 0x201), "SH", "+0900", DEID_DATE, DEID_REMOVED, NULL},
    {T(0x20, 0xd), "UI", "1.2.392.200036.9116.1", DEID_UID, DEID_REPLACED, "2.25."},
    {T(0x20, 0xd), "UI", "2.25.99", DEID_RULE_N, 0, "2.25.99"},
    {T(0x20, 0xd), "UI", "YAMADA", DEID_VALUE, DEID_REMOVED, NULL},
    {T(8, 0x60), "CS", "CT", DEID_RULE_N, 0, NULL},
    {T(8, 0x60), "CS", "Yamada Taro", DEID_VALUE, DEID_REMOVED, NULL},
    {T(8, 0x80), "LO", "Tokyo Clinic", DEID_INSTITUTION, DEID_EMPTIED, NULL},
    {T(8, 0x81), "ST", "Chiyoda", DEID_INSTITUTION, DEID_REMOVED, NULL},
    {T(8, 0x50), "SH", "A123", DEID_IDENTITY, DEID_REPLACED, "mk-"},
    {T(8, 0x90), "PN", "KUROSAWA^A", DEID_IDENTITY, DEID_EMPTIED, NULL},
    {T(8, 0x1010), "SH", "CT-ROOM-3", DEID_DEVICE, DEID_EMPTIED, NULL},
    {T(0x18, 0x1000), "LO", "SN77", DEID_DEVICE, DEID_EMPTIED, NULL},
    {T(8, 0x1030), "LO", "CHEST FOR DR KUROSAWA", DEID_DESCRIPTION, DEID_REMOVED, NULL},
    {T(0x18, 0x1030), "LO", "THORAX", DEID_DESCRIPTION, DEID_REMOVED, NULL},
    {T(0x18, 0x1210), "SH", "B30f", DEID_RULE_N, 0, "B30f"},
    {T(0x18, 0x50), "DS", "1.25", DEID_RULE_N, 0, "1.25"},
    {T(0x18, 0x50), "DS", "Taro", DEID_VALUE, DEID_REMOVED, NULL},
    {T(0x28, 0x10), "US", "\2", DEID_RULE_N, 0, NULL},
    {T(0x28, 0x10), "LT", "a text behind a number's tag", DEID_VALUE, DEID_REMOVED, NULL},
    {T(0x20, 0x1040), "LO", "SN", DEID_RULE_N, 0, "SN"},
    {T(0x20, 0x1040), "LO", "Left knee, L4/T12", DEID_RULE_N, 0, "Left knee, L4/T12"},
    {T(0x20, 0x1040), "LO", "Brain-MRA", DEID_TEXT, DEID_EMPTIED, NULL},
    {T(0x20, 0x1040), "LO", "CHEST TANAKA", DEID_TEXT, DEID_EMPTIED, NULL},
    {T(0x20, 0x1040), "LO", "L1234567", DEID_TEXT, DEID_EMPTIED, NULL},
    {T(0x20, 0x4000), "LT", "seen by Dr. A", DEID_DESCRIPTION, DEID_REMOVED, NULL},
    {T(0x40, 0xa160), "UT", "The patient, Mr. Y,", DEID_TEXT, DEID_REPLACED, "REMOVED"},
    {T(0x40, 0xa123), "PN", "KUROSAWA^A", DEID_IDENTITY, DEID_REPLACED, "REMOVED"},
    {T(0x40, 0x551), "LO", "S26-0017", DEID_IDENTITY, DEID_REPLACED, "mk-"},
    {T(0x2200, 2), "UT", "S26-0017 YAMADA", DEID_DESCRIPTION, DEID_EMPTIED, NULL},
    {T(0x42, 0x11), "OB", "%PDF-1.4", DEID_BINARY, DEID_REMOVED, NULL},
    {T(0x50, 4), "CS", "X", DEID_RULE_N, 0, NULL},
    {T(0x70, 0x81), "LO", "for Dr. A", DEID_TEXT, DEID_REMOVED, NULL},
    {T(0x400, 0x500), "SQ", "", DEID_RULE_N, 0, NULL},
    {T(0x11, 0x10), "LO", "ACME PRIVATE", DEID_PRIVATE, DEID_REMOVED, NULL},
    {T(0x11, 0x1001), "LO", "YAMADA", DEID_PRIVATE, DEID_REMOVED, NULL},
    {T(0x18, 0xfff0), "LO", "in no dictionary", DEID_UNKNOWN, DEID_REMOVED, NULL},
    {T(0x5000, 0x3000), "OW", "\1\2", DEID_GRAPHICS, DEID_REMOVED, NULL},
    {T(0x6000, 0x3000), "OW", "\1\2", DEID_GRAPHICS, DEID_REMOVED, NULL},
    {T(0x6002, 0x4000), "LT", "drawn by A", DEID_GRAPHICS, DEID_REMOVED, NULL},
};

static void write_one(struct writer *w, const struct one *o, const char *syntax)
{
    begin(w, syntax);
    if (o->tag < T(8, 0x60)) elem(w, o->tag, o->vr, o->value);
    harmless_to_8(w, CT);
    if (o->tag >= T(8, 0x60)) elem(w, o->tag, o->vr, o->value);
    pixels(w);
    assert_int_equal(buf_rc(&w->b), RC_OK);
}

static void test_ones(void **state)
{
    static const char *const SYNTAXES[] = {EXPLICIT, IMPLICIT, BIG};

    (void)state;
    for (size_t i = 0; i < ARRAY_N(ONES) * ARRAY_N(SYNTAXES); i++) {
        const struct one *o = &ONES[i / ARRAY_N(SYNTAXES)];
        const char *syntax = SYNTAXES[i % ARRAY_N(SYNTAXES)];
        const struct deid_finding *f;
        struct cleaned c;
        struct writer w;
        struct told t;

        /* without value representations a text is what the dictionary says its tag is */
        if (strcmp(syntax, IMPLICIT) == 0 && strstr(o->value, "behind a number") != NULL) continue;
        write_one(&w, o, syntax);
        print_message("(%04x,%04x) %s\n", o->tag >> 16, o->tag & 0xffff, syntax);
        assert_int_equal(help_check(&profile, w.b.p, w.b.n, &t),
                         o->rule == DEID_RULE_N ? DEID_ACCEPTED : DEID_REFUSED);
        if (o->rule != DEID_RULE_N) {
            f = help_find(&t, (enum deid_rule)o->rule);
            assert_non_null(f);
            assert_int_equal(t.n, 1);
            assert_int_equal(f->place, DEID_AT_DICOM);
            assert_int_equal(f->path[f->path_n - 1], o->tag);
            assert_int_equal(f->change, DEID_KEPT);
        }
        assert_int_equal(help_clean(&profile, w.b.p, w.b.n, &t, &c), DEID_ACCEPTED);
        if (o->rule != DEID_RULE_N) {
            assert_int_equal(t.f[0].change, o->change);
            if (strlen(o->value) > 4) assert_false(help_holds(&c.b, o->value));
        }
        if (o->after != NULL) assert_true(help_holds(&c.b, o->after));
        assert_true(help_holds(&c.b, "mikura test/7"));
        assert_memory_equal(c.b.p + c.b.n - 4, "\1\2\3\4", 4); /* pixels as they were */
        buf_deinit(&c.b);
        buf_deinit(&w.b);
    }
}

/* ---- nesting ---- */

static void item(struct writer *w, bool defined, uint32_t len)
{
    head(w, T(0xfffe, 0xe000), "", defined ? len : UNDEFINED);
}

static void test_nested(void **state)
{
    static const char *const SYNTAXES[] = {EXPLICIT, IMPLICIT, BIG};

    (void)state;
    for (unsigned i = 0; i < 6; i++) {
        bool defined = i % 2 == 0;
        struct writer w, in = {0};
        struct cleaned c;
        struct told t;

        begin(&w, SYNTAXES[i / 2]);
        harmless_to_8(&w, CT);
        in = (struct writer){.implicit = w.implicit, .big = w.big};
        buf_init(&in.b, 65536);
        elem(&in, T(8, 0x100), "SH", "T-D4000");
        elem(&in, T(8, 0x104), "LO", "Abdomen");
        elem(&in, T(8, 0x1070), "PN", "KUROSAWA^A");
        head(&w, T(8, 0x2218), "SQ", defined ? (uint32_t)in.b.n + 8 : UNDEFINED);
        item(&w, defined, (uint32_t)in.b.n);
        buf_put(&w.b, in.b.p, in.b.n);
        if (!defined) {
            head(&w, T(0xfffe, 0xe00d), "", 0);
            head(&w, T(0xfffe, 0xe0dd), "", 0);
        }
        pixels(&w);
        assert_int_equal(help_check(&profile, w.b.p, w.b.n, &t), DEID_REFUSED);
        assert_int_equal(t.n, 1);
        assert_int_equal(t.f[0].path_n, 2);
        assert_int_equal(t.f[0].path[0], T(8, 0x2218));
        assert_int_equal(t.f[0].path[1], T(8, 0x1070));
        assert_int_equal(help_clean(&profile, w.b.p, w.b.n, &t, &c), DEID_ACCEPTED);
        assert_true(help_holds(&c.b, "Abdomen"));
        assert_false(help_holds(&c.b, "KUROSAWA"));
        buf_deinit(&c.b);
        buf_deinit(&in.b);
        buf_deinit(&w.b);
    }
}

/* A sequence that goes takes all inside with it: icons, people, signatures. */
static void test_removed_sequences(void **state)
{
    static const struct {
        uint32_t tag;
        enum deid_rule rule;
    } SEQS[] = {{T(0x10, 0x1002), DEID_IDENTITY}, {T(0x40, 0x275), DEID_IDENTITY},
                {T(0x70, 1), DEID_GRAPHICS},      {T(0x88, 0x200), DEID_ICON},
                {T(0x400, 0x561), DEID_IDENTITY}, {T(0x18, 0x5011), DEID_DEVICE},
                {T(0x40, 0xa073), DEID_IDENTITY}};

    (void)state;
    for (size_t i = 0; i < ARRAY_N(SEQS); i++) {
        struct writer w;
        struct cleaned c;
        struct told t;

        begin(&w, EXPLICIT);
        harmless_to_8(&w, CT);
        head(&w, SEQS[i].tag, "SQ", UNDEFINED);
        item(&w, false, 0);
        elem(&w, T(8, 0x104), "LO", "inside it");
        elem_n(&w, T(0x7fe0, 0x10), "OW", "\7\7\7\7", 4);
        head(&w, T(0xfffe, 0xe00d), "", 0);
        head(&w, T(0xfffe, 0xe0dd), "", 0);
        pixels(&w);
        assert_int_equal(help_check(&profile, w.b.p, w.b.n, &t), DEID_REFUSED);
        assert_int_equal(t.n, 1);
        assert_int_equal(t.f[0].rule, SEQS[i].rule);
        assert_int_equal(help_clean(&profile, w.b.p, w.b.n, &t, &c), DEID_ACCEPTED);
        assert_false(help_holds(&c.b, "inside it"));
        assert_false(help_holds(&c.b, "\7\7\7\7"));
        buf_deinit(&c.b);
        buf_deinit(&w.b);
    }
}

/* ---- the options ---- */

static void test_options(void **state)
{
    static const struct {
        const char *line;
        uint32_t tag;
        const char *vr, *value;
    } KEEPS[] = {{"dates = keep", T(8, 0x20), "DA", "20260101"},
                 {"uids = keep", T(0x20, 0xd), "UI", "1.2.392.200036.9116.1"},
                 {"device = keep", T(0x18, 0x1000), "LO", "SN77"},
                 {"institution = keep", T(8, 0x80), "LO", "Tokyo Clinic"},
                 {"descriptions = keep", T(8, 0x103e), "LO", "THORAX 1.0"},
                 {"patient = keep", T(0x10, 0x1030), "DS", "61.5"},
                 {"private = 0011,xx01 ACME", T(0x11, 0x1001), "DS", "3.5"}};

    (void)state;
    for (size_t i = 0; i < ARRAY_N(KEEPS); i++) {
        struct deid_profile p;
        struct cleaned c;
        struct writer w;
        struct told t;
        char text[256];

        begin(&w, EXPLICIT);
        harmless_to_8(&w, CT);
        if (KEEPS[i].tag >> 16 == 0x11) elem(&w, T(0x11, 0x10), "LO", "ACME");
        elem(&w, KEEPS[i].tag, KEEPS[i].vr, KEEPS[i].value);
        pixels(&w);
        (void)snprintf(text, sizeof(text),
                       "name = t\nformats = dicom\npixels.no-statement = accept\n");
        help_profile(text, &p);
        assert_int_equal(help_check(&p, w.b.p, w.b.n, &t), DEID_REFUSED);
        (void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s\n", KEEPS[i].line);
        help_profile(text, &p);
        assert_int_equal(help_check(&p, w.b.p, w.b.n, &t), DEID_ACCEPTED);
        assert_int_equal(help_clean(&p, w.b.p, w.b.n, &t, &c), DEID_ACCEPTED);
        assert_true(help_holds(&c.b, KEEPS[i].value));
        buf_deinit(&c.b);
        buf_deinit(&w.b);
    }
}

/* Dates move by the same days for one patient, and by others for another. */
static void test_shift(void **state)
{
    char first[2][9];
    struct deid_profile p;

    (void)state;
    help_profile("name = t\nformats = dicom\ndates = shift\npixels.no-statement = accept\n", &p);
    for (int i = 0; i < 4; i++) {
        const char *id = i % 2 == 0 ? "P-10017" : "P-10018";
        struct cleaned c;
        struct writer w;
        struct told t;
        const uint8_t *at;

        begin(&w, EXPLICIT);
        elem(&w, T(8, 8), "CS", "ORIGINAL\\PRIMARY");
        elem(&w, T(8, 0x16), "UI", CT);
        elem(&w, T(8, 0x20), "DA", "20240229");
        elem(&w, T(0x10, 0x20), "LO", id);
        pixels(&w);
        assert_int_equal(help_check(&p, w.b.p, w.b.n, &t), DEID_REFUSED);
        assert_int_equal(help_clean(&p, w.b.p, w.b.n, &t, &c), DEID_ACCEPTED);
        assert_true(help_holds(&c.b, "MODIFIED"));
        at = memmem(c.b.p, c.b.n,
                    "\x08\x00\x20\x00"
                    "DA\x08\x00",
                    8);
        assert_non_null(at);
        if (i < 2) memcpy(first[i], at + 8, 9);
        if (i >= 2) assert_memory_equal(first[i - 2], at + 8, 8);
        assert_memory_not_equal(at + 8, "20240229", 8);
        buf_deinit(&c.b);
        buf_deinit(&w.b);
    }
    assert_memory_not_equal(first[0], first[1], 8);
}

/* ---- the object as a whole ---- */

struct whole {
    const char *sop_class, *image_type, *burned_in, *photometric;
    enum deid_outcome outcome;
    int rule;
};
static const struct whole WHOLES[] = {
    {CT, "ORIGINAL\\PRIMARY", "", "MONOCHROME2", DEID_ACCEPTED, DEID_RULE_N},
    {CT, "DERIVED\\SECONDARY", "", "MONOCHROME2", DEID_QUARANTINED, DEID_PIXELS},
    {CT, "DERIVED\\SECONDARY", "NO", "MONOCHROME2", DEID_ACCEPTED, DEID_RULE_N},
    {CT, "ORIGINAL\\PRIMARY", "YES", "MONOCHROME2", DEID_QUARANTINED, DEID_BURNED_IN},
    {CT, "ORIGINAL\\PRIMARY", "MAYBE", "MONOCHROME2", DEID_QUARANTINED, DEID_PIXELS},
    {CT, "DERIVED\\SECONDARY\\SCREEN SAVE", "NO", "MONOCHROME2", DEID_QUARANTINED, DEID_PIXELS},
    {CT, "ORIGINAL\\PRIMARY", "", "RGB", DEID_QUARANTINED, DEID_PIXELS},
    {"1.2.840.10008.5.1.4.1.1.7", "", "NO", "RGB", DEID_QUARANTINED, DEID_PIXELS},
    {"1.2.840.10008.5.1.4.1.1.6.1", "", "NO", "RGB", DEID_QUARANTINED, DEID_PIXELS},
    {"1.2.840.10008.5.1.4.1.1.77.1.1", "", "NO", "RGB", DEID_QUARANTINED, DEID_PIXELS},
    {"1.2.840.10008.5.1.4.1.1.1", "ORIGINAL\\PRIMARY", "", "MONOCHROME1", DEID_QUARANTINED,
     DEID_PIXELS},
    {"1.2.840.10008.5.1.4.1.1.77.1.5.1", "", "NO", "RGB", DEID_ACCEPTED, DEID_RULE_N},
    {"1.2.840.10008.5.1.4.1.1.66.4", "", "", "MONOCHROME2", DEID_ACCEPTED, DEID_RULE_N},
    {"1.2.840.10008.5.1.4.1.1.104.1", "", "NO", "RGB", DEID_REFUSED, DEID_CLASS},
    {"1.2.840.10008.1.3.10", "", "NO", "RGB", DEID_REFUSED, DEID_CLASS},
    {"1.3.46.670589.5.0.1.1", "", "NO", "RGB", DEID_REFUSED, DEID_CLASS},
    {"1.2.840.10008.5.1.4.1.1.77.1.6", "ORIGINAL\\PRIMARY\\VOLUME\\NONE", "NO", "RGB",
     DEID_ACCEPTED, DEID_RULE_N},
    {"1.2.840.10008.5.1.4.1.1.77.1.6", "ORIGINAL\\PRIMARY\\LABEL\\NONE", "NO", "RGB", DEID_REFUSED,
     DEID_LABEL},
    {"1.2.840.10008.5.1.4.1.1.77.1.6", "ORIGINAL\\PRIMARY\\OVERVIEW\\NONE", "NO", "RGB",
     DEID_REFUSED, DEID_MACRO},
    {"1.2.840.10008.5.1.4.1.1.77.1.6", "ORIGINAL\\PRIMARY\\THUMBNAIL\\RESAMPLED", "NO", "RGB",
     DEID_REFUSED, DEID_THUMBNAIL},
};

static void test_wholes(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_N(WHOLES); i++) {
        const struct whole *o = &WHOLES[i];
        struct cleaned c;
        struct writer w;
        struct told t;

        begin(&w, EXPLICIT);
        elem(&w, T(8, 8), "CS", o->image_type);
        elem(&w, T(8, 0x16), "UI", o->sop_class);
        elem(&w, T(0x28, 4), "CS", o->photometric);
        if (o->burned_in[0] != '\0') elem(&w, T(0x28, 0x301), "CS", o->burned_in);
        elem_n(&w, T(0x7fe0, 0x10), "OW", "\1\2\3\4", 4);
        print_message("%s %s %s\n", o->sop_class, o->image_type, o->burned_in);
        assert_int_equal(help_check(&profile, w.b.p, w.b.n, &t), o->outcome);
        if (o->rule != DEID_RULE_N) assert_non_null(help_find(&t, (enum deid_rule)o->rule));
        /* pixels and classes are not mended */
        assert_int_equal(help_clean(&profile, w.b.p, w.b.n, &t, &c), o->outcome);
        buf_deinit(&c.b);
        buf_deinit(&w.b);
    }
}

static void test_preamble_and_padding(void **state)
{
    struct cleaned c;
    struct writer w;
    struct told t;

    (void)state;
    begin(&w, EXPLICIT);
    harmless_to_8(&w, CT);
    pixels(&w);
    elem_n(&w, T(0xfffc, 0xfffc), "OB", "\0\0\0\0", 4);
    assert_int_equal(help_check(&profile, w.b.p, w.b.n, &t), DEID_ACCEPTED);
    memcpy(w.b.p, "MZ", 2);
    w.b.p[w.b.n - 1] = 'x';
    assert_int_equal(help_check(&profile, w.b.p, w.b.n, &t), DEID_REFUSED);
    assert_non_null(help_find(&t, DEID_PREAMBLE));
    assert_non_null(help_find(&t, DEID_TRAILER));
    assert_int_equal(help_clean(&profile, w.b.p, w.b.n, &t, &c), DEID_ACCEPTED);
    assert_int_equal(c.b.p[0], 0);
    buf_deinit(&c.b);
    buf_deinit(&w.b);
}

/* An overlay in the pixels' unused bits cannot be cleaned, and stays found afterwards. */
static void test_overlay_in_pixels(void **state)
{
    struct cleaned c;
    struct writer w;
    struct told t;

    (void)state;
    begin(&w, EXPLICIT);
    harmless_to_8(&w, CT);
    elem(&w, T(0x28, 4), "CS", "MONOCHROME2");
    elem_n(&w, T(0x6000, 0x102), "US", "\x0c\0", 2);
    elem_n(&w, T(0x7fe0, 0x10), "OW", "\1\2\3\4", 4);
    assert_int_equal(help_check(&profile, w.b.p, w.b.n, &t), DEID_QUARANTINED);
    assert_int_equal(t.f[0].rule, DEID_BURNED_IN);
    assert_int_equal(help_clean(&profile, w.b.p, w.b.n, &t, &c), DEID_QUARANTINED);
    buf_deinit(&c.b);
    buf_deinit(&w.b);
}

/* A text behind the picture, in the same element. */
static void test_pixels_too_long(void **state)
{
    struct writer w;
    struct told t;

    (void)state;
    for (int more = 0; more < 2; more++) {
        begin(&w, EXPLICIT);
        harmless_to_8(&w, CT);
        elem(&w, T(0x28, 4), "CS", "MONOCHROME2");
        elem_n(&w, T(0x28, 0x10), "US", "\1\0", 2);
        elem_n(&w, T(0x28, 0x11), "US", "\2\0", 2);
        elem_n(&w, T(0x28, 0x100), "US", "\x10\0", 2);
        elem_n(&w, T(0x7fe0, 0x10), "OW", "\1\2\3\4YAMADA", more ? 10 : 4);
        assert_int_equal(help_check(&profile, w.b.p, w.b.n, &t),
                         more ? DEID_REFUSED : DEID_ACCEPTED);
        if (more) assert_non_null(help_find(&t, DEID_TRAILER));
        buf_deinit(&w.b);
    }
}

/* A class with something behind its end is none, and cleaning does not make it one. */
static void test_class_with_a_tail(void **state)
{
    static const char CLASS[] = "1.2.840.10008.5.1.4.1.1.2\0YAMADA";
    struct writer w;
    struct told t;

    (void)state;
    begin(&w, EXPLICIT);
    elem_n(&w, T(8, 0x16), "UI", CLASS, sizeof(CLASS) - 1);
    pixels(&w);
    assert_int_equal(help_check(&profile, w.b.p, w.b.n, &t), DEID_REFUSED);
    assert_non_null(help_find(&t, DEID_CLASS));
    buf_deinit(&w.b);
}

/* What sends an object to a person does not go because its value is broken: nobody would look. */
static void test_witness_stays(void **state)
{
    static const struct {
        uint32_t tag;
        const char *value;
    } WITNESSES[] = {{T(8, 0x64), "WSD"}, {T(0x28, 0x301), "YES"}, {T(0x28, 0x302), "YES"}};

    (void)state;
    for (size_t i = 0; i < ARRAY_N(WITNESSES); i++) {
        struct cleaned c;
        struct writer w;
        struct told t;

        begin(&w, EXPLICIT);
        harmless_to_8(&w, CT);
        if (WITNESSES[i].tag < T(0x10, 0)) elem(&w, WITNESSES[i].tag, "LT", WITNESSES[i].value);
        elem(&w, T(0x28, 4), "CS", "MONOCHROME2");
        if (WITNESSES[i].tag > T(0x10, 0)) elem(&w, WITNESSES[i].tag, "LT", WITNESSES[i].value);
        elem_n(&w, T(0x7fe0, 0x10), "OW", "\1\2\3\4", 4);
        assert_int_equal(help_clean(&profile, w.b.p, w.b.n, &t, &c), DEID_REFUSED);
        assert_int_equal(help_find(&t, DEID_VALUE)->change, DEID_KEPT);
        buf_deinit(&c.b);
        buf_deinit(&w.b);
    }
}

/* The patient's name in a text that would stay: a maker's name, the meaning of a code. */
static void test_name_elsewhere(void **state)
{
    struct cleaned c;
    struct writer w;
    struct told t;

    (void)state;
    begin(&w, EXPLICIT);
    harmless_to_8(&w, CT);
    elem(&w, T(8, 0x70), "LO", "Scan of yamada");
    elem(&w, T(0x10, 0x10), "PN", "YAMADA^TARO");
    elem(&w, T(0x18, 0x1210), "SH", "B30f");
    pixels(&w);
    assert_int_equal(help_clean(&profile, w.b.p, w.b.n, &t, &c), DEID_ACCEPTED);
    assert_false(help_holds(&c.b, "yamada"));
    assert_true(help_holds(&c.b, "B30f"));
    buf_deinit(&c.b);
    buf_deinit(&w.b);
}

/* Cut at every byte: never a crash (sanitizers); accepted only between two elements before the
 * name. */
static void test_cut_everywhere(void **state)
{
    size_t name_at, accepted_n = 0;
    struct writer w;
    struct told t;

    (void)state;
    begin(&w, EXPLICIT);
    harmless_to_8(&w, CT);
    head(&w, T(8, 0x2218), "SQ", UNDEFINED);
    item(&w, false, 0);
    elem(&w, T(8, 0x104), "LO", "Abdomen");
    head(&w, T(0xfffe, 0xe00d), "", 0);
    head(&w, T(0xfffe, 0xe0dd), "", 0);
    name_at = w.b.n;
    elem(&w, T(0x10, 0x10), "PN", "YAMADA^TARO");
    pixels(&w);
    for (size_t n = 0; n < w.b.n; n++) {
        uint8_t *exact = malloc(n + 1);
        enum deid_outcome o;

        assert_non_null(exact);
        memcpy(exact, w.b.p, n);
        o = help_check(&profile, exact, n, &t);
        accepted_n += o == DEID_ACCEPTED;
        if (n > name_at) assert_int_equal(o, DEID_REFUSED);
        free(exact);
    }
    assert_int_equal(accepted_n, 3); /* behind the class, its instance and the sequence */
    buf_deinit(&w.b);
}

static void test_deep(void **state)
{
    struct writer w;
    struct told t;

    (void)state;
    begin(&w, EXPLICIT);
    harmless_to_8(&w, CT);
    for (int i = 0; i < 3000; i++) {
        head(&w, T(0x40, 0xa730), "SQ", UNDEFINED);
        item(&w, false, 0);
    }
    assert_int_equal(help_check(&profile, w.b.p, w.b.n, &t), DEID_REFUSED);
    assert_non_null(help_find(&t, DEID_TOO_LARGE));
    buf_deinit(&w.b);
}

static void test_fields(void **state)
{
    struct deid_finding f = {
        .place = DEID_AT_DICOM, .path_n = 2, .path = {T(0x40, 0xa730), T(0x10, 0x10)}};
    char text[DEID_FIELD_BYTES];

    (void)state;
    deid_finding_field(&f, text);
    assert_string_equal(text, "(0040,a730)/(0010,0010) PatientName");
    f.path_n = DEID_PATH_MAX + 1;
    assert_false(deid_finding_valid(&f));
    for (unsigned i = 0; i < DEID_RULE_N; i++) {
        for (unsigned k = 0; k < i; k++)
            assert_string_not_equal(deid_rule_name(i), deid_rule_name(k));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ones),
                                       cmocka_unit_test(test_nested),
                                       cmocka_unit_test(test_removed_sequences),
                                       cmocka_unit_test(test_options),
                                       cmocka_unit_test(test_shift),
                                       cmocka_unit_test(test_wholes),
                                       cmocka_unit_test(test_preamble_and_padding),
                                       cmocka_unit_test(test_overlay_in_pixels),
                                       cmocka_unit_test(test_class_with_a_tail),
                                       cmocka_unit_test(test_witness_stays),
                                       cmocka_unit_test(test_pixels_too_long),
                                       cmocka_unit_test(test_name_elsewhere),
                                       cmocka_unit_test(test_cut_everywhere),
                                       cmocka_unit_test(test_deep),
                                       cmocka_unit_test(test_fields)};

    return cmocka_run_group_tests(tests, setup, NULL);
}
