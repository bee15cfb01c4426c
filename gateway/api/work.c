/* gateway/api/work.c - mikura.internal.v1.Work: what workers ask of the elected scheduler.
 *
 * A hand-out opens its inputs here: manifests are authenticated, body keys unwrapped (never a case
 * key), and the capability names exactly the bodies of this attempt. An input that cannot be opened
 * (deleted, withdrawn, damaged) is set aside with its reason before any worker sees it; storage
 * that does not answer gives the task back without blame. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/crypto/capability.h"
#include "gateway/api/jobs.h"
#include "gateway/api/masks.h"
#include "gateway/api/models.h"
#include "gateway/api/object.h"
#include "gateway/api/series.h"
#include <stdlib.h>

#define WAIT_MS_MAX 30000u
#define EXTENTS_MAX                                                                                \
    8192u /* of one input: 64 GiB in chunks of 8 MiB; keeps a hand-out under 2 MiB */
#define DETAIL_MAX  32768u
#define PULL_ROUNDS 64u /* tasks whose inputs were all set aside, in one pull */

typedef Mikura__Internal__V1__Task Task;
typedef Mikura__Internal__V1__Input Input;
typedef Mikura__Internal__V1__Extent Extent;
typedef Mikura__Internal__V1__BodyKey BodyKey;

/* Places as numbers, as in the TASK rows: 0 = not told. */
static uint32_t place_number(const char *a, const char *b, const char *c)
{
    const char *part[] = {a, b, c};
    uint32_t h = 2166136261u; /* FNV-1a */
    bool any = false;

    for (size_t i = 0; i < ARRAY_N(part); i++) {
        for (const char *p = part[i]; *p != 0; p++, any = true)
            h = (h ^ (uint8_t)*p) * 16777619u;
        h = (h ^ (uint8_t)'/') * 16777619u;
    }
    if (!any) return 0;
    return h == 0 ? 1 : h;
}

/* ---- inputs ---- */
struct handing {
    struct fcall *c;
    struct arena *a;
    const char *zone, *rack, *host; /* where the worker is */
    const struct gw_hand *hand;
    struct gw_job *job;
    Input *inputs[JOBS_TASK_ITEMS_MAX];
    uint32_t inputs_n;
    struct id128 bodies[JOBS_TASK_ITEMS_MAX * RECORD_BODIES_MAX];
    uint32_t bodies_n;
    /* inputs that cannot be opened */
    struct sched_item_outcome aside[JOBS_TASK_ITEMS_MAX];
    struct slice aside_rows[JOBS_TASK_ITEMS_MAX];
    uint32_t aside_n;
    /* neighbours are of one case */
    struct slice col_name, case_id;
    struct gw_case *cs;
};

static ProtobufCBinaryData bytes_of(struct arena *a, const void *p, size_t n)
{
    ProtobufCBinaryData b = {n, arena_copy(a, p, n)};

    return b;
}

static enum rc result_row(struct arena *a, Mikura__V1__ItemResult *m, struct slice *ret,
                          struct err *reterr)
{
    struct record_result rec = {.attempt = m->attempt,
                                .label = gw_text(m->label),
                                .reason = gw_text(m->set_aside_reason),
                                .device = gw_text(m->device),
                                .worker = gw_text(m->worker)};
    uint8_t *packed;

    rec.detail.n = mikura__v1__item_result__get_packed_size(m);
    if (rec.detail.n > DETAIL_MAX)
        return err_set(reterr, RC_INVAL, "an item's result has %zu bytes; at most %u", rec.detail.n,
                       DETAIL_MAX);
    packed = arena_alloc(a, rec.detail.n);
    if (packed == NULL) return err_set(reterr, RC_NOMEM, "a result");
    (void)mikura__v1__item_result__pack(m, packed);
    rec.detail.p = packed;
    return GW_ENCODE(a, result, &rec, ret, reterr);
}

static enum rc set_aside(struct handing *h, uint32_t item, const char *reason, struct err *reterr)
{
    struct arena *a = h->a;
    Mikura__V1__ItemResult m = MIKURA__V1__ITEM_RESULT__INIT;

