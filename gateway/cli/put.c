/* gateway/cli/put.c - `mikura put`: files to cases, each published whole.
 *
 * The request id of a file is made from its names, size, time and the case's generation: the same
 * command after a break goes on where it was, and finds what was staged. A case is committed by
 * whoever staged its last file, and only if all its planned files are staged; a case of one file is
 * put and committed in one call. */
#include "common/base/clock.h"
#include "common/base/buf.h"
#include "common/base/hex.h"
#include "common/base/strutil.h"
#include "gateway/cli/cases.h"
#include "gateway/cli/cli.h"
#include "gateway/cli/out.h"
#include "gateway/cli/progress.h"
#include "gateway/ingest/name.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PARALLEL     8u
#define PARALLEL_MAX 64u

enum file_state { FILE_OPEN, FILE_STAGED, FILE_STORED, FILE_FAILED, FILE_HELD };
struct put_file {
    struct case_file *f;
    enum file_state state;
    struct mikura_put_result result;
    char *why;
};
struct put_case {
    const char *case_id;
    size_t first, n, left, failed_n, held_n; /* files; held: in quarantine */
    uint64_t generation;                     /* before; then after */
    bool asked, known, committed;
    enum rc rc; /* of asking for the generation, or of the commit */
    struct err err;
};
struct putting {
    struct cli *c;
    const char *collection;
    struct put_file *files;
    struct put_case *cases;
    size_t files_n, cases_n, next, next_case_of; /* next file to take; its case */
    struct fiber_cond cond;
    struct progress progress;
    FILE *receipts; /* or NULL */
    bool stop;      /* what happened would happen to every file */
    enum rc first_rc;
    struct err stop_err;
    uint64_t stored_n, failed_n, held_n, bytes;
};

static bool stops_all(enum rc rc)
{
    return rc == RC_NOTFOUND || rc == RC_DENIED || rc == RC_UNAUTH || rc == RC_UNAVAIL ||
           rc == RC_DEADLINE || rc == RC_NOMEM || rc == RC_FULL || rc == RC_UNIMPL;
}

/* ---- ids ---- */
static enum rc id_make(struct buf *b, const char *what, struct id128 *ret, struct err *reterr)
{
    uint8_t hash[32];
    enum rc rc;

    buf_put_str(b, what);
    rc = buf_rc(b);
    if (rc == RC_OK) rc = tree_leaf(b->p, b->n, hash);
    if (rc != RC_OK) return err_set(reterr, rc, "a request id: %s", rc_text(rc));
    memcpy(ret->b, hash, 16);
    return RC_OK;
}

static void id_text(struct buf *b, const char *s)
{
    buf_printf(b, "%zu:%s|", strlen(s), s);
}

static enum rc file_id(const struct putting *p, const struct put_case *k, const struct case_file *f,
                       struct id128 *ret, struct err *reterr)
{
    struct buf b;
    enum rc rc;

    buf_init(&b, 16384);
    id_text(&b, p->collection);
    id_text(&b, f->case_id);
    id_text(&b, f->path);
    buf_printf(&b, "%llu|%lld|%llu|%llu|", (unsigned long long)f->size_bytes,
               (long long)f->mtime_ns, (unsigned long long)f->ino,
               (unsigned long long)k->generation);
    rc = id_make(&b, "mikura put 1", ret, reterr);
    buf_deinit(&b);
    return rc;
}

/* ---- progress ---- */
static void on_bytes(void *data, int64_t bytes)
{
    struct putting *p = data;

    p->progress.done += (uint64_t)bytes; /* negative ones take back what was added */
    progress_show(&p->progress, clock_boot_ms());
}

static void note(struct putting *p, const char *file, const char *state, const char *why)
{
    if (p->progress.f != NULL) (void)fputs("\r\033[K", p->progress.f);
    (void)fprintf(stderr, "%s %s: %s\n", state, file, why);
}

