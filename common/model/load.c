/* common/model/load.c - from a file's bytes to a checked graph.
 *
 * The file is hostile until checked. protobuf-c parses it with an allocator
 * that counts: live bytes bound memory, bytes asked for in sum bound time
 * (merging a message that is repeated a million times copies quadratically; the
 * sum sees it, and, unlike a clock, it gives the same verdict everywhere).
 * Names are looked up in a sorted table, so no choice of names makes loading
 * quadratic. */
#include "common/model/model_priv.h"
#include "proto/onnx/onnx.pb-c.h"
#include <stdlib.h>
#include <string.h>

#define NAME_BYTES_MAX 1024
#define PROP_BYTES_MAX ((size_t)64 * 1024)
#define PROPS_MAX      256
#define FILE_BYTES_MAX ((size_t)INT32_MAX) /* protobuf's own limit for a message */
#define IO_MAX         64                  /* inputs, outputs of a model */
#define IN_MAX         1024                /* inputs of a node (Concat of DenseNet: 49) */
#define LIST_MAX       65536               /* values of a list attribute */

struct counted { /* head of each allocation that protobuf-c makes */
    size_t bytes;
    size_t pad;
};

struct budget {
    size_t live, live_max, work, work_max;
    bool hit;
};

static void *budget_alloc(void *data, size_t n)
{
    struct budget *b = data;
    struct counted *c;

    if (n > b->live_max - b->live || n > b->work_max - b->work) {
        b->hit = true;
        return NULL;
    }
    c = malloc(sizeof(*c) + n);
    if (c == NULL) return NULL;
    c->bytes = n;
    b->live += n;
    b->work += n + sizeof(*c) > b->work_max - b->work ? n : n + sizeof(*c);
    return c + 1;
}

static void budget_free(void *data, void *p)
{
    struct budget *b = data;
    struct counted *c = p;

    if (p == NULL) return;
    b->live -= c[-1].bytes;
    free(c - 1);
}

struct model_limits model_limits_default(size_t file_bytes)
{
    size_t n = MIN(file_bytes, FILE_BYTES_MAX);

    return (struct model_limits){
        .file_bytes_max = FILE_BYTES_MAX,
        .live_bytes_max = 3 * n + ((size_t)64 << 20),
        .work_bytes_max = 6 * n + ((size_t)256 << 20),
        .nodes_max = 20000,
        .values_max = 100000,
    };
}

struct name {
    const char *text;
    uint32_t value;
    bool init, input; /* which kind of definition: an input may have an initial value */
    uint32_t at;      /* initialiser index, input index, or node index */
};

struct load {
    struct model *m;
    struct model_priv *p;
    const struct model_limits *limits;
    Onnx__GraphProto *g;
    struct name *names;
    uint32_t name_n;
    struct model_value *value;
    struct model_node *node;
    struct model_shape *shape;
    uint32_t *made_at; /* per value: node index + 1; 0 = before the first node */
    struct err *reterr;
};

static enum rc nomem(struct load *l)
{
    return err_set(l->reterr, RC_RANGE, "the model needs more memory than %zu bytes",
                   l->p->live_bytes_max);
}

/* Zero-terminated and fit for a log line. */
static enum rc text_copy(struct load *l, const char *what, const char *s, char **ret)
{
    size_t n = s == NULL ? 0 : strlen(s);

    if (n > NAME_BYTES_MAX)
        return err_set(l->reterr, RC_INVAL, "%s: longer than %d bytes", what, NAME_BYTES_MAX);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
            return err_set(l->reterr, RC_INVAL, "%s holds control characters", what);
    *ret = model_text(l->p, s, n, NAME_BYTES_MAX);
    return *ret == NULL ? nomem(l) : RC_OK;
}

