/* gateway/cli/get.c - `mikura get`: one object, a range of it, or all of a case or collection.
 *
 * A file appears under its name only when it is whole and its tree-sha256 was checked. In folder
 * mode a file that is there with the same digest is kept, so the same command goes on after a
 * break. */
#include "common/base/clock.h"
#include "common/base/strutil.h"
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

struct target {
    int fd;
    struct progress *progress;
};
static enum rc target_write(void *data, const uint8_t *p, size_t n, struct err *reterr)
{
    struct target *t = data;

    for (size_t at = 0; at < n;) {
        ssize_t w = write(t->fd, p + at, n - at);

        if (w < 0 && errno == EINTR) continue;
        if (w < 0) return err_set(reterr, RC_INTERNAL, "writing failed: %s", strerror(errno));
        at += (size_t)w;
    }
    if (t->progress != NULL) {
        t->progress->done += n;
        progress_show(t->progress, clock_boot_ms());
    }
    return RC_OK;
}

/* Into `file`, through a name of its own beside it. */
static enum rc get_to_file(struct cli *c, struct mikura_get *get, const char *file,
                           struct progress *progress, Mikura__V1__ObjectInfo **ret_info,
                           struct err *reterr)
{
    struct target t = {.fd = -1, .progress = progress};
    char *part = NULL;
    enum rc rc;

    if (asprintf(&part, "%s.part-%ld", file, (long)getpid()) < 0) {
        return err_set(reterr, RC_NOMEM, "a name");
    }
    t.fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (t.fd < 0) {
        rc = err_set(reterr, RC_INTERNAL, "'%s': %s", part, strerror(errno));
        free(part);
        return rc;
    }
    get->write = target_write;
    get->data = &t;
    rc = mikura_get(c->client, get, ret_info, reterr);
    if (close(t.fd) != 0 && rc == RC_OK) {
        rc = err_set(reterr, RC_INTERNAL, "'%s': %s", part, strerror(errno));
    }
    if (rc == RC_OK && rename(part, file) != 0) {
        rc = err_set(reterr, RC_INTERNAL, "'%s': %s", file, strerror(errno));
    }
    if (rc != RC_OK) (void)unlink(part);
    free(part);
    return rc;
}

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

static int get_object(struct cli *c, const struct cli_ref *ref)
{
    const char *out = cli_value(c, "o");
    struct mikura_get get = {
        .collection = ref->collection, .case_id = ref->case_id, .path = ref->path};
    struct target t = {.fd = STDOUT_FILENO};
    struct progress progress;
    Mikura__V1__ObjectInfo *info = NULL;
    char *file = NULL;
    struct stat st;
    enum rc rc;

    rc = cli_bytes(c, "offset", &get.offset_bytes);
    if (rc == RC_OK) rc = cli_bytes(c, "length", &get.length_bytes);
    if (rc == RC_OK) rc = cli_number(c, "object-version", UINT64_MAX, &get.version);
    if (rc == RC_OK) rc = cli_client(c, &c->err);
    if (rc != RC_OK) return cli_fail(c, rc);
    if (cli_value(c, "length") != NULL && get.length_bytes == 0) return EXIT_OK; /* no bytes */
    if (out == NULL) out = base_of(ref->path);
    if (strcmp(out, "-") == 0) {
        get.write = target_write;
        get.data = &t;
        rc = mikura_get(c->client, &get, NULL, &c->err);
        return rc == RC_OK ? EXIT_OK : cli_fail(c, rc);
    }
    if (stat(out, &st) == 0 && S_ISDIR(st.st_mode)) {
        if (asprintf(&file, "%s/%s", out, base_of(ref->path)) < 0) return EXIT_LIMIT;
    } else {
        file = strdup(out);
        if (file == NULL) return EXIT_LIMIT;
    }
    progress_init(&progress, stderr, base_of(ref->path), c->quiet);
    progress.items_total = 1;
    rc = get_to_file(c, &get, file, &progress, &info, &c->err);
    progress_end(&progress);
    if (rc == RC_OK && c->json) {
        rc = out_json(json_pack("{s:s, s:o}", "file", file, "info", out_message(&info->base)));
    } else if (rc == RC_OK && !c->quiet) {
        (void)fprintf(stderr, "%s: %llu bytes of version %llu%s\n", file,
                      (unsigned long long)progress.done, (unsigned long long)info->object->version,
                      get.offset_bytes == 0 && get.length_bytes == 0 ? ", tree-sha256 checked"
                                                                     : "");
    }
    mikura__v1__object_info__free_unpacked(info, NULL);
    free(file);
    return rc == RC_OK ? EXIT_OK : cli_fail(c, rc);
}

