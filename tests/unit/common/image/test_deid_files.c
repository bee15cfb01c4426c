/* tests/unit/common/image/test_deid_files.c - JPEG, PNG, TIFF, slides, raw volumes, videos, names
 * and profiles under the rules. */
#include "deid_help.h"
#include "common/base/macros.h"
#include <zlib.h>

static struct deid_profile open_profile, strict_profile;

static int setup(void **state)
{
    (void)state;
    help_profile("name = t\nformats = slide image vol\npixels.plain-image = accept\n",
                 &open_profile);
    help_profile("name = t\nformats = slide image vol\nopaque = application/json\n",
                 &strict_profile);
    return 0;
}

/* ---- JPEG ---- */

static void segment(struct buf *b, uint8_t marker, const void *p, size_t n)
{
    uint8_t h[4] = {0xff, marker, (uint8_t)((n + 2) >> 8), (uint8_t)(n + 2)};

    buf_put(b, h, 4);
    buf_put(b, p, n);
}

static void jpeg_begin(struct buf *b)
{
    buf_init(b, 1 << 20);
    buf_put(b, "\xff\xd8", 2);
    segment(b, 0xe0, "JFIF\0\1\2\0\0\1\0\1\0\0", 14);
}

/* A frame of one block: structure enough for a reader of segments. */
static void jpeg_end(struct buf *b)
{
    static const uint8_t table[65] = {0}, frame[] = {8, 0, 8, 0, 8, 1, 1, 0x11, 0};

    segment(b, 0xdb, table, sizeof(table));
    segment(b, 0xc0, frame, sizeof(frame));
    segment(b, 0xda, "\1\1\0\0\x3f\0", 6);
    buf_put(b, "\x12\xff\x00\x34\xff\xd0\x56\xff\xd9", 9);
}

/* ---- TIFF: little-endian, one directory after the other ---- */

struct tag {
    uint16_t tag, type;
    const void *p;
    uint32_t n, bytes; /* values; bytes of all */
};

static uint32_t tiff_begin(struct buf *b)
{
    buf_init(b, 1 << 20);
    buf_put(b, "II*\0\0\0\0\0", 8);
    return 4; /* where the pointer to the next directory goes */
}

static uint32_t tiff_dir(struct buf *b, uint32_t pointer_off, const struct tag *tags, unsigned n)
{
    size_t values = b->n, dir;
    uint8_t e[12];

    for (unsigned i = 0; i < n; i++) {
        if (tags[i].bytes > 4) buf_put(b, tags[i].p, tags[i].bytes);
    }
    if (b->n % 2 != 0) buf_put_u8(b, 0);
    dir = b->n;
    le_put32(b->p + pointer_off, (uint32_t)dir);
    le_put16(e, (uint16_t)n);
    buf_put(b, e, 2);
    for (unsigned i = 0; i < n; i++) {
        le_put16(e, tags[i].tag);
        le_put16(e + 2, tags[i].type);
        le_put32(e + 4, tags[i].n);
        memset(e + 8, 0, 4);
        if (tags[i].bytes <= 4) {
            memcpy(e + 8, tags[i].p, tags[i].bytes);
        } else {
            le_put32(e + 8, (uint32_t)values);
            values += tags[i].bytes;
        }
        buf_put(b, e, 12);
    }
    buf_put(b, "\0\0\0\0", 4);
    return (uint32_t)b->n - 4;
}
#define SHORT(tag, v)                                                                              \
    {                                                                                              \
        tag, 3, v "\0", 1, 2                                                                       \
    }
#define LONGV(tag, v)                                                                              \
    {                                                                                              \
        tag, 4, v, 1, 4                                                                            \
    }
#define ASCII(tag, s)                                                                              \
    {                                                                                              \
        tag, 2, s, sizeof(s), sizeof(s)                                                            \
    }
#define BASE SHORT(256, "\x08"), SHORT(257, "\x08"), SHORT(258, "\x08")
#define TILED                                                                                      \
    {                                                                                              \
        322, 3, "\x08\0", 1, 2                                                                     \
    }

