/* common/model/ops.c - the operators that are served: inputs, attributes, shape
 * rule of each.
 *
 * Source: ONNX operator schemas (github.com/onnx/onnx docs/Changelog.md),
 * opsets 11 to 17. Where the opsets differ (Softmax 13,
 * Squeeze/Unsqueeze/ReduceSum 13, Clip, Dropout 12, Reshape 14) the rule looks
 * at model.opset. */
#include "common/model/model_priv.h"
#include <string.h>

#define F_                      MODEL_ATTR_F
#define I_                      MODEL_ATTR_I
#define S_                      MODEL_ATTR_S
#define T_                      MODEL_ATTR_T
#define FS                      MODEL_ATTR_FS
#define IS                      MODEL_ATTR_IS
#define ROW(op, min, max, rule) .name = #op, .in_min = (min), .in_max = (max), .shape = (rule)
#define UNARY(op)               [MODEL_OP_##op] = {ROW(op, 1, 1, shape_same)}
#define BINARY(op)              [MODEL_OP_##op] = {ROW(op, 2, 2, shape_broadcast)}
#define MANY(op)                [MODEL_OP_##op] = {ROW(op, 1, MODEL_IN_ANY, shape_broadcast)}
#define REDUCE(op, max)                                                                            \
    [MODEL_OP_##op] = {ROW(op, 1, max, shape_reduce), .known_in = 1u << 1,                         \
                       .attr = {{"axes", IS}, {"keepdims", I_}, {"noop_with_empty_axes", I_}}}
#define IN(i) (1u << (i))

