/* common/net/bulk_rx.c - from the bare socket to frames and payloads.
 *
 * Headers are read through rx_buf, with what follows them if it is there already (so that many
 * small frames cost one recv); a payload goes straight into its receiver's buffer, but for the at
 * most RX_BYTES that came with its header. In RX_WAIT nothing is read: the peer feels it as a full
 * window. While an answer's payload comes rx_buf is not refilled, since rx_header lies in it. */
#include "common/net/bulk_priv.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define RX_BYTES    (16u << 10)
#define ROUND_BYTES (8u << 20) /* then others of the loop have their turn */
/* Within a payload the loop is woken for so much at a time: at each segment it would be woken, and
 * would wake the next node of a chain, ten times as often. */
#define LOWAT_BYTES     (256u << 10)
#define LOWAT_MIN_BYTES (32u << 10)

/* RC_OK: *ret_n > 0; RC_BUSY: nothing there; RC_CANCELED: the connection has failed. */
static enum rc socket_read(struct bulk_conn *c, uint8_t *p, size_t n, size_t *ret_n)
{
    ssize_t r;

    if (c->rx_dry) return RC_BUSY;
    do {
        r = recv(c->fd, p, n, 0);
    } while (r < 0 && errno == EINTR);
    if (r > 0) {
        *ret_n = (size_t)r;
        /* a short read took all there was: no second call to hear so, but to hear of the error */
        c->rx_dry = (size_t)r < n && !c->rx_last;
        return RC_OK;
    }
    if (r < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return RC_BUSY;
    if (r < 0) {
        bulk_conn_fail(c, RC_UNAVAIL, "connection lost: %s", strerror(errno));
    } else if (c->drain_sent && c->drain_got) {
        bulk_conn_fail(c, RC_CANCELED, "the connection's time is over");
    } else {
        bulk_conn_fail(c, RC_UNAVAIL, "the peer closed the connection");
    }
    return RC_CANCELED;
}

/* Room for a frame of need bytes from rx_at on. */
static bool rx_room(struct bulk_conn *c, size_t need)
{
    size_t have = c->rx_n - c->rx_at, cap = MAX(need, RX_BYTES);

    if (have == 0) c->rx_at = c->rx_n = 0;
    if (have == 0 && c->rx_cap > cap) { /* a big header has passed: its memory goes back */
        free(c->rx_buf);
        c->rx_buf = NULL;
        c->rx_cap = 0;
    }
    if (c->rx_at > 0 && c->rx_at + need > c->rx_cap) {
        memmove(c->rx_buf, c->rx_buf + c->rx_at, have);
        c->rx_at = 0;
        c->rx_n = have;
    }
    if (c->rx_cap < cap) {
        uint8_t *p = realloc(c->rx_buf, cap);

        if (p == NULL) return false;
        c->rx_buf = p;
        c->rx_cap = cap;
    }
    return true;
}

static void on_request(struct bulk_conn *c, const struct bulk_frame *f, struct slice header)
{
    struct bulk_in *in;

    if (c->ins_n == BULK_INFLIGHT_MAX) {
        bulk_conn_fail(c, RC_CORRUPT, "the peer has more than %u requests open", BULK_INFLIGHT_MAX);
        return;
    }
    in = calloc(1, sizeof(*in));
    if (in == NULL) {
        bulk_conn_fail(c, RC_NOMEM, "request");
        return;
    }
    in->conn = c;
    in->id = f->id;
    in->timeout_ms = f->timeout_ms;
    list_push_back(&c->ins, &in->link);
    c->ins_n++;
    if (f->payload_n > 0) {
        c->rx_mode = RX_WAIT;
        c->rx_in = in;
        c->rx_payload_n = f->payload_n;
        c->rx_payload_got = 0;
    }
    c->conf.ops->on_request(c, in, header, f->payload_n);
}

/* All of an answer is here; payload may be NULL. */
static void answer_done(struct bulk_conn *c, struct bulk_out *o, struct slice header,
                        struct bulk_buf *payload, uint32_t payload_n)
{
    struct bulk_tx_frame *t = o->priv.frame;

