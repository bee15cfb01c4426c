/* gateway/cli/deid.c - deid check, deid clean, deid key, deid profile, agent run --dry-run: what a
 * profile says of local files, without a cluster.
 *
 * This process reads bytes and names only; content is parsed by mikura-inspect, which gets neither
 * files nor the pseudonym key. A cleaned file is checked again, as a stranger's, before it gets its
 * name. Nothing printed holds a value of a file: rules, places, sizes, names of files. */
#include "common/base/hex.h"
#include "common/base/strutil.h"
#include "common/image/deid/deid.h"
#include "gateway/cli/cases.h"
#include "gateway/cli/cli.h"
#include "gateway/cli/out.h"
#include "gateway/inspect/child.h"
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_BYTES    32
#define REPORTED_MAX 256u

struct findings {
    uint32_t n;
    struct deid_finding f[REPORTED_MAX + 1]; /* and one of a child that broke */
};
struct deid_session {
    struct cli *c;
    char *profile_text;
    struct deid_profile profile;
    uint8_t key[KEY_BYTES];
    struct inspect_child child;
    uint64_t count[DEID_OUTCOME_N], cleaned_n, files_n;
    FILE *record;
};
/* One file. */
struct subject {
    const char *file, *path, *media_type;
    uint64_t size_bytes;
    enum deid_outcome outcome;
    bool cleaned;
    struct findings reasons, changes;
    struct err why; /* of a child that broke */
};
struct writer {
    struct deid_session *s;
    const struct image_source *src;
    int fd;
};

static void remember(void *data, const struct deid_finding *f)
{
    struct findings *t = data;

    if (t->n <= REPORTED_MAX) t->f[t->n++] = *f;
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

static enum rc profile_load(const char *name, struct deid_session *s, struct err *reterr)
{
    const char *shipped = deid_profile_shipped(name);
    enum rc rc = RC_OK;

    if (shipped != NULL) {
        s->profile_text = strdup(shipped);
        if (s->profile_text == NULL) return err_set(reterr, RC_NOMEM, "a profile");
    } else if (strchr(name, '/') == NULL && strchr(name, '.') == NULL) {
        return err_set(reterr, RC_INVAL,
                       "no profile '%s' is shipped: see mikura deid profile, or give a file's path",
                       name);
    } else {
        rc = file_text(name, DEID_PROFILE_BYTES_MAX, &s->profile_text, reterr);
    }
    if (rc == RC_OK)
        rc = deid_profile_parse(s->profile_text, strlen(s->profile_text), &s->profile, reterr);
    return rc;
}

static enum rc key_load(const char *file, uint8_t key[KEY_BYTES], struct err *reterr)
{
    char *text = NULL;
    enum rc rc = file_text(file, 2 * KEY_BYTES + 1, &text, reterr);

    if (rc != RC_OK) return rc;
    text[strcspn(text, "\n")] = 0;
    if (strlen(text) != 2 * KEY_BYTES || !hex_decode(text, 2 * KEY_BYTES, key))
        rc = err_set(reterr, RC_INVAL, "'%s': a pseudonym key is %d hex digits; mikura deid key",
                     file, 2 * KEY_BYTES);
    OPENSSL_cleanse(text, strlen(text));
    free(text);
    return rc;
}

int cmd_deid_key(struct cli *c)
{
    uint8_t key[KEY_BYTES];
    char text[2 * KEY_BYTES + 1];
    enum rc rc = RC_OK;
    int fd;

    if (RAND_bytes(key, sizeof key) != 1) return cli_fail(c, RC_INTERNAL);
    hex_encode(key, sizeof key, text);
    text[2 * KEY_BYTES] = '\n';
    fd = open(c->args[0], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, text, sizeof text) != (ssize_t)sizeof text || fsync(fd) != 0)
        rc = err_set(&c->err, rc_from_errno(errno), "'%s': %s", c->args[0], strerror(errno));
    if (fd >= 0 && close(fd) != 0 && rc == RC_OK) rc = err_set(&c->err, RC_IO, "'%s'", c->args[0]);
    OPENSSL_cleanse(text, sizeof text);
    OPENSSL_cleanse(key, sizeof key);
    return rc == RC_OK ? EXIT_OK : cli_fail(c, rc);
}

