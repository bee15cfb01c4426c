/* tests/unit/common/model/fuzz_shapes.c - graphs of served operators made from any bytes: most pass
 * the loader, so that the shape rules and host.c see every mixture of operators, attributes,
 * constants and unknown dims; then bound to several sizes. What is known after loading must still
 * hold when it is bound. */
#include "common/model/model.h"
#include "tests/unit/common/model/build.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NODES_MAX 12
#define NAME_MAX  40

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

struct bytes {
    const uint8_t *p;
    size_t n;
};

static uint32_t next(struct bytes *b, uint32_t limit)
{
    if (b->n == 0) return 0;
    b->n--;
    return *b->p++ % limit;
}

/* Small numbers mostly, now and then one from the edge. */
static int64_t number(struct bytes *b)
{
    static const int64_t edge[] = {INT64_MIN, INT64_MAX, INT32_MAX,        INT32_MIN, 65536,
                                   -65536,    1 << 20,   (int64_t)1 << 33, 0,         -2};
    uint32_t k = next(b, 32);

    if (k >= 30) return edge[next(b, ARRAY_N(edge))];
    return (int64_t)(k % 8) - 1;
}

struct attr {
    const char *name;
    enum { A_INT, A_INTS, A_FLOAT, A_WORD } type;
};
static const struct attr ATTRS[] = {
    {"axis", A_INT},
    {"axes", A_INTS},
    {"keepdims", A_INT},
    {"perm", A_INTS},
    {"pads", A_INTS},
    {"strides", A_INTS},
    {"dilations", A_INTS},
    {"kernel_shape", A_INTS},
    {"group", A_INT},
    {"split", A_INTS},
    {"to", A_INT},
    {"ceil_mode", A_INT},
    {"transA", A_INT},
    {"transB", A_INT},
    {"start", A_INT},
    {"end", A_INT},
    {"output_padding", A_INTS},
    {"count_include_pad", A_INT},
    {"value_ints", A_INTS},
    {"value_int", A_INT},
    {"alpha", A_FLOAT},
    {"mode", A_WORD},
    {"auto_pad", A_WORD},
    {"coordinate_transformation_mode", A_WORD},
    {"allowzero", A_INT},
    {"epsilon", A_FLOAT},
    {"value_float", A_FLOAT},
};
static const char *const WORDS[] = {"SAME_UPPER", "SAME_LOWER", "VALID",         "nearest",
                                    "linear",     "reflect",    "edge",          "constant",
                                    "asymmetric", "half_pixel", "align_corners", "cubic"};

static void attribute(struct bytes *b, struct build *m)
{
    const struct attr *a = &ATTRS[next(b, ARRAY_N(ATTRS))];
    int64_t v[10];
    uint32_t n;

    switch (a->type) {
    case A_INT:
        build_attr_i(m, a->name, number(b));
        break;
    case A_INTS:
        n = next(b, ARRAY_N(v));
        for (uint32_t i = 0; i < n; i++)
            v[i] = number(b);
        build_attr_is(m, a->name, v, n);
        break;
    case A_FLOAT:
        build_attr_f(m, a->name, (float)number(b) / 4);
        break;
    case A_WORD:
        build_attr_s(m, a->name, WORDS[next(b, ARRAY_N(WORDS))]);
    }
}

/* Constants: a few weights and a few lists. Returns how many values there are. */
static uint32_t constants(struct bytes *b, struct build *m)
{
    static const float f[256] = {1, 2, 0.5f};
    uint32_t n = 0, floats = next(b, 4), lists = next(b, 5);
    char name[NAME_MAX];

    for (uint32_t i = 0; i < floats; i++) {
        int64_t dim[6] = {0};
        uint32_t rank = next(b, 5), count = 1;

        for (uint32_t k = 0; k < rank; k++) {
            dim[k] = 1 + next(b, 4);
            count *= (uint32_t)dim[k];
        }
        if (count > ARRAY_N(f)) continue;
        (void)snprintf(name, sizeof(name), "v%u", n++);
        build_init_f(m, name, dim, f, count);
    }
    for (uint32_t i = 0; i < lists; i++) {
        int64_t v[8];
        uint32_t len = next(b, ARRAY_N(v));

        for (uint32_t k = 0; k < len; k++)
            v[k] = number(b);
        (void)snprintf(name, sizeof(name), "v%u", n++);
        build_init_i(m, name, v, len);
    }
    return n;
}

