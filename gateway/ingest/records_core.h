/* gateway/ingest/records_core.h - keys and bytes of every record that the gateway keeps in groups.
 *
 * A row key is 'r', the 32-byte anchor of its owner (a case, a collection, a job, a model), a kind
 * and the rest; the anchor is SHA-256 over immutable ids (README.md) and its first 8 bytes are the
 * placement hash, big-endian. So an owner's rows lie in one group, sort together, and a group
 * splits by key range. A list key is 'l', a scope, a name, zero, and the placement hash at its end:
 * listing a scope by name is a merge of one scan per group.
 *
 * Every value starts with format u8 and kind u8. Decoded slices borrow from the value. Decoding
 * checks every length and refuses bytes left over (RC_CORRUPT); encoding fails with RC_INVAL when a
 * limit is broken and RC_NOMEM when `out` is too small. Pure; formats to the byte are in README.md.
 *
 * In clear: what no field calls sealed. Sealed fields are opaque bytes here. */
#pragma once
#include "common/base/id128.h"
#include "common/base/rc.h"

#define RECORD_FORMAT         1u
#define RECORD_ANCHOR_BYTES   32u
#define RECORD_KEY_BYTES_MAX  2048u
#define RECORD_NAME_BYTES_MAX 1024u
#define RECORD_EXTENTS_MAX    256u /* consecutive chunks of a body are one extent */
#define RECORD_BODIES_MAX     16u
#define RECORD_INLINE_MAX     65536u /* plain bytes; the sealed form is a little longer */
#define RECORD_SEALED_MAX     (128u << 10)
#define RECORD_GRANTS_MAX     256u
#define RECORD_FIELDS_MAX     64u
#define RECORD_PARAMS_MAX     32u
#define RECORD_ATTRS_MAX      64u
#define RECORD_TASK_ITEMS_MAX 256u
#define RECORD_VALUE_MAX      (1u << 20) /* as storage says */
#define RECORD_LEAVES_MAX     64u        /* of 1 MiB in a chunk of at most 64 MiB */
#define RECORD_PACK_MAX       64u        /* objects in one body: one entry brings all their rows */
#define RECORD_SLICES_MAX     2048u      /* of a series: a CT of the whole body at 1 mm */

/* ---- keys ---- */

enum record_kind {
    /* anchored at a case: SHA-256("mikura case 1", collection UUID, case id) */
    RECORD_HEAD = 1,     /* small, changed by commit, delete and withdrawal only */
    RECORD_CASE = 2,     /* identity, wrapped case key */
    RECORD_DOCUMENT = 3, /* sealed */
    RECORD_SESSION = 4,  /* + upload id */
    RECORD_CHUNK = 5,    /* + upload id, index BE u32 */
    RECORD_INDEX = 6,    /* + path, zero, ~version BE u64: an object's newest version comes first */
    RECORD_MANIFEST = 7, /* + as INDEX */
    RECORD_COMMIT = 8,   /* + generation BE u64 */
    RECORD_TOMB = 9,     /* + body: chunks to be dropped */
    /* anchored at the placement hash alone, so that a chunk's record (owner's hash, upload id)
     * leads to it: + upload id; value: a session */
    RECORD_CLAIM = 10,
    RECORD_PACK = 11, /* anchored at the case, + body: who shares it, so that the last one's end is
                         the body's */
    RECORD_DELETION = 12, /* + request id: what that request deleted */
    /* anchored at a collection: SHA-256("mikura collection 1", name) */
    RECORD_COLLECTION = 16,
    /* anchored at a job: SHA-256("mikura job 1", job id) */
    RECORD_JOB = 32,
    RECORD_TASK = 33,   /* + task BE u64 */
    RECORD_ITEM = 34,   /* + item BE u32 */
    RECORD_RESULT = 35, /* + item BE u32 */
    RECORD_MASK = 37,   /* + item BE u32 */
    RECORD_SERIES = 36, /* + item BE u32: the objects of an item that is a DICOM series */
    /* anchored at a model's name: SHA-256("mikura model 1", name) */
    RECORD_MODEL = 48, /* + version BE u64 */
    /* values of list rows */
    RECORD_LIST = 64,
    /* in a data group, key 'g': how far its chunks were looked at */
    RECORD_COLLECT = 65,
};
struct record_anchor {
    uint8_t b[RECORD_ANCHOR_BYTES]; /* made in gateway/ingest/anchor.h */
};
static inline uint64_t record_anchor_hash(const struct record_anchor *a)
{
    uint64_t v = 0;

    for (int i = 0; i < 8; i++)
        v = (v << 8) | a->b[i];
    return v;
}
/* Bytes written go to p[n..cap). rc becomes RC_NOMEM when they do not fit; n is then undefined. */
struct record_out {
    uint8_t *p;
    size_t n, cap;
    enum rc rc;
};
static inline struct slice record_out_slice(const struct record_out *o)
{
    return (struct slice){o->p, o->n};
}
/* Each gives the key's length; out holds RECORD_KEY_BYTES_MAX. path has at most
 * RECORD_NAME_BYTES_MAX bytes and no zero byte (gateway/ingest/name.h checked it): CHECKed. */
