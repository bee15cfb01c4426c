/* computed/worker/models.c - see models.h. A fetch goes to "DIGEST.new" and is renamed when its
 * digest fits: a half one is never found under its name. */
#include "computed/worker/models.h"
#include "common/base/hex.h"
#include "common/base/log.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct models {
    char dir[4096];
    uint64_t bytes_max;
    models_fetch_fn fetch;
    void *data;
    bool busy; /* one fetch at a time: models are few */
    struct fiber_cond changed;
};

static enum rc io(struct err *reterr, const char *what, const char *path)
{
    return err_set(reterr, rc_from_errno(errno), "%s %.300s: %s", what, path, strerror(errno));
}

enum rc models_open(const char *dir, uint64_t bytes_max, models_fetch_fn fetch, void *data,
                    struct models **ret_models, struct err *reterr)
{
    struct models *m;

    if (strlen(dir) > sizeof(m->dir) - 80)
        return err_set(reterr, RC_INVAL, "too long: %.100s", dir);
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) return io(reterr, "folder", dir);
    m = calloc(1, sizeof(*m));
    if (m == NULL) return err_set(reterr, RC_NOMEM, "models");
    (void)snprintf(m->dir, sizeof(m->dir), "%s", dir);
    m->bytes_max = bytes_max;
    m->fetch = fetch;
    m->data = data;
    fiber_cond_init(&m->changed);
    *ret_models = m;
    return RC_OK;
}

void models_close(struct models *m)
{
    free(m);
}

/* ---- on the thread pool ---- */
struct hashing {
    int fd;
    const uint8_t *want;
    enum rc rc;
    struct err err;
};

static void hash_file(void *arg)
{
    struct hashing *h = arg;
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    uint8_t *page = malloc(1 << 16), got[32];
    bool ok = c != NULL && page != NULL && EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1;
    ssize_t n = 0;
    off_t at = 0;

    while (ok && (n = pread(h->fd, page, 1 << 16, at)) > 0) {
        at += n;
        ok = EVP_DigestUpdate(c, page, (size_t)n) == 1;
    }
    ok = ok && EVP_DigestFinal_ex(c, got, NULL) == 1;
    if (!ok)
        h->rc = err_set(&h->err, RC_NOMEM, "hashing a model");
    else if (n < 0)
        h->rc = err_set(&h->err, RC_IO, "reading a model: %s", strerror(errno));
    else if (memcmp(got, h->want, 32) != 0)
        h->rc = err_set(&h->err, RC_CORRUPT, "the model's bytes have another SHA-256");
    EVP_MD_CTX_free(c);
    free(page);
}

static enum rc verify(int fd, const uint8_t sha256[32], struct err *reterr)
{
    struct hashing h = {.fd = fd, .want = sha256};
    enum rc rc = fiber_work(hash_file, &h);

    if (rc != RC_OK) return err_set(reterr, rc, "hashing a model");
    if (h.rc != RC_OK) *reterr = h.err;
    return h.rc;
}

/* ---- the folder ---- */
static bool is_model(const char *name)
{
    return strlen(name) == 64 && strspn(name, "0123456789abcdef") == 64;
}

/* Removes the longest unused files (by access time, which models_get sets) until `room` fits. */
static void make_room(struct models *m, uint64_t room)
{
    for (;;) {
        uint64_t total = 0;
        char oldest[65] = "";
        time_t oldest_s = 0;
        struct dirent *e;
        struct stat st;
        DIR *d = opendir(m->dir);

        if (d == NULL) return;
        while ((e = readdir(d)) != NULL) {
            if (!is_model(e->d_name) || fstatat(dirfd(d), e->d_name, &st, 0) != 0) continue;
            total += (uint64_t)st.st_size;
            if (oldest[0] == '\0' || st.st_mtime < oldest_s) {
                memcpy(oldest, e->d_name, 65); /* is_model: 64 digits and the end */
                oldest_s = st.st_mtime;
            }
        }
        if (total + room <= m->bytes_max || oldest[0] == '\0' ||
            unlinkat(dirfd(d), oldest, 0) != 0) {
            (void)closedir(d);
            return;
        }
        (void)closedir(d);
        log_info("model_evicted", "sha256=%s", oldest);
    }
}

static enum rc fetch_new(struct models *m, const char *path, const uint8_t sha256[32],
                         struct err *reterr)
{
    char fresh[4300];
    struct stat st;
    enum rc rc;
    int fd;

    (void)snprintf(fresh, sizeof(fresh), "%s.new", path);
    fd = open(fresh, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return io(reterr, "file", fresh);
    rc = m->fetch(m->data, sha256, fd, reterr);
    if (rc == RC_OK) rc = verify(fd, sha256, reterr);
    if (rc == RC_OK && fstat(fd, &st) == 0) make_room(m, (uint64_t)st.st_size);
    if (rc == RC_OK && rename(fresh, path) != 0) rc = io(reterr, "file", path);
    if (rc != RC_OK) (void)unlink(fresh); /* the next fetch truncates it anyway */
    (void)close(fd);
    return rc;
}

enum rc models_get(struct models *m, const uint8_t sha256[32], int *ret_fd, struct err *reterr)
{
    char path[4200], hex[65];
    enum rc rc = RC_OK;
    int fd;

    hex_encode(sha256, 32, hex);
    (void)snprintf(path, sizeof(path), "%s/%s", m->dir, hex);
    while (m->busy)
        fiber_cond_wait(&m->changed);
    m->busy = true;
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && verify(fd, sha256, reterr) != RC_OK) {
        log_warn("model_cache_bad", "sha256=%s: fetched again", hex);
        (void)close(fd);
        fd = -1;
    }
    if (fd < 0) {
        rc = fetch_new(m, path, sha256, reterr);
        if (rc == RC_OK) {
            fd = open(path, O_RDONLY | O_CLOEXEC);
            if (fd < 0) rc = io(reterr, "file", path);
        }
    }
    if (rc == RC_OK) {
        (void)utimensat(AT_FDCWD, path, NULL, 0); /* used now; only eviction's order hangs on it */
        *ret_fd = fd;
    }
    m->busy = false;
    fiber_cond_broadcast(&m->changed);
    return rc;
}
