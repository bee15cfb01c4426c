/* storaged/index/index_room.c - RocksDB on a file system that somebody else fills.
 *
 * RocksDB stops all writes after the first that met ENOSPC (a flush, a compaction, the manifest,
 * the WAL), and goes on only when told to. So no write begins while there is less room than
 * room.least_bytes (RC_FULL: nothing was written, ask again), and the first one that finds room
 * again resumes the database: it writes all its memtables out and begins a new WAL, so that nothing
 * ever follows a torn record.
 *
 * What can't be resumed: a WAL whose own write met ENOSPC while every memtable was empty. RocksDB
 * makes no new one then, and its next write to the torn one ends the process (Debian builds it with
 * its assertions). That takes somebody who eats least_bytes between our look and the write; it is
 * RC_IO, and the disk is out until the next start. */
#include "common/base/clock.h"
#include "common/base/fsroom.h"
#include "storaged/index/index_priv.h"
#include <sys/statvfs.h>

/* RocksDB tells of an error a moment before it takes note of it itself */
#define SETTLE_US 50000u

static void on_full(void *ctx, int of_wal)
{
    struct room *r = ctx;

    if (of_wal) __atomic_store_n(&r->of_wal, true, __ATOMIC_RELAXED);
    __atomic_store_n(&r->good_until_us, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&r->full_at_us, MAX(clock_boot_us(), (uint64_t)1), __ATOMIC_RELEASE);
}

void room_init(struct index *ix)
{
    CHECK(pthread_mutex_init(&ix->room.lock, NULL) == 0);
    resume_listen(ix->opts, on_full, &ix->room);
}

void room_deinit(struct index *ix)
{
    (void)pthread_mutex_destroy(&ix->room.lock);
}

void index_room_keep(struct index *ix, uint64_t bytes)
{
    if (ix->spares != NULL) spares_end(ix->spares);
    __atomic_store_n(&ix->room.least_bytes, bytes, __ATOMIC_RELAXED);
}

void room_met_full(struct index *ix)
{
    if (__atomic_load_n(&ix->room.full_at_us, __ATOMIC_ACQUIRE) == 0) on_full(&ix->room, false);
}

static bool is_there(struct index *ix, uint64_t now_us)
{
    uint64_t least = __atomic_load_n(&ix->room.least_bytes, __ATOMIC_RELAXED), left;
    struct statvfs s;

    if (least == 0 || now_us < __atomic_load_n(&ix->room.good_until_us, __ATOMIC_RELAXED))
        return true;
    if (statvfs(ix->dir, &s) != 0) return true;
    left = (uint64_t)s.f_bavail * s.f_frsize;
    if (left < least) return false;
    __atomic_store_n(&ix->room.good_until_us, now_us + fsroom_hold_us(left - least),
                     __ATOMIC_RELAXED);
    return true;
}

static bool memtables_empty(struct index *ix)
{
    uint64_t n = 0;

    for (int i = 0; i < CF_N; i++) {
        if (rocksdb_property_int_cf(ix->db, ix->cf[i], "rocksdb.num-entries-active-mem-table",
                                    &n) != 0 ||
            n > 0)
            return false;
    }
    return true;
}

static enum rc resume(struct index *ix, struct err *reterr)
{
    struct room *r = &ix->room;
    char msg[160] = "";
    int got;

    if (r->broken) return err_set(reterr, RC_IO, "index: its WAL met a full file system");
    if (__atomic_load_n(&r->of_wal, __ATOMIC_RELAXED) && r->bad_wal == 0)
        r->bad_wal = resume_wal(ix->db);
    if (r->bad_wal != 0 && r->bad_wal == resume_wal(ix->db) && memtables_empty(ix)) {
        r->broken = true;
        return err_set(reterr, RC_IO, "index: its WAL met a full file system");
    }
    __atomic_store_n(&r->full_at_us, 0, __ATOMIC_RELEASE);
    got = resume_now(ix->db, msg, sizeof(msg));
    if (r->bad_wal != 0 && r->bad_wal != resume_wal(ix->db)) {
        r->bad_wal = 0;
        __atomic_store_n(&r->of_wal, false, __ATOMIC_RELAXED);
    }
    if (got == 0) return RC_OK;
    on_full(r, false);
    if (got == 1) return err_set(reterr, RC_FULL, "index: %s", msg);
    r->broken = true;
    return err_set(reterr, RC_IO, "index: can't go on after ENOSPC: %s", msg);
}

enum rc room_check(struct index *ix, struct err *reterr)
{
    struct room *r = &ix->room;
    uint64_t at_us = __atomic_load_n(&r->full_at_us, __ATOMIC_ACQUIRE), now_us = clock_boot_us();
    enum rc rc = RC_OK;

    if (!is_there(ix, now_us) || (at_us != 0 && now_us < at_us + SETTLE_US))
        return err_set(reterr, RC_FULL, "index: the file system is full");
    if (at_us == 0) return RC_OK;
    CHECK(pthread_mutex_lock(&r->lock) == 0);
    if (__atomic_load_n(&r->full_at_us, __ATOMIC_ACQUIRE) != 0) rc = resume(ix, reterr);
    CHECK(pthread_mutex_unlock(&r->lock) == 0);
    return rc;
}
