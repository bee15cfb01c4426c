/* gateway/api/jobs.c - mikura.v1.Jobs: submit, watch, list, get, cancel, results.
 *
 * A submission first writes the JOB row in state UNSPECIFIED: that claims the request id and its
 * version fences every row written after it. Begun again (a retry, elsewhere too), the claim is
 * written anew and whoever still writes under the old one fails. The last transaction makes the job
 * QUEUED and lists it; rows of an attempt that never got there are not seen, since tasks and items
 * count from the JOB row.
 *
 * Results stay rows of the job's group, in the order of the cohort. `stored_at` names them:
 * collection "", case "job/<id>", path "results"; `mikura job results ID` reads them. */
#include "gateway/api/jobs.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/model/job_params.h"
#include "gateway/api/cohort.h"
#include "gateway/api/listing.h"
#include "gateway/api/masks.h"
#include "gateway/api/models.h"
#include "gateway/api/series.h"
#include <stdio.h>
#include <stdlib.h>

#define PUT_ROWS    256u
#define PUT_BYTES   (1u << 20)
#define WATCH_MS    500u
#define BATCH_ITEMS 256u
#define DELETE_ROWS 64u /* numbers at a time */

typedef Mikura__V1__Job Job;

/* ---- rows ---- */
enum rc gw_job_read(struct gw *gw, const struct id128 *id, struct arena *a, uint64_t left_ms,
                    struct gw_job *ret, struct err *reterr)
{
    uint8_t *key = arena_raw(a, RECORD_KEY_BYTES_MAX);
    Mikura__Internal__V1__GetResponse *got;
    char text[ID128_TEXT_BYTES];
    struct slice k;
    enum rc rc = anchor_job(id, &ret->anchor);

    if (rc != RC_OK || key == NULL) return err_set(reterr, RC_NOMEM, "a job");
    ret->at = gw_at(gw, 0, &ret->anchor);
    k = (struct slice){key, record_key(&ret->anchor, RECORD_JOB, key)};
    rc = route_get(gw->route, ret->at, &k, 1, left_ms, a, &got, reterr);
    if (rc != RC_OK) return rc;
    ret->version = got->items[0]->version;
    if (ret->version == 0)
        return err_set(reterr, RC_NOTFOUND, "no job %s; `mikura job ls` lists them",
                       id128_text(id, text));
    return record_job_decode(gw_bytes(got->items[0]->value), &ret->rec, reterr);
}

enum rc gw_job_write(struct gw *gw, const struct gw_job *job, struct arena *a, uint64_t left_ms,
                     bool *ret_done, uint64_t *ret_version, struct err *reterr)
{
    uint8_t *key = arena_raw(a, RECORD_KEY_BYTES_MAX);
    struct gw_compare same = {.kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_VERSION,
                              .number = job->version};
    struct gw_put put;
    enum rc rc;

    if (key == NULL) return err_set(reterr, RC_NOMEM, "a job");
    if (job->version == 0) same.kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_ABSENT;
    put.key = same.key = (struct slice){key, record_key(&job->anchor, RECORD_JOB, key)};
    rc = GW_ENCODE(a, job, &job->rec, &put.value, reterr);
    if (rc != RC_OK) return rc;
    return gw_txn(gw, job->at, &same, 1, &put, 1, NULL, 0, a, left_ms, ret_done, ret_version, NULL,
                  reterr);
}

struct job_names {
    enum rc (*each)(void *arg, struct slice name, const struct id128 *id);
    void *arg;
};
static enum rc job_name(void *arg, struct slice name, const struct record_list *row)
{
    struct job_names *n = arg;
    char text[ID128_TEXT_BYTES] = {0};
    struct id128 id;

    (void)row;
    if (name.n != 48) return RC_CORRUPT;
    memcpy(text, name.p + 16, 32);
    if (!id128_parse(text, &id)) return RC_CORRUPT;
    return n->each(n->arg, name, &id);
}

enum rc gw_job_each(struct gw *gw, const char *after, struct arena *a, uint64_t left_ms,
                    enum rc (*each)(void *arg, struct slice name, const struct id128 *id),
                    void *arg, struct err *reterr)
{
    struct job_names n = {each, arg};

    return gw_list_names(gw, gw->meta_pool, &record_scope_jobs, "", after, a, left_ms, job_name, &n,
                         reterr);
}

struct open_count {
    struct gw *gw;
    uint64_t left_ms;
    uint32_t n;
    struct err *err;
};
static enum rc count_open(void *arg, struct slice name, const struct id128 *id)
{
    struct open_count *o = arg;
    struct gw_job job;
    struct arena a;
    enum rc rc;

    (void)name;
    arena_init(&a);
    rc = gw_job_read(o->gw, id, &a, o->left_ms, &job, o->err);
    if (rc == RC_OK && (job.rec.state == MIKURA__V1__JOB_STATE__JOB_QUEUED ||
                        job.rec.state == MIKURA__V1__JOB_STATE__JOB_RUNNING))
        o->n++;
    arena_deinit(&a);
    return rc == RC_NOTFOUND ? RC_OK : rc;
}

enum rc gw_jobs_open_n(struct gw *gw, uint64_t left_ms, uint32_t *ret_n, struct err *reterr)
{
    struct open_count o = {gw, left_ms, 0, reterr};
    struct arena a;
    enum rc rc;

    arena_init(&a);
    rc = gw_job_each(gw, "", &a, left_ms, count_open, &o, reterr);
    arena_deinit(&a);
    if (rc == RC_OK) *ret_n = o.n;
    return rc;
}

