/* computed/onnx/lower.h - a checked model with bound shapes as the short list
 * that backends run.
 *
 * Identity and Dropout vanish; Squeeze, Reshape and their like become views;
 * BatchNormalization goes into the convolution before it, or becomes scale and
 * shift; Relu, Clip and Sigmoid go into the convolution or product before them
 * when nobody else reads its result. Nodes that no output needs are left out.
 */
#pragma once
#include "common/model/model.h"
#include "computed/backend/backend.h"

struct lowered {
    struct be_graph g;
    struct lowered_priv *priv;
};

/* shape: from model_bind(), per value. m is borrowed until lowered_free
 * (constants, names). RC_NOMEM, RC_UNIMPL (names the node). */
MUST_CHECK enum rc lower(const struct model *m, const struct model_shape *shape,
                         struct lowered *ret, struct err *reterr);
void lowered_free(struct lowered *l); /* zeroed: nothing */