/* ---- one broken rule at a time ---- */

static void expect(const char *what, const struct deid_profile *p, const struct buf *b, int rule,
                   const char *gone)
{
    struct cleaned c;
    struct told t;

    print_message("%s\n", what);
    assert_int_equal(help_check(p, b->p, b->n, &t),
                     rule == DEID_RULE_N ? DEID_ACCEPTED : DEID_REFUSED);
    if (rule != DEID_RULE_N) assert_non_null(help_find(&t, (enum deid_rule)rule));
    assert_int_equal(help_clean(p, b->p, b->n, &t, &c), DEID_ACCEPTED);
    if (gone != NULL) {
        assert_true(help_holds(b, gone));
        assert_false(help_holds(&c.b, gone));
    }
    buf_deinit(&c.b);
}

static void test_jpeg_segments(void **state)
{
    static const struct {
        uint8_t marker;
        const char *p;
        uint8_t n;
        int rule;
    } SEGMENTS[] = {
        {0xfe, "PATIENT: YAMADA TARO 61Y", 24, DEID_ENDOSCOPE},
        {0xfe, "OLYMPUS CV-290 ID:0017", 22, DEID_ENDOSCOPE},
        {0xfe, "FUJIFILM EP-6000", 16, DEID_ENDOSCOPE},
        {0xfe, "\x8e\x52\x93\x63 taken in room 2", 20, DEID_COMMENT},
        {0xfe, "   ", 3, DEID_RULE_N},
        {0xe0, "JFXX\0\x10thumbnail of him", 22, DEID_THUMBNAIL},
        {0xe1, "http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>", 41, DEID_XMP},
        {0xe1, "Exif\0\0 no block at all", 22, DEID_METADATA},
        {0xe2, "MPF\0second picture", 18, DEID_THUMBNAIL},
        {0xe2, "ICC_PROFILE\0\1\1colours", 21, DEID_RULE_N},
        {0xe5, "something of the maker", 22, DEID_METADATA},
        {0xed,
         "Photoshop 3.0\0"
         "8BIM",
         18, DEID_IPTC},
        {0xee, "Adobe\0\x64\0\0\0\0\0", 12, DEID_RULE_N},
        {0xf5, "unknown to all", 14, DEID_UNKNOWN},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_N(SEGMENTS); i++) {
        struct buf b;
        char gone[64];

        jpeg_begin(&b);
        segment(&b, SEGMENTS[i].marker, SEGMENTS[i].p, SEGMENTS[i].n);
        jpeg_end(&b);
        (void)snprintf(gone, sizeof(gone), "%.*s", SEGMENTS[i].n, SEGMENTS[i].p);
        expect(gone, &open_profile, &b, SEGMENTS[i].rule,
               SEGMENTS[i].rule == DEID_RULE_N ? NULL : gone);
        buf_deinit(&b);
    }
}

/* An EXIF block with one tag more than the harmless ones. */
static void exif_of(struct buf *b, const struct tag *extra, bool second)
{
    struct tag tags[4] = {SHORT(0x112, "\x06"), SHORT(0x128, "\x02")};
    unsigned n = 2;
    uint32_t at;

    if (extra != NULL) tags[n++] = *extra;
    at = tiff_begin(b);
    at = tiff_dir(b, at, tags, n);
    if (second) (void)tiff_dir(b, at, tags, 1);
}

