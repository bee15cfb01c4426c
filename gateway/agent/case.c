/* gateway/agent/case.c - one case from complete to committed.
 *
 * The order of things that must survive a kill: CASE; UPLOAD before a byte, STAGED after the
 * answer; COMMIT with its request id before the call; the receipt on disk; DONE. A commit whose
 * answer is unknown is made again under the journalled id, and gives the same bytes, before
 * anything else is done with the case: whatever its files are by then. */
#include "common/base/buf.h"
#include "gateway/agent/agent_priv.h"
#include "gateway/ingest/name.h"
#include "proto/mikura/v1/catalog.pb-c.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DROPS_MAX 3u

static enum rc add(struct work *w, struct journal_rec *r, enum journal_kind kind,
                   struct err *reterr)
{
    r->kind = kind;
    r->case_id = agent_slice(w->case_id);
    return journal_add(w->a->journal, r, reterr);
}

/* After an answer, or none: is the same call to be made again? Waits before it says so. */
static bool again(struct work *w, enum rc rc, struct backoff *b)
{
    if (rc == RC_OK || !agent_transient(w->a, rc)) return false;
    if (b->max_ms == 0) *b = (struct backoff){AGENT_TRY_MS, AGENT_TRY_MAX_MS, 0};
    return agent_wait(w->a, b);
}

/* ---- commit ---- */
static size_t staged_n(const struct work *w)
{
    size_t n = 0;

    for (size_t i = 0; i < w->k->files_n; i++)
        n += w->k->files[i]->state == JFILE_STAGED && !w->k->files[i]->result.quarantined;
    return n;
}

static enum rc done(struct work *w, struct journal_rec *r, uint64_t generation,
                    const uint8_t print[32], struct err *reterr)
{
    r->root = agent_slice(w->c->root);
    memcpy(r->print, print, sizeof r->print);
    r->generation = generation;
    /* of a commit that an earlier run began the files may be gone */
    r->count = w->c->files_n > 0 ? w->c->files_n : staged_n(w);
    r->bytes = w->c->bytes;
    return add(w, r, JOURNAL_DONE, reterr);
}

static enum rc commit_call(struct work *w, Mikura__V1__CommitCaseResponse **ret, struct err *reterr)
{
    struct mikura_staged *staged = calloc(MAX(w->k->files_n, 1u), sizeof *staged);
    struct mikura_commit commit = {.collection = w->a->set.collection,
                                   .case_id = w->case_id,
                                   .staged = staged,
                                   .request_id = w->k->commit_id,
                                   .expected_generation = w->k->expected};
    enum rc rc;

    if (staged == NULL) return err_set(reterr, RC_NOMEM, "a commit");
    for (size_t i = 0; i < w->k->files_n; i++) {
        const struct jfile *f = w->k->files[i];

        if (f->state != JFILE_STAGED || f->result.quarantined) continue;
        staged[commit.staged_n] = (struct mikura_staged){
            .path = f->path, .version = f->result.version, .size_bytes = f->result.size_bytes};
        memcpy(staged[commit.staged_n++].tree_sha256, f->result.tree_sha256, 32);
    }
    rc = mikura_commit(w->a->client, &commit, ret, reterr);
    free(staged);
    return rc;
}

static enum rc commit_begin(struct work *w, struct journal_rec *r, struct err *reterr)
{
    struct backoff wait = {0};
    uint64_t generation;
    enum rc rc;

    do {
        rc = mikura_case_generation(w->a->client, w->a->set.collection, w->case_id, &generation,
                                    reterr);
    } while (again(w, rc, &wait));
    if (rc != RC_OK) return rc;
    r->id = id128_random();
    r->generation = generation;
    return add(w, r, JOURNAL_COMMIT, reterr);
}

/* From COMMITTING to DONE. RC_PRECOND: what is staged is not what we think; RC_ABORTED: never. */
static enum rc commit_finish(struct work *w, struct journal_rec *r, struct err *reterr)
{
    Mikura__V1__CommitCaseResponse *answer = NULL;
    uint8_t print[32];
    size_t n = staged_n(w);
    enum rc rc;

