/* gateway/cli/cases.c - see cases.h. */
#include "gateway/cli/cases.h"
#include "common/image/image.h"
#include "gateway/ingest/name.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEPTH_MAX 64

void cases_init(struct cases *cs)
{
    *cs = (struct cases){0};
}

void cases_deinit(struct cases *cs)
{
    for (size_t i = 0; i < cs->n; i++) {
        free(cs->files[i].file);
        free(cs->files[i].case_id);
        free(cs->files[i].path);
        free(cs->files[i].refused);
    }
    free(cs->files);
    cases_init(cs);
}

static struct case_file *file_new(struct cases *cs, const char *file)
{
    struct case_file *f;

    if (cs->n == cs->cap) {
        size_t cap = MAX(cs->cap * 2, 64u);
        struct case_file *p = realloc(cs->files, cap * sizeof *p);

        if (p == NULL) return NULL;
        cs->files = p;
        cs->cap = cap;
    }
    f = &cs->files[cs->n];
    *f = (struct case_file){.file = strdup(file)};
    if (f->file == NULL) return NULL;
    cs->n++;
    return f;
}

static enum rc nomem(struct err *reterr)
{
    return err_set(reterr, RC_NOMEM, "a list of files");
}

static enum rc refuse(struct cases *cs, struct case_file *f, const char *why, struct err *reterr)
{
    if (f->refused != NULL) return RC_OK;
    f->refused = strdup(why);
    if (f->refused == NULL) return nomem(reterr);
    cs->refused_n++;
    cs->bytes -= f->case_id == NULL ? 0 : f->size_bytes;
    return RC_OK;
}

enum rc cases_refuse(struct cases *cs, size_t idx, const char *why, struct err *reterr)
{
    return refuse(cs, &cs->files[idx], why, reterr);
}

static enum rc refuse_new(struct cases *cs, const char *file, const char *why, struct err *reterr)
{
    struct case_file *f = file_new(cs, file);

    return f == NULL ? nomem(reterr) : refuse(cs, f, why, reterr);
}

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

/* The case of a file that is no DICOM: rel is its path below the folder given. */
static char *case_of_place(const char *rel)
{
    const char *base = base_of(rel), *dot = strrchr(base, '.');
    char *name;

    if (base == rel) {
        return dot == NULL || dot == base ? strdup(base) : strndup(base, (size_t)(dot - base));
    }
    name = strndup(rel, (size_t)(base - rel) - 1);
    for (char *at = name; at != NULL && *at != 0; at++)
        if (*at == '/') *at = '~';
    return name;
}

/* A study's UID, or "" when the file is no DICOM that tells one. */
static enum rc study_of(const char *file, char study[65], struct err *reterr)
{
    struct image_dicom_ids ids;
    struct image_source src;
    struct err e = {0};
    enum rc rc = image_source_file_open(file, &src, reterr);

    if (rc != RC_OK) return rc;
    study[0] = 0;
    /* broken DICOM is stored like any file: whether it can be analysed is said later */
    if (image_dicom_ids(&src, &ids, &e) == RC_OK) memcpy(study, ids.study, 65);
    image_source_file_close(&src);
    return RC_OK;
}

static enum rc file_add(struct cases *cs, const char *file, const char *rel, const struct stat *st,
                        const char *case_name, struct err *reterr)
{
    struct case_file *f = file_new(cs, file);
    struct err why = {0};
    char study[65] = "";
    enum rc rc;

    if (f == NULL) return nomem(reterr);
    if (case_name == NULL) {
        rc = study_of(file, study, &why);
        if (rc == RC_NOMEM) return nomem(reterr);
        if (rc != RC_OK) return refuse(cs, f, why.msg, reterr);
    }
    f->size_bytes = (uint64_t)st->st_size;
    f->mtime_ns = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
    f->ino = st->st_ino;
    f->case_id = case_name != NULL ? strdup(case_name)
                 : study[0] != 0   ? strdup(study)
                                   : case_of_place(rel);
    f->path = strdup(case_name != NULL || study[0] != 0 ? rel : base_of(rel));
    if (f->case_id == NULL || f->path == NULL) return nomem(reterr);
    cs->bytes += f->size_bytes;
    rc = name_check_path((struct slice){(const uint8_t *)f->path, strlen(f->path)}, &why);
    if (rc == RC_OK) {
        rc = name_check_case((struct slice){(const uint8_t *)f->case_id, strlen(f->case_id)}, &why);
    }
    if (rc == RC_NOMEM) return nomem(reterr);
    return rc == RC_OK ? RC_OK : refuse(cs, f, why.msg, reterr);
}

static enum rc entry_add(struct cases *cs, const char *file, const char *rel, const char *case_name,
                         unsigned depth, struct err *reterr);

