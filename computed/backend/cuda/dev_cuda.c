/* computed/backend/cuda/dev_cuda.c - a GPU: its streams, events and memory, its libraries' calls.
 *
 * Device BE_PLAN_ONLY is an H100 in words: plans are made for it, by cuDNN's own heuristics, and
 * nothing runs; for tests on machines without a GPU. cuBLASLt wants a device even to choose: its
 * products are taken for granted there. */
#include "computed/backend/cuda/cudnn.h"
#include "computed/backend/cuda/launch.h"
#include "computed/backend/cuda/lt.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cu_event {
    cudaEvent_t e;
};
struct cu_dev {
    bool plan_only;
    int idx, major;
    cudaStream_t stream[CU_STREAM_N];
    cublasLtHandle_t lt;
    struct cudnn_ctx dnn;
    char text[128];
};
struct cu_exec { /* one of them */
    struct cudnn_conv *conv;
    struct lt_mm *mm;
};

/* As cuDNN 9.19 writes one; only what its heuristics ask for. */
static const char H100[] =
    "{\"deviceVer\":900,\"driverVer\":13000,\"cudaDeviceId\":0,\"totalGlobalMem\":85000000000,"
    "\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],"
    "\"regsPerBlock\":65536,\"multiProcessorCount\":132,\"smClockRateKHz\":1980000,"
    "\"memClockRateKHz\":2619000,\"l2CacheSize\":52428800,\"warpSize\":32,"
    "\"maxSharedMemoryPerBlock\":49152,\"maxSharedMemoryPerBlockOptin\":232448,"
    "\"reservedSharedMemoryPerBlock\":1024,\"maxRegistersPerSM\":65536,\"pciDeviceId\":0,"
    "\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,\"isTccDriver\":0,"
    "\"supportCoopLaunch\":1,\"deviceName\":\"NVIDIA H100 80GB HBM3\"}";

static enum rc rc_from_cuda(cudaError_t e, const char *what, struct err *reterr)
{
    if (e == cudaSuccess) return RC_OK;
    if (e == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* the device is still fine: the error is taken back */
        return err_set(reterr, RC_NOMEM, "cuda: %s: out of device memory", what);
    }
    return err_set(reterr, RC_IO, "cuda: %s: %s", what, cudaGetErrorString(e));
}

static enum rc probe(struct err *reterr)
{
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);

    if (e == cudaSuccess && n > 0) return RC_OK;
    return err_set(reterr, RC_UNAVAIL, "no CUDA device: %s",
                   e == cudaSuccess ? "none found"
                   : e == cudaErrorInsufficientDriver
                       ? "no NVIDIA driver, or one older than CUDA 13"
                       : cudaGetErrorString(e));
}

static void close_dev(struct cu_dev *d)
{
    if (d == NULL) return;
    cudnn_undescribe(&d->dnn);
    if (d->dnn.handle != NULL) (void)cudnnDestroy(d->dnn.handle);
    if (d->lt != NULL) (void)cublasLtDestroy(d->lt);
    for (int i = 0; i < CU_STREAM_N; i++)
        if (d->stream[i] != NULL) (void)cudaStreamDestroy(d->stream[i]);
    free(d);
}

/* cuDNN loads its parts when it needs them: in a sandbox (common/sandbox) that would be too late.
 * What is not there under this name is left to it. */
static void parts_load(void)
{
    static const char *const names[] = {"libcudnn_graph.so.9",
                                        "libcudnn_ops.so.9",
                                        "libcudnn_cnn.so.9",
                                        "libcudnn_heuristic.so.9",
                                        "libcudnn_engines_precompiled.so.9",
                                        "libcudnn_engines_runtime_compiled.so.9"};

    for (size_t i = 0; i < ARRAY_N(names); i++)
        (void)dlopen(names[i], RTLD_NOW | RTLD_GLOBAL);
}

static enum rc open_gpu(struct cu_dev *d, uint32_t idx, struct err *reterr)
{
    struct cudaDeviceProp prop;
    int n = 0, driver = 0;
    enum rc rc = rc_from_cuda(cudaGetDeviceCount(&n), "devices", reterr);

