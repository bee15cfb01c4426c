/* computed/worker/gateways.c - see gateways.h. */
#include "computed/worker/gateways.h"
#include "common/base/log.h"
#include "common/base/strutil.h"
#include "computed/worker/models.h"
#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GATEWAYS_MAX     64u
#define MODEL_FETCH_MS   600000u
#define SLICES_MS        120000u
#define MASK_PUT_MS      120000u
#define MASK_PIECE_BYTES (512u << 10)

struct gateway {
    char name[64], address[128];
    struct rpc_channel *lane[GATEWAYS_LANES];
    uint32_t used; /* calls that hold it */
    bool gone;     /* not in the map any more, or moved */
};
struct gateways {
    struct gateways_conf conf;
    struct gateway *gw[GATEWAYS_MAX];
    uint32_t gw_n, closing_n;
    uint32_t last; /* answered last */
    bool cut[GATEWAYS_LANES];
    struct fiber_cond changed;
};

enum rc gateways_open(const struct gateways_conf *conf, struct gateways **ret_gw)
{
    struct gateways *g = calloc(1, sizeof(*g));

    if (g == NULL) return RC_NOMEM;
    g->conf = *conf;
    fiber_cond_init(&g->changed);
    *ret_gw = g;
    return RC_OK;
}

static void on_closed(void *data)
{
    struct gateways *g = data;

    g->closing_n--;
    fiber_cond_broadcast(&g->changed);
}

static void lane_close(struct gateways *g, struct gateway *w, uint32_t lane)
{
    if (w->lane[lane] == NULL) return;
    g->closing_n++;
    rpc_channel_close(w->lane[lane], on_closed, g);
    w->lane[lane] = NULL;
}

static void drop(struct gateways *g, uint32_t idx)
{
    struct gateway *w = g->gw[idx];

    for (uint32_t l = 0; l < GATEWAYS_LANES; l++)
        lane_close(g, w, l);
    g->gw[idx] = g->gw[--g->gw_n];
    free(w);
}

void gateways_cut(struct gateways *g, enum gateways_lane lane)
{
    g->cut[lane] = true;
    for (uint32_t i = 0; i < g->gw_n; i++)
        lane_close(g, g->gw[i], lane);
}

void gateways_close(struct gateways *g)
{
    if (g == NULL) return;
    for (uint32_t l = 0; l < GATEWAYS_LANES; l++)
        gateways_cut(g, l);
    while (g->gw_n > 0) {
        while (g->gw[0]->used > 0)
            fiber_cond_wait(&g->changed);
        drop(g, 0);
    }
    while (g->closing_n > 0)
        fiber_cond_wait(&g->changed);
    free(g);
}

/* Brings the list in line with the map; what is in use stays until it is not. */
static void refresh(struct gateways *g)
{
    for (uint32_t i = 0; i < g->gw_n; i++)
        g->gw[i]->gone = true;
    for (const struct cluster_node *n = cluster_node_next(g->conf.cluster, NULL); n != NULL;
         n = cluster_node_next(g->conf.cluster, n)) {
        bool known = false;
        struct gateway *w;

        if (strcmp(n->kind, "gateway") != 0 || !n->alive) continue;
        for (uint32_t i = 0; i < g->gw_n; i++) {
            w = g->gw[i];
            if (strcmp(w->name, n->name) != 0 || strcmp(w->address, n->host_address) != 0) continue;
            w->gone = false;
            known = true;
        }
        if (known || g->gw_n == GATEWAYS_MAX) continue;
        w = calloc(1, sizeof(*w));
        if (w == NULL) return;
        (void)snprintf(w->name, sizeof(w->name), "%s", n->name);
        (void)snprintf(w->address, sizeof(w->address), "%s", n->host_address);
        g->gw[g->gw_n++] = w;
    }
    for (uint32_t i = g->gw_n; i-- > 0;)
        if (g->gw[i]->gone && g->gw[i]->used == 0) drop(g, i);
}

