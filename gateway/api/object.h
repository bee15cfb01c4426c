/* gateway/api/object.h - one object version: found, authenticated, opened; and its bytes. */
#pragma once
#include "gateway/api/gw.h"
#include "proto/mikura/v1/objects.pb-c.h"

#define OBJECT_PIECE_BYTES (1u << 20) /* of a data message */
#define OBJECT_READ_BYTES  (1u << 20) /* asked of a replica at once */

/* Digests as they are sealed in the INDEX row: format u8 = 1, flags u8 (1 = SHA-256 there, 2 =
 * verified), tree-sha256 32, SHA-256 32 (or zero). Identity of the sealing: the INDEX row's key. */
#define OBJECT_DIGESTS_BYTES 66u
struct object_digests {
    uint8_t tree[32], sha256[32];
    bool has_sha256, sha256_verified;
};
MUST_CHECK enum rc object_digests_seal(const struct gw_case *cs, struct slice index_key,
                                       const struct object_digests *d, struct arena *a,
                                       struct slice *ret_sealed);
MUST_CHECK enum rc object_digests_open(const struct gw_case *cs, struct slice index_key,
                                       struct slice sealed, struct object_digests *ret,
                                       struct err *reterr);

/* As messages in the arena; false: out of memory. */
bool object_digest_messages(struct arena *a, const struct object_digests *d,
                            Mikura__V1__Digest ***ret, size_t *ret_n);

/* Does the manifest in the row `key` carry the MAC that belongs to its bytes, value? RC_CORRUPT.
 * what: whose it is, for the message. */
MUST_CHECK enum rc object_mac_check(const struct gw_case *cs, struct slice key, struct slice value,
                                    const struct record_manifest *m, const char *what,
                                    struct err *reterr);
/* A manifest's sealed_attrs; the message lies in the arena. key: the manifest's row. */
MUST_CHECK enum rc object_attributes_open(const struct gw_case *cs, struct slice key,
                                          struct slice sealed, struct arena *a,
                                          Mikura__V1__ObjectInfo **ret, struct err *reterr);

struct gw_object {
    struct slice path;
    uint64_t version;
    struct slice index_key, manifest_key;
    struct record_index index;
    struct record_manifest manifest;
    struct object_digests digests;
    const struct route_chunk *held; /* its only chunk, if that is not on the nodes yet; or NULL */
};
/* The version asked (0 = the newest visible one). RC_NOTFOUND. RC_CORRUPT: the manifest's MAC does
 * not fit. */
MUST_CHECK enum rc gw_object_find(struct gw *gw, const struct gw_case *cs, const char *path,
                                  uint64_t version, struct arena *a, uint64_t left_ms,
                                  struct gw_object **ret, struct err *reterr);
/* Case and object in one read, as gw_case and gw_object_find; keys are in *ret_cs until
 * gw_case_wipe. */
MUST_CHECK enum rc gw_object_open(struct gw *gw, const struct gw_collection *col,
                                  const char *case_id, const char *path, uint64_t version,
                                  struct arena *a, uint64_t left_ms, struct gw_case *ret_cs,
                                  struct gw_object **ret, struct err *reterr);
/* Its description; attributes are opened only with detail. */
MUST_CHECK enum rc gw_object_info(const struct gw_case *cs, const struct gw_object *o,
                                  const char *collection, const char *case_id, bool detail,
                                  struct arena *a, Mikura__V1__ObjectInfo **ret,
                                  struct err *reterr);
/* Plaintext of [offset, offset + length) in order, in pieces of at most OBJECT_PIECE_BYTES. emit
 * takes over the piece: owner_free(owner) when done with it. One read is ahead of emit. */
struct object_piece {
    const uint8_t *p;
    uint32_t n;
    void *owner;
    void (*owner_free)(void *owner);
};
MUST_CHECK enum rc gw_object_bytes(struct gw *gw, const struct gw_case *cs,
                                   const struct gw_object *o, uint64_t offset, uint64_t length,
                                   uint64_t left_ms,
                                   enum rc (*emit)(void *arg, const struct object_piece *piece),
                                   void *arg, struct err *reterr);
/* Visible newest versions of a case with a path prefix, in order of path. each: RC_RANGE ends well.
 */
struct gw_object_line {
    struct slice path, key;
    uint64_t version;
    struct record_index index;
};
MUST_CHECK enum rc gw_object_each(struct gw *gw, const struct gw_case *cs, struct slice prefix,
                                  struct slice after, uint64_t left_ms,
                                  enum rc (*each)(void *arg, const struct gw_object_line *line),
                                  void *arg, struct err *reterr);
/* One that the gate holds back, by its exact version; row_version: of its INDEX row. RC_NOTFOUND.
 */
MUST_CHECK enum rc gw_object_held(struct gw *gw, const struct gw_case *cs, const char *path,
                                  uint64_t version, struct arena *a, uint64_t left_ms,
                                  struct gw_object **ret, uint64_t *ret_row_version,
                                  struct err *reterr);
