/* common/image/source.c - sources over memory and files, and the checked read. */
#include "common/image/image_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum rc image_source_read(const struct image_source *src, uint64_t off, void *buf, size_t n,
                          struct err *reterr)
{
    if (off > src->size || n > src->size - off) {
        return err_set(reterr, RC_CORRUPT,
                       "ends early: %zu bytes needed at offset %llu, the object has %llu", n,
                       (unsigned long long)off, (unsigned long long)src->size);
    }
    if (n == 0) return RC_OK;
    return src->read(src->ctx, off, buf, n, reterr);
}

static enum rc mem_read(void *ctx, uint64_t off, void *buf, size_t n, struct err *reterr)
{
    const struct image_source_mem *m = ctx;

    if (off > m->n || n > m->n - off) return err_set(reterr, RC_RANGE, "past the end");
    memcpy(buf, m->p + off, n);
    return RC_OK;
}

void image_source_mem_init(struct image_source_mem *m, const void *p, size_t n,
                           struct image_source *ret_src)
{
    m->p = p;
    m->n = n;
    *ret_src = (struct image_source){.ctx = m, .size = n, .read = mem_read};
}

/* The descriptor travels in ctx itself, plus one so that 0 is not NULL. */
static int file_fd(const void *ctx)
{
    return (int)(intptr_t)ctx - 1;
}

static enum rc file_read(void *ctx, uint64_t off, void *buf, size_t n, struct err *reterr)
{
    size_t at = 0;

    while (at < n) {
        ssize_t got = pread(file_fd(ctx), (char *)buf + at, n - at, (off_t)(off + at));

        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return err_set(reterr, rc_from_errno(errno), "read: %s", strerror(errno));
        if (got == 0) return err_set(reterr, RC_IO, "the file became shorter while it was read");
        at += (size_t)got;
    }
    return RC_OK;
}

enum rc image_source_file_open(const char *path, struct image_source *ret_src, struct err *reterr)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) return err_set(reterr, rc_from_errno(errno), "'%s': %s", path, strerror(errno));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        (void)close(fd); /* nothing was written */
        return err_set(reterr, RC_INVAL, "'%s' is not a regular file", path);
    }
    *ret_src = (struct image_source){
        .ctx = (void *)(intptr_t)(fd + 1), .size = (uint64_t)st.st_size, .read = file_read};
    return RC_OK;
}

void image_source_file_close(struct image_source *src)
{
    if (src->ctx != NULL) (void)close(file_fd(src->ctx)); /* nothing was written */
    src->ctx = NULL;
}
