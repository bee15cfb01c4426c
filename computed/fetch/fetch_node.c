/* computed/fetch/fetch_node.c - one bulk connection per storage node, dialled when first needed. A
 * connection that ended is dialled again by the next read; whoever waited is told why it ended. */
#include "common/base/log.h"
#include "common/base/strutil.h"
#include "computed/fetch/fetch_priv.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void on_up(struct bulk_conn *c)
{
    struct fetch_node *n = bulk_conn_data(c);

    n->up = true;
    fiber_cond_broadcast(&n->changed);
}

static void on_down(struct bulk_conn *c, enum rc rc, const struct err *e)
{
    struct fetch_node *n = bulk_conn_data(c);

    if (rc != RC_CANCELED)
        log_info("bulk_down", "node=%s rc=%s why=%s", n->address, rc_name(rc), e->msg);
    n->down = *e;
    n->conn = NULL;
    n->up = false;
    fiber_cond_broadcast(&n->changed);
}

static void on_request(struct bulk_conn *c, struct bulk_in *in, struct slice header,
                       uint32_t payload_n)
{
    (void)in;
    (void)header;
    (void)payload_n;
    bulk_conn_close(c, RC_INVAL); /* nobody asks a worker for chunks */
}

static void on_message(struct bulk_conn *c, struct slice header)
{
    (void)header;
    bulk_conn_close(c, RC_INVAL);
}

static void on_lost(struct bulk_in *in)
{
    (void)in; /* the request that closed the connection */
}

static const struct bulk_ops OPS = {.on_request = on_request,
                                    .on_message = on_message,
                                    .on_lost = on_lost,
                                    .on_up = on_up,
                                    .on_down = on_down};

static enum rc dial(struct fetch *f, struct fetch_node *n, struct err *reterr)
{
    struct bulk_conf conf = {.loop = fibers_loop(f->conf.fs),
                             .tls = f->conf.tls,
                             .self = f->conf.self,
                             .ops = &OPS,
                             .data = n};
    const char *colon = strrchr(n->address, ':');
    char host[128];
    uint64_t port;

    if (colon == NULL || colon == n->address || !str_to_u64(colon + 1, 65535, &port) || port == 0)
        return err_set(reterr, RC_INVAL, "'%s' is no HOST:PORT", n->address);
    (void)snprintf(host, sizeof(host), "%.*s", (int)(colon - n->address), n->address);
    return bulk_dial(&conf, host, (uint16_t)port, "mikura://node/storaged/", BULK_DATA, &n->conn,
                     reterr);
}

static struct fetch_node *node_of(struct fetch *f, const char *address)
{
    struct fetch_node *n;

    LIST_FOREACH(it, &f->nodes)
    {
        n = CONTAINER_OF(it, struct fetch_node, link);
        if (strcmp(n->address, address) == 0) return n;
    }
    if (f->nodes_n == FETCH_NODES_MAX || strlen(address) >= sizeof(n->address)) return NULL;
    n = calloc(1, sizeof(*n));
    if (n == NULL) return NULL;
    n->fetch = f;
    (void)snprintf(n->address, sizeof(n->address), "%s", address);
    fiber_cond_init(&n->changed);
    list_push_back(&f->nodes, &n->link);
    f->nodes_n++;
    return n;
}

enum rc fetch_node_conn(struct fetch *f, const char *address, struct bulk_conn **ret_conn,
                        struct err *reterr)
{
    struct fetch_node *n = node_of(f, address);
    uint64_t until = uv_now(fibers_loop(f->conf.fs)) + FETCH_DIAL_MS;
    enum rc rc;

    if (n == NULL) return err_set(reterr, RC_NOMEM, "no place for storage node '%.128s'", address);
    if (f->closing) return err_set(reterr, RC_CANCELED, "the worker stops");
    if (n->conn == NULL) {
        rc = dial(f, n, reterr);
        if (rc != RC_OK) return rc;
    }
    while (!n->up) {
        uint64_t now = uv_now(fibers_loop(f->conf.fs));

        if (n->conn == NULL)
            return err_set(reterr, RC_UNAVAIL, "storage node %s: %s", address, n->down.msg);
        if (now >= until)
            return err_set(reterr, RC_UNAVAIL, "storage node %s: no connection in %u ms", address,
                           FETCH_DIAL_MS);
        (void)!fiber_cond_wait_ms(&n->changed, until - now); /* looked at again either way */
    }
    *ret_conn = n->conn;
    return RC_OK;
}

enum rc fetch_open(const struct fetch_conf *conf, struct fetch **ret_fetch)
{
    struct fetch *f = calloc(1, sizeof(*f));

    if (f == NULL) return RC_NOMEM;
    f->conf = *conf;
    list_init(&f->nodes);
    *ret_fetch = f;
    return RC_OK;
}

void fetch_close(struct fetch *f)
{
    if (f == NULL) return;
    f->closing = true;
    while (!list_empty(&f->nodes)) {
        struct fetch_node *n = CONTAINER_OF(f->nodes.next, struct fetch_node, link);

        if (n->conn != NULL) bulk_conn_close(n->conn, RC_CANCELED);
        while (n->conn != NULL)
            fiber_cond_wait(&n->changed);
        list_remove(&n->link);
        free(n);
    }
    free(f);
}
