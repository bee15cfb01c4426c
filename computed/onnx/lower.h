/* computed/onnx/lower.h - a checked model with bound shapes as the short list that backends run.
 *
 * lower.c and lower_ops.c translate node by node: Identity and Dropout vanish, Squeeze, Reshape and
 * their like become views, what follows from shapes becomes constants. fuse.c then shortens the
 * list: nodes over constants are computed, patterns that exporters write out (LayerNormalization,
 * GELU, x * sigmoid(x)) become one node, normalisations, biases, residuals and activations go into
 * the convolution or product before them. Nodes that no output needs are left out. */
#pragma once
#include "common/model/model.h"
#include "computed/backend/backend.h"

struct lowered {
    struct be_graph g;
    struct lowered_priv *priv;
};

/* s: from model_bind(). Its model is borrowed until lowered_free (constants, names), s itself until
 * return. RC_NOMEM, RC_UNIMPL (names the node). */
MUST_CHECK enum rc lower(const struct model_shapes *s, struct lowered *ret, struct err *reterr);
void lowered_free(struct lowered *l); /* zeroed: nothing */
