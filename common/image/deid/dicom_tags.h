/* common/image/deid/dicom_tags.h - what each DICOM attribute means to de-identification. */
#pragma once
#include "common/base/macros.h"

enum tag_action {
    ACT_DEFAULT, /* by value representation */
    ACT_KEEP,
    ACT_REMOVE,
    ACT_EMPTY,
    ACT_DUMMY,
    ACT_PSEUDONYM
};
enum tag_kind {
    KIND_NONE,
    KIND_IDENTITY,
    KIND_INSTITUTION,
    KIND_DEVICE,
    KIND_PATIENT,
    KIND_DESCRIPTION,
    KIND_STRUCTURED,
    KIND_GRAPHICS,
    KIND_ICON,
    KIND_TEXT,
    KIND_BINARY,
    KIND_DATE,
    KIND_UID
};
struct tag_row {
    uint32_t tag;
    char vr[3];
    uint8_t action, kind;
    const char *keyword;
};
/* NULL: in no dictionary. Of repeating groups (50xx, 60xx) none is. */
const struct tag_row *tag_row_find(uint32_t tag);

/* What a value of a representation is. "" and unknown letters: VC_BYTES. */
enum vr_class {
    VC_TEXT,
    VC_NAME,
    VC_DATE,
    VC_UID,
    VC_CODE,
    VC_DECIMAL,
    VC_NUMBER,
    VC_BYTES,
    VC_SEQ
};
enum vr_class vr_class_of(const char vr[3]);
