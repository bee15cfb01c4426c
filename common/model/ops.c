/* common/model/ops.c - the operators that are served: inputs, attributes, shape
 * rule of each.
 *
 * Source: ONNX operator schemas (github.com/onnx/onnx docs/Changelog.md),
 * opsets 11 to 17. Where the opsets differ (Softmax 13,
 * Squeeze/Unsqueeze/ReduceSum 13, Clip, Dropout 12, Reshape 14) the rule looks
 * at model.opset. */
#include "common/model/model_priv.h"
#include <string.h>

#define F_         MODEL_ATTR_F
#define I_         MODEL_ATTR_I
#define S_         MODEL_ATTR_S
#define T_         MODEL_ATTR_T
#define FS         MODEL_ATTR_FS
#define IS         MODEL_ATTR_IS
#define UNARY(op)  [MODEL_OP_##op] = {#op, 1, 1, 0, shape_same, {{NULL, 0}}}
#define BINARY(op) [MODEL_OP_##op] = {#op, 2, 2, 0, shape_broadcast, {{NULL, 0}}}
#define MANY(op)   [MODEL_OP_##op] = {#op, 1, MODEL_IN_ANY, 0, shape_broadcast, {{NULL, 0}}}
#define REDUCE(op, in_max)                                                                         \
    [MODEL_OP_##                                                                                   \
        op] = {#op,          1,                                                                    \
               in_max,       1u << 1,                                                              \
               shape_reduce, {{"axes", IS}, {"keepdims", I_}, {"noop_with_empty_axes", I_}}}

const struct model_op_rule model_op_rules[MODEL_OP_N] = {
    UNARY(Abs),
    BINARY(Add),
    [MODEL_OP_AveragePool] = {"AveragePool",
                              1,
                              1,
                              0,
                              shape_pool,
                              {{"auto_pad", S_},
                               {"ceil_mode", I_},
                               {"count_include_pad", I_},
                               {"kernel_shape", IS},
                               {"pads", IS},
                               {"strides", IS}}},
    [MODEL_OP_BatchNormalization] = {"BatchNormalization",
                                     5,
                                     5,
                                     0x1e,
                                     shape_batchnorm,
                                     {{"epsilon", F_}, {"momentum", F_}, {"training_mode", I_}}},
    [MODEL_OP_Cast] = {"Cast", 1, 1, 0, shape_cast, {{"to", I_}}},
    [MODEL_OP_Clip] = {"Clip", 1, 3, 0x6, shape_clip, {{NULL, 0}}},
    [MODEL_OP_Concat] = {"Concat", 1, MODEL_IN_ANY, 0, shape_concat, {{"axis", I_}}},
    [MODEL_OP_Constant] = {"Constant",
                           0,
                           0,
                           0,
                           shape_constant,
                           {{"value", T_},
                            {"value_float", F_},
                            {"value_floats", FS},
                            {"value_int", I_},
                            {"value_ints", IS}}},
    [MODEL_OP_Conv] = {"Conv",
                       2,
                       3,
                       0x6,
                       shape_conv,
                       {{"auto_pad", S_},
                        {"dilations", IS},
                        {"group", I_},
                        {"kernel_shape", IS},
                        {"pads", IS},
                        {"strides", IS}}},
    BINARY(Div),
    [MODEL_OP_Dropout] = {"Dropout", 1, 3, 0x6, shape_any_type, {{"seed", I_}, {"ratio", F_}}},
    UNARY(Exp),
    [MODEL_OP_Flatten] = {"Flatten", 1, 1, 0, shape_flatten, {{"axis", I_}}},
    [MODEL_OP_Gemm] = {"Gemm",
                       2,
                       3,
                       0,
                       shape_gemm,
                       {{"alpha", F_}, {"beta", F_}, {"transA", I_}, {"transB", I_}}},
    [MODEL_OP_GlobalAveragePool] = {"GlobalAveragePool", 1, 1, 0, shape_global_pool, {{NULL, 0}}},
    [MODEL_OP_GlobalMaxPool] = {"GlobalMaxPool", 1, 1, 0, shape_global_pool, {{NULL, 0}}},
    [MODEL_OP_Identity] = {"Identity", 1, 1, 0, shape_any_type, {{NULL, 0}}},
    UNARY(Log),
    [MODEL_OP_MatMul] = {"MatMul", 2, 2, 0, shape_matmul, {{NULL, 0}}},
    MANY(Max),
    [MODEL_OP_MaxPool] = {"MaxPool",
                          1,
                          1,
                          0,
                          shape_pool,
                          {{"auto_pad", S_},
                           {"ceil_mode", I_},
                           {"dilations", IS},
                           {"kernel_shape", IS},
                           {"pads", IS},
                           {"storage_order", I_},
                           {"strides", IS}}},
    MANY(Min),
    BINARY(Mul),
    UNARY(Neg),
    BINARY(Pow),
    REDUCE(ReduceMax, 1),
    REDUCE(ReduceMean, 1),
    REDUCE(ReduceMin, 1),
    REDUCE(ReduceSum, 2),
    UNARY(Relu),
    [MODEL_OP_Reshape] = {"Reshape", 2, 2, 1u << 1, shape_reshape, {{"allowzero", I_}}},
    UNARY(Sigmoid),
    [MODEL_OP_Softmax] = {"Softmax", 1, 1, 0, shape_softmax, {{"axis", I_}}},
    UNARY(Sqrt),
    [MODEL_OP_Squeeze] = {"Squeeze", 1, 2, 1u << 1, shape_squeeze, {{"axes", IS}}},
    BINARY(Sub),
    UNARY(Tanh),
    [MODEL_OP_Unsqueeze] = {"Unsqueeze", 1, 2, 1u << 1, shape_unsqueeze, {{"axes", IS}}},
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

    if (n->in_n < r->in_min || (r->in_max != MODEL_IN_ANY && n->in_n > r->in_max))
        return err_set(reterr, RC_INVAL, "node '%.100s' (%s): %u inputs", n->name, r->name,
                       n->in_n);
    for (uint32_t i = 0; i < n->in_n; i++) {
        if (n->in[i] == MODEL_NONE) {
            if (i >= r->in_min && r->in_max != MODEL_IN_ANY) continue;
            return err_set(reterr, RC_INVAL, "node '%.100s' (%s): input %u is missing", n->name,
                           r->name, i);
        }
        if (i < 32 && (r->const_in >> i & 1) != 0 && m->value[n->in[i]].konst == NULL)
            return err_set(reterr, RC_INVAL,
                           "node '%.100s' (%s): input %u ('%.60s') must be a "
                           "constant of the model",
                           n->name, r->name, i, m->value[n->in[i]].name);
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

enum rc model_node_shape(struct model_shapes *c, const struct model_node *n, struct err *reterr)
{
    enum rc rc = model_op_rules[n->op].shape(c, n, reterr);
    uint64_t count;

    if (rc != RC_OK)
        return err_prefix(reterr, "node '%.100s' (%s)", n->name, model_op_rules[n->op].name);
    if (c->bound && !model_shape_count(&c->shape[n->out[0]], &count))
        return err_set(reterr, RC_INVAL, "node '%.100s' (%s): its output is too large", n->name,
                       model_op_rules[n->op].name);
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
