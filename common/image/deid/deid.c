/* common/image/deid/deid.c - one run over one file: which rules read it, and the verdict.
 *
 * What a format's rules cannot follow to its end is DEID_MALFORMED and refused: bytes that nobody
 * understood are not cleared. */
#include "common/image/deid/deid_priv.h"

static bool same(const struct deid_finding *a, const struct deid_finding *b)
{
    return a->rule == b->rule && a->place == b->place && a->change == b->change &&
           a->path_n == b->path_n && memcmp(a->path, b->path, sizeof(a->path)) == 0;
}

void run_find(struct deid_run *r, enum deid_rule rule, enum deid_change change,
              enum deid_place place, const uint32_t *path, uint32_t path_n)
{
    struct deid_finding f = {.rule = (uint8_t)rule, .place = (uint8_t)place};

    r->told_n++;
    if (r->out != NULL) f.change = (uint8_t)change;
    for (uint32_t i = 0; i < path_n; i++) {
        if (f.path_n < DEID_PATH_MAX) f.path_n++;
        f.path[f.path_n - 1] = path[i];
    }
    if (f.change == DEID_KEPT) {
        if (deid_rule_quarantines(rule)) {
            r->quarantined = true;
        } else {
            r->refused = true;
        }
    }
    for (uint32_t i = 0; i < r->found_n; i++) {
        if (same(&r->found[i], &f)) return;
    }
    if (r->found_n == DEID_FINDINGS_MAX) return;
    r->found[r->found_n++] = f;
    r->cb(r->data, &f);
}

enum rc run_copy(struct deid_run *r, uint64_t off, uint64_t n, struct err *reterr)
{
    if (r->out == NULL || n == 0) return RC_OK;
    return r->out->copy(r->out->ctx, off, n, reterr);
}

enum rc run_data(struct deid_run *r, const void *p, size_t n, struct err *reterr)
{
    if (r->out == NULL || n == 0) return RC_OK;
    return r->out->data(r->out->ctx, p, n, reterr);
}

enum rc run_zeros(struct deid_run *r, uint64_t n, struct err *reterr)
{
    static const uint8_t ZEROS[4096];
    enum rc rc = RC_OK;

    while (n > 0 && rc == RC_OK) {
        size_t part = (size_t)MIN(n, (uint64_t)sizeof(ZEROS));

        rc = run_data(r, ZEROS, part, reterr);
        n -= part;
    }
    return rc;
}

enum rc run_pseudonym(struct deid_run *r, enum deid_pseudonym kind, const void *p, size_t n,
                      char text[DEID_PSEUDONYM_CHARS + 1], struct err *reterr)
{
    uint8_t hash[32];
    enum rc rc = r->out->pseudonym(r->out->ctx, kind, p, n, hash, reterr);

    if (rc != RC_OK) return rc;
    (void)snprintf(text, DEID_PSEUDONYM_CHARS + 1, "mk-%08x%05x", be_get32(hash),
                   be_get32(hash + 4) >> 12);
    return RC_OK;
}

enum rc reader_take(struct reader *r, void *buf, size_t n, struct err *reterr)
{
    if (r->at > r->src->size || n > r->src->size - r->at)
        return err_set(reterr, RC_CORRUPT, "ends early");
    if (r->at < r->off || r->at + n > r->off + r->n) {
        size_t fill = (size_t)MIN((uint64_t)DEID_COPY_BYTES, r->src->size - r->at);
        enum rc rc;

        r->n = 0;
        rc = image_source_read(r->src, r->at, r->buf, fill, reterr);
        if (rc != RC_OK) return rc;
        r->off = r->at;
        r->n = fill;
    }
    memcpy(buf, r->buf + (r->at - r->off), n);
    r->at += n;
    return RC_OK;
}

static bool pattern_fits(const char *pattern, const char *text, size_t n)
{
    if (strlen(pattern) != n) return false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        bool digit = c >= '0' && c <= '9';

        if (pattern[i] == '9'   ? !digit
            : pattern[i] == 'A' ? !(c >= 'A' && c <= 'Z')
            : pattern[i] == 'X' ? !(digit || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'))
                                : c != pattern[i])
            return false;
    }
    return true;
}

