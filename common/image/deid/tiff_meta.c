/* common/image/deid/tiff_meta.c - TIFF, BigTIFF, slides (SVS, NDPI, OME) and EXIF blocks: every
 * directory, every tag.
 *
 * Tags that decoding needs stay; of all others the value must be empty, a number that a list
 * allows, or a plain word. Label, macro and thumbnail images of a slide are cut out of the chain.
 * Cleaning moves nothing: values, directories and image data are overwritten with zeros where they
 * lie, so that a slide of gigabytes is copied once and every offset stays true. Two tags that share
 * bytes are both blank afterwards: the second check, which every cleaned file gets, tells. */
#include "common/image/deid/deid_priv.h"

enum {
    DIRS_MAX = 1024,
    ENTRIES_MAX = 512,
    PATCHES_MAX = 262144,
    SHARED_MAX =
        8192, /* values, of what stays and of what goes: they are compared with each other */
    TEXT_MAX = 1 << 20,
    DIR_DEPTH_MAX = 4,
    STRIPS_MAX = 1 << 20,
    BLANK_MAX = 64 << 20, /* read of one value to see that it is blank */
};
enum dir_kind { DIR_IMAGE, DIR_SUB, DIR_EXIF, DIR_GPS, DIR_INTEROP };

struct patch {
    uint64_t off, n;
    uint8_t *p; /* NULL: zeros */
    bool weak;  /* not where a directory that stays reads */
};
struct range {
    uint64_t off, n;
};
struct entry {
    uint32_t tag, type;
    uint64_t n, off, bytes; /* values; where they lie */
};
struct dir {
    uint64_t off, pointer_off,
        next_off; /* of the pointer that leads here; of the one to the next */
    uint64_t next;
    uint32_t entry_n, idx;
    enum dir_kind kind;
};
struct dir_facts {
    uint64_t width, height;
    bool tiled, label, macro, described;
    int ndpi_lens; /* 0: none */
};
struct tf {
    struct deid_run *r;
    const struct image_source *src;
    bool exif; /* a block inside a JPEG or PNG: places are told as EXIF's */
    bool big, bigtiff, slide, ndpi, aperio;
    uint32_t dir_n, orientation;
    uint64_t seen[DIRS_MAX];
    uint32_t patch_n, patch_cap, weak_n, kept_n;
    struct patch *patch;
    struct range kept[SHARED_MAX]; /* values outside of their directories that stay */
};

/* ---- what tags mean ---- */

/* Stay whatever they hold: how pixels lie and what their numbers mean. Ascending. */
static const uint16_t STRUCTURE[] = {
    254, 255, 256, 257, 258, 259, 262,   263,   264,   265,   266,  273, 274, 277, 278,
    279, 280, 281, 282, 283, 284, 286,   287,   288,   289,   290,  291, 292, 293, 296,
    297, 301, 317, 318, 319, 320, 321,   322,   323,   324,   325,  326, 327, 328, 332,
    334, 336, 338, 339, 340, 341, 342,   347,   512,   513,   514,  515, 517, 518, 519,
    520, 521, 529, 530, 531, 532, 32995, 32996, 32997, 32998, 34675};
/* Of a camera: settings, numbers only. */
static const uint16_t SETTINGS[] = {
    0x829a, 0x829d, 0x8822, 0x8827, 0x8830, 0x8831, 0x8832, 0x9000, 0x9101, 0x9102, 0x9201,
    0x9202, 0x9203, 0x9204, 0x9205, 0x9206, 0x9207, 0x9208, 0x9209, 0x920a, 0xa000, 0xa001,
    0xa002, 0xa003, 0xa20e, 0xa20f, 0xa210, 0xa215, 0xa217, 0xa300, 0xa301, 0xa401, 0xa402,
    0xa403, 0xa404, 0xa405, 0xa406, 0xa407, 0xa408, 0xa409, 0xa40a, 0xa40c, 0xa500};

static bool in_tags(uint32_t tag, const uint16_t *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (list[i] == tag) return true;
    }
    return false;
}

bool deid_by_endoscope(const uint8_t *p, size_t n)
{
    static const char *const MAKERS[] = {"olympus",  "fujifilm", "fujinon", "pentax",  "evis",
                                         "endoscop", "patient",  "pdob",    "exam_no", "pid:"};

    for (size_t i = 0; i < ARRAY_N(MAKERS); i++) {
        size_t w = strlen(MAKERS[i]);

        for (size_t at = 0; at + w <= n; at++) {
            if (strncasecmp((const char *)p + at, MAKERS[i], w) == 0) return true;
        }
    }
    return false;
}