    if (t == NULL || t->ready == t->f.payload_n) {
        bulk_out_end(c, o, RC_OK, header, payload, payload_n, /* slot_free= */ true);
        bulk_buf_unref(payload);
        return;
    }
    if (t->early || !t->sealed) { /* answered twice, or before it was asked */
        bulk_buf_unref(payload);
        bulk_conn_fail(c, RC_CORRUPT, "the peer answered what it was not asked");
        return;
    }
    t->early_header = malloc(header.n + 1);
    if (t->early_header == NULL) {
        bulk_buf_unref(payload);
        bulk_conn_fail(c, RC_NOMEM, "answer");
        return;
    }
    if (header.n > 0) memcpy(t->early_header, header.p, header.n);
    t->early_header_n = header.n;
    t->early_payload = payload;
    t->early_payload_n = payload_n;
    t->early = true;
    c->early_n++;
}

static void on_answer(struct bulk_conn *c, const struct bulk_frame *f, struct slice header)
{
    struct bulk_slot *s = &c->slots[f->id % BULK_INFLIGHT_MAX];
    struct bulk_out *o = s->out;

    if (!s->used || s->generation != f->id / BULK_INFLIGHT_MAX) {
        bulk_conn_fail(c, RC_CORRUPT, "the peer answered what it was not asked");
        return;
    }
    if (o == NULL) { /* given up at its deadline */
        s->used = false;
        c->slots_used--;
        c->slots_given_up--;
    }
    if (f->payload_n == 0) {
        if (o != NULL) answer_done(c, o, header, NULL, 0);
        return;
    }
    c->rx_payload_n = f->payload_n;
    c->rx_payload_got = 0;
    c->rx_mode = RX_DISCARD;
    if (o == NULL) return;
    c->rx_payload = o->answer_buf != NULL ? o->answer_buf(o, f->payload_n) : NULL;
    if (c->rx_payload == NULL) c->rx_payload = bulk_buf_new(f->payload_n);
    if (c->rx_payload == NULL) {
        bulk_conn_fail(c, RC_NOMEM, "answer of %u bytes", f->payload_n);
        return;
    }
    CHECK(c->rx_payload->cap >= f->payload_n);
    c->rx_mode = RX_PAYLOAD;
    c->rx_payload_at = 0;
    c->rx_out = o;
    c->rx_header = header;
}

static void on_frame(struct bulk_conn *c, const struct bulk_frame *f, struct slice header)
{
    if ((f->type == BULK_HELLO) != (c->state == BULK_ST_HELLO)) {
        bulk_conn_fail(c, RC_CORRUPT, "the first frame, and only it, is a Hello");
        return;
    }
    switch (f->type) {
    case BULK_HELLO:
        bulk_on_hello(c, header);
        break;
    case BULK_REQUEST:
        on_request(c, f, header);
        break;
    case BULK_ANSWER:
        on_answer(c, f, header);
        break;
    case BULK_MESSAGE:
        if (c->conf.ops->on_message != NULL) c->conf.ops->on_message(c, header);
        break;
    case BULK_DRAIN:
        c->drain_got = true;
        bulk_on_drain(c);
        break;
    }
}

/* A frame, if it is whole; else reads. False: no more now. */
static bool frame_step(struct bulk_conn *c, size_t *round)
{
    size_t have = c->rx_n - c->rx_at, need = BULK_FRAME_LENGTH_BYTES, got = 0;
    struct bulk_frame f;
    struct slice header;
    uint32_t follow = 0;
    enum rc rc;

    if (have >= need) {
        if (bulk_frame_length(c->rx_buf + c->rx_at, &follow) != RC_OK) {
            bulk_conn_fail(c, RC_CORRUPT, "a frame with an impossible length");
            return false;
        }
        need += follow;
    }
    if (follow > 0 && have >= need) {
        rc = bulk_frame_open(c->rx_key, c->rx_buf + c->rx_at, need, &f, &header);
        if (rc != RC_OK) {
            bulk_conn_fail(c, rc, "a frame did not authenticate: altered, replayed or lost");
            return false;
        }
        c->rx_at += need;
        on_frame(c, &f, header);
        return true;
    }
    if (*round >= ROUND_BYTES) return false;
    if (!rx_room(c, need)) {
        bulk_conn_fail(c, RC_NOMEM, "frame of %zu bytes", need);
        return false;
    }
    if (socket_read(c, c->rx_buf + c->rx_n, c->rx_cap - c->rx_n, &got) != RC_OK) return false;
    c->rx_n += got;
    *round += got;
    return true;
}

/* All of a payload is in its buffer. */
static void payload_done(struct bulk_conn *c)
{
    struct bulk_buf *b = c->rx_payload;
    struct bulk_out *o = c->rx_out;
    struct bulk_in *in = c->rx_in;

    c->rx_mode = RX_FRAME;
    c->rx_payload = NULL;
    c->rx_out = NULL;
    c->rx_in = NULL;
    if (o != NULL) {
        answer_done(c, o, c->rx_header, b, c->rx_payload_n); /* takes b */
        return;
    }
    if (c->conf.ops->on_payload != NULL) c->conf.ops->on_payload(in, c->rx_payload_n);
    bulk_buf_unref(b);
}

static bool payload_step(struct bulk_conn *c, size_t *round)
{
    uint32_t left = c->rx_payload_n - c->rx_payload_got;
    uint8_t *to = c->rx_payload->p + c->rx_payload_at + c->rx_payload_got;
    size_t have = c->rx_n - c->rx_at, got = MIN(have, left);

    if (have > 0) {
        memcpy(to, c->rx_buf + c->rx_at, got);
        c->rx_at += got;
    } else {
        if (*round >= ROUND_BYTES) return false;
        if (socket_read(c, to, left, &got) != RC_OK) return false;
        *round += got;
    }
    c->rx_payload_got += (uint32_t)got;
    if (got == left) {
        payload_done(c);
    } else if (c->rx_in != NULL && c->conf.ops->on_payload != NULL) {
        c->conf.ops->on_payload(c->rx_in, c->rx_payload_got);
    }
    return true;
}

static bool discard_step(struct bulk_conn *c, size_t *round)
{
    uint32_t left = c->rx_payload_n - c->rx_payload_got;
    size_t got = MIN(c->rx_n - c->rx_at, left);

    if (got == 0) {
        if (*round >= ROUND_BYTES) return false;
        if (!rx_room(c, 1)) {
            bulk_conn_fail(c, RC_NOMEM, "receive buffer");
            return false;
        }
        if (socket_read(c, c->rx_buf, c->rx_cap, &got) != RC_OK) return false;
        c->rx_n = got;
        *round += got;
        return true;
    }
    c->rx_at += got;
    c->rx_payload_got += (uint32_t)got;
    if (c->rx_payload_got == c->rx_payload_n) c->rx_mode = RX_FRAME;
    return true;
}

/* How much must be there before the socket counts as readable. What is left of a payload will come
 * without our doing; anything else may be as short as a frame. */
static void lowat(struct bulk_conn *c)
{
    bool payload = c->rx_mode == RX_PAYLOAD || c->rx_mode == RX_DISCARD;
    uint32_t left = payload ? c->rx_payload_n - c->rx_payload_got : 0;
    uint32_t want = left < LOWAT_MIN_BYTES ? 1 : MIN(left, LOWAT_BYTES);
    int v = (int)want;

    if (want == c->rx_lowat || (want == 1 && c->rx_lowat == 0)) return;
    c->rx_lowat = want;
    (void)setsockopt(c->fd, SOL_SOCKET, SO_RCVLOWAT, &v, sizeof(v)); /* only slower without */
}

void bulk_rx_run(struct bulk_conn *c)
{
    size_t round = 0;
    bool go_on = true;

    while (go_on && (c->state == BULK_ST_HELLO || c->state == BULK_ST_UP)) {
        switch (c->rx_mode) {
        case RX_FRAME:
            go_on = frame_step(c, &round);
            break;
        case RX_WAIT:
            go_on = false;
            break;
        case RX_PAYLOAD:
            go_on = payload_step(c, &round);
            break;
        case RX_DISCARD:
            go_on = discard_step(c, &round);
            break;
        }
    }
    if (c->state == BULK_ST_HELLO || c->state == BULK_ST_UP) lowat(c);
}

/* ---- what a receiver may do with a request ---- */

void *bulk_in_data(const struct bulk_in *in)
{
    return in->data;
}

void bulk_in_set_data(struct bulk_in *in, void *data)
{
    in->data = data;
}

struct bulk_conn *bulk_in_conn(const struct bulk_in *in)
{
    return in->conn;
}

uint32_t bulk_in_timeout_ms(const struct bulk_in *in)
{
    return in->timeout_ms;
}

void bulk_in_accept(struct bulk_in *in, struct bulk_buf *b, uint32_t at)
{
    struct bulk_conn *c = in->conn;

    CHECK(c->rx_in == in && c->rx_mode == RX_WAIT);
    CHECK(at <= b->cap && b->cap - at >= c->rx_payload_n);
    c->rx_payload = bulk_buf_ref(b);
    c->rx_payload_at = at;
    c->rx_mode = RX_PAYLOAD;
    bulk_conn_kick(c);
}

void bulk_in_discard(struct bulk_in *in)
{
    struct bulk_conn *c = in->conn;

    if (c->rx_in != in) return; /* whole, or none */
    bulk_buf_unref(c->rx_payload);
    c->rx_payload = NULL;
    c->rx_in = NULL;
    c->rx_mode = RX_DISCARD;
    bulk_conn_kick(c);
}

void bulk_in_reply(struct bulk_in *in, struct slice header, struct bulk_buf *payload, uint32_t at,
                   uint32_t n)
{
    struct bulk_conn *c = in->conn;
    struct bulk_frame f = {.type = BULK_ANSWER, .id = in->id, .payload_n = n};

    CHECK(header.n <= BULK_HEADER_BYTES_MAX && n <= BULK_PAYLOAD_BYTES_MAX);
    if (n > 0) CHECK(at <= payload->cap && payload->cap - at >= n);
    bulk_in_discard(in);
    if (c->state != BULK_ST_DEAD && bulk_tx_push(c, &f, header, payload, at, n) == NULL) {
        bulk_conn_fail(c, RC_NOMEM, "answer of %zu bytes", header.n);
    }
    list_remove(&in->link);
    c->ins_n--;
    free(in);
}
