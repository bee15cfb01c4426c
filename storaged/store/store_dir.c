/* storaged/store/store_dir.c - disk.id, LOCK and the mark of damage.
 *
 * disk.id is made whole and durable before anything else is written, and never again: a folder
 * that has data and no disk.id was tampered with or half copied, and is refused. */
#include "storaged/store/store_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define ID_MAGIC   "mikura-disk 1 "
#define ID_MAGIC_N (sizeof(ID_MAGIC) - 1)
#define ID_BYTES   (ID_MAGIC_N + ID128_TEXT_BYTES) /* the text's end is a line feed */
#define DAMAGE_MAX (64u << 10)                     /* of the mark; lines after that add nothing */

static enum rc sys_err(struct err *e, const char *dir, const char *what)
{
    int no = errno;
    enum rc rc = rc_from_errno(no);

    return err_set(e, rc, "disk '%s': %s: %s", dir, what, strerror(no));
}

static enum rc sync_dir(int fd, const char *dir, struct err *reterr)
{
    return fsync(fd) == 0 ? RC_OK : sys_err(reterr, dir, "fsync");
}

static enum rc write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t k = write(fd, p, n);

        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return RC_IO;
        p += k;
        n -= (size_t)k;
    }
    return RC_OK;
}

static enum rc id_bad(const char *dir, struct err *reterr)
{
    return err_set(
        reterr, RC_CORRUPT,
        "disk '%s': disk.id is no disk id: write 'mikura-disk 1 ' into it, then bytes 16 "
        "to 31 of any of its segments in hex",
        dir);
}

static enum rc id_parse(const char *dir, char *text, ssize_t n, struct id128 *ret,
                        struct err *reterr)
{
    if (n >= (ssize_t)ID_MAGIC_N && memcmp(text, "mikura-disk ", 12) == 0 &&
        memcmp(text, ID_MAGIC, ID_MAGIC_N) != 0) {
        return err_set(reterr, RC_PRECOND, "disk '%s' has another format (see disk.id)", dir);
    }
    if (n != (ssize_t)ID_BYTES || memcmp(text, ID_MAGIC, ID_MAGIC_N) != 0 ||
        text[ID_BYTES - 1] != '\n') {
        return id_bad(dir, reterr);
    }
    text[ID_BYTES - 1] = '\0';
    if (!id128_parse(text + ID_MAGIC_N, ret)) {
        return id_bad(dir, reterr);
    }
    return RC_OK;
}

static enum rc id_make(int dir_fd, const char *dir, struct id128 *ret, struct err *reterr)
{
    char text[ID_BYTES + 1], hex[ID128_TEXT_BYTES];
    struct id128 id = id128_random();
    enum rc rc;
    int fd;

    if (faccessat(dir_fd, "segments", F_OK, 0) == 0 || faccessat(dir_fd, "index", F_OK, 0) == 0) {
        return err_set(reterr, RC_PRECOND,
                       "disk '%s' has data and no disk.id: put that back, or empty the folder",
                       dir);
    }
    (void)snprintf(text, sizeof(text), ID_MAGIC "%s\n", id128_text(&id, hex));
    fd = openat(dir_fd, "disk.id.tmp", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return sys_err(reterr, dir, "disk.id");
    rc = write_all(fd, text, ID_BYTES);
    if (rc != RC_OK || fsync(fd) != 0) {
        rc = sys_err(reterr, dir, "disk.id");
        (void)close(fd); /* the write's failure is told */
        return rc;
    }
    if (close(fd) != 0 || renameat(dir_fd, "disk.id.tmp", dir_fd, "disk.id") != 0) {
        return sys_err(reterr, dir, "disk.id");
    }
    rc = sync_dir(dir_fd, dir, reterr);
    if (rc == RC_OK) *ret = id;
    return rc;
}

static enum rc id_load(int dir_fd, const char *dir, struct id128 *ret, struct err *reterr)
{
    char text[ID_BYTES + 1];
    int fd = openat(dir_fd, "disk.id", O_RDONLY | O_CLOEXEC);
    enum rc rc;
    ssize_t n;

    if (fd < 0) {
        return errno == ENOENT ? id_make(dir_fd, dir, ret, reterr)
                               : sys_err(reterr, dir, "disk.id");
    }
    n = read(fd, text, sizeof(text));
    rc = n < 0 ? sys_err(reterr, dir, "disk.id") : id_parse(dir, text, n, ret, reterr);
    (void)close(fd); /* only read */
    return rc;
}

/* The entry of dir in its parent becomes durable. */
static enum rc sync_parent(int dir_fd, const char *dir, struct err *reterr)
{
    int fd = openat(dir_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum rc rc;

    if (fd < 0) return sys_err(reterr, dir, "its parent");
    rc = sync_dir(fd, dir, reterr);
    (void)close(fd); /* only synced */
    return rc;
}

enum rc store_dir_open(const char *dir, int *ret_lock_fd, struct id128 *ret_disk_id,
                       struct err *reterr)
{
    int dir_fd = -1, lock_fd = -1;
    bool made = mkdir(dir, 0700) == 0;
    enum rc rc;

