/* deploy/samples/mk_samples.c - draws the sample cases that quickstart stores when no data is
 * given.
 *
 * All is drawn from formulas and one seed, so the images belong to nobody and each run gives the
 * same pixels. They look like what they stand for as far as sharpness and exposure measures care
 * (round field, vessels, folds, nuclei, a body in air); they show no disease and teach no model.
 * The C library, libjpeg, libpng and libtiff suffice; DICOM files are written by hand (explicit
 * little-endian, uncompressed). mk_samples OUTDIR */
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <jpeglib.h>
#include <png.h>
#include <tiffio.h>

static const float pi = 3.14159265f;

static void die(const char *what)
{
    (void)fprintf(stderr, "mk_samples: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- random numbers and noise ---- */

static uint32_t hash3(uint32_t x, uint32_t y, uint32_t seed)
{
    uint32_t h = x * 0x9e3779b1u ^ y * 0x85ebca77u ^ seed * 0xc2b2ae3du;

    h = (h ^ h >> 15) * 0x2c1b3c6du;
    h = (h ^ h >> 12) * 0x297a2d39u;
    return h ^ h >> 15;
}

static float unit(uint32_t x, uint32_t y, uint32_t seed) /* 0..1 */
{
    return (float)(hash3(x, y, seed) >> 8) / 16777216.0f;
}

/* Smooth noise of period 1, 0..1 */
static float noise(float x, float y, uint32_t seed)
{
    float fx = floorf(x), fy = floorf(y), u = x - fx, v = y - fy;
    uint32_t ix = (uint32_t)(int32_t)fx, iy = (uint32_t)(int32_t)fy;
    float a = unit(ix, iy, seed), b = unit(ix + 1, iy, seed);
    float c = unit(ix, iy + 1, seed), d = unit(ix + 1, iy + 1, seed);

    u = u * u * (3 - 2 * u);
    v = v * v * (3 - 2 * v);
    return (a + (b - a) * u) + ((c + (d - c) * u) - (a + (b - a) * u)) * v;
}

static float fbm(float x, float y, uint32_t seed)
{
    float v = 0, k = 0.5f;

    for (uint32_t i = 0; i < 4; i++, k /= 2, x *= 2, y *= 2)
        v += k * noise(x, y, seed + i);
    return v;
}

static float smooth(float lo, float hi, float v)
{
    float t = (v - lo) / (hi - lo);

    t = t < 0 ? 0 : t > 1 ? 1 : t;
    return t * t * (3 - 2 * t);
}

/* ---- pictures ---- */

struct pic {
    uint32_t w, h;
    float *p; /* 3 a pixel, 0..1 */
};

static struct pic pic_new(uint32_t w, uint32_t h)
{
    struct pic c = {w, h, calloc((size_t)w * h * 3, sizeof(float))};

    if (c.p == NULL) die("memory");
    return c;
}

static void mix(float *px, float r, float g, float b, float k)
{
    px[0] += (r - px[0]) * k;
    px[1] += (g - px[1]) * k;
    px[2] += (b - px[2]) * k;
}

static void spot(struct pic *c, float x, float y, float radius, const float rgb[3], float k)
{
    int32_t x0 = (int32_t)(x - radius - 1), x1 = (int32_t)(x + radius + 2);
    int32_t y0 = (int32_t)(y - radius - 1), y1 = (int32_t)(y + radius + 2);

    for (int32_t j = y0 < 0 ? 0 : y0; j < y1 && j < (int32_t)c->h; j++) {
        for (int32_t i = x0 < 0 ? 0 : x0; i < x1 && i < (int32_t)c->w; i++) {
            float d = hypotf((float)i - x, (float)j - y);
            float *px = c->p + ((size_t)j * c->w + (size_t)i) * 3;

            mix(px, rgb[0], rgb[1], rgb[2], k * (1 - smooth(radius - 0.7f, radius + 0.7f, d)));
        }
    }
}

/* A vessel: a walk that bends, thins and branches. */
static void vessel(struct pic *c, float x, float y, float dir, float radius, uint32_t seed,
                   const float rgb[3])
{
    for (uint32_t i = 0; i < 900 && radius > 0.5f; i++) {
        dir += (unit(i, 1, seed) - 0.5f) * 0.16f + (noise((float)i / 40, 0, seed) - 0.5f) * 0.05f;
        x += cosf(dir);
        y += sinf(dir);
        if (x < 0 || y < 0 || x >= (float)c->w || y >= (float)c->h) return;
        spot(c, x, y, radius, rgb, 0.35f);
        radius *= 0.9975f;
        if (unit(i, 2, seed) < 0.012f && radius > 1) {
            vessel(c, x, y, dir + (unit(i, 3, seed) < 0.5f ? 0.6f : -0.6f), radius * 0.7f,
                   seed * 31 + i + 1, rgb);
        }
    }
}

static void blur(struct pic *c, int radius)
{
    float *t = malloc((size_t)c->w * c->h * 3 * sizeof(float));

    if (t == NULL) die("memory");
    for (int pass = 0; pass < 6; pass++) { /* three boxes each way: nearly a Gaussian */
        int across = pass % 2 == 0;

        memcpy(t, c->p, (size_t)c->w * c->h * 3 * sizeof(float));
        for (int32_t y = 0; y < (int32_t)c->h; y++) {
            for (int32_t x = 0; x < (int32_t)c->w * 3; x++) {
                float sum = 0;

                for (int k = -radius; k <= radius; k++) {
                    int32_t i = across ? x / 3 + k : x / 3, j = across ? y : y + k;

                    i = i < 0 ? 0 : i >= (int32_t)c->w ? (int32_t)c->w - 1 : i;
                    j = j < 0 ? 0 : j >= (int32_t)c->h ? (int32_t)c->h - 1 : j;
                    sum += t[((size_t)j * c->w + (size_t)i) * 3 + (size_t)(x % 3)];
                }
                c->p[(size_t)y * c->w * 3 + (size_t)x] = sum / (float)(2 * radius + 1);
            }
        }
    }
    free(t);
}

static void expose(struct pic *c, float gain, float offset)
{
    for (size_t i = 0; i < (size_t)c->w * c->h * 3; i++)
        c->p[i] = c->p[i] > 0 ? c->p[i] * gain + offset * smooth(0, 0.2f, c->p[i]) : 0;
}

/* The round field of view, black outside; applied last, for optics do not blur the mask. */
static void vignette(struct pic *c, float radius)
{
    for (uint32_t y = 0; y < c->h; y++) {
        for (uint32_t x = 0; x < c->w; x++) {
            float d = hypotf((float)x - (float)c->w / 2, (float)y - (float)c->h / 2);
            float k = 1 - smooth(radius - 2, radius + 2, d);

            for (size_t i = 0; i < 3; i++)
                c->p[((size_t)y * c->w + x) * 3 + i] *= k;
        }
    }
}

static uint8_t *to8(const struct pic *c)
{
    size_t n = (size_t)c->w * c->h * 3;
    uint8_t *b = malloc(n);

    if (b == NULL) die("memory");
    for (size_t i = 0; i < n; i++) {
        float v = c->p[i] * 255 + 0.5f;

        b[i] = v <= 0 ? 0 : v >= 255 ? 255 : (uint8_t)v;
    }
    return b;
}

/* ---- scenes ---- */

static struct pic draw_endoscopy(uint32_t seed)
{
    struct pic c = pic_new(640, 512);
    float lx = 320 + (unit(1, 0, seed) - 0.5f) * 200, ly = 256 + (unit(2, 0, seed) - 0.5f) * 140;
    static const float red[3] = {0.52f, 0.12f, 0.13f}, white[3] = {1, 1, 0.97f};

    for (uint32_t y = 0; y < c.h; y++) {
        for (uint32_t x = 0; x < c.w; x++) {
            float *px = c.p + ((size_t)y * c.w + x) * 3, fx = (float)x, fy = (float)y;
            float bend = fbm(fx / 90, fy / 90, seed) * 60;
            float d = hypotf(fx - lx, (fy - ly) * 1.2f) + bend;
            float fold = 0.5f + 0.5f * sinf(sqrtf(d) * 2.1f);
            float light = smooth(30, 190, d) * (0.72f + 0.28f * fold);

            px[0] = light * 0.86f;
            px[1] = light * (0.46f + 0.1f * fold);
            px[2] = light * 0.40f;
            /* mucosa is finely mottled */
            for (size_t i = 0; i < 3; i++)
                px[i] *= 0.88f + 0.24f * noise(fx / 2.2f, fy / 2.2f, seed + 9);
        }
    }
    for (uint32_t i = 0; i < 14; i++) {
        float a = 2 * pi * unit(i, 4, seed);

        vessel(&c, 320 + 230 * cosf(a), 256 + 230 * sinf(a), a + pi + unit(i, 5, seed) - 0.5f, 2.4f,
               seed * 100 + i, red);
    }
    for (uint32_t i = 0; i < 25; i++) {
        float a = 2 * pi * unit(i, 6, seed), r = 90 + 120 * unit(i, 7, seed);

        spot(&c, lx + r * cosf(a), ly + r * sinf(a), 1 + 3 * unit(i, 8, seed), white, 0.9f);
    }
    return c;
}

static struct pic draw_fundus(uint32_t seed)
{
    struct pic c = pic_new(900, 900);
    float ox = seed % 2 == 0 ? 270 : 630, oy = 440 + 30 * unit(1, 1, seed);
    static const float red[3] = {0.42f, 0.07f, 0.05f};

    for (uint32_t y = 0; y < c.h; y++) {
        for (uint32_t x = 0; x < c.w; x++) {
            float *px = c.p + ((size_t)y * c.w + x) * 3, fx = (float)x, fy = (float)y;
            float macula = 1 - 0.45f * (1 - smooth(0, 110, hypotf(fx - (900 - ox), fy - 450)));
            float shade = (1 - 0.3f * hypotf(fx - 450, fy - 450) / 450) *
                          (0.9f + 0.2f * fbm(fx / 60, fy / 60, seed)) * macula *
                          (0.95f + 0.1f * noise(fx / 2, fy / 2, seed + 5));

            px[0] = 0.80f * shade;
            px[1] = 0.36f * shade;
            px[2] = 0.16f * shade;
            mix(px, 1.0f, 0.86f, 0.55f, 0.85f * (1 - smooth(48, 62, hypotf(fx - ox, fy - oy))));
        }
    }
    for (uint32_t i = 0; i < 16; i++) {
        float up = i % 2 == 0 ? -1 : 1, toward = ox < 450 ? 0 : pi;
        float dir = toward + (ox < 450 ? 1 : -1) * up * (0.25f + 1.4f * unit(i, 3, seed));

        vessel(&c, ox, oy, dir, 2.5f + 3 * unit(i, 4, seed), seed * 77 + i, red);
    }
    return c;
}

static struct pic draw_slide(uint32_t w, uint32_t h, uint32_t seed)
{
    struct pic c = pic_new(w, h);

    for (uint32_t y = 0; y < h; y++) {
        for (uint32_t x = 0; x < w; x++) {
            float *px = c.p + ((size_t)y * w + x) * 3, fx = (float)x, fy = (float)y;
            float d = hypotf((fx - (float)w / 2) / (float)w, (fy - (float)h / 2) / (float)h);
            float tissue = smooth(0.42f, 0.36f, d + 0.22f * (fbm(fx / 260, fy / 260, seed) - 0.5f));
            float fibre = fbm(fx / 30 + 3 * noise(fy / 90, 0, seed), fy / 9, seed + 3);

            px[0] = 0.955f;
            px[1] = 0.945f;
            px[2] = 0.96f;
            mix(px, 0.90f, 0.62f + 0.2f * fibre, 0.76f + 0.12f * fibre, tissue);
        }
    }
    /* nuclei on a jittered grid, where there is tissue */
    for (uint32_t j = 0; j < h / 17; j++) {
        for (uint32_t i = 0; i < w / 17; i++) {
            float x = ((float)i + unit(i, j, seed + 20)) * 17,
                  y = ((float)j + unit(i, j, seed + 21)) * 17;
            float k = noise(x / 150, y / 150, seed + 4), rgb[3] = {0.36f, 0.22f, 0.52f};
            uint32_t at_x = (uint32_t)x < w ? (uint32_t)x : w - 1;
            uint32_t at_y = (uint32_t)y < h ? (uint32_t)y : h - 1;

            rgb[2] += 0.12f * unit(i, j, seed + 22);
            if (c.p[((size_t)at_y * w + at_x) * 3 + 1] > 0.9f ||
                unit(i, j, seed + 23) > 0.25f + k) {
                continue;
            }
            spot(&c, x, y, 2.5f + 3 * unit(i, j, seed + 24), rgb, 0.85f);
        }
    }
    return c;
}

/* ---- files ---- */

static FILE *create(const char *path)
{
    FILE *f = fopen(path, "wb");

    if (f == NULL) die(path);
    return f;
}

static void finish(FILE *f, const char *path)
{
    if (fclose(f) != 0) die(path);
}

static void write_jpeg(const char *path, const struct pic *c, int quality)
{
    struct jpeg_compress_struct j;
    struct jpeg_error_mgr err;
    uint8_t *b = to8(c);
    FILE *f = create(path);

    j.err = jpeg_std_error(&err);
    jpeg_create_compress(&j);
    jpeg_stdio_dest(&j, f);
    j.image_width = c->w;
    j.image_height = c->h;
    j.input_components = 3;
    j.in_color_space = JCS_RGB;
    jpeg_set_defaults(&j);
    jpeg_set_quality(&j, quality, TRUE);
    jpeg_start_compress(&j, TRUE);
    while (j.next_scanline < j.image_height) {
        JSAMPROW row = b + (size_t)j.next_scanline * c->w * 3;

        (void)jpeg_write_scanlines(&j, &row, 1); /* errors leave through error_exit */
    }
    jpeg_finish_compress(&j);
    jpeg_destroy_compress(&j);
    finish(f, path);
    free(b);
}

static void write_png(const char *path, const struct pic *c)
{
    png_image img = {
        .version = PNG_IMAGE_VERSION, .width = c->w, .height = c->h, .format = PNG_FORMAT_RGB};
    uint8_t *b = to8(c);

    if (png_image_write_to_file(&img, path, 0, b, 0, NULL) == 0) {
        (void)fprintf(stderr, "mk_samples: %s: %s\n", path, img.message);
        exit(1);
    }
    free(b);
}

static void tiff_level(TIFF *t, const struct pic *c, uint32_t factor, uint16_t compression)
{
    enum { TILE = 256 };
    uint32_t w = c->w / factor, h = c->h / factor;
    static uint8_t tile[TILE * TILE * 3];

    (void)TIFFSetField(t, TIFFTAG_SUBFILETYPE, factor > 1 ? FILETYPE_REDUCEDIMAGE : 0);
    (void)TIFFSetField(t, TIFFTAG_IMAGEWIDTH, w);
    (void)TIFFSetField(t, TIFFTAG_IMAGELENGTH, h);
    (void)TIFFSetField(t, TIFFTAG_BITSPERSAMPLE, 8);
    (void)TIFFSetField(t, TIFFTAG_SAMPLESPERPIXEL, 3);
    (void)TIFFSetField(t, TIFFTAG_PLANARCONFIG, PLANARCONFIG_CONTIG);
    (void)TIFFSetField(t, TIFFTAG_COMPRESSION, compression);
    (void)TIFFSetField(t, TIFFTAG_PHOTOMETRIC,
                       compression == COMPRESSION_JPEG ? PHOTOMETRIC_YCBCR : PHOTOMETRIC_RGB);
    if (compression == COMPRESSION_JPEG) {
        (void)TIFFSetField(t, TIFFTAG_JPEGQUALITY, 80);
        (void)TIFFSetField(t, TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
    } else {
        (void)TIFFSetField(t, TIFFTAG_PREDICTOR, PREDICTOR_HORIZONTAL);
    }
    (void)TIFFSetField(t, TIFFTAG_TILEWIDTH, TILE);
    (void)TIFFSetField(t, TIFFTAG_TILELENGTH, TILE);
    for (uint32_t ty = 0; ty < h; ty += TILE) {
        for (uint32_t tx = 0; tx < w; tx += TILE) {
            for (uint32_t i = 0; i < TILE * TILE * 3; i++) {
                uint32_t x = tx + i / 3 % TILE, y = ty + i / 3 / TILE;
                float sum = 0;

                x = x < w ? x : w - 1;
                y = y < h ? y : h - 1;
                for (uint32_t k = 0; k < factor * factor; k++)
                    sum +=
                        c->p[((size_t)(y * factor + k / factor) * c->w + x * factor + k % factor) *
                                 3 +
                             i % 3];
                sum = sum / (float)(factor * factor) * 255 + 0.5f;
                tile[i] = sum <= 0 ? 0 : sum >= 255 ? 255 : (uint8_t)sum;
            }
            if (TIFFWriteTile(t, tile, tx, ty, 0, 0) < 0) die("TIFF tile");
        }
    }
    if (!TIFFWriteDirectory(t)) die("TIFF directory");
}

static void write_tiff(const char *path, const struct pic *c, uint16_t compression)
{
    TIFF *t = TIFFOpen(path, "w");

    if (t == NULL) die(path);
    for (uint32_t factor = 1; factor <= 4; factor *= 2)
        tiff_level(t, c, factor, compression);
    TIFFClose(t);
}

/* ---- DICOM ---- */

struct dcm_out {
    FILE *f;
    const char *path;
};

static void put(struct dcm_out *o, const void *p, size_t n)
{
    if (fwrite(p, 1, n, o->f) != n) die(o->path);
}

static void put_le(struct dcm_out *o, uint32_t v, unsigned n)
{
    uint8_t b[4];

    for (unsigned i = 0; i < n; i++)
        b[i] = (uint8_t)(v >> (8 * i));
    put(o, b, n);
}

/* Explicit little-endian; values are padded to even length, UIDs with 0, text with a space. */
static void elem(struct dcm_out *o, uint16_t group, uint16_t tag, const char *vr, const void *p,
                 size_t n)
{
    bool is_long = vr[0] == 'O';

    put_le(o, group, 2);
    put_le(o, tag, 2);
    put(o, vr, 2);
    if (is_long) put_le(o, 0, 2);
    put_le(o, (uint32_t)(n + n % 2), is_long ? 4 : 2);
    put(o, p, n);
    if (n % 2 != 0) put(o, vr[0] == 'U' || vr[0] == 'O' ? "" : " ", 1);
}

static void text(struct dcm_out *o, uint16_t group, uint16_t tag, const char *vr, const char *s)
{
    elem(o, group, tag, vr, s, strlen(s));
}

static void us(struct dcm_out *o, uint16_t group, uint16_t tag, uint16_t v)
{
    uint8_t b[2] = {(uint8_t)v, (uint8_t)(v >> 8)};

    elem(o, group, tag, "US", b, 2);
}

struct slice {
    const char *modality, *sop_class, *body;
    uint32_t study, number;
    uint16_t side;
    const char *intercept, *center, *width;
    const uint16_t *px;
};

/* 2.25 is the arc for numbers made from UUIDs; these were made once and are the project's own. */
#define UID_ROOT "2.25.329800735698586629295641978511506172918"

static void write_dicom(const char *path, const struct slice *s)
{
    struct dcm_out o = {create(path), path};
    char study[80], series[96], sop[112], num[16], pos[48];
    static const uint8_t preamble[128], version[2] = {0, 1};
    size_t px_n = (size_t)s->side * s->side * 2;
    uint32_t meta;

    (void)snprintf(study, sizeof(study), UID_ROOT ".%u", s->study);
    (void)snprintf(series, sizeof(series), "%s.1", study);
    (void)snprintf(sop, sizeof(sop), "%s.%u", series, s->number);
    (void)snprintf(num, sizeof(num), "%u", s->number);
    (void)snprintf(pos, sizeof(pos), "-160\\-160\\%u", s->number * 5);
    put(&o, preamble, sizeof(preamble));
    put(&o, "DICM", 4);
    meta = (uint32_t)(14 + 8 + ((strlen(s->sop_class) + 1) & ~1u) + 8 + ((strlen(sop) + 1) & ~1u) +
                      8 + 20 + 8 + ((strlen(UID_ROOT) + 1) & ~1u));
    elem(&o, 2, 0, "UL", (uint8_t[]){(uint8_t)meta, (uint8_t)(meta >> 8), 0, 0}, 4);
    elem(&o, 2, 1, "OB", version, 2);
    text(&o, 2, 2, "UI", s->sop_class);
    text(&o, 2, 3, "UI", sop);
    text(&o, 2, 0x10, "UI", "1.2.840.10008.1.2.1");
    text(&o, 2, 0x12, "UI", UID_ROOT);
    text(&o, 8, 0x08, "CS", "DERIVED\\SECONDARY");
    text(&o, 8, 0x16, "UI", s->sop_class);
    text(&o, 8, 0x18, "UI", sop);
    text(&o, 8, 0x20, "DA", "");
    text(&o, 8, 0x30, "TM", "");
    text(&o, 8, 0x50, "SH", "");
    text(&o, 8, 0x60, "CS", s->modality);
    text(&o, 8, 0x70, "LO", "mikura samples");
    text(&o, 8, 0x90, "PN", "");
    text(&o, 0x10, 0x10, "PN", "");
    text(&o, 0x10, 0x20, "LO", s->study == 1 ? "SAMPLE-1" : "SAMPLE-2");
    text(&o, 0x10, 0x30, "DA", "");
    text(&o, 0x10, 0x40, "CS", "");
    text(&o, 0x12, 0x62, "CS", "YES");
    text(&o, 0x12, 0x63, "LO", "drawn by mk_samples, no patient");
    text(&o, 0x18, 0x15, "CS", s->body);
    text(&o, 0x18, 0x50, "DS", "5");
    text(&o, 0x20, 0x0d, "UI", study);
    text(&o, 0x20, 0x0e, "UI", series);
    text(&o, 0x20, 0x10, "SH", "");
    text(&o, 0x20, 0x11, "IS", "1");
    text(&o, 0x20, 0x13, "IS", num);
    text(&o, 0x20, 0x32, "DS", pos);
    text(&o, 0x20, 0x37, "DS", "1\\0\\0\\0\\1\\0");
    us(&o, 0x28, 2, 1);
    text(&o, 0x28, 4, "CS", "MONOCHROME2");
    us(&o, 0x28, 0x10, s->side);
    us(&o, 0x28, 0x11, s->side);
    text(&o, 0x28, 0x30, "DS", "1.25\\1.25");
    us(&o, 0x28, 0x100, 16);
    us(&o, 0x28, 0x101, 12);
    us(&o, 0x28, 0x102, 11);
    us(&o, 0x28, 0x103, 0);
    text(&o, 0x28, 0x301, "CS", "NO");
    text(&o, 0x28, 0x1050, "DS", s->center);
    text(&o, 0x28, 0x1051, "DS", s->width);
    text(&o, 0x28, 0x1052, "DS", s->intercept);
    text(&o, 0x28, 0x1053, "DS", "1");
    elem(&o, 0x7fe0, 0x10, "OW", "", 0);
    /* the length was 0: it is written again, for 16-bit samples go out in little-endian one by one
     */
    if (fseek(o.f, -4, SEEK_CUR) != 0) die(path);
    put_le(&o, (uint32_t)px_n, 4);
    for (size_t i = 0; i < px_n / 2; i++)
        put_le(&o, s->px[i], 2);
    finish(o.f, path);
}

/* Inside an ellipse, soft by `soft` of its radius: 1 inside, 0 outside. */
static float ellipse(float x, float y, float cx, float cy, float rx, float ry)
{
    return 1 - smooth(0.97f, 1.03f, hypotf((x - cx) / rx, (y - cy) / ry));
}

static float lerp(float a, float b, float k)
{
    return a + (b - a) * k;
}

static void draw_ct(uint16_t *px, uint32_t side, uint32_t z)
{
    float t = (float)z / 7;

    for (uint32_t j = 0; j < side; j++) {
        for (uint32_t i = 0; i < side; i++) {
            float x = (float)i / (float)side, y = (float)j / (float)side, hu = -1000;
            float grain = unit(i, j, 500 + z) + unit(i, j, 600 + z) - 1;

            hu = lerp(hu, -90, ellipse(x, y, 0.5f, 0.5f, 0.42f, 0.32f)); /* fat */
            hu = lerp(hu, 45, ellipse(x, y, 0.5f, 0.5f, 0.39f, 0.29f));
            hu = lerp(hu, -820 + 120 * fbm(x * 30, y * 30, 7 + z),
                      ellipse(x, y, 0.33f, 0.48f, 0.12f - 0.02f * t, 0.2f));
            hu = lerp(hu, -820 + 120 * fbm(x * 30, y * 30, 70 + z),
                      ellipse(x, y, 0.67f, 0.48f, 0.12f - 0.02f * t, 0.2f));
            hu = lerp(hu, 160, ellipse(x, y, 0.54f, 0.43f, 0.08f + 0.02f * t, 0.09f)); /* heart */
            hu = lerp(hu, 700, ellipse(x, y, 0.5f, 0.69f, 0.05f, 0.05f));              /* spine */
            hu = lerp(hu, 20, ellipse(x, y, 0.5f, 0.70f, 0.018f, 0.018f));
            for (uint32_t r = 0; r < 12; r++) { /* ribs */
                float a = 2 * pi * ((float)r + t) / 12;

                hu = lerp(
                    hu, 600,
                    ellipse(x, y, 0.5f + 0.365f * cosf(a), 0.5f + 0.265f * sinf(a), 0.02f, 0.012f));
            }
            hu += 25 * grain;
            hu = hu < -1024 ? -1024 : hu > 3000 ? 3000 : hu;
            px[(size_t)j * side + i] = (uint16_t)(hu + 1024.5f);
        }
    }
}

static void draw_mr(uint16_t *px, uint32_t side, uint32_t z)
{
    float t = (float)z / 6;

    for (uint32_t j = 0; j < side; j++) {
        for (uint32_t i = 0; i < side; i++) {
            float x = (float)i / (float)side, y = (float)j / (float)side, v = 8;
            float wave = fbm(x * 14, y * 14, 40 + z), grain = unit(i, j, 900 + z);

            v = lerp(v, 700, ellipse(x, y, 0.5f, 0.5f, 0.36f, 0.43f)); /* scalp */
            v = lerp(v, 60, ellipse(x, y, 0.5f, 0.5f, 0.345f, 0.41f)); /* bone */
            v = lerp(v, 950, ellipse(x, y, 0.5f, 0.5f, 0.325f, 0.39f));
            v = lerp(v, 520 + 260 * smooth(0.42f, 0.55f, wave),
                     ellipse(x, y, 0.5f, 0.5f, 0.315f, 0.38f));
            v = lerp(v, 380, ellipse(x, y, 0.5f, 0.5f, 0.2f, 0.26f) * 0.7f);
            v = lerp(v, 1100, ellipse(x, y, 0.455f, 0.47f, 0.025f + 0.02f * t, 0.1f));
            v = lerp(v, 1100, ellipse(x, y, 0.545f, 0.47f, 0.025f + 0.02f * t, 0.1f));
            if (fabsf(x - 0.5f) < 0.003f) v = lerp(v, 1000, ellipse(x, y, 0.5f, 0.5f, 0.3f, 0.38f));
            v += 30 * grain;
            px[(size_t)j * side + i] = (uint16_t)(v < 0 ? 0 : v);
        }
    }
}

/* ---- the cases ---- */

static void folder(char *path, size_t cap, const char *out, const char *a, const char *b)
{
    (void)snprintf(path, cap, "%s/%s", out, a);
    if (mkdir(path, 0777) != 0 && errno != EEXIST) die(path);
    if (b == NULL) return;
    (void)snprintf(path, cap, "%s/%s/%s", out, a, b);
    if (mkdir(path, 0777) != 0 && errno != EEXIST) die(path);
}

struct scene {
    const char *dir, *name;
    uint32_t seed;
    int blur;
    float gain, offset;
};

static void make_photos(const char *out, const char *society, const struct scene *s, size_t n,
                        struct pic (*draw)(uint32_t), float radius)
{
    char dir[2048], path[4096];

    for (size_t i = 0; i < n; i++) {
        struct pic c = draw(s[i].seed);

        folder(dir, sizeof(dir), out, society, s[i].dir);
        (void)snprintf(path, sizeof(path), "%s/%s", dir, s[i].name);
        if (s[i].blur > 0) blur(&c, s[i].blur);
        expose(&c, s[i].gain, s[i].offset);
        vignette(&c, radius);
        if (strstr(s[i].name, ".png") != NULL) {
            write_png(path, &c);
        } else {
            write_jpeg(path, &c, 88);
        }
        free(c.p);
    }
}

static void make_slides(const char *out)
{
    char dir[2048], path[4096];
    struct pic c = draw_slide(2048, 1536, 11);

    folder(dir, sizeof(dir), out, "pathology", NULL);
    (void)snprintf(path, sizeof(path), "%s/slide-1.tif", dir);
    write_tiff(path, &c, COMPRESSION_JPEG);
    free(c.p);
    c = draw_slide(1024, 768, 12);
    blur(&c, 3);
    (void)snprintf(path, sizeof(path), "%s/slide-2-blurred.tif", dir);
    write_tiff(path, &c, COMPRESSION_ADOBE_DEFLATE);
    free(c.p);
}

static void make_series(const char *out)
{
    enum { SIDE = 256 };
    static uint16_t px[SIDE * SIDE];
    char dir[2048], path[4096];
    struct slice ct = {.modality = "CT",
                       .sop_class = "1.2.840.10008.5.1.4.1.1.2",
                       .body = "CHEST",
                       .study = 1,
                       .side = SIDE,
                       .intercept = "-1024",
                       .center = "40",
                       .width = "400",
                       .px = px};
    struct slice mr = {.modality = "MR",
                       .sop_class = "1.2.840.10008.5.1.4.1.1.4",
                       .body = "HEAD",
                       .study = 2,
                       .side = SIDE,
                       .intercept = "0",
                       .center = "550",
                       .width = "1100",
                       .px = px};

    folder(dir, sizeof(dir), out, "radiology", "chest-ct");
    for (ct.number = 1; ct.number <= 8; ct.number++) {
        draw_ct(px, SIDE, ct.number - 1);
        (void)snprintf(path, sizeof(path), "%s/%03u.dcm", dir, ct.number);
        write_dicom(path, &ct);
    }
    folder(dir, sizeof(dir), out, "radiology", "head-mr");
    for (mr.number = 1; mr.number <= 6; mr.number++) {
        draw_mr(px, SIDE, mr.number - 1);
        (void)snprintf(path, sizeof(path), "%s/%03u.dcm", dir, mr.number);
        write_dicom(path, &mr);
    }
}

int main(int argc, char **argv)
{
    static const struct scene endoscopy[] = {
        {"colon-1", "frame-1.jpg", 1, 0, 1, 0},
        {"colon-1", "frame-2.jpg", 2, 0, 1, 0},
        {"colon-1", "frame-3-blurred.jpg", 3, 5, 1, 0},
        {"colon-2", "frame-1.png", 4, 0, 1, 0},
        {"colon-2", "frame-2-dark.jpg", 5, 0, 0.13f, 0},
        {"colon-2", "frame-3-overexposed.jpg", 6, 0, 1.9f, 0.5f},
        {"colon-2", "frame-4-blurred.png", 7, 7, 1, 0},
    };
    static const struct scene fundus[] = {
        {NULL, "fundus-1-left.jpg", 1, 0, 1.1f, 0},
        {NULL, "fundus-2-right.jpg", 2, 0, 1.1f, 0},
        {NULL, "fundus-3-blurred.jpg", 3, 6, 1.1f, 0},
        {NULL, "fundus-4-dark.jpg", 4, 0, 0.16f, 0},
    };

    if (argc != 2) {
        (void)fprintf(stderr, "usage: mk_samples OUTDIR\n");
        return 2;
    }
    if (mkdir(argv[1], 0777) != 0 && errno != EEXIST) die(argv[1]);
    make_photos(argv[1], "endoscopy", endoscopy, sizeof(endoscopy) / sizeof(endoscopy[0]),
                draw_endoscopy, 250);
    make_photos(argv[1], "ophthalmology", fundus, sizeof(fundus) / sizeof(fundus[0]), draw_fundus,
                430);
    make_slides(argv[1]);
    make_series(argv[1]);
    return 0;
}
