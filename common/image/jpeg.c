/* common/image/jpeg.c - JPEG through libjpeg (turbo), row by row.
 *
 * libjpeg's way out of an error is longjmp: each call into it goes through a function that set the
 * jump just before and changes no local after it. What libjpeg calls a warning is mostly lost image
 * data that it fills with grey; here that is RC_CORRUPT, but for the few that lose nothing.
 * Progressive images keep their coefficients in memory: libjpeg is given half of the limit. */
#include "common/image/jpeg.h"
#include <limits.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <jpeglib.h>
#include <jerror.h>

enum {
    JPEG_BUF_BYTES = 64 * 1024,
    JPEG_SCANS_MAX = 200 /* encoders write about 10; a bomb has thousands over a large image */
};

struct jpeg {
    struct jpeg_decompress_struct c;
    struct jpeg_error_mgr errmgr;
    struct jpeg_source_mgr srcmgr;
    struct jpeg_progress_mgr progress;
    jmp_buf jump;
    struct image_source src;
    struct image_limits limits;
    uint64_t off; /* of the next bytes to fetch */
    bool eof, live, fault_set;
    int rgb;
    struct err fault;
    struct rows rows;
    uint8_t buf[JPEG_BUF_BYTES];
};

static struct jpeg *of(j_common_ptr c)
{
    return c->client_data;
}

static NORETURN void jpeg_fault(struct jpeg *j)
{
    j->fault_set = true;
    longjmp(j->jump, 1);
}

static enum rc rc_from_jpeg(int code)
{
    switch (code) {
    case JERR_OUT_OF_MEMORY:
        return RC_NOMEM;
    case JERR_NO_BACKING_STORE:
        return RC_BUSY;
    case JERR_BAD_PRECISION:
    case JERR_SOF_UNSUPPORTED:
    case JERR_NOT_COMPILED:
    case JERR_CONVERSION_NOTIMPL:
    case JERR_ARITH_NOTIMPL:
        return RC_UNIMPL;
    default:
        return RC_CORRUPT;
    }
}

static void on_message(j_common_ptr c, enum rc rc)
{
    char text[JMSG_LENGTH_MAX];

    (*c->err->format_message)(c, text);
    (void)err_set(&of(c)->fault, rc, "JPEG: %s%s", text,
                  rc == RC_BUSY ? " (the memory limit was reached)" : "");
    jpeg_fault(of(c));
}

static void on_error(j_common_ptr c)
{
    on_message(c, rc_from_jpeg(c->err->msg_code));
}

static void on_emit(j_common_ptr c, int level)
{
    if (level >= 0) return;
    switch (c->err->msg_code) {
    case JWRN_EXTRANEOUS_DATA:
    case JWRN_ADOBE_XFORM:
    case JWRN_JFIF_MAJOR:
    case JWRN_TOO_MUCH_DATA:
    case JWRN_NOT_SEQUENTIAL: /* Ss, Se, Ah, Al that say nothing in a sequential scan */
        return;
    default:
        on_message(c, RC_CORRUPT);
    }
}

static void on_output(j_common_ptr c)
{
    (void)c; /* never to stderr */
}

static void on_progress(j_common_ptr c)
{
    if (((j_decompress_ptr)c)->input_scan_number > JPEG_SCANS_MAX) {
        (void)err_set(&of(c)->fault, RC_BUSY, "JPEG: more than %d scans", JPEG_SCANS_MAX);
        jpeg_fault(of(c));
    }
}

static void src_init(j_decompress_ptr c)
{
    (void)c;
}

static boolean src_fill(j_decompress_ptr c)
{
    struct jpeg *j = c->client_data;
    size_t n = (size_t)MIN((uint64_t)JPEG_BUF_BYTES, j->src.size - j->off);

    if (n == 0) {
        /* the end of image that many writers forget; if data was due, "premature end" follows */
        j->eof = true;
        j->buf[0] = 0xff;
        j->buf[1] = JPEG_EOI;
        n = 2;
    } else {
        if (image_source_read(&j->src, j->off, j->buf, n, &j->fault) != RC_OK) jpeg_fault(j);
        j->off += n;
    }
    j->srcmgr.next_input_byte = j->buf;
    j->srcmgr.bytes_in_buffer = n;
    return TRUE;
}

