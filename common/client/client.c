/* common/client/client.c - gateways, retries and plain calls.
 *
 * Before a call goes out its gateway has a connection: a request that waits for one would spend its
 * own deadline on a dead gateway while another one is idle. The probe is grpc.health.v1, which
 * every role may ask. */
#include "common/base/clock.h"
#include "common/base/strutil.h"
#include "common/client/client_priv.h"
#include "proto/mikura/v1/admin.pb-c.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROBE_MS     3000u  /* a handshake over a slow link takes some 500 ms */
#define NEVER_MS     10000u /* nothing has ever answered: a wrong address, not an outage */
#define TRY_MS       30000u /* one try; then the next gateway */
#define BUSY_TRIES   4u
#define BACKOFF_MS   100u
#define BACKOFF_MAX  2000u
#define HEALTH_CHECK "/grpc.health.v1.Health/Check"

/* ---- opening ---- */
static enum rc address_split(const char *text, size_t n, char host[256], uint16_t *ret_port,
                             struct err *reterr)
{
    char port[8];
    size_t colon = n;
    uint64_t v;

    while (colon > 0 && text[colon - 1] != ':')
        colon--;
    if (colon > 1 && colon - 1 < 256 && n - colon < sizeof port) {
        size_t from = text[0] == '[' && text[colon - 2] == ']' ? 1u : 0u; /* [::1]:27000 */

        memcpy(host, text + from, colon - 1 - 2 * from);
        host[colon - 1 - 2 * from] = 0;
        memcpy(port, text + colon, n - colon);
        port[n - colon] = 0;
        if (host[0] != 0 && str_to_u64(port, 65535, &v) && v > 0) {
            *ret_port = (uint16_t)v;
            return RC_OK;
        }
    }
    return err_set(reterr, RC_INVAL, "address '%.*s' is not HOST:PORT", (int)n, text);
}

static enum rc gateways_add(struct mikura_client *c, const char *list, struct err *reterr)
{
    for (const char *at = list;;) {
        size_t n = strcspn(at, ",");
        struct rpc_channel_conf conf = {.loop = fibers_loop(c->fs),
                                        .tls = c->tls,
                                        .expect_uri = "mikura://node/gateway/",
                                        .connect_ms = PROBE_MS};
        struct gateway *g = &c->gw[c->gw_n];
        char host[256];
        enum rc rc;

        while (n > 0 && *at == ' ')
            at++, n--;
        if (c->gw_n == MIKURA_GATEWAYS_MAX) {
            return err_set(reterr, RC_INVAL, "at most %u gateway addresses", MIKURA_GATEWAYS_MAX);
        }
        rc = address_split(at, n, host, &conf.port, reterr);
        if (rc != RC_OK) return rc;
        conf.host = host;
        (void)snprintf(g->address, sizeof g->address, "%.*s", (int)n, at);
        rc = rpc_channel_new(&conf, &g->ch, reterr);
        if (rc != RC_OK) return rc;
        c->gw_n++;
        if (at[n] == 0) return RC_OK;
        at += n + 1;
    }
}

enum rc mikura_client_open(struct fibers *fs, const struct mikura_profile *profile,
                           uint32_t patience_ms, struct mikura_client **ret_client,
                           struct err *reterr)
{
    struct tls_conf tls = {profile->ca, profile->cert, profile->key};
    struct mikura_client *c;
    enum rc rc;

    if (profile->address[0] == 0 || profile->ca[0] == 0 || profile->cert[0] == 0 ||
        profile->key[0] == 0) {
        return err_set(reterr, RC_INVAL,
                       "no %s given: set MIKURA_ADDRESS, MIKURA_CA, MIKURA_CERT and MIKURA_KEY, or "
                       "write address, ca, cert and key into ~/.config/mikura/profile",
                       profile->address[0] == 0 ? "gateway address"
                       : profile->ca[0] == 0    ? "CA"
                       : profile->cert[0] == 0  ? "certificate"
                                                : "key");
    }
    c = calloc(1, sizeof *c);
    if (c == NULL) return err_set(reterr, RC_NOMEM, "a client");
    c->fs = fs;
    c->patience_ms = patience_ms == 0 ? MIKURA_PATIENCE_MS : patience_ms;
    rc = tls_new(&tls, &c->tls, reterr);
    if (rc == RC_OK) rc = gateways_add(c, profile->address, reterr);
    if (rc != RC_OK) {
        mikura_client_close(c);
        return rc;
    }
    *ret_client = c;
    return RC_OK;
}