static enum rc channel(struct gateways *g, struct gateway *w, enum gateways_lane lane,
                       struct rpc_channel **ret_ch, struct err *reterr)
{
    struct rpc_channel_conf conf = {.loop = fibers_loop(g->conf.fs), .tls = g->conf.tls};
    const char *colon = strrchr(w->address, ':');
    char host[128], uri[TLS_URI_BYTES_MAX];
    uint64_t port;
    enum rc rc = RC_OK;

    if (g->cut[lane]) return err_set(reterr, RC_CANCELED, "the worker stops");
    if (w->lane[lane] == NULL) {
        if (colon == NULL || !str_to_u64(colon + 1, 65535, &port) || port == 0)
            return err_set(reterr, RC_UNAVAIL, "gateway '%s' published the address '%s'", w->name,
                           w->address);
        (void)snprintf(host, sizeof(host), "%.*s", (int)(colon - w->address), w->address);
        (void)snprintf(uri, sizeof(uri), "mikura://node/gateway/%s", w->name);
        conf.host = host;
        conf.port = (uint16_t)port;
        conf.expect_uri = uri;
        rc = rpc_channel_new(&conf, &w->lane[lane], reterr);
    }
    if (rc == RC_OK) *ret_ch = w->lane[lane];
    return rc;
}

/* Another gateway may still answer. */
static bool elsewhere(enum rc rc)
{
    return rc == RC_UNAVAIL || rc == RC_IO || rc == RC_DEADLINE || rc == RC_STALE ||
           rc == RC_PRECOND || rc == RC_UNIMPL;
}

typedef enum rc (*attempt_fn)(struct rpc_channel *ch, void *arg, struct err *reterr);

static enum rc go_round(struct gateways *g, enum gateways_lane lane, attempt_fn attempt, void *arg,
                        struct err *reterr)
{
    enum rc rc = RC_UNAVAIL;
    bool precond = false;
    struct err e = {0};
    uint32_t n;

    refresh(g);
    n = g->gw_n;
    if (n == 0) return err_set(reterr, RC_UNAVAIL, "no gateway is in the cluster's map");
    for (uint32_t k = 0; k < n && g->gw_n > 0; k++) {
        uint32_t idx = (g->last + k) % g->gw_n;
        struct gateway *w = g->gw[idx];
        struct rpc_channel *ch;

        rc = channel(g, w, lane, &ch, &e);
        if (rc != RC_OK && rc != RC_CANCELED) continue;
        if (rc == RC_OK) {
            w->used++;
            rc = attempt(ch, arg, &e);
            w->used--;
            fiber_cond_broadcast(&g->changed);
        }
        if (rc == RC_OK) {
            for (uint32_t i = 0; i < g->gw_n; i++) /* the list may have changed meanwhile */
                if (g->gw[i] == w) g->last = i;
            return RC_OK;
        }
        if (!elsewhere(rc)) break;
        precond = precond || rc == RC_STALE || rc == RC_PRECOND;
    }
    *reterr = e;
    if (elsewhere(rc)) rc = precond ? RC_PRECOND : RC_UNAVAIL;
    reterr->rc = rc;
    return rc;
}

struct asking {
    const struct rpc_request_conf *conf;
    const ProtobufCMessage *m;
    const ProtobufCMessageDescriptor *desc;
    void *ret;
};

static enum rc ask_one(struct rpc_channel *ch, void *arg, struct err *reterr)
{
    struct asking *a = arg;

    return funary(ch, a->conf, a->m, a->desc, NULL, a->ret, NULL, reterr);
}

enum rc gateways_ask(struct gateways *g, enum gateways_lane lane, const char *path,
                     uint32_t timeout_ms, const ProtobufCMessage *m,
                     const ProtobufCMessageDescriptor *answer_desc, void *ret_answer,
                     struct err *reterr)
{
    struct rpc_request_conf conf = {
        .path = path, .timeout_ms = timeout_ms, .message_bytes_max = 16u << 20};
    struct asking a = {.conf = &conf, .m = m, .desc = answer_desc, .ret = ret_answer};

    return go_round(g, lane, ask_one, &a, reterr);
}

