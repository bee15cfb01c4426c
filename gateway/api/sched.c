/* gateway/api/sched.c - the shell of scheduler_core: elections, rows in, transactions out.
 *
 * Only gw_jobs_run adds and removes jobs of the view; calls of workers come in between and each
 * names a task that nobody else touches until its transaction ended. Whatever is doubtful (a row
 * that changed under us, an outcome that stays unknown, a lost election) ends in one thing: forget
 * the view, read the rows again. `life` counts views, so that a transaction that was under way over
 * such a change is not told to the new view. */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "gateway/api/jobs.h"
#include "gateway/api/listing.h"
#include "gateway/manager/truth.h"
#include <stdio.h>
#include <stdlib.h>

#define TICK_MS      500u
#define PROGRESS_MS  1000u   /* a job's counters are written at most this often */
#define LOOK_MS      60000u  /* jobs whose bell was not heard */
#define SKEW_MS      600000u /* of gateways' clocks, at most: how far back a look goes */
#define HOLDER_MS    1000u   /* who the scheduler is, is asked at most this often */
#define TXN_TRIES    3u
#define VIEW_JOBS    1024u
#define VIEW_TASKS   JOBS_TASKS_MAX
#define VIEW_WORKERS 1024u

struct job_entry { /* an open job in the view */
    struct list link;
    struct id128 id;
    uint64_t bytes_read, written_ms;
    uint32_t done_written, aside_written;
    bool running_written, cancelled;
};
struct gw_jobs {
    struct gw *gw;
    char address[128];
    struct etcd_election *election;
    struct etcd_mirror *bell;
    bool elected, loaded, rung, stop, look_far;
    struct fiber_event wake;
    struct fiber_cond changed;
    struct sched_limits limits;
    void *mem;
    struct sched *core;
    uint64_t life, looked_ms;
    int64_t newest_ms; /* submission of the newest job seen */
    struct list jobs;
    char holder[128]; /* "" = nobody */
    uint64_t holder_ms;
};

static uint64_t now_ms(const struct gw *gw)
{
    return uv_now(gw->loop);
}

static void on_won(void *data, struct slice key, int64_t create_revision)
{
    struct gw_jobs *j = data;

    (void)create_revision; /* rows fence themselves: each is compared by version */
    j->elected = true;
    j->loaded = false;
    log_info("scheduler_elected", "key=%.*s", (int)key.n, (const char *)key.p);
    fiber_event_set(&j->wake);
}

static void forget_view(struct gw_jobs *j, const char *why)
{
    if (j->loaded) log_info("scheduler_view_dropped", "why=%s", why);
    j->loaded = false;
    j->life++;
    fiber_event_set(&j->wake);
    fiber_cond_broadcast(&j->changed);
}

static void on_lost(void *data)
{
    struct gw_jobs *j = data;

    j->elected = false;
    forget_view(j, "election lost");
}

static void on_bell(void *data, const struct etcd_kv *kv)
{
    struct gw_jobs *j = data;

    (void)kv;
    j->rung = true;
    fiber_event_set(&j->wake);
}
static void on_bell_synced(void *data, int64_t revision)
{
    (void)data;
    (void)revision;
}
static void on_bell_doubt(void *data, const struct err *e)
{
    struct gw_jobs *j = data;

    (void)e;
    j->rung = true; /* one may have been missed */
}

void gw_jobs_ring(struct gw *gw)
{
    struct gw_jobs *j = gw->jobs;
    struct id128 any = id128_random();
    char key[160], text[ID128_TEXT_BYTES];
    struct etcd_op put = {.kind = ETCD_PUT};
    struct etcd_txn t = {.then = &put, .then_n = 1};
    struct err err = {0};
    bool done;

    fiber_cond_broadcast(&j->changed);
    if (j->elected) {
        j->rung = true;
        fiber_event_set(&j->wake);
        return;
    }
    (void)snprintf(key, sizeof key, "/mikura/%s/bell/jobs", gw->cluster_name);
    put.key = gw_text(key);
    put.value = gw_text(id128_text(&any, text));
    if (truth_txn(gw->etcd, &t, &done, &err) != RC_OK)
        log_info("bell_not_rung", "why=%s: the scheduler looks once a minute", err.msg);
}