static void on_closed(void *data)
{
    struct mikura_client *c = data;

    c->closing_n--;
    fiber_event_set(&c->closed);
}

void mikura_client_close(struct mikura_client *c)
{
    if (c == NULL) return;
    c->closing_n = c->gw_n;
    for (uint32_t i = 0; i < c->gw_n; i++)
        rpc_channel_close(c->gw[i].ch, on_closed, c);
    while (c->closing_n > 0)
        fiber_event_wait(&c->closed);
    tls_unref(c->tls);
    free(c);
}

void mikura_client_cancel(struct mikura_client *c)
{
    c->canceled = true;
}

/* ---- retries ---- */
void attempt_init(struct attempt *a, struct mikura_client *c)
{
    *a = (struct attempt){.c = c, .until_ms = clock_boot_ms() + c->patience_ms};
}

uint32_t attempt_left_ms(const struct attempt *a)
{
    uint64_t now = clock_boot_ms();

    return now >= a->until_ms ? 1 : (uint32_t)MIN(a->until_ms - now, TRY_MS);
}

static enum rc probe(struct gateway *g, uint32_t timeout_ms, struct err *reterr)
{
    /* HealthCheckRequest{} and its answer's unknown fields: an empty message reads as both */
    Mikura__V1__StatusRequest m = MIKURA__V1__STATUS_REQUEST__INIT;
    struct rpc_request_conf conf = {.path = HEALTH_CHECK, .timeout_ms = timeout_ms};
    ProtobufCMessage *answer;
    enum rc rc = funary(g->ch, &conf, &m.base, &mikura__v1__status_request__descriptor, NULL,
                        &answer, NULL, reterr);

    if (rc == RC_OK) protobuf_c_message_free_unpacked(answer, NULL);
    return rc;
}

enum rc attempt_pick(struct attempt *a, struct gateway **ret_gw, struct err *reterr)
{
    struct mikura_client *c = a->c;
    uint64_t give_up_ms = a->until_ms;
    enum rc rc = RC_UNAVAIL;

    if (!c->ever_connected) give_up_ms = MIN(give_up_ms, clock_boot_ms() + NEVER_MS);
    for (;;) {
        for (uint32_t i = 0; i < c->gw_n; i++) {
            uint32_t idx = (c->cur + i) % c->gw_n;
            struct gateway *g = &c->gw[idx];

            if (c->canceled) return err_set(reterr, RC_CANCELED, "stopped");
            rc = rpc_channel_connected(g->ch) ? RC_OK
                                              : probe(g, MIN(PROBE_MS, attempt_left_ms(a)), reterr);
            if (rc == RC_OK || rpc_channel_connected(g->ch)) {
                c->ever_connected = true;
                c->cur = a->gw_idx = idx;
                *ret_gw = g;
                return RC_OK;
            }
            if (rc == RC_UNAUTH) return rc; /* refused certificates are refused everywhere */
        }
        if (clock_boot_ms() >= give_up_ms) {
            if (c->ever_connected) {
                return err_prefix(reterr, "no gateway answers");
            }
            return err_prefix(reterr,
                              "no gateway answers; is the cluster up, and MIKURA_ADDRESS right?");
        }
        fiber_sleep_ms(BACKOFF_MS);
    }
}

bool attempt_again(struct attempt *a, enum rc rc)
{
    struct mikura_client *c = a->c;
    uint64_t wait_ms;

    /* RESOURCE_EXHAUSTED may be a queue that is full now, or a quota: a few tries tell */
    if (rc_grpc(rc) == 8 && a->tries >= BUSY_TRIES) return false;
    if (rc != RC_UNAVAIL && rc != RC_DEADLINE && rc != RC_IO && rc_grpc(rc) != 8) return false;
    if (c->canceled || clock_boot_ms() >= a->until_ms) return false;
    if (c->cur == a->gw_idx) c->cur = (c->cur + 1) % c->gw_n;
    wait_ms = MIN((uint64_t)BACKOFF_MS << MIN(a->tries, 5u), BACKOFF_MAX);
    a->tries++;
    /* jitter, so that many fibers do not come back at once */
    {
        uint8_t r;

        random_bytes(&r, 1);
        fiber_sleep_ms(wait_ms / 2 + wait_ms * r / 256);
    }
    return true;
}

