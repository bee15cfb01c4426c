/* common/image/image.c - one door to all readers: opens by content, checks rectangles and limits,
 * converts between grey and colour. */
#include "common/image/dicom_codec.h"
#include "common/image/image_priv.h"
#include <stdlib.h>

void image_init(void)
{
    dicom_codec_init();
}

enum rc image_limits_check(const struct image_limits *l, uint64_t width, uint64_t height,
                           uint64_t bytes_per_pixel, struct err *reterr)
{
    uint64_t pixels = mul_sat(width, height);

    if (width == 0 || height == 0) {
        return err_set(reterr, RC_CORRUPT, "an image of %llu x %llu pixels",
                       (unsigned long long)width, (unsigned long long)height);
    }
    if (pixels > l->pixels_max) {
        return err_set(reterr, RC_BUSY, "%llu x %llu pixels are over the limit of %llu pixels",
                       (unsigned long long)width, (unsigned long long)height,
                       (unsigned long long)l->pixels_max);
    }
    if (mul_sat(pixels, bytes_per_pixel) > l->memory_bytes_max) {
        return err_set(reterr, RC_BUSY,
                       "%llu x %llu pixels need %llu bytes of memory, the limit is %llu",
                       (unsigned long long)width, (unsigned long long)height,
                       (unsigned long long)mul_sat(pixels, bytes_per_pixel),
                       (unsigned long long)l->memory_bytes_max);
    }
    return RC_OK;
}

static enum rc open_typed(struct image *img, struct err *reterr)
{
    const char *type = img->info.media_type;

    if (strcmp(type, "image/jpeg") == 0) return image_jpeg_open(img, reterr);
    if (strcmp(type, "image/png") == 0) return image_png_open(img, reterr);
    if (strcmp(type, "image/tiff") == 0) return image_tiff_open(img, reterr);
    if (strcmp(type, "application/dicom") == 0) return image_dicom_open(img, reterr);
    if (strncmp(type, "video/", 6) == 0) {
        return err_set(reterr, RC_UNIMPL, "%s: video is stored, not decoded", type);
    }
    return err_set(reterr, RC_UNIMPL, "%s: no reader for this media type", type);
}

enum rc image_open(const struct image_source *src, const char *media_type,
                   const struct image_limits *limits, struct image **ret_img, struct err *reterr)
{
    struct image *img = calloc(1, sizeof(*img));
    const char *type;
    enum rc rc;

    if (img == NULL) return err_set(reterr, RC_NOMEM, "image");
    image_init();
    img->src = *src;
    img->limits = *limits;
    rc = src->size == 0 ? err_set(reterr, RC_CORRUPT, "the object is empty")
                        : image_sniff_source(src, &type, reterr);
    if (rc == RC_OK) {
        /* a preamble-less DICOM file may start with any group: there the hint decides */
        if (media_type != NULL && strcmp(media_type, "application/dicom") == 0 &&
            strcmp(type, "application/octet-stream") == 0) {
            type = "application/dicom";
        }
        img->info.media_type = type;
        img->info.kind = "image";
        img->info.level_n = img->info.frame_n = 1;
        rc = open_typed(img, reterr);
    }
    if (rc != RC_OK) {
        free(img);
        return rc;
    }
    *ret_img = img;
    return RC_OK;
}

void image_close(struct image *img)
{
    if (img == NULL) return;
    img->ops->close(img->impl);
    free(img);
}

const struct image_info *image_info(const struct image *img)
{
    return &img->info;
}

static void grey_to_rgb(const uint8_t *from, uint8_t *to, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        to[3 * i] = to[3 * i + 1] = to[3 * i + 2] = from[i];
    }
}

/* Rec. 601: 0.299 R + 0.587 G + 0.114 B in 16-bit fixed point; the weights sum to 65536 */
static void rgb_to_grey(const uint8_t *from, uint8_t *to, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t y = 19595u * from[3 * i] + 38470u * from[3 * i + 1] + 7471u * from[3 * i + 2];

        to[i] = (uint8_t)((y + 32768u) >> 16);
    }
}

enum rc image_read(struct image *img, uint32_t level_idx, uint32_t frame_idx,
                   struct image_rect rect, enum image_format format, uint8_t *out,
                   struct err *reterr)
{
    const struct image_info *in = &img->info;
    size_t n = (size_t)rect.width * rect.height;
    const struct image_level *l;
    uint8_t *native;
    enum rc rc;

    if (format != IMAGE_GREY8 && format != IMAGE_RGB8) {
        return err_set(reterr, RC_INVAL, "pixel format %d", (int)format);
    }
    if (level_idx >= in->level_n || frame_idx >= in->frame_n) {
        return err_set(reterr, RC_RANGE, "level %u of %u, frame %u of %u", level_idx, in->level_n,
                       frame_idx, in->frame_n);
    }
    l = &in->level[level_idx];
    if (rect.width == 0 || rect.height == 0 || rect.x >= l->width || rect.y >= l->height ||
        rect.width > l->width - rect.x || rect.height > l->height - rect.y) {
        return err_set(reterr, RC_RANGE, "rectangle %llu,%llu %ux%u is not inside %llux%llu",
                       (unsigned long long)rect.x, (unsigned long long)rect.y, rect.width,
                       rect.height, (unsigned long long)l->width, (unsigned long long)l->height);
    }
    if (in->channel_n == (uint32_t)format) {
        return img->ops->read(img->impl, level_idx, frame_idx, rect, out, reterr);
    }
    if (mul_sat(n, in->channel_n) > img->limits.memory_bytes_max / 4) {
        return err_set(reterr, RC_BUSY, "a rectangle of %u x %u is too large to convert",
                       rect.width, rect.height);
    }
    native = malloc(n * in->channel_n);
    if (native == NULL) return err_set(reterr, RC_NOMEM, "rectangle of %zu pixels", n);
    rc = img->ops->read(img->impl, level_idx, frame_idx, rect, native, reterr);
    if (rc == RC_OK && format == IMAGE_RGB8) grey_to_rgb(native, out, n);
    if (rc == RC_OK && format == IMAGE_GREY8) rgb_to_grey(native, out, n);
    free(native);
    return rc;
}
