/* storaged/io/mem.c - a disk in memory that forgets as a disk does.
 *
 * Each file has its bytes as readers see them and as they would be after a power cut (durable);
 * writes since the last sync are remembered one by one. Requests run in random order, a random
 * number of them per loop iteration, from the seed. */
#include "storaged/io/disk_priv.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct mem_write {
    struct list link;
    uint64_t at;
    size_t n;
    uint8_t bytes[];
};
struct mem_file {
    struct list link, unsynced;
    char name[DISK_NAME_BYTES];
    uint8_t *now, *durable;
    uint64_t bytes, reserved; /* reserved: counted against the capacity until it is removed */
};
struct disk_mem {
    uint64_t rng, capacity, used;
    uint64_t cut_at; /* the blocking write from now at which power fails; 0 = none */
    bool cut;
    struct list files;
    void (*watch)(void *ctx);
    void *watch_ctx;
};

static uint64_t draw(struct disk_mem *m, uint64_t below)
{
    uint64_t z = (m->rng += 0x9e3779b97f4a7c15ull); /* splitmix64 */

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (z ^ (z >> 31)) % below;
}

struct disk_mem *disk_mem_new(uint64_t seed, uint64_t capacity_bytes)
{
    struct disk_mem *m = calloc(1, sizeof(*m));

    if (m == NULL) return NULL;
    m->rng = seed;
    m->capacity = capacity_bytes;
    list_init(&m->files);
    return m;
}

static struct mem_file *file_new(const char *name, uint64_t bytes)
{
    struct mem_file *f = calloc(1, sizeof(*f));

    if (f == NULL) return NULL;
    f->now = calloc(1, bytes);
    f->durable = calloc(1, bytes);
    if (f->now == NULL || f->durable == NULL) {
        free(f->now);
        free(f->durable);
        free(f);
        return NULL;
    }
    f->bytes = f->reserved = bytes;
    (void)snprintf(f->name, sizeof(f->name), "%s", name);
    list_init(&f->unsynced);
    list_init(&f->link);
    return f;
}

static void forget_writes(struct mem_file *f)
{
    LIST_FOREACH_SAFE(it, &f->unsynced)
    {
        list_remove(it);
        free(CONTAINER_OF(it, struct mem_write, link));
    }
}

static void file_free(struct disk_mem *m, struct mem_file *f)
{
    forget_writes(f);
    list_remove(&f->link);
    m->used -= f->reserved;
    free(f->now);
    free(f->durable);
    free(f);
}

void disk_mem_free(struct disk_mem *m)
{
    if (m == NULL) return;
    while (!list_empty(&m->files))
        file_free(m, CONTAINER_OF(m->files.next, struct mem_file, link));
    free(m);
}

static int write_file(struct mem_file *f, uint64_t at, const void *p, size_t n);

struct disk_mem *disk_mem_clone(const struct disk_mem *m, uint64_t seed)
{
    struct disk_mem *c = disk_mem_new(seed, m->capacity);

    if (c == NULL) return NULL;
    c->used = m->used;
    LIST_FOREACH(it, &m->files)
    {
        const struct mem_file *f = CONTAINER_OF(it, struct mem_file, link);
        struct mem_file *g = file_new(f->name, f->bytes);

        if (g == NULL) goto fail;
        g->reserved = f->reserved;
        list_push_back(&c->files, &g->link);
        memcpy(g->durable, f->durable, f->bytes);
        LIST_FOREACH(w_it, &f->unsynced)
        {
            const struct mem_write *w = CONTAINER_OF(w_it, struct mem_write, link);

            if (write_file(g, w->at, w->bytes, w->n) < 0) goto fail;
        }
        memcpy(g->now, f->now, f->bytes);
    }
    return c;
fail:
    disk_mem_free(c);
    return NULL;
}

void disk_mem_watch(struct disk_mem *m, void (*fn)(void *ctx), void *ctx)
{
    m->watch = fn;
    m->watch_ctx = ctx;
}

void disk_mem_cut(struct disk_mem *m)
{
    m->cut = true;
}

