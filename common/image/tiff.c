/* common/image/tiff.c - TIFF, BigTIFF, pyramids (SVS, NDPI, OME, generic) through libtiff.
 *
 * Directories are listed once at opening: the first is level 0; one of its size is a further frame
 * (page); a smaller one of its shape, tiled if the first is, is a level; sub-directories of the
 * first likewise. All others (label, macro, thumbnail: they can show a patient's name) are counted
 * and never decoded. Pixels come through libtiff's RGBA interface, a tile or strip at a time, which
 * knows all photometric kinds of up to 16 bits; the last one is kept. Orientation is not applied:
 * rows come as they lie in the file.
 * libtiff's messages go to this handle's own functions, none to stderr. */
#include "common/image/image_priv.h"
#include "common/image/j2k.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <tiffio.h>

enum {
    DIRS_MAX = 1024,
    SUBDIRS_MAX = 64,
    COMPRESSION_APERIO_YCC = 33003,
    COMPRESSION_APERIO_RGB = 33005
};

struct dir {
    uint64_t off;
    uint32_t width, height;
    uint32_t block_width, block_height; /* of a tile or strip */
    uint16_t compression;
    bool tiled;
};

struct tiff {
    TIFF *t;
    struct image_source src;
    struct image_limits limits;
    uint64_t pos;
    bool lossy_fault; /* a warning that pixels were made up */
    struct err fault; /* the first error since it was cleared */
    uint64_t cur_off; /* directory that libtiff has loaded */
    struct dir level[IMAGE_LEVELS_MAX];
    uint32_t level_n;
    struct dir *frame; /* pages of level 0's size; frame[0] is level[0] */
    uint32_t frame_n, associated_n, channel_n;
    uint64_t block_off; /* which block is in raster: directory and index */
    uint32_t block_idx;
    bool block_valid;
    uint32_t *raster;
    size_t raster_n;
};

/* ---- libtiff's view of the source ---- */

static tmsize_t on_read(thandle_t h, void *buf, tmsize_t n)
{
    struct tiff *f = (struct tiff *)h;
    struct err err;

    if (n <= 0 || f->pos >= f->src.size) return 0;
    n = (tmsize_t)MIN((uint64_t)n, f->src.size - f->pos);
    if (image_source_read(&f->src, f->pos, buf, (size_t)n, &err) != RC_OK) {
        if (f->fault.rc == RC_OK) f->fault = err; /* the source's own reason goes first */
        return 0;
    }
    f->pos += (uint64_t)n;
    return n;
}

static tmsize_t on_write(thandle_t h, void *buf, tmsize_t n)
{
    (void)h;
    (void)buf;
    (void)n;
    return 0;
}

static toff_t on_seek(thandle_t h, toff_t off, int whence)
{
    struct tiff *f = (struct tiff *)h;

    if (whence == SEEK_CUR) off += f->pos;
    if (whence == SEEK_END) off += f->src.size;
    f->pos = off;
    return off;
}

static int on_close(thandle_t h)
{
    (void)h;
    return 0;
}

static toff_t on_size(thandle_t h)
{
    return ((struct tiff *)h)->src.size;
}

PRINTF_LIKE(4, 0)
static int on_error(TIFF *t, void *user, const char *module, const char *fmt, va_list ap)
{
    struct tiff *f = user;
    char text[256];

    (void)t;
    (void)module;
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    if (f->fault.rc == RC_OK) (void)err_set(&f->fault, RC_CORRUPT, "TIFF: %s", text);
    return 1;
}

/* Most warnings are about unknown tags; the JPEG decoder's say that it filled in grey. */
PRINTF_LIKE(4, 0)
static int on_warning(TIFF *t, void *user, const char *module, const char *fmt, va_list ap)
{
    struct tiff *f = user;
    char text[256];

    (void)t;
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    if (module != NULL && strcmp(module, "JPEGLib") == 0 &&
        (strstr(text, "Premature end") != NULL || strstr(text, "premature end") != NULL ||
         strstr(text, "bad Huffman") != NULL)) {
        f->lossy_fault = true;
        if (f->fault.rc == RC_OK) (void)err_set(&f->fault, RC_CORRUPT, "TIFF: %s", text);
    }
    return 1;
}

