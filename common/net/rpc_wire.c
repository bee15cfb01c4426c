/* common/net/rpc_wire.c - see rpc_wire.h. */
#include "common/net/rpc_wire.h"
#include "common/base/hex.h"
#include <inttypes.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <string.h>

bool rpc_wire_timeout_parse(const char *s, uint64_t *ret_ms)
{
    uint64_t v = 0;
    size_t n = 0;

    for (; s[n] >= '0' && s[n] <= '9'; n++) {
        if (n == 8) return false;
        v = v * 10 + (uint64_t)(s[n] - '0');
    }
    if (n == 0 || s[n] == 0 || s[n + 1] != 0) return false;
    switch (s[n]) {
    case 'H':
        *ret_ms = v * 3600000u;
        return true;
    case 'M':
        *ret_ms = v * 60000u;
        return true;
    case 'S':
        *ret_ms = v * 1000u;
        return true;
    case 'm':
        *ret_ms = v;
        return true;
    case 'u':
        *ret_ms = (v + 999u) / 1000u;
        return true;
    case 'n':
        *ret_ms = (v + 999999u) / 1000000u;
        return true;
    default:
        return false;
    }
}

void rpc_wire_timeout_print(uint64_t ms, char text[16])
{
    if (ms < 100000000u)
        (void)snprintf(text, 16, "%" PRIu64 "m", ms);
    else
        (void)snprintf(text, 16, "%" PRIu64 "S", MIN(ms / 1000u, (uint64_t)99999999u));
}

void rpc_wire_percent_encode(const char *s, struct buf *out)
{
    for (; *s != 0; s++) {
        uint8_t c = (uint8_t)*s;

        if (c >= 0x20 && c <= 0x7e && c != '%')
            buf_put_u8(out, c);
        else
            buf_printf(out, "%%%02X", c);
    }
}

void rpc_wire_percent_decode(char *s)
{
    char *to = s;

    while (*s != 0) {
        uint8_t c;

        if (s[0] == '%' && s[1] != 0 && s[2] != 0 && hex_decode(s + 1, 2, &c) && c != 0) {
            *to++ = (char)c;
            s += 3;
        } else {
            *to++ = *s++;
        }
    }
    *to = 0;
}

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool rpc_wire_base64_decode(const char *s, uint8_t *to, size_t cap, size_t *ret_n)
{
    size_t len = strlen(s), n = 0;
    uint32_t acc = 0;
    unsigned bits = 0;

    while (len > 0 && s[len - 1] == '=')
        len--;
    if (len % 4 == 1) return false;
    for (size_t i = 0; i < len; i++) {
        int d = base64_digit(s[i]);

        if (d < 0) return false;
        acc = (acc << 6 | (uint32_t)d) & 0xffffffu;
        bits += 6;
        if (bits < 8) continue;
        bits -= 8;
        if (n == cap) return false;
        to[n++] = (uint8_t)(acc >> bits);
    }
    *ret_n = n;
    return true;
}

int rpc_wire_status_of_http(int http_status)
{
    switch (http_status) {
    case 400:
        return 13;
    case 401:
        return 16;
    case 403:
        return 7;
    case 404:
        return 12;
    case 429:
    case 502:
    case 503:
    case 504:
        return 14;
    default:
        return 2;
    }
}

int rpc_wire_status_of_h2(uint32_t h2_code)
{
    switch (h2_code) {
    case NGHTTP2_REFUSED_STREAM:
        return 14;
    case NGHTTP2_CANCEL:
        return 1;
    case NGHTTP2_ENHANCE_YOUR_CALM:
        return 8;
    case NGHTTP2_INADEQUATE_SECURITY:
        return 7;
    default:
        return 13;
    }
}

static bool varint(struct slice m, size_t *at, uint64_t *ret)
{
    *ret = 0;
    for (uint32_t shift = 0; shift < 64 && *at < m.n; shift += 7) {
        uint8_t b = m.p[(*at)++];

        *ret |= (uint64_t)(b & 0x7f) << shift;
        if ((b & 0x80) == 0) return true;
    }
    return false;
}

bool rpc_wire_payload(struct slice m, uint32_t field, struct slice *ret_rest,
                      struct slice *ret_payload)
{
    size_t at = 0;

    while (at < m.n) {
        size_t start = at;
        uint64_t tag, n;

        /* length-delimited fields only: that is all that comes before a payload */
        if (!varint(m, &at, &tag) || (tag & 7) != 2 || !varint(m, &at, &n) || n > m.n - at)
            return false;
        if (tag >> 3 == field) {
            if (n != m.n - at) return false; /* not the last */
            *ret_rest = (struct slice){m.p, start};
            *ret_payload = (struct slice){m.p + at, (size_t)n};
            return true;
        }
        at += (size_t)n;
    }
    return false;
}

bool rpc_wire_is_grpc(const char *content_type)
{
    static const char grpc[] = "application/grpc";

    if (strncmp(content_type, grpc, sizeof(grpc) - 1) != 0) return false;
    return strchr("+;", content_type[sizeof(grpc) - 1]) != NULL; /* also matches the end */
}
