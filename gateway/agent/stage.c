/* gateway/agent/stage.c - the files of a case under the rules, before a byte of it leaves.
 *
 * All files of a case are checked first: a case with one that is held waits as a whole (unless
 * `partial`). Cleaned copies lie in DIR/spool until the case is done; they are made anew after a
 * restart, from the same key to the same bytes. */
#include "gateway/agent/agent_priv.h"
#include "gateway/ingest/name.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct checking {
    struct work *w;
    struct source *s;
    struct inspect_child *child;
    struct deid_subject *d;
    int fd; /* of the cleaned copy; -1: check only */
    const char *copy;
    enum rc rc;
    struct err err;
};

static void check_work(void *arg)
{
    struct checking *k = arg;
    struct image_source src;

    k->rc = image_source_file_open(k->s->name, &src, &k->err);
    /* a file that may not be read is its case's trouble only */
    if (k->rc != RC_OK && k->rc != RC_NOTFOUND && k->rc != RC_NOMEM) k->rc = RC_INVAL;
    if (k->rc != RC_OK) return;
    if (k->fd < 0) {
        k->rc = deid_file_check(&k->w->a->rules, k->child, &src, k->s->f->path, k->d, &k->err);
    } else {
        k->rc = deid_file_clean(&k->w->a->rules, k->child, &src, k->fd, k->copy, k->d, &k->err);
    }
    image_source_file_close(&src);
}

static struct child_slot *child_take(struct agent *a)
{
    for (;;) {
        for (uint32_t i = 0; i < AGENT_CHILDREN; i++) {
            if (a->children[i].busy) continue;
            a->children[i].busy = true;
            return &a->children[i];
        }
        fiber_cond_wait(&a->child_free);
    }
}

static enum rc job_run(struct checking *k, void (*fn)(void *arg), struct err *reterr)
{
    struct agent *a = k->w->a;
    struct child_slot *c = child_take(a);
    enum rc rc;

    k->child = &c->child;
    k->err = (struct err){0};
    rc = fiber_work(fn, k);
    c->busy = false;
    fiber_cond_broadcast(&a->child_free);
    if (rc == RC_OK) rc = k->rc;
    if (rc != RC_OK) {
        return err_set(reterr, rc, "checking '%s': %s", k->s->f->path,
                       k->err.msg[0] != 0 ? k->err.msg : rc_text(rc));
    }
    return RC_OK;
}

/* Into the record: rule, place and what was done; never a value. */
static enum rc record_changes(struct work *w, const struct source *s, const struct deid_subject *d,
                              struct err *reterr)
{
    json_t *list = json_array(), *j;
    enum rc rc = RC_OK;

    for (uint32_t i = 0; list != NULL && i < d->changes.n; i++) {
        char field[DEID_FIELD_BYTES];

        deid_finding_field(&d->changes.f[i], field);
        (void)json_array_append_new(
            list, json_pack("{s:s, s:s, s:s}", "rule", deid_rule_name(d->changes.f[i].rule),
                            "field", field, "change", deid_change_name(d->changes.f[i].change)));
    }
    j = json_pack("{s:s, s:s, s:s, s:o}", "case_id", w->case_id, "path", s->path, "file",
                  s->f->path, "changes", list);
    if (j == NULL) return err_set(reterr, RC_NOMEM, "a record");
    if (json_dumpf(j, w->a->record, JSON_COMPACT) != 0 || fputc('\n', w->a->record) == EOF ||
        fflush(w->a->record) != 0)
        rc = err_set(reterr, RC_IO, "the record of what was cleaned could not be written");
    json_decref(j);
    return rc;
}

static bool pixels_only(const struct deid_findings *t)
{
    for (uint32_t i = 0; i < t->n; i++) {
        if (!deid_rule_quarantines(t->f[i].rule)) return false;
    }
    return true;
}

static void file_rec(const struct source *s, struct journal_file *f)
{
    *f = (struct journal_file){agent_slice(s->path), s->f->size_bytes, s->f->ino, s->f->mtime_ns,
                               s->f->ctime_ns};
}

static enum rc hold(struct work *w, struct source *s, enum deid_outcome outcome, const char *why,
                    struct err *reterr)
{
    struct journal_rec *r = calloc(1, sizeof *r);
    enum rc rc;

    if (r == NULL) return err_set(reterr, RC_NOMEM, "a journal record");
    s->held = true;
    w->held_n++;
    r->kind = JOURNAL_HELD;
    r->case_id = agent_slice(w->case_id);
    r->outcome = (uint8_t)outcome;
    r->text = agent_slice(why);
    file_rec(s, &r->files[0]);
    rc = hold_write(w->a, w->case_id, w->c->root, s->f->path, deid_outcome_name(outcome), why,
                    reterr);
    if (rc == RC_OK) rc = journal_add(w->a->journal, r, reterr);
    agent_tell(w->a, "held", "{s:s, s:s, s:s, s:s}", "case_id", w->case_id, "file", s->f->path,
               "outcome", deid_outcome_name(outcome), "reasons", why);
    free(r);
    return rc;
}

