/* gateway/api/masks.h - label maps that a segmentation leaves beside its result.
 *
 * A mask says as much of a patient as the image: its body key is wrapped under the key of the case
 * it was made from (small ones are sealed under that key in the row), so it ends with the case.
 * Its MASK row lies with the job's other rows; of its chunks the job is the owner. */
#pragma once
#include "gateway/api/jobs.h"
#include "gateway/ingest/records_core.h"

/* Work.PutMask, Jobs.Mask */
enum rc gw_mask_put(struct fcall *c, struct err *reterr);
enum rc gw_mask_get(struct fcall *c, struct err *reterr);
/* The chunks of items [from, from + n), if they have any; their rows stay. */
MUST_CHECK enum rc gw_masks_drop(struct gw *gw, const struct gw_job *job, uint32_t from, uint32_t n,
                                 struct arena *a, struct slice *claims, uint32_t *ret_claims_n,
                                 struct err *reterr);
