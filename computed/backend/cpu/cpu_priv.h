/* computed/backend/cpu/cpu_priv.h - nodes as oneDNN primitives. */
#pragma once
#include "computed/backend/ref/ref.h"
#include <oneapi/dnnl/dnnl.h>

/* A primitive for node n of g (constants still readable), or *ret NULL where oneDNN has none for it
 * or this backend prefers ref's (README.md). RC_NOMEM. */
MUST_CHECK enum rc cpu_node(dnnl_engine_t engine, dnnl_stream_t stream, const struct be_graph *g,
                            const struct be_node *n, struct ref_special **ret, struct err *reterr);
/* OUT_OF_MEMORY: RC_NOMEM, else RC_INTERNAL. */
enum rc rc_from_dnnl(dnnl_status_t s);