    if (!made && errno != EEXIST) return sys_err(reterr, dir, "mkdir");
    dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0) return sys_err(reterr, dir, "open");
    rc = made ? sync_parent(dir_fd, dir, reterr) : RC_OK;
    if (rc != RC_OK) goto out;
    lock_fd = openat(dir_fd, "LOCK", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock_fd < 0) {
        rc = sys_err(reterr, dir, "LOCK");
        goto out;
    }
    if (flock(lock_fd, LOCK_EX | LOCK_NB) != 0) {
        rc = errno == EWOULDBLOCK
                 ? err_set(reterr, RC_BUSY, "disk '%s' is served by another process", dir)
                 : sys_err(reterr, dir, "flock");
        goto out;
    }
    rc = id_load(dir_fd, dir, ret_disk_id, reterr);
    if (rc != RC_OK) goto out;
    if (mkdirat(dir_fd, "segments", 0700) != 0 && errno != EEXIST) {
        rc = sys_err(reterr, dir, "segments");
        goto out;
    }
    rc = sync_dir(dir_fd, dir, reterr);
    if (rc != RC_OK) goto out;
    *ret_lock_fd = lock_fd;
    lock_fd = -1;
out:
    if (lock_fd >= 0) (void)close(lock_fd);
    (void)close(dir_fd); /* nothing was written through it */
    return rc;
}

enum rc store_dir_lock(const char *dir, int *ret_lock_fd, struct id128 *ret_disk_id,
                       struct err *reterr)
{
    int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), lock_fd;
    enum rc rc;

    if (dir_fd < 0) return sys_err(reterr, dir, "open");
    lock_fd = openat(dir_fd, "LOCK", O_RDONLY | O_CLOEXEC);
    if (lock_fd < 0) {
        rc = errno == ENOENT ? err_set(reterr, RC_NOTFOUND,
                                       "'%s' is no disk of a storaged: it has no LOCK; give the "
                                       "folder that --disks names",
                                       dir)
                             : sys_err(reterr, dir, "LOCK");
        (void)close(dir_fd);
        return rc;
    }
    if (flock(lock_fd, LOCK_EX | LOCK_NB) != 0) {
        rc = errno == EWOULDBLOCK
                 ? err_set(reterr, RC_BUSY,
                           "disk '%s' is served by a running storaged: stop that first", dir)
                 : sys_err(reterr, dir, "flock");
    } else if (faccessat(dir_fd, "disk.id", F_OK, 0) != 0) {
        rc = err_set(reterr, RC_CORRUPT, "disk '%s' has no disk.id", dir);
    } else {
        rc = id_load(dir_fd, dir, ret_disk_id, reterr);
    }
    (void)close(dir_fd); /* nothing was written through it */
    if (rc == RC_OK || rc == RC_CORRUPT) {
        *ret_lock_fd = lock_fd;
    } else {
        (void)close(lock_fd);
    }
    return rc;
}

/* ---- damage ---- */
enum rc store_dir_damage_note(const char *dir, const char *line, struct err *reterr)
{
    int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1;
    enum rc rc = RC_OK;
    struct stat st;

    if (dir_fd < 0) return sys_err(reterr, dir, "open");
    fd = openat(dir_fd, "damaged", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0 || fstat(fd, &st) != 0) {
        rc = sys_err(reterr, dir, "damaged");
        goto out;
    }
    if (st.st_size < (off_t)DAMAGE_MAX) rc = write_all(fd, line, strlen(line));
    if (rc != RC_OK || fsync(fd) != 0) {
        rc = sys_err(reterr, dir, "damaged");
        goto out;
    }
    rc = sync_dir(dir_fd, dir, reterr);
out:
    if (fd >= 0) (void)close(fd); /* synced, or its failure is told */
    (void)close(dir_fd);
    return rc;
}

enum rc store_dir_damage_clear(const char *dir, struct err *reterr)
{
    int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum rc rc;

    if (dir_fd < 0) return sys_err(reterr, dir, "open");
    if (unlinkat(dir_fd, "damaged", 0) != 0 && errno != ENOENT) {
        rc = sys_err(reterr, dir, "damaged");
    } else {
        rc = sync_dir(dir_fd, dir, reterr);
    }
    (void)close(dir_fd);
    return rc;
}

enum rc store_dir_damaged(const char *dir, bool *ret_damaged, struct err *reterr)
{
    int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum rc rc = RC_OK;

    if (dir_fd < 0) return sys_err(reterr, dir, "open");
    if (faccessat(dir_fd, "damaged", F_OK, 0) == 0) {
        *ret_damaged = true;
    } else if (errno == ENOENT) {
        *ret_damaged = false;
    } else {
        rc = sys_err(reterr, dir, "damaged");
    }
    (void)close(dir_fd);
    return rc;
}

enum rc store_dir_index_away(const char *dir, struct err *reterr)
{
    int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum rc rc;

    if (dir_fd < 0) return sys_err(reterr, dir, "open");
    if (faccessat(dir_fd, "segments", F_OK, 0) != 0) { /* not mounted, perhaps */
        rc = err_set(reterr, rc_from_errno(errno),
                     "'%s/segments': %s: there is nothing to make it from", dir, strerror(errno));
    } else if (faccessat(dir_fd, "index", F_OK, 0) != 0) {
        rc = errno == ENOENT ? RC_OK : sys_err(reterr, dir, "index");
    } else if (faccessat(dir_fd, "index.old", F_OK, 0) == 0) {
        rc = err_set(reterr, RC_EXISTS,
                     "'%s/index.old' of an earlier run is there: remove it, or keep it elsewhere",
                     dir);
    } else {
        rc = store_dir_damage_note(dir, "the index was moved away and made again\n", reterr);
        if (rc == RC_OK && renameat(dir_fd, "index", dir_fd, "index.old") != 0)
            rc = sys_err(reterr, dir, "index");
        if (rc == RC_OK) rc = sync_dir(dir_fd, dir, reterr);
    }
    (void)close(dir_fd);
    return rc;
}
