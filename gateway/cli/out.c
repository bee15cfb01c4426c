/* gateway/cli/out.c - see out.h. */
#include "gateway/cli/out.h"
#include "common/base/hex.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <utf8proc.h>

/* ---- messages as JSON ---- */
static json_t *bytes_json(const ProtobufCBinaryData *b)
{
    char *hex = malloc(2 * b->len + 1);
    json_t *j;

    if (hex == NULL) return NULL;
    hex_encode(b->data, b->len, hex);
    j = json_stringn(hex, 2 * b->len);
    free(hex);
    return j;
}

static json_t *value_json(const ProtobufCFieldDescriptor *f, const void *p)
{
    uint64_t u64;
    uint32_t u32;
    float fl;
    double d;
    char hex[20];

    switch (f->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        memcpy(&u32, p, sizeof u32);
        return json_integer((int32_t)u32);
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        memcpy(&u32, p, sizeof u32);
        return json_integer(u32);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
        memcpy(&u64, p, sizeof u64);
        return json_integer((json_int_t)u64);
    case PROTOBUF_C_TYPE_FIXED64: /* a hash's prefix: text, since JSON numbers end at 2^53 */
        memcpy(&u64, p, sizeof u64);
        (void)snprintf(hex, sizeof hex, "%016llx", (unsigned long long)u64);
        return json_string(hex);
    case PROTOBUF_C_TYPE_FLOAT:
        memcpy(&fl, p, sizeof fl);
        return json_real((double)fl);
    case PROTOBUF_C_TYPE_DOUBLE:
        memcpy(&d, p, sizeof d);
        if (d != d || d - d != 0.0) return json_null(); /* no number in JSON */
        return json_real(d);
    case PROTOBUF_C_TYPE_BOOL:
        return json_boolean(*(const protobuf_c_boolean *)p != 0);
    case PROTOBUF_C_TYPE_ENUM: {
        const ProtobufCEnumValue *v;
        int e;

        memcpy(&e, p, sizeof e);
        v = protobuf_c_enum_descriptor_get_value(f->descriptor, e);
        return v == NULL ? json_integer(e) : json_string(v->name);
    }
    case PROTOBUF_C_TYPE_STRING: {
        const char *const *s = p;
        json_t *j = json_string(*s == NULL ? "" : *s);

        return j != NULL ? j : json_string("(not UTF-8)");
    }
    case PROTOBUF_C_TYPE_BYTES:
        return bytes_json(p);
    case PROTOBUF_C_TYPE_MESSAGE: {
        const ProtobufCMessage *const *m = p;

        return *m == NULL ? json_null() : out_message(*m);
    }
    }
    return json_null();
}

static size_t value_bytes(ProtobufCType t)
{
    switch (t) {
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    default:
        return 4;
    }
}

static bool is_map(const ProtobufCFieldDescriptor *f)
{
    const ProtobufCMessageDescriptor *d = f->descriptor;
    size_t n;

    if (f->type != PROTOBUF_C_TYPE_MESSAGE) return false;
    n = strlen(d->short_name);
    return n > 5 && strcmp(d->short_name + n - 5, "Entry") == 0 && d->n_fields == 2 &&
           strcmp(d->fields[0].name, "key") == 0 && strcmp(d->fields[1].name, "value") == 0 &&
           d->fields[0].type == PROTOBUF_C_TYPE_STRING;
}

static json_t *repeated_json(const ProtobufCFieldDescriptor *f, const uint8_t *base)
{
    json_t *j = is_map(f) ? json_object() : json_array();
    size_t n, each = value_bytes(f->type);
    const uint8_t *items;
    int bad = 0;

    memcpy(&n, base + f->quantifier_offset, sizeof n);
    memcpy(&items, base + f->offset, sizeof items);
    for (size_t i = 0; i < n && bad == 0; i++) {
        if (is_map(f)) {
            const ProtobufCMessage *e;
            const char *key;

            memcpy(&e, items + i * each, sizeof e);
            memcpy(&key, (const uint8_t *)e + e->descriptor->fields[0].offset, sizeof key);
            bad = json_object_set_new(
                j, key,
                value_json(&e->descriptor->fields[1],
                           (const uint8_t *)e + e->descriptor->fields[1].offset));
        } else {
            bad = json_array_append_new(j, value_json(f, items + i * each));
        }
    }
    if (bad == 0) return j;
    json_decref(j);
    return NULL;
}

json_t *out_message(const ProtobufCMessage *m)
{
    const uint8_t *base = (const uint8_t *)m;
    json_t *j = json_object();

    for (unsigned i = 0; j != NULL && i < m->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
        json_t *v;

        if (f->label == PROTOBUF_C_LABEL_REPEATED) {
            v = repeated_json(f, base);
        } else {
            if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
                uint32_t which;

                memcpy(&which, base + f->quantifier_offset, sizeof which);
                if (which != f->id) continue;
            } else if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
                const void *sub;

                memcpy(&sub, base + f->offset, sizeof sub);
                if (sub == NULL) continue;
            }
            v = value_json(f, base + f->offset);
        }
        if (json_object_set_new(j, f->name, v) != 0) {
            json_decref(j);
            return NULL;
        }
    }
    return j;
}

