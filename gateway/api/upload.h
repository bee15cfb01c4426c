/* gateway/api/upload.h - the shell of gateway/ingest/upload_core: carries its actions out for one
 * request. */
#pragma once
#include "gateway/api/body.h"
#include "gateway/api/object.h"
#include "gateway/ingest/upload_core.h"

/* What an object becomes; made by the caller before COMPLETE, or gathered from CHUNK rows. */
struct upload_content {
    uint64_t size_bytes;
    struct object_digests digests;
    struct slice inline_plain; /* up to RECORD_INLINE_MAX bytes, else empty with chunks */
    bool is_inline;
    struct slice head;           /* the first IMAGE_SNIFF_BYTES, or all; empty: to be read back */
    const struct slice *at_hand; /* all bytes, while they are in memory; NULL: read back */
};
struct upload {
    struct fcall *c;
    struct gw *gw;
    const struct gw_collection *col;
    struct gw_case *cs;
    struct upload_request req;
    const Mikura__V1__UploadSpec *spec;    /* BEGIN, one-shot COMPLETE */
    struct upload_content *content;        /* COMPLETE: known already; NULL: gather */
    const Mikura__V1__Digest *expected;    /* COMPLETE */
    struct body_chunk *chunk;              /* CHUNK */
    struct body_chunk **held;              /* the object's only chunk, kept by its writer: goes with
                                              the first entry, *held NULL then; or NULL */
    struct record_session session_scratch; /* MADE */
    struct slice manifest;
    struct record_index *index;
    struct object_digests gathered;
    uint64_t sha256_verified, sha256_claimed; /* objects of a commit by their plain SHA-256 */
    bool txn_sent;                            /* out: an entry went out */
    char **reasons;                           /* out, COMPLETE: why the gate holds it back */
    size_t n_reasons;
    struct id128 body; /* out, COMPLETE: of the object, maybe an earlier try's */
};
/* Runs req to its answer. RC_OK: *ret is the ANSWER action; slices in it live in the call's arena.
 */
MUST_CHECK enum rc upload_run(struct upload *u, struct upload_action *ret, struct err *reterr);
/* INDEX and MANIFEST of one object whose bytes are durable: inspected, held against the gate,
 * sealed. o: path, version, keys; m: bodies and extents. Results in u->index, manifest, gathered,
 * reasons. */
MUST_CHECK enum rc upload_object_rows(struct upload *u, struct gw_object *o,
                                      struct record_manifest *m,
                                      const struct upload_content *content,
                                      const Mikura__V1__UploadSpec *spec, struct slice media_type,
                                      uint64_t stage, struct err *reterr);
/* A session's row, decoded into the arena; its version. RC_NOTFOUND. */
MUST_CHECK enum rc upload_session(struct fcall *c, const struct gw_case *cs, const struct id128 *id,
                                  struct record_session **ret, uint64_t *ret_version,
                                  uint64_t *ret_tick, struct err *reterr);
/* Its body's key. */
MUST_CHECK enum rc upload_body_spec(struct gw *gw, const struct gw_case *cs,
                                    const struct id128 *upload_id, const struct record_session *s,
                                    struct body_spec *ret, struct err *reterr);
/* Facts found in the content of a stored, not yet visible object (inspect.h). */
struct gw_facts {
    char media_type[128];
    Mikura__V1__Attribute **attributes; /* in the arena */
    size_t n_attributes;
};
/* A TXN action as the router takes it. */
void upload_txn_of(const struct upload_action *act,
                   struct gw_compare ret_compares[UPLOAD_COMPARES_MAX],
                   struct gw_put ret_puts[UPLOAD_PUTS_MAX]);