bool deid_text_is_plain(const uint8_t *p, size_t n)
{
    size_t digits = 0;

    while (n > 0 && (p[n - 1] == 0 || p[n - 1] == ' ' || p[n - 1] == '\r' || p[n - 1] == '\n'))
        n--;
    if (n > 64) return false;
    for (size_t i = 0; i < n; i++) {
        bool letter = (p[i] | 0x20) >= 'a' && (p[i] | 0x20) <= 'z';

        digits = p[i] >= '0' && p[i] <= '9' ? digits + 1 : 0;
        if (digits > 5) return false;
        if (!letter && digits == 0 && strchr(" .,-_/()+:;", p[i]) == NULL) return false;
        if (p[i] == 0) return false;
    }
    return true;
}

/* ---- reading ---- */

static uint64_t number(const struct tf *t, const uint8_t *p, unsigned n)
{
    return t->big ? be_get(p, n) : le_get(p, n);
}

static enum rc bytes_at(const struct tf *t, uint64_t off, void *p, size_t n, struct err *reterr)
{
    return image_source_read(t->src, off, p, n, reterr);
}

static enum rc entry_read(const struct tf *t, const struct dir *d, uint32_t idx, struct entry *ret,
                          struct err *reterr)
{
    static const uint8_t SIZES[] = {0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8};
    unsigned size = t->bigtiff ? 20 : 12, word = t->bigtiff ? 8 : 4;
    uint64_t off = d->off + (t->bigtiff ? 8 : 2) + (uint64_t)idx * size;
    uint8_t b[20];
    enum rc rc = bytes_at(t, off, b, size, reterr);

    if (rc != RC_OK) return rc;
    ret->tag = (uint32_t)number(t, b, 2);
    ret->type = (uint32_t)number(t, b + 2, 2);
    ret->n = number(t, b + 4, word);
    if (ret->type >= ARRAY_N(SIZES) || SIZES[ret->type] == 0)
        return err_set(reterr, RC_CORRUPT, "TIFF: tag %u has an unknown type", ret->tag);
    ret->bytes = mul_sat(ret->n, SIZES[ret->type]);
    ret->off = ret->bytes <= word ? off + 4 + word : number(t, b + 4 + word, word);
    if (ret->off > t->src->size || ret->bytes > t->src->size - ret->off)
        return err_set(reterr, RC_CORRUPT, "TIFF: the value of tag %u lies outside", ret->tag);
    return RC_OK;
}

/* Value idx of an entry of whole numbers; 0 past its end. */
static enum rc entry_number(const struct tf *t, const struct entry *e, uint64_t idx, uint64_t *ret,
                            struct err *reterr)
{
    unsigned size = e->type == 3 ? 2 : e->type == 4 || e->type == 13 ? 4 : e->type == 1 ? 1 : 8;
    uint8_t b[8];
    enum rc rc;

    *ret = 0;
    if (idx >= e->n || (idx + 1) * size > e->bytes) return RC_OK;
    rc = bytes_at(t, e->off + idx * size, b, size, reterr);
    if (rc == RC_OK) *ret = number(t, b, size);
    return rc;
}

static enum rc entry_blank(const struct tf *t, const struct entry *e, bool *ret, struct err *reterr)
{
    uint8_t b[4096];

    *ret = e->bytes <= BLANK_MAX;
    for (uint64_t at = 0; *ret && at < e->bytes;) {
        size_t n = (size_t)MIN((uint64_t)sizeof(b), e->bytes - at);
        enum rc rc = bytes_at(t, e->off + at, b, n, reterr);

        if (rc != RC_OK) return rc;
        for (size_t i = 0; i < n; i++) {
            if (b[i] != 0 && b[i] != ' ') *ret = false;
        }
        at += n;
    }
    return RC_OK;
}

static enum rc dir_read(struct tf *t, uint64_t off, uint64_t pointer_off, enum dir_kind kind,
                        struct dir *ret, struct err *reterr)
{
    unsigned head = t->bigtiff ? 8 : 2, size = t->bigtiff ? 20 : 12, word = t->bigtiff ? 8 : 4;
    uint8_t b[8];
    uint64_t n;
    enum rc rc;

