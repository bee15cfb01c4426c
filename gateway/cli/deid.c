/* gateway/cli/deid.c - deid check, deid clean, deid key, deid profile, agent run --dry-run: what a
 * profile says of local files, without a cluster.
 *
 * A cleaned file is checked again, as a stranger's, before it gets its name
 * (gateway/agent/deid_file). Nothing printed holds a value of a file: rules, places, sizes, names
 * of files. */
#include "common/base/hex.h"
#include "gateway/agent/deid_file.h"
#include "gateway/cli/cases.h"
#include "gateway/cli/cli.h"
#include "gateway/cli/out.h"
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct deid_session {
    struct cli *c;
    struct deid_rules rules;
    struct inspect_child child;
    uint64_t count[DEID_OUTCOME_N], cleaned_n, files_n;
    FILE *record;
};
/* One file. */
struct subject {
    const char *file, *path, *media_type;
    uint64_t size_bytes;
    struct deid_subject d;
};

int cmd_deid_key(struct cli *c)
{
    uint8_t key[DEID_KEY_BYTES];
    char text[2 * DEID_KEY_BYTES + 1];
    enum rc rc = RC_OK;
    int fd;

    if (RAND_bytes(key, sizeof key) != 1) return cli_fail(c, RC_INTERNAL);
    hex_encode(key, sizeof key, text);
    text[2 * DEID_KEY_BYTES] = '\n';
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

/* ---- one file ---- */

static json_t *findings_json(const struct deid_findings *t, bool changes)
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

    (void)snprintf(profile, sizeof profile, "%s/%u", s->rules.profile.name,
                   s->rules.profile.version);
    return json_pack("{s:s%, s:s, s:I, s:s, s:s, s:b, s:o, s:o}", "file", t->file, strlen(t->file),
                     "media_type", t->media_type, "size_bytes", (json_int_t)t->size_bytes,
                     "profile", profile, "outcome", deid_outcome_name(t->d.outcome), "cleaned",
                     t->d.cleaned, "reasons", findings_json(&t->d.reasons, false), "changes",
                     findings_json(&t->d.changes, true));
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
    s->count[t->d.outcome]++;
    s->cleaned_n += t->d.cleaned && t->d.outcome == DEID_ACCEPTED;
    if (rc == RC_OK && s->c->json) return out_json(j);
    json_decref(j);
    if (rc != RC_OK) return rc;
    (void)printf("%-12s%s%s\n", deid_outcome_name(t->d.outcome), t->file,
                 t->d.cleaned ? " (cleaned)" : "");
    for (uint32_t i = 0; i < t->d.reasons.n; i++) {
        char field[DEID_FIELD_BYTES];

        deid_finding_field(&t->d.reasons.f[i], field);
        (void)printf("    %s%s%s: %s\n", deid_rule_name(t->d.reasons.f[i].rule),
                     field[0] == 0 ? "" : " ", field, deid_rule_text(t->d.reasons.f[i].rule));
    }
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
    struct deid_findings name = {0};
    char base[64] = "", *final = NULL, *partial = NULL;
    enum rc rc = RC_OK;
    int fd = -1;

    deid_check_name(t->path, &s->rules.profile, deid_remember, &name);
    if (name.n > 0) rc = deid_name_clean(&s->rules, t->path, base, reterr);
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
    rc = deid_file_clean(&s->rules, &s->child, src, fd, partial, &t->d, reterr);
    if (rc == RC_OK && name.n > 0) deid_remember(&t->d.changes, &renamed);
    if (rc == RC_OK && dir != NULL && t->d.outcome != DEID_REFUSED &&
        (fsync(fd) != 0 || rename(partial, final) != 0))
        rc = err_set(reterr, rc_from_errno(errno), "'%s': %s", final, strerror(errno));
    if (dir == NULL || rc != RC_OK || t->d.outcome == DEID_REFUSED)
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
        rc = deid_file_check(&s->rules, &s->child, &src, t->path, &t->d, reterr);
    }
    image_source_file_close(&src);
    if (rc == RC_OK && t->d.why.msg[0] != 0 && !s->c->quiet)
        (void)fprintf(stderr, "mikura: '%s': %s\n", f->file, t->d.why.msg);
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
    if (key == NULL && need_key) {
        return err_set(
            reterr, RC_INVAL,
            "--pseudonym-key FILE is needed: mikura deid key makes one; without the same "
            "key a patient's later files get another pseudonym");
    }
    rc = deid_rules_load(profile == NULL ? "default" : profile, key, &s->rules, reterr);
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
    deid_rules_wipe(&s->rules);
    free(s);
    cases_deinit(&cs);
    return code;
}

/* ---- before a put ---- */

static enum rc case_file_check(struct deid_session *s, struct cases *cs, size_t idx,
                               struct err *reterr)
{
    const struct case_file *f = &cs->files[idx];
    struct deid_subject *t = calloc(1, sizeof *t);
    bool pixels_only = true;
    struct image_source src;
    char why[1024];
    enum rc rc;

    if (t == NULL) return err_set(reterr, RC_NOMEM, "a file");
    rc = image_source_file_open(f->file, &src, reterr);
    if (rc == RC_OK) {
        rc = deid_file_check(&s->rules, &s->child, &src, f->path, t, reterr);
        image_source_file_close(&src);
    } else {
        rc = cases_refuse(cs, idx, reterr->msg, reterr);
        goto out;
    }
    if (rc != RC_OK) goto out;
    for (uint32_t i = 0; i < t->reasons.n; i++)
        pixels_only = pixels_only && deid_rule_quarantines(t->reasons.f[i].rule);
    deid_why(&t->reasons, 4, why, sizeof why);
    if (t->reasons.n > 0 && !(pixels_only && cli_flag(s->c, "looked")))
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
    deid_rules_wipe(&s->rules);
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

int deid_dry_run(struct cli *c)
{
    return run_files(c, cli_flag(c, "deidentify"), NULL);
}