const struct model_op_rule model_op_rules[MODEL_OP_N] = {
    UNARY(Abs),
    BINARY(Add),
    [MODEL_OP_AveragePool] = {ROW(AveragePool, 1, 1, shape_pool),
                              .attr = {{"auto_pad", S_},
                                       {"ceil_mode", I_},
                                       {"count_include_pad", I_},
                                       {"kernel_shape", IS},
                                       {"pads", IS},
                                       {"strides", IS}}},
    [MODEL_OP_BatchNormalization] =
        {ROW(BatchNormalization, 5, 5, shape_batchnorm), .const_in = 0x1e,
         .attr = {{"epsilon", F_}, {"momentum", F_}, {"training_mode", I_}}},
    [MODEL_OP_Cast] = {ROW(Cast, 1, 1, shape_cast), .attr = {{"to", I_}}},
    [MODEL_OP_Clip] = {ROW(Clip, 1, 3, shape_clip), .const_in = IN(1) | IN(2)},
    [MODEL_OP_Concat] = {ROW(Concat, 1, MODEL_IN_ANY, shape_concat), .attr = {{"axis", I_}}},
    [MODEL_OP_Constant] = {ROW(Constant, 0, 0, shape_constant), .attr = {{"value", T_},
                                                                         {"value_float", F_},
                                                                         {"value_floats", FS},
                                                                         {"value_int", I_},
                                                                         {"value_ints", IS}}},
    [MODEL_OP_ConstantOfShape] = {ROW(ConstantOfShape, 1, 1, shape_constant_of_shape),
                                  .known_in = IN(0), .attr = {{"value", T_}}},
    [MODEL_OP_Conv] = {ROW(Conv, 2, 3, shape_conv), .const_in = IN(1) | IN(2),
                       .attr = {{"auto_pad", S_},
                                {"dilations", IS},
                                {"group", I_},
                                {"kernel_shape", IS},
                                {"pads", IS},
                                {"strides", IS}}},
    [MODEL_OP_ConvTranspose] = {ROW(ConvTranspose, 2, 3, shape_conv_transpose),
                                .const_in = IN(1) | IN(2),
                                .attr = {{"auto_pad", S_},
                                         {"dilations", IS},
                                         {"group", I_},
                                         {"kernel_shape", IS},
                                         {"output_padding", IS},
                                         {"pads", IS},
                                         {"strides", IS}}},
    BINARY(Div),
    [MODEL_OP_Dropout] = {ROW(Dropout, 1, 3, shape_any_type), .const_in = IN(1) | IN(2),
                          .attr = {{"seed", I_}, {"ratio", F_}}},
    [MODEL_OP_Equal] = {ROW(Equal, 2, 2, shape_equal), .known_in = IN(0) | IN(1)},
    UNARY(Erf),
    UNARY(Exp),
    [MODEL_OP_Expand] = {ROW(Expand, 2, 2, shape_copy), .known_in = IN(1)},
    [MODEL_OP_Flatten] = {ROW(Flatten, 1, 1, shape_flatten), .attr = {{"axis", I_}}},
    [MODEL_OP_Gather] = {ROW(Gather, 2, 2, shape_gather), .known_in = IN(1),
                         .attr = {{"axis", I_}}},
    [MODEL_OP_Gemm] = {ROW(Gemm, 2, 3, shape_gemm),
                       .attr = {{"alpha", F_}, {"beta", F_}, {"transA", I_}, {"transB", I_}}},
    [MODEL_OP_GlobalAveragePool] = {ROW(GlobalAveragePool, 1, 1, shape_global_pool)},
    [MODEL_OP_GlobalMaxPool] = {ROW(GlobalMaxPool, 1, 1, shape_global_pool)},
    [MODEL_OP_HardSigmoid] = {ROW(HardSigmoid, 1, 1, shape_same),
                              .attr = {{"alpha", F_}, {"beta", F_}}},
    [MODEL_OP_HardSwish] = {ROW(HardSwish, 1, 1, shape_same), .opset_min = 14},
    [MODEL_OP_Identity] = {ROW(Identity, 1, 1, shape_any_type)},
    [MODEL_OP_InstanceNormalization] = {ROW(InstanceNormalization, 3, 3, shape_instancenorm),
                                        .const_in = IN(1) | IN(2), .attr = {{"epsilon", F_}}},
    [MODEL_OP_LayerNormalization] = {ROW(LayerNormalization, 2, 3, shape_layernorm),
                                     .const_in = IN(1) | IN(2), .opset_min = 17,
                                     .attr = {{"axis", I_}, {"epsilon", F_}, {"stash_type", I_}}},
    [MODEL_OP_LeakyRelu] = {ROW(LeakyRelu, 1, 1, shape_same), .attr = {{"alpha", F_}}},
    UNARY(Log),
    [MODEL_OP_MatMul] = {ROW(MatMul, 2, 2, shape_matmul)},
    MANY(Max),
    [MODEL_OP_MaxPool] = {ROW(MaxPool, 1, 1, shape_pool), .attr = {{"auto_pad", S_},
                                                                   {"ceil_mode", I_},
                                                                   {"dilations", IS},
                                                                   {"kernel_shape", IS},
                                                                   {"pads", IS},
                                                                   {"storage_order", I_},
                                                                   {"strides", IS}}},
    MANY(Min),
    BINARY(Mul),
    UNARY(Neg),
    [MODEL_OP_Pad] = {ROW(Pad, 2, 3, shape_pad), .const_in = IN(2), .known_in = IN(1),
                      .attr = {{"mode", S_}}},
    BINARY(Pow),
    REDUCE(ReduceMax, 1),
    REDUCE(ReduceMean, 1),
    REDUCE(ReduceMin, 1),
    REDUCE(ReduceSum, 2),
    UNARY(Relu),
    [MODEL_OP_Reshape] = {ROW(Reshape, 2, 2, shape_reshape), .known_in = IN(1),
                          .attr = {{"allowzero", I_}}},
    [MODEL_OP_Resize] = {ROW(Resize, 1, 4, shape_resize), .const_in = IN(1) | IN(2),
                         .known_in = IN(3),
                         .attr = {{"coordinate_transformation_mode", S_},
                                  {"cubic_coeff_a", F_},
                                  {"exclude_outside", I_},
                                  {"extrapolation_value", F_},
                                  {"mode", S_},
                                  {"nearest_mode", S_}}},
    [MODEL_OP_Shape] = {ROW(Shape, 1, 1, shape_shape), .attr = {{"start", I_}, {"end", I_}}},
    UNARY(Sigmoid),
    [MODEL_OP_Slice] = {ROW(Slice, 3, 5, shape_copy), .known_in = IN(1) | IN(2) | IN(3) | IN(4)},
    [MODEL_OP_Softmax] = {ROW(Softmax, 1, 1, shape_softmax), .attr = {{"axis", I_}}},
    [MODEL_OP_Split] = {ROW(Split, 1, 2, shape_split), .known_in = IN(1), .out_max = 64,
                        .attr = {{"axis", I_}, {"split", IS}}},
    UNARY(Sqrt),
    [MODEL_OP_Squeeze] = {ROW(Squeeze, 1, 2, shape_squeeze), .known_in = IN(1),
                          .attr = {{"axes", IS}}},
    BINARY(Sub),
    UNARY(Tanh),
    [MODEL_OP_Transpose] = {ROW(Transpose, 1, 1, shape_copy), .attr = {{"perm", IS}}},
    [MODEL_OP_Unsqueeze] = {ROW(Unsqueeze, 1, 2, shape_unsqueeze), .known_in = IN(1),
                            .attr = {{"axes", IS}}},
    [MODEL_OP_Where] = {ROW(Where, 3, 3, shape_where), .known_in = IN(0) | IN(1) | IN(2)},
};

enum model_op model_op_find(const char *name)
{
    for (enum model_op op = 0; op < MODEL_OP_N; op++)
        if (strcmp(model_op_rules[op].name, name) == 0) return op;
    return MODEL_OP_N;
}

const char *model_op_name(enum model_op op)
{
    return op < MODEL_OP_N ? model_op_rules[op].name : "?";
}