int cmd_deid_profile(struct cli *c)
{
    const char *text;

    if (c->args_n == 0) {
        for (unsigned i = 0; deid_profile_shipped_name(i) != NULL; i++)
            (void)printf("%s\n", deid_profile_shipped_name(i));
        return EXIT_OK;
    }
    text = deid_profile_shipped(c->args[0]);
    if (text == NULL) {
        (void)err_set(&c->err, RC_NOTFOUND, "no profile '%s' is shipped", c->args[0]);
        return cli_fail(c, RC_NOTFOUND);
    }
    (void)fputs(text, stdout);
    return EXIT_OK;
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
    if (HMAC(EVP_sha256(), w->s->key, KEY_BYTES, m, n + 1, ret, &len) == NULL)
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
            return err_set(reterr, rc_from_errno(errno), "the cleaned file: %s", strerror(errno));
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
static enum rc check_again(struct deid_session *s, const char *file, struct subject *t,
                           struct err *reterr)
{
    bool quarantined = t->outcome == DEID_QUARANTINED;
    struct image_source src;
    enum rc rc = image_source_file_open(file, &src, reterr);

    if (rc != RC_OK) return rc;
    t->reasons.n = 0;
    rc = inspect_child_deid(&s->child, &src, s->profile_text, NULL, remember, &t->reasons,
                            &t->outcome, &t->why);
    if (rc != RC_OK) *reterr = t->why;
    /* what was found in the original is not forgotten because its traces went */
    if (quarantined && t->outcome != DEID_REFUSED) t->outcome = DEID_QUARANTINED;
    image_source_file_close(&src);
    return rc;
}

/* Cleans into fd, which file names. The outcome is that of what was written. */
static enum rc clean_into(struct deid_session *s, const struct image_source *src, int fd,
                          const char *file, struct subject *t, struct err *reterr)
{
    struct writer w = {s, src, fd};
    const struct deid_out out = {&w, out_copy, out_data, pseudonym};
    struct findings all = {0};
    enum rc rc = inspect_child_deid(&s->child, src, s->profile_text, &out, remember, &all,
                                    &t->outcome, &t->why);

    if (rc != RC_OK) {
        *reterr = t->why;
        return rc;
    }
    t->changes.n = 0;
    for (uint32_t i = 0; i < all.n; i++) {
        if (all.f[i].change != DEID_KEPT) remember(&t->changes, &all.f[i]);
    }
    if (t->outcome != DEID_REFUSED) {
        t->cleaned = true;
        return check_again(s, file, t, reterr);
    }
    t->reasons.n = 0; /* what no cleaning mends */
    for (uint32_t i = 0; i < all.n; i++) {
        if (all.f[i].change == DEID_KEPT) remember(&t->reasons, &all.f[i]);
    }
    return RC_OK;
}

/* ---- one file ---- */

static json_t *findings_json(const struct findings *t, bool changes)
{
    json_t *list = json_array();

    for (uint32_t i = 0; list != NULL && i < t->n; i++) {
        char field[DEID_FIELD_BYTES];
        json_t *j;

        deid_finding_field(&t->f[i], field);
        j = json_pack("{s:s, s:s}", "rule", deid_rule_name(t->f[i].rule), "field", field);
        if (j != NULL && changes)
            (void)json_object_set_new(j, "change", json_string(deid_change_name(t->f[i].change)));
        if (j == NULL || json_array_append_new(list, j) != 0) return NULL;
    }
    return list;
}

static json_t *subject_json(const struct deid_session *s, const struct subject *t)
{
    char profile[80];

    (void)snprintf(profile, sizeof profile, "%s/%u", s->profile.name, s->profile.version);
    return json_pack("{s:s%, s:s, s:I, s:s, s:s, s:b, s:o, s:o}", "file", t->file, strlen(t->file),
                     "media_type", t->media_type, "size_bytes", (json_int_t)t->size_bytes,
                     "profile", profile, "outcome", deid_outcome_name(t->outcome), "cleaned",
                     t->cleaned, "reasons", findings_json(&t->reasons, false), "changes",
                     findings_json(&t->changes, true));
}

static enum rc report(struct deid_session *s, struct subject *t, struct err *reterr)
{
    json_t *j = subject_json(s, t);
    char *line = NULL;
    enum rc rc = RC_OK;

    if (j == NULL) { /* a name that is no UTF-8: told by its place alone */
        t->file = "(a name that is not UTF-8)";
        j = subject_json(s, t);
    }
    if (j == NULL) return err_set(reterr, RC_NOMEM, "a report");
    if (s->record != NULL) {
        line = json_dumps(j, JSON_COMPACT);
        if (line == NULL || fprintf(s->record, "%s\n", line) < 0 || fflush(s->record) != 0)
            rc = err_set(reterr, RC_IO, "the record could not be written");
        free(line);
    }
    s->files_n++;
    s->count[t->outcome]++;
    s->cleaned_n += t->cleaned && t->outcome == DEID_ACCEPTED;
    if (rc == RC_OK && s->c->json) return out_json(j);
    json_decref(j);
    if (rc != RC_OK) return rc;
    (void)printf("%-12s%s%s\n", deid_outcome_name(t->outcome), t->file,
                 t->cleaned ? " (cleaned)" : "");
    for (uint32_t i = 0; i < t->reasons.n; i++) {
        char field[DEID_FIELD_BYTES];

        deid_finding_field(&t->reasons.f[i], field);
        (void)printf("    %s%s%s: %s\n", deid_rule_name(t->reasons.f[i].rule),
                     field[0] == 0 ? "" : " ", field, deid_rule_text(t->reasons.f[i].rule));
    }
    return RC_OK;
}

/* A name that would not pass, by a pseudonym with the same ending. */
static enum rc clean_name(struct deid_session *s, const char *path, char name[64],
                          struct err *reterr)
{
    struct writer w = {.s = s};
    const char *dot = strrchr(path, '.');
    uint8_t hash[32];
    char hex[65];
    size_t n = 0;
    enum rc rc = pseudonym(&w, DEID_PS_ID, path, strlen(path), hash, reterr);

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

static enum rc parents_make(char *path, struct err *reterr)
{
    for (char *at = path + 1; (at = strchr(at, '/')) != NULL; at++) {
        int made;

        *at = 0;
        made = mkdir(path, 0700) == 0 || errno == EEXIST;
        *at = '/';
        if (!made)
            return err_set(reterr, rc_from_errno(errno), "the folder of '%s': %s", path,
                           strerror(errno));
    }
    return RC_OK;
}

/* Into dir, under the file's path; or, dir NULL, into a file that nobody sees. */
static enum rc clean_file(struct deid_session *s, const struct image_source *src, struct subject *t,
                          const char *dir, struct err *reterr)
{
    struct deid_finding renamed = {.rule = DEID_NAME, .change = DEID_REPLACED};
    struct findings name = {0};
    char base[64] = "", *final = NULL, *partial = NULL;
    enum rc rc = RC_OK;
    int fd = -1;

    deid_check_name(t->path, &s->profile, remember, &name);
    if (name.n > 0) rc = clean_name(s, t->path, base, reterr);
    if (rc != RC_OK) return rc;
    if (asprintf(&final, "%s/%s", dir == NULL ? "" : dir, base[0] != 0 ? base : t->path) < 0 ||
        asprintf(&partial, "%s.partial", final) < 0) {
        rc = err_set(reterr, RC_NOMEM, "a name");
        goto out;
    }
    if (dir == NULL) {
        char template[] = "/tmp/mikura-deid-XXXXXX";

        fd = mkostemp(template, O_CLOEXEC);
        free(partial);
        partial = strdup(template);
    } else {
        rc = parents_make(final, reterr);
        if (rc == RC_OK && access(final, F_OK) == 0)
            rc = err_set(reterr, RC_EXISTS, "'%s' is there already", final);
        if (rc != RC_OK) goto out;
        fd = open(partial, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    }
    if (fd < 0 || partial == NULL) {
        rc = err_set(reterr, rc_from_errno(errno), "'%s': %s", final, strerror(errno));
        goto out;
    }
    rc = clean_into(s, src, fd, partial, t, reterr);
    if (rc == RC_OK && name.n > 0) remember(&t->changes, &renamed);
    if (rc == RC_OK && dir != NULL && t->outcome != DEID_REFUSED &&
        (fsync(fd) != 0 || rename(partial, final) != 0))
        rc = err_set(reterr, rc_from_errno(errno), "'%s': %s", final, strerror(errno));
    if (dir == NULL || rc != RC_OK || t->outcome == DEID_REFUSED)
        (void)unlink(partial); /* it may never have been */
out:
    if (fd >= 0) (void)close(fd); /* written with fsync above */
    free(final);
    free(partial);
    return rc;
}

/* clean: into dir, or with dir NULL for the outcome only. */
static enum rc file_run(struct deid_session *s, const struct case_file *f, bool clean,
                        const char *dir, struct err *reterr)
{
    struct subject *t = calloc(1, sizeof *t);
    struct image_source src;
    enum rc rc;

    if (t == NULL) return err_set(reterr, RC_NOMEM, "a file");
    t->file = f->file;
    t->path = f->path;
    rc = image_source_file_open(f->file, &src, reterr);
    if (rc != RC_OK) goto out;
    t->size_bytes = src.size;
    rc = image_sniff_source(&src, &t->media_type, reterr); /* a table of first bytes */
    if (rc == RC_OK && clean) {
        rc = clean_file(s, &src, t, dir, reterr);
    } else if (rc == RC_OK) {
        rc = inspect_child_deid(&s->child, &src, s->profile_text, NULL, remember, &t->reasons,
                                &t->outcome, &t->why);
        if (rc != RC_OK) *reterr = t->why;
        deid_check_name(t->path, &s->profile, remember, &t->reasons);
        for (uint32_t i = 0; i < t->reasons.n; i++) {
            if (t->reasons.f[i].rule == DEID_NAME) t->outcome = DEID_REFUSED;
        }
    }
    image_source_file_close(&src);
    if (rc == RC_OK && t->why.msg[0] != 0 && !s->c->quiet)
        (void)fprintf(stderr, "mikura: '%s': %s\n", f->file, t->why.msg);
    if (rc == RC_OK) rc = report(s, t, reterr);
out:
    free(t);
    return rc;
}

static enum rc session_open(struct deid_session *s, struct cli *c, const char *profile,
                            bool need_key, struct err *reterr)
{
    const char *key = cli_value(c, "pseudonym-key"), *record = cli_value(c, "record");
    enum rc rc;

    s->c = c;
    inspect_child_init(&s->child, cli_value(c, "inspect"));
    rc = profile_load(profile == NULL ? "default" : profile, s, reterr);
    if (rc == RC_OK && key != NULL) rc = key_load(key, s->key, reterr);
    if (rc == RC_OK && key == NULL && need_key)
        rc = err_set(reterr, RC_INVAL,
                     "--pseudonym-key FILE is needed: mikura deid key makes one; without the same "
                     "key a patient's later files get another pseudonym");
    /* for an outcome any key will do */
    if (rc == RC_OK && key == NULL && RAND_bytes(s->key, KEY_BYTES) != 1)
        rc = err_set(reterr, RC_INTERNAL, "no random bytes");
    if (rc == RC_OK && record != NULL) {
        s->record = fopen(record, "ae");
        if (s->record == NULL)
            rc = err_set(reterr, rc_from_errno(errno), "'%s': %s", record, strerror(errno));
    }
    return rc;
}

static int run_files(struct cli *c, bool clean, const char *dir)
{
    struct deid_session *s = calloc(1, sizeof *s);
    struct cases cs;
    enum rc rc;
    int code = EXIT_OK;

    if (s == NULL) return cli_fail(c, RC_NOMEM);
    cases_init(&cs);
    rc = session_open(s, c, cli_value(c, "profile"), dir != NULL, &c->err);
    /* with a case given nothing is opened here: content is the child's */
    for (unsigned i = 0; rc == RC_OK && i < c->args_n; i++)
        rc = cases_add(&cs, c->args[i], "deid", &c->err);
    for (size_t i = 0; rc == RC_OK && i < cs.n; i++) {
        if (cs.files[i].path == NULL) {
            rc = err_set(&c->err, RC_IO, "'%s': %s", cs.files[i].file, cs.files[i].refused);
        } else {
            rc = file_run(s, &cs.files[i], clean, dir, &c->err);
        }
        /* of one file among others only that is lost; it counts as refused */
        if (rc != RC_OK && rc != RC_NOMEM && rc != RC_INVAL && rc != RC_INTERNAL && cs.n > 1) {
            (void)fprintf(stderr, "mikura: %s\n", c->err.msg);
            s->count[DEID_REFUSED]++;
            rc = RC_OK;
        }
    }
    if (rc != RC_OK) {
        code = cli_fail(c, rc);
    } else {
        if (!c->quiet)
            (void)fprintf(stderr,
                          "%zu files: %llu accepted (%llu after cleaning), %llu quarantined, %llu "
                          "refused, %llu opaque\n",
                          cs.n, (unsigned long long)s->count[DEID_ACCEPTED],
                          (unsigned long long)s->cleaned_n,
                          (unsigned long long)s->count[DEID_QUARANTINED],
                          (unsigned long long)s->count[DEID_REFUSED],
                          (unsigned long long)s->count[DEID_OPAQUE]);
        if (s->count[DEID_QUARANTINED] + s->count[DEID_REFUSED] > 0) code = EXIT_PARTIAL;
    }
    inspect_child_deinit(&s->child);
    if (s->record != NULL) (void)fclose(s->record); /* every line was flushed and checked */
    OPENSSL_cleanse(s->key, sizeof s->key);
    free(s->profile_text);
    free(s);
    cases_deinit(&cs);
    return code;
}

/* ---- before a put ---- */

/* Up to four rules with their places: enough to know what to do. */
static void why_of(const struct findings *t, char *text, size_t cap)
{
    size_t at = 0;

    for (uint32_t i = 0; i < t->n && i < 4 && at < cap; i++) {
        char field[DEID_FIELD_BYTES];

        deid_finding_field(&t->f[i], field);
        at += (size_t)snprintf(text + at, cap - at, "%s%s%s%s", i == 0 ? "" : "; ",
                               deid_rule_name(t->f[i].rule), field[0] == 0 ? "" : " ", field);
    }
    if (t->n > 4 && at < cap)
        (void)snprintf(text + at, cap - at, "; and %u more: mikura deid check", t->n - 4);
}

static enum rc case_file_check(struct deid_session *s, struct cases *cs, size_t idx,
                               struct err *reterr)
{
    const struct case_file *f = &cs->files[idx];
    struct findings *t = calloc(1, sizeof *t);
    enum deid_outcome outcome = DEID_REFUSED;
    bool pixels_only = true;
    struct image_source src;
    char why[1024] = "";
    enum rc rc;

    if (t == NULL) return err_set(reterr, RC_NOMEM, "a file");
    rc = image_source_file_open(f->file, &src, reterr);
    if (rc == RC_OK) {
        rc = inspect_child_deid(&s->child, &src, s->profile_text, NULL, remember, t, &outcome,
                                reterr);
        image_source_file_close(&src);
    } else {
        rc = cases_refuse(cs, idx, reterr->msg, reterr);
        goto out;
    }
    if (rc != RC_OK) goto out;
    deid_check_name(f->path, &s->profile, remember, t);
    for (uint32_t i = 0; i < t->n; i++)
        pixels_only = pixels_only && deid_rule_quarantines(t->f[i].rule);
    why_of(t, why, sizeof why);
    if (t->n > 0 && !(pixels_only && cli_flag(s->c, "looked")))
        rc = cases_refuse(cs, idx, why, reterr);
out:
    free(t);
    return rc;
}

enum rc deid_check_cases(struct cli *c, struct cases *cs, struct err *reterr)
{
    struct deid_session *s = calloc(1, sizeof *s);
    enum rc rc;

    if (s == NULL) return err_set(reterr, RC_NOMEM, "a check");
    rc = session_open(s, c, cli_value(c, "deid-profile"), false, reterr);
    for (size_t i = 0; rc == RC_OK && i < cs->n; i++) {
        if (cs->files[i].refused == NULL) rc = case_file_check(s, cs, i, reterr);
    }
    inspect_child_deinit(&s->child);
    if (s->record != NULL) (void)fclose(s->record); /* nothing was written */
    OPENSSL_cleanse(s->key, sizeof s->key);
    free(s->profile_text);
    free(s);
    return rc;
}

int cmd_deid_check(struct cli *c)
{
    return run_files(c, cli_flag(c, "deidentify"), NULL);
}

int cmd_deid_clean(struct cli *c)
{
    const char *dir = cli_value(c, "o");

    if (dir == NULL) return cli_usage(c, "-o FOLDER is needed: where the cleaned files go");
    return run_files(c, true, dir);
}

int cmd_agent_run(struct cli *c)
{
    if (!cli_flag(c, "dry-run"))
        return cli_usage(c, "only --dry-run is served yet: mikura put sends files");
    return run_files(c, cli_flag(c, "deidentify"), NULL);
}