    for (uint32_t i = 0; i < t->dir_n; i++) {
        if (t->seen[i] == off) return err_set(reterr, RC_CORRUPT, "TIFF: directories form a ring");
    }
    if (t->dir_n == DIRS_MAX)
        return err_set(reterr, RC_BUSY, "TIFF: over %d directories", DIRS_MAX);
    rc = bytes_at(t, off, b, head, reterr);
    if (rc != RC_OK) return rc;
    n = number(t, b, head);
    if (n > ENTRIES_MAX) return err_set(reterr, RC_CORRUPT, "TIFF: over %d tags", ENTRIES_MAX);
    *ret = (struct dir){.off = off,
                        .pointer_off = pointer_off,
                        .next_off = off + head + n * size,
                        .entry_n = (uint32_t)n,
                        .idx = t->dir_n,
                        .kind = kind};
    t->seen[t->dir_n++] = off;
    if (kind == DIR_EXIF || kind == DIR_GPS || kind == DIR_INTEROP || kind == DIR_SUB) return RC_OK;
    rc = bytes_at(t, ret->next_off, b, word, reterr);
    if (rc == RC_OK) ret->next = number(t, b, word);
    return rc;
}

/* ---- patches ---- */

static enum rc patch(struct tf *t, uint64_t off, uint64_t n, const void *p, struct err *reterr)
{
    uint8_t *copy = NULL;

    if (t->r->out == NULL || t->exif || n == 0) return RC_OK;
    if (t->patch_n == PATCHES_MAX) return err_set(reterr, RC_BUSY, "TIFF: too much to clean");
    if (t->patch_n == t->patch_cap) {
        uint32_t cap = t->patch_cap == 0 ? 64 : t->patch_cap * 2;
        struct patch *bigger = realloc(t->patch, cap * sizeof(*bigger));

        if (bigger == NULL) return err_set(reterr, RC_NOMEM, "TIFF");
        t->patch = bigger;
        t->patch_cap = cap;
    }
    if (p != NULL) {
        copy = malloc((size_t)n);
        if (copy == NULL) return err_set(reterr, RC_NOMEM, "TIFF");
        memcpy(copy, p, (size_t)n);
    }
    t->patch[t->patch_n++] = (struct patch){.off = off, .n = n, .p = copy};
    return RC_OK;
}

static int patch_order(const void *a, const void *b)
{
    const struct patch *x = a, *y = b;

    return x->off < y->off ? -1 : x->off > y->off;
}

/* Directories of one file share values (an NDPI's all do): what one still needs is not blanked. */
static void weak_drop(struct tf *t)
{
    for (uint32_t i = 0; i < t->patch_n; i++) {
        struct patch *p = &t->patch[i];

        for (uint32_t k = 0; p->weak && k < t->kept_n; k++) {
            if (p->off < t->kept[k].off + t->kept[k].n && t->kept[k].off < p->off + p->n) p->n = 0;
        }
    }
}

/* The file with its patches; where they overlap the first one's bytes count. */
static enum rc patches_write(struct tf *t, struct err *reterr)
{
    uint64_t at = 0;
    enum rc rc = RC_OK;

    if (t->r->out == NULL) return RC_OK;
    weak_drop(t);
    if (t->patch_n > 0) qsort(t->patch, t->patch_n, sizeof(*t->patch), patch_order);
    for (uint32_t i = 0; rc == RC_OK && i < t->patch_n; i++) {
        const struct patch *p = &t->patch[i];
        uint64_t skip = p->off < at ? at - p->off : 0;

        if (skip >= p->n) continue;
        if (p->off > at) rc = run_copy(t->r, at, p->off - at, reterr);
        if (rc == RC_OK)
            rc = p->p == NULL ? run_zeros(t->r, p->n - skip, reterr)
                              : run_data(t->r, p->p + skip, (size_t)(p->n - skip), reterr);
        at = p->off + p->n;
    }
    return rc != RC_OK ? rc : run_copy(t->r, at, t->src->size - at, reterr);
}

/* ---- judging one tag ---- */

static void told(struct tf *t, const struct dir *d, enum deid_rule rule, enum deid_change change,
                 uint32_t tag)
{
    const uint32_t path[2] = {d->idx, tag};

    if (t->exif || d->kind >= DIR_EXIF) {
        run_find(t->r, rule, change, d->kind == DIR_GPS ? DEID_AT_GPS : DEID_AT_EXIF, &path[1], 1);
    } else {
        run_find(t->r, rule, change, DEID_AT_TIFF, path, 2);
    }
}