static void test_exif(void **state)
{
    static const struct {
        struct tag t;
        int rule;
    } TAGS[] = {{ASCII(0x10e, "YAMADA TARO"), DEID_TEXT},
                {ASCII(0x132, "2026:01:01 10:15:00"), DEID_DATE},
                {ASCII(0x13b, "Dr. Kurosawa"), DEID_IDENTITY},
                {ASCII(0x10f, "OLYMPUS"), DEID_RULE_N},
                {ASCII(0x110, "patient 4711-2233-99X"), DEID_RULE_N},
                {ASCII(0x110, "serial 471122339"), DEID_TEXT},
                {{0x927c, 7, "maker's own bytes", 17, 17}, DEID_MAKER_NOTE},
                {{0x9286, 7, "ASCII\0\0\0ID 0017", 15, 15}, DEID_COMMENT},
                {{0x9286, 7, "ASCII\0\0\0OLYMPUS CV-290 ID 0017", 30, 30}, DEID_ENDOSCOPE},
                {{0x9c9c, 1, "N\0A\0M\0E\0", 8, 8}, DEID_COMMENT},
                {{0x8827, 3, "\x64\0", 1, 2}, DEID_RULE_N},
                {ASCII(0x8827, "a text as a number"), DEID_VALUE},
                {ASCII(0xc4a5, "print matching"), DEID_UNKNOWN}};

    (void)state;
    for (size_t i = 0; i < ARRAY_N(TAGS) + 2; i++) {
        const bool thumb = i == ARRAY_N(TAGS), gps = i > ARRAY_N(TAGS);
        static const struct tag GPS = LONGV(0x8825, "\x08\0\0\0");
        int rule = thumb ? DEID_THUMBNAIL : gps ? DEID_GPS : TAGS[i].rule;
        struct buf e, b, seg;
        struct cleaned c;
        struct told t;

        exif_of(&e, thumb ? NULL : gps ? &GPS : &TAGS[i].t, thumb);
        if (gps) { /* its directory: a latitude */
            static const struct tag LAT[] = {ASCII(1, "N"), ASCII(29, "2026:01:01")};
            uint32_t at = (uint32_t)e.n;

            buf_put(&e, "\0\0\0\0", 4);
            (void)tiff_dir(&e, at, LAT, 2);
            /* the tag's value: behind the count and two entries, in the third */
            le_put32(e.p + 8 + 2 + 24 + 8, le_get32(e.p + at));
        }
        buf_init(&seg, 65536);
        buf_put(&seg, "Exif\0\0", 6);
        buf_put(&seg, e.p, e.n);
        jpeg_begin(&b);
        segment(&b, 0xe1, seg.p, seg.n);
        jpeg_end(&b);
        expect(deid_rule_name((unsigned)rule), &open_profile, &b, rule, NULL);
        assert_int_equal(help_clean(&open_profile, b.p, b.n, &t, &c), DEID_ACCEPTED);
        assert_true(help_holds(&c.b, "Exif")); /* which way is up */
        buf_deinit(&c.b);
        buf_deinit(&e);
        buf_deinit(&seg);
        buf_deinit(&b);
    }
}

/* The same block twice breaks the same rules: both go. */
static void test_exif_twice(void **state)
{
    static const struct tag NAME = ASCII(0x13b, "Dr. Kurosawa");
    struct buf b, e, seg;

    (void)state;
    exif_of(&e, &NAME, false);
    buf_init(&seg, 65536);
    buf_put(&seg, "Exif\0\0", 6);
    buf_put(&seg, e.p, e.n);
    jpeg_begin(&b);
    segment(&b, 0xe1, seg.p, seg.n);
    segment(&b, 0xe1, seg.p, seg.n);
    jpeg_end(&b);
    expect("twice", &open_profile, &b, DEID_IDENTITY, "Kurosawa");
    buf_deinit(&e);
    buf_deinit(&seg);
    buf_deinit(&b);
}

static void test_jpeg_structure(void **state)
{
    struct told t;
    struct buf b;

    (void)state;
    jpeg_begin(&b);
    jpeg_end(&b);
    expect("a plain one", &open_profile, &b, DEID_RULE_N, NULL);
    assert_int_equal(help_check(&strict_profile, b.p, b.n, &t), DEID_QUARANTINED);
    assert_int_equal(t.f[0].rule, DEID_PIXELS);
    for (size_t n = 3; n < b.n; n++) { /* cut: never accepted */
        uint8_t *exact = malloc(n);

        assert_non_null(exact);
        memcpy(exact, b.p, n);
        assert_int_equal(help_check(&open_profile, exact, n, &t), DEID_REFUSED);
        free(exact);
    }
    buf_put(&b, "\0\0\0", 3);
    expect("zeros behind it", &open_profile, &b, DEID_RULE_N, NULL);
    buf_put_str(&b, "YAMADA");
    expect("a name behind it", &open_profile, &b, DEID_TRAILER, "YAMADA");
    buf_deinit(&b);
}

