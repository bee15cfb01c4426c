/* gateway/ingest/name.h - the rules of names (proto/mikura/v1/common.proto): UTF-8 in NFC, 1 to
 * 1024 bytes, no control characters; a path's segments neither empty nor '.' nor '..'. The messages
 * name the rule that is broken, and the byte, never the name itself (it may be a person's). */
#pragma once
#include "common/base/rc.h"

#define NAME_BYTES_MAX 1024u

/* RC_OK, RC_INVAL, RC_NOMEM. A case id is one name: '/' is allowed nowhere in it. */
MUST_CHECK enum rc name_check_case(struct slice name, struct err *reterr);
MUST_CHECK enum rc name_check_path(struct slice path, struct err *reterr);
/* 1 to 63 of [a-z0-9-], starting with a letter: collections and models. */
MUST_CHECK enum rc name_check_collection(struct slice name, struct err *reterr);
