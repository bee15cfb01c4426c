/* computed/backend/cuda/ring.h - transfers between the device and anybody's memory, through a ring
 * of pinned slots: while one slot is on its way, the next is filled (or emptied) by the processor.
 *
 * A ring belongs to one stream and goes one way. Image bytes in its slots are zeroed when it goes.
 */
#pragma once
#include "computed/backend/cuda/dev.h"

struct cu_ring;

/* at: CU_UP or CU_DOWN. RC_NOMEM, RC_IO. */
MUST_CHECK enum rc cu_ring_new(const struct cu_dev_ops *ops, struct cu_dev *dev, enum cu_stream at,
                               struct cu_ring **ret, struct err *reterr);
void cu_ring_free(struct cu_ring *r); /* after a sync; NULL: nothing */
/* to: the device's; enqueued when this returns; from: the caller's again. */
MUST_CHECK enum rc cu_ring_up(struct cu_ring *r, void *to, const void *from, size_t n,
                              struct err *reterr);
/* from: the device's; waits until all has come. */
MUST_CHECK enum rc cu_ring_down(struct cu_ring *r, void *to, const void *from, size_t n,
                                struct err *reterr);