    m.set_aside_reason = arena_str(a, "not readable: %s", reason);
    m.attempt = h->hand->attempt;
    if (m.set_aside_reason == NULL) return err_set(reterr, RC_NOMEM, "a result");
    h->aside[h->aside_n] = (struct sched_item_outcome){item, SCHED_ITEM_UNFIT};
    return result_row(a, &m, &h->aside_rows[h->aside_n++], reterr);
}

static enum rc open_case(struct handing *h, const struct record_item *it, struct err *reterr)
{
    struct arena *a = h->a;
    char *collection = gw_dup(a, it->collection), *case_id = gw_dup(a, it->case_id);
    enum rc rc;

    if (h->cs != NULL && h->col_name.n == it->collection.n && h->case_id.n == it->case_id.n &&
        memcmp(h->col_name.p, it->collection.p, it->collection.n) == 0 &&
        memcmp(h->case_id.p, it->case_id.p, it->case_id.n) == 0) {
        return RC_OK;
    }
    if (h->cs != NULL) gw_case_wipe(h->cs);
    h->cs = arena_alloc(a, sizeof *h->cs);
    if (collection == NULL || case_id == NULL || h->cs == NULL)
        return err_set(reterr, RC_NOMEM, "a case");
    rc = gw_item_case(h->c->service, it, a, GW_CALL_MS, h->cs, reterr);
    if (rc != RC_OK) {
        h->cs = NULL;
        return rc;
    }
    h->col_name = gw_text(collection);
    h->case_id = gw_text(case_id);
    return RC_OK;
}

struct inline_take {
    struct arena *a;
    ProtobufCBinaryData *out;
};
static enum rc take_inline(void *arg, const struct object_piece *piece)
{
    struct inline_take *t = arg;

    *t->out = bytes_of(t->a, piece->p, piece->n);
    piece->owner_free(piece->owner);
    return t->out->data == NULL ? RC_NOMEM : RC_OK;
}

/* One per chunk: each lies in a group of its own. */
static enum rc input_extents(struct handing *h, const struct gw_object *o, Input *in,
                             struct err *reterr)
{
    struct gw *gw = h->c->service;
    struct arena *a = h->a;
    uint64_t at = 0;
    size_t max = 0;

    while (at < o->manifest.size_bytes) {
        char *address[ROUTE_REPLICAS_MAX];
        const struct record_body *body;
        struct route_at where;
        struct record_place pl;
        Extent *e;
        enum rc rc = record_manifest_find(&o->manifest, at, &pl);

        if (rc != RC_OK) return err_set(reterr, RC_CORRUPT, "its manifest has a gap");
        if (in->n_extents == EXTENTS_MAX)
            return err_set(reterr, RC_INVAL, "it has more than %u chunks", EXTENTS_MAX);
        if (in->n_extents == max) {
            Extent **more;

            max = max == 0 ? 16 : max * 2;
            more = arena_alloc(a, max * sizeof *more);
            if (more == NULL) return err_set(reterr, RC_NOMEM, "extents");
            if (in->n_extents > 0) memcpy(more, in->extents, in->n_extents * sizeof(Extent *));
            in->extents = more;
        }
        body = &o->manifest.bodies[pl.body_idx];
        e = arena_alloc(a, sizeof *e);
        where.pool = body->pool;
        rc = anchor_chunk_hash(&body->id, pl.chunk_index, &where.hash);
        if (e == NULL || rc != RC_OK) return err_set(reterr, RC_NOMEM, "extents");
        mikura__internal__v1__extent__init(e);
        e->object_offset = at;
        e->length = MIN(pl.run_bytes, o->manifest.size_bytes - at);
        e->body = bytes_of(a, body->id.b, 16);
        e->chunk_index = pl.chunk_index;
        e->offset_in_chunk = pl.offset_in_chunk;
        e->pool = body->pool;
        e->placement_hash = where.hash;
        e->n_replicas = route_replicas(gw->route, where, h->zone, h->rack, h->host, a, address);
        e->replicas = arena_copy(a, address, e->n_replicas * sizeof *address);
        if (e->body.data == NULL || e->replicas == NULL)
            return err_set(reterr, RC_NOMEM, "extents");
        in->extents[in->n_extents++] = e;
        at += e->length;
    }
    return RC_OK;
}