static int dirent_cmp(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int dirent_real(const struct dirent *d)
{
    return strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0;
}

static enum rc dir_add(struct cases *cs, const char *dir, const char *rel, const char *case_name,
                       unsigned depth, struct err *reterr)
{
    struct dirent **list = NULL;
    int n = scandir(dir, &list, dirent_real, dirent_cmp);
    enum rc rc = RC_OK;

    if (n < 0) {
        if (depth == 0) {
            return err_set(reterr, rc_from_errno(errno), "folder '%s': %s", dir, strerror(errno));
        }
        return refuse_new(cs, dir, strerror(errno), reterr);
    }
    for (int i = 0; i < n; i++) {
        char *file = NULL, *sub = NULL;

        if (rc == RC_OK &&
            (asprintf(&file, "%s/%s", dir, list[i]->d_name) < 0 ||
             asprintf(&sub, "%s%s%s", rel, rel[0] == 0 ? "" : "/", list[i]->d_name) < 0)) {
            rc = nomem(reterr);
        }
        if (rc == RC_OK) rc = entry_add(cs, file, sub, case_name, depth + 1, reterr);
        free(file);
        free(sub);
        free(list[i]);
    }
    free(list);
    return rc;
}

static enum rc entry_add(struct cases *cs, const char *file, const char *rel, const char *case_name,
                         unsigned depth, struct err *reterr)
{
    struct stat st, link;

    if (stat(file, &st) != 0) return refuse_new(cs, file, strerror(errno), reterr);
    if (S_ISREG(st.st_mode)) return file_add(cs, file, rel, &st, case_name, reterr);
    if (!S_ISDIR(st.st_mode)) {
        return refuse_new(cs, file, "neither a file nor a folder", reterr);
    }
    if (depth >= DEPTH_MAX) return refuse_new(cs, file, "folders nested too deep", reterr);
    if (lstat(file, &link) == 0 && S_ISLNK(link.st_mode)) {
        return refuse_new(cs, file, "a link to a folder: put that folder itself", reterr);
    }
    return dir_add(cs, file, rel, case_name, depth, reterr);
}

enum rc cases_add(struct cases *cs, const char *arg, const char *case_name, struct err *reterr)
{
    size_t n = strlen(arg);
    struct stat st;
    char *dir;
    enum rc rc;

    if (stat(arg, &st) != 0) {
        return err_set(reterr, rc_from_errno(errno), "'%s': %s", arg, strerror(errno));
    }
    if (!S_ISDIR(st.st_mode)) return entry_add(cs, arg, base_of(arg), case_name, 0, reterr);
    while (n > 1 && arg[n - 1] == '/')
        n--;
    dir = strndup(arg, n);
    if (dir == NULL) return nomem(reterr);
    rc = dir_add(cs, dir, "", case_name, 0, reterr);
    free(dir);
    return rc;
}

static int file_cmp(const void *a, const void *b)
{
    const struct case_file *x = a, *y = b;
    int d;

    if ((x->refused != NULL) != (y->refused != NULL)) return x->refused != NULL ? 1 : -1;
    if (x->refused != NULL) return strcmp(x->file, y->file);
    d = strcmp(x->case_id, y->case_id);
    if (d == 0) d = strcmp(x->path, y->path);
    return d != 0 ? d : strcmp(x->file, y->file);
}

/* The folder of a file, as bytes before its last slash. */
static size_t folder_n(const char *file)
{
    return (size_t)(base_of(file) - file);
}

enum rc cases_sort(struct cases *cs, struct err *reterr)
{
    enum rc rc = RC_OK;

    if (cs->n == 0) return RC_OK;
    qsort(cs->files, cs->n, sizeof *cs->files, file_cmp);
    for (size_t i = 1; rc == RC_OK && i < cs->n; i++) {
        struct case_file *a = &cs->files[i - 1], *b = &cs->files[i];
        char why[600];

        if (b->refused != NULL) break;
        if (strcmp(a->case_id, b->case_id) != 0 || strcmp(a->path, b->path) != 0) continue;
        if (strcmp(a->file, b->file) == 0) {
            (void)snprintf(why, sizeof why, "given twice");
        } else {
            (void)snprintf(why, sizeof why,
                           "'%.200s' has the same case and path: put them apart, with --case",
                           a->file);
        }
        /* the earlier file of the name stays; compare later ones with it */
        rc = refuse(cs, b, why, reterr);
        if (rc == RC_OK) {
            struct case_file gone = *b;

            memmove(&cs->files[i], &cs->files[i + 1], (cs->n - i - 1) * sizeof *b);
            cs->files[cs->n - 1] = gone;
            i--;
        }
    }
    /* "a/b" and "a~b" */
    for (size_t i = 1; rc == RC_OK && i < cs->n; i++) {
        struct case_file *a = &cs->files[i - 1], *b = &cs->files[i];
        struct case_file gone;

        if (b->refused != NULL) break;
        if (strcmp(a->case_id, b->case_id) != 0 || strchr(b->case_id, '~') == NULL ||
            strchr(a->path, '/') != NULL || strchr(b->path, '/') != NULL)
            continue;
        if (folder_n(a->file) == folder_n(b->file) &&
            memcmp(a->file, b->file, folder_n(a->file)) == 0)
            continue;
        rc = refuse(cs, b, "another folder has the same case name: put it apart, with --case",
                    reterr);
        if (rc != RC_OK) break;
        gone = *b;
        memmove(&cs->files[i], &cs->files[i + 1], (cs->n - i - 1) * sizeof *b);
        cs->files[cs->n - 1] = gone;
        i--;
    }
    return rc;
}