void disk_mem_cut_at(struct disk_mem *m, uint64_t n)
{
    m->cut_at = n;
}

/* A blocking write begins. Power fails at it: *ret_done says whether it still took place. */
static bool power_fails(struct disk_mem *m, bool *ret_done)
{
    if (m->cut) {
        *ret_done = false;
        return true;
    }
    if (m->cut_at == 0 || --m->cut_at > 0) return false;
    m->cut = true;
    *ret_done = draw(m, 2) == 0;
    return true;
}

uint64_t disk_mem_crash(struct disk_mem *m, enum disk_crash how)
{
    uint64_t left = 0, sector = 0; /* FNV-1a over the 512 B sectors that survive */

    LIST_FOREACH(it, &m->files)
    {
        struct mem_file *f = CONTAINER_OF(it, struct mem_file, link);

        LIST_FOREACH(w_it, &f->unsynced)
        {
            struct mem_write *w = CONTAINER_OF(w_it, struct mem_write, link);
            size_t step = how == DISK_CRASH_TORN512 ? 512 : how == DISK_CRASH_TORN4K ? 4096 : w->n;

            for (size_t at = 0; at < w->n; at += step, sector += step / 512) {
                bool keep = how == DISK_CRASH_KEPT || (how != DISK_CRASH_LOST && draw(m, 2) == 0);

                if (!keep || w->at + at + step > f->bytes) continue;
                memcpy(f->durable + w->at + at, w->bytes + at, step);
                for (uint64_t k = 0; k < step / 512; k++)
                    left = (left ^ (sector + k + 1)) * 0x100000001b3ull;
            }
        }
        forget_writes(f);
        memcpy(f->now, f->durable, f->bytes);
    }
    m->cut = false;
    m->cut_at = 0;
    return left;
}

bool disk_mem_damage(struct disk_mem *m, const char *name, uint64_t at, uint8_t xor_with)
{
    struct mem_file *f = disk_mem_file(m, name);

    if (f == NULL || at >= f->bytes) return false;
    f->now[at] ^= xor_with;
    f->durable[at] ^= xor_with;
    return true;
}

/* ---- blocking part ---- */
struct mem_file *disk_mem_file(struct disk_mem *m, const char *name)
{
    LIST_FOREACH(it, &m->files)
    {
        struct mem_file *f = CONTAINER_OF(it, struct mem_file, link);

        if (strcmp(f->name, name) == 0) return f;
    }
    return NULL;
}

uint64_t disk_mem_file_bytes(const struct mem_file *f)
{
    return f->bytes;
}

int disk_mem_read(const struct mem_file *f, uint64_t at, void *p, size_t n)
{
    if (at > f->bytes || n > f->bytes - at) return -EINVAL;
    memcpy(p, f->now + at, n);
    return (int)n;
}

static int sync_file(struct mem_file *f)
{
    LIST_FOREACH(it, &f->unsynced)
    {
        struct mem_write *w = CONTAINER_OF(it, struct mem_write, link);

        memcpy(f->durable + w->at, w->bytes, w->n);
    }
    forget_writes(f);
    return 0;
}

static int write_file(struct mem_file *f, uint64_t at, const void *p, size_t n)
{
    struct mem_write *w;

    if (at > f->bytes || n > f->bytes - at) return -ENOSPC; /* the log never grows a file */
    w = malloc(sizeof(*w) + n);
    if (w == NULL) return -ENOMEM;
    w->at = at;
    w->n = n;
    memcpy(w->bytes, p, n);
    list_push_back(&f->unsynced, &w->link);
    memcpy(f->now + at, p, n);
    return (int)n;
}

int disk_mem_write_sync(struct disk_mem *m, struct mem_file *f, uint64_t at, const void *p,
                        size_t n)
{
    bool done = true, fails = power_fails(m, &done);
    int r = done ? write_file(f, at, p, n) : 0; /* not synced: the crash decides about it */

    if (fails) return -EIO;
    return r < 0 ? r : sync_file(f);
}

