/* common/net/reflect.c - grpc.reflection.v1 and v1alpha from a FileDescriptorSet.
 *
 * The set is walked once, field by field (it is made by our own build, but a wrong file is an
 * error, no crash); what is kept are the places of its files and the full name of every symbol.
 * v1alpha's messages are the same bytes as v1's, so one set of structs serves both. */
#include "common/net/rpc_server_priv.h"
#include "proto/grpc/reflection/v1/reflection.pb-c.h"
#include <stdlib.h>
#include <string.h>

typedef Grpc__Reflection__V1__ServerReflectionRequest request;
typedef Grpc__Reflection__V1__ServerReflectionResponse response;

#define FILES_MAX   256u
#define NAME_MAX_N  512u
#define DEPTH_MAX   16
#define SERVICES_N  128u
#define SYMBOLS_MAX (1u << 20) /* bytes of names */

struct reflect {
    struct slice files[FILES_MAX]; /* serialized FileDescriptorProtos */
    struct slice names[FILES_MAX];
    size_t files_n;
    struct buf symbols; /* file index (2 bytes), "full.name\0", ... */
};

struct field {
    uint32_t number;
    struct slice bytes; /* wire type 2 only */
};

static bool varint_take(struct slice *s, uint64_t *ret_v)
{
    uint64_t v = 0;

    for (unsigned shift = 0; shift < 64 && s->n > 0; shift += 7) {
        uint8_t b = *s->p;

        s->p++;
        s->n--;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80) {
            *ret_v = v;
            return true;
        }
    }
    return false;
}

static bool skip(struct slice *s, uint64_t n)
{
    if (n > s->n) return false;
    s->p += n;
    s->n -= (size_t)n;
    return true;
}

/* False: the end, or not a message (then s->n > 0). Fields that are no bytes have bytes.p NULL. */
static bool field_take(struct slice *s, struct field *f)
{
    struct slice at = *s;
    uint64_t tag, n;

    *f = (struct field){0};
    if (at.n == 0 || !varint_take(&at, &tag)) return false;
    f->number = (uint32_t)(tag >> 3);
    switch (tag & 7) {
    case 0:
        if (!varint_take(&at, &n)) return false;
        break;
    case 1:
        if (!skip(&at, 8)) return false;
        break;
    case 2:
        if (!varint_take(&at, &n)) return false;
        f->bytes = (struct slice){at.p, (size_t)n};
        if (!skip(&at, n)) return false;
        break;
    case 5:
        if (!skip(&at, 4)) return false;
        break;
    default:
        return false;
    }
    *s = at;
    return true;
}

static struct slice first_of(struct slice msg, uint32_t number)
{
    struct field f;

    while (field_take(&msg, &f)) {
        if (f.number == number && f.bytes.p != NULL) return f.bytes;
    }
    return (struct slice){0};
}

/* Numbers of descriptor.proto: in a file, messages are 4, enums 5, services 6; in a message, nested
 * ones 3 and enums 4; in a service, methods 2. Names are always 1. */
enum kind { K_FILE, K_MESSAGE, K_SERVICE, K_LEAF };

static bool symbols_walk(struct reflect *r, size_t file, enum kind kind, struct slice msg,
                         const char *scope, int depth)
{
    char full[NAME_MAX_N];
    struct slice name = first_of(msg, kind == K_FILE ? 2 : 1);
    size_t scope_n = strlen(scope);
    struct field f;

    if (depth > DEPTH_MAX || scope_n + name.n + 2 > sizeof(full)) return false;
    memcpy(full, scope, scope_n);
    if (scope_n > 0 && name.n > 0) full[scope_n++] = '.';
    if (name.n > 0) memcpy(full + scope_n, name.p, name.n);
    full[scope_n + name.n] = 0;
    if (kind != K_FILE) {
        buf_put_u8(&r->symbols, (uint8_t)file);
        buf_put_u8(&r->symbols, (uint8_t)(file >> 8));
        buf_put(&r->symbols, full, strlen(full) + 1);
    }
    while (field_take(&msg, &f)) {
        enum kind k;

        if (f.bytes.p == NULL) continue;
        if (kind == K_FILE && f.number == 4)
            k = K_MESSAGE;
        else if (kind == K_FILE && f.number == 6)
            k = K_SERVICE;
        else if (kind == K_MESSAGE && f.number == 3)
            k = K_MESSAGE;
        else if ((kind == K_FILE && f.number == 5) || (kind == K_MESSAGE && f.number == 4))
            k = K_LEAF;
        else if (kind == K_SERVICE && f.number == 2)
            k = K_LEAF;
        else
            continue;
        if (!symbols_walk(r, file, k, f.bytes, full, depth + 1)) return false;
    }
    return msg.n == 0;
}

static enum rc reflect_load(struct reflect *r, struct slice set)
{
    struct field f;

    while (field_take(&set, &f)) {
        if (f.number != 1 || f.bytes.p == NULL) continue;
        if (r->files_n == FILES_MAX) return RC_BUSY;
        r->files[r->files_n] = f.bytes;
        r->names[r->files_n] = first_of(f.bytes, 1);
        if (!symbols_walk(r, r->files_n, K_FILE, f.bytes, "", 0)) return RC_INVAL;
        r->files_n++;
    }
    return set.n == 0 ? buf_rc(&r->symbols) : RC_INVAL;
}

