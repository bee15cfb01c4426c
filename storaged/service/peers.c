/* storaged/service/peers.c - bulk connections to and from other nodes.
 *
 * To each storage node one connection of each class is dialled when first needed and again, with
 * back-off, after a loss; what other nodes dial is only answered on. Replica messages are dropped
 * while there is no connection: ticks repeat them. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "storaged/service/service.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bulk_hello sd_hello(const struct sd *sd)
{
    const struct id128 *cluster = cluster_id(sd->cluster);

    return (struct bulk_hello){.wire_version = 1,
                               .cluster = cluster == NULL ? (struct id128){{0}} : *cluster,
                               .node = sd->node_id,
                               .boot_id = sd->boot_id};
}

static struct sd_peer *peer_of(struct sd *sd, const struct cluster_node *n)
{
    struct sd_peer *p = NULL;

    LIST_FOREACH(it, &sd->peers)
    {
        struct sd_peer *o = CONTAINER_OF(it, struct sd_peer, link);

        if (strcmp(o->name, n->name) == 0) p = o;
    }
    if (p == NULL) {
        if (sd->stopping) return NULL;
        p = calloc(1, sizeof *p);
        if (p == NULL) return NULL;
        p->sd = sd;
        (void)snprintf(p->name, sizeof p->name, "%s", n->name);
        fiber_cond_init(&p->changed);
        list_push_back(&sd->peers, &p->link);
    }
    if (strcmp(p->address, n->host_address) != 0) { /* new, or it moved */
        (void)snprintf(p->address, sizeof p->address, "%s", n->host_address);
        for (int cls = BULK_DATA; cls <= BULK_CONTROL; cls++) {
            p->by[cls].next_ms = p->by[cls].pause_ms = 0;
            if (p->by[cls].conn != NULL) bulk_conn_close(p->by[cls].conn->c, RC_CANCELED);
        }
    }
    p->node = n->id;
    return p;
}

struct sd_peer *peer_of_disk(struct sd *sd, const struct id128 *disk)
{
    const struct cluster_node *n = cluster_node_of_disk(sd->cluster, disk);

    return n == NULL ? NULL : peer_of(sd, n);
}

/* Only storage nodes of the cluster are dialled, whatever a request says. */
struct sd_peer *peer_of_address(struct sd *sd, const char *address)
{
    const struct cluster_node *n = NULL;

    while ((n = cluster_node_next(sd->cluster, n)) != NULL) {
        if (strcmp(n->kind, "storaged") == 0 && strcmp(n->host_address, address) == 0)
            return peer_of(sd, n);
    }
    return NULL;
}

static bool split_address(const char *address, char host[128], uint16_t *ret_port)
{
    const char *colon = strrchr(address, ':');
    unsigned long port;
    char *end;

    if (colon == NULL || colon == address || (size_t)(colon - address) >= 128) return false;
    port = strtoul(colon + 1, &end, 10);
    if (*end != 0 || port == 0 || port > 65535) return false;
    memcpy(host, address, (size_t)(colon - address));
    host[colon - address] = 0;
    *ret_port = (uint16_t)port;
    return true;
}

static struct sd_conn *conn_new(struct sd *sd)
{
    struct sd_conn *k;

    if (sd->conns_n >= SD_CONNS_MAX || sd->stopping) return NULL;
    k = calloc(1, sizeof *k);
    if (k == NULL) return NULL;
    k->sd = sd;
    list_push_back(&sd->conns, &k->link);
    sd->conns_n++;
    sd->work_n++;
    return k;
}

static void conn_free(struct sd_conn *k)
{
    struct sd *sd = k->sd;

    list_remove(&k->link);
    sd->conns_n--;
    free(k);
    sd_work_end(sd);
}

static struct bulk_conf conf_of(struct sd *sd, struct sd_conn *k)
{
    return (struct bulk_conf){
        .loop = sd->loop, .tls = sd->tls, .self = sd_hello(sd), .ops = &SD_BULK_OPS, .data = k};
}

