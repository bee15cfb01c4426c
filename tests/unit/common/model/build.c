/* tests/unit/common/model/build.c - protobuf by hand: tags and lengths, so that wrong files can be
 * made too. Field numbers as in proto/onnx/onnx.proto. */
#include "tests/unit/common/model/build.h"
#include "common/base/buf.h"
#include <stdlib.h>
#include <string.h>

#define MAX_BYTES ((size_t)64 << 20)

struct build {
    struct buf graph, node, props;
    int64_t opset;
};

static void varint(struct buf *b, uint64_t v)
{
    while (v >= 0x80) {
        buf_put_u8(b, (uint8_t)(v | 0x80));
        v >>= 7;
    }
    buf_put_u8(b, (uint8_t)v);
}

static void num(struct buf *b, unsigned field, int64_t v)
{
    varint(b, field << 3);
    varint(b, (uint64_t)v);
}

static void bytes(struct buf *b, unsigned field, const void *p, size_t n)
{
    varint(b, field << 3 | 2);
    varint(b, n);
    buf_put(b, p, n);
}

static void text(struct buf *b, unsigned field, const char *s)
{
    bytes(b, field, s, strlen(s));
}

static void nested(struct buf *b, unsigned field, struct buf *in)
{
    CHECK(buf_rc(in) == RC_OK);
    bytes(b, field, in->p, in->n);
    buf_deinit(in);
}

static struct buf fresh(void)
{
    struct buf b;

    buf_init(&b, MAX_BYTES);
    return b;
}

struct build *build_new(int64_t opset)
{
    struct build *b = calloc(1, sizeof(*b));

    CHECK(b != NULL);
    b->graph = fresh();
    b->node = fresh();
    b->props = fresh();
    b->opset = opset;
    return b;
}

void build_free(struct build *b)
{
    buf_deinit(&b->graph);
    buf_deinit(&b->node);
    buf_deinit(&b->props);
    free(b);
}

static void flush(struct build *b)
{
    if (b->node.n > 0) bytes(&b->graph, 1, b->node.p, b->node.n);
    buf_reset(&b->node);
}

void build_input(struct build *b, const char *name, int32_t dtype, const int64_t *dims)
{
    struct buf shape = fresh(), tensor = fresh(), type = fresh(), vi = fresh();

    flush(b);
    for (; *dims != 0; dims++) {
        struct buf dim = fresh();

        if (*dims < 0)
            text(&dim, 2, "n");
        else
            num(&dim, 1, *dims);
        nested(&shape, 1, &dim);
    }
    num(&tensor, 1, dtype);
    nested(&tensor, 2, &shape);
    nested(&type, 1, &tensor);
    text(&vi, 1, name);
    nested(&vi, 2, &type);
    nested(&b->graph, 11, &vi);
}

void build_output(struct build *b, const char *name)
{
    struct buf vi = fresh();

    flush(b);
    text(&vi, 1, name);
    nested(&b->graph, 12, &vi);
}

void build_init_f(struct build *b, const char *name, const int64_t *dims, const float *v, size_t n)
{
    struct buf t = fresh();

    flush(b);
    for (; *dims != 0; dims++)
        num(&t, 1, *dims);
    num(&t, 2, 1);
    text(&t, 8, name);
    bytes(&t, 9, v, n * sizeof(*v));
    nested(&b->graph, 5, &t);
}

void build_init_twice(struct build *b, const char *name, const float *v, size_t n)
{
    struct buf t = fresh();

    flush(b);
    num(&t, 1, (int64_t)n);
    num(&t, 2, 1);
    bytes(&t, 4, v, n * sizeof(*v)); /* float_data, packed */
    text(&t, 8, name);
    bytes(&t, 9, v, n * sizeof(*v));
    nested(&b->graph, 5, &t);
}

void build_init_outside(struct build *b, const char *name, const char *file)
{
    struct buf t = fresh(), e = fresh();

    flush(b);
    num(&t, 1, 4);
    num(&t, 2, 1);
    text(&t, 8, name);
    text(&e, 1, "location");
    text(&e, 2, file);
    nested(&t, 13, &e);
    num(&t, 14, 1);
    nested(&b->graph, 5, &t);
}

void build_init_i(struct build *b, const char *name, const int64_t *v, size_t n)
{
    struct buf t = fresh();

    flush(b);
    num(&t, 1, (int64_t)n);
    num(&t, 2, 7);
    text(&t, 8, name);
    bytes(&t, 9, v, n * sizeof(*v));
    nested(&b->graph, 5, &t);
}

void build_node(struct build *b, const char *op, const char *inputs, const char *output)
{
    flush(b);
    while (inputs[0] != '\0') {
        size_t n = strcspn(inputs, ",");

        bytes(&b->node, 1, inputs, n);
        inputs += n;
        if (inputs[0] == ',') inputs++;
    }
    text(&b->node, 2, output);
    text(&b->node, 3, output);
    text(&b->node, 4, op);
}

void build_output_more(struct build *b, const char *name)
{
    text(&b->node, 2, name);
}

void build_attr_i(struct build *b, const char *name, int64_t v)
{
    struct buf a = fresh();

    text(&a, 1, name);
    num(&a, 3, v);
    num(&a, 20, 2);
    nested(&b->node, 5, &a);
}

void build_attr_f(struct build *b, const char *name, float v)
{
    struct buf a = fresh();

    text(&a, 1, name);
    varint(&a, 2u << 3 | 5);
    buf_put(&a, &v, 4);
    num(&a, 20, 1);
    nested(&b->node, 5, &a);
}

void build_attr_s(struct build *b, const char *name, const char *v)
{
    struct buf a = fresh();

    text(&a, 1, name);
    text(&a, 4, v);
    num(&a, 20, 3);
    nested(&b->node, 5, &a);
}

void build_attr_nested(struct build *b, const char *name, uint32_t depth)
{
    struct buf a = fresh();

    text(&a, 1, name);
    num(&a, 20, 5);
    for (uint32_t i = 0; i < depth; i++) { /* from the inside */
        struct buf node = fresh(), graph = fresh(), outer = fresh();

        text(&node, 2, "y");
        text(&node, 4, "If");
        nested(&node, 5, &a);
        nested(&graph, 1, &node);
        text(&outer, 1, name);
        nested(&outer, 6, &graph);
        num(&outer, 20, 5);
        a = outer;
    }
    nested(&b->node, 5, &a);
}

void build_attr_is(struct build *b, const char *name, const int64_t *v, size_t n)
{
    struct buf a = fresh();

    text(&a, 1, name);
    for (size_t i = 0; i < n; i++)
        num(&a, 8, v[i]);
    num(&a, 20, 7);
    nested(&b->node, 5, &a);
}

void build_prop(struct build *b, const char *key, const char *value)
{
    struct buf p = fresh();

    text(&p, 1, key);
    text(&p, 2, value);
    nested(&b->props, 14, &p);
}

uint8_t *build_bytes(const struct build *b, size_t *ret_n)
{
    struct buf m = fresh(), opset = fresh(), graph = fresh();

    num(&m, 1, 8);
    num(&opset, 2, b->opset);
    nested(&m, 8, &opset);
    buf_put(&graph, b->graph.p, b->graph.n);
    if (b->node.n > 0) bytes(&graph, 1, b->node.p, b->node.n);
    nested(&m, 7, &graph);
    buf_put(&m, b->props.p, b->props.n);
    CHECK(buf_rc(&m) == RC_OK);
    *ret_n = m.n;
    return m.p;
}