static enum rc gone(struct tf *t, const struct dir *d, const struct entry *e, enum deid_rule rule,
                    struct err *reterr)
{
    if (rule == DEID_COMMENT || (t->exif && rule == DEID_TEXT)) {
        uint8_t head[512];
        size_t n = (size_t)MIN(e->bytes, (uint64_t)sizeof(head));
        enum rc rc = bytes_at(t, e->off, head, n, reterr);

        if (rc != RC_OK) return rc;
        if (deid_by_endoscope(head, n)) rule = DEID_ENDOSCOPE;
    }
    told(t, d, rule, DEID_EMPTIED, e->tag);
    return patch(t, e->off, e->bytes, NULL, reterr);
}

static enum rc description(struct tf *t, const struct dir *d, const struct entry *e,
                           struct err *reterr)
{
    uint64_t told_n = t->r->told_n;
    size_t n = (size_t)e->bytes, left;
    char *text;
    enum rc rc;

    if (t->exif || e->bytes > TEXT_MAX) return gone(t, d, e, DEID_TEXT, reterr);
    text = calloc(1, n + 1);
    if (text == NULL) return err_set(reterr, RC_NOMEM, "TIFF");
    rc = bytes_at(t, e->off, text, n, reterr);
    if (rc == RC_OK) {
        left = deid_slide_text(t->r, d->idx, text, n);
        if (left < n) { /* its length stays, and readers warn of zeros inside a text */
            memset(text + left, left == 0 ? 0 : ' ', n - left - 1);
            text[n - 1] = 0;
        }
        if (t->r->told_n > told_n || left < n) rc = patch(t, e->off, n, text, reterr);
    }
    free(text);
    return rc;
}

static bool is_number_type(uint32_t type)
{
    return type == 3 || type == 4 || type == 5 || (type >= 8 && type <= 13) || type >= 16;
}

/* The rule that a tag breaks by itself; DEID_RULE_N: none. */
static enum rc judge(struct tf *t, const struct dir *d, const struct entry *e, enum deid_rule *ret,
                     struct err *reterr)
{
    const struct deid_tag *n = deid_tiff_tag(e->tag);
    uint8_t text[72];
    bool numeric = is_number_type(e->type), short_bytes = e->bytes <= 8;
    enum rc rc;

    *ret = DEID_RULE_N;
    if (d->kind == DIR_GPS) {
        *ret = DEID_GPS;
    } else if (d->kind == DIR_INTEROP) {
        if (!short_bytes && !numeric) *ret = DEID_UNKNOWN;
    } else if (n != NULL) {
        *ret = (enum deid_rule)n->rule;
        if (*ret == DEID_DATE && t->r->p->dates == DEID_DATES_KEEP) *ret = DEID_RULE_N;
        if (*ret == DEID_DEVICE && t->r->p->device_keep) *ret = DEID_RULE_N;
        if (*ret == DEID_UID && t->r->p->uids_keep) *ret = DEID_RULE_N;
    } else if (in_tags(e->tag, STRUCTURE, ARRAY_N(STRUCTURE))) {
        if (e->type == 2) *ret = DEID_VALUE; /* words where numbers belong */
    } else if (in_tags(e->tag, SETTINGS, ARRAY_N(SETTINGS))) {
        if (e->type == 2 || (!numeric && !short_bytes)) *ret = DEID_VALUE;
    } else if (e->tag == 271 || e->tag == 272 || e->tag == 305 || (t->ndpi && e->tag == 65434)) {
        *ret = DEID_TEXT;
        if (e->bytes > sizeof(text)) return RC_OK;
        rc = bytes_at(t, e->off, text, (size_t)e->bytes, reterr);
        if (rc != RC_OK) return rc;
        if (deid_text_is_plain(text, (size_t)e->bytes)) *ret = DEID_RULE_N;
    } else if (!(t->ndpi && e->tag >= 65420 && e->tag <= 65459 && numeric)) {
        *ret = DEID_UNKNOWN;
    }
    return RC_OK;
}

static enum rc dir_judge(struct tf *t, const struct dir *d, uint32_t depth, struct err *reterr);