static enum rc tensor_fill(struct load *l, const char *who, const Onnx__TensorProto *t, void *dst,
                           uint64_t count, enum model_dtype dtype, size_t bytes)
{
    size_t kinds = (size_t)(t->has_raw_data && t->raw_data.len > 0) + (t->n_float_data > 0) +
                   (t->n_int32_data > 0) + (t->n_int64_data > 0) + (t->n_double_data > 0) +
                   (t->n_string_data > 0);
    size_t have = 0;

    if (kinds > 1)
        return err_set(l->reterr, RC_INVAL, "tensor '%.100s': its data is given twice", who);
    if (t->has_raw_data && t->raw_data.len > 0) {
        if (t->raw_data.len != bytes)
            return err_set(l->reterr, RC_INVAL, "tensor '%.100s': %zu raw bytes for a shape of %zu",
                           who, t->raw_data.len, bytes);
        memcpy(dst, t->raw_data.data, bytes); /* ONNX is little-endian, and so are our machines */
        return RC_OK;
    }
    if (dtype == MODEL_F32) have = t->n_float_data;
    if (dtype == MODEL_F64) have = t->n_double_data;
    if (dtype == MODEL_I64) have = t->n_int64_data;
    if (dtype == MODEL_I32 || dtype == MODEL_U8 || dtype == MODEL_BOOL) have = t->n_int32_data;
    if (have != count)
        return err_set(l->reterr, RC_INVAL, "tensor '%.100s': %zu values for a shape of %llu", who,
                       have, (unsigned long long)count);
    if (count == 0) return RC_OK;
    if (dtype == MODEL_F32)
        memcpy(dst, t->float_data, bytes);
    else if (dtype == MODEL_F64)
        memcpy(dst, t->double_data, bytes);
    else if (dtype == MODEL_I64)
        memcpy(dst, t->int64_data, bytes);
    else if (dtype == MODEL_I32)
        memcpy(dst, t->int32_data, bytes);
    else {
        for (uint64_t i = 0; i < count; i++) {
            if (t->int32_data[i] < 0 || t->int32_data[i] > UINT8_MAX)
                return err_set(l->reterr, RC_INVAL, "tensor '%.100s': value out of range", who);
            ((uint8_t *)dst)[i] = (uint8_t)t->int32_data[i];
        }
    }
    return RC_OK;
}

static enum rc tensor_load(struct load *l, const char *who, const Onnx__TensorProto *t,
                           const struct model_tensor **ret)
{
    enum model_dtype dtype = (enum model_dtype)t->data_type;
    struct model_shape shape = {0};
    struct model_tensor *r;
    uint64_t count;
    size_t bytes;
    uint8_t *data;
    enum rc rc;

    if ((t->has_data_location && t->data_location != 0) || t->n_external_data > 0)
        return err_set(l->reterr, RC_INVAL,
                       "tensor '%.100s' lies in another file; put the weights into the model", who);
    if (t->has_segment || model_dtype_bytes(dtype) == 0)
        return err_set(l->reterr, RC_INVAL, "tensor '%.100s': type %d is not served", who,
                       t->data_type);
    if (t->n_dims > MODEL_RANK_MAX)
        return err_set(l->reterr, RC_INVAL, "tensor '%.100s' has rank %zu", who, t->n_dims);
    shape.rank = (uint8_t)t->n_dims;
    for (uint8_t i = 0; i < shape.rank; i++)
        shape.dim[i] = t->dims[i];
    if (!model_shape_count(&shape, &count))
        return err_set(l->reterr, RC_INVAL, "tensor '%.100s': impossible shape", who);
    if (count > l->p->live_bytes_max / 8) return nomem(l);
    bytes = (size_t)count * model_dtype_bytes(dtype);
    r = model_alloc(l->p, sizeof(*r));
    data = model_alloc(l->p, MAX(bytes, 1));
    if (r == NULL || data == NULL) return nomem(l);
    rc = tensor_fill(l, who, t, data, count, dtype, bytes);
    if (rc != RC_OK) return rc;
    *r = (struct model_tensor){.dtype = dtype, .shape = shape, .data = data, .bytes = bytes};
    *ret = r;
    return RC_OK;
}

static int name_cmp(const void *pa, const void *pb)
{
    const struct name *a = pa, *b = pb;

    return strcmp(a->text, b->text);
}

static enum rc name_add(struct load *l, const char *text, bool init, bool input, uint32_t at)
{
    if (text == NULL || text[0] == '\0')
        return err_set(l->reterr, RC_INVAL, "a value without a name");
    l->names[l->name_n++] = (struct name){.text = text, .init = init, .input = input, .at = at};
    return RC_OK;
}

/* Without those at the end that are left out. */
static size_t out_count(const Onnx__NodeProto *nd)
{
    size_t n = nd->n_output;

    while (n > 0 && nd->output[n - 1][0] == '\0')
        n--;
    return n;
}

/* Every place that makes a value, sorted by name; the same name twice only for
 * an input with its initial value. Value indices follow the sorted names. */
