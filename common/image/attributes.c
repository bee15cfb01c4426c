/* common/image/attributes.c - what the query index may know of an object. A list of what is taken,
 * never of what is left out: a new or private tag is not indexed by accident. */
#include "common/image/dicom_parse.h"
#include "common/image/image_priv.h"
#include <stdio.h>
#include <stdlib.h>

enum kind { KIND_UID, KIND_CODE, KIND_NUMBERS, KIND_U16 };

static const struct {
    uint32_t tag;
    enum kind kind;
    const char *name;
} fields[] = {
    {DCM_TAG(0x0020, 0x000d), KIND_UID, "dicom.StudyInstanceUID"},
    {DCM_TAG(0x0020, 0x000e), KIND_UID, "dicom.SeriesInstanceUID"},
    {DCM_TAG(0x0008, 0x0018), KIND_UID, "dicom.SOPInstanceUID"},
    {DCM_TAG(0x0008, 0x0016), KIND_UID, "dicom.SOPClassUID"},
    {DCM_TAG(0x0008, 0x0060), KIND_CODE, "dicom.Modality"},
    {DCM_TAG(0x0018, 0x0015), KIND_CODE, "dicom.BodyPartExamined"},
    {DCM_TAG(0x0020, 0x0060), KIND_CODE, "dicom.Laterality"},
    {DCM_TAG(0x0028, 0x0004), KIND_CODE, "dicom.PhotometricInterpretation"},
    {DCM_TAG(0x0028, 0x0010), KIND_U16, "dicom.Rows"},
    {DCM_TAG(0x0028, 0x0011), KIND_U16, "dicom.Columns"},
    {DCM_TAG(0x0028, 0x0008), KIND_NUMBERS, "dicom.NumberOfFrames"},
    {DCM_TAG(0x0028, 0x0002), KIND_U16, "dicom.SamplesPerPixel"},
    {DCM_TAG(0x0028, 0x0100), KIND_U16, "dicom.BitsAllocated"},
    {DCM_TAG(0x0028, 0x0101), KIND_U16, "dicom.BitsStored"},
    {DCM_TAG(0x0028, 0x0030), KIND_NUMBERS, "dicom.PixelSpacing"},
    {DCM_TAG(0x0018, 0x0050), KIND_NUMBERS, "dicom.SliceThickness"},
};

/* Does the value fit its type (PS3.5 6.2: UI, CS, DS and IS)? A code of more than 16 is none. */
static bool value_fits(enum kind kind, const char *v)
{
    static const char uid[] = "0123456789.", number[] = "0123456789+-.eE\\ ";
    static const char code[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _";
    size_t n = strlen(v);

    if (n == 0) return false;
    if (kind == KIND_UID) return n <= 64 && strspn(v, uid) == n;
    if (kind == KIND_NUMBERS) return n <= 64 && strspn(v, number) == n;
    return n <= 16 && strspn(v, code) == n;
}

static enum rc put_u64(image_attribute_cb cb, void *data, const char *name, uint64_t v)
{
    char text[24];

    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)v);
    return cb(data, name, text);
}

static enum rc dicom_fields(struct dcm *d, image_attribute_cb cb, void *data)
{
    enum rc rc = RC_OK;
    char text[80];

    if (value_fits(KIND_UID, d->syntax)) rc = cb(data, "dicom.TransferSyntaxUID", d->syntax);
    for (size_t i = 0; rc == RC_OK && i < ARRAY_N(fields); i++) {
        if (fields[i].kind == KIND_U16) {
            const struct dcm_elem *e = dcm_find(d, fields[i].tag);

            if (e != NULL && e->len == 2) {
                rc = put_u64(cb, data, fields[i].name, dcm_u16(d, fields[i].tag, 0, 0));
            }
            continue;
        }
        dcm_text(d, fields[i].tag, text, sizeof(text));
        if (value_fits(fields[i].kind, text)) rc = cb(data, fields[i].name, text);
    }
    return rc;
}

static bool is_content_fault(enum rc rc)
{
    return rc == RC_CORRUPT || rc == RC_UNIMPL || rc == RC_BUSY;
}

static enum rc dicom_attributes(const struct image_source *src, image_attribute_cb cb, void *data,
                                struct err *reterr)
{
    struct dcm *d = calloc(1, sizeof(*d));
    enum rc rc;

