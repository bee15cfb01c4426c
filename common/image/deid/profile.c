/* common/image/deid/profile.c - the text of a profile, and the shipped ones (compiled in from
 * profiles/ by profiles_make). A key that is not known or a value that is none of its words is an
 * error: a typing mistake must not open a gate. */
#include "common/base/strutil.h"
#include "common/image/deid/deid_priv.h"
#include <ctype.h>

struct shipped {
    const char *name, *text;
};
static const struct shipped SHIPPED[] = {
#include "deid_profiles.inc"
};

const char *deid_profile_shipped(const char *name)
{
    for (size_t i = 0; i < ARRAY_N(SHIPPED); i++) {
        if (strcmp(SHIPPED[i].name, name) == 0) return SHIPPED[i].text;
    }
    return NULL;
}

const char *deid_profile_shipped_name(unsigned idx)
{
    return idx < ARRAY_N(SHIPPED) ? SHIPPED[idx].name : NULL;
}

/* 0 or 1: which of the two words; -1: neither */
static int word_of(const char *v, const char *zero, const char *one)
{
    if (strcmp(v, zero) == 0) return 0;
    return strcmp(v, one) == 0 ? 1 : -1;
}

struct flag_key {
    const char *key, *off, *on;
    size_t offset;
};
#define FLAG(key, off, on, field)                                                                  \
    {                                                                                              \
        key, off, on, offsetof(struct deid_profile, field)                                         \
    }
static const struct flag_key FLAGS[] = {
    FLAG("video", "refuse", "quarantine", video),
    FLAG("uids", "replace", "keep", uids_keep),
    FLAG("device", "remove", "keep", device_keep),
    FLAG("institution", "remove", "keep", institution_keep),
    FLAG("patient", "remove", "keep", patient_keep),
    FLAG("descriptions", "remove", "keep", descriptions_keep),
    FLAG("structured-content", "remove", "clean", structured_keep),
    FLAG("file-names", "check", "any", names_any)};

static bool set_flag(struct deid_profile *p, const char *key, const char *v, bool *ret_known)
{
    for (size_t i = 0; i < ARRAY_N(FLAGS); i++) {
        int w;

        if (strcmp(FLAGS[i].key, key) != 0) continue;
        *ret_known = true;
        w = word_of(v, FLAGS[i].off, FLAGS[i].on);
        if (w >= 0) *(bool *)((char *)p + FLAGS[i].offset) = w == 1;
        return w >= 0;
    }
    return false;
}

static bool set_pixels(enum deid_pixels *to, const char *v)
{
    int w = word_of(v, "accept", "quarantine");

    if (w >= 0) *to = w == 1 ? DEID_PIXELS_QUARANTINE : DEID_PIXELS_ACCEPT;
    return w >= 0;
}

static bool set_look(struct deid_profile *p, const char *v)
{
    static const char *const WORDS[] = {"all", "doubtful", "never"}; /* enum deid_look */

    for (size_t i = 0; i < ARRAY_N(WORDS); i++) {
        if (strcmp(WORDS[i], v) != 0) continue;
        p->text = (enum deid_look)i;
        return true;
    }
    return false;
}

static bool set_dates(struct deid_profile *p, const char *v)
{
    if (strcmp(v, "keep") == 0) {
        p->dates = DEID_DATES_KEEP;
        return true;
    }
    if (word_of(v, "remove", "shift") < 0) return false;
    p->dates = word_of(v, "remove", "shift") == 1 ? DEID_DATES_SHIFT : DEID_DATES_REMOVE;
    return true;
}

static bool set_formats(struct deid_profile *p, char *v)
{
    char *save, *w;

    for (w = strtok_r(v, " ", &save); w != NULL; w = strtok_r(NULL, " ", &save)) {
        if (strcmp(w, "dicom") == 0) {
            p->dicom = true;
        } else if (strcmp(w, "slide") == 0) {
            p->slide = true;
        } else if (strcmp(w, "image") == 0) {
            p->image = true;
        } else if (strcmp(w, "vol") == 0) {
            p->vol = true;
        } else {
            return false;
        }
    }
    return true;
}

/* Appends to a list of texts of cap bytes each. */
static bool add_text(char *list, uint32_t *n, size_t cap, const char *v)
{
    size_t v_n = strlen(v);

    if (*n == DEID_LIST_MAX || v_n == 0 || v_n >= cap) return false;
    memcpy(list + *n * cap, v, v_n + 1);
    (*n)++;
    return true;
}