    memcpy(print, w->k->print, sizeof print);
    for (;;) {
        struct backoff wait = {0};

        do {
            rc = commit_call(w, &answer, reterr);
        } while (again(w, rc, &wait));
        if (rc != RC_ABORTED) break;
        rc = commit_begin(w, r, reterr); /* somebody else published a generation of this case */
        if (rc != RC_OK) return rc;
    }
    if (rc != RC_OK) return rc;
    if (answer->receipt == NULL) {
        rc = err_set(reterr, RC_INTERNAL, "the commit's answer has no receipt");
    } else {
        rc = receipts_add(w, answer->receipt, answer->generation, reterr);
    }
    if (rc == RC_OK) rc = done(w, r, answer->generation, print, reterr);
    if (rc == RC_OK) {
        agent_tell(w->a, "committed", "{s:s, s:I, s:I, s:s}", "case_id", w->case_id, "generation",
                   (json_int_t)answer->generation, "objects", (json_int_t)n, "folder", w->c->root);
    }
    mikura__v1__commit_case_response__free_unpacked(answer, NULL);
    return rc;
}

/* What is staged in the store does not fit the journal (another agent), or a file is here no more:
 * both forget it. path "": all, and the case is sent anew. */
static enum rc drop(struct work *w, struct journal_rec *r, const char *path, struct err *reterr)
{
    struct backoff wait = {0};
    enum rc rc;

    do {
        rc = mikura_staged_drop(w->a->client, w->a->set.collection, w->case_id, path, reterr);
    } while (again(w, rc, &wait));
    r->text = agent_slice(path);
    return rc == RC_OK ? add(w, r, JOURNAL_DROPPED, reterr) : rc;
}

/* ---- history and labels ---- */
static enum rc document_call(struct work *w, uint64_t version, struct id128 id, struct err *reterr)
{
    Mikura__V1__PutCaseDocumentRequest m = MIKURA__V1__PUT_CASE_DOCUMENT_REQUEST__INIT;
    Mikura__V1__RequestId rid = MIKURA__V1__REQUEST_ID__INIT;
    Mikura__V1__Case *answer = NULL;
    enum rc rc;

    rid.id = (ProtobufCBinaryData){16, id.b};
    m.collection = (char *)(uintptr_t)w->a->set.collection;
    m.case_id = w->case_id;
    m.facility = w->c->facility == NULL ? (char *)(uintptr_t) "" : w->c->facility;
    m.document_json = w->c->document == NULL ? (char *)(uintptr_t) "{}" : w->c->document;
    m.expected_document_version = version;
    m.request_id = &rid;
    rc = mikura_unary(w->a->client, "/mikura.v1.Catalog/PutCaseDocument", &m.base,
                      &mikura__v1__case__descriptor, &answer, reterr);
    mikura__v1__case__free_unpacked(answer, NULL);
    return rc;
}

static enum rc document_version(struct work *w, uint64_t *ret, struct err *reterr)
{
    Mikura__V1__GetCaseRequest m = MIKURA__V1__GET_CASE_REQUEST__INIT;
    Mikura__V1__Case *answer = NULL;
    enum rc rc;

    m.collection = (char *)(uintptr_t)w->a->set.collection;
    m.case_id = w->case_id;
    rc = mikura_unary(w->a->client, "/mikura.v1.Catalog/GetCase", &m.base,
                      &mikura__v1__case__descriptor, &answer, reterr);
    *ret = rc == RC_OK ? answer->document_version : 0;
    mikura__v1__case__free_unpacked(answer, NULL);
    return rc == RC_NOTFOUND ? RC_OK : rc;
}

/* Put anew in each round of a case: the last word counts, and the same again does no harm. */
static enum rc document_put(struct work *w, struct err *reterr)
{
    uint64_t version = 0;
    enum rc rc = RC_ABORTED;

    if (w->c->document == NULL && w->c->facility == NULL) return RC_OK;
    for (int tries = 0; tries < 8 && rc == RC_ABORTED; tries++) {
        struct backoff wait = {0};

        do {
            rc = document_version(w, &version, reterr);
            if (rc == RC_OK) rc = document_call(w, version, id128_random(), reterr);
        } while (again(w, rc, &wait));
    }
    return rc;
}

/* ---- what the gateway holds back ---- */
static enum rc release_call(struct work *w, const struct jfile *f, struct err *reterr)
{
    Mikura__V1__ReleaseQuarantineRequest m = MIKURA__V1__RELEASE_QUARANTINE_REQUEST__INIT;
    Mikura__V1__ObjectRef ref = MIKURA__V1__OBJECT_REF__INIT;
    Mikura__V1__StagedObject *answer = NULL;
    enum rc rc;

