/* computed/backend/cuda/lt.c - see lt.h. cuBLASLt thinks in columns: a row-major y = a b is the
 * column-major y' = b' a', so a and b change places, rows and columns too; the bias along y's
 * columns is then the one along the rows of y', which its epilogue adds. */
#include "computed/backend/cuda/lt.h"
#include <stdio.h>
#include <stdlib.h>

struct lt_mm {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, y; /* in cuBLASLt's order */
    cublasLtMatmulAlgo_t algo;
    size_t workspace;
    float alpha, beta;
    bool bias;
    char text[32];
};

static enum rc rc_from_cublas(cublasStatus_t s, const char *what, struct err *reterr)
{
    if (s == CUBLAS_STATUS_SUCCESS) return RC_OK;
    if (s == CUBLAS_STATUS_NOT_SUPPORTED)
        return err_set(reterr, RC_UNIMPL, "cuBLASLt: %s: not supported", what);
    return err_set(reterr, s == CUBLAS_STATUS_ALLOC_FAILED ? RC_NOMEM : RC_IO,
                   "cuBLASLt: %s: status %d", what, (int)s);
}

/* rows x cols, column-major, `ld` apart; batch of them at stride. */
static cublasStatus_t layout(cublasLtMatrixLayout_t *ret, cudaDataType_t type, int64_t rows,
                             int64_t cols, int32_t batch, int64_t stride)
{
    cublasStatus_t s = cublasLtMatrixLayoutCreate(ret, type, (uint64_t)rows, (uint64_t)cols, rows);

    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatrixLayoutSetAttribute(*ret, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch,
                                             sizeof(batch));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatrixLayoutSetAttribute(*ret, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                             &stride, sizeof(stride));
    return s;
}

static cublasStatus_t desc_make(struct lt_mm *k, const struct cu_mm *m, cudaDataType_t type)
{
    cublasOperation_t op_a = m->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N; /* their a is our b */
    cublasOperation_t op_b = m->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    bool relu = m->act.act == BE_ACT_RELU;
    cublasLtEpilogue_t epilogue = m->bias
                                      ? relu ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_BIAS
                                  : relu ? CUBLASLT_EPILOGUE_RELU
                                         : CUBLASLT_EPILOGUE_DEFAULT;
    cublasStatus_t s = cublasLtMatmulDescCreate(
        &k->desc, m->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F);

    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulDescSetAttribute(k->desc, CUBLASLT_MATMUL_DESC_TRANSA, &op_a,
                                           sizeof(op_a));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulDescSetAttribute(k->desc, CUBLASLT_MATMUL_DESC_TRANSB, &op_b,
                                           sizeof(op_b));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulDescSetAttribute(k->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                           sizeof(epilogue));
    if (s == CUBLAS_STATUS_SUCCESS && m->bias)
        s = cublasLtMatmulDescSetAttribute(k->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type,
                                           sizeof(type));
    return s;
}

static enum rc algo_pick(cublasLtHandle_t h, struct lt_mm *k, size_t workspace_max,
                         struct err *reterr)
{
    cublasLtMatmulPreference_t pref = NULL;
    cublasLtMatmulHeuristicResult_t r;
    uint32_t align = 16; /* of the smallest operand: rows of odd length lie at any place */
    int n = 0;
    cublasStatus_t s = cublasLtMatmulPreferenceCreate(&pref);

    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                 &workspace_max, sizeof(workspace_max));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                                                 &align, sizeof(align));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulAlgoGetHeuristic(h, k->desc, k->a, k->b, k->y, k->y, pref, 1, &r, &n);
    if (pref != NULL) (void)cublasLtMatmulPreferenceDestroy(pref);
    if (s != CUBLAS_STATUS_SUCCESS || n == 0)
        return rc_from_cublas(n == 0 && s == CUBLAS_STATUS_SUCCESS ? CUBLAS_STATUS_NOT_SUPPORTED
                                                                   : s,
                              "heuristic", reterr);
    k->algo = r.algo;
    k->workspace = r.workspaceSize;
    return RC_OK;
}

enum rc lt_mm_new(cublasLtHandle_t h, const struct cu_mm *m, size_t workspace_max,
                  struct lt_mm **ret, size_t *ret_workspace, struct err *reterr)
{
    cudaDataType_t type = m->type == K_F16    ? CUDA_R_16F
                          : m->type == K_BF16 ? CUDA_R_16BF
                                              : CUDA_R_32F;
    int64_t area = (int64_t)m->rows * m->cols;
    struct lt_mm *k;
    cublasStatus_t s;
    enum rc rc;

    if (m->act.act > BE_ACT_RELU)
        return err_set(reterr, RC_UNIMPL, "cuBLASLt: activation %d", m->act.act);
    k = calloc(1, sizeof(*k));
    if (k == NULL) return err_set(reterr, RC_NOMEM, "product");
    k->alpha = m->alpha;
    k->beta = m->residual ? 1 : 0;
    k->bias = m->bias;
    s = desc_make(k, m, type);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = layout(&k->a, type, m->trans_b ? m->inner : m->cols, m->trans_b ? m->cols : m->inner,
                   m->batch, m->stride_b);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = layout(&k->b, type, m->trans_a ? m->rows : m->inner, m->trans_a ? m->inner : m->rows,
                   m->batch, m->stride_a);
    if (s == CUBLAS_STATUS_SUCCESS) s = layout(&k->y, type, m->cols, m->rows, m->batch, area);
    rc = rc_from_cublas(s, "layouts", reterr);
    if (rc == RC_OK) rc = algo_pick(h, k, workspace_max, reterr);
    if (rc != RC_OK) {
        lt_mm_free(k);
        return rc;
    }
    (void)snprintf(k->text, sizeof(k->text), "cublasLt %dx%dx%d", m->rows, m->cols, m->inner);
    *ret = k;
    *ret_workspace = k->workspace;
    return RC_OK;
}

enum rc lt_mm_run(cublasLtHandle_t h, struct lt_mm *k, void *const p[K_PTRS], void *workspace,
                  cudaStream_t st, struct err *reterr)
{
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
    const void *c = k->beta > 0 ? p[4] : p[0];

    if (k->bias)
        s = cublasLtMatmulDescSetAttribute(k->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p[3],
                                           sizeof(p[3]));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmul(h, k->desc, &k->alpha, p[2], k->a, p[1], k->b, &k->beta, c, k->y, p[0],
                           k->y, &k->algo, workspace, k->workspace, st);
    return s == CUBLAS_STATUS_SUCCESS
               ? RC_OK
               : err_set(reterr, RC_IO, "cuBLASLt: product: status %d", (int)s);
}

const char *lt_mm_text(const struct lt_mm *k)
{
    return k->text;
}

void lt_mm_free(struct lt_mm *k)
{
    if (k == NULL) return;
    if (k->a != NULL) (void)cublasLtMatrixLayoutDestroy(k->a); /* nothing more to do */
    if (k->b != NULL) (void)cublasLtMatrixLayoutDestroy(k->b);
    if (k->y != NULL) (void)cublasLtMatrixLayoutDestroy(k->y);
    if (k->desc != NULL) (void)cublasLtMatmulDescDestroy(k->desc);
    free(k);
}
