/* common/image/deid/finding.c - names of rules and places. What comes from a file is only numbers;
 * all words here are this program's own. */
#include "common/image/deid/deid_priv.h"

#define NAME_ROW(id, name, text, level) {name, text, #level},
static const struct {
    const char *name, *text, *level;
} RULES[] = {DEID_RULES(NAME_ROW)};

const char *deid_outcome_name(enum deid_outcome o)
{
    static const char *const NAMES[] = {"accepted", "refused", "quarantined", "opaque"};

    return (unsigned)o < ARRAY_N(NAMES) ? NAMES[o] : "?";
}

const char *deid_rule_name(unsigned rule)
{
    return rule < DEID_RULE_N ? RULES[rule].name : "?";
}

const char *deid_rule_text(unsigned rule)
{
    return rule < DEID_RULE_N ? RULES[rule].text : "?";
}

bool deid_rule_quarantines(unsigned rule)
{
    return rule < DEID_RULE_N && RULES[rule].level[0] == 'Q';
}

const char *deid_change_name(unsigned change)
{
    static const char *const NAMES[] = {"kept", "removed", "emptied", "replaced", "shifted"};

    return change < ARRAY_N(NAMES) ? NAMES[change] : "?";
}

/* enum deid_seen */
static const char *const SEEN[DEID_SEEN_N] = {"text in the pixels", "cannot be decoded",
                                              "too large to be searched",
                                              "the search took too long", "no reader of text"};

bool deid_finding_valid(const struct deid_finding *f)
{
    return f->rule < DEID_RULE_N && f->place < DEID_PLACE_N && f->change < DEID_CHANGE_N &&
           f->path_n <= DEID_PATH_MAX;
}

static void dicom_field(const struct deid_finding *f, char *text)
{
    const char *word = f->path_n == 0 ? NULL : deid_dicom_keyword(f->path[f->path_n - 1]);
    size_t at = 0;

    for (uint32_t i = 0; i < f->path_n && at < DEID_FIELD_BYTES; i++) {
        at += (size_t)snprintf(text + at, DEID_FIELD_BYTES - at, "%s(%04x,%04x)", i == 0 ? "" : "/",
                               f->path[i] >> 16, f->path[i] & 0xffff);
    }
    if (word != NULL && at < DEID_FIELD_BYTES)
        (void)snprintf(text + at, DEID_FIELD_BYTES - at, " %s", word);
}

static void png_field(uint32_t type, char *text)
{
    char c[5] = {0};

    be_put32((uint8_t *)c, type);
    for (int i = 0; i < 4; i++) {
        if (!((c[i] >= 'A' && c[i] <= 'Z') || (c[i] >= 'a' && c[i] <= 'z'))) c[i] = '?';
    }
    (void)snprintf(text, DEID_FIELD_BYTES, "PNG %s", c);
}

static const char *known(const char *word)
{
    return word == NULL ? "" : word;
}

void deid_finding_field(const struct deid_finding *f, char text[DEID_FIELD_BYTES])
{
    uint32_t a = f->path_n > 0 ? f->path[0] : 0, b = f->path_n > 1 ? f->path[1] : 0;

    text[0] = '\0';
    switch ((enum deid_place)f->place) {
    case DEID_AT_DICOM:
        dicom_field(f, text);
        break;
    case DEID_AT_TIFF:
        (void)snprintf(text, DEID_FIELD_BYTES, "TIFF %u/%u %s", a, b, known(deid_tiff_name(b)));
        break;
    case DEID_AT_EXIF:
        (void)snprintf(text, DEID_FIELD_BYTES, "EXIF %04x %s", a, known(deid_tiff_name(a)));
        break;
    case DEID_AT_GPS:
        (void)snprintf(text, DEID_FIELD_BYTES, "GPS %u", a);
        break;
    case DEID_AT_JPEG:
        (void)snprintf(text, DEID_FIELD_BYTES,
                       a == 0xfe                ? "JPEG COM"
                       : a >= 0xe0 && a <= 0xef ? "JPEG APP%u"
                                                : "JPEG marker %u",
                       a >= 0xe0 && a <= 0xef ? a - 0xe0 : a);
        break;
    case DEID_AT_PNG:
        png_field(a, text);
        break;
    case DEID_AT_SLIDE:
        (void)snprintf(text, DEID_FIELD_BYTES, "TIFF %u/270 ImageDescription: %s", a,
                       known(deid_slide_key(b)));
        break;
    case DEID_AT_OME:
        (void)snprintf(text, DEID_FIELD_BYTES, "TIFF %u/270 ImageDescription: OME %s", a,
                       known(deid_ome_name(b)));
        break;
    case DEID_AT_VOL:
        if (deid_vol_at(a) != NULL)
            (void)snprintf(text, DEID_FIELD_BYTES, "VOL %s", deid_vol_at(a)->name);
        break;
    case DEID_AT_FRAME:
        (void)snprintf(text, DEID_FIELD_BYTES, "frame %u: %s", a, b < DEID_SEEN_N ? SEEN[b] : "?");
        break;
    case DEID_AT_FILE:
    case DEID_PLACE_N:
        break;
    }
    for (size_t n = strlen(text); n > 0 && text[n - 1] == ' '; n--)
        text[n - 1] = '\0';
}
