/* common/image/png.c - PNG through libpng, row by row; interlaced ones whole, within the limit.
 *
 * As in jpeg.c: libpng leaves by longjmp, so each call into it sets the jump first. */
#include "common/image/image_priv.h"
#include <setjmp.h>
#include <stdlib.h>
#include <png.h>

enum { PNG_CHUNK_BYTES_MAX = 8 * 1024 * 1024 }; /* of one text, profile or palette, inflated */

struct png {
    png_structp p;
    png_infop i;
    struct image_source src;
    uint64_t off;
    struct err fault;
    struct rows rows;
    bool interlaced;
    uint8_t *whole; /* of an interlaced image */
    png_bytep *row_ps;
    uint64_t row_idx;
};

static void on_error(png_structp p, png_const_charp text)
{
    struct png *g = png_get_error_ptr(p);

    if (g->fault.rc == RC_OK) {
        (void)err_set(&g->fault, RC_CORRUPT, "PNG: %s", text);
    }
    png_longjmp(p, 1);
}

static void on_warning(png_structp p, png_const_charp text)
{
    (void)p; /* about ancillary chunks, which hold no pixels */
    (void)text;
}

static void on_read(png_structp p, png_bytep buf, size_t n)
{
    struct png *g = png_get_io_ptr(p);

    if (image_source_read(&g->src, g->off, buf, n, &g->fault) != RC_OK) png_error(p, "read");
    g->off += n;
}

static void png_drop(struct png *g)
{
    if (g->p != NULL) png_destroy_read_struct(&g->p, &g->i, NULL);
    g->p = NULL;
    g->i = NULL;
}

static enum rc png_header(struct png *g, struct err *reterr)
{
    png_drop(g);
    g->off = 0;
    g->row_idx = 0;
    g->fault = (struct err){.rc = RC_OK};
    g->p = png_create_read_struct(PNG_LIBPNG_VER_STRING, g, on_error, on_warning);
    if (g->p == NULL) return err_set(reterr, RC_NOMEM, "PNG reader");
    if (setjmp(png_jmpbuf(g->p)) != 0) {
        *reterr = g->fault;
        return g->fault.rc;
    }
    g->i = png_create_info_struct(g->p);
    if (g->i == NULL) return err_set(reterr, RC_NOMEM, "PNG reader");
    png_set_read_fn(g->p, g, on_read);
    png_set_user_limits(g->p, 0x7fffffff, 0x7fffffff); /* ours come after */
    png_set_chunk_malloc_max(g->p, PNG_CHUNK_BYTES_MAX);
    png_set_chunk_cache_max(g->p, 128);
    png_set_keep_unknown_chunks(g->p, PNG_HANDLE_CHUNK_NEVER, NULL, 0);
    png_read_info(g->p, g->i);
    png_set_expand(g->p);
    png_set_scale_16(g->p);
    png_set_strip_alpha(g->p);
    g->interlaced = png_get_interlace_type(g->p, g->i) != PNG_INTERLACE_NONE;
    return RC_OK;
}

static enum rc png_whole(struct png *g, struct err *reterr)
{
    size_t row = (size_t)(g->rows.width * g->rows.channel_n), h = (size_t)g->rows.height;

    if (g->whole == NULL) g->whole = malloc(row * h);
    if (g->row_ps == NULL) g->row_ps = malloc(sizeof(png_bytep) * h);
    if (g->whole == NULL || g->row_ps == NULL) {
        return err_set(reterr, RC_NOMEM, "interlaced PNG of %zu bytes", row * h);
    }
    for (size_t y = 0; y < h; y++)
        g->row_ps[y] = g->whole + y * row;
    if (setjmp(png_jmpbuf(g->p)) != 0) {
        *reterr = g->fault;
        return g->fault.rc;
    }
    png_read_image(g->p, g->row_ps);
    return RC_OK;
}

static enum rc png_start(void *d, struct err *reterr)
{
    struct png *g = d;
    enum rc rc = png_header(g, reterr);

    if (rc != RC_OK) return rc;
    if (png_get_image_width(g->p, g->i) != g->rows.width ||
        png_get_image_height(g->p, g->i) != g->rows.height) {
        return err_set(reterr, RC_CORRUPT, "PNG: the header changed while it was read");
    }
    if (setjmp(png_jmpbuf(g->p)) != 0) {
        *reterr = g->fault;
        return g->fault.rc;
    }
    if (g->interlaced) (void)png_set_interlace_handling(g->p);
    png_read_update_info(g->p, g->i);
    if (png_get_rowbytes(g->p, g->i) != g->rows.width * g->rows.channel_n) {
        return err_set(reterr, RC_UNIMPL, "PNG: rows of %zu bytes", png_get_rowbytes(g->p, g->i));
    }
    return g->interlaced ? png_whole(g, reterr) : RC_OK;
}

static enum rc png_next(void *d, uint8_t *row, struct err *reterr)
{
    struct png *g = d;

    if (g->interlaced) {
        memcpy(row, g->row_ps[g->row_idx++], (size_t)(g->rows.width * g->rows.channel_n));
        return RC_OK;
    }
    if (setjmp(png_jmpbuf(g->p)) != 0) {
        *reterr = g->fault;
        return g->fault.rc;
    }
    png_read_row(g->p, row, NULL);
    return RC_OK;
}

static const struct rows_ops png_rows = {png_start, png_next};

static void png_free_all(void *impl)
{
    struct png *g = impl;

    if (g == NULL) return;
    png_drop(g);
    rows_deinit(&g->rows);
    free(g->whole);
    free(g->row_ps);
    free(g);
}

static enum rc png_read_rect(void *impl, uint32_t level, uint32_t frame, struct image_rect rect,
                             uint8_t *out, struct err *reterr)
{
    struct png *g = impl;

    (void)level;
    (void)frame;
    return rows_read(&g->rows, rect, out, reterr);
}

static const struct image_ops png_ops = {png_read_rect, png_free_all};

enum rc image_png_open(struct image *img, struct err *reterr)
{
    struct png *g = calloc(1, sizeof(*g));
    struct rows *r;
    enum rc rc;

    if (g == NULL) return err_set(reterr, RC_NOMEM, "PNG reader");
    g->src = img->src;
    r = &g->rows;
    rc = png_header(g, reterr);
    if (rc == RC_OK) {
        *r = (struct rows){
            .ops = &png_rows,
            .d = g,
            .width = png_get_image_width(g->p, g->i),
            .height = png_get_image_height(g->p, g->i),
            .channel_n = (png_get_color_type(g->p, g->i) & PNG_COLOR_MASK_COLOR) != 0 ? 3 : 1};
        /* twice for an interlaced one: the whole and the window */
        rc = image_limits_check(&img->limits, r->width, r->height,
                                g->interlaced ? 2 * r->channel_n : 0, reterr);
    }
    if (rc == RC_OK && mul_sat(r->width, 16) > img->limits.memory_bytes_max / 4) {
        rc = err_set(reterr, RC_BUSY, "PNG rows of %llu pixels are over the memory limit",
                     (unsigned long long)r->width);
    }
    if (rc != RC_OK) {
        png_free_all(g);
        return rc;
    }
    rows_init(r, img->limits.memory_bytes_max / 4);
    img->info.channel_n = r->channel_n;
    img->info.level[0] = (struct image_level){.width = r->width,
                                              .height = r->height,
                                              .tile_width = (uint32_t)r->width,
                                              .tile_height = (uint32_t)MIN(r->height, 512)};
    img->ops = &png_ops;
    img->impl = g;
    return RC_OK;
}
