/* storaged/io/disk.h - files of one disk behind one interface: io_uring, threads, or memory.
 *
 * Engines: io_uring (O_DIRECT; the arena of aligned buffers registered where RLIMIT_MEMLOCK allows;
 * requests prepared in callbacks, submitted once per loop iteration), threads with pread/pwrite
 * where io_uring is refused, and memory with a crash model for tests. A file system without
 * O_DIRECT is refused.
 *
 * A write, flush or creation that fails (ENOSPC of a creation excepted) marks the disk failed for
 * good: from then on every write, sync and create is RC_IO; reads are still tried.
 *
 * All belongs to the loop that opened it. Requests are the caller's memory until their callback,
 * which fires exactly once and never inside the call that started it. Offsets, lengths and buffers
 * are multiples of DISK_ALIGN_BYTES. */
#pragma once
#include "common/base/id128.h"
#include "common/base/list.h"
#include "common/base/rc.h"

#define DISK_ALIGN_BYTES   4096u
#define DISK_NAME_BYTES    64u
#define DISK_REQUESTS_MAX  4096u /* accepted and not yet answered */
#define DISK_RING_DEPTH    256u
#define DISK_THREADS       4u
#define DISK_ARENA_DEFAULT (64u << 20) /* 8 chunks of 8 MiB in flight */

struct uv_loop_s;
struct disk;
struct disk_file;
struct disk_mem; /* what a memory disk holds; outlives its struct disk */

enum disk_engine { DISK_AUTO, DISK_URING, DISK_PREAD, DISK_MEMORY };
struct disk_conf {
    struct uv_loop_s *loop;
    const char *dir;         /* must exist; not for DISK_MEMORY */
    enum disk_engine engine; /* AUTO: io_uring, else threads */
    size_t arena_bytes;      /* 0 = DISK_ARENA_DEFAULT */
    struct disk_mem *mem;    /* DISK_MEMORY */
    bool read_only;          /* nothing is made, written or removed; not for DISK_MEMORY */
};
struct disk_req;
typedef void (*disk_cb)(struct disk_req *req, enum rc rc);
struct disk_req {
    void *data;     /* caller's */
    struct err err; /* out: when rc != RC_OK */
    struct disk_req_priv {
        struct list link;
        struct disk_file *file;
        struct disk *disk;
        disk_cb cb;
        enum {
            DISK_OP_READ,
            DISK_OP_WRITE,
            DISK_OP_SYNC,
            DISK_OP_CREATE,
            DISK_OP_OPEN,
            DISK_OP_REMOVE,
            DISK_OP_DEFER
        } op;
        uint8_t *buf;
        size_t n, done;
        uint64_t at;
        enum rc rc;
        uint64_t not_before_ms; /* of the loop's clock, by disk_inject_slow */
        int injected;           /* errno to answer with, by disk_inject */
        struct disk_file **ret_file;
        char name[DISK_NAME_BYTES];
        uint64_t file_bytes, zero_bytes;
        bool hurry; /* atomic: the worker looks */
    } priv;
};

/* Blocking. RC_PRECOND: no O_DIRECT here (err says what to do). RC_IO, RC_NOMEM, RC_NOTFOUND. */
MUST_CHECK enum rc disk_open(const struct disk_conf *conf, struct disk **ret_disk,
                             struct err *reterr);
/* What was not begun completes RC_CANCELED, what runs is waited for; then cb, then all is freed.
 * Files must not be closed before; they are closed with it. */
void disk_close(struct disk *d, void (*cb)(void *data), void *data);
const char *disk_engine_name(const struct disk *d); /* "io_uring", "pread", "memory" */
const char *
disk_engine_reason(const struct disk *d); /* why this one; buffers registered or why not */
/* RC_OK, or RC_IO with the first failure in *reterr. */
MUST_CHECK enum rc disk_state(const struct disk *d, struct err *reterr);
/* Mark it failed (a checker above found it lying). */
void disk_fail(struct disk *d, const char *why);
/* Of the file system, as of at most 10 ms ago (common/base/fsroom.h). RC_IO. */
MUST_CHECK enum rc disk_space(struct disk *d, uint64_t *ret_total, uint64_t *ret_free);

/* Aligned memory from the disk's arena, for payloads as for own use; any size up to the arena.
 * NULL: no room in one piece (answer RC_BUSY). Contents are undefined. Where it lies: buffers.h. */
void *disk_buf_alloc(struct disk *d, size_t bytes);
void disk_buf_free(struct disk *d, void *p); /* NULL is fine */
size_t disk_buf_used(const struct disk *d);
struct disk_load {
    uint64_t requests_n, running_n; /* accepted and not answered yet; of these, begun */
    uint64_t arena_used, arena_bytes;
    uint64_t merged_n; /* writes since open that went with the one before them */
};
void disk_load(const struct disk *d, struct disk_load *ret);

/* Blocking: start-up only. */
/* Calls fn for each file name; RC_IO, or what fn returned. */
MUST_CHECK enum rc disk_list(struct disk *d, enum rc (*fn)(void *ctx, const char *name), void *ctx,
                             struct err *reterr);
MUST_CHECK enum rc disk_file_open(struct disk *d, const char *name, struct disk_file **ret_file,
                                  uint64_t *ret_bytes, struct err *reterr);
