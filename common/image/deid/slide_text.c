/* common/image/deid/slide_text.c - what an ImageDescription may say: Aperio's keys and OME-XML.
 *
 * Both are read with a list of what is harmless; the text is rewritten in place, shorter. A text
 * that is neither goes, unless it is a plain word or two. */
#include "common/image/deid/deid_priv.h"
#include <ctype.h>

/* ---- Aperio: "Aperio Image Library ...|Key = value|Key = value" ---- */

static void told(struct deid_run *r, uint32_t dir, enum deid_place place, uint32_t key,
                 enum deid_rule rule)
{
    const uint32_t path[2] = {dir, key};

    run_find(r, rule, DEID_REMOVED, place, path, 2);
}

static bool kept_by_option(const struct deid_profile *p, enum deid_rule rule)
{
    return (rule == DEID_DEVICE && p->device_keep) ||
           (rule == DEID_DATE && p->dates == DEID_DATES_KEEP);
}

/* The first field: library, versions, sizes, compression. Words are Aperio's own. */
static bool header_is_plain(const char *p, size_t n)
{
    static const char WORDS[] =
        " Aperio Image Library Leica Biosystems v x JPEG JP RGB YCC BGR K J Q "
        "Quality KDU RAW LZW label macro thumbnail mQ Slide ";
    size_t at = 0;

    while (at < n) {
        char word[16];
        size_t w = 0;

        while (at + w < n && isalpha((unsigned char)p[at + w]))
            w++;
        if (w > 0) {
            if (w > 12) return false;
            (void)snprintf(word, sizeof(word), " %.*s ", (int)w, p + at);
            if (strstr(WORDS, word) == NULL) return false;
            at += w;
        } else if ((unsigned char)p[at] < 0x80 &&
                   (isspace((unsigned char)p[at]) || strchr("0123456789.,:;()[]/=-+*_", p[at]))) {
            at++;
        } else {
            return false;
        }
    }
    return true;
}

static uint32_t key_of(const char *p, size_t n)
{
    for (uint32_t i = 0; i < DEID_KEY_UNKNOWN; i++) {
        if (i != DEID_KEY_HEADER && strlen(deid_slide_key(i)) == n &&
            strncasecmp(deid_slide_key(i), p, n) == 0)
            return i;
    }
    return DEID_KEY_UNKNOWN;
}

static bool field_stays(struct deid_run *r, uint32_t dir, const char *p, size_t n)
{
    const char *eq = memchr(p, '=', n);
    size_t key_n = eq == NULL ? n : (size_t)(eq - p), lead = 0, value_n;
    enum deid_rule rule;
    bool words;
    uint32_t key;
    const char *v;

    while (lead < key_n && p[lead] == ' ')
        lead++;
    while (key_n > lead && p[key_n - 1] == ' ')
        key_n--;
    key = eq == NULL ? DEID_KEY_UNKNOWN : key_of(p + lead, key_n - lead);
    v = eq == NULL ? p : eq + 1;
    value_n = n - (size_t)(v - p);
    rule = deid_slide_key_rule(key, &words);
    if (rule != DEID_RULE_N) {
        if (kept_by_option(r->p, rule)) return true;
        told(r, dir, DEID_AT_SLIDE, key, rule);
        return false;
    }
    if (words && deid_text_is_plain((const uint8_t *)v, value_n)) return true;
    for (size_t i = 0; i < value_n; i++) {
        if (v[i] == 0 || strchr("0123456789.+-eE ", v[i]) == NULL) {
            told(r, dir, DEID_AT_SLIDE, key, DEID_VALUE);
            return false;
        }
    }
    return true;
}

static size_t aperio(struct deid_run *r, uint32_t dir, char *text, size_t n)
{
    static const char HEADER[] = "Aperio Image Library";
    size_t at = 0, to = 0;

    for (bool first = true; at < n; first = false) {
        const char *bar = memchr(text + at, '|', n - at);
        size_t len = bar == NULL ? n - at : (size_t)(bar - (text + at));
        bool stays = first ? header_is_plain(text, len) : field_stays(r, dir, text + at, len);

        if (first && !stays) {
            told(r, dir, DEID_AT_SLIDE, DEID_KEY_HEADER, DEID_TEXT);
            to = MIN(len, sizeof(HEADER) - 1);
            memcpy(text, HEADER, to);
        } else if (stays) {
            if (!first) text[to++] = '|';
            memmove(text + to, text + at, len);
            to += len;
        }
        at += len + (bar == NULL ? 0 : 1);
    }
    return to;
}