/* ---- one file ---- */
static enum rc file_put_as(struct putting *p, const struct put_case *k, struct put_file *f,
                           const struct id128 *id, struct err *reterr)
{
    struct mikura_put put = {.collection = p->collection,
                             .case_id = f->f->case_id,
                             .path = f->f->path,
                             .request_id = *id,
                             .commit = k->n == 1,
                             .progress = on_bytes,
                             .data = p};
    struct stat st;
    enum rc rc;

    put.fd = open(f->f->file, O_RDONLY | O_CLOEXEC);
    if (put.fd < 0 || fstat(put.fd, &st) != 0) {
        rc = err_set(reterr, RC_CORRUPT, "%s", strerror(errno));
    } else {
        put.size_bytes = (uint64_t)st.st_size;
        rc = mikura_put(p->c->client, &put, &f->result, reterr);
    }
    if (put.fd >= 0) (void)close(put.fd); /* was only read */
    return rc;
}

static enum rc file_put(struct putting *p, struct put_case *k, struct put_file *f,
                        struct err *reterr)
{
    struct id128 id;
    enum rc rc = file_id(p, k, f->f, &id, reterr);

    if (rc == RC_OK) rc = file_put_as(p, k, f, &id, reterr);
    if (rc == RC_CORRUPT || rc == RC_EXISTS || rc == RC_PRECOND || rc == RC_ABORTED) {
        /* what an earlier, broken-off run left under this id is of other bytes, or has expired, or
         * the file changes while it is read: once more, as an upload of its own */
        id = id128_random();
        rc = file_put_as(p, k, f, &id, reterr);
    }
    return rc;
}

/* ---- one case ---- */
/* The first worker that comes asks; others of the case wait. */
static enum rc case_ready(struct putting *p, struct put_case *k, struct err *reterr)
{
    if (!k->asked) {
        k->asked = true;
        k->rc = mikura_case_generation(p->c->client, p->collection, k->case_id, &k->generation,
                                       &k->err);
        k->known = true;
        fiber_cond_broadcast(&p->cond);
    }
    while (!k->known)
        fiber_cond_wait(&p->cond);
    if (k->rc != RC_OK && reterr != NULL) *reterr = k->err;
    return k->rc;
}

static json_t *case_json(const struct putting *p, const struct put_case *k,
                         const Mikura__V1__Receipt *signed_receipt)
{
    json_t *receipt = signed_receipt == NULL ? json_null() : out_message(&signed_receipt->base);

    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:o}", "type", "case", "collection", p->collection,
                     "case_id", k->case_id, "generation", (json_int_t)k->generation, "objects",
                     (json_int_t)(k->n - k->held_n), "receipt", receipt);
}

static json_t *file_json(const struct putting *p, const struct put_case *k,
                         const struct put_file *f, bool stored)
{
    char hex[65] = "";
    const char *state = stored ? "stored" : f->state == FILE_HELD ? "quarantined" : "failed";

    if (stored) hex_encode(f->result.tree_sha256, 32, hex);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:s, s:s}", "type", "file",
                     "file", f->f->file, "state", state, "collection", p->collection, "case_id",
                     f->f->case_id, "path", f->f->path, "version",
                     (json_int_t)(stored ? f->result.version : 0), "generation",
                     (json_int_t)(stored ? k->generation : 0), "size_bytes",
                     (json_int_t)(stored ? f->result.size_bytes : f->f->size_bytes), "tree_sha256",
                     hex, "reason",
                     f->why != NULL ? f->why
                     : stored       ? ""
                                    : "not tried");
}

/* What was published is told at once: a break after it loses nothing. */
static enum rc case_print(struct putting *p, const struct put_case *k,
                          const Mikura__V1__Receipt *signed_receipt)
{
    enum rc rc = p->c->json ? out_json(case_json(p, k, signed_receipt)) : RC_OK;

    if (rc != RC_OK || p->receipts == NULL) return rc;
    rc = out_json_to(p->receipts, case_json(p, k, signed_receipt));
    for (size_t i = 0; rc == RC_OK && i < k->n; i++) {
        if (p->files[k->first + i].state == FILE_HELD) continue;
        rc = out_json_to(p->receipts, file_json(p, k, &p->files[k->first + i], true));
    }
    return rc == RC_OK && fflush(p->receipts) != 0 ? RC_IO : rc;
}

static void unprinted(struct put_case *k, enum rc rc)
{
    (void)err_set(&k->err, rc, "it is stored; telling so failed: %s", rc_text(rc));
}

