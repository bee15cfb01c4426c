/* common/image/deid/deid.h - may this file leave the society, and what must change before it may?
 *
 * One implementation for agent and gateway. A profile (data file, profiles/) says what a collection
 * accepts; a check names every place that breaks it, a cleaning removes or replaces those places
 * and says what it did. Both run over a ranged source and take no memory that grows with the file;
 * they belong in the sandbox: no network, no libuv, no file, no log, no key (pseudonyms are asked
 * for).
 *
 * Default deny: a text, private or unknown attribute, a metadata segment, a TIFF tag or a format
 * that no rule knows as harmless is a violation. A class of images that usually carries text in its
 * pixels goes to quarantine until a person has looked; in others text is searched (deid_text).
 *
 * A finding is numbers only (rule, place, tags): no value of a file can travel in it, whatever the
 * file holds. deid_finding_text makes it readable outside. */
#pragma once
#include "common/base/buf.h"
#include "common/image/image.h"

enum deid_outcome {
    DEID_ACCEPTED,
    DEID_REFUSED,     /* breaks a rule that cleaning may mend */
    DEID_QUARANTINED, /* for a person to look at: pixels */
    DEID_OPAQUE,      /* no rule reads it, and the profile lets it pass unread */
    DEID_OUTCOME_N
};
const char *deid_outcome_name(enum deid_outcome o); /* "accepted", ... */

/*  enum, name in reports, text, Q = quarantine, R = refusal */
#define DEID_RULES(X)                                                                              \
    X(DEID_MALFORMED, "malformed", "the content breaks its format", R)                             \
    X(DEID_FORMAT, "format", "no rule reads this format", R)                                       \
    X(DEID_TOO_LARGE, "too-large", "more than can be checked", R)                                  \
    X(DEID_IDENTITY, "identity", "names or identifies a person, place or visit", R)                \
    X(DEID_DATE, "date", "a date or time", R)                                                      \
    X(DEID_UID, "uid", "an identifier that a site or device gave", R)                              \
    X(DEID_DEVICE, "device", "identifies a device", R)                                             \
    X(DEID_INSTITUTION, "institution", "identifies an institution", R)                             \
    X(DEID_PATIENT, "patient-characteristic", "a characteristic that the profile removes", R)      \
    X(DEID_AGE, "age", "an age above 89 years", R)                                                 \
    X(DEID_DESCRIPTION, "description", "a description in free words", R)                           \
    X(DEID_TEXT, "free-text", "text in a place that is not known to be harmless", R)               \
    X(DEID_STRUCTURED, "structured-content", "structured content that the profile removes", R)     \
    X(DEID_GRAPHICS, "graphics", "overlay, curve or annotation, can show text", R)                 \
    X(DEID_ICON, "icon-image", "a reduced image beside the image", R)                              \
    X(DEID_PRIVATE, "private", "a private attribute", R)                                           \
    X(DEID_UNKNOWN, "unknown", "an attribute, tag or segment that no rule knows", R)               \
    X(DEID_BINARY, "binary", "bytes in a place that is not known to be harmless", R)               \
    X(DEID_VALUE, "value-type", "a value that does not fit its type, may be a text", R)            \
    X(DEID_PREAMBLE, "preamble", "the 128 bytes before the DICOM prefix are not zero", R)          \
    X(DEID_CLASS, "class", "a kind of object that cannot be cleared", R)                           \
    X(DEID_LABEL, "label-image", "an image of the slide's label", R)                               \
    X(DEID_MACRO, "macro-image", "an overview of the whole slide, shows the label", R)             \
    X(DEID_THUMBNAIL, "thumbnail-image", "a reduced image of unknown content", R)                  \
    X(DEID_METADATA, "metadata", "embedded metadata", R)                                           \
    X(DEID_GPS, "gps", "a position on earth", R)                                                   \
    X(DEID_XMP, "xmp", "an XMP packet", R)                                                         \
    X(DEID_IPTC, "iptc", "IPTC or Photoshop records", R)                                           \
    X(DEID_COMMENT, "comment", "a comment", R)                                                     \
    X(DEID_ENDOSCOPE, "endoscope-comment", "an endoscope's comment (patient and examination)", R)  \
    X(DEID_MAKER_NOTE, "maker-note", "a camera maker's note", R)                                   \
    X(DEID_TRAILER, "trailing-data", "bytes after the end of the image", R)                        \
    X(DEID_VIDEO, "video", "videos are not allowed", R)                                            \
    X(DEID_NAME, "file-name", "the name or a folder's can identify a person or a day", R)          \
    X(DEID_PIXELS, "pixels-unverified", "its class usually shows text, or text was found: look",   \
      Q)                                                                                           \
    X(DEID_BURNED_IN, "burned-in", "it says that text is burned in: a person must look", Q)