    if (d == NULL) return err_set(reterr, RC_NOMEM, "DICOM reader");
    rc = dcm_parse(d, src, IMAGE_LIMITS_DEFAULT.memory_bytes_max, reterr);
    /* what stands before a fault is indexed all the same */
    if (rc == RC_OK || is_content_fault(rc)) rc = dicom_fields(d, cb, data);
    dcm_deinit(d);
    free(d);
    return rc;
}

static const char *kind_of_type(const char *type)
{
    if (strncmp(type, "image/", 6) == 0) return "image";
    if (strncmp(type, "video/", 6) == 0) return "video";
    if (strncmp(type, "text/", 5) == 0 || strcmp(type, "application/pdf") == 0 ||
        strcmp(type, "application/json") == 0 || strcmp(type, "application/dicom") == 0) {
        return "document"; /* DICOM without pixels: a report, a plan */
    }
    return "unknown";
}

static enum rc put_info(const struct image_info *in, image_attribute_cb cb, void *data)
{
    enum rc rc = cb(data, "image.kind", in->kind);

    if (rc == RC_OK) rc = put_u64(cb, data, "image.width", in->level[0].width);
    if (rc == RC_OK) rc = put_u64(cb, data, "image.height", in->level[0].height);
    if (rc == RC_OK) rc = put_u64(cb, data, "image.frames", in->frame_n);
    if (rc == RC_OK) rc = put_u64(cb, data, "image.levels", in->level_n);
    return rc;
}

enum rc image_attributes(const struct image_source *src, image_attribute_cb cb, void *data,
                         struct err *reterr)
{
    /* only headers are read, so the size of the pixels does not matter here */
    struct image_limits limits = {.memory_bytes_max = UINT64_MAX, .pixels_max = UINT64_MAX};
    const char *type;
    struct image *img = NULL;
    struct err fault;
    enum rc rc = image_sniff_source(src, &type, reterr);

    if (rc != RC_OK) return rc;
    rc = image_open(src, type, &limits, &img, &fault);
    if (rc == RC_OK) {
        rc = put_info(image_info(img), cb, data);
    } else if (is_content_fault(rc)) {
        bool broken = strcmp(type, "application/dicom") == 0 && rc != RC_UNIMPL;

        rc = cb(data, "image.kind", broken ? "unknown" : kind_of_type(type));
    } else {
        return err_set(reterr, rc, "%s", fault.msg);
    }
    image_close(img);
    if (rc == RC_OK && strcmp(type, "application/dicom") == 0) {
        rc = dicom_attributes(src, cb, data, reterr);
    }
    return rc;
}

enum rc image_dicom_ids(const struct image_source *src, struct image_dicom_ids *ret_ids,
                        struct err *reterr)
{
    struct image_dicom_ids ids = {0};
    const char *type;
    struct dcm *d;
    enum rc rc = image_sniff_source(src, &type, reterr);

    if (rc != RC_OK) return rc;
    if (strcmp(type, "application/dicom") != 0) {
        return err_set(reterr, RC_NOTFOUND, "%s, not DICOM", type);
    }
    d = calloc(1, sizeof(*d));
    if (d == NULL) return err_set(reterr, RC_NOMEM, "DICOM reader");
    rc = dcm_parse(d, src, IMAGE_LIMITS_DEFAULT.memory_bytes_max, reterr);
    dcm_text(d, DCM_TAG(0x0020, 0x000d), ids.study, sizeof(ids.study));
    dcm_text(d, DCM_TAG(0x0020, 0x000e), ids.series, sizeof(ids.series));
    dcm_text(d, DCM_TAG(0x0008, 0x0018), ids.sop, sizeof(ids.sop));
    dcm_text(d, DCM_TAG(0x0008, 0x0016), ids.sop_class, sizeof(ids.sop_class));
    dcm_deinit(d);
    free(d);
    if (!value_fits(KIND_UID, ids.study)) ids.study[0] = '\0';
    if (!value_fits(KIND_UID, ids.series)) ids.series[0] = '\0';
    if (!value_fits(KIND_UID, ids.sop)) ids.sop[0] = '\0';
    if (!value_fits(KIND_UID, ids.sop_class)) ids.sop_class[0] = '\0';
    /* a fault after the study (broken pixels) does not keep the file from its case */
    if (rc != RC_OK && (ids.study[0] == '\0' || !is_content_fault(rc))) return rc;
    *ret_ids = ids;
    return RC_OK;
}