void gw_jobs_wait(struct gw *gw, uint64_t timeout_ms)
{
    /* woken or not: the caller looks again */
    (void)!fiber_cond_wait_ms(&gw->jobs->changed, timeout_ms);
}

/* ---- rows in ---- */
static struct job_entry *entry_of(struct gw_jobs *j, const struct id128 *id)
{
    LIST_FOREACH(it, &j->jobs)
    {
        struct job_entry *e = CONTAINER_OF(it, struct job_entry, link);

        if (id128_eq(&e->id, id)) return e;
    }
    return NULL;
}

static void entry_remove(struct gw_jobs *j, struct job_entry *e)
{
    sched_job_remove(j->core, &e->id);
    list_remove(&e->link);
    free(e);
}

static void entries_free(struct gw_jobs *j)
{
    LIST_FOREACH_SAFE(it, &j->jobs)
    {
        list_remove(it);
        free(CONTAINER_OF(it, struct job_entry, link));
    }
}

struct loading {
    struct gw_jobs *j;
    const struct gw_job *job;
    struct job_entry *e;
    struct record_task *row;
    uint64_t life;
    struct err err;
};

static enum rc load_task(void *arg, const Mikura__Internal__V1__Item *item)
{
    struct loading *l = arg;
    uint64_t task;
    enum rc rc = record_key_parse_number(gw_bytes(item->key), &task);

    if (rc != RC_OK) return rc;
    if (l->life != l->j->life) return RC_ABORTED;
    if (task >= l->job->rec.tasks) return RC_OK; /* of a submission that was begun again */
    rc = record_task_decode(gw_bytes(item->value), l->row, &l->err);
    if (rc == RC_OK)
        rc = sched_task_add(l->j->core, &l->job->rec.id, task, l->row, item->version,
                            now_ms(l->j->gw));
    if (rc == RC_OK && l->row->state == RECORD_TASK_DONE) l->e->bytes_read += l->row->bytes;
    return rc;
}

static uint64_t owner_number(struct slice owner)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a; a clash only makes two users share */

    for (size_t i = 0; i < owner.n; i++)
        h = (h ^ owner.p[i]) * 1099511628211u;
    return h == 0 ? 1 : h;
}

static enum rc load_job(struct gw_jobs *j, const struct gw_job *job, struct err *reterr)
{
    uint8_t from[RECORD_KEY_BYTES_MAX], until[RECORD_KEY_BYTES_MAX];
    struct sched_job_in in = {.id = job->rec.id,
                              .anchor = job->anchor,
                              .owner = owner_number(job->rec.owner),
                              .device = (enum sched_device)job->rec.device,
                              .order = (uint64_t)job->rec.submitted_unix_ms};
    struct loading l = {.j = j, .job = job, .life = j->life};
    size_t from_n, until_n;
    enum rc rc;

    l.e = calloc(1, sizeof *l.e);
    l.row = calloc(1, sizeof *l.row);
    if (l.e == NULL || l.row == NULL) {
        free(l.e);
        free(l.row);
        return err_set(reterr, RC_NOMEM, "a job");
    }
    l.e->id = job->rec.id;
    rc = sched_job_add(j->core, &in);
    if (rc != RC_OK) {
        free(l.e);
        free(l.row);
        return err_set(reterr, rc, "a job: %s", rc_text(rc));
    }
    list_push_back(&j->jobs, &l.e->link);
    from_n = record_key(&job->anchor, RECORD_TASK, from);
    memcpy(until, from, from_n);
    until_n = record_key_after(until, from_n);
    rc = route_scan(j->gw->route, job->at, (struct slice){from, from_n},
                    (struct slice){until, until_n}, 0, GW_CALL_MS, load_task, &l, reterr);
    if (rc != RC_OK && l.err.rc != RC_OK) *reterr = l.err;
    free(l.row);
    if (rc != RC_OK && l.life == j->life) entry_remove(j, l.e);
    return rc;
}