    if (rc != RC_OK) return rc;
    if (idx >= (uint32_t)n)
        return err_set(reterr, RC_NOTFOUND, "no CUDA device %u: there are %d", idx, n);
    d->idx = (int)idx;
    rc = rc_from_cuda(cudaGetDeviceProperties(&prop, d->idx), "properties", reterr);
    if (rc != RC_OK) return rc;
    if (prop.major < 8)
        return err_set(reterr, RC_UNAVAIL, "%.64s has compute capability %d.%d; 8.0 is needed",
                       prop.name, prop.major, prop.minor);
    d->major = prop.major;
    parts_load();
    rc = rc_from_cuda(cudaSetDevice(d->idx), "set device", reterr);
    for (int i = 0; rc == RC_OK && i < CU_STREAM_N; i++)
        rc = rc_from_cuda(cudaStreamCreateWithFlags(&d->stream[i], cudaStreamNonBlocking), "stream",
                          reterr);
    if (rc == RC_OK && cudnnGetVersion() < 91000)
        rc = err_set(reterr, RC_UNAVAIL, "cuDNN %zu: 9.10 is needed", cudnnGetVersion());
    if (rc == RC_OK) rc = rc_from_cudnn(cudnnCreate(&d->dnn.handle), "handle", reterr);
    if (rc == RC_OK)
        rc = rc_from_cudnn(cudnnSetStream(d->dnn.handle, d->stream[CU_RUN]), "stream", reterr);
    if (rc == RC_OK && cublasLtCreate(&d->lt) != CUBLAS_STATUS_SUCCESS)
        rc = err_set(reterr, RC_IO, "cuBLASLt: no handle");
    if (rc != RC_OK) return rc;
    (void)cudaDriverGetVersion(&driver); /* 0: not known */
    (void)snprintf(d->text, sizeof(d->text), "cuda (%.60s, driver %d.%d, cuDNN %zu.%zu)", prop.name,
                   driver / 1000, driver % 1000 / 10, cudnnGetVersion() / 10000,
                   cudnnGetVersion() / 100 % 100);
    return RC_OK;
}

static enum rc open_dev(uint32_t idx, struct cu_dev **ret, struct err *reterr)
{
    struct cu_dev *d = calloc(1, sizeof(*d));
    enum rc rc;

    if (d == NULL) return err_set(reterr, RC_NOMEM, "cuda device");
    d->plan_only = idx == BE_PLAN_ONLY;
    if (d->plan_only) {
        rc = cudnn_describe(&d->dnn, H100, reterr);
        d->major = 9;
        (void)snprintf(d->text, sizeof(d->text), "cuda (plans for an H100, cuDNN %zu.%zu)",
                       cudnnGetVersion() / 10000, cudnnGetVersion() / 100 % 100);
    } else {
        rc = open_gpu(d, idx, reterr);
    }
    if (rc != RC_OK) {
        close_dev(d);
        return rc;
    }
    *ret = d;
    return RC_OK;
}

static const char *text(const struct cu_dev *d)
{
    return d->text;
}

static enum rc precision(const struct cu_dev *d, enum be_precision p, struct err *reterr)
{
    (void)p;
    return d->major >= 8 ? RC_OK : err_set(reterr, RC_UNIMPL, "needs compute capability 8.0");
}

static enum rc sync_dev(struct cu_dev *d, struct err *reterr)
{
    enum rc rc = RC_OK;

    for (int i = 0; rc == RC_OK && i < CU_STREAM_N && !d->plan_only; i++)
        rc = rc_from_cuda(cudaStreamSynchronize(d->stream[i]), "run", reterr);
    return rc;
}

/* ---- memory ---- */
/* A device in words gives a token: nothing is ever there. */
static enum rc token(size_t bytes, void **ret, struct err *reterr)
{
    *ret = malloc(bytes);
    return *ret != NULL ? RC_OK : err_set(reterr, RC_NOMEM, "plan");
}

static enum rc alloc(struct cu_dev *d, size_t bytes, void **ret, struct err *reterr)
{
    char what[48];

    if (d->plan_only) return token(1, ret, reterr);
    (void)snprintf(what, sizeof(what), "%zu bytes", bytes);
    return rc_from_cuda(cudaMalloc(ret, bytes), what, reterr);
}