/* ---- folders ---- */
struct item {
    char *case_id, *path;
    uint64_t size, version;
    uint8_t tree[32];
    bool has_tree;
};
struct getting {
    struct cli *c;
    const char *collection, *dir;
    bool one_case;
    struct item *items;
    size_t n, cap, next;
    struct progress progress;
    uint64_t got_n, kept_n, failed_n;
    enum rc first_rc;
    bool stop;
};

static enum rc item_add(void *data, const Mikura__V1__ObjectInfo *info, struct err *reterr)
{
    struct getting *g = data;
    struct item *it;

    if (info->object == NULL) return err_set(reterr, RC_INTERNAL, "a listed object has no name");
    if (g->n == g->cap) {
        size_t cap = MAX(g->cap * 2, 256u);
        struct item *p = realloc(g->items, cap * sizeof *p);

        if (p == NULL) return err_set(reterr, RC_NOMEM, "a list of objects");
        g->items = p;
        g->cap = cap;
    }
    it = &g->items[g->n++];
    *it = (struct item){.case_id = strdup(info->object->case_id),
                        .path = strdup(info->object->path),
                        .size = info->size_bytes,
                        .version = info->object->version};
    for (size_t i = 0; i < info->n_digests; i++) {
        if (info->digests[i]->kind != MIKURA__V1__DIGEST_KIND__TREE_SHA256 ||
            info->digests[i]->value.len != 32)
            continue;
        memcpy(it->tree, info->digests[i]->value.data, 32);
        it->has_tree = true;
    }
    if (it->case_id == NULL || it->path == NULL) {
        return err_set(reterr, RC_NOMEM, "a list of objects");
    }
    g->progress.total += it->size;
    g->progress.items_total++;
    return RC_OK;
}

enum rc cli_folders_make(char *file, struct err *reterr)
{
    for (char *at = file + 1; *at != 0; at++) {
        int bad;

        if (*at != '/') continue;
        *at = 0;
        bad = mkdir(file, 0777) != 0 && errno != EEXIST;
        if (bad) (void)err_set(reterr, RC_INTERNAL, "folder '%s': %s", file, strerror(errno));
        *at = '/';
        if (bad) return RC_INTERNAL;
    }
    return RC_OK;
}

struct same {
    const char *file;
    const struct item *it;
    bool same;
};
static void same_work(void *arg)
{
    struct same *s = arg;
    struct tree_stream *t = NULL;
    uint8_t *p = malloc(MIKURA_PIECE_BYTES), tree[32];
    int fd = open(s->file, O_RDONLY | O_CLOEXEC);
    enum rc rc = fd < 0 || p == NULL ? RC_IO : tree_stream_new(&t);
    ssize_t r = 0;

    while (rc == RC_OK && (r = read(fd, p, MIKURA_PIECE_BYTES)) > 0)
        rc = tree_stream_update(t, p, (size_t)r);
    if (rc == RC_OK && r == 0) rc = tree_stream_digest(t, tree);
    s->same = rc == RC_OK && r == 0 && memcmp(tree, s->it->tree, 32) == 0;
    tree_stream_free(t);
    if (fd >= 0) (void)close(fd);
    free(p);
}

/* What the server names becomes a path here: it is held against the rules once more. */
static enum rc item_file(const struct getting *g, const struct item *it, char **ret_file,
                         struct err *reterr)
{
    enum rc rc =
        name_check_path((struct slice){(const uint8_t *)it->path, strlen(it->path)}, reterr);

    if (rc == RC_OK) {
        rc = name_check_case((struct slice){(const uint8_t *)it->case_id, strlen(it->case_id)},
                             reterr);
    }
    if (rc != RC_OK) return rc;
    if (asprintf(ret_file, "%s/%s%s%s", g->dir, g->one_case ? "" : it->case_id,
                 g->one_case ? "" : "/", it->path) < 0) {
        return err_set(reterr, RC_NOMEM, "a name");
    }
    return cli_folders_make(*ret_file, reterr);
}

static enum rc item_get(struct getting *g, const struct item *it, bool *ret_kept,
                        struct err *reterr)
{
    struct mikura_get get = {.collection = g->collection,
                             .case_id = it->case_id,
                             .path = it->path,
                             .version = it->version};
    struct same same = {.it = it};
    Mikura__V1__ObjectInfo *info = NULL;
    char *file = NULL;
    struct stat st;
    enum rc rc = item_file(g, it, &file, reterr);

    if (rc == RC_OK && it->has_tree && stat(file, &st) == 0 && S_ISREG(st.st_mode) &&
        (uint64_t)st.st_size == it->size) {
        same.file = file;
        if (fiber_work(same_work, &same) == RC_OK && same.same) {
            *ret_kept = true;
            g->progress.done += it->size;
            free(file);
            return RC_OK;
        }
    }
    if (rc == RC_OK) rc = get_to_file(g->c, &get, file, &g->progress, &info, reterr);
    mikura__v1__object_info__free_unpacked(info, NULL);
    free(file);
    return rc;
}