static void src_skip(j_decompress_ptr c, long skip)
{
    struct jpeg *j = c->client_data;
    uint64_t n;

    if (skip <= 0) return;
    n = (uint64_t)skip;
    if (n <= j->srcmgr.bytes_in_buffer) {
        j->srcmgr.next_input_byte += n;
        j->srcmgr.bytes_in_buffer -= n;
        return;
    }
    n -= j->srcmgr.bytes_in_buffer;
    j->srcmgr.bytes_in_buffer = 0;
    j->off += MIN(n, j->src.size - j->off);
}

/* libjpeg's state anew, header read; what follows is a start at row 0. */
static enum rc jpeg_header(struct jpeg *j, struct err *reterr)
{
    if (j->live) jpeg_destroy_decompress(&j->c);
    memset(&j->c, 0, sizeof(j->c));
    j->live = j->eof = j->fault_set = false;
    j->off = 0;
    j->c.err = jpeg_std_error(&j->errmgr);
    j->errmgr.error_exit = on_error;
    j->errmgr.emit_message = on_emit;
    j->errmgr.output_message = on_output;
    j->c.client_data = j;
    if (setjmp(j->jump) != 0) {
        *reterr = j->fault;
        return j->fault.rc;
    }
    jpeg_create_decompress(&j->c);
    j->live = true;
    j->c.client_data = j;
    j->c.mem->max_memory_to_use = (long)MIN(j->limits.memory_bytes_max / 2, (uint64_t)LONG_MAX);
    j->progress.progress_monitor = on_progress;
    j->c.progress = &j->progress;
    j->srcmgr = (struct jpeg_source_mgr){.init_source = src_init,
                                         .fill_input_buffer = src_fill,
                                         .skip_input_data = src_skip,
                                         .resync_to_restart = jpeg_resync_to_restart,
                                         .term_source = src_init};
    j->c.src = &j->srcmgr;
    (void)jpeg_read_header(&j->c, TRUE); /* suspension cannot happen: src_fill never refuses */
    if (j->c.num_components != 1 && j->c.num_components != 3) {
        return err_set(reterr, RC_UNIMPL, "JPEG with %d components", j->c.num_components);
    }
    if (j->rgb && j->c.num_components == 3 && !j->c.saw_JFIF_marker && !j->c.saw_Adobe_marker) {
        j->c.jpeg_color_space = JCS_RGB;
    }
    j->c.out_color_space = j->c.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
    return RC_OK;
}

static enum rc jpeg_start(void *d, struct err *reterr)
{
    struct jpeg *j = d;
    enum rc rc = jpeg_header(j, reterr);

    if (rc != RC_OK) return rc;
    if (j->c.image_width != j->rows.width || j->c.image_height != j->rows.height) {
        return err_set(reterr, RC_CORRUPT, "JPEG: the header changed while it was read");
    }
    if (setjmp(j->jump) != 0) {
        *reterr = j->fault;
        return j->fault.rc;
    }
    (void)jpeg_start_decompress(&j->c);
    /* all scans have been read here; the one that was cut off leaves no other trace */
    if (j->eof && j->c.buffered_image == FALSE && jpeg_has_multiple_scans(&j->c)) {
        return err_set(reterr, RC_CORRUPT, "JPEG: ends before its last scan");
    }
    return RC_OK;
}

static enum rc jpeg_next(void *d, uint8_t *row, struct err *reterr)
{
    struct jpeg *j = d;
    JSAMPROW rows[1] = {row};

    if (setjmp(j->jump) != 0) {
        *reterr = j->fault;
        return j->fault.rc;
    }
    if (jpeg_read_scanlines(&j->c, rows, 1) != 1) {
        return err_set(reterr, RC_CORRUPT, "JPEG: ends early");
    }
    return RC_OK;
}