size_t record_key(const struct record_anchor *a, enum record_kind kind, uint8_t *out);
size_t
record_key_id(const struct record_anchor *a, enum record_kind kind, const struct id128 *id,
              uint8_t *out); /* SESSION, TOMB, PACK, DELETION; prefix of a session's CHUNK rows */
size_t record_key_claim(uint64_t placement_hash, const struct id128 *upload, uint8_t *out);
size_t record_key_chunk(const struct record_anchor *a, const struct id128 *upload, uint32_t index,
                        uint8_t *out);
size_t record_key_number(const struct record_anchor *a, enum record_kind kind, uint64_t n,
                         uint8_t *out); /* COMMIT, TASK, MODEL; ITEM, RESULT, SERIES, MASK (u32) */
/* version 0: the prefix of all versions of the path (a scan's start). */
size_t record_key_object(const struct record_anchor *a, enum record_kind kind, struct slice path,
                         uint64_t version, uint8_t *out);
/* Start of the scan of the INDEX rows whose path starts with prefix; its end is record_key_after().
 */
size_t record_key_path_prefix(const struct record_anchor *a, enum record_kind kind,
                              struct slice prefix, uint8_t *out);
/* The first key greater than every key that starts with key[0..n): in place; returns its length, 0
 * = no such key. */
size_t record_key_after(uint8_t *key, size_t n);
/* Path and version of an INDEX or MANIFEST key, number of a numbered one, index of a CHUNK one.
 * RC_CORRUPT. */
MUST_CHECK enum rc record_key_parse_object(struct slice key, struct slice *ret_path,
                                           uint64_t *ret_version);
MUST_CHECK enum rc record_key_parse_number(struct slice key, uint64_t *ret_n);

/* Scopes of list rows: a collection's id for its cases, or one of these. */
extern const struct id128 record_scope_collections, record_scope_jobs, record_scope_models,
    record_scope_tombs, record_scope_sessions;
/* name: at most RECORD_NAME_BYTES_MAX; jobs: ~submitted_unix_ms BE u64 as 16 hex digits, then the
 * job id in hex, so that the newest comes first. */
size_t record_list_key(const struct id128 *scope, struct slice name, uint64_t placement_hash,
                       uint8_t *out);
size_t record_list_prefix(const struct id128 *scope, struct slice name_prefix, uint8_t *out);
/* Where the sweep finds a TOMB row: the name is anchor and body in hexadecimal. */
size_t record_tomb_list_key(const struct record_anchor *a, const struct id128 *body, uint8_t *out);
MUST_CHECK enum rc record_list_parse(struct slice key, struct slice *ret_name,
                                     uint64_t *ret_placement_hash);

/* ---- values ---- */