/* ---- messages ---- */
static Job *job_message(struct arena *a, const struct record_job *rec)
{
    Job *m = arena_alloc(a, sizeof *m);

    if (m == NULL) return NULL;
    mikura__v1__job__init(m);
    m->id.data = arena_copy(a, rec->id.b, 16);
    m->id.len = 16;
    m->owner = gw_dup(a, rec->owner);
    m->state = (Mikura__V1__JobState)rec->state;
    m->message = gw_dup(a, rec->message);
    m->kind = gw_dup(a, rec->kind);
    m->model = gw_dup(a, rec->model);
    m->model_sha256.data = arena_copy(a, rec->model_sha256, 32);
    m->model_sha256.len = 32;
    m->device = (Mikura__V1__Device)rec->device;
    m->cohort_expression = gw_dup(a, rec->cohort);
    m->items = rec->items;
    m->items_done = rec->items_done;
    m->items_set_aside = rec->items_set_aside;
    m->bytes_read = rec->bytes_read;
    m->submitted_unix_ms = rec->submitted_unix_ms;
    m->ended_unix_ms = rec->ended_unix_ms;
    m->software = gw_dup(a, rec->software);
    m->parameters = arena_alloc(a, rec->params_n * sizeof *m->parameters);
    if (m->id.data == NULL || m->owner == NULL || m->message == NULL || m->kind == NULL ||
        m->model == NULL || m->model_sha256.data == NULL || m->cohort_expression == NULL ||
        m->software == NULL || m->parameters == NULL) {
        return NULL;
    }
    for (uint32_t i = 0; i < rec->params_n; i++) {
        Mikura__V1__Job__ParametersEntry *p = arena_alloc(a, sizeof *p);

        if (p == NULL) return NULL;
        mikura__v1__job__parameters_entry__init(p);
        p->key = gw_dup(a, rec->params[i].name);
        p->value = gw_dup(a, rec->params[i].value);
        if (p->key == NULL || p->value == NULL) return NULL;
        m->parameters[m->n_parameters++] = p;
    }
    return m;
}

static enum rc reply_job(struct fcall *c, const struct record_job *rec, struct err *reterr)
{
    Job *m = job_message(&c->arena, rec);

    return m == NULL ? err_set(reterr, RC_NOMEM, "a job") : fcall_send(c, &m->base);
}

static bool job_ended(const struct record_job *rec)
{
    return rec->state == MIKURA__V1__JOB_STATE__JOB_DONE ||
           rec->state == MIKURA__V1__JOB_STATE__JOB_CANCELLED ||
           rec->state == MIKURA__V1__JOB_STATE__JOB_FAILED;
}

enum rc gw_job_own(struct fcall *c, ProtobufCBinaryData id, struct arena *a, struct gw_job *ret,
                   struct err *reterr)
{
    struct gw *gw = c->service;
    char text[ID128_TEXT_BYTES];
    struct id128 job;
    enum rc rc;

    if (!id128_from_bytes(id.data, id.len, &job))
        return err_set(reterr, RC_INVAL, "id: expected 16 bytes");
    rc = gw_job_read(gw, &job, a, gw_left_ms(c), ret, reterr);
    if (rc != RC_OK) return rc;
    if (ret->rec.state != MIKURA__V1__JOB_STATE__JOB_STATE_UNSPECIFIED &&
        (fcall_peer(c)->role == TLS_OPERATOR || gw_slice_is(ret->rec.owner, fcall_peer(c)->uri)))
        return RC_OK;
    return err_set(reterr, RC_NOTFOUND, "no job %s; `mikura job ls` lists them",
                   id128_text(&job, text));
}

/* ---- Submit ---- */
struct cohort {
    struct fcall *c;
    struct record_item *objects; /* malloc; slices in the arena */
    uint32_t n, max, limit;      /* n: objects; limit: of items */
    bool volumes;                /* the model takes volumes: objects are grouped into series */
    uint32_t cases_n;            /* counted for volumes */
    struct series_items series;
};

static uint32_t cohort_items_n(const struct cohort *co)
{
    return co->volumes ? co->series.items_n : co->n;
}

/* Item i; *ret_series NULL: it is one object. */
static struct record_item cohort_item(const struct cohort *co, uint32_t i,
                                      const struct series_item **ret_series)
{
    const struct series_item *s = co->volumes ? &co->series.items[i] : NULL;
    struct record_item it = co->objects[s == NULL ? i : co->series.order[s->first]];

    *ret_series = NULL;
    if (s == NULL || s->uid.n == 0) return it;
    *ret_series = s;
    it.path = (struct slice){NULL, 0};
    it.version = it.size_bytes = 0;
    for (uint32_t k = 0; k < s->n; k++)
        it.size_bytes += co->objects[co->series.order[s->first + k]].size_bytes;
    return it;
}

/* Objects come case by case. */
static bool cohort_full(struct cohort *co, const struct cohort_match *m)
{
    const struct record_item *last = co->n == 0 ? NULL : &co->objects[co->n - 1];

    if (co->limit == 0) return false;
    if (!co->volumes) return co->n == co->limit;
    if (last != NULL && id128_eq(&last->collection_id, &m->col->rec.id) &&
        last->case_id.n == m->case_id.n && memcmp(last->case_id.p, m->case_id.p, m->case_id.n) == 0)
        return false;
    return co->cases_n++ == co->limit; /* each case has at least one item */
}

static enum rc cohort_keep(void *arg, const struct cohort_match *m)
{
    struct cohort *co = arg;
    struct arena *a = &co->c->arena;
    struct record_item *it;

    if (cohort_full(co, m)) return RC_RANGE;
    if (co->n == JOBS_ITEMS_MAX) return RC_BUSY;
    if (co->n == co->max) {
        uint32_t max = co->max == 0 ? 1024 : co->max * 2;

        it = realloc(co->objects, max * sizeof *it);
        if (it == NULL) return RC_NOMEM;
        co->objects = it;
        co->max = max;
    }
    it = &co->objects[co->n];
    *it = (struct record_item){.collection_id = m->col->rec.id,
                               .collection = m->col->rec.name, /* lives as long as the call */
                               .version = m->line->version,
                               .size_bytes = m->line->index.size_bytes};
    it->case_id = (struct slice){arena_copy(a, m->case_id.p, m->case_id.n), m->case_id.n};
    it->path = (struct slice){arena_copy(a, m->line->path.p, m->line->path.n), m->line->path.n};
    it->media_type.n = m->line->index.media_type.n;
    it->media_type.p = arena_copy(a, m->line->index.media_type.p, it->media_type.n);
    if (it->case_id.p == NULL || it->path.p == NULL || it->media_type.p == NULL) return RC_NOMEM;
    co->n++;
    return RC_OK;
}

/* Rows under the claim: each transaction compares the JOB row's version. */
struct rows {
    struct fcall *c;
    const struct gw_job *job;
    struct arena a; /* of the batch */
    struct gw_put puts[PUT_ROWS];
    uint32_t n;
    size_t bytes;
};

static enum rc rows_flush(struct rows *r, struct err *reterr)
{
    uint8_t key[RECORD_KEY_BYTES_MAX];
    struct gw_compare claim = {.kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_VERSION,
                               .number = r->job->version};
    bool done;
    enum rc rc;