static void worker(void *arg)
{
    struct getting *g = arg;

    while (!g->stop && g->next < g->n) {
        const struct item *it = &g->items[g->next++];
        struct err e = {0};
        bool kept = false;
        enum rc rc = item_get(g, it, &kept, &e);

        if (rc == RC_OK) {
            g->got_n += kept ? 0 : 1;
            g->kept_n += kept ? 1 : 0;
        } else {
            g->failed_n++;
            if (g->first_rc == RC_OK) g->first_rc = rc;
            if (g->stop) continue; /* the same reason was told */
            g->stop = rc == RC_UNAVAIL || rc == RC_UNAUTH || rc == RC_DENIED;
            if (g->progress.f != NULL) (void)fputs("\r\033[K", g->progress.f);
            (void)fprintf(stderr, "failed %s/%s/%s: %s\n", g->collection, it->case_id, it->path,
                          e.msg);
        }
        g->progress.items_done++;
        progress_show(&g->progress, clock_boot_ms());
    }
}

static int get_folder(struct cli *c, const struct cli_ref *ref)
{
    struct getting *g = calloc(1, sizeof *g);
    struct fiber_group group = {0};
    uint64_t parallel = PARALLEL, left;
    int code = EXIT_OK;
    enum rc rc;

    if (g == NULL) return EXIT_LIMIT;
    g->c = c;
    g->collection = ref->collection;
    g->dir = cli_value(c, "o");
    g->one_case = ref->case_id[0] != 0;
    if (g->dir == NULL) g->dir = g->one_case ? ref->case_id : ref->collection;
    rc = cli_number(c, "parallel", PARALLEL_MAX, &parallel);
    if (rc == RC_OK && strcmp(g->dir, "-") == 0) {
        rc = err_set(&c->err, RC_INVAL, "stdout takes one object, not a folder of them");
    }
    if (rc == RC_OK && (cli_value(c, "offset") != NULL || cli_value(c, "length") != NULL)) {
        rc = err_set(&c->err, RC_INVAL, "a range is of one object: COLLECTION/CASE/PATH");
    }
    if (rc == RC_OK) rc = cli_client(c, &c->err);
    progress_init(&g->progress, stderr, ref->collection, c->quiet);
    if (rc == RC_OK) {
        rc = mikura_list(c->client, ref->collection, ref->case_id, "", item_add, g, &c->err);
    }
    if (rc == RC_OK && g->n == 0) {
        rc = err_set(&c->err, RC_NOTFOUND, "no objects in '%s%s%s'", ref->collection,
                     g->one_case ? "/" : "", ref->case_id);
    }
    if (rc != RC_OK) {
        code = cli_fail(c, rc);
        goto out;
    }
    for (uint64_t i = 0; i < MAX(parallel, 1u) && i < g->n; i++) {
        if (fiber_group_spawn(&group, worker, g) != RC_OK) break;
    }
    if (group.running == 0) worker(g);
    fiber_group_wait(&group);
    progress_end(&g->progress);
    left = g->n - g->got_n - g->kept_n - g->failed_n;
    if (c->json) {
        rc = out_json(json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "collection", g->collection,
                                "folder", g->dir, "objects", (json_int_t)g->n, "written",
                                (json_int_t)g->got_n, "kept", (json_int_t)g->kept_n, "failed",
                                (json_int_t)g->failed_n, "not_tried", (json_int_t)left));
    } else {
        (void)printf("%s: %zu objects: %llu written, %llu already there, %llu failed%s\n", g->dir,
                     g->n, (unsigned long long)g->got_n, (unsigned long long)g->kept_n,
                     (unsigned long long)(g->failed_n + left),
                     left > 0 ? "; the same command goes on from here" : "");
    }
    if (rc != RC_OK) code = EXIT_BUG;
    if (g->failed_n > 0) {
        code = g->got_n + g->kept_n > 0 ? EXIT_PARTIAL : cli_exit_of(g->first_rc);
    }
out:
    for (size_t i = 0; i < g->n; i++) {
        free(g->items[i].case_id);
        free(g->items[i].path);
    }
    free(g->items);
    free(g);
    return code;
}

int cmd_get(struct cli *c)
{
    struct cli_ref ref;
    size_t n;
    int code;
    enum rc rc = cli_ref_parse(c->args[0], &ref, &c->err);

    if (rc != RC_OK) return cli_fail(c, rc);
    /* COLLECTION/CASE/ is the case */
    n = strlen(ref.path);
    if (n > 0 && ref.path[n - 1] == '/') {
        code = cli_usage(c, "'%s' ends with '/': an object's path does not", c->args[0]);
    } else if (ref.path[0] != 0) {
        code = get_object(c, &ref);
    } else {
        code = get_folder(c, &ref);
    }
    cli_ref_free(&ref);
    return code;
}
