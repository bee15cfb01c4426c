/* gateway/model_check/main.c - mikura-model-check: is this ONNX model one that is served, and what
 * does it want and give? One model, one process, locked in before the first byte is read.
 *
 *   mikura-model-check FILE_BYTES     descriptors as wire.h says, an empty environment */
#include "common/base/le.h"
#include "common/base/log.h"
#include "common/base/strutil.h"
#include "common/model/model.h"
#include "common/sandbox/sandbox.h"
#include "gateway/model_check/wire.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

struct answer {
    uint8_t p[MODEL_CHECK_ANSWER_MAX];
    size_t n;
    bool full;
};

static void put(struct answer *a, const void *p, size_t n)
{
    a->full = a->full || n > sizeof(a->p) - a->n;
    if (a->full) return;
    if (n > 0) memcpy(a->p + a->n, p, n);
    a->n += n;
}

static void put32(struct answer *a, uint32_t v)
{
    uint8_t b[4];

    le_put32(b, v);
    put(a, b, sizeof b);
}

static void put16(struct answer *a, uint16_t v)
{
    uint8_t b[2];

    le_put16(b, v);
    put(a, b, sizeof b);
}

static void put_tensors(struct answer *a, const struct model *m, const uint32_t *idx, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct model_value *v = &m->value[idx[i]];
        uint8_t head[2] = {(uint8_t)v->dtype, v->shape.rank};

        put16(a, (uint16_t)strlen(v->name)); /* names have at most 1024 bytes */
        put(a, v->name, strlen(v->name));
        put(a, head, sizeof head);
        for (uint8_t d = 0; d < v->shape.rank; d++) {
            uint8_t b[8];

            le_put64(b, (uint64_t)v->shape.dim[d]); /* MODEL_DIM_ANY is -1 */
            put(a, b, sizeof b);
        }
    }
}

static void put_text(struct answer *a, const char *text)
{
    size_t n = text == NULL ? 0 : strlen(text);

    put32(a, (uint32_t)n);
    put(a, text, n);
}

static void refuse(struct answer *a, const struct err *e)
{
    uint8_t head[2] = {'R', (uint8_t)e->rc};

    a->n = 0;
    a->full = false;
    put(a, head, sizeof head);
    put16(a, (uint16_t)strlen(e->msg));
    put(a, e->msg, strlen(e->msg));
}

static NORETURN void send_all(const struct answer *a)
{
    for (size_t at = 0; at < a->n;) {
        ssize_t put_n = write(MODEL_CHECK_FD, a->p + at, a->n - at);

        if (put_n < 0 && errno == EINTR) continue;
        if (put_n <= 0) _exit(1); /* the gateway is gone */
        at += (size_t)put_n;
    }
    _exit(0);
}

static enum rc check(const uint8_t *bytes, size_t n, struct answer *a, struct err *reterr)
{
    struct model_limits limits = model_limits_default(n);
    struct model *m = NULL;
    enum rc rc = model_load(bytes, n, &limits, &m, reterr);

    if (rc != RC_OK) return rc;
    put(a, "S", 1);
    put32(a, m->opset);
    put32(a, m->input_n);
    put32(a, m->output_n);
    put_tensors(a, m, m->input, m->input_n);
    put_tensors(a, m, m->output, m->output_n);
    put_text(a, model_prop_get(m, "classes"));
    put_text(a, model_prop_get(m, "limits"));
    model_free(m);
    return a->full ? err_set(reterr, RC_INVAL, "its description has more than %u bytes",
                             MODEL_CHECK_ANSWER_MAX)
                   : RC_OK;
}

int main(int argc, char **argv)
{
    static struct answer a;
    struct sandbox_conf conf = {.keep_fd_max = MODEL_CHECK_FILE_FD, .cpu_s_max = MODEL_CHECK_CPU_S};
    struct err err = {0};
    uint8_t *bytes;
    uint64_t n;
    size_t got = 0;

    log_setup("mikura-model-check", LOG_WARN);
    if (argc != 2 || !str_to_u64(argv[1], INT32_MAX, &n) || n == 0) return 2;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* its gateway's end is its own; the pipe tells too */
    conf.address_bytes_max = MODEL_CHECK_MEMORY(n);
    if (sandbox_enter(&conf, &err) != RC_OK) {
        log_error("model_check_sandbox", "%s", err.msg);
        return 1;
    }
    bytes = malloc(n);
    if (bytes == NULL) {
        (void)err_set(&err, RC_NOMEM, "a model of %llu bytes", (unsigned long long)n);
        refuse(&a, &err);
        send_all(&a);
    }
    while (got < n) {
        ssize_t r = read(MODEL_CHECK_FILE_FD, bytes + got, n - got);

        if (r < 0 && errno == EINTR) continue;
        if (r <= 0) return 1;
        got += (size_t)r;
    }
    if (check(bytes, n, &a, &err) != RC_OK) refuse(&a, &err);
    send_all(&a);
}
