/* tests/unit/common/model/fuzz_model.c - any bytes as a model: loaded or refused; what loads is
 * bound to small shapes. */
#include "common/model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct model_limits lim = model_limits_default(n);
    struct model_shape in[64];
    struct model *m;
    struct err e;

    lim.live_bytes_max = (size_t)16 << 20;
    lim.work_bytes_max = (size_t)32 << 20;
    if (model_load(data, n, &lim, &m, &e) != RC_OK) {
        CHECK(e.msg[0] != '\0');
        return 0;
    }
    CHECK(m->input_n <= ARRAY_N(in));
    for (int64_t side = 1; side < 100; side = side * 3 + 5) {
        struct model_shapes all;

        for (uint32_t i = 0; i < m->input_n; i++) {
            in[i] = m->value[m->input[i]].shape;
            for (uint8_t k = 0; k < in[i].rank; k++)
                if (in[i].dim[k] < 0) in[i].dim[k] = side;
        }
        if (model_bind(m, in, &all, &e) != RC_OK) {
            CHECK(e.msg[0] != '\0');
            continue;
        }
        for (uint32_t i = 0; i < m->node_n; i++) {
            for (uint32_t o = 0; o < m->node[i].out_n; o++) {
                const struct model_shape *y = &all.shape[m->node[i].out[o]];

                for (uint8_t k = 0; k < y->rank; k++)
                    CHECK(y->dim[k] >= 0); /* a bound model has no unknown left */
            }
        }
        model_shapes_free(&all);
    }
    model_free(m);
    return 0;
}
