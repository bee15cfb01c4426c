/* common/image/deid/dicom_tags.c - the table that tags_make builds from dicom_rules.txt and the
 * data dictionary. */
#include "common/image/deid/dicom_tags.h"
#include "common/image/deid/deid_priv.h"

static const struct tag_row ROWS[] = {
#include "deid_tags.inc"
};

const struct tag_row *tag_row_find(uint32_t tag)
{
    size_t lo = 0, hi = ARRAY_N(ROWS);

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (ROWS[mid].tag == tag) return &ROWS[mid];
        if (ROWS[mid].tag < tag) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return NULL;
}

const char *deid_dicom_keyword(uint32_t tag)
{
    const struct tag_row *row = tag_row_find(tag);
    uint32_t group = tag >> 16;

    if (row != NULL) return row->keyword;
    if (group % 2 != 0) return "private";
    if ((group & 0xff00) == 0x6000) return "Overlay";
    return (group & 0xff00) == 0x5000 ? "Curve" : NULL;
}

enum vr_class vr_class_of(const char vr[3])
{
    static const struct {
        char vr[3];
        enum vr_class c;
    } CLASSES[] = {{"LO", VC_TEXT},    {"SH", VC_TEXT},   {"LT", VC_TEXT},   {"ST", VC_TEXT},
                   {"UT", VC_TEXT},    {"UC", VC_TEXT},   {"UR", VC_TEXT},   {"AE", VC_NAME},
                   {"PN", VC_NAME},    {"DA", VC_DATE},   {"DT", VC_DATE},   {"TM", VC_DATE},
                   {"UI", VC_UID},     {"CS", VC_CODE},   {"AS", VC_CODE},   {"DS", VC_DECIMAL},
                   {"IS", VC_DECIMAL}, {"US", VC_NUMBER}, {"SS", VC_NUMBER}, {"UL", VC_NUMBER},
                   {"SL", VC_NUMBER},  {"UV", VC_NUMBER}, {"SV", VC_NUMBER}, {"FL", VC_NUMBER},
                   {"FD", VC_NUMBER},  {"AT", VC_NUMBER}, {"OF", VC_NUMBER}, {"OD", VC_NUMBER},
                   {"OL", VC_NUMBER},  {"OV", VC_NUMBER}, {"xs", VC_NUMBER}, {"up", VC_NUMBER},
                   {"SQ", VC_SEQ}};

    for (size_t i = 0; i < ARRAY_N(CLASSES); i++) {
        if (memcmp(CLASSES[i].vr, vr, 3) == 0) return CLASSES[i].c;
    }
    return VC_BYTES;
}