static enum rc fault(struct tiff *f, const char *what, struct err *reterr)
{
    if (f->fault.rc == RC_OK) return err_set(reterr, RC_CORRUPT, "TIFF: %s", what);
    if (strstr(f->fault.msg, "byte limit defined in open options") != NULL) {
        f->fault.rc = RC_BUSY;
    }
    *reterr = f->fault;
    return f->fault.rc;
}

static void fault_clear(struct tiff *f)
{
    f->fault = (struct err){.rc = RC_OK};
    f->lossy_fault = false;
}

/* ---- directories ---- */

static enum rc dir_load(struct tiff *f, struct dir *ret_d, struct err *reterr)
{
    struct dir d = {.off = TIFFCurrentDirOffset(f->t), .tiled = TIFFIsTiled(f->t) != 0};

    if (TIFFGetField(f->t, TIFFTAG_IMAGEWIDTH, &d.width) != 1 ||
        TIFFGetField(f->t, TIFFTAG_IMAGELENGTH, &d.height) != 1 || d.width == 0 || d.height == 0) {
        return err_set(reterr, RC_CORRUPT, "TIFF: a directory without a size");
    }
    (void)TIFFGetFieldDefaulted(f->t, TIFFTAG_COMPRESSION, &d.compression);
    if (d.tiled) {
        (void)TIFFGetField(f->t, TIFFTAG_TILEWIDTH, &d.block_width);
        (void)TIFFGetField(f->t, TIFFTAG_TILELENGTH, &d.block_height);
    } else {
        d.block_width = d.width;
        (void)TIFFGetFieldDefaulted(f->t, TIFFTAG_ROWSPERSTRIP, &d.block_height);
        d.block_height = MIN(d.block_height, d.height);
    }
    if (d.block_width == 0 || d.block_height == 0) {
        return err_set(reterr, RC_CORRUPT, "TIFF: tiles or strips without a size");
    }
    *ret_d = d;
    return RC_OK;
}

/* Same shape within 2 %, counting the rounding of small levels. */
static bool same_shape(const struct dir *a, const struct dir *b)
{
    double x = (double)a->width / b->width, y = (double)a->height / b->height;

    return b->width < a->width && b->height <= a->height &&
           fabs(x - y) <= 0.02 * MAX(x, y) + x / b->height + y / b->width;
}

static enum rc add_frame(struct tiff *f, const struct dir *d, struct err *reterr)
{
    struct dir *p = realloc(f->frame, (f->frame_n + 1) * sizeof(*p));

    if (p == NULL) return err_set(reterr, RC_NOMEM, "TIFF pages");
    f->frame = p;
    f->frame[f->frame_n++] = *d;
    return RC_OK;
}

static enum rc sort_in(struct tiff *f, const struct dir *d, bool sub, struct err *reterr)
{
    const struct dir *base = &f->level[0];

    if (f->level_n == 0) {
        f->level[f->level_n++] = *d;
        return add_frame(f, d, reterr);
    }
    if (!sub && d->width == base->width && d->height == base->height && d->tiled == base->tiled) {
        return add_frame(f, d, reterr);
    }
    if (same_shape(base, d) && (d->tiled || !base->tiled) && f->level_n < IMAGE_LEVELS_MAX) {
        for (uint32_t i = 0; i < f->level_n; i++) {
            if (f->level[i].width == d->width) return RC_OK; /* the level of another page */
        }
        f->level[f->level_n++] = *d;
        return RC_OK;
    }
    f->associated_n++;
    return RC_OK;
}

static int by_width(const void *a, const void *b)
{
    uint32_t x = ((const struct dir *)a)->width, y = ((const struct dir *)b)->width;

    return x < y ? 1 : x > y ? -1 : 0;
}

static enum rc list_subdirs(struct tiff *f, struct err *reterr)
{
    uint64_t offs[SUBDIRS_MAX], *p = NULL;
    uint16_t n = 0;
    struct dir d;
    enum rc rc = RC_OK;