#define DEID_RULE_ENUM(id, name, text, level) id,
enum deid_rule { DEID_RULES(DEID_RULE_ENUM) DEID_RULE_N };

/* What the numbers of a finding's path are. */
enum deid_place {
    DEID_AT_FILE,  /* none */
    DEID_AT_DICOM, /* tags from the outermost sequence inwards */
    DEID_AT_TIFF,  /* directory, tag */
    DEID_AT_EXIF,  /* tag */
    DEID_AT_GPS,   /* tag */
    DEID_AT_JPEG,  /* marker */
    DEID_AT_PNG,   /* chunk type, four letters big-endian */
    DEID_AT_SLIDE, /* directory, index of a known key, see deid_slide_keys */
    DEID_AT_OME,   /* directory, index of a known name */
    DEID_AT_VOL,   /* index of a field */
    DEID_AT_FRAME, /* frame, enum deid_seen */
    DEID_PLACE_N
};
enum deid_seen { /* in the pixels of a frame */
                 DEID_SEEN_TEXT,
                 DEID_SEEN_NOT_DECODED,
                 DEID_SEEN_TOO_LARGE,
                 DEID_SEEN_TOO_SLOW, /* the frame where the time was over */
                 DEID_SEEN_NO_READER,
                 DEID_SEEN_N
};
enum deid_change {
    DEID_KEPT, /* a check; or cleaning cannot mend it */
    DEID_REMOVED,
    DEID_EMPTIED,
    DEID_REPLACED, /* by a keyed pseudonym, or a fixed text */
    DEID_SHIFTED,  /* a date, by the patient's days */
    DEID_CHANGE_N
};
#define DEID_PATH_MAX 6
struct deid_finding {
    uint8_t rule, place, change, path_n;
    uint32_t path[DEID_PATH_MAX]; /* deeper nesting: the first and the last ones */
};
typedef void (*deid_finding_cb)(void *data, const struct deid_finding *f);

const char *deid_rule_name(unsigned rule); /* static; "?" when out of range */
const char *deid_rule_text(unsigned rule);
const char *deid_change_name(unsigned change);
bool deid_rule_quarantines(unsigned rule);
/* Where, e.g. "(0040,a730)/(0040,a160) TextValue", "EXIF 9286 UserComment". ASCII only. */
#define DEID_FIELD_BYTES 160
void deid_finding_field(const struct deid_finding *f, char text[DEID_FIELD_BYTES]);
/* False: numbers that no rule makes; from a child that was taken over. */
bool deid_finding_valid(const struct deid_finding *f);

/* ---- profile ---- */