/* "gggg,xxee CREATOR": the block number belongs to the file. */
static bool add_private(struct deid_profile *p, const char *v)
{
    struct deid_private *d = &p->private_keep[p->private_n];
    unsigned group, elem;
    int at = 0;

    if (p->private_n == DEID_LIST_MAX) return false;
    if (sscanf(v, "%4x,xx%2x %n", &group, &elem, &at) != 2 || at == 0 || group % 2 == 0)
        return false;
    if (strlen(v + at) == 0 || strlen(v + at) >= sizeof(d->creator)) return false;
    d->group = (uint16_t)group;
    d->elem = (uint8_t)elem;
    (void)snprintf(d->creator, sizeof(d->creator), "%s", v + at);
    p->private_n++;
    return true;
}

static bool set_key(struct deid_profile *p, const char *key, char *v)
{
    bool known = false, ok = set_flag(p, key, v, &known);
    uint64_t version;

    if (known) return ok;
    if (strcmp(key, "name") == 0) {
        if (strlen(v) >= sizeof(p->name)) return false;
        (void)snprintf(p->name, sizeof(p->name), "%s", v);
        return v[0] != '\0' && strspn(v, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(v);
    }
    if (strcmp(key, "version") == 0) {
        if (!str_to_u64(v, UINT32_MAX, &version)) return false;
        p->version = (uint32_t)version;
        return true;
    }
    if (strcmp(key, "formats") == 0) return set_formats(p, v);
    if (strcmp(key, "dates") == 0) return set_dates(p, v);
    if (strcmp(key, "pixels.plain-image") == 0) return set_pixels(&p->plain, v);
    if (strcmp(key, "pixels.no-statement") == 0) return set_pixels(&p->missing, v);
    if (strcmp(key, "pixels.text") == 0) return set_look(p, v);
    if (strcmp(key, "pseudonym") == 0)
        return add_text(p->pattern[0], &p->pattern_n, sizeof(p->pattern[0]), v);
    if (strcmp(key, "opaque") == 0)
        return add_text(p->opaque[0], &p->opaque_n, sizeof(p->opaque[0]), v);
    if (strcmp(key, "private") == 0) return add_private(p, v);
    return false;
}

static void trim(char *s)
{
    size_t n = strlen(s), lead = strspn(s, " \t");

    while (n > lead && isspace((unsigned char)s[n - 1]))
        n--;
    memmove(s, s + lead, n - lead);
    s[n - lead] = '\0';
}

static enum rc parse_line(struct deid_profile *p, char *line, unsigned line_n, struct err *reterr)
{
    char *eq;

    if (strchr(line, '#') != NULL) *strchr(line, '#') = '\0';
    trim(line);
    if (line[0] == '\0') return RC_OK;
    eq = strchr(line, '=');
    if (eq == NULL)
        return err_set(reterr, RC_INVAL, "profile, line %u: a line is key = value", line_n);
    *eq++ = '\0';
    trim(line);
    trim(eq);
    if (!set_key(p, line, eq)) {
        return err_set(reterr, RC_INVAL,
                       "profile, line %u: '%s' is not known, cannot have this value or came too "
                       "often; see common/image/deid/profiles/README.md",
                       line_n, line);
    }
    return RC_OK;
}

enum rc deid_profile_parse(const char *text, size_t n, struct deid_profile *ret, struct err *reterr)
{
    /* what no line says is the strictest */
    struct deid_profile p = {.plain = DEID_PIXELS_QUARANTINE, .missing = DEID_PIXELS_QUARANTINE};
    char line[256];
    unsigned line_n = 0;
    size_t at = 0;

    if (n > DEID_PROFILE_BYTES_MAX)
        return err_set(reterr, RC_INVAL, "profile: over %d bytes", DEID_PROFILE_BYTES_MAX);
    while (at < n) {
        const char *end = memchr(text + at, '\n', n - at);
        size_t len = end == NULL ? n - at : (size_t)(end - (text + at));
        enum rc rc;

        line_n++;
        if (len >= sizeof(line) || memchr(text + at, '\0', len) != NULL)
            return err_set(reterr, RC_INVAL, "profile, line %u: too long or no text", line_n);
        memcpy(line, text + at, len);
        line[len] = '\0';
        rc = parse_line(&p, line, line_n, reterr);
        if (rc != RC_OK) return rc;
        at += len + 1;
    }
    if (p.name[0] == '\0') return err_set(reterr, RC_INVAL, "profile: it has no 'name = ...' line");
    *ret = p;
    return RC_OK;
}
