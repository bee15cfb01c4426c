/* common/net/bulk_priv.h - a connection's insides, shared by bulk.c (life), bulk_tx.c and
 * bulk_rx.c.
 *
 *   DIALING --handshake--> HELLO --peer's Hello--> UP --life over or peer's DRAIN--> UP + draining
 *   any --> DEAD, once, by bulk_conn_fail; the next run of `kick` tells everybody and frees
 *
 * So a callback may close the connection at any point: nothing is freed under it. */
#pragma once
#include "common/base/list.h"
#include "common/net/bulk_frame.h"
#include "common/net/net_stream.h"

enum bulk_state { BULK_ST_DIALING, BULK_ST_HELLO, BULK_ST_UP, BULK_ST_DEAD };

/* A queued frame: head bytes (4 + fixed + header + tag), then n payload bytes of buf. Sealed when
 * it is first given to the socket; from then on it must be sent whole. */
struct bulk_tx_frame {
    struct list link;
    struct bulk_frame f;
    uint32_t header_n;
    bool sealed;
    struct bulk_buf *buf;
    uint32_t at, ready;
    size_t sent;          /* of head and payload */
    struct bulk_out *out; /* a request's, until it ended; NULL */
    /* an answer that came before all of the payload was ready */
    bool early;
    uint8_t *early_header;
    size_t early_header_n;
    struct bulk_buf *early_payload;
    uint32_t early_payload_n;
    uint8_t head[]; /* BULK_FRAME_EXTRA_BYTES + header_n */
};

struct bulk_in {
    struct list link;
    struct bulk_conn *conn;
    void *data;
    uint32_t id, timeout_ms;
};

struct bulk_slot {
    struct bulk_out *out; /* NULL and used: given up, its answer is still to come */
    uint32_t generation;
    bool used;
};

enum bulk_rx_mode { RX_FRAME, RX_WAIT, RX_PAYLOAD, RX_DISCARD };

struct bulk_conn {
    uv_poll_t poll;
    uv_timer_t timer;
    uv_idle_t kick;
    int handles_n;
    bool poll_open;
    int fd, events;
    enum bulk_state state;
    bool client, drain_sent, drain_got;
    struct err err;
    struct bulk_conf conf;
    void *data;
    struct net_stream *dialing;
    struct tls_identity peer;
    struct bulk_hello hello;
    struct bulk_key *tx_key, *rx_key;
    uint64_t hello_by_ms, drain_at_ms, end_at_ms, timer_due_ms; /* uv_now scale */

    struct list tx; /* bulk_tx_frame */
    size_t message_bytes;
    struct bulk_slot slots[BULK_INFLIGHT_MAX];
    uint32_t slots_used, slots_given_up, early_n;

    struct list ins; /* bulk_in */
    uint32_t ins_n;
    enum bulk_rx_mode rx_mode;
    uint8_t *rx_buf;
    size_t rx_n, rx_at, rx_cap;
    uint32_t rx_lowat;       /* SO_RCVLOWAT as set; 0 = never */
    bool rx_dry;             /* the socket was empty when last read, and poll says no other yet */
    bool rx_last;            /* the socket has an error, behind the bytes that still lie there */
    struct bulk_in *rx_in;   /* whose payload comes next or now; NULL */
    struct bulk_out *rx_out; /* whose answer's payload comes now; NULL */
    struct slice rx_header;  /* of that answer, in rx_buf */
    struct bulk_buf *rx_payload;
    uint32_t rx_payload_at, rx_payload_got, rx_payload_n;
};

/* The first reason counts. */
void bulk_conn_fail(struct bulk_conn *c, enum rc rc, const char *fmt, ...) PRINTF_LIKE(3, 4);
void bulk_conn_kick(struct bulk_conn *c);
void bulk_poll_update(struct bulk_conn *c);

/* bulk_tx.c. The payload is referenced. NULL: out of memory. */
struct bulk_tx_frame *bulk_tx_push(struct bulk_conn *c, const struct bulk_frame *f,
                                   struct slice header, struct bulk_buf *payload, uint32_t at,
                                   uint32_t ready);
void bulk_tx_flush(struct bulk_conn *c);
void bulk_tx_drop(struct bulk_conn *c, struct bulk_tx_frame *f); /* unlinks and frees */
bool bulk_tx_wants(const struct bulk_conn *c);                   /* something can be sent now */
/* bulk_rx.c */
void bulk_rx_run(struct bulk_conn *c);
/* bulk.c: ends a request. Its slot is free again unless the answer is still to come. */
void bulk_out_end(struct bulk_conn *c, struct bulk_out *o, enum rc rc, struct slice header,
                  struct bulk_buf *payload, uint32_t payload_n, bool slot_free);
void bulk_on_hello(struct bulk_conn *c, struct slice header);
void bulk_on_drain(struct bulk_conn *c);
