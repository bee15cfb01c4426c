/* gateway/agent/receipts.c - DIR/receipts: what the cluster signed, a file a case, in the lines
 * that `mikura put --receipts` writes and `mikura receipt verify` reads; and what each path was
 * when it was sent, so that the same case again costs no upload.
 *
 * A file holds all generations, the newest last; it is written beside and renamed, durable before
 * the journal says DONE. */
#include "common/base/hex.h"
#include "gateway/agent/agent_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *agent_receipts_path(const char *state, const char *case_id)
{
    char digest[33], *path;

    if (agent_digest_name(case_id, digest) != RC_OK ||
        asprintf(&path, "%s/receipts/%s.json", state, digest) < 0)
        return NULL;
    return path;
}

/* ---- reading ---- */
static uint64_t number(const json_t *j, const char *name)
{
    json_int_t v = json_integer_value(json_object_get(j, name));

    return v < 0 ? 0 : (uint64_t)v;
}

/* The newest line of a path counts. */
static enum rc line_take(struct work *w, const json_t *j, struct err *reterr)
{
    const char *path = json_string_value(json_object_get(j, "path")),
               *hex = json_string_value(json_object_get(j, "tree_sha256"));
    struct known_line *l;
    enum rc rc;

    w->receipt_generation = MAX(w->receipt_generation, number(j, "generation"));
    if (path == NULL || hex == NULL || strlen(hex) != 64) return RC_OK; /* a case's line */
    l = names_get(&w->by_path, path);
    if (l == NULL) {
        l = calloc(1, sizeof *l);
        if (l == NULL || (l->path = strdup(path)) == NULL) {
            free(l);
            return err_set(reterr, RC_NOMEM, "receipts");
        }
        rc = names_add(&w->by_path, l->path, l);
        if (rc != RC_OK) {
            free(l->path);
            free(l);
            return err_set(reterr, rc, "receipts");
        }
    }
    if (!hex_decode(hex, 64, l->tree_sha256)) return RC_OK;
    l->version = number(j, "version");
    l->size_bytes = number(j, "size_bytes");
    l->source_bytes = number(j, "source_bytes");
    l->ino = number(j, "source_ino");
    l->mtime_ns = json_integer_value(json_object_get(j, "source_mtime_ns"));
    return RC_OK;
}

enum rc receipts_load(struct work *w, struct err *reterr)
{
    char *path = agent_receipts_path(w->a->set.state, w->case_id);
    FILE *f = path == NULL ? NULL : fopen(path, "r");
    enum rc rc = RC_OK;
    char *line = NULL;
    size_t cap = 0;

    if (path == NULL) return err_set(reterr, RC_NOMEM, "receipts");
    if (f == NULL && errno != ENOENT)
        rc = err_set(reterr, rc_from_errno(errno), "'%s': %s", path, strerror(errno));
    while (rc == RC_OK && f != NULL && getline(&line, &cap, f) > 0) {
        json_t *j = json_loads(line, 0, NULL);

        if (j == NULL) {
            rc = err_set(reterr, RC_CORRUPT, "'%s' holds a line that is no JSON: restore it", path);
        } else {
            rc = line_take(w, j, reterr);
        }
        json_decref(j);
    }
    if (f != NULL) (void)fclose(f); /* was only read */
    free(line);
    free(path);
    return rc;
}

/* ---- writing ---- */
static json_t *hex_json(const uint8_t *p, size_t n)
{
    char *text = malloc(2 * n + 1);
    json_t *j;

    if (text == NULL) return NULL;
    hex_encode(p, n, text);
    j = json_string(text);
    free(text);
    return j;
}

static bool put_line(FILE *f, json_t *j)
{
    bool ok = j != NULL && json_dumpf(j, f, JSON_COMPACT) == 0 && fputc('\n', f) != EOF;

    json_decref(j);
    return ok;
}

static bool case_line(struct work *w, FILE *f, const Mikura__V1__Receipt *r, uint64_t generation,
                      size_t n)
{
    json_t *receipt = json_pack("{s:o, s:o, s:s}", "signed_bytes",
                                hex_json(r->signed_bytes.data, r->signed_bytes.len), "signature",
                                hex_json(r->signature.data, r->signature.len), "key_id", r->key_id);

    return put_line(f, json_pack("{s:s, s:s, s:s, s:I, s:I, s:o}", "type", "case", "collection",
                                 w->a->set.collection, "case_id", w->case_id, "generation",
                                 (json_int_t)generation, "objects", (json_int_t)n, "receipt",
                                 receipt));
}

