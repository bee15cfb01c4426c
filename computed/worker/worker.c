/* computed/worker/worker.c - see worker.h. What becomes of an item:
 *   a result                                    reported with label and scores
 *   the reader or the analysis refuses it       set aside, with their reason
 *   its reader process crashes, twice           set aside: "the reader process ended by signal 11"
 *   or takes too long                           likewise, at once
 *   a read fails, memory lacks, no process      reported as `retry`: the worker's own trouble
 * An unknown kind of job or a model that is refused sets all items of the task aside. */
#include "computed/worker/worker.h"
#include "common/base/clock.h"
#include "common/base/hex.h"
#include "common/base/log.h"
#include "common/base/metrics.h"
#include "computed/analysis/series.h"
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef Mikura__Internal__V1__Task Task;
typedef Mikura__Internal__V1__ItemOutcome Outcome;

#define PAUSE_MIN_MS  200u /* after a pull that nobody answered; doubles */
#define PAUSE_MAX_MS  3000u
#define FINISH_ASK_MS 10000u

static struct metric tasks_total =
    METRIC_COUNTER_INIT("mikura_worker_tasks_total", NULL, "tasks taken");
static struct metric tasks_lost = METRIC_COUNTER_INIT("mikura_worker_tasks_lost_total", NULL,
                                                      "tasks dropped since their lease was lost");
static struct metric items_done =
    METRIC_COUNTER_INIT("mikura_worker_items_total", "end=\"result\"", "items by their end");
static struct metric items_aside =
    METRIC_COUNTER_INIT("mikura_worker_items_total", "end=\"aside\"", "items by their end");
static struct metric items_retry =
    METRIC_COUNTER_INIT("mikura_worker_items_total", "end=\"retry\"", "items by their end");
static struct metric children_lost = METRIC_COUNTER_INIT("mikura_worker_children_lost_total", NULL,
                                                         "reader processes that crashed or hung");
static struct metric bytes_read = METRIC_COUNTER_INIT("mikura_worker_read_bytes_total", NULL,
                                                      "plaintext bytes given to reader processes");

struct slot;
struct worker {
    struct worker_conf conf;
    struct fiber_group slots;
    struct slot *slot;
    bool stopping;
    struct fiber_cond stop;
};
struct run { /* one task */
    struct worker *w;
    const Task *task;
    struct arena arena; /* of the outcomes */
    Outcome **outcome;
    struct runner *runner; /* NULL between children */
    int model_fd;
    struct job_params job;
    uint64_t lease_until_ms; /* our own clock */
    bool lost;               /* another attempt owns it, or the lease ran out, or we stop */
    bool ended;              /* the renewing fiber may end */
    struct fiber_cond changed;
};
struct slot {
    struct worker *w;
    struct run *run; /* what runs, or NULL */
};

static uint64_t now_ms(const struct worker *w)
{
    return uv_now(fibers_loop(w->conf.fs));
}

static void run_lose(struct run *r, const char *why)
{
    if (r->lost || r->ended) return;
    r->lost = true;
    metric_add(&tasks_lost, 1);
    log_info("task_dropped", "task=%llu attempt=%u why=%s", (unsigned long long)r->task->task,
             r->task->attempt, why);
    if (r->runner != NULL) runner_cancel(r->runner);
    fiber_cond_broadcast(&r->changed);
}

/* ---- lease ---- */
static void renew(void *arg)
{
    struct run *r = arg;
    Mikura__Internal__V1__RenewRequest req = MIKURA__INTERNAL__V1__RENEW_REQUEST__INIT;
    uint64_t third = MAX(r->task->lease_ms / 3, 100), next = now_ms(r->w) + third;

    req.job = r->task->job;
    req.task = r->task->task;
    req.attempt = r->task->attempt;
    while (!r->ended && !r->lost) {
        Mikura__Internal__V1__RenewResponse *a;
        uint64_t now = now_ms(r->w), asked_ms;
        struct err e;
        enum rc rc;

        if (now >= r->lease_until_ms) {
            run_lose(r, "its lease ran out");
            break;
        }
        if (now < next) {
            (void)!fiber_cond_wait_ms(&r->changed, MIN(next, r->lease_until_ms) - now);
            continue;
        }
        asked_ms = now;
        rc = gateways_ask(r->w->conf.gateways, GATEWAYS_WORK, "/mikura.internal.v1.Work/Renew",
                          (uint32_t)MIN(third, 10000), &req.base,
                          &mikura__internal__v1__renew_response__descriptor, &a, &e);
        if (rc == RC_OK) {
            bool go_on = a->go_on;

            protobuf_c_message_free_unpacked(&a->base, NULL);
            if (!go_on) run_lose(r, "the gateway took it back");
            r->lease_until_ms = asked_ms + r->task->lease_ms;
            next = asked_ms + third;
        } else { /* asked again soon; the lease's end decides */
            log_debug("renew_failed", "rc=%s why=%s", rc_name(rc), e.msg);
            next = now_ms(r->w) + MIN(third, 1000);
        }
    }
}