    if (r->n == 0) return RC_OK;
    claim.key = (struct slice){key, record_key(&r->job->anchor, RECORD_JOB, key)};
    rc = gw_txn(r->c->service, r->job->at, &claim, 1, r->puts, r->n, NULL, 0, &r->a,
                gw_left_ms(r->c), &done, NULL, NULL, reterr);
    if (rc == RC_OK && !done)
        rc = err_set(reterr, RC_ABORTED, "the same request was begun again elsewhere");
    arena_deinit(&r->a);
    arena_init(&r->a);
    r->n = 0;
    r->bytes = 0;
    return rc;
}

static enum rc rows_add(struct rows *r, enum record_kind kind, uint64_t number, enum rc encoded,
                        struct err *reterr)
{
    struct gw_put *p = &r->puts[r->n];
    uint8_t *key = arena_alloc(&r->a, 64);
    uint8_t long_key[RECORD_KEY_BYTES_MAX];
    enum rc rc = gw_keep(&r->a, encoded, &p->value);

    if (rc != RC_OK) return rc;
    p->key.n = record_key_number(&r->job->anchor, kind, number, long_key);
    if (key == NULL || p->key.n > 64) return err_set(reterr, RC_NOMEM, "a job's rows");
    memcpy(key, long_key, p->key.n);
    p->key.p = key;
    r->bytes += p->key.n + p->value.n;
    r->n++;
    return r->n == PUT_ROWS || r->bytes >= PUT_BYTES ? rows_flush(r, reterr) : RC_OK;
}

static enum rc write_tasks(struct rows *r, const struct cohort *co, uint32_t *ret_tasks,
                           struct err *reterr)
{
    uint32_t items_n = cohort_items_n(co), from = 0, tasks = 0;
    struct sched_cut_item *cut = calloc(items_n, sizeof *cut);
    uint32_t *ends = calloc(items_n, sizeof *ends);
    struct record_task *t = calloc(1, sizeof *t);
    enum rc rc = RC_OK;

    if (cut == NULL || ends == NULL || t == NULL) {
        rc = err_set(reterr, RC_NOMEM, "a job's tasks");
        goto out;
    }
    for (uint32_t i = 0; i < items_n; i++) {
        const struct series_item *s;

        cut[i] = (struct sched_cut_item){.item = i, .bytes = cohort_item(co, i, &s).size_bytes};
    }
    tasks = sched_cut(cut, items_n, JOBS_TASK_ITEMS_MAX, JOBS_TASK_BYTES_MAX, ends);
    if (tasks > JOBS_TASKS_MAX) {
        rc = err_set(reterr, RC_BUSY,
                     "the cohort makes %u tasks of up to %u MiB; a job has at most %u: narrow the "
                     "query or submit it in parts",
                     tasks, JOBS_TASK_BYTES_MAX >> 20, JOBS_TASKS_MAX);
        goto out;
    }
    for (uint32_t n = 0; n < tasks && rc == RC_OK; n++) {
        memset(t, 0, sizeof *t);
        t->state = RECORD_TASK_OPEN;
        for (; from < ends[n]; from++) {
            t->items[t->items_n++].item = cut[from].item;
            t->bytes += cut[from].bytes;
        }
        rc = rows_add(r, RECORD_TASK, n, record_task_encode(t, gw_scratch(), reterr), reterr);
    }
    if (rc == RC_OK) rc = rows_flush(r, reterr);
    *ret_tasks = tasks;
out:
    free(cut);
    free(ends);
    free(t);
    return rc;
}

static enum rc write_series(struct rows *r, const struct cohort *co, uint32_t item,
                            const struct series_item *s, struct err *reterr)
{
    struct record_out list = {.p = malloc(RECORD_VALUE_MAX), .cap = RECORD_VALUE_MAX};
    struct record_series rec = {.uid = s->uid, .slices_n = s->n};
    enum rc rc = list.p == NULL ? RC_NOMEM : RC_OK;

    for (uint32_t k = 0; k < s->n && rc == RC_OK; k++) {
        const struct record_item *o = &co->objects[co->series.order[s->first + k]];
        struct record_series_slice slice = {o->path, o->version, o->size_bytes};

        rc = record_series_put(&list, &slice);
    }
    rec.list = record_out_slice(&list);
    if (rc != RC_OK)
        (void)err_set(reterr, rc, "the names of a series' slices");
    else
        rc = rows_add(r, RECORD_SERIES, item, record_series_encode(&rec, gw_scratch(), reterr),
                      reterr);
    free(list.p);
    return rc;
}

static enum rc write_item(struct rows *r, const struct cohort *co, uint32_t i, struct err *reterr)
{
    const struct series_item *s;
    struct record_item it = cohort_item(co, i, &s);
    enum rc rc = rows_add(r, RECORD_ITEM, i, record_item_encode(&it, gw_scratch(), reterr), reterr);

    return rc == RC_OK && s != NULL ? write_series(r, co, i, s, reterr) : rc;
}

static enum rc write_rows(struct fcall *c, const struct gw_job *job, const struct cohort *co,
                          uint32_t *ret_tasks, struct err *reterr)
{
    struct rows *r = arena_alloc(&c->arena, sizeof *r);
    enum rc rc = RC_OK;

    if (r == NULL) return err_set(reterr, RC_NOMEM, "a job's rows");
    r->c = c;
    r->job = job;
    arena_init(&r->a);
    for (uint32_t i = 0; i < cohort_items_n(co) && rc == RC_OK; i++)
        rc = write_item(r, co, i, reterr);
    if (rc == RC_OK) rc = rows_flush(r, reterr);
    if (rc == RC_OK) rc = write_tasks(r, co, ret_tasks, reterr);
    arena_deinit(&r->a);
    return rc;
}

static enum rc job_list_name(struct arena *a, const struct record_job *rec, struct slice *ret)
{
    char id[ID128_TEXT_BYTES];
    char *t = arena_str(a, "%016llx%s", (unsigned long long)~(uint64_t)rec->submitted_unix_ms,
                        id128_text(&rec->id, id));

    if (t == NULL) return RC_NOMEM;
    *ret = gw_text(t);
    return RC_OK;
}

/* The job appears: its row and its list row in one transaction. */
static enum rc publish(struct fcall *c, struct gw_job *job, struct err *reterr)
{
    struct gw *gw = c->service;
    uint8_t *keys = arena_raw(&c->arena, 2 * RECORD_KEY_BYTES_MAX);
    struct gw_compare claim = {.kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_VERSION,
                               .number = job->version};
    struct record_list row = {.anchor = job->anchor};
    struct gw_put puts[2];
    struct slice name;
    bool done;
    enum rc rc;