static void free_dev(struct cu_dev *d, void *p, size_t bytes)
{
    struct err ignored;

    if (p == NULL) return;
    if (d->plan_only) {
        free(p);
        return;
    }
    /* image memory is zeroed before it goes, when nothing reads it any more; where that fails the
     * device is lost, and its memory */
    (void)!sync_dev(d, &ignored);
    if (bytes > 0) (void)cudaMemsetAsync(p, 0, bytes, d->stream[CU_RUN]);
    (void)cudaStreamSynchronize(d->stream[CU_RUN]);
    (void)cudaFree(p);
}

static enum rc pinned_alloc(struct cu_dev *d, size_t bytes, void **ret, struct err *reterr)
{
    if (d->plan_only) return token(bytes, ret, reterr);
    return rc_from_cuda(cudaMallocHost(ret, bytes), "pinned memory", reterr);
}

static void pinned_free(struct cu_dev *d, void *p, size_t bytes)
{
    if (p == NULL) return;
    if (d->plan_only) {
        free(p);
        return;
    }
    memset(p, 0, bytes); /* image bytes */
    (void)cudaFreeHost(p);
}

static enum rc copy(struct cu_dev *d, enum cu_stream at, void *to, const void *from, size_t n,
                    struct err *reterr)
{
    if (d->plan_only)
        return at == CU_UP ? RC_OK : err_set(reterr, RC_UNAVAIL, "this device only plans");
    return rc_from_cuda(
        cudaMemcpyAsync(to, from, n, at == CU_UP ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost,
                        d->stream[at]),
        "transfer", reterr);
}

/* ---- events ---- */
static enum rc event_new(struct cu_dev *d, struct cu_event **ret, struct err *reterr)
{
    struct cu_event *e = calloc(1, sizeof(*e));
    enum rc rc = e == NULL ? err_set(reterr, RC_NOMEM, "event") : RC_OK;

    if (rc == RC_OK && !d->plan_only)
        rc = rc_from_cuda(cudaEventCreateWithFlags(&e->e, cudaEventDisableTiming), "event", reterr);
    if (rc != RC_OK) {
        free(e);
        return rc;
    }
    *ret = e;
    return RC_OK;
}

static void event_free(struct cu_dev *d, struct cu_event *e)
{
    (void)d;
    if (e != NULL && e->e != NULL) (void)cudaEventDestroy(e->e);
    free(e);
}

static enum rc event_record(struct cu_dev *d, struct cu_event *e, enum cu_stream at,
                            struct err *reterr)
{
    return d->plan_only ? RC_OK
                        : rc_from_cuda(cudaEventRecord(e->e, d->stream[at]), "event", reterr);
}

static enum rc event_wait(struct cu_dev *d, struct cu_event *e, enum cu_stream at,
                          struct err *reterr)
{
    return d->plan_only
               ? RC_OK
               : rc_from_cuda(cudaStreamWaitEvent(d->stream[at], e->e, 0), "event", reterr);
}

static enum rc event_sync(struct cu_dev *d, struct cu_event *e, struct err *reterr)
{
    return d->plan_only ? RC_OK : rc_from_cuda(cudaEventSynchronize(e->e), "transfer", reterr);
}

/* ---- libraries and kernels ---- */
static enum rc exec_new(struct cu_exec **ret, struct err *reterr)
{
    *ret = calloc(1, sizeof(**ret));
    return *ret != NULL ? RC_OK : err_set(reterr, RC_NOMEM, "plan");
}

static void exec_free(struct cu_exec *e)
{
    if (e == NULL) return;
    cudnn_conv_free(e->conv);
    lt_mm_free(e->mm);
    free(e);
}

static enum rc conv_new(struct cu_dev *d, const struct cu_conv *c, size_t workspace_max,
                        struct cu_exec **ret, size_t *ret_workspace, struct err *reterr)
{
    struct cu_exec *e;
    enum rc rc = exec_new(&e, reterr);

    if (rc == RC_OK)
        rc = cudnn_conv_new(&d->dnn, c, workspace_max, &e->conv, ret_workspace, reterr);
    if (rc != RC_OK) {
        exec_free(e);
        return rc;
    }
    *ret = e;
    return RC_OK;
}

