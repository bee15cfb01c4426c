/* gateway/api/objects.h - the handlers of mikura.v1.Objects, by file. */
#pragma once
#include "common/fiber/rpc_fiber.h"
#include "gateway/api/object.h"

/* objects_read.c */
enum rc objects_read(struct fcall *c, struct err *reterr);
enum rc objects_stat(struct fcall *c, struct err *reterr);
enum rc objects_list(struct fcall *c, struct err *reterr);
/* objects_write.c */
/* What every write begins with: the caller may write, the case is there (create: made if need be).
 * Its key is to be wiped. */
struct writing {
    struct gw_collection *col;
    struct gw_case *cs;
};
MUST_CHECK enum rc objects_open_writing(struct fcall *c, const char *collection,
                                        const char *case_id, bool create, struct writing *ret,
                                        struct err *reterr);
MUST_CHECK enum rc objects_request_id(const Mikura__V1__RequestId *id, struct id128 *ret,
                                      struct err *reterr);
enum rc objects_begin_upload(struct fcall *c, struct err *reterr);
enum rc objects_put_chunk(struct fcall *c, struct err *reterr);
enum rc objects_list_chunks(struct fcall *c, struct err *reterr);
enum rc objects_complete(struct fcall *c, struct err *reterr);
enum rc objects_abort(struct fcall *c, struct err *reterr);
enum rc objects_put_object(struct fcall *c, struct err *reterr);
enum rc objects_commit_case(struct fcall *c, struct err *reterr);
/* An object as Complete answers it, in the call's arena; NULL: no memory. idx NULL: nothing known.
 */
Mikura__V1__StagedObject *objects_staged(struct fcall *c, const char *collection,
                                         const char *case_id, struct slice path, uint64_t version,
                                         uint64_t stage, const struct record_index *idx,
                                         const struct object_digests *d);
/* objects_delete.c */
/* Drops the chunks of a body that nothing refers to, now or later: a tombstone, swept soon. */
MUST_CHECK enum rc objects_body_tomb(struct fcall *c, const struct gw_case *cs,
                                     const struct id128 *body, uint32_t pool, uint32_t chunks,
                                     struct err *reterr);
enum rc objects_delete(struct fcall *c, struct err *reterr);
/* A version in quarantine, as objects_delete does it. RC_NOTFOUND: released or removed meanwhile.
 */
MUST_CHECK enum rc objects_delete_held(struct gw *gw, const struct gw_collection *col,
                                       const char *case_id, const char *path, uint64_t version,
                                       struct arena *a, struct err *reterr);
enum rc objects_drop_staged(struct fcall *c, struct err *reterr);
/* objects_pack.c */
enum rc objects_put_pack(struct fcall *c, struct err *reterr);
/* check.c */
enum rc objects_check_case(struct fcall *c, struct err *reterr);
/* quarantine.c */
enum rc objects_list_quarantine(struct fcall *c, struct err *reterr);
enum rc objects_release_quarantine(struct fcall *c, struct err *reterr);
/* Deletes what is held for longer than gw->quarantine_ms, in all collections with a profile: reads
 * the INDEX rows of each of their cases. */
MUST_CHECK enum rc objects_expire_quarantine(struct gw *gw, struct err *reterr);