/* ---- PNG ---- */

static void chunk(struct buf *b, const char *type, const void *p, size_t n)
{
    uint8_t h[4];
    size_t at;

    be_put32(h, (uint32_t)n);
    buf_put(b, h, 4);
    at = b->n;
    buf_put(b, type, 4);
    buf_put(b, p, n);
    be_put32(h, (uint32_t)crc32(0, b->p + at, (uInt)(n + 4)));
    buf_put(b, h, 4);
}

static void test_png(void **state)
{
    static const struct {
        const char *type, *p;
        uint8_t n;
        int rule;
    } CHUNKS[] = {{"tEXt", "Comment\0YAMADA", 14, DEID_COMMENT},
                  {"zTXt", "Comment\0\0YAMADA", 15, DEID_COMMENT},
                  {"iTXt", "Title\0\0\0\0\0\xe5\xb1\xb1", 13, DEID_COMMENT},
                  {"iTXt", "XML:com.adobe.xmp\0\0\0\0\0<x/>", 26, DEID_XMP},
                  {"tIME", "\x07\xea\1\1\0\0\0", 7, DEID_DATE},
                  {"eXIf", "no block", 8, DEID_METADATA},
                  {"gAMA", "\0\0\xb1\x8f", 4, DEID_RULE_N},
                  {"pHYs", "\0\0\0\1\0\0\0\1\1", 9, DEID_RULE_N},
                  {"vpAg", "\0\0\0\1", 4, DEID_UNKNOWN}};

    (void)state;
    for (size_t i = 0; i < ARRAY_N(CHUNKS) + 4; i++) {
        struct told t;
        struct buf b;

        buf_init(&b, 1 << 20);
        buf_put(&b, "\x89PNG\r\n\x1a\n", 8);
        chunk(&b, "IHDR",
              i == ARRAY_N(CHUNKS) ? "\0\1\0\0\0\1\0\0\1\0\0\0\0" /* 4 Gpx */
                                   : "\0\0\0\1\0\0\0\1\x8\0\0\0\0",
              13);
        if (i < ARRAY_N(CHUNKS)) chunk(&b, CHUNKS[i].type, CHUNKS[i].p, CHUNKS[i].n);
        if (i == ARRAY_N(CHUNKS) + 1) chunk(&b, "CRIT", "critical", 8);
        chunk(&b, "IDAT", "\x78\x9c\x63\x60\0\0\0\2\0\1", 10);
        chunk(&b, "IEND", "", 0);
        if (i < ARRAY_N(CHUNKS)) {
            expect(CHUNKS[i].type, &open_profile, &b, CHUNKS[i].rule,
                   CHUNKS[i].rule == DEID_RULE_N ? NULL : CHUNKS[i].type);
        } else if (i == ARRAY_N(CHUNKS) + 2) {
            buf_put_str(&b, "YAMADA");
            expect("behind it", &open_profile, &b, DEID_TRAILER, "YAMADA");
        } else {
            if (i == ARRAY_N(CHUNKS) + 3) b.p[b.n - 20] ^= 1; /* a checksum */
            assert_int_equal(help_check(&open_profile, b.p, b.n, &t), DEID_REFUSED);
            assert_int_equal(t.f[0].rule, i == ARRAY_N(CHUNKS) ? DEID_TOO_LARGE : DEID_MALFORMED);
        }
        buf_deinit(&b);
    }
}

/* ---- TIFF and slides ---- */

#define APERIO "Aperio Image Library v11.2.1 \r\n46000x32914 (256x256) JPEG/RGB Q=30"