static void case_commit(struct putting *p, struct put_case *k)
{
    Mikura__V1__CommitCaseResponse *answer = NULL;
    struct mikura_staged *staged = calloc(k->n, sizeof *staged);
    struct mikura_commit commit = {.collection = p->collection,
                                   .case_id = k->case_id,
                                   .staged = staged,
                                   .expected_generation = k->generation};
    struct buf b;
    enum rc rc = staged != NULL ? RC_OK : err_set(&k->err, RC_NOMEM, "a commit");

    buf_init(&b, 1u << 28);
    for (size_t i = 0; rc == RC_OK && i < k->n; i++) {
        const struct put_file *f = &p->files[k->first + i];
        char hex[65];

        if (f->state == FILE_HELD) continue;
        staged[commit.staged_n] = (struct mikura_staged){
            .path = f->f->path, .version = f->result.version, .size_bytes = f->result.size_bytes};
        memcpy(staged[commit.staged_n++].tree_sha256, f->result.tree_sha256, 32);
        hex_encode(f->result.tree_sha256, 32, hex);
        id_text(&b, f->f->path);
        buf_printf(&b, "%llu|%s|", (unsigned long long)f->result.version, hex);
    }
    if (rc == RC_OK) {
        id_text(&b, p->collection);
        id_text(&b, k->case_id);
        buf_printf(&b, "%llu|", (unsigned long long)k->generation);
        /* a million paths are more than a leaf: their hash is enough for an id */
        if (b.n > TREE_LEAF_BYTES) {
            commit.request_id = id128_random();
        } else {
            rc = id_make(&b, "mikura commit 1", &commit.request_id, &k->err);
        }
    }
    buf_deinit(&b);
    if (rc == RC_OK) rc = mikura_commit(p->c->client, &commit, &answer, &k->err);
    if (rc == RC_OK) {
        k->committed = true;
        k->generation = answer->generation;
        rc = case_print(p, k, answer->receipt);
        if (rc != RC_OK) unprinted(k, rc);
    }
    k->rc = rc;
    mikura__v1__commit_case_response__free_unpacked(answer, NULL);
    free(staged);
}

static void case_committed(struct putting *p, struct put_case *k, struct mikura_put_result *r)
{
    k->committed = true;
    k->generation = r->generation;
    k->rc = case_print(p, k, r->receipt);
    if (k->rc != RC_OK) unprinted(k, k->rc);
    mikura__v1__receipt__free_unpacked(r->receipt, NULL);
    r->receipt = NULL;
}

static void failed(struct putting *p, enum rc rc, const struct err *e)
{
    if (p->first_rc == RC_OK) p->first_rc = rc;
    if (stops_all(rc) && !p->stop) {
        p->stop = true;
        p->stop_err = *e;
    }
}

static void file_failed(struct putting *p, struct put_case *k, struct put_file *f, enum rc rc,
                        const struct err *e)
{
    f->state = FILE_FAILED;
    f->why = strdup(e->msg);
    k->failed_n++;
    failed(p, rc, e);
    if (!stops_all(rc)) note(p, f->f->file, "failed", e->msg);
}

static void file_held(struct putting *p, struct put_case *k, struct put_file *f)
{
    k->held_n++;
    f->why = strdup("in quarantine by the collection's profile: see mikura quarantine ls");
    note(p, f->f->file, "quarantined", "see mikura quarantine ls");
}

static void case_end(struct putting *p, struct put_case *k)
{
    char why[600];

    if (k->failed_n == 0 && !p->stop && k->held_n < k->n) {
        if (k->n == 1) {
            case_committed(p, k, &p->files[k->first].result);
        } else {
            case_commit(p, k);
        }
        if (k->rc != RC_OK) {
            failed(p, k->rc, &k->err);
            note(p, k->case_id, k->committed ? "case" : "case not published", k->err.msg);
        }
    }
    if (!k->committed) {
        (void)snprintf(why, sizeof why, "its case '%.80s' was not published: %.400s", k->case_id,
                       k->rc != RC_OK ? k->err.msg : "another of its files failed");
    }
    for (size_t i = 0; i < k->n; i++) {
        struct put_file *f = &p->files[k->first + i];

        if (f->state != FILE_STAGED) continue;
        f->state = k->committed ? FILE_STORED : FILE_FAILED;
        if (!k->committed) f->why = strdup(why);
    }
}

