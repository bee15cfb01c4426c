/* gateway/query/query.h - the language of Catalog.Query: parsed once, evaluated per object version.
 *
 *   collection = radiology and (dicom.Modality in ("CT", "MR") or image.width >= 256)
 *
 * Grammar and meaning: README.md. A query is immutable after parsing; any number of threads may
 * evaluate it. No allocation but the one block of query_parse(). */
#pragma once
#include "common/base/rc.h"

#define QUERY_BYTES_MAX 16384u
#define QUERY_NODES_MAX 1024u
#define QUERY_DEPTH_MAX 64u

struct query;
/* An attribute of the object under test. */
enum query_type { QUERY_ABSENT = 0, QUERY_TEXT, QUERY_INT, QUERY_REAL };
struct query_value {
    enum query_type type;
    struct slice text;
    int64_t integer;
    double real;
};
/* name is an attribute's, or one of collection, case, path, media_type, size. */
typedef struct query_value (*query_get)(void *ctx, struct slice name);

/* RC_INVAL: ret err's message names the token; *ret_column (may be NULL) is its byte, from 1.
 * RC_NOMEM. text is copied. */
MUST_CHECK enum rc query_parse(struct slice text, struct query **ret_query, uint32_t *ret_column,
                               struct err *reterr);
void query_free(struct query *q);
bool query_match(const struct query *q, query_get get, void *ctx);

/* Which collections can match at all: calls add(name) for each, in the order of the text, perhaps
 * twice. false: not bounded (any collection may match); the names given are then meaningless. */
bool query_collections(const struct query *q, void (*add)(void *ctx, struct slice name), void *ctx);