/* ---- items ---- */
static void aside(struct run *r, uint32_t idx, const char *reason)
{
    metric_add(&items_aside, 1);
    r->outcome[idx]->result->set_aside_reason = arena_str(&r->arena, "%.400s", reason);
}

static void retry(struct run *r, uint32_t idx, const struct err *e)
{
    metric_add(&items_retry, 1);
    r->outcome[idx]->retry = true;
    r->outcome[idx]->result->set_aside_reason = arena_str(&r->arena, "%.400s", e->msg);
    log_warn("item_retry", "task=%llu item=%u why=%s", (unsigned long long)r->task->task,
             r->outcome[idx]->item, e->msg);
}

/* How the slices were stacked, for the gateway to name them. */
static enum rc series_tell(struct run *r, const struct analysis_result *q,
                           Mikura__V1__ItemResult *ir)
{
    Mikura__V1__Series *s = arena_alloc(&r->arena, sizeof(*s));
    uint32_t *order = arena_alloc(&r->arena, q->slice_n * sizeof(*order));

    if (s == NULL || order == NULL) return RC_NOMEM;
    mikura__v1__series__init(s);
    s->ordered_by =
        arena_str(&r->arena, "%s", q->by == SERIES_BY_NUMBER ? "instance number" : "position");
    if (s->ordered_by == NULL) return RC_NOMEM;
    for (uint32_t i = 0; i < q->slice_n; i++)
        order[i] = q->order[i];
    s->order = order;
    s->n_order = q->slice_n;
    ir->series = s;
    return RC_OK;
}

/* Stored before the result that names it. */
static enum rc mask_tell(struct run *r, uint32_t idx, const struct mask *m, struct err *reterr)
{
    Mikura__Internal__V1__PutMaskHeader header = MIKURA__INTERNAL__V1__PUT_MASK_HEADER__INIT;
    Mikura__V1__Mask *told = arena_alloc(&r->arena, sizeof(*told));
    unsigned n = 32;
    enum rc rc;

    header.job = r->task->job;
    header.task = r->task->task;
    header.attempt = r->task->attempt;
    header.item = r->outcome[idx]->item;
    header.media_type = arena_str(&r->arena, "%s", mask_media_type(m->kind));
    header.size_bytes = m->n;
    if (told == NULL || header.media_type == NULL) return err_set(reterr, RC_NOMEM, "a mask");
    mikura__v1__mask__init(told);
    told->media_type = header.media_type;
    told->size_bytes = m->n;
    told->sha256.len = 32;
    told->sha256.data = arena_alloc(&r->arena, 32);
    told->n_shape = m->rank;
    told->shape = arena_copy(&r->arena, m->shape, m->rank * sizeof(*m->shape));
    if (told->sha256.data == NULL || told->shape == NULL)
        return err_set(reterr, RC_NOMEM, "a mask");
    if (EVP_Digest(m->p, m->n, told->sha256.data, &n, EVP_sha256(), NULL) != 1)
        return err_set(reterr, RC_INTERNAL, "SHA-256 of a mask");
    rc = gateways_mask_put(r->w->conf.gateways, &header, m->p, reterr);
    if (rc == RC_OK) r->outcome[idx]->result->mask = told;
    return rc == RC_OK ? RC_OK : err_prefix(reterr, "its mask could not be stored");
}

static enum rc result(struct run *r, uint32_t idx, const struct analysis_result *q)
{
    Mikura__V1__ItemResult *ir = r->outcome[idx]->result;
    Mikura__V1__Score **list = arena_alloc(&r->arena, q->score_n * sizeof(*list));
    Mikura__V1__Score *score = arena_alloc(&r->arena, q->score_n * sizeof(*score));