/* ---- calls ---- */
enum rc mikura_unary(struct mikura_client *c, const char *path, const ProtobufCMessage *request,
                     const ProtobufCMessageDescriptor *answer_desc, void *ret_answer,
                     struct err *reterr)
{
    struct err e = {0}, told = {0}; /* told: why an earlier try was refused */
    struct attempt a;
    enum rc rc;

    attempt_init(&a, c);
    do {
        struct rpc_request_conf conf = {.path = path};
        struct gateway *g;

        rc = attempt_pick(&a, &g, reterr);
        if (rc != RC_OK) return rc;
        conf.timeout_ms = attempt_left_ms(&a);
        rc = funary(g->ch, &conf, request, answer_desc, NULL, ret_answer, NULL, &e);
        if (rc == RC_UNAVAIL) told = e;
    } while (rc != RC_OK && attempt_again(&a, rc));
    /* the last try has little time left: that it ran out says less than what the others were told
     */
    if (rc == RC_DEADLINE && told.rc != RC_OK) {
        rc = RC_UNAVAIL;
        e = told;
    }
    if (rc != RC_OK && reterr != NULL) *reterr = e;
    return rc;
}

/* fstream_recv says RC_RANGE for a good end and for a server's OUT_OF_RANGE; only the latter has a
 * message. */
enum rc stream_next(struct fstream *s, struct rpc_msg **ret_msg, struct err *ret_ended)
{
    struct err e = {0};
    enum rc rc = fstream_recv(s, ret_msg, &e);

    if (rc == RC_RANGE && e.rc == RC_OK) return STREAM_END;
    if (rc != RC_OK) *ret_ended = e;
    return rc;
}

enum rc mikura_stream(struct mikura_client *c, const char *path, const ProtobufCMessage *request,
                      const ProtobufCMessageDescriptor *answer_desc, mikura_each_fn each,
                      void *data, struct err *reterr)
{
    struct attempt a;
    bool delivered = false;
    enum rc rc;

    attempt_init(&a, c);
    do {
        struct rpc_request_conf conf = {.path = path};
        struct fstream *s;
        struct err ended = {0};
        struct rpc_msg *msg;
        struct gateway *g;

        rc = attempt_pick(&a, &g, reterr);
        if (rc != RC_OK) return rc;
        rc = fstream_open(g->ch, &conf, &s);
        if (rc != RC_OK) return err_set(reterr, rc, "%s: %s", path, rc_text(rc));
        if (fstream_send(s, request) == RC_OK) fstream_half_close(s); /* else recv tells why */
        while ((rc = stream_next(s, &msg, &ended)) == RC_OK) {
            ProtobufCMessage *m = protobuf_c_message_unpack(answer_desc, NULL, msg->n, msg->p);

            fstream_release(s, msg);
            if (m == NULL) {
                rc =
                    err_set(reterr, RC_INTERNAL, "%s: an answer is no %s", path, answer_desc->name);
                break;
            }
            delivered = true;
            rc = each(data, m, reterr);
            protobuf_c_message_free_unpacked(m, NULL);
            if (rc != RC_OK) break;
        }
        fstream_close(s);
        if (rc == STREAM_END) return RC_OK;
        if (ended.rc != RC_OK && reterr != NULL) *reterr = ended;
    } while (!delivered && attempt_again(&a, rc));
    return rc;
}

void mikura_client_health(struct mikura_client *c,
                          void (*each)(void *data, const char *address, enum rc rc,
                                       const char *reason),
                          void *data)
{
    for (uint32_t i = 0; i < c->gw_n; i++) {
        struct err e = {0};
        enum rc rc = probe(&c->gw[i], PROBE_MS, &e);

        each(data, c->gw[i].address, rc, rc == RC_OK ? "" : e.msg);
    }
}
