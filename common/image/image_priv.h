/* common/image/image_priv.h - what the readers share: one table of calls per format. */
#pragma once
#include "common/image/image.h"
#include <string.h>

/* A decoder writes rows of info.channel_n bytes per pixel; the rectangle was checked. */
struct image_ops {
    enum rc (*read)(void *impl, uint32_t level, uint32_t frame, struct image_rect rect,
                    uint8_t *out, struct err *reterr);
    void (*close)(void *impl);
};

struct image {
    struct image_source src;
    struct image_limits limits;
    struct image_info info;
    const struct image_ops *ops;
    void *impl;
};

/* Each fills img->info, ops and impl; on failure nothing is left behind. */
enum rc image_jpeg_open(struct image *img, struct err *reterr);
enum rc image_png_open(struct image *img, struct err *reterr);
enum rc image_tiff_open(struct image *img, struct err *reterr);
enum rc image_dicom_open(struct image *img, struct err *reterr);

/* Read with the bounds checked: RC_CORRUPT when [off, off + n) is not inside the source. */
enum rc image_source_read(const struct image_source *src, uint64_t off, void *buf, size_t n,
                          struct err *reterr);

/* a * b, at most UINT64_MAX */
static inline uint64_t mul_sat(uint64_t a, uint64_t b)
{
    uint64_t v;

    return __builtin_mul_overflow(a, b, &v) ? UINT64_MAX : v;
}

/* RC_BUSY when pixels or their memory pass the limits. */
enum rc image_limits_check(const struct image_limits *l, uint64_t width, uint64_t height,
                           uint64_t bytes_per_pixel, struct err *reterr);

/* Images that decode from the top: rows go through a window of rows kept in memory. */
struct rows_ops {
    enum rc (*start)(void *d, struct err *reterr); /* (again) from row 0 */
    enum rc (*next)(void *d, uint8_t *row, struct err *reterr);
};
struct rows {
    const struct rows_ops *ops;
    void *d;
    uint64_t width, height;
    uint32_t channel_n;
    uint64_t cap_n;           /* rows in the window; == height keeps all */
    uint64_t first, next_row; /* window is rows [first, next_row); next_row is decoded next */
    bool started;
    uint8_t *p;
};
/* Sets cap_n from the memory that may be used; allocates nothing. */
void rows_init(struct rows *r, uint64_t memory_bytes);
void rows_deinit(struct rows *r);
enum rc rows_read(struct rows *r, struct image_rect rect, uint8_t *out, struct err *reterr);