/* ---- answers in many messages ---- */
struct streaming {
    const struct rpc_request_conf *conf;
    const ProtobufCMessage *req;
    enum rc (*begin)(void *arg, struct err *reterr); /* also again, at a second gateway */
    enum rc (*each)(void *arg, struct slice message, struct err *reterr);
    void *arg;
};

static enum rc stream_one(struct rpc_channel *ch, void *arg, struct err *reterr)
{
    const struct streaming *t = arg;
    struct fstream *s = NULL;
    struct rpc_msg *msg;
    enum rc rc = t->begin(t->arg, reterr);

    if (rc != RC_OK) return rc;
    rc = fstream_open(ch, t->conf, &s);
    if (rc != RC_OK) return err_set(reterr, rc, "%s: %s", t->conf->path, rc_text(rc));
    rc = fstream_send(s, t->req);
    if (rc == RC_OK) fstream_half_close(s);
    while ((rc = fstream_recv(s, &msg, reterr)) == RC_OK) {
        rc = t->each(t->arg, (struct slice){msg->p, msg->n}, reterr);
        fstream_release(s, msg);
        if (rc != RC_OK) break;
    }
    fstream_close(s);
    return rc == RC_RANGE ? RC_OK : rc;
}

/* ---- models ---- */
struct fetching {
    int fd;
    uint64_t bytes;
};

static enum rc put(struct fetching *f, const uint8_t *p, size_t n, struct err *reterr)
{
    f->bytes += n;
    if (f->bytes > MODELS_FILE_BYTES_MAX)
        return err_set(reterr, RC_INVAL, "the model is larger than %llu bytes",
                       (unsigned long long)MODELS_FILE_BYTES_MAX);
    while (n > 0) {
        ssize_t k = write(f->fd, p, n);

        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return err_set(reterr, rc_from_errno(errno), "model: %s", strerror(errno));
        p += k;
        n -= (size_t)k;
    }
    return RC_OK;
}

static enum rc fetch_begin(void *arg, struct err *reterr)
{
    struct fetching *f = arg;

    f->bytes = 0;
    if (ftruncate(f->fd, 0) != 0 || lseek(f->fd, 0, SEEK_SET) != 0)
        return err_set(reterr, RC_INTERNAL, "model: %s", strerror(errno));
    return RC_OK;
}

static enum rc fetch_each(void *arg, struct slice message, struct err *reterr)
{
    Mikura__Internal__V1__FetchModelResponse *m =
        mikura__internal__v1__fetch_model_response__unpack(NULL, message.n, message.p);
    enum rc rc;

    if (m == NULL) return err_set(reterr, RC_INTERNAL, "FetchModel's answer does not decode");
    rc = put(arg, m->data.data, m->data.len, reterr);
    mikura__internal__v1__fetch_model_response__free_unpacked(m, NULL);
    return rc;
}

enum rc gateways_fetch_model(struct gateways *g, const uint8_t sha256[32], int fd,
                             struct err *reterr)
{
    Mikura__Internal__V1__FetchModelRequest req = MIKURA__INTERNAL__V1__FETCH_MODEL_REQUEST__INIT;
    struct rpc_request_conf conf = {.path = "/mikura.internal.v1.Work/FetchModel",
                                    .timeout_ms = MODEL_FETCH_MS};
    struct fetching f = {.fd = fd};
    struct streaming t = {&conf, &req.base, fetch_begin, fetch_each, &f};

    req.sha256.data = (uint8_t *)(uintptr_t)sha256;
    req.sha256.len = 32;
    return go_round(g, GATEWAYS_WORK, stream_one, &t, reterr);
}

/* ---- series ---- */
static void input_wipe(Mikura__Internal__V1__Input *in)
{
    for (size_t i = 0; i < in->n_keys; i++)
        OPENSSL_cleanse(in->keys[i]->key.data, in->keys[i]->key.len);
    OPENSSL_cleanse(in->inline_plain.data, in->inline_plain.len);
}