static enum rc input_keys(struct handing *h, const struct gw_object *o, Input *in,
                          struct err *reterr)
{
    struct arena *a = h->a;

    in->keys = arena_alloc(a, o->manifest.bodies_n * sizeof *in->keys);
    if (in->keys == NULL) return err_set(reterr, RC_NOMEM, "body keys");
    for (uint32_t i = 0; i < o->manifest.bodies_n; i++) {
        const struct record_body *body = &o->manifest.bodies[i];
        BodyKey *k = arena_alloc(a, sizeof *k);
        struct key *plain = arena_alloc(a, sizeof *plain); /* wiped in handing_end */
        enum rc rc;

        if (k == NULL || plain == NULL) return err_set(reterr, RC_NOMEM, "body keys");
        rc = gw_body_unwrap(h->cs, body, plain, reterr);
        if (rc != RC_OK) return rc;
        mikura__internal__v1__body_key__init(k);
        k->key = (ProtobufCBinaryData){KEY_BYTES, plain->b};
        k->body = bytes_of(a, body->id.b, 16);
        in->keys[in->n_keys++] = k;
        if (k->body.data == NULL) return err_set(reterr, RC_NOMEM, "body keys");
        h->bodies[h->bodies_n++] = body->id;
    }
    return RC_OK;
}

static enum rc open_input(struct handing *h, uint32_t item, const struct record_item *it,
                          struct err *reterr)
{
    struct gw *gw = h->c->service;
    struct arena *a = h->a;
    Mikura__V1__ObjectRef *ref = arena_alloc(a, sizeof *ref);
    Input *in = arena_alloc(a, sizeof *in);
    char *path = gw_dup(a, it->path);
    struct gw_object *o;
    enum rc rc = open_case(h, it, reterr);

    if (rc != RC_OK) return rc;
    if (ref == NULL || in == NULL || path == NULL) return err_set(reterr, RC_NOMEM, "an input");
    mikura__internal__v1__input__init(in);
    mikura__v1__object_ref__init(ref);
    ref->collection = gw_dup(a, it->collection);
    ref->case_id = gw_dup(a, it->case_id);
    ref->path = path;
    ref->version = it->version;
    in->item = item;
    in->object = ref;
    in->size_bytes = it->size_bytes;
    in->series = path[0] == 0;
    in->media_type = gw_dup(a, it->media_type);
    if (ref->collection == NULL || ref->case_id == NULL || in->media_type == NULL)
        return err_set(reterr, RC_NOMEM, "an input");
    if (in->series) { /* the worker asks for its objects (Slices) */
        h->inputs[h->inputs_n++] = in;
        return RC_OK;
    }
    rc = gw_object_find(gw, h->cs, path, it->version, a, GW_CALL_MS, &o, reterr);
    if (rc != RC_OK) return rc;
    in->size_bytes = o->manifest.size_bytes;
    in->media_type = gw_dup(a, o->index.media_type);
    if (in->media_type == NULL) return err_set(reterr, RC_NOMEM, "an input");
    h->inputs[h->inputs_n++] = in; /* from here on its keys are wiped with the others */
    if (o->manifest.sealed_inline.n > 0) {
        struct inline_take t = {a, &in->inline_plain};

        rc = gw_object_bytes(gw, h->cs, o, 0, o->manifest.size_bytes, GW_CALL_MS, take_inline, &t,
                             reterr);
    } else {
        rc = input_extents(h, o, in, reterr);
        if (rc == RC_OK) rc = input_keys(h, o, in, reterr);
    }
    return rc;
}

/* The input's own fault, for ever; all else may pass. */
static bool is_final(enum rc rc)
{
    return rc == RC_NOTFOUND || rc == RC_PRECOND || rc == RC_CORRUPT || rc == RC_INVAL;
}

