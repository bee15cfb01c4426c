/* computed/analysis/network.h - job kinds `classify` and `segment`: any registered network over an
 * image, with the pre-processing that the job states (common/model/job_params.h).
 *
 * The model has one float32 input, [N, C, H, W] or [N, C, D, H, W], with C 1 (grey) or 3 (RGB); N
 * is left open or 1. Its first output counts: classify [N, K]; segment [N, K, places], where K = 1
 * means foreground above 0. Classes are named by the model's metadata `classes` (comma-separated),
 * else class_0, class_1, ...
 *
 * The answer depends on the image, the model and the parameters only. One thread at a time. */
#pragma once
#include "common/image/image.h"
#include "common/model/job_params.h"
#include "common/model/model.h"
#include "computed/analysis/analysis.h"
#include "computed/analysis/mask.h"
#include "computed/onnx/engine.h"

struct network;

/* m: borrowed until network_close; p: copied. RC_INVAL: the model does not fit the kind or the
 * parameters, and why. */
MUST_CHECK enum rc network_open(struct engine *e, const struct model *m, const struct job_params *p,
                                struct network **ret_n, struct err *reterr);
void network_close(struct network *n); /* NULL: nothing */

/* One image. All frames of a volume are seen through one window: the job's, else that of the middle
 * one, else from the least to the greatest value of those that are taken. Of a pyramid, the
 * smallest level that is not smaller than what is asked for; of several frames the middle one, or,
 * by a model that takes volumes, as many as it takes, evenly spread. ret  classify: the label is
 * the class with the highest score; the `top` highest scores. segment: which fraction of the places
 * each class has (the 16 largest); the label is the largest class but the first, or the first where
 * it has all. RC_INVAL: the image does not fit (one frame for a volume), or the model gives no
 * finite number; else as image_read() and session_run(). */
MUST_CHECK enum rc network_image(struct network *n, struct image *img, struct analysis_result *ret,
                                 struct err *reterr);

/* The objects of a DICOM series as one volume, by a model that takes volumes: ordered and checked
 * by series_order(); as many slices as the model takes, evenly spread. One is open at a time:
 * open() gives it, image_close() ends it. *ret also says how they were stacked. RC_INVAL: they are
 * no volume, and why; else as network_image() and open(). */
struct network_slices {
    uint32_t n; /* at most ANALYSIS_SLICES_MAX */
    enum rc (*open)(void *data, uint32_t slice, struct image **ret_img, struct err *reterr);
    void *data;
};
MUST_CHECK enum rc network_series(struct network *n, const struct network_slices *slices,
                                  struct analysis_result *ret, struct err *reterr);

/* What the last image or series was segmented into: valid until the next. NULL: kind classify, the
 * job wants none, or the model has more than MASK_CLASSES_MAX classes. */
const struct mask *network_mask(const struct network *n);

/* Part [from, to) of a row of in_n values resampled to out_n: a triangle filter, as wide as the
 * reduction (at least 1). Weights of out-place o: *ret_lo the first in-place, *ret_n how many, w
 * their weights (sum 1). w has room for resample_taps_max(). */
struct resample {
    double from, to;
    uint32_t in_n, out_n;
};
uint32_t resample_taps_max(const struct resample *r);
void resample_taps(const struct resample *r, uint32_t o, double *w, uint32_t *ret_lo,
                   uint32_t *ret_n);