enum deid_keep { DEID_DO_REMOVE, DEID_DO_KEEP };
enum deid_dates { DEID_DATES_REMOVE, DEID_DATES_SHIFT, DEID_DATES_KEEP };
enum deid_pixels { DEID_PIXELS_ACCEPT, DEID_PIXELS_QUARANTINE };
enum { DEID_LIST_MAX = 16, DEID_PROFILE_BYTES_MAX = 8192 };
enum deid_look { DEID_LOOK_ALL, DEID_LOOK_DOUBTFUL, DEID_LOOK_NEVER }; /* for text in pixels */
struct deid_private {
    uint16_t group;
    uint8_t elem;
    char creator[65];
};
struct deid_profile {
    char name[64];
    uint32_t version;
    bool dicom, slide, image, vol; /* formats that may be stored */
    bool video;                    /* allowed, into quarantine */
    enum deid_dates dates;
    bool uids_keep, device_keep, institution_keep, patient_keep, descriptions_keep;
    bool structured_keep;     /* descend and apply the rules inside; else remove it whole */
    bool names_any;           /* file names are not looked at */
    enum deid_pixels plain;   /* JPEG, PNG, TIFF that are no slide */
    enum deid_pixels missing; /* BurnedInAnnotation missing, original CT, MR and PET */
    enum deid_look text;
    uint32_t pattern_n; /* pseudonyms of the society's own form: 9 digit, A letter, X hex */
    char pattern[DEID_LIST_MAX][32];
    uint32_t opaque_n; /* media types that pass unread */
    char opaque[DEID_LIST_MAX][48];
    uint32_t private_n;
    struct deid_private private_keep[DEID_LIST_MAX];
};
/* Text of a profile file: lines "key = value", '#' comments; profiles/README.md lists them.
 * RC_INVAL names the line. */
MUST_CHECK enum rc deid_profile_parse(const char *text, size_t n, struct deid_profile *ret,
                                      struct err *reterr);
/* Shipped ones: "endoscopy", "pathology", "radiology", "ophthalmology", "default". NULL: none. */
const char *deid_profile_shipped(const char *name);
const char *deid_profile_shipped_name(unsigned idx); /* NULL past the end */

/* ---- check and clean ---- */

/* RC_OK with the verdict, whatever the content is; else only the source's or RC_NOMEM. */
MUST_CHECK enum rc deid_check(const struct image_source *src, const struct deid_profile *p,
                              deid_finding_cb cb, void *data, enum deid_outcome *ret,
                              struct err *reterr);

enum deid_pseudonym { DEID_PS_PATIENT, DEID_PS_UID, DEID_PS_ID, DEID_PS_DAYS };
struct deid_out {
    void *ctx;
    /* the cleaned file, in order: a range of the source as it is, or bytes */
    enum rc (*copy)(void *ctx, uint64_t off, uint64_t n, struct err *reterr);
    enum rc (*data)(void *ctx, const void *p, size_t n, struct err *reterr);
    /* 32 bytes from a keyed hash over kind and value; the key stays with the caller */
    enum rc (*pseudonym)(void *ctx, enum deid_pseudonym kind, const void *p, size_t n,
                         uint8_t ret[32], struct err *reterr);
};
/* As deid_check; ret is the outcome of what was written. What is written for a file that stays
 * refused is to be thrown away. The caller checks the result again before it trusts it. */
MUST_CHECK enum rc deid_clean(const struct image_source *src, const struct deid_profile *p,
                              const struct deid_out *out, deid_finding_cb cb, void *data,
                              enum deid_outcome *ret, struct err *reterr);

/* Reads one line: grey pixels, letters dark on white. common/image/deid/text_reader.h */
struct deid_reader {
    void *ctx;
    enum rc (*read)(void *ctx, const uint8_t *grey, uint32_t width, uint32_t height, bool *ret_text,
                    struct err *reterr);
};
/* Text in the pixels of a file that a check accepted: then io_outcome becomes DEID_QUARANTINED. So
 * it does when they cannot be looked at: not decoded, too large, over DEID_TEXT_CPU_MS of this
 * process, no reader (NULL). DEID_LOOK_DOUBTFUL passes original slices of CT, MR and PET and tiles
 * of slides; what is computed from images or no image passes always. Of many frames
 * DEID_TEXT_FRAMES are looked at, evenly. Decodes: 300 MiB. RC_NOMEM, or any code of source and
 * reader. */
enum { DEID_TEXT_FRAMES = 5, DEID_TEXT_CPU_MS = 4000 };
MUST_CHECK enum rc deid_text(const struct image_source *src, const struct deid_profile *p,
                             const struct deid_reader *reader, deid_finding_cb cb, void *data,
                             enum deid_outcome *io_outcome, struct err *reterr);

/* A relative path as it would be stored: dates, letters outside of ASCII (a Japanese name, in UTF-8
 * or Shift_JIS), a person's title. At most one finding. */
void deid_check_name(const char *path, const struct deid_profile *p, deid_finding_cb cb,
                     void *data);