/* RC_NOTFOUND, RC_IO. */
MUST_CHECK enum rc disk_file_bytes(struct disk *d, const char *name, uint64_t *ret_bytes);
void disk_file_close(struct disk_file *f); /* no request may be under way */
MUST_CHECK enum rc disk_read_now(struct disk_file *f, uint64_t at, void *p, size_t n,
                                 struct err *reterr);
MUST_CHECK enum rc disk_write_sync_now(struct disk_file *f, uint64_t at, const void *p, size_t n,
                                       struct err *reterr);
/* Give back what lies behind. Durable. */
MUST_CHECK enum rc disk_truncate_now(struct disk_file *f, uint64_t bytes, struct err *reterr);
MUST_CHECK enum rc disk_remove_now(struct disk *d, const char *name, struct err *reterr);

/* Requests. RC_BUSY (DISK_REQUESTS_MAX), RC_IO (the disk is out): cb will not fire.
 * Completes RC_OK (all n bytes), RC_IO, RC_RANGE (read past the end), RC_CANCELED. */
MUST_CHECK enum rc disk_read(struct disk_file *f, struct disk_req *req, uint64_t at, void *p,
                             size_t n, disk_cb cb);
MUST_CHECK enum rc disk_write(struct disk_file *f, struct disk_req *req, uint64_t at, const void *p,
                              size_t n, disk_cb cb);
/* fdatasync: what was written (completed) before is durable. */
MUST_CHECK enum rc disk_sync(struct disk_file *f, struct disk_req *req, disk_cb cb);
/* A new file of `bytes` (preallocated, reads as zero) that begins with page (DISK_ALIGN_BYTES,
 * borrowed until cb). It appears under its name whole and durable, or not at all. Also RC_FULL: no
 * space, nothing is damaged.
 * Its first zero_bytes are written with zeros, and all of it where the disk does that by itself:
 * a flush of what was never written commits the file system's journal too, and takes 2 to 6 times
 * as long (ext4; tests/bench/disk/RESULTS.md). Written slowly, beside other requests, at a quarter
 * of the disk's time, until disk_create_hurry; the rest is left as it is then. */
MUST_CHECK enum rc disk_create(struct disk *d, struct disk_req *req, const char *name,
                               uint64_t bytes, uint64_t zero_bytes, const void *page,
                               struct disk_file **ret_file, disk_cb cb);
/* The file is wanted now. Of a creation that is under way. */
void disk_create_hurry(struct disk_req *req);
/* A file that exists. Completes RC_OK, RC_NOTFOUND, RC_NOMEM (descriptors too), RC_IO: the disk is
 * not marked failed. */
MUST_CHECK enum rc disk_open_file(struct disk *d, struct disk_req *req, const char *name,
                                  struct disk_file **ret_file, disk_cb cb);
/* Durable when told; OK when there is none. Nobody has it open. */
MUST_CHECK enum rc disk_remove(struct disk *d, struct disk_req *req, const char *name, disk_cb cb);

/* cb from the loop, soon, with RC_OK; whatever the disk's state. Not after disk_close. */
void disk_defer(struct disk *d, struct disk_req *req, disk_cb cb);

/* ---- tests ---- */
/* The n-th request or blocking call from now (1 = the next) fails with errno; 0: none does. */
void disk_inject(struct disk *d, uint64_t n, int err);
uint64_t disk_inject_left(const struct disk *d); /* 0: it has failed, or none was to */
/* The same, counting only what takes a disk out: writes, flushes, creations, removals. */
void disk_inject_write(struct disk *d, uint64_t n, int err);
/* Each request begins that much later; 0 = at once again. */
void disk_inject_slow(struct disk *d, uint64_t ms);
uint64_t disk_requests(const struct disk *d); /* begun since open */
/* seed: the order in which requests run, how many a loop iteration, what a crash leaves. */
struct disk_mem *disk_mem_new(uint64_t seed, uint64_t capacity_bytes);
void disk_mem_free(struct disk_mem *m);
enum disk_crash {
    DISK_CRASH_KEPT,
    DISK_CRASH_LOST,
    DISK_CRASH_TORN512,
    DISK_CRASH_TORN4K,
    DISK_CRASH_REORDERED
};
/* Power is cut: whatever has not run yet completes RC_CANCELED and leaves no trace. */
void disk_mem_cut(struct disk_mem *m);
/* Power fails at the n-th blocking write, truncation or removal from now: it takes place or not, a
 * write without its sync; it and all later ones are RC_IO. */
void disk_mem_cut_at(struct disk_mem *m, uint64_t n);
/* fn is called before each request that is carried out: a boundary at which power may fail. */
void disk_mem_watch(struct disk_mem *m, void (*fn)(void *ctx), void *ctx);
/* All that is there, with what is not synced; nobody watches it. NULL: out of memory. */
struct disk_mem *disk_mem_clone(const struct disk_mem *m, uint64_t seed);
/* After disk_close: what was written and not synced is kept, lost, torn at 512 bytes or 4 KiB
 * (each sector on its own), or whole writes survive in any combination. Returns a digest of what
 * survived: equal for equal outcomes of one moment. */
uint64_t disk_mem_crash(struct disk_mem *m, enum disk_crash how);
/* Flip bits / zero under everybody's feet. False: no such place. */
bool disk_mem_damage(struct disk_mem *m, const char *name, uint64_t at, uint8_t xor_with);