static enum rc names_build(struct load *l)
{
    Onnx__GraphProto *g = l->g;
    size_t n = g->n_input + g->n_initializer;
    uint32_t k = 0;
    enum rc rc;

    for (size_t i = 0; i < g->n_node; i++)
        n += g->node[i]->n_output;

    if (g->n_node > l->limits->nodes_max || n > l->limits->values_max)
        return err_set(l->reterr, RC_RANGE, "%zu nodes and %zu values; at most %u and %u",
                       g->n_node, n, l->limits->nodes_max, l->limits->values_max);
    l->names = model_alloc(l->p, (n + 1) * sizeof(*l->names));
    if (l->names == NULL) return nomem(l);
    for (uint32_t i = 0; i < g->n_input; i++) {
        rc = name_add(l, g->input[i]->name, /* init= */ false, /* input= */ true, i);
        if (rc != RC_OK) return rc;
    }
    for (uint32_t i = 0; i < g->n_initializer; i++) {
        rc = name_add(l, g->initializer[i]->name, /* init= */ true,
                      /* input= */ false, i);
        if (rc != RC_OK) return rc;
    }
    for (uint32_t i = 0; i < g->n_node; i++) {
        const Onnx__NodeProto *nd = g->node[i];
        size_t out_n = out_count(nd);

        if (out_n == 0)
            return err_set(l->reterr, RC_INVAL, "node '%.100s' (%.60s) has no output",
                           nd->name ? nd->name : "", nd->op_type ? nd->op_type : "?");
        for (size_t o = 0; o < out_n; o++) {
            rc = name_add(l, nd->output[o], /* init= */ false, /* input= */ false, i);
            if (rc != RC_OK) return rc;
        }
    }
    qsort(l->names, l->name_n, sizeof(*l->names), name_cmp);
    for (uint32_t i = 0; i < l->name_n; i++) {
        struct name *a = &l->names[i], *b = i > 0 ? &l->names[i - 1] : NULL;

        if (b != NULL && strcmp(a->text, b->text) == 0) {
            if (!((a->init && b->input) || (a->input && b->init)) ||
                (i > 1 && strcmp(a->text, l->names[i - 2].text) == 0))
                return err_set(l->reterr, RC_INVAL, "value '%.100s' is made twice", a->text);
            a->value = b->value;
        } else {
            a->value = k++;
        }
    }
    l->m->value_n = k;
    l->value = model_alloc(l->p, (k + 1) * sizeof(*l->value));
    l->shape = model_alloc(l->p, (k + 1) * sizeof(*l->shape));
    l->p->dtype = model_alloc(l->p, (k + 1) * sizeof(*l->p->dtype));
    l->made_at = model_alloc(l->p, (k + 1) * sizeof(*l->made_at));
    l->p->host = model_alloc(l->p, (k + 1) * sizeof(struct model_host *));
    return l->p->host == NULL || l->value == NULL || l->shape == NULL || l->p->dtype == NULL ||
                   l->made_at == NULL
               ? nomem(l)
               : RC_OK;
}

static uint32_t name_find(const struct load *l, const char *text)
{
    struct name key = {.text = text}, *e;

    e = l->name_n == 0 ? NULL : bsearch(&key, l->names, l->name_n, sizeof(key), name_cmp);
    return e == NULL ? MODEL_NONE : e->value;
}

static enum rc type_load(struct load *l, const Onnx__ValueInfoProto *vi,
                         enum model_dtype *ret_dtype, struct model_shape *ret_shape,
                         bool *ret_has_shape)
{
    const Onnx__TypeProto__Tensor *t = vi->type == NULL ? NULL : vi->type->tensor_type;

    if (t == NULL)
        return err_set(l->reterr, RC_INVAL, "'%.100s' is no tensor, or has no type", vi->name);
    *ret_dtype = (enum model_dtype)t->elem_type;
    if (model_dtype_bytes(*ret_dtype) == 0 || *ret_dtype == MODEL_F64)
        return err_set(l->reterr, RC_INVAL, "'%.100s' has element type %d, which is not served",
                       vi->name, t->elem_type);
    *ret_has_shape = t->shape != NULL;
    *ret_shape = (struct model_shape){0};
    if (t->shape == NULL) return RC_OK;
    if (t->shape->n_dim > MODEL_RANK_MAX)
        return err_set(l->reterr, RC_INVAL, "'%.100s' has rank %zu", vi->name, t->shape->n_dim);
    ret_shape->rank = (uint8_t)t->shape->n_dim;
    for (uint8_t i = 0; i < ret_shape->rank; i++) {
        const Onnx__TensorShapeProto__Dimension *d = t->shape->dim[i];
        bool fixed = d->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;

        if (fixed && (d->dim_value < 1 || d->dim_value > MODEL_DIM_MAX) && d->dim_value != -1)
            return err_set(l->reterr, RC_INVAL, "'%.100s': dimension %u is %lld", vi->name, i,
                           (long long)d->dim_value);
        ret_shape->dim[i] = fixed ? d->dim_value : MODEL_DIM_ANY;
    }
    return RC_OK;
}