    if (TIFFSetSubDirectory(f->t, f->level[0].off) != 1) return fault(f, "directory 0", reterr);
    if (TIFFGetField(f->t, TIFFTAG_SUBIFD, &n, &p) != 1) return RC_OK;
    n = (uint16_t)MIN(n, (uint16_t)SUBDIRS_MAX);
    memcpy(offs, p, n * sizeof(*offs)); /* p goes with the directory */
    for (uint16_t i = 0; rc == RC_OK && i < n; i++) {
        if (TIFFSetSubDirectory(f->t, offs[i]) != 1) return fault(f, "a sub-directory", reterr);
        rc = dir_load(f, &d, reterr);
        if (rc == RC_OK) rc = sort_in(f, &d, /* sub= */ true, reterr);
    }
    return rc;
}

static enum rc list_dirs(struct tiff *f, struct err *reterr)
{
    struct dir d;
    enum rc rc;

    for (uint32_t i = 0;; i++) {
        if (i == DIRS_MAX) return err_set(reterr, RC_BUSY, "TIFF: over %d directories", DIRS_MAX);
        rc = dir_load(f, &d, reterr);
        if (rc == RC_OK) rc = sort_in(f, &d, /* sub= */ false, reterr);
        if (rc != RC_OK) return rc;
        if (TIFFLastDirectory(f->t)) break;
        fault_clear(f);
        if (TIFFReadDirectory(f->t) != 1) return fault(f, "a directory is broken", reterr);
    }
    rc = list_subdirs(f, reterr);
    if (rc == RC_OK) qsort(f->level + 1, f->level_n - 1, sizeof(f->level[0]), by_width);
    return rc;
}

/* Make d libtiff's directory; a block is at most half of the memory limit. */
static enum rc dir_enter(struct tiff *f, const struct dir *d, struct err *reterr)
{
    struct image_limits l = {.memory_bytes_max = f->limits.memory_bytes_max / 2,
                             .pixels_max = f->limits.pixels_max};

    fault_clear(f);
    if (f->cur_off != d->off) {
        if (TIFFSetSubDirectory(f->t, d->off) != 1) return fault(f, "directory", reterr);
        /* in memory only: blocks are then returned as they lie */
        (void)TIFFSetField(f->t, TIFFTAG_ORIENTATION, ORIENTATION_TOPLEFT);
        f->cur_off = d->off;
        fault_clear(f);
    }
    if (TIFFIsTiled(f->t) && (uint64_t)TIFFTileSize64(f->t) > l.memory_bytes_max) {
        return err_set(reterr, RC_BUSY, "TIFF: tiles over the memory limit");
    }
    /* 4 bytes a pixel in our raster, up to 6 in libtiff's */
    return image_limits_check(&l, d->block_width, d->block_height, 10, reterr);
}

/* ---- blocks ---- */

static enum rc decode_aperio(struct tiff *f, const struct dir *d, uint32_t idx, struct err *reterr)
{
    uint64_t n = TIFFGetStrileByteCount(f->t, idx);
    struct j2k_image j = {0};
    uint8_t *p;
    enum rc rc;

    if (n == 0 || n > f->limits.memory_bytes_max / 8 || n > f->src.size) {
        return err_set(reterr, RC_CORRUPT, "TIFF: a tile of %llu bytes", (unsigned long long)n);
    }
    p = malloc((size_t)n);
    if (p == NULL) return err_set(reterr, RC_NOMEM, "TIFF tile");
    rc = TIFFReadRawTile(f->t, idx, p, (tmsize_t)n) == (tmsize_t)n ? RC_OK
                                                                   : fault(f, "a tile", reterr);
    if (rc == RC_OK) rc = j2k_decode(p, (size_t)n, &f->limits, &j, reterr);
    free(p);
    if (rc != RC_OK) return rc;
    if (j.width != d->block_width || j.height != d->block_height || j.channel_n != 3 ||
        j.bits != 8) {
        rc = err_set(reterr, RC_CORRUPT, "TIFF: a JPEG 2000 tile of another size");
    }
    for (size_t i = 0; rc == RC_OK && i < (size_t)j.width * j.height; i++) {
        double y = j.p[3 * i], cb = j.p[3 * i + 1] - 128.0, cr = j.p[3 * i + 2] - 128.0;
        double v[3] = {y, j.p[3 * i + 1], j.p[3 * i + 2]};
        size_t row = i / j.width, at = (j.height - 1 - row) * j.width + i % j.width;
        uint32_t px = 0xff000000u;

        if (d->compression == COMPRESSION_APERIO_YCC) {
            v[0] = y + 1.402 * cr;
            v[1] = y - 0.344136 * cb - 0.714136 * cr;
            v[2] = y + 1.772 * cb;
        }
        for (unsigned c = 0; c < 3; c++)
            px |= (uint32_t)(v[c] <= 0 ? 0 : v[c] >= 255 ? 255 : v[c] + 0.5) << (8 * c);
        f->raster[at] = px;
    }
    free(j.p);
    return rc;
}