int disk_mem_truncate(struct disk_mem *m, struct mem_file *f, uint64_t bytes)
{
    bool done = true, fails = power_fails(m, &done);

    if (bytes > f->bytes) return -EINVAL;
    if (!fails) (void)sync_file(f);
    if (done) f->bytes = bytes;
    return fails ? -EIO : 0;
}

int disk_mem_remove(struct disk_mem *m, const char *name)
{
    struct mem_file *f = disk_mem_file(m, name);
    bool done = true, fails = power_fails(m, &done);

    if (f == NULL) return -ENOENT;
    if (done) file_free(m, f);
    return fails ? -EIO : 0;
}

enum rc disk_mem_list(struct disk_mem *m, enum rc (*fn)(void *ctx, const char *name), void *ctx)
{
    enum rc rc = RC_OK;

    LIST_FOREACH(it, &m->files)
    {
        if (rc == RC_OK) rc = fn(ctx, CONTAINER_OF(it, struct mem_file, link)->name);
    }
    return rc;
}

void disk_mem_space(struct disk_mem *m, uint64_t *ret_total, uint64_t *ret_free)
{
    *ret_total = m->capacity;
    *ret_free = m->capacity - m->used;
}

/* ---- requests ---- */
static int create_file(struct disk *d, struct disk_req_priv *p)
{
    struct disk_mem *m = d->conf.mem;
    struct mem_file *f;
    struct err err;

    if (m->capacity - m->used < p->file_bytes) return -ENOSPC;
    f = file_new(p->name, p->file_bytes);
    if (f == NULL) return -ENOMEM;
    m->used += f->bytes;
    memcpy(f->now, p->buf, p->n);
    memcpy(f->durable, p->buf, p->n);
    list_push_back(&m->files, &f->link);
    return disk_file_open(d, p->name, p->ret_file, &p->file_bytes, &err) == RC_OK ? 0 : -ENOMEM;
}

static bool start(struct disk *d, struct disk_req *req)
{
    list_push_back(&d->mem_running, &req->priv.link);
    return true;
}

static int execute(struct disk *d, struct disk_req_priv *p)
{
    uint64_t bytes;
    enum rc rc;

    switch (p->op) {
    case DISK_OP_READ:
        return disk_mem_read(p->file->mem, p->at, p->buf, p->n);
    case DISK_OP_WRITE:
        return write_file(p->file->mem, p->at, p->buf, p->n);
    case DISK_OP_SYNC:
        return sync_file(p->file->mem);
    case DISK_OP_CREATE:
        return create_file(d, p);
    case DISK_OP_OPEN:
        rc = disk_file_open(d, p->name, p->ret_file, &bytes, NULL);
        return rc == RC_OK ? 0 : rc == RC_NOTFOUND ? -ENOENT : -ENOMEM;
    case DISK_OP_REMOVE:
        (void)disk_mem_remove(d->conf.mem, p->name); /* absent is fine */
        return 0;
    case DISK_OP_DEFER: /* never reaches an engine */
        break;
    }
    return -EINVAL;
}

/* When the disk is being closed what runs is cut off, as by a crash: nothing of it happens. */
static void submit(struct disk *d)
{
    uint64_t n = 0, turns;

    LIST_FOREACH(it, &d->mem_running) n++;
    if (n == 0) return;
    turns = d->closing || d->conf.mem->cut ? n : draw(d->conf.mem, n + 1);
    for (; turns > 0; turns--, n--) {
        struct list *it = d->mem_running.next;
        struct disk_req *req;

        for (uint64_t skip = draw(d->conf.mem, n); skip > 0; skip--)
            it = it->next;
        req = CONTAINER_OF(it, struct disk_req, priv.link);
        list_remove(it);
        if (d->conf.mem->watch != NULL) d->conf.mem->watch(d->conf.mem->watch_ctx);
        disk_finished(req, d->closing || d->conf.mem->cut ? -ECANCELED : execute(d, &req->priv));
    }
    if (n > 0) disk_kick(d);
}

static void nothing(struct disk *d)
{
    (void)d;
}

const struct disk_engine_ops disk_mem_ops = {start, submit, nothing, nothing};