static void test_tiff_tags(void **state)
{
    static const struct {
        struct tag t;
        int rule;
        const char *gone;
    } TAGS[] = {
        {ASCII(270, "slide of YAMADA TARO"), DEID_TEXT, "YAMADA"},
        {ASCII(305, "libvips 8.14"), DEID_RULE_N, NULL},
        {ASCII(306, "2026:01:01 10:15:00"), DEID_DATE, "2026:01"},
        {ASCII(315, "Kurosawa"), DEID_IDENTITY, "Kurosawa"},
        {ASCII(316, "path-room-3"), DEID_DEVICE, "room-3"},
        {{700, 1, "<x:xmpmeta>", 11, 11}, DEID_XMP, "xmpmeta"},
        {{33723, 7, "\x1c\2iptc", 6, 6}, DEID_IPTC, "iptc"},
        {{34675, 7, "icc profile", 11, 11}, DEID_RULE_N, NULL},
        {ASCII(65000, "vendor's own"), DEID_UNKNOWN, "vendor"},
        {ASCII(270, APERIO "|AppMag = 20|MPP = 0.4990"), DEID_RULE_N, NULL},
        {ASCII(270, APERIO "|AppMag = 20|Filename = YAMADA-17"), DEID_IDENTITY, "YAMADA"},
        {ASCII(270, APERIO "|Date = 12/29/09|MPP = 0.4990"), DEID_DATE, "12/29/09"},
        {ASCII(270, APERIO "|ScanScope ID = SS1234|MPP = 0.4990"), DEID_DEVICE, "SS1234"},
        {ASCII(270, APERIO "|Patient = YAMADA"), DEID_UNKNOWN, "YAMADA"},
        {ASCII(270, APERIO "|MPP = YAMADA"), DEID_VALUE, "YAMADA"},
        {ASCII(270, "Aperio Image Library YAMADA TARO\r\n1x1|MPP = 0.5"), DEID_TEXT, "YAMADA"},
        {ASCII(270, "<?xml version=\"1.0\" encoding=\"UTF-8\"?><OME "
                    "xmlns=\"http://www.openmicroscopy.org/Schemas/OME/2016-06\"><Image "
                    "ID=\"Image:0\"><Pixels ID=\"Pixels:0\" SizeX=\"8\" Type=\"uint8\"/>"
                    "</Image></OME>"),
         DEID_RULE_N, NULL},
        {ASCII(270, "<OME ><Image ID=\"Image:0\" Name=\"YAMADA.svs\"/></OME>"), DEID_IDENTITY,
         "YAMADA"},
        {ASCII(270, "<OME ><Experimenter LastName=\"KUROSAWA\"/></OME>"), DEID_IDENTITY,
         "KUROSAWA"},
        {ASCII(270, "<OME ><AcquisitionDate>2026-01-01</AcquisitionDate></OME>"), DEID_DATE,
         "2026-01-01"},
        {ASCII(270, "<OME ><!-- for Dr. A --></OME>"), DEID_COMMENT, "Dr. A"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_N(TAGS); i++) {
        struct tag tags[] = {BASE, TAGS[i].t, TILED};
        struct buf b;

        (void)tiff_dir(&b, tiff_begin(&b), tags, ARRAY_N(tags));
        expect(TAGS[i].gone == NULL ? "harmless" : TAGS[i].gone, &open_profile, &b, TAGS[i].rule,
               TAGS[i].gone);
        buf_deinit(&b);
    }
}

/* Three images beside the slide: each told, each cut out, the slide's own pixels untouched. */
static void test_slide_images(void **state)
{
    static const struct {
        const char *text;
        uint32_t n;
        enum deid_rule rule;
    } IMAGES[] = {{APERIO "|AppMag = 20", sizeof(APERIO "|AppMag = 20"), DEID_THUMBNAIL},
                  {"Aperio Image Library v11.2.1\r\nlabel 387x463", 44, DEID_LABEL},
                  {"Aperio Image Library v11.2.1\r\nmacro 1280x431", 45, DEID_MACRO}};
    struct cleaned c;
    struct told t;
    struct buf b;
    uint32_t at, first;

    (void)state;
    at = tiff_begin(&b);
    buf_put_str(&b, "SLIDE'S PIXELS");
    {
        const struct tag tags[] = {BASE, ASCII(270, APERIO "|MPP = 0.5"), TILED,
                                   LONGV(324, "\x08\0\0\0"), LONGV(325, "\x0e\0\0\0")};

        at = first = tiff_dir(&b, at, tags, ARRAY_N(tags));
    }
    for (size_t i = 0; i < ARRAY_N(IMAGES); i++) {
        uint8_t off[4];
        const struct tag tags[] = {BASE,
                                   {270, 2, IMAGES[i].text, IMAGES[i].n, IMAGES[i].n},
                                   LONGV(273, off),
                                   LONGV(279, "\x0e\0\0\0")};

        le_put32(off, (uint32_t)b.n);
        buf_put_str(&b, "LABEL'S PIXELS");
        at = tiff_dir(&b, at, tags, ARRAY_N(tags));
    }
    assert_int_equal(help_check(&strict_profile, b.p, b.n, &t), DEID_REFUSED);
    assert_int_equal(t.n, 3);
    for (size_t i = 0; i < ARRAY_N(IMAGES); i++)
        assert_non_null(help_find(&t, IMAGES[i].rule));
    assert_int_equal(help_clean(&strict_profile, b.p, b.n, &t, &c), DEID_ACCEPTED);
    assert_int_equal(c.b.n, b.n);
    assert_true(help_holds(&c.b, "SLIDE'S PIXELS"));
    assert_false(help_holds(&c.b, "LABEL'S PIXELS"));
    assert_false(help_holds(&c.b, "label 387"));
    assert_int_equal(le_get32(c.b.p + first), 0); /* the chain ends behind the slide */
    buf_deinit(&c.b);
    buf_deinit(&b);
}

static void test_tiff_structure(void **state)
{
    const struct tag tags[] = {BASE, TILED};
    struct told t;
    struct buf b;
    uint32_t at;

    (void)state;
    at = tiff_dir(&b, tiff_begin(&b), tags, ARRAY_N(tags));
    for (size_t n = 4; n < b.n; n++) {
        uint8_t *exact = malloc(n);

        assert_non_null(exact);
        memcpy(exact, b.p, n);
        assert_int_equal(help_check(&open_profile, exact, n, &t), DEID_REFUSED);
        free(exact);
    }
    le_put32(b.p + at, le_get32(b.p + 4)); /* its next directory is itself */
    assert_int_equal(help_check(&open_profile, b.p, b.n, &t), DEID_REFUSED);
    assert_int_equal(t.f[0].rule, DEID_MALFORMED);
    buf_deinit(&b);
}

/* ---- the rest ---- */

static void test_vol(void **state)
{
    struct buf b;
    uint8_t *p;

    (void)state;
    buf_init(&b, 65536);
    p = buf_reserve(&b, 4096);
    assert_non_null(p);
    memset(p, 0, 4096);
    b.n = 4096;
    memcpy(p, "HSF-OCT-103", 11);
    memset(p + 2048, 7, 2048);
    expect("blank", &open_profile, &b, DEID_RULE_N, NULL);
    memcpy(p + 140, "P-10017", 7);
    expect("patient id", &open_profile, &b, DEID_IDENTITY, "P-10017");
    buf_deinit(&b);
}

static void test_other_formats(void **state)
{
    static const struct {
        const char *p;
        size_t n;
        enum deid_outcome strict;
        int rule;
    } FILES[] = {{"\0\0\0\x18"
                  "ftypmp42\0\0\0\0mp42",
                  20, DEID_REFUSED, DEID_VIDEO},
                 {"%PDF-1.4 of a report", 20, DEID_REFUSED, DEID_FORMAT},
                 {"{\"history\":\"gastritis\"}", 23, DEID_OPAQUE, DEID_RULE_N},
                 {"a plain text", 12, DEID_REFUSED, DEID_FORMAT},
                 {"GIF89a......", 12, DEID_REFUSED, DEID_FORMAT},
                 {"\x80\x81\x82 unknown bytes", 18, DEID_REFUSED, DEID_FORMAT},
                 {"", 0, DEID_REFUSED, DEID_FORMAT}};
    struct deid_profile video;
    struct told t;

    (void)state;
    for (size_t i = 0; i < ARRAY_N(FILES); i++) {
        assert_int_equal(help_check(&strict_profile, FILES[i].p, FILES[i].n, &t), FILES[i].strict);
        if (FILES[i].rule != DEID_RULE_N) assert_int_equal(t.f[0].rule, FILES[i].rule);
    }
    help_profile("name = t\nformats = image\nvideo = quarantine\n", &video);
    assert_int_equal(help_check(&video, FILES[0].p, FILES[0].n, &t), DEID_QUARANTINED);
    assert_int_equal(t.f[0].rule, DEID_PIXELS);
}

static void test_names(void **state)
{
    static const char *const BAD[] = {"20260101/a.dcm",
                                      "x/2026-01-31.png",
                                      "case_19610203.jpg",
                                      "YAMADA^TARO/1.dcm",
                                      "\xe5\xb1\xb1\xe7\x94\xb0/1.dcm",
                                      "\x8e\x52\x93\x63.dcm",
                                      "a\nb"};
    static const char *const GOOD[] = {"IM-0001-0112.dcm",  "slides/p-3.svs",
                                       "amd_1084498_1.jpg", "1.2.840.10008.5.1.dcm",
                                       "99999999.png",      "120260101.dcm"};
    struct deid_profile any;
    struct told t = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_N(BAD); i++) {
        t.n = 0;
        deid_check_name(BAD[i], &open_profile, help_told, &t);
        assert_int_equal(t.n, 1);
        assert_int_equal(t.f[0].rule, DEID_NAME);
    }
    t.n = 0;
    for (size_t i = 0; i < ARRAY_N(GOOD); i++)
        deid_check_name(GOOD[i], &open_profile, help_told, &t);
    help_profile("name = t\nfile-names = any\n", &any);
    deid_check_name(BAD[0], &any, help_told, &t);
    assert_int_equal(t.n, 0);
}