bool deid_is_pseudonym(const struct deid_profile *p, const char *text, size_t n)
{
    static const char *const WORDS[] = {"REMOVED", "ANONYMOUS", "ANONYMIZED", "ANON"};

    while (n > 0 && (text[n - 1] == ' ' || text[n - 1] == '\0' || text[n - 1] == '^'))
        n--;
    if (n == 0) return true;
    for (size_t i = 0; i < ARRAY_N(WORDS); i++) {
        if (strlen(WORDS[i]) == n && strncasecmp(WORDS[i], text, n) == 0) return true;
    }
    if (n == DEID_PSEUDONYM_CHARS && memcmp(text, "mk-", 3) == 0) {
        size_t hex = 3;

        while (hex < n &&
               ((text[hex] >= '0' && text[hex] <= '9') || (text[hex] >= 'a' && text[hex] <= 'f')))
            hex++;
        if (hex == n) return true;
    }
    for (uint32_t i = 0; p != NULL && i < p->pattern_n; i++) {
        if (pattern_fits(p->pattern[i], text, n)) return true;
    }
    return false;
}

static enum rc run_format(struct deid_run *r, const char *type, struct err *reterr)
{
    const struct deid_profile *p = r->p;

    for (uint32_t i = 0; i < p->opaque_n; i++) {
        if (strcmp(p->opaque[i], type) == 0) {
            r->opaque = true;
            return run_copy(r, 0, r->src->size, reterr);
        }
    }
    if (strcmp(type, "application/dicom") == 0 && p->dicom) return deid_dicom(r, reterr);
    if (strcmp(type, "image/jpeg") == 0 && p->image) return deid_jpeg(r, reterr);
    if (strcmp(type, "image/png") == 0 && p->image) return deid_png(r, reterr);
    if (strcmp(type, "image/tiff") == 0 && (p->image || p->slide)) return deid_tiff(r, reterr);
    if (strcmp(type, "application/octet-stream") == 0 && p->vol) return deid_vol(r, reterr);
    if (strncmp(type, "video/", 6) == 0) {
        run_find_file(r, p->video ? DEID_PIXELS : DEID_VIDEO);
        return run_copy(r, 0, r->src->size, reterr);
    }
    run_find_file(r, DEID_FORMAT);
    return RC_OK;
}

static enum rc run(const struct image_source *src, const struct deid_profile *p,
                   const struct deid_out *out, deid_finding_cb cb, void *data,
                   enum deid_outcome *ret, struct err *reterr)
{
    struct deid_run *r = calloc(1, sizeof(*r));
    const char *type = "";
    struct err err = {0};
    enum rc rc;

    if (r == NULL) return err_set(reterr, RC_NOMEM, "de-identification");
    r->buf = malloc(DEID_COPY_BYTES);
    r->src = src;
    r->p = p;
    r->out = out;
    r->cb = cb;
    r->data = data;
    rc = r->buf == NULL ? err_set(&err, RC_NOMEM, "de-identification")
                        : image_sniff_source(src, &type, &err);
    if (rc == RC_OK) rc = run_format(r, type, &err);
    if (rc == RC_CORRUPT || rc == RC_UNIMPL) {
        run_find_file(r, DEID_MALFORMED);
        rc = RC_OK;
    } else if (rc == RC_BUSY) {
        run_find_file(r, DEID_TOO_LARGE);
        rc = RC_OK;
    }
    if (rc == RC_OK) {
        *ret = r->refused       ? DEID_REFUSED
               : r->quarantined ? DEID_QUARANTINED
               : r->opaque      ? DEID_OPAQUE
                                : DEID_ACCEPTED;
    } else if (reterr != NULL) {
        *reterr = err;
    }
    free(r->buf);
    free(r);
    return rc;
}

enum rc deid_check(const struct image_source *src, const struct deid_profile *p, deid_finding_cb cb,
                   void *data, enum deid_outcome *ret, struct err *reterr)
{
    return run(src, p, NULL, cb, data, ret, reterr);
}

enum rc deid_clean(const struct image_source *src, const struct deid_profile *p,
                   const struct deid_out *out, deid_finding_cb cb, void *data,
                   enum deid_outcome *ret, struct err *reterr)
{
    return run(src, p, out, cb, data, ret, reterr);
}