    if (keys == NULL) return err_set(reterr, RC_NOMEM, "a job");
    job->rec.state = MIKURA__V1__JOB_STATE__JOB_QUEUED;
    job->rec.submitted_unix_ms = row.created_unix_ms = (int64_t)clock_wall_ms();
    rc = job_list_name(&c->arena, &job->rec, &name);
    if (rc != RC_OK) return err_set(reterr, rc, "a job");
    puts[0].key = claim.key = (struct slice){keys, record_key(&job->anchor, RECORD_JOB, keys)};
    keys += RECORD_KEY_BYTES_MAX;
    puts[1].key =
        (struct slice){keys, record_list_key(&record_scope_jobs, name, job->at.hash, keys)};
    rc = GW_ENCODE(&c->arena, job, &job->rec, &puts[0].value, reterr);
    if (rc == RC_OK) rc = GW_ENCODE(&c->arena, list, &row, &puts[1].value, reterr);
    if (rc == RC_OK)
        rc = gw_txn(gw, job->at, &claim, 1, puts, 2, NULL, 0, &c->arena, gw_left_ms(c), &done,
                    &job->version, NULL, reterr);
    if (rc == RC_OK && !done)
        rc = err_set(reterr, RC_ABORTED, "the same request was begun again elsewhere");
    return rc;
}

/* Is there a worker with a GPU, or with none (as work.c reads a pull)? */
static bool some_worker_has(const struct gw *gw, bool gpu)
{
    for (const struct cluster_node *n = cluster_node_next(gw->cluster, NULL); n != NULL;
         n = cluster_node_next(gw->cluster, n)) {
        for (uint32_t i = 0; i < n->devices_n && n->alive; i++) {
            if (strcmp(n->kind, "computed") == 0 && (strncmp(n->devices[i], "cpu", 3) != 0) == gpu)
                return true;
        }
    }
    return false;
}

/* Kind and parameters, the latter kept. */
static enum rc submit_params(const Mikura__V1__SubmitRequest *req, struct record_job *rec,
                             struct err *reterr)
{
    struct job_params p;
    enum rc rc = job_params_init(&p, req->kind, reterr);

    if (rc == RC_OK && req->n_parameters > RECORD_PARAMS_MAX)
        return err_set(reterr, RC_INVAL, "%zu parameters; at most %u", req->n_parameters,
                       RECORD_PARAMS_MAX);
    for (size_t i = 0; rc == RC_OK && i < req->n_parameters; i++) {
        rc = job_params_set(&p, req->parameters[i]->key, req->parameters[i]->value, reterr);
        rec->params[i].name = gw_text(req->parameters[i]->key);
        rec->params[i].value = gw_text(req->parameters[i]->value);
    }
    rec->params_n = (uint32_t)req->n_parameters;
    return rc;
}

static enum rc submit_device(const struct gw *gw, int device, struct err *reterr)
{
    switch (device) {
    case MIKURA__V1__DEVICE__DEVICE_ANY: /* waits for the first worker of any kind */
        return RC_OK;
    case MIKURA__V1__DEVICE__DEVICE_GPU:
        if (some_worker_has(gw, true)) return RC_OK;
        return err_set(reterr, RC_PRECOND,
                       "device gpu: no worker of this cluster has one; submit with device cpu or "
                       "any, or start a worker with `computed --backend cuda`");
    case MIKURA__V1__DEVICE__DEVICE_CPU: /* where only GPUs are, it would wait for ever */
        if (some_worker_has(gw, false) || !some_worker_has(gw, true)) return RC_OK;
        return err_set(reterr, RC_PRECOND,
                       "device cpu: all workers of this cluster have GPUs; submit with device gpu "
                       "or any, or start a worker with `computed --backend cpu`");
    default:
        return err_set(reterr, RC_INVAL, "device: expected any, cpu or gpu");
    }
}

/* What needs no reading of images: kind, device, parameters, model. */
static enum rc submit_check(struct fcall *c, const Mikura__V1__SubmitRequest *req,
                            struct record_job *rec, bool *ret_volumes, struct err *reterr)
{
    struct gw *gw = c->service;
    struct gw_model *m = arena_alloc(&c->arena, sizeof *m);
    Mikura__V1__Model *shown;
    char *name;
    enum rc rc;

    if (m == NULL) return err_set(reterr, RC_NOMEM, "a job");
    rc = submit_params(req, rec, reterr);
    if (rc != RC_OK) return rc;
    if (req->cohort == NULL || req->cohort->expression[0] == 0)
        return err_set(reterr, RC_INVAL,
                       "no cohort: give a query, e.g. `collection = radiology and dicom.Modality = "
                       "\"CT\"`");
    rc = submit_device(gw, (int)req->device, reterr);
    if (rc != RC_OK) return rc;
    rc = gw_model_find(gw, req->model, &c->arena, gw_left_ms(c), m, reterr);
    if (rc == RC_OK) rc = gw_model_message(m, &c->arena, &shown, reterr);
    if (rc != RC_OK) return rc;
    /* [N, C, slices, rows, columns] */
    *ret_volumes = shown->n_inputs > 0 && shown->inputs[0]->n_shape == 5;
    name = arena_str(&c->arena, "%.*s@%llu", (int)m->rec.name.n, (const char *)m->rec.name.p,
                     (unsigned long long)m->rec.version);
    if (name == NULL) return err_set(reterr, RC_NOMEM, "a job");
    rec->model = gw_text(name);
    memcpy(rec->model_sha256, m->rec.sha256, 32);
    rec->kind = gw_text(req->kind);
    rec->device = (uint8_t)req->device;
    rec->cohort = gw_text(req->cohort->expression);
    rec->owner = gw_text(fcall_peer(c)->uri);
    rec->software = gw_text("mikura " MIKURA_VERSION);
    return RC_OK;
}

