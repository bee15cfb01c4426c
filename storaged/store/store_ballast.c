/* storaged/store/store_ballast.c - room that only a start takes, for a file system that somebody
 * else filled. RocksDB can't be opened without: it makes a manifest and a WAL, and writes what is
 * in the last WAL to tables.
 *
 * DIR/spare/: files of allocated blocks (nothing was ever written to them), which an open on a file
 * system with less room than the ballast takes for the files that it makes (index_conf.spares).
 * They never go back to the file system before that, so nobody else can take them; they are made
 * again before all else, with the blocks of the files that the new ones stand for. So a disk that
 * stays full can be started as often as one likes.
 *
 * DIR/ballast: one such file, for the tables of a WAL as large as it may be. It is given back by a
 * start that has rows to write, not by one that only opens. It is made again when there is room,
 * and until then the index takes no rows that would need it (store.c, room_keep).
 *
 * Not covered: who takes what the ballast gave back before RocksDB does; a new name that ext4 has
 * no place for in the blocks of index/ (a folder of more than a hundred files, a block of which is
 * full). Then the open is RC_FULL, and the next one tries again. */
#include "storaged/store/store_priv.h"
#include "storaged/index/index.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static const char BALLAST[] = "ballast", SPARE[] = "spare";

static int dir_open(int at_fd, const char *dir)
{
    return openat(at_fd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

void store_ballast_drop(const char *dir)
{
    int dir_fd = dir_open(AT_FDCWD, dir);

    if (dir_fd < 0) return; /* what needs the room tells */
    /* ext4 gives blocks away again after its commit: the fsync waits for that */
    if (unlinkat(dir_fd, BALLAST, 0) == 0) (void)fsync(dir_fd);
    (void)close(dir_fd);
}

static bool blocks_there(int dir_fd, const char *name, uint64_t bytes)
{
    struct stat st;

    return fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
           (uint64_t)st.st_blocks * 512 >= bytes;
}

/* A file of that many bytes in blocks, all behind its end. false: there is no room for it. */
static bool blocks_make(int dir_fd, const char *name, uint64_t bytes)
{
    struct statvfs fs;
    bool made;
    int fd;

    if (blocks_there(dir_fd, name, bytes)) return true;
    /* what a failed try took is not free before ext4's next commit */
    if (fstatvfs(dir_fd, &fs) != 0 || (uint64_t)fs.f_bavail * fs.f_frsize < bytes) return false;
    fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return false;
    made = fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes) == 0;
    (void)close(fd);                            /* nothing was written */
    if (!made) (void)unlinkat(dir_fd, name, 0); /* made at another time */
    return made;
}

bool store_ballast_there(const char *dir, uint64_t bytes)
{
    int dir_fd = dir_open(AT_FDCWD, dir);
    bool there = dir_fd >= 0 && blocks_there(dir_fd, BALLAST, bytes);

    if (dir_fd >= 0) (void)close(dir_fd);
    return there;
}

bool store_ballast_make(const char *dir, uint64_t bytes)
{
    int dir_fd = dir_open(AT_FDCWD, dir);
    bool there = dir_fd >= 0 && blocks_make(dir_fd, BALLAST, bytes);

    if (dir_fd >= 0) (void)close(dir_fd);
    return there;
}

static const struct spare_kind {
    const char *kind;
    uint32_t n, least_n; /* least: one manifest; WAL, CURRENT and a table of each small family */
} KINDS[] = {{"large", INDEX_SPARES_LARGE, 1}, {"small", INDEX_SPARES_SMALL, 8}};

static bool spare_each(const char *dir, bool (*fn)(int fd, const char *name, uint64_t bytes),
                       const uint64_t bytes[2], uint32_t ret_n[2])
{
    int dir_fd = dir_open(AT_FDCWD, dir), fd = -1;
    bool all = true;

    if (dir_fd < 0) return false;
    if (mkdirat(dir_fd, SPARE, 0700) == 0 || errno == EEXIST) fd = dir_open(dir_fd, SPARE);
    (void)close(dir_fd);
    if (fd < 0) return false;
    for (uint32_t k = 0; k < ARRAY_N(KINDS); k++) {
        for (uint32_t i = 0; i < KINDS[k].n; i++) {
            char name[24];

            (void)snprintf(name, sizeof(name), "%s-%u", KINDS[k].kind, i);
            if (fn(fd, name, bytes[k])) {
                ret_n[k]++;
            } else {
                all = false;
            }
        }
    }
    all = all && fsync(fd) == 0; /* of all that were made: one commit */
    (void)close(fd);
    return all;
}

bool store_spares_make(const char *dir, uint64_t large_bytes)
{
    uint32_t n[2] = {0};

    return spare_each(dir, blocks_make, (uint64_t[]){large_bytes, STORE_SPARE_BYTES}, n);
}

bool store_spares_enough(const char *dir)
{
    uint32_t n[2] = {0};

    (void)spare_each(dir, blocks_there, (uint64_t[]){1, 1}, n);
    return n[0] >= KINDS[0].least_n && n[1] >= KINDS[1].least_n;
}
