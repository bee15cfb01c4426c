/* gateway/api/inspect.h - what an object's content says of itself: media type and attributes for
 * queries.
 *
 * Content is untrusted: only its first bytes are looked at here (a table of magic numbers); parsing
 * happens in a child process without keys, network or files (inspect.c). A child that dies, hangs
 * or asks for too much costs that object's attributes only. */
#pragma once
#include "common/image/deid/deid.h"
#include "gateway/api/object.h"
#include "gateway/api/upload.h"

struct gw_inspector; /* the pool of children */
/* program: path of mikura-inspect. */
MUST_CHECK enum rc gw_inspector_open(struct gw *gw, const char *program, struct gw_inspector **ret,
                                     struct err *reterr);
void gw_inspector_close(struct gw_inspector *in);
/* o: stored, not yet visible. plain: its bytes when they are inline. head: its first bytes, at
 * least IMAGE_SNIFF_BYTES of them or all; empty: they are read back. RC_OK also when nothing was
 * found. */
MUST_CHECK enum rc gw_inspect(struct gw *gw, const struct gw_case *cs, const struct gw_object *o,
                              const struct slice *plain, struct slice head, struct arena *a,
                              uint64_t left_ms, struct gw_facts *ret, struct err *reterr);

/* The gate: what a shipped de-identification profile says of an object (its path too). A parser
 * that dies or hangs makes it refused. RC_UNAVAIL: it cannot be checked here; it must not be
 * stored. */
#define GW_REASONS_MAX 64u
#define GATE_REASON    "deid.reason" /* attribute of what is held back, one each */
struct gw_verdict {
    struct arena *a;
    enum deid_outcome outcome;
    char *reasons[GW_REASONS_MAX]; /* "identity (0010,0010) PatientName": never a value */
    size_t n_reasons;
};
MUST_CHECK enum rc gw_deid(struct gw *gw, const struct gw_case *cs, const struct gw_object *o,
                           const struct slice *plain, const char *profile, struct arena *a,
                           uint64_t left_ms, struct gw_verdict *ret, struct err *reterr);
