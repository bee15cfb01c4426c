/* gateway/api/objects.h - the handlers of mikura.v1.Objects, by file. */
#pragma once
#include "common/fiber/rpc_fiber.h"

/* objects_read.c */
enum rc objects_read(struct fcall *c, struct err *reterr);
enum rc objects_stat(struct fcall *c, struct err *reterr);
enum rc objects_list(struct fcall *c, struct err *reterr);