struct look {
    struct gw_jobs *j;
    uint64_t life;
    int64_t until_ms; /* older ones were seen */
    struct err err;
};

/* The submission time is in the name: its bits turned round, so that the newest comes first. */
static int64_t name_time(struct slice name)
{
    char hex[17] = {0};

    if (name.n < 16) return 0;
    memcpy(hex, name.p, 16);
    return (int64_t)~strtoull(hex, NULL, 16);
}

static enum rc look_job(void *arg, struct slice name, const struct id128 *id)
{
    struct look *k = arg;
    struct gw_jobs *j = k->j;
    struct gw_job job;
    struct arena a;
    enum rc rc;

    if (k->life != j->life || j->stop) return RC_RANGE;
    if (name_time(name) < k->until_ms) return RC_RANGE;
    if (entry_of(j, id) != NULL) return RC_OK;
    arena_init(&a);
    rc = gw_job_read(j->gw, id, &a, GW_CALL_MS, &job, &k->err);
    if (rc == RC_NOTFOUND)
        rc = RC_OK;
    else if (rc == RC_OK) {
        if (job.rec.submitted_unix_ms > j->newest_ms) j->newest_ms = job.rec.submitted_unix_ms;
        if (job.rec.state == MIKURA__V1__JOB_STATE__JOB_QUEUED ||
            job.rec.state == MIKURA__V1__JOB_STATE__JOB_RUNNING) {
            rc = load_job(j, &job, &k->err);
            if (rc == RC_BUSY) { /* the view is full: it waits in its rows */
                log_warn("scheduler_full", "jobs=%u tasks=%u", VIEW_JOBS, VIEW_TASKS);
                j->look_far = true;
                rc = RC_OK;
            }
        }
    }
    arena_deinit(&a);
    return rc;
}

/* New jobs; all of them the first time and after the view was full. */
static enum rc look_for_jobs(struct gw_jobs *j, bool all, struct err *reterr)
{
    struct look k = {.j = j, .life = j->life};
    struct arena a;
    enum rc rc;

    k.until_ms = all ? INT64_MIN : j->newest_ms - (int64_t)SKEW_MS;
    arena_init(&a);
    rc = gw_job_each(j->gw, "", &a, GW_CALL_MS, look_job, &k, reterr);
    if (rc != RC_OK && k.err.rc != RC_OK) *reterr = k.err;
    arena_deinit(&a);
    j->looked_ms = now_ms(j->gw);
    fiber_cond_broadcast(&j->changed);
    return rc;
}

static void load(struct gw_jobs *j)
{
    struct err err = {0};
    uint64_t life;
    enum rc rc;

    entries_free(j);
    if (j->mem == NULL) /* some 35 MB, in the elected gateway only */
        j->mem = aligned_alloc(16, ROUND_UP(sched_bytes(&j->limits), (size_t)16));
    if (j->mem == NULL) {
        log_error("scheduler_waits", "why=out of memory");
        return;
    }
    life = ++j->life;
    j->core = sched_init(j->mem, &j->limits);
    j->look_far = j->rung = false;
    rc = look_for_jobs(j, true, &err);
    if (rc != RC_OK) {
        log_info("scheduler_waits", "rc=%s why=%s", rc_name(rc), err.msg);
    } else if (life == j->life && j->elected) {
        j->loaded = true;
        log_info("scheduler_ready", "life=%llu", (unsigned long long)life);
        fiber_cond_broadcast(&j->changed);
    }
}

/* ---- transactions out ---- */
struct txn_results { /* RESULT rows by item */
    const struct sched_item_outcome *outcomes;
    const struct slice *rows;
    uint32_t n;
};

static enum rc lost_result(struct arena *a, uint32_t attempt, struct slice *ret, struct err *reterr)
{
    Mikura__V1__ItemResult m = MIKURA__V1__ITEM_RESULT__INIT;
    struct record_result rec = {.attempt = attempt};
    char reason[] = "set aside: the workers that computed it were lost three times";
    uint8_t *packed;