    if (list == NULL || score == NULL) return RC_NOMEM;
    for (uint32_t i = 0; i < q->score_n; i++) {
        mikura__v1__score__init(&score[i]);
        score[i].name = arena_str(&r->arena, "%s", q->score[i].name);
        score[i].value = q->score[i].value;
        list[i] = &score[i];
        if (score[i].name == NULL) return RC_NOMEM;
    }
    ir->label = arena_str(&r->arena, "%s", q->label);
    if (ir->label == NULL) return RC_NOMEM;
    ir->scores = list;
    ir->n_scores = q->score_n;
    if (q->slice_n > 0 && series_tell(r, q, ir) != RC_OK) return RC_NOMEM;
    metric_add(&items_done, 1);
    return RC_OK;
}

/* What an item's child reads: one object, or those of a series, of which one is open at a time. */
struct reading {
    struct fetch *f;
    struct fetch_input *open;
    uint32_t open_idx;
    struct gateways_slices slices;
    const Mikura__Internal__V1__Input **inputs; /* 1, or one a slice */
    struct slice *capability;                   /* of each */
    uint64_t *sizes;
    uint32_t n;
};

static enum rc item_read(void *data, uint32_t slice, uint64_t off, uint8_t *out, uint32_t n,
                         struct err *reterr)
{
    struct reading *x = data;
    enum rc rc = RC_OK;

    if (x->open == NULL || x->open_idx != slice) {
        fetch_input_free(x->open);
        x->open = NULL;
        rc = fetch_input_new(x->f, x->inputs[slice], x->capability[slice], &x->open, reterr);
        if (rc != RC_OK) return rc;
        x->open_idx = slice;
    }
    rc = fetch_input_read(x->open, off, out, n, reterr);
    if (rc == RC_OK) metric_add(&bytes_read, n);
    return rc;
}

static void reading_end(struct reading *x)
{
    fetch_input_free(x->open);
    gateways_slices_free(&x->slices);
    free(x->inputs);
    free(x->capability);
    free(x->sizes);
}

static enum rc slices_get(const struct run *r, const Mikura__Internal__V1__Input *in,
                          struct gateways_slices *ret, struct err *reterr)
{
    Mikura__Internal__V1__SlicesRequest req = MIKURA__INTERNAL__V1__SLICES_REQUEST__INIT;

    req.job = r->task->job;
    req.task = r->task->task;
    req.attempt = r->task->attempt;
    req.item = in->item;
    req.zone = (char *)(uintptr_t)r->w->conf.zone;
    req.rack = (char *)(uintptr_t)r->w->conf.rack;
    req.host = (char *)(uintptr_t)r->w->conf.host;
    return gateways_slices_get(r->w->conf.gateways, &req, ret, reterr);
}

/* reading_end() after either outcome. */
static enum rc reading_begin(struct run *r, const Mikura__Internal__V1__Input *in,
                             struct reading *x, struct err *reterr)
{
    enum rc rc = RC_OK;

    x->f = r->w->conf.fetch;
    if (in->series) rc = slices_get(r, in, &x->slices, reterr);
    if (rc != RC_OK) return rc;
    x->n = in->series ? x->slices.n : 1;
    if (x->n == 0) return err_set(reterr, RC_INVAL, "a series without slices");
    x->inputs = calloc(x->n, sizeof(*x->inputs));
    x->capability = calloc(x->n, sizeof(*x->capability));
    x->sizes = calloc(x->n, sizeof(*x->sizes));
    if (x->inputs == NULL || x->capability == NULL || x->sizes == NULL)
        return err_set(reterr, RC_NOMEM, "a series");
    if (!in->series) {
        x->inputs[0] = in;
        x->capability[0] = (struct slice){r->task->capability.data, r->task->capability.len};
    }
    for (uint32_t p = 0, at = 0; p < x->slices.parts_n; p++) {
        const Mikura__Internal__V1__SlicesResponse *m = x->slices.parts[p];

        for (size_t i = 0; i < m->n_inputs; i++, at++) {
            x->inputs[at] = m->inputs[i];
            x->capability[at] = (struct slice){m->capability.data, m->capability.len};
            x->sizes[at] = m->inputs[i]->size_bytes;
        }
    }
    return RC_OK;
}

/* A child that is ready, with the task's model in it. */
static enum rc runner_ready(struct run *r, struct err *reterr)
{
    struct runner_conf conf = r->w->conf.runner;
    enum rc rc;

    if (r->runner != NULL) return RC_OK;
    if (lseek(r->model_fd, 0, SEEK_SET) != 0) return err_set(reterr, RC_IO, "model: lseek");
    conf.job = r->job;
    rc = runner_open(&conf, r->model_fd, &r->runner, reterr);
    if (rc == RC_OK && r->lost) runner_cancel(r->runner);
    return rc;
}

