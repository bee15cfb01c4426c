/* gateway/ingest/records_core.c - one description per record serves both directions, so that
 * encoder and decoder cannot drift apart.
 *
 * Invariants: (1) a value is decoded to its last byte or refused; (2) no count is believed before
 * it is compared with its limit; (3) what encodes decodes to the same, what decodes encodes to the
 * same bytes (fuzzed). */
#include "gateway/ingest/records_core.h"
#include "common/base/le.h"

/* ---- keys ---- */

const struct id128 record_scope_collections = {"collections"}, record_scope_jobs = {"jobs"},
                   record_scope_models = {"models"}, record_scope_tombs = {"tombs"},
                   record_scope_sessions = {"sessions"};

size_t record_key(const struct record_anchor *a, enum record_kind kind, uint8_t *out)
{
    out[0] = 'r';
    memcpy(out + 1, a->b, RECORD_ANCHOR_BYTES);
    out[1 + RECORD_ANCHOR_BYTES] = (uint8_t)kind;
    return 2 + RECORD_ANCHOR_BYTES;
}

size_t record_key_id(const struct record_anchor *a, enum record_kind kind, const struct id128 *id,
                     uint8_t *out)
{
    size_t n = record_key(a, kind, out);

    memcpy(out + n, id->b, 16);
    return n + 16;
}

size_t record_key_claim(uint64_t placement_hash, const struct id128 *upload, uint8_t *out)
{
    struct record_anchor a = {{0}};

    be_put64(a.b, placement_hash);
    return record_key_id(&a, RECORD_CLAIM, upload, out);
}

size_t record_key_chunk(const struct record_anchor *a, const struct id128 *upload, uint32_t index,
                        uint8_t *out)
{
    size_t n = record_key_id(a, RECORD_CHUNK, upload, out);

    be_put32(out + n, index);
    return n + 4;
}

size_t record_key_number(const struct record_anchor *a, enum record_kind kind, uint64_t v,
                         uint8_t *out)
{
    size_t n = record_key(a, kind, out);

    if (kind == RECORD_ITEM || kind == RECORD_RESULT || kind == RECORD_SERIES ||
        kind == RECORD_MASK) {
        CHECK(v <= UINT32_MAX);
        be_put32(out + n, (uint32_t)v);
        return n + 4;
    }
    be_put64(out + n, v);
    return n + 8;
}

size_t record_key_path_prefix(const struct record_anchor *a, enum record_kind kind,
                              struct slice prefix, uint8_t *out)
{
    size_t n = record_key(a, kind, out);

    CHECK(prefix.n <= RECORD_NAME_BYTES_MAX);
    if (prefix.n > 0) memcpy(out + n, prefix.p, prefix.n);
    return n + prefix.n;
}

size_t record_key_object(const struct record_anchor *a, enum record_kind kind, struct slice path,
                         uint64_t version, uint8_t *out)
{
    size_t n = record_key_path_prefix(a, kind, path, out);

    CHECK(path.n == 0 || memchr(path.p, 0, path.n) == NULL);
    out[n++] = 0;
    if (version == 0) return n;
    be_put64(out + n, ~version);
    return n + 8;
}

size_t record_key_after(uint8_t *key, size_t n)
{
    while (n > 0 && key[n - 1] == 0xff)
        n--;
    if (n > 0) key[n - 1]++;
    return n;
}

static enum rc key_bad(void)
{
    return RC_CORRUPT;
}

enum rc record_key_parse_object(struct slice key, struct slice *ret_path, uint64_t *ret_version)
{
    const size_t head = 2 + RECORD_ANCHOR_BYTES;

    if (key.n < head + 9 || key.n > head + 9 + RECORD_NAME_BYTES_MAX || key.p[0] != 'r' ||
        (key.p[head - 1] != RECORD_INDEX && key.p[head - 1] != RECORD_MANIFEST)) {
        return key_bad();
    }
    if (memchr(key.p + head, 0, key.n - head - 8) != key.p + key.n - 9) return key_bad();
    *ret_path = (struct slice){key.p + head, key.n - head - 9};
    *ret_version = ~be_get64(key.p + key.n - 8);
    return *ret_version == 0 ? key_bad() : RC_OK;
}

