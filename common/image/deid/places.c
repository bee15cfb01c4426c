/* common/image/deid/places.c - tags, keys and fields by name, with the rule that each breaks. No
 * parser is needed to read a finding: this file, with the DICOM table, is all that a daemon links
 * for it. */
#include "common/image/deid/deid_priv.h"

static const struct deid_tag TIFF_TAGS[] = {{269, DEID_IDENTITY, "DocumentName"},
                                            {270, DEID_TEXT, "ImageDescription"},
                                            {285, DEID_IDENTITY, "PageName"},
                                            {306, DEID_DATE, "DateTime"},
                                            {315, DEID_IDENTITY, "Artist"},
                                            {316, DEID_DEVICE, "HostComputer"},
                                            {333, DEID_TEXT, "InkNames"},
                                            {337, DEID_TEXT, "TargetPrinter"},
                                            {700, DEID_XMP, "XMP"},
                                            {33432, DEID_IDENTITY, "Copyright"},
                                            {33723, DEID_IPTC, "IPTC"},
                                            {34377, DEID_IPTC, "Photoshop"},
                                            {37724, DEID_METADATA, "ImageSourceData"},
                                            {42016, DEID_UID, "ImageUniqueID"},
                                            {42032, DEID_IDENTITY, "CameraOwnerName"},
                                            {42033, DEID_DEVICE, "BodySerialNumber"},
                                            {42037, DEID_DEVICE, "LensSerialNumber"},
                                            {42112, DEID_METADATA, "GDALMetadata"},
                                            {50838, DEID_METADATA, "ImageJMetaDataByteCounts"},
                                            {50839, DEID_METADATA, "ImageJMetaData"},
                                            {65427, DEID_IDENTITY, "NDPI Reference"},
                                            {65428, DEID_UNKNOWN, "NDPI"},
                                            {65442, DEID_DEVICE, "NDPI ScannerSerialNumber"},
                                            {65449, DEID_METADATA, "NDPI PropertyMap"},
                                            {33434, DEID_RULE_N, "ExposureTime"},
                                            {36867, DEID_DATE, "DateTimeOriginal"},
                                            {36868, DEID_DATE, "DateTimeDigitized"},
                                            {36880, DEID_DATE, "OffsetTime"},
                                            {36881, DEID_DATE, "OffsetTimeOriginal"},
                                            {36882, DEID_DATE, "OffsetTimeDigitized"},
                                            {37500, DEID_MAKER_NOTE, "MakerNote"},
                                            {37510, DEID_COMMENT, "UserComment"},
                                            {37520, DEID_DATE, "SubSecTime"},
                                            {37521, DEID_DATE, "SubSecTimeOriginal"},
                                            {37522, DEID_DATE, "SubSecTimeDigitized"},
                                            {40091, DEID_COMMENT, "XPTitle"},
                                            {40092, DEID_COMMENT, "XPComment"},
                                            {40093, DEID_IDENTITY, "XPAuthor"},
                                            {40094, DEID_COMMENT, "XPKeywords"},
                                            {40095, DEID_COMMENT, "XPSubject"}};

const struct deid_tag *deid_tiff_tag(uint32_t tag)
{
    for (size_t i = 0; i < ARRAY_N(TIFF_TAGS); i++) {
        if (TIFF_TAGS[i].tag == tag) return &TIFF_TAGS[i];
    }
    return NULL;
}

const char *deid_tiff_name(uint32_t tag)
{
    const struct deid_tag *n = deid_tiff_tag(tag);

    if (tag == 271) return "Make";
    if (tag == 272) return "Model";
    if (tag == 305) return "Software";
    if (tag == 34853) return "GPS";
    if (tag == 34665) return "EXIF";
    return n == NULL ? NULL : n->name;
}

static const struct {
    const char *key;
    uint8_t rule; /* DEID_RULE_N: a number, or plain words where text is set */
    bool text;
} KEYS[] = {{"AppMag", DEID_RULE_N, false},
            {"MPP", DEID_RULE_N, false},
            {"Left", DEID_RULE_N, false},
            {"Top", DEID_RULE_N, false},
            {"StripeWidth", DEID_RULE_N, false},
            {"OriginalWidth", DEID_RULE_N, false},
            {"OriginalHeight", DEID_RULE_N, false},
            {"LineCameraSkew", DEID_RULE_N, false},
            {"LineAreaXOffset", DEID_RULE_N, false},
            {"LineAreaYOffset", DEID_RULE_N, false},
            {"Focus Offset", DEID_RULE_N, false},
            {"Filtered", DEID_RULE_N, false},
            {"Exposure Time", DEID_RULE_N, false},
            {"Exposure Scale", DEID_RULE_N, false},
            {"DisplayColor", DEID_RULE_N, false},
            {"Gamma", DEID_RULE_N, false},
            {"Parmset", DEID_RULE_N, true},
            {"ICC Profile", DEID_RULE_N, true},
            {"SessonMode", DEID_RULE_N, true},
            {"header", DEID_TEXT, false},
            {"ScanScope ID", DEID_DEVICE, false},
            {"Filename", DEID_IDENTITY, false},
            {"Title", DEID_IDENTITY, false},
            {"User", DEID_IDENTITY, false},
            {"ImageID", DEID_IDENTITY, false},
            {"Barcode", DEID_IDENTITY, false},
            {"Date", DEID_DATE, false},
            {"Time", DEID_DATE, false},
            {"Time Zone", DEID_DATE, false},
            {"unknown key", DEID_UNKNOWN, false},
            {"text", DEID_TEXT, false}};
_Static_assert(ARRAY_N(KEYS) == DEID_KEY_TEXT + 1, "the last ones have names");

const char *deid_slide_key(uint32_t idx)
{
    return idx < ARRAY_N(KEYS) ? KEYS[idx].key : NULL;
}

enum deid_rule deid_slide_key_rule(uint32_t idx, bool *ret_words)
{
    CHECK(idx < ARRAY_N(KEYS));
    *ret_words = KEYS[idx].text;
    return (enum deid_rule)KEYS[idx].rule;
}

static const char *const OME_NAMES[] = {"comment",
                                        "text between tags",
                                        "element",
                                        "attribute",
                                        "broken XML",
                                        "Experimenter",
                                        "AcquisitionDate",
                                        "Description",
                                        "Instrument",
                                        "StructuredAnnotations",
                                        "Name",
                                        "UUID",
                                        "FileName",
                                        "Creator"};

const char *deid_ome_name(uint32_t idx)
{
    return idx < ARRAY_N(OME_NAMES) ? OME_NAMES[idx] : NULL;
}

static const struct deid_vol_field_at FIELDS[] = {
    {88, 8, DEID_DATE, "ExamTime"},          {104, 16, DEID_IDENTITY, "ID"},
    {120, 16, DEID_IDENTITY, "ReferenceID"}, {136, 4, DEID_IDENTITY, "PID"},
    {140, 24, DEID_IDENTITY, "PatientID"},   {164, 8, DEID_IDENTITY, "DOB"},
    {172, 4, DEID_IDENTITY, "VID"},          {176, 24, DEID_IDENTITY, "VisitID"},
    {200, 8, DEID_DATE, "VisitDate"},        {216, 1832, DEID_UNKNOWN, "Spare"}};

const struct deid_vol_field_at *deid_vol_at(uint32_t idx)
{
    return idx < ARRAY_N(FIELDS) ? &FIELDS[idx] : NULL;
}