static void test_profiles(void **state)
{
    static const char *const BAD[] = {"",
                                      "name = x\nuids = kept\n",
                                      "name = x\nuid = keep\n",
                                      "name = x\ndates\n",
                                      "name = X Y\n",
                                      "name = x\nformats = jpg\n",
                                      "name = x\nprivate = 0010,xx01 ACME\n"};
    struct deid_profile p;
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_N(BAD); i++)
        assert_int_equal(deid_profile_parse(BAD[i], strlen(BAD[i]), &p, &err), RC_INVAL);
    for (unsigned i = 0; deid_profile_shipped_name(i) != NULL; i++) {
        const char *name = deid_profile_shipped_name(i);

        help_profile(deid_profile_shipped(name), &p);
        assert_string_equal(p.name, name);
        assert_true(p.dicom && !p.video && !p.uids_keep && !p.institution_keep && !p.device_keep);
        assert_int_equal(p.plain, DEID_PIXELS_QUARANTINE);
    }
    assert_null(deid_profile_shipped("no such"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jpeg_segments), cmocka_unit_test(test_exif),
        cmocka_unit_test(test_exif_twice),    cmocka_unit_test(test_jpeg_structure),
        cmocka_unit_test(test_png),           cmocka_unit_test(test_tiff_tags),
        cmocka_unit_test(test_slide_images),  cmocka_unit_test(test_tiff_structure),
        cmocka_unit_test(test_vol),           cmocka_unit_test(test_other_formats),
        cmocka_unit_test(test_names),         cmocka_unit_test(test_profiles)};

    return cmocka_run_group_tests(tests, setup, NULL);
}