static enum rc attr_check(const struct model_node *n, const struct model_attr *a,
                          const struct model_op_rule *r, struct err *reterr)
{
    for (size_t i = 0; i < MODEL_ATTRS_MAX && r->attr[i].name != NULL; i++) {
        if (strcmp(r->attr[i].name, a->name) != 0) continue;
        if (r->attr[i].type == a->type) return RC_OK;
        return err_set(reterr, RC_INVAL, "node '%.100s' (%s): attribute '%s' has type %d, not %d",
                       n->name, r->name, a->name, (int)a->type, (int)r->attr[i].type);
    }
    return err_set(reterr, RC_INVAL, "node '%.100s' (%s): attribute '%.60s' is not served", n->name,
                   r->name, a->name);
}

enum rc model_node_check(const struct model *m, const struct model_node *n, struct err *reterr)
{
    const struct model_op_rule *r = &model_op_rules[n->op];

    if (m->opset < r->opset_min)
        return err_set(reterr, RC_INVAL, "node '%.100s': operator '%s' is of opset %u, not %u",
                       n->name, r->name, r->opset_min, m->opset);
    if (n->in_n < r->in_min || (r->in_max != MODEL_IN_ANY && n->in_n > r->in_max))
        return err_set(reterr, RC_INVAL, "node '%.100s' (%s): %u inputs", n->name, r->name,
                       n->in_n);
    for (uint32_t i = 0; i < n->in_n; i++) {
        if (n->in[i] == MODEL_NONE) {
            if (i >= r->in_min && r->in_max != MODEL_IN_ANY) continue;
            return err_set(reterr, RC_INVAL, "node '%.100s' (%s): input %u is missing", n->name,
                           r->name, i);
        }
        if (i >= 32 || m->value[n->in[i]].konst != NULL) continue;
        if ((r->const_in >> i & 1) != 0)
            return err_set(reterr, RC_INVAL,
                           "node '%.100s' (%s): input %u ('%.60s') must be a "
                           "constant of the model",
                           n->name, r->name, i, m->value[n->in[i]].name);
        if ((r->known_in >> i & 1) != 0 && m->priv->host[n->in[i]] == NULL)
            return err_set(reterr, RC_INVAL,
                           "node '%.100s' (%s): input %u ('%.60s') must be a constant or follow "
                           "from shapes by at most %d integers",
                           n->name, r->name, i, m->value[n->in[i]].name, MODEL_HOST_MAX);
    }
    for (uint32_t i = 0; i < n->attr_n; i++) {
        enum rc rc = attr_check(n, &n->attr[i], r, reterr);

        if (rc != RC_OK) return rc;
        for (uint32_t k = 0; k < i;
             k++) /* attr_n is at most MODEL_ATTRS_MAX, checked by the loader */
            if (strcmp(n->attr[i].name, n->attr[k].name) == 0)
                return err_set(reterr, RC_INVAL, "node '%.100s' (%s): attribute '%s' twice",
                               n->name, r->name, n->attr[i].name);
    }
    return RC_OK;
}

/* Integers are for shapes: what a device would have to compute with them is refused. */
static bool host_only(const struct model_shapes *c, const struct model_node *n)
{
    bool binary = model_op_rules[n->op].shape == shape_broadcast;

    return n->op == MODEL_OP_Equal || n->op == MODEL_OP_Where ||
           (binary && c->dtype[n->out[0]] != MODEL_F32);
}

enum rc model_node_shape(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    const struct model_op_rule *r = &model_op_rules[n->op];
    enum rc rc = r->shape(c, n, reterr);
    uint64_t count;

    if (rc == RC_OK) rc = model_host_node(c, n, reterr);
    if (rc != RC_OK) return err_prefix(reterr, "node '%.100s' (%s)", n->name, r->name);
    if (host_only(c, n) && c->host[n->out[0]] == NULL)
        return err_set(reterr, RC_INVAL,
                       "node '%.100s' (%s): its inputs are neither float32 nor known before the "
                       "model runs",
                       n->name, r->name);
    for (uint32_t i = 0; c->bound && i < n->out_n; i++) {
        if (!model_shape_count(&c->shape[n->out[i]], &count))
            return err_set(reterr, RC_INVAL, "node '%.100s' (%s): its output is too large", n->name,
                           r->name);
        if (count == 0 && c->host[n->out[i]] == NULL && c->m->value[n->out[i]].konst == NULL)
            return err_set(reterr, RC_INVAL, "node '%.100s' (%s): nothing is left of its input",
                           n->name, r->name);
    }
    return RC_OK;
}

const struct model_attr *model_attr_get(const struct model_node *n, const char *name)
{
    for (uint32_t i = 0; i < n->attr_n; i++)
        if (strcmp(n->attr[i].name, name) == 0) return &n->attr[i];
    return NULL;
}

int64_t model_attr_i(const struct model_node *n, const char *name, int64_t dflt)
{
    const struct model_attr *a = model_attr_get(n, name);

    return a == NULL ? dflt : a->i;
}

float model_attr_f(const struct model_node *n, const char *name, float dflt)
{
    const struct model_attr *a = model_attr_get(n, name);

    return a == NULL ? dflt : a->f;
}