static void dial_later(struct sd_peer *p, enum bulk_class cls)
{
    uint8_t jitter;

    random_bytes(&jitter, 1);
    p->by[cls].pause_ms = MIN(MAX(p->by[cls].pause_ms * 2, SD_DIAL_MS), SD_DIAL_MS_MAX);
    p->by[cls].next_ms = clock_boot_ms() + p->by[cls].pause_ms * (192u + jitter / 2u) / 256u;
}

static void dial(struct sd_peer *p, enum bulk_class cls)
{
    struct sd_conn *k;
    struct bulk_conf conf;
    char host[128], uri[TLS_URI_BYTES_MAX];
    struct err err = {0};
    uint16_t port;
    enum rc rc;

    if (p->by[cls].conn != NULL || clock_boot_ms() < p->by[cls].next_ms ||
        cluster_id(p->sd->cluster) == NULL)
        return;
    if (!split_address(p->address, host, &port)) {
        dial_later(p, cls);
        return;
    }
    k = conn_new(p->sd);
    if (k == NULL) return;
    k->peer = p;
    k->cls = cls;
    conf = conf_of(p->sd, k);
    (void)snprintf(uri, sizeof uri, "mikura://node/storaged/%s", p->name);
    rc = bulk_dial(&conf, host, port, uri, cls, &k->c, &err);
    if (rc != RC_OK) {
        log_debug("dial_failed", "node=%s why=%s", p->name, err.msg);
        conn_free(k);
        dial_later(p, cls);
        return;
    }
    p->by[cls].conn = k;
}

void peer_message(struct sd_peer *p, struct slice header)
{
    if (!p->by[BULK_CONTROL].up) {
        dial(p, BULK_CONTROL);
        sdm_add(SDM_MESSAGES_DROPPED, 1);
        return;
    }
    if (bulk_message(p->by[BULK_CONTROL].conn->c, header) == RC_OK) {
        sdm_add(SDM_MESSAGES_SENT, 1);
    } else {
        sdm_add(SDM_MESSAGES_DROPPED, 1);
    }
}

enum rc peer_data(struct sd_peer *p, uint64_t timeout_ms, struct bulk_conn **ret_conn,
                  struct err *reterr)
{
    uint64_t until = clock_boot_ms() + timeout_ms;

    while (!p->by[BULK_DATA].up) {
        uint64_t now = clock_boot_ms();

        if (now >= until || p->sd->stopping)
            return err_set(reterr, RC_UNAVAIL, "no connection to storaged '%s' at %s", p->name,
                           p->address);
        dial(p, BULK_DATA);
        /* either way looked at again */
        (void)!fiber_cond_wait_ms(&p->changed, MIN(until - now, SD_DIAL_MS));
    }
    *ret_conn = p->by[BULK_DATA].conn->c;
    return RC_OK;
}

void peer_up(struct bulk_conn *c)
{
    struct sd_conn *k = bulk_conn_data(c);
    struct sd_peer *p = k->peer;
    const struct tls_identity *id = bulk_conn_peer(c);

    if (id->role != TLS_NODE) {
        sdm_add(SDM_DENIED, 1);
        log_warn("bulk_denied", "peer=%s why=only nodes use the bulk wire", id->uri);
        bulk_conn_close(c, RC_DENIED);
        return;
    }
    if (p == NULL) return;
    p->by[k->cls].up = true;
    p->by[k->cls].pause_ms = 0;
    fiber_cond_broadcast(&p->changed);
}

void peer_down(struct bulk_conn *c, enum rc rc, const struct err *e)
{
    struct sd_conn *k = bulk_conn_data(c);
    struct sd_peer *p = k->peer;

    if (rc != RC_CANCELED && rc != RC_RANGE && !k->sd->stopping)
        log_info("bulk_down", "node=%s class=%d rc=%s why=%s", p != NULL ? p->name : "(dialled us)",
                 (int)k->cls, rc_name(rc), e->msg);
    if (p != NULL && p->by[k->cls].conn == k) {
        p->by[k->cls].conn = NULL;
        p->by[k->cls].up = false;
        dial_later(p, k->cls);
        fiber_cond_broadcast(&p->changed);
    }
    conn_free(k);
}

