/* storaged/io/disk_priv.h - what disk.c and the engines share. */
#pragma once
#include "storaged/io/buffers.h"
#include "storaged/io/disk.h"
#include <liburing.h>
#include <uv.h>

struct disk_file {
    struct list link; /* disk.files */
    struct disk *disk;
    int fd;               /* files */
    struct mem_file *mem; /* memory */
    char name[DISK_NAME_BYTES];
};
struct disk_slot { /* a call on libuv's thread pool */
    uv_work_t work;
    struct disk_req *req;
    struct disk *disk;
    int res;
};
/* Writes that follow each other in a file, as one request of the kernel's (uring.c). */
#define DISK_MERGE_PARTS      32u
#define DISK_MERGE_BYTES      (1u << 20)
#define DISK_MERGE_PART_BYTES (256u << 10) /* a larger one goes alone, from registered memory */
#define DISK_MERGES           64u
struct disk_merge {
    struct list link; /* disk.merges_free */
    uint32_t n;
    struct disk_req *parts[DISK_MERGE_PARTS];
    struct iovec iov[DISK_MERGE_PARTS];
};
struct disk {
    struct disk_conf conf;
    const struct disk_engine_ops *ops;
    const char *name;
    char reason[192];
    struct err failed; /* rc RC_OK = works */
    uv_loop_t *loop;
    uv_idle_t kick;
    uv_timer_t later;   /* the first of the queue is not due yet */
    uint32_t handles_n; /* open uv handles */
    int dir_fd;
    struct list files, queue, done;
    uint32_t accepted_n, running_n;
    uint64_t requests_n, inject_at, slow_ms;
    uint64_t space_total, space_left, space_until_us; /* disk_space: that look holds until then */
    int inject_errno;
    bool inject_writes; /* only those count */
    bool closing, closed;
    void (*close_cb)(void *data);
    void *close_data;
    struct buffers buffers;
    struct disk_slot slots[DISK_THREADS];
    /* io_uring */
    struct io_uring ring;
    bool ring_open, registered;
    int event_fd;
    uv_poll_t poll;
    struct disk_merge *merges; /* DISK_MERGES */
    struct list merges_free;
    struct { /* the last write that was prepared and not submitted yet */
        struct io_uring_sqe *sqe;
        struct disk_merge *merge; /* NULL: it is req alone */
        struct disk_req *req;
        uint64_t end;
        size_t bytes;
    } tail;
    uint64_t merged_n;
    struct list mem_running;
};
struct disk_engine_ops {
    /* False: no room now, try again after a completion. */
    bool (*start)(struct disk *d, struct disk_req *req);
    void (*submit)(struct disk *d);  /* once per iteration, after the starts */
    void (*close)(struct disk *d);   /* nothing runs; close uv handles */
    void (*release)(struct disk *d); /* all handles are closed */
};
extern const struct disk_engine_ops disk_pread_ops, disk_uring_ops, disk_mem_ops;

/* res: bytes, or -errno. */
void disk_finished(struct disk_req *req, int64_t res);
void disk_deliver(struct disk *d); /* fires callbacks; only from the loop */
void disk_kick(struct disk *d);
void disk_handle_closed(struct disk *d);
bool disk_slot_start(struct disk *d, struct disk_req *req);
/* Sets up the ring, or says why not. */
MUST_CHECK enum rc disk_uring_open(struct disk *d, char *reason, size_t reason_n);

/* memory, blocking part; 0, bytes or -errno */
struct mem_file *disk_mem_file(struct disk_mem *m, const char *name);
uint64_t disk_mem_file_bytes(const struct mem_file *f);
int disk_mem_read(const struct mem_file *f, uint64_t at, void *p, size_t n);
int disk_mem_write_sync(struct disk_mem *m, struct mem_file *f, uint64_t at, const void *p,
                        size_t n);
int disk_mem_truncate(struct disk_mem *m, struct mem_file *f, uint64_t bytes);
int disk_mem_remove(struct disk_mem *m, const char *name);
enum rc disk_mem_list(struct disk_mem *m, enum rc (*fn)(void *ctx, const char *name), void *ctx);
void disk_mem_space(struct disk_mem *m, uint64_t *ret_total, uint64_t *ret_free);