/* Claims the id, or finds the job that it made already (*ret_there). */
static enum rc submit_claim(struct fcall *c, const struct id128 *id, struct gw_job *job,
                            bool *ret_there, struct err *reterr)
{
    struct record_job rec = job->rec;
    struct gw_job *old = arena_alloc(&c->arena, sizeof *old);
    enum rc rc;
    bool done;

    if (old == NULL) return err_set(reterr, RC_NOMEM, "a job");
    *ret_there = false;
    rc = gw_job_read(c->service, id, &c->arena, gw_left_ms(c), old, reterr);
    if (rc != RC_OK && rc != RC_NOTFOUND) return rc;
    job->anchor = old->anchor; /* set in both cases */
    job->at = old->at;
    job->version = rc == RC_OK ? old->version : 0;
    if (rc == RC_OK && !gw_slice_is(old->rec.owner, fcall_peer(c)->uri))
        return err_set(reterr, RC_EXISTS, "request_id: somebody else's; take 16 random bytes");
    if (rc == RC_OK && old->rec.state != MIKURA__V1__JOB_STATE__JOB_STATE_UNSPECIFIED) {
        if (old->rec.cohort.n != rec.cohort.n ||
            memcmp(old->rec.cohort.p, rec.cohort.p, rec.cohort.n) != 0)
            return err_set(reterr, RC_EXISTS, "request_id: it made another job already");
        *job = *old;
        *ret_there = true;
        return RC_OK;
    }
    rc = gw_job_write(c->service, job, &c->arena, gw_left_ms(c), &done, &job->version, reterr);
    if (rc == RC_OK && !done)
        rc = err_set(reterr, RC_ABORTED, "the same request is being submitted elsewhere; retry");
    return rc;
}

static enum rc submit(struct fcall *c, struct err *reterr)
{
    Mikura__V1__SubmitRequest *req;
    struct gw_job *job = arena_alloc(&c->arena, sizeof *job);
    struct cohort co = {.c = c};
    char text[ID128_TEXT_BYTES];
    bool there;
    enum rc rc = fcall_request(c, &mikura__v1__submit_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (job == NULL) return err_set(reterr, RC_NOMEM, "a job");
    job->rec.id = id128_random();
    if (req->request_id != NULL &&
        (!id128_from_bytes(req->request_id->id.data, req->request_id->id.len, &job->rec.id) ||
         id128_is_zero(&job->rec.id))) {
        return err_set(reterr, RC_INVAL, "request_id: expected 16 random bytes");
    }
    job->rec.request = job->rec.id;
    rc = submit_check(c, req, &job->rec, &co.volumes, reterr);
    if (rc == RC_OK) rc = submit_claim(c, &job->rec.id, job, &there, reterr);
    if (rc != RC_OK) return rc;
    if (there) return reply_job(c, &job->rec, reterr);
    co.limit = req->cohort->limit;
    rc = cohort_each(c, req->cohort->expression, cohort_keep, &co, reterr);
    if (rc == RC_BUSY)
        (void)err_set(reterr, rc,
                      "the cohort has more than %u objects: narrow the query or submit it in parts",
                      JOBS_ITEMS_MAX);
    if (rc == RC_OK && co.n == 0)
        rc = err_set(reterr, RC_PRECOND,
                     "the cohort is empty: no published object that you may read fits the query; "
                     "`mikura query` shows what does");
    if (rc == RC_OK && co.volumes)
        rc = gw_series_group(c->service, co.objects, co.n, &c->arena, gw_left_ms(c), &co.series,
                             reterr);
    if (rc == RC_OK && co.limit != 0) co.series.items_n = MIN(co.series.items_n, co.limit);
    if (rc == RC_OK) rc = write_rows(c, job, &co, &job->rec.tasks, reterr);
    job->rec.items = cohort_items_n(&co);
    if (rc == RC_OK) rc = publish(c, job, reterr);
    free(co.objects);
    if (rc != RC_OK) return rc;
    log_info("job_submitted", "rid=%s job=%s items=%u tasks=%u by=%s", fcall_rid(c),
             id128_text(&job->rec.id, text), job->rec.items, job->rec.tasks, fcall_peer(c)->uri);
    gw_jobs_ring(c->service);
    return reply_job(c, &job->rec, reterr);
}

/* ---- Get, Watch, List, Cancel ---- */
static enum rc get_job(struct fcall *c, struct err *reterr)
{
    Mikura__V1__GetJobRequest *req;
    struct gw_job *job = arena_alloc(&c->arena, sizeof *job);
    enum rc rc = fcall_request(c, &mikura__v1__get_job_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (job == NULL) return err_set(reterr, RC_NOMEM, "a job");
    rc = gw_job_own(c, req->id, &c->arena, job, reterr);
    return rc != RC_OK ? rc : reply_job(c, &job->rec, reterr);
}

static enum rc watch_job(struct fcall *c, struct err *reterr)
{
    struct gw *gw = c->service;
    Mikura__V1__WatchRequest *req;
    uint64_t told = 0;
    bool ended = false;
    enum rc rc = fcall_request(c, &mikura__v1__watch_request__descriptor, &req, reterr);

    while (rc == RC_OK && !ended) {
        struct gw_job job;
        struct arena a;
        Job *m;

        arena_init(&a);
        rc = gw_job_own(c, req->id, &a, &job, reterr);
        if (rc == RC_OK && job.version != told) {
            m = job_message(&a, &job.rec);
            rc = m == NULL ? err_set(reterr, RC_NOMEM, "a job") : fcall_send(c, &m->base);
            told = job.version;
        }
        if (rc == RC_OK) ended = job_ended(&job.rec);
        arena_deinit(&a);
        if (rc == RC_UNAVAIL && !fcall_dead(c) && !gw->closing) {
            rc = RC_OK; /* its group changes its primary: the watch outlives that */
            gw_jobs_wait(gw, WATCH_MS);
            continue;
        }
        if (rc != RC_OK || ended) break;
        if (fcall_dead(c)) return RC_CANCELED;
        if (gw->closing) return err_set(reterr, RC_UNAVAIL, "this gateway stops; watch at another");
        gw_jobs_wait(gw, WATCH_MS);
    }
    return rc;
}

struct job_page {
    struct fcall *c;
    Job **out;
    size_t n, max;
    char *last;
    struct err *err;
};
static enum rc page_job(void *arg, struct slice name, const struct id128 *id)
{
    struct job_page *p = arg;
    struct arena *a = &p->c->arena;
    struct gw_job *job = arena_alloc(a, sizeof *job);
    Job *m;
    enum rc rc;

