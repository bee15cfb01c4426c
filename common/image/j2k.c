/* common/image/j2k.c - JPEG 2000. openjp2 reads from a memory stream and reports through handlers;
 * its first error text becomes ours. Strict mode: a codestream that is cut off is an error, not a
 * blurred image. */
#include "common/image/j2k.h"
#include <openjpeg.h>
#include <stdlib.h>

struct mem {
    const uint8_t *p;
    size_t n, at;
};

static OPJ_SIZE_T mem_read(void *buf, OPJ_SIZE_T n, void *data)
{
    struct mem *m = data;

    n = MIN(n, m->n - m->at);
    if (n == 0) return (OPJ_SIZE_T)-1;
    memcpy(buf, m->p + m->at, n);
    m->at += n;
    return n;
}

static OPJ_OFF_T mem_skip(OPJ_OFF_T n, void *data)
{
    struct mem *m = data;

    if (n < 0) return -1;
    if ((uint64_t)n > m->n - m->at) {
        m->at = m->n;
        return -1;
    }
    m->at += (size_t)n;
    return n;
}

static OPJ_BOOL mem_seek(OPJ_OFF_T off, void *data)
{
    struct mem *m = data;

    if (off < 0 || (uint64_t)off > m->n) return OPJ_FALSE;
    m->at = (size_t)off;
    return OPJ_TRUE;
}

static void on_error(const char *text, void *data)
{
    struct err *e = data;
    size_t n = strcspn(text, "\n");

    if (e->rc == RC_OK) (void)err_set(e, RC_CORRUPT, "JPEG 2000: %.*s", (int)MIN(n, 200), text);
}

static void on_message(const char *text, void *data)
{
    (void)text;
    (void)data;
}

/* What the header promises: one size for all components, within the limits. */
static enum rc check_header(const opj_image_t *o, const struct image_limits *limits,
                            struct err *reterr)
{
    uint32_t n = o->numcomps;

    if (n != 1 && n != 3) return err_set(reterr, RC_UNIMPL, "JPEG 2000 with %u components", n);
    for (uint32_t i = 0; i < n; i++) {
        const opj_image_comp_t *c = &o->comps[i];

        if (c->dx != 1 || c->dy != 1 || c->w != o->comps[0].w || c->h != o->comps[0].h) {
            return err_set(reterr, RC_UNIMPL, "JPEG 2000 with subsampled components");
        }
        if (c->prec < 1 || c->prec > 16 || c->prec != o->comps[0].prec) {
            return err_set(reterr, RC_UNIMPL, "JPEG 2000 with %u-bit samples", c->prec);
        }
    }
    /* openjp2: 4 bytes a sample in the image, as much in its tile, and our copy */
    return image_limits_check(limits, o->x1 - o->x0, o->y1 - o->y0, (uint64_t)n * 12, reterr);
}

static enum rc copy_out(const opj_image_t *o, struct j2k_image *ret, struct err *reterr)
{
    struct j2k_image j = {.width = o->comps[0].w,
                          .height = o->comps[0].h,
                          .channel_n = o->numcomps,
                          .bits = o->comps[0].prec,
                          .is_signed = o->comps[0].sgnd != 0};
    size_t n = (size_t)j.width * j.height;

    for (uint32_t c = 0; c < j.channel_n; c++) {
        if (o->comps[c].data == NULL || o->comps[c].w != j.width || o->comps[c].h != j.height) {
            return err_set(reterr, RC_CORRUPT, "JPEG 2000: component %u has no samples", c);
        }
    }
    j.p = malloc(n * j.channel_n * sizeof(*j.p));
    if (j.p == NULL) return err_set(reterr, RC_NOMEM, "JPEG 2000 image");
    for (uint32_t c = 0; c < j.channel_n; c++) {
        for (size_t i = 0; i < n; i++)
            j.p[i * j.channel_n + c] = o->comps[c].data[i];
    }
    *ret = j;
    return RC_OK;
}

enum rc j2k_decode(const uint8_t *p, size_t n, const struct image_limits *limits,
                   struct j2k_image *ret_img, struct err *reterr)
{
    struct mem m = {.p = p, .n = n};
    struct err fault = {.rc = RC_OK};
    opj_dparameters_t params;
    opj_stream_t *st = NULL;
    opj_codec_t *codec = NULL;
    opj_image_t *o = NULL;
    enum rc rc;

    bool jp2 = n >= 12 && memcmp(p + 4, "jP  ", 4) == 0;

    codec = opj_create_decompress(jp2 ? OPJ_CODEC_JP2 : OPJ_CODEC_J2K);
    st = opj_stream_create(MAX(MIN(n, 1u << 20), 4096u), OPJ_TRUE);
    if (codec == NULL || st == NULL) {
        rc = err_set(reterr, RC_NOMEM, "JPEG 2000 reader");
        goto out;
    }
    opj_set_default_decoder_parameters(&params);
    opj_set_error_handler(codec, on_error, &fault);
    opj_set_warning_handler(codec, on_message, NULL);
    opj_set_info_handler(codec, on_message, NULL);
    opj_stream_set_user_data(st, &m, NULL);
    opj_stream_set_user_data_length(st, n);
    opj_stream_set_read_function(st, mem_read);
    opj_stream_set_skip_function(st, mem_skip);
    opj_stream_set_seek_function(st, mem_seek);
    rc = RC_CORRUPT;
    if (!opj_setup_decoder(codec, &params) || !opj_decoder_set_strict_mode(codec, OPJ_TRUE) ||
        !opj_read_header(st, codec, &o)) {
        (void)err_set(reterr, rc, "%s", fault.rc != RC_OK ? fault.msg : "JPEG 2000: no header");
        goto out;
    }
    rc = check_header(o, limits, reterr);
    if (rc != RC_OK) goto out;
    if (!opj_decode(codec, st, o)) {
        rc = err_set(reterr, RC_CORRUPT, "%s",
                     fault.rc != RC_OK ? fault.msg : "JPEG 2000: not decodable");
        goto out;
    }
    rc = copy_out(o, ret_img, reterr);
out:
    opj_image_destroy(o);
    if (codec != NULL) opj_destroy_codec(codec);
    if (st != NULL) opj_stream_destroy(st);
    return rc;
}
