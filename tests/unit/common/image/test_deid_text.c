/* tests/unit/common/image/test_deid_text.c - lines of letters are found in pictures and told to a
 * reader; what it says, and whatever keeps pixels from being looked at, becomes the outcome. */
#include "deid_help.h"
#include "common/base/macros.h"
#include "common/image/deid/text_find.h"
#include "common/image/dicom_parse.h"

enum { W = 320, H = 240 };

/* 5 x 7 digits, a row of five bits each */
static const uint8_t DIGITS[10][7] = {{14, 17, 19, 21, 25, 17, 14}, {4, 12, 4, 4, 4, 4, 14},
                                      {14, 17, 1, 6, 8, 16, 31},    {14, 17, 1, 6, 1, 17, 14},
                                      {2, 6, 10, 18, 31, 2, 2},     {31, 16, 30, 1, 1, 17, 14},
                                      {6, 8, 16, 30, 17, 17, 14},   {31, 1, 2, 4, 8, 8, 8},
                                      {14, 17, 17, 14, 17, 17, 14}, {14, 17, 17, 15, 1, 2, 12}};

static void draw(uint8_t *p, uint32_t x, uint32_t y, uint32_t size, const char *digits, uint8_t v)
{
    for (; *digits != 0; digits++, x += 6 * size) {
        for (uint32_t i = 0; i < 7 * size; i++) {
            for (uint32_t j = 0; j < 5 * size; j++) {
                if (((DIGITS[*digits - '0'][i / size] >> (4 - j / size)) & 1) != 0)
                    p[(y + i) * W + x + j] = v;
            }
        }
    }
}

static void noise(uint8_t *p, uint8_t around, uint8_t most)
{
    uint32_t s = 1;

    for (size_t i = 0; i < (size_t)W * H; i++) {
        s = s * 1664525u + 1013904223u;
        p[i] = (uint8_t)(around + (s >> 24) * most / 255);
    }
}

static bool covers(const struct text_lines *t, uint32_t x, uint32_t y, uint32_t w, uint32_t h)
{
    for (uint32_t i = 0; i < t->n; i++) {
        const struct text_line *l = &t->line[i];

        if (l->x <= x + 4 && l->y <= y + 4 && l->x + l->width + 4 >= x + w &&
            l->y + l->height + 4 >= y + h && l->width < w + 40 && l->height < h + 16)
            return true;
    }
    return false;
}

static void test_find(void **state)
{
    static const struct {
        uint8_t ground, noise, ink;
        uint32_t size; /* a letter is 7 times as high */
    } CASES[] = {{0, 0, 255, 1},   {0, 0, 255, 2},   {255, 0, 0, 2},
                 {128, 0, 100, 2}, {128, 0, 156, 2}, {60, 20, 255, 2},
                 {60, 20, 0, 3},   {0, 0, 255, 5},   {20, 0, 200, 8}};
    static uint8_t p[W * H];

    (void)state;
    for (size_t i = 0; i < ARRAY_N(CASES); i++) {
        const char *text = CASES[i].size < 6 ? "20240513" : "20240";
        uint32_t size = CASES[i].size;
        struct text_lines t;
        struct err err;

        print_message("case %zu\n", i);
        noise(p, CASES[i].ground, CASES[i].noise);
        draw(p, 30, 100, size, text, CASES[i].ink);
        assert_int_equal(text_find(p, W, H, &t, &err), RC_OK);
        assert_true(covers(&t, 30, 100, (uint32_t)(6 * strlen(text) - 1) * size, 7 * size));
        for (uint32_t k = 0; k < t.n; k++) {
            assert_in_range(t.line[k].crop_width, 1, 1200);
            assert_true(t.line[k].x + t.line[k].width <= W);
            assert_true(k == 0 || t.line[k - 1].score >= t.line[k].score);
        }
        text_lines_free(&t);
    }
}

static void test_find_nothing(void **state)
{
    static uint8_t p[W * H];
    struct text_lines t;
    struct err err;

    (void)state;
    for (int i = 0; i < 5; i++) {
        noise(p, 100, i == 1 ? 12 : 0);             /* flat, and noise of a good detector */
        if (i == 2) draw(p, 30, 100, 2, "11", 255); /* a scale's two marks */
        for (uint32_t y = 0; i == 3 && y < H; y++)  /* a disc */
            for (uint32_t x = 0; x < W; x++)
                if ((x - 160) * (x - 160) + (y - 120) * (y - 120) < 80 * 80) p[y * W + x] = 220;
        for (uint32_t y = 0; i == 4 && y < H; y++) /* a ramp */
            for (uint32_t x = 0; x < W; x++)
                p[y * W + x] = (uint8_t)(x * 255 / W);
        assert_int_equal(text_find(p, W, H, &t, &err), RC_OK);
        assert_int_equal(t.n, 0);
        text_lines_free(&t);
    }
    /* every size, down to nothing */
    for (uint32_t w = 1; w < 60; w++) {
        assert_int_equal(text_find(p, w, 60 - w, &t, &err), RC_OK);
        text_lines_free(&t);
    }
}