/* Directories that a tag points to. */
static enum rc inner(struct tf *t, const struct entry *e, enum dir_kind kind, uint32_t depth,
                     struct err *reterr)
{
    for (uint64_t i = 0; i < e->n; i++) {
        struct dir d;
        uint64_t off;
        enum rc rc = entry_number(t, e, i, &off, reterr);

        if (rc != RC_OK) return rc;
        if (off == 0) continue;
        if (depth == DIR_DEPTH_MAX)
            return err_set(reterr, RC_CORRUPT, "TIFF: directories nested deeper than %d",
                           DIR_DEPTH_MAX);
        rc = dir_read(t, off, 0, kind, &d, reterr);
        if (rc == RC_OK) rc = dir_judge(t, &d, depth + 1, reterr);
        if (rc != RC_OK) return rc;
    }
    return RC_OK;
}

static enum rc entry_judge(struct tf *t, const struct dir *d, const struct entry *e, uint32_t depth,
                           struct err *reterr)
{
    enum deid_rule rule;
    bool blank;
    enum rc rc;

    if (e->tag == 330) return inner(t, e, DIR_SUB, depth, reterr);
    if (e->tag == 34665) return inner(t, e, DIR_EXIF, depth, reterr);
    if (e->tag == 40965) return inner(t, e, DIR_INTEROP, depth, reterr);
    if (e->tag == 34853) {
        uint64_t off;

        rc = entry_number(t, e, 0, &off, reterr);
        if (rc != RC_OK || off == 0) return rc;
        told(t, d, DEID_GPS, DEID_EMPTIED, e->tag);
        rc = inner(t, e, DIR_GPS, depth, reterr);
        return rc == RC_OK ? patch(t, e->off, e->bytes, NULL, reterr) : rc;
    }
    rc = entry_blank(t, e, &blank, reterr);
    if (rc != RC_OK || blank) return rc;
    if (e->tag == 270) return description(t, d, e, reterr);
    if (e->tag == 274 && d->idx == 0) {
        uint64_t v;

        rc = entry_number(t, e, 0, &v, reterr);
        if (rc != RC_OK) return rc;
        t->orientation = (uint32_t)MIN(v, (uint64_t)8);
    }
    rc = judge(t, d, e, &rule, reterr);
    if (rc != RC_OK) return rc;
    if (rule != DEID_RULE_N) return gone(t, d, e, rule, reterr);
    if (e->bytes > (t->bigtiff ? 8 : 4) && t->r->out != NULL && !t->exif) {
        if (t->kept_n == SHARED_MAX) return err_set(reterr, RC_BUSY, "TIFF: too much to clean");
        t->kept[t->kept_n++] = (struct range){e->off, e->bytes};
    }
    return RC_OK;
}

static enum rc dir_judge(struct tf *t, const struct dir *d, uint32_t depth, struct err *reterr)
{
    for (uint32_t i = 0; i < d->entry_n; i++) {
        struct entry e;
        enum rc rc = entry_read(t, d, i, &e, reterr);

        if (rc == RC_OK) rc = entry_judge(t, d, &e, depth, reterr);
        if (rc != RC_OK) return rc;
    }
    return RC_OK;
}

/* ---- slides ---- */

/* Aperio's second line names what is no level: "label 387x463", "macro 1280x431". */
static void described(struct dir_facts *f, const char *text)
{
    const char *line = strchr(text, '\n');

    f->described = strncmp(text, "Aperio", 6) == 0;
    if (line == NULL) line = text;
    if (strstr(line, "label") != NULL || strcmp(text, "Label") == 0) f->label = true;
    if (strstr(line, "macro") != NULL || strcmp(text, "Macro") == 0) f->macro = true;
}