static enum rc mm_new(struct cu_dev *d, const struct cu_mm *m, size_t workspace_max,
                      struct cu_exec **ret, size_t *ret_workspace, struct err *reterr)
{
    struct cu_exec *e;
    enum rc rc;

    if (d->plan_only && m->act.act > BE_ACT_RELU)
        return err_set(reterr, RC_UNIMPL, "cuBLASLt: activation %d", m->act.act);
    rc = exec_new(&e, reterr);
    if (rc == RC_OK && !d->plan_only)
        rc = lt_mm_new(d->lt, m, workspace_max, &e->mm, ret_workspace, reterr);
    if (rc != RC_OK) {
        exec_free(e);
        return rc;
    }
    *ret = e;
    return RC_OK;
}

static enum rc exec_run(struct cu_dev *d, struct cu_exec *e, void *const p[K_PTRS], void *workspace,
                        struct err *reterr)
{
    if (d->plan_only) return err_set(reterr, RC_UNAVAIL, "this device only plans");
    return e->conv != NULL ? cudnn_conv_run(&d->dnn, e->conv, p, workspace, reterr)
                           : lt_mm_run(d->lt, e->mm, p, workspace, d->stream[CU_RUN], reterr);
}

static const char *exec_text(const struct cu_exec *e)
{
    return e->conv != NULL ? cudnn_conv_text(e->conv)
           : e->mm != NULL ? lt_mm_text(e->mm)
                           : "cublasLt";
}

static enum rc kern_run(struct cu_dev *d, enum k_id id, const union k_any *k, struct err *reterr)
{
    if (d->plan_only) return err_set(reterr, RC_UNAVAIL, "this device only plans");
    return rc_from_cuda(kern_launch(id, k, d->stream[CU_RUN]), "kernel", reterr);
}

/* ---- recorded runs ---- */
static enum rc graph_begin(struct cu_dev *d, struct err *reterr)
{
    return rc_from_cuda(cudaStreamBeginCapture(d->stream[CU_RUN], cudaStreamCaptureModeThreadLocal),
                        "recording", reterr);
}

static enum rc graph_end(struct cu_dev *d, void **ret, struct err *reterr)
{
    cudaGraph_t g = NULL;
    cudaGraphExec_t e = NULL;
    enum rc rc = rc_from_cuda(cudaStreamEndCapture(d->stream[CU_RUN], &g), "recording", reterr);

    if (rc == RC_OK) rc = rc_from_cuda(cudaGraphInstantiate(&e, g, 0), "recorded run", reterr);
    if (g != NULL) (void)cudaGraphDestroy(g);
    if (rc == RC_OK) *ret = e;
    return rc;
}

static enum rc graph_run(struct cu_dev *d, void *graph, struct err *reterr)
{
    return rc_from_cuda(cudaGraphLaunch(graph, d->stream[CU_RUN]), "recorded run", reterr);
}

static void graph_free(void *graph)
{
    if (graph != NULL) (void)cudaGraphExecDestroy(graph);
}

const struct cu_dev_ops *cu_dev(void)
{
    static const struct cu_dev_ops ops = {.name = "cuda",
                                          .probe = probe,
                                          .open = open_dev,
                                          .close = close_dev,
                                          .text = text,
                                          .precision = precision,
                                          .alloc = alloc,
                                          .free = free_dev,
                                          .slot_bytes = (size_t)4 << 20,
                                          .pinned_alloc = pinned_alloc,
                                          .pinned_free = pinned_free,
                                          .copy = copy,
                                          .event_new = event_new,
                                          .event_free = event_free,
                                          .event_record = event_record,
                                          .event_wait = event_wait,
                                          .event_sync = event_sync,
                                          .sync = sync_dev,
                                          .conv_new = conv_new,
                                          .mm_new = mm_new,
                                          .exec_run = exec_run,
                                          .exec_text = exec_text,
                                          .exec_free = exec_free,
                                          .kern_run = kern_run,
                                          .graph_begin = graph_begin,
                                          .graph_end = graph_end,
                                          .graph_run = graph_run,
                                          .graph_free = graph_free};

    return &ops;
}