    if (p->n == p->max) return RC_RANGE;
    if (job == NULL) return RC_NOMEM;
    rc = gw_job_read(p->c->service, id, a, gw_left_ms(p->c), job, p->err);
    if (rc == RC_NOTFOUND) return RC_OK;
    if (rc != RC_OK) return rc;
    if (fcall_peer(p->c)->role != TLS_OPERATOR &&
        !gw_slice_is(job->rec.owner, fcall_peer(p->c)->uri))
        return RC_OK;
    m = job_message(a, &job->rec);
    p->last = gw_dup(a, name);
    if (m == NULL || p->last == NULL) return RC_NOMEM;
    p->out[p->n++] = m;
    return RC_OK;
}

static enum rc list_jobs(struct fcall *c, struct err *reterr)
{
    Mikura__V1__ListJobsRequest *req;
    Mikura__V1__ListJobsResponse answer = MIKURA__V1__LIST_JOBS_RESPONSE__INIT;
    struct job_page p = {.c = c, .err = reterr};
    enum rc rc = fcall_request(c, &mikura__v1__list_jobs_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    p.max = req->page_size == 0 ? 100 : MIN(req->page_size, 1000u);
    p.out = arena_alloc(&c->arena, p.max * sizeof *p.out);
    if (p.out == NULL) return err_set(reterr, RC_NOMEM, "a page of jobs");
    rc = gw_job_each(c->service, req->page_token, &c->arena, gw_left_ms(c), page_job, &p, reterr);
    if (rc != RC_OK) return rc;
    answer.jobs = p.out;
    answer.n_jobs = p.n;
    if (p.n == p.max) answer.next_page_token = p.last;
    return fcall_send(c, &answer.base);
}

static enum rc cancel_job(struct fcall *c, struct err *reterr)
{
    Mikura__V1__CancelJobRequest *req;
    struct gw_job *job = arena_alloc(&c->arena, sizeof *job);
    bool done = false;
    enum rc rc = fcall_request(c, &mikura__v1__cancel_job_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (job == NULL) return err_set(reterr, RC_NOMEM, "a job");
    for (int tries = 0; tries < 16 && !done; tries++) {
        rc = gw_job_own(c, req->id, &c->arena, job, reterr);
        if (rc != RC_OK) return rc;
        if (job_ended(&job->rec)) return reply_job(c, &job->rec, reterr);
        job->rec.state = MIKURA__V1__JOB_STATE__JOB_CANCELLED;
        job->rec.message = gw_text("cancelled");
        job->rec.ended_unix_ms = (int64_t)clock_wall_ms();
        rc = gw_job_write(c->service, job, &c->arena, gw_left_ms(c), &done, NULL, reterr);
        if (rc != RC_OK) return rc;
    }
    if (!done) return err_set(reterr, RC_ABORTED, "the job keeps changing; retry");
    log_info("job_cancelled", "rid=%s by=%s", fcall_rid(c), fcall_peer(c)->uri);
    gw_jobs_ring(c->service);
    return reply_job(c, &job->rec, reterr);
}

/* ---- Delete ---- */
enum rc gw_item_allowed(struct fcall *c, const struct record_item *it, struct err *reterr)
{
    struct gw_collection *col = arena_alloc(&c->arena, sizeof *col);
    char *name = gw_dup(&c->arena, it->collection);
    enum rc rc;

    if (col == NULL || name == NULL) return err_set(reterr, RC_NOMEM, "a collection");
    rc = gw_collection(c->service, name, &c->arena, gw_left_ms(c), col, reterr);
    if (rc != RC_OK) return rc;
    gw_collection_wipe(col);
    return gw_allowed(c, col, GW_READ, reterr);
}

/* The rows of numbers [from, from + n) of these kinds; beside them what masks left. */
static enum rc delete_rows(struct fcall *c, const struct gw_job *job, const enum record_kind *kinds,
                           uint32_t kinds_n, uint32_t from, uint32_t n, struct err *reterr)
{
    struct gw *gw = c->service;
    struct arena a;
    struct slice *k;
    uint32_t k_n = 0;
    bool done;
    enum rc rc = RC_OK;

    arena_init(&a);
    k = arena_alloc(&a, (kinds_n + 1) * (size_t)n * sizeof *k);
    if (k == NULL) rc = err_set(reterr, RC_NOMEM, "a job's rows");
    if (rc == RC_OK && kinds[0] == RECORD_MASK)
        rc = gw_masks_drop(gw, job, from, n, &a, k, &k_n, reterr);
    for (uint32_t i = 0; i < kinds_n * n && rc == RC_OK; i++) {
        uint8_t key[RECORD_KEY_BYTES_MAX];
        size_t len = record_key_number(&job->anchor, kinds[i / n], from + i % n, key);

        k[k_n] = (struct slice){arena_copy(&a, key, len), len};
        if (k[k_n++].p == NULL) rc = err_set(reterr, RC_NOMEM, "a job's rows");
    }
    if (rc == RC_OK)
        rc = gw_txn(gw, job->at, NULL, 0, NULL, 0, k, k_n, &a, gw_left_ms(c), &done, NULL, NULL,
                    reterr);
    arena_deinit(&a);
    return rc;
}

static enum rc delete_job(struct fcall *c, struct err *reterr)
{
    static const enum record_kind ITEMS[] = {RECORD_MASK, RECORD_RESULT, RECORD_SERIES,
                                             RECORD_ITEM},
                                  TASKS[] = {RECORD_TASK};
    struct gw *gw = c->service;
    Mikura__V1__DeleteJobRequest *req;
    Mikura__V1__DeleteJobResponse answer = MIKURA__V1__DELETE_JOB_RESPONSE__INIT;
    struct gw_job *job = arena_alloc(&c->arena, sizeof *job);
    uint8_t *keys = arena_raw(&c->arena, 2 * RECORD_KEY_BYTES_MAX);
    struct slice k[2], name;
    bool done;
    enum rc rc = fcall_request(c, &mikura__v1__delete_job_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (job == NULL || keys == NULL) return err_set(reterr, RC_NOMEM, "a job");
    rc = gw_job_own(c, req->id, &c->arena, job, reterr);
    if (rc != RC_OK) return rc;
    if (!job_ended(&job->rec))
        return err_set(reterr, RC_PRECOND, "the job has not ended; cancel it first");
    rc = job_list_name(&c->arena, &job->rec, &name);
    /* tasks first: then no worker of a cancelled job brings a mask any more */
    for (uint32_t i = 0; i < job->rec.tasks && rc == RC_OK; i += DELETE_ROWS)
        rc = delete_rows(c, job, TASKS, 1, i, MIN(job->rec.tasks - i, DELETE_ROWS), reterr);
    for (uint32_t i = 0; i < job->rec.items && rc == RC_OK; i += DELETE_ROWS)
        rc = delete_rows(c, job, ITEMS, ARRAY_N(ITEMS), i, MIN(job->rec.items - i, DELETE_ROWS),
                         reterr);
    if (rc != RC_OK) return rc;
    k[0] = (struct slice){keys, record_key(&job->anchor, RECORD_JOB, keys)};
    keys += RECORD_KEY_BYTES_MAX;
    k[1] = (struct slice){keys, record_list_key(&record_scope_jobs, name, job->at.hash, keys)};
    rc = gw_txn(gw, job->at, NULL, 0, NULL, 0, k, 2, &c->arena, gw_left_ms(c), &done, NULL, NULL,
                reterr);
    if (rc != RC_OK) return rc;
    log_info("job_deleted", "rid=%s by=%s", fcall_rid(c), fcall_peer(c)->uri);
    return fcall_send(c, &answer.base);
}

/* ---- Results ---- */
#define CASE_LABELS_MAX 64u
struct case_sum {
    Mikura__V1__CaseResult m;
    Mikura__V1__Score counts[CASE_LABELS_MAX], *pointers[CASE_LABELS_MAX];
    struct case_sum *next;
};
struct results {
    struct fcall *c;
    struct arena a; /* of the batch */
    Mikura__V1__ItemResult *batch[BATCH_ITEMS];
    uint32_t batch_n, cases_n;
    struct case_sum *first, **end, *last; /* in the call's arena */
    Mikura__V1__ObjectRef stored_at;
    bool told_where;
};

/* Items come in the cohort's order: by collection and case, so a case's items are neighbours. */
static enum rc sum_case(struct results *r, const struct record_item *it, const char *label)
{
    struct arena *a = &r->c->arena;
    struct case_sum *s = r->last;
    size_t i = 0;