static void runner_drop(struct run *r)
{
    struct runner *x = r->runner;

    r->runner = NULL;
    runner_close(x);
}

/* RC_INVAL: the model is refused (all items share that). */
static enum rc run_item_read(struct run *r, uint32_t idx, struct reading *x, struct err *reterr)
{
    const Mikura__Internal__V1__Input *in = r->task->inputs[idx];
    struct runner_item item = {.size = in->size_bytes,
                               .media_type = in->media_type,
                               .slice_size = x->sizes,
                               .slice_n = in->series ? x->n : 0,
                               .read = item_read,
                               .data = x};
    struct analysis_result q;
    struct err e = {0};
    enum rc rc = RC_OK;

    for (uint32_t try = 0; !r->lost; try++) {
        enum runner_end end;

        rc = runner_ready(r, reterr);
        if (rc != RC_OK) {
            if (rc != RC_INVAL) retry(r, idx, reterr);
            break;
        }
        end = runner_item_run(r->runner, &item, &q, &e);
        fetch_input_free(x->open); /* another try begins afresh: no window of a crash */
        x->open = NULL;
        r->outcome[idx]->result->device = arena_str(&r->arena, "%s", runner_device(r->runner));
        if (end == RUNNER_RESULT && runner_mask(r->runner) != NULL &&
            mask_tell(r, idx, runner_mask(r->runner), &e) != RC_OK)
            end = RUNNER_TROUBLE;
        if (end == RUNNER_RESULT && result(r, idx, &q) != RC_OK) {
            (void)err_set(&e, RC_NOMEM, "result");
            end = RUNNER_TROUBLE;
        }
        if (end == RUNNER_ASIDE) aside(r, idx, e.msg);
        if (end == RUNNER_TROUBLE) retry(r, idx, &e);
        if (end != RUNNER_LOST) break;
        runner_drop(r);
        if (r->lost) break;
        metric_add(&children_lost, 1);
        log_warn("child_lost", "task=%llu item=%u try=%u why=%s", (unsigned long long)r->task->task,
                 in->item, try, e.msg);
        if (try == 1) {
            aside(r, idx, e.msg);
            break;
        }
    }
    return rc == RC_INVAL && r->runner == NULL && !r->lost ? RC_INVAL : RC_OK;
}

static enum rc run_item(struct run *r, uint32_t idx, struct err *reterr)
{
    struct reading x = {.f = NULL};
    struct err e = {0};
    enum rc rc = reading_begin(r, r->task->inputs[idx], &x, &e);

    switch (rc) {
    case RC_OK:
        rc = run_item_read(r, idx, &x, reterr);
        break;
    case RC_NOTFOUND: /* a slice was deleted or withdrawn since */
    case RC_PRECOND:
    case RC_CORRUPT:
    case RC_INVAL:
        (void)err_prefix(&e, "not readable");
        aside(r, idx, e.msg);
        rc = RC_OK;
        break;
    default:
        retry(r, idx, &e);
        rc = RC_OK;
        break;
    }
    reading_end(&x);
    return rc;
}

/* ---- a task ---- */
static enum rc outcomes_make(struct run *r)
{
    size_t n = r->task->n_inputs;

    r->outcome = arena_alloc(&r->arena, MAX(n, 1) * sizeof(*r->outcome));
    if (r->outcome == NULL) return RC_NOMEM;
    for (size_t i = 0; i < n; i++) {
        Outcome *o = arena_alloc(&r->arena, sizeof(*o));
        Mikura__V1__ItemResult *ir = arena_alloc(&r->arena, sizeof(*ir));

        if (o == NULL || ir == NULL) return RC_NOMEM;
        mikura__internal__v1__item_outcome__init(o);
        mikura__v1__item_result__init(ir);
        ir->object = r->task->inputs[i]->object;
        ir->worker = (char *)(uintptr_t)r->w->conf.uri;
        ir->device = (char *)(uintptr_t)r->w->conf.device;
        ir->attempt = r->task->attempt;
        o->item = r->task->inputs[i]->item;
        o->result = ir;
        r->outcome[i] = o;
    }
    return RC_OK;
}

static void all_aside(struct run *r, uint32_t from, const char *reason)
{
    for (uint32_t i = from; i < r->task->n_inputs; i++)
        aside(r, i, reason);
}

static void all_retry(struct run *r, uint32_t from, const struct err *e)
{
    for (uint32_t i = from; i < r->task->n_inputs; i++)
        retry(r, i, e);
}