static void worker(void *arg)
{
    struct putting *p = arg;

    while (!p->stop && p->next < p->files_n) {
        struct put_file *f = &p->files[p->next];
        struct put_case *k = &p->cases[p->next_case_of];
        struct err e = {0};
        enum rc rc;

        if (++p->next == k->first + k->n) p->next_case_of++;
        rc = case_ready(p, k, &e);
        if (rc == RC_OK) rc = file_put(p, k, f, &e);
        if (rc == RC_OK) {
            f->state = f->result.quarantined ? FILE_HELD : FILE_STAGED;
            p->bytes += f->result.size_bytes;
            if (f->result.quarantined) file_held(p, k, f);
        } else {
            file_failed(p, k, f, rc, &e);
        }
        p->progress.items_done++;
        progress_show(&p->progress, clock_boot_ms());
        if (--k->left == 0) case_end(p, k);
    }
}

/* ---- the whole ---- */
static enum rc plan(struct putting *p, const struct cases *cs, struct err *reterr)
{
    size_t n = cs->n - cs->refused_n;

    p->files = calloc(MAX(n, 1u), sizeof *p->files);
    p->cases = calloc(MAX(n, 1u), sizeof *p->cases);
    if (p->files == NULL || p->cases == NULL) return err_set(reterr, RC_NOMEM, "a list of files");
    for (size_t i = 0; i < n; i++) {
        struct case_file *f = &cs->files[i];
        struct put_case *k = p->cases_n == 0 ? NULL : &p->cases[p->cases_n - 1];

        if (k == NULL || strcmp(k->case_id, f->case_id) != 0) {
            k = &p->cases[p->cases_n++];
            k->case_id = f->case_id;
            k->first = i;
        }
        p->files[p->files_n++].f = f;
        k->n++;
        k->left++;
    }
    p->progress.total = cs->bytes;
    p->progress.items_total = n;
    return RC_OK;
}

static enum rc report(struct putting *p, const struct cases *cs, uint64_t ms)
{
    uint64_t cases_n = 0;
    char a[32], b[32];
    enum rc rc = RC_OK;

    for (size_t i = 0; i < p->cases_n; i++) {
        const struct put_case *k = &p->cases[i];

        cases_n += k->committed ? 1 : 0;
        for (size_t n = k->first; n < k->first + k->n; n++) {
            bool stored = p->files[n].state == FILE_STORED;

            bool held = p->files[n].state == FILE_HELD;

            p->stored_n += stored ? 1 : 0;
            p->held_n += held ? 1 : 0;
            p->failed_n += stored || held ? 0 : 1;
            if (rc == RC_OK && p->c->json) rc = out_json(file_json(p, k, &p->files[n], stored));
        }
    }
    for (size_t i = p->files_n; i < cs->n; i++) {
        const struct case_file *f = &cs->files[i];

        if (rc == RC_OK && p->c->json) {
            json_t *name = json_string(f->file); /* a name that is not UTF-8 is no JSON text */

            rc = out_json(json_pack("{s:s, s:o, s:s, s:s}", "type", "file", "file",
                                    name != NULL ? name : json_string("(not UTF-8)"), "state",
                                    "refused", "reason", f->refused));
        }
    }
    if (rc == RC_OK && p->c->json) {
        return out_json(json_pack(
            "{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "type", "summary", "collection",
            p->collection, "files", (json_int_t)cs->n, "stored", (json_int_t)p->stored_n, "refused",
            (json_int_t)cs->refused_n, "failed", (json_int_t)p->failed_n, "quarantined",
            (json_int_t)p->held_n, "cases", (json_int_t)cases_n, "bytes", (json_int_t)p->bytes));
    }
    if (rc == RC_OK) {
        (void)printf("%s: %zu files: %llu stored in %llu cases, %llu refused, %llu failed, %llu "
                     "quarantined; %s in %.1f s (%s/s)\n",
                     p->collection, cs->n, (unsigned long long)p->stored_n,
                     (unsigned long long)cases_n, (unsigned long long)cs->refused_n,
                     (unsigned long long)p->failed_n, (unsigned long long)p->held_n,
                     str_from_bytes(p->bytes, a), (double)ms / 1000.0,
                     str_from_bytes(p->bytes * 1000 / MAX(ms, 1u), b));
    }
    return rc;
}