    m.set_aside_reason = reason;
    m.attempt = attempt;
    rec.reason = gw_text(reason);
    rec.detail.n = mikura__v1__item_result__get_packed_size(&m);
    packed = arena_alloc(a, rec.detail.n);
    if (packed == NULL) return err_set(reterr, RC_NOMEM, "a result");
    (void)mikura__v1__item_result__pack(&m, packed);
    rec.detail.p = packed;
    return GW_ENCODE(a, result, &rec, ret, reterr);
}

static enum rc result_put(const struct record_anchor *anchor, uint32_t item,
                          const struct txn_results *res, uint32_t attempt, struct arena *a,
                          struct gw_put *ret, struct err *reterr)
{
    uint8_t *key = arena_raw(a, RECORD_KEY_BYTES_MAX);

    if (key == NULL) return err_set(reterr, RC_NOMEM, "a result");
    ret->key = (struct slice){key, record_key_number(anchor, RECORD_RESULT, item, key)};
    for (uint32_t i = 0; res != NULL && i < res->n; i++) {
        if (res->outcomes[i].item != item) continue;
        ret->value = res->rows[i];
        return RC_OK;
    }
    return lost_result(a, attempt, &ret->value, reterr);
}

struct txn { /* a TXN action, copied before the wait */
    struct slice key, row;
    uint64_t version, bytes;
    uint32_t token, puts_n;
    bool task_done;
    struct id128 job;
    struct gw_put *puts;
};

static enum rc txn_copy(const struct sched_action *act, const struct txn_results *res,
                        struct arena *a, struct txn *t, struct record_anchor *anchor,
                        struct err *reterr)
{
    enum rc rc;

    *t = (struct txn){.version = act->version,
                      .token = act->token,
                      .job = act->job,
                      .bytes = act->record->bytes,
                      .task_done = act->record->state == RECORD_TASK_DONE};
    t->key = (struct slice){arena_copy(a, act->key.p, act->key.n), act->key.n};
    t->row = (struct slice){arena_copy(a, act->row.p, act->row.n), act->row.n};
    t->puts = arena_alloc(a, (1 + act->commits_n + act->asides_n) * sizeof *t->puts);
    if (t->key.p == NULL || t->row.p == NULL || t->puts == NULL)
        return err_set(reterr, RC_NOMEM, "a task's row");
    t->puts[t->puts_n++] = (struct gw_put){t->key, t->row};
    rc = anchor_job(&act->job, anchor);
    for (uint32_t i = 0; i < act->commits_n && rc == RC_OK; i++)
        rc = result_put(anchor, act->commits[i], res, act->record->attempt, a,
                        &t->puts[t->puts_n++], reterr);
    for (uint32_t i = 0; i < act->asides_n && rc == RC_OK; i++)
        rc = result_put(anchor, act->asides[i], res, act->record->attempt, a, &t->puts[t->puts_n++],
                        reterr);
    return rc;
}

/* Performs act and what follows from it, until it is HAND, DONE or NONE. A HAND's record is copied.
 */
static enum rc carry_out(struct gw *gw, struct sched_action *act, const struct txn_results *res,
                         struct arena *a, struct err *reterr)
{
    struct gw_jobs *j = gw->jobs;
    uint64_t life = j->life;