static enum rc open_inputs(struct handing *h, struct err *reterr)
{
    struct gw *gw = h->c->service;
    struct arena *a = h->a;
    const struct record_task *t = h->hand->record;
    struct slice *k = arena_alloc(a, t->items_n * sizeof *k);
    uint32_t *items = arena_alloc(a, t->items_n * sizeof *items), n = 0;
    Mikura__Internal__V1__GetResponse *got;
    enum rc rc;

    if (k == NULL || items == NULL) return err_set(reterr, RC_NOMEM, "a task");
    for (uint32_t i = 0; i < t->items_n && n < JOBS_TASK_ITEMS_MAX; i++) {
        uint8_t key[RECORD_KEY_BYTES_MAX];
        size_t len;

        if (t->items[i].out == 0) continue;
        len = record_key_number(&h->job->anchor, RECORD_ITEM, t->items[i].item, key);
        k[n] = (struct slice){arena_copy(a, key, len), len};
        if (k[n].p == NULL) return err_set(reterr, RC_NOMEM, "a task");
        items[n++] = t->items[i].item;
    }
    rc = route_get(gw->route, h->job->at, k, n, GW_CALL_MS, a, &got, reterr);
    for (uint32_t i = 0; i < n && rc == RC_OK; i++) {
        uint32_t inputs_n = h->inputs_n, bodies_n = h->bodies_n;
        struct record_item it;

        rc = got->items[i]->version == 0
                 ? err_set(reterr, RC_CORRUPT, "its ITEM row is missing")
                 : record_item_decode(gw_bytes(got->items[i]->value), &it, reterr);
        if (rc == RC_OK) rc = open_input(h, items[i], &it, reterr);
        if (rc == RC_OK || !is_final(rc)) continue;
        for (uint32_t b = inputs_n; b < h->inputs_n; b++) { /* what was opened of it */
            for (size_t y = 0; y < h->inputs[b]->n_keys; y++)
                key_wipe((struct key *)(void *)h->inputs[b]->keys[y]->key.data);
        }
        h->inputs_n = inputs_n;
        h->bodies_n = bodies_n;
        rc = set_aside(h, items[i], reterr->msg, reterr);
    }
    return rc;
}

static void handing_end(struct handing *h)
{
    for (uint32_t i = 0; i < h->inputs_n; i++) {
        for (size_t y = 0; y < h->inputs[i]->n_keys; y++)
            key_wipe((struct key *)(void *)h->inputs[i]->keys[y]->key.data);
    }
    if (h->cs != NULL) gw_case_wipe(h->cs);
    h->cs = NULL;
}

static enum rc sign_capability(struct handing *h, struct buf *out, struct err *reterr)
{
    struct gw *gw = h->c->service;
    struct capability cap = {.cluster = gw->cluster_id,
                             .job = h->hand->job,
                             .task = h->hand->task,
                             .attempt = h->hand->attempt,
                             .key_epoch = 0, /* withdrawals will raise it */
                             .worker_uri = gw_text(fcall_peer(h->c)->uri)};
    enum rc rc;

    if (gw->signer == NULL)
        return err_set(reterr, RC_UNAVAIL, "the signing key is not read yet; retry");
    cap.expires_unix_ms = clock_wall_ms() + h->hand->lease_ms + JOBS_CAPABILITY_MARGIN_MS;
    cap.bodies_n = capability_sort_bodies(h->bodies, h->bodies_n);
    cap.bodies = h->bodies[0].b;
    rc = capability_encode(&cap, gw->signer, out);
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "a capability: %s", rc_text(rc));
}

static enum rc hand_out(struct handing *h, struct err *reterr)
{
    struct arena *a = h->a;
    const struct record_job *rec = &h->job->rec;
    Mikura__Internal__V1__PullResponse answer = MIKURA__INTERNAL__V1__PULL_RESPONSE__INIT;
    Task *t = arena_alloc(a, sizeof *t);
    struct buf cap;
    enum rc rc;

