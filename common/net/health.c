/* common/net/health.c - grpc.health.v1 over the states that rpc_server_set_serving keeps. */
#include "common/net/rpc_server_priv.h"
#include "proto/grpc/health/v1/health.pb-c.h"
#include <stdlib.h>
#include <string.h>

struct health_watch {
    struct list link; /* in server->watches */
    struct rpc_call *call;
    char name[128];
    int sent; /* -1: nothing yet */
};

/* -1: no such service. "" is known from the start, and serving until told otherwise. */
static int state_of(const struct rpc_server *s, const char *name)
{
    for (size_t i = 0; i < s->services_n; i++) {
        if (strcmp(s->services[i].name, name) == 0) return s->services[i].serving;
    }
    if (name[0] == 0) return !s->closing;
    return -1;
}

static void watch_send(struct rpc_server *s, struct health_watch *w)
{
    Grpc__Health__V1__HealthCheckResponse m = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    int state = state_of(s, w->name);

    m.status = state < 0 ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN
               : state   ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
                         : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING;
    if ((int)m.status == w->sent) return;
    /* a watcher that does not read is dropped rather than left with an old state */
    if (rpc_call_send(w->call, (ProtobufCMessage *)&m) == RC_OK)
        w->sent = (int)m.status;
    else
        rpc_call_finish(w->call, RC_BUSY, NULL);
}

void health_changed(struct rpc_server *s)
{
    LIST_FOREACH_SAFE(it, &s->watches)
    {
        watch_send(s, CONTAINER_OF(it, struct health_watch, link));
    }
}

void rpc_server_set_serving(struct rpc_server *s, const char *service, bool serving)
{
    size_t i = 0;

    CHECK(strlen(service) < sizeof(s->services[0].name));
    while (i < s->services_n && strcmp(s->services[i].name, service) != 0)
        i++;
    if (i == s->services_n) {
        CHECK(i < SERVICES_MAX); /* services are named by our own code */
        memcpy(s->services[i].name, service, strlen(service) + 1);
        s->services_n++;
    }
    s->services[i].serving = serving;
    health_changed(s);
}

static Grpc__Health__V1__HealthCheckRequest *request_of(struct rpc_call *c, struct rpc_msg *m)
{
    Grpc__Health__V1__HealthCheckRequest *q =
        grpc__health__v1__health_check_request__unpack(NULL, m->n, m->p);

    if (q == NULL) rpc_call_finish(c, RC_INVAL, NULL);
    return q;
}

static void on_check(struct rpc_call *c, struct rpc_msg *m)
{
    Grpc__Health__V1__HealthCheckResponse a = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    Grpc__Health__V1__HealthCheckRequest *q = request_of(c, m);
    struct err e = {0};
    int state;

    if (q == NULL) return;
    state = state_of(rpc_call_service(c), q->service);
    if (state < 0) {
        (void)err_set(&e, RC_NOTFOUND, "no service '%.128s'", q->service);
        rpc_call_finish(c, RC_NOTFOUND, &e);
    } else {
        a.status = state ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
                         : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING;
        rpc_call_reply(c, (ProtobufCMessage *)&a);
    }
    grpc__health__v1__health_check_request__free_unpacked(q, NULL);
}

static void on_watch(struct rpc_call *c, struct rpc_msg *m)
{
    Grpc__Health__V1__HealthCheckRequest *q = request_of(c, m);
    struct rpc_server *s = rpc_call_service(c);
    struct health_watch *w;

    if (q == NULL) return;
    w = strlen(q->service) < sizeof(w->name) ? calloc(1, sizeof(*w)) : NULL;
    if (w != NULL) {
        memcpy(w->name, q->service, strlen(q->service) + 1);
        w->call = c;
        w->sent = -1;
        list_push_back(&s->watches, &w->link);
        rpc_call_set_data(c, w);
        watch_send(s, w);
    } else {
        rpc_call_finish(c, RC_BUSY, NULL);
    }
    grpc__health__v1__health_check_request__free_unpacked(q, NULL);
}

static void on_watch_end(struct rpc_call *c, enum rc rc)
{
    struct health_watch *w = rpc_call_data(c);

    (void)rc;
    if (w == NULL) return;
    list_remove(&w->link);
    free(w);
}

enum rc health_add(struct rpc_server *s)
{
    s->health[0] = (struct rpc_method){
        .path = "/grpc.health.v1.Health/Check", .on_message = on_check, .service = s};
    s->health[1] = (struct rpc_method){.path = "/grpc.health.v1.Health/Watch",
                                       .on_message = on_watch,
                                       .on_end = on_watch_end,
                                       .service = s};
    return rpc_server_add(s, s->health);
}
