/* common/client/get.c - objects and lists on their way down; both go on where a stream broke off.
 */
#include "common/client/client_priv.h"
#include <stdlib.h>
#include <string.h>

#define SVC "/mikura.v1.Objects/"

struct reading {
    const struct mikura_get *get;
    Mikura__V1__ObjectRef ref;
    Mikura__V1__ReadRequest req;
    Mikura__V1__ObjectInfo *info; /* of the first message */
    uint64_t got;
    struct tree_stream *tree; /* whole objects only */
};

static enum rc read_message(struct reading *r, const ProtobufCMessage *m, struct err *reterr)
{
    const Mikura__V1__ReadResponse *msg = (const Mikura__V1__ReadResponse *)m;
    enum rc rc = RC_OK;

    if (r->info == NULL) {
        uint8_t *p;
        size_t n;

        if (msg->info == NULL || msg->info->object == NULL) {
            return err_set(reterr, RC_INTERNAL, "Read: the first answer names no object");
        }
        n = mikura__v1__object_info__get_packed_size(msg->info);
        p = malloc(MAX(n, 1u));
        if (p == NULL) return err_set(reterr, RC_NOMEM, "an object's description");
        (void)mikura__v1__object_info__pack(msg->info, p);
        r->info = mikura__v1__object_info__unpack(NULL, n, p);
        free(p);
        if (r->info == NULL) return err_set(reterr, RC_NOMEM, "an object's description");
        r->ref.version = msg->info->object->version; /* the same one after a break */
    }
    if (msg->data.len == 0) return RC_OK;
    if (r->tree != NULL) rc = tree_stream_update(r->tree, msg->data.data, msg->data.len);
    if (rc != RC_OK) return err_set(reterr, rc, "SHA-256 failed");
    rc = r->get->write(r->get->data, msg->data.data, msg->data.len, reterr);
    if (rc == RC_OK) r->got += msg->data.len;
    return rc;
}

/* One stream. *ret_own: the failure is this side's (the disk, the pipe): no second try. */
static enum rc read_try(struct reading *r, struct attempt *a, bool *ret_own, struct err *reterr)
{
    struct rpc_request_conf conf = {.path = SVC "Read"};
    struct err ended = {0};
    struct rpc_msg *msg;
    struct fstream *s;
    struct gateway *g;
    enum rc rc = attempt_pick(a, &g, reterr);

    if (rc != RC_OK) return rc;
    r->req.offset_bytes = r->get->offset_bytes + r->got;
    r->req.length_bytes = r->get->length_bytes == 0 ? 0 : r->get->length_bytes - r->got;
    rc = fstream_open(g->ch, &conf, &s);
    if (rc != RC_OK) return err_set(reterr, rc, "Read: %s", rc_text(rc));
    if (fstream_send(s, &r->req.base) == RC_OK) fstream_half_close(s);
    while ((rc = stream_next(s, &msg, &ended)) == RC_OK) {
        Mikura__V1__ReadResponse *m = mikura__v1__read_response__unpack(NULL, msg->n, msg->p);

        fstream_release(s, msg);
        *ret_own = true;
        rc = m == NULL ? err_set(reterr, RC_INTERNAL, "Read: an odd answer")
                       : read_message(r, &m->base, reterr);
        mikura__v1__read_response__free_unpacked(m, NULL);
        if (rc != RC_OK) break;
        *ret_own = false;
        attempt_init(a, a->c); /* progress: patience begins anew */
    }
    fstream_close(s);
    if (rc == STREAM_END) return RC_OK;
    if (!*ret_own && reterr != NULL) *reterr = ended;
    return rc;
}

static enum rc whole_check(struct reading *r, struct err *reterr)
{
    uint8_t tree[TREE_DIGEST_BYTES];
    enum rc rc;

    if (r->got != r->info->size_bytes) {
        return err_set(reterr, RC_CORRUPT, "the object has %llu bytes, %llu came",
                       (unsigned long long)r->info->size_bytes, (unsigned long long)r->got);
    }
    rc = tree_stream_digest(r->tree, tree);
    if (rc != RC_OK) return err_set(reterr, rc, "SHA-256 failed");
    for (size_t i = 0; i < r->info->n_digests; i++) {
        const Mikura__V1__Digest *d = r->info->digests[i];

        if (d->kind != MIKURA__V1__DIGEST_KIND__TREE_SHA256 || d->value.len != 32) continue;
        if (memcmp(d->value.data, tree, 32) == 0) return RC_OK;
        return err_set(reterr, RC_CORRUPT,
                       "the bytes that came have another tree-sha256 than "
                       "the object");
    }
    return err_set(reterr, RC_INTERNAL, "the object's description has no tree-sha256");
}

