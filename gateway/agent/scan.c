/* gateway/agent/scan.c - see scan.h. */
#include "gateway/agent/scan.h"
#include "common/base/buf.h"
#include "common/crypto/tree_sha256.h"
#include "gateway/agent/case_list.h"
#include "gateway/ingest/name.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEPTH_MAX      64u
#define LIST_BYTES_MAX (64u << 20)

struct entry {
    char *root, *case_id; /* case_id NULL: by the root's name */
    char *facility, *document;
};
struct scan {
    struct scan_conf conf;
    struct entry *entries;
    size_t n, cap, at;
};

static struct slice slice_of(const char *s)
{
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

void scan_case_free(struct scan_case *c)
{
    if (c == NULL) return;
    for (size_t i = 0; i < c->files_n; i++)
        free(c->files[i].path);
    free(c->files);
    free(c->case_id);
    free(c->root);
    free(c->facility);
    free(c->document);
    free(c->bad);
    free(c);
}

char *scan_file_name(const struct scan_case *c, const struct scan_file *f)
{
    char *name;

    if (c->single) return strdup(c->root);
    return asprintf(&name, "%s/%s", c->root, f->path) < 0 ? NULL : name;
}

/* ---- entries ---- */
static struct entry *entry_new(struct scan *s, const char *root)
{
    struct entry *e;