    for (uint32_t tries = 0; act->type == SCHED_ACT_TXN; tries++) {
        struct gw_compare same = {.kind = MIKURA__INTERNAL__V1__COMPARE_KIND__COMPARE_VERSION};
        struct record_anchor anchor;
        struct sched_action next = {.type = SCHED_ACT_NONE};
        struct job_entry *e;
        bool held = false;
        uint64_t version = 0;
        struct txn t;
        enum rc rc = txn_copy(act, res, a, &t, &anchor, reterr);

        if (rc != RC_OK || tries == TXN_TRIES) {
            forget_view(j, rc != RC_OK ? "no memory" : "an outcome stays unknown");
            return rc != RC_OK
                       ? rc
                       : err_set(reterr, RC_UNAVAIL, "the job's group does not answer; retry");
        }
        same.key = t.key;
        same.number = t.version;
        rc = gw_txn(gw, gw_at(gw, 0, &anchor), &same, 1, t.puts, t.puts_n, NULL, 0, a, GW_CALL_MS,
                    &held, &version, NULL, reterr);
        if (life != j->life)
            return err_set(reterr, RC_UNAVAIL, "the scheduler reads its rows again; retry");
        sched_txn_done(j->core, t.token, rc, held, version, now_ms(gw), &next);
        e = entry_of(j, &t.job);
        if (rc == RC_OK && held && t.task_done && e != NULL) e->bytes_read += t.bytes;
        *act = next;
        fiber_cond_broadcast(&j->changed);
    }
    if (act->type == SCHED_ACT_RESYNC) {
        forget_view(j, "rows changed under it");
        return err_set(reterr, RC_UNAVAIL, "the scheduler reads its rows again; retry");
    }
    if (act->job_ended) fiber_event_set(&j->wake);
    if (act->type == SCHED_ACT_HAND) {
        act->record = arena_copy(a, act->record, sizeof *act->record);
        if (act->record == NULL) return err_set(reterr, RC_NOMEM, "a task");
    }
    return RC_OK;
}

/* ---- for workers ---- */
static enum rc holder_read(struct gw *gw, struct err *reterr)
{
    struct gw_jobs *j = gw->jobs;
    struct etcd_kv *kvs;
    struct arena a;
    char prefix[160];
    uint32_t n, first = 0;
    enum rc rc;

    if (j->holder_ms != 0 && now_ms(gw) - j->holder_ms < HOLDER_MS) return RC_OK;
    arena_init(&a);
    (void)snprintf(prefix, sizeof prefix, "/mikura/%s/elect/scheduler/", gw->cluster_name);
    rc = truth_prefix(gw->etcd, prefix, &a, &kvs, &n, reterr);
    if (rc == RC_OK) {
        for (uint32_t i = 1; i < n; i++) {
            if (kvs[i].create_revision < kvs[first].create_revision) first = i;
        }
        (void)snprintf(j->holder, sizeof j->holder, "%.*s", n == 0 ? 0 : (int)kvs[first].value.n,
                       n == 0 ? "" : (const char *)kvs[first].value.p);
        j->holder_ms = now_ms(gw);
    }
    arena_deinit(&a);
    return rc;
}

enum rc gw_sched_ready(struct gw *gw, uint64_t left_ms, struct err *reterr)
{
    struct gw_jobs *j = gw->jobs;
    enum rc rc;

    (void)left_ms;
    if (j->elected && j->loaded) return RC_OK;
    if (j->elected) return err_set(reterr, RC_UNAVAIL, "the scheduler is reading its rows; retry");
    rc = holder_read(gw, reterr);
    if (rc != RC_OK) return rc;
    if (j->holder[0] == 0 || strcmp(j->holder, j->address) == 0)
        return err_set(reterr, RC_UNAVAIL, "no gateway is elected scheduler at this moment; retry");
    return err_set(reterr, RC_PRECOND, "the scheduler runs in the gateway at %s", j->holder);
}

enum rc gw_sched_pull(struct gw *gw, const struct sched_worker_in *w, struct arena *a,
                      struct gw_hand *ret, bool *ret_handed, struct err *reterr)
{
    struct gw_jobs *j = gw->jobs;
    struct sched_action act = {.type = SCHED_ACT_NONE};
    enum rc rc = sched_pull(j->core, w, now_ms(gw), &act);

    *ret_handed = false;
    if (rc == RC_BUSY) return RC_OK; /* its backlog is full: nothing for it now */
    if (rc != RC_OK) return err_set(reterr, rc, "a pull: %s", rc_text(rc));
    rc = carry_out(gw, &act, NULL, a, reterr);
    if (rc != RC_OK || act.type != SCHED_ACT_HAND) return rc;
    *ret = (struct gw_hand){act.job, act.task, act.attempt, act.lease_ms, act.record};
    *ret_handed = true;
    return RC_OK;
}