static const struct rows_ops jpeg_rows = {jpeg_start, jpeg_next};

static void jpeg_free(void *impl)
{
    struct jpeg *j = impl;

    if (j == NULL) return;
    rows_deinit(&j->rows);
    if (j->live) jpeg_destroy_decompress(&j->c);
    free(j);
}

static enum rc jpeg_new(const struct image_source *src, const struct image_limits *limits, bool rgb,
                        struct jpeg **ret_j, struct err *reterr)
{
    struct jpeg *j = calloc(1, sizeof(*j));
    struct err fault;
    enum rc rc;

    if (j == NULL) return err_set(reterr, RC_NOMEM, "JPEG reader");
    j->src = *src;
    j->limits = *limits;
    j->rgb = rgb;
    rc = jpeg_header(j, &fault);
    if (rc == RC_OK) {
        j->rows = (struct rows){.ops = &jpeg_rows,
                                .d = j,
                                .width = j->c.image_width,
                                .height = j->c.image_height,
                                .channel_n = (uint32_t)j->c.num_components};
        rc = image_limits_check(limits, j->rows.width, j->rows.height, 0, &fault);
    }
    if (rc != RC_OK) {
        jpeg_free(j);
        return err_set(reterr, rc, "%s", fault.msg);
    }
    rows_init(&j->rows, limits->memory_bytes_max / 4);
    *ret_j = j;
    return RC_OK;
}

static enum rc jpeg_read(void *impl, uint32_t level, uint32_t frame, struct image_rect rect,
                         uint8_t *out, struct err *reterr)
{
    struct jpeg *j = impl;

    (void)level;
    (void)frame;
    return rows_read(&j->rows, rect, out, reterr);
}

static const struct image_ops jpeg_ops = {jpeg_read, jpeg_free};

enum rc image_jpeg_open(struct image *img, struct err *reterr)
{
    struct jpeg *j;
    enum rc rc = jpeg_new(&img->src, &img->limits, /* rgb= */ false, &j, reterr);

    if (rc != RC_OK) return rc;
    img->info.channel_n = j->rows.channel_n;
    img->info.level[0] = (struct image_level){.width = j->rows.width,
                                              .height = j->rows.height,
                                              .tile_width = (uint32_t)j->rows.width,
                                              .tile_height = (uint32_t)MIN(j->rows.height, 512)};
    img->ops = &jpeg_ops;
    img->impl = j;
    return RC_OK;
}

enum rc jpeg_decode(const struct image_source *src, const struct image_limits *limits,
                    const struct jpeg_expect *e, uint8_t *out, struct err *reterr)
{
    struct jpeg *j;
    size_t row;
    enum rc rc = jpeg_new(src, limits, e->rgb, &j, reterr);

    if (rc != RC_OK) return rc;
    /* slides' edge tiles may be stored short of their frame: the rest is white, as glass is */
    if (j->rows.channel_n != e->channel_n || j->rows.width > e->width ||
        j->rows.height > e->height ||
        (!e->may_be_smaller && (j->rows.width != e->width || j->rows.height != e->height))) {
        rc = err_set(reterr, RC_CORRUPT,
                     "the JPEG stream is %llu x %llu with %u components, its frame %u x %u with %u",
                     (unsigned long long)j->rows.width, (unsigned long long)j->rows.height,
                     j->rows.channel_n, e->width, e->height, e->channel_n);
    }
    row = (size_t)e->width * e->channel_n;
    if (rc == RC_OK && e->may_be_smaller) memset(out, 255, row * e->height);
    if (rc == RC_OK) rc = jpeg_start(j, reterr);
    for (uint32_t y = 0; rc == RC_OK && y < j->rows.height; y++) {
        rc = jpeg_next(j, out + y * row, reterr);
    }
    jpeg_free(j);
    return rc;
}