struct record_wrapped {   /* a key under another key */
    struct id128 wrapper; /* id of the wrapping key */
    struct slice bytes;   /* at most 256 */
};
/* One fact in clear: the collection's index fields. */
enum record_attr_type { RECORD_ATTR_TEXT = 1, RECORD_ATTR_INT = 2, RECORD_ATTR_REAL = 3 };
struct record_attr {
    struct slice name; /* 1..128 */
    uint8_t type;
    struct slice text; /* at most 1024 */
    int64_t integer;
    double real;
};

enum record_case_state {
    RECORD_CASE_OPEN = 1,
    RECORD_CASE_PUBLISHED = 2,
    RECORD_CASE_WITHDRAWN = 3,
};
/* Rows of objects carry the stage they were completed in; those with stage <= visible are visible.
 * Completes compare the head's version, so none can slip under a commit. A commit first closes the
 * stage (closing = stage, stage + 1), counts what lies in (visible, closing], then publishes:
 * visible = closing, generation + 1. See README.md. An object that the de-identification gate holds
 * back lies in a stage that no case ever reaches: neither visible nor counted. */
#define RECORD_STAGE_QUARANTINE (1ull << 63)
struct record_head {
    uint8_t state;                                /* enum record_case_state */
    uint64_t generation, stage, visible, closing; /* stage from 1; closing 0 = none */
    struct id128 closing_request, last_request;   /* of the commit under way; of `generation` */
    uint64_t objects, bytes_stored;               /* visible, newest versions */
    int64_t committed_unix_ms;
    /* Highest version number of any object here that was deleted or dropped: none is given again,
     * since jobs, receipts and senders name versions. 0 is not written (as before there was this
     * field). */
    uint64_t version_floor;
};
struct record_case {
    struct id128 collection;
    struct slice case_id, facility;
    struct record_wrapped key;
    uint64_t document_version; /* 0 = none */
    int64_t created_unix_ms;
};
struct record_document {
    uint64_t version;
    struct slice sealed; /* JSON under the case key; at most RECORD_VALUE_MAX - 64 */
};
enum record_session_state {
    RECORD_SESSION_OPEN = 1,
    RECORD_SESSION_COMPLETED = 2,
    RECORD_SESSION_ABORTED = 3,
};
struct record_session {
    uint8_t state;
    uint8_t size_unknown;
    uint8_t expired;                      /* aborted by time, not by its owner */
    struct slice path, media_type, owner; /* owner: certificate URI */
    uint64_t size_bytes;
    uint32_t chunk_bytes, chunks, data_pool;
    struct id128 body;
    struct record_wrapped body_key;
    uint8_t fingerprint[32]; /* keyed digest of the request: another one with its id is refused */
    uint64_t expire_tick;    /* the last tick at which it lives; a touch moves it */
    uint32_t ttl_ticks;
    struct slice sealed_spec; /* claimed digest, user metadata; empty once completed */
    uint64_t version, stage;  /* COMPLETED: of the object */
};
struct record_chunk { /* in the case's group: what arrived */
    uint32_t plain_bytes;
    struct id128 seal_id;
    uint8_t plain_digest[32];   /* keyed: same plaintext of one body, same bytes */
    struct slice sealed_leaves; /* 32 bytes per MiB, sealed under the case key */
};
struct record_index { /* one object version, small, for lists and queries */
    uint64_t stage;
    uint8_t delete_marker, hold;
    uint64_t size_bytes;
    int64_t stored_unix_ms, retain_until_unix_ms;
    struct slice media_type;
    struct slice sealed_digests; /* tree-sha256, claimed SHA-256 and whether it was verified */
    uint32_t attrs_n;
    struct record_attr attrs[RECORD_ATTRS_MAX];
};
struct record_body {
    struct id128 id;
    uint32_t pool, chunk_bytes;
    uint64_t size_bytes;
    struct record_wrapped key;
};
/* length bytes from offset_in_chunk of chunk chunk_index on, running on into the next chunks of the
 * body. */