enum rc record_key_parse_number(struct slice key, uint64_t *ret_n)
{
    const size_t head = 2 + RECORD_ANCHOR_BYTES;

    if (key.n < head + 4 || key.p[0] != 'r') return key_bad();
    switch (key.p[head - 1]) {
    case RECORD_ITEM:
    case RECORD_RESULT:
    case RECORD_SERIES:
    case RECORD_MASK:
        if (key.n != head + 4) return key_bad();
        *ret_n = be_get32(key.p + head);
        return RC_OK;
    case RECORD_CHUNK:
        if (key.n != head + 20) return key_bad();
        *ret_n = be_get32(key.p + head + 16);
        return RC_OK;
    case RECORD_COMMIT:
    case RECORD_TASK:
    case RECORD_MODEL:
        if (key.n != head + 8) return key_bad();
        *ret_n = be_get64(key.p + head);
        return RC_OK;
    default:
        return key_bad();
    }
}

size_t record_list_prefix(const struct id128 *scope, struct slice name_prefix, uint8_t *out)
{
    CHECK(name_prefix.n <= RECORD_NAME_BYTES_MAX);
    out[0] = 'l';
    memcpy(out + 1, scope->b, 16);
    if (name_prefix.n > 0) memcpy(out + 17, name_prefix.p, name_prefix.n);
    return 17 + name_prefix.n;
}

size_t record_list_key(const struct id128 *scope, struct slice name, uint64_t placement_hash,
                       uint8_t *out)
{
    size_t n = record_list_prefix(scope, name, out);

    out[n] = 0;
    be_put64(out + n + 1, placement_hash);
    return n + 9;
}

size_t record_tomb_list_key(const struct record_anchor *a, const struct id128 *body, uint8_t *out)
{
    static const char digits[] = "0123456789abcdef";
    uint8_t name[2 * (RECORD_ANCHOR_BYTES + 16)];

    for (uint32_t i = 0; i < sizeof name; i += 2) {
        uint8_t b =
            i / 2 < RECORD_ANCHOR_BYTES ? a->b[i / 2] : body->b[i / 2 - RECORD_ANCHOR_BYTES];

        name[i] = (uint8_t)digits[b >> 4];
        name[i + 1] = (uint8_t)digits[b & 15];
    }
    return record_list_key(&record_scope_tombs, (struct slice){name, sizeof name},
                           record_anchor_hash(a), out);
}

enum rc record_list_parse(struct slice key, struct slice *ret_name, uint64_t *ret_placement_hash)
{
    if (key.n < 17 + 9 || key.n > 17 + 9 + RECORD_NAME_BYTES_MAX || key.p[0] != 'l' ||
        memchr(key.p + 17, 0, key.n - 17 - 8) != key.p + key.n - 9) {
        return key_bad();
    }
    *ret_name = (struct slice){key.p + 17, key.n - 17 - 9};
    *ret_placement_hash = be_get64(key.p + key.n - 8);
    return RC_OK;
}

/* ---- values: struct io reads or writes, so that a record is described once ---- */

struct io {
    struct record_out *out; /* NULL: reading */
    const uint8_t *p;
    size_t left;
    const char *bad; /* the field that broke a limit or its bounds */
};

static uint8_t *io_room(struct io *io, size_t n)
{
    struct record_out *o = io->out;

    if (o->rc != RC_OK || n > o->cap - o->n) {
        o->rc = RC_NOMEM;
        return NULL;
    }
    o->n += n;
    return o->p + o->n - n;
}

