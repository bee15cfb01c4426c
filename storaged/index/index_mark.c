/* storaged/index/index_mark.c - how far RocksDB is known to be durable, told outside of RocksDB.
 *
 * Point-in-time recovery takes a WAL that rots for one that a power cut made end early, and drops
 * what was synced behind the bad place without a word: promises of replicas among it. So each sync
 * is followed by a mark of the sequence number that it covers, in a file of its own; a database
 * that comes back with a lower one lost what was durable.
 *
 * DIR/mikura.synced: two slots of 4 KiB, written in turn, so that a torn one leaves the other:
 * magic 8 `MIKURAW` 1a, CRC32C u32 of the first 32 bytes (this field as zero), zero u32, turn u64,
 * sequence u64. It lies in RocksDB's folder to go where the database goes; RocksDB leaves it alone.
 */
#include "storaged/index/index_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define SLOT_BYTES 4096u
#define MARK_BYTES 32u

static const uint8_t MAGIC[8] = {'M', 'I', 'K', 'U', 'R', 'A', 'W', 0x1a};

static uint32_t slot_crc(const uint8_t p[MARK_BYTES])
{
    static const uint8_t zero[4];

    return crc32c(crc32c(crc32c(0, p, 8), zero, 4), p + 12, MARK_BYTES - 12);
}

static enum rc mark_err(const char *what, struct err *reterr)
{
    int no = errno != 0 ? errno : EIO;

    return err_set(reterr, rc_from_errno(no) == RC_FULL ? RC_FULL : RC_IO,
                   "index: mikura.synced: %s: %s", what, strerror(no));
}

static void mark_path(const char *dir, char *path, size_t n)
{
    (void)snprintf(path, n, "%s/mikura.synced", dir);
}

void mark_remove(const char *dir)
{
    char path[1100];

    mark_path(dir, path, sizeof(path));
    (void)unlink(path); /* one that stays says that rows are lost: they are */
}

enum rc mark_open(struct index *ix, const char *dir, bool read_only, struct err *reterr)
{
    struct mark *m = &ix->mark;
    uint8_t p[2 * SLOT_BYTES] = {0};
    bool good = false, blank = true; /* blank: the file was made, and no mark yet */
    char path[1100];
    ssize_t n;

    mark_path(dir, path, sizeof(path));
    errno = 0;
    m->fd = open(path, read_only ? O_RDONLY | O_CLOEXEC : O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (m->fd < 0) return read_only && errno == ENOENT ? RC_OK : mark_err("open", reterr);
    n = pread(m->fd, p, sizeof(p), 0);
    if (n < 0) return mark_err("read", reterr);
    for (uint32_t i = 0; i < 2; i++) {
        const uint8_t *s = p + i * SLOT_BYTES;

        for (uint32_t k = 0; k < MARK_BYTES; k++)
            blank = blank && s[k] == 0;
        if (memcmp(s, MAGIC, 8) != 0 || le_get32(s + 8) != slot_crc(s)) continue;
        if (good && le_get64(s + 16) < m->turn) continue;
        m->turn = le_get64(s + 16);
        m->seq = le_get64(s + 24);
        good = true;
    }
    m->lost = rocksdb_get_latest_sequence_number(ix->db) < m->seq || (!blank && !good);
    /* new, or from before there were marks: its pages are made now, a sync then only writes */
    if (blank && !read_only &&
        (pwrite(m->fd, p, sizeof(p), 0) != (ssize_t)sizeof(p) || fsync(m->fd) != 0))
        return mark_err("write", reterr);
    return blank && !read_only ? mark_sync(ix, reterr) : RC_OK;
}

void mark_close(struct index *ix)
{
    if (ix->mark.fd >= 0) (void)close(ix->mark.fd); /* each mark was synced */
}

enum rc mark_sync(struct index *ix, struct err *reterr)
{
    struct mark *m = &ix->mark;
    /* before the sync: later ones may not be covered */
    uint64_t seq = rocksdb_get_latest_sequence_number(ix->db);
    uint8_t p[MARK_BYTES] = {0};
    char *e = NULL;
    enum rc rc = RC_OK;

    rocksdb_flush_wal(ix->db, /* sync= */ 1, &e);
    if (e != NULL) return write_rc(ix, e, "sync", reterr);
    CHECK(pthread_mutex_lock(&m->lock) == 0);
    if (m->lost || seq > m->seq) {
        memcpy(p, MAGIC, 8);
        le_put64(p + 16, m->turn + 1);
        le_put64(p + 24, seq);
        le_put32(p + 8, slot_crc(p));
        errno = 0;
        if (pwrite(m->fd, p, sizeof(p), (off_t)((m->turn + 1) % 2 * SLOT_BYTES)) !=
                (ssize_t)sizeof(p) ||
            fdatasync(m->fd) != 0) {
            rc = mark_err("write", reterr);
        } else {
            m->turn++;
            m->seq = seq;
            m->lost = false;
        }
    }
    CHECK(pthread_mutex_unlock(&m->lock) == 0);
    return rc;
}

bool index_lost(struct index *ix)
{
    return ix->mark.lost;
}