    if (s == NULL || !gw_slice_is(it->collection, s->m.collection) ||
        !gw_slice_is(it->case_id, s->m.case_id)) {
        s = arena_alloc(a, sizeof *s);
        if (s == NULL) return RC_NOMEM;
        mikura__v1__case_result__init(&s->m);
        s->m.collection = gw_dup(a, it->collection);
        s->m.case_id = gw_dup(a, it->case_id);
        s->m.counts = s->pointers;
        if (s->m.collection == NULL || s->m.case_id == NULL) return RC_NOMEM;
        *r->end = s;
        r->end = &s->next;
        r->last = s;
        r->cases_n++;
    }
    if (label[0] == 0) return RC_OK; /* set aside: no label to count */
    while (i < s->m.n_counts && strcmp(s->counts[i].name, label) != 0)
        i++;
    if (i == CASE_LABELS_MAX) return RC_OK;
    if (i == s->m.n_counts) {
        mikura__v1__score__init(&s->counts[i]);
        s->counts[i].name = arena_str(a, "%s", label);
        if (s->counts[i].name == NULL) return RC_NOMEM;
        s->pointers[i] = &s->counts[i];
        s->m.n_counts++;
    }
    s->counts[i].value += 1;
    return RC_OK;
}

static enum rc results_flush(struct results *r)
{
    Mikura__V1__ResultsResponse m = MIKURA__V1__RESULTS_RESPONSE__INIT;
    enum rc rc;

    if (r->batch_n == 0 && r->told_where) return RC_OK;
    m.items = r->batch;
    m.n_items = r->batch_n;
    if (!r->told_where) m.stored_at = &r->stored_at;
    r->told_where = true;
    rc = fcall_send(r->c, &m.base);
    r->batch_n = 0;
    return rc;
}

/* Which slices, as they were stacked; by path where the item was set aside. */
static enum rc series_message(const struct record_series *rec, struct arena *a,
                              Mikura__V1__ItemResult *m)
{
    Mikura__V1__Series *s = arena_alloc(a, sizeof *s);
    Mikura__V1__SliceRef *refs = arena_alloc(a, rec->slices_n * sizeof *refs);
    struct record_series_slice *slices = arena_alloc(a, rec->slices_n * sizeof *slices);
    const Mikura__V1__Series *told = m->series;
    struct slice list = rec->list;

    if (s == NULL || refs == NULL || slices == NULL) return RC_NOMEM;
    for (uint32_t i = 0; i < rec->slices_n; i++)
        if (record_series_next(&list, &slices[i]) != RC_OK) return RC_CORRUPT;
    if (told != NULL && told->n_order != rec->slices_n) return RC_CORRUPT;
    mikura__v1__series__init(s);
    s->uid = gw_dup(a, rec->uid);
    if (told != NULL) s->ordered_by = told->ordered_by;
    s->slices = arena_alloc(a, rec->slices_n * sizeof *s->slices);
    if (s->uid == NULL || s->slices == NULL) return RC_NOMEM;
    for (uint32_t i = 0; i < rec->slices_n; i++) {
        uint32_t at = told == NULL ? i : told->order[i];

        if (at >= rec->slices_n) return RC_CORRUPT;
        mikura__v1__slice_ref__init(&refs[i]);
        refs[i].path = gw_dup(a, slices[at].path);
        refs[i].version = slices[at].version;
        if (refs[i].path == NULL) return RC_NOMEM;
        s->slices[s->n_slices++] = &refs[i];
    }
    m->series = s;
    return RC_OK;
}

/* A series may have 2,048 slices: a message of its own, in memory of its own. */
static enum rc series_send(struct results *r, const struct gw_job *job, uint32_t item,
                           Mikura__V1__ItemResult *m, struct err *reterr)
{
    struct gw *gw = r->c->service;
    Mikura__V1__ResultsResponse answer = MIKURA__V1__RESULTS_RESPONSE__INIT;
    uint8_t key[RECORD_KEY_BYTES_MAX];
    struct slice k = {key, record_key_number(&job->anchor, RECORD_SERIES, item, key)};
    Mikura__Internal__V1__GetResponse *got;
    struct record_series rec;
    struct arena a;
    enum rc rc = results_flush(r);

    if (rc != RC_OK) return rc;
    arena_init(&a);
    rc = route_get(gw->route, job->at, &k, 1, GW_CALL_MS, &a, &got, reterr);
    if (rc == RC_OK) rc = record_series_decode(gw_bytes(got->items[0]->value), &rec, reterr);
    if (rc == RC_OK) rc = series_message(&rec, &a, m);
    answer.items = &m;
    answer.n_items = 1;
    if (rc == RC_OK) rc = fcall_send(r->c, &answer.base);
    arena_deinit(&a);
    return rc;
}

static enum rc result_message(struct results *r, const struct record_item *it,
                              const struct record_result *res, Mikura__V1__ItemResult **ret)
{
    Mikura__V1__ItemResult *m =
        mikura__v1__item_result__unpack(&r->a.pb, res->detail.n, res->detail.p);
    Mikura__V1__ObjectRef *ref = arena_alloc(&r->a, sizeof *ref);

    if (m == NULL) return RC_CORRUPT;
    if (ref == NULL) return RC_NOMEM;
    mikura__v1__object_ref__init(ref);
    ref->collection = gw_dup(&r->a, it->collection);
    ref->case_id = gw_dup(&r->a, it->case_id);
    ref->path = gw_dup(&r->a, it->path);
    ref->version = it->version;
    if (ref->collection == NULL || ref->case_id == NULL || ref->path == NULL) return RC_NOMEM;
    m->object = ref;
    *ret = m;
    return RC_OK;
}

/* ITEM and RESULT rows of [from, from + n) in one read. */
static enum rc results_read(struct results *r, const struct gw_job *job, uint32_t from, uint32_t n,
                            bool partial, struct err *reterr)
{
    struct gw *gw = r->c->service;
    struct slice *k = arena_alloc(&r->a, 2 * n * sizeof *k);
    Mikura__Internal__V1__GetResponse *got;
    enum rc rc;

    if (k == NULL) return err_set(reterr, RC_NOMEM, "results");
    for (uint32_t i = 0; i < 2 * n; i++) {
        uint8_t key[RECORD_KEY_BYTES_MAX];
        size_t len = record_key_number(&job->anchor, i % 2 == 0 ? RECORD_ITEM : RECORD_RESULT,
                                       from + i / 2, key);

        k[i] = (struct slice){arena_copy(&r->a, key, len), len};
        if (k[i].p == NULL) return err_set(reterr, RC_NOMEM, "results");
    }
    rc = route_get(gw->route, job->at, k, 2 * n, GW_CALL_MS, &r->a, &got, reterr);
    for (uint32_t i = 0; i < n && rc == RC_OK; i++) {
        struct record_item it;
        struct record_result res;
        Mikura__V1__ItemResult *m;

        if (got->items[(size_t)2 * i + 1]->version == 0) {
            if (partial) continue;
            return err_set(reterr, RC_PRECOND,
                           "item %u of %u has no result yet; watch the job, or ask for what is "
                           "there (partial)",
                           from + i, job->rec.items);
        }
        rc = record_item_decode(gw_bytes(got->items[(size_t)2 * i]->value), &it, reterr);
        if (rc == RC_OK)
            rc = record_result_decode(gw_bytes(got->items[(size_t)2 * i + 1]->value), &res, reterr);
        if (rc == RC_OK) rc = result_message(r, &it, &res, &m);
        if (rc != RC_OK) break;
        m->item = from + i;
        rc = sum_case(r, &it, m->label);
        if (rc != RC_OK) break;
        if (it.path.n == 0)
            rc = series_send(r, job, from + i, m, reterr);
        else
            r->batch[r->batch_n++] = m;
    }
    if (rc == RC_OK) rc = results_flush(r);
    arena_deinit(&r->a);
    arena_init(&r->a);
    return rc;
}

static enum rc results_cases(struct results *r)
{
    Mikura__V1__CaseResult **all = arena_alloc(&r->c->arena, r->cases_n * sizeof *all);
    uint32_t n = 0;
    enum rc rc = RC_OK;

