/* gateway/agent/journal_core.c - see journal_core.h. One description of a body serves both
 * directions. */
#include "gateway/agent/journal_core.h"
#include "common/base/crc32c.h"
#include "common/base/le.h"

struct io {
    uint8_t *out; /* NULL: reading */
    const uint8_t *in;
    size_t n, cap; /* done; of out or in */
    bool bad;
};

static uint64_t io_uint(struct io *io, uint64_t v, unsigned bytes)
{
    if (io->bad || io->cap - io->n < bytes) {
        io->bad = true;
        return 0;
    }
    if (io->out != NULL) {
        le_put(io->out + io->n, bytes, v);
    } else {
        v = le_get(io->in + io->n, bytes);
    }
    io->n += bytes;
    return v;
}

static void io_fixed(struct io *io, uint8_t *p, size_t n)
{
    if (io->bad || io->cap - io->n < n) {
        io->bad = true;
        return;
    }
    if (io->out != NULL) {
        memcpy(io->out + io->n, p, n);
    } else {
        memcpy(p, io->in + io->n, n);
    }
    io->n += n;
}

static void io_text(struct io *io, struct slice *s)
{
    size_t n;

    if (io->out != NULL && s->n > JOURNAL_TEXT_MAX) io->bad = true;
    n = (size_t)io_uint(io, s->n, 2);
    if (io->bad || n > JOURNAL_TEXT_MAX || io->cap - io->n < n) {
        io->bad = true;
        return;
    }
    if (io->out != NULL) {
        if (n > 0) memcpy(io->out + io->n, s->p, n);
    } else {
        *s = (struct slice){io->in + io->n, n};
    }
    io->n += n;
}

#define U8(f)  f = (uint8_t)io_uint(io, f, 1)
#define U32(f) f = (uint32_t)io_uint(io, f, 4)
#define U64(f) f = io_uint(io, f, 8)
#define I64(f) f = (int64_t)io_uint(io, (uint64_t)(f), 8)

static void io_file(struct io *io, struct journal_file *f)
{
    io_text(io, &f->path);
    U64(f->size_bytes);
    U64(f->ino);
    I64(f->mtime_ns);
    I64(f->ctime_ns);
}

static void io_files(struct io *io, struct journal_rec *r, bool results)
{
    U32(r->files_n);
    if (r->files_n == 0 || r->files_n > JOURNAL_FILES_MAX) io->bad = true;
    for (uint32_t i = 0; !io->bad && i < r->files_n; i++) {
        struct journal_result *o = &r->results[i];

        if (!results) {
            io_file(io, &r->files[i]);
            continue;
        }
        U64(o->version);
        U64(o->size_bytes);
        io_fixed(io, o->tree_sha256, sizeof o->tree_sha256);
        U8(o->quarantined);
    }
}

static void io_body(struct io *io, struct journal_rec *r)
{
    uint8_t kind = (uint8_t)r->kind;

    U8(kind);
    if (kind == 0 || kind >= JOURNAL_KIND_N) io->bad = true;
    if (io->bad) return;
    r->kind = (enum journal_kind)kind;
    if (r->kind == JOURNAL_OPEN) {
        io_fixed(io, r->id.b, sizeof r->id.b);
        io_text(io, &r->text);
        return;
    }
    io_text(io, &r->case_id);
    switch (r->kind) {
    case JOURNAL_CASE:
        io_text(io, &r->root);
        io_fixed(io, r->print, sizeof r->print);
        break;
    case JOURNAL_UPLOAD:
    case JOURNAL_STAGED:
        io_fixed(io, r->id.b, sizeof r->id.b);
        io_files(io, r, r->kind == JOURNAL_STAGED);
        break;
    case JOURNAL_HELD:
        U8(r->outcome);
        io_file(io, &r->files[0]);
        io_text(io, &r->text);
        break;
    case JOURNAL_LOOKED:
        io_file(io, &r->files[0]);
        break;
    case JOURNAL_COMMIT:
        io_fixed(io, r->id.b, sizeof r->id.b);
        U64(r->generation);
        break;
    case JOURNAL_DONE:
        io_text(io, &r->root);
        io_fixed(io, r->print, sizeof r->print);
        U64(r->generation);
        U64(r->count);
        U64(r->bytes);
        break;
    case JOURNAL_ASIDE:
    case JOURNAL_DROPPED:
        io_text(io, &r->text);
        break;
    default: /* RETRY: the case alone */
        break;
    }
}

