/* computed/backend/ref/ref.h - every node of backend.h in plain C: the meaning
 * that others are compared with, and a backend of its own ("ref").
 *
 * Written for reading, not for speed; sums are kept in double, so that the
 * result hardly depends on their order. Pure functions on host memory. */
#pragma once
#include "computed/backend/backend.h"

/* Is the node one that ref_run() carries out (types, ranks)? RC_UNIMPL says
 * what is not. */
MUST_CHECK enum rc ref_check(const struct be_graph *g, const struct be_node *n, struct err *reterr);
/* One checked node. data: per tensor of the graph its host bytes; the output is
 * fully overwritten and does not overlap an input (BE_VIEW: it may be the input
 * itself). */
void ref_run(const struct be_graph *g, const struct be_node *n, void *const *data);

/* y = act(v) of one value. */
float ref_act(enum be_act act, float lo, float hi, float v);

/* Another way to carry out one node of a plan of "ref", for backends that do some nodes better and
 * leave the rest to it. data as for ref_run. Not RC_OK ends the run. */
struct ref_special {
    enum rc (*run)(struct ref_special *s, const struct be_graph *g, const struct be_node *n,
                   void *const *data, struct err *reterr);
    void (*free)(struct ref_special *s);
    size_t bytes; /* counted into plan_bytes */
};
/* p: a plan that ref_backend()->plan made; takes s. bytes_max: as in be_plan_conf; RC_NOMEM (s is
 * still the caller's). */
MUST_CHECK enum rc ref_plan_special(struct be_plan *p, uint32_t node_idx, struct ref_special *s,
                                    size_t bytes_max, struct err *reterr);

/* The backend "ref". */
const struct be_ops *ref_backend(void);