void gateways_slices_free(struct gateways_slices *s)
{
    for (uint32_t i = 0; i < s->parts_n; i++) {
        for (size_t k = 0; k < s->parts[i]->n_inputs; k++)
            input_wipe(s->parts[i]->inputs[k]);
        mikura__internal__v1__slices_response__free_unpacked(s->parts[i], NULL);
    }
    free(s->parts);
    *s = (struct gateways_slices){.parts = NULL};
}

static enum rc slices_begin(void *arg, struct err *reterr)
{
    (void)reterr;
    gateways_slices_free(arg);
    return RC_OK;
}

static enum rc slices_each(void *arg, struct slice message, struct err *reterr)
{
    struct gateways_slices *s = arg;
    Mikura__Internal__V1__SlicesResponse **parts, *m;

    parts = realloc(s->parts, (s->parts_n + 1) * sizeof(*parts));
    if (parts == NULL) return err_set(reterr, RC_NOMEM, "a series");
    s->parts = parts;
    m = mikura__internal__v1__slices_response__unpack(NULL, message.n, message.p);
    if (m == NULL) return err_set(reterr, RC_INTERNAL, "Slices' answer does not decode");
    s->parts[s->parts_n++] = m;
    s->n += (uint32_t)m->n_inputs;
    if (s->n > ANALYSIS_SLICES_MAX)
        return err_set(reterr, RC_INVAL, "a series of more than %u slices", ANALYSIS_SLICES_MAX);
    return RC_OK;
}

enum rc gateways_slices_get(struct gateways *g, const Mikura__Internal__V1__SlicesRequest *req,
                            struct gateways_slices *ret, struct err *reterr)
{
    struct rpc_request_conf conf = {.path = "/mikura.internal.v1.Work/Slices",
                                    .timeout_ms = SLICES_MS};
    struct gateways_slices s = {.parts = NULL};
    struct streaming t = {&conf, &req->base, slices_begin, slices_each, &s};
    enum rc rc = go_round(g, GATEWAYS_WORK, stream_one, &t, reterr);

    if (rc != RC_OK) {
        gateways_slices_free(&s);
        return rc;
    }
    *ret = s;
    return RC_OK;
}

/* ---- masks ---- */
struct mask_putting {
    const Mikura__Internal__V1__PutMaskHeader *header;
    const uint8_t *p;
};

static enum rc mask_one(struct rpc_channel *ch, void *arg, struct err *reterr)
{
    struct rpc_request_conf conf = {.path = "/mikura.internal.v1.Work/PutMask",
                                    .timeout_ms = MASK_PUT_MS};
    const struct mask_putting *t = arg;
    struct fstream *s = NULL;
    struct rpc_msg *msg;
    enum rc rc = fstream_open(ch, &conf, &s);

    if (rc != RC_OK) return err_set(reterr, rc, "PutMask: %s", rc_text(rc));
    for (uint64_t at = 0; at < t->header->size_bytes && rc == RC_OK;) {
        Mikura__Internal__V1__PutMaskRequest m = MIKURA__INTERNAL__V1__PUT_MASK_REQUEST__INIT;

        if (at == 0) m.header = (Mikura__Internal__V1__PutMaskHeader *)(uintptr_t)t->header;
        m.data.data = (uint8_t *)(uintptr_t)t->p + at;
        m.data.len = (size_t)MIN(t->header->size_bytes - at, (uint64_t)MASK_PIECE_BYTES);
        at += m.data.len;
        rc = fstream_send(s, &m.base); /* a failure shows at the answer */
    }
    fstream_half_close(s);
    while ((rc = fstream_recv(s, &msg, reterr)) == RC_OK)
        fstream_release(s, msg);
    fstream_close(s);
    return rc == RC_RANGE ? RC_OK : rc;
}

enum rc gateways_mask_put(struct gateways *g, const Mikura__Internal__V1__PutMaskHeader *header,
                          const uint8_t *p, struct err *reterr)
{
    struct mask_putting t = {header, p};

    return go_round(g, GATEWAYS_WORK, mask_one, &t, reterr);
}
