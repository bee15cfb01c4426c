/* gateway/agent/deid_file.c - see deid_file.h. */
#include "gateway/agent/deid_file.h"
#include "common/base/hex.h"
#include <ctype.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct writer {
    const struct deid_rules *r;
    const struct image_source *src;
    int fd;
};

void deid_remember(void *data, const struct deid_finding *f)
{
    struct deid_findings *t = data;

    if (t->n <= DEID_REPORTED_MAX) t->f[t->n++] = *f;
}

void deid_why(const struct deid_findings *t, uint32_t most, char *text, size_t cap)
{
    size_t at = 0;

    text[0] = 0;
    for (uint32_t i = 0; i < t->n && i < most && at < cap; i++) {
        char field[DEID_FIELD_BYTES];

        deid_finding_field(&t->f[i], field);
        at += (size_t)snprintf(text + at, cap - at, "%s%s%s%s", i == 0 ? "" : "; ",
                               deid_rule_name(t->f[i].rule), field[0] == 0 ? "" : " ", field);
    }
    if (t->n > most && at < cap)
        (void)snprintf(text + at, cap - at, "; and %u more: mikura deid check", t->n - most);
}

/* ---- profile and key ---- */

static enum rc file_text(const char *file, size_t max, char **ret, struct err *reterr)
{
    FILE *f = fopen(file, "rb");
    char *text;
    size_t n;

    if (f == NULL) return err_set(reterr, rc_from_errno(errno), "'%s': %s", file, strerror(errno));
    text = calloc(1, max + 2);
    n = text == NULL ? 0 : fread(text, 1, max + 1, f);
    (void)fclose(f); /* only read */
    if (text == NULL) return err_set(reterr, RC_NOMEM, "a file");
    if (n > max || strlen(text) != n) {
        free(text);
        return err_set(reterr, RC_INVAL, "'%s': no text of at most %zu bytes", file, max);
    }
    *ret = text;
    return RC_OK;
}

static enum rc key_load(const char *file, uint8_t key[DEID_KEY_BYTES], struct err *reterr)
{
    char *text = NULL;
    enum rc rc = file_text(file, 2 * DEID_KEY_BYTES + 1, &text, reterr);

    if (rc != RC_OK) return rc;
    text[strcspn(text, "\n")] = 0;
    if (strlen(text) != 2 * DEID_KEY_BYTES || !hex_decode(text, 2 * DEID_KEY_BYTES, key))
        rc = err_set(reterr, RC_INVAL, "'%s': a pseudonym key is %u hex digits; mikura deid key",
                     file, 2 * DEID_KEY_BYTES);
    OPENSSL_cleanse(text, strlen(text));
    free(text);
    return rc;
}

enum rc deid_rules_load(const char *profile, const char *key_file, struct deid_rules *ret,
                        struct err *reterr)
{
    const char *shipped = deid_profile_shipped(profile);
    enum rc rc = RC_OK;

    *ret = (struct deid_rules){0};
    if (shipped != NULL) {
        ret->text = strdup(shipped);
        if (ret->text == NULL) return err_set(reterr, RC_NOMEM, "a profile");
    } else if (strchr(profile, '/') == NULL && strchr(profile, '.') == NULL) {
        return err_set(reterr, RC_INVAL,
                       "no profile '%s' is shipped: see mikura deid profile, or give a file's path",
                       profile);
    } else {
        rc = file_text(profile, DEID_PROFILE_BYTES_MAX, &ret->text, reterr);
    }
    if (rc == RC_OK) rc = deid_profile_parse(ret->text, strlen(ret->text), &ret->profile, reterr);
    if (rc == RC_OK && key_file != NULL) rc = key_load(key_file, ret->key, reterr);
    /* for an outcome any key will do */
    if (rc == RC_OK && key_file == NULL && RAND_bytes(ret->key, sizeof ret->key) != 1)
        rc = err_set(reterr, RC_INTERNAL, "no random bytes");
    if (rc != RC_OK) deid_rules_wipe(ret);
    return rc;
}

void deid_rules_wipe(struct deid_rules *r)
{
    OPENSSL_cleanse(r->key, sizeof r->key);
    free(r->text);
    r->text = NULL;
}

/* ---- checking ---- */
enum rc deid_file_check(const struct deid_rules *r, struct inspect_child *child,
                        const struct image_source *src, const char *path, struct deid_subject *ret,
                        struct err *reterr)
{
    enum rc rc = inspect_child_deid(child, src, r->text, NULL, deid_remember, &ret->reasons,
                                    &ret->outcome, &ret->why);

    if (rc != RC_OK) {
        *reterr = ret->why;
        return rc;
    }
    if (path != NULL) deid_check_name(path, &r->profile, deid_remember, &ret->reasons);
    for (uint32_t i = 0; i < ret->reasons.n; i++) {
        if (ret->reasons.f[i].rule == DEID_NAME) ret->outcome = DEID_REFUSED;
    }
    return RC_OK;
}