    if (s->n == s->cap) {
        size_t cap = MAX(s->cap * 2, 64u);
        struct entry *p = realloc(s->entries, cap * sizeof *p);

        if (p == NULL) return NULL;
        s->entries = p;
        s->cap = cap;
    }
    e = &s->entries[s->n];
    *e = (struct entry){.root = strdup(root)};
    if (e->root == NULL) return NULL;
    s->n++;
    return e;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int visible(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

static enum rc folder_add(struct scan *s, const char *folder, struct err *reterr)
{
    struct dirent **list = NULL;
    int n = scandir(folder, &list, visible, by_name);
    enum rc rc = RC_OK;

    if (n < 0) {
        return err_set(reterr, rc_from_errno(errno), "watched folder '%s': %s", folder,
                       strerror(errno));
    }
    for (int i = 0; i < n; i++) {
        char *root = NULL;

        if (rc == RC_OK && strcmp(list[i]->d_name, s->conf.marker) != 0 &&
            (asprintf(&root, "%s/%s", folder, list[i]->d_name) < 0 || entry_new(s, root) == NULL))
            rc = err_set(reterr, RC_NOMEM, "a list of cases");
        free(root);
        free(list[i]);
    }
    free(list);
    return rc;
}

static enum rc folders_add(struct scan *s, struct err *reterr)
{
    char *all = strdup(s->conf.folders), *at = all;
    enum rc rc = all == NULL ? err_set(reterr, RC_NOMEM, "a list of folders") : RC_OK;

    while (rc == RC_OK && at != NULL && *at != 0) {
        char *one = at;
        size_t n;

        at = strchr(at, ',');
        if (at != NULL) *at++ = 0;
        while (*one == ' ')
            one++;
        n = strlen(one);
        while (n > 1 && (one[n - 1] == '/' || one[n - 1] == ' '))
            one[--n] = 0;
        if (n > 0) rc = folder_add(s, one, reterr);
    }
    free(all);
    return rc;
}

/* ---- case lists ---- */
static enum rc list_read(const char *file, char **ret, size_t *ret_n, struct err *reterr)
{
    FILE *f = fopen(file, "rb");
    struct buf b;
    size_t n = 0;
    enum rc rc;

    if (f == NULL)
        return err_set(reterr, rc_from_errno(errno), "case list '%s': %s", file, strerror(errno));
    buf_init(&b, LIST_BYTES_MAX);
    do {
        uint8_t *p = buf_reserve(&b, 65536);

        n = p == NULL ? 0 : fread(p, 1, 65536, f);
        b.n += n;
    } while (n > 0);
    rc = ferror(f) ? RC_IO : buf_rc(&b);
    (void)fclose(f); /* was only read */
    buf_put_u8(&b, 0);
    if (rc == RC_OK) rc = buf_rc(&b);
    if (rc != RC_OK) {
        buf_deinit(&b);
        return err_set(reterr, rc, "case list '%s': %s, or over %u MiB", file, rc_text(rc),
                       LIST_BYTES_MAX >> 20);
    }
    *ret = (char *)b.p; /* taken */
    *ret_n = b.n - 1;
    return RC_OK;
}

static char *dup_or_null(const char *s)
{
    return s == NULL || s[0] == 0 ? NULL : strdup(s);
}

/* Where its files are: beside the list unless absolute. */
static enum rc row_add(void *data, const struct case_list_row *row, struct err *reterr)
{
    struct scan *s = data;
    const char *slash = strrchr(s->conf.list, '/'), *folder = row->folder;
    struct entry *e;
    char *root = NULL;
    int n;

    if (folder[0] == '/' || slash == NULL) {
        n = asprintf(&root, "%s", folder);
    } else {
        n = asprintf(&root, "%.*s/%s", (int)(slash - s->conf.list), s->conf.list, folder);
    }
    e = n < 0 ? NULL : entry_new(s, root);
    free(root);
    if (e == NULL) return err_set(reterr, RC_NOMEM, "a case list");
    e->case_id = strdup(row->case_id);
    e->facility = dup_or_null(row->facility);
    e->document = dup_or_null(row->document);
    if (e->case_id == NULL || (e->facility == NULL && row->facility[0] != 0) ||
        (e->document == NULL && row->document[0] != 0))
        return err_set(reterr, RC_NOMEM, "a case list");
    return RC_OK;
}

static enum rc list_add(struct scan *s, struct err *reterr)
{
    const char *dot = strrchr(s->conf.list, '.');
    char *text = NULL;
    size_t n = 0;
    enum rc rc = list_read(s->conf.list, &text, &n, reterr);

    if (rc != RC_OK) return rc;
    rc = case_list_parse(s->conf.list, dot != NULL && strcmp(dot, ".json") == 0, text, n, row_add,
                         s, reterr);
    free(text);
    return rc;
}

enum rc scan_open(const struct scan_conf *conf, struct scan **ret, struct err *reterr)
{
    struct scan *s = calloc(1, sizeof *s);
    enum rc rc = RC_OK;

    if (s == NULL) return err_set(reterr, RC_NOMEM, "a look at folders");
    s->conf = *conf;
    rc = conf->list[0] != 0 ? list_add(s, reterr) : folders_add(s, reterr);
    if (rc != RC_OK) {
        scan_close(s);
    } else {
        *ret = s;
    }
    return rc;
}

void scan_close(struct scan *s)
{
    if (s == NULL) return;
    for (size_t i = 0; i < s->n; i++) {
        free(s->entries[i].root);
        free(s->entries[i].case_id);
        free(s->entries[i].facility);
        free(s->entries[i].document);
    }
    free(s->entries);
    free(s);
}

/* ---- one case ---- */
static void bad(struct scan_case *c, const char *path, const char *why)
{
    if (c->bad == NULL && asprintf(&c->bad, "'%s': %s", path, why) < 0) c->bad = NULL;
}

static enum rc file_add(struct scan_case *c, const char *rel, const struct stat *st,
                        struct err *reterr)
{
    struct scan_file *f;
    struct err why = {0};

    if (c->files_n == SCAN_FILES_MAX) {
        bad(c, rel, "more than a million files in a case");
        return RC_OK;
    }
    if (c->files_n == c->files_cap) {
        size_t cap = MAX(c->files_cap * 2, 16u);
        struct scan_file *p = realloc(c->files, cap * sizeof *p);

        if (p == NULL) return err_set(reterr, RC_NOMEM, "a list of files");
        c->files = p;
        c->files_cap = cap;
    }
    f = &c->files[c->files_n];
    *f = (struct scan_file){
        .path = strdup(rel),
        .size_bytes = (uint64_t)st->st_size,
        .ino = st->st_ino,
        .mtime_ns = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec,
        .ctime_ns = (int64_t)st->st_ctim.tv_sec * 1000000000 + st->st_ctim.tv_nsec};
    if (f->path == NULL) return err_set(reterr, RC_NOMEM, "a list of files");
    c->files_n++;
    c->bytes += f->size_bytes;
    if (name_check_path(slice_of(rel), &why) != RC_OK) bad(c, rel, why.msg);
    return RC_OK;
}

static enum rc walk(struct scan *s, struct scan_case *c, const char *rel, unsigned depth,
                    struct err *reterr)
{
    char *dir = NULL;
    struct dirent *d;
    enum rc rc = RC_OK;
    DIR *h;

    if (asprintf(&dir, "%s%s%s", c->root, rel[0] == 0 ? "" : "/", rel) < 0)
        return err_set(reterr, RC_NOMEM, "a folder");
    h = opendir(dir);
    if (h == NULL) bad(c, rel, strerror(errno));
    while (rc == RC_OK && h != NULL && (d = readdir(h)) != NULL) {
        char *sub = NULL;
        struct stat st;

        if (d->d_name[0] == '.') continue;
        if (s->conf.marker[0] != 0 && strcmp(d->d_name, s->conf.marker) == 0) {
            c->marker = c->marker || rel[0] == 0;
            continue;
        }
        if (asprintf(&sub, "%s%s%s", rel, rel[0] == 0 ? "" : "/", d->d_name) < 0) {
            rc = err_set(reterr, RC_NOMEM, "a name");
            break;
        }
        if (fstatat(dirfd(h), d->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
            if (errno != ENOENT) bad(c, sub, strerror(errno)); /* gone since: another print */
        } else if (S_ISREG(st.st_mode)) {
            rc = file_add(c, sub, &st, reterr);
        } else if (!S_ISDIR(st.st_mode)) {
            bad(c, sub, "neither a file nor a folder (a link?)");
        } else if (depth >= DEPTH_MAX) {
            bad(c, sub, "folders nested too deep");
        } else {
            rc = walk(s, c, sub, depth + 1, reterr);
        }
        free(sub);
    }
    if (h != NULL) (void)closedir(h);
    free(dir);
    return rc;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct scan_file *)a)->path, ((const struct scan_file *)b)->path);
}

static enum rc print_make(struct scan_case *c, struct err *reterr)
{
    struct tree_stream *t = NULL;
    struct buf b;
    enum rc rc = tree_stream_new(&t);