static enum rc values_load(struct load *l)
{
    uint32_t *input = model_alloc(l->p, (IO_MAX + 1) * sizeof(*input));
    enum rc rc;

    if (input == NULL) return nomem(l);
    l->m->input = input;
    for (uint32_t i = 0; i < l->name_n; i++) {
        struct name *e = &l->names[i];
        struct model_value *v = &l->value[e->value];
        char *name;

        if (v->name == NULL) {
            rc = text_copy(l, "a value's name", e->text, &name);
            if (rc != RC_OK) return rc;
            v->name = name;
        }
        if (e->init) {
            rc = tensor_load(l, v->name, l->g->initializer[e->at], &v->konst);
            if (rc != RC_OK) return rc;
            l->shape[e->value] = v->konst->shape;
            l->p->dtype[e->value] = v->konst->dtype;
        } else if (!e->input) {
            l->made_at[e->value] = e->at + 1;
        }
    }
    for (uint32_t i = 0; i < l->g->n_input; i++) {
        uint32_t v = name_find(l, l->g->input[i]->name);
        bool has_shape;

        if (l->value[v].konst != NULL) continue; /* an initial value: a constant to us */
        if (l->m->input_n == IO_MAX)
            return err_set(l->reterr, RC_RANGE, "more than %d inputs", IO_MAX);
        rc = type_load(l, l->g->input[i], &l->p->dtype[v], &l->shape[v], &has_shape);
        if (rc != RC_OK) return rc;
        if (!has_shape)
            return err_set(l->reterr, RC_INVAL, "input '%.100s' has no shape", l->value[v].name);
        input[l->m->input_n++] = v;
    }
    if (l->m->input_n == 0) return err_set(l->reterr, RC_INVAL, "the model has no input");
    return RC_OK;
}

static enum rc attr_load(struct load *l, const char *who, const Onnx__AttributeProto *a,
                         struct model_attr *r)
{
    char *name, *s;
    enum rc rc = text_copy(l, "an attribute's name", a->name, &name);

    if (rc != RC_OK) return rc;
    if (a->has_g || a->n_graphs > 0 || (a->ref_attr_name != NULL && a->ref_attr_name[0] != '\0'))
        return err_set(l->reterr, RC_INVAL,
                       "node '%.100s': attribute '%s' is a graph or a reference; not served", who,
                       name);
    *r = (struct model_attr){.name = name, .type = (enum model_attr_type)a->type};
    switch (a->type) {
    case MODEL_ATTR_F:
        r->f = a->f;
        return RC_OK;
    case MODEL_ATTR_I:
        r->i = a->i;
        return RC_OK;
    case MODEL_ATTR_S:
        s = model_text(l->p, a->s.data, a->s.len, NAME_BYTES_MAX);
        if (s == NULL)
            return err_set(l->reterr, RC_INVAL, "node '%.100s': attribute '%s' is too long", who,
                           name);
        r->s = s;
        return RC_OK;
    case MODEL_ATTR_T:
        if (a->t == NULL)
            return err_set(l->reterr, RC_INVAL, "node '%.100s': '%s' is empty", who, name);
        return tensor_load(l, who, a->t, &r->t);
    case MODEL_ATTR_FS:
    case MODEL_ATTR_IS: {
        bool ints = a->type == MODEL_ATTR_IS;
        size_t n = ints ? a->n_ints : a->n_floats, bytes = n * (ints ? 8 : 4);
        void *p;

        if (n > LIST_MAX)
            return err_set(l->reterr, RC_INVAL, "node '%.100s': '%s' is too long", who, name);
        p = model_alloc(l->p, MAX(bytes, 1));
        if (p == NULL) return nomem(l);
        if (bytes > 0) memcpy(p, ints ? (const void *)a->ints : (const void *)a->floats, bytes);
        r->n = (uint32_t)n;
        if (ints)
            r->is = p;
        else
            r->fs = p;
        return RC_OK;
    }
    default:
        return err_set(l->reterr, RC_INVAL,
                       "node '%.100s': attribute '%s' of type %d is not served", who, name,
                       a->type);
    }
}

