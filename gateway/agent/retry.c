/* gateway/agent/retry.c - `mikura agent retry`: a word left in DIR/requests, taken by the agent
 * that runs or by the next one. One file a word, written beside and renamed. */
#include "common/base/id128.h"
#include "gateway/agent/agent_priv.h"
#include "common/image/deid/deid.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum rc agent_request_retry(const char *state, const char *case_id, bool looked, struct err *reterr)
{
    struct id128 id = id128_random();
    char text[ID128_TEXT_BYTES], *folder = NULL, *fresh = NULL, *path = NULL;
    json_t *j =
        json_pack("{s:s, s:b}", "case_id", case_id == NULL ? "" : case_id, "looked", looked);
    enum rc rc = RC_OK;

    (void)id128_text(&id, text);
    if (j == NULL || asprintf(&folder, "%s/requests", state) < 0 ||
        asprintf(&fresh, "%s/.%s", folder, text) < 0 ||
        asprintf(&path, "%s/%s", folder, text) < 0) {
        rc = err_set(reterr, RC_NOMEM, "a request");
    } else if (access(state, F_OK) != 0) {
        rc = err_set(reterr, RC_NOTFOUND, "'%s': %s: expected an agent's state folder", state,
                     strerror(errno));
    } else if ((mkdir(folder, 0700) != 0 && errno != EEXIST) ||
               json_dump_file(j, fresh, JSON_COMPACT) != 0 || rename(fresh, path) != 0) {
        rc = err_set(reterr, rc_from_errno(errno), "'%s': %s", path, strerror(errno));
    }
    json_decref(j);
    free(folder);
    free(fresh);
    free(path);
    return rc;
}

/* What is held for its pixels only counts as looked at; a rule of text stays one. */
static enum rc looked_at(struct agent *a, const struct jcase *k, struct journal_rec *r,
                         struct err *reterr)
{
    enum rc rc = RC_OK;

    for (size_t i = 0; rc == RC_OK && i < k->files_n; i++) {
        const struct jfile *f = k->files[i];
        bool by_gateway = f->state == JFILE_STAGED && f->result.quarantined;

        if (!by_gateway && (f->state != JFILE_HELD || f->outcome != DEID_QUARANTINED)) continue;
        r->kind = JOURNAL_LOOKED;
        r->case_id = agent_slice(k->case_id);
        r->files[0] = (struct journal_file){agent_slice(f->path), f->size_bytes, f->ino,
                                            f->mtime_ns, f->ctime_ns};
        rc = journal_add(a->journal, r, reterr);
    }
    return rc;
}

static enum rc retry_one(struct agent *a, struct jcase *k, bool looked, struct journal_rec *r,
                         struct err *reterr)
{
    enum rc rc = looked ? looked_at(a, k, r, reterr) : RC_OK;

    if (rc != RC_OK) return rc;
    *r = (struct journal_rec){.kind = JOURNAL_RETRY, .case_id = agent_slice(k->case_id)};
    if (k->state == JCASE_DONE) { /* with files that were left out: another look at all of them */
        r->kind = JOURNAL_CASE;
        r->root = agent_slice(k->root);
    }
    rc = journal_add(a->journal, r, reterr);
    if (rc == RC_OK) agent_tell(a, "retry", "{s:s, s:b}", "case_id", k->case_id, "looked", looked);
    return rc;
}

static enum rc request_do(struct agent *a, const json_t *j, struct err *reterr)
{
    const char *case_id = json_string_value(json_object_get(j, "case_id"));
    bool looked = json_is_true(json_object_get(j, "looked"));
    struct journal_rec *r = calloc(1, sizeof *r);
    struct jcase *k;
    enum rc rc = RC_OK;

    if (r == NULL) return err_set(reterr, RC_NOMEM, "a request");
    if (case_id != NULL && case_id[0] != 0) {
        k = journal_case(a->journal, case_id);
        if (k == NULL) {
            agent_tell(a, "retry_unknown", "{s:s}", "case_id", case_id);
        } else {
            rc = retry_one(a, k, looked, r, reterr);
        }
    } else {
        for (size_t i = 0; rc == RC_OK && (k = journal_at(a->journal, i)) != NULL; i++) {
            if (k->state == JCASE_ASIDE) rc = retry_one(a, k, looked, r, reterr);
        }
    }
    free(r);
    return rc;
}

enum rc requests_take(struct agent *a, struct err *reterr)
{
    char *folder = agent_folder(a, "requests");
    struct dirent *d;
    enum rc rc = RC_OK;
    DIR *h = folder == NULL ? NULL : opendir(folder);

    while (rc == RC_OK && h != NULL && (d = readdir(h)) != NULL) {
        char *path = NULL;
        json_t *j;

        if (d->d_name[0] == '.' || asprintf(&path, "%s/%s", folder, d->d_name) < 0) continue;
        j = json_load_file(path, 0, NULL);
        if (j != NULL) rc = request_do(a, j, reterr);
        json_decref(j);
        if (rc == RC_OK) (void)unlink(path); /* done twice does no harm */
        free(path);
        a->rescan = true;
    }
    if (h != NULL) (void)closedir(h);
    free(folder);
    return rc;
}
