/* computed/analysis/quality.h - job kind `quality`: is an image usable, blurred, dark or
 * overexposed?
 *
 * The worker opens one `quality` per task and feeds each image as RGB8 regions: an ordinary image
 * as one region (or in bands), a slide tile by tile. Regions are cut into tiles of at most
 * QUALITY_TILE_PX square at native scale, the model scores each, and the image's scores are their
 * mean, weighted by how much content a tile shows (a slide's blank glass hardly counts). The answer
 * depends on the regions and the model only, not on threads or time. One thread at a time. */
#pragma once
#include "common/model/model.h"
#include "computed/analysis/analysis.h"
#include "computed/onnx/engine.h"

#define QUALITY_TILE_PX     512
#define QUALITY_SIDE_MIN_PX 32 /* smaller images are set aside: RC_INVAL */
#define QUALITY_CLASSES_MAX 8

struct quality; /* the model in its session */

/* m: borrowed; it must have one float32 input [N, 3, H, W], an output `scores` [N, classes],
 * optionally `scores_slide` like it (white ground), and an output `measures` [N, k] whose names are
 * in its metadata (`classes`, `measures`, comma-separated; the measure named `content` weighs
 * tiles). RC_INVAL where it has not. */
MUST_CHECK enum rc quality_open(struct engine *e, const struct model *m, struct quality **ret_q,
                                struct err *reterr);
void quality_close(struct quality *q);
const char *quality_limits(const struct quality *q); /* what the answer must not be used for */

/* A new image; forgets an unfinished one. slide: its ground is white by design (bright field), so
 * the model's `scores_slide` are taken where it has them. */
void quality_begin(struct quality *q, bool slide);
/* One region. rgb: width * 3 bytes per row, rows stride bytes apart; borrowed until return. Regions
 * narrower than QUALITY_SIDE_MIN_PX on a side (a slide's rim) are skipped. RC_* as session_run().
 */
MUST_CHECK enum rc quality_add(struct quality *q, const uint8_t *rgb, uint32_t width,
                               uint32_t height, size_t stride, struct err *reterr);
/* RC_INVAL: no region was large enough, or all pixels seen have one colour: nothing can be said. */
MUST_CHECK enum rc quality_end(struct quality *q, struct analysis_result *ret, struct err *reterr);

/* One call for pulled regions: read() is asked for each rectangle of a width x height image in turn
 * and fills rgb (tightly packed, at most QUALITY_TILE_PX square). Slides larger than tiles_max
 * tiles are sampled on a regular grid of tiles. */
typedef enum rc (*quality_read_cb)(void *data, uint64_t x, uint64_t y, uint32_t width,
                                   uint32_t height, uint8_t *rgb, struct err *reterr);
MUST_CHECK enum rc quality_image(struct quality *q, uint64_t width, uint64_t height, bool slide,
                                 uint32_t tiles_max, quality_read_cb read, void *data,
                                 struct analysis_result *ret, struct err *reterr);