static uint8_t *model_make(struct bytes *b, size_t *ret_n)
{
    struct build *m = build_new(11 + next(b, 7));
    int64_t dim[7] = {0};
    uint32_t rank = 1 + next(b, 5), n, nodes = 1 + next(b, NODES_MAX);
    char inputs[256], name[NAME_MAX];
    uint8_t *p;

    for (uint32_t i = 0; i < rank; i++)
        dim[i] = next(b, 3) == 0 ? -1 : 1 + (int64_t)next(b, 6);
    n = constants(b, m);
    (void)snprintf(name, sizeof(name), "v%u", n++);
    build_input(m, name, next(b, 8) == 0 ? MODEL_I64 : MODEL_F32, dim);
    for (uint32_t i = 0; i < nodes; i++) {
        enum model_op op = (enum model_op)next(b, MODEL_OP_N);
        uint32_t in_n = next(b, 5), attr_n = next(b, 4);
        size_t at = 0;

        inputs[0] = '\0';
        for (uint32_t k = 0; k < in_n; k++) {
            uint32_t back = next(b, 8); /* the newest values mostly */
            uint32_t v = back < 5 && back < n ? n - 1 - back : next(b, n + 1);

            if (k > 0) at += (size_t)snprintf(inputs + at, sizeof(inputs) - at, ",");
            if (v < n) at += (size_t)snprintf(inputs + at, sizeof(inputs) - at, "v%u", v);
        }
        (void)snprintf(name, sizeof(name), "v%u", n++);
        build_node(m, model_op_name(op), inputs, name);
        if (op == MODEL_OP_Split) {
            for (uint32_t k = next(b, 4); k > 0; k--) {
                (void)snprintf(name, sizeof(name), "v%u", n++);
                build_output_more(m, name);
            }
        }
        for (uint32_t k = 0; k < attr_n; k++)
            attribute(b, m);
    }
    (void)snprintf(name, sizeof(name), "v%u", n - 1);
    build_output(m, name);
    p = build_bytes(m, ret_n);
    build_free(m);
    return p;
}

/* What the loader knew is what the binding finds. */
static void bound_check(const struct model *m, const struct model_shapes *s)
{
    for (uint32_t i = 0; i < m->value_n; i++) {
        const struct model_shape *a = &m->value[i].shape, *b = &s->shape[i];

        CHECK(a->rank == b->rank);
        for (uint8_t k = 0; k < a->rank; k++) {
            CHECK(b->dim[k] >= 0 && b->dim[k] <= MODEL_DIM_MAX);
            if (a->dim[k] >= 0) CHECK(a->dim[k] == b->dim[k]);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct bytes b = {data, n};
    size_t model_n;
    uint8_t *p = model_make(&b, &model_n);
    struct model_limits lim = model_limits_default(model_n);
    uint8_t known[MODEL_HOST_MAX * 8];
    struct model_shapes s;
    struct model_shape in;
    struct model *m;
    struct err e = {0};

    lim.live_bytes_max = (size_t)16 << 20;
    if (model_load(p, model_n, &lim, &m, &e) != RC_OK) {
        CHECK(e.msg[0] != '\0');
        free(p);
        return 0;
    }
    free(p);
    for (int64_t side = 1; side < 40; side = side * 2 + 1) {
        in = m->value[m->input[0]].shape;
        for (uint8_t k = 0; k < in.rank; k++)
            if (in.dim[k] < 0) in.dim[k] = side;
        if (model_bind(m, &in, &s, &e) != RC_OK) {
            CHECK(e.msg[0] != '\0');
            continue;
        }
        bound_check(m, &s);
        for (uint32_t i = 0; i < m->value_n; i++)
            (void)model_shapes_known(&s, i, known);
        model_shapes_free(&s);
    }
    model_free(m);
    return 0;
}