static int put_files(struct cli *c, const char *collection, uint64_t parallel, FILE *receipts,
                     struct cases *cs)
{
    struct putting *p = calloc(1, sizeof *p);
    struct fiber_group group = {0};
    uint64_t start_ms = clock_boot_ms();
    int code = EXIT_OK;
    enum rc rc = p == NULL ? err_set(&c->err, RC_NOMEM, "a put") : RC_OK;

    if (rc != RC_OK) return cli_fail(c, rc);
    p->c = c;
    p->collection = collection;
    p->receipts = receipts;
    fiber_cond_init(&p->cond);
    progress_init(&p->progress, stderr, collection, c->quiet);
    for (size_t i = cs->n - cs->refused_n; i < cs->n; i++)
        note(p, cs->files[i].file, "refused", cs->files[i].refused);
    rc = plan(p, cs, &c->err);
    if (rc == RC_OK && p->files_n > 0) rc = cli_client(c, &c->err);
    if (rc != RC_OK) {
        code = cli_fail(c, rc);
        goto out;
    }
    for (uint64_t i = 0; i < parallel && i < p->files_n; i++) {
        if (fiber_group_spawn(&group, worker, p) != RC_OK) break;
    }
    if (group.running == 0) worker(p);
    fiber_group_wait(&group);
    progress_end(&p->progress);
    /* after a stop: cases of which some files were not tried */
    for (size_t i = 0; i < p->cases_n; i++)
        if (p->cases[i].left > 0) case_end(p, &p->cases[i]);
    rc = report(p, cs, clock_boot_ms() - start_ms);
    if (p->stop) {
        c->err = p->stop_err;
        code = cli_fail(c, p->first_rc);
        if (p->first_rc == RC_UNAVAIL || p->first_rc == RC_DEADLINE || rc_grpc(p->first_rc) == 8) {
            (void)fprintf(stderr, "mikura: stopped; the same command again goes on from here\n");
        }
    }
    if (rc != RC_OK) {
        code = EXIT_BUG;
    } else if (p->failed_n + p->held_n + cs->refused_n > 0) {
        code = p->stored_n + p->held_n > 0 ? EXIT_PARTIAL
               : p->first_rc != RC_OK      ? cli_exit_of(p->first_rc)
                                           : EXIT_USAGE;
    }
out:
    for (size_t i = 0; p->files != NULL && i < p->files_n; i++)
        free(p->files[i].why);
    free(p->files);
    free(p->cases);
    free(p);
    return code;
}

/* ---- stdin ---- */
/* As a put of files tells it. */
static enum rc stdin_print(struct cli *c, FILE *receipts, const struct mikura_put *put,
                           const struct mikura_put_result *r)
{
    struct case_file f = {
        .file = cli_text("-"), .case_id = cli_text(put->case_id), .path = cli_text(put->path)};
    struct put_file file = {.f = &f, .state = FILE_STORED, .result = *r};
    struct put_case k = {.case_id = put->case_id, .n = 1, .generation = r->generation};
    struct putting p = {
        .c = c, .collection = put->collection, .files = &file, .files_n = 1, .receipts = receipts};
    char hex[65];
    enum rc rc;

    if (r->quarantined) {
        (void)fprintf(stderr, "mikura: in quarantine: see mikura quarantine ls\n");
        file.state = FILE_HELD;
        file.why = cli_text("in quarantine by the collection's profile");
        return c->json ? out_json(file_json(&p, &k, &file, false)) : RC_OK;
    }
    rc = case_print(&p, &k, r->receipt);
    if (rc == RC_OK && c->json) return out_json(file_json(&p, &k, &file, true));
    if (rc != RC_OK) return rc;
    hex_encode(r->tree_sha256, 32, hex);
    (void)printf("%s/%s/%s: %llu bytes, version %llu, tree-sha256 %s\n", put->collection,
                 put->case_id, put->path, (unsigned long long)r->size_bytes,
                 (unsigned long long)r->version, hex);
    return RC_OK;
}