/* ---- a file's pixels ---- */

struct file {
    const char *sop_class, *type, *syntax;
    uint32_t frames;
    int texts; /* bit of each frame with a text */
    bool no_pixels;
};

static void element(struct buf *b, uint32_t tag, const char *vr, const void *p, size_t n)
{
    uint8_t h[12];
    size_t padded = n + n % 2, head = 8;

    le_put16(h, (uint16_t)(tag >> 16));
    le_put16(h + 2, (uint16_t)tag);
    memcpy(h + 4, vr, 2);
    if (vr[0] == 'O') {
        le_put16(h + 6, 0);
        le_put32(h + 8, (uint32_t)padded);
        head = 12;
    } else {
        le_put16(h + 6, (uint16_t)padded);
    }
    buf_put(b, h, head);
    buf_put(b, p, n);
    if (padded > n) buf_put(b, vr[0] == 'U' ? "" : " ", 1);
}

static void number(struct buf *b, uint32_t tag, uint16_t v)
{
    uint8_t p[2];

    le_put16(p, v);
    element(b, tag, "US", p, 2);
}

static void dicom(struct buf *b, const struct file *f)
{
    static const uint8_t PREAMBLE[128];
    static uint8_t pixels[16 * W * H];
    char frames[8];

    buf_init(b, 8 << 20);
    buf_put(b, PREAMBLE, sizeof(PREAMBLE));
    buf_put(b, "DICM", 4);
    element(b, DCM_TAG(2, 0x10), "UI", f->syntax, strlen(f->syntax));
    element(b, DCM_TAG(8, 8), "CS", f->type, strlen(f->type));
    element(b, DCM_TAG(8, 0x16), "UI", f->sop_class, strlen(f->sop_class));
    if (f->no_pixels) return;
    (void)snprintf(frames, sizeof(frames), "%u", f->frames);
    number(b, DCM_TAG(0x28, 2), 1);
    element(b, DCM_TAG(0x28, 4), "CS", "MONOCHROME2", 11);
    element(b, DCM_TAG(0x28, 8), "IS", frames, strlen(frames));
    number(b, DCM_TAG(0x28, 0x10), H);
    number(b, DCM_TAG(0x28, 0x11), W);
    number(b, DCM_TAG(0x28, 0x100), 8);
    number(b, DCM_TAG(0x28, 0x101), 8);
    number(b, DCM_TAG(0x28, 0x102), 7);
    number(b, DCM_TAG(0x28, 0x103), 0);
    for (uint32_t i = 0; i < f->frames; i++) {
        uint8_t *p = pixels + (size_t)i * W * H;

        noise(p, 40, 6);
        if ((f->texts >> i & 1) != 0) draw(p, 30, 100, 2, "20240513", 255);
    }
    element(b, DCM_TAG(0x7fe0, 0x10), "OB", pixels, (size_t)f->frames * W * H);
}

struct reading {
    uint32_t calls;
    bool says;
    enum rc rc;
};
static enum rc fake_read(void *ctx, const uint8_t *grey, uint32_t width, uint32_t height,
                         bool *ret_text, struct err *reterr)
{
    struct reading *r = ctx;
    uint32_t dark = 0;

    r->calls++;
    if (r->rc != RC_OK) return err_set(reterr, r->rc, "a broken reader");
    assert_int_equal(height, TEXT_CROP_HEIGHT);
    for (size_t i = 0; i < (size_t)width * height; i++)
        dark += grey[i] < 64;
    assert_in_range(dark, width, (size_t)width * height / 2); /* letters, dark, on white */
    *ret_text = r->says;
    return RC_OK;
}

static enum rc look(const struct file *f, const char *profile, struct reading *reader,
                    struct told *t, enum deid_outcome *o)
{
    const struct deid_reader lines = {reader, fake_read};
    struct deid_profile p;
    struct image_source_mem mem;
    struct image_source src;
    struct err err = {0};
    struct buf b;
    enum rc rc;

    help_profile(profile, &p);
    dicom(&b, f);
    t->n = 0;
    *o = DEID_ACCEPTED;
    image_source_mem_init(&mem, b.p, b.n, &src);
    rc = deid_text(&src, &p, reader == NULL ? NULL : &lines, help_told, t, o, &err);
    buf_deinit(&b);
    return rc;
}

#define CT       "1.2.840.10008.5.1.4.1.1.2"
#define DX       "1.2.840.10008.5.1.4.1.1.1.1"
#define SEG      "1.2.840.10008.5.1.4.1.1.66.4"
#define NATIVE   "1.2.840.10008.1.2.1"
#define ALL      "name = t\nformats = dicom\n"
#define DOUBTFUL "name = t\nformats = dicom\npixels.text = doubtful\n"
#define NEVER    "name = t\nformats = dicom\npixels.text = never\n"