    ref.collection = (char *)(uintptr_t)w->a->set.collection;
    ref.case_id = w->case_id;
    ref.path = f->path;
    ref.version = f->result.version;
    m.object = &ref;
    rc = mikura_unary(w->a->client, "/mikura.v1.Objects/ReleaseQuarantine", &m.base,
                      &mikura__v1__staged_object__descriptor, &answer, reterr);
    mikura__v1__staged_object__free_unpacked(answer, NULL);
    return rc == RC_NOTFOUND ? RC_OK : rc; /* released before, by a run that was killed */
}

/* Released where a person has looked here; else it counts as held. */
static enum rc gateway_held(struct work *w, struct journal_rec *r, size_t *ret_held,
                            struct err *reterr)
{
    enum rc rc = RC_OK;

    *ret_held = 0;
    for (size_t i = 0; rc == RC_OK && i < w->k->files_n; i++) {
        struct jfile *f = w->k->files[i];

        if (f->state != JFILE_STAGED || !f->result.quarantined) continue;
        if (f->looked) {
            struct backoff wait = {0};

            do {
                rc = release_call(w, f, reterr);
            } while (again(w, rc, &wait));
            if (rc == RC_OK) {
                r->id = f->upload;
                r->files_n = 1;
                r->files[0] = (struct journal_file){agent_slice(f->path), f->size_bytes, f->ino,
                                                    f->mtime_ns, f->ctime_ns};
                r->results[0] = f->result;
                r->results[0].quarantined = 0;
                rc = add(w, r, JOURNAL_UPLOAD, reterr);
                if (rc == RC_OK) rc = add(w, r, JOURNAL_STAGED, reterr);
                continue;
            }
            if (rc != RC_PRECOND) break;
            rc = RC_OK;
        }
        (*ret_held)++;
        rc = hold_write(w->a, w->case_id, w->c->root, f->path, "quarantined",
                        "held back by the collection's profile in the cluster: see mikura "
                        "quarantine ls",
                        reterr);
        agent_tell(w->a, "held", "{s:s, s:s, s:s, s:s}", "case_id", w->case_id, "file", f->path,
                   "outcome", "quarantined", "reasons", "by the cluster: mikura quarantine ls");
    }
    return rc;
}

/* ---- the files ---- */
static enum rc sources_make(struct work *w, struct err *reterr)
{
    w->sources = calloc(MAX(w->c->files_n, 1u), sizeof *w->sources);
    if (w->sources == NULL) return err_set(reterr, RC_NOMEM, "a case's files");
    for (; w->n < w->c->files_n; w->n++) {
        struct source *s = &w->sources[w->n];

        s->f = &w->c->files[w->n];
        s->size_bytes = s->f->size_bytes;
        s->name = scan_file_name(w->c, s->f);
        s->path = strdup(s->f->path);
        if (s->name == NULL || s->path == NULL) return err_set(reterr, RC_NOMEM, "a case's files");
    }
    return RC_OK;
}

static bool staged_before(const struct work *w, const struct source *s)
{
    const struct jfile *f = jcase_file(w->k, s->path);

    return f != NULL && f->state == JFILE_STAGED && f->size_bytes == s->f->size_bytes &&
           f->ino == s->f->ino && f->mtime_ns == s->f->mtime_ns && f->ctime_ns == s->f->ctime_ns;
}

static void sources_compare(struct work *w)
{
    for (size_t i = 0; i < w->n; i++) {
        struct source *s = &w->sources[i];

        s->line = names_get(&w->by_path, s->path);
        s->done = staged_before(w, s);
        s->same = s->line != NULL && s->line->source_bytes == s->f->size_bytes &&
                  s->line->ino == s->f->ino && s->line->mtime_ns == s->f->mtime_ns;
        if (!s->done && !s->same) continue;
        w->counted_bytes += s->f->size_bytes;
        w->counted_files++;
        w->a->counts.bytes_done += s->f->size_bytes;
        w->a->counts.files_done++;
    }
}