static const uint8_t *io_take(struct io *io, size_t n, const char *what)
{
    const uint8_t *p = io->p;

    if (io->bad != NULL || n > io->left) {
        if (io->bad == NULL) io->bad = what;
        return NULL;
    }
    io->p += n;
    io->left -= n;
    return p;
}

static uint64_t io_uint(struct io *io, uint64_t v, unsigned n, const char *what)
{
    if (io->out != NULL) {
        uint8_t *w = io_room(io, n);

        if (w != NULL) le_put(w, n, v);
        return v;
    } else {
        const uint8_t *r = io_take(io, n, what);

        return r == NULL ? 0 : le_get(r, n);
    }
}

#define U8(f)  rec->f = (uint8_t)io_uint(io, rec->f, 1, #f)
#define U32(f) rec->f = (uint32_t)io_uint(io, rec->f, 4, #f)
#define U64(f) rec->f = io_uint(io, rec->f, 8, #f)
#define I64(f) rec->f = (int64_t)io_uint(io, (uint64_t)rec->f, 8, #f)
#define ENUM(f, lo, hi)                                                                            \
    do {                                                                                           \
        U8(f);                                                                                     \
        io_limit(io, rec->f >= (lo) && rec->f <= (hi), #f);                                        \
    } while (0)
#define BOOL(f)      ENUM(f, 0, 1)
#define FIXED(f, n)  io_fixed(io, rec->f, n, #f)
#define ID(f)        io_fixed(io, rec->f.b, 16, #f)
#define STR(f, max)  io_slice(io, &rec->f, 2, max, #f)
#define BLOB(f, max) io_slice(io, &rec->f, 4, max, #f)
#define WRAPPED(f)   io_wrapped(io, &rec->f)
#define COUNT(f, max)                                                                              \
    do {                                                                                           \
        U32(f);                                                                                    \
        io_limit(io, rec->f <= (max), #f);                                                         \
        if (io->bad != NULL) rec->f = 0;                                                           \
    } while (0)

static void io_limit(struct io *io, bool ok, const char *what)
{
    if (!ok && io->bad == NULL) io->bad = what;
}

static void io_fixed(struct io *io, uint8_t *v, size_t n, const char *what)
{
    if (io->out != NULL) {
        uint8_t *w = io_room(io, n);

        if (w != NULL) memcpy(w, v, n);
    } else {
        const uint8_t *r = io_take(io, n, what);

        if (r != NULL) memcpy(v, r, n);
    }
}

static void io_slice(struct io *io, struct slice *s, unsigned len_bytes, size_t max,
                     const char *what)
{
    size_t n;

    io_limit(io, io->out == NULL || s->n <= max, what);
    if (io->bad != NULL) return;
    n = (size_t)io_uint(io, s->n, len_bytes, what);
    io_limit(io, n <= max, what);
    if (io->out != NULL) {
        uint8_t *w = io_room(io, n);

        if (w != NULL && n > 0) memcpy(w, s->p, n);
    } else {
        s->p = io_take(io, n, what);
        s->n = s->p == NULL ? 0 : n;
    }
}

static void io_wrapped(struct io *io, struct record_wrapped *w)
{
    io_fixed(io, w->wrapper.b, 16, "wrapper");
    io_slice(io, &w->bytes, 2, 256, "wrapped key");
}

static void io_head(struct io *io, struct record_head *rec)
{
    ENUM(state, RECORD_CASE_OPEN, RECORD_CASE_WITHDRAWN);
    U64(generation);
    U64(stage);
    U64(visible);
    U64(closing);
    ID(closing_request);
    ID(last_request);
    U64(objects);
    U64(bytes_stored);
    I64(committed_unix_ms);
    if (io->out != NULL ? rec->version_floor != 0 : io->left > 0) {
        U64(version_floor);
        io_limit(io, rec->version_floor != 0, "version_floor");
    }
    io_limit(io, rec->stage > rec->visible && rec->stage > rec->closing, "stage");
    io_limit(io, rec->closing == 0 || rec->closing > rec->visible, "closing");
}

static void io_case(struct io *io, struct record_case *rec)
{
    ID(collection);
    STR(case_id, RECORD_NAME_BYTES_MAX);
    STR(facility, RECORD_NAME_BYTES_MAX);
    WRAPPED(key);
    U64(document_version);
    I64(created_unix_ms);
}

static void io_document(struct io *io, struct record_document *rec)
{
    U64(version);
    BLOB(sealed, RECORD_VALUE_MAX - 64);
}

static void io_session(struct io *io, struct record_session *rec)
{
    ENUM(state, RECORD_SESSION_OPEN, RECORD_SESSION_ABORTED);
    BOOL(size_unknown);
    BOOL(expired);
    STR(path, RECORD_NAME_BYTES_MAX);
    STR(media_type, 256);
    STR(owner, RECORD_NAME_BYTES_MAX);
    U64(size_bytes);
    U32(chunk_bytes);
    U32(chunks);
    U32(data_pool);
    ID(body);
    WRAPPED(body_key);
    FIXED(fingerprint, 32);
    U64(expire_tick);
    U32(ttl_ticks);
    BLOB(sealed_spec, RECORD_SEALED_MAX);
    U64(version);
    U64(stage);
}

static void io_chunk(struct io *io, struct record_chunk *rec)
{
    U32(plain_bytes);
    ID(seal_id);
    FIXED(plain_digest, 32);
    STR(sealed_leaves, RECORD_LEAVES_MAX * 32 + 64);
}

_Static_assert(sizeof(double) == 8, "an IEEE double");

static void io_attr(struct io *io, struct record_attr *rec)
{
    uint64_t bits = 0;

    STR(name, 128);
    ENUM(type, RECORD_ATTR_TEXT, RECORD_ATTR_REAL);
    switch (rec->type) {
    case RECORD_ATTR_TEXT:
        STR(text, 1024);
        break;
    case RECORD_ATTR_INT:
        I64(integer);
        break;
    default:
        memcpy(&bits, &rec->real, 8);
        bits = io_uint(io, bits, 8, "real");
        memcpy(&rec->real, &bits, 8);
    }
}

static void io_index(struct io *io, struct record_index *rec)
{
    U64(stage);
    BOOL(delete_marker);
    BOOL(hold);
    U64(size_bytes);
    I64(stored_unix_ms);
    I64(retain_until_unix_ms);
    STR(media_type, 256);
    STR(sealed_digests, 1024);
    COUNT(attrs_n, RECORD_ATTRS_MAX);
    for (uint32_t i = 0; i < rec->attrs_n; i++)
        io_attr(io, &rec->attrs[i]);
}

static void io_body(struct io *io, struct record_body *rec)
{
    ID(id);
    U32(pool);
    U32(chunk_bytes);
    U64(size_bytes);
    WRAPPED(key);
    io_limit(io, rec->chunk_bytes > 0, "chunk_bytes");
}

static void io_extent(struct io *io, struct record_extent *rec)
{
    U64(object_offset);
    U64(length);
    U32(body_idx);
    U32(chunk_index);
    U32(offset_in_chunk);
}

/* Extents follow each other without a gap, each inside its body. */
static void check_extents(struct io *io, const struct record_manifest *m)
{
    uint64_t at = 0;

    for (uint32_t i = 0; i < m->extents_n && io->bad == NULL; i++) {
        const struct record_extent *e = &m->extents[i];
        const struct record_body *b;
        uint64_t from;

        io_limit(io,
                 e->object_offset == at && e->length > 0 && e->length <= m->size_bytes - at &&
                     e->body_idx < m->bodies_n,
                 "extent");
        if (io->bad != NULL) return;
        b = &m->bodies[e->body_idx];
        from = (uint64_t)e->chunk_index * b->chunk_bytes + e->offset_in_chunk;
        io_limit(io,
                 e->offset_in_chunk < b->chunk_bytes && from < b->size_bytes &&
                     e->length <= b->size_bytes - from,
                 "extent outside its body");
        at += e->length;
    }
    if (m->extents_n > 0) io_limit(io, at == m->size_bytes && m->sealed_inline.n == 0, "extents");
}

static void io_manifest(struct io *io, struct record_manifest *rec)
{
    U64(size_bytes);
    COUNT(bodies_n, RECORD_BODIES_MAX);
    for (uint32_t i = 0; i < rec->bodies_n; i++)
        io_body(io, &rec->bodies[i]);
    COUNT(extents_n, RECORD_EXTENTS_MAX);
    for (uint32_t i = 0; i < rec->extents_n; i++)
        io_extent(io, &rec->extents[i]);
    BLOB(sealed_inline, RECORD_INLINE_MAX + 64);
    BLOB(sealed_attrs, RECORD_SEALED_MAX);
    check_extents(io, rec);
    FIXED(mac, 32);
}

static void io_commit(struct io *io, struct record_commit *rec)
{
    ID(request);
    U64(generation);
    U64(stage_after);
    U64(stage_upto);
    U64(count);
    FIXED(root, 32);
    STR(receipt, 8192);
    STR(signature, 256);
    STR(key_id, 256);
    I64(committed_unix_ms);
}

static void io_tomb(struct io *io, struct record_tomb *rec)
{
    ID(upload);
    U32(pool);
    U32(chunks);
    U32(confirmed);
    U64(owner_hash);
    I64(since_unix_ms);
    io_limit(io, rec->confirmed <= rec->chunks, "confirmed");
}

static void io_pack(struct io *io, struct record_pack *rec)
{
    ID(upload);
    COUNT(objects_n, RECORD_PACK_MAX);
    for (uint32_t i = 0; i < rec->objects_n && io->bad == NULL; i++) {
        STR(objects[i].path, RECORD_NAME_BYTES_MAX);
        U64(objects[i].version);
    }
}

static void io_deletion(struct io *io, struct record_deletion *rec)
{
    STR(path, RECORD_NAME_BYTES_MAX);
    U64(version);
    U64(versions_deleted);
    U64(generation);
    I64(deleted_unix_ms);
}

static void io_collection(struct io *io, struct record_collection *rec)
{
    ID(id);
    STR(name, 63);
    STR(kind, 63);
    STR(deid_profile, 255);
    STR(society, 255);
    BOOL(unchecked);
    U32(chunk_bytes);
    U32(meta_pool);
    U32(data_pool);
    U32(target_hospitals);
    U64(quota_bytes);
    U64(target_cases);
    WRAPPED(key);
    ID(request);
    I64(created_unix_ms);
    COUNT(fields_n, RECORD_FIELDS_MAX);
    for (uint32_t i = 0; i < rec->fields_n; i++)
        io_slice(io, &rec->fields[i], 2, 128, "index field");
    COUNT(grants_n, RECORD_GRANTS_MAX);
    for (uint32_t i = 0; i < rec->grants_n; i++) {
        io_slice(io, &rec->grants[i].subject, 2, RECORD_NAME_BYTES_MAX, "subject");
        rec->grants[i].role = (uint8_t)io_uint(io, rec->grants[i].role, 1, "role");
    }
}

static void io_job(struct io *io, struct record_job *rec)
{
    ID(id);
    ID(request);
    STR(owner, RECORD_NAME_BYTES_MAX);
    STR(message, 1024);
    STR(kind, 63);
    STR(model, 255);
    STR(cohort, 16384);
    STR(software, 255);
    U8(state);
    U8(device);
    FIXED(model_sha256, 32);
    COUNT(params_n, RECORD_PARAMS_MAX);
    for (uint32_t i = 0; i < rec->params_n; i++) {
        io_slice(io, &rec->params[i].name, 2, 128, "parameter");
        io_slice(io, &rec->params[i].value, 2, 4096, "parameter's value");
    }
    U32(items);
    U32(tasks);
    U32(items_done);
    U32(items_set_aside);
    U64(bytes_read);
    I64(submitted_unix_ms);
    I64(ended_unix_ms);
}

static void io_task_item(struct io *io, struct record_task_item *rec)
{
    U32(item);
    ENUM(state, RECORD_ITEM_OPEN, RECORD_ITEM_ASIDE);
    U8(failures);
    BOOL(out);
}

static void io_task(struct io *io, struct record_task *rec)
{
    ENUM(state, RECORD_TASK_OPEN, RECORD_TASK_DONE);
    U32(attempt);
    U32(losses);
    STR(worker, 255);
    U32(host);
    U32(rack);
    U32(zone);
    U64(bytes);
    COUNT(items_n, RECORD_TASK_ITEMS_MAX);
    for (uint32_t i = 0; i < rec->items_n; i++)
        io_task_item(io, &rec->items[i]);
}

static void io_item(struct io *io, struct record_item *rec)
{
    ID(collection_id);
    STR(collection, 63);
    STR(case_id, RECORD_NAME_BYTES_MAX);
    STR(path, RECORD_NAME_BYTES_MAX);
    STR(media_type, 256);
    U64(version);
    U64(size_bytes);
}

static void io_result(struct io *io, struct record_result *rec)
{
    U32(attempt);
    STR(label, 255);
    STR(reason, 1024);
    STR(device, 255);
    STR(worker, 255);
    BLOB(detail, 65536);
}

static void io_series(struct io *io, struct record_series *rec)
{
    STR(uid, 64);
    COUNT(slices_n, RECORD_SLICES_MAX);
    BLOB(list, RECORD_VALUE_MAX - 128);
}

static void io_series_slice(struct io *io, struct record_series_slice *rec)
{
    STR(path, RECORD_NAME_BYTES_MAX);
    U64(version);
    U64(size_bytes);
}

static void io_mask(struct io *io, struct record_mask *rec)
{
    U32(attempt);
    ID(upload);
    STR(media_type, 64);
    FIXED(sha256, 32);
    BLOB(manifest, 512u << 10);
}

static void io_model(struct io *io, struct record_model *rec)
{
    STR(name, 63);
    U64(version);
    U64(size_bytes);
    FIXED(sha256, 32);
    BLOB(detail, 65536);
    BLOB(manifest, 512u << 10);
    WRAPPED(key);
}

static void io_list(struct io *io, struct record_list *rec)
{
    FIXED(anchor.b, RECORD_ANCHOR_BYTES);
    I64(created_unix_ms);
}

static void io_collect(struct io *io, struct record_collect *rec)
{
    U64(done);
    U64(seen);
    U64(seen_tick);
}

static enum rc enc_end(const struct io *io, const char *type, struct err *reterr)
{
    if (io->bad != NULL) {
        return err_set(reterr, RC_INVAL, "record %s: '%s' is over its limit", type, io->bad);
    }
    if (io->out->rc != RC_OK) return err_set(reterr, RC_NOMEM, "record %s: no room", type);
    return RC_OK;
}

static enum rc dec_end(const struct io *io, const char *type, struct err *reterr)
{
    if (io->bad == NULL && io->left == 0) return RC_OK;
    return err_set(reterr, RC_CORRUPT, "record %s: malformed at '%s', %zu bytes left", type,
                   io->bad == NULL ? "end" : io->bad, io->left);
}

static void io_start(struct io *io, uint8_t kind)
{
    const uint8_t head[2] = {RECORD_FORMAT, kind};
    uint8_t got[2] = {RECORD_FORMAT, kind};

    io_fixed(io, got, 2, "format");
    io_limit(io, memcmp(head, got, 2) == 0, "format");
}

#define KIND_head       RECORD_HEAD
#define KIND_case       RECORD_CASE
#define KIND_document   RECORD_DOCUMENT
#define KIND_session    RECORD_SESSION
#define KIND_chunk      RECORD_CHUNK
#define KIND_index      RECORD_INDEX
#define KIND_manifest   RECORD_MANIFEST
#define KIND_commit     RECORD_COMMIT
#define KIND_tomb       RECORD_TOMB
#define KIND_pack       RECORD_PACK
#define KIND_deletion   RECORD_DELETION
#define KIND_collection RECORD_COLLECTION
#define KIND_job        RECORD_JOB
#define KIND_task       RECORD_TASK
#define KIND_item       RECORD_ITEM
#define KIND_result     RECORD_RESULT
#define KIND_series     RECORD_SERIES
#define KIND_mask       RECORD_MASK
#define KIND_model      RECORD_MODEL
#define KIND_list       RECORD_LIST
#define KIND_collect    RECORD_COLLECT

/* Encoding works on a copy: the description may write to its record. */
#define RECORD_CODEC(name)                                                                         \
    enum rc record_##name##_encode(const struct record_##name *rec, struct record_out *out,        \
                                   struct err *reterr)                                             \
    {                                                                                              \
        struct io io = {.out = out};                                                               \
        struct record_##name copy = *rec;                                                          \
                                                                                                   \
        io_start(&io, KIND_##name);                                                                \
        io_##name(&io, &copy);                                                                     \
        return enc_end(&io, #name, reterr);                                                        \
    }                                                                                              \
    enum rc record_##name##_decode(struct slice value, struct record_##name *ret,                  \
                                   struct err *reterr)                                             \
    {                                                                                              \
        struct io io = {.p = value.p, .left = value.n};                                            \
                                                                                                   \
        memset(ret, 0, sizeof(*ret));                                                              \
        io_start(&io, KIND_##name);                                                                \
        io_##name(&io, ret);                                                                       \
        return dec_end(&io, #name, reterr);                                                        \
    }
RECORD_TYPES(RECORD_CODEC)

enum rc record_series_put(struct record_out *out, const struct record_series_slice *s)
{
    struct io io = {.out = out};
    struct record_series_slice copy = *s;

    io_series_slice(&io, &copy);
    return io.bad != NULL ? RC_INVAL : out->rc;
}

enum rc record_series_next(struct slice *list, struct record_series_slice *ret)
{
    struct io io = {.p = list->p, .left = list->n};
    struct record_series_slice s = {.version = 0};

    if (list->n == 0) return RC_RANGE;
    io_series_slice(&io, &s);
    if (io.bad != NULL) return RC_CORRUPT;
    *list = (struct slice){io.p, io.left};
    *ret = s;
    return RC_OK;
}

enum rc record_manifest_covered(struct slice value, struct slice *ret_covered)
{
    if (value.n < 34 || value.p[0] != RECORD_FORMAT || value.p[1] != RECORD_MANIFEST) {
        return RC_CORRUPT;
    }
    *ret_covered = (struct slice){value.p, value.n - 32};
    return RC_OK;
}

enum rc record_manifest_find(const struct record_manifest *m, uint64_t offset,
                             struct record_place *ret)
{
    for (uint32_t i = 0; i < m->extents_n; i++) {
        const struct record_extent *e = &m->extents[i];
        uint32_t chunk_bytes;
        uint64_t in_extent, from;

        if (offset < e->object_offset || offset - e->object_offset >= e->length) continue;
        in_extent = offset - e->object_offset;
        chunk_bytes = m->bodies[e->body_idx].chunk_bytes;
        from = (uint64_t)e->chunk_index * chunk_bytes + e->offset_in_chunk + in_extent;
        *ret = (struct record_place){.extent_idx = i,
                                     .body_idx = e->body_idx,
                                     .chunk_index = (uint32_t)(from / chunk_bytes),
                                     .offset_in_chunk = (uint32_t)(from % chunk_bytes)};
        ret->run_bytes = MIN(e->length - in_extent, (uint64_t)chunk_bytes - ret->offset_in_chunk);
        return RC_OK;
    }
    return RC_RANGE;
}
