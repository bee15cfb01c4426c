/* common/net/rpc_wire.h - the texts of gRPC's HTTP/2 mapping: statuses, time-outs, percent and
 * base64. Pure; see gRPC PROTOCOL-HTTP2. */
#pragma once
#include "common/base/buf.h"

/* "grpc-timeout": up to 8 digits and H M S m u n. False: no such form. Rounds up to ms. */
bool rpc_wire_timeout_parse(const char *s, uint64_t *ret_ms);
void rpc_wire_timeout_print(uint64_t ms, char text[16]);
/* grpc-message: all outside 0x20..0x7e, and %, becomes %XX. Appends to out. */
void rpc_wire_percent_encode(const char *s, struct buf *out);
/* In place; a bad escape stays as it is. */
void rpc_wire_percent_decode(char *s);
/* Padded or not. False: not base64, or more than cap bytes. */
bool rpc_wire_base64_decode(const char *s, uint8_t *to, size_t cap, size_t *ret_n);
/* An HTTP status without grpc-status; an HTTP/2 error code of a RST_STREAM. As gRPC statuses. */
int rpc_wire_status_of_http(int http_status);
int rpc_wire_status_of_h2(uint32_t h2_code);
/* A message whose last field is the bytes field `field` (a payload): what is before it, and its
 * bytes, both in place. False: it is not built so, or is no message; a full decoder tells. */
bool rpc_wire_payload(struct slice m, uint32_t field, struct slice *ret_rest,
                      struct slice *ret_payload);
bool rpc_wire_is_grpc(const char *content_type);
