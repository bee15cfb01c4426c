/* computed/analysis/mask.h - label maps as files that usual tools read.
 *
 * Pictures: PNG, one palette index a place, the palette tells labels apart by eye; its text chunk
 * says which part of the image was taken. Volumes: NIfTI-1 (.nii.gz), one byte a voxel, x along
 * columns, y along rows, z along slices; where the slices' places are known, sform leads from
 * voxels to millimetres (NIfTI's axes: left to right, posterior to anterior, feet to head; DICOM's
 * first two are the other way), else it has no transformation (codes 0).
 *
 * Labels are numbers of classes, at most 256. Pure; errors RC_NOMEM, RC_INTERNAL (zlib). */
#pragma once
#include "common/base/rc.h"

#define MASK_CLASSES_MAX 256u

enum mask_kind { MASK_PNG = 1, MASK_NIFTI = 2 };
struct mask {
    enum mask_kind kind;
    uint8_t *p; /* free() */
    size_t n;
    uint32_t shape[3], rank;
};
const char *mask_media_type(enum mask_kind kind); /* static text; NULL: no kind */

/* text: printable ASCII, for the PNG's Comment. */
MUST_CHECK enum rc mask_png(const uint8_t *labels, uint32_t height, uint32_t width,
                            const char *text, struct mask *ret, struct err *reterr);
/* affine: rows of 4: millimetres in DICOM's axes from (column, row, slice); NULL: not known. */
MUST_CHECK enum rc mask_nifti(const uint8_t *labels, uint32_t depth, uint32_t height,
                              uint32_t width, const double affine[12], struct mask *ret,
                              struct err *reterr);