/* ---- OME-XML ---- */

static bool in_words(const char *p, size_t n, const char *words)
{
    char w[40];

    if (n == 0 || n > 36) return false;
    (void)snprintf(w, sizeof(w), " %.*s ", (int)n, p);
    return strstr(words, w) != NULL;
}

static uint32_t ome_idx(const char *p, size_t n, uint32_t other)
{
    for (uint32_t i = DEID_OME_NAMED; deid_ome_name(i) != NULL; i++) {
        if (strlen(deid_ome_name(i)) == n && strncmp(deid_ome_name(i), p, n) == 0) return i;
    }
    return other;
}

static enum deid_rule ome_rule(uint32_t idx)
{
    if (idx < DEID_OME_NAMED || idx == DEID_OME_NAMED + 2) return DEID_TEXT;
    if (strcmp(deid_ome_name(idx), "AcquisitionDate") == 0) return DEID_DATE;
    if (strcmp(deid_ome_name(idx), "UUID") == 0) return DEID_UID;
    if (strcmp(deid_ome_name(idx), "Instrument") == 0) return DEID_DEVICE;
    return DEID_IDENTITY;
}

/* Attributes: measures and kinds of pixels; a value is a number, a known word, an id or a schema.
 */
static bool attribute_stays(const char *name, size_t name_n, const char *v, size_t v_n)
{
    static const char NAMES[] =
        " ID SizeX SizeY SizeZ SizeC SizeT Type DimensionOrder PhysicalSizeX PhysicalSizeY "
        "PhysicalSizeZ PhysicalSizeXUnit PhysicalSizeYUnit PhysicalSizeZUnit Color SamplesPerPixel "
        "BigEndian Interleaved SignificantBits IFD PlaneCount FirstC FirstT FirstZ TheC TheT TheZ "
        "DeltaT DeltaTUnit ExposureTime ExposureTimeUnit PositionX PositionY PositionZ "
        "PositionXUnit PositionYUnit PositionZUnit TimeIncrement TimeIncrementUnit version "
        "encoding "
        "EmissionWavelength EmissionWavelengthUnit ExcitationWavelength ExcitationWavelengthUnit "
        "AcquisitionMode ContrastMethod IlluminationType ";
    size_t letters = 0, numbers = 0;

    if (name_n >= 5 && (strncmp(name, "xmlns", 5) == 0 || strncmp(name, "xsi:", 4) == 0)) {
        char url[256];

        if (v_n >= sizeof(url)) return false;
        (void)snprintf(url, sizeof(url), "%.*s", (int)v_n, v);
        return strncmp(url, "http://www.openmicroscopy.org/", 30) == 0 ||
               strncmp(url, "http://www.w3.org/", 18) == 0;
    }
    if (!in_words(name, name_n, NAMES) || v_n > 32) return false;
    if (name_n > 4 && strncmp(name + name_n - 4, "Unit", 4) == 0) return v_n <= 4;
    for (size_t i = 0; i < v_n; i++) {
        if (isdigit((unsigned char)v[i])) {
            numbers++;
        } else if (isalpha((unsigned char)v[i])) {
            letters++;
        } else if (strchr(".-+:", v[i]) == NULL || v[i] == '\0') {
            return false;
        }
    }
    /* "Image:0", "XYZCT", "uint16", "-2147483648": short words, short numbers */
    return letters <= 16 && (numbers <= 10 || letters == 0);
}