void peers_adopt(void *data, struct net_stream *stream)
{
    struct sd *sd = data;
    struct sd_conn *k = cluster_id(sd->cluster) == NULL ? NULL : conn_new(sd);
    struct bulk_conf conf;
    struct err err = {0};
    enum rc rc;

    if (k == NULL) { /* not joined yet, too many, or stopping: it dials again */
        net_stream_close(stream);
        return;
    }
    conf = conf_of(sd, k);
    rc = bulk_adopt(&conf, stream, &k->c, &err);
    if (rc == RC_OK) return;
    log_warn("bulk_adopt_failed", "rc=%s why=%s", rc_name(rc), err.msg);
    conn_free(k);
}

void peers_close(struct sd *sd)
{
    LIST_FOREACH(it, &sd->conns)
    bulk_conn_close(CONTAINER_OF(it, struct sd_conn, link)->c, RC_CANCELED);
}

void peers_free(struct sd *sd)
{
    while (!list_empty(&sd->peers)) {
        struct sd_peer *p = CONTAINER_OF(sd->peers.next, struct sd_peer, link);

        list_remove(&p->link);
        free(p);
    }
}

/* ---- requests to peers ---- */
static struct bulk_buf *ask_buf(struct bulk_out *o, uint32_t payload_n)
{
    struct ask *a = o->data;

    return a->into != NULL && payload_n <= a->into->cap ? bulk_buf_ref(a->into) : NULL;
}

static void on_answer(struct bulk_out *o, enum rc rc, struct slice header, struct bulk_buf *payload,
                      uint32_t payload_n)
{
    struct ask *a = o->data;

    a->rc = rc;
    if (rc == RC_OK) {
        a->answer = mikura__internal__v1__bulk_response__unpack(NULL, header.n, header.p);
        if (a->answer == NULL)
            a->rc = err_set(&o->err, RC_INTERNAL, "a bulk answer does not decode");
        if (payload != NULL) a->payload = bulk_buf_ref(payload);
        a->payload_n = payload_n;
    }
    a->ended = true;
    fiber_event_set(&a->done);
}

enum rc ask_start(struct ask *a, struct bulk_conn *c, const Mikura__Internal__V1__BulkRequest *req,
                  struct bulk_buf *payload, uint32_t n, uint32_t ready, uint32_t timeout_ms,
                  struct err *reterr)
{
    struct bulk_send send = {.payload = payload, .n = n, .ready = ready, .timeout_ms = timeout_ms};
    uint8_t *header;
    enum rc rc;

    send.header.n = mikura__internal__v1__bulk_request__get_packed_size(req);
    header = malloc(send.header.n);
    if (header == NULL) return err_set(reterr, RC_NOMEM, "a bulk header");
    (void)mikura__internal__v1__bulk_request__pack(req, header);
    send.header.p = header;
    a->out.data = a;
    a->out.answer_buf = a->into != NULL ? ask_buf : NULL;
    rc = bulk_out_start(c, &a->out, &send, on_answer);
    free(header);
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "a bulk request: %s", rc_text(rc));
}

enum rc ask_wait(struct ask *a, struct err *reterr)
{
    enum rc rc;

    while (!a->ended)
        fiber_event_wait(&a->done);
    if (a->rc != RC_OK) return err_set(reterr, a->rc, "%s", a->out.err.msg);
    rc = a->answer->rc >= 0 && a->answer->rc < RC_N ? (enum rc)a->answer->rc : RC_INTERNAL;
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "%s", a->answer->message);
}

void ask_clear(struct ask *a)
{
    if (a->answer != NULL) mikura__internal__v1__bulk_response__free_unpacked(a->answer, NULL);
    if (a->payload != NULL) bulk_buf_unref(a->payload);
    a->answer = NULL;
    a->payload = NULL;
}