static bool is_aperio(const struct dir *d)
{
    return d->tiled &&
           (d->compression == COMPRESSION_APERIO_YCC || d->compression == COMPRESSION_APERIO_RGB);
}

/* Block idx of d into the raster (bottom row first, as libtiff has it). */
static enum rc load_block(struct tiff *f, const struct dir *d, uint32_t idx, struct err *reterr)
{
    uint32_t across = (d->width + d->block_width - 1) / d->block_width;
    size_t n = (size_t)d->block_width * d->block_height;
    char text[1024];
    int ok;
    enum rc rc;

    if (f->block_valid && f->block_off == d->off && f->block_idx == idx) return RC_OK;
    f->block_valid = false;
    rc = dir_enter(f, d, reterr);
    if (rc != RC_OK) return rc;
    if (n > f->raster_n) {
        free(f->raster);
        f->raster = malloc(n * sizeof(*f->raster));
        f->raster_n = f->raster == NULL ? 0 : n;
    }
    if (f->raster == NULL) return err_set(reterr, RC_NOMEM, "TIFF block");
    if (is_aperio(d)) {
        rc = decode_aperio(f, d, idx, reterr);
    } else if (!TIFFRGBAImageOK(f->t, text)) {
        rc = err_set(reterr, RC_UNIMPL, "TIFF, compression %u: %.200s", d->compression, text);
    } else {
        ok = d->tiled ? TIFFReadRGBATileExt(f->t, (idx % across) * d->block_width,
                                            (idx / across) * d->block_height, f->raster, 1)
                      : TIFFReadRGBAStripExt(f->t, idx * d->block_height, f->raster, 1);
        if (ok != 1 || f->lossy_fault) rc = fault(f, "a tile or strip is broken", reterr);
    }
    f->block_off = d->off;
    f->block_idx = idx;
    f->block_valid = rc == RC_OK;
    return rc;
}

/* What of the block lies in the rectangle, to its place in out. */
static void copy_block(const struct tiff *f, const struct dir *d, uint32_t bx, uint32_t by,
                       struct image_rect rect, uint8_t *out)
{
    uint64_t x0 = (uint64_t)bx * d->block_width, y0 = (uint64_t)by * d->block_height;
    uint64_t x1 = MIN(x0 + d->block_width, rect.x + rect.width);
    uint64_t y1 = MIN(y0 + d->block_height, rect.y + rect.height);
    /* the last strip's raster has as many rows as are left; a tile's always all */
    uint64_t rows = d->tiled ? d->block_height : MIN((uint64_t)d->block_height, d->height - y0);
    uint32_t ch = f->channel_n;

    for (uint64_t y = MAX(y0, rect.y); y < y1; y++) {
        uint64_t xs = MAX(x0, rect.x);
        const uint32_t *from = f->raster + (rows - 1 - (y - y0)) * d->block_width + (xs - x0);
        uint8_t *to = out + ((y - rect.y) * rect.width + (xs - rect.x)) * ch;

        for (uint64_t x = xs; x < x1; x++, from++, to += ch) {
            to[0] = (uint8_t)TIFFGetR(*from);
            if (ch == 3) {
                to[1] = (uint8_t)TIFFGetG(*from);
                to[2] = (uint8_t)TIFFGetB(*from);
            }
        }
    }
}