static const struct slice *file_by_name(const struct reflect *r, const char *name)
{
    for (size_t i = 0; i < r->files_n; i++) {
        if (r->names[i].n == strlen(name) && memcmp(r->names[i].p, name, r->names[i].n) == 0) {
            return &r->files[i];
        }
    }
    return NULL;
}

static const struct slice *file_by_symbol(const struct reflect *r, const char *symbol)
{
    for (size_t at = 0; at < r->symbols.n;) {
        const uint8_t *p = r->symbols.p + at;
        const char *name = (const char *)p + 2;

        if (strcmp(name, symbol) == 0) return &r->files[p[0] | (size_t)p[1] << 8];
        at += strlen(name) + 3;
    }
    return NULL;
}

static enum rc send_file(struct rpc_call *c, response *a, const struct slice *file)
{
    Grpc__Reflection__V1__FileDescriptorResponse m =
        GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    Grpc__Reflection__V1__ErrorResponse no = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    static char none[] = "no such file or symbol here";
    ProtobufCBinaryData one;

    if (file == NULL) {
        no.error_code = rc_grpc(RC_NOTFOUND);
        no.error_message = none;
        a->message_response_case =
            GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
        a->error_response = &no;
        return rpc_call_send(c, &a->base);
    }
    one = (ProtobufCBinaryData){.len = file->n, .data = (uint8_t *)(uintptr_t)file->p};
    m.n_file_descriptor_proto = 1;
    m.file_descriptor_proto = &one;
    a->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    a->file_descriptor_response = &m;
    return rpc_call_send(c, &a->base);
}

/* The services that have at least one method here. */
static enum rc send_services(struct rpc_call *c, response *a, const struct rpc_server *s)
{
    Grpc__Reflection__V1__ListServiceResponse list =
        GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    Grpc__Reflection__V1__ServiceResponse svc[SERVICES_N], *ptrs[SERVICES_N];
    char names[SERVICES_N][128];
    size_t n = 0;

    for (size_t i = 0; i < s->methods_n && n < SERVICES_N; i++) { /* sorted: equal ones adjoin */
        const char *from = s->methods[i]->path + 1, *slash = strchr(from, '/');
        size_t len = slash != NULL ? (size_t)(slash - from) : 0;

        if (len == 0 || len >= sizeof(names[0])) continue;
        if (n > 0 && strlen(names[n - 1]) == len && memcmp(names[n - 1], from, len) == 0) continue;
        memcpy(names[n], from, len);
        names[n][len] = 0;
        svc[n] =
            (Grpc__Reflection__V1__ServiceResponse)GRPC__REFLECTION__V1__SERVICE_RESPONSE__INIT;
        svc[n].name = names[n];
        ptrs[n] = &svc[n];
        n++;
    }
    list.n_service = n;
    list.service = ptrs;
    a->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    a->list_services_response = &list;
    return rpc_call_send(c, &a->base);
}

static enum rc send_no_extensions(struct rpc_call *c, response *a, char *type)
{
    Grpc__Reflection__V1__ExtensionNumberResponse m =
        GRPC__REFLECTION__V1__EXTENSION_NUMBER_RESPONSE__INIT;

    m.base_type_name = type; /* proto3 has no extensions */
    a->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ALL_EXTENSION_NUMBERS_RESPONSE;
    a->all_extension_numbers_response = &m;
    return rpc_call_send(c, &a->base);
}

static void on_info(struct rpc_call *c, struct rpc_msg *m)
{
    struct rpc_server *s = rpc_call_service(c);
    request *q = grpc__reflection__v1__server_reflection_request__unpack(NULL, m->n, m->p);
    response a = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    enum rc rc;

    if (q == NULL) {
        rpc_call_finish(c, RC_INVAL, NULL);
        return;
    }
    a.valid_host = q->host;
    a.original_request = q;
    switch (q->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        rc = send_file(c, &a, file_by_name(s->reflect, q->file_by_filename));
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        rc = send_file(c, &a, file_by_symbol(s->reflect, q->file_containing_symbol));
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        rc = send_services(c, &a, s);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
        rc = send_no_extensions(c, &a, q->all_extension_numbers_of_type);
        break;
    default:
        rc = send_file(c, &a, NULL);
        break;
    }
    if (rc != RC_OK) rpc_call_finish(c, rc, NULL);
    grpc__reflection__v1__server_reflection_request__free_unpacked(q, NULL);
}

static void on_half_close(struct rpc_call *c)
{
    rpc_call_finish(c, RC_OK, NULL);
}

enum rc reflect_add(struct rpc_server *s)
{
    static const char *const paths[] = {
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    };
    enum rc rc;

    if (s->conf.descriptors == NULL) return RC_OK;
    s->reflect = calloc(1, sizeof(*s->reflect));
    if (s->reflect == NULL) return RC_NOMEM;
    buf_init(&s->reflect->symbols, SYMBOLS_MAX);
    rc = reflect_load(s->reflect, (struct slice){s->conf.descriptors, s->conf.descriptors_n});
    if (rc != RC_OK) return rc;
    for (size_t i = 0; i < ARRAY_N(paths); i++) {
        s->reflection[i] = (struct rpc_method){.path = paths[i],
                                               .client_streams = true,
                                               .auto_consume = true,
                                               .on_message = on_info,
                                               .on_half_close = on_half_close,
                                               .service = s};
    }
    return rpc_server_add(s, s->reflection);
}

void reflect_free(struct reflect *r)
{
    if (r == NULL) return;
    buf_deinit(&r->symbols);
    free(r);
}
