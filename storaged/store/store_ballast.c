/* storaged/store/store_ballast.c - DIR/ballast: room that only a start takes.
 *
 * RocksDB can't be opened on a full file system: it writes what is in its WAL to tables, and a new
 * manifest. The segments leave room for that, but somebody else may have filled it. So a file of
 * allocated blocks (never written, nothing is in it) lies beside the index; a start that finds less
 * room than that gives them back first, and reads are served. It is made again when there is more
 * room than the index may ever want.
 *
 * Not covered: who takes what the ballast gave back before RocksDB does, or a second start on a
 * disk that is still full after the first one used it up. Then the open is RC_FULL. */
#include "storaged/store/store_priv.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static const char NAME[] = "ballast";

static int dir_open(const char *dir)
{
    return open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

void store_ballast_drop(const char *dir)
{
    int dir_fd = dir_open(dir);

    if (dir_fd < 0) return; /* what needs the room tells */
    /* ext4 gives blocks away again after its commit: the fsync waits for that */
    if (unlinkat(dir_fd, NAME, 0) == 0) (void)fsync(dir_fd);
    (void)close(dir_fd);
}

bool store_ballast_make(const char *dir, uint64_t bytes)
{
    int dir_fd = dir_open(dir), fd;
    struct stat st;
    bool there = false;

    if (dir_fd < 0) return false;
    fd = openat(dir_fd, NAME, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) {
        there = fstat(fd, &st) == 0 && (uint64_t)st.st_blocks * 512 >= bytes;
        if (!there) there = fallocate(fd, 0, 0, (off_t)bytes) == 0;
        (void)close(fd);                             /* nothing was written */
        if (!there) (void)unlinkat(dir_fd, NAME, 0); /* made at another time */
    }
    (void)close(dir_fd);
    return there;
}