static void test_outcomes(void **state)
{
    static const struct {
        struct file f;
        const char *profile;
        bool says;
        int seen; /* -1: accepted */
        uint32_t frame, calls_min, calls_max;
    } CASES[] = {
        {{DX, "ORIGINAL\\PRIMARY", NATIVE, 1, 1, false}, ALL, true, DEID_SEEN_TEXT, 0, 1, 1},
        {{DX, "ORIGINAL\\PRIMARY", NATIVE, 1, 1, false}, ALL, false, -1, 0, 1, 8},
        {{DX, "ORIGINAL\\PRIMARY", NATIVE, 1, 0, false}, ALL, true, -1, 0, 0, 0},
        {{DX, "ORIGINAL\\PRIMARY", NATIVE, 1, 1, false}, DOUBTFUL, true, DEID_SEEN_TEXT, 0, 1, 1},
        {{DX, "ORIGINAL\\PRIMARY", NATIVE, 1, 1, false}, NEVER, true, -1, 0, 0, 0},
        {{CT, "ORIGINAL\\PRIMARY\\AXIAL", NATIVE, 1, 1, false}, DOUBTFUL, true, -1, 0, 0, 0},
        {{CT, "ORIGINAL\\PRIMARY\\AXIAL", NATIVE, 1, 1, false}, ALL, true, DEID_SEEN_TEXT, 0, 1, 1},
        {{CT, "DERIVED\\PRIMARY", NATIVE, 1, 1, false}, DOUBTFUL, true, DEID_SEEN_TEXT, 0, 1, 1},
        {{SEG, "DERIVED\\PRIMARY", NATIVE, 1, 1, false}, ALL, true, -1, 0, 0, 0},
        {{DX, "ORIGINAL\\PRIMARY", NATIVE, 1, 1, true}, ALL, true, -1, 0, 0, 0},
        /* five of eleven are looked at: 0, 2, 5, 7, 10 */
        {{DX, "DERIVED", NATIVE, 11, 1 << 10, false}, ALL, true, DEID_SEEN_TEXT, 10, 1, 1},
        {{DX, "DERIVED", NATIVE, 11, 1 << 5 | 1 << 7, false}, ALL, true, DEID_SEEN_TEXT, 5, 1, 1},
        {{DX, "DERIVED", NATIVE, 11, 1 << 9, false}, ALL, true, -1, 0, 0, 0},
        {{DX, "DERIVED", "1.2.840.10008.1.2.4.201", 1, 0, false},
         ALL,
         true,
         DEID_SEEN_NOT_DECODED,
         0,
         0,
         0},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_N(CASES); i++) {
        struct reading r = {.says = CASES[i].says};
        enum deid_outcome o;
        struct told t;

        print_message("case %zu\n", i);
        assert_int_equal(look(&CASES[i].f, CASES[i].profile, &r, &t, &o), RC_OK);
        assert_in_range(r.calls, CASES[i].calls_min, CASES[i].calls_max);
        assert_int_equal(o, CASES[i].seen < 0 ? DEID_ACCEPTED : DEID_QUARANTINED);
        assert_int_equal(t.n, CASES[i].seen < 0 ? 0 : 1);
        if (t.n == 0) continue;
        assert_int_equal(t.f[0].rule, DEID_PIXELS);
        assert_int_equal(t.f[0].place, DEID_AT_FRAME);
        assert_int_equal(t.f[0].path[0], CASES[i].frame);
        assert_int_equal(t.f[0].path[1], CASES[i].seen);
    }
}

static void test_reader(void **state)
{
    static const struct file f = {DX, "ORIGINAL\\PRIMARY", NATIVE, 1, 1, false};
    struct reading broken = {.rc = RC_INTERNAL};
    char field[DEID_FIELD_BYTES];
    enum deid_outcome o;
    struct told t;

    (void)state;
    assert_int_equal(look(&f, ALL, NULL, &t, &o), RC_OK); /* nobody who can read: not cleared */
    assert_int_equal(o, DEID_QUARANTINED);
    assert_int_equal(t.f[0].path[1], DEID_SEEN_NO_READER);
    deid_finding_field(&t.f[0], field);
    assert_string_equal(field, "frame 0: no reader of text");
    assert_int_equal(look(&f, ALL, &broken, &t, &o), RC_INTERNAL);
    assert_int_equal(t.n, 0);
}

/* Refused or in quarantine already: a person looks anyway, so nothing is decoded. */
static void test_only_accepted(void **state)
{
    struct deid_profile p;
    struct image_source src = {.size = 1 << 20}; /* no read: it would crash */
    struct err err;

    (void)state;
    help_profile(ALL, &p);
    for (int o = 0; o < DEID_OUTCOME_N; o++) {
        enum deid_outcome io = (enum deid_outcome)o;
        struct told t = {0};

        if (o == DEID_ACCEPTED) continue;
        assert_int_equal(deid_text(&src, &p, NULL, help_told, &t, &io, &err), RC_OK);
        assert_int_equal(io, o);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find), cmocka_unit_test(test_find_nothing),
        cmocka_unit_test(test_outcomes), cmocka_unit_test(test_reader),
        cmocka_unit_test(test_only_accepted)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
