/* common/model/job_params.h - what a job says about itself: its kind and its parameters, in text,
 * as the gateway checks them when a job is submitted and as the worker and its child carry them
 * out.
 *
 *   quality   tiles_max=64 of a slide, 1 to 4096
 *
 *   classify  size, resize, window, mean, std,
 *             apply=softmax|sigmoid|none (softmax), top=5 (1 to 16)
 *
 *   segment   size, resize, window, mean, std,
 *             masks=yes|no (yes): are label maps kept as results?
 *
 *   all       precision=fp32|tf32|fp16|bf16 (fp32)
 *
 *   size=224x224: rows x columns, or slices x rows x columns for a model that takes volumes; needed
 *   where the model leaves them open.
 *
 *   resize=stretch|crop. stretch: each side on its own. crop: scaled until it covers `size`, the
 *   middle is taken; crop:0.875 scales until it covers size / 0.875 (a classifier trained on 224 of
 *   256). Both by a triangle filter as wide as the reduction.
 *
 *   mean=, std=: of the value / 255, one number or one a channel: (v / 255 - mean) / std.
 *
 *   window=CENTER,WIDTH of DICOM greys, after RescaleSlope and Intercept: 40,400 (soft tissue in a
 *   CT); else the image's own, or from its least to its greatest value.
 *
 * Pure. */
#pragma once
#include "common/base/rc.h"

#define JOB_CHANNELS_MAX 3
#define JOB_SIDE_MAX     8192       /* of `size` */
#define JOB_VOXELS_MAX   (1u << 24) /* three channels in float32: 192 MiB */
#define JOB_TOP_MAX      16u
/* Of a mask, compressed: 2^24 labels of one byte, and what zlib adds. */
#define JOB_MASK_BYTES_MAX (32u << 20)
#define JOB_TILES_MAX      4096u

enum job_kind { JOB_QUALITY, JOB_CLASSIFY, JOB_SEGMENT, JOB_KIND_N };
enum job_precision { JOB_FP32, JOB_TF32, JOB_FP16, JOB_BF16, JOB_PRECISION_N };
enum job_apply { JOB_APPLY_SOFTMAX, JOB_APPLY_SIGMOID, JOB_APPLY_NONE };

struct job_params {
    enum job_kind kind;
    enum job_precision precision;
    uint32_t tiles_max;
    uint8_t size_n; /* 0: not given; 2 or 3 */
    uint32_t size[3];
    bool crop;
    bool window; /* given */
    double window_center, window_width;
    double crop_part;      /* of the covered square that is taken: 0 < part <= 1 */
    uint8_t mean_n, std_n; /* 0: not given (0 and 1) */
    double mean[JOB_CHANNELS_MAX], std[JOB_CHANNELS_MAX];
    enum job_apply apply;
    bool masks;
    uint32_t top;
};

/* RC_INVAL: no such kind; the message lists them. Sets the defaults. */
MUST_CHECK enum rc job_params_init(struct job_params *ret, const char *kind, struct err *reterr);
/* One parameter. RC_INVAL names it and says what is expected. */
MUST_CHECK enum rc job_params_set(struct job_params *p, const char *name, const char *value,
                                  struct err *reterr);
const char *job_precision_name(enum job_precision p); /* "fp32" */
