/* gateway/cli/out.h - results as text, JSON and CSV. */
#pragma once
#include "common/base/buf.h"
#include <jansson.h>
#include <protobuf-c/protobuf-c.h>
#include <stdio.h>

/* Any message: names of proto/, ids and digests in hexadecimal, enums by name, maps as objects.
 * NULL: out of memory. */
json_t *out_message(const ProtobufCMessage *m);
/* One line; takes j. RC_NOMEM (j NULL too), RC_IO (stdout is gone). */
MUST_CHECK enum rc out_json(json_t *j);
MUST_CHECK enum rc out_json_to(FILE *f, json_t *j);
MUST_CHECK enum rc out_json_message(const ProtobufCMessage *m);

/* A table with columns as wide as needed. Headers that begin with '>' are right-aligned. */
struct table {
    unsigned cols_n;
    const char *const *headers;
    char **cells;
    size_t n, cap;
    bool failed;
};
void table_init(struct table *t, const char *const *headers, unsigned cols_n);
void table_deinit(struct table *t);
void table_cell(struct table *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* RC_NOMEM, RC_IO. A table without rows prints its header only. */
MUST_CHECK enum rc table_print(const struct table *t, FILE *f);

/* A CSV field (RFC 4180), quoted where needed. A text that a spreadsheet would run as a formula is
 * not changed: the file is data. */
void out_csv(FILE *f, const char *text, bool first);
size_t out_width(const char *utf8);                        /* columns on a terminal */
const char *out_time(int64_t unix_ms, char text[32]);      /* "2026-11-24 01:02:03Z", "-" for 0 */
const char *out_hex(ProtobufCBinaryData b, char text[80]); /* at most 32 bytes; "-" for none */
bool out_color(FILE *f);
/* Flushes; RC_IO when stdout could not take all. */
MUST_CHECK enum rc out_flush(void);
