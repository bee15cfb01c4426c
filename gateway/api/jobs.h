/* gateway/api/jobs.h - what Jobs, Work and the scheduler's shell share.
 *
 * Rows are the truth (gateway/ingest/README.md): JOB, ITEM, TASK and RESULT lie in the job's group.
 * The gateway that is elected scheduler holds a view of the open jobs (scheduler_core) and hands
 * their tasks out; every other gateway only reads and writes rows and rings the bell, one etcd key
 * that the scheduler watches. */
#pragma once
#include "gateway/api/gw.h"
#include "gateway/scheduler/scheduler_core.h"
#include "proto/mikura/internal/v1/work.pb-c.h"
#include "proto/mikura/v1/jobs.pb-c.h"

#define JOBS_ITEMS_MAX 200000u /* of one job: their names are held while it is submitted */
#define JOBS_TASKS_MAX 8192u   /* open at once, of one job too: 4 KiB each in the scheduler */
/* Small objects lie in the hand-out itself: 24 x 64 KiB is less than a message's 2 MiB; and 24 x 16
 * bodies is less than a capability's 1,024. */
#define JOBS_TASK_ITEMS_MAX 24u
#define JOBS_TASK_BYTES_MAX (256u << 20)
/* Renew keeps a lease but carries no new capability: it must last for the longest task. */
#define JOBS_CAPABILITY_MARGIN_MS 3600000u

struct gw_jobs_conf {
    const char *address; /* what the election key says of the holder */
    uint32_t lease_ms;   /* of a task: a worker silent for so long has lost it */
};
/* Takes part in the election; gw->jobs is set. */
MUST_CHECK enum rc gw_jobs_open(struct gw *gw, const struct gw_jobs_conf *conf, struct err *reterr);
void gw_jobs_run(void *gw); /* a fiber; ends after gw_jobs_stop */
void gw_jobs_stop(struct gw *gw);
void gw_jobs_free(struct gw *gw); /* after gw_jobs_run has ended */

/* A job was submitted or cancelled here: the scheduler, wherever it runs, looks at its row. Best
 * effort: it also looks by itself once a minute. */
void gw_jobs_ring(struct gw *gw);
/* Wakes when a job may have changed; spurious. */
void gw_jobs_wait(struct gw *gw, uint64_t timeout_ms);

/* A job's row. RC_NOTFOUND. Slices live in the arena. */
struct gw_job {
    struct record_anchor anchor;
    struct route_at at;
    struct record_job rec;
    uint64_t version;
};
MUST_CHECK enum rc gw_job_read(struct gw *gw, const struct id128 *id, struct arena *a,
                               uint64_t left_ms, struct gw_job *ret, struct err *reterr);
/* The caller's own (operators: all). Somebody else's looks as if it were not there. */
MUST_CHECK enum rc gw_job_own(struct fcall *c, ProtobufCBinaryData id, struct arena *a,
                              struct gw_job *ret, struct err *reterr);
/* May the caller still read the item's collection? RC_DENIED. */
MUST_CHECK enum rc gw_item_allowed(struct fcall *c, const struct record_item *it,
                                   struct err *reterr);
/* Does the caller's attempt hold the item? By the TASK row, so that every gateway can tell;
 * *ret_same compares that row. RC_ABORTED, RC_NOTFOUND. */
MUST_CHECK enum rc gw_task_held(struct fcall *c, const struct gw_job *job, uint64_t task,
                                uint32_t attempt, uint32_t item, struct arena *a,
                                struct gw_compare *ret_same, struct err *reterr);
/* Writes the row if its version is still the one read; *ret_done says so. */
MUST_CHECK enum rc gw_job_write(struct gw *gw, const struct gw_job *job, struct arena *a,
                                uint64_t left_ms, bool *ret_done, uint64_t *ret_version,
                                struct err *reterr);
/* Newest first; after: names greater than it. each: RC_RANGE ends well. */
MUST_CHECK enum rc gw_job_each(struct gw *gw, const char *after, struct arena *a, uint64_t left_ms,
                               enum rc (*each)(void *arg, struct slice name,
                                               const struct id128 *id),
                               void *arg, struct err *reterr);
/* How many are queued or running. */
MUST_CHECK enum rc gw_jobs_open_n(struct gw *gw, uint64_t left_ms, uint32_t *ret_n,
                                  struct err *reterr);

/* ---- the scheduler's shell, for work.c ---- */
/* RC_PRECOND names the address of the gateway that is the scheduler; RC_UNAVAIL: none is elected,
 * or its rows are not read yet. */
MUST_CHECK enum rc gw_sched_ready(struct gw *gw, uint64_t left_ms, struct err *reterr);
/* One pull: HAND (ret filled, *ret_handed) or nothing for this worker now. The record is copied
 * into the arena. */
struct gw_hand {
    struct id128 job;
    uint64_t task;
    uint32_t attempt;
    uint64_t lease_ms;
    const struct record_task *record;
};
MUST_CHECK enum rc gw_sched_pull(struct gw *gw, const struct sched_worker_in *w, struct arena *a,
                                 struct gw_hand *ret, bool *ret_handed, struct err *reterr);
bool gw_sched_renew(struct gw *gw, const struct id128 *job, uint64_t task, uint32_t attempt);
/* results[i] belongs to outcomes[i]: a packed RESULT row, used when the core commits that item. */
MUST_CHECK enum rc gw_sched_finish(struct gw *gw, const struct id128 *job, uint64_t task,
                                   uint32_t attempt, const struct sched_item_outcome *outcomes,
                                   const struct slice *results, uint32_t n, struct arena *a,
                                   struct err *reterr);