static bool file_line(struct work *w, FILE *f, const struct jfile *file, uint64_t generation)
{
    const struct journal_result *o = &file->result;

    return put_line(
        f, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:o, s:I, s:I, s:I}", "type",
                     "file", "file", file->path, "state", "stored", "collection",
                     w->a->set.collection, "case_id", w->case_id, "path", file->path, "version",
                     (json_int_t)o->version, "generation", (json_int_t)generation, "size_bytes",
                     (json_int_t)o->size_bytes, "tree_sha256", hex_json(o->tree_sha256, 32),
                     "source_bytes", (json_int_t)file->size_bytes, "source_ino",
                     (json_int_t)file->ino, "source_mtime_ns", (json_int_t)file->mtime_ns));
}

struct writing_receipts {
    struct work *w;
    const Mikura__V1__Receipt *r;
    uint64_t generation;
    char *path, *fresh;
    enum rc rc;
    struct err err;
};

static bool copy_old(const char *path, FILE *to, const char *marker)
{
    FILE *f = fopen(path, "r");
    bool ok = true, old = true;
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;

    if (f == NULL) return errno == ENOENT;
    while (ok && old && (n = getline(&line, &cap, f)) > 0) {
        old = strstr(line, marker) == NULL; /* this very generation, from before a crash */
        if (old) ok = fwrite(line, 1, (size_t)n, to) == (size_t)n;
    }
    ok = ok && ferror(f) == 0;
    (void)fclose(f); /* was only read */
    free(line);
    return ok;
}

static void write_work(void *arg)
{
    struct writing_receipts *k = arg;
    struct work *w = k->w;
    FILE *f = fopen(k->fresh, "we");
    char marker[64];
    bool ok = f != NULL;
    size_t n = 0;
    int dir;

    (void)snprintf(marker, sizeof marker, "\"generation\":%llu,",
                   (unsigned long long)k->generation);
    for (size_t i = 0; i < w->k->files_n; i++)
        n += w->k->files[i]->state == JFILE_STAGED && !w->k->files[i]->result.quarantined;
    ok = ok && copy_old(k->path, f, marker) && case_line(w, f, k->r, k->generation, n);
    for (size_t i = 0; ok && i < w->k->files_n; i++) {
        const struct jfile *file = w->k->files[i];

        if (file->state == JFILE_STAGED && !file->result.quarantined)
            ok = file_line(w, f, file, k->generation);
    }
    ok = ok && fflush(f) == 0 && fsync(fileno(f)) == 0;
    if (f != NULL && fclose(f) != 0) ok = false;
    ok = ok && rename(k->fresh, k->path) == 0;
    if (ok) {
        char *slash = strrchr(k->fresh, '/');

        *slash = 0;
        dir = open(k->fresh, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ok = dir >= 0 && fsync(dir) == 0;
        if (dir >= 0) (void)close(dir);
        *slash = '/';
    }
    if (!ok) k->rc = err_set(&k->err, rc_from_errno(errno), "'%s': %s", k->path, strerror(errno));
}

enum rc receipts_add(struct work *w, const Mikura__V1__Receipt *r, uint64_t generation,
                     struct err *reterr)
{
    struct writing_receipts k = {.w = w, .r = r, .generation = generation};
    struct backoff wait = {AGENT_TRY_MS, 10 * AGENT_TRY_MS, 0};
    enum rc rc;

    k.path = agent_receipts_path(w->a->set.state, w->case_id);
    if (k.path == NULL || asprintf(&k.fresh, "%s.new", k.path) < 0) {
        free(k.path);
        return err_set(reterr, RC_NOMEM, "receipts");
    }
    do { /* what is committed is told only with its receipt: a full disk is waited for */
        k.rc = RC_OK;
        rc = fiber_work(write_work, &k);
        if (rc == RC_OK && k.rc != RC_OK) {
            rc = k.rc;
            *reterr = k.err;
        }
        if (rc == RC_FULL) agent_tell(w->a, "state_full", "{s:s}", "why", reterr->msg);
    } while (rc == RC_FULL && agent_wait(w->a, &wait));
    free(k.path);
    free(k.fresh);
    return rc;
}
