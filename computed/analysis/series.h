/* computed/analysis/series.h - in which order the slices of a DICOM series make a volume, and
 * whether they make one at all.
 *
 * Slices are ordered by ImagePositionPatient along the normal of ImageOrientationPatient, from the
 * least; where no slice has a position, by InstanceNumber, and the answer says so. Files' names and
 * the order in which they came count for nothing. Refused, with the reason: fewer than two slices;
 * slices of several series, sizes, pixel spacings, orientations or kinds of pixels (grey beside
 * colour); some with a position and some without; two at one place; a gap (a distance that is more
 * than a tenth off the median, a missing InstanceNumber). A slice that is missing at an end cannot
 * be seen by position. Source: DICOM PS3.3 C.7.6.2.1.1.
 *
 * Pure: the headers' numbers come from common/image. */
#pragma once
#include "common/image/image.h"

enum series_by { SERIES_BY_POSITION = 1, SERIES_BY_NUMBER = 2 };

/* order: room for n; order[0] is the slice with the least position. n <= UINT16_MAX. RC_INVAL: they
 * are no volume, and why; RC_NOMEM. */
MUST_CHECK enum rc series_order(const struct image_slice *slices, uint32_t n, uint16_t *order,
                                enum series_by *ret_by, struct err *reterr);
/* Ordered by position: millimetres in DICOM's axes from (column, row, slice of the stack), counted
 * from the centre of the first, rows of 4. False where that is not known. */
bool series_affine(const struct image_slice *slices, uint32_t n, const uint16_t *order,
                   enum series_by by, double ret[12]);