struct record_extent {
    uint64_t object_offset, length;
    uint32_t body_idx; /* in bodies */
    uint32_t chunk_index, offset_in_chunk;
};
struct record_manifest {
    uint64_t size_bytes;
    uint32_t bodies_n, extents_n;
    struct record_body bodies[RECORD_BODIES_MAX];
    struct record_extent extents[RECORD_EXTENTS_MAX]; /* ascending, without a gap; none if inline */
    struct slice sealed_inline;                       /* the object's bytes, or empty */
    struct slice sealed_attrs; /* attributes that are not index fields, user metadata */
    uint8_t mac[32]; /* HMAC-SHA256, key from the case key, over key length u16, key, covered */
};
struct record_commit {
    struct id128 request;
    uint64_t generation, stage_after, stage_upto; /* covers stages (after, upto] */
    uint64_t count;
    uint8_t root[32];
    struct slice receipt, signature; /* exactly as signed */
    struct slice key_id;
    int64_t committed_unix_ms;
};
struct record_deletion {
    struct slice path;
    uint64_t version; /* asked for; 0 = all */
    uint64_t versions_deleted, generation;
    int64_t deleted_unix_ms;
};
struct record_tomb {
    struct id128 upload;
    uint32_t pool, chunks;
    uint32_t confirmed; /* chunks [0, confirmed) are dropped in their groups */
    uint64_t owner_hash;
    int64_t since_unix_ms;
};

struct record_pack_object {
    struct slice path;
    uint64_t version;
};
struct record_pack {
    struct id128 upload;
    uint32_t objects_n;
    struct record_pack_object objects[RECORD_PACK_MAX]; /* as they lie in the body */
};

struct record_grant {
    struct slice subject; /* certificate URI */
    uint8_t role;         /* GrantRole of catalog.proto */
};
struct record_collection {
    struct id128 id;
    struct slice name, kind, deid_profile, society;
    uint8_t unchecked;
    uint32_t chunk_bytes, meta_pool, data_pool, target_hospitals;
    uint64_t quota_bytes, target_cases;
    struct record_wrapped key;
    struct id128 request; /* that made it: a retry gets this record */
    int64_t created_unix_ms;
    uint32_t fields_n, grants_n;
    struct slice fields[RECORD_FIELDS_MAX]; /* index fields */
    struct record_grant grants[RECORD_GRANTS_MAX];
};

struct record_param {
    struct slice name, value;
};
/* state, device: JobState, Device of jobs.proto. */
struct record_job {
    struct id128 id, request;
    struct slice owner, message, kind, model, cohort, software;
    uint8_t state, device;
    uint8_t model_sha256[32];
    uint32_t params_n;
    struct record_param params[RECORD_PARAMS_MAX];
    uint32_t items, tasks;
    uint32_t items_done, items_set_aside; /* as of the last write; exact once ended */
    uint64_t bytes_read;
    int64_t submitted_unix_ms, ended_unix_ms;
};
enum record_task_state { RECORD_TASK_OPEN = 1, RECORD_TASK_OUT = 2, RECORD_TASK_DONE = 3 };
enum record_item_state { RECORD_ITEM_OPEN = 0, RECORD_ITEM_DONE = 1, RECORD_ITEM_ASIDE = 2 };
struct record_task_item {
    uint32_t item; /* index in the cohort */
    uint8_t state, failures;
    uint8_t out; /* part of the attempt that is out */
};
struct record_task {
    uint8_t state;
    uint32_t attempt; /* the fence: of the last hand-out, from 1 */
    uint32_t losses;  /* attempts whose worker went away */
    struct slice worker;
    uint32_t host, rack, zone; /* where most of its bytes lie; 0 = anywhere */
    uint64_t bytes;
    uint32_t items_n;
    struct record_task_item items[RECORD_TASK_ITEMS_MAX];
};
struct record_item { /* an input, exact; a series: path empty, version 0, all sizes together */
    struct id128 collection_id;
    struct slice collection, case_id, path, media_type;
    uint64_t version, size_bytes;
};
struct record_series_slice {
    struct slice path;
    uint64_t version, size_bytes;
};
struct record_series { /* of the item's case */
    struct slice uid;  /* SeriesInstanceUID: in clear, as the study's, which is the case id */
    uint32_t slices_n; /* 1..RECORD_SLICES_MAX */
    struct slice list; /* by path: record_series_put(), record_series_next() */
};
struct record_mask { /* of an item's segmentation, as a file */
    uint32_t attempt;
    struct id128 upload; /* of its chunks, where it has any */
    struct slice media_type;
    uint8_t sha256[32];
    struct slice manifest; /* a MANIFEST value under the key of the item's case */
};
struct record_result {
    uint32_t attempt;
    struct slice label, reason, device, worker;
    struct slice detail; /* packed mikura.v1.ItemResult, at most 64 KiB */
};
struct record_model {
    struct slice name;
    uint64_t version, size_bytes;
    uint8_t sha256[32];
    struct slice detail;       /* packed mikura.v1.Model, at most 64 KiB */
    struct slice manifest;     /* a MANIFEST value: where its bytes lie */
    struct record_wrapped key; /* of the model, under the master key; wraps its body keys */
};
struct record_list {             /* value of a list row */
    struct record_anchor anchor; /* of the thing listed */
    int64_t created_unix_ms;
};