/* Constant: whichever of its value attributes is there becomes the output's
 * tensor. */
static enum rc constant_load(struct load *l, const struct model_node *n)
{
    const struct model_attr *a = n->attr_n == 1 ? &n->attr[0] : NULL;
    bool list = a != NULL && (a->type == MODEL_ATTR_FS || a->type == MODEL_ATTR_IS);
    struct model_value *v = &l->value[n->out[0]];
    struct model_tensor *t;
    void *data;

    if (a == NULL)
        return err_set(l->reterr, RC_INVAL, "node '%.100s' (Constant): %u values", n->name,
                       n->attr_n);
    if (a->type == MODEL_ATTR_T) {
        v->konst = a->t;
        return RC_OK;
    }
    t = model_alloc(l->p, sizeof(*t));
    data = model_alloc(l->p, 8);
    if (t == NULL || data == NULL) return nomem(l);
    t->dtype = a->type == MODEL_ATTR_F || a->type == MODEL_ATTR_FS ? MODEL_F32 : MODEL_I64;
    t->bytes = (list ? a->n : 1) * model_dtype_bytes(t->dtype);
    t->shape.rank = list ? 1 : 0;
    t->shape.dim[0] = list ? (int64_t)a->n : 0;
    if (a->type == MODEL_ATTR_F) memcpy(data, &a->f, 4);
    if (a->type == MODEL_ATTR_I) memcpy(data, &a->i, 8);
    t->data = a->type == MODEL_ATTR_FS   ? (const void *)a->fs
              : a->type == MODEL_ATTR_IS ? (const void *)a->is
                                         : data;
    v->konst = t;
    return RC_OK;
}

static enum rc node_inputs(struct load *l, const Onnx__NodeProto *p, uint32_t idx,
                           struct model_node *n)
{
    uint32_t *in;

    if (p->n_input > IN_MAX)
        return err_set(l->reterr, RC_RANGE, "node '%.100s': %zu inputs", n->name, p->n_input);
    in = model_alloc(l->p, (p->n_input + 1) * sizeof(*in));
    if (in == NULL) return nomem(l);
    for (uint32_t i = 0; i < p->n_input; i++) {
        in[i] = MODEL_NONE;
        if (p->input[i][0] == '\0') continue;
        in[i] = name_find(l, p->input[i]);
        if (in[i] == MODEL_NONE)
            return err_set(l->reterr, RC_INVAL,
                           "node '%.100s' (%s): nothing makes its input '%.100s'", n->name,
                           model_op_name(n->op), p->input[i]);
        if (l->made_at[in[i]] > idx)
            return err_set(l->reterr, RC_INVAL,
                           "node '%.100s' (%s): its input '%.100s' is made by itself or later "
                           "(a cycle, or nodes out of order)",
                           n->name, model_op_name(n->op), p->input[i]);
    }
    n->in = in;
    n->in_n = (uint32_t)p->n_input;
    return RC_OK;
}

static enum rc node_load(struct load *l, uint32_t idx)
{
    const Onnx__NodeProto *p = l->g->node[idx];
    struct model_node *n = &l->node[idx];
    struct model_attr *attr;
    size_t out_n = out_count(p);
    uint32_t *out = model_alloc(l->p, out_n * sizeof(*out));
    char *name;
    enum rc rc;