static int put_stdin(struct cli *c, const char *collection, FILE *receipts)
{
    const char *case_id = cli_value(c, "case"), *path = cli_value(c, "path");
    struct mikura_put put = {.collection = collection, .case_id = case_id, .path = path};
    struct mikura_put_result r;
    struct progress progress;
    struct stat st;
    enum rc rc;

    if (case_id == NULL || path == NULL) {
        return cli_usage(c, "from stdin: --case and --path are needed, nothing else names it");
    }
    rc = name_check_case((struct slice){(const uint8_t *)case_id, strlen(case_id)}, &c->err);
    if (rc == RC_OK)
        rc = name_check_path((struct slice){(const uint8_t *)path, strlen(path)}, &c->err);
    if (rc == RC_OK) rc = cli_client(c, &c->err);
    if (rc != RC_OK) return cli_fail(c, rc);
    put.fd = STDIN_FILENO;
    put.pipe = fstat(STDIN_FILENO, &st) != 0 || !S_ISREG(st.st_mode) ||
               lseek(STDIN_FILENO, 0, SEEK_CUR) != 0;
    put.size_bytes = put.pipe ? 0 : (uint64_t)st.st_size;
    put.request_id = id128_random();
    put.commit = true;
    progress_init(&progress, stderr, path, c->quiet);
    rc = mikura_put(c->client, &put, &r, &c->err);
    progress_end(&progress);
    if (rc != RC_OK) return cli_fail(c, rc);
    rc = stdin_print(c, receipts, &put, &r);
    if (rc != RC_OK) (void)err_set(&c->err, rc, "it is stored; telling so failed: %s", rc_text(rc));
    mikura__v1__receipt__free_unpacked(r.receipt, NULL);
    if (rc != RC_OK) return cli_fail(c, rc);
    return r.quarantined ? EXIT_PARTIAL : EXIT_OK;
}

static int put_all(struct cli *c, const char *collection, uint64_t parallel, FILE *receipts)
{
    struct cases cs;
    enum rc rc = RC_OK;
    int code;

    if (c->args_n == 1 && strcmp(c->args[0], "-") == 0) {
        if (cli_value(c, "deid-profile") != NULL)
            return cli_usage(c, "--deid-profile needs files: stdin is sent as it comes");
        return put_stdin(c, collection, receipts);
    }
    if (cli_value(c, "path") != NULL) return cli_usage(c, "--path is for stdin ('-') only");
    cases_init(&cs);
    for (unsigned i = 0; rc == RC_OK && i < c->args_n; i++)
        rc = strcmp(c->args[i], "-") == 0
                 ? err_set(&c->err, RC_INVAL, "'-' (stdin) stands alone")
                 : cases_add(&cs, c->args[i], cli_value(c, "case"), &c->err);
    if (rc == RC_OK && cli_value(c, "deid-profile") != NULL) rc = deid_check_cases(c, &cs, &c->err);
    if (rc == RC_OK) rc = cases_sort(&cs, &c->err);
    if (rc == RC_OK && cs.n == 0) {
        rc = err_set(&c->err, RC_NOTFOUND, "no files below '%s'", c->args[0]);
    }
    code =
        rc == RC_OK ? put_files(c, collection, MAX(parallel, 1u), receipts, &cs) : cli_fail(c, rc);
    cases_deinit(&cs);
    return code;
}

int cmd_put(struct cli *c)
{
    const char *collection = cli_value(c, "collection"), *to = cli_value(c, "receipts");
    uint64_t parallel = PARALLEL;
    FILE *receipts = NULL;
    enum rc rc;
    int code;

    if (collection == NULL) return cli_usage(c, "--collection is needed");
    rc = name_check_collection((struct slice){(const uint8_t *)collection, strlen(collection)},
                               &c->err);
    if (rc == RC_OK) rc = cli_number(c, "parallel", PARALLEL_MAX, &parallel);
    if (rc == RC_OK && to != NULL) {
        receipts = fopen(to, "ae"); /* now, not when the first case is stored */
        if (receipts == NULL) rc = err_set(&c->err, RC_INTERNAL, "'%s': %s", to, strerror(errno));
    }
    if (rc != RC_OK) return cli_fail(c, rc);
    code = put_all(c, collection, parallel, receipts);
    if (receipts != NULL && fclose(receipts) != 0 && code == EXIT_OK) {
        (void)err_set(&c->err, RC_INTERNAL, "'%s': %s", to, strerror(errno));
        code = cli_fail(c, RC_INTERNAL);
    }
    return code;
}