static enum rc facts_of(const struct tf *t, const struct dir *d, struct dir_facts *f,
                        struct err *reterr)
{
    *f = (struct dir_facts){0};
    for (uint32_t i = 0; i < d->entry_n; i++) {
        char text[512] = "";
        uint8_t b[4];
        struct entry e;
        enum rc rc = entry_read(t, d, i, &e, reterr);

        if (rc == RC_OK && e.tag == 256) rc = entry_number(t, &e, 0, &f->width, reterr);
        if (rc == RC_OK && e.tag == 257) rc = entry_number(t, &e, 0, &f->height, reterr);
        if (e.tag == 322) f->tiled = true;
        if (rc == RC_OK && e.tag == 270) {
            rc = bytes_at(t, e.off, text, (size_t)MIN(e.bytes, (uint64_t)sizeof(text) - 1), reterr);
            if (rc == RC_OK) described(f, text);
        }
        if (rc == RC_OK && e.tag == 65421 && e.type == 11 && e.n == 1) {
            rc = bytes_at(t, e.off, b, 4, reterr);
            f->ndpi_lens = rc == RC_OK && (number(t, b, 4) >> 31) != 0 ? -1 : 1;
            /* -2.0 as a float is 0xc0000000 */
            if (rc == RC_OK && number(t, b, 4) == 0xc0000000u) f->ndpi_lens = -2;
        }
        if (rc != RC_OK) return rc;
    }
    return RC_OK;
}

/* What an image of a slide is, when it is no level of it; DEID_RULE_N: a level. */
static enum deid_rule beside(const struct tf *t, const struct dir *d, const struct dir_facts *f)
{
    if (f->label) return DEID_LABEL;
    if (f->macro || f->ndpi_lens == -1) return DEID_MACRO;
    if (f->ndpi_lens == -2) return DEID_THUMBNAIL;
    if (d->idx > 0 && !t->ndpi && !f->tiled) return DEID_THUMBNAIL;
    return DEID_RULE_N;
}

/* Zeros over an image's data: its strips or tiles, as far as they lie in the file. */
static enum rc blocks_gone(struct tf *t, const struct entry *offs, const struct entry *lens,
                           struct err *reterr)
{
    if (offs->n > STRIPS_MAX) return err_set(reterr, RC_BUSY, "TIFF: too many strips");
    for (uint64_t i = 0; t->r->out != NULL && i < offs->n; i++) {
        uint64_t off, n;
        enum rc rc = entry_number(t, offs, i, &off, reterr);

        if (rc == RC_OK) rc = entry_number(t, lens, i, &n, reterr);
        if (rc != RC_OK) return rc;
        if (off > t->src->size) continue;
        rc = patch(t, off, MIN(n, t->src->size - off), NULL, reterr);
        if (rc != RC_OK) return rc;
    }
    return RC_OK;
}

/* Takes an image out: the pointer to it leads to the next, what it was is zero. */
static enum rc cut_out(struct tf *t, const struct dir *d, uint64_t pointer_off, struct err *reterr)
{
    unsigned word = t->bigtiff ? 8 : 4;
    struct entry e, offs = {0}, lens = {0};
    uint8_t b[8];
    enum rc rc = RC_OK;

    for (uint32_t i = 0; rc == RC_OK && i < d->entry_n; i++) {
        rc = entry_read(t, d, i, &e, reterr);
        if (rc != RC_OK) return rc;
        if (e.tag == 273 || e.tag == 324) offs = e;
        if (e.tag == 279 || e.tag == 325) lens = e;
        rc = patch(t, e.off, e.bytes, NULL, reterr);
        if (rc == RC_OK && t->patch_n > 0) {
            if (++t->weak_n > SHARED_MAX)
                return err_set(reterr, RC_BUSY, "TIFF: too much to clean");
            t->patch[t->patch_n - 1].weak = true;
        }
    }
    if (rc == RC_OK) rc = blocks_gone(t, &offs, &lens, reterr);
    if (rc == RC_OK) rc = patch(t, d->off, d->next_off + word - d->off, NULL, reterr);
    if (t->big) {
        be_put(b, word, d->next);
    } else {
        le_put(b, word, d->next);
    }
    return rc == RC_OK ? patch(t, pointer_off, word, b, reterr) : rc;
}

/* Is a kept directory's pointer patched twice when several in a row go? The last one counts, so the
 * earlier ones are dropped here. */
static void repoint(struct tf *t, uint64_t pointer_off)
{
    unsigned word = t->bigtiff ? 8 : 4;
    bool last = true;

    for (uint32_t i = t->patch_n; i > 0; i--) {
        struct patch *p = &t->patch[i - 1];

        if (p->off != pointer_off || p->n != word || p->p == NULL) continue;
        if (!last) p->n = 0;
        last = false;
    }
}

static enum rc header(struct tf *t, uint64_t *ret_first, uint64_t *ret_pointer, struct err *reterr)
{
    uint8_t b[16];
    enum rc rc = bytes_at(t, 0, b, 8, reterr);