    if (all == NULL) return RC_NOMEM;
    for (struct case_sum *s = r->first; s != NULL; s = s->next) {
        double best = 0;

        for (size_t i = 0; i < s->m.n_counts; i++) { /* the most frequent; of equals the first */
            if (s->counts[i].value <= best) continue;
            best = s->counts[i].value;
            s->m.label = s->counts[i].name;
        }
        all[n++] = &s->m;
    }
    for (uint32_t i = 0; i < n && rc == RC_OK; i += BATCH_ITEMS) {
        Mikura__V1__ResultsResponse m = MIKURA__V1__RESULTS_RESPONSE__INIT;

        m.cases = all + i;
        m.n_cases = MIN(n - i, BATCH_ITEMS);
        rc = fcall_send(r->c, &m.base);
    }
    return rc;
}

static enum rc results(struct fcall *c, struct err *reterr)
{
    Mikura__V1__ResultsRequest *req;
    struct gw_job *job = arena_alloc(&c->arena, sizeof *job);
    struct results *r = arena_alloc(&c->arena, sizeof *r);
    char text[ID128_TEXT_BYTES], path[] = "results";
    enum rc rc = fcall_request(c, &mikura__v1__results_request__descriptor, &req, reterr);

    if (rc != RC_OK) return rc;
    if (job == NULL || r == NULL) return err_set(reterr, RC_NOMEM, "results");
    rc = gw_job_own(c, req->id, &c->arena, job, reterr);
    if (rc != RC_OK) return rc;
    if (!req->partial && !job_ended(&job->rec))
        return err_set(reterr, RC_PRECOND,
                       "the job runs: %u of %u items are done; watch it, or ask for what is there "
                       "(partial)",
                       job->rec.items_done + job->rec.items_set_aside, job->rec.items);
    r->c = c;
    r->end = &r->first;
    arena_init(&r->a);
    mikura__v1__object_ref__init(&r->stored_at);
    r->stored_at.case_id = arena_str(&c->arena, "job/%s", id128_text(&job->rec.id, text));
    r->stored_at.path = path;
    if (r->stored_at.case_id == NULL) rc = err_set(reterr, RC_NOMEM, "results");
    for (uint32_t from = 0; from < job->rec.items && rc == RC_OK; from += BATCH_ITEMS / 4)
        rc =
            results_read(r, job, from, MIN(job->rec.items - from, BATCH_ITEMS / 4),
                         req->partial || job->rec.state != MIKURA__V1__JOB_STATE__JOB_DONE, reterr);
    if (rc == RC_OK) rc = results_flush(r); /* where they are, even if there are none */
    if (rc == RC_OK) rc = results_cases(r);
    arena_deinit(&r->a);
    return rc;
}

const struct fcall_method gw_job_methods[] = {
    {"/mikura.v1.Jobs/Submit", false, 0, submit},
    {"/mikura.v1.Jobs/Watch", false, 0, watch_job},
    {"/mikura.v1.Jobs/List", false, 0, list_jobs},
    {"/mikura.v1.Jobs/Get", false, 0, get_job},
    {"/mikura.v1.Jobs/Cancel", false, 0, cancel_job},
    {"/mikura.v1.Jobs/Results", false, 0, results},
    {"/mikura.v1.Jobs/Mask", false, 0, gw_mask_get},
    {"/mikura.v1.Jobs/Delete", false, 0, delete_job},
    {NULL, false, 0, NULL},
};