    rc = text_copy(l, "a node's name",
                   p->name != NULL && p->name[0] != '\0' ? p->name : p->output[0], &name);
    if (rc != RC_OK) return rc;
    if (out == NULL) return nomem(l);
    n->name = name;
    rc = text_copy(l, "a node's operator", p->op_type, &name);
    if (rc != RC_OK) return rc;
    if (p->domain != NULL && p->domain[0] != '\0' && strcmp(p->domain, "ai.onnx") != 0)
        return err_set(l->reterr, RC_INVAL,
                       "node '%.100s': operator '%.60s' of domain '%.60s' is not served", n->name,
                       name, p->domain);
    n->op = model_op_find(name);
    if (n->op == MODEL_OP_N)
        return err_set(l->reterr, RC_INVAL, "node '%.100s': operator '%.60s' is not served",
                       n->name, name);
    if (out_n > MAX(model_op_rules[n->op].out_max, 1))
        return err_set(l->reterr, RC_INVAL, "node '%.100s' (%s): %zu outputs are not served",
                       n->name, model_op_name(n->op), out_n);
    for (size_t i = 0; i < out_n; i++)
        out[i] = name_find(l, p->output[i]);
    n->out = out;
    n->out_n = (uint32_t)out_n;
    rc = node_inputs(l, p, idx, n);
    if (rc != RC_OK) return rc;
    if (p->n_attribute > MODEL_ATTRS_MAX)
        return err_set(l->reterr, RC_INVAL, "node '%.100s' (%s): %zu attributes", n->name,
                       model_op_name(n->op), p->n_attribute);
    attr = model_alloc(l->p, (p->n_attribute + 1) * sizeof(*attr));
    if (attr == NULL) return nomem(l);
    for (uint32_t i = 0; i < p->n_attribute; i++) {
        rc = attr_load(l, n->name, p->attribute[i], &attr[i]);
        if (rc != RC_OK) return rc;
    }
    n->attr = attr;
    n->attr_n = (uint32_t)p->n_attribute;
    rc = model_node_check(l->m, n, l->reterr);
    if (rc != RC_OK) return rc;
    if (n->op == MODEL_OP_Constant) return constant_load(l, n);
    /* exporters hand weights through Identity */
    if (n->op == MODEL_OP_Identity) l->value[out[0]].konst = l->value[n->in[0]].konst;
    return RC_OK;
}

static enum rc nodes_load(struct load *l)
{
    struct model_shapes c = {
        .m = l->m, .shape = l->shape, .host = l->p->host, .dtype = l->p->dtype, .bound = false};
    enum rc rc = RC_OK;

    for (uint32_t i = 0; rc == RC_OK && i < l->m->value_n; i++)
        if (l->value[i].konst != NULL) rc = model_host_const(&c, i, l->value[i].konst, l->reterr);
    if (rc != RC_OK) return rc;
    l->node = model_alloc(l->p, (l->g->n_node + 1) * sizeof(*l->node));
    if (l->node == NULL) return nomem(l);
    l->m->value = l->value;
    l->m->node = l->node;
    for (uint32_t i = 0; i < l->g->n_node; i++) {
        rc = node_load(l, i);
        if (rc == RC_OK && l->value[l->node[i].out[0]].konst != NULL) {
            uint32_t v = l->node[i].out[0]; /* Constant, or Identity of one */

            rc = model_host_const(&c, v, l->value[v].konst, l->reterr);
        }
        if (rc == RC_OK) rc = model_node_shape(&c, &l->node[i], l->reterr);
        if (rc != RC_OK) return rc;
        l->m->node_n = i + 1;
    }
    return RC_OK;
}

static enum rc outputs_load(struct load *l)
{
    uint32_t *output = model_alloc(l->p, (IO_MAX + 1) * sizeof(*output));

    if (output == NULL) return nomem(l);
    if (l->g->n_output == 0 || l->g->n_output > IO_MAX)
        return err_set(l->reterr, RC_INVAL, "%zu outputs", l->g->n_output);
    for (uint32_t i = 0; i < l->g->n_output; i++) {
        const Onnx__ValueInfoProto *vi = l->g->output[i];
        uint32_t v = vi->name == NULL ? MODEL_NONE : name_find(l, vi->name);
        enum model_dtype dtype;
        struct model_shape s;
        bool has_shape, fits;
        enum rc rc;

        if (v == MODEL_NONE)
            return err_set(l->reterr, RC_INVAL, "nothing makes the output '%.100s'",
                           vi->name ? vi->name : "");
        if (vi->type != NULL) {
            rc = type_load(l, vi, &dtype, &s, &has_shape);
            if (rc != RC_OK) return rc;
            fits = dtype == l->p->dtype[v] && (!has_shape || s.rank == l->shape[v].rank);
            for (uint8_t k = 0; fits && has_shape && k < s.rank; k++)
                fits = s.dim[k] < 0 || l->shape[v].dim[k] < 0 || s.dim[k] == l->shape[v].dim[k];
            if (!fits)
                return err_set(l->reterr, RC_INVAL, "output '%.100s' is not what it declares",
                               vi->name);
        }
        output[i] = v;
    }
    l->m->output = output;
    l->m->output_n = (uint32_t)l->g->n_output;
    for (uint32_t i = 0; i < l->m->value_n; i++) {
        l->value[i].shape = l->shape[i];
        l->value[i].dtype = l->p->dtype[i];
    }
    return RC_OK;
}