    buf_init(&b, 16384);
    for (size_t i = 0; rc == RC_OK && i < c->files_n; i++) {
        const struct scan_file *f = &c->files[i];

        buf_reset(&b);
        buf_printf(&b, "%zu:%s|%llu|%lld|%llu|", strlen(f->path), f->path,
                   (unsigned long long)f->size_bytes, (long long)f->mtime_ns,
                   (unsigned long long)f->ino);
        rc = buf_rc(&b);
        if (rc == RC_OK) rc = tree_stream_update(t, b.p, b.n);
    }
    if (rc == RC_OK && c->facility != NULL)
        rc = tree_stream_update(t, c->facility, strlen(c->facility));
    if (rc == RC_OK && c->document != NULL)
        rc = tree_stream_update(t, c->document, strlen(c->document));
    if (rc == RC_OK) rc = tree_stream_digest(t, c->print);
    tree_stream_free(t);
    buf_deinit(&b);
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "a case's print");
}

static char *case_name(const struct entry *e, bool single)
{
    const char *base = base_of(e->root), *dot = strrchr(base, '.');

    if (e->case_id != NULL) return strdup(e->case_id);
    return !single || dot == NULL || dot == base ? strdup(base)
                                                 : strndup(base, (size_t)(dot - base));
}

enum rc scan_next(struct scan *s, struct scan_case **ret, struct err *reterr)
{
    struct scan_case *c;
    struct err why = {0};
    struct entry *e;
    struct stat st;
    enum rc rc = RC_OK;

    do {
        if (s->at == s->n) return RC_RANGE;
        e = &s->entries[s->at++];
    } while (lstat(e->root, &st) != 0 && e->case_id == NULL); /* gone since */
    c = calloc(1, sizeof *c);
    if (c == NULL) return err_set(reterr, RC_NOMEM, "a case");
    c->root = strdup(e->root);
    c->facility = dup_or_null(e->facility);
    c->document = dup_or_null(e->document);
    c->single = lstat(e->root, &st) == 0 && S_ISREG(st.st_mode);
    c->case_id = case_name(e, c->single);
    if (c->root == NULL || c->case_id == NULL) {
        rc = err_set(reterr, RC_NOMEM, "a case");
    } else if (c->single) {
        rc = file_add(c, base_of(c->root), &st, reterr);
    } else if (lstat(e->root, &st) != 0) {
        bad(c, c->root, "of the case list: no such file or folder");
    } else if (S_ISDIR(st.st_mode)) {
        rc = walk(s, c, "", 0, reterr);
    } else {
        bad(c, c->root, "neither a file nor a folder (a link?)");
    }
    if (rc == RC_OK && name_check_case(slice_of(c->case_id), &why) != RC_OK)
        bad(c, c->case_id, why.msg);
    if (rc == RC_OK && c->files_n > 0) qsort(c->files, c->files_n, sizeof *c->files, by_path);
    if (rc == RC_OK) rc = print_make(c, reterr);
    if (rc != RC_OK) {
        scan_case_free(c);
        return rc;
    }
    *ret = c;
    return RC_OK;
}