static enum rc job_read(const Task *task, struct job_params *ret, struct err *reterr)
{
    enum rc rc = job_params_init(ret, task->kind, reterr);

    for (size_t i = 0; rc == RC_OK && i < task->n_parameters; i++)
        rc = job_params_set(ret, task->parameters[i]->key, task->parameters[i]->value, reterr);
    return rc;
}

/* The scheduler hands out by device; were it mistaken, the job's word would hold: a job is never
 * computed elsewhere in silence. */
static bool device_fits(const struct run *r, struct err *reterr)
{
    bool cpu = strncmp(r->w->conf.device, "cpu", 3) == 0;

    switch (r->task->device) {
    case MIKURA__V1__DEVICE__DEVICE_GPU:
        if (!cpu) return true;
        (void)err_set(reterr, RC_UNAVAIL, "the job wants a GPU, and this worker has none");
        return false;
    case MIKURA__V1__DEVICE__DEVICE_CPU:
        if (cpu) return true;
        (void)err_set(reterr, RC_UNAVAIL, "the job wants a CPU, and this worker computes on %.64s",
                      r->w->conf.device);
        return false;
    default:
        return true;
    }
}

static void items_run(struct run *r)
{
    struct err e = {0};

    if (job_read(r->task, &r->job, &e) != RC_OK) { /* of another version: the gateway checks too */
        all_aside(r, 0, e.msg);
        return;
    }
    if (!device_fits(r, &e)) {
        all_retry(r, 0, &e);
        return;
    }
    if (r->task->model_sha256.len != 32) {
        all_aside(r, 0, "the job names no model");
        return;
    }
    if (models_get(r->w->conf.models, r->task->model_sha256.data, &r->model_fd, &e) != RC_OK) {
        (void)err_prefix(&e, "model");
        all_retry(r, 0, &e);
        return;
    }
    for (uint32_t i = 0; i < r->task->n_inputs && !r->lost; i++) {
        if (run_item(r, i, &e) == RC_OK) continue;
        (void)err_prefix(&e, "the model can't be used");
        all_aside(r, i, e.msg);
        return;
    }
}

/* Until someone took it, or the lease is over (its results are then another's to make). */
static void finish(struct run *r)
{
    Mikura__Internal__V1__FinishRequest req = MIKURA__INTERNAL__V1__FINISH_REQUEST__INIT;
    uint32_t refused = 0;
    uint64_t pause_ms = PAUSE_MIN_MS;

    req.job = r->task->job;
    req.task = r->task->task;
    req.attempt = r->task->attempt;
    req.outcomes = r->outcome;
    req.n_outcomes = r->task->n_inputs;
    while (!r->lost) {
        Mikura__Internal__V1__FinishResponse *a;
        struct err e;
        enum rc rc = gateways_ask(r->w->conf.gateways, GATEWAYS_WORK,
                                  "/mikura.internal.v1.Work/Finish", FINISH_ASK_MS, &req.base,
                                  &mikura__internal__v1__finish_response__descriptor, &a, &e);

        if (rc == RC_OK) {
            protobuf_c_message_free_unpacked(&a->base, NULL);
            return;
        }
        /* an election answers so too, for a while: believed when it is said again and again */
        if (rc == RC_PRECOND) refused++;
        if (refused == 5 || (rc != RC_PRECOND && rc != RC_UNAVAIL)) {
            log_warn("finish_refused", "task=%llu attempt=%u rc=%s why=%s",
                     (unsigned long long)r->task->task, r->task->attempt, rc_name(rc), e.msg);
            return;
        }
        fiber_sleep_ms(pause_ms);
        pause_ms = MIN(pause_ms * 2, (uint64_t)PAUSE_MAX_MS);
    }
}

static void task_run(struct slot *s, const Task *task, uint64_t pulled_ms)
{
    struct run r = {.w = s->w, .task = task, .model_fd = -1};
    struct fiber_group renewing = {0};
    uint64_t began = clock_boot_ms();

    r.lease_until_ms = pulled_ms + task->lease_ms;
    fiber_cond_init(&r.changed);
    arena_init(&r.arena);
    metric_add(&tasks_total, 1);
    s->run = &r;
    if (outcomes_make(&r) != RC_OK || fiber_group_spawn(&renewing, renew, &r) != RC_OK) {
        log_warn("task_dropped", "task=%llu why=no memory", (unsigned long long)task->task);
        goto out;
    }
    items_run(&r);
    runner_drop(&r);
    finish(&r);
    r.ended = true;
    fiber_cond_broadcast(&r.changed);
    fiber_group_wait(&renewing);
    log_info("task_end", "task=%llu attempt=%u items=%zu ms=%llu lost=%d",
             (unsigned long long)task->task, task->attempt, task->n_inputs,
             (unsigned long long)(clock_boot_ms() - began), r.lost);
out:
    s->run = NULL;
    if (r.model_fd >= 0) (void)close(r.model_fd);
    arena_deinit(&r.arena);
}