static enum rc head_load(struct load *l, const Onnx__ModelProto *p)
{
    struct model_prop *prop;
    int64_t opset = 0;

    if (p->graph == NULL) return err_set(l->reterr, RC_INVAL, "no ONNX model: it has no graph");
    if (p->n_functions > 0 || p->n_training_info > 0 || p->graph->n_sparse_initializer > 0)
        return err_set(l->reterr, RC_INVAL,
                       "functions, training information and sparse tensors are not served");
    for (size_t i = 0; i < p->n_opset_import; i++) {
        const Onnx__OperatorSetIdProto *o = p->opset_import[i];

        if (o->domain == NULL || o->domain[0] == '\0' || strcmp(o->domain, "ai.onnx") == 0)
            opset = MAX(opset, o->version);
    }
    if (opset < MODEL_OPSET_MIN || opset > MODEL_OPSET_MAX)
        return err_set(l->reterr, RC_INVAL, "opset %lld; %d to %d are served, export it so",
                       (long long)opset, MODEL_OPSET_MIN, MODEL_OPSET_MAX);
    l->m->opset = (uint32_t)opset;
    if (p->n_metadata_props > PROPS_MAX)
        return err_set(l->reterr, RC_RANGE, "more than %d metadata entries", PROPS_MAX);
    prop = model_alloc(l->p, (p->n_metadata_props + 1) * sizeof(*prop));
    if (prop == NULL) return nomem(l);
    for (uint32_t i = 0; i < p->n_metadata_props; i++) {
        const Onnx__StringStringEntryProto *e = p->metadata_props[i];
        const char *k = e->key ? e->key : "", *v = e->value ? e->value : "";

        prop[i].key = model_text(l->p, k, strlen(k), NAME_BYTES_MAX);
        prop[i].value = model_text(l->p, v, strlen(v), PROP_BYTES_MAX);
        if (prop[i].key == NULL || prop[i].value == NULL)
            return err_set(l->reterr, RC_INVAL, "metadata entry %u is too long", i);
    }
    l->m->prop = prop;
    l->m->prop_n = (uint32_t)p->n_metadata_props;
    return RC_OK;
}

enum rc model_load(const void *bytes, size_t n, const struct model_limits *limits,
                   struct model **ret_model, struct err *reterr)
{
    struct budget b = {.live_max = limits->live_bytes_max, .work_max = limits->work_bytes_max};
    ProtobufCAllocator alloc = {budget_alloc, budget_free, &b};
    Onnx__ModelProto *p = NULL;
    struct load l = {.limits = limits, .reterr = reterr};
    enum rc rc;

    if (n > limits->file_bytes_max)
        return err_set(reterr, RC_RANGE, "the model has %zu bytes; at most %zu", n,
                       limits->file_bytes_max);
    l.m = calloc(1, sizeof(*l.m));
    l.p = calloc(1, sizeof(*l.p));
    if (l.m == NULL || l.p == NULL) {
        free(l.p);
        rc = err_set(reterr, RC_NOMEM, "model");
        goto out;
    }
    l.m->priv = l.p;
    l.p->live_bytes_max = limits->live_bytes_max;
    p = onnx__model_proto__unpack(&alloc, n, bytes);
    if (p == NULL) {
        rc = b.hit ? err_set(reterr, RC_RANGE, "reading the model takes more memory than allowed")
                   : err_set(reterr, RC_INVAL, "no ONNX model, or it is cut off");
        goto out;
    }
    rc = head_load(&l, p);
    if (rc != RC_OK) goto out;
    l.g = p->graph;
    rc = names_build(&l);
    if (rc == RC_OK) rc = values_load(&l);
    if (rc == RC_OK) rc = nodes_load(&l);
    if (rc == RC_OK) rc = outputs_load(&l);
    if (rc != RC_OK) goto out;
    *ret_model = l.m;
    l.m = NULL;
out:
    if (p != NULL) onnx__model_proto__free_unpacked(p, &alloc);
    model_free(l.m);
    return rc;
}
