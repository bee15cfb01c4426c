/* tests/conformance/model_run.c - loads and runs models for the scripts that know the right answers
 * (runner.py).
 *
 *   model_run BACKEND[:plan] PLUGIN_DIR fp32|tf32|fp16|bf16     :plan  for a device in words (only
 * 'P')
 *
 * Commands come on stdin, answers go to stdout; integers native, little-endian:
 *   'L' n u64, bytes                       load a model in place of the one before
 *   'R' inputs u32, each {rank u32, dims i64, n u64, bytes}   run it
 *   'T' times u32                          the last run again and again
 *   'D' times u32                          likewise, without transfers to and from the device
 *   'P' inputs u32, each {rank u32, dims i64}   plan only
 * Each answer: rc u32; not 0: {n u32, message}. 'L': inputs u32, each {rank u32, dims i64}; nodes
 * u32. 'R': outputs u32, each {type u32, rank u32, dims i64, n u64, bytes}. 'T': seconds f64 of
 * each. 'P': {n u32, text}. 'D': seconds f64 of all.
 */
#include "common/base/clock.h"
#include "computed/onnx/engine.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define INPUTS_MAX 64

static struct model *m;
static struct session *s;
static struct model_shape shape[INPUTS_MAX];
static void *in[INPUTS_MAX];

static void get(void *p, size_t n)
{
    if (fread(p, 1, n, stdin) != n) exit(1); /* the script is gone */
}

static uint32_t get32(void)
{
    uint32_t v;

    get(&v, sizeof(v));
    return v;
}

static uint64_t get64(void)
{
    uint64_t v;

    get(&v, sizeof(v));
    return v;
}

static void put(const void *p, size_t n)
{
    if (fwrite(p, 1, n, stdout) != n) exit(1);
}

static void put32(uint32_t v)
{
    put(&v, sizeof(v));
}

static void put64(uint64_t v)
{
    put(&v, sizeof(v));
}

static bool put_rc(enum rc rc, const struct err *e)
{
    put32((uint32_t)rc);
    if (rc == RC_OK) return true;
    put32((uint32_t)strlen(e->msg));
    put(e->msg, strlen(e->msg));
    return false;
}

static void put_shape(const struct model_shape *x)
{
    put32(x->rank);
    put(x->dim, x->rank * sizeof(*x->dim));
}

static void load(struct engine *en)
{
    uint64_t n = get64();
    void *bytes = malloc(MAX(n, 1));
    struct model_limits lim = model_limits_default(n);
    struct err e = {0};
    enum rc rc;

    CHECK(bytes != NULL);
    get(bytes, n);
    session_close(s);
    s = NULL;
    model_free(m);
    m = NULL;
    rc = model_load(bytes, n, &lim, &m, &e);
    free(bytes);
    if (rc == RC_OK) rc = session_open(en, m, &s, &e);
    if (!put_rc(rc, &e)) return;
    put32(m->input_n);
    for (uint32_t i = 0; i < m->input_n; i++)
        put_shape(&m->value[m->input[i]].shape);
    put32(m->node_n);
}

static void run(void)
{
    struct session_out out[64];
    uint32_t n = get32();
    struct err e = {0};
    enum rc rc;

    CHECK(n <= INPUTS_MAX);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t bytes;

        shape[i] = (struct model_shape){.rank = (uint8_t)get32()};
        CHECK(shape[i].rank <= MODEL_RANK_MAX);
        get(shape[i].dim, shape[i].rank * sizeof(*shape[i].dim));
        bytes = get64();
        free(in[i]);
        in[i] = malloc(MAX(bytes, 1));
        CHECK(in[i] != NULL);
        get(in[i], bytes);
    }
    rc = m == NULL || n != m->input_n ? err_set(&e, RC_INVAL, "no model, or %u inputs", n) : RC_OK;
    for (int k = 0; rc == RC_OK && k < 2; k++) /* the second run meets what the first left */
        rc = session_run(s, shape, (const void *const *)in, out, &e);
    if (!put_rc(rc, &e)) return;
    put32(m->output_n);
    for (uint32_t i = 0; i < m->output_n; i++) {
        put32((uint32_t)out[i].dtype);
        put_shape(&out[i].shape);
        put64(out[i].bytes);
        put(out[i].data, out[i].bytes);
    }
}

static void plan(void)
{
    static char text[1 << 20];
    uint32_t n = get32();
    struct err e = {0};
    enum rc rc;

    CHECK(n <= INPUTS_MAX);
    for (uint32_t i = 0; i < n; i++) {
        shape[i] = (struct model_shape){.rank = (uint8_t)get32()};
        CHECK(shape[i].rank <= MODEL_RANK_MAX);
        get(shape[i].dim, shape[i].rank * sizeof(*shape[i].dim));
    }
    rc = m == NULL || n != m->input_n ? err_set(&e, RC_INVAL, "no model, or %u inputs", n)
                                      : session_plan(s, shape, text, sizeof(text), &e);
    if (!put_rc(rc, &e)) return;
    put32((uint32_t)strlen(text));
    put(text, strlen(text));
}

static double cpu_seconds(void)
{
    struct timespec t = {0};

    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* always there */
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void again(void)
{
    struct session_out out[64];
    uint32_t n = get32();
    double *t = calloc(n + 1u, sizeof(*t)), cpu = cpu_seconds();
    struct err e = {0};
    enum rc rc = RC_OK;

    CHECK(t != NULL);
    for (uint32_t i = 0; rc == RC_OK && i < n; i++) {
        uint64_t from = clock_boot_us();

        rc = session_run(s, shape, (const void *const *)in, out, &e);
        t[i] = (double)(clock_boot_us() - from) * 1e-6;
    }
    t[n] = cpu_seconds() - cpu;
    if (put_rc(rc, &e)) put(t, (n + 1u) * sizeof(*t));
    free(t);
}

static void on_device(void)
{
    uint32_t n = get32();
    uint64_t from = clock_boot_us();
    struct err e = {0};
    double t;

    if (!put_rc(session_repeat(s, n, &e), &e)) return;
    t = (double)(clock_boot_us() - from) * 1e-6;
    put(&t, sizeof(t));
}

int main(int argc, char **argv)
{
    static const char *const names[] = {
        [BE_FP32] = "fp32", [BE_TF32] = "tf32", [BE_PREC_F16] = "fp16", [BE_PREC_BF16] = "bf16"};
    struct engine_conf conf = {.bytes_max = (size_t)64 << 30, .threads = 1};
    struct engine *en;
    char *colon;
    struct err e = {0};
    int c;

    CHECK(argc == 4);
    colon = strchr(argv[1], ':');
    if (colon != NULL) {
        *colon = '\0';
        conf.device_idx = BE_PLAN_ONLY;
    }
    conf.backend = argv[1];
    conf.plugin_dir = argv[2];
    for (int i = 0; i < 4; i++)
        if (strcmp(argv[3], names[i]) == 0) conf.precision = (enum be_precision)i;
    if (!put_rc(engine_open(&conf, &en, &e), &e)) return e.rc == RC_UNAVAIL ? 77 : 1;
    put32((uint32_t)strlen(engine_text(en)));
    put(engine_text(en), strlen(engine_text(en)));
    (void)fflush(stdout);
    while ((c = getchar()) != EOF) {
        if (c == 'L') load(en);
        if (c == 'R') run();
        if (c == 'T') again();
        if (c == 'D') on_device();
        if (c == 'P') plan();
        (void)fflush(stdout);
    }
    session_close(s);
    engine_close(en);
    model_free(m);
    for (int i = 0; i < INPUTS_MAX; i++)
        free(in[i]);
    return 0;
}