/* A look of before counts for the same bytes only. */
static bool looked(const struct work *w, const struct source *s)
{
    const struct jfile *f = jcase_file(w->k, s->path);

    return f != NULL && f->looked && f->size_bytes == s->f->size_bytes && f->ino == s->f->ino &&
           f->mtime_ns == s->f->mtime_ns && f->ctime_ns == s->f->ctime_ns;
}

static enum rc judge(struct work *w, struct source *s, const struct deid_subject *d,
                     struct err *reterr)
{
    char why[AGENT_REASON_BYTES];
    enum deid_outcome outcome = d->outcome;

    deid_why(&d->reasons, 16, why, sizeof why);
    if (why[0] == 0 && d->why.msg[0] != 0) (void)snprintf(why, sizeof why, "%s", d->why.msg);
    if (outcome == DEID_ACCEPTED || outcome == DEID_OPAQUE) return RC_OK;
    if (outcome == DEID_QUARANTINED && pixels_only(&d->reasons) && looked(w, s)) return RC_OK;
    return hold(w, s, outcome, why, reterr);
}

/* The name under which a cleaned file travels: its own where that tells nothing. */
static enum rc path_clean(struct work *w, struct source *s, struct err *reterr)
{
    struct deid_findings *t = calloc(1, sizeof *t);
    char base[64];
    enum rc rc = RC_OK;

    if (t == NULL) return err_set(reterr, RC_NOMEM, "a name");
    deid_check_name(s->f->path, &w->a->rules.profile, deid_remember, t);
    if (t->n > 0) {
        rc = deid_name_clean(&w->a->rules, s->f->path, base, reterr);
        if (rc == RC_OK) {
            free(s->path);
            s->path = strdup(base);
            if (s->path == NULL) rc = err_set(reterr, RC_NOMEM, "a name");
        }
    }
    free(t);
    return rc;
}

static enum rc clean_one(struct work *w, struct source *s, struct checking *k, struct err *reterr)
{
    struct agent *a = w->a;
    char *spool = agent_folder(a, "spool"), *copy = NULL, *original = s->name;
    struct stat st;
    enum rc rc;

    if (spool == NULL || asprintf(&copy, "%s/%llu", spool, (unsigned long long)++a->spool_n) < 0) {
        free(spool);
        return err_set(reterr, RC_NOMEM, "a cleaned copy");
    }
    free(spool);
    k->fd = open(copy, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (k->fd < 0) {
        rc = err_set(reterr, rc_from_errno(errno), "'%s': %s", copy, strerror(errno));
        free(copy);
        return rc;
    }
    rc = path_clean(w, s, reterr);
    k->copy = copy;
    if (rc == RC_OK) rc = job_run(k, check_work, reterr);
    if (rc == RC_OK && fstat(k->fd, &st) != 0)
        rc = err_set(reterr, rc_from_errno(errno), "'%s': %s", copy, strerror(errno));
    (void)close(k->fd); /* it is made anew after a crash: no need for it to be durable */
    if (rc != RC_OK || k->d->outcome == DEID_REFUSED) {
        (void)unlink(copy); /* it may hold anything */
        free(copy);
        return rc;
    }
    s->size_bytes = (uint64_t)st.st_size;
    s->cleaned = true;
    s->name = copy;
    free(original);
    return record_changes(w, s, k->d, reterr);
}

static enum rc check_one(struct work *w, struct source *s, struct err *reterr)
{
    struct checking k = {.w = w, .s = s, .d = calloc(1, sizeof *k.d), .fd = -1};
    enum rc rc;

    if (k.d == NULL) return err_set(reterr, RC_NOMEM, "a check");
    rc = job_run(&k, check_work, reterr);
    /* what nothing is wrong with travels as it is: most files of a site that cleans by itself */
    if (rc == RC_OK && w->a->set.deidentify && k.d->outcome == DEID_REFUSED) {
        memset(k.d, 0, sizeof *k.d);
        rc = clean_one(w, s, &k, reterr);
    }
    if (rc == RC_NOTFOUND) { /* it vanished */
        w->changed = true;
        rc = RC_OK;
    } else if (rc == RC_OK) {
        rc = judge(w, s, k.d, reterr);
    }
    free(k.d);
    return rc;
}

static void check_fiber(void *arg)
{
    struct work *w = arg;

    while (w->rc == RC_OK && !w->a->stop && w->next < w->n) {
        struct source *s = &w->sources[w->next++];
        struct err e = {0};
        enum rc rc;

        if (s->same || s->done) continue;
        rc = check_one(w, s, &e);
        if (rc != RC_OK && w->rc == RC_OK) {
            w->rc = rc;
            w->err = e;
        }
    }
}

enum rc stage_check(struct work *w, struct err *reterr)
{
    w->next = 0;
    w->rc = RC_OK;
    for (uint32_t i = 0; i < AGENT_CHILDREN; i++) {
        if (fiber_group_spawn(&w->group, check_fiber, w) != RC_OK) break;
    }
    if (w->group.running == 0) check_fiber(w);
    fiber_group_wait(&w->group);
    if (w->rc != RC_OK) {
        *reterr = w->err;
        return w->rc;
    }
    return agent_stopped(w->a, reterr);
}