enum rc journal_encode(const struct journal_rec *rec, uint64_t seq, uint64_t synced, uint8_t *out,
                       size_t cap, size_t *ret_n)
{
    struct io io = {.out = out + JOURNAL_FRAME_BYTES};

    if (cap < JOURNAL_FRAME_BYTES) return RC_NOMEM;
    io.cap = MIN(cap - JOURNAL_FRAME_BYTES, (size_t)JOURNAL_BODY_MAX);
    /* the description writes back what it read, here the same */
    io_body(&io, (struct journal_rec *)(uintptr_t)rec);
    if (io.bad) return cap - JOURNAL_FRAME_BYTES < JOURNAL_BODY_MAX ? RC_NOMEM : RC_INVAL;
    le_put32(out, (uint32_t)io.n);
    le_put64(out + 8, seq);
    le_put64(out + 16, synced);
    le_put32(out + 4, crc32c(0, out + 8, JOURNAL_FRAME_BYTES - 8 + io.n));
    *ret_n = JOURNAL_FRAME_BYTES + io.n;
    return RC_OK;
}

/* Does a whole frame begin here? */
static bool frame_at(const uint8_t *p, size_t n, size_t *ret_n)
{
    uint32_t len;

    if (n < JOURNAL_FRAME_BYTES) return false;
    len = le_get32(p);
    if (len == 0 || len > JOURNAL_BODY_MAX || len > n - JOURNAL_FRAME_BYTES) return false;
    if (le_get32(p + 4) != crc32c(0, p + 8, JOURNAL_FRAME_BYTES - 8 + (size_t)len)) return false;
    *ret_n = JOURNAL_FRAME_BYTES + len;
    return true;
}

enum rc journal_next(const uint8_t *p, size_t n, uint64_t seq, struct journal_rec *ret,
                     uint64_t *ret_seq, size_t *ret_n)
{
    size_t len;

    if (n == 0) return RC_RANGE;
    if (frame_at(p, n, &len) && (seq == 0 || le_get64(p + 8) == seq)) {
        struct io io = {.in = p + JOURNAL_FRAME_BYTES, .cap = len - JOURNAL_FRAME_BYTES};

        ret->kind = (enum journal_kind)0;
        io_body(&io, ret);
        if (io.bad || io.n != io.cap) return RC_CORRUPT;
        *ret_seq = le_get64(p + 8);
        *ret_n = len;
        return RC_OK;
    }
    for (size_t i = 1; i + JOURNAL_FRAME_BYTES <= n; i++) {
        if (frame_at(p + i, n - i, &len) && le_get64(p + i + 8) > seq &&
            le_get64(p + i + 16) >= seq)
            return RC_CORRUPT;
    }
    return RC_ABORTED;
}

enum rc journal_step(enum journal_state from, enum journal_kind kind, enum journal_state *ret_to)
{
    bool open = from == JCASE_OPEN;

    *ret_to = from;
    switch (kind) {
    case JOURNAL_CASE:
        *ret_to = JCASE_OPEN;
        return RC_OK;
    case JOURNAL_UPLOAD:
    case JOURNAL_STAGED:
    case JOURNAL_HELD:
        return open ? RC_OK : RC_CORRUPT;
    case JOURNAL_LOOKED:
        return from != JCASE_NONE ? RC_OK : RC_CORRUPT;
    case JOURNAL_COMMIT: /* again, with another generation: the first one was too old */
        *ret_to = JCASE_COMMITTING;
        return open || from == JCASE_COMMITTING ? RC_OK : RC_CORRUPT;
    case JOURNAL_DONE: /* nothing to send: it never was open, or not committing */
        *ret_to = JCASE_DONE;
        return RC_OK;
    case JOURNAL_ASIDE:
        *ret_to = JCASE_ASIDE;
        return from == JCASE_NONE ? RC_CORRUPT : RC_OK;
    case JOURNAL_RETRY:
        *ret_to = from == JCASE_ASIDE ? JCASE_OPEN : from;
        return from == JCASE_NONE ? RC_CORRUPT : RC_OK;
    case JOURNAL_DROPPED:
        *ret_to = JCASE_OPEN;
        return from == JCASE_NONE ? RC_CORRUPT : RC_OK;
    default:
        return RC_CORRUPT;
    }
}
