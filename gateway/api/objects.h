/* gateway/api/objects.h - the handlers of mikura.v1.Objects, by file. */
#pragma once
#include "common/fiber/rpc_fiber.h"

/* objects_read.c */
enum rc objects_read(struct fcall *c, struct err *reterr);
enum rc objects_stat(struct fcall *c, struct err *reterr);
enum rc objects_list(struct fcall *c, struct err *reterr);
/* objects_write.c */
enum rc objects_begin_upload(struct fcall *c, struct err *reterr);
enum rc objects_put_chunk(struct fcall *c, struct err *reterr);
enum rc objects_list_chunks(struct fcall *c, struct err *reterr);
enum rc objects_complete(struct fcall *c, struct err *reterr);
enum rc objects_abort(struct fcall *c, struct err *reterr);
enum rc objects_put_object(struct fcall *c, struct err *reterr);
enum rc objects_commit_case(struct fcall *c, struct err *reterr);
/* objects_delete.c */
enum rc objects_delete(struct fcall *c, struct err *reterr);