enum rc mikura_get(struct mikura_client *c, const struct mikura_get *get,
                   Mikura__V1__ObjectInfo **ret_info, struct err *reterr)
{
    struct reading r = {.get = get};
    bool whole = get->offset_bytes == 0 && get->length_bytes == 0, own = false;
    struct attempt a;
    enum rc rc = RC_OK;

    mikura__v1__object_ref__init(&r.ref);
    r.ref.collection = (char *)(uintptr_t)get->collection;
    r.ref.case_id = (char *)(uintptr_t)get->case_id;
    r.ref.path = (char *)(uintptr_t)get->path;
    r.ref.version = get->version;
    mikura__v1__read_request__init(&r.req);
    r.req.object = &r.ref;
    if (whole) rc = tree_stream_new(&r.tree);
    if (rc != RC_OK) return err_set(reterr, rc, "SHA-256: %s", rc_text(rc));
    attempt_init(&a, c);
    do {
        /* all bytes came, only the end was lost */
        if (r.info != NULL && get->length_bytes != 0 && r.got >= get->length_bytes) {
            rc = RC_OK;
            break;
        }
        if (r.info != NULL && r.got > 0 && get->offset_bytes + r.got >= r.info->size_bytes) {
            rc = RC_OK;
            break;
        }
        rc = read_try(&r, &a, &own, reterr);
    } while (rc != RC_OK && !own && attempt_again(&a, rc));
    if (rc == RC_OK && r.info == NULL) {
        rc = err_set(reterr, RC_INTERNAL, "Read: the call ended without an answer");
    }
    if (rc == RC_OK && whole) rc = whole_check(&r, reterr);
    tree_stream_free(r.tree);
    if (rc == RC_OK && ret_info != NULL) {
        *ret_info = r.info;
    } else {
        mikura__v1__object_info__free_unpacked(r.info, NULL);
    }
    return rc;
}

/* ---- List ---- */
struct listing {
    char *token; /* after the last message that was delivered */
    enum rc (*each)(void *data, const Mikura__V1__ObjectInfo *info, struct err *reterr);
    void *data;
    bool own;
};

static enum rc list_message(void *data, const ProtobufCMessage *m, struct err *reterr)
{
    const Mikura__V1__ListResponse *msg = (const Mikura__V1__ListResponse *)m;
    struct listing *l = data;
    char *token;

    for (size_t i = 0; i < msg->n_objects; i++) {
        enum rc rc = l->each(l->data, msg->objects[i], reterr);

        if (rc != RC_OK) {
            l->own = true;
            return rc;
        }
    }
    token = strdup(msg->page_token);
    if (token == NULL) {
        l->own = true;
        return err_set(reterr, RC_NOMEM, "a list");
    }
    free(l->token);
    l->token = token;
    return RC_OK;
}

enum rc mikura_list(struct mikura_client *c, const char *collection, const char *case_id,
                    const char *prefix,
                    enum rc (*each)(void *data, const Mikura__V1__ObjectInfo *info,
                                    struct err *reterr),
                    void *data, struct err *reterr)
{
    Mikura__V1__ListRequest req = MIKURA__V1__LIST_REQUEST__INIT;
    struct listing l = {.each = each, .data = data};
    struct attempt a;
    enum rc rc;

    req.collection = (char *)(uintptr_t)collection;
    req.case_id = (char *)(uintptr_t)case_id;
    req.prefix = (char *)(uintptr_t)prefix;
    attempt_init(&a, c);
    do {
        req.page_token = l.token == NULL ? (char *)(uintptr_t) "" : l.token;
        rc = mikura_stream(c, SVC "List", &req.base, &mikura__v1__list_response__descriptor,
                           list_message, &l, reterr);
        /* a stream that delivered something is not retried below, but has a token to go on from;
         * one that ended well with the token empty or not is the whole list */
    } while (rc != RC_OK && !l.own && l.token != NULL && l.token[0] != 0 && attempt_again(&a, rc));
    free(l.token);
    return rc;
}