    if (rc != RC_OK) return rc;
    if (memcmp(b, "II", 2) != 0 && memcmp(b, "MM", 2) != 0)
        return err_set(reterr, RC_CORRUPT, "TIFF: no byte order");
    t->big = b[0] == 'M';
    t->bigtiff = number(t, b + 2, 2) == 43;
    *ret_pointer = t->bigtiff ? 8 : 4;
    if (t->bigtiff) rc = bytes_at(t, 0, b, 16, reterr);
    if (rc == RC_OK) *ret_first = number(t, b + *ret_pointer, t->bigtiff ? 8 : 4);
    return rc;
}

/* All images in the chain; in an EXIF block a second one is a thumbnail. */
static enum rc chain(struct tf *t, uint64_t off, uint64_t pointer_off, struct err *reterr)
{
    struct dir_facts f;
    struct dir d;
    enum rc rc = RC_OK;

    for (bool first = true; rc == RC_OK && off != 0; first = false) {
        enum deid_rule rule = DEID_RULE_N;

        rc = dir_read(t, off, pointer_off, DIR_IMAGE, &d, reterr);
        if (rc == RC_OK) rc = facts_of(t, &d, &f, reterr);
        if (rc != RC_OK) return rc;
        if (first) {
            t->ndpi = f.ndpi_lens != 0;
            t->aperio = f.described;
            t->slide = !t->exif && (t->ndpi || t->aperio || f.tiled);
        }
        if (t->exif && !first) rule = DEID_THUMBNAIL;
        if (t->slide || f.label || f.macro) rule = beside(t, &d, &f);
        off = d.next;
        if (rule != DEID_RULE_N && first) {
            told(t, &d, rule, DEID_KEPT, 254); /* nothing would be left */
            continue;
        }
        if (rule != DEID_RULE_N) {
            told(t, &d, rule, DEID_REMOVED, 254);
            rc = cut_out(t, &d, pointer_off, reterr);
            continue;
        }
        rc = dir_judge(t, &d, 0, reterr);
        repoint(t, pointer_off);
        pointer_off = d.next_off;
    }
    repoint(t, pointer_off);
    return rc;
}

static enum rc run_tiff(struct tf *t, struct err *reterr)
{
    uint64_t first = 0, pointer_off;
    enum rc rc = header(t, &first, &pointer_off, reterr);

    if (rc == RC_OK && first == 0) return err_set(reterr, RC_CORRUPT, "TIFF: no directory");
    return rc == RC_OK ? chain(t, first, pointer_off, reterr) : rc;
}

static void tf_deinit(struct tf *t)
{
    for (uint32_t i = 0; i < t->patch_n; i++)
        free(t->patch[i].p);
    free(t->patch);
    free(t);
}

enum rc deid_tiff(struct deid_run *r, struct err *reterr)
{
    struct tf *t = calloc(1, sizeof(*t));
    enum rc rc;

    if (t == NULL) return err_set(reterr, RC_NOMEM, "TIFF");
    t->r = r;
    t->src = r->src;
    rc = run_tiff(t, reterr);
    if (rc == RC_OK && (t->slide ? !r->p->slide : !r->p->image)) run_find_file(r, DEID_FORMAT);
    if (rc == RC_OK && !t->slide && r->p->plain == DEID_PIXELS_QUARANTINE)
        run_find_file(r, DEID_PIXELS);
    /* an NDPI's offsets have high words elsewhere; they are not followed */
    if (rc == RC_OK && t->ndpi && t->src->size > UINT32_MAX)
        rc = err_set(reterr, RC_BUSY, "NDPI: over 4 GiB");
    if (rc == RC_OK) rc = patches_write(t, reterr);
    tf_deinit(t);
    return rc;
}

enum rc deid_exif(struct deid_run *r, const uint8_t *p, size_t n, uint32_t *ret_orientation)
{
    struct tf *t = calloc(1, sizeof(*t));
    struct image_source_mem mem;
    struct image_source src;
    struct err ignored;
    enum rc rc;

    if (t == NULL) return RC_NOMEM;
    image_source_mem_init(&mem, p, n, &src);
    t->r = r;
    t->src = &src;
    t->exif = true;
    rc = run_tiff(t, &ignored);
    *ret_orientation = t->orientation;
    tf_deinit(t);
    return rc == RC_BUSY ? RC_CORRUPT : rc;
}