    if (t == NULL) return err_set(reterr, RC_NOMEM, "a task");
    mikura__internal__v1__task__init(t);
    t->job = bytes_of(a, h->hand->job.b, 16);
    t->task = h->hand->task;
    t->attempt = h->hand->attempt;
    t->lease_ms = h->hand->lease_ms;
    t->kind = gw_dup(a, rec->kind);
    t->model_sha256 = bytes_of(a, rec->model_sha256, 32);
    t->device = (Mikura__V1__Device)rec->device;
    t->inputs = h->inputs;
    t->n_inputs = h->inputs_n;
    t->parameters = arena_alloc(a, rec->params_n * sizeof *t->parameters);
    if (t->job.data == NULL || t->kind == NULL || t->model_sha256.data == NULL ||
        t->parameters == NULL) {
        return err_set(reterr, RC_NOMEM, "a task");
    }
    for (uint32_t i = 0; i < rec->params_n; i++) {
        Mikura__Internal__V1__Task__ParametersEntry *p = arena_alloc(a, sizeof *p);

        if (p == NULL) return err_set(reterr, RC_NOMEM, "a task");
        mikura__internal__v1__task__parameters_entry__init(p);
        p->key = gw_dup(a, rec->params[i].name);
        p->value = gw_dup(a, rec->params[i].value);
        if (p->key == NULL || p->value == NULL) return err_set(reterr, RC_NOMEM, "a task");
        t->parameters[t->n_parameters++] = p;
    }
    buf_init(&cap, CAPABILITY_BYTES_MAX);
    rc = sign_capability(h, &cap, reterr);
    if (rc == RC_OK) {
        t->capability = (ProtobufCBinaryData){cap.n, cap.p};
        answer.task = t;
        rc = fcall_send(h->c, &answer.base);
    }
    buf_deinit(&cap);
    return rc;
}

/* One task opened and answered. *ret_answered false: all its inputs were set aside. */
static enum rc give(struct fcall *c, const Mikura__Internal__V1__PullRequest *pull,
                    const struct gw_hand *hand, bool *ret_answered, struct err *reterr)
{
    struct gw *gw = c->service;
    struct handing *h = arena_alloc(&c->arena, sizeof *h);
    struct err ignored = {0};
    enum rc rc;

    *ret_answered = false;
    if (h == NULL) return err_set(reterr, RC_NOMEM, "a task");
    h->c = c;
    h->a = &c->arena;
    h->zone = pull->zone;
    h->rack = pull->rack;
    h->host = pull->host;
    h->hand = hand;
    h->job = arena_alloc(&c->arena, sizeof *h->job);
    rc = h->job == NULL ? err_set(reterr, RC_NOMEM, "a task")
                        : gw_job_read(gw, &hand->job, &c->arena, GW_CALL_MS, h->job, reterr);
    if (rc == RC_OK) rc = open_inputs(h, reterr);
    if (rc == RC_OK && h->aside_n > 0) {
        /* the attempt ends here: what could be opened goes out again at once, with a new fence */
        log_info("inputs_set_aside", "task=%llu n=%u", (unsigned long long)hand->task, h->aside_n);
        rc = gw_sched_finish(gw, &hand->job, hand->task, hand->attempt, h->aside, h->aside_rows,
                             h->aside_n, &c->arena, reterr);
        handing_end(h);
        return rc;
    }
    if (rc == RC_OK) rc = hand_out(h, reterr);
    if (rc == RC_OK) {
        *ret_answered = true;
    } else if (gw_sched_finish(gw, &hand->job, hand->task, hand->attempt, NULL, NULL, 0, &c->arena,
                               &ignored) != RC_OK) {
        log_info("task_not_given_back", "why=%s: its lease ends it", ignored.msg);
    }
    handing_end(h);
    return rc;
}

