/* common/net/bulk_tx.c - the queue of frames and the bare socket: many frames, or a header and its
 * payload, leave in one sendmsg from where they lie. A frame whose payload is not all there yet
 * stops those behind it. */
#include "common/net/bulk_priv.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define IOV_N       32u
#define ROUND_BYTES (8u << 20) /* then others of the loop have their turn */

struct bulk_tx_frame *bulk_tx_push(struct bulk_conn *c, const struct bulk_frame *f,
                                   struct slice header, struct bulk_buf *payload, uint32_t at,
                                   uint32_t ready)
{
    struct bulk_tx_frame *t = calloc(1, sizeof(*t) + BULK_FRAME_EXTRA_BYTES + header.n);

    if (t == NULL) return NULL;
    t->f = *f;
    t->header_n = (uint32_t)header.n;
    if (header.n > 0) memcpy(t->head + BULK_FRAME_HEAD_BYTES, header.p, header.n);
    if (f->payload_n > 0) t->buf = bulk_buf_ref(payload);
    t->at = at;
    t->ready = ready;
    list_push_back(&c->tx, &t->link);
    if (f->type == BULK_MESSAGE) c->message_bytes += header.n;
    bulk_conn_kick(c);
    return t;
}

void bulk_tx_drop(struct bulk_conn *c, struct bulk_tx_frame *t)
{
    list_remove(&t->link);
    if (t->f.type == BULK_MESSAGE) c->message_bytes -= t->header_n;
    if (t->out != NULL) t->out->priv.frame = NULL;
    if (t->early) c->early_n--;
    bulk_buf_unref(t->buf);
    bulk_buf_unref(t->early_payload);
    free(t->early_header);
    free(t);
}

static size_t head_n(const struct bulk_tx_frame *t)
{
    return BULK_FRAME_EXTRA_BYTES + (size_t)t->header_n;
}

/* Bytes of the frame that could leave now. */
static size_t sendable(const struct bulk_tx_frame *t)
{
    return head_n(t) + t->ready - t->sent;
}

bool bulk_tx_wants(const struct bulk_conn *c)
{
    if (list_empty(&c->tx)) return false;
    return sendable(CONTAINER_OF(c->tx.next, struct bulk_tx_frame, link)) > 0;
}

/* Fills iov; seals frames that go out for the first time. Returns the number of entries. */
static unsigned gather(struct bulk_conn *c, struct iovec iov[IOV_N])
{
    unsigned n = 0;

    LIST_FOREACH(it, &c->tx)
    {
        struct bulk_tx_frame *t = CONTAINER_OF(it, struct bulk_tx_frame, link);
        size_t head = head_n(t);

        if (n + 2 > IOV_N) break;
        if (!t->sealed) {
            if (bulk_frame_seal(c->tx_key, &t->f, t->head, t->header_n) != RC_OK) {
                bulk_conn_fail(c, RC_INTERNAL, "OpenSSL did not seal a frame");
                return 0;
            }
            t->sealed = true;
        }
        if (t->sent < head) iov[n++] = (struct iovec){t->head + t->sent, head - t->sent};
        if (t->ready > 0 && t->sent < head + t->ready) {
            size_t from = t->sent > head ? t->sent - head : 0;

            iov[n++] = (struct iovec){t->buf->p + t->at + from, t->ready - from};
        }
        if (t->ready < t->f.payload_n) break; /* the rest of it comes before the next frame */
    }
    return n;
}

static void sent(struct bulk_conn *c, size_t n)
{
    while (n > 0) {
        struct bulk_tx_frame *t = CONTAINER_OF(c->tx.next, struct bulk_tx_frame, link);
        size_t part = MIN(n, sendable(t));

        t->sent += part;
        n -= part;
        if (t->sent < head_n(t) + t->f.payload_n) {
            CHECK(n == 0);
            return;
        }
        if (t->early) { /* bulk.c delivers its answer and drops it */
            list_remove(&t->link);
            bulk_conn_kick(c);
        } else {
            bulk_tx_drop(c, t);
        }
    }
}

void bulk_tx_flush(struct bulk_conn *c)
{
    size_t round = 0;

    while (c->state != BULK_ST_DEAD && c->fd >= 0 && bulk_tx_wants(c) && round < ROUND_BYTES) {
        struct iovec iov[IOV_N];
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = gather(c, iov)};
        ssize_t r;

        if (msg.msg_iovlen == 0) return;
        do {
            r = sendmsg(c->fd, &msg, MSG_NOSIGNAL);
        } while (r < 0 && errno == EINTR);
        if (r < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK) {
                bulk_conn_fail(c, RC_UNAVAIL, "connection lost: %s", strerror(errno));
            }
            return;
        }
        round += (size_t)r;
        sent(c, (size_t)r);
    }
}