struct record_collect { /* of a data group: which of its chunks have been looked at */
    uint64_t done;      /* those that came by an entry up to this one */
    uint64_t seen;      /* what the log had at ... */
    uint64_t seen_tick; /* ... this tick: looked at next, when it is old enough */
};

#define RECORD_TYPES(X)                                                                            \
    X(head)                                                                                        \
    X(case)                                                                                        \
    X(document)                                                                                    \
    X(session)                                                                                     \
    X(chunk)                                                                                       \
    X(index)                                                                                       \
    X(manifest)                                                                                    \
    X(commit)                                                                                      \
    X(tomb)                                                                                        \
    X(pack)                                                                                        \
    X(deletion)                                                                                    \
    X(collection)                                                                                  \
    X(job)                                                                                         \
    X(task)                                                                                        \
    X(item)                                                                                        \
    X(result)                                                                                      \
    X(series)                                                                                      \
    X(mask)                                                                                        \
    X(model)                                                                                       \
    X(list)                                                                                        \
    X(collect)
/* record_head_encode(rec, out), record_head_decode(value, ret, reterr), ... for each of them.
 * Encode appends to out: RC_OK, RC_INVAL (a limit; reterr names it), RC_NOMEM. Decode: RC_OK or
 * RC_CORRUPT. */
#define RECORD_DECL(name)                                                                          \
    MUST_CHECK enum rc record_##name##_encode(const struct record_##name *rec,                     \
                                              struct record_out *out, struct err *reterr);         \
    MUST_CHECK enum rc record_##name##_decode(struct slice value, struct record_##name *ret,       \
                                              struct err *reterr);
RECORD_TYPES(RECORD_DECL)
#undef RECORD_DECL

/* A series' list. put: appends to out; RC_NOMEM. next: takes the first off list; RC_RANGE: none is
 * left; RC_CORRUPT. */
MUST_CHECK enum rc record_series_put(struct record_out *out, const struct record_series_slice *s);
MUST_CHECK enum rc record_series_next(struct slice *list, struct record_series_slice *ret);
/* The bytes of a MANIFEST value that its MAC covers: all but the last 32. RC_CORRUPT. */
MUST_CHECK enum rc record_manifest_covered(struct slice value, struct slice *ret_covered);
/* Where byte `offset` (< size) of the object lies: extent idx, chunk and offset in it, and how many
 * bytes follow in that chunk and extent. RC_RANGE. */
struct record_place {
    uint32_t extent_idx, body_idx, chunk_index, offset_in_chunk;
    uint64_t run_bytes;
};
MUST_CHECK enum rc record_manifest_find(const struct record_manifest *m, uint64_t offset,
                                        struct record_place *ret);