static enum rc pull(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__Internal__V1__PullRequest *req;
    Mikura__Internal__V1__PullResponse none = MIKURA__INTERNAL__V1__PULL_RESPONSE__INIT;
    struct sched_worker_in w = {.name = gw_text(fcall_peer(c)->uri)};
    uint64_t until_ms;
    enum rc rc = fcall_request(c, &mikura__internal__v1__pull_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    w.zone = place_number(req->zone, "", "");
    w.rack = place_number(req->zone, req->rack, "");
    w.host = place_number(req->zone, req->rack, req->host);
    w.slots = req->slots;
    for (size_t i = 0; i < req->n_devices; i++) {
        if (strncmp(req->devices[i], "cpu", 3) == 0)
            w.cpu = true;
        else
            w.gpu = true;
    }
    until_ms = uv_now(gw->loop) + MIN(req->wait_ms, WAIT_MS_MAX);
    for (uint32_t round = 0;;) {
        bool handed, answered;
        struct gw_hand hand;
        uint64_t now;

        rc = gw_sched_ready(gw, gw_left_ms(c), reterr);
        if (rc == RC_OK) rc = gw_sched_pull(gw, &w, &c->arena, &hand, &handed, reterr);
        if (rc != RC_OK) return rc;
        if (handed) {
            rc = give(c, req, &hand, &answered, reterr);
            if (rc != RC_OK || answered) return rc;
            if (++round < PULL_ROUNDS) continue;
        }
        now = uv_now(gw->loop);
        if (fcall_dead(c)) return RC_CANCELED;
        if (now >= until_ms || gw->closing || round >= PULL_ROUNDS)
            return fcall_send(c, &none.base);
        gw_jobs_wait(gw, until_ms - now);
    }
}

static enum rc job_id(ProtobufCBinaryData b, struct id128 *ret, struct err *reterr)
{
    return id128_from_bytes(b.data, b.len, ret)
               ? RC_OK
               : err_set(reterr, RC_INVAL, "job: expected 16 bytes");
}

static enum rc renew(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__Internal__V1__RenewRequest *req;
    Mikura__Internal__V1__RenewResponse answer = MIKURA__INTERNAL__V1__RENEW_RESPONSE__INIT;
    struct id128 job;
    enum rc rc = fcall_request(c, &mikura__internal__v1__renew_request__descriptor, &req, reterr);

    if (rc == RC_OK) rc = job_id(req->job, &job, reterr);
    if (rc == RC_OK) rc = gw_sched_ready(gw, gw_left_ms(c), reterr);
    if (rc != RC_OK) return rc;
    answer.go_on = gw_sched_renew(gw, &job, req->task, req->attempt);
    return fcall_send(c, &answer.base);
}

enum rc gw_task_held(struct fcall *c, const struct gw_job *job, uint64_t task, uint32_t attempt,
                     uint32_t item, struct arena *a, struct gw_compare *ret_same,
                     struct err *reterr)
{
    struct gw *gw = c->service;
    struct record_task *t = arena_alloc(a, sizeof *t);
    uint8_t *key = arena_raw(a, RECORD_KEY_BYTES_MAX);
    Mikura__Internal__V1__GetResponse *got;
    bool held = false;
    enum rc rc;

    if (t == NULL || key == NULL) return err_set(reterr, RC_NOMEM, "a task");
    *ret_same = (struct gw_compare){MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_VERSION,
                                    {key, record_key_number(&job->anchor, RECORD_TASK, task, key)},
                                    0};
    rc = route_get(gw->route, job->at, &ret_same->key, 1, gw_left_ms(c), a, &got, reterr);
    if (rc != RC_OK) return rc;
    ret_same->number = got->items[0]->version;
    if (ret_same->number == 0) return err_set(reterr, RC_NOTFOUND, "no such task");
    rc = record_task_decode(gw_bytes(got->items[0]->value), t, reterr);
    if (rc != RC_OK) return rc;
    for (uint32_t i = 0; i < t->items_n; i++)
        held = held || (t->items[i].item == item && t->items[i].out != 0);
    if (held && t->state == RECORD_TASK_OUT && t->attempt == attempt &&
        gw_slice_is(t->worker, fcall_peer(c)->uri))
        return RC_OK;
    return err_set(reterr, RC_ABORTED, "another attempt owns the task, or its job has ended");
}

/* ---- Slices ---- */
static enum rc slices_find(struct handing *h, const Mikura__Internal__V1__SlicesRequest *req,
                           struct record_item *ret_item, struct record_series *ret_series,
                           struct err *reterr)
{
    struct gw *gw = h->c->service;
    struct arena *a = h->a;
    uint8_t *key = arena_raw(a, 2 * RECORD_KEY_BYTES_MAX);
    Mikura__Internal__V1__GetResponse *got;
    struct gw_compare same;
    struct slice k[2];
    enum rc rc;

    if (key == NULL) return err_set(reterr, RC_NOMEM, "a series");
    rc = gw_task_held(h->c, h->job, req->task, req->attempt, req->item, a, &same, reterr);
    if (rc != RC_OK) return rc;
    k[0] = (struct slice){key, record_key_number(&h->job->anchor, RECORD_ITEM, req->item, key)};
    key += RECORD_KEY_BYTES_MAX;
    k[1] = (struct slice){key, record_key_number(&h->job->anchor, RECORD_SERIES, req->item, key)};
    rc = route_get(gw->route, h->job->at, k, 2, gw_left_ms(h->c), a, &got, reterr);
    if (rc != RC_OK) return rc;
    if (got->items[0]->version == 0 || got->items[1]->version == 0)
        return err_set(reterr, RC_NOTFOUND, "the item is no series");
    rc = record_item_decode(gw_bytes(got->items[0]->value), ret_item, reterr);
    return rc == RC_OK ? record_series_decode(gw_bytes(got->items[1]->value), ret_series, reterr)
                       : rc;
}

/* Sends what is open, and forgets it: 2,048 slices may have 64 KiB each in their manifests. */
static enum rc slices_send(struct handing *h, struct err *reterr)
{
    Mikura__Internal__V1__SlicesResponse m = MIKURA__INTERNAL__V1__SLICES_RESPONSE__INIT;
    struct buf cap;
    enum rc rc;

    buf_init(&cap, CAPABILITY_BYTES_MAX);
    rc = sign_capability(h, &cap, reterr);
    m.inputs = h->inputs;
    m.n_inputs = h->inputs_n;
    m.capability = (ProtobufCBinaryData){cap.n, cap.p};
    if (rc == RC_OK) rc = fcall_send(h->c, &m.base);
    buf_deinit(&cap);
    handing_end(h);
    h->inputs_n = h->bodies_n = 0;
    arena_deinit(h->a);
    arena_init(h->a);
    return rc;
}

static enum rc slices(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__Internal__V1__SlicesRequest *req;
    struct handing *h = arena_alloc(&c->arena, sizeof *h);
    struct record_series series = {.slices_n = 0};
    struct record_series_slice slice;
    struct gw_hand hand = {.lease_ms = 0};
    struct record_item it;
    struct arena batch;
    enum rc rc = fcall_request(c, &mikura__internal__v1__slices_request__descriptor, &req, reterr);

    if (rc == RC_OK) rc = job_id(req->job, &hand.job, reterr);
    if (rc != RC_OK) return rc;
    if (h == NULL) return err_set(reterr, RC_NOMEM, "a series");
    hand.task = req->task;
    hand.attempt = req->attempt;
    h->c = c;
    h->zone = req->zone;
    h->rack = req->rack;
    h->host = req->host;
    h->hand = &hand;
    h->job = arena_alloc(&c->arena, sizeof *h->job);
    if (h->job == NULL) return err_set(reterr, RC_NOMEM, "a series");
    rc = gw_job_read(gw, &hand.job, &c->arena, gw_left_ms(c), h->job, reterr);
    h->a = &c->arena;
    if (rc == RC_OK) rc = slices_find(h, req, &it, &series, reterr);
    arena_init(&batch);
    h->a = &batch;
    for (uint32_t i = 0; i < series.slices_n && rc == RC_OK; i++) {
        rc = record_series_next(&series.list, &slice);
        if (rc != RC_OK) {
            rc = err_set(reterr, RC_CORRUPT, "a SERIES row");
            break;
        }
        it.path = slice.path;
        it.version = slice.version;
        it.size_bytes = slice.size_bytes;
        rc = open_input(h, i, &it, reterr);
        if (rc != RC_OK)
            (void)err_prefix(reterr, "slice %.*s", (int)MIN(it.path.n, (size_t)96),
                             (const char *)it.path.p);
        if (rc == RC_OK && (h->inputs_n == JOBS_TASK_ITEMS_MAX || i + 1 == series.slices_n))
            rc = slices_send(h, reterr);
    }
    handing_end(h);
    arena_deinit(&batch);
    return rc;
}

static enum rc finish(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__Internal__V1__FinishRequest *req;
    Mikura__Internal__V1__FinishResponse answer = MIKURA__INTERNAL__V1__FINISH_RESPONSE__INIT;
    struct sched_item_outcome *outcomes;
    struct slice *rows;
    struct id128 job;
    enum rc rc = fcall_request(c, &mikura__internal__v1__finish_request__descriptor, &req, reterr);

    if (rc == RC_OK) rc = job_id(req->job, &job, reterr);
    if (rc == RC_OK && req->n_outcomes > RECORD_TASK_ITEMS_MAX)
        rc = err_set(reterr, RC_INVAL, "%zu outcomes; at most %u", req->n_outcomes,
                     RECORD_TASK_ITEMS_MAX);
    if (rc != RC_OK) return rc;
    outcomes = arena_alloc(&c->arena, req->n_outcomes * sizeof *outcomes);
    rows = arena_alloc(&c->arena, req->n_outcomes * sizeof *rows);
    if (outcomes == NULL || rows == NULL) return err_set(reterr, RC_NOMEM, "results");
    for (size_t i = 0; i < req->n_outcomes && rc == RC_OK; i++) {
        Mikura__Internal__V1__ItemOutcome *o = req->outcomes[i];
        Mikura__V1__ItemResult plain = MIKURA__V1__ITEM_RESULT__INIT;
        Mikura__V1__ItemResult *m = o->result != NULL ? o->result : &plain;

        if (o->result == NULL && !o->retry) {
            rc = err_set(reterr, RC_INVAL, "item %u: no result", o->item);
            break;
        }
        m->object = NULL; /* the ITEM row says which */
        m->worker = (char *)(uintptr_t)fcall_peer(c)->uri;
        m->attempt = req->attempt;
        if (o->retry && m->set_aside_reason[0] == 0)
            m->set_aside_reason = arena_str(&c->arena, "set aside: it failed three times");
        if (m->set_aside_reason == NULL) return err_set(reterr, RC_NOMEM, "results");
        outcomes[i].item = o->item;
        outcomes[i].outcome = o->retry                      ? SCHED_ITEM_RETRY
                              : m->set_aside_reason[0] != 0 ? SCHED_ITEM_UNFIT
                                                            : SCHED_ITEM_OK;
        rc = result_row(&c->arena, m, &rows[i], reterr);
    }
    if (rc == RC_OK) rc = gw_sched_ready(gw, gw_left_ms(c), reterr);
    if (rc == RC_OK)
        rc = gw_sched_finish(gw, &job, req->task, req->attempt, outcomes, rows,
                             (uint32_t)req->n_outcomes, &c->arena, reterr);
    return rc != RC_OK ? rc : fcall_send(c, &answer.base);
}

const struct fcall_method gw_work_methods[] = {
    {"/mikura.internal.v1.Work/Pull", false, 0, pull},
    {"/mikura.internal.v1.Work/Renew", false, 0, renew},
    {"/mikura.internal.v1.Work/Finish", false, 0, finish},
    {"/mikura.internal.v1.Work/Slices", false, 0, slices},
    {"/mikura.internal.v1.Work/PutMask", true, 0, gw_mask_put},
    {"/mikura.internal.v1.Work/FetchModel", false, 0, gw_model_fetch},
    {NULL, false, 0, NULL},
};
