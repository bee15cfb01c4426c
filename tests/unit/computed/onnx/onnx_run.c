/* tests/unit/computed/onnx/onnx_run.c - runs a model for the scripts that know the right answer.
 *
 *   onnx_run BACKEND MODEL N C H W < input.f32 > outputs.f32
 *
 * One float32 input; the outputs follow one another as raw float32. */
#include "common/base/strutil.h"
#include "computed/onnx/engine.h"
#include <stdio.h>
#include <stdlib.h>

static void *read_all(FILE *f, size_t *ret_n)
{
    size_t cap = (size_t)64 << 20, n;
    void *p = malloc(cap);

    CHECK(p != NULL && f != NULL);
    n = fread(p, 1, cap, f);
    CHECK(n < cap);
    *ret_n = n;
    return p;
}

static int fail(const struct err *e)
{
    (void)fprintf(stderr, "%s: %s\n", rc_name(e->rc), e->msg);
    return 1;
}

int main(int argc, char **argv)
{
    struct model_shape shape = {.rank = 4};
    struct engine_conf conf = {.backend = argc == 7 ? argv[1] : "", .plugin_dir = BACKEND_DIR};
    struct session_out out[64];
    struct model_limits lim;
    struct session *s;
    struct engine *en;
    struct model *m;
    struct err e;
    uint64_t v, count;
    size_t n, in_n;
    void *bytes, *in;

    CHECK(argc == 7);
    for (int i = 0; i < 4; i++) {
        CHECK(str_to_u64(argv[3 + i], MODEL_DIM_MAX, &v));
        shape.dim[i] = (int64_t)v;
    }
    bytes = read_all(fopen(argv[2], "rb"), &n);
    in = read_all(stdin, &in_n);
    CHECK(model_shape_count(&shape, &count) && in_n == count * sizeof(float));
    lim = model_limits_default(n);
    if (model_load(bytes, n, &lim, &m, &e) != RC_OK) return fail(&e);
    free(bytes);
    if (engine_open(&conf, &en, &e) != RC_OK) return fail(&e);
    if (session_open(en, m, &s, &e) != RC_OK) return fail(&e);
    for (int i = 0; i < 2; i++) /* the second run uses the plan of the first */
        if (session_run(s, &shape, (const void *const *)&in, out, &e) != RC_OK) return fail(&e);
    for (uint32_t i = 0; i < m->output_n; i++)
        CHECK(fwrite(out[i].data, 1, out[i].bytes, stdout) == out[i].bytes);
    session_close(s);
    engine_close(en);
    model_free(m);
    free(in);
    return 0;
}