enum rc out_json_to(FILE *f, json_t *j)
{
    int bad;

    if (j == NULL) return RC_NOMEM;
    bad = json_dumpf(j, f, JSON_COMPACT);
    json_decref(j);
    return bad != 0 || putc('\n', f) == EOF ? RC_IO : RC_OK;
}

enum rc out_json(json_t *j)
{
    return out_json_to(stdout, j);
}

enum rc out_json_message(const ProtobufCMessage *m)
{
    return out_json(out_message(m));
}

enum rc out_flush(void)
{
    return fflush(stdout) != 0 || ferror(stdout) ? RC_IO : RC_OK;
}

/* ---- text ---- */
size_t out_width(const char *utf8)
{
    const utf8proc_uint8_t *p = (const utf8proc_uint8_t *)utf8;
    utf8proc_ssize_t n;
    utf8proc_int32_t cp;
    size_t w = 0;

    while (*p != 0) {
        n = utf8proc_iterate(p, -1, &cp);
        if (n <= 0) {
            n = 1;
            w++;
        } else {
            w += (size_t)utf8proc_charwidth(cp);
        }
        p += n;
    }
    return w;
}

void table_init(struct table *t, const char *const *headers, unsigned cols_n)
{
    *t = (struct table){.cols_n = cols_n, .headers = headers};
}

void table_deinit(struct table *t)
{
    for (size_t i = 0; i < t->n; i++)
        free(t->cells[i]);
    free(t->cells);
    *t = (struct table){0};
}

void table_cell(struct table *t, const char *fmt, ...)
{
    va_list ap;
    char *text;

    if (t->n == t->cap) {
        size_t cap = MAX(t->cap * 2, 256u);
        char **p = realloc(t->cells, cap * sizeof *p);

        if (p == NULL) {
            t->failed = true;
            return;
        }
        t->cells = p;
        t->cap = cap;
    }
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0) {
        t->failed = true;
    } else {
        t->cells[t->n++] = text;
    }
    va_end(ap);
}

static void pad(FILE *f, size_t n)
{
    while (n-- > 0)
        (void)fputc(' ', f);
}

static void cell_print(FILE *f, const char *text, size_t width, bool right, bool last)
{
    size_t w = out_width(text), gap = width > w ? width - w : 0;

    if (right) pad(f, gap);
    (void)fputs(text, f);
    if (!right && !last) pad(f, gap);
    (void)fputs(last ? "\n" : "  ", f);
}

enum rc table_print(const struct table *t, FILE *f)
{
    size_t *width = calloc(t->cols_n, sizeof *width);

    if (width == NULL || t->failed || t->n % t->cols_n != 0) {
        free(width);
        return RC_NOMEM;
    }
    for (unsigned i = 0; i < t->cols_n; i++)
        width[i] = out_width(t->headers[i] + (t->headers[i][0] == '>'));
    for (size_t i = 0; i < t->n; i++) {
        size_t w = out_width(t->cells[i]);

        if (w > width[i % t->cols_n]) width[i % t->cols_n] = w;
    }
    for (unsigned i = 0; i < t->cols_n; i++) {
        bool right = t->headers[i][0] == '>';

        cell_print(f, t->headers[i] + right, width[i], right, i + 1 == t->cols_n);
    }
    for (size_t i = 0; i < t->n; i++) {
        unsigned col = (unsigned)(i % t->cols_n);

        cell_print(f, t->cells[i], width[col], t->headers[col][0] == '>', col + 1 == t->cols_n);
    }
    free(width);
    return ferror(f) ? RC_IO : RC_OK;
}

void out_csv(FILE *f, const char *text, bool first)
{
    if (!first) (void)fputc(',', f);
    if (strpbrk(text, ",\"\r\n") == NULL) {
        (void)fputs(text, f);
        return;
    }
    (void)fputc('"', f);
    for (; *text != 0; text++) {
        if (*text == '"') (void)fputc('"', f);
        (void)fputc(*text, f);
    }
    (void)fputc('"', f);
}

const char *out_time(int64_t unix_ms, char text[32])
{
    time_t s = (time_t)(unix_ms / 1000);
    struct tm tm;

    if (unix_ms == 0 || gmtime_r(&s, &tm) == NULL ||
        strftime(text, 32, "%Y-%m-%d %H:%M:%SZ", &tm) == 0) {
        memcpy(text, "-", 2);
    }
    return text;
}

const char *out_hex(ProtobufCBinaryData b, char text[80])
{
    if (b.len == 0) return memcpy(text, "-", 2);
    hex_encode(b.data, MIN(b.len, 32u), text);
    return text;
}

bool out_color(FILE *f)
{
    const char *no = getenv("NO_COLOR"), *force = getenv("CLICOLOR_FORCE");

    if (force != NULL && force[0] != 0 && strcmp(force, "0") != 0) return true;
    return (no == NULL || no[0] == 0) && isatty(fileno(f)) == 1;
}