static enum rc pseudonym(void *ctx, enum deid_pseudonym kind, const void *p, size_t n,
                         uint8_t ret[32], struct err *reterr)
{
    const struct writer *w = ctx;
    uint8_t m[1 + 4096];
    unsigned len = 32;

    if (n > sizeof m - 1) n = sizeof m - 1;
    m[0] = (uint8_t)kind;
    memcpy(m + 1, p, n);
    if (HMAC(EVP_sha256(), w->r->key, DEID_KEY_BYTES, m, n + 1, ret, &len) == NULL)
        return err_set(reterr, RC_INTERNAL, "a pseudonym");
    return RC_OK;
}

/* ---- cleaning ---- */

static enum rc full_write(int fd, const void *p, size_t n, struct err *reterr)
{
    const uint8_t *at = p;

    while (n > 0) {
        ssize_t put = write(fd, at, n);

        if (put < 0 && errno == EINTR) continue;
        if (put < 0)
            return err_set(reterr, rc_from_errno(errno), "writing the cleaned copy: %s%s",
                           strerror(errno), errno == ENOSPC ? ": make room on its disk" : "");
        at += put;
        n -= (size_t)put;
    }
    return RC_OK;
}

static enum rc out_data(void *ctx, const void *p, size_t n, struct err *reterr)
{
    const struct writer *w = ctx;

    return full_write(w->fd, p, n, reterr);
}

static enum rc out_copy(void *ctx, uint64_t off, uint64_t n, struct err *reterr)
{
    const struct writer *w = ctx;
    const size_t part_max = 1u << 20;
    uint8_t *buf = malloc(part_max);
    enum rc rc = RC_OK;

    if (buf == NULL) return err_set(reterr, RC_NOMEM, "a copy");
    while (rc == RC_OK && n > 0) {
        size_t part = (size_t)MIN(n, (uint64_t)part_max);

        rc = w->src->read(w->src->ctx, off, buf, part, reterr);
        if (rc == RC_OK) rc = full_write(w->fd, buf, part, reterr);
        off += part;
        n -= part;
    }
    free(buf);
    return rc;
}

/* The descriptor's whole content under the rules, as of a file that nobody vouches for. */
static enum rc check_again(const struct deid_rules *r, struct inspect_child *child,
                           const char *file, struct deid_subject *t, struct err *reterr)
{
    bool quarantined = t->outcome == DEID_QUARANTINED;
    struct image_source src;
    enum rc rc = image_source_file_open(file, &src, reterr);

    if (rc != RC_OK) return rc;
    t->reasons.n = 0;
    rc = deid_file_check(r, child, &src, NULL, t, reterr);
    /* what was found in the original is not forgotten because its traces went */
    if (quarantined && t->outcome != DEID_REFUSED) t->outcome = DEID_QUARANTINED;
    image_source_file_close(&src);
    return rc;
}

enum rc deid_file_clean(const struct deid_rules *r, struct inspect_child *child,
                        const struct image_source *src, int fd, const char *file,
                        struct deid_subject *ret, struct err *reterr)
{
    struct writer w = {r, src, fd};
    const struct deid_out out = {&w, out_copy, out_data, pseudonym};
    struct deid_findings all = {0};
    enum rc rc = inspect_child_deid(child, src, r->text, &out, deid_remember, &all, &ret->outcome,
                                    &ret->why);

    if (rc != RC_OK) {
        *reterr = ret->why;
        return rc;
    }
    ret->changes.n = ret->reasons.n = 0;
    for (uint32_t i = 0; i < all.n; i++) {
        if (all.f[i].change != DEID_KEPT) deid_remember(&ret->changes, &all.f[i]);
    }
    if (ret->outcome != DEID_REFUSED) {
        ret->cleaned = true;
        return check_again(r, child, file, ret, reterr);
    }
    for (uint32_t i = 0; i < all.n; i++) { /* what no cleaning mends */
        if (all.f[i].change == DEID_KEPT) deid_remember(&ret->reasons, &all.f[i]);
    }
    return RC_OK;
}

enum rc deid_name_clean(const struct deid_rules *r, const char *text, char name[64],
                        struct err *reterr)
{
    struct writer w = {.r = r};
    const char *dot = strrchr(text, '.');
    uint8_t hash[32];
    char hex[65];
    size_t n = 0;
    enum rc rc = pseudonym(&w, DEID_PS_ID, text, strlen(text), hash, reterr);

    if (rc != RC_OK) return rc;
    if (dot != NULL && strchr(dot, '/') == NULL) {
        while (n < 6 && isalnum((unsigned char)dot[1 + n]))
            n++;
        if (dot[1 + n] != 0) n = 0;
    }
    hex_encode(hash, sizeof hash, hex);
    (void)snprintf(name, 64, "mk-%.13s%s%.*s", hex, n > 0 ? "." : "", (int)n, n > 0 ? dot + 1 : "");
    return RC_OK;
}
