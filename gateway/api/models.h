/* gateway/api/models.h - models by name and version; their bytes. */
#pragma once
#include "gateway/api/object.h"
#include "proto/mikura/v1/models.pb-c.h"

struct gw_model {
    struct record_anchor anchor;
    struct record_model rec; /* slices in the arena */
};
/* spec: "name" (its newest version) or "name@version". RC_NOTFOUND says how to list them. */
MUST_CHECK enum rc gw_model_find(struct gw *gw, const char *spec, struct arena *a, uint64_t left_ms,
                                 struct gw_model *ret, struct err *reterr);
/* As it is told to clients: shapes, classes, ... */
MUST_CHECK enum rc gw_model_message(const struct gw_model *m, struct arena *a,
                                    Mikura__V1__Model **ret, struct err *reterr);
/* Work.FetchModel */
enum rc gw_model_fetch(struct fcall *c, struct err *reterr);