/* One tag <...> from p, n bytes with both brackets; copies what stays to `to`. Returns bytes. */
static size_t ome_tag(struct deid_run *r, uint32_t dir, const char *p, size_t n, char *to)
{
    static const char ELEMENTS[] = " OME Image Pixels Channel TiffData Plane LightPath ?xml ";
    size_t at = 1, name, name_n, out = 0;
    bool closing = n > 2 && p[1] == '/';

    if (closing) at++;
    name = at;
    while (at < n - 1 && !isspace((unsigned char)p[at]) && !(p[at] == '/' && at == n - 2))
        at++;
    name_n = at - name;
    if (!in_words(p + name, name_n, ELEMENTS)) {
        uint32_t idx = ome_idx(p + name, name_n, DEID_OME_ELEMENT);

        told(r, dir, DEID_AT_OME, idx, ome_rule(idx));
        return 0;
    }
    memcpy(to, p, at);
    out = at;
    while (at < n - 1) {
        size_t start = at, eq, v, end;

        while (at < n - 1 && isspace((unsigned char)p[at]))
            at++;
        if (p[at] == '/' || p[at] == '?') break;
        eq = at;
        while (eq < n - 1 && p[eq] != '=')
            eq++;
        v = eq + 1;
        if (v >= n - 1 || (p[v] != '"' && p[v] != '\'')) break;
        end = v + 1;
        while (end < n - 1 && p[end] != p[v])
            end++;
        if (end >= n - 1) break;
        if (attribute_stays(p + at, eq - at, p + v + 1, end - v - 1)) {
            memcpy(to + out, p + start, end + 1 - start);
            out += end + 1 - start;
        } else {
            uint32_t idx = ome_idx(p + at, eq - at, DEID_OME_ATTRIBUTE);

            told(r, dir, DEID_AT_OME, idx, ome_rule(idx));
        }
        at = end + 1;
    }
    while (at < n - 1 && isspace((unsigned char)p[at]))
        at++;
    if (at < n - 1 && n - at != 2) told(r, dir, DEID_AT_OME, DEID_OME_BROKEN, DEID_TEXT);
    if (n > 2 && (p[n - 2] == '/' || p[n - 2] == '?')) to[out++] = p[n - 2];
    to[out++] = '>';
    return out;
}

static bool space_only(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!isspace((unsigned char)p[i]) && p[i] != '\0') return false;
    }
    return true;
}

static size_t ome(struct deid_run *r, uint32_t dir, char *text, size_t n)
{
    static const char WARNING[] = "<!-- Warning: this comment is an OME-XML metadata block";
    char *to = malloc(n + 1);
    size_t at = 0, out = 0;

    if (to == NULL) { /* nothing of it is known to be harmless */
        told(r, dir, DEID_AT_OME, DEID_OME_BROKEN, DEID_TEXT);
        return 0;
    }
    while (at < n) {
        const char *open = memchr(text + at, '<', n - at), *close;
        size_t gap = open == NULL ? n - at : (size_t)(open - (text + at));

        if (!space_only(text + at, gap)) told(r, dir, DEID_AT_OME, DEID_OME_TEXT, DEID_TEXT);
        at += gap;
        if (open == NULL) break;
        if (n - at >= 4 && strncmp(text + at, "<!--", 4) == 0) {
            close = memmem(text + at, n - at, "-->", 3);
            /* the boilerplate that every writer puts there is dropped without a word */
            if (strncmp(text + at, WARNING, MIN(n - at, sizeof(WARNING) - 1)) != 0 ||
                close == NULL || close - (text + at) > 400)
                told(r, dir, DEID_AT_OME, DEID_OME_COMMENT, DEID_COMMENT);
            at = close == NULL ? n : (size_t)(close + 3 - text);
            continue;
        }
        close = memchr(text + at, '>', n - at);
        if (close == NULL) {
            told(r, dir, DEID_AT_OME, DEID_OME_BROKEN, DEID_TEXT);
            break;
        }
        out += ome_tag(r, dir, text + at, (size_t)(close + 1 - (text + at)), to + out);
        at = (size_t)(close + 1 - text);
    }
    memcpy(text, to, out);
    free(to);
    return out;
}

size_t deid_slide_text(struct deid_run *r, uint32_t dir, char *text, size_t n)
{
    while (n > 0 && (text[n - 1] == '\0' || isspace((unsigned char)text[n - 1])))
        n--;
    if (n >= 6 && strncmp(text, "Aperio", 6) == 0) return aperio(r, dir, text, n);
    if (n >= 5 && (strncmp(text, "<?xml", 5) == 0 || strncmp(text, "<OME ", 5) == 0 ||
                   strncmp(text, "<OME>", 5) == 0))
        return ome(r, dir, text, n);
    if (n == 0) return n;
    told(r, dir, DEID_AT_SLIDE, DEID_KEY_TEXT, DEID_TEXT);
    return 0;
}