bool gw_sched_renew(struct gw *gw, const struct id128 *job, uint64_t task, uint32_t attempt)
{
    return sched_renew(gw->jobs->core, job, task, attempt, now_ms(gw));
}

enum rc gw_sched_finish(struct gw *gw, const struct id128 *job, uint64_t task, uint32_t attempt,
                        const struct sched_item_outcome *outcomes, const struct slice *results,
                        uint32_t n, struct arena *a, struct err *reterr)
{
    struct txn_results res = {outcomes, results, n};
    struct sched_action act = {.type = SCHED_ACT_NONE};
    enum rc rc = sched_finish(gw->jobs->core, job, task, attempt, outcomes, n, now_ms(gw), &act);

    if (rc == RC_PRECOND)
        return err_set(reterr, rc, "another attempt owns the task, or its job has ended");
    if (rc != RC_OK) return err_set(reterr, rc, "an outcome for an item that is not out");
    return carry_out(gw, &act, &res, a, reterr);
}

/* ---- the job's own row ---- */
static enum rc job_progress(struct gw_jobs *j, struct job_entry *e, struct arena *a,
                            struct err *reterr)
{
    struct sched_progress p;
    struct gw_job job;
    uint64_t life = j->life;
    bool done, ended;
    enum rc rc;

    if (!sched_progress(j->core, &e->id, &p)) return RC_OK;
    ended = p.ended || (e->cancelled && p.cancelled);
    if (!ended && e->done_written == p.items_done && e->aside_written == p.items_aside &&
        (e->running_written || (p.tasks_out == 0 && p.tasks_done == 0)) && !j->rung)
        return RC_OK;
    if (!ended && !j->rung && now_ms(j->gw) - e->written_ms < PROGRESS_MS) return RC_OK;
    rc = gw_job_read(j->gw, &e->id, a, GW_CALL_MS, &job, reterr);
    if (life != j->life) return rc;
    if (rc == RC_NOTFOUND) { /* cancelled and deleted while tasks were out */
        entry_remove(j, e);
        return RC_OK;
    }
    if (rc != RC_OK) return rc;
    if (job.rec.state == MIKURA__V1__JOB_STATE__JOB_CANCELLED && !e->cancelled) {
        e->cancelled = true;
        sched_cancel(j->core, &e->id);
    }
    if (!sched_progress(j->core, &e->id, &p)) return RC_OK;
    ended = p.ended || (e->cancelled && p.cancelled);
    job.rec.items_done = p.items_done;
    job.rec.items_set_aside = p.items_aside;
    job.rec.bytes_read = e->bytes_read;
    if (!e->cancelled && (p.tasks_out > 0 || p.tasks_done > 0))
        job.rec.state = MIKURA__V1__JOB_STATE__JOB_RUNNING;
    if (!e->cancelled && ended) {
        job.rec.state = MIKURA__V1__JOB_STATE__JOB_DONE;
        job.rec.ended_unix_ms = (int64_t)clock_wall_ms();
    }
    rc = gw_job_write(j->gw, &job, a, GW_CALL_MS, &done, NULL, reterr);
    if (rc != RC_OK || life != j->life || !done) return rc; /* not done: again at the next tick */
    e->done_written = p.items_done;
    e->aside_written = p.items_aside;
    e->running_written = job.rec.state != MIKURA__V1__JOB_STATE__JOB_QUEUED;
    e->written_ms = now_ms(j->gw);
    if (ended) {
        char id[ID128_TEXT_BYTES];

        log_info("job_ended", "job=%s state=%d done=%u set_aside=%u", id128_text(&e->id, id),
                 (int)job.rec.state, p.items_done, p.items_aside);
        entry_remove(j, e);
    }
    fiber_cond_broadcast(&j->changed);
    return RC_OK;
}