static int by_path(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* What an earlier round staged and this one does not have must not be published with it. */
static enum rc leftovers_drop(struct work *w, struct journal_rec *r, struct err *reterr)
{
    const char **paths = calloc(MAX(w->n, 1u), sizeof *paths);
    enum rc rc = paths == NULL ? err_set(reterr, RC_NOMEM, "a case's files") : RC_OK;

    for (size_t i = 0; paths != NULL && i < w->n; i++)
        paths[i] = w->sources[i].held ? "" : w->sources[i].path;
    if (w->n > 0 && paths != NULL) qsort(paths, w->n, sizeof *paths, by_path);
    for (size_t i = 0; rc == RC_OK && i < w->k->files_n; i++) {
        const struct jfile *f = w->k->files[i];
        const char *path = f->path;

        if (f->state != JFILE_STAGED && f->state != JFILE_SENDING) continue;
        if (w->n > 0 && bsearch(&path, paths, w->n, sizeof *paths, by_path) != NULL) continue;
        rc = drop(w, r, path, reterr);
    }
    free(paths);
    return rc;
}

/* The last look before all of it is published. */
static void last_look(struct work *w)
{
    for (size_t i = 0; i < w->n && !w->changed; i++)
        w->changed = !w->sources[i].held && !stage_unchanged(w, &w->sources[i]);
}

struct digesting {
    struct source *s;
    enum rc rc;
};

static void digest_work(void *arg)
{
    struct digesting *k = arg;
    struct tree_stream *t = NULL;
    uint8_t *p = malloc(MIKURA_PIECE_BYTES), digest[32];
    FILE *f = fopen(k->s->name, "rbe");
    size_t n;

    k->rc = p == NULL ? RC_NOMEM : f == NULL ? RC_IO : tree_stream_new(&t);
    while (k->rc == RC_OK && (n = fread(p, 1, MIKURA_PIECE_BYTES, f)) > 0)
        k->rc = tree_stream_update(t, p, n);
    if (k->rc == RC_OK && ferror(f)) k->rc = RC_IO;
    if (k->rc == RC_OK) k->rc = tree_stream_digest(t, digest);
    k->s->same = k->rc == RC_OK && memcmp(digest, k->s->line->tree_sha256, sizeof digest) == 0;
    if (f != NULL) (void)fclose(f); /* was only read */
    tree_stream_free(t);
    free(p);
}

/* Touched, or copied anew: the bytes decide. A file that cannot be read is found out when sent. */
static enum rc digests_compare(struct work *w, struct err *reterr)
{
    for (size_t i = 0; i < w->n && !w->a->stop; i++) {
        struct source *s = &w->sources[i];
        struct digesting k = {.s = s};
        enum rc rc;

        s->line = names_get(&w->by_path, s->path); /* a cleaned one has another name now */
        if (s->same || s->done || s->held || s->line == NULL ||
            s->line->size_bytes != s->size_bytes)
            continue;
        rc = fiber_work(digest_work, &k);
        if (rc != RC_OK) return err_set(reterr, rc, "reading a file: %s", rc_text(rc));
    }
    return RC_OK;
}

static void work_clear(struct work *w)
{
    for (size_t i = 0; i < w->n; i++) {
        if (w->sources[i].cleaned) (void)unlink(w->sources[i].name); /* of the spool */
        free(w->sources[i].name);
        free(w->sources[i].path);
    }
    free(w->sources);
    w->sources = NULL;
    w->n = w->held_n = 0;
    for (size_t i = 0; i < w->by_path.cap; i++) {
        struct known_line *l = w->by_path.slots[i].name == NULL ? NULL : w->by_path.slots[i].value;

        if (l != NULL) free(l->path);
        free(l);
    }
    names_deinit(&w->by_path);
}

/* ---- the rounds ---- */
static enum rc aside(struct work *w, struct journal_rec *r, const char *why, struct err *reterr)
{
    enum rc rc;

    r->text = agent_slice(why);
    rc = add(w, r, JOURNAL_ASIDE, reterr);
    agent_tell(w->a, "aside", "{s:s, s:s, s:s}", "case_id", w->case_id, "folder", w->c->root, "why",
               why);
    return rc;
}

static enum rc held_aside(struct work *w, struct journal_rec *r, size_t n, struct err *reterr)
{
    const char *mend = w->a->set.deidentify ? "no cleaning mends them: take them out"
                                            : "clean them: --deidentify; or take them out";
    size_t refused = 0;
    char why[400], parts[300] = "";

    for (size_t i = 0; i < w->k->files_n; i++) {
        const struct jfile *f = w->k->files[i];

        refused += f->state == JFILE_HELD && f->outcome != DEID_QUARANTINED;
    }
    refused = MIN(refused, n);
    if (refused > 0) (void)snprintf(parts, sizeof parts, "; %zu refused (%s)", refused, mend);
    if (n > refused)
        (void)snprintf(parts + strlen(parts), sizeof parts - strlen(parts),
                       "; %zu to be looked at (then: mikura agent retry CASE --looked)",
                       n - refused);
    (void)snprintf(why, sizeof why,
                   "%zu of %zu files are held, with their reasons in quarantine/%s", n,
                   w->c->files_n, parts);
    return aside(w, r, why, reterr);
}

/* One round: check, send, commit. *ret_anew: the store has to forget first; then anew. */
static enum rc round_go(struct work *w, struct journal_rec *r, bool *ret_anew, struct err *reterr)
{
    size_t held = 0;
    enum rc rc = receipts_load(w, reterr);

    if (rc == RC_OK) rc = sources_make(w, reterr);
    if (rc != RC_OK) return rc;
    hold_clear(w->a, w->case_id);
    sources_compare(w);
    if (w->a->check) rc = stage_check(w, reterr);
    if (rc == RC_OK && w->held_n > 0 && !w->a->set.partial) {
        return held_aside(w, r, w->held_n, reterr);
    }
    if (rc == RC_OK) rc = digests_compare(w, reterr);
    if (rc == RC_OK) rc = leftovers_drop(w, r, reterr);
    if (rc == RC_OK && !w->changed) rc = stage_send(w, reterr);
    if (rc == RC_OK) last_look(w);
    if (rc != RC_OK || w->changed) return rc;
    rc = gateway_held(w, r, &held, reterr);
    if (rc == RC_OK && held > 0 && !w->a->set.partial) return held_aside(w, r, held, reterr);
    if (rc == RC_OK) rc = document_put(w, reterr);
    if (rc != RC_OK) return rc;
    if (staged_n(w) == 0 && w->held_n + held == w->n && w->n > 0)
        return held_aside(w, r, w->n, reterr);
    if (staged_n(w) == 0) { /* all is there as it is here */
        /* of a journal that was lost the receipts remember it */
        uint64_t generation = MAX(w->k->generation, w->receipt_generation);

        rc = done(w, r, generation, w->c->print, reterr);
        if (rc == RC_OK)
            agent_tell(w->a, "unchanged", "{s:s, s:I}", "case_id", w->case_id, "generation",
                       (json_int_t)generation);
        return rc;
    }
    rc = commit_begin(w, r, reterr);
    if (rc == RC_OK) rc = commit_finish(w, r, reterr);
    if (rc != RC_PRECOND && rc != RC_NOTFOUND) return rc;
    *ret_anew = true;
    return drop(w, r, "", reterr);
}

static enum rc case_name(struct work *w, struct err *reterr)
{
    struct deid_findings *t = calloc(1, sizeof *t);
    char name[64];
    enum rc rc = RC_OK;

    w->case_id = strdup(w->c->case_id);
    if (t == NULL || w->case_id == NULL) {
        free(t);
        return err_set(reterr, RC_NOMEM, "a case");
    }
    if (w->a->check) deid_check_name(w->case_id, &w->a->rules.profile, deid_remember, t);
    if (t->n > 0 && w->a->set.deidentify) {
        rc = deid_name_clean(&w->a->rules, w->c->case_id, name, reterr);
        free(w->case_id);
        w->case_id = rc == RC_OK ? strdup(name) : NULL;
        if (rc == RC_OK && w->case_id == NULL) rc = err_set(reterr, RC_NOMEM, "a case");
    } else if (t->n > 0 && w->c->bad == NULL) {
        w->c->bad = strdup("the case's own name can identify a person or a day: rename its folder, "
                           "or run with --deidentify");
    }
    free(t);
    return rc;
}

/* Where the case was found before, if that is still there: two folders must not be one case. */
static bool elsewhere(const struct work *w)
{
    return w->k != NULL && w->k->root != NULL && strcmp(w->k->root, w->c->root) != 0 &&
           access(w->k->root, F_OK) == 0;
}

static enum rc case_go(struct work *w, struct journal_rec *r, struct err *reterr)
{
    struct agent *a = w->a;
    bool anew = true;
    enum rc rc = case_name(w, reterr);

    if (rc != RC_OK) return rc;
    w->k = journal_case(a->journal, w->case_id);
    if (elsewhere(w)) {
        agent_tell(a, "refused", "{s:s, s:s, s:s, s:s}", "case_id", w->case_id, "folder",
                   w->c->root, "why", "this case comes from another folder", "other", w->k->root);
        return RC_OK;
    }
    if (w->k != NULL && w->k->state == JCASE_COMMITTING) {
        rc = commit_finish(w, r, reterr);
        if (rc == RC_PRECOND || rc == RC_NOTFOUND) rc = drop(w, r, "", reterr);
        if (rc != RC_OK) return rc;
    }
    if (w->k != NULL && w->k->state == JCASE_DONE && memcmp(w->k->print, w->c->print, 32) == 0)
        return RC_OK;
    for (uint32_t drops = 0; rc == RC_OK && anew && drops < DROPS_MAX; drops++) {
        anew = false;
        if (w->k == NULL || w->k->state != JCASE_OPEN ||
            memcmp(w->k->print, w->c->print, sizeof w->c->print) != 0) {
            r->root = agent_slice(w->c->root);
            memcpy(r->print, w->c->print, sizeof r->print);
            rc = add(w, r, JOURNAL_CASE, reterr);
            w->k = journal_case(a->journal, w->case_id);
        }
        if (rc == RC_OK && w->c->bad != NULL) return aside(w, r, w->c->bad, reterr);
        if (rc == RC_OK) rc = round_go(w, r, &anew, reterr);
        work_clear(w);
    }
    if (rc == RC_OK && anew)
        return aside(w, r,
                     "what is staged in the cluster keeps differing: another agent may work "
                     "on the same case",
                     reterr);
    return rc;
}

/* Of this case, of this machine, or of the agent as a whole? */
static enum rc case_failed(struct work *w, struct journal_rec *r, enum rc rc, struct err *e)
{
    struct agent *a = w->a;

    if (e->msg[0] == 0) (void)err_set(e, rc, "%s", rc_text(rc));
    switch (rc) {
    case RC_IO:     /* the journal, or another disk that failed */
    case RC_UNAUTH: /* every call would fail; a start reads the certificate anew */
    case RC_DENIED: /* with `once` only: else it is waited for */
        agent_fail(a, rc, e);
        return rc;
    case RC_NOMEM:
    case RC_FULL: /* later again */
    case RC_CANCELED:
        break;
    default:
        /* a commit whose outcome is unknown stays one, whatever was answered */
        if (w->k != NULL && w->k->state != JCASE_COMMITTING) return aside(w, r, e->msg, e);
        break;
    }
    agent_tell(a, "trouble", "{s:s, s:s}", "folder", w->c->root, "why", e->msg);
    if (a->set.once) agent_fail(a, rc, e);
    return rc;
}

void case_work(struct agent *a, struct job *job)
{
    struct work *w = calloc(1, sizeof *w);
    struct journal_rec *r = calloc(1, sizeof *r);
    struct err e = {0};
    enum rc rc = RC_NOMEM;

    if (w != NULL && r != NULL) {
        w->a = a;
        w->job = job;
        w->c = job->c;
        names_init(&w->by_path);
        fiber_cond_init(&w->cond);
        a->counts.bytes_total += w->c->bytes;
        a->counts.files_total += w->c->files_n;
        rc = case_go(w, r, &e);
        if (rc == RC_OK && w->changed) {
            agent_tell(a, "changed", "{s:s, s:s}", "case_id", w->case_id, "folder", w->c->root);
            job->t->recog.seen = false; /* quiet begins anew */
        } else if (rc != RC_OK && !a->stop) {
            rc = case_failed(w, r, rc, &e);
        }
        if (w->k == NULL || w->k->state != JCASE_DONE) {
            a->counts.bytes_total -= w->c->bytes;
            a->counts.files_total -= w->c->files_n;
            a->counts.bytes_done -= w->counted_bytes;
            a->counts.files_done -= w->counted_files;
        } else {
            a->counts.cases_done++;
        }
        work_clear(w);
        free(w->case_id);
    }
    job->t->working = false;
    scan_case_free(job->c);
    free(job);
    free(w);
    free(r);
}
