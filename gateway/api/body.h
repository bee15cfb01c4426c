/* gateway/api/body.h - writes one body: plaintext in, sealed chunks on the replicas, digests out.
 *
 * Chunks are sealed as bytes come and written while the next one fills: at most BODY_INFLIGHT_MAX
 * are in memory (their bytes are taken from gw->upload_bytes first, so that all uploads together
 * stay bounded). */
#pragma once
#include "common/crypto/chunk_seal.h"
#include "gateway/api/gw.h"

#define BODY_INFLIGHT_MAX 3u
#define BODY_SIZE_UNKNOWN UINT64_MAX

struct body_spec {
    struct id128 body, upload_id;
    struct key key;
    uint32_t pool, chunk_bytes;
    uint64_t owner_hash;
    uint64_t size_bytes;   /* or BODY_SIZE_UNKNOWN */
    uint32_t packed_n;     /* objects that share a chunk; 0: one object */
    uint64_t beside_bytes; /* memory that the caller holds beside each chunk */
};
struct body_chunk; /* one under way */
struct body_writer {
    struct gw *gw;
    struct body_spec spec;
    struct fcall *c; /* for deadlines; NULL: GW_CALL_MS each */
    uint64_t received;
    uint32_t chunks;
    struct tree_join tree;
    struct body_chunk *filling;
    bool keep; /* a body of one chunk: it stays here, for a transaction to take along */
    struct body_chunk *kept; /* sealed, not sent */
    struct fiber_group writing;
    struct fiber_cond room;
    uint32_t inflight;
    uint8_t *plain; /* unknown size: the chunk that fills */
    uint32_t plain_n;
    enum rc rc; /* of a chunk that failed */
    struct err err;
};
void body_begin(struct body_writer *w, struct gw *gw, struct fcall *c,
                const struct body_spec *spec);
MUST_CHECK enum rc body_write(struct body_writer *w, const void *p, size_t n, struct err *reterr);
/* All durable, or kept; tree-sha256 of the bytes. RC_INVAL: fewer bytes than promised. */
MUST_CHECK enum rc body_finish(struct body_writer *w, uint8_t ret_tree[TREE_DIGEST_BYTES],
                               struct err *reterr);
/* Always; waits for what is under way. A kept chunk goes, and is counted no more. */
void body_end(struct body_writer *w);

/* One chunk of known length, sealed from pieces as they come (PutChunk). */
struct body_chunk {
    struct gw *gw;
    struct body_writer *w; /* or NULL */
    struct route_chunk put;
    struct bulk_buf *buf;
    uint8_t *tags;
    struct chunk_leaf *leaves;
    uint32_t leaves_n, filled;
    uint64_t held_bytes;
    struct chunk_sealer *sealer;
    uint64_t left_ms;
};
MUST_CHECK enum rc body_chunk_new(struct gw *gw, const struct body_spec *spec, uint32_t index,
                                  uint32_t plain_bytes, struct body_chunk **ret,
                                  struct err *reterr);
MUST_CHECK enum rc body_chunk_fill(struct body_chunk *k, const void *p, size_t n,
                                   struct err *reterr);
/* After the last byte: digest and leaves are known. */
MUST_CHECK enum rc body_chunk_sealed(struct body_chunk *k, struct err *reterr);
MUST_CHECK enum rc body_chunk_put(struct body_chunk *k, uint64_t left_ms, struct err *reterr);
void body_chunk_free(struct body_chunk *k);

/* For owners that are no objects (a model, a mask): the MANIFEST value of one body, or of bytes
 * sealed in it, with its MAC, for the row `key`. */
MUST_CHECK enum rc body_manifest(const struct gw_case *cs, const struct body_spec *spec,
                                 struct slice key, struct slice sealed_inline, struct arena *a,
                                 struct slice *ret, struct err *reterr);
/* Its chunks, wherever they are; what could not be dropped is logged. size_bytes 0: it has none. */
void body_drop(struct gw *gw, const struct body_spec *spec);