static void write_progress(struct gw_jobs *j)
{
    uint64_t life = j->life;
    struct list *next;

    for (struct list *it = j->jobs.next; it != &j->jobs && life == j->life; it = next) {
        struct err err = {0};
        struct arena a;
        enum rc rc;

        next = it->next; /* this fiber alone changes the list */
        arena_init(&a);
        rc = job_progress(j, CONTAINER_OF(it, struct job_entry, link), &a, &err);
        arena_deinit(&a);
        if (rc != RC_OK) log_info("job_row_waits", "rc=%s why=%s", rc_name(rc), err.msg);
    }
}

static void lost_leases(struct gw_jobs *j)
{
    uint64_t life = j->life;

    while (life == j->life && !j->stop) {
        struct sched_action act = {.type = SCHED_ACT_NONE};
        struct err err = {0};
        struct arena a;
        enum rc rc;

        sched_tick(j->core, now_ms(j->gw), &act);
        if (act.type == SCHED_ACT_NONE) return;
        log_info("lease_over", "task=%llu", (unsigned long long)act.task);
        arena_init(&a);
        rc = carry_out(j->gw, &act, NULL, &a, &err);
        arena_deinit(&a);
        if (rc != RC_OK) {
            log_warn("lease_over_waits", "rc=%s why=%s", rc_name(rc), err.msg);
            return;
        }
    }
}

void gw_jobs_run(void *arg)
{
    struct gw *gw = arg;
    struct gw_jobs *j = gw->jobs;

    while (!j->stop) {
        if (j->elected && !j->loaded) load(j);
        if (j->elected && j->loaded) {
            lost_leases(j);
            write_progress(j); /* with the bell: sees cancels */
        }
        if (j->elected && j->loaded && (j->rung || now_ms(gw) - j->looked_ms >= LOOK_MS)) {
            struct err err = {0};
            bool all = j->look_far;
            enum rc rc;

            j->rung = j->look_far = false;
            rc = look_for_jobs(j, all, &err);
            if (rc != RC_OK) {
                log_info("scheduler_looks_again", "rc=%s why=%s", rc_name(rc), err.msg);
                j->rung = true;
            }
        }
        (void)!fiber_event_wait_ms(&j->wake, TICK_MS); /* woken or not: look */
    }
}

enum rc gw_jobs_open(struct gw *gw, const struct gw_jobs_conf *conf, struct err *reterr)
{
    static const struct etcd_mirror_ops BELL = {on_bell, on_bell_synced, on_bell_doubt};
    struct gw_jobs *j = calloc(1, sizeof *j);
    char prefix[160];
    enum rc rc;

    if (j == NULL) return err_set(reterr, RC_NOMEM, "the scheduler");
    j->gw = gw;
    j->limits = (struct sched_limits){VIEW_JOBS, VIEW_TASKS, VIEW_WORKERS, conf->lease_ms};
    list_init(&j->jobs);
    fiber_cond_init(&j->changed);
    (void)snprintf(j->address, sizeof j->address, "%s", conf->address);
    gw->jobs = j;
    (void)snprintf(prefix, sizeof prefix, "/mikura/%s/bell/", gw->cluster_name);
    rc = etcd_mirror_open(gw->etcd, prefix, &BELL, j, &j->bell);
    (void)snprintf(prefix, sizeof prefix, "/mikura/%s/elect/scheduler", gw->cluster_name);
    if (rc == RC_OK)
        rc = etcd_election_open(gw->etcd, prefix, conf->address, on_won, on_lost, j, &j->election);
    return rc == RC_OK ? RC_OK : err_set(reterr, rc, "the scheduler's election");
}

void gw_jobs_stop(struct gw *gw)
{
    struct gw_jobs *j = gw->jobs;

    j->stop = true;
    j->elected = false;
    etcd_election_close(j->election);
    etcd_mirror_close(j->bell);
    forget_view(j, "stop");
}

void gw_jobs_free(struct gw *gw)
{
    struct gw_jobs *j = gw->jobs;

    if (j == NULL) return;
    entries_free(j);
    free(j->mem);
    free(j);
    gw->jobs = NULL;
}