/* ---- slots ---- */
static enum rc pull(struct worker *w, Mikura__Internal__V1__PullResponse **ret, struct err *reterr)
{
    Mikura__Internal__V1__PullRequest req = MIKURA__INTERNAL__V1__PULL_REQUEST__INIT;
    char *device = (char *)(uintptr_t)w->conf.device;

    req.worker = (char *)(uintptr_t)w->conf.uri;
    req.zone = (char *)(uintptr_t)w->conf.zone;
    req.rack = (char *)(uintptr_t)w->conf.rack;
    req.host = (char *)(uintptr_t)w->conf.host;
    req.devices = &device;
    req.n_devices = 1;
    req.wait_ms = WORKER_POLL_MS;
    req.slots = w->conf.slots;
    return gateways_ask(w->conf.gateways, GATEWAYS_POLL, "/mikura.internal.v1.Work/Pull",
                        WORKER_POLL_MS + 5000, &req.base,
                        &mikura__internal__v1__pull_response__descriptor, ret, reterr);
}

static void slot_main(void *arg)
{
    struct slot *s = arg;
    struct worker *w = s->w;
    uint64_t pause_ms = PAUSE_MIN_MS;

    while (!w->stopping) {
        Mikura__Internal__V1__PullResponse *a = NULL;
        struct err e;
        enum rc rc = pull(w, &a, &e);

        if (rc == RC_OK) {
            pause_ms = PAUSE_MIN_MS;
            /* counted from the answer: it was handed out just before, after a poll of up to 10 s;
             * the first renewal, a third of the lease later, puts it right */
            if (a->task != NULL && !w->stopping) task_run(s, a->task, now_ms(w));
            protobuf_c_message_free_unpacked(&a->base, NULL);
            continue;
        }
        if (w->stopping) break;
        log_debug("pull_failed", "rc=%s why=%s", rc_name(rc), e.msg);
        (void)!fiber_cond_wait_ms(&w->stop, pause_ms);
        pause_ms = MIN(pause_ms * 2, (uint64_t)PAUSE_MAX_MS);
    }
}

enum rc worker_open(const struct worker_conf *conf, struct worker **ret_worker, struct err *reterr)
{
    struct worker *w = calloc(1, sizeof(*w));
    uint32_t started = 0;

    if (w == NULL) return err_set(reterr, RC_NOMEM, "worker");
    w->conf = *conf;
    w->slot = calloc(conf->slots, sizeof(*w->slot));
    fiber_cond_init(&w->stop);
    for (uint32_t i = 0; w->slot != NULL && i < conf->slots; i++) {
        w->slot[i].w = w;
        if (fiber_group_spawn(&w->slots, slot_main, &w->slot[i]) == RC_OK) started++;
    }
    if (started < conf->slots) {
        worker_close(w, /* grace_ms= */ 0);
        return err_set(reterr, RC_NOMEM, "%u slots", conf->slots);
    }
    *ret_worker = w;
    return RC_OK;
}

static bool any_run(const struct worker *w)
{
    for (uint32_t i = 0; i < w->conf.slots; i++)
        if (w->slot[i].run != NULL) return true;
    return false;
}

void worker_close(struct worker *w, uint64_t grace_ms)
{
    uint64_t until;

    if (w == NULL) return;
    until = now_ms(w) + grace_ms;
    w->stopping = true;
    gateways_cut(w->conf.gateways, GATEWAYS_POLL);
    fiber_cond_broadcast(&w->stop);
    while (w->slot != NULL && any_run(w) && now_ms(w) < until)
        (void)!fiber_cond_wait_ms(&w->stop, MIN(until - now_ms(w), 100)); /* looked at again */
    for (uint32_t i = 0; w->slot != NULL && i < w->conf.slots; i++)
        if (w->slot[i].run != NULL) run_lose(w->slot[i].run, "the worker stops");
    fiber_group_wait(&w->slots);
    free(w->slot);
    free(w);
}