static enum rc tiff_read(void *impl, uint32_t level, uint32_t frame, struct image_rect rect,
                         uint8_t *out, struct err *reterr)
{
    struct tiff *f = impl;
    const struct dir *d = level == 0 ? &f->frame[frame] : &f->level[level];
    uint32_t across = (d->width + d->block_width - 1) / d->block_width;
    enum rc rc;

    if (level > 0 && frame > 0) {
        return err_set(reterr, RC_RANGE, "TIFF: page %u has level 0 only", frame);
    }
    for (uint64_t by = rect.y / d->block_height; by * d->block_height < rect.y + rect.height;
         by++) {
        for (uint64_t bx = rect.x / d->block_width; bx * d->block_width < rect.x + rect.width;
             bx++) {
            rc = load_block(f, d, (uint32_t)(by * across + bx), reterr);
            if (rc != RC_OK) return rc;
            copy_block(f, d, (uint32_t)bx, (uint32_t)by, rect, out);
        }
    }
    return RC_OK;
}

static void tiff_close(void *impl)
{
    struct tiff *f = impl;

    if (f == NULL) return;
    if (f->t != NULL) TIFFClose(f->t);
    free(f->frame);
    free(f->raster);
    free(f);
}

static const struct image_ops tiff_ops = {tiff_read, tiff_close};

static enum rc tiff_new(struct image *img, struct tiff **ret_f, struct err *reterr)
{
    struct tiff *f = calloc(1, sizeof(*f));
    TIFFOpenOptions *o = TIFFOpenOptionsAlloc();
    enum rc rc;

    if (f == NULL || o == NULL) {
        free(f);
        TIFFOpenOptionsFree(o);
        return err_set(reterr, RC_NOMEM, "TIFF reader");
    }
    f->src = img->src;
    f->limits = img->limits;
    TIFFOpenOptionsSetMaxSingleMemAlloc(
        o, (tmsize_t)MIN(f->limits.memory_bytes_max / 4, (uint64_t)INT32_MAX));
    TIFFOpenOptionsSetErrorHandlerExtR(o, on_error, f);
    TIFFOpenOptionsSetWarningHandlerExtR(o, on_warning, f);
    /* m: no mapping */
    f->t = TIFFClientOpenExt("object", "rm", (thandle_t)f, on_read, on_write, on_seek, on_close,
                             on_size, NULL, NULL, o);
    TIFFOpenOptionsFree(o);
    rc = f->t == NULL ? fault(f, "no directory", reterr) : list_dirs(f, reterr);
    if (rc != RC_OK) {
        tiff_close(f);
        return rc;
    }
    *ret_f = f;
    return RC_OK;
}

/* Says at opening what no read could decode. */
static enum rc check_decodable(struct tiff *f, struct err *reterr)
{
    const struct dir *d = &f->level[0];
    uint16_t photometric = 0, samples = 1;
    char text[1024];
    enum rc rc = dir_enter(f, d, reterr);

    if (rc != RC_OK) return rc;
    if (!is_aperio(d) && !TIFFRGBAImageOK(f->t, text)) {
        return err_set(reterr, RC_UNIMPL, "TIFF, compression %u: %.200s", d->compression, text);
    }
    (void)TIFFGetFieldDefaulted(f->t, TIFFTAG_SAMPLESPERPIXEL, &samples);
    (void)TIFFGetField(f->t, TIFFTAG_PHOTOMETRIC,
                       &photometric); /* absent: TIFFRGBAImageOK guessed */
    f->channel_n = samples == 1 && photometric <= PHOTOMETRIC_MINISBLACK ? 1 : 3;
    return RC_OK;
}

enum rc image_tiff_open(struct image *img, struct err *reterr)
{
    struct tiff *f;
    enum rc rc = tiff_new(img, &f, reterr);

    if (rc != RC_OK) return rc;
    rc = check_decodable(f, reterr);
    if (rc != RC_OK) {
        tiff_close(f);
        return rc;
    }
    img->info.channel_n = f->channel_n;
    img->info.frame_n = f->frame_n;
    img->info.level_n = f->level_n;
    img->info.associated_n = f->associated_n;
    if (f->frame_n > 1) img->info.kind = "multiframe";
    if (f->level_n > 1 || f->level[0].tiled) img->info.kind = "slide";
    for (uint32_t i = 0; i < f->level_n; i++) {
        img->info.level[i] = (struct image_level){.width = f->level[i].width,
                                                  .height = f->level[i].height,
                                                  .tile_width = f->level[i].block_width,
                                                  .tile_height = f->level[i].block_height};
    }
    img->ops = &tiff_ops;
    img->impl = f;
    return RC_OK;
}
